"""Flags that several scripts have. Each is checked as it is read."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags
from ml_collections import config_flags

from iwae_tf.checks import did_you_mean
from iwae_tf.config import check_used, check_values, override
from iwae_tf.config.files import read_json
from iwae_tf.config.keys import check_paths
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import terminal
from iwae_tf.io.files import check_place
from iwae_tf.io.layout import (
    OF_RUN,
    about_version,
    check_no_pattern,
    find_version,
    model_file,
    shipped,
)

TOO_MANY_DEVICES = 257  # for one machine: TensorFlow takes minutes to make more

flags.disclaim_key_flags()  # they are of the scripts that call the functions below


class _Parser(flags.ArgumentParser[Any]):
    """Reads the value of a flag, or says in one line what it has to be."""

    def __init__(self, name: str, convert: Callable[[Any], Any], rule: str) -> None:
        self._name, self._convert, self._rule = name, convert, rule

    def parse(self, argument: Any) -> Any:
        try:
            return self._convert(argument)
        except ValueError as error:
            raise flags.IllegalFlagValueError(
                f"`--{self._name}` must be {self._rule}. "
                f"Received: --{self._name}={argument}"
            ) from error

    def flag_type(self) -> str:
        return "string" if self._convert in (_to_pair, _to_path, _to_found) else "int"


def _to_count(argument, below):
    count = int(argument)
    if not 1 <= count < below:
        raise ValueError(count)
    return count


def _to_pair(argument):
    first, second = map(int, argument.split(","))
    if not all(-(2**31) <= word < 2**32 for word in (first, second)):
        raise ValueError(argument)
    return first, second


def _to_path(argument):
    if not argument:  # which Python takes for the current folder
        raise ValueError(argument)
    argument.encode()  # a ValueError of what is no UTF-8, which TensorFlow refuses
    return os.path.expanduser(argument)


def _to_found(argument):
    path = _to_path(argument)
    if not os.path.exists(path):
        raise ValueError(argument)
    return path


def path_flag(
    name: str,
    meaning: str,
    must_exist: bool = False,
    check: Callable[[str], object] | None = None,
) -> flags.FlagHolder[Any]:
    """Defines a flag for a path; shells leave the ~ of `--name=~/runs` as it is.

    Args:
      name: of the flag.
      meaning: what `--help` says.
      must_exist: whether there has to be something.
      check: optional function that raises InvalidInputError of a path that was given,
        once all flags are read.
    """
    found = _Parser(name, _to_found, "a path that exists")
    parser = found if must_exist else _Parser(name, _to_path, "a path")
    path_of = flags.DEFINE(parser, name, None, meaning)
    if check is not None:

        @flags.validator(name)
        def check_given(path):
            if path is not None:
                check(path)
            return True

    return path_of


def count_flag(
    name: str, default: int | None, meaning: str, below: int = 2**31
) -> flags.FlagHolder[Any]:
    """Defines a flag for a positive int32, or one below another number."""
    limit = "2**31" if below == 2**31 else below
    convert = functools.partial(_to_count, below=below)
    parser = _Parser(name, convert, f"a positive integer below {limit}")
    return flags.DEFINE(parser, name, default, meaning)


def seed_flag() -> flags.FlagHolder[Any]:
    """Defines `--seed` of draws, two integers, `--seed=0,0`."""
    parser = _Parser("seed", _to_pair, "a pair of integers from -2**31 to 2**32 - 1")
    meaning = "Seed of the draws, a pair of integers."
    return flags.DEFINE(parser, "seed", "0,0", meaning)


def config_flag() -> flags.FlagHolder[Any]:
    """Defines `--config`, which has to be given, and checks each of its keys."""
    config = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, or name of a config of the package.",
        lock_config=True,
    )

    @flags.validator("config")
    def check(config):
        if config is None:
            given = flags.FLAGS["config"].present
            received = "one whose get_config returns None" if given else "none"
            raise InvalidInputError(f"`--config` must be given. Received: {received}")
        check_values(config)
        given = config_flags.get_override_values(flags.FLAGS["config"])
        check_used(config, given)
        check_paths(config)
        return True

    return config


def require(*names: str, unless: str | None = None) -> None:
    """Has each of these flags given, unless that one is."""
    for name in names:

        def check(values, name=name):
            if values[name] is None and not (unless and values[unless]):
                raise InvalidInputError(f"`--{name}` must be given. Received: none")
            return True

        involved = [name, unless] if unless else [name]
        flags.register_multi_flags_validator(involved, check)


def new_path_flag(
    name: str, meaning: str, is_file: bool = False
) -> flags.FlagHolder[Any]:
    """Defines a flag for a folder or a file that can be written.

    A finished run is only read, and none of its files is written over. Of several
    workers the first alone writes.
    """

    def check(path):
        if "://" in path:  # Beam writes to buckets too
            return
        if is_file and os.path.basename(path) in OF_RUN and os.path.exists(path):
            raise InvalidInputError(
                f"`--{name}` must not be a file of a run. Received: --{name}={path}"
            )
        if not is_file:
            check_no_pattern(path, f"--{name}")
        values = flags.FLAGS.flag_values_dict()
        is_done = os.path.isfile(os.path.join(path, "results.json"))
        will_write = not is_done and values.get("distribute") != "multi_worker"
        check_place(path, f"--{name}", is_file=is_file, will_write=will_write)

    return path_flag(name, meaning, check=check)


def proposal_flag(or_both: bool = False) -> flags.FlagHolder[Any]:
    """Defines `--proposal`, with the choice `both` where a script can do so."""
    meaning = "the encoder, or proposals fitted to each image"
    if or_both:
        meaning = "the encoder, proposals fitted to each image, or both in turn"
    choices = ("encoder", "refined", *["both"] * or_both)
    meaning = f"Where draws come from: {meaning}."
    return flags.DEFINE_enum("proposal", "encoder", choices, meaning)


def run_flag() -> flags.FlagHolder[Any]:
    """Defines `--workdir` of a finished run."""

    def check(path):
        read_json(os.path.join(path, "config.json"))
        model_file(path)

    return path_flag("workdir", "Folder of a finished run.", True, check)


def export_flag(meaning: str) -> flags.FlagHolder[Any]:
    """Defines `--saved_model` of an export."""
    return path_flag("saved_model", meaning, True, find_version)


class ModelFlags:
    """The flags `--workdir` and `--saved_model`, of which one is given."""

    def __init__(self) -> None:
        self.workdir = run_flag()
        self.saved_model = export_flag(
            "Exported model, NAME or NAME/1, instead of --workdir."
        )

    def require(self, unless: str | None = None) -> None:
        """Has one of the two given, unless that flag is."""
        names = ["workdir", "saved_model", *([unless] if unless else [])]
        flags.register_multi_flags_validator(
            names, lambda values: bool(unless and values[unless]) or self.check()
        )

    def check(self) -> bool:
        """Raises InvalidInputError unless one of the two was given."""
        workdir, saved_model = self.workdir.value, self.saved_model.value
        if (workdir is None) == (saved_model is None):
            raise InvalidInputError(
                "one of `--workdir` and `--saved_model` must be given. Received: "
                f"--workdir={workdir}, --saved_model={saved_model}"
            )
        return True

    @property
    def name(self) -> str:
        """What was given, as a title."""
        return self.workdir.value or self.saved_model.value

    def config(self, **overrides: Any) -> Any:
        """The ConfigDict of what was given, with these values in it.

        Raises:
          InvalidInputError: as `workdir.check_data` of its data.
        """
        from iwae_tf.runs.workdir import check_data, config_in

        self.check()
        folder = pathlib.Path(self.workdir.value or "")
        if self.workdir.value is None:
            folder = about_version(find_version(self.saved_model.value))
        config = override(config_in(folder), **overrides)
        is_other = overrides.get("data_dir") is not None
        for line in check_data(folder, config, is_other=is_other):
            terminal.tell(line)
        return config

    def load(self, **overrides: Any) -> tuple[Any, Any]:
        """The Keras model and `config` of what was given."""
        from iwae_tf.runs.workdir import Workdir, load_exported

        config = self.config(**overrides)
        if self.workdir.value is None:
            return load_exported(self.saved_model.value, **overrides)
        return Workdir(self.workdir.value).load_model(), config


def model_facts(config: Any, num_images: int, split: str) -> list[tuple[str, str]]:
    """What a report or a page says of a model and of the examples that it was given."""
    draws = f"M = {config.num_groups}, K = {config.num_samples} in training"
    return [
        ("bound", f"{config.model}, {draws}"),
        ("latent units", " + ".join(map(str, config.latent_dims))),
        ("examples", f"the first {num_images} of {config.dataset}, {split}"),
    ]


def values_of(group: Iterable[flags.FlagHolder[Any]]) -> dict[str, Any]:
    """The value of each flag by its name."""
    return {flag.name: flag.value for flag in group}


def data_flags() -> list[flags.FlagHolder[Any]]:
    """Defines `--dataset`, `--data_dir` and `--binarization`, config keys as well."""
    return [
        flags.DEFINE_string("dataset", None, "Data set, instead of the config's."),
        path_flag("data_dir", "Folder or file of the data set."),
        flags.DEFINE_string(
            "binarization", None, "Binarization, instead of the config's."
        ),
    ]


def engine_flags(**others: str) -> list[flags.FlagHolder[Any]]:
    """Defines the flags of where many runs go, arguments of `studies.on_ray.engine`.

    Args:
      **others: engines of a script's own, with what help says of them.
    """
    known = {"processes": "this machine", "ray": "a cluster of Ray", **others}
    meaning = f"Where runs go: {', '.join(known.values())}."
    return [
        flags.DEFINE_enum("engine", "processes", [*known], meaning),
        count_flag("processes", None, "Runs at a time; default: 1, or all on Ray."),
        flags.DEFINE_string(
            "address", None, "HOST:PORT of Ray; default: this machine."
        ),
        count_flag("cpus", 1, "Cores of a run on Ray."),
        flags.DEFINE_integer("gpus", 0, "GPUs of a run on Ray.", lower_bound=0),
    ]


def device_flags() -> tuple[flags.FlagHolder[Any], flags.FlagHolder[Any]]:
    """Defines `--distribute` and `--num_devices`, for `make_distribution`."""
    return (
        flags.DEFINE_string(
            "distribute",
            "none",
            "none, mirrored (devices) or multi_worker (machines).",
        ),
        count_flag(
            "num_devices",
            None,
            "Number of devices; logical CPU devices if there is no GPU.",
            below=TOO_MANY_DEVICES,
        ),
    )


def config_path(value: str) -> str:
    """The file that `--config` means: a path, or the name of one that ships.

    A JSON file, such as the `config.json` of a run, is read by a config that ships.

    Args:
      value: what the user gave, with an optional `:argument` of the config.

    Returns:
      path: str, with the argument.

    Raises:
      InvalidInputError: neither a file nor a shipped config.
    """
    value = os.path.expanduser(value)
    path, colon, argument = value.partition(":")
    configs = shipped("configs")
    if value.endswith(".json"):
        return f"{configs / '_json.py'}:{value}"
    if pathlib.Path(path).is_file():
        return value
    names = sorted(file.stem for file in configs.glob("[!_]*.py"))
    if path in names:
        return str(configs / f"{path}.py") + colon + argument
    raise InvalidInputError(
        f"`--config` must be a config file or one of {', '.join(names)}. "
        f"Received: --config={value}{did_you_mean(path, names)}"
    )
