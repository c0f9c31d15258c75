"""Bounds against the number of draws, and log p(x), which they tend to.

References:
  Burda et al., 2016. https://arxiv.org/abs/1509.00519
  Nowozin, 2018 (jackknife). https://openreview.net/forum?id=HyZoi-WRb
  Rainforth et al., 2018 (-KL(Q||P)). https://arxiv.org/abs/1802.04537
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import bounds
from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import log_weight_batches, reference_log_likelihood
from iwae_tf.diagnostics.resampling import evaluate_bound, jackknife
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import summarize

COUNTS = (1, 2, 5, 10, 20, 50, 64, 100, 200, 500, 1000, 2000, 5000)
JACKKNIFE_DRAWS = 20_000  # of each image that a sweep's jackknife looks at, or one K
MANY_GROUPS = 8  # from which on the spread between groups is the error bar
KL_COUNT = 64  # of Rainforth et al.'s IWAE-64


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
      `corrected`, the value by the jackknife, lists over counts), `log_likelihood`, the
      mean log p(x) by 5,000 draws of refined proposals, its 95 % `interval` and
      `unreliable`, the share of images whose Pareto k is above 0.7 even so, and
      `negative_kl`, Rainforth et al.'s -KL(Q||P): IWAE-64 minus log p(x) (None where
      `counts` lacks 64 or "iwae" is not among the functions).

    Raises:
      InvalidInputError: a bad argument.
    """
    counts = sorted({check_count(count, "counts") for count in counts})
    if not counts:
        raise InvalidInputError("`counts` must not be empty. Received: counts=()")
    functions = functions or {"iwae": bounds.iwae}
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for log_weights in log_weight_batches(model, x, counts[-1], seed, on_progress):
        for name, bound in functions.items():
            pieces[name].append(
                np.stack([_at_count(bound, log_weights, count) for count in counts])
            )
    images = {name: np.concatenate(parts, -1) for name, parts in pieces.items()}
    reference = reference_log_likelihood(model, x, seed)
    summary = summarize(reference)
    low, high = summary.interval
    negative_kl = None
    if "iwae" in images and KL_COUNT in counts:
        few = images["iwae"][counts.index(KL_COUNT), 0]
        negative_kl = float(np.mean(few - reference.estimate))
    return {
        "counts": counts,
        "num_images": len(x),
        "bounds": {name: _summarize(parts) for name, parts in images.items()},
        "log_likelihood": -summary.nll,
        "interval": [-high, -low],
        "unreliable": summary.unreliable,
        "negative_kl": negative_kl,
    }


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
