"""Every value of the axis `quantizer` keeps the promises of the paper's, and has the identities of its own source.

vector-quantize-pytorch is the independent implementation of what we write ourselves.
"""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from small_sweep import digits_config
from torch import Tensor, nn
from torch.nn import functional as F

from models import unet, vqunet
from models._codebook_free import ENTROPY_WEIGHT, FiniteScalarQuantizer, LookupFreeQuantizer, finite_levels
from models._codebook_variants import CosineQuantizer, RotationQuantizer, rotate
from models._codebooks import as_vectors
from models._quantizers import Quantized, Quantizer, VectorQuantizer
from models.vqunet import Config

SHAPE = (1, 16, 16)
NAMES = [name for name in vqunet.QUANTIZERS if name != "none"]
WITH_CODEBOOK = ["paper", "ema", "cosine", "rotation"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encodings(seed: int = 0, dim: int = 8) -> Tensor:
    return torch.randn(2, dim, 4, 4, generator=seeded(seed))


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=seeded(seed))


def make(quantizer: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = Config(**{"depth": 2, "base_width": 4, "codebook_size": 16, "quantizer": quantizer, **options})
    model = vqunet.build(config, SHAPE, 10)
    cast(Any, model).initialize(images(8), seeded())
    return model


def train(model: Any, generator: torch.Generator, steps: range, optimizer: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """Run steps of a training of 8, each on its own batch."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 4e-3)
    for step in steps:
        optimizer.zero_grad()
        model.training_loss(images(seed=step), images(seed=step), generator)["loss"].backward()
        optimizer.step()
        model.after_step(step, 8, generator)
    return optimizer


def level_of(kind: type[VectorQuantizer], encoded: Tensor, **options: Any) -> tuple[VectorQuantizer, Quantized]:
    """Return a quantizer of 16 random codes without projections, and what it makes of encodings."""
    module = kind(encoded.shape[1], 16, **options)
    with torch.no_grad():
        module.codebook.copy_(torch.randn(module.codebook.shape, generator=seeded(1)))
    return module, module(encoded)


def without_projections(module: Any) -> Any:
    module.project_in = module.project_out = nn.Identity()
    return module


def library(**options: Any) -> Any:
    from vector_quantize_pytorch import VectorQuantize

    return VectorQuantize(dim=8, codebook_size=16, rotation_trick=False, accept_image_fmap=True, **options)


# what every quantizer promises


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_a_function_of_their_indices(name: str) -> None:
    model = make(name).eval()
    for latent in model.purify_with_latents(images(16))[1]:
        assert latent.codebook_size == 16 or name == "fsq"
        indices, codes = latent.indices.flatten(), as_vectors(latent.quantized)
        assert indices.min() >= 0
        assert indices.max() < latent.codebook_size
        first = {int(index): position for position, index in reversed(list(enumerate(indices)))}
        assert len(first) > 1
        assert torch.equal(codes, codes[[first[int(index)] for index in indices]])


@pytest.mark.parametrize("name", NAMES)
def test_every_depth_has_its_own_codebook_size(name: str) -> None:
    model = make(name, depth=3, codebook_size=[64, 16, 4])
    expected = [64, 16, 4]  # grids of FSQ too: 8 * 8, 4 * 4, 4
    assert [model.quantizer(depth).codebook_size for depth in (1, 2, 3)] == expected
    _, latents = model.eval().purify_with_latents(images())
    assert [latent.codebook_size for latent in latents] == expected
    assert [len(latent.codebook) for latent in latents if latent.codebook is not None] == (expected if name in WITH_CODEBOOK else [])
    assert [latent.indices.max() < size for latent, size in zip(latents, expected, strict=True)] == [True] * 3


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_takes_codebooks_of_different_sizes(name: str) -> None:
    model = make(name, codebook_size=[16, 4])
    before = copy.deepcopy(model.state_dict())
    train(model, seeded(), range(1))
    assert not all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    terms = model.training_loss(images(), images(), seeded())
    assert all(term.isfinite() for term in terms.values())
    assert 1 <= terms["perplexity_1"] <= 16 and 1 <= terms["perplexity_2"] <= 4


def test_the_codebook_size_of_a_depth_that_is_not_quantized_is_not_read() -> None:
    model = make("paper", depth=3, vq_levels=[2, 3], codebook_size=[7, 16, 4])
    assert model.config.codebook_size == (16, 16, 4)
    assert {depth: quantizer.codebook_size for depth, quantizer in model.quantizers.items()} == {"2": 16, "3": 4}


@pytest.mark.parametrize("name", NAMES)
def test_output_is_a_function_of_the_codes_at_depth_one(name: str) -> None:
    model = make(name).eval()
    with torch.inference_mode():
        purified, latents = model.purify_with_latents(images())
        features = model.quantizer(1).project_out(latents[0].quantized)
        level = Quantized(features, features, None, features)
        deeper = model._quantize(2, model.encoders[1](features))
        assert torch.equal(model.decode([level, deeper]), purified)
        assert torch.equal(deeper.indices, latents[1].indices)


@pytest.mark.parametrize("name", NAMES)
def test_equal_indices_at_depth_one_give_equal_images(name: str) -> None:
    model, data = make(name).eval(), images()
    with torch.inference_mode():
        (first, latents) = model.purify_with_latents(data)
        (second, others) = model.purify_with_latents(data + 1e-6 * torch.randn(data.shape, generator=seeded(7)))
    assert not torch.equal(latents[0].encoded, others[0].encoded)
    same = (latents[0].indices == others[0].indices).flatten(1).all(1)
    assert same.any()
    assert torch.equal(first[same], second[same])


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_in_eval_mode_gets_a_gradient_for_every_image(name: str) -> None:
    model, data = make(name).eval(), images().requires_grad_()
    (gradient,) = torch.autograd.grad((model(data) * torch.linspace(0, 1, 256).view(SHAPE)).sum(), data)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_eval_mode_changes_no_state_and_treats_each_image_by_itself(name: str) -> None:
    model = make(name).eval()
    state = copy.deepcopy(model.state_dict())
    together = model(images())
    model.training_loss(images(), images(), seeded())
    model.after_step(0, 1, seeded())
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(images())[1:3], together[1:3], atol=0, rtol=0)
    torch.testing.assert_close(model(images()[1:3]), together[1:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("codebook_grad", ["lq_only", "ema"])
@pytest.mark.parametrize("name", NAMES)
def test_training_resumes_bit_for_bit_and_draws_nothing_from_the_global_generator(name: str, codebook_grad: str) -> None:
    model, generator = make(name, codebook_grad=codebook_grad), seeded()
    before = torch.get_rng_state()
    optimizer = train(model, generator, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), generator.get_state()))
    train(model, generator, range(3, 8), optimizer)
    assert torch.equal(torch.get_rng_state(), before)

    resumed, again = make(name, seed=9, codebook_grad=codebook_grad), torch.Generator()
    resumed.load_state_dict(saved[0])
    optimizer = torch.optim.Adam(resumed.parameters(), 4e-3)
    optimizer.load_state_dict(saved[1])
    again.set_state(saved[2])
    train(resumed, again, range(3, 8), optimizer)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_around_the_quantizers_starts_as_unet(name: str) -> None:
    torch.manual_seed(0)
    plain = unet.build(unet.Config(depth=2, base_width=4), SHAPE, 10).state_dict()
    state = make(name).state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.items())


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast_keeps_codes_and_losses_in_float32(name: str) -> None:
    model = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(), images(), seeded())
        level = model.encode(images())[0]
    assert all(term.dtype == torch.float32 and math.isfinite(term.item()) for term in terms.values())
    assert level.codes.dtype == torch.float32
    terms["loss"].backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(name: str) -> None:
    model = make(name).eval()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(last(images().contiguous(memory_format=torch.channels_last)), model(images()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_levels_left_out_are_not_quantized(name: str) -> None:
    _, latents = make(name, vq_levels=[2]).purify_with_latents(images())
    assert latents[0].indices is None
    assert latents[1].indices is not None


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("paper", {"commitment", "codebook"}),
        ("ema", {"commitment"}),
        ("cosine", {"commitment", "codebook"}),
        ("rotation", {"commitment", "codebook"}),
        ("fsq", set()),
        ("lfq", {"commitment", "entropy"}),
    ],
)
def test_each_quantizer_has_its_own_losses_and_they_are_weighed(name: str, terms: set[str]) -> None:
    model = make(name, alpha=3.0, beta=0.25)
    values = {key: value.item() for key, value in model.training_loss(images(), images(seed=1), seeded()).items()}
    assert values.keys() == {"loss", "reconstruction"} | {f"{term}_{depth}" for term in {*terms, "perplexity"} for depth in (1, 2)}
    weights = {"reconstruction": 3.0, "commitment": 0.25, "codebook": 1.0, "entropy": ENTROPY_WEIGHT, "perplexity": 0.0}
    expected = sum(weights[key.split("_")[0]] * value for key, value in values.items() if key != "loss")
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["ema", "rotation", "lfq"])  # `cosine` sums a gradient of zeros in another order
def test_literal_commitment_trains_bit_for_bit_as_beta_zero(name: str) -> None:
    literal, without, usual = make(name, commitment_gradient="literal"), make(name, beta=0.0), make(name)
    for model in (literal, without, usual):
        train(model, seeded(), range(3))
    assert all(torch.equal(value, without.state_dict()[key]) for key, value in literal.state_dict().items())
    assert not all(torch.equal(value, without.state_dict()[key]) for key, value in usual.state_dict().items())


def test_literal_commitment_has_the_gradients_of_beta_zero_with_cosine() -> None:
    literal, without = make("cosine", commitment_gradient="literal"), make("cosine", beta=0.0)
    for model in (literal, without):
        model.training_loss(images(), images(), seeded())["loss"].backward()
    for mine, other in zip(literal.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


# with a codebook


@pytest.mark.parametrize("codebook_grad", ["lq_only", "dual", "ema"])
@pytest.mark.parametrize("name", ["cosine", "rotation"])
def test_every_way_of_moving_codes_moves_them(name: str, codebook_grad: str) -> None:
    model = make(name, codebook_grad=codebook_grad, revive=False)
    before = [model.quantizer(depth).codes().detach().clone() for depth in (1, 2)]
    train(model, seeded(), range(2))
    assert not any(torch.equal(model.quantizer(depth).codes(), before[depth - 1]) for depth in (1, 2))


@pytest.mark.parametrize("name", WITH_CODEBOOK)
def test_initial_codes_are_encodings_unless_uniform(name: str) -> None:
    model = make(name)
    for depth, level in enumerate(model.encode(images(8)), start=1):  # train mode, so the batch statistics of `initialize`
        distance = torch.cdist(model.quantizer(depth).codes(), as_vectors(level.encoded), compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.amin(1).max() < 1e-4
    assert make(name, codebook_init="uniform").quantizer(1).codebook.abs().max() <= 0.05


@pytest.mark.parametrize("name", WITH_CODEBOOK)
def test_dead_codes_are_revived_onto_encodings(name: str) -> None:
    model = make(name)
    module = model.quantizer(1)
    with torch.no_grad():  # fifteen codes far off, opposite to a code amid the encodings
        module.codebook[0] = model.encode(images())[0].encoded.mean((0, 2, 3))
        module.codebook[1:] = -1000 * module.codebook[0]
    level = model.encode(images())[0]
    module.remember(level)
    module.after_step(0, 8, seeded())
    dead = torch.bincount(level.indices.flatten(), minlength=16) == 0
    assert dead.any()
    distance = torch.cdist(module.codes()[dead], as_vectors(level.encoded), compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.amin(1).max() < 1e-5


@pytest.mark.parametrize("name", WITH_CODEBOOK)
def test_short_codes_are_projected_in_and_out(name: str) -> None:
    latent = make(name, code_dim=3).purify_with_latents(images())[1][1]
    assert latent.encoded.shape == latent.quantized.shape == (4, 3, 4, 4)


@pytest.mark.parametrize("cosine", [False, True])
def test_one_step_of_moving_averages_agrees_with_the_library(cosine: bool) -> None:
    kind: type[VectorQuantizer] = CosineQuantizer if cosine else VectorQuantizer
    module, level = level_of(kind, encodings(), codebook_grad="ema", revive=False)
    start = module.codes().detach().clone()
    module.ema_sums.copy_(start)
    other = library(decay=0.99, eps=1e-5, use_cosine_sim=cosine).train()
    for buffer in (other._codebook.embed, other._codebook.embed_avg):
        buffer.data.copy_(start[None])
    other._codebook.cluster_size.data.fill_(1)
    module.remember(level)
    module.after_step(0, 10, seeded())
    _, indices, _ = other(encodings())
    assert torch.equal(indices, level.indices)
    torch.testing.assert_close(module.codes().detach(), other._codebook.embed[0])
    assert not torch.allclose(module.codes(), start)


# cosine


def test_cosine_chooses_the_largest_cosine_in_double_precision_and_agrees_with_the_library() -> None:
    module, level = level_of(CosineQuantizer, encodings())
    rows, codes = as_vectors(encodings()).double(), module.codebook.detach().double()
    cosines = torch.stack([F.cosine_similarity(rows, code[None]) for code in codes], dim=1)
    assert torch.equal(level.indices.flatten(), cosines.argmax(1))
    other = library(use_cosine_sim=True).eval()
    other._codebook.embed.data.copy_(module.codes()[None])
    codes, indices, _ = other(encodings())
    assert torch.equal(indices, level.indices)
    torch.testing.assert_close(level.output, codes)


def test_cosine_does_not_see_the_lengths_of_encodings_and_codes() -> None:
    module, level = level_of(CosineQuantizer, encodings())
    scale = 2.0 ** torch.randint(-3, 4, (2, 1, 4, 4), generator=seeded(2))
    assert torch.equal(module(encodings() * scale).output, level.output)
    with torch.no_grad():
        module.codebook.mul_(2.0 ** torch.arange(16)[:, None])
    assert torch.equal(module(encodings()).output, level.output)
    for vectors in (level.encoded, level.codes):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2, 4, 4))


def test_cosine_hands_on_a_gradient_at_right_angles_to_the_encoding() -> None:
    features, weights = encodings().requires_grad_(), encodings(2)
    _, level = level_of(CosineQuantizer, features)
    (gradient,) = torch.autograd.grad((level.output * weights).sum(), features)
    (expected,) = torch.autograd.grad((F.normalize(features, dim=1) * weights).sum(), features)  # the identity from codes to unit vectors
    assert torch.equal(gradient, expected)
    torch.testing.assert_close((gradient * features).sum(1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)


# rotation


def turned(start: Tensor, end: Tensor) -> Tensor:
    """Return the matrix that turns the plane of two vectors so that one points as the other, and keeps what is perpendicular."""
    a = start / start.norm()
    aside = end - (end @ a) * a
    b = aside / aside.norm()
    cosine = (end @ a) / end.norm()
    sine = (1 - cosine.square()).sqrt()
    eye = torch.eye(len(a), dtype=a.dtype)
    return eye + sine * (torch.outer(b, a) - torch.outer(a, b)) + (cosine - 1) * (torch.outer(a, a) + torch.outer(b, b))


def test_rotation_is_the_code_with_the_gradient_of_a_hand_built_rotation() -> None:
    encoded, codes, weights = encodings(0).double().requires_grad_(), encodings(1).double(), encodings(2).double()
    output = rotate(encoded, codes)
    assert torch.equal(output, codes)
    (gradient,) = torch.autograd.grad((output * weights).sum(), encoded)
    rows = zip(as_vectors(encoded.detach()), as_vectors(codes), as_vectors(weights), as_vectors(gradient), strict=True)
    for a, q, g, found in rows:
        matrix = turned(a, q)
        torch.testing.assert_close(matrix @ matrix.t(), torch.eye(8, dtype=torch.float64))
        assert torch.linalg.det(matrix).item() == pytest.approx(1)
        torch.testing.assert_close(q.norm() / a.norm() * matrix @ a, q)
        torch.testing.assert_close(found, q.norm() / a.norm() * matrix.t() @ g)


def test_rotation_scales_the_length_of_the_gradient_as_the_code_that_of_the_encoding() -> None:
    encoded, codes, weights = encodings(0).requires_grad_(), encodings(1), encodings(2)
    (gradient,) = torch.autograd.grad((rotate(encoded, codes) * weights).sum(), encoded)
    torch.testing.assert_close(gradient.norm(dim=1) / weights.norm(dim=1), codes.norm(dim=1) / encoded.detach().norm(dim=1))


def test_rotation_of_an_encoding_on_its_code_is_straight_through() -> None:
    encoded, weights = encodings().requires_grad_(), encodings(2)
    (gradient,) = torch.autograd.grad((rotate(encoded, encodings()) * weights).sum(), encoded)
    torch.testing.assert_close(gradient, weights)


def test_rotation_agrees_with_the_library() -> None:
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    encoded, codes, weights = encodings(0).requires_grad_(), encodings(1), encodings(2)
    (ours,) = torch.autograd.grad((rotate(encoded, codes) * weights).sum(), encoded)
    theirs = rotate_to(encoded.movedim(1, -1), codes.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(ours, torch.autograd.grad((theirs * weights).sum(), encoded)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["zero", "opposite"])
def test_rotation_has_a_finite_gradient_where_no_plane_is_given(kind: str) -> None:
    encoded = (torch.zeros(2, 8, 4, 4) if kind == "zero" else -encodings(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(rotate(encoded, encodings(1)).sum(), encoded)
    assert gradient.isfinite().all()


def test_rotation_gives_codes_the_plain_gradient_with_dual_and_none_otherwise() -> None:
    weights = encodings(2)
    for codebook_grad in ("lq_only", "dual"):
        module, level = level_of(RotationQuantizer, encodings(), codebook_grad=codebook_grad)
        assert level.output.requires_grad == (codebook_grad == "dual")
    (level.output * weights).sum().backward()
    expected = torch.zeros(16, 8).index_add_(0, level.indices.flatten(), as_vectors(weights))
    torch.testing.assert_close(module.codebook.grad, expected)


# finite scalar quantization


@pytest.mark.parametrize(
    ("size", "levels"), [(8, (8,)), (64, (8, 8)), (100, (5, 5, 5)), (256, (8, 6, 5)), (512, (8, 8, 8)), (1024, (8, 5, 5, 5)), (4096, (7, 5, 5, 5, 5))]
)
def test_finite_levels_are_those_of_the_paper_or_the_nearest_grid(size: int, levels: tuple[int, ...]) -> None:
    assert finite_levels(size) == levels
    assert finite_levels(math.prod(levels)) == levels


@pytest.mark.parametrize("size", [8, 30, 240, 1000])
def test_every_finite_index_is_one_code_and_quantizing_codes_changes_nothing(size: int) -> None:
    from vector_quantize_pytorch import FSQ

    levels = finite_levels(size)
    codes = FSQ(levels).indices_to_codes(torch.arange(size)).t()[None, :, :, None]  # (1, D, K, 1)
    found, indices = FiniteScalarQuantizer(8, size).round(codes)
    assert math.prod(levels) == size == len(torch.unique(codes[0, :, :, 0], dim=1).t())
    assert torch.equal(indices.flatten(), torch.arange(size))
    assert torch.equal(found, codes)


def test_finite_rounding_by_hand() -> None:
    module = without_projections(FiniteScalarQuantizer(3, 240))  # levels 8, 6 and 5
    level = module(torch.tensor([0.0, -100.0, 100.0]).view(1, 3, 1, 1))
    assert level.codes.flatten().tolist() == [0, -1, 1]  # of -4..3 by 4, -3..2 by 3, and -2..2 by 2
    assert level.indices.item() == 4 + 0 * 8 + 4 * 48


def test_finite_codes_indices_and_gradient_agree_with_the_library() -> None:
    from vector_quantize_pytorch import FSQ

    features, weights = (3 * encodings(dim=3)).requires_grad_(), encodings(2, dim=3)
    level = without_projections(FiniteScalarQuantizer(3, 240))(features)
    codes, indices = FSQ((8, 6, 5))(features)
    assert torch.equal(level.indices, indices.long())
    torch.testing.assert_close(level.output, codes)
    (ours,) = torch.autograd.grad((level.output * weights).sum(), features, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad((codes * weights).sum(), features)[0])
    (bounded,) = torch.autograd.grad((level.encoded * weights).sum(), features)
    assert torch.equal(ours, bounded)  # straight through the rounding alone
    assert (level.codes - level.encoded).abs().max() <= 0.26  # half a step of the fewest levels, 5


# lookup-free quantization


def test_signs_are_the_bits_of_the_index() -> None:
    module, features = without_projections(LookupFreeQuantizer(3, 8)), torch.tensor([0.5, -2.0, 0.1]).view(1, 3, 1, 1).requires_grad_()
    for mode in (module.train(), module.eval()):
        level = mode(features)
        assert level.indices.tolist() == [[[0b101]]]
        assert level.output.flatten().tolist() == [1, -1, 1]
        (gradient,) = torch.autograd.grad(level.output.flatten() @ torch.tensor([1.0, 2.0, 3.0]), features)
        assert gradient.flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("values", "entropy"), [((3.0, -3.0), -math.log(2)), ((3.0, 3.0), 0.0), ((0.0, 0.0), 0.0), ((3.0, 3.0, -3.0, 0.0), None)])
def test_entropy_is_low_for_sure_and_diverse_signs(values: tuple[float, ...], entropy: float | None) -> None:
    level = without_projections(LookupFreeQuantizer(1, 2))(torch.tensor(values).view(-1, 1, 1, 1))
    if entropy is None:  # one of four is unsure (ln 2), the mean assignment is 0.625 and 0.375
        entropy = math.log(2) / 4 + 0.625 * math.log(0.625) + 0.375 * math.log(0.375)
    assert level.entropy.item() == pytest.approx(entropy, abs=1e-3)


def test_entropy_gradient_spreads_signs_that_agree() -> None:
    module = without_projections(LookupFreeQuantizer(1, 2)).train()
    features = torch.tensor([0.001, 0.002]).view(2, 1, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(module(features).entropy, features)
    assert gradient[0] > 0 > gradient[1]  # the less sure of two equal signs is driven over to the other


# settings and keys


def keys(**settings: Any) -> tuple[str, ...]:
    config = digits_config(**settings)
    return config.purifier_key, config.trial_id, config.variant_id


def test_no_quantizer_is_the_model_unet() -> None:
    assert keys(quantizer="none") == keys(quantize=False) == keys(model="unet") == keys(quantizer="none", codebook_size=100, beta=0.5)
    assert digits_config(quantizer="none").model == "unet"
    assert Config(quantizer="none") == Config(quantize=False) == Config(quantize=False, quantizer="fsq")
    torch.manual_seed(0)
    assert isinstance(vqunet.build(Config(quantizer="none", depth=1), SHAPE, 10), unet.PlainUNet)


def test_moving_averages_have_one_key_under_both_names() -> None:
    assert keys(quantizer="ema") == keys(codebook_grad="ema") == keys(quantizer="ema", codebook_grad="ema") != keys()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"quantizer": "paper"}, {}),
        ({"quantizer": "fsq", "beta": 0.3, "codebook_grad": "dual"}, {"quantizer": "fsq"}),
        ({"quantizer": "fsq", "revive": False, "codebook_init": "uniform"}, {"quantizer": "fsq"}),
        ({"quantizer": "fsq", "code_dim": 3, "commitment_gradient": "literal"}, {"quantizer": "fsq"}),
        ({"quantizer": "fsq", "codebook_size": 256}, {"quantizer": "fsq", "codebook_size": 240}),
        ({"quantizer": "lfq", "revive": False, "codebook_init": "uniform"}, {"quantizer": "lfq"}),
        ({"quantizer": "lfq", "code_dim": 3, "codebook_grad": "ema"}, {"quantizer": "lfq"}),
    ],
)
def test_settings_without_effect_make_no_other_trial(settings: dict[str, Any], same: dict[str, Any]) -> None:
    assert keys(**settings) == keys(**same)


@pytest.mark.parametrize(
    "settings",
    [
        {"quantizer": "lfq", "beta": 0.3},
        {"quantizer": "lfq", "commitment_gradient": "literal"},
        {"quantizer": "fsq", "alpha": 2.0},
        {"quantizer": "cosine", "codebook_grad": "dual"},
        {"quantizer": "rotation", "codebook_grad": "ema"},
        {"quantizer": "ema", "revive": False},
        {"quantizer": "cosine", "code_dim": 4},
    ],
)
def test_settings_with_an_effect_make_another_trial(settings: dict[str, Any]) -> None:
    assert keys(**settings) != keys(quantizer=settings["quantizer"])


def test_each_quantizer_is_a_trial_of_its_own() -> None:
    assert len({keys(quantizer=name) for name in vqunet.QUANTIZERS}) == 7


def test_a_finite_grid_says_its_true_size() -> None:
    config = Config(quantizer="fsq", codebook_size=256)
    assert config.codebook_size == 240
    assert make("fsq", codebook_size=256).quantizer(1).codebook_size == 240


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "vq"}, "quantizer must be one of paper, ema, cosine, rotation, fsq, lfq, none, got 'vq'"),
        ({"quantizer": None}, "quantizer must be one of paper"),
        ({"quantizer": "lfq", "codebook_size": 100}, "codebook_size of quantizer 'lfq' must be a power of two of at least 2, got 100"),
        ({"quantizer": "lfq", "codebook_size": 1}, "must be a power of two of at least 2, got 1"),
        ({"quantizer": "ema", "codebook_grad": "dual"}, "codebook_grad 'dual' moves codes by gradient and quantizer 'ema' by averages"),
        ({"quantizer": "fsq", "beta": -1}, "beta must be a number of at least 0"),
    ],
)
def test_a_wrong_setting_is_named_in_the_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_the_library_is_not_imported_until_it_is_needed() -> None:
    code = "import sys, models.vqunet as v; v.build(v.Config(depth=1, base_width=2), (1, 8, 8), 10); print('vector_quantize_pytorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("build", [FiniteScalarQuantizer, LookupFreeQuantizer, CosineQuantizer, RotationQuantizer])
def test_building_a_quantizer_has_no_use_for_memory(build: Callable[[int, int], Quantizer]) -> None:
    with torch.device("meta"):
        assert build(8, 64).codebook_size == 64
