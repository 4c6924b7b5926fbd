"""Which quantizer? The reference, the paper's as plain as its text has it, each remedy against unused codes, then the other quantizers.

The reference is the scale's default: the paper's quantizer, with codes that start on encodings and dead codes revived. FSQ takes the grid
nearest to the reference's number of codes (64 for 64, 512 for 512); LFQ needs a power of two.
"""


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant that differ from the reference, which comes first."""
    return [
        {},
        {"codebook_init": "uniform", "revive": False},  # the paper's text: codes start as Keras' Embedding, nothing is revived
        {"revive": False},  # and data initialization
        {"codebook_init": "uniform"},  # and revival
        {"quantizer": "ema"},
        {"quantizer": "cosine"},
        {"quantizer": "rotation"},
        {"quantizer": "fsq"},
        {"quantizer": "lfq"},
        {"quantizer": "none"},
        {"codebook_grad": "dual"},  # the paper's sentence: the reconstruction loss moves codes too
        {"commitment_gradient": "literal"},  # eq. (3) as printed, whose gradient is zero
    ]
