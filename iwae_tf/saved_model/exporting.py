"""Export to SavedModels that run with TensorFlow alone.

| signature | inputs | outputs |
| --- | --- | --- |
| serving_default | x | log_likelihood, standard_error, effective_sample_size |
| log_likelihood | x, num_samples [], seed [2] | the same |
| error_bars | x, num_samples [], seed [2] | the same and jackknife_error |
| encode | x | loc, scale; with more layers loc_2, scale_2, ... |
| decode | z | mean |
| sample | num_samples [], seed [2] | mean, sample |
| reconstruct | x, seed [2] | mean |

Those of a conditional model take one input more, `y` int32 [batch], the class labels;
`sample` has one for each of `num_samples` images.
"""

import functools
import os
import pathlib
import re
import shutil
import uuid
from typing import Any

import tensorflow as tf

from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import estimate_in_graph
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.probability import noise
from iwae_tf.saved_model import warmup

WARMUP_SAMPLES = 100  # draws of a warm-up request that says how many
# What TensorFlow raises on a damaged export.
DAMAGE = (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError)


def export_saved_model(
    model: Autoencoder,
    path: str | os.PathLike[str],
    num_samples: int = 5000,
    *,
    warmup_requests: bool | str = "auto",
) -> pathlib.Path:
    """Writes a model as the next version of a SavedModel.

    The layout is TensorFlow Serving's, `path/1`, `path/2`, ...; a version is written
    aside and moved into place, and none is ever overwritten. Images of a batch have
    independent noise, and the same seed gives the same answer as
    `iwae_tf.log_likelihood`.

    Args:
      model: a built model of this package.
      path: folder of the versions.
      num_samples: draws of `serving_default`.
      warmup_requests: whether the version holds a request of each signature, which
        TensorFlow Serving replays when it loads it; see `warmup`. "auto": where
        tensorflow-serving-api is installed.

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
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    module = tf.Module()  # Keras' own tracking would need Keras to load
    module.weights = [variable.value for variable in model.weights]
    signatures = _signatures(model, num_samples)
    try:
        tf.saved_model.save(module, str(temporary), signatures)
        if warmup_requests:
            name = folder.resolve().name
            warmup.write(temporary, name, _warmup_inputs(model, num_samples))
        return _move_into_place(temporary, folder)
    except tf.errors.OpError as error:  # how TensorFlow tells of a full disk
        raise OSError(f"{folder} could not be written: {error.message}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_version(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of one version: `path` itself, or the newest in it.

    Raises:
      InvalidInputError: there is none.
    """
    folder = pathlib.Path(path).resolve()
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = _versions(folder)
    if not versions:
        raise InvalidInputError(
            "`saved_model` must be a folder NAME or NAME/1 of an export. "
            f"Received: {path}"
        )
    return folder / str(max(versions))


def restore_weights(model: Autoencoder, version: pathlib.Path) -> None:
    """Sets the weights of a built model to those of an export of such a model.

    Args:
      model: a built model of the export's architecture.
      version: folder of one version.

    Raises:
      InvalidInputError: the export is damaged, or of another architecture.
    """
    try:
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        model.set_weights(
            [
                reader.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE")
                for index in range(len(model.weights))
            ]
        )
    except DAMAGE as error:
        raise InvalidInputError(
            "`saved_model` must be an intact export of its config's model. "
            f"Received: {version}, {type(error).__name__}: {error}"
        ) from error


