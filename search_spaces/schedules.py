"""Which schedule of learning rate and loss weights? Six VQUNets are trained side by side; the worst take over the weights of the best and vary them.

Population-based training (Jaderberg et al., 2017, arXiv:1711.09846), small: a first look at whether a schedule is worth anything on digits.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

OBJECTIVES = {"robust_score": "max"}
SCHEDULER = "pbt"
POPULATION = 6  # members
GENERATIONS = 3  # each member is scored so often; after each but the last it may give way to another
PHASE_EPOCHS = 2  # of each generation


def suggest(trial: "optuna.Trial") -> dict[str, Any]:
    """Ask for the values that the members begin with, and return the settings that stay fixed."""
    trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    trial.suggest_float("beta", 0.05, 4.0, log=True)
    return {"model": "vqunet"}
