"""How much memory a piece of work needed at its most, in a process that does one after the other."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

CONTEXT = 512 * 2**20  # bytes of GPU memory that a process takes beside its tensors: CUDA's context and kernels


@dataclass(frozen=True)
class Peak:
    """The most host and GPU memory that a piece of work had at once, and the memory of its GPU (0 without one), in bytes."""

    host_bytes: int
    gpu_bytes: int = 0
    gpu_total_bytes: int = 0


def reset_peak() -> None:
    """Begin to measure; where the system cannot (it is not Linux), the peak is that of the process so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the resident size's high-water mark: proc(5); getrusage reads the same mark
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak() -> Peak:
    """Return the peak since `reset_peak`."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if not torch.cuda.is_available():
        return Peak(host)
    return Peak(host, torch.cuda.max_memory_reserved() + CONTEXT, torch.cuda.get_device_properties(0).total_memory)
