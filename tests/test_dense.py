"""Recorded calls of dense layers, and the row-weighted gradients made of them."""

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.models.one_pass import Records
from iwae_tf.networks.mlp import Dense

RNG = np.random.default_rng(4)
X = RNG.normal(size=[5, 3]).astype(np.float32)
UPSTREAM = RNG.normal(size=[5, 2]).astype(np.float32)


def gradients(layer, x, upstream, records=None):
    """Gradients in the inputs, the kernel, the bias and what was recorded."""
    x = tf.convert_to_tensor(x)
    keywords = {} if records is None else {"records": records}
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, **keywords)
    recorded = [] if records is None else [output for *_, output in records.calls]
    sources = [x, layer.kernel.value, layer.bias.value, *recorded]
    return tape.gradient(outputs, sources, output_gradients=upstream)


def test_it_is_keras_own_layer():
    ours = Dense(2, "tanh")
    theirs = keras.layers.Dense.from_config(ours.get_config() | {"name": "theirs"})
    ours.build(X.shape)
    theirs.build(X.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-6)
    for one, other in zip(gradients(ours, X, UPSTREAM), gradients(theirs, X, UPSTREAM)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_bfloat16_computes_in_bfloat16_and_updates_in_float32():
    layer, records = Dense(2, dtype="mixed_bfloat16"), Records()
    layer.build(X.shape)
    upstream = tf.constant(UPSTREAM, tf.bfloat16)
    _, in_kernel, _, signal = gradients(layer, X, upstream, records)
    assert layer(X).dtype == signal.dtype == tf.bfloat16
    assert in_kernel.dtype == tf.float32
    expected = X.T @ UPSTREAM
    np.testing.assert_allclose(in_kernel, expected, atol=0.05 * np.abs(expected).max())
