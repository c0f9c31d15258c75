"""A diagnosis from end to end: parts that are resumed, figures, and the report."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from iwae_tf.diagnostics.parts import errors as error_parts
from iwae_tf.diagnostics.parts import estimate as estimate_parts
from iwae_tf.diagnostics.parts import learning as learning_parts
from iwae_tf.diagnostics.parts.part import Part, Subject
from iwae_tf.diagnostics.report import Section, write_report
from iwae_tf.io import terminal
from iwae_tf.io.files import write_json

PARTS = {
    part.name: part
    for part in (
        estimate_parts.PROPOSAL,
        estimate_parts.SWEEP,
        error_parts.ERRORS,
        estimate_parts.ANNEALING,
        learning_parts.GRADIENTS,
        learning_parts.REPRESENTATION,
        learning_parts.THEORY,
        learning_parts.TOY,
        error_parts.KNOWN,
    )
}
DEFAULT_PARTS = tuple(name for name in PARTS if name not in ("toy", "known"))


def diagnose(
    subject: Subject,
    folder: str | os.PathLike[str],
    *,
    parts: Iterable[str] = DEFAULT_PARTS,
    title: str = "",
    facts: Iterable[tuple[str, object]] = (),
) -> dict[str, Any]:
    """Runs parts, draws them and writes the report.

    A finished part is kept as `NAME.json` and not measured again by a later call with
    the same subject: an interrupted diagnosis goes on where it was.

    Args:
      subject: part.Subject.
      folder: where everything is written; made if missing.
      parts: names among `PARTS`.
      title: of the report.
      facts: list of (name, value) that the report begins with.

    Returns:
      dict of part name to its results.
    """
    folder = pathlib.Path(folder)
    found: dict[str, Any] = {}
    sections = []
    for name in parts:
        found[name], drawn = do_part(name, subject, folder)
        figures = [(folder / file, caption) for file, caption in drawn]
        part = PARTS[name]
        sections.append(Section(part.title, part.judge(found[name]), figures))
    write_report(folder / "report.html", title=title, facts=facts, sections=sections)
    return found


def do_part(
    name: str, subject: Subject, folder: pathlib.Path
) -> tuple[Any, list[tuple[str, str]]]:
    """Measures one part, unless that is done, and draws it.

    Args:
      name: a key of `PARTS`.
      subject: part.Subject.
      folder: pathlib.Path, where `NAME.json` and the figures are written.

    Returns:
      (its results, list of (file name of a figure, caption)).
    """
    part, path, identity = PARTS[name], folder / f"{name}.json", _identity(subject)
    results = _kept(path, identity)
    if results is None:
        measured = _measure(part, subject)
        write_json(path, {"subject": identity, "results": measured})
        results = _kept(path, identity)
    folder.mkdir(parents=True, exist_ok=True)
    return results, part.draw(subject, results, folder)


def _measure(part: Part, subject: Subject) -> Any:
    """Results of a part, under a progress bar."""
    with terminal.progress(label=part.name) as bar:

        def on_progress(done, total):
            bar.total = total
            bar.update(done)

        return part.measure(subject, on_progress)


def _kept(path: pathlib.Path, identity: dict[str, Any]) -> Any:
    """Results of an earlier call for the same subject, or None."""
    try:
        kept = json.loads(path.read_text())
        return kept["results"] if kept["subject"] == identity else None
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
