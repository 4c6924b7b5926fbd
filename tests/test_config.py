"""Settings are checked once, with a sentence that helps; keys hold what results depend on, and nothing else."""

import json
from typing import Any

import pytest
from small_sweep import digits_config

from sweeper.canonical import canonical_json, key_of
from sweeper.config import TrialConfig, resolve
from sweeper.evaluations import Cell
from sweeper.keys import attack_label, evaluation_id, expected_parts, outcome_key, sample_set_id, set_key
from sweeper.options import attack_options, check_epsilons
from sweeper.recipes import Phase, Training
from sweeper.scales import evaluation, trial_defaults

PHASES = [{"num_epochs": 2, "learning_rate": 4e-3, "loss_weights": {"beta": 0.5}}, {"num_epochs": 3, "learning_rate": 1e-3}]
KEYS = ("target_key", "purifier_key", "retrained_key", "defense_key", "trial_id", "variant_id")

SIZES = {"codebook_size": [8, 4, 2]}
FSQ_SIZES = {"codebook_size": [64, 32, 16], "quantizer": "fsq", "vq_levels": [2, 3]}


def keys(**settings: Any) -> dict[str, str]:
    config = digits_config(**settings)
    return {name: getattr(config, name) for name in KEYS}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learing_rate": 1e-3}, r"unknown trial setting 'learing_rate' \(did you mean 'learning_rate'\?\); known settings: adversary, "),
        ({"codebok_size": 8}, r"did you mean 'codebook_size'"),
        ({"learning_rate": -0.001}, r"'learning_rate': input should be greater than 0, got -0.001"),
        ({"learning_rate": float("nan")}, r"NaN|nan|finite"),
        ({"num_epochs": 0}, r"'num_epochs': input should be greater than or equal to 1, got 0"),
        ({"num_epochs": 1.5}, r"'num_epochs': input should be a valid integer"),
        ({"codebook_size": -1}, r"codebook_size must be a whole number of at least 1, got -1"),
        ({"codebook_size": "many"}, r"^vqunet option 'codebook_size': [^;]*got 'many'$"),
        ({"codebook_size": [64, "many", 16]}, r"^vqunet option 'codebook_size/1': [^;]*got 'many'$"),
        ({"codebook_size": [64, 32]}, r"codebook_size must be one .* for each depth \(depth is 3\), got \[64, 32\]"),
        ({"beta": -1}, r"beta must be a number of at least 0"),
        ({"vq_levels": [1, 9]}, r"vq_levels must lie in 1 to depth \(3\)"),
        ({"retrain": "non"}, r"'retrain': input should be 'none', 'finetune', 'scratch' or 'mix', got 'non'"),
        ({"model": "vqunett"}, r"no model named 'vqunett' \(did you mean 'vqunet'\?\)"),
        ({"model": "wide_resnet"}, r"model 'wide_resnet' is a classifier, and a purifier is needed here"),
        ({"target__model": "identity"}, r"model 'identity' is a purifier, and a classifier is needed here"),
        ({"retraining__num_epoch": 1}, r"'retraining/num_epoch' \(did you mean 'retraining/num_epochs'\?\)"),
        ({"retrainning__num_epochs": 1}, r"unknown trial setting 'retrainning/num_epochs'"),
        ({"training__num_epochs__x": 1}, r"'training/num_epochs' has no settings of its own"),
        ({"retraining": 3}, r"its settings are paths, such as 'retraining/num_epochs'"),
        ({"target__model_options__widht": 1}, r"unknown wide_resnet option 'widht' \(did you mean 'width'\?\)"),
        ({"fingerprint": "x"}, r"unknown trial setting 'fingerprint'"),
        (
            {"phases": PHASES, "num_epochs": 4},
            r"num_epochs of a training with phases must be 5, the sum of its phases' \(2 \+ 3\), or left out, got 4",
        ),
        ({"phases": PHASES, "learning_rate": 0.1}, r"learning_rate .* must be 0.004, the largest of its phases', or left out, got 0.1"),
        ({"phases": PHASES, "training__schedule": "cosine"}, r"schedule .* must be constant, since each phase has one .*, or left out, got 'cosine'"),
        ({"phases": "2"}, r"phases must be a list such as \[\{\"num_epochs\": 2, \"learning_rate\": 0.004\}\], got '2'"),
        ({"phases": [PHASES[0], {"num_epochs": 0, "learning_rate": 1}]}, r"setting of phase 2 'num_epochs': .* greater than or equal to 1, got 0"),
        ({"phases": [{"num_epochs": 1, "learning_rat": 1}]}, r"unknown setting of phase 1 'learning_rat' \(did you mean 'learning_rate'\?\)"),
        ({"phases": [{**PHASES[0], "loss_weights": {"beta": -1}}]}, r"setting of phase 1 'loss_weights/beta': .* greater than or equal to 0, got -1"),
        ({"phases": PHASES, "model": "unet"}, r"phase 1 sets the loss weight 'beta'; model 'unet' has alpha$"),
        ({"phases": PHASES, "model": "identity"}, r"loss weight 'beta'; model 'identity' has none that can change during a training"),
        ({"phases": PHASES, "quantizer": "fsq"}, r"phase 1 sets the loss weight 'beta' to 0.5, and model 'vqunet' has no such term here"),
        ({"retraining__phases": PHASES}, r"only a purifier's training has phases, .*`retraining` and `target/training` .* got \[\{'num_epochs': 2"),
        ({"target__training__phases": PHASES}, r"only a purifier's training has phases"),
    ],
)
def test_an_unusable_setting_is_named_with_what_would_be_accepted(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        digits_config(**settings)


def test_a_training_without_phases_is_dumped_as_before_there_were_any() -> None:
    fields = {"num_epochs", "batch_size", "learning_rate", "optimizer", "schedule", "weight_decay", "augment"}
    config = digits_config()
    trainings = [config.training, config.retraining, config.target.training]
    assert [set(each.model_dump()) for each in trainings] == [set(json.loads(canonical_json(each))) for each in trainings] == [fields] * 3
    assert "phases" not in canonical_json(config) + config.model_dump_json() + str(config.model_dump(exclude={"seed"}))
    assert "phases" not in digits_config(phases=PHASES).model_dump()["retraining"]
    assert keys(phases=[]) == keys()


def test_phases_say_epochs_learning_rate_and_schedule_in_place_of_the_defaults() -> None:
    for scale in ("small", "medium"):
        training = resolve(trial_defaults("digits", scale), {"phases": PHASES}).training
        assert (training.num_epochs, training.learning_rate, training.schedule) == (5, 4e-3, "constant")
    agreeing = {"num_epochs": 5, "learning_rate": 4e-3, "training__schedule": "constant"}
    assert keys(training__phases=PHASES, **agreeing) == keys(phases=PHASES) != keys(**agreeing)
    assert [training.stretch(epoch) for epoch in (1, 2, 3, 5)] == [(1, 2, training.phases[0])] * 2 + [(3, 3, training.phases[1])] * 2
    assert Training(num_epochs=7, batch_size=2, learning_rate=1).stretch(4) == (1, 7, None)


def test_a_phase_has_every_loss_weight_of_its_model_by_name_or_from_the_options() -> None:
    config = digits_config(phases=PHASES, beta=3)
    assert [phase.loss_weights for phase in config.training.phases] == [{"alpha": 1.0, "beta": 0.5}, {"alpha": 1.0, "beta": 3.0}]
    named = [PHASES[0], PHASES[1] | {"loss_weights": {"beta": 3, "alpha": 1}}]
    assert keys(phases=named, beta=3) == keys(phases=PHASES, beta=3) != keys(phases=PHASES)
    assert digits_config(phases=PHASES[1:], model="ape_gan").training.phases == (Phase(num_epochs=3, learning_rate=1e-3),)


def test_the_key_at_a_phases_end_is_that_of_the_training_that_ends_there() -> None:
    three = [*PHASES, {"num_epochs": 1, "learning_rate": 2e-2}]
    for more in ({}, {"passes": 2}, {"seed": 3, "train_input": "adv"}):
        config = digits_config(phases=three, **more)
        ends = {sum(phase["num_epochs"] for phase in three[:count]): digits_config(phases=three[:count], **more) for count in (1, 2, 3)}
        assert config.phase_keys == {epoch: each.weights_key for epoch, each in ends.items()}
        assert list(config.phase_keys) == [2, 5, 6]
        assert len(set(config.phase_keys.values())) == 3
    assert digits_config().phase_keys == {}


def test_a_setting_of_another_model_is_left_out_only_when_asked() -> None:
    defaults = trial_defaults("digits", "small")
    with pytest.raises(ValueError, match="unknown trial setting 'beta'"):
        resolve(defaults, {"model": "identity", "beta": 2.0})
    ignored = resolve(defaults, {"model": "identity", "beta": 2.0}, ignore=frozenset({"beta"}))
    assert ignored == resolve(defaults, {"model": "identity"})


def test_epsilon_above_one_is_asked_whether_a_fraction_was_meant() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\].*got 8; did you mean 8/255\?"):
        check_epsilons((0.1, 8.0))
    for value in (-0.1, 300.0, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\]"):
            check_epsilons((value,))
    with pytest.raises(ValueError, match="at least one"):
        check_epsilons(())
    assert check_epsilons((0.3, 0.1, 0.3)) == (0.1, 0.3)


