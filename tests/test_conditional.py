"""Conditional models against closed forms, NumPy, autodiff and other processes."""

import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from closed_form import ConditionalLinearGaussian, TwoLayerConditionalLinearGaussian
from scipy import special, stats
from test_gradients import (
    NAMES,
    SETTINGS,
    assert_close,
    halves,
    log_normal,
    plain_bounds,
)

import iwae_tf
from iwae_tf import evaluation
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE, MODELS
from iwae_tf.models.bound_model import Batch
from iwae_tf.models.latent_model import one_hot
from iwae_tf.networks import MLP, WithLabels
from iwae_tf.probability import noise

C, EVENT = 3, (4,)
PROBLEMS = {
    "one layer": ConditionalLinearGaussian(),
    "one layer, no prior": ConditionalLinearGaussian(has_prior=False),
    "two layers": TwoLayerConditionalLinearGaussian(),
}


def exact_model(problem):
    """The problem with its exact posterior as q: every log-weight is log p(x|y)."""
    nets = (problem.encoder(), problem.decoder())
    nets = [n if isinstance(n, list) else [n] for n in nets]
    encoder, decoder = ([WithLabels(n) for n in half] for half in nets)
    model = IWAE(
        encoder,
        decoder,
        likelihood="normal",
        num_classes=problem.num_classes,
        prior=problem.prior(),
    )
    model.build((None, len(problem.noise)))
    return model


def networks(num_layers=1, has_prior=True, seed=5):
    keras.utils.set_random_seed(seed)
    encoder = [MLP([5], (4,)), MLP([6], (2,))][:num_layers]
    decoder = [MLP([5], EVENT), MLP([6], (4,))][:num_layers]
    top = 4 if num_layers == 1 else 2
    return encoder, decoder, MLP([3], (top,)) if has_prior else None


def build(name="iwae", num_layers=1, has_prior=True, nets=None, **kwargs):
    """A small conditional model with weights away from their start."""
    model_class, settings = SETTINGS[name]
    encoder, decoder, prior = nets or networks(num_layers, has_prior)
    settings = {**settings, "num_classes": C, "prior": prior, **kwargs}
    model = model_class(encoder, decoder, **settings)
    model.build((None, *EVENT))
    if nets is None:
        rng = np.random.default_rng(6)
        for variable in model.trainable_variables:
            variable.assign(variable + 0.4 * rng.normal(size=variable.shape))
    return model


def data(rows=6):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (rows, *EVENT)).astype("float32")
    return x, rng.integers(0, C, rows)


# Closed form ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_log_weight_is_the_exact_log_likelihood(name):
    problem = PROBLEMS[name]
    model, (x, y) = exact_model(problem), problem.data(7)
    exact = problem.log_prob(x, y)
    weights = model.log_weights(x, 2, 3, labels=y).numpy()
    np.testing.assert_allclose(weights, np.broadcast_to(exact, (2, 3, 7)), atol=2e-4)
    found = iwae_tf.log_likelihood(model, x, 10, labels=y)
    np.testing.assert_allclose(found.estimate, exact, atol=2e-4)
    # premise: the label matters
    assert np.min(np.abs(exact - problem.log_prob(x, (y + 1) % C))) > 0.01


@pytest.mark.parametrize("name", PROBLEMS)
def test_classes_by_brute_force(name):
    """log p(x) and p(y|x) from the exact densities of all classes."""
    problem = PROBLEMS[name]
    model, (x, y) = exact_model(problem), problem.data(50)
    found = iwae_tf.class_log_likelihoods(model, x, 10)
    exact = np.stack([problem.log_prob(x, np.full(50, c)) for c in range(C)], axis=1)
    np.testing.assert_allclose(found.estimate, exact, atol=3e-4)
    shares = np.array([0.2, 0.5, 0.3])
    joint = np.exp(exact) * shares
    marginal = np.log(joint.sum(axis=1))
    np.testing.assert_allclose(found.log_marginal(shares), marginal, atol=3e-4)
    posterior = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.posterior(shares), posterior, atol=3e-4)
    uniform = np.log(np.exp(exact).mean(axis=1))
    np.testing.assert_allclose(found.log_marginal(), uniform, atol=3e-4)
    assert np.mean(np.argmax(found.posterior(), axis=1) == y) > 0.5
    certain = found.posterior([0.0, 1.0, 0.0])
    np.testing.assert_array_equal(certain, np.tile([0.0, 1.0, 0.0], (50, 1)))


