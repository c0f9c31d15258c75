"""Sweeps: what a grid means, and real runs that finish, fail, stop and go on."""

import functools
import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
from running import changed, run_process

from iwae_tf import cli
from iwae_tf.config import default_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import processes
from iwae_tf.io.files import FolderLock
from iwae_tf.studies import runner
from iwae_tf.studies.runner import Outcome, Run, expand_grid, run_all


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of some seconds on 40 images."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, [60, 6]).astype(np.float32)
    np.savez(path, x_train=x[:40], x_test=x[40:])
    config = default_config()
    config.dataset, config.data_dir, config.binarization = "npz", str(path), "none"
    config.latent_dims, config.hidden_dims = [2], [[4]]
    config.num_samples, config.batch_size, config.epochs = 2, 20, 1
    config.lr_schedule, config.jit_compile = "constant", False
    config.eval_split, config.eval_num_samples = "test", 10
    return config


def finished(path, config, text=None):
    """A folder of a run that is done; `text` stands for its results."""
    path.mkdir(parents=True)
    results = json.dumps({"nll": 1, "config": config.to_dict()})
    (path / "results.json").write_text(text or results)
    (path / "model.keras").write_text(path.name)
    return path


# Grids -----------------------------------------------------------------------------


def test_a_grid_is_every_combination(config):
    axes = ["num_samples=1,5", "model=vae,iwae", "latent_dims=[2],[3]"]
    runs = expand_grid(config, axes)
    keys = ("num_samples", "model", "latent_dims")
    found = [tuple(run.config[key] for key in keys) for run in runs]
    assert found == list(itertools.product((1, 5), ("vae", "iwae"), ([2], [3])))
    assert len({run.name for run in runs}) == 8
    assert runs[0].name == "num_samples=1_model=vae_latent_dims=_2"
    assert config.num_samples == 2 and config.model == "iwae"  # as it was
    assert expand_grid(config, []) == [Run("run", config)]


@pytest.mark.parametrize(
    "axes, words",
    [
        (["foo=1"], "`foo` must be a config key"),
        (["latent_dims.0=5,10"], "a config key, .* Did you mean latent_dims"),
        (["seed"], "KEY=VALUE"),
        (["seed="], "KEY=VALUE"),
        (["seed=1,1"], "must not repeat"),
        (["seed=1", "seed=2"], "each key once"),
        (["seed=many"], "`seed` must have the type of 0"),
        (["seed=1,x"], "Received: seed='x'"),
        (["seed=__import__('os')"], "`seed` must have the type"),
        (["seed=0,1", "model=vae,vaeX"], "Received: model='vaeX'. Did you mean vae"),
        (["num_groups=1,2"], "`num_groups` must be 1 for iwae"),
        (["data_dir=nowhere"], "`data_dir` must be a path that exists"),
        (["start_from=nowhere"], "`start_from` must be a path that exists"),
    ],
)
def test_bad_grids(config, axes, words):
    with pytest.raises(InvalidInputError, match=words):
        expand_grid(config, axes)


STAGES = {"stages": [[2, 1, 1e-3, 1e-4]]}


