"""What the latents hold: KL of each unit, collapse, and posteriors in the plane."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy import special
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count, check_integer
from iwae_tf.diagnostics.draws import check_x
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import (
    ACTIVE_VARIANCE,
    LAYER_DRAWS,
    LayerStatistics,
    count_active,
    refine_proposal,
)
from iwae_tf.evaluation.compiling import over_batches
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import split_loc_scale

COLLAPSED_KL = 0.1  # nats of a whole layer: below, it tells nothing of x
GRID_SIZE = 41  # points a side
WIDE = 5.0  # prior deviations that the search for the posterior covers
MARGIN = 4.0  # deviations around q and around the posterior that are drawn
SMALLEST_SCALE = 1e-3


def kl_per_unit(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    seed: Sequence[int] = (0, 0),
    *,
    labels: np.ndarray | None = None,
    num_draws: int = LAYER_DRAWS,
    batch_size: int = 100,
) -> list[np.ndarray]:
    """KL(q(z_l|z_{l-1}) || p(z_l|z_{l+1})) of each latent unit, averaged over the data.

    In closed form against the prior of the top layer; below it the mean of
    log q - log p over draws of q.

    Args:
      model: a built model of this package.
      x: float [N, *event].
      seed: pair of integers.
      labels: integers [N], for a conditional model alone.
      num_draws: draws of z an image.
      batch_size: images at once.

    Returns:
      list of float64 arrays [D_l], one a layer, z1 first, in nats.

    Raises:
      InvalidInputError: a bad argument.
    """
    num_draws = check_count(num_draws, "num_draws")
    batch_size = check_count(batch_size, "batch_size")
    key, x, latent = noise.make_key(seed), model.check_x(x), model.latent

    def kls(first, x, y):
        draws = latent.draw_noise(key, first, len(x), 1, num_draws)
        layers = _layer_kls(latent, latent.infer(x, draws, y), y)
        return [tf.reduce_mean(kl, [*range(kl.shape.rank - 2)]) for kl in layers]

    values = x, model.check_labels(labels, len(x))
    found = over_batches(kls, values, batch_size)
    return [kl.mean(axis=0, dtype=np.float64) for kl in found]


def _layer_kls(model, q, y):
    """Yields of each layer [..., B, D_l], whose mean over draws is the KL of a unit."""
    *lower, top = (tfd.Normal(*split_loc_scale(layer)) for layer in q.parameters)
    for layer, proposal in enumerate(lower):
        parameters = model.prior_parameters(layer + 1, q.latents[layer + 1], y)
        prior, z = tfd.Normal(*split_loc_scale(parameters)), q.latents[layer]
        yield proposal.log_prob(z) - prior.log_prob(z)
    yield top.kl_divergence(model.top_prior(y).distribution)


def collapse(
    statistics: Sequence[LayerStatistics],
    kls: Sequence[np.ndarray],
    threshold: float = ACTIVE_VARIANCE,
) -> list[dict[str, Any]]:
    """Says of each layer whether it has collapsed onto its prior.

    A layer has collapsed where none of its units is active or its KL is below
    0.1 nats; single units are "unused" where they are not active.

    Args:
      statistics: list of `evaluation.LayerStatistics`.
      kls: list of arrays of `kl_per_unit`.
      threshold: variance above which a unit is active.

    Returns:
      list of dicts, one a layer: `layer`, `units`, `active`, `kl`, `collapsed` and
      `verdict`, a sentence.
    """
    layers = []
    active_units = count_active(statistics, threshold)
    for number, (active, kl) in enumerate(zip(active_units, kls), 1):
        total, units = float(kl.sum()), len(kl)
        collapsed = active == 0 or total < COLLAPSED_KL
        note = f"; {units - active} units unused" * (active < units)
        if collapsed:
            note = ": posterior collapse, q(z|x) is the prior and does not depend on x"
        verdict = f"layer {number}: {active} of {units} units active, KL {total:.2f} "
        verdict += f"nats{note}"
        found = {"layer": number, "units": units, "active": active, "kl": total}
        layers.append(found | {"collapsed": collapsed, "verdict": verdict})
    return layers


class PosteriorMap(NamedTuple):
    """True posterior of one image on a grid, beside q(z|x) and the refined proposal."""

    horizontal: np.ndarray  # [G], values of the first unit
    vertical: np.ndarray  # [G], of the second
    posterior: np.ndarray  # [G (vertical), G (horizontal)], scaled to a peak of one
    loc: np.ndarray  # [2], of q(z|x)
    scale: np.ndarray  # [2], of q(z|x)
    refined_loc: np.ndarray  # [2], of `refine_proposal`, in the plane
    refined_covariance: np.ndarray  # [2, 2]
    log_evidence: float  # log of the integral of p(x, z) over the grid


def posterior_map(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    units: Sequence[int] = (0, 1),
    *,
    grid_size: int = GRID_SIZE,
) -> PosteriorMap:
    """The true posterior p(z|x) of one image beside q(z|x), over two latent units.

    The Gaussian of `refine_proposal` is there too. With two latent dimensions that is
    all of it, and `log_evidence` is log p(x). With more it is the plane through the
    mean of q(z|x), the other units held there.

    Args:
      model: a built model with one stochastic layer of two units or more.
      x: float [1, *event], one image.
      units: the two units, on the horizontal and on the vertical axis.
      grid_size: points a side.

    Returns:
      PosteriorMap. The grid covers both distributions.

    Raises:
      InvalidInputError: another number of layers, units or images, or units that the
        layer does not have.
    """
    grid_size = check_count(grid_size, "grid_size", 2)
    x = check_x(model, x)
    dims = model.latent_dims
    if len(dims) != 1 or dims[0] < 2 or len(x) != 1:
        raise InvalidInputError(
            "a posterior map must be of one example and one stochastic layer of two "
            f"units or more. Received: {len(x)} examples, latent_dims={dims}"
        )
    for unit in units:
        check_integer(unit, "units", 0, dims[0] - 1)
    if len(set(units)) != 2 or len(units) != 2:
        raise InvalidInputError(
            f"`units` must be two different units. Received: units={tuple(units)}"
        )
    units = list(units)
    loc, scale = (v.numpy()[0] for v in split_loc_scale(model.latent.encode(x)))

    def log_joint(axes):
        points = np.tile(loc, [len(axes[0]) * len(axes[1]), 1])
        points[:, units] = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
        parts = model.latent.log_joint(
            x, [tf.constant(points[None, :, None], tf.float32)]
        )
        values = parts.total.numpy()
        return values.reshape(len(axes[1]), len(axes[0])).astype(np.float64)

    axes = [np.linspace(-WIDE, WIDE, grid_size)] * 2
    for _ in range(2):  # the second search is at the scale of what the first one found
        ends = _box(axes, log_joint(axes), loc[units], scale[units])
        axes = [np.linspace(low, high, grid_size) for low, high in ends]
    log_values = log_joint(axes)
    refined_loc, refined_covariance = _in_plane(refine_proposal(model, x), loc, units)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    return PosteriorMap(
        horizontal=axes[0],
        vertical=axes[1],
        posterior=np.exp(log_values - log_values.max()),
        loc=loc[units],
        scale=scale[units],
        refined_loc=refined_loc,
        refined_covariance=refined_covariance,
        log_evidence=float(special.logsumexp(log_values) + math.log(cell)),
    )


def _in_plane(gaussian, at, units):
    """Mean and covariance of two units of a Gaussian [1, D], given the others."""
    mean, covariance = gaussian.mean().numpy()[0], gaussian.covariance().numpy()[0]
    others = np.setdiff1d(np.arange(len(mean)), units)
    precision = np.linalg.inv(covariance.astype(np.float64))
    inside = np.linalg.inv(precision[np.ix_(units, units)])
    pull = precision[np.ix_(units, others)] @ (at - mean)[others]
    return mean[units] - inside @ pull, inside


def _box(axes, log_values, loc, scale):
    """Ends of a square grid's axes that hold posterior and proposal."""
    weights = special.softmax(log_values)
    ends = []
    marginals = weights.sum(axis=0), weights.sum(axis=1)
    for axis, marginal, m, s in zip(axes, marginals, loc, scale):
        mean = np.sum(marginal * axis)
        deviation = math.sqrt(np.sum(marginal * (axis - mean) ** 2))
        deviation = max(deviation, (axis[1] - axis[0]) / 2, SMALLEST_SCALE)
        low = min(mean - MARGIN * deviation, m - MARGIN * s)
        ends.append((low, max(mean + MARGIN * deviation, m + MARGIN * s)))
    return ends
