"""A real sweep of a few seconds, made once per test session: the user's own search space and model, the standard evaluation, 20 test images."""

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner, Result

from sweeper.cli import app

SIZES = ("--set", "train_images=60", "--set", "validation_images=20", "--set", "test_images=20")

SPACE = """
_SHORT = {{"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1}}


def variants():
    return [
        {{**_SHORT, "depth": 1, "base_width": 2, "codebook_size": 8}},
        {{**_SHORT, "model": {model!r}, "width": 2}},
        {{**_SHORT, "model": "identity", "retrain": "none"}},
    ]
"""

MODEL = '''
"""A purifier of one hidden layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models._blocks import conv_bn_relu

ROLE = "purifier"
TRAINED = True


@dataclass(frozen=True)
class Config:
    width: int = 8

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return Smoother(config.width, image_shape[0])


class Smoother(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_bn_relu(channels, width), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(images))

    def training_loss(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        loss = F.mse_loss(self(inputs), targets)
        return {"loss": loss, "reconstruction": loss.detach()}
'''


class Swept(NamedTuple):
    """Where the sweep lies, and what the command said."""

    root: Path
    space: Path
    model: Path
    result: Result


def invoke(*words: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def run_again(swept: Swept, root: Path) -> Result:
    return invoke("run", swept.space, "--inline", "--results", root, "--epsilons", "0.1", *SIZES)


@cache
def tiny_sweep() -> Swept:
    folder = Path(tempfile.mkdtemp(prefix="sweeper-tests-"))
    space, model = folder / "tiny.py", folder / "smoother.py"
    model.write_text(MODEL)
    space.write_text(SPACE.format(model=str(model)))
    swept = Swept(folder / "results", space, model, None)  # pyright: ignore[reportArgumentType]
    return swept._replace(result=run_again(swept, swept.root))
