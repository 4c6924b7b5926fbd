"""The model card of an exported defense: what it is, how to load it, how it was trained, what the tables say of it, and what that is not worth."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.checks._grouping import title_of, words_of, worst_first
from sweeper.config import TrialConfig
from sweeper.lookup import find
from sweeper.ranking import short
from sweeper.recipes import Training
from sweeper.scorings import Row, Scoring
from sweeper.stored_plans import SELECTED
from sweeper.tables import markdown

THREATS = {
    "clean": "no attack",
    "graybox": "crafted on a classifier without the purifier, by an attacker who knows that classifier and not the purifier",
    "transfer": "crafted on other classifiers, by an attacker who knows nothing of this one",
    "adaptive": "crafted on the whole defense, by an attacker who knows everything and differentiates straight through what is quantized or rounded",
    "adaptive_bpda": "the same attacker, who takes the identity as the gradient of the purifier",
    "adaptive_soft": "the same attacker, who takes the gradient of a soft assignment over codes as that of the quantizers",
}
SPLITS = ("test", "validation")
_CITATION = (
    'He and Singhal, "VQUNet: Vector Quantization U-Net for Defending Adversarial Attacks by Regularizing Unwanted Noise", ICMVA 2024, '
    "[arXiv:2406.03117](https://arxiv.org/abs/2406.03117). No code was published with it; this network is our reading of the text."
)
_TRAIN_INPUTS = {
    "clean": "clean images",
    "gauss": "images with Gaussian noise of standard deviation {config.train_noise:g}",
    "adv": "images attacked by FGSM on the original target, epsilon up to {config.train_epsilon:g}",
    "mix": "a mix of clean images, images with Gaussian noise ({config.train_noise:g}) and images attacked by FGSM on the original target "
    "(epsilon up to {config.train_epsilon:g})",
}
_RETRAINED = {
    "finetune": "the original target, tuned on purified images",
    "scratch": "of the original target's architecture, trained from scratch on purified images",
    "mix": "the original target, tuned on images as they are and as purified",
}


def card(config: TrialConfig, trial: Row, exported: Mapping[str, Any], scorings: Sequence[Scoring], left_out: Sequence[str], folder: str) -> str:
    """Return README.md of an exported defense, Markdown.

    Args:
        trial: Its row of `trials`.
        exported: What config.json holds.
        scorings: What the tables say of it, as `scorings_of` returns it with what it left out.
        folder: The folder's name, as the lines to load it say.
    """
    parts = [
        f"# {_name(config.model)} before {_name(config.target.model)}, {_name(config.dataset)}",
        _what(config, trial, exported, scorings),
        "## Load it\n\n" + _how_to_load(exported, folder),
        "## Threat model\n\n" + _threat_model(scorings),
        "## How it was trained\n\n" + _recipe(config, trial, exported),
        *(_figures(split, [one for one in scorings if one.split == split]) for split in SPLITS),
        _left_out(scorings, left_out),
        "## Limits\n\n" + _limits(config, scorings),
        "## Licence\n\nNone is given here: that is for whoever publishes this folder to decide." + _of_data(config),
        f"## Citation\n\n{_CITATION}" if config.model == "vqunet" else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def how_to_load(folder: str) -> str:
    """Return the three lines that load a defense and use it."""
    return f"import sweeper\ndefense = sweeper.load_defense({json.dumps(folder, ensure_ascii=False)})\nprint(defense(images).argmax(1))"


def _name(model: str) -> str:
    return model.removeprefix("file:").partition("@")[0]  # the user's own file, without its hash


def _what(config: TrialConfig, trial: Row, exported: Mapping[str, Any], scorings: Sequence[Scoring]) -> str:
    final = _RETRAINED.get(config.retrain, "the original target, trained on clean images")
    own = [f"`sources/{model.removeprefix('file:')}.py`" for model in (config.model, config.target.model) if model.startswith("file:")]
    lines = [
        f"A defense against adversarial examples: the purifier `{_name(config.model)}` (image to image) before the classifier "
        f"`{_name(config.target.model)}` (image to logits), which is {final}.",
        f"Trial `{exported['trial_id']}`" + (f": {_label(scorings[0])}, seed {config.seed}." if scorings else f", seed {config.seed}."),
    ]
    if own:
        lines.append(f"The code of {' and '.join(own)} is its author's own.")
    if trial["parameters"]:
        lines.append(f"The purifier has {trial['parameters']:,} parameters.")
    return " ".join(lines)


def _label(scoring: Scoring) -> str:
    """Return the trial's label and sweep, without the folder that a file of the user's lay in."""
    return re.sub(r"(?<==)[^,=]*/(?=[^/,]+\.py)", "", f"`{scoring.planned['label']}` of the sweep {_name(scoring.planned['sweep'])}")


def _how_to_load(exported: Mapping[str, Any], folder: str) -> str:
    channels, height, width = exported["image_shape"]
    names = ", ".join(exported["class_names"])
    lines = [
        f"```python\n{how_to_load(folder)}\n```\n",
        f"`images`: float (N, {channels}, {height}, {width}) in [0, 1]; nothing else is to be normalized. What comes back: logits "
        f"(N, {exported['num_classes']})" + (f", of the classes {names}." if names else "."),
        "The parameters are frozen and gradients reach the images, so it can be attacked as it stands.",
    ]
    if exported["is_random"]:
        lines.append("**It draws at random**, from torch's global generator: asked again it gives other logits; attack it in expectation.")
    versions = exported["versions"]
    commit = f" (commit {exported['git_commit']})" if exported["git_commit"] else ""
    lines.append(f"It needs sweeper {versions['sweeper']}{commit} and was exported with torch {versions['torch']}.")
    return "\n".join(lines)


def _threat_model(scorings: Sequence[Scoring]) -> str:
    asked = {row["threat"] for one in scorings for row in one.scores}
    lines = ["Perturbations within an L-infinity ball; epsilon is the largest change of a pixel, in units of the pixel range [0, 1].", ""]
    lines += [f"- **{threat}**: {text}." for threat, text in THREATS.items() if threat in asked or not scorings]
    return "\n".join(
        [*lines, "", "Only the adaptive figures speak of robustness: the others say what the purifier does to perturbations not meant for it."]
    )


def _recipe(config: TrialConfig, trial: Row, exported: Mapping[str, Any]) -> str:
    trained = json.loads(trial["versions"] or "{}")
    images = "all training images" if config.train_images is None else f"at most {config.train_images:,} training images"
    lines = [f"- Data: {_name(config.dataset)}, {images}; fingerprint of all splits `{config.fingerprint[:16]}`."]
    options = f"options `{json.dumps(config.model_options, sort_keys=True)}`" if config.model_options else "no options"
    if config.network.is_trained:
        source = _TRAIN_INPUTS[config.train_input].format(config=config)
        lines.append(f"- Purifier `{_name(config.model)}`, {options}: {_training(config.training)}; learned from {source} towards the clean ones.")
    else:
        lines.append(f"- Purifier `{_name(config.model)}`, {options}: learns nothing.")
    target = config.target
    lines.append(
        f"- Original target `{_name(target.model)}`, options `{json.dumps(target.model_options, sort_keys=True)}`: {_training(target.training)}, "
        f"on clean images, seed {config.target_seed}."
    )
    if config.retrain != "none":
        against = "" if config.adversary == "none" else f", adversarially (`{config.adversary}`, epsilon {config.adversary_epsilon:g})"
        lines.append(f"- Final classifier: {_RETRAINED[config.retrain]}{against}: {_training(config.retrain_recipe)}.")
    else:
        lines.append("- Final classifier: the original target; it was not retrained.")
    lines.append(
        f"- Seed {config.seed}, scale {config.scale}, precision {config.numerics.precision}, {config.numerics.threads} thread(s), on "
        f"{trial['device'] or 'an unknown device'} with torch {trained.get('torch', 'of an unknown version')}"
        + (f", commit {trial['git_commit']}." if trial["git_commit"] else ".")
    )
    return "\n".join([*lines, "", f"`config.json` has all of it. Gradient through the purifier: {trial['gradient'] or 'not stated'}."])


def _training(recipe: Training) -> str:
    return (
        f"{recipe.num_epochs} epoch(s), batches of {recipe.batch_size}, {recipe.optimizer} with a learning rate up to {recipe.learning_rate:g} "
        f"({recipe.schedule}), weight decay {recipe.weight_decay:g}{', augmented' if recipe.augment else ''}"
    )


def _figures(split: str, scorings: Sequence[Scoring]) -> str:
    if not scorings:
        return ""
    lines = [f"## On the {split} images"]
    if split == "validation":
        lines.append("Validation images are there to choose by; what was chosen by them looks better on them than it is.")
    return "\n\n".join([*lines, *(text for one in scorings for text in _of_one(one))])


def _of_one(one: Scoring) -> list[str]:
    """Return the text of one evaluation: what sums it up, a table per threat, and the checks."""
    lines = [f"### Evaluation `{one.name}` ({one.evaluation_id[:12]}), {one.split} images", _summary(one)]
    for threat in THREATS:
        rows = [row for row in one.scores if row["threat"] == threat]
        if threat != "clean" and rows:
            lines += [f"Accuracy in % [95 % interval] under **{threat}** attacks, on n {one.split} images:", markdown(_curves(rows)), _settings(rows)]
    if one.distances:
        lines += ["Distance of images to the nearest adversarial one that was found:", markdown([_distance(row) for row in one.distances])]
    return [line for line in (*lines, _checks(one)) if line]


def _summary(one: Scoring) -> str:
    clean = [row for row in one.scores if row["threat"] == "clean"]
    clean.sort(key=lambda row: row["classifier"] == "unfiltered")
    rows = [
        {"figure": "clean accuracy" + (", target without the defense" if row["classifier"] == "unfiltered" else ""), **_percent(row)} for row in clean
    ]
    at = short(one.score_epsilon)
    if one.worst_case:
        value, low, high, n = one.worst_case
        name = f"accuracy at epsilon {at} under all adaptive attacks, image by image"
        rows.append({"figure": name, **_percent({"accuracy": value, "ci_low": low, "ci_high": high, "n": n})})
    if "robust_score" in one.figures:
        low, high = one.figures["_robust_score_ci"]
        n = one.worst_case[-1] if one.worst_case else None
        name = f"robust_score: mean of that accuracy over epsilon from 0 to {at}"
        rows.append({"figure": name, **_percent({"accuracy": one.figures["robust_score"], "ci_low": low, "ci_high": high, "n": n})})
    return markdown(rows)


def _percent(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"% [95 % interval]": _interval(row), "n": row["n"]}


def _interval(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def _curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row per attack and what it was crafted on, one column per epsilon."""
    epsilons = sorted({row["epsilon"] for row in rows})
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["attack"], row["source"])):
        curves.setdefault((row["attack"], row["source"]), []).append(row)
    found = []
    for (attack, source), points in curves.items():
        at = {row["epsilon"]: _interval(row) for row in points}
        found.append({"attack": attack, "crafted on": _name(source), "n": points[0]["n"]} | {f"epsilon {short(e)}": at.get(e, "") for e in epsilons})
    return found


