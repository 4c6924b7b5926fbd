"""Run ablations and searches of purifying defenses, and read how robust each one is.

`models`, `attacks` and `search_spaces` are common folder names, so before anything else is imported ours are put in place
(`lookup.claim_packages`): `python -m sweeper` then works from a folder that has a `models/` of its own.
"""

from os import PathLike
from typing import TYPE_CHECKING

from sweeper.lookup import claim_packages

if TYPE_CHECKING:
    import torch

    from sweeper.exported import ExportedDefense

claim_packages()


def load_defense(path: str | PathLike[str], *, device: "str | torch.device" = "cpu") -> "ExportedDefense":
    """Return the defense that `python -m sweeper export TRIAL --to DIR` wrote: images in [0, 1] to logits. See `exported.load_defense`."""
    from sweeper.exported import load_defense as load  # torch, which the commands that only read tables do without

    return load(path, device=device)
