"""Make one cell of a stored trial again and hold it to the stored outcomes, image by image.

The networks are the stored ones, or trained anew. Adversarial images and outcomes are always made anew: they come to be in a temporary folder, which
nothing else is read from and nothing is kept of.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.artifacts import Artifacts, Bundle
from sweeper.cells import networks_of, outcomes_of, source_of
from sweeper.config import TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.inspection import trial_named
from sweeper.keys import attack_label, evaluation_id
from sweeper.lookup import register_sources
from sweeper.materials import Materials, Progress, no_progress
from sweeper.provenance import provenance
from sweeper.ranking import CELL, epsilon_of, short
from sweeper.results import Results

Row = dict[str, Any]
NETWORKS = ("classifiers", "purifiers", "retrained")  # kinds of artifacts that are taken from the store
LISTED = 8  # ids of images that differ, as a person reads them


@dataclass(frozen=True)
class Reproduction:
    """What came of it: one row per stored row of the cell, that is per way of scoring, source and classifier."""

    title: str
    rows: list[Row]
    notes: list[str]

    @property
    def is_equal(self) -> bool:
        """Say whether every image has its stored outcome."""
        return not any(row["differing"] for row in self.rows)

    def shown(self) -> list[Row]:
        """Return the rows as a table for people: percent, and the first images that differ."""
        return [_shown(row) for row in self.rows]


class StoredNetworks(Artifacts):
    """Artifacts in a folder of their own that find copies of a results root's networks there, and none of its sets and outcomes.

    Args:
        remedy: What to do about a network that is not there, as the error ends.
    """

    def __init__(self, folder: Path, stored: Artifacts, remedy: str) -> None:
        super().__init__(folder)
        self.stored = stored
        self.remedy = remedy

    def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        """Return a stored network, verified against its own hash, or make what is no network.

        Raises:
            ValueError: If a network is not stored, or its file is damaged.
        """
        if kind not in NETWORKS:
            return super().get_or_create(kind, key, make)
        name = self.name(kind, key)
        place = self.stored.store.shown(name)
        try:
            content = self.stored.store.read(name)
        except FileNotFoundError:
            raise ValueError(f"a network of this trial is not stored: {place}; {self.remedy}") from None
        self.store.create(name, content)  # a copy: a damaged file would be moved away
        bundle = self.load(kind, key)
        if bundle is None:
            raise ValueError(f"the stored network {place} is damaged; {self.remedy}")
        return bundle


def reproduce(
    results: Results,
    trial: str,
    cell: str,
    *,
    evaluation: str = "",
    data_root: Path | None = None,
    from_scratch: bool = False,
    progress: Progress = no_progress,
) -> Reproduction:
    """Return what a stored cell gives when it is crafted and scored again on this machine; the results root stays as it is.

    Args:
        trial: The first characters of a trial's id.
        cell: THREAT/ATTACK@EPSILON, as `rank --by` takes it. Its whole grid is made, since an adaptive curve carries over, and compared there.
        evaluation: The first characters of an evaluation's id, where the trial was scored in several ways; else all that hold the cell.
        from_scratch: Train all networks anew instead of taking the stored ones.

    Raises:
        ValueError: If the trial is unknown or not completed, the cell is not stored (the message lists those that are), its evaluation is not
            recorded, a network is not at hand, or the images here are others.
    """
    register_sources(results.kept_sources())
    name = trial_named(results, trial)
    found = results.read("trials", ["config", "git_commit", "device", "versions"], {"trial_id": name}).to_pylist()
    if not found:
        raise ValueError(f"trial {name[:12]} is not completed, so nothing of it can be compared; `status SPACE` says how far it is")
    stored_rows = _stored_rows(results, name, cell, evaluation)
    evaluations = {wanted: _recorded(results, wanted) for wanted in dict.fromkeys(row["evaluation_id"] for row in stored_rows)}
    config = TrialConfig.model_validate(json.loads(found[0]["config"]))
    notes = _of_other_code(config, name, evaluations, found[0]["git_commit"], from_scratch)
    with tempfile.TemporaryDirectory(prefix="sweeper-reproduce-") as folder:
        stored = StoredNetworks(Path(folder), Artifacts(results.store), "--from-scratch trains all of them anew")
        artifacts = Artifacts(Path(folder)) if from_scratch else stored
        device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        rows = _made_again(config, evaluations, stored_rows, Materials(artifacts, data_root, device, progress))
    notes += _verdict(rows, from_scratch) + _of_other_machine(found[0], provenance(device), rows)
    return Reproduction(f"{cell} of trial {name}: stored and made again", rows, notes)


def _stored_rows(results: Results, name: str, cell: str, evaluation: str) -> list[Row]:
    """Return the rows of `scores` that a cell's name means: one per way of scoring, source and classifier."""
    columns = ["evaluation_id", "threat", "attack", "source", "epsilon", "classifier", "sample_set", "n", "accuracy", "crafted_on", "scored_on"]
    rows = results.read("scores", [*columns, "outcomes"], {"trial_id": name}).to_pylist()
    rows = [row for row in rows if row["evaluation_id"].startswith(evaluation)]
    asked = CELL.fullmatch(cell)
    epsilon = epsilon_of(asked["epsilon"]) if asked else 0.0
    mine = [
        row for row in rows if asked and (row["threat"], row["attack"]) == (asked["threat"], asked["attack"]) and abs(row["epsilon"] - epsilon) < 1e-9
    ]
    if mine:
        return sorted(mine, key=lambda row: (row["evaluation_id"], row["source"], row["classifier"]))
    grids: dict[str, set[float]] = {}
    for row in rows:
        grids.setdefault(f"{row['threat']}/{row['attack']}", set()).add(row["epsilon"])
    there = "; ".join(f"{curve}@{', '.join(map(short, sorted(grids[curve])))}" for curve in sorted(grids))
    under = f" under an evaluation that begins with {evaluation!r}" if evaluation else ""
    raise ValueError(f"no cell {cell!r} of trial {name[:12]}{under}; a cell is THREAT/ATTACK@EPSILON, and there are: {there or 'none'}")


