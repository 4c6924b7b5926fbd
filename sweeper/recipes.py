"""How a network is trained: a recipe, which a purifier's may have in phases."""

from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from sweeper.canonical import Frozen
from sweeper.options import explain

FROM_PHASES = ("num_epochs", "learning_rate", "schedule")  # of a training, what its phases say where it has any


class Phase(Frozen):
    """A stretch of a training: its epochs, its constant learning rate, and its loss weights, by the names of the model's options.

    In a `TrialConfig`, a loss weight of the model that a phase does not name is what the options say, not what the phase before said.
    """

    num_epochs: int = Field(ge=1, le=100_000)
    learning_rate: float = Field(gt=0, le=10)
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Training(Frozen):
    """One network's training. Epochs and images per batch are counts; learning_rate is the schedule's peak.

    With phases, num_epochs is the sum of theirs, learning_rate the largest of theirs and the schedule constant; each may be left out, and must be
    that where it is given. Without, a dump has no `phases`: such trainings keep the keys that they had before there were any.
    """

    num_epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=2, le=65_536)
    learning_rate: float = Field(gt=0, le=10)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["one_cycle", "cosine", "linear", "constant"] = "one_cycle"
    weight_decay: float = Field(default=0.0, ge=0)
    augment: bool = False
    phases: tuple[Phase, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _follow_phases(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("phases"):
            return values
        phases = _phases(values["phases"])
        epochs = [phase.num_epochs for phase in phases]
        follows = {
            "num_epochs": (sum(epochs), f"the sum of its phases' ({' + '.join(map(str, epochs))})"),
            "learning_rate": (max(phase.learning_rate for phase in phases), "the largest of its phases'"),
            "schedule": ("constant", "since each phase has one learning rate"),
        }
        for name, (value, why) in follows.items():
            if values.get(name, value) != value:
                raise ValueError(f"{name} of a training with phases must be {value}, {why}, or left out, got {values[name]!r}")
        return values | {name: value for name, (value, _) in follows.items()} | {"phases": phases}

    @model_serializer(mode="wrap")
    def _without_empty_phases(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return values if self.phases else {name: value for name, value in values.items() if name != "phases"}

    @property
    def phase_ends(self) -> tuple[int, ...]:
        """Return the last epoch of each phase, counted from 1 over the whole training."""
        return tuple(accumulate(phase.num_epochs for phase in self.phases))

    def stretch(self, epoch: int) -> tuple[int, int, Phase | None]:
        """Return the first epoch and the number of epochs of the phase that an epoch (from 1) is in; without phases, of the whole training."""
        for phase, end in zip(self.phases, self.phase_ends, strict=True):
            if epoch <= end:
                return end - phase.num_epochs + 1, phase.num_epochs, phase
        return 1, self.num_epochs, None

    def until(self, count: int) -> "Training":
        """Return the training that consists of the first `count` (at least 1) of the phases."""
        rest = {name: value for name, value in self if name not in FROM_PHASES}
        return Training.model_validate(rest | {"phases": self.phases[:count]})


def _phases(values: object) -> tuple[Phase, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f'phases must be a list such as [{{"num_epochs": 2, "learning_rate": 0.004}}], got {values!r}')
    phases = []
    for number, each in enumerate(values, 1):
        try:
            phases.append(Phase.model_validate(each))
        except ValidationError as error:
            raise ValueError(explain(error, Phase.model_fields, f"setting of phase {number}")) from None
    return tuple(phases)


def _refuse_phases(recipe: Any) -> Any:
    phases = recipe.get("phases") if isinstance(recipe, dict) else getattr(recipe, "phases", None)
    if phases:
        raise ValueError(
            f"only a purifier's training has phases, and a classifier's, as `retraining` and `target/training` are, has none; got {phases!r}"
        )
    return recipe


ClassifierTraining = Annotated[Training, BeforeValidator(_refuse_phases)]
