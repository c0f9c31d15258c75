"""One backward pass through the decoder where the weights of its draws differ.

PIWAE's decoder and encoder weigh the draws differently, and so does DReG: the plain way
goes backward through the decoder twice. But where each draw is a row of its own, the
row's backward signal is linear in its weight. So one pass with the weights of the
encoder's bound serves both, if it is rescaled where rows are summed up: at z for DReG,
and in the parameter gradients of dense layers for PIWAE's decoder. The factors are in
[0, 1] and in [0, M]; the other direction would divide by weights that underflow.

The layers whose parameter gradients are rescaled add what they were called on, and
their outputs before the activation, to `Records`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.models.gradients import DrawWeights, by_source, trainable
from iwae_tf.models.latent_model import LatentModel

PullBack = Callable[[tf.Tensor, Any], Any]  # of draw weights, to sources


class Records:
    """Calls of dense layers, in order. Not a list: Keras would copy a list."""

    def __init__(self) -> None:
        self.calls: list[tuple[keras.layers.Dense, tf.Tensor, tf.Tensor]] = []

    def add(
        self, layer: keras.layers.Dense, inputs: tf.Tensor, outputs: tf.Tensor
    ) -> None:
        """Notes inputs [rows, I] and outputs [rows, O] before the activation."""
        self.calls.append((layer, inputs, outputs))


def records_for(latent: LatentModel) -> Records | None:
    """Where to record a call of the decoder, if all of its networks do."""
    return Records() if _all_have(latent.decoder, "takes_records") else None


def serves(latent: LatentModel, weights: DrawWeights, records: Records | None) -> bool:
    """Whether one pass is enough for these weights and networks."""
    if weights.generative is not weights.base and (
        weights.share is None or records is None
    ):
        return False
    is_pathwise = weights.inference is not weights.base
    return not is_pathwise or _all_have(latent.decoder, "rows_are_independent")


def gradients_and_pull(
    latent: LatentModel,
    pull_back: PullBack,
    latents: Sequence[tf.Tensor],
    weights: DrawWeights,
    records: Records | None,
) -> tuple[list[tf.Tensor | None], list[tf.Tensor]]:
    """The decoder's gradients, and the pull on each latent, from one pass.

    Args:
      latent: LatentModel.
      pull_back: function of draw weights [M, K, B] and sources to the gradients of the
        loss with respect to the sources.
      latents: list of [M, K, B, D_l].
      weights: DrawWeights that `serves` has taken.
      records: of the decoder's call.
    """
    if weights.generative is weights.base:
        variables = trainable(latent.generative_networks)
        gradients, pull = pull_back(weights.base, [variables, list(latents)])
    else:
        gradients, pull = _rescaled(latent, pull_back, latents, weights, records)
    if weights.inference is not weights.base:  # v <= u, so that v / u is safe
        rescale = tf.math.divide_no_nan(weights.inference, weights.base)
        pull = [rescale[..., tf.newaxis] * p for p in pull]
    return gradients, pull


def _rescaled(latent, pull_back, latents, weights, records):
    """As above, with generative / base as a factor in the parameter gradients."""
    share = tf.broadcast_to(weights.share, tf.shape(weights.base))
    share = tf.reshape(share, [-1, 1])
    outputs = [output for *_, output in records.calls]
    pull, signals = pull_back(weights.base, [list(latents), outputs])

    def of_dense_layers():
        for (layer, inputs, _), signal in zip(records.calls, signals):
            signal = tf.cast(share, signal.dtype) * signal
            yield layer.kernel, tf.matmul(inputs, signal, transpose_a=True)
            yield layer.bias, tf.reduce_sum(signal, axis=0)

    found = by_source((v.value, tf.cast(g, v.dtype)) for v, g in of_dense_layers())
    variables = trainable(latent.generative_networks)
    # p(z_L|y) has a row an example, not one a draw: it is asked with its own weights.
    others = [v for v in variables if id(v) not in found]
    if others:
        found |= zip(map(id, others), pull_back(weights.generative, others))
    return [found[id(v)] for v in variables], pull


def _all_have(networks, attribute):
    """Whether every network has it and no loss of its own on activities."""
    return all(getattr(n, attribute, False) and not n.losses for n in networks)
