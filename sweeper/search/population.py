"""Population-based training: which member goes on next, with whose phases, and with which values. Pure: from what every member reached.

Jaderberg et al., "Population based training of neural networks", 2017 (arXiv:1711.09846): their truncation selection and their perturbation by 1.2
or 1/1.2, of the learning rate and the loss weights. A member's generation is a trial whose training has as many phases, so to go on, with one's own
phases or another's, is to add one, and a schedule is the list of a trial's phases. Theirs is a population of running trainings; ours is a table of
finished ones, so that a decision stands in `suggestions` before it is run, and what a member reached at a generation never changes.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.search.rungs import order

FEWEST = 4  # members that must have a score at a generation before any of them is judged by it
SHARE = 4  # the worst quarter of them exploit, the best quarter are exploited
FACTORS = (1.2, 1 / 1.2)

Phase = Mapping[str, Any]
Ranges = Mapping[str, tuple[float, float]]  # setting -> lowest and highest value that `suggest` gives


@dataclass(frozen=True)
class Individual:
    """One generation of a member.

    Attributes:
        member: The number of the suggestion that the member began with.
        generation: Counted from 1; the number of phases.
        settings: Flat settings, its phases among them.
        score: At the end of its last phase, more is better; None: it has none (yet).
        has_failed: It will not have one.
    """

    number: int
    member: int
    generation: int
    params: Mapping[str, Any]
    ranges: Ranges
    settings: Mapping[str, Any]
    score: float | None = None
    has_failed: bool = False


@dataclass(frozen=True)
class Heir:
    """A member's next generation.

    Attributes:
        parent: The number of the one whose weights it goes on from.
        source: `continued`, or `exploited` where these are another member's.
    """

    member: int
    generation: int
    parent: int
    source: str
    params: Mapping[str, Any]
    settings: Mapping[str, Any]


def begun(settings: Mapping[str, Any], learning_rate: float, loss_weights: Mapping[str, float], num_epochs: int) -> dict[str, Any]:
    """Return the settings of a member's first generation: one phase in place of the learning rate and of these loss weights."""
    phase = {"num_epochs": num_epochs, "learning_rate": learning_rate, "loss_weights": dict(loss_weights)}
    return {name: value for name, value in settings.items() if name not in ("learning_rate", *loss_weights)} | {"phases": [phase]}


def next_heir(population: Sequence[Individual], *, generations: int, seed: int) -> Heir | None:
    """Return the next generation that can begin: of the member that is furthest behind, of those whose latest has ended; None if there is none.

    Whose phases it takes and how values are changed is drawn from the seed, the member and the generation alone.

    Args:
        population: Every generation of every member, in the order in which they began.
        generations: After which a member is at its end.
    """
    latest = {one.member: one for one in population}.values()
    ended = [one for one in latest if (one.score is not None or one.has_failed) and one.generation < generations]
    for one in sorted(ended, key=lambda one: (one.generation, one.member)):
        peers = {other.member: other for other in population if other.generation == one.generation}
        draw = random.Random(f"{seed}|{one.member}|{one.generation + 1}")
        chosen = followed({member: peer.score for member, peer in peers.items() if peer.score is not None}, one.member, draw)
        if chosen is not None:
            return _heir(one, peers[chosen], draw)
    return None


def followed(scores: Mapping[int, float], member: int, draw: random.Random) -> int | None:
    """Return the member whose phases a member goes on with: one drawn from the best quarter for one of the worst quarter, else its own.

    Of two with equal scores the earlier counts as the better, and nobody gives way to an equal. A member without a score has failed: it takes over
    another's phases as well.

    Args:
        scores: Member -> score of those that have reached the generation so far, more is better. Fewer than 4 are not judged.

    Returns:
        None if the member has failed and too few others are there to choose from.
    """
    own = member if member in scores else None
    if len(scores) < FEWEST:
        return own
    ranked = order({one: (score,) for one, score in scores.items()})
    quarter = len(ranked) // SHARE
    chosen = draw.choice(ranked[:quarter])
    if own is None:
        return chosen
    return chosen if own in ranked[-quarter:] and scores[own] < scores[chosen] else own


def explored(phase: Phase, ranges: Ranges, draw: random.Random) -> dict[str, Any]:
    """Return a phase with each value that has a range multiplied by 1.2 or 1/1.2, and kept in that range."""

    def other(name: str, value: float) -> float:
        if name not in ranges:
            return value
        low, high = ranges[name]
        return min(max(value * draw.choice(FACTORS), low), high)

    weights = {name: other(name, value) for name, value in sorted(phase["loss_weights"].items())}
    return {**phase, "learning_rate": other("learning_rate", phase["learning_rate"]), "loss_weights": weights}


def next_phases(phases: Sequence[Phase], ranges: Ranges, draw: random.Random | None) -> list[dict[str, Any]]:
    """Return the phases and one more: the last again, or (with a draw) the last explored."""
    last = dict(phases[-1])
    return [*map(dict, phases), last if draw is None else explored(last, ranges, draw)]


def schedule_of(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return setting -> its value in each phase, of the learning rate and each loss weight; nothing without phases."""
    phases = settings.get("phases") or []
    values = [{"learning_rate": phase["learning_rate"], **phase.get("loss_weights", {})} for phase in phases]
    return {name: [each[name] for each in values] for name in (values[0] if values else ())}


def _heir(one: Individual, followed: Individual, draw: random.Random) -> Heir:
    is_own = followed.member == one.member
    phases = next_phases(followed.settings["phases"], followed.ranges, None if is_own else draw)
    settings = {**followed.settings, "phases": phases}
    values = {name: each[-1] for name, each in schedule_of(settings).items() if name in followed.params}
    source = "continued" if is_own else "exploited"
    return Heir(one.member, one.generation + 1, followed.number, source, {**followed.params, **values}, settings)
