"""What saves the tests time: graphs for XLA's programs, and the long files first."""

import contextlib
import functools
import gc

import pytest

# The longest first, as measured: at the end one process would be left alone with them.
FIRST = [
    f"test_{name}.py"
    for name in (
        *("docs", "execution", "conditional", "diagnose", "models", "missing"),
        *("saved_model", "readme", "tables", "scripts", "refinement", "keras_habits"),
        *("conditional_scripts", "evaluation", "studies", "diagnostics", "checkpoints"),
        *("kept_draws", "pretrained", "notebooks", "fuzz", "terminal", "explorer"),
        *("beam", "resume", "counts", "gradients", "serving", "mixed"),
    )
]


def pytest_addoption(parser):
    parser.addoption(
        "--xla", action="store_true", help="XLA's programs in all tests, as for users"
    )


@pytest.fixture(scope="session", autouse=True)
def rare_collections():
    """A traced graph is thousands of objects: to look through all costs a tenth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="module", autouse=True)
def collection_after_each_file():
    """The exports that a file has loaded would otherwise fill gigabytes in the end.

    What is left then, as modules, is not looked through again: a second a file.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unchanged_graphs(request):
    if not request.config.getoption("xla"):
        import quick_graphs  # noqa: F401


@pytest.fixture(autouse=True)
def graphs(request, monkeypatch):
    """Without the mark `xla` a graph stands for XLA's program: it is made sooner."""
    is_marked = request.node.get_closest_marker("xla") is not None
    if not is_marked and not request.config.getoption("xla"):
        monkeypatch.setattr(
            "iwae_tf.models.autoencoder.Autoencoder.supports_xla", False
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Flags of a run of seconds: a config and 60 images of one's own."""
    from running import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """The workdir of a finished run, to be read; what changes it takes a copy.

    What the run printed is two folders up, in `stdout` and `stderr`.
    """
    from running import run_script

    workdir = tmp_path_factory.mktemp("runs") / "deep" / "run"
    with (
        open(workdir.parents[1] / "stdout", "w") as output,
        open(workdir.parents[1] / "stderr", "w") as error,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(error),
    ):
        assert run_script("train", *tiny, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A small model and the folder of its export; neither is to be changed."""
    from builders import export_digits

    return export_digits(tmp_path_factory.mktemp("served") / "digits")


@pytest.fixture(scope="module")
def loaded_once():
    """Each export is loaded once in a file, however often it scores."""
    from iwae_tf.serving import endpoints, imputed

    load = functools.cache(endpoints.InProcessScorer)
    with pytest.MonkeyPatch.context() as patch:
        for module in (endpoints, imputed):
            patch.setattr(module, "InProcessScorer", load)
        yield


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(FIRST)))
