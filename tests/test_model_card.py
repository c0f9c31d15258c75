"""The card beside an export: what was measured, and nothing else."""

import math

import pytest

from iwae_tf.config import default_config
from iwae_tf.datasets import BINARIZATIONS, DATASETS
from iwae_tf.runs import model_card

VERSIONS = {"python": "3.11.7", "tensorflow": "2.21.0"}


def config(**changes):
    values = default_config().to_dict() | {
        "model": "miwae",
        "num_groups": 4,
        "num_samples": 8,
        "latent_dims": [100, 50],
        "hidden_dims": [[200, 200], [100, 100]],
        "dataset": "omniglot",
        "binarization": "dynamic",
        "eval_num_samples": 5000,
        "eval_seed": 7,
    }
    return values | changes


def results(**changes):
    return {
        "split": "test",
        "nll": 103.456,
        "standard_error": 0.0123,
        "data_standard_error": 0.456,
        "num_samples": 2500,
        "num_examples": 8070,
        "bound": -105.678,
        "active_units": [23, 4],
        "latent_dims": [100, 50],
        "config": config(),
    } | changes


def card(folder, found=None, has_warmup=True, **changes):
    model_card.write(
        folder,
        version="3",
        config=config(**changes),
        event_shape=(28, 28, 1),
        has_warmup=has_warmup,
        versions=VERSIONS,
        results=found,
    )
    text = (folder / "MODEL_CARD.md").read_text()
    assert "{" not in text and "None" not in text
    return text


def rows(text):
    """Name to value of the table's rows."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return {row[0].strip("`"): row[1] for row in cells if len(row) == 2}


def test_a_run_that_went_on_from_another_says_so(tmp_path):
    assert rows(card(tmp_path, epochs=80))["training"].startswith("80 epochs, batch")
    text = card(tmp_path, epochs=80, start_from="/home/me/runs/first")
    line = rows(text)["training"]
    assert line.startswith("80 epochs from the weights of the run `first`, batch")
    assert "/home" not in text


def test_what_was_measured_is_there(tmp_path):
    text = card(tmp_path / "omni", results())
    assert text.startswith("# omni, version 3\n")
    assert "MIWAE (M = 4, K = 8" in text
    found = rows(text)
    assert found["NLL"] == (
        "103.46 nats an image (+- 0.012 of the draws, +- 0.46 of the images)"
    )
    assert found["protocol"].startswith("8,070 images of split `test`, binarized once")
    assert "seed 7; 2,500 draws" in found["protocol"]
    assert found["bound"].startswith("-105.68 nats")
    assert found["active units"] == "23 of 100 + 4 of 50"
    assert "Omniglot" in found["training data"] and "MIT" in found["training data"]
    assert found["hidden units"] == "200-200, 100-100"
    assert found["serving_default"].startswith("5,000 draws")
    assert found["versions"] == "python 3.11.7, tensorflow 2.21.0"
    assert found["warm-up requests"] == "one of each signature"


def test_what_was_not_measured_is_said(tmp_path):
    found = rows(card(tmp_path, has_warmup=False))
    assert found["NLL"].startswith("not measured")
    assert found["warm-up requests"] == "none"
    assert "bound" not in found
    one = rows(card(tmp_path, results(data_standard_error=None, num_examples=1)))
    assert one["NLL"] == "103.46 nats an image (+- 0.012 of the draws)"
    for unknown in (None, math.nan):  # as in results.json, and before it
        errors = {"standard_error": unknown, "jackknife_error": unknown}
        one = rows(card(tmp_path, results(**errors)))
        assert one["NLL"] == "103.46 nats an image (+- 0.46 of the images)"


@pytest.mark.parametrize(
    ("likelihood", "limit"),
    [
        ("bernoulli", "binarize first"),
        ("normal", "change with"),
        ("discretized_logistic", "as the nearest level"),
    ],
)
def test_the_limits_are_those_of_the_likelihood(tmp_path, likelihood, limit):
    assert limit in card(tmp_path, likelihood=likelihood)


def test_eight_bit_images_and_convolutions(tmp_path):
    settings = {
        "dataset": "cifar10",
        "likelihood": "discretized_logistic",
        "network": "conv",
        "conv_channels": [16, 32],
        "hidden_dims": [[200], [100, 100]],
    }
    found = rows(card(tmp_path, results(bits_per_dim=4.5678), **settings))
    assert found["bits per dimension"] == "4.568"
    assert found["input"].endswith("one of the 256 levels i / 255")
    assert found["training data"].startswith("CIFAR-10 (Krizhevsky;")
    assert found["hidden units"] == (
        "convolutions with 16-32 channels, then 200, 100-100"
    )
    assert "bits per dimension" not in rows(card(tmp_path, results()))


def test_every_data_set_and_binarization_has_words(tmp_path):
    for name in DATASETS:
        assert rows(card(tmp_path, dataset=name))["training data"]
    assert set(model_card.BINARIZATIONS) == set(BINARIZATIONS)
