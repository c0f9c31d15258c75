"""Rows of a study's table: each cell over the runs of it that are finished."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from iwae_tf.config import plainest
from iwae_tf.config.files import (
    as_json,
    check_same,
    config_from,
    different_keys,
    read_json,
)
from iwae_tf.errors import InvalidInputError
from iwae_tf.runs.workdir import Workdir
from iwae_tf.studies.cells import Cell
from iwae_tf.studies.published import Published

REFERENCE_GFLOPS = 150  # of two cores
OBJECTIVE = ("model", "num_groups", "num_samples", "beta", "gradient_estimator")


class Row(NamedTuple):
    """A cell of a study over its finished seeds; numbers are means over them."""

    label: str
    published: Published | None
    seeds: list
    nll: float | None = None
    nlls: Sequence[float] = ()  # of each seed
    error: float | None = None  # of importance sampling, by the jackknife
    data_standard_error: float | None = None  # of the images
    seed_deviation: float | None = None  # between seeds, where there are several
    refined_nll: float | None = None  # by proposals fitted to each image
    iwae: float | None = None  # the bound of all M * K draws
    active_units: str = ""
    seconds: float | None = None
    gflops: float | None = None  # of matrix products where it was trained
    training_minutes: float | None = None  # of a machine of `REFERENCE_GFLOPS`
    trained_as: str = ""  # what the config of the run says otherwise than the cell's
    starts_from: str = ""  # label of the cell whose weights were the first

    @property
    def difference(self) -> float | None:
        """Published minus measured NLL: positive where ours is better; or None."""
        if self.published is None or self.nll is None:
            return None
        return self.published.nll - self.nll


def collect(
    cells: Sequence[Cell], folder: str | os.PathLike[str]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of a study from the runs in a folder.

    Returns:
      (list of Row, one a label, list of the results.json that were found).

    Raises:
      InvalidInputError: results of something else than the cell whose name they have.
    """
    found: dict[str, tuple[Cell, list[dict[str, Any]]]] = {}
    for cell in cells:
        path = Workdir(pathlib.Path(folder) / cell.name).results
        runs = found.setdefault(cell.label, (cell, []))[1]
        if path.is_file():
            runs.append(_read_run(cell, path))
    labels = {cell.name: cell.label for cell in cells}
    rows = [
        _row(cell, runs)._replace(starts_from=labels.get(cell.after or "", ""))
        for cell, runs in found.values()
    ]
    return rows, [run for _, runs in found.values() for run in runs]


def _read_run(cell: Cell, path: pathlib.Path) -> dict[str, Any]:
    """The results of a cell, whose objective may have been trained by another name."""
    run = read_json(path)
    values = run.get("config")
    if not isinstance(values, dict):
        raise InvalidInputError(f"`{path.name}` must be of a run. Received: {path}")
    ours, theirs = (
        as_json(plainest(config)) for config in (cell.config, config_from(values, path))
    )
    rule = "hold runs of this study, budget and data set"
    check_same(ours, theirs, rule, path.parent)
    return run


def _row(cell: Cell, runs: Sequence[dict[str, Any]]) -> Row:
    label, published = cell.label, cell.published
    seeds = [run["config"]["seed"] for run in runs]
    if not runs:
        return Row(label, published, seeds)

    def mean(name):
        values = [run[name] for run in runs if run.get(name) is not None]
        return float(np.mean(values)) if len(values) == len(runs) else None

    errors = [run["jackknife_error"] or math.nan for run in runs]
    nlls = [run["nll"] for run in runs]
    units = np.mean([run["active_units"] for run in runs], axis=0)
    return Row(
        label,
        published,
        seeds,
        nll=float(np.mean(nlls)),
        nlls=nlls,
        error=float(np.sqrt(np.sum(np.square(errors))) / len(runs)),
        data_standard_error=mean("data_standard_error"),
        seed_deviation=float(np.std(nlls, ddof=1)) if len(runs) > 1 else None,
        refined_nll=mean("refined_nll"),
        iwae=mean("iwae"),
        active_units="+".join(f"{count:.3g}" for count in units),
        seconds=mean("seconds"),
        gflops=mean("product_gflops"),
        training_minutes=_minutes(runs),
        trained_as=_trained_as(cell, runs[0]["config"]),
    )


def _minutes(runs):
    """What training would take at REFERENCE_GFLOPS; None where rates are not known."""
    if any("product_gflops" not in run for run in runs):
        return None
    work = [run["training_seconds"] * run["product_gflops"] for run in runs]
    return float(np.mean(work)) / REFERENCE_GFLOPS / 60


def _trained_as(cell: Cell, theirs: dict[str, Any]) -> str:
    """By which name a run of the cell's objective was trained; "" by the cell's own."""
    keys = different_keys(as_json(cell.config), theirs)
    shown = [f"{key} = {theirs[key]}" for key in OBJECTIVE if key in keys]
    return ", ".join(shown)
