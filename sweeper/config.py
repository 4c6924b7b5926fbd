"""What determines a trial and an evaluation: frozen, validated once, named by the hash of their canonical JSON.

A key holds everything that its result depends on and nothing else: no path, no sweep, no host. Flat settings (what a search space or `--set`
gives) become a `TrialConfig` in `resolve`: defaults of the scale first, then the settings; a setting is a field of `TrialConfig`, of the
purifier's `Training`, of the model's own `Config`, or a path such as `retraining/num_epochs`.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from itertools import accumulate
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from attacks import _ascending, _backward, _inner, _white_box, fgsm
from models import _folding, _soft_assignment
from sweeper.lookup import adopt, canonical, find, nearest, version
from sweeper.options import ADAPTIVE, attack_module, check_epsilons, explain, measures_distance, resolve_options

THREATS = ("clean", "graybox", "transfer", *ADAPTIVE)
EVALUATION_SETTINGS = ("victim", "mix", "attack_preset", "num_eot_samples")  # flat settings that say how a trial is scored, not what it is
PARTS = ("training", "retraining", "target", "numerics", "model_options")  # of a trial, whose settings are paths: `retraining/num_epochs`
FROM_PHASES = ("num_epochs", "learning_rate", "schedule")  # of a training, what its phases say where it has any
TRAINING_VERSION = 1  # of training.py and networks.py: raise it when the same recipe gives other weights
KEY_LENGTH = 32  # hexadecimal digits, 128 bits


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def key_of(kind: str, **parts: object) -> str:
    """Return the content key of the parts: hexadecimal, 32 digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(canonical_json({"kind": kind, **parts}).encode()).hexdigest()[:KEY_LENGTH]


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Phase(_Frozen):
    """A stretch of a training: its epochs, its constant learning rate, and its loss weights, by the names of the model's options.

    In a `TrialConfig`, a loss weight of the model that a phase does not name is what the options say, not what the phase before said.
    """

    num_epochs: int = Field(ge=1, le=100_000)
    learning_rate: float = Field(gt=0, le=10)
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Training(_Frozen):
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


class Network(_Frozen):
    """A purifier of `models/` by name (or the canonical name of the user's file) and its complete options."""

    role: ClassVar[str] = "purifier"
    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "model" not in values:
            return values
        name = str(values["model"])
        name = adopt(name) if name.endswith(".py") else canonical(name)
        if (role := getattr(find("models", name), "ROLE", cls.role)) != cls.role:
            raise ValueError(f"model {name!r} is a {role}, and a {cls.role} is needed here")
        options = resolve_options("models", name, dict(values.get("model_options") or {}))
        equivalent = getattr(find("models", name), "equivalent", None)
        if equivalent is not None and (other := equivalent(options)) is not None:
            name = other[0]
            options = resolve_options("models", name, other[1])
        return {**values, "model": name, "model_options": options}

    @property
    def version(self) -> str:
        return version(find("models", self.model))

    @property
    def is_trained(self) -> bool:
        return bool(getattr(find("models", self.model), "TRAINED", True))

    @property
    def needs_target(self) -> bool:
        """Say whether its training looks at the undefended target."""
        return bool(getattr(find("models", self.model), "NEEDS_TARGET", False))

    @property
    def loss_weights(self) -> tuple[str, ...]:
        """Return the options that a phase of its training may change."""
        return tuple(getattr(find("models", self.model), "LOSS_WEIGHTS", ()))

    def content(self) -> dict[str, object]:
        """Return what a key needs to know of this network."""
        return {"model": self.model, "model_options": self.model_options, "version": self.version}

    def trained_content(self) -> dict[str, object]:
        """Return what its trained weights depend on: `content` less the options that only a finished network reads."""
        later = getattr(find("models", self.model), "AFTER_TRAINING", ())
        return {**self.content(), "model_options": {name: value for name, value in self.model_options.items() if name not in later}}


class Classifier(Network):
    """A classifier and how it is trained on clean images."""

    role: ClassVar[str] = "classifier"
    training: ClassifierTraining

    def content(self) -> dict[str, object]:
        return {**super().content(), "training": self.training.model_dump()}


