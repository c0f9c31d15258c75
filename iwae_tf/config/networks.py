"""The networks that a config names: fully connected or convolutional."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from ml_collections import ConfigDict

from iwae_tf.checks import check_memory
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP, with_labels
from iwae_tf.networks.conv import ConvDecoder, ConvEncoder
from iwae_tf.probability.distributions import LIKELIHOODS

# Where log_scale of the discretized logistic starts: a deviation of 0.25 in [0, 1].
FIRST_LOG_SCALE = -2.0


def build_networks(
    config: ConfigDict,
    output_shape: Sequence[int],
    mean_image: np.ndarray | None,
    policy: keras.dtype_policies.DTypePolicy,
) -> tuple[list[keras.Layer], list[keras.Layer]]:
    """Lists [q(z1|x), q(z2|z1), ...] and [p(x|z1), p(z1|z2), ...].

    The decoder's layers mirror the encoder's. Every network starts from a seed of its
    own, made from `config.seed`. Those of a conditional model take labels as well.

    Args:
      config: valid ConfigDict.
      output_shape: tuple of ints, of a row of the decoder's output.
      mean_image: optional float array of the shape of x, where that output starts.
      policy: keras.dtype_policies.DTypePolicy of all layers.

    Returns:
      encoder: list of keras.Layer.
      decoder: list of keras.Layer.

    Raises:
      InvalidInputError: images that a convolutional network cannot halve that often.
    """
    if config.network == "conv":
        _check_halvings(config, output_shape)
    elif config.hidden_dims[0]:
        # The first layer and the last: weights, gradients and two moments, float32.
        num_bytes = 2 * math.prod(output_shape) * config.hidden_dims[0][0] * 4 * 4
        what = f"x of {' x '.join(map(str, output_shape))} and these layers"
        check_memory(num_bytes, "hidden_dims", what, "--config.image_size")
    latent_dims = list(config.latent_dims)
    bias = _output_bias(mean_image, config.likelihood)
    encoder, decoder = [], []
    for layer, hidden_dims in enumerate(config.hidden_dims):
        seeds = np.random.SeedSequence((config.seed, layer)).generate_state(2)
        for_q, for_p = (
            {"seed": int(seed), "name": f"{half}_z{layer + 1}", "dtype": policy}
            for half, seed in zip(("encoder", "decoder"), seeds)
        )
        if layer == 0:
            for_p["output_bias"] = bias
        if layer == 0 and config.network == "conv":
            sizes = {"channels": config.conv_channels, "hidden_dims": hidden_dims}
            encoder.append(ConvEncoder(latent_dims[0], **sizes, **for_q))
            sizes["hidden_dims"] = hidden_dims[::-1]
            decoder.append(ConvDecoder(output_shape, **sizes, **for_p))
            continue
        encoder.append(MLP(hidden_dims, (2 * latent_dims[layer],), **for_q))
        row_shape = (2 * latent_dims[layer - 1],) if layer else output_shape
        decoder.append(MLP(hidden_dims[::-1], row_shape, **for_p))
    if config.conditional:
        encoder, decoder = (list(map(with_labels, half)) for half in (encoder, decoder))
    return encoder, decoder


def build_prior(config: ConfigDict, policy: keras.dtype_policies.DTypePolicy) -> MLP:
    """p(z_L|y) of a conditional model, a table of a row a class: no hidden layers."""
    seeds = np.random.SeedSequence((config.seed, len(config.latent_dims)))
    size, seed = 2 * config.latent_dims[-1], int(seeds.generate_state(1)[0])
    return MLP([], (size,), seed=seed, name="prior", dtype=policy)


def _check_halvings(config, output_shape):
    """Refuses images that are not halved that often, with what to type instead."""
    count = len(config.conv_channels)
    factor, sides = 2**count, output_shape[:-1]
    if len(sides) == 2 and not any(side % factor for side in sides):
        return
    hint = ""
    if config.dataset == "images":
        nearest = (str(max(1, round(side / factor)) * factor) for side in sides)
        hint = f": --config.image_size={','.join(nearest)} resizes them"
    raise InvalidInputError(
        f"`network` must be mlp unless x is images whose sides {factor} divides, for "
        f"the {count} `conv_channels`{hint}. Received: network=conv, x of "
        f"{' x '.join(map(str, sides))}"
    )


def _output_bias(mean_image, likelihood):
    """Where the decoder's output starts, from the mean training image."""
    if mean_image is None:
        return None
    if likelihood == "bernoulli":
        mean = np.clip(mean_image, 0.001, 0.999)
        return np.log(mean / (1.0 - mean))
    if LIKELIHOODS[likelihood].has_counts:
        mean_image = np.log(np.maximum(mean_image, 0.001))
        if likelihood == "poisson":
            return mean_image
    log_scale = FIRST_LOG_SCALE if likelihood == "discretized_logistic" else 0.0
    return np.concatenate([mean_image, np.full_like(mean_image, log_scale)], axis=-1)
