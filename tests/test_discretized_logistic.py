"""The mass of 8-bit grey levels against NumPy and SciPy in float64."""

import warnings

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.probability.discretized_logistic import DiscretizedLogistic, is_on_levels
from iwae_tf.probability.distributions import discretized_logistic_likelihood

LEVELS = np.arange(256) / 255
LOCS = (-3.0, -0.01, 0.0, 0.4, 0.998, 1.0, 50.0)
LOG_SCALES = (-10.0, -7.0, -4.0, -2.0, 0.0, 3.0, 6.0, 10.0)
GRID = [(loc, log_scale) for loc in LOCS for log_scale in LOG_SCALES]


def log_masses(loc, scale):
    """log P of the 256 levels in float64, of the difference of sigmoids, as it is.

    Of the two tails the difference is taken in the lower one, in which sigmoids are
    small and keep their digits; where it cancels, the logistic density does it.
    """
    loc, scale = np.float64(loc), np.float64(scale)
    upper = (LEVELS + 1 / 510 - loc) / scale
    lower = (LEVELS - 1 / 510 - loc) / scale
    upper[-1], lower[0] = np.inf, -np.inf
    flip = upper + lower > 0
    flip[[0, -1]] = upper[0] > 0, lower[-1] > 0
    upper, lower = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
    with np.errstate(divide="ignore"):
        high, low = scipy.special.log_expit(upper), scipy.special.log_expit(lower)
    return high + np.log1p(-np.exp(low - high))


@pytest.fixture(scope="module")
def masses():
    """log P of [location-scale pairs, levels], ours, and its gradients."""
    loc = tf.constant([[loc] for loc, _ in GRID], tf.float32)
    log_scale = tf.constant([[log_scale] for _, log_scale in GRID], tf.float32)
    x = tf.constant(LEVELS, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([loc, log_scale])
        wide = [tf.tile(values, [1, 256]) for values in (loc, log_scale)]
        value = DiscretizedLogistic(wide[0], tf.exp(wide[1])).log_prob(x)
    return value.numpy(), [g.numpy() for g in tape.gradient(value, wide)]


@pytest.mark.parametrize("case", range(len(GRID)), ids=map(str, GRID))
def test_masses_of_all_levels(masses, case):
    loc, log_scale = GRID[case]
    expected = log_masses(*np.float32([loc, np.exp(log_scale)]))
    # An error of 1 in 2^24 of x and loc counts as one of that over the scale, and the
    # difference of sigmoids loses in float64 what a level is smaller than the scale.
    inherent = 2.0**-23 * max(1, abs(loc)) / np.exp(log_scale)
    np.testing.assert_allclose(
        masses[0][case], expected, rtol=1e-5, atol=2e-5 + inherent
    )
    total = scipy.special.logsumexp(np.float64(masses[0][case]))
    assert abs(total) < 2e-5 + inherent


def test_gradients_are_finite_and_those_of_the_masses(masses):
    _, slopes = masses
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    step = 1e-4
    for case, (loc, log_scale) in enumerate(GRID):
        if abs(log_scale) > 4:  # beyond it differences in float64 say nothing
            continue
        scale = np.exp(log_scale)
        pairs = [
            ((loc + step * scale, scale), (loc - step * scale, scale), step * scale),
            ((loc, scale * np.exp(step)), (loc, scale * np.exp(-step)), step),
        ]
        for slope, (above, below, size) in zip(slopes, pairs):
            expected = (log_masses(*above) - log_masses(*below)) / (2 * size)
            np.testing.assert_allclose(
                slope[case], expected, rtol=2e-3, atol=2e-3 * (1 + 1 / scale)
            )


def test_compiled_masses_are_the_same(masses):
    loc, log_scale = (np.float32(column)[:, None] for column in zip(*GRID))

    @tf.function(jit_compile=True)
    def compiled(x):
        distribution = DiscretizedLogistic(loc, tf.exp(log_scale))
        return distribution.log_prob(x), distribution.mean()

    log_prob, mean = compiled(np.float32(LEVELS))
    scale = 1 + np.exp(-log_scale) * np.maximum(1, np.abs(loc))
    assert np.max(np.abs(log_prob - masses[0]) / scale) < 1e-5
    expected = DiscretizedLogistic(loc, np.exp(log_scale)).mean()
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_the_mass_is_tfps_quantized_logistic():
    """Where that one is accurate: its scale no more than a few levels."""
    logistic = tfp.distributions.Logistic(100.3, 4.0)
    shifted = tfp.distributions.TransformedDistribution(
        logistic, tfp.bijectors.Shift(-0.5)
    )
    quantized = tfp.distributions.QuantizedDistribution(shifted, low=0.0, high=255.0)
    ours = DiscretizedLogistic(100.3 / 255, 4.0 / 255)
    np.testing.assert_allclose(
        ours.log_prob(np.float32(LEVELS)),
        quantized.log_prob(np.arange(256.0, dtype=np.float32)),
        rtol=1e-4,
    )


def test_mean():
    loc, scale = np.float32([(loc, np.exp(log_scale)) for loc, log_scale in GRID]).T
    mean = DiscretizedLogistic(loc, scale).mean()
    assert mean.shape == (len(GRID),) and mean.dtype == tf.float32
    expected = [np.exp(log_masses(*pair)) @ LEVELS for pair in zip(loc, scale)]
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loc, scale", [(0.1, 0.07), (0.97, 0.02), (0.5, 0.001)])
def test_draws_have_the_masses(loc, scale):
    distribution, count = DiscretizedLogistic(loc, scale), 20_000
    uniforms = np.float32((np.arange(count) + 0.5) / count)
    expected = count * np.exp(log_masses(loc, scale))
    assert np.count_nonzero(expected > 5) > 3
    for draws in (
        distribution.sample(count, seed=(1, 2)).numpy(),
        distribution.quantile(uniforms).numpy(),
    ):
        levels = np.rint(255 * draws).astype(int)
        np.testing.assert_array_equal(draws, np.float32(levels) / np.float32(255))
        found = np.bincount(levels, minlength=256)
        assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected) + 2)


