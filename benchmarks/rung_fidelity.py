"""Does a rung foretell the end? Random trials of a search space, each run at every rung and at full length; Spearman's correlation of both.

    OMP_NUM_THREADS=1 python benchmarks/rung_fidelity.py [SPACE] --trials 17 --epochs 2,3,5 --results ROOT

An hour or so on one core for the default on digits: nothing is stopped. Running again continues.
"""

import argparse
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

from sweeper.cli import app
from sweeper.lookup import find
from sweeper.results import Results
from sweeper.search import engine
from sweeper.search.stored import read_search


def main() -> None:
    """Run what is missing, and print a row per rung and objective."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space", nargs="?", default="search")
    parser.add_argument("--trials", type=int, default=17)
    parser.add_argument("--epochs", default="2,3,5")
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    engine.promotable = lambda reached, gone_on, **_: [number for number in reached if number not in gone_on]  # everything goes on
    text = Path(str(find("search_spaces", asked.space).__file__)).read_text(encoding="utf-8")
    space = Path(tempfile.mkdtemp(prefix="sweeper-rungs-")) / "rungs.py"
    space.write_text(f"{text}\n\nRUNGS = ({asked.epochs},)\nCONSTRAINTS = []\nSCHEDULER = 'halving'\n")
    words = ["run", str(space), "--inline", "--results", str(asked.results), "--trials", str(asked.trials), "--sampler", "random"]
    app(words, standalone_mode=False)
    search = read_search(Results(asked.results), "rungs")
    done = [trial for trial in search.trials if trial.state == "completed" and trial.figures is not None]
    for epochs in map(int, asked.epochs.split(",")):
        for objective in search.objectives:
            pairs = [(trial.rungs[epochs][objective.column], (trial.figures or {})[objective.column]) for trial in done if epochs in trial.rungs]
            found = spearmanr([rung for rung, _ in pairs], [end for _, end in pairs])
            print(f"{epochs} epochs, {objective.column}: {found.statistic:.2f} (n = {len(pairs)}, p {found.pvalue:.2g})")


if __name__ == "__main__":
    main()
