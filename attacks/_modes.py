"""Make a model ready to be attacked, and leave it as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

VERSION = 1


@contextmanager
def ready_for_attack(model: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode and freeze every parameter while the block runs; restore both afterwards.

    Frozen parameters save the weight gradients (about a third of a step) and keep ``.grad`` untouched. The flags of
    submodules are set and restored one by one, because ``model.train()`` would switch on the ones found in eval mode.
    Gradients are enabled inside, also when the caller has disabled them or works in inference mode. Uses may nest.

    Raises:
        RuntimeError: If a buffer or parameter was changed or replaced inside (running statistics, a codebook's moving
            average), since the attacked model would then not be the one that was asked about. Seen through tensors'
            version counters, which costs nothing; only writes through ``.data`` escape them.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    state_before = _state_versions(model)
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
    _refuse_changes(state_before, _state_versions(model))


def _state_versions(model: nn.Module) -> dict[str, tuple[str, Tensor, int]]:
    """Return name -> (kind, tensor, version). Holding the tensor keeps its identity from being reused."""
    named = [("buffer", name, tensor) for name, tensor in model.named_buffers()]
    named += [("parameter", name, parameter) for name, parameter in model.named_parameters()]
    # inference tensors have no counter, and cannot be written to outside inference mode either
    return {name: (kind, tensor, 0 if tensor.is_inference() else tensor._version) for kind, name, tensor in named}


def _refuse_changes(before: dict[str, tuple[str, Tensor, int]], after: dict[str, tuple[str, Tensor, int]]) -> None:
    for name in before.keys() | after.keys():
        if name not in before or name not in after:
            change = "appeared" if name in after else "disappeared"
            kind = (after if name in after else before)[name][0]
        elif before[name][1] is not after[name][1] or before[name][2] != after[name][2]:
            kind, change = after[name][0], "changed"
        else:
            continue
        raise RuntimeError(
            f"{kind} {name!r} {change} during an attack; every update of a model's state must depend on self.training, "
            "or the attacked model is not the one that is scored"
        )
