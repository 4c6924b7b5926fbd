"""The default sweep from `run` to ranking: wall seconds, peak memory over all processes, worker efficiency in the trials phase.

    python benchmarks/default_sweep.py [--results ROOT] [-- further options of `run`]

Memory is the proportional set size summed over the driver and all processes under it, sampled twice a second. Efficiency is the sum of the
trials' own seconds over the seconds of the trials phase (first start to last end) times the workers; beside it the same with the phase counted
from the end of the last shared stage, so that the workers' start counts as idle.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from sweeper.results import Results

BOUNDS = {"wall_seconds": 360.0, "peak_gib": 4.0, "efficiency": 0.90}


def watch(process: "subprocess.Popen[str]", peak: list[float]) -> None:
    """Keep the largest proportional set size (bytes) of the process tree in peak[0] until the process ends."""
    while process.poll() is None:
        total = 0
        try:
            parent = psutil.Process(process.pid)
            for member in [parent, *parent.children(recursive=True)]:
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:  # it ended between the two looks
                    continue
        except psutil.Error:
            break
        peak[0] = max(peak[0], total)
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    root = args.results or Path(tempfile.mkdtemp(prefix="sweeper-benchmark-")) / "results"
    peak, stages_ended = [0.0], time.time()
    began = time.time()
    command = [sys.executable, "-m", "sweeper", "run", "ablations", "--results", str(root), *args.options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
    watcher.start()
    assert process.stderr is not None
    for line in process.stderr:
        print(f"{time.time() - began:6.1f} s  {line}", end="", flush=True)
        if re.match(r"\[\d+/\d+\] (train|craft) ", line):
            stages_ended = time.time()
    print(process.stdout.read() if process.stdout else "")
    process.wait()
    wall = time.time() - began
    rows = Results(root).read("trials", ["started", "ended"]).to_pylist()
    busy = sum((row["ended"] - row["started"]).total_seconds() for row in rows)
    first, last = min(row["started"] for row in rows).timestamp(), max(row["ended"] for row in rows).timestamp()
    workers = os.cpu_count() or 1
    figures = {"wall_seconds": wall, "peak_gib": peak[0] / 2**30, "efficiency": busy / ((last - first) * workers)}
    for name, value in figures.items():
        print(f"{name:14} {value:8.2f}   (bound {BOUNDS[name]:g})")
    from_stages = busy / ((last - stages_ended) * workers)
    print(f"{len(rows)} trials, {busy:.0f} trial seconds, {workers} workers; counted from the last shared stage: {from_stages:.3f}")
    is_good = wall <= BOUNDS["wall_seconds"] and figures["peak_gib"] <= BOUNDS["peak_gib"] and figures["efficiency"] >= BOUNDS["efficiency"]
    return process.returncode or (0 if is_good else 1)


if __name__ == "__main__":
    sys.exit(main())
