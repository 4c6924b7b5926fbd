"""CIFAR-10: 32x32 colour photographs in ten classes, from the official binary files.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009. A record is one label byte and 3,072 pixel
bytes: 1,024 red, 1,024 green, 1,024 blue, row by row (https://www.cs.toronto.edu/~kriz/cifar.html). The pickled
"python version" is never opened: unpickling a downloaded file runs whatever it says.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.datasets._files import PublishedFile, cache_folder, checksum_row, download, find_folder
from sweeper.datasets._splits import Caps, RawSplit, Splits, assemble, check_caps, cut_validation

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
LICENCE = "none stated; the authors ask to be cited"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
COUNTS = (45_000, 5_000, 10_000)
FILES = (
    PublishedFile(
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        170_052_171,
    ),
)
_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = ("test_batch.bin",)
_RECORD_BYTES = 1 + 3 * 32 * 32
_PICKLED = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1")


def load(root: Path | None = None, caps: Caps = (None, None, None)) -> Splits:
    """Return the images of the six binary files, of any record count.

    Validation is a tenth of the training images, stratified, or the cap of validation if that is fewer. The test
    images are those of the test file. Sample ids count the records over the files of a split, in the order of the
    files' numbers, from 0: `cifar10-train-00000`.

    Args:
        root: The folder `cifar-10-batches-bin` or its parent; None reads the cache folder, after a download where it
        is empty. caps: Most images of train, validation and test, taken stratified.

    Raises:
        FileNotFoundError: If root or a file is missing, or only the pickled version is there.
        ValueError: If a file is truncated or holds a label out of range.
        ConnectionError: If the files must be downloaded and cannot be.
    """
    train_cap, validation_cap, test_cap = check_caps(caps)
    folder = _folder(root)
    train, validation = cut_validation(_read_split(folder, _TRAIN, "train"), validation_cap)
    parts = (train.capped(train_cap), validation, _read_split(folder, _TEST, "test").capped(test_cap))
    return assemble("cifar10", VERSION, parts, CLASS_NAMES, _to_images)


def is_cached() -> bool:
    """Return whether the cache folder holds the six unpacked files."""
    return all((_cache() / _FOLDER / name).is_file() for name in _TRAIN + _TEST)


def fetch() -> list[Path]:
    """Return the six files in the cache folder, downloaded where the archive is missing or damaged, and unpacked anew.

    The archive stays: it has the published checksum, its members have none, and `inspect` compares them with it.
    """
    (archive,) = download("cifar10", FILES, _cache())
    folder = _cache() / _FOLDER
    folder.mkdir(exist_ok=True)
    paths = []
    with tarfile.open(archive) as members:
        for name in _TRAIN + _TEST:
            aside = folder / f"{name}.{secrets.token_hex(4)}.part"
            try:
                aside.write_bytes(_member(members, name))
                os.replace(aside, folder / name)  # whole or not at all, also for a reader at this moment
            except OSError as error:
                raise OSError(f"cannot unpack {name} of {archive} into {folder}: {error}") from error
            finally:
                aside.unlink(missing_ok=True)
            paths.append(folder / name)
    return paths


def inspect(root: Path | None = None) -> list[dict[str, object]]:
    """Return rows: has the archive the published checksum, are the six files in order, and are they the archive's?"""
    folder = _cache() / _FOLDER if root is None else _folder(root)
    archive = folder.parent / FILES[0].name
    rows: list[dict[str, object]] = []
    if archive.is_file() or root is None:
        rows.append(checksum_row(archive, FILES[0]))
    is_published = bool(rows and rows[0]["ok"])
    for name in _TRAIN + _TEST:
        expected = "records of 3,073 bytes, labels from 0 to 9"
        try:
            found, ok = f"{len(_read_records(folder / name)):,} {expected}", True
        except (ValueError, FileNotFoundError) as error:
            found, ok = str(error), False
        rows.append({"file": str(folder / name), "check": "content", "expected": expected, "found": found, "ok": ok})
    if is_published:
        with tarfile.open(archive) as members:
            for name in _TRAIN + _TEST:
                path = folder / name
                expected = f"sha256 {hashlib.sha256(_member(members, name)).hexdigest()}"
                found = f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else "missing"
                rows.append(
                    {
                        "file": str(path),
                        "check": "archive",
                        "expected": expected,
                        "found": found,
                        "ok": found == expected,
                    }
                )
    return rows


def _cache() -> Path:
    return cache_folder() / "cifar10"


def _folder(root: Path | None) -> Path:
    if root is None:
        if not is_cached():
            fetch()
        return _cache() / _FOLDER
    hint = f"unpack {FILES[0].url} there"
    if any((root / name).exists() for name in _PICKLED):
        hint = f"what is there is the pickled python version, which is never opened; get the binary version: {hint}"
    elif (root / FILES[0].name).is_file():
        hint = f"unpack what is there: tar -xzf {root / FILES[0].name} -C {root}"
    return find_folder("cifar10", root, (".", _FOLDER, f"cifar10/{_FOLDER}"), _TRAIN + _TEST, hint)


def _member(members: tarfile.TarFile, name: str) -> bytes:
    content = members.extractfile(f"{_FOLDER}/{name}")
    assert content is not None  # the archive's checksum was right, so it is a plain file in it
    return content.read()


def _read_split(folder: Path, names: tuple[str, ...], split: str) -> RawSplit:
    records = np.concatenate([_read_records(folder / name) for name in names])
    ids = tuple(f"cifar10-{split}-{i:05d}" for i in range(len(records)))
    return RawSplit(records[:, 1:].reshape(-1, *IMAGE_SHAPE), records[:, 0].astype(np.int64), ids)


def _read_records(path: Path) -> np.ndarray:
    """Return uint8 (N, 3073), N at least 1."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, expected it beside the other files of CIFAR-10's binary version")
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % _RECORD_BYTES:
        raise ValueError(
            f"{path} is truncated or not CIFAR-10's binary version: it holds {content.size} bytes, "
            f"expected a multiple of {_RECORD_BYTES} and at least one"
        )
    records = content.reshape(-1, _RECORD_BYTES)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASS_NAMES))
    if wrong.size:
        raise ValueError(f"{path} holds label {records[wrong[0], 0]} at record {wrong[0]}, expected 0 to {len(CLASS_NAMES) - 1}")
    return records


def _to_images(pixels: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(pixels).to(torch.float32).div_(255)
