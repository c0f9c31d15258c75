"""Shows the formulas of docstrings as they are typed.

Prose ends in a full stop or a colon. A paragraph of a docstring that does not is a
formula, and becomes a block of code. What stands before the colon in `Returns:` is the
name of a value.
"""

import textwrap

from griffe import Extension


class Formulas(Extension):
    """Indents formulas, so that Markdown takes them for code."""

    def on_object(self, *, obj, **kwargs):
        """Called for each class, function and module once it has a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = show_formulas(obj.docstring.value)


def show_formulas(docstring):
    """A docstring with its formulas indented by four."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join([paragraphs[0], *map(_shown, paragraphs[1:])])


def _shown(paragraph):
    is_section = paragraph.partition("\n")[0].endswith(":")
    is_marked = paragraph.startswith((" ", "|", "-", "`"))
    if is_section or is_marked or paragraph.rstrip().endswith((".", ":")):
        return paragraph
    return textwrap.indent(paragraph, " " * 4)
