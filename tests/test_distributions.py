"""Densities against scipy, quadrature and sums over all images."""

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from running import refusal

from iwae_tf.errors import InvalidInputError
from iwae_tf.probability import distributions as lib

RNG = np.random.default_rng(1)
EVENTS = [(7,), (4, 3), (3, 2, 1)]


def gradients(function, *arguments):
    """Value and gradient in each argument, as float64 arrays."""
    arguments = [tf.constant(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
    slopes = tape.gradient(value, arguments)
    return np.asarray(value), [np.asarray(slope, np.float64) for slope in slopes]


# loc and scale.


@pytest.mark.parametrize(
    "log_scale",
    [
        *(9.5, 10.0, 10.5, 250.0, 1e5, 1e8),
        *(-9.5, -10.5, -250.0, -1e9),
        np.inf,
        -np.inf,
    ],
)
def test_log_scale_is_clipped_and_its_gradient_is_not(log_scale):
    expected = min(max(log_scale, -10.0), 10.0)
    parameters = np.array([[0.5, log_scale]], np.float32)
    loc, (slopes,) = gradients(lambda p: lib.split_loc_scale(p)[0], parameters)
    assert loc == 0.5 and np.array_equal(slopes, [[1.0, 0.0]])
    scale, (slopes,) = gradients(lambda p: lib.split_loc_scale(p)[1], parameters)
    tolerance = 2e-5  # an ulp of 250, as a factor
    np.testing.assert_allclose(scale, np.exp([[expected]]), rtol=tolerance)
    if np.isfinite(log_scale):
        np.testing.assert_allclose(slopes, [[0.0, np.exp(expected)]], rtol=tolerance)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float64])
