"""The paper's sentences about Figures 3 to 6 (section 4.4), judged over seeds from the `latents` table."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sweeper.report.content import Claim
from sweeper.report.governed import govern
from sweeper.report.latent_figures import COLLAPSED, Pair, Quantity, by_epsilon, clean_codebook, depths, pairs
from sweeper.report.naming import System, Systems, epsilon_name
from sweeper.report.trials import Row
from sweeper.report.values import number, of_seeds
from sweeper.report.verdicts import Judged, by_seeds, claim, untested

Curve = list[tuple[float, float]]  # epsilon > 0 and a value, ascending
_NO_LATENTS = "the sweep has no completed VQUNet with latents under gray-box FGSM"


def latent_claims(systems: Systems) -> list[Claim]:
    """Return the sentences about reconstruction, encodings, quantization and indices, for the paper's own setting where it was run."""
    found = pairs(systems)
    pair = found[0] if found else Pair("", None, None)
    compared = [govern(one, (), pair.known) for one in (_reconstruction(pair), _encodings(pair))]
    return compared + [govern(one, (), [pair.vq] if pair.vq else []) for one in (*_quantization(pair.vq), *_indices(pair.vq))]


def curves(system: System, depth: int, quantity: Quantity) -> dict[int, Curve]:
    """Return seed -> the values at each epsilon above 0."""
    table = by_epsilon(system.variant.trials, depth, quantity)
    found: dict[int, Curve] = {}
    for index, trial in enumerate(system.variant.trials):
        curve = [(epsilon, value) for epsilon, values in table.items() if epsilon > 0 and (value := values[index]) is not None]
        if curve:
            found[trial.seed] = curve
    return found


def _mean(curve: Curve) -> float:
    return float(np.mean([value for _, value in curve]))


def _margins(first: Mapping[int, Curve], second: Mapping[int, Curve], summary: Callable[[Curve], float] = _mean) -> list[float]:
    return [summary(first[seed]) - summary(second[seed]) for seed in sorted(first) if seed in second]


def _column(name: str) -> Quantity:
    return lambda row: row.get(name)


def _in_std(row: Row) -> float | None:
    return None if row.get("l1_pre") is None or not row.get("std_pre") else row["l1_pre"] / row["std_pre"]


def _reconstruction(pair: Pair) -> Claim:
    text, where = "Under FGSM, VQUNet's reconstructions stay closer to the originals than non-VQUNet's", "section 4.4, Figure 3"
    if pair.vq is None or pair.non is None:
        return untested(text, where, "the sweep has no completed pair of VQUNet and non-VQUNet")
    depth_of = {system.name: min((row["depth"] for t in system.variant.trials for row in t.latents), default=0) for system in (pair.vq, pair.non)}
    vq, non = (curves(system, depth_of[system.name], _column("image_l1")) for system in (pair.vq, pair.non))
    if not vq or not non:
        return untested(text, where, _NO_LATENTS)
    parts = []
    for system, found in ((pair.vq, vq), (pair.non, non)):
        clean = by_epsilon(system.variant.trials, depth_of[system.name], _column("image_l1")).get(0.0, [])
        words = [f"{number(of_seeds(clean))} at epsilon 0"]
        for end in (0, -1):
            epsilon = next(curve[end][0] for curve in found.values())
            words.append(f"{number(of_seeds(curve[end][1] for curve in found.values()))} at {epsilon_name(epsilon)}")
        parts.append(f"{system.name} {', '.join(words)}")
    more = "mean over the epsilons; a reconstruction that is coarse on clean images starts with a handicap, see the excess in Figure 3"
    return claim(text, where, by_seeds({"mean |x - f(x')|": _margins(non, vq)}), "; ".join(parts) + f" ({pair.words})", more)


def _encodings(pair: Pair) -> Claim:
    text, where = "Without quantization the encodings are much more susceptible to FGSM, at every depth", "section 4.4, Figure 4"
    if pair.vq is None or pair.non is None:
        return untested(text, where, "the sweep has no completed pair of VQUNet and non-VQUNet")
    margins: dict[str, list[float]] = {}
    parts, controls = [], []
    for depth in depths(pair.known):
        vq, non = (curves(system, depth, _column("l1_pre")) for system in pair.known)
        if not vq or not non:
            continue
        margins[f"d = {depth}"] = _margins(non, vq)
        parts.append(f"d = {depth}: non-VQUNet / VQUNet {_quotient(non, vq):.3g}")
        for words, quantity in (("relative", _column("rel_pre")), ("in standard deviations", _in_std)):
            first, second = (curves(system, depth, quantity) for system in pair.known)
            if first and second:
                controls.append(f"d = {depth} {words} {_quotient(second, first):.3g}")
    if not margins:
        return untested(text, where, _NO_LATENTS)
    more = "raw values are not comparable between networks of different scale"
    more += f"; the same quotient {'; '.join(controls)}" if controls else ""
    return claim(text, where, by_seeds(margins), "; ".join(parts) + f" (mean over the epsilons, {pair.words})", more)


