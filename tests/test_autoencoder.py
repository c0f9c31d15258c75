"""Densities, draws and log-weights against closed forms, quadrature and SciPy."""

import dataclasses
import functools
import warnings

import builders
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from builders import (
    CLASSES,
    CONDITIONAL,
    PROBLEMS,
    build,
    data_of,
    exact_model,
    log_prob_of,
    networks,
    reloaded,
    shared,
)
from closed_form import dense
from running import refusal
from scipy import special, stats

from iwae_tf import bounds
from iwae_tf.bounds import iwae
from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import CIWAE, IWAE, MIWAE, PIWAE, VAE
from iwae_tf.networks import MLP
from iwae_tf.probability import noise

tfd = tfp.distributions
layers = keras.layers
EVENT = (4, 4, 1)


def binary(count=6):
    return builders.binary(count, EVENT, seed=0)


def image_model(model=IWAE, encoder=None, decoder=None, **kwargs):
    """A model that is not built."""
    keras.utils.set_random_seed(9)
    return model(encoder or MLP([8], (6,)), decoder or MLP([8], EVENT), **kwargs)


# Closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("rows", [1, 7])
def test_every_log_weight_is_log_p_at_the_exact_posterior(name, rows):
    problem = PROBLEMS[name]
    model, (x, labels) = exact_model(problem), data_of(problem, rows)
    log_weights = model.log_weights(x, 2, 3, labels=labels)
    assert log_weights.shape == (2, 3, rows)
    assert log_weights.dtype == tf.float32
    exact = log_prob_of(problem, x, labels)
    assert np.ptp(exact) > 1.0 or rows == 1
    atol = 5e-5 if labels is None else 2e-4
    np.testing.assert_allclose(
        log_weights, np.broadcast_to(exact, (2, 3, rows)), atol=atol
    )
    if labels is not None:  # premise: the label matters
        other = problem.log_prob(x, (labels + 1) % CLASSES)
        assert np.min(np.abs(exact - other)) > 0.01


def test_the_gap_of_a_shifted_proposal():
    """It is KL(q || p(z|x)) of the ELBO, and closes with more draws."""
    problem = PROBLEMS["one layer"]
    x, model = problem.data(4), exact_model(problem, shift=0.3, stretch=0.8)
    log_weights = np.asarray(model.log_weights(x, 1, 20_000))[0]
    moved = 0.3 / problem.posterior_scale
    divergence = np.sum(0.5 * (0.8**2 + moved**2 - 1) - np.log(0.8))
    exact = problem.log_prob(x)
    gap = exact - log_weights.mean(axis=0)
    error = log_weights.std(axis=0) / np.sqrt(20_000)
    assert np.all(divergence > 20 * error)
    assert np.all(np.abs(gap - divergence) < 4 * error)
    x, model = problem.data(8), exact_model(problem, shift=0.4, stretch=1.3)
    gaps = [
        float(np.mean(problem.log_prob(x) - iwae(model.log_weights(x, 1, k))))
        for k in (1, 30, 3000)
    ]
    assert gaps[0] > 5 * abs(gaps[1])
    assert abs(gaps[2]) < 0.02


def test_a_bernoulli_model_agrees_with_quadrature():
    rng = np.random.default_rng(4)
    kernel, bias = rng.normal(size=(1, 16)), rng.normal(size=16)
    decoder = keras.Sequential([dense(kernel, bias), keras.layers.Reshape(EVENT)])
    # wider than the prior, so that the weights are bounded
    proposal = dense(np.zeros((16, 2)), [0.2, np.log(1.3)])
    encoder = keras.Sequential([keras.layers.Flatten(), proposal])
    model = image_model(IWAE, encoder, decoder)
    x = binary(4)
    nodes, weights = special.roots_hermitenorm(80)
    logits = nodes[:, None] * kernel + bias
    pixels = x.reshape(4, 16)
    log_joint = stats.bernoulli.logpmf(
        pixels[:, None], special.expit(logits)[None]
    ).sum(-1)
    log_weights = np.log(weights / np.sqrt(2 * np.pi))
    exact = special.logsumexp(log_joint + log_weights, axis=1)

    draws = np.asarray(model.log_weights(x, 1, 40_000))[0].astype("float64")
    estimate = special.logsumexp(draws, axis=0) - np.log(40_000)
    shares = special.softmax(draws, axis=0)
    error = np.sqrt((shares**2).sum(axis=0) - 1 / 40_000)
    assert np.all(error < 0.03)
    assert np.all(np.abs(estimate - exact) < 4 * error)
    wrong = special.logsumexp(log_joint, axis=1)
    assert np.all(np.abs(wrong - exact) > 8 * error)


