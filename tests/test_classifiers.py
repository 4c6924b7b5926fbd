"""The classifiers' sizes are those of their papers and reference code, and normalization sits inside them."""

from typing import Any

import pytest
import torch

from models import densenet, wide_resnet


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "channels", "expected"),
    [
        (28, 10, 3, 36_479_194),
        (28, 10, 1, 36_478_906),
        (16, 4, 3, 2_748_890),
        (16, 8, 3, 10_961_370),
        (28, 2, 3, 1_467_610),
        (34, 10, 3, 46_160_474),
        (40, 2, 3, 2_243_546),
        (40, 4, 3, 8_949_210),
    ],
)
def test_wide_resnet_parameters_are_the_published_number(depth: int, width: int, channels: int, expected: int) -> None:
    with torch.device("meta"):
        model = wide_resnet.build(wide_resnet.Config(depth, width), (channels, 32, 32), 10)
    assert num_parameters(model) == expected


BC = {"bottleneck": True, "compression": 0.5}


@pytest.mark.parametrize(
    ("options", "color", "gray"),
    [
        ({}, 1_019_722, 1_019_434),  # plain-40-12
        ({"depth": 100, **BC}, 769_162, 768_730),
        ({"depth": 40, **BC}, 176_122, None),
        ({"depth": 64, **BC}, 368_122, None),
        ({"depth": 40, "growth": 24, **BC}, 690_346, None),
        ({"depth": 76, "growth": 16, **BC}, 857_258, None),
        ({"depth": 100}, 6_979_642, None),
        ({"depth": 40, "stem": 24}, 1_059_298, None),
        ({"block_layers": [6, 12, 24, 16], "growth": 32, **BC}, 6_956_298, None),  # DenseNet-121
    ],
)
def test_densenet_parameters_are_the_published_number(options: dict[str, Any], color: int, gray: int | None) -> None:
    config = densenet.Config(**options)
    with torch.device("meta"):
        assert num_parameters(densenet.build(config, (3, 32, 32), 10)) == color
        assert gray is None or num_parameters(densenet.build(config, (1, 32, 32), 10)) == gray


@pytest.mark.parametrize("module", [wide_resnet, densenet], ids=["wide_resnet", "densenet"])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_any_stem_stride_gives_logits(module: Any, stem_stride: int) -> None:
    model = module.build(module.Config(depth=10, stem_stride=stem_stride), (1, 16, 16), 7)
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize("module", [wide_resnet, densenet], ids=["wide_resnet", "densenet"])
def test_classifier_undoes_a_change_of_brightness_and_contrast(module: Any) -> None:
    torch.manual_seed(0)
    model = module.build(module.Config(depth=10), (3, 16, 16), 10).eval()
    images = torch.rand(8, 3, 16, 16)
    darker = 0.1 + 0.5 * images
    model.initialize(images, torch.Generator())
    expected = model(images)
    model.initialize(darker, torch.Generator())
    torch.testing.assert_close(model(darker), expected, atol=1e-3, rtol=1e-3)
    assert {"normalization.mean", "normalization.std"} <= model.state_dict().keys()


def test_normalization_has_mean_zero_and_deviation_one_and_centers_a_constant_channel() -> None:
    model = wide_resnet.WideResNet(wide_resnet.Config(10, 1), 2, 10)
    images = torch.rand(16, 2, 8, 8)
    images[:, 1] = 0.25
    model.initialize(images, torch.Generator())
    normalized = model.normalization(images)
    assert normalized[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert normalized[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert normalized[:, 1].abs().max() < 1e-6


def test_dropout_acts_in_training_only() -> None:
    model = wide_resnet.build(wide_resnet.Config(10, 1, dropout=0.5), (1, 16, 16), 10)
    images = torch.rand(4, 1, 16, 16)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (wide_resnet.Config, {"depth": 27}, r"depth must be 6 n \+ 4 \(10, 16, 22, 28, …\), got 27"),
        (wide_resnet.Config, {"width": 0}, "width must be a whole number of at least 1, got 0"),
        (wide_resnet.Config, {"dropout": 1}, "dropout must be a number of at least 0 and below 1, got 1"),
        (densenet.Config, {"depth": 41}, r"depth must be 3 n \+ 4 with bottleneck=False, got 41"),
        (densenet.Config, {"depth": 43, "bottleneck": True}, r"depth must be 6 n \+ 4 with bottleneck=True, got 43"),
        (densenet.Config, {"compression": 0}, r"compression must lie in \(0, 1\], got 0"),
        (densenet.Config, {"compression": 1.5}, r"compression must lie in \(0, 1\], got 1.5"),
        (densenet.Config, {"block_layers": [2, 0]}, "every entry of block_layers must be a whole number"),
        (densenet.Config, {"depth": 40, "block_layers": [6, 12]}, "make depth 21, got depth 40; leave one of them out"),
    ],
)
def test_wrong_setting_is_named_in_the_error(config: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_one_densenet_has_one_spelling() -> None:
    assert densenet.Config() == densenet.Config(depth=40) == densenet.Config(block_layers=(12, 12, 12))
    large = densenet.Config(block_layers=(6, 12, 24, 16), growth=32, bottleneck=True, compression=0.5)
    assert large.depth == 121
    assert large.layers == (6, 12, 24, 16)


def test_image_too_small_for_the_blocks_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="3 blocks with stem_stride 2 need 8 pixels a side, got 4x4"):
        densenet.build(densenet.Config(depth=10, stem_stride=2), (1, 4, 4), 10)
