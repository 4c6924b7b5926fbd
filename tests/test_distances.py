"""Distances to the nearest adversarial image: by hand on linear classifiers, and from a search space to the table, `show` and SQL."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from small_models import some_images, trained_net
from small_sweep import EPSILONS, SETTINGS, Silent, SmallSweep
from test_adaptive_threats import Brightness, Flipped, samples
from tiny_sweep import invoke
from torch import Tensor, nn

from attacks import cw_l2
from attacks.cw_l2 import Config, minimum_distances
from models import vqunet
from sweeper.artifacts import Artifacts, Bundle
from sweeper.datasets import Splits
from sweeper.distances import measured
from sweeper.evaluations import Cell
from sweeper.materials import Materials
from sweeper.options import attack_options
from sweeper.plan import Plan, from_space
from sweeper.ranking import rank
from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.scoring import Defense
from sweeper.statistics import quartiles
from sweeper.sweep import inline, run_sweep, state_of
from sweeper.trial import run_trial

THOROUGH = Config(num_steps=300, learning_rate=0.02, search_steps=9)
QUICK: dict[str, Any] = {"num_steps": 30, "learning_rate": 0.1, "search_steps": 3}
DESIGN = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")


def linear(weight: Tensor, bias: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)))
    model[1].weight.data, model[1].bias.data = weight, bias
    return model


def plane(*weight: float, bias: float) -> nn.Module:
    """Return a classifier that says 1 where weight . x + bias > 0."""
    return linear(torch.stack([torch.zeros(len(weight)), torch.tensor(weight)]), torch.tensor([0.0, bias]))


# The attack, by hand


def test_on_a_linear_classifier_the_distance_is_the_margin_over_the_length_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn((5, 16), generator=generator), torch.zeros(5)
    images = 0.4 + 0.2 * torch.rand((12, 1, 4, 4), generator=generator)  # far from 0 and 1, which would stand in the way
    logits = images.flatten(1) @ weight.T
    labels = logits.argmax(1)
    margins = logits.gather(1, labels[:, None]) - logits  # (N, K)
    lengths = (weight[labels][:, None] - weight[None]).norm(dim=2)
    by_hand = (margins / lengths).where(lengths > 0, torch.inf).amin(1)
    assert by_hand.min() > 0.001 and by_hand.max() < 0.4

    found = minimum_distances(linear(weight, bias), images, labels, keys=labels, config=THOROUGH)

    assert found.dtype == torch.float32
    assert (found >= by_hand * (1 - 1e-5)).all()  # nothing is nearer
    assert (found <= by_hand * 1.03 + 1e-4).all()


def test_confidence_is_a_distance_more() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    model = plane(1.0, -2.0, 2.0, 0.0, bias=-1.1)  # w . x + b = -0.6, |w| = 3
    for confidence, by_hand in ((0.0, 0.2), (0.3, 0.3)):
        config = Config(confidence=confidence, num_steps=300, learning_rate=0.02, search_steps=9)
        assert minimum_distances(model, images, labels, keys=labels, config=config).item() == pytest.approx(by_hand, rel=0.02)


def test_what_is_wrong_unperturbed_is_at_zero_and_what_nothing_breaks_at_infinity() -> None:
    images = torch.full((2, 1, 2, 2), 0.5)
    found = minimum_distances(plane(1.0, -2.0, 2.0, 0.0, bias=-4.0), images, torch.tensor([1, 0]), keys=torch.arange(2), config=Config(**QUICK))
    assert found.tolist() == [0, math.inf]  # at most 3 - 4 in [0, 1]


class Duplicitous(nn.Module):
    """Shows another class while gradients are recorded."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + torch.tensor([0.0, self.shift if torch.is_grad_enabled() else 0.0])


