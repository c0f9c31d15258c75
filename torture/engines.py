"""A worker of each engine killed midway: is a row or a cell lost, doubled or changed?

python -m torture.engines prints the rows; an engine that is not installed has none.
"""

import csv
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from pyarrow import parquet

from torture import processes
from torture.damage import make_model
from torture.trials import Row

ROWS_A_SHARD, NUM_SHARDS, DRAWS = 16, 16, 5
EPOCHS = 40  # of a cell
LIMIT = 900  # seconds: an engine takes minutes to start where the cores are busy


def descendants(pid):
    """(process id, command) of all processes that a process has started."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    family, found = {pid}, []
    while True:
        new = [r for r in rows if int(r[1]) in family and int(r[0]) not in family]
        if not new:
            return found
        family |= {int(row[0]) for row in new}
        found += [(int(row[0]), row[2]) for row in new if len(row) == 3]


def wait_for(condition, process):
    """What a condition gives, or None once the process has ended or is too slow."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.05)
    return None


def start(log, module, *flags):
    """Starts a script, its output in a file."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", f"iwae_tf.{module}", *map(str, flags)],
            cwd=processes.REPOSITORY,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def spark(folder):
    """SIGKILL of one of two executors once a quarter of the tasks has ended."""
    from iwae_tf.saved_model import export_saved_model
    from iwae_tf.serving import score

    folder = pathlib.Path(folder)
    export_saved_model(make_model(), folder / "model", DRAWS)
    x = np.random.default_rng(0).integers(0, 2, [ROWS_A_SHARD * NUM_SHARDS, 6])
    x = x.astype("float32")
    for shard in range(NUM_SHARDS):
        rows = x[shard * ROWS_A_SHARD : (shard + 1) * ROWS_A_SHARD]
        np.save(folder / f"x-{shard:02}.npy", rows)
    model = {"saved_model": folder / "model", "num_samples": DRAWS}
    expected = score(x, batch_size=1, **model)
    output = folder / "scores.parquet"
    job = start(
        folder / "spark.log",
        "score_beam",
        *(f"--{name}={value}" for name, value in model.items()),
        f"--input={folder}/x-*.npy",
        f"--output={output}",
        *("--engine=spark", "--master=local-cluster[2,1,2048]"),
    )

    def done():
        return len([*output.glob("_temporary/0/task_*")])

    def executors():
        wanted = "CoarseGrainedExecutorBackend"
        return [pid for pid, command in descendants(job.pid) if wanted in command]

    wait_for(lambda: done() >= NUM_SHARDS // 4, job)
    at_kill, victims = done(), executors()
    if victims:
        os.kill(victims[0], signal.SIGKILL)
    code = finish(job)
    if code != 0 or not victims or at_kill == NUM_SHARDS:
        return Row("Spark executor killed", 1, f"exit code {code}, not midway", False)
    table = parquet.read_table(output).sort_by("row")
    ids, scores = table.column(0).to_numpy(), table.columns[1:]
    same = len(ids) == len(x) and all(
        np.array_equal(column.to_numpy(), values, equal_nan=True)
        for column, values in zip(scores, expected)
    )
    lost = len({*range(len(x))} - {*ids})
    doubled = len(ids) - len({*ids})
    found = (
        f"after {at_kill} of {NUM_SHARDS} tasks; of {len(x)} rows {lost} lost, "
        f"{doubled} doubled, scores {'bit-identical' if same else 'CHANGED'}"
    )
    return Row("Spark executor killed", 1, found, same and not lost and not doubled)


def ray(folder):
    """SIGKILL of a Ray worker on one of two nodes once its run has a checkpoint."""
    from ray.cluster_utils import Cluster

    from iwae_tf.io.files import write_json
    from torture.job import tiny_config, write_data

    folder = pathlib.Path(folder)
    # Bits depend on the number of threads; Ray gives a run one. Only we shall kill.
    os.environ.update(
        TF_NUM_INTRAOP_THREADS="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_memory_monitor_refresh_ms="0",
    )
    write_data(folder / "data.npz")
    config = tiny_config(str(folder / "data.npz"), EPOCHS)
    config.jit_compile, config.eval_num_samples = False, 10
    write_json(folder / "cell.json", config.to_dict())
    cells = f"--config={folder}/cell.json", "--grid=seed=0,1,2"
    pool = finish(
        start(folder / "pool.log", "sweep", *cells, f"--folder={folder}/pool")
    )
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        engine = "--engine=ray", f"--address={cluster.address}"
        job = start(
            folder / "ray.log", "sweep", *cells, f"--folder={folder}/ray", *engine
        )
        begun = wait_for(lambda: [*folder.glob("ray/*/checkpoints/*.npz")], job)
        victim = trains(begun[0].parents[1]) if begun else None
        if victim:
            os.kill(victim, signal.SIGKILL)
        codes = pool, finish(job)
    finally:
        cluster.shutdown()
    ours, theirs = outcomes(folder / "ray"), outcomes(folder / "pool")
    same = sum(processes.is_same(ours.get(name, {}), theirs[name]) for name in theirs)
    logs = [path.read_text() for path in folder.glob("ray/*/log.txt")]
    resumed = sum(log.count("resumed after epoch") for log in logs)
    found = (
        f"{len(ours)} cells done once, {resumed} resumed, {same} of {len(theirs)} "
        "bit-identical to those of the pool"
    )
    good = codes == (0, 0) and bool(victim) and resumed > 0
    return Row("Ray worker killed", 1, found, good and same == len(ours) == 3)


def trains(workdir):
    """The process id of the Ray worker whose child trains in a folder."""
    listed = subprocess.run(
        ["ps", "-eo", "ppid=,args="], capture_output=True, text=True, check=True
    )
    lines = [line for line in listed.stdout.splitlines() if str(workdir) in line]
    return int(lines[0].split()[0]) if lines else None


def outcomes(folder):
    """What the table, the metrics and the last checkpoint of each run say."""
    found = {}
    for outcome in json.loads((folder / "sweep.json").read_text())["runs"]:
        workdir = folder / outcome["name"]
        with open(workdir / "metrics.csv", newline="") as file:
            rows = [[*map(float, row.values())] for row in csv.DictReader(file)]
        last = max(workdir.glob("checkpoints/*.npz"))
        with np.load(last, allow_pickle=False) as archive:
            arrays = {n: archive[n] for n in archive.files if n.startswith("model:")}
        figures = [outcome["nll"], outcome["bound"], outcome["status"] == "done"]
        found[outcome["name"]] = arrays | {
            "figures": np.array(figures),
            "epochs": np.array([row[0] for row in rows]),
            "bounds": np.array([row[1] for row in rows]),
        }
    return found


def finish(job):
    """The exit code of a job, which is killed if it takes too long."""
    wait_for(lambda: False, job)
    if job.poll() is None:
        job.kill()
    return job.wait()


TRIALS = {"pyspark": spark, "ray": ray}


def trials(folder):
    """The rows of the engines that are installed."""
    for library, trial in TRIALS.items():
        has_all = library != "pyspark" or shutil.which("java")
        if importlib.util.find_spec(library) and has_all:
            with tempfile.TemporaryDirectory(dir=folder) as inner:
                yield trial(inner)
        else:
            print(f"{library} or Java is not installed: not tried", file=sys.stderr)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for row in trials(folder):
            print(f"{row.times:4} x {row.trial}: {row.found}", flush=True)
