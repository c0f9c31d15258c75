"""What to draw from for a log-likelihood: six proposals on the same images.

The first 50 test digits of MNIST and the one-layer model that ships, 5,000 draws each:
the encoder, ten times its draws, a Laplace approximation, the fitted Gaussian that
`proposal="refined"` takes, and a mixture of eight such Gaussians from other starts.
Annealed importance sampling is a second opinion. All densities are over the encoder's
noise u, z = loc + scale * u (see `iwae_tf.evaluation.refinement`).

    TFDS_DATA_DIR=... python -m benchmarks.proposals --output=benchmarks/proposals.json

Ten minutes on one core; not a part of `make bench`.
"""

import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from benchmarks import common, refined
from benchmarks.common import Row, spread

tfd = tfp.distributions
LAPLACE_WIDER, MIXTURE_WIDER = 1.2, 1.1  # times the standard deviations
STARTS = 8  # of the mixture: half near the encoder's mean, half from the prior
CHUNK = 625  # draws of all images at once; eight times as many are 5,000


class Problem:
    """log p(x, z(u)) |dz/du| of some images, and Gaussians fitted to it."""

    def __init__(self, model, images):
        from iwae_tf.evaluation import refinement
        from iwae_tf.probability.distributions import split_loc_scale

        self.latent, self.x = model.latent, model.check_x(images)
        self.parameters = self.latent.encode(self.x)
        self.loc, self.scale = split_loc_scale(self.parameters)
        self.refinement = refinement
        self.log_target = tf.function(self._log_target, jit_compile=True)
        self.fit = tf.function(self._fit, jit_compile=True)
        self.mode = tf.function(self._mode, jit_compile=True)

    def _log_target(self, u):
        """[K, B] at u [K, B, D]."""
        target = self.refinement.log_target
        return target(self.latent, self.x, u[tf.newaxis], None, self.parameters)[0]

    def _fit(self, shift):
        """Mean and factor, fitted from the encoder's proposal moved by `shift` in u."""
        steps = tf.constant(self.refinement.NUM_STEPS)
        directions = self.refinement.directions(steps, self.loc.shape[-1])
        moved = tf.concat(
            [self.loc + self.scale * shift, tf.math.log(self.scale)], axis=-1
        )
        fit = self.refinement.fit(self.latent, self.x, None, moved, None, directions)
        return fit.loc + shift, fit.factor

    def _mode(self):
        """The mode, and minus the Hessian there."""

        def value_and_gradient(u):
            def loss(u):
                return -self._log_target(u[tf.newaxis])[0]

            return tfp.math.value_and_gradient(loss, u)

        start = tf.zeros_like(self.loc)
        found = tfp.optimizer.lbfgs_minimize(
            value_and_gradient, start, max_iterations=100
        )
        with tf.GradientTape() as tape:
            tape.watch(found.position)
            gradient = value_and_gradient(found.position)[1]
        return found.position, tape.batch_jacobian(gradient, found.position)

    def gaussian(self, shift):
        loc, factor = self.fit(shift)
        covariance = MIXTURE_WIDER**2 * factor @ tf.linalg.matrix_transpose(factor)
        return tfd.MultivariateNormalTriL(loc, tf.linalg.cholesky(covariance))


def encoder(problem):
    zeros = tf.zeros_like(problem.loc)
    return [tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros))]


def laplace(problem):
    """A Gaussian at the mode with the inverse of minus the Hessian, widened."""
    mode, hessian = problem.mode()
    values, vectors = tf.linalg.eigh(hessian)
    variances = LAPLACE_WIDER**2 / tf.maximum(values, 1e-2)
    covariance = tf.einsum("bij,bj,bkj->bik", vectors, variances, vectors)
    return [tfd.MultivariateNormalTriL(mode, tf.linalg.cholesky(covariance))]


def fitted(problem):
    return [problem.gaussian(tf.zeros_like(problem.loc))]


def mixture(problem):
    generator = tf.random.Generator.from_seed(0)
    draws = [generator.normal(problem.loc.shape) for _ in range(STARTS)]
    near = [2.0 * draw for draw in draws[: STARTS // 2]]
    far = [(draw - problem.loc) / problem.scale for draw in draws[STARTS // 2 :]]
    return [problem.gaussian(shift) for shift in near + far]


def score(problem, proposals, num_draws):
    """log w [K, B] of draws that are shared out evenly among the proposals."""
    logs = []
    for number in range(num_draws // CHUNK):
        u = proposals[number % len(proposals)].sample(CHUNK, seed=(number, 3))
        densities = [proposal.log_prob(u) for proposal in proposals]
        density = tf.reduce_logsumexp(densities, axis=0) - np.log(len(proposals))
        logs.append((problem.log_target(u) - density).numpy())
    return np.concatenate(logs)


def measure(options):
    """A row for each proposal: what its estimate is above the fitted Gaussian's."""
    from iwae_tf.diagnostics import annealed_log_likelihood
    from iwae_tf.evaluation.pareto import pareto_k

    draws = refined.DRAWS
    model, images = refined.load(refined.ONE_LAYER, 3 if options.quick else 50)
    problem = Problem(model, images)
    ways = {
        "encoder": (encoder, draws),
        "encoder, ten times the draws": (encoder, 10 * draws),
        "Laplace": (laplace, draws),
        "fitted Gaussian": (fitted, draws),
        f"mixture of {STARTS} fitted Gaussians": (mixture, draws),
    }
    estimates, texts, unit = {}, {}, None
    for name, (make, count) in ways.items():
        score(problem, make(problem), CHUNK)  # compiles
        start = time.monotonic()
        log_weights = score(problem, make(problem), count)
        seconds = time.monotonic() - start
        unit = unit or seconds
        weights = np.exp(log_weights - log_weights.max(axis=0))
        size = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
        estimates[name] = np.log(weights.mean(axis=0)) + log_weights.max(axis=0)
        texts[name] = (
            f"effective sample size {np.median(size):,.0f} in the median, "
            f"{size.min():,.0f} at least; k > 0.7: "
            f"{np.mean(pareto_k(log_weights) > 0.7):.0%}; time {seconds / unit:.1f}"
        )
    steps, name = 20 if options.quick else 2400, "annealed importance sampling"
    start = time.monotonic()
    found = annealed_log_likelihood(model, images, num_steps=steps)
    seconds = time.monotonic() - start
    estimates[name] = found.estimate
    error = np.sqrt(np.sum(found.standard_error**2)) / len(images)
    texts[name] = f"{steps:,} temperatures, +- {error:.3f}; time {seconds / unit:.0f}"
    usual = estimates["fitted Gaussian"]
    return [
        Row(name, spread([float(np.mean(estimate - usual))]), "nats",
            reference=texts[name])
        for name, estimate in estimates.items()
    ]  # fmt: skip


if __name__ == "__main__":
    common.run_script(__doc__, measure)
