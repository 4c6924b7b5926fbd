"""A real search of some seconds, made once per test session: five proposals, one rung, a Pareto set, 20 images."""

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tiny_sweep import SIZES, invoke
from typer.testing import Result

SPACE = '''
"""One codebook and a learning rate; a learning rate above one hundred diverges."""

OBJECTIVES = {"robust_score": "max", "clean": "max"}
BUDGET = {"trials": 5}
SAMPLER = "random"
SCHEDULER = "halving"
RUNGS = (1,)
REDUCTION = 2
FIRST = [{"codebook_size/1": 8, "learning_rate": 4e-3}]

_SHORT = {"num_epochs": 2, "retrain": "none", "target/training/num_epochs": 1, "base_width": 2, "depth": 1}


def suggest(trial):
    trial.suggest_int("codebook_size/1", 4, 16, log=True)
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    return _SHORT
'''


class Searched(NamedTuple):
    """Where the search lies, and what the command said."""

    root: Path
    space: Path
    result: Result


def search(space: Path, root: Path, *words: object) -> Result:
    """Run a search in this process."""
    return invoke("run", space, "--inline", "--results", root, "--epsilons", "0.1", *SIZES, *words)


@cache
def tiny_search() -> Searched:
    folder = Path(tempfile.mkdtemp(prefix="sweeper-tests-"))
    space = folder / "tiny.py"
    space.write_text(SPACE)
    return Searched(folder / "results", space, search(space, folder / "results"))
