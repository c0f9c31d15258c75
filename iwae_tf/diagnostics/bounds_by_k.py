"""Bounds against the number of draws, and what they tend to.

References:
  Burda et al., 2016. https://arxiv.org/abs/1509.00519
  Nowozin, 2018 (jackknife). https://openreview.net/forum?id=HyZoi-WRb
  Rainforth et al., 2018 (-KL(Q||P)). https://arxiv.org/abs/1802.04537
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import optimize

from iwae_tf import bounds
from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import log_weight_batches
from iwae_tf.diagnostics.resampling import evaluate_bound, jackknife
from iwae_tf.errors import InvalidInputError

COUNTS = (
    *(1, 2, 5, 10, 20, 50, 64, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 50_000, 100_000),
)
JACKKNIFE_DRAWS = 20_000  # of each image that a sweep's jackknife looks at, or one K
MANY_GROUPS = 8  # from which on the spread between groups is the error bar
KL_COUNTS = (64, 5000)  # Rainforth et al.'s IWAE-64 and log p(x)
LEAST_EXPONENT, MOST_EXPONENT = 0.05, 2.0  # that the power law may have
FIT_POINTS = 6  # the largest counts, that the power law is fitted to


def bound_sweep(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    functions: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] | None = None,
    seed: Sequence[int] = (0, 0),
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Mean over `x` of bounds against the number of draws K, from the same draws.

    max(counts) draws an image are cut into groups of K. The value at K is the mean
    over groups, its error that of their spread or, with few groups, of the jackknife.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      counts: numbers of draws K.
      functions: dict of name to function of log-weights [1, K, B] to [B]; None is
        `bounds.iwae` alone, under "iwae".
      seed: pair of integers.
      on_progress: optional function of the number of images just finished.

    Returns:
      dict: `counts`, `num_images`, `bounds` (of each name `value`, `standard_error` and
      `corrected`, the value by the jackknife, lists over counts),
      `log_likelihood` (see `extrapolate`) and `negative_kl`, Rainforth et al.'s
      -KL(Q||P): IWAE-64 minus log p(x) from 5,000 draws (None where `counts` lacks
      one of these or "iwae" is not among the functions).

    Raises:
      InvalidInputError: a bad argument.
    """
    counts = _check_counts(counts)
    functions = functions or {"iwae": bounds.iwae}
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for log_weights in log_weight_batches(model, x, counts[-1], seed, on_progress):
        for name, bound in functions.items():
            pieces[name].append(
                np.stack([_at_count(bound, log_weights, count) for count in counts])
            )
    images = {name: np.concatenate(parts, -1) for name, parts in pieces.items()}
    results: dict[str, Any] = {
        "counts": counts,
        "num_images": len(x),
        "bounds": {name: _summarize(parts) for name, parts in images.items()},
        "log_likelihood": None,
        "negative_kl": None,
    }
    if "iwae" in images:
        results["log_likelihood"] = extrapolate(counts, results["bounds"]["iwae"])
        results["negative_kl"] = _negative_kl(counts, images["iwae"][:, 0])
    return results


