"""The identity in place of a purifier's backward pass."""

import pytest
import torch
from small_models import some_images, trained_net
from torch import Tensor, nn

from attacks import pgd
from attacks._ascending import ascend
from attacks._backward import with_identity_backward
from attacks._linf import input_gradient
from attacks._modes import ready_for_attack


class Rounding(nn.Module):
    """A purifier with a parameter, a batch-independent nonlinearity, and a gradient that is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.9))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout((images * self.gain * 4).round() / 4)


def test_values_are_the_purifier_s_bit_for_bit() -> None:
    images, _, _ = some_images(16)
    purifier = Rounding().eval()
    assert torch.equal(with_identity_backward(purifier)(images), purifier(images))
    assert torch.equal(with_identity_backward(purifier)(images.requires_grad_()), purifier(images))
    with torch.inference_mode():
        assert torch.equal(with_identity_backward(purifier)(images), purifier(images))


def test_the_defense_s_gradient_is_the_classifier_s_at_the_purified_image() -> None:
    images, labels, _ = some_images(16)
    purifier, classifier = Rounding().eval(), trained_net()
    defense = nn.Sequential(with_identity_backward(purifier), classifier)
    gradient = input_gradient(defense, images, labels).gradient
    assert torch.equal(gradient, input_gradient(classifier, purifier(images), labels).gradient)
    assert gradient.abs().amax() > 0
    assert input_gradient(nn.Sequential(purifier, classifier), images, labels).gradient.abs().amax() == 0  # without it there is none


def test_the_gradient_comes_back_in_the_images_precision() -> None:
    class Doubled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.double()

    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    purified = with_identity_backward(Doubled())(images)
    purified.sum().backward()
    assert purified.dtype == torch.float64
    assert images.grad is not None
    assert images.grad.dtype == torch.float32
    assert torch.equal(images.grad, torch.ones_like(images))


def test_the_purifier_keeps_its_mode_and_gets_no_gradient() -> None:
    images, labels, _ = some_images(4)
    purifier = Rounding().eval()
    wrapped = with_identity_backward(purifier)
    assert not any(module.training for module in wrapped.modules())
    training = Rounding().train()
    training.dropout.eval()
    assert with_identity_backward(training).training
    assert not training.dropout.training
    nn.functional.cross_entropy(trained_net()(wrapped(images)), labels).backward()
    assert purifier.gain.grad is None
    with ready_for_attack(wrapped):
        assert not purifier.gain.requires_grad
    assert purifier.gain.requires_grad


def test_an_attack_through_the_identity_breaks_what_rounding_hid() -> None:
    images, labels, keys = some_images(32)
    purifier, classifier = Rounding().eval(), trained_net()
    defense = nn.Sequential(purifier, classifier)
    with pytest.raises(ValueError, match="exactly zero"):
        ascend(defense, images, labels, epsilons=[0.1, 0.3], keys=keys)
    approximated = nn.Sequential(with_identity_backward(purifier), classifier)
    adversarial = pgd.perturb(approximated, images, labels, epsilons=[0.3], keys=keys)[0]
    with torch.no_grad():
        assert (defense(images).argmax(1) == labels).float().mean() > 0.8
        assert (defense(adversarial).argmax(1) == labels).float().mean() < 0.2


def test_a_purifier_that_changes_the_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 1, 8, 8\) purified to \(2, 64\)"):
        with_identity_backward(nn.Flatten())(torch.zeros(2, 1, 8, 8))
