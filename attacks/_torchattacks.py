"""The second engine: torchattacks' L-infinity attacks behind our interface.

``load("torchattacks:MIFGSM")`` returns an object with NORM, VERSION, Config and perturb, like our own modules. The
library's habits stay behind this door: its ``eps`` comes from the grid, its global seeds and modes are restored, and
what it returns is checked, not believed.

Two things our own attacks promise cannot be promised here. Random attacks draw for a whole batch, so results depend on
how images are batched (they repeat for equal batches). And the attacks named in ``RETURNS_CLEAN_ON_FAILURE`` return the
*clean* image where they fail, so their sets must never be scored on another model (gray-box, transfer): they are
unperturbed exactly where the source resisted.
"""

import difflib
import importlib.metadata
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields, make_dataclass
from typing import Any

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from attacks._keyed import seed_of_batch
from attacks._linf import check_inputs, detached_copy
from attacks._modes import ready_for_attack
from attacks._white_box import refuse_outside

PREFIX = "torchattacks:"
WRAPPER_VERSION = 1

L2_WITH_EPSILON = frozenset({"PGDL2", "PGDRSL2"})  # their eps is an L2 radius
RETURNS_CLEAN_ON_FAILURE = frozenset({"APGD", "APGDT", "AutoAttack", "FAB", "Square"})
SET_BY_US = {  # parameters of the library that are not settings here -> where they come from
    "eps": "epsilon comes from the grid",
    "norm": "only L-infinity attacks are run",
    "seed": "randomness comes from the images' keys",
    "n_classes": "the number of classes is read from the logits",
    "verbose": "nothing is printed",
}


def available() -> list[str]:
    """Return the names of the L-infinity attacks: those with an `eps` that is an L-infinity radius."""
    names = [name for name in torchattacks.__all__ if "eps" in _parameters(name) and name not in L2_WITH_EPSILON]
    return sorted(names)


def load(name: str) -> "TorchattacksAttack":
    """Return the attack called "torchattacks:NAME".

    Raises:
        ValueError: If the name is not one of ``available()``; the message lists them.
    """
    short = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or short not in available():
        known = short in torchattacks.__all__
        reason = "is not bounded in L-infinity by epsilon" if known else "is unknown"
        raise ValueError(f"attack {name!r} {reason}; available: {', '.join(PREFIX + each for each in available())}")
    return TorchattacksAttack(short)


class TorchattacksAttack:
    """One attack of torchattacks, usable like one of our modules.

    Attributes:
        NORM: ``linf``.
        VERSION: Of this wrapper and of torchattacks, such as ``1+torchattacks-3.5.1``.
        RETURNS_CLEAN_ON_FAILURE: Whether images it cannot break come back unperturbed.
        Config: Frozen dataclass of the attack's own parameters and defaults, less those in ``SET_BY_US``.

    Args:
        name: The library's name of it.
        max_targets: How many wrong classes a targeted attack aims at, the likeliest first; None is all of them.
    """

    NORM = "linf"

    def __init__(self, name: str, max_targets: int | None = None) -> None:
        self.name = name
        self.max_targets = max_targets
        self.VERSION = f"{WRAPPER_VERSION}+torchattacks-{importlib.metadata.version('torchattacks')}"
        self.RETURNS_CLEAN_ON_FAILURE = name in RETURNS_CLEAN_ON_FAILURE
        self.Config = _make_config(name)

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attack's settings with the library's defaults filled in; raise ValueError for an unusable one."""
        complete = asdict(self.Config(**options))
        floats = {each.name for each in fields(self.Config) if each.type is float}
        return {name: float(value) if name in floats else value for name, value in complete.items()}  # 1 and 1.0 are one setting

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilons: Sequence[float],
        keys: Tensor,
        config: Any = None,
    ) -> Tensor:
        """Return one adversarial copy of images per epsilon, float (E, N, C, H, W) in [0, 1].

        Raises:
            ValueError: If the library returns images outside the ball or [0, 1], or not finite.
        """
        check_inputs(images, labels, epsilons, keys)
        if self.name == "TIFGSM" and images.shape[1] != 3:
            raise ValueError(f"{PREFIX}TIFGSM blurs gradients of 3 channels only, got images with {images.shape[1]}")
        options = asdict(config if config is not None else self.Config())
        with ready_for_attack(model):
            images, labels = detached_copy(images), labels.clone()
            grid = [self._perturb_at(model, images, labels, epsilon, keys, options) for epsilon in epsilons]
            return torch.stack(grid)

    def _perturb_at(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, keys: Tensor, options: dict[str, Any]) -> Tensor:
        if epsilon == 0 or not len(images):  # several attacks divide by eps
            return images.clone()
        seed = seed_of_batch(keys, attack=PREFIX + self.name, epsilon=epsilon)
        parameters = _parameters(self.name)
        given: dict[str, Any] = {"eps": epsilon, "norm": "Linf", "seed": seed, "verbose": False}
        if "n_classes" in parameters:
            with torch.no_grad():
                num_classes = model(images[:1]).shape[1]
            given["n_classes"] = num_classes if self.max_targets is None else min(num_classes, self.max_targets + 1)
        given = {name: value for name, value in given.items() if name in parameters}
        with _seeded(seed, images.device):
            attack = getattr(torchattacks, self.name)(model, **given, **options)
            attack.set_device(images.device)  # it guesses from the first parameter, which a model need not have
            adversarial = attack(images, labels).detach()
        refuse_outside(PREFIX + self.name, adversarial, images, epsilon)
        return adversarial.to(images)


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(getattr(torchattacks, name).__init__)
    return {each: parameter for each, parameter in signature.parameters.items() if each not in ("self", "model")}


def _make_config(name: str) -> type:
    """Return a frozen dataclass of the attack's settings; it names the nearest one when it meets an unknown one."""
    settings = {each: p.default for each, p in _parameters(name).items() if each not in SET_BY_US}
    specification = [(each, type(default), field(default=default)) for each, default in settings.items()]

    def check_types(self: Any) -> None:
        for each in fields(self):
            value, expected = getattr(self, each.name), type(settings[each.name])
            accepted = (int, float) if expected is float else expected
            if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
                raise ValueError(f"{PREFIX}{name}: {each.name} must be {expected.__name__}, got {value!r}")
            if each.name in ("steps", "n_restarts", "n_queries", "eot_iter") and value < 1:
                raise ValueError(f"{PREFIX}{name}: {each.name} must be at least 1, got {value}")

    config = make_dataclass(f"{name}Config", specification, frozen=True, namespace={"__post_init__": check_types})
    generated = config.__init__

    def refuse_unknown(self: Any, **options: Any) -> None:
        for option in options:
            if option in SET_BY_US:
                raise ValueError(f"{PREFIX}{name}: {option!r} is not a setting here: {SET_BY_US[option]}")
            if option not in settings:
                near = difflib.get_close_matches(option, settings, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                known = ", ".join(settings) or "none"
                raise ValueError(f"{PREFIX}{name}: unknown setting {option!r}{hint}; known settings: {known}")
        generated(self, **options)

    config.__init__ = refuse_unknown  # type: ignore[method-assign]
    config.__doc__ = f"Settings of torchattacks.{name}, with the library's names and defaults."
    return config


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python for the block, and restore all three afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
