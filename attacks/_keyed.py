"""Randomness that belongs to an image, not to its place in a batch.

The noise of an image depends on (image key, attack, epsilon, restart) and on nothing else: not on the batch size, the
order, the shard, the device or what ran before. It comes from Philox, a counter-based generator (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011), read as raw bits, which numpy keeps stable between versions.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

VERSION = 1


def sample_keys(seed: int, sample_ids: Sequence[str]) -> Tensor:
    """Return one key per image, int64 (N,): a hash of the seed and the image's id."""
    keys = [_digest(8, "image", str(seed), sample_id) for sample_id in sample_ids]
    return torch.tensor([int.from_bytes(key, "little", signed=True) for key in keys], dtype=torch.int64)


def uniform_noise(keys: Tensor, image_shape: Sequence[int], *, attack: str, epsilon: float, restart: int = 0) -> Tensor:
    """Return noise uniform in [-epsilon, epsilon], float32 (N, C, H, W) on the CPU, one image per key.

    Args:
        keys: One key per image, int64 (N,); see ``sample_keys``.
        image_shape: (C, H, W). Pixels are drawn in this order whatever the memory format.
        attack: Name of the attack, so that two attacks do not start at the same points.
        epsilon: Radius in [0, 1] pixel units. Values equal in float32 give equal noise.
        restart: Counts from 0.
    """
    num_pixels = math.prod(image_shape)
    noise = np.empty((len(keys), num_pixels), dtype=np.float32)
    for row, key in enumerate(keys.tolist()):
        digest = _digest(16, "noise", str(key), attack, canonical_epsilon(epsilon), str(restart))
        words = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw((num_pixels + 1) // 2)
        bits = words.astype("<u8").view("<u4")[:num_pixels] >> 8  # 24 bits fill a float32 in [0, 1) exactly
        noise[row] = bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return torch.from_numpy(noise).mul_(epsilon).view(len(keys), *image_shape)


def seed_of_batch(keys: Tensor, *, attack: str, epsilon: float) -> int:
    """Return a seed in [0, 2**31) for an engine that draws for a whole batch at once; it depends on the keys' order."""
    digest = _digest(8, "batch", attack, canonical_epsilon(epsilon), *(str(key) for key in keys.tolist()))
    return int.from_bytes(digest, "little") % 2**31


def canonical_epsilon(epsilon: float) -> str:
    """Return epsilon rounded to float32, in hexadecimal: equal for 0.1 and for the 0.1 read back from a table."""
    return float(np.float32(epsilon) + np.float32(0.0)).hex()  # + 0.0 makes -0.0 positive


def _digest(size: int, *parts: str) -> bytes:
    # a length before each part, so that ("1", "23") and ("12", "3") differ
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()
