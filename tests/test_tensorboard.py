"""The event files, read with TensorBoard's own reader."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import history, images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from test_resume import assert_same, state_of, train

from iwae_tf import datasets, evaluation
from iwae_tf.config import default_config
from iwae_tf.models import IWAE, programs
from iwae_tf.networks import MLP
from iwae_tf.runs import callbacks, tensorboard, training
from iwae_tf.runs.splits import load_examples
from iwae_tf.runs.tensorboard import (
    TensorBoard,
    remove_later_events,
    write_hyperparameters,
)

EPOCHS = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x_train=images(60, 0), x_test=images(20, 1))
    config = default_config()
    config.dataset, config.data_dir = "npz", str(path)
    config.latent_dims, config.hidden_dims = [3, 2], [[8], [6]]
    config.num_samples, config.batch_size, config.epochs = 3, 20, EPOCHS
    config.lr_schedule, config.learning_rate = "cosine", 1e-2
    config.jit_compile = False
    return config


@pytest.fixture(scope="module")
def opened():
    """The splits of data that training opened."""
    return set()


@pytest.fixture(scope="module")
def run(config, opened, tmp_path_factory):
    """The folder of a run and what it ended with."""
    real = datasets.load_arrays

    def load_arrays(*args, split, **kwargs):
        opened.add(split)
        return real(*args, split=split, **kwargs)

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_arrays", load_arrays)
        return folder, train(config, folder)


def read(folder):
    everything = {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}
    reader = EventAccumulator(str(folder), size_guidance=everything)
    return reader.Reload()


def values(reader, tag):
    """Step and value of a scalar, in the order of the files."""
    events = reader.Tensors(tag)
    return [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events]


def steps(reader, tag):
    return [event.step for event in reader.Tensors(tag)]


# A run of the training script ------------------------------------------------------


def test_scalars_are_the_history(run):
    folder, _ = run
    rows = history(folder)
    names = "train", "validation"
    written = {name: read(folder / "tensorboard" / name) for name in names}
    expected = {name: ("train", tag) for name, tag in tensorboard.TAGS.items()}
    expected |= {f"val_{n}": ("validation", tag) for n, tag in tensorboard.TAGS.items()}
    expected["learning_rate"] = "train", "optimizer/learning_rate"
    for name in ("num_groups", "num_samples"):
        expected[name] = "train", f"draws/{name}"
    found = set(rows[0]) & set(expected)
    assert {"bound", "val_bound", "elbo", "iwae", "kl", "val_ess", "loss"} < found
    assert {"num_groups", "num_samples"} < found
    for name in found:
        run_name, tag = expected[name]
        both = zip(values(written[run_name], tag), rows, strict=True)
        for number, ((step, value), row) in enumerate(both, 1):
            assert step == number == int(row["epoch"])
            assert value == pytest.approx(float(row[name]), rel=1e-6)


def test_histograms_are_of_weights_and_of_what_the_latents_hold(run, config):
    folder, trained = run
    reader = read(folder / "tensorboard/train")
    weights = {tag for tag in reader.Tags()["tensors"] if tag.startswith("weights/")}
    assert len(weights) == len(trained.model.trainable_variables) == 4 * 4
    assert "weights/encoder_z1/hidden_0/kernel" in weights
    for tag in weights:
        assert steps(reader, tag) == [1, 2, 3]  # of three epochs each is drawn
    # The last one: edges and counts of the very weights.
    ends = "decoder_z2/output/kernel"
    variables = trained.model.trainable_variables
    (variable,) = [v for v in variables if v.path.endswith(ends)]
    event = reader.Tensors("weights/decoder_z2/output/kernel")[-1]
    buckets = tf.make_ndarray(event.tensor_proto)
    assert buckets[:, 2].sum() == np.size(variable)
    assert buckets[0, 0] == pytest.approx(np.min(variable))
    assert buckets[-1, 1] == pytest.approx(np.max(variable))
    reader = read(folder / "tensorboard/validation")
    x = load_examples(config, "validation").images
    units = evaluation.active_units(trained.model, x, (config.eval_seed, 2))
    assert values(reader, "latents/active_units_z1")[-1] == (3, units[0])
    assert 0 <= values(reader, "latents/active_units_z2")[-1][1] <= 2
    for tag, count in (
        ("latents/posterior_means_z1", 3 * len(x)),
        ("latents/kl_of_each_unit_z2", 2),
        ("draws/log_weights", 50 * len(x)),
    ):
        buckets = tf.make_ndarray(reader.Tensors(tag)[-1].tensor_proto)
        assert buckets[:, 2].sum() == count, tag


def test_pictures_are_of_validation_images(run, config, opened):
    assert opened == {"train", "validation"}
    folder, trained = run
    reader = read(folder / "tensorboard/validation")
    for tag in ("pictures/samples", "pictures/originals_above_reconstructions"):
        assert steps(reader, tag) == [1, 2, 3]
        first, *_, last = (
            tf.make_ndarray(e.tensor_proto)[2] for e in reader.Tensors(tag)
        )
        picture = tf.io.decode_png(last).numpy()
        assert first != last
        assert picture.shape[0] > 100 and picture.shape[1] > 300
    # Where the first original is: white where its pixels are one.
    x = load_examples(config, "validation").images
    scale = min(8, (tensorboard.PIXELS - 2 * (len(x) + 1)) // (len(x) * 8))
    tile = picture[12 : 12 + 8 * scale : scale, 2 : 2 + 8 * scale : scale, 0]
    np.testing.assert_array_equal(tile, 255 * x[0].reshape(8, 8))


def test_training_does_not_depend_on_it(config, run, tmp_path, monkeypatch):
    class Nothing(keras.callbacks.Callback):
        def close(self):
            pass

    monkeypatch.setattr(training, "TensorBoard", lambda *args, **kwargs: Nothing())
    without = train(config, tmp_path)
    assert not list(tmp_path.rglob("events*"))
    assert_same(state_of(without), state_of(run[1]))


@pytest.mark.slow
def test_a_run_that_goes_on_writes_no_step_twice(config, run, tmp_path, monkeypatch):
    """Killed where the second epoch's events are written and its checkpoint is not."""
    real = callbacks.Record.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        real(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Record, "on_epoch_end", on_epoch_end)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    reader = read(tmp_path / "tensorboard/train")
    assert steps(reader, "bounds/bound") == [1, 2]
    assert_same(state_of(train(config, tmp_path)), state_of(run[1]))
    for name in ("train", "validation"):
        ours = read(tmp_path / "tensorboard" / name)
        theirs = read(run[0] / "tensorboard" / name)
        assert ours.Tags() == theirs.Tags()
        for tag in ours.Tags()["tensors"]:
            mine, whole = (
                [(e.step, e.tensor_proto) for e in reader.Tensors(tag)]
                for reader in (ours, theirs)
            )
            assert mine == whole and [step for step, _ in mine] == [1, 2, 3]