def numpy_mlp(network, *inputs):
    outputs = np.concatenate([np.asarray(i, "float64") for i in inputs])
    weights = [w.astype("float64") for w in network.get_weights()]
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
        outputs = np.tanh(outputs @ kernel + bias)
    return outputs @ weights[-2] + weights[-1]


def numpy_log_weights(model, x, y, epsilon):
    """log w [M, K, B] one draw and one image at a time, in float64 and SciPy."""
    log_w = np.zeros(epsilon.shape[:3])

    def normal(value, parameters):
        loc, log_scale = np.split(parameters, 2)
        return stats.norm(loc, np.exp(log_scale)).logpdf(value).sum()

    for index in np.ndindex(log_w.shape):
        label = [] if y is None else [np.eye(CLASSES)[y[index[2]]]]
        image = below = x[index[2]]
        latents, start = [], 0
        for network in model.encoder:
            parameters = numpy_mlp(network, below, *label)
            loc, log_scale = np.split(parameters, 2)
            below = loc + np.exp(log_scale) * epsilon[index][start : start + len(loc)]
            start += len(loc)
            log_w[index] -= normal(below, parameters)
            latents.append(below)
        if model.prior is None:
            log_w[index] += stats.norm.logpdf(latents[-1]).sum()
        else:
            log_w[index] += normal(latents[-1], numpy_mlp(model.prior, *label))
        for layer in range(len(latents) - 1, 0, -1):
            parameters = numpy_mlp(model.decoder[layer], latents[layer], *label)
            log_w[index] += normal(latents[layer - 1], parameters)
        outputs = numpy_mlp(model.decoder[0], latents[0], *label)
        if model.likelihood == "normal":
            log_w[index] += normal(image, outputs)
        else:
            log_w[index] += special.log_expit((2 * image - 1) * outputs).sum()
    return log_w


@pytest.mark.parametrize(
    "num_layers, settings",
    [
        (2, {}),
        (2, {"likelihood": "normal"}),
        (1, {"labels": True}),
        (2, {"labels": True}),
        (1, {"labels": True, "has_prior": False}),
        (2, {"labels": True, "has_prior": False}),
    ],
)
def test_log_weights_equal_those_of_scipy_at_the_same_latents(num_layers, settings):
    model, x = build("miwae", num_layers, **settings), builders.binary(5)
    y = builders.classes(5) if "labels" in settings else None
    if "likelihood" in settings:
        x = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    epsilon = model.latent.draw_noise(noise.make_key((4, 5)), 0, 5, 2, 3).numpy()
    assert epsilon.shape == (2, 3, 5, 3 if num_layers == 2 else 2)
    expected = numpy_log_weights(model, x, y, epsilon)
    found = model.log_weights(x, 2, 3, (4, 5), labels=y).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)
    if y is not None:
        other = numpy_log_weights(model, x, (y + 1) % CLASSES, epsilon)
        assert np.min(np.abs(other - expected)) > 1e-4


# The same noise everywhere --------------------------------------------------------


def test_log_weights_agree_in_eager_graph_and_xla():
    model, x = shared("iwae", 2, event=EVENT), tf.constant(binary())
    eager = model.log_weights(x, 2, 3, seed=(7, 8))
    for jit in (False, True):
        compiled = tf.function(model.log_weights, jit_compile=jit)
        np.testing.assert_allclose(
            compiled(x, 2, 3, seed=(7, 8)), eager, rtol=1e-5, atol=1e-4
        )
    assert np.abs(model.log_weights(x, 2, 3, seed=(7, 9)) - eager).max() > 0.1


def test_a_row_keeps_its_noise_in_any_batch():
    model, key = shared("iwae", 2, event=EVENT), noise.make_key((1, 2))
    whole = model.latent.draw_noise(key, 0, 5, 2, 3).numpy()
    assert len(np.unique(whole)) == whole.size
    for first, count in [(0, 2), (2, 3), (4, 1)]:
        part = model.latent.draw_noise(key, first, count, 2, 3)
        np.testing.assert_array_equal(part, whole[:, :, first : first + count])


