"""Data sets: what their files hold comes out right, the splits never move, and every damage is named."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sweeper import datasets
from sweeper.datasets import cifar10, fashion_mnist
from sweeper.datasets._files import PublishedFile


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, train: int = 40, test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        images, labels = idx_bytes(pixels), idx_bytes(np.arange(count) % 10)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))
    return folder


def cifar_records(count: int, seed: int = 0) -> bytes:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(count) % 10
    return records.tobytes()


def write_cifar(parent: Path) -> Path:
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(cifar_records(10, seed=i))
    (folder / "test_batch.bin").write_bytes(cifar_records(20))
    return folder


# --- digits


def scikit_learns() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    return bunch.images, bunch.target


def test_digits_are_the_real_ones_in_the_designed_split() -> None:
    splits = datasets.load("digits")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1037, 260, 500)
    assert splits.image_shape == (1, 32, 32) and splits.num_classes == 10
    for split in (splits.train, splits.validation, splits.test):
        assert split.images.is_contiguous() and split.images.min() >= 0 and split.images.max() <= 1
        shares = torch.bincount(split.labels) / len(split)
        assert shares.min() > 0.095 and shares.max() < 0.105  # of 1,797: 0.0968 to 0.1018


def test_digits_ids_point_into_scikit_learns_array() -> None:
    (pixels, labels), splits = scikit_learns(), datasets.load("digits")
    for split in (splits.train, splits.validation, splits.test):
        positions = [int(sample_id.removeprefix("digits-")) for sample_id in split.sample_ids]
        assert split.labels.tolist() == labels[positions].tolist()
        sources = torch.from_numpy(pixels[positions] / 16).float()
        # output pixels 1 and 2 of a block of four lie an eighth of a source pixel to the left and right of its middle
        middles = split.images[:, 0].reshape(-1, 8, 4, 8, 4)[:, :, 1:3, :, 1:3].mean((2, 4))
        assert (middles - sources).abs().max() <= 0.25  # the neighbours' share is at most a quarter in either direction
        assert torch.equal(split.images[:, 0, ::31, ::31], sources[:, ::7, ::7])  # corners have no neighbours


def test_digits_splits_have_not_moved() -> None:
    splits = datasets.load("digits")
    assert splits.test.sample_ids[:4] == ("digits-0009", "digits-0015", "digits-0016", "digits-0017")
    assert splits.test.labels[:4].tolist() == [9, 5, 6, 7]
    assert splits.validation.sample_ids[:3] == ("digits-0019", "digits-0025", "digits-0044")
    assert splits.train.sample_ids[:3] == ("digits-0000", "digits-0001", "digits-0002")
    assert splits.fingerprint == datasets.load("digits").fingerprint
    assert splits.fingerprint.startswith("358f1c34")


def test_bilinear_resizing_matches_a_value_worked_out_by_hand() -> None:
    image = datasets.load("digits").train.images[0, 0]  # digits-0000
    row = scikit_learns()[0][0][0] / 16  # row 0 of the output repeats row 0 of the input: it lies above its middle
    # output column 10 has its middle at (10 + 0.5) / 4 - 0.5 = 2.125 of the input
    assert image[0, 10].item() == 0.875 * row[2] + 0.125 * row[3]


def test_digits_refuse_a_data_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'digits' is embedded and reads no folder"):
        datasets.load("digits", root=tmp_path)


def test_digits_load_without_importing_scikit_learn() -> None:
    code = "import sys; from sweeper import datasets; datasets.load('digits'); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)  # it takes over a second, in every worker


def test_digits_are_found_where_scikit_learn_moved_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = datasets.load("digits").fingerprint
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert datasets.load("digits").fingerprint == expected


# --- splits, subsets, fingerprints


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "cifar10"])
def test_every_dataset_has_disjoint_splits_and_ids_that_caps_do_not_change(name: str, tmp_path: Path) -> None:
    write_fashion(tmp_path, train=200, test=50)
    write_cifar(tmp_path)
    root = None if name == "digits" else tmp_path
    whole, capped = datasets.load(name, root=root), datasets.load(name, root=root, caps=(20, 3, 10))
    everything = whole.train.sample_ids + whole.validation.sample_ids + whole.test.sample_ids
    assert len(set(everything)) == len(everything)
    assert (len(capped.train), len(capped.validation), len(capped.test)) == (20, 3, 10)
    assert capped.fingerprint != whole.fingerprint
    for small, large in ((capped.test, whole.test), (capped.validation, whole.validation)):
        place = {sample_id: i for i, sample_id in enumerate(large.sample_ids)}
        positions = [place[sample_id] for sample_id in small.sample_ids]
        assert positions == sorted(positions)
        assert torch.equal(small.images, large.images[positions])
        assert torch.equal(small.labels, large.labels[positions])


def test_caps_beyond_the_files_take_all(tmp_path: Path) -> None:
    root = write_fashion(tmp_path, train=1800, test=30)
    splits = datasets.load("fashion_mnist", root=root, caps=(5000, 500, 500))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1620, 180, 30)


def test_a_smaller_validation_cap_leaves_more_for_training(tmp_path: Path) -> None:
    splits = datasets.load("fashion_mnist", root=write_fashion(tmp_path, train=100), caps=(None, 4, None))
    assert (len(splits.train), len(splits.validation)) == (96, 4)


@pytest.mark.parametrize(("caps", "split"), [((0, 1, 1), "train"), ((1, -2, 1), "validation"), ((1, 1, 0), "test")])
def test_a_cap_below_one_is_refused(caps: datasets.Caps, split: str) -> None:
    with pytest.raises(ValueError, match=f"cap of {split} images must be at least 1"):
        datasets.load("digits", caps=caps)


def test_stratified_indices_round_by_largest_remainder() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    for n, shares in ((10, [5, 3, 2]), (7, [4, 2, 1]), (1, [1, 0, 0]), (100, [50, 30, 20])):
        indices = datasets.stratified_indices(labels, n, seed=0)  # n = 7: 3.5, 2.1, 1.4 -> the half is the largest
        assert torch.bincount(labels[indices], minlength=3).tolist() == shares
        assert indices.dtype == torch.int64 and indices.tolist() == sorted(set(indices.tolist()))
    assert datasets.stratified_indices(labels, 500, seed=0).tolist() == list(range(100))


def test_stratified_indices_depend_on_the_seed_and_grow_with_n() -> None:
    labels = torch.arange(1000) % 10
    first = datasets.stratified_indices(labels, 100, seed=0)
    assert torch.equal(first, datasets.stratified_indices(labels, 100, seed=0))
    assert not torch.equal(first, datasets.stratified_indices(labels, 100, seed=1))
    assert set(first.tolist()) < set(datasets.stratified_indices(labels, 200, seed=0).tolist())
    assert datasets.stratified_indices(labels[:20], 10, seed=0).tolist() == [0, 1, 2, 3, 5, 8, 9, 14, 16, 17]


def test_subset_keeps_ids_with_their_images() -> None:
    test = datasets.load("digits").test
    small = datasets.subset(test, 240)
    position = test.sample_ids.index(small.sample_ids[100])
    assert len(small) == 240 and torch.equal(small.images[100], test.images[position])
    assert datasets.subset(test, None) is test


@pytest.mark.parametrize("place", ["train-images", "train-labels", "t10k-images"])
def test_fingerprint_changes_with_one_byte(place: str, tmp_path: Path) -> None:
    root = write_fashion(tmp_path)
    before = datasets.load("fashion_mnist", root=root).fingerprint
    (path,) = root.glob(f"{place}*")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] = 1 if content[-1] == 0 else content[-1] - 1
    path.write_bytes(gzip.compress(bytes(content)))
    assert datasets.load("fashion_mnist", root=root).fingerprint != before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 4, 4), 1.5), "must lie in"),
        (torch.full((2, 1, 4, 4), float("nan")), "must lie in"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), "float32"),
        (torch.zeros(3, 1, 4, 4), "as many images as labels"),
    ],
)
def test_a_split_refuses_images_that_break_the_promise(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.Split(images, torch.zeros(2, dtype=torch.int64), ("a", "b"))


def test_unknown_dataset_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="fashon-mnist.*did you mean 'fashion_mnist'.*cifar10, digits, fashion_mnist"):
        datasets.load("fashon-mnist")


def test_a_users_own_file_is_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "squares.py"
    path.write_text("from sweeper.datasets import digits\ndef load(root, caps):\n    return digits.load(None, (20, 10, 10))\n")
    assert len(datasets.load(str(path)).train) == 20


# --- Fashion-MNIST


@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("is_unpacked", [False, True])
def test_fashion_mnist_pixels_are_exact_and_padded(place: str, is_unpacked: bool, tmp_path: Path) -> None:
    folder = write_fashion(tmp_path / place)
    if is_unpacked:
        for path in folder.glob("*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    splits = datasets.load("fashion-mnist", root=tmp_path)
    pixels = np.random.default_rng(20).integers(0, 256, (20, 28, 28))
    assert splits.name == "fashion_mnist" and splits.image_shape == (1, 32, 32)
    assert torch.equal(splits.test.images[:, 0, 2:30, 2:30], torch.from_numpy(pixels).float() / 255)
    assert splits.test.images.count_nonzero() == np.count_nonzero(pixels)
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.test.sample_ids[3] == "fashion_mnist-test-00003"
    assert splits.class_names[9] == "Ankle boot"


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            IMAGES,
            idx_bytes(np.zeros((40, 28, 28)))[:-1],
            f"{IMAGES} is truncated: it holds 31375 bytes, expected 31376",
        ),
        (IMAGES, idx_bytes(np.zeros((40, 28, 28))) + b"!", f"{IMAGES} is too long: .*expected 31376 for 40 records"),
        (IMAGES, idx_bytes(np.zeros((40, 28, 28)))[:9], f"{IMAGES} is truncated: .* expected a header of 16"),
        (IMAGES, idx_bytes(np.zeros((40, 28, 27))), f"{IMAGES} holds images of 28 x 27 pixels, expected 28 x 28"),
        (IMAGES, idx_bytes(np.zeros((39, 28, 28))), "labels.* holds 40 labels, expected 39, one for each image"),
        (IMAGES, struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), f"{IMAGES} is truncated"),
        (IMAGES, idx_bytes(np.arange(40)), f"{IMAGES} has magic number 0x00000801, expected 0x00000803"),
        (LABELS, b"\x1f\x8b" + bytes(30), f"{LABELS} has magic number 0x1f8b0000, expected 0x00000801"),
        (LABELS, idx_bytes(np.zeros(0)), f"{LABELS} holds no records"),
        (LABELS, idx_bytes(np.arange(20)), f"{LABELS} holds label 10 at record 10, expected 0 to 9"),
    ],
)
def test_damaged_idx_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (write_fashion(tmp_path) / name).write_bytes(content)  # the unpacked file is the one that is read
    with pytest.raises(ValueError, match=message):
        datasets.load("fashion_mnist", root=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip", "no gzip"])
def test_broken_gzip_file_is_named(damage: str, tmp_path: Path) -> None:
    path = write_fashion(tmp_path) / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]
    path.write_bytes({"cut": whole[:-100], "flip": flipped, "no gzip": b"<html>not found</html>"}[damage])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged or truncated.*expected the whole gzip"):
        datasets.load("fashion_mnist", root=tmp_path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data folder .*nowhere of 'fashion_mnist' does not exist"):
        datasets.load("fashion_mnist", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="found no train-images-idx3-ubyte.gz of 'fashion_mnist' in .*put the four"):
        datasets.load("fashion_mnist", root=tmp_path)
    (write_fashion(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte.gz is missing, expected it or t10k-labels"):
        datasets.load("fashion_mnist", root=tmp_path)


# --- CIFAR-10


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_cifar10_pixels_are_exact(place: str, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    splits = datasets.load("cifar10", root=tmp_path / place)
    records = np.frombuffer(cifar_records(20), np.uint8).reshape(20, 3073)
    assert splits.image_shape == (3, 32, 32) and (len(splits.train), len(splits.validation)) == (45, 5)
    assert splits.test.labels.tolist() == records[:, 0].tolist()
    # red, green, blue, each row by row: byte 1 + 1024 c + 32 y + x
    assert round(splits.test.images[7, 2, 30, 5].item() * 255) == records[7, 1 + 1024 * 2 + 32 * 30 + 5]
    assert splits.test.sample_ids[7] == "cifar10-test-00007" and splits.class_names[7] == "horse"


def test_cifar10_counts_records_over_its_five_files(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    train = datasets.load("cifar10", root=tmp_path).train
    number, position = next((int(name[-5:]), i) for i, name in enumerate(train.sample_ids) if int(name[-5:]) >= 20)
    record = cifar_records(10, seed=number // 10 + 1)[3073 * (number % 10) :][:3073]
    assert (train.images[position] * 255).round().to(torch.uint8).flatten().tolist() == list(record[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cifar_records(3)[:-1], "data_batch_2.bin is truncated.* holds 9218 bytes, expected a multiple of 3073"),
        (b"", "data_batch_2.bin is truncated.* holds 0 bytes"),
        (cifar_records(3) + bytes([10]) + bytes(3072), "data_batch_2.bin holds label 10 at record 3, expected 0 to 9"),
    ],
)
def test_damaged_cifar10_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (write_cifar(tmp_path) / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.load("cifar10", root=tmp_path)


def test_missing_cifar10_files_say_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no data_batch_1.bin of 'cifar10' in .*unpack https://"):
        datasets.load("cifar10", root=tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match="tar -xzf .*cifar-10-binary.tar.gz"):
        datasets.load("cifar10", root=tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match="pickled python version, which is never opened; get the binary version"):
        datasets.load("cifar10", root=tmp_path)
    (write_cifar(tmp_path) / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3.bin is missing"):
        datasets.load("cifar10", root=tmp_path)


# --- downloads


class Site(http.server.ThreadingHTTPServer):
    """A loopback site. `failures` answers of every kind come before the first good one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.files: dict[str, bytes] = {}
        self.failures = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class SiteHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site = self.server
        assert isinstance(site, Site)
        site.requests.append(self.path[1:])
        site.failures -= 1
        if site.failures >= 0 or self.path[1:] not in site.files:
            self.send_error(503 if site.failures >= 0 else 404)
            return
        content = site.files[self.path[1:]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def publish(site: Site, contents: dict[str, bytes]) -> tuple[PublishedFile, ...]:
    site.files |= contents
    return tuple(
        PublishedFile(name, site.url + name, hashlib.md5(content, usedforsecurity=False).hexdigest(), len(content))
        for name, content in contents.items()
    )


@pytest.fixture
def fashion_site(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    paths = sorted(write_fashion(tmp_path / "published").glob("*.gz"))
    monkeypatch.setattr(fashion_mnist, "FILES", publish(site, {path.name: path.read_bytes() for path in paths}))
    return site


def test_files_are_downloaded_once_and_equal_the_users_own(fashion_site: Site, tmp_path: Path) -> None:
    downloaded = datasets.load("fashion-mnist")
    assert len(fashion_site.requests) == 4
    assert datasets.load("fashion-mnist").fingerprint == downloaded.fingerprint
    assert len(fashion_site.requests) == 4
    assert datasets.load("fashion-mnist", root=tmp_path / "published").fingerprint == downloaded.fingerprint
    assert [row["where"] for row in datasets.describe() if row["name"] == "fashion_mnist"] == ["cached"]
    assert all(row["ok"] for row in datasets.verify("fashion-mnist"))


def test_a_failing_site_is_asked_again(fashion_site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    fashion_site.failures = 2
    assert len(datasets.fetch("fashion-mnist")) == 4
    assert len(fashion_site.requests) == 6
    assert capfd.readouterr() == ("", "")  # no progress bar where nobody watches


def test_download_with_another_checksum_is_refused(fashion_site: Site, tmp_path: Path) -> None:
    fashion_site.files["t10k-labels-idx1-ubyte.gz"] += b"!"
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz is not the published.*MD5.*expected.*--data DIR"):
        datasets.load("fashion-mnist")
    assert not list((tmp_path / "cache").rglob("t10k-labels*"))
    assert not fashion_mnist.is_cached()


def test_missing_network_says_how_to_do_without(fashion_site: Site, tmp_path: Path) -> None:
    fashion_site.failures = 100
    with pytest.raises(ConnectionError) as caught:
        datasets.load("fashion-mnist")
    for word in (fashion_site.url, "t10k-images-idx3-ubyte.gz", str(tmp_path / "cache"), "4 times", "--data DIR"):
        assert word in str(caught.value)


def test_damaged_cache_is_named_and_fetched_again(fashion_site: Site, tmp_path: Path) -> None:
    datasets.fetch("fashion-mnist")
    (tmp_path / "cache" / "fashion_mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"torn")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte.gz is damaged.*data fetch fashion-mnist"):
        datasets.load("fashion-mnist")
    bad = [(Path(str(row["file"])).name, row["check"]) for row in datasets.verify("fashion-mnist") if not row["ok"]]
    assert bad == [("train-labels-idx1-ubyte.gz", "checksum"), ("train-labels-idx1-ubyte.gz", "content")]
    datasets.fetch("fashion-mnist")
    assert len(fashion_site.requests) == 5 and all(row["ok"] for row in datasets.verify("fashion-mnist"))


def test_cifar10_archive_is_unpacked_whole(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = write_cifar(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(own, "cifar-10-batches-bin")
    monkeypatch.setattr(cifar10, "FILES", publish(site, {"cifar-10-binary.tar.gz": buffer.getvalue()}))
    assert datasets.load("cifar10").fingerprint == datasets.load("cifar10", root=own).fingerprint
    datasets.load("cifar10")
    assert len(site.requests) == 1 and not list((tmp_path / "cache").rglob("*.part"))
    assert all(row["ok"] for row in datasets.verify("cifar10"))
    unpacked = tmp_path / "cache" / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin"
    unpacked.write_bytes(cifar_records(20, seed=9))  # well-formed, but not what was published
    assert [row["check"] for row in datasets.verify("cifar10") if not row["ok"]] == ["archive"]
    datasets.fetch("cifar10")
    assert len(site.requests) == 1 and all(row["ok"] for row in datasets.verify("cifar10"))


def test_unwritable_cache_is_named(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(fashion_mnist, "FILES", publish(site, {"train-images-idx3-ubyte.gz": b"x"}))
    with pytest.raises(OSError, match="cannot keep train-images-idx3-ubyte.gz .*set SWEEPER_CACHE"):
        datasets.fetch("fashion_mnist")


# --- for the command line


def test_every_dataset_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in datasets.describe()}
    assert list(rows) == datasets.names() == ["cifar10", "digits", "fashion_mnist"]
    assert [row["where"] for row in rows.values()] == ["missing", "embedded", "missing"]
    assert rows["cifar10"]["shape"] == "3x32x32" and rows["digits"]["test"] == 500
    assert all(str(row["source"]).startswith("http") and row["licence"] for row in rows.values())


def test_verify_says_whether_files_are_published_and_whether_they_are_readable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = datasets.verify("fashion-mnist", write_fashion(tmp_path / "own"))
    assert {(row["check"], row["ok"]) for row in rows} == {("checksum", False), ("content", True)}
    assert all(row["ok"] for row in datasets.verify("digits"))
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "empty"))
    for name in ("fashion-mnist", "cifar10"):
        rows = datasets.verify(name)
        assert rows[0]["found"] == "missing" and not any(row["ok"] for row in rows)
    assert datasets.fetch("digits") == []


def test_listing_the_datasets_imports_neither_torch_nor_scikit_learn() -> None:
    code = "import sys; from sweeper import datasets; datasets.describe(); "
    code += "assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