def test_hyperparameters_are_the_configs(tmp_path, config):
    results = {"nll": 84.5, "bound": -86.0, "active_units": [25, 7]}
    for nll in (90.0, 84.5):  # an evaluation that was broken off is made up for
        write_hyperparameters(tmp_path, "a", config.to_dict(), results | {"nll": nll})
    assert len(list(tmp_path.glob("events*"))) == 1
    reader = read(tmp_path)
    assert values(reader, "result/nll") == [(0, 84.5)]
    assert values(reader, "result/active_units") == [(0, 32.0)]
    experiment, session = (
        parse(reader.SummaryMetadata(tag).plugin_data.content)
        for tag, parse in (
            (metadata.EXPERIMENT_TAG, metadata.parse_experiment_plugin_data),
            (
                metadata.SESSION_START_INFO_TAG,
                metadata.parse_session_start_info_plugin_data,
            ),
        )
    )
    hparams = {n: getattr(v, v.WhichOneof("kind")) for n, v in session.hparams.items()}
    known = {key: v for key, v in config.to_dict().items() if v is not None}
    assert set(hparams) == set(known) and session.group_name == "a"
    assert hparams["num_samples"] == 3 and hparams["model"] == "iwae"
    assert hparams["latent_dims"] == "[3, 2]" and hparams["jit_compile"] is False
    tags = [metric.name.tag for metric in experiment.metric_infos]
    assert tags == ["result/nll", "result/bound", "result/active_units"]
    assert {info.name for info in experiment.hparam_infos} == set(known)


# The callback in a `fit` of one's own ----------------------------------------------


def small_model():
    model = IWAE(MLP([4], (4,), seed=0), MLP([4], (3,), seed=0), num_samples=2)
    model.compile("adam", jit_compile=False)
    return model


def test_pictures_and_histograms_every_few_epochs(tmp_path):
    x = np.eye(3, dtype=np.float32)
    board = TensorBoard(tmp_path, images=x, every=2)
    assert not programs.watches_batches(board)  # many steps stay in one call
    small_model().fit(x, epochs=5, verbose=0, callbacks=[board])
    reader = read(tmp_path / "train")
    weights = [t for t in reader.Tags()["tensors"] if t.startswith("weights/")]
    assert len(weights) == 8
    assert all(steps(reader, tag) == [1, 2, 4, 5] for tag in weights)
    assert steps(reader, "bounds/bound") == [1, 2, 3, 4, 5]
    reader = read(tmp_path / "validation")
    assert steps(reader, "draws/log_weights") == [1, 2, 4, 5]
    # Three values are no image.
    assert not [t for t in reader.Tags()["tensors"] if t.startswith("pictures/")]


def test_what_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    board = TensorBoard(tmp_path / "file" / "logs")
    with pytest.raises(OSError, match="file"):
        small_model().fit(np.eye(3), verbose=0, callbacks=[board])
    with pytest.raises(ValueError, match="`every` must be a positive integer"):
        TensorBoard(tmp_path, every=0)


def test_half_a_record_is_taken_out(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        for step in (1, 2, 3):
            tf.summary.scalar("x", float(step), step)
    writer.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    remove_later_events(tmp_path, 3)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-5])
    for step, kept in ((3, [(1, 1.0), (2, 2.0)]), (1, [(1, 1.0)])):
        remove_later_events(tmp_path, step)
        assert values(read(tmp_path), "x") == kept
    remove_later_events(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
