"""What a model was trained on: told from data that have changed, and refused there."""

import ast
import csv
import functools
import hashlib
import json
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import REPOSITORY, assert_one_line, read_json, run_script

import iwae_tf
from iwae_tf import datasets
from iwae_tf.datasets.sources import splits_of_rows
from iwae_tf.io.layout import TRAINING_DATA
from iwae_tf.runs.splits import decide_epochs, unseen_classes

CLASSES, EACH = ("a", "b", "c"), 20
KEPT = ("config.json", "results.json", "training_data.json", "model.keras")


def write_photo(path, seed):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(path)


def split_of(folder):
    """Name to split, by the order of the names and their number."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    return dict(zip(names, splits_of_rows(len(names)).tolist()))


def text_of(capsys):
    """What was printed, as one line."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A conditional run on photos of three classes: its folder has `photos`, `run`."""
    folder = tmp_path_factory.mktemp("made")
    for label, name in enumerate(CLASSES):
        for index in range(EACH):
            seed = 100 * label + index
            write_photo(folder / "photos" / name / f"{index:03}.png", seed)
    assert run_script("train", *flags(folder, epochs=1)) == 0
    return folder


def flags(folder, **changes):
    values = {"data_dir": folder / "photos", "conditional": "true", "batch_size": 20}
    values |= {"hidden_dims": "[[8]]", "latent_dims": "[2]", "jit_compile": "false"}
    values |= {"eval_num_samples": 20, "lr_schedule": "constant", **changes}
    given = (f"--config.{name}={value}" for name, value in values.items())
    config = f"--config={REPOSITORY}/configs/images.py"
    return (config, f"--workdir={folder / 'run'}", *given)


@pytest.fixture
def no_export(monkeypatch):
    """Trains without the export that half of a small run is spent on."""
    monkeypatch.setattr("iwae_tf.runs.workdir.export", lambda *_: "saved_model")


@pytest.fixture
def moved(made, tmp_path):
    """A copy of that run whose config names the copy of its photos."""
    folder = shutil.copytree(made, tmp_path / "copy")
    for path in (folder / "run/config.json", folder / "run/saved_model/config.json"):
        path.write_text(path.read_text().replace(f"{made}/", f"{folder}/"))
    return folder


# Digests ---------------------------------------------------------------------------


def test_the_digest_of_a_folder_is_of_names_and_sizes_of_training_images(made):
    expected = hashlib.sha256()
    for name, split in split_of(made / "photos").items():
        if split == "train":
            size = len((made / "photos" / name).read_bytes())
            expected.update(f"{name}\0{size}\0".encode())
    expected = expected.hexdigest()
    known = {"dataset": "images", "sha256": expected, "classes": [*CLASSES]}
    assert read_json(made / "run" / TRAINING_DATA) == known
    assert read_json(made / "run/saved_model" / TRAINING_DATA) == known


def test_the_digest_of_a_folder_reads_no_picture(moved):
    before = datasets.training_digest("images", data_dir=moved / "photos")
    for path in (moved / "photos").rglob("*.png"):
        path.write_bytes(bytes(path.stat().st_size))
    digest = functools.partial(datasets.training_digest, "images", with_labels=True)
    assert digest(data_dir=moved / "photos") == before
    for split in ("test", "train"):
        of_split = [n for n, s in split_of(moved / "photos").items() if s == split]
        (moved / "photos" / of_split[0]).write_bytes(b"another picture")
        is_same = digest(data_dir=moved / "photos") == before
        assert is_same == (split == "test")
    write_photo(moved / "photos/a/000a.png", 1)
    assert digest(data_dir=moved / "photos") != before


