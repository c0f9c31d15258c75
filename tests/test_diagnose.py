"""The script: parts, figures, one self-contained report; resumed and refused."""

import json
import os
import pathlib
import re
import shutil
import signal

import numpy as np
import pytest
from builders import build
from running import import_script, run_script

import iwae_tf
from iwae_tf.config.files import read_config
from iwae_tf.diagnostics import representation
from iwae_tf.diagnostics.diagnosis import diagnose, do_part
from iwae_tf.diagnostics.parts import DEFAULT_PARTS, PARTS, base, learning
from iwae_tf.diagnostics.parts.remedies import REMEDIES
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.runs.workdir import export, load_exported
from iwae_tf.schema import Column, Schema

ROOT = pathlib.Path(__file__).parents[1]
EXPORTED = ROOT / "saved_models/mnist5k_iwae"
TABLE = Schema(tuple(Column(name, "bernoulli", 0.5, 0.5) for name in "abcdefghi"))


def binary(*shape):
    return np.random.default_rng(0).integers(0, 2, shape).astype("float32")


@pytest.fixture
def subject():
    """An untrained model of two layers on small images."""
    model = build("ciwae", 2, event=(4, 4, 1), num_samples=2)
    model.encoder[0].supports_jit = False  # a graph is faster than the compiler here
    return base.Subject(model, binary(12, 4, 4, 1), 40, quick=True)


@pytest.mark.slow  # some of the parts in continuous integration
def test_every_part_of_a_small_model(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "GRADIENT_COUNTS", (2,))
    monkeypatch.setattr(learning, "KEPT_DRAWS", 1)
    found = diagnose(subject, tmp_path, title="A title", facts=[("a", "<b>")])
    assert list(found) == list(DEFAULT_PARTS)
    for name in found:
        kept = json.loads((tmp_path / f"{name}.json").read_text())
        assert kept["results"] == found[name]
        grades = {grade for grade, _ in PARTS[name].judge(found[name])}
        assert grades and grades <= {"good", "warning", "bad", "plain"}
    assert set(found["sweep"]["bounds"]) == {"iwae", "ciwae, beta 0.3"}
    few = found["gradients"]["few_go_backward"]
    assert [(f["half"], f["estimator"]) for f in few] == [
        *(("encoder", "reparameterized"), ("decoder", "reparameterized")),
        *(("encoder", "dreg"), ("decoder", "dreg")),
    ]
    assert all(0.2 < f["variance"] < 10 and f["time"] > 0 for f in few)
    assert [len(kl) for kl in found["representation"]["kl"]] == [2, 1]
    page = (tmp_path / "report.html").read_text()
    assert "A title" in page and "&lt;b&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    figures = list(tmp_path.glob("*.png"))
    embedded = [s for s in sources if s.startswith("data:image/png;base64,")]
    assert len(embedded) == len(figures) >= 10
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "http" not in page and "None" not in re.sub(r"base64,[^\"]*", "", page)


def sweep(log_likelihood):
    iwae = {"value": [-1.0, 0.0], "standard_error": [0.1, 0.1]}
    found = {"counts": [1, 9], "bounds": {"iwae": iwae}, "negative_kl": None}
    return found | {"log_likelihood": log_likelihood, "interval": [-0.1, 0.1]}


def errors(stated, bias):
    delta = {"stated": 0.1, "spread": 1.0, "bias": -bias}
    found = {"delta method": delta, "jackknife": delta | {"stated": stated}}
    found["interval"] = {"image_coverage": 0.95}
    return {"errors": found, "num_seeds": 8, "num_samples": 9}


def annealing(data, lower):
    """Importance sampling finds zero for each of two images, of both kinds."""
    data = {"lower": [[data] * 2], "estimate": [[0.0] * 2]}
    made = {"lower": [[lower] * 2], "estimate": [[0.0] * 2], "upper": [[1.0] * 2]}
    return {"data": data, "simulated": made, "num_samples": 9}


