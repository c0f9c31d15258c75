"""What people who know Keras do: it trains as they expect, or one line says why not."""

import os
import re
import subprocess
import sys

import builders
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import tensorflow as tf
from running import refusal
from tensorflow_probability import distributions as tfd

import iwae_tf
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE, MIWAE, bound_model
from iwae_tf.networks import MLP, TwoHeads
from iwae_tf.probability import noise

X, LABELS = builders.binary(20), builders.classes(20)
EVENT = X.shape[1:]
TRAIN = ("--config=mnist5k_iwae", "--workdir=nowhere")
WEIGHTS = np.linspace(0.0, 2.0, len(X))
SCALE = tf.Variable(1.0, name="scale")
STRATEGIES = {
    "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "one device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
}


def build(*, is_built=True, compiled=None, **settings):
    model = builders.build(**settings)
    if not is_built:  # of the same weights
        model = IWAE(*builders.networks()[:2], num_samples=builders.K)
    model.compile(keras.optimizers.SGD(0.1), **compiled or {"jit_compile": False})
    return model


def fit(model, x=X, *args, **kwargs):
    return model.fit(x, *args, verbose=0, shuffle=False, **kwargs).history


def assert_same(history, other, rtol=1e-5):
    assert history.keys() == other.keys()
    for name, values in other.items():
        np.testing.assert_allclose(history[name], values, rtol=rtol, err_msg=name)


def assert_refused(rule, function, *args, **kwargs):
    message = refusal(function, *args, **kwargs)
    assert re.search(rule, message), message
    return message


# Ways to train ------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy, is_built", [("mirrored", False), ("one device", True)]
)
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


@pytest.mark.parametrize("way", ["fit", "evaluate", "validation_data"])
def test_weights_of_arrays_count_without_labels(way):
    """Rows that weigh nothing, in a batch of their own, as if they were not there."""
    size = len(X) // 2
    weights = np.repeat([1.0, 0.0], size)
    run, other = (build(compiled={"run_eagerly": True}) for _ in range(2))
    if way == "fit":
        found = fit(run, X, batch_size=size, sample_weight=weights)
        expected = fit(other, X[:size], batch_size=size)
    elif way == "evaluate":
        found = run.evaluate(X, sample_weight=weights, verbose=0, return_dict=True)
        expected = other.evaluate(X[:size], verbose=0, return_dict=True)
    else:
        found = fit(run, X, validation_data=(X, None, weights))
        expected = fit(other, X, validation_data=(X[:size],))
    assert_same(found, expected)


def batches_of_ones_own():
    yield X, LABELS


@pytest.mark.parametrize(
    "way, name, make",
    [
        ("fit", "y", lambda: tf.data.Dataset.from_tensors(X)),
        ("fit", "sample_weight", lambda: tf.data.Dataset.from_tensors(X)),
        ("evaluate", "sample_weight", lambda: tf.data.Dataset.from_tensors(X)),
        ("fit", "sample_weight", batches_of_ones_own),
        ("fit", "class_weight", batches_of_ones_own),
        ("fit", "class_weight", lambda: X),
    ],
)
def test_what_would_be_left_out_is_refused(way, name, make):
    given = {"y": LABELS, "sample_weight": WEIGHTS, "class_weight": {0: 1.0}}[name]
    rule = f"`{name}` must be left out w"
    assert_refused(rule, getattr(build(), way), make(), **{name: given})


def test_labels_and_weights_of_pandas_are_those_of_numpy():
    index = np.arange(len(X))[::-1]
    weights, y = pd.Series(WEIGHTS, index), pd.Series(LABELS, index)
    settings = {"labels": True, "compiled": {"run_eagerly": True}}
    expected = fit(
        build(**settings), X, LABELS, sample_weight=WEIGHTS,
        validation_data=(X, LABELS),
    )  # fmt: skip
    model = build(**settings)
    data = {"sample_weight": weights, "validation_data": (pd.DataFrame(X), y)}
    assert_same(fit(model, pd.DataFrame(X), y, **data), expected)
    np.testing.assert_allclose(
        model.evaluate(X, y, verbose=0), model.evaluate(X, LABELS, verbose=0)
    )
    np.testing.assert_allclose(
        build(**settings).train_on_batch(X, y),
        build(**settings).train_on_batch(X, LABELS),
    )


