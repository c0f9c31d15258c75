import functools
import itertools
import json
import pathlib
import runpy
import shutil
import subprocess

import keras
import numpy as np
import pytest
from running import assert_one_line, run_script

from iwae_tf.config import stages, validate
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import programs
from iwae_tf.studies import report, times
from iwae_tf.studies.cells import STUDIES, Protocol, cells_of, in_turn
from iwae_tf.studies.recipes import BY_BUDGET
from iwae_tf.studies.rows import collect

ROOT = pathlib.Path(__file__).parents[1]


def all_cells(name, budget="short", dataset="mnist", seeds=(0,)):
    return cells_of(name, Protocol(budget, dataset), seeds)


WITH_CELLS = [name for name, study in STUDIES.items() if not study.part]


@pytest.mark.parametrize("budget", BY_BUDGET)
@pytest.mark.parametrize("name", WITH_CELLS)
def test_every_cell_is_a_valid_config_under_its_own_name(name, budget):
    cells = all_cells(name, budget, seeds=(0, 3))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert names == [cell.name for cell in all_cells(name, budget, seeds=(0, 3, 0))]
    for cell in cells:
        validate(cell.config)
        assert cell.config.eval_split == "test"
        assert cell.name.endswith(f"_seed{cell.config.seed}")


@pytest.mark.parametrize("name", STUDIES)
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


def test_the_medium_budget_keeps_four_draws_or_one_of_each_group():
    for name, epochs in (("rainforth_table1", 40), ("burda_table1", 26)):
        for config in (cell.config for cell in all_cells(name, "medium")):
            groups, draws = config.num_groups, config.num_samples
            first, last = stages(config)
            assert (first.num_groups, first.num_samples, first.epochs) == (1, 1, 240)
            assert last[:2] == (draws, epochs) and last.num_groups == groups
            assert config.backward_samples == {1: 4, 4: 1, 8: 1}[groups]
            assert (config.epochs, config.batch_size) == (240 + epochs, 400)


def test_the_config_of_an_hour_is_that_of_its_cell():
    (cell,) = [c for c in all_cells("headline") if c.name == "iwae_k50_1l_hour_seed0"]
    path = pathlib.Path(__file__).parents[1] / "configs/mnist_iwae_hour.py"
    assert runpy.run_path(str(path))["get_config"]().to_dict() == cell.config.to_dict()


def test_draws_of_rainforth_are_64_after_a_stage_of_eight():
    for name in ("rainforth_table1", "rainforth_grid", "estimators"):
        for cell in all_cells(name):
            config = cell.config
            assert config.num_groups * config.num_samples == 64
            first, last = stages(config)
            assert first.num_groups * first.num_samples == 8
            assert first.num_groups == min(config.num_groups, 8)
            assert (first.epochs, last.epochs) == (60, 10)


def test_two_layers_are_the_papers():
    (cell,) = [c for c in all_cells("burda_table1") if c.name == "iwae_k50_2l_seed0"]
    assert list(cell.config.latent_dims) == [100, 50]
    assert [list(dims) for dims in cell.config.hidden_dims] == [[200, 200], [100, 100]]
    assert cell.published.nll == 82.90 and cell.published.active_units == "26+7"


def test_a_swapped_cell_starts_from_the_trained_one():
    protocol = Protocol("full")
    cells = cells_of("burda_swap", protocol, (2,), "runs/swap")
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


