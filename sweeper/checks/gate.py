"""Which trials must not be ranked, and how many of the checks that say so were run."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.checks._curves import COLUMNS, Curves, curves_of
from sweeper.checks._result import RUN, Key, Planned, Result
from sweeper.checks.catalogue import CHECKS
from sweeper.checks.integrity import same_images, stays_in_the_ball
from sweeper.checks.strength import adaptive_is_strongest, breaks_undefended, falls_with_epsilon, iterative_beats_one_step, reaches_the_surface
from sweeper.results import Readable

if TYPE_CHECKING:
    import pyarrow as pa

TRIAL_COLUMNS = ("trial_id", "model", "retrain", "quantize", "train_input", "seed", "device", "versions", "train_seconds", "score_seconds")
_FROM_CURVES: tuple[Callable[[Planned, Curves], list[Result]], ...] = (
    stays_in_the_ball, breaks_undefended, falls_with_epsilon, iterative_beats_one_step, reaches_the_surface, adaptive_is_strongest,
)  # fmt: skip
_BADNESS = ("not_run", "not_applicable", "pass", "warn", "fail")


def planned_of(rows: Sequence[Mapping[str, Any]], trials: Mapping[str, Mapping[str, Any]]) -> Planned:
    """Return those of some rows of `sweeps` whose trials are completed; one per trial and evaluation, in their order.

    Args:
        trials: trial_id -> its row of `trials`, at least `TRIAL_COLUMNS`.
    """
    first = {(row["trial_id"], row["evaluation_id"]): row for row in reversed(rows) if row["trial_id"] in trials}
    ordered = [row for row in rows if first.get((row["trial_id"], row["evaluation_id"])) is row]
    return Planned(ordered, trials)


def read_scores(results: Readable, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> "pa.Table":
    """Return the columns of `scores` that the checks read (or those named), of the evaluations of some rows of `sweeps`."""
    return results.read("scores", columns or COLUMNS, {"evaluation_id": sorted({row["evaluation_id"] for row in rows})})


def validity(results: Readable, planned: Planned, scores: "pa.Table") -> list[Result]:
    """Return what the validity checks say about every completed trial: those that the tables answer, and the stored rows of table `checks`.

    Args:
        scores: What `read_scores` returns.
    """
    curves = curves_of(scores, planned)
    sizes = {row["sample_set"]: row["n"] for row in results.read("sample_sets", ["sample_set", "n"]).to_pylist()}
    found = [one for check in _FROM_CURVES for one in check(planned, curves)] + same_images(planned, curves, sizes)
    return with_stored(results, planned, found)


def with_stored(results: Readable, planned: Planned, found: Sequence[Result]) -> list[Result]:
    """Put what probes found, the rows of table `checks`, beside what the tables say.

    A probe's answer stands in the place of one that was not run; where both were run, the worse one counts. Of several probes for one check the one
    of the newest code counts, and of those the one of level `full`.
    """
    names = [*Result._fields, "level", "probes_version"]
    rows = results.read("checks", names).to_pylist()
    rows.sort(key=lambda row: (row["probes_version"], row["level"] == "full"))
    stored = {(one.key, one.check): one for row in rows if (one := Result(**{name: row[name] for name in Result._fields})).key in planned.index}
    if not stored:
        return list(found)
    merged = [_worse(one, stored.pop((one.key, one.check), one)) for one in found]
    known = {(one.key, one.check) for one in merged}
    return merged + [one for place, one in stored.items() if place not in known]


def _worse(first: Result, second: Result) -> Result:
    return max(first, second, key=lambda one: _BADNESS.index(one.outcome))  # the first of two that are equally bad


def failures(found: Sequence[Result]) -> dict[Key, list[Result]]:
    """Return the failed validity checks of each trial that has any."""
    failed: dict[Key, list[Result]] = defaultdict(list)
    for one in found:
        if one.kind == "validity" and one.outcome == "fail":
            failed[one.key].append(one)
    return dict(failed)


def how_many(found: Sequence[Result]) -> str:
    """Return "n of m validity checks run" with what came of them; m leaves out those that apply to no trial."""
    trials = len({one.key for one in found})
    ran: dict[str, int] = defaultdict(int)
    spared: dict[str, int] = defaultdict(int)  # trials that it does not apply to
    failed: dict[str, int] = defaultdict(int)
    warned: dict[str, int] = defaultdict(int)
    for one in found:
        if one.kind == "validity":
            ran[one.check] += one.outcome in RUN
            spared[one.check] += one.outcome == "not_applicable"
            failed[one.check] += one.outcome == "fail"
            warned[one.check] += one.outcome == "warn"
    applies = {name: trials - spared[name] for name, check in CHECKS.items() if check.kind == "validity" and (not trials or trials > spared[name])}
    names = [name for name in applies if ran[name]]
    counted = f"{len(names)} of {len(applies)} validity checks run" + (f" ({', '.join(names)})" if names else "")
    partly = [f"{name} on {ran[name]} of {applies[name]} trials" for name in names if ran[name] < applies[name]]
    counted += f", {', '.join(partly)}" if partly else ""
    said = [f"{word}: {', '.join(f'{name} on {counts[name]} of {applies[name]} trials' for name in applies if counts[name])}"
            for word, counts in (("failed", failed), ("warned", warned)) if any(counts.values())]  # fmt: skip
    return f"{counted}; " + ("" if any(failed.values()) else "none failed" + "; " * bool(said)) + f"{'; '.join(said)}."


def failed_row(member: Mapping[str, Any], failure: Result) -> dict[str, Any]:
    """Return a failed check as a ranking's row holds it: of which trial, with its figures and its sentence."""
    names = ("check", "value", "threshold", "message")
    return {"trial_id": member["trial_id"], "seed": member["seed"]} | {name: getattr(failure, name) for name in names}


def unranked_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one sentence per check that fails, with the variants it concerns and why, at the first seed of each."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        for one in row["failed_checks"]:
            found[one["check"]].setdefault(row["label"], one["message"])
    notes = []
    for check, messages in found.items():
        first, *others = dict.fromkeys(messages.values())
        named = [f"{label}: {text}" for label, text in messages.items()] if others else list(messages)
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        listed = "; ".join(named[:5]) + more if others else f"{first}. These: {', '.join(named[:5])}{more}"
        title = f" ({CHECKS[check].title})" if check in CHECKS else ""
        notes.append(f"Unranked by {check}{title}, {len(messages)} of {len(rows)} rows: {listed}")
    return notes
