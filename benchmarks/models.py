"""The models, data and arithmetic that the benchmarks have in common."""

from typing import NamedTuple

import keras
import numpy as np

import iwae_tf
from benchmarks.common import Contender
from iwae_tf.networks import MLP
from iwae_tf.studies import times

LEARNING_RATE = 1e-3
BATCH_SIZE = 20
FIT_FLOPS = 8e10  # of one timed `fit`: about a second on two cores
MOST_STEPS = 300  # of one timed `fit`


class Sizes(NamedTuple):
    """Sizes of the networks of Burda et al., 2016. https://arxiv.org/abs/1509.00519"""

    event_shape: tuple = (28, 28, 1)
    hidden_dims: tuple = (200, 200)
    latent_dim: int = 50  # of the only layer, and of the upper one of two
    lower_latent_dim: int = 100  # z1 of two stochastic layers
    upper_hidden_dims: tuple = (100, 100)  # between z1 and z2
    compile_arguments: tuple = ()  # of `compile`, besides the optimiser


FULL = Sizes()
# Tracing and compiling take seconds a model: a quick run does without.
SMALL = Sizes((4, 4, 1), (8, 8), 3, 4, (6, 6), (("run_eagerly", True),))


def sizes_for(quick):
    """The paper's sizes, or tiny ones for a quick run."""
    return SMALL if quick else FULL


def one_layer_networks(sizes, dtype=None):
    """The package's own encoder and decoder of one stochastic layer."""
    encoder = MLP(sizes.hidden_dims, (2 * sizes.latent_dim,), dtype=dtype)
    return encoder, MLP(sizes.hidden_dims[::-1], sizes.event_shape, dtype=dtype)


def two_layer_networks(sizes):
    """[q(z1|x), q(z2|z1)] and [p(x|z1), p(z1|z2)] of the package's own networks."""
    lower, upper = sizes.lower_latent_dim, sizes.latent_dim
    encoder = [
        MLP(sizes.hidden_dims, (2 * lower,)),
        MLP(sizes.upper_hidden_dims, (2 * upper,)),
    ]
    decoder = [
        MLP(sizes.hidden_dims[::-1], sizes.event_shape),
        MLP(sizes.upper_hidden_dims[::-1], (2 * lower,)),
    ]
    return encoder, decoder


def keras_networks(sizes):
    """The same encoder and decoder of one layer as plain Keras models: a user's."""
    layers = keras.layers
    encoder = keras.Sequential(
        [
            layers.Flatten(),
            *(layers.Dense(units, "tanh") for units in sizes.hidden_dims),
            layers.Dense(2 * sizes.latent_dim),
        ]
    )
    decoder = keras.Sequential(
        [
            *(layers.Dense(units, "tanh") for units in sizes.hidden_dims[::-1]),
            layers.Dense(int(np.prod(sizes.event_shape))),
            layers.Reshape(sizes.event_shape),
        ]
    )
    return encoder, decoder


def compiled(model_class, networks, sizes, optimizer=None, **arguments):
    """A built model of the package, compiled as the README does."""
    model = model_class(*networks, **arguments)
    model.build((None, *sizes.event_shape))
    optimizer = optimizer or keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer=optimizer, **dict(sizes.compile_arguments))
    return model


def iwae(sizes, num_samples=50, **arguments):
    """A compiled IWAE of one stochastic layer of the package's own networks."""
    return compiled(
        iwae_tf.IWAE,
        one_layer_networks(sizes, arguments.get("dtype")),
        sizes,
        num_samples=num_samples,
        **arguments,
    )


def binary_images(count, event_shape, seed=0):
    """Random binary images, float32 [count, *event_shape]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (count, *event_shape)).astype(np.float32)


def network_flops(network, rows):
    """Arithmetic of the products of a network's dense layers on `rows` rows.

    A multiply-add counts as two.
    """
    kernels = [v for v in network.trainable_variables if len(v.shape) == 2]
    return 2 * rows * sum(int(np.prod(kernel.shape)) for kernel in kernels)


def forward_flops(model, batch_size, draws):
    """Arithmetic of one evaluation of `draws` log-weights an image.

    The first network of the encoder sees an image once, all others see every draw.
    """
    first, *rest = [*model.encoder, *model.decoder]
    return network_flops(first, batch_size) + sum(
        network_flops(network, batch_size * draws) for network in rest
    )


def training_flops(model, batch_size, draws):
    """Arithmetic of one training step: forward, and twice that for the gradients."""
    return 3 * forward_flops(model, batch_size, draws)


def steps_in_fit(step_flops, quick):
    """How many steps one timed `fit` has: it takes about as long for every model."""
    if quick:
        return 2
    return int(np.clip(FIT_FLOPS // step_flops, 10, MOST_STEPS))


def timed_fit(model, data, steps, batch_size=None):
    """A `Contender` for the steady state of `fit`, warmed up."""
    return Contender(times.timed_fit(model, data, steps, batch_size), steps)
