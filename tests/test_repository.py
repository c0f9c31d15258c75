"""The files at the top of the repository, and the one version that they name."""

import ast
import configparser
import datetime
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import iwae_tf
from iwae_tf import models, versions

ROOT = pathlib.Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
VERSION = SETUP["metadata"]["version"]


# One version.


def test_version_is_that_of_setup_cfg():
    assert iwae_tf.__version__ == VERSION
    assert list(versions.library_versions())[:2] == ["python", "iwae_tf"]
    assert versions.library_versions()["iwae_tf"] == VERSION


def test_a_library_may_be_installed_under_another_name(monkeypatch):
    found = versions.library_versions()

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions.library_versions() == found


def test_version_is_written_in_no_module():
    for path in [*ROOT.glob("iwae_tf/**/*.py"), ROOT / "pyproject.toml"]:
        assert not re.search(rf"\b{re.escape(VERSION)}\b", path.read_text()), path


def copy_of_versions(folder, setup):
    """The module in a package of that name beside a `setup.cfg`."""
    package = folder / "iwae_tf"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "versions.py").write_text(pathlib.Path(versions.__file__).read_text())
    if setup:
        (folder / "setup.cfg").write_text(setup)
    code = "from iwae_tf import versions; print(versions.package_version())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_version_of_a_checkout_is_its_own(tmp_path):
    setup = "[metadata]\nname = iwae_tf\nversion = 7.8.9\n"
    assert copy_of_versions(tmp_path, setup) == "7.8.9"


@pytest.mark.parametrize("setup", ["", "[metadata]\nname = other\nversion = 7.8.9\n"])
def test_version_elsewhere_is_that_of_the_install(tmp_path, setup):
    installed = importlib.metadata.version("iwae_tf")
    assert copy_of_versions(tmp_path, setup) == installed


def test_make_takes_the_pythons_that_the_package_takes():
    pattern = r">=3\.(\d+),<3\.(\d+)"
    first, end = re.fullmatch(pattern, SETUP["options"]["python_requires"]).groups()
    check = f"(3, {first}) <= sys.version_info < (3, {end})"
    named = ", ".join(f"3.{minor}" for minor in range(int(first), int(end) - 1))
    makefile = (ROOT / "Makefile").read_text()
    assert check in makefile
    assert f"make needs Python {named} or 3.{int(end) - 1}," in makefile


# CHANGELOG.md, in the form of https://keepachangelog.com/en/1.1.0/.


def test_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    unreleased, *released = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert unreleased == "[Unreleased]"
    heads = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\S+)", line) for line in released]
    assert all(heads), released
    numbers = [tuple(map(int, head[1].split("."))) for head in heads]
    dates = [datetime.date.fromisoformat(head[2]) for head in heads]
    assert numbers == sorted(numbers, reverse=True)
    assert dates == sorted(dates, reverse=True)
    assert heads[0][1] == VERSION
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"),
    }


# CITATION.cff, by the required fields of its format, version 1.2.0.

REQUIRED = {"authors", "cff-version", "message", "title"}
REQUIRED_OF_REFERENCE = {"authors", "title", "type"}
PERSON = {"family-names", "given-names", "name-particle", "orcid", "affiliation"}


def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def check_authors(authors):
    assert authors
    for author in authors:
        assert set(author) == {"name"} or set(author) <= PERSON and author, author
        assert all(isinstance(value, str) and value for value in author.values())


def test_citation_has_what_the_format_asks_for():
    found = citation()
    assert set(found) >= REQUIRED
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    assert found["license"] == SETUP["metadata"]["license"] == "MIT"
    assert isinstance(found["message"], str) and isinstance(found["title"], str)
    check_authors(found["authors"])
    for reference in found["references"]:
        assert set(reference) >= REQUIRED_OF_REFERENCE
        assert reference["type"] == "conference-paper"
        assert set(reference["conference"]) == {"name"}
        assert isinstance(reference["year"], int)
        check_authors(reference["authors"])


def test_citation_is_of_this_version():
    found = citation()
    assert found["version"] == VERSION
    newest = f"## [{VERSION}] - {found['date-released'].isoformat()}\n"
    assert newest in (ROOT / "CHANGELOG.md").read_text()


def test_citation_has_the_papers_of_bounds_and_estimators():
    cited = {reference["url"] for reference in citation()["references"]}
    for name in ("bounds", "models/gradients"):
        text = (ROOT / f"iwae_tf/{name}.py").read_text()
        papers = set(re.findall(r"https://arxiv\.org/abs/[\d.]*\d", text))
        assert papers and papers <= cited


# LICENSE and CONTRIBUTING.md.


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n\nCopyright (c) 2026 the iwae_tf authors\n")
    assert SETUP["metadata"]["license_files"] == "LICENSE"


def test_contributing_names_files_and_targets_that_exist():
    words = re.findall(r"`([^`\n]+)`", CONTRIBUTING)
    files = {word for word in words if re.search(r"[a-z]\.(py|md)$", word)}
    folders = ("", "iwae_tf", "tests", "configs")
    assert len(files) > 12
    for name in files - {"configs/NAME.py"}:
        assert any((ROOT / folder / name).exists() for folder in folders), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", CONTRIBUTING):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_contributing_names_what_is_in_the_files():
    """Each step begins with a file; the names after it are found in it."""
    step_of_file = r"^\d\. (`[a-z_]+/.*?)(?=^\d\. |^$)"
    steps = re.findall(step_of_file, CONTRIBUTING, re.MULTILINE | re.DOTALL)
    checked = 0
    for step in steps:
        text = ""
        for word in re.findall(r"`([^`\n]+)`", step):
            path = ROOT / word
            if path.is_file():
                text += path.read_text()
            elif re.fullmatch(r"[A-Za-z_]\w*|__\w+__", word):
                assert re.search(rf"\b{word}\b", text), (word, step)
                checked += 1
    assert len(steps) == 11 and checked > 20


# Type hints, which `make lint` checks.

TYPED = sorted(
    str(path.relative_to(ROOT / "iwae_tf").with_suffix(""))
    for path in ROOT.glob("iwae_tf/**/*.py")
)


def public_functions(node):
    """Functions and methods without a leading underscore, and constructors."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        elif isinstance(child, ast.FunctionDef) and (
            not child.name.startswith("_") or child.name in ("__init__", "__call__")
        ):
            yield child


@pytest.mark.parametrize("name", TYPED)
def test_public_functions_have_hints(name):
    tree = ast.parse((ROOT / f"iwae_tf/{name}.py").read_text())
    for function in public_functions(tree):
        own = function.args  # and not those of a lambda that is a default
        arguments = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg]
        arguments = filter(None, [*arguments, own.kwarg])
        bare = [a.arg for a in arguments if a.annotation is None]
        assert set(bare) <= {"self", "cls"}, (function.name, bare)
        assert function.returns is not None, function.name


def test_models_are_public():
    assert {cls.__name__ for cls in models.MODELS.values()} <= set(iwae_tf.__all__)
    with pytest.raises(AttributeError, match="module 'iwae_tf' has no 'GAN'"):
        iwae_tf.GAN  # noqa: B018


def test_hints_are_shipped():
    assert (ROOT / "iwae_tf/py.typed").is_file()
    assert SETUP["options.package_data"]["iwae_tf"] == "py.typed"