def test_the_digest_of_arrays_is_that_of_the_training_rows(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 3, 2), np.uint8)
    y = rng.integers(0, 3, 30)

    def digest(x_train, *, test=x[:5], labels=y, **options):
        np.savez(tmp_path / "a.npz", x_train=x_train, x_test=test, y_train=labels)
        found = datasets.training_digest("npz", data_dir=tmp_path / "a.npz", **options)
        return found

    train = datasets.load_arrays("npz", split="train", data_dir=_saved(tmp_path, x))
    rows = np.rint(255 * train.images[..., 0]).astype(np.uint8)
    expected = hashlib.sha256(f"|u1 {rows.shape}".encode() + rows.tobytes())
    assert digest(x) == expected.hexdigest()
    assert digest(x, test=x[5:9], labels=y[::-1]) == expected.hexdigest()
    assert digest(x[1:]) != expected.hexdigest()
    labelled = digest(x, with_labels=True)
    assert labelled != digest(x, labels=y[::-1], with_labels=True)
    held_out = np.setdiff1d(np.arange(30), _rows_of(train.images[..., 0], x))
    other = x.copy()
    other[held_out] += 1
    assert digest(other) == expected.hexdigest()


def _saved(folder, x):
    np.savez(folder / "b.npz", x_train=x, x_test=x[:5])
    return folder / "b.npz"


def _rows_of(images, x):
    wanted = np.rint(255 * images).astype(np.uint8)
    return [int(np.flatnonzero((x == row).all(axis=(1, 2)))[0]) for row in wanted]


def test_the_digest_of_a_table_is_that_of_its_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(20)))
    found = datasets.training_digest("table", data_dir=path, schema=None)
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_name_needs_no_digest():
    assert datasets.training_digest("mnist5k") is None
    assert datasets.training_digest("mnist", data_dir="/nowhere") is None


# What is refused -------------------------------------------------------------------


def models_of(folder):
    yield f"--workdir={folder / 'run'}"
    yield f"--saved_model={folder / 'run/saved_model'}"


@pytest.mark.usefixtures("no_export")
def test_a_photo_more_moves_others_between_splits(moved, capsys):
    photos = moved / "photos"
    before = split_of(photos)
    write_photo(photos / "a/000a.png", 7)
    after = split_of(photos)
    trained_on = {name for name, split in before.items() if split == "train"}
    assert trained_on & {name for name, split in after.items() if split == "test"}
    for model in models_of(moved):
        capsys.readouterr()
        code = run_script("evaluate", model, "--num_samples=20")
        assert_one_line(code, capsys, "`data_dir` must hold the data that", str(photos))
        code = run_script("evaluate", model, "--num_samples=20", f"--data_dir={photos}")
        assert code == 0
        assert f"note: {photos} is not what the model was trained on" in text_of(capsys)
    kept = {name: (moved / "run" / name).read_bytes() for name in KEPT}
    for epochs in (1, 2):  # finished, and to go on
        code = run_script("train", *flags(moved, epochs=epochs))
        words = "the training data have changed since", "another one"
        assert_one_line(code, capsys, *words)
    assert {name: (moved / "run" / name).read_bytes() for name in KEPT} == kept
    (photos / "a/000a.png").unlink()
    assert run_script("train", *flags(moved, epochs=2)) == 0
    assert "resumed after epoch 1" in text_of(capsys)


@pytest.mark.usefixtures("loaded_once")
def test_scores_of_changed_data_have_no_column_split(moved, capsys):
    np.save(moved / "y.npy", np.repeat(range(3), EACH))

    def score(name, *labels):
        code = run_script(
            "score",
            f"--saved_model={moved / 'run/saved_model'}",
            f"--input={moved / 'photos'}",
            f"--output={moved / name}",
            "--num_samples=20",
            *labels,
        )
        assert code == 0
        return pd.read_csv(moved / name)

    known = score("known.csv", f"--labels={moved / 'y.npy'}")
    by_folder = score("by_folder.csv")  # the sub-folders are the classes
    pd.testing.assert_frame_equal(by_folder, known)
    assert dict(zip(known.file, known.split)) == split_of(moved / "photos")
    path = moved / "photos/a/000.png"
    path.rename(path.with_name("zzz.png"))  # as many, in another order
    assert "no column split" not in text_of(capsys)
    assert "split" not in score("changed.csv")
    assert "there is no column split" in text_of(capsys)
    (moved / "run/saved_model" / TRAINING_DATA).unlink()  # as of an earlier version
    assert "split" in score("older.csv", f"--labels={moved / 'y.npy'}")


