"""Whether error bars of log p(x) hold: many seeds against what each of them says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import log_weight_batches, reference_log_likelihood
from iwae_tf.diagnostics.resampling import leave_one_out
from iwae_tf.evaluation import LogLikelihood, stream_draws
from iwae_tf.evaluation.pareto import LEAST_DRAWS, smoothed_log_weights
from iwae_tf.probability import noise

NUM_RESAMPLES = 100  # of the bootstrap
Z_95 = 1.959964
SPREADS = (0.5, 1.0, 2.0, 3.0)  # sd of log w in the cases with a known answer


def error_coverage(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    *,
    num_samples: int = 5000,
    num_seeds: int = 16,
    seed: Sequence[int] = (0, 0),
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Spread of log p(x) between seeds against the error bars that each seed states.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      num_samples: K, draws an image and seed, at least 25.
      num_seeds: S, at least 2.
      seed: pair of integers; the seeds are (seed[0], seed[1] + s).
      on_progress: optional function of the number of images just finished.

    Returns:
      dict, see `compare`. The reference is the estimate from 5,000 draws of refined
      proposals.

    Raises:
      InvalidInputError: a bad argument.
    """
    num_samples = check_count(num_samples, "num_samples", LEAST_DRAWS)
    num_seeds = check_count(num_seeds, "num_seeds", 2)
    seed = noise.check_seed(seed)
    seeds = []
    for index in range(num_seeds):
        pair = seed[0], seed[1] + index
        rng = np.random.default_rng([part % 2**32 for part in pair])
        batches = log_weight_batches(model, x, num_samples, pair, on_progress)
        parts = [error_bars(log_weights, rng) for log_weights in batches]
        joined = {n: np.concatenate([p[n] for p in parts], axis=-1) for n in parts[0]}
        seeds.append(joined)
    reference = reference_log_likelihood(model, x, seed).estimate.astype(np.float64)
    return compare(seeds, reference) | {"num_samples": num_samples}


