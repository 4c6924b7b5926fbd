"""Do alpha and beta matter in the first 30 epochs only, as the paper says (section 3.2)? The answer is in the table `epochs`.

He and Singhal, 2024 (arXiv:2406.03117). Compare `reconstruction` of the variants epoch by epoch: by the claim they differ before epoch 30
and agree after it. Not `loss`, which alpha and beta scale. The first four pairs differ in beta / alpha. Under Adam only this ratio acts, on
the encoders, so the last pair has the ratio of the second: it shows how far apart two runs of one setting come out.
A schedule that ends near zero flattens every curve, so what counts is the distance between variants against that between seeds.
"""

NUM_EPOCHS = 45
EVALUATION = "quick"
SEEDS = 3  # the distance between variants is judged against that between seeds


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant, alpha 1 and beta 1 first."""
    pairs = [
        {},
        {"beta": 0.25},
        {"beta": 4.0},
        {"beta": 0.0},  # no commitment at all
        {"alpha": 4.0},  # the control: the ratio of beta 0.25
    ]
    return [{"num_epochs": NUM_EPOCHS, **pair} for pair in pairs]
