"""The folder of one training run: what lies where, and reading it back."""

import contextlib
import csv
import io
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from ml_collections import ConfigDict

from iwae_tf.checks import readable
from iwae_tf.config import build_model, override, set_draws
from iwae_tf.config.files import (
    as_json,
    check_same,
    different_keys,
    read_config,
    read_json,
)
from iwae_tf.config.stages import depends_on_epochs
from iwae_tf.datasets.tables import load_schema
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import (
    FolderLock,
    keep_json,
    remove_leftovers,
    write_json,
    write_text,
    write_through,
)
from iwae_tf.io.layout import (
    EXTRA,
    SCHEMA,
    TRAINING_DATA,
    about_version,
    check_for_versions,
    find_version,
    model_file,
)
from iwae_tf.runs import model_card
from iwae_tf.runs.splits import kinds_of_columns, training_data
from iwae_tf.saved_model import (
    export_saved_model,
    restore_weights,
    warmup,
)
from iwae_tf.versions import library_versions

# Where the data lie, how far the run goes, and what is done with it afterwards.
NOT_DECIDING = {
    *("data_dir", "epochs"),
    *("eval_split", "eval_seed", "eval_num_samples", "eval_proposal"),
}


class Workdir:
    """Paths of a run, and its config.

    Args:
      path: the folder; made when something is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.csv"
        self.results = self.path / "results.json"
        self.model = self.path / "model.keras"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.figures = self.path / "figures"
        self.saved_model = self.path / "saved_model"
        self.bad_batch = self.path / "nonfinite_batch.npz"
        self._lock: FolderLock | None = None

    def claim(self, config: ConfigDict) -> None:
        """Makes the folder this process's; see `begin` and `release`.

        Raises:
          InvalidInputError: it is the folder of another config, or in use.
        """
        self.check(config)
        self._lock = FolderLock(self.path, "workdir")
        for folder in (self.path, self.checkpoints, self.figures):
            remove_leftovers(folder)

    def begin(self, config: ConfigDict, data: Mapping[str, Any] | None) -> None:
        """Makes the folder this config's and its data's, once nothing is refused.

        Where a run of fewer epochs is finished, its config stays until `export`: it is
        that of the results and the model that are here. The data are what
        `splits.training_data` says of it.
        """
        if data is None or data != data_in(self.path):
            keep_json(self.path / TRAINING_DATA, data)
        if not self.results.exists():
            self.keep(config)

    def keep(self, config: ConfigDict) -> None:
        """Writes the config, over one whose data lay elsewhere."""
        if not self.config.exists() or read_json(self.config) != as_json(config):
            write_json(self.config, config.to_dict())

    def release(self) -> None:
        """Lets other processes claim the folder."""
        if self._lock is not None:
            self._lock.release()

    def check(self, config: ConfigDict) -> None:
        """Raises InvalidInputError where this is the folder of another config, or a
        finished run of other data: the checkpoints of an unfinished one say so.

        More epochs are no other config, unless the learning rates depend on them. A
        finished run needs no data: those that cannot be read are not compared.
        """
        if not self.config.exists():
            return
        ours, theirs = as_json(config), read_json(self.config)
        if different_keys(ours, theirs) == ["epochs"] and self._is_shorter(config):
            if not depends_on_epochs(config):
                return
            raise InvalidInputError(
                f"`epochs` must be {theirs['epochs']}, on which the cosine schedule "
                "depends. For another run from these weights give a new workdir and "
                f"--config.start_from={self.path}. Received: epochs={config.epochs}"
            )
        check_same(ours, theirs, "be new or hold a run of this config", self.path)
        if self.results.exists() and (changed := self._changed_data(config)):
            raise InvalidInputError(
                f"`workdir` must hold a run of these {changed}: give another one, or "
                f"put them back as they were. Received: the {changed} have changed "
                f"since {self.results} was written"
            )

    def _changed_data(self, config):
        """What a finished run's data and a config's are known to differ in, or ""."""
        data_in(self.path)  # which says that it is damaged
        known = override(self.read_config(), data_dir=config.data_dir)
        with contextlib.suppress(InvalidInputError):
            if change_of_data(self.path, config):
                return "training data"
            if kinds_of_columns(known) != kinds_of_columns(config):  # in a file
                return "kinds of columns"
        return ""

    def is_finished(self, config: ConfigDict) -> bool:
        """Whether there are results of as many epochs as a config has."""
        return self.results.exists() and not self._is_shorter(config)

    def _is_shorter(self, config):
        """Whether what is here has fewer epochs than a config."""
        return (
            self.config.exists()
            and read_json(self.config).get("epochs", 0) < config.epochs
        )

    def read_config(self) -> ConfigDict:
        """The run's ConfigDict; raises as `config_in`."""
        return config_in(self.path)

    def export(
        self, model: keras.Model, config: ConfigDict, results: Mapping[str, Any] | None
    ) -> pathlib.Path:
        """Saves the model for serving and for Keras; returns the SavedModel's path.

        The SavedModel of a finished run of fewer epochs stays, and this is the next
        version. What an unfinished run left that got this far before is replaced.
        """
        if not self.results.exists():
            shutil.rmtree(self.saved_model, ignore_errors=True)
        data = data_in(self.path)
        exported = export(model, config, self.saved_model, results, data)
        self.results.unlink(missing_ok=True)
        write_through(self.model, lambda path: model.save(path))
        if model.schema is not None:
            write_json(self.path / SCHEMA, model.schema.to_json())
        self.keep(config)
        return exported

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes `metrics.csv`, a row an epoch; an epoch may lack some columns."""
        names = list(dict.fromkeys(name for row in history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.metrics, text.getvalue())

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`; none before the end of the first epoch."""
        if not self.metrics.exists():
            return []
        with open(self.metrics, newline="") as file:
            return list(csv.DictReader(file))

    def read_results(self) -> dict[str, Any] | None:
        """The run's results, or None where it is not finished."""
        return read_json(self.results) if self.results.exists() else None

    def load_model(self, name: str = "workdir") -> keras.Model:
        """The run's trained model.

        Args:
          name: what a message calls the folder.

        Raises:
          InvalidInputError: there is none, or it is damaged.
        """
        path = model_file(self.path, name)
        with readable(path, f"`{name}` must hold an intact model.keras"):
            return keras.models.load_model(path)


