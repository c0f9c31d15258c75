"""Proposals fitted to each image: a Gaussian of full covariance in the encoder's noise.

`LatentModel.infer` makes latents of standard normal noise u, z = loc + scale * u, layer
by layer. In u the encoder's proposal is N(0, I), for any number of layers, and the
posterior is a density near it: it is here that a Gaussian N(m, W W^T) is fitted. What
is fitted follows the encoder's q(z_l|z_{l-1}), so that layers may depend on one another
in any way that the encoder knows of. Units that the decoder ignores stay N(0, I).

A step draws u = m + W e for pairs +e and -e of directions, and moves along the natural
gradient. With L = log p(x, z) |dz/du| - log N(u; m, W W^T) and h = W^T dL/du,

  m <- m + rho W E[h],   W <- W exp(rho/2 (E[h e^T] + E[h e^T]^T)/2),

a step that keeps W invertible. Where p(u|x) is a Gaussian, h is zero at the solution,
whatever the draws are. The directions of a step are orthogonal: of a Gaussian p(u|x)
they give the curvature exactly. First the expectations are of the fitted Gaussian, and
the fixed point is the best ELBO. Then draws are weighted by w^b, b at most 1, and the
fixed point moves towards the mean and covariance of the posterior, which is what
importance sampling wants: the ELBO's Gaussian is too narrow where the posterior has a
tail. b is as large as the draws of the image bear.

References:
  Lin, Schmidt and Khan, 2020 (natural gradients that keep a covariance positive).
    https://arxiv.org/abs/2002.10060
  Roeder, Wu and Duvenaud, 2017 (h, the gradient without the score).
    https://arxiv.org/abs/1703.09194
  Cremer, Li and Duvenaud, 2018 (what the encoder loses).
    https://arxiv.org/abs/1801.03558
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.models.latent_model import Labels, LatentModel, Masks
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import standard_normal

NUM_STEPS = 40  # of a fit
FIRST_SHARE = 0.25  # of the steps, for the ELBO
FIRST_RATE, RATE, LAST_RATE = 0.5, 0.4, 0.03  # rho: of the first steps, then falling
LEAST_PAIRS, MOST_PAIRS = 32, 256  # of directions a step
MOST_SPREAD = 1.5  # of b log w over a step's draws, in standard deviations
LARGEST_OF_A_STEP = 2.5  # standard deviations, of a hundred normal draws
LARGEST_STEP = 1.0  # of the logarithm of a variance, and of m in sqrt(D) deviations
# The draws that score, by the last digit of their number: of the fitted Gaussian, of
# the same one widened, of the encoder's proposal. A tenth of the encoder's bounds a
# weight by ten times the encoder's. A Gaussian p(u|x) needs neither.
PATTERN = (0, 1, 0, 1, 0, 1, 0, 1, 0, 2)
GAUSSIAN_SPREAD = 0.05  # of log w, below which p(u|x) is taken for a Gaussian
WIDER = 1.2  # widened by 1 + WIDER / sqrt(D)
KEY = (20201, 509)  # of the directions, the same for all images and seeds
DRAWS_STREAM = 11  # of the draws that score


class Refined(NamedTuple):
    """A proposal for each of B images in the encoder's noise u, D numbers an image."""

    loc: tf.Tensor  # m, [B, D]
    factor: tf.Tensor  # W, [B, D, D]: the covariance is W W^T
    inverse: tf.Tensor  # W^-1
    log_det: tf.Tensor  # log |W|, [B]
    spread: tf.Tensor  # [B], of log w in the last step: 0 for a Gaussian posterior
    is_fitted: tf.Tensor  # bool [B]; where it is False, the rest is N(0, I)

    def draw(self, draws: tf.Tensor, first: int | tf.Tensor) -> tf.Tensor:
        """u from standard normal draws [1, count, B, D], numbers `first` and on."""
        which = self._which(first + tf.range(tf.shape(draws)[1]))[:, tf.newaxis]
        scale = tf.where(which == 1, self._wider(), 1.0)[..., tf.newaxis]
        refined = self.loc + scale * tf.einsum("mkbd,bed->mkbe", draws, self.factor)
        is_encoder = (which == 2) & ~self._is_gaussian()
        return tf.where(is_encoder[..., tf.newaxis], draws, refined)

    def log_prob(self, u: tf.Tensor, num_samples: tf.Tensor) -> tf.Tensor:
        """log-density [1, K, B] of the mixture that K draws are made from."""
        width = u.shape[-1]
        square = tf.einsum("mkbe,bde->mkbd", u - self.loc, self.inverse)
        square = tf.reduce_sum(square**2, axis=-1)
        wider = self._wider()
        fitted = -0.5 * square - self.log_det
        encoder = -0.5 * tf.reduce_sum(u**2, axis=-1)
        parts = [
            fitted,
            -0.5 * square / wider**2 - self.log_det - width * tf.math.log(wider),
            tf.where(self._is_gaussian(), fitted, encoder),
        ]
        which = self._which(tf.range(len(PATTERN)))
        numbers = num_samples // len(PATTERN) + tf.cast(
            tf.range(len(PATTERN)) < num_samples % len(PATTERN), tf.int32
        )
        logs = []
        for index, part in enumerate(parts):
            count = tf.reduce_sum(tf.where(which == index, numbers, 0))
            share = tf.cast(count, tf.float32) / tf.cast(num_samples, tf.float32)
            logs.append(part + tf.math.log(share))
        constant = 0.5 * width * math.log(2.0 * math.pi)
        return tf.reduce_logsumexp(tf.stack(logs), axis=0) - constant

    def _is_gaussian(self):
        return self.is_fitted & (self.spread < GAUSSIAN_SPREAD)

    def _wider(self):
        width = self.loc.shape[-1]
        return 1.0 + WIDER / math.sqrt(width) * tf.minimum(self.spread, 1.0)

    @staticmethod
    def _which(numbers):
        return tf.gather(tf.constant(PATTERN), numbers % len(PATTERN))


