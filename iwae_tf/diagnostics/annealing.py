"""A second opinion on log p(x): annealed importance sampling with HMC.

From a base distribution with a known normaliser, Hamiltonian Monte Carlo follows a
path of tempered distributions to p(x, z). In expectation the result is a lower bound
on log p(x). Of an x that the model itself made the z behind it is an exact draw of
p(z|x), and the same path walked backwards from there gives an upper bound.

References:
  Neal, 2001. https://doi.org/10.1023/A:1008923215028
  Grosse, Ghahramani and Adams, 2015 (upper bound). https://arxiv.org/abs/1511.02543
  Wu, Burda, Salakhutdinov and Grosse, 2017 (decoders).
    https://arxiv.org/abs/1611.04273
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from iwae_tf.checks import check_choice, check_count
from iwae_tf.diagnostics.draws import check_x
from iwae_tf.diagnostics.resampling import leave_one_out
from iwae_tf.evaluation import refinement
from iwae_tf.evaluation.compiling import compiled, over_batches
from iwae_tf.models.autoencoder import LATENT_STREAM
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import standard_normal

BASES = ("proposal", "prior")
STEP_SIZES = (0.8, 0.4, 0.2, 0.1, 0.05, 0.025)  # tried, in deviations of q
ACCEPTANCE = 0.65  # wanted at least
CHAINS_AT_ONCE = 512  # what bounds the memory


class Annealed(NamedTuple):
    """Estimates of log p(x) by annealing, NumPy arrays [B]."""

    estimate: np.ndarray  # nats; low in expectation, high for the reverse direction
    # By the jackknife over chains; of the reverse direction without what the exact draw
    # adds that all chains of an image start from.
    standard_error: np.ndarray
    acceptance: np.ndarray  # of HMC's last step
    step_size: np.ndarray  # in standard deviations of q


class FreshHMC(tfp.mcmc.HamiltonianMonteCarlo):
    """HMC that evaluates the current state under its own target at each step.

    `sample_annealed_importance_chain` makes a kernel for each temperature but hands
    on the last one's results, in which HMC finds the log-density of the state at the
    temperature before: it would accept by the wrong ratio.
    """

    def one_step(
        self,
        current_state: tf.Tensor,
        previous_kernel_results: Any,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Any]:
        fresh = self.bootstrap_results(current_state)
        return super().one_step(current_state, fresh, seed=seed)


def annealed_log_likelihood(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    *,
    latents: Sequence[tf.Tensor] | None = None,
    num_steps: int = 500,
    num_chains: int = 16,
    num_leapfrog_steps: int = 10,
    base: str = "proposal",
    seed: Sequence[int] = (0, 0),
    on_progress: Callable[[int], object] | None = None,
) -> Annealed:
    """Estimates log p(x) of each image by annealed importance sampling.

    log 1/C sum_c w_c, w_c the weight of chain c from the base to p(x, z)

    HMC moves the noise e of z = loc + scale * e, that q(z|x) is drawn from, so that
    one step size suits all dimensions; it is chosen for each image in a pilot run of
    a tenth of the length, for an acceptance of 0.65.

    Args:
      model: a built model of this package, of any number of layers.
      x: float [B, *event].
      latents: None for the forward direction; for the reverse one the exact draws
        [z1 [B, D_1], z2, ...] of p(z|x), from `model.sample_latents`.
      num_steps: temperatures.
      num_chains: C, chains an image.
      num_leapfrog_steps: of HMC.
      base: "proposal", q(z|x), or "prior", which owes nothing to the encoder but its
        scales and takes more steps.
      seed: pair of integers.
      on_progress: optional function of the number of images just finished.

    Returns:
      Annealed: `estimate` is a lower bound on log p(x) in expectation, or with
      `latents` an upper bound.

    Raises:
      InvalidInputError: a bad argument.
    """
    num_steps = check_count(num_steps, "num_steps")
    num_chains = check_count(num_chains, "num_chains")
    num_leapfrog_steps = check_count(num_leapfrog_steps, "num_leapfrog_steps")
    check_choice(base, "base", BASES)
    key = noise.make_key(seed)
    x = check_x(model, x)
    run = compiled(
        model,
        _anneal,
        num_chains=num_chains,
        num_leapfrog_steps=num_leapfrog_steps,
        base=base,
    )
    found = over_batches(
        lambda first, x, latents: _one_batch(
            run, x, latents, num_steps, noise.fold_in(key, first)
        ),
        (x, latents),
        max(1, CHAINS_AT_ONCE // num_chains),
        on_progress,
    )
    return Annealed(*found)


def _one_batch(run, x, latents, num_steps, key):
    """Annealed of images of one batch."""

    def seed_of(number):
        return tf.reshape(tf.bitcast(noise.fold_in(key, number), tf.int32), [2])

    pilot_steps = tf.constant(max(1, num_steps // 10))
    shape = [1, 1, len(x), 1]
    chosen = np.full(len(x), STEP_SIZES[-1])
    undecided = np.ones(len(x), bool)
    for index, step_size in enumerate(STEP_SIZES[:-1]):
        _, acceptance = run(
            x, latents, pilot_steps, tf.fill(shape, step_size), seed_of(index + 1)
        )
        accepted = undecided & (acceptance.numpy() >= ACCEPTANCE)
        chosen[accepted] = step_size
        undecided &= ~accepted
        if not undecided.any():
            break
    step_sizes = tf.constant(chosen.reshape(shape), tf.float32)
    log_weights, acceptance = run(
        x, latents, tf.constant(num_steps), step_sizes, seed_of(0)
    )
    log_weights = log_weights.numpy().astype(np.float64)
    estimate = special.logsumexp(log_weights, axis=0) - math.log(len(log_weights))
    return Annealed(
        estimate=estimate if latents is None else -estimate,
        standard_error=leave_one_out(log_weights)[1],
        acceptance=acceptance.numpy(),
        step_size=chosen,
    )


def _anneal(
    latent, x, latents, num_steps, step_size, seed, num_chains, num_leapfrog_steps, base
):
    """Log-weights [chains, B] of images, and HMC's acceptance [B]."""
    width, parameters = sum(latent.latent_dims), latent.encode(x)
    standard = standard_normal(width)

    def log_target(draws):
        return refinement.log_target(latent, x, draws, None, parameters)

    def log_base(draws):
        if base == "proposal":
            return standard.log_prob(draws)
        q = latent.infer(x, draws, parameters=parameters)
        log_prior = latent.log_joint(x, q.latents).log_prior
        return standard.log_prob(draws) + log_prior - q.log_prob

    shape = [1, num_chains, tf.shape(x)[0]]
    start_seed, chain_seed = tf.unstack(tf.random.split(seed, 2))
    if latents is not None:
        exact = [tf.broadcast_to(z, [*shape, z.shape[-1]]) for z in latents]
        start = latent.draws_of(exact, parameters)
        log_base, log_target = log_target, log_base
    elif base == "proposal":
        start = tf.random.stateless_normal([*shape, width], start_seed)
    else:
        key = noise.fold_in(noise.make_key(start_seed), LATENT_STREAM)
        draws = noise.normal(key, 0, num_chains * shape[2], width)
        found = latent.sample(tf.reshape(draws, [*shape, width]))
        start = latent.draws_of(found, parameters)

    def make_kernel(log_prob):
        return FreshHMC(log_prob, step_size, num_leapfrog_steps)

    _, log_weights, results = tfp.mcmc.sample_annealed_importance_chain(
        num_steps, log_base, log_target, start, make_kernel, seed=chain_seed
    )
    ratio = tf.minimum(results.inner_results.log_accept_ratio, 0.0)
    return log_weights[0], tf.reduce_mean(tf.exp(ratio), axis=[0, 1])
