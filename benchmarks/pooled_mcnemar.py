"""How often does a test find a difference between two settings that are identical? Why McNemar's test is never pooled over seeds.

    python benchmarks/pooled_mcnemar.py [--repetitions 10000] [--seed-std 0.12] [--images 240 1000]

Two settings with one true accuracy of 0.5, each trained with three seeds; a seed moves the trained network's accuracy by a normal deviate of
--seed-std, and an image is then right or wrong by itself. Every test is at 5 %, so a sound one finds a difference in 5 % of the repetitions.

The bootstrap's 95 % interval of three seeds ends at the least and the greatest difference, since drawing one of them three times has probability
1/27 > 2.5 %. So it excludes 0 whenever the three have one sign, which is in 1 of 4 repetitions, whatever the data.
"""

import argparse
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sweeper.statistics import mcnemar, t_test

LEVEL = 0.05
SEEDS = 3
DRAWS = np.array(list(product(range(SEEDS), repeat=SEEDS)))  # every bootstrap sample of three seeds, all equally likely


def found(outcomes: NDArray[np.bool_]) -> dict[str, bool]:
    """Return which tests find a difference in outcomes, bool (2 settings, 3 seeds, N images)."""
    first, second = outcomes
    differences = second.mean(axis=1) - first.mean(axis=1)
    low, high = np.quantile(differences[DRAWS].mean(axis=1), [LEVEL / 2, 1 - LEVEL / 2], method="inverted_cdf")
    return {
        "McNemar, one seed": mcnemar(first[0], second[0])[2] < LEVEL,
        "McNemar, three seeds pooled": mcnemar(first.ravel(), second.ravel())[2] < LEVEL,
        "bootstrap of three seeds": bool(low > 0 or high < 0),
        "paired t test over three seeds": t_test(differences) < LEVEL,
    }


def rates(repetitions: int, seed_std: float, images: int, generator: np.random.Generator) -> dict[str, float]:
    """Return test -> share of the repetitions in which it finds a difference that is not there."""
    counts: dict[str, int] = {}
    for _ in range(repetitions):
        accuracy = np.clip(0.5 + seed_std * generator.standard_normal((2, SEEDS, 1)), 0, 1)
        for name, is_found in found(generator.random((2, SEEDS, images)) < accuracy).items():
            counts[name] = counts.get(name, 0) + is_found
    return {name: count / repetitions for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10_000)
    parser.add_argument("--seed-std", type=float, default=0.12, help="of a setting's accuracy over its training seeds")
    parser.add_argument("--images", type=int, nargs="+", default=[240, 1000])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = np.random.default_rng(args.seed)
    print(f"differences found between identical settings at a nominal 5 %, {args.repetitions} repetitions, seed standard deviation {args.seed_std:g}")
    for images in args.images:
        for name, rate in rates(args.repetitions, args.seed_std, images, generator).items():
            margin = 1.96 * (rate * (1 - rate) / args.repetitions) ** 0.5
            print(f"{images:5d} images  {name:31s} {100 * rate:5.1f} % ± {100 * margin:.1f}")


if __name__ == "__main__":
    main()