def test_classes_are_told_by_their_names(moved, capsys):
    other = shutil.copytree(moved / "photos", moved / "other")
    shutil.rmtree(other / "b")
    for model in models_of(moved):
        capsys.readouterr()
        code = run_script("evaluate", model, f"--data_dir={other}", "--num_samples=20")
        words = "each class of the training, a, b, c, and no other", "has a, c"
        assert_one_line(code, capsys, *words)
    shutil.copytree(moved / "photos/b", other / "b")
    (other / "b/003.png").rename(other / "b/3.png")
    for model in models_of(moved):
        code = run_script("evaluate", model, f"--data_dir={other}", "--num_samples=20")
        assert code == 0


@pytest.mark.usefixtures("no_export")
def test_a_run_of_an_earlier_version_goes_on_as_before(moved, capsys):
    (moved / "run" / TRAINING_DATA).unlink()
    for path in (moved / "run/checkpoints").glob("*.npz"):
        with np.load(path) as archive:
            arrays = dict(archive)
        state = json.loads(arrays["state"].tobytes())
        del state["settings"]["training_data"]
        arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        np.savez(path, **arrays)
    write_photo(moved / "photos/a/000a.png", 7)
    model = f"--workdir={moved / 'run'}"
    assert run_script("evaluate", model, "--num_samples=20") == 0
    assert run_script("train", *flags(moved, epochs=2)) == 0
    assert "resumed after epoch 1" in text_of(capsys)


# Options of the data ---------------------------------------------------------------


def test_a_finished_run_says_that_its_record_is_damaged(moved, capsys):
    (moved / "run" / TRAINING_DATA).write_text("{")
    code = run_script("train", *flags(moved, epochs=1))
    assert_one_line(code, capsys, "`training_data.json` must be intact JSON")


def test_classes_without_a_training_example_are_told():
    labels = np.array([0, 2, 2, 0])
    assert unseen_classes(labels, 3)[0].startswith("note: 1 of 3 classes have no tra")
    (line,) = unseen_classes(labels, 4, ["cat", "dog", "eel", "fox"])
    assert line.endswith("draws given dog, fox mean nothing")
    assert unseen_classes(labels[:2], 1) == unseen_classes(None, 0) == []


def test_the_number_of_epochs_needs_no_schema(tmp_path):
    path, rng = tmp_path / "t.csv", np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        rows = ([f"patient {i}", rng.normal()] for i in range(1500))
        csv.writer(file).writerows([["name", "age"], *rows])
    config = iwae_tf.default_config()
    config.update({"dataset": "table", "data_dir": str(path), "schema": "name=drop"})
    config.update({"epochs": 0, "lr_schedule": "constant", "batch_size": 100})
    # 80 % of 1,500 in batches of 100 are 12 steps, and 167 * 12 = 2,004.
    assert decide_epochs(config).epochs == 167
    assert datasets.num_training_examples("table", path) == 1200
    x = rng.normal(size=(50, 2))
    np.savez(tmp_path / "t.npz", x_train=x, x_test=x)
    assert datasets.num_training_examples("table", tmp_path / "t.npz") == 45


def test_no_call_forgets_an_option_of_the_data():
    """What reads the data set of a config is given all that says how to."""
    calls = []
    for path in pathlib.Path(iwae_tf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                function, first = ast.unparse(node.func), ast.unparse(node.args[0])
                if function.startswith("datasets.") and first == "config.dataset":
                    options = [ast.unparse(k.value) for k in node.keywords if not k.arg]
                    calls.append((path.name, function, options))
    assert len(calls) >= 5
    assert all("data_options(config)" in options for *_, options in calls), calls
