"""Which VQUNet should be used? Clean against adaptive robust accuracy, over the quantizer, its codebooks, the loss and what is learned from.

Ranges are those of scale `small` (K up to 128, depth up to 3); for the other scales copy this file and widen them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

OBJECTIVES = {"robust_score": "max", "clean": "max"}
CONSTRAINTS = ["clean_drop <= 0.01"]  # against the target without a purifier: at most 1 % of the images
BUDGET = {"trials": 40}
SAMPLER = "tpe"
SCHEDULER = "halving"
RUNGS = (5,)  # of 10 epochs; see docs/results/search-digits.md for how well it foretells the end
# The reference of the ablations, tried first.
FIRST = [
    {"quantizer": "paper", "depth": 3, **{f"codebook_size/{level}": 64 for level in (1, 2, 3)}, "code_dim": None, "beta": 1.0,
     "learning_rate": 4e-3, "train_input": "clean"}
]  # fmt: skip


def suggest(trial: "optuna.Trial") -> dict[str, Any]:
    """Ask for the settings that are searched, and return those that stay fixed."""
    quantizer = trial.suggest_categorical("quantizer", ["paper", "ema", "cosine", "rotation", "fsq", "none"])
    depth = trial.suggest_int("depth", 1, 3)
    if quantizer != "none":
        for level in range(1, depth + 1):  # a codebook of its own at each depth
            trial.suggest_int(f"codebook_size/{level}", 8, 128, log=True)
    if quantizer in ("paper", "ema", "cosine", "rotation"):  # the others have no codes to learn
        trial.suggest_categorical("code_dim", [None, 8, 4])
        trial.suggest_float("beta", 0.05, 4.0, log=True)
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    train_input = trial.suggest_categorical("train_input", ["clean", "gauss", "adv"])
    if train_input == "gauss":
        trial.suggest_float("train_noise", 0.02, 0.5, log=True)
    if train_input == "adv":
        trial.suggest_float("train_epsilon", 0.02, 0.3, log=True)
    return {"model": "vqunet"}
