"""A plan is pure: the same input gives the same plan, and nothing is trained, written or read on the way."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from small_sweep import Silent, small_plan
from torch.optim import Optimizer

from sweeper import lookup, plan
from sweeper.datasets import Splits
from sweeper.estimate import longest_first
from sweeper.options import attack_module
from sweeper.plan import Plan, PlannedTrial
from sweeper.results import Results
from sweeper.sweep import run_sweep
from sweeper.worker import Finished, Job

FINGERPRINT = "f" * 64


def planned(variants: list[Any], name: str = "mine", attacks: tuple[Any, ...] = (), **more: Any) -> Plan:
    space = cast(ModuleType, SimpleNamespace(variants=lambda: variants, ATTACKS=attacks))
    return plan.from_space(name, space, **{"fingerprint": FINGERPRINT, **more})


def ablations(**more: Any) -> Plan:
    return plan.from_space("ablations", lookup.find("search_spaces", "ablations"), fingerprint=FINGERPRINT, **more)


def test_planning_writes_nothing_trains_nothing_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("open", "mkdir", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, lambda *args, **kw: pytest.fail(f"a plan touched {args[0]}"))
    monkeypatch.setattr(Optimizer, "__init__", lambda *args, **kw: pytest.fail("a plan trained"))
    assert ablations() == ablations()
    assert ablations().plan_hash == ablations().plan_hash
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_another_split_changes_what_is_scored_and_nothing_that_is_trained() -> None:
    test, validation = ablations(), ablations(split="validation")
    assert [trial.trial_id for trial in test.trials] == [trial.trial_id for trial in validation.trials]
    assert not {trial.evaluation_id for trial in test.trials} & {trial.evaluation_id for trial in validation.trials}
    assert test.plan_hash != validation.plan_hash
    keys = [{stage.key for stage in made.stages if stage.kind == "adversarial"} for made in (test, validation)]
    assert len(keys[0]) == len(keys[1]) and not keys[0] & keys[1]
    assert {s.key for s in test.stages if s.kind != "adversarial"} == {s.key for s in validation.stages if s.kind != "adversarial"}
    assert test.title == "ablations on digits (small, standard)"
    assert validation.title == "ablations on digits (small, standard, validation images)"


def test_the_plan_hash_names_sweep_trials_and_evaluation() -> None:
    hashes = [ablations(), ablations(seeds=2), ablations(evaluation_name="quick"), ablations(settings={"beta": 3}), planned([{}])]
    assert len({each.plan_hash for each in hashes}) == 5
    assert planned([{}], "one").trials[0].trial_id == planned([{}], "two").trials[0].trial_id  # a sweep's name is in no key
    assert planned([{}], "one").plan_hash != planned([{}], "two").plan_hash


@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "cifar10"])
@pytest.mark.parametrize("scale", ["small", "medium", "paper"])
def test_ablations_are_14_trials_with_one_reference_first_and_one_factor_each(dataset: str, scale: str) -> None:
    made = ablations(dataset=dataset, scale=scale)
    assert len(made.trials) == 14
    assert not made.notes
    assert [trial.is_reference for trial in made.trials] == [True] + [False] * 13
    assert all(trial.reference_variant_id == made.trials[0].variant_id for trial in made.trials)
    factors = [trial.factor for trial in made.trials[1:]]
    assert factors[:3] == ["codebook_size"] * 3
    assert {factor for factor in factors if "+" in factor} == {"alpha+beta", "model+retrain"}
    options = made.trials[0].config.model_options
    assert (options["codebook_size"], options["depth"]) == ((64, 3) if scale == "small" else (512, 4))
    assert len({trial.trial_id for trial in made.trials}) == len({trial.label for trial in made.trials}) == 14


@pytest.mark.parametrize("name", lookup.available("search_spaces"))
def test_every_variant_makes_a_valid_config(name: str) -> None:
    space = lookup.find("search_spaces", name)
    if hasattr(space, "variants"):
        made = plan.from_space(name, space, fingerprint=FINGERPRINT)
        assert len(made.trials) == len(space.variants()) * getattr(space, "SEEDS", 1)


def test_a_label_says_phases_in_words() -> None:
    phases = [{"num_epochs": 2, "learning_rate": 0.004, "loss_weights": {"beta": 0.5}}, {"num_epochs": 1, "learning_rate": 1e-3}]
    made = planned([{}, {"phases": phases, "depth": 2}])
    assert made.trials[1].label == "phases=num_epochs=2 learning_rate=0.004 beta=0.5 then num_epochs=1 learning_rate=0.001, depth=2"
    assert planned([{}, {"vq_levels": [1, 3]}]).trials[1].label == "vq_levels=[1, 3]"


def test_seeds_of_one_variant_share_its_variant_id_and_label() -> None:
    made = ablations(seeds=3)
    assert len(made.trials) == 42
    first = made.trials[:3]
    assert [trial.config.seed for trial in first] == [0, 1, 2]
    assert len({trial.variant_id for trial in first}) == len({trial.label for trial in first}) == 1
    assert len({trial.trial_id for trial in first}) == 3


def test_the_same_trial_under_two_labels_is_run_once_and_noted() -> None:
    made = planned([{}, {"model": "unet"}, {"quantize": False}])
    assert [trial.label for trial in made.trials] == ["reference", "model=unet"]
    assert made.notes == ("quantize=false seed 0 is the same trial as model=unet seed 0, and is run once",)


def test_missing_subtracts_what_is_stored() -> None:
    made = planned([{}, {"beta": 0.0}, {"model": "identity", "retrain": "none"}])
    assert {trial.trial_id for trial in made.missing(())} == {trial.trial_id for trial in made.trials}
    stored = set(made.trials[0].parts)
    assert made.trials[0].trial_id not in {trial.trial_id for trial in made.missing(stored)}
    assert made.trials[0] in made.missing(stored - {made.trials[0].parts[2]})  # one part short is missing
    assert made.missing({part for trial in made.trials for part in trial.parts}) == []


def test_costly_trials_come_first() -> None:
    made = planned([{}, {"model": "identity"}, {"depth": 1}, {"codebook_size": [128, 8, 8]}, {"codebook_size": 256}])
    labels = ["codebook_size=256", "codebook_size=[128, 8, 8]", "reference", "depth=1", "model=identity"]
    assert [trial.label for trial in made.missing(())] == labels


def test_stages_are_needed_only_by_missing_trials_and_only_until_stored() -> None:
    made = planned([{}, {"target/training/num_epochs": 3}])
    targets = [stage for stage in made.stages if "target" in stage.title]
    assert len(targets) == 2
    assert made.needed([], {}) == []
    needed = made.needed(made.trials[:1], {})
    assert {stage.key for stage in needed} & {stage.key for stage in targets} == {made.trials[0].config.target_key}
    assert sum(stage.kind == "classifiers" for stage in needed) == 4  # the target and three sources
    left = made.needed(made.trials[:1], {"classifiers": {stage.key for stage in needed}})
    assert left
    assert {stage.kind for stage in left} == {"adversarial", "purifiers"}  # the two trials share their purifier: the target does not change it


def test_stages_stand_after_what_they_need() -> None:
    made = ablations()
    seen: set[str] = set()
    for stage in made.stages:
        assert set(stage.needs) <= seen
        seen.add(stage.key)


def test_extra_attacks_of_a_space_enter_the_evaluation() -> None:
    attacks = ({"attack": "torchattacks:MIFGSM", "options": {"steps": 3}, "threats": ["graybox"], "epsilons": [0.1]},)
    made = planned([{}], attacks=attacks)
    cell = made.evaluation.cells[-1]
    assert (cell.threat, cell.attack, cell.epsilons, cell.options["steps"]) == ("graybox", "torchattacks:MIFGSM", (0.1,), 3)
    assert "torchattacks-" in cell.version
    assert attack_module(cell.attack, cell.threat).VERSION in cell.version
    assert made.trials[0].evaluation_id != planned([{}]).trials[0].evaluation_id
    assert made.trials[0].trial_id == planned([{}]).trials[0].trial_id
    assert "craft graybox torchattacks:MIFGSM" in [stage.title for stage in made.stages]


@pytest.mark.parametrize(
    ("variants", "more", "sentence"),
    [
        ([{}, {"bta": 1}], {}, r"mine, variant 2 \(bta=1\): unknown trial setting 'bta' \(did you mean 'beta'\?\)"),
        ([{}, 3], {}, r"variant 2: a variant is a dict of settings, got 3"),
        ([], {}, r"has no variants"),
        ([{}], {"seeds": 0}, r"seeds must be at least 1, got 0"),
        ([{"dataset": "cifar10"}], {}, r"'dataset' holds for a whole sweep"),
        ([{}], {"settings": {"learing_rate": 1}}, r"did you mean 'learning_rate'"),
        ([{}], {"settings": {"retrainning/num_epochs": 1}}, r"unknown trial setting 'retrainning/num_epochs'"),
        ([{}], {"settings": {"scale": "medium"}}, r"give it with --scale"),
        ([{}], {"settings": {"dataset": "cifar10"}}, r"give it with --dataset"),
        ([{}], {"evaluation_name": "ful"}, r"no evaluation named 'ful' \(did you mean 'full'\?\); available: quick, standard, full"),
        ([{}], {"epsilons": (8.0,)}, r"did you mean 8/255"),
    ],
)
def test_an_unusable_space_is_refused_naming_what_is_wrong(variants: list[Any], more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        planned(variants, **more)


def test_a_base_setting_reaches_every_trial_that_has_it_under_the_variants_own() -> None:
    made = planned([{}, {"beta": 0.0}, {"model": "identity"}], settings={"beta": 3, "num_epochs": 2})
    assert [trial.config.model_options.get("beta") for trial in made.trials] == [3.0, 0.0, None]
    assert {trial.config.training.num_epochs for trial in made.trials} == {2}


def test_a_single_configuration_is_a_plan_of_its_own() -> None:
    config = ablations().trials[3].config
    alone = plan.of_config(config)
    assert alone.trials[0].trial_id == config.trial_id
    assert alone.trials[0].parts == ablations().trials[3].parts


def test_the_longest_begins_first_and_equal_ones_in_the_order_given() -> None:
    a, b, c, d = planned([{"seed": seed} for seed in range(4)]).trials
    seconds = {a.key: 30.0, b.key: 90.0, c.key: 30.0, d.key: 5.0}
    assert longest_first([a, b, c, d], seconds) == [b, a, c, d]


def test_a_sweep_begins_trials_in_its_order_and_records_the_plans(tmp_path: Path, space: Path, splits: Splits) -> None:
    its = small_plan(space, splits.fingerprint)
    begun: list[str] = []

    def execute(job: Job, stages: Any, trials: Sequence[PlannedTrial], view: Any, probes: Any) -> list[Finished]:
        begun.extend(trial.label for trial in trials)
        return []

    run_sweep(its, splits, tmp_path, None, execute, Silent(), order=lambda trials: sorted(trials, key=lambda trial: trial.label))
    assert begun == sorted(trial.label for trial in its.trials)
    assert Results(tmp_path).read("sweeps", ["label"]).column("label").to_pylist() == [trial.label for trial in its.trials]
