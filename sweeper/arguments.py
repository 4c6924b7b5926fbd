"""What the commands are given: their options, the plan that these make, and one sentence where they are wrong."""

import errno
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sweeper.tables import FORMATS

if TYPE_CHECKING:
    from sweeper.datasets import Splits
    from sweeper.plan import Plan

errors = Console(stderr=True, highlight=False)

Space = Annotated[str, typer.Argument(metavar="SPACE", help="A name in search_spaces/, or the path of your own .py file.")]
Root = Annotated[
    str, typer.Option("--results", metavar="ROOT", help="Where all results are kept: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")
]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help=", ".join(FORMATS) + ".")]
Dataset = Annotated[str | None, typer.Option(metavar="NAME", help="digits (the default), fashion-mnist or cifar10.")]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set's official files; else the cache, else a download.")]
Scale = Annotated[str, typer.Option(metavar="SCALE", help="small (a CPU), medium (one GPU) or paper.")]
Evaluation = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="quick (prunes, never ranks), standard or full (hours on a CPU); default: the search space's, else standard."),
]
Seeds = Annotated[int | None, typer.Option(metavar="N", help="Seeds 0 to N-1 of every variant; default: the search space's, else 1.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of every trial that has it, under the variant's own; may be repeated."),
]
Epsilons = Annotated[str | None, typer.Option(metavar="E,E,…", help="Grid of gray-box and transfer attacks, such as 2/255,8/255.")]
Cpus = Annotated[
    float | None,
    typer.Option(metavar="X", help="CPUs of each trial, whole or a fraction, and torch threads (at least 1); default: the scale's."),
]
Split = Annotated[
    str,
    typer.Option(metavar="NAME", help="Whose images attack and score: test (the default), or validation, to choose by without the test images."),
]
Address = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A running Ray cluster; default: this machine.")]
Gpus = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="GPUs of each trial, whole or a fraction; default: 1 if the machine that the command runs on has one, at medium and paper; "
        "say it for a cluster whose head has none.",
    ),
]
MaxConcurrent = Annotated[int | None, typer.Option(min=1, metavar="N", help="Trials at once, at most.")]
Inline = Annotated[bool, typer.Option("--inline", help="Everything in this process, one after the other, without Ray.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try trials again that failed by themselves, not by a lost worker.")]
DEFAULT_ROOT = "results"
GROUPS = ("training", "retraining", "target", "numerics", "model_options")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what is wrong with the arguments into one line on standard error and exit status 2."""
    try:
        yield
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"error: {_sentence(error)}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except Exception as error:
        refusal = _of_storage(error)
        if refusal is None:
            raise
        errors.print(f"error: {_sentence(refusal)}; what was computed before is stored", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None


def _of_storage(error: BaseException | None) -> OSError | None:
    """Return the full or unwritable disk that another error, such as Ray's, was raised from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return error
        error = error.__cause__ or error.__context__
    return None


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return where a cluster's head is to be asked, None for `auto`; nothing is asked.

    Raises:
        ValueError: If it is neither `auto` nor `HOST:PORT` with a port of 1 to 65535; an IPv6 host stands in brackets.
    """
    if address == "auto":
        return None
    if address.startswith(("http://", "https://")):
        raise ValueError(f"--address {address} is a jobs server, which takes a run with --detach; a run from here takes auto or HOST:6379")
    if address.startswith("ray://"):
        raise ValueError(
            f"--address must be HOST:PORT of the head, such as 10.0.0.1:6379, or auto on a node of the cluster, got {address}; from elsewhere use "
            "--detach with the head's jobs server, such as http://127.0.0.1:8265"
        )
    parts = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/\[\]@]+)):(?P<port>[0-9]{1,5})", address)
    if parts is None or not 1 <= int(parts["port"]) <= 65535:
        raise ValueError(f"--address must be HOST:PORT of the head, such as 10.0.0.1:6379, or auto, got {address or 'nothing'}")
    return parts["v6"] or parts["name"], int(parts["port"])


def check_address(address: str) -> None:
    """Refuse a cluster that does not answer, before Ray is imported; `cluster/head.py` asks what listens there.

    Raises:
        ValueError: As `host_and_port`, or if nothing listens there; `auto` is left to Ray.
    """
    place = host_and_port(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=5).close()
    except (OSError, UnicodeError) as error:  # a name with an empty label is a UnicodeError
        raise ValueError(f"no Ray cluster answers at --address {address}: {getattr(error, 'strerror', None) or error}") from None


def _sentence(error: Exception) -> str:
    """Return what is wrong without the noise: no error number, no report of pydantic's."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        from sweeper.options import explain

        return explain(error, [], "setting")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error).strip() or type(error).__name__


