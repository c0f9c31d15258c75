import types

import numpy as np
import pytest
from builders import NAMES, binary, build
from PIL import Image

import iwae_tf
from iwae_tf.config import set_draws
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP
from iwae_tf.runs.splits import decide_epochs, what_is_few
from iwae_tf.runs.training import copy_weights
from iwae_tf.schema import Column, Schema


def test_a_run_starts_from_the_weights_of_another_and_counts_its_own_steps():
    source, target, x = build(), build(), np.eye(4, dtype=np.float32)
    source.compile("adam", run_eagerly=True)
    source.fit(x, epochs=2, verbose=0)
    copy_weights(source, target)
    for ours, theirs in zip(target.trainable_variables, source.trainable_variables):
        np.testing.assert_array_equal(ours, theirs)
    scores = [model.log_weights(x, 1, 4) for model in (source, target)]
    np.testing.assert_array_equal(*scores)
    assert int(source.train_steps) == 2 and int(target.train_steps) == 0


def test_a_stage_of_one_draw_is_the_same_training_for_every_bound():
    """So the runs of a table may share it."""
    trained = {}
    for name in NAMES:
        model = build(name, gradient_estimator="dreg", backward_samples=2)
        set_draws(model, types.SimpleNamespace(num_groups=1, num_samples=1))
        model.compile("adam", run_eagerly=True)
        model.fit(binary(12), batch_size=4, epochs=2, verbose=0)
        trained[name] = model.get_weights()
    for weights in trained.values():
        np.testing.assert_equal(weights, trained["iwae"])


def test_other_networks_are_refused():
    with pytest.raises(InvalidInputError, match="`start_from` must be a run of the"):
        copy_weights(build(), build(num_layers=2))


def table_model(categories=("x", "y"), kind="normal", loc=0.0):
    columns = Column("a", kind, loc), Column("t", "categorical", categories=categories)
    networks = MLP([4], (4,)), MLP([4], (4,))
    settings = {"likelihood": "mixed", "schema": Schema(columns)}
    return build(nets=networks, event=(2,), **settings)


def test_a_run_starts_from_one_whose_numbers_mean_the_same():
    """Shapes alone do not tell: both of a pair have two parameters a value."""
    networks = MLP([4], (4,)), MLP([4], (8,))
    normal, counts = (
        build(nets=networks, likelihood=name)
        for name in ("normal", "negative_binomial")
    )
    words = "likelihood normal, not likelihood negative_binomial"
    with pytest.raises(InvalidInputError, match=words):
        copy_weights(normal, counts)
    words = "column t: categorical y z, not column t: categorical x y"
    with pytest.raises(InvalidInputError, match=words):
        copy_weights(table_model(("y", "z")), table_model())
    with pytest.raises(InvalidInputError, match="column a: lognormal, not"):
        copy_weights(table_model(kind="lognormal"), table_model())
    copy_weights(table_model(loc=3.0), table_model())  # more rows of the same table


def test_few_data_and_few_steps_are_said_and_enough_are_not():
    config = iwae_tf.default_config()
    config.batch_size, config.epochs = 100, 40
    assert what_is_few(config, 4000) == []
    few_images, few_steps = what_is_few(config, 101)
    assert few_images.startswith("note: 101 training examples are few")
    assert few_steps == "note: 80 steps are few; --config.epochs=1000 gives 2,000"
    config.epochs = 1000
    assert what_is_few(config, 101) == [few_images]
    config.epochs, config.stages = 40, [[50, 30, 1e-3, 1e-3], [50, 10, 1e-3, 1e-3]]
    few_steps = "note: 80 steps are few, and the schedule has no more epochs"
    assert what_is_few(config, 101)[1] == few_steps


def test_a_small_folder_is_trained_on_for_longer(tmp_path):
    for index in range(20):
        Image.new("L", (4, 4)).save(tmp_path / f"{index}.png")
    config = iwae_tf.default_config()
    config.dataset, config.data_dir = "images", str(tmp_path)
    config.epochs, config.lr_schedule, config.batch_size = 0, "constant", 10
    assert decide_epochs(config).epochs == 1000  # of two steps for 16 images
