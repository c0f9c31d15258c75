"""Free bits of the VAE: gradients by one tape and closed forms, metrics, refusals."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from builders import binary, build, classes, draw

from iwae_tf import bounds
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import gradients
from iwae_tf.models.bound_model import Batch

WEIGHTS = np.float32([0.1, 0.4, 0.2, 0.5])
KL_WEIGHT = 0.3


def batch_of(model):
    data = tf.constant(binary()), tf.constant(classes()), draw(model)
    return Batch(*data, tf.constant(WEIGHTS), kl_weight=tf.constant(KL_WEIGHT))


def normal_log_prob(z, loc, log_scale):
    square = ((z - loc) / tf.exp(log_scale)) ** 2
    return -0.5 * square - log_scale - 0.5 * np.log(2 * np.pi)


def objective_by_hand(model, batch, nats, stopped=False):
    """sum_b w_b mean_k log p(x|z) - b sum_j max(sum_b w_b nats, sum_b w_b KL_bj).

    Each KL_j of the closed form decides; its gradient is that of log q - log p at the
    draws, without the one through q's parameters in log q where that is `stopped`.

    Returns:
      (objective, KL_j of the closed form, nats of a mean over the batch [D]).
    """
    latent = model.latent
    loc, log_scale = tf.split(latent.encode(batch.x, batch.y), 2, axis=-1)
    prior = model.prior(tf.one_hot(batch.y, 3))
    prior_loc, prior_log_scale = tf.split(prior, 2, axis=-1)
    z = loc + tf.exp(log_scale) * batch.draws
    joint = latent.log_joint(batch.x, [z], batch.y, training=True)
    ratio = (tf.exp(2 * log_scale) + (loc - prior_loc) ** 2) / tf.exp(
        2 * prior_log_scale
    )
    kl = prior_log_scale - log_scale + 0.5 * (ratio - 1)
    kl = tf.reduce_sum(WEIGHTS[:, np.newaxis] * kl, axis=0) / WEIGHTS.sum()
    q = [tf.stop_gradient(p) if stopped else p for p in (loc, log_scale)]
    costs = normal_log_prob(z, *q) - normal_log_prob(z, prior_loc, prior_log_scale)
    costs = tf.reduce_sum(WEIGHTS[:, np.newaxis] * costs, axis=2)
    costs = tf.reduce_mean(costs, axis=[0, 1])  # a unit
    costs = tf.where(kl > nats, costs, nats * WEIGHTS.sum())
    likelihood = tf.reduce_mean(joint.log_likelihood, axis=[0, 1])
    whole = tf.reduce_sum(WEIGHTS * likelihood) - KL_WEIGHT * tf.reduce_sum(costs)
    return whole, kl


@functools.cache
def kl_of_units():
    model = build("vae", labels=True)
    return sorted(objective_by_hand(model, batch_of(model), 1.0)[1].numpy())


@pytest.mark.parametrize("estimator", ["reparameterized", "stl"])
@pytest.mark.parametrize("num_free", [0, 1, 2])
def test_a_unit_whose_kl_is_small_costs_nothing(num_free, estimator):
    """Amid a warm-up, given labels: the unit of the smaller KL, then both."""
    small, large = kl_of_units()
    assert 0.05 < small < 0.9 * large
    nats = float([small / 2, (small + large) / 2, 2 * large][num_free])
    model = build("vae", labels=True, free_bits=nats, gradient_estimator=estimator)
    batch = batch_of(model)
    result = model.loss_gradients(batch)
    with tf.GradientTape() as tape:
        loss = -objective_by_hand(model, batch, nats, estimator == "stl")[0]
    expected = tape.gradient(loss, model.trainable_variables, None, "zero")
    for actual, theirs in zip(result.gradients, expected, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=2e-4, atol=2e-6)
    # What is logged is the ELBO itself, and the gradients of others are their own.
    plain = build("vae", labels=True, gradient_estimator=estimator)
    theirs = plain.loss_gradients(batch)
    np.testing.assert_array_equal(result.bound.generative, theirs.bound.generative)
    pairs = zip(result.gradients, theirs.gradients)
    is_same = all(np.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)
    assert is_same == (num_free == 0)


@pytest.mark.slow
def test_units_are_used_that_were_not():
    """With nats to give away each unit has about as many: it is used."""
    x = np.tile(binary(8), [320, 1])
    found = []
    for nats in (None, 1.0):
        model = build("vae", free_bits=nats)
        model.compile("adam", jit_compile=False)
        model.optimizer.learning_rate = 0.05
        model.fit(x, batch_size=32, verbose=0)
        loc, log_scale = np.split(model.latent.encode(x[:8]).numpy(), 2, axis=-1)
        kl = 0.5 * (loc**2 + np.exp(2 * log_scale) - 1) - log_scale
        found.append(kl.mean(axis=0).min())
    assert found[0] < 0.5 and found[1] > 0.8


def test_replicas_decide_together(monkeypatch):
    """A sum over replicas, where the batch of one alone would say otherwise."""
    model = build("vae", labels=True, free_bits=kl_of_units()[1] * 2)
    context, asked = tf.distribute.get_replica_context(), []

    class Context:
        num_replicas_in_sync = 2

        def all_reduce(self, how, value):
            asked.append((how, value.numpy()))
            return value + tf.constant([1e3, 0.0])

    batch = batch_of(model)
    latent, args = model.latent, (batch.y, batch.example_weights)
    q = latent.infer(batch.x, batch.draws, batch.y)
    monkeypatch.setattr(tf.distribute, "get_replica_context", Context)
    (mask,) = gradients.units_that_cost(model.objective, latent, q, *args)
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
    np.testing.assert_array_equal(mask.active, [True, False])
    (alone,) = gradients.units_that_cost(model.objective, latent, q, *args)
    np.testing.assert_array_equal(alone.active, [False, False])
    ((how, total),) = asked
    kl = objective_by_hand(model, batch, 1.0)[1]
    expected = (kl - model.objective.free_bits) * WEIGHTS.sum()
    assert how == "SUM"
    np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_other_models_and_layers_refuse_it():
    with pytest.raises(InvalidInputError, match="free_bits"):
        build("iwae", free_bits=1.0)
    with pytest.raises(InvalidInputError, match="`free_bits` must be left out for sev"):
        build("vae", num_layers=2, free_bits=1.0)


def test_it_is_saved_and_said():
    model = build("vae", free_bits=0.25)
    assert model.get_config()["free_bits"] == 0.25
    assert bounds.ELBO(0.25).describe(1, 5) == "mean log w, K=5, 0.25 nats a unit free"
    assert bounds.ELBO().describe(1, 5) == "mean log w, K=5"
