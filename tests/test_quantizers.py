"""The quantizer's identities: gradients, nearest codes, losses, usage, revival, and the information bottleneck."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import vqunet
from models._codebooks import as_vectors, nearest, revival_interval, sample_vectors
from models._quantizers import (
    VectorQuantizer,
    batch_perplexity,
    codebook_loss,
    commitment_loss,
    straight_through,
    usage,
)

SHAPE = (1, 16, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance_to_nearest(codes: Tensor, vectors: Tensor) -> Tensor:
    exact = torch.cdist(codes.detach(), vectors.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    return exact.amin(1).max()


def encodings(seed: int = 0, dim: int = 8) -> Tensor:
    return torch.randn(2, dim, 4, 4, generator=seeded(seed))


def quantizer(codebook_size: int = 16, **options: Any) -> VectorQuantizer:
    module = VectorQuantizer(8, codebook_size, **options)
    with torch.no_grad():
        module.codebook.copy_(torch.randn(module.codebook.shape, generator=seeded(1)))
    return module


def make(**options: Any) -> vqunet.VQUNet:
    torch.manual_seed(0)
    model = vqunet.VQUNet(vqunet.Config(**{"depth": 2, "base_width": 4, "codebook_size": 16, **options}), SHAPE)
    model.initialize(images(8), seeded())
    return model


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=seeded(seed))


def codebook(model: vqunet.VQUNet, depth: int) -> torch.nn.Parameter:
    module = model.quantizer(depth)
    assert isinstance(module, VectorQuantizer)
    return module.codebook


def gradients(model: vqunet.VQUNet, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of loss for every parameter that it reaches, by name."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(model: vqunet.VQUNet, num_steps: int = 4) -> dict[str, Tensor]:
    optimizer, generator = torch.optim.Adam(model.parameters(), 4e-3), seeded()
    for step in range(num_steps):
        optimizer.zero_grad()
        model.training_loss(images(seed=step), images(seed=step), generator)["loss"].backward()
        optimizer.step()
        model.after_step(step, num_steps, generator)
    return model.state_dict()


def test_straight_through_is_the_quantized_value_with_the_gradient_of_the_identity() -> None:
    encoded, quantized, weights = encodings(0).requires_grad_(), encodings(1), encodings(2)
    output = straight_through(encoded, quantized)
    assert torch.equal(output, quantized)
    (gradient,) = torch.autograd.grad((output * weights).sum(), encoded)
    assert torch.equal(gradient, weights)


def test_straight_through_has_the_gradient_of_the_papers_expression() -> None:
    encoded, quantized = encodings(0).requires_grad_(), encodings(1)
    (ours,) = torch.autograd.grad(straight_through(encoded, quantized).square().sum(), encoded)
    (papers,) = torch.autograd.grad((encoded + (quantized - encoded).detach()).square().sum(), encoded)
    torch.testing.assert_close(ours, papers)


def test_straight_through_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        straight_through(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))


def test_output_gradient_goes_to_encodings_and_not_to_codes() -> None:
    module, encoded, weights = quantizer(), encodings().requires_grad_(), encodings(2)
    (module(encoded).output * weights).sum().backward()
    assert encoded.grad is not None
    assert torch.equal(encoded.grad, weights)
    assert module.codebook.grad is None


def test_dual_also_adds_the_output_gradient_to_the_codes_used() -> None:
    module, encoded, weights = quantizer(codebook_grad="dual"), encodings().requires_grad_(), encodings(2)
    quantized = module(encoded)
    (quantized.output * weights).sum().backward()
    assert encoded.grad is not None
    assert module.codebook.grad is not None
    expected = torch.zeros(16, 8).index_add_(0, quantized.indices.flatten(), as_vectors(weights))
    assert torch.equal(encoded.grad, weights)
    torch.testing.assert_close(module.codebook.grad, expected)


def test_losses_have_one_value_and_separate_gradients() -> None:
    encoded, quantized = encodings(0).requires_grad_(), encodings(1).requires_grad_()
    commitment, codes = commitment_loss(encoded, quantized), codebook_loss(encoded, quantized)
    assert commitment.item() == codes.item()
    (commitment + codes).backward()
    assert encoded.grad is not None
    assert quantized.grad is not None
    torch.testing.assert_close(encoded.grad, 2 * (encoded - quantized).detach() / encoded.numel())
    torch.testing.assert_close(quantized.grad, -encoded.grad)


def test_both_losses_together_have_the_gradient_of_the_plain_distance() -> None:
    encoded, module = encodings().requires_grad_(), quantizer()
    codes = module(encoded).codes
    ours = torch.autograd.grad(commitment_loss(encoded, codes) + codebook_loss(encoded, codes), (encoded, module.codebook), retain_graph=True)
    plain = torch.autograd.grad(F.mse_loss(codes, encoded), (encoded, module.codebook))
    for mine, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, other)


def test_literal_commitment_has_its_value_and_no_gradient() -> None:
    encoded, quantized = encodings(0).requires_grad_(), encodings(1).requires_grad_()
    literal = commitment_loss(encoded, quantized, "literal")
    assert literal.item() == commitment_loss(encoded, quantized).item()
    assert not literal.requires_grad


def test_codebook_loss_pulls_each_code_to_its_encodings_and_leaves_unused_ones() -> None:
    module, encoded = quantizer(64), encodings()
    quantized = module(encoded)
    codebook_loss(encoded, quantized.codes).backward()
    gradient, vectors, indices = module.codebook.grad, as_vectors(encoded), quantized.indices.flatten()
    assert gradient is not None
    for code in range(64):
        difference = (module.codebook.detach()[code] - vectors[indices == code]).sum(0)
        torch.testing.assert_close(gradient[code], 2 * difference / encoded.numel())
    unused = torch.bincount(indices, minlength=64) == 0
    assert unused.any()
    assert (gradient[unused] == 0).all()


def test_encodings_on_codes_have_no_loss() -> None:
    module = quantizer()
    encoded = F.embedding(torch.arange(16).view(1, 4, 4), module.codebook.detach()).movedim(-1, 1)
    quantized = module(encoded)
    assert torch.equal(quantized.indices, torch.arange(16).view(1, 4, 4))
    assert commitment_loss(encoded, quantized.codes).item() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_nearest_agrees_with_brute_force_in_double_precision(layout: torch.memory_format) -> None:
    encoded, codes = encodings().contiguous(memory_format=layout), torch.randn(50, 8, generator=seeded(1))
    distances = (encoded.double().movedim(1, -1)[..., None, :] - codes.double()).square().sum(-1)  # (N, H, W, K)
    assert torch.equal(nearest(encoded, codes), distances.argmin(-1))


def test_nearest_is_the_same_under_bfloat16_autocast() -> None:
    encoded, codes = torch.randn(8, 8, 16, 16, generator=seeded()), torch.randn(512, 8, generator=seeded(1))
    expected = nearest(encoded, codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(encoded, codes), expected)


def test_quantizing_twice_changes_nothing() -> None:
    module = quantizer()
    once = module(encodings())
    twice = module(once.output)
    assert torch.equal(once.indices, twice.indices)
    assert torch.equal(once.output, twice.output)


def test_reordering_the_codebook_reorders_indices_only() -> None:
    module, order = quantizer(), torch.randperm(16, generator=seeded(5))
    before = module(encodings())
    with torch.no_grad():
        module.codebook.copy_(module.codebook[order])
    after = module(encodings())
    assert torch.equal(order[after.indices], before.indices)
    assert torch.equal(after.output, before.output)


def test_one_code_makes_the_output_constant() -> None:
    model = make(codebook_size=1).eval()
    with torch.inference_mode():
        purified, latents = model.purify_with_latents(images())
    assert torch.equal(purified, purified[:1].expand_as(purified))
    assert all(latent.indices is not None and usage(latent.indices, 1) == (1, 1) for latent in latents)


@pytest.mark.parametrize(("counts", "perplexity", "share"), [((4, 4, 0, 0), 2, 0.5), ((3, 3, 3, 3), 4, 1), ((0, 0, 7, 0), 1, 0.25)])
def test_perplexity_counts_the_codes_in_equal_use(counts: tuple[int, ...], perplexity: int, share: float) -> None:
    indices = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    assert usage(indices, 4) == (pytest.approx(perplexity), share)


def test_usage_refuses_what_are_no_indices() -> None:
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 4\), got 0 to 4"):
        usage(torch.tensor([0, 4]), 4)
    with pytest.raises(ValueError, match="at least one index"):
        usage(torch.tensor([], dtype=torch.int64), 4)


def test_projections_quantize_in_the_space_of_the_codes() -> None:
    module = quantizer(code_dim=3)
    quantized = module(encodings())
    assert module.codebook.shape == (16, 3)
    assert quantized.encoded.shape == quantized.codes.shape == (2, 3, 4, 4)
    assert quantized.output.shape == (2, 8, 4, 4)
    assert quantizer(code_dim=100).codebook.shape == (16, 8)  # never wider than the features


def test_sampled_vectors_are_different_rows_and_repeat_with_the_seed() -> None:
    vectors = torch.randn(10, 3, generator=seeded()).repeat(4, 1)  # every row four times
    sample = sample_vectors(vectors, 10, seeded(1))
    assert torch.equal(torch.unique(sample, dim=0), torch.unique(vectors, dim=0))
    assert torch.equal(sample, sample_vectors(vectors, 10, seeded(1)))


def test_more_samples_than_rows_are_near_repeats() -> None:
    vectors = torch.randn(10, 3, generator=seeded())
    sample = sample_vectors(vectors, 25, seeded(1))
    assert len(torch.unique(sample, dim=0)) == 25
    assert distance_to_nearest(sample, vectors) < 0.1


def test_revival_moves_unused_codes_onto_encodings_and_no_other() -> None:
    module, encoded = quantizer().train(), encodings()
    with torch.no_grad():
        module.codebook[4:] = 1000.0
    before = module.codebook.detach().clone()
    module.remember(module(encoded))
    module.after_step(0, 10, seeded())
    indices = nearest(encoded, before)
    used = torch.bincount(indices.flatten(), minlength=16) > 0
    assert torch.equal(module.codebook[used], before[used])
    assert distance_to_nearest(module.codebook[~used], as_vectors(encoded)) == 0


@pytest.mark.parametrize("options", [{"revive": False}, {"revive": True}])
def test_revival_stops_for_the_last_fifth_or_where_it_is_off(options: dict[str, bool]) -> None:
    module = quantizer(**options).train()
    with torch.no_grad():
        module.codebook[4:] = 1000.0
    before = module.codebook.detach().clone()
    module.remember(module(encodings()))
    module.after_step(8 if options["revive"] else 0, 10, seeded())
    assert torch.equal(module.codebook, before)


def test_revival_waits_for_its_interval_and_counts_until_then() -> None:
    module = quantizer().train()
    for step in range(2):
        module.remember(module(encodings(step)))
        module.after_step(step, 60, seeded())  # interval 3
    assert module.code_counts.sum() == 2 * 32
    module.remember(module(encodings(2)))
    module.after_step(2, 60, seeded())
    assert module.code_counts.sum() == 0


def test_revival_interval_suits_short_and_long_trainings() -> None:
    assert [revival_interval(steps) for steps in (1, 170, 39_000)] == [1, 8, 100]


def test_moving_average_after_one_step_is_the_closed_form() -> None:
    module, encoded = quantizer(4, codebook_grad="ema", revive=False).train(), encodings()
    module.ema_sums.copy_(module.codebook)
    counts, sums = torch.ones(4), module.codebook.detach().clone()
    quantized = module(encoded)
    module.remember(quantized)
    module.after_step(0, 10, seeded())
    for code in range(4):
        assigned = as_vectors(encoded)[quantized.indices.flatten() == code]
        counts[code] = 0.99 * counts[code] + 0.01 * len(assigned)
        sums[code] = 0.99 * sums[code] + 0.01 * assigned.sum(0)
    smoothed = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    torch.testing.assert_close(module.codebook.detach(), sums / smoothed[:, None])


def test_moving_average_settles_on_cluster_means() -> None:
    module = quantizer(2, codebook_grad="ema", revive=False).train()
    encoded = encodings() + 20 * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)  # one cluster for each image
    with torch.no_grad():
        module.codebook.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 8))
    module.ema_sums.copy_(module.codebook)
    for step in range(1500):
        module.remember(module(encoded))
        module.after_step(step, 1500, seeded())
    torch.testing.assert_close(module.codebook.detach(), encoded.mean((2, 3)), atol=1e-3, rtol=1e-3)


def test_eval_mode_remembers_nothing() -> None:
    module = quantizer(codebook_grad="ema").eval()
    state = copy.deepcopy(module.state_dict())
    module.remember(module(encodings()))
    module.after_step(0, 1, seeded())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_reconstruction_reaches_encoders_and_decoders_and_no_codebook() -> None:
    model = make()
    reached = gradients(model, F.mse_loss(model(images()), images()))
    missing = {name for name, _ in model.named_parameters()} - reached.keys()
    assert missing == {"quantizers.1.codebook", "quantizers.2.codebook"}


def test_dual_lets_the_reconstruction_reach_every_codebook() -> None:
    model = make(codebook_grad="dual")
    reached = gradients(model, F.mse_loss(model(images()), images()))
    assert reached["quantizers.1.codebook"].abs().max() > 0
    assert reached["quantizers.2.codebook"].abs().max() > 0


def test_commitment_at_depth_two_reaches_the_first_encoder_and_only_encoders() -> None:
    model = make()
    level = model.encode(images())[1]
    reached = gradients(model, commitment_loss(level.encoded, level.codes))
    assert {name.split(".")[0] for name in reached} == {"stem", "encoders"}
    assert all(reached[name].abs().max() > 0 for name in reached if name.startswith("encoders.0.0.0"))


def test_codebook_loss_reaches_its_codebook_only() -> None:
    model = make()
    level = model.encode(images())[1]
    assert gradients(model, codebook_loss(level.encoded, level.codes)).keys() == {"quantizers.2.codebook"}


def test_total_loss_weighs_its_terms() -> None:
    model = make(alpha=3.0, beta=0.25)
    terms = {name: value.item() for name, value in model.training_loss(images(), images(seed=1), seeded()).items()}
    commitment = terms["commitment_1"] + terms["commitment_2"]
    codes = terms["codebook_1"] + terms["codebook_2"]
    assert terms["loss"] == pytest.approx(3 * terms["reconstruction"] + 0.25 * commitment + codes, rel=1e-5)


def test_moving_averages_take_the_place_of_the_codebook_loss() -> None:
    terms = make(codebook_grad="ema").training_loss(images(), images(), seeded())
    assert not [name for name in terms if name.startswith("codebook")]


def test_literal_commitment_trains_bit_for_bit_as_beta_zero() -> None:
    literal, without = train(make(commitment_gradient="literal")), train(make(beta=0.0))
    assert all(torch.equal(value, without[name]) for name, value in literal.items())
    assert not all(torch.equal(value, without[name]) for name, value in train(make()).items())


@pytest.mark.parametrize("codebook_grad", ["lq_only", "dual", "ema"])
def test_training_moves_every_codebook(codebook_grad: str) -> None:
    model = make(codebook_grad=codebook_grad, revive=False)
    before = [codebook(model, depth).detach().clone() for depth in (1, 2)]
    train(model)
    assert not any(torch.equal(codebook(model, depth), before[depth - 1]) for depth in (1, 2))


def test_equal_indices_at_depth_one_give_equal_images_and_deeper_indices() -> None:
    model, data = make().eval(), images()
    with torch.inference_mode():
        near = data + 1e-5 * torch.randn(data.shape, generator=seeded(7))
        (first, latents), (second, others) = model.purify_with_latents(data), model.purify_with_latents(near)
    pairs = [(a.indices, b.indices) for a, b in zip(latents, others, strict=True)]
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(latents[0].encoded, others[0].encoded)
    assert torch.equal(first, second)


def test_output_is_a_function_of_the_indices_at_depth_one() -> None:
    model = make().eval()
    with torch.inference_mode():
        purified, latents = model.purify_with_latents(images())
        assert latents[0].indices is not None
        features = F.embedding(latents[0].indices, codebook(model, 1)).movedim(-1, 1)
        assert torch.equal(features, latents[0].quantized)
        levels = model.encode(images())
        deeper = model._quantize(2, model.encoders[1](features))
        assert torch.equal(model.decode([levels[0]._replace(output=features), deeper]), purified)


def test_a_deeper_codebook_never_changes_indices_at_depth_one() -> None:
    model = make().eval()
    with torch.no_grad():
        before = model.encode(images())
        codebook(model, 2).mul_(-3)
        after = model.encode(images())
    assert before[0].indices is not None
    assert after[0].indices is not None
    assert torch.equal(before[0].indices, after[0].indices)
    assert not torch.equal(before[1].output, after[1].output)


def test_levels_left_out_are_not_quantized() -> None:
    _, latents = make(vq_levels=[1]).purify_with_latents(images())
    assert [latent.codebook_size for latent in latents] == [16, None]
    assert torch.equal(latents[1].encoded, latents[1].quantized)


def test_initial_codes_are_encodings_and_running_statistics_stay() -> None:
    torch.manual_seed(0)
    model = vqunet.VQUNet(vqunet.Config(depth=2, base_width=4, codebook_size=16), SHAPE)
    state = copy.deepcopy(model.state_dict())
    model.initialize(images(8), seeded())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"quantizers.1.codebook", "quantizers.2.codebook"}
    assert all(module.training for module in model.modules())
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    levels = model.encode(images(8))  # train mode, so the same batch statistics; only the order of images may differ
    for depth, level in enumerate(levels, start=1):
        assert distance_to_nearest(codebook(model, depth), as_vectors(level.encoded)) < 1e-4


def test_initial_codes_repeat_with_the_generator() -> None:
    assert torch.equal(codebook(make(), 2), codebook(make(), 2))


def test_uniform_codes_are_left_alone() -> None:
    model = make(codebook_init="uniform")
    assert codebook(model, 1).abs().max() <= 0.05


def test_data_initialization_uses_a_third_of_the_codes_or_more() -> None:
    indices = make(codebook_size=32).encode(images(16, seed=3))[0].indices
    assert indices is not None
    assert usage(indices, 32)[1] > 1 / 3


def test_bfloat16_autocast_keeps_codes_and_losses_in_float32() -> None:
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.training_loss(images(), images(), seeded())
        level = model.encode(images())[0]
    assert all(term.dtype == torch.float32 and math.isfinite(term.item()) for term in terms.values())
    assert level.codes.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(model, terms["loss"]).values())


def test_a_batchs_perplexity_is_that_of_its_indices_and_stays_a_tensor() -> None:
    indices = torch.tensor([[[0, 0], [1, 2]], [[2, 2], [2, 1]]])
    perplexity = batch_perplexity(indices, 5)
    assert perplexity.item() == pytest.approx(usage(indices, 5)[0], rel=1e-6)
    assert batch_perplexity(torch.zeros(3, 4, dtype=torch.int64), 5).item() == pytest.approx(1.0)
