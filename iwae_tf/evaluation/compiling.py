"""Programs of a model that are compiled once and do not keep it alive."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from iwae_tf.models.graphs import program_of

_compiled: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def batches_of_one_size(num_rows: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of the first row of each batch, and those of all its rows.

    The last batch is filled up with copies of the last row: no new shape, no new
    program.
    """
    for first in range(0, num_rows, size):
        yield first, np.minimum(np.arange(first, first + size), num_rows - 1)


def compiled(
    model: keras.Model,
    make: Callable[..., Any],
    *settings: object,
    jit_compile: bool | None = None,
) -> Any:
    """The program of a model that `make` gives, compiled once.

    Args:
      model: a built model of this package.
      make: function of a weak reference to the model and of the settings, to the
        function that is compiled; this must not keep the model alive.
      *settings: what the program depends on beside the model.
      jit_compile: whether XLA compiles it; None: where the model's layers allow it.
    """
    if jit_compile is None:
        jit_compile = model.supports_xla
    programs, key = _compiled.setdefault(model, {}), (make, *settings)
    if key not in programs:
        programs[key] = program_of(make(weakref.ref(model), *settings), jit_compile)
    return programs[key]
