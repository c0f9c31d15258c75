"""The fitted proposals themselves: approximate posteriors one can look at."""

import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count
from iwae_tf.evaluation import refinement
from iwae_tf.evaluation.compiling import compiled, over_batches
from iwae_tf.evaluation.streaming import CHUNK_SIZE
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.latent_model import LatentModel
from iwae_tf.probability.distributions import split_loc_scale, standard_normal


def refine_proposal(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    *,
    labels: ArrayLike | tf.Tensor | None = None,
    num_steps: int | None = None,
) -> tfd.Distribution:
    """A Gaussian of full covariance fitted to the posterior p(z|x) of each image.

    It depends on x alone, not on a seed or on the other images. First its ELBO is
    maximised. Then it is moved towards the mean and covariance of the posterior; see
    `evaluation.refinement`. `log_likelihood` with `proposal="refined"` draws from it,
    from a wider copy and from the encoder's proposal.

    Args:
      model: a built model of this package.
      x: float [B, *event].
      labels: of a conditional model, integers [B], or one for all.
      num_steps: steps of a fit; None: 40.

    Returns:
      distribution: batch shape [B]. Of one stochastic layer a
      `tfd.MultivariateNormalTriL` of z1, event shape [D_1], with `loc` and
      `scale_tril`. Of several one of z1, z2, ... side by side, event shape
      [D_1 + ... + D_L]: Gaussian in the noise of the encoder's layers, its
      `distribution`. Where a fit fails it is the encoder's proposal.

    Raises:
      InvalidInputError: a bad argument, or a likelihood without a gradient in z.
    """
    steps = refinement.NUM_STEPS if num_steps is None else num_steps
    steps = tf.constant(check_count(steps, "num_steps"))
    x = model.check_x(x)
    y = model.check_labels(labels, len(x))
    latent = model.latent
    parameters = latent.encode(x, y)
    directions = refinement.directions(steps, sum(latent.latent_dims))
    fit = compiled(model, refinement.fit)
    parts = over_batches(
        lambda _, *rows: fit(*rows, None, directions),
        (x, y, parameters),
        refinement.rows_at_once(latent, CHUNK_SIZE),
    )
    found = refinement.Refined(*map(tf.constant, parts))
    if len(latent.latent_dims) == 1:
        loc, scale = split_loc_scale(parameters)
        return _gaussian(loc + scale * found.loc, scale[..., tf.newaxis] * found.factor)
    bijector = _noise_to_latents(latent, parameters, y)
    return tfd.TransformedDistribution(_gaussian(found.loc, found.factor), bijector)


def _gaussian(loc, factor):
    """N(loc, factor factor^T)."""
    covariance = tf.matmul(factor, factor, transpose_b=True)
    return tfd.MultivariateNormalTriL(loc, tf.linalg.cholesky(covariance))


def _noise_to_latents(
    latent: LatentModel, parameters: tf.Tensor, y: tf.Tensor | None
) -> tfb.Bijector:
    """The map from the encoder's noise u to latents, [..., B, D] to [..., B, D]."""

    def as_draws(values):
        return tf.reshape(values, [1, -1, *values.shape[-2:]])

    def infer(u):
        return latent.infer(None, as_draws(u), y, parameters=parameters)

    def forward(u):
        return tf.reshape(tf.concat(infer(u).latents, axis=-1), u.shape)

    def inverse(z):
        latents = tf.split(as_draws(z), latent.latent_dims, axis=-1)
        return tf.reshape(latent.draws_of(latents, parameters, y), z.shape)

    def log_det(u):
        log_prob = standard_normal(u.shape[-1]).log_prob(u)
        return log_prob - tf.reshape(infer(u).log_prob, log_prob.shape)

    return tfb.Inline(
        forward_fn=forward,
        inverse_fn=inverse,
        forward_log_det_jacobian_fn=log_det,
        inverse_log_det_jacobian_fn=lambda z: -log_det(inverse(z)),
        forward_min_event_ndims=1,
        name="noise_to_latents",
    )
