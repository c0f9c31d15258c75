"""Steps that run as one program against steps that Python runs one by one."""

import collections
import functools
import re
import warnings

import builders
import keras
import numpy as np
import pytest
import tensorflow as tf
from running import refusal

from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE, programs

EVENT = (6,)
ROWS = 22  # five batches of four, and one of two
MODES = {
    "default": {},
    "one step": {"steps_per_execution": 1},
    "four steps": {"steps_per_execution": 4},
    "graph": {"jit_compile": False},
    "graph, one step": {"jit_compile": False, "steps_per_execution": 1},
    "eager": {"run_eagerly": True},
}
X, LABELS = builders.binary(ROWS, EVENT, seed=0), builders.classes(ROWS)
GREY = np.random.default_rng(0).uniform(0.2, 0.8, X.shape).astype(np.float32)


class Counting(IWAE):
    """Counts calls of `train_step` and sums up what each example weighs in them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = tf.Variable(0, trainable=False)
        self.seen = tf.Variable(tf.zeros(ROWS), trainable=False)

    def train_step(self, data):
        _, index, weights = data if len(data) == 3 else (*data, None)
        self.batches.assign_add(1)
        weights = tf.ones(tf.shape(index)[:1]) if weights is None else weights
        self.seen.assign(tf.tensor_scatter_nd_add(self.seen, index, weights))
        return {**super().train_step(data), "batches": self.batches.value()}


def build(name="iwae", mode="default", num_layers=1, **kwargs):
    settings = {"num_samples": 3, **kwargs}
    model = builders.build(name, num_layers, event=EVENT, **settings)
    model.compile(keras.optimizers.SGD(0.05), **MODES[mode])
    return model


def fit(model, data=X, **kwargs):
    settings = {"batch_size": 4} if isinstance(data, np.ndarray) else {}
    settings |= {"epochs": 2, "shuffle": False, "verbose": 0}
    return model.fit(data, **{**settings, **kwargs}).history


def weights(model):
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


def indexed(weighted=False):
    """Batches of (x, index of each example) and maybe a weight."""
    index = np.arange(ROWS, dtype=np.int32)[:, np.newaxis]
    parts = (X, index, np.linspace(0, 2, ROWS, dtype=np.float32))
    return tf.data.Dataset.from_tensor_slices(parts if weighted else parts[:2])


DYNAMIC = {"binarization": "dynamic", "gradient_estimator": "dreg"}


@pytest.mark.parametrize(
    "name, settings, modes",
    [
        pytest.param("piwae", DYNAMIC, ["default", "graph"], marks=pytest.mark.xla),
        ("iwae", {"labels": True}, ["four steps"]),
        pytest.param("vae", {}, MODES, marks=pytest.mark.slow),
        pytest.param("ciwae", {"num_layers": 2}, MODES, marks=pytest.mark.slow),
        pytest.param(
            "piwae",
            {"num_layers": 2, "gradient_estimator": "stl"},
            ["default"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_modes_agree_with_a_ragged_last_batch_and_validation(name, settings, modes):
    x = GREY if "binarization" in settings else X
    y = LABELS if "labels" in settings else None
    sample_weight = np.linspace(0.0, 2.0, ROWS)
    histories, ends = {}, {}
    for mode in ("eager", *modes):
        model = build(name, mode, **settings)
        start = [variable.numpy() for variable in model.trainable_variables]
        held_out = (x[:7], None if y is None else y[:7])
        histories[mode] = fit(
            model, x, y=y, sample_weight=sample_weight, validation_data=held_out
        )
        assert int(model.train_steps) == 12
        ends[mode] = weights(model)
    moved = [v.numpy() != before for v, before in zip(model.trainable_variables, start)]
    assert all(map(np.any, moved))
    bound, held_out = (histories["eager"][key] for key in ("bound", "val_bound"))
    assert abs(bound[0] - bound[1]) > 1e-2
    assert y is None or (bound[1] > bound[0] and held_out[1] > held_out[0])
    for mode in modes:
        assert histories[mode].keys() == histories["eager"].keys()
        for key, values in histories["eager"].items():
            np.testing.assert_allclose(histories[mode][key], values, rtol=2e-5)
        np.testing.assert_allclose(ends[mode], ends["eager"], rtol=0, atol=5e-6)


@pytest.mark.xla
@pytest.mark.parametrize("mode", ["default", "graph"])
def test_one_seed_is_one_run_bit_for_bit(mode):
    settings = {"mode": mode, "gradient_estimator": "dreg"}
    one, other = build(**settings), build(**settings)
    history = fit(one)
    assert fit(other) == history
    np.testing.assert_array_equal(weights(one), weights(other))
    third = fit(build(mode="eager", gradient_estimator="dreg", seed=(1, 3)), epochs=1)
    assert abs(third["bound"][0] - history["bound"][0]) > 1e-3


@pytest.mark.parametrize(
    "mode, weighted",
    [("four steps", True), ("four steps", False), ("graph", True), ("eager", False)],
)
def test_every_example_counts_once_an_epoch(mode, weighted):
    model = build(Counting, mode)
    history = fit(model, indexed(weighted).batch(4))
    assert int(model.batches) == 12 == int(model.train_steps)
    assert history["batches"] == [6, 12]  # logs of an override come through
    expected = 2 * np.linspace(0, 2, ROWS) if weighted else np.full(ROWS, 2.0)
    np.testing.assert_allclose(model.seen, expected, rtol=1e-6)


def test_an_iterator_goes_on_where_the_last_epoch_ended():
    model = build(Counting)
    fit(model, indexed().repeat().batch(2), steps_per_epoch=4, epochs=3)
    assert int(model.batches) == 12
    assert sorted(collections.Counter(np.asarray(model.seen)).items()) == [
        (1.0, ROWS - 2), (2.0, 2)
    ]  # fmt: skip


@pytest.mark.xla
def test_batches_of_unknown_number_and_growing_size():
    def batches():
        for rows in (2, 1, 3):
            yield X[:rows]

    spec = tf.TensorSpec([None, *EVENT], tf.float32)
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    ends = []
    for mode in ("eager", "default", "graph, one step"):
        model = build(mode=mode)
        fit(model, data)
        assert int(model.train_steps) == 6
        ends.append(weights(model))
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=5e-6)


@pytest.mark.xla
def test_padding_does_not_reach_the_density():
    """A likelihood that is infinite at zero, which images filled up with would be."""
    model = build(likelihood=beta_likelihood)
    history = fit(model, GREY)
    assert np.isfinite(history["bound"]).all()
    assert np.isfinite(weights(model)).all()


def beta_likelihood(logits):
    import tensorflow_probability as tfp

    beta = tfp.distributions.Beta(tf.exp(logits) + 0.5, 2.0)
    return tfp.distributions.Independent(beta, 1)


def test_layers_that_mix_rows_get_no_padding():
    ends = []
    for mode in ("default", "eager"):
        encoder, _, _ = builders.networks()
        mixing = [keras.layers.BatchNormalization(), keras.layers.Dense(EVENT[0])]
        model = build(mode=mode, nets=(encoder, keras.Sequential(mixing)))
        fit(model)
        ends.append(weights(model))
    np.testing.assert_allclose(*ends, atol=5e-5)


class Watcher(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((batch, int(self.model.train_steps)))


@pytest.mark.parametrize(
    "mode, taken", [("default", range(1, 13)), ("four steps", [4, 6, 10, 12])]
)
def test_a_callback_that_watches_batches_gets_them(mode, taken):
    """Unless a number of steps was asked for."""
    watcher = Watcher()
    fit(build(mode=mode), callbacks=[watcher])
    assert [steps for _, steps in watcher.steps] == list(taken)
    if mode == "default":
        assert [batch for batch, _ in watcher.steps] == [n % 6 for n in range(12)]


def test_evaluation_in_a_callback_leaves_training_its_steps():
    """It has a number of steps a call of its own."""
    model, taken = build(), []

    def evaluate(epoch, logs):
        model.evaluate(X, batch_size=2, verbose=0)
        taken.append(int(model.train_steps))

    callback = keras.callbacks.LambdaCallback(on_epoch_end=evaluate)
    fit(model, epochs=3, validation_data=X, callbacks=[callback])
    assert taken == [6, 12, 18]


@pytest.mark.parametrize(
    "callback, watches",
    [
        (keras.callbacks.EarlyStopping(), False),
        (keras.callbacks.ModelCheckpoint("x.keras"), False),
        (keras.callbacks.ModelCheckpoint("x.keras", save_freq=10), True),
        (keras.callbacks.TensorBoard("x"), False),
        (keras.callbacks.TensorBoard("x", update_freq="batch"), True),
        (keras.callbacks.LambdaCallback(on_epoch_end=print), False),
        (keras.callbacks.LambdaCallback(on_train_batch_begin=print), True),
        (keras.callbacks.TerminateOnNaN(), True),
        (Watcher(), True),
    ],
)
def test_who_watches_batches(callback, watches):
    assert programs.watches_batches(callback) == watches
    container = keras.callbacks.CallbackList([callback])
    assert programs.watches_batches(container) == watches


@pytest.mark.parametrize(
    "data, batch_size, num_batches",
    [
        (X, 32, 1),
        (list(X), 32, 1),
        (indexed().batch(4), 32, 6),
        (indexed().batch(4, drop_remainder=True), 4, 5),
        (indexed().batch(4).repeat(), 32, None),
        (iter([X]), 32, None),
    ],
)
def test_what_a_data_set_tells_of_its_batches(data, batch_size, num_batches):
    assert programs.batch_size_of(data) == batch_size
    assert programs.num_batches(data, batch_size) == num_batches


@pytest.mark.parametrize(
    "rows, steps, expected",
    [
        (1, None, 64), (1000, None, 20), (1000, 2980, 20), (1000, 210, 20),
        (1000, 21, 11), (10_000, 298, 2), (10**6, 298, 1), (20, 3, 3), (20, 65, 33),
    ],
)  # fmt: skip
def test_steps_per_call(rows, steps, expected):
    assert programs.steps_per_call(rows, steps) == expected


def test_validation_in_larger_steps_than_training_sees_every_batch(recwarn):
    """Training takes one step a call, and the small batches of validation many."""
    model = build(num_samples=3000)  # too many for more than a step
    history = fit(
        model, batch_size=8, epochs=1, validation_data=X, validation_batch_size=2
    )
    assert not [w for w in recwarn if "ran out of data" in str(w.message)]
    expected = model.evaluate(X, batch_size=2, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["val_bound"], expected["bound"], rtol=1e-5)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many"])
def test_bad_steps_per_execution_is_refused(value):
    rule = re.escape("`steps_per_execution` must be a positive integer. Received:")
    with pytest.raises(InvalidInputError, match=rule):
        build().compile("adam", steps_per_execution=value)


def test_steps_per_execution_of_numpy():
    losses = []
    for steps in (1, np.int64(2)):
        model = build(mode="eager")
        model.compile("sgd", jit_compile=False, steps_per_execution=steps)
        losses.append(fit(model, epochs=1)["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.xla
def test_the_choice_survives_a_reload(tmp_path):
    for mode, saved in [("default", "auto"), ("four steps", 4)]:
        model = build(mode=mode)
        loaded = builders.reloaded(model, tmp_path)
        assert loaded.get_compile_config()["steps_per_execution"] == saved
        assert loaded.get_compile_config()["jit_compile"] == "auto"
        assert loaded.jit_compile


COMPILATIONS = """
    import os, pathlib, sys
    dump = pathlib.Path(sys.argv[1])
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_dump_to={dump} --xla_dump_hlo_as_text"
    import numpy as np
    import iwae_tf
    from iwae_tf.networks import MLP

    x = np.zeros([22, 6], np.float32)
    model = iwae_tf.IWAE(MLP([5], (4,)), MLP([5], (6,)), num_samples=3)
    model.compile("adam", **eval(sys.argv[2]))
    counts = []
    def count():
        counts.append(len(list(dump.glob("*before_optimizations.txt"))))
    for size in (22, 21, 13):  # batches of 4 and a last one of 2, 1 and 1
        model.fit(x[:size], batch_size=4, epochs=2, verbose=0, validation_data=x[:7])
        count()
    for size in (1, 2, 5):
        iwae_tf.log_likelihood(model, x[:size], 30)
        count()
    print(counts)