def _quotient(first: Mapping[int, Curve], second: Mapping[int, Curve]) -> float:
    below = float(np.mean([_mean(curve) for curve in second.values()]))
    return float(np.mean([_mean(curve) for curve in first.values()])) / below if below else float("nan")


def _quantization(vq: System | None) -> list[Claim]:
    where = "section 4.4, Figure 5"
    texts = (
        "At every depth the distance after quantization is smaller than before it",
        "Before and after quantization, the distance grows with epsilon",
        "Deeper levels are less susceptible than shallower ones, before and after quantization",
    )
    found = depths([vq]) if vq else []
    sides = {(side, depth): curves(vq, depth, _column(f"l1_{side}")) for depth in found for side in ("pre", "post")} if vq else {}
    if vq is None or not sides or not all(sides.values()):
        return [untested(text, where, _NO_LATENTS) for text in texts]
    in_use = {depth: clean_codebook(vq.variant.trials, depth, "perplexity") for depth in found}
    smaller = {f"d = {depth}": _margins(sides["pre", depth], sides["post", depth]) for depth in found}
    ratios = [f"d = {depth}: after / before {_quotient(sides['post', depth], sides['pre', depth]):.3g}, perplexity {number(in_use[depth])}"
              for depth in found]  # fmt: skip
    more = "quantization is no contraction in itself: few codes in use or tight clusters make it one"
    grows = {f"{side} d = {depth}": [_least_step(curve) for curve in curve_of.values()] for (side, depth), curve_of in sides.items()}
    steps = "; ".join(f"{name} {number(of_seeds(values))}" for name, values in grows.items())
    claims = [
        claim(texts[0], where, by_seeds(smaller), "; ".join(ratios) + f" (mean over the epsilons, {vq.name})", more),
        claim(texts[1], where, by_seeds(grows), f"smallest step between neighboring epsilons: {steps}"),
    ]
    deeper = {f"{side} d = {depth} and {depth + 1}": _margins(sides[side, depth], sides[side, depth + 1])
              for side in ("pre", "post") for depth in found if depth + 1 in found}  # fmt: skip
    if not deeper:
        return [*claims, untested(texts[2], where, "the network has one depth")]
    values = "; ".join(f"{side} d = {depth}: {number(of_seeds(map(_mean, curve_of.values())))}" for (side, depth), curve_of in sides.items())
    return [*claims, claim(texts[2], where, by_seeds(deeper), values, "depths differ in width and scale, so raw distances mix both")]


def _least_step(curve: Curve) -> float:
    values = [0.0, *(value for _, value in curve)]
    return float(np.min(np.diff(values)))


def _indices(vq: System | None) -> list[Claim]:
    where = "section 4.4, Figure 6"
    texts = ("Deeper levels keep their code indices better than shallower ones", "Indices change fast at small epsilon and more slowly at large ones")
    changes = {depth: curves(vq, depth, _column("index_change")) for depth in depths([vq])} if vq else {}
    if vq is None or not changes or not all(changes.values()):
        return [untested(text, where, _NO_LATENTS) for text in texts]
    listed = "; ".join(f"d = {depth}: {number(of_seeds(map(_mean, found.values())), ' %')}" for depth, found in changes.items())
    measured = f"changed indices, mean over the epsilons ({vq.name}): {listed}"
    known = {depth: clean_codebook(vq.variant.trials, depth, "perplexity") for depth in changes}
    collapsed = [depth for depth, value in known.items() if value is not None and value.mean < COLLAPSED]
    deeper = {f"d = {depth} and {depth + 1}": _margins(changes[depth], changes[depth + 1]) for depth in changes if depth + 1 in changes}
    judged = by_seeds(deeper) if deeper else Judged("not tested", "the network has one depth")
    if collapsed:
        judged = Judged("not tested", f"the codebook at d = {', '.join(map(str, collapsed))} has collapsed: its indices cannot change")
    slower = {f"d = {depth}": [_bend(curve) for curve in found.values() if len(curve) > 1] for depth, found in changes.items()}
    bends = "; ".join(f"{name} {number(of_seeds(values))}" for name, values in slower.items())
    what = "slope from epsilon 0 to the smallest, minus slope between the two largest, in % per unit of epsilon"
    return [claim(texts[0], where, judged, measured), claim(texts[1], where, by_seeds(slower), f"{what}: {bends}")]


def _bend(curve: Sequence[tuple[float, float]]) -> float:
    (first, start), (before, lower), (last, upper) = curve[0], curve[-2], curve[-1]
    return start / first - (upper - lower) / (last - before)
