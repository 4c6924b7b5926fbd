"""Which parts of VQUNet matter? The reference, then one factor changed at a time, then the controls that a claim has to beat.

The reference is the scale's default: K 64 and depth 3 at `small`, K 512 and depth 4 at `medium` and `paper`; alpha 1, beta 1.
"""


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant that differ from the reference, which comes first."""
    return [
        {},
        {"codebook_size": 8},
        {"codebook_size": 16},
        {"codebook_size": 256},
        {"depth": 1},
        {"depth": 2},
        {"beta": 0.0},
        {"beta": 0.25},
        {"beta": 4.0},
        {"alpha": 2.0, "beta": 2.0},  # the same ratio: under Adam only seed noise should differ
        {"quantize": False},
        {"model": "identity", "retrain": "none"},  # no defense at all
        {"model": "identity"},  # the target tuned further, without a purifier
        {"model": "mean_blur"},  # 4x4: the cheapest purifier there is
    ]
