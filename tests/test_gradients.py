"""Gradients against a plain single-tape bound, theory, and each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import (
    BETA,
    CLASSES,
    ESTIMATORS,
    EVENT,
    NAMES,
    K,
    M,
    assert_near,
    binary,
    build,
    classes,
    draw,
    halves,
    networks,
    reloaded,
)
from closed_form import LinearGaussian, TwoLayerLinearGaussian
from scipy import special
from tensorflow_probability import distributions as tfd

from iwae_tf import bounds
from iwae_tf.models import IWAE
from iwae_tf.models.bound_model import Batch
from iwae_tf.networks import MLP
from iwae_tf.probability import noise

layers = keras.layers
WEIGHTS = np.array([0.1, 0.4, 0.0, 0.5], "float32")  # of four examples


def gradients(model, x, draws, weights=None, y=None):
    """Gradients of the loss by id of variable."""
    weights = np.full(len(x), 1 / len(x), "float32") if weights is None else weights
    y = None if y is None else tf.constant(y)
    batch = Batch(tf.constant(x), y, draws, tf.constant(weights))
    result = model.loss_gradients(batch)
    assert len(result.gradients) == len(model.trainable_variables)
    return dict(zip(map(id, model.trainable_variables), result.gradients))


def both_halves(model, x, draws, *args):
    return halves(model, gradients(model, x, draws, *args).values())


def assert_apart(actual, expected):
    with pytest.raises(AssertionError):
        assert_near(actual, expected, rtol=0.01)


def trainable(nets):
    return [v.value for net in nets for v in net.trainable_variables]


# A plain implementation: tiled inputs, one tape, no TFP ---------------------------


def log_normal(value, loc, log_scale):
    z = (value - loc) / tf.exp(log_scale)
    return tf.reduce_sum(-0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi), axis=-1)


def frozen(network):
    """What an MLP computes, its weights constants."""
    weights = [tf.constant(w) for w in network.get_weights()]

    def call(inputs):
        outputs = tf.concat(inputs, -1) if isinstance(inputs, list) else inputs
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            outputs = tf.tanh(outputs @ kernel + bias)
        return outputs @ weights[-2] + weights[-1]

    return call


def plain_log_weights(model, x, draws, y=None, scorers=None, stop=False):
    """log w [M, K, B]; log q by `scorers` where given, and `stop` stops its loc, scale.

    The path of z, and so of the inputs of log q, is never stopped.
    """
    m, k, b = draws.shape[:3]
    x, epsilon = tf.tile(x, [m * k, 1]), tf.reshape(draws, [m * k * b, -1])
    label = None if y is None else tf.tile(tf.one_hot(y, CLASSES), [m * k, 1])

    def call(network, rows):
        outputs = network(rows if y is None else [rows, label])
        return tf.split(outputs, 2, axis=-1)

    below, latents, log_q = x, [], 0.0
    sizes = model.latent_dims
    for network, scorer, noise_of in zip(
        model.encoder, scorers or model.encoder, tf.split(epsilon, sizes, axis=-1)
    ):
        loc, log_scale = call(network, below)
        z = loc + tf.exp(log_scale) * noise_of
        parameters = call(scorer, below) if scorers else (loc, log_scale)
        if stop:
            parameters = map(tf.stop_gradient, parameters)
        log_q += log_normal(z, *parameters)
        latents.append(z)
        below = z
    zeros = tf.zeros_like(latents[-1])
    top = (zeros, zeros)
    if model.prior is not None:
        top = tf.split(model.prior(label), 2, axis=-1)
    log_p = log_normal(latents[-1], *top)
    for layer in range(len(latents) - 1, 0, -1):
        log_p += log_normal(
            latents[layer - 1], *call(model.decoder[layer], latents[layer])
        )
    logits = tf.concat(call(model.decoder[0], latents[0]), axis=-1)
    log_p += tf.reduce_sum(x * logits - tf.math.softplus(logits), axis=-1)
    return tf.reshape(log_p - log_q, [m, k, b])


def plain_bounds(name, log_w):
    """The decoder's and the encoder's bound, each [B]."""
    count = np.log(log_w.shape[0] * log_w.shape[1])
    iwae = tf.reduce_logsumexp(log_w, axis=[0, 1]) - count
    groups = tf.reduce_logsumexp(log_w, axis=1) - np.log(log_w.shape[1])
    miwae, elbo = tf.reduce_mean(groups, axis=0), tf.reduce_mean(log_w, axis=[0, 1])
    ciwae = BETA * elbo + (1 - BETA) * iwae
    both = {"vae": elbo, "iwae": iwae, "miwae": miwae, "ciwae": ciwae}
    return (iwae, miwae) if name == "piwae" else (both[name], both[name])


def dreg_weights(name, log_w):
    """v of Tucker et al. by SciPy, each [M, K, B]."""
    squares = special.softmax(log_w, axis=(0, 1)) ** 2
    in_groups = special.softmax(log_w, axis=1) ** 2 / len(log_w)
    equal = np.full_like(log_w, 1 / np.prod(log_w.shape[:2]))
    return {
        "vae": equal,
        "iwae": squares,
        "miwae": in_groups,
        "ciwae": BETA * equal + (1 - BETA) * squares,
        "piwae": in_groups,
    }[name]


def plain_gradients(
    name, model, x, draws, weights=WEIGHTS, y=None, estimator="reparameterized"
):
    """Gradients of the encoder and of the decoder with the prior, in order."""
    scorers = None
    if estimator != "reparameterized":
        scorers = [frozen(network) for network in model.encoder]
    with tf.GradientTape(persistent=True) as tape:
        log_w = plain_log_weights(model, x, draws, y, scorers)
        generative, inference = (
            -tf.reduce_sum(bound * weights) for bound in plain_bounds(name, log_w)
        )
        if estimator == "dreg":
            inference = -tf.reduce_sum(
                dreg_weights(name, log_w.numpy()) * weights * log_w
            )
    return (
        tape.gradient(inference, trainable(model.encoder)),
        tape.gradient(generative, trainable(model.latent.generative_networks)),
    )


def test_the_plain_bounds_are_the_textbook_ones():
    log_w = np.random.default_rng(0).normal(size=(M, K, 2))
    weights = np.exp(log_w)
    iwae = np.log(weights.mean((0, 1)))
    miwae = np.log(weights.mean(1)).mean(0)
    elbo = log_w.mean((0, 1))
    expected = {
        "vae": (elbo, elbo),
        "iwae": (iwae, iwae),
        "miwae": (miwae, miwae),
        "ciwae": (BETA * elbo + (1 - BETA) * iwae,) * 2,
        "piwae": (iwae, miwae),
    }
    for name in NAMES:
        np.testing.assert_allclose(plain_bounds(name, log_w), expected[name])


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_plain_autodiff(name, num_layers, labels):
    """Those of every estimator; it leaves the decoder's, and the prior's, alone."""
    model, x = build(name, num_layers, labels=labels), binary()
    y, draws, found = classes() if labels else None, draw(model), []
    for estimator in ESTIMATORS:
        model.gradient_estimator = estimator
        encoder, decoder = both_halves(model, x, draws, WEIGHTS, y)
        expected = plain_gradients(name, model, x, draws, WEIGHTS, y, estimator)
        assert_near(encoder, expected[0])
        assert_near(decoder, expected[1])
        found.append((encoder, decoder))
    (plain, first), (stl, second), (dreg, third) = found
    assert_near(second, first, 1e-5)
    assert_near(third, first, 1e-5)
    assert_apart(stl, plain)
    assert_apart(dreg, plain)
    if name == "vae":
        assert_near(stl, dreg, 1e-5)
    else:
        assert_apart(stl, dreg)


@pytest.mark.parametrize("name", ["iwae", "piwae"])
def test_variables_of_an_activation_are_those_of_its_half(name):
    keras.utils.set_random_seed(5)
    nets = [[MLP([5, 5], EVENT, layers.PReLU(alpha_initializer="ones"))] for _ in "qp"]
    model, x = build(name, nets=nets), binary()
    assert len(model.trainable_variables) == 2 * (6 + 1)
    draws = draw(model)
    expected = plain_gradients(name, model, x, draws)
    for one, other in zip(both_halves(model, x, draws, WEIGHTS), expected):
        assert_near(one, other)


def test_piwae_pairs_the_encoder_of_miwae_with_the_decoder_of_iwae():
    nets, x = networks(2), binary()
    piwae, miwae = build("piwae", nets=nets), build("miwae", nets=nets)
    pooled = build("iwae", nets=nets, num_samples=M * K)
    draws = draw(piwae)
    encoder, decoder = both_halves(piwae, x, draws)
    miwae_encoder, miwae_decoder = both_halves(miwae, x, draws)
    pooled_draws = tf.reshape(draws, [1, M * K, 4, -1])
    iwae_encoder, iwae_decoder = both_halves(pooled, x, pooled_draws)
    assert_near(encoder, miwae_encoder, rtol=1e-5)
    assert_near(decoder, iwae_decoder, rtol=1e-5)
    assert_apart(encoder, iwae_encoder)
    assert_apart(decoder, miwae_decoder)


def slope(name, model, x, draws, which, variables, direction, step):
    """Central difference of the loss along `direction`."""
    origin, losses = [v.numpy() for v in variables], []
    for sign in (1, -1):
        for v, start, d in zip(variables, origin, direction):
            v.assign(start + sign * step * d)
        log_w = tf.cast(plain_log_weights(model, x, draws), tf.float64)
        losses.append(-np.mean(plain_bounds(name, log_w)[which]))
    for v, start in zip(variables, origin):
        v.assign(start)
    return (losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("name", ["ciwae", "piwae"])
def test_gradients_agree_with_finite_differences(name):
    """Central differences of the plain bound in one random direction."""
    model, x = build(name, num_layers=2), binary()
    draws, rng = draw(model), np.random.default_rng(7)
    for half, nets in enumerate((model.encoder, model.decoder)):
        variables = [v for net in nets for v in net.trainable_variables]
        direction = [rng.normal(size=v.shape) for v in variables]
        norm = np.sqrt(sum(np.sum(d**2) for d in direction))
        direction = [d / norm for d in direction]

        # The fine one's truncation error is near (coarse - fine) / 3, its rounding
        # below 1e-5 / 0.04; Richardson's value is better than either.
        coarse, fine = (
            slope(name, model, x, draws, 1 - half, variables, direction, step)
            for step in (0.08, 0.04)
        )
        error = abs(coarse - fine) + 3e-4
        actual = both_halves(model, x, draws)[half]
        dot = sum(float(np.sum(g * d)) for g, d in zip(actual, direction))
        assert abs(dot) > 5 * error
        assert dot == pytest.approx(fine + (fine - coarse) / 3, abs=error)


# Estimators -----------------------------------------------------------------------


@pytest.mark.parametrize("problem", [LinearGaussian(4), TwoLayerLinearGaussian(4)])
@pytest.mark.parametrize("name", NAMES)
def test_pathwise_gradients_vanish_at_the_exact_posterior(name, problem):
    nets = [
        n if isinstance(n, list) else [n]
        for n in (problem.encoder(), problem.decoder())
    ]
    model, x = build(name, nets=nets, likelihood="normal"), problem.data(4)
    sizes = {}
    for model.gradient_estimator in ESTIMATORS:
        halved = both_halves(model, x, draw(model))
        sizes[model.gradient_estimator] = [
            max(np.abs(g).max() for g in half) for half in halved
        ]
    assert sizes["reparameterized"][0] > 0.05
    assert sizes["stl"][0] < 2e-5
    assert sizes["dreg"][0] < 2e-5
    assert min(size[1] for size in sizes.values()) > 0.05


def encoder_means(name, num_layers, repeats=40, rows=1500):
    """Encoder gradients of three estimators, one mean over `rows` a repeat."""
    nets = networks(num_layers)[:2]
    models = [
        build(name, nets=nets, gradient_estimator=e)
        for e in ("reparameterized", "dreg")
    ]
    model, rng = models[0], np.random.default_rng(8)
    for v in model.trainable_variables:
        v.assign(v + 0.5 * rng.normal(size=v.shape))
    x = tf.constant(np.tile(np.array([[1, -1, 0.5, 2]], "float32"), (rows, 1)))
    weights = tf.fill([rows], 1 / rows)

    @tf.function
    def once(index):
        key = noise.fold_in(noise.make_key((3, 4)), index)
        shape = [model.num_groups, model.num_samples, rows, sum(model.latent_dims)]
        draws = model.latent.draw_noise(key, 0, rows, *shape[:2])
        draws = tf.ensure_shape(draws, shape)
        results = []
        for each in models:
            found = each.loss_gradients(Batch(x, None, draws, weights)).gradients
            results.append(halves(each, found)[0])
        with tf.GradientTape() as tape:
            log_w = plain_log_weights(model, x, draws, stop=True)
            squared = model.objective.pathwise_weights(log_w) * weights
            loss = -tf.reduce_sum(tf.stop_gradient(squared) * log_w)
        results.append(tape.gradient(loss, trainable(model.encoder)))
        return [tf.concat([tf.reshape(g, [-1]) for g in r], 0) for r in results]

    return np.array([once(tf.constant(i)) for i in range(repeats)], "float64")


@pytest.mark.parametrize(
    "name, num_layers",
    [
        ("iwae", 1),
        ("miwae", 2),  # whose encoder has the gradient of a PIWAE's
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("iwae", 2), ("miwae", 1), ("ciwae", 1), ("ciwae", 2)]
        ),
    ],
)
def test_dreg_is_unbiased(name, num_layers):
    """Within four standard errors of the reparameterized mean, over 60,000 rows.

    The form that stops loc and scale of q(z2|z1), and with them the path through z1,
    is right for one layer and must be caught for two.
    """
    reparameterized, dreg, stopped = encoder_means(name, num_layers).transpose(1, 0, 2)

    def z_scores(difference):
        error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
        return np.abs(difference.mean(axis=0)) / error

    assert np.all(reparameterized.std(axis=0) > 0)
    # Of 75 to 121 elements the largest of Student's t with 39 degrees of freedom
    # exceeds 4 with a probability of 3 %; the seed is fixed.
    assert z_scores(reparameterized - dreg).max() < 4
    difference = z_scores(reparameterized - stopped).max()
    assert difference > 20 if num_layers == 2 else difference < 4
    # premise: the gradient is far from zero, and DReG is not the same estimate
    assert z_scores(dreg).max() > 40
    assert np.abs(reparameterized - dreg).max() > 1e-4


# Weights, regularizers, sharing ---------------------------------------------------


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg"])
def test_example_weights_scale_the_gradients_of_their_rows(estimator):
    model, x = build("piwae", gradient_estimator=estimator), binary(2)
    draws = draw(model, 2)
    both, first, second = (
        list(gradients(model, x, draws, np.array(weights, "float32")).values())
        for weights in ([2, 3], [1, 0], [0, 1])
    )
    assert_near(both, [2 * one + 3 * two for one, two in zip(first, second)])
    alone = gradients(model, x[:1], draws[:, :, :1], np.ones(1, "float32"))
    assert_near(first, list(alone.values()))


def regularized(**kwargs):
    keras.utils.set_random_seed(3)
    return tuple(
        [keras.Sequential([layers.Dense(5, "tanh"), layers.Dense(4, **kwargs)])]
        for _ in "qp"
    )


@pytest.mark.parametrize("kind", ["kernel", "activity"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["iwae", "piwae"])
def test_regularizers_add_their_gradient(name, estimator, kind):
    """The decoder's penalty of activity reaches the encoder through the latents."""
    x, penalized = binary(), {f"{kind}_regularizer": keras.regularizers.L2(0.1)}
    plain, model = (
        build(name, gradient_estimator=estimator, nets=regularized(**kwargs))
        for kwargs in ({}, penalized)
    )
    draws = draw(model)
    rows = int(np.prod(draws.shape[:3]))
    with tf.GradientTape() as tape:
        if kind == "kernel":
            kernels = [n.layers[1].kernel for n in (*plain.encoder, *plain.decoder)]
            penalty = 0.1 * sum(tf.reduce_sum(tf.square(k)) for k in kernels)
        else:
            parameters = plain.encoder[0](x)
            loc, log_scale = tf.split(parameters, 2, axis=-1)
            z = tf.reshape(loc + tf.exp(log_scale) * draws, [rows, -1])
            # Keras divides the penalty of activity by the rows of the call.
            penalty = 0.1 * tf.reduce_sum(parameters**2) / len(x)
            penalty += 0.1 * tf.reduce_sum(plain.decoder[0](z) ** 2) / rows
    extra = tape.gradient(penalty, trainable([*plain.encoder, *plain.decoder]))
    assert sum(gradient is not None for gradient in extra) == (
        2 if kind[0] == "k" else 8
    )
    without, actual = (sum(both_halves(m, x, draws), []) for m in (plain, model))
    for before, after, added in zip(without, actual, extra, strict=True):
        if added is None:
            assert_near([after], [before], 1e-5)
        else:
            assert_near([after - before], [added], rtol=1e-3)