def _distance(row: Row) -> dict[str, Any]:
    median = f"{row['median']:.3f}" if math.isfinite(row["median"]) else "none for half of them"
    return {"threat": row["threat"], "attack": row["attack"], "norm": row["norm"], "n": row["n"], "found": row["found"], "median": median}


def _settings(rows: Sequence[Row]) -> str:
    """Return each attack's options as stored."""
    known = {row["attack"]: json.loads(row["attack_settings"])["options"] for row in rows if row["attack_settings"]}
    return "\n".join(f"- `{attack}`: `{json.dumps(options, sort_keys=True)}`" for attack, options in sorted(known.items()) if options)


def _checks(one: Scoring) -> str:
    asked = worst_first([result for result in one.checks if result.kind == "validity" and result.outcome != "not_applicable"])
    rows = [{"outcome": words_of(result.outcome), "check": result.check, "asks": title_of(result.check), "finds": result.message} for result in asked]
    failed = "**It fails a validity check, so these figures are not to be believed.** " if any(one.outcome == "fail" for one in asked) else ""
    return f"{failed}A reviewer's validity checks, the worst first; those that do not apply are left out:\n\n{markdown(rows)}"


def _left_out(scorings: Sequence[Scoring], left_out: Sequence[str]) -> str:
    lines = [] if scorings else ["## Figures\n\nThe tables have none to report."]
    return "\n\n".join([*lines, *(["Left out above. " + " ".join(left_out)] if left_out else [])])