def test_another_number_of_draws_continues_those_of_the_first_row_alone():
    model, x = image_model(), np.repeat(binary(1), 3, axis=0)
    few, many = (model.log_weights(x, 1, count).numpy()[0] for count in (5, 10))
    np.testing.assert_allclose(few[:, 0], many[:5, 0], rtol=1e-6)
    np.testing.assert_allclose(few[:, 2], many[:5, 1], rtol=1e-6)  # record 2 * 5
    assert not np.intersect1d(few[:, 1:], many[:, 2]).size


def test_a_prefix_of_the_batch_keeps_its_log_weights():
    """Also one row, which meets its draws by broadcasting, in a graph of any batch."""
    model, x = shared("iwae", event=EVENT), binary()
    whole = model.log_weights(x, 2, 3)
    signature = [tf.TensorSpec((None, *EVENT), tf.float32)]
    compiled = tf.function(
        lambda x: model.log_weights(x, 2, 3), input_signature=signature
    )
    for rows in (1, 2, 6):
        for function in (compiled, lambda x: model.log_weights(x, 2, 3)):
            np.testing.assert_allclose(function(x[:rows]), whole[..., :rows], rtol=1e-5)


# Draws from the model -------------------------------------------------------------


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_have_the_moments_of_p(name, label):
    problem, count = PROBLEMS[name], 20_000
    labels, mean = None, problem.mean
    if name in CONDITIONAL:
        labels, mean = label, mean[label]
    model = exact_model(problem)
    draws = model.sample(count, (3, 4), labels=labels).numpy().astype("float64")
    assert draws.shape == (count, 5)
    variances = np.diag(problem.cov)
    error = np.sqrt(variances / count)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4 * error)
    # var of a sample covariance of normals: (c_ii c_jj + c_ij^2) / n
    error = np.sqrt((np.outer(variances, variances) + problem.cov**2) / count)
    assert np.all(np.abs(np.cov(draws.T) - problem.cov) < 4.5 * error)
    # premise: leaving out the noise of x would be seen
    assert np.all(8 * np.diag(error) < 0.7**2)


def test_a_sample_has_the_label_of_its_row():
    model, labels = exact_model(PROBLEMS["labels"]), np.array([2, 0, 1, 2])
    together = model.sample(4, (1, 2), labels=labels).numpy()
    for row, label in enumerate(labels):
        alone = model.sample(4, (1, 2), labels=int(label)).numpy()
        np.testing.assert_allclose(together[row], alone[row], atol=1e-5)


def test_sample_means_are_the_decoded_latents():
    model = shared("iwae", 2, event=EVENT)
    means = model.sample(7, seed=(3, 4), mean=True)
    latents = model.sample_latent(7, seed=(3, 4))
    assert latents.shape == (7, 2)
    np.testing.assert_allclose(
        means, special.expit(np.asarray(model.decoder[0](latents))), rtol=1e-5
    )
    draw = functools.partial(model.sample, 20, seed=(3, 4))
    draws = draw().numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert np.array_equal(draws, draw())
    assert not np.array_equal(draws, model.sample(20, seed=(3, 5)))
    assert np.mean(draws != tf.function(draw, jit_compile=True)()) < 0.01


def test_reconstruction_is_the_mean_image_at_one_draw():
    model, x = shared("iwae", event=EVENT), binary()
    parameters = np.asarray(model.encoder[0](x))
    loc, log_scale = np.split(parameters, 2, axis=-1)
    actual = model.reconstruct(x, seed=(5, 6))
    epsilon = noise.normal(noise.make_key((5, 6)), 0, 6, 2)
    latents = loc + np.exp(log_scale) * epsilon
    expected = special.expit(np.asarray(model.decoder[0](latents)))
    assert actual.shape == (6, *EVENT)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    other = model.reconstruct(x, seed=(5, 7))
    assert np.abs(other - actual).max() > 1e-3
    np.testing.assert_allclose(model.reconstruct(x[:2], seed=(5, 6)), actual[:2], 1e-5)


