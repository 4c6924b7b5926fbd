"""Contents of a bucket's files that never change, kept in memory: checks read the same small parts again and again, and each costs a request."""

import threading
from collections import OrderedDict

MOST_BYTES = 256 * 2**20
_IMMUTABLE = ("parts/", "compacted/", "sources/")
_all: dict[str, "Recent"] = {}


class Recent:
    """What this process read of one root last, up to `MOST_BYTES`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    @classmethod
    def of(cls, url: str) -> "Recent":
        """Return the one of this process for a root."""
        return _all.setdefault(url, cls())

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._contents:
                self._contents.move_to_end(name)
            return self._contents.get(name)

    def keep(self, name: str, content: bytes) -> None:
        """Remember a file's content, if it is one that never changes."""
        if not name.startswith(_IMMUTABLE) or len(content) > MOST_BYTES // 8:
            return
        with self._lock:
            self._size -= len(self._contents.pop(name, b""))
            self._contents[name] = content
            self._size += len(content)
            while self._size > MOST_BYTES:
                self._size -= len(self._contents.popitem(last=False)[1])

    def forget(self, name: str) -> None:
        with self._lock:
            self._size -= len(self._contents.pop(name, b""))