"""


@pytest.mark.parametrize(
    "steps", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6))]
)
def test_ragged_batches_compile_nothing_anew(tmp_path, steps):
    """Programs that XLA wrote down: training, validation, and the estimator's block."""
    printed = builders.run_python(
        COMPILATIONS, tmp_path, {"steps_per_execution": steps}
    )
    assert printed.split("\n")[-2] == "[2, 2, 2, 3, 3, 3]"


def steps_of_pass(mode, steps):
    """Three epochs of `steps` from one stream of batches, and what they leave."""
    data = tf.data.Dataset.from_tensor_slices(X).batch(4).repeat().take(3 * steps)
    model, settings = build(mode=mode), {"epochs": 3, "steps_per_epoch": steps}
    history = fit(model, data, validation_data=data, validation_steps=2, **settings)
    assert int(model.train_steps) == 3 * steps
    assert len(history["bound"]) == 3
    return model, data, history["bound"]


one_by_one = functools.cache(functools.partial(steps_of_pass, "eager"))


@pytest.mark.parametrize(
    "mode, steps",
    [("default", 5), ("four steps", 3), ("four steps", 5), ("graph, one step", 3)],
)
def test_an_epoch_has_the_steps_asked_for(mode, steps):
    """Also where calls do not divide them: no step of the next epoch, none left out."""
    model, data, found = steps_of_pass(mode, steps)
    expected, _, other = one_by_one(steps)
    np.testing.assert_allclose(found, other, rtol=1e-5)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-4, atol=1e-6)
    logs = model.evaluate(data, steps=steps, verbose=0, return_dict=True)
    all_of_them = expected.evaluate(data.take(steps), verbose=0, return_dict=True)
    assert logs["bound"] == pytest.approx(all_of_them["bound"], rel=1e-5)


