"""A search for the best values of config keys, by Optuna.

  axes = parse_axes(config, ["batch_size=20,100"], ["learning_rate=1e-4,1e-2,log"])
  outcomes = search(config, axes, "runs/search", num_trials=30)

A trial is a run as in `runner`. The search maximises the validation bound of the last
epoch. It stops a trial whose bound is below the median of the others at the same epoch.
Optuna's journal is in the folder. Call it again to finish what is left.
"""

import ast
import math
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iwae_tf.checks import needing, readable
from iwae_tf.config import check_key, put
from iwae_tf.config.files import as_json, check_same
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import FolderLock
from iwae_tf.runs.workdir import Workdir
from iwae_tf.studies import runner
from iwae_tf.studies.runner import Outcome, Run

PRUNED = "pruned"
JOURNAL = "optuna.journal"
NAME, SETTINGS = "name", "settings"  # attributes of a trial, and of the study


class Axis(NamedTuple):
    """What a search may choose for one key: some values, or all numbers in a range."""

    key: str
    choices: dict[str, Any]  # by their text; empty: a range
    low: float = 0
    high: float = 0
    log: bool = False

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key}: {', '.join(self.choices)}"
        scale = ", on a log scale" * self.log
        return f"{self.key}: {self.low!r} to {self.high!r}{scale}"


def parse_axes(
    config: ConfigDict, grid: Iterable[str], ranges: Iterable[str]
) -> list[Axis]:
    """The axes of a search.

    Args:
      config: ConfigDict that the trials share.
      grid: "KEY=VALUE,VALUE,..." of each key that has choices.
      ranges: "KEY=LOW,HIGH" or "KEY=LOW,HIGH,log" of each number within limits.

    Raises:
      InvalidInputError: an unknown or repeated key, a range that is none, or a value
        that is not valid beside the others of `config`.
    """
    axes = [_choices(config, text) for text in grid]
    axes += [_range(config, text) for text in ranges]
    keys = [axis.key for axis in axes]
    if not keys or len(set(keys)) < len(keys):
        raise InvalidInputError(
            "`grid` and `range` must name at least one key, and each once. "
            f"Received: {', '.join(keys) or 'none'}"
        )
    return axes


def _choices(config, text):
    key = text.partition("=")[0]
    values = [run.config[key] for run in runner.expand_grid(config, [text])]
    return Axis(key, {str(value): value for value in values})


def _range(config, text):
    key, _, values = text.partition("=")
    check_key(key)
    kind, (*limits, last) = config.get_type(key), values.split(",")
    log = last == "log"
    try:
        low, high = map(ast.literal_eval, limits if log else [*limits, last])
        is_good = (0 if log else -float("inf")) < low < high < float("inf")
        is_good &= kind is float or (kind, type(low), type(high)) == (int,) * 3
    except (ValueError, SyntaxError, TypeError):
        is_good = False
    if not is_good:
        raise InvalidInputError(
            "`range` must be KEY=LOW,HIGH or KEY=LOW,HIGH,log, of a key that is a "
            "number, with LOW < HIGH, integers for an integer, and LOW > 0 for log. "
            f"Received: range={text!r}"
        )
    runner.expand_grid(config, [f"{key}={low!r},{high!r}"])  # both are valid
    return Axis(key, {}, kind(low), kind(high), log)


