"""Checkpoints and atomic files: whole or not there, and damage is told."""

import functools
import io
import json
import os
import pickle
import zipfile

import keras
import numpy as np
import pytest
from running import Exploit

from iwae_tf.config import build_optimizer, default_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import files
from iwae_tf.io.files import check_place, write_atomically, write_json, write_through
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.runs.checkpoints import CheckpointStore
from iwae_tf.runs.workdir import deciding_settings

EVENT = (4,)


def make_model(seed=0, units=5, optimizer="adam", weight_average=0.0, dtype="float32"):
    config = default_config()
    config.optimizer, config.weight_average = optimizer, weight_average
    encoder = MLP([units], (4,), seed=seed, name="encoder", dtype=dtype)
    decoder = MLP([units], EVENT, seed=seed + 9, name="decoder", dtype=dtype)
    model = IWAE(encoder, decoder, num_samples=2, name="iwae", dtype=dtype)
    model.build((None, *EVENT))
    model.compile(build_optimizer(config, steps_per_epoch=2), run_eagerly=True)
    return model


def train(model, steps):
    x = np.random.default_rng(0).integers(0, 2, [4 * steps, *EVENT]).astype("float32")
    model.fit(x, batch_size=4, verbose=0, shuffle=False)
    return model


def everything(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def trained():
    """A model after three steps."""
    return train(make_model(), 3)


@pytest.fixture
def store(tmp_path, trained):
    """A store with checkpoints of epochs 1 and 2, of different weights."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, make_model(seed=5), {"history": [1]})
    store.save(2, trained, {"history": [1, 2]})
    return store


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Save and restore ------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [("adam", 0.0), ("muon", 0.9), ("burda_adam", 0.9), ("adam", 0.9, "mixed_float16")],
)
def test_restores_every_variable_bit_for_bit(tmp_path, settings):
    model = train(make_model(0, 5, *settings), 3)
    saved, is_scaled = everything(model), len(settings) > 2
    state = {"history": [{"epoch": 1, "bound": -3.25}], "seconds": 1.5}
    for epoch in (6, 7):  # which adds no variable: Keras' loss scale had another
        CheckpointStore(tmp_path).save(epoch, model, state)
    fresh = make_model(3, 5, *settings)
    paths = [m.optimizer.variables[0].path for m in (model, fresh)]
    # Keras numbers optimisers, which does not matter.
    assert is_scaled or paths[0] != paths[1]
    assert CheckpointStore(tmp_path).restore_latest(fresh) == (7, 0, state)
    assert_same(everything(fresh), saved)
    assert int(fresh.train_steps) == 3
    assert is_scaled or int(fresh.optimizer.iterations) == 3
    # And goes on as the original does.
    assert_same(everything(train(fresh, 2)), everything(train(model, 2)))


def test_no_checkpoint_is_none(tmp_path, trained):
    assert CheckpointStore(tmp_path / "none").restore_latest(trained) is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "epoch-00001.npz.tmp").write_text("")
    (tmp_path / "epoch-x.npz").write_text("")
    assert CheckpointStore(tmp_path).restore_latest(trained) is None


@pytest.mark.parametrize(
    "positions, kept",
    [
        ([(1, 0)], ["epoch-00001.npz"]),
        ([(1, 0), (2, 0), (9, 0), (10, 0)], ["epoch-00009.npz", "epoch-00010.npz"]),
        ([(10, 0), (100_000, 0)], ["epoch-00010.npz", "epoch-100000.npz"]),
        (
            [(1, 0), (1, 900), (1, 1000), (2, 0), (2, 5)],
            ["epoch-00002.npz", "epoch-00002-step-000005.npz"],
        ),
    ],
)
def test_keeps_the_last_two(tmp_path, trained, positions, kept):
    """By number, not by name."""
    store = CheckpointStore(tmp_path)
    for epoch, step in positions:
        store.save(epoch, trained, {}, step=step)
        assert store.restore_latest(trained) == (epoch, step, {})
        assert len(names(tmp_path)) <= 2
    assert names(tmp_path) == sorted(kept)
    assert store.newest.name == kept[-1]


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir()}


def test_what_is_not_finite_is_not_kept(store):
    before = contents(store.folder)
    for group in ("trainable_variables", "optimizer"):
        model = train(make_model(), 1)
        variables = getattr(model, group)
        variable = getattr(variables, "variables", variables)[-1]
        variable.assign(np.full(variable.shape, np.inf))
        with pytest.raises(FloatingPointError, match="is not finite"):
            store.save(3, model, {})
    assert contents(store.folder) == before


def test_nothing_in_it_needs_unpickling(store):
    path = store.folder / "epoch-00002.npz"
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
        assert json.loads(archive["state"].tobytes()) == {"history": [1, 2]}
        assert any(name.startswith("optimizer:") for name in archive.files)
        assert sum("train_steps" in name for name in archive.files) == 1


# Checkpoints of other runs ---------------------------------------------------------


def settings(**changes):
    """What decides the numbers of the default config with some changes."""
    config = default_config()
    config.update(changes)
    return deciding_settings(config)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"seed": 7}, "whose seed is 7, not 0"),
        ({"learning_rate": 0.5}, "whose learning_rate is 0.5, not 0.001"),
        ({"start_from": "a"}, "whose start_from is True, not False"),
        ({"latent_dims": [7, 2]}, r"whose latent_dims is \[7, 2\], not \[50\]"),
        ({"epochs": 7}, None),
        ({"data_dir": "elsewhere"}, None),
        ({"eval_split": "test", "eval_seed": 7, "eval_num_samples": 7}, None),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, trained, change, shown):
    CheckpointStore(tmp_path, settings(**change)).save(1, trained, {"history": []})
    store, reports = CheckpointStore(tmp_path, settings()), []
    if shown is None:
        restored = store.restore_latest(make_model(), reports.append)
        assert restored == (1, 0, {"history": []}) and not reports
        return
    model = train(make_model(seed=1), 1)
    before = everything(model)
    with pytest.raises(InvalidInputError, match=shown) as error:
        store.restore_latest(model, reports.append)
    assert "\n" not in str(error.value) and "epoch-00001.npz" in str(error.value)
    assert_same(everything(model), before)


def test_a_checkpoint_that_does_not_say_of_which_run_is_resumed(store):
    store.settings, reports = settings(), []  # the fixture wrote without
    restored = store.restore_latest(make_model(), reports.append)
    assert restored == (2, 0, {"history": [1, 2]})
    (line,) = reports
    assert "epoch-00002.npz does not say which config it is of" in line


# Damage ----------------------------------------------------------------------------


def written(save, *args, **arrays):
    """The bytes that one of NumPy's functions writes."""
    file = io.BytesIO()
    save(file, *args, **arrays)
    return file.getvalue()


def flipped(data, position, bits):
    """`data` with some bits of one byte flipped."""
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


def last_number_flipped(data):
    """One bit of the last number of the first array."""
    name, extra = (int.from_bytes(data[i : i + 2], "little") for i in (26, 28))
    first = zipfile.ZipFile(io.BytesIO(data)).infolist()[0]
    assert first.header_offset == 0
    return flipped(data, 30 + name + extra + first.file_size - 1, 4)


def with_state(data, text=None):
    """With another state, or with none."""
    arrays = dict(np.load(io.BytesIO(data)))
    del arrays["state"]
    if text is not None:
        arrays["state"] = np.frombuffer(text, np.uint8)
    return written(np.savez, **arrays)


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "empty": lambda data: b"",
    "bit flipped": last_number_flipped,
    "pickled": lambda data: pickle.dumps(Exploit()),
    "pickled member": lambda data: written(
        np.savez, state=np.array([Exploit()], dtype=object)
    ),
    "one array": lambda data: written(np.save, np.zeros(3)),
    "other archive": lambda data: written(np.savez, weights=np.zeros(3)),
    "no state": with_state,
    "bad state": lambda data: with_state(data, b"{'a': "),
    "encrypted": lambda data: flipped(data, data.index(b"PK\x01\x02") + 8, 1),
    "compressed": lambda data: flipped(data, data.index(b"PK\x01\x02") + 10, 77),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_is_told_and_the_one_before_used(store, name):
    path = store.folder / "epoch-00002.npz"
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    model, reports = make_model(), []
    restored = store.restore_latest(model, reports.append)
    assert restored == (1, 0, {"history": [1]})
    assert_same(model.get_weights(), make_model(seed=5).get_weights())
    assert len(reports) == 1
    assert "epoch-00002.npz is damaged and was skipped" in reports[0]


def test_any_flipped_byte_is_found_or_harmless(store, trained):
    path = store.folder / "epoch-00002.npz"
    data = path.read_bytes()
    model, saved, found = make_model(), everything(trained), 0
    for position in np.random.default_rng(0).integers(0, len(data), 200):
        path.write_bytes(flipped(data, position, 0x41))
        epoch, *_ = store.restore_latest(model, lambda line: None)
        found += epoch == 1
        if epoch == 2:
            assert_same(everything(model), saved)
    assert found > 100


def test_none_intact_is_the_users_to_solve(store):
    for path in store.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    model, reports = train(make_model(seed=1), 1), []
    before = everything(model)
    words = "^`workdir` must hold an intact checkpoint.*all 2 damaged.*$"
    with pytest.raises(InvalidInputError, match=words):
        store.restore_latest(model, reports.append)
    assert len(reports) == 2
    assert_same(everything(model), before)


@pytest.mark.parametrize(
    "other", [{"units": 6}, {"optimizer": "muon"}, {"weight_average": 0.9}]
)
def test_the_checkpoint_of_another_model_changes_nothing(store, other):
    model = make_model(**other)
    model.optimizer.build(model.trainable_variables)
    before = everything(model)
    with pytest.raises(InvalidInputError):
        store.restore_latest(model, lambda line: None)
    assert_same(everything(model), before)


# Failures while writing ------------------------------------------------------------


DISK_FULL = OSError(28, "No space left on device")


def test_a_failure_while_writing_leaves_the_old_ones(store, trained, monkeypatch):
    before = contents(store.folder)

    def half_a_write(file, **arrays):
        file.write(b"PK\x03\x04 half of it")
        raise DISK_FULL

    monkeypatch.setattr("iwae_tf.io.files.np.savez", half_a_write)
    with pytest.raises(OSError, match="No space"):
        store.save(3, trained, {})
    assert contents(store.folder) == before
    monkeypatch.undo()
    assert store.restore_latest(make_model())[0] == 2


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()])
@pytest.mark.parametrize("writer", [write_atomically, write_through])
def test_half_a_file_is_never_seen(tmp_path, writer, error):
    path = tmp_path / "deep" / "down" / "file.bin"

    def put(target, content=b"new, but", error=None):
        """Writes to the open file or the path that is handed over."""
        if writer is write_through:
            assert str(target).endswith(".bin")
            target.write_bytes(content)
        else:
            target.write(content)
        if error:
            raise error

    def fails_and_leaves(found):
        with pytest.raises(type(error)):
            writer(path, functools.partial(put, error=error))
        assert [file.read_bytes() for file in path.parent.iterdir()] == found

    fails_and_leaves([])
    for content in (b"one", b"another"):
        writer(path, functools.partial(put, content=content))
        assert contents(path.parent) == {path: content}
        fails_and_leaves([content])
    (tmp_path / "folder.bin").mkdir()  # where a file cannot be moved to
    with pytest.raises(OSError):
        writer(tmp_path / "folder.bin", put)
    assert names(tmp_path) == ["deep", "folder.bin"]


