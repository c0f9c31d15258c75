"""Figures of a study's report, from what its runs leave behind."""

import csv
import itertools

import numpy as np

from iwae_tf import study_plots
from iwae_tf.files import write_atomically
from iwae_tf.workdir import Workdir, read_json

FILE = "figure.png"
PICTURES = "pictures"  # folder in that of the study


def draw(name, cells, folder):
    """Draws the figure of a study, where it has one.

    Args:
      name: of the study.
      cells: list of studies.Cell, one of them finished.
      folder: pathlib.Path of the runs' workdirs, and of the figure.
    """
    if name in FIGURES:
        FIGURES[name](folder / FILE, cells, folder)


def take_pictures(kinds, cells, folder):
    """Figures of the runs, copied beside the report, which outlives the runs.

    Returns:
      list of (kind, list of (label of a cell, path from the folder)).
    """
    found = {kind: [] for kind in kinds}
    for kind, cell in itertools.product(kinds, cells):
        source = Workdir(folder / cell.name).figures / f"{kind}.png"
        path = f"{PICTURES}/{cell.name}_{kind}.png"
        if source.is_file():
            (folder / PICTURES).mkdir(exist_ok=True)
            content = source.read_bytes()
            write_atomically(folder / path, lambda file, data=content: file.write(data))
        if (folder / path).is_file():
            found[kind].append((cell.label, path))
    return [(kind, pictures) for kind, pictures in found.items() if pictures]


def _finished(cells, folder):
    """(cell, Workdir) of those that are done."""
    workdirs = [(cell, Workdir(folder / cell.name)) for cell in cells]
    return [(cell, workdir) for cell, workdir in workdirs if workdir.results.is_file()]


def _draw_grid(path, cells, folder):
    """Bounds against M, mean over the seeds, and the published ones."""
    measured, published = {}, {}
    for cell, workdir in _finished(cells, folder):
        model, groups = cell.config.model.upper(), cell.config.num_groups
        run = read_json(workdir.results)
        point = (-run["nll"], run["iwae"])
        measured.setdefault(model, {}).setdefault(groups, []).append(point)
        if cell.published is not None:
            point = (groups, -cell.published.nll, cell.published.iwae)
            published.setdefault(model, set()).add(point)
    measured = {
        model: [(m, *np.mean(points, axis=0)) for m, points in by_groups.items()]
        for model, by_groups in measured.items()
    }
    published = {model: published.get(model, ()) for model in measured}
    study_plots.bounds_by_groups(path, measured, published)


def _draw_estimators(path, cells, folder):
    """Validation bounds of the first seed against epochs and against time."""
    histories = {}
    for cell, workdir in _finished(cells, folder):
        bound, estimator = cell.config.model.upper(), cell.config.gradient_estimator
        with open(workdir.metrics, newline="") as file:
            rows = list(csv.DictReader(file))
        columns = [
            [float(row[k]) for row in rows] for k in ("epoch", "seconds", "val_bound")
        ]
        histories.setdefault(bound, {}).setdefault(estimator, columns)
    study_plots.bounds_by_time(path, histories)


FIGURES = {"rainforth_grid": _draw_grid, "estimators": _draw_estimators}
