"""Reports of studies: what was measured beside what was published.

Everything is read from the `results.json` and `metrics.csv` of finished runs, so that a
report can be made again from them alone.
"""

import functools
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from iwae_tf.config.files import read_json
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import html
from iwae_tf.io.files import write_json, write_text, write_through
from iwae_tf.plots import comparisons
from iwae_tf.runs.workdir import Workdir
from iwae_tf.studies import times
from iwae_tf.studies.cells import STUDIES, Cell, Protocol
from iwae_tf.studies.markdown import to_markdown
from iwae_tf.studies.rows import Row, collect

REPORT = "report.json"
CHART, FIGURE = "nll.png", "figure.png"
PICTURES = "pictures"  # folder in that of the study


def check(
    name: str, protocol: Protocol, cells: Sequence[Cell], folder: str | os.PathLike[str]
) -> None:
    """Raises InvalidInputError where a folder holds something else; see `write`."""
    path = pathlib.Path(folder) / REPORT
    head, theirs = _head(name, protocol), read_json(path) if path.is_file() else {}
    for key, value in head.items():
        if theirs and theirs.get(key) != value:
            raise InvalidInputError(
                f"`workdir` must be new or hold this study. Received: {path}, whose "
                f"{key} is {theirs.get(key)!r}, not {value!r}"
            )
    collect(cells, folder)


def read_head(path: pathlib.Path) -> tuple[str, Protocol, list[int]] | None:
    """(study, Protocol, seeds) of a `report.json`; None where it is no study's."""
    try:
        kept = read_json(path)
    except InvalidInputError:
        return None
    head: list[Any] = [kept.get(key) for key in ("study", "budget", "dataset")]
    seeds = kept.get("seeds", [0])
    are_seeds = isinstance(seeds, list) and all(isinstance(s, int) for s in seeds)
    if not are_seeds or not all(isinstance(value, str) for value in head):
        return None
    return head[0], Protocol(*head[1:]), seeds


def write(
    name: str, protocol: Protocol, cells: Sequence[Cell], folder: str | os.PathLike[str]
) -> list[Row]:
    """Writes `report.md`, `report.html`, `report.json` and the chart into a folder.

    It is that of the runs' workdirs, and the study is one with cells.
    """
    folder = pathlib.Path(folder)
    rows, runs = collect(cells, folder)
    done = [(row, row.nll) for row in rows if row.nll is not None]
    figures = {}
    if done:
        figures["NLL of each cell"] = CHART
        comparisons.nll_by_cell(
            folder / CHART,
            [row.label for row, _ in done],
            [nll for _, nll in done],
            [row.published and row.published.nll for row, _ in done],
        )
        if name in FIGURES:
            figures[STUDIES[name].title] = FIGURE
            FIGURES[name](folder / FIGURE, cells, folder)
    pictures = take_pictures(STUDIES[name].pictures, cells, folder)
    compared = times.at_equal_time(cells, folder)
    text = to_markdown(name, protocol, rows, runs, figures, pictures, compared)
    table = [
        row._asdict() | {"published": row.published and row.published._asdict()}
        for row in rows
    ]
    seeds = list(dict.fromkeys(cell.config.seed for cell in cells))
    content: dict[str, Any] = {"seeds": seeds, "rows": table}
    if compared:
        content["at_equal_time"] = [row._asdict() for row in compared]
    _write(name, protocol, folder, text, content)
    return rows


def write_part(
    name: str,
    protocol: Protocol,
    folder: str | os.PathLike[str],
    sentences: Sequence[str],
    figures: Iterable[tuple[str, str]],
) -> None:
    """Writes the same files for a study that is a part of a diagnosis.

    Args:
      sentences: what was found.
      figures: of (file name, caption).
    """
    study = STUDIES[name]
    parts = [
        f"# {study.title}",
        f"Study `{name}`, budget `{protocol.budget}`. Published: {study.source}.",
        "\n".join(f"- {sentence}" for sentence in sentences),
        *(f"![{study.title}]({file})\n\n{caption}" for file, caption in figures),
        f"Numbers: `{study.part}.json`.",
    ]
    text = "\n\n".join(parts) + "\n"
    _write(name, protocol, pathlib.Path(folder), text, {"sentences": sentences})


def _write(
    name: str,
    protocol: Protocol,
    folder: pathlib.Path,
    text: str,
    content: dict[str, Any],
) -> None:
    """`report.md`, the same as a page, and what `content` adds to `report.json`."""
    write_text(folder / "report.md", text)
    html.write_page(folder / "report.html", STUDIES[name].title, text)
    write_json(folder / REPORT, _head(name, protocol) | content)


def _head(name: str, protocol: Protocol) -> dict[str, str]:
    """What `report.json` says of which report it is."""
    return {"study": name, "budget": protocol.budget, "dataset": protocol.dataset}


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
            write_through(folder / path, functools.partial(shutil.copyfile, source))
        if (folder / path).is_file():
            found[kind].append((cell.label, path))
    return [(kind, pictures) for kind, pictures in found.items() if pictures]


def _draw_grid(path: pathlib.Path, cells: Sequence[Cell], folder: pathlib.Path) -> None:
    """Bounds against M, mean over the seeds, and the published ones."""
    measured: dict[str, dict[int, list[tuple[float, float]]]] = {}
    published: dict[str, set[tuple[float, ...]]] = {}
    for cell, workdir in times.finished(cells, folder):
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
    comparisons.bounds_by_time(path, times.histories(cells, folder))


FIGURES = {"rainforth_grid": _draw_grid, "estimators": _draw_estimators}