def test_switching_quantization_off_is_the_model_unet() -> None:
    assert keys(quantize=False) == keys(model="unet")
    assert keys(quantize=False, codebook_size=16) == keys(model="unet")
    assert digits_config(quantize=False).model == "unet"


def test_ints_and_floats_of_one_value_give_one_key() -> None:
    assert keys(alpha=2, weight_decay=0, learning_rate=1) == keys(alpha=2.0, weight_decay=0.0, learning_rate=1.0)
    assert attack_options("torchattacks:PGD", "graybox", {"alpha": 1}) == attack_options("torchattacks:PGD", "graybox", {"alpha": 1.0})
    assert '"alpha":1.0' in canonical_json(attack_options("torchattacks:PGD", "graybox", {"alpha": 1}))
    assert Cell(threat="graybox", attack="pgd", epsilons=(1,)) == Cell(threat="graybox", attack="pgd", epsilons=(1.0,))


def test_vq_levels_that_are_all_levels_are_the_default() -> None:
    assert keys(vq_levels=[3, 2, 1]) == keys()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"codebook_size": [64, 64, 64]}, {}),  # the scale's own
        ({"codebook_size": [8, 8, 8]}, {"codebook_size": 8}),
        ({"codebook_size": [256, 240, 230], "quantizer": "fsq"}, {"codebook_size": 256, "quantizer": "fsq"}),  # one grid, of 240 codes
        ({"codebook_size": [8, 3, 8], "vq_levels": [1, 3]}, {"codebook_size": 8, "vq_levels": [1, 3]}),
        ({"codebook_size": [3, 8, 5], "vq_levels": [2], "quantizer": "lfq"}, {"codebook_size": 8, "vq_levels": [2], "quantizer": "lfq"}),
        ({"codebook_size": [8, 3, 4], "vq_levels": [1, 3]}, {"codebook_size": [8, 5, 4], "vq_levels": [1, 3]}),
        ({"codebook_size": [3, 8, 4], "vq_levels": [3, 2]}, {"codebook_size": [8, 8, 4], "vq_levels": [2, 3]}),
        ({"codebook_size": [8, 4, 2], "quantize": False}, {"model": "unet"}),
    ],
)
def test_codebook_sizes_of_one_network_have_one_key(settings: dict[str, Any], same: dict[str, Any]) -> None:
    assert keys(**settings) == keys(**same)


