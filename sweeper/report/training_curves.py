"""How the networks were trained: losses and accuracies per epoch, codebook perplexity, and what alpha and beta change."""

from collections.abc import Callable, Sequence

from sweeper.report.content import Figure, Panel, Series
from sweeper.report.curves import columns
from sweeper.report.naming import System
from sweeper.report.trials import Material, Row, Trial, Variant
from sweeper.report.values import Value, of_seeds

EARLY = 30  # epochs: alpha and beta affect the convergence "only around the first 30 epochs" (paper, section 3.2)
EPOCH = "epoch"

_STAGES = {
    "purifier": (("loss", "loss", True), ("reconstruction", "reconstruction error (MSE or as the system defines it)", True)),
    "retrain": (("loss", "cross-entropy", True), ("accuracy", "accuracy on training images (%)", False)),
}


def figures(sets: Sequence[tuple[str, str, Sequence[System]]]) -> list[Figure]:
    """Return one figure per stage and set of systems, a panel per quantity.

    Args:
        sets: As `curves.groups` gives them: suffix of the file's name, words of the title, systems.
    """
    found = []
    for suffix, words, systems in sets:
        for stage, quantities in _STAGES.items():
            panels = [_panel(stage, column, label, log, systems) for column, label, log in quantities]
            title = f"Training, {'the purifiers' if stage == 'purifier' else 'the target on purified images'} ({words})"
            caption = (
                "Means over seeds, intervals over seeds. Losses of different systems are different quantities: compare a curve with its own past. "
                "Values are of the training images."
            )
            if any(panel.series for panel in panels):
                found.append(Figure(f"training_{stage}{suffix}", title, caption, tuple(panels), columns=2))
    return found


def perplexity_figure(systems: Sequence[System]) -> Figure:
    """Return codebook perplexity over the epochs, a panel per depth."""
    depth_count = max((len(row.get("perplexity") or ()) for s in systems for trial in s.variant.trials for row in trial.epochs), default=0)
    panels = []
    for depth in range(1, depth_count + 1):
        curves = [over_epochs(s.name, s.variant.trials, "purifier", _at_depth("perplexity", depth)) for s in systems]
        panels.append(Panel(f"d = {depth}", EPOCH, "perplexity (codes)", tuple(curve for curve in curves if curve)))
    missing = Panel("not measured", EPOCH, "perplexity (codes)", (), missing="the epochs table has no perplexity for these systems")
    caption = "Codes effectively in use while training, exp of the entropy of code usage; 1 is a collapsed codebook."
    return Figure("perplexity", "Codebook perplexity while training", caption, tuple(panels) or (missing,), columns=max(1, depth_count))


def loss_weights_figure(material: Material) -> Figure:
    """Return the reconstruction error of each alpha and beta over the epochs: all of them with epoch 30 marked, then those after it."""
    curves = [over_epochs(weights(variant), variant.trials, "purifier", _column("reconstruction")) for variant in weight_variants(material)]
    known = [curve for curve in curves if curve]
    heights = [value for curve in known for value in curve.y if value is not None]
    panels = []
    if heights:
        mark = Series(f"epoch {EARLY}", (EARLY, EARLY), (min(heights), max(heights)))
        last = max(curve.x[-1] for curve in known)
        label = "reconstruction error (MSE)"
        panels.append(Panel("all epochs", EPOCH, label, (*known, *([mark] if last > EARLY else [])), y_log=True))
        late = [_after(curve, EARLY) for curve in known]
        missing = "" if last > EARLY else f"training ended at epoch {last:.0f}, before the {EARLY} epochs were over"
        panels.append(Panel(f"after epoch {EARLY}", EPOCH, label, tuple(curve for curve in late if curve.x), missing=missing))
    caption = (
        "VQUNet trained with several weights of its losses. The paper (section 3.2): alpha and beta affect the speed of convergence only around the "
        "first 30 epochs. Under Adam only the ratio beta / alpha acts on the encoder, and neither weight on codebook and decoder."
    )
    nothing = Panel("not measured", EPOCH, "reconstruction error (MSE)", (), missing="no completed trial has a reconstruction error per epoch")
    return Figure("loss_weights", "Weights of the losses over the epochs", caption, tuple(panels) or (nothing,), columns=2)


def weight_variants(material: Material) -> list[Variant]:
    """Return the variants that differ from the reference in alpha or beta alone, and the reference."""
    factors = [variant for variant in material.variants if set(variant.factor.split("+")) <= {"alpha", "beta"}]
    return [variant for variant in material.variants if variant.trials and (variant.is_reference or variant in factors)] if factors else []


def weights(variant: Variant) -> str:
    """Return `alpha 1, beta 4`, with its mark where a validity check fails."""
    name = f"alpha {variant.settings['alpha']:g}, beta {variant.settings['beta']:g}"
    return f"{name} ({variant.unranked})" if variant.unranked else name


def over_epochs(name: str, trials: Sequence[Trial], stage: str, quantity: Callable[[Row], float | None]) -> Series | None:
    """Return a quantity per epoch of one stage over the seeds, None if there is not one point."""
    tables = [{row["epoch"]: quantity(row) for row in trial.epochs if row["stage"] == stage} for trial in trials]
    epochs = sorted({epoch for table in tables for epoch in table})
    values: list[Value | None] = [of_seeds(table.get(epoch) for table in tables) for epoch in epochs]
    if not any(values):
        return None
    mean, low, high = columns(values)
    x = tuple(float(epoch) for epoch in epochs)
    if len(trials) < 2:
        return Series(name, x, mean)
    return Series(name, x, mean, low, high, tuple(tuple(table.get(epoch) for epoch in epochs) for table in tables))


def _panel(stage: str, column: str, label: str, log: bool, systems: Sequence[System]) -> Panel:
    quantity = (lambda row: None if row[column] is None else 100 * row[column]) if column == "accuracy" else _column(column)
    found = [over_epochs(system.name, system.variant.trials, stage, quantity) for system in systems]
    curves = tuple(curve for curve in found if curve)
    positive = all(value > 0 for curve in curves for value in curve.y if value is not None)
    return Panel(column, EPOCH, label, curves, y_log=log and positive, missing="" if curves else f"no {column} per epoch in this stage")


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _at_depth(name: str, depth: int) -> Callable[[Row], float | None]:
    return lambda row: values[depth - 1] if len(values := row.get(name) or ()) >= depth else None


def _after(curve: Series, epoch: int) -> Series:
    keep = [index for index, x in enumerate(curve.x) if x > epoch]

    def kept(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
        return tuple(values[index] for index in keep) if values else ()

    x = tuple(curve.x[index] for index in keep)
    return Series(curve.name, x, kept(curve.y), kept(curve.low), kept(curve.high), tuple(kept(seed) for seed in curve.points))
