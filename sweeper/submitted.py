"""What a run that was submitted to a cluster was planned with: told to it in its environment, and held against what it finds there."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.source_tree import code_hash, commit_here

if TYPE_CHECKING:
    from sweeper.arguments import Asked
    from sweeper.plan import Plan

VARIABLE = "SWEEPER_SUBMITTED"
BRING = "`ray up` brings the command's code there; it restarts Ray, so only after the sweep that runs there, or after `stop`"
_HINTS = {
    "images": "--data DIR names a folder of the head that has those of the command",
    "search space": BRING,
    "scoring": "code, images and search space are the same, so it comes of a library's version",
    "trials": "code, images, search space and scoring are the same, so it comes of a library's version",
}


@dataclass(frozen=True)
class Submitted:
    """What the command had where it was given.

    Attributes:
        code: Hash of its code.
        commit: Of its source tree, None outside a repository.
        plan: What its plan was made of, as `parts_of`.
    """

    code: str
    commit: str | None
    plan: Mapping[str, str]


def environment(plan: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that tells a job what it was planned with here: the parts of its plan, this code, this commit."""
    return {VARIABLE: json.dumps(vars(Submitted(code_hash(), commit_here(), dict(plan))), sort_keys=True)}


def submitted() -> Submitted | None:
    """Return what this process's run was planned with, None if it was not submitted.

    Raises:
        ValueError: If the variable holds anything else than `environment` makes.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    try:
        told = json.loads(text)
        return Submitted(str(told["code"]), told.get("commit"), {str(name): str(value) for name, value in told["plan"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{VARIABLE} is set by `run --detach` for the job that it submits, got {text!r:.80}; unset it") from None


def parts_of(asked: "Asked", base: "Plan", *, is_listed: bool) -> dict[str, str]:
    """Return what a plan is made of, part by part, each as a short hash that is the same wherever it is made of the same.

    Args:
        base: The plan of an ablation, or of a search's first proposals.
        is_listed: Are these all its trials? A search's depend on what its sampler draws, and on its space, images and scoring otherwise.
    """
    from sweeper.canonical import key_of

    source = Path(str(asked.module.__file__)).read_bytes()
    parts = {
        "images": asked.splits.fingerprint[:12],
        "search space": hashlib.sha256(source).hexdigest()[:12],
        "scoring": key_of("scoring", evaluations=sorted(base.evaluations))[:12],
    }
    return parts | ({"trials": base.plan_hash[:12]} if is_listed else {})


def check_code() -> None:
    """Refuse a run that was submitted with other code than there is here.

    Raises:
        ValueError: Naming both hashes.
    """
    told = submitted()
    if told is not None and told.code != code_hash():
        raise ValueError(f"the code on the cluster is {code_hash()}, that of the command {told.code}: {BRING}")


def check_plan(found: Mapping[str, str]) -> None:
    """Refuse a run that was submitted, and whose plan comes out otherwise here, of the same code.

    Args:
        found: The parts of the plan as it was made here.

    Raises:
        ValueError: Naming the parts that differ, and what to do about the first.
    """
    told = submitted()
    if told is None:
        return
    if unlike := [name for name in dict.fromkeys([*told.plan, *found]) if told.plan.get(name) != found.get(name)]:
        words = ", ".join(f"{name} {found.get(name, 'none')} there, {told.plan.get(name, 'none')} of the command" for name in unlike)
        raise ValueError(f"the plan on the cluster is not the command's ({words}): {_HINTS.get(unlike[0], BRING)}")


def commit_of_same_code() -> str | None:
    """Return the commit that a submitted run's code is of, if what is here is that code."""
    told = submitted()
    return told.commit if told is not None and told.code == code_hash() else None