def proposal(num_bad):
    shapes = [0.9] * num_bad + [0.1] * (19 - num_bad) + [None]
    sizes = {"effective_sample_size": [5.0], "num_samples": 9}
    return {"pareto_k": shapes, "threshold": 0.7} | sizes


def toy(*slopes_and_theories):
    line = {"half": "encoder", "estimator": "dreg", "varied": "K"}
    pairs = ({"slope": s, "theory": t} for s, t in slopes_and_theories)
    return {"lines": [line | pair for pair in pairs]}


@pytest.mark.parametrize(
    "part, results, grades",
    [
        ("proposal", proposal(1), ["good"]),
        ("proposal", proposal(2), ["warning"]),
        ("proposal", proposal(10), ["warning"]),
        ("proposal", proposal(11), ["bad"]),
        ("sweep", sweep(-1.0), ["good"]),
        ("sweep", sweep(0.04), ["good"]),
        ("sweep", sweep(0.4), ["warning"]),
        ("sweep", sweep(0.6), ["bad"]),
        ("errors", errors(stated=0.6, bias=0.9), ["good", "good"]),
        ("errors", errors(stated=0.4, bias=1.1), ["warning", "bad"]),
        ("annealing", annealing(0.05, 0.6), ["good", "good"]),
        ("annealing", annealing(0.4, 0.4), ["warning", "warning"]),
        ("annealing", annealing(0.6, 0.6), ["bad", "good"]),
        ("toy", toy((0.45, 0.5), (0.3, 0.5), (None, 0.5)), ["good", "bad", "warning"]),
        ("toy", toy((0.1, None), (-0.1, None)), ["good", "bad"]),
    ],
)
def test_results_are_graded_by_their_limits(part, results, grades):
    assert [grade for grade, _ in PARTS[part].judge(results)] == grades


def test_the_script_names_the_parts():
    assert tuple(PARTS) == import_script("diagnose").NAMES
    assert tuple(PARTS)[:-2] == DEFAULT_PARTS


def test_every_yellow_and_red_line_says_what_to_do():
    noisy = {"half": "encoder", "estimator": "dreg", "counts": [1], "snr": [1.0]}
    layer = {"collapsed": True, "verdict": "layer 1: no unit active"}
    gaps = {"encoder": [0.0], "diagonal": [9.0], "full": [9.0], "log_likelihood": [9.0]}
    cases = {
        "proposal": proposal(11),
        "gaps": gaps | proposal(11),
        "sweep": sweep(0.6),
        "errors": errors(stated=0.4, bias=1.1),
        "annealing": annealing(0.6, 0.4),
        "gradients": {"lines": [noisy | {"floor": [1.0]}], "few_go_backward": []},
        "representation": {"layers": [layer]},
        "toy": toy((0.3, 0.5), (None, 0.5)),
    }
    lines = [line for name in cases for line in PARTS[name].judge(cases[name])]
    bad = [text for grade, text in lines if grade in ("warning", "bad")]
    said = [
        [name for name in REMEDIES if text.endswith(f". {REMEDIES[name]}")]
        for text in bad
    ]
    assert all(len(names) == 1 for names in said)
    assert {name for (name,) in said} == set(REMEDIES)  # each check, and no other
    # What needs no remedy has none.
    fine = [text for grade, text in PARTS["proposal"].judge(proposal(1))]
    assert REMEDIES["proposal"] not in fine[0]
    # A red line that did not go through the table would be a line of its own kind.
    sources = pathlib.Path(base.__file__).parent.glob("*.py")
    assert not [
        p for p in sources if re.search(r'yield \(?\s*"(bad|warn)', p.read_text())
    ]


