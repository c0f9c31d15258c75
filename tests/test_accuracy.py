"""Sums over a million float32 numbers, within 1e-4 nats of float64."""

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import bounds
from iwae_tf.evaluation import stream_draws
from iwae_tf.models.metrics import JointMeans

MILLION = 1_000_000
NATS = 1e-4


CASES = [(-90, 8), (-1500, 8), (-90, 0.01)]


def drawn(loc, scale):
    """A million, heavy-tailed or nearly equal, of small images or large."""
    draws = loc + scale * np.random.default_rng(0).standard_t(5, size=MILLION)
    return draws.astype(np.float32)


@pytest.fixture(scope="module", params=CASES)
def log_weights(request):
    return drawn(*request.param)


def tolerance(log_weights):
    """What the test is about, and half a step of float32 where that is larger."""
    return max(NATS, float(np.spacing(np.float32(abs(log_weights.mean())))))


def log_mean_exp(values):
    values = values.astype(np.float64)
    return values.max() + np.log(np.mean(np.exp(values - values.max())))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_bounds_of_a_million_draws(log_weights, jit_compile):
    def both(values):
        return bounds.iwae(values), bounds.elbo(values)

    iwae, elbo = tf.function(both, jit_compile=jit_compile)(
        tf.constant(log_weights.reshape(1, MILLION, 1))
    )
    atol = tolerance(log_weights)
    np.testing.assert_allclose(iwae, [log_mean_exp(log_weights)], rtol=0, atol=atol)
    mean = log_weights.astype(np.float64).mean()
    np.testing.assert_allclose(elbo, [mean], rtol=0, atol=atol)


def test_the_streamed_estimate_of_a_million_draws(log_weights):
    padded = tf.constant(np.append(log_weights, np.zeros(5000, np.float32)))

    def draw(first, count):
        return padded[first : first + count, tf.newaxis]

    found = stream_draws(draw, 1, MILLION, 2500)
    exact = log_mean_exp(log_weights)
    assert abs(float(found.estimate[0]) - exact) <= tolerance(log_weights)
    weights = np.exp(log_weights.astype(np.float64) - exact) / MILLION
    size = 1.0 / np.sum(weights**2)
    assert float(found.effective_sample_size[0]) == pytest.approx(size, rel=1e-5)
    error = np.sqrt((MILLION / size - 1) / (MILLION - 1))  # the delta method
    assert float(found.standard_error[0]) == pytest.approx(error, rel=1e-3)


def test_the_mean_of_a_million_examples_in_batches():
    """In float32 the running sum would be off by some 1e-3 nats; see the premise."""
    columns = [drawn(*case) for case in CASES]
    columns += [-column for column in columns]
    names = [f"mean_{i}" for i in range(len(columns))]
    means = JointMeans(names)
    batches = np.stack(columns).reshape([len(names), -1, 20]).swapaxes(0, 1)

    @tf.function
    def add_up(batches):
        for batch in batches:
            means.update_state(tf.unstack(batch), tf.ones([20]))

    add_up(tf.constant(batches))
    for name, column in zip(names, columns):
        exact = column.astype(np.float64).mean()
        result = means.trackers[name].result()
        assert result.dtype == tf.float32
        assert abs(float(result) - exact) <= tolerance(column)
        in_float32 = np.float32(0)
        for total in column.reshape(-1, 20).sum(axis=1):
            in_float32 += total
        # The premise; rounding may cancel where all are nearly equal.
        if column.std() > 1.0:
            assert abs(in_float32 / MILLION - exact) > NATS
