"""Forward all draws, backward few: the draws that the gradients are made of.

Of K = 50 draws a few have nearly all of the weight, and the backward pass of the others
multiplies by nearly nothing. So all of them go forward, without a tape. Of each group R
are kept, draw k with an expected number of R c_k, by systematic resampling on its share
c of the bound's gradient, and go forward once more, with the tapes. A kept draw weighs
v_k / (R c_k), where v_k is what it weighs among all: the expected gradient is that of
all draws. The bound and the metrics are of all draws.

References:
  Rubin, 1988 (sampling importance resampling). Using the SIR algorithm to simulate
    posterior distributions.
  Burda, Grosse and Salakhutdinov, 2016, section 3 (one kept draw).
    https://arxiv.org/abs/1509.00519
  Douc, Cappe and Moulines, 2005 (systematic resampling).
    https://arxiv.org/abs/cs/0507025
"""

import warnings

import keras
import tensorflow as tf

from iwae_tf.models.gradients import DrawWeights
from iwae_tf.models.latent_model import Labels, LatentModel, LogWeightParts
from iwae_tf.networks import WithLabels
from iwae_tf.probability import noise

POSITION_STREAM = 5  # of the noise of a step
ROWS_AT_ONCE = 2_000  # of the decoder, that go forward together
_layers = keras.layers
# What these compute for a row is a function of that row alone.
ROW_BY_ROW = {
    *(_layers.InputLayer, _layers.Dense, _layers.Flatten, _layers.Reshape),
    *(_layers.Activation, _layers.ReLU, _layers.LeakyReLU, _layers.ELU, _layers.PReLU),
    *(_layers.Softmax, _layers.LayerNormalization, _layers.Rescaling),
    *(_layers.Conv1D, _layers.Conv2D, _layers.Conv1DTranspose, _layers.Conv2DTranspose),
    *(_layers.AveragePooling2D, _layers.MaxPooling2D, _layers.UpSampling2D),
    *(_layers.GlobalAveragePooling2D, _layers.ZeroPadding2D, _layers.Cropping2D),
    *(_layers.Concatenate, _layers.Add, _layers.Multiply, _layers.Identity),
}


