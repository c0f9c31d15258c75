"""Several devices and several workers compute what one does."""

import json
import os
import subprocess
import sys

import children
import numpy as np
import pytest
import tensorflow as tf
from running import REPOSITORY, history, run_process

from benchmarks.scaling import step_of
from iwae_tf import datasets
from iwae_tf.errors import InvalidInputError
from iwae_tf.runs import devices
from iwae_tf.runs.devices import make_distribution, read_cluster
from iwae_tf.runs.workdir import read_json
from torture import processes
from torture.job import MIRRORED, tiny_config, write_data
from torture.trials import Trials

# Data of each replica --------------------------------------------------------------


def rows_of(num_shards, shards, *, count=11, batch_size=4, **kwargs):
    """The values of each batch of two epochs, for some shards."""
    images = np.arange(count, dtype=np.float32)[:, np.newaxis] / count
    settings = {"epochs": 2, "seed": 3, **kwargs}
    data = datasets.batches(
        images, batch_size=batch_size, num_shards=num_shards, shards=shards, **settings
    )
    found = [batch.numpy()[:, 0] for batch in data]
    assert len(found) == int(data.cardinality())
    return found


@pytest.mark.parametrize("num_shards", [2, 3, 5])
@pytest.mark.parametrize("first_batch", [0, 2])
def test_shards_are_the_batch_without_overlap_or_loss(num_shards, first_batch):
    """Batches of 4, 4 and 3 rows: five shards of them leave some without any."""
    whole = rows_of(1, range(1), first_batch=first_batch)
    parts = [
        rows_of(num_shards, range(shard, shard + 1), first_batch=first_batch)
        for shard in range(num_shards)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(shares), batch)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_a_worker_of_two_devices_gets_both_shards_in_turn():
    whole = rows_of(1, range(1))
    pairs = rows_of(4, range(2, 4))
    for batch, third, fourth in zip(whole, pairs[::2], pairs[1::2], strict=True):
        both = np.concatenate([third, fourth])
        np.testing.assert_array_equal(both, batch[len(batch) * 2 // 4 :])


# Clusters and flags ----------------------------------------------------------------


def cluster(kind, index, **hosts):
    return json.dumps({"cluster": hosts, "task": {"type": kind, "index": index}})


def test_the_chief_is_the_first_worker():
    both = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    assert read_cluster(cluster("chief", 0, **both)) == (0, 3)
    assert read_cluster(cluster("worker", 1, **both)) == (2, 3)
    assert read_cluster(cluster("worker", 0, worker=["b:1", "c:1"])) == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{", "[]", "{}"),
        cluster("worker", 2, worker=["a:1", "b:1"]),
        cluster("worker", -1, worker=["a:1"]),
        cluster("ps", 0, worker=["a:1"], ps=["b:1"]),
        cluster("chief", 0, chief=["a:1", "b:1"]),
        cluster("worker", 0, worker=[1, 2]),
        cluster("worker", "many", worker=["a:1"]),
        cluster("worker", float("inf"), worker=["a:1"]),
    ],
)
def test_bad_clusters_are_one_line(text):
    with pytest.raises(InvalidInputError, match="`TF_CONFIG` must") as error:
        read_cluster(text)
    assert "\n" not in str(error.value)


def test_one_device_needs_no_strategy():
    distribution = make_distribution()
    assert distribution.num_replicas == 1 and distribution.is_chief
    assert distribution.agree([True, False]) == [True, False]
    assert distribution.broadcast(b"abc") == b"abc"
    with pytest.raises(InvalidInputError, match="`distribute` must be one of"):
        make_distribution("tpu")
    with pytest.raises(InvalidInputError, match="`num_devices` must be left out"):
        make_distribution("none", 2)


def test_a_cluster_of_one_worker_has_all_devices_of_its_machine(monkeypatch):
    cluster = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    monkeypatch.setattr(devices, "_devices", lambda n: [f"CPU:{i}" for i in range(n)])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: devices)
    distribution = make_distribution("multi_worker", 3)
    assert distribution.num_replicas == 3 and distribution.num_workers == 1
    assert distribution.strategy == distribution.devices
    cluster["cluster"]["worker"] += ["b:1"]
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(InvalidInputError, match="`num_devices` must be left out"):
        make_distribution("multi_worker", 3)


