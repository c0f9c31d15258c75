"""What a report of a study says, as Markdown."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iwae_tf.config.files import settings_of
from iwae_tf.config.keys import NAMES
from iwae_tf.io import html
from iwae_tf.studies.cells import STUDIES, Protocol
from iwae_tf.studies.published import EPOCHS
from iwae_tf.studies.rows import REFERENCE_GFLOPS, Row
from iwae_tf.studies.times import Comparison

BETWEEN_SEEDS = 0.3  # nats by which runs of one config were seen to differ
NOTES = """NLL is minus log p(x) of the test set in nats; lower is better. "+- draws" is
its jackknife error from importance sampling. "+- images" is its standard error from the
finite test set, which all cells share. The IWAE bound uses all M * K draws. -KL is this
bound minus log p(x), as in Rainforth et al. Seconds include training and evaluation."""
REFINED = """The refined NLL comes from draws of proposals fitted to each image. Its
bias is smaller. The published figures come from draws of the encoder."""
MINUTES = f"""GFLOP/s is the rate of float32 matrix products on the machine of the run.
"training minutes" are what training would take at {REFERENCE_GFLOPS} GFLOP/s, the rate
of two cores, without the evaluation."""
SEEDS = """Numbers of several seeds are means; "+- seeds" is the standard deviation of
the NLL between seeds."""
TIMES = """Minutes are training time. The steps of the estimators were timed in turn, so
that other work on the machine slowed all of them equally. When the fastest estimator
ends, a slower one has done fewer epochs and its learning rate is still high. This
counts against it: a run planned for that time would end between the two bounds."""

SHOWN = {  # names of settings; of those in common the report states only these
    "optimizer": "optimizer",
    "gradient_estimator": "gradient estimator",
    "batch_size": "batch size",
    "backward_samples": "draws of each group that go backward",
    "stages": "stages (draws, epochs, first and last rate)",
    "epochs": "epochs",
    "binarization": "training binarization",
    "test set": "test set",
    "data_sha256": "test images, SHA-256",
}


def to_markdown(
    name: str,
    protocol: Protocol,
    rows: Sequence[Row],
    runs: Sequence[dict[str, Any]],
    figures: Mapping[str, str],
    pictures: Iterable[tuple[str, Sequence[tuple[str, str]]]] = (),
    times: Sequence[Comparison] = (),
) -> str:
    """The report of a study of training runs as Markdown.

    Args:
      runs: the `results.json` of its runs.
      figures: description to path.
      pictures: of (name, list of (label of a cell, path)).
    """
    study = STUDIES[name]
    done = sum(row.nll is not None for row in rows)
    parts = [
        f"# {study.title}",
        f"Study `{name}`, budget `{protocol.budget}`, data set `{protocol.dataset}`: "
        f"{_progress(rows)}. Published numbers: {study.source}.",
        _table(rows),
        *(f"![{words}]({path})" for words, path in figures.items()),
        NOTES if done else "",
        MINUTES if any(row.training_minutes is not None for row in rows) else "",
        REFINED if any(row.refined_nll is not None for row in rows) else "",
        SEEDS if any(row.seed_deviation is not None for row in rows) else "",
        _equal(rows),
        _sequels(rows),
        _order(rows),
        _by_seed(rows),
        _behind(rows, runs),
        _at_equal_time(times),
        *(_side_by_side(*kind) for kind in pictures),
        _protocol(rows, runs),
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
    return f"## {title}\n\n{html.table(labels, [cells], num_words=len(labels))}"


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        theirs = row.published
        gap = None
        if row.iwae is not None and row.nll is not None:
            gap = row.iwae + row.nll
        line = {
            "cell": row.label,
            "NLL": "not yet" if row.nll is None else f"{row.nll:.2f}",
            "+- draws": _number(row.error, 3),
            "+- images": _number(row.data_standard_error, 2),
            "+- seeds": _number(row.seed_deviation, 2),
            "refined NLL": _number(row.refined_nll, 2),
            "published NLL": _number(theirs and theirs.nll, 2),
            "better by": "" if row.difference is None else f"{row.difference:+.2f}",
            "active units": row.active_units,
            "published units": theirs.active_units if theirs else "",
            "IWAE bound": _number(row.iwae, 2),
            "published bound": _number(theirs and theirs.iwae, 2),
            "-KL": _number(gap, 2),
            "seeds": ", ".join(map(str, row.seeds)),
            "seconds": _number(row.seconds, 0),
            "GFLOP/s": _number(row.gflops, 0),
            "training minutes": _number(row.training_minutes, 1),
        }
        lines.append(line)
    used = [name for name in lines[0] if any(line[name] for line in lines)]
    return html.table(used, [[line[name] for name in used] for line in lines])


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
        f"Of the pairs of cells that were published more than {BETWEEN_SEEDS} nats "
        f"apart, {len(pairs) - len(turned)} of {len(pairs)} are in the same order here"
    )
    return f"{text}; not {', '.join(turned)}." if turned else f"{text}."


def _by_seed(rows: Sequence[Row]) -> str:
    """How far each cell is from the first one, seed by seed, and the error of that."""
    first, *others = rows
    found = []
    for row in others:
        if len(row.seeds) > 1 and row.seeds == first.seeds and row.nlls != first.nlls:
            by = np.subtract(row.nlls, first.nlls)
            error = by.std(ddof=1) / math.sqrt(len(by))
            found.append(f"{row.label} {by.mean():+.3f} (+- {error:.3f})")
    return bool(found) * (
        f"NLL minus that of {first.label} with the same seed, mean and standard error "
        f"over {len(first.seeds)} seeds: {', '.join(found)}."
    )


def _equal(rows: Sequence[Row]) -> str:
    """Which cells are the run of an equal objective under another name."""
    equal = "; ".join(f"{r.label} ({r.trained_as})" for r in rows if r.trained_as)
    return equal and f"Equal objectives were trained once, under one name: {equal}."


def _sequels(rows: Sequence[Row]) -> str:
    """Which cells start from the weights of others."""
    sequels = "; ".join(
        f"{row.label} starts from the weights of {row.starts_from}"
        for row in rows
        if row.starts_from and row.nll is not None
    )
    return sequels and f"{sequels}. Epochs and seconds do not include the earlier run."


def _behind(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> str:
    """Which cells are worse than what was published, and how long each trained."""
    behind = [
        f"{row.label} ({-row.difference:.2f})"
        for row in rows
        if row.difference is not None and row.difference < 0
    ]
    if not behind:
        return ""
    epochs = max(run["config"]["epochs"] for run in runs)
    text = f"Worse than the published NLL, in nats: {', '.join(behind)}."
    if epochs < EPOCHS:
        text += (
            f" The published runs trained for {EPOCHS:,} epochs, these for at most "
            f"{epochs}."
        )
    return text


def _at_equal_time(times: Sequence[Comparison]) -> str:
    """What the estimators of a bound reach by the time that the fastest one ends."""
    if not times:
        return ""
    lines = [
        {
            "bound": row.bound,
            "estimator": row.estimator,
            "minutes": _number(row.seconds / 60, 1),
            "relative to the first": _number(row.ratio, 2),
            "validation bound": _number(row.value, 2),
            "bound when the fastest ends": _number(row.value_by_then, 2),
            "epochs by then": str(row.epochs),
        }
        for row in times
    ]
    table = html.table(
        list(lines[0]), [list(line.values()) for line in lines], num_words=2
    )
    return "\n\n".join(["## At equal time", table, TIMES])


def _protocol(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> str:
    """What all runs have in common, and by cell what they have not."""
    if not runs:
        return ""
    settings = [_settings(run) for run in runs]
    keys = dict.fromkeys([*NAMES, *itertools.chain(*settings)])
    texts = {key: [_text(found.get(key)) for found in settings] for key in keys}
    common = {key: values[0] for key, values in texts.items() if len({*values}) == 1}
    lines = [f"- {n}: {common[k]}" for k, n in SHOWN.items() if common.get(k)]
    libraries = [f"{n} {common[n]}" for n in runs[0]["versions"] if common.get(n)]
    lines.append(f"- libraries: {', '.join(libraries)}")
    parts = ["## Protocol", "\n".join(lines)]
    other = {key: values for key, values in texts.items() if key not in common}
    if other:
        labels = [row.label for row in rows for _ in row.seeds]
        cells = dict.fromkeys(zip(labels, *other.values()))  # one line for equal seeds
        head = ["cell", *(SHOWN.get(key, key) for key in other)]
        parts += ["Where cells differ; a field is empty where nothing is set:"]
        parts += [html.table(head, [*cells], num_words=len(head))]
    return "\n\n".join(parts)


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `results.json` says of how a run was made, but for its seed."""
    config = run["config"]
    found = settings_of(config)
    del found["seed"]  # the table of results has it
    if config.get("stages"):  # which have rates of their own
        del found["learning_rate"], found["lr_schedule"]
    found["test set"] = (
        f"{run['num_examples']} images, {run['num_samples']} samples, "
        f"binarized once from seed {config['eval_seed']}"
    )
    return found | {"data_sha256": run.get("data_sha256")} | run["versions"]


def _text(value: Any) -> str:
    """A setting; "" where nothing is set."""
    return "" if value in (None, []) else str(value)
