"""Runs that are stopped anywhere, and folders that two runs want."""

import itertools
import math
import os
import shutil
import signal
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import changed, refusal

from iwae_tf import bounds
from iwae_tf.config import build_model, default_config
from iwae_tf.errors import InvalidInputError, Stopped
from iwae_tf.io.files import FolderLock, remove_leftovers, write_json
from iwae_tf.models import programs
from iwae_tf.runs import callbacks, training
from iwae_tf.runs.checkpoints import CheckpointStore, variables_of
from iwae_tf.runs.devices import make_distribution
from iwae_tf.runs.splits import load_examples
from iwae_tf.runs.workdir import Workdir
from torture.damage import make_model
from torture.job import tiny_config, write_data

STEPS = 19  # an epoch, of 369 images, 20 a batch


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    write_data(path)
    config = tiny_config(str(path), epochs=2)
    config.jit_compile = False  # in XLA by `make torture`
    return config


@pytest.fixture(autouse=True)
def short_calls(monkeypatch):
    """Seven steps a call, which do not divide an epoch."""
    monkeypatch.setattr(programs, "MOST_STEPS", 7)


def train(config, path, *, stop_at=None, interval=1e9, report=lambda line: None):
    """Trains until the end, or until a stop is asked for at a step."""
    request, workdir = threading.Event(), Workdir(path)
    real = callbacks.Progress.on_train_batch_end

    def ask(self, batch, logs=None):
        real(self, batch, logs)
        if stop_at is not None and int(self.model.train_steps) >= stop_at:
            request.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", interval)
        patch.setattr(callbacks.Progress, "on_train_batch_end", ask)
        try:
            return training.train(
                config,
                workdir,
                stop_request=request,
                distribution=make_distribution(),
                report=report,
            )
        except Stopped:
            return None
        finally:
            workdir.release()


def state_of(trained):
    rows = [{k: v for k, v in r.items() if k != "seconds"} for r in trained.history]
    return {n: v.numpy() for n, v in variables_of(trained.model).items()}, rows


def assert_same(ours, theirs):
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for name, array in ours[0].items():
        np.testing.assert_array_equal(array, theirs[0][name], err_msg=name)


