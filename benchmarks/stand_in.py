"""An invented stand-in for a trial of `search_spaces/search.py`: settings to figures at once. No measurement of any network, and none went into it.

It has the shapes for which a search may be hard, so that what samplers and schedulers are worth can be tried in seconds. In points (percent), with
squeeze the mean over a trial's codebooks of 7 - log2(size), in 0..4 (0 without a codebook); d the depth; s and e the noise and the epsilon that it
learned from (0 where there is none); a and b how far log10 of learning_rate and beta are from their best:

    loss  = 0.35 (d - 1) + 0.12 squeeze sqrt(d) + 5 a^2 + 0.6 b^2 + 1.5 (s / 0.3)^2 + 2 (e / 0.2)^1.5 + 0.3 [code_dim 4, but for cosine]
    clean = 96.6 - loss + noise, of a target that has 96.0
    robust_score = 14 + quantizer + (d - 1) + 1.1 squeeze sqrt(d) - 12 a^2 - 1.5 b^2
                   + 9 (1 - exp(-s / 0.12)) (1 + 0.15 (d - 1)) - 6 max(0, log2(s / 0.25)) + 16 (1 - exp(-e / 0.1)) + noise

So small codebooks, depth and noise buy robustness with clean accuracy; the best learning rate falls with adversarial inputs and rises with depth, the
best beta depends on the quantizer, and `clean_drop <= 0.01` leaves about half of the random proposals, none of the most robust. The noise is normal,
made from the settings alone (equal settings, equal figures): standard deviation 0.75 for robust_score and 0.25 for clean, so nearly always within
1.5 and 0.5.

After the epochs of a rung the networks have not arrived, those with a low learning rate least of all, and few images are scored: more noise. Over
random proposals Spearman's correlation between rung and full length is about 0.65 for both figures (`tests/test_search_beats_random.py`).
"""

import hashlib
import json
import math
import random
from collections.abc import Mapping
from typing import Any

TARGET_CLEAN = 96.0
_QUANTIZERS = {"paper": 0.0, "ema": 1.0, "cosine": 0.5, "rotation": 1.5, "fsq": -0.5, "none": -6.0}
_BEST_BETA = {"paper": 0.0, "ema": -0.6, "cosine": -0.2, "rotation": 0.2}  # log10
_NOISE = {"robust": 0.75, "clean": 0.25}
_RUNG_NOISE = {"robust": 5.3, "clean": 1.25}  # chosen for the correlation that the docstring states
# Seconds of a trial on digits are guessed in `sweeper/search/estimate.py`: 1.3 an epoch, 2.5 to retrain, 4 and 16 for the quick and the standard
# evaluation. So in epochs, scoring included:
RUNG_COST = 8  # 3 of training
WHOLE_COST = 24  # 10 of training


def figures(settings: Mapping[str, Any], *, is_rung: bool = False) -> dict[str, float | None]:
    """Return robust_score, clean and clean_drop, as shares.

    Args:
        settings: As a search proposes them, `codebook_size` a list.
        is_rung: After 3 of 10 epochs, by the quick evaluation.
    """
    robust, clean = _expected(settings)
    noise = _NOISE
    if is_rung:
        late = max(0.0, -2.4 - math.log10(settings["learning_rate"]))
        robust, clean, noise = 0.8 * robust - 4 * late, clean - 1.5 - 1.5 * late, _RUNG_NOISE
    digest = hashlib.sha256(json.dumps([is_rung, dict(settings)], sort_keys=True).encode()).digest()
    drawn = random.Random(digest)
    robust += drawn.gauss(0, noise["robust"])
    clean = min(100.0, clean + drawn.gauss(0, noise["clean"]))
    return {"robust_score": max(0.0, robust) / 100, "clean": clean / 100, "clean_drop": (TARGET_CLEAN - clean) / 100}


def _expected(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return robust_score and clean without noise, in points."""
    quantizer, depth = settings["quantizer"], settings["depth"]
    sizes = settings.get("codebook_size", [])
    squeeze = sum(7 - math.log2(size) for size in sizes) / len(sizes) if sizes else 0.0
    sigma, epsilon = settings.get("train_noise", 0.0), settings.get("train_epsilon", 0.0)
    best_rate = -2.35 + 0.1 * (depth - 2) - 0.15 * (settings["train_input"] == "adv")
    rate = (math.log10(settings["learning_rate"]) - best_rate) ** 2
    beta = (math.log10(settings["beta"]) - _BEST_BETA[quantizer]) ** 2 if "beta" in settings else 0.0
    loss = 0.35 * (depth - 1) + 0.12 * squeeze * math.sqrt(depth) + 5 * rate + 0.6 * beta
    loss += 1.5 * (sigma / 0.3) ** 2 + 2 * (epsilon / 0.2) ** 1.5 + 0.3 * (settings.get("code_dim") == 4 and quantizer != "cosine")
    robust = 14 + _QUANTIZERS[quantizer] + (depth - 1) + 1.1 * squeeze * math.sqrt(depth) - 12 * rate - 1.5 * beta
    robust += 9 * (1 - math.exp(-sigma / 0.12)) * (1 + 0.15 * (depth - 1)) + 16 * (1 - math.exp(-epsilon / 0.1))
    robust -= 6 * max(0.0, math.log2(sigma / 0.25)) if sigma else 0.0
    return robust, 96.6 - loss
