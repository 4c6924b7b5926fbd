"""Does a cluster have the code of the command that is submitted to it? `python -m sweeper.cluster.code`, run there, prints a hash of every file.

Imports neither torch nor Ray: it is a job of its own before each submission.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from sweeper.cluster.relay import MARK
from sweeper.source_tree import SPACES, code_hash, file_hashes
from sweeper.submitted import BRING

if TYPE_CHECKING:
    from sweeper.cluster.jobs import Head

_NAMED = 3  # files that are told of one by one


def check_code(head: "Head") -> None:
    """Refuse a cluster whose code, or whose text of a search space that this process has loaded, is not that of this machine.

    Raises:
        ValueError: Naming both hashes and the files that differ; as `Head`.
    """
    job = head.submit("python -m sweeper.cluster.code")
    with closing(head.lines(job, live=False)) as lines:
        printed = list(lines)
    if head.exit_status(job) != 0:
        said = printed[-1][1].strip() if printed else "it says nothing"
        raise ValueError(f"the cluster at {head.address} cannot say which code it has ({said}), that of the command is {code_hash()}: {BRING}")
    there = json.loads("".join(line for is_output, line in printed if is_output))
    files = _differing(file_hashes(), there["files"])
    if there["code"] != code_hash():
        raise ValueError(f"the code on the cluster is {there['code']}, that of the command {code_hash()} ({files}): {BRING}")
    if files:
        raise ValueError(f"the search space on the cluster is not that of the command ({files}): {BRING}")


def _differing(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return in words which files differ, "" if none does that matters here."""
    unlike = [path for path in sorted({*here, *there}) if here.get(path) != there.get(path) and _matters(path)]
    words = [f"{path} {'is only there' if path not in here else 'is only here' if path not in there else 'differs'}" for path in unlike[:_NAMED]]
    more = [f"{len(unlike) - _NAMED} more differ"] if len(unlike) > _NAMED else []
    left = ["what was deleted here is to be deleted there by hand"] if any(path not in here for path in unlike) else []
    return ", ".join([*words, *more, *left])


def _matters(path: str) -> bool:
    return not path.startswith(f"{SPACES}/") or path.removesuffix(".py").replace("/", ".") in sys.modules


def main() -> None:
    """Print the hash of the code that is here, and of each file."""
    print(MARK + json.dumps({"code": code_hash(), "files": file_hashes()}))


if __name__ == "__main__":
    main()
