"""Log-likelihoods of data sets, by importance sampling, and their error bars."""

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.compiling import compiled, gathered
from iwae_tf.evaluation.refinement import NUM_STEPS, rows_at_once
from iwae_tf.evaluation.streaming import CHUNK_SIZE, LogLikelihood, estimate_in_graph
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.inputs import check_masks
from iwae_tf.models.latent_model import UnitMask
from iwae_tf.models.private import op_callbacks
from iwae_tf.probability import noise
from iwae_tf.probability.pareto import GOOD_K

SCORES_PER_CALL = 100_000  # image-samples between two reports of progress
QUANTILES = (0.05, 0.5, 0.95)
PROPOSALS = ("encoder", "refined")
STREAMS = 2  # batches at work at once: one fills the processor where the other waits


class Summary(NamedTuple):
    """Mean over a data set, in nats per example."""

    nll: float
    standard_error: float  # of importance sampling: sqrt(sum of squares) / N
    data_standard_error: float  # of the images: standard deviation / sqrt(N)
    effective_sample_size: float
    num_examples: int
    jackknife_error: float  # of importance sampling: sqrt(sum of squares) / N
    # The 5 %, 50 % and 95 % quantiles over images.
    effective_sample_size_quantiles: list[float] = [math.nan] * 3
    pareto_k_quantiles: list[float] = [math.nan] * 3
    # Share of images whose k is above 0.7: their estimates cannot be relied on.
    unreliable: float = math.nan
    # Of the NLL of these images, at 95 %, the bias of importance sampling included.
    interval: list[float] = [math.nan] * 2


@tf.autograph.experimental.do_not_convert
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
    proposal: str = "encoder",
    num_steps: int | None = None,
) -> LogLikelihood:
    """Estimates log p(x) of each image from K draws of a proposal r(z|x).

    log 1/K sum_k p(x, z_k) / r(z_k|x)

    r is the encoder's q(z|x), as in the literature, or a proposal that is fitted to
    each image first (see `refine_proposal`). Fitting costs a few times the work. On
    MNIST it raises the effective sample size from about twenty to a thousand. A tenth
    of the draws still come from the encoder, so no weight is above ten times the
    encoder's. An image whose fit fails gets the encoder's proposal, and `is_refined`
    is 0. For a conditional model the estimate is of log p(x|y), from r(z|x, y).

    The draws are streamed: memory does not grow with `num_samples`. The noise of
    row b, draw k is a function of (seed, first_row + b, k, num_samples), so the result
    does not depend on `chunk_size` or `batch_size` (up to rounding), and images have
    independent noise. Inside a tf.function it gives the same numbers, as tensors.

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
        "auto": as in the model's `compile`, and yes if it is not compiled.
      proposal: "encoder" or "refined".
      num_steps: steps of a fit; None: 40.

    Returns:
      LogLikelihood of float32 arrays [B].

    Raises:
      InvalidInputError: a bad argument, or a likelihood without a gradient in z where
        the proposal is refined.

    References:
      Burda et al., 2016, section 5 (NLL with 5,000 samples).
        https://arxiv.org/abs/1509.00519
    """
    if op_callbacks():
        raise InvalidInputError(
            "tf.debugging must be off for `log_likelihood`, which uses NaN and "
            "infinity for what is not known: call disable_check_numerics(). "
            "Received: enable_check_numerics() is in force"
        )
    num_samples = check_count(num_samples, "num_samples")
    chunk_size = check_count(chunk_size, "chunk_size")
    first_row = check_count(first_row, "first_row", 0, 2**62)
    key = noise.make_key(seed)
    x = model.check_x(x)
    labels = model.check_labels(labels, tf.shape(x)[0])
    masks = check_masks(masks, model.latent_dims)
    check_choice(proposal, "proposal", PROPOSALS)
    if num_steps is not None and proposal == "encoder":
        raise InvalidInputError(
            "`num_steps` must be left out unless the proposal is refined. "
            f"Received: num_steps={num_steps!r}"
        )
    num_steps = check_count(NUM_STEPS if num_steps is None else num_steps, "num_steps")
    first, count = tf.constant(first_row, tf.int64), tf.constant(num_samples)
    steps = tf.constant(num_steps)
    settings: dict[str, Any] = {"chunk_size": chunk_size, "proposal": proposal}
    if not tf.executing_eagerly():
        return estimate_in_graph(
            model.latent, x, count, key, first, labels, masks, steps, **settings
        )
    if batch_size is None:
        at_once = max(1, SCORES_PER_CALL // num_samples)
        if proposal == "refined":
            at_once = min(at_once, rows_at_once(model.latent, chunk_size))
        num_calls = -(-len(x) // at_once)
        num_calls += -num_calls % STREAMS  # so that no stream ends before the others
        batch_size = -(-len(x) // num_calls)
    batch_size = min(check_count(batch_size, "batch_size"), len(x))
    # A block of more rows than there are is filled up with copies.
    chunk_size = min(chunk_size, max(CHUNK_SIZE, batch_size * num_samples))
    settings["chunk_size"] = chunk_size
    check_choice(jit_compile, "jit_compile", ("auto", True, False))
    if jit_compile == "auto":
        jit_compile = model.jit_compile if model.compiled else model.supports_xla
    settings["jit_compile"] = bool(jit_compile)
    function = _compiled_estimator(model, masks, **settings)

    device = tf.zeros([]).device  # of the caller's scope, which threads do not inherit

    def score(start):
        numbers = np.arange(start, start + batch_size)
        if proposal == "encoder":
            numbers = numbers[numbers < len(x)]
        # Filled up with copies: another number of rows would be compiled anew.
        numbers = np.minimum(numbers, len(x) - 1)
        with tf.device(device):
            rows, y = gathered((x, labels), numbers)
            result = function(rows, count, key, first + start, y, masks, steps)
        return LogLikelihood(*(part.numpy()[: len(x) - start] for part in result))

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
    sizes, shapes = (
        np.quantile(np.broadcast_to(values, [count]), QUANTILES, method="nearest")
        for values in (result.effective_sample_size, result.pareto_k)
    )
    is_known = not np.any(np.isnan(result.pareto_k))
    allowance = np.mean(np.asarray(result.bias_allowance, np.float64))
    mean = LogLikelihood(
        estimate.mean(), standard_error, np.asarray(math.nan), jackknife_error,
        bias_allowance=allowance,
    )  # fmt: skip
    return Summary(
        nll=float(-mean.estimate),
        standard_error=float(standard_error),
        data_standard_error=float(spread / np.sqrt(count)),
        effective_sample_size=float(np.mean(result.effective_sample_size)),
        num_examples=count,
        jackknife_error=float(jackknife_error),
        effective_sample_size_quantiles=sizes.tolist(),
        pareto_k_quantiles=shapes.tolist(),
        unreliable=float(np.mean(result.pareto_k > GOOD_K)) if is_known else math.nan,
        interval=[float(-end) for end in reversed(mean.interval())],
    )


def _compiled_estimator(model, masks, **settings):
    """`estimate_in_graph` from x to the number of steps, traced for any rows."""
    program = compiled(model, estimate_in_graph, by_xla=False, **settings)
    return program.get_concrete_function(
        tf.TensorSpec([None, *model.event_shape], tf.float32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([1], tf.uint64),
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([None], tf.int32) if model.is_conditional else None,
        tf.nest.map_structure(tf.TensorSpec.from_tensor, masks) if masks else None,
        tf.TensorSpec([], tf.int32),
    )
