"""How much does choosing the best of several rows flatter it? Numpy only; from per-image scores, without another run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000


@dataclass(frozen=True)
class Optimism:
    """By how much choosing the best of some rows on some images flatters it, in units of the scores."""

    value: float
    rows: int
    images: int

    def sentence(self, split: str) -> str:
        """Return it in words, in points of a share."""
        points = f"about {100 * self.value:.1f} points" if self.value >= 0.0005 else "less than 0.1 points"
        return (
            f"Choosing the best of {self.rows} rows on these {self.images} {split} images flatters it by {points} "
            "(bootstrap over images alone; another training seed moves it further)."
        )


def optimism_of_first(rows: Sequence[tuple[str, NDArray[np.float64]]]) -> Optimism | None:
    """Return the optimism of the first of ranked rows, chosen among those that share its images; None where there is no other, or one image.

    Args:
        rows: The sample set of each row and its score of every image, best row first.
    """
    same = [scores for name, scores in rows if name == rows[0][0]]
    if len(same) < 2 or len(same[0]) < 2:
        return None
    return Optimism(optimism_of_best(np.stack(same)), len(same), len(same[0]))


def optimism_of_best(scores: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return by how much the mean of the best row, chosen on these images, exceeds what such a choice is worth on other images; in units of scores.

    Images are drawn with replacement, the same ones for all rows. The row that is best on the drawn images was chosen without the images that were
    left out (e^-1 of them), the row that is best on all images with them: the mean difference of the two on the left-out images is what the choice
    took from chance (Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", 2018). It agrees
    with fresh images where rows differ by nothing but noise, and is 0 for one row and for a row far ahead of all others; in between it errs to the
    safe side, since a resample tells rows apart less sharply than all images do. Efron's optimism (the best row's score on the resample minus that
    on all images) finds only the 2^-1/2-th part for rows of noise: the noise of the images themselves is in both of its terms.

    It is about images alone: nothing here knows how far another training seed moves a row.

    Args:
        scores: One value per row and image, (K, N), over the same N images in the same order; K >= 1, N >= 2.
        resamples: How many bootstrap samples.
        seed: Of the resampling: the same scores always give the same answer.

    Raises:
        ValueError: For fewer than two images, or lists of different lengths.
    """
    values = np.asarray(scores, dtype=np.float32)  # half the time of float64
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"optimism needs one score per row and image, at least one row and two images, got shape {values.shape}")
    n = values.shape[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)  # (B, N)
    chosen = (counts @ values.T).argmax(axis=1)
    left_out = counts == 0
    sizes = left_out.sum(axis=1)
    lost = (left_out * (values[values.mean(axis=1, dtype=np.float64).argmax()] - values[chosen])).sum(axis=1, dtype=np.float64)
    return float((lost[sizes > 0] / sizes[sizes > 0]).mean()) if (sizes > 0).any() else 0.0
