"""The shared parts of all data sets: splits, stratified subsets, and the fingerprint that enters every key.

Torch is imported when the first images are made, so that listing the data sets costs no second of start-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SPLIT_SEED = 0  # of every cut and every cap: the splits are fixed, whatever the trial's seed

Caps = tuple[int | None, int | None, int | None]  # most images of train, validation, test; None is all


@dataclass(frozen=True, eq=False)
class Split:
    """Images in the order of their sample ids.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1], contiguous.
        labels: int64 (N,), the true classes.
        sample_ids: N names, unique over all splits of the data set and the same whatever the caps are.
    """

    images: Tensor
    labels: Tensor
    sample_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        kinds = (str(self.images.dtype), self.images.ndim, str(self.labels.dtype), self.labels.ndim)
        if kinds != ("torch.float32", 4, "torch.int64", 1):
            raise ValueError(
                f"a split needs images float32 (N, C, H, W) and labels int64 (N,), got {kinds[0]} with {kinds[1]} axes and {kinds[2]} with {kinds[3]}"
            )
        counts = (len(self.images), len(self.labels), len(self.sample_ids))
        if len(set(counts)) != 1 or not counts[0] or len(set(self.sample_ids)) != counts[0]:
            raise ValueError(
                "a split needs as many images as labels and unique sample ids, and at least one; "
                f"got {counts[0]} images, {counts[1]} labels, {len(set(self.sample_ids))} unique of {counts[2]} ids"
            )
        low, high = (float(value) for value in self.images.aminmax())
        if not 0 <= low <= high <= 1:  # also false for NaN
            raise ValueError(f"images must lie in [0, 1], got values from {low:g} to {high:g}")

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, eq=False)
class Splits:
    """One data set, cut and capped. The validation images were cut from the training images.

    Attributes:
        name: As rows store it, `fashion_mnist`.
        fingerprint: SHA-256 of everything the images are made from, hexadecimal; see `assemble`.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


class RawSplit(NamedTuple):
    """A split as its files hold it, before it is made into float images: a quarter of the bytes."""

    pixels: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # int64 (N,)
    sample_ids: tuple[str, ...]

    def take(self, indices: np.ndarray) -> RawSplit:
        return RawSplit(self.pixels[indices], self.labels[indices], tuple(self.sample_ids[i] for i in indices))

    def without(self, indices: np.ndarray) -> RawSplit:
        return self.take(np.setdiff1d(np.arange(len(self.labels)), indices))

    def capped(self, cap: int | None) -> RawSplit:
        return self if cap is None or cap >= len(self.labels) else self.take(choose(self.labels, cap, SPLIT_SEED))


def stratified_indices(labels: Tensor, n: int, seed: int) -> Tensor:
    """Return n ascending positions, int64 (min(n, N),), in which every class has its share of labels.

    Shares are rounded by largest remainder (ties go to the lower class), so exactly n come out. The images of a class
    are taken in an order that depends on seed and class alone: a larger n adds images, and seldom exchanges one.

    Args:
        labels: int64 (N,), on any device; the result is on the CPU.
        n: How many; all positions if there are no more than n.
        seed: At least 0.

    Raises:
        ValueError: If n or seed is negative.
    """
    import torch

    return torch.from_numpy(choose(labels.cpu().numpy(), n, seed))


def choose(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return `stratified_indices` as an array."""
    if n < 0 or seed < 0:
        raise ValueError(f"a stratified subset needs n and seed of at least 0, got n {n}, seed {seed}")
    if n >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(n * counts.astype(np.int64), len(labels))  # whole numbers: no rounding to argue about
    shares[np.argsort(-remainders, kind="stable")[: n - shares.sum()]] += 1
    parts = []
    for label, share in zip(classes.tolist(), shares.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        # RandomState, not Generator: NumPy promises that its stream never changes, and splits outlive versions
        order = np.random.RandomState([seed, label]).permutation(len(members))
        parts.append(members[order[:share]])
    return np.sort(np.concatenate(parts)).astype(np.int64)


def subset(split: Split, n: int | None, seed: int = SPLIT_SEED) -> Split:
    """Return n images of split with every class in its share, in the order of split; all for None."""
    if n is None or n >= len(split):
        return split
    indices = stratified_indices(split.labels, n, seed)
    ids = tuple(split.sample_ids[i] for i in indices.tolist())
    return Split(split.images[indices], split.labels[indices], ids)


def check_caps(caps: Caps) -> Caps:
    """Return caps if each is None or at least 1.

    Raises:
        ValueError: Naming the split whose cap cannot be kept.
    """
    for split, cap in zip(("train", "validation", "test"), caps, strict=True):
        if cap is not None and cap < 1:
            raise ValueError(f"the cap of {split} images must be at least 1, or None for all, got {cap}")
    return caps


def cut_validation(train: RawSplit, cap: int | None) -> tuple[RawSplit, RawSplit]:
    """Return what is left for training, and a validation split of a tenth of the images, or of cap if that is fewer.

    All that is not needed for validation stays for training. The cut comes before the cap of the training images.

    Raises:
        ValueError: If there are fewer than two images to cut.
    """
    if len(train.labels) < 2:
        raise ValueError(f"training and validation need at least 2 images, the files hold {len(train.labels)}")
    tenth = max(1, len(train.labels) // 10)
    held_out = choose(train.labels, tenth if cap is None else min(cap, tenth), SPLIT_SEED)
    return train.without(held_out), train.take(held_out)


def assemble(
    name: str,
    version: int,
    parts: Sequence[RawSplit],
    class_names: tuple[str, ...],
    to_images: Callable[[np.ndarray], Tensor],
) -> Splits:
    """Return the three parts (train, validation, test) as float images, with their fingerprint.

    The fingerprint is the SHA-256 over type, shape and bytes of the pixels as the files hold them and of the labels,
    the sample ids, and version, which stands for to_images. Hashing the files' own bytes is four times quicker than
    hashing floats, and no machine rounds them differently.
    """
    import torch

    digest = hashlib.sha256(f"{name} {version}".encode())
    splits = []
    for part in parts:
        for array in (part.pixels, part.labels.astype("<i8")):
            digest.update(f"\n{array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\n".join(part.sample_ids).encode())
        labels = torch.from_numpy(part.labels.astype(np.int64))
        splits.append(Split(to_images(part.pixels).contiguous(), labels, part.sample_ids))
    train, validation, test = splits
    return Splits(name, train, validation, test, len(class_names), class_names, digest.hexdigest())
