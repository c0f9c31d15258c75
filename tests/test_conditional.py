"""What labels add: classes, data in pairs, files, refusals.

Densities, gradients, scores and modes of execution have labels as a parameter.
"""

import functools
import json
import math
import subprocess
import sys

import builders
import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import CLASSES, CONDITIONAL, EVENT, PROBLEMS, exact_model, reloaded
from running import REPOSITORY

import iwae_tf
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.classes import ClassLogLikelihoods
from iwae_tf.models import IWAE
from iwae_tf.models.latent_model import one_hot
from iwae_tf.networks import MLP
from iwae_tf.probability import noise

build = functools.partial(builders.build, labels=True)


def data(rows=6):
    return builders.binary(rows), builders.classes(rows)


# Classes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONDITIONAL)
def test_classes_by_brute_force(name):
    """log p(x) and p(y|x) from the exact densities of all classes."""
    problem = PROBLEMS[name]
    model, (x, y) = exact_model(problem), problem.data(50)
    found = iwae_tf.class_log_likelihoods(model, x, 10)
    exact = np.stack(
        [problem.log_prob(x, np.full(50, c)) for c in range(CLASSES)], axis=1
    )
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


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]]
)
def test_class_probabilities_that_are_none(shares):
    found = ClassLogLikelihoods(*[np.zeros([2, CLASSES])] * 7)
    for method in (found.log_marginal, found.posterior):
        with pytest.raises(InvalidInputError, match="`class_probabilities` must be 3"):
            method(shares)


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
    inputs, labels = keras.Input(event_shape), keras.Input((CLASSES,))
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
        num_classes=CLASSES,
        prior=keras.Sequential([keras.layers.Dense(4)]),
        num_samples=3,
    )
    x, y = data(20)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
    history = model.fit(x, y, epochs=6, batch_size=10, verbose=0).history
    assert history["bound"][-1] > history["bound"][0]
    loaded = reloaded(model, tmp_path)
    ours, theirs = (m.log_weights(x, 1, 4, labels=y).numpy() for m in (model, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Training -------------------------------------------------------------------------


def test_it_learns_what_only_the_label_tells():
    """Pixels are a function of y: log p(x|y) goes to 0, where log p(x) is -log 3."""
    keras.utils.set_random_seed(1)
    y = np.random.default_rng(0).integers(0, CLASSES, 300)
    x = np.eye(4, dtype="float32")[y]
    model = IWAE(MLP([8], (4,)), MLP([8], EVENT), num_classes=CLASSES, num_samples=5)
    model.compile(keras.optimizers.Adam(0.03), jit_compile=False)
    model.fit(x, y, epochs=40, batch_size=30, verbose=0)
    found = iwae_tf.class_log_likelihoods(
        model, np.eye(4, dtype="float32")[:CLASSES], 100
    )
    assert np.diag(found.estimate).min() > -0.1
    np.testing.assert_allclose(found.log_marginal(), -np.log(3), atol=0.1)
    assert np.diag(found.posterior()).min() > 0.99


def test_data_sets_and_evaluate_and_predict():
    model, (x, y) = build(), data(10)
    model.compile(run_eagerly=True)
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
    assert np.max(np.abs(mean - model((x, (y + 1) % CLASSES)).numpy())) > 1e-3


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
plain = keras.models.load_model(sys.argv[4])
print(json.dumps(plain.log_weights(inputs["x"], 2, 3, (1, 2)).numpy().tolist()))
model = keras.models.load_model(sys.argv[3])
score = iwae_tf.log_likelihood(model, inputs["x"], 30, (5, 6), labels=inputs["y"])
model.fit(inputs["x"], inputs["y"], verbose=0)
print(json.dumps([found, refused, score.estimate.tolist(), model.num_classes]))
"""


@pytest.mark.slow
def test_files_are_the_model_in_another_process(tmp_path):
    """An export has the label as one input more; model.keras can be trained on.

    There, a model without labels gives the log-weights that it has here.
    """
    model, (x, y) = build("piwae", num_layers=2), data()
    model.compile("adam", run_eagerly=True)
    model.fit(x, y, verbose=0)
    plain = builders.build("miwae", num_layers=2)
    plain.save(tmp_path / "plain.keras")
    z = np.random.default_rng(3).normal(size=[6, 2]).astype("float32")
    np.savez(tmp_path / "inputs.npz", x=x, y=y, z=z)
    model.save(tmp_path / "model.keras")
    version = iwae_tf.export_saved_model(model, tmp_path / "served", num_samples=20)
    names = ("inputs.npz", "model.keras", "plain.keras")
    files = [version, *(tmp_path / name for name in names)]
    command = [sys.executable, "-c", SERVE, *map(str, files)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log_weights, answers = done.stdout.splitlines()[-2:]
    np.testing.assert_allclose(
        json.loads(log_weights),
        plain.log_weights(x, 2, 3, (1, 2)),
        rtol=1e-5,
        atol=1e-5,
    )
    found, refused, score, num_classes = json.loads(answers)
    names = ("log_likelihood", "standard_error", "effective_sample_size")
    expected = iwae_tf.log_likelihood(model, x, 20, labels=y)
    for name, values in zip(names, expected):
        np.testing.assert_allclose(found["serving_default"][name], values, rtol=1e-3)
    expected = iwae_tf.log_likelihood(model, x, 30, (5, 6), labels=y)
    np.testing.assert_allclose(score, expected.estimate, atol=1e-5)
    assert num_classes == CLASSES
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
LABEL_MISTAKES = {
    "missing": (None, "must be given"),
    "too high": (Y + 1, r"must be integers in \[0, 3\).*=3"),
    "negative": (Y - 3, r"must be integers in \[0, 3\).*=-"),
    "floats": (Y.astype("float32"), "Received: dtype=float32"),
    "one-hot": (np.eye(CLASSES, dtype=int)[Y], r"shape=\(6, 3\)"),
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
    model = builders.shared(labels=True)
    model.compile(run_eagerly=True)
    for name, call in CALLS.items():
        with pytest.raises(InvalidInputError, match=message) as error:
            call(model, labels)
        argument = "y" if name in ("fit", "evaluate") else "labels"
        assert str(error.value).startswith(f"`{argument}` "), name
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_bad_labels_of_a_data_set_are_refused(run_eagerly):
    model = build()
    model.compile(run_eagerly=run_eagerly)
    before = model.get_weights()
    for labels in (Y + 1, Y - 3):
        pairs = tf.data.Dataset.from_tensor_slices((X, labels)).batch(6)
        for method in (model.fit, model.evaluate):
            with pytest.raises(InvalidInputError, match="`y` must be integers"):
                method(pairs, verbose=0)
    with pytest.raises(InvalidInputError, match="`y` must be given"):
        model.fit(tf.data.Dataset.from_tensors(X), verbose=0)
    np.testing.assert_equal(model.get_weights(), before)


def test_a_label_out_of_range_is_nan_where_nothing_can_be_raised():
    compiled = tf.function(lambda labels: one_hot(labels, CLASSES), jit_compile=True)
    found = compiled(tf.constant([1, 3, -1])).numpy()
    np.testing.assert_array_equal(found[0], [0, 1, 0])
    assert np.all(np.isnan(found[1:]))


def test_labels_for_a_model_without_classes_are_refused():
    model = builders.shared()
    for name, call in CALLS.items():
        if name not in ("fit", "evaluate"):
            with pytest.raises(InvalidInputError, match="`labels` must be left out"):
                call(model, Y)
    with pytest.raises(InvalidInputError, match="`model` must be conditional"):
        iwae_tf.class_log_likelihoods(model, X, 5)


def test_the_densities_are_not_to_be_had_without_a_label():
    model = builders.shared(labels=True)
    with pytest.raises(InvalidInputError, match="`labels` must be given"):
        model.latent.encode(X)
    with pytest.raises(InvalidInputError, match=r"on the pair \(x, labels\)"):
        model(X)
