"""Where and with what a result was computed: columns of `trials` and `runs`."""

import json
import platform
import resource
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from sweeper.source_tree import code_hash, commit_here
from sweeper.submitted import commit_of_same_code

ALIKE = ("sweeper", "torch", "ray", "numpy", "torchattacks")  # what every machine of a sweep has in one version
LIBRARIES = ("sweeper", "torch", "ray", "torchattacks", "numpy", "pyarrow")


def provenance(device: torch.device) -> dict[str, Any]:
    """Return host, device, git commit, library versions and the code's hash (JSON) and the peak memory of this process in bytes."""
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        name, memory = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = json.dumps({**{library: version(library) for library in LIBRARIES}, "code": code_hash()}, sort_keys=True)
    return {"host": socket.gethostname(), "device": name, "memory_bytes": memory, "git_commit": git_commit(), "versions": versions}


def git_commit() -> str | None:
    """Return the commit of the source tree, with `+` where it has uncommitted changes.

    Outside a repository, as on the machines of a cluster, that of the machine which the run was submitted from, if its code is the same; else None.
    """
    return commit_here() or commit_of_same_code()


@cache
def identity() -> dict[str, str]:
    """Return what every machine of a sweep must have alike: Python up to its minor version, libraries, and a hash of the code, which keys do not see.

    A library's local version (`+cu124`, `+cpu`: which device a build is for) is left away.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2]), **{library: version(library).partition("+")[0] for library in ALIKE}}
    return {**found, "code": code_hash()}


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Return in words how what a machine has differs from what is expected, None if it does not."""
    unlike = [f"{name} {found.get(name, 'missing')} instead of {value}" for name, value in expected.items() if found.get(name) != value]
    return ", ".join(unlike) or None
