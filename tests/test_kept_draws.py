"""Forward all draws, backward few: expected gradients, and which draws are kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import (
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
    reloaded,
)

from iwae_tf import bounds
from iwae_tf.models import IWAE, gradients, kept_draws
from iwae_tf.models.bound_model import Batch
from iwae_tf.networks import MLP, WithLabels
from iwae_tf.probability import noise

layers = keras.layers
KEPT, GRID = 2, 1000  # of K draws, and offsets that stand for all of (0, 1)


def batch_of(model, copies=1, positions=None, labels=False):
    """Four examples, each so often, with the same draws in each copy.

    Those with labels are amid a warm-up of the KL term.
    """
    weights = np.float32([0.1, 0.4, 0.2, 0.5]) / copies
    y = tf.constant(np.tile(classes(), copies)) if labels else None
    return Batch(
        tf.constant(np.tile(binary(), [copies, 1])),
        y,
        tf.tile(draw(model), [1, 1, copies, 1]),
        tf.constant(np.tile(weights, copies)),
        positions=positions,
        kl_weight=tf.constant(0.3) if labels else None,
    )


def whole_grid(groups):
    """Positions [M, R, 4 * GRID]: each example meets a grid over (0, 1) of offsets."""
    grid = np.repeat((np.arange(GRID) + 0.5) / GRID, 4)
    positions = (np.arange(KEPT)[:, np.newaxis] + grid) / KEPT
    return tf.constant(np.tile(positions, [groups, 1, 1]), tf.float32)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_those_of_the_table(name):
    """Of the page on few draws backward; none for a row of weight zero."""
    objective = build(name).objective
    size = [M if objective.has_groups else 1, K, 6]
    log_weights = np.random.default_rng(0).normal(0, 3, size)
    normalized = np.exp(log_weights) / np.exp(log_weights).sum(axis=1, keepdims=True)
    share = {"vae": 1.0}.get(name, getattr(objective, "beta", 0.0))
    expected = share / K + (1 - share) * normalized
    expected[..., 2] = 0.0
    example_weights = tf.constant([0.1, 2.0, 0.0, 1.0, 1e-8, 0.5], tf.float64)
    weights = gradients.draw_weights(
        objective, "dreg", tf.constant(log_weights), example_weights
    )
    actual = kept_draws.draw_probabilities(weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_a_group_without_weight_in_one_half_keeps_its_weight_in_the_other():
    """Of the decoder of PIWAE a group 200 nats below the other one has none."""
    log_weights = np.random.default_rng(0).normal(size=[2, K, 1]).astype("float32")
    log_weights[1] -= 200
    log_weights = tf.constant(np.tile(log_weights, 4 * GRID))
    weights = gradients.draw_weights(
        build("piwae").objective, "stl", log_weights, tf.ones([4 * GRID])
    )
    assert not np.any(weights.generative[1])
    kept = kept_draws.keep(weights, log_weights[..., tf.newaxis], whole_grid(2))[1]
    of_all = np.sum(weights.base, axis=1).mean(axis=-1)  # one half a group
    of_kept = np.sum(kept.base, axis=1).mean(axis=-1)
    np.testing.assert_allclose(of_kept, of_all, rtol=0.01)


def test_systematic_resampling_by_hand():
    """A position in each fifth of (0, 1), and the draw whose stretch it falls into."""
    probabilities = np.random.default_rng(1).dirichlet(np.full(7, 0.4), [3, 4])
    probabilities[0, 0] = [0, 0, 0.5, 0, 0.5, 0, 0]
    positions = kept_draws.positions(5, noise.make_key((7, 8)), 0, 4, 3, 7).numpy()
    assert ((5 * positions).astype(int) == np.arange(5)[:, np.newaxis]).all()
    expected = np.empty([3, 5, 4], int)
    for m, r, b in np.ndindex(expected.shape):
        left = positions[m, r, b]
        for k in range(7):
            left -= probabilities[m, b, k]
            if left <= 0:
                break
        expected[m, r, b] = k
    probabilities = tf.constant(probabilities.transpose(0, 2, 1), tf.float32)
    actual = kept_draws.systematic(probabilities, tf.constant(positions))
    np.testing.assert_array_equal(actual, expected)


def test_no_draw_without_weight_is_kept():
    """Nor is there any beyond the last one, at either end of (0, 1)."""
    probabilities = tf.constant([0.0, 1e-30, 0.3, 0.0, 0.7, 1e-30, 0.0])
    positions = tf.constant([2.0**-34, 0.3, 0.30001, 0.5, 1 - 2.0**-24, 1.0])
    chosen = kept_draws.systematic(
        probabilities[tf.newaxis, :, tf.newaxis], positions[tf.newaxis, :, tf.newaxis]
    )
    np.testing.assert_array_equal(np.ravel(chosen), [2, 2, 4, 4, 4, 4])


@pytest.mark.parametrize(
    "name, estimator, num_layers, labels",
    [
        ("iwae", "reparameterized", 1, False),
        ("piwae", "dreg", 1, False),
        *((name, estimator, 2, True) for name in NAMES for estimator in ESTIMATORS),
    ],
)
def test_the_expected_gradient_is_that_of_all_draws(
    name, estimator, num_layers, labels
):
    """The mean over a grid of offsets, which stands for the integral over (0, 1).

    It counts a draw up to 2 / GRID too often or too rarely, of R c_k, and divides by
    that; as v_k <= c_k, the sum over all draws is off by K / GRID at most of a sum of
    absolute values. One offset alone is far from it.
    """
    settings = {"gradient_estimator": estimator, "labels": labels}
    full = build(name, num_layers, **settings)
    few = build(name, num_layers, backward_samples=KEPT, **settings)
    positions = whole_grid(few.num_groups)
    expected = full.loss_gradients(batch_of(full, labels=labels))
    actual = few.loss_gradients(batch_of(few, GRID, positions, labels))
    alone = few.loss_gradients(batch_of(few, 1, positions[..., :4], labels))
    assert_near(actual.gradients, expected.gradients, 2 * K / GRID)
    with pytest.raises(AssertionError):
        assert_near(alone.gradients, expected.gradients, 10 * K / GRID)
    for one, other in zip(alone.bound, expected.bound):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(alone.parts, expected.parts):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 8, 13, 1000])
@pytest.mark.parametrize("name", ["iwae", "piwae"])
def test_draws_go_forward_some_at_a_time(name, rows, monkeypatch):
    """Five draws of four examples: one by one, by twos, by threes, at once."""
    model = build(name, num_layers=2, labels=True)
    batch = batch_of(model, labels=True)
    monkeypatch.setattr(kept_draws, "ROWS_AT_ONCE", rows)
    expected = model.latent.log_weights(batch.x, batch.draws, batch.y)
    actual = kept_draws.forward(model.latent, batch.x, batch.draws, batch.y)
    for one, other in zip(actual, expected):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["iwae", "piwae"])
def test_only_the_kept_draws_go_backward(name):
    def rows_summed_up(model, positions):
        run = tf.function(lambda: model.loss_gradients(batch_of(model, 1, positions)))
        graph = run.get_concrete_function().graph
        products = [op for op in graph.get_operations() if op.type == "MatMul"]
        return {p.inputs[0].shape[0] for p in products if p.get_attr("transpose_a")}

    full, few = build(name), build(name, backward_samples=KEPT)
    draws, groups = 4 * full.num_groups, full.num_groups
    assert rows_summed_up(full, None) == {4, draws * K}
    assert rows_summed_up(few, whole_grid(groups)[..., :4]) == {4, draws * KEPT}


@pytest.mark.xla
def test_training_by_few_draws():
    """In XLA as without."""
    found = []
    for jit_compile in (False, True):
        model = build("iwae", backward_samples=KEPT, gradient_estimator="dreg")
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        data = {"x": binary(10), "batch_size": 4, "shuffle": False, "verbose": 0}
        history = model.fit(**data, epochs=2).history
        found.append([*model.get_weights(), *history.values()])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(set(history["bound"])) == 2


def test_positions_belong_to_rows():
    """So that it does not matter how rows are dealt out to batches and replicas."""
    key = noise.make_key((5, 6))
    whole = kept_draws.positions(KEPT, key, 0, 9, M, K)
    part = kept_draws.positions(KEPT, key, 4, 5, M, K)
    assert whole.shape == (M, KEPT, 9)
    np.testing.assert_array_equal(whole[..., 4:], part)
    assert len(np.unique(whole)) == M * KEPT * 9
    for num_kept in (None, K, K + 1):
        assert kept_draws.positions(num_kept, key, 0, 9, M, K) is None


class Centred(layers.Layer):
    def call(self, inputs):
        return inputs - tf.reduce_mean(inputs, axis=0)


def sequential(*between):
    return keras.Sequential([layers.Dense(3), *between, layers.Dense(4)])


def functional():
    inputs = keras.Input([2])
    centred = inputs - keras.ops.mean(inputs, axis=0)  # no layer
    return keras.Model(inputs, layers.Dense(4)(centred))


def keeps_few(model):
    place = 0, 4, 1, model.num_samples
    return model.positions(noise.make_key((0, 0)), *place) is not None


@pytest.mark.parametrize(
    "decoder",
    [
        sequential(layers.Dropout(0.5)),
        sequential(layers.BatchNormalization()),
        sequential(layers.Dense(3, layers.Dropout(0.1))),
        sequential(layers.Dense(3, activity_regularizer="l2")),
        sequential(sequential(Centred())),
        MLP([5], EVENT, activity_regularizer="l2"),
        MLP([5], EVENT, layers.PReLU()),
        functional(),
    ],
)
def test_layers_that_mix_rows_send_all_draws_backward_and_say_so(decoder):
    with pytest.warns(UserWarning, match="`backward_samples`=2 is not used"):
        model = build("iwae", nets=([MLP([5], (4,))], [decoder]), backward_samples=KEPT)
    assert not keeps_few(model)
    assert model.get_config()["backward_samples"] == KEPT


@pytest.mark.parametrize(
    "decoder",
    [
        sequential(layers.Dense(3, layers.LeakyReLU()), layers.LayerNormalization()),
        sequential(layers.Dense(3, kernel_regularizer="l2"), layers.PReLU()),
        MLP([5], EVENT),
    ],
)
def test_layers_that_do_not_let_few_go_backward(decoder, recwarn):
    nets = [MLP([5], (4,))], [decoder]
    assert keeps_few(build("iwae", nets=nets, backward_samples=KEPT))
    assert not [w for w in recwarn if "backward" in str(w.message)]


def test_layers_within_those_of_labels_are_looked_at():
    nets = MLP([5], (4,)), WithLabels(sequential(layers.Dropout(0.5)))
    with pytest.warns(UserWarning, match="rows of Dropout"):
        IWAE(*nets, num_classes=CLASSES, num_samples=K, backward_samples=KEPT)


def test_the_setting_can_be_changed_and_is_saved(tmp_path):
    model = build("miwae", backward_samples=KEPT)
    assert reloaded(model, tmp_path).backward_samples == KEPT
    assert keeps_few(model)
    model.num_samples = KEPT - 1  # fewer draws than may go backward: all do
    assert not keeps_few(model)
    model.num_samples, model.backward_samples = K, None
    assert not keeps_few(model)


class DecoderAlone(bounds.Objective):
    """Draws that the encoder's bound has no use for count in the decoder's."""

    def __call__(self, log_weights):
        first = tf.reduce_mean(log_weights[:, 0], axis=0)
        return bounds.Bound(self.bound(log_weights), inference=first)

    def bound(self, log_weights):
        return bounds.renyi(log_weights, 0.5)


def test_a_bound_of_ones_own_has_the_expected_gradient_of_all_draws():
    full = build("iwae", objective=DecoderAlone())
    few = build("iwae", objective=DecoderAlone(), backward_samples=KEPT)
    positions = whole_grid(few.num_groups)
    expected = full.loss_gradients(batch_of(full))
    actual = few.loss_gradients(batch_of(few, GRID, positions))
    assert_near(actual.gradients, expected.gradients, 4 * K / GRID)
