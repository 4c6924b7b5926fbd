"""Figures 3 to 6: what a perturbation does to the reconstruction, to the encodings before and after quantization, and to the chosen codes.

Quantities and controls follow the specification that the `latents` table was made for: raw values as the paper shows them, and beside each what
makes it comparable between networks (relative to its own mean, in standard deviations, excess over the clean reconstruction).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sweeper.report.content import Cell, Figure, Panel, Series, Table
from sweeper.report.curves import EPSILON, columns
from sweeper.report.naming import System, Systems, attack_name, kind, ranked_first
from sweeper.report.trials import Row, Trial, base_name, same
from sweeper.report.values import Value, of_seeds

Quantity = Callable[[Row], float | None]
COLLAPSED = 1.5  # a perplexity below it is one code for nearly everything

L1 = "mean absolute difference"


class Pair(NamedTuple):
    """VQUNet and the same network without quantization, trained alike; either may be missing."""

    words: str
    vq: System | None
    non: System | None

    @property
    def known(self) -> list[System]:
        return [system for system in (self.vq, self.non) if system is not None]


def pairs(systems: Systems) -> list[Pair]:
    """Return who is compared in Figures 3 and 4, the paper's own setting (clean training images) first."""
    if systems.is_paper:
        tables = [("authors' recipe, clean training images", systems.recipes), ("equal information, adversarial training images", systems.equal)]
        found = [Pair(words, systems.one("vqunet", members), systems.one("unet", members)) for words, members in tables]
        return [pair for pair in found if pair.known]
    reference = next((s for s in systems.others if s.kind == "vqunet" and s.variant.is_reference), None)
    vq = reference or next((s for s in systems.others if s.kind == "vqunet"), None)
    non = next((s for s in systems.others if kind(s.variant) == "unet" and s.variant.factor in ("quantize", "quantizer", "model", "")), None)
    return [Pair("this sweep", vq, non)] if vq or non else []


def fgsm_rows(trial: Trial, depth: int) -> dict[float, Row]:
    """Return epsilon -> row of one depth under gray-box FGSM (paper, section 4.4), with the clean images at 0."""
    found: dict[float, Row] = {}
    labels = [row["attack"] for row in trial.latents if row["threat"] == "graybox" and base_name(row["attack"]) == "fgsm"]
    for row in trial.latents:
        if row["depth"] == depth and (row["threat"] == "clean" or (row["threat"] == "graybox" and row["attack"] == min(labels, default=""))):
            found[0.0 if row["threat"] == "clean" else row["epsilon"]] = row
    return dict(sorted(found.items()))


def depths(systems: Sequence[System]) -> list[int]:
    return sorted({row["depth"] for system in systems for trial in system.variant.trials for row in trial.latents if row["depth"] > 0})


def by_epsilon(trials: Sequence[Trial], depth: int, quantity: Quantity) -> dict[float, list[float | None]]:
    """Return epsilon -> one value per trial."""
    tables = [fgsm_rows(trial, depth) for trial in trials]
    grid: list[float] = []
    for epsilon in sorted(epsilon for table in tables for epsilon in table):
        if not grid or not same(epsilon, grid[-1]):
            grid.append(epsilon)
    return {epsilon: [next((quantity(row) for e, row in table.items() if same(e, epsilon)), None) for table in tables] for epsilon in grid}


def figure3(systems: Systems) -> Figure:
    """Return the distance of original and reconstructed images under FGSM, its excess over the clean reconstruction, and the output's own shift."""
    panels: list[Panel] = []
    for pair in pairs(systems):
        suffix = f" ({pair.words.partition(',')[0]})" if len(pairs(systems)) > 1 else ""
        panels.append(_panel(f"original and reconstruction{suffix}", "mean |x - f(x')|, pixel range", _both(pair, _get("image_l1"))))
        panels.append(_panel(f"excess over epsilon 0{suffix}", "mean |x - f(x')| - mean |x - f(x)|, pixel range", _both(pair, _excess)))
        moved = _both(pair, _get("image_l1_shift"))
        if moved and pair.known:
            added = _series("perturbation |x - x'|", pair.known[0].variant.trials, _first_depth(pair.known[0]), _get("input_l1"))
            moved += [added] if added else []
        panels.append(_panel(f"shift of the output{suffix}", "mean |f(x) - f(x')|, pixel range", moved))
    caption = (
        "Per pixel, under FGSM crafted on the target without the purifier. Left, as the paper: the distance from the clean original; at epsilon 0 it "
        "is the error of the clean reconstruction, so a coarse reconstruction starts high whatever the attack does. Middle: what the attack adds. "
        "Right: how far the output moves, beside how far the input was moved; below the perturbation, the network removes some of it."
    )
    return Figure("figure3", "Figure 3: reconstruction under FGSM", caption, tuple(panels) or _no_pair("|x - f(x')|"), columns=3)