def test_samples_have_the_mean_and_covariance_of_their_class():
    for problem in PROBLEMS.values():
        model = exact_model(problem)
        for label in (0, 2):
            x = model.sample(20_000, (3, label), labels=label).numpy()
            error = np.sqrt(np.diag(problem.cov) / len(x))
            assert np.max(np.abs(x.mean(axis=0) - problem.x_means[label]) / error) < 4
            np.testing.assert_allclose(np.cov(x.T), problem.cov, atol=0.12)


def test_a_sample_has_the_label_of_its_row():
    problem = PROBLEMS["one layer"]
    model, labels = exact_model(problem), np.array([2, 0, 1, 2])
    together = model.sample(4, (1, 2), labels=labels).numpy()
    for row, label in enumerate(labels):
        alone = model.sample(4, (1, 2), labels=int(label)).numpy()
        np.testing.assert_allclose(together[row], alone[row], atol=1e-5)


# A second implementation ----------------------------------------------------------


def numpy_mlp(network, *inputs):
    outputs = np.concatenate([np.asarray(i, "float64") for i in inputs], axis=-1)
    weights = [w.astype("float64") for w in network.get_weights()]
    for index in range(0, len(weights) - 2, 2):
        outputs = np.tanh(outputs @ weights[index] + weights[index + 1])
    return outputs @ weights[-2] + weights[-1]


def numpy_log_weights(model, x, y, epsilon):
    """log w [M, K, B] one draw and one image at a time, in float64 and SciPy."""
    m, k, b, _ = epsilon.shape
    log_w = np.zeros([m, k, b])

    def normal(value, parameters):
        loc, log_scale = np.split(parameters, 2)
        return stats.norm(loc, np.exp(log_scale)).logpdf(value).sum()

    for index in np.ndindex(m, k, b):
        label, below = np.eye(C)[y[index[2]]], x[index[2]]
        latents, start = [], 0
        for network in model.encoder:
            parameters = numpy_mlp(network, below, label)
            loc, log_scale = np.split(parameters, 2)
            z = loc + np.exp(log_scale) * epsilon[index][start : start + len(loc)]
            start += len(loc)
            log_w[index] -= normal(z, parameters)
            latents.append(z)
            below = z
        if model.prior is None:
            log_w[index] += stats.norm.logpdf(latents[-1]).sum()
        else:
            log_w[index] += normal(latents[-1], numpy_mlp(model.prior, label))
        for layer in range(len(latents) - 1, 0, -1):
            parameters = numpy_mlp(model.decoder[layer], latents[layer], label)
            log_w[index] += normal(latents[layer - 1], parameters)
        logits = numpy_mlp(model.decoder[0], latents[0], label)
        sign = 2 * x[index[2]] - 1
        log_w[index] += special.log_expit(sign * logits).sum()
    return log_w


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("has_prior", [True, False])
def test_log_weights_equal_those_of_numpy(num_layers, has_prior):
    model, (x, y) = build("miwae", num_layers, has_prior), data()
    epsilon = model.latent.draw_noise(noise.make_key((4, 5)), 0, 6, 2, 3).numpy()
    expected = numpy_log_weights(model, x, y, epsilon)
    found = model.log_weights(x, 2, 3, (4, 5), labels=y).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)
    other = numpy_log_weights(model, x, (y + 1) % C, epsilon)
    assert np.min(np.abs(other - expected)) > 1e-4


# Gradients ------------------------------------------------------------------------


