"""Missing values against linear-Gaussian models, where log p(x_observed) is known."""

import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import NAMES, build, reloaded
from closed_form import LinearGaussian
from running import refusal
from scipy import stats
from tensorflow_probability import distributions as tfd

import iwae_tf
from examples.loopback_server import LoopbackServer
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.models.values import MISSING
from iwae_tf.networks import MLP
from iwae_tf.probability.distributions import LIKELIHOODS, log_density
from iwae_tf.runs import figures, results, tensorboard, training
from iwae_tf.serving.imputed import imputer

PROBLEM = LinearGaussian()


def rows(count=6, seed=3):
    """Rows of the problem, of which a third of the values are missing; one has none."""
    x = np.array(PROBLEM.data(count))
    x[np.random.default_rng(seed).uniform(size=x.shape) < 0.35] = np.nan
    x[0] = PROBLEM.data(1)[0]
    x[1, 1:] = np.nan
    return x.astype("float32")


def exact(x):
    """log p(x_observed), E[x|x_observed] and its covariance, a row at a time."""
    log_prob, means, covariances = [], [], []
    for row in x.astype(float):
        seen, hidden = ~np.isnan(row), np.isnan(row)
        cov = PROBLEM.cov
        mean = PROBLEM.mean
        inside = cov[np.ix_(seen, seen)]
        log_prob.append(stats.multivariate_normal(mean[seen], inside).logpdf(row[seen]))
        gain = cov[np.ix_(hidden, seen)] @ np.linalg.inv(inside)
        filled = row.copy()
        filled[hidden] = mean[hidden] + gain @ (row[seen] - mean[seen])
        means.append(filled)
        rest = np.zeros_like(cov)
        rest[np.ix_(hidden, hidden)] = (
            cov[np.ix_(hidden, hidden)] - gain @ cov[np.ix_(seen, hidden)]
        )
        covariances.append(rest)
    return np.array(log_prob), np.array(means), np.array(covariances)


def model_of(missing="marginalize"):
    """The problem's decoder, and an encoder that is wide: p(x, z) alone is exact."""
    encoder = keras.Sequential([keras.layers.Dense(4, kernel_initializer="zeros")])
    model = iwae_tf.IWAE(
        encoder, PROBLEM.decoder(), likelihood="normal", missing=missing
    )
    model.build((None, 5))
    encoder.layers[-1].bias.assign([0.0, 0.0, 0.2, 0.2])
    return model


def test_log_p_of_what_is_observed():
    x = np.concatenate([rows(), np.full((1, 5), np.nan, "float32")])
    found = iwae_tf.log_likelihood(model_of(), x, 20_000)
    error = np.abs(found.estimate - [*exact(x[:-1])[0], 0.0])  # of nothing: zero
    assert (found.standard_error < 0.05).all()
    assert (error < 4 * found.standard_error).all(), (error, found.standard_error)


@pytest.mark.parametrize(
    "missing, proposal, least",
    [
        *((missing, "encoder", 40) for missing in MISSING[1:]),
        (*MISSING[1:2], "refined", 3999),
    ],
)
def test_the_mean_and_draws_of_what_is_missing(missing, proposal, least):
    """A refined proposal is the exact posterior: all its draws count."""
    x = rows()
    _, means, covariances = exact(x)
    found = iwae_tf.impute(
        model_of(missing), x, 4000, num_imputations=300, proposal=proposal
    )
    seen = ~np.isnan(x)
    np.testing.assert_array_equal(found.x[seen], x[seen])
    np.testing.assert_array_equal(found.draws[:, seen], np.tile(x[seen], (300, 1)))
    scale = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    size = found.effective_sample_size[:, np.newaxis]
    assert (size > least).all() and (found.pareto_k < 0.7).all()
    assert (np.abs(found.x - means) <= 4 * scale / np.sqrt(size) + 1e-4).all()
    error = scale / np.sqrt(np.minimum(size, 300))
    assert (np.abs(found.draws.mean(axis=0) - means) <= 5 * error + 1e-4).all()
    spread = found.draws.std(axis=0)
    assert (np.abs(spread - scale) <= 5 * error + 1e-4).all()


