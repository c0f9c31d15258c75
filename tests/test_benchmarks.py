"""The benchmarks write every row and their arithmetic is right. Time is not tested."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import iwae_tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import common, matmul, models, peers_keras, run
from benchmarks.common import Contender, Row, Spread, Target

# Script to words of the rows that it has to write.
EXPECTED = {
    "matmul": ["TensorFlow graph", "TensorFlow XLA", "NumPy", "PyTorch"],
    "training_step": [
        "IWAE K=50, batch 20, a step",
        "IWAE K=50, batch 20, share of the rate of matrix products",
        "IWAE K=50, batch 20, in steps of plain Keras and TFP",
        "IWAE K=50, batch 20, in steps of plain PyTorch",
        "IWAE K=50, batch 20, last batch of 17",
        "IWAE K=50, DReG",
        "two stochastic layers, IWAE K=50, a step",
        "two stochastic layers, IWAE K=50, share of the rate of matrix products",
        "IWAE K=50, mixed_bfloat16",
        "VAE K=1, batch 20, a step",
        "VAE K=1, batch 20, in steps of plain Keras and TFP",
        "VAE K=1, batch 20, in steps of plain PyTorch",
        "PIWAE(8,8) in steps of IWAE K=64, networks of the package",
        "PIWAE(8,8) in steps of IWAE K=64, keras.Sequential",
        "PIWAE(8,8), batch 20, in steps of plain PyTorch",
        "IWAE K=5, batch 200, Adam",
        "IWAE K=5, batch 200, Muon",
        *(
            f"{draws}, 8 draws backward, batch 200, {optimizer}"
            for draws in ("K=50", "K=200")
            for optimizer in ("Adam", "Muon")
        ),
    ],
    "parts": [
        "products of the layers",
        "noise",
        "Bernoulli density and gradient",
        "all gradients",
        "optimiser (Adam)",
        "the step through fit",
    ],
    "log_likelihood": [
        "image-samples a second",
        "share of the ceiling",
        "plain Keras",
        "plain PyTorch",
        "peak memory",
    ],
    "start_up": ["first step of mnist_vae", "import iwae_tf"],
    "input_pipeline": [
        f"{model}, {source}, binarization={binarization}"
        for model in ("IWAE K=50", "VAE K=1")
        for binarization in ("none", "dynamic")
        for source in ("array", "tf.data")
    ],
}


def test_spread_is_median_and_quartiles():
    assert common.spread([5, 1, 4, 2, 3]) == Spread(3.0, 2.0, 4.0, 5)
    assert common.spread([7]) == Spread(7.0, 7.0, 7.0, 1)


def test_ratio_is_taken_round_by_round():
    one, other = [1.0, 20.0, 3.0], [2.0, 10.0, 30.0]
    assert common.paired_ratio(one, other).median == 0.5  # 0.5, 2, 0.1
    assert np.median(one) / np.median(other) != 0.5
    assert common.paired_ratio(one, other, 100).upper == pytest.approx(125)


def test_contenders_take_turns_and_are_timed_by_unit_of_work():
    calls = []
    contenders = {
        "A": Contender(lambda: calls.append("A")),
        "B": Contender(lambda: calls.append("B"), 4),
    }
    seconds = common.interleave(contenders, 3)
    assert calls == list("ABABAB")
    assert all(
        values.shape == (3,) and np.all(values > 0) for values in seconds.values()
    )


def test_a_late_group_stops_after_its_least_rounds(monkeypatch):
    monkeypatch.setattr(common, "GROUP_SECONDS", 0.0)
    seconds = common.interleave({"A": Contender(lambda: None)}, 50)
    assert len(seconds["A"]) == common.LEAST_ROUNDS


@pytest.mark.parametrize(
    "relation, below, equal, above",
    [("<", True, False, False), ("<=", True, True, False), (">=", False, True, True)],
)
def test_targets(relation, below, equal, above):
    rows = [
        Row("what", common.spread([value]), target=Target(relation, 2.0))
        for value in (1.0, 2.0, 3.0)
    ]
    assert [row.reached for row in rows] == [below, equal, above]
    assert rows[0]._replace(value=None).reached is None
    assert rows[0]._replace(target=None).reached is None
    assert common.row_to_json(rows[0], quick=True)["reached"] is None


def test_a_miss_and_what_was_not_measured_show_in_the_table():
    rows = [
        Row("slow", common.spread([3.0]), "ms", Target("<=", 2.0), "other | thing"),
        Row("absent", None, "x", Target("<", 1.0), note="not there"),
    ]
    report = common.make_report([common.row_to_json(row) for row in rows], quick=False)
    table = common.to_markdown(report).splitlines()
    assert table[-2] == (
        "| slow | <= 2.00 ms | **no** | 3.00 ms (3.00 to 3.00) | other / thing |"
    )
    assert table[-1] == "| absent | < 1.00 x |  | not there |  |"


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0123, "0.0123"),
        (8, "8.00"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (None, "none"),
    ],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert common.formatted(value) == text


def test_machine_and_versions_are_named():
    place, libraries = common.machine(), common.versions()
    assert place["cpu"] and place["cores"] >= 1
    assert set(place["flags"]) <= set(common.FLAGS)
    assert libraries["tensorflow"] and set(libraries) == {"python", *common.VERSIONED}


def test_arithmetic_of_one_layer_by_hand():
    model = models.iwae(models.FULL)
    encoder = 784 * 200 + 200 * 200 + 200 * 100
    decoder = 50 * 200 + 200 * 200 + 200 * 784
    forward = 2 * (20 * encoder + 20 * 50 * decoder)
    assert models.forward_flops(model, 20, 50) == forward == 422_272_000
    assert models.training_flops(model, 20, 50) == 3 * forward
    assert models.network_flops(model.decoder[0], 1) == 413_600


def test_arithmetic_of_two_layers_by_hand():
    networks = models.two_layer_networks(models.FULL)
    model = models.compiled(iwae_tf.IWAE, networks, models.FULL, num_samples=50)
    once = 784 * 200 + 200 * 200 + 200 * 200  # q(z1|x)
    each = 100 * 100 + 100 * 100 + 100 * 100  # q(z2|z1)
    each += 100 * 200 + 200 * 200 + 200 * 784  # p(x|z1)
    each += 50 * 100 + 100 * 100 + 100 * 200  # p(z1|z2)
    assert models.forward_flops(model, 20, 50) == 2 * (20 * once + 1000 * each)


def test_arithmetic_is_that_of_a_users_networks_too():
    own, users = (
        models.compiled(iwae_tf.IWAE, make(models.FULL), models.FULL)
        for make in (models.one_layer_networks, models.keras_networks)
    )
    assert models.forward_flops(own, 20, 64) == models.forward_flops(users, 20, 64)


def test_arithmetic_of_the_product():
    assert matmul.product_flops((1000, 200, 784)) == 2 * 1000 * 200 * 784


def test_chained_products_are_products():
    contender = matmul.tensorflow_contenders((10, 8, 16), repeats=3)
    left, right = matmul.operands((10, 8, 16))
    for name in ("graph", "XLA"):
        assert contender[name].work == 3 * 2 * 10 * 8 * 16
        np.testing.assert_allclose(contender[name].run(), left @ right, rtol=1e-4)


def test_a_fit_has_enough_steps_and_not_too_many():
    assert models.steps_in_fit(1e15, quick=False) == 10
    assert models.steps_in_fit(1, quick=False) == models.MOST_STEPS
    assert models.steps_in_fit(models.FIT_FLOPS / 50, quick=False) == 50
    assert models.steps_in_fit(1, quick=True) == 2


@pytest.fixture(scope="module")
def scored():
    """Our model, its kernels and biases in order, images, and their log p(x)."""
    model = models.iwae(models.SMALL)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=w.shape) * 0.3 for w in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, weights):
        variable.assign(value)
    x = models.binary_images(4, models.SMALL.event_shape)
    return weights, x, iwae_tf.log_likelihood(model, x, num_samples=20_000)


def peer_shape():
    sizes = models.SMALL
    return sizes.event_shape, sizes.hidden_dims, sizes.latent_dim


def check_estimate(estimate, reference):
    """Two estimates of one standard error each, five of the difference's apart."""
    assert np.all(reference.standard_error < 0.05)
    error = np.sqrt(2) * reference.standard_error
    assert np.all(np.abs(estimate - reference.estimate) < 5 * error)


