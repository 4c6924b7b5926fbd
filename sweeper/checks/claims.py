"""Which sentences may be printed? None of these changes a rank: a defense that honestly loses to a blur stands below the blur."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sweeper.checks._curves import ADAPTIVE, Curves
from sweeper.checks._result import Key, Outcome, Planned, Result, result
from sweeper.checks.catalogue import CHECKS
from sweeper.paired import LEVEL, paired_over_seeds
from sweeper.results import Results
from sweeper.statistics import mcnemar, paired_over_images
from sweeper.stored_plans import FRONT, SELECTED, others_on_test, split_of

NEEDED_VARIANTS = ("adaptive", "adaptive_bpda")  # C26
FILTERS = ("mean_blur", "gaussian_blur", "median_filter", "total_variation", "jpeg", "bit_depth")  # C27: purifiers that learn nothing
NEEDED_CONTROLS = ("the target alone", "the tuned target without purifier", "a filter")
TWIN = "its twin without quantizer"
CLEAN_DROP_LIMIT = 0.01  # C29: the VQUNet paper's claim, less than one point
LEAST_SEEDS, LEAST_IMAGES = 3, 1000  # C33


def adaptive_variants(planned: Planned, curves: Curves) -> list[Result]:
    """C26: the adaptive attack is there with the exact (or straight-through) gradient and with the identity as its backward pass.

    Whether a defense is random, so that it also needs the expectation, is C24's question.
    """
    check = CHECKS["C26"]
    there: dict[int, set[str]] = defaultdict(set)
    for place, threat in zip(curves.trial[curves.where(ADAPTIVE)], curves.labels["threat"][curves.where(ADAPTIVE)], strict=True):
        there[int(place)].add(str(threat))
    found = []
    for place, key in enumerate(planned.keys):
        if planned.trial(place)["model"] == "identity":
            found.append(result(check, key, "not_applicable", "no purifier to differentiate through"))
            continue
        missing = [threat for threat in NEEDED_VARIANTS if threat not in there[place]]
        count, text = float(len(NEEDED_VARIANTS) - len(missing)), "every adaptive variant is there"
        if missing:
            text = f"not attacked by {' and '.join(missing)}; it may not be called robust"
        found.append(result(check, key, "fail" if missing else "pass", text, count, float(len(NEEDED_VARIANTS))))
    return found


def beats_controls(planned: Planned, scores: Mapping[Key, float]) -> list[Result]:
    """C27: its robust score is above that of the best control, tested over seeds, Holm over all variants of the sweep that are no control.

    Controls: the target alone, the tuned target without a purifier, a purifier that learns nothing; for a quantizer, its twin without, that learned
    from the same images.

    Args:
        scores: Key -> robust score.
    """
    check = CHECKS["C27"]
    seeds: dict[Key, dict[int, float]] = defaultdict(dict)  # variant_id and evaluation_id -> seed -> score
    places: dict[Key, int] = {}
    for place, (row, key) in enumerate(zip(planned.rows, planned.keys, strict=True)):
        variant = row["variant_id"], row["evaluation_id"]
        places.setdefault(variant, place)
        if key in scores:
            seeds[variant][row["seed"]] = scores[key]
    kinds = {variant: _control(planned, place) for variant, place in places.items()}
    named = {variant: planned.rows[place]["label"] for variant, place in places.items()}
    found_kinds = {kind for kind in kinds.values() if kind}
    controls = {variant: values for variant, values in seeds.items() if kinds[variant] and kinds[variant] != TWIN}
    claimed = [variant for variant in places if kinds[variant] is None or kinds[variant] == TWIN]

    tested = {}
    for variant in claimed:
        trial = planned.trial(places[variant])
        learns_from = [other for other in places if planned.trial(places[other])["train_input"] == trial["train_input"]]
        twins = {other: seeds[other] for other in learns_from if kinds[other] == TWIN and trial["quantize"]}
        rivals = controls | {other: values for other, values in twins.items() if values}
        best = max(rivals, key=lambda rival: float(np.mean(list(rivals[rival].values()))), default=None)
        missing = sorted(set(NEEDED_CONTROLS) - found_kinds) + [TWIN] * bool(trial["quantize"] and not twins)
        tested[variant] = best, missing
    gains = {}  # seed by seed, each against its own best control, so that Holm runs over all of them
    for variant, (best, _) in tested.items():
        common = sorted(set(seeds[variant]) & set(seeds[best])) if best else []
        gains["/".join(variant)] = {seed: seeds[variant][seed] - seeds[best][seed] for seed in common} if best else {}
    every = sorted({seed for values in gains.values() for seed in values})
    judged = paired_over_seeds(gains, dict.fromkeys(every, 0.0))

    found = []
    for row, key in zip(planned.rows, planned.keys, strict=True):
        variant = row["variant_id"], row["evaluation_id"]
        if variant not in tested:
            found.append(result(check, key, "not_applicable", f"it is itself a control: {kinds[variant]}"))
            continue
        best, missing = tested[variant]
        one = judged["/".join(variant)]
        if missing:
            found.append(result(check, key, "fail", f"controls are missing from this sweep: {', '.join(missing)}", None, LEVEL))
        elif best is None or one.p_holm is None or one.estimate is None:
            text = f"{len(one.differences)} seed in common with the best control: nothing is tested over seeds"
            found.append(result(check, key, "not_run", text if best else "no control is completed"))
        else:
            gain = f"{100 * one.estimate.mean:+.1f} points of robust score against {named[best]}, p {one.p_holm:.2g} after Holm over {len(judged)}"
            outcome = "pass" if one.verdict == "higher" else "fail"
            text = gain + (f", {len(one.differences)} seeds" if outcome == "pass" else ": it may not be said to beat its controls")
            found.append(result(check, key, outcome, text, one.p_holm, LEVEL))
    return found


def _control(planned: Planned, place: int) -> str | None:
    """Return what kind of control a trial is, None if it is a defense that is judged."""
    trial = planned.trial(place)
    if trial["model"] == "identity":
        return "the target alone" if trial["retrain"] == "none" else "the tuned target without purifier"
    if trial["model"] in FILTERS:
        return "a filter"
    return TWIN if trial["model"] == "unet" or trial["quantize"] is False else None


def clean_drop(results: Results, planned: Planned) -> list[Result]:
    """C29: clean accuracy against the unfiltered target on the same images, with Agresti and Min's interval and McNemar's exact p.

    Of this checkpoint. Passes where the whole interval lies below one point, fails where it lies above; between the two nothing may be said.
    """
    check = CHECKS["C29"]
    columns = ["trial_id", "evaluation_id", "classifier", "sample_set", "outcomes"]
    where = {"evaluation_id": sorted({evaluation for _, evaluation in planned.keys}), "threat": "clean"}
    lists: dict[Key, dict[str, tuple[str, Sequence[bool]]]] = defaultdict(dict)
    for row in results.read("scores", columns, where).to_pylist():
        lists[row["trial_id"], row["evaluation_id"]][row["classifier"]] = row["sample_set"], row["outcomes"]
    found = []
    for place, key in enumerate(planned.keys):
        mine = lists[key]
        before, after = mine.get("unfiltered"), mine.get("retrained", mine.get("original"))
        if planned.is_undefended(place):
            found.append(result(check, key, "not_applicable", "nothing is filtered"))
        elif before is None or after is None or before[0] != after[0]:
            found.append(result(check, key, "not_run", "clean accuracy with and without the defense on the same images is not stored"))
        else:
            drop, (_, _, p_value) = paired_over_images(after[1], before[1]), mcnemar(after[1], before[1])
            low, high = drop.low or 0.0, drop.high or 0.0
            outcome = "pass" if high < CLEAN_DROP_LIMIT else "fail" if low >= CLEAN_DROP_LIMIT else "warn"
            text = f"{100 * drop.mean:+.1f} points lost [{100 * low:+.1f}, {100 * high:+.1f}] on {drop.n} images, McNemar p {p_value:.2g}"
            found.append(result(check, key, outcome, text, drop.mean, CLEAN_DROP_LIMIT))
    return found


def enough_for_a_headline(planned: Planned, curves: Curves) -> list[Result]:
    """C33: three training seeds, and 1,000 images under every attack."""
    check = CHECKS["C33"]
    seeds: dict[Key, set[int]] = defaultdict(set)
    for row in planned.rows:
        seeds[row["variant_id"], row["evaluation_id"]].add(row["seed"])
    least = np.full(len(planned.rows), np.inf)
    np.minimum.at(least, curves.trial, np.where(np.isnan(curves.n), np.inf, curves.n).min(axis=1))
    found = []
    for place, (row, key) in enumerate(zip(planned.rows, planned.keys, strict=True)):
        count = len(seeds[row["variant_id"], row["evaluation_id"]])
        text = f"{count} of at least {LEAST_SEEDS} seeds, {least[place]:.0f} of at least {LEAST_IMAGES} images under the attack with the fewest"
        is_enough = count >= LEAST_SEEDS and least[place] >= LEAST_IMAGES
        by_seeds = count < LEAST_SEEDS
        value, bound = (float(count), float(LEAST_SEEDS)) if by_seeds else (float(least[place]), float(LEAST_IMAGES))
        found.append(result(check, key, "pass" if is_enough else "fail", text, value if np.isfinite(value) else None, bound))
    return found


def nothing_selected(results: Results, planned: Planned) -> list[Result]:
    """C34: figures of validation images, or of the one variant that was chosen on them, pass; an ablation chooses nothing.

    A plan lists its variants before any is scored. The test of a chosen one gets a warning where other variants of its sweep had been scored on the
    test images before it: the choice may have been made with them in mind.
    """
    sweep, dataset = planned.rows[0]["sweep"], planned.rows[0]["dataset"]
    outcome: Outcome = "pass"
    if split_of(results, planned.rows) == "validation":
        text = "the figures are of validation images, which are there to choose by"
    elif sweep.endswith((SELECTED, FRONT)):
        started = results.read("runs", ["started"], {"plan_hash": planned.rows[0]["plan_hash"]}).column("started").to_pylist()
        seen, others = others_on_test(results, sweep.removesuffix(SELECTED).removesuffix(FRONT), dataset, planned.rows, min(started, default=None))
        text = "chosen on validation images, and no other variant of its sweep was scored on the test images before"
        if seen:
            outcome, text = "warn", f"chosen on validation images, but {len(seen)} of {others} other variants were scored on the test images before"
    else:
        outcome, text = "not_applicable", "the plan's variants were listed before any was scored"
    return [result(CHECKS["C34"], key, outcome, text) for key in planned.keys]
