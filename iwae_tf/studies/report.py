"""Reports of studies: what was measured beside what was published.

Everything is read from the `results.json` and `metrics.csv` of finished runs, so that a
report can be made again from them alone.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from iwae_tf.errors import InvalidInputError
from iwae_tf.io import html
from iwae_tf.io.files import write_atomically, write_json
from iwae_tf.plots import comparisons
from iwae_tf.runs.workdir import read_json
from iwae_tf.studies import figures as study_figures
from iwae_tf.studies import times as study_times
from iwae_tf.studies.cells import STUDIES, Cell, Protocol
from iwae_tf.studies.markdown import CHART, to_markdown
from iwae_tf.studies.rows import Row, collect

REPORT = "report.json"


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

    Args:
      name: of the study, one with cells.
      protocol: studies.Protocol.
      cells: list of studies.Cell.
      folder: path of the runs' workdirs.

    Returns:
      list of Row.
    """
    folder = pathlib.Path(folder)
    rows, runs = collect(cells, folder)
    done = [(row, row.nll) for row in rows if row.nll is not None]
    if done:
        comparisons.nll_by_cell(
            folder / CHART,
            [row.label for row, _ in done],
            [nll for _, nll in done],
            [row.published and row.published.nll for row, _ in done],
        )
        study_figures.draw(name, cells, folder)
    pictures = study_figures.take_pictures(STUDIES[name].pictures, cells, folder)
    times = study_times.at_equal_time(cells, folder)
    text = to_markdown(name, protocol, rows, runs, pictures, times)
    table = [
        row._asdict() | {"published": row.published and row.published._asdict()}
        for row in rows
    ]
    seeds = list(dict.fromkeys(cell.config.seed for cell in cells))
    content: dict[str, Any] = {"seeds": seeds, "rows": table}
    if times:
        content["at_equal_time"] = [row._asdict() for row in times]
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
      name: of the study.
      protocol: studies.Protocol.
      folder: path.
      sentences: list of str, what was found.
      figures: list of (file name, caption).
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
    write_atomically(folder / "report.md", lambda file: file.write(text.encode()))
    html.write_page(folder / "report.html", STUDIES[name].title, text)
    write_json(folder / REPORT, _head(name, protocol) | content)


def _head(name: str, protocol: Protocol) -> dict[str, str]:
    """What `report.json` says of which report it is."""
    return {"study": name, "budget": protocol.budget, "dataset": protocol.dataset}