def log_target(
    latent: LatentModel,
    x: tf.Tensor,
    u: tf.Tensor,
    y: Labels,
    parameters: tf.Tensor,
    masks: Masks = None,
) -> tf.Tensor:
    """log p(x, z(u)) |dz/du|, [M, K, B], at u [M, K, B, D]."""
    parts = latent.log_weights(x, u, y, parameters=parameters, masks=masks)
    return parts.log_weights + standard_normal(u.shape[-1]).log_prob(u)


def num_pairs(width: int) -> tuple[int, int]:
    """Pairs of directions of one of the first steps and of one of the others."""
    first = min(max(width, LEAST_PAIRS), MOST_PAIRS)
    return first, first if first <= 64 else max(64, first // 2)


def rows_at_once(latent: LatentModel, chunk_size: int) -> int:
    """Images of one fit, for chunks of so many rows of the decoder."""
    return max(1, chunk_size // (2 * num_pairs(sum(latent.latent_dims))[0]))


def directions(num_steps: tf.Tensor, width: int) -> list[tf.Tensor]:
    """Directions e of the first steps and of the others; see `stage_directions`."""
    share = FIRST_SHARE * tf.cast(num_steps, tf.float32)
    first = tf.cast(tf.math.ceil(share), tf.int32)
    return [
        stage_directions(stage, steps, width)
        for stage, steps in enumerate((first, num_steps - first))
    ]


def stage_directions(stage: int, num_steps: tf.Tensor, width: int) -> tf.Tensor:
    """Directions e of one stage, [steps, pairs, D].

    As many as there are dimensions are orthogonal to each other. Those of stage 0 have
    length sqrt(D), those of stage 1 the length of a normal draw, so that each of them
    is one.
    """
    pairs = num_pairs(width)[stage]
    frames = -(-pairs // width)
    key = noise.fold_in(noise.make_key(KEY), stage)
    normals = noise.normal(key, 0, num_steps * frames * width, width)
    frame, _ = tf.linalg.qr(tf.reshape(normals, [num_steps * frames, width, width]))
    rows = tf.reshape(
        tf.linalg.matrix_transpose(frame), [num_steps, frames * width, width]
    )
    if stage == 0:
        return rows[:, :pairs] * math.sqrt(width)
    lengths = noise.normal(noise.fold_in(key, 1), 0, num_steps * pairs, width)
    lengths = tf.reshape(tf.norm(lengths, axis=-1), [num_steps, pairs, 1])
    return rows[:, :pairs] * lengths


def fit(
    latent: LatentModel,
    x: tf.Tensor,
    y: Labels,
    parameters: tf.Tensor,
    masks: Masks,
    by_stage: Sequence[tf.Tensor],
    is_diagonal: bool = False,
) -> Refined:
    """Fits the proposals of B images at once, as graph ops.

    Args:
      latent: the model.
      x: float [B, *event].
      y: labels [B] of a conditional model.
      parameters: of q(z1|x), float [B, 2 D_1].
      masks: units that are left out.
      by_stage: the two results of `directions`; of the first one alone the best ELBO.
      is_diagonal: whether the factor is a diagonal matrix.

    Returns:
      Refined of float32 tensors.
    """
    rows, width = tf.shape(x)[0], sum(latent.latent_dims)

    def measure(u):
        with tf.GradientTape() as tape:
            tape.watch(u)
            value = log_target(latent, x, u[tf.newaxis], y, parameters, masks)[0]
        gradient = tape.gradient(value, u)
        if gradient is None:
            raise InvalidInputError(
                '`proposal` must be "encoder" for a likelihood that has no gradient in '
                'z. Received: proposal="refined"'
            )
        is_finite = tf.math.is_finite(value)
        gradient = tf.where(is_finite[..., tf.newaxis], gradient, 0.0)
        return tf.where(is_finite, value, value.dtype.min), gradient

    identity = tf.eye(width, batch_shape=[rows])
    zeros = tf.zeros([rows])
    state = (tf.zeros([rows, width]), identity, identity, *[zeros] * 4)
    for stage, e in enumerate(by_stage):
        step = functools.partial(_step, measure, stage, e, is_diagonal)
        _, state = tf.while_loop(
            lambda index, _, e=e: index < tf.shape(e)[0], step, (0, state)
        )
    return _checked(*state)


def _step(measure, stage, e, is_diagonal, index, state):
    """One step of all images: the number of the next one, and the state after it."""
    loc, factor, inverse, log_det, _, _, first = state
    num_steps = tf.shape(e)[0]
    e = tf.concat([e[index], -e[index]], axis=0)
    value, gradient = measure(loc + tf.einsum("sd,bed->sbe", e, factor))
    log_weights = value + 0.5 * tf.reduce_sum(e**2, axis=-1)[:, tf.newaxis]
    h = tf.einsum("sbe,bed->sbd", gradient, factor) + e[:, tf.newaxis]
    mean = tf.reduce_mean(log_weights, axis=0)
    # Not below zero: rounding may take the mean of large values above all of them.
    above = tf.maximum(tf.reduce_max(log_weights, axis=0) - mean, 0.0)
    spread = above / LARGEST_OF_A_STEP
    elbo = mean + log_det
    if stage == 0:
        power, rate = tf.zeros_like(spread), FIRST_RATE
        first = tf.where(index == 0, elbo, first)  # of the encoder
    else:
        power = tf.minimum(1.0, MOST_SPREAD / tf.maximum(spread, 1e-6))
        done = tf.cast(index, tf.float32) / tf.cast(num_steps, tf.float32)
        rate = RATE * (LAST_RATE / RATE) ** done
    h *= tf.nn.softmax(power * log_weights, axis=0)[..., tf.newaxis]
    slope = tf.reduce_sum(h, axis=0)
    curvature = tf.einsum("sbe,sd->bed", h, e)
    curvature = 0.5 * (curvature + tf.linalg.matrix_transpose(curvature))
    if is_diagonal:
        curvature = tf.linalg.diag(tf.linalg.diag_part(curvature))
    norm = _spectral_norm(curvature)
    half = 0.5 * tf.minimum(rate, LARGEST_STEP / norm)[:, tf.newaxis, tf.newaxis]
    grow, shrink = _exponential(half * curvature), _exponential(-half * curvature)
    move = tf.linalg.matvec(grow, tf.linalg.matvec(grow, slope))
    move *= tf.minimum(rate, 1.0 / (1.0 + norm))[:, tf.newaxis]
    longest = LARGEST_STEP * math.sqrt(move.shape[-1])
    length = tf.norm(move, axis=-1, keepdims=True)
    move *= tf.minimum(1.0, longest / tf.maximum(length, 1e-20))
    log_det += half[:, 0, 0] * tf.linalg.trace(curvature)
    loc += tf.linalg.matvec(factor, move)
    state = loc, factor @ grow, shrink @ inverse, log_det, spread, elbo, first
    return index + 1, state


def _checked(loc, factor, inverse, log_det, spread, elbo, first_elbo):
    """The fitted proposals; N(0, I) where a fit has failed."""
    # One step of Newton takes the rounding of the steps out of the inverse.
    inverse = 2.0 * inverse - inverse @ factor @ inverse
    found = loc, factor, inverse, log_det, spread
    is_fitted = elbo >= first_elbo - 1.0
    for part in found:
        is_finite = tf.math.is_finite(part)
        is_fitted &= tf.reduce_all(is_finite, axis=list(range(1, part.shape.rank)))
    identity = tf.eye(loc.shape[-1], batch_shape=[tf.shape(loc)[0]])
    neutral = (0.0, identity, identity, 0.0, 0.0)

    def choose(part, other):
        is_used = tf.reshape(is_fitted, [-1] + [1] * (part.shape.rank - 1))
        return tf.where(is_used, part, other)

    return Refined._make([*map(choose, found, neutral), is_fitted])


def _exponential(matrix):
    """exp of symmetric matrices [B, D, D] whose norm is at most one half."""
    identity = tf.eye(matrix.shape[-1])
    matrix = matrix / 4.0
    result = identity + matrix / 4.0
    for order in (3.0, 2.0, 1.0):
        result = identity + matrix @ result / order
    result = result @ result
    return result @ result


def _spectral_norm(matrix):
    """About the largest absolute eigenvalue of symmetric matrices: [B]."""
    square = matrix @ matrix
    vector = tf.ones_like(matrix[..., 0])
    for _ in range(4):
        vector = tf.linalg.matvec(square, vector)
        vector /= tf.norm(vector, axis=-1, keepdims=True) + 1e-20
    return tf.norm(tf.linalg.matvec(matrix, vector), axis=-1) + 1e-20
