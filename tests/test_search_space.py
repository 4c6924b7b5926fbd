"""What a search space may not be: every refusal names what was given and what would be accepted, before anything runs."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_spaces_of_tests import ONE, TWO, space
from tiny_sweep import SIZES, invoke

from sweeper.search.plan import SearchPlan, plan_search
from sweeper.search.space import read_space

SHORT = {"depth": 1, "num_epochs": 2, "base_width": 2, "retraining/num_epochs": 1, "target/training/num_epochs": 1}
RUNGS = {"scheduler": "halving", "rungs": (1,)}


def codes(trial: Any) -> dict[str, Any]:
    """Ask for the size of the only codebook."""
    trial.suggest_int("codebook_size/1", 4, 16, log=True)
    return SHORT


def planned(suggest: Callable[[Any], Any] = codes, objectives: Mapping[str, str] = TWO, **more: Any) -> SearchPlan:
    """Return the plan of a search; `more` are a module's names in lower case, `settings` what --set gave."""
    settings, epsilons, dataset = more.pop("settings", {}), more.pop("epsilons", (0.1,)), more.pop("dataset", "digits")
    module = SimpleNamespace(suggest=suggest, OBJECTIVES=objectives, **{name.upper(): value for name, value in more.items()})
    search_space = read_space("mine", module)  # pyright: ignore[reportArgumentType]
    return plan_search(
        "mine", search_space, module, "", fingerprint="f" * 64, dataset=dataset, scale="small", settings=settings, epsilons=epsilons,
    )  # pyright: ignore[reportArgumentType] # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"objectives": {"robust_scor": "max"}}, r"no column 'robust_scor' \(did you mean 'robust_score'\?\); known: robust_score, clean"),
        ({"objectives": {"robust_score": "maximize"}}, "objective 'robust_score' must be 'max' or 'min', got 'maximize'"),
        ({"objectives": ["robust_score"]}, r"'tests' needs OBJECTIVES, a dict such as .*, got \['robust_score'\]"),
        ({"objectives": {}}, "needs OBJECTIVES, .* got {}"),
        ({"objectives": {3: "max"}}, "no column '3'"),
        ({"sampler": "tpee"}, r"no sampler named 'tpee' \(did you mean 'tpe'\?\); available: tpe, nsga2, random, quasi_random, cma_es"),
        ({"sampler": None}, "no sampler named None; available"),
        ({"scheduler": "asah"}, r"no scheduler named 'asah' \(did you mean 'asha'\?\); available: none, asha, median, halving"),
        ({"scheduler": "asha", "rungs": (3,)}, r"'asha' compares trials by one objective, and there are 2 \(robust_score, clean\).* none or halving"),
        ({"scheduler": "median", "rungs": (3,)}, "'median' compares trials by one objective"),
        ({"sampler": "cma_es"}, "'cma_es' optimizes one objective without constraints; .* tpe and nsga2 are there"),
        ({"objectives": ONE, "sampler": "cma_es", "constraints": ["clean_drop <= 0.1"]}, "'cma_es' optimizes one objective without constraints"),
        ({"scheduler": "halving"}, r"'halving' needs rungs: give the space RUNGS = \(3,\)"),
        ({"objectives": ONE, "scheduler": "asha"}, "'asha' needs rungs"),
        ({"rungs": (2, 1)}, r"RUNGS must be ascending numbers of epochs, got \(2, 1\)"),
        ({"rungs": (1, 1)}, r"RUNGS must be ascending numbers of epochs, got \(1, 1\)"),
        ({"rungs": (0,)}, r"RUNGS must be ascending numbers of epochs, got \(0,\)"),
        ({"rungs": (1.5,)}, r"RUNGS must be ascending numbers of epochs, got \(1.5,\)"),
        ({"rungs": 3}, "'tests': RUNGS is a list, got 3"),
        ({"rungs": None}, "RUNGS is a list, got None"),
        ({"reduction": 1}, "REDUCTION must be a whole number of at least 2, got 1"),
        ({"reduction": 2.5}, "REDUCTION must be a whole number of at least 2, got 2.5"),
        ({"budget": {"tirals": 6}}, "BUDGET is a dict with any of trials, seconds, gpu_hours, got {'tirals': 6}"),
        ({"budget": 6}, "BUDGET is a dict with any of trials, seconds, gpu_hours, got 6"),
        ({"budget": {"trials": 0}}, "budget of trials must be a number above 0, got 0"),
        ({"budget": {"trials": "6"}}, "budget of trials must be a number above 0, got '6'"),
        ({"budget": {"trials": 2.5}}, "budget of trials must be a whole number, got 2.5"),
        ({"budget": {"trials": math.inf}}, "budget of trials must be a number above 0, got inf"),
        ({"budget": {"seconds": math.nan}}, "budget of seconds must be a number above 0, got nan"),
        ({"budget": {"trials": None}}, "a search needs a budget: trials, seconds or gpu_hours"),
        ({"constraints": "clean_drop <= 0.01"}, "CONSTRAINTS is a list, got 'clean_drop <= 0.01'"),
        ({"constraints": ["clean_drop < 0.01"]}, "a constraint reads like 'clean_drop <= 0.01', got 'clean_drop < 0.01'"),
        ({"constraints": ["clean_drop <= e"]}, "a constraint reads like 'clean_drop <= 0.01', got 'clean_drop <= e'"),
        ({"constraints": [3]}, "a constraint reads like 'clean_drop <= 0.01', got 3"),
        ({"constraints": ["cleandrop <= 0.01"]}, r"no column 'cleandrop' \(did you mean 'clean_drop'\?\)"),
        ({"first": {"x": 1}}, "FIRST is a list, got {'x': 1}"),
        ({"first": [3]}, "FIRST is a list of dicts, each with a value for every parameter that suggest asks for, got 3"),
        ({"evaluation": "quick"}, "the quick evaluation prunes a search and never ranks, .* got evaluation 'quick'"),
        ({"variants": list}, r"'tests' offers both variants\(\) and suggest\(\); an ablation lists, a search samples"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, dict) else "",
)
def test_a_space_that_cannot_be_searched_is_refused(names: dict[str, Any], message: str) -> None:
    names = dict(names)
    if "variants" in names:
        module = SimpleNamespace(suggest=codes, OBJECTIVES=TWO, **names)
        with pytest.raises(ValueError, match=message):
            read_space("tests", module)  # pyright: ignore[reportArgumentType]
        return
    with pytest.raises(ValueError, match=message):
        space(names.pop("objectives", TWO), **names)


