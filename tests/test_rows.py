"""Rows of files: in the order of the file, and as an evaluation scores them."""

import json

import numpy as np
import pandas as pd
import pytest
from builders import build
from PIL import Image
from running import refusal, run_script

import iwae_tf
from iwae_tf import datasets
from iwae_tf.config import build_model
from iwae_tf.datasets import tables
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import log_likelihood
from iwae_tf.networks import MLP
from iwae_tf.runs import results, splits
from iwae_tf.serving import rows, score, shards

COUNT, SHAPE = 60, (4, 3)
LEVELS = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
LEVELS[:, 0, 0] = np.arange(2, COUNT + 2)  # tells one row from another
GREY = (LEVELS / np.float32(255))[..., np.newaxis]


def write(kind, folder):
    """A file or folder whose row i is LEVELS[i] in one shape or another."""
    path = folder / f"rows.{kind.split()[-1]}"
    frame = pd.DataFrame(LEVELS.reshape(COUNT, -1) / 255).add_prefix("c")
    if kind == "npy":
        np.save(path, GREY)
    elif kind == "npz":
        np.savez(path, x_test=LEVELS[40:], x_train=LEVELS[:40])
    elif kind == "three-part npz":
        np.savez(path, x_test=LEVELS[50:], x_validation=LEVELS[40:50],
                 x_train=LEVELS[:40])  # fmt: skip
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        for row, levels in enumerate(LEVELS):
            name = f"{row:02}.png" if kind == "images" else f"c{row // 20}/{row:02}.png"
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(path / name)
    return path


def config_of(path, **changes):
    """The config of a run on these data."""
    config = iwae_tf.default_config()
    settings = {"data_dir": str(path), "binarization": "none", "latent_dims": [2]}
    settings |= {"dataset": "npz" if path.suffix == ".npz" else "images"}
    if path.suffix in (".csv", ".parquet"):
        settings |= {"dataset": "table", "likelihood": "mixed"}
    settings |= {"hidden_dims": [[6]], "num_samples": 3, "jit_compile": False}
    config.update(settings | changes)
    return config


@pytest.mark.parametrize("has_config", [False, True])
@pytest.mark.parametrize(
    "kind",
    ["npy", "npz", "three-part npz", "csv", "parquet", "images", "nested images"],
)
def test_row_i_is_row_i_of_the_file(kind, has_config, tmp_path):
    path = write(kind, tmp_path)
    frame = pd.DataFrame(LEVELS.reshape(COUNT, -1) / 255).add_prefix("c")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(tables.infer_schema(frame).to_json()))
    own = path if kind != "npy" else tmp_path / "elsewhere.npz"
    config = config_of(own) if has_config else None
    schema = schema if kind in ("csv", "parquet") else None
    found = rows.read_rows(path, schema=schema, config=config)
    np.testing.assert_allclose(found.x.reshape(COUNT, -1), frame, rtol=1e-6)
    is_known = has_config and kind != "npy"
    assert ("split" in found.columns) == is_known and not found.notes
    if is_known:  # an image is in the split whose array has it
        for split in datasets.SPLITS:
            x = splits.load_eval_split(config, split).images.reshape(-1, 12)
            theirs = found.x.reshape(COUNT, -1)[
                np.array(found.columns["split"]) == split
            ]
            order, other = np.lexsort(x.T), np.lexsort(theirs.T)
            np.testing.assert_allclose(x[order], theirs[other], rtol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "npz", "shard"])
@pytest.mark.parametrize("has_label", [False, True])
def test_an_array_is_encoded_as_the_one_of_the_training(kind, has_label, tmp_path):
    rng = np.random.default_rng(0)
    classes = rng.integers(2, 5, 50), rng.integers(7, 9, 50)
    array = np.stack([rng.normal(size=50), *classes, rng.normal(size=50)], axis=1)
    array[::7, 1] = np.nan
    npy, path = tmp_path / "t.npy", tmp_path / f"t.{kind}"
    np.save(npy, array)
    np.savez(tmp_path / "t.npz", x_train=array[:30], x_test=array[30:])
    kinds = "column_1=categorical,column_0=drop"
    kinds += ",column_2=label" if has_label else ",column_2=categorical"
    options = {"data_dir": str(npy), "schema": kinds}
    trained = [datasets.load_arrays("table", split=s, takes_missing=True, **options)
               for s in datasets.SPLITS]  # fmt: skip
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(datasets.table_schema(**options).to_json()))
    if kind == "shard":
        read = shards.reader(".npy", schema, lambda path: path.open("rb"))
        count, found = read(npy, 10, 25)
        assert count == 50
        array = array[10:35]
    else:
        config = config_of(path, conditional=has_label, dataset="table")
        read = rows.read_rows(path, schema=schema, config=config)
        found, splits, labels = read.x, read.columns, read.labels
        assert (labels is not None) == has_label
        if has_label:
            np.testing.assert_array_equal(labels, array[:, 2] - 7)
    expected = {place: array[:, place] - low for place, low in ((1, 2), (2, 7), (3, 0))}
    if has_label:
        del expected[2]
    np.testing.assert_array_equal(found, np.stack([*expected.values()], 1).astype("f4"))
    if kind == "npy":
        splits = np.array(splits["split"])
        for name, of_training in zip(datasets.SPLITS, trained):
            np.testing.assert_array_equal(found[splits == name], of_training.images)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
