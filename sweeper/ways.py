"""A stored evaluation under another name: how it was made, read back from its cells, and made again with other attackers.

`evaluations` stores what was done, cell by cell, not which options were asked for. Grid, victim, preset, draws and a space's own attacks can be read
off the cells; what a name implies by itself (which attackers, on how many images, each transfer image on one source or on all) is the new name's.
"""

from collections.abc import Sequence
from typing import Any

from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.lookup import nearest
from sweeper.options import ADAPTIVE
from sweeper.scales import EVALUATIONS, epsilon_grids, evaluation

STATIC = ("graybox", "transfer")


def under_name(stored: EvaluationConfig, name: str, dataset: str, scale: str) -> EvaluationConfig:
    """Return the evaluation of that name on the same split, with the stored one's grid, ways and further attacks; itself if it has that name.

    Raises:
        ValueError: If there is no such evaluation, or it is a weaker one.
    """
    if name not in EVALUATIONS:
        raise ValueError(f"no evaluation named {name!r}{nearest(name, EVALUATIONS)}; available: {', '.join(EVALUATIONS)}")
    if EVALUATIONS.index(name) < EVALUATIONS.index(stored.name):
        raise ValueError(f"evaluation must be no weaker than {stored.name}, by which the trials were scored, got {name}")
    if stored.name == name:
        return stored
    grid, ways = _grid(stored, dataset, scale), ways_of(stored)
    plain = evaluation(stored.name, dataset, scale, (), grid, split=stored.split, **ways)
    made = evaluation(name, dataset, scale, _entries(further_cells(stored, plain)), grid, split=stored.split, **ways)
    return made.model_copy(update={"score_epsilon": stored.score_epsilon, "seed": stored.seed, "batch_size": stored.batch_size})


def ways_of(stored: EvaluationConfig) -> dict[str, Any]:
    """Return the settings of `EVALUATION_SETTINGS` that give the cells of an evaluation below `full`; `mix` only where every source was asked for."""
    graybox, transfer = ([cell for cell in stored.cells if cell.threat == threat] for threat in STATIC)
    ascending = [cell for cell in stored.cells if cell.threat in ADAPTIVE and cell.attack == "pgd"]
    ways: dict[str, Any] = {
        "victim": "retrained" if any(cell.victim == "retrained" for cell in graybox) else "original",
        "attack_preset": "cleverhans" if any(cell.labels == "predicted" for cell in (*graybox, *transfer)) else "ours",
        "num_eot_samples": ascending[0].options.get("num_eot_samples", 1) if ascending else 1,
    }
    return ways | ({"mix": "full"} if any(cell.source is not None for cell in transfer) else {})


def further_cells(stored: EvaluationConfig, plain: EvaluationConfig) -> list[Cell]:
    """Return the stored cells that an evaluation without a space's own attacks lacks, those of several transfer sources once."""
    found = [cell.model_copy(update={"source": None, "victim": "original", "labels": "true"}) for cell in stored.cells if cell not in plain.cells]
    return [cell for place, cell in enumerate(found) if cell not in found[:place]]


def in_words(before: EvaluationConfig, after: EvaluationConfig) -> str:
    """Return a sentence: what two evaluations have in common, and what differs."""
    sources = {name: "every source" if any(cell.source is not None for cell in one.cells) else "one source each"
               for name, one in (("before", before), ("after", after)) if one.sources}  # fmt: skip
    changes = [f"{_adaptive(after)} in place of {_adaptive(before)}", f"{_static(after)} in place of {_static(before)}"]
    if len(set(sources.values())) > 1:
        changes.append(f"transfer images on {sources['after']} in place of {sources['before']}")
    kept = [f"{setting} {value}" for setting, value in ways_of(before).items() if value not in ("original", "ours", 1)]
    return (
        f"scored by {after.name} in place of {before.name}, on {after.split} images as before. The same: data set, scale, score_epsilon "
        f"{after.score_epsilon:g}{''.join(f', {words}' for words in kept)}. Different: {'; '.join(changes)}"
    )


def _grid(stored: EvaluationConfig, dataset: str, scale: str) -> tuple[float, ...] | None:
    """Return the grid of gray-box and transfer attacks; None where it is the scale's. A quick one shows a single epsilon of its grid."""
    own = next((cell.epsilons for cell in stored.cells if cell.threat in STATIC), None)
    usual = epsilon_grids(dataset, scale)[0]
    if stored.name == "quick" and own is not None and set(own) <= set(usual):
        return None
    return None if own == usual else own


def _entries(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return cells as a search space's ATTACKS would ask for them; the images of adaptive ones are the evaluation's own."""
    entries = []
    for cell in cells:
        entry: dict[str, Any] = {"attack": cell.attack, "options": dict(cell.options), "threats": [cell.threat]}
        entries.append(entry | ({} if cell.measures_distance else {"epsilons": cell.epsilons})
                       | ({} if cell.threat in ADAPTIVE else {"images": cell.images}))  # fmt: skip
    return entries


def _adaptive(one: EvaluationConfig) -> str:
    cells = [cell for cell in one.cells if cell.threat in ADAPTIVE]
    names = dict.fromkeys(cell.attack for cell in cells)
    return f"{len(cells)} adaptive attacks ({', '.join(names)}) on {_images(cells)}"


def _static(one: EvaluationConfig) -> str:
    return f"gray-box and transfer attacks on {_images([cell for cell in one.cells if cell.threat in STATIC])}"


def _images(cells: Sequence[Cell]) -> str:
    counts = dict.fromkeys("all" if cell.images is None else f"at most {cell.images}" for cell in cells)
    return f"{' or '.join(counts) or 'no'} images"