def assert_sum(shared, apart, name="iwae", **kwargs):
    """The gradient of a shared layer is that of its two copies, added up.

    Args:
      shared: (layer, networks that have it twice).
      apart: (two layers, the same networks with one each).
    """
    for mine, other in zip(sum(shared[1], []), sum(apart[1], [])):
        other.set_weights(mine.get_weights())
    model, separate = (
        build(name, nets=nets, **kwargs) for nets in (shared[1], apart[1])
    )
    assert len(model.trainable_variables) == len(separate.trainable_variables) - 2
    draws = draw(model)
    found, expected = (gradients(m, binary(), draws) for m in (model, separate))
    for mine, *copies in zip(shared[0].variables, *(a.variables for a in apart[0])):
        assert_near([found[id(mine)]], [sum(expected[id(copy)] for copy in copies)])


def dense_tanh():
    return layers.Dense(3, "tanh")


@pytest.mark.parametrize("name", ["iwae", "piwae"])
def test_a_layer_shared_by_both_halves_gets_the_sum(name):
    pad = layers.Lambda(lambda z: tf.pad(z, [[0, 0], [0, 3]]), output_shape=(5,))

    def nets(first, second):
        keras.utils.set_random_seed(4)
        encoder = keras.Sequential([layers.Dense(5), first, layers.Dense(4)])
        decoder = keras.Sequential([pad, second, layers.Dense(4)])
        encoder.build((None, 4)), decoder.build((None, 2))
        return [encoder], [decoder]

    shared, one, two = dense_tanh(), dense_tanh(), dense_tanh()
    assert_sum((shared, nets(shared, shared)), ((one, two), nets(one, two)), name)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_a_layer_shared_by_the_second_encoder_is_stopped_in_log_q(estimator):
    def nets(first, second):
        keras.utils.set_random_seed(4)
        encoder = [MLP([5], (4,)), keras.Sequential([first, layers.Dense(4)])]
        decoder = [MLP([5], EVENT), keras.Sequential([second, layers.Dense(4)])]
        for (below, above), size in ((encoder, 4), (decoder, 2)):
            below.build((None, size)), above.build((None, 2))
        return encoder, decoder

    shared, one, two = dense_tanh(), dense_tanh(), dense_tanh()
    pair = (shared, nets(shared, shared)), ((one, two), nets(one, two))
    assert_sum(*pair, gradient_estimator=estimator)


