"""Layers around one network: they change what it is given, or what it returns."""

import inspect
from collections.abc import Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks.mlp import MLP

SECOND = ("log_scale", "log_variance")


def call_network(
    network: keras.Layer, inputs: Any, training: bool, records: Any = None
) -> Any:
    """Calls a network, with `training` where it takes it."""
    keywords: dict[str, Any] = {} if records is None else {"records": records}
    if "training" in inspect.signature(network.call).parameters:
        keywords["training"] = training
    return network(inputs, **keywords)


class _Wrapper(keras.Layer):
    """A layer that is saved with the network that it is around."""

    def __init__(self, network: keras.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        deserialize = keras.saving.deserialize_keras_object
        network = deserialize(config["network"], custom_objects)
        return cls(**{**config, "network": network})


@keras.saving.register_keras_serializable("iwae_tf")
class WithLabels(_Wrapper):
    """Makes a network with one input usable in a conditional model.

    The one-hot labels are appended to the last axis of the inputs: more elements of a
    vector, constant channels of an image.

    Args:
      network: Keras layer or model with one input.

    Input: list [inputs, labels], float [rows, ..., D] and [rows, num_classes].
    Output: what `network` returns for float [rows, ..., D + num_classes].
    """

    @property
    def rows_are_independent(self) -> bool:
        return getattr(self.network, "rows_are_independent", False)

    @property
    def takes_records(self) -> bool:
        return getattr(self.network, "takes_records", False)

    def build(self, input_shape: Sequence[Any]) -> None:
        if not self.network.built:
            self.network.build(_appended(input_shape))
        self.built = True

    def call(
        self, inputs: Any, training: bool = False, records: Any = None
    ) -> tf.Tensor:
        inputs, labels = inputs
        between = inputs.shape[1:-1]
        shape = (-1, *[1] * len(between), labels.shape[-1])
        labels = keras.ops.reshape(keras.ops.cast(labels, inputs.dtype), shape)
        labels = keras.ops.tile(labels, (1, *between, 1))
        joined = keras.ops.concatenate([inputs, labels], axis=-1)
        return call_network(self.network, joined, training, records)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[Any, ...]:
        return self.network.compute_output_shape(_appended(input_shape))


def with_labels(network: keras.Layer) -> keras.Layer:
    """`network` as one that is called on [inputs, labels]: an `MLP` is, by itself."""
    return network if isinstance(network, MLP) else WithLabels(network)


def _appended(shapes):
    """Shape of inputs with labels appended to the last axis."""
    inputs, labels = shapes
    return (*inputs[:-1], inputs[-1] + labels[-1])


@keras.saving.register_keras_serializable("iwae_tf")
class TwoHeads(_Wrapper):
    """Turns a network with two outputs into one that returns loc and log_scale.

    Many VAEs return (mean, log-variance), or (mean, log-variance, z). A log-variance
    and a log-scale have the same shape, so `second` has to say which one it is.

    Args:
      network: Keras layer or model that returns a list: loc and `second`, each
        float [rows, latent_dim]. Other outputs, such as a draw of z, are left out.
      second: "log_variance", of which log_scale is the half, or "log_scale".

    Input: what `network` takes.
    Output: float [rows, 2 * latent_dim], loc and log_scale.

    Raises:
      InvalidInputError: another `second`, or a network that returns one tensor.
    """

    def __init__(self, network: keras.Layer, second: str, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        check_choice(second, "second", SECOND)
        self.second = second

    def build(self, input_shape: Any) -> None:
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        outputs = call_network(self.network, inputs, training)
        if not isinstance(outputs, (list, tuple)) or len(outputs) < 2:
            raise InvalidInputError(
                f"`network` must return a list, loc and {self.second}. "
                f"Received: a {type(outputs).__name__}"
            )
        loc, second = outputs[:2]
        factor = 0.5 if self.second == "log_variance" else 1.0
        return keras.ops.concatenate([loc, factor * second], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "second": self.second}
