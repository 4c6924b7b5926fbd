"""What a reader must know first: on what data and at what scale, what is missing, and who the attackers are."""

from sweeper.report.naming import Systems, attack_name, configuration, dataset_name, epsilon_name, fingerprint
from sweeper.report.trials import ADAPTIVE, Material
from sweeper.storage.place import without_passwords

GUIDE = (
    "Gray-box: the attacker knows the target classifier and not the purifier; all defenses that share a target face the very same images "
    "(but for victim=retrained, where each is attacked through its own retrained classifier). "
    "Transfer: the attacker knows neither, and attacks other classifiers (DenseNets). The paper pools the two, half of the images each, and calls "
    "them white-box and black-box: no attacker of Figure 2 ever differentiates through a purifier.",
    "Adaptive: the attacker knows the whole defense and differentiates through it, straight through the quantizers and with the gradient of a "
    "soft assignment over their codes. This is the figure that a defense is judged by; a defense that keeps its gray-box accuracy and loses its "
    "adaptive accuracy hides the target's gradient and no more. The robust score is the mean of that curve from epsilon 0 to score_epsilon.",
    "Controls that do nothing to the image (the retrained target alone) or next to nothing (a blur) stand beside every system: what they reach too "
    "is no merit of a purifier.",
)


def statement(material: Material) -> str:
    """Return data set and scale in one plain sentence, which figures repeat."""
    images = num_images(material)
    seeds = sorted({len(variant.trials) for variant in material.variants if variant.trials})
    words = f"{dataset_name(material)}, scale {material.scale}"
    if images:
        words += f", {images:,} {material.split} images"
    words += f", {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}" if seeds else ", no completed trial"
    words += f", target {_target(material)}." if material.trials else "."
    if material.scale != "paper" or material.dataset == "digits" or dataset_name(material) == "CIFAR-10-JPEG":
        words += " Not the paper's data and scale."
    return words


def num_images(material: Material) -> int:
    return max((share.size for trial in material.trials if (share := trial.clean()) is not None), default=0)


def facts(material: Material, root: str) -> tuple[tuple[str, str], ...]:
    """Return name and value of what the figures are conditional on."""
    trials = material.trials
    config = configuration(trials[0].settings) if trials else {}
    trained = config.get("train_images")
    ended = [f"{trial.settings['ended']:%Y-%m-%d %H:%M} UTC" for trial in trials if trial.settings.get("ended")]
    target_seeds = sorted({trial.settings["target_seed"] for trial in trials})
    return (
        ("data set", dataset_name(material) + (f", fingerprint {found[:16]}" if (found := fingerprint(material)) else "")),
        ("scale", material.scale),
        ("training images", f"at most {trained:,}" if trained else "all that are not held out for validation"),
        (f"{material.split} images", f"{num_images(material):,}"),
        ("target", f"{_target(material)}, target_seed {', '.join(map(str, target_seeds)) or 'unknown'}"),
        ("seeds", ", ".join(map(str, sorted({trial.seed for trial in trials}))) or "none completed"),
        ("evaluation", f"{material.evaluation}; {_attacks(material)}"),
        ("score_epsilon", epsilon_name(material.score_epsilon)),
        ("trials", f"{len(trials)} of {sum(len(variant.planned_seeds) for variant in material.variants)} completed"),
        ("plan", f"{material.sweep} {material.plan_hash[:12]} under {root}"),
        ("commands", "; ".join(dict.fromkeys(without_passwords(run["command"]) for run in material.runs)) or "unknown"),
        ("device", _values(material, "device")),
        ("code", _values(material, "git_commit")),
        ("last trial ended", max(ended, default="unknown")),
    )


def warnings(material: Material, systems: Systems) -> tuple[str, ...]:
    """Return what is missing or weaker than it looks, the gravest first."""
    found = []
    if material.troubles:
        found.append(
            f"{len(material.troubles)} trials are missing or failed; the same `run` again makes what is missing: {'; '.join(material.troubles)}"
        )
    if material.split != "test":
        found.append(
            f"Everything is scored on the {material.split} images, which are there to choose variants by: no figure here is one of the test images."
        )
    if material.evaluation == "quick":
        found.append(
            "The evaluation is `quick`, which prunes searches: few images, one gray-box and one adaptive attack. It ranks and proves nothing."
        )
    if unranked := [system.name for system in systems.all if system.variant.failed]:
        found.append(f"A validity check fails, so these are unranked and their figures not to be believed: {', '.join(unranked)}. See Checks.")
    if empty := [variant.label for variant in material.variants if not variant.trials]:
        found.append(f"No completed trial, so in no table and no figure: {', '.join(empty)}.")
    if one := [system.name for system in systems.all if len(system.variant.trials) == 1]:
        found.append(f"One seed, so nothing is tested between settings: {', '.join(one) if len(one) < len(systems.all) else 'all systems'}.")
    name = dataset_name(material)
    if name.startswith("CIFAR-10 (copy"):
        found.append(
            "The copy of CIFAR-10 was not recognized by its fingerprint: these may be figures on recompressed images. Quote them as figures on "
            "CIFAR-10 only if `data` finds the official files."
        )
    if name == "CIFAR-10-JPEG":
        found.append("CIFAR-10-JPEG: every image went through JPEG compression. No figure here is a figure on CIFAR-10.")
    if material.trials and not systems.undefended:
        found.append("No completed trial of model identity with retrain none: the accuracy without defense is not in the figures.")
    return (*found, *(f"Left out: {problem}" for problem in material.skipped))


def not_of_the_paper(material: Material, systems: Systems) -> str:
    """Return why the paper's own tables are missing, empty where they are there."""
    if systems.is_paper:
        return ""
    return (
        f"The sweep {material.sweep} has no completed VQUNet beside a completed baseline of the paper, so there are no fairness tables and no "
        "comparison with Table 1 and Figure 2 of the paper: its variants are shown by their labels. `run paper` makes what is missing."
    )


def _values(material: Material, column: str) -> str:
    return ", ".join(sorted({str(trial.settings[column]) for trial in material.trials if trial.settings.get(column)})) or "unknown"


def _target(material: Material) -> str:
    target = next((configuration(trial.settings).get("target") for trial in material.trials), None) or {}
    options, model = target.get("model_options", {}), str(target.get("model", "unknown"))
    sizes = [str(options[key]) for key in ("depth", "width") if key in options]
    return "-".join(["WRN" if model == "wide_resnet" else model, *sizes])


def _attacks(material: Material) -> str:
    counts: dict[tuple[bool, str, str], set[int]] = {}
    for score in (score for trial in material.trials for score in trial.scores if score.threat != "clean"):
        counts.setdefault((score.threat not in ADAPTIVE, score.threat, score.attack), set()).add(len(score.outcomes))
    words = [f"{threat} {attack_name(attack)} on {'/'.join(map(str, sorted(found)))}" for (_, threat, attack), found in sorted(counts.items())]
    return ", ".join(words) or "no attack"
