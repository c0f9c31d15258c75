"""Packages import only what lies on a lower floor, and modules never in a circle."""

import ast
import functools
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "iwae_tf"
SCRIPTS = {
    *("train", "evaluate", "export", "sweep", "diagnose", "score", "score_beam"),
    *("reproduce", "explore"),
}
# From the ground up. A package imports packages below its floor, and itself.
FLOORS = (
    {"errors", "checks", "versions", "moved", "schema"},
    {"io", "probability", "networks", "datasets"},
    {"startup", "bounds", "plots"},
    {"models"},
    {"evaluation", "config"},
    {"saved_model", "diagnostics"},
    {"runs", "serving"},
    {"cli", "studies", "explorer"},
    SCRIPTS | {"public"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
OPEN_TO_ALL = {"errors", "checks"}
# A library and the one module that imports it.
SHAPES = {
    "matplotlib": "plots.drawing",
    "rich": "io.terminal",
    "filelock": "io.files",
    "markdown": "io.html",
}


def modules():
    """Names of all modules, such as `io.files`; a package's is that of its folder."""
    paths = (
        path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")
    )
    names = (".".join(path.parts).removesuffix("__init__").strip(".") for path in paths)
    return sorted(filter(None, names))


MODULES = modules()


def path_of(module):
    path = PACKAGE / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def imported(module):
    """(modules of the package, outside packages) that it imports anywhere."""
    own, outside = set(), set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
            assert not any(a.name.startswith("iwae_tf") for a in node.names), module
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            package, _, sibling = node.module.partition(".")
            if package != "iwae_tf":
                outside.add(package)
                continue
            for alias in node.names:
                name = f"{sibling}.{alias.name}".strip(".")
                own.add(name if name in MODULES else sibling)
    return own, outside


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    package = module.partition(".")[0]
    for other in imported(module)[0]:
        theirs = other.partition(".")[0]
        is_below = FLOOR_OF[theirs] < FLOOR_OF[package]
        assert is_below or theirs == package or theirs in OPEN_TO_ALL, other
        # Within a package a module names the module, not the package's face.
        assert other != package or module == package, f"{module} imports {other}"


def test_every_package_has_a_floor():
    assert {module.partition(".")[0] for module in MODULES} == set(FLOOR_OF)
    assert len(FLOORS) <= 9


def test_a_package_says_what_lives_there():
    for module in MODULES:
        if path_of(module).name == "__init__.py":
            text = ast.get_docstring(ast.parse(path_of(module).read_text()))
            assert text, module
            if "." not in module:
                assert "mport" in text, f"{module} does not say what it may import"


def test_no_module_and_no_class_is_long():
    """At most 400 lines, docstrings included, and 25 methods."""
    for module in MODULES:
        text = path_of(module).read_text()
        assert len(text.splitlines()) <= 400, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if hasattr(part, "args")]
                assert len(methods) <= 25, f"{module}.{node.name}"


def test_no_two_modules_differ_by_an_s():
    names = {module.rpartition(".")[2] for module in MODULES}
    assert not {name for name in names if f"{name}s" in names}


def test_a_library_is_imported_in_one_place():
    for library, place in SHAPES.items():
        assert {m for m in MODULES if library in imported(m)[1]} == {place}


def test_what_is_private_to_libraries_is_used_in_one_place():
    """Methods of keras.Model that are overridden apart, for which `keras_loop` is."""
    of_tuples = {"_asdict", "_replace", "_fields", "_make"}
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(path_of(module).read_text())):
            if isinstance(node, ast.ImportFrom):
                if f"{node.module}.".startswith(("keras.src.", "tensorflow.python.")):
                    found.add(module)
            elif isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr):
                is_ours = ast.unparse(node.value) in ("self", "cls", "super()")
                if node.attr not in of_tuples and not is_ours:
                    found.add(module)
    assert found == {"models.private"}


@pytest.mark.parametrize(
    "module", ["bounds", *(m for m in MODULES if m.startswith("probability"))]
)
def test_the_numerics_do_not_know_keras(module):
    assert "keras" not in imported(module)[1]


def test_no_import_is_circular():
    seen, path = set(), []

    def visit(module):
        assert module not in path, f"{' -> '.join([*path, module])}"
        if module not in seen:
            path.append(module)
            for other in imported(module)[0]:
                visit(other)
            seen.add(path.pop())

    for module in MODULES:
        visit(module)
