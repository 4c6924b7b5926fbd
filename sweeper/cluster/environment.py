"""The settings that Ray reads from the environment when it is imported. Set only where the user has not."""

import os

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console engine prints tables whatever `verbose` says
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, and our tables need no farewell
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # our own queue gives as many as there is room for; by default workers would start one after the other
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
# Transparent huge pages for the workers' tensors: 9 instead of 11 CPU seconds for a part of the adaptive attack. glibc reads it at a process's start.
FAST = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def prepare() -> None:
    """Set what is not set."""
    for name, value in (QUIET | FAST).items():
        os.environ.setdefault(name, value)
