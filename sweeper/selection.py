"""Choose a variant on the validation images, and score it alone on the test images: the one look at them that choosing leaves honest.

Everything comes from the tables: which plan was scored on validation images, its ranking, the trials' complete configurations and the evaluation.
The test plan has the same networks, attacks and settings, so nothing is trained; only the split differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.plan import Plan
from sweeper.ranking import Ranking, rank
from sweeper.replanning import stored_plan
from sweeper.results import Results
from sweeper.stored_plans import SELECTED, key_of_row, latest_plan, origins, others_on_test, states, title_of


@dataclass(frozen=True)
class Choice:
    """The first row of a ranking on validation images; what is in it only to be compared with is passed over.

    Attributes:
        planned: Its rows of `sweeps`, of the seeds that are completed there.
        row: Its row of the ranking.
        ranking: All rows.
        title: Of the plan that it was chosen from.
        absent: Seeds that have no figure on the validation images, and will have none on the test images.
    """

    planned: list[dict[str, Any]]
    row: dict[str, Any]
    ranking: Ranking
    title: str
    absent: list[int]

    @property
    def sweep(self) -> str:
        return self.planned[0]["sweep"]

    @property
    def dataset(self) -> str:
        return self.planned[0]["dataset"]

    @property
    def num_ranked(self) -> int:
        return sum(row["rank"] is not None and row["is_candidate"] for row in self.ranking.rows)


@dataclass(frozen=True)
class Selected:
    """What became of a choice: one row as JSON shows it, with what a reader must know beside it."""

    row: dict[str, Any]
    title: str
    notes: list[str]

    def shown(self) -> dict[str, Any]:
        """Return the row for people: percent, intervals in brackets, the difference in points."""
        row = self.row
        shown: dict[str, Any] = {"variant": row["label"]}
        for split in ("validation", "test"):
            value, low, high = (row[f"{split}_{name}"] for name in ("robust_score", "ci_low", "ci_high"))
            interval = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
            shown[f"robust_score % on {split}"] = "not scored" if value is None else f"{100 * value:.1f}{interval}"
        shown["difference"] = "" if row["difference"] is None else f"{100 * row['difference']:+.1f}"
        return shown | {"chosen from": row["chosen_from"], "seeds": len(row["seeds"])}


def choose(results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None) -> Choice:
    """Return the best ranked variant of the plan that was last run on validation images, by robust_score.

    Raises:
        ValueError: If there is no such plan, its evaluation is `quick`, or none of its variants is ranked.
    """
    planned = latest_plan(results, sweep, dataset, plan_hash, ranks=True, split="validation")
    ranking = rank(results, sweep, plan_hash=planned[0]["plan_hash"])
    row = eligible(results, planned, ranking)[0]
    state = states(results, planned)
    members = [one for one in planned if one["label"] == row["label"]]
    done = [one for one in members if state[key_of_row(one)]["status"] == "completed"]
    return Choice(done, row, ranking, title_of(results, planned), [one["seed"] for one in members if one not in done])


def eligible(results: Results, planned: Sequence[Mapping[str, Any]], ranking: Ranking) -> list[dict[str, Any]]:
    """Return the rows of a plan's ranking that may be chosen, best first: those with a rank, without what is only compared with.

    Raises:
        ValueError: If there is none.
    """
    rows = [row for row in ranking.rows if row["rank"] is not None and row["is_candidate"]]
    if not rows:
        raise ValueError(f"no variant of {title_of(results, planned)} is ranked, so there is none to choose; `rank` says why")
    return rows


def test_plan(results: Results, choice: Choice) -> Plan:
    """Return the plan that scores the chosen variant on the test images: its stored configurations, with the evaluation's split changed.

    Raises:
        ValueError: If a stored configuration does not give the trial that it was stored for: the code, or a file of the user's, has changed since.
    """
    return stored_plan(results, choice.planned, sweep=choice.sweep + SELECTED, split="test")


def selected(results: Results, choice: Choice, plan: Plan) -> Selected:
    """Return the chosen variant's figures on both splits, the difference, and what is to be known of the choice."""
    ranking = rank(results, plan.sweep, plan_hash=plan.plan_hash)
    test, validation = ranking.rows[0], choice.row
    is_complete = test["seeds"] == len(plan.trials) and test.get("robust_score") is not None
    runs = results.read("runs", ["started"], {"plan_hash": plan.plan_hash}).column("started").to_pylist()
    seen, others = others_on_test(results, choice.sweep, choice.dataset, choice.planned, min(runs))
    expected = choice.ranking.optimism
    row: dict[str, Any] = {"label": validation["label"], "variant_id": validation["variant_id"], "seeds": [t.config.seed for t in plan.trials]}
    for split, found in (("validation", validation), ("test", test)):
        row |= {f"{split}_{name}": found.get(name) for name in ("robust_score", "ci_low", "ci_high")}
    row |= {
        "difference": validation["robust_score"] - test["robust_score"] if is_complete else None,
        "expected_difference": expected.value if expected else None,
        "chosen_from": choice.num_ranked, "ci_over": validation["ci_over"], "seen_on_test": seen, "other_variants": others,
        "sweep": plan.sweep, "plan_hash": plan.plan_hash,
    }  # fmt: skip
    return Selected(row, f"{choice.title}: the best by robust_score, and what it is worth on the test images", _notes(choice, row, ranking))


def _notes(choice: Choice, row: dict[str, Any], test: Ranking) -> list[str]:
    expected = row["expected_difference"]
    bootstrap = "" if expected is None else f" (the bootstrap over the validation images expects {100 * expected:+.1f})"
    notes = [
        f"Difference: validation minus test, in points, the optimism observed in this one choice{bootstrap}. The chance of two sets of images is in "
        "it, so it can be negative. The test figure is the one to report."
    ]
    origin = origins(choice.sweep)[-1]
    if row["seen_on_test"]:
        notes.append(
            f"The test images had been looked at before: {len(row['seen_on_test'])} of the {row['other_variants']} other variants of {origin} "
            f"were scored on them under this root ({_listed(row['seen_on_test'])}), so the choice may have been made with them in mind."
        )
    else:
        notes.append(f"No other variant of {origin} was scored on the test images under this root before.")
    notes.append(f"Intervals are over {row['ci_over']}." if row["ci_over"] != "images" else "Intervals are over images, for this checkpoint.")
    if compared := [
        one["label"] + (", which ranks above it" if one["rank"] and one["rank"] < choice.row["rank"] else "")
        for one in choice.ranking.rows
        if not one["is_candidate"]
    ]:
        notes.append(f"Not chosen from, since only there to be compared with: {_listed(compared)}.")
    if unranked := [one["label"] for one in choice.ranking.rows if one["rank"] is None and one["is_candidate"]]:
        notes.append(f"Not chosen from, since unranked or without a figure on the validation images: {_listed(unranked)}.")
    if incomplete := [one["label"] for one in choice.ranking.rows if one["rank"] is not None and one["seeds"] < one["planned_seeds"]]:
        notes.append(f"With fewer seeds than planned on the validation images: {_listed(incomplete)}.")
    if choice.absent:
        notes.append(f"Seeds of the chosen variant without a validation figure, not scored on the test images either: {choice.absent}.")
    if test.rows[0]["status"] != "completed":
        notes += [note for note in test.notes if note.startswith(("Unranked", "Missing")) or ": failed" in note]
    return [*notes, f"Stored as the sweep {row['sweep']}."]


def _listed(labels: Sequence[str]) -> str:
    return "; ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
