"""The explorer: what it says of a model, its server, and the page in a real browser."""

import base64
import contextlib
import io
import json
import re
import socket
import threading
import urllib.error
import urllib.request

import browser
import numpy as np
import pytest
from builders import build, exact_model, shared
from closed_form import ConditionalLinearGaussian, LinearGaussian
from PIL import Image
from running import assert_one_line, images, run_explorer, run_script
from scipy import special

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.traversals import interpolate, manifold
from iwae_tf.explorer.server import Server
from iwae_tf.explorer.session import Session
from iwae_tf.networks import MLP

EVENT = (8, 8, 1)


def pixels(url):
    """Bytes [H, W, 3] of a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture)


def drawn(means):
    """The same of means [H, W, 1]."""
    grey = np.rint(255 * np.clip(means, 0, 1)).astype(np.uint8)
    return np.broadcast_to(grey.reshape(*grey.shape[:2], 1), (*grey.shape[:2], 3))


@pytest.fixture(scope="module")
def session():
    labels = np.arange(12) % 3
    return Session(shared("iwae", event=EVENT), images(12, 0)[..., None], labels)


# Traversals ------------------------------------------------------------------------


@pytest.mark.parametrize("has_labels", [False, True])
def test_lines_and_planes_are_decoded_means(has_labels):
    model = shared("iwae", event=EVENT, labels=has_labels)
    x, labels = images(4, 1)[..., None], None
    if has_labels:
        labels = np.array([2, 0, 1, 2])
    found = interpolate(model, x, x[::-1], 5, labels=labels)
    ends = [model.encode(part, labels=labels).mean() for part in (x, x[::-1])]
    for row in range(4):
        for step, t in enumerate([0, 0.25, 0.5, 0.75, 1]):
            z = (1 - t) * ends[0][row] + t * ends[1][row]
            y = labels[[row]] if has_labels else None
            mean = model.decode(z[np.newaxis], labels=y).mean()[0]
            np.testing.assert_allclose(found[row, step], mean, atol=1e-6)
    label = 1 if has_labels else None
    plane = manifold(model, 3, labels=label)
    low, high = special.ndtri([1 / 6, 5 / 6])
    z = np.array([[low, high], [0, high], [high, high], [low, 0]], np.float32)
    if has_labels:
        prior = model.latent.top_prior(np.array([1]))
        z = prior.mean() + prior.stddev() * z
    means = model.decode(z, labels=label).mean()
    np.testing.assert_allclose(plane[:4], means, atol=1e-6)
    with pytest.raises(InvalidInputError, match="`second` must have as many images"):
        interpolate(model, x, x[:2], labels=None if labels is None else 0)
    with pytest.raises(InvalidInputError, match="one stochastic layer of two units"):
        manifold(shared("iwae", 2))


# What a session says ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [LinearGaussian, ConditionalLinearGaussian])
def test_the_exact_posterior_is_seen_to_be_exact(kind):
    """Every weight is p(x): no error, and equal weights under every bound."""
    problem = kind(x_dim=4)
    data = problem.data(6)
    x, labels = data if isinstance(data, tuple) else (data, None)
    found = Session(exact_model(problem), x.astype(np.float32), labels)
    log_p = problem.log_prob(x) if labels is None else problem.log_prob(x, labels)
    scored = found.score(3, num_samples=40)
    assert scored["estimate"] == pytest.approx(log_p[3], abs=1e-3)
    assert scored["jackknife_error"] < 1e-3
    np.testing.assert_allclose(found.scores(40)["estimate"], log_p, atol=1e-3)
    rows = found.weights(3, num_groups=2, num_samples=3)
    names = ["VAE", "IWAE", "MIWAE", "CIWAE", "PIWAE, encoder", "PIWAE, decoder"]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row["value"] == pytest.approx(log_p[3], abs=1e-3)
        np.testing.assert_allclose(row["weights"], 1 / 6, atol=1e-4)
        assert row["effective"] == pytest.approx(6, abs=1e-2)


def test_weights_are_each_bounds_gradient(session):
    """In NumPy, on the model's own log-weights."""
    log_w = session._model.log_weights(session._images[[5]], 2, 3, (0, 7)).numpy()
    w = np.exp(log_w - log_w.max()).reshape(2, 3).astype(np.float64)
    pooled, grouped = w / w.sum(), w / w.sum(axis=1, keepdims=True) / 2
    mixed = 0.2 / 6 + 0.8 * pooled
    expected = [np.full([2, 3], 1 / 6), pooled, grouped, mixed, grouped, pooled]
    rows = session.weights(5, num_groups=2, num_samples=3, beta=0.2, seed=7)
    for row, share in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["weights"], share.ravel(), rtol=1e-4)
        assert row["effective"] == pytest.approx(1 / np.sum(share**2), rel=1e-4)
    assert np.ptp(pooled) > 0.05


