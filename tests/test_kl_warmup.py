"""The weight of the KL term: gradients by autodiff and quadrature, and its schedule."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import NAMES, assert_near, binary, build, classes, draw, halves

from iwae_tf.config import default_config, stages
from iwae_tf.models import gradients
from iwae_tf.models.bound_model import Batch
from iwae_tf.networks import MLP
from iwae_tf.runs import training

WEIGHT = 0.3


@pytest.mark.parametrize("weight", [WEIGHT, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_weighted_bound(name, weight):
    """By one tape over log p(x|z) + b (log p(z) - log q(z|x))."""
    model, y = build(name, num_layers=2, labels=True), tf.constant(classes())
    x, draws = tf.constant(binary()), draw(model)
    scale = tf.constant([0.1, 0.4, 0.2, 0.5])
    batch = Batch(x, y, draws, scale, kl_weight=tf.constant(weight))
    result = model.loss_gradients(batch)
    with tf.GradientTape(persistent=True) as tape:
        parts = model.latent.log_weights(x, draws, y)
        log_w = parts[0] + weight * (parts[1] - parts[2])
        bound = model.objective(log_w)
        losses = [-tf.reduce_sum(scale * each) for each in bound]
    generative, inference = (
        halves(model, tape.gradient(loss, model.trainable_variables, None, "zero"))
        for loss in losses
    )
    encoder, decoder = halves(model, result.gradients)
    assert_near(encoder, inference[0])
    assert_near(decoder, generative[1])
    for one, other in zip(result.bound, model.objective(sum(parts[:2]) - parts[2])):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def quadrature(num_noises, num_nodes):
    """Every combination of Gauss-Hermite nodes, [rows, noises], and its weight."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    grid = np.array(list(itertools.product(nodes, repeat=num_noises)))
    weights = itertools.product(weights / weights.sum(), repeat=num_noises)
    return grid.astype("float32"), np.prod(list(weights), axis=1).astype("float32")


@pytest.mark.parametrize(
    "name, num_groups, num_layers, num_nodes",
    [
        ("vae", 1, 1, 30),
        ("iwae", 1, 1, 30),
        ("ciwae", 1, 1, 30),
        ("iwae", 1, 2, 10),
        ("miwae", 2, 1, 10),
        ("piwae", 2, 1, 10),
    ],
)
def test_dreg_has_the_expectation_of_the_plain_gradient(
    name, num_groups, num_layers, num_nodes
):
    """Two draws a group of latents of one unit: the expectation is a quadrature."""
    keras.utils.set_random_seed(7)
    nets = [[MLP([4], (2,)) for _ in range(num_layers)] for _ in "qp"]
    groups = {} if num_groups == 1 else {"num_groups": num_groups}
    settings = {"num_samples": 2, "event": (2,), **groups}
    model = build(name, nets=nets, **settings)
    rng = np.random.default_rng(8)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    grid, weights = quadrature(2 * num_groups * num_layers, num_nodes)
    draws = grid.reshape(-1, num_groups, 2, num_layers).transpose(1, 2, 0, 3)
    x = np.tile(np.float32([[1, 0]]), [len(grid), 1])
    batch = Batch(*map(tf.constant, (x, 0, draws, weights)))
    batch = batch._replace(y=None, kl_weight=tf.constant(WEIGHT))
    found = []
    for estimator in ("reparameterized", "dreg", "stl"):
        model.gradient_estimator = estimator
        found.append(halves(model, model.loss_gradients(batch).gradients)[0])
    plain, dreg, stl = found
    assert_near(dreg, plain, 5e-3)
    if name != "vae":  # the premise: it could have been another
        with pytest.raises(AssertionError):
            assert_near(stl, plain, 0.03)


def test_the_weight_grows_with_the_steps():
    model, seen = build("iwae", kl_warmup_steps=4), []
    model.compile("sgd", run_eagerly=True, jit_compile=False)
    original = model.loss_gradients

    def record(batch):
        seen.append(float(batch.kl_weight))
        return original(batch)

    model.loss_gradients = record
    history = model.fit(binary(), batch_size=4, epochs=6, verbose=0).history
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert model.get_config()["kl_warmup_steps"] == 4
    # What is logged has the whole KL term: as without a warm-up, at the first step.
    plain = build("iwae")
    plain.compile("sgd", run_eagerly=True, jit_compile=False)
    expected = plain.fit(binary(), batch_size=4, verbose=0).history
    for name, values in expected.items():
        assert history[name][0] == pytest.approx(values[0], rel=1e-5), name
    assert history["bound"][1] != pytest.approx(history["bound"][0])
    assert gradients.kl_weight(tf.constant(3, tf.int64), 0) is None


def test_epochs_of_a_config_are_steps_of_its_model():
    config = default_config()
    config.stages = [(1, 2, 1e-3, 1e-3), (2, 2, 1e-3, 1e-3)]
    config.epochs, config.num_samples, config.kl_warmup_epochs = 4, 2, 3
    config.latent_dims, config.hidden_dims = [2], [[3]]
    assert len(stages(config)) == 2
    images = np.zeros([4, 28, 28, 1], "float32")
    assert training.compiled_model(config, images, 5).kl_warmup_steps == 15
