"""Where and with what a result was computed: columns of `trials` and `attempts`."""

import hashlib
import json
import platform
import resource
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sweeper.lookup import ROOT

ALIKE = ("sweeper", "torch", "ray", "numpy", "torchattacks")  # what every machine of a sweep has in one version
CODE = ("sweeper", "models", "attacks")
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


@cache
def identity() -> dict[str, str]:
    """Return what every machine of a sweep must have alike: Python up to its minor version, libraries, and a hash of the code, which keys do not see.

    A library's local version (`+cu124`, `+cpu`: which device a build is for) is left away.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2]), **{library: version(library).partition("+")[0] for library in ALIKE}}
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return {**found, "code": digest.hexdigest()[:12]}


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Return in words how what a machine has differs from what is expected, None if it does not."""
    unlike = [f"{name} {found.get(name, 'missing')} instead of {value}" for name, value in expected.items() if found.get(name) != value]
    return ", ".join(unlike) or None


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
