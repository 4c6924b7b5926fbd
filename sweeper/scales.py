"""Defaults per data set and scale: the trial's settings, and the evaluations `quick` and `standard`.

`small` is for a CPU, `medium` for one GPU, `paper` for the paper's own sizes. The figures behind the small scale are in docs/design.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from attacks._autoattack import NAMES as AUTOATTACK_PARTS
from attacks._linf import check_count
from sweeper.config import Classifier
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.lookup import adopt, nearest
from sweeper.options import ADAPTIVE, attack_options, check_epsilons, check_scorable, explain, measures_distance
from sweeper.recipes import Training

SCALES = ("small", "medium", "paper")
EVALUATIONS = ("quick", "standard", "full")
# What every defense is attacked by. Straight-through gradients mislead behind a codebook, so those of a soft assignment get the second start.
NATIVE: dict[str, dict[str, Any]] = {"adaptive": {}, "adaptive_soft": {"num_restarts": 2}}
SUBSET = 240  # images of the costly attacks, stratified by class

# Attack, images (None: all), options. CleverHans 2.1.0: BIM 10 steps of 0.05, PGD (its MadryEtAl) 40 of 0.01, CW-L2 without an epsilon, whose
# perturbation is clipped to the ball; all lead away from the predicted class.
PRESETS: dict[str, list[tuple[str, int | None, dict[str, Any]]]] = {
    "ours": [("fgsm", None, {}), ("bim", None, {}), ("pgd", None, {}), ("cw", SUBSET, {})],
    "cleverhans": [
        ("fgsm", None, {}),
        ("bim", None, {"num_steps": 10, "step_size_rule": "fixed", "step_size": 0.05}),
        ("pgd", None, {"num_steps": 40, "step_size_rule": "fixed", "step_size": 0.01}),
        ("cw_l2", SUBSET, {}),
    ],
}

# Where a baseline's source prescribes another training than VQUNet's (docs and sources in its own file).
_TRAINING: dict[str, dict[str, Any]] = {
    "defense_vae": {"learning_rate": 5e-4},
    "hfl_vae": {"learning_rate": 5e-4},
    "defense_cyclegan": {"learning_rate": 2e-4, "schedule": "linear", "batch_size": 64},
    "ape_gan": {"learning_rate": 2e-4, "schedule": "constant"},
    "guided_denoiser": {"learning_rate": 1e-2, "batch_size": 32},
    "comdefend": {"learning_rate": 1e-2},
    "denoising_autoencoder": {"learning_rate": 1e-3, "schedule": "constant", "batch_size": 256},
}

# At `small`: a quarter of the VAEs' widths, and so on; each learning rate and number of epochs is where the network has left its plateau on digits.
_SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "defense_vae": {"width": 16, "latent_dim": 32},
    "hfl_vae": {"width": 16, "latent_dim": 32},
    "defense_cyclegan": {"width": 8, "num_blocks": 2, "discriminator_width": 16},
    "denoising_autoencoder": {"widths": [16, 16], "pooling": "average"},
    "vq_vae": {"width": 32, "residual_width": 8, "codebook_size": 64, "code_dim": 16, "revive": True},
    "ape_gan": {"width": 16, "discriminator_width": 16},
    "guided_denoiser": {"width": 8, "depth": 3},
    "comdefend": {"width": 4},
}
_SMALL_TRAINING: dict[str, dict[str, Any]] = {
    "defense_vae": {"num_epochs": 20, "learning_rate": 1e-2},
    "hfl_vae": {"num_epochs": 20, "learning_rate": 1e-2},
    "defense_cyclegan": {"num_epochs": 15, "learning_rate": 2e-3},
    "comdefend": {"learning_rate": 3e-3},
    "denoising_autoencoder": {"learning_rate": 2e-2},
}

# Every adaptive attacker, on all test images: more steps and restarts, other losses, other gradients through the purifier, AutoAttack's four parts,
# and the L2 distances of Carlini and Wagner.
_FULL: list[tuple[str, str, dict[str, Any]]] = [
    ("adaptive", "pgd", {"num_steps": 50, "num_restarts": 5}),
    ("adaptive", "pgd", {"num_steps": 50, "num_restarts": 5, "loss": "ce"}),
    ("adaptive_bpda", "pgd", {"num_steps": 50}),
    ("adaptive_soft", "pgd", {"num_steps": 50, "num_restarts": 5}),
    ("adaptive", "code_flip", {"num_steps": 50}),
    ("adaptive", "apgd_ce", {}),
    ("adaptive", "apgd_t", {}),
    ("adaptive", "fab_t", {}),
    ("adaptive", "square", {}),
    ("adaptive", "cw_l2", {}),  # `_DISTANCE_SEARCH` at small
]

_SHORT_SEARCH = {"num_steps": 100, "learning_rate": 0.05}  # as strong as its 1,000 steps of 0.005 (attacks/cw_l2.py), at a seventh of the cost
# A short search succeeds as often, but not as near. Median distance of 24 digits under a small VQUNet, and seconds on one core: 1,000 steps of 0.005
# 0.271 in 99, 400 of 0.01 0.271 in 29 (the upper quartile 0.41 instead of 0.37), 200 of 0.02 0.343 in 16, 100 of 0.05 0.333 in 9.
_DISTANCE_SEARCH = {"num_steps": 400, "learning_rate": 0.01}

_GRAYSCALE = {"digits", "fashion_mnist"}


def trial_defaults(dataset: str, scale: str) -> dict[str, Any]:
    """Return the nested defaults of a trial; `resolve` lays a variant's settings over them."""
    static, _, score_epsilon = epsilon_grids(dataset, scale)
    radii = {"train_epsilon": static[-1], "adversary_epsilon": score_epsilon}
    if scale == "small":
        return _small(dataset) | radii
    train = {"optimizer": "adam", "schedule": "cosine", "learning_rate": 3e-4, "batch_size": 128}
    finetune = {"optimizer": "sgd", "schedule": "cosine", "learning_rate": 0.01, "batch_size": 128, "weight_decay": 5e-4, "augment": True}
    epochs, retrain_epochs, target_epochs = (40, 5, 15) if scale == "medium" else (100, 15, 60)
    return {
        "dataset": dataset,
        "scale": scale,
        "train_images": None,
        "validation_images": None,
        "test_images": 2000 if scale == "medium" else None,
        "options_by_model": {"*": {"depth": 4, "base_width": 32, "codebook_size": 512}},
        "training": train | {"num_epochs": epochs},
        "training_by_model": _TRAINING,
        "target": _classifier("wide_resnet", {"depth": 28, "width": 10}, finetune | {"learning_rate": 0.1, "num_epochs": target_epochs}),
        "retraining": finetune | {"num_epochs": retrain_epochs},
        "numerics": {"threads": 4, "precision": "bf16"},
        **radii,
    }


