"""A defense against one set of images -> outcomes per image, and what the perturbation did inside the purifier.

One pass of the purifier serves the original and the retrained classifier and the latent diagnostics (paper, Figs. 3-6; quantities as in
docs/design.md). The adaptive attacker differentiates through the whole defense: see `attacks/_ascending.py`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.nn import functional as F

from attacks._ascending import Config as AscentConfig
from attacks._ascending import ascend
from models._blocks import Latent
from models._quantizers import usage_of_counts
from sweeper.config import Cell
from sweeper.materials import AdversarialSet, SampleSet


class Defense(nn.Module):
    """A purifier before a classifier: images in [0, 1] (N, C, H, W) to logits (N, num_classes)."""

    def __init__(self, purifier: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.purifier(images))


@dataclass(frozen=True)
class Outcomes:
    """One cell's result on one defense: for each classifier, which images are still classified correctly at each epsilon.

    `correct` bool (E, N) per classifier; `broken_at` float32 (N,) for adaptive attacks (infinity: not broken); the rest is one value per epsilon.
    """

    correct: dict[str, Tensor]
    achieved_epsilon: list[float]
    seconds: float
    forwards: int
    backwards: int
    crafted_on: str
    broken_at: Tensor | None = None
    carried_over: list[int] | None = None
    latents: list[dict[str, Any]] = field(default_factory=list)


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@torch.inference_mode()
def purify(purifier: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return the purified images, computed in batches of a fixed size."""
    return torch.cat([purifier(_laid_out(images[part])) for part in _batches(len(images), batch_size)])


