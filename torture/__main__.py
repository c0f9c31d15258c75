"""Kills, stops and damages real training runs, and prints what was lost.

python -m torture [--kills 40] [--seed 0] [--quick] [--output torture/results.md]
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from torture import command_lines, commands, damage, engines
from torture.job import KINDS, PLAIN
from torture.trials import Trials, tried


def rows_of(folder, kills, seed, quick):
    """Does the trials and yields their rows.

    Args:
      folder: empty folder.
      kills: of processes; in a long run spread over the kinds there are.
      seed: int, of the random moments.
      quick: whether to do a few of each.
    """
    folder, random_ = pathlib.Path(folder), random.Random(seed)
    each = max(1, kills // 13)  # eight kinds of trainings and six scripts
    trials = Trials(folder, kills=kills if quick else 2 * each, seed=seed)
    yield from trials.kill()
    yield from trials.stop()
    yield from trials.damage(5 if quick else 50)
    yield from lies(folder, 0.1 if quick else 1.0)
    if quick:
        return
    yield from trials.workers(2)
    (folder / "places").mkdir()
    places = command_lines.make_places(folder / "places")
    yield from bad_lines(folder / "places", places, random_)
    yield from damaged_files(folder / "places", random_)
    for kind in [kind for kind in KINDS if kind != PLAIN]:
        inner = folder / kind.replace(" ", "_")
        inner.mkdir()
        yield from Trials(inner, kills=each, seed=seed, kind=kind).kill()
    for script in commands.COMMANDS:
        count = 1 if script in ("sweep", "reproduce") else each
        yield from killed_script(folder, places, script, count, random_)
    yield from trials.workers(3)
    yield from trials.workers(2, kill=True)
    yield from engines.trials(folder)


def lies(folder, share):
    """A server's lies."""
    from torture import liars

    count, wrong = liars.faults(folder, share)
    found = f"{count - len(wrong)} told in one line, no score taken"
    return tried("server that lies", found, count, wrong)


def killed_script(folder, places, script, count, random_):
    """Kills of a script that does not train itself."""
    same, wrong = commands.killed(folder, places, script, count, random_)
    found = f"{same} of {count} end as the uninterrupted one, nothing left behind"
    return tried(f"SIGKILL, {script}", found, count, wrong)


def bad_lines(folder, places, random_):
    """Bad command lines of every script."""
    count, wrong = command_lines.faults(folder, places, random_)
    found = f"{count - len(wrong)} end with 2 and one line, and write nothing"
    return tried("bad command line", found, count, wrong)


def damaged_files(folder, random_):
    """Damaged files of other kinds than checkpoints."""
    count, wrong = damage.faults(folder, random_, 16)
    found = f"{count - len(wrong)} refused in one line, or read as they were"
    kinds = ", ".join(damage.FILES)
    return tried(f"damaged file: {kinds}", found, count, wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="processes to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file")
    options = parser.parse_args()
    kills = min(options.kills, 3) if options.quick else options.kills
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows_of(folder, kills, options.seed, options.quick):
            rows.append(row)
            print(f"{row.times:4} x {row.trial}: {row.found}", flush=True)
            if options.output:  # of a run that is cut off too
                minutes = (time.monotonic() - began) / 60
                options.output.write_text(report(rows, options, minutes, "so far, "))
    minutes = (time.monotonic() - began) / 60
    text = report(rows, options, minutes)
    print(f"\n{text}")
    if options.output:
        options.output.write_text(text)
    return 0 if all(row.good for row in rows) else 1


def report(rows, options, minutes, so_far=""):
    """The rows as Markdown."""
    good = all(row.good for row in rows)
    verdict = "Nothing was lost" if good else "SOMETHING WAS LOST"
    command = f"python -m torture --kills {options.kills} --seed {options.seed}"
    lines = [
        *("# What a run survives", "", f"`{command}`", ""),
        *("| tried | times | found | |", "| --- | --- | --- | --- |"),
        *(
            f"| {row.trial} | {row.times} | {row.found} "
            f"| {'ok' if row.good else 'LOST'} |"
            for row in rows
        ),
        *("", f"{verdict}, {so_far}in {minutes:.1f} minutes."),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
