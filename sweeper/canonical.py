"""One text for each value, and the key that is made of it: what everything expensive is named by."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict

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


class Frozen(BaseModel):
    """Values that are checked once and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
