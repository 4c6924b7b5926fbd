"""The bench's hosts are what they claim: apart from each other, reachable by ssh, and gone with whoever made them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import BENCHES, CHECKOUT, LAPTOP, RESULTS, Hosts, missing, remove_leftovers

REASON = missing()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
WRITABLE = ("/tmp", "/var/tmp", "/root", "/run", "/srv", "/dev/shm", RESULTS)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as made:
        yield made


def test_no_host_sees_what_another_writes(hosts: Hosts) -> None:
    for name in hosts.names:
        hosts.run(name, " && ".join(f"touch {place}/of-{name}" for place in WRITABLE))
    for name in hosts.names:
        seen = hosts.run(name, f"ls -d {' '.join(f'{place}/of-*' for place in WRITABLE)}").stdout.split()
        assert sorted(seen) == sorted(f"{place}/of-{name}" for place in WRITABLE)
    assert not any(Path(place, f"of-{name}").exists() for place in WRITABLE for name in hosts.names), "nor does the machine"


def test_what_all_hosts_see_none_can_change(hosts: Hosts) -> None:
    for place in ("/", "/etc", "/usr", CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)):
        refused = hosts.run("head", f"touch {place}/x", check=False)
        assert "Read-only file system" in refused.stderr, place


def test_a_shared_folder_is_the_same_on_all_hosts(tmp_path: Path) -> None:
    with Hosts(2, shared=tmp_path) as hosts:
        hosts.run("worker1", f"echo here > {RESULTS}/file")
        assert hosts.run("head", f"cat {RESULTS}/file").stdout == "here\n"
        assert (hosts.results() / "file").read_text() == "here\n"


def test_the_laptop_reaches_every_host_by_ssh_until_its_network_is_cut(hosts: Hosts) -> None:
    for name in hosts.cluster:
        assert hosts.run(LAPTOP, f"ssh {name} hostname").stdout == f"{name}\n"
    hosts.cut("worker1")
    began = time.monotonic()
    assert "timed out" in hosts.run(LAPTOP, "ssh -o ConnectTimeout=2 worker1 hostname", check=False).stderr, "silence, not a refusal"
    assert time.monotonic() - began > 1.5
    hosts.restore("worker1")
    assert hosts.run(LAPTOP, "ssh worker1 hostname").stdout == "worker1\n"


def test_killing_all_of_a_host_leaves_sshd_and_the_other_hosts(hosts: Hosts, tmp_path: Path) -> None:
    here, there = (hosts.start(name, "sleep 1000", tmp_path / "log") for name in ("worker1", "head"))
    time.sleep(0.5)
    hosts.kill_all("worker1")
    assert here.wait(5) == -signal.SIGKILL
    assert there.poll() is None
    assert hosts.run(LAPTOP, "ssh worker1 hostname").stdout == "worker1\n"
    assert hosts.kill_all("head") > 0
    there.wait(5)


def test_a_command_that_takes_too_long_is_ended_and_named(hosts: Hosts) -> None:
    with pytest.raises(RuntimeError, match="on head: 'sleep 30.*after 1 s"):
        hosts.run("head", "sleep 30 & wait", timeout=1)


def test_a_bench_whose_process_is_killed_leaves_nothing_running_and_its_folder_goes_with_the_next(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path; from hosts import Hosts\n"
        "with Hosts(2) as hosts:\n"
        "    hosts.start('worker1', 'sleep 1000', Path('/dev/null')); time.sleep(0.5)\n"
        "    print(hosts.folder('head').parent, *hosts._pids.values(), *hosts.processes('worker1'), flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        remove_leftovers()
        assert Path(folder).exists(), "a bench in use is left alone"
        owner.kill()
    deadline = time.monotonic() + 10
    while any(_runs(int(pid)) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if _runs(int(pid))]}"
        time.sleep(0.05)
    assert Path(folder).parent == BENCHES
    remove_leftovers()
    assert not Path(folder).exists()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
