"""What Keras' `fit`, `evaluate` and `predict` are called with, checked."""

import inspect
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.checks import check_count, is_number
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.private import holds_arrays, train_validation_split

PARTS = ("x", "y", "sample_weight")  # of data, and arguments of `fit`
OF_EPOCHS = ("epochs", "initial_epoch")  # which may be zero
COUNTS = (
    *("batch_size", "steps", "steps_per_epoch", "validation_freq"),
    *("validation_batch_size", "validation_steps", *OF_EPOCHS),
)


def by_name(
    method: Callable[..., Any], x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of a call of a method of Keras, counts checked."""
    arguments = inspect.signature(method).bind(None, x, *args, **kwargs).arguments
    own = {n: _without_index(v) for n, v in arguments.items() if n != "self"}
    own |= own.pop("kwargs", {})
    for name in own.keys() & set(COUNTS):
        if own[name] is None and name not in OF_EPOCHS:
            continue
        if name != "validation_freq" or not isinstance(own[name], (list, tuple, set)):
            own[name] = check_count(own[name], name, name not in OF_EPOCHS)
    return own


def _without_index(value):
    """A pandas Series as an array [N]: Keras would hand it on as [N, 1]."""
    if isinstance(value, tuple):
        return tuple(map(_without_index, value))
    is_series = hasattr(value, "to_numpy") and value.ndim == 1
    return value.to_numpy() if is_series else value


def hold_out(arguments: dict[str, Any]) -> None:
    """Turns `validation_split` of a `fit` of arrays into `validation_data`."""
    share = arguments.pop("validation_split", 0.0)
    if not is_number(share) or not 0.0 <= share < 1.0:
        raise InvalidInputError(
            "`validation_split` must be a share of the data, in [0, 1). "
            f"Received: validation_split={share!r}"
        )
    if share and arguments.get("validation_data") is None:
        parts, arguments["validation_data"] = train_validation_split(
            [arguments.get(name) for name in PARTS], share
        )
        arguments |= zip(PARTS, parts)


def check(
    gate: Any, x: Any, arguments: dict[str, Any], names: tuple[str, ...] = PARTS[:2]
) -> None:
    """Checks arrays, and refuses what Keras would leave out beside batches. It leaves
    weights out where there is no y: then there is one that means nothing."""
    y = arguments.get("y")
    if holds_arrays(x):
        gate.arrays(x, y, names)
        for name in PARTS[1:]:  # a list would be refused as another type of x
            if arguments.get(name) is not None:
                arguments[name] = _one_each(arguments[name], name, len(x))
        weights = arguments.get("sample_weight")
        gate.weights(weights)
        if weights is not None and not np.any(weights):
            raise InvalidInputError(
                "`sample_weight` must be above 0 for some examples. Received: zeros"
            )
        refused, rule = ["class_weight"] * (y is None), "without `y`"
        if y is None and arguments.get("sample_weight") is not None:
            arguments["y"] = np.zeros([len(x)], np.int32)
    else:
        refused, rule = [*PARTS[1:]], "where `x` yields batches of its own"
        refused += ["class_weight"] * isinstance(x, types.GeneratorType)
    for name in refused:
        if arguments.get(name) is not None:
            raise InvalidInputError(
                f"`{name}` must be left out {rule}. "
                f"Received: {name} beside a {type(x).__name__}"
            )


def _one_each(values, name, count):
    """Values beside x, one or more an example, as an array."""
    values = np.asarray(values) if isinstance(values, (list, tuple)) else values
    if np.shape(values)[:1] != (count,):
        raise InvalidInputError(
            f"`{name}` must have one value for each of the {count} examples. "
            f"Received: shape={tuple(np.shape(values))}"
        )
    return values


def check_end(x: Any, arguments: dict[str, Any], name: str) -> None:
    """Refuses a pass over a tf.data.Dataset that would not end, without steps, and one
    over a PyDataset that would end before them."""
    steps, count = arguments.get(name), getattr(x, "num_batches", None)
    if isinstance(x, keras.utils.PyDataset) and steps and count:
        epochs = 1  # each of the other passes begins anew
        if name == "steps_per_epoch":
            epochs = arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
        if epochs * steps > count and count % steps:
            raise InvalidInputError(
                f"`{name}` must divide the {count} batches of the PyDataset, or take "
                "no more in all: it does not begin anew within a pass. "
                f"Received: {name}={steps}"
            )
    if not isinstance(x, tf.data.Dataset) or steps is not None:
        return
    if int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise InvalidInputError(
            f"`{name}` must be given for data that are repeated without an end. "
            f"Received: {name}=None"
        )