def test_values_between_levels_count_as_the_nearest():
    distribution = DiscretizedLogistic(0.4, 0.05)
    x = np.float32([0.3, 99.6, 100.0, 100.4, 254.8, 255.0, 400.0, -7.0]) / 255
    nearest = np.float32([0, 100, 100, 100, 255, 255, 255, 0]) / 255
    log_prob = distribution.log_prob(x)
    np.testing.assert_array_equal(log_prob, distribution.log_prob(nearest))
    assert len(np.unique(log_prob)) == 3


@pytest.mark.parametrize(
    "x, expected",
    [
        (np.arange(256, dtype=np.uint8) / np.float32(255), True),
        (np.arange(256) * np.float32(1 / 255), True),
        (np.float32([0.0, 1.0]), True),
        (np.arange(256) / np.float32(256), False),
        (np.float32([0.0, 0.5]), False),
    ],
)
def test_is_on_levels(x, expected):
    assert bool(is_on_levels(x)) is expected


# In models.


def model_of(**kwargs):
    encoder, decoder = MLP([8], (6,), seed=1), MLP([8], (4, 3, 2), seed=2)
    return IWAE(encoder, decoder, likelihood="discretized_logistic", **kwargs)


def eight_bit(rows=6):
    levels = np.random.default_rng(0).integers(0, 256, [rows, 4, 3, 1])
    return np.float32(levels) / np.float32(255)


def test_likelihood_sums_over_the_event():
    rng = np.random.default_rng(2)
    loc, log_scale = rng.uniform(-0.2, 1.2, [2, 3, 2]), rng.normal(-3, 1, [2, 3, 2])
    parameters = np.float32(np.concatenate([loc, log_scale], axis=-1))
    likelihood = discretized_logistic_likelihood(parameters)
    assert likelihood.batch_shape == (2,) and likelihood.event_shape == (3, 2)
    scale, levels = np.exp(parameters[..., 2:]), rng.integers(0, 256, [2, 3, 2])
    triples = zip(*(v.ravel() for v in (parameters[..., :2], scale, levels)))
    masses = [log_masses(loc, scale)[level] for loc, scale, level in triples]
    expected = np.reshape(masses, levels.shape).sum(axis=(1, 2))
    log_prob = likelihood.log_prob(np.float32(levels / 255))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)


def test_fit_sample_and_reconstruct():
    model, x = model_of(num_samples=3), eight_bit(64)
    model.compile(keras.optimizers.Adam(0.01))
    fit = model.fit(x, epochs=3, batch_size=16, shuffle=False, verbose=0)
    assert np.all(np.diff(fit.history["bound"]) > 0)
    draws = model.sample(50, seed=(1, 2)).numpy()
    assert bool(is_on_levels(draws)) and len(np.unique(draws)) > 20
    latents = model.sample_latent(50, seed=(1, 2))
    np.testing.assert_allclose(
        model.sample(50, seed=(1, 2), mean=True), model.decode(latents).mean()
    )
    mean = model.reconstruct(x)
    assert np.all((mean >= 0) & (mean <= 1))


def test_values_off_the_levels_warn_once():
    model, x = model_of(), eight_bit()
    moved = np.clip(x + 0.4 / 255, 0, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_levels = model.log_weights(x)
        assert not caught
        off = model.log_weights(moved)
        assert "`x` has values between the 256 levels i / 255" in str(caught[0].message)
        model.log_weights(0.99 * x)
        assert len(caught) == 1
    # The encoder sees x as it is.
    assert not np.array_equal(off, on_levels)


def test_values_outside_of_the_unit_interval_are_refused():
    model, x = model_of(), eight_bit()
    for call in (model.log_weights, model.encode, model.reconstruct):
        with pytest.raises(InvalidInputError, match=r"`x` must be in \[0, 1\]"):
            call(255 * x)
    model.compile("adam")
    with pytest.raises(InvalidInputError, match=r"`x` must be in \[0, 1\]"):
        model.fit(255 * x, verbose=0)