def finished(folder, cell, nll, **found):
    """Writes what a run of a cell leaves behind."""
    path = folder / cell.name
    path.mkdir(parents=True)
    result = {
        "nll": nll,
        "jackknife_error": 0.003,
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


def write(name, folder, nlls=(), seeds=(0,)):
    """The rows of a short study by label, and what its report says.

    Args:
      name: of the study.
      folder: of its runs.
      nlls: dict of cell to the NLL of a run to be made up, or to (NLL, what else its
        results hold).
      seeds: of the cells.
    """
    cells = all_cells(name, seeds=seeds)
    by_name = {cell.name: cell for cell in cells}
    for key, nll in dict(nlls).items():
        nll, found = nll if isinstance(nll, tuple) else (nll, {})
        finished(folder, by_name[key], nll, **found)
    rows = report.write(name, Protocol("short"), cells, folder)
    return {row.label: row for row in rows}, (folder / "report.md").read_text()


def test_a_report_of_several_seeds_compares_them_one_by_one(tmp_path):
    nlls = {"miwae_1_64": (84.7, 84.9, 84.8), "miwae_2_32": (84.8, 84.9, 84.95)}
    nlls |= {"miwae_4_16": (84.0, 84.1)}
    runs = {f"{n}_seed{s}": nll for n, of in nlls.items() for s, nll in enumerate(of)}
    _, text = write("rainforth_grid", tmp_path, runs, (0, 1, 2))
    words = "MIWAE(1, 64) with the same seed, mean and standard error over 3 seeds: "
    assert words + "MIWAE(2, 32) +0.083 (+- 0.044).\n" in text  # of 0.1, 0, 0.15


def test_a_report_holds_what_was_measured_beside_what_was_published(tmp_path):
    runs = {
        "iwae_k50_1l_seed0": 84.50,
        "iwae_k50_1l_seed1": (84.30, {"active_units": [26]}),
        "vae_k50_1l_seed0": (
            86.55,
            {"refined_nll": 86.41, "training_seconds": 1800, "product_gflops": 100.0},
        ),
    }
    rows, text = write("burda_table1", tmp_path, runs, (0, 1))
    assert len(rows) == 12
    both = rows["1-layer IWAE, k = 50"]
    assert both.nll == pytest.approx(84.40) and both.seeds == [0, 1]
    assert both.difference == pytest.approx(0.38)
    assert both.seed_deviation == pytest.approx(0.2 / 2**0.5)
    assert both.error == pytest.approx(0.003 / 2**0.5)
    assert both.active_units == "25.5" and both.iwae == pytest.approx(-85.9)
    assert rows["2-layer IWAE, k = 50"].nll is None
    assert "2 of 12 cells are done, in 3 runs. Published" in text
    assert "deviation of the NLL between seeds" in text.replace("\n", " ")
    results = text.partition("## Protocol")[0].splitlines()
    lines = [line.split(" | ") for line in results if line[:2] == "| "]
    names, (found, *_) = lines[0], [line for line in lines if "IWAE, k = 50" in line[0]]
    assert len(set(names)) == len(names)  # no two columns of one name
    cell = dict(zip(names, found))
    assert cell["| cell"] == "| 1-layer IWAE, k = 50"
    assert (cell["NLL"], cell["+- draws"]) == ("84.40", "0.002")
    assert cell["+- seeds"] == "0.14" and not cell["refined NLL"]
    (vae,) = [line for line in lines if "1-layer VAE, k = 50" in line[0]]
    vae = dict(zip(names, [field.removesuffix(" |") for field in vae]))
    assert (vae["refined NLL"], vae["GFLOP/s"]) == ("86.41", "100")
    assert vae["training minutes |"] == "20.0"  # 1,800 s at 100 of 150 GFLOP/s
    assert "bias is smaller" in text
    assert "nats: 1-layer VAE, k = 50 (0.20). The published runs" in text
    assert "trained for 3,280 epochs, these for at most 80." in text
    assert "apart, 1 of 1 are in the same order here." in text
    assert "| 2-layer IWAE, k = 50 | not yet |" in text
    page = (tmp_path / "report.html").read_text()
    assert "<table>" in page and "84.40" in page
    assert (tmp_path / "nll.png").stat().st_size > 5000
    table = json.loads((tmp_path / "report.json").read_text())
    assert table["budget"] == "short" and len(table["rows"]) == 12


FURTHER = "1-layer IWAE, k = 50"


@pytest.mark.parametrize(
    ("name", "nlls", "sentence"),
    [
        (
            "burda_table1",
            # Published as 86.35, 86.47, which is as good as the first, and 85.54.
            {"vae_k50_1l": 86.0, "vae_k5_1l": 86.2, "iwae_k5_1l": 86.1},
            "apart, 1 of 2 are in the same order here; not 1-layer VAE, k = 50 "
            "before 1-layer IWAE, k = 5.",
        ),
        (
            "headline",
            dict.fromkeys(["iwae_k50_1l", "iwae_k50_2l", "iwae_k50_1l_further"], 84.0),
            f"\n{FURTHER}, trained further starts from the weights of {FURTHER}. "
            "Epochs and seconds do not include the earlier run.\n",
        ),
        ("rainforth_table1", {}, "0 of 7 cells are done"),
    ],
    ids=["order", "sequels", "nothing yet"],
)
def test_a_report_says_what_its_table_means(tmp_path, name, nlls, sentence):
    nlls = {f"{cell}_seed0": nll for cell, nll in nlls.items()}
    rows, text = write(name, tmp_path, nlls)
    assert sum(row.nll is not None for row in rows.values()) == len(nlls)
    assert sentence in text
    assert "lr_schedule" not in text  # stages take its place


def test_a_report_says_which_cells_were_trained_under_another_name(tmp_path):
    cells = {cell.name: cell for cell in all_cells("rainforth_grid")}
    vae = cells["miwae_64_1_seed0"].config.to_dict()
    stages = [(8, 60, 1.5e-3, 2e-4), (64, 10, 5e-4, 5e-6)]
    vae |= {"model": "vae", "num_groups": 1, "num_samples": 64, "stages": stages}
    vae["gradient_estimator"] = "stl"  # which DReG is for it
    vae.pop("precision")  # as of a run from before there was such a key
    nlls = {"miwae_64_1_seed0": (86.0, {"config": vae}), "miwae_8_8_seed0": 85.0}
    rows, text = write("rainforth_grid", tmp_path, nlls)
    as_what = "model = vae, num_groups = 1, num_samples = 64"
    as_what += ", gradient_estimator = stl"
    assert [row.trained_as for row in rows.values() if row.trained_as] == [as_what]
    words = "Equal objectives were trained once, under one name: MIWAE(64, 1)"
    assert f"{words} ({as_what})." in text


def test_a_report_states_for_all_only_what_they_have_in_common(tmp_path):
    seeds, usual = (0, 1), {"num_samples": 5000}
    versions = {"tensorflow": "2.21.0", "numpy": "2.0"}
    runs = {
        "iwae_k50_1l_seed0": (84.0, usual | {"versions": versions}),
        "iwae_k50_1l_seed1": (84.0, usual | {"versions": versions}),
        "iwae_k50_1l_hour_seed0": (84.0, {"num_samples": 500, "versions": versions}),
        "iwae_k50_2l_seed0": (84.0, usual | {"versions": versions | {"numpy": "2.1"}}),
    }
    _, text = write("headline", tmp_path, runs, seeds)
    head, _, *lines = text[text.index("Where cells differ") :].splitlines()[2:]
    names, *lines = ([f.strip() for f in s.split("|")[1:-1]] for s in (head, *lines))
    label, one, two = "1-layer IWAE, k = 50", "[[200, 200]]", "[[200, 200], [100, 100]]"
    images = "100 images, {} samples, binarized once from seed 1"
    assert dict(zip(names, zip(*lines))) == {
        "cell": (label, f"{label}, in an hour", "2-layer IWAE, k = 50"),
        "draws of each group that go backward": ("", "4", ""),
        "latent_dims": ("[50]", "[50]", "[100, 50]"),
        "hidden_dims": (one, one, two),
        "batch size": ("200", "400", "200"),
        "epochs": ("380", "695", "268"),
        "stages (draws, epochs, first and last rate)": (
            "[[8, 300, 0.0015, 0.0003], [50, 80, 0.0006, 5e-06]]",
            "[[1, 400, 0.002, 0.0008], [16, 200, 0.0008, 0.0004], "
            "[50, 95, 0.0004, 6e-06]]",
            "[[8, 220, 0.0015, 0.0003], [50, 48, 0.0006, 5e-06]]",
        ),
        "test set": tuple(images.format(count) for count in (5000, 500, 5000)),
        "numpy": ("2.0", "2.0", "2.1"),
    }
    common = text[text.index("## Protocol") : text.index("Where cells differ")]
    assert common.splitlines()[2:-1] == [
        "- optimizer: muon",
        "- gradient estimator: dreg",
        "- training binarization: dynamic",
        "- libraries: tensorflow 2.21.0",
    ]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"dataset": "omniglot"}, "whose dataset is 'omniglot', not 'mnist'"),
        ({"batch_size": 20}, "whose batch_size is 20, not 200"),
        ({"data_dir": "elsewhere", "start_from": None}, None),
    ],
)
def test_results_of_another_run_are_no_cell(tmp_path, found, words):
    cells = all_cells("samples")
    finished(tmp_path, cells[0], 85.0, config=cells[0].config.to_dict() | found)
    if words is None:
        rows, _ = collect(cells, tmp_path)
        assert rows[0].nll == 85.0
        return
    with pytest.raises(InvalidInputError, match=words):
        collect(cells, tmp_path)
    (tmp_path / cells[0].name / "results.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="`results.json` must be of a run"):
        collect(cells, tmp_path)


def test_the_ends_of_the_grid_are_published_as_iwae_and_vae():
    for budget in ("full", "short"):
        by_label = {c.label: c.published for c in all_cells("rainforth_grid", budget)}
        known = {label: found.nll for label, found in by_label.items() if found}
        assert known == {
            **{"MIWAE(1, 64)": 84.52, "PIWAE(1, 64)": 84.52, "MIWAE(64, 1)": 86.21},
            **{"MIWAE(4, 16)": 84.56, "MIWAE(8, 8)": 84.97, "PIWAE(8, 8)": 84.46},
        }


def test_equal_objectives_are_trained_once():
    turns = in_turn(all_cells("burda_table1"))
    named = [[cell.name for cell in turn] for turn in turns]
    assert named[1:] == [["iwae_k1_1l_seed0", "iwae_k1_2l_seed0"], []]
    assert len(named[0]) == 10
    first, equal, after = in_turn(all_cells("burda_swap"))
    assert (len(first), len(equal), len(after)) == (2, 0, 2)
    first, equal, _ = in_turn(all_cells("rainforth_grid"))
    assert [cell.name for cell in equal] == ["piwae_1_64_seed0"]


def test_the_grid_is_drawn_against_m(tmp_path):
    cells = all_cells("rainforth_grid")
    nlls = {cell.name: 84.5 + 0.1 * index for index, cell in enumerate(cells)}
    _, text = write("rainforth_grid", tmp_path, nlls)
    assert "](figure.png)" in text
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_estimators_are_compared_at_equal_time(tmp_path):
    """The second has steps of twice the time, whatever its own seconds say."""
    cells = all_cells("estimators")
    for cell in cells[:2]:
        finished(tmp_path, cell, 84.5)
        rows = [f"{n},{5 * n},{-90 - 1 / n}" for n in range(1, 71)]
        text = "\n".join(["epoch,seconds,val_bound", *rows])
        (tmp_path / cell.name / "metrics.csv").write_text(text)
    assert times.at_equal_time(cells, tmp_path) == []
    write("estimators", tmp_path)  # drawn against the time that the runs took
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    # Of two stages, 60 epochs of 8 draws and 10 of 64; three rounds, one of them slow.
    seconds = {
        "reparameterized": [[0.1, 0.9, 0.1], [0.6, 5.4, 0.6]],
        "stl": [[0.2, 1.8, 0.2], [1.2, 10.8, 1.2]],
    }
    kept = {"steps_per_epoch": 10, "seconds": {"IWAE": seconds}}
    (tmp_path / times.FILE).write_text(json.dumps(kept))
    first, second = times.at_equal_time(cells, tmp_path)
    assert first.seconds == pytest.approx(10 * (60 * 0.1 + 10 * 0.6))
    assert (first.ratio, first.value, first.epochs) == (1, -90 - 1 / 70, 70)
    assert first.value_by_then == first.value
    # All of the first's 120 seconds are the second's first stage.
    assert second.seconds == pytest.approx(240) and second.ratio == pytest.approx(2)
    assert second[4:] == (-90 - 1 / 70, 60, -90 - 1 / 60)
    _, text = write("estimators", tmp_path)
    assert "| IWAE | stl | 4.0 | 2.00 | -90.01 | -90.02 | 60 |" in text
    table = json.loads((tmp_path / "report.json").read_text())
    assert table["at_equal_time"][1] == second._asdict()
    # A second seed, of a cell that the first lacks too, makes no difference.
    both = all_cells("estimators", seeds=(0, 1))
    finished(tmp_path, both[5], 84.5)
    assert both[5].name == "iwae_dreg_seed1"
    assert times.at_equal_time(both, tmp_path) == [first, second]


def test_a_step_is_timed_between_calls_of_the_train_function():
    clock = times.StepClock()
    clock.on_train_begin()
    clock.ends = [(10, 100.0), (20, 101.0), (30, 102.5)]  # the last call has 5 steps
    assert clock.seconds_a_step(25) == pytest.approx(2.5 / 15)
    clock.on_train_begin()
    clock.on_train_batch_end(9)
    with pytest.raises(ValueError, match="10 steps in one call"):
        clock.seconds_a_step(10)


@pytest.mark.slow
def test_steps_of_a_study_are_timed_in_turn(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    cells = all_cells("estimators", "smoke", seeds=(0, 1))
    chosen = [cell for cell in cells if cell.name.startswith("vae_")]
    calls, fit = [], keras.Model.fit

    @functools.wraps(fit)
    def noted(model, *args, **kwargs):
        calls.append(model)
        return fit(model, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", noted)
    monkeypatch.setattr(programs, "MOST_STEPS", 4)  # a short `fit` has several calls
    times.measure_cells(chosen, tmp_path, num_rounds=2)
    # Of one seed, two an estimator: one a stage, of one draw and of four.
    models = calls[:4]
    assert calls == models * 3  # to compile, and two rounds
    found = [(model.gradient_estimator, model.num_samples) for model in models]
    estimators = ("reparameterized", "stl")
    assert found == list(itertools.product(estimators, (1, 4)))
    kept = json.loads((tmp_path / times.FILE).read_text())
    assert kept["steps_per_epoch"] == 20  # of 4,000 images, 200 a batch
    assert tuple(kept["seconds"]["VAE"]) == estimators
    for seconds in kept["seconds"]["VAE"].values():
        assert np.shape(seconds) == (2, 2) and np.min(seconds) > 0


def test_steps_are_timed_once_the_first_seed_is_done(tmp_path):
    cells = all_cells("estimators", seeds=(2, 0))
    first = cells[::2]
    for cell in [*first[:-1], cells[1]]:
        finished(tmp_path, cell, 84.5)
    assert times.left_to_measure(cells, tmp_path) == []
    finished(tmp_path, first[-1], 84.5)
    assert times.left_to_measure(cells, tmp_path) == first
    assert {cell.config.seed for cell in first} == {2}
    (tmp_path / times.FILE).write_text("{}")
    assert times.left_to_measure(cells, tmp_path) == []


def test_pictures_of_runs_outlive_them(tmp_path):
    cells = all_cells("samples")
    assert [cell.config.model for cell in cells] == ["vae", "iwae"]
    for cell in cells:
        finished(tmp_path, cell, 85.0)
        picture = tmp_path / cell.name / "figures" / "latent.png"
        picture.parent.mkdir()
        picture.write_bytes(cell.name.encode())
    _, first = write("samples", tmp_path)
    copy = tmp_path / "pictures" / "iwae_k50_1l_seed0_latent.png"
    assert copy.read_bytes() == b"iwae_k50_1l_seed0"
    assert "## Latent" in first and f"](pictures/{copy.name})" in first
    assert "## Samples" not in first
    shutil.rmtree(picture.parent)
    assert write("samples", tmp_path)[1] == first


@pytest.fixture
def reproduce(monkeypatch, capfd):
    """Runs the script in the checkout, with flags."""
    monkeypatch.chdir(ROOT)

    def run(*flags):
        capfd.readouterr()
        code = run_script("reproduce", *flags)
        return subprocess.CompletedProcess(flags, code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"tool": 1}', '{"study": ["x"], "budget": "short", "dataset": "x"}'],
)
def test_a_report_of_something_else_has_no_head(tmp_path, capsys, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    assert report.read_head(path) is None
    code = run_script("reproduce", "--report_only", f"--workdir={tmp_path}")
    assert_one_line(code, capsys, "must hold the report.json of a study")
    assert path.read_text() == text


@pytest.mark.slow
def test_the_script_runs_a_cell_and_rebuilds_its_report(reproduce, tmp_path):
    pytest.importorskip("mlxtend")
    flags = ["--study=rainforth_table1", "--budget=smoke", f"--workdir={tmp_path}"]
    done = reproduce(*flags, "--cells=piwae*")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "piwae_8_8_seed0" / "results.json").is_file()
    page = tmp_path / "report.md"
    first = page.read_bytes()
    assert b"1 of 7 cells are done" in first
    page.unlink()
    assert reproduce(*flags, "--report_only").returncode == 0
    assert page.read_bytes() == first
    page.unlink()  # which is rebuilt from what report.json says of it
    foreign = tmp_path / "a" / "report.json"
    foreign.parent.mkdir()
    foreign.write_text('{"tool": "eslint"}')
    below = reproduce("--report_only", f"--workdir={tmp_path.parent}")
    assert below.returncode == 0, below.stderr
    assert f"skipped {foreign}, which is not a report of a study" in below.stdout
    assert page.read_bytes() == first
    # Elsewhere the run is taken, not trained.
    other = tmp_path / "other"
    flags = ["--study=rainforth_grid", "--budget=smoke", f"--workdir={other}"]
    done = reproduce(*flags, "--cells=piwae_8_8*", f"--reuse={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "piwae_8_8_seed0: taken from" in done.stdout
    assert "started" not in done.stdout
    theirs = tmp_path / "piwae_8_8_seed0" / "results.json"
    ours = other / "piwae_8_8_seed0" / "results.json"
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_report_keeps_the_seeds_that_it_has(reproduce, tmp_path):
    """Those of a later call are added: its means would be of fewer runs."""
    nlls = {f"vae_seed{seed}": 86.0 + seed for seed in (1, 2)}
    rows, _ = write("burda_swap", tmp_path, nlls, seeds=(1, 2))
    assert rows["VAE, k = 1"].nll == 87.5
    flags = "--study=burda_swap", f"--workdir={tmp_path}", "--report_only"
    done = reproduce(*flags, "--seed=3")
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["seeds"] == [1, 2, 3]
    assert kept["rows"][0]["nll"] == 87.5 and kept["rows"][0]["seeds"] == [1, 2]


def test_a_pattern_of_cells_means_whole_names(reproduce, tmp_path):
    """`vae` is no pattern of `vae_then_iwae`, which would be trained as well."""
    pytest.importorskip("mlxtend")
    flags = ["--study=burda_swap", "--budget=smoke", f"--workdir={tmp_path}"]
    done = reproduce(*flags, "--cells=vae_then")
    assert done.returncode == 2 and "`--cells` must match some of" in done.stderr
    (cell, *_) = cells_of("burda_swap", Protocol("smoke"), folder=tmp_path)
    finished(tmp_path, cell, 100.0)
    done = reproduce(*flags, "--cells=vae")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [cell.name]


def test_the_signal_to_noise_study_is_a_diagnosis(tmp_path):
    kept = ROOT / "results" / "known_answers" / "toy.json"  # measured with its settings
    shutil.copy(kept, tmp_path / "toy.json")
    assert (
        run_script("reproduce", "--study=rainforth_snr", f"--workdir={tmp_path}") == 0
    )
    assert (tmp_path / "toy.json").read_bytes() == kept.read_bytes()
    text = (tmp_path / "report.md").read_text()
    assert "](toy.png)" in text and (tmp_path / "toy.png").is_file()
    for line in json.loads(kept.read_text())["results"]["lines"]:
        if line["slope"] is not None:
            assert f"slope {line['slope']:+.3f}" in text


def test_committed_reports_are_what_their_numbers_say(tmp_path):
    committed = {path.parent for path in (ROOT / "results").glob("*/report.json")}
    assert committed
    for folder in committed:
        ignored = shutil.ignore_patterns("checkpoints", "tensorboard", "saved_model")
        shutil.copytree(folder, tmp_path / folder.name, ignore=ignored)
    assert run_script("reproduce", "--report_only", f"--workdir={tmp_path}") == 0
    for folder in committed:
        for name in ("report.md", "report.json"):
            rebuilt = (tmp_path / folder.name / name).read_text()
            assert rebuilt == (folder / name).read_text(), folder


HEADLINE = "--study=headline --workdir=x"
MISTAKES = {
    "--study=headline": "`--workdir` must be given",
    "--workdir=tests --report_only": "must hold the report.json",
    f"{HEADLINE} --reuse=nowhere": "`--reuse` must be a path that exists",
    f"{HEADLINE} --budget=y": "`budget` must be one of",
    f"{HEADLINE} --dataset=y": "`dataset` must be one of",
    "--study=estimators --workdir=x --dataset=omniglot": "must be mnist for estimators",
    f"{HEADLINE} --cells=y": "`--cells` must match",
    "--study=rainforth_snr --workdir=x --seed=3": "`--seed` must be left out for "
    "rainforth_snr, which has no cells",
    f"{HEADLINE} --report_only": "must be the folder",
    "--workdir=results --report_only --seed=1": "`--seed` must come with --study",
    "--workdir=results --report_only --budget=full": "`--budget` must come with --st",
    "--study=samples --budget=full --workdir=results/samples": "whose budget is "
    "'short', not 'full'",
    "--study=samples --report_only --workdir=results/burda_table1": "whose study is "
    "'burda_table1', not 'samples'",
    f"{HEADLINE} --seed=-1": "`seed` must be an integer >= 0. Received: seed=-1",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_told_in_one_line_and_leave_nothing(monkeypatch, capsys, flags):
    monkeypatch.chdir(ROOT)
    code = run_script("reproduce", *flags.split())
    assert_one_line(code, capsys, MISTAKES[flags])
    assert not (ROOT / "x").exists()
