"""Many training runs, each a process and a workdir of its own.

  outcomes = run_all([Run("k5", config_a), Run("k50", config_b)], "runs/sweep")

Every run is `python -m iwae_tf.train` in `folder/name`, so a run that fails or is
killed does not end the others. Call it again to finish what is left: finished runs are
read, unfinished ones continue from their last checkpoint.
"""

import ast
import concurrent.futures
import glob
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iwae_tf.checks import check_count
from iwae_tf.config import (
    check_key,
    check_paths,
    check_used,
    plainest,
    put,
    validate,
)
from iwae_tf.config.files import as_json, config_from, different_keys, read_json
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import FolderLock, write_json
from iwae_tf.io.processes import child
from iwae_tf.runs.splits import decide_epochs
from iwae_tf.runs.workdir import Workdir

DONE, FAILED, STOPPED = "done", "failed", "stopped"
TRAIN = (sys.executable, "-m", "iwae_tf.train")
POLL_SECONDS = 0.2
INTERRUPTED = 130  # exit code of the training script
DEATHS_OF_STOP = (-signal.SIGTERM, -signal.SIGINT)
NOT_TAKEN = ("checkpoints", "tensorboard", "saved_model", "log.txt", ".lock")
# Of results.json, and how a table shows them.
FIGURES = {"nll": ".2f", "jackknife_error": ".3f", "bound": ".2f", "seconds": ".0f"}


class Run(NamedTuple):
    """One training run of a sweep."""

    name: str  # of its workdir in the sweep's folder
    config: ConfigDict


class Outcome(NamedTuple):
    """What became of a run."""

    name: str
    status: str  # "done", "failed" or "stopped" (the same call again goes on)
    workdir: str
    nll: float | None = None
    jackknife_error: float | None = None
    bound: float | None = None
    seconds: float | None = None
    message: str = ""  # why it failed


def expand_grid(config: ConfigDict, axes: Iterable[str]) -> list[Run]:
    """Runs for every combination of values.

    Args:
      config: ConfigDict that the runs share.
      axes: list of "KEY=VALUE,VALUE,...", such as "num_samples=1,5,50".

    Returns:
      list of Run, named after their values; the last axis varies fastest.

    Raises:
      InvalidInputError: an unknown or repeated key, or a run that is not valid.
    """
    parsed = [_parse_axis(axis) for axis in axes]
    keys = [key for key, _ in parsed]
    if len(set(keys)) < len(keys):
        raise InvalidInputError(f"`grid` must name each key once. Received: {keys}")
    runs = []
    for values in itertools.product(*(values for _, values in parsed)):
        variant = config.copy_and_resolve_references()
        for key, value in zip(keys, values):
            put(variant, key, value)
        validate(variant)
        check_used(variant, keys)
        check_paths(variant)
        words = [f"{key}={value}" for key, value in zip(keys, values)]
        name = re.sub(r"[^\w.=+-]+", "_", ",".join(words)).strip("_.")
        runs.append(Run(name or "run", variant))
    return runs