def figure4(pair: Pair, suffix: str = "") -> Figure:
    """Return the shift of the encodings before quantization, with and without VQ: raw as the paper, relative, and in standard deviations."""
    panels: list[Panel] = []
    quantities: list[tuple[str, str, Quantity]] = [
        ("raw", f"{L1}, units of a_d", _get("l1_pre")),
        ("relative", "share of mean |a_d(x)|", _get("rel_pre")),
        ("in standard deviations", "mean |a_d(x) - a_d(x')| / std of a_d(x)", _ratio("l1_pre", "std_pre")),
    ]
    found = depths(pair.known)
    for words, label, quantity in quantities:
        panels += [_panel(f"d = {depth}, {words}", label, _both(pair, quantity, depth)) for depth in found]
    caption = (
        "Mean |a_d(x) - a_d(x')| of the encoders' outputs under FGSM. The top row is the paper's; raw values are not comparable between networks "
        "whose encodings differ in scale, nor between depths, which differ in width and scale: the rows below divide by each network's own scale."
    )
    title = f"Figure 4: encodings under FGSM, with and without quantization ({pair.words})"
    return Figure(f"figure4{suffix}", title, caption, tuple(panels) or _no_pair("|a_d(x) - a_d(x')|"), columns=max(1, len(found)))


def figure5(system: System) -> Figure:
    """Return the shift of the encodings before and after quantization: raw as the paper, their ratio, and each relative to its own mean."""
    trials, found = system.variant.trials, depths([system])
    panels: list[Panel] = []
    for depth in found:
        sides = [_series("before quantization", trials, depth, _get("l1_pre")), _series("after quantization", trials, depth, _get("l1_post"))]
        panels.append(_panel(f"d = {depth}, raw", f"{L1}, units of a_d", [side for side in sides if side]))
    for depth in found:
        ratio = _series("after / before", trials, depth, _ratio("l1_post", "l1_pre"))
        panels.append(_panel(f"d = {depth}, after / before", "ratio", [ratio] if ratio else []))
    for depth in found:
        sides = [_series("before quantization", trials, depth, _get("rel_pre")), _series("after quantization", trials, depth, _get("rel_post"))]
        panels.append(_panel(f"d = {depth}, relative", "share of its own mean absolute value", [side for side in sides if side]))
    caption = (
        f"{system.name} under FGSM: mean |a_d(x) - a_d(x')| before and mean |q_d(x) - q_d(x')| after quantization. Nearest-code quantization is no "
        "contraction: a uniform quantizer keeps the mean distance, a large codebook on small noise enlarges it. A smaller distance afterwards needs "
        f"tight clusters, few codes in use, or lost variance; codes effectively in use on clean images: {_in_use(system)}. "
        "Depths differ in width and scale: compare within a panel."
    )
    title = f"Figure 5: before and after quantization ({system.name})"
    return Figure("figure5", title, caption, tuple(panels) or _no_pair("|q_d(x) - q_d(x')|"), columns=max(1, len(found)))


def figure6(system: System) -> Figure:
    """Return how many code indices change under FGSM, per position as the paper, and how many images have any changed index."""
    trials, found = system.variant.trials, depths([system])
    per_position = [_series(f"d = {depth}", trials, depth, _get("index_change")) for depth in found]
    per_image = [_series(f"d = {depth}", trials, depth, _get("any_change")) for depth in found]
    panels = (
        _panel("changed positions", "changed indices (% of positions)", [curve for curve in per_position if curve], (0.0, 100.0)),
        _panel("images with a change", "images with any changed index (%)", [curve for curve in per_image if curve], (0.0, 100.0)),
    )
    collapsed = [depth for depth in found if (value := clean_codebook(trials, depth, "perplexity")) is not None and value.mean < COLLAPSED]
    caption = (
        f"{system.name} under FGSM, against the same images unperturbed. Codes effectively in use (perplexity) on clean images: {_in_use(system)}. "
        "A codebook that has collapsed cannot change its indices: with perplexity 1 the change is 0 % and means nothing"
        + (f", as at d = {', '.join(map(str, collapsed))} here" if collapsed else "")
        + ". Deeper levels have fewer positions, each seeing more of the image, and change only where a shallower index has changed."
    )
    return Figure("figure6", f"Figure 6: changed code indices ({system.name})", caption, panels, columns=2)


