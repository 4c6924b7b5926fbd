"""`reproduce`: one stored cell made again from the tables and the stored networks, or from nothing, and held to what is stored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from pyarrow.fs import LocalFileSystem
from small_sweep import SETTINGS, Silent, SmallSweep
from tiny_sweep import Swept, invoke, tiny_sweep

from sweeper import lookup, parquet
from sweeper.artifacts import Artifacts, Bundle
from sweeper.datasets import Splits
from sweeper.plan import from_space
from sweeper.results import Results
from sweeper.sweep import inline, run_sweep

CELLS = [  # such as some images survive and some do not
    ("quantize", "clean/none@0"),
    ("quantize", "graybox/pgd@0.1"),
    ("quantize", "graybox/cw@0.1"),
    ("quantize", "transfer/bim@0.1"),
    ("reference", "adaptive/pgd@0.0375"),
]


@pytest.fixture(scope="module")
def bare(sweep: SmallSweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sweep's results without its adversarial sets and outcomes, which nothing may need. Read it only."""
    return without(sweep.root, tmp_path_factory.mktemp("bare") / "results", "adversarial", "outcomes")


@pytest.fixture
def copied(bare: Path, tmp_path: Path) -> Path:
    return without(bare, tmp_path / "results")


def without(root: Path, place: Path, *names: str) -> Path:
    """Copy a root as parts only, so that a changed part is not made up for by a compacted file."""
    shutil.copytree(root, place, ignore=shutil.ignore_patterns("compacted", "manifests", *names))
    return place


def trial_of(sweep: SmallSweep, label: str = "quantize") -> str:
    return next(trial.trial_id for trial in sweep.plan.trials if trial.label.startswith(label))


