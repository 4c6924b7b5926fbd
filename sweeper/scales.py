"""Defaults per data set and scale: the trial's settings, and the evaluations `quick` and `standard`.

`small` is for a CPU, `medium` for one GPU, `paper` for the paper's own sizes. The figures behind the small scale are in docs/design.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from sweeper.config import Cell, Classifier, EvaluationConfig, Training
from sweeper.lookup import adopt
from sweeper.options import attack_options, check_epsilons, check_scorable, explain

SCALES = ("small", "medium", "paper")
EVALUATIONS = ("quick", "standard")
SUBSET = 240  # images of the costly attacks, stratified by class

_GRAYSCALE = {"digits", "fashion_mnist"}


def trial_defaults(dataset: str, scale: str) -> dict[str, Any]:
    """Return the nested defaults of a trial; `resolve` lays a variant's settings over them."""
    if scale == "small":
        return _small(dataset)
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
        "target": _classifier("wide_resnet", {"depth": 28, "width": 10}, finetune | {"learning_rate": 0.1, "num_epochs": target_epochs}),
        "retraining": finetune | {"num_epochs": retrain_epochs},
        "numerics": {"threads": 4, "precision": "bf16"},
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
        "options_by_model": {"*": {"depth": 3, "base_width": 4 if digits else 8, "codebook_size": 64}},
        "training": {"num_epochs": 10 if digits else 6, "batch_size": 64, "learning_rate": 4e-3},
        "target": _classifier("wide_resnet", {"depth": 10, "width": 1 if digits else 2, "stem_stride": 2}, adamw | {"num_epochs": 12}),
        "retraining": adamw | {"num_epochs": 4, "batch_size": 64, "learning_rate": 1e-3},
        "numerics": {"threads": 1, "precision": "fp32"},
    }


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
    name: str, dataset: str, scale: str, extra: Iterable[Mapping[str, Any]] = (), epsilons: tuple[float, ...] | None = None
) -> EvaluationConfig:
    """Return the evaluation of that name with a search space's extra attacks.

    Args:
        epsilons: Another grid for gray-box and transfer attacks.
        extra: Further attacks, `{"attack": "torchattacks:MIFGSM", "options": {...}, "threats": ["graybox", "transfer"]}`;
            `epsilons` and `images` may be given too.

    Raises:
        ValueError: If a name, an option or an epsilon is unusable.
    """
    if name not in EVALUATIONS:
        raise ValueError(f"no evaluation named {name!r}; available: {', '.join(EVALUATIONS)}")
    static, adaptive, score_epsilon = epsilon_grids(dataset, scale)
    static = static if epsilons is None else check_epsilons(epsilons)
    cells = [Cell(threat="clean", attack="none")]
    if name == "quick":
        middle = static[len(static) // 2 - 1 : len(static) // 2]
        cells.append(_cell("graybox", "pgd", middle, 64))
        cells.append(_cell("adaptive", "pgd", tuple(e for e in adaptive if e <= score_epsilon), 64, {"num_steps": 10}))
    else:
        for threat in ("graybox", "transfer"):
            cells += [_cell(threat, attack, static, None) for attack in ("fgsm", "bim", "pgd")]
            cells.append(_cell(threat, "cw", static, SUBSET))
        cells.append(_cell("adaptive", "pgd", adaptive, SUBSET))
    for entry in extra:
        cells += [cell for cell in _extra(entry, static) if cell not in cells]
    sources = transfer_sources(scale) if any(cell.threat == "transfer" for cell in cells) else ()
    return EvaluationConfig(name=name, cells=tuple(cells), sources=sources, score_epsilon=score_epsilon)  # pyright: ignore[reportArgumentType]


def _cell(threat: str, attack: str, epsilons: tuple[float, ...], images: int | None, options: Mapping[str, Any] | None = None) -> Cell:
    attack = adopt(attack) if attack.endswith(".py") else attack  # its content enters the keys
    complete = attack_options(attack, threat, options or {})
    try:
        return Cell(threat=threat, attack=attack, options=complete, epsilons=epsilons, images=images)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise ValueError(explain(error, list(Cell.model_fields), "attack setting")) from None


def _extra(entry: Mapping[str, Any], static: tuple[float, ...]) -> list[Cell]:
    known = {"attack", "options", "threats", "epsilons", "images"}
    if unknown := set(entry) - known:
        raise ValueError(f"unknown attack setting {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    if "attack" not in entry:
        raise ValueError(f"an extra attack needs a name under 'attack', got {dict(entry)!r}")
    threats = entry.get("threats", ("graybox", "transfer"))
    if unusable := set(threats) - {"graybox", "transfer"}:
        raise ValueError(f"an extra attack's threats must be 'graybox' or 'transfer', got {sorted(unusable)[0]!r}")
    grid = tuple(entry.get("epsilons", static))
    for threat in threats:
        check_scorable(entry["attack"], threat)
    return [_cell(threat, entry["attack"], grid, entry.get("images"), entry.get("options")) for threat in threats]
