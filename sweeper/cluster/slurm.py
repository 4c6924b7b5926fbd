"""Rules for a batch script of Slurm that runs one sweep with `ray symmetric-run`."""

import re
import subprocess
from collections.abc import Iterator

from sweeper.cluster.findings import Finding
from sweeper.cluster.known import SBATCH
from sweeper.cluster.shell import Call, call_of, options_of, without_comments
from sweeper.cluster.source import Rule, Source, words_of
from sweeper.cluster.start_commands import HEALTH
from sweeper.lookup import nearest

_SHORT = {"A": "account", "a": "array", "c": "cpus-per-task", "C": "constraint", "D": "chdir", "d": "dependency", "e": "error", "G": "gpus",
          "J": "job-name", "L": "licenses", "m": "distribution", "N": "nodes", "n": "ntasks", "o": "output", "p": "partition", "q": "qos",
          "t": "time", "w": "nodelist", "x": "exclude"}  # fmt: skip
_SAME = {"tasks-per-node": "ntasks-per-node"}
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")


def options(source: Source) -> dict[str, tuple[str, int]]:
    """Return the #SBATCH options that Slurm reads, by their long names, each with its value and line; it stops at the first command."""
    found: dict[str, tuple[str, int]] = {}
    for line, text in enumerate(source.lines, start=1):
        if text.strip() and not text.startswith("#"):
            break
        if text.startswith("#SBATCH"):
            words = words_of(text.removeprefix("#SBATCH").split(" #")[0])
            name, _, value = words[0].partition("=") if words else ("", "", "")
            name = name[2:] if name.startswith("--") else _SHORT.get(name[1:2], name)
            found[_SAME.get(name, name)] = (value or " ".join(words[1:]), line)
    return found


def _command(source: Source) -> tuple[str, int]:
    """Return the whole command that runs Ray, over its continued lines, and its line."""
    for line, text in enumerate(source.lines, start=1):
        if re.search(r"\bray (symmetric-run|start)\b", text) and not text.lstrip().startswith("#"):
            rest = []
            for more in source.lines[line - 1 :]:
                rest.append(more.rstrip("\\ "))
                if not more.rstrip().endswith("\\"):
                    break
            return " ".join(rest), line
    return "", 0


def known_options(source: Source) -> Iterator[Finding]:
    """Options that sbatch knows, all before the first command."""
    for name, (_, line) in options(source).items():
        if name not in SBATCH:
            yield Finding(line, f"sbatch has no option --{name}{nearest(name, SBATCH)}")
    first = next((line for line, text in enumerate(source.lines, start=1) if text.strip() and not text.startswith("#")), len(source.lines) + 1)
    for line, text in enumerate(source.lines, start=1):
        if line > first and text.startswith("#SBATCH"):
            yield Finding(line, f"sbatch reads no #SBATCH after the first command, line {first}")
        if re.match(r"#\s+SBATCH\s+-", text):
            yield Finding(line, "sbatch reads `#SBATCH`, without a space")


def one_ray_per_node(source: Source) -> Iterator[Finding]:
    """Nodes are stated, and one task on each."""
    told = options(source)
    if "nodes" not in told:
        yield Finding(1, "#SBATCH --nodes is missing; Slurm then grants one")
    tasks, line = told.get("ntasks-per-node", ("", 1))
    if tasks != "1":
        yield Finding(line, f"#SBATCH --ntasks-per-node must be 1, got {tasks or 'nothing'}; each task starts a Ray of its own")
    if "time" not in told:
        yield Finding(1, "#SBATCH --time is missing; the partition's default may be short", level="advice")
    if "requeue" not in told:
        yield Finding(1, "#SBATCH --requeue is missing; a job that loses a node is not begun again, though it would go on", level="advice")
    if "exclusive" not in told:
        yield Finding(1, "#SBATCH --exclusive is missing; two jobs on one node meet on Ray's ports", level="advice")


def start(source: Source) -> Iterator[Finding]:
    """`srun ray symmetric-run --address … --min-nodes … -- python -m sweeper run … --address auto`."""
    command, line = _command(source)
    if "symmetric-run" not in command:
        yield Finding(line or 1, "no `srun ray symmetric-run`; it starts Ray on every node and the sweep on the first")
        return
    before, _, entry = command.partition(" -- ")
    if not entry:
        yield Finding(line, "`ray symmetric-run` needs ` -- ` between its options and the command")
    if not re.search(r"\bsrun\b", before):
        yield Finding(line, "`ray symmetric-run` without srun runs on the first node only")
    for option, reason in (("--address", "the first node's name and port"), ("--min-nodes", "else the sweep begins before the others have joined")):
        if option not in before:
            yield Finding(line, f"`ray symmetric-run` has no {option}; {reason}")
    for option in ("--head", "--node-ip-address", "--port", "--block"):
        if option in words_of(before):
            yield Finding(line, f"`ray symmetric-run` refuses {option}; it sets it itself")
    if "sweeper" in entry and "--address" not in entry:
        yield Finding(line, "the sweep has no --address auto; it would start a Ray of its own on the first node")
    host = re.search(r"--dashboard-host[ =](\S+)", before)
    if host and host[1] not in ("127.0.0.1", "localhost", "::1"):
        yield Finding(line, f"--dashboard-host {host[1]} shows the dashboard, which starts jobs, to the network")


