"""A few images of a trial for the eye: clean, adversarial, and what the purifier makes of both, as PNG bytes with the classes predicted."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attacks._ascending import Config as AscentConfig
from attacks._ascending import ascend
from attacks._linf import NoGradient
from sweeper.config import TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import attack_label, outcome_key
from sweeper.materials import Materials, SampleSet, Trained
from sweeper.scoring import Defense, fix_draws

IMAGES = 8


def strip_rows(
    config: TrialConfig, evaluation: EvaluationConfig, materials: Materials, purifier: Trained, classifier: Trained, retrained: Trained | None
) -> list[dict[str, Any]]:
    """Return the rows of table `strips`, without the trial's names: the same images under each threat, near `score_epsilon`.

    Args:
        classifier: The trial's final one, which the predictions are from.
        retrained: The trial's own, where it is the victim of gray-box attacks.
    """
    cells = evaluation.strip_cells
    sets = {cell.threat: materials.samples(config, evaluation, cell.images) for cell in cells}
    smallest = min(sets.values(), key=lambda samples: len(samples.sample_ids))
    step = max(1, len(smallest.sample_ids) // IMAGES)
    ids = smallest.sample_ids[::step][:IMAGES]
    defense, rows = Defense(purifier.module, classifier.module), []
    for cell in cells:
        samples = sets[cell.threat]
        place = {name: position for position, name in enumerate(samples.sample_ids)}
        positions = torch.tensor([place[name] for name in ids])
        index = max((i for i, epsilon in enumerate(cell.epsilons) if epsilon <= evaluation.score_epsilon + 1e-9), default=0)
        crafted = None
        if cell.threat == "graybox":
            own = retrained if cell.victim == "retrained" else None
            crafted = materials.adversarial(config, evaluation, cell, own, only=positions).images(index)
            crafted = crafted if own is not None else crafted[positions]
        fix_draws(outcome_key(config, evaluation, cell))  # after the set, whose making may draw, too
        adversarial = _adaptive(defense, samples, positions, cell, index) if crafted is None else crafted
        names = {"threat": cell.threat, "attack": attack_label(cell, evaluation), "epsilon": cell.epsilons[index]}
        rows += [names | row for row in _rows(defense, samples.images[positions], adversarial, samples.labels[positions], ids)]
    return rows


def _adaptive(defense: Defense, samples: SampleSet, positions: Tensor, cell: Cell, index: int) -> Tensor:
    """Return what the adaptive attacker makes of these images at one epsilon; the images themselves where none of these few has a gradient."""
    chosen = samples.take(positions)
    try:
        found = ascend(
            defense,
            chosen.images,
            chosen.labels,
            epsilons=cell.epsilons[index : index + 1],
            keys=chosen.keys,
            config=AscentConfig(**cell.options),
        )
    except NoGradient:  # of all images it would be a finding, and the scoring would have said so
        return chosen.images
    return found.adversarial


@torch.inference_mode()
def _rows(defense: Defense, clean: Tensor, adversarial: Tensor, labels: Tensor, ids: Sequence[str]) -> list[dict[str, Any]]:
    purified_clean, purified = defense.purifier(clean), defense.purifier(adversarial)
    said_clean, said = (defense.classifier(images).argmax(1).tolist() for images in (purified_clean, purified))
    return [
        {
            "position": position, "sample_id": name, "label": int(labels[position]),
            "predicted_clean": said_clean[position], "predicted_adversarial": said[position],
            "clean": png(clean[position]), "adversarial": png(adversarial[position]),
            "purified_clean": png(purified_clean[position]), "purified": png(purified[position]),
        }
        for position, name in enumerate(ids)
    ]  # fmt: skip


def png(image: Tensor) -> bytes:
    """Return an image (C, H, W) in [0, 1], C 1 or 3, as PNG bytes, rounded to 8 bits."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(buffer, "PNG")
    return buffer.getvalue()
