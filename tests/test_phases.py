"""A training in phases goes on from where another one with the same first phases was, and ends in the weights that it would have had alone."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sweep import SETTINGS, digits_config, small_splits
from torch import nn

from models import vqunet
from sweeper.artifacts import Artifacts
from sweeper.config import Numerics, TrialConfig
from sweeper.estimate import needed_bytes
from sweeper.materials import Materials, Trained
from sweeper.networks import purifier_of
from sweeper.plan import of_config
from sweeper.recipes import Phase, Training
from sweeper.training import ONLY_PLAYER, Diverged, Fit, fit
from sweeper.trial import _phase_columns

FIRST: dict[str, Any] = {"num_epochs": 2, "learning_rate": 4e-3, "loss_weights": {"beta": 0.5}}
SECOND: dict[str, Any] = {"num_epochs": 2, "learning_rate": 1e-3, "loss_weights": {"alpha": 2.0, "beta": 0.25}}
OTHER: dict[str, Any] = {"num_epochs": 2, "learning_rate": 2e-3}
SPLITS = small_splits()


class Interrupted(Exception):
    pass


class Listening(Materials):
    """Materials of a results root whose progress is remembered; a training is killed after its epoch `stop_after`."""

    def __init__(self, root: Path, stop_after: int | None = None) -> None:
        super().__init__(Artifacts(root), None, torch.device("cpu"), self.hear)
        self._splits[SPLITS.fingerprint] = SPLITS
        self.heard: list[int] = []
        self.stop_after = stop_after

    def hear(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        assert stage == "train"
        self.heard.append(done)
        if done == self.stop_after:
            raise Interrupted


def phased(*phases: dict[str, Any], **settings: Any) -> TrialConfig:
    images = {name: SETTINGS[name] for name in ("train_images", "validation_images", "test_images")}
    network = {} if "model" in settings else {"depth": 2, "base_width": 2, "codebook_size": 8}
    recipe = {"batch_size": 16, "train_input": "gauss", "phases": list(phases)}
    return digits_config(**images, **{**network, **recipe, **settings}).model_copy(update={"fingerprint": SPLITS.fingerprint})


def trained(root: Path, *phases: dict[str, Any], **settings: Any) -> tuple[Trained, list[int]]:
    """Return the purifier, and the epochs that were trained for it now."""
    materials = Listening(root)
    return purifier_of(phased(*phases, **settings), materials), materials.heard


def rows(network: Trained) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in network.epochs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Both phases, trained without a stop."""
    network, heard = trained(tmp_path_factory.mktemp("whole"), FIRST, SECOND)
    assert heard == [1, 2, 3, 4]
    return network


def test_a_training_goes_on_from_the_end_of_another_ones_phase_to_the_weights_of_an_uninterrupted_one(tmp_path: Path, whole: Trained) -> None:
    before, heard = trained(tmp_path, FIRST)
    assert heard == [1, 2]
    continued, heard = trained(tmp_path, FIRST, SECOND)
    assert heard == [3, 4]
    assert continued.content == whole.content != before.content
    assert rows(continued) == rows(whole)
    assert rows(before) == rows(whole)[:2]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "augment": True},
        {"quantizer": "ema"},
        {"model": "unet", "depth": 2, "base_width": 2, "train_input": "clean"},
        {"model": "ape_gan", "width": 4, "discriminator_width": 4},
    ],
)
def test_so_it_does_with_other_optimizers_quantizers_and_players(settings: dict[str, Any], tmp_path: Path) -> None:
    phases = [{"num_epochs": 1, "learning_rate": rate} for rate in (4e-3, 1e-3)]
    (tmp_path / "alone").mkdir()
    alone, _ = trained(tmp_path / "alone", *phases, **settings)
    trained(tmp_path, phases[0], **settings)
    continued, heard = trained(tmp_path, *phases, **settings)
    assert heard == [2]
    assert continued.content == alone.content


def test_a_training_that_is_killed_inside_a_phase_continues_there(tmp_path: Path, whole: Trained) -> None:
    for stop_after, heard in ((1, [1]), (2, [2]), (3, [3])):  # inside the first phase, at its end, inside the second
        killed = Listening(tmp_path, stop_after)
        with pytest.raises(Interrupted):
            purifier_of(phased(FIRST, SECOND), killed)
        assert killed.heard == heard
    continued, rest = trained(tmp_path, FIRST, SECOND)
    assert rest == [4]
    assert (continued.content, rows(continued)) == (whole.content, rows(whole))
    assert not list((tmp_path / "artifacts" / "checkpoints").glob("*"))


def test_another_second_phase_explores_from_the_same_state(tmp_path: Path, whole: Trained) -> None:
    trained(tmp_path, FIRST, SECOND)
    other, heard = trained(tmp_path, FIRST, OTHER)
    assert heard == [3, 4]
    assert rows(other)[:2] == rows(whole)[:2]
    assert other.content != whole.content
    shorter, heard = trained(tmp_path, FIRST)
    assert (heard, rows(shorter)) == ([], rows(whole)[:2])  # it ended where they went on


@pytest.mark.parametrize(("first", "change"), [(OTHER, {"seed": 1}), (OTHER, {"beta": 3.0}), (OTHER, {"batch_size": 20}), (FIRST, {})])
def test_a_training_that_differs_in_anything_before_starts_over(first: dict[str, Any], change: dict[str, Any], tmp_path: Path) -> None:
    trained(tmp_path, OTHER)
    assert trained(tmp_path, first, SECOND, **change)[1] == [1, 2, 3, 4]


