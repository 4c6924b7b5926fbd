"""Fashion-MNIST: 28x28 grey photographs of clothes in ten classes, zero-padded to 32x32.

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017
(arXiv:1708.07747). The files are in the IDX format of MNIST: http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.datasets._files import PublishedFile, cache_folder, checksum_row, download, find_folder
from sweeper.datasets._splits import Caps, RawSplit, Splits, assemble, check_caps, cut_validation

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"
LICENCE = "MIT"
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
IMAGE_SHAPE = (1, 32, 32)
COUNTS = (54_000, 6_000, 10_000)

_SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = tuple(
    PublishedFile(name, _SITE + name, md5, size_bytes)
    for name, md5, size_bytes in (
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    )
)
_PLACES = (".", "fashion-mnist", "fashion_mnist", "FashionMNIST/raw")  # the last is where torchvision puts them
_MAGIC = {3: 0x00000803, 1: 0x00000801}  # two zero bytes, 8 for unsigned bytes, the number of axes


def load(root: Path | None = None, caps: Caps = (None, None, None)) -> Splits:
    """Return the images of the official IDX files, gzipped or unpacked, of any record count.

    Validation is a tenth of the training images, stratified, or the cap of validation if that is fewer: of 60,000
    images 6,000, of 1,800 with a cap of 500 it is 180. The test images are those of the test file. Sample ids count
    the records of a file from 0: `fashion_mnist-train-00000`.

    Args:
        root: Folder with the four files, or above it; None reads the cache folder, after a download where it is empty.
        caps: Most images of train, validation and test, taken stratified.

    Raises:
        FileNotFoundError: If root or a file is missing.
        ValueError: If a file is truncated, damaged, or not what its name says.
        ConnectionError: If the files must be downloaded and cannot be.
    """
    train_cap, validation_cap, test_cap = check_caps(caps)
    folder = _folder(root)
    train, validation = cut_validation(_read_split(folder, "train", "train"), validation_cap)
    test = _read_split(folder, "t10k", "test")
    parts = (train.capped(train_cap), validation, test.capped(test_cap))
    return assemble("fashion_mnist", VERSION, parts, CLASS_NAMES, _to_images)


def is_cached() -> bool:
    """Return whether the cache folder holds all four files."""
    return all((_cache() / file.name).is_file() for file in FILES)


def fetch() -> list[Path]:
    """Return the four files in the cache folder, downloaded where they are missing or damaged."""
    return download("fashion_mnist", FILES, _cache())


def inspect(root: Path | None = None) -> list[dict[str, object]]:
    """Return two rows per file: has it the published checksum (gzipped files only), and are its records in order?"""
    folder = _cache() if root is None else _folder(root)
    rows: list[dict[str, object]] = []
    for file in FILES:
        path = _locate(folder, file.name)
        if path.suffix == ".gz":
            rows.append(checksum_row(path, file))
        is_images = "images" in file.name
        expected = "images of 28 x 28 pixels" if is_images else "labels from 0 to 9"
        try:
            count = len(_read_images(folder, file.name) if is_images else _read_labels(folder, file.name))
            found, ok = f"{count:,} {expected}", True
        except (ValueError, FileNotFoundError) as error:
            found, ok = str(error), False
        rows.append({"file": str(path), "check": "content", "expected": expected, "found": found, "ok": ok})
    return rows


def _cache() -> Path:
    return cache_folder() / "fashion_mnist"


def _folder(root: Path | None) -> Path:
    if root is None:
        if not is_cached():
            fetch()
        return _cache()
    marks = [name for file in FILES for name in (file.name, file.name.removesuffix(".gz"))]
    return find_folder("fashion_mnist", root, _PLACES, marks, f"put the four files of {SOURCE} there, gzipped or unpacked")


def _read_split(folder: Path, prefix: str, split: str) -> RawSplit:
    pixels = _read_images(folder, f"{prefix}-images-idx3-ubyte.gz")
    labels = _read_labels(folder, f"{prefix}-labels-idx1-ubyte.gz")
    if len(pixels) != len(labels):
        raise ValueError(
            f"{_locate(folder, f'{prefix}-labels-idx1-ubyte.gz')} holds {len(labels)} labels, expected {len(pixels)}, "
            f"one for each image of {prefix}-images-idx3-ubyte"
        )
    ids = tuple(f"fashion_mnist-{split}-{i:05d}" for i in range(len(labels)))
    return RawSplit(pixels[:, None], labels, ids)  # (N, 1, 28, 28)


def _read_images(folder: Path, name: str) -> np.ndarray:
    """Return uint8 (N, 28, 28)."""
    path = _locate(folder, name)
    pixels = _read_idx(path, num_axes=3)
    if pixels.shape[1:] != (28, 28):
        raise ValueError(f"{path} holds images of {pixels.shape[1]} x {pixels.shape[2]} pixels, expected 28 x 28")
    return pixels


def _read_labels(folder: Path, name: str) -> np.ndarray:
    """Return int64 (N,), from 0 to 9."""
    path = _locate(folder, name)
    labels = _read_idx(path, num_axes=1)
    if labels.max() >= len(CLASS_NAMES):
        position = int(np.argmax(labels >= len(CLASS_NAMES)))
        raise ValueError(f"{path} holds label {labels[position]} at record {position}, expected 0 to {len(CLASS_NAMES) - 1}")
    return labels.astype(np.int64)


def _locate(folder: Path, name: str) -> Path:
    """Return the unpacked file where there is one, else the gzipped one, there or not."""
    unpacked = folder / name.removesuffix(".gz")
    return unpacked if unpacked.is_file() else folder / name


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Return the array of unsigned bytes that an IDX file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, expected it or {path.stem} beside the other files of Fashion-MNIST")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}; expected the whole gzip file as published") from error
    header_bytes = 4 * (1 + num_axes)
    if len(content) < header_bytes:
        raise ValueError(f"{path} is truncated: it holds {len(content)} bytes, expected a header of {header_bytes}")
    magic, *shape = (int(number) for number in np.frombuffer(content, ">u4", 1 + num_axes))
    if magic != _MAGIC[num_axes]:
        raise ValueError(f"{path} has magic number 0x{magic:08x}, expected 0x{_MAGIC[num_axes]:08x}: an IDX file of bytes with {num_axes} axes")
    if shape[0] == 0:
        raise ValueError(f"{path} holds no records, expected at least one")
    expected_bytes = header_bytes + math.prod(shape)
    if len(content) != expected_bytes:
        state = "truncated" if len(content) < expected_bytes else "too long"
        raise ValueError(f"{path} is {state}: it holds {len(content)} bytes, expected {expected_bytes} for {shape[0]} records")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape).copy()  # torch wants it writable


def _to_images(pixels: np.ndarray) -> Tensor:
    import torch
    from torch.nn import functional as F

    images = F.pad(torch.from_numpy(pixels), (2, 2, 2, 2))  # while they are bytes: (N, 1, 32, 32)
    return images.to(torch.float32).div_(255)
