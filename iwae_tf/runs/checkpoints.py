"""Checkpoints of a training run: whole or not there, the last two kept."""

import functools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from iwae_tf.config.files import check_same
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import save_arrays

KEPT = 2
STATE = "state"  # member that holds the JSON beside the variables
SETTINGS = "settings"  # key of the state
DATA, COLUMNS = "training_data", "columns"  # keys of the settings, not of a config
NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.npz")


class Restored(NamedTuple):
    """Where the run was when the checkpoint was written."""

    epoch: int  # epochs that were finished
    step: int  # steps that were taken of the next one
    state: dict


class CheckpointStore:
    """Numbered `epoch-00012.npz` and `epoch-00012-step-000300.npz` in one folder.

    The second is of step 300 in the epoch after the twelfth. Each holds every variable
    of the model and of its optimiser, and a JSON state. It is written aside, flushed
    and moved into place; the CRC of the archive tells a damaged one. Nothing is ever
    unpickled.

    Args:
      folder: path, made when the first checkpoint is written.
      settings: optional dict, what decides the numbers of the run, of its data under
        "training_data", what its columns are under "columns". A checkpoint says of
        which it is; one of others is refused.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: dict[str, Any] | None = None
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.settings = settings

    def save(
        self, epoch: int, model: keras.Model, state: dict[str, Any], *, step: int = 0
    ) -> None:
        """Writes a checkpoint and drops all but the last two.

        Args:
          epoch: int, number of finished epochs.
          model: built and compiled Keras model.
          state: what JSON can hold.
          step: int, steps that were taken of the next epoch.

        Raises:
          FloatingPointError: a variable is not finite; nothing was written.
        """
        if self.settings is not None:
            state = {**state, SETTINGS: self.settings}
        arrays = pack(model, state)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FloatingPointError(f"the variable {name} is not finite")
        in_epoch = f"-step-{step:06d}" if step else ""
        path = self.folder / f"epoch-{epoch:05d}{in_epoch}.npz"
        save_arrays(path, **arrays)
        for _, old in self._paths()[:-KEPT]:
            old.unlink()

    @property
    def newest(self) -> pathlib.Path | None:
        """Path of the newest checkpoint, or None."""
        paths = self._paths()
        return paths[-1][1] if paths else None

    def restore_latest(
        self, model: keras.Model, report: Callable[[str], object] = print
    ) -> Restored | None:
        """Loads the newest intact checkpoint.

        Args:
          model: built and compiled Keras model of the same config.
          report: function of one line, told of each damaged file that was passed over,
            and of a checkpoint that does not say what it is of.

        Returns:
          Restored, or None where there is no checkpoint.

        Raises:
          InvalidInputError: there are checkpoints, but none is intact, or the newest
            intact one is of other settings.
        """
        paths = self._paths()
        for position, path in reversed(paths):
            try:
                state = unpack(model, path, functools.partial(self._check, path))
            except InvalidInputError:
                raise
            except Exception as error:  # of many kinds: zipfile's, zlib's, NumPy's
                report(f"checkpoint {path} is damaged and was skipped: {error}")
                continue
            if self.settings is not None and state.pop(SETTINGS, None) is None:
                report(f"warning: checkpoint {path} does not say which config it is of")
            return Restored(*position, state)
        if paths:
            raise InvalidInputError(
                f"`workdir` must hold an intact checkpoint. Received: {self.folder}, "
                f"all {len(paths)} damaged; delete the folder to begin again"
            )
        return None

    def _check(self, path: pathlib.Path, state: dict[str, Any]) -> None:
        """Refuses the checkpoint of another run."""
        theirs = state.get(SETTINGS)
        if self.settings is None or theirs is None:
            return
        # Those of earlier versions do not say.
        theirs = {key: self.settings.get(key) for key in (DATA, COLUMNS)} | theirs
        data = self.settings.get(DATA)
        rule = "hold checkpoints of this config"
        check_same(self.settings, {**theirs, DATA: data}, rule, path)
        if theirs[DATA] != data:
            raise InvalidInputError(
                "`workdir` must hold checkpoints of these training data: give another "
                "one, or put the data back as they were. Received: the training data "
                f"have changed since {path} was written"
            )

    def _paths(self) -> list[tuple[tuple[int, int], pathlib.Path]]:
        """((epoch, step), path) of each checkpoint, oldest first."""
        return sorted(
            ((int(match[1]), int(match[2] or 0)), path)
            for path in self.folder.glob("epoch-*.npz")
            if (match := NAME.fullmatch(path.name))
        )


def pack(model: keras.Model, state: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a checkpoint: every variable by its name, and the state as JSON."""
    arrays = {name: v.numpy() for name, v in variables_of(model).items()}
    return arrays | {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}


def unpack(
    model: keras.Model,
    file: Any,
    check: Callable[[dict[str, Any]], object] = lambda state: None,
) -> dict[str, Any]:
    """Sets all variables of a model from an archive of what `pack` gives, or none.

    Args:
      model: built and compiled Keras model.
      file: path or binary file.
      check: function of the state, called before anything is set.

    Returns:
      the state.

    Raises:
      Exception: of many kinds, where it is damaged or of another model.
    """
    with zipfile.ZipFile(file) as archive:  # before any header is parsed
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"bad CRC of {damaged}")
    with np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    state, variables = json.loads(arrays.pop(STATE).tobytes()), variables_of(model)
    check(state)  # first: what is of other settings need not have these variables
    ours, theirs = ({n: v.shape for n, v in d.items()} for d in (variables, arrays))
    if ours != theirs:
        raise ValueError("its variables are not those of this model")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return state


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Gives every variable of a model and its optimiser the value of another's."""
    theirs = variables_of(source).values()
    for variable, value in zip(variables_of(target).values(), theirs, strict=True):
        variable.assign(value)


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Name to variable, for model and optimiser, in a fixed order."""
    if not model.optimizer.built:  # that of float16 makes new ones each time
        model.optimizer.build(model.trainable_variables)
    groups = {"model": model.weights, "optimizer": model.optimizer.variables}
    return {
        f"{group}:{index}:{_name(variable)}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _name(variable: keras.Variable) -> str:
    """A variable's path without the number of the optimiser or model in the process."""
    path = re.sub(r"^([^/]*?)_\d+/", r"\1/", variable.path)
    return re.sub("[^a-zA-Z0-9_]", "_", path)
