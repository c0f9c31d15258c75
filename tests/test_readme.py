"""The README is short, its badges are true, and its commands and code blocks run."""

import configparser
import csv
import json
import re

import children
import numpy as np
import pytest
import tensorflow as tf
from pages import REDUCED, ROOT, blocks, make_checkout
from pages import commands as commands_of
from PIL import Image

README = (ROOT / "README.md").read_text()
OWN_IMAGES, OWN_TABLE = "Your own images in ten minutes", "Your own table"


def commands(text=README):
    found = blocks(text, "bash")
    return [words for block in found for words in commands_of(block.code)]


def section(title):
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def run_reduced(command):
    _, minus_m, module, *flags = command
    assert minus_m == "-m"
    done = children.run(module, *flags, *REDUCED[module])
    assert done.returncode == 0, done.stderr


def enter(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def test_it_is_short():
    assert len(README.encode()) <= 9_000


def test_badges_say_what_the_package_says():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = re.fullmatch(
        r">=3\.(\d+),<3\.(\d+)", setup["options"]["python_requires"]
    ).groups()
    versions = [f"3.{minor}" for minor in range(*map(int, bounds))]
    assert (ROOT / "LICENSE").read_text().startswith("MIT ")
    said = {"python": " | ".join(versions), "licence": setup["metadata"]["license"]}
    for name, text in (said | {"tests": "make test"}).items():
        path = f"docs/assets/badges/{name}.svg"
        assert f"]({path})]" in README
        assert f">{text}</text>" in (ROOT / path).read_text()


def test_own_images_are_trained_on_evaluated_exported_and_scored(tmp_path, monkeypatch):
    """In a folder of nothing but the images, by what the README says alone."""
    (tmp_path / "photos").mkdir()
    photos = np.random.default_rng(1).integers(0, 256, [30, 20, 24], np.uint8)
    for index, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{index:02}.png")
    enter(tmp_path, monkeypatch)
    path = commands(section(OWN_IMAGES))
    assert [command[2].partition(".")[2] for command in path] == [
        *("train", "evaluate", "export", "score")
    ]
    for command in path:
        run_reduced(command)
    results = json.loads((tmp_path / "runs/photos/results.json").read_text())
    assert (results["split"], results["num_examples"]) == ("test", 3)
    with Image.open(tmp_path / "runs/photos/figures/samples.png") as samples:
        samples.verify()
    # TensorFlow alone, on the pixels as they were made, agrees in the order of names.
    signatures = tf.saved_model.load("saved_models/photos/1").signatures
    served = signatures["log_likelihood"](
        x=tf.constant(photos[..., np.newaxis] / np.float32(255)),
        num_samples=tf.constant(20),
        seed=tf.constant([0, 0]),
    )
    rows = list(csv.DictReader((tmp_path / "photos.csv").open()))
    scores = [float(row["log_likelihood"]) for row in rows]
    np.testing.assert_allclose(scores, served["log_likelihood"], rtol=1e-5)


def test_an_own_table_is_trained_on_and_scored(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    rng = np.random.default_rng(2)
    values = rng.normal(size=40).round(4).astype(str)
    values[7] = ""  # missing
    towns = rng.choice(["Aachen", "Ulm"], 40)
    lines = ["height,town", *map(",".join, zip(values, towns))]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    path = commands(section(OWN_TABLE))
    assert [command[2] for command in path] == ["iwae_tf.train", "iwae_tf.score"]
    for command in path:
        run_reduced(command)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    scores = np.array([float(row["log_likelihood"]) for row in rows])
    assert scores.shape == (40,) and np.all(np.isfinite(scores))
    assert scores[7] < 0  # of the town alone, a probability


def test_every_command_is_run_by_a_test():
    others = [words for words in commands() if words[0] != "python"]
    assert others == [
        *(["pip", "install", ".[demo]"], ["make", "demo"], ["make", "test"])
    ]
    assert "\ndemo =\n" in (ROOT / "setup.cfg").read_text()
    for target in ("demo", "test"):  # CI has both
        assert f"make {target}" in (ROOT / ".ci/run").read_text()
    scripts = [words for words in commands() if words[0] == "python"]
    tested = [*commands(section(OWN_IMAGES)), *commands(section(OWN_TABLE))]
    assert scripts == tested


def test_the_example_runs_without_a_warning(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mlxtend")
    enter(make_checkout(tmp_path), monkeypatch)
    namespace = {}
    (example,) = blocks(README, "python")
    # The import that hides TensorFlow's start-up messages comes before any other.
    assert example.code.startswith("import iwae_tf ")
    exec(compile(example.code, "README.md", "exec"), namespace)
    assert namespace["result"].estimate.shape == (50,)
    out, err = capfd.readouterr()
    assert "nats" in out.splitlines()[-1]
    assert "warning" not in (out + err).lower()
