"""Requests to S3 through boto3, the one client here that can ask for a write which fails if the name is taken.

So where boto3 is installed it does everything with single objects and listings: a read, a write or a look at an object is then one request, where
pyarrow needs two to read, and a write is one PUT of the whole content, which an error cannot cut short.
"""

import base64
import hashlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import urllib3
from boto3.session import Session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnection

from sweeper.storage.place import CONNECT_SECONDS, READ_SECONDS, Place, attempts
from sweeper.storage.store import Stat

_NO_ANSWER = (HTTPClientError, NoConnection, IncompleteReadError, urllib3.exceptions.HTTPError)  # none came, or half of one
_TRANSIENT = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling", "TooManyRequests"}
_UNCONDITIONAL = {"NotImplemented", "InvalidArgument", "InvalidRequest"}
T = TypeVar("T")


class BotoBucket:
    """An S3 bucket. Keys are whole: they begin with the place's prefix."""

    can_be_conditional = True

    def __init__(self, place: Place) -> None:
        self.place = place
        session = Session()
        config = Config(
            signature_version=UNSIGNED if place.anonymous else None,
            retries={"mode": "standard", "total_max_attempts": 1},  # `_ask` tries again: botocore leaves out cut replies, and has a quota
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=32,
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",  # older servers refuse the newer checksums; Content-MD5 is known to all
            response_checksum_validation="when_required",
        )
        try:
            self._client: Any = session.client("s3", region_name=place.region or _region(place), endpoint_url=place.endpoint, config=config)
        except BotoCoreError as error:
            raise self._explain(error, "connecting to", place.prefix) from error
        self._is_there = False

    def get(self, key: str) -> bytes:
        return self._ask("reading", key, lambda: self._client.get_object(Bucket=self.place.bucket, Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self._ask("writing", key, lambda: self._put(key, content))

    def put_new(self, key: str, content: bytes) -> bool:
        """Write an object unless its name is taken; say whether this call wrote it. Needs a server that `is_conditional`."""
        writer = uuid.uuid4().hex
        try:
            self._ask("creating", key, lambda: self._put(key, content, IfNoneMatch="*", Metadata={"writer": writer}))
            return True
        except FileExistsError:  # the reply to our own write may have been lost, and the retry refused
            return self._writer(key) == writer

    def is_conditional(self, key: str) -> bool:
        """Say whether the server refuses to write to a name that is taken when asked to, by trying it at an unused key."""
        try:
            self.put_new(key, b"1")
            return not self.put_new(key, b"2")
        except OSError as error:
            if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] in _UNCONDITIONAL:
                return False
            raise
        finally:
            self.delete(key)

    def head(self, key: str) -> Stat | None:
        try:
            reply = self._ask("looking at", key, lambda: self._client.head_object(Bucket=self.place.bucket, Key=key))
        except FileNotFoundError:
            if not self._is_there:  # the reply is the same where there is no bucket
                next(self._pages("looking at", key, MaxKeys=1))
            return None
        modified, etag = reply["LastModified"].timestamp(), reply["ETag"].strip('"')
        return Stat(reply["ContentLength"], modified, f"{etag}-{modified}")

    def delete(self, key: str) -> None:
        self._ask("deleting", key, lambda: self._client.delete_object(Bucket=self.place.bucket, Key=key))

    def copy(self, key: str, target: str) -> None:
        source = {"Bucket": self.place.bucket, "Key": key}
        self._ask("copying", key, lambda: self._client.copy_object(Bucket=self.place.bucket, Key=target, CopySource=source))

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """Yield the key and size of every object below a folder, 1000 a request."""
        for page in self._pages("listing", folder):
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # an empty object that stands for a folder
                    yield found["Key"], found["Size"]

    def children(self, folder: str) -> list[str]:
        """Return the last step of everything directly below a folder."""
        keys: set[str] = set()
        for page in self._pages("listing", folder, Delimiter="/"):
            keys.update(found["Key"] for found in page.get("Contents", []))
            keys.update(found["Prefix"] for found in page.get("CommonPrefixes", []))
        start = len(folder) + 1 if folder else 0
        return [step for key in keys if (step := key[start:].rstrip("/"))]

    def now(self, key: str) -> float:
        """Return the server's time, to the second, from the head of its reply; the key need not exist."""
        try:
            reply = self._ask("asking the time of", key, lambda: self._client.head_object(Bucket=self.place.bucket, Key=key))
        except FileNotFoundError as error:
            assert isinstance(error.__cause__, ClientError)
            reply = error.__cause__.response
        return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def _put(self, key: str, content: bytes, **more: Any) -> None:
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        self._client.put_object(Bucket=self.place.bucket, Key=key, Body=content, ContentMD5=md5, **more)

    def _writer(self, key: str) -> str | None:
        try:
            return self._ask("looking at", key, lambda: self._client.head_object(Bucket=self.place.bucket, Key=key))["Metadata"].get("writer")
        except FileNotFoundError:
            return None

    def _pages(self, doing: str, folder: str, **more: Any) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.place.bucket, "Prefix": f"{folder}/" if folder else "", **more}
        while True:
            page = self._ask(doing, folder, lambda: self._client.list_objects_v2(**request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _ask(self, doing: str, key: str, request: Callable[[], T]) -> T:
        for attempt in range(attempts()):
            if attempt:
                time.sleep(random.uniform(0, min(20, 0.1 * 2**attempt)))
            try:
                reply = request()
                self._is_there = True
                return reply
            except (ClientError, BotoCoreError, urllib3.exceptions.HTTPError) as error:
                if attempt + 1 == attempts() or not _may_pass(error):
                    raise self._explain(error, doing, key) from error
        raise AssertionError("at least one attempt is made")

    def _explain(self, error: Exception, doing: str, key: str) -> OSError:
        if isinstance(error, ClientError):
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            detail = f"{status} {code}: {error.response['Error'].get('Message', '')}"
            if code == "NoSuchBucket":
                return self.place.no_bucket(doing, key)
            if status == 404:
                return self.place.missing(key)
            if status == 412:
                return FileExistsError(17, "the name is taken", self.place.shown(key))
            return self.place.denied(doing, key, detail) if status in (401, 403) else self.place.failed(doing, key, detail)
        if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
            return self.place.no_credentials(doing, key, str(error))
        if isinstance(error, _NO_ANSWER):
            return self.place.unreachable(doing, key, str(error))
        return self.place.failed(doing, key, str(error))


def _region(place: Place) -> str:
    from sweeper.storage.arrow_bucket import region_of

    return region_of(place)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status in (429, 500, 502, 503, 504) or error.response["Error"]["Code"] in _TRANSIENT
    return isinstance(error, _NO_ANSWER)
