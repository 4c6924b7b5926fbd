"""Requests to a bucket through pyarrow: Google's, and S3 where boto3 is not installed. It has no write that fails if the name is taken."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pyarrow
import pyarrow.fs

from sweeper.storage.place import CONNECT_SECONDS, READ_SECONDS, Place, attempts
from sweeper.storage.store import Stat

_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|[Bb]ucket '?[^' ]*'? (not found|does not exist)|The specified bucket does not exist")
_DENIED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED")
_NO_CREDENTIALS = re.compile(r"Could not create a OAuth2 access token|Could not automatically determine credentials")
_UNREACHABLE = re.compile(r"NETWORK_CONNECTION|curlCode|UNAVAILABLE|REQUEST_TIMEOUT|DEADLINE_EXCEEDED")
_FAULTS = (OSError, pyarrow.ArrowException)
T = TypeVar("T")


def file_system(place: Place) -> Any:
    """Return pyarrow's file system of a bucket's provider; its paths begin with the bucket. Raises OSError if the bucket's region cannot be found."""
    scheme, _, host = (place.endpoint or "https://").partition("://")
    if place.kind == "gs":
        limit = timedelta(seconds=4 * attempts())  # measured: it goes on for up to twice as long
        return pyarrow.fs.GcsFileSystem(anonymous=place.anonymous, scheme=scheme, endpoint_override=host or None, retry_time_limit=limit)
    more = {"tls_ca_file_path": os.environ["AWS_CA_BUNDLE"]} if os.environ.get("AWS_CA_BUNDLE") else {}
    return pyarrow.fs.S3FileSystem(
        anonymous=place.anonymous,
        region=place.region or region_of(place),
        scheme=scheme,
        endpoint_override=host or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=READ_SECONDS,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts()),
        allow_delayed_open=True,  # one PUT for a small object instead of the three requests of a multipart upload
        **more,
    )


def region_of(place: Place) -> str:
    try:
        return pyarrow.fs.resolve_s3_region(place.bucket)
    except _FAULTS as error:
        raise explain(place, error, "asking for the region (or name it in the URL: ?region=...) of", place.prefix) from error


def explain(place: Place, error: Exception, doing: str, key: str) -> OSError:
    detail = " ".join(str(error).partition(" error_info=")[0].split())[:300]  # Google's messages are pages long
    if _NO_BUCKET.search(detail):
        return place.no_bucket(doing, key)
    if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in detail:
        return place.missing(key)
    if _NO_CREDENTIALS.search(detail):
        return place.no_credentials(doing, key, detail)
    if _DENIED.search(detail):
        return place.denied(doing, key, detail)
    return place.unreachable(doing, key, detail) if _UNREACHABLE.search(detail) else place.failed(doing, key, detail)


class ArrowBucket:
    """A bucket. Keys are whole: they begin with the place's prefix."""

    can_be_conditional = False

    def __init__(self, place: Place) -> None:
        self.place = place
        self._fs = file_system(place)
        self._writers = ThreadPoolExecutor(32, thread_name_prefix="bucket-writer")
        self._is_there = False

    def get(self, key: str) -> bytes:
        for _ in range(10):
            before, content = self._ask("reading", key, lambda: self._content(key))
            if before == self._ask("reading", key, lambda: self._found(key)):  # the size is asked for first: a longer object put there since is cut
                return content
        raise self.place.failed("reading", key, "it was replaced in each of 10 attempts")

    def put(self, key: str, content: bytes) -> None:
        """Write an object. Closing a stream commits what came so far, and so does dropping one, so nothing may come between its opening and its end.

        Hence a thread, which no signal interrupts, and a buffer made before: what is no bytes is refused in time.
        """
        buffer = pyarrow.py_buffer(content)

        def request() -> None:
            stream = self._fs.open_output_stream(self._path(key))
            stream.write(buffer)
            stream.close()

        self._ask("writing", key, lambda: self._writers.submit(request).result())

    def head(self, key: str) -> Stat | None:
        try:
            return self._ask("looking at", key, lambda: self._found(key))
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        try:
            self._ask("deleting", key, lambda: self._fs.delete_file(self._path(key)))
        except FileNotFoundError:
            return

    def copy(self, key: str, target: str) -> None:
        self._ask("copying", key, lambda: self._fs.copy_file(self._path(key), self._path(target)))

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the key and size of every object below a folder, 1000 a request."""
        for found in self._list(folder, recursive=True):
            if found.type == pyarrow.fs.FileType.File:
                yield found.path[len(self.place.bucket) + 1 :], found.size

    def children(self, folder: str) -> list[str]:
        """Return the last step of everything directly below a folder."""
        if self.place.kind == "s3":
            return [found.base_name for found in self._list(folder, recursive=False)]
        start = len(folder) + 1 if folder else 0  # of Google's buckets pyarrow lists no folder that has no object of its own
        return list({key[start:].partition("/")[0] for key, _ in self.walk(folder)})

    def now(self, key: str) -> float:
        """Return the server's time from an object that is written at an unused key."""
        self.put(key, b"")
        try:
            return self._ask("asking the time of", key, lambda: self._found(key)).modified
        finally:
            self.delete(key)

    def _content(self, key: str) -> tuple[Stat, bytes]:
        if self.place.kind == "s3":
            with self._fs.open_input_stream(self._path(key)) as stream:
                return _stat(stream.metadata()), stream.read()
        stat = self._found(key)
        with self._fs.open_input_stream(self._path(key)) as stream:
            return stat, stream.read()

    def _found(self, key: str) -> Stat:
        if self.place.kind == "s3":
            with self._fs.open_input_file(self._path(key)) as file:  # one HEAD, of which file information leaves the ETag out
                return _stat(file.metadata())
        info = self._fs.get_file_info(self._path(key))
        if info.type != pyarrow.fs.FileType.File:
            raise FileNotFoundError
        return Stat(info.size, info.mtime.timestamp(), f"{info.size}-{info.mtime_ns}")

    def _list(self, folder: str, recursive: bool) -> list[Any]:
        selector = pyarrow.fs.FileSelector(self._path(folder), recursive=recursive, allow_not_found=True)
        found = self._ask("listing", folder, lambda: self._fs.get_file_info(selector))
        if not found:
            self._see_bucket("listing", folder)
        return found

    def _path(self, key: str) -> str:
        return f"{self.place.bucket}/{key}"

    def _ask(self, doing: str, key: str, request: Callable[[], T]) -> T:
        try:
            return request()
        except _FAULTS as error:
            explained = explain(self.place, error, doing, key)
            if isinstance(explained, FileNotFoundError):
                self._see_bucket(doing, key)
            raise explained from error

    def _see_bucket(self, doing: str, key: str) -> None:
        """Look once whether there is a bucket: what is missing is answered alike where there is none."""
        if self._is_there:
            return
        try:
            info = self._fs.get_file_info(self.place.bucket)
        except _FAULTS as error:
            raise explain(self.place, error, doing, key) from error
        if info.type == pyarrow.fs.FileType.NotFound:
            raise self.place.no_bucket(doing, key)
        self._is_there = True


def _stat(said: dict[str, bytes]) -> Stat:
    modified, etag = datetime.fromisoformat(said["Last-Modified"].decode()).timestamp(), said["ETag"].decode().strip('"')
    return Stat(int(said["Content-Length"]), modified, f"{etag}-{modified}")
