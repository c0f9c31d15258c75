"""Every command and code block of the README runs, at a reduced size."""

import csv
import json
import re
import sys
from pathlib import Path

import children
import numpy as np
import pytest
import tensorflow as tf
from pages import REDUCED, ROOT, blocks, links, make_checkout
from pages import commands as commands_of
from PIL import Image

README = (ROOT / "README.md").read_text()


OWN_IMAGES = "Your own images in ten minutes"


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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that holds what the README's paths mean: its own `images.npy` too."""
    pytest.importorskip("mlxtend")
    make_checkout(tmp_path)
    enter(tmp_path, monkeypatch)
    (block,) = (b for b in blocks(README, "python") if "images.npy" in b.code)
    exec(compile(block.code, "README.md", "exec"), {})
    return tmp_path


def enter(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


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


def test_scripts_run_in_the_order_of_the_readme(checkout):
    pytest.importorskip("apache_beam")
    scripts = [command for command in commands() if command[0] == "python"]
    assert {command[2] for command in scripts} == set(REDUCED)
    own_images = commands(section(OWN_IMAGES))  # have a test of their own
    (checkout / "runs/rainforth").mkdir(parents=True)  # for a report of nothing yet
    for command in (command for command in scripts if command not in own_images):
        run_reduced(command)
    assert (checkout / "runs/a/results.json").is_file()
    assert (checkout / "saved_models/mine/1/saved_model.pb").is_file()
    assert (checkout / "runs/a/diagnostics/report.html").is_file()
    report = (checkout / "runs/rainforth/report.md").read_text()
    assert "0 of 7 cells are done" in report
    assert len((checkout / "scores.csv").read_text().splitlines()) == 51
    shards = list(checkout.glob("beam/scores-*-of-*.csv"))
    assert sum(len(shard.read_text().splitlines()) - 1 for shard in shards) == 50


def test_tensorflows_own_tool_shows_and_runs_it(checkout):
    tool = "saved_model_cli"
    assert Path(sys.executable).with_name(tool).is_file()
    for words in (command for command in commands() if command[0] == tool):
        done = children.run(f"tensorflow.python.tools.{tool}", *words[1:])
        assert done.returncode == 0, done.stderr
        assert "log_likelihood" in done.stdout


def test_every_command_is_run_by_a_test():
    known = {"python", "make", "saved_model_cli"}
    assert {command[0] for command in commands()} == known


def test_make_targets_exist():
    targets = [command[1] for command in commands() if command[0] == "make"]
    assert sorted(targets) == ["bench", "demo", "diagnose-demo", "serve-demo", "test"]
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target}" in ci


def test_python_blocks_run_one_after_the_other(checkout):
    namespace = {}
    for block in blocks(README, "python"):
        exec(compile(block.code, "README.md", "exec"), namespace)
    assert namespace["result"].estimate.shape == (50,)
    assert (checkout / "runs/readme_model/1/saved_model.pb").is_file()


def test_links_point_to_files():
    paths = [path for path, _ in links(README)]
    assert any(paths)
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_config_is_in_the_table():
    table = README[README.index("| config | what |") :]
    table = table[: table.index("\n\n")]
    for path in (ROOT / "configs").glob("[!_]*.py"):
        assert f"`{path.stem.removesuffix('_2l')}`" in table, path.stem
