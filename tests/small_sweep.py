"""A tiny but real sweep on digits: three variants under the standard evaluation, in seconds on one core."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper import datasets, lookup, plan
from sweeper.config import TrialConfig, resolve
from sweeper.datasets import Splits
from sweeper.plan import Plan
from sweeper.scales import trial_defaults
from sweeper.stages import Stage
from sweeper.worker import Finished

SPACE = '''"""Three variants for tests."""


def variants():
    return [{}, {"quantize": False}, {"model": "identity", "retrain": "none"}]
'''
SETTINGS: dict[str, Any] = {
    "train_images": 120,
    "validation_images": 20,
    "test_images": 24,
    "num_epochs": 1,
    "codebook_size": 8,
    "retraining/num_epochs": 1,
    "target/training/num_epochs": 8,
    "target/training/batch_size": 24,
}
EPSILONS = (0.05, 0.1)


@dataclass(frozen=True)
class SmallSweep:
    """A finished sweep; `arguments` repeats it on the command line, where everything is found stored."""

    root: Path
    space: Path
    plan: Plan
    splits: Splits
    finished: list[Finished]

    @property
    def arguments(self) -> list[str]:
        settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        return [str(self.space), "--results", str(self.root), "--epsilons", ",".join(map(str, EPSILONS)), *settings]


class Silent:
    """Watches a sweep and remembers what was made."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.trials: list[Finished] = []

    def begin(self, *_: Any, **__: Any) -> None: ...
    def stage_started(self, stage: Stage) -> None:
        self.stages.append(stage.title)

    def stage_ended(self, stage: Stage) -> None: ...
    def trial_begun(self, *_: Any, **__: Any) -> None: ...
    def trial_progress(self, *_: Any, **__: Any) -> None: ...
    def probe_started(self, *_: Any, **__: Any) -> None: ...
    def probe_ended(self, *_: Any, **__: Any) -> None: ...
    def note(self, text: str) -> None: ...
    def at_once(self, trials: int) -> None: ...
    def trial_ended(self, trial: plan.PlannedTrial, finished: Finished) -> None:
        self.trials.append(finished)


def small_splits() -> Splits:
    return datasets.load("digits", root=None, caps=(SETTINGS["train_images"], SETTINGS["validation_images"], SETTINGS["test_images"]))


def small_plan(space: Path, fingerprint: str, **more: Any) -> Plan:
    return plan.from_space(
        "small", lookup.find("search_spaces", str(space)), fingerprint=fingerprint, **{"settings": SETTINGS, "epsilons": EPSILONS, **more}
    )


def digits_config(**settings: Any) -> TrialConfig:
    """Return a configuration over the small scale's defaults for digits; nothing is loaded."""
    names = {name.replace("__", "/"): value for name, value in settings.items()}
    return resolve(trial_defaults("digits", "small"), names).model_copy(update={"fingerprint": "f" * 64})
