"""What claims promise: one maker at a time, nobody waits for the dead, and without a claim everything is right all the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sweeper import claims
from sweeper.artifacts import Artifacts, Bundle
from sweeper.claims import claimed
from sweeper.storage.local import LocalStore

KEY = "ab" * 32
HOLDER = """
import sys, time
from sweeper.claims import claimed
from sweeper.storage.local import LocalStore

with claimed(LocalStore(sys.argv[1]), "x", lambda: False, print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def silent(who: str) -> None:
    """Hear nothing."""


def never() -> bool:
    return False


def test_two_threads_that_need_the_same_network_train_it_once(tmp_path: Path) -> None:
    made: list[int] = []
    waited: list[str] = []

    def make() -> Bundle:
        made.append(1)
        time.sleep(1.0)
        return Bundle({"weight": torch.ones(2)}, {})

    def come() -> None:
        assert Artifacts(tmp_path, waited.append).get_or_create("purifiers", KEY, make).tensors["weight"].sum() == 2

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(waited) == 3 and all(f"process {os.getpid()}" in who for who in waited)
    assert LocalStore(tmp_path).files("claims") == []


def test_a_claim_is_given_back_when_its_work_fails(store: LocalStore) -> None:
    with pytest.raises(ArithmeticError), claimed(store, "x", never, silent):
        raise ArithmeticError
    assert store.files("claims") == []


def test_a_killed_process_of_this_machine_is_not_waited_for(store: LocalStore, tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    since = time.monotonic()
    with claimed(store, "x", never, silent):
        assert time.monotonic() - since < 5
        assert store.files("claims/x") == ["claims/x/1", "claims/x/2"]
    assert store.files("claims") == []


def test_a_claim_of_another_machine_is_taken_over_once_it_no_longer_changes(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    store.create("claims/x/1", json.dumps({"host": "gone", "machine": "another", "pid": 1, "started": "7", "beat": 4}).encode())
    heard: list[str] = []
    since = time.monotonic()
    with claimed(store, "x", never, heard.append):
        assert 1.0 < time.monotonic() - since < 5
    assert heard == ["gone, process 1"]


def test_a_claim_that_changes_is_waited_for_however_long(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.8)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.2)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with claimed(store, "x", never, silent):
            holding.set()
            time.sleep(2.0)
            done.set()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    with claimed(store, "x", never, silent):
        assert done.is_set()
    thread.join()


def test_who_waits_goes_on_when_the_work_is_done(store: LocalStore) -> None:
    store.create("claims/x/1", json.dumps({"host": "far", "machine": "another", "pid": 1, "started": "7", "beat": 4}).encode())
    with claimed(store, "x", lambda: True, silent):
        pass
    assert store.files("claims/x") == ["claims/x/1"]  # another's claim is left alone


def test_of_many_that_find_a_dead_claim_one_takes_over(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    store.create("claims/x/1", b"cut sho")
    inside, most = [], []
    guard = threading.Lock()

    def take() -> None:
        with claimed(store, "x", never, silent):
            with guard:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.1)
            with guard:
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 5 and max(most) == 1


def test_a_process_that_is_known_to_be_gone_is_not_waited_for(store: LocalStore) -> None:
    for name, pid in (("x", 7), ("y", 8)):
        store.create(f"claims/{name}/1", json.dumps({"host": "far", "machine": "another", "pid": pid, "started": "7", "beat": 4}).encode())
    claims.abandon(store, lambda host, pid: (host, pid) == ("far", 7))
    since = time.monotonic()
    with claimed(store, "x", never, silent):
        assert time.monotonic() - since < 2
    assert store.files("claims") == ["claims/y/1"]
