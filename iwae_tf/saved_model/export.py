"""Writes a model as the next version of a SavedModel."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import tensorflow as tf

from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import version_numbers
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.graphs import no_graph_is_kept
from iwae_tf.saved_model import signatures, warmup


@no_graph_is_kept()
def export_saved_model(
    model: Autoencoder,
    path: str | os.PathLike[str],
    num_samples: int = 5000,
    *,
    refined: bool = True,
    warmup_requests: bool | str = "auto",
) -> pathlib.Path:
    """Writes a model as the next version of a SavedModel.

    The layout is that of TensorFlow Serving, `path/1`, `path/2`, ... A version is
    written to a temporary folder and moved into place. No version is ever overwritten.
    Images of a batch have independent noise, and the same seed gives the same answer as
    `iwae_tf.log_likelihood`.

    Args:
      model: a built model of this package.
      path: folder of the versions.
      num_samples: draws of `serving_default`.
      refined: whether the version has the signature `refined_log_likelihood`.
      warmup_requests: whether the version holds a request of each signature that has
        inputs, which TensorFlow Serving replays when it loads it; see `warmup`. "auto":
        where tensorflow-serving-api is installed.

    Returns:
      path: pathlib.Path of the new version.

    Raises:
      InvalidInputError: an unbuilt model or a bad `num_samples`; `warmup_requests=True`
        without tensorflow-serving-api.
      OSError: the disk is full or read-only.
    """
    num_samples = check_count(num_samples, "num_samples")
    check_choice(warmup_requests, "warmup_requests", ("auto", True, False))
    if warmup_requests == "auto":
        warmup_requests = warmup.is_available()
    elif warmup_requests:
        warmup.check_available("`warmup_requests`")
    if not model.built:
        raise InvalidInputError("`model` must be built. Received: no variables")
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    module = tf.Module()  # Keras' own tracking would need Keras to load
    module.weights = [variable.value for variable in model.weights]
    functions = signatures.trace(model, num_samples, refined)
    try:
        with _temporary_folder(folder) as temporary:
            tf.saved_model.save(module, str(temporary), functions)
            if warmup_requests:
                requests = signatures.example_inputs(model, functions)
                warmup.write(temporary, folder.resolve().name, requests)
            return _move_into_place(temporary, folder)
    except tf.errors.OpError as error:  # how TensorFlow tells of a full disk
        raise OSError(f"{folder} could not be written: {error.message}") from error


@contextlib.contextmanager
def _temporary_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder aside, locked until it is moved or removed.

    The operating system drops the lock of a killed export, and the next export removes
    the folder. `folder` itself is locked meanwhile, so that no folder is found between
    its making and its locking.
    """
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    with contextlib.ExitStack() as held:
        with _locked(folder):
            for other in folder.glob(f".{'[0-9a-f]' * 32}.tmp"):
                with (
                    contextlib.suppress(OSError),
                    _locked(other, fcntl.LOCK_NB) as is_left_over,
                ):
                    if is_left_over:
                        shutil.rmtree(other)
            temporary.mkdir()
            held.callback(shutil.rmtree, temporary, ignore_errors=True)
            held.enter_context(_locked(temporary))
        yield temporary


@contextlib.contextmanager
def _locked(folder: pathlib.Path, mode: int = 0) -> Iterator[bool]:
    """Locks a folder; False where somebody has it, or where there are no locks."""
    descriptor, is_ours = os.open(folder, os.O_RDONLY), False
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | mode)
            is_ours = True
        yield is_ours
    finally:
        os.close(descriptor)


def _move_into_place(temporary, folder):
    """Renames a finished export to the next free version and returns its path."""
    version = max(version_numbers(folder), default=0) + 1
    while True:
        target = folder / str(version)
        try:
            temporary.rename(target)  # refuses a folder that is not empty
            return target
        except OSError:
            if not target.exists():
                raise
            version += 1
