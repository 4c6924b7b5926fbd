"""Everything expensive, computed once and named by its content: `get_or_create(kind, key, make)` is the only way any of it comes to be.

An artifact is a bundle of tensors with a JSON description, one safetensors file `artifacts/<kind>/<kk>/<key>.safetensors` under the results
root. It is created whole, so no reader sees half a file and a lost race returns what is stored. What takes long is claimed while it is made
(`claims.py`), so two nodes do not train the same. Checkpoints of a training under way are files of their own, replaced after every epoch and removed
once the artifact exists. What a training was in at the end of a phase stays, `artifacts/phases/<kk>/<key>.pt`: a training that begins with the same
phases goes on from there. Without it, it starts over.
"""

import hashlib
import io
import json
import pickle
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sweeper.claims import claimed
from sweeper.storage import Root, Store, open_store
from sweeper.storage.node_cache import NodeCache

SUFFIX = ".safetensors"
STATE_SUFFIX = ".pt"
CLAIMED = ("classifiers", "purifiers", "retrained", "adversarial")  # minutes to hours of work that several trials or sweeps may come to at once
SHARED = ("classifiers", "adversarial", "data")  # read by many trials: from a root that is not on this node, fetched once


@dataclass(frozen=True)
class Bundle:
    """Named tensors, what is known of them (plain JSON values), and the SHA-256 of names, types, shapes and bytes."""

    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""


class StorageError(OSError):
    """The results root cannot take what was computed, or give what is stored; the computation itself was sound."""


@contextmanager
def storing(place: str) -> Iterator[None]:
    """Turn a refusal to write into a sentence that names the place."""
    try:
        yield
    except OSError as error:
        raise StorageError(error.errno or 5, f"cannot write {place}: {error.strerror or error}") from error


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn a failure to read into a sentence that names the place; FileNotFoundError, for what is not stored, stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(error.errno or 5, f"cannot read {place}: {error.strerror or error}") from error


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _no_wait(who: str) -> None:
    """Wait in silence."""


class Artifacts:
    """The artifacts under one results root.

    Args:
        on_wait: Told who makes an artifact that is waited for.
    """

    def __init__(self, root: Root, on_wait: Callable[[str], None] = _no_wait) -> None:
        self.store: Store = open_store(root)
        self.on_wait = on_wait
        self._cache = None if self.store.local_path("") is not None else NodeCache(self.store)

    def name(self, kind: str, key: str) -> str:
        """Return an artifact's file in the root."""
        return f"artifacts/{kind}/{key[:2]}/{key}{SUFFIX}"

    def has(self, kind: str, key: str) -> bool:
        name = self.name(kind, key)
        with reading(self.store.shown(name)):
            return self.store.stat(name) is not None

    def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        """Return the artifact of that key, made by `make` when it is not stored yet.

        A stored file that is damaged is moved to `quarantine/` and made again. Of two makers the first to store wins, and both return its. Where
        another process is making it, it is waited for, unless that process is dead.
        """
        stored = self.load(kind, key)
        if stored is not None:
            return stored
        if kind in CLAIMED:
            with claimed(self.store, f"{kind}-{key}", lambda: self.has(kind, key), self.on_wait):
                return self.load(kind, key) or self._made(kind, key, make)
        return self._made(kind, key, make)

    def _made(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        self.put(kind, key, make())
        stored = self.load(kind, key)
        if stored is None:
            raise StorageError(5, f"{self.store.shown(self.name(kind, key))} was stored and cannot be read back")
        self.checkpoint(key).discard()
        return stored

    def load(self, kind: str, key: str) -> Bundle | None:
        """Return a stored artifact, verified against its own hash, or None."""
        name = self.name(kind, key)
        if self._cache is not None and kind in SHARED and self.has(kind, key):  # a copy here does not make it stored
            with reading(self.store.shown(name)):
                cached = self._cache.read(name)
            bundle = None if cached is None else _unpacked(cached)
            if bundle is not None:
                return bundle
            self._cache.forget(name)
        try:
            with reading(self.store.shown(name)):
                content = self.store.read(name)
        except FileNotFoundError:
            return None
        bundle = _unpacked(content)
        if bundle is None:
            with storing(self.store.shown(f"quarantine/{name}")), suppress(FileNotFoundError):  # another process was quicker
                self.store.move(name, f"quarantine/{name}")
        return bundle

    def put(self, kind: str, key: str, bundle: Bundle) -> None:
        """Write a bundle under its key; what is stored already stays."""
        name = self.name(kind, key)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.tensors.items()}
        metadata = {"info": json.dumps(bundle.info, sort_keys=True), "content": content_hash(tensors)}
        with storing(self.store.shown(name)):
            self.store.create(name, save(tensors, metadata))

    def checkpoint(self, key: str) -> "Checkpoint":
        return Checkpoint(self.store, f"artifacts/checkpoints/{key}{STATE_SUFFIX}")

    def phase_state(self, key: str) -> "Checkpoint":
        """Return where the state is kept that a training of that key ended in; it outlives the training."""
        return Checkpoint(self.store, f"artifacts/phases/{key[:2]}/{key}{STATE_SUFFIX}")


def _unpacked(content: bytes) -> Bundle | None:
    """Return what a safetensors file holds, None if it is damaged."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        bundle = Bundle(tensors, json.loads(header["info"]), header["content"])
    except (SafetensorError, KeyError, ValueError):
        return None
    return bundle if content_hash(tensors) == bundle.content else None


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training, replaced as a whole: by a later epoch's, or by an equal one of another process."""

    store: Store
    name: str

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None; a file that is damaged counts as none, since training can start over."""
        try:
            with reading(self.store.shown(self.name)):
                content = self.store.read(self.name)
        except FileNotFoundError:
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as file:  # torch checks no checksum when it reads
                damaged = file.testzip() is not None
            state = None if damaged else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error):
            state = None
        if state is None:
            with storing(self.store.shown(self.name)), suppress(FileNotFoundError):  # another process was quicker
                self.store.move(self.name, f"{self.name.removesuffix(STATE_SUFFIX)}.damaged-{int(time.time())}")
        return state

    def save(self, state: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        with storing(self.store.shown(self.name)):
            self.store.replace(self.name, content.getvalue())

    def discard(self) -> None:
        with storing(self.store.shown(self.name)):
            self.store.delete(self.name)