def clean_codebook(trials: Sequence[Trial], depth: int, column: str) -> Value | None:
    """Return perplexity or usage of one depth's codebook on clean images."""
    return of_seeds(row.get(column) for trial in trials for row in trial.latents if row["threat"] == "clean" and row["depth"] == depth)


def codebook_table(systems: Systems) -> Table:
    """Return perplexity and usage per depth of every system that has codebooks."""
    with_codes = [s for s in systems.all if any(clean_codebook(s.variant.trials, depth, "perplexity") for depth in depths([s]))]
    found = depths(with_codes)
    rows = []
    for system in ranked_first(with_codes):
        row: dict[str, Cell] = {"system": system.name, "codes": _codes(system), "seeds": len(system.variant.trials)}
        for depth in found:
            for column in ("perplexity", "usage"):
                value = clean_codebook(system.variant.trials, depth, column)
                low, high = (value.low, value.high) if value else (None, None)
                row |= {f"{column}_{depth}": value.mean if value else None, f"{column}_{depth}_low": low, f"{column}_{depth}_high": high}
        rows.append(row)
    measured = [f"{column}_{depth}" for column in ("perplexity", "usage") for depth in found]
    headings = {"system": "system", "codes": "codes K", "seeds": "seeds"} | {
        name: f"{name.split('_')[0]} d = {name.split('_')[1]}" + (" %" if name.startswith("usage") else "") for name in measured
    }
    formats = {name: "percent" if name.startswith("usage") else "number" for name in measured} | {"codes": "integer", "seeds": "integer"}
    caption = (
        "On clean images. Perplexity: exp of the entropy of code usage, codes effectively in use, from 1 (collapsed) to K (all alike). "
        "Usage: share of the codes chosen at least once. Intervals over seeds."
    )
    notes = () if rows else ("No system of this sweep has codebooks with measured usage.",)
    return Table("codebooks", "Codebook usage", caption, ("system", "codes", *measured, "seeds"), tuple(rows), headings, formats, notes)


def _get(name: str) -> Quantity:
    return lambda row: row.get(name)


def _ratio(top: str, bottom: str) -> Quantity:
    def quantity(row: Row) -> float | None:
        above, below = row.get(top), row.get(bottom)
        return None if above is None or not below else above / below

    return quantity


def _excess(row: Row) -> float | None:
    moved, clean = row.get("image_l1"), row.get("image_l1_clean")
    return None if moved is None or clean is None else moved - clean


def _first_depth(system: System) -> int:
    """Return a depth that the trials' rows have: image distances stand on the rows of every depth, at 0 where there are no latents."""
    return min((row["depth"] for trial in system.variant.trials for row in trial.latents), default=0)


def _both(pair: Pair, quantity: Quantity, depth: int | None = None) -> list[Series]:
    found = [_series(s.name, s.variant.trials, _first_depth(s) if depth is None else depth, quantity) for s in pair.known]
    return [curve for curve in found if curve]


def _series(name: str, trials: Sequence[Trial], depth: int, quantity: Quantity) -> Series | None:
    table = by_epsilon(trials, depth, quantity)
    values = [of_seeds(seeds) for seeds in table.values()]
    if not any(values):
        return None
    mean, low, high = columns(values)
    if len(trials) < 2:
        return Series(name, tuple(table), mean)
    return Series(name, tuple(table), mean, low, high, tuple(zip(*table.values(), strict=True)))


def _panel(title: str, label: str, curves: Sequence[Series], y_range: tuple[float, float] | None = None) -> Panel:
    missing = "" if curves else f"the latents table has no such figures under {attack_name('fgsm')}"
    return Panel(title, EPSILON, label, tuple(curves), y_range=y_range, missing=missing)


def _no_pair(label: str) -> tuple[Panel, ...]:
    return (Panel("not measured", EPSILON, label, (), missing="the sweep has no completed VQUNet and non-VQUNet with latents"),)


def _codes(system: System) -> Cell:
    """Return K, or `64,32,16` where it differs between depths, depth 1 first."""
    row = system.variant.settings
    return row.get("codebook_size") or row.get("codebook_sizes")


def _in_use(system: System) -> str:
    words = []
    for depth in depths([system]):
        perplexity, usage = (clean_codebook(system.variant.trials, depth, column) for column in ("perplexity", "usage"))
        if perplexity:
            words.append(f"d = {depth}: {perplexity.mean:.1f}" + (f" (usage {100 * usage.mean:.0f} %)" if usage else ""))
    size = _codes(system)
    return (", ".join(words) or "not measured") + (f" of {size}" if words and size else "")
