"""Published files: where they come from, how they are downloaded once, and how they are checked.

Pooch does the work: it writes aside and moves into place, so another process never sees half a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

NUM_RETRIES = 3  # after the first attempt, waiting 1, 2 and 3 seconds


class PublishedFile(NamedTuple):
    """One file as the data set's own site publishes it."""

    name: str
    url: str
    md5: str  # as published there; it finds damage, not malice
    size_bytes: int


def cache_folder() -> Path:
    """Return the folder downloads are kept in: SWEEPER_CACHE, or the platform's own cache folder."""
    chosen = os.environ.get("SWEEPER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("sweeper"))


def download(dataset: str, files: Sequence[PublishedFile], folder: Path) -> list[Path]:
    """Return the files' paths in folder. Files that are there with the right checksum are not downloaded again.

    A failed or damaged download is tried again, `NUM_RETRIES` times. A progress bar is drawn on standard error where
    that is a terminal.

    Raises:
        ConnectionError: If a file cannot be had; the message says how to do without the network.
        ValueError: If what came has another checksum than the published file; it is not kept.
        OSError: If folder cannot be written.
    """
    import pooch
    from requests import RequestException

    is_terminal = sys.stderr.isatty()
    pooch.get_logger().setLevel("INFO" if is_terminal else "WARNING")
    getter = pooch.create(
        path=folder,
        base_url="",
        registry={file.name: f"md5:{file.md5}" for file in files},
        urls={file.name: file.url for file in files},
        retry_if_failed=NUM_RETRIES,
    )
    downloader = pooch.HTTPDownloader(progressbar=is_terminal, chunk_size=1 << 18)
    paths = []
    for file in files:
        try:
            paths.append(Path(getter.fetch(file.name, downloader=cast("Any", downloader))))
        except RequestException as error:
            raise ConnectionError(
                f"cannot download {file.url} to {folder / file.name} ({error}); tried {NUM_RETRIES + 1} times. " + _by_hand(dataset, files)
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{file.url} is not the published {file.name} of {file.size_bytes:,} bytes; it was not kept. {error} {_by_hand(dataset, files)}"
            ) from error
        except OSError as error:
            raise OSError(
                f"cannot keep {file.name} of {file.size_bytes:,} bytes in the cache folder {folder}: {error}; set SWEEPER_CACHE to a folder with room"
            ) from error
    return paths


def checksum_row(path: Path, file: PublishedFile) -> dict[str, object]:
    """Return the row of `verify` that says whether path is the file as published."""
    import pooch

    found = f"md5 {pooch.file_hash(str(path), alg='md5')}" if path.is_file() else "missing"
    expected = f"md5 {file.md5}"
    return {"file": str(path), "check": "checksum", "expected": expected, "found": found, "ok": found == expected}


def find_folder(dataset: str, root: Path, places: Sequence[str], marks: Sequence[str], hint: str) -> Path:
    """Return the first of root's places that holds a file of one of the names in marks.

    Raises:
        FileNotFoundError: If root is no folder, or none of its places holds one; hint says what to do.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} of {dataset!r} does not exist, or is no folder")
    for place in places:
        if any((root / place / mark).is_file() for mark in marks):
            return root / place
    looked = ", ".join(str(root / place) for place in places)
    raise FileNotFoundError(f"found no {marks[0]} of {dataset!r} in {looked}; {hint}")


def _by_hand(dataset: str, files: Sequence[PublishedFile]) -> str:
    names = ", ".join(file.name + (", unpacked," if file.name.endswith(".tar.gz") else "") for file in files)
    return f"Without a network, put {names} in a folder and give it: --dataset {dataset.replace('_', '-')} --data DIR"
