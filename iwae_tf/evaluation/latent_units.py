"""Active latent units: which dimensions of z depend on x."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.compiling import over_batches
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.latent_model import UnitMask
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import split_loc_scale

ACTIVE_VARIANCE = 0.01  # Burda et al.'s threshold
LAYER_DRAWS = 100  # draws over which the mean of an upper layer is averaged


class LayerStatistics(NamedTuple):
    """Posterior means of one stochastic layer over a data set.

    The top layer of a conditional model with a `prior` is measured relative to it,
    (z_L - loc_y) / scale_y: what z_L says about x beyond what y says.
    """

    means: np.ndarray  # [N, D], E[z_l | x]
    variances: np.ndarray  # [D], over the data, the noise of the estimate taken out


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
    `LayerStatistics`. In the top layer the prior's variance is 1, and the threshold is
    a share of it. In lower layers p(z1|z2) has scales of its own: a unit with a small
    scale counts as inactive and may still matter.

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
      InvalidInputError: one example alone, or another bad argument.
    """
    batch_size = check_count(batch_size, "batch_size")
    num_draws = check_count(num_draws, "num_draws", 2)
    key, x, latent = noise.make_key(seed), model.check_x(x), model.latent
    if len(x) == 1:
        raise InvalidInputError(
            "`x` must have at least two examples: a unit is active by its variance. "
            "Received: one"
        )

    def means_and_errors(first, x, y):
        draws = latent.draw_noise(key, first, len(x), 1, num_draws)
        layers = latent.infer(x, draws, y).parameters
        locs = [split_loc_scale(layer)[0] for layer in layers]
        locs[-1] = latent.standardized(locs[-1], y)
        return [part for loc in locs for part in _mean_over_draws(loc)]

    values = x, model.check_labels(labels, len(x))
    parts = over_batches(means_and_errors, values, batch_size)
    statistics = []
    for means, errors in zip(parts[::2], parts[1::2]):
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