@pytest.mark.parametrize(
    "settings, x, num_pictures",
    [
        ({"missing": "marginalize"}, np.where(binary(5, 9), np.nan, binary(5, 9)), 2),
        ({"likelihood": "poisson"}, 5 * binary(5, 9), 2),
        ({"likelihood": "mixed", "schema": TABLE}, binary(5, 9), 0),
    ],
)
def test_pictures_of_the_worst_images(tmp_path, settings, x, num_pictures):
    """With missing values or counts too; nine columns of a table are no image."""
    model = IWAE(MLP([2], (4,)), MLP([2], (9,)), num_samples=2, **settings)
    model.build((None, 9))
    sizes = dict.fromkeys(("pareto_k", "reconstruction"), list(range(5)))
    results = proposal(0) | sizes
    drawn = PARTS["proposal"].draw(base.Subject(model, x), results, tmp_path)
    assert len(list(drawn)) == 1 + num_pictures


def test_posterior_maps_keep_what_is_far_away():
    model = IWAE(MLP([6], (4,), seed=0), MLP([6], (9,), seed=1), num_samples=2)
    model.build((None, 9))
    model.decoder[0].out.kernel.assign(9 * model.decoder[0].out.kernel)
    images = binary(3, 9)
    subject = base.Subject(model, images, 40, quick=True)
    found = PARTS["representation"].measure(subject, lambda *_: None)["maps"]
    assert len(found) == len(images)
    for kept, image in zip(found, images):
        expected = representation.posterior_map(model, image[np.newaxis])._asdict()
        smallest = expected["posterior"][expected["posterior"] > 0].min()
        assert smallest < 1e-5  # the premise: three decimals are not enough
        for name, values in expected.items():
            digits = 4 if name == "posterior" else 7
            tolerance = 0.51 * 10.0 ** (1 - digits)
            np.testing.assert_allclose(kept[name], values, rtol=tolerance)
        assert len(json.dumps(kept)) < 13 * (expected["posterior"].size + 90)


