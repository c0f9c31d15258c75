"""Log-likelihoods by streamed importance sampling, and active latent units.

Everything here is a plain graph of stock TensorFlow ops, so that a SavedModel
carries the very same estimator (see `saved_model`). In Python XLA compiles its inner
part, a block of images, whose shape does not depend on how many there are.
"""

import concurrent.futures
import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.autoencoder import Autoencoder, UnitMask
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import split_loc_scale
from iwae_tf.probability.log_weights import (
    JACKKNIFE_POWERS,
    jackknife_error,
    standard_error,
)

CHUNK_SIZE = 2500  # rows of the decoder at once: what bounds the memory
SCORES_PER_CALL = 100_000  # image-samples between two reports of progress
STREAMS = 2  # batches at work at once: one fills the processor where the other waits
ACTIVE_VARIANCE = 0.01  # Burda et al.'s threshold
LAYER_DRAWS = 100  # draws over which the mean of an upper layer is averaged

_compiled: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


class LogLikelihood(NamedTuple):
    """Importance-sampling estimates of log p(x), each [B], in nats.

    `standard_error` is the error of importance sampling alone, by the delta method:
    sqrt((K sum w~^2 - 1) / (K - 1)), NaN for one draw. Where few draws carry the
    weight (a small `effective_sample_size`) it is too small. `jackknife_error` is the
    error by leaving one draw out at a time, the same where the weights are even; where
    they are not it has the size of the spread between seeds. `estimate` is biased low,
    which no error bar here includes.
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    jackknife_error: np.ndarray | Any = np.nan  # where it is not known


class Summary(NamedTuple):
    """Mean over a data set, in nats per example."""

    nll: float
    standard_error: float  # of importance sampling: sqrt(sum of squares) / N
    data_standard_error: float  # of the images: standard deviation / sqrt(N)
    effective_sample_size: float
    num_examples: int
    jackknife_error: float  # of importance sampling: sqrt(sum of squares) / N


class LayerStatistics(NamedTuple):
    """Posterior means of one stochastic layer over a data set.

    The top layer of a conditional model with a `prior` is in units of it,
    (z_L - loc_y) / scale_y: what z_L says of x beyond what y says.
    """

    means: np.ndarray  # [N, D], E[z_l | x]
    variances: np.ndarray  # [D], over the data, the noise of the estimate taken out


def log_likelihood(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    num_samples: int = 5000,
    seed: Sequence[int] = (0, 0),
    *,
    labels: ArrayLike | tf.Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
    batch_size: int | None = None,
    first_row: int = 0,
    masks: Sequence[UnitMask] | None = None,
    on_batch: Callable[[LogLikelihood], object] | None = None,
    jit_compile: bool | str = "auto",
) -> LogLikelihood:
    """Estimates log p(x) of each image from K draws of q(z|x).

    log 1/K sum_k p(x, z_k) / q(z_k|x)

    Of a conditional model it is log p(x|y), with draws of q(z|x, y).

    The draws are streamed: memory does not grow with `num_samples`. The noise of
    row b, draw k is a function of (seed, first_row + b, k), so the result does not
    depend on `chunk_size` or `batch_size` (but to rounding), and images have
    independent noise.

    Args:
      model: a built model of this package.
      x: float [B, *event], scored as given.
      num_samples: K.
      seed: pair of integers.
      labels: of a conditional model, integers [B], or one for all.
      chunk_size: rows of the decoder evaluated at once.
      batch_size: images a compiled call, between two calls of `on_batch`.
      first_row: index of the first row in the data set that `x` is a part of.
      masks: optional list of `UnitMask`, one a layer: latent units left out of p and
        q and held at a constant.
      on_batch: optional function of the `LogLikelihood` of each finished batch.
      jit_compile: whether XLA compiles the estimator, once for each `num_samples`.
        "auto": as the model's `compile` has it, and yes for one that is not compiled.

    Returns:
      LogLikelihood of float32 arrays [B].

    Raises:
      InvalidInputError: a bad `x`, `num_samples` or `seed`.

    References:
      Burda et al., 2016, section 5 (NLL with 5,000 samples).
        https://arxiv.org/abs/1509.00519
    """
    num_samples = check_count(num_samples, "num_samples")
    chunk_size = check_count(chunk_size, "chunk_size")
    key = noise.make_key(seed)
    x = model.check_x(x)
    labels = model.check_labels(labels, len(x))
    if batch_size is None:
        num_calls = -(-len(x) // max(1, SCORES_PER_CALL // num_samples))
        num_calls += -num_calls % STREAMS  # so that no stream ends before the others
        batch_size = -(-len(x) // num_calls)
    batch_size = check_count(batch_size, "batch_size")
    check_choice(jit_compile, "jit_compile", ("auto", True, False))
    if jit_compile == "auto":
        jit_compile = model.jit_compile if model.compiled else model.supports_xla
    function = _compiled_estimator(model, masks, chunk_size, bool(jit_compile))

    def rows(values, start):
        return None if values is None else values[start : start + batch_size]

    device = tf.zeros([]).device  # of the caller's scope, which threads do not inherit

    def score(start):
        with tf.device(device):
            result = function(
                rows(x, start),
                tf.constant(num_samples),
                key,
                tf.constant(first_row + start, tf.int64),
                rows(labels, start),
            )
        return LogLikelihood(*(part.numpy() for part in result))

    results = []
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        # In order; what is left is cancelled where an exception ends the loop.
        for result in pool.map(score, range(0, len(x), batch_size)):
            results.append(result)
            if on_batch:
                on_batch(result)
    return concatenate(results)


def concatenate(results: Iterable[LogLikelihood]) -> LogLikelihood:
    """Joins `LogLikelihood`s of consecutive batches."""
    return LogLikelihood(*(np.concatenate(parts) for parts in zip(*results)))


def summarize(result: LogLikelihood) -> Summary:
    """Mean NLL of a data set with its two standard errors; see `Summary`."""
    estimate = np.asarray(result.estimate, np.float64)
    count = len(estimate)
    standard_error, jackknife_error = (
        np.sqrt(np.sum(np.asarray(error, np.float64) ** 2)) / count
        for error in (result.standard_error, result.jackknife_error)
    )
    spread = estimate.std(ddof=1) if count > 1 else np.nan
    return Summary(
        nll=float(-estimate.mean()),
        standard_error=float(standard_error),
        data_standard_error=float(spread / np.sqrt(count)),
        effective_sample_size=float(np.mean(result.effective_sample_size)),
        num_examples=count,
        jackknife_error=float(jackknife_error),
    )


def estimate_in_graph(
    model: Any,
    x: tf.Tensor,
    num_samples: tf.Tensor,
    key: tf.Tensor,
    first_row: tf.Tensor,
    labels: tf.Tensor | None = None,
    masks: Sequence[UnitMask] | None = None,
    chunk_size: int = CHUNK_SIZE,
    jit_compile: bool = False,
) -> LogLikelihood:
    """`log_likelihood` as graph ops: x [B, *event] to four float32 [B].

    Works through blocks of as many whole rows as have all their draws in one chunk,
    and otherwise through one row at a time and chunks of its draws. In both cases a
    chunk is one run of consecutive records of the noise. The last block is filled up
    with copies of the last row.
    """
    with model.given(labels):
        parameters = model.proposal_parameters(x)
    num_rows = tf.shape(x)[0]
    block = tf.maximum(1, chunk_size // num_samples)
    num_blocks = (num_rows + block - 1) // block
    outputs = [
        tf.TensorArray(tf.float32, num_blocks, element_shape=[None], infer_shape=False)
        for _ in LogLikelihood._fields
    ]

    def one_block(x, labels, parameters, num_samples, key, start):
        def draw(first, count):
            size = tf.shape(x)[0]
            record = start + tf.cast(first, tf.int64)
            width = sum(model.latent_dims)
            records = noise.normal(key, record, size * count, width)
            draws = tf.reshape(records, [1, size, count, width])
            draws = tf.transpose(draws, [0, 2, 1, 3])
            with model.given(labels):
                parts = model.log_weight_parts(x, parameters, draws, masks=masks)
            return parts.log_weights[0]

        return stream_draws(draw, tf.shape(x)[0], num_samples, chunk_size)

    score_block: Callable[..., LogLikelihood] = one_block
    if jit_compile:
        score_block = tf.function(one_block, autograph=False, jit_compile=True)

    def store_block(index, outputs):
        first = index * block
        rows = tf.minimum(first + tf.range(block), num_rows - 1)
        start = (first_row + tf.cast(first, tf.int64)) * tf.cast(num_samples, tf.int64)
        of_block = [
            None if values is None else tf.gather(values, rows)
            for values in (x, labels, parameters)
        ]
        result = score_block(*of_block, num_samples, key, start)
        written = [o.write(index, part) for o, part in zip(outputs, result)]
        return index + 1, written

    _, outputs = tf.while_loop(
        lambda index, _: index < num_blocks,
        store_block,
        [0, outputs],
        parallel_iterations=1,
    )
    return LogLikelihood(*(output.concat()[:num_rows] for output in outputs))


def stream_draws(
    draw: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    num_rows: tf.Tensor,
    num_samples: tf.Tensor,
    chunk_size: int | tf.Tensor,
) -> LogLikelihood:
    """log mean exp over K draws that are made a chunk at a time.

    Args:
      draw: function of (first, count) to log-weights float32 [count, B] of the draws
        first, ..., first + count - 1. All chunks are of one size; draws of the last
        one beyond K do not count.
      num_rows: B.
      num_samples: K, integer scalar.
      chunk_size: most draws at once.

    Returns:
      LogLikelihood of float32 tensors [B]. The running sums are float64.
    """
    num_chunks = (num_samples + chunk_size - 1) // chunk_size
    count = (num_samples + num_chunks - 1) // num_chunks

    def one_chunk(first, peak, sums):
        log_weights = tf.cast(draw(first, count), tf.float64)
        is_draw = (first + tf.range(count) < num_samples)[:, tf.newaxis]
        log_weights = tf.where(is_draw, log_weights, tf.constant(-np.inf, tf.float64))
        higher = tf.maximum(peak, tf.reduce_max(log_weights, axis=0))
        shift = tf.where(tf.math.is_inf(higher), tf.zeros_like(higher), higher)
        weights = tf.exp(log_weights - shift)
        rescale = tf.exp(peak - shift)
        added, power, scale = [], tf.ones_like(weights), tf.ones_like(rescale)
        for earlier in sums:
            power, scale = power * weights, scale * rescale
            added.append(earlier * scale + tf.reduce_sum(power, axis=0))
        return first + count, higher, added

    zeros = tf.zeros([num_rows], tf.float64)
    _, peak, sums = tf.while_loop(
        lambda first, *_: first < num_samples,
        one_chunk,
        [0, zeros - np.inf, [zeros] * JACKKNIFE_POWERS],
    )
    total, squares = sums[:2]
    normalized_squares = squares / total**2
    result = LogLikelihood(
        estimate=peak + tf.math.log(total / tf.cast(num_samples, tf.float64)),
        standard_error=standard_error(normalized_squares, num_samples),
        effective_sample_size=1.0 / normalized_squares,
        jackknife_error=jackknife_error(sums, num_samples),
    )
    return LogLikelihood(*(tf.cast(part, tf.float32) for part in result))


def active_units(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    seed: Sequence[int] = (0, 0),
    *,
    labels: ArrayLike | tf.Tensor | None = None,
    threshold: float = ACTIVE_VARIANCE,
) -> list[int]:
    """Number of active latent units of each stochastic layer.

    A unit is active where Var_x(E[z|x]) > threshold; for a conditional model see
    `LayerStatistics`. The threshold is a share of the prior's variance where that is 1,
    in the top layer. Below it p(z1|z2) has scales of its own, and units of a small one
    count as inactive and may still matter.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      seed: pair of integers, for the draws below an upper layer.
      labels: of a conditional model, integers [N], or one for all.
      threshold: variance over the data.

    Returns:
      list of int, one a layer, z1 first.

    References:
      Burda et al., 2016, section 5.2. https://arxiv.org/abs/1509.00519
    """
    return count_active(layer_statistics(model, x, seed, labels=labels), threshold)


def count_active(
    statistics: Iterable[LayerStatistics], threshold: float = ACTIVE_VARIANCE
) -> list[int]:
    """Number of active units of each layer, from its `LayerStatistics`."""
    return [int(np.sum(layer.variances > threshold)) for layer in statistics]


def layer_statistics(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    seed: Sequence[int] = (0, 0),
    *,
    labels: ArrayLike | tf.Tensor | None = None,
    num_draws: int = LAYER_DRAWS,
    batch_size: int = 100,
) -> list[LayerStatistics]:
    """Posterior means of each stochastic layer, and their variance over the data.

    E[z_l|x] of an upper layer is the mean of loc_l over `num_draws` draws of the
    layers below; the variance that this finite number adds is subtracted.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      seed: pair of integers.
      labels: of a conditional model, integers [N], or one for all.
      num_draws: at least 2.
      batch_size: images at once.

    Returns:
      list of LayerStatistics, z1 first.

    Raises:
      InvalidInputError: a bad argument.
    """
    batch_size = check_count(batch_size, "batch_size")
    num_draws = check_count(num_draws, "num_draws")
    if num_draws < 2:
        raise InvalidInputError(
            f"`num_draws` must be at least 2. Received: num_draws={num_draws}"
        )
    key, images = noise.make_key(seed), model.check_x(x)
    all_labels = model.check_labels(labels, len(images))
    batches = []
    for start in range(0, len(images), batch_size):
        rows, given = images[start : start + batch_size], None
        if all_labels is not None:
            given = all_labels[start : start + batch_size]
        draws = model.draw_noise(key, start, len(rows), 1, num_draws)
        with model.given(given):
            parameters = model.proposal_parameters(rows)
            _, parameters = model.sample_proposal(parameters, draws)
            locs = [split_loc_scale(layer)[0] for layer in parameters]
            locs[-1] = model.standardized(locs[-1])
        batches.append([_mean_over_draws(loc) for loc in locs])
    statistics = []
    for layer in zip(*batches):
        means, errors = (np.concatenate(parts) for parts in zip(*layer))
        variances = means.var(axis=0) - errors.mean(axis=0)
        statistics.append(LayerStatistics(means, np.maximum(variances, 0.0)))
    return statistics


def active_masks(
    statistics: Iterable[LayerStatistics], threshold: float = ACTIVE_VARIANCE
) -> list[UnitMask]:
    """Masks that take dead units out of p and q: they are held at their mean.

    Args:
      statistics: list of LayerStatistics.
      threshold: variance over the data, as in `active_units`.

    Returns:
      list of UnitMask for `log_likelihood`.
    """
    return [
        UnitMask(
            active=tf.constant(layer.variances > threshold),
            fill=tf.constant(layer.means.mean(axis=0), tf.float32),
        )
        for layer in statistics
    ]


def _mean_over_draws(loc):
    """Mean of loc [1, S, B, D] over draws and its squared error, each [B, D]."""
    loc = loc.numpy()
    if loc.ndim == 2:  # the first layer does not depend on draws
        return loc, np.zeros_like(loc)
    return loc.mean(axis=(0, 1)), loc.var(axis=(0, 1), ddof=1) / loc.shape[1]


def _compiled_estimator(model, masks, *settings):
    """A function of (x, num_samples, key, first_row, labels), traced for any rows."""
    functions = _compiled.setdefault(model, {})
    if settings not in functions:
        # The cache is weak: the function must not keep the model alive.
        reference = weakref.ref(model)

        def estimate(x, num_samples, key, first_row, labels, masks):
            return estimate_in_graph(
                reference(), x, num_samples, key, first_row, labels, masks, *settings
            )

        functions[settings] = tf.function(estimate, autograph=False)
    traced = functions[settings].get_concrete_function(
        tf.TensorSpec([None, *model.event_shape], tf.float32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([1], tf.uint64),
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([None], tf.int32) if model.is_conditional else None,
        tf.nest.map_structure(tf.TensorSpec.from_tensor, masks) if masks else None,
    )
    return functools.partial(traced, masks=masks)
