"""Every command and code block of the documentation runs, and its links hold."""

import functools
import html.parser
import json
import os
import re
import runpy
import sys
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

import children
import numpy as np
import pytest
from matplotlib.image import imread as read_png
from pages import REDUCED, ROOT, blocks, commands, links, make_checkout
from running import run_explorer, run_process

import iwae_tf
from examples.loopback_server import LoopbackServer
from iwae_tf import bounds, diagnostics

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
# The other pages and the README run every script. These train for longer, or
# convolutions, which test_conv_networks.py does, or a conditional model, which
# test_conditional_scripts.py does, or what the README's example does: `make test-all`
# has them, and of `tables.md` the Python blocks always run.
SLOW = {
    "believe.md",
    "index.md",
    "tutorial.md",
    "howto/command_line.md",
    "howto/conditional.md",
    "howto/many_machines.md",
    "howto/natural_images.md",
    "howto/own_data.md",
    "howto/pretrained.md",
    "howto/python.md",
    "results.md",
    "howto/own_likelihood.md",
    "howto/serving.md",
    "howto/tensorboard.md",
    "howto/training.md",
    "howto/two_layers.md",
    "tables.md",
}


def run_command(words):
    """Runs one command of a `bash` block, or checks what it names."""
    program, *arguments = words
    if program == "make":
        for target in (word for word in arguments if "=" not in word):
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
            assert f"make {target}" in (ROOT / ".ci/run").read_text()
    elif program == "pip":
        for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
            for name in extra.split(","):
                assert f"\n{name} =\n" in (ROOT / "setup.cfg").read_text(), name
    elif program == "tensorboard":
        assert arguments == ["--logdir", "runs"]
    elif program == "curl":
        post(*arguments)
    elif program == "saved_model_cli":
        assert Path(sys.executable).with_name(program).is_file()
        done = children.run(f"tensorflow.python.tools.{program}", *arguments)
        assert done.returncode == 0, done.stderr
        assert "log_likelihood" in done.stdout
    else:
        minus_m, module, *flags = arguments
        assert (program, minus_m) == ("python", "-m"), words
        if module == "iwae_tf.score_beam":
            pytest.importorskip("apache_beam")
        if module == "iwae_tf.explore":  # which goes on until it is stopped
            assert run_explorer(*flags)[0] == 0
            return
        if module == "iwae_tf.reproduce":  # a report of nothing yet
            Path("runs/rainforth").mkdir(parents=True)
        done = children.run(module, *flags, *REDUCED[module])
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"


def post(minus_d, file, url):
    """Sends what the `curl` line sends to a server of the export that it names."""
    host, name = re.fullmatch(r"(\S+/v1/models/(\w+)):predict", url).groups()
    assert (minus_d, file[0]) == ("-d", "@")
    with LoopbackServer(Path("saved_models") / name) as server:
        address = url.replace(host, server.endpoint)
        body = Path(file[1:]).read_bytes()
        with urllib.request.urlopen(address, body) as answer:
            outputs = json.load(answer)["outputs"]
    assert np.all(np.isfinite(outputs["log_likelihood"]))


