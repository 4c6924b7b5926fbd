"""The networks of one trial: the purifier, and the target tuned on what it lets through."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks import fgsm
from sweeper.artifacts import content_hash
from sweeper.config import TrialConfig
from sweeper.materials import Materials, Trained
from sweeper.scoring import purify
from sweeper.training import Loss, classification_loss, numbers_from, purification_loss

Disturb = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # clean images, labels, generator -> inputs


def purifier_of(config: TrialConfig, materials: Materials, target: Trained) -> Trained:
    """Return the trial's purifier, trained on the clean training images (axis `train_input`) if it learns anything."""
    seed = numbers_from(config.seed, "purifier")
    module = materials.build(config, config.model, config.model_options, seed)
    if not config.network.is_trained:
        module.eval().requires_grad_(False)
        weights = module.state_dict()
        return Trained(module, weights, content_hash(weights) if weights else config.purifier_key, [], 0.0)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Loss]:
        materials.initialize(module, images, seed)
        return images, purification_loss(module, _disturbance(config, target.module))

    return materials.trained(config, "purifiers", config.purifier_key, module, config.training, prepare, seed=seed, stage="train", what=config.model)


def retrained_of(config: TrialConfig, materials: Materials, target: Trained, purifier: Trained) -> Trained:
    """Return the target tuned on purified training images (paper, section 4.1), started from the original's weights."""
    key = config.retrained_key
    assert key is not None
    seed = numbers_from(config.seed, "retrain")
    module = materials.build(config, config.target.model, config.target.model_options, seed)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Loss]:
        module.load_state_dict(dict(target.weights))
        classify = classification_loss(module)
        if not config.retraining.augment:
            return purify(purifier.module, images, 128).clone(), classify
        # a shifted image is purified after the shift, so it cannot be done once before
        return images, lambda images, labels, generator: classify(_purified(purifier.module, images), labels, generator)

    return materials.trained(
        config, "retrained", key, module, config.retraining, prepare, seed=seed, stage="retrain", what="the target on purified images"
    )


def _purified(purifier: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return purifier(images)


def _disturbance(config: TrialConfig, target: nn.Module) -> Disturb | None:
    """Return what turns clean training images into the purifier's inputs (axis `train_input`), or None for clean ones."""
    if config.train_input == "gauss":
        return lambda images, labels, generator: (
            images + config.train_noise * torch.randn(images.shape, generator=generator, device=images.device)
        ).clamp(0, 1)
    if config.train_input == "adv":

        def attacked(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
            unused = torch.zeros(len(images), dtype=torch.int64)  # FGSM draws nothing
            full = fgsm.perturb(target, images, labels, epsilons=(config.train_noise,), keys=unused)[0]
            share = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
            return images + share * (full - images)

        return attacked
    return None