@pytest.mark.parametrize("is_known", [True, False])
def test_data_that_end_between_epochs_or_within_one_begin_anew(is_known):
    """An epoch without a step had a bound of 0, and trained nothing."""
    data = indexed().batch(11)
    data = data if is_known else data.filter(lambda *_: True)
    for steps in (1, 3):
        model = build(mode="graph")
        history = fit(model, data, epochs=3, steps_per_epoch=steps)
        assert int(model.train_steps) == 3 * steps
        assert max(history["bound"]) < 0.0


def batches(count):
    for index in range(count):
        yield X[index : index + 4]


@pytest.mark.parametrize(
    "mode, steps, count",
    [("graph", 2, 4), ("graph, one step", 2, 5), ("eager", None, 3)],
)
def test_a_generator_does_not_begin_anew(mode, steps, count):
    """Keras went on with its first two batches, or took no step: a bound of 0."""
    model = build(mode=mode)
    message = refusal(fit, model, batches(count), steps_per_epoch=steps, epochs=4)
    assert message.startswith("`x` must yield a batch in each pass")
    assert int(model.train_steps) == count


@pytest.mark.parametrize("mode", ["default", "four steps", "eager"])
def test_validation_takes_a_generators_batches_one_after_the_other(mode):
    """Those that Keras had fetched ahead were lost in between, up to an error."""
    model = build(mode=mode)
    found = fit(
        model, epochs=3, validation_data=batches(6), validation_steps=2,
        callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)],
    )  # fmt: skip
    for bound, first in zip(found["val_bound"], (0, 2, 4), strict=True):
        x = np.concatenate([*batches(6)][first : first + 2])
        expected = model.evaluate(x, batch_size=4, verbose=0, return_dict=True)
        assert bound == pytest.approx(expected["bound"], rel=1e-5)