@pytest.mark.parametrize(
    "page, languages",
    [
        ("tables.md", "python"),
        *(
            pytest.param(p, "python bash", marks=[pytest.mark.slow] * (p in SLOW))
            for p in PAGES
        ),
    ],
)
def test_blocks_run_in_the_order_of_the_page(page, languages, tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    found = blocks((DOCS / page).read_text(), *languages.split())
    make_checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for language, title, code in found:
        if title is not None:
            (tmp_path / title).write_text(code)
        elif language == "python":
            exec(compile(code, page, "exec"), namespace)
        else:
            for words in commands(code):
                run_command(words)


def test_every_script_is_run():
    paths = [ROOT / "README.md", *(DOCS / page for page in PAGES)]
    found = [block for path in paths for block in blocks(path.read_text(), "bash")]
    run = [words for block in found for words in commands(block.code)]
    expected = {*REDUCED, "iwae_tf.explore"}  # which has no smaller size
    assert {words[2] for words in run if words[0] == "python"} == expected


def test_every_config_is_in_the_table():
    text = (DOCS / "howto/command_line.md").read_text()
    table = text[text.index("| config | what |") :]
    table = table[: table.index("\n\n")]
    for path in (ROOT / "configs").glob("[!_]*.py"):
        assert f"`{path.stem.removesuffix('_2l')}`" in table, path.stem


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_links_point_to_files(page):
    for path, _ in links((DOCS / page).read_text()):
        target = (DOCS / page).parent / path if path else DOCS / page
        assert target.is_file(), path
        assert target.resolve().is_relative_to(ROOT), path


def test_the_site_is_made_by_ci():
    assert "\nmake docs\n" in (ROOT / ".ci/run").read_text()


NAVIGATION = ("canonical", "prev", "next")


class Targets(html.parser.HTMLParser):
    """Collects the links of a page, and the files that a browser loads for it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded = [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in NAVIGATION:
            self.loaded.append(attributes["href"])
        elif attributes.get("src"):
            self.loaded.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning ends the build."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = "mkdocs", "build", "--strict", "--site-dir", folder
    done = run_process(*command, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_links_within_itself_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        found = Targets(page)
        for target in found.loaded:
            assert not urllib.parse.urlsplit(target).netloc, target
        for target in [*found.links, *found.loaded] * (page.name != "404.html"):
            parts = urllib.parse.urlsplit(target)
            if not parts.scheme and parts.path:
                path = page.parent / urllib.parse.unquote(parts.path)
                assert path.is_file(), f"{target} of {page.relative_to(site)}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )\W*(https?:)?//", style.read_text())


def test_every_public_name_is_in_the_reference(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    documented = {line.split()[0] for line in lines}
    wanted = {f"iwae_tf.{name}" for name in iwae_tf.__all__}
    wanted |= {f"iwae_tf.diagnostics.{name}" for name in diagnostics.__all__}
    wanted |= {f"iwae_tf.bounds.{cls.__name__}" for cls in bounds.OBJECTIVES.values()}
    assert len(wanted) > 25
    assert wanted <= documented


def test_mathematics_is_set_by_the_scripts_of_the_site(site):
    path = site / "concepts/importance_weighting.html"
    page = path.read_text()
    displays = re.findall(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>', page, re.DOTALL
    )
    assert len(displays) > 8 and "$$" not in page
    assert "../assets/katex/katex.min.js" in Targets(path).loaded
    assert "../assets/math.js" in Targets(path).loaded


def test_formulas_are_shown_as_typed_and_the_search_finds_pages_and_names(site):
    text = (site / "reference/bounds.html").read_text()
    assert re.search(r"<code>mean_\{m,k\} log_weights\[m, k, b\]\s*</code>", text)
    formula = "mean_m log mean_k exp(log_weights[m, k, b])"
    assert formula in bounds.miwae.__doc__ and formula in text
    index = (site / "search/search_index.js").read_text()
    for location in ("tutorial.html", "reference/bounds.html#iwae_tf.bounds.renyi"):
        assert f'"location":"{location}' in index


def test_the_figures_of_the_concepts_are_what_the_script_draws(tmp_path):
    runpy.run_path(str(DOCS / "figures.py"))["draw_all"](tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in (DOCS / "concepts").glob("*.png")}
    text = (DOCS / "concepts/importance_weighting.md").read_text()
    for name in drawn:
        assert f"({name})" in text
        ours, committed = (read_png(f / name) for f in (tmp_path, DOCS / "concepts"))
        assert ours.shape == committed.shape
        assert np.mean(np.abs(ours - committed) > 0.1) < 0.02  # but for rendering


SOURCE = re.compile(r"^<!-- (\S+\.json):\s(.*?) -->", re.MULTILINE | re.DOTALL)
WITH_FIGURES = [page for page in PAGES if SOURCE.search((DOCS / page).read_text())]


@pytest.mark.parametrize("page", WITH_FIGURES)
def test_figures_are_those_of_the_file_that_a_comment_names(page):
    """All of its values are there, rounded, and no other number with a point."""
    text = (DOCS / page).read_text()
    assert len(SOURCE.findall(text)) == text.count(".json:")
    parts = text.split("\n\n")
    for block, comments in zip(parts, parts[1:]):
        values = []
        for file, expression in SOURCE.findall(comments):
            names = {"np": np} | json.loads((ROOT / file).read_text())["results"]
            values += np.hstack(eval(f"[{expression}]", names)).tolist()
        if values:
            shown = re.sub(r"\]\([^)]*\)", "", block)  # without targets of links
            shown = set(re.findall(r"\d+(?:\.\d+)?", shown.replace(",", "")))
            rounded = [{f"{abs(v):.{digits}f}" for digits in range(4)} for v in values]
            assert not [v for v, texts in zip(values, rounded) if not texts & shown]
            assert {n for n in shown if "." in n} <= set().union(*rounded), block


def test_bounds_of_equal_cost_are_those_of_log_normal_weights():
    figures = runpy.run_path(str(DOCS / "figures.py"))
    found = figures["bounds_of_equal_cost"](num_draws=4, deviation=1.0, repeats=40_000)
    assert found["samples"] == [1, 2, 4]
    rng = np.random.default_rng(7)
    logs = rng.normal(-0.5, 1.0, [2, 2, 40_000])
    pairs, all_four = (np.log(np.exp(logs).mean(axis)) for axis in (1, (0, 1)))
    close = functools.partial(pytest.approx, abs=0.02)  # some 4 standard errors
    assert found["elbo"] == close(-0.5)
    assert found["miwae"] == [close(-0.5), close(pairs.mean()), close(all_four.mean())]
    assert found["iwae"] == close(all_four.mean())
    assert found["ciwae"] == close((all_four.mean() - 0.5) / 2)
