"""A module's own options: completed from its `Config`, checked, and explained where they cannot be used.

A `Config` is a plain dataclass, so that models and attacks need no library for it; pydantic converts the types here, the dataclass checks ranges.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, create_model

from sweeper.lookup import find, nearest

ADAPTIVE = ("adaptive", "adaptive_bpda", "adaptive_soft")  # threats whose attacker differentiates through the whole defense


def attack_module(name: str, threat: str) -> Any:
    """Return the module of an attack, or the object that stands for a library's: `torchattacks:NAME`, and AutoAttack's parts under `adaptive`.

    Under `adaptive`, `pgd` is the native ascending attacker; any other attack is run over ascending epsilons on what survives,
    unless it offers `minimum_distances` (see `measures_distance`).
    """
    if name.startswith("torchattacks:"):
        from attacks import _torchattacks

        return _torchattacks.load(name)
    if threat in ADAPTIVE:
        from attacks import _ascending, _autoattack

        if name == "pgd":
            return _ascending
        if name in _autoattack.NAMES:
            return _autoattack.load(name)
    return find("attacks", name)


def measures_distance(name: str, threat: str) -> bool:
    """Say whether an attack measures how far the nearest adversarial image is: on the attacked defense itself, where it offers to."""
    return threat in ADAPTIVE and hasattr(attack_module(name, threat), "minimum_distances")


def check_epsilons(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the grid, ascending without repeats.

    Raises:
        ValueError: If there is none, or one lies outside [0, 1].
    """
    if not values:
        raise ValueError("epsilons must be at least one, got none")
    for value in values:
        if not 0 <= value <= 1:
            hint = f"; did you mean {value:g}/255?" if 1 < value <= 255 else ""
            raise ValueError(f"epsilon must be in [0, 1] in units of the pixel range, got {value:g}{hint}")
    return tuple(sorted(set(values)))


def resolve_options(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's complete options, defaults filled in, as plain JSON values.

    Raises:
        ValueError: If an option is unknown (naming the nearest), of the wrong type or out of range.
    """
    config_class = find(kind, name).Config
    return _validated(config_class, name, options)


def _validated(config_class: type, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a plain dataclass, types converted and checked by pydantic, ranges by the dataclass itself."""
    model = _options_model(config_class)
    try:
        values = model.model_validate(dict(options))
    except ValidationError as error:
        raise ValueError(explain(error, model.model_fields, f"{name} option")) from None
    complete = config_class(**{field: getattr(values, field) for field in model.model_fields})
    return json.loads(json.dumps(dataclasses.asdict(complete), allow_nan=False))


@cache  # making the class costs more than all the rest of a plan's work on a trial
def _options_model(config_class: type) -> type[BaseModel]:
    hints = get_type_hints(config_class)
    fields: dict[str, Any] = {field.name: (_one_or_list(hints[field.name]), _default(field)) for field in dataclasses.fields(config_class)}
    return create_model("Options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=()), **fields)


def _one_or_list(hint: Any) -> Any:
    """Return an option's type; `int | tuple[int, ...]` is checked as the one of the two that was given, or a mistake would be told twice."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    is_list = [get_origin(member) is tuple for member in members]
    if sorted(is_list) != [False, True] or NoneType in members:
        return hint
    one, several = (TypeAdapter(members[is_list.index(which)], config=ConfigDict(allow_inf_nan=False)) for which in (False, True))
    return Annotated[hint, PlainValidator(lambda value: (several if isinstance(value, list | tuple) else one).validate_python(value))]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return Field(default_factory=field.default_factory) if field.default_factory is not dataclasses.MISSING else ...


def check_scorable(name: str, threat: str) -> None:
    """Raise ValueError for an attack whose shared set would pass for robustness: it returns the clean image where it fails."""
    if getattr(attack_module(name, threat), "RETURNS_CLEAN_ON_FAILURE", False):
        raise ValueError(
            f"{name} returns the clean image where it fails, so its set would pass for robustness under {threat!r}; "
            "use an attack that always perturbs"
        )


def attack_options(name: str, threat: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attack's complete options, validated."""
    module = attack_module(name, threat)
    if name.startswith("torchattacks:"):
        return module.complete(options)
    return _validated(module.Config, name, options)


def explain(error: ValidationError, known: Iterable[str], what: str, paths: Iterable[str] = ()) -> str:
    """Return one sentence per mistake: the setting, the value received, what would be accepted.

    Args:
        known: The settings there are, listed where one is unknown.
        paths: Longer names, not listed, of which the nearest may be the one that was meant.
    """
    sentences = []
    for mistake in error.errors():
        place = "/".join(str(part) for part in mistake["loc"]).removeprefix("training/")
        if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            sentences.append(f"unknown {what} {place!r}{nearest(place, [*known, *paths])}; known: {', '.join(sorted(known)) or 'none'}")
        elif mistake["type"] in ("value_error", "assertion_error"):
            sentences.append(str(mistake["ctx"]["error"]) if "ctx" in mistake else mistake["msg"])
        else:
            rule = mistake["msg"][0].lower() + mistake["msg"][1:]
            sentences.append(f"{what} {place!r}: {rule}, got {mistake['input']!r}")
    return "; ".join(sentences)
