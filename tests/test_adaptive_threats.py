"""Attackers who know the whole defense: other gradients through the purifier, other attacks, and the evaluation that runs them all."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_sweep import SETTINGS, Silent
from torch import Tensor, nn

from attacks import _autoattack, bim
from attacks._ascending import ascend
from models import vqunet
from sweeper.datasets import Splits
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.materials import SampleSet
from sweeper.options import attack_options
from sweeper.plan import from_space
from sweeper.ranking import AUTOATTACK_PARTS, rank
from sweeper.results import Results
from sweeper.scales import evaluation
from sweeper.scoring import Defense, score_adaptive
from sweeper.statistics import image_scores
from sweeper.sweep import inline, run_sweep

EPSILONS = (0.05, 0.1, 0.3)
SHORT = [
    {"attack": "pgd", "threats": ["adaptive_bpda"], "options": {"num_steps": 3}, "epsilons": EPSILONS},
    {"attack": "apgd_ce", "threats": ["adaptive"], "options": {"num_steps": 3}, "epsilons": EPSILONS},
    {"attack": "square", "threats": ["adaptive"], "options": {"num_queries": 20}, "epsilons": EPSILONS},
]


def samples(count: int = 12) -> SampleSet:
    images = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = (images.flatten(1).mean(1) > images.mean()).long()
    ids, none = tuple(map(str, range(count))), torch.zeros(count, dtype=torch.int64)
    return SampleSet("test", "test", torch.arange(count), ids, images, labels, torch.arange(count), none)


class Brightness(nn.Module):
    """Tells bright from dark images."""

    def forward(self, images: Tensor) -> Tensor:
        bright = 20 * (images.flatten(1).mean(1) - 0.5)
        return torch.stack([-bright, bright], 1)


class Flipped(nn.Module):
    """A purifier whose gradient points the wrong way, by a trick: forward it is the identity."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach() - (images - images.detach())


def broken(threat: str, attack: str = "pgd", purifier: nn.Module | None = None, **options: Any) -> Tensor:
    cell = Cell(threat=threat, attack=attack, options=attack_options(attack, threat, options), epsilons=EPSILONS)  # pyright: ignore[reportArgumentType]
    defense = Defense(purifier or nn.Identity(), Brightness()).eval()
    found = score_adaptive(defense, "original", samples(), cell, content="c", batch_size=8).broken_at
    assert found is not None
    return found


def test_the_identitys_gradient_finds_what_a_misleading_gradient_hides() -> None:
    honest = broken("adaptive")
    assert broken("adaptive", purifier=Flipped()).sum() > honest.sum()  # it climbs the wrong way
    assert torch.equal(broken("adaptive_bpda", purifier=Flipped()), honest)


def test_any_attack_runs_white_box_over_ascending_epsilons() -> None:
    by_name = broken("adaptive", "bim")
    chosen = samples()
    direct = bim.perturb(Brightness(), chosen.images, chosen.labels, epsilons=EPSILONS, keys=chosen.keys)
    wrong = torch.stack([Brightness()(images).argmax(1) != chosen.labels for images in direct])
    first = [next((e for e, is_wrong in zip(EPSILONS, column, strict=True) if is_wrong), torch.inf) for column in wrong.T.tolist()]
    clean = Brightness()(chosen.images).argmax(1) != chosen.labels
    assert torch.equal(by_name, torch.where(clean, 0.0, torch.tensor(first)))


def test_a_soft_assignment_without_a_codebook_is_the_plain_attack_from_random_starts() -> None:
    chosen = samples()
    again = ascend(Brightness(), chosen.images, chosen.labels, epsilons=EPSILONS, keys=chosen.keys, first_start=1)
    assert torch.equal(broken("adaptive_soft"), again.broken_at)


def test_a_soft_assignment_survivor_survived_every_temperature_and_values_are_unchanged() -> None:
    torch.manual_seed(0)
    purifier = vqunet.build(vqunet.Config(depth=1, base_width=2, codebook_size=4), (1, 8, 8), 2).eval()
    before = purifier(samples().images)
    assert bool((broken("adaptive_soft", purifier=purifier) >= 0).all())
    assert torch.equal(purifier(samples().images), before)
    assert all(part.soft_temperature is None for part in purifier.modules() if hasattr(part, "soft_temperature"))


