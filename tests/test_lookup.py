"""The file's name is its name; the user's own files are named by their content."""

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper import lookup

MODEL = """
from dataclasses import dataclass

from torch import nn

from models._settings import check_int

ROLE = "purifier"
TRAINED = False


@dataclass(frozen=True)
class Config:
    size: int = 2

    def __post_init__(self) -> None:
        check_int("size", self.size)


def build(config, image_shape, num_classes):
    return nn.Identity()
"""


def test_a_file_name_is_its_name_and_underscore_files_are_none() -> None:
    assert {"vqunet", "unet", "identity", "wide_resnet", "densenet"} <= set(lookup.available("models"))
    assert not any(name.startswith("_") for kind in lookup.FOLDERS for name in lookup.available(kind))
    assert lookup.find("models", "vqunet").__name__ == "models.vqunet"


def test_dashes_and_underscores_are_the_same_name() -> None:
    assert lookup.find("datasets", "fashion-mnist") is lookup.find("datasets", "fashion_mnist")


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("models", "vqunett", r"no model named 'vqunett' \(did you mean 'vqunet'\?\); available: ape_gan, "),
        ("search_spaces", "ablation", r"no search space named 'ablation' \(did you mean 'ablations'\?\); available: "),
        ("attacks", "_linf", r"no attack named '_linf'.*available: bim, code_flip, cw, cw_l2, fgsm, pgd"),
        ("datasets", "zzz", r"no data set named 'zzz'; available: cifar10, digits, fashion_mnist"),
    ],
)
def test_an_unknown_name_lists_those_there_are(kind: str, name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lookup.find(kind, name)


def test_a_users_file_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    name = lookup.adopt(str(path))
    path.rename(tmp_path / "elsewhere.py")
    path = tmp_path / "other" / "mine.py"
    path.parent.mkdir()
    path.write_text(MODEL)
    assert lookup.adopt(str(path)) == name
    assert lookup.find("models", name).Config().size == 2
    path.write_text(MODEL + "# changed\n")
    assert lookup.adopt(str(path)) != name


def test_a_users_source_can_be_sent_to_a_process_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sent.py"
    path.write_text(MODEL)
    name = lookup.adopt(str(path))
    code = """
import sys
from sweeper import lookup
lookup.register_sources({sys.argv[1]: sys.stdin.read()})
print(lookup.find("models", sys.argv[1]).ROLE)
"""
    done = subprocess.run([sys.executable, "-c", code, name], input=lookup.sources()[name], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "purifier"


def test_a_syntax_error_is_reported_with_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\n\ndef variants(:\n    return []\n")
    with pytest.raises(ValueError, match=r"broken\.py, line 3: syntax error"):
        lookup.find("search_spaces", str(path))


def test_an_error_while_loading_is_reported_with_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    path.write_text("import math\n\nlimit = math.sqrt(-1)\n")
    with pytest.raises(ValueError, match=r"failing\.py, line 3: ValueError: "):
        lookup.find("search_spaces", str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*absent\.py: No such file"):
        lookup.find("models", str(tmp_path / "absent.py"))


def test_a_version_holds_those_of_the_shared_parts_that_are_used(tmp_path: Path) -> None:
    assert lookup.version(lookup.find("models", "vqunet")) == (
        "_blocks=1,_codebook_free=1,_codebook_variants=1,_codebooks=1,_quantizers=1,_settings=1,_soft_assignment=1,_unet=1,vqunet=1"
    )
    assert lookup.version(lookup.find("models", "identity")) == "identity=1"
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    assert lookup.version(lookup.find("models", str(path))) == "_settings=1"


def test_a_foreign_models_package_in_the_way_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('foreign')\n")
    code = "import sweeper, models, sys; print(models.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert Path(done.stdout.strip()) == lookup.ROOT / "models" / "__init__.py"
    first = subprocess.run(
        [sys.executable, "-c", "import sys, types; sys.modules['models'] = types.ModuleType('models'); import sweeper"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert "a foreign package 'models'" in first.stderr