@pytest.mark.parametrize("way", ["fit", "evaluate", "predict", "encode", "log_weights"])
def test_sparse_x_is_told_to_be_made_dense(way):
    sparse = scipy.sparse.csr_matrix(X)
    with pytest.raises(
        InvalidInputError, match=r"`x` must be .*csr_matrix, use its to"
    ):
        getattr(build(), way)(sparse)


# Likelihoods of one's own ---------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
def logit_normal(parameters):
    loc, log_scale = tf.split(parameters, 2, axis=-1)
    return tfd.Independent(tfd.LogitNormal(loc, tf.exp(log_scale)), 1)


@keras.saving.register_keras_serializable("tests")
def normal_in_float64(parameters):
    loc, log_scale = tf.split(tf.cast(parameters, tf.float64), 2, axis=-1)
    return tfd.Independent(tfd.Normal(loc, tf.exp(log_scale)), 1)


def of_likelihood(likelihood):
    nets = builders.networks(likelihood="normal")
    model = builders.build(nets=nets, likelihood=likelihood)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    return model


def test_a_likelihood_without_a_mean_does_all_that_needs_none(tmp_path):
    model, x = of_likelihood(logit_normal), 0.1 + 0.8 * X
    assert not model.has_mean and of_likelihood("normal").has_mean
    # Weights of zero make q(z|x) the prior and p(x|z) that of two standard normals.
    for variable in model.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    scores = iwae_tf.log_likelihood(model, x, num_samples=20).estimate
    logits = np.log(x) - np.log1p(-x)
    density = scipy.stats.norm.logpdf(logits) - np.log(x) - np.log1p(-x)
    np.testing.assert_allclose(scores, density.sum(axis=1), rtol=1e-5)
    assert np.isfinite(fit(model, x)["loss"]).all()
    assert model.sample(3).shape == (3, *EVENT)
    scores = iwae_tf.log_likelihood(model, x, num_samples=20).estimate
    again = builders.reloaded(model, tmp_path)
    path = iwae_tf.export_saved_model(again, tmp_path / "served", num_samples=20)
    served = tf.saved_model.load(str(path)).signatures
    assert sorted(served) == [
        *("encode", "error_bars", "log_likelihood", "refined_log_likelihood"),
        *("sample", "serving_default"),
    ]
    assert set(served["sample"].structured_outputs) == {"sample"}
    found = served["serving_default"](x=tf.constant(x))["log_likelihood"]
    np.testing.assert_allclose(found, scores, rtol=1e-5)
    for way in (model, model.predict, model.reconstruct):
        assert_refused("`likelihood` must have a mean", way, x)


def test_a_likelihood_in_float64_is_that_in_float32():
    model, reference = of_likelihood(normal_in_float64), of_likelihood("normal")
    weights, expected = (m.log_weights(X, 2, 3) for m in (model, reference))
    assert weights.dtype == tf.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)
    assert_same(fit(model), fit(reference), rtol=1e-3)
    for found, means in zip((model(X), model.sample(2)), (reference(X), None)):
        assert found.dtype == tf.float32
        assert means is None or np.allclose(found, means, rtol=1e-3)


@pytest.mark.parametrize(
    "likelihood, rule",
    [
        (lambda p: tfd.Independent(tfd.Normal(p, np.float64(1)), 1), "a TFP distribut"),
        (lambda p: p, "a TFP distribution"),
        (lambda p: tfd.Normal(p, 1.0), r"batch shape \[rows\].*Received: batch shape"),
        (lambda p: tfd.Independent(tfd.Normal(p, SCALE), 1), "a keras.Layer .*scale"),
        (lambda p: tfd.Independent(tfd.Normal(p, 2 * SCALE), 1), "a keras.Layer"),
    ],
)
def test_a_likelihood_that_fails_is_told_by_its_name(likelihood, rule):
    model = IWAE(*builders.networks()[:2], likelihood=likelihood)
    assert_refused(f"`likelihood` must .*{rule}", model.build, (None, *EVENT))


