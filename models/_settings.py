"""Checks that the models' `Config` classes share: each returns the setting as it is kept, or names what is wrong."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1


def check_int(name: str, value: object, minimum: int = 1) -> int:
    """Return value if it is a whole number of at least minimum; a bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return value


def check_float(name: str, value: object, minimum: float = 0.0, below: float = math.inf) -> float:
    """Return value as a float in [minimum, below), so that 2 and 2.0 are one setting."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < below:
        limit = f"at least {minimum:g}" + (f" and below {below:g}" if below < math.inf else " and finite")
        raise ValueError(f"{name} must be a number of {limit}, got {value!r}")
    return float(value)


def check_bool(name: str, value: object) -> bool:
    """Return value if it is true or false; 0, 1 and strings are refused."""
    if value is not True and value is not False:
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return value if it is one of choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_ints(name: str, value: object, minimum: int = 1) -> tuple[int, ...]:
    """Return a tuple, list or other sequence of whole numbers (JSON has only lists) as a tuple that is not empty."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} must be a list of at least one whole number, got {value!r}")
    return tuple(check_int(f"every entry of {name}", entry, minimum) for entry in value)


def with_weights(config: Any, weights: Mapping[str, float], names: Sequence[str]) -> Any:
    """Return a `Config` with some of its loss weights changed, checked as when it was made.

    Args:
        weights: Name -> new weight.
        names: The loss weights that the model has.

    Raises:
        ValueError: If a name is none of names, or a weight is out of range.
    """
    for name in weights:
        check_choice("a loss weight", name, names)
    return dataclasses.replace(config, **weights)