def _small(dataset: str) -> dict[str, Any]:
    digits = dataset == "digits"
    caps = (None, None, None) if digits else (5000, 500, 500)
    adamw = {"optimizer": "adamw", "learning_rate": 2e-3, "batch_size": 128, "weight_decay": 1e-2}
    return {
        "dataset": dataset,
        "scale": "small",
        "train_images": caps[0],
        "validation_images": caps[1],
        "test_images": caps[2],
        "options_by_model": _SMALL_OPTIONS | {"*": {"depth": 3, "base_width": 4 if digits else 8, "codebook_size": 64}},
        "training": {"num_epochs": 10 if digits else 6, "batch_size": 64, "learning_rate": 4e-3},
        "training_by_model": {model: recipe if digits else _shortened(recipe) for model, recipe in _SMALL_TRAINING.items()},
        "target": _classifier("wide_resnet", {"depth": 10, "width": 1 if digits else 2, "stem_stride": 2}, adamw | {"num_epochs": 12}),
        "retraining": adamw | {"num_epochs": 4, "batch_size": 64, "learning_rate": 1e-3},
        "numerics": {"threads": 1, "precision": "fp32"},
    }


def _shortened(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe for 5,000 photographs instead of 1,037 digits: three fifths of the epochs, as VQUNet's 6 instead of 10."""
    return recipe | ({"num_epochs": recipe["num_epochs"] * 3 // 5} if "num_epochs" in recipe else {})


def _classifier(model: str, options: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "model_options": options, "training": training}


def transfer_sources(scale: str) -> tuple[Classifier, ...]:
    """Return the three DenseNets that transfer attacks are crafted on, different in depth, growth and bottleneck."""
    if scale == "small":
        training = Training(num_epochs=12, batch_size=64, learning_rate=2e-3, optimizer="adamw", weight_decay=1e-2)
        common = {"stem_stride": 2, "stem": 16}
        options: list[dict[str, Any]] = [
            {"depth": 10, "growth": 8, "bottleneck": False, "compression": 1.0, **common},
            {"depth": 16, "growth": 8, "bottleneck": True, "compression": 0.5, **common},
            {"depth": 13, "growth": 12, "bottleneck": False, "compression": 0.5, **common},
        ]
    else:
        epochs = 15 if scale == "medium" else 60
        training = Training(num_epochs=epochs, batch_size=64, learning_rate=0.1, optimizer="sgd", schedule="cosine", weight_decay=1e-4, augment=True)
        plain = {"depth": 40, "growth": 12, "bottleneck": False, "compression": 1.0, "stem": 16}
        if scale == "medium":
            options = [
                {"depth": 40, "growth": 12, "bottleneck": True, "compression": 0.5, "stem": 24},
                {"depth": 64, "growth": 12, "bottleneck": True, "compression": 0.5, "stem": 24},
                plain,
            ]
        else:
            options = [
                plain,
                {"depth": 100, "growth": 12, "bottleneck": True, "compression": 0.5, "stem": 24},
                {"block_layers": (6, 12, 24, 16), "growth": 32, "bottleneck": True, "compression": 0.5, "stem": 64},
            ]
    return tuple(Classifier(model="densenet", model_options=option, training=training) for option in options)


def epsilon_grids(dataset: str, scale: str) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return the epsilons of gray-box and transfer attacks, those of adaptive attacks, and `score_epsilon`."""
    if dataset in _GRAYSCALE:
        adaptive = (0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.3)
        if dataset == "digits":
            return (0.05, 0.1, 0.2, 0.3), adaptive, 0.1
        static = (0.02, 0.05, 0.1, 0.2, 0.3) if scale == "small" else (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
        return static, adaptive, 0.1
    levels = (2, 4, 8, 16) if scale == "small" else (1, 2, 4, 8, 12, 16, 24, 32)
    return tuple(e / 255 for e in levels), tuple(e / 255 for e in (0.5, 1, 2, 4, 8, 32)), 8 / 255


def evaluation(
    name: str,
    dataset: str,
    scale: str,
    extra: Iterable[Mapping[str, Any]] = (),
    epsilons: tuple[float, ...] | None = None,
    *,
    victim: str = "original",
    mix: str | None = None,
    attack_preset: str = "ours",
    num_eot_samples: int = 1,
    split: str = "test",
) -> EvaluationConfig:
    """Return the evaluation of that name with a search space's extra attacks.

    Args:
        epsilons: Another grid for gray-box and transfer attacks.
        victim: What gray-box images are crafted on: `original`, or `retrained`, each trial's own retrained classifier (nothing is shared then).
        mix: `split`: each image is crafted on one of the transfer sources; `full`: every image on each of them, a set of rows per source. None:
            `full` in the full evaluation.
        attack_preset: `ours`, or `cleverhans`: the steps and the labels of CleverHans 2.1.0, the version that the VQUNet paper cites; its CW with
            100 steps of 0.05 in place of 1,000 of 0.005 at `small`.
        num_eot_samples: For random defenses: passes that every adaptive `pgd` averages over, unless its own options say how many; more than 1 also
            means that an image is judged by the majority of ten evaluations. See `attacks/_ascending.py`.
        split: `test`, or `validation`: the images that sets are crafted from and defenses are scored on.
        extra: Further attacks, `{"attack": "torchattacks:MIFGSM", "options": {...}, "threats": ["graybox", "transfer"]}`;
            `epsilons` and `images` may be given too.

    Raises:
        ValueError: If a name, an option or an epsilon is unusable.
    """
    mix = mix or ("full" if name == "full" else "split")
    for setting, value, choices in (
        ("evaluation", name, EVALUATIONS),
        ("victim", victim, ("original", "retrained")),
        ("mix", mix, ("split", "full")),
        ("attack_preset", attack_preset, tuple(PRESETS)),
        ("split", split, ("test", "validation")),
    ):
        if value not in choices:
            raise ValueError(f"no {setting} named {value!r}{nearest(str(value), choices)}; available: {', '.join(choices)}")
    check_count("num_eot_samples", num_eot_samples)
    expectation = {"num_eot_samples": num_eot_samples}  # of the native adaptive attacker, under its own options
    static, adaptive, score_epsilon = epsilon_grids(dataset, scale)
    static = static if epsilons is None else check_epsilons(epsilons)
    cells = [Cell(threat="clean", attack="none")]
    adaptive_images = {"quick": 64, "standard": SUBSET, "full": None}[name]
    if name == "quick":
        middle = (static[max(0, len(static) // 2 - 1)],)
        cells.append(_cell("graybox", "pgd", middle, 64))
        scored = tuple(e for e in adaptive if e <= score_epsilon)
        cells += [_cell(threat, "pgd", scored, adaptive_images, expectation | {"num_steps": 10}) for threat in NATIVE]
    else:
        for threat in ("graybox", "transfer"):
            for attack, images, options in PRESETS[attack_preset]:
                cells.append(_cell(threat, attack, static, None if name == "full" else images, _affordable(threat, attack, options, scale)))
        if name == "full":
            for threat, attack, options in _FULL:
                given = (expectation if attack == "pgd" else {}) | _affordable(threat, attack, options, scale)
                cells.append(_cell(threat, attack, adaptive, None, given))
        else:
            cells += [_cell(threat, "pgd", adaptive, adaptive_images, expectation | options) for threat, options in NATIVE.items()]
    for entry in extra:
        cells += [cell for cell in _extra(entry, static, adaptive, adaptive_images, expectation) if cell not in cells]
    sources = transfer_sources(scale) if any(cell.threat == "transfer" for cell in cells) else ()
    labels = "predicted" if attack_preset == "cleverhans" else "true"
    cells = [
        cell.model_copy(update={"labels": labels} | ({"victim": victim} if cell.threat == "graybox" else {"source": source}))
        if cell.threat in ("graybox", "transfer")
        else cell
        for cell in cells
        for source in (range(len(sources)) if mix == "full" and cell.threat == "transfer" else [None])
    ]
    return EvaluationConfig(
        name=name,  # pyright: ignore[reportArgumentType]
        cells=tuple(cells),
        sources=sources,
        split=split,  # pyright: ignore[reportArgumentType]
        score_epsilon=score_epsilon,
    )


def _affordable(threat: str, attack: str, options: dict[str, Any], scale: str) -> dict[str, Any]:
    if attack != "cw_l2" or scale != "small":
        return options
    return _DISTANCE_SEARCH if measures_distance(attack, threat) else _SHORT_SEARCH


def _cell(threat: str, attack: str, epsilons: tuple[float, ...], images: int | None, options: Mapping[str, Any] | None = None) -> Cell:
    attack = adopt(attack) if attack.endswith(".py") else attack  # its content enters the keys
    complete = attack_options(attack, threat, options or {})
    epsilons = (0.0,) if measures_distance(attack, threat) else epsilons
    try:
        return Cell(threat=threat, attack=attack, options=complete, epsilons=epsilons, images=images)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise ValueError(explain(error, list(Cell.model_fields), "attack setting")) from None


def _extra(
    entry: Mapping[str, Any], static: tuple[float, ...], adaptive: tuple[float, ...], adaptive_images: int | None, expectation: Mapping[str, Any]
) -> list[Cell]:
    known = {"attack", "options", "threats", "epsilons", "images"}
    if unknown := set(entry) - known:
        raise ValueError(f"unknown attack setting {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    if "attack" not in entry:
        raise ValueError(f"an extra attack needs a name under 'attack', got {dict(entry)!r}")
    threats = entry.get("threats", ("graybox", "transfer"))
    if entry["attack"] == "autoattack":  # the union of four, each with rows of its own
        if entry.get("options") or not set(threats) <= set(ADAPTIVE):
            raise ValueError(
                f"autoattack is run at its own settings, under {', '.join(ADAPTIVE)}; "
                f"got options {entry.get('options') or {}}, threats {list(threats)}"
            )
        parts = [_extra({**entry, "attack": name}, static, adaptive, adaptive_images, expectation) for name in AUTOATTACK_PARTS]
        return [cell for cells in parts for cell in cells]
    if unusable := set(threats) - {"graybox", "transfer", *ADAPTIVE}:
        known_threats = ", ".join(("graybox", "transfer", *ADAPTIVE))
        raise ValueError(f"an extra attack's threats must be of {known_threats}, got {sorted(unusable)[0]!r}")
    grids = {threat: tuple(entry.get("epsilons", adaptive if threat in ADAPTIVE else static)) for threat in threats}
    if set(threats) & set(ADAPTIVE) and entry.get("images", adaptive_images) != adaptive_images:
        raise ValueError(
            f"an extra adaptive attack is run on the images of the evaluation's own ({adaptive_images or 'all'}), since robust_score takes the worst "
            f"case image by image; got images {entry['images']!r}"
        )
    images = {threat: adaptive_images if threat in ADAPTIVE else entry.get("images") for threat in threats}
    for threat in set(threats) - set(ADAPTIVE):
        check_scorable(entry["attack"], threat)
    if "epsilons" in entry and all(measures_distance(entry["attack"], threat) for threat in threats):
        raise ValueError(f"{entry['attack']} measures distances under {', '.join(threats)} and has no epsilons; got {list(entry['epsilons'])}")
    own = entry.get("options") or {}
    options = {threat: {**expectation, **own} if threat in ADAPTIVE and entry["attack"] == "pgd" else own for threat in threats}
    return [_cell(threat, entry["attack"], grids[threat], images[threat], options[threat]) for threat in threats]
