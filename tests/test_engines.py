"""Spark against the client, Ray against the pool; on real clusters in `.ci/nightly`."""

import _thread
import functools
import importlib
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pyarrow
import pytest
from builders import DIGITS as EVENT
from builders import DRAWS
from pyarrow import parquet
from running import (
    REPOSITORY,
    assert_one_line,
    assert_same_weights,
    refusal,
    run_script,
)

from iwae_tf.config.files import config_from, read_json
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import FolderLock
from iwae_tf.serving import score, shards, spark
from iwae_tf.studies import on_ray, runner

COLUMNS = shards.SCHEMA.names
SEED = (3, 4)
MODEL = {"num_samples": DRAWS, "seed": SEED}


@pytest.fixture(scope="module")
def export(digits):
    return digits[1]


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
    found = as_array([*spark._scores(scorer, spark._rows_of_table, batches)])
    np.testing.assert_array_equal(found, expected)
    read = shards.reader(".npy", None, spark._open)
    parts = shards.parts_of(sorted(map(str, folder.glob("*.npy"))), read)
    assert [part.size for part in parts] == [4, 4, 1, 4, 4, 4, 2]
    numbers = pyarrow.record_batch([range(len(parts))], names=["id"])
    rows_of = functools.partial(spark._rows_of_parts, read, parts)
    found = as_array([*spark._scores(scorer, rows_of, [numbers])])
    np.testing.assert_array_equal(found, expected)
    one = shards.RowScorer(export, num_samples=1, seed=SEED)
    (batch,) = spark._scores(one, spark._rows_of_table, batches[:1])
    errors = batch.column("jackknife_error")
    assert errors.null_count == 0 and np.isnan(errors).all()  # NaN, not null


def test_a_process_loads_the_model_once(export):
    scorers = [shards.RowScorer(export, num_samples=k, seed=SEED) for k in (1, 2)]
    assert scorers[0].load() is scorers[1].load()


def test_a_version_that_comes_up_meanwhile_is_left_alone(export, tmp_path):
    shutil.copytree(export / "1", tmp_path / "name" / "1")
    scorer = shards.RowScorer(tmp_path / "name", **MODEL)
    shutil.copytree(export / "1", tmp_path / "name" / "2")
    assert scorer.load().identity.startswith("name/1 ")
    newest = shards.RowScorer(tmp_path / "name" / "2", **MODEL)
    assert newest.load().identity.startswith("name/2 ")


