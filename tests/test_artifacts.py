"""Everything expensive is computed once, stored whole or not at all, and verified when it is read."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from sweeper.artifacts import Artifacts, Bundle, StorageError, content_hash
from sweeper.storage.local import LocalStore

KEY = "ab" * 16


def bundle(value: float = 1.0) -> Bundle:
    return Bundle({"weight": torch.full((2, 3), value), "count": torch.tensor(3)}, {"epochs": [{"loss": 0.5}]})


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_artifact_is_made_once_and_read_back_with_its_information(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    made = store.get_or_create("purifiers", KEY, bundle)
    again = Artifacts(tmp_path).get_or_create("purifiers", KEY, lambda: pytest.fail("made twice"))
    assert torch.equal(again.tensors["weight"], torch.ones(2, 3))
    assert again.info == {"epochs": [{"loss": 0.5}]}
    assert again.content == made.content == content_hash(bundle().tensors)
    assert store.has("purifiers", KEY)
    assert not store.has("classifiers", KEY)


def test_of_two_makers_the_first_to_store_wins_and_both_return_its(tmp_path: Path) -> None:
    store, both_missed = Artifacts(tmp_path), threading.Barrier(2)
    found: dict[float, Bundle] = {}

    def create(value: float) -> None:
        def make() -> Bundle:
            both_missed.wait(timeout=10)
            return bundle(value)

        found[value] = store.get_or_create("outcomes", KEY, make)  # claimed by nobody

    threads = [threading.Thread(target=create, args=(value,)) for value in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[1.0].content == found[2.0].content
    assert len(files(tmp_path)) == 1


def test_what_is_stored_is_never_replaced(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    store.put("purifiers", KEY, bundle(1.0))
    store.put("purifiers", KEY, bundle(2.0))
    stored = store.load("purifiers", KEY)
    assert stored is not None
    assert stored.tensors["weight"][0, 0] == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "other"])
def test_a_damaged_file_is_quarantined_and_made_again(damage: str, tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    store.put("purifiers", KEY, bundle())
    path = store.store.local_path(store.name("purifiers", KEY))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    if damage == "other":
        content = bytearray(b"\x02\0\0\0\0\0\0\0{}")  # a whole safetensors file of someone else
    path.write_bytes({"empty": b"", "cut": content[:-5], "foreign": b"not a tensor file at all"}.get(damage, content))
    remade = store.get_or_create("purifiers", KEY, bundle)
    assert torch.equal(remade.tensors["weight"], torch.ones(2, 3))
    relative = path.relative_to(tmp_path)
    assert files(tmp_path) == sorted([str(relative), f"quarantine/{relative}"])


def test_the_content_hash_sees_names_shapes_types_and_bytes() -> None:
    base = torch.arange(4.0)
    variants = [
        {"a": base}, {"b": base}, {"a": base.reshape(2, 2)}, {"a": base.double()}, {"a": base + 1e-7}, {"a": base, "b": torch.zeros(0)}
    ]  # fmt: skip
    assert len({content_hash(each) for each in variants}) == len(variants)
    assert content_hash({"a": base, "b": base}) == content_hash({"b": base, "a": base})
    image = torch.rand(1, 2, 3, 3)
    assert content_hash({"a": image}) == content_hash({"a": image.contiguous(memory_format=torch.channels_last)})


def test_an_interrupted_write_leaves_no_visible_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    store = Artifacts(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupted)
        store.get_or_create("outcomes", KEY, bundle)
    assert [name for name in files(tmp_path) if name.endswith(".safetensors")] == []
    assert store.load("outcomes", KEY) is None


def test_a_full_disk_is_a_storage_error_naming_the_file_and_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = Artifacts(tmp_path)
    reason = rf"cannot write .*{KEY}\.safetensors: no space left for results root .*: \d+ bytes free, \d+ bytes needed"
    with pytest.raises(StorageError, match=reason) as caught:
        store.put("purifiers", KEY, bundle())
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == []


def test_a_root_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        Artifacts(tmp_path).put("purifiers", KEY, bundle())


def test_what_cannot_be_read_is_a_storage_error_naming_the_file_and_what_is_not_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Artifacts(tmp_path)
    readers = [lambda: store.load("purifiers", KEY), lambda: store.checkpoint(KEY).load(), lambda: store.has("purifiers", KEY)]
    assert [reader() for reader in readers] == [None, None, False]

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(LocalStore, "read", fail)
    monkeypatch.setattr(LocalStore, "stat", fail)
    for reader in readers:
        with pytest.raises(StorageError, match=rf"cannot read {tmp_path}/artifacts/.*{KEY}.*: Stale file handle") as caught:
            reader()
        assert caught.value.errno == errno.ESTALE


def test_a_checkpoint_is_replaced_as_a_whole_and_goes_when_the_artifact_is_there(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    checkpoint = store.checkpoint(KEY)
    assert checkpoint.load() is None
    for epoch in (1, 2):
        checkpoint.save({"epochs": [{"epoch": epoch}], "module": {"weight": torch.ones(2)}})
    state = checkpoint.load()
    assert state is not None
    assert state["epochs"] == [{"epoch": 2}]
    assert len(files(tmp_path)) == 1
    store.get_or_create("purifiers", KEY, bundle)
    assert checkpoint.load() is None
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_checkpoint_that_cannot_be_read_is_put_aside_and_counts_as_none(content: bytes, tmp_path: Path) -> None:
    checkpoint = Artifacts(tmp_path).checkpoint(KEY)
    checkpoint.save({"epochs": []})
    checkpoint.store.local_path(checkpoint.name).write_bytes(content)
    assert checkpoint.load() is None
    assert not checkpoint.store.local_path(checkpoint.name).exists()


def test_a_checkpoint_with_one_turned_bit_counts_as_none(tmp_path: Path) -> None:
    checkpoint = Artifacts(tmp_path).checkpoint(KEY)
    checkpoint.save({"module": {"weight": torch.full((5, 7), 1 / 3)}})
    content = bytearray(checkpoint.store.local_path(checkpoint.name).read_bytes())
    content[content.index(torch.full((5, 7), 1 / 3).numpy().tobytes()) + 41] ^= 4
    checkpoint.store.local_path(checkpoint.name).write_bytes(content)
    assert checkpoint.load() is None
    assert not checkpoint.store.local_path(checkpoint.name).exists()