@pytest.mark.parametrize(
    "settings, axis, where",
    [
        (STAGES, "learning_rate=1e-3,1e-4", "the config has stages"),
        (
            {"optimizer": "burda_adam"},
            "adam_epsilon=1e-4,1e-8",
            "the optimizer is burda_adam",
        ),
        ({"network": "mlp"}, "conv_channels=[4,8]", "the network is mlp"),
    ],
)
def test_a_key_without_effect_is_refused(config, settings, axis, where):
    """All runs of such a grid would be the same one."""
    given, key = changed(config, **settings), axis.partition("=")[0]
    with pytest.raises(
        InvalidInputError, match=f"`{key}` must be left out where {where}"
    ):
        expand_grid(given, [axis])
    assert len(expand_grid(given, ["seed=0,1"])) == 2


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "a\n", "twice"])
def test_bad_names(config, tmp_path, name):
    runs = [Run(name, config)] * (1 + (name == "twice"))
    words = "twice twice" if name == "twice" else "`name` must be"
    with pytest.raises(InvalidInputError, match=words):
        run_all(runs, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Runs ------------------------------------------------------------------------------

# Behaves as the training script does, by the seed of its config, without TensorFlow.
STAND_IN = """
import json, os, pathlib, runpy, signal, sys, time
runpy.run_path("PROCESSES")["follow_parent"]()
workdir = pathlib.Path(sys.argv[2].partition("=")[2])
config = json.loads((workdir / "config.json").read_text())
seed = config["seed"]
if not os.path.exists(config["data_dir"]):
    sys.exit("error: `data_dir` must exist")
with open(workdir / "starts", "a") as file:
    file.write("x")
if seed == 1:
    print("epoch 1:  5%\\rerror: the bound is nan at step 2", file=sys.stderr)
    sys.exit(1)
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 3:
    raise RuntimeError("a traceback")
if seed == 6:
    (workdir / "trains").touch()
    time.sleep(60)
if seed == 4 and not (workdir / "checkpoint").exists():
    def stop(*_):
        (workdir / "checkpoint").touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    (workdir / "trains").touch()
    time.sleep(60)
numbers = {"nll": 80.0 + seed, "jackknife_error": 0.1, "bound": -90.0, "seconds": 2.0}
(workdir / "results.json").write_text(json.dumps(numbers))
"""


def train_by(script, folder, monkeypatch):
    """Has runs start another script, which is written into a folder."""
    path = folder / "stand_in.py"
    path.write_text(script.replace("PROCESSES", processes.__file__))
    monkeypatch.setattr(runner, "TRAIN", (sys.executable, str(path)))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    train_by(STAND_IN, tmp_path, monkeypatch)


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def starts(folder, name):
    path = folder / name / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_failed_runs_end_no_other_and_are_named(config, tmp_path, stand_in):
    runs = expand_grid(config, ["seed=0,1,2,3,5"])
    rule = changed(config, num_samples=0)
    runs.insert(1, Run("rule", rule))
    folder, lines = tmp_path / "sweep", []
    outcomes = run_all(runs, folder, num_processes=3, report=lines.append)
    assert [o.name for o in outcomes] == [run.name for run in runs]
    assert [o.status for o in outcomes] == ["done", *["failed"] * 4, "done"]
    assert outcomes[0][3:] == (80.0, 0.1, -90.0, 2.0, "")
    messages = [o.message for o in outcomes[1:5]]
    reasons = ("`num_samples` must be", "the bound is nan at step 2 (see")
    for message, words in zip(messages, (*reasons, "signal 9", "trace"), strict=True):
        assert words in message and "\n" not in message
    assert "seed=1: failed the bound is nan at step 2" in "\n".join(lines)
    # Once more: what is done is only read, what failed is tried again.
    again = run_all(runs, folder, report=lines.append)
    assert again == outcomes
    assert [starts(folder, run.name) for run in runs] == [1, 0, 2, 2, 2, 1]


def test_trainings_end_with_a_killed_sweep(config, tmp_path, stand_in):
    """They are asked to stop; the same call again goes on, and appends to the log."""
    runs, workdir = expand_grid(config, ["seed=4"]), tmp_path / "seed=4"
    workdir.mkdir()
    (workdir / "log.txt").write_text("first\n")
    sweep = os.fork()
    if sweep == 0:
        run_all(runs, tmp_path)
        os._exit(0)
    wait_for(workdir / "trains")
    os.kill(sweep, signal.SIGKILL)
    os.waitpid(sweep, 0)
    wait_for(workdir / "checkpoint")
    (outcome,) = run_all(runs, tmp_path)
    assert outcome.status == "done", outcome.message
    assert (workdir / "log.txt").read_text().startswith("first\n")
    assert starts(tmp_path, "seed=4") == 2


def test_a_folder_in_use_is_left_as_it_is(config, tmp_path, stand_in):
    lock = FolderLock(tmp_path / "a", "workdir")
    (outcome,) = run_all([Run("a", config)], tmp_path)
    assert outcome.status == "failed"
    assert f"in use by process {os.getpid()}" in outcome.message
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]
    lock.release()


