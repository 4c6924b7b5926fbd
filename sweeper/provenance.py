"""Where and with what a result was computed: columns of `trials` and `attempts`."""

import json
import resource
import socket
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sweeper.lookup import ROOT

LIBRARIES = ("sweeper", "torch", "ray", "torchattacks", "numpy", "pyarrow")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return host, device, git commit, library versions (JSON) and the peak memory of this process in bytes."""
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        name, memory = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = json.dumps({library: version(library) for library in LIBRARIES}, sort_keys=True)
    return {"host": socket.gethostname(), "device": name, "memory_bytes": memory, "git_commit": git_commit(), "versions": versions}


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree, with `+` where it has uncommitted changes, or None where sweeper is installed outside a repository."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return None  # a repository around the virtual environment is not ours
        return _git("describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None  # an installed wheel has no repository, and that is a fact worth storing as such


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
