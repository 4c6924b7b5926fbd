"""Do our AutoAttack parts break the same images as other people's code? APGD-CE, targeted APGD and Square on adversarially trained nets.

    python benchmarks/independent_attacks.py [--images 200] [--epsilons 0.1 0.15 0.2] [--seeds 3] [--queries 5000]

Needs one of these beside the project's own packages, and compares with what is there:

    pyautoattack==0.2.0                                        the authors' code (fra31/auto-attack), repackaged
    adversarial-robustness-toolbox==1.20.1, six==1.17.0        ART, written anew; it has no targeted APGD on the DLR loss

Ours (`attacks/_autoattack.py`, run by `attacks._white_box.ascend_with` at each epsilon by itself) wraps torchattacks, which came from the authors'
code. So pyautoattack tells whether settings, wrapper and scoring are right, and ART whether the algorithm is. Both sides attack the same network and
images with 100 steps, 9 targets and the same number of queries, from random starts of their own; the other side's images are scored here.

`ours again` is our side from other random starts: how often two runs of one attack disagree. It is shown and not tested. Tested by McNemar's exact
test are each attack, epsilon and seed of the network, and each attack over all of them (on one checkpoint two equal attacks fall on either side like
a fair coin, so these may be pooled); Holm over all tests. One image's outcome does not depend on another's but for Square, which draws one window
for a whole batch: with few queries its p is much too small (at 20, runs of one side differ by 2.3 points of 200 images, standard deviation), with
hundreds about right. What this cannot show is a fault that both sides have: no Square here ever changes the last row and column (see
`attacks/_autoattack.py`). `--our-steps` and `--our-queries` weaken our side alone: would the comparison notice?

Exit status: 0 no difference, 1 some at 5 % after Holm, 2 nothing to compare with, or another side failed (it is named, and the rest goes on).
"""

import argparse
import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from attacks._autoattack import load
from attacks._inner import Adversary
from attacks._keyed import sample_keys
from attacks._white_box import ascend_with, refuse_outside
from sweeper import datasets
from sweeper.datasets import Split, stratified_indices
from sweeper.statistics import holm, mcnemar

LEVEL = 0.05
NUM_STEPS = 100
TRAINED_AGAINST, EPOCHS, RISING = 0.15, 15, 8  # epsilon, which rises over the first epochs: from the start on, training stays on a plateau
AGAIN = "ours again"
PACKAGES = {  # the other side -> what to install, and the module that must then import
    "pyautoattack": ("pyautoattack==0.2.0", "pyautoattack"),
    "ART": ("adversarial-robustness-toolbox==1.20.1 six==1.17.0", "art.attacks.evasion"),
}


