"""The one gate for data: every way in refuses the same x in one line."""

import builders
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from running import refusal

from iwae_tf.errors import InvalidInputError

GOOD = np.random.default_rng(0).integers(0, 2, [12, 4]).astype("float32")
BAD = {
    "pixels": (255.0 * np.where(GOOD, 1.0, 0.0).astype("float32"), "must be in [0, 1]"),
    "nan": (np.where(GOOD, np.float32("nan"), GOOD), "must be finite"),
    "bytes": ((255 * GOOD).astype("uint8"), "dtype=uint8, divide by 255"),
    "shape": (np.zeros([12, 5], "float32"), "must have the shape [batch, *event]"),
}


class Batches(keras.utils.PyDataset):
    """Batches of `size`, one after the other."""

    def __init__(self, x, size=6):
        super().__init__()
        self.x, self.size = x, size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        return (self.x[self.size * index :][: self.size],)


def pipeline(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(6)


def of_unknown_shape(x):
    return pipeline(x).map(lambda v: tf.py_function(lambda w: w, [v], v.dtype))


WAYS = {
    "fit array": lambda m, x: m.fit(x, verbose=0),
    "fit tensor": lambda m, x: m.fit(tf.constant(x), verbose=0),
    "fit DataFrame": lambda m, x: m.fit(pd.DataFrame(x), verbose=0),
    "fit tf.data": lambda m, x: m.fit(pipeline(x), verbose=0),
    "fit pairs": lambda m, x: m.fit(pipeline((x, np.arange(12))), verbose=0),
    "fit shapeless": lambda m, x: m.fit(of_unknown_shape(x), verbose=0),
    "fit PyDataset": lambda m, x: m.fit(Batches(x), verbose=0),
    "fit generator": lambda m, x: m.fit((b for b in [(x[:6],), (x[6:],)]), verbose=0),
    "fit plain batches": lambda m, x: m.fit((b for b in [x[:6], x[6:]]), verbose=0),
    "validation": lambda m, x: m.fit(GOOD, validation_data=pipeline(x), verbose=0),
    "validation array": lambda m, x: m.fit(GOOD, validation_data=(x,), verbose=0),
    "train_on_batch": lambda m, x: m.train_on_batch(x),
    "test_on_batch": lambda m, x: m.test_on_batch(x),
    "evaluate": lambda m, x: m.evaluate(x, verbose=0),
    "evaluate tf.data": lambda m, x: m.evaluate(pipeline(x), verbose=0),
    "predict": lambda m, x: m.predict(x, verbose=0),
    "predict tf.data": lambda m, x: m.predict(pipeline(x), verbose=0),
    "predict_on_batch": lambda m, x: m.predict_on_batch(x),
    "call": lambda m, x: m(x),
    "encode": lambda m, x: m.encode(x),
}


def build(likelihood="bernoulli", **options):
    model = builders.build(likelihood=likelihood, num_samples=2)
    model.compile("sgd", jit_compile=False, **options)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_scored_is_refused_whichever_way_it_comes_in(model, way, bad):
    x, rule = BAD[bad]
    # Good validation data would be reached after an epoch: training is not lost then.
    before = None if way.startswith("validation") else model.get_weights()
    message = refusal(WAYS[way], model, x)
    assert rule in message and message.startswith(("`x`", "`validation_data"))
    np.testing.assert_equal(model.get_weights(), before or model.get_weights())


@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_scored_is_not(model, way):
    WAYS[way](model, GOOD)


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}])
def test_a_bad_batch_applies_no_update_and_ends_the_epoch(options):
    """The batches before it have been trained on, as without it."""
    model, reference = (build(steps_per_execution=1, **options) for _ in range(2))
    with pytest.raises(InvalidInputError, match=r"`x` must be in \[0, 1\]"):
        model.fit(pipeline(np.concatenate([GOOD, 2 * GOOD])), verbose=0)
    reference.fit(pipeline(GOOD), verbose=0)
    np.testing.assert_equal(model.get_weights(), reference.get_weights())


