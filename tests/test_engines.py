"""Scores by Spark against the client: its functions here, whole jobs on real Java."""

import functools
import importlib
import shutil
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from running import assert_one_line, run_script
from test_serving import EVENT, build

import iwae_tf
from iwae_tf.errors import InvalidInputError
from iwae_tf.serving import score, shards, spark

COLUMNS = shards.SCHEMA.names
DRAWS, SEED = 20, (3, 4)
MODEL = {"num_samples": DRAWS, "seed": SEED}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "digits"
    iwae_tf.export_saved_model(build(), path, DRAWS)
    return path


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 2, [23, *EVENT]).astype("float32")


@pytest.fixture(scope="module")
def expected(export, x):
    """float32 [N, columns], the id first."""
    found = score(x, saved_model=export, batch_size=1, **MODEL)
    return np.column_stack([np.arange(len(x)), *found]).astype("float32")


@pytest.fixture
def folder(x, tmp_path):
    """Shards of both kinds: .npy, and .parquet in another order."""
    for number, rows in enumerate((x[:9], x[9:])):
        np.save(tmp_path / f"x-{number}.npy", rows)
    ids = np.random.default_rng(1).permutation(len(x))
    for number, rows in enumerate((ids[:5], ids[5:])):
        write_parquet(tmp_path / f"x-{number}.parquet", rows, x[rows])
    return tmp_path


def write_parquet(path, ids, x):
    parquet.write_table(table_of(ids, x), path)


def table_of(ids, x):
    return pyarrow.table({"row": ids, "x": [row.ravel() for row in x]})


def as_array(batches):
    table = pyarrow.Table.from_batches(batches).sort_by("row")
    assert table.schema == shards.SCHEMA
    return np.column_stack([table.column(name) for name in COLUMNS]).astype("float32")


def test_what_workers_do_gives_the_scores_of_the_client(
    export, folder, x, expected, monkeypatch
):
    monkeypatch.setattr(shards, "ROWS_A_READ", 4)
    scorer = shards.RowScorer(export, **MODEL)
    ids = np.random.default_rng(2).permutation(len(x))
    batches = table_of(ids, x[ids]).to_batches(max_chunksize=5)
    found = as_array([*spark._Scores(scorer, spark._rows_of_table)(batches)])
    np.testing.assert_array_equal(found, expected)
    read = shards.reader(".npy", None, spark._open)
    parts = shards.parts_of(sorted(map(str, folder.glob("*.npy"))), read)
    assert [part.size for part in parts] == [4, 4, 1, 4, 4, 4, 2]
    numbers = pyarrow.record_batch([range(len(parts))], names=["id"])
    rows_of = functools.partial(spark._rows_of_parts, read, parts)
    found = as_array([*spark._Scores(scorer, rows_of)([numbers])])
    np.testing.assert_array_equal(found, expected)
    one = shards.RowScorer(export, num_samples=1, seed=SEED)
    (batch,) = spark._Scores(one, spark._rows_of_table)(batches[:1])
    errors = batch.column("jackknife_error")
    assert errors.null_count == 0 and np.isnan(errors).all()  # NaN, not null


def test_a_process_loads_the_model_once(export):
    scorers = [shards.RowScorer(export, num_samples=k, seed=SEED) for k in (1, 2)]
    assert scorers[0].load() is scorers[1].load()