def test_a_pass_without_a_batch_is_refused():
    model = build(mode="eager")
    assert len(fit(model, batches(2), steps_per_epoch=1)["bound"]) == 2
    message = refusal(fit, model, validation_data=batches(3))
    assert message.startswith("`validation_data` must yield a batch in each pass")
    assert "`x` must" in refusal(model.evaluate, indexed().batch(4).take(0), verbose=0)


def test_a_generator_trains_an_unbuilt_model_of_replicas_on_all_batches():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = IWAE(*builders.networks(event=EVENT)[:2], num_samples=3)
        model.compile("sgd")
    fit(model, batches(5), epochs=1)
    assert int(model.train_steps.value.numpy()) == 5


@pytest.mark.parametrize("mode, steps", [("default", 3), ("four steps", 7)])
def test_an_epoch_of_arrays_has_the_steps_asked_for(mode, steps):
    """Keras begins with an array anew where calls, not steps, have gone through it."""
    settings = {"epochs": 4, "steps_per_epoch": steps, "batch_size": 4}
    model, expected = build(mode=mode), build(mode="eager")
    with warnings.catch_warnings():  # Keras says where an array ends within an epoch
        warnings.simplefilter("ignore")
        history, other = fit(model, **settings), fit(expected, **settings)
    assert int(model.train_steps) == int(expected.train_steps)
    np.testing.assert_allclose(history["bound"], other["bound"], rtol=1e-5)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.xla