def test_the_range_is_the_likelihoods():
    model = build("normal")
    history = model.fit(pipeline(255 * GOOD), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(InvalidInputError, match="`x` must be finite"):
        model.fit(pipeline(BAD["nan"][0]), verbose=0)
    with pytest.raises(InvalidInputError, match="`x` must be finite"):
        model.encode(1e300 * GOOD.astype("float64"))  # infinite in float32
    with pytest.raises(InvalidInputError, match="`x` must be float. Received: dtype=u"):
        model.fit(pipeline(BAD["bytes"][0]), verbose=0)


@pytest.mark.parametrize(
    "x, shown",
    [([GOOD, GOOD], "a list of 2"), ({"x": GOOD}, "a dict of 1"), (None, "a NoneType")],
)
def test_what_is_no_array_is_refused(model, x, shown):
    with pytest.raises(InvalidInputError, match=rf"`x` must be .*Received: {shown}"):
        model.fit(x, verbose=0)


def test_a_sequence_keeps_its_order_where_nothing_is_trained(model):
    batches = Batches(GOOD, size=1)
    expected = model.predict(GOOD, batch_size=1, verbose=0)
    np.testing.assert_array_equal(model.predict(batches, verbose=0), expected)
    expected = model.evaluate(GOOD, batch_size=1, verbose=0)
    assert model.evaluate(batches, verbose=0) == expected
    history = model.fit(GOOD, validation_data=batches, verbose=0).history
    assert history["val_loss"] == model.evaluate(batches, verbose=0)[:1]


@pytest.mark.parametrize(
    "method, name",
    [
        ("fit", "batch_size"),
        ("fit", "steps_per_epoch"),
        ("evaluate", "steps"),
        ("predict", "batch_size"),
    ],
)
def test_counts_are_positive_integers_of_any_type(model, method, name):
    ask = getattr(model, method)
    ask(GOOD, **{name: np.int64(2)}, verbose=0)
    for count in (0, -1, 2.5, "2"):
        assert f"`{name}` must be" in refusal(ask, GOOD, **{name: count}, verbose=0)


@pytest.mark.parametrize("value", [1.5, -1, None, "3", True])
@pytest.mark.parametrize("name", ["epochs", "initial_epoch"])
def test_numbers_of_epochs_are_integers(model, name, value):
    message = refusal(model.fit, GOOD, verbose=0, **{name: value})
    assert message.startswith(f"`{name}` must be an integer >= 0. Received: {name}=")


def test_a_frequency_of_validation_is_a_count_or_some_epochs(model):
    data = {"validation_data": (GOOD,), "verbose": 0}
    for value in (0, 1.5, "2"):
        assert "`validation_freq` must" in refusal(
            model.fit, GOOD, **data, validation_freq=value
        )
    for value in (np.int64(2), [2]):
        history = model.fit(GOOD, **data, epochs=2, validation_freq=value).history
        assert len(history["bound"]) == 2 and len(history["val_bound"]) == 1


WEIGHTED = {
    "fit": lambda m, w: m.fit(GOOD, sample_weight=w, verbose=0),
    "evaluate": lambda m, w: m.evaluate(GOOD, sample_weight=w, verbose=0),
    "validation": lambda m, w: m.fit(GOOD, validation_data=(GOOD, None, w), verbose=0),
    "fit tf.data": lambda m, w: m.fit(pipeline((GOOD, GOOD, w)), verbose=0),
    "fit shapeless": lambda m, w: m.fit(weighted_shapeless(w), verbose=0),
    "train_on_batch": lambda m, w: m.train_on_batch(GOOD, GOOD, w),
}


def weighted_shapeless(w):
    pairs = pipeline((GOOD, w))
    return pairs.map(lambda x, v: (tf.py_function(lambda u: u, [x], x.dtype), x, v))


@pytest.mark.parametrize("way", WEIGHTED)
def test_weights_are_finite_and_not_negative(model, way):
    for value in (np.nan, -1.0, np.inf):
        weights = np.where(np.arange(12) == 5, value, 1.0).astype("float32")
        message = refusal(WEIGHTED[way], model, weights)
        assert message.startswith("`sample_weight` must be finite and >= 0. Received")


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}])
def test_a_pass_in_which_nothing_counts_is_refused(options):
    """Its bound was 0. A single batch may weigh nothing."""
    model, zeros = build(**options), np.zeros(12, "float32")
    half = np.repeat(np.float32([0, 1]), 6)
    for x, name, settings in (
        (pipeline((GOOD, GOOD, zeros)), "x", {}),
        (GOOD, "x", {"sample_weight": half, "validation_split": 0.5}),
        (GOOD, "validation_data", {"validation_data": pipeline((GOOD, GOOD, zeros))}),
    ):
        message = refusal(model.fit, x, verbose=0, **settings)
        assert message.startswith(f"`sample_weight` of `{name}` must be above 0 for")
    history = model.fit(pipeline((GOOD, GOOD, half)), verbose=0).history
    assert history["bound"][0] < 0.0


