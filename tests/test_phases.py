"""A training in phases has the learning rate and the loss weights of each."""

from typing import Any

import torch
from small_sweep import digits_config
from torch import nn

from sweeper.config import Numerics, Phase, Training
from sweeper.training import Fit, fit
from sweeper.trial import _phase_columns

FIRST: dict[str, Any] = {"num_epochs": 2, "learning_rate": 4e-3, "loss_weights": {"beta": 0.5}}
SECOND: dict[str, Any] = {"num_epochs": 2, "learning_rate": 1e-3, "loss_weights": {"alpha": 2.0, "beta": 0.25}}


class Counter(nn.Module):
    """Two players whose gradient is always 1, and whose steps are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.steps: list[tuple[int, int]] = []

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"first": [self.first], "second": [self.second]}

    def after_step(self, step: int, num_steps: int, generator: torch.Generator) -> None:
        self.steps.append((step, num_steps))


def count(module: Counter, *phases: Phase) -> Fit:
    def loss(images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Any:
        yield "first", {"loss": module.first.sum()}
        yield "second", {"loss": module.second.sum()}

    recipe = Training.model_validate({"batch_size": 2, "optimizer": "sgd", "phases": phases})
    return fit(module, torch.zeros(4, 1, 2, 2), torch.zeros(4), recipe, loss, seed=0, numerics=Numerics())


def test_every_player_gets_the_phases_rate_and_steps_are_counted_within_a_phase() -> None:
    slow, fast = Phase(num_epochs=1, learning_rate=1e-3), Phase(num_epochs=2, learning_rate=1.0)
    module, alone = Counter(), Counter()
    count(alone, slow)
    assert -0.01 < alone.first.item() == alone.second.item() < 0
    done = count(module, slow, fast)
    assert module.first.item() == module.second.item() < -4  # four steps of at least 1
    assert [row["learning_rate"] for row in done.epochs] == [1e-3, 1.0, 1.0]
    assert module.steps == [*alone.steps, (0, 4), (1, 4), (2, 4), (3, 4)] == [(0, 2), (1, 2), (0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_column_holds_what_all_phases_share() -> None:
    training = digits_config(phases=[FIRST, SECOND]).training
    assert _phase_columns(training) == {"learning_rate": None, "alpha": None, "beta": None}
    assert _phase_columns(digits_config(phases=[FIRST, FIRST]).training) == {"learning_rate": 4e-3, "alpha": 1.0, "beta": 0.5}
    assert _phase_columns(digits_config().training) == {}
