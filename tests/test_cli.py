"""The command line as its users meet it: what it prints where, how it ends, and what it says to bad input."""

import csv
import errno
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import SIZES, Swept, invoke, run_again, tiny_sweep

from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.tables import print_rows

READING = (("rank", "tiny"), ("status",), ("status", "tiny"), ("query", "select count(*) as n from scores"), ("doctor",))
SHORT = {"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1}


@pytest.fixture(scope="session")
def swept() -> Swept:
    return tiny_sweep()


@pytest.fixture
def copied(swept: Swept, tmp_path: Path) -> Path:
    """The same results as parts only, so that a damaged part is not made up for by a compacted file."""
    root = tmp_path / "copy"
    shutil.copytree(swept.root, root, ignore=shutil.ignore_patterns("compacted", "manifests"))
    return root


def write_space(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def outcomes(root: Path) -> dict[tuple[Any, ...], list[bool]]:
    rows = Results(root).read("scores", ["trial_id", "threat", "attack", "epsilon", "classifier", "outcomes"]).to_pylist()
    return {tuple(row.values())[:-1]: row["outcomes"] for row in rows}


# Running


def test_run_ends_with_a_ranking_on_standard_output_and_progress_on_standard_error(swept: Swept) -> None:
    assert swept.result.exit_code == 0, swept.result.stderr
    assert swept.result.stdout.startswith("tiny on digits (small, standard), by robust_score\n")
    assert "[3/3]" in swept.result.stderr and "[3/3]" not in swept.result.stdout


def test_running_again_makes_nothing_and_ranks_the_same(swept: Swept) -> None:
    again = run_again(swept, swept.root)
    assert again.exit_code == 0
    assert "0 trials to run, 3 stored already, 0 shared stages to make" in again.stderr
    assert again.stdout == swept.result.stdout


def test_the_users_own_model_is_a_trial_like_any_other(swept: Swept) -> None:
    rows = Results(swept.root).read("trials", ["model", "parameters"]).to_pylist()
    (own,) = (row for row in rows if row["model"].startswith("file:smoother@"))
    assert own["parameters"] == (9 * 2) + 2 * 2 + (9 * 2 + 1)  # convolution, normalization, convolution with bias


def test_a_failing_trial_is_named_with_its_log_and_the_others_go_on(tmp_path: Path, swept: Swept) -> None:
    model = write_space(
        tmp_path, swept.model.read_text().replace("loss = F.mse_loss", "raise RuntimeError('boom')\n        loss = F.mse_loss"), "bad.py"
    )
    variants = [{**SHORT, "model": str(model)}, {**SHORT, "model": "identity", "retrain": "none"}]
    space = write_space(tmp_path, f"EVALUATION = 'quick'\ndef variants():\n    return {variants!r}\n")
    words = ("run", space, "--inline", "--results", tmp_path / "results", *SIZES)

    first = invoke(*words)
    assert first.exit_code == 1
    assert "failed (bug): trial" in first.stderr and "boom; log: " in first.stderr
    log = Path(first.stderr.rpartition("boom; log: ")[2].split("\n")[0])
    assert "RuntimeError: boom" in log.read_text()
    assert "1 of 2 trials completed" in first.stdout

    second = invoke(*words)
    assert second.exit_code == 1
    assert "0 trials to run" in second.stderr and "--retry-failed" in second.stderr
    assert "1 trials to run" in invoke(*words, "--retry-failed").stderr
    states = json.loads(invoke("status", "own", "--results", tmp_path / "results", "--format", "json").stdout)
    assert [row["status"] for row in states] == ["failed", "completed"]
    assert states[0]["reason"] == "bug" and states[0]["log"] == str(log)


def test_an_interrupted_run_ends_with_130(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeper.sweep.inline", interrupted)
    result = run_again(swept, tmp_path / "results")
    assert result.exit_code == 130
    assert "the same command continues" in result.stderr


def test_a_dry_run_and_a_plan_say_the_same_and_write_nothing(swept: Swept, tmp_path: Path) -> None:
    root = tmp_path / "results"
    planned = invoke("plan", swept.space, "--results", root, "--epsilons", "0.1", *SIZES)
    dry = invoke("run", swept.space, "--results", root, "--epsilons", "0.1", *SIZES, "--dry-run")
    assert planned.exit_code == dry.exit_code == 0
    assert planned.stdout == dry.stdout
    assert "3 of 3 trials to run" in planned.stdout
    assert not root.exists()


def test_a_plan_names_what_is_stored(swept: Swept) -> None:
    result = invoke("plan", swept.space, "--results", swept.root, "--epsilons", "0.1", *SIZES, "--format", "json")
    rows = json.loads(result.stdout)
    assert {row["what"] for row in rows} == {"shared stage", "trial"}
    assert all(row["state"] == "stored" and row["seconds"] == 0 for row in rows)
    assert "0 of 3 trials to run" in result.stderr


def test_an_estimate_takes_no_other_evaluations_trials_for_its_own(swept: Swept) -> None:
    quick = invoke("plan", "smoke", "--results", swept.root)
    assert "a rough guess" in quick.stderr + quick.stdout
    more = invoke("plan", swept.space, "--results", swept.root, "--epsilons", "0.1", "--seeds", "2", *SIZES)
    assert "3 of 6 trials to run" in more.stdout and "from 3 measured trials here" in more.stdout


def test_one_trial_runs_from_its_stored_configuration(swept: Swept, copied: Path, tmp_path: Path) -> None:
    config = Results(swept.root).read("trials", ["trial_id", "config"], {"model": "identity"}).to_pylist()[0]
    path = tmp_path / "config.json"
    quick = evaluation("quick", "digits", "small").model_dump(mode="json")
    path.write_text(json.dumps({"config": json.loads(config["config"]), "evaluation": quick}))
    result = invoke("trial", path, "--results", copied)
    assert result.exit_code == 0, result.stderr
    assert config["trial_id"] in result.stdout


# Reading


@pytest.mark.parametrize("words", [*READING[:-1], ("plan", "smoke"), ("data", "list")], ids=" ".join)
def test_json_is_alone_on_standard_output(swept: Swept, words: tuple[str, ...]) -> None:
    root = () if words[0] == "data" else ("--results", swept.root)
    result = invoke(*words, *root, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert isinstance(json.loads(result.stdout), list)


@pytest.mark.parametrize("format", ["table", "csv", "markdown", "latex"])
@pytest.mark.parametrize("words", [*READING[:-1], ("plan", "smoke"), ("data", "list")], ids=" ".join)
def test_every_table_prints_in_every_format(swept: Swept, words: tuple[str, ...], format: str) -> None:
    root = () if words[0] == "data" else ("--results", swept.root)
    result = invoke(*words, *root, "--format", format)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()


def test_a_ranking_has_graybox_and_adaptive_side_by_side_and_says_what_they_mean(swept: Swept) -> None:
    result = invoke("rank", "tiny", "--results", swept.root, "--format", "markdown")
    columns = [name.strip() for name in result.stdout.splitlines()[0].split("|")]
    assert columns.index("graybox@0.1 %") == columns.index("adaptive@0.1 %") + 1
    assert "One seed" in result.stderr and "does not know the purifier" in result.stderr


def test_ranking_rows_have_intervals_and_no_variant_is_dropped(swept: Swept) -> None:
    rows = json.loads(invoke("rank", "tiny", "--results", swept.root, "--format", "json").stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["ci_low"] <= row["robust_score"] <= row["ci_high"] <= 1 for row in rows)


@pytest.mark.parametrize("by", ["clean", "psnr", "seconds", "graybox/pgd@0.1", "adaptive/pgd@0.025", "transfer/cw@0.1"])
def test_a_ranking_by_another_quantity_is_sorted_by_it(swept: Swept, by: str) -> None:
    result = invoke("rank", "tiny", "--results", swept.root, "--by", by, "--format", "json")
    values = [row[by] for row in json.loads(result.stdout) if row.get(by) is not None]
    assert values == sorted(values, reverse=by != "seconds") and values


def test_a_trial_is_shown_from_the_first_characters_of_its_id(swept: Swept) -> None:
    name = Results(swept.root).read("trials", ["trial_id"], {"model": "vqunet"}).to_pylist()[0]["trial_id"]
    shown = json.loads(invoke("show", name[:8], "--results", swept.root, "--format", "json").stdout)
    assert [row["trial_id"] for row in shown["trials"]] == [name]
    assert [row["depth"] for row in shown["codebooks"]] == [1]
    assert {row["threat"] for row in shown["scores"]} == {"clean", "graybox", "transfer", "adaptive", "adaptive_soft"}
    text = invoke("show", name[:8], "--results", swept.root).stdout
    assert "adaptive, crafted on the whole defense" in text and "perplexity" in text
    assert invoke("show", name[:8], "--results", swept.root, "--format", "csv").exit_code == 0


def test_csv_holds_the_values_themselves(swept: Swept) -> None:
    result = invoke("query", "select accuracy, ci_low, outcomes from scores where n = 20 limit 1", "--results", swept.root, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    exact = [score for score in Results(swept.root).read("scores", ["ci_low"]).to_pylist() if score["ci_low"] == float(row["ci_low"])]
    assert exact and len(json.loads(row["outcomes"])) == 20


def test_compacting_reports_what_it_did(copied: Path) -> None:
    before = outcomes(copied)
    assert "files merged into" in invoke("compact", "--results", copied).stdout
    assert invoke("compact", "--results", copied).stdout.startswith("nothing to merge")
    assert "replaced files deleted" in invoke("compact", "--results", copied, "--grace-hours", "0").stdout
    assert outcomes(copied) == before


def test_reading_commands_import_neither_torch_nor_ray(swept: Swept) -> None:
    commands = [[*words, "--results", str(swept.root)] for words in READING]
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
for words in {commands!r}:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.stderr)
    assert not {{"torch", "ray"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_closed_pipe_is_no_error(swept: Swept) -> None:
    command = f"{sys.executable} -m sweeper query 'select * from scores, samples' --results {swept.root} --format csv | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("trial_id,")


# Tables on terminals

RANKING = [
    {"rank": 1, "variant": "codebook_size=256", "robust_score %": "63.8 [59.5, 67.6]", "adaptive@0.1 %": "24.6", "graybox@0.1 %": "95.4",
     "transfer@0.1 %": "93.3", "clean %": "97.8", "drop": "+1.0", "perplexity": "157 138 100", "seeds": "2 of 3", "seconds": "77"},
    {"rank": "-", "variant": "model=identity, retrain=none", "robust_score %": "missing", "adaptive@0.1 %": "", "graybox@0.1 %": "",
     "transfer@0.1 %": "", "clean %": "", "drop": "", "perplexity": "", "seeds": "0 of 3", "seconds": ""},
]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 110, 140])
def test_a_ranking_fits_the_terminal_without_breaking_an_interval(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    print_rows(RANKING, "table", droppable=("seconds", "seeds", "perplexity"))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert all(len(line) <= width for line in printed.splitlines())
    (row,) = (line for line in printed.splitlines() if "codebook_size=256" in line)
    assert "63.8 [59.5, 67.6]" in row and "24.6" in row and "95.4" in row
    assert ("157 138 100" in row) == ("perplexity" not in printed.partition("Left out")[2])
    assert ("Left out" in printed) == (width < 110)


def test_a_pipe_gets_every_column_unwrapped(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"words": "one two three " * 30, "number": 1.23456}], "table")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].rstrip().endswith("1.235")


def test_columns_of_later_rows_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"a": 1}, {"a": 2, "b": 3}], "csv")
    assert capsys.readouterr().out == "a,b\n1,\n2,3\n"