def search(
    config: ConfigDict,
    axes: Sequence[Axis],
    folder: str | os.PathLike[str],
    *,
    num_trials: int,
    num_processes: int = 1,
    stop: threading.Event | None = None,
    report: Callable[[str], object] = print,
) -> list[Outcome]:
    """Does trials until `num_trials` of them are done or pruned.

    Trials that were interrupted or failed before come first, each in its own workdir.

    Args:
      config: ConfigDict that the trials share.
      axes: list of Axis.
      folder: path, of the trials' workdirs `trial-0000`, ... and of Optuna's journal.
      num_trials: number of trials, in all.
      num_processes: how many at a time.
      stop: optional threading.Event: once set, trials write a checkpoint and end.
      report: function of one line, told of each trial, and of the best one.

    Returns:
      list of Outcome of all trials, with their values as a message.

    Raises:
      InvalidInputError: Optuna is not installed, or the folder is in use, or that of
        another search.
    """
    folder = pathlib.Path(folder)
    with needing("optuna", "tune"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lock = FolderLock(folder, "folder")
    try:
        trials = _Trials(optuna, config, axes, folder)
        places = range(num_trials - trials.count_ended())
        runner.run_all(
            [Run(str(place), config) for place in places],
            folder,
            num_processes=num_processes,
            stop=stop,
            report=report,
            do=trials.do_next,
        )
        return trials.outcomes(report)
    finally:
        lock.release()


class _Trials:
    """Optuna's study in a folder, and the runs that its trials are."""

    def __init__(self, optuna, config, axes, folder):
        self._states = optuna.trial.TrialState
        self._config, self._axes, self._folder = config, axes, folder
        self._distributions = {a.key: _distribution(optuna, a) for a in axes}
        self._asking, self._failures = threading.Lock(), {}
        self._study = study = _open_study(optuna, folder / JOURNAL)
        # Not the same first trials at each call.
        seed = config.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        axis_lines = sorted(map(str, axes))
        settings: dict[str, Any] = {"config": as_json(config), "axes": axis_lines}
        theirs = study.user_attrs.setdefault(SETTINGS, settings)
        rule = "be new or that of a search from this config"
        check_same(settings["config"], theirs["config"], rule, folder, "folder")
        if settings["axes"] != theirs["axes"]:
            raise InvalidInputError(
                "`folder` must be new or that of a search over these values. "
                f"Received: {folder}, of {'; '.join(theirs['axes'])}"
            )
        study.set_user_attr(SETTINGS, settings)
        for name, trial in self._by_name().items():
            if trial.state in (self._states.RUNNING, self._states.FAIL):
                study.enqueue_trial(trial.params, user_attrs={NAME: name})
        for trial in study.get_trials(states=(self._states.RUNNING,)):
            study.tell(trial.number, state=self._states.FAIL)

    def _by_name(self):
        """The last trial of each run: one that is done again is another trial."""
        trials = [trial for trial in self._study.trials if NAME in trial.user_attrs]
        return {trial.user_attrs[NAME]: trial for trial in trials}

    def count_ended(self):
        ended = (self._states.COMPLETE, self._states.PRUNED)
        return sum(trial.state in ended for trial in self._by_name().values())

    def do_next(self, place, folder, *, stop, report, threads):
        """Does a trial; one that is stopped stays a running one."""
        if stop.is_set():
            return
        with self._asking:
            trial = self._study.ask(self._distributions)
            name = trial.user_attrs.get(NAME) or f"trial-{len(self._by_name()):04d}"
            trial.set_user_attr(NAME, name)
        run = self._run_of(name, trial.params)
        # The epochs of its own warm-up say little of the last one.
        num_ignored = run.config.kl_warmup_epochs
        watch = Watch(trial, Workdir(folder / name), stop, num_ignored)
        how = {"stop": watch, "report": report, "threads": threads}
        outcome = runner.run_one(run, folder, **how)
        if outcome.status == runner.DONE:
            watch.look()
            self._study.tell(trial, watch.bound)
        elif outcome.status == runner.FAILED:
            self._failures[name] = outcome
            self._study.tell(trial, state=self._states.FAIL)
        elif watch.is_hopeless:
            self._study.tell(trial, state=self._states.PRUNED)
            report(f"{name}: {PRUNED}")

    def _run_of(self, name, params):
        config = self._config.copy_and_resolve_references()
        for axis in self._axes:
            value = params[axis.key]
            put(config, axis.key, axis.choices.get(value, value))
        return Run(name, config)

    def outcomes(self, report):
        """The Outcome of each trial that has begun; the best one is reported."""
        found, best, ended = [], None, threading.Event()
        ended.set()  # nothing is trained where the workdir of a trial is gone
        how: dict[str, Any] = {"stop": ended, "report": lambda line: None}
        for name, trial in self._by_name().items():
            outcome = Outcome(name, runner.STOPPED, str(self._folder / name))
            if trial.state == self._states.COMPLETE:
                run = self._run_of(name, trial.params)
                outcome = runner.run_one(run, self._folder, **how)
                if outcome.status == runner.STOPPED:
                    outcome = outcome._replace(status=runner.DONE)
                best = max(best or trial, trial, key=lambda trial: trial.value)
            elif trial.state == self._states.PRUNED:
                outcome = outcome._replace(status=PRUNED)
            outcome = self._failures.get(name, outcome)
            message = f"{self._words(trial)} {outcome.message}".rstrip()
            found.append(outcome._replace(message=message))
        if best is not None:
            report(
                f"best: {best.user_attrs[NAME]}, validation bound {best.value:.2f}, "
                f"{self._words(best)}"
            )
        return found

    def _words(self, trial):
        params = trial.params  # none yet of one that is to be done again
        values = [(a.key, params[a.key]) for a in self._axes if params]
        return " ".join(
            f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in values
        )


def _open_study(optuna, path):
    """Optuna's study in a journal, without the half of a line that a kill left there:
    Optuna reads over it, and would write on behind it."""
    if path.exists():
        with open(path, "r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    with readable(path, f"`folder` must hold an intact {JOURNAL}"):
        file = optuna.storages.journal.JournalFileBackend(str(path))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(file),
            pruner=optuna.pruners.MedianPruner(),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
        )


def _distribution(optuna, axis):
    if axis.choices:
        return optuna.distributions.CategoricalDistribution(list(axis.choices))
    kinds = {
        int: optuna.distributions.IntDistribution,
        float: optuna.distributions.FloatDistribution,
    }
    return kinds[type(axis.low)](axis.low, axis.high, log=axis.log)


class Watch(threading.Event):
    """The stop event of a trial: set by another one, or once the trial is hopeless.

    Args:
      trial: optuna.Trial, told of each epoch's validation bound.
      workdir: of its run.
      stop: the other one.
      num_ignored: its first epochs, in which it is never hopeless.
    """

    def __init__(
        self, trial: Any, workdir: Workdir, stop: threading.Event, num_ignored: int
    ) -> None:
        super().__init__()
        self._trial, self._workdir, self._stop = trial, workdir, stop
        self._num_seen, self._num_ignored = 0, num_ignored
        self.bound, self.is_hopeless = -math.inf, False

    def is_set(self) -> bool:
        self.look()
        return self.is_hopeless or self._stop.is_set()

    def look(self) -> None:
        """Reports epochs that were not seen yet: they may show that it is hopeless."""
        for row in self._workdir.read_metrics()[self._num_seen :]:
            bound, epoch = float(row["val_bound"]), int(row["epoch"])
            # Optuna takes no NaN: the trial would be done again by each call.
            self.bound = bound if math.isfinite(bound) else -math.inf
            if math.isfinite(bound):
                self._trial.report(bound, epoch)
            if epoch > self._num_ignored:
                self.is_hopeless |= self._trial.should_prune()
            self._num_seen += 1