def known_cases(
    *,
    spreads: Sequence[float] = SPREADS,
    num_samples: int = 5000,
    num_images: int = 100,
    num_seeds: int = 40,
    seed: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> list[dict[str, Any]]:
    """`error_coverage` where the answer is known: log w ~ N(-s^2 / 2, s^2), E w = 1.

    That is what a Gaussian proposal beside a Gaussian posterior of the same width
    gives, s posterior deviations away from it.

    Args:
      spreads: the s, one case each.
      num_samples: draws an image.
      num_images: whose errors are averaged.
      num_seeds: repetitions, at least 2.
      seed: integer.
      on_progress: optional function of the number of cases just finished.

    Returns:
      list of dicts, see `compare`, one for each of `spreads`, with `spread_of_log_w`.
    """
    cases = []
    for spread in spreads:
        rng, seeds = np.random.default_rng(seed), []
        for _ in range(num_seeds):
            normals = rng.standard_normal([num_samples, num_images])
            seeds.append(error_bars(spread * normals - spread**2 / 2, rng))
        sizes = {"num_samples": num_samples, "spread_of_log_w": float(spread)}
        cases.append(compare(seeds, np.zeros(num_images)) | sizes)
        if on_progress:
            on_progress(1)
    return cases


def error_bars(
    log_weights: ArrayLike, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Estimates of log E w with error bars, by several methods.

    Args:
      log_weights: float [K, B].
      rng: NumPy generator, of the bootstrap.

    Returns:
      dict of name to (estimate, error, bias allowed for): a float64 array [3, B].
      "delta method", "jackknife" and "interval", the jackknife with `bias_allowance`,
      are those of `log_likelihood`; "jackknife, bias reduced" moves the estimate as
      well; "bootstrap" resamples draws; "Pareto-smoothed" is the delta method on
      smoothed weights.
    """
    log_weights = np.asarray(log_weights, np.float64)
    peak = log_weights.max(axis=0)
    plain = _streamed(log_weights - peak)
    estimate = plain.estimate + peak
    smoothed = _streamed(smoothed_log_weights(log_weights - peak)[0])
    weights = np.exp(log_weights - peak)
    bias, _ = leave_one_out(log_weights)
    zeros = np.zeros_like(estimate)
    found = {
        "delta method": (estimate, plain.standard_error, zeros),
        "interval": (estimate, plain.jackknife_error, plain.bias_allowance),
        "jackknife": (estimate, plain.jackknife_error, zeros),
        "jackknife, bias reduced": (estimate - bias, plain.jackknife_error, zeros),
        "bootstrap": (estimate, _bootstrap_error(weights, rng), zeros),
        "Pareto-smoothed": (smoothed.estimate + peak, smoothed.standard_error, zeros),
    }
    return {name: np.asarray(parts, np.float64) for name, parts in found.items()}


def compare(
    seeds: Sequence[Mapping[str, np.ndarray]], reference: np.ndarray
) -> dict[str, Any]:
    """What error bars say, against what happens between seeds.

    Args:
      seeds: list of what `error_bars` returns, one for each seed, S >= 2.
      reference: float [N], log p(x), known or well estimated.

    Returns:
      dict: `num_seeds`, `num_images`, `reference` (its mean), and for each name in
      `errors`: `mean` over images and seeds; `bias`, its distance from the reference;
      `spread`, the standard deviation of the mean over images between seeds, and
      `stated`, what the error bars say it is (root mean square over seeds); the same
      of single images, `image_spread` and `image_stated`; and the share of intervals
      of +- 1.96 errors, longer above by the bias that they allow for, that cover:
      `image_coverage` and `mean_coverage` the reference,
      `repeat_coverage` the expected value of the mean (what other seeds tend to).
    """
    kinds = {name: np.stack([seed[name] for seed in seeds], 1) for name in seeds[0]}
    return {
        "num_seeds": len(seeds),
        "num_images": len(reference),
        "reference": float(np.mean(reference)),
        "errors": {name: _compare(kind, reference) for name, kind in kinds.items()},
    }


def _compare(kind: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """`compare` of one kind of error bar: estimate, error and allowance, [3, S, N]."""
    estimates, errors, allowances = kind
    means = estimates.mean(axis=1)
    stated = np.sqrt((errors**2).sum(axis=1)) / errors.shape[1]
    truth, allowed = reference.mean(), allowances.mean(axis=1)

    def coverage(distance, error, allowance):
        covers = (distance <= Z_95 * error) & (-distance <= allowance + Z_95 * error)
        return np.mean(covers)

    found = {
        "mean": means.mean(),
        "bias": means.mean() - truth,
        "spread": means.std(ddof=1),
        "stated": _root_mean_square(stated),
        "image_spread": _root_mean_square(estimates.std(axis=0, ddof=1)),
        "image_stated": _root_mean_square(errors),
        "image_coverage": coverage(estimates - reference, errors, allowances),
        "mean_coverage": coverage(means - truth, stated, allowed),
        "repeat_coverage": coverage(means - means.mean(), stated, allowed),
    }
    return {name: float(value) for name, value in found.items()}


def _streamed(log_weights: np.ndarray) -> LogLikelihood:
    """`stream_draws` of given log-weights [K, B], as float64 arrays."""
    count, num_rows = log_weights.shape
    draws = tf.constant(log_weights, tf.float32)
    found = stream_draws(lambda first, count: draws, num_rows, count, count)
    return type(found)(*(np.asarray(part, np.float64) for part in found))


def _bootstrap_error(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard deviation of the log mean of resampled weights [K, B]: [B]."""
    times = rng.poisson(1.0, [NUM_RESAMPLES, len(weights)]).astype(np.float64)
    means = times @ weights / times.sum(axis=1, keepdims=True)
    return np.log(np.maximum(means, np.finfo(float).tiny)).std(axis=0, ddof=1)


def _root_mean_square(values: np.ndarray) -> np.floating:
    return np.sqrt(np.mean(np.square(values)))
