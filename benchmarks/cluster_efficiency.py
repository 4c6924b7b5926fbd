"""Measure a cluster of three hosts on this machine: how much of its cores equal trials get, and how soon a lost node is noticed.

    sudo .venv/bin/python benchmarks/cluster_efficiency.py [--trials 12] [--repeats 3] [--log FILE] [-- further options of `run`]

The hosts are those of `tests/cluster`, one CPU each, the head among them, brought up with `ray up` and sharing one results folder. How each number
is obtained:

- trials' CPU seconds: user and system time that Linux counts for the process that runs a trial, read twice a second from outside, between the
  trial's start and end in the table `attempts`. Starting a process and importing torch come before a process's first trial and are not in it.
- ideal seconds: trials' CPU seconds over the smaller of hosts and physical cores. Efficiency: ideal seconds over wall seconds, from the first
  trial's start to the last one's end, and of the whole command, `ray exec` and shared stages and checks included. All worker processes' CPU
  seconds over the whole command's wall seconds is what Ray, ssh and waiting leave of the cores.
- elsewhere: what the machine computed meanwhile outside the bench (/proc/stat less the bench's processes). On a machine that does other work a
  low efficiency says nothing. The second figure takes that from the cores' seconds; it is too high, since others also use what the bench leaves idle.
- occupied: the share of the hosts' time between first start and last end in which a trial ran there. It hardly depends on other work.
- false alarms: nodes that `ray.nodes()` on the head took for dead while the sweep ran, and tries that were lost; nothing was done to them.
- detection: from the command that cuts a host's network (packets are lost, no connection is told), or the SIGKILL of its raylet, to when
  `ray.nodes()` on the head, asked five times a second, says that it is dead.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/cluster"))
from bench import FILE, Cluster, cluster_file, name_of
from hosts import LAPTOP, RESULTS, Hosts, missing

from sweeper.results import Results

SPACE = """
def variants():
    return [{}]
"""
TICKS = 100  # of Linux's clock per second, for /proc
EVERY = 0.5  # seconds


class Sampler(threading.Thread):
    """Reads, twice a second, the CPU seconds of every process of the cluster's hosts and of the machine."""

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(daemon=True)
        self.hosts, self.stopped = hosts, threading.Event()
        self.series: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)  # (host, pid) -> (Unix time, CPU seconds so far)
        self.machine: list[tuple[float, float]] = []
        self.names: dict[tuple[str, int], set[str]] = defaultdict(set)

    def run(self) -> None:
        while not self.stopped.wait(EVERY):
            self.machine.append((time.time(), _machine_seconds()))
            for host in self.hosts.names:
                for pid in self.hosts.processes(host):
                    seconds = _seconds(pid)
                    if seconds is not None:
                        self.series[host, pid].append((time.time(), seconds))
                        self.names[host, pid].add(name_of(pid))

    def seconds(self, start: float, end: float, which: Callable[[str, set[str]], bool]) -> float:
        """Return the CPU seconds between two Unix times of the processes that are chosen by host and the names they have had."""
        return sum(_between(series, start, end) for key, series in list(self.series.items()) if which(key[0], self.names[key]))

    def machine_seconds(self, start: float, end: float) -> float:
        """Return the CPU seconds of the whole machine between two Unix times."""
        return _between(self.machine, start, end)


def _between(series: list[tuple[float, float]], start: float, end: float) -> float:
    times, seconds = zip(*series, strict=True)
    before, after = np.interp([start, end], times, seconds)
    return float(after - before)


