"""A trial's probes: what they look at, and their findings as rows of table `checks`, each made once."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sweeper.artifacts import Bundle
from sweeper.canonical import key_of
from sweeper.cells import Networks, networks_of, outcomes_of, worst_of
from sweeper.checks.catalogue import CHECKS
from sweeper.config import Classifier, TrialConfig
from sweeper.evaluations import EvaluationConfig
from sweeper.keys import PROBES_VERSION, cell_content
from sweeper.materials import Materials
from sweeper.options import ADAPTIVE, attack_module, attack_options
from sweeper.probes._subject import Finding, Stored, Subject
from sweeper.probes.all import attacked, health


def subject_of(
    config: TrialConfig,
    evaluation: EvaluationConfig,
    materials: Materials,
    networks: Networks,
    broken_at: Sequence[Tensor],
    siblings: Sequence[TrialConfig] = (),
    sources: Sequence[Classifier] = (),
) -> Subject:
    """Return a trial's defense with the images of its adaptive attacks, as probes look at it.

    Args:
        broken_at: What each adaptive attack found, float32 (N,) each.
        siblings: The same variant with other seeds, trained already.
        sources: Classifiers to craft on, the target first.
    """
    cells = [cell for cell in evaluation.cells if cell.threat in ADAPTIVE and not cell.measures_distance]
    native = [cell for cell in cells if cell.attack == "pgd"]
    first = next((cell for cell in native if cell.threat == "adaptive"), None)
    samples = materials.samples(config, evaluation, cells[0].images if cells else None)
    return Subject(
        defense=networks.defense,
        images=samples.images,
        labels=samples.labels,
        keys=samples.keys,
        epsilons=tuple(epsilon for epsilon in (first or cells[0]).epsilons if epsilon > 0) if cells else (),
        score_epsilon=evaluation.score_epsilon,
        broken_at=worst_of(list(broken_at)),
        options=first.options if first else attack_options("pgd", "adaptive", {}),
        gradients={cell.threat: cell.options for cell in reversed(native)},  # of several under one threat the first
        batch_size=evaluation.batch_size,
        siblings=[networks_of(sibling, materials).defense for sibling in siblings],
        sources=[materials.classifier(config, recipe).module for recipe in sources],
    )


def health_rows(subject: Subject) -> list[dict[str, Any]]:
    """Return the findings that every trial is asked for, as rows of `checks` without the trial's names."""
    began = time.monotonic()
    found = health(subject)
    seconds = (time.monotonic() - began) / len(found)
    return [_row(finding, "standard", seconds) for finding in found]


def strength_row(
    config: TrialConfig, evaluation: EvaluationConfig, materials: Materials, level: str, check: str, siblings: Sequence[TrialConfig] = ()
) -> dict[str, Any]:
    """Return the finding of one attack as a row of `checks` without the trial's names; what is stored is not attacked again."""
    adaptive = [cell for cell in evaluation.cells if cell.threat in ADAPTIVE and not cell.measures_distance]
    sources = [config.target, *evaluation.sources] if check == "C19" else []
    siblings = siblings if check == "C32" else ()
    key = key_of(
        "probe",
        check=check,
        level=level,
        version=PROBES_VERSION,
        defense=config.defense_key,
        data=config.fingerprint,
        cells=[cell_content(cell, evaluation) for cell in adaptive],
        sources=[config.classifier_key(source) for source in sources],
        siblings=sorted(sibling.defense_key for sibling in siblings),
        score_epsilon=evaluation.score_epsilon,
        numerics=config.numerics,
    )

    def make() -> Bundle:
        networks = networks_of(config, materials)
        found = [outcomes_of(config, evaluation, cell, materials, networks).broken_at for cell in adaptive]
        subject = subject_of(config, evaluation, materials, networks, [each for each in found if each is not None], siblings, sources)
        if check == "C7":
            subject = replace(subject, stored=_stored_set(config, evaluation, materials))
        began = time.monotonic()
        return Bundle({}, {"finding": list(attacked(subject, check, level)), "seconds": time.monotonic() - began})

    info = materials.artifacts.get_or_create("probes", key, make).info
    return _row(Finding(*info["finding"]), level, info["seconds"])


def _stored_set(config: TrialConfig, evaluation: EvaluationConfig, materials: Materials) -> Stored | None:
    """Return the gray-box set of PGD, or of what else there is, with what it takes to craft a part of it again."""
    cells = [cell for cell in evaluation.cells if cell.is_shared and cell.threat == "graybox" and cell.labels == "true"]
    if not cells:
        return None
    cell = next((cell for cell in cells if cell.attack == "pgd"), cells[0])
    attack, kept = attack_module(cell.attack, cell.threat), materials.adversarial(config, evaluation, cell)
    settings = {"config": attack.Config(**cell.options)} if hasattr(attack, "Config") else cell.options
    images = torch.stack([kept.images(index) for index in range(len(kept.epsilons))])
    target = materials.classifier(config, config.target).module
    return Stored(cell.attack, kept.epsilons, images, kept.samples, target, partial(attack.perturb, **settings))


def _row(finding: Finding, level: str, seconds: float) -> dict[str, Any]:
    kind = CHECKS[finding.check].kind
    return {"kind": kind, "level": level, "probes_version": PROBES_VERSION, "seconds": seconds, **finding._asdict()}
