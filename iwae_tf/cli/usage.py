"""`--help`: a script's own flags and config keys by group, and nothing else."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from iwae_tf.io import terminal

FLAG_GROUPS = {  # names of flags, of any script, in the order in which they are shown
    "What to run": (
        *("config", "workdir", "saved_model", "endpoint", "study", "budget", "cells"),
        *("grid", "folder", "task", "list", "input", "output", "parts", "quick"),
        *("reuse", "report_only"),
    ),
    "Data": ("dataset", "data_dir", "binarization", "split", "limit", "num_images"),
    "Draws": ("num_samples", "seed"),
    "Devices and processes": (
        *("distribute", "num_devices", "processes", "runner", "option"),
        *("batch_size", "concurrency", "timeout", "retries"),
    ),
}
OTHER = "Other"
KEY_GROUPS = {  # config keys and what they are, beside the choices that `config` knows
    "Model": {
        "model": "",
        "num_groups": "M, draws outside the log: miwae and piwae",
        "num_samples": "K, draws inside the log",
        "beta": "weight of the ELBO: ciwae",
        "gradient_estimator": "",
        "latent_dims": "units of each stochastic layer, z1 first",
        "hidden_dims": "hidden layers of each stochastic layer",
        "network": "",
        "conv_channels": "channels of each resolution: conv",
        "likelihood": "",
        "conditional": "whether the networks are given the class label",
    },
    "Data": {
        "dataset": "",
        "data_dir": "where the data set lies",
        "binarization": "",
        "batch_size": "images a step",
        "shuffle": "a new order each epoch",
    },
    "Training": {
        "epochs": "at most those of the schedule",
        "optimizer": "",
        "learning_rate": "at the start",
        "lr_schedule": "",
        "stages": "[(num_samples, epochs, first rate, last rate[, num_groups]), ...]",
        "adam_epsilon": "of adam and muon",
        "weight_average": "momentum of averaged weights; 0: none",
        "start_from": "finished run whose weights are the first",
        "precision": "",
        "jit_compile": "XLA compiles the steps",
        "seed": "of the weights, the order, the noise",
    },
    "Evaluation": {
        "eval_split": "",
        "eval_seed": "of the test binarization and the draws",
        "eval_num_samples": "draws an image",
    },
}
KEYS = "Config keys, --config.KEY=VALUE"
NAME_COLUMNS = 26
METAVARS = {"string": "TEXT", "int": "N", "float": "X", "multi string": "TEXT"}
FULL = "--helpfull  every flag, those of the libraries too"


def text(
    module: str,
    config: Mapping[str, Any] | None = None,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The help of a script.

    Args:
      module: of the script, as `python -m` and a console command know it.
      config: optional ConfigDict whose keys are flags of the script.
      choices: dict of key to the values that it can have.

    Returns:
      str, as wide as the terminal that stdout is, or 80 columns.
    """
    width = min(terminal.columns(sys.stdout) or 80, 80)
    parts = [_wrap_prose(_docstring(module), width)]
    grouped: dict[str, list[Any]] = {}
    for flag in _own_flags(module):
        groups = [g for g, names in FLAG_GROUPS.items() if flag.name in names]
        grouped.setdefault((groups or [OTHER])[0], []).append(flag)
    for group, names in FLAG_GROUPS.items():
        rows = sorted(grouped.get(group, []), key=lambda flag: names.index(flag.name))
        parts.append(_section(group, [_flag_row(flag) for flag in rows], width))
        if config is not None and group == "What to run":
            parts += _config_sections(config, choices or {}, width)
    rows = [_flag_row(flag) for flag in grouped.get(OTHER, [])]
    rows.append(tuple(FULL.split("  ")))
    parts.append(_section(OTHER, rows, width))
    return "\n\n".join(part for part in parts if part)


def full_text(module: str) -> str:
    """The help of every flag there is."""
    return f"{_docstring(module)}\n{flags.FLAGS.get_help()}"


def _docstring(module):
    return (sys.modules[module].__doc__ or "").strip()


def _own_flags(module):
    """Flags that the script defines, and those of `cli`, which only scripts define."""
    names = [sys.argv[0] if module == "__main__" else module, "iwae_tf.cli.scripts"]
    by_module = flags.FLAGS.flags_by_module_dict()
    found = [flag for name in names for flag in by_module.get(name, ())]
    return [flag for flag in found if "." not in flag.name]


def _config_sections(config, choices, width):
    """The keys of a config by group, with their values and what they can be."""
    known = {key for keys in KEY_GROUPS.values() for key in keys}
    others = {key: "" for key in config if key not in known}
    sections = [terminal.bold(KEYS, sys.stdout)]
    for group, keys in [*KEY_GROUPS.items(), ("Other keys", others)]:
        rows = [
            (f"{key}={_shown(config[key])}", meaning or ", ".join(choices.get(key, "")))
            for key, meaning in keys.items()
            if key in config
        ]
        sections.append(_section(group, rows, width))
    return sections


def _shown(value):
    """A value as it is given on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return repr(value).replace(" ", "")
    return "" if value is None else str(value)


def _flag_row(flag):
    """("--name=DEFAULT", what it is)."""
    meaning = flag.help.partition(";\n    repeat this option")[0]  # absl's addition
    if flag.flag_type() == "bool":
        return f"--{flag.name}", meaning
    if isinstance(flag.default, (list, tuple)):
        value = ",".join(map(str, flag.default))
    else:
        value = "" if flag.default is None else str(flag.default)
    value = value or METAVARS.get(flag.flag_type(), "TEXT")
    return f"--{flag.name}={value}", meaning


def _section(title, rows, width):
    """A title and rows of two columns; of one column where it is narrow."""
    if not rows:
        return ""
    lines = [terminal.bold(title, sys.stdout)]
    for name, meaning in rows:
        is_wide = width - NAME_COLUMNS - 4 >= 25
        indent = NAME_COLUMNS + 4 if is_wide else 6
        wrapped = textwrap.wrap(meaning, max(width - indent, 10))
        first = f"  {name}"
        if is_wide and len(first) <= indent - 2 and wrapped:
            first = first.ljust(indent) + wrapped.pop(0)
        lines += [first, *(" " * indent + line for line in wrapped)]
    return "\n".join(lines)


def _wrap_prose(prose, width):
    """A docstring with its paragraphs wrapped; commands stay whole, to be copied."""
    paragraphs = []
    for paragraph in prose.split("\n\n"):
        if paragraph.lstrip().startswith("python "):
            paragraphs.append(paragraph)
        else:
            paragraphs.append(textwrap.fill(" ".join(paragraph.split()), width))
    return "\n\n".join(paragraphs)
