"""Pipelines on Beam's DirectRunner with several workers, against the client."""

import glob
import json

import builders
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from builders import DIGITS as EVENT
from builders import DRAWS
from running import assert_one_line, run_script

import iwae_tf
from iwae_tf.datasets import tables
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP
from iwae_tf.serving import score, shards

beam = pytest.importorskip("iwae_tf.beam", reason="needs apache-beam and pyarrow")
FileSystems = pytest.importorskip("apache_beam.io.filesystems").FileSystems
parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

SEED = (3, 4)
COLUMNS = (
    *("log_likelihood", "standard_error", "effective_sample_size"),
    *("jackknife_error", "pareto_k", "bias_allowance", "is_refined"),
)
WORKERS = {
    "threads": ["direct_num_workers=2", "direct_running_mode=multi_threading"],
    "processes": ["direct_num_workers=2", "direct_running_mode=multi_processing"],
}


@pytest.fixture(scope="module")
def folder(digits):
    return digits[1]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 2, [31, *EVENT]).astype("float32")


@pytest.fixture(scope="module")
def expected(folder, x):
    return score(x, saved_model=folder, num_samples=DRAWS, seed=SEED, batch_size=1)


def run(folder, source, output, workers="threads", **flags):
    flags = {"num_samples": DRAWS, "seed": "3,4"} | flags
    return run_script(
        "score_beam",
        f"--saved_model={folder}",
        f"--input={source}",
        f"--output={output}",
        *(f"--{name}={value}" for name, value in flags.items()),
        *(f"--option={option}" for option in WORKERS[workers]),
    )


def read(pattern, read_one=pd.read_csv):
    """(row ids, scores [N, columns]) of all shards."""
    table = pd.concat(map(read_one, glob.glob(str(pattern))))
    return table["row"].to_numpy(), table[[*COLUMNS]].to_numpy()


def assert_scores(found, row_ids, expected):
    """`found` holds each row id once, with the scores of its place in `expected`."""
    rows, values = found
    assert sorted(rows) == sorted(row_ids)
    places = [[*row_ids].index(row) for row in rows]
    np.testing.assert_allclose(values, np.array(expected).T[places], rtol=1e-5)


@pytest.mark.parametrize(
    "workers", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_npy_shards(folder, x, expected, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(shards, "ROWS_A_READ", 4)
    for number, part in enumerate(np.split(x, [13, 14])):
        np.save(tmp_path / f"images-{number}.npy", part)
    output = tmp_path / "out" / "scores.csv"
    assert run(folder, tmp_path / "images-*.npy", output, workers) == 0
    found = read(tmp_path / "out" / "scores-*-of-*.csv")
    assert_scores(found, range(31), expected)


def test_tfrecord_in_parquet_out(folder, x, tmp_path):
    ids = [7, 2**40, 0, 12]
    for shard in range(2):
        path = str(tmp_path / f"images-{shard}.tfrecord")
        with tf.io.TFRecordWriter(path) as file:
            for place in (2 * shard, 2 * shard + 1):
                feature = {
                    "row": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[ids[place]])
                    ),
                    "x": tf.train.Feature(
                        float_list=tf.train.FloatList(value=x[place].ravel())
                    ),
                }
                features = tf.train.Features(feature=feature)
                file.write(tf.train.Example(features=features).SerializeToString())
    output = tmp_path / "scores.parquet"
    assert run(folder, tmp_path / "images-*.tfrecord", output) == 0
    model = beam.SavedModelHandler(folder, num_samples=DRAWS, seed=SEED)
    expected = [row[1:] for row in model.run_inference(zip(ids, x), model.load_model())]
    found = read(tmp_path / "scores-*.parquet", pd.read_parquet)
    assert_scores(found, ids, np.array(expected).T)


def test_parquet_in_csv_out(folder, x, expected, tmp_path):
    ids = np.random.default_rng(1).permutation(31)
    for shard in range(3):
        rows = ids[shard::3]
        columns = {
            "row": rows,
            "x": [x[row].ravel().astype("float64") for row in rows],
            "label": rows % 10,
        }
        parquet.write_table(pyarrow.table(columns), tmp_path / f"part-{shard}.parquet")
    assert run(folder, tmp_path / "part-*.parquet", tmp_path / "scores.csv") == 0
    found = read(tmp_path / "scores-*.csv")
    assert_scores(found, range(31), expected)


