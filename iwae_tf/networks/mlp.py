"""Keras layers that return the parameters of distributions as plain tensors."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count, check_integer
from iwae_tf.errors import InvalidInputError


@keras.saving.register_keras_serializable("iwae_tf")
class Dense(keras.layers.Dense):
    """keras.layers.Dense on [rows, I], whose calls can be recorded.

    `records.add(layer, inputs, outputs)` is handed the outputs before the activation:
    see `models.one_pass`.
    """

    def call(self, inputs: tf.Tensor, records: Any = None) -> tf.Tensor:
        kernel, bias = (tf.convert_to_tensor(v) for v in (self.kernel, self.bias))
        outputs = tf.matmul(inputs, kernel) + bias
        if records is not None:
            records.add(self, inputs, outputs)
        return self.activation(outputs)


@keras.saving.register_keras_serializable("iwae_tf")
class MLP(keras.Layer):
    """Fully connected network on flattened input: the papers' encoder and decoder.

    As an encoder with `output_shape=(2 * latent_dim,)` it returns loc and log_scale;
    as a decoder with the event shape of x it returns logits.

    Args:
      hidden_dims: sequence of ints, units of each hidden layer; or one int.
      output_shape: tuple of ints, the shape of one output row; or its one int.
      activation: Keras activation of the hidden layers. If it is a Keras layer, all
        of them share it and its variables.
      output_bias: optional nested sequence of floats of shape `output_shape`, where
        the output starts, such as the logits of the mean training image.
      seed: optional int that the initial weights are a function of; None draws from
        Keras' global generator.

    Input: float [rows, ...], or a list of them: all are flattened and concatenated.
    Output: float [rows, *output_shape].
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] | int,
        output_shape: Sequence[int] | int,
        activation: str | Callable[[tf.Tensor], tf.Tensor] = "tanh",
        output_bias: ArrayLike | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dims = sizes_of(hidden_dims, "hidden_dims")
        self.row_shape = sizes_of(output_shape, "output_shape")
        self.activation = keras.activations.get(activation)
        self.output_bias = output_bias
        self.seed = seed
        if output_bias is not None and np.size(output_bias) != math.prod(
            self.row_shape
        ):
            raise InvalidInputError(
                f"`output_bias` must have the shape of the output, {self.row_shape}. "
                f"Received: shape={np.shape(output_bias)}"
            )
        self.hidden = [
            Dense(
                units,
                self.activation,
                kernel_initializer=glorot(seed, i),
                dtype=self.dtype_policy,
                name=f"hidden_{i}",
            )
            for i, units in enumerate(self.hidden_dims)
        ]
        self.out = Dense(
            math.prod(self.row_shape),
            kernel_initializer=glorot(seed, len(self.hidden)),
            bias_initializer=constant(output_bias),
            dtype=self.dtype_policy,
            name="output",
        )

    # Both let DReG and PIWAE do with one backward pass; see `models.one_pass`. An
    # activation that is a layer may mix rows, and has variables of its own.

    @property
    def rows_are_independent(self) -> bool:
        return not isinstance(self.activation, keras.Layer)

    takes_records = rows_are_independent

    def build(self, input_shape: Sequence[Any]) -> None:
        size = sum(math.prod(shape[1:]) for shape in _as_list(input_shape))
        for dense in [*self.hidden, self.out]:
            dense.build((None, size))
            size = dense.units
        if isinstance(self.activation, keras.Layer):
            self._build_activation()
        self.built = True

    def _build_activation(self):
        """Creates its variables, which must fit all hidden layers."""
        try:
            for units in self.hidden_dims:
                self.activation(keras.ops.zeros((1, units)))
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise InvalidInputError(
                "`activation` must take the outputs of all hidden layers, if it is a "
                f"layer. Received: {type(self.activation).__name__} and "
                f"hidden_dims={self.hidden_dims}"
            ) from error

    def call(self, inputs: Any, records: Any = None) -> tf.Tensor:
        parts = [
            keras.ops.reshape(part, (-1, math.prod(part.shape[1:])))
            for part in (inputs if isinstance(inputs, (list, tuple)) else [inputs])
        ]
        outputs = keras.ops.concatenate(parts, axis=-1) if parts[1:] else parts[0]
        for dense in self.hidden:
            outputs = dense(outputs, records=records)
        outputs = self.out(outputs, records=records)
        return keras.ops.reshape(outputs, (-1, *self.row_shape))

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[Any, ...]:
        return (_as_list(input_shape)[0][0], *self.row_shape)

    def get_config(self) -> dict[str, Any]:
        # The bias is where training starts from, not part of the architecture.
        return {
            **super().get_config(),
            "hidden_dims": self.hidden_dims,
            "output_shape": self.row_shape,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }


def glorot(seed: int | None, index: int) -> keras.Initializer:
    """Initial weights of kernel `index`: a function of the seed, if there is one."""
    if seed is not None:
        check_integer(seed, "seed", -(2**31))
        seed = int(seed) + index
    return keras.initializers.GlorotUniform(seed)


def constant(values: ArrayLike | None) -> str | Callable[..., tf.Tensor]:
    """Initial weights that are these, or zeros."""
    if values is None:
        return "zeros"
    array = keras.ops.convert_to_numpy(values)
    return lambda shape, dtype=None: keras.ops.convert_to_tensor(
        array.reshape(shape), dtype
    )


def sizes_of(sizes: int | Iterable[int], name: str) -> tuple[int, ...]:
    """Positive integers as a tuple, of a sequence or of one."""
    sizes = sizes if isinstance(sizes, Iterable) else [sizes]
    return tuple(check_count(size, name) for size in sizes)


def _as_list(shapes):
    """The shapes of a list of inputs, or the one shape of an input, as a list."""
    return shapes if isinstance(shapes[0], (list, tuple)) else [shapes]
