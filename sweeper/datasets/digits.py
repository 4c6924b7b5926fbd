"""The 1,797 handwritten digits that come with scikit-learn, resized to 32x32: real images without a download.

Test part of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), 8x8 pixels from 0 to 16.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.datasets._splits import SPLIT_SEED, Caps, RawSplit, Splits, assemble, check_caps, choose

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
FILES = ()  # nothing to download
SOURCE = "https://archive.ics.uci.edu/dataset/80"
LICENCE = "CC BY 4.0"
CLASS_NAMES = tuple("0123456789")
IMAGE_SHAPE = (1, 32, 32)
COUNTS = (1037, 260, 500)
SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"  # of the (1797, 65) bytes: pixels, label


def load(root: Path | None = None, caps: Caps = (None, None, None)) -> Splits:
    """Return 1,037 training, 260 validation and 500 test images, stratified, with split seed 0.

    Sample ids count scikit-learn's array from 0: `digits-0000` is `load_digits().images[0]`. Bilinear resizing of
    sixteenths by a factor of four is exact in float32, so the images are the same bits everywhere.

    Raises:
        ValueError: If root is given, since no folder is read.
    """
    if root is not None:
        raise ValueError(f"the data set 'digits' is embedded and reads no folder, got {root}; leave the folder out")
    train_cap, validation_cap, test_cap = check_caps(caps)
    table = _table()
    ids = tuple(f"digits-{i:04d}" for i in range(len(table)))
    rest = RawSplit(table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64), ids)
    test_indices = choose(rest.labels, COUNTS[2], SPLIT_SEED)
    test, rest = rest.take(test_indices), rest.without(test_indices)
    validation_indices = choose(rest.labels, COUNTS[1], SPLIT_SEED)
    validation, train = rest.take(validation_indices), rest.without(validation_indices)
    parts = (train.capped(train_cap), validation.capped(validation_cap), test.capped(test_cap))
    return assemble("digits", VERSION, parts, CLASS_NAMES, _to_images)


def inspect(root: Path | None = None) -> list[dict[str, object]]:
    """Return one row: is the installed scikit-learn's array the one that our sample ids were given for?"""
    found = hashlib.sha256(_table().tobytes()).hexdigest()
    file = "scikit-learn load_digits()"
    return [
        {
            "file": file,
            "check": "checksum",
            "expected": f"sha256 {SHA256}",
            "found": f"sha256 {found}",
            "ok": found == SHA256,
        }
    ]


def _to_images(pixels: np.ndarray) -> Tensor:
    import torch
    from torch.nn import functional as F

    images = torch.from_numpy(pixels).to(torch.float32).div_(16)
    return F.interpolate(images, size=IMAGE_SHAPE[1:], mode="bilinear", align_corners=False)


def _table() -> np.ndarray:
    """Return scikit-learn's table, uint8 (1797, 65): 64 pixels from 0 to 16, then the label.

    Importing scikit-learn takes over a second and every worker would pay it, so its file is read where it is installed;
    where a version keeps it elsewhere, scikit-learn is asked.
    """
    spec = importlib.util.find_spec("sklearn")
    places = (spec.submodule_search_locations or []) if spec else []
    for place in places:
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            with gzip.open(path, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels]).astype(np.uint8)
