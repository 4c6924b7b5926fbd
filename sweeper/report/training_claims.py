"""The paper's sentences about training and repeated use: alpha and beta in the first epochs, and a second pass."""

import numpy as np

from sweeper.report.content import Claim
from sweeper.report.curves import Sheet
from sweeper.report.governed import govern
from sweeper.report.naming import kind
from sweeper.report.training_curves import EARLY, weight_variants, weights
from sweeper.report.trials import Material, Trial, Variant
from sweeper.report.values import by_seed, number, of_images, of_seeds, paired, percent
from sweeper.report.verdicts import by_seeds, claim, untested

_SETTINGS = ("train_input", "retrain", "codebook_size", "codebook_sizes", "depth", "base_width", "num_epochs", "alpha", "beta", "quantizer")


def second_pass(sheet: Sheet) -> list[Claim]:
    """Judge whether a second pass through VQUNet amplifies blur: PSNR and SSIM of clean reconstructions fall."""
    text, where = "A second pass through the purifier amplifies what the first one blurs", "section 2.1"
    variants = [variant for variant in sheet[0].variants if variant.trials and kind(variant) == "vqunet"]
    twice = next((variant for variant in variants if variant.settings.get("passes") == 2), None)
    once = next((variant for variant in variants if twice and _matches(variant, twice)), None)
    if twice is None or once is None:
        return [untested(text, where, "the sweep has no VQUNet with passes 2 beside the same with passes 1")]
    margins: dict[str, list[float]] = {}
    parts = []
    for name, column, unit in (("PSNR", "psnr", " dB"), ("SSIM", "ssim", "")):
        first, second = (by_seed(v.trials, [t.settings.get(column) for t in v.trials]) for v in (once, twice))
        margins[name] = paired(first, second)
        parts.append(f"{name} {number(of_seeds(first.values()), unit)} after one pass, {number(of_seeds(second.values()), unit)} after two")
    one, two = (of_images([trial.clean() for trial in variant.trials]) for variant in (once, twice))
    parts.append(f"clean accuracy {percent(one)} and {percent(two)}")
    more = "of clean reconstructions against the originals, the smaller the blurrier; said by the paper of earlier, VAE-based defenses"
    compared = [system for system in sheet[1].all if any(system.variant is variant for variant in (once, twice))]
    return [govern(claim(text, where, by_seeds(margins), "; ".join(parts), more), (), compared)]


def _matches(once: Variant, twice: Variant) -> bool:
    same = all(once.settings.get(name) == twice.settings.get(name) for name in _SETTINGS)
    return same and once.settings.get("passes") == 1 and once.evaluation_id == twice.evaluation_id


def weights_of_losses(material: Material | None) -> Claim:
    """Judge whether alpha and beta change the reconstruction error in the first 30 epochs only.

    Per seed: the spread between the pairs, (largest - smallest) / mean, averaged over epochs 1 to 30 and over those after. The sentence says that
    the first is larger. How large the rest is stands beside it, with the spread between the seeds of one pair: below that, no pair matters.
    """
    text, where = f"alpha and beta affect convergence only around the first {EARLY} epochs", "section 3.2"
    variants = weight_variants(material) if material else []
    if len(variants) < 2:
        return untested(text, where, "the results root has no sweep over alpha and beta on this data set; run search space loss_weights")
    seeds = sorted(set.intersection(*({trial.seed for trial in variant.trials} for variant in variants)))
    spreads = {seed: _spread([_errors(trial) for variant in variants for trial in variant.trials if trial.seed == seed]) for seed in seeds}
    early = {seed: [value for epoch, value in found.items() if epoch <= EARLY] for seed, found in spreads.items()}
    late = {seed: [value for epoch, value in found.items() if epoch > EARLY] for seed, found in spreads.items()}
    names = ", ".join(weights(variant) for variant in variants)
    if not any(late.values()):
        last = max((epoch for found in spreads.values() for epoch in found), default=0)
        return untested(text, where, f"training ended at epoch {last}, before the {EARLY} epochs were over", names)
    means = [(float(np.mean(early[seed])), float(np.mean(late[seed]))) for seed in seeds if early[seed] and late[seed]]
    measured = f"spread of the reconstruction error between the pairs: {percent(of_seeds(first for first, _ in means))} up to epoch {EARLY}, "
    measured += f"{percent(of_seeds(after for _, after in means))} afterwards "
    measured += f"({names}; sweep {material.sweep}, scale {material.scale}, {len(means)} seeds)" if material else ""
    between = [value for v in variants for epoch, value in _spread([_errors(t) for t in v.trials]).items() if epoch > EARLY and len(v.trials) > 1]
    if between:
        measured += f"; between seeds of one pair afterwards {100 * np.mean(between):.1f} %"
    more = "judged: is the spread smaller afterwards; a spread above that between seeds says that the weights still matter"
    return claim(text, where, by_seeds({"early - late": [first - after for first, after in means]}), measured, more)


def _errors(trial: Trial) -> dict[int, float]:
    return {row["epoch"]: row["reconstruction"] for row in trial.epochs if row["stage"] == "purifier" and row["reconstruction"] is not None}


def _spread(runs: list[dict[int, float]]) -> dict[int, float]:
    """Return epoch -> (largest - smallest) / mean over some runs, for the epochs that all have."""
    epochs = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return {epoch: float(np.ptp([run[epoch] for run in runs]) / np.mean([run[epoch] for run in runs])) for epoch in epochs}