def test_images_and_latents(session):
    model = session._model
    about = session.about()
    assert (about["height"], about["width"], about["channels"]) == EVENT
    np.testing.assert_array_equal(pixels(about["images"][4]), drawn(images(12, 0)[4]))
    found = session.encode(4)
    z = model.encode(session._images[[4]]).mean().numpy()
    np.testing.assert_allclose(found["z"], z[0], rtol=1e-6)
    np.testing.assert_allclose(found["point"], about["points"][4], atol=1e-4)
    mean = model.decode(z).mean().numpy()[0]
    np.testing.assert_array_equal(pixels(found["picture"]), drawn(mean))
    # The pixels of an image are that image; grey ones of a binary model become 0 or 1.
    values = images(12, 0)[4].ravel().tolist()
    assert session.score(values, 40) == session.score(4, 40)
    binary = Session(model, session._images, is_binary=True)
    grey = (0.4 + 0.2 * images(12, 0)[4]).ravel().tolist()
    assert binary.score(grey, 40)["estimate"] == session.score(4, 40)["estimate"]
    steps = session.interpolate(4, 5, 3)
    np.testing.assert_array_equal(pixels(steps[0]), drawn(mean))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_point_moves_z_within_the_plane(width):
    nets = MLP([5], (2 * width,), seed=1), MLP([6], EVENT, seed=3)
    found = Session(build("iwae", event=EVENT, nets=nets), images(9, 3)[..., None])
    z, there = np.linspace(-1, 1, width), [0.3, -0.2 if width > 1 else 0]
    moved = found.decode(z.tolist(), point=there)
    again = found.decode(moved["z"])
    np.testing.assert_allclose(again["point"], there, atol=1e-4)
    back = found.decode(moved["z"], point=found.decode(z.tolist())["point"])
    np.testing.assert_allclose(back["z"], z, atol=1e-4)


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda s: s.score(12), "`image` must be an integer >= 0 and <= 11. Received"),
        (lambda s: s.score(True), "`image` must be an integer"),
        (lambda s: s.score([0.5]), "`image` must be 64 numbers. Received: [0.5]"),
        (lambda s: s.score(["a"] * 64), "`image` must be 64 numbers"),
        (lambda s: s.decode([float("nan"), 0]), "`z` must be 2 numbers"),
        (lambda s: s.decode([0, 0], point=[1]), "`point` must be 2 numbers"),
        (lambda s: s.weights(0, 20, 20), "`num_samples` must be at most 256 draws"),
        (lambda s: s.weights(0, beta=2), "`beta` must be in [0, 1]"),
        (lambda s: s.score(0, proposal="x"), "`proposal` must be one of encoder"),
        (lambda s: Session(shared("iwae"), np.zeros([2, 4])).score("a"), "`image`"),
        (lambda s: Session(shared("iwae", event=(3,)), None), "must be one of images"),
    ],
)
def test_bad_questions_are_one_line(session, ask, words):
    with pytest.raises(InvalidInputError, match=re.escape(words)):
        ask(session)


# The server ------------------------------------------------------------------------


@contextlib.contextmanager
def serving(session):
    with Server(session, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def fetch(url, data=None, kind="application/json", **headers):
    """(status, body) of a GET, or of a POST of data."""
    body = None if data is None else json.dumps(data).encode()
    headers = {"Content-Type": kind, **headers}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers)
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_answers_its_own_page_alone(session):
    with serving(session) as url:
        status, page = fetch(url)
        assert status == 200 and b"<title>" in page
        status, found = fetch(f"{url}encode", {"image": 3})
        assert (status, json.loads(found)) == (200, session.encode(3))
        status, found = fetch(f"{url}encode", {"image": 99})
        assert status == 400 and "`image` must be" in json.loads(found)["error"]
        assert fetch(f"{url}encode", {"picture": 3})[0] == 400
        assert fetch(f"{url}encode", [3])[0] == 400
        assert fetch(f"{url}_example", {"image": 3})[0] == 404
        assert fetch(f"{url}etc/passwd")[0] == 404
        # Another page can post a form, or reach this machine by a name of its own.
        assert fetch(f"{url}encode", {"image": 3}, kind="text/plain")[0] == 415
        assert fetch(url, Host="evil.example:80")[0] == 403
        assert fetch(f"{url}encode", {"image": 3}, Host="evil.example")[0] == 403


@pytest.mark.parametrize("kind", [BrokenPipeError, ConnectionResetError, KeyError])
def test_a_browser_that_leaves_early_is_no_error(session, capsys, kind):
    with Server(session, 0) as server:
        try:
            raise kind
        except kind:
            server.handle_error(None, ("127.0.0.1", 1))
    assert bool(capsys.readouterr().err) == (kind is KeyError)


def test_the_script_serves_until_it_is_stopped(finished, capsys):
    flags = [f"--workdir={finished}", "--num_images=7"]
    code, port, about = run_explorer(*flags)
    said = f"open http://127.0.0.1:{port}/ in a browser; Ctrl-C stops"
    assert code == 0 and " ".join(capsys.readouterr().out.split()) == said
    assert len(about["images"]) == 7 and about["title"] == str(finished)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = run_script("explore", *flags, f"--port={taken.getsockname()[1]}")
    assert_one_line(code, capsys, "`--port` must be free; --port=0 takes any")
    code = run_script("explore", *flags, "--port=70000")
    assert_one_line(code, capsys, "`--port` must be a number from 0 to 65535")


