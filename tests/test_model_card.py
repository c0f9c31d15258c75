"""The card beside an export: what was measured, and nothing else."""

import math

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


def test_what_was_measured_is_there(tmp_path):
    text = card(tmp_path / "omni", results())
    assert text.startswith("# omni, version 3\n")
    assert "MIWAE (M = 4, K = 8" in text
    found = rows(text)
    assert found["NLL"] == (
        "103.46 nats an image (+- 0.012 of the draws, +- 0.46 of the images)"
    )
    for name, start in {
        "protocol": "8,070 images of split `test`, binarized once from seed 7; 2,500 d",
        "bound": "-105.68 nats",
        "active units": "23 of 100 + 4 of 50",
        "training data": "Omniglot drawings, 28 x 28 (Lake et al.; MIT)",
        "hidden units": "200-200, 100-100",
        "serving_default": "5,000 draws",
        "versions": "python 3.11.7, tensorflow 2.21.0",
        "warm-up requests": "one of each signature",
        "training": f"{config()['epochs']} epochs, batch",
    }.items():
        assert found[name].startswith(start)
    text = card(tmp_path, epochs=80, start_from="/home/me/runs/first")
    line = rows(text)["training"]
    assert line.startswith("80 epochs from the weights of the run `first`, batch")
    assert "/home" not in text
    for epochs, words in (57, "57 epochs, batch"), (1, "1 epoch, batch"):
        early = rows(card(tmp_path, results(epochs=epochs), epochs=80))  # stopped early
        assert early["training"].startswith(words)


def test_what_was_not_measured_is_said(tmp_path):
    found = rows(card(tmp_path, has_warmup=False))
    assert found["NLL"].startswith("not measured")
    assert found["warm-up requests"] == "none"
    assert "bound" not in found
    one = rows(card(tmp_path, results(data_standard_error=None, num_examples=1)))
    assert one["NLL"] == "103.46 nats an image (+- 0.012 of the draws)"
    for infinite in (None, math.inf):  # of one row that no draw explains
        far = {"nll": infinite, "bound": infinite, "data_standard_error": None}
        found = rows(card(tmp_path, results(**far, jackknife_error=0.1)))
        assert found["NLL"] == "not finite (+- 0.100 of the draws)"
        assert found["bound"] == "not finite (the training bound)"
    for unknown in (None, math.nan):  # as in results.json, and before it
        errors = {"standard_error": unknown, "jackknife_error": unknown}
        one = rows(card(tmp_path, results(**errors)))
        assert one["NLL"] == "103.46 nats an image (+- 0.46 of the images)"
        # Of fewer than 25 draws there is no Pareto k, and so no interval.
        few = {"nll": 103.0, "jackknife_error": unknown, "unreliable": unknown}
        refined = {f"refined_{n}": v for n, v in few.items()}
        for interval in ([unknown, unknown], None):
            refined["refined_interval"] = interval
            text = card(tmp_path, results(**refined))
            start = "103.00 nats an image, by proposals fitted to each image"
            assert rows(text)["refined NLL"] == start and "nan" not in text


def test_refined_proposals_are_measured_beside_the_encoders(tmp_path):
    refined = {
        "refined_nll": 103.0,
        "refined_jackknife_error": 0.0021,
        "refined_unreliable": 0.0123,
        "refined_interval": [102.5, 103.004],
    }
    assert rows(card(tmp_path, results(**refined)))["refined NLL"] == (
        "103.00 nats an image (+- 0.002 of the draws), by proposals fitted to each "
        "image; 102.50 to 103.00 with probability 95 %, bias included; Pareto k above "
        "0.7 for 1.2% of the images"
    )


def test_the_likelihood_and_the_networks_are_described(tmp_path):
    assert "Binarize `x` first" in card(tmp_path, likelihood="bernoulli")
    assert "depend on the scale" in card(tmp_path, likelihood="normal")
    found = rows(card(tmp_path, likelihood="poisson", missing="marginalize"))
    assert found["input"].endswith(", counts 0, 1, 2, ..., NaN where missing")
    settings = {
        "dataset": "cifar10",
        "likelihood": "discretized_logistic",
        "network": "conv",
        "conv_channels": [16, 32],
        "hidden_dims": [[200], [100, 100]],
    }
    text = card(tmp_path, results(bits_per_dim=4.5678), **settings)
    assert "as the nearest level" in text
    found = rows(text)
    assert found["bits per dimension"] == "4.568"
    assert found["input"].endswith("one of the 256 levels i / 255")
    assert found["training data"].startswith("CIFAR-10 (Krizhevsky;")
    shown = "convolutions with 16-32 channels, then 200, 100-100"
    assert found["hidden units"] == shown
    assert "bits per dimension" not in rows(card(tmp_path, results()))


def test_of_data_of_ones_own_no_licence_is_claimed(tmp_path):
    for name in ("images", "npz", "table", "idx"):
        licence = rows(card(tmp_path, dataset=name))["licence"]
        assert licence.startswith("code MIT;") and "the owner of the data" in licence
    assert rows(card(tmp_path, dataset="mnist"))["licence"].startswith(
        "code and weights"
    )


def test_a_table_has_rows(tmp_path):
    settings = {"dataset": "table", "likelihood": "mixed", "binarization": "none"}
    text = card(tmp_path, results(refined_nll=103.0), **settings)
    assert "image" not in text and "a row with missing values" in text
    assert rows(text)["NLL"].startswith("103.46 nats a row (+- 0.012 of the draws, +- ")
    assert "Simple\n  images, above all empty" in card(tmp_path, dataset="images")


def test_every_data_set_and_binarization_has_words(tmp_path):
    assert all(rows(card(tmp_path, dataset=n))["training data"] for n in DATASETS)
    assert set(model_card.BINARIZATIONS) == set(BINARIZATIONS)
