"""The networks of CycleGAN and its image pool, for `defense_cyclegan`. Images here are signed: in [-1, 1].

Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", 2017 (arXiv:1703.10593),
section 4 and appendix, with the settings of its authors' code, junyanz/pytorch-CycleGAN-and-pix2pix: instance normalization without
weights of its own, convolutions with biases also before it (it removes them), weights from N(0, 0.02²).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = 1


class Generator(nn.Sequential):
    """Maps images (N, C, H, W) in [-1, 1] to images of the same shape and range; H and W are divisible by 4.

    A 7×7 convolution, two halvings, num_blocks residual blocks, two doublings, a 7×7 convolution and tanh. Convolutions
    of 7×7 and of the blocks are padded by reflection.
    """

    def __init__(self, channels: int, width: int, num_blocks: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect"),
            *_norm_relu(width),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            *_norm_relu(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            *_norm_relu(4 * width),
            *(_Block(4 * width) for _ in range(num_blocks)),
            nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, output_padding=1),
            *_norm_relu(2 * width),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1),
            *_norm_relu(width),
            nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        _initialize(self)

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return output.to(torch.promote_types(output.dtype, torch.float32))  # float32 also under autocast


class PatchDiscriminator(nn.Sequential):
    """Maps images (N, C, H, W) in [-1, 1] to one score per overlapping patch, (N, 1, h, w): 1 is real, 0 is made.

    Isola et al., 2017 (arXiv:1611.07004): num_layers 4×4 convolutions of stride 2, two of stride 1, leaky ReLU of 0.2. On
    32×32 images, 1, 2, 3 layers give 14×14, 6×6, 2×2 scores of 16, 34, 70 pixels each.
    """

    def __init__(self, channels: int, width: int, num_layers: int) -> None:
        widths = [width * min(2**layer, 8) for layer in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for layer in range(1, num_layers + 1):
            stride = 2 if layer < num_layers else 1
            convolution = nn.Conv2d(widths[layer - 1], widths[layer], 4, stride, 1)
            layers += [convolution, nn.InstanceNorm2d(widths[layer]), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        _initialize(self)


def least_squares(scores: Tensor, is_real: bool) -> Tensor:
    """Return the mean squared distance of scores to 1 (real) or 0 (made); Mao et al., 2017 (arXiv:1611.04076)."""
    return F.mse_loss(scores, torch.full_like(scores, float(is_real)))


class ImagePool(nn.Module):
    """Keeps the last made images of a domain, so that a discriminator also sees old ones (Shrivastava et al., 2017).

    Its images and their count are buffers: a training that continues from the state dict continues bit for bit.

    Args:
        size: Number of images kept; 0 hands every image through.
        image_shape: (C, H, W).
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *image_shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (N, C, H, W), each handed through, or kept in exchange for one that was kept before.

        As long as the pool has room, an image is kept and handed through. Afterwards a coin decides for each image, in
        their order, so that an image may come out that came in with the same batch.

        Args:
            images: Made images, without gradient.
            generator: Draws the coins and the places, on the images' device.
        """
        size, number, device = len(self.images), len(images), images.device
        if size == 0:
            return images
        order = torch.arange(number, device=device)
        is_kept_first = self.count + order < size
        is_exchanged = (torch.rand(number, generator=generator, device=device) > 0.5) & ~is_kept_first
        drawn = torch.randint(size, (number,), generator=generator, device=device)
        place = torch.where(is_kept_first, self.count + order, drawn)
        # All at once instead of image by image, so that a GPU is never waited for. Rows are of `known`, the pool and then
        # the batch; the last image before i that was put into i's place is what i finds there.
        known = torch.cat([self.images, images])
        is_put = is_kept_first | is_exchanged
        is_before = (place[:, None] == place) & is_put & (order < order[:, None])  # (N, N): row i, earlier image j
        found = _last(is_before, order, size, otherwise=place)
        result = known[torch.where(is_exchanged, found, size + order)]
        places = torch.arange(size, device=device)
        self.images.copy_(known[_last((places[:, None] == place) & is_put, order, size, otherwise=places)])
        self.count.copy_((self.count + number).clamp(max=size))
        return result


def _last(holds: Tensor, order: Tensor, size: int, otherwise: Tensor) -> Tensor:
    """Return, for each row of holds (R, N), size + the last column that is true, or `otherwise` (R,) where none is."""
    last = torch.where(holds, order, -1).amax(1)
    return torch.where(last >= 0, size + last, otherwise)


class _Block(nn.Module):
    """Residual block: features + norm(conv(relu(norm(conv(features)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            *_norm_relu(channels),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.residual(features)


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
