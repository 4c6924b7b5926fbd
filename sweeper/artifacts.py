"""Everything expensive, computed once and named by its content: `get_or_create(kind, key, make)` is the only way any of it comes to be.

An artifact is a bundle of tensors with a JSON description, one safetensors file `artifacts/<kind>/<kk>/<key>.safetensors` under the results
root. It is written aside and then linked into place, so no reader sees half a file and a lost race returns what is stored. Checkpoints of a
training under way are files of their own, replaced after every epoch and removed once the artifact exists. What a training was in at the end of a
phase stays, `artifacts/phases/<kk>/<key>.pt`: a training that begins with the same phases goes on from there. Without it, it starts over.
"""

import hashlib
import json
import os
import pickle
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SUFFIX = ".safetensors"
STATE_SUFFIX = ".pt"


@dataclass(frozen=True)
class Bundle:
    """Named tensors, what is known of them (plain JSON values), and the SHA-256 of names, types, shapes and bytes."""

    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""


class StorageError(OSError):
    """The results root cannot take what was computed; the computation itself was sound."""


@contextmanager
def storing(path: Path, size_bytes: int = 0) -> Iterator[None]:
    """Turn an operating system's refusal to write into a sentence that names the place, and the space where that is the reason."""
    try:
        yield
    except OSError as error:
        place = path.parent
        while not place.exists():
            place = place.parent
        status = os.statvfs(place)
        free = status.f_bavail * status.f_frsize
        reason = f"no space left: {free:,} bytes free, {size_bytes:,} needed" if error.errno in (28, 122) else error.strerror
        raise StorageError(error.errno, f"cannot write {path}: {reason}") from error


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Artifacts:
    """The artifacts under one results root, on a local or a network folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute() / "artifacts"

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / (key + SUFFIX)

    def has(self, kind: str, key: str) -> bool:
        return self.path(kind, key).exists()

    def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
        """Return the artifact of that key, made by `make` when it is not stored yet.

        A stored file that is damaged is moved to `quarantine/` and made again. Of two makers the first to store wins, and both return its.
        """
        stored = self.load(kind, key)
        if stored is not None:
            return stored
        self.store(kind, key, make())
        stored = self.load(kind, key)
        if stored is None:
            raise StorageError(5, f"{self.path(kind, key)} was stored and cannot be read back")
        self.checkpoint(key).discard()
        return stored

    def load(self, kind: str, key: str) -> Bundle | None:
        """Return a stored artifact, verified against its own hash, or None."""
        path = self.path(kind, key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
                metadata = file.metadata() or {}
            bundle = Bundle(tensors, json.loads(metadata["info"]), metadata["content"])
            damaged = content_hash(tensors) != bundle.content
        except FileNotFoundError:  # another process found it damaged and moved it away
            return None
        except (SafetensorError, KeyError, ValueError):
            damaged, bundle = True, None
        if damaged:
            aside = self.root.parent / "quarantine" / path.relative_to(self.root.parent)
            aside.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process was quicker
                os.replace(path, aside)
            return None
        return bundle

    def store(self, kind: str, key: str, bundle: Bundle) -> None:
        """Write a bundle under its key; what is stored already stays."""
        path = self.path(kind, key)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.tensors.items()}
        metadata = {"info": json.dumps(bundle.info, sort_keys=True), "content": content_hash(tensors)}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        with storing(path, size):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{key}.{uuid.uuid4().hex}.part")
            try:
                try:
                    save_file(tensors, aside, metadata)
                except SafetensorError as error:  # it wraps the operating system's error in words
                    raise OSError(28 if "os error 28" in str(error) else 5, str(error)) from error
                with open(aside, "rb+") as file:
                    os.fsync(file.fileno())
                _link(aside, path)
            finally:
                aside.unlink(missing_ok=True)

    def checkpoint(self, key: str) -> "Checkpoint":
        return Checkpoint(self.root / "checkpoints" / (key + STATE_SUFFIX))

    def phase_state(self, key: str) -> "Checkpoint":
        """Return where the state is kept that a training of that key ended in; it outlives the training."""
        return Checkpoint(self.root / "phases" / key[:2] / (key + STATE_SUFFIX))

    def stored_bytes(self) -> dict[str, int]:
        """Return the bytes stored per kind."""
        sizes: dict[str, int] = {}
        for path in (*self.root.glob(f"*/*/*{SUFFIX}"), *self.root.glob(f"phases/*/*{STATE_SUFFIX}")):
            kind = path.parts[-3]
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
        return sizes


def _link(aside: Path, path: Path) -> None:
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links: rename is whole too, and the last writer's copy is as good
        os.replace(aside, path)


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training, replaced as a whole: by a later epoch's, or by an equal one of another process."""

    path: Path

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None; a file that is damaged counts as none, since training can start over."""
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as file:  # torch checks no checksum when it reads
                damaged = file.testzip() is not None
            state = None if damaged else torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error):
            state = None
        if state is None:
            with suppress(FileNotFoundError):  # another process was quicker
                self.path.replace(self.path.with_suffix(f".damaged-{int(time.time())}"))
        return state

    def save(self, state: dict[str, Any]) -> None:
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_suffix(f".{uuid.uuid4().hex}.part")
            try:
                torch.save(state, aside)
                os.replace(aside, self.path)
            finally:
                aside.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