def test_latex_takes_a_cell_in_brackets_for_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"a_b": "[1, 2]", "c": "5 %"}], "latex")
    assert r"{}[1, 2] & 5 \% \\" in capsys.readouterr().out


# Bad input: a sentence, exit status 2, and nothing is written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "ablation"), "no search space named 'ablation' (did you mean 'ablations'?); available: ablations, "),
        (("run", "nothing.py"), "cannot read nothing.py: No such file"),
        (("run", "smoke", "--set", "codebok_size=3"), "unknown trial setting 'codebok_size' (did you mean 'codebook_size'?)"),
        (("run", "smoke", "--set", "trainig/num_epochs=3"), "unknown trial setting 'trainig/num_epochs' (did you mean 'training'?)"),
        (("run", "smoke", "--set", "model_options/codebok_size=3"), "did you mean 'codebook_size'?"),
        (("run", "smoke", "--set", "codebook_size=0"), "codebook_size must be a whole number of at least 1, got 0"),
        (("run", "smoke", "--set", "codebook_size=8.5"), "got 8.5"),
        (("run", "smoke", "--set", "learning_rate=-1"), "greater than 0, got -1"),
        (("run", "smoke", "--set", "beta=NaN"), "got nan"),
        (("run", "smoke", "--set", "train_images=many"), "train_images must be a whole number, or null for all images, got 'many'"),
        (("run", "smoke", "--set", "seeds=3"), "seeds is an option of its own: --seeds 3"),
        (("run", "smoke", "--set", "codebook_size"), "--set takes KEY=VALUE, got 'codebook_size'"),
        (("run", "smoke", "--set", "model=vqunett"), "no model named 'vqunett' (did you mean 'vqunet'?)"),
        (("run", "smoke", "--epsilons", "8"), "epsilon must be in [0, 1] in units of the pixel range, got 8; did you mean 8/255?"),
        (("run", "smoke", "--epsilons", "0.1,many"), "an epsilon is a number or a fraction such as 8/255, got 'many'"),
        (("run", "smoke", "--scale", "smal"), "no scale named 'smal' (did you mean 'small'?)"),
        (("run", "smoke", "--dataset", "digit"), "no data set named 'digit' (did you mean 'digits'?)"),
        (("run", "smoke", "--dataset", "fashion-mnist", "--data", "nowhere"), "data folder nowhere of 'fashion_mnist' does not exist"),
        (("run", "smoke", "--evaluation", "standart"), "no evaluation named 'standart' (did you mean 'standard'?); available: quick, standard, full"),
        (("run", "smoke", "--split", "validatoin"), "no split named 'validatoin' (did you mean 'validation'?); available: test, validation"),
        (("run", "smoke", "--seeds", "0"), "seeds must be at least 1, got 0"),
        (("run", "smoke", "--gpus-per-trial", "-1"), "--gpus-per-trial must be at least 0, got -1"),
        (("run", "smoke", "--cpus-per-trial", "0"), "--cpus-per-trial must be above 0, got 0"),
        (("run", "smoke", "--max-concurrent", "0"), "--max-concurrent"),
        (("plan", "smoke", "--format", "jsn"), "no format named 'jsn'; available: table, "),
        (("rank", "smoke"), "no results under"),
        (("select", "smoke"), "no results under"),
        (("trial", "nothing.json"), "cannot read a trial from nothing.json"),
        (("query", " "), "query takes a statement"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_a_bad_argument_is_refused_before_any_work(words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*words, *(["--inline"] if words[0] == "run" else []))
    assert result.exit_code == 2, result.output
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr and not result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"""x"""\n\n\ndef variants(:\n    return []\n', "own.py, line 4: syntax error: "),
        ("X = {}['a']\n", "own.py, line 1: KeyError: 'a'"),
        ("def variants():\n    return [{'beta': 1 / 0}]\n", "own.py, line 2: ZeroDivisionError"),
        ("X = 1\n", "offers no variants()"),
        ("def variants():\n    return []\n", "has no variants"),
        ("def variants():\n    return 3\n", "'int' object is not iterable"),
        ("def variants():\n    return [3]\n", "a variant is a dict of settings, got 3"),
        ("def variants():\n    return {'beta': 1}\n", "variants() must return a list of dicts"),
        ("def variants():\n    return [{}, {'bta': 1}]\n", "variant 2 (bta=1): unknown trial setting 'bta' (did you mean 'beta'?)"),
        ("ATTACKS = [{'attack': 'fgsm', 'epsilons': [8]}]\ndef variants():\n    return [{}]\n", "got 8; did you mean 8/255?"),
        ("ATTACKS = [{'attack': 'fgmm'}]\ndef variants():\n    return [{}]\n", "no attack named 'fgmm' (did you mean 'fgsm'?)"),
        ("ATTACKS = [{'attack': 'torchattacks:MIFGSMM'}]\ndef variants():\n    return [{}]\n", "torchattacks:MIFGSM"),
        ("ATTACKS = [{'attack': 'pgd', 'options': {'num_step': 3}}]\ndef variants():\n    return [{}]\n", "did you mean 'num_steps'?"),
    ],
)
def test_what_is_wrong_in_a_search_space_is_named(text: str, message: str, tmp_path: Path) -> None:
    result = invoke("run", write_space(tmp_path, text), "--inline", "--results", tmp_path / "results")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "results").exists()


