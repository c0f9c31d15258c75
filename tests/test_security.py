"""Nothing is unpickled, no shell is started, no archive writes outside its folder."""

import ast
import io
import os
import pathlib
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image
from running import assert_one_line, run_script

from iwae_tf import datasets
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.runs.checkpoints import CheckpointStore
from iwae_tf.runs.workdir import Workdir
from torture.damage import make_model

PACKAGE = pathlib.Path(__file__).parents[1] / "iwae_tf"
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SHELLS = {"system", "popen", "extractall", "eval", "exec", "unpack_archive"}
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted(
    (PACKAGE.parent / "configs").glob("*.py")
)


def names(node):
    """What a node imports or calls."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module, *(alias.name for alias in node.names)}
    if isinstance(node, ast.Call):
        return {getattr(node.func, "attr", getattr(node.func, "id", None))}
    return set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_source_unpickles_nothing_and_starts_no_shell(path):
    for node in ast.walk(ast.parse(path.read_text())):
        found = names(node)
        assert not found & (UNPICKLERS | SHELLS), node.lineno
        if isinstance(node, ast.keyword):
            assert node.arg not in ("safe_mode", "shell"), node.value.lineno
            if node.arg == "allow_pickle":
                assert node.value.value is False
        if "load" in found and ast.unparse(node).startswith("np.load("):
            assert "allow_pickle" in {k.arg for k in node.keywords}, node.lineno


def test_a_lambda_in_a_model_file_is_refused(tmp_path):
    """Keras would run its bytecode: the file is one of this package but for that."""
    layers = keras.layers
    decoder = keras.Sequential([layers.Dense(6), layers.Lambda(lambda x: 2 * x)])
    model = IWAE(MLP([5], (4,)), decoder, num_samples=2)
    model.build((None, 6))
    model.save(tmp_path / "model.keras")
    with pytest.raises(InvalidInputError, match="intact model.keras"):
        Workdir(tmp_path).load_model()


@pytest.mark.parametrize("name", ["../evil.npy", "/tmp/evil.npy", "a/../../evil.npy"])
def test_members_of_archives_stay_where_they_are(tmp_path, name):
    """Archives with a member that points elsewhere: read or refused, never unpacked."""
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x, x_test=x)
    model, store = make_model(), CheckpointStore(folder / "checkpoints")
    store.save(1, model, {})
    for archive in (folder / "data.npz", store.newest):
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(name.replace("/tmp", str(tmp_path)), "evil")
    before = sorted(tmp_path.rglob("*"))
    read = datasets.load_arrays("npz", split="test", data_dir=folder / "data.npz")
    np.testing.assert_array_equal(read.images, x)
    with pytest.raises(InvalidInputError, match="all 1 damaged"):
        store.restore_latest(model, lambda line: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_memory_is_not_taken_for_what_a_header_claims(tmp_path):
    path, header = tmp_path / "data.npz", io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (10**10, 28, 28)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("x_train", "x_test"):
            file.writestr(f"{name}.npy", header.getvalue() + bytes(2**20))
    with pytest.raises(InvalidInputError, match="1048704 bytes where the header says"):
        datasets.load_arrays("npz", split="train", data_dir=path)


def test_memory_that_is_used_up_is_one_line(monkeypatch, capsys):
    def expand_grid(*_):
        raise MemoryError("Unable to allocate 28.5 TiB")

    monkeypatch.setattr("iwae_tf.studies.runner.expand_grid", expand_grid)
    code = run_script("sweep", "--config=mnist_iwae", "--list")
    assert_one_line(code, capsys, "out of memory. Unable to", expected=1)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_in_a_folder_of_images_is_said(tmp_path, make):
    """A pipe is not waited for; links to files elsewhere are followed."""
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere.png"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(elsewhere)
    for number in range(12):
        (folder / f"{number}.png").symlink_to(elsewhere)
    arguments = {"split": "train", "data_dir": folder}
    assert len(datasets.load_arrays("images", **arguments).images) == 10
    make(folder / "no.png")
    with pytest.raises(InvalidInputError, match=r"1 damaged \(no.png: no file\)"):
        datasets.load_arrays("images", **arguments)