def plain_log_weights(model, x, y, draws, frozen=None):
    """log w [M, K, B] of tiled inputs; `frozen` networks score q where given."""
    m, k, b = draws.shape[:3]
    below = tf.reshape(tf.tile(x[tf.newaxis], [m * k, 1, 1]), [m * k * b, -1])
    label = tf.tile(tf.one_hot(y, C), [m * k, 1])
    x, epsilon = below, tf.reshape(draws, [m * k * b, -1])
    latents, log_q, start = [], 0.0, 0
    for network, scorer in zip(model.encoder, frozen or model.encoder):
        loc, log_scale = tf.split(network([below, label]), 2, axis=-1)
        size = loc.shape[-1]
        z = loc + tf.exp(log_scale) * epsilon[:, start : start + size]
        start += size
        log_q += log_normal(z, *tf.split(scorer([below, label]), 2, axis=-1))
        latents.append(z)
        below = z
    zeros = tf.zeros_like(latents[-1])
    top = (zeros, zeros)
    if model.prior is not None:
        top = tf.split(model.prior(label), 2, axis=-1)
    log_p = log_normal(latents[-1], *top)
    for layer in range(len(latents) - 1, 0, -1):
        outputs = model.decoder[layer]([latents[layer], label])
        log_p += log_normal(latents[layer - 1], *tf.split(outputs, 2, axis=-1))
    logits = model.decoder[0]([latents[0], label])
    log_p += tf.reduce_sum(x * logits - tf.math.softplus(logits), axis=-1)
    return tf.reshape(log_p - log_q, [m, k, b])


def trainable(networks):
    return [v.value for net in networks for v in net.trainable_variables]


def found_gradients(model, x, y, draws, weights):
    batch = Batch(tf.constant(x), tf.constant(y), draws, tf.constant(weights))
    result = model.loss_gradients(batch)
    by_id = dict(zip(map(id, model.trainable_variables), result.gradients))
    encoder, decoder = halves(model, by_id)
    prior = [by_id[id(v)] for v in model.prior.trainable_variables]
    return encoder, [*decoder, *prior]


EXAMPLE_WEIGHTS = np.array([0.1, 0.4, 0.0, 0.2, 0.2, 0.1], "float32")


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_plain_autodiff(name, num_layers):
    """PIWAE and DReG do with one backward pass for these networks, the prior's too."""
    model, (x, y) = build(name, num_layers), data()
    draws = model.latent.draw_noise(
        noise.make_key((1, 2)), 0, 6, model.num_groups, model.num_samples
    )
    with tf.GradientTape(persistent=True) as tape:
        log_w = plain_log_weights(model, tf.constant(x), y, draws)
        bounds = plain_bounds(name, log_w)
        generative, inference = (-tf.reduce_sum(b * EXAMPLE_WEIGHTS) for b in bounds)
    expected = tape.gradient(inference, trainable(model.encoder))
    encoder, decoder = found_gradients(model, x, y, draws, EXAMPLE_WEIGHTS)
    assert_close(encoder, expected)
    networks = [*model.decoder, model.prior]
    generative = tape.gradient(generative, trainable(networks))
    assert_close(decoder, generative)
    # The estimators change the encoder's gradient only.
    frozen = [copy_of(network) for network in model.encoder]
    for estimator in ("stl", "dreg"):
        model.gradient_estimator = estimator
        encoder, decoder = found_gradients(model, x, y, draws, EXAMPLE_WEIGHTS)
        assert_close(decoder, generative)
        with tf.GradientTape() as tape:
            log_w = plain_log_weights(model, tf.constant(x), y, draws, frozen)
            loss = surrogate(name, estimator, log_w)
        assert_close(encoder, tape.gradient(loss, trainable(model.encoder)))


def copy_of(network):
    copy = MLP.from_config(network.get_config())
    copy.build([(None, network.hidden[0].kernel.shape[0] - C), (None, C)])
    copy.set_weights(network.get_weights())
    return copy


def surrogate(name, estimator, log_w):
    """Minus the bound, or minus sum v log w with DReG's v by SciPy (Tucker et al.)."""
    if estimator == "stl":
        return -tf.reduce_sum(plain_bounds(name, log_w)[1] * EXAMPLE_WEIGHTS)
    values, (m, k, _) = log_w.numpy(), log_w.shape
    squares = special.softmax(values, axis=(0, 1)) ** 2
    weights = {
        "vae": np.full_like(values, 1 / (m * k)),
        "iwae": squares,
        "miwae": special.softmax(values, axis=1) ** 2 / m,
        "ciwae": 0.3 / (m * k) + 0.7 * squares,
        "piwae": special.softmax(values, axis=1) ** 2 / m,
    }[name]
    return -tf.reduce_sum(weights * EXAMPLE_WEIGHTS * log_w)


