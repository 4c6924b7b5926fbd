"""What determines a trial: frozen, validated once, named by the hash of its canonical JSON.

A key holds everything that its result depends on and nothing else: no path, no sweep, no host. Flat settings (what a search space or `--set`
gives) become a `TrialConfig` in `resolve`: defaults of the scale first, then the settings; a setting is a field of `TrialConfig`, of the
purifier's `Training`, of the model's own `Config`, or a path such as `retraining/num_epochs`.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from attacks import _inner, fgsm
from models import _folding
from sweeper.canonical import Frozen, canonical_json, key_of
from sweeper.lookup import adopt, canonical, find, nearest, version
from sweeper.options import explain, resolve_options
from sweeper.recipes import FROM_PHASES, ClassifierTraining, Phase, Training

EVALUATION_SETTINGS = ("victim", "mix", "attack_preset", "num_eot_samples")  # flat settings that say how a trial is scored, not what it is
PARTS = ("training", "retraining", "target", "numerics", "model_options")  # of a trial, whose settings are paths: `retraining/num_epochs`
TRAINING_VERSION = 1  # of training.py and networks.py: raise it when the same recipe gives other weights


class Network(Frozen):
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


class Numerics(Frozen):
    """Settings that change the last bits of a result: part of every key."""

    threads: int = Field(default=1, ge=1, le=1024)
    precision: Literal["fp32", "bf16"] = "fp32"


class TrialConfig(Frozen):
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
