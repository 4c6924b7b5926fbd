"""The purifiers without training against SciPy, scikit-image, Pillow and values worked out by hand."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from models import bit_depth, gaussian_blur, jpeg, median_filter, total_variation


def images(channels: int = 3, height: int = 20, width: int = 14) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def apply(module: Any, data: Tensor, **options: Any) -> Tensor:
    return module.build(module.Config(**options), tuple(data.shape[1:]), 10)(data)


def smooth_images(channels: int = 3) -> Tensor:
    """Return images as a camera's: neighbouring pixels are alike."""
    return torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((2, channels, 32, 32)), (0, 0, 3, 3))).float()


def input_gradient(module: Any, data: Tensor, weights: Tensor, **options: Any) -> Tensor:
    leaf = data.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((apply(module, leaf, **options) * weights).sum(), leaf)
    return gradient


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_median_is_scipys(kernel_size: int) -> None:
    expected = ndimage.median_filter(images().numpy(), size=(1, 1, kernel_size, kernel_size), mode="reflect")
    assert np.array_equal(apply(median_filter, images(), kernel_size=kernel_size).numpy(), expected)


def test_median_removes_a_point_and_keeps_an_edge() -> None:
    edge = torch.zeros(1, 1, 6, 6)
    edge[..., 3:] = 1
    spotted = edge.clone()
    spotted[0, 0, 2, 1] = 1
    assert torch.equal(apply(median_filter, spotted), edge)


def test_median_gives_its_gradient_to_the_chosen_pixel_and_in_a_flat_region_to_the_pixel_itself() -> None:
    ramp = torch.arange(9.0).view(1, 1, 3, 3) / 8
    at_center = torch.zeros(1, 1, 3, 3)
    at_center[0, 0, 1, 1] = 1
    assert torch.equal(input_gradient(median_filter, ramp[..., [2, 0, 1]], at_center), (ramp[..., [2, 0, 1]] == 0.5).float())
    weights = images(1, 8, 8)
    gradient = input_gradient(median_filter, torch.full((2, 1, 8, 8), 0.5), weights)
    assert torch.equal(gradient[..., 1:-1, 1:-1], weights[..., 1:-1, 1:-1])


@pytest.mark.parametrize("sigma", [0.0, 0.5, 3.0, 12.0])
def test_gaussian_blur_is_scipys(sigma: float) -> None:
    expected = ndimage.gaussian_filter(images().double().numpy(), (0, 0, sigma, sigma), mode="reflect")
    torch.testing.assert_close(apply(gaussian_blur, images(), sigma=sigma), torch.from_numpy(expected).float(), atol=1e-6, rtol=0)


def test_gaussian_blur_keeps_the_mean() -> None:
    torch.testing.assert_close(apply(gaussian_blur, images(), sigma=2).mean((2, 3)), images().mean((2, 3)))


@pytest.mark.parametrize(("weight", "num_steps"), [(0.1, 50), (0.03, 1), (0.5, 7)])
def test_total_variation_takes_scikit_images_steps(weight: float, num_steps: int) -> None:
    data = images().double()
    # one iteration of theirs returns the image itself, and with eps 0 they do not stop early
    expected = [denoise_tv_chambolle(each.numpy(), weight, eps=0, max_num_iter=num_steps + 1, channel_axis=0) for each in data]
    output = apply(total_variation, data, weight=weight, num_steps=num_steps)
    np.testing.assert_allclose(output.numpy(), np.stack(expected), atol=1e-12)


def test_total_variation_moves_a_step_between_two_halves_by_hand() -> None:
    # 4 columns of 0 and 4 of 1: |u - x|² / 2 + w |jump| per row is least where each half moves by w / 4 to the other
    halves = torch.cat([torch.zeros(1, 1, 8, 4), torch.ones(1, 1, 8, 4)], dim=-1)
    output = apply(total_variation, halves, weight=0.2, num_steps=2000)
    torch.testing.assert_close(output, 0.05 + 0.9 * halves, atol=1e-3, rtol=0)


def test_total_variation_has_a_finite_gradient_on_flat_images() -> None:
    gradient = input_gradient(total_variation, torch.full((2, 1, 8, 8), 0.5), images(1, 8, 8))
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_one_bit_is_black_and_white_and_two_bits_are_thirds() -> None:
    data = torch.tensor([0.0, 0.1, 0.3, 0.49, 0.51, 0.7, 0.9, 1.0]).view(1, 1, 2, 4)
    assert apply(bit_depth, data, bits=1).flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(apply(bit_depth, data, bits=2).flatten() * 3, torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3]))


