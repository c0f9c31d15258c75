"""What the estimators of a bound reach in equal steps and in equal time."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from iwae_tf import step_times
from iwae_tf.files import write_json
from iwae_tf.studies import Cell
from iwae_tf.versions import library_versions
from iwae_tf.workdir import Workdir, read_json

FILE = "step_times.json"


class History(NamedTuple):
    """How a run went, by epoch."""

    epochs: list[int]  # 1, 2, ...
    seconds: list[float]  # of training, since its start
    bounds: list[float]  # of the validation images, in nats


class Comparison(NamedTuple):
    """A run beside those of the other estimators of its bound."""

    bound: str
    estimator: str
    step: float  # seconds, the median
    ratio: float  # of that to the step of the bound's first estimator
    value: float  # the validation bound at its end, in nats
    epochs: int  # that it does in the time of the estimator with the fastest steps
    value_by_then: float | None  # None: not one


def histories(
    cells: Sequence[Cell], folder: pathlib.Path
) -> dict[str, dict[str, History]]:
    """How the finished runs of a study went, of each cell the first seed.

    Args:
      cells: list of studies.Cell.
      folder: pathlib.Path of their workdirs.

    Returns:
      dict of bound to dict of estimator to History.
    """
    found: dict[str, dict[str, History]] = {}
    for cell in cells:
        workdir = Workdir(folder / cell.name)
        if not workdir.results.is_file():
            continue
        with open(workdir.metrics, newline="") as file:
            rows = list(csv.DictReader(file))
        history = History(
            [int(row["epoch"]) for row in rows],
            [float(row["seconds"]) for row in rows],
            [float(row["val_bound"]) for row in rows],
        )
        found.setdefault(_bound(cell), {}).setdefault(_estimator(cell), history)
    return found


def measure(
    cells: Sequence[Cell], folder: pathlib.Path, *, num_rounds: int = 7
) -> dict[str, Any]:
    """Times the steps of all cells in turn and writes `step_times.json`.

    Args:
      cells: list of studies.Cell; their seeds make no difference.
      folder: pathlib.Path, of the study.
      num_rounds: positive int.

    Returns:
      dict, what was written: seconds a step of each round, by bound and estimator.
    """
    configs = {f"{_bound(cell)} {_estimator(cell)}": cell.config for cell in cells}
    seconds = step_times.measure(configs, num_rounds=num_rounds)
    by_bound: dict[str, dict[str, list[float]]] = {}
    for name, values in seconds.items():
        bound, estimator = name.split()
        by_bound.setdefault(bound, {})[estimator] = values
    result = {"seconds": by_bound, "versions": library_versions()}
    write_json(folder / FILE, result)
    return result


def at_equal_time(cells: Sequence[Cell], folder: pathlib.Path) -> list[Comparison]:
    """Compares the finished runs of each bound, where their steps have been timed.

    The runs themselves may have been slowed by whatever else their machine did, each by
    something else, so that only steps that were timed in turn tell which estimator is
    faster. A run's own seconds tell how many epochs are a share of its time.

    Args:
      cells: list of studies.Cell.
      folder: pathlib.Path of the study.

    Returns:
      list of Comparison, in the order of the cells; empty without `step_times.json`.
    """
    if not (folder / FILE).is_file():
        return []
    timed = read_json(folder / FILE)["seconds"]
    rows = []
    for bound, runs in histories(cells, folder).items():
        seconds = {name: np.asarray(timed[bound][name], float) for name in runs}
        first = next(iter(seconds.values()))
        ratios = {name: float(np.median(x / first)) for name, x in seconds.items()}
        for name, run in runs.items():
            share = min(ratios.values()) / ratios[name]
            done = int(np.sum(np.asarray(run.seconds) <= share * run.seconds[-1]))
            rows.append(
                Comparison(
                    bound,
                    name,
                    step=float(np.median(seconds[name])),
                    ratio=ratios[name],
                    value=run.bounds[-1],
                    epochs=done,
                    value_by_then=run.bounds[done - 1] if done else None,
                )
            )
    return rows


def _bound(cell):
    return cell.config.model.upper()


def _estimator(cell):
    return cell.config.gradient_estimator