def test_calling_the_model_gives_the_mean_image_at_the_mean_latent():
    model, x = build(event=EVENT), binary()
    loc, _ = np.split(np.asarray(model.encoder[0](x)), 2, axis=-1)
    expected = special.expit(np.asarray(model.decoder[0](loc)))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(x, batch_size=4, verbose=0), expected, 1e-5
    )


def test_encode_and_decode_return_the_distributions():
    problem = PROBLEMS["two layers"]
    x, model = problem.data(4), exact_model(problem)
    proposal, upper = model.encode_layers(x)
    assert model.encode(x).batch_shape == proposal.batch_shape == (4,)
    assert proposal.event_shape == upper.event_shape == (2,)
    loc = x @ problem.posterior_map.T + problem.posterior_offset
    np.testing.assert_allclose(model.encode(x).mean(), loc, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        proposal.stddev(), np.tile(problem.posterior_scale, (4, 1)), rtol=1e-5
    )
    back = (loc - problem.offset_1) @ problem.map_1 / problem.var_1
    np.testing.assert_allclose(upper.mean(), back, rtol=1e-4, atol=1e-5)
    z = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    likelihood = model.decode(z)
    assert likelihood.batch_shape == (3,) and likelihood.event_shape == (5,)
    mean = z @ problem.loadings.T + problem.offset
    np.testing.assert_allclose(likelihood.mean(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(likelihood.stddev(), np.full((3, 5), 0.7), rtol=1e-5)


# Bring your own networks ----------------------------------------------------------


def conv_networks():
    encoder = keras.Sequential(
        [layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(6)]
    )
    decoder = keras.Sequential(
        [
            layers.Dense(12),
            layers.Reshape((2, 2, 3)),
            layers.Conv2DTranspose(1, 2, strides=2),
        ]
    )
    return encoder, decoder


def functional_networks():
    x, z = keras.Input(EVENT), keras.Input((3,))
    hidden = layers.Dense(5, "tanh")(layers.Flatten()(x))
    return (
        keras.Model(x, layers.Concatenate()([layers.Dense(3)(hidden)] * 2)),
        keras.Model(z, layers.Reshape(EVENT)(layers.Dense(16)(z))),
    )


class OwnLayer(keras.Layer):
    """Plain TensorFlow inside, and no `training` argument."""

    def __init__(self, shape):
        super().__init__()
        self.shape_out = shape

    def build(self, input_shape):
        size = int(np.prod(input_shape[1:]))
        self.kernel = self.add_weight(shape=(size, int(np.prod(self.shape_out))))

    def call(self, inputs):
        rows = tf.reshape(inputs, [tf.shape(inputs)[0], self.kernel.shape[0]])
        return tf.reshape(rows @ self.kernel, [-1, *self.shape_out])


@pytest.mark.parametrize(
    "networks",
    [
        conv_networks,
        functional_networks,
        lambda: (OwnLayer((6,)), OwnLayer(EVENT)),
        lambda: ([OwnLayer((6,))], (OwnLayer(EVENT),)),
    ],
)
def test_own_networks(networks):
    encoder, decoder = networks()
    model, x = IWAE(encoder, decoder), binary(3)
    # premise of the flattening: more rows than the networks were built with
    actual = model.log_weights(x, 2, 3)
    encoder, decoder = model.encoder[0], model.decoder[0]
    loc, log_scale = np.split(np.asarray(encoder(x)), 2, axis=-1)
    epsilon = model.latent.draw_noise(noise.make_key((0, 0)), 0, 3, 2, 3).numpy()
    z = loc + np.exp(log_scale) * epsilon
    logits = np.asarray(decoder(z.reshape(-1, 3))).reshape(2, 3, 3, 16)
    expected = (
        stats.bernoulli.logpmf(x.reshape(3, 16), special.expit(logits)).sum(-1)
        + stats.norm.logpdf(z).sum(-1)
        - stats.norm.logpdf(z, loc, np.exp(log_scale)).sum(-1)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@keras.saving.register_keras_serializable("tests")
def laplace(outputs):
    return tfd.Independent(tfd.Laplace(outputs, 0.5), 3)


@keras.saving.register_keras_serializable("tests")
class LaplaceOfScale:
    """A likelihood with a setting of its own."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, outputs):
        return tfd.Independent(tfd.Laplace(outputs, self.scale), 3)

    def get_config(self):
        return {"scale": self.scale}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_likelihood_of_ones_own(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model, x = image_model(likelihood=laplace), 3 * binary()
        assert model.log_weights(x).dtype == tf.float32
        parts = model.latent.log_weights(model.check_x(x), tf.zeros([1, 1, 6, 3]))
        expected = stats.laplace.logpdf(x, np.asarray(model(x)), 0.5).sum((1, 2, 3))
        np.testing.assert_allclose(parts.log_likelihood[0, 0], expected, rtol=1e-5)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_a_likelihood_may_be_a_dataclass():
    """Which has no hash, unless it is frozen."""

    @dataclasses.dataclass
    class Student:
        degrees: float

        def __call__(self, outputs):
            return tfd.Independent(tfd.StudentT(self.degrees, outputs, 1.0), 3)

    model, x = image_model(likelihood=Student(4.0)), 3 * binary()
    assert np.isfinite(model.log_weights(x)).all()


@pytest.mark.parametrize("likelihood", [laplace, LaplaceOfScale(0.7)])
def test_a_registered_likelihood_is_saved(likelihood, tmp_path):
    """Also of a model that was called on a wrong shape first."""
    model, x = image_model(likelihood=likelihood), binary()
    with pytest.raises(InvalidInputError):
        model.log_weights(x.reshape(6, 16))
    expected = model.log_weights(x)
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded.log_weights(x), expected)


def unregistered(outputs):
    return laplace(outputs)


@pytest.mark.parametrize(
    "likelihood, shown",
    [(unregistered, "likelihood=unregistered"), (functools.partial(laplace), "")],
)
def test_save_refuses_an_unregistered_likelihood(likelihood, shown, tmp_path):
    model = image_model(likelihood=likelihood)
    model.build((None, *EVENT))
    rule = f"`likelihood` must be registered.*{shown}"
    with pytest.raises(InvalidInputError, match=rule):
        model.save(tmp_path / "model.keras")


def test_save_refuses_an_objective_that_its_class_does_not_have(tmp_path):
    """It was loaded as the bound of the class."""
    model = build("iwae", objective=bounds.ELBO())
    with pytest.raises(InvalidInputError, match="`objective` must .*ELBO.* IWAE"):
        model.save(tmp_path / "model.keras")


@pytest.mark.parametrize("shape", [(None, None), (None, 4.0), 4, None])
def test_a_shape_that_is_none_is_refused(shape):
    assert_refused(["`input_shape` must be"], IWAE(*networks()[:2]).build, shape)


# Mistakes -------------------------------------------------------------------------


def assert_refused(words, function, *args, **kwargs):
    message = refusal(function, *args, **kwargs)
    assert all(word in message for word in words), message


BAD_X = {
    "nan": (lambda: np.where(binary() > 0, np.nan, 0.0), ["`x`", "finite", "NaN"]),
    "infinite": (lambda: binary() + np.inf, ["`x`", "finite"]),
    "above": (lambda: 255 * binary(), ["[0, 1]", "255"]),
    "below": (lambda: -binary(), ["[0, 1]", "-1"]),
    "rank": (lambda: binary()[..., 0], ["`x`", "[batch", "(4, 4, 1)", "(6, 4, 4)"]),
    "one image": (lambda: binary()[0], ["[batch", "(4, 4, 1)", "(4, 4, 1)"]),
    "shape": (lambda: np.zeros((2, 5, 4, 1), "float32"), ["(2, 5, 4, 1)"]),
    "scalar": (lambda: np.float32(0.0), ["[batch", "(4, 4, 1)", "()"]),
    "integer": (lambda: binary().astype("uint8"), ["`x`", "float", "uint8"]),
    "bool": (lambda: binary() > 0, ["`x`", "float", "bool"]),
    "empty": (lambda: binary()[:0], ["`x`", "empty", "(0, 4, 4, 1)"]),
    "text": (lambda: [["a"]], ["`x`", "string"]),
    "none": (lambda: None, ["`x`", "None"]),
}


@pytest.mark.parametrize("case", BAD_X)
def test_bad_x_is_refused_in_one_line(case):
    make, words = BAD_X[case]
    model = shared("iwae", event=EVENT)
    for method in (model.log_weights, model.encode, model.reconstruct):
        assert_refused(words, method, make())


def test_real_valued_x_may_lie_anywhere_under_other_likelihoods():
    problem = PROBLEMS["one layer"]
    x = 100 * problem.data(3)
    assert np.all(np.isfinite(exact_model(problem).log_weights(x)))


def test_grey_images_warn_once_and_are_scored():
    model = image_model()
    with pytest.warns(UserWarning, match="`x` has values between 0 and 1"):
        model.log_weights(0.5 * binary())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_weights(0.5 * binary())
        image_model().log_weights(binary())
        image_model(likelihood=laplace).log_weights(0.5 * binary())


# Encoder and decoder, by the shapes of their MLPs; settings; words of the message.
CLASSIFIED = {"num_classes": CLASSES}
BAD_MODELS = {
    "odd": (
        [(5,)], [EVENT], {},
        ["`encoder`", "must return an even number of values in each row, 2 * latent",
         "Received: rows of shape (5,)"],
    ),
    "odd second": (
        [(6,), (3,)], [EVENT, (6,)], {}, ["`encoder` of layer 2", "even", "(3,)"]
    ),
    "lengths": ([(6,), (4,)], [EVENT], {}, ["`encoder`", "`decoder`", "2 and 1"]),
    "decoder": (
        [(6,), (4,)], [EVENT, (4,)], {},
        ["`decoder` of layer 2 must return", "z1", "2 x 3 = 6 values in each",
         "Received: rows of shape (4,)"],
    ),
    "event": (
        [(6,)], [(3, 4, 1)], {},
        ["`decoder`", "must return", "(4, 4, 1), a logit",
         "Received: rows of shape (3, 4, 1)"],
    ),
    "normal": (
        [(6,)], [EVENT], {"likelihood": "normal"},
        ["loc and log_scale", "last axis", "(4, 4, 2)", "rows of shape (4, 4, 1)"],
    ),
    "custom": (
        [(6,)], [EVENT],
        {"likelihood": lambda outputs: tfd.Independent(tfd.Laplace(outputs, 1.0), 2)},
        ["`likelihood`", "(4, 4, 1)", "(4, 1)"],
    ),
    "one row of many": (
        [(6,)], [EVENT],
        {"likelihood": lambda o: tfd.Independent(tfd.Laplace(o[:1], 1.0), 3)},
        ["`likelihood` must have the batch shape [rows]", "batch shape (1,)", "2 rows"],
    ),
    "no rows": (
        [(6,)], [EVENT],
        {"likelihood": lambda o: tfd.Independent(tfd.Laplace(o[0], 1.0), 3)},
        ["`likelihood` must have the batch shape [rows]", "batch shape ()"],
    ),
    "a mean over rows": (
        lambda: layers.Lambda(lambda x: x[:1, 0, :, 0]), [EVENT], {},
        ["`encoder` of layer 1 must return a row for each row", "(1, 4) of 2 rows"],
    ),
    "likelihood": (
        [(6,)], [EVENT], {"likelihood": "gamma"},
        ["`likelihood`", "bernoulli", "gamma"],
    ),
    "encoder rank": ([(2, 6)], [EVENT], {}, ["`encoder`"]),
    "functional shape": (
        lambda: keras.Sequential([keras.Input((9,)), layers.Dense(6)]), [EVENT], {},
        ["`encoder`"],
    ),
    "no network": (lambda: "mlp", [EVENT], {}, ["`encoder`"]),
    "none": (lambda: None, [EVENT], {}, ["`encoder`"]),
    "empty": ([(6,)], [], {}, ["`decoder`"]),
    "no classes": (
        [(6,)], [EVENT], {"num_classes": 0},
        ["`num_classes` must be a positive integer"],
    ),
    "a prior of nothing": (
        [(6,)], [EVENT], {"prior": MLP([3], (6,))},
        ["`prior` must be left out without `num_classes`"],
    ),
    "a prior that is no network": (
        [(6,)], [EVENT], {**CLASSIFIED, "prior": 3}, ["`prior` must be a Keras layer"]
    ),
    "a prior of another size": (
        [(6,)], [EVENT], {**CLASSIFIED, "prior": MLP([3], (4,))},
        ["`prior` must return 2 x 3 = 6 values", "Received: rows of shape (4,)"],
    ),
    "an odd prior": (
        [(6,)], [EVENT], {**CLASSIFIED, "prior": MLP([3], (3,))},
        ["`prior` must return 2 x 3 = 6 values", "(3,)"],
    ),
    "an encoder of one input": (
        lambda: layers.Dense(4), [EVENT], CLASSIFIED,
        ["`encoder` of layer 1 must take a list"],
    ),
    "a decoder of one input": (
        [(6,)], lambda: keras.Sequential([keras.Input((3,)), layers.Dense(4)]),
        CLASSIFIED, ["`decoder` of layer 1 must take a list"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MODELS)
def test_networks_that_do_not_fit_are_refused_in_one_line(case):
    *halves, settings, words = BAD_MODELS[case]
    nets = (
        half() if callable(half) else [MLP([4], shape) for shape in half]
        for half in halves
    )
    assert_refused(words, lambda: IWAE(*nets, **settings).build((None, *EVENT)))


@pytest.mark.parametrize(
    "model, name, value",
    [
        (IWAE, "num_samples", 0),
        (IWAE, "num_samples", -1),
        (MIWAE, "num_groups", 0),
        (PIWAE, "num_groups", "8"),
        (CIWAE, "beta", 1.5),
        *((IWAE, "num_groups", 4), (CIWAE, "num_groups", 4)),
        *((IWAE, "kl_warmup_steps", value) for value in (-1, 2.5, None)),
        (IWAE, "gradient_estimator", "reinforce"),
        (IWAE, "binarization", "fixed"),
        (IWAE, "seed", 3),
        (IWAE, "seed", (1, 2, 3)),
        (IWAE, "seed", (1, 2.5)),
        (IWAE, "seed", None),
        *((IWAE, "backward_samples", value) for value in (0, -1, 2.5, True, "2")),
        *((VAE, "free_bits", value) for value in (0, -1.0, True, "1")),
        *((VAE, "free_bits", value) for value in (float("inf"), float("nan"))),
    ],
)
def test_bad_arguments_are_refused_in_one_line(model, name, value):
    assert_refused([f"`{name}`", repr(value)], image_model, model, **{name: value})


def test_a_count_is_a_positive_integer_of_any_type():
    for value in (5, np.int64(5), np.uint8(5), np.array(5), tf.constant(5)):
        assert check_count(value, "n") == 5 and type(check_count(value, "n")) is int
    for value in (True, np.True_, 5.0, np.float32(5), [5], np.ones(2, int), None):
        for least, rule in ((1, "a positive integer"), (0, "an integer >= 0")):
            with pytest.raises(InvalidInputError, match=f"`n` must be {rule}. Rec"):
                check_count(value, "n", least)


def test_bad_arguments_of_methods_are_refused():
    model, x = image_model(), binary()
    with pytest.raises(InvalidInputError, match="before|first"):
        model.sample(3)
    for arguments in ({"num_samples": 0}, {"num_groups": 0}, {"seed": 3}):
        with pytest.raises(InvalidInputError, match=next(iter(arguments))):
            model.log_weights(x, **arguments)
    with pytest.raises(InvalidInputError, match="num_images"):
        model.sample(0)
    for draw in (model.sample, model.sample_latent, model.sample_latents):
        with pytest.raises(InvalidInputError, match="`num_images` must be"):
            draw(-1)


def test_decode_takes_lists():
    model = shared("iwae", event=EVENT)
    dim = model.latent_dims[0]
    z = np.random.default_rng(0).integers(-2, 3, (3, dim))
    expected = model.decode(z.astype("float32")).mean()
    for latents in (z.tolist(), z.astype(float).tolist(), z, tf.constant(z)):
        np.testing.assert_array_equal(model.decode(latents).mean(), expected)
    for bad in ([0.0] * dim, [[0.0] * (dim + 1)], [[0.0], [0.0, 1.0]], "z", None):
        assert_refused(["`z`", f"[rows, {dim}]"], model.decode, bad)


def test_what_takes_no_x_needs_a_model_that_is_built():
    model = image_model()
    for call, argument in (
        (model.decode, [[0.0, 1.0]]),
        (model.sample_latent, 2),
        (model.sample_latents, 2),
        (model.sample, 2),
    ):
        assert_refused(["built first"], call, argument)
