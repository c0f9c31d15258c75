"""What people who know Keras do: it trains as they expect, or one line says why not."""

import builders
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE

X, LABELS = builders.binary(20), builders.classes(20)
EVENT = X.shape[1:]
WEIGHTS = np.linspace(0.0, 2.0, len(X))
STRATEGIES = {
    "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "one device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
}


def build(*, is_built=True, **settings):
    model = builders.build(**settings)
    if not is_built:  # of the same weights
        model = IWAE(*builders.networks()[:2], num_samples=builders.K)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def fit(model, x=X, *args, **kwargs):
    return model.fit(x, *args, verbose=0, shuffle=False, **kwargs).history


def assert_same(history, other):
    assert history.keys() == other.keys()
    for name, values in other.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


# Ways to train ------------------------------------------------------------------


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_of_one_replica_trains_as_without(strategy, is_built):
    reference = build(is_built=is_built)
    expected, logs = fit(reference, epochs=2), reference.evaluate(X, verbose=0)
    with STRATEGIES[strategy]().scope():
        model = build(is_built=is_built)
        assert_same(fit(model, epochs=2), expected)
        np.testing.assert_allclose(model.evaluate(X, verbose=0), logs, rtol=1e-5)
        assert model.predict(X, verbose=0).shape == X.shape


def of_unknown_length(*parts):
    """A pipeline that does not know how many batches of which shape it has."""
    specs = [tf.as_dtype(part.dtype) for part in parts]

    def forget(*values):
        return tf.py_function(lambda *v: v, values, specs)

    data = tf.data.Dataset.from_tensor_slices(parts).batch(8).map(forget)
    return data.filter(lambda *values: True)


@pytest.mark.parametrize("is_built", [True, False])
def test_a_pipeline_of_unknown_rank_and_length_trains_on_all_epochs(is_built):
    weights = WEIGHTS.astype("float32")
    expected = fit(build(is_built=is_built), X, LABELS, 8, 3, sample_weight=weights)
    found = fit(
        build(is_built=is_built), of_unknown_length(X, LABELS, weights), epochs=3
    )
    assert len(found["loss"]) == 3
    assert_same(found, expected)


def test_a_conditional_model_takes_labels_of_unknown_rank():
    expected = fit(build(labels=True), X, LABELS, 8)
    assert_same(fit(build(labels=True), of_unknown_length(X, LABELS)), expected)


class Steps(keras.callbacks.Callback):
    """Keeps how many steps there are to be, and the highest one that was shown."""

    counts_batches = True
    highest = 0

    def on_train_batch_end(self, batch, logs=None):
        self.highest = max(self.highest, batch + 1)


def test_a_validation_split_counts_the_steps_of_what_is_left():
    steps = Steps()
    found = fit(
        build(), X, batch_size=3, validation_split=0.25, epochs=2, callbacks=steps,
        sample_weight=WEIGHTS,
    )  # fmt: skip
    assert steps.params["steps"] == steps.highest == 5
    expected = fit(
        build(), X[:15], batch_size=3, epochs=2, sample_weight=WEIGHTS[:15],
        validation_data=(X[15:], None, WEIGHTS[15:]),
    )  # fmt: skip
    assert_same(found, expected)


# Kinds of data --------------------------------------------------------------------


def test_labels_and_weights_of_pandas_are_those_of_numpy():
    index = np.arange(len(X))[::-1]
    weights, y = pd.Series(WEIGHTS, index), pd.Series(LABELS, index)
    expected = fit(
        build(labels=True), X, LABELS, sample_weight=WEIGHTS,
        validation_data=(X, LABELS),
    )  # fmt: skip
    model = build(labels=True)
    data = {"sample_weight": weights, "validation_data": (pd.DataFrame(X), y)}
    assert_same(fit(model, pd.DataFrame(X), y, **data), expected)
    np.testing.assert_allclose(
        model.evaluate(X, y, verbose=0), model.evaluate(X, LABELS, verbose=0)
    )
    np.testing.assert_allclose(
        build(labels=True).train_on_batch(X, y),
        build(labels=True).train_on_batch(X, LABELS),
    )


@pytest.mark.parametrize("way", ["fit", "evaluate", "predict", "encode", "log_weights"])
def test_sparse_x_is_told_to_be_made_dense(way):
    sparse = scipy.sparse.csr_matrix(X)
    with pytest.raises(
        InvalidInputError, match=r"`x` must be .*csr_matrix, use its to"
    ):
        getattr(build(), way)(sparse)