def test_only_what_a_plain_forward_pass_confirms_counts() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    model = plane(1.0, -2.0, 2.0, 0.0, bias=-1.1)
    config = Config(num_steps=300, learning_rate=0.02, search_steps=9)
    seems_broken = Duplicitous(model, 0.6 + 1e-3)  # everywhere near the image, where it is not
    assert minimum_distances(model, images, labels, keys=labels, config=config).item() == pytest.approx(0.2, rel=0.02)
    assert minimum_distances(seems_broken, images, labels, keys=labels, config=config).item() == math.inf
    found = minimum_distances(Duplicitous(model, -0.3), images, labels, keys=labels, config=config)
    assert found.item() == pytest.approx(0.3, rel=0.02)  # it stops where the gradient's pass says broken too


def test_distances_are_those_of_the_unclipped_images_and_need_no_batch() -> None:
    images, labels, keys = some_images(8)
    model, config = trained_net(), Config(num_steps=60, learning_rate=0.1)
    found = minimum_distances(model, images, labels, keys=keys, config=config)
    adversarial = cw_l2.perturb(model, images, labels, epsilons=[1.0], keys=keys, config=config)[0]
    assert (model(adversarial).argmax(1) != labels).all()
    assert torch.allclose(found, (adversarial - images).flatten(1).norm(dim=1), rtol=1e-3)
    alone = [minimum_distances(model, images[i : i + 1], labels[i : i + 1], keys=keys[i : i + 1], config=config).item() for i in range(3)]
    assert alone == pytest.approx(found[:3].tolist(), rel=1e-3)


def test_logits_that_are_not_finite_are_refused_and_no_images_have_no_distances() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    with pytest.raises(ValueError, match="the logits are not finite"):
        minimum_distances(plane(1.0, 1.0, 1.0, 1.0, bias=math.nan), images, labels, keys=labels)
    assert minimum_distances(plane(1.0, 1.0, 1.0, 1.0, bias=0.0), images[:0], labels[:0], keys=labels[:0]).shape == (0,)


# Under the threats


def distances_under(threat: str, purifier: nn.Module, batch_size: int = 8) -> Tensor:
    cell = Cell(threat=threat, attack="cw_l2", options=attack_options("cw_l2", threat, QUICK))  # pyright: ignore[reportArgumentType]
    return measured(Defense(purifier, Brightness()).eval(), samples(), cell, content="c", batch_size=batch_size).tensors["distances"]


def test_the_identitys_gradient_finds_what_a_misleading_gradient_hides() -> None:
    honest, misled = distances_under("adaptive", nn.Identity()), distances_under("adaptive", Flipped())
    assert bool(honest.isfinite().all()) and not bool(misled.isfinite().all())
    assert torch.equal(distances_under("adaptive_bpda", Flipped()), honest)
    assert torch.allclose(distances_under("adaptive", nn.Identity(), batch_size=5), honest, rtol=1e-3)


def test_a_soft_assignment_gives_the_least_of_its_temperatures_and_passes_are_counted() -> None:
    torch.manual_seed(0)
    purifier = vqunet.build(vqunet.Config(depth=1, base_width=2, codebook_size=4), (1, 8, 8), 2).eval()
    cells = [
        Cell(threat=threat, attack="cw_l2", options=attack_options("cw_l2", threat, QUICK))  # pyright: ignore[reportArgumentType]
        for threat in ("adaptive", "adaptive_soft")
    ]
    plain, soft = (measured(Defense(purifier, Brightness()).eval(), samples(), cell, content="c", batch_size=8) for cell in cells)
    assert bool((soft.tensors["distances"] >= 0).all()) and soft.tensors["distances"].shape == (12,)
    assert torch.equal(soft.tensors["distances"] == 0, plain.tensors["distances"] == 0)  # wrong without an attack, whatever its gradients
    assert soft.info["forwards"] > plain.info["forwards"] > plain.info["backwards"] > 12  # three searches; and those that confirm
    assert all(part.soft_temperature is None for part in purifier.modules() if hasattr(part, "soft_temperature"))


