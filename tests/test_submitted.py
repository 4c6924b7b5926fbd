"""A submitted run is held to what it was planned with: other code or another plan ends it before any work, and its rows know the commit."""

import json
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tiny_sweep import MODEL, SIZES, invoke

from sweeper import cli, lookup
from sweeper.cluster import code
from sweeper.cluster.relay import MARK
from sweeper.provenance import git_commit, identity, provenance
from sweeper.source_tree import code_hash, commit_here, file_hashes
from sweeper.submitted import VARIABLE, environment

SPACE = """
EVALUATION = "quick"


def variants():
    return [{"model": "identity", "retrain": "none", "target/training/num_epochs": 1}]
"""
SEARCH = """
OBJECTIVES = {"robust_score": "max"}


def suggest(trial):
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    return {"num_epochs": 1, "retrain": "none", "target/training/num_epochs": 1, "base_width": 2, "depth": 1}
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a space, in a process that runs nothing and has submitted nothing."""

    def ran(*_: Any, **__: Any) -> None:
        print("it ran")
        raise typer.Exit(0)

    monkeypatch.setattr(cli, "run_plan", ran)
    monkeypatch.setattr(cli, "run_and_print", ran)
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "small.py").write_text(SPACE)
    return tmp_path / "small.py"


def submitted(space: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Submit a run of the space, and return what its job is told."""
    told: list[dict[str, str]] = []

    def submit(_context: object, _sweep: str, _plan: str, parts: dict[str, str], _address: str) -> str:
        told.append(environment(parts))
        return "sweeper-small-1"

    monkeypatch.setattr("sweeper.detach.submit", submit)
    assert invoke("run", space, "--detach", "--address", "http://127.0.0.1:8265", *SIZES).exit_code == 0
    assert list(told[0]) == [VARIABLE]
    return json.loads(told[0][VARIABLE])


@pytest.mark.parametrize("text", [SPACE, SEARCH])
def test_a_run_of_what_was_submitted_runs(text: str, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space.write_text(text)
    monkeypatch.setenv(VARIABLE, json.dumps(submitted(space, monkeypatch)))
    result = invoke("run", space, "--inline", *SIZES)
    assert (result.exit_code, result.stdout) == (0, "it ran\n"), result.stderr


def test_a_run_with_other_code_is_refused_before_anything_is_read(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = submitted(space, monkeypatch) | {"code": "0123456789ab"}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    monkeypatch.setattr(cli, "read_arguments", lambda *_: pytest.fail("read what it was given"))
    result = invoke("run", space, "--inline", *SIZES)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert f"error: the code on the cluster is {code_hash()}, that of the command 0123456789ab: `ray up` brings" in result.stderr


def other_images(space: Path) -> list[object]:
    return ["run", space, "--inline", *SIZES[:-1], "test_images=21"]


def other_text(space: Path) -> list[object]:
    space.write_text(SPACE + "\n# the same, but for this\n")
    return ["run", space, "--inline", *SIZES]


def other_trials(space: Path) -> list[object]:
    return ["run", space, "--inline", *SIZES, "--seeds", "2"]


def other_scoring(space: Path) -> list[object]:
    return ["run", space, "--inline", *SIZES, "--evaluation", "standard"]


@pytest.mark.parametrize(
    ("otherwise", "named", "hint"),
    [
        (other_images, "images", "--data DIR names a folder of the head"),
        (other_text, "search space", "`ray up` brings the command's code there"),
        (other_scoring, "scoring", "it comes of a library's version"),
        (other_trials, "trials", "it comes of a library's version"),
    ],
)
def test_a_run_whose_plan_comes_out_otherwise_is_refused_with_what_differs(
    otherwise: Any, named: str, hint: str, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = submitted(space, monkeypatch)
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    result = invoke(*otherwise(space))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert re.match(rf"error: the plan on the cluster is not the command's \({named} [0-9a-f]{{12}} there, {told['plan'][named]} of", result.stderr)
    assert hint in result.stderr


def test_a_search_of_another_text_is_refused(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space.write_text(SEARCH)
    monkeypatch.setenv(VARIABLE, json.dumps(submitted(space, monkeypatch)))
    space.write_text(SEARCH.replace("1e-3", "1e-4"))
    result = invoke("run", space, "--inline", *SIZES)
    assert result.exit_code == 2
    assert "not the command's (search space " in result.stderr


def test_a_model_that_is_named_otherwise_there_makes_no_other_search(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (space.parent / "there").mkdir()
    for path in (space.parent / "own.py", space.parent / "there/own.py"):
        path.write_text(MODEL)
    space.write_text(SEARCH.replace('"base_width": 2, "depth": 1', ""))
    words = ("--set", f"model={space.parent}/own.py")
    told: list[dict[str, str]] = []
    monkeypatch.setattr("sweeper.detach.submit", lambda *given: told.append(environment(given[3])) or "job")
    assert invoke("run", space, "--detach", "--address", "http://127.0.0.1:8265", *SIZES, *words).exit_code == 0
    monkeypatch.setenv(VARIABLE, told[0][VARIABLE])
    result = invoke("run", space, "--inline", *SIZES, "--set", f"model={space.parent}/there/own.py")
    assert (result.exit_code, result.stdout) == (0, "it ran\n"), result.stderr


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"code": "a"}', '{"code": "a", "plan": 3}'])
def test_a_variable_that_nobody_submitted_is_refused(text: str, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    result = invoke("run", space, "--inline", *SIZES)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{VARIABLE} is set by `run --detach`" in result.stderr


# What rows say


def test_rows_know_the_code_and_the_commit_that_it_was_submitted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"code": code_hash(), "commit": "0123456789ab+", "plan": {}}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    monkeypatch.setattr("sweeper.provenance.commit_here", lambda: None)
    row = provenance(torch.device("cpu"))
    assert row["git_commit"] == "0123456789ab+"
    assert json.loads(row["versions"])["code"] == identity()["code"] == code_hash()
    monkeypatch.setenv(VARIABLE, json.dumps(told | {"code": "another"}))
    assert git_commit() is None
    monkeypatch.setattr("sweeper.provenance.commit_here", lambda: "ours")
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    assert git_commit() == "ours"


# What a head says of its code


class FakeHead:
    """A head that prints this for the one job it is asked to run."""

    address = "http://head"

    def __init__(self, *lines: tuple[bool, str], status: int = 0) -> None:
        self.printed, self.status, self.asked = lines, status, []

    def submit(self, command: str) -> str:
        self.asked.append(command)
        return "job"

    def lines(self, job: str, *, live: bool) -> Generator[tuple[bool, str]]:
        yield from self.printed

    def exit_status(self, job: str) -> int:
        return self.status


def that_has(code_there: str, **files: str | None) -> FakeHead:
    """Return a head with the files that are here but for these, None being missing."""
    there = {path: value for path, value in {**file_hashes(), **files}.items() if value is not None}
    return FakeHead((False, "a warning\n"), (True, json.dumps({"code": code_there, "files": there}) + "\n"))


def check(head: FakeHead) -> None:
    code.check_code(head)  # pyright: ignore[reportArgumentType]


def test_the_same_code_is_taken_and_other_code_named_file_by_file() -> None:
    check(that_has(code_hash()))
    with pytest.raises(ValueError, match=rf"cluster is other, that of the command {code_hash()} \(attacks/fgsm.py differs\): `ray up` brings"):
        check(that_has("other", **{"attacks/fgsm.py": "x"}))
    with pytest.raises(ValueError, match="models/old.py is only there, what was deleted here is to be deleted there by hand"):
        check(that_has("other", **{"models/old.py": "x"}))
    with pytest.raises(ValueError, match="attacks/bim.py differs, attacks/fgsm.py is only here, attacks/pgd.py differs, 1 more differ\\)"):
        check(that_has("other", **{"attacks/fgsm.py": None, "attacks/bim.py": "x", "attacks/pgd.py": "x", "models/unet.py": "x"}))


def test_only_the_search_space_that_is_run_must_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup.find("search_spaces", "smoke")
    monkeypatch.delitem(sys.modules, "search_spaces.schedules", raising=False)  # another test's
    check(that_has(code_hash(), **{"search_spaces/schedules.py": "x", "search_spaces/of_others.py": "x"}))
    with pytest.raises(ValueError, match=r"the search space on the cluster is not that of the command \(search_spaces/smoke.py differs\)"):
        check(that_has(code_hash(), **{"search_spaces/smoke.py": "x"}))


def test_code_that_is_too_old_to_be_asked_is_refused_with_what_it_says() -> None:
    old = FakeHead((False, "python: No module named sweeper.cluster.code\n"), status=1)
    with pytest.raises(ValueError, match=r"cannot say which code it has \(python: No module named sweeper.cluster.code\), that of the command is"):
        check(old)
    assert old.asked == ["python -m sweeper.cluster.code"]


def test_a_head_says_its_code_without_torch_and_ray() -> None:
    script = "import sys; from sweeper.cluster.code import main; main(); assert not {'torch', 'ray', 'pydantic'} & set(sys.modules), 'imported'"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60, cwd=lookup.ROOT).stdout
    assert said.startswith(MARK)
    assert json.loads(said.removeprefix(MARK)) == {"code": code_hash(), "files": file_hashes()}


def test_a_command_says_what_it_was_submitted_with(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = submitted(space, monkeypatch)
    assert (told["code"], told["commit"]) == (code_hash(), commit_here())
    assert set(told["plan"]) == {"images", "search space", "scoring", "trials"}
