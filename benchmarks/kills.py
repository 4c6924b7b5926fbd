"""Kill a sweep with SIGKILL at random moments, run it again after each, and compare its tables with an uninterrupted run's.

    python benchmarks/kills.py SPACE --kills 10 --results ROOT --reference ROOT [--whom driver|worker] [-- further options of `run`]

The moments are drawn from 5 s on, spread over the time of an undisturbed run. A trial that was completed must never
start again: its log would say so.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from same_outcomes import differences


def started_after_completion(logs: Path) -> list[str]:
    """Return the logs in which a start follows a completion."""
    bad = []
    for path in logs.rglob("*.log"):
        words = [line.split(" ", 4)[3] for line in path.read_text().splitlines() if " STARTED " in line or " COMPLETED " in line]
        if "COMPLETED" in words[:-1]:
            bad.append(str(path))
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300.0, help="of an undisturbed run")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--whom", choices=("driver", "worker"), default="driver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    command = [sys.executable, "-m", "sweeper", "run", args.space, "--results", str(args.results), *args.options]
    generator = random.Random(args.seed)
    for kill in range(1, args.kills + 1):
        wait = generator.uniform(5, 5 + 2 * args.seconds / args.kills)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            print(f"kill {kill}: the sweep had ended by itself ({process.returncode}) after less than {wait:.1f} s")
            break
        if args.whom == "driver":
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name().startswith("ray::")]
            busy = sorted(workers, key=lambda p: p.cpu_times().user, reverse=True)
            if busy:
                os.kill(busy[0].pid, signal.SIGKILL)
            process.wait()
        print(f"kill {kill}: {args.whom} after {wait:.1f} s", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-500:], f"exit status {done.returncode}")
    rows = differences(args.reference, args.results) + [
        f"started after it was completed: {log}" for log in started_after_completion(args.results / "logs")
    ]
    print("\n".join(rows[:20]) or "tables equal the uninterrupted run's; no trial twice, none started after it was completed")
    return 1 if rows or done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
