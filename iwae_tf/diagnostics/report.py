"""The report: one HTML file that needs nothing beside it."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from iwae_tf.diagnostics.parts.base import Grade
from iwae_tf.io.html import escape, table, write_page

INTRODUCTION = (
    "All values are in nats an image unless stated otherwise. log p(x) is estimated "
    "by importance sampling: K draws z of q(z|x), each with the weight "
    "w = p(x, z) / q(z|x); the log of their mean is L_K. It is too low in expectation, "
    "by a bias that falls with K, and it varies from seed to seed. A green line says "
    "that a check found nothing wrong, a yellow one asks for care, a red one says that "
    "the number should not be relied on as it stands. Yellow and red lines end with "
    "what to do."
)


class Section(NamedTuple):
    """One part of the report."""

    title: str
    sentences: list[tuple[Grade, str]]
    figures: list[tuple[pathlib.Path, str]]  # (PNG beside the report, caption)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Iterable[tuple[str, object]],
    sections: Sequence[Section],
) -> None:
    """Writes the report, images embedded.

    Args:
      path: of the HTML file.
      title: of the page.
      facts: of (name, value), about what was looked at.
      sections: of the report, in order.
    """
    graded = [pair for s in sections for pair in s.sentences if pair[0] != "plain"]
    links = (f"[{escape(s.title)}](#part{n})" for n, s in enumerate(sections))
    rows = [(escape(name), escape(value)) for name, value in facts]
    blocks = [
        f"# {escape(title)}",
        table(("", ""), rows, num_words=2) if rows else "",
        f"{escape(INTRODUCTION)}\n{{: .note }}",
        _listed(graded),
        "&emsp; ".join(links),
    ]
    for number, section in enumerate(sections):
        blocks.append(f"## {escape(section.title)} {{: #part{number} }}")
        blocks.append(_listed(section.sentences))
        for figure, caption in section.figures:
            blocks.append(f"![{escape(caption)}]({figure.name})")
            blocks.append(f"{escape(caption)}\n{{: .note }}")
    write_page(path, title, "\n\n".join(blocks), embed_images=True)


def _listed(sentences):
    """Sentences as items of a list, with the colours of their grades."""
    return "\n".join(f"* {escape(text)}\n{{: .{grade} }}" for grade, text in sentences)
