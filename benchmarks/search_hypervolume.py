"""Does a search find a better front than trying settings at random, for the same cost? By each sampler, with and without a rung.

    python benchmarks/search_hypervolume.py [--seeds 30] [--trials 40] [--rung-cost 8]

The space of `search_spaces/search.py` with the search of the program (`sweeper/search/`), over figures that are invented: `stand_in.py` says how. So
it says what the search can do, and nothing about VQUNet. Two workers take turns on a clock of their own; a run takes as long as it costs, in epochs
with its scoring: 24 at full length, 8 at the rung. A search is worth the hypervolume of its feasible front: points of robust_score times points of
clean accuracy above the worst that is feasible, robust_score 0 and clean 1 point below the target's. Searches of one seed are compared with each
other; intervals are Student's, over seeds. With the rung a search gets as many trials as cost the same, and the same number again.

Exit status 1 unless TPE is above random search at full length, the whole interval. About two minutes on one core.
"""

import argparse
import heapq
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stand_in import RUNG_COST, TARGET_CLEAN, WHOLE_COST, figures

from sweeper.lookup import find
from sweeper.search.engine import Search, Step, Work
from sweeper.search.space import SearchSpace, read_space
from sweeper.statistics import over_seeds

SAMPLERS = ("random", "quasi_random", "nsga2", "tpe")
WORKERS = 2
WORST = (0.0, TARGET_CLEAN / 100 - 0.01)
FIRST_SEED = 100  # the tests have those from 0 on
GO_ON = 0.45  # of the trials at the rung, measured; promotion does not wait, so more than one in three


class Found(NamedTuple):
    """What a search came to: points squared, epochs paid, trials proposed and run at full length."""

    hypervolume: float
    epochs: int
    trials: int
    whole: int


def hypervolume(points: Sequence[Sequence[float]], worst: Sequence[float]) -> float:
    """Return the area that points dominate above the worst one, more being better in both; 0 for those that are not above it."""
    area, reached = 0.0, worst[1]
    for first, second in sorted(points, reverse=True):
        if first > worst[0] and second > reached:
            area += (first - worst[0]) * (second - reached)
            reached = second
    return area


def stand_in_space(**over: Any) -> SearchSpace:
    """Return the space of `search_spaces/search.py`, with other settings of the search over its own."""
    return read_space("search", find("search_spaces", "search"), **over)


def steps_of(space: SearchSpace) -> Callable[[Mapping[str, Any], int], list[Step]]:
    """Return what makes a proposal's runs: one per rung, and the whole trial."""

    def steps(settings: Mapping[str, Any], number: int) -> list[Step]:
        words = json.dumps(dict(settings), sort_keys=True)
        rungs = range(len(space.rungs)) if space.scheduler != "none" else ()
        return [*(Step(rung, (words, str(rung)), settings) for rung in rungs), Step(None, (words, "whole"), settings)]

    return steps


def run(space: SearchSpace, rung_cost: int = RUNG_COST) -> Found:
    """Run a search to its end, two steps at a time, each as long as it costs."""
    search = Search(space, steps_of(space))
    running: list[tuple[int, int, Work]] = []  # when it ends, its place among all runs
    now = epochs = begun = 0
    while True:
        while len(running) < WORKERS and (work := search.next()) is not None:
            cost = WHOLE_COST if work.step.rung is None else rung_cost
            heapq.heappush(running, (now + cost, begun, work))
            epochs, begun = epochs + cost, begun + 1
        if not running:
            break
        now, _, work = heapq.heappop(running)
        search.ended(work, figures(work.step.run, is_rung=work.step.rung is not None))
    completed = [standing.figures for standing in search.standings if standing.figures is not None]
    points = [search.objectives(one) for one in completed if search.is_feasible(one)]
    return Found(1e4 * hypervolume(points, WORST), epochs, len(search.standings), len(completed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, default=40, help="at full length")
    parser.add_argument("--rung-cost", type=int, default=RUNG_COST, help="in epochs, scoring included")
    args = parser.parse_args()
    logging.getLogger("optuna").setLevel(logging.ERROR)  # that a Sobol sequence has no conditions, once per search
    same_cost = round(args.trials * WHOLE_COST / (args.rung_cost + GO_ON * WHOLE_COST))
    print("| sampler | scheduler | trials | at full length | epochs | hypervolume | against random | against random, same scheduler |")
    print("|---|---|---|---|---|---|---|---|")
    worth: dict[tuple[str, int, str], list[float]] = {}
    for scheduler, trials in (("none", args.trials), ("halving", same_cost), ("halving", args.trials)):
        for sampler in SAMPLERS:
            over = {"sampler": sampler, "scheduler": scheduler, "trials": trials}
            found = [run(stand_in_space(**over, seed=FIRST_SEED + seed), args.rung_cost) for seed in range(args.seeds)]
            mine = worth[scheduler, trials, sampler] = [one.hypervolume for one in found]
            against = [difference(mine, worth[at]) for at in (("none", args.trials, "random"), (scheduler, trials, "random"))]
            whole, epochs = (sum(numbers) / args.seeds for numbers in ([one.whole for one in found], [one.epochs for one in found]))
            print(
                f"| {sampler} | {scheduler} | {trials} | {whole:.1f} | {epochs:.0f} | {sum(mine) / args.seeds:.1f} | {' | '.join(against)} |",
                flush=True,
            )
    gain = over_seeds(_differences(worth["none", args.trials, "tpe"], worth["none", args.trials, "random"]))
    print(f"\n{args.seeds} seeds; TPE at full length finds {gain.mean:+.1f} more than random search (bound: the interval is above 0)")
    return 0 if gain.low is not None and gain.low > 0 else 1


def difference(mine: Sequence[float], random: Sequence[float]) -> str:
    """Return the mean difference with its interval, and in how many searches it is above 0."""
    differences = _differences(mine, random)
    if not any(differences):
        return ""
    found = over_seeds(differences)
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}], above in {sum(one > 0 for one in differences)}"


def _differences(mine: Sequence[float], random: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(mine, random, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
