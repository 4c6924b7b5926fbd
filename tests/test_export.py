"""`export`: a trial's defense as a folder of its own, with the numbers of the tables, that gives the stored networks' logits bit for bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import LocalFileSystem
from small_sweep import digits_config
from tiny_sweep import SIZES, Swept, invoke, tiny_sweep

import sweeper
from attacks import fgsm
from sweeper import export as exporting
from sweeper import exported, lookup, parquet
from sweeper.artifacts import Artifacts, Bundle
from sweeper.cells import Networks, networks_of
from sweeper.config import TrialConfig
from sweeper.keys import part_key
from sweeper.materials import Materials
from sweeper.results import Results
from sweeper.scales import evaluation as evaluation_of
from sweeper.scoring import fix_draws, laid_out

ROOT = Path(__file__).parents[1]
NOISY = '''
"""Noise on every image, drawn anew each time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROLE = "purifier"
TRAINED = False


@dataclass(frozen=True)
class Config:
    sigma: float = 0.1


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return Noise(config.sigma)


class Noise(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.shift = torch.rand(())  # drawn when it is built, and in no state dict
        self.register_buffer("scale", torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.scale + self.shift * self.sigma * torch.randn(images.shape, device=images.device)).clamp(0, 1)
'''
MORE = """
EVALUATION = "quick"
_SHORT = {{"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1}}


def variants():
    return [
        {{**_SHORT, "depth": 1, "base_width": 2, "codebook_size": 8, "passes": 2}},
        {{**_SHORT, "model": "mean_blur", "retrain": "none"}},
        {{**_SHORT, "model": "jpeg"}},
        {{**_SHORT, "model": {noisy!r}, "retrain": "none"}},
    ]
"""
ALONE = """
def variants():
    return [{"model": "identity", "retrain": "none", "target/training/num_epochs": 1}]
"""
TINY, QUICK = ("vqunet", "file:smoother", "identity"), ("vqunet x2", "mean_blur", "jpeg", "file:noisy")
BLOCKED = ("ray", "optuna", "pyarrow", "duckdb")
LOADING = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import sweeper

assert "torch" not in sys.modules
import torch

torch.set_num_threads(1)
defense = sweeper.load_defense(sys.argv[1])
torch.save({"logits": defense(torch.load(sys.argv[2])), "classes": defense.class_names}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def swept() -> Swept:
    return tiny_sweep()


@pytest.fixture(scope="module")
def more(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny sweep's results with four further trials, quickly scored, and one of its own scored on the validation images too. Read it only."""
    folder = tmp_path_factory.mktemp("more")
    shutil.copytree(swept.root, folder / "results")
    noisy, space, alone = folder / "noisy.py", folder / "more.py", folder / "alone.py"
    noisy.write_text(NOISY)
    space.write_text(MORE.format(noisy=str(noisy)))
    alone.write_text(ALONE)
    for words in ((space,), (alone, "--split", "validation"), (alone, "--evaluation", "quick")):
        done = invoke("run", *words, "--inline", "--results", folder / "results", "--epsilons", "0.1", *SIZES)
        assert done.exit_code == 0, done.output
    noisy.unlink()
    return folder / "results"


@pytest.fixture
def copied(swept: Swept, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept.root, tmp_path / "results", ignore=shutil.ignore_patterns("compacted", "manifests")))


def trial_of(root: Path, model: str) -> dict[str, Any]:
    """Return the row of `trials` of a model; `x2` stands for two passes."""
    name, _, twice = model.partition(" ")
    rows = Results(root).read("trials").to_pylist()
    return next(row for row in rows if row["model"].startswith(name) and (row["passes"] == 2) == bool(twice))


def exported_to(folder: Path, root: Path, model: str = "vqunet", *words: object) -> Path:
    done = invoke("export", trial_of(root, model)["trial_id"][:12], "--to", folder, "--results", root, *words)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{folder}\n"
    return folder


def refused(root: Path, *words: object) -> str:
    before = files(root)
    done = invoke("export", *words, "--results", root)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert "Traceback" not in done.stderr
    assert files(root) == before
    return done.stderr.replace("\n", " ")


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and ".tmp" not in path.parts}


def stored_networks(root: Path, model: str) -> tuple[Networks, torch.Tensor]:
    """Return a trial's networks as a sweep finds them, and its test images."""
    lookup.register_sources(Results(root).kept_sources())
    config = TrialConfig.model_validate_json(trial_of(root, model)["config"])
    materials = Materials(Artifacts(root), None, torch.device("cpu"))
    return networks_of(config, materials), materials.splits(config).test.images


def logits_of(defense: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    fix_draws("test")
    return defense(images).detach()


@pytest.mark.parametrize("model", [*TINY, *QUICK])
def test_an_exported_defense_gives_the_stored_networks_logits_bit_for_bit(model: str, more: Path, tmp_path: Path) -> None:
    before = files(more)
    defense = sweeper.load_defense(exported_to(tmp_path / "winner", more, model))
    assert files(more) == before
    networks, images = stored_networks(more, model)
    expected = logits_of(networks.defense, laid_out(images))
    assert torch.equal(logits_of(defense, images), expected)
    assert expected.shape == (20, 10) and expected.std() > 0
    assert defense.config["final_classifier"] == networks.final_name == ("retrained" if model in (*TINY[:2], "vqunet x2", "jpeg") else "original")
    assert defense.config["scored_on"] == networks.scored_on(networks.final_name)


PURIFIERS = [name for name in lookup.available("models") if lookup.find("models", name).ROLE == "purifier"]
QUANTIZERS = ("ema", "cosine", "rotation", "fsq", "lfq")


@pytest.mark.parametrize(("model", "options"), [*((name, {}) for name in PURIFIERS), *(("vqunet", {"quantizer": name}) for name in QUANTIZERS)])
def test_every_purifier_of_ours_can_be_written_and_loaded(model: str, options: dict[str, object], tmp_path: Path) -> None:
    config = digits_config(model=model, retrain="none", **options)
    artifacts = Artifacts(tmp_path)
    materials = exporting._materials(config, artifacts, None)
    for kind, key, name, given in (
        ("classifiers", config.target_key, config.target.model, config.target.model_options),
        ("purifiers", config.weights_key, model, config.model_options),
    ):
        network = materials.build(config, name, given, 7)  # as if they were trained
        artifacts.put(kind, key, Bundle(network.state_dict(), {"epochs": [], "seconds": 0.0}))
    networks, splits = networks_of(config, materials), materials.splits(config)
    images = exporting._images(splits)
    described = exporting._described(config, {"variant_id": ""}, networks, splits, False)
    exporting._write(tmp_path / "winner", described, exporting._weights(networks), "", {})
    exporting._compare(tmp_path / "winner", images, logits := exporting._logits(networks.defense, images))
    assert logits.std() > 0


def test_a_loaded_defense_is_frozen_and_can_be_attacked(swept: Swept, tmp_path: Path) -> None:
    defense = sweeper.load_defense(exported_to(tmp_path / "winner", swept.root))
    assert not any(parameter.requires_grad for parameter in defense.parameters())
    assert not any(part.training for part in defense.modules())
    assert defense.class_names == tuple("0123456789")
    _, images = stored_networks(swept.root, "vqunet")
    labels = defense(images).argmax(1)
    attacked = fgsm.perturb(defense, images, labels, epsilons=(0.1,), keys=torch.zeros(len(images), dtype=torch.int64))[0]
    assert 0.05 < (attacked - images).abs().max() <= 0.1 + 1e-6
    logits, codes = defense.logits_and_codes(images)
    assert torch.equal(logits, defense(images)) and len(codes) == 1


def test_loading_leaves_the_callers_random_draws_alone(swept: Swept, tmp_path: Path) -> None:
    folder = exported_to(tmp_path / "winner", swept.root)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sweeper.load_defense(folder)
    assert torch.equal(torch.rand(4), expected)


def test_it_loads_without_results_root_and_heavy_libraries_from_any_folder(swept: Swept, copied: Path, tmp_path: Path) -> None:
    networks, images = stored_networks(copied, "file:smoother")
    exported_to(tmp_path / "winner", copied, "file:smoother")
    shutil.rmtree(copied)
    empty, given, found = tmp_path / "empty", tmp_path / "images.pt", tmp_path / "found.pt"
    empty.mkdir()
    torch.save(images, given)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "HOME": str(empty)}
    words = [sys.executable, "-c", LOADING % (BLOCKED,), str(tmp_path / "winner"), str(given), str(found)]
    done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert torch.equal(torch.load(found)["logits"], networks.defense(laid_out(images)))
    assert (tmp_path / "winner" / "sources").is_dir()


def test_the_users_own_model_file_travels_along(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported_to(tmp_path / "winner", swept.root, "file:smoother")
    (source,) = (folder / "sources").iterdir()
    assert source.read_text() == swept.model.read_text()
    monkeypatch.setattr(lookup, "_sources", {})  # as in a process that has read no file of the user's
    lookup._load_source.cache_clear()
    assert sweeper.load_defense(folder).purifier.training is False
    source.unlink()
    with pytest.raises(FileNotFoundError, match=r"sources/smoother@\w+\.py is missing"):
        sweeper.load_defense(folder)


@pytest.mark.parametrize(
    ("file", "place"), [("defense.safetensors", 3), ("defense.safetensors", 40), ("defense.safetensors", -5), ("config.json", 900), ("sources", 200)]
)
def test_a_flipped_byte_is_refused_with_the_files_name(file: str, place: int, swept: Swept, tmp_path: Path) -> None:
    folder = exported_to(tmp_path / "winner", swept.root, "file:smoother")
    path = folder / file
    path = next(path.iterdir()) if path.is_dir() else path
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}.* damaged"):
        sweeper.load_defense(folder)


def test_a_missing_file_and_a_folder_that_is_no_export_are_named(swept: Swept, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no exported defense under {tmp_path}"):
        sweeper.load_defense(tmp_path)
    folder = exported_to(tmp_path / "winner", swept.root)
    (folder / "defense.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"defense\.safetensors is missing"):
        sweeper.load_defense(folder)


def test_other_layout_of_the_configuration_is_no_damage(swept: Swept, tmp_path: Path) -> None:
    folder = exported_to(tmp_path / "winner", swept.root)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True))
    assert sweeper.load_defense(folder).config == config


@pytest.mark.parametrize("module", ["models.vqunet", "models._unet", "models.wide_resnet"])
def test_code_of_another_version_is_refused_naming_both(module: str, swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported_to(tmp_path / "winner", swept.root)
    monkeypatch.setattr(f"{module}.VERSION", 99)
    name = module.partition(".")[2]
    with pytest.raises(ValueError, match=rf"was exported with code of version .*{name}=1.* and here is .*{name}=99.*install the sweeper"):
        sweeper.load_defense(folder)


def test_another_torch_is_only_warned_of(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported_to(tmp_path / "winner", swept.root)
    monkeypatch.setattr(exported, "installed_versions", lambda: {"torch": "1.0"})
    with pytest.warns(UserWarning, match=rf"exported with torch {torch.__version__.partition('+')[0]}.* and is loaded with 1\.0") as caught:
        sweeper.load_defense(folder)
    assert caught[0].filename == __file__


def test_a_newer_format_is_refused(swept: Swept, tmp_path: Path) -> None:
    path = exported_to(tmp_path / "winner", swept.root) / "config.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"has format 2, this version of sweeper \(.*\) reads format 1"):
        sweeper.load_defense(path.parent)


# The folder


def test_standard_error_says_how_to_load_it(swept: Swept, tmp_path: Path) -> None:
    done = invoke("export", trial_of(swept.root, "identity")["trial_id"], "--to", tmp_path / "a b", "--results", swept.root)
    lines = done.stderr.partition("import sweeper\n")[2].splitlines()
    images = torch.zeros(2, 1, 32, 32)
    names: dict[str, Any] = {"sweeper": sweeper, "images": images}
    exec("\n".join(lines), names)
    assert torch.equal(names["defense"](images), names["defense"](images.to(memory_format=torch.channels_last)))


def test_what_is_there_is_refused_and_force_replaces_an_earlier_export_alone(swept: Swept, tmp_path: Path) -> None:
    name, place = trial_of(swept.root, "identity")["trial_id"], tmp_path / "winner"
    exported_to(place, swept.root, "vqunet")
    before = files(place)
    assert f"the folder {place} is not empty; give another --to, or --force" in refused(swept.root, name, "--to", place)
    assert files(place) == before
    exported_to(place, swept.root, "identity", "--force")
    assert sweeper.load_defense(place).config["trial_id"] == name
    assert [path.name for path in tmp_path.iterdir()] == ["winner"]
    (place / "thesis.tex").touch()
    assert "--force replaces an earlier export" in (said := refused(swept.root, name, "--to", place, "--force")) and "it holds thesis.tex" in said
    assert "got the file" in refused(swept.root, name, "--to", place / "thesis.tex", "--force")
    (tmp_path / "empty").mkdir()
    exported_to(tmp_path / "empty", swept.root, "identity")
    exported_to(tmp_path / "new" / "folder", swept.root, "identity")


def test_half_a_folder_never_appears(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, place = trial_of(swept.root, "identity")["trial_id"], tmp_path / "winner"
    exported_to(place, swept.root, "vqunet")
    before = files(place)

    def fails(folder: Path, *_: object) -> None:
        assert folder.parent == tmp_path and (folder / "defense.safetensors").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_compare", fails)
    assert "No space left on device" in refused(swept.root, name, "--to", place, "--force")
    assert "No space left on device" in refused(swept.root, name, "--to", tmp_path / "other")
    assert files(tmp_path) == before


def test_other_logits_than_the_stored_networks_are_refused(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models._folding.fold_batch_norm", lambda network: network)  # the loader's; the sweep's has its own name for it
    said = refused(swept.root, trial_of(swept.root, "vqunet")["trial_id"], "--to", tmp_path / "winner")
    assert "does not give the logits of the stored networks: they differ by up to " in said
    assert list(tmp_path.iterdir()) == []


# What cannot be exported


def test_unknown_and_ambiguous_trials_are_refused(swept: Swept, tmp_path: Path) -> None:
    assert "no trial begins with 'zz'" in refused(swept.root, "zz", "--to", tmp_path / "x")
    assert "3 trials begin with ''" in refused(swept.root, "", "--to", tmp_path / "x")
    assert "no results under" in refused(tmp_path, "zz", "--to", tmp_path / "x")


def test_a_trial_that_is_not_completed_is_refused(copied: Path, tmp_path: Path) -> None:
    name = trial_of(copied, "vqunet")["trial_id"]
    (path,) = (copied / "parts" / "trials").rglob(f"{name}.parquet")
    path.unlink()
    assert "is not completed, so there is nothing to export" in refused(copied, name, "--to", tmp_path / "winner")


@pytest.mark.parametrize("kind", ["classifiers", "purifiers", "retrained"])
def test_weights_that_are_gone_are_refused_and_not_trained(kind: str, copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "artifacts" / kind)
    said = refused(copied, trial_of(copied, "vqunet")["trial_id"], "--to", tmp_path / "winner")
    assert f"a network of this trial is not stored: {copied / 'artifacts' / kind}" in said
    assert "`trial CONFIG.json` trains it again" in said
    assert not (copied / "artifacts" / kind).exists()


def test_the_way_out_of_weights_that_are_gone_is_one(copied: Path, tmp_path: Path) -> None:
    row = trial_of(copied, "identity")
    shutil.rmtree(copied / "artifacts" / "classifiers")
    quick = evaluation_of("quick", "digits", "small").model_dump(mode="json")  # quicker than the default, which trains the networks as well
    (tmp_path / "config.json").write_text(json.dumps({"config": json.loads(row["config"]), "evaluation": quick}))
    assert invoke("trial", tmp_path / "config.json", "--results", copied).exit_code == 0
    exported_to(tmp_path / "winner", copied, "identity")


def test_a_damaged_network_is_named_and_left_where_it_is(copied: Path, tmp_path: Path) -> None:
    for path in (copied / "artifacts" / "purifiers").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    assert "is damaged; export trains nothing" in refused(copied, trial_of(copied, "vqunet")["trial_id"], "--to", tmp_path / "winner")


def test_other_weights_than_those_scored_are_refused(copied: Path, tmp_path: Path) -> None:
    artifacts, row = Artifacts(copied), trial_of(copied, "vqunet")
    key = TrialConfig.model_validate_json(row["config"]).retrained_key
    stored = artifacts.load("retrained", str(key))
    assert stored is not None
    artifacts.store.local_path(artifacts.name("retrained", str(key))).unlink()
    artifacts.put("retrained", str(key), Bundle({name: tensor * 0 for name, tensor in stored.tensors.items()}, stored.info))
    assert "they are not the same weights" in refused(copied, row["trial_id"], "--to", tmp_path / "winner")


def test_a_configuration_that_is_another_trial_by_now_is_refused(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.config.TRAINING_VERSION", 99)
    assert "its training has changed since" in refused(swept.root, trial_of(swept.root, "vqunet")["trial_id"], "--to", tmp_path / "winner")


def test_images_are_read_only_where_the_data_set_does_not_state_their_shape(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sweeper.datasets.digits as digits

    def no_images(*_: object) -> None:
        raise FileNotFoundError("there are no images")

    monkeypatch.setattr(digits, "load", no_images)
    exported_to(tmp_path / "winner", swept.root)
    monkeypatch.delattr(digits, "IMAGE_SHAPE")
    assert "there are no images" in refused(swept.root, trial_of(swept.root, "vqunet")["trial_id"], "--to", tmp_path / "other")


# The card


def cells_of(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| ")]


def percent(row: dict[str, Any]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[name] for name in ("accuracy", "ci_low", "ci_high")))


def sections(card: str) -> dict[str, str]:
    return {part.partition("\n")[0]: part for part in card.split("\n### ")[1:]}


def test_the_card_has_every_number_of_the_tables(swept: Swept, tmp_path: Path) -> None:
    card = (exported_to(tmp_path / "winner", swept.root) / "README.md").read_text()
    name = trial_of(swept.root, "vqunet")["trial_id"]
    rows = Results(swept.root).read("scores", where={"trial_id": name, "classifier": "retrained"}).to_pylist()
    assert {row["threat"] for row in rows} == {"clean", "graybox", "transfer", "adaptive", "adaptive_soft"}
    for threat in ("graybox", "transfer", "adaptive", "adaptive_soft"):
        mine = [row for row in rows if row["threat"] == threat]
        table = cells_of(card.partition(f"under **{threat}** attacks")[2].partition("\n\n")[2].partition("\n\n")[0])
        shown = {(line[0], head.removeprefix("epsilon ")): (cell, line[2]) for line in table[2:] for head, cell in zip(table[0], line, strict=True)}
        assert len(mine) == len([key for key in shown if key[1][0].isdigit()])
        for row in mine:
            assert shown[row["attack"], f"{row['epsilon']:g}"] == (percent(row), "20")
    (clean,) = (row for row in rows if row["threat"] == "clean")
    assert ["clean accuracy", percent(clean), "20"] in cells_of(card)
    ranked = json.loads(invoke("rank", "tiny", "--results", swept.root, "--format", "json").stdout)
    figure = next(row for row in ranked if row["trial_ids"] == [name])
    expected = percent({"accuracy": figure["robust_score"], "ci_low": figure["ci_low"], "ci_high": figure["ci_high"]})
    assert ["robust_score: mean of that accuracy over epsilon from 0 to 0.1", expected, "20"] in cells_of(card)
    worst = next(line for line in cells_of(card) if line[0].startswith("accuracy at epsilon 0.1 under all adaptive attacks"))
    assert worst[1].startswith(f"{100 * figure['adaptive@0.1']:.1f} [")


def test_the_card_has_the_checks_as_the_command_gives_them(swept: Swept, tmp_path: Path) -> None:
    card = (exported_to(tmp_path / "winner", swept.root) / "README.md").read_text()
    name = trial_of(swept.root, "vqunet")["trial_id"]
    found = json.loads(invoke("check", "tiny", "--all", "--results", swept.root, "--format", "json").stdout)
    mine = {row["check"]: row for row in found if row["trial_id"] == name and row["kind"] == "validity" and row["outcome"] != "not_applicable"}
    shown = {line[1]: line for line in cells_of(card) if line[0] in ("pass", "warn", "fail", "not run")}
    assert shown.keys() == mine.keys() and len(mine) > 10
    assert all(line[0].replace(" ", "_") == mine[check]["outcome"] and line[3] == mine[check]["message"] for check, line in shown.items())


def test_the_card_keeps_test_and_validation_apart_and_leaves_quick_out(more: Path, tmp_path: Path) -> None:
    card = (exported_to(tmp_path / "winner", more, "identity") / "README.md").read_text()
    name = trial_of(more, "identity")["trial_id"]
    splits = {row["evaluation_id"]: row for row in Results(more).read("evaluations").to_pylist()}
    rows = Results(more).read("scores", where={"trial_id": name, "threat": "graybox", "attack": "pgd"}).to_pylist()
    assert len({row["evaluation_id"] for row in rows}) == 3
    for row in rows:
        known, start = splits[row["evaluation_id"]], f"({row['evaluation_id'][:12]}), "
        mine = [text for title, text in sections(card).items() if start in title]
        if known["name"] == "quick":
            assert not mine and f"The quick evaluation {row['evaluation_id'][:12]}: it prunes a search and never ranks." in card
        else:
            assert len(mine) == 1 and f"{start}{known['split']} images" in mine[0] and f"| pgd | wide_resnet | 20 | {percent(row)} |" in mine[0]
    assert card.index("## On the test images") < card.index("## On the validation images") < card.index("## Limits")
    assert "VQUNet" not in card  # nothing of it to be cited


def test_a_card_without_figures_says_so_and_of_a_random_defense_that_it_draws(more: Path, tmp_path: Path) -> None:
    folder = exported_to(tmp_path / "winner", more, "file:noisy")
    card = (folder / "README.md").read_text()
    assert "The tables have none to report." in card and "It draws at random" in card
    assert json.loads((folder / "config.json").read_text())["is_random"]
    assert "/" not in card.partition("`model=")[2].partition("`")[0]


def test_a_card_says_what_failed(copied: Path, tmp_path: Path) -> None:
    for path in (copied / "parts" / "checks").rglob("*.parquet"):
        rows = parquet.dataset("checks", LocalFileSystem(), [str(path)]).to_table().to_pylist()
        planted = [row | ({"outcome": "fail", "message": "planted"} if row["check"] == "C10" else {}) for row in rows]
        path.write_bytes(parquet.encode("checks", parquet.to_arrow("checks", planted)))
    card = (exported_to(tmp_path / "winner", copied) / "README.md").read_text()
    assert "**It fails a validity check, so these figures are not to be believed.**" in card
    assert "| fail | C10 | An unbounded attack leaves nothing | planted |" in card


def test_scores_of_which_a_part_is_lost_are_left_out_and_named(copied: Path, tmp_path: Path) -> None:
    name = trial_of(copied, "vqunet")["trial_id"]
    (evaluation,) = Results(copied).read("evaluations", ["evaluation_id"]).column("evaluation_id").to_pylist()
    (path,) = (copied / "parts" / "scores").rglob(f"{part_key('scores', name, evaluation, 'adaptive', 'pgd')}.parquet")
    path.unlink()
    card = (exported_to(tmp_path / "winner", copied) / "README.md").read_text()
    parts = len(Results(copied).read("sweeps", ["parts"], {"trial_id": name}).to_pylist()[0]["parts"])
    assert f"The standard evaluation {evaluation[:12]}: {parts - 1}/{parts} of its parts are stored." in card
    assert "The tables have none to report." in card and "graybox** attacks" not in card


def test_the_cards_own_lines_load_it(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (exported_to(tmp_path / "winner", swept.root) / "README.md").read_text()
    lines = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": torch.zeros(2, 1, 32, 32)}
    exec(lines, names)
    assert names["defense"].config["trial_id"] in card
    assert "arXiv:2406.03117" in card and "None is given here" in card