@pytest.mark.parametrize(
    "source, output, settings, words",
    [
        ("x-*.npy", "old.csv", {}, "`output` must be a new folder"),
        ("x-*.npy", "s.json", {}, "`output` must end in one of .csv, .parquet"),
        ("y-*.npy", "s.csv", {}, "`input` must match at least one file"),
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


@pytest.mark.parametrize(
    "command, words",
    [
        ("score_beam SCORED --engine=spark", "pip install 'iwae_tf[spark]'"),
        ("score_beam SCORED --master=local", "`--master` must be left out with"),
        ("score_beam SCORED --engine=spark --runner=x", "`--runner` must be left out"),
        ("sweep TRAINED --engine=ray", "pip install 'iwae_tf[ray]'"),
        ("sweep TRAINED --address=auto", "`address` must be left out, or --engine=ray"),
        ("sweep TRAINED --gpus=1", "`gpus` must be left out, or --engine=ray"),
        ("sweep TRAINED --gpus=-1", "--gpus=-1"),
    ],
)
def test_the_scripts_say_what_they_need(
    export, folder, tiny, monkeypatch, capsys, command, words
):
    for library in ("pyspark", "ray"):
        monkeypatch.setitem(sys.modules, library, None)
    scored = f"--saved_model={export}", f"--input={folder}/x-*.npy"
    flags = {
        "SCORED": [*scored, f"--output={folder}/s.csv"],
        "TRAINED": [*tiny, f"--folder={folder}/sweep"],
    }
    script, kind, *rest = command.split()
    assert_one_line(run_script(script, *flags[kind], *rest), capsys, words)
    assert not (folder / "sweep").exists()


def test_a_task_of_ray_waits_for_the_training_before_it_and_stops_when_asked(
    tmp_path, monkeypatch
):
    run, stopped = runner.Run("a", None), runner.Outcome("a", runner.STOPPED, "")
    lock, told = FolderLock(tmp_path / "a", "workdir"), threading.Event()

    def run_one(run, folder, *, stop, report, threads):
        assert told.is_set() and threads == 3
        time.sleep(0.5)  # until the task waits
        _thread.interrupt_main()  # what ray.cancel does
        assert stop.wait(60)
        return stopped

    def end():
        told.set()
        lock.release()

    monkeypatch.setattr(runner, "run_one", run_one)
    threading.Timer(0.3, end).start()
    # As in a worker of Ray; those of pytest-xdist do not hear of interrupts.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert on_ray._task(run, tmp_path, threads=3) == stopped
    finally:
        signal.signal(signal.SIGINT, handler)


def test_the_master_of_spark_is_no_option():
    settings = {"master": "local[1]", "options": ["spark.master=spark://x"]}
    words = refusal(spark.Job, "x-*.npy", "s.csv", None, **settings)
    assert "`option` must be an option of Spark" in words and "--master=URL" in words


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
    def run(source, output, *more):
        return run_script(
            "score_beam",
            f"--saved_model={export}",
            f"--input={folder}/{source}",
            f"--output={output if '://' in output else folder / output}",
            *("--engine=spark", "--master=local-cluster[2,1,2048]"),
            *(f"--num_samples={DRAWS}", "--seed=3,4"),
            *more,
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
    memory = "--option=spark.executor.memory=abc"
    assert_one_line(run("y.parquet", "t.csv", memory), capfd, "of a Spark that starts")
    folder.joinpath("s.csv").rename(folder / "u.csv")
    again = run("x-*.npy", f"file://{folder}/u.csv")  # which Spark alone looks at
    assert_one_line(again, capfd, "`output` be new", "u.csv")


def stop_once_trained(folder, stop):
    while not [*folder.glob("long/checkpoints/*.npz")]:
        time.sleep(0.1)
    stop.set()


@pytest.mark.slow
@needs("ray")
def test_a_cluster_of_ray_does_what_processes_do(tiny, tmp_path, monkeypatch, capfd):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # which bits depend on
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    small = "--config.epochs=1", "--config.eval_num_samples=5", "--grid=seed=0,1"

    def sweep(name, *flags):
        return run_script("sweep", *tiny, *small, f"--folder={tmp_path / name}", *flags)

    assert sweep("pool") == 0
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        engine = "--engine=ray", f"--address={cluster.address}"
        assert sweep("ray", *engine) == 0
        printed = capfd.readouterr().out
        assert_one_line(sweep("big", *engine, "--cpus=99"), capfd, "`cpus` and `gpus`")
        for name in ("seed=0", "seed=1"):
            assert_same_weights(tmp_path / "pool" / name, tmp_path / "ray" / name)
            assert printed.count(f"{name}: handed to Ray") == 1
        assert sweep("ray", *engine) == 0  # what is done is only read
        assert "seed=1  done" in capfd.readouterr().out
        long = config_from(read_json(tmp_path / "ray/seed=0/config.json"), "")
        long.epochs, stop = 10_000, threading.Event()
        with on_ray.engine("ray", address=cluster.address) as settings:
            waiter = threading.Thread(target=stop_once_trained, args=(tmp_path, stop))
            waiter.start()
            runs = [runner.Run("long", long)]
            (outcome,) = runner.run_all(runs, tmp_path, stop=stop, **settings)
            waiter.join()
        assert outcome.status == "stopped", outcome
        FolderLock(tmp_path / "long", "workdir").release()  # it has ended by now
    finally:
        cluster.shutdown()
    assert_one_line(sweep("x", "--engine=ray", "--address=[]"), capfd, "`address` must")