class Own(keras.layers.Layer):
    """A layer that says nothing of its rows, so that gradients take two passes."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def build(self, input_shape):
        self.network.build(input_shape)
        self.built = True

    def call(self, inputs):
        rows, labels = inputs
        return self.network([rows, labels])

    def compute_output_shape(self, input_shape):
        return self.network.compute_output_shape(input_shape)


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg"])
def test_networks_of_ones_own_have_the_same_gradients(estimator):
    results = []
    for wrap in (list, lambda half: [Own(network) for network in half]):
        encoder, decoder, prior = networks()
        nets = wrap(encoder), wrap(decoder), prior
        model, (x, y) = build("piwae", nets=nets, gradient_estimator=estimator), data()
        draws = model.latent.draw_noise(noise.make_key((1, 2)), 0, 6, 3, 5)
        results.append(found_gradients(model, x, y, draws, EXAMPLE_WEIGHTS))
    for ours, theirs in zip(*results):
        assert_close(ours, theirs, rtol=1e-5)


def test_the_prior_is_told_of_training():
    """So that dropout in p(z|y) is at work in a step, and nowhere else."""
    encoder, decoder, _ = networks()
    dropout = keras.layers.Dropout(0.5, seed=1)
    prior = keras.Sequential([dropout, keras.layers.Dense(4, use_bias=False)])
    model, (x, y) = build(nets=(encoder, decoder, prior)), data(40)
    dense = prior.layers[1]
    dense.kernel.assign(np.ones([C, 4]))
    y = tf.constant(y)
    loc = model.latent.top_prior(y).mean().numpy()
    dropped = model.latent.top_prior(y, training=True).mean().numpy()
    draws = model.latent.draw_noise(noise.make_key((1, 2)), 0, 40, 1, 2)
    batch = Batch(tf.constant(x), y, draws, tf.ones(40))
    parts = model.loss_gradients(batch).parts
    whole = model.latent.log_weights(x, draws, y)
    assert np.all(loc == 1.0)
    # The one element of a one-hot label that is not zero: dropped, or twice as large.
    assert set(np.unique(dropped)) == {0.0, 2.0}
    differ = np.abs(parts.log_prior - whole.log_prior) > 1e-3
    assert np.all(differ) and np.array_equal(whole.log_likelihood, parts.log_likelihood)


def test_no_rows_are_no_mistake():
    model, none = build("iwae", num_layers=2), np.zeros(0, "int32")
    x, z = np.zeros([0, *EVENT], "float32"), np.zeros([0, 2], "float32")
    assert model.decode(z, labels=none).mean().shape == (0, *EVENT)
    assert model([x, none]).shape == (0, *EVENT)
    assert model.sample_latent(0, labels=none).shape == (0, 2)
    draws = model.latent.draw_noise(noise.make_key((0, 0)), 0, 0, 1, 3)
    parts = model.latent.log_weights(x, draws, tf.constant(none))
    assert parts.log_weights.shape == (1, 3, 0)


def functional(event_shape, output_shape):
    """A Keras model of two inputs, with layers of Keras alone."""
    inputs, labels = keras.Input(event_shape), keras.Input((C,))
    rows = keras.layers.Flatten()(inputs)
    joined = keras.layers.Concatenate()([rows, keras.layers.Dense(3)(labels)])
    outputs = keras.layers.Dense(math.prod(output_shape))(joined)
    outputs = keras.layers.Reshape(output_shape)(outputs)
    return keras.Model([inputs, labels], outputs)


def test_functional_keras_models_are_networks(tmp_path):
    keras.utils.set_random_seed(3)
    model = IWAE(
        functional(EVENT, (4,)),
        functional((2,), EVENT),
        num_classes=C,
        prior=keras.Sequential([keras.layers.Dense(4)]),
        num_samples=3,
    )
    x, y = data(20)
    model.compile(keras.optimizers.Adam(0.05))
    history = model.fit(x, y, epochs=30, batch_size=8, verbose=0).history
    assert history["bound"][-1] > history["bound"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    ours, theirs = (m.log_weights(x, 1, 4, labels=y).numpy() for m in (model, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Training -------------------------------------------------------------------------


def train(x, y, **kwargs):
    model = build("iwae", seed=(3, 4))
    model.compile(keras.optimizers.Adam(0.01), **kwargs)
    history = model.fit(
        x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, validation_data=(x, y)
    )
    return model, history.history


@pytest.mark.xla
def test_the_modes_agree_and_learn():
    """XLA, a graph and eager steps; the last batch has 2 of 4 rows."""
    x, y = data(22)
    modes = [{}, {"jit_compile": False}, {"run_eagerly": True}]
    models = [train(x, y, **mode) for mode in modes]
    (first, history), *others = models
    assert history["bound"][1] > history["bound"][0]
    assert history["val_bound"][1] > history["val_bound"][0]
    start = build("iwae")
    for model, other in others:
        for ours, theirs in zip(first.get_weights(), model.get_weights()):
            np.testing.assert_allclose(ours, theirs, atol=2e-4)
        for name, values in history.items():
            np.testing.assert_allclose(values, other[name], rtol=1e-3, atol=1e-3)
    moved = zip(first.trainable_variables, start.trainable_variables)
    assert all(np.any(ours.numpy() != theirs.numpy()) for ours, theirs in moved)


def test_the_labels_reach_the_step():
    """Other labels, other weights: y is not ignored."""
    x, y = data(16)
    one, other = (train(x, labels, run_eagerly=True)[0] for labels in (y, (y + 1) % C))
    differences = [
        np.max(np.abs(a - b)) for a, b in zip(one.get_weights(), other.get_weights())
    ]
    assert max(differences) > 1e-3


def test_it_learns_what_only_the_label_tells():
    """Pixels are a function of y: log p(x|y) goes to 0, where log p(x) is -log 3."""
    keras.utils.set_random_seed(1)
    y = np.random.default_rng(0).integers(0, C, 600)
    x = np.eye(4, dtype="float32")[y]
    model = IWAE(MLP([8], (4,)), MLP([8], EVENT), num_classes=C, num_samples=5)
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    model.fit(x, y, epochs=40, batch_size=60, verbose=0)
    found = iwae_tf.class_log_likelihoods(model, np.eye(4, dtype="float32")[:C], 100)
    assert np.diag(found.estimate).min() > -0.1
    np.testing.assert_allclose(found.log_marginal(), -np.log(3), atol=0.1)
    assert np.diag(found.posterior()).min() > 0.99


def test_data_sets_and_evaluate_and_predict():
    model, (x, y) = build(), data(10)
    model.compile()
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    by_arrays = model.evaluate(x, y, verbose=0, return_dict=True, batch_size=4)
    by_pairs = model.evaluate(pairs, verbose=0, return_dict=True)
    for name, value in by_arrays.items():
        assert by_pairs[name] == pytest.approx(value, abs=1e-5)
    weighted = model.evaluate(
        x, y, sample_weight=np.ones(10), verbose=0, return_dict=True
    )
    assert weighted["bound"] == pytest.approx(by_arrays["bound"], abs=1e-5)
    mean = model((x, y)).numpy()
    np.testing.assert_allclose(model.predict(pairs, verbose=0), mean, atol=1e-6)
    np.testing.assert_allclose(model.predict((x, y), verbose=0), mean, atol=1e-6)
    expected = model.decode(model.encode(x, labels=y).mean(), labels=y).mean()
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert np.max(np.abs(mean - model((x, (y + 1) % C)).numpy())) > 1e-3


def test_a_model_without_classes_ignores_y():
    models = []
    for arguments in [(), (np.arange(8),)]:
        keras.utils.set_random_seed(4)
        model = IWAE(MLP([5], (4,)), MLP([5], EVENT), num_samples=3)
        model.compile()
        model.fit(data(8)[0], *arguments, batch_size=4, verbose=0)
        models.append(model.get_weights())
        assert not {"num_classes", "prior"} & set(model.get_config())
    for ours, theirs in zip(*models):
        np.testing.assert_array_equal(ours, theirs)


# Noise ----------------------------------------------------------------------------


@pytest.mark.xla
def test_scores_do_not_depend_on_chunks_batches_or_parts():
    model, (x, y) = build(num_layers=2), data(9)
    whole = iwae_tf.log_likelihood(model, x, 40, (1, 2), labels=y)
    bound = special.logsumexp(
        model.log_weights(x, 1, 40, (1, 2), labels=y)[0], axis=0
    ) - np.log(40)
    np.testing.assert_allclose(whole.estimate, bound, atol=1e-5)
    for settings in (
        {"chunk_size": 7},
        {"batch_size": 2, "chunk_size": 130},
        {"jit_compile": False},
    ):
        found = iwae_tf.log_likelihood(model, x, 40, (1, 2), labels=y, **settings)
        for ours, theirs in zip(found, whole):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    parts = [
        iwae_tf.log_likelihood(model, x[i:j], 40, (1, 2), labels=y[i:j], first_row=i)
        for i, j in [(0, 4), (4, 9)]
    ]
    joined = np.concatenate([part.estimate for part in parts])
    np.testing.assert_allclose(joined, whole.estimate, atol=1e-5)


def test_a_unit_is_active_in_units_of_its_prior():
    """Var over (x, y) of (E[z|x, y] - m_y) / t, from the exact posterior's formula."""
    problem = PROBLEMS["one layer"]
    model, (x, y) = exact_model(problem), problem.data(200)
    gain = problem.loadings / problem.noise[0] ** 2
    precision = problem.spread**-2 + np.sum(problem.loadings * gain, axis=0)
    loc = (x - problem.offsets[y]) @ gain + problem.means[y] / problem.spread**2
    variances = np.var((loc / precision - problem.means[y]) / problem.spread, axis=0)
    (found,) = evaluation.layer_statistics(model, x, labels=y)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-3)
    for threshold, count in [(0.9 * min(variances), 2), (np.mean(variances), 1)]:
        units = iwae_tf.active_units(model, x, labels=y, threshold=threshold)
        assert units == [count]


