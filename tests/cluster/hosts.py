"""Several hosts on one Linux machine: a head, workers, and the user's laptop, each a set of namespaces with its own sshd and network.

A host is a net, mount, pid, uts and ipc namespace. It shares the machine's cores, memory, kernel and clock, and nothing that it can write to: the
root file system is read-only, and /tmp, /var/tmp, /root, /run, /srv and /dev/shm are its own. So the checkout and the Python environment are visible
to every host, read-only: installing torch three times would test nothing. `Hosts(shared=FOLDER)` puts one folder of the machine at `RESULTS` of all
hosts, as NFS would; without it each host has a folder of its own there.

The hosts hang on a bridge in a network namespace of its own, so the machine's network is not touched, two benches can run side by side with the same
addresses, and no packet leaves the machine. Every host lives as long as a pipe is open that this process holds: also after SIGKILL of this process
nothing stays behind but a folder in `BENCHES`, which the next bench removes.

Needs root, Linux, and Debian's iproute2, openssh-server, rsync and util-linux.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

BENCHES = Path("/var/tmp/sweeper-bench")  # one folder per bench, locked while it is in use
RESULTS = "/srv/results"  # in every host
CHECKOUT = Path(__file__).resolve().parents[2]
LAPTOP = "laptop"
PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "mount")
COVERED = ("root", "srv", "run", "tmp", "var/tmp")  # what each host has of its own
PATH = f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SSHD = """
Port 22
HostKey /root/.ssh/host_key
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
MaxSessions 100
"""
SSH = "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  ConnectTimeout 10\n"


def missing() -> str | None:
    """Return why the bench cannot be built here, None if it can."""
    if not sys.platform.startswith("linux"):
        return f"the bench needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "the bench needs root, to make namespaces"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return f"the bench needs {', '.join(absent)} (Debian: iproute2, openssh-server, rsync, util-linux)"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"], capture_output=True, text=True)
    return f"the bench needs namespaces: {probe.stderr.strip()}" if probe.returncode else None


class Hosts:
    """The hosts `head`, `worker1`, … and `laptop`, from entering the context to leaving it.

    Args:
        count: Hosts of the cluster, the head among them.
        shared: A folder of this machine that all hosts see at `RESULTS`; None: each has its own there.
    """

    def __init__(self, count: int = 3, shared: Path | None = None) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, the head, got {count}")
        self.cluster = ["head", *(f"worker{number}" for number in range(1, count))]
        self.names = [*self.cluster, LAPTOP]
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(self.names, 11)}
        self.shared = None if shared is None else shared.resolve()
        self._folder = Path()
        self._pids: dict[str, int] = {}  # of each host's first process, as this machine counts

    def __enter__(self) -> "Hosts":
        self._stack = contextlib.ExitStack()
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        BENCHES.mkdir(parents=True, exist_ok=True)
        remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(dir=BENCHES))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        lock = self._stack.enter_context((self._folder / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        switch = self._hold("switch", ["unshare", "--net", "cat"])
        _run("nsenter", "-t", str(switch), "-n", "ip", "link", "add", "switch", "type", "bridge")
        _run("nsenter", "-t", str(switch), "-n", "ip", "link", "set", "switch", "up")
        _run("nsenter", "-t", str(switch), "-n", "ip", "address", "add", "10.77.0.1/24", "dev", "switch")
        key = self._folder / "id"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sweeper bench", "-f", str(key))
        for name in self.names:
            self._furnish(name, key)
            namespaces = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
            script = Path(__file__).with_name("hosts.sh")
            self._pids[name] = self._hold(name, [*namespaces, "bash", str(script), str(self.folder(name)), name], says="ready")
            self._connect(name, switch)

    def _hold(self, name: str, command: list[str], says: str | None = None) -> int:
        """Start what lives until we close its standard input; return its process id, of the child that it forks if it says something when ready."""
        errors = self._stack.enter_context((self._folder / f"{name}.err").open("w"))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env={"PATH": PATH})
        self._stack.callback(_end, process)
        if says is not None:
            heard = process.stdout.readline().strip() if process.stdout else ""
            if heard != says:
                raise RuntimeError(f"host {name} did not start: {(self._folder / f'{name}.err').read_text().strip()}")
            pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        else:
            pid = process.pid
            _wait_until(lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"), 10, "a network namespace")
        with (self._folder / "pids").open("a") as file:
            file.write(f"{pid} {_started(pid)}\n")
        return pid

    def _furnish(self, name: str, key: Path) -> None:
        folder = self.folder(name)
        for place in COVERED:
            (folder / place).mkdir(parents=True)
        for place in ("tmp", "var/tmp"):
            (folder / place).chmod(0o1777)
        (folder / "srv/results").mkdir()
        (folder / "run/sshd").mkdir(mode=0o755)
        places = {CHECKOUT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(sys.executable).resolve().parents[1]}
        hidden = [place for place in places if any(place.is_relative_to(f"/{covered}") for covered in COVERED)]
        outermost = sorted(place for place in hidden if not any(place != other and place.is_relative_to(other) for other in hidden))
        mounts = [f"visible {place}" for place in outermost] + ([f"shared {self.shared}"] if self.shared else [])
        (folder / "mounts").write_text("".join(line + "\n" for line in mounts))
        known = [f"{address} {host}" for host, address in self.addresses.items()]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(line + "\n" for line in known))
        ssh = folder / "root/.ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        (ssh / "sshd_config").write_text(SSHD)
        (ssh / "config").write_text(SSH)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / "host_key"))
        if name == LAPTOP:
            shutil.copy(key, ssh / "id_ed25519")  # the laptop's alone: ray itself brings it to the head

    def _connect(self, name: str, switch: int) -> None:
        pid, inside = self._pids[name], ["nsenter", "-t", str(self._pids[name]), "-n", "ip"]
        at_switch = ["nsenter", "-t", str(switch), "-n", "ip", "link"]
        _run(*at_switch, "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _run(*at_switch, "set", name, "master", "switch", "up")
        _run(*inside, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "route", "add", "default", "via", "10.77.0.1")  # Ray learns its own address from where it would send to the world
        self._switch = at_switch

    def folder(self, host: str) -> Path:
        """Return where this machine sees what a host writes: `folder("head") / "tmp/ray"` is the head's /tmp/ray."""
        return self._folder / host

    def results(self, host: str = "head") -> Path:
        """Return where this machine sees a host's `RESULTS`."""
        return self.shared or self.folder(host) / RESULTS.lstrip("/")

    def _entering(self, host: str, command: str, env: Mapping[str, str] | None) -> list[str]:
        given = {"HOME": "/root", "USER": "root", "PATH": PATH, "PYTHONPATH": str(CHECKOUT), "LANG": "C.UTF-8", "TERM": "dumb"} | dict(env or {})
        enter = ["nsenter", "-t", str(self._pids[host]), "-n", "-m", "-p", "-u", "-i", "--wdns=/root", "--"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in given.items()), "bash", "-c", command]

    def run(
        self, host: str, command: str, *, check: bool = True, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in a host, from /root and with an environment of its own, and return what it said.

        Raises:
            RuntimeError: If it fails (unless check is false) or is not done after `timeout` seconds, which ends it; with what it said.
        """
        words = self._entering(host, f"exec timeout --signal=KILL {timeout} bash -c {shlex.quote(command)}", env)
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            late = f" (after {timeout:g} s, the time it had)" if done.returncode in (137, -9) else ""
            said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            raise RuntimeError(f"on {host}: {command!r} ended with status {done.returncode}{late}\n{said}")
        return done

    def start(self, host: str, command: str, log: Path, *, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a shell command in a host, its output going to a file of this machine; it ends with the host at the latest."""
        with log.open("ab") as file:
            return subprocess.Popen(self._entering(host, command, env), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def processes(self, host: str) -> Iterator[int]:
        """Yield the process ids, as this machine counts, of what runs in a host."""
        space = os.readlink(f"/proc/{self._pids[host]}/ns/pid")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile
                    if os.readlink(entry / "ns/pid") == space:
                        yield int(entry.name)

    def kill_all(self, host: str) -> int:
        """Kill every process of a host with SIGKILL but its first one and sshd; return how many these were."""
        killed = 0
        for pid in list(self.processes(host)):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if pid != self._pids[host] and Path(f"/proc/{pid}/comm").read_text().strip() != "sshd":
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def cut(self, host: str) -> None:
        """Pull a host's plug out of the switch: packets are lost, and no connection is told."""
        _run(*self._switch, "set", host, "down")

    def restore(self, host: str) -> None:
        """Put the plug back."""
        _run(*self._switch, "set", host, "up")


def remove_leftovers() -> None:
    """Remove what benches left whose processes were killed; a bench in use holds its lock and is left alone."""
    for folder in BENCHES.iterdir():
        try:
            lock = (folder / "lock").open("r+")
        except FileNotFoundError:  # being made, or killed within its first moments
            if time.time() - folder.stat().st_mtime > 60:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            pids = folder / "pids"
            for line in pids.read_text().splitlines() if pids.exists() else []:
                pid, started = line.split()
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if _started(int(pid)) == started:  # else another process has its number now
                        os.kill(int(pid), signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # clock ticks since boot


def _end(process: subprocess.Popen[Any]) -> None:
    for pipe in (process.stdin, process.stdout):
        _close(pipe)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()  # its child, the host's first process, dies with it
        process.wait(10)


def _close(pipe: IO[Any] | None) -> None:
    if pipe is not None:
        pipe.close()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": PATH})
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)} failed: {done.stderr.strip()}")


def _wait_until(is_true: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {seconds:g} s")
        time.sleep(0.05)