def made_again(root: Path, *words: object, status: int = 0) -> list[dict[str, Any]]:
    result = invoke("reproduce", *words, "--results", root, "--format", "json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def refused(root: Path, *words: object) -> str:
    result = invoke("reproduce", *words, "--results", root)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.stderr
    return result.stderr.replace("\n", " ")


def rewrite(root: Path, table: str, trial_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Plant a fault: write a trial's parts of a table anew with every row changed."""
    for path in sorted((root / "parts" / table).rglob("*.parquet")):
        rows = parquet.dataset(table, LocalFileSystem(), [str(path)]).to_table().to_pylist()
        if rows[0]["trial_id"] == trial_id:
            path.write_bytes(parquet.encode(table, parquet.to_arrow(table, map(change, rows))))


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize(("label", "cell"), CELLS)
def test_a_cell_comes_out_as_stored_without_stored_sets_or_outcomes(label: str, cell: str, sweep: SmallSweep, bare: Path) -> None:
    before = files(bare)
    rows = made_again(bare, trial_of(sweep, label)[:8], cell)
    final = ["retrained"] if cell.startswith("adaptive") else ["original", "retrained", *(["unfiltered"] if cell.startswith("clean") else [])]
    assert [row["classifier"] for row in rows] == final
    assert all(row["differing"] == [] and row["same_weights"] and row["n"] == 24 for row in rows)
    assert all(0 < row["new_accuracy"] == row["stored_accuracy"] < 1 for row in rows)
    assert files(bare) == before


def test_a_trial_without_training_is_made_again_too(sweep: SmallSweep, bare: Path) -> None:
    (row,) = made_again(bare, trial_of(sweep, "model=identity"), "adaptive/pgd@0.0125")
    assert (row["classifier"], row["differing"], row["same_weights"]) == ("original", [], True)


def test_a_table_for_people_says_that_all_is_equal(sweep: SmallSweep, bare: Path) -> None:
    result = invoke("reproduce", trial_of(sweep)[:8], "clean/none@0", "--results", bare)
    assert result.exit_code == 0
    assert "agree" in result.stdout and "All 72 outcomes are equal." in result.stdout
    assert "Stored:" not in result.stdout  # one machine


def test_from_scratch_needs_no_artifact_at_all(sweep: SmallSweep, copied: Path) -> None:
    shutil.rmtree(copied / "artifacts")
    before = files(copied)
    assert "a network of this trial is not stored: " in refused(copied, trial_of(sweep), "graybox/pgd@0.1")
    rows = made_again(copied, trial_of(sweep), "graybox/pgd@0.1", "--from-scratch")
    assert [(row["differing"], row["same_weights"]) for row in rows] == [([], True)] * 2
    assert files(copied) == before


def test_an_outcome_that_was_tampered_with_is_found_and_its_image_named(sweep: SmallSweep, copied: Path) -> None:
    name = trial_of(sweep)
    row = Results(copied).read("scores", where={"trial_id": name, "threat": "clean", "classifier": "retrained"}).to_pylist()[0]
    ids = Results(copied).read("sample_sets", ["sample_ids"], {"sample_set": row["sample_set"]}).to_pylist()[0]["sample_ids"]

    def tamper(row: dict[str, Any]) -> dict[str, Any]:
        outcomes = row["outcomes"]
        return row | {"outcomes": [*outcomes[:7], not outcomes[7], *outcomes[8:]]} if row["classifier"] == "retrained" else row

    rewrite(copied, "scores", name, tamper)
    found = {row["classifier"]: row for row in made_again(copied, name, "clean/none@0", status=1)}
    assert {classifier: row["differing"] for classifier, row in found.items()} == {"original": [], "retrained": [ids[7]], "unfiltered": []}
    assert found["retrained"]["same_weights"]
    said = invoke("reproduce", name, "clean/none@0", "--results", copied).stdout
    assert ids[7] in said
    assert "1 of 72 outcomes differ, up to 4.2 % of the images. Another device, thread count or torch version may flip at most 1 %" in said
    assert "this is more, so it has another reason" in said
    assert said.count("cpu, torch ") == 2  # stored, and here


def test_another_device_and_torch_version_are_said_although_all_is_equal(sweep: SmallSweep, copied: Path) -> None:
    rewrite(copied, "trials", trial_of(sweep), lambda row: row | {"device": "abacus", "versions": '{"torch": "0.1"}'})
    result = invoke("reproduce", trial_of(sweep), "clean/none@0", "--results", copied)
    assert result.exit_code == 0
    assert "Stored: abacus, torch 0.1; here: cpu, torch " in result.stdout


def test_other_weights_than_those_scored_are_told_from_the_rows(sweep: SmallSweep, copied: Path) -> None:
    artifacts, key = Artifacts(copied), sweep.plan.trials[1].config.retrained_key
    assert key is not None
    stored = artifacts.load("retrained", key)
    assert stored is not None
    artifacts.store.local_path(artifacts.name("retrained", key)).unlink()
    artifacts.put("retrained", key, Bundle({name: tensor * 0 for name, tensor in stored.tensors.items()}, stored.info))
    found = {row["classifier"]: row for row in made_again(copied, trial_of(sweep), "clean/none@0", status=1)}
    assert {name: row["same_weights"] for name, row in found.items()} == {"original": True, "retrained": False, "unfiltered": True}
    assert found["retrained"]["differing"] and not found["original"]["differing"]
    said = invoke("reproduce", trial_of(sweep), "clean/none@0", "--results", copied).stdout
    assert "the stored networks are not those that the outcomes were made with" in said


def test_a_damaged_network_is_named_and_left_where_it_is(sweep: SmallSweep, copied: Path) -> None:
    path = copied / Artifacts(copied).name("classifiers", sweep.plan.trials[0].config.target_key)
    path.write_bytes(path.read_bytes()[:-4])
    assert f"the stored network {path} is damaged; --from-scratch" in refused(copied, trial_of(sweep), "clean/none@0")
    assert path.exists()


def test_a_trial_scored_in_two_ways_is_compared_in_each_with_twin_attacks_told_apart(
    sweep: SmallSweep, bare: Path, splits: Splits, tmp_path: Path
) -> None:
    root = without(bare, tmp_path / "results")
    attacks = [{"attack": "pgd", "options": {"num_steps": 2}, "threats": ["graybox"], "epsilons": [0.05]}]
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [{"quantize": False, "victim": "retrained"}], ATTACKS=attacks, EVALUATION="quick"))
    plan = from_space("twins", space, fingerprint=splits.fingerprint, settings=SETTINGS, epsilons=(0.05, 0.1))
    ended = run_sweep(plan, splits, root, None, inline, Silent())
    assert [end.status for end in ended] == ["completed"], [end.message for end in ended]
    trial = plan.trials[0]
    assert trial.trial_id == trial_of(sweep)

    ways = {row["evaluation_id"] for row in made_again(root, trial.trial_id, "clean/none@0")}
    assert ways == {trial.evaluation_id, sweep.plan.trials[0].evaluation_id}
    chosen = made_again(root, trial.trial_id, "clean/none@0", "--evaluation", trial.evaluation_id[:10])
    assert {row["evaluation_id"] for row in chosen} == {trial.evaluation_id}
    rows = (
        Results(root).read("scores", ["attack"], {"trial_id": trial.trial_id, "evaluation_id": trial.evaluation_id, "threat": "graybox"}).to_pylist()
    )
    labels = sorted({row["attack"] for row in rows})
    assert len(labels) == 2 and all(label.startswith("pgd#") for label in labels)
    for label in labels:
        again = made_again(root, trial.trial_id, f"graybox/{label}@0.05")
        assert [(row["source"], row["differing"], row["same_weights"]) for row in again] == [("retrained", [], True)] * 2


