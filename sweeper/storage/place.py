"""Which bucket a URL means, how it is reached, and what to look at when it is not; and URLs without their passwords."""

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

ACCEPTED = "a folder, s3://bucket/prefix or gs://bucket/prefix"
CONNECT_SECONDS, READ_SECONDS = 5, 60  # how long a server may take to be reached, and be silent
_OPTIONS = {"s3": ("anonymous", "endpoint_override", "region", "scheme"), "gs": ("anonymous", "endpoint_override", "scheme")}
_CREDENTIALS = {
    "s3": "the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role)",
    "gs": "the credentials (GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account)",
}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or endpoint_override in the URL", "gs": "endpoint_override in the URL"}

_PASSWORDS = (re.compile(r"(://[^\s:/@]*):[^@]*@(?:\S*@)?"), re.compile(r"([?&](?:password|passwd|pwd)=)[^&\s]*", re.IGNORECASE))


def without_passwords(text: str) -> str:
    """Return text with `***` in place of the passwords of its URLs: postgresql://user:***@host/db. What is stored or said of a command is so."""
    user, option = _PASSWORDS
    return option.sub(r"\1***", user.sub(r"\1:***@", text))


def attempts() -> int:
    """Return how often a request is tried before it counts as failed, AWS_MAX_ATTEMPTS if that is set. Raises ValueError if it is no count."""
    said = os.environ.get("AWS_MAX_ATTEMPTS", "8")
    if not said.isdigit() or int(said) < 1:
        raise ValueError(f"AWS_MAX_ATTEMPTS must be a whole number of at least 1, got {said!r}")
    return int(said)


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket. The endpoint is scheme://host:port, None for the provider's own; region None stands for the bucket's own."""

    kind: str  # s3 or gs
    bucket: str
    prefix: str  # without slashes at its ends, may be empty
    endpoint: str | None
    region: str | None
    anonymous: bool

    @classmethod
    def parse(cls, url: str, endpoint: str | None = None) -> "Place":
        """Read a URL and this process's environment; endpoint counts if neither names one. Raises ValueError for anything that is no such URL."""
        parts = urlsplit(url)
        if parts.scheme not in _OPTIONS:
            raise ValueError(f"results root must be {ACCEPTED}, got {url!r}")
        if "@" in parts.netloc:
            raise ValueError(f"a results root's URL holds no credentials, they come from the environment: {_CREDENTIALS[parts.scheme]}")
        prefix = unquote(parts.path).strip("/")
        if not parts.netloc:
            raise ValueError(f"the bucket is missing: results root must be {parts.scheme}://bucket/prefix, got {url!r}")
        if parts.fragment or any(step in ("", ".", "..") for step in (prefix or "x").split("/")):
            raise ValueError(f"results root must be {parts.scheme}://bucket/prefix, without empty steps, '.', '..' or '#', got {url!r}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := options.keys() - set(_OPTIONS[parts.scheme]):
            raise ValueError(f"unknown option {min(unknown)!r} in {url!r}; known options: {', '.join(_OPTIONS[parts.scheme])}")
        if (anonymous := options.get("anonymous", "false")) not in ("true", "false"):
            raise ValueError(f"anonymous must be true or false, got {anonymous!r} in {url!r}")
        said = options.get("endpoint_override")
        if not said and parts.scheme == "s3":
            said = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        said = said or endpoint
        if said and "://" not in said:
            said = f"{options.get('scheme', 'https')}://{said}"
        if said and urlsplit(said).scheme not in ("http", "https"):
            raise ValueError(f"an endpoint must be http:// or https:// and a host, got {said!r}")
        region = options.get("region")
        if said and not region:
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return cls(parts.scheme, parts.netloc, prefix, said.rstrip("/") if said else None, region, anonymous == "true")

    def key(self, name: str) -> str:
        return "/".join(step for step in (self.prefix, name) if step)

    def name(self, key: str) -> str:
        return key[len(self.prefix) + 1 :] if self.prefix else key

    def shown(self, key: str = "") -> str:
        return f"{self.kind}://{self.bucket}" + (f"/{key}" if key else "")

    def missing(self, key: str) -> FileNotFoundError:
        return FileNotFoundError(2, "no such object", self.shown(key))

    def denied(self, doing: str, key: str, detail: str) -> PermissionError:
        return PermissionError(
            f"access denied while {doing} {self.shown(key)} ({detail}): look at {_CREDENTIALS[self.kind]} and at what they may do in the bucket: "
            "list, get, put and delete are needed"
        )

    def no_credentials(self, doing: str, key: str, detail: str) -> PermissionError:
        return PermissionError(f"no credentials for {doing} {self.shown(key)} ({detail}): look at {_CREDENTIALS[self.kind]}")

    def no_bucket(self, doing: str, key: str) -> OSError:
        return OSError(
            f"no bucket {self.bucket!r} at {self._at()}, seen while {doing} {self.shown(key)}: "
            f"create it, or look at the URL and the endpoint ({_ENDPOINT[self.kind]})"
        )

    def unreachable(self, doing: str, key: str, detail: str) -> ConnectionError:
        tried = f", tried {attempts()} times" if self.kind == "s3" else ""
        return ConnectionError(
            f"no answer from {self._at()} while {doing} {self.shown(key)}{tried} ({detail}): "
            f"look at the network and the endpoint ({_ENDPOINT[self.kind]})"
        )

    def failed(self, doing: str, key: str, detail: str) -> OSError:
        return OSError(f"{doing} {self.shown(key)} failed at {self._at()}: {detail}; look at the credentials, the bucket and the endpoint")

    def _at(self) -> str:
        return self.endpoint or {"s3": "AWS S3", "gs": "Google Cloud Storage"}[self.kind]