def forward(
    latent: LatentModel, x: tf.Tensor, draws: tf.Tensor, y: Labels = None
) -> LogWeightParts:
    """`LatentModel.log_weights`, some draws at a time, which stay in the cache.

    Args:
      latent: LatentModel.
      x: float [B, *event].
      draws: standard normal float [M, K, B, D].
      y: labels of a conditional model, integers [B].

    Returns:
      parts: LogWeightParts, each [M, K, B].
    """
    num_groups, num_draws, size, _ = tf.unstack(tf.shape(draws))
    at_once = tf.maximum(ROWS_AT_ONCE // (num_groups * size), 1)
    num_chunks = -(-num_draws // at_once)
    at_once = -(-num_draws // num_chunks)  # the same in each, up to a draw
    spare = num_chunks * at_once - num_draws
    padded = tf.pad(draws, [[0, 0], [0, spare], [0, 0], [0, 0]])
    shape = [num_groups, num_chunks, at_once, size, draws.shape[3]]
    chunks = tf.transpose(tf.reshape(padded, shape), [1, 0, 2, 3, 4])
    parameters = latent.encode(x, y)  # once, as for all draws together
    parts = tf.map_fn(
        lambda chunk: latent.log_weights(x, chunk, y, parameters=parameters),
        chunks,
        fn_output_signature=LogWeightParts(*[tf.float32] * 3),
    )

    def joined(part):  # [chunks, M, draws, B]
        whole = tf.reshape(tf.transpose(part, [1, 0, 2, 3]), [num_groups, -1, size])
        return whole[:, :num_draws]

    return LogWeightParts(*map(joined, parts))


def keep(
    weights: DrawWeights, draws: tf.Tensor, positions: tf.Tensor
) -> tuple[tf.Tensor, DrawWeights]:
    """R draws of each group, and what they weigh.

    Args:
      weights: DrawWeights of all draws, each [M, K, B].
      draws: float [M, K, B, D].
      positions: float [M, R, B], see `positions`.

    Returns:
      draws: float [M, R, B, D].
      weights: DrawWeights, each [M, R, B], of the bound of all draws. Fields that were
        one tensor are one.
    """
    probabilities = draw_probabilities(weights)
    chosen = systematic(probabilities, positions)
    num_groups, num_draws, size = tf.unstack(tf.shape(probabilities))
    group = tf.range(num_groups)[:, tf.newaxis, tf.newaxis]
    rows = (group * num_draws + chosen) * size + tf.range(size)

    def taken(values):
        flat = tf.concat([[-1], tf.shape(values)[3:]], axis=0)
        return tf.gather(tf.reshape(values, flat), rows)

    expected = positions.shape[1] * taken(probabilities)
    # One that rounding chose with a probability of zero has no weight.
    kept = {
        id(values): tf.math.divide_no_nan(taken(values), expected)
        for values in (weights.generative, weights.base, weights.inference)
    }
    share = weights.share
    if share is not None:
        share = taken(tf.broadcast_to(share, tf.shape(probabilities)))
    return taken(draws), weights._replace(
        generative=kept[id(weights.generative)],
        base=kept[id(weights.base)],
        inference=kept[id(weights.inference)],
        share=share,
    )


def draw_probabilities(weights: DrawWeights) -> tf.Tensor:
    """c, float [M, K, B]: the share of a draw in its group's gradient of the bound.

    Of two halves that maximise different bounds, the mean of both shares. The sum over
    K is one, and zero for an example of weight zero.
    """
    halves = {id(half): tf.abs(half) for half in (weights.generative, weights.base)}
    shares = [
        tf.math.divide_no_nan(half, tf.reduce_sum(half, axis=1, keepdims=True))
        for half in halves.values()
    ]
    # Of one half alone a group may have no weight: that of PIWAE's decoder underflows.
    total = tf.add_n(shares)
    return tf.math.divide_no_nan(total, tf.reduce_sum(total, axis=1, keepdims=True))


def systematic(probabilities: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Numbers of R draws a group, in order; draw k comes up R c_k times on average.

    Draw k is taken once for each position that lies between c_1 + ... + c_{k-1} and
    c_1 + ... + c_k.

    Args:
      probabilities: c, float [M, K, B].
      positions: float [M, R, B], see `positions`.

    Returns:
      chosen: int32 [M, R, B], in 0, ..., K - 1.
    """
    ends = tf.cumsum(probabilities, axis=1)
    ends /= ends[:, -1:]  # the last is one, and no position lies beyond
    is_before = ends[:, tf.newaxis] < positions[:, :, tf.newaxis]  # [M, R, K, B]
    return tf.reduce_sum(tf.cast(is_before, tf.int32), axis=2)


def positions(
    num_kept: int | None,
    key: tf.Tensor,
    first_row: int | tf.Tensor,
    num_rows: int | tf.Tensor,
    num_groups: int,
    num_samples: int,
) -> tf.Tensor | None:
    """(r + u) / R for r = 0, ..., R - 1, with one uniform u for each row and group.

    Args:
      num_kept: R; None for all draws.
      key: uint64 [1], of the step.
      first_row: integer scalar.
      num_rows: integer scalar, B.
      num_groups: M.
      num_samples: K.

    Returns:
      positions: float32 [M, R, B]; None where no fewer than all draws are kept.
    """
    if num_kept is None or num_kept >= num_samples:
        return None
    key = noise.fold_in(key, POSITION_STREAM)
    offsets = tf.transpose(noise.uniform(key, first_row, num_rows, num_groups))
    steps = tf.range(num_kept, dtype=tf.float32)[:, tf.newaxis]
    return (steps + offsets[:, tf.newaxis]) / num_kept


def possible(num_kept: int | None, latent: LatentModel) -> int | None:
    """R, or None where the rows of a network cannot be taken apart: it warns then.

    A row may not depend on the other rows, as in batch normalisation, and must be the
    same at each call, as with dropout it is not.
    """
    if num_kept is None:
        return None
    for network in [*latent.encoder, *latent.generative_networks]:
        for layer in _leaves(network):
            known = getattr(layer, "rows_are_independent", type(layer) in ROW_BY_ROW)
            if not known or getattr(layer, "activity_regularizer", None) is not None:
                warnings.warn(
                    f"`backward_samples`={num_kept} is not used, all draws go "
                    f"backward: rows of {type(layer).__name__} {layer.name} may depend "
                    "on each other or on noise. If those of a layer of your own do "
                    "not, set `rows_are_independent = True` on it",
                    stacklevel=2,
                )
                return None
    return num_kept


def _leaves(network):
    """The layers that a network is made of, and the activations that are layers."""
    activation = getattr(network, "activation", None)
    if isinstance(network, WithLabels):
        inner = [network.network]
    elif isinstance(network, keras.Sequential):
        inner = network.layers
    elif hasattr(network, "operations"):  # functional: also what is no layer
        inner = network.operations
    else:
        inner = [activation] if isinstance(activation, keras.Layer) else []
        yield network
    for part in inner:
        yield from _leaves(part)