def test_a_truncated_data_file_is_named_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 100, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(1000))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 100]) + bytes(100))
    result = invoke("run", "smoke", "--inline", "--dataset", "fashion-mnist", "--data", tmp_path, "--results", tmp_path / "results")
    assert result.exit_code == 2
    assert "train-images-idx3-ubyte" in result.stderr and "expected" in result.stderr
    assert not (tmp_path / "results").exists()
    assert invoke("data", "verify", "fashion-mnist", "--data", tmp_path).exit_code == 1


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_results_root_that_is_a_file_or_below_one_is_refused(below: str, tmp_path: Path, swept: Swept) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    result = run_again(swept, file / below)
    assert result.exit_code == 2
    assert "results root" in result.stderr and str(file) in result.stderr
    assert file.read_text() == "mine"
    assert invoke("status", "--results", file / below).exit_code == 2


def test_a_disk_too_small_for_the_sweep_is_refused(tmp_path: Path, swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    result = run_again(swept, tmp_path / "results")
    assert result.exit_code == 2
    assert "MiB are free; name another --results" in result.stderr and "Errno" not in result.stderr
    assert not (tmp_path / "results").exists()


def test_a_disk_that_fills_up_under_ray_is_named_all_the_same(tmp_path: Path, swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "no space left for results root: 0 bytes free")
        except OSError as error:
            raise RuntimeError("a trial's callback failed") from error

    monkeypatch.setattr("sweeper.sweep.inline", full)
    result = run_again(swept, tmp_path / "results")
    assert result.exit_code == 2
    assert "no space left for results root: 0 bytes free; what was computed before is stored" in result.stderr


def test_a_cluster_that_does_not_answer_is_refused_at_once(tmp_path: Path) -> None:
    result = invoke("run", "smoke", "--results", tmp_path / "results", "--address", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "no Ray cluster answers at --address 127.0.0.1:1" in result.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("words", [("status",), ("rank", "tiny"), ("run", "smoke", "--inline"), ("doctor",)], ids=lambda words: words[0])
def test_tables_of_a_newer_version_are_refused_untouched(words: tuple[str, ...], copied: Path) -> None:
    (copied / "schemas" / "scores-v99.json").write_text("{}")
    before = sorted(copied.rglob("*"))
    result = invoke(*words, "--results", copied)
    assert result.exit_code == 2
    assert "table scores was written here in version 99" in result.stderr
    assert sorted(copied.rglob("*")) == before


# Damage


def test_torn_and_foreign_files_are_named_moved_away_and_made_again(swept: Swept, copied: Path) -> None:
    expected = outcomes(swept.root)
    torn = sorted((copied / "parts" / "scores").rglob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:-20])
    foreign = copied / "parts" / "scores" / "aa" / "aa-foreign.parquet"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("not a table")

    ranking = invoke("rank", "tiny", "--results", copied, "--format", "json")
    assert ranking.exit_code == 0
    assert str(torn) in ranking.stderr and str(foreign) in ranking.stderr
    assert sorted(row["status"] for row in json.loads(ranking.stdout)) == ["completed", "completed", "missing"]
    rest = outcomes(copied)
    assert 0 < len(rest) < len(expected) and all(expected[key] == value for key, value in rest.items())

    found = invoke("doctor", "--results", copied)
    assert found.exit_code == 1
    assert str(torn) in found.stdout and str(foreign) in found.stdout and torn.exists()
    moved = invoke("doctor", "--quarantine", "--results", copied)
    assert moved.exit_code == 0, moved.output
    assert not torn.exists() and not foreign.exists()
    assert (copied / "quarantine" / foreign.relative_to(copied)).read_text() == "not a table"

    again = run_again(swept, copied)
    assert again.exit_code == 0 and "1 trials to run, 2 stored already" in again.stderr
    assert outcomes(copied) == expected
    assert invoke("doctor", "--results", copied).exit_code == 0


def test_a_run_replaces_a_torn_part_without_being_asked(swept: Swept, copied: Path) -> None:
    torn = sorted((copied / "parts" / "trials").rglob("*.parquet"))[0]
    torn.write_bytes(b"PAR1")
    again = run_again(swept, copied)
    assert again.exit_code == 0 and "1 trials to run" in again.stderr
    assert outcomes(copied) == outcomes(swept.root)
