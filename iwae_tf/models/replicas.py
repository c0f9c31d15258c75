"""Replicas on several devices: rows of one batch, and variables that are kept equal."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.models.private import merges_calls
from iwae_tf.models.programs import PaddedBatch


def keep_equal(variables: Iterable[keras.Variable]) -> None:
    """Gives all replicas of a process the first one's value of some variables.

    Each replica applies the same update to its copy, but TensorFlow rewrites the graph
    of each as it sees fit, and may add up the terms of one in another order. A
    checkpoint holds one copy: where they differ, a resumed run is another. Outside of
    replicas, and of one alone, this does nothing.

    Args:
      variables: of a model and its optimiser.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return

    def copy_first(strategy):
        for variable in variables:
            first, *others = strategy.experimental_local_results(variable.value)
            if others:
                strategy.extended.update(
                    variable.value,
                    lambda copy, value: copy.assign(value),
                    args=(first.read_value(),),
                    group=False,
                )

    # Without it, of workers that have several GPUs each, there is no common graph.
    if merges_calls(context.strategy):
        context.merge_call(copy_first)


def place_in_global_batch(x: tf.Tensor, data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Index of the first row of `x` in the batch of all replicas, and its size.

    Args:
      x: [rows, ...] of this replica.
      data: the batch that it is from.

    Returns:
      (first_row, num_rows): int64 scalars.
    """
    if isinstance(data, PaddedBatch):
        return tf.zeros([], tf.int64), data.num_rows
    rows = tf.shape(x, out_type=tf.int64)[0]
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.zeros([], tf.int64), rows
    sizes = context.all_gather(rows[tf.newaxis], axis=0)
    before = tf.range(context.num_replicas_in_sync) < context.replica_id_in_sync_group
    return tf.reduce_sum(tf.where(before, sizes, 0)), tf.reduce_sum(sizes)