def extrapolate(
    counts: Sequence[int], iwae: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """log p(x) from the IWAE bounds of a sweep.

    L_K = log p(x) - c K^-g, fitted to the largest counts

    g is 1 where the weights have a variance (Domke and Sheldon 2018), less otherwise.

    Args:
      counts: list of K.
      iwae: dict with `value`, `standard_error`, `corrected`, lists over counts.

    Returns:
      dict: `bound` at the largest count and its `standard_error`; `jackknife`, the
      same with its bias reduced; `power_law` and `power_law_error`, the fitted
      log p(x), and its `exponent` g (None where the fit fails, g is next to zero or
      `counts` has fewer than 6 entries).

    References:
      Domke and Sheldon, 2018. https://arxiv.org/abs/1808.09034
    """
    limit, error, exponent = _power_law(counts, iwae["value"], iwae["standard_error"])
    return {
        "num_samples": counts[-1],
        "bound": iwae["value"][-1],
        "standard_error": iwae["standard_error"][-1],
        "jackknife": iwae["corrected"][-1],
        "power_law": limit,
        "power_law_error": error,
        "exponent": exponent,
    }


def _power_law(counts, values, errors):
    """(limit, its error, exponent) of the law that fits best, or thrice None."""
    nothing = None, None, None
    lists = counts, values, errors
    counts, values, errors = (np.asarray(v[-FIT_POINTS:], float) for v in lists)
    errors = np.maximum(errors, 1e-6)
    if len(counts) < FIT_POINTS or not np.all(np.isfinite(errors)):
        return nothing

    def law(k, limit, size, exponent):
        return limit - size * (k / counts[0]) ** -exponent

    rise = max(values[-1] - values[0], 1e-6)
    try:
        fit, covariance = optimize.curve_fit(
            law,
            counts,
            values,
            p0=[values[-1] + 0.1 * rise, rise, 0.5],
            sigma=errors,
            absolute_sigma=True,
            bounds=([-np.inf, 0, LEAST_EXPONENT], [np.inf, np.inf, MOST_EXPONENT]),
        )
    except (RuntimeError, ValueError):
        return nothing
    if fit[2] < 1.1 * LEAST_EXPONENT:  # next to a logarithm: there is no end in sight
        return nothing
    return float(fit[0]), float(np.sqrt(covariance[0, 0])), float(fit[2])


def _at_count(
    bound: Callable[[tf.Tensor], tf.Tensor], log_weights: np.ndarray, count: int
) -> np.ndarray:
    """Value, squared error and corrected value of one bound: [3, B] from [S, B]."""
    total, num_rows = log_weights.shape
    num_groups = total // count
    groups = log_weights[: num_groups * count].reshape(num_groups, count, num_rows)
    groups = groups.transpose(1, 0, 2)
    values = evaluate_bound(bound, groups.reshape(1, count, -1))
    values = values.reshape(num_groups, num_rows)
    corrected: np.ndarray = np.full(num_rows, np.nan)
    error = corrected
    if count > 1:
        some = groups[:, : max(1, JACKKNIFE_DRAWS // count)]
        found = jackknife(bound, some.reshape(1, count, -1))
        corrected, error = (part.reshape(-1, num_rows) for part in found)
        # The correction alone comes from some of the groups.
        shift = (corrected - values[: len(corrected)]).mean(axis=0)
        corrected = values.mean(axis=0) + shift
        error = np.sqrt((error**2).mean(axis=0))
    variance = error**2 / num_groups
    if num_groups >= MANY_GROUPS:
        variance = values.var(axis=0, ddof=1) / num_groups
    return np.stack([values.mean(axis=0), variance, corrected])


def _summarize(images: np.ndarray) -> dict[str, list[float]]:
    """Means over images of [counts, 3, N], as lists over counts."""
    value, variance, corrected = images.transpose(1, 0, 2)
    return {
        "value": value.mean(axis=1).tolist(),
        "standard_error": (np.sqrt(variance.sum(axis=1)) / images.shape[-1]).tolist(),
        "corrected": corrected.mean(axis=1).tolist(),
    }


def _negative_kl(counts: Sequence[int], values: np.ndarray) -> dict[str, float] | None:
    """IWAE-64 minus IWAE-5000 of [counts, N], with the error over images."""
    if not set(KL_COUNTS) <= set(counts):
        return None
    few, many = (values[counts.index(count)] for count in KL_COUNTS)
    difference = few - many
    spread = difference.std(ddof=1) if len(difference) > 1 else math.nan
    return {
        "value": float(difference.mean()),
        "data_standard_error": float(spread / math.sqrt(len(difference))),
        "bound": float(few.mean()),
        "log_likelihood": float(many.mean()),
    }


def _check_counts(counts: Sequence[int]) -> list[int]:
    found = {check_count(count, "counts") for count in counts}
    if not found:
        raise InvalidInputError("`counts` must not be empty. Received: counts=()")
    return sorted(found)