def test_weights_and_labels_are_one_an_example(model):
    WEIGHTED["evaluate"](model, [1] * 12)
    for weights in (np.ones(5), 2.0, ["a"] * 12, np.zeros(12)):
        assert "`sample_weight` must" in refusal(WEIGHTED["fit"], model, weights)
    assert "`y` must have one value" in refusal(model.fit, GOOD, [0] * 5, verbose=0)


def test_a_share_that_is_none_is_refused(model):
    for share in (-0.5, 1.0, 1.5, "half"):
        message = refusal(model.fit, GOOD, validation_split=share, verbose=0)
        assert "`validation_split` must be" in message


@pytest.mark.parametrize(
    "way, name",
    [
        ("fit tf.data", "steps_per_epoch"),
        ("validation", "validation_steps"),
        ("evaluate tf.data", "steps"),
        ("predict tf.data", "steps"),
    ],
)
def test_data_without_an_end_need_a_number_of_steps(model, monkeypatch, way, name):
    """The first pass did not end."""
    monkeypatch.setitem(globals(), "pipeline", endless)
    assert f"`{name}` must be given" in refusal(WAYS[way], model, GOOD)
    assert len(model.predict(endless(GOOD), steps=3, verbose=0)) == 18


def endless(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(6).repeat()


def test_a_sequence_is_long_enough_for_the_steps(model):
    """Otherwise epochs had fewer steps than were asked for, without a word."""
    for steps, epochs in ((3, 1), (4, 2)):
        message = refusal(
            model.fit, Batches(GOOD), steps_per_epoch=steps, epochs=epochs, verbose=0
        )
        assert message.startswith("`steps_per_epoch` must divide the 2 batches of th")
    assert "`steps` must" in refusal(model.evaluate, Batches(GOOD), steps=3, verbose=0)
    data = {"validation_data": Batches(GOOD), "validation_steps": 3, "verbose": 0}
    assert "`validation_steps` must" in refusal(model.fit, GOOD, **data)
    for size, steps, epochs in ((6, 2, 3), (6, 1, 3), (4, 1, 2), (2, 4, 1)):
        before = int(model.train_steps)
        x = Batches(GOOD, size)
        model.fit(x, steps_per_epoch=steps, epochs=epochs, verbose=0)
        assert int(model.train_steps) == before + steps * epochs


def test_a_generator_of_lists_is_one_of_tuples(model):
    data = ([GOOD[:6], np.arange(6)] for _ in range(2))
    assert model.fit(data, verbose=0).history["bound"][0] < 0.0


def test_a_batch_without_examples_is_refused(model):
    """Among others of a program its bound was NaN, and so were the weights then."""
    before = model.get_weights()
    for sizes in ((6, 0, 6), (12, 0)):
        data = (GOOD[:size] for size in sizes)
        assert "`x` must not be empty" in refusal(model.fit, data, verbose=0)
    np.testing.assert_equal(model.get_weights(), before)


def test_an_error_of_a_pipeline_stays_its_own(model):
    def fail(x):
        with tf.control_dependencies([tf.debugging.Assert(False, ["not ours"])]):
            return tf.identity(x)

    with pytest.raises(tf.errors.InvalidArgumentError, match="not ours"):
        model.fit(pipeline(GOOD).map(fail), verbose=0)
