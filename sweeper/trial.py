"""One trial, start to end, without Ray: train -> retrain -> score -> rows.

What it says outward is handed in: `publish(table, part, rows)` takes the rows, `progress(stage, done, total, figures)` hears how far it is. So a
trial runs in a debugger (`python -m sweeper trial CONFIG.json`) as it runs on a cluster. Each expensive step is an artifact, so a trial that is
interrupted continues where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from sweeper.canonical import canonical_json
from sweeper.cells import networks_of, outcomes_of, source_of
from sweeper.config import TrialConfig
from sweeper.distances import distance_row
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import attack_label, attack_settings, distances_part, evaluation_id, health_part, part_key, scores_part
from sweeper.lookup import find
from sweeper.materials import Materials, SampleSet
from sweeper.probing import health_rows, subject_of
from sweeper.provenance import provenance
from sweeper.recipes import Training
from sweeper.schemas import TABLES
from sweeper.scoring import Outcomes
from sweeper.source_tree import code_hash
from sweeper.statistics import wilson
from sweeper.strips import strip_rows

_OPTION_COLUMNS = (  # the models' options that have a column of their own in `trials`; all are in `config`
    *("codebook_size", "depth", "code_dim", "base_width", "alpha", "beta", "quantize", "quantizer", "codebook_grad", "commitment_gradient"),
    *("vq_levels", "passes", "revive", "purify", "kl_weight", "frequency_weight"),
)
Rows = Sequence[dict[str, Any]]
Publish = Callable[[str, str, Rows], object]


@dataclass(frozen=True)
class Summary:
    """What the live view and the log say of a finished trial; accuracies in [0, 1]."""

    clean_accuracy: float
    adaptive_accuracy: float | None
    train_seconds: float
    score_seconds: float


def run_trial(config: TrialConfig, evaluation: EvaluationConfig, materials: Materials, publish: Publish, attempt: int = 1) -> Summary:
    """Train, retrain and score one trial and publish its rows, `trials` last: from then on it is visible, and finished.

    Raises:
        Diverged: If a training's loss is not finite.
        StorageError: If the results root cannot take an artifact or a part.
    """
    torch.set_num_threads(config.numerics.threads)
    started = datetime.now(UTC)
    code_hash()  # of the code as it is before the work, since files may be edited meanwhile
    trial_id, evaluation_name = config.trial_id, evaluation_id(config, evaluation)
    named = {"trial_id": trial_id, "evaluation_id": evaluation_name}
    networks = networks_of(config, materials)
    purifier, retrained = networks.purifier, networks.retrained
    train_seconds = purifier.seconds + (retrained.seconds if retrained else 0.0)

    scoring = time.monotonic()
    latents: list[dict[str, Any]] = []
    broken_at: list[Tensor] = []
    rows_by_threat: dict[str, list[dict[str, Any]]] = {}
    for done, cell in enumerate(evaluation.cells):
        materials.progress(f"score {cell.threat} {cell.attack}", done, len(evaluation.cells), {})
        label = attack_label(cell, evaluation)
        if cell.measures_distance:
            row = distance_row(config, evaluation, cell, materials, networks.defense, networks.scored_on(networks.final_name))
            names = {"threat": cell.threat, "attack": label, "source": source_of(cell, config, evaluation), "classifier": networks.final_name}
            publish("distances", distances_part(trial_id, evaluation_name, cell, label), [named | names | row])
            continue
        outcomes = outcomes_of(config, evaluation, cell, materials, networks)
        samples = materials.samples(config, evaluation, cell.images)
        names = {"trial_id": trial_id, "evaluation_id": evaluation_name, "threat": cell.threat, "attack": label}
        scored_on = {name: networks.scored_on(name) for name in outcomes.correct}
        rows = _score_rows(names, cell, outcomes, samples, scored_on, source_of(cell, config, evaluation))
        rows_by_threat.setdefault(cell.threat, []).extend(rows)
        publish("scores", scores_part(trial_id, evaluation_name, cell, label), rows)
        latents += [names | {"source": source_of(cell, config, evaluation)} | row for row in outcomes.latents]
        if outcomes.broken_at is not None:
            broken_at.append(outcomes.broken_at)
    publish("latents", part_key("latents", trial_id, evaluation_name), [_without(row, "mse") for row in latents])
    if evaluation.strip_cells:
        strip = strip_rows(config, evaluation, materials, purifier, networks.final, retrained)
        publish("strips", part_key("strips", trial_id, evaluation_name), [named | row for row in strip])
    if evaluation.is_checked:
        materials.progress("check", len(evaluation.cells), len(evaluation.cells), {})
        subject = subject_of(config, evaluation, materials, networks, broken_at)
        publish("checks", health_part(trial_id, evaluation_name), [named | row for row in health_rows(subject)])
    score_seconds = time.monotonic() - scoring

    epochs = [("purifier", row) for row in purifier.epochs] + [("retrain", row) for row in (retrained.epochs if retrained else [])]
    if epochs:
        publish("epochs", part_key("epochs", trial_id), [_epoch_row(trial_id, stage, row) for stage, row in epochs])
    ended = datetime.now(UTC)
    where = provenance(materials.device)
    publish(
        "attempts",
        part_key("attempts", trial_id, evaluation_name, "completed"),
        [
            {
                "trial_id": trial_id, "evaluation_id": evaluation_name, "attempt": attempt, "status": "completed", "reason": None, "message": None,
                "host": where["host"], "started": started, "ended": ended,
            }
        ],
    )  # fmt: skip
    clean = next(row for row in latents if row["threat"] == "clean")
    publish("trials", trial_id, [_trial_row(config, purifier.parameters, clean, train_seconds, score_seconds, where, started, ended)])
    adaptive = rows_by_threat.get("adaptive", [])
    return Summary(
        clean_accuracy=next(row["accuracy"] for row in rows_by_threat["clean"] if row["classifier"] == networks.final_name),
        adaptive_accuracy=next((row["accuracy"] for row in adaptive if row["epsilon"] >= evaluation.score_epsilon - 1e-9), None),
        train_seconds=train_seconds,
        score_seconds=score_seconds,
    )


def _score_rows(
    names: dict[str, str], cell: Cell, outcomes: Outcomes, samples: SampleSet, scored_on: dict[str, str], source: str
) -> list[dict[str, Any]]:
    settings = attack_settings(cell)
    rows = []
    for classifier, correct in outcomes.correct.items():
        for index, epsilon in enumerate(cell.epsilons):
            outcome = correct[index].tolist()
            low, high = wilson(sum(outcome), len(outcome))
            is_last = index == len(cell.epsilons) - 1
            rows.append(
                names
                | {
                    "epsilon": epsilon, "source": source, "classifier": classifier, "sample_set": samples.name,
                    "n": len(outcome), "correct": sum(outcome), "accuracy": sum(outcome) / len(outcome), "ci_low": low, "ci_high": high,
                    "outcomes": outcome,
                    "broken_at": outcomes.broken_at.tolist() if outcomes.broken_at is not None and is_last else None,
                    "carried_over": outcomes.carried_over[index] if outcomes.carried_over else None,
                    "attack_label": names["attack"], "attack_settings": settings,
                    "achieved_epsilon": outcomes.achieved_epsilon[index], "seconds": outcomes.seconds / len(cell.epsilons),
                    "forwards": outcomes.forwards // len(cell.epsilons), "backwards": outcomes.backwards // len(cell.epsilons),
                    "crafted_on": outcomes.crafted_on, "scored_on": scored_on[classifier],
                }
            )  # fmt: skip
    return rows


def _epoch_row(trial_id: str, stage: str, row: dict[str, float]) -> dict[str, Any]:
    """Return an epochs row: `commitment_1`, `commitment_2` become one list over depths; terms without a column go to `terms` as JSON."""
    result: dict[str, Any] = {"trial_id": trial_id, "stage": stage}
    others: dict[str, float] = {}
    for name in sorted(row):
        term, _, depth = name.rpartition("_")
        if depth.isdigit() and term in TABLES["epochs"].columns:
            result.setdefault(term, []).append(row[name])
        elif name in TABLES["epochs"].columns:
            result[name] = row[name]
        else:
            others[name] = row[name]
    return result | {"epoch": int(row["epoch"]), "terms": canonical_json(others) if others else None}


def _trial_row(
    config: TrialConfig,
    parameters: int,
    clean: dict[str, Any],
    train_seconds: float,
    score_seconds: float,
    where: dict[str, Any],
    started: datetime,
    ended: datetime,
) -> dict[str, Any]:
    options = {name: value for name, value in config.model_options.items() if name in _OPTION_COLUMNS}
    for name, column in (("vq_levels", "vq_levels"), ("codebook_size", "codebook_sizes")):
        if isinstance(value := options.get(name), list):  # as text, since the column codebook_size holds numbers
            options |= {name: None, column: ",".join(str(entry) for entry in value)}
    row = {
        "trial_id": config.trial_id, "variant_id": config.variant_id, "defense": config.model, "model": config.model, "dataset": config.dataset,
        "scale": config.scale, "seed": config.seed, "target_seed": config.target_seed, "target": config.target.model, **options,
        "train_input": config.train_input, "retrain": config.retrain, "gradient": getattr(find("models", config.model), "GRADIENT", None),
        "config": canonical_json(config), "parameters": parameters,
        "reconstruction_mse": clean["mse"], "psnr": clean["psnr"], "ssim": clean["ssim"],
        "train_seconds": train_seconds, "score_seconds": score_seconds, "started": started, "ended": ended, **where,
    }  # fmt: skip
    if config.network.is_trained:
        row |= {name: getattr(config.training, name) for name in ("num_epochs", "batch_size", "learning_rate")} | _phase_columns(config.training)
    if config.train_input in ("gauss", "mix"):
        row["train_noise"] = config.train_noise
    if config.train_input in ("adv", "mix"):
        row["train_epsilon"] = config.train_epsilon
    if config.retrain != "none":
        row["adversary"] = config.adversary
    if config.adversary != "none":
        row["adversary_epsilon"] = config.adversary_epsilon
    return row


def _phase_columns(training: Training) -> dict[str, float | None]:
    """Return the learning rate and the loss weights that a training's phases share, None for what differs: `config` has it phase by phase."""
    settings = [{"learning_rate": phase.learning_rate, **phase.loss_weights} for phase in training.phases]
    names = settings[0] if settings else {}
    return {
        name: settings[0][name] if len({each[name] for each in settings}) == 1 else None
        for name in names
        if name == "learning_rate" or name in _OPTION_COLUMNS
    }


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