@torch.inference_mode()
def predict(classifier: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return predicted classes, int64 (N,)."""
    return torch.cat([classifier(_laid_out(images[part])).argmax(1) for part in _batches(len(images), batch_size)])


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def score_static(
    purifier: nn.Module,
    classifiers: Mapping[str, nn.Module],
    samples: SampleSet,
    adversarial: AdversarialSet | None,
    *,
    batch_size: int,
    unfiltered: nn.Module | None = None,
) -> Outcomes:
    """Score a defense on a shared adversarial set, or on the clean images where that is None.

    Args:
        classifiers: By the name that rows store, `original` and `retrained`; all read the same purified images.
        unfiltered: A classifier that sees the images without the purifier, stored as `unfiltered`.
    """
    started = time.monotonic()
    epsilons = adversarial.epsilons if adversarial else (0.0,)
    names = [*classifiers, *(["unfiltered"] if unfiltered else [])]
    correct = {name: torch.zeros((len(epsilons), len(samples.labels)), dtype=torch.bool) for name in names}
    meters = [_Meter() for _ in epsilons]
    forwards = 0
    for part in _batches(len(samples.labels), batch_size):
        clean, labels = _laid_out(samples.images[part]), samples.labels[part]
        clean_purified, clean_latents = _with_latents(purifier, clean)
        forwards += len(clean)
        for index in range(len(epsilons)):
            if adversarial is None:
                images, purified, latents = clean, clean_purified, clean_latents
            else:
                images = _laid_out(adversarial.images(index, part.start, part.stop))
                purified, latents = _with_latents(purifier, images)
                forwards += len(images)
            meters[index].add(clean, images, clean_purified, purified, clean_latents, latents)
            for name, classifier in classifiers.items():
                correct[name][index, part] = (classifier(purified).argmax(1) == labels).cpu()
            if unfiltered:
                correct["unfiltered"][index, part] = (unfiltered(images).argmax(1) == labels).cpu()
    return Outcomes(
        correct=correct,
        achieved_epsilon=[adversarial.achieved(i) for i in range(len(epsilons))] if adversarial else [0.0],
        seconds=time.monotonic() - started,
        forwards=forwards,
        backwards=0,
        crafted_on=adversarial.crafted_on if adversarial else "",
        latents=[row | {"epsilon": epsilon} for epsilon, meter in zip(epsilons, meters, strict=True) for row in meter.rows()],
    )


def score_adaptive(defense: Defense, name: str, samples: SampleSet, cell: Cell, *, content: str) -> Outcomes:
    """Attack the whole defense over the grid, smallest epsilon first, and return who is broken where.

    Args:
        name: The classifier's name in the rows.
        content: Content hash of the defense: it is both what is attacked and what is scored.
    """
    started = time.monotonic()
    found = ascend(defense, samples.images, samples.labels, epsilons=cell.epsilons, keys=samples.keys, config=AscentConfig(**cell.options))
    grid = torch.tensor(cell.epsilons, dtype=torch.float32, device=found.broken_at.device)  # broken_at holds these very float32 values
    correct = (found.broken_at > grid[:, None]).cpu()  # (E, N)
    achieved = [0.0 if value is None else float(value) for value in found.achieved_epsilon]
    return Outcomes(
        correct={name: correct},
        achieved_epsilon=achieved,
        seconds=time.monotonic() - started,
        forwards=found.forwards,
        backwards=found.backwards,
        crafted_on=content,
        broken_at=found.broken_at.cpu(),
        carried_over=list(found.carried_over),
    )


def _with_latents(purifier: nn.Module, images: Tensor) -> tuple[Tensor, list[Latent]]:
    both: Callable[[Tensor], tuple[Tensor, list[Latent]]] | None = getattr(purifier, "purify_with_latents", None)
    return both(images) if both is not None else (purifier(images), [])


class _Meter:
    """Sums over batches of what one epsilon did: per depth in the latents, and in the images (depth 0 where there are no latents)."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, float] = {}
        self.depths: list[dict[str, float]] = []
        self.counts: list[Tensor | None] = []

    def add(
        self, clean: Tensor, images: Tensor, clean_purified: Tensor, purified: Tensor, clean_latents: list[Latent], latents: list[Latent]
    ) -> None:
        self.images += len(images)
        squared = (clean - purified).square().mean(dim=(1, 2, 3))
        figures = {
            "image_l1": (clean - purified).abs().mean(dim=(1, 2, 3)).sum(),
            "image_l1_clean": (clean - clean_purified).abs().mean(dim=(1, 2, 3)).sum(),
            "image_l1_shift": (clean_purified - purified).abs().mean(dim=(1, 2, 3)).sum(),
            "input_l1": (clean - images).abs().mean(dim=(1, 2, 3)).sum(),
            "mse": squared.sum(),
            "ssim": ssim(clean, purified, data_range=1.0, size_average=False).sum(),
        }
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        for depth, (before, after) in enumerate(zip(clean_latents, latents, strict=True)):
            if depth == len(self.depths):
                self.depths.append({})
                self.counts.append(None)
            for name, value in _latent_figures(before, after).items():
                self.depths[depth][name] = self.depths[depth].get(name, 0.0) + value * len(images)
            if after.indices is not None and after.codebook_size is not None:
                counts = torch.bincount(after.indices.reshape(-1), minlength=after.codebook_size).cpu()
                previous = self.counts[depth]
                self.counts[depth] = counts if previous is None else previous + counts

    def rows(self) -> list[dict[str, Any]]:
        image: dict[str, Any] = {name: value / self.images for name, value in self.sums.items()}
        image["psnr"] = -10 * math.log10(image["mse"]) if image["mse"] > 0 else None
        if not self.depths:
            return [image | {"depth": 0}]
        rows = []
        for depth, (sums, counts) in enumerate(zip(self.depths, self.counts, strict=True), 1):
            mean = {name: value / self.images for name, value in sums.items()}
            row: dict[str, Any] = {"depth": depth, "l1_pre": mean["l1_pre"], "l1_post": mean["l1_post"]}
            row |= {"cosine_pre": mean["cosine_pre"], "std_pre": math.sqrt(max(0.0, mean["square_pre"] - mean["mean_pre"] ** 2))}
            row["rel_pre"] = mean["l1_pre"] / mean["norm_pre"] if mean["norm_pre"] else None
            row["rel_post"] = mean["l1_post"] / mean["norm_post"] if mean["norm_post"] else None
            if counts is not None:
                perplexity, share = usage_of_counts(counts)
                row |= {name: mean[name] for name in ("index_change", "any_change", "quantization_error")}
                row |= {"perplexity": perplexity, "usage": share}
            rows.append(image | row)
        return rows


def _latent_figures(clean: Latent, images: Latent) -> dict[str, float]:
    figures = {
        "l1_pre": (clean.encoded - images.encoded).abs().mean(),
        "l1_post": (clean.quantized - images.quantized).abs().mean(),
        "norm_pre": clean.encoded.abs().mean(),
        "norm_post": clean.quantized.abs().mean(),
        "mean_pre": clean.encoded.mean(),
        "square_pre": clean.encoded.square().mean(),
        "cosine_pre": F.cosine_similarity(clean.encoded.flatten(1), images.encoded.flatten(1)).mean(),
    }
    if clean.indices is not None and images.indices is not None:
        changed = (clean.indices != images.indices).flatten(1)
        figures["index_change"] = 100 * changed.float().mean()
        figures["any_change"] = 100 * changed.any(1).float().mean()
        figures["quantization_error"] = (images.encoded - images.quantized).square().mean()
    return {name: float(value) for name, value in figures.items()}