@keras.saving.register_keras_serializable("test_gradients")
class NoisyNormal(keras.Layer):
    """A normal p(x|z) of one scale, which is learned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.log_scale = self.add_weight(shape=(), name="log_scale")

    def call(self, loc):
        scale = tf.exp(tf.convert_to_tensor(self.log_scale))
        return tfd.Independent(tfd.Normal(loc, scale), 1)


@pytest.mark.parametrize("name, estimator", [("iwae", "dreg"), ("piwae", "stl")])
def test_a_variable_of_the_likelihood_gets_the_gradient_of_the_decoders_bound(
    name, estimator, tmp_path
):
    """It had none, and stayed as it was."""
    model = build(name, likelihood=NoisyNormal(), gradient_estimator=estimator)
    x, draws, variable = binary(), draw(model), model.likelihood.log_scale
    found = gradients(model, x, draws)[id(variable)]
    with tf.GradientTape() as tape:
        parts = model.latent.log_weights(tf.constant(x), draws)
        loss = -tf.reduce_mean(bounds.iwae(parts.log_weights))
    expected = tape.gradient(loss, variable.value)
    assert abs(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    variable.assign(0.5)
    loaded = reloaded(model, tmp_path)
    assert float(loaded.likelihood.log_scale.numpy()) == 0.5


def test_a_shared_penalty_counts_once():
    shared = layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5))
    encoder = keras.Sequential([shared])
    decoder = keras.Sequential([layers.Dense(4), shared])
    model, x = IWAE(encoder, decoder, num_samples=K), binary()
    model.build((None, *EVENT))
    batch = Batch(tf.constant(x), None, draw(model), tf.fill([4], 0.25))
    expected = 0.5 * float(tf.reduce_sum(shared.kernel**2))
    assert float(model.loss_gradients(batch).penalty) == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("name", ["iwae", "piwae"])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_frozen_half_gets_no_gradient_and_the_other_keeps_its_own(name, half):
    model, x = build(name, num_layers=2), binary()
    draws = draw(model)
    before = both_halves(model, x, draws)
    for network in getattr(model, half):
        network.trainable = False
    after = both_halves(model, x, draws)
    kept = 1 if half == "encoder" else 0
    assert after[1 - kept] == []
    assert_near(after[kept], before[kept], rtol=1e-5)


def test_one_frozen_layer_gets_none():
    model, x = build("iwae", gradient_estimator="dreg"), binary()
    draws = draw(model)
    before = gradients(model, x, draws)
    model.encoder[0].hidden[0].trainable = False
    after = gradients(model, x, draws)
    assert len(after) == len(before) - 2
    for variable, gradient in after.items():
        assert_near([gradient], [before[variable]], rtol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mask_of_dropout_is_one_for_a_step(estimator):
    """log q(z2|z1) belongs to the draw of z2: both are of one dropout mask."""
    encoder, decoder, _ = networks(2)
    q2 = keras.Sequential([layers.Dropout(0.5, seed=3), layers.Dense(4)])
    decoder[1] = MLP([6], (4,))
    nets = [encoder[0], q2], decoder
    model = build("iwae", gradient_estimator=estimator, nets=nets)
    calls = []
    original = q2.layers[0].call

    def record(z, training=False):
        calls.append(original(z, training=training))
        return calls[-1]

    q2.layers[0].call = record
    gradients(model, binary(), draw(model))
    masks = [np.asarray(call) != 0 for call in calls if not tf.is_symbolic_tensor(call)]
    assert masks and masks[0].mean() < 0.9
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_the_prior_is_told_of_training():
    """So that dropout in p(z|y) is at work in a step, and nowhere else."""
    encoder, decoder, _ = networks()
    dropout = layers.Dropout(0.5, seed=1)
    prior = keras.Sequential([dropout, layers.Dense(4, use_bias=False)])
    model = build(nets=(encoder, decoder, prior), labels=True)
    x, y, draws = binary(40), tf.constant(classes(40)), draw(model, 40)
    prior.layers[1].kernel.assign(np.ones([CLASSES, 4]))
    loc = model.latent.top_prior(y).mean().numpy()
    dropped = model.latent.top_prior(y, training=True).mean().numpy()
    parts = model.loss_gradients(Batch(tf.constant(x), y, draws, tf.ones(40))).parts
    whole = model.latent.log_weights(x, draws, y)
    assert np.all(loc == 1.0)
    # The one element of a one-hot label that is not zero: dropped, or twice as large.
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert np.all(np.abs(parts.log_prior - whole.log_prior) > 1e-3)
    np.testing.assert_array_equal(whole.log_likelihood, parts.log_likelihood)


# One backward pass ----------------------------------------------------------------


def count_products(model, x, draws):
    """Matrix products of one call of `loss_gradients`."""

    @tf.function(autograph=False)
    def run():
        batch = Batch(tf.constant(x), None, draws, tf.ones(len(x)))
        return model.loss_gradients(batch).gradients

    graph = run.get_concrete_function().graph
    return sum(op.type == "MatMul" for op in graph.get_operations())


@pytest.mark.parametrize(
    "name, estimator, num_layers, labels",
    [
        ("piwae", "reparameterized", 1, True),
        ("piwae", "reparameterized", 2, False),
        ("piwae", "stl", 2, False),
        ("piwae", "dreg", 1, True),
        ("piwae", "dreg", 2, False),
        ("iwae", "dreg", 1, False),
        ("iwae", "dreg", 2, True),
        ("ciwae", "dreg", 2, False),
    ],
)
def test_one_backward_pass_equals_two(name, estimator, num_layers, labels, monkeypatch):
    model = build(name, num_layers, gradient_estimator=estimator, labels=labels)
    x, y, draws = binary(), classes() if labels else None, draw(model)
    weights = np.float32([0.1, 0.0, 0.7, 1.3])
    one_pass = both_halves(model, x, draws, weights, y)
    # The prior of labels, of a row an example, is asked on its own.
    products = None if labels else count_products(model, x, draws)
    for attribute in ("rows_are_independent", "takes_records"):
        monkeypatch.setattr(MLP, attribute, False)
    two_passes = both_halves(model, x, draws, weights, y)
    for one, other in zip(one_pass, two_passes):
        assert_near(one, other, rtol=2e-6)
    assert labels or products < count_products(model, x, draws)


def test_one_backward_pass_where_a_group_weighs_nothing():
    """Weights that underflow in float32 lose their share, and nothing is NaN."""
    objective = bounds.PartiallyImportanceWeighted()
    log_weights = tf.constant(
        [[[0.0], [-1.0]], [[-300.0], [-301.0]], [[-5.0], [-90.0]]]
    )
    share = np.broadcast_to(objective.generative_share(log_weights), [3, 2, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(log_weights)
        bound = objective(log_weights)
    inference = tape.gradient(bound.inference, log_weights)
    generative = tape.gradient(bound.generative, log_weights)
    np.testing.assert_allclose(share * inference, generative, rtol=1e-5, atol=1e-38)
    assert (share >= 0).all() and (share <= 3).all()
