"""Densities, draws and log-weights against closed forms, quadrature and SciPy."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from closed_form import LinearGaussian, TwoLayerLinearGaussian, dense
from scipy import special, stats

from iwae_tf.bounds import iwae
from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import CIWAE, IWAE, MIWAE, PIWAE
from iwae_tf.networks import MLP
from iwae_tf.probability import noise

tfd = tfp.distributions
EVENT = (4, 4, 1)


def binary(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, *EVENT)).astype("float32")


def image_model(model=IWAE, encoder=None, decoder=None, **kwargs):
    keras.utils.set_random_seed(9)
    encoder = encoder or MLP([8], (6,))
    return model(encoder, decoder or MLP([8], EVENT), **kwargs)


def two_layer_model(seed=3, likelihood="bernoulli", **kwargs):
    keras.utils.set_random_seed(seed)
    outputs = EVENT if likelihood == "bernoulli" else (4, 4, 2)
    encoder = [MLP([8], (6,)), MLP([7], (4,))]
    decoder = [MLP([8], outputs), MLP([7], (6,))]
    return IWAE(encoder, decoder, likelihood=likelihood, **kwargs)


def gaussian_model(problem, likelihood="normal", **kwargs):
    return IWAE(problem.encoder(**kwargs), problem.decoder(), likelihood=likelihood)


# Closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize("problem", [LinearGaussian(), TwoLayerLinearGaussian()])
@pytest.mark.parametrize("rows", [1, 4])
def test_every_log_weight_is_log_p_at_the_exact_posterior(problem, rows):
    x = problem.data(rows)
    log_weights = gaussian_model(problem).log_weights(x, 2, 3)
    assert log_weights.shape == (2, 3, rows)
    assert log_weights.dtype == tf.float32
    expected = np.broadcast_to(problem.log_prob(x), (2, 3, rows))
    assert np.ptp(expected) > 1.0 or rows == 1
    np.testing.assert_allclose(log_weights, expected, atol=5e-5)


def test_a_shifted_proposal_opens_a_gap_that_closes_with_more_draws():
    problem = LinearGaussian()
    x = problem.data(8)
    model = gaussian_model(problem, shift=0.4, stretch=1.3)
    gaps = [
        float(np.mean(problem.log_prob(x) - iwae(model.log_weights(x, 1, k))))
        for k in (1, 30, 3000)
    ]
    # One draw: the gap is KL(q || p(z|x)) in the mean; the next test has its value.
    shift = 0.4 / problem.posterior_scale
    divergence = np.sum(0.5 * (1.3**2 + shift**2 - 1) - np.log(1.3))
    assert divergence > 0.5
    assert gaps[0] > 5 * abs(gaps[1])
    assert abs(gaps[2]) < 0.02


def test_the_elbo_gap_is_the_kl_divergence():
    problem = LinearGaussian()
    x = problem.data(4)
    shift = 0.3
    model = gaussian_model(problem, shift=shift, stretch=0.8)
    log_weights = np.asarray(model.log_weights(x, 1, 20_000))[0]
    moved = shift / problem.posterior_scale
    divergence = np.sum(0.5 * (0.8**2 + moved**2 - 1) - np.log(0.8))
    gap = problem.log_prob(x) - log_weights.mean(axis=0)
    error = log_weights.std(axis=0) / np.sqrt(20_000)
    assert np.all(divergence > 20 * error)
    assert np.all(np.abs(gap - divergence) < 4 * error)


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


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_two_layers_agree_with_scipy_at_the_same_latents(likelihood):
    model = two_layer_model(likelihood=likelihood)
    if likelihood == "normal":
        event, x = (4, 4, 1), np.random.default_rng(1).normal(size=(5, *EVENT))
    else:
        event, x = EVENT, binary(5)
    x = x.astype("float32")
    actual = model.log_weights(x, 2, 3, seed=(4, 5))
    epsilon = model.latent.draw_noise(noise.make_key((4, 5)), 0, 5, 2, 3).numpy()
    assert epsilon.shape == (2, 3, 5, 5)

    def normal(network, inputs):
        rows = np.reshape(inputs, (-1, *inputs.shape[-inputs_rank(network) :]))
        outputs = np.asarray(network(rows)).astype("float64")
        loc, log_scale = np.split(outputs, 2, axis=-1)
        return loc, np.exp(log_scale)

    def inputs_rank(network):
        return 3 if network is model.encoder[0] else 1

    loc, scale = normal(model.encoder[0], x)
    z1 = loc + scale * epsilon[..., :3]
    log_q = stats.norm.logpdf(z1, loc, scale).sum(-1)
    loc, scale = (p.reshape(2, 3, 5, 2) for p in normal(model.encoder[1], z1))
    z2 = loc + scale * epsilon[..., 3:]
    log_q += stats.norm.logpdf(z2, loc, scale).sum(-1)
    log_p = stats.norm.logpdf(z2).sum(-1)
    loc, scale = (p.reshape(2, 3, 5, 3) for p in normal(model.decoder[1], z2))
    log_p += stats.norm.logpdf(z1, loc, scale).sum(-1)
    outputs = np.asarray(model.decoder[0](z1.reshape(-1, 3))).astype("float64")
    outputs = outputs.reshape(2, 3, 5, *outputs.shape[1:])
    if likelihood == "bernoulli":
        scores = stats.bernoulli.logpmf(x, special.expit(outputs))
    else:
        loc, log_scale = np.split(outputs, 2, axis=-1)
        scores = stats.norm.logpdf(x, loc, np.exp(log_scale))
    log_p += scores.reshape(2, 3, 5, int(np.prod(event))).sum(-1)
    np.testing.assert_allclose(actual, log_p - log_q, rtol=1e-5, atol=1e-4)


# The same noise everywhere --------------------------------------------------------


@pytest.mark.parametrize("build", [image_model, two_layer_model])
def test_log_weights_agree_in_eager_graph_and_xla(build):
    model, x = build(), tf.constant(binary())
    eager = model.log_weights(x, 2, 3, seed=(7, 8))
    for jit in (False, True):
        compiled = tf.function(model.log_weights, jit_compile=jit)
        np.testing.assert_allclose(
            compiled(x, 2, 3, seed=(7, 8)), eager, rtol=1e-5, atol=1e-4
        )
    assert np.abs(model.log_weights(x, 2, 3, seed=(7, 9)) - eager).max() > 0.1


def test_a_row_keeps_its_noise_in_any_batch():
    model = two_layer_model()
    model.build((None, *EVENT))
    key = noise.make_key((1, 2))
    whole = model.latent.draw_noise(key, 0, 5, 2, 3).numpy()
    assert len(np.unique(whole)) == whole.size
    for first, count in [(0, 2), (2, 3), (4, 1)]:
        part = model.latent.draw_noise(key, first, count, 2, 3)
        np.testing.assert_array_equal(part, whole[:, :, first : first + count])


def test_a_prefix_of_the_batch_keeps_its_log_weights():
    model, x = image_model(), binary()
    whole = model.log_weights(x, 2, 3)
    for rows in (1, 2):
        np.testing.assert_allclose(
            model.log_weights(x[:rows], 2, 3), whole[..., :rows], rtol=1e-5
        )


def test_one_row_meets_its_draws_by_broadcasting_in_a_graph_of_unknown_batch():
    model, x = image_model(), binary()
    model.build((None, *EVENT))
    signature = [tf.TensorSpec((None, *EVENT), tf.float32)]
    compiled = tf.function(model.log_weights, input_signature=signature)
    for rows in (1, 6):
        np.testing.assert_allclose(
            compiled(x[:rows]), model.log_weights(x[:rows]), rtol=1e-5
        )


# Draws from the model -------------------------------------------------------------


@pytest.mark.parametrize("problem", [LinearGaussian(), TwoLayerLinearGaussian()])
def test_samples_have_the_moments_of_p(problem):
    model, count = gaussian_model(problem), 20_000
    model.build((None, 5))
    draws = model.sample(count, seed=(3, 4)).numpy().astype("float64")
    assert draws.shape == (count, 5)
    variances = np.diag(problem.cov)
    error = np.sqrt(variances / count)
    assert np.all(np.abs(draws.mean(axis=0) - problem.mean) < 4 * error)
    # var of a sample covariance of normals: (c_ii c_jj + c_ij^2) / n
    error = np.sqrt((np.outer(variances, variances) + problem.cov**2) / count)
    assert np.all(np.abs(np.cov(draws.T) - problem.cov) < 4.5 * error)
    # premise: leaving out the noise of x would be seen
    assert np.all(8 * np.diag(error) < 0.7**2)


def test_sample_means_are_the_decoded_latents():
    model = two_layer_model()
    model.build((None, *EVENT))
    means = model.sample(7, seed=(3, 4), mean=True)
    latents = model.sample_latent(7, seed=(3, 4))
    assert latents.shape == (7, 3)
    np.testing.assert_allclose(
        means, special.expit(np.asarray(model.decoder[0](latents))), rtol=1e-5
    )
    draws = model.sample(7, seed=(3, 4)).numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert np.array_equal(draws, model.sample(7, seed=(3, 4)))
    assert not np.array_equal(draws, model.sample(7, seed=(3, 5)))


def test_sample_draws_are_the_same_under_xla():
    model = image_model()
    model.build((None, *EVENT))
    draw = functools.partial(model.sample, 20, seed=(1, 2))
    compiled = tf.function(draw, jit_compile=True)
    assert np.mean(draw() != compiled()) < 0.01


def test_reconstruction_is_the_mean_image_at_one_draw():
    model, x = image_model(), binary()
    parameters = np.asarray(model.encoder[0](x))
    loc, log_scale = np.split(parameters, 2, axis=-1)
    actual = model.reconstruct(x, seed=(5, 6))
    epsilon = noise.normal(noise.make_key((5, 6)), 0, 6, 3)
    latents = loc + np.exp(log_scale) * epsilon
    expected = special.expit(np.asarray(model.decoder[0](latents)))
    assert actual.shape == (6, *EVENT)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    other = model.reconstruct(x, seed=(5, 7))
    assert np.abs(other - actual).max() > 1e-3
    np.testing.assert_allclose(model.reconstruct(x[:2], seed=(5, 6)), actual[:2], 1e-5)


def test_calling_the_model_gives_the_mean_image_at_the_mean_latent():
    model, x = image_model(), binary()
    loc, _ = np.split(np.asarray(model.encoder[0](x)), 2, axis=-1)
    expected = special.expit(np.asarray(model.decoder[0](loc)))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(x, batch_size=4, verbose=0), expected, 1e-5
    )


def test_encode_and_decode_return_the_distributions():
    problem = TwoLayerLinearGaussian()
    x = problem.data(4)
    model = gaussian_model(problem)
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
    lower = problem.lower
    np.testing.assert_allclose(
        likelihood.mean(), z @ lower.loadings.T + lower.offset, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(likelihood.stddev(), np.full((3, 5), 0.7), rtol=1e-5)


# Bring your own networks ----------------------------------------------------------

layers = keras.layers


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


def test_a_likelihood_of_ones_own():
    model, x = image_model(likelihood=laplace), 3 * binary()
    parts = model.latent.log_weights(model.check_x(x), tf.zeros([1, 1, 6, 3]))
    expected = stats.laplace.logpdf(x, np.asarray(model(x)), 0.5).sum((1, 2, 3))
    np.testing.assert_allclose(parts.log_likelihood[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "likelihood",
    [
        laplace,
        pytest.param(LaplaceOfScale(0.7)),
    ],
)
def test_a_registered_likelihood_is_saved(likelihood, tmp_path):
    model, x = image_model(likelihood=likelihood), binary()
    expected = model.log_weights(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_weights(x), expected)


def unregistered(outputs):
    return laplace(outputs)


def test_save_refuses_an_unregistered_likelihood(tmp_path):
    model = image_model(likelihood=unregistered)
    model.build((None, *EVENT))
    with pytest.raises(InvalidInputError, match="registered.*likelihood=unregistered"):
        model.save(tmp_path / "model.keras")


def test_save_refuses_a_partial_likelihood(tmp_path):
    model = image_model(likelihood=functools.partial(laplace))
    model.build((None, *EVENT))
    with pytest.raises(InvalidInputError, match="`likelihood` must be registered"):
        model.save(tmp_path / "model.keras")


def test_a_likelihood_of_ones_own_gets_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = image_model(likelihood=laplace)
        assert model.log_weights(binary()).dtype == tf.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")


# Mistakes -------------------------------------------------------------------------


def assert_one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


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


@pytest.mark.parametrize("method", ["log_weights", "encode", "reconstruct"])
@pytest.mark.parametrize("case", BAD_X)
def test_bad_x_is_refused_in_one_line(method, case):
    make, words = BAD_X[case]
    model = image_model()
    model.build((None, *EVENT))
    with pytest.raises(InvalidInputError) as caught:
        getattr(model, method)(make())
    assert_one_line(caught, *words)


def test_real_valued_x_may_lie_anywhere_under_other_likelihoods():
    problem = LinearGaussian()
    x = 100 * problem.data(3)
    assert np.all(np.isfinite(gaussian_model(problem).log_weights(x)))


def test_grey_images_warn_once_and_are_scored():
    model = image_model()
    with pytest.warns(UserWarning, match="`x` has values between 0 and 1"):
        model.log_weights(0.5 * binary())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_weights(0.5 * binary())
        image_model().log_weights(binary())
        image_model(likelihood=laplace).log_weights(0.5 * binary())


def bad_networks(encoder, decoder, **kwargs):
    return lambda: IWAE(encoder(), decoder(), **kwargs).build((None, *EVENT))


BAD_MODELS = {
    "odd": (
        bad_networks(lambda: MLP([4], (5,)), lambda: MLP([4], EVENT)),
        ["`encoder`", "even", "5"],
    ),
    "odd second": (
        bad_networks(
            lambda: [MLP([4], (6,)), MLP([4], (3,))],
            lambda: [MLP([4], EVENT), MLP([4], (6,))],
        ),
        ["`encoder` of layer 2", "even", "(3,)"],
    ),
    "lengths": (
        bad_networks(lambda: [MLP([4], (6,)), MLP([4], (4,))], lambda: MLP([4], EVENT)),
        ["`encoder`", "`decoder`", "2 and 1"],
    ),
    "decoder": (
        bad_networks(
            lambda: [MLP([4], (6,)), MLP([4], (4,))],
            lambda: [MLP([4], EVENT), MLP([4], (4,))],
        ),
        ["`decoder` of layer 2", "z1", "size 6", "size 4"],
    ),
    "event": (
        bad_networks(lambda: MLP([4], (6,)), lambda: MLP([4], (3, 4, 1))),
        ["`decoder`", "(4, 4, 1)", "(3, 4, 1)"],
    ),
    "normal": (
        bad_networks(
            lambda: MLP([4], (6,)), lambda: MLP([4], EVENT), likelihood="normal"
        ),
        ["loc and log_scale", "last axis", "(1, 4, 4, 1)"],
    ),
    "custom": (
        bad_networks(
            lambda: MLP([4], (6,)),
            lambda: MLP([4], EVENT),
            likelihood=lambda outputs: tfd.Independent(tfd.Laplace(outputs, 1.0), 2),
        ),
        ["`likelihood`", "(4, 4, 1)", "(4, 1)"],
    ),
    "likelihood": (
        bad_networks(
            lambda: MLP([4], (6,)), lambda: MLP([4], EVENT), likelihood="poisson"
        ),
        ["`likelihood`", "bernoulli", "poisson"],
    ),
    "encoder rank": (
        bad_networks(lambda: MLP([4], (2, 6)), lambda: MLP([4], EVENT)),
        ["`encoder`"],
    ),
    "functional shape": (
        bad_networks(
            lambda: keras.Sequential([keras.Input((9,)), layers.Dense(6)]),
            lambda: MLP([4], EVENT),
        ),
        ["`encoder`"],
    ),
    "no network": (bad_networks(lambda: "mlp", lambda: MLP([4], EVENT)), ["`encoder`"]),
    "none": (bad_networks(lambda: None, lambda: MLP([4], EVENT)), ["`encoder`"]),
    "empty": (bad_networks(lambda: MLP([4], (6,)), lambda: []), ["`decoder`"]),
}


@pytest.mark.parametrize(
    "case",
    BAD_MODELS,
)
def test_networks_that_do_not_fit_are_refused_in_one_line(case):
    build, words = BAD_MODELS[case]
    with pytest.raises(InvalidInputError) as caught:
        build()
    assert_one_line(caught, *words)


@pytest.mark.parametrize(
    "model, name, value",
    [
        (IWAE, "num_samples", 0),
        (IWAE, "num_samples", -1),
        (IWAE, "num_samples", 2.5),
        (IWAE, "num_samples", True),
        (MIWAE, "num_groups", 0),
        (PIWAE, "num_groups", "8"),
        (CIWAE, "beta", 1.5),
        (CIWAE, "beta", -0.1),
        (CIWAE, "beta", float("nan")),
        (IWAE, "gradient_estimator", "reinforce"),
        (IWAE, "binarization", "fixed"),
        (IWAE, "seed", 3),
        (IWAE, "seed", (1, 2, 3)),
        (IWAE, "seed", (1, 2.5)),
        (IWAE, "seed", None),
    ],
)
def test_bad_arguments_are_refused_in_one_line(model, name, value):
    with pytest.raises(InvalidInputError) as caught:
        image_model(model, **{name: value})
    assert_one_line(caught, f"`{name}`", repr(value))


def test_a_count_is_a_positive_integer_of_any_type():
    for value in (5, np.int64(5), np.uint8(5), np.array(5), tf.constant(5)):
        assert check_count(value, "n") == 5 and type(check_count(value, "n")) is int
    for value in (True, np.True_, 5.0, np.float32(5), [5], np.ones(2, int), None):
        with pytest.raises(InvalidInputError, match="`n` must be a positive integer"):
            check_count(value, "n")


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
    with pytest.raises(InvalidInputError, match="num_samples"):
        model.num_samples = 0


def test_decode_takes_lists():
    model = image_model()
    model.build((None, *binary().shape[1:]))
    dim = model.latent_dims[0]
    z = np.random.default_rng(0).integers(-2, 3, (3, dim))
    expected = model.decode(z.astype("float32")).mean()
    for latents in (z.tolist(), z.astype(float).tolist(), z, tf.constant(z)):
        np.testing.assert_array_equal(model.decode(latents).mean(), expected)
    for bad in ([0.0] * dim, [[0.0] * (dim + 1)], [[0.0], [0.0, 1.0]], "z", None):
        with pytest.raises(InvalidInputError) as caught:
            model.decode(bad)
        assert_one_line(caught, "`z`", f"[rows, {dim}]")


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.decode([[0.0, 1.0]]),
        lambda m: m.sample_latent(2),
        lambda m: m.sample_latents(2),
        lambda m: m.sample(2),
    ],
)
def test_what_takes_no_x_needs_a_model_that_is_built(call):
    with pytest.raises(InvalidInputError) as caught:
        call(image_model())
    assert_one_line(caught, "built first")


@pytest.mark.parametrize("model", [IWAE, CIWAE])
def test_models_of_one_group_refuse_num_groups(model):
    with pytest.raises((TypeError, InvalidInputError), match="num_groups"):
        image_model(model, num_groups=4)


def test_a_model_recovers_from_a_first_call_with_the_wrong_shape(tmp_path):
    model, x = image_model(), binary()
    with pytest.raises(InvalidInputError):
        model.log_weights(x.reshape(6, 16))
    expected = model.log_weights(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_weights(x), expected)
