"""What several test files share. Everything that trains is made once per session."""

from pathlib import Path

import pytest
import torch
from small_sweep import SPACE, Silent, SmallSweep, small_plan, small_splits

from sweeper.datasets import Splits
from sweeper.sweep import inline, run_sweep

torch.set_num_threads(1)  # as the small scale's trials: equal threads, equal bits


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have files that start a Ray run first where several processes share the files: they take longest, and at the end others would wait for them."""
    if hasattr(config, "workerinput"):
        first = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def splits() -> Splits:
    return small_splits()


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "small.py"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, space: Path, splits: Splits) -> SmallSweep:
    """Return a finished sweep. Its root is shared: read it, or work on a copy (`sweep_copy`)."""
    root = tmp_path_factory.mktemp("small") / "results"
    plan = small_plan(space, splits.fingerprint)
    finished = run_sweep(plan, splits, root, None, inline, Silent())
    return SmallSweep(root, space, plan, splits, finished)