def test_a_dead_unit_is_taken_out_at_the_prior_of_its_class():
    """x says nothing of b in z = (a, b); without b the decoder finds E[b|y]."""
    problem = ConditionalLinearGaussian()
    problem.loadings[:, 1] = 0.0  # so that q(b|x, y) = p(b|y)
    model, (x, y) = exact_model(problem), problem.data(60)
    statistics = evaluation.layer_statistics(model, x, labels=y)
    masks = evaluation.active_masks(statistics)
    assert [mask.active.numpy().tolist() for mask in masks] == [[True, False]]
    found = iwae_tf.log_likelihood(model, x, 10, labels=y, masks=masks)
    exact = iwae_tf.log_likelihood(model, x, 10, labels=y)
    np.testing.assert_allclose(found.estimate, exact.estimate, atol=1e-3)
    draws = tf.zeros([1, 1, 60, 2])
    latents = model.latent.infer(x, draws, tf.constant(y), masks=masks).latents
    np.testing.assert_allclose(
        latents[0][0, 0, :, 1], problem.means[y][:, 1], atol=1e-3
    )


# Files and processes --------------------------------------------------------------

SERVE = """
import sys, json
import numpy as np, tensorflow as tf
inputs = np.load(sys.argv[2])
x, y = tf.constant(inputs["x"]), tf.constant(inputs["y"], tf.int32)
z, seed, draws = tf.constant(inputs["z"]), tf.constant([5, 6]), tf.constant(30)
s = tf.saved_model.load(sys.argv[1]).signatures
calls = {
    "serving_default": dict(x=x, y=y),
    "log_likelihood": dict(x=x, y=y, num_samples=draws, seed=seed),
    "error_bars": dict(x=x, y=y, num_samples=draws, seed=seed),
    "encode": dict(x=x, y=y),
    "decode": dict(z=z, y=y),
    "sample": dict(num_samples=tf.size(y), seed=seed, y=y),
    "reconstruct": dict(x=x, seed=seed, y=y),
}
found = {n: {k: v.numpy().tolist() for k, v in s[n](**c).items()}
         for n, c in calls.items()}
refused = []
for name, labels in [("serving_default", y + 3), ("encode", y[:2]), ("decode", y - 3),
                     ("sample", y[:2]), ("reconstruct", tf.concat([y, y], 0))]:
    try:
        s[name](**(calls[name] | {"y": labels}))
    except tf.errors.InvalidArgumentError as error:
        refused.append(error.message)
assert "iwae_tf" not in sys.modules

import keras, iwae_tf
model = keras.models.load_model(sys.argv[3])
score = iwae_tf.log_likelihood(model, inputs["x"], 30, (5, 6), labels=inputs["y"])
model.fit(inputs["x"], inputs["y"], verbose=0)
print(json.dumps([found, refused, score.estimate.tolist(), model.num_classes]))
"""


