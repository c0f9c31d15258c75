"""Figures of a study's report, from what its runs leave behind."""

import itertools
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from iwae_tf.io.files import write_atomically
from iwae_tf.plots import comparisons
from iwae_tf.runs.workdir import Workdir, read_json
from iwae_tf.studies import times as study_times
from iwae_tf.studies.cells import Cell

FILE = "figure.png"
PICTURES = "pictures"  # folder in that of the study


def draw(name: str, cells: Sequence[Cell], folder: pathlib.Path) -> None:
    """Draws the figure of a study, where it has one.

    Args:
      name: of the study.
      cells: list of studies.Cell, one of them finished.
      folder: pathlib.Path of the runs' workdirs, and of the figure.
    """
    if name in FIGURES:
        FIGURES[name](folder / FILE, cells, folder)


def take_pictures(
    kinds: Iterable[str], cells: Sequence[Cell], folder: pathlib.Path
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Figures of the runs, copied beside the report, which outlives the runs.

    Returns:
      list of (kind, list of (label of a cell, path from the folder)).
    """
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in kinds}
    for kind, cell in itertools.product(kinds, cells):
        source = Workdir(folder / cell.name).figures / f"{kind}.png"
        path = f"{PICTURES}/{cell.name}_{kind}.png"
        if source.is_file():
            (folder / PICTURES).mkdir(exist_ok=True)
            _copy(source, folder / path)
        if (folder / path).is_file():
            found[kind].append((cell.label, path))
    return [(kind, pictures) for kind, pictures in found.items() if pictures]


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write(content))


def _draw_grid(path: pathlib.Path, cells: Sequence[Cell], folder: pathlib.Path) -> None:
    """Bounds against M, mean over the seeds, and the published ones."""
    measured: dict[str, dict[int, list[tuple[float, float]]]] = {}
    published: dict[str, set[tuple[float, ...]]] = {}
    for cell, workdir in study_times.finished(cells, folder):
        model, groups = cell.config.model.upper(), cell.config.num_groups
        run = read_json(workdir.results)
        point = (-run["nll"], run["iwae"])
        measured.setdefault(model, {}).setdefault(groups, []).append(point)
        if cell.published is not None and cell.published.iwae is not None:
            theirs = (groups, -cell.published.nll, cell.published.iwae)
            published.setdefault(model, set()).add(theirs)
    means = {
        model: [(m, *np.mean(points, axis=0)) for m, points in by_groups.items()]
        for model, by_groups in measured.items()
    }
    known = {model: published.get(model, set()) for model in measured}
    comparisons.bounds_by_groups(path, means, known)


def _draw_estimators(
    path: pathlib.Path, cells: Sequence[Cell], folder: pathlib.Path
) -> None:
    """Validation bounds of the first seed against epochs and against time."""
    comparisons.bounds_by_time(path, study_times.histories(cells, folder))


FIGURES = {"rainforth_grid": _draw_grid, "estimators": _draw_estimators}