def test_the_full_evaluation_holds_every_attacker_on_every_image() -> None:
    full = evaluation("full", "digits", "small")
    assert {cell.images for cell in full.cells} == {None}
    adaptive = [(cell.threat, cell.attack, cell.options.get("loss")) for cell in full.cells if cell.threat.startswith("adaptive")]
    assert adaptive == [
        ("adaptive", "pgd", "margin"), ("adaptive", "pgd", "ce"), ("adaptive_bpda", "pgd", "margin"), ("adaptive_soft", "pgd", "margin"),
        ("adaptive", "code_flip", None),
        ("adaptive", "apgd_ce", None), ("adaptive", "apgd_t", None), ("adaptive", "fab_t", None), ("adaptive", "square", None),
        ("adaptive", "cw_l2", None),
    ]  # fmt: skip
    assert {cell.source for cell in full.cells if cell.threat == "transfer"} == {0, 1, 2}


def test_autoattack_is_its_four_parts_at_their_own_settings_and_refuses_others() -> None:
    assert AUTOATTACK_PARTS == _autoattack.NAMES
    cells = evaluation("standard", "digits", "small", [{"attack": "autoattack", "threats": ["adaptive"]}]).cells
    assert [cell.attack for cell in cells[-4:]] == list(AUTOATTACK_PARTS)
    assert [cell.options.get("num_steps", cell.options.get("num_queries")) for cell in cells[-4:]] == [100, 100, 100, 5000]
    for entry in ({"threats": ["graybox"]}, {"threats": ["adaptive"], "options": {"num_steps": 10}}):
        with pytest.raises(ValueError, match="autoattack is run at its own settings"):
            evaluation("standard", "digits", "small", [{"attack": "autoattack", **entry}])


def test_a_quick_look_takes_the_middle_epsilon_also_where_there_is_one() -> None:
    for grid, middle in ((None, 0.1), ((0.1,), 0.1), ((0.05, 0.2), 0.05)):
        graybox = next(cell for cell in evaluation("quick", "digits", "small", epsilons=grid).cells if cell.threat == "graybox")
        assert graybox.epsilons == (middle,)


def test_the_version_of_what_is_around_an_attack_is_in_its_key() -> None:
    def version(threat: str, attack: str) -> str:
        return Cell(threat=threat, attack=attack, epsilons=(0.1,)).version  # pyright: ignore[reportArgumentType]

    assert len({version("adaptive", "pgd"), version("adaptive_bpda", "pgd"), version("adaptive", "bim"), version("graybox", "bim")}) == 4


def test_more_adaptive_attackers_of_a_space_lower_its_score(splits: Splits, tmp_path: Path) -> None:
    settings = {**SETTINGS, "base_width": 2, "depth": 1}
    space = cast(ModuleType, SimpleNamespace(variants=lambda: [{}], ATTACKS=SHORT))
    plan = from_space("attacked", space, fingerprint=splits.fingerprint, settings=settings, epsilons=(0.1,))
    assert isinstance(plan.evaluation, EvaluationConfig)
    ended = run_sweep(plan, splits, tmp_path, None, inline, Silent())
    assert [end.status for end in ended] == ["completed"], [end.message for end in ended]
    rows = Results(tmp_path).read("scores", where={"threat": ["adaptive", "adaptive_bpda", "adaptive_soft"]}).to_pylist()
    assert {(row["threat"], row["attack"]) for row in rows} == {
        ("adaptive", "pgd"), ("adaptive_bpda", "pgd"), ("adaptive_soft", "pgd"), ("adaptive", "apgd_ce"), ("adaptive", "square")
    }  # fmt: skip
    assert all(row["achieved_epsilon"] <= row["epsilon"] + 1e-6 for row in rows)
    grids = {(row["threat"], row["attack"]): row["broken_at"] for row in rows if row["broken_at"] is not None}
    worst = [min(column) for column in zip(*grids.values(), strict=True)]
    grid = (0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.3)
    one, all_of_them = (image_scores(broken_at, grid, 0.1).mean() for broken_at in (grids["adaptive", "pgd"], worst))
    ranked = rank(Results(tmp_path), "attacked").rows[0]["robust_score"]
    assert ranked == pytest.approx(all_of_them)
    assert ranked <= one


def test_an_adaptive_attack_on_other_images_is_refused() -> None:
    entry = {"attack": "bim", "threats": ["adaptive"], "images": 10}
    with pytest.raises(ValueError, match=r"run on the images of the evaluation's own \(240\), since robust_score .* got images 10"):
        evaluation("standard", "digits", "small", [entry])