def test_files_are_the_model_in_another_process(tmp_path):
    """An export has the label as one input more; model.keras can be trained on."""
    model, (x, y) = build("piwae", num_layers=2), data()
    model.compile("adam", jit_compile=False)
    model.fit(x, y, verbose=0)
    z = np.random.default_rng(3).normal(size=[6, 2]).astype("float32")
    np.savez(tmp_path / "inputs.npz", x=x, y=y, z=z)
    model.save(tmp_path / "model.keras")
    version = iwae_tf.export_saved_model(model, tmp_path / "served", num_samples=20)
    files = [version, tmp_path / "inputs.npz", tmp_path / "model.keras"]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, refused, score, num_classes = json.loads(done.stdout.splitlines()[-1])
    names = ("log_likelihood", "standard_error", "effective_sample_size")
    expected = iwae_tf.log_likelihood(model, x, 20, labels=y)
    for name, values in zip(names, expected):
        np.testing.assert_allclose(found["serving_default"][name], values, rtol=1e-3)
    expected = iwae_tf.log_likelihood(model, x, 30, (5, 6), labels=y)
    np.testing.assert_allclose(score, expected.estimate, atol=1e-5)
    assert num_classes == C
    for name, values in zip((*names, "jackknife_error"), expected):
        np.testing.assert_allclose(found["error_bars"][name], values, rtol=1e-3)
        assert (name in found["log_likelihood"]) == (name in names)
    proposals = model.encode_layers(x, labels=y)
    for suffix, proposal in zip(("", "_2"), proposals):
        loc, scale = (found["encode"][n + suffix] for n in ("loc", "scale"))
        np.testing.assert_allclose(loc, proposal.mean(), atol=1e-5)
        np.testing.assert_allclose(scale, proposal.stddev(), atol=1e-5)
    for signature, mean in {
        "decode": model.decode(z, labels=y).mean(),
        "sample": model.sample(6, (5, 6), labels=y, mean=True),
        "reconstruct": model.reconstruct(x, (5, 6), labels=y),
    }.items():
        np.testing.assert_allclose(found[signature]["mean"], mean, atol=1e-5)
    drawn = model.sample(6, (5, 6), labels=y)
    np.testing.assert_array_equal(found["sample"]["sample"], drawn)
    assert len(refused) == 5 and all("y: must" in message for message in refused)