def run_all(
    runs: Iterable[Run | tuple[str, ConfigDict]],
    folder: str | os.PathLike[str],
    *,
    num_processes: int = 1,
    stop: threading.Event | None = None,
    report: Callable[[str], object] = print,
    do: Callable[..., Outcome] | None = None,
) -> list[Outcome]:
    """Trains the runs, some at a time; a failed one does not end the others.

    Args:
      runs: iterable of Run (or (name, config)).
      folder: path; run `name` has the workdir `folder/name`, with its output in
        `log.txt` there.
      num_processes: how many at a time. The cores are shared evenly among them.
      stop: optional threading.Event: once set, runs write a checkpoint and end.
      report: function of one line, told of each run that begins or ends.
      do: what does a run, as `run_one`, which it is unless given; see `on_ray.engine`.

    Returns:
      list of Outcome, in the order of the runs.

    Raises:
      InvalidInputError: a bad name, or two runs of one name.
    """
    named, folder = [Run(*run) for run in runs], pathlib.Path(folder)
    check_count(num_processes, "num_processes")
    _check_names([run.name for run in named])
    stop = stop or threading.Event()
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    with concurrent.futures.ThreadPoolExecutor(num_processes) as pool:
        futures = [
            pool.submit(
                do or run_one, run, folder, stop=stop, report=report, threads=threads
            )
            for run in named
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()  # before the pool waits for its runs
            raise


def run_one(
    run: Run | tuple[str, ConfigDict],
    folder: str | os.PathLike[str],
    *,
    stop: threading.Event | None = None,
    report: Callable[[str], object] = print,
    threads: int | None = None,
) -> Outcome:
    """Does one run in a process of its own, unless it is finished; returns Outcome."""
    run, stop = Run(*run), stop or threading.Event()
    workdir = Workdir(pathlib.Path(folder) / run.name)
    try:
        validate(run.config)
        run = run._replace(config=decide_epochs(run.config))
        workdir.check(run.config)
        code = begin = 0
        if not workdir.is_finished(run.config):
            if stop.is_set():
                return Outcome(run.name, STOPPED, str(workdir.path))
            # Before anything is written: it may be trained by another process.
            FolderLock(workdir.path, "workdir").release()
            if not workdir.results.exists():  # of fewer epochs: the training's to drop
                workdir.keep(run.config)
            report(f"{run.name}: started")
            log = workdir.path / "log.txt"
            begin = log.stat().st_size if log.exists() else 0
            code = _train(workdir, run.config, stop, threads)
        outcome = _outcome(run, workdir, code, begin)
    except (InvalidInputError, OSError) as error:
        message = " ".join(str(error).split())
        outcome = Outcome(run.name, FAILED, str(workdir.path), message=message)
    report(f"{run.name}: {outcome.status} {outcome.message}".rstrip())
    return outcome


def take_finished(
    runs: Iterable[Run],
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    report: Callable[[str], object] = print,
) -> None:
    """Copies runs that are finished elsewhere, found by their config.

    A run is the same by another name too, as MIWAE of one group is IWAE: see
    `config.plainest`. Results, metrics, figures and the trained model are copied; what
    has been begun in `folder` is left as it is.

    Args:
      folder: as in `run_all`.
      root: a folder with runs in it, at any depth.
      report: function of one line, told of each run that is taken.
    """
    folder, root = pathlib.Path(folder), pathlib.Path(root)
    if not root.is_dir():
        raise InvalidInputError(f"`reuse` must be a folder. Received: reuse={root}")
    wanted = [
        run
        for run in runs
        if not Workdir(folder / run.name).config.exists() and not run.config.start_from
    ]
    if not wanted:
        return
    # Unlike `rglob` it looks behind links, and not into the hidden folder of a copy.
    pattern = os.path.join(glob.escape(str(root)), "**", "results.json")
    found = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        config = _config_of(pathlib.Path(path))
        if config is not None and not config.start_from:
            found.append((Workdir(os.path.dirname(path)), as_json(plainest(config))))
    for run in wanted:
        workdir = Workdir(folder / run.name)
        ours = as_json(plainest(run.config))
        for source, theirs in found:
            if not different_keys(ours, theirs) and source.model.is_file():
                partial = workdir.path.with_name(f".{run.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(
                    source.path, partial, ignore=shutil.ignore_patterns(*NOT_TAKEN)
                )
                write_json(Workdir(partial).config, run.config.to_dict())
                partial.rename(workdir.path)
                report(f"{run.name}: taken from {source.path}")
                break


def _config_of(path: pathlib.Path) -> ConfigDict | None:
    """The config in a `results.json`; None where that is of something else."""
    try:
        values = read_json(path).get("config")
        return config_from(values, path) if isinstance(values, dict) else None
    except InvalidInputError:
        return None


def format_table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as text, a line each, failures with their reason."""
    rows = [["run", "status", "NLL", "+-", "bound", "seconds", ""]]
    for outcome in outcomes:
        numbers = [(getattr(outcome, name), form) for name, form in FIGURES.items()]
        cells = ["-" if n is None else format(n, form) for n, form in numbers]
        rows.append([outcome.name, outcome.status, *cells, outcome.message])
    widths = [max(map(len, column)) for column in zip(*rows)]
    pads = [str.ljust, str.ljust, *[str.rjust] * len(FIGURES), str.ljust]
    lines = (
        "  ".join(pad(text, width) for pad, text, width in zip(pads, row, widths))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def write_table(path: str | os.PathLike[str], outcomes: Iterable[Outcome]) -> None:
    """Writes the outcomes as JSON, a list of objects under "runs"."""
    write_json(path, {"runs": [outcome._asdict() for outcome in outcomes]})


def _train(
    workdir: Workdir, config: ConfigDict, stop: threading.Event, threads: int | None
) -> int:
    """Runs the training script; returns its exit code. SIGTERM once `stop` is set.

    A script that has not come to listen to signals yet dies of one, as good as stopped.
    """
    command = [*TRAIN, f"--config={workdir.config}", f"--workdir={workdir.path}"]
    # Which may be others than those of the config there.
    given = {key: config[key] for key in ("data_dir", "start_from", "epochs")}
    command += [f"--config.{k}={v}" for k, v in given.items() if v is not None]
    environment = dict(os.environ)
    if threads is not None:
        environment.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    with (
        open(workdir.path / "log.txt", "ab") as log,
        child(command, environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        asked = False
        while process.poll() is None:
            if stop.is_set() and not asked:
                process.terminate()
                asked = True
            time.sleep(POLL_SECONDS)
    died_of_stop = stop.is_set() and process.returncode in DEATHS_OF_STOP
    return INTERRUPTED if died_of_stop else process.returncode


def _outcome(run: Run, workdir: Workdir, code: int, begin: int = 0) -> Outcome:
    """The Outcome of a run whose process ended with `code`, its log from `begin` on."""
    name, path = run.name, str(workdir.path)
    if workdir.is_finished(run.config):
        found = read_json(workdir.results)
        figures: dict[str, Any] = {key: found.get(key) for key in FIGURES}
        return Outcome(name, DONE, path, **figures)
    if code in (0, INTERRUPTED):
        return Outcome(name, STOPPED, path)
    log = workdir.path / "log.txt"
    text = log.read_bytes()[begin:].decode(errors="replace")
    lines = [line.strip() for line in re.split("[\r\n]", text) if line.strip()]
    reasons = [line for line in lines if line.startswith("error: ")] or lines
    reason = reasons[-1].removeprefix("error: ") if reasons else "no output"
    if code < 0:
        reason = f"killed by signal {-code}"
    return Outcome(name, FAILED, path, message=f"{reason} (see {log})")


def _check_names(names: list[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[\w=+-][\w.=+-]*", str(name)):
            raise InvalidInputError(
                "`name` must be letters, digits and _ . = + - only. "
                f"Received: name={name!r}"
            )
        if names.count(name) > 1:
            raise InvalidInputError(
                f"`runs` must have names of their own. Received: {name} twice"
            )


def _parse_axis(axis: str) -> tuple[str, tuple[Any, ...]]:
    """("num_samples", (1, 5, 50)) of "num_samples=1,5,50"; words need no quotes."""
    key, equals, text = axis.partition("=")
    check_key(key)
    if not equals or not text:
        raise InvalidInputError(
            f"`grid` must be KEY=VALUE,VALUE,... Received: grid={axis!r}"
        )
    try:
        values = ast.literal_eval(f"({text},)")
    except (ValueError, SyntaxError):
        values = tuple(map(_literal_or_word, text.split(",")))
    if any(values.count(value) > 1 for value in values):
        raise InvalidInputError(f"`grid` must not repeat a value. Received: {axis!r}")
    return key, values


def _literal_or_word(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
