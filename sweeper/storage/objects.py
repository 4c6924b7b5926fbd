"""A results root in a bucket: s3://bucket/prefix or gs://bucket/prefix. A file is an object, and an object is there whole or not at all.

With conditional writes (S3 and servers that know `If-None-Match`, where boto3 is installed) the first writer of a name wins, as in a folder.
Without them a name is looked up and then written: of writers at the same moment each is told that it created the file, and the last one's content
stays. A part is then still one object, whole, and its rows are the same whoever wrote them. A manifest's number is not safe: allow one compactor.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sweeper.storage.place import Place
from sweeper.storage.recent import Recent
from sweeper.storage.store import Stat

SIZES_SECONDS = 5.0  # how long the sizes that a listing told are believed
_SMALLEST_PARQUET = 12  # bytes: the magic ones twice and the length of the footer


class ObjectStore:
    """Objects under a bucket's prefix. Connects at the first request; what is pickled is the URL, the endpoint and whether writes are conditional."""

    def __init__(self, url: str, endpoint: str | None = None, is_conditional: bool | None = None) -> None:
        """Raise ValueError for a URL of another kind. The endpoint counts where neither URL nor environment names one."""
        self.url = url
        self.place = Place.parse(url, endpoint)
        self._is_conditional = is_conditional
        self._opening = threading.Lock()
        self._opened: tuple[int, Any] | None = None
        self._sizes = _Sizes()
        self._recent = Recent.of(url)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore, (self.url, self.place.endpoint, self._is_conditional)

    @property
    def is_conditional(self) -> bool:
        """Say whether of several creators of a name exactly one wins. Found out by trying, once: four small requests."""
        if not self._bucket.can_be_conditional:
            return False
        if self._is_conditional is None:
            self._is_conditional = self._bucket.is_conditional(self._unused_key())
        return self._is_conditional

    def check(self) -> None:
        """Find nothing wrong: whatever lies under a prefix, a root can be there."""

    def prepare(self) -> None:
        try:
            probe = self._unused_key()
            self._bucket.put(probe, b"")
            self._bucket.delete(probe)
            _ = self.is_conditional  # so that what is sent to other processes knows it
        except OSError as error:
            raise ValueError(f"results root {self.place.shown(self.place.prefix)} is not writable: {error}") from error

    def shown(self, name: str) -> str:
        return self.place.shown(self.place.key(name))

    def local_path(self, name: str) -> None:
        return None

    def read(self, name: str) -> bytes:
        content = self._recent.get(name)
        if content is None:
            content = self._bucket.get(self.place.key(name))
            self._recent.keep(name, content)
        return content

    def create(self, name: str, content: bytes) -> bool:
        key = self.place.key(name)
        try:
            if self.is_conditional:
                return self._bucket.put_new(key, content)
            if self._bucket.head(key) is not None:
                return False
            self._bucket.put(key, content)
            return True
        finally:
            self._forget(name)

    def replace(self, name: str, content: bytes) -> None:
        try:
            self._bucket.put(self.place.key(name), content)
        finally:
            self._forget(name)

    def delete(self, name: str) -> None:
        try:
            self._bucket.delete(self.place.key(name))
        finally:
            self._forget(name)

    def move(self, name: str, target: str) -> None:
        """Give a file another name: a copy, then a deletion; whoever is cut off between them leaves both."""
        try:
            self._bucket.copy(self.place.key(name), self.place.key(target))
        finally:
            self._forget(target)
        self.delete(name)

    def stat(self, name: str) -> Stat | None:
        self._recent.forget(name)  # who asks wants to know what is there now
        return self._bucket.head(self.place.key(name))

    def names(self, folder: str) -> list[str]:
        return sorted(self._bucket.children(self.place.key(folder)))

    def files(self, folder: str) -> list[str]:
        with self._sizes.listing() as sizes:
            sizes.update((self.place.name(key), size) for key, size in self._bucket.walk(self.place.key(folder)))
        return sorted(sizes)

    def is_whole(self, name: str, size: int | None = None) -> bool:
        kept = self._recent.get(name)
        found = self._sizes.get(name) if kept is None else len(kept)
        if found is None:
            if (stat := self.stat(name)) is None:
                return False
            found = stat.size
        return found >= _SMALLEST_PARQUET and (size is None or found == size)

    def now(self) -> float:
        """Return the server's time as `Stat.modified` has it: of S3 to the second."""
        return self._bucket.now(self._unused_key())

    def free_bytes(self) -> None:
        return None

    def arrow(self) -> None:
        """Return none: the tables' files are small, and reading one whole is one request where picking columns takes three."""

    @property
    def _bucket(self) -> Any:
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():  # a forked process must not speak on its parent's connections
                self._opened = os.getpid(), _open(self.place)
            return self._opened[1]

    def _forget(self, name: str) -> None:
        self._sizes.forget(name)
        self._recent.forget(name)

    def _unused_key(self) -> str:
        return self.place.key(f".tmp/{uuid.uuid4().hex}")


def _open(place: Place) -> Any:
    if place.kind == "s3":
        try:
            from sweeper.storage.boto_bucket import BotoBucket

            return BotoBucket(place)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("boto3", "botocore", "urllib3"):
                raise
    from sweeper.storage.arrow_bucket import ArrowBucket

    return ArrowBucket(place)


class _Sizes:
    """The sizes of files that were listed a moment ago, less those that this process has changed since the listing began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listed: list[tuple[float, dict[str, int]]] = []  # until when it is believed, size by name
        self._changed: dict[int, set[str]] = {}  # by listing under way: names that changed since it began

    @contextmanager
    def listing(self) -> Iterator[dict[str, int]]:
        """Give a dictionary to fill with what a listing finds."""
        found, changed = dict[str, int](), set[str]()
        with self._lock:
            self._changed[id(changed)] = changed
        try:
            yield found
        finally:
            with self._lock:
                del self._changed[id(changed)]
                now = time.monotonic()
                kept = {name: size for name, size in found.items() if name not in changed}
                self._listed = [(now + SIZES_SECONDS, kept)] + [listed for listed in self._listed if listed[0] > now]

    def get(self, name: str) -> int | None:
        now = time.monotonic()
        with self._lock:
            return next((sizes[name] for until, sizes in self._listed if until > now and name in sizes), None)

    def forget(self, name: str) -> None:
        with self._lock:
            for _, sizes in self._listed:
                sizes.pop(name, None)
            for changed in self._changed.values():
                changed.add(name)
