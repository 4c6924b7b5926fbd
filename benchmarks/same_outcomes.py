"""Compare the tables of two results roots: same keys, same outcome lists, same plan. Exit status 1 where they differ.

python benchmarks/same_outcomes.py ROOT OTHER_ROOT
"""

import sys
from pathlib import Path

from sweeper.results import Results
from sweeper.storage import Root

KEY = ("trial_id", "evaluation_id", "attack", "epsilon", "threat", "source", "classifier")


def differences(first: Root, second: Root) -> list[str]:
    """Return a sentence per difference between two results roots; an empty list where they hold the same."""
    found: list[str] = []
    stores = [Results(root) for root in (first, second)]
    trials = [set(store.read("trials", ["trial_id"]).column("trial_id").to_pylist()) for store in stores]
    if trials[0] != trials[1]:
        found.append(f"{len(trials[0] - trials[1])} trials only in {first}, {len(trials[1] - trials[0])} only in {second}")
    columns = [*KEY, "outcomes", "broken_at", "crafted_on", "scored_on"]
    scores = [{tuple(row[name] for name in KEY): row for row in store.read("scores", columns).to_pylist()} for store in stores]
    found += [f"row only in one root: {key}" for key in sorted(set(scores[0]) ^ set(scores[1]))]
    for key in sorted(set(scores[0]) & set(scores[1])):
        for column in ("outcomes", "broken_at", "crafted_on", "scored_on"):
            if scores[0][key][column] != scores[1][key][column]:
                found.append(f"{column} differs: {key}")
    for root, store in zip((first, second), stores, strict=True):
        completed = [row["trial_id"] for row in store.read("attempts", ["trial_id", "status"], {"status": "completed"}).to_pylist()]
        if len(completed) != len(set(completed)):
            found.append(f"a trial is completed twice in {root}")
    return found


if __name__ == "__main__":
    rows = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    count = Results(Path(sys.argv[1])).read("scores", ["trial_id"]).num_rows
    print("\n".join(rows[:20]) or f"the same: {count} score rows")
    sys.exit(1 if rows else 0)