def test_single_batches_as_in_keras():
    """Ragged ones too, and among the batches of an evaluation by many steps."""
    model, expected = build(mode="four steps"), build(mode="eager")
    example_weights = np.linspace(0.0, 2.0, ROWS, dtype=np.float32)
    for rows in (slice(0, 4), slice(4, 6)):
        arguments = {"x": X[rows], "sample_weight": example_weights[rows]}
        for method in ("train_on_batch", "test_on_batch"):
            logs = getattr(model, method)(**arguments, return_dict=True)
            other = getattr(expected, method)(**arguments, return_dict=True)
            assert logs.keys() == other.keys()
            for key, value in other.items():
                np.testing.assert_allclose(logs[key], value, rtol=2e-5)
        np.testing.assert_allclose(
            model.evaluate(X, batch_size=4, verbose=0),
            expected.evaluate(X, batch_size=4, verbose=0),
            rtol=2e-5,
        )
    assert int(model.train_steps) == 2
    np.testing.assert_allclose(weights(model), weights(expected), rtol=0, atol=5e-6)
    assert len(model.train_on_batch(**arguments)) == len(model.metrics)


def test_a_single_batch_within_an_epoch_leaves_its_steps_alone():
    class Testing(keras.callbacks.Callback):
        counts_batches = True

        def on_train_batch_end(self, batch, logs=None):
            self.model.test_on_batch(X[:3])

    model = build(mode="four steps")
    data = indexed().batch(4).repeat()
    fit(model, data, steps_per_epoch=7, callbacks=[Testing()])
    assert int(model.train_steps) == 14


@pytest.mark.parametrize(
    "data, rule",
    [
        (2 * X, r"`validation_data` must be in \[0, 1\]"),
        ((2 * X,), r"`validation_data\[0\]` must be in \[0, 1\]"),
        ([2 * X, LABELS], r"`validation_data\[0\]` must be in \[0, 1\]"),
        ((X, LABELS + 3), r"`validation_data\[1\]` must be"),
    ],
)
def test_values_of_validation_arrays_are_checked_before_training(data, rule):
    model = build(labels="1" in rule.split()[0])
    y = LABELS if model.is_conditional else None
    with pytest.raises(InvalidInputError, match=rule):
        fit(model, y=y, validation_data=data)
    assert int(model.train_steps) == 0


@pytest.mark.xla
def test_labels_that_are_ignored_may_be_strings():
    data = tf.data.Dataset.from_tensor_slices((X, [f"name {i}" for i in range(ROWS)]))
    model, expected = build(mode="one step"), build(mode="eager")
    fit(model, data.batch(4))
    fit(expected, X)
    np.testing.assert_allclose(weights(model), weights(expected), rtol=0, atol=5e-6)