@pytest.mark.parametrize("has_given", [False, True])
def test_a_table_in_an_npz_file_is_read_as_in_training(dtype, has_given, tmp_path):
    """Not as images: bytes are no grey levels, and y_train is no column."""
    rng, path, schema = (
        np.random.default_rng(0),
        tmp_path / "t.npz",
        tmp_path / "s.json",
    )
    array = rng.integers(0, 200, (50, 3)).astype(dtype)
    array[:, 2] = np.arange(50) % 3
    y = {"y_train": np.zeros(40, int), "y_test": np.zeros(10, int)}
    np.savez(path, x_train=array[:40], x_test=array[40:], **y)
    options = {"data_dir": str(path), "schema": "column_2=label"}
    schema.write_text(json.dumps(datasets.table_schema(**options).to_json()))
    config = config_of(path, conditional=True, dataset="table", likelihood="mixed")
    given = np.ones(50, int) if has_given else None
    read = rows.read_rows(path, schema=schema, config=config, labels=given)
    for split in datasets.SPLITS:
        x, labels = datasets.load_arrays("table", split=split, **options)
        theirs = np.array(read.columns["split"]) == split
        order, other = np.lexsort(x.T), np.lexsort(read.x[theirs].T)
        np.testing.assert_array_equal(x[order], read.x[theirs][other])
        if not has_given:
            found = read.labels[theirs]
            np.testing.assert_array_equal(labels[order], found[other])
    assert not has_given or read.labels is given
    np.savez(path, x_train=array[:40], x_test=array[40:, :2])
    words = refusal(rows.read_rows, path, schema=schema)
    assert words.startswith("`x_test` must have as many columns as x_train")


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_no_row_is_said(suffix, tmp_path):
    path, schema = tmp_path / f"t{suffix}", tmp_path / "schema.json"
    path.write_text("a,t\n")
    if suffix == ".npy":
        np.save(path, np.zeros([0, 2]))
    found = tables.infer_schema({"a": [1.0, 2.5], "t": ["x", "y"]})
    schema.write_text(json.dumps(found.to_json()))
    text = refusal(rows.read_rows, path, schema=schema)
    assert (
        text == f"`input` must have at least one row. Received: {path}, which has none"
    )


def test_labels_that_are_given_need_no_column_of_them(tmp_path):
    path, schema = tmp_path / "t.csv", tmp_path / "s.json"
    frame = pd.DataFrame({"a": np.arange(12.0), "y": ["u", "v"] * 6})
    whole = tables.infer_schema(frame, {"y": "label"})
    schema.write_text(json.dumps(whole.to_json()))
    frame[["a"]].to_csv(path, index=False)
    config, given = config_of(path, conditional=True), np.zeros(12, int)
    read = rows.read_rows(path, schema=schema, config=config, labels=given)
    np.testing.assert_array_equal(read.x[:, 0], frame["a"])
    assert read.labels is given


def test_labels_of_an_npz_file_stay_with_their_images(tmp_path):
    path, y = tmp_path / "a.npz", np.arange(COUNT) % 7
    parts = {"x_train": GREY[:40], "y_train": y[:40], "x_test": GREY[40:]}
    np.savez(path, **parts, y_test=y[40:])
    config = config_of(path, conditional=True)
    np.testing.assert_array_equal(rows.read_rows(path, config=config).labels, y)
    assert rows.read_rows(path, config=config_of(path)).labels is None
    np.savez(path, **parts)
    assert rows.read_rows(path, config=config).labels is None  # of some alone