def _call(source: Source) -> Call:
    """Return the call of `ray symmetric-run`; exported is what its processes get: --export of srun may leave out, add and replace."""
    call = call_of(without_comments(source.lines), "ray", "symmetric-run")
    exported = dict(call.exported)
    if told := options_of(call.before).get("export"):
        names = told.split(",")
        exported = exported if "ALL" in names else {name: value for name, value in exported.items() if name in names}
        exported |= dict(name.split("=", 1) for name in names if "=" in name)
    return Call(exported, call.before, call.behind)


def environment(source: Source) -> Iterator[Finding]:
    """What is exported before Ray starts."""
    (_, line), exported = _command(source), _call(source).exported
    mode = exported.get("RAY_AUTH_MODE", "")
    if mode != "token":
        plain = [place for place, text in enumerate(source.lines, start=1) if re.match(r"\s*RAY_AUTH_MODE=", text)]
        got = mode or ("an assignment without `export`, which stays within the script" if plain else "nothing")
        yield Finding(plain[-1] if plain and not mode else line or 1,
                      f"RAY_AUTH_MODE=token is not exported before Ray starts, got {got}; other users of the cluster reach its ports")  # fmt: skip
    if missing := [name for name in HEALTH if f"RAY_health_check_{name}" not in exported]:
        yield Finding(line or 1, f"RAY_health_check_{missing[0]} is not exported before Ray starts; a silent node is noticed after a minute only",
                      level="advice")  # fmt: skip
    if "ulimit -n" not in without_comments(source.lines[: max(line - 1, 0)]):
        yield Finding(line or 1, "the limit of open files is not raised (`ulimit -n 65536`) before Ray starts", level="advice")


def granted(source: Source) -> Iterator[Finding]:
    """What a node's Ray gets of the node: memory and CPUs."""
    told, call, (_, line) = options(source), _call(source), _command(source)
    if not set(_MEMORY) & set(told):
        yield Finding(1, "#SBATCH --mem is missing; also of an --exclusive node only the memory asked for is granted, by --mem=0 all", level="advice")
    is_passed_on = "cpus-per-task" in options_of(call.before) or any(re.match(r"-c\d*$", word) for word in call.before)
    if "cpus-per-task" in told and not is_passed_on and "SRUN_CPUS_PER_TASK" not in call_of(without_comments(source.lines), "srun").exported:
        yield Finding(line or 1, "srun does not take over --cpus-per-task since Slurm 22.05, so Ray has one CPU of each node; before it "
                      "`export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK`")  # fmt: skip


def time_limit(source: Source) -> Iterator[Finding]:
    """A job that meets its time limit puts itself back in the queue: Slurm does not."""
    told, script, (command, line) = options(source), without_comments(source.lines), _command(source)
    if "requeue" in told and "signal" not in told:
        yield Finding(told["requeue"][1], "--requeue is for lost nodes and preemption; the time limit ends the sweep, unless --signal=B:USR1@180 lets"
                      " the script `scontrol requeue` itself before", level="advice")  # fmt: skip
    if "signal" not in told:
        return
    value, place = told["signal"]
    whom, _, signal = value.partition("@")[0].rpartition(":")
    signal = signal.removeprefix("SIG")
    if "B" not in whom:
        yield Finding(place, f"--signal={value} reaches Ray's processes, which end by it, and not the script; write --signal=B:{value}")
    elif not re.search(rf"\btrap\b.*\b(SIG)?{re.escape(signal)}\b", script):
        yield Finding(place, f"--signal={value} ends the script: it has no trap for {signal}")
    elif command and not command.rstrip().endswith("&"):
        yield Finding(line, f"the trap for {signal} runs only once srun has ended; start srun in the background (`&`) and `wait` for it")


def syntax(source: Source) -> Iterator[Finding]:
    """A script that bash can read, and a first line that Slurm accepts."""
    if not source.lines or not source.lines[0].startswith("#!"):
        yield Finding(1, "the first line must be #!/bin/bash; sbatch refuses a script without")
    done = subprocess.run(["bash", "-n"], input="\n".join(source.lines) + "\n", capture_output=True, text=True, timeout=10)
    for said in done.stderr.splitlines()[:1] if done.returncode else ():
        number = re.search(r"line (\d+): (.*)", said)
        yield Finding(int(number[1]) if number else 1, f"bash cannot read this script: {number[2] if number else said}")


def to_edit(source: Source) -> Iterator[Finding]:
    """What the shipped script leaves to be filled in."""
    for line, text in enumerate(source.lines, start=1):
        if "EDIT" in text and not text.startswith("#"):
            yield Finding(line, "EDIT is a placeholder", level="to fill in")


RULES: tuple[Rule, ...] = (known_options, one_ray_per_node, start, environment, granted, time_limit, syntax, to_edit)