class Numerics(_Frozen):
    """Settings that change the last bits of a result: part of every key."""

    threads: int = Field(default=1, ge=1, le=1024)
    precision: Literal["fp32", "bf16"] = "fp32"


class TrialConfig(_Frozen):
    """One purifier variant, one data set, one seed; what its results depend on, completely."""

    dataset: str
    scale: Literal["small", "medium", "paper"] = "small"
    train_images: int | None = Field(default=None, ge=20)
    validation_images: int | None = Field(default=None, ge=10)
    test_images: int | None = Field(default=None, ge=10)
    fingerprint: str = ""
    model: str = "vqunet"
    model_options: dict[str, Any] = Field(default_factory=dict)
    training: Training
    train_input: Literal["clean", "gauss", "adv", "mix"] = "clean"
    train_noise: float = Field(default=0.1, gt=0, le=1)
    train_epsilon: float = Field(default=0.1, gt=0, le=1)
    target: Classifier
    target_seed: int = Field(default=0, ge=0)
    retrain: Literal["none", "finetune", "scratch", "mix"] = "finetune"
    retraining: ClassifierTraining
    adversary: Literal["none", "pgd", "fgsm_rs"] = "none"
    adversary_epsilon: float = Field(default=0.1, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    numerics: Numerics = Numerics()

    @model_validator(mode="after")
    def _resolve_model(self) -> Self:
        network = Network(model=self.model, model_options=self.model_options)
        object.__setattr__(self, "model", network.model)
        object.__setattr__(self, "model_options", network.model_options)
        if self.training.phases:
            object.__setattr__(self, "training", self.training.model_copy(update={"phases": self._complete_phases()}))
        if self.adversary != "none" and self.retrain == "none":
            raise ValueError(f"adversary {self.adversary!r} trains the retrained classifier, so retrain must not be 'none'")
        return self

    def _complete_phases(self) -> tuple[Phase, ...]:
        """Return the phases with every loss weight of the model: what the phase says, else what the options do."""
        weights, phases = self.network.loss_weights, []
        for number, phase in enumerate(self.training.phases, 1):
            for name in phase.loss_weights:
                if name not in weights:
                    there = ", ".join(weights) or "none that can change during a training"
                    raise ValueError(f"phase {number} sets the loss weight {name!r}; model {self.model!r} has {there}")
            options = resolve_options("models", self.model, self.model_options | phase.loss_weights)
            for name, value in phase.loss_weights.items():
                if options[name] != value:
                    raise ValueError(f"phase {number} sets the loss weight {name!r} to {value:g}, and model {self.model!r} has no such term here")
            phases.append(phase.model_copy(update={"loss_weights": {name: options[name] for name in weights}}))
        return tuple(phases)

    @property
    def network(self) -> Network:
        return Network.model_construct(model=self.model, model_options=self.model_options)  # both were checked when this was made

    @property
    def caps(self) -> tuple[int | None, int | None, int | None]:
        return self.train_images, self.validation_images, self.test_images

    def classifier_key(self, classifier: Classifier) -> str:
        """Return the key of a classifier (the target or a transfer source) trained on this trial's clean images."""
        return key_of(
            "classifier",
            data=self.fingerprint,
            seed=self.target_seed,
            numerics=self.numerics,
            code=TRAINING_VERSION,
            **classifier.content(),
        )

    @property
    def target_key(self) -> str:
        return self.classifier_key(self.target)

    @property
    def learns_from_target(self) -> bool:
        """Say whether the purifier's training looks at the undefended target: for its inputs, or for its loss."""
        return self.network.is_trained and (self.train_input in ("adv", "mix") or self.network.needs_target)

    @property
    def purifier_key(self) -> str:
        """Return the key of the purifier; one without training depends on its options alone."""
        if not self.network.is_trained:
            return key_of("purifier", **self.network.content())
        return key_of("purifier", **self._purifier_training(), **self.network.content())

    @property
    def weights_key(self) -> str:
        """Return the key of the purifier's weights: the same for two that differ only in what a finished network reads (`passes`)."""
        content, trained = self.network.content(), self.network.trained_content()
        return self.purifier_key if content == trained else key_of("purifier", **self._purifier_training(), **trained)

    @property
    def phase_keys(self) -> dict[int, str]:
        """Return last epoch -> key for each phase of the purifier's training: the `weights_key` of the training that ends with that phase."""
        training = self.training
        trainings = {end: training.until(count) for count, end in enumerate(training.phase_ends, 1)}
        return {end: self.model_copy(update={"training": each}).weights_key for end, each in trainings.items()}

    def _purifier_training(self) -> dict[str, object]:
        recipe: dict[str, object] = {"training": self.training.model_dump(), "train_input": self.train_input, "seed": self.seed}
        if self.train_input in ("gauss", "mix"):
            recipe["train_noise"] = self.train_noise
        if self.train_input in ("adv", "mix"):
            recipe |= {"train_epsilon": self.train_epsilon, "attack": version(fgsm)}
        if self.learns_from_target:
            recipe |= {"target": self.target_key, "folding": _folding.VERSION}  # it is looked at with its normalizations folded
        return {"data": self.fingerprint, "numerics": self.numerics, "code": TRAINING_VERSION, **recipe}

    @property
    def retrain_recipe(self) -> Training:
        """Return how the retrained classifier is trained: one from scratch as the target was, otherwise as `retraining` says."""
        return self.target.training if self.retrain == "scratch" else self.retraining

    @property
    def retrained_key(self) -> str | None:
        if self.retrain == "none":
            return None
        against = {} if self.adversary == "none" else {"adversary": self.adversary, "epsilon": self.adversary_epsilon, "inner": version(_inner)}
        return key_of(
            "retrained",
            target=self.target_key,
            purifier=self.purifier_key,
            retrain=self.retrain,
            training=self.retrain_recipe.model_dump(),
            seed=self.seed,
            numerics=self.numerics,
            code=TRAINING_VERSION,
            **against,
        )

    @property
    def defense_key(self) -> str:
        """Return the key of what is attacked and scored: purifier, original target and retrained target."""
        return key_of("defense", target=self.target_key, purifier=self.purifier_key, retrained=self.retrained_key)

    @property
    def trial_id(self) -> str:
        return key_of("trial", defense=self.defense_key, data=self.fingerprint, seed=self.seed)

    @property
    def variant_id(self) -> str:
        """Return the identity of the trial without its seed; seeds of one variant form a seed group."""
        return key_of("variant", config=self.model_dump(mode="json", exclude={"seed"}), version=self.network.version)


class Cell(_Frozen):
    """One attack under one threat over one epsilon grid, on a number of images of a split (None: all of them).

    Attributes:
        victim: Under `graybox`, the classifier that the images are crafted on: the original target, or the trial's own retrained one.
        source: Under `transfer`, the position of the one source that all images are crafted on; None: each image on one of them.
        labels: Whether the attack leads away from the true class or from the one that the attacked classifier says.
    """

    threat: Literal["clean", "graybox", "transfer", "adaptive", "adaptive_bpda", "adaptive_soft"]
    attack: str
    options: dict[str, Any] = Field(default_factory=dict)
    epsilons: tuple[float, ...] = (0.0,)
    images: int | None = Field(default=None, ge=1)
    victim: Literal["original", "retrained"] = "original"
    source: int | None = Field(default=None, ge=0)
    labels: Literal["true", "predicted"] = "true"

    @field_validator("epsilons")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return check_epsilons(values)

    @property
    def is_shared(self) -> bool:
        """Say whether its images are the same for every trial with this target."""
        return self.threat == "transfer" or (self.threat == "graybox" and self.victim == "original")

    @property
    def measures_distance(self) -> bool:
        """Say whether its result is how far the nearest adversarial image is (table `distances`), at no epsilon."""
        return measures_distance(self.attack, self.threat)

    @property
    def version(self) -> str:
        if self.attack == "none":
            return "none"
        module = attack_module(self.attack, self.threat)
        # an object that stands for a library's attack is no module: its wrapper's module has the shared parts
        own = version(module) if isinstance(module, ModuleType) else f"{module.VERSION},{version(sys.modules[type(module).__module__])}"
        around = {"adaptive_bpda": _backward.VERSION, "adaptive_soft": f"soft{_soft_assignment.VERSION}"}.get(self.threat, 0)
        if self.measures_distance:
            return f"{own},distances,{around}"
        return f"{own},{_white_box.VERSION},{around}" if self.threat in ADAPTIVE and (around or module is not _ascending) else own


class EvaluationConfig(_Frozen):
    """Attack settings, epsilon grids, sample sets and numerics: how a trial is scored."""

    name: Literal["quick", "standard", "full"]
    cells: tuple[Cell, ...]
    sources: tuple[Classifier, ...] = ()
    split: Literal["validation", "test"] = "test"
    score_epsilon: float = Field(gt=0, le=1)
    seed: int = 0
    batch_size: int = Field(default=128, ge=1)

    @property
    def is_checked(self) -> bool:
        """Say whether trials are probed for the reviewer's checks: not where nothing is ranked."""
        return self.name != "quick"

    @property
    def strip_cells(self) -> list["Cell"]:
        """Return the cells whose images are kept for the eye: the first PGD on the target, and on the whole defense; none where nothing is ranked."""
        found: dict[str, Cell] = {}
        for cell in self.cells if self.name != "quick" else ():
            if cell.attack == "pgd" and cell.threat in ("graybox", "adaptive"):
                found.setdefault(cell.threat, cell)
        return list(found.values())


def known_settings(model: str) -> list[str]:
    """Return the flat setting names that a trial of this model accepts."""
    own = [field.name for field in dataclasses.fields(find("models", model).Config)]
    return sorted({*TrialConfig.model_fields, *Training.model_fields, *EVALUATION_SETTINGS, *own} - {*PARTS, "fingerprint"})


def unknown_setting(name: str, known: list[str]) -> ValueError:
    """Return the error for a setting that no model at hand knows, naming the nearest."""
    hint = " (its settings are paths, such as 'retraining/num_epochs')" if name in PARTS else nearest(name, [*known, *(f"{part}/" for part in PARTS)])
    return ValueError(f"unknown trial setting {name!r}{hint}; known settings: {', '.join(known)}")


def resolve(defaults: Mapping[str, Any], settings: Mapping[str, Any], *, ignore: frozenset[str] = frozenset()) -> TrialConfig:
    """Return the complete configuration of flat settings over nested defaults.

    Args:
        defaults: Nested defaults of the data set and scale, as `scales.trial_defaults` gives them.
        settings: Flat settings, `codebook_size` or `retraining/num_epochs`.
        ignore: Names that are dropped where this model has no such setting (a `--set` meant for the others).

    Raises:
        ValueError: For an unknown setting (naming the nearest), a wrong type or a value out of range.
    """
    values = json.loads(canonical_json(defaults))
    model = str(settings.get("model", values.get("model", "vqunet")))
    model = adopt(model) if model.endswith(".py") else canonical(model)
    own = {field.name for field in dataclasses.fields(find("models", model).Config)}
    by_model = values.pop("options_by_model", {})
    values["model_options"] = {k: v for k, v in by_model.get(model, by_model.get("*", {})).items() if k in own}
    if model in (by_training := values.pop("training_by_model", {})):
        values["training"] |= by_training[model]
    for name, value in settings.items():
        path = name.split("/")
        if name == "model":
            values["model"] = model
        elif len(path) > 1 and path[0] in PARTS:
            place = values.setdefault(path[0], {})
            for part in path[1:-1]:
                place = place.setdefault(part, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise ValueError(f"unknown trial setting {name!r}: {'/'.join(path[:-1])!r} has no settings of its own")
            place[path[-1]] = value
        elif name in own:
            values["model_options"][name] = value
        elif name in Training.model_fields:
            values["training"][name] = value
        elif name in TrialConfig.model_fields and name not in (*PARTS, "fingerprint"):
            values[name] = canonical(value) if name == "dataset" and isinstance(value, str) else value
        elif name not in ignore:
            raise unknown_setting(name, known_settings(model))
    if "training" in values and values["training"].get("phases"):  # what they say is the user's, and a default beside it is not
        given = {name.removeprefix("training/") for name in settings}
        values["training"] = {name: value for name, value in values["training"].items() if name not in FROM_PHASES or name in given}
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        paths = [f"{part}/{name}" for part in ("retraining", "target/training") for name in Training.model_fields]
        raise ValueError(explain(error, known_settings(model), "trial setting", paths)) from None