# Mistakes -------------------------------------------------------------------------

X, Y = data()
MODEL_MISTAKES = {
    "no classes": (dict(num_classes=0), "`num_classes` must be a positive integer"),
    "a prior of nothing": (
        dict(num_classes=None),
        "`prior` must be left out without `num_classes`",
    ),
    "a prior that is no network": (dict(prior=3), "`prior` must be a Keras layer"),
    "a prior of another size": (
        dict(prior=MLP([3], (6,))),
        "`prior` must return loc and log_scale of z1, size 4. Received: size 6",
    ),
    "an odd prior": (dict(prior=MLP([3], (3,))), "`prior` must return loc and log_sc"),
    "an encoder of one input": (
        dict(encoder=keras.layers.Dense(4)),
        "`encoder` of layer 1 must take a list",
    ),
    "a decoder of one input": (
        dict(decoder=keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])),
        "`decoder` of layer 1 must take a list",
    ),
}


@pytest.mark.parametrize("name", MODEL_MISTAKES)
def test_a_model_that_cannot_be(name):
    arguments, message = MODEL_MISTAKES[name]
    encoder, decoder, prior = networks()
    defaults = dict(encoder=encoder, decoder=decoder, num_classes=C, prior=prior)
    with pytest.raises(InvalidInputError, match=message) as error:
        IWAE(**(defaults | arguments)).build((None, *EVENT))
    assert "\n" not in str(error.value)