# Files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_hdf5_is_refused_before_it_is_written(tmp_path, name):
    model, path = build(), tmp_path / name
    assert_refused("`filepath` must end in .keras", model.save, path)
    assert not list(tmp_path.iterdir())
    save = keras.saving.save_model
    assert_refused("`filepath` must end in .keras", save, model, path)


def test_keras_export_serves_what_a_call_returns(tmp_path):
    model = build(compiled={"run_eagerly": True})
    fit(model)
    model.save(tmp_path / "a.keras")
    keras.models.load_model(tmp_path / "a.keras").export(tmp_path / "b", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "b"))
    np.testing.assert_allclose(loaded.serve(X), model(X), rtol=1e-5)


@pytest.mark.parametrize(
    "model, received",
    [
        (lambda: IWAE(*builders.networks()[:2]), "without variables"),
        (lambda: build(labels=True), "a conditional one"),
    ],
)
def test_keras_export_names_ours_where_it_cannot_do(tmp_path, model, received):
    rule = f"use iwae_tf.export_saved_model.*Received: .*{received}"
    assert_refused(rule, model().export, tmp_path / "a")


# Loops of one's own ---------------------------------------------------------------


def test_a_loop_of_ones_own_takes_the_steps_of_fit():
    """Without dropout, and from the same noise."""
    model, reference = build(num_samples=50), build(num_samples=50)
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            weights = model.log_weights(x, num_samples=50, training=True)
            loss = -tf.reduce_mean(iwae_tf.bounds.iwae(weights))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    key = noise.make_key((0, 0))
    batch = bound_model.Batch(
        tf.constant(X), None, reference.latent.draw_noise(key, 0, len(X), 1, 50),
        tf.fill([len(X)], 1 / len(X)),
    )  # fmt: skip
    expected = reference.loss_gradients(batch)
    before = [variable.numpy() for variable in model.trainable_variables]
    assert float(step(X)) == pytest.approx(
        -np.mean(expected.bound.generative), rel=1e-5
    )
    for start, variable, gradient in zip(
        before, model.trainable_variables, expected.gradients
    ):
        np.testing.assert_allclose(start - 0.1 * gradient, variable, atol=1e-5)


@pytest.mark.parametrize("graphs", [None])  # in place of the fixture: as for users
def test_layers_that_mix_rows_train_under_xla_before_a_build(graphs):
    decoder = keras.Sequential([keras.layers.BatchNormalization(), DENSE(4)])
    model = IWAE(MLP(5, 4), decoder, num_samples=builders.K)
    model.compile(jit_compile=True)
    assert np.isfinite(model.train_on_batch(X)).all()
    assert len(model.trainable_variables) == 8


def test_a_step_of_evaluation_needs_no_compile():
    model = IWAE(MLP(5, 4), MLP(5, EVENT), num_samples=builders.K)
    assert np.isfinite(model.test_step(X)["bound"])


def test_a_frozen_network_is_frozen_with_what_is_inside_it(tmp_path):
    """When it is made, and in a loaded model, whose optimiser is that of the rest."""
    model = build(nets=(MLP(5, 4, trainable=False), MLP(5, EVENT)))
    model.compile("adam")
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        assert len(one.trainable_variables) == len(one.decoder[0].weights) == 4
    assert_same(fit(loaded), fit(model))


