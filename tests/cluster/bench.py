"""The project's cluster on the bench's hosts: the cluster file, `ray up` and `ray down` from the laptop, and what the head says of its nodes."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hosts import CHECKOUT, LAPTOP, Hosts

TEMPLATE = CHECKOUT / "deploy/on-premise.yaml"  # every line but addresses, user and key is tried
FILE = "/root/cluster.yaml"  # on the laptop
KEY = "/root/.ssh/id_ed25519"
AUTH = {"RAY_AUTH_MODE": "token"}  # for whatever talks to the cluster; the token is found in ~/.ray
UP = {"RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # version 2 starts only one of two workers
STORE = 200 * 2**20  # bytes of each node's object store


def cluster_file(hosts: Hosts) -> str:
    """Return a cluster file, as YAML: the template with the bench's addresses, user and key."""
    cluster: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    cluster["provider"] |= {"head_ip": hosts.addresses["head"], "worker_ips": [hosts.addresses[name] for name in hosts.cluster[1:]]}
    cluster["auth"] |= {"ssh_user": "root", "ssh_private_key": KEY}
    return yaml.safe_dump(cluster, sort_keys=False, width=1000)


class Cluster:
    """The cluster of a bench, driven from the laptop as a user would.

    Args:
        cpus: CPUs that a host offers to trials, 1 where none are given; every host has the cores and the memory of the whole machine.
    """

    def __init__(self, hosts: Hosts, cpus: dict[str, int] | None = None) -> None:
        self.hosts = hosts
        for name in hosts.cluster:
            home = hosts.folder(name) / "root"
            (home / ".sweeper-ray-options").write_text(f"--num-cpus={(cpus or {}).get(name, 1)} --object-store-memory={STORE}\n")
            (home / "sweeper-venv").symlink_to(sys.prefix)  # an environment that is there already

    def up(self, text: str) -> None:
        """Bring the cluster up with `ray up`, and wait for its nodes. Raises TimeoutError if one has not come after two minutes."""
        self.laptop("ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")
        (self.hosts.folder(LAPTOP) / FILE.lstrip("/")).write_text(text)
        self.laptop(f"cd {CHECKOUT} && ray up -y {FILE} --no-config-cache", timeout=300)
        self.watch = NodeWatch(self.hosts)
        everybody = set(self.hosts.cluster)
        self.watch.wait_until(lambda alive: alive == everybody, 120, f"nodes {sorted(everybody)}")

    def down(self) -> None:
        """Run `ray down`, which stops the head only."""
        self.laptop(f"ray down -y {FILE}", timeout=120)

    def laptop(self, command: str, timeout: float = 60) -> str:
        """Run a command on the laptop and return its standard output. Raises RuntimeError, with what it said, if it fails."""
        return self.hosts.run(LAPTOP, command, env=AUTH | UP, timeout=timeout).stdout

    def exec(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on the head through `ray exec`, its output going to a file of this machine."""
        return self.hosts.start(LAPTOP, f"ray exec --no-config-cache {FILE} {shlex.quote(command)}", log, env=AUTH | UP)

    def names_on(self, host: str) -> set[str]:
        """Return the names of a host's processes, at most 15 characters each, as Linux keeps them."""
        return {name for name in map(name_of, self.hosts.processes(host)) if name}

    def trials_on(self, host: str) -> list[int]:
        """Return the process ids, as this machine counts, of the processes of a host that run a trial."""
        return [pid for pid in self.hosts.processes(host) if name_of(pid).startswith("ray::ImplicitFu")]


def name_of(pid: int) -> str:
    """Return the name of a process, at most 15 characters, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return ""


class NodeWatch:
    """What `ray.nodes()` on the head says, and since when: a process on the head asks it five times a second."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.log = hosts.folder("head") / "root/nodes.jsonl"
        self.process = hosts.start("head", f"python {Path(__file__).with_name('watch_nodes.py')}", self.log, env=AUTH | UP)

    def history(self) -> list[tuple[float, set[str]]]:
        """Return (Unix time, names of the hosts whose node is alive) at every change, oldest first."""
        names = {address: name for name, address in self.hosts.addresses.items()}
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # half a line, or something that Ray says
                entry = json.loads(line)
                found.append((entry["time"], {names[address] for address in entry["alive"]}))
        return found

    def alive(self) -> set[str]:
        """Return the hosts whose node is alive."""
        history = self.history()
        return history[-1][1] if history else set()

    def wait_until(self, is_so: Callable[[set[str]], bool], seconds: float, what: str) -> float:
        """Wait until what is alive is so; return the Unix time since when. Raises TimeoutError otherwise, naming what was waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            history = self.history()
            if history and is_so(history[-1][1]):
                return history[-1][0]
            if self.process.poll() is not None:
                raise RuntimeError(f"nobody watches the nodes any more: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        raise TimeoutError(f"no {what} after {seconds:g} s; alive: {sorted(self.alive())}; {self.log.read_text()[-1000:]}")