@pytest.mark.parametrize("row, count", [(1, 2), (-3, 1), (2**63, 1)])
def test_a_row_that_is_not_its_own_is_refused(folder, x, tmp_path, capsys, row, count):
    """A repeated id would give two rows one seed, and the scores one name."""
    ids = np.array([0, 1, row], "uint64" if row == 2**63 else "int64")
    columns = {"row": ids, "x": [image.ravel() for image in x[:3]]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert run(folder, tmp_path / "a.parquet", tmp_path / "scores.csv") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"Received: row={row} in {count} rows" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_shards_with_holes(tmp_path):
    """CSV, and Parquet of pandas, which writes NaN within a list as null."""
    frame = pd.DataFrame({"a": [3.0, np.nan, 1.5, 2.0], "b": ["u", "v", None, "v"]})
    schema = tables.infer_schema(frame)
    nets = MLP([5], 4), MLP([5], schema.num_parameters)
    table = {"likelihood": "mixed", "schema": schema, "missing": "marginalize"}
    model, export = builders.build(event=(2,), nets=nets, **table), tmp_path / "m"
    iwae_tf.export_saved_model(model, export, DRAWS, refined=False)
    for number, rows in enumerate((slice(0, 3), slice(3, 4))):
        frame[rows].to_csv(tmp_path / f"t-{number}.csv", index=False)
    (export / "schema.json").write_text(json.dumps(schema.to_json()))
    assert run(export, tmp_path / "t-*.csv", tmp_path / "scores.csv") == 0
    settings = {"num_samples": DRAWS, "seed": SEED, "batch_size": 1}
    x = tables.encode(frame, schema)
    expected = score(x, saved_model=export, **settings)
    found = read(tmp_path / "scores-*.csv")
    assert_scores(found, range(4), expected)
    pd.DataFrame({"row": range(4), "x": [*x]}).to_parquet(tmp_path / "t.parquet")
    assert run(export, tmp_path / "t.parquet", tmp_path / "again.csv") == 0
    assert_scores(read(tmp_path / "again-*.csv"), range(4), expected)


@pytest.mark.slow
def test_grey_pixels_are_told(folder, x, tmp_path, capfd):
    for name, images in {"grey": 0.25 + 0.5 * x[:4], "binary": x[:4]}.items():
        np.save(tmp_path / f"{name}.npy", images)
        source, output = tmp_path / f"{name}.npy", tmp_path / f"{name}.csv"
        assert run(folder, source, output, workers="processes") == 0
        told = "`x` has values between 0 and 1" in capfd.readouterr().out
        assert told == (name == "grey")


def test_any_cut_of_an_npy_file_reads_the_same_rows(tmp_path):
    rows = np.arange(60, dtype="float64").reshape(10, 3, 2)
    np.save(tmp_path / "a.npy", rows)
    read = shards.reader(".npy", None, FileSystems.open)
    for start, size in ((0, 10), (3, 4), (9, 1), (5, 0)):
        count, found = read(str(tmp_path / "a.npy"), start, size)
        assert count == 10
        np.testing.assert_array_equal(found, rows[start : start + size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x > 2, x, np.nan), "NaN or infinity in row"),
        (lambda x: 2 * x, "x: must be in [0, 1]"),
    ],
)
def test_bad_images_end_the_pipeline_in_one_line(
    folder, x, tmp_path, capsys, change, message
):
    np.save(tmp_path / "images.npy", change(x))
    code = run(folder, tmp_path / "images.npy", tmp_path / "scores.csv")
    (error,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert error.startswith("error: row id ") and message in error
    assert "while running" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]


def test_a_record_that_is_none_is_told_in_one_line(folder, tmp_path, capsys):
    with pytest.raises(InvalidInputError, match="must hold examples in .tfrecord"):
        beam.parse_example(b"garbage")
    path = tmp_path / "cut.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(bytes(50))
    path.write_bytes(path.read_bytes()[:-9])
    code = run(folder, path, tmp_path / "scores.csv")
    assert_one_line(code, capsys, "`input` must hold whole .tfrecord files")


@pytest.mark.parametrize(
    ("source", "output", "flags", "message"),
    [
        ("none-*.npy", "s.csv", {}, "`input` must match at least one file"),
        ("a.txt", "s.csv", {}, "`input` must end in one of .npy, .csv, .tfrecord"),
        ("a.csv", "s.csv", {}, "`saved_model` must have schema.json beside it"),
        ("a.npy", "s.json", {}, "`output` must end in one of .csv, .parquet"),
        ("a.npy", "old.csv", {}, "`output` must have no shards yet"),
        ("bad.npy", "s.csv", {}, "`input` must hold readable .npy files"),
        ("bad.parquet", "s.csv", {}, "`input` must hold readable .parquet files"),
        ("table.parquet", "s.csv", {}, "`input` must have the columns `row`, integers"),
        ("ints.parquet", "s.csv", {}, "and `x`, lists of floats"),
        ("fortran.npy", "s.csv", {}, "in C order is needed: np.ascontiguousarray(x)"),
        ("none.npy", "s.csv", {}, "`input` must have at least one row"),
        ("none.parquet", "s.csv", {}, "`input` must have at least one row"),
        ("none.tfrecord", "s.csv", {}, "`input` must have at least one row"),
        ("a.npy", "s.csv", {"runner": "Nobody"}, "Nobody"),
        (
            *("a.npy", "s.csv", {"option": "direct_num_worker=2"}),
            "`--option` must be an option of Beam, NAME=VALUE. Received: "
            "--option=direct_num_worker",
        ),
        (
            *("a.npy", "s.csv", {"option": "direct_num_workers=abc"}),
            "`--option` must be an option of Beam, NAME=VALUE. Received: "
            "argument --direct_num_workers: invalid int value: 'abc'",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    folder, x, tmp_path, monkeypatch, capsys, source, output, flags, message
):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", x)
    np.save("none.npy", x[:0])
    np.save("fortran.npy", np.asfortranarray(x))
    for name in ("a.txt", "a.csv", "none.tfrecord", "old-00000-of-00003.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "bad.parquet").write_bytes(b"")
    pd.DataFrame({"row": ["0"], "x": [[0.0]]}).to_parquet("table.parquet")
    pd.DataFrame({"row": [0], "x": [[0]]}).to_parquet("ints.parquet")
    one_row = pyarrow.table({"row": [0], "x": [[0.0]]})
    parquet.write_table(one_row[:0], "none.parquet")
    before = sorted(tmp_path.iterdir())
    assert run(folder, source, output, **flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error:") and message in error
    assert sorted(tmp_path.iterdir()) == before
