"""A data set's images as an artifact of the results root: a node that has neither the files nor a network takes them from there, once."""

import torch

from sweeper.artifacts import Artifacts, Bundle
from sweeper.datasets import Split, Splits

KIND = "data"
_PARTS = ("train", "validation", "test")


def store_splits(artifacts: Artifacts, splits: Splits) -> None:
    """Keep the images under their fingerprint, as bytes where they are whole steps of 1/255; what is stored already stays."""
    if artifacts.has(KIND, splits.fingerprint):
        return
    tensors = {}
    for name in _PARTS:
        part: Split = getattr(splits, name)
        steps = (part.images * 255).round().to(torch.uint8)
        tensors[f"{name}.images"] = steps if torch.equal(steps.to(torch.float32) / 255, part.images) else part.images
        tensors[f"{name}.labels"] = part.labels
    info = {
        "name": splits.name,
        "num_classes": splits.num_classes,
        "class_names": list(splits.class_names),
        "sample_ids": {name: list(getattr(splits, name).sample_ids) for name in _PARTS},
    }
    artifacts.put(KIND, splits.fingerprint, Bundle(tensors, info))


def stored_splits(artifacts: Artifacts, fingerprint: str) -> Splits | None:
    """Return the images that were kept under a fingerprint, float32 in [0, 1], bit for bit those that were given; None if there are none."""
    bundle = artifacts.load(KIND, fingerprint)
    if bundle is None:
        return None
    parts = {}
    for name in _PARTS:
        images = bundle.tensors[f"{name}.images"]
        images = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
        parts[name] = Split(images, bundle.tensors[f"{name}.labels"], tuple(bundle.info["sample_ids"][name]))
    return Splits(
        name=bundle.info["name"],
        **parts,
        num_classes=bundle.info["num_classes"],
        class_names=tuple(bundle.info["class_names"]),
        fingerprint=fingerprint,
    )
