"""What a search does next: go on with what was begun, promote from a rung, or ask the sampler. Knows neither tables nor Ray.

With scheduler `pbt`, the sampler is asked for a population first, and then each of its members gets its next generation (`population.py`).

    while (work := search.next()) is not None:
        search.ended(work, figures)

With several workers, `next` returns None when nothing can begin until something ends; `is_finished` says whether anything ever will.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.search.population import Individual, next_heir
from sweeper.search.rungs import promotable
from sweeper.search.space import SearchSpace
from sweeper.search.standing import Failure, Figures, Standing, Step, Suggestion, Work
from sweeper.search.study import VALIDITY, Proposal, Told, fixed_proposal, propose, ranges_of

EXHAUSTED = 100  # suggestions in a row that make nothing new to run; without a bound of trials they would go on until the time is over

Make = Callable[[Mapping[str, Any], int], Sequence[Step]]  # settings, number -> steps; ValueError where they are no trial
LookUp = Callable[[Step], Figures | Failure | None]
Remember = Callable[[Suggestion], None]
Settle = Callable[[Proposal], dict[str, Any]]  # proposal -> its flat settings; ValueError where they are no trial


def _forget(suggestion: Suggestion) -> None:
    """Keep nothing: of a search that lives in memory."""


def _nothing(step: Step) -> None:
    """Know nothing."""


class Search:
    """A search in progress.

    Args:
        make: What settings are to run.
        settle: What settings a proposal makes, where it is not `settings_of`.
        begun: Suggestions of earlier runs, in order.
        warm: Proposals that are run at full length before the sampler is asked, beside the budget.
        remember: Called with each new suggestion before any of its steps is run.
        look_up: What is known of a step already; asked before it is run.
        gpus: Of each trial, for the budget of GPU-hours.
    """

    def __init__(
        self,
        space: SearchSpace,
        make: Make,
        *,
        begun: Sequence[Suggestion] = (),
        warm: Sequence[Proposal] = (),
        settle: Settle | None = None,
        remember: Remember = _forget,
        look_up: LookUp = _nothing,
        gpus: float = 0.0,
    ) -> None:
        self.space = space
        self.standings: list[Standing] = []
        self._latest: dict[int, Standing] = {}  # member -> its latest generation
        for suggestion in begun:
            self._enter(suggestion)
        self.seconds = 0.0  # of the sampler's and the rungs' own work
        self._make, self._settle, self._remember, self._look_up = make, settle or settings_of, remember, look_up
        self._running: dict[tuple[str, str], list[int]] = {}  # step's key -> suggestions that wait for it
        self._outcomes: dict[tuple[str, str], Figures | Failure] = {}  # of this run: an equal suggestion that comes later fails with the first
        self._made: set[tuple[str, str]] = {step.key for suggestion in begun for step in suggestion.steps}
        self._in_vain = 0  # suggestions in a row that made nothing new to run
        self.gpu_seconds = 0.0  # of all runs of the search
        self._gpus, self._since = gpus, time.monotonic()
        known = [standing.suggestion.proposal.params for standing in self.standings]
        self._warm = [proposal for proposal in warm if proposal.params not in known]
        for standing in self.standings:
            self._catch_up(standing)

    def next(self) -> Work | None:
        """Return what is to be run next, now marked as running; None if nothing can begin before something ends."""
        since = time.perf_counter()
        try:
            while True:
                standing = self._begun() or (self._asked() or self._grown() if self._is_population else self._promoted() or self._asked())
                if standing is None:
                    return None
                before = len(standing.reached)
                self._catch_up(standing)
                if standing.failure is not None or len(standing.reached) > before:
                    continue  # stored already: what may begin is another question now
                step = standing.suggestion.steps[len(standing.reached)]
                standing.running = True
                if step.key in self._running:  # an equal suggestion is being run: its figures are this one's
                    self._running[step.key].append(standing.suggestion.number)
                    continue
                self._running[step.key] = [standing.suggestion.number]
                return Work(standing.suggestion.number, step)
        finally:
            self.seconds += time.perf_counter() - since

    def ended(self, work: Work, outcome: Figures | Failure, seconds: float = 0.0) -> None:
        """Take in how a step ended.

        Args:
            seconds: That it took, for the budget of GPU-hours.
        """
        since = time.perf_counter()
        self.gpu_seconds += self._gpus * seconds
        self._outcomes[work.key] = outcome
        for number in self._running.pop(work.key):
            self.standings[number].running = False
            self._take(self.standings[number], outcome)
        for standing in self.standings:  # equal ones that stand at a rung: they are run with it, as a later run would find
            steps, done = standing.suggestion.steps, len(standing.reached)
            if standing.state == "stopped" and done < len(steps) and steps[done].key == work.key:
                self._catch_up(standing)
        self.seconds += time.perf_counter() - since

    @property
    def is_finished(self) -> bool:
        """Say whether nothing runs; after `next` returned None, that is the end."""
        return not self._running

    @property
    def num_asked(self) -> int:
        """Return how many suggestions count for the budget: all but those of a warm start."""
        return sum(standing.suggestion.source != "warm_start" for standing in self.standings)

    @property
    def num_begun(self) -> int:
        """Return how many suggestions wait to be run for the first time, those of a warm start among them."""
        return len(self._warm) + sum(standing.state == "begun" for standing in self.standings)

    def told(self) -> list[Told]:
        """Return every suggestion as the sampler hears of it, in order."""
        return [self._told(standing) for standing in self.standings]

    def objectives(self, figures: Figures) -> tuple[float, ...]:
        """Return the values of the objectives; NaN where one is missing."""
        return tuple(_number(figures.get(objective.column)) for objective in self.space.objectives)

    def is_feasible(self, figures: Figures) -> bool:
        """Say whether all constraints are kept."""
        return all(constraint.violation(_number(figures.get(constraint.column))) <= 0 for constraint in self.space.constraints)

    # What may begin

    @property
    def _is_population(self) -> bool:
        return self.space.scheduler == "pbt"

    def _begun(self) -> Standing | None:
        return next((standing for standing in self.standings if standing.state == "begun"), None)

    def _promoted(self) -> Standing | None:
        reference = next((standing.suggestion.number for standing in self.standings if standing.suggestion.source == "first"), None)
        for rung in reversed(range(len(self.space.rungs))):
            reached: dict[int, tuple[float, ...]] = {}
            gone_on: set[int] = set()
            for standing in self.standings:
                steps = standing.suggestion.steps
                at = next((place for place, step in enumerate(steps) if step.rung == rung), None)
                if at is None or len(standing.reached) <= at:
                    continue
                number = standing.suggestion.number
                reached[number] = self._upward(standing.reached[at])
                if len(standing.reached) > at + 1 or standing.running or standing.failure is not None:
                    gone_on.add(number)
            ready = promotable(reached, gone_on, scheduler=self.space.scheduler, reduction=self.space.reduction)
            if reference in reached and reference not in gone_on:
                ready = [reference]  # whatever it reached: what a search found is held against it
            if ready:
                return self.standings[ready[0]]
        return None

    def _asked(self) -> Standing | None:
        number, asked, is_spent = len(self.standings), self.num_asked, self._is_spent()
        own = {"member": number, "generation": 1} if self._is_population else {}
        if asked < len(self.space.first) and not is_spent:  # before a warm start: number 0 is what all others are held against
            return self._add(number, "first", fixed_proposal(self.space, self.space.first[asked]), place=own)
        if self._warm:
            return self._add(number, "warm_start", self._warm.pop(0), steps=1)
        if is_spent or (self._is_population and asked >= self.space.population):
            return None
        return self._add(number, "sampled", propose(self.space, self.told(), number), place=own)

    def _grown(self) -> Standing | None:
        """Add the next generation of a member, where one can begin."""
        population = [self._individual(standing) for standing in self.standings if standing.suggestion.member is not None]  # else its row is lost
        heir = None if self._is_spent() else next_heir(population, generations=self.space.generations, seed=self.space.seed)
        if heir is None:
            return None
        distributions = self.standings[heir.parent].suggestion.proposal.distributions
        place = {"member": heir.member, "generation": heir.generation, "parent": heir.parent}
        return self._add(len(self.standings), heir.source, Proposal(dict(heir.params), distributions, {}), heir.settings, place=place)

    def _individual(self, standing: Standing) -> Individual:
        suggestion, reached = standing.suggestion, standing.reached
        assert suggestion.member is not None and suggestion.generation is not None
        return Individual(
            number=suggestion.number,
            member=suggestion.member,
            generation=suggestion.generation,
            params=suggestion.proposal.params,
            ranges=ranges_of(suggestion.proposal.distributions),
            settings=suggestion.settings,
            score=self._upward(reached[0])[0] if reached else None,
            has_failed=standing.failure is not None and standing.failure.is_final,  # else a later run tries it again by itself
        )

    def _is_spent(self) -> bool:
        budget = self.space.budget
        return (
            (budget.trials is not None and self.num_asked >= budget.trials)
            or (budget.seconds is not None and time.monotonic() - self._since >= budget.seconds)
            or (budget.gpu_hours is not None and self.gpu_seconds >= 3600 * budget.gpu_hours)
            or (budget.trials is None and self._in_vain >= EXHAUSTED)
        )

    def _add(
        self,
        number: int,
        source: str,
        proposal: Proposal,
        settings: Mapping[str, Any] | None = None,
        *,
        steps: int | None = None,
        place: Mapping[str, int] | None = None,
    ) -> Standing:
        """Remember a proposal as a suggestion; its settings are given, or follow from it.

        Args:
            steps: Only so many of its last steps are run.
            place: Its member, generation and parent in a population.
        """
        made: tuple[Step, ...] = ()
        problem = ""
        try:
            settings = self._settle(proposal) if settings is None else settings
            made = tuple(self._make(settings, number))
        except ValueError as error:
            settings, problem = settings_of(proposal) if settings is None else settings, str(error)
        suggestion = Suggestion(number, source, proposal, settings, made[-steps:] if steps else made, problem, **(place or {}))
        keys = {step.key for step in suggestion.steps}
        self._in_vain = self._in_vain + 1 if keys <= self._made else 0
        self._made |= keys
        self._remember(suggestion)
        return self._enter(suggestion)

    def _enter(self, suggestion: Suggestion) -> Standing:
        standing = Standing(suggestion)
        self.standings.append(standing)
        if suggestion.member is not None:
            if suggestion.member in self._latest:
                self._latest[suggestion.member].has_heir = True
            self._latest[suggestion.member] = standing
        return standing

    # What is known

    def _catch_up(self, standing: Standing) -> None:
        """Take in what is stored of a suggestion: from an earlier run, another search, or an equal suggestion."""
        if standing.suggestion.problem:
            standing.failure = Failure(standing.suggestion.problem)
        while standing.state in ("begun", "stopped", "continued"):
            if standing.suggestion.generation is not None and standing.reached:
                return  # an earlier generation, scored: what its member goes on with is a suggestion of its own
            step = standing.suggestion.steps[len(standing.reached)]
            known = self._outcomes[step.key] if step.key in self._outcomes else self._look_up(step)
            if known is None:
                return
            self._take(standing, known)

    def _take(self, standing: Standing, outcome: Figures | Failure) -> None:
        if isinstance(outcome, Failure):
            standing.failure = outcome
            return
        step = standing.suggestion.steps[len(standing.reached)]
        wanted = self.objectives(outcome) if step.rung is not None else (*self.objectives(outcome), *self._bounded(outcome))
        if any(math.isnan(value) for value in wanted):
            standing.failure = Failure(f"no figure for {', '.join(c for c in self.space.columns if math.isnan(_number(outcome.get(c))))}")
            return
        standing.reached.append(outcome)

    def _bounded(self, figures: Figures) -> list[float]:
        return [_number(figures.get(constraint.column)) for constraint in self.space.constraints]

    def _upward(self, figures: Figures) -> tuple[float, ...]:
        return tuple(objective.sign * value for objective, value in zip(self.space.objectives, self.objectives(figures), strict=True))

    def _constraints(self, figures: Figures) -> dict[str, float]:
        found = {str(constraint): constraint.violation(_number(figures.get(constraint.column))) for constraint in self.space.constraints}
        return found | {VALIDITY: figures.get(VALIDITY) or 0.0}

    def _told(self, standing: Standing) -> Told:
        suggestion, state = standing.suggestion, standing.state
        figures = standing.figures
        rungs = {
            self.space.rungs[step.rung]: self.objectives(reached)[0]
            for step, reached in zip(suggestion.steps, standing.reached, strict=False)
            if step.rung is not None
        }
        return Told(
            params=suggestion.proposal.params,
            distributions=suggestion.proposal.distributions,
            state={"begun": "running", "continued": "stopped"}.get(state, state),
            values=() if figures is None else self.objectives(figures),
            constraints={} if figures is None else self._constraints(figures),
            rungs=rungs,
            sampler_state=suggestion.proposal.sampler_state,
            label=suggestion.label,
        )


def settings_of(proposal: Proposal) -> dict[str, Any]:
    """Return flat settings: the parameters by their names, what `suggest` returned over them.

    `codebook_size/2` is the second entry of a list; a parameter whose name begins with an underscore is the space's own and no setting.
    """
    settings: dict[str, Any] = {}
    lists: dict[str, dict[int, Any]] = {}
    for name, value in proposal.params.items():
        head, _, last = name.rpartition("/")
        if name.startswith("_"):
            continue
        if head and last.isdigit():
            lists.setdefault(head, {})[int(last)] = value
        else:
            settings[name] = value
    return settings | {name: [entries[place] for place in sorted(entries)] for name, entries in lists.items()} | proposal.fixed


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