def test_a_script_pairs_the_labels_of_the_file_with_its_rows(tmp_path):
    """By the library: a conditional model for which each label is another score."""
    x = (GREY > 0.5).astype("float32")
    y = np.arange(COUNT) % 3
    model = build(event=(*SHAPE, 1), labels=True, nets=(
        MLP([5], (4,), seed=1), MLP([5], (*SHAPE, 1), seed=2)))  # fmt: skip
    export, path = tmp_path / "export", tmp_path / "a.npz"
    iwae_tf.export_saved_model(model, export, 20, refined=False)
    np.savez(path, x_train=x[:40], x_test=x[40:])
    np.save(tmp_path / "y.npy", y)
    flags = [f"--saved_model={export}", f"--input={path}", "--num_samples=20"]
    flags += [f"--labels={tmp_path / 'y.npy'}", f"--output={tmp_path / 's.csv'}"]
    assert run_script("score", *flags) == 0
    found = np.genfromtxt(tmp_path / "s.csv", delimiter=",", names=True)
    expected = log_likelihood(model, x, 20, labels=y).estimate
    np.testing.assert_allclose(found["log_likelihood"], expected, atol=1e-3)


@pytest.mark.parametrize("binarization", ["threshold", "fixed", "dynamic"])
@pytest.mark.parametrize("kind", ["npz", "three-part npz", "images", "nested images"])
def test_rows_are_those_of_the_evaluation(kind, binarization, tmp_path):
    path = write(kind, tmp_path)
    config = config_of(path, binarization=binarization)
    found = rows.read_rows(path, config=config)
    for split in datasets.SPLITS:
        theirs = found.x[np.array(found.columns["split"]) == split]
        expected = splits.load_eval_split(config, split).images
        assert sorted(map(bytes, theirs)) == sorted(map(bytes, expected))
    if binarization == "threshold":
        np.testing.assert_array_equal(found.x, GREY >= 0.5)
    else:  # a pixel of 0.3 is one with probability 0.3
        assert abs(found.x.mean() - GREY.mean()) < 4 * 0.5 / np.sqrt(GREY.size)
    assert len(found.notes) == 1 and f"binarization={binarization}" in found.notes[0]
    assert ("eval_seed=1" in found.notes[0]) == (binarization != "threshold")


def test_rows_of_other_data_are_drawn_as_a_test_split_is(tmp_path):
    np.save(tmp_path / "new.npy", GREY)
    config = config_of(tmp_path / "elsewhere.npz", binarization="dynamic", eval_seed=3)
    found = rows.read_rows(tmp_path / "new.npy", config=config)
    np.savez(tmp_path / "as_test.npz", x_train=GREY, x_test=GREY)
    options = {"split": "test", "binarization": "fixed", "seed": 3}
    test = datasets.load_arrays("npz", data_dir=tmp_path / "as_test.npz", **options)
    np.testing.assert_array_equal(found.x, test.images)


def test_what_is_binary_is_left_alone_and_what_cannot_be_is_refused(tmp_path):
    config = config_of(tmp_path, binarization="dynamic", missing="marginalize")
    binary = np.where(GREY > 0.7, np.nan, GREY > 0.5)
    np.save(tmp_path / "x.npy", binary)
    found = rows.read_rows(tmp_path / "x.npy", config=config)
    np.testing.assert_array_equal(found.x, binary)
    assert isinstance(found.x, np.memmap) and not found.notes
    np.save(tmp_path / "x.npy", np.where(GREY > 0.7, np.nan, GREY))
    drawn, stored, *_ = rows.read_rows(tmp_path / "x.npy", config=config)
    np.testing.assert_array_equal(stored, np.where(GREY > 0.7, np.nan, GREY))
    np.testing.assert_array_equal(np.isnan(drawn), GREY > 0.7)
    assert set(np.unique(drawn[GREY <= 0.7])) == {0.0, 1.0}
    np.save(tmp_path / "x.npy", 255 * GREY)
    with pytest.raises(InvalidInputError, match=r"`input` must be in \[0, 1\]"):
        rows.read_rows(tmp_path / "x.npy", config=config)


def test_a_test_image_has_the_score_of_the_evaluation(tmp_path):
    path = write("images", tmp_path)
    config = config_of(path, binarization="dynamic", eval_seed=5)
    model = build_model(config)

    def scorer(x, num_samples, seed, *, labels, on_batch, proposal):
        on_batch(log_likelihood(model, x, num_samples, seed))

    found, _ = results.evaluate(config, scorer, split="test", num_samples=30)
    iwae_tf.export_saved_model(model, tmp_path / "export", 30, refined=False)
    read = rows.read_rows(path, config=config)
    x = read.x[np.array(read.columns["split"]) == "test"]
    ours = score(x, saved_model=tmp_path / "export", num_samples=30, seed=(5, 0))
    assert -ours.estimate.mean() == pytest.approx(found["nll"], rel=1e-5)
