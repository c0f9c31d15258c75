"""Row-weighted parameter gradients against a sum of the gradients of single rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf.networks.dense import Dense, row_weights

RNG = np.random.default_rng(4)
X = RNG.normal(size=[5, 3]).astype(np.float32)
UPSTREAM = RNG.normal(size=[5, 2]).astype(np.float32)
WEIGHTS = np.float32([0.0, 1.0, 2.5, 0.3, 8.0])


def gradients(layer, x, upstream, weights=None):
    """Gradients in the inputs, the kernel and the bias."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    sources = [x, layer.kernel.value, layer.bias.value]
    with row_weights(weights):
        return tape.gradient(outputs, sources, output_gradients=upstream)


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_rows_count_by_their_weight_in_the_parameters_alone(activation, jit_compile):
    keras.utils.set_random_seed(1)
    layer = Dense(2, activation)
    layer.build(X.shape)

    def compute(x, upstream, weights):
        return gradients(layer, x, upstream, weights)

    if jit_compile is not None:
        compute = tf.function(compute, autograph=False, jit_compile=jit_compile)
    in_x, in_kernel, in_bias = compute(X, UPSTREAM, tf.constant(WEIGHTS))
    rows = [gradients(layer, X[i : i + 1], UPSTREAM[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(in_x, np.concatenate([r[0] for r in rows]), atol=1e-6)
    for found, index in ((in_kernel, 1), (in_bias, 2)):
        expected = sum(w * np.asarray(r[index]) for w, r in zip(WEIGHTS, rows))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_without_weights_it_is_keras_own_layer():
    ours = Dense(2, "tanh")
    theirs = keras.layers.Dense.from_config(ours.get_config() | {"name": "theirs"})
    ours.build(X.shape)
    theirs.build(X.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-6)
    for one, other in zip(gradients(ours, X, UPSTREAM), gradients(theirs, X, UPSTREAM)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_weights_hold_within_the_block_alone():
    layer = Dense(2)
    layer.build(X.shape)
    plain = gradients(layer, X, UPSTREAM)
    with pytest.raises(ZeroDivisionError), row_weights(tf.constant(WEIGHTS)):
        raise ZeroDivisionError
    for one, other in zip(gradients(layer, X, UPSTREAM), plain):
        np.testing.assert_array_equal(one, other)


def test_bfloat16_computes_in_bfloat16_and_updates_in_float32():
    layer = Dense(2, dtype="mixed_bfloat16")
    layer.build(X.shape)
    assert layer(X).dtype == tf.bfloat16
    upstream = tf.constant(UPSTREAM, tf.bfloat16)
    _, in_kernel, _ = gradients(layer, X, upstream, tf.constant(WEIGHTS))
    assert in_kernel.dtype == tf.float32
    expected = (WEIGHTS[:, None] * X).T @ UPSTREAM
    np.testing.assert_allclose(in_kernel, expected, atol=0.05 * np.abs(expected).max())
