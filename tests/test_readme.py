"""Every command and code block of the README runs, at a reduced size."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import REDUCED, ROOT, blocks, links, make_checkout
from pages import commands as commands_of

README = (ROOT / "README.md").read_text()


def commands():
    return [w for block in blocks(README, "bash") for w in commands_of(block.code)]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder that holds what the README's paths mean."""
    make_checkout(tmp_path)
    images = np.random.default_rng(0).integers(0, 2, [30, 28, 28, 1])
    np.save(tmp_path / "images.npy", images.astype("float32"))
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
    assert len((checkout / "scores.csv").read_text().splitlines()) == 31
    shards = list(checkout.glob("beam/scores-*-of-*.csv"))
    assert sum(len(shard.read_text().splitlines()) - 1 for shard in shards) == 30


def test_tensorflows_own_tool_shows_and_runs_it(checkout):
    tool = Path(sys.executable).with_name("saved_model_cli")
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
