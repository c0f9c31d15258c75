"""Dense layers whose parameter gradients can weigh each row.

A row's backward signal is linear in the weight that the row has in the loss. So one
backward pass serves two losses that only weigh rows differently, one for the inputs
and one for the parameters, if the rows are rescaled where they are summed up.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

_row_weights = contextvars.ContextVar("row_weights", default=None)
_are_draws = contextvars.ContextVar("are_draws", default=True)


@contextlib.contextmanager
def row_weights(weights: tf.Tensor | None) -> Iterator[None]:
    """Within it, gradients of `Dense` parameters count row r `weights[r]` times.

    Args:
      weights: float32 [rows], for each `Dense` that is differentiated meanwhile.
    """
    token = _row_weights.set(weights)
    try:
        yield
    finally:
        _row_weights.reset(token)


@contextlib.contextmanager
def without_row_weights() -> Iterator[None]:
    """`Dense` layers called within it, on other rows, are left out of `row_weights`."""
    token = _are_draws.set(False)
    try:
        yield
    finally:
        _are_draws.reset(token)


@tf.custom_gradient
def affine(
    inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
    """inputs [rows, I] @ kernel [I, O] + bias [O]."""
    are_draws = _are_draws.get()

    def gradient(upstream):
        inputs_gradient = tf.matmul(upstream, kernel, transpose_b=True)
        weights = _row_weights.get()
        if weights is not None and are_draws:
            upstream = tf.cast(weights, upstream.dtype)[:, tf.newaxis] * upstream
        kernel_gradient = tf.matmul(inputs, upstream, transpose_a=True)
        return inputs_gradient, kernel_gradient, tf.reduce_sum(upstream, axis=0)

    return tf.matmul(inputs, kernel) + bias, gradient


@keras.saving.register_keras_serializable("iwae_tf")
class Dense(keras.layers.Dense):
    """keras.layers.Dense on [rows, I], with gradients that `row_weights` scales."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel, bias = (tf.convert_to_tensor(v) for v in (self.kernel, self.bias))
        return self.activation(affine(inputs, kernel, bias))