@pytest.mark.slow
def test_plain_keras_is_the_same_model(scored):
    weights, x, reference = scored
    peer = peers_keras.PlainIWAE(*peer_shape(), 1)
    for variable, value in zip(peer.trainable_variables, weights):
        variable.assign(value)
    score = peers_keras.make_log_likelihood(peer, 20_000, 1000)
    check_estimate(score(x).numpy(), reference)


@pytest.mark.slow
def test_plain_torch_is_the_same_model(scored):
    peers = common.torch_peers()
    if peers is None:
        pytest.skip(common.NO_TORCH)
    import torch

    weights, x, reference = scored
    peer = peers.PlainIWAE(*peer_shape())
    with torch.no_grad():
        for parameter, value in zip(peer.parameters(), weights):
            parameter.copy_(torch.from_numpy(value.T))
    score = peers.log_likelihood(peer, torch.from_numpy(x), 20_000, 1000)
    check_estimate(score.numpy(), reference)


def test_a_script_that_fails_has_a_row_and_an_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "SCRIPTS", ("no_such_benchmark",))
    output = tmp_path / "results.json"
    assert run.main(["--quick", "--output", str(output)]) == 1
    (row,) = json.loads(output.read_text())["rows"]
    assert row["script"] == "no_such_benchmark" and "failed" in row["note"]
    assert "failed" in output.with_suffix(".md").read_text()
    assert "no_such_benchmark" in capsys.readouterr().out
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "kept.json")
    for flags, is_written in ((["--quick"], False), ([], True)):
        assert run.main(flags) == 1
        assert run.OUTPUT.exists() is is_written


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """The merged report and table of `python -m benchmarks --quick`."""
    output = tmp_path_factory.mktemp("benchmarks") / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = output.with_suffix(".md").read_text()
    assert table in done.stdout
    return json.loads(output.read_text()), table


@pytest.mark.slow
def test_a_run_says_where_and_with_what(quick_run):
    report, table = quick_run
    assert report["quick"] and report["machine"] == common.machine()
    assert set(report["seconds"]) == set(run.SCRIPTS) == set(EXPECTED)
    assert "the numbers mean nothing" in table


@pytest.mark.slow
@pytest.mark.parametrize("script", EXPECTED)
def test_each_script_writes_its_rows(quick_run, script):
    report, table = quick_run
    rows = [row for row in report["rows"] if row["script"] == script]
    assert len(rows) == len(EXPECTED[script])
    for words in EXPECTED[script]:
        assert any(words in row["what"] for row in rows), words
    for row in rows:
        assert f"| {row['what']} |" in table
        if row["value"] is None:
            assert row["note"]
            continue
        value = row["value"]
        assert np.isfinite(value["median"])
        assert value["lower"] <= value["median"] <= value["upper"]