def test_training_is_how_the_networks_are_called():
    encoder, decoder, _ = builders.networks()
    encoder = keras.Sequential([keras.layers.Dropout(0.9, seed=1), *encoder])
    model = builders.build(nets=(encoder, decoder))
    calm, dropped = (model.log_weights(X, training=t) for t in (False, True))
    np.testing.assert_array_equal(calm, model.log_weights(X))
    assert np.abs(calm - dropped).max() > 0.1


@pytest.mark.parametrize("labels", [False, True])
def test_log_likelihood_is_the_same_inside_a_function(labels):
    model = build(labels=labels)
    given = {"labels": tf.constant(LABELS, tf.int32)} if labels else {}

    @tf.function(input_signature=[tf.TensorSpec([None, *EVENT])])
    def score(x):
        return iwae_tf.log_likelihood(model, x, num_samples=7, seed=(1, 2), **given)

    expected = iwae_tf.log_likelihood(model, X, num_samples=7, seed=(1, 2), **given)
    for found, value in zip(score(X), expected):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


# Settings around the model --------------------------------------------------------


def test_another_backend_of_keras_is_told_at_import():
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    for start in (["-c", "import iwae_tf"], ["-m", "iwae_tf.train", *TRAIN]):
        done = subprocess.run(
            [sys.executable, *start], env=environment, capture_output=True, text=True
        )
        line = done.stderr.splitlines()[-1]
        assert "`KERAS_BACKEND` must be tensorflow" in line
        assert line.endswith("Received: KERAS_BACKEND=torch")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_numerics_that_are_checked_let_a_model_train():
    tf.debugging.enable_check_numerics()
    try:
        model = builders.build("piwae", gradient_estimator="dreg")
        model.compile(keras.optimizers.SGD(0.1))
        assert not model.jit_compile
        assert np.isfinite(fit(model)["loss"]).all()
        rule = "tf.debugging must be off for `log_likelihood`"
        assert_refused(rule, iwae_tf.log_likelihood, model, X)
    finally:
        tf.debugging.disable_check_numerics()
    assert iwae_tf.log_likelihood(model, X, num_samples=2).estimate.shape == (20,)


# Networks -------------------------------------------------------------------------


class LogVariance(keras.Layer):
    """Twice the log-scale that a network returns with loc, and a third output."""

    def __init__(self, network, factor, **kwargs):
        super().__init__(**kwargs)
        self.network, self.factor = network, factor

    def call(self, inputs):
        loc, log_scale = keras.ops.split(self.network(inputs), 2, axis=-1)
        return loc, self.factor * log_scale, loc + 1.0


@pytest.mark.parametrize("second, factor", [("log_variance", 2.0), ("log_scale", 1.0)])
def test_two_outputs_are_loc_and_what_is_said(second, factor):
    encoder, decoder, _ = builders.networks()
    apart = LogVariance(encoder[0], factor)
    assert_refused("`encoder` of layer 1 must return one tensor.*TwoHeads.*tuple of 3",
                   IWAE(apart, decoder).build, (None, *EVENT))  # fmt: skip
    two_heads = TwoHeads(apart, second)
    model, reference = IWAE(two_heads, decoder), IWAE(encoder, decoder)
    np.testing.assert_allclose(
        model.log_weights(X), reference.log_weights(X), rtol=1e-5, atol=1e-5
    )


def test_two_heads_are_saved_and_check_what_they_are_given(tmp_path):
    inputs = keras.Input(EVENT)
    heads = [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)]
    encoder = TwoHeads(keras.Model(inputs, heads), "log_variance")
    model = IWAE(encoder, builders.networks()[1])
    weights = model.log_weights(X)
    again = builders.reloaded(model, tmp_path)
    np.testing.assert_array_equal(again.log_weights(X), weights)
    assert_refused("`second` must be one of log_scale, log_v", TwoHeads, encoder, "std")
    one = TwoHeads(builders.networks()[0][0], "log_scale")
    rule = "`encoder` of layer 1 must .*`network` must return a list, loc and log_scale"
    assert_refused(rule, IWAE(one, MLP(5, 4)).build, (None, *EVENT))


