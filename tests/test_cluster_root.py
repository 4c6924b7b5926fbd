"""A results root on the driver's disk reaches nodes that do not see it, through Ray; nodes that do use it directly."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeper.artifacts import Artifacts
from sweeper.data_in_root import store_splits, stored_splits
from sweeper.datasets import load
from sweeper.plan import from_space
from sweeper.results import Results
from sweeper.storage.local import LocalStore
from sweeper.sweep import record_plan
from sweeper.worker import Job, perform_stage, perform_trial

SIZES = {"train_images": 60, "validation_images": 20, "test_images": 20}

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def started() -> Iterator[None]:
    from sweeper.cluster.connection import connected

    with connected(None):
        yield


@pytest.fixture
def job(tmp_path: Path, started: None) -> Iterator[Job]:
    """A job as its workers get it."""
    from sweeper.cluster.root import reachable

    with reachable(Job("sweep", LocalStore(tmp_path), None)) as reached:
        yield reached


def unseen(job: Job, tmp_path: Path) -> Job:
    """The job as it is on a node that has another folder under that path, or none."""
    from sweeper.cluster.root import ReachedStore

    assert isinstance(job.store, ReachedStore)
    return replace(job, store=ReachedStore(tmp_path, ".tmp/not-there", job.store.server))


def test_a_node_that_sees_the_root_uses_it_directly(job: Job, tmp_path: Path) -> None:
    assert job.store.local_path("a") == tmp_path / "a"


def test_a_node_that_does_not_see_the_root_writes_into_it_all_the_same(job: Job, tmp_path: Path) -> None:
    store = unseen(job, tmp_path).store
    assert store.local_path("a") is None
    assert store.create("a/b", b"one") and not store.create("a/b", b"two")
    assert (tmp_path / "a" / "b").read_bytes() == b"one" == store.read("a/b")
    store.replace("a/b", b"three")
    store.move("a/b", "a/c")
    stat = store.stat("a/c")
    assert stat is not None and stat.size == 5
    assert store.names("a") == ["c"] and store.files("a") == ["a/c"]
    store.delete("a/c")
    store.delete("a/c")
    assert store.stat("a/c") is None
    with pytest.raises(FileNotFoundError):
        store.read("a/c")


def test_tables_and_artifacts_of_such_a_node_are_read_like_any(job: Job, tmp_path: Path) -> None:
    far = unseen(job, tmp_path)
    here = Results(tmp_path, create=True)
    there = Results(far.store)
    row = {"evaluation_id": "e", "name": "quick", "split": "test", "dataset": "digits", "fingerprint": "f", "config": "{}"}
    assert there.publish("evaluations", "ab", [row]) and not here.publish("evaluations", "ab", [row])
    assert here.read("evaluations", ["name"]).to_pylist() == there.read("evaluations", ["name"]).to_pylist() == [{"name": "quick"}]
    assert there.problems() == []


def test_images_travel_bit_for_bit_and_are_fetched_once_per_node(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = unseen(job, tmp_path)
    splits = load("digits", caps=(40, 20, 20))
    store_splits(Artifacts(LocalStore(tmp_path)), splits)
    fetched: list[str] = []
    honest = type(far.store).read

    def read(store: object, name: str) -> bytes:
        fetched.append(name)
        return honest(store, name)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(type(far.store), "read", read)
    for _ in range(2):
        found = stored_splits(Artifacts(far.store), splits.fingerprint)
        assert found is not None and found.fingerprint == splits.fingerprint and found.image_shape == splits.image_shape
        for part in ("train", "validation", "test"):
            assert getattr(found, part).images.equal(getattr(splits, part).images)
            assert getattr(found, part).labels.equal(getattr(splits, part).labels)
            assert getattr(found, part).sample_ids == getattr(splits, part).sample_ids
    assert len(fetched) == 1


def test_a_trial_on_such_a_node_leaves_all_it_made_in_the_root(job: Job, tmp_path: Path) -> None:
    import ray

    settings = {"num_epochs": 1, "retraining/num_epochs": 1, "target/training/num_epochs": 1, "base_width": 2, "depth": 1, "codebook_size": 8}
    splits = load("digits", caps=(60, 20, 20))
    plan = from_space("one", SimpleNamespace(variants=lambda: [settings]), fingerprint=splits.fingerprint, settings=SIZES, evaluation_name="quick")
    record_plan(plan, splits, Results(tmp_path, create=True))
    far = replace(unseen(job, tmp_path), sweep=plan.sweep)
    for stage in plan.stages:
        ray.get(ray.remote(perform_stage).remote(far, stage))
    finished = ray.get(ray.remote(perform_trial).remote(far, plan.trials[0]))
    assert finished.status == "completed", finished.message
    assert Results(tmp_path).read("trials", ["trial_id"])["trial_id"].to_pylist() == [plan.trials[0].trial_id]
    log = (tmp_path / far.log_name(plan.trials[0].trial_id)).read_text()
    assert "STARTED" in log and log.rstrip().splitlines()[-1].split()[3] == "COMPLETED"
