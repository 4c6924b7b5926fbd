"""Data sets, one file each: the file's name is its name.

A data set's file offers `load(root, caps) -> Splits`. For the command line it also offers `inspect(root)`, `FILES`,
`SOURCE`, `LICENCE`, `CLASS_NAMES`, `IMAGE_SHAPE` and `COUNTS`, and, unless `FILES` is empty (embedded), `fetch()` and
`is_cached()`. Its `VERSION` is bumped when the same files give other images, and is part of the fingerprint.

The functions here return plain rows and print nothing. Importing this package imports neither torch nor scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

from sweeper import lookup
from sweeper.datasets._files import cache_folder
from sweeper.datasets._splits import Caps, Split, Splits, check_caps, stratified_indices, subset

__all__ = [
    "Caps", "Split", "Splits", "cache_folder", "check_caps", "describe", "fetch", "load", "names", "stratified_indices",
    "subset", "verify",
]  # fmt: skip


def names() -> list[str]:
    """Return the names of our own data sets, as rows store them."""
    return lookup.available("datasets")


def load(name: str, *, root: Path | None = None, caps: Caps = (None, None, None)) -> Splits:
    """Return the splits of a data set, the same whenever name, files and caps are.

    Args:
        name: `digits`, `fashion-mnist` (or `fashion_mnist`), `cifar10`, or the path of the user's own file.
        root: Folder of the data set's files, and nothing else is looked at; None reads the cache folder, where what is
            missing is downloaded first. Ten workers would download ten times: call `fetch` once before they start.
        caps: Most images of train, validation and test; stratified subsets. None is all.

    Raises:
        ValueError: If there is no such data set, a cap is below 1, or a file is not what its name says.
        FileNotFoundError: If a file is missing under root.
        ConnectionError: If a download fails.
    """
    module = lookup.find("datasets", name)
    caps = check_caps(caps)
    reads_cache = root is None and bool(getattr(module, "FILES", ())) and module.is_cached()
    try:
        return module.load(root, caps)
    except ValueError as error:
        if not reads_cache:
            raise
        raise ValueError(f"{error}; `python -m sweeper data fetch {name}` replaces damaged files of the cache") from error


def describe() -> list[dict[str, object]]:
    """Return one row per data set: its name, images per split when complete, shape, place, source and licence."""
    rows: list[dict[str, object]] = []
    for name in names():
        module = lookup.find("datasets", name)
        where = "embedded" if not module.FILES else "cached" if module.is_cached() else "missing"
        train, validation, test = module.COUNTS
        row = {"name": name, "train": train, "validation": validation, "test": test, "classes": len(module.CLASS_NAMES)}
        row |= {
            "shape": "x".join(map(str, module.IMAGE_SHAPE)),
            "where": where,
            "source": module.SOURCE,
            "licence": module.LICENCE,
        }
        row["download_bytes"] = sum(file.size_bytes for file in module.FILES)
        rows.append(row)
    return rows


def fetch(name: str) -> list[dict[str, object]]:
    """Download a data set's files into the cache folder, and return one row per file; none if it is embedded.

    Files that are there and undamaged are not downloaded again; damaged ones are replaced.

    Raises:
        ConnectionError, ValueError, OSError: As `_files.download`.
    """
    module = lookup.find("datasets", name)
    paths: list[Path] = module.fetch() if getattr(module, "FILES", ()) else []
    return [{"name": lookup.canonical(name), "file": str(path), "bytes": path.stat().st_size} for path in paths]


def verify(name: str, root: Path | None = None) -> list[dict[str, object]]:
    """Return rows file, check, expected, found, ok for the files under root, or in the cache folder.

    The check `checksum` asks whether the file is the published one, `content` whether it can be read: a shortened file
    in the official format fails the first and passes the second; `archive` compares an unpacked file with the archive
    it came from. Nothing is downloaded.

    Raises:
        FileNotFoundError: If root holds none of the data set's files.
        ValueError: If the data set is the user's own file and offers no `inspect`.
    """
    module = lookup.find("datasets", name)
    if not hasattr(module, "inspect"):
        raise ValueError(f"the data set {name!r} offers no inspect(root), so there is nothing to verify")
    return module.inspect(root)
