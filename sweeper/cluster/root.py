"""A results root on the driver's own disk, for nodes that do not see it: their files come and go through Ray.

Whether a node sees the root is asked of the disk, not of the user: the driver leaves a witness, a file with a random name, and whoever finds it under
the same path is on the same storage and uses it directly. Anyone else asks an actor on the driver's node. Either way a file is in the root when the
call returns, so nothing is lost with a worker's node.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.storage.local import LocalStore
from sweeper.storage.store import Stat, Store
from sweeper.worker import Job

CONCURRENT_CALLS = 16


@contextmanager
def reachable(job: Job) -> Iterator[Job]:
    """Return the job with a results root that every node of the cluster reaches."""
    if not isinstance(job.store, LocalStore):  # a bucket is reached from everywhere
        yield job
        return
    witness = f".tmp/{uuid.uuid4().hex}"  # `compact` may remove it after a day; then the others ask the actor, which is right too
    job.store.create(witness, b"")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": CONCURRENT_CALLS, "max_restarts": -1, "max_task_retries": -1}
    server: Any = ray.remote(_Server).options(scheduling_strategy=here, **options).remote(str(job.store.root))
    try:
        yield replace(job, store=ReachedStore(job.store.root, witness, server))
    finally:
        job.store.delete(witness)
        ray.kill(server)


class _Server:
    """Does on the driver's node what others ask of its folder."""

    def __init__(self, root: str) -> None:
        self.store = LocalStore(root)

    def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...] | None]:
        """Return what a method of the store returns, or the parts of an OSError: Ray would wrap it in a class of its own, without the number."""
        try:
            return getattr(self.store, method)(*arguments), None
        except OSError as error:
            return None, (error.errno or errno.EIO, error.strerror or str(error), error.filename)


class ReachedStore:
    """Files of a folder on the driver's node: directly where this process sees that folder, else through Ray.

    Args:
        root: The folder, as the driver calls it.
        witness: Name of the file in it that proves that another node's folder of that path is the same.
        server: The actor that is asked.
    """

    def __init__(self, root: Path, witness: str, server: Any) -> None:
        self.root, self.witness, self.server = root, witness, server
        self.url = str(root)

    def __reduce__(self) -> Any:
        return ReachedStore, (self.root, self.witness, self.server)  # each process finds out for itself

    @cached_property
    def _seen(self) -> LocalStore | None:
        local = LocalStore(self.root)
        try:
            return local if local.stat(self.witness) is not None else None
        except OSError:  # a folder of that path which is not for us, or a mount that is gone: the actor is asked
            return None

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._seen is not None:
            return getattr(self._seen, method)(*arguments)
        value, problem = ray.get(self.server.call.remote(method, arguments))
        if problem is not None:
            raise OSError(*problem)  # the class that belongs to the number, FileNotFoundError for one
        return value

    def check(self) -> None:
        self._call("check")

    def prepare(self) -> None:
        self._call("prepare")

    def shown(self, name: str) -> str:
        return os.path.join(self.url, name)

    def local_path(self, name: str) -> Path | None:
        return None if self._seen is None else self._seen.local_path(name)

    def read(self, name: str) -> bytes:
        return self._call("read", name)

    def create(self, name: str, content: bytes) -> bool:
        return self._call("create", name, content)

    def replace(self, name: str, content: bytes) -> None:
        self._call("replace", name, content)

    def delete(self, name: str) -> None:
        self._call("delete", name)

    def move(self, name: str, target: str) -> None:
        self._call("move", name, target)

    def stat(self, name: str) -> Stat | None:
        return self._call("stat", name)

    def names(self, folder: str) -> list[str]:
        return self._call("names", folder)

    def files(self, folder: str) -> list[str]:
        return self._call("files", folder)

    def is_whole(self, name: str, size: int | None = None) -> bool:
        return self._call("is_whole", name, size)

    def now(self) -> float:
        return self._call("now")

    def free_bytes(self) -> int | None:
        return self._call("free_bytes")

    def arrow(self) -> Any:
        return None if self._seen is None else self._seen.arrow()


_: type[Store] = ReachedStore
