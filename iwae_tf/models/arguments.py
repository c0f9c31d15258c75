"""What Keras' `fit`, `evaluate` and `predict` are called with, checked."""

import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError

PARTS = ("x", "y", "sample_weight")  # of data, and arguments of `fit`
COUNTS = (
    *("batch_size", "steps", "steps_per_epoch"),
    *("validation_batch_size", "validation_steps"),
)


def by_name(
    method: Callable[..., Any], x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of a call of a method of Keras, counts checked."""
    arguments = inspect.signature(method).bind(None, x, *args, **kwargs).arguments
    own = {n: _without_index(v) for n, v in arguments.items() if n != "self"}
    own |= own.pop("kwargs", {})
    given = [name for name in COUNTS if own.get(name) is not None]
    return own | {name: check_count(own[name], name) for name in given}


def _without_index(value):
    """A pandas Series as an array [N]: Keras would hand it on as [N, 1]."""
    if isinstance(value, tuple):
        return tuple(map(_without_index, value))
    is_series = hasattr(value, "to_numpy") and value.ndim == 1
    return value.to_numpy() if is_series else value


def hold_out(arguments: dict[str, Any]) -> None:
    """Turns `validation_split` of a `fit` of arrays into `validation_data`."""
    share = arguments.pop("validation_split", 0.0)
    if not 0.0 <= share < 1.0:
        raise InvalidInputError(
            "`validation_split` must be a share of the data, in [0, 1). "
            f"Received: validation_split={share}"
        )
    if share and arguments.get("validation_data") is None:
        parts, arguments["validation_data"] = array_slicing.train_validation_split(
            tuple(map(arguments.get, PARTS)), validation_split=share
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


def holds_arrays(x: Any) -> bool:
    """Whether x is made of arrays, rather than something that yields batches."""
    return data_adapters.array_data_adapter.can_convert_arrays(x)
