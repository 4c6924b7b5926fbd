"""A user's own purifier that is broken in a known way is caught in a real sweep, by the check meant for it, and left unranked."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_sweep import SIZES, invoke, tiny_sweep

HEAD = '''
"""A purifier that is not what it seems."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROLE, TRAINED = "purifier", False


@dataclass(frozen=True)
class Config:
    pass


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return Purifier()


class Purifier(nn.Module):
'''
PURIFIERS = {
    "noisy": "    def forward(self, images):\n        return (images + 0.2 * torch.randn_like(images)).clamp(0, 1)\n",
    "twice": "    def forward(self, images):\n        return (images - 0.5) / 0.5\n\n"
    "    def purify_with_latents(self, images):\n        return images, []\n",
    "training": "    def __init__(self):\n        super().__init__()\n        self.norm = nn.Dropout(0.0)\n\n"
    "    def train(self, mode=True):\n        return super().train(True)\n\n"
    "    def forward(self, images):\n        return self.norm(images) * 1.0\n",
    "detached": "    def forward(self, images):\n        return ((7 * images).round() / 7).detach()\n",
}
CAUGHT = {"noisy": "C24", "twice": "C4", "training": "C2"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for name, body in PURIFIERS.items():
        (folder / f"{name}.py").write_text(HEAD + body)
    models = ["identity", *(str(folder / f"{name}.py") for name in PURIFIERS)]
    settings = {"target/training/num_epochs": 1, "retrain": "none"}
    (folder / "planted.py").write_text(f"def variants():\n    return {[settings | {'model': model} for model in models]!r}\n")
    root = folder / "results"
    shutil.copytree(tiny_sweep().root / "artifacts", root / "artifacts")  # its target, sources and adversarial sets
    done = invoke("run", folder / "planted.py", "--inline", "--results", root, "--epsilons", "0.1", *SIZES)
    assert done.exit_code == 1, done.stderr  # `detached` fails
    return root


@pytest.mark.parametrize("name", CAUGHT)
def test_it_is_unranked_by_the_check_meant_for_it(name: str, swept: Path) -> None:
    rows = json.loads(invoke("rank", "planted", "--results", swept, "--format", "json").stdout)
    row = next(row for row in rows if f"{name}@" in row["label"] or f"{name}.py" in row["label"])
    assert row["rank"] is None and CAUGHT[name] in {one["check"] for one in row["failed_checks"]}


def test_without_a_gradient_it_fails_and_check_names_why(swept: Path) -> None:
    shown = invoke("check", "planted", "--results", swept).stdout
    assert "Failed, so not checked:" in shown and "no gradient reaches the input" in shown and "(C20, C21)" in shown


def test_the_undefended_target_beside_them_is_ranked(swept: Path) -> None:
    rows = json.loads(invoke("rank", "planted", "--results", swept, "--format", "json").stdout)
    assert [row["rank"] for row in rows if row["failed_checks"] == [] and row["seeds"]] == [1]