LABEL_MISTAKES = {
    "missing": (None, "must be given"),
    "too high": (Y + 1, rf"must be integers in \[0, {C}\).*=3"),
    "negative": (Y - 3, rf"must be integers in \[0, {C}\).*=-"),
    "floats": (Y.astype("float32"), "Received: dtype=float32"),
    "one-hot": (np.eye(C, dtype=int)[Y], r"shape=\(6, 3\)"),
    "too few": (Y[:4], r"shape=\(4,\)"),
    "bool": (True, "dtype=bool"),
    "text": ("two", "dtype="),
}
CALLS = {
    "log_weights": lambda m, y: m.log_weights(X, labels=y),
    "log_likelihood": lambda m, y: iwae_tf.log_likelihood(m, X, 5, labels=y),
    "active_units": lambda m, y: iwae_tf.active_units(m, X, labels=y),
    "encode": lambda m, y: m.encode(X, labels=y),
    "decode": lambda m, y: m.decode(np.zeros([6, 2], "float32"), labels=y),
    "sample": lambda m, y: m.sample(6, labels=y),
    "reconstruct": lambda m, y: m.reconstruct(X, labels=y),
    "fit": lambda m, y: m.fit(X, y, verbose=0),
    "evaluate": lambda m, y: m.evaluate(X, y, verbose=0),
}


@pytest.mark.parametrize("mistake", LABEL_MISTAKES)
def test_bad_labels_are_refused_in_one_line(mistake):
    labels, message = LABEL_MISTAKES[mistake]
    model = build()
    model.compile()
    for name, call in CALLS.items():
        with pytest.raises(InvalidInputError, match=message) as error:
            call(model, labels)
        argument = "y" if name in ("fit", "evaluate") else "labels"
        assert str(error.value).startswith(f"`{argument}` "), name
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("labels", [Y + 1, Y - 3])
def test_bad_labels_of_a_data_set_are_refused(labels, run_eagerly):
    model = build()
    model.compile(run_eagerly=run_eagerly)
    before = model.get_weights()
    pairs = tf.data.Dataset.from_tensor_slices((X, labels)).batch(6)
    for method in (model.fit, model.evaluate):
        with pytest.raises(InvalidInputError, match="`y` must be integers"):
            method(pairs, verbose=0)
    with pytest.raises(InvalidInputError, match="`y` must be given"):
        model.fit(tf.data.Dataset.from_tensors(X), verbose=0)
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_a_label_out_of_range_is_nan_where_nothing_can_be_raised():
    compiled = tf.function(lambda labels: one_hot(labels, C), jit_compile=True)
    found = compiled(tf.constant([1, 3, -1])).numpy()
    np.testing.assert_array_equal(found[0], [0, 1, 0])
    assert np.all(np.isnan(found[1:]))


def test_labels_for_a_model_without_classes_are_refused():
    model = IWAE(MLP([5], (4,)), MLP([5], EVENT))
    model.build((None, *EVENT))
    for name, call in CALLS.items():
        if name not in ("fit", "evaluate"):
            with pytest.raises(InvalidInputError, match="`labels` must be left out"):
                call(model, Y)
    with pytest.raises(InvalidInputError, match="`model` must be conditional"):
        iwae_tf.class_log_likelihoods(model, X, 5)


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]]
)
def test_class_probabilities_that_are_none(shares):
    found = iwae_tf.class_log_likelihoods(build(), X, 5)
    for method in (found.log_marginal, found.posterior):
        with pytest.raises(InvalidInputError, match="`class_probabilities` must be 3"):
            method(shares)


def test_the_densities_are_not_to_be_had_without_a_label():
    model = build()
    with pytest.raises(InvalidInputError, match="`labels` must be given"):
        model.latent.encode(X)
    with pytest.raises(InvalidInputError, match=r"on the pair \(x, labels\)"):
        model(X)


def test_every_model_takes_classes():
    for name, model_class in MODELS.items():
        model = build(name)
        assert type(model) is model_class and model.is_conditional
        config = model.get_config()
        again = model_class.from_config(config)
        assert again.num_classes == C and isinstance(again.prior, MLP)
