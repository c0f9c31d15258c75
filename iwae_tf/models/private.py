"""What Keras and TensorFlow have no public name for, under names of ours.

Nothing else of the package imports or reads what is private to them, but for
`keras_loop`, which overrides such methods of keras.Model. So this is what to look at
when a new version of either breaks something.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing, generator_data_adapter
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

GeneratorDataAdapter = generator_data_adapter.GeneratorDataAdapter


def holds_arrays(x: Any) -> bool:
    """Whether x is made of arrays, rather than something that yields batches."""
    return data_adapters.array_data_adapter.can_convert_arrays(x)


def data_adapter(x: Any, **options: Any) -> Any:
    """Keras' adapter of what yields batches; ValueError of what it does not know."""
    return data_adapters.get_data_adapter(x, **options)


def train_validation_split(
    arrays: Sequence[Any], share: float
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The first part of each array or None, and the last share of it."""
    return array_slicing.train_validation_split(tuple(arrays), validation_split=share)


def freeze_parts(model: keras.Model) -> None:
    """Hands `trainable=False` of a layer to those that it has made since."""
    for layer in model._flatten_layers():
        if not layer.trainable:
            layer.trainable = True  # a value that it has already is not handed on
            layer.trainable = False


def writes_hdf5() -> bool:
    """Whether Keras is writing a model's config down for an HDF5 file."""
    return bool(global_state.get_global_attribute("use_legacy_config"))


def learning_rate_of(optimizer: keras.Optimizer) -> Any:
    """The schedule or variable; `optimizer.learning_rate` has a schedule's value."""
    return optimizer._learning_rate


def op_callbacks() -> Any:
    """What `tf.debugging` has called with the result of each operation, if anything."""
    return context.context().op_callbacks


def gradient_registry() -> dict[str, Any]:
    """TensorFlow's custom gradients by name."""
    return ops.gradient_registry._registry


def merges_calls(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas of a strategy can be merged into one graph."""
    return strategy.extended._use_merge_call()