# Whole runs ------------------------------------------------------------------------


def script(name, *arguments):
    done = run_process(f"iwae_tf.{name}", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With `config.json` of a tiny run, and that run in `one`, of one device."""
    folder = tmp_path_factory.mktemp("runs")
    write_data(folder / "data.npz")
    config = tiny_config(str(folder / "data.npz"), epochs=2)
    config.eval_num_samples, config.eval_split = 50, "test"
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    train(folder, "one")
    return folder


def train(folder, name, *flags):
    config, workdir = folder / "config.json", folder / name
    script("train", f"--config={config}", f"--workdir={workdir}", *flags)


def read_run(workdir):
    """The rows of a run's history, and its results."""
    return history(workdir), read_json(workdir / "results.json")


def assert_same_scores(ours, theirs):
    for key in ("nll", "standard_error", "bound"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key


@pytest.mark.slow
def test_three_devices_train_and_evaluate_as_one(folder):
    """The scripts with three logical CPUs, and parts of 6, 7 and 7 rows."""
    devices = ["--distribute=mirrored", "--num_devices=3"]
    train(folder, "three", *devices)
    (ones, one), (threes, three) = (read_run(folder / n) for n in ("one", "three"))
    for ours, theirs in zip(threes, ones, strict=True):
        for key in set(theirs) - {"seconds"}:
            expected = pytest.approx(float(theirs[key]), rel=1e-3)
            assert float(ours[key]) == expected, key
    assert three["nll"] == pytest.approx(one["nll"], abs=1e-2)
    # The same model on one device and on three: to rounding.
    flags, output = [f"--workdir={folder / 'one'}"], folder / "found.json"
    script("evaluate", *flags, f"--output={output}", *devices)
    assert_same_scores(read_json(output), one)


@pytest.mark.slow
def test_two_workers_evaluate_as_one(folder):
    """Each scores its share of the images; the chief prints and writes the whole."""
    outputs = [folder / name for name in ("one.json", "chief.json", "other.json")]
    flags = [f"--workdir={folder / 'one'}", "--split=train", "--num_samples=5000"]
    script("evaluate", *flags, f"--output={outputs[0]}")
    jobs = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "iwae_tf.evaluate", *flags),
                *(f"--output={output}", "--distribute=multi_worker"),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"TF_CONFIG": json.dumps(cluster)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for output, cluster in zip(outputs[1:], processes.clusters(2))
    ]
    printed = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], printed
    one, chief = map(read_json, outputs[:2])
    assert one["num_examples"] == chief["num_examples"] == 369
    assert_same_scores(chief, one)
    assert not outputs[2].exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, rows_of",
    [
        (
            {"kills": 0, "seed": 0},
            lambda t: (*t.workers(2), *t.workers(3), *t.workers(2, kill=True)),
        ),
        ({"kills": 5, "seed": 1}, lambda t: (*t.kill(), *t.stop(), *t.damage(5))),
        ({"kills": 2, "seed": 2, "kind": MIRRORED}, lambda t: t.kill()),
    ],
    ids=["workers", "kills", "kills on two devices"],
)
def test_the_loss_of_a_process_changes_nothing(tmp_path, settings, rows_of):
    """Some of what `make torture` tries."""
    for row in rows_of(Trials(tmp_path, **settings)):
        assert row.good, row


@pytest.mark.slow
def test_the_copies_of_two_devices_are_equal_to_the_last_bit(tmp_path):
    """TensorFlow rewrites the graph of each: without a copy Muon's would differ."""
    write_data(tmp_path / "data.npz")
    done = children.run("torture.replicas", tmp_path / "data.npz")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"adam": [], "burda_adam": [], "muon": []}


def test_the_model_of_scaling_is_that_of_the_docs():
    constants = {"fixed": 2.0, "an_image": 0.5, "size": 12.0}
    constants |= {"latency": 0.1, "bandwidth": 3.0}
    assert step_of(1, 10, **constants) == 2.0 + 0.5 * 10
    seconds = 2.0 + 0.5 * 4 + 2 * 2 * 0.1 + 2 * 2 / 3 * 12.0 / 3.0
    assert step_of(3, 10, **constants) == pytest.approx(seconds)
