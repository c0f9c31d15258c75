"""Imports point one way, and only where they are meant to."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "iwae_tf"
SCRIPTS = {
    *("train", "evaluate", "export", "sweep", "diagnose", "score", "score_beam"),
    "reproduce",
}
SUBPACKAGES = {"iwae_tf.diagnostics"}
# Module to the siblings that it may import; `errors` is open to all.
ALLOWED = {
    "errors": set(),
    "startup": set(),
    "files": set(),
    "checks": set(),
    "noise": set(),
    "log_weights": set(),
    "bounds": {"log_weights"},
    "discretized_logistic": set(),
    "distributions": {"discretized_logistic"},
    "dense": set(),
    "execution": set(),
    "metrics": set(),
    "networks": {"dense"},
    "conv_networks": {"networks"},
    "config_networks": {"conv_networks", "distributions", "networks"},
    "optimizers": set(),
    "data_files": set(),
    "image_folder": {"data_files"},
    "data_sources": {"data_files", "image_folder"},
    "datasets": {"checks", "data_files", "data_sources"},
    "plot_inputs": set(),
    "drawing": {"files"},
    "plots": {"drawing", "plot_inputs"},
    "score_plots": {"drawing", "plot_inputs"},
    "conditional": {"checks", "dense", "distributions"},
    "autoencoder": {
        "checks", "conditional", "discretized_logistic", "distributions", "noise",
    },
    "gradients": {"bounds", "dense"},
    "models": {
        "autoencoder", "bounds", "checks", "distributions", "execution", "gradients",
        "log_weights", "metrics", "noise",
    },
    "evaluation": {"autoencoder", "checks", "distributions", "log_weights", "noise"},
    "classes": {"autoencoder", "evaluation"},
    "versions": set(),
    "warmup": set(),
    "model_card": {"files"},
    "saved_model": {
        "autoencoder", "checks", "distributions", "evaluation", "noise", "warmup",
    },
    "endpoints": {"evaluation", "saved_model", "warmup"},
    "score_files": {"data_files", "evaluation", "files", "image_folder"},
    "serving": {"checks", "endpoints", "evaluation", "noise", "score_files"},
    "beam": {"data_files", "endpoints", "score_files", "serving"},
    "config": {
        "config_networks", "datasets", "distributions", "gradients", "models",
        "optimizers",
    },
    "checkpoints": {"files"},
    "callbacks": {"checkpoints", "config", "files", "terminal"},
    "tensorboard": {
        "checks", "drawing", "evaluation", "files", "plot_inputs",
        "diagnostics.representation",
    },
    "training": {
        "callbacks", "checkpoints", "config", "datasets", "distribution", "files",
        "results", "tensorboard", "workdir",
    },
    "results": {
        "autoencoder", "classes", "datasets", "discretized_logistic", "distributions",
        "evaluation", "plots", "saved_model", "terminal", "versions",
    },
    "workdir": {
        "config", "files", "model_card", "models", "saved_model", "versions", "warmup",
    },
    "pretrained": {"checks", "config", "model_card", "workdir"},
    "distribution": {"checks", "evaluation"},
    "sweeps": {"checks", "config", "files", "workdir"},
    "published": set(),
    "studies": {"checks", "config", "published"},
    "study_plots": {"drawing", "plot_inputs"},
    "step_times": {"config", "datasets", "execution", "training"},
    "study_times": {
        "config", "datasets", "files", "step_times", "studies", "training", "versions",
        "workdir",
    },
    "study_figures": {"files", "studies", "study_plots", "study_times", "workdir"},
    "study_rows": {"config", "published", "studies", "workdir"},
    "study_markdown": {
        "published", "studies", "study_figures", "study_rows", "study_times",
    },
    "study_report": {
        "files", "studies", "study_figures", "study_markdown", "study_plots",
        "study_rows", "study_times", "workdir",
    },
    "terminal": set(),
    "usage": {"terminal"},
    "cli": {"config", "distribution", "usage"},
    "diagnostics.part": set(),
    "diagnostics.resampling": set(),
    "diagnostics.theory": set(),
    "diagnostics.report": {"files"},
    "diagnostics.figures": {"drawing"},
    "diagnostics.draws": {"checks", "evaluation", "noise"},
    "diagnostics.proposals": {"checks", "diagnostics.draws"},
    "diagnostics.sweeps": {
        "bounds", "checks", "diagnostics.draws", "diagnostics.resampling",
    },
    "diagnostics.coverage": {
        "checks", "evaluation", "diagnostics.draws", "diagnostics.proposals",
        "diagnostics.resampling",
    },
    "diagnostics.annealing": {
        "checks", "distributions", "noise", "diagnostics.resampling",
    },
    "diagnostics.representation": {"distributions", "evaluation", "noise"},
    "diagnostics.gradient_noise": {"checks", "gradients", "noise"},
    "diagnostics.toy_problem": {
        "bounds", "distributions", "models", "diagnostics.gradient_noise",
    },
    "diagnostics.error_parts": {
        "diagnostics.coverage", "diagnostics.figures", "diagnostics.part",
    },
    "diagnostics.estimate_parts": {
        "bounds", "distributions", "evaluation", "plots", "diagnostics.annealing",
        "diagnostics.figures", "diagnostics.part", "diagnostics.proposals",
        "diagnostics.sweeps",
    },
    "diagnostics.learning_parts": {
        "evaluation", "diagnostics.figures", "diagnostics.gradient_noise",
        "diagnostics.part", "diagnostics.representation", "diagnostics.theory",
        "diagnostics.toy_problem",
    },
    "diagnostics.study": {
        "files", "terminal", "diagnostics.error_parts", "diagnostics.estimate_parts",
        "diagnostics.learning_parts", "diagnostics.part", "diagnostics.report",
    },
}  # fmt: skip


def modules():
    """Names of all modules, those of a subpackage with its name before a dot."""
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    names = (".".join(path.with_suffix("").parts) for path in paths)
    return sorted(name for name in names if not name.endswith("__init__"))


def imported(module):
    """(siblings, outside packages) that a module imports anywhere in its text."""
    siblings, outside = set(), set()
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "iwae_tf":
            siblings |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in SUBPACKAGES:
            subpackage = node.module.partition(".")[2]
            siblings |= {f"{subpackage}.{alias.name}" for alias in node.names}
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


@pytest.mark.parametrize(
    "module",
    ["bounds", "discretized_logistic", "distributions", "log_weights", "noise"],
)
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