def test_each_quantized_depths_codebook_size_makes_another_trial() -> None:
    sizes = [8, [16, 8, 8], [8, 16, 8], [8, 8, 16], [16, 16, 8]]
    assert len({keys(codebook_size=size)["trial_id"] for size in sizes}) == len(sizes)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"learning_rate": 1e-3}, {"purifier_key", "retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"codebook_size": 8}, {"purifier_key", "retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"train_input": "gauss"}, {"purifier_key", "retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"retraining__num_epochs": 1}, {"retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"retrain": "none"}, {"retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"target__training__num_epochs": 1}, {"target_key", "retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"target_seed": 1}, {"target_key", "retrained_key", "defense_key", "trial_id", "variant_id"}),
        ({"numerics__threads": 2}, set(KEYS)),
        ({"seed": 1}, {"purifier_key", "retrained_key", "defense_key", "trial_id"}),
        ({"train_noise": 0.2}, {"variant_id"}),  # unused while train_input is clean: the same trial
    ],
)
def test_a_setting_changes_the_keys_that_depend_on_it_and_no_other(settings: dict[str, Any], changed: set[str]) -> None:
    before, after = keys(), keys(**settings)
    assert {name for name in KEYS if before[name] != after[name]} == changed


def test_adversarial_training_input_depends_on_the_target() -> None:
    adversarial = {"train_input": "adv"}
    assert keys(**adversarial)["purifier_key"] != keys(**adversarial, target__training__num_epochs=1)["purifier_key"]
    assert keys(train_input="gauss")["purifier_key"] != keys(train_input="gauss", train_noise=0.2)["purifier_key"]


def test_an_untrained_purifier_depends_on_neither_seed_nor_recipe() -> None:
    assert keys(model="identity", num_epochs=3, seed=4)["purifier_key"] == keys(model="identity")["purifier_key"]


