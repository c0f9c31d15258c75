"""Kills, stops and damages real training runs, and prints what was lost.

python -m torture [--kills 20] [--seed 0] [--quick] [--output torture/results.md]
"""

import argparse
import pathlib
import sys
import tempfile
import time

from torture import engines
from torture.trials import Trials


def mirrored(folder, kills, seed):
    """Kills on two devices, against a run on two that goes through."""
    inner = pathlib.Path(folder, "mirrored")
    inner.mkdir()
    return Trials(inner, kills=max(1, kills // 4), seed=seed, mirrored=True).kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="processes to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file")
    options = parser.parse_args()
    kills = min(options.kills, 3) if options.quick else options.kills
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(folder, kills=kills, seed=options.seed)
        plan = [trials.kill, trials.stop]
        if not options.quick:
            plan.append(trials.command_lines)
        plan.append(lambda: trials.damage(5 if options.quick else 50))
        plan.append(lambda: trials.workers(2))
        if not options.quick:
            plan.append(lambda: trials.workers(3))
            plan.append(lambda: trials.workers(2, kill=True))
            plan.append(lambda: trials.workers(3, kill=True))
            plan.append(lambda: mirrored(folder, kills, options.seed))
            plan.append(lambda: engines.trials(folder))
        for trial in plan:
            for row in trial():
                rows.append(row)
                print(f"{row.times:4} x {row.trial}: {row.found}", flush=True)
    good = all(row.good for row in rows)
    minutes = (time.monotonic() - began) / 60
    verdict = "Nothing was lost" if good else "SOMETHING WAS LOST"
    lines = ["| tried | times | found | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.trial} | {row.times} | {row.found} | {'ok' if row.good else 'LOST'} |"
        for row in rows
    ]
    text = "\n".join([*lines, "", f"{verdict}, in {minutes:.1f} minutes."])
    print(f"\n{text}")
    if options.output:
        command = f"python -m torture --kills {kills} --seed {options.seed}"
        head = f"# What a run survives\n\n`{command}`\n\n"
        options.output.write_text(head + text + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