def _recorded(results: Results, wanted: str) -> EvaluationConfig:
    rows = results.read("evaluations", ["config"], {"evaluation_id": wanted}).to_pylist()
    if not rows:
        raise ValueError(
            f"evaluation {wanted[:12]} has no row in table evaluations, as an earlier version left it; the same `run` again with this version "
            "records it, and computes nothing that is stored"
        )
    return EvaluationConfig.model_validate(json.loads(rows[0]["config"]))


def _of_other_code(config: TrialConfig, name: str, evaluations: dict[str, EvaluationConfig], git_commit: str | None, from_scratch: bool) -> list[str]:
    """Return notes on code whose version has risen since; networks that have other keys now cannot be found."""
    commit = f" (commit {git_commit})" if git_commit else ""
    notes = []
    if config.trial_id != name:
        sentence = (
            f"by the versions of the code here this configuration is another trial, {config.trial_id[:12]}: its training has changed since{commit}"
        )
        if not from_scratch:
            raise ValueError(f"{sentence}, so its networks cannot be found; check out the code of then, or give --from-scratch")
        notes.append(f"Note: {sentence}.")
    if any(evaluation_id(config, evaluation) != wanted for wanted, evaluation in evaluations.items()):
        notes.append(f"Note: attacks or scoring have another version here than when the outcomes were stored{commit}.")
    return notes


