"""A search by Optuna: its ranges, and stand-in runs that are pruned, fail and go on."""

import csv
import functools
import json
import shutil
import statistics
import sys
import threading

import pytest
from running import changed, run_script
from test_sweeps import _set_when, train_by
from test_sweeps import config as config  # a fixture

from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import FolderLock
from iwae_tf.studies import runner, tuning

# Behaves as the training script does, without TensorFlow. The bound after the first
# epoch, of two, says all; a run that has to be pruned waits for that between them.
STAND_IN = """
import glob, json, os, pathlib, runpy, signal, statistics, sys, time
runpy.run_path("PROCESSES")["follow_parent"]()
workdir = pathlib.Path(sys.argv[2].partition("=")[2])
config = json.loads((workdir / "config.json").read_text())
with open(workdir / "starts", "a") as file:
    file.write("x")
size, rate = config["batch_size"], config["learning_rate"]
if size == 13:
    sys.exit("error: the bound is nan at step 2")
bound = -abs(rate - 3e-3) - size
def write(name, text):
    (workdir / "partial").write_text(text)
    (workdir / "partial").rename(workdir / name)
def end_epoch(epochs):
    rows = [f"{e + 1},{bound + e}" for e in range(epochs)]
    write("metrics.csv", "\\n".join(["epoch,val_bound", *rows, ""]))
end_epoch(1)
others = [
    json.loads(pathlib.Path(path).read_text())["bound"]
    for path in glob.glob(str(workdir.parent / "*" / "results.json"))
]
has_to_wait = (workdir.parent / "STOP").exists()
if len(others) >= 5 and bound < statistics.median(others) or has_to_wait:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (workdir.parent / "waits").touch()
    time.sleep(60)
end_epoch(2)
numbers = {"nll": 80.0, "jackknife_error": 0.1, "bound": bound, "seconds": 2.0}
write("results.json", json.dumps(numbers))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    train_by(STAND_IN, tmp_path, monkeypatch)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)


# Ranges ----------------------------------------------------------------------------


def test_axes_are_choices_and_ranges(config):
    ranges = ["learning_rate=1e-4,1e-2,log", "batch_size=5,40", "weight_average=0,0.9"]
    axes = tuning.parse_axes(config, ["hidden_dims=[[4]],[[8]]"], ranges)
    assert axes[0].choices == {"[[4]]": [[4]], "[[8]]": [[8]]}
    assert axes[1:] == [
        ("learning_rate", {}, 1e-4, 1e-2, True),
        ("batch_size", {}, 5, 40, False),
        ("weight_average", {}, 0.0, 0.9, False),
    ]
    assert list(map(str, axes)) == [
        "hidden_dims: [[4]], [[8]]",
        "learning_rate: 0.0001 to 0.01, on a log scale",
        "batch_size: 5 to 40",
        "weight_average: 0.0 to 0.9",
    ]


@pytest.mark.parametrize(
    "grid, ranges, words",
    [
        ([], [], "`grid` and `range` must name at least one key"),
        (["seed=1,2"], ["seed=1,2"], "each once. Received: seed, seed"),
        ([], ["learning_rat=1,2"], "`learning_rat` must be a config key"),
        ([], ["learning_rate=0,1,log"], "LOW > 0 for log. Received: range='learning_r"),
        ([], ["learning_rate=1e-2,1e-4"], "with LOW < HIGH"),
        ([], ["learning_rate=1e-4,1e-2,lin"], "`range` must be KEY=LOW,HIGH"),
        ([], ["learning_rate=1e-4"], "`range` must be KEY=LOW,HIGH"),
        ([], ["learning_rate"], "`range` must be KEY=LOW,HIGH"),
        ([], ["batch_size=1.5,8"], "integers for an integer"),
        ([], ["shuffle=0,1"], "of a key that is a number"),
        ([], ["model=1,2"], "of a key that is a number"),
        ([], ["batch_size=0,8"], "`batch_size` must be a positive integer"),
        ([], ["weight_average=0,1"], r"`weight_average` must be in \[0, 1\)"),
    ],
)
def test_bad_axes(config, grid, ranges, words):
    with pytest.raises(InvalidInputError, match=words) as error:
        tuning.parse_axes(config, grid, ranges)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--trials=3"], "`--trials` must be left out without --engine=optuna"),
        (["--range=seed=1,2"], "`--range` must be left out without --engine=optuna"),
        (["--engine=optuna"], "`--trials` must be a number of runs"),
        (["--engine=optuna", "--trials=0"], "`--trials` must be a"),
        (["--engine=optuna", "--trials=3", "--task=0"], "`--task` must be left out wi"),
        (["--cpus=4"], "`cpus` must be left out, or --engine=ray given. Received: cp"),
        (["--engine=optuna", "--range=foo=1,2"], "`foo` must be a config key"),
    ],
)
def test_flags_that_do_not_go_together(flags, words, tmp_path, capsys):
    code = run_script("sweep", "--config=mnist5k_iwae", f"--folder={tmp_path}", *flags)
    assert code == 2
    assert words in capsys.readouterr().err


def test_without_optuna_it_says_what_to_install(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    axes = tuning.parse_axes(config, ["seed=1,2"], [])
    with pytest.raises(InvalidInputError, match=r"pip install 'iwae_tf\[tune\]'"):
        tuning.search(config, axes, tmp_path, num_trials=1)


# Trials ----------------------------------------------------------------------------


def axes_of(config):
    ranges = ["learning_rate=1e-4,1e-2,log", "batch_size=5,40"]
    return tuning.parse_axes(config, [], ranges)


def bounds_of(folder, name):
    with open(folder / name / "metrics.csv", newline="") as file:
        return [float(row["val_bound"]) for row in csv.DictReader(file)]


def test_runs_below_the_median_are_pruned_and_the_best_is_named(
    config, tmp_path, stand_in
):
    pytest.importorskip("optuna")
    folder, lines = tmp_path / "search", []
    axes = axes_of(config)
    first = tuning.search(config, axes, folder, num_trials=4, num_processes=2)
    assert [o.status for o in first] == ["done"] * 4
    outcomes = tuning.search(config, axes, folder, num_trials=12, report=lines.append)
    assert [o.name for o in outcomes] == [f"trial-{n:04d}" for n in range(12)]
    assert outcomes[:4] == first
    done = []  # of each trial in turn: the bound after its first epoch
    for outcome in outcomes:
        bound = bounds_of(folder, outcome.name)[0]
        is_hopeless = len(done) >= 5 and bound < statistics.median(done)
        assert outcome.status == ("pruned" if is_hopeless else "done")
        done += [] if is_hopeless else [bound]
    assert 5 <= len(done) < 12
    # Other values in each trial, those of its config and its message.
    configs = [
        json.loads((folder / o.name / "config.json").read_text()) for o in outcomes
    ]
    assert len({c["learning_rate"] for c in configs}) == 12
    assert all(1e-4 <= c["learning_rate"] <= 1e-2 for c in configs)
    assert all(5 <= c["batch_size"] <= 40 for c in configs)
    for values, outcome in zip(configs, outcomes):
        rate, size = values["learning_rate"], values["batch_size"]
        assert outcome.message == f"learning_rate={rate:.6g} batch_size={size}"
    best = max(
        (o for o in outcomes if o.status == "done"),
        key=lambda o: bounds_of(folder, o.name)[-1],
    )
    assert lines[-1].startswith(f"best: {best.name}, validation bound ")
    assert lines[-1].endswith(best.message)
    # All are there: nothing is done again.
    assert tuning.search(config, axes, folder, num_trials=12) == outcomes
    assert all((folder / o.name / "starts").read_text() == "x" for o in outcomes)


def test_a_trial_whose_workdir_is_gone_is_not_trained_again(config, tmp_path, stand_in):
    pytest.importorskip("optuna")
    axes, folder = (
        tuning.parse_axes(config, ["batch_size=7,9"], []),
        tmp_path / "search",
    )
    first = tuning.search(config, axes, folder, num_trials=2)
    shutil.rmtree(folder / "trial-0000")
    again = tuning.search(config, axes, folder, num_trials=2)
    assert [o.status for o in again] == ["done"] * 2 and again[1] == first[1]
    assert again[0].nll is None and again[0].message == first[0].message
    assert not (folder / "trial-0000").exists()


def test_no_trial_is_pruned_within_its_own_warm_up(config, tmp_path, monkeypatch):
    """Nine epochs; the fewer of a warm-up, the better: all others are hopeless."""
    pytest.importorskip("optuna")
    config, ends = changed(config, epochs=9), {}
    axes = tuning.parse_axes(config, ["kl_warmup_epochs=0,2,5"], [])

    def run_one(run, folder, *, stop=None, **how):
        workdir, warmup = folder / run.name, run.config.kl_warmup_epochs
        workdir.mkdir(exist_ok=True)
        is_hopeless = False
        while len(ends.get(run.name, [])) < 9 and not is_hopeless:
            ends.setdefault(run.name, [warmup]).append(-warmup)
            rows = [f"{n},{b}" for n, b in enumerate(ends[run.name][1:], 1)]
            text = "\n".join(["epoch,val_bound", *rows, ""])
            (workdir / "metrics.csv").write_text(text)
            is_hopeless = stop.is_set()
        status = runner.STOPPED if is_hopeless else runner.DONE
        return runner.Outcome(run.name, status, str(workdir))

    monkeypatch.setattr(runner, "run_one", run_one)
    outcomes = tuning.search(config, axes, tmp_path, num_trials=20)
    pruned = [o.name for o in outcomes if o.status == "pruned"]
    found = {(ends[name][0], len(ends[name]) - 1) for name in pruned}
    assert found and found <= {(2, 3), (5, 6)}  # in the first epoch after the warm-up


def test_a_stopped_search_goes_on_and_a_failure_is_tried_again(
    config, tmp_path, stand_in
):
    pytest.importorskip("optuna")
    axes, stop = tuning.parse_axes(config, ["batch_size=7,13"], []), threading.Event()
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "STOP").touch()
    waiter = threading.Thread(target=_set_when, args=(folder / "waits", stop))
    waiter.start()
    found = tuning.search(config, axes, folder, num_trials=4, stop=stop)
    waiter.join()
    *failed, stopped = found
    assert stopped.status == "stopped" and {o.status for o in failed} <= {"failed"}
    (folder / "STOP").unlink()
    again = tuning.search(config, axes, folder, num_trials=4, stop=stop)
    assert [o.status for o in again] == ["stopped"] * len(found)  # none has begun
    outcomes = tuning.search(config, axes, folder, num_trials=4)
    assert [o.name for o in outcomes] == [f"trial-{n:04d}" for n in range(4)]
    for outcome in outcomes:
        is_good = outcome.message == "batch_size=7"
        assert outcome.status == ("done" if is_good else "failed")
        assert is_good or "batch_size=13 the bound is nan at step 2" in outcome.message
        twice = outcome.name in {o.name for o in found}
        starts = (folder / outcome.name / "starts").read_text()
        assert starts == "x" * (1 + twice)
    assert outcomes[len(failed)].status == "done"


def test_a_trial_whose_bound_is_no_number_is_done_once_and_not_the_best(
    config, tmp_path, monkeypatch
):
    """Optuna takes no NaN: each call did the trial again, and called it stopped."""
    pytest.importorskip("optuna")
    ends, begun, lines = ["nan", "inf", "-inf", "-90.5"], [], []

    def run_one(run, folder, **how):
        workdir = folder / run.name
        if not workdir.exists():
            begun.append(run.name)
            workdir.mkdir()
            rows = ["epoch,val_bound", "1,-80.0", f"2,{ends[len(begun) - 1]}", ""]
            (workdir / "metrics.csv").write_text("\n".join(rows))
        return runner.Outcome(run.name, runner.DONE, str(workdir))

    monkeypatch.setattr(runner, "run_one", run_one)
    for _ in range(2):
        found = tuning.search(
            config, axes_of(config), tmp_path, num_trials=4, report=lines.append
        )
        assert [o.status for o in found] == ["done"] * 4
        assert lines[-1].startswith("best: trial-0003, validation bound -90.50")
    assert begun == [o.name for o in found]


def test_half_a_line_of_the_journal_costs_no_search(config, tmp_path, stand_in):
    """As a kill or a full disk leaves it; no other damage is passed over."""
    pytest.importorskip("optuna")
    axes, journal = axes_of(config), tmp_path / "search" / tuning.JOURNAL
    search = functools.partial(tuning.search, config, axes, journal.parent)
    first = search(num_trials=2)
    journal.write_bytes(journal.read_bytes()[:-20])
    for count in (2, 3):  # what is lost is done again, and known to the next call
        found = search(num_trials=count)
        assert [o.status for o in found] == ["done"] * count and found[:2] == first
    journal.write_bytes(b'{"half\n' + journal.read_bytes())
    with pytest.raises(InvalidInputError, match="`folder` must hold an intact optuna"):
        search(num_trials=3)


def test_a_folder_of_another_search_or_in_use_is_refused(config, tmp_path):
    pytest.importorskip("optuna")
    axes = axes_of(config)
    assert tuning.search(config, axes, tmp_path, num_trials=0) == []
    with pytest.raises(InvalidInputError, match="`folder` must .* seed is 0, not 1"):
        tuning.search(changed(config, seed=1), axes, tmp_path, num_trials=0)
    with pytest.raises(InvalidInputError, match="over these values. .*5 to 40; learn"):
        tuning.search(config, axes[:1], tmp_path, num_trials=0)
    lock = FolderLock(tmp_path, "folder")
    with pytest.raises(InvalidInputError, match="`folder` must not be in use"):
        tuning.search(config, axes, tmp_path, num_trials=0)
    lock.release()
