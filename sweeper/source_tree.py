"""The code that is here: a hash of all of it, which says what runs where keys do not, of each file, and the commit it is of. Imports no torch."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from sweeper.lookup import ROOT

CODE = ("sweeper", "models", "attacks")
SPACES = "search_spaces"  # not in the code's hash: a sweep needs its own alone, and its trials say what came of it


@cache
def code_hash() -> str:
    """Return the first 12 hexadecimal digits of a hash of the code, which keys do not see."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def file_hashes() -> dict[str, str]:
    """Return path -> hash of each file of the code, and of each search space that comes with it."""
    paths = sorted(path for folder in (*CODE, SPACES) for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in paths}


@cache
def commit_here() -> str | None:
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