def load_saved_model(
    path: str | os.PathLike[str],
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Loads an export of this package.

    Args:
      path: the folder of the versions, whose newest is taken, or of one version.

    Returns:
      (pathlib.Path of the version, dict of signature functions). The functions work
      as long as the dict is kept.

    Raises:
      InvalidInputError: there is none, it is damaged, or not one of ours.
    """
    folder = find_version(path)
    try:
        loaded = tf.saved_model.load(str(folder))
        signatures = dict(loaded.signatures, loaded=loaded)
        signatures["log_likelihood"]
    except DAMAGE as error:
        raise InvalidInputError(
            f"`saved_model` must be an intact export. Received: {folder}, "
            f"{type(error).__name__}: {error}"
        ) from error
    return folder, signatures


def refusal(message: str) -> str:
    """The part of TensorFlow's report on a refused input that says what was wrong."""
    found = re.search(r"assertion failed: \[(.*?)\]( \[Op|\s*\[\[|$)", message, re.S)
    return " ".join((found[1] if found else message).split())


def _warmup_inputs(model, num_samples):
    """One request of each signature, with an image that the model itself drew."""
    x = model.sample(1, labels=0 if model.is_conditional else None)
    x = tf.cast(x, tf.float32)
    seed, one = tf.constant([0, 0]), tf.constant(1)
    draws = tf.constant(min(num_samples, WARMUP_SAMPLES))
    labels = {"y": tf.constant([0])} if model.is_conditional else {}
    requests = {
        "serving_default": {"x": x},
        "log_likelihood": {"x": x, "num_samples": draws, "seed": seed},
        "error_bars": {"x": x, "num_samples": draws, "seed": seed},
        "encode": {"x": x},
        "decode": {"z": tf.zeros([1, model.latent_dims[0]])},
        "sample": {"num_samples": one, "seed": seed},
        "reconstruct": {"x": x, "seed": seed},
    }
    return {name: inputs | labels for name, inputs in requests.items()}


def _signatures(model, num_samples):
    """Name of each signature to its concrete function."""
    images = tf.TensorSpec((None, *model.event_shape), tf.float32, "x")
    seed = tf.TensorSpec([2], tf.int32, "seed")
    count = tf.TensorSpec([], tf.int32, "num_samples")
    latents = tf.TensorSpec([None, model.latent_dims[0]], tf.float32, "z")
    labels = [tf.TensorSpec([None], tf.int32, "y")] if model.is_conditional else []

    @functools.partial(tf.function, autograph=False)  # traced once for three signatures
    def error_bars(x, num_samples, seed, y=None):
        y = _checked_labels(model, y, tf.shape(x)[0])
        x, num_samples = _checked(model, x), _at_least_one(num_samples)
        first_row = tf.constant(0, tf.int64)
        result = estimate_in_graph(
            model, x, num_samples, noise.make_key(seed), first_row, y
        )
        return {
            "log_likelihood": result.estimate,
            "standard_error": result.standard_error,
            "effective_sample_size": result.effective_sample_size,
            "jackknife_error": result.jackknife_error,
        }

    def log_likelihood(x, num_samples, seed, y=None):
        outputs = error_bars(x, num_samples, seed, y)
        return {name: outputs[name] for name in outputs if name != "jackknife_error"}

    def serving_default(x, y=None):
        return log_likelihood(x, tf.constant(num_samples), tf.constant([0, 0]), y)

    def encode(x, y=None):
        y = _checked_labels(model, y, tf.shape(x)[0])
        proposals = model.encode_layers(_checked(model, x), labels=y)
        outputs = {}
        for layer, proposal in enumerate(proposals, 1):
            suffix = f"_{layer}" if layer > 1 else ""
            outputs[f"loc{suffix}"] = proposal.mean()
            outputs[f"scale{suffix}"] = proposal.stddev()
        return outputs

    def decode(z, y=None):
        y = _checked_labels(model, y, tf.shape(z)[0])
        with tf.control_dependencies([_assert_finite(z, "z")]):
            z = tf.identity(z)
        return {"mean": model.decode(z, labels=y).mean()}

    def sample(num_samples, seed, y=None):
        num_samples = _at_least_one(num_samples)
        y = _checked_labels(model, y, num_samples)
        return {
            "mean": model.sample(num_samples, seed, labels=y, mean=True),
            "sample": model.sample(num_samples, seed, labels=y),
        }

    def reconstruct(x, seed, y=None):
        y = _checked_labels(model, y, tf.shape(x)[0])
        return {"mean": model.reconstruct(_checked(model, x), seed, labels=y)}

    specs = {
        serving_default: [images],
        log_likelihood: [images, count, seed],
        error_bars: [images, count, seed],
        encode: [images],
        decode: [latents],
        sample: [count, seed],
        reconstruct: [images, seed],
    }
    return {
        function.__name__: tf.function(
            _float32(function), autograph=False
        ).get_concrete_function(*spec, *labels)
        for function, spec in specs.items()
    }


def _float32(function):
    """`function` with every output cast to float32, under its own argument names."""

    @functools.wraps(function)
    def cast(*args):
        return {name: tf.cast(v, tf.float32) for name, v in function(*args).items()}

    return cast


def _checked(model, x):
    """`x`, once its values have been found fit to be scored."""
    checks = [_assert_finite(x, "x")]
    if model.in_unit_interval:
        in_range = tf.reduce_all((x >= 0.0) & (x <= 1.0))
        checks.append(tf.debugging.Assert(in_range, ["x: must be in [0, 1]"]))
    with tf.control_dependencies(checks):
        return tf.identity(x)


def _checked_labels(model, y, num_rows):
    """`y`, once it has been found to be a class for each row; None without labels."""
    if y is None:
        return None
    is_class = tf.reduce_all((y >= 0) & (y < model.num_classes))
    classes = f"y: must be in [0, {model.num_classes})"
    checks = [
        tf.debugging.Assert(is_class, [classes]),
        tf.debugging.Assert(tf.size(y) == num_rows, ["y: must have one label a row"]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(y)


def _assert_finite(values, name):
    """The check that an input holds no NaN or infinity."""
    is_finite = tf.reduce_all(tf.math.is_finite(values))
    return tf.debugging.Assert(is_finite, [f"{name}: not finite"])


def _at_least_one(num_samples):
    """`num_samples`, once it has been found to be positive."""
    message = ["num_samples: must be a positive integer", num_samples]
    with tf.control_dependencies([tf.debugging.Assert(num_samples > 0, message)]):
        return tf.identity(num_samples)


def _versions(folder):
    """Numbers of the versions in a folder."""
    names = (entry.name for entry in folder.glob("*"))
    return [int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)]


def _move_into_place(temporary, folder):
    """Renames a finished export to the next free version and returns its path."""
    version = max(_versions(folder), default=0) + 1
    while True:
        target = folder / str(version)
        try:
            temporary.rename(target)  # refuses a folder that is not empty
            return target
        except OSError:
            if not target.exists():
                raise
            version += 1
