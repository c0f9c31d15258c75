"""Means that are updated together: one operation a step instead of one each."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops


class JointMeans:
    """Weighted means of several quantities over the examples of an epoch.

    Args:
      names: of the quantities.

    `trackers` are Keras metrics, one a name, that read the shared sums.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = _Sums(len(names))
        self.trackers = {
            name: _Mean(self._sums, index, name) for index, name in enumerate(names)
        }

    @property
    def total_weight(self) -> float:
        """Of the examples so far."""
        return float(ops.convert_to_numpy(self._sums.count))

    def update_state(
        self, values: Sequence[tf.Tensor], sample_weight: tf.Tensor
    ) -> None:
        """Adds one batch.

        Args:
          values: sequence of float [B], in the order of the names.
          sample_weight: float [B].
        """
        self._sums.update_state(ops.stack(values), sample_weight)


class _Sums(keras.metrics.Metric):
    """Sums of the weighted values and of the weights.

    In float64: a float32 sum of a million log-likelihoods of -90 moves in steps of 8.
    """

    def __init__(self, size):
        super().__init__(name="sums")
        self.total = self.add_variable((size,), "zeros", "float64", name="total")
        self.count = self.add_variable((), "zeros", "float64", name="count")

    def update_state(self, values, sample_weight):
        total = ops.sum(values * sample_weight, axis=-1)
        self.total.assign_add(ops.cast(total, "float64"))
        self.count.assign_add(ops.cast(ops.sum(sample_weight), "float64"))

    def result(self):
        return ops.cast(ops.divide_no_nan(self.total, self.count), "float32")


class _Mean(keras.metrics.Metric):
    """One of the means, read from the shared sums."""

    def __init__(self, sums, index, name):
        super().__init__(name=name)
        self._sums = sums
        self._index = index

    def result(self):
        return self._sums.result()[self._index]

    def reset_state(self):
        self._sums.reset_state()