def test_parameters_are_float32_from_any_precision(dtype):
    parameters = tf.constant([[1.25, -3.0, 1.75, 12.0]], dtype)
    loc, scale = lib.split_loc_scale(parameters)
    assert loc.dtype == scale.dtype == tf.float32
    np.testing.assert_array_equal(loc, [[1.25, -3.0]])
    np.testing.assert_allclose(scale, np.exp([[1.75, 10.0]]), rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        total = tf.reduce_sum(lib.split_loc_scale(parameters)[1])
    slopes = tape.gradient(total, parameters)
    assert slopes.dtype == dtype
    expected = [[0.0, 0.0, np.exp(1.75), np.exp(10.0)]]
    np.testing.assert_allclose(tf.cast(slopes, tf.float32), expected, rtol=1e-2)


@pytest.mark.parametrize(
    "function, shape, message",
    [
        (lib.split_loc_scale, (2, 3), "Received: .*3"),
        (lib.normal_likelihood, (2, 3), "Received: .*3"),
        (lib.discretized_logistic_likelihood, (2, 3), "Received: .*3"),
        # One number a row is not loc and scale.
        (lib.get_likelihood("normal"), (6,), r"^parameters of .* shape=\(6,\)$"),
        (
            lib.get_likelihood("discretized_logistic"),
            (6,),
            r"^parameters of .* shape=\(6,\)$",
        ),
    ],
)
def test_impossible_parameters_are_refused(function, shape, message):
    with pytest.raises(InvalidInputError, match=message):
        function(tf.zeros(shape))


# Latents.


def test_diagonal_normal():
    loc, scale = RNG.normal(size=[5, 3]), RNG.uniform(0.2, 3, [5, 3])
    latent = RNG.normal(size=[2, 4, 5, 3])
    proposal = lib.diagonal_normal(np.float32(loc), np.float32(scale))
    assert proposal.batch_shape == (5,) and proposal.event_shape == (3,)
    expected = scipy.stats.norm.logpdf(latent, loc, scale).sum(axis=-1)
    log_prob = proposal.log_prob(np.float32(latent))
    assert log_prob.shape == (2, 4, 5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(proposal.mean(), np.float32(loc))
    np.testing.assert_allclose(proposal.stddev(), scale, rtol=1e-6)
    masked = lib.diagonal_normal(
        np.float32(loc), np.float32(scale), tf.constant([True] * 3)
    )
    np.testing.assert_allclose(masked.log_prob(np.float32(latent)), log_prob)


def test_masked_units_have_no_density():
    loc, scale = RNG.normal(size=[5, 4]), RNG.uniform(0.2, 3, [5, 4])
    latent = RNG.normal(size=[2, 5, 4])
    latent[..., 1] = 1e15  # a value that must not matter
    active = np.array([True, False, True, False])

    def log_prob(latent, loc, scale):
        return lib.diagonal_normal(loc, scale, tf.constant(active)).log_prob(latent)

    value, slopes = gradients(log_prob, *map(np.float32, (latent, loc, scale)))
    density = scipy.stats.norm.logpdf(latent, loc, scale)
    expected = density[..., active].sum(axis=-1)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    pull = (loc - latent) / scale**2 * active
    np.testing.assert_allclose(slopes[0], pull, rtol=1e-4)
    np.testing.assert_allclose(slopes[1], -pull.sum(axis=0), rtol=1e-4, atol=1e-5)
    assert np.all(slopes[2][:, ~active] == 0) and np.all(slopes[2][:, active] != 0)
    distribution = lib.diagonal_normal(loc, scale, tf.constant(active))
    assert distribution.batch_shape == (5,) and distribution.event_shape == (4,)


def test_standard_normal():
    prior = lib.standard_normal(3)
    assert prior.batch_shape == () and prior.event_shape == (3,)
    latent = RNG.normal(size=[2, 4, 5, 3])
    expected = scipy.stats.norm.logpdf(latent).sum(axis=-1)
    np.testing.assert_allclose(prior.log_prob(np.float32(latent)), expected, rtol=1e-5)
    masked = lib.standard_normal(3, tf.constant([False, True, False]))
    expected = scipy.stats.norm.logpdf(latent[..., 1])
    np.testing.assert_allclose(masked.log_prob(np.float32(latent)), expected, rtol=1e-5)


# Bernoulli.


def exact_bernoulli(x, logits):
    x, logits = np.asarray(x, np.float64), np.asarray(logits, np.float64)
    log_expit = scipy.special.log_expit
    return x * log_expit(logits) + (1 - x) * log_expit(-logits)


@pytest.mark.parametrize("event", [*EVENTS, ()])
@pytest.mark.parametrize("rows_of_x", [6, 1])
def test_bernoulli_likelihood(event, rows_of_x):
    rng = np.random.default_rng(1)
    logits = np.float32(rng.normal(0, 3, [6, *event]))
    x = np.float32(rng.integers(0, 2, [rows_of_x, *event]))
    likelihood = lib.bernoulli_likelihood(logits)
    assert likelihood.batch_shape == (6,) and likelihood.event_shape == event
    probs = scipy.special.expit(np.float64(logits))
    pixels = scipy.stats.bernoulli.logpmf(np.broadcast_to(x, logits.shape), probs)
    log_prob = likelihood.log_prob(x)
    assert log_prob.shape == (6,)
    np.testing.assert_allclose(
        log_prob, pixels.reshape([6, -1]).sum(axis=-1), rtol=1e-5
    )
    theirs = tfp.distributions.Bernoulli(logits=logits, dtype=tf.float32)
    theirs = tf.reduce_sum(tf.reshape(theirs.log_prob(x), [6, -1]), axis=-1)
    np.testing.assert_allclose(log_prob, theirs, rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(), probs, rtol=1e-5)


def test_bernoulli_sums_to_one_over_all_images():
    logits = np.float32([[0.3, -1.2, 2.5]])
    images = np.float32(list(itertools.product([0, 1], repeat=3)))
    log_probs = lib.bernoulli_likelihood(logits).log_prob(images)
    assert abs(np.exp(log_probs).sum() - 1) < 1e-6


def test_bernoulli_at_extreme_logits():
    logits = np.float32([0, 15, -15, 40, -40, 88, -90, 1e4, -1e4])
    for x in (0.0, 1.0):
        event = np.full_like(logits, x)
        value, (slopes,) = gradients(
            lambda v, event=event: lib.bernoulli_log_prob(event[:, None], v[:, None]),
            logits,
        )
        exact = exact_bernoulli(x, logits)
        # x * l - softplus(l) cancels to an ulp of l
        np.testing.assert_allclose(value, exact, rtol=1e-6, atol=2e-6)
        pull = x - scipy.special.expit(np.float64(logits))
        np.testing.assert_allclose(slopes, pull, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 784])
def test_bernoulli_in_every_mode_and_for_any_number_of_pixels(size, jit_compile):
    """Also where pixels have to be filled up to whole groups of one logarithm."""
    logits = np.float32(RNG.normal(0, 9, [2, 3, size]))
    x = np.float32(RNG.integers(0, 2, [3, size]))

    def log_prob(logits):
        return lib.bernoulli_likelihood(logits).log_prob(x)

    if jit_compile is not None:
        log_prob = tf.function(log_prob, jit_compile=jit_compile)
    value = log_prob(tf.constant(logits).numpy().reshape([6, size])[:3])
    expected = exact_bernoulli(x, logits[0]).sum(axis=-1)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)


