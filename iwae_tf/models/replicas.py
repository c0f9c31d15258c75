"""Copies of a variable on several devices, kept equal."""

from collections.abc import Iterable

import keras
import tensorflow as tf


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
    if context.strategy.extended._use_merge_call():
        context.merge_call(copy_first)
