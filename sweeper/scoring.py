"""A defense against one set of images -> outcomes per image, and what the perturbation did inside the purifier.

One pass of the purifier serves the original and the retrained classifier and the latent diagnostics (paper, Figs. 3-6; quantities as in
docs/design.md). The adaptive attacker differentiates through the whole defense: see `attacks/_ascending.py`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import _ascending
from attacks._ascending import Ascent
from attacks._backward import with_identity_backward
from attacks._linf import NoGradient
from attacks._white_box import ascend_with
from models._blocks import Latent
from models._quantizers import usage_of_counts
from models._soft_assignment import FACTORS, has_codebook, soft_assignment
from sweeper.evaluations import Cell
from sweeper.materials import AdversarialSet, SampleSet
from sweeper.options import attack_module
from sweeper.training import numbers_from


class Defense(nn.Module):
    """A purifier before a classifier: images in [0, 1] (N, C, H, W) to logits (N, num_classes)."""

    def __init__(self, purifier: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        self.training = False  # not eval(), which would hide a part that is left in train mode

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.purifier(images))

    def logits_and_codes(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the same logits and, per depth with a learned codebook, encodings (N, D, H, W) with their gradient and the codes (K, D)."""
        purified, latents = with_latents(self.purifier, images)
        codes = [(latent.encoded, latent.codebook) for latent in latents if latent.codebook is not None]
        return self.classifier(purified), codes


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


def fix_draws(key: str) -> None:
    """Seed torch's global generators from a key: what a random defense draws from now on depends on that key and not on what ran before."""
    torch.manual_seed(numbers_from(key))


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@torch.inference_mode()
def purify(purifier: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return the purified images, computed in batches of a fixed size."""
    return torch.cat([purifier(laid_out(images[part])) for part in _batches(len(images), batch_size)])


@torch.inference_mode()
def predict(classifier: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return predicted classes, int64 (N,)."""
    return torch.cat([classifier(laid_out(images[part])).argmax(1) for part in _batches(len(images), batch_size)])


def laid_out(images: Tensor) -> Tensor:
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
        clean, labels = laid_out(samples.images[part]), samples.labels[part]
        clean_purified, clean_latents = with_latents(purifier, clean)
        forwards += len(clean)
        for index in range(len(epsilons)):
            if adversarial is None:
                images, purified, latents = clean, clean_purified, clean_latents
            else:
                images = laid_out(adversarial.images(index, part.start, part.stop))
                purified, latents = with_latents(purifier, images)
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


def score_adaptive(defense: Defense, name: str, samples: SampleSet, cell: Cell, *, content: str, batch_size: int) -> Outcomes:
    """Attack the whole defense over the grid, smallest epsilon first, and return who is broken where.

    Under `adaptive_bpda` the backward pass through the purifier is the identity; under `adaptive_soft` the one through each codebook is that of a
    soft assignment, at falling temperatures, of which an image survives all. Without a codebook it is `adaptive` from other, random starts.

    Args:
        name: The classifier's name in the rows.
        content: Content hash of the defense: it is both what is attacked and what is scored.
    """
    started = time.monotonic()
    found: list[Ascent] = []
    blind: NoGradient | None = None
    for attacked in as_attacked(defense, cell.threat, samples.images[:batch_size]):
        try:
            found.append(_ascended(attacked, samples, cell, batch_size, found[-1].broken_at if found else None))
        except NoGradient as error:  # at one temperature, as where codes coincide; it is an answer only if it is so at all of them
            blind = error
    if blind is not None and not found:
        raise blind
    broken_at = torch.stack([ascent.broken_at for ascent in found]).amin(0)
    grid = torch.tensor(cell.epsilons, dtype=torch.float32, device=broken_at.device)  # broken_at holds these very float32 values
    correct = (broken_at > grid[:, None]).cpu()  # (E, N)
    achieved = [max((float(ascent.achieved_epsilon[i] or 0.0) for ascent in found), default=0.0) for i in range(len(cell.epsilons))]
    return Outcomes(
        correct={name: correct},
        achieved_epsilon=achieved,
        seconds=time.monotonic() - started,
        forwards=sum(ascent.forwards for ascent in found),
        backwards=sum(ascent.backwards for ascent in found),
        crafted_on=content,
        broken_at=broken_at.cpu(),
        carried_over=[int((broken_at < epsilon).sum()) for epsilon in grid],
    )


def as_attacked(defense: Defense, threat: str, images: Tensor) -> Iterator[Defense]:
    """Yield the defense with the gradients of an adaptive threat; an attack under `adaptive_soft` takes each, and an image survives all of them.

    Args:
        images: Some, whose encodings say what a temperature is large against.
    """
    if threat == "adaptive_bpda":
        defense = Defense(with_identity_backward(defense.purifier), defense.classifier)
    for temperature in _temperatures(defense.purifier, images) if threat == "adaptive_soft" else [None]:
        with soft_assignment(defense.purifier, temperature) if temperature is not None else nullcontext():
            yield defense


def _ascended(defense: Defense, samples: SampleSet, cell: Cell, batch_size: int, known: Tensor | None) -> Ascent:
    attack = attack_module(cell.attack, cell.threat)
    images, labels, keys = samples.images, samples.labels, samples.keys
    if attack is _ascending:
        config = _ascending.Config(**cell.options)
        start = 1 if cell.threat == "adaptive_soft" and not has_codebook(defense) else 0
        return _ascending.ascend(defense, images, labels, epsilons=cell.epsilons, keys=keys, config=config, known=known, first_start=start)
    settings = {"config": attack.Config(**cell.options)} if hasattr(attack, "Config") else cell.options
    perturb = partial(attack.perturb, **settings)
    return ascend_with(perturb, defense, images, labels, epsilons=cell.epsilons, keys=keys, batch_size=batch_size)


@torch.inference_mode()
def _temperatures(purifier: nn.Module, images: Tensor) -> list[float | None]:
    """Return falling temperatures for a soft assignment, in units of the mean squared distance from encodings to their codes."""
    if not has_codebook(purifier):
        return [None]
    distances = [(latent.encoded - latent.quantized).square().sum(1).mean() for latent in with_latents(purifier, laid_out(images))[1]]
    scale = float(torch.stack([distance for distance in distances if distance > 0]).mean())
    return [scale * factor for factor in FACTORS]


def with_latents(purifier: nn.Module, images: Tensor) -> tuple[Tensor, list[Latent]]:
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