@dataclass(frozen=True)
class Asked:
    """What the options that say what is to be run came to."""

    name: str
    module: Any
    dataset: str
    scale: str
    settings: dict[str, Any]
    epsilons: tuple[float, ...] | None
    threads: int | None
    splits: "Splits"

    @property
    def is_search(self) -> bool:
        """Say whether the space is sampled (`suggest`) and not listed (`variants`)."""
        return hasattr(self.module, "suggest")


def read_arguments(
    space: str, dataset: str | None, data: Path | None, scale: str, settings: list[str] | None, epsilons: str | None, cpus: float | None
) -> Asked:
    """Return a search space and what it is run on, the images loaded.

    Raises:
        ValueError: Naming the option, what was given and what it may be.
    """
    from sweeper import datasets, lookup, options, scales

    if scale not in scales.SCALES:
        raise ValueError(f"no scale named {scale!r}{lookup.nearest(scale, scales.SCALES)}; available: {', '.join(scales.SCALES)}")
    if cpus is not None and cpus <= 0:
        raise ValueError(f"--cpus-per-trial must be above 0, got {cpus:g}")
    module = lookup.find("search_spaces", space)
    name = lookup.canonical(Path(space).stem if space.endswith(".py") else space)
    variants_of(module, space)
    base = dict(_assignment(text) for text in settings or [])
    for setting in ("scale", "evaluation", "epsilons", "seeds"):
        if setting in base:
            raise ValueError(f"{setting} is an option of its own: --{setting} {base[setting]}")
    for setting in base:
        group, slash, _ = setting.partition("/")
        if slash and group not in GROUPS:
            raise ValueError(f"unknown trial setting {setting!r}{lookup.nearest(group, GROUPS)}; settings with a path begin with {', '.join(GROUPS)}")
    grid = None if epsilons is None else options.check_epsilons(tuple(_number(word) for word in epsilons.split(",")))
    chosen = lookup.canonical(str(dataset or base.pop("dataset", None) or "digits"))
    chosen = lookup.adopt(chosen) if chosen.endswith(".py") else chosen
    defaults = scales.trial_defaults(chosen, scale)
    train, validation, test = (_cap(cap, base.get(cap, defaults[cap])) for cap in ("train_images", "validation_images", "test_images"))
    splits = datasets.load(chosen, root=data, caps=(train, validation, test))
    return Asked(name, module, chosen, scale, base, grid, None if cpus is None else max(1, int(cpus)), splits)


def make_plan(asked: Asked, evaluation: str | None, seeds: int | None, split: str = "test") -> "Plan":
    """Return the plan of an ablation."""
    from sweeper import plan

    return plan.from_space(
        asked.name,
        asked.module,
        fingerprint=asked.splits.fingerprint,
        dataset=asked.dataset,
        scale=asked.scale,
        evaluation_name=evaluation,
        seeds=seeds,
        settings=asked.settings,
        threads=asked.threads,
        epsilons=asked.epsilons,
        split=split,
    )


def variants_of(module: Any, space: str) -> list[Any]:
    """Return what a search space's `variants()` gives, none if it has none: what is wrong inside is told with its line and not as our own failure.

    Raises:
        ValueError: Naming file and line of an exception, or what `variants()` gave instead of a list.
    """
    if not hasattr(module, "variants"):
        return []  # said by the plan
    try:
        given = module.variants()
        listed = None if isinstance(given, str | dict) else list(given)
    except Exception as error:
        trace, place = error.__traceback__, str(space)
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == module.__file__:
                place = f"{module.__file__}, line {trace.tb_lineno}"
            trace = trace.tb_next
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    if listed is None:
        raise ValueError(f"{space}: variants() must return a list of dicts, got {given!r:.80}")
    return listed


def _cap(name: str, value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be a whole number, or null for all images, got {value!r}")
    return value


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value.strip()


def _number(word: str) -> float:
    top, slash, bottom = word.strip().partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"an epsilon is a number or a fraction such as 8/255, got {word!r}") from None


def check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"no format named {format!r}; available: {', '.join(FORMATS)}")
