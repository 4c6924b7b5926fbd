"""What every store promises, of a folder and of a bucket; and that a bucket keeps it where the network does not."""

import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import FAULTS, Proxy, credentials_checked, fill, gs_server, make_bucket, proxy_to, s3_server

from sweeper import parquet
from sweeper.storage import Store, arrow_bucket, boto_bucket
from sweeper.storage.local import LocalStore
from sweeper.storage.objects import ObjectStore, _Sizes

PART = "parts/scores/ab/ab12.parquet"
CLIENTS = ["s3", "s3_without_boto3"]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="session")
def session_proxy(server: str) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        yield proxy


@pytest.fixture
def proxy(session_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Proxy:
    session_proxy.reset()
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return session_proxy


@pytest.fixture
def url(proxy: Proxy) -> str:
    """Return a root that no other test has."""
    bucket = f"results-{uuid.uuid4().hex[:12]}"
    make_bucket(proxy.server, bucket)
    return f"s3://{bucket}/some/prefix?endpoint_override={proxy.url.removeprefix('http://')}&scheme=http"


def without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sweeper.storage.boto_bucket", raising=False)
    for module in ("boto3", "boto3.session"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture(scope="session")
def gs() -> Iterator[str]:
    pytest.importorskip("gcp_storage_emulator", reason="gs:// is tested where gcp-storage-emulator is installed")
    with gs_server("results") as address:
        yield address


@pytest.fixture(params=["folder", *CLIENTS, "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        made: Store = LocalStore(tmp_path / "root")
    elif request.param == "gs":
        made = ObjectStore(f"gs://results/{uuid.uuid4().hex}?endpoint_override={request.getfixturevalue('gs')}&scheme=http&anonymous=true")
    else:
        made = request.getfixturevalue("bucket") if request.param == "s3" else request.getfixturevalue("plain_bucket")
    made.prepare()
    return made


@pytest.fixture
def bucket(url: str) -> ObjectStore:
    return ObjectStore(url)


@pytest.fixture
def plain_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    without_boto3(monkeypatch)
    return ObjectStore(url)


@pytest.fixture(params=CLIENTS)
def any_bucket(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue("bucket" if request.param == "s3" else "plain_bucket")


def elsewhere(store: ObjectStore, **changes: str) -> ObjectStore:
    url = store.url
    for old, new in changes.items():
        url = url.replace({"bucket": store.place.bucket, "host": url.partition("=")[2].partition("&")[0]}[old], new)
    return ObjectStore(url)


def test_the_first_creator_of_a_name_wins(store: Store) -> None:
    assert store.create(PART, b"first")
    assert not store.create(PART, b"second")
    assert store.read(PART) == b"first"


def test_replacing_a_file_keeps_the_last_content_and_changes_its_identity(store: Store) -> None:
    store.replace("notes/a.json", b"one")
    before = store.stat("notes/a.json")
    store.replace("notes/a.json", b"two")
    after = store.stat("notes/a.json")
    assert store.read("notes/a.json") == b"two"
    assert before and after and before.identity != after.identity and after.size == 3


def test_a_file_that_is_not_there_is_missing_and_may_be_deleted(store: Store) -> None:
    assert store.stat("parts/none") is None
    assert not store.is_whole("parts/none")
    store.delete("parts/none")
    with pytest.raises(FileNotFoundError):
        store.read("parts/none")
    with pytest.raises(FileNotFoundError):
        store.move("parts/none", "parts/other")


def test_a_deleted_name_can_be_created_again(store: Store) -> None:
    store.create(PART, b"1")
    store.delete(PART)
    assert store.stat(PART) is None
    assert store.create(PART, b"2")


def test_a_moved_file_is_under_its_new_name_only(store: Store) -> None:
    store.create(PART, b"content")
    store.move(PART, f"quarantine/{PART}")
    assert store.stat(PART) is None
    assert store.read(f"quarantine/{PART}") == b"content"


def test_names_and_files_are_sorted_and_relative_to_the_root(store: Store) -> None:
    for name in ("parts/b/2.parquet", "parts/a/1.parquet", "parts/top.json", "partsother/x"):
        store.create(name, b"x")
    assert store.names("parts") == ["a", "b", "top.json"]
    assert store.files("parts") == ["parts/a/1.parquet", "parts/b/2.parquet", "parts/top.json"]
    assert {"parts", "partsother"} <= set(store.names(""))
    assert store.names("none") == store.files("none") == []


def test_a_file_is_whole_if_it_has_the_size_and_none_is_shorter_than_parquet(store: Store) -> None:
    content = b"PAR1" + bytes(20) + b"PAR1"
    store.create(PART, content)
    store.create("parts/short.parquet", b"PAR1")
    for _ in range(2):  # before and after a listing
        assert store.is_whole(PART) and store.is_whole(PART, len(content))
        assert not store.is_whole(PART, len(content) + 1) and not store.is_whole("parts/short.parquet")
        store.files("parts")


def test_the_stores_clock_is_the_one_of_its_files(store: Store) -> None:
    store.create(PART, b"x")
    stat = store.stat(PART)
    assert stat and 0 <= store.now() - stat.modified < 10


def test_where_a_file_lies_can_be_shown(store: Store) -> None:
    assert store.shown(PART).endswith(f"/{PART}")
    assert "?" not in store.shown(PART)


def test_tables_are_read_by_the_stores_names(store: Store) -> None:
    row = {"evaluation_id": "e", "name": "quick", "split": "test", "dataset": "digits", "fingerprint": "f", "config": "{}"}
    store.create(PART, parquet.encode("evaluations", parquet.to_arrow("evaluations", [row])))
    assert parquet.scan("evaluations", parquet.file_system(store), [PART], ["name"]).to_pylist() == [{"name": "quick"}]


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_what_never_changes_is_fetched_once_until_it_is_asked_what_it_is_now(store: Store, proxy: Proxy) -> None:
    store.create(PART, b"0123456789ab")
    proxy.requests.clear()
    assert store.read(PART) == store.read(PART) == b"0123456789ab" and store.is_whole(PART, 12)
    assert len(proxy.requests) == 1
    other = ObjectStore(store.url)
    other.replace(PART, b"something else")  # what no program of ours does; a damaged part is moved away and written anew
    assert store.stat(PART) is not None and store.read(PART) == b"something else"


@pytest.mark.parametrize("store", ["folder", "s3"], indirect=True)
def test_of_sixteen_creators_at_once_exactly_one_wins(store: Store) -> None:
    for turn in range(3):
        with ThreadPoolExecutor(16) as threads:
            won = list(threads.map(lambda i, turn=turn: store.create(f"manifests/{turn}.json", b"%d" % i), range(16)))
        assert sum(won) == 1
        assert store.read(f"manifests/{turn}.json") == b"%d" % won.index(True)


def test_a_pickled_store_reaches_the_same_files(store: Store) -> None:
    store.create(PART, b"x")
    assert pickle.loads(pickle.dumps(store)).read(PART) == b"x"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_network_is_tried_again(any_bucket: ObjectStore, proxy: Proxy, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_timeouts(monkeypatch)
    any_bucket.prepare()
    proxy.stall_seconds = 1.1
    content = bytes(range(256)) * 40
    proxy.fail(fault, method="PUT", containing="ab12")
    assert any_bucket.create(PART, content)
    proxy.fail(fault, method="GET", containing="ab12")
    assert any_bucket.read(PART) == content
    proxy.fail(fault, method="PUT", containing="ab12")
    any_bucket.replace(PART, content[:100])
    proxy.fail(fault, method="GET", containing="prefix=")
    assert any_bucket.files("parts") == [PART]
    proxy.fail(fault, method="HEAD", containing="ab12")
    stat = any_bucket.stat(PART)
    assert stat and stat.size == 100
    assert any_bucket.read(PART) == content[:100]
    assert proxy.faults == [fault] * 5


def shorten_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrow_bucket, boto_bucket):
        monkeypatch.setattr(module, "READ_SECONDS", 0.5)


def test_of_creators_whose_replies_are_lost_exactly_one_wins(bucket: ObjectStore, proxy: Proxy) -> None:
    assert bucket.is_conditional
    for turn in range(4):
        proxy.fail("reset_after", method="PUT", times=8, chance=0.6)
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda i, turn=turn: bucket.create(f"manifests/{turn}.json", b"%d" % i), range(8)))
        proxy.rules.clear()
        assert sum(won) == 1
        assert bucket.read(f"manifests/{turn}.json") == b"%d" % won.index(True)
    assert len(proxy.faults) > 10


def test_a_network_that_fails_at_random_loses_nothing(any_bucket: ObjectStore, proxy: Proxy) -> None:
    any_bucket.prepare()
    for fault in ("reset_before", "reset_after", "cut"):
        proxy.fail(fault, times=1000, chance=0.12)
    for number in range(12):
        assert any_bucket.create(f"parts/{number:02}.parquet", b"%d" % number * 100)
    assert any_bucket.files("parts") == [f"parts/{number:02}.parquet" for number in range(12)]
    assert [any_bucket.read(f"parts/{number:02}.parquet") for number in range(12)] == [b"%d" % number * 100 for number in range(12)]
    assert len(proxy.faults) > 3


@pytest.mark.parametrize("size", [1000, 12_000_000])  # the larger is sent in parts where there is no boto3
def test_a_write_that_fails_leaves_no_object(any_bucket: ObjectStore, proxy: Proxy, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    any_bucket.prepare()
    proxy.fail("slow_down", method="PUT", times=1000)
    with pytest.raises(OSError, match=r"failed at http://127.*credentials, the bucket and the endpoint"):
        any_bucket.replace(PART, bytes(size))
    proxy.rules.clear()
    assert any_bucket.stat(PART) is None


def test_content_that_is_no_bytes_leaves_no_object(any_bucket: ObjectStore) -> None:
    with pytest.raises(TypeError):
        any_bucket.replace(PART, ["not bytes"])  # type: ignore[arg-type]
    assert any_bucket.stat(PART) is None


def test_a_failed_replacement_leaves_the_old_content(any_bucket: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    any_bucket.replace("status.json", b"old")
    proxy.fail("reset_before", method="PUT", times=1000)
    with pytest.raises(ConnectionError, match="no answer from http://127.* while writing s3://.*status.json, tried 2 times"):
        any_bucket.replace("status.json", b"new")
    proxy.rules.clear()
    assert any_bucket.read("status.json") == b"old"


def test_wrong_credentials_are_named(any_bucket: ObjectStore, proxy: Proxy) -> None:
    with credentials_checked(proxy.server):
        for request in (any_bucket.read, any_bucket.stat, any_bucket.files, any_bucket.names):
            with pytest.raises(PermissionError, match="access denied while .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
                request("parts")
        with pytest.raises(ValueError, match="not writable: access denied while writing .*look at the credentials"):
            any_bucket.prepare()


def test_no_credentials_are_named(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermissionError, match="no credentials for reading s3://.*AWS_PROFILE"):
        bucket.read(PART)


def test_a_missing_bucket_is_named(any_bucket: ObjectStore) -> None:
    for operation in ("read", "stat", "files", "names"):
        absent = elsewhere(any_bucket, bucket="no-such-bucket")
        with pytest.raises(OSError, match="no bucket 'no-such-bucket' at http://127.*create it") as caught:
            getattr(absent, operation)("parts")
        assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(ValueError, match="not writable: no bucket 'no-such-bucket'"):
        elsewhere(any_bucket, bucket="no-such-bucket").prepare()


def test_an_endpoint_that_does_not_answer_is_named(any_bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for operation in ("read", "stat", "files"):
        with pytest.raises(ConnectionError, match=r"no answer from http://127.0.0.1:9 while .*tried 2 times.*AWS_ENDPOINT_URL"):
            getattr(elsewhere(any_bucket, host="127.0.0.1:9"), operation)("parts")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("file:///tmp/x", "must be a folder, s3://bucket/prefix or gs://bucket/prefix, got 'file:///tmp/x'"),
        ("s3://", "must be s3://bucket/prefix"),
        ("s3://bucket/a//b", "without empty steps"),
        ("s3://bucket/a/../b", "without empty steps"),
        ("s3://key:geheim@bucket/a", "holds no credentials"),
        ("s3://bucket/a?regoin=x", "unknown option 'regoin'.*known options: anonymous, endpoint_override, region, scheme"),
        ("s3://bucket/a?endpoint_override=ftp://x", "must be http:// or https://"),
    ],
)
def test_a_url_that_means_no_bucket_is_refused(bad: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ObjectStore(bad)


def test_the_url_names_the_endpoint_before_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://bucket/a"
    assert ObjectStore(url, "http://travelled").place.endpoint == "http://travelled"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1/")
    assert ObjectStore(url, "http://travelled").place.endpoint == "http://general:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special:2")
    assert ObjectStore(url).place.endpoint == "http://special:2"
    assert ObjectStore(f"{url}?endpoint_override=said:3").place.endpoint == "https://said:3"


def test_a_server_that_ignores_conditions_is_found_out_and_used(bucket: ObjectStore, proxy: Proxy) -> None:
    proxy.without = ("if-none-match",)
    bucket.prepare()
    assert not bucket.is_conditional
    assert bucket.create(PART, b"first") and not bucket.create(PART, b"second")
    assert bucket.read(PART) == b"first"


def test_a_server_that_refuses_conditions_is_found_out_and_used(bucket: ObjectStore, proxy: Proxy) -> None:
    proxy.fail("not_implemented", method="PUT")
    assert not bucket.is_conditional
    assert bucket.create(PART, b"first") and bucket.read(PART) == b"first"


def test_a_conflict_with_another_request_is_tried_again(bucket: ObjectStore, proxy: Proxy) -> None:
    assert bucket.is_conditional
    proxy.fail("conflict", method="PUT", times=2)
    assert bucket.create(PART, b"first") and not bucket.create(PART, b"second")


def test_creators_at_once_without_conditions_leave_one_whole_object(plain_bucket: ObjectStore) -> None:
    assert not plain_bucket.is_conditional
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda i: plain_bucket.create(PART, b"%d" % i * 1000), range(8)))
    assert any(won)
    assert plain_bucket.read(PART) in [b"%d" % i * 1000 for i in range(8) if won[i]]


def test_what_is_pickled_holds_the_endpoint_and_no_credentials(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    store = ObjectStore(url.partition("?")[0])
    store.prepare()
    pickled = pickle.dumps(store)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    proxy.requests.clear()
    travelled = pickle.loads(pickled)
    assert b"geheim" not in pickled and proxy.requests == []
    assert travelled.create(PART, b"x") and len(proxy.requests) == 1  # no probe again


def test_each_request_is_one_and_sizes_come_from_the_listing(bucket: ObjectStore, proxy: Proxy) -> None:
    bucket.prepare()
    names = [f"parts/scores/{number:02}/{number:02}.parquet" for number in range(20)]
    counts = {}
    for what, request in {
        "create": lambda: [bucket.create(name, bytes(50)) for name in names],
        "list": lambda: bucket.files("parts/scores"),
        "whole": lambda: [bucket.is_whole(name, 50) for name in names],
        "read": lambda: [bucket.read(name) for name in names],
    }.items():
        proxy.requests.clear()
        request()
        counts[what] = len(proxy.requests)
    assert counts == {"create": 20, "list": 1, "whole": 0, "read": 20}


def test_a_small_write_without_boto3_is_one_put(plain_bucket: ObjectStore, proxy: Proxy) -> None:
    plain_bucket.replace("a/b", b"x" * 10_000)
    assert [method for method, _ in proxy.requests] == ["PUT"]


def test_a_listing_of_more_than_a_page_is_whole(any_bucket: ObjectStore) -> None:
    names = [f"logs/{number:04}" for number in range(1003)]
    fill(any_bucket.place.bucket, [any_bucket.place.key(name) for name in names])
    assert any_bucket.files("logs") == names
    assert len(any_bucket.names("logs")) == 1003


def test_sizes_of_a_listing_are_forgotten_with_time_and_change(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, clock = _Sizes(), [100.0]
    monkeypatch.setattr("sweeper.storage.objects.time.monotonic", lambda: clock[0])
    with sizes.listing() as found:
        found.update(kept=1, changed=2)
        sizes.forget("changed")  # while the listing runs
    assert (sizes.get("kept"), sizes.get("changed")) == (1, None)
    sizes.forget("kept")
    assert sizes.get("kept") is None
    with sizes.listing() as found:
        found.update(kept=3)
    clock[0] += 4.9
    assert sizes.get("kept") == 3
    clock[0] += 0.2
    assert sizes.get("kept") is None


def test_a_program_that_used_a_bucket_ends(url: str) -> None:
    program = (
        "import sys; from sweeper.storage.objects import ObjectStore; store = ObjectStore(sys.argv[1]); store.create('a/b', b'x' * 50);"
        "print(store.read('a/b') == b'x' * 50, store.files('a'))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True ['a/b']\n"
    assert done.stderr == "" and time.monotonic() - began < 20
