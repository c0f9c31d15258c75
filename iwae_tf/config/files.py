"""Configs in JSON files: reading them, and whether two are the same run."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from iwae_tf.config.keys import default_config, validate
from iwae_tf.errors import InvalidInputError

SHOWN = 4  # of the keys in which two configs differ


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file, or one line on what is wrong with it."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InvalidInputError(f"`{path.name}` must exist. Received: no file {path}")
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInputError(
            f"`{path.name}` must be intact JSON. Received: {path}, {error}"
        ) from error
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"`{path.name}` must hold a JSON object. Received: {path}"
        )
    return value


def read_config(path: str | os.PathLike[str]) -> ConfigDict:
    """The ConfigDict in a JSON file.

    Raises:
      InvalidInputError: there is none, it is damaged, or a value breaks a rule.
    """
    return config_from(read_json(path), path)


def config_from(values: Mapping[str, Any], path: str | os.PathLike[str]) -> ConfigDict:
    """The valid ConfigDict of what a file holds of one; raises as `read_config`."""
    config = unchecked(values, path)
    validate(config)
    return config


def unchecked(values: Mapping[str, Any], path: str | os.PathLike[str]) -> ConfigDict:
    """As `config_from`, without TensorFlow: a value may still break a rule.

    Keys that are not among `values` have their defaults.

    Raises:
      InvalidInputError: not the keys or types of a config; `path` is named.
    """
    config = default_config()
    for key, value in values.items():
        if key not in config:
            raise InvalidInputError(
                f"`{key}` must be a config key. Received: {key} in {path}"
            )
        try:
            config[key] = value
        except (TypeError, ValueError, AttributeError) as error:
            shown = repr(value)[:200]
            raise InvalidInputError(
                f"`{key}` must have the type of a config. Received: {shown} in {path}"
            ) from error
    return ConfigDict(config)


def as_json(config: ConfigDict) -> dict[str, Any]:
    """A config as JSON reads it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """All that a config, as JSON, says of a run.

    A key that it lacks, since it was not there yet when that was written, has its
    default. Where the data and the run that it starts from lie may change, but not
    whether it starts from one.
    """
    moved = {"data_dir": None, "start_from": bool(values.get("start_from"))}
    return {**as_json(default_config()), **values, **moved}


def different_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In which keys two configs, as JSON, are different runs; see `settings_of`."""
    ours, theirs = settings_of(ours), settings_of(theirs)
    return [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]


def check_same(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    rule: str,
    place: object,
    name: str = "workdir",
) -> None:
    """Raises InvalidInputError where two configs, as JSON, are different runs."""
    keys = different_keys(ours, theirs)
    shown = [f"{k} is {theirs.get(k)!r}, not {ours.get(k)!r}" for k in keys[:SHOWN]]
    if keys:
        raise InvalidInputError(
            f"`{name}` must {rule}. Received: {place}, whose {'; '.join(shown)}"
            f"{'; ...' if keys[SHOWN:] else ''}"
        )