def load(workdir: str | os.PathLike[str]) -> keras.Model:
    """Loads the trained model of a finished run.

    Args:
      workdir: folder that `python -m iwae_tf.train` wrote.

    Returns:
      model: the compiled Keras model, ready to score or to train on.

    Raises:
      InvalidInputError: there is no finished run.
    """
    return Workdir(workdir).load_model()


def export(
    model: keras.Model,
    config: ConfigDict,
    path: str | os.PathLike[str],
    results: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Exports a model as the next version in `path`, its card beside it.

    The config is in the version, and beside all of them that of the newest one.

    Args:
      path: folder of the versions.
      results: the run's `results.json`, for the model card.
      data: the run's `training_data.json`.

    Returns:
      path: pathlib.Path of the new version.

    Raises:
      InvalidInputError: as `check_for_versions` of the folder.
    """
    check_for_versions(path)
    version = export_saved_model(model, path, config.eval_num_samples)
    schema = None if model.schema is None else model.schema.to_json()
    values = config.to_dict() | ({} if schema is None else {"schema": SCHEMA})
    about = {SCHEMA: schema, TRAINING_DATA: data, "config.json": values}
    for folder in (version / EXTRA, version.parent):
        for name, value in about.items():
            keep_json(folder / name, value)
    model_card.write(
        version.parent,
        version=version.name,
        config=config.to_dict(),
        event_shape=model.event_shape,
        has_warmup=(version / warmup.FILE).is_file(),
        versions=library_versions(),
        results=results,
    )
    return version


def config_in(folder: pathlib.Path) -> ConfigDict:
    """The ConfigDict in the folder of a run, or of the versions of an export.

    The columns of a table are those that the model was trained on.

    Raises:
      InvalidInputError: there is none, or it is damaged.
    """
    config, schema = read_config(folder / "config.json"), folder / SCHEMA
    if schema.is_file():
        load_schema(schema)  # which tells a damaged one
        config.schema = str(schema)
    return config


def data_in(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a model was trained on, in the folder of a run or of an export.

    Returns:
      dict of `splits.training_data`; None of a data set that is known by name, and of
      runs of earlier versions.

    Raises:
      InvalidInputError: it is damaged.
    """
    path = folder / TRAINING_DATA
    return read_json(path) if path.is_file() else None


def change_of_data(
    folder: pathlib.Path, config: ConfigDict
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What a model was trained on, and what is there now; None if no change is known.

    Args:
      folder: of the run, or of the versions of the export.
      config: its ConfigDict, or one that says where the same data set lies now.
    """
    known = data_in(folder) or {}
    if known.get("dataset") != config.dataset:
        return None
    found = training_data(config) or {}
    return None if known.get("sha256") == found.get("sha256") else (known, found)


def check_data(
    folder: pathlib.Path, config: ConfigDict, *, is_other: bool = False
) -> list[str]:
    """Refuses data that have changed since the training: their splits are others.

    Args:
      folder: of the run, or of the versions of the export.
      config: its ConfigDict, or one that names other data.
      is_other: whether `data_dir` is not the config's but was named for this.

    Returns:
      lines to be told.

    Raises:
      InvalidInputError: the data have changed, or have not the classes of the training.
    """
    change = change_of_data(folder, config)
    if change is None:
        return []
    if not is_other:
        raise InvalidInputError(
            "`data_dir` must hold the data that the model was trained on, or any split "
            "may hold examples of the training: put them back as they were, or have "
            f"them taken as other data by --data_dir={config.data_dir}. Received: "
            f"{config.data_dir}, which has changed since the training"
        )
    names, found = (data.get("classes", []) for data in change)
    if names != found:
        raise InvalidInputError(
            "`data_dir` must have a folder with images for each class of the training, "
            f"{', '.join(names)}, and no other. Received: {config.data_dir}, which has "
            f"{', '.join(found) or 'no folders'}"
        )
    return [
        f"note: {config.data_dir} is not what the model was trained on; its splits may "
        "hold examples of the training"
    ]


def load_exported(
    path: str | os.PathLike[str], **overrides: Any
) -> tuple[keras.Model, ConfigDict]:
    """The Keras model of a SavedModel that `export` wrote, from the config beside it.

    Args:
      path: the folder of the versions, whose newest is taken, or of one version.
      overrides: values in place of the config's, as of data that lie elsewhere; not
        those that are None.

    Returns:
      (model, its ConfigDict).

    Raises:
      InvalidInputError: there is none, it is damaged, or not what its config says.
    """
    version = find_version(path)
    config = override(config_in(about_version(version)), **overrides)
    model = build_model(config)
    restore_weights(model, version)
    set_draws(model, config)  # not those of the first stage
    return model, config


def deciding_settings(config: ConfigDict) -> dict[str, Any]:
    """What of a config decides the numbers of the training, as JSON."""
    settings = as_json(config) | {"start_from": bool(config.start_from)}
    return {key: v for key, v in settings.items() if key not in NOT_DECIDING}
