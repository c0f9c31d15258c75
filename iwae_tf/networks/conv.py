"""Residual convolutional networks for images: an encoder and a decoder.

All convolutions are 3 x 3 with stride one. Between two resolutions blocks of 2 x 2
pixels become channels, or channels blocks of pixels (Shi et al. 2016). There is no
normalisation across the batch, so that rows are independent.

XLA compiles these layers, but its convolutions on a CPU are many times slower than
TensorFlow's: `compile(jit_compile="auto")` leaves XLA out, `jit_compile=True` does not.

References:
  He et al., 2016 (residual blocks, activations first). https://arxiv.org/abs/1603.05027
  Shi et al., 2016 (channels to pixels). https://arxiv.org/abs/1609.05158
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks.mlp import MLP, constant, glorot, sizes_of

BLOCK = 2  # pixels of a side that become channels at each halving


class _ConvNetwork(keras.Layer):
    """What encoder and decoder have in common: settings and their convolutions."""

    # Lets DReG do with one backward pass; see `gradients`.
    rows_are_independent = True
    # Leaves XLA out unless it is asked for; Keras' `supports_jit` would refuse it.
    is_slow_under_xla = True

    def __init__(self, channels, hidden_dims, activation, seed, **kwargs):
        super().__init__(**kwargs)
        self.channels = sizes_of(channels, "channels")
        self.hidden_dims = sizes_of(hidden_dims, "hidden_dims")
        self.activation = keras.activations.get(activation)
        self.seed = seed
        if not self.channels:
            raise InvalidInputError(
                "`channels` must be positive integers, one for each resolution. "
                f"Received: channels={channels}"
            )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_dims": self.hidden_dims,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }

    def _convolution(self, filters, index, **kwargs):
        """A convolution whose initial weights are of stream `index` of the seed."""
        return keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            data_format="channels_last",
            # The dense layers have the first streams.
            kernel_initializer=glorot(self.seed, len(self.hidden_dims) + 1 + index),
            dtype=self.dtype_policy,
            **kwargs,
        )

    def _dense(self, row_shape):
        """The dense layers, whose output rows have this shape."""
        return MLP(
            self.hidden_dims,
            row_shape,
            self.activation,
            seed=self.seed,
            dtype=self.dtype_policy,
            name="dense",
        )

    def _residual_block(self, filters, index):
        """Its two convolutions."""
        return [
            self._convolution(filters, index + i, name=f"block_{index}_{i}")
            for i in range(2)
        ]

    def _add_block(self, block, outputs):
        """outputs + conv(activation(conv(activation(outputs))))."""
        change = outputs
        for convolution in block:
            change = convolution(self.activation(change))
        return outputs + change


@keras.saving.register_keras_serializable("iwae_tf")
class ConvEncoder(_ConvNetwork):
    """Residual convolutional encoder: q(z|x) of images.

    For each entry of `channels` the image is halved by taking 2 x 2 pixels as channels,
    and goes through a convolution and a residual block. The last part is an `MLP`.

    Args:
      latent_dim: int, of z.
      channels: sequence of ints, those of each resolution, from x inwards.
      hidden_dims: sequence of ints, units of dense layers between the last resolution
        and the output.
      activation: Keras activation of all hidden layers.
      seed: optional int that the initial weights are a function of; None draws from
        Keras' global generator.

    Input: float [rows, H, W, C], H and W divisible by 2^len(channels).
    Output: float [rows, 2 * latent_dim], loc and log_scale.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int] = (16, 32),
        hidden_dims: Sequence[int] = (),
        activation: str | Callable[[tf.Tensor], tf.Tensor] = "elu",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(channels, hidden_dims, activation, seed, **kwargs)
        self.latent_dim = check_count(latent_dim, "latent_dim")
        self.halvings = [
            self._convolution(count, 3 * i, name=f"halving_{i}")
            for i, count in enumerate(self.channels)
        ]
        self.blocks = [
            self._residual_block(count, 3 * i + 1)
            for i, count in enumerate(self.channels)
        ]
        self.dense = self._dense((2 * self.latent_dim,))

    def build(self, input_shape: Sequence[Any]) -> None:
        height, width, count = _image_shape(input_shape[1:], len(self.channels))
        for halving, block in zip(self.halvings, self.blocks):
            height, width = height // BLOCK, width // BLOCK
            halving.build((None, height, width, BLOCK**2 * count))
            count = halving.filters
            for convolution in block:
                convolution.build((None, height, width, count))
        self.dense.build((None, height, width, count))
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = inputs
        for halving, block in zip(self.halvings, self.blocks):
            outputs = halving(tf.nn.space_to_depth(outputs, BLOCK))
            outputs = self._add_block(block, outputs)
        return self.dense(self.activation(outputs))

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[Any, ...]:
        return (input_shape[0], 2 * self.latent_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable("iwae_tf")
class ConvDecoder(_ConvNetwork):
    """Residual convolutional decoder: the parameters of p(x|z) of images.

    The mirror image of `ConvEncoder`: an `MLP` makes the smallest image, and for each
    entry of `channels`, the last one first, it goes through a residual block and a
    convolution whose channels become 2 x 2 pixels.

    Args:
      output_shape: tuple of ints, (H, W, channels of x times parameters of an element
        of x), H and W divisible by 2^len(channels).
      channels: sequence of ints, those of each resolution, from x inwards.
      hidden_dims: sequence of ints, units of dense layers, from z outwards.
      activation: Keras activation of all hidden layers.
      output_bias: optional nested sequence of floats of shape `output_shape`, where
        the output starts, such as the logits of the mean training image.
      seed: optional int that the initial weights are a function of; None draws from
        Keras' global generator.

    Input: float [rows, latent_dim]. Output: float [rows, *output_shape].
    """

    def __init__(
        self,
        output_shape: Sequence[int],
        channels: Sequence[int] = (16, 32),
        hidden_dims: Sequence[int] = (),
        activation: str | Callable[[tf.Tensor], tf.Tensor] = "elu",
        output_bias: ArrayLike | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(channels, hidden_dims, activation, seed, **kwargs)
        self.row_shape = sizes_of(output_shape, "output_shape")
        height, width, count = _image_shape(self.row_shape, len(self.channels))
        self.output_bias = output_bias
        if output_bias is not None and np.shape(output_bias) != self.row_shape:
            raise InvalidInputError(
                f"`output_bias` must have the shape of the output, {self.row_shape}. "
                f"Received: shape={np.shape(output_bias)}"
            )
        factor = BLOCK ** len(self.channels)
        smallest = (height // factor, width // factor, self.channels[-1])
        self.dense = self._dense(smallest)
        self.blocks, self.doublings = [], []
        for i, next_count in enumerate([*self.channels[-2::-1], count]):
            self.blocks.append(self._residual_block(self.channels[-1 - i], 3 * i))
            self.doublings.append(
                self._convolution(
                    BLOCK**2 * next_count,
                    3 * i + 2,
                    use_bias=i < len(self.channels) - 1,
                    name=f"doubling_{i}",
                )
            )

    def build(self, input_shape: Sequence[Any]) -> None:
        self.dense.build(input_shape)
        height, width, count = self.dense.row_shape
        for block, doubling in zip(self.blocks, self.doublings):
            for convolution in [*block, doubling]:
                convolution.build((None, height, width, count))
            height, width = height * BLOCK, width * BLOCK
            count = doubling.filters // BLOCK**2
        # One a pixel, not one a channel, so that it can hold the mean image.
        self.bias = self.add_weight(
            shape=self.row_shape, initializer=constant(self.output_bias), name="bias"
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = self.dense(inputs)
        for block, doubling in zip(self.blocks, self.doublings):
            outputs = self.activation(self._add_block(block, outputs))
            outputs = tf.nn.depth_to_space(doubling(outputs), BLOCK)
        return outputs + keras.ops.cast(self.bias, outputs.dtype)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[Any, ...]:
        return (input_shape[0], *self.row_shape)

    def get_config(self) -> dict[str, Any]:
        # The bias is where training starts from, not part of the architecture.
        return {**super().get_config(), "output_shape": self.row_shape}


def _image_shape(shape, num_halvings):
    """(H, W, C), once H and W have been found to halve that often."""
    factor = BLOCK**num_halvings
    shape = tuple(shape)
    if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
        raise InvalidInputError(
            f"images of a convolutional network must be [H, W, C], H and W divisible "
            f"by {factor}, for {num_halvings} resolutions. Received: shape={shape}"
        )
    return shape