def test_rows_with_holes_are_the_same_in_python_and_as_saved(tmp_path):
    model, x = (
        build(missing="marginalize_with_mask", likelihood="normal"),
        rows()[:, 1:],
    )
    again = reloaded(model, tmp_path)
    np.testing.assert_array_equal(again.log_weights(x), model.log_weights(x))
    path = iwae_tf.export_saved_model(again, tmp_path / "saved", 20)
    loaded = tf.saved_model.load(str(path))
    scored = iwae_tf.log_likelihood(model, x, 50, seed=(3, 4))
    served = loaded.signatures["log_likelihood"](
        x=tf.constant(x), num_samples=tf.constant(50), seed=tf.constant([3, 4])
    )
    np.testing.assert_allclose(served["log_likelihood"], scored.estimate, rtol=1e-5)
    loc = loaded.signatures["encode"](x=tf.constant(x))["loc"]
    np.testing.assert_allclose(loc, model.encode(x).mean(), rtol=1e-5, atol=1e-6)
    for proposal, name in ("refined", "refined_impute"), ("encoder", "impute"):
        found = iwae_tf.impute(model, x, 100, seed=(3, 4), proposal=proposal)
        steps = {"num_steps": tf.constant(0)} if proposal == "refined" else {}
        served = loaded.signatures[name](
            x=tf.constant(x),
            num_samples=tf.constant(100),
            seed=tf.constant([3, 4]),
            **steps,
        )
        np.testing.assert_allclose(served["mean"], found.x, rtol=1e-4)
        np.testing.assert_allclose(served["draw"], found.draws[0], rtol=1e-4)
        size = served["effective_sample_size"]
        np.testing.assert_allclose(size, found.effective_sample_size, rtol=1e-3)
    again = iwae_tf.impute(model, x[:3], 100, seed=(3, 4), num_imputations=1)
    np.testing.assert_allclose(again.x, found.x[:3], rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        loaded.signatures["impute"](
            x=tf.constant(x * np.inf),
            num_samples=tf.constant(9),
            seed=tf.constant([0, 0]),
        )


EVENT = (4, 3, 2)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_images_with_holes_score_as_what_is_left_of_them(likelihood):
    """By brute force: the elements' own densities, those of the holes left out."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (5, *EVENT)).astype("float32")
    holes = rng.uniform(size=x.shape) < 0.3
    with_holes = np.where(holes, np.nan, x).astype("float32")
    last = LIKELIHOODS[likelihood].num_parameters * EVENT[-1]
    parameters = tf.constant(rng.normal(size=(5, *EVENT[:-1], last)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        distribution = LIKELIHOODS[likelihood].function(parameters)
        found = log_density(distribution, tf.constant(with_holes), True)
    terms = distribution.distribution.log_prob(x).numpy()
    expected = np.where(holes, 0, terms).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = tape.gradient(found, parameters).numpy()
    assert np.isfinite(gradient).all()
    of_holes = np.concatenate([holes] * (last // EVENT[-1]), axis=-1)
    np.testing.assert_array_equal(gradient[of_holes], 0)
    full = log_density(distribution, tf.constant(x), True)
    np.testing.assert_allclose(full, distribution.log_prob(x), rtol=1e-4)


def logit_normal(parameters):
    """A likelihood that has no mean."""
    loc, scale = tf.split(parameters, 2, axis=-1)
    return tfd.Independent(tfd.LogitNormal(loc, tf.nn.softplus(scale) + 0.1), 1)


def test_an_export_without_imputation_takes_missing_values_too(tmp_path):
    nets = MLP([5], (4,), seed=1), MLP([5], (8,), seed=2)
    model = build(nets=nets, likelihood=logit_normal, missing="marginalize")
    iwae_tf.export_saved_model(model, tmp_path, 20, refined=False)
    x = np.random.default_rng(0).uniform(0.1, 0.9, (5, 4)).astype("float32")
    x[0, 1] = x[3] = np.nan
    settings = {"num_samples": 30, "seed": (3, 4)}
    served = iwae_tf.serving.score(x, saved_model=tmp_path, **settings)
    expected = iwae_tf.log_likelihood(model, x, **settings)
    np.testing.assert_allclose(served.estimate, expected.estimate, atol=1e-4)
    with LoopbackServer(tmp_path) as server:
        remote = iwae_tf.serving.score(x, endpoint=server.endpoint, **settings)
    np.testing.assert_allclose(remote.estimate, expected.estimate, atol=1e-4)
    with pytest.raises(InvalidInputError, match="a likelihood that has a mean"):
        imputer(tmp_path / "filled.npy", x, tmp_path)


def test_eight_bits_with_holes_are_on_their_levels():
    model = build(likelihood="discretized_logistic", missing="marginalize", nets=(
        MLP([5], (4,)), MLP([5], (8,))))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_weights(np.array([[np.nan, 0.0, 51 / 255, 1.0]], "float32"))


def test_a_distribution_without_zero_in_its_support():
    positive = tfd.Independent(tfd.Gamma(tf.ones([1, 2]) * 2.0, 1.0), 1)
    found = log_density(positive, tf.constant([[np.nan, 3.0]]), True)
    np.testing.assert_allclose(found, stats.gamma(2).logpdf(3.0), rtol=1e-5)


SLOW = {"vae", "miwae", "ciwae"}  # two bounds are enough for continuous integration


@pytest.mark.parametrize(
    "name, missing",
    [
        pytest.param(name, missing, marks=pytest.mark.slow if name in SLOW else ())
        for name, missing in zip(NAMES, itertools.cycle(MISSING[1:]), strict=False)
    ],
)
def test_every_bound_trains_on_rows_with_holes(name, missing):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2, (24, 4)).astype("float32")
    x[rng.uniform(size=x.shape) < 0.3] = np.nan
    model = build(name, missing=missing, binarization="dynamic")
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    bound = model.fit(x, batch_size=12, epochs=3, verbose=0).history["bound"]
    assert np.isfinite(bound).all()
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert (
        -4 * np.log(2) - 1 < model.evaluate(x, verbose=0, return_dict=True)["bound"] < 0
    )


def test_the_encoder_is_given_zeros_and_the_mask():
    x = np.array([[1.0, np.nan, 0.0, np.nan]], "float32")
    seen = []

    class Spy(MLP):
        def call(self, inputs):
            seen.append(np.array(inputs))
            return super().call(inputs)

    for missing, expected in {
        "marginalize": [1, 0, 0, 0],
        "marginalize_with_mask": [1, 0, 0, 0, 1, 0, 1, 0],
    }.items():
        nets = Spy([], (4,)), MLP([], (4,))
        build(nets=nets, missing=missing).encode(x)
        np.testing.assert_array_equal(seen[-1], [expected])


def full_covariance(parameters):
    return tfd.MultivariateNormalDiag(parameters)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: build(missing="ignore"),
            "`missing` must be one of refuse, marginalize",
        ),
        (
            lambda: build(missing="marginalize", likelihood=full_covariance),
            "`likelihood` must be a tfd.Independent",
        ),
        (
            lambda: iwae_tf.impute(build(), np.zeros((2, 4), "float32")),
            "`model` must take missing values, missing='marginalize'",
        ),
        (
            lambda: iwae_tf.impute(build(missing="marginalize"), np.zeros((2, 4)), 20),
            "`num_samples` must be at least 25",
        ),
        (
            lambda: build(missing="marginalize").log_weights(np.full((2, 4), np.inf)),
            "`x` must be finite",
        ),
        (lambda: build().log_weights(np.full((2, 4), np.nan)), "`x` must be finite"),
        (
            lambda: build(missing="marginalize").log_weights(
                np.array([[np.nan, 2, 0, 0]])
            ),
            "`x` must be in [0, 1]",
        ),
    ],
)
def test_mistakes(call, words):
    assert words in refusal(call)


def test_bits_per_dim_are_those_of_the_observed_pixels(tmp_path):
    """Of rows with 8, 8 and 2 of 16 values each value has log p(x|z) = -8 log 2."""
    x = np.full([3, 4, 4, 1], np.nan, "float32")
    x[:2, :2], x[2, 0, :2] = 0.0, 1.0
    np.savez(tmp_path / "x.npz", x_train=np.zeros([9, 4, 4, 1]), x_test=x)
    config = iwae_tf.default_config()
    config.dataset, config.data_dir = "npz", str(tmp_path / "x.npz")
    config.binarization, config.likelihood = "none", "discretized_logistic"
    config.missing = "marginalize"

    def score(x, num_samples, seed, *, on_batch, **_):
        counts = np.sum(~np.isnan(x), axis=(1, 2, 3))
        zeros = np.zeros(len(x))
        on_batch(LogLikelihood(-8 * np.log(2) * counts, *[zeros] * 6))

    arguments = dict(split="test", num_samples=50, proposal="both")
    found, _ = results.evaluate(config, score, **arguments)
    for prefix in ("", "refined_"):
        assert found[f"{prefix}nll"] == pytest.approx(6 * 8 * np.log(2))  # the premise
        assert found[f"{prefix}bits_per_dim"] == pytest.approx(8)
    assert results.summary_fields(found)["refined bits per dimension"] == "8.000"


def test_a_run_starts_from_what_is_observed_and_is_drawn(tmp_path):
    """The output bias is the logit of each pixel's mean where it is known."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 4, 4, 1)).astype("float32")
    x[rng.uniform(size=x.shape) < 0.2] = np.nan
    x[:, 0, 0] = np.nan  # in no image
    np.savez(tmp_path / "x.npz", x_train=x, x_validation=x[:20], x_test=x[:9])
    config = iwae_tf.default_config()
    config.dataset, config.data_dir = "npz", str(tmp_path / "x.npz")
    config.latent_dims, config.hidden_dims, config.num_samples = [2], [[4]], 2
    config.missing, config.jit_compile = "marginalize", False
    model = training.compiled_model(config, x, steps=3)
    mean = np.nanmean(x.reshape(60, 16)[:, 1:], axis=0)
    bias = model.decoder[0].weights[-1].numpy().ravel()
    np.testing.assert_allclose(bias[1:], np.log(mean / (1 - mean)), rtol=1e-4)
    assert np.isfinite(bias).all()
    figures.draw_figures(model, config, [{"epoch": 1, "bound": -9.0}], tmp_path)
    assert (tmp_path / "reconstructions.png").is_file()
    board = tensorboard.TensorBoard(tmp_path, images=x)
    board.set_model(model)
    assert len(list(board._pictures())) == 2
