"""Reports of studies: what was measured beside what was published.

Everything is read from the `results.json` and `metrics.csv` of finished runs, so that a
report can be made again from them alone.
"""

import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import markdown
import numpy as np

from iwae_tf import study_figures, study_plots, study_times
from iwae_tf.config import plainest
from iwae_tf.errors import InvalidInputError
from iwae_tf.files import write_atomically, write_json
from iwae_tf.published import EPOCHS, Published
from iwae_tf.studies import STUDIES, Cell, Protocol
from iwae_tf.workdir import (
    Workdir,
    as_json,
    config_from,
    different_keys,
    read_json,
)

CHART, REPORT = "nll.png", "report.json"
OBJECTIVE = ("model", "num_groups", "num_samples", "beta", "gradient_estimator")
BETWEEN_SEEDS = 0.3  # nats by which runs of one config were seen to differ
NOTES = """NLL: minus log p(x) of the test set in nats, lower is better, and its error
of importance sampling alone, by the jackknife; "images" is the standard error of the
finite test set, which all cells share. IWAE bound: of all M * K draws. -KL: that bound
minus log p(x), as in Rainforth et al. Seconds: training and evaluation."""
SEEDS = """Of several seeds the numbers are means, and the NLL is followed by the
standard deviation between them."""
TIMES = """Minutes: of training, by steps that were timed in turn, so that whatever else
the machine did slowed all alike; those of the figure too. A slower estimator has done
less of its epochs when the fastest one ends, and its learning rate is not down by then,
which counts against it: a run of as many epochs as fit ends between the two figures."""
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .2em .7em; text-align: right }
th { border-bottom: 2px solid #333 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }
"""


class Row(NamedTuple):
    """A cell of a study over its finished seeds; numbers are means over them."""

    label: str
    published: Published | None
    seeds: list
    nll: float | None = None
    error: float | None = None  # of importance sampling, by the jackknife
    data_standard_error: float | None = None  # of the images
    seed_deviation: float | None = None  # between seeds, where there are several
    iwae: float | None = None  # the bound of all M * K draws
    active_units: str = ""
    seconds: float | None = None
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

    Args:
      cells: list of studies.Cell.
      folder: path of the runs' workdirs.

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
    different = different_keys(ours, theirs)
    if different:
        key = different[0]
        raise InvalidInputError(
            "`workdir` must hold runs of this study, budget and data set. Received: "
            f"{path.parent}, whose {key} is {theirs[key]!r}, not {ours[key]!r}"
        )
    return run


def _row(cell: Cell, runs: Sequence[dict[str, Any]]) -> Row:
    label, published = cell.label, cell.published
    seeds = [run["config"]["seed"] for run in runs]
    if not runs:
        return Row(label, published, seeds)

    def mean(name):
        values = [run[name] for run in runs if run.get(name) is not None]
        return float(np.mean(values)) if values else None

    errors = [run["jackknife_error"] or math.nan for run in runs]
    nlls = [run["nll"] for run in runs]
    units = np.mean([run["active_units"] for run in runs], axis=0)
    return Row(
        label,
        published,
        seeds,
        nll=float(np.mean(nlls)),
        error=float(np.sqrt(np.sum(np.square(errors))) / len(runs)),
        data_standard_error=mean("data_standard_error"),
        seed_deviation=float(np.std(nlls, ddof=1)) if len(runs) > 1 else None,
        iwae=mean("iwae"),
        active_units="+".join(f"{count:.3g}" for count in units),
        seconds=mean("seconds"),
        trained_as=_trained_as(cell, runs[0]["config"]),
    )


def _trained_as(cell: Cell, theirs: dict[str, Any]) -> str:
    """By which name a run of the cell's objective was trained; "" by the cell's own."""
    keys = different_keys(as_json(cell.config), theirs)
    shown = [f"{key} = {theirs[key]}" for key in OBJECTIVE if key in keys]
    return ", ".join(shown)


def to_markdown(
    name: str,
    protocol: Protocol,
    rows: Sequence[Row],
    runs: Sequence[dict[str, Any]],
    pictures: Iterable[tuple[str, Sequence[tuple[str, str]]]] = (),
    times: Sequence[study_times.Comparison] = (),
) -> str:
    """The report of a study of training runs as Markdown.

    Args:
      name: of the study.
      protocol: studies.Protocol.
      rows: list of Row.
      runs: list of dicts, the `results.json` of its runs.
      pictures: list of (name, list of (label of a cell, path)).
      times: list of study_times.Comparison.
    """
    study = STUDIES[name]
    done = sum(row.nll is not None for row in rows)
    parts = [
        f"# {study.title}",
        f"Study `{name}`, budget `{protocol.budget}`, data set `{protocol.dataset}`: "
        f"{_progress(rows)}. Published figures: {study.source}.",
        _table(rows),
        f"![NLL of each cell]({CHART})" if done else "",
        f"![{study.title}]({study_figures.FILE})"
        if done and name in study_figures.FIGURES
        else "",
        NOTES if done else "",
        SEEDS if any(row.seed_deviation is not None for row in rows) else "",
        _equal(rows),
        _sequels(rows),
        _order(rows),
        _behind(rows, runs),
        _at_equal_time(times),
        *(_side_by_side(*kind) for kind in pictures),
        _protocol(runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _progress(rows: Sequence[Row]) -> str:
    """How many cells have a finished seed, and in how many runs if that says more."""
    done = sum(row.nll is not None for row in rows)
    runs = sum(len(row.seeds) for row in rows)
    text = f"{done} of {len(rows)} cells are done"
    return text if runs == done else f"{text}, in {runs} runs"


def _side_by_side(kind: str, pictures: Sequence[tuple[str, str]]) -> str:
    """One kind of picture of several cells, as a table."""
    labels, paths = zip(*pictures)
    cells = [f"![{kind} of {label}]({path})" for label, path in pictures]
    title = kind.replace("_", " ").capitalize()
    return f"## {title}\n\n{_markdown_table(labels, [cells], num_words=len(labels))}"


def _table(rows: Sequence[Row]) -> str:
    head = (
        "cell",
        "NLL",
        "images",
        "published",
        "better by",
        "active units",
        "published",
        "IWAE bound",
        "published",
        "-KL",
        "seeds",
        "seconds",
    )
    lines = []
    for row in rows:
        theirs = row.published
        gap = None
        if row.iwae is not None and row.nll is not None:
            gap = row.iwae + row.nll
        error = _number(row.error, 3)
        if row.seed_deviation is not None:
            error += f", seeds {row.seed_deviation:.2f}"
        lines.append(
            [
                row.label,
                f"{row.nll:.2f} (+- {error})" if row.nll is not None else "not yet",
                _number(row.data_standard_error, 2),
                _number(theirs and theirs.nll, 2),
                "" if row.difference is None else f"{row.difference:+.2f}",
                row.active_units,
                theirs.active_units if theirs else "",
                _number(row.iwae, 2),
                _number(theirs and theirs.iwae, 2),
                _number(gap, 2),
                ", ".join(map(str, row.seeds)),
                _number(row.seconds, 0),
            ]
        )
    used = [i for i in range(len(head)) if i < 2 or any(line[i] for line in lines)]
    return _markdown_table(
        [head[i] for i in used], [[line[i] for i in used] for line in lines]
    )


def _markdown_table(
    head: Sequence[str], lines: Iterable[Sequence[str]], *, num_words: int = 1
) -> str:
    """A table whose first columns are words; the others are numbers, to the right."""
    rule = ["---"] * num_words + ["---:"] * (len(head) - num_words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _order(rows: Sequence[Row]) -> str:
    """Whether cells come in the order of the published table."""
    known = [
        (row.published.nll, row.nll, row.label)
        for row in rows
        if row.published is not None and row.nll is not None
    ]
    pairs = [
        (better, worse)
        for better, worse in itertools.combinations(sorted(known), 2)
        if worse[0] - better[0] > BETWEEN_SEEDS
    ]
    if not pairs:
        return ""
    turned = [
        f"{worse[2]} before {better[2]}"
        for better, worse in pairs
        if worse[1] <= better[1]
    ]
    text = (
        "Of the pairs of cells that the published figures hold more than "
        f"{BETWEEN_SEEDS} nats apart, {len(pairs) - len(turned)} of {len(pairs)} are "
        "in the same order here"
    )
    return f"{text}; not {', '.join(turned)}." if turned else f"{text}."


def _equal(rows: Sequence[Row]) -> str:
    """Which cells are the run of an equal objective under another name."""
    equal = [f"{row.label} ({row.trained_as})" for row in rows if row.trained_as]
    if not equal:
        return ""
    return f"Equal objectives are trained once, under one name: {'; '.join(equal)}."


def _sequels(rows: Sequence[Row]) -> str:
    """Which cells start from the weights of others."""
    sequels = [
        f"{row.label} starts from the weights of {row.starts_from}"
        for row in rows
        if row.starts_from and row.nll is not None
    ]
    if not sequels:
        return ""
    return f"{'; '.join(sequels)}: epochs and seconds are those that were added."


def _behind(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> str:
    """Which cells are worse than what was published, and how long each trained."""
    behind = [
        f"{row.label} ({-row.difference:.2f})"
        for row in rows
        if row.difference is not None and row.difference < 0
    ]
    if not behind:
        return ""
    listed = ", ".join(behind)
    epochs = max(run["config"]["epochs"] for run in runs)
    text = f"Behind the published figure, in nats: {listed}."
    if epochs < EPOCHS:
        text += f" The published runs took {EPOCHS:,} epochs, these at most {epochs}."
    return text


def _at_equal_time(times: Sequence[study_times.Comparison]) -> str:
    """What the estimators of a bound reach by the time that the fastest one ends."""
    if not times:
        return ""
    head = (
        "bound",
        "estimator",
        "minutes",
        "in those of the first",
        "validation bound, all epochs",
        "in the fastest one's time",
        "epochs by then",
    )
    lines = [
        [
            row.bound,
            row.estimator,
            _number(row.seconds / 60, 1),
            _number(row.ratio, 2),
            _number(row.value, 2),
            _number(row.value_by_then, 2),
            str(row.epochs),
        ]
        for row in times
    ]
    table = _markdown_table(head, lines, num_words=2)
    return "\n\n".join(["## At equal time", table, TIMES])


def _protocol(runs: Sequence[dict[str, Any]]) -> str:
    """What the runs have in common: data, draws, schedule, libraries."""
    if not runs:
        return ""
    first = runs[0]
    config = first["config"]
    shown = {
        "optimizer": config["optimizer"],
        "gradient estimator": _common(runs, "gradient_estimator"),
        "batch size": config["batch_size"],
        "stages (draws, epochs, first and last rate)": _common(runs, "stages"),
        "epochs": _common(runs, "epochs"),
        "training binarization": config["binarization"],
        "test set": f"{first['num_examples']} images, {first['num_samples']} samples, "
        f"binarized once from seed {config['eval_seed']}",
        "test images, SHA-256": first.get("data_sha256", ""),
        "libraries": ", ".join(f"{n} {v}" for n, v in first["versions"].items()),
    }
    lines = [f"- {name}: {value}" for name, value in shown.items() if value]
    return "\n".join(["## Protocol", "", *lines])


def _common(runs: Sequence[dict[str, Any]], key: str) -> Any:
    """The value of a config key, or that it differs between cells."""
    values = {repr(run["config"][key]) for run in runs}
    if len(values) == 1:
        return runs[0]["config"][key]
    return "by cell, see its config.json"


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
        study_plots.nll_by_cell(
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
    body = markdown.markdown(text, extensions=["tables"])
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{STUDIES[name].title}</title><style>{STYLE}</style>{body}</html>\n"
    )
    write_atomically(folder / "report.md", lambda file: file.write(text.encode()))
    write_atomically(folder / "report.html", lambda file: file.write(page.encode()))
    write_json(folder / REPORT, _head(name, protocol) | content)


def _head(name: str, protocol: Protocol) -> dict[str, str]:
    """What `report.json` says of which report it is."""
    return {"study": name, "budget": protocol.budget, "dataset": protocol.dataset}