def _seconds(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def _machine_seconds() -> float:
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS  # without idle and waiting for disks; what a hypervisor took counts as elsewhere


def _runs_trials(names: set[str]) -> bool:
    return any(name.startswith("ray::ImplicitFu") for name in names)


def measure_sweep(cluster: Cluster, trials: int, options: list[str], log: Path) -> None:
    """Run the sweep and print its efficiency and false alarms."""
    hosts, cores = cluster.hosts, psutil.cpu_count(logical=False) or 1
    slots = min(len(hosts.cluster), cores)
    (hosts.folder(LAPTOP) / "root/equal.py").write_text(SPACE)
    cluster.laptop(f"ray rsync-up {FILE} /root/equal.py /root/equal.py")
    sampler = Sampler(hosts)
    sampler.start()
    began = time.time()
    words = ["python -m sweeper run /root/equal.py --address auto", f"--seeds {trials} --results {RESULTS}/equal", *options]
    status = cluster.exec(" ".join(words), log).wait()
    ended = time.time()
    sampler.stopped.set()
    sampler.join()
    if status:
        raise SystemExit(f"the sweep ended with status {status}: {log.read_text()[-4000:]}")

    attempts = Results(hosts.results() / "equal").read("attempts", ["trial_id", "status", "reason", "host", "started", "ended"]).to_pylist()
    done = [row for row in attempts if row["status"] == "completed"]
    assert len(done) == trials, f"{len(done)} of {trials} trials completed"
    spans = [(row["host"], row["started"].timestamp(), row["ended"].timestamp()) for row in done]
    each = [sampler.seconds(start, end, lambda place, names, host=host: place == host and _runs_trials(names)) for host, start, end in spans]
    first, last = min(start for _, start, _ in spans), max(end for _, _, end in spans)
    wall, whole, ideal = last - first, ended - began, sum(each) / slots
    occupied = sum(end - start for _, start, end in spans) / (len(hosts.cluster) * wall)
    other = sampler.machine_seconds(first, last) - sampler.seconds(first, last, lambda host, names: True)
    other_whole = sampler.machine_seconds(began, ended) - sampler.seconds(began, ended, lambda host, names: True)
    own = sampler.seconds(first, last, lambda host, names: not any(name.startswith("ray::") for name in names))
    workers = sampler.seconds(began, ended, lambda host, names: any(name.startswith("ray::") for name in names))
    print(f"{trials} equal trials on {len(hosts.cluster)} hosts, {cores} physical cores: {', '.join(_per_host(spans))}")
    print(f"trials' CPU seconds: {sum(each):.1f}, each {min(each):.1f} to {max(each):.1f}, median {statistics.median(each):.1f}; ideal {ideal:.1f} s")
    print(f"first trial's start to last one's end: {wall:.1f} s, efficiency {ideal / wall:.1%}; hosts occupied {occupied:.1%}")
    print(f"  elsewhere on the machine {other:.1f} CPU s; of the cores left, efficiency {sum(each) / (wall * slots - other):.1%}")
    print(f"  cores busy {sampler.machine_seconds(first, last) / (wall * cores):.1%}; Ray's own processes, sshd and driver {own:.1f} CPU s")
    print(
        f"the whole command: {whole:.1f} s, efficiency {ideal / whole:.1%}; all worker processes {workers:.1f} CPU s, {workers / slots / whole:.1%}"
    )
    print(f"  elsewhere {other_whole:.1f} CPU s; of the cores left, efficiency {sum(each) / (whole * slots - other_whole):.1%}")
    everybody = set(hosts.cluster)
    alarms = [(when, alive) for when, alive in cluster.watch.history() if began <= when <= ended and alive != everybody]
    print(f"false alarms: {len(alarms)} nodes taken for dead, {sum(row['reason'] == 'lost' for row in attempts)} tries lost")


def _per_host(spans: list[tuple[str, float, float]]) -> list[str]:
    names = [host for host, _, _ in spans]
    return [f"{host} {names.count(host)}" for host in sorted(set(names))]


def measure_detection(cluster: Cluster, repeats: int) -> None:
    """Cut a worker off, and kill another's raylet, each some times, and print how soon the head knew, and when they were back."""
    hosts, everybody = cluster.hosts, set(cluster.hosts.cluster)

    def lose(what: str, host: str, how: Callable[[], None], undo: Callable[[], None]) -> None:
        known, back = [], []
        for _ in range(repeats):
            began = time.time()
            how()
            known.append(cluster.watch.wait_until(lambda alive: host not in alive, 120, f"death of {host}'s node") - began)
            undo()
            back.append(cluster.watch.wait_until(lambda alive: alive == everybody, 240, f"return of {host}'s node") - began - known[-1])
            time.sleep(10)  # a node that has just come is not yet watched
        said = f"{what}: noticed after {', '.join(f'{seconds:.1f}' for seconds in known)} s"
        print(f"{said}; Ray runs there again {', '.join(f'{seconds:.0f}' for seconds in back)} s later")

    def kill_raylet() -> None:
        for process in [psutil.Process(pid) for pid in hosts.processes("worker1") if name_of(pid) == "raylet"]:
            process.kill()

    lose("network cut", "worker2", lambda: hosts.cut("worker2"), lambda: hosts.restore("worker2"))
    lose("raylet killed", "worker1", kill_raylet, lambda: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3, help="of each loss of a node; 0: none")
    parser.add_argument("--log", type=Path, default=None, help="where what the sweep says goes")
    parser.add_argument("options", nargs="*", help="of `run`, such as --set num_epochs=5")
    args = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="sweeper-efficiency-") as folder, Hosts(3, Path(folder)) as hosts:
        cluster = Cluster(hosts)
        began = time.monotonic()
        cluster.up(cluster_file(hosts))
        print(f"three nodes {time.monotonic() - began:.0f} s after the call of ray up", flush=True)
        measure_sweep(cluster, args.trials, args.options, args.log or hosts.folder(LAPTOP) / "sweep.log")
        sys.stdout.flush()
        if args.repeats:
            measure_detection(cluster, args.repeats)


if __name__ == "__main__":
    main()
