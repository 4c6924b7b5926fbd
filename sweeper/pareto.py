"""Which variants no other beats in both clean accuracy and robust_score. Pure: from the rows of a ranking."""

from collections.abc import Sequence
from typing import Any

AXES = ("robust_score", "clean")


def pareto(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ranked variants that have both figures: those that no other dominates first, each part by robust_score, best first.

    One variant dominates another if it is at least as good on both axes and better on one; two equal ones leave each other standing. The figures are
    means over the completed seeds, taken as they are: that one dominates another is not tested here.

    Args:
        rows: Of `sweeper.ranking.rank`, with rank, label, robust_score, clean, seeds and planned_seeds.

    Returns:
        Rows of label, variant_id, the two figures, `dominated_by` (labels, best robust_score first; empty in the Pareto set), seeds, planned_seeds.
    """
    scored = [row for row in rows if row["rank"] is not None and all(row.get(axis) is not None for axis in AXES)]
    scored.sort(key=lambda row: [-row[axis] for axis in AXES])
    found = []
    for row in scored:
        names = {name: row[name] for name in ("label", "variant_id", *AXES)}
        names["dominated_by"] = [other["label"] for other in scored if _dominates(other, row)]
        found.append(names | {"seeds": row["seeds"], "planned_seeds": row["planned_seeds"]})
    return sorted(found, key=lambda row: bool(row["dominated_by"]))  # stable: each part stays in its order


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[axis] >= other[axis] for axis in AXES) and any(one[axis] > other[axis] for axis in AXES)
