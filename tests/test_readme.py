"""The README's promises: its snippets read real tables without this package, its commands and options exist, its examples run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import typer
from tiny_sweep import SIZES, Swept, invoke, tiny_sweep

from sweeper.cli import app
from sweeper.results import Results
from sweeper.schemas import TABLES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
READING = README.partition("## Reading the tables")[2].partition("\n## ")[0]
SEARCHING = README.partition("## Searching")[2].partition("\n## ")[0]
OWN = README.partition("## Your own")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def swept() -> Swept:
    return tiny_sweep()


@pytest.mark.parametrize("snippet", blocks(READING, "python"), ids=["duckdb", "worst case", "polars", "pandas", "files"])
def test_a_snippet_reads_the_tables_without_this_package(snippet: str, swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(swept.root)
    assert "sweeper" not in snippet
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert any(letter.isdigit() for letter in done.stdout)


def test_the_worst_case_by_hand_is_that_of_the_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = tmp_path / "attacked.py"
    variants = [{"model": model, "retrain": "none", "target/training/num_epochs": 1} for model in ("identity", "mean_blur")]
    attacks = [{"attack": "bim", "threats": ["adaptive"]}, {"attack": "pgd", "threats": ["adaptive_bpda"]}]
    space.write_text(f"ATTACKS = {attacks!r}\n\n\ndef variants():\n    return {variants!r}\n")
    shutil.copytree(tiny_sweep().root / "artifacts", tmp_path / "results" / "artifacts")
    done = invoke("run", space, "--inline", "--results", tmp_path / "results", "--epsilons", "0.1", *SIZES)
    assert done.exit_code == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    query = re.search(r'"""(.*)"""', blocks(READING, "python")[1], re.DOTALL)
    assert query is not None
    by_hand = {row[0]: row[-1] for row in duckdb.sql(query[1]).fetchall()}
    ranked = json.loads(invoke("rank", "attacked", "--results", "results", "--unchecked", "--format", "json").stdout)
    assert {row["trial_ids"][0]: row["adaptive@0.1"] for row in ranked} == pytest.approx(by_hand)
    lowest = duckdb.sql("select trial_id, min(accuracy) from 'results/parts/scores/*/*.parquet' where starts_with(threat, 'adaptive') "
                        "and abs(epsilon - 0.1) < 1e-9 group by all").fetchall()  # fmt: skip
    assert all(by_hand[trial] <= accuracy + 1e-9 for trial, accuracy in lowest)


def test_the_list_of_files_holds_every_row_once_merged_or_not(swept: Swept) -> None:
    listing = blocks(READING, "python")[-1].partition("\n\n\nprint(")[0]
    names: dict[str, object] = {}
    exec(listing, names)
    for table in TABLES:
        found = names["files"](str(swept.root), table)  # pyright: ignore[reportCallIssue]
        assert sorted(found) == sorted(map(Results(swept.root).store.shown, Results(swept.root).files(table)))


def test_every_command_and_option_of_the_readme_exists() -> None:
    group = typer.main.get_command(app)
    lines = [line.partition("#")[0] for line in re.findall(r"^.*python -m sweeper (.*)$", README, re.MULTILINE)]
    lines += re.findall(r"^\| `(?!-)(.*?)` \|", README.partition("## Commands")[2].partition("\n## ")[0], re.MULTILINE)
    assert len(lines) > 12
    for line in lines:
        words = [word.strip("`") for word in line.split()]
        command = group.commands[words[0]]  # pyright: ignore[reportAttributeAccessIssue]
        if words[0] == "data":
            command = command.commands[words[1].strip("`,")]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_command_is_in_the_readme() -> None:
    group = typer.main.get_command(app)
    for name in group.commands:  # pyright: ignore[reportAttributeAccessIssue]
        assert re.search(rf"^\| .*`{name}[ `]", README, re.MULTILINE), name


def test_the_first_two_lines_are_targets_of_the_makefile() -> None:
    first = blocks(README, "")[0].splitlines()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[:2] for line in first] == [["make", "run"], ["make", "test"]]
    assert {"run", "test"} <= set(targets)


def test_the_readmes_own_model_and_search_space_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, model, attack, dataset = blocks(OWN, "python")
    (tmp_path / "grey_levels.py").write_text(space)
    (tmp_path / "posterize.py").write_text(model)
    monkeypatch.chdir(tmp_path)
    planned = invoke("plan", "grey_levels.py", *SIZES)
    assert planned.exit_code == 0, planned.stderr
    assert "levels=4" in planned.stdout and "craft graybox torchattacks:MIFGSM" in planned.stdout
    for name, source in (("rfgsm.py", attack), ("pairs.py", dataset)):
        compile(source, name, "exec")


def test_the_readmes_search_space_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codebooks.py").write_text(blocks(SEARCHING, "python")[0])
    monkeypatch.chdir(tmp_path)
    planned = invoke("plan", "codebooks.py", "--price-per-hour", "2", *SIZES)
    assert planned.exit_code == 0, planned.stderr
    assert "budget: 12 trials; sampler tpe, scheduler halving" in planned.stderr + planned.stdout


def test_the_readmes_own_data_set_is_cut_into_three_parts(tmp_path: Path) -> None:
    import numpy as np

    from sweeper import datasets

    (tmp_path / "pairs.py").write_text(blocks(OWN, "python")[3])
    labels = np.arange(100) % 2
    np.savez(tmp_path / "pairs.npz", images=np.zeros((100, 1, 32, 32), np.uint8), labels=labels)
    splits = datasets.load(str(tmp_path / "pairs.py"), root=tmp_path, caps=(None, 10, None))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (60, 10, 25)


def test_the_readmes_own_attack_stays_in_the_ball_and_repeats(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from attacks._keyed import sample_keys

    names: dict[str, object] = {"__name__": "rfgsm"}
    exec(blocks(OWN, "python")[2], names)
    images, labels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    model, keys = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), sample_keys(0, ["a", "b", "c", "d"])
    first, second = (names["perturb"](model, images, labels, epsilons=[0.1], keys=keys) for _ in range(2))  # pyright: ignore[reportCallIssue]
    assert torch.equal(first, second)
    assert (first[0] - images).abs().max() <= 0.1 + 1e-6 and first.min() >= 0 and first.max() <= 1


def test_the_design_page_lists_every_column_of_every_table() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for name, table in TABLES.items():
        section = page.partition(f"**`{name}`** (version {table.version})")[2].partition("\n**`")[0]
        assert [column for column in table.columns if f"`{column}`" not in section] == []


def test_the_design_page_names_every_module() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Layout")[2].partition("\n## ")[0]
    files = [path for folder in ("sweeper", "sweeper/datasets", "search_spaces") for path in (ROOT / folder).glob("[a-z]*.py")]
    assert [path.name for path in files if path.name not in page] == []
    named = {path.stem for folder in ("models", "attacks") for path in (ROOT / folder).glob("[a-z]*.py")}
    assert [name for name in named if not re.search(rf"\b{name}\b", page)] == []
