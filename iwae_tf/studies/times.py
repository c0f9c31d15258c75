"""Times of training steps, and what estimators reach in equal steps and equal time."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from iwae_tf import datasets
from iwae_tf.config import set_draws, stages
from iwae_tf.config.data import data_options
from iwae_tf.config.files import read_json
from iwae_tf.io.files import write_json
from iwae_tf.models.programs import steps_per_call
from iwae_tf.runs.splits import load_examples
from iwae_tf.runs.training import compiled_model
from iwae_tf.runs.workdir import Workdir
from iwae_tf.studies.cells import Cell
from iwae_tf.versions import library_versions

LEAST_STEPS = 10  # of a timed `fit`
CALLS = 3  # of the train function in it, of which the first is not timed
FILE = "step_times.json"


class StepClock(keras.callbacks.Callback):
    """Times the steps of `fit` from the end of its first call of the train function on.

    What `fit` does once, such as building its input pipeline, does not count: it takes
    as long for an epoch of a thousand times the steps.
    """

    counts_batches = True  # lets the package's models take many steps a call

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.ends: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.ends.append((batch + 1, time.perf_counter()))

    def seconds_a_step(self, steps: int) -> float:
        """Of a `fit` of `steps` steps in all, which took two calls at least."""
        if len(self.ends) < 2:
            raise ValueError(f"{steps} steps in one call: there is nothing to time")
        (first, start), (last, end) = self.ends[0], self.ends[-1]
        return (end - start) / (min(last, steps) - first)


def timed_fit(
    model: keras.Model, data: Any, steps: int, batch_size: int | None = None
) -> Callable[[], float]:
    """`fit` as a function without arguments that returns the seconds of a step.

    Args:
      model: a compiled keras.Model. It has been trained once when this returns, so
        that its programs are compiled.
      data: of `fit`, an array or tf.data.Dataset of one epoch.
      steps: int, in that epoch; two calls of the train function at least.
      batch_size: int, of an array.
    """
    clock = StepClock()

    def run():
        model.fit(data, batch_size=batch_size, verbose=0, callbacks=[clock])
        return clock.seconds_a_step(steps)

    run()
    return run


def _fit_of(config):
    """The `timed_fit` of a config, on random images of the data set's shape."""
    rows = config.batch_size * config.num_groups * config.num_samples
    steps = max(LEAST_STEPS, CALLS * steps_per_call(rows))
    event_shape = datasets.event_shape(config.dataset, **data_options(config))
    shape = (steps * config.batch_size, *event_shape)
    images = np.random.default_rng(0).random(shape, np.float32)
    model = compiled_model(config, images, steps)
    set_draws(model, config)
    return timed_fit(model, images, steps, config.batch_size)


class History(NamedTuple):
    """How a run went, by epoch."""

    epochs: list[int]  # 1, 2, ...
    seconds: list[float]  # of training, since its start
    bounds: list[float]  # of the validation images, in nats


class Comparison(NamedTuple):
    """A run beside those of the other estimators of its bound."""

    bound: str
    estimator: str
    seconds: float  # of all its training steps
    ratio: float  # of that to the seconds of the bound's first estimator
    value: float  # the validation bound at its end, in nats
    epochs: int  # that it does in the time of the fastest one
    value_by_then: float | None  # None: not one


def finished(cells: Sequence[Cell], folder: pathlib.Path) -> list[tuple[Cell, Workdir]]:
    """(cell, Workdir) of those that are done."""
    workdirs = [(cell, Workdir(folder / cell.name)) for cell in cells]
    return [(cell, workdir) for cell, workdir in workdirs if workdir.results.is_file()]


def of_first_seed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the first seed, one of each label."""
    return [cell for cell in cells if cell.config.seed == cells[0].config.seed]


def left_to_measure(cells: Sequence[Cell], folder: pathlib.Path) -> list[Cell]:
    """What `measure_cells` is due for: the first seed's cells, all finished."""
    first = of_first_seed(cells)
    is_due = len(finished(first, folder)) == len(first)
    return first if is_due and not (folder / FILE).is_file() else []