def test_eight_bits_change_no_image_of_a_file() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16) / 255
    torch.testing.assert_close(apply(bit_depth, levels, bits=8), levels, atol=1e-7, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("quality", "subsampling"), [(50, "4:2:0"), (90, "4:4:4")])
def test_jpeg_is_the_file_that_pillow_reads_back(channels: int, quality: int, subsampling: str) -> None:
    data = torch.randint(0, 256, (2, channels, 32, 24), generator=torch.Generator().manual_seed(0))
    output = apply(jpeg, data / 255, quality=quality, subsampling=subsampling)
    for pixels, result in zip(data.to(torch.uint8), output, strict=True):
        file = BytesIO()
        picture = Image.fromarray(pixels[0].numpy()) if channels == 1 else Image.merge("RGB", [Image.fromarray(each.numpy()) for each in pixels])
        picture.save(file, "JPEG", quality=quality, subsampling={"4:4:4": 0, "4:2:0": 2}[subsampling])
        assert np.array_equal(np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1), (result * 255).round().numpy())


def test_jpeg_of_higher_quality_is_nearer_to_the_image() -> None:
    errors = [float((apply(jpeg, smooth_images(), quality=quality) - smooth_images()).square().mean()) for quality in (10, 50, 90)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_jpeg_subsampling_loses_colours_but_no_gray() -> None:
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[:, 0, :, ::2], stripes[:, 2, :, 1::2] = 1, 1  # red and blue columns
    losses = [float((apply(jpeg, stripes, quality=95, subsampling=each) - stripes).abs().mean()) for each in ("4:2:0", "4:4:4")]
    assert losses[0] > 5 * losses[1]
    gray = smooth_images(1)
    assert torch.equal(apply(jpeg, gray, subsampling="4:2:0"), apply(jpeg, gray, subsampling="4:4:4"))


def test_jpeg_rounds_what_lies_outside_the_range_to_its_ends() -> None:
    outside = torch.cat([torch.full((1, 1, 8, 8), -0.1), torch.full((1, 1, 8, 8), 1.1)])
    assert torch.equal(apply(jpeg, outside), outside.clamp(0, 1))


@pytest.mark.parametrize("module", [jpeg, bit_depth])
def test_straight_through_filters_pass_the_gradient_unchanged(module: Any) -> None:
    weights = smooth_images()
    assert torch.equal(input_gradient(module, images(3, 32, 32), weights), weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("module", [jpeg, bit_depth, median_filter, gaussian_blur, total_variation])
def test_filters_give_the_same_on_a_gpu(module: Any) -> None:
    model = module.build(module.Config(), (3, 32, 32), 10)
    data = images(3, 32, 32)
    torch.testing.assert_close(model.to("cuda")(data.cuda()).cpu(), model.cpu()(data), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (jpeg.Config, {"quality": 96}, "quality must be a whole number from 1 to 95, got 96"),
        (jpeg.Config, {"quality": 0}, "quality must be a whole number of at least 1, got 0"),
        (jpeg.Config, {"subsampling": "4:2:2"}, "subsampling must be one of 4:2:0, 4:4:4, got '4:2:2'"),
        (bit_depth.Config, {"bits": 9}, "bits must be a whole number from 1 to 8, got 9"),
        (median_filter.Config, {"kernel_size": 0}, "kernel_size must be a whole number of at least 1, got 0"),
        (gaussian_blur.Config, {"sigma": -1}, "sigma must be a number of at least 0 and below 100, got -1"),
        (gaussian_blur.Config, {"sigma": float("nan")}, "sigma must be a number"),
        (total_variation.Config, {"weight": 0}, "weight must be above 0, got 0"),
        (total_variation.Config, {"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_setting_is_named_in_the_error(config: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_images_that_do_not_fit_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="jpeg needs images of 1 or 3 channels, got 2"):
        jpeg.build(jpeg.Config(), (2, 32, 32), 10)
    with pytest.raises(ValueError, match="kernel_size must be at most 9 for 4 pixels, got 10"):
        median_filter.build(median_filter.Config(10), (1, 4, 8), 10)
