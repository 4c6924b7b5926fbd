"""What does a purifier have to beat? Every purifier there is, from a blur to a guided denoiser, and adversarial training, which needs none.

Those that their authors train on attacked images (APE-GAN, the guided denoiser) get them; the others learn from clean ones. Adversarial training
changes the classifier and not the image: it stands here as the identity before a classifier trained from scratch against PGD, or against FGSM from
random starts.
"""

_ATTACKED = {"train_input": "adv"}
_HARDENED = {"model": "identity", "retrain": "scratch"}


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant that differ from the reference, VQUNet, which comes first."""
    return [
        {},
        {"model": "identity", "retrain": "none"},  # no defense at all
        {"model": "identity"},
        {"model": "mean_blur"},
        {"model": "gaussian_blur", "sigma": 1.0},
        {"model": "median_filter"},
        {"model": "total_variation"},
        {"model": "bit_depth", "bits": 2},
        {"model": "jpeg"},
        {"model": "denoising_autoencoder"},
        {"model": "vq_vae"},
        {"model": "comdefend"},
        {"model": "ape_gan", **_ATTACKED},
        {"model": "guided_denoiser", **_ATTACKED},
        {**_HARDENED, "adversary": "pgd"},
        {**_HARDENED, "adversary": "fgsm_rs"},
    ]