def test_the_data_enter_every_trained_key_and_caps_only_through_them() -> None:
    config = digits_config()
    other = config.model_copy(update={"fingerprint": "e" * 64})
    assert all(getattr(config, name) != getattr(other, name) for name in KEYS)
    capped = config.model_copy(update={"train_images": 500})
    assert [getattr(config, name) for name in KEYS[:-1]] == [getattr(capped, name) for name in KEYS[:-1]]


def test_a_bumped_version_changes_the_keys_of_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr("models._quantizers.VERSION", 2)
    assert {name for name in KEYS if keys()[name] != before[name]} == {"purifier_key", "retrained_key", "defense_key", "trial_id", "variant_id"}
    monkeypatch.setattr("sweeper.config.TRAINING_VERSION", 2)
    assert keys()["target_key"] != before["target_key"]


def test_another_evaluation_leaves_the_trial_and_changes_only_the_evaluation() -> None:
    config = digits_config()
    standard, finer = evaluation("standard", "digits", "small"), evaluation("standard", "digits", "small", epsilons=(0.02,))
    assert evaluation_id(config, standard) != evaluation_id(config, finer)
    parts = [set(expected_parts(config, each, config.trial_id, evaluation_id(config, each))) for each in (standard, finer)]
    assert f"trials/{config.trial_id}" in parts[0] & parts[1]
    adaptive = standard.cells[-1]
    assert outcome_key(config, standard, adaptive) == outcome_key(config, finer, adaptive)  # found again by the other evaluation


def test_shared_sets_are_the_same_for_all_purifiers_and_outcomes_are_not() -> None:
    standard = evaluation("standard", "digits", "small")
    for cell in standard.cells[1:9]:
        one, other = digits_config(), digits_config(codebook_size=8, seed=3)
        assert set_key(one, standard, cell) == set_key(other, standard, cell)
        assert outcome_key(one, standard, cell) != outcome_key(other, standard, cell)


def test_a_stored_configuration_reads_back_as_the_same_trial() -> None:
    for settings in (
        {},
        {"vq_levels": [1, 3]},
        {"quantize": False},
        {"model": "identity", "retrain": "none"},
        {"model": "mean_blur"},
        SIZES,
        FSQ_SIZES,
        {"phases": PHASES},
    ):
        config = digits_config(**settings)
        again = TrialConfig.model_validate(json.loads(canonical_json(config)))
        assert (again, again.trial_id, again.variant_id) == (config, config.trial_id, config.variant_id)
        assert TrialConfig.model_validate_json(config.model_dump_json()) == config


def test_canonical_json_sorts_names_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": (1.0, None)}) == '{"a":[1.0,null],"b":1}'
    assert key_of("x", a=1, b=2) == key_of("x", b=2, a=1) != key_of("y", a=1, b=2)
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_extra_attacks_are_validated_before_any_work() -> None:
    def extra(**entry: Any) -> Any:
        return evaluation("standard", "digits", "small", [entry]).cells

    for entry, sentence in (
        ({"attack": "pgdd"}, "did you mean 'pgd'"),
        ({"attack": "pgd", "options": {"num_step": 3}}, "did you mean 'num_steps'"),
        ({"attack": "pgd", "epsilons": [8]}, "did you mean 8/255"),
        ({"attack": "pgd", "epsilons": []}, "at least one"),
        ({"attack": "pgd", "images": 0}, "'images': input should be greater than or equal to 1"),
        ({"attack": "pgd", "threats": ["white"]}, "must be of graybox, transfer, adaptive, adaptive_bpda, adaptive_soft, got 'white'"),
        ({"attack": "pgd", "thread": 1}, "unknown attack setting 'thread'"),
        ({"options": {}}, "needs a name under 'attack'"),
        ({"attack": "torchattacks:APGD"}, "returns the clean image where it fails"),
        ({"attack": "torchattacks:FGSMM"}, "is unknown; available"),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            extra(**entry)
        assert "errors.pydantic.dev" not in str(caught.value)


def test_two_runs_of_one_attack_under_one_threat_have_different_labels() -> None:
    entries = [{"attack": "pgd", "options": {"num_steps": 3}}, {"attack": "pgd", "images": 64}, {"attack": "pgd"}]
    chosen = evaluation("standard", "digits", "small", entries)
    labels = [attack_label(cell, chosen) for cell in chosen.cells if (cell.threat, cell.attack) == ("graybox", "pgd")]
    assert len(labels) == len(set(labels)) == 3  # the last entry repeats the standard cell and adds nothing
    assert attack_label(chosen.cells[1], chosen) == "fgsm"


def test_sample_sets_differ_by_images_order_and_number_of_sources() -> None:
    names = {sample_set_id("test", ids, sources) for ids, sources in (("ab", 3), ("ba", 3), ("a", 3), ("ab", 0))}
    assert len(names) == 4
