"""How far the nearest adversarial image is, under an attack that offers `minimum_distances`: an artifact of a trial, and its row of `distances`.

A distance is in a norm of its own (L2), so it joins no worst case over L-infinity attacks and no `robust_score`.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from sweeper.artifacts import Bundle
from sweeper.config import TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import attack_settings, outcome_key
from sweeper.materials import Materials, SampleSet, counted
from sweeper.options import attack_module
from sweeper.scoring import Defense, as_attacked, fix_draws
from sweeper.statistics import quartiles


def distance_row(
    config: TrialConfig, evaluation: EvaluationConfig, cell: Cell, materials: Materials, defense: Defense, content: str
) -> dict[str, Any]:
    """Return a cell's row of `distances`, without the names of trial, evaluation, attack and classifier.

    Args:
        defense: The whole of it, which is both attacked and asked.
        content: Its content hash.
    """
    samples, key = materials.samples(config, evaluation, cell.images), outcome_key(config, evaluation, cell)

    def make() -> Bundle:
        fix_draws(key)

        def hear(done: int, total: int) -> None:
            materials.progress(f"{cell.threat} {cell.attack}", done, total, {})

        return measured(defense, samples, cell, content=content, batch_size=evaluation.batch_size, hear=hear)

    bundle = materials.artifacts.get_or_create("outcomes", key, make)
    distances = bundle.tensors["distances"]
    return {
        "norm": attack_module(cell.attack, cell.threat).DISTANCE_NORM, "sample_set": samples.name, "n": len(distances),
        "found": int(distances.isfinite().sum()), "median": quartiles(distances.tolist())[1], "distances": distances.tolist(),
        "attack_settings": attack_settings(cell), "crafted_on": bundle.info["crafted_on"], "scored_on": content,
        **{name: bundle.info[name] for name in ("seconds", "forwards", "backwards")},
    }  # fmt: skip


def measured(
    defense: Defense, samples: SampleSet, cell: Cell, *, content: str, batch_size: int, hear: Callable[[int, int], None] = lambda *_: None
) -> Bundle:
    """Return `distances`, float32 (N,): 0 where an image is misclassified as it is, infinity where no adversarial one was found.

    Under `adaptive_soft` it is the least over the temperatures.
    """
    started, counts = time.monotonic(), {"forwards": 0, "backwards": 0}
    attack = attack_module(cell.attack, cell.threat)
    settings = attack.Config(**cell.options)
    found = []
    for attacked in as_attacked(defense, cell.threat, samples.images[:batch_size]):
        parts = torch.arange(len(samples.labels)).split(batch_size)
        distances = []
        with counted(attacked, counts):
            for done, part in enumerate(parts, 1):
                images, labels = samples.images[part], samples.labels[part]
                distances.append(attack.minimum_distances(attacked, images, labels, keys=samples.keys[part], config=settings).cpu())
                hear(done, len(parts))
        found.append(torch.cat(distances))
    info = {"crafted_on": content, "seconds": time.monotonic() - started, **counts}
    return Bundle({"distances": torch.stack(found).amin(0)}, info)