def test_the_reason_is_not_that_of_an_earlier_sitting(config, tmp_path, stand_in):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").write_text("error: of before\n")
    (outcome,) = run_all([Run("a", changed(config, seed=3))], tmp_path)
    assert "a traceback" in outcome.message


def test_a_run_that_found_no_data_takes_the_new_place(config, tmp_path, stand_in):
    lost = changed(config, data_dir=str(tmp_path / "nowhere"))
    (outcome,) = run_all([Run("a", lost)], tmp_path)
    assert outcome.status == "failed" and "`data_dir` must exist" in outcome.message
    (outcome,) = run_all([Run("a", config)], tmp_path)
    assert outcome.status == "done", outcome.message
    kept = json.loads((tmp_path / "a" / "config.json").read_text())
    assert kept["data_dir"] == config.data_dir


def test_more_epochs_of_a_finished_run_are_trained(config, tmp_path, monkeypatch):
    """What is left of them is the training's to do, and its results are not those."""
    epochs = []

    def train(workdir, config, stop, threads):
        epochs.append(config.epochs)
        assert not workdir.is_finished(config)
        if len(epochs) != 2:  # the second one fails
            workdir.keep(config)
            workdir.results.write_text(json.dumps({"nll": config.epochs}))
        return int(len(epochs) == 2)

    monkeypatch.setattr(runner, "_train", train)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").touch()
    outcomes = [
        runner.run_one(Run("a", changed(config, epochs=number)), tmp_path)
        for number in (1, 2, 2, 2)
    ]
    assert epochs == [1, 2, 2]
    assert [o.status for o in outcomes] == ["done", "failed", "done", "done"]
    assert [o.nll for o in outcomes] == [1, None, 2, 2]


def test_a_run_whose_epochs_are_left_open_is_done_once(config, tmp_path, stand_in):
    """Two steps an epoch: 1,000 epochs, on which a cosine depends."""
    run = Run("a", changed(config, epochs=0, lr_schedule="cosine"))
    for _ in range(2):
        assert runner.run_one(run, tmp_path).status == "done"
    kept = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (kept["epochs"], starts(tmp_path, "a")) == (1000, 1)


def test_a_stopped_sweep_goes_on(config, tmp_path, stand_in):
    """The first run is asked to stop while it trains, the second never starts."""
    runs, stop = expand_grid(config, ["seed=4,0"]), threading.Event()
    folder = tmp_path / "sweep"
    waiter = threading.Thread(target=_set_when, args=(folder / "seed=4/trains", stop))
    waiter.start()
    outcomes = run_all(runs, folder, stop=stop)
    waiter.join()
    assert [o.status for o in outcomes] == ["stopped", "stopped"]
    assert (folder / "seed=4" / "checkpoint").exists()
    assert not (folder / "seed=0").exists()
    assert [o.status for o in run_all(runs, folder)] == ["done", "done"]


def test_a_run_that_is_stopped_before_it_listens_is_no_failure(
    config, tmp_path, stand_in
):
    (run,), stop = expand_grid(config, ["seed=6"]), threading.Event()
    waiter = threading.Thread(target=_set_when, args=(tmp_path / "a/trains", stop))
    waiter.start()
    (outcome,) = run_all([Run("a", run.config)], tmp_path, stop=stop)
    waiter.join()
    assert (outcome.status, outcome.message) == ("stopped", "")


def test_sigterm_sets_an_event_in_a_block_alone():
    before = signal.getsignal(signal.SIGTERM)
    with cli.stop_at_sigterm() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(10)
    assert signal.getsignal(signal.SIGTERM) is before


def _set_when(path, event):
    for _ in range(600):
        if path.exists():
            break
        event.wait(0.1)
    event.set()


def test_a_workdir_of_another_config_is_a_failure(config, tmp_path):
    other = changed(config, seed=5)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(other.to_dict()))
    (outcome,) = run_all([Run("a", config)], tmp_path)
    assert outcome.status == "failed" and "whose seed is 5, not 0" in outcome.message


def test_the_table_is_aligned():
    outcomes = [
        Outcome("a", "done", "x/a", 85.961, 0.0041, -87.3, 12.4),
        Outcome("longer", "failed", "x/longer", message="no data"),
    ]
    assert runner.format_table(outcomes) == "\n".join(
        [
            "run     status    NLL     +-   bound  seconds",
            "a       done    85.96  0.004  -87.30       12",
            "longer  failed      -      -       -        -  no data",
        ]
    )


