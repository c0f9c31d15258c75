"""The report: one HTML file that needs nothing beside it."""

import base64
import html
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from iwae_tf.io.files import write_atomically

MARKS = {"good": "\N{CHECK MARK}", "warning": "!", "bad": "\N{BALLOT X}", "plain": ""}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #ddd;
  padding-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th { text-align: left; font-weight: normal; color: #666; padding-right: 1.5rem;
  vertical-align: top; }
ul { list-style: none; padding: 0; margin: .5rem 0; }
li { margin: .35rem 0; padding: .3rem .6rem .3rem 2.1rem; border-radius: 4px;
  background: #f5f5f5; position: relative; }
li b { position: absolute; left: .7rem; }
.good { background: #e4f4ea; } .good b { color: #11703c; }
.warning { background: #fdf1d6; } .warning b { color: #8a5a00; }
.bad { background: #fbe3e0; } .bad b { color: #a3211b; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; max-width: 46rem; }
nav a { margin-right: 1rem; }
"""
INTRODUCTION = (
    "All values are in nats an image unless it says otherwise. log p(x) is estimated "
    "by importance sampling: K draws z of q(z|x), each with the weight "
    "w = p(x, z) / q(z|x); the log of their mean is L_K. It is too low in expectation, "
    "by a bias that falls with K, and it varies from seed to seed. A green line says "
    "that a check found nothing wrong, a yellow one asks for care, a red one says that "
    "the number should not be relied on as it stands."
)


class Section(NamedTuple):
    """One part of the report."""

    title: str
    sentences: list  # of (grade, sentence)
    figures: list  # of (path of a PNG, caption)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Iterable[tuple[str, object]],
    sections: Sequence[Section],
) -> str | os.PathLike[str]:
    """Writes the report, images embedded.

    Args:
      path: of the HTML file.
      title: of the page.
      facts: list of (name, value) about what was looked at.
      sections: list of Section.

    Returns:
      path: as given.
    """
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
        for name, value in facts
    )
    links = "".join(
        f'<a href="#part{number}">{_text(section.title)}</a> '
        for number, section in enumerate(sections)
    )
    graded = [pair for s in sections for pair in s.sentences if pair[0] != "plain"]
    body = "".join(_section(number, s) for number, s in enumerate(sections))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1><table>{rows}</table>"
        f'<p class="note">{_text(INTRODUCTION)}</p>{_list(graded)}'
        f"<nav>{links}</nav>{body}</body></html>\n"
    )
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _section(number: int, section: Section) -> str:
    figures = "".join(_figure(*pair) for pair in section.figures)
    return (
        f'<section id="part{number}"><h2>{_text(section.title)}</h2>'
        f"{_list(section.sentences)}{figures}</section>"
    )


def _list(sentences: Iterable[tuple[str, str]]) -> str:
    items = "".join(
        f'<li class="{grade}"><b>{MARKS[grade]}</b>{_text(sentence)}</li>'
        for grade, sentence in sentences
    )
    return f"<ul>{items}</ul>"


def _figure(path: str | os.PathLike[str], caption: str) -> str:
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
