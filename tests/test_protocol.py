"""The axes of the protocol: who is attacked, on which images, what a purifier and a retrained classifier learn from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_sweep import SETTINGS, Silent, digits_config, small_plan
from torch import Tensor

from attacks import fgsm
from models import _folding
from sweeper import materials as materials_module
from sweeper.artifacts import content_hash
from sweeper.config import TrialConfig
from sweeper.datasets import Splits
from sweeper.materials import Materials
from sweeper.networks import _disturbance, purifier_of, retrained_of
from sweeper.plan import Plan, from_space
from sweeper.ranking import rank
from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.sweep import inline, run_sweep, state_of

SHORT = {**SETTINGS, "base_width": 2, "depth": 1}


def a_plan(splits: Splits, variants: Sequence[dict[str, Any]], **more: Any) -> Plan:
    space = cast(ModuleType, SimpleNamespace(variants=lambda: list(variants)))
    return from_space("axes", space, fingerprint=splits.fingerprint, **{"settings": SHORT, "epsilons": (0.1,), **more})


def rows_of(root: Path, table: str = "scores", **where: Any) -> list[dict[str, Any]]:
    return Results(root).read(table, where=where or None).to_pylist()


@pytest.fixture(scope="module")
def axes(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> tuple[Plan, Path]:
    """Return a finished sweep whose variants differ in how they are attacked, and in what they share."""
    plan = a_plan(splits, [{}, {"victim": "retrained"}, {"mix": "full"}, {"passes": 2}, {"retrain": "none", "victim": "retrained"}])
    root = tmp_path_factory.mktemp("axes") / "results"
    ended = run_sweep(plan, splits, root, None, inline, Silent())
    assert [end.status for end in ended] == ["completed"] * 5, [end.message for end in ended]
    return plan, root


# How a trial is scored


def test_one_trial_scored_in_several_ways_is_trained_once_and_ranked_in_each(axes: tuple[Plan, Path]) -> None:
    plan, root = axes
    first, retrained, full, twice, undefended = plan.trials
    assert first.trial_id == retrained.trial_id == full.trial_id
    assert len({first.evaluation_id, retrained.evaluation_id, full.evaluation_id}) == 3
    assert undefended.evaluation_id == first.evaluation_id  # without a retrained classifier there is no other victim
    assert len(rows_of(root, "trials")) == 3
    assert len(list((root / "artifacts" / "purifiers").glob("*/*"))) == 1  # also for a second pass
    assert len(list((root / "artifacts" / "retrained").glob("*/*"))) == 2
    ranking = rank(Results(root), "axes", unchecked=True)  # after one epoch a purifier may answer with one image, which C10 finds
    assert {row["label"] for row in ranking.rows} == {trial.label for trial in plan.trials}
    assert [row["status"] for row in ranking.rows] == ["completed"] * 5
    assert not state_of(plan, root).missing


def test_networks_that_several_trials_need_are_stages_and_come_before_them(axes: tuple[Plan, Path]) -> None:
    plan, _ = axes
    shared = [(stage.kind, stage.title) for stage in plan.stages if stage.kind in ("purifiers", "retrained")]
    assert shared == [("purifiers", "train vqunet seed 0"), ("retrained", "retrain for vqunet seed 0")]
    seen: set[str] = set()
    for stage in plan.stages:
        assert set(stage.needs) <= seen
        seen.add(stage.key)


def test_a_retrained_victim_is_what_the_images_are_crafted_on_and_nothing_is_shared(axes: tuple[Plan, Path]) -> None:
    plan, root = axes
    original, retrained = (
        {row["attack"]: row for row in rows_of(root, threat="graybox", classifier="retrained", evaluation_id=trial.evaluation_id)
         if row["trial_id"] == trial.trial_id} for trial in plan.trials[:2]
    )  # fmt: skip
    assert {row["source"] for row in original.values()} == {"wide_resnet"}
    assert {row["source"] for row in retrained.values()} == {"retrained"}
    for attack, row in retrained.items():
        assert row["crafted_on"] == row["scored_on"].partition("+")[2]  # the classifier that is scored
        assert row["crafted_on"] != original[attack]["crafted_on"]
    assert not [stage for stage in plan.stages if stage.cell is not None and stage.cell.victim == "retrained"]


def test_with_mix_full_every_image_is_crafted_on_every_source(axes: tuple[Plan, Path]) -> None:
    plan, root = axes
    full = plan.trials[2]
    rows = rows_of(root, threat="transfer", attack="pgd", classifier="retrained", evaluation_id=full.evaluation_id)
    assert sorted(row["source"] for row in rows) == ["densenet#1", "densenet#2", "densenet#3"]
    assert len({row["crafted_on"] for row in rows}) == 3
    split = rows_of(root, threat="transfer", attack="pgd", classifier="retrained", evaluation_id=plan.trials[0].evaluation_id)
    split = [row for row in split if row["trial_id"] == full.trial_id]
    owner = next(row for row in rows_of(root, "sample_sets") if row["sample_set"] == split[0]["sample_set"])["transfer_source"]
    by_source = {row["source"]: row["outcomes"] for row in rows}
    assert split[0]["outcomes"] == [by_source[f"densenet#{source + 1}"][image] for image, source in enumerate(owner)]


def test_a_second_pass_is_scored_with_the_same_weights(axes: tuple[Plan, Path]) -> None:
    plan, root = axes
    first, twice = plan.trials[0], plan.trials[3]
    assert first.config.weights_key == twice.config.weights_key
    assert first.config.purifier_key != twice.config.purifier_key
    once, again = (next(row for row in rows_of(root, "trials") if row["trial_id"] == trial.trial_id) for trial in (first, twice))
    assert once["passes"] == 1
    assert again["passes"] == 2
    assert once["reconstruction_mse"] != again["reconstruction_mse"]


def test_each_trial_leaves_the_same_eight_images_under_both_threats(axes: tuple[Plan, Path]) -> None:
    plan, root = axes
    strips = rows_of(root, "strips", evaluation_id=plan.trials[0].evaluation_id, trial_id=plan.trials[0].trial_id)
    by_threat = {threat: [row for row in strips if row["threat"] == threat] for threat in ("graybox", "adaptive")}
    assert [row["sample_id"] for row in by_threat["graybox"]] == [row["sample_id"] for row in by_threat["adaptive"]]
    assert len(by_threat["graybox"]) == 8
    assert all(row[name].startswith(b"\x89PNG") for row in strips for name in ("clean", "adversarial", "purified_clean", "purified"))
    clean = {row["sample_id"]: row["clean"] for row in strips}
    assert all(clean[row["sample_id"]] == row["clean"] for row in strips)
    assert any(row["adversarial"] != row["clean"] for row in strips)


def test_the_preset_of_cleverhans_has_its_steps_and_labels() -> None:
    chosen = evaluation("standard", "digits", "small", attack_preset="cleverhans")
    cells = {cell.attack: cell for cell in chosen.cells if cell.threat == "graybox"}
    assert (cells["bim"].options["num_steps"], cells["bim"].options["step_size"]) == (10, 0.05)
    assert (cells["pgd"].options["num_steps"], cells["pgd"].options["step_size"]) == (40, 0.01)
    assert cells["cw_l2"].options["search_steps"] == 5
    assert {cell.labels for cell in cells.values()} == {"predicted"}
    assert [cell.labels for cell in chosen.cells if cell.threat == "adaptive"] == ["true"]


@pytest.mark.parametrize("setting", ["victim", "mix", "attack_preset"])
def test_an_unusable_way_of_scoring_is_named_with_the_variant(splits: Splits, setting: str) -> None:
    with pytest.raises(ValueError, match=rf"axes, variant 2 \({setting}=wrong\): no {setting} named 'wrong'.*; available: "):
        a_plan(splits, [{}, {setting: "wrong"}])


def test_a_space_says_how_many_seeds_it_needs(splits: Splits, space: Path) -> None:
    chosen = cast(ModuleType, SimpleNamespace(variants=lambda: [{}], SEEDS=3))
    assert len(from_space("seeded", chosen, fingerprint=splits.fingerprint).trials) == 3
    assert len(from_space("seeded", chosen, fingerprint=splits.fingerprint, seeds=1).trials) == 1
    assert len(small_plan(space, splits.fingerprint).trials) == 3  # one seed of three variants


# What networks learn from


IMAGES = torch.rand((60, 1, 32, 32), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 10


class Linear(torch.nn.Module):
    """A classifier whose gradient is known: the label's logit falls with the image's sum."""

    def __init__(self, labels: Tensor = LABELS) -> None:
        super().__init__()
        self.labels = labels.reshape(-1)

    def forward(self, images: Tensor) -> Tensor:
        return -images.flatten(1).sum(1, keepdim=True) * torch.nn.functional.one_hot(self.labels[: len(images)], 10)


def inputs_of(**settings: Any) -> Tensor:
    disturb = _disturbance(digits_config(**settings), Linear())
    assert disturb is not None
    return disturb(IMAGES, LABELS, torch.Generator().manual_seed(1))


def test_noisy_inputs_have_the_standard_deviation_asked_for() -> None:
    inner = (IMAGES > 0.4) & (IMAGES < 0.6)  # where [0, 1] cuts nothing
    assert float((inputs_of(train_input="gauss", train_noise=0.05) - IMAGES)[inner].std()) == pytest.approx(0.05, rel=0.05)


def test_attacked_inputs_are_those_of_fgsm_at_an_epsilon_of_each_images_own() -> None:
    inputs = inputs_of(train_input="adv", train_epsilon=0.2)
    drawn = 0.2 * torch.rand((60, 1, 1, 1), generator=torch.Generator().manual_seed(1)).flatten()
    assert 0 < float(drawn.min()) < 0.02 < 0.18 < float(drawn.max()) < 0.2
    for image, label, epsilon, attacked in zip(IMAGES, LABELS, drawn, inputs, strict=True):
        key = torch.zeros(1, dtype=torch.int64)
        expected = fgsm.perturb(Linear(label), image[None], label[None], epsilons=(float(epsilon),), keys=key)[0, 0]
        assert torch.allclose(attacked, expected, atol=1e-6)


def test_of_mixed_inputs_about_a_third_each_is_clean_noisy_and_attacked() -> None:
    inputs = inputs_of(train_input="mix", train_epsilon=0.2, train_noise=0.05)
    change = (inputs - IMAGES).flatten(1)
    clean = int((change == 0).all(1).sum())
    falling = int(((change < 0).float().mean(1) < 0.25).sum()) - clean  # FGSM on this classifier raises every pixel
    assert (clean, falling, 60 - clean - falling) == (pytest.approx(20, abs=9), pytest.approx(20, abs=9), pytest.approx(20, abs=9))


def test_clean_inputs_are_the_images_themselves() -> None:
    assert _disturbance(digits_config(train_input="clean"), None) is None


def test_what_the_inputs_are_enters_the_key_and_what_is_not_used_does_not() -> None:
    def key(**settings: Any) -> str:
        return digits_config(**settings).purifier_key

    assert len({key(train_input=name) for name in ("clean", "gauss", "adv", "mix")}) == 4
    assert key(train_input="gauss") == key(train_input="gauss", train_epsilon=0.2) == key(train_input="gauss", target_seed=1)
    assert key(train_input="adv") == key(train_input="adv", train_noise=0.2)
    before = key(train_input="adv"), key(), key(model="guided_denoiser")
    for module in (fgsm, _folding):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            assert key() == before[1]
            assert key(train_input="adv") != before[0]
            assert (key(model="guided_denoiser") != before[2]) == (module is _folding)
    assert len({key(train_input="adv"), key(train_input="adv", train_epsilon=0.2), key(train_input="adv", target_seed=1)}) == 3
    assert key(model="guided_denoiser") != key(model="guided_denoiser", target_seed=1)  # its loss reads the target
    assert key(model="jpeg") == key(model="jpeg", train_input="adv", seed=1)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> Iterator[Materials]:
    from sweeper.artifacts import Artifacts

    made = Materials(Artifacts(tmp_path_factory.mktemp("networks")), None, torch.device("cpu"))
    made._splits[splits.fingerprint] = splits
    yield made


def config_of(splits: Splits, **settings: Any) -> TrialConfig:
    return a_plan(splits, [{}, {"model": "mean_blur", **settings}]).trials[1].config


def test_each_way_to_retrain_gives_other_weights(materials: Materials, splits: Splits) -> None:
    found: dict[str, str] = {}
    for name, settings in {
        "finetune": {}, "scratch": {"retrain": "scratch"}, "mix": {"retrain": "mix"}, "shifted": {"retraining/augment": True},
        "shifted mix": {"retraining/augment": True, "retrain": "mix"}, "pgd": {"adversary": "pgd"}, "fgsm_rs": {"adversary": "fgsm_rs"},
    }.items():  # fmt: skip
        config = config_of(splits, **settings)
        target = materials.classifier(config, config.target)
        trained = retrained_of(config, materials, target, purifier_of(config, materials))
        assert all(0 <= row["accuracy"] <= 1 for row in trained.epochs)
        assert len(trained.epochs) == (8 if name == "scratch" else 1)  # as the target is trained
        found[name] = content_hash(dict(trained.weights))
    assert len(set(found.values())) == len(found)


def test_a_classifier_retrained_on_the_mix_sees_every_image_twice(materials: Materials, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    fit = materials_module.fit

    def watched(module: torch.nn.Module, images: Tensor, labels: Tensor, *rest: Any, **more: Any) -> Any:
        half = len(images) // 2
        seen.append((len(images), int((images[:half] != images[half:]).flatten(1).any(1).sum())))
        assert torch.equal(labels[:half], labels[half:])
        return fit(module, images, labels, *rest, **more)

    config = config_of(splits, retrain="mix", seed=1)
    target, purifier = materials.classifier(config, config.target), purifier_of(config, materials)
    monkeypatch.setattr(materials_module, "fit", watched)
    retrained_of(config, materials, target, purifier)
    assert seen == [(240, 120)]  # the 120 training images as they are, then blurred, each of them changed


def test_an_adversary_without_a_retrained_classifier_is_refused(splits: Splits) -> None:
    with pytest.raises(ValueError, match="adversary 'pgd' trains the retrained classifier, so retrain must not be 'none'"):
        config_of(splits, adversary="pgd", retrain="none")


def test_the_radius_of_an_adversary_that_is_not_there_changes_no_key(splits: Splits) -> None:
    assert config_of(splits).trial_id == config_of(splits, adversary_epsilon=0.3).trial_id
    assert config_of(splits, adversary="pgd").trial_id != config_of(splits, adversary="pgd", adversary_epsilon=0.3).trial_id


@pytest.mark.parametrize("model", ["defense_cyclegan", "guided_denoiser", "hfl_vae"])
def test_every_kind_of_training_goes_through_the_same_path(materials: Materials, splits: Splits, model: str) -> None:
    small = {"width": 4, "train_input": "adv"} | ({"num_blocks": 1, "discriminator_width": 4} if model == "defense_cyclegan" else {})
    config = config_of(splits, **{"model": model, **small})
    purifier = purifier_of(config, materials)
    assert len(purifier.epochs) == 1
    again = purifier_of(config, materials)
    assert (again.content, again.epochs) == (purifier.content, purifier.epochs)
    if model == "defense_cyclegan":
        generator = config_of(splits, **{"model": model, **small, "purify": "cycle"})
        assert purifier_of(generator, materials).parameters == 2 * purifier.parameters  # and no discriminator
        assert generator.weights_key == config.weights_key


def test_a_space_with_another_pgd_of_its_own_completes(splits: Splits, tmp_path: Path) -> None:
    extra = ({"attack": "pgd", "options": {"num_steps": 2}, "threats": ["graybox"], "images": 10},)
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [{"model": "identity", "retrain": "none"}], ATTACKS=extra))
    plan = from_space("twins", space, fingerprint=splits.fingerprint, settings={n: v for n, v in SETTINGS.items() if n != "codebook_size"})
    ended = run_sweep(plan, splits, tmp_path, None, inline, Silent())
    assert [end.status for end in ended] == ["completed"], [end.message for end in ended]
    assert len({row["attack"] for row in rows_of(tmp_path, threat="graybox") if row["attack"].startswith("pgd#")}) == 2
    assert len(rows_of(tmp_path, "strips")) == 16
