"""Likelihoods of counts: densities by SciPy, and a model from end to end."""

import builders
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import iwae_tf
from iwae_tf.config import build_model, default_config, validate
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.probability import distributions as lib
from iwae_tf.probability.mixed import MixedLikelihood
from iwae_tf.schema import Column, Schema

KINDS = {"poisson": 1, "negative_binomial": 2}
COUNTS = np.array([0, 1, 2, 7, 40, 300])


def scipy_of(kind, log_mean, log_dispersion):
    mean, dispersion = np.exp(np.float64([log_mean, log_dispersion]))
    if kind == "poisson":
        return stats.poisson(mean)
    variance = mean + mean**2 * dispersion
    return stats.nbinom(mean**2 / (variance - mean), mean / variance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log_mean", [-5.0, 0.3, 5.0])
@pytest.mark.parametrize("log_dispersion", [-6.0, 0.0, 2.0])
def test_densities_are_scipys(kind, log_mean, log_dispersion):
    parameters = np.float32([[log_mean, log_dispersion][: KINDS[kind]]] * len(COUNTS))
    distribution = lib.get_likelihood(kind)(parameters)
    expected = scipy_of(kind, log_mean, log_dispersion)
    assert distribution.event_shape == (1,) and distribution.batch_shape == (6,)
    log_prob = distribution.log_prob(COUNTS[:, np.newaxis].astype("float32"))
    np.testing.assert_allclose(log_prob, expected.logpmf(COUNTS), rtol=2e-4, atol=1e-4)
    mean, variance = expected.stats()
    np.testing.assert_allclose(distribution.mean()[0], [mean], rtol=1e-4)
    np.testing.assert_allclose(distribution.variance()[0], [variance], rtol=1e-3)


@pytest.mark.parametrize("extreme", [90.0, 1e4, np.inf, -1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_beyond_float32_does_not_spoil_the_gradient_of_the_others(kind, extreme):
    for place in range(KINDS[kind]):  # the log_mean, the log_dispersion
        parameters = np.ones([2, KINDS[kind]], "float32")
        parameters[1, place] = extreme
        parameters = tf.constant(parameters)
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            log_prob = lib.get_likelihood(kind)(parameters).log_prob([[3.0]])
            bound = tf.reduce_logsumexp(log_prob)
        assert np.isfinite(log_prob).all()
        assert np.isfinite(tape.gradient(bound, parameters)).all()


@pytest.mark.parametrize("shift", [-40.0, -0.5, 0.0, 0.01, 0.5, 3.0])
def test_the_density_of_large_counts_keeps_its_digits(shift):
    x = np.float32([0, 15, 16, 17, 1e3, 1e5, 1e6, 1e7])
    log_mean = np.float32(np.log(np.maximum(x, 1.0)) + shift)
    x64, mean = x.astype(np.float64), np.exp(log_mean.astype(np.float64))
    expected = x64 * log_mean - mean - special.gammaln(x64 + 1.0)
    parameters = tf.constant(log_mean[:, np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        log_prob = lib.poisson_likelihood(parameters).log_prob(x[:, np.newaxis])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    slope = tape.gradient(log_prob, parameters)[:, 0]
    np.testing.assert_allclose(slope, x64 - mean, rtol=1e-5, atol=1e-6 * x64.max())
    schema = Schema([Column("visits", "poisson", loc=1.0)])
    mixed = MixedLikelihood(schema)(parameters)
    np.testing.assert_allclose(mixed.log_prob(x[:, np.newaxis]), log_prob, rtol=1e-6)


@pytest.mark.parametrize("log_dispersion", [-100.0, -40.0, -20.0, -15.0])
def test_negative_binomials_near_poisson_keep_their_digits(log_dispersion):
    x = np.float32([0, 1, 5, 15, 16, 1e3, 1e5])
    log_mean = np.float32(np.log(np.maximum(x, 0.5)) + [0, -3, 0.5, 0, 0.5, 0.3, 0])
    parameters = tf.stack([log_mean, tf.fill(x.shape, log_dispersion)], axis=1)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        distribution = lib.negative_binomial_likelihood(parameters)
        log_prob = distribution.log_prob(x[:, np.newaxis])
    x64, mean = x.astype(np.float64), np.exp(log_mean.astype(np.float64))
    dispersion = np.exp(max(log_dispersion, -lib.MAX_LOG_COUNT))
    added = 0.5 * ((x64 - mean) ** 2 - x64) * dispersion  # the first order's
    expected = x64 * log_mean - mean - special.gammaln(x64 + 1.0) + added
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=0.01)
    np.testing.assert_allclose(distribution.mean()[:, 0], mean, rtol=1e-5)
    slopes = tape.gradient(log_prob, parameters)
    assert np.all(np.abs(slopes[:, 0] - (x64 - mean)) <= 1e-2 * np.abs(x64 - mean) + 1)
    assert np.all(np.abs(slopes[:, 1] - added) <= 0.01 + 0.05 * np.abs(added))


def test_a_dispersion_out_of_range_is_cut_off():
    ends = [[1.0, end] for end in (lib.MAX_LOG_COUNT, 100.0)]
    log_prob = lib.negative_binomial_likelihood(tf.constant(ends)).log_prob([[5.0]] * 2)
    np.testing.assert_allclose(log_prob, [-41.609438] * 2, rtol=1e-6)


def build(kind, **settings):
    return builders.build(event=(5,), likelihood=kind, **settings)


def counts(rows=40):
    rng = np.random.default_rng(4)
    means = np.where(rng.uniform(size=[rows, 1]) < 0.5, [1, 9, 0.2, 3, 30], 2.0)
    return rng.poisson(means).astype("float32")


@pytest.mark.parametrize(
    "kind", ["poisson", pytest.param("negative_binomial", marks=pytest.mark.slow)]
)
def test_a_model_of_counts_learns_scores_and_draws(kind, tmp_path):
    model, x = build(kind), counts()
    model.compile(keras.optimizers.Adam(0.05))
    history = model.fit(x, batch_size=20, epochs=30, verbose=0).history["bound"]
    assert history[-1] > history[0] + 5
    expected = iwae_tf.log_likelihood(model, x[:6], num_samples=20).estimate
    path = iwae_tf.export_saved_model(model, str(tmp_path), 20, refined=False)
    served = tf.saved_model.load(path).signatures
    found = served["serving_default"](x=tf.constant(x[:6]))["log_likelihood"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for drawn in (
        model.sample(50).numpy(),
        served["sample"](num_samples=tf.constant(50), seed=tf.constant([0, 0]))[
            "sample"
        ].numpy(),
    ):
        assert drawn.shape == (50, 5)
        assert (drawn >= 0).all() and (drawn == np.floor(drawn)).all()
        assert drawn[:, 4].mean() > 3 * drawn[:, 2].mean()
    loaded = builders.reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded.log_weights(x[:6]), model.log_weights(x[:6]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_given_logarithms(kind):
    model, x = build(kind), counts(7)
    expected = model.encoder[0](np.log1p(x))
    np.testing.assert_allclose(model.latent.encode(x), expected, rtol=1e-5)


def test_what_is_no_count_is_refused():
    model = build("poisson")
    model.compile("sgd", jit_compile=False)
    for value in (-1.0, 0.5):
        x = counts()
        x[3, 2] = value
        message = rf"`x` must be counts, 0, 1, 2, .* Received: {value:g}"
        with pytest.raises(InvalidInputError, match=message):
            model.log_weights(x)
        with pytest.raises(InvalidInputError, match="must be counts"):
            model.fit(x, verbose=0)
        refused = InvalidInputError, tf.errors.InvalidArgumentError
        with pytest.raises(refused, match="must be counts"):
            model.fit(tf.data.Dataset.from_tensor_slices(x).batch(10), verbose=0)


def test_missing_counts():
    model, x = build("negative_binomial", missing="marginalize"), counts()
    x[3, 2] = np.nan
    assert np.isfinite(model.log_weights(x)).all()


def test_the_decoders_shape_is_told_by_its_parameters():
    with pytest.raises(InvalidInputError, match="log_mean and log_dispersion on the"):
        model = IWAE(MLP([6], (4,)), MLP([6], (5,)), likelihood="negative_binomial")
        model.build((None, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_counts_starts_at_their_mean(kind, tmp_path):
    x = np.random.default_rng(5).poisson(6.0, [30, 4, 3, 1]).astype("float32")
    np.savez(tmp_path / "data.npz", x_train=x, x_test=x)
    config = default_config()
    config.dataset, config.data_dir = "npz", str(tmp_path / "data.npz")
    config.likelihood, config.binarization = kind, "none"
    config.latent_dims, config.hidden_dims = [2], [[3]]
    model = build_model(config, mean_image=x.mean(axis=0))
    bias = model.decoder[0].out.bias.numpy().reshape(4, 3, -1)
    np.testing.assert_allclose(np.exp(bias[..., 0]), x.mean(axis=0)[..., 0], rtol=1e-5)
    assert bias.shape[-1] == KINDS[kind] and not bias[..., 1:].any()
    config.binarization, rule = "dynamic", f"`binarization` must be none for {kind}"
    with pytest.raises(InvalidInputError, match=rule):
        validate(config)
    with pytest.raises(InvalidInputError, match=rule):
        model.binarization = "dynamic"
