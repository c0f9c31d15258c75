"""Programs of a model that do not keep it alive, and batches of one size for them."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.models.graphs import program_of

_compiled: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def gathered(values: Any, rows: Any) -> Any:
    """These rows of each tensor of a nest, in which None stays None."""
    return tf.nest.map_structure(
        lambda value: None if value is None else tf.gather(value, rows), values
    )


def over_batches(
    function: Callable[..., Iterable[Any]],
    values: tuple[Any, ...],
    size: int,
    on_progress: Callable[[int], object] | None = None,
) -> list[np.ndarray]:
    """Results of a function of rows, a batch of one size at a time.

    The last batch is filled up with copies of the last row: no new shape, no new
    program.

    Args:
      function: of the first row's number, int64, and the rows of each of the values,
        to arrays [b, ...].
      values: nests of tensors [N, ...] or None, the first one a tensor.
      size: most rows at once.
      on_progress: optional function of the number of rows just finished.

    Returns:
      list of arrays [N, ...].
    """
    num_rows = len(values[0])
    size = min(size, num_rows)
    parts = []
    for first in range(0, num_rows, size):
        rows = np.minimum(np.arange(first, first + size), num_rows - 1)
        count = min(size, num_rows - first)
        found = function(tf.constant(first, tf.int64), *gathered(values, rows))
        parts.append([np.asarray(part)[:count] for part in found])
        if on_progress:
            on_progress(count)
    return [np.concatenate(part) for part in zip(*parts)]


def compiled(
    model: keras.Model,
    function: Callable[..., Any],
    *,
    by_xla: bool | None = None,
    **settings: object,
) -> Any:
    """The program of a function of a model's `LatentModel`, compiled once.

    Args:
      model: a built model of this package.
      function: of the `LatentModel`, of what the program is called with, and of the
        settings by name.
      by_xla: whether XLA compiles it; None: where the model's layers allow it.
      **settings: what the program depends on beside the model.
    """
    if by_xla is None:
        by_xla = model.supports_xla
    programs, key = _compiled.setdefault(model, {}), (function, *settings.items())
    if key not in programs:
        reference: Any = weakref.ref(model)

        def of_model(*args):
            return function(reference().latent, *args, **settings)

        programs[key] = program_of(of_model, by_xla)
    return programs[key]