# The page --------------------------------------------------------------------------


@pytest.mark.skipif(browser.PATH is None, reason="there is no Chromium here")
def test_the_page_in_a_browser(session, tmp_path):
    """What a person does with it: looks, sorts, moves, draws, drops."""
    idle = "typeof about === 'object' && !document.querySelector('[aria-busy]')"
    text = "document.getElementById('{}').textContent"
    with serving(session) as url, browser.Browser(tmp_path / "profile") as page:
        page.send("Page.navigate", url=url)
        page.wait_for(idle)
        assert page.run("document.querySelectorAll('#images button').length") == 12
        estimate = session.score(0)["estimate"]
        shown = page.run("document.querySelector('#encoder td:nth-child(2)').innerText")
        assert float(shown.replace("\u2212", "-")) == pytest.approx(estimate, abs=0.01)
        for name, count in {"weights": 6, "refined": 5, "line": 12, "units": 6}.items():
            children = f"document.getElementById('{name}').children.length"
            assert page.run(children) == count
        bars = page.run("document.querySelectorAll('#weights rect').length")
        assert bars == 6 * 64

        page.run(
            "(() => { const s = document.getElementById('sort'); s.value = 'estimate';"
            "s.dispatchEvent(new Event('change')) })()"
        )
        page.wait_for(f"{idle} && document.querySelector('#images span')")
        order = page.run(
            "[...document.querySelectorAll('#images button')]"
            ".map(button => Number(button.dataset.index))"
        )
        assert order == np.argsort(session.scores()["estimate"], kind="stable").tolist()

        page.drag(f"#images button[data-index='{order[5]}']", (0.5, 0.5))
        page.wait_for(f"{idle} && state.image === {order[5]}")
        assert f"image {order[5]}, class" in page.run(text.format("what"))
        before = page.run("state.z")
        page.drag("#plane", (0.5, 0.5), (0.8, 0.3))
        page.wait_for(f"{idle} && state.z[0] !== {before[0]}")
        reach = page.run("reach")
        np.testing.assert_allclose(
            page.run("state.point"), [0.6 * reach, 0.4 * reach], atol=0.02 * reach
        )
        decoded = page.run("document.getElementById('decoded').src")
        assert decoded == session.decode(page.run("state.z"))["picture"]

        page.run("document.getElementById('clear').click()")
        page.drag("#pad", (0.1, 0.5625), (0.9, 0.5625))  # in the middle of row 4
        page.wait_for(f"{idle} && Math.max(...state.image) > 0")
        drawing = np.reshape(page.run("state.image"), [8, 8])
        assert drawing[4, 1:7].min() > 0.9 and drawing[[0, 1, 2, 6, 7]].max() == 0

        white = drawn(np.ones([16, 16]))
        with io.BytesIO() as file:
            Image.fromarray(np.ascontiguousarray(white)).save(file, "PNG")
            data = base64.b64encode(file.getvalue()).decode()
        page.run(
            "(() => { const bytes = Uint8Array.from(atob('" + data + "'), "
            "c => c.charCodeAt(0)); const moved = new DataTransfer();"
            "moved.items.add(new File([bytes], 'a.png', {type: 'image/png'}));"
            "document.getElementById('pad').dispatchEvent(new DragEvent('drop', "
            "{dataTransfer: moved, bubbles: true})) })()"
        )
        page.wait_for(f"{idle} && state.image.every(value => value === 1)")
        ones = session.score([1.0] * 64)["estimate"]
        shown = page.run("document.querySelector('#encoder td:nth-child(2)').innerText")
        assert float(shown.replace("\u2212", "-")) == pytest.approx(ones, abs=0.01)

        page.run(
            "(() => { const k = document.getElementById('samples'); k.value = 99;"
            "k.dispatchEvent(new Event('change')) })()"
        )
        page.wait_for(f"{idle} && {text.format('error')} !== ''")
        assert "must be at most 256 draws" in page.run(text.format("error"))
        # That mistake alone is in the console, and nothing came from elsewhere.
        assert [found["url"] for found in page.complaints] == [f"{url}weights"]
        elsewhere = [at for at in page.requests if not at.startswith((url, "data:"))]
        assert elsewhere == [] and len(page.requests) > 10


def test_counts_are_drawn_from_black_to_white():
    counts = np.random.default_rng(0).poisson(3, (6, *EVENT)).astype(np.float32)
    found = Session(shared("iwae", event=EVENT, likelihood="poisson"), counts)
    shown, most = pixels(found.about()["images"][4]), counts.max()
    np.testing.assert_allclose(shown, drawn(counts[4] / most), atol=1)
    values = (counts[4] / most).ravel().tolist()
    assert found.score(values, 20) == found.score(4, 20)
