"""`--help`: a script's own flags and the config keys by group, and nothing else."""

import sys
import textwrap
from typing import Any

from absl import flags

from iwae_tf.config import default_config
from iwae_tf.config.keys import KEYS
from iwae_tf.io import terminal

NAME_COLUMNS = 30  # of names and what is before and behind them
METAVARS = {"int": "N", "float": "X"}  # of others TEXT


def text(module: str) -> str:
    """The help of a script, with the keys of the config that its flags name.

    Args:
      module: of the script, as `python -m` and a console command know it.

    Returns:
      str, as wide as the terminal that stdout is, or 80 columns.
    """
    # absl knows a module that runs by the name of its file.
    name = sys.argv[0] if module == "__main__" else module
    own = [f for f in flags.FLAGS.flags_by_module_dict()[name] if "." not in f.name]
    rows = [_flag_row(flag) for flag in own]
    rows.append(("--helpfull", "show the flags of all libraries too"))
    parts = [_docstring(module), _section("Flags", rows)]
    if "config" in flags.FLAGS:
        config = flags.FLAGS.config or default_config()
        parts.append(terminal.bold("Config keys, --config.KEY=VALUE", sys.stdout))
        for group in dict.fromkeys(key.group for key in KEYS):
            keys = [key for key in KEYS if key.group == group and key.name in config]
            parts.append(_section(group, [_key_row(key, config) for key in keys]))
    return "\n\n".join(parts)


def full_text(module: str) -> str:
    """The help of every flag there is."""
    return f"{_docstring(module)}\n{flags.FLAGS.get_help()}"


def _docstring(module):
    return (sys.modules[module].__doc__ or "").strip()


def _key_row(key, config):
    """("key=value", what it is)."""
    value = config[key.name]
    if isinstance(value, (list, tuple)):
        value = repr(value).replace(" ", "")
    elif isinstance(value, bool):
        value = str(value).lower()
    shown = "" if value is None else value
    return f"{key.name}={shown}", key.help or ", ".join(key.rule.choices)


def _flag_row(flag):
    """("--name=DEFAULT", what it is)."""
    meaning = flag.help.partition(";\n    repeat this option")[0]  # absl's addition
    if flag.flag_type() == "bool":
        return f"--{flag.name}", meaning
    value: Any = "" if flag.default is None else flag.default
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{flag.name}={value or METAVARS.get(flag.flag_type(), 'TEXT')}", meaning


def _section(title, rows):
    """A title and rows of two columns; of one column where it is narrow."""
    width = min(terminal.columns(sys.stdout) or 80, 80)
    indent = NAME_COLUMNS if width - NAME_COLUMNS >= 25 else 6
    lines = [terminal.bold(title, sys.stdout)]
    for name, meaning in rows:
        blank = " " * indent
        wrapped = textwrap.wrap(
            meaning, width, initial_indent=blank, subsequent_indent=blank
        )
        first = f"  {name}"
        if wrapped and len(first) <= indent - 2:
            first = first.ljust(indent) + wrapped.pop(0).lstrip()
        lines += [first, *wrapped]
    return "\n".join(lines)
