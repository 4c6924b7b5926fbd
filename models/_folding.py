"""Fold batch normalization into the convolution before it, in a network that is only evaluated and attacked.

The same function up to float rounding, with one operation less forward and backward: measured 0.78-0.82 instead of 0.93-1.16 ms per image and input
gradient of a small VQUNet before a WRN-10-1 (one core).
"""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

VERSION = 1


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold, in place, every BatchNorm2d that follows a convolution within an nn.Sequential; return the module.

    Raises:
        ValueError: If the module is in training mode, where the statistics are the batch's.
    """
    if module.training:
        raise ValueError("batch normalization can only be folded in eval mode")
    for part in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for position in range(len(part) - 1):
            convolution, normalization = part[position], part[position + 1]
            if isinstance(normalization, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d):
                is_transposed = isinstance(convolution, nn.ConvTranspose2d)
                part[position] = fuse_conv_bn_eval(convolution, normalization, transpose=is_transposed)
                part[position + 1] = nn.Identity().eval()
    return module