def test_a_finished_part_is_not_measured_again(subject, tmp_path, monkeypatch, capsys):
    first = diagnose(subject, tmp_path, parts=("proposal", "theory"))

    def interrupted(subject, on_progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(PARTS["proposal"], "measure", interrupted)
    again = diagnose(subject, tmp_path, parts=("proposal", "theory"))
    assert again == first
    # Another model or a damaged file: measured, here interrupted.
    path, weights = tmp_path / "proposal.json", subject.model.get_weights()
    for shift, text in ((1, path.read_text()), (0, "{")):
        subject.model.set_weights([weight + shift for weight in weights])
        path.write_text(text)
        with pytest.raises(KeyboardInterrupt):
            diagnose(subject, tmp_path, parts=("proposal",))


class Count(base.Part):
    """A part that measures a number."""

    name, found = "count", 0

    def measure(self, subject, on_progress):
        return {"found": self.found}

    def draw(self, subject, results, folder):
        return iter(())


@pytest.mark.parametrize(
    ("kept", "version", "found"), [(None, 1, 0), (None, 2, 1), (2, 2, 0), (2, 3, 1)]
)
def test_a_part_of_another_version_is_measured_again(tmp_path, kept, version, found):
    """A file from before there were versions is of the first one."""
    subject, part = base.Subject(None, None), Count()
    do_part(part, subject, tmp_path)
    path = tmp_path / "count.json"
    content = json.loads(path.read_text())
    assert content.pop("version") == 1
    path.write_text(json.dumps(content | ({"version": kept} if kept else {})))
    part.found, part.version = 1, version
    for _ in range(2):
        assert do_part(part, subject, tmp_path) == ({"found": found}, [])


@pytest.mark.parametrize("folder", ["known_answers", "mnist_iwae_short"])
def test_committed_results_are_those_of_the_parts_today(folder):
    found = list((ROOT / "results" / folder).glob("*.json"))
    assert found
    for path in found:
        kept, part = json.loads(path.read_text()), PARTS[path.stem]
        assert kept.get("version", 1) == part.version, path
        assert all(grade and text for grade, text in part.judge(kept["results"]))
        if hasattr(part, "chart"):
            assert part.caption.format(**kept["results"])


def run_on(exported, output, *flags):
    """Runs the script on six images."""
    flags += f"--saved_model={exported}", f"--output={output}"
    flags += "--num_images=6", "--num_samples=50"
    assert run_script("diagnose", *flags) == 0


@pytest.mark.slow
def test_the_script_on_an_export(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    output = tmp_path / "deep" / "report"
    run_on(EXPORTED, output, "--parts=proposal,representation")
    printed = capsys.readouterr().out
    assert "Pareto k" in printed and f"{output}/report.html" in printed
    page = (output / "report.html").read_text()
    assert "the first 6 of mnist5k, test" in page
    for name in ("least_trusted", "worst_reconstructed", "posterior", "units"):
        assert (output / f"{name}.png").is_file()


@pytest.mark.parametrize("is_terminated, code", [(True, 0), (False, 130)])
def test_a_stop_says_how_to_go_on(tmp_path, monkeypatch, capsys, is_terminated, code):
    def measure(subject, on_progress):
        assert (subject.model, subject.num_samples) == (None, 77)
        if is_terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    monkeypatch.setattr(PARTS["toy"], "measure", measure)
    flags = "--parts=theory,toy", "--num_samples=77", f"--output={tmp_path}"
    assert run_script("diagnose", *flags) == code
    found = capsys.readouterr()
    assert "run again with the same flags" in (found.err if code else found.out)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["theory.json"]
    assert not list(tmp_path.glob("*.html"))


def test_an_export_is_the_model_again_wherever_its_data_lie(tmp_path):
    x = binary(40, 4, 4)
    np.savez(tmp_path / "old.npz", x_train=x, x_test=x)
    config = read_config(EXPORTED / "config.json")
    config.dataset, config.data_dir = "npz", str(tmp_path / "old.npz")
    config.latent_dims, config.hidden_dims = [2], [[4]]
    model = iwae_tf.build_model(config)
    (tmp_path / "exported/1").mkdir(parents=True)
    (tmp_path / "exported/schema.json").write_text("{}")  # of older versions
    path = export(model, config, tmp_path / "exported")
    (tmp_path / "old.npz").rename(tmp_path / "new.npz")
    flags = "--parts=proposal", f"--data_dir={tmp_path / 'new.npz'}"
    run_on(tmp_path / "exported", tmp_path, *flags)
    assert (tmp_path / "proposal.json").is_file()
    (tmp_path / "new.npz").rename(tmp_path / "old.npz")
    loaded, found = load_exported(tmp_path / "exported")
    assert found.to_dict() == config.to_dict()
    np.testing.assert_equal(model.get_weights(), loaded.get_weights())
    config.hidden_dims = [[5]]
    (path.parent / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InvalidInputError, match="intact export of its config's model"):
        load_exported(path)
    shutil.rmtree(path / "variables")
    with pytest.raises(InvalidInputError, match="intact export"):
        load_exported(path)


@pytest.mark.parametrize(
    "sign, side, end", [(1, "low", "below"), (-1, "high", "above")]
)
def test_a_difference_of_either_sign_is_told_without_one(sign, side, end):
    method = {"stated": 0.1, "spread": 0.1, "bias": -0.02 * sign, "image_coverage": 1.0}
    names = "delta method", "jackknife", "interval"
    found = {"num_seeds": 4, "num_samples": 500, "errors": dict.fromkeys(names, method)}
    _, (_, bias) = PARTS["errors"].judge(found)
    assert f"the mean log p(x) is 0.020 nats too {side}, compared" in bias
    values = {"lower": -90.5, "estimate": -90.0 - 0.03 * sign, "upper": -90.0}
    scores = {name: [[value], [0.1]] for name, value in values.items()}
    found = {"num_samples": 500, "data": scores, "simulated": scores}
    _, (_, bounds) = PARTS["annealing"].judge(found)
    assert f"importance sampling is 0.03 nats {end} the upper one." in bounds