def measure_cells(
    cells: Sequence[Cell], folder: pathlib.Path, *, num_rounds: int = 7
) -> None:
    """Times the steps of each stage of all cells in turn; writes `step_times.json`.

    That holds the steps of an epoch, and by bound and estimator the seconds of a step,
    [stages, num_rounds]. All are timed once a round, so that whatever slows the machine
    for a while slows all alike. The cells are of one data set; their seeds make no
    difference.
    """
    configs = {}
    for cell in cells:
        for index, stage in enumerate(stages(cell.config)):
            config = cell.config.copy_and_resolve_references()
            config.num_groups, config.num_samples = stage.num_groups, stage.num_samples
            config.stages, config.epochs = (stage,), stage.epochs
            configs[_bound(cell), _estimator(cell), index] = config
    fits = {name: _fit_of(config) for name, config in configs.items()}
    rounds = [[fit() for fit in fits.values()] for _ in range(num_rounds)]
    by_bound: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for (bound, estimator, _), seconds in zip(fits, zip(*rounds)):
        by_bound.setdefault(bound, {}).setdefault(estimator, []).append(seconds)
    config = cells[0].config
    steps = datasets.num_batches(
        len(load_examples(config, "train").images), config.batch_size
    )
    result = {
        "steps_per_epoch": steps,
        "seconds": by_bound,
        "versions": library_versions(),
    }
    write_json(folder / FILE, result)


def histories(
    cells: Sequence[Cell], folder: pathlib.Path
) -> dict[str, dict[str, History]]:
    """How the finished runs of a study went, of each cell the first seed.

    The seconds are those of timed steps where there is a `step_times.json`, and of the
    run itself where there is none: a run may have been slowed by whatever else its
    machine did, each by something else, so that only steps that were timed in turn tell
    which estimator is faster.

    Returns:
      dict of bound to dict of estimator to History.
    """
    timed = _timed(folder)
    found: dict[str, dict[str, History]] = {}
    for cell, workdir in finished(cells, folder):
        rows = workdir.read_metrics()
        seconds = [float(row["seconds"]) for row in rows]
        if timed:
            seconds = np.median(_seconds_by_epoch(timed, cell), axis=1).tolist()
        history = History(
            [int(row["epoch"]) for row in rows],
            seconds,
            [float(row["val_bound"]) for row in rows],
        )
        found.setdefault(_bound(cell), {}).setdefault(_estimator(cell), history)
    return found


def at_equal_time(cells: Sequence[Cell], folder: pathlib.Path) -> list[Comparison]:
    """Compares the finished runs of each bound, where their steps have been timed.

    Of the cells those of the first seed are compared.

    Returns:
      list of Comparison, in the order of the cells; empty without `step_times.json`.
    """
    timed = _timed(folder)
    if not timed:
        return []
    cells = of_first_seed(cells)
    totals = {
        (_bound(cell), _estimator(cell)): _seconds_by_epoch(timed, cell)[-1]
        for cell, _ in finished(cells, folder)
    }
    rows = []
    for bound, runs in histories(cells, folder).items():
        first = totals[bound, next(iter(runs))]
        fastest = min(run.seconds[-1] for run in runs.values())
        for estimator, run in runs.items():
            epochs = int(np.sum(np.asarray(run.seconds) <= fastest))
            rows.append(
                Comparison(
                    bound,
                    estimator,
                    seconds=run.seconds[-1],
                    ratio=float(np.median(totals[bound, estimator] / first)),
                    value=run.bounds[-1],
                    epochs=epochs,
                    value_by_then=run.bounds[epochs - 1] if epochs else None,
                )
            )
    return rows


def _timed(folder):
    """What `measure_cells` has written, or None."""
    path = folder / FILE
    return read_json(path) if path.is_file() else None


def _seconds_by_epoch(timed, cell):
    """Seconds of training until each epoch's end, by each round: [epochs, rounds]."""
    by_stage = np.asarray(timed["seconds"][_bound(cell)][_estimator(cell)], float)
    by_stage *= timed["steps_per_epoch"]
    epochs = [stage.epochs for stage in stages(cell.config)]
    return np.cumsum(np.repeat(by_stage, epochs, axis=0), axis=0)


def _bound(cell):
    return cell.config.model.upper()


def _estimator(cell):
    return cell.config.gradient_estimator
