"""Sums over weights against NumPy in float64, textbook formulas and repetition."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from iwae_tf.probability import log_weights as lib

M, K, B = 2, 3, 5
LOG_WEIGHTS = np.random.default_rng(1).gumbel(-3.0, 2.0, [M, K, B])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_axis = pytest.mark.parametrize("axis", [0, 1, 2, -2, (0, 1), (1, 2), (0, 1, 2)])


def tolerance(dtype):
    return 20 * np.finfo(dtype).eps


def kish(log_weights, axis=(0, 1)):
    weights = np.exp(log_weights)
    return weights.sum(axis=axis) ** 2 / (weights**2).sum(axis=axis)


@each_axis
@each_dtype
def test_sums_along_any_axis(axis, dtype):
    log_weights = tf.constant(LOG_WEIGHTS, dtype)
    softmax = scipy.special.softmax(LOG_WEIGHTS, axis=axis)
    mean = np.mean(np.exp(LOG_WEIGHTS), axis=axis)
    weights = lib.normalized_weights(log_weights, axis=axis)
    np.testing.assert_allclose(np.sum(weights, axis=axis), 1, rtol=tolerance(dtype))
    for value, expected, ulps in (
        (lib.logmeanexp(log_weights, axis=axis), np.log(mean), 1),
        (weights, softmax, 1),
        (lib.effective_sample_size(log_weights, axis), kish(LOG_WEIGHTS, axis), 3),
        (lib.num_draws(log_weights, axis), softmax.size / mean.size, 0),
    ):
        assert value.dtype == dtype and value.shape == np.shape(expected)
        np.testing.assert_allclose(value, expected, rtol=ulps * tolerance(dtype))


def test_draws_are_all_but_the_examples():
    size = lib.effective_sample_size(LOG_WEIGHTS)
    assert np.array_equal(size, lib.effective_sample_size(LOG_WEIGHTS, (0, 1)))
    assert lib.num_draws(tf.constant(LOG_WEIGHTS), [0, 1, 2]) == 30  # a list, too


@each_dtype
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_logmeanexp_at_large_magnitudes(shift, dtype):
    shifted = (LOG_WEIGHTS + shift).astype(dtype)
    value = lib.logmeanexp(tf.constant(shifted), axis=(0, 1))
    shifted = shifted.astype(np.float64)
    expected = scipy.special.logsumexp(shifted, axis=(0, 1)) - np.log(M * K)
    np.testing.assert_allclose(value, expected, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shift", [-100.0, -1e4])
def test_a_common_factor_is_ignored_in_float32(shift):
    # Shifts by whole numbers keep these log-weights exact in float32.
    exact = np.round(LOG_WEIGHTS * 64) / 64
    size = lib.effective_sample_size(tf.constant(exact + shift, tf.float32))
    np.testing.assert_allclose(size, kish(exact), rtol=1e-4)
    log_weights = tf.constant(LOG_WEIGHTS + shift, tf.float32)
    total = tf.reduce_sum(lib.normalized_weights(log_weights, (0, 1)), (0, 1))
    np.testing.assert_allclose(total, 1.0, rtol=3e-5)  # 4 ulps of 100


def test_zero_weights():
    values = tf.constant([[0.5, -np.inf], [-np.inf, -np.inf]], tf.float64)
    found = lib.logmeanexp(values, axis=1)
    np.testing.assert_allclose(found, [0.5 - np.log(2), -np.inf])
    weights = lib.normalized_weights(tf.constant([[[1e4], [-np.inf], [-1e4]]]), (0, 1))
    np.testing.assert_array_equal(weights, [[[1.0], [0.0], [0.0]]])
    log_weights = tf.constant([1.0, -np.inf, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(log_weights)
        value = lib.logmeanexp(log_weights, axis=0)
    expected = scipy.special.softmax([1.0, -np.inf, 2.0])
    np.testing.assert_allclose(tape.gradient(value, log_weights), expected, rtol=1e-6)


def test_sizes_known_only_at_run_time():
    @tf.function(input_signature=[tf.TensorSpec([None] * 3, tf.float64)])
    def results(log_weights):
        return (
            lib.logmeanexp(log_weights, axis=(0, 1)),
            lib.normalized_weights(log_weights, axis=1),
            lib.effective_sample_size(log_weights),
        )

    mean, weights, size = results(LOG_WEIGHTS)
    np.testing.assert_allclose(mean, np.log(np.exp(LOG_WEIGHTS).mean(axis=(0, 1))))
    np.testing.assert_allclose(weights, scipy.special.softmax(LOG_WEIGHTS, axis=1))
    np.testing.assert_allclose(size, kish(LOG_WEIGHTS))


@each_dtype
def test_effective_sample_size_extremes(dtype):
    equal = np.full([M, K, 1], -87.3)
    alone = np.array([0, -200, -200, -300, -np.inf, -200.0]).reshape([M, K, 1])
    log_weights = tf.constant(np.concatenate([equal, alone], axis=-1), dtype)
    size = lib.effective_sample_size(log_weights)
    np.testing.assert_allclose(size, [M * K, 1], rtol=400 * np.finfo(dtype).eps)
    assert lib.effective_sample_size(log_weights[:1, :1])[0] == 1


# Standard error.


@each_dtype
@pytest.mark.parametrize("num_samples", [2, 3, 50, 5000])
def test_standard_error_is_the_delta_method(num_samples, dtype):
    weights = np.random.default_rng(4).lognormal(0, 1, [num_samples, B])
    mean, deviation = weights.mean(axis=0), weights.std(axis=0, ddof=1)
    expected = deviation / np.sqrt(num_samples) / mean
    squares = ((weights / weights.sum(axis=0)) ** 2).sum(axis=0)
    error = lib.standard_error(tf.constant(squares, dtype), num_samples)
    assert error.dtype == dtype
    np.testing.assert_allclose(error, expected, rtol=1e3 * np.finfo(dtype).eps)


@each_dtype
def test_standard_error_is_undefined_for_one_draw(dtype):
    error = lib.standard_error(tf.ones([B], dtype), 1)
    assert error.shape == (B,) and np.all(np.isnan(error))
    assert error.dtype == dtype


@each_dtype
@pytest.mark.parametrize("num_samples", [2, 7, 5000])
def test_standard_error_ends(num_samples, dtype):
    """Zero where all weights are equal, also when rounded below; 1 for a lone one."""
    inverse = np.array(1 / num_samples, dtype)
    squares = tf.stack([inverse, inverse * (1 - np.finfo(dtype).eps), 1.0])
    error = lib.standard_error(tf.cast(squares, dtype), num_samples).numpy()
    assert error[0] <= np.sqrt(2 * np.finfo(dtype).eps)
    assert error[1] == 0
    assert abs(error[2] - 1) < 2 * np.finfo(dtype).eps


def test_standard_error_takes_a_tensor_count():
    @tf.function
    def error(squares, num_samples):
        return lib.standard_error(squares, num_samples)

    squares = tf.constant([0.5, 0.9])
    expected = np.sqrt((4 * squares.numpy() - 1) / 3)
    np.testing.assert_allclose(error(squares, tf.constant(4)), expected, rtol=1e-6)
    assert np.all(np.isnan(error(squares, tf.constant(1))))


def test_standard_error_is_the_spread_of_repetitions():
    repetitions, num_samples = 4000, 2000
    log_weights = np.random.default_rng(5).normal(0, 0.7, [num_samples, repetitions])
    estimates = lib.logmeanexp(tf.constant(log_weights), axis=0).numpy()
    weights = np.asarray(lib.normalized_weights(tf.constant(log_weights), axis=0))
    errors = lib.standard_error(tf.constant((weights**2).sum(0)), num_samples).numpy()
    exact = np.sqrt((np.exp(0.7**2) - 1) / num_samples)  # log-normal weights
    # The spread of R values has a relative error of 1 / sqrt(2 R).
    assert abs(estimates.std() / exact - 1) < 5 / np.sqrt(2 * repetitions)
    assert abs(errors.mean() / exact - 1) < 0.02
    bias = estimates.mean() - 0.7**2 / 2  # log E[w]
    assert abs(bias + exact**2 / 2) < 5 * exact / np.sqrt(repetitions)
