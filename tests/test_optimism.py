"""What choosing the best row costs in honesty: nothing without a choice, as much as fresh images take back where rows are noise."""

from pathlib import Path

import numpy as np
import pytest
from checked_tables import N, Row, set_correct, sound
from numpy.typing import NDArray

from sweeper.optimism import Optimism, optimism_of_best, optimism_of_first
from sweeper.ranking import rank
from sweeper.results import Results


def noise(rows: int, images: int, seed: int) -> NDArray[np.float64]:
    """Outcomes of rows that differ by nothing but chance; images differ in how hard they are, for all rows alike."""
    generator = np.random.default_rng(seed)
    hard = generator.uniform(0.3, 0.7, images)
    return (generator.random((rows, images)) < hard).astype(np.float64)


@pytest.mark.parametrize(("rows", "images"), [(2, 60), (12, 100)])
def test_rows_of_noise_lose_on_fresh_images_what_the_bootstrap_says(rows: int, images: int) -> None:
    lost, expected = [], []
    for seed in range(300):
        scores = noise(rows, images, seed)
        best = scores.mean(axis=1).argmax()
        lost.append(scores[best].mean() - noise(rows, images, 10_000 + seed)[best].mean())
        expected.append(optimism_of_best(scores, resamples=200))
    assert np.mean(lost) > 0.01
    assert np.mean(expected) == pytest.approx(np.mean(lost), abs=4 * np.std(lost) / np.sqrt(len(lost)))
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=0.25)  # Efron's would be 2^-1/2 of it


def test_a_choice_between_two_images_is_worked_out_by_hand() -> None:
    # On all images the first row wins a tie. Drawn (0, 0): the first is chosen, the same row, 0. Drawn (1, 1): the second is chosen, which on the
    # image left out, 0, loses 1 to the first. Drawn both: nothing is left out. So half of 1.
    assert optimism_of_best([[1, 0], [0, 1]], resamples=20_000) == pytest.approx(0.5, abs=0.02)


def test_one_row_has_no_optimism() -> None:
    assert optimism_of_best(noise(1, 100, 0)) == 0
    assert optimism_of_first([("a", noise(1, 100, 0)[0])]) is None


def test_a_row_far_ahead_has_none_either() -> None:
    scores = noise(20, 200, 0)
    scores[7] = 1
    assert optimism_of_best(scores) == 0


def test_what_is_common_to_all_rows_changes_nothing() -> None:
    scores, common = noise(10, 64, 0), np.random.default_rng(1).integers(0, 8, 64)
    assert optimism_of_best(scores + common) == pytest.approx(optimism_of_best(scores), abs=1e-6)
    assert optimism_of_best(scores) == optimism_of_best(scores)


def test_only_rows_on_the_same_images_are_chosen_from() -> None:
    first, second, elsewhere = noise(3, 50, 0)
    found = optimism_of_first([("a", first), ("a", second), ("b", elsewhere[:40])])
    assert found == Optimism(optimism_of_best([first, second]), 2, 50)


@pytest.mark.parametrize("scores", [[1.0, 0.0], [[1.0]], np.zeros((0, 4))])
def test_too_little_to_choose_from_is_refused(scores: object) -> None:
    with pytest.raises(ValueError, match=r"at least one row and two images, got shape"):
        optimism_of_best(scores)  # pyright: ignore[reportArgumentType]


def test_a_share_below_a_tenth_of_a_point_is_called_so() -> None:
    assert "flatters it by about 1.3 points (bootstrap over images alone" in Optimism(0.0131, 14, 240).sentence("test")
    assert "of 14 rows on these 240 validation images flatters it by less than 0.1 points" in Optimism(-1e-4, 14, 240).sentence("validation")


def test_a_ranking_by_robust_score_says_it_and_no_other_does(tmp_path: Path) -> None:
    results = sound(tmp_path)
    ranking = rank(results, "sound")
    assert ranking.optimism == Optimism(0, 5, N)  # the best survives wherever any other does
    assert f"Choosing the best of 5 rows on these {N} test images flatters it by less than 0.1 points" in "\n".join(ranking.notes)
    other = rank(results, "sound", by="clean")
    assert other.optimism is None and not any("Choosing" in note for note in other.notes)


def test_unranked_rows_are_not_chosen_from(tmp_path: Path) -> None:
    def rise(row: Row) -> None:
        if row["label"] in ("plain", "blur") and row["threat"] == "graybox" and row["attack"] == "fgsm" and row["epsilon"] == 0.1:
            set_correct(row, 960)

    optimism = rank(Results(sound(tmp_path, rise).root), "sound").optimism
    assert optimism is not None and optimism.rows == 3


def test_seeds_are_averaged_image_by_image(tmp_path: Path) -> None:
    def shift(row: Row) -> None:  # two rows that are equal on average, and differ in which images they keep
        if row.get("broken_at") is not None and row["label"] == "plain":
            row["broken_at"] = np.roll(np.where(np.arange(N) < 400, np.inf, 0).astype(np.float32), 300 * row["seed"])
        if row.get("broken_at") is not None and row["label"] == "quantized":
            row["broken_at"] = np.where(np.arange(N) < 400, np.inf, 0).astype(np.float32)

    results = sound(tmp_path, shift, variants=("plain", "quantized"), seeds=2)
    first, second = np.where(np.arange(N) < 400, 1.0, 0.0), np.roll(np.where(np.arange(N) < 400, 1.0, 0.0), 300)
    optimism = rank(results, "sound", unchecked=True).optimism
    assert optimism is not None and optimism.value == pytest.approx(optimism_of_best([(first + second) / 2, first]), abs=1e-6)
