"""All benchmarks, one after the other, in one JSON file and one table.

    python -m benchmarks [--quick] [--output FILE.json]

Takes under ten minutes on two cores. Each script runs in a process of its own. One
that fails has a row that says so, and the exit code is 1. The file is
benchmarks/results.json unless given; the times of a quick run are only printed.
"""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import common
from benchmarks.common import Row

SCRIPTS = (
    "matmul",
    "training_step",
    "parts",
    "log_likelihood",
    "input_pipeline",
    "start_up",
)
OUTPUT = common.ROOT / "benchmarks" / "results.json"


def run_benchmark(name, flags):
    """Runs one script.

    Args:
      name: of a module of `benchmarks`.
      flags: list of str, its command line.

    Returns:
      rows: list of dict, each with the script's name.
      done: whether the script succeeded.
      seconds: that it took.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
        finished = subprocess.run(
            [*command, "--output", str(output)],
            cwd=common.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        done = finished.returncode == 0
        if done:
            rows = json.loads(output.read_text())["rows"]
        else:
            rows = [_failure(name, finished.stderr)]
    seconds = time.perf_counter() - start
    state = "done" if done else "failed"
    print(f"benchmarks.{name}: {state} after {seconds:.0f} s", file=sys.stderr)
    return [{"script": name, **row} for row in rows], done, seconds


def _failure(name, errors):
    """The row of a script that failed; its last words go to stderr."""
    print(errors[-4000:], file=sys.stderr)
    lines = errors.strip().splitlines() or ["no message"]
    row = Row(f"benchmarks.{name}", None, note=f"failed: {lines[-1]}")
    return common.row_to_json(row)


def main(arguments=None):
    """Runs the scripts and writes their tables as one; returns the exit code."""
    parser = common.parser(__doc__)
    parsed = parser.parse_args(arguments)
    flags = ["--quick"] if parsed.quick else []
    if parsed.rounds:
        flags += ["--rounds", str(parsed.rounds)]
    # Two at once would disturb each other's times; those of a quick run do not count.
    with concurrent.futures.ThreadPoolExecutor(2 if parsed.quick else 1) as pool:
        results = list(pool.map(lambda name: run_benchmark(name, flags), SCRIPTS))
    rows = [row for part, _, _ in results for row in part]
    report = common.make_report(rows, quick=parsed.quick)
    report["seconds"] = {name: result[2] for name, result in zip(SCRIPTS, results)}
    output = parsed.output or (None if parsed.quick else OUTPUT)
    if output:
        common.write_report(output, report)
    print(common.to_markdown(report))
    return 0 if all(done for _, done, _ in results) else 1
