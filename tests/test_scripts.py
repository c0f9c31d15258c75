"""The scripts, from flags to files, exit codes and one line on stderr."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import children
import numpy as np
import pytest
from absl import flags
from running import (
    REPOSITORY,
    SCRIPTS,
    assert_one_line,
    assert_same_weights,
    history,
    images,
    import_script,
    read_json,
    run_process,
    run_script,
    weights,
    write_tiny,
)

import iwae_tf
from iwae_tf import cli, evaluation
from iwae_tf.checks import readable
from iwae_tf.datasets import sources as data_sources
from iwae_tf.io import terminal
from iwae_tf.runs import callbacks
from iwae_tf.runs.results import mean_in_nats
from iwae_tf.saved_model import load_saved_model

CONFIGS = REPOSITORY / "configs"
RESULT_KEYS = {
    *("split", "nll", "standard_error", "data_standard_error", "num_samples"),
    *("num_examples", "active_units", "bound", "versions", "config"),
}
OF_TRAINING = {"seconds", "training_seconds", "product_gflops"}


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of the finished run, as if it had been killed once it was trained."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "results.json").unlink()
    return workdir


# A run from end to end -------------------------------------------------------------


def test_a_finished_workdir_holds_everything(finished):
    assert {path.name for path in finished.iterdir()} == {
        *("config.json", "metrics.csv", "results.json", "checkpoints", "tensorboard"),
        *("figures", "saved_model", "model.keras", "training_data.json"),
    }
    assert {path.name for path in (finished / "figures").iterdir()} == {
        *("training_curves.png", "active_units.png", "latent.png"),
        *("samples.png", "reconstructions.png"),
        *("interpolations.png", "manifold.png"),
    }
    for path in (finished / "figures").iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "epoch-00001.npz",
        "epoch-00002.npz",
    ]
    assert {path.name for path in (finished / "saved_model").iterdir()} == {
        "1",
        "config.json",
        "training_data.json",
        "MODEL_CARD.md",
    }
    nll = f"{read_json(finished / 'results.json')['nll']:.2f} nats an image"
    assert nll in (finished / "saved_model" / "MODEL_CARD.md").read_text()
    for folder in ("", "train", "validation"):  # hyperparameters, then by epoch
        assert len(list((finished / "tensorboard" / folder).glob("events*"))) == 1


def test_results_are_the_models(finished, tiny):
    results = read_json(finished / "results.json")
    assert set(results) >= RESULT_KEYS | OF_TRAINING
    assert 0.01 < results["product_gflops"] < 1e5
    assert (results["split"], results["num_samples"]) == ("test", 40)
    assert results["num_examples"] == 20 and len(results["active_units"]) == 1
    assert results["config"] == read_json(finished / "config.json")
    assert set(results["versions"]) >= {"tensorflow", "keras", "python"}
    model = iwae_tf.load(finished)
    x = images(20, 1)[..., np.newaxis]
    expected = iwae_tf.log_likelihood(model, x, 40, (1, 0))
    assert results["nll"] == pytest.approx(-expected.estimate.mean(), abs=1e-4)
    error = np.sqrt(np.sum(expected.standard_error.astype(float) ** 2)) / 20
    assert results["standard_error"] == pytest.approx(error, rel=1e-4)
    error = np.sqrt(np.sum(expected.jackknife_error.astype(float) ** 2)) / 20
    assert results["jackknife_error"] == pytest.approx(error, rel=1e-4)
    spread = expected.estimate.std(ddof=1) / np.sqrt(20)
    assert results["data_standard_error"] == pytest.approx(spread, rel=1e-3)
    assert results["active_units"] == iwae_tf.active_units(model, x, (1, 0))
    statistics = evaluation.layer_statistics(model, x, (1, 0))
    masks = evaluation.active_masks(statistics)
    without = iwae_tf.log_likelihood(model, x, 40, (1, 0), masks=masks)
    of_results = results["without_dead_units"]["nll"]
    assert of_results == pytest.approx(-without.estimate.mean(), abs=1e-4)


def test_metrics_have_a_row_an_epoch(finished):
    rows = history(finished)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert {"bound", "elbo", "iwae", "kl", "ess", "val_bound"} <= set(row)
        assert row["num_samples"] == "3"
    # Half a cosine over two epochs of three steps, from 1e-2 to a hundredth, at the
    # last step of each.
    cosines = np.cos(np.pi * np.array([2, 5]) / 6)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(
        1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + cosines)
    )


def test_a_finished_run_is_left_as_it_is(finished, tiny, tmp_path, capsys):
    """By its flags, by its own config, with the data elsewhere; another is refused."""

    def files():
        return {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}

    before, own = files(), f"--config={finished / 'config.json'}"
    for options, refusal in (
        (tiny, ""),
        ([own], ""),
        ([*tiny, f"--config.data_dir={tmp_path}"], ""),
        ([*tiny, "--config.seed=5"], "whose seed is 0, not 5"),
        ([own, "--config.seed=3"], "whose seed is 0, not 3"),
        (
            [own, "--config.epochs=9", "--config.seed=3"],
            "whose epochs is 2, not 9; seed is 0, not 3",
        ),
    ):
        code = run_script("train", *options, f"--workdir={finished}")
        if refusal:
            assert_one_line(code, capsys, refusal)
        else:
            assert code == 0 and "is finished" in capsys.readouterr().out
        assert files() == before


def test_load_gives_a_model_that_trains_on(finished):
    model = iwae_tf.load(finished)
    assert isinstance(model, iwae_tf.IWAE) and model.num_samples == 3
    x = images(20, 1)[..., np.newaxis]
    bound = model.evaluate(x, verbose=0, return_dict=True, batch_size=20)["bound"]
    results = read_json(finished / "results.json")
    assert bound == pytest.approx(results["bound"], abs=1e-3)
    model.fit(x, verbose=0)
    assert int(model.train_steps) == 2 * 3 + 1


def fail_after(monkeypatch, epochs):
    """Calls `epochs[n]` at the end of epoch n, once its checkpoint is written."""
    real = callbacks.Record.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        real(self, epoch, logs)
        epochs.pop(epoch + 1, lambda: None)()

    monkeypatch.setattr(callbacks.Record, "on_epoch_end", on_epoch_end)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def short_end(monkeypatch):
    """Nothing is drawn, nor exported for serving: `finished` has that."""
    monkeypatch.setattr("iwae_tf.runs.figures.draw_figures", lambda *_: None)
    monkeypatch.setattr("iwae_tf.runs.workdir.export", lambda *_: None)


@pytest.mark.usefixtures("short_end")
def test_a_run_that_is_stopped_or_interrupted_goes_on(
    tiny, tmp_path, monkeypatch, capsys
):
    """That it ends bit for bit the same is in `test_resume`."""
    workdir = tmp_path / "run"
    options = (*tiny, "--config.epochs=3", f"--workdir={workdir}")
    # An epoch is one call of three steps, which is not cut: the second one is finished.
    fail_after(monkeypatch, {1: terminate, 3: interrupt})
    capsys.readouterr()
    assert run_script("train", *options) == 0
    assert "stopped" in capsys.readouterr().out
    assert len(history(workdir)) == 2 and not (workdir / "results.json").exists()
    assert run_script("train", *options) == 130
    output = capsys.readouterr()
    assert "resumed after epoch 2" in output.out
    newest, error = output.err.splitlines()[-2:]
    last = workdir / "checkpoints" / "epoch-00003"
    assert newest.startswith(f"the last checkpoint is {last}")
    assert error == "error: interrupted"
    assert len(history(workdir)) == 3
    with monkeypatch.context() as patch:  # no step is left that could see the signal
        tell = terminal.tell

        def tell_and_terminate(line):
            tell(line)
            if "resumed after" in line:
                terminate()

        patch.setattr(terminal, "tell", tell_and_terminate)
        assert run_script("train", *options) == 0
    assert "stopped" in capsys.readouterr().out
    with monkeypatch.context() as patch:  # nor is it taken for a file's damage

        def read_and_terminate(*_):
            with readable("data.npz"):
                terminate()

        def tell_and_terminate_again(line):
            tell(line)
            if "stopped" in line:
                terminate()

        patch.setattr("iwae_tf.runs.workdir.check_data", read_and_terminate)
        patch.setattr(terminal, "tell", tell_and_terminate_again)
        assert run_script("train", *options) == 0
    assert "stopped" in capsys.readouterr().out
    assert not (workdir / "results.json").exists()
    assert run_script("train", *options) == 0
    assert "resumed after epoch 3" in capsys.readouterr().out
    assert (workdir / "results.json").exists()


@pytest.mark.slow
def test_an_interrupted_evaluation_is_made_up_for(
    tiny, unfinished, monkeypatch, finished
):
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "log_likelihood", lambda *a, **kw: interrupt())
        assert run_script("train", *tiny, f"--workdir={unfinished}") == 130
    assert not (unfinished / "results.json").exists()
    assert run_script("train", *tiny, f"--workdir={unfinished}") == 0
    assert_same_weights(unfinished, finished)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_an_epoch(tiny, unfinished, capsys, finished):
    newest = unfinished / "checkpoints" / "epoch-00002.npz"
    newest.write_bytes(newest.read_bytes()[:500])
    assert run_script("train", *tiny, f"--workdir={unfinished}") == 0
    output = capsys.readouterr().out
    assert "epoch-00002.npz is damaged and was skipped" in output
    assert "resumed after epoch 1" in output
    assert_same_weights(unfinished, finished)


TWO_LAYERS = "latent_dims=[3,2] hidden_dims=[[8],[6]] gradient_estimator=dreg "
TWO_LAYERS += "stages=((2,1,1e-2,1e-2),(3,1,1e-3,1e-4))"
PIWAE = "model=piwae num_groups=4 stages=((3,1,1e-2,1e-2,1),(3,1,1e-3,1e-4)) "
PIWAE += "data_dir=tall.npz"  # as many as fit into a picture


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, files",
    [
        (TWO_LAYERS, {"latent_z1.png", "latent_z2.png"}),
        (PIWAE, {"latent.png"}),
    ],
)
def test_two_layers_and_piwae_train_and_export(
    tiny, tmp_path, monkeypatch, capsys, settings, files
):
    monkeypatch.chdir(tmp_path)
    tall = np.random.default_rng(0).uniform(size=(20, 6000, 2)).round()
    np.savez("tall.npz", x_train=tall.astype("float32"), x_test=tall[:5])
    workdir = tmp_path / "run"
    options = [f"--config.{setting}" for setting in settings.split()]
    assert run_script("train", *tiny, *options, f"--workdir={workdir}") == 0
    results, layers = read_json(workdir / "results.json"), len(files)
    assert len(results["active_units"]) == layers and np.isfinite(results["nll"])
    files |= {"samples.png", "reconstructions.png", "interpolations.png"}
    assert files <= {path.name for path in (workdir / "figures").iterdir()}
    assert "drawn" not in "".join(capsys.readouterr())
    version, signatures = load_saved_model(workdir / "saved_model")
    assert version.name == "1"
    encode = signatures["encode"]
    assert ("loc_2" in encode.structured_outputs) == (layers == 2)
    rows = history(workdir)
    assert ("inference_bound" in rows[0]) == (layers == 1)
    draws = [(int(row["num_groups"]), int(row["num_samples"])) for row in rows]
    assert draws == ([(1, 2), (1, 3)] if layers == 2 else [(1, 3), (4, 3)])


@pytest.mark.parametrize(
    "share, caveat",
    [
        (0.05, ""),
        (0.06, ", too small because k is high"),
        (float("nan"), ""),
    ],
)
def test_an_error_that_is_too_small_says_so(share, caveat):
    found = {"jackknife_error": 0.1, "data_standard_error": 1.0, "unreliable": share}
    found |= {"num_samples": 5000, "num_examples": 9}
    expected = f"80.00 nats (+- 0.100 of 5,000 samples{caveat}, +- 1.00 of 9 images)"
    assert mean_in_nats(80.0, found) == expected
    unknown = {"jackknife_error": np.nan, "standard_error": np.nan, "unreliable": 0.0}
    words = mean_in_nats(80.0, found | unknown | {"data_standard_error": None})
    assert words == "80.00 nats (of 5,000 samples, of 9 images)"


def test_an_interrupt_before_the_first_checkpoint_says_that_there_is_none(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(callbacks.Record, "on_epoch_begin", lambda *args: interrupt())
    assert run_script("train", *tiny, f"--workdir={tmp_path / 'run'}") == 130
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == [
        "there is no checkpoint yet: the next run starts from the beginning",
        "error: interrupted",
    ]


@pytest.mark.slow
def test_what_cannot_be_drawn_ends_no_run(tiny, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ValueError("no room")

    monkeypatch.setattr("iwae_tf.runs.tensorboard.mosaic", fail)
    monkeypatch.setattr("iwae_tf.plots.figures.mosaic", fail)
    options = ["--config.epochs=1", f"--workdir={tmp_path / 'run'}"]
    assert run_script("train", *tiny, *options) == 0
    told = capsys.readouterr()
    assert "warning: pictures could not be drawn: no room" in told.err.splitlines()
    assert "some figures could not be drawn: no room" in told.out
    assert read_json(tmp_path / "run" / "results.json")["num_examples"] == 20


# evaluate and export ---------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_agrees_on_workdir_and_saved_model(
    finished, tmp_path, monkeypatch, capsys
):
    found, exported = [], finished / "saved_model"
    for source, batch_size in (
        (f"--workdir={finished}", 20),
        (f"--saved_model={exported}", 20),
        (f"--saved_model={exported / '1'}", 6),
    ):
        monkeypatch.setattr(evaluation, "SCORES_PER_CALL", 500 * batch_size)
        output = tmp_path / "new" / f"{len(found)}.json"
        options = ["--num_samples=500", f"--output={output}", "--proposal=both"]
        assert run_script("evaluate", source, *options) == 0
        printed = capsys.readouterr().out
        assert "test NLL" in printed and "test refined NLL" in printed
        found.append(read_json(output))
    for results in found:
        assert (results["num_samples"], results["num_examples"]) == (500, 20)
        assert results["complete"] is True and results["split"] == "test"
    # The first batch has the workdir's noise, later ones of a SavedModel their own.
    assert found[1]["nll"] == pytest.approx(found[0]["nll"], abs=1e-4)
    assert found[1]["refined_nll"] == pytest.approx(found[0]["refined_nll"], abs=1e-3)
    for results in found:  # two estimates of one number
        error = np.hypot(results["standard_error"], results["refined_standard_error"])
        assert abs(results["nll"] - results["refined_nll"]) < 5 * error
        assert results["refined_failures"] == 0
        assert len(results["refined_pareto_k_quantiles"]) == 3
    error = np.hypot(found[0]["standard_error"], found[2]["standard_error"])
    assert 0 < abs(found[0]["nll"] - found[2]["nll"]) < 5 * error
    assert set(found[0]) >= RESULT_KEYS


@pytest.mark.slow
def test_evaluate_of_a_part_of_another_split(finished, tmp_path):
    output = tmp_path / "part.json"
    for source in (f"--workdir={finished}", f"--saved_model={finished}/saved_model"):
        options = ["--split=validation", "--limit=4", f"--output={output}"]
        assert run_script("evaluate", source, *options) == 0
        results = read_json(output)
        assert (results["split"], results["num_examples"]) == ("validation", 4)
        assert results["num_samples"] == 40
    # One image and one draw have no error bars: null, never NaN.
    options = ["--limit=1", "--num_samples=1", f"--output={output}"]
    options.append("--proposal=refined")
    assert run_script("evaluate", f"--workdir={finished}", *options) == 0
    results = read_json(output)
    assert results["refined_standard_error"] is results["data_standard_error"] is None
    assert "nll" not in results


def test_a_report_says_how_many_groups_of_draws_a_model_had():
    config = iwae_tf.default_config()
    config.model, config.num_groups, config.num_samples = "miwae", 8, 4
    facts = dict(cli.model_facts(config, 20, "test"))
    assert facts["bound"] == "miwae, M = 8, K = 4 in training"


def test_of_one_example_no_unit_is_said_to_be_dead(tmp_path, capsys):
    """As of ten photos, of which one is for testing: a variance needs two."""
    flags, workdir = write_tiny(tmp_path), tmp_path / "run"
    x, one = images(20, 0), images(1, 1)
    np.savez(tmp_path / "data.npz", x_train=x, x_validation=one, x_test=one)
    assert run_script("train", *flags, f"--workdir={workdir}") == 0
    output, results = capsys.readouterr(), read_json(workdir / "results.json")
    assert "active units" not in output.out and "could not be" not in output.err
    assert not {"active_units", "without_dead_units"} & {*results}
    assert "active units" not in (workdir / "saved_model/MODEL_CARD.md").read_text()
    assert (workdir / "figures/reconstructions.png").is_file()
    parts = "--parts=representation", "--quick"
    assert run_script("diagnose", f"--workdir={workdir}", *parts) == 2
    assert "`x` must have at least two examples" in capsys.readouterr().err


def test_an_interrupted_evaluate_keeps_what_was_done(
    finished, tmp_path, monkeypatch, capsys
):
    real = evaluation.log_likelihood

    def stops_after_five(model, x, *args, on_batch, **kwargs):
        real(model, x[:5], *args, on_batch=on_batch, **kwargs)
        interrupt()

    monkeypatch.setattr(evaluation, "log_likelihood", stops_after_five)
    output = tmp_path / "part.json"
    code = run_script("evaluate", f"--workdir={finished}", f"--output={output}")
    assert code == 130
    results = read_json(output)
    assert results["num_examples"] == 5 and results["complete"] is False
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"


@pytest.mark.slow
def test_export_makes_version_one_then_two(finished, tmp_path, capsys):
    output = tmp_path / "saved_models" / "name"
    for version in ("1", "2"):
        options = [f"--workdir={finished}", f"--output={output}"]
        assert run_script("export", *options) == 0
        assert capsys.readouterr().out.strip() == str(output / version)
    assert read_json(output / "config.json") == read_json(finished / "config.json")
    card = (output / "MODEL_CARD.md").read_text()
    assert f"{read_json(finished / 'results.json')['nll']:.2f} nats an image" in card
    assert card.startswith("# name, version 2\n")
    assert run_script("evaluate", f"--saved_model={output}", "--limit=3") == 0


# Mistakes --------------------------------------------------------------------------


GOOD = images(20, 0)
BAD_DATA = {
    "nan": {"x_train": np.where(GOOD, np.nan, GOOD)},
    "objects": {"x_train": np.array([{}, {}])},
    "test_nan": {"x_train": GOOD, "x_test": GOOD + np.nan},
    "test_small": {"x_train": GOOD, "x_test": GOOD[:, :5]},
    "small": {"x_train": GOOD[:, :5], "x_test": GOOD[:, :5]},
}
BAD_FILES = {
    "file": "mine",
    "bad.json": "{",
    "unknown.json": '{"foo": 1}',
    "other.py": "x = 1\n",
    "broken.py": "def get_config(:\n",
    "stops.py": "def get_config():\n    raise RuntimeError('no')\n",
    "raises.py": "def get_config():\n    raise ValueError('sorry')\n",
    "cut/config.json": "{",
    "list/config.json": "[]",
}


@pytest.fixture(scope="module")
def bad(finished, tmp_path_factory):
    """A folder of data, configs and workdirs that are wrong."""
    folder = tmp_path_factory.mktemp("bad")
    for name, arrays in BAD_DATA.items():
        np.savez(folder / f"{name}.npz", **({"x_test": GOOD} | arrays))
    for name, text in BAD_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name in ("begun", "damaged"):
        (folder / name).mkdir()
        shutil.copy(finished / "config.json", folder / name)
    model = (finished / "model.keras").read_bytes()
    (folder / "damaged" / "model.keras").write_bytes(model[: len(model) // 2])
    return folder


TRAIN, RUN, EXPORTED = (
    "train {tiny}",
    "--workdir={run}",
    "--saved_model={run}/saved_model",
)
MISTAKES = [  # (command, words of the one line)
    (f"{TRAIN} --config.data_dir={{bad}}/nan.npz", "must be finite"),
    (f"{TRAIN} --config.data_dir={{bad}}/objects.npz", "must hold readable files"),
    *[
        (f"{TRAIN} {flag}", words)
        for flag, words in {
            "leftover": "Received: leftover",
            "--workdir={bad}/cut": "intact JSON",
            "--workdir={bad}/list": "JSON object",
            "--workdir={bad}/file": "",
        }.items()
    ],
    *[
        (f"train --workdir={{tmp}}/run --config={config}", words)
        for config, words in {
            "no_such_config": "mnist5k_iwae, mnist_ciwae",
            "{configs}/mnist_iwae.py:many": "many",
            "{configs}/mnist_piwae.py:5": "get_config",
            "/dev/null/x.py": "`--config` must be a config file",
            "{bad}/bad.json": "intact JSON",
            "{bad}/unknown.json": "`foo` must be a config",
            "{bad}/none.json": "no file",
            "{bad}/other.py": "get_config",
            "{bad}/broken.py": "broken.py, line 1",
            "{bad}/stops.py": "Error: no",
            "{bad}/raises.py": "sorry",
        }.items()
    ],
    *[
        (f"evaluate {flags}", words)
        for flags, words in {
            f"{RUN} {EXPORTED}": "one of `--workdir` and",
            f"{RUN} --num_samples=0": "`--num_samples` must be a positive integer",
            f"{RUN} --num_samples=2147483648": "positive integer below 2**31. Received",
            f"{RUN} --limit=-1": "`--limit` must be a positive integer",
            f"{RUN} --limit=few": "limit",
            f"{RUN} --split=tset": "`split` must be one of",
            f"{RUN} --dataset=imagenet": "`dataset` must be one of",
            f"{RUN} --output=/dev/null/x.json": "/dev/null",
            f"{RUN} --output={{tmp}}": "`--output` must be a file in a",
            f"{RUN} --data_dir={{bad}}/test_nan.npz": "`x_test` must be finite",
            f"{RUN} --data_dir={{bad}}/test_small.npz": "(8, 8, 1)",
            f"{RUN} --data_dir={{bad}}/small.npz": "`dataset` must have images of the "
            "model's shape (8, 8, 1). Received: dataset=npz, of shape (5, 8, 1)",
            f"{EXPORTED} --data_dir={{bad}}/small.npz": "`dataset` must have images of "
            "the model's shape (8, 8, 1). Received: dataset=npz, of shape (5, 8, 1)",
            "--workdir={tmp}": "`config.json` must exist",
            "--saved_model={tmp}": "must be a folder NAME or NAME/1",
            "--saved_model={run}": "Did you mean {run}/saved_model?",
            "--workdir={bad}/begun": "must hold a finished run",
            "--workdir={bad}/damaged": "intact model.keras",
        }.items()
    ],
    *[
        (f"diagnose {flags}", words)
        for flags, words in {
            "": "one of `--workdir` and `--saved_model`",
            "--parts=theory": "`--output` must be given",
            "--output={tmp}/x": "one of `--workdir` and `--saved_model`",
            "--saved_model={tmp} --output={tmp}/x": "NAME or NAME/1",
            f"{EXPORTED} --output={{tmp}}/x --parts=proposal,all": "--parts='all'",
            f"{EXPORTED} --output={{tmp}}/x --num_samples=24": "--num_samples=24",
            f"{EXPORTED} --output={{tmp}}/x more": "Received: more",
        }.items()
    ],
    ("export --workdir={bad}/damaged --output={tmp}/x", "intact model.keras"),
    (f"{TRAIN} --workdir={{tmp}}/a[1]", "`--workdir` must be a path without [, which"),
    (f"export {RUN} --output={{tmp}}/*", "`--output` must be a path without *, which"),
    (f"export {RUN} --output=/dev/null/x", "/dev/null/x"),
]


@pytest.mark.parametrize("command, words", MISTAKES)
def test_a_mistake_is_one_line(finished, bad, tiny, tmp_path, capsys, command, words):
    places = {"run": finished, "bad": bad, "tmp": tmp_path, "configs": CONFIGS}
    places["tiny"] = " ".join([*tiny, f"--workdir={tmp_path / 'run'}"])
    name, *options = command.format(**places).split()
    words = words.replace("{run}", str(finished))
    assert_one_line(run_script(name, *options), capsys, words)
    assert list(tmp_path.iterdir()) == []
    assert (bad / "file").read_text() == "mine"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_home_folder_is_meant_by_every_path(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    import_script(name)
    paths = ("workdir", "saved_model", "output", "input", "labels", "folder", "reuse")
    paths = [path for path in (*paths, "data_dir") if path in flags.FLAGS]
    assert paths
    (tmp_path / "x").touch()
    for path in paths:
        assert flags.FLAGS[path].parser.parse("~/x") == str(tmp_path / "x")
    if name == "train":
        (tmp_path / "c.py").touch()
        assert cli.config_path("~/c.py:a") == f"{tmp_path / 'c.py'}:a"


def test_only_truncated_checkpoints_are_one_line(tiny, unfinished, capsys):
    for path in (unfinished / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:700])
    code = run_script("train", *tiny, f"--workdir={unfinished}")
    assert_one_line(code, capsys, "must hold an intact checkpoint", "all 2 damaged")


def test_a_missing_data_set_is_one_line(tiny, tmp_path, monkeypatch, capsys):
    def offline(urls):
        raise OSError("no network")

    monkeypatch.setattr(data_sources, "_check_reachable", offline)
    (tmp_path / "empty").mkdir()
    data = "--config.dataset=mnist", f"--config.data_dir={tmp_path / 'empty'}"
    code = run_script("train", *tiny, *data, f"--workdir={tmp_path / 'run'}")
    assert_one_line(code, capsys, "Put TensorFlow Datasets' prepared files into")
    assert not (tmp_path / "run").exists()


def test_a_bound_that_is_not_finite_ends_with_one(tiny, tmp_path, monkeypatch, capsys):
    """The step and what is said of it are in `test_resume`."""

    def train(*args, **kwargs):
        raise FloatingPointError("the bound is nan")

    monkeypatch.setattr("iwae_tf.runs.training.train", train)
    code = run_script("train", *tiny, f"--workdir={tmp_path / 'run'}")
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and last == "error: the bound is nan"


# Processes of their own ------------------------------------------------------------


MNIST, EXPORT = "--config=mnist_iwae", "saved_models/mnist5k_iwae"
TABLE = "docs/mnist_iwae_short/metrics.csv"
TOLD = {  # command: how the one line begins
    f"train {MNIST} --config.foo=1 --workdir=x": "`foo` must be a config key, one of "
    "adam",
    f"train {MNIST} --config.model=gan --workdir=x": "`model` must be one of vae",
    "train --config=mnist_iwae_hour --config.learning_rate=1e-3 --workdir=x": ""
    "`learning_rate` must be left out where the config has stages",
    "train --config=mnist5k_iwae --config.data_dir=docs --workdir=x": "`data_dir` must "
    "be left out where the data set is mnist5k, which a library has: name the data set",
    f"train {MNIST} --config.conv_channels=[8] --workdir=x": "`conv_channels` must be "
    "left out where the network is mlp",
    "train --config=mnist_iwae_burda_code --config.adam_epsilon=1e-8 --workdir=x": ""
    "`adam_epsilon` must be left out where the optimizer is burda_adam, with one of",
    f"train {MNIST} --config.epochs=many --workdir=x": "flag --config.epochs=many",
    f"train {MNIST} --wrkdir=x": "Unknown flag --wrkdir. Did you mean --workdir?",
    f"train {MNIST} --num_sample=3 --workdir=x": "Unknown flag --num_sample. Did you "
    "mean --config.num_samples?",
    f"train {MNIST} {MNIST} --workdir=x": "`--config` must be given once",
    f"train {MNIST} --config.model=iwea --workdir=x": "`model` must be one of vae, "
    "iwae, miwae, ciwae, piwae. Received: model='iwea'. Did you mean iwae?",
    "train --config=images --config.data_dir=nowhere --workdir=x": "`data_dir` must be "
    "a path that exists. Received: data_dir='nowhere'",
    f"sweep {MNIST} --folder=x --grid=num_sample=1,5": "`num_sample` must be a config "
    "key, one of adam",
    "evaluate --workdir=nowhere": "`--workdir` must be a path that exists. Received: "
    "--workdir=nowhere",
    f"evaluate --saved_model={EXPORT} --output={EXPORT}/config.json": "`--output` must "
    "not be a file of a run",
    "diagnose --parts=toy,tyo --output=x": "`--parts` must be one of proposal",
    "diagnose --workdir=docs": "`config.json` must exist",
    "explore --saved_model=docs": "`saved_model` must be a folder NAME or NAME/1",
    f"score --saved_model={EXPORT} --input=README.md --output=x": "`input` must be a "
    "file NAME.npy of images",
    "evaluate --saved_model=nowhere": "`--saved_model` must be a path that exists",
    "score --input=nowhere --output=x": "`--input` must be a path that exists",
    "train --config=mnist_iwea --workdir=x": "`--config` must be a config file or",
    f"train {MNIST}": "`--workdir` must be given",
    f"train --config={EXPORT}/config.json": "`--workdir` must be given",
    "train --workdir=x": "`--config` must be given",
    "export --output=x": "`--workdir` must be given",
    f"train {MNIST} --workdir=": "`--workdir` must be a path. Received: --workdir=",
    f"train {MNIST} --workdir=setup.cfg/x": "`--workdir` must be a folder that",
    f"train {MNIST} --workdir=setup.cfg": "`--workdir` must be a folder that",
    f"train {MNIST} --workdir=/proc/x": "`--workdir` must be a folder that can be",
    f"train {MNIST} --workdir=x --num_devices=100000": "`--num_devices` must be a "
    "positive integer below 257",
    f"sweep {MNIST}": "`--folder` must be given",
    f"sweep {MNIST} --folder=setup.cfg": "`--folder` must be a folder that",
    "train --config.epochs=1 --workdir=x": "`--config` must be given. Received: "
    "--config.epochs=1",
    "evaluate": "one of `--workdir` and `--saved_model` must be given",
    "diagnose --workdir=tests --num_images=0": "`--num_images` must be a positive",
    "score --input=docs": "`--output` must be given",
    "score --output=x": "`--input` must be given",
    "score --input=docs --output=x --imputed=./x": "`--input`, `--output` and",
    f"score --input={TABLE} --output=x --imputed=./{TABLE}": "`--input`, `--output`",
    "score_beam --input=x --seed=1": "`--seed` must be a pair of integers",
    "score --seed=99999999999,0": "`--seed` must be a pair of integers from -2**31",
    "reproduce --workdir=x": "`--study` must be given",
    "reproduce --workdir=x --study=y": "`study` must be one of headline",
}
QUICK = [f"{name} {flag}" for name in SCRIPTS for flag in ("--help", "--version")]


@pytest.mark.parametrize("command", [*QUICK, *TOLD])
def test_help_and_mistakes_do_not_wait_for_tensorflow(command):
    (name, *options), words = command.split(), TOLD.get(command, "")
    code = 2 if words else 0
    done = children.run_without_tensorflow(f"iwae_tf.{name}", *options)
    assert not re.search("tensorflow|keras", done.modules)
    assert done.returncode == code and bool(done.stdout) == (code == 0)
    error = done.stderr.splitlines()
    assert len(error) == bool(code) and f"error: {words}" in ["error: ", *error][-1]


def test_help_may_be_read_in_part():
    """What `| head` does: the reader closes the pipe. This is Python's own start."""
    python = [sys.executable, "-X", "importtime", "-m", "iwae_tf.evaluate", "--help"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(python, cwd=REPOSITORY, **pipe) as child:
        child.stdout.close()
        imported = child.stderr.read()
    assert child.returncode == 1 and "iwae_tf.cli" in imported
    assert all(line.startswith("import time:") for line in imported.splitlines())
    assert not re.search("tensorflow|keras", imported)


def limit_file_size():
    """Writes beyond 20 kB fail, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def assert_full(*arguments, **kwargs):
    """The script ends with one line that says that the disk is full."""
    done = run_process(*arguments, **kwargs)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line(tiny, finished, tmp_path):
    train = [*tiny, "--config.hidden_dims=[[64]]", f"--workdir={tmp_path / 'run'}"]
    export = [f"--workdir={finished}", f"--output={tmp_path / 'out'}"]
    for name, options in {"train": train, "export": export}.items():
        assert_full(f"iwae_tf.{name}", *options, preexec_fn=limit_file_size)
    assert not list((tmp_path / "run").rglob("*.tmp*"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system, and not everywhere")
    yield folder
    subprocess.run(["umount", folder], check=True)


# Full at the first checkpoint, at a later one or the events, at the figures or export.
@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["12k", "80k", "360k"], indirect=True)
def test_a_small_disk_is_one_line(tiny, small_disk):
    options = ["--config.hidden_dims=[[64]]", f"--workdir={small_disk / 'run'}"]
    assert_full("iwae_tf.train", *tiny, *options)
    assert not list(small_disk.rglob("*.tmp*"))
    assert not (small_disk / "run" / "results.json").exists()


@pytest.mark.slow
def test_a_bare_environment_trains_as_usual(tiny, finished, tmp_path):
    """No HOME, no locale, and names that the C locale cannot spell."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "LANG": "C"}
    workdir = tmp_path / "lauf-é"
    done = run_process("iwae_tf.train", *tiny, f"--workdir={workdir}", env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for ours, theirs in zip(weights(workdir), weights(finished), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # the graphs are rewritten


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["4k"], indirect=True)
def test_a_full_temporary_folder_is_one_line_or_no_matter(tiny, small_disk, tmp_path):
    environment = dict(os.environ, TMPDIR=str(small_disk))
    done = run_process(
        "iwae_tf.train", *tiny, f"--workdir={tmp_path / 'run'}", env=environment
    )
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_to_a_real_run(tiny, tmp_path, number, code):
    workdir = tmp_path / "run"
    options = ["--config.epochs=100000", f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "iwae_tf.train", *tiny, *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(workdir.glob("checkpoints/*.npz")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert "run again with the same flags" in output + error
    assert history(workdir)