@pytest.fixture(scope="module")
def whole_path(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture(scope="module")
def whole(config, whole_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "MOST_STEPS", 7)
        return state_of(train(config, whole_path))


def test_a_run_stopped_within_epochs_ends_bit_for_bit_the_same(config, whole, tmp_path):
    """Stopped after 7 of 19 steps, at the end of an epoch, and at its last call."""
    stopped = []
    for stop_at in (1, 8, STEPS + 8):
        assert train(config, tmp_path, stop_at=stop_at) is None
        stopped.append(CheckpointStore(tmp_path / "checkpoints").newest.name)
    assert stopped == [
        "epoch-00000-step-000007.npz",
        "epoch-00001.npz",  # one call was left: it is not cut off from the others
        "epoch-00002.npz",
    ]
    assert_same(state_of(train(config, tmp_path)), whole)


def test_checkpoints_within_an_epoch_change_nothing(
    config, whole, tmp_path, monkeypatch
):
    """Nor does a clock that is set back by a year: times are differences of one that
    only goes forwards."""
    monkeypatch.setattr("time.time", lambda: 1e9)
    seen, real = [], CheckpointStore.save

    def save(self, *args, step=0):
        real(self, *args, step=step)
        seen.append((args[0], step))

    monkeypatch.setattr(CheckpointStore, "save", save)
    trained = train(config, tmp_path, interval=0.0)
    assert seen == [(0, 7), (1, 0), (1, 7), (2, 0)]
    assert_same(state_of(trained), whole)
    assert 0 <= trained.history[0]["seconds"] <= trained.history[1]["seconds"] < 1000


def test_early_stopping_counts_as_keras_does():
    """Against its callback, over bounds with ties, after a warm-up that is ignored."""
    rng = np.random.default_rng(0)
    for patience, ignored in itertools.product((1, 2, 5), (0, 3)):
        bounds_of_epochs = rng.integers(0, 9, 60) / 4
        keras_one = keras.callbacks.EarlyStopping("val_bound", 0, patience, mode="max")
        keras_one.set_model(types.SimpleNamespace(stop_training=False))
        keras_one.on_train_begin()
        ours = callbacks.Sitting(
            *[None] * 5, history=[], seconds=0, patience=patience, num_ignored=ignored
        )
        for epoch, bound in enumerate(bounds_of_epochs):
            if epoch >= ignored:
                keras_one.on_epoch_end(epoch, {"val_bound": bound})
            ours.history.append(row_of(epoch + 1, bound))
            assert bool(ours.early_stop()) == keras_one.model.stop_training
            if ours.early_stop():
                break
        assert epoch + 1 < len(bounds_of_epochs)
        best = epoch + 1 - patience
        for words in (f"after epoch {epoch + 1},", f" of epoch {best},"):
            assert words in ours.early_stop()
        ours.patience = 0
        assert ours.early_stop() is None


def row_of(epoch, bound, **draws):
    return {
        "epoch": epoch,
        "val_bound": bound,
        "num_groups": 1,
        "num_samples": 5,
    } | draws


def test_only_bounds_of_as_many_draws_compare():
    """The bound of a stage of fewer draws, or one that is NaN, ends no run."""
    sitting = callbacks.Sitting(*[None] * 5, history=[], seconds=0, patience=2)
    for draws in {"num_samples": 1}, {"num_groups": 5, "num_samples": 1}:
        stages = [row_of(1, -90), row_of(2, -89), row_of(3, -95, **draws)]
        sitting.history = [*stages, row_of(4, -94, **draws)]
        assert sitting.early_stop() is None
        sitting.history += [row_of(5, -94, **draws), row_of(6, -96, **draws)]
        assert "above that of epoch 4, -94.00" in sitting.early_stop()
    sitting.history = [row_of(1, math.nan), row_of(2, -90), row_of(3, -89)]
    assert sitting.early_stop() is None
    sitting.history += [row_of(4, math.nan), row_of(5, math.nan)]
    assert "above that of epoch 3, -89.00" in sitting.early_stop()


def test_a_run_that_stops_early_does_so_however_often_it_is_resumed(config, tmp_path):
    """Stopped amid a warm-up of the KL term, and once only the evaluation is left."""
    config = changed(
        config, lr_schedule="constant", learning_rate=0.1, batch_size=100, epochs=40,
        kl_warmup_epochs=2, early_stopping_epochs=2,
    )  # fmt: skip
    said, said_again = [], []
    assert train(config, tmp_path, stop_at=1) is None
    trained = train(config, tmp_path, report=said.append)
    bounds = [row["val_bound"] for row in trained.history][config.kl_warmup_epochs :]
    is_new_best = [
        bound > max([-np.inf, *bounds[:i]]) for i, bound in enumerate(bounds)
    ]
    epochs = len(trained.history)
    assert epochs < 40 and is_new_best[-3:] == [True, False, False]
    waits = zip(is_new_best[:-1], is_new_best[1:-1])
    assert all(one or other for one, other in waits)  # not before
    assert trained.model.train_steps == 4 * epochs
    assert f"stopped early, after epoch {epochs}," in said[-1]
    again = train(config, tmp_path, report=said_again.append)
    assert_same(state_of(again), state_of(trained))
    assert said[-1] == said_again[-1]


def test_training_stops_at_the_step_that_is_not_finite(config, tmp_path, monkeypatch):
    """The second batch of the second epoch, in the middle of a call of seven steps."""
    real, bad_step = training.build_model, STEPS + 2

    def build_model(*args, **kwargs):
        model = real(*args, **kwargs)
        objective = model.objective

        class Breaks(bounds.Objective):
            def bound(self, log_weights):
                bound = objective.bound(log_weights)
                is_bad = model.train_steps.value == bad_step - 1
                return tf.where(is_bad, np.float32(np.nan), bound)

        model.objective = Breaks()
        return model

    monkeypatch.setattr(training, "build_model", build_model)
    with pytest.raises(FloatingPointError) as error:
        train(config, tmp_path)
    text = str(error.value)
    assert f"the bound is nan at step {bad_step}, batch 2 of epoch 2" in text
    assert "learning_rate" in text and "epoch-00001.npz" in text
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest.name == "epoch-00001.npz"
    with np.load(tmp_path / "nonfinite_batch.npz") as batch:
        examples = load_examples(config, "train")
        expected = next(iter(training.batches(config, examples, 1, 1)))
        np.testing.assert_array_equal(batch["x"], expected)
        assert (batch["epoch"], batch["batch"]) == (2, 2)


# One folder, two runs --------------------------------------------------------------


@pytest.mark.usefixtures("whole")
def test_the_checkpoints_of_another_seed_are_refused(config, whole_path, tmp_path):
    shutil.copytree(whole_path / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(InvalidInputError, match="whose seed is 0, not 1"):
        train(changed(config, seed=1), tmp_path)


@pytest.mark.parametrize("kind", ["lognormal", "student"])
def test_a_run_is_not_continued_with_columns_of_other_kinds(config, tmp_path, kind):
    """Of as many parameters or of more, in a file of the same name."""
    table, kinds = tmp_path / "table.csv", tmp_path / "kinds.json"
    rows = np.random.default_rng(0).uniform(1, 2, [60, 2])
    np.savetxt(table, rows, delimiter=",", header="a,b", comments="")
    other = changed(
        config, dataset="table", data_dir=str(table), schema=str(kinds),
        likelihood="mixed", binarization="none", lr_schedule="constant",
    )  # fmt: skip
    kinds.write_text('{"a": "normal"}')
    train(changed(other, epochs=1), tmp_path / "run")
    kinds.write_text(f'{{"a": "{kind}"}}')
    message = refusal(train, other, tmp_path / "run")
    assert "checkpoints of this config" in message
    assert "'column a: normal'" in message and f"'column a: {kind}'" in message


def test_more_epochs_of_a_finished_run_are_the_run_of_so_many(
    config, tmp_path, monkeypatch
):
    """Where the learning rates do not depend on them. Until their end the results, the
    config and the models are those of the fewer epochs, and then the export stays."""

    def export(model, config, path, *_):
        (path / str(config.epochs)).mkdir(parents=True)

    monkeypatch.setattr("iwae_tf.runs.workdir.export", export)
    longer = changed(config, lr_schedule="constant")
    shorter = changed(longer, epochs=1)
    whole = state_of(train(longer, tmp_path / "whole"))
    workdir = Workdir(tmp_path / "parts")
    (workdir.saved_model / "left").mkdir(parents=True)
    workdir.export(train(shorter, workdir.path).model, shorter, {})
    write_json(workdir.results, {})
    first = workdir.model.read_bytes()
    workdir.check(longer)
    assert train(changed(longer, epochs=3), workdir.path, stop_at=STEPS + 7) is None
    with pytest.raises(InvalidInputError, match="after epoch 1 and 7 steps in"):
        train(shorter, workdir.path)
    assert workdir.is_finished(shorter) and not workdir.is_finished(longer)
    trained = train(longer, workdir.path)
    assert_same(state_of(trained), whole)
    assert workdir.is_finished(shorter) and workdir.model.read_bytes() == first
    workdir.export(trained.model, longer, {})
    assert not workdir.results.exists() and workdir.model.read_bytes() != first
    assert {path.name for path in workdir.saved_model.iterdir()} == {"1", "2"}
    with pytest.raises(InvalidInputError, match="whose epochs is 2, not 1"):
        workdir.check(shorter)


def test_more_epochs_of_a_cosine_are_a_run_of_their_own(config, tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.keep(changed(config, lr_schedule="cosine"))
    longer = changed(config, lr_schedule="cosine", epochs=3)
    command = f"--config.start_from={workdir.path}. Received: epochs=3"
    with pytest.raises(InvalidInputError, match=f"`epochs` must be 2, .*{command}"):
        workdir.check(longer)
    workdir.keep(changed(longer, epochs=2, stages=[[5, 3, 1e-3, 1e-4]]))
    workdir.check(changed(longer, stages=[[5, 3, 1e-3, 1e-4]]))


def test_two_runs_cannot_have_one_workdir(config, tmp_path):
    lock = FolderLock(tmp_path, "workdir")
    text = refusal(train, config, tmp_path)
    assert "`workdir` must not be in use by another run" in text
    assert f"process {os.getpid()}" in text
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    Workdir(tmp_path).claim(config)


def test_a_run_that_starts_from_another_is_another(config, tmp_path):
    sequel = changed(config, start_from=str(tmp_path / "first"))
    words = "`start_from` must hold a finished run with a model.keras. Received: start"
    with pytest.raises(InvalidInputError, match=words):
        train(sequel, tmp_path / "a")
    (tmp_path / "first").mkdir()  # now with a model, but of other networks
    other = changed(config, latent_dims=[config.latent_dims[0] + 1])
    build_model(other).save(tmp_path / "first/model.keras")
    with pytest.raises(InvalidInputError, match="`start_from` must be a run of the"):
        train(sequel, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    workdir = Workdir(tmp_path / "a")
    workdir.keep(sequel)
    with pytest.raises(InvalidInputError, match="whose start_from is '.*', not None"):
        workdir.check(config)
    moved = changed(sequel, start_from="elsewhere")
    workdir.check(moved)
    workdir.keep(moved)
    assert workdir.read_config().start_from == "elsewhere"


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    child = os.fork()
    if child == 0:
        FolderLock(tmp_path, "workdir")
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert (tmp_path / ".lock").read_text().startswith(f"process {child} on ")
    FolderLock(tmp_path, "workdir").release()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    name = "0123456789abcdef" * 2
    left = [f".epoch-00001.npz.{name}.tmp", f".{name}.keras"]
    mine = ["epoch-00001.npz", ".hidden.tmp", f"{name}.keras", ".lock", f".{name}"]
    for file in [*left, *mine]:
        (tmp_path / file).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(mine)
    remove_leftovers(tmp_path / "none")


def test_a_config_says_what_the_torture_trains():
    assert set(tiny_config("x.npz", 1)) == set(default_config())
    assert make_model().built