def test_one_size_may_be_a_number():
    keras.utils.set_random_seed(1)
    one = MLP(5, 8, seed=3)
    np.testing.assert_array_equal(one(X), MLP([5], (8,), seed=3)(X))
    assert MLP.from_config(one.get_config()).row_shape == (8,)
    for sizes in (([5], 0), ([5.5], 8), (None, 8)):
        assert_refused("must be a positive integer", MLP, *sizes)


def test_an_optimizer_or_a_seed_that_is_none_is_told_at_once():
    assert_refused("`optimizer` must be a Keras opt", builders.build().compile, None)
    for seed in ("a", 1.5):
        assert_refused("`seed` must be an integer", MLP, [5], 8, seed=seed)
    first = MLP([5], 8, seed=np.int64(3))(X)
    np.testing.assert_array_equal(first, MLP([5], 8, seed=3)(X))


@pytest.mark.parametrize(
    "model, keywords, end",
    [
        (IWAE, {"num_sample": 5}, "Received: num_sample=5. Did you mean num_samples?"),
        (MIWAE, {"beta": 0.5}, "MIWAE has no such argument. Received: beta=0.5"),
    ],
)
def test_an_argument_that_no_model_has_is_told(model, keywords, end):
    message = assert_refused(
        "must be left out", model, *builders.networks()[:2], **keywords
    )
    assert message.endswith(end)


def test_a_shape_that_does_not_fit_is_told_as_the_users_layer():
    model = IWAE(MLP(5, 4), MLP(5, 7), likelihood="normal")
    rule = r"must return .*\(8,\), 2 x 4 values for loc"
    message = assert_refused(rule, model.build, (None, *EVENT))
    assert message.endswith("Received: rows of shape (7,)")


def functional(*layers):
    inputs = outputs = keras.Input((2,))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


DENSE = keras.layers.Dense
SIGMOIDS = {
    "dense": lambda: DENSE(4, "sigmoid"),
    "sequential": lambda: keras.Sequential([DENSE(4, "sigmoid"), RESHAPE(EVENT)]),
    "functional": lambda: functional(DENSE(4, "sigmoid"), RESHAPE(EVENT)),
    "operation": lambda: functional(DENSE(4), keras.ops.sigmoid),
    "nested": lambda: keras.Sequential([functional(DENSE(4, "hard_sigmoid"))]),
}
RESHAPE = keras.layers.Reshape


@pytest.mark.parametrize("kind", SIGMOIDS)
def test_a_decoder_that_ends_in_a_sigmoid_is_told_once(kind):
    model = IWAE(MLP(5, 4), SIGMOIDS[kind]())
    with pytest.warns(UserWarning, match="`decoder` ends in a sigmoid.*as logits"):
        model.build((None, *EVENT))


@pytest.mark.parametrize(
    "decoder, likelihood",
    [
        (MLP(5, 4, activation="sigmoid"), "bernoulli"),
        (keras.Sequential([DENSE(5, "sigmoid"), DENSE(4)]), "bernoulli"),
        (keras.Sequential([DENSE(8, "sigmoid")]), "normal"),
    ],
)
def test_other_decoders_are_not(decoder, likelihood, recwarn):
    IWAE(MLP(5, 4), decoder, likelihood=likelihood).build((None, *EVENT))
    assert not [w for w in recwarn if "sigmoid" in str(w.message)]


@pytest.mark.parametrize(
    "layer, is_faster",
    [
        (keras.layers.LSTM(3), False),
        (keras.layers.Bidirectional(keras.layers.GRU(3)), False),
        (keras.layers.Flatten(), True),
    ],
)
@pytest.mark.parametrize("graphs", [None])  # in place of the fixture: as for users
def test_recurrent_layers_run_as_a_graph(layer, is_faster, graphs):
    encoder = keras.Sequential([layer, DENSE(4)])
    model = IWAE(encoder, MLP(5, (4, 4)))
    model.compile()
    assert model.supports_xla == model.jit_compile == is_faster
