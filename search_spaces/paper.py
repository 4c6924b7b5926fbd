"""The paper, whole: its systems and baselines, three seeds each, under one protocol; `report paper` makes its Table 1 and Figures 2 to 6 of this.

He and Singhal, "VQUNet", 2024 (arXiv:2406.03117). Two tables, since a purifier that has seen attacked images in training knows more than one that
has not. In *authors' recipes* each system sees what its authors show it: VQUNet and non-VQUNet clean images; Defense-VAE, and HFL-VAE like it,
attacked images, and no KL term; Defense-CycleGAN attacked images, which are one of its two domains. In *equal information* all of them learn from
images attacked in the same way, by FGSM through the undefended target (`train_input=adv`), each towards the clean image, and the VAEs have their KL
term. Only the kind of images follows the authors: they attack by several methods (Defense-VAE also by RAND-FGSM and CW), and have other batches,
epochs and, below `--scale paper`, larger networks.
"""

SEEDS = 3

_ATTACKED = {"train_input": "adv"}


def variants() -> list[dict[str, object]]:
    """Return the settings of each variant that differ from the reference, VQUNet as its authors train it, which comes first."""
    return [
        {},
        {"quantize": False},
        {"model": "defense_vae", "kl_weight": 0.0, **_ATTACKED},
        {"model": "hfl_vae", "kl_weight": 0.0, **_ATTACKED},
        {"model": "defense_cyclegan", **_ATTACKED},  # in both tables
        {**_ATTACKED},
        {"quantize": False, **_ATTACKED},
        {"model": "defense_vae", **_ATTACKED},
        {"model": "hfl_vae", **_ATTACKED},
        {"model": "identity", "retrain": "none"},  # no defense at all
        {"model": "identity"},  # the target tuned further, without a purifier
        {"model": "mean_blur"},  # the cheapest purifier there is
        {"passes": 2},  # section 2.1: a second pass is said to amplify blur
    ]
