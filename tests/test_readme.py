"""Every command and code block of the README runs, at a reduced size."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# absl takes the last of two flags: what is appended wins.
REDUCED = {
    "iwae_tf.train": [
        "--config.epochs=1",
        "--config.eval_num_samples=20",
        "--config.jit_compile=false",
    ],
    "iwae_tf.evaluate": ["--num_samples=20", "--limit=50"],
    "iwae_tf.export": [],
    "iwae_tf.diagnose": [
        "--quick",
        "--num_images=5",
        "--num_samples=50",
        "--parts=proposal,representation",
    ],
    "iwae_tf.score": ["--num_samples=20"],
    "iwae_tf.score_beam": ["--num_samples=20"],
    "iwae_tf.sweep": ["--list"],
    "iwae_tf.reproduce": ["--budget=smoke", "--cells=piwae*"],
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    lines = (line for block in blocks("bash") for line in block.splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder that holds what the README's paths mean."""
    shutil.copytree(ROOT / "saved_models", tmp_path / "saved_models")
    images = np.random.default_rng(0).integers(0, 2, [30, 28, 28, 1])
    np.save(tmp_path / "images.npy", images.astype("float32"))
    (tmp_path / "photos").mkdir()
    for index, photo in enumerate(np.random.default_rng(1).bytes(30)):
        grey = np.full([20, 24], photo, np.uint8)
        Image.fromarray(grey).save(tmp_path / "photos" / f"{index:02}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_scripts_run_in_the_order_of_the_readme(checkout):
    pytest.importorskip("mlxtend")
    pytest.importorskip("apache_beam")
    scripts = [command for command in commands() if command[0] == "python"]
    assert {command[2] for command in scripts} == set(REDUCED)
    for _, minus_m, module, *flags in scripts:
        command = [sys.executable, minus_m, module, *flags, *REDUCED[module]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (checkout / "runs/a/results.json").is_file()
    assert (checkout / "saved_models/mine/1/saved_model.pb").is_file()
    assert (checkout / "runs/a/diagnostics/report.html").is_file()
    assert (checkout / "runs/photos/figures/samples.png").is_file()
    assert len((checkout / "photos.csv").read_text().splitlines()) == 31
    assert len((checkout / "scores.csv").read_text().splitlines()) == 31
    shards = list(checkout.glob("beam/scores-*-of-*.csv"))
    assert sum(len(shard.read_text().splitlines()) - 1 for shard in shards) == 30


def test_tensorflows_own_tool_shows_and_runs_it(checkout):
    tool = pathlib.Path(sys.executable).with_name("saved_model_cli")
    for words in (command for command in commands() if command[0] == "saved_model_cli"):
        done = subprocess.run([tool, *words[1:]], capture_output=True, text=True)
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
    pytest.importorskip("mlxtend")
    namespace = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["result"].estimate.shape == (50,)
    assert (checkout / "runs/readme_model/1/saved_model.pb").is_file()


def test_links_point_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_config_is_in_the_table():
    table = README[README.index("| config | what |") :]
    table = table[: table.index("\n\n")]
    for path in (ROOT / "configs").glob("[!_]*.py"):
        assert f"`{path.stem.removesuffix('_2l')}`" in table, path.stem
