"""The README's cluster section, followed to the letter on three hosts that share no storage."""

import re
from pathlib import Path

import pytest
from bench import AUTH, Cluster
from hosts import CHECKOUT, LAPTOP, Hosts, missing

REASON = missing()
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

SECTION = (CHECKOUT / "README.md").read_text(encoding="utf-8").partition("\n## On a cluster\n")[2].partition("\n## ")[0]
REPOSITORY = ("sweeper", "models", "attacks", "search_spaces", "deploy", "pyproject.toml", "constraints.txt", "README.md")


def commands() -> list[str]:
    (block,) = re.findall(r"^```\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return block.splitlines()


def filled_in(hosts: Hosts) -> str:
    """Return the command that does what `fill in the lines marked EDIT` asks for."""
    workers = ", ".join(hosts.addresses[name] for name in hosts.cluster[1:])
    edits = [
        f"s/head_ip: .*/head_ip: {hosts.addresses['head']}/",
        f"s/worker_ips: .*/worker_ips: [{workers}]/",
        "s/ssh_user: .*/ssh_user: root/",
    ]
    return " && ".join(f"sed -i '{edit}' hosts.yaml" for edit in edits)


def test_the_readmes_commands_bring_a_cluster_up_and_run_a_sweep_on_it() -> None:
    lines = commands()
    after_copy = next(number for number, line in enumerate(lines) if line.startswith("cp ")) + 1
    with Hosts(3) as hosts:
        Cluster(hosts)
        copied = " ".join(str(CHECKOUT / name) for name in REPOSITORY)
        hosts.run(LAPTOP, f"mkdir sweeper && cp -r {copied} sweeper")
        script = "\n".join(["set -e", "trap 'kill $(jobs -p)' EXIT", "cd ~/sweeper", *lines[:after_copy], filled_in(hosts), *lines[after_copy:]])
        (hosts.folder(LAPTOP) / "root/script.sh").write_text(script)
        said = hosts.folder(LAPTOP) / "root/said.txt"  # a file: what goes on in the background would hold a pipe open
        settings = {"PYTHONPATH": "/root/sweeper", "RAY_USAGE_STATS_ENABLED": "0"}
        done = hosts.run(LAPTOP, "bash script.sh > said.txt 2>&1", timeout=400, env=settings, check=False)
        assert done.returncode == 0 and "3 of 3 trials completed" in said.read_text(), said.read_text()[-6000:]
        assert Path(hosts.folder("head"), "root/sweeps/store.json").exists()
        hosts.run(LAPTOP, "cd ~/sweeper && ray down -y hosts.yaml", env=AUTH | {"RAY_UP_enable_autoscaler_v2": "0"}, timeout=120)