def test_what_is_asked_for_stands_over_the_spaces_own_and_the_rest_stays() -> None:
    module: Any = SimpleNamespace(suggest=codes, OBJECTIVES=TWO, BUDGET={"seconds": 60}, SAMPLER="random")
    own, asked = read_space("mine", module), read_space("mine", module, trials=3, sampler="quasi-random", seed=None)
    assert (own.budget.trials, own.budget.seconds, own.sampler, own.seed) == (None, 60, "random", 0)
    assert (asked.budget.trials, asked.budget.seconds, asked.sampler, asked.seed) == (3, 60, "quasi_random", 0)


def test_a_space_without_a_budget_has_forty_trials() -> None:
    assert space().budget.trials == 40


def asks(name: str, low: float, high: float, **fixed: Any) -> Callable[[Any], dict[str, Any]]:
    def suggest(trial: Any) -> dict[str, Any]:
        trial.suggest_int(name, low, high)
        return {**SHORT, **fixed}

    return suggest


def chooses(name: str, choices: list[Any]) -> Callable[[Any], dict[str, Any]]:
    def suggest(trial: Any) -> dict[str, Any]:
        trial.suggest_categorical(name, choices)
        return SHORT

    return suggest


def fixes(**fixed: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda trial: {**codes(trial), **fixed}


@pytest.mark.parametrize(
    ("suggest", "message"),
    [
        (lambda trial: 1 / 0, r"'mine': suggest\(trial\) raised ZeroDivisionError: division by zero"),
        (lambda: {}, r"suggest\(trial\) raised TypeError: .* takes 0 positional arguments"),
        (lambda trial: None, r"suggest\(trial\) must return a dict of the settings that stay fixed, got None"),
        (lambda trial: SHORT, r"suggest\(trial\) asks for no parameter, so there is nothing to search"),
        (fixes(model=Path("vqunet")), r"suggest\(trial\) must return plain numbers, words and lists: Object of type PosixPath is not JSON"),
        (fixes(base_widht=3), r"'mine' proposes codebook_size/1=\d+: unknown trial setting 'base_widht' \(did you mean 'base_width'\?\)"),
        (fixes(model="vqunett"), r"no model named 'vqunett' \(did you mean 'vqunet'\?\)"),
        (asks("lerning_rate", 1, 2), r"'mine' proposes lerning_rate=\d: unknown trial setting 'lerning_rate' \(did you mean 'learning_rate'\?\)"),
        (asks("code_dim", -3, 0), r"proposes code_dim=-?\d: code_dim must be a whole number of at least 1, got"),
        (asks("codebook_size/1", 9, 3), r"suggest\(trial\) raised ValueError: .low <= high. must hold"),
        (chooses("codebook_size", [[4], [8]]), r"the choices of 'codebook_size' must be None, bool, int, float or str, got \[4\] \(list\)"),
        (chooses("victim", ["original", "retrained"]), r"changes how trials are scored \(victim\), so they cannot be compared; .* with --set"),
        (asks("num_eot_samples", 1, 4), r"changes how trials are scored \(num_eot_samples\)"),
        (asks("target_seed", 0, 3), r"changes how trials are scored \(target_seed\)"),
        (fixes(dataset="fashion_mnist"), "'dataset' holds for a whole search; give it with `run`, not in suggest"),
        (fixes(scale="medium"), "'scale' holds for a whole search"),
        (asks("train_images", 20, 60), "'train_images' holds for a whole search"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_a_proposal_that_is_no_trial_is_refused_before_anything_runs(suggest: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(suggest)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({}, r"'mine' asks for codebook_size/1, which is not given \(FIRST, entry 2\)"),
        ({"codebook_size/1": 8, "beta": 1.0}, r"'mine' does not ask for beta where codebook_size/1=8 \(FIRST, entry 2\)"),
        ({"codebook_size/1": 80}, r"The value 80 of the parameter 'codebook_size/1' is out of the range .* \(FIRST, entry 2\)"),
    ],
    ids=["missing", "spare", "out of range"],
)
def test_first_parameters_that_the_space_does_not_ask_for_so_are_refused(first: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(first=[{"codebook_size/1": 8}, first])


def test_first_parameters_are_kept_in_the_type_of_their_distribution() -> None:
    steps = planned(first=[{"codebook_size/1": "8"}]).base.trials
    assert steps[-1].config.model_options["codebook_size"] == 8


@pytest.mark.parametrize(
    ("objectives", "more", "message"),
    [
        ({"graybox/cw@0.1": "max"}, RUNGS, "the quick evaluation, which scores trials at rungs .* does not measure 'graybox/cw@0.1'; it measures gr"),
        ({"transfer@0.1": "max"}, RUNGS, "the quick evaluation, which scores trials at rungs .* does not measure 'transfer@0.1'"),
        ({"graybox@0.1": "max"}, RUNGS | {"epsilons": (0.05, 0.1)}, "the quick .* does not measure 'graybox@0.1'; it measures graybox/pgd@0.05"),
        ({"adaptive/autoattack@0.1": "max"}, {}, "the standard evaluation does not measure 'adaptive/autoattack@0.1'; it measures"),
        ({"graybox/pgd@0.2": "max"}, {}, "the standard evaluation does not measure 'graybox/pgd@0.2'"),
        ({"adaptive@0.2": "max"}, {}, "'adaptive@0.2' is measured at epsilon 0.1 only; THREAT/ATTACK@EPSILON names any other"),
        (ONE, {"constraints": ["transfer/pgd@0.2 >= 0.5"]}, "the standard evaluation does not measure 'transfer/pgd@0.2'"),
        (ONE, {"evaluation": "standrad"}, r"no evaluation named 'standrad' \(did you mean 'standard'\?\)"),
        (ONE, {"settings": {"lerning_rate": 0.1}}, r"unknown trial setting 'lerning_rate' \(did you mean 'learning_rate'\?\)"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_measured_or_not_known_is_refused(objectives: Mapping[str, str], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(objectives=objectives, **more)


@pytest.mark.parametrize("column", ["graybox/cw@0.1", "transfer@0.1", "adaptive@0.1", "psnr", "adaptive_soft/pgd@0.05"])
def test_what_the_evaluation_of_whole_trials_measures_can_be_searched_for_without_rungs(column: str) -> None:
    assert planned(objectives={column: "max"}).space.columns == (column,)


def test_a_constraint_binds_whole_trials_only_so_rungs_need_not_measure_it() -> None:
    made = planned(objectives=ONE, constraints=["graybox/cw@0.1 >= 0.5"], **RUNGS)
    rung, whole = made.base.trials
    assert made.columns_of(rung) == ("robust_score",)
    assert made.columns_of(whole) == ("robust_score", "graybox/cw@0.1")


def test_the_parts_of_autoattack_measure_autoattack() -> None:
    made = planned(objectives={"adaptive/autoattack@0.1": "max"}, evaluation="full")
    assert made.space.columns == ("adaptive/autoattack@0.1",)


def test_rungs_are_shorter_trials_of_their_own_under_the_quick_evaluation_and_on_validation_images() -> None:
    made = planned(**RUNGS, first=[{"codebook_size/1": 8}])
    rung, whole = made.base.trials
    assert (rung.config.training.num_epochs, whole.config.training.num_epochs) == (1, 2)
    assert (rung.evaluation.name, whole.evaluation.name) == ("quick", "standard")
    assert {trial.evaluation.split for trial in made.base.trials} == {"validation"}
    assert rung.trial_id != whole.trial_id and made.reference_variant_id == whole.variant_id


def test_the_budget_is_no_part_of_a_searchs_identity_and_all_else_is() -> None:
    def identity(**more: Any) -> str:
        return planned(**{"objectives": ONE, **RUNGS, **more}).search_id

    assert identity(budget={"trials": 3}) == identity(budget={"trials": 5})
    others = [{"sampler": "random"}, {"scheduler": "asha"}, {"reduction": 2}, {"settings": {"beta": 0.5}}, {"epsilons": (0.05, 0.1)}]
    assert len({identity(), *(identity(**other) for other in others)}) == 1 + len(others)


# On the command line

ABLATION = "def variants():\n    return [{'num_epochs': 1}]\n"
SEARCH = """
OBJECTIVES = {"clean": "max"}


def suggest(trial):
    trial.suggest_int("codebook_size/1", 4, 16)
    return {"depth": 1, "num_epochs": 2}
"""


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (ABLATION, ("--trials", "3"), "--trials is for searches, and"),
        (ABLATION, ("--minutes", "3"), "--minutes is for searches, and"),
        (ABLATION, ("--gpu-hours", "3"), "--gpu-hours is for searches, and"),
        (ABLATION, ("--sampler", "tpe"), "--sampler is for searches, and"),
        (ABLATION, ("--scheduler", "asha"), "--scheduler is for searches, and"),
        (ABLATION, ("--search-seed", "0"), "--search-seed is for searches, and"),
        (ABLATION, ("run", "--storage", "sqlite:///study.db"), "--storage is for searches, and"),
        (ABLATION, ("run", "--warm-start", "ablations"), "--warm-start is for searches, and"),
        (ABLATION, ("--price-per-hour", "2"), "--price-per-hour is for searches, and"),
        (SEARCH, ("--seeds", "3"), "a search runs each proposal with one seed (--set seed=0); `refine` runs the best with more; got --seeds 3"),
        (SEARCH, ("--split", "validation"), "a search is always scored on validation images, and its Pareto set on the test images"),
        (SEARCH, ("--evaluation", "quick"), "the quick evaluation prunes a search and never ranks"),
        (SEARCH, ("--trials", "0"), "--trials must be above 0, got 0"),
        (SEARCH, ("--minutes", "0"), "--minutes must be above 0, got 0"),
        (SEARCH, ("--gpu-hours", "nan"), "--gpu-hours must be above 0, got nan"),
        (SEARCH, ("--price-per-hour", "-1"), "--price-per-hour must be at least 0, got -1"),
        (SEARCH, ("--sampler", "tpee"), "no sampler named 'tpee' (did you mean 'tpe'?)"),
        (SEARCH, ("--sampelr", "tpe"), "No such option: --sampelr"),
        (SEARCH, ("--set", "lerning_rate=1"), "unknown trial setting 'lerning_rate' (did you mean 'learning_rate'?)"),
        ("X = 1\n", (), "offers no variants(); an ablation needs one, see search_spaces/ablations.py, and a search has a suggest(trial)"),
        ("def suggest(trial:\n    return {}\n", (), "own.py, line 1: syntax error"),
        ("import nonexistent\n", (), "own.py, line 1: ModuleNotFoundError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_search_or_an_ablation_cannot_heed_is_refused_by_one_sentence(text: str, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    command, rest = ("run", words[1:]) if words[:1] == ("run",) else ("plan", words)
    result = invoke(command, path, *rest, "--results", tmp_path / "results", *SIZES)
    assert result.exit_code == 2, result.output
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr and not result.stdout
    assert not (tmp_path / "results").exists()