# The script ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_and_its_array_job(config, tmp_path):
    sweep = functools.partial(run_process, "iwae_tf.sweep")
    base = tmp_path / "base.json"
    base.write_text(json.dumps(config.to_dict()))
    options = [f"--config={base}", "--grid=seed=0,1", f"--folder={tmp_path / 's'}"]
    options += ["--grid=learning_rate=1e-3,1e30"]
    listed = sweep(*options, "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["0", "1", "2", "3"]
    assert sweep(*options, "--task=2").returncode == 0
    assert len(list((tmp_path / "s").iterdir())) == 1
    done = sweep(*options, "--processes=2")
    assert done.returncode == 1 and done.stdout.count(": started") == 3, done.stderr
    table = json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]
    assert [row["status"] for row in table] == ["done", "failed"] * 2
    assert "the bound is" in table[1]["message"]
    bad = sweep(*options, "--task=4")
    assert bad.returncode == 2 and bad.stderr.startswith("error: `task` must be one of")


def test_finished_runs_of_the_same_config_are_taken(tmp_path, config):
    other = changed(config, seed=config.seed + 1)
    for name, each in {"a": config, "b": other}.items():
        values = each.to_dict()
        values.pop("precision")  # as of a run from before there was such a key
        kept = json.dumps({"nll": 1, "config": values})
        path = finished(tmp_path / "there" / name, each, kept)
        (path / "config.json").write_text(json.dumps(values))
        (path / "checkpoints").mkdir()
    runs = [runner.Run("x", other), runner.Run("begun", other)]
    begun = tmp_path / "here" / "begun"
    begun.mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    lines = []
    runner.take_finished(
        runs, tmp_path / "here", tmp_path / "there", report=lines.append
    )
    assert lines == [f"x: taken from {tmp_path / 'there' / 'b'}"]
    taken = tmp_path / "here" / "x"
    assert (taken / "model.keras").read_text() == "b"
    assert sorted(path.name for path in taken.iterdir()) == [
        "config.json",
        "model.keras",
        "results.json",
    ]
    assert [path.name for path in begun.iterdir()] == ["config.json"]
    # `run_one` finds it finished.
    assert runner.run_one(runs[0], tmp_path / "here").status == runner.DONE


def test_a_run_of_an_equal_objective_is_taken_and_says_what_was_trained(
    tmp_path, config
):
    assert (config.model, config.num_groups) == ("iwae", 1)
    path = finished(tmp_path / "there" / "a", config)
    kept = (path / "results.json").read_text()
    partial = path.with_name(".a.partial")  # of a copy that was cut off
    shutil.copytree(path, partial)
    equal = changed(config, model="piwae")
    run = runner.Run("x", equal)
    lines, link = [], tmp_path / "link"
    link.mkdir()
    (link / "disk").symlink_to(tmp_path / "there")
    runner.take_finished([run], tmp_path, link, report=lines.append)
    assert lines == [f"x: taken from {link / 'disk' / 'a'}"]
    assert (tmp_path / "x" / "results.json").read_text() == kept
    taken = json.loads((tmp_path / "x" / "config.json").read_text())
    assert taken["model"] == "piwae"
    assert runner.run_one(run, tmp_path).status == runner.DONE


def test_a_different_config_or_a_started_one_is_not_taken(tmp_path, config):
    there, here = tmp_path / "there", tmp_path / "here"
    path = finished(there / "a", config)
    for name, text in (("b", "{}"), ("c", '{"config": []}'), ("d", "[]")):
        finished(there / name, config, text)  # results of something else
    started = changed(config, start_from=str(path))
    longer = changed(config, batch_size=config.batch_size + 1)
    runs = [Run("started", started), Run("longer", longer)]
    runner.take_finished(runs, here, there)
    assert not here.exists()
    with pytest.raises(InvalidInputError, match="`reuse` must be a folder"):
        runner.take_finished(runs, tmp_path, tmp_path / "nowhere")