@dataclass(frozen=True)
class Task:
    """One network attacked at one epsilon: images (N, C, H, W) in [0, 1], labels (N,), and how long each side may try."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    epsilon: float
    seed: int
    queries: int
    our_steps: int
    our_queries: int

    @property
    def draw(self) -> int:
        """Return a seed for the other side, another at each epsilon: else one lucky draw would count at all of them."""
        return 1000 * self.seed + round(1000 * self.epsilon)


@dataclass(frozen=True)
class Pair:
    """Outcomes of one attack on one task, bool (N,): which images are still classified correctly, by ours and by the other."""

    attack: str
    other: str
    epsilon: float
    seed: int
    ours: NDArray[np.bool_]
    others: NDArray[np.bool_]


def trained(train: Split, seed: int) -> nn.Module:
    """Return a small convolutional net trained against PGD, frozen and in eval mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(1, EPOCHS + 1):
        adversary = Adversary("pgd", TRAINED_AGAINST * min(1, epoch / RISING))
        for chosen in torch.randperm(len(train), generator=generator).split(64):
            harder = adversary.perturb(model, train.images[chosen], train.labels[chosen], generator)
            optimizer.zero_grad()
            F.cross_entropy(model(harder), train.labels[chosen]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def by_ours(attack: str, task: Task, draw: int = 0) -> NDArray[np.bool_]:
    """Return which images survive our attack; another draw starts elsewhere."""
    part = load(attack)
    config = part.Config(num_queries=task.our_queries) if attack == "square" else part.Config(num_steps=task.our_steps)
    keys = sample_keys(1000 * draw + task.seed, task.ids)
    perturb = partial(part.perturb, config=config)
    found = ascend_with(perturb, task.model, task.images, task.labels, epsilons=[task.epsilon], keys=keys, batch_size=len(keys))
    return torch.isinf(found.broken_at).numpy()


def by_the_authors(attack: str, task: Task) -> NDArray[np.bool_]:
    """Return which images survive the `standard` version of the authors' AutoAttack, restricted to one attack."""
    from pyautoattack import AutoAttack

    authors = AutoAttack(task.model, eps=task.epsilon, seed=task.draw, version="standard")
    authors.attacks_to_run = [attack.replace("_", "-")]
    authors.square.n_queries = task.queries
    settings = (authors.apgd.n_iter, authors.apgd.n_restarts, authors.apgd_targeted.n_iter, authors.apgd_targeted.n_target_classes)
    assert settings == (NUM_STEPS, 1, NUM_STEPS, 9), settings
    return survivors(task, authors.run_standard_evaluation(task.images, task.labels, batch_size=len(task.images))[0])


def by_art(attack: str, task: Task) -> NDArray[np.bool_]:
    """Return which images survive ART's attack: one random start, a first step of 2 epsilon, Square's schedule as published (for 10,000 queries)."""
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    class Published(SquareAttack):
        def _get_percentage_of_elements(self, i_iter: int) -> float:
            return super()._get_percentage_of_elements(i_iter * self.max_iter / 10_000)  # it stretches the schedule to max_iter

    shape = tuple(task.images.shape[1:])
    estimator = PyTorchClassifier(task.model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu")
    common = {"norm": np.inf, "eps": task.epsilon, "batch_size": len(task.images), "verbose": False}
    np.random.seed(task.draw)
    if attack == "square":
        art = Published(estimator, max_iter=task.queries, **common)
    else:
        steps = {"max_iter": NUM_STEPS, "eps_step": 2 * task.epsilon, "nb_random_init": 1}
        art = AutoProjectedGradientDescent(estimator, loss_type="cross_entropy", **steps, **common)
    return survivors(task, torch.from_numpy(art.generate(task.images.numpy().copy(), task.labels.numpy())))


def survivors(task: Task, adversarial: Tensor) -> NDArray[np.bool_]:
    """Return which adversarial images are classified correctly, after a look whether they keep the ball."""
    refuse_outside("the other side", adversarial, task.images, task.epsilon)
    with torch.no_grad():
        return (task.model(adversarial).argmax(1) == task.labels).numpy()


def comparisons() -> list[tuple[str, str, Callable[[str, Task], NDArray[np.bool_]]]]:
    """Return attack, name and function of every other side that can be imported; say which cannot."""
    sides: dict[str, tuple[tuple[str, ...], Callable[[str, Task], NDArray[np.bool_]]]] = {
        "pyautoattack": (("apgd_ce", "apgd_t", "square"), by_the_authors),
        "ART": (("apgd_ce", "square"), by_art),
    }
    found = []
    for name, (needed, module) in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"not compared with {name}: {error}; it needs {needed}")
            continue
        distribution = needed.partition("==")[0]
        print(f"{name}: {distribution} {importlib.metadata.version(distribution)}")
        found += [(attack, name, sides[name][1]) for attack in sides[name][0]]
    return sorted(found, key=lambda each: each[0])


def row(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def report(pairs: list[Pair]) -> int:
    """Print the tables, pooled first; return how many tests find a difference."""
    groups: dict[tuple[str, str, str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.attack, pair.other, "all", "all"), []).append(pair)
    for pair in pairs:
        groups[pair.attack, pair.other, f"{pair.epsilon:g}", str(pair.seed)] = [pair]
    counts = {key: mcnemar(*(np.concatenate([getattr(pair, side) for pair in some]) for side in ("ours", "others"))) for key, some in groups.items()}
    tested = [key for key in groups if key[1] != AGAIN]
    adjusted = dict(zip(tested, holm([counts[key][2] for key in tested]), strict=True))
    for title, is_pooled in (("over epsilons and seeds", True), ("each", False)):
        print(f"\n{title}\n")
        print(row(["attack", "other side", "epsilon", "seed", "images", "ours %", "other %", "only ours breaks", "only the other", "p", "Holm"]))
        print(row(["---"] * 11))
        for key in sorted(key for key in groups if (key[2] == "all") == is_pooled):
            ours, others = (np.concatenate([getattr(pair, side) for pair in groups[key]]) for side in ("ours", "others"))
            right_here, right_there, p_value = counts[key]  # right here: only the other side breaks it
            holms = f"{adjusted[key]:.3g}" if key in adjusted else "–"
            print(row([*key, len(ours), f"{100 * ours.mean():.1f}", f"{100 * others.mean():.1f}", right_there, right_here, f"{p_value:.3g}", holms]))
    different = sum(p_value < LEVEL for p_value in adjusted.values())
    print(f"\n{len(tested)} tests, {different} find a difference at {100 * LEVEL:g} % after Holm")
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="test images, stratified by class")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.1, 0.15, 0.2])
    parser.add_argument("--seeds", type=int, default=3, help="networks")
    parser.add_argument("--queries", type=int, default=5000, help="of Square, on both sides")
    parser.add_argument("--our-steps", type=int, default=NUM_STEPS, help="of APGD on our side alone")
    parser.add_argument("--our-queries", type=int, help="of Square on our side alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    others = comparisons()
    if not others:
        return 2
    splits = datasets.load("digits")
    chosen = stratified_indices(splits.test.labels, args.images, seed=0)
    images, labels = splits.test.images[chosen].contiguous(), splits.test.labels[chosen]
    ids = tuple(splits.test.sample_ids[int(i)] for i in chosen)
    pairs: list[Pair] = []
    failed: list[str] = []
    seconds: dict[tuple[str, str], float] = {}

    def timed(attack: str, name: str, make: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        started = time.monotonic()
        outcomes = make()
        seconds[attack, name] = seconds.get((attack, name), 0.0) + time.monotonic() - started
        return outcomes

    for seed in range(args.seeds):
        started = time.monotonic()
        model = trained(splits.train, seed)
        with torch.no_grad():
            clean = (model(images).argmax(1) == labels).float().mean().item()
        print(f"network {seed}: trained in {time.monotonic() - started:.1f} s, {100 * clean:.1f} % clean", file=sys.stderr, flush=True)
        for epsilon in args.epsilons:
            task = Task(model, images, labels, ids, epsilon, seed, args.queries, args.our_steps, args.our_queries or args.queries)
            for attack in dict.fromkeys(attack for attack, _, _ in others):
                ours = timed(attack, "ours", partial(by_ours, attack, task))
                sides = [(name, partial(run, attack, task)) for its, name, run in others if its == attack]
                for name, run in [*sides, (AGAIN, partial(by_ours, attack, task, draw=1))]:
                    try:
                        theirs = timed(attack, name, run)
                    except Exception as error:  # of other people's code, whatever it is
                        if name == AGAIN:
                            raise
                        failed.append(f"{attack} by {name} at {epsilon:g}, network {seed}: {error!r}")
                        continue
                    pairs.append(Pair(attack, name, epsilon, seed, ours, theirs))
                    print(f"  {attack} at {epsilon:g}: ours {ours.mean():.3f}, {name} {theirs.mean():.3f}", file=sys.stderr, flush=True)
    print(f"torch {torch.__version__}, torchattacks {importlib.metadata.version('torchattacks')}, numpy {np.__version__}, CPU, one thread")
    different = report(pairs)
    print("seconds: " + ", ".join(f"{attack} {name} {spent:.0f}" for (attack, name), spent in sorted(seconds.items())))
    for each in failed:
        print(f"not compared: {each}")
    return 1 if different else 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