def test_quartiles_are_values_and_infinity_is_one() -> None:
    assert quartiles([3, math.inf, 1, 2]) == (1, 2, 3)
    assert quartiles([0.5]) == (0.5, 0.5, 0.5)
    assert quartiles([math.inf, 1, math.inf, math.inf, math.inf]) == (math.inf, math.inf, math.inf)  # one of five is less than a quarter
    assert quartiles(range(8)) == (1, 3, 5)


# From a search space to the tables


class Far(NamedTuple):
    root: Path
    plan: Plan

    def rows(self) -> list[dict[str, Any]]:
        return Results(self.root).read("distances").to_pylist()


def a_plan(splits: Splits) -> Plan:
    attacks = [{"attack": "cw_l2", "threats": ["adaptive", "adaptive_bpda", "graybox"], "options": QUICK}]
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [{"quantize": False}, {"model": "identity", "retrain": "none"}], ATTACKS=attacks))
    return from_space("far", space, fingerprint=splits.fingerprint, settings=SETTINGS, epsilons=EPSILONS)


@pytest.fixture(scope="module")
def far(sweep: SmallSweep, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Far:
    """The small sweep's networks and outcomes, and one more attack."""
    root = tmp_path_factory.mktemp("far") / "results"
    shutil.copytree(sweep.root / "artifacts", root / "artifacts")
    plan = a_plan(splits)
    ended = run_sweep(plan, splits, root, None, inline, Silent())
    assert [end.status for end in ended] == ["completed"] * 2, [end.message for end in ended]
    return Far(root, plan)


def test_an_adaptive_cw_l2_leaves_distances_and_no_scores(far: Far) -> None:
    rows = far.rows()
    assert {(row["trial_id"], row["threat"], row["classifier"]) for row in rows} == {
        (trial.trial_id, threat, classifier)
        for trial, classifier in zip(far.plan.trials, ("retrained", "original"), strict=True)
        for threat in ("adaptive", "adaptive_bpda")
    }
    scores = Results(far.root).read("scores", where={"attack": "cw_l2"}).to_pylist()
    assert {row["threat"] for row in scores} == {"graybox"}  # clipped, as before
    clean = {row["trial_id"]: row["outcomes"] for row in Results(far.root).read("scores", where={"threat": "clean"}).to_pylist()
             if row["classifier"] == ("original" if row["trial_id"] == far.plan.trials[1].trial_id else "retrained")}  # fmt: skip
    for row in rows:
        assert (row["attack"], row["norm"], row["source"], row["n"], len(row["distances"])) == ("cw_l2", "l2", "defense", 24, 24)
        assert [distance > 0 for distance in row["distances"]] == clean[row["trial_id"]]  # wrong unperturbed is 0
        assert row["found"] == sum(math.isfinite(distance) for distance in row["distances"]) > 12
        assert row["median"] == sorted(row["distances"])[11]
        assert row["crafted_on"] == row["scored_on"] and row["forwards"] > row["backwards"] > 0
        settings = json.loads(row["attack_settings"])
        assert settings["options"]["num_steps"] == 30 and "distances" in settings["version"]


def test_robust_score_is_what_it_is_without_the_distances(far: Far, sweep: SmallSweep) -> None:
    with_distances, without = (
        {row["label"]: row["robust_score"] for row in rank(Results(root), name).rows} for root, name in ((far.root, "far"), (sweep.root, "small"))
    )
    assert with_distances["model=identity, retrain=none"] == without["model=identity, retrain=none"]
    assert with_distances["reference"] == without["quantize=false"]


def test_distances_are_planned_found_again_and_hidden_until_their_trial_is_finished(far: Far, splits: Splits, tmp_path: Path) -> None:
    assert not state_of(far.plan, far.root).missing
    trial = far.plan.trials[1]
    parts = [part for part in trial.parts if part.startswith("distances/")]
    assert len(parts) == 2
    root = tmp_path / "results"
    shutil.copytree(far.root, root, ignore=shutil.ignore_patterns("compacted", "manifests"))
    key = parts[0].partition("/")[2]
    (root / "parts" / "distances" / key[:2] / f"{key}.parquet").unlink()
    assert state_of(far.plan, root).missing == [trial]

    made: Counter[str] = Counter()

    class Counting(Artifacts):
        def get_or_create(self, kind: str, key: str, make: Callable[[], Bundle]) -> Bundle:
            made.update([] if self.has(kind, key) else [kind])
            return super().get_or_create(kind, key, make)

    run_trial(trial.config, trial.evaluation, Materials(Counting(root), None, torch.device("cpu")), Results(root).publish)
    assert not made and not state_of(far.plan, root).missing
    again = Results(root).read("distances").to_pylist()
    assert sorted(again, key=str) == sorted(far.rows(), key=str)
    shutil.rmtree(root / "parts" / "trials")
    assert Results(root).read("distances").num_rows == 0
    assert Results(root).query("select * from distances")[1] == []
    assert Results(root).read("distances", include_unfinished=True).num_rows == 4


def test_the_design_pages_query_turns_distances_into_accuracies_over_l2_epsilons(far: Far) -> None:
    (statement,) = re.findall(r"^```sql\n(.*?)^```$", DESIGN, re.MULTILINE | re.DOTALL)
    columns, rows = Results(far.root).query(statement)
    assert columns == ["label", "seed", "threat", "epsilon", "accuracy"]
    labels = {trial.trial_id: trial.label for trial in far.plan.trials}
    by_hand = {
        (labels[row["trial_id"]], 0, row["threat"], epsilon): sum(distance > epsilon for distance in row["distances"]) / 24
        for row in far.rows()
        for epsilon in (0, 0.25, 0.5, 1, 2)
    }
    assert {row[:4]: row[4] for row in rows} == pytest.approx(by_hand)
    assert len(set(by_hand.values())) > 3


def test_show_prints_the_quartiles(far: Far) -> None:
    trial = far.plan.trials[1].trial_id
    (row,) = (row for row in far.rows() if (row["trial_id"], row["threat"]) == (trial, "adaptive"))
    shown = json.loads(invoke("show", trial, "--results", far.root, "--format", "json").stdout)["distances"]
    (mine,) = (each for each in shown if each["threat"] == "adaptive")
    ordered = sorted(row["distances"])
    assert [mine[name] for name in ("quarter", "median", "three_quarters")] == [ordered[5], ordered[11], ordered[17]]
    text = invoke("show", trial, "--results", far.root).stdout
    assert "distance to the nearest adversarial image" in text and f"{ordered[11]:.3f}" in text


# Settings


def test_the_full_evaluation_measures_on_its_adaptive_images_with_a_shorter_search_at_small() -> None:
    for scale, steps in (("small", 400), ("medium", 1000)):
        (cell,) = (cell for cell in evaluation("full", "digits", scale).cells if cell.measures_distance)
        assert (cell.threat, cell.attack, cell.images, cell.epsilons, cell.options["num_steps"]) == ("adaptive", "cw_l2", None, (0.0,), steps)


def test_a_space_cannot_give_distances_an_epsilon_but_the_clipped_form_keeps_its_own() -> None:
    with pytest.raises(ValueError, match=r"cw_l2 measures distances under adaptive and has no epsilons; got \[0.1\]"):
        evaluation("standard", "digits", "small", [{"attack": "cw_l2", "threats": ["adaptive"], "epsilons": [0.1]}])
    entry = {"attack": "cw_l2", "threats": ["graybox", "adaptive"], "epsilons": [0.1]}
    graybox, adaptive = evaluation("standard", "digits", "small", [entry]).cells[-2:]
    assert (graybox.epsilons, graybox.measures_distance) == ((0.1,), False)
    assert (adaptive.epsilons, adaptive.measures_distance, adaptive.images) == ((0.0,), True, 240)
    assert graybox.version != adaptive.version
