"""What the benchmarks share: interleaved timing, rows of a table, reports.

Nothing here imports TensorFlow, so that a process can time its import.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import operator
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROUNDS, QUICK_ROUNDS = 7, 2
LEAST_ROUNDS, GROUP_SECONDS = 3, 25.0  # no more rounds after that time
PAUSE = 0.02  # seconds before each, so that the threads of the last one sleep
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # as Linux names them
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
VERSIONED = ("tensorflow", "keras", "tensorflow-probability", "torch", "numpy")
RELATIONS = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}
NO_TORCH = "torch is not installed"


class Contender(NamedTuple):
    """Something to be timed: one call of `run` does `work` units, such as steps.

    `run` may return the seconds a unit that it took, where it knows better than a
    clock around it.
    """

    run: object
    work: float = 1.0


class Spread(NamedTuple):
    """Median and quartiles of `count` measurements."""

    median: float
    lower: float
    upper: float
    count: int


class Target(NamedTuple):
    """What a median has to be, in the unit of its row: `relation` `limit`."""

    relation: str
    limit: float


class Row(NamedTuple):
    """One line of the table.

    `value` is None where there was nothing to measure; `note` then says why.
    """

    what: str
    value: Spread | None
    unit: str = ""
    target: Target | None = None
    reference: str = ""
    note: str = ""

    @property
    def reached(self):
        """Whether the target is met; None without a target or a value."""
        if self.target is None or self.value is None:
            return None
        return RELATIONS[self.target.relation](self.value.median, self.target.limit)


class Options(NamedTuple):
    """What the command line of a script asks for."""

    quick: bool
    rounds: int


def interleave(contenders, rounds):
    """Times contenders in turn, A, B, A, B, ..., so that drift hits all alike.

    Args:
      contenders: dict of Contender, warmed up.
      rounds: how often each is run; on a slow machine as often as `GROUP_SECONDS`
        allow, but no less than `LEAST_ROUNDS`.

    Returns:
      seconds: dict of float [rounds], seconds a unit of work.
    """
    seconds = {name: [] for name in contenders}
    began = time.perf_counter()
    for finished in range(rounds):
        is_late = time.perf_counter() - began > GROUP_SECONDS
        if is_late and finished >= LEAST_ROUNDS:
            break
        for name, contender in contenders.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            result = contender.run()
            elapsed = time.perf_counter() - start
            is_known = isinstance(result, float)
            seconds[name].append(result if is_known else elapsed / contender.work)
    return {name: np.array(values) for name, values in seconds.items()}


def spread(values):
    """Median and quartiles of a sequence of numbers."""
    values = np.asarray(values, float)
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return Spread(median, lower, upper, len(values))


def paired_ratio(one, other, scale=1.0):
    """Spread of `scale` * one / other, the ratio taken round by round.

    Args:
      one: float [rounds].
      other: float [rounds], measured in the same rounds.
      scale: float, 100 for a percentage.
    """
    return spread(scale * np.asarray(one, float) / np.asarray(other, float))


def formatted(value, unit=""):
    """A number for reading: three digits, or all of them from 1,000 on."""
    if value is None or not np.isfinite(value):
        return "none"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{text} {unit}".rstrip()


def milliseconds(seconds):
    """The median of `seconds` for reading, in ms."""
    return formatted(1e3 * spread(seconds).median, "ms")


def machine():
    """The processor: its model, cores that this process may use, vector flags."""
    fields = {}
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "flags": [flag for flag in FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }


def has_bf16_products():
    """Whether the processor multiplies bfloat16 numbers by itself."""
    return any(flag in machine()["flags"] for flag in BF16_FLAGS)


def versions():
    """Versions of Python and the libraries that were measured; None: not there."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def torch_peers():
    """The module `peers_torch`, or None where PyTorch does not import."""
    try:
        return importlib.import_module("benchmarks.peers_torch")
    except (ImportError, OSError):
        return None


def call_in_subprocess(module, function, *arguments):
    """`module.function(*arguments)` in a fresh process; what it returns is JSON."""
    code = (
        f"import json, sys; from {module} import {function} as run; "
        "print(json.dumps(run(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{module}.{function} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row_to_json(row, *, quick=False):
    """A `Row` as a dict of plain values; a quick run reaches and misses nothing."""
    return {
        **row._asdict(),
        "value": row.value and row.value._asdict(),
        "target": row.target and row.target._asdict(),
        "reached": None if quick else row.reached,
    }


def make_report(rows, *, quick):
    """Rows, as dicts, with the machine, the versions and the date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
    }


def to_markdown(report):
    """The table of a report, with its machine and versions above it."""
    place, libraries = report["machine"], report["versions"]
    listed = [f"{name} {version or 'none'}" for name, version in libraries.items()]
    flags = " ".join(place["flags"]) or "no vector flags found"
    lines = [
        f"{report['date']}. {place['cpu']}, {place['cores']} cores ({flags}), "
        f"{place['system']}. {', '.join(listed)}.",
        "",
    ]
    if report["quick"]:
        lines += ["A quick run at reduced sizes: the numbers mean nothing.", ""]
    lines += [
        "| what | target | reached | median (quartiles) | reference |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def _cells(row):
    """The cells of one row, from its dict."""
    value, target = row["value"], row["target"]
    if value is None:
        measured = row["note"]
    else:
        lower, upper = formatted(value["lower"]), formatted(value["upper"])
        measured = f"{formatted(value['median'], row['unit'])} ({lower} to {upper})"
    wanted = ""
    if target:
        wanted = f"{target['relation']} {formatted(target['limit'], row['unit'])}"
    reached = {None: "", True: "yes", False: "**no**"}[row["reached"]]
    cells = [row["what"], wanted, reached, measured, row["reference"]]
    return [" ".join(cell.replace("|", "/").split()) for cell in cells]


def write_report(path, report):
    """Writes a report to `path` as JSON, and as Markdown next to it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".md").write_text(to_markdown(report))


def parser(description):
    """Command line of a benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs"
    )
    made.add_argument("--output", help="JSON file; the table goes next to it, .md")
    made.add_argument("--rounds", type=_positive, help="times each thing is timed")
    return made


def _positive(text):
    """A positive integer from the command line."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def run_script(description, measure, arguments=None):
    """What each script does: parse, measure, print the table and write it.

    Args:
      description: of the script, for --help.
      measure: function of Options to a list of Row.
      arguments: list of str; None: the command line.
    """
    parsed = parser(description).parse_args(arguments)
    rounds = parsed.rounds or (QUICK_ROUNDS if parsed.quick else ROUNDS)
    rows = measure(Options(parsed.quick, rounds))
    rows = [row_to_json(row, quick=parsed.quick) for row in rows]
    report = make_report(rows, quick=parsed.quick)
    print(to_markdown(report), flush=True)
    if parsed.output:
        write_report(parsed.output, report)
