"""The networks of one trial: the purifier, and the target tuned on what it lets through."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attacks import fgsm
from attacks._inner import Adversary
from sweeper.artifacts import content_hash
from sweeper.config import TrialConfig
from sweeper.materials import Materials, Trained
from sweeper.scoring import purify
from sweeper.training import Disturb, Loss, Turn, classification_loss, numbers_from, purification_loss


def purifier_of(config: TrialConfig, materials: Materials) -> Trained:
    """Return the trial's purifier, trained on the clean training images (axis `train_input`) if it learns anything."""
    seed = numbers_from(config.seed, "purifier")
    module = materials.build(config, config.model, config.model_options, seed)
    if not config.network.is_trained:
        module.eval().requires_grad_(False)
        weights = module.state_dict()
        return Trained(module, weights, content_hash(weights) if weights else config.purifier_key, [], 0.0)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Loss]:
        target = materials.classifier(config, config.target).module if config.learns_from_target else None
        if target is not None and config.network.needs_target:
            module.guide(target)  # pyright: ignore[reportCallIssue]
        materials.initialize(module, images, seed)
        return images, labels, purification_loss(module, _disturbance(config, target))

    key, recipe = config.weights_key, config.training
    return materials.trained(
        config, "purifiers", key, module, recipe, prepare, seed=seed, stage="train", what=config.model, phase_keys=config.phase_keys
    )


def retrained_of(config: TrialConfig, materials: Materials, target: Trained, purifier: Trained) -> Trained:
    """Return the target retrained on purified training images, one per purifier (axis `retrain`, not `none`).

    `finetune` goes on from the original's weights, `scratch` starts over, and `mix` goes on from them on the images as they are and as purified.
    With an `adversary`, each batch is perturbed against the classifier as it is then, after the purifier.
    """
    key = config.retrained_key
    assert key is not None
    seed = numbers_from(config.seed, "retrain")
    module = materials.build(config, config.target.model, config.target.model_options, seed)
    recipe = config.retrain_recipe
    adversary = None if config.adversary == "none" else Adversary(config.adversary, config.adversary_epsilon)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Loss]:
        if config.retrain == "scratch":
            materials.initialize(module, images, seed)
        else:
            module.load_state_dict(dict(target.weights))
        classify = classification_loss(module, adversary)
        if not recipe.augment:
            purified = purify(purifier.module, images, 128).clone()
            if config.retrain == "mix":
                return torch.cat([images, purified]), torch.cat([labels, labels]), classify
            return purified, labels, classify

        # a shifted image is purified after the shift, so it cannot be done once before
        def purified_loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[Turn]:
            purified = _purified(purifier.module, images)
            if config.retrain == "mix":
                purified, labels = torch.cat([images, purified]), torch.cat([labels, labels])
            return classify(purified, labels, generator)

        return images, labels, purified_loss

    return materials.trained(config, "retrained", key, module, recipe, prepare, seed=seed, stage="retrain", what="the target on purified images")


def _purified(purifier: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # as they are purified when they are scored
        return purifier(images)


def _disturbance(config: TrialConfig, target: nn.Module | None) -> Disturb | None:
    """Return what turns clean training images into the purifier's inputs (axis `train_input`), or None for clean ones.

    `gauss` adds noise of standard deviation `train_noise`; `adv` perturbs by FGSM on the undefended target, each image by its own epsilon, uniform
    up to `train_epsilon`; `mix` leaves a third of the images as they are and treats a third each way.
    """

    def noisy(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return (images + config.train_noise * noise).clamp(0, 1)

    def attacked(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        assert target is not None
        unused = torch.zeros(len(images), dtype=torch.int64)  # FGSM draws nothing
        full = fgsm.perturb(target, images, labels, epsilons=(config.train_epsilon,), keys=unused)[0]
        share = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
        return (images + share * config.train_epsilon * (full - images).sign()).clamp(0, 1)  # the steps' signs are those of every epsilon

    def mixed(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        kind = torch.randint(0, 3, (len(images), 1, 1, 1), generator=generator, device=images.device)
        treated = torch.where(kind == 1, noisy(images, labels, generator), attacked(images, labels, generator))
        return torch.where(kind == 0, images, treated)

    ways: dict[str, Disturb | None] = {"clean": None, "gauss": noisy, "adv": attacked, "mix": mixed}
    return ways[config.train_input]
