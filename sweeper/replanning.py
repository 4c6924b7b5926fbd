"""A plan again from the tables: the stored configurations of trials, with the evaluation they were scored by, or with its split changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.config import TrialConfig
from sweeper.evaluations import EvaluationConfig
from sweeper.keys import evaluation_id, expected_parts
from sweeper.lookup import register_sources
from sweeper.plan import Plan, PlannedTrial, of_trials
from sweeper.results import Results
from sweeper.stored_plans import key_of_row


def stored_plan(results: Results, rows: Sequence[Mapping[str, Any]], *, sweep: str | None = None, split: str | None = None) -> Plan:
    """Return the plan of some completed trials of a stored plan, as `run` would make it.

    Args:
        rows: Rows of `sweeps`, of one plan, at least one.
        sweep: Another name for it; its trials are then each other's reference.
        split: Whose images are scored, where other than before.

    Raises:
        ValueError: If a stored configuration does not give the trial that it was stored for: the code, or a file of the user's, has changed since.
    """
    register_sources(results.kept_sources())
    first = rows[0]
    stored = {row["trial_id"]: row["config"] for row in results.read("trials", ["trial_id", "config"]).to_pylist()}
    scored = {row["evaluation_id"]: row["config"] for row in results.read("evaluations", ["evaluation_id", "config"]).to_pylist()}
    trials = []
    for row in rows:
        if row["evaluation_id"] not in scored:
            raise ValueError(
                f"evaluation {row['evaluation_id'][:12]} has no row in table evaluations; the same `run` again with this version records it"
            )
        config = TrialConfig.model_validate_json(stored[row["trial_id"]])
        evaluation = EvaluationConfig.model_validate_json(scored[row["evaluation_id"]])
        if (config.trial_id, evaluation_id(config, evaluation)) != key_of_row(row):
            raise ValueError(
                f"the code has changed since {first['sweep']} was run, and would train or attack trial {row['trial_id'][:12]} differently; "
                "the same `run` again makes it anew"
            )
        after = evaluation if split is None else evaluation.model_copy(update={"split": split})
        name = evaluation_id(config, after)
        trials.append(
            PlannedTrial(
                config=config,
                evaluation=after,
                trial_id=row["trial_id"],
                variant_id=row["variant_id"],
                evaluation_id=name,
                label=row["label"],
                factor=row["factor"] or "",
                level=row["level"] or "",
                is_reference=sweep is not None or row["is_reference"],
                reference_variant_id=row["variant_id"] if sweep is not None else row["reference_variant_id"] or row["variant_id"],
                parts=tuple(expected_parts(config, after, row["trial_id"], name)),
                is_candidate=sweep is not None or row["is_candidate"] is not False,  # a missing value is of before there was the column
            )
        )
    return of_trials(sweep or first["sweep"], first["dataset"], first["scale"], trials)