def test_bernoulli_of_grey_pixels_and_its_derivatives():
    logits = tf.constant(RNG.normal(0, 3, [5, 9]), tf.float32)
    x = tf.constant(RNG.uniform(size=[5, 9]), tf.float32)
    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as inner:
            inner.watch([x, logits])
            value = lib.bernoulli_likelihood(logits).log_prob(x)
        in_x, in_logits = inner.gradient(value, [x, logits])
    expected = exact_bernoulli(x, logits).sum(axis=-1)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(in_x, logits, rtol=1e-6)
    expit = scipy.special.expit(np.float64(logits))
    np.testing.assert_allclose(in_logits, x - expit, atol=1e-6)
    curvature = outer.gradient(in_logits, logits)
    np.testing.assert_allclose(curvature, -expit * (1 - expit), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_likelihoods_are_float32_from_any_precision(dtype):
    outputs = tf.constant([[0.5, -1.25]], dtype)
    x = np.ones([1, 2], np.float32)
    log_prob = lib.bernoulli_likelihood(outputs).log_prob(x)
    assert log_prob.dtype == tf.float32
    expected = exact_bernoulli(1, [0.5, -1.25]).sum()
    np.testing.assert_allclose(log_prob, [expected], rtol=1e-6)
    log_prob = lib.normal_likelihood(outputs).log_prob(x[:, :1])
    assert log_prob.dtype == tf.float32
    expected = scipy.stats.norm.logpdf(1, 0.5, np.exp(-1.25))
    np.testing.assert_allclose(log_prob, [expected], rtol=1e-6)


def test_bernoulli_samples_are_binary_float32():
    likelihood = lib.bernoulli_likelihood(np.float32([[-1.0, 0.0, 2.0]]))
    samples = likelihood.sample(20_000, seed=(1, 2))
    assert samples.shape == (20_000, 1, 3) and samples.dtype == tf.float32
    assert set(np.unique(samples)) == {0.0, 1.0}
    mean = scipy.special.expit([-1.0, 0.0, 2.0])
    error = np.sqrt(mean * (1 - mean) / 20_000)
    assert np.all(np.abs(np.mean(samples, axis=(0, 1)) - mean) < 5 * error)


# Normal.


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("rows_of_x", [6, 1])
def test_normal_likelihood(event, rows_of_x):
    loc, log_scale = RNG.normal(size=[2, 6, *event])
    x = RNG.uniform(size=[rows_of_x, *event])
    outputs = np.float32(np.concatenate([loc, log_scale], axis=-1))
    likelihood = lib.normal_likelihood(outputs)
    assert likelihood.batch_shape == (6,) and likelihood.event_shape == event
    pixels = scipy.stats.norm.logpdf(x, loc, np.exp(log_scale))
    log_prob = likelihood.log_prob(np.float32(x))
    assert log_prob.shape == (6,)
    np.testing.assert_allclose(
        log_prob, pixels.reshape([6, -1]).sum(axis=-1), rtol=1e-5
    )
    np.testing.assert_allclose(likelihood.mean(), loc, rtol=1e-6)


def test_normal_likelihood_integrates_to_one():
    likelihood = lib.normal_likelihood(np.float32([[0.7, -0.4]]))
    grid = np.linspace(-8, 9, 2001)
    density = np.exp(likelihood.log_prob(np.float32(grid[:, np.newaxis])))
    assert abs(scipy.integrate.simpson(density, x=grid) - 1) < 1e-5


# Names.


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "Bernoulli", None, 3, pytest.param(["bernoulli"])]
)
def test_unknown_likelihood_is_refused(likelihood):
    assert refusal(lib.get_likelihood, likelihood) == (
        "`likelihood` must be one of bernoulli, normal, discretized_logistic, poisson, "
        f"negative_binomial, or a callable. Received: likelihood={likelihood!r}"
    )
