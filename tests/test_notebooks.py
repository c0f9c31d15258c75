"""The notebooks: their cells run, reduced in size, and what is committed is theirs."""

import json
import os
import pathlib

import pytest

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("mlxtend")

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
SMALL = {"EPOCHS": 1, "NUM_SAMPLES": 20, "NUM_TEST": 40}
REDUCED = {
    "quickstart": SMALL,
    "comparing_bounds": SMALL | {"COUNTS": (1, 20)},
    "bring_your_own_model": SMALL | {"DATASET": "mnist5k", "NUM_TRAIN": 200},
    "your_table_with_holes": {"EPOCHS": 1, "NUM_SAMPLES": 30},
    "rejecting_anomalies": {"NUM_IMAGES": 20, "NUM_SAMPLES": 20},
}


def text_of(path):
    """(kind, text) of each cell."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_every_notebook_is_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(REDUCED)
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(REDUCED)
    readme = (ROOT / "README.md").read_text()
    assert all(f"examples/notebooks/{name}.ipynb" in readme for name in REDUCED)


SLOW = ("quickstart", "comparing_bounds", "rejecting_anomalies")
SLOW += ("your_table_with_holes",)  # test_tables.py and tables.md do what it does


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in REDUCED],
)
def test_cells_run(name, monkeypatch, capsys):
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.close("all")))
    monkeypatch.chdir(FOLDER)  # as Jupyter does
    namespace = {}
    for cell in jupytext.read(FOLDER / f"{name}.py").cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), namespace)
        if "parameters" in cell.metadata.get("tags", ()):
            assert set(REDUCED[name]) <= set(namespace)
            namespace |= REDUCED[name]
    assert len(drawn) >= 2
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", REDUCED)
def test_the_committed_notebook_is_the_script_and_has_run(name):
    path = FOLDER / f"{name}.ipynb"
    assert text_of(path) == text_of(FOLDER / f"{name}.py")
    assert path.stat().st_size < 500_000
    assert "sys.path" not in path.read_text()
    text = path.read_text()
    assert os.path.expanduser("~") not in text and "/tmp/" not in text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert [o for o in outputs if "image/png" in o.get("data", {})]