@pytest.mark.parametrize(
    "source, output, settings, words",
    [
        ("x-*.npy", "old.csv", {}, "`output` must be a new folder"),
        ("x-*.npy", "s.json", {}, "`output` must end in one of .csv, .parquet"),
        ("y-*.npy", "s.csv", {}, "`input` must match one file at least"),
        ("x.tfrecord", "s.csv", {}, "`input` must end in one of .npy, .csv, .parquet"),
        ("s3a://b/x.npy", "s.csv", {}, "`input` must be .parquet, or in a folder"),
        ("x-*.npy", "s.csv", {"master": "loca"}, "`master` must be .* master=loca"),
        ("x-*.npy", "s.csv", {"options": ["a=1"]}, "`option` must be .* option=a=1"),
        ("x-*.npy", "s.csv", {"options": ["spark.a"]}, "`option` must be"),
        ("bad.parquet", "s.csv", {}, "`input` must hold readable .parquet files"),
        ("words.parquet", "s.csv", {}, "`input` must have the columns `row`"),
        ("x-*.npy", "s.csv", {"path": ""}, "`engine` must be beam where Java is"),
        ("old.csv", "s.csv", {}, "`saved_model` must have schema.json beside it"),
    ],
)
def test_mistakes_are_told_before_spark_starts(
    export, folder, monkeypatch, source, output, settings, words
):
    monkeypatch.chdir(folder)
    (folder / "old.csv").write_text("a\n1\n")
    (folder / "bad.parquet").write_bytes(b"PAR1")
    words_table = pyarrow.table({"row": ["a"], "x": [[1.0]]})
    parquet.write_table(words_table, folder / "words.parquet")
    (folder / "java").touch(mode=0o755)  # never started
    path, settings = settings.get("path", "."), {"master": "local", **settings}
    settings.pop("path", None)
    monkeypatch.setenv("PATH", path)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    scorer = shards.RowScorer(export, **MODEL)
    with pytest.raises(InvalidInputError, match=words):
        spark.Job(source, output, scorer, **settings)


def test_without_pyspark_the_script_says_what_to_install(
    export, folder, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    flags = f"--input={folder}/x-*.npy", f"--output={folder}/s.csv", "--engine=spark"
    code = run_script("score_beam", f"--saved_model={export}", *flags)
    assert_one_line(code, capsys, "pip install 'iwae_tf[spark]'")


# Real clusters, in `.ci/nightly` ---------------------------------------------------


def needs(engine, program=None):
    """The mark of a test that is skipped, with the reason, where one is missing."""
    try:
        importlib.import_module(engine)
        missing = None if program is None or shutil.which(program) else program
    except ImportError:
        missing = engine
    return pytest.mark.skipif(missing is not None, reason=f"needs {missing}")


@pytest.mark.slow
@needs("pyspark", "java")
def test_a_cluster_of_spark_gives_the_scores_of_the_client(
    export, folder, x, expected, capfd
):
    def run(source, output):
        return run_script(
            "score_beam",
            f"--saved_model={export}",
            f"--input={folder / source}",
            f"--output={folder / output}",
            *("--engine=spark", "--master=local-cluster[2,1,2048]"),
            *(f"--num_samples={DRAWS}", "--seed=3,4"),
        )

    assert run("x-*.parquet", "s.parquet") == 0
    found = parquet.read_table(folder / "s.parquet")
    assert found.schema.names == COLUMNS
    np.testing.assert_array_equal(as_array(found.to_batches()), expected)
    assert run("x-*.npy", "s.csv") == 0
    files = sorted((folder / "s.csv").glob("part-*.csv"))
    assert {file.read_text().splitlines()[0] for file in files} == {",".join(COLUMNS)}
    rows = np.concatenate(
        [np.loadtxt(f, np.float32, delimiter=",", skiprows=1, ndmin=2) for f in files]
    )
    np.testing.assert_array_equal(rows[rows[:, 0].argsort()], expected)
    assert capfd.readouterr().err == ""
    write_parquet(folder / "x-2.parquet", [3, 99], x[:2])
    assert_one_line(run("x-*.parquet", "t.csv"), capfd, "Received: row=3 in 2 rows")
    write_parquet(folder / "y.parquet", [5, 6], 2 * x[:2] + 1)
    assert_one_line(run("y.parquet", "t.csv"), capfd, "row id ", "in [0, 1]")
    assert not (folder / "t.csv").exists()
