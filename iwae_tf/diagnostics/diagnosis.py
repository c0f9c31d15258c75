"""A diagnosis from end to end: parts that are resumed, figures, and the report.

The report is one HTML file that needs nothing beside it.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from iwae_tf.diagnostics.parts import DEFAULT_PARTS, PARTS
from iwae_tf.diagnostics.parts.base import Part, Results, Subject
from iwae_tf.io import terminal
from iwae_tf.io.files import write_json
from iwae_tf.io.html import escape, table, write_page

INTRODUCTION = (
    "All values are in nats an example unless stated otherwise. log p(x) is estimated "
    "by importance sampling: K draws z of q(z|x), each with the weight "
    "w = p(x, z) / q(z|x); the log of their mean is L_K. It is too low in expectation, "
    "by a bias that falls with K, and it varies from seed to seed. A green line says "
    "that a check found nothing wrong, a yellow one asks for care, a red one says that "
    "the number should not be relied on as it stands. Yellow and red lines end with "
    "what to do."
)


def diagnose(
    subject: Subject,
    folder: str | os.PathLike[str],
    *,
    parts: Iterable[str] = DEFAULT_PARTS,
    title: str = "",
    facts: Iterable[tuple[str, object]] = (),
) -> dict[str, Results]:
    """Runs parts, draws them and writes the report.

    A finished part is kept as `NAME.json` and not measured again by a later call with
    the same subject: an interrupted diagnosis goes on where it was. It is measured
    again where the part has changed since, see `Part.version`.

    Args:
      subject: what is diagnosed.
      folder: where everything is written; made if missing.
      parts: names among `PARTS`.
      title: of the report.
      facts: of (name, value), that the report begins with.

    Returns:
      dict of part name to its results.
    """
    folder = pathlib.Path(folder)
    found: dict[str, Results] = {}
    sections = []
    for name in parts:
        part = PARTS[name]
        found[name], figures = do_part(part, subject, folder)
        sections.append((part.title, [*part.judge(found[name])], figures))
    _write_report(folder / "report.html", title, facts, sections)
    return found


def do_part(
    part: Part, subject: Subject, folder: pathlib.Path
) -> tuple[Results, list[tuple[pathlib.Path, str]]]:
    """Measures one part, unless that is done, and draws it.

    Args:
      part: one of `PARTS`.
      subject: what is diagnosed.
      folder: where `NAME.json` and the figures are written.

    Returns:
      (its results, list of (path of a figure, caption)).
    """
    path, identity = folder / f"{part.name}.json", _identity(subject)
    results = _kept(path, identity, part.version)
    if results is None:
        head = {"subject": identity, "version": part.version}
        write_json(path, head | {"results": _measure(part, subject)})
        results = _kept(path, identity, part.version)
    folder.mkdir(parents=True, exist_ok=True)
    return results, list(part.draw(subject, results, folder))


def _measure(part: Part, subject: Subject) -> Results:
    """Results of a part, under a progress bar."""
    with terminal.Progress(label=part.name) as bar:

        def on_progress(total, done):
            bar.task.total = total
            bar.update(done)

        return part.measure(subject, on_progress)


def _kept(path: pathlib.Path, identity: dict[str, Any], version: int) -> Any:
    """Results of an earlier call for the same subject and version, or None."""
    try:
        kept = json.loads(path.read_text())
        is_same = kept["subject"] == identity and kept.get("version", 1) == version
        return kept["results"] if is_same else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _identity(subject: Subject) -> dict[str, Any]:
    """What results depend on, as JSON: settings, and hashes of weights and images."""
    arrays = [] if subject.images is None else [subject.images]
    if subject.model is not None:
        arrays += subject.model.get_weights()
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "num_images": 0 if subject.images is None else len(subject.images),
        "num_samples": subject.num_samples,
        "seed": list(subject.seed),
        "quick": subject.quick,
        "sha256": digest.hexdigest(),
    }


def _write_report(path, title, facts, sections):
    """Writes the report; a section is (title, graded sentences, (PNG, caption)s)."""
    graded = [
        pair for _, sentences, _ in sections for pair in sentences if pair[0] != "plain"
    ]
    links = (f"[{escape(name)}](#part{n})" for n, (name, *_) in enumerate(sections))
    rows = [(escape(name), escape(value)) for name, value in facts]
    blocks = [
        f"# {escape(title)}",
        table(("", ""), rows, num_words=2) if rows else "",
        f"{escape(INTRODUCTION)}\n{{: .note }}",
        _listed(graded),
        "&emsp; ".join(links),
    ]
    for number, (name, sentences, figures) in enumerate(sections):
        blocks.append(f"## {escape(name)} {{: #part{number} }}")
        blocks.append(_listed(sentences))
        for figure, caption in figures:
            blocks.append(f"![{escape(caption)}]({figure.name})")
            blocks.append(f"{escape(caption)}\n{{: .note }}")
    write_page(path, title, "\n\n".join(blocks), embed_images=True)


def _listed(sentences):
    """Sentences as items of a list, with the colours of their grades."""
    return "\n".join(f"* {escape(text)}\n{{: .{grade} }}" for grade, text in sentences)
