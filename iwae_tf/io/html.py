"""Markdown as one HTML page: the only writer of HTML, and of Markdown tables."""

import base64
import html
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import markdown

from iwae_tf.io.files import write_text

EXTENSIONS = ("tables", "attr_list")
# A list item or paragraph takes a class by a line `{: .good }` after it.
STYLE = """
:root { color-scheme: light dark; --text: #222; --soft: #555; --page: #fff;
  --line: #ddd; --card: #f5f5f5; --good: #e4f4ea; --warning: #fdf1d6; --bad: #fbe3e0 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --soft: #a8a8ad;
  --page: #17181b; --line: #3a3b40; --card: #232428; --good: #17341f;
  --warning: #40320f; --bad: #45201c } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--page); max-width: 66em; margin: 2em auto; padding: 0 1em }
h2 { font-size: 1.2em; margin-top: 2em; border-top: 1px solid var(--line);
  padding-top: 1em }
table { border-collapse: collapse; font-size: .9em } img { max-width: 100% }
th, td { padding: .2em .5em; text-align: left; vertical-align: top }
th { border-bottom: 2px solid var(--soft) } td { border-bottom: 1px solid var(--line) }
th:empty { display: none } td:first-child { min-width: 8em }
td[style*="right"] { white-space: nowrap }
table:has(img) { table-layout: fixed; width: 100% }
.note { color: var(--soft); font-size: .9em }
ul { padding-left: 1.2em } .good, .warning, .bad, .plain { list-style: none;
  padding: .3em .6em; border-radius: 4px; margin: .35em 0; background: var(--card) }
.good::before { content: "\\2713  " } .good { background: var(--good) }
.warning::before { content: "!  " } .warning { background: var(--warning) }
.bad::before { content: "\\2717  " } .bad { background: var(--bad) }
"""


def write_page(
    path: str | os.PathLike[str], title: str, text: str, *, embed_images: bool = False
) -> None:
    """Writes Markdown as an HTML page.

    Args:
      path: of the page; links to images start from its folder.
      title: plain text, for the browser's window.
      text: Markdown, with tables and attributes (`{: .class #id }`).
      embed_images: whether the page holds its images and needs no file beside it.
    """
    path = pathlib.Path(path)
    body = markdown.markdown(text, extensions=EXTENSIONS)
    if embed_images:
        body = re.sub(r'src="([^":]+)"', lambda m: _embedded(path.parent / m[1]), body)
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )
    write_text(path, page)


def escape(value: object) -> str:
    """Any text as Markdown that shows it letter for letter, on one line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    special = r"[\\`*_{}\[\]|#+!~]|^-|(?<=\d)\.(?= )"
    return re.sub(special, lambda match: f"&#{ord(match[0])};", text)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, num_words: int = 1
) -> str:
    """A Markdown table.

    Args:
      head: names of the columns, Markdown.
      rows: their cells, Markdown.
      num_words: how many columns, from the left, are words; the others are numbers,
        set to the right.
    """
    rule = ["---"] * num_words + ["---:"] * (len(head) - num_words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def _embedded(path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'src="data:image/png;base64,{data}"'
