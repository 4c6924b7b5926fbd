"""The soft backward pass: its gradient in closed form, its limits, and values that do not move."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import vq_vae, vqunet
from models._codebook_free import FiniteScalarQuantizer
from models._codebook_variants import CosineQuantizer, RotationQuantizer
from models._codebooks import nearest
from models._quantizers import VectorQuantizer
from models._soft_assignment import soft_assignment, soft_codes

SHAPE = (1, 16, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer(kind: type[VectorQuantizer] = VectorQuantizer, **options: Any) -> VectorQuantizer:
    torch.manual_seed(0)
    module = kind(8, 16, **options)
    with torch.no_grad():
        module.codebook.copy_(torch.randn(module.codebook.shape, generator=seeded(1)))
    return module.eval()


def encodings() -> Tensor:
    return torch.randn(2, 8, 3, 5, generator=seeded()).requires_grad_()


def gradient(output: Tensor, encoded: Tensor, seed: int = 2) -> Tensor:
    cotangent = torch.randn(output.shape, generator=seeded(seed))
    (result,) = torch.autograd.grad((output * cotangent).sum(), encoded, retain_graph=True)
    return result


def soft_by_hand(encoded: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """The formula, one vector after the other, distances written out."""
    rows = []
    for vector in encoded.movedim(1, -1).reshape(-1, encoded.shape[1]):
        weights = torch.exp(-(vector - codebook).square().sum(1) / temperature)
        rows.append((weights[:, None] * codebook).sum(0) / weights.sum())
    return torch.stack(rows).view(*encoded.movedim(1, -1).shape).movedim(-1, 1)


@pytest.mark.parametrize("temperature", [0.7, 5.0, 40.0])
def test_the_gradient_is_autograd_s_of_the_soft_expression_and_the_value_the_nearest_code(temperature: float) -> None:
    module, encoded = quantizer(), encodings()
    hard = module(encoded)
    with soft_assignment(module, temperature):
        soft = module(encoded)
    assert torch.equal(soft.output, hard.output)
    assert torch.equal(soft.indices, hard.indices)
    expected = gradient(soft_by_hand(encoded, module.codebook.detach(), temperature), encoded)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient(soft.output, encoded), expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(gradient(soft.output, encoded), gradient(hard.output, encoded), atol=1e-2)


def test_the_gradient_is_the_codes_covariance_over_half_the_temperature() -> None:
    codebook, temperature = torch.tensor([[-1.0], [1.0], [3.0]]), 2.0
    encoded = torch.tensor(0.25).view(1, 1, 1, 1).requires_grad_()
    weights = torch.exp(-(codebook[:, 0] - 0.25).square() / temperature)
    weights = weights / weights.sum()
    variance = (weights * codebook[:, 0] ** 2).sum() - (weights * codebook[:, 0]).sum() ** 2
    (result,) = torch.autograd.grad(soft_codes(encoded, codebook, temperature).sum(), encoded)
    assert result.item() == pytest.approx(2 / temperature * variance.item(), rel=1e-5)


def test_as_the_temperature_falls_it_becomes_the_nearest_code_without_a_gradient() -> None:
    codebook, encoded = torch.randn(16, 8, generator=seeded(1)), encodings()
    hard = nn.functional.embedding(nearest(encoded, codebook), codebook).movedim(-1, 1)
    distances = [(soft_codes(encoded, codebook, t) - hard).abs().max().item() for t in (30.0, 3.0, 0.3, 1e-4)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6
    assert gradient(soft_codes(encoded, codebook, 1e-4), encoded).abs().max() == 0


def test_as_the_temperature_grows_it_becomes_the_mean_of_all_codes() -> None:
    codebook, encoded = torch.randn(16, 8, generator=seeded(1)), encodings()
    mean = codebook.mean(0).view(1, 8, 1, 1).expand_as(encoded)
    torch.testing.assert_close(soft_codes(encoded, codebook, 1e7), mean, atol=1e-4, rtol=1e-4)


def test_no_gradient_goes_to_the_codebook_but_the_one_that_was_there() -> None:
    for grad, reached in (("lq_only", False), ("dual", True)):
        module, encoded = quantizer(codebook_grad=grad), encodings()
        hard = torch.autograd.grad(module(encoded).output.sum(), module.codebook, allow_unused=True)[0]
        with soft_assignment(module, 1.0):
            soft = torch.autograd.grad(module(encoded).output.sum(), module.codebook, allow_unused=True)[0]
        assert (soft is not None) == reached
        assert soft is None or (hard is not None and torch.equal(soft, hard))


@pytest.mark.parametrize("kind", [CosineQuantizer, RotationQuantizer])
def test_the_variants_use_it_in_the_space_in_which_they_compare(kind: type[VectorQuantizer]) -> None:
    module, encoded = quantizer(kind, code_dim=4), encodings()
    hard = module(encoded).output
    with soft_assignment(module, 0.5):
        soft = module(encoded).output
    assert torch.equal(soft, hard)
    by_hand = module.project_out(soft_by_hand(module.encode(encoded), module.codes().detach(), 0.5))
    torch.testing.assert_close(gradient(soft, encoded), gradient(by_hand, encoded), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["vqunet", "vq_vae"])
def test_a_purifier_keeps_its_images_and_changes_its_gradient_at_every_depth(name: str) -> None:
    torch.manual_seed(0)
    if name == "vqunet":
        model: nn.Module = vqunet.VQUNet(vqunet.Config(depth=2, base_width=4, codebook_size=16), SHAPE).eval()
    else:
        model = vq_vae.VQVAE(vq_vae.Config(width=8, residual_width=4, codebook_size=16, code_dim=4), SHAPE).eval()
    images = torch.rand(4, *SHAPE, generator=seeded()).requires_grad_()
    model.initialize(images.detach(), seeded())  # type: ignore[operator]
    quantizers = [part for part in model.modules() if isinstance(part, VectorQuantizer)]
    assert len(quantizers) == (2 if name == "vqunet" else 1)
    hard = model(images)
    with soft_assignment(nn.Sequential(model, nn.Flatten()), 0.1):
        assert all(part.soft_temperature == 0.1 for part in quantizers)
        soft = model(images)
    assert torch.equal(soft, hard)
    assert not torch.allclose(gradient(soft, images), gradient(hard, images), atol=1e-6)
    assert torch.equal(gradient(model(images), images), gradient(hard, images))  # and it is gone again


def test_uses_nest_and_are_undone_after_an_error() -> None:
    module = quantizer()
    with soft_assignment(module, 1.0):
        with soft_assignment(module, 2.0):
            assert module.soft_temperature == 2.0
        assert module.soft_temperature == 1.0
    with pytest.raises(ZeroDivisionError), soft_assignment(module, 1.0):
        raise ZeroDivisionError
    assert module.soft_temperature is None


def test_bfloat16_encodings_are_assigned_in_float32() -> None:
    encoded, codebook = encodings().detach().bfloat16(), torch.randn(16, 8, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        result = soft_codes(encoded, codebook, 1.0)
    torch.testing.assert_close(result, soft_by_hand(encoded.float(), codebook, 1.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_positive_is_named(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"), soft_assignment(quantizer(), temperature):
        pass


def test_a_module_without_a_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="FiniteScalarQuantizer has none"), soft_assignment(FiniteScalarQuantizer(8, 240), 1.0):
        pass