def _made_again(config: TrialConfig, evaluations: dict[str, EvaluationConfig], stored_rows: Sequence[Row], materials: Materials) -> list[Row]:
    """Return the stored rows beside what the same cells give now."""
    torch.set_num_threads(config.numerics.threads)
    networks = networks_of(config, materials)
    compared = []
    for wanted, source in dict.fromkeys((row["evaluation_id"], row["source"]) for row in stored_rows):
        mine = [row for row in stored_rows if (row["evaluation_id"], row["source"]) == (wanted, source)]
        evaluation = evaluations[wanted]
        cell = _cell_of(mine[0], config, evaluation)
        samples = materials.samples(config, evaluation, cell.images)
        outcomes = outcomes_of(config, evaluation, cell, materials, networks)
        index = min(range(len(cell.epsilons)), key=lambda place: abs(cell.epsilons[place] - mine[0]["epsilon"]))
        for row in mine:
            if row["sample_set"] != samples.name or len(row["outcomes"]) != len(samples.sample_ids):
                raise ValueError(
                    f"the stored outcomes are of {len(row['outcomes'])} images, {row['sample_set']}, and here the cell is of {samples.name}"
                )
            now = outcomes.correct[row["classifier"]][index].tolist()
            pairs = zip(samples.sample_ids, row["outcomes"], now, strict=True)
            weights = networks.scored_on(row["classifier"])
            compared.append(
                {name: row[name] for name in ("evaluation_id", "source", "classifier", "n")}
                | {"stored_accuracy": row["accuracy"], "new_accuracy": sum(now) / len(now)}
                | {"differing": [image for image, before, after in pairs if before != after]}
                | {"same_weights": (row["scored_on"], row["crafted_on"]) == (weights, outcomes.crafted_on)}
            )
    return compared


def _cell_of(row: Row, config: TrialConfig, evaluation: EvaluationConfig) -> Cell:
    wanted = (row["threat"], row["attack"], row["source"])
    for cell in evaluation.cells:
        if (cell.threat, attack_label(cell, evaluation), source_of(cell, config, evaluation)) == wanted:
            return cell
    raise ValueError(f"evaluation {row['evaluation_id'][:12]} as it is recorded has no cell {'/'.join(wanted)}")


def _verdict(rows: Sequence[Row], from_scratch: bool) -> list[str]:
    differing, compared = sum(len(row["differing"]) for row in rows), sum(row["n"] for row in rows)
    share = max(len(row["differing"]) / row["n"] for row in rows)
    notes = [f"All {compared} outcomes are equal."]
    if differing:
        notes = [
            f"{differing} of {compared} outcomes differ, up to {100 * share:.2g} % of the images. Another device, thread count or torch version may "
            f"flip at most 1 % of images{'; this is more, so it has another reason' if share > 0.01 else ''}."
        ]
    if not all(row["same_weights"] for row in rows):
        why = "trained anew, they came out otherwise" if from_scratch else "the stored networks are not those that the outcomes were made with"
        notes.append(f"The weights are others: {why}.")
    return notes


def _of_other_machine(stored: Row, here: Row, rows: Sequence[Row]) -> list[str]:
    """Return what the trial was made on beside what it is made on here: where these differ, and wherever an outcome does."""
    before = (stored["device"], json.loads(stored["versions"] or "{}").get("torch"))
    now = (here["device"], json.loads(here["versions"])["torch"])
    if before == now and not any(row["differing"] for row in rows):
        return []
    return ["Stored: {}, torch {}; here: {}, torch {}.".format(*before, *now)]


def _shown(row: Row) -> Row:
    images = row["differing"]
    named = ", ".join(images[:LISTED]) + (f" and {len(images) - LISTED} more" if len(images) > LISTED else "")
    return {
        "evaluation": row["evaluation_id"][:12], "source": row["source"], "classifier": row["classifier"], "n": row["n"],
        "stored %": f"{100 * row['stored_accuracy']:.1f}", "new %": f"{100 * row['new_accuracy']:.1f}", "differing": len(images),
        "images that differ": named, "weights": "agree" if row["same_weights"] else "differ",
    }  # fmt: skip