def _limits(config: TrialConfig, scorings: Sequence[Scoring]) -> str:
    lines = [
        "Accuracy under an attack is an upper bound of robustness, never a proof: a stronger attack may leave less.",
        f"Everything holds for this one target (target_seed {config.target_seed}), and for this one checkpoint: intervals are over images, and "
        "another training seed can move a figure by tens of points.",
        f"It was trained and scored on {_name(config.dataset)} alone; nothing is known of other images.",
    ]
    for one in scorings:
        chosen = next((result for result in one.checks if result.check == "C34" and result.outcome == "warn"), None)
        if chosen:
            lines.append(f"Evaluation {one.evaluation_id[:12]}: {chosen.message}.")
        elif one.split == "test" and one.beside and not one.planned["sweep"].endswith(SELECTED):
            lines.append(
                f"Evaluation {one.evaluation_id[:12]} scored {one.beside} other variant(s) on the same test images. If this one was chosen by those "
                "figures, they flatter it."
            )
    return "\n".join(f"- {line}" for line in lines)


def _of_data(config: TrialConfig) -> str:
    module = find("datasets", config.dataset)
    source, licence = getattr(module, "SOURCE", None), getattr(module, "LICENCE", None)
    return f" The images that it learned from: {source}, {licence}." if source and licence else ""