def test_the_content_is_flushed_before_it_is_moved(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_size))
        real_fsync(descriptor)

    def replace(source, target):
        events.append(("replace", os.path.getsize(source)))
        real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_atomically(tmp_path / "file", lambda file: file.write(b"12345"))
    assert events == [("fsync", 5), ("replace", 5)]


def test_json_has_null_where_there_is_no_number(tmp_path):
    """And what JSON cannot hold leaves the old file."""
    path, numbers = tmp_path / "value.json", [1, np.inf, {"deep": -np.inf}]
    write_json(path, {"nan": np.nan, "list": numbers, "tuple": (1.5, None, True, "a")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text().endswith("}\n")
    found, numbers = json.loads(path.read_text()), [1, None, {"deep": None}]
    assert found == {"nan": None, "list": numbers, "tuple": [1.5, None, True, "a"]}
    assert names(tmp_path) == ["value.json"]


def test_write_through_suits_a_writer_that_wants_the_suffix(tmp_path, trained):
    path = tmp_path / "new" / "model.keras"
    check_place(path, "--output", is_file=True)
    assert names(tmp_path) == []
    with pytest.raises(InvalidInputError, match="`--output` must be a file in a"):
        check_place("/dev/null/file.json", "--output", is_file=True)
    write_through(path, lambda target: trained.save(target))
    assert names(path.parent) == ["model.keras"]
    loaded = keras.models.load_model(path, compile=False)
    assert_same(loaded.get_weights(), trained.get_weights())