def test_without_its_evaluation_a_cell_cannot_be_made_and_run_is_named_as_the_way_out(sweep: SmallSweep, copied: Path) -> None:
    shutil.rmtree(copied / "parts" / "evaluations")
    said = refused(copied, trial_of(sweep), "clean/none@0")
    assert f"evaluation {sweep.plan.trials[0].evaluation_id[:12]} has no row in table evaluations" in said
    assert "the same `run` again with this version records it" in said


def test_a_configuration_that_is_another_trial_by_now_is_refused(sweep: SmallSweep, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.config.TRAINING_VERSION", 99)
    said = refused(copied, trial_of(sweep), "clean/none@0")
    assert "its training has changed since" in said
    assert "--from-scratch" in said


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("adaptive/pgd@0.06", "no cell 'adaptive/pgd@0.06' of trial "),
        ("adaptive/pgd@0.06", "there are: adaptive/pgd@0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.3; adaptive_soft/pgd@0.0125, "),
        ("adaptive/fgsm@0.05", "no cell 'adaptive/fgsm@0.05'"),
        ("pgd", "a cell is THREAT/ATTACK@EPSILON, and there are: "),
        ("adaptive/pgd@1/0", "an epsilon is a number or a fraction such as 8/255, got '1/0'"),
        ("", "no cell ''"),
    ],
)
def test_an_unknown_cell_is_refused_with_those_there_are(cell: str, message: str, sweep: SmallSweep, bare: Path) -> None:
    assert message in refused(bare, trial_of(sweep), cell)


def test_other_nonsense_is_refused(sweep: SmallSweep, bare: Path, tmp_path: Path) -> None:
    name = trial_of(sweep)
    assert "no trial begins with 'zz'" in refused(bare, "zz", "clean/none@0")
    assert "3 trials begin with ''" in refused(bare, "", "clean/none@0")
    assert "under an evaluation that begins with 'zz'" in refused(bare, name, "clean/none@0", "--evaluation", "zz")
    assert "no format named 'yaml'" in refused(bare, name, "clean/none@0", "--format", "yaml")
    assert "no results under" in refused(tmp_path, name, "clean/none@0")


def test_a_trial_that_is_not_completed_is_refused(sweep: SmallSweep, copied: Path) -> None:
    (path,) = (copied / "parts" / "trials").rglob(f"{trial_of(sweep)}.parquet")
    path.unlink()
    assert "is not completed" in refused(copied, trial_of(sweep), "clean/none@0")


def test_the_users_own_model_is_found_under_the_root_unless_it_was_changed_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    swept: Swept = tiny_sweep()
    (own,) = (row for row in Results(swept.root).read("trials", ["trial_id", "model"]).to_pylist() if row["model"].startswith("file:smoother@"))
    words = (own["trial_id"], "transfer/fgsm@0.1")

    def forget() -> None:  # as in a process that has read no file of the user's
        monkeypatch.setattr(lookup, "_sources", {})
        lookup._load_source.cache_clear()

    forget()
    assert all(row["differing"] == [] for row in made_again(swept.root, *words))
    changed = tmp_path / "changed"
    shutil.copytree(swept.root, changed)
    (changed / "sources" / f"{own['model'].removeprefix('file:')}.py").write_text("changed = True\n")
    forget()
    assert f"the source of '{own['model']}' is not at hand; give the path of the file itself" in refused(changed, *words)
