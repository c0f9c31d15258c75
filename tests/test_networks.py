"""The fully connected network against a forward pass in NumPy."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from builders import reloaded

from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP, WithLabels

RNG = np.random.default_rng(1)
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "silu": lambda v: v * scipy.special.expit(v),
}
ONE_HOT = np.eye(4, dtype=np.float32)
SHAPES = [((5,), (3,)), ((4, 3, 1), (6,)), ((2,), (4, 3, 1)), ((3, 2), (2, 2))]


def randomized(network, input_shape):
    """`network`, built, with no weight left at zero."""
    if not network.built:
        network.build((None, *input_shape))
    weights = [RNG.normal(0, 0.5, weight.shape) for weight in network.get_weights()]
    network.set_weights(weights)
    return network


def forward(network, inputs, activation=np.tanh):
    """The same network in float64."""
    outputs = inputs.reshape([len(inputs), np.prod(inputs.shape[1:])])
    *hidden, kernel, bias = map(np.float64, network.get_weights())
    for weights, offset in zip(hidden[::2], hidden[1::2]):
        outputs = activation(outputs @ weights + offset)
    return (outputs @ kernel + bias).reshape([len(inputs), *network.row_shape])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("input_shape, output_shape", SHAPES)
@pytest.mark.parametrize("hidden_dims", [(), (7,), (7, 4, 8)])
def test_forward_pass(hidden_dims, input_shape, output_shape, activation):
    network = MLP(hidden_dims, output_shape, activation=activation)
    randomized(network, input_shape)
    assert len(network.trainable_variables) == 2 * len(hidden_dims) + 2
    for rows in (1, 6):
        inputs = np.float32(RNG.normal(size=[rows, *input_shape]))
        outputs = network(inputs)
        assert outputs.shape == (rows, *output_shape)
        expected = forward(network, inputs, ACTIVATIONS[activation])
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_graph_with_any_number_of_rows():
    network = randomized(MLP([7], (2, 3)), (4, 3, 1))  # tanh, by default
    signature = [tf.TensorSpec([None, 4, 3, 1], tf.float32)]
    compiled = tf.function(network, input_signature=signature)
    inputs = np.float32(RNG.normal(size=[6, 4, 3, 1]))
    for rows in (0, 1, 5, 6):
        found, expected = compiled(inputs[:rows]), forward(network, inputs[:rows])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    parts = np.concatenate([network(inputs[:2]), network(inputs[2:])])
    np.testing.assert_allclose(network(inputs), parts, rtol=1e-5, atol=1e-6)


def test_static_shapes():
    network = MLP([7], (2, 3))
    assert network.compute_output_shape((None, 4, 3)) == (None, 2, 3)
    assert network(keras.KerasTensor((1, 4, 3))).shape == (1, 2, 3)
    functional = keras.Sequential([keras.Input((4, 3)), network])
    assert functional.output_shape == (None, 2, 3)


def test_every_variable_gets_the_exact_gradient():
    network = randomized(MLP([4], (2,)), (3,))
    inputs = np.float32(RNG.normal(size=[5, 3]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(inputs) ** 2)
    gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
    weights, step = network.get_weights(), 1e-2
    for position, gradient in enumerate(gradients):
        index = (0,) * gradient.ndim
        losses = []
        for sign in (1, -1):
            moved = [weight.copy() for weight in weights]
            moved[position][index] += sign * step
            network.set_weights(moved)
            losses.append((forward(network, inputs) ** 2).sum())
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(gradient.numpy()[index], slope, rtol=1e-2, atol=1e-2)


# Where the output starts.


BIAS = np.float32(RNG.normal(size=[4, 3, 1]))


@pytest.mark.parametrize("bias", [BIAS, BIAS.tolist(), None])
def test_output_bias(bias):
    network = MLP([7], (4, 3, 1), output_bias=bias)
    outputs = network(np.zeros([2, 5], np.float32))  # tanh(0) = 0 leaves the bias
    expected = np.zeros([4, 3, 1]) if bias is None else BIAS
    np.testing.assert_allclose(outputs, [expected, expected], rtol=1e-6)
    assert any(v is network.out.bias for v in network.trainable_variables)


@pytest.mark.parametrize("bias", [[1.0, 2.0], [0.0] * 4, 1.0])
def test_output_bias_of_another_size_is_refused(bias):
    with pytest.raises(ValueError, match="output_bias"):
        MLP([7], (3,), output_bias=bias).build((None, 5))


# The initial weights.


def initial_weights(seed):
    network = MLP([6, 6], (6,), seed=seed)
    network.build((None, 6))
    return [v.numpy() for v in network.trainable_variables]


def test_initial_weights_are_a_function_of_the_seed():
    first, again, other, unseeded = map(initial_weights, (3, 3, 40, None))
    assert all(map(np.array_equal, first, again))
    kernels = [*first[::2], *other[::2], *unseeded[::2]]
    assert len(np.unique(kernels, axis=0)) == len(kernels) == 9
    assert np.all(np.abs(kernels) <= np.sqrt(6 / 12))  # Glorot's range
    assert np.abs(kernels).max() > 0.9 * np.sqrt(6 / 12)
    assert all(not np.any(bias) for bias in first[1::2])


# Serialisation.


@pytest.mark.parametrize("activation", ["tanh", "silu", keras.activations.softsign])
def test_config_round_trip(activation):
    bias = np.float32([0.5, -1, 2, 3])
    network = MLP((7, 4), (2, 2), activation, bias, seed=5, name="decoder")
    randomized(network, (5,))
    config = network.get_config()
    restored = MLP.from_config(config)
    assert restored.get_config() == config
    assert restored.name == "decoder" and restored.seed == 5
    assert restored.hidden_dims == (7, 4) and restored.row_shape == (2, 2)
    assert restored.activation is network.activation
    restored.build((None, 5))
    restored.set_weights(network.get_weights())
    inputs = np.float32(RNG.normal(size=[6, 5]))
    np.testing.assert_array_equal(restored(inputs), network(inputs))


@pytest.mark.parametrize("bias", [None, [0.5, -1.0, 2.0]])
def test_saved_file_round_trip(tmp_path, bias):
    network = MLP([7], (3,), "relu", output_bias=bias)
    model = keras.Sequential([keras.Input((4, 3, 1)), network])
    randomized(network, (4, 3, 1))
    restored = reloaded(model, tmp_path)
    assert isinstance(restored.layers[0], MLP)
    inputs = np.float32(RNG.normal(size=[6, 4, 3, 1]))
    np.testing.assert_array_equal(restored(inputs), model(inputs))


# Precision.


def test_float64():
    network = randomized(MLP([7], (3,), dtype="float64"), (5,))
    inputs = RNG.normal(size=[6, 5])
    outputs = network(inputs)
    assert outputs.dtype == tf.float64
    assert all(v.dtype == "float64" for v in network.variables)
    np.testing.assert_allclose(outputs, forward(network, inputs), rtol=1e-12)


def test_mixed_precision():
    network = randomized(MLP([7], (3,), dtype="mixed_bfloat16"), (5,))
    inputs = np.float32(RNG.normal(size=[6, 5]))
    outputs = network(inputs)
    assert outputs.dtype == tf.bfloat16
    assert all(v.dtype == "float32" for v in network.variables)
    # 8 bits of precision in inputs, weights, hidden units and outputs of order 1
    expected = forward(network, inputs)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.05)
    assert np.abs(np.asarray(outputs, np.float32) - expected).max() > 1e-5


def test_config_round_trip_keeps_the_policy():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = randomized(MLP([7], (3,)), (5,))
    finally:
        keras.config.set_dtype_policy(policy)
    config = keras.saving.serialize_keras_object(network)
    restored = keras.saving.deserialize_keras_object(config)  # builds it, too
    restored.set_weights(network.get_weights())
    inputs = np.float32(RNG.normal(size=[6, 5]))
    assert restored.compute_dtype == "bfloat16"
    found, expected = (tf.cast(n(inputs), tf.float32) for n in (restored, network))
    np.testing.assert_array_equal(found, expected)


# Mistakes that Keras tells.


@pytest.mark.parametrize(
    "arguments", [([-1], (3,)), ([0], (3,)), ([4], (0,)), ([4], (3,), "tangent")]
)
def test_impossible_networks_are_refused(arguments):
    with pytest.raises(ValueError):
        MLP(*arguments)


def test_a_layer_as_activation(tmp_path):
    keras.utils.set_random_seed(2)
    model = IWAE(MLP([5, 5], (4,), keras.layers.PReLU()), MLP([5], (3,)), num_samples=2)
    model.build((None, 3))
    alpha = model.encoder[0].activation.alpha
    assert any(v is alpha for v in model.trainable_variables)
    model.compile("sgd", run_eagerly=True)
    before, x = alpha.numpy(), np.eye(3, dtype="float32")
    model.fit(x, verbose=0)
    assert np.all(alpha.numpy() != before)
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded.encoder[0].activation.alpha, alpha)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_a_layer_as_activation_must_fit_all_hidden_layers():
    with pytest.raises(InvalidInputError, match=r"^`activation` .*=\(5, 6\)$"):
        MLP([5, 6], (4,), keras.layers.PReLU()).build((None, 3))
    one = keras.layers.PReLU(shared_axes=[1])
    network = MLP([5, 6], (4,), one)
    network.build((None, 3))
    assert network(np.zeros([2, 3], "float32")).shape == (2, 4)


# Labels.


def test_inputs_of_a_list_are_flattened_and_concatenated():
    x, labels = np.float32(RNG.normal(size=(5, 2, 3))), ONE_HOT[[0, 3, 1, 1, 2]]
    network = MLP([7], (3, 2), seed=1)
    flat = np.concatenate([x.reshape(5, 6), labels], axis=1)
    found = network([x, labels])
    np.testing.assert_allclose(found, forward(network, flat), atol=1e-6)
    assert network.compute_output_shape([(5, 2, 3), (5, 4)]) == (5, 3, 2)


@pytest.mark.parametrize("shape", [(6,), (5, 4, 2)])
def test_with_labels_appends_them_to_the_last_axis(shape):
    """A vector gets more elements, an image constant channels."""
    x, labels = np.float32(RNG.normal(size=(3, *shape))), ONE_HOT[[2, 0, 3]]
    layer = WithLabels(keras.layers.Activation("linear"))
    found = layer([x, labels]).numpy()
    assert found.shape == (3, *shape[:-1], shape[-1] + 4)
    np.testing.assert_array_equal(found[..., : shape[-1]], x)
    for row, label in zip(found, labels):
        appended = row[..., shape[-1] :].reshape(-1, 4)
        np.testing.assert_array_equal(appended, np.tile(label, (len(appended), 1)))
    symbolic = layer([keras.KerasTensor((3, *shape)), keras.KerasTensor((3, 4))])
    assert symbolic.shape == found.shape


def test_with_labels_is_as_good_as_its_network(tmp_path):
    """It passes `training` and row weights on, and is saved with its weights."""
    assert WithLabels(MLP([3], (2,))).takes_records
    assert WithLabels(MLP([3], (2,))).rows_are_independent
    assert not WithLabels(keras.layers.Dense(2)).takes_records
    dropout = WithLabels(keras.layers.Dropout(0.5))
    x = np.ones([4, 50], "float32")
    assert np.all(dropout([x, ONE_HOT])[:, :50] == 1)
    assert np.any(dropout([x, ONE_HOT], training=True)[:, :50] == 0)
    inputs = [keras.Input((6,)), keras.Input((4,))]
    network = WithLabels(keras.Sequential([keras.layers.Dense(3), MLP([2], (2,))]))
    model = keras.Model(inputs, network(inputs))
    loaded = reloaded(model, tmp_path)
    rows = [np.float32(RNG.normal(size=(4, 6))), ONE_HOT]
    np.testing.assert_allclose(model(rows), loaded(rows), atol=1e-6)
