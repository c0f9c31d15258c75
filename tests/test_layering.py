"""Imports point one way, and only where they are meant to."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "iwae_tf"
SCRIPTS = {"train", "evaluate", "export", "reproduce", "sweep"}
# Module to the siblings that it may import; `errors` is open to all.
ALLOWED = {
    "errors": set(),
    "startup": set(),
    "files": set(),
    "checks": set(),
    "noise": set(),
    "log_weights": set(),
    "bounds": {"log_weights"},
    "distributions": set(),
    "dense": set(),
    "execution": set(),
    "metrics": set(),
    "networks": {"dense"},
    "optimizers": set(),
    "data_files": set(),
    "data_sources": {"data_files"},
    "datasets": {"checks", "data_files", "data_sources"},
    "plot_inputs": set(),
    "drawing": {"files"},
    "plots": {"drawing", "plot_inputs"},
    "autoencoder": {"checks", "noise", "distributions"},
    "gradients": {"bounds", "dense"},
    "models": {
        "autoencoder", "bounds", "checks", "distributions", "execution", "gradients",
        "log_weights", "metrics", "noise",
    },
    "evaluation": {"autoencoder", "checks", "distributions", "log_weights", "noise"},
    "saved_model": {"checks", "distributions", "evaluation", "noise"},
    "config": {
        "datasets", "distributions", "gradients", "models", "networks", "optimizers",
    },
    "checkpoints": {"files"},
    "callbacks": {"files"},
    "training": {"callbacks", "checkpoints", "config", "datasets", "workdir"},
    "results": {"datasets", "evaluation", "plots"},
    "workdir": {"config", "files", "models", "saved_model"},
    "sweeps": {"checks", "config", "files", "workdir"},
    "studies": {"checks", "config"},
    "study_report": {"files", "plots", "studies", "workdir"},
    "cli": {"config"},
}  # fmt: skip


def modules():
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module):
    """(siblings, outside packages) that a module imports anywhere in its text."""
    siblings, outside = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "iwae_tf":
            siblings |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package, _, sibling = node.module.partition(".")
            if package == "iwae_tf":
                siblings.add(sibling)
            else:
                outside.add(package)
    return siblings - {"errors"}, outside


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module):
    siblings, _ = imported(module)
    if module not in SCRIPTS:
        assert siblings <= ALLOWED[module]
    assert not siblings & SCRIPTS


def test_every_module_is_listed():
    assert set(modules()) == set(ALLOWED) | SCRIPTS


def test_matplotlib_is_imported_in_one_place():
    users = {m for m in modules() if "matplotlib" in imported(m)[1]}
    assert users == {"drawing"}


@pytest.mark.parametrize("module", ["bounds", "log_weights", "noise", "distributions"])
def test_the_numerics_do_not_know_keras(module):
    assert "keras" not in imported(module)[1]


def test_no_import_is_circular():
    seen, path = set(), []

    def visit(module):
        assert module not in path, f"{' -> '.join([*path, module])}"
        if module in seen:
            return
        path.append(module)
        for sibling in ALLOWED.get(module, ()):
            visit(sibling)
        seen.add(path.pop())

    for module in ALLOWED:
        visit(module)
