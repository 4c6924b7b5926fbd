"""slurm.sbatch with stand-ins for what Slurm gives: how it starts Ray, how it ends, and how it goes back into the queue."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy/slurm.sbatch"
UNTIL_END = "echo > begun; for turn in {1..500}; do [[ -e end ]] && break; sleep 0.02; done"


class Slurm:
    """slurm.sbatch with stand-ins for srun and scontrol, which write down how they were called."""

    def __init__(self, folder: Path, srun: str, scontrol: str = "exit 0", **variables: str) -> None:
        self.folder = folder
        for name, body in (("srun", srun), ("scontrol", f"[[ $1 == show ]] && {{ echo node-1; exit; }}\n{scontrol}")):
            (folder / name).write_text(f'#!/bin/bash\ncd "${{0%/*}}"\nprintf "%s\\n" "$@" > {name}-words; env > {name}-env\n{body}\n')
            (folder / name).chmod(0o755)
        granted = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node-[1-4]", "SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_PER_TASK": "8"}
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": os.environ["HOME"]} | granted | variables
        self.script = subprocess.Popen(
            ["bash", str(SCRIPT), "smoke"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_for(self, name: str, *, seconds: float = 10) -> str:
        """Return what a stand-in has written into a file, once it is whole."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (self.folder / name).exists() and (text := (self.folder / name).read_text()).endswith("\n"):
                return text
            time.sleep(0.01)
        raise AssertionError(f"{name} was not written within {seconds} s; the script is at {self.script.poll()}")

    def ended(self) -> tuple[int, str]:
        said, _ = self.script.communicate(timeout=10)
        return self.script.returncode, said


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_script_for_slurm_ends_with_the_status_of_the_sweep(status: int, tmp_path: Path) -> None:
    script = Slurm(tmp_path, f"exit {status}")
    assert script.ended() == (status, "")
    words = script.wait_for("srun-words").splitlines()
    assert words[:4] == ["--kill-on-bad-exit=1", "ray", "symmetric-run", "--address"]
    assert " ".join(words[words.index("--") :]) == f"-- python -u -m sweeper run smoke --address auto --results {tmp_path}/results"
    assert {"RAY_AUTH_MODE=token", "SRUN_CPUS_PER_TASK=8"} <= set(script.wait_for("srun-env").splitlines())
    assert not (tmp_path / "scontrol-words").exists() or "requeue" not in script.wait_for("scontrol-words")


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"SLURM_GPUS_PER_NODE": "2", "SLURM_GPUS_ON_NODE": "8"}, "2"),
        ({"SLURM_GPUS_PER_NODE": "a100:2", "SLURM_GPUS_ON_NODE": "8"}, "2"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "4"),
        ({}, "0"),
    ],
)
def test_ray_on_slurm_is_told_the_gpus_that_were_asked_for(variables: dict[str, str], gpus: str, tmp_path: Path) -> None:
    script = Slurm(tmp_path, "exit 0", **variables)
    assert script.ended() == (0, "")
    words = script.wait_for("srun-words").splitlines()
    assert words[words.index("--num-gpus") + 1] == gpus


def test_a_job_of_slurm_puts_itself_back_in_the_queue_before_its_time_limit(tmp_path: Path) -> None:
    script = Slurm(tmp_path, f"{UNTIL_END}; exit 7", 'echo "$@" > requeued')
    script.wait_for("begun")
    script.script.send_signal(signal.SIGUSR1)
    assert script.wait_for("requeued") == "requeue 77\n"
    with pytest.raises(subprocess.TimeoutExpired):  # it waits on, for Slurm to end it
        script.script.wait(timeout=0.5)
    (tmp_path / "end").touch()
    assert script.ended() == (7, "")


def test_a_job_that_slurm_does_not_put_back_goes_on_to_its_limit(tmp_path: Path) -> None:
    script = Slurm(tmp_path, UNTIL_END, "echo > asked; exit 1")
    script.wait_for("begun")
    script.script.send_signal(signal.SIGUSR1)
    script.wait_for("asked")
    (tmp_path / "end").touch()
    assert script.ended() == (0, "Slurm does not put this job back in the queue: submit it again\n")


def test_a_job_of_slurm_that_is_told_to_end_ends_the_sweep_and_waits_for_it(tmp_path: Path) -> None:
    script = Slurm(tmp_path, f"trap 'echo > told; exit 9' TERM; {UNTIL_END}")
    script.wait_for("begun")
    script.script.send_signal(signal.SIGTERM)
    assert script.ended() == (9, "")
    assert (tmp_path / "told").exists()
