"""Refined proposals: exact posteriors, NumPy's mixture, invariance; Pareto k."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from arviz_stats.base import array_stats
from builders import (
    PROBLEMS,
    binary,
    build,
    classes,
    data_of,
    exact_model,
    log_prob_of,
)
from closed_form import dense
from scipy import special, stats
from tensorflow_probability import distributions as tfd

import iwae_tf
from iwae_tf.diagnostics import inference_gaps
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import refinement
from iwae_tf.evaluation.pareto import smoothed_log_weights
from iwae_tf.models import VAE
from iwae_tf.networks import MLP
from iwae_tf.probability.pareto import pareto_k, tail_size

SHIFT, STRETCH = 0.6, 2.0


def off_target(problem, sign):
    """A model of the problem whose q(z1|x) is moved, and too wide or too narrow."""
    model = exact_model(problem)
    bias = model.encoder[0].trainable_variables[-1]
    size = bias.shape[0] // 2
    moved = [SHIFT] * size + [sign * np.log(STRETCH)] * size
    bias.assign(bias + np.float32(moved))
    return model


@pytest.mark.parametrize(
    "name, sign", [("one layer", -1), ("one layer", 1), ("labels, two layers", 1)]
)
def test_the_exact_log_p_is_found_from_any_encoder(name, sign):
    problem = PROBLEMS[name]
    model, (x, labels) = off_target(problem, sign), data_of(problem, 6)
    result = iwae_tf.log_likelihood(
        model, x, 200, labels=labels, proposal="refined", jit_compile=False
    )
    exact = log_prob_of(problem, x, labels)
    np.testing.assert_allclose(result.estimate, exact, atol=1e-3)
    np.testing.assert_array_equal(result.is_refined, 1.0)
    encoder = iwae_tf.log_likelihood(model, x, 200, labels=labels, jit_compile=False)
    assert np.max(np.abs(encoder.estimate - exact)) > 0.02


def correlated(noise=0.3):
    """z ~ N(0, I), x | z ~ N(W z, s^2) with a posterior far from diagonal."""
    weights = np.array([[1.0, 0.95], [0.9, 1.0], [1.0, 1.1]])
    decoder_kernel = np.concatenate([weights.T, np.zeros([2, 3])], axis=1)
    decoder = dense(decoder_kernel, np.repeat([0.0, np.log(noise)], 3))
    encoder = dense(np.zeros([3, 4]), np.log([1.0, 1.0, 0.5, 0.5]))
    model = iwae_tf.IWAE(encoder, decoder, likelihood="normal")
    model.build((None, 3))
    precision = np.eye(2) + weights.T @ weights / noise**2
    covariance = np.linalg.inv(precision)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    log_p = stats.multivariate_normal(
        np.zeros(3), weights @ weights.T + noise**2 * np.eye(3)
    ).logpdf(x)
    return model, x, x @ (covariance @ weights.T / noise**2).T, covariance, log_p


def test_a_full_covariance_is_found_where_no_diagonal_fits():
    model, x, loc, covariance, log_p = correlated()
    found = iwae_tf.refine_proposal(model, x)
    np.testing.assert_allclose(found.loc, loc, atol=2e-3)
    np.testing.assert_allclose(found.covariance(), [covariance] * 5, atol=2e-3)
    refined = iwae_tf.log_likelihood(
        model, x, 500, proposal="refined", jit_compile=False
    )
    encoder = iwae_tf.log_likelihood(model, x, 500)
    np.testing.assert_allclose(refined.estimate, log_p, atol=5e-3)
    assert np.all(refined.effective_sample_size > 440)
    assert np.all(encoder.effective_sample_size < 100)


def test_the_inference_gaps_are_those_of_the_closed_form():
    """KL(best diagonal | p) is half of sum log L_ii - log |L|, L the precision."""
    model, x, loc, covariance, log_p = correlated()
    found = inference_gaps(model, x, 500)
    precision = np.linalg.inv(covariance)
    lost = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(found.full, log_p, atol=0.01)
    np.testing.assert_allclose(found.diagonal, log_p - lost, atol=0.15)
    q = model.encode(x)
    for row in range(len(x)):
        p = tfd.MultivariateNormalFullCovariance(
            np.float32(loc[row]), np.float32(covariance)
        )
        kl = tfd.kl_divergence(
            tfd.MultivariateNormalDiag(q.mean()[row], q.stddev()[row]), p
        )
        np.testing.assert_allclose(found.encoder[row], log_p[row] - kl, rtol=0.1)
    np.testing.assert_allclose(found.refined.estimate, log_p, atol=5e-3)


def test_refined_layers_have_the_density_of_the_exact_posterior():
    problem = PROBLEMS["two layers"]
    model, x = off_target(problem, 1), problem.data(3)
    found = iwae_tf.refine_proposal(model, x)
    width = sum(model.latent_dims)
    assert found.batch_shape == [3] and found.event_shape == [width]
    z = found.sample(50, seed=1)
    latents = [part[tf.newaxis] for part in tf.split(z, model.latent_dims, axis=-1)]
    log_joint = model.latent.log_joint(tf.constant(x), latents).total[0]
    log_posterior = log_joint - problem.log_prob(x)
    np.testing.assert_allclose(found.log_prob(z), log_posterior, atol=5e-3)


# What scores ------------------------------------------------------------------------


def mixture(rows=3, width=2, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(rows, width, width)) + 2.0 * np.eye(width)
    return refinement.Refined(
        *(
            tf.constant(part, tf.float32)
            for part in (
                rng.normal(size=(rows, width)),
                factor,
                np.linalg.inv(factor),
                np.linalg.slogdet(factor)[1],
                np.linspace(0.1, 3.0, rows),
            )
        ),
        is_fitted=tf.constant([True] * rows),
    )


@pytest.mark.parametrize("num_samples", [1, 2, 9, 10, 17, 500])
def test_draws_come_from_the_density_that_divides_them(num_samples):
    found, rows, width = mixture(), 3, 2
    wider = 1.0 + refinement.WIDER / np.sqrt(width) * np.minimum(found.spread, 1.0)
    kinds = np.resize([0, 1, 0, 1, 0, 1, 0, 1, 0, 2], num_samples)
    u = np.random.default_rng(1).normal(size=(num_samples, rows, width))
    expected = np.zeros([num_samples, rows])
    for row in range(rows):
        covariance = found.factor[row].numpy() @ found.factor[row].numpy().T
        for kind in range(3):
            loc = found.loc[row] if kind < 2 else np.zeros(width)
            spread = [covariance, covariance * wider[row] ** 2, np.eye(width)][kind]
            density = stats.multivariate_normal(loc, spread).pdf(u[:, row])
            expected[:, row] += np.mean(kinds == kind) * density
    log_prob = found.log_prob(
        tf.constant(u[np.newaxis], tf.float32), tf.constant(num_samples)
    )
    np.testing.assert_allclose(log_prob[0], np.log(expected), rtol=2e-4, atol=2e-4)
    draws = tf.constant(u[np.newaxis], tf.float32)
    z = found.draw(draws, 0)[0].numpy()
    for k, kind in enumerate(kinds):
        for row in range(rows):
            scale = [1.0, wider[row]][min(kind, 1)]
            refined = found.loc[row] + scale * found.factor[row].numpy() @ u[k, row]
            wanted = u[k, row] if kind == 2 else refined
            np.testing.assert_allclose(z[k, row], wanted, rtol=1e-4, atol=1e-4)
    later = found.draw(draws[:, 1:], 1)[0].numpy()
    np.testing.assert_allclose(later, z[1:], rtol=1e-6)


@pytest.mark.xla
@pytest.mark.parametrize(
    "num_layers, labels", [(1, False), pytest.param(2, True, marks=pytest.mark.slow)]
)
def test_batches_chunks_and_modes_do_not_change_the_estimate(num_layers, labels):
    model, x = build("iwae", num_layers, labels=labels), binary(7)
    y = classes(7) if labels else None

    def score(first=0, last=7, **settings):
        return iwae_tf.log_likelihood(
            model,
            x[first:last],
            45,
            (3, 4),
            labels=None if y is None else y[first:last],
            proposal="refined",
            first_row=first,
            **settings,
        )

    whole = score(jit_compile=False)
    for other in (
        score(jit_compile=True),
        score(jit_compile=False, batch_size=3, chunk_size=13),
    ):
        np.testing.assert_allclose(other.estimate, whole.estimate, atol=1e-3)
        np.testing.assert_allclose(other.pareto_k, whole.pareto_k, atol=2e-2)
    part = score(2, 5, jit_compile=False)
    np.testing.assert_allclose(part.estimate, whole.estimate[2:5], atol=1e-3)


def test_two_latents_agree_with_the_sum_over_a_grid():
    model, x = build("iwae", event=(12,)), binary(20, (12,))
    line = np.linspace(-8.0, 8.0, 401, dtype="float32")
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    logits = model.decoder[0](grid).numpy().astype(np.float64)
    log_prior = stats.norm.logpdf(grid).sum(axis=-1)
    log_p = np.zeros(len(x))
    for row, image in enumerate(x):
        log_joint = logits @ image - np.logaddexp(0.0, logits).sum(-1) + log_prior
        log_p[row] = special.logsumexp(log_joint) + 2.0 * np.log(line[1] - line[0])
    refined = iwae_tf.log_likelihood(model, x, 2000, proposal="refined")
    error = np.abs(refined.estimate - log_p)
    assert np.all(error < 4.5 * refined.jackknife_error + 1e-3)
    encoder = iwae_tf.log_likelihood(model, x, 2000)
    worse = np.mean(np.square(encoder.estimate - log_p))
    assert np.mean(np.square(error)) < 0.25 * worse


@keras.saving.register_keras_serializable("test_refinement")
def broken_gradient(logits):
    """Bernoulli, whose gradient in z is NaN where the first logit is positive."""

    @tf.custom_gradient
    def spoil(values):
        poison = tf.where(values[:, :1] > 0.0, np.nan, 0.0)
        return tf.identity(values), lambda upstream: upstream + poison

    return tfd.Independent(tfd.Bernoulli(logits=spoil(logits)), 1)


def test_a_fit_that_fails_falls_back_on_the_encoder_and_says_so():
    model = build("iwae", likelihood=broken_gradient)
    x = binary(6)
    result = iwae_tf.log_likelihood(model, x, 2000, proposal="refined")
    assert np.any(result.is_refined == 0.0)
    expected = iwae_tf.log_likelihood(model, x, 2000)
    error = np.hypot(result.standard_error, expected.standard_error)
    assert np.all(np.abs(result.estimate - expected.estimate) < 5.0 * error)
    assert np.all(np.isfinite(result.estimate))


def test_rounding_of_large_values_leaves_no_spread_below_zero(monkeypatch):
    """The mean of equal log-weights may be above them; NaN was what came of it."""
    values = -np.geomspace(1e7, 1e10, 200, dtype=np.float32)

    def log_target(latent, x, u, *_):
        return x[:, 0] + 0.0 * tf.reduce_sum(u, axis=-1)

    monkeypatch.setattr(refinement, "log_target", log_target)
    latent = types.SimpleNamespace(latent_dims=[2])
    directions = refinement.directions(tf.constant(2), 2)
    x = tf.constant(values[:, np.newaxis])
    found = refinement.fit(latent, x, None, None, None, directions)
    assert np.all(found.spread.numpy() >= 0.0)
    u = found.draw(tf.zeros([1, 10, len(values), 2]), 0)
    assert np.all(np.isfinite(found.log_prob(u, tf.constant(10))))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"proposal": "best"}, "`proposal` must be one of encoder, refined"),
        ({"num_steps": 0}, "`num_steps` must be a positive integer"),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises(InvalidInputError, match=words):
        iwae_tf.log_likelihood(
            build("iwae"), binary(), 10, **{"proposal": "refined", **change}
        )


# Pareto k ---------------------------------------------------------------------------


def arviz_k(log_weights):
    return array_stats.psislw(-log_weights.T.astype(np.float64), axis=-1)[1]


@pytest.mark.parametrize("num_samples", [25, 40, 224, 226, 3000])
def test_pareto_k_is_that_of_arviz(num_samples):
    rng = np.random.default_rng(num_samples)
    tails = rng.standard_t([1.5, 3.0, 20.0], (num_samples, 3))
    log_weights = np.concatenate([tails, rng.gumbel(size=(num_samples, 2)) * 2], axis=1)
    size = int(tail_size(tf.constant(num_samples)))
    largest = -np.sort(-log_weights, axis=0)[: size + 1].T
    found = pareto_k(tf.constant(largest, tf.float64))
    np.testing.assert_allclose(found, arviz_k(log_weights), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("proposal", ["encoder", "refined"])
def test_the_k_of_streamed_draws_is_that_of_arviz(proposal):
    model, x = build("iwae", event=(12,)), binary(5, (12,))
    result = iwae_tf.log_likelihood(
        model, x, 700, chunk_size=190, proposal=proposal, jit_compile=False
    )
    assert np.all(np.isfinite(result.pareto_k))
    if proposal == "encoder":
        log_weights = model.log_weights(x, 1, 700)[0].numpy()
        np.testing.assert_allclose(result.pareto_k, arviz_k(log_weights), atol=1e-4)


def test_k_of_few_draws_is_not_known_and_that_of_equal_weights_is_none():
    few = iwae_tf.log_likelihood(build("iwae"), binary(), 24)
    assert np.all(np.isnan(few.pareto_k))
    np.testing.assert_array_equal(few.is_refined, 0.0)
    # Zero, or what float32 makes of equal numbers near -100.
    noise = np.random.default_rng(0).choice([0.0, -7.6e-6, -1.5e-5], [2, 40])
    for largest in (np.zeros([2, 8]), -np.sort(-noise)):
        np.testing.assert_array_equal(pareto_k(tf.constant(largest)), -np.inf)


@pytest.mark.parametrize("magnitude", [1e4, 1e5, 1e6])
def test_k_is_known_where_float32_makes_weights_equal(magnitude):
    normals = np.random.default_rng(0).normal(size=[500, 20])
    for deviation in (0.001, 0.01, 0.03, 0.1, 0.3, 1.0):
        log_weights = np.float32(deviation * normals - magnitude)
        smoothed, shapes = smoothed_log_weights(log_weights)
        assert np.all(shapes < 0.7)  # NaN is not
        assert np.all(np.isfinite(smoothed))
        known, exact = np.isfinite(shapes), arviz_k(deviation * normals)
        assert known.all() or deviation < 2e-6 * magnitude
        np.testing.assert_allclose(shapes[known], exact[known], atol=0.5)


def test_missing_values_are_filled_in_by_a_model_whose_weights_are_equal():
    nets = MLP([], (4,)), MLP([], (6,))
    model = VAE(*nets, likelihood="normal", missing="marginalize")
    model.build((None, 3))
    model.set_weights([0.0 * w for w in model.get_weights()])
    x = np.float32([[np.nan, 140.0, -60.0]])
    found = iwae_tf.impute(model, x, 1000)
    np.testing.assert_array_equal(found.pareto_k, -np.inf)
    np.testing.assert_array_equal(found.x, [[0.0, 140.0, -60.0]])