def damage(state: Path) -> None:
    """Turn one bit of the largest tensor of a file."""
    with zipfile.ZipFile(state) as file:
        largest = file.read(max(file.infolist(), key=lambda record: record.file_size))
    content = bytearray(state.read_bytes())
    content[content.index(largest) + len(largest) // 2] ^= 1
    state.write_bytes(content)


def test_the_longest_prefix_whose_state_is_sound_is_used_and_a_damaged_one_counts_as_none(tmp_path: Path) -> None:
    phases = [{"num_epochs": 1, "learning_rate": rate} for rate in (4e-3, 2e-3, 1e-3)]
    whole, _ = trained(tmp_path, *phases)
    config, store = phased(*phases), Artifacts(tmp_path)
    states = [tmp_path / store.phase_state(key).name for key in config.phase_keys.values()]
    for damaged, heard in ((0, []), (1, [3]), (2, [2, 3]), (3, [1, 2, 3])):
        (tmp_path / store.name("purifiers", config.weights_key)).unlink()
        for state in states[len(states) - damaged :]:
            damage(state)
        again, epochs = trained(tmp_path, *phases)
        assert (epochs, again.content) == (heard, whole.content)
    assert {path.name.partition(".")[0] for path in tmp_path.rglob("*.damaged-*")} == set(config.phase_keys.values())


def test_two_processes_that_come_to_one_state_leave_one_and_end_as_each_would_alone(tmp_path: Path, whole: Trained) -> None:
    class Overtaken(Listening):
        def hear(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            super().hear(stage, done, total, figures)
            if done == 1:
                self.other = trained(tmp_path, FIRST, SECOND)

    slow = Overtaken(tmp_path)
    network = purifier_of(phased(FIRST, OTHER), slow)
    assert (slow.heard, slow.other[1]) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert slow.other[0].content == whole.content
    (tmp_path / "alone").mkdir()
    assert network.content == trained(tmp_path / "alone", FIRST, OTHER)[0].content
    assert len([path for path in (tmp_path / "artifacts" / "phases").rglob("*") if path.is_file()]) == 3


def test_a_phase_changes_the_learning_rate_and_the_loss_weights(whole: Trained) -> None:
    assert [row["learning_rate"] for row in whole.epochs] == [4e-3, 4e-3, 1e-3, 1e-3]
    for row, (alpha, beta) in zip(whole.epochs, [(1.0, 0.5)] * 2 + [(2.0, 0.25)] * 2, strict=True):
        terms = {term: row[f"{term}_1"] + row[f"{term}_2"] for term in ("commitment", "codebook")}
        assert row["loss"] == pytest.approx(alpha * row["reconstruction"] + beta * terms["commitment"] + terms["codebook"], rel=1e-5)


def test_a_loss_weight_that_a_phase_does_not_name_is_that_of_the_options_again(tmp_path: Path) -> None:
    named, _ = trained(tmp_path, FIRST, OTHER | {"loss_weights": {"beta": 3.0}}, beta=3.0)
    unnamed, heard = trained(tmp_path, FIRST, OTHER, beta=3.0)
    assert heard == []  # one training, one key
    assert unnamed.content == named.content


# One loop, any module


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


def test_weights_that_are_not_finite_at_the_end_of_a_phase_are_kept_for_nobody(tmp_path: Path) -> None:
    module, states = nn.Linear(4, 1), {1: Artifacts(tmp_path).phase_state("ab"), 2: Artifacts(tmp_path).phase_state("cd")}
    steps = iter(range(10))

    def loss(images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Any:
        yield ONLY_PLAYER, {"loss": module(images.flatten(1)).sum() * (1e38 if next(steps) == 3 else 0.0)}  # the last step of the second epoch

    phases = [Phase(num_epochs=1, learning_rate=rate) for rate in (0.1, 10.0, 0.2)]
    recipe = Training.model_validate({"batch_size": 2, "optimizer": "sgd", "phases": phases})
    with pytest.raises(Diverged, match=r"training failed in epoch 2: weights are not finite \(learning_rate 10\)"):
        fit(module, torch.ones(4, 1, 2, 2), torch.zeros(4), recipe, loss, seed=0, numerics=Numerics(), phase_states=states)
    assert [(tmp_path / state.name).exists() for state in states.values()] == [True, False]


# What is said of it


def test_a_column_holds_what_all_phases_share() -> None:
    training = phased(FIRST, SECOND, beta=0.5).training
    assert _phase_columns(training) == {"learning_rate": None, "alpha": None, "beta": None}
    assert _phase_columns(phased(FIRST, FIRST).training) == {"learning_rate": 4e-3, "alpha": 1.0, "beta": 0.5}
    assert _phase_columns(digits_config().training) == {}


def test_states_are_counted_in_what_a_run_needs_and_in_what_is_stored(tmp_path: Path) -> None:
    def needed(config: TrialConfig) -> int:
        made = of_config(config)
        return needed_bytes(made, made.stages, made.trials)

    assert needed(phased(FIRST, SECOND)) - needed(phased(FIRST)) == 8 * 2**20
    trained(tmp_path, FIRST)
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "artifacts" / "phases").rglob("*.pt")) < 8 * 2**20


def test_purification_reads_no_loss_weight(tmp_path: Path) -> None:
    network, _ = trained(tmp_path, FIRST)
    images = SPLITS.test.images[:4]
    before = network.module(images)
    assert isinstance(network.module, vqunet.VQUNet)
    network.module.set_loss_weights(alpha=7.0, beta=7.0)
    assert torch.equal(network.module(images), before)
