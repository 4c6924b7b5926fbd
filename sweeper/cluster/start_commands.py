"""Rules for the commands of a `ray up` file. Ray reads none of them; each list entry runs in a login shell of its own."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from sweeper.cluster.findings import Finding
from sweeper.cluster.located import Located
from sweeper.cluster.shell import call_of, options_of
from sweeper.cluster.source import Rule, Source, pinned

HEALTH = ("initial_delay_ms", "period_ms", "timeout_ms", "failure_threshold")
LEAST_OBJECT_STORE = 75 * 2**20  # bytes; Ray refuses less
LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
         "worker_start_ray_commands")  # fmt: skip
_VERSION = r"{}(?:\[[\w,-]*\])?==([\w.]+)"


@dataclass(frozen=True)
class Start:
    """The list entry that starts Ray on the head or the workers: what it exports before, and the options it gives."""

    who: str
    key: str
    entry: Located
    exported: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def starts(source: Source) -> list[Start]:
    """Return the head's and the workers' starts; a list that is missing has none."""
    found = []
    for who in ("head", "worker"):
        key = f"{who}_start_ray_commands"
        for entry in source.root[key].entries():
            if re.search(r"\bray start\b", entry.text()):
                call = call_of(entry.text(), "ray", "start")
                found.append(Start(who, key, entry, call.exported, options_of(call.behind)))
                break
    return found


def presence(source: Source) -> Iterator[Finding]:
    """Both lists, each with `ray stop` before `ray start`."""
    for who in ("head", "worker"):
        key = f"{who}_start_ray_commands"
        if source.root[key].is_missing:
            yield Finding(source.root.line, f"{key} is missing; Ray's default neither asks for a token nor, on the clouds, hides the dashboard")
            continue
        words = "\n".join(entry.text() for entry in source.root[key].entries())
        if "ray start" not in words:
            yield Finding(source.root.line_of(key), f"{key} does not run `ray start`")
        elif "ray stop" not in words.split("ray start")[0]:
            yield Finding(source.root.line_of(key), f"{key} does not run `ray stop` first; a second `ray up` finds the old Ray on its ports")


def joining(source: Source) -> Iterator[Finding]:
    """The head is a head with an autoscaler, and workers join it."""
    head_port = ""
    for start in starts(source):
        options, line = start.options, source.line_with(start.entry, "ray start")
        if start.who == "head":
            head_port = options.get("port", "6379")
            if "head" not in options:
                yield Finding(line, "the head's `ray start` has no --head; there is no cluster to join")
            if "autoscaling-config" not in options:
                yield Finding(line, "the head's `ray start` has no --autoscaling-config=~/ray_bootstrap_config.yaml; no worker is ever started")
        elif "address" not in options:
            yield Finding(line, "the workers' `ray start` has no --address=$RAY_HEAD_IP:6379; they join nothing")
        elif (port := options["address"].rpartition(":")[2]) != head_port and head_port:
            yield Finding(line, f"workers join port {port}, and the head listens on port {head_port}")


def dashboard(source: Source) -> Iterator[Finding]:
    """Whoever reaches the dashboard runs code on the cluster."""
    for start in starts(source):
        host = start.options.get("dashboard-host", "127.0.0.1")
        if host not in ("127.0.0.1", "localhost", "::1"):
            line = source.line_with(start.entry, "--dashboard-host")
            yield Finding(line, f"--dashboard-host={host} shows the dashboard, which starts jobs, to the network; use 127.0.0.1")


def authentication(source: Source) -> Iterator[Finding]:
    """RAY_AUTH_MODE=token for both, exported in the entry of `ray start`, and the token's file mounted."""
    found, modes = starts(source), {}
    for start in found:
        modes[start.who] = mode = start.exported.get("RAY_AUTH_MODE", "")
        line = source.line_with(start.entry, "RAY_AUTH_MODE" if mode else "ray start")
        elsewhere = [entry.line for entry in source.root[start.key].entries() if "RAY_AUTH_MODE=" in entry.text() and entry is not start.entry]
        if not mode and elsewhere:
            yield Finding(elsewhere[0], f"RAY_AUTH_MODE is set in another entry of {start.key} than `ray start`, and each is a shell of its own")
        elif not mode:
            yield Finding(line, f"{start.key} does not export RAY_AUTH_MODE=token before `ray start`; set it in both lists, with the same value")
        elif mode != "token":
            yield Finding(line, f"RAY_AUTH_MODE={mode} in {start.key}; without token, whoever reaches a port of Ray runs code there")
    if len(set(modes.values())) > 1:
        line = source.line_with(found[-1].entry, "RAY_AUTH_MODE")
        yield Finding(line, f"RAY_AUTH_MODE differs: {modes['head'] or 'unset'} on the head, {modes['worker'] or 'unset'} on workers")
    table = source.root["file_mounts"]
    if "token" in modes.values() and not any(remote.endswith(".ray/auth_token") for remote, _ in table.items()):
        line = source.root.line if table.is_missing else source.root.line_of("file_mounts")
        yield Finding(line, "file_mounts do not bring ~/.ray/auth_token to the nodes; with RAY_AUTH_MODE=token Ray does not start without it")


def limits(source: Source) -> Iterator[Finding]:
    """Open files, the object store, and how soon a silent node is noticed."""
    for start in starts(source):
        line = source.line_with(start.entry, "ray start")
        if "ulimit -n" not in start.entry.text().split("ray start")[0]:
            yield Finding(line, f"{start.key} does not raise the limit of open files (`ulimit -n 65536;` before `ray start`)", level="advice")
        if (size := start.options.get("object-store-memory")) is not None and not size.startswith("$") and not (
            size.isdigit() and int(size) >= LEAST_OBJECT_STORE
        ):  # fmt: skip
            line = source.line_with(start.entry, "--object-store-memory")
            yield Finding(line, f"--object-store-memory must be whole bytes, at least {LEAST_OBJECT_STORE}, got {size!r}")
        if start.who == "head" and (missing := [name for name in HEALTH if f"RAY_health_check_{name}" not in start.exported]):
            yield Finding(line, f"the head does not export RAY_health_check_{missing[0]} before `ray start`; a silent node is noticed after a minute "
                          "only", level="advice")  # fmt: skip


def versions(source: Source) -> Iterator[Finding]:
    """What is installed on the nodes is what is installed here."""
    found = set()
    for key in LISTS:
        for entry in source.root[key].entries():
            text = entry.text()
            told = [(name, word, version) for name in ("ray", "torch") for version in re.findall(r"(?<![\w-])" + _VERSION.format(name), text)
                    for word in [f"=={version}"]]  # fmt: skip
            told += [("Python", word, version) for word, version in re.findall(r"((?:--python[ =]|\bpython)(3\.\d+))\b", text)]
            for name, word, version in told:
                found.add(name)
                if version != pinned()[name]:
                    reason = "a driver of another version is refused" if name != "torch" else "scores may differ"
                    line = source.line_with(entry, word)
                    yield Finding(line, f"{name} {version} is installed on the nodes, and {pinned()[name]} is used here; {reason}")
    image = source.root.at("docker", "image")
    if image.text():
        told = re.search(r":(\d+\.\d+\.\d+)", image.text())
        if told and told[1] != pinned()["ray"]:
            yield Finding(image.line, f"docker.image has Ray {told[1]}, and {pinned()['ray']} is used here; a driver of another version is refused")
    elif "ray" not in found:
        yield Finding(source.root.line_of("setup_commands"), f"no setup command pins ray=={pinned()['ray']}; another Ray refuses the driver",
                      level="advice")  # fmt: skip


def syntax(source: Source) -> Iterator[Finding]:
    """Every command is one that bash can read."""
    for key in LISTS:
        for entry in source.root[key].entries():
            if said := _complaint(entry.text()):
                yield Finding(entry.line, f"bash cannot read this command of {key}: {said}")


@cache
def _complaint(command: str) -> str:
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, timeout=10)
    return re.sub(r"^bash: line \d+: ", "", done.stderr.strip().splitlines()[0]) if done.returncode else ""


RULES: tuple[Rule, ...] = (presence, joining, dashboard, authentication, limits, versions, syntax)
