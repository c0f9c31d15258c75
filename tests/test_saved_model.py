"""SavedModels, run in a process that has only TensorFlow, against their models."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from builders import DIGITS as EVENT
from builders import DRAWS, NAMES, build, save_function
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import kernels

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import log_likelihood
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.saved_model import (
    export,
    export_saved_model,
    find_version,
    load_saved_model,
    signature_of,
    signatures,
)

tfd = tfp.distributions
ROOT = pathlib.Path(__file__).parents[1]
SEED, NUM_SAMPLES, SERVED = (5, 9), 23, 7
INPUTS = {
    "serving_default": {"x"},
    "log_likelihood": {"x", "num_samples", "seed"},
    "error_bars": {"x", "num_samples", "seed"},
    "refined_log_likelihood": {"x", "num_samples", "seed", "num_steps"},
    "encode": {"x"},
    "decode": {"z"},
    "sample": {"num_samples", "seed"},
    "reconstruct": {"x", "seed"},
}
FACTS = {"bernoulli": {"is_binary"}, "discretized_logistic": {"has_256_levels"}}
SCORES = {"log_likelihood", "standard_error", "effective_sample_size"}
BARS = {"jackknife_error", "pareto_k", "bias_allowance"}


class Thirds(tfd.TransformedDistribution):
    """Counts up to three as grey levels 0, 1/3, 2/3, 1."""

    def __init__(self, counts):
        super().__init__(counts, tfp.bijectors.Scale(1.0 / 3.0))

    def _mean(self):
        return self.distribution.mean() / 3.0

    def _log_prob(self, value):
        return self.distribution.log_prob(value * 3.0)


@keras.saving.register_keras_serializable("test_saved_model")
def binomial_of_three(logits):
    counts = tfd.Binomial(3.0, logits=tf.cast(logits, tf.float32))
    return Thirds(tfd.Independent(counts, len(logits.shape) - 1))


QUICK = {  # of `build`
    "piwae_normal": {"name": "piwae", "likelihood": "normal"},
    "two_layers": {"num_layers": 2},
    "custom": {"likelihood": binomial_of_three},
}
SLOW = {  # other bounds, the same graphs
    "eight_bits": {"likelihood": "discretized_logistic"},
    **{name: {"name": name} for name in NAMES},
    **{f"{n}_normal": {"name": n, "likelihood": "normal"} for n in NAMES[:-1]},
    "two_layers_normal": {"name": "piwae", "likelihood": "normal", "num_layers": 2},
}
CASES = QUICK | SLOW


def images(model, rows=5):
    rng = np.random.default_rng(1)
    if model.likelihood == "normal":
        x = rng.uniform(size=[rows, *EVENT])
    elif model.likelihood == "bernoulli":
        x = rng.integers(0, 2, [rows, *EVENT])
    else:
        x = rng.integers(0, 4, [rows, *EVENT]) / 3.0
    return x.astype("float32")


# What runs with TensorFlow alone: every signature, on two sizes of batch.
RUN_SIGNATURES = """
import importlib.abc, importlib.machinery, json, sys

FOREIGN = ("keras", "tf_keras", "iwae_tf", "tensorflow_probability")


class Refuse(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FOREIGN:
            return importlib.machinery.ModuleSpec(name, self, origin="refused")

    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Refuse())  # TensorFlow imports Keras where there is one

import numpy as np
import tensorflow as tf

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
arrays, report = {}, {}
for folder in sys.argv[2:]:
    with np.load(folder + "/inputs.npz") as inputs:
        x, z = tf.constant(inputs["x"]), tf.constant(inputs["z"])
    signatures = tf.saved_model.load(folder + "/1").signatures
    seed, other = tf.constant([5, 9]), tf.constant([5, 10])
    calls = {
        "serving_default": dict(x=x),
        "serving_default/one": dict(x=x[:1]),
        "log_likelihood": dict(x=x, num_samples=tf.constant(23), seed=seed),
        "error_bars": dict(x=x, num_samples=tf.constant(23), seed=seed),
        "refined_log_likelihood": dict(
            x=x, num_samples=tf.constant(30), seed=seed, num_steps=tf.constant(0)
        ),
        "log_likelihood/long": dict(x=x, num_samples=tf.constant(2500), seed=seed),
        "log_likelihood/other": dict(x=x, num_samples=tf.constant(23), seed=other),
        "log_likelihood/one_draw": dict(x=x, num_samples=tf.constant(1), seed=seed),
        "encode": dict(x=x),
        "encode/one": dict(x=x[:1]),
        "decode": dict(z=z),
        "decode/one": dict(z=z[:1]),
        "sample": dict(num_samples=tf.constant(6), seed=seed),
        "sample/again": dict(num_samples=tf.constant(6), seed=seed),
        "sample/other": dict(num_samples=tf.constant(6), seed=other),
        "reconstruct": dict(x=x, seed=seed),
        "reconstruct/other": dict(x=x, seed=other),
    } | ({"about": {}} if "about" in signatures else {})
    for call, arguments in calls.items():
        for name, value in signatures[call.partition("/")[0]](**arguments).items():
            arrays[f"{folder}:{call}:{name}"] = value.numpy()
    bad = {
        "nan": ("serving_default", dict(x=x * float("nan"))),
        "infinite": ("encode", dict(x=x + float("inf"))),
        "above": ("serving_default", dict(x=x + 1.5)),
        "below": ("reconstruct", dict(x=x - 1.5, seed=seed)),
        "no_draws": (
            "log_likelihood", dict(x=x, num_samples=tf.constant(0), seed=seed)
        ),
        "negative": ("sample", dict(num_samples=tf.constant(-2), seed=seed)),
        "latents": ("decode", dict(z=z * float("nan"))),
    }
    refused = {}
    for name, (signature, arguments) in bad.items():
        try:
            signatures[signature](**arguments)
        except tf.errors.InvalidArgumentError as error:
            refused[name] = error.message
    report[folder] = {
        "refused": refused,
        "inputs": {
            name: sorted(function.structured_input_signature[1])
            for name, function in signatures.items()
        },
    }
report["foreign"] = [name for name in FOREIGN if name in sys.modules]
np.savez(sys.argv[1] + "/outputs.npz", **arrays)
print(json.dumps(report))
"""


def export_and_run(names, root):
    """Exports models and runs them elsewhere: models, their inputs, outputs, report."""
    models, inputs, folders = {}, {}, {}
    for name in names:
        folders[name] = folder = root / name
        models[name] = model = build(event=EVENT, **CASES[name])
        model.compile(jit_compile=True)  # which leaves no trace in the export
        assert export_saved_model(model, folder, np.int64(SERVED)) == folder / "1"
        model.compile(jit_compile=False)
        z = np.random.default_rng(2).normal(size=[4, 2]).astype("float32")
        inputs[name] = {"x": images(model), "z": z}
        np.savez(folder / "inputs.npz", **inputs[name])
    done = subprocess.run(
        [sys.executable, "-c", RUN_SIGNATURES, root, *folders.values()],
        cwd=root,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report, outputs = json.loads(done.stdout), {name: {} for name in names}
    names_of = {str(folder): name for name, folder in folders.items()}
    with np.load(root / "outputs.npz") as arrays:
        for key in arrays.files:
            folder, call, output = key.rsplit(":", 2)
            outputs[names_of[folder]].setdefault(call, {})[output] = arrays[key]
    report.update({n: report.pop(str(folder)) for n, folder in folders.items()})
    return models, inputs, outputs, report, folders


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return export_and_run(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return export_and_run(SLOW, tmp_path_factory.mktemp("slow"))


@pytest.fixture
def case(request, name):
    """Model, inputs, outputs, report and folder of one export."""
    runs = request.getfixturevalue("quick" if name in QUICK else "slow")
    return tuple(run[name] for run in runs)


every_case = pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)


# Each export is loaded once.
load_case = functools.cache(load_saved_model)


def assert_close(ours, theirs, atol=1e-4):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


# Signatures ------------------------------------------------------------------------


def test_only_tensorflow_is_loaded(quick):
    assert quick[3]["foreign"] == []


@every_case
def test_names_and_shapes(case):
    model, _, outputs, report, _ = case
    facts = FACTS.get(model.likelihood, set())
    about = {"about": set()} if facts else {}
    assert {n: {*inputs} for n, inputs in report["inputs"].items()} == INPUTS | about
    assert {*outputs.get("about", {})} == facts
    layers = len(model.latent_dims)
    proposals = {"loc": (5, 2), "scale": (5, 2)}
    if layers == 2:
        proposals |= {"loc_2": (5, 1), "scale_2": (5, 1)}
    expected = {
        "serving_default": {name: (5,) for name in SCORES},
        "serving_default/one": {name: (1,) for name in SCORES},
        "log_likelihood": {name: (5,) for name in SCORES},
        "error_bars": {name: (5,) for name in {*SCORES, *BARS}},
        "refined_log_likelihood": {
            name: (5,) for name in {*SCORES, *BARS, "is_refined"}
        },
        "encode": proposals,
        "encode/one": {name: (1, shape[1]) for name, shape in proposals.items()},
        "decode": {"mean": (4, *EVENT)},
        "decode/one": {"mean": (1, *EVENT)},
        "sample": {"mean": (6, *EVENT), "sample": (6, *EVENT)},
        "reconstruct": {"mean": (5, *EVENT)},
    }
    for call, shapes in expected.items():
        found = outputs[call]
        assert {n: array.shape for n, array in found.items()} == shapes, call
        assert all(array.dtype == np.float32 for array in found.values())


@every_case
def test_log_likelihood_is_the_librarys(case):
    model, inputs, outputs, *_ = case
    calls = {
        "log_likelihood": (NUM_SAMPLES, SEED),
        "log_likelihood/long": (2500, SEED),  # more than a chunk, with a remainder
        "log_likelihood/other": (NUM_SAMPLES, (5, 10)),
        "log_likelihood/one_draw": (1, SEED),
        "serving_default": (SERVED, (0, 0)),
    }
    for call, (num_samples, seed) in calls.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = log_likelihood(model, inputs["x"], num_samples, seed)
        found = outputs[call]
        assert_close(found["log_likelihood"], expected.estimate)
        assert_close(found["standard_error"], expected.standard_error)
        assert_close(found["effective_sample_size"], expected.effective_sample_size)
    assert np.all(np.isnan(outputs["log_likelihood/one_draw"]["standard_error"]))
    errors = log_likelihood(model, inputs["x"], NUM_SAMPLES, SEED).jackknife_error
    assert_close(outputs["error_bars"]["jackknife_error"], errors)
    for name in SCORES:
        assert_close(outputs["error_bars"][name], outputs["log_likelihood"][name])
    first = {n: values[:1] for n, values in outputs["serving_default"].items()}
    for name in SCORES:
        assert_close(outputs["serving_default/one"][name], first[name])
    assert np.all(
        outputs["log_likelihood"]["log_likelihood"]
        != outputs["log_likelihood/other"]["log_likelihood"]
    )


def test_refined_log_likelihood_is_the_librarys(quick):
    model, inputs, outputs = (run["two_layers"] for run in quick[:3])
    found = outputs["refined_log_likelihood"]
    expected = log_likelihood(
        model, inputs["x"], 30, SEED, proposal="refined", num_steps=40
    )
    np.testing.assert_allclose(found["log_likelihood"], expected.estimate, atol=1e-3)
    np.testing.assert_allclose(found["pareto_k"], expected.pareto_k, atol=0.02)
    np.testing.assert_array_equal(found["is_refined"], expected.is_refined)


@every_case
def test_encode_and_decode_are_the_models(case):
    model, inputs, outputs, *_ = case
    for layer, proposal in enumerate(model.encode_layers(inputs["x"]), 1):
        suffix = "_2" if layer == 2 else ""
        assert_close(outputs["encode"][f"loc{suffix}"], proposal.mean(), 1e-5)
        assert_close(outputs["encode"][f"scale{suffix}"], proposal.stddev(), 1e-5)
    mean = model.decode(inputs["z"]).mean()
    assert_close(outputs["decode"]["mean"], mean, 1e-5)
    assert_close(outputs["decode/one"]["mean"], mean[:1], 1e-5)


def test_the_second_layer_is_at_the_mean_of_the_first(quick):
    model, inputs = quick[0]["two_layers"], quick[1]["two_layers"]
    first = model.encoder[0](inputs["x"]).numpy()[:, :2]
    loc, log_scale = np.split(model.encoder[1](first).numpy(), 2, axis=-1)
    found = quick[2]["two_layers"]["encode"]
    assert_close(found["loc_2"], loc, 1e-5)
    assert_close(found["scale_2"], np.exp(log_scale), 1e-5)


@every_case
def test_samples_are_the_models_and_repeat(case):
    model, _, outputs, *_ = case
    ours = outputs["sample"]
    for name in ("mean", "sample"):
        np.testing.assert_array_equal(ours[name], outputs["sample/again"][name])
        assert not np.array_equal(ours[name], outputs["sample/other"][name])
    assert_close(ours["mean"], model.sample(6, SEED, mean=True), 1e-5)
    assert_close(ours["sample"], model.sample(6, SEED), 1e-5)
    if model.likelihood == "bernoulli":
        assert set(np.unique(ours["sample"])) == {0.0, 1.0}


@every_case
def test_reconstructions_are_the_models(case):
    model, inputs, outputs, *_ = case
    assert_close(
        outputs["reconstruct"]["mean"], model.reconstruct(inputs["x"], SEED), 1e-5
    )
    assert not np.array_equal(
        outputs["reconstruct"]["mean"], outputs["reconstruct/other"]["mean"]
    )


@every_case
def test_bad_inputs_are_refused_by_the_signature(case):
    model, _, _, report, _ = case
    expected = {
        "nan": "x: not finite",
        "infinite": "x: not finite",
        "above": "x: must be in [0, 1]",
        "below": "x: must be in [0, 1]",
        "no_draws": "num_samples: must be a positive integer",
        "negative": "num_samples: must be a positive integer",
        "latents": "z: not finite",
    }
    if not model.gate.in_unit_interval:
        del expected["above"], expected["below"]
    assert set(report["refused"]) == set(expected)
    for name, message in expected.items():
        assert message in report["refused"][name]


# One export for the rest -----------------------------------------------------------


@pytest.fixture(scope="module")
def exported(digits):
    """A model and the one version of its export."""
    model, folder = digits
    return model, folder / "1"


@pytest.fixture(scope="module")
def loaded(exported):
    return load_saved_model(exported[1])[1]


def test_a_keras_layer_can_wrap_it(exported):
    model, path = exported
    x = images(model)
    layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
    expected = log_likelihood(model, x, DRAWS)
    assert_close(layer(x)["log_likelihood"], expected.estimate)
    inputs = keras.Input(EVENT)
    encoder = keras.layers.TFSMLayer(str(path), call_endpoint="encode")
    wrapped = keras.Model(inputs, encoder(inputs)["loc"])
    assert_close(wrapped.predict(x, verbose=0), model.encode(x).mean(), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), [("encode", "x"), ("decode", "z")])
def test_tensorflow_lite_takes_what_draws_nothing(exported, name, key):
    path = str(exported[1])
    converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=[name])
    run = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner(
        name
    )
    signature = load_saved_model(path)[1][name]
    rows = np.zeros([3, 4], "float32") if key == "z" else images(exported[0], 3)
    ours = run(**{key: rows})
    for output, theirs in signature(**{key: tf.constant(rows)}).items():
        np.testing.assert_allclose(ours[output], theirs, atol=1e-6)
    dropped = run(**{key: np.full_like(rows, np.nan)})  # as the README says
    assert any(np.isnan(values).any() for values in dropped.values())


def test_an_export_is_loaded_by_its_folder_and_independent_of_its_model(exported):
    model, path = exported
    x, weights = tf.constant(images(model)), model.get_weights()
    expected = model.encode(x).mean()
    model.set_weights([w * 0 for w in weights])
    for given in (path, f"{path.parent}/"):
        version, found = load_saved_model(given)
        assert version == path and set(INPUTS) <= set(found)
        assert_close(found["encode"](x=x)["loc"], expected, 1e-5)
    model.set_weights(weights)
    for given in (str(path), path.parent):
        assert find_version(given) == path


@pytest.mark.slow
def test_float32_under_mixed_precision(tmp_path):
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    model = IWAE(
        MLP([6], (8,), seed=1, dtype=policy),
        MLP([6], EVENT, seed=2, dtype=policy),
        dtype=policy,
    )
    model.build((None, *EVENT))
    version = export_saved_model(model, tmp_path, SERVED)
    assert foreign_ops(version) == set()
    signatures = load_saved_model(version)[1]
    x, seed = images(model), tf.constant(SEED)
    calls = {
        "serving_default": {"x": x},
        "log_likelihood": {"x": x, "num_samples": 3, "seed": seed},
        "encode": {"x": x},
        "decode": {"z": np.zeros([2, 4], "float32")},
        "sample": {"num_samples": 3, "seed": seed},
        "reconstruct": {"x": x, "seed": seed},
    }
    for name, arguments in calls.items():
        tensors = {n: tf.constant(value) for n, value in arguments.items()}
        for output, value in signatures[name](**tensors).items():
            assert value.dtype == tf.float32, (name, output)
            assert np.all(np.isfinite(value))
    expected = log_likelihood(model, x, SERVED)
    found = signatures["serving_default"](x=tf.constant(x))["log_likelihood"]
    np.testing.assert_allclose(found, expected.estimate, atol=0.02)  # bfloat16


@pytest.mark.parametrize(
    "name",
    [
        "two_layers",
        "piwae_normal",
        pytest.param("eight_bits", marks=pytest.mark.slow),
    ],
)
def test_an_image_far_from_the_data_has_a_finite_score(case, name):
    rng = np.random.default_rng(3)
    far = [np.zeros(EVENT), np.ones(EVENT), rng.integers(0, 2, EVENT)]
    if name == "piwae_normal":
        far += [np.full(EVENT, 1e6), np.full(EVENT, -1e6)]
    x = tf.constant(np.stack(far), tf.float32)
    for values in load_case(case[-1])[1]["serving_default"](x=x).values():
        assert np.all(np.isfinite(values))


@pytest.mark.parametrize(
    "x",
    [
        tf.zeros([2, 6]),
        tf.zeros(EVENT),
        tf.zeros([2, *EVENT], tf.float64),
        tf.zeros([2, *EVENT], tf.int32),
    ],
    ids=["flat", "one", "float64", "int32"],
)
def test_another_shape_or_type_is_refused(loaded, x):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
        loaded["serving_default"](x=x)


def test_no_image_has_no_score(loaded):
    for values in loaded["serving_default"](x=tf.zeros([0, *EVENT])).values():
        assert values.shape == (0,)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_draws(tmp_path):
    export_saved_model(build(event=EVENT), tmp_path, SERVED)
    command = [
        *(sys.executable, "-m", "benchmarks.serving_memory"),
        *(f"--saved_model={tmp_path / '1'}", "--num_samples=1000000"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    assert found["all_finite"] and found["batch_size"] == 100
    assert found["above_the_load_mb"] < 500


# What a stock TensorFlow Serving binary on a CPU has to have: nothing special --------

# Registered for the CPU, but of a Python process or of an XLA that serving leaves out.
OUT_OF_PLACE = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "XlaLaunch", "XlaCompile")


def graph_of(version):
    """The graph of a SavedModel, its functions included: nodes and attributes."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((pathlib.Path(version) / "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    graph = meta_graph.graph_def
    functions = list(graph.library.function)
    nodes = [*graph.node, *(node for f in functions for node in f.node_def)]
    return nodes, functions


def foreign_ops(version):
    """Ops and attributes of a SavedModel that a CPU server cannot be trusted to run."""
    nodes, functions = graph_of(version)
    found = set()
    for op in {node.op for node in nodes} - {f.signature.name for f in functions}:
        registered = kernels.get_registered_kernels_for_op(op).kernel
        devices = {kernel.device_type for kernel in registered}
        if not devices & {"CPU", "DEFAULT"} or op in OUT_OF_PLACE or "Xla" in op:
            found.add(op)
    for owner in [*nodes, *functions]:
        if "_XlaMustCompile" in owner.attr and owner.attr["_XlaMustCompile"].b:
            found.add("_XlaMustCompile")
        device = getattr(owner, "device", "").upper()
        if "GPU" in device or "TPU" in device:
            found.add(device)
    return found


@every_case
def test_every_op_has_a_kernel_of_the_cpu(case):
    version = case[-1] / "1"
    assert foreign_ops(version) == set()
    ops = {node.op for node in graph_of(version)[0]}
    assert {"While", "StatelessRandomUniformFullIntV2", "Assert", "MatMul"} <= ops


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "saved_models").glob("*/[0-9]*")),
    ids=lambda p: p.parent.name,
)
def test_committed_exports_too(path):
    assert foreign_ops(path) == set()


def test_the_list_finds_what_it_looks_for(tmp_path):
    def python(x):
        return {"y": tf.numpy_function(np.sin, [x], tf.float32)}

    def compiled(x):
        return {"y": tf.function(tf.sin, jit_compile=True)(x)}

    def on_a_gpu(x):
        with tf.device("GPU:0"):
            return {"y": tf.sin(x)}

    for name, function, expected in (
        ("python", python, {"PyFunc"}),
        ("xla", compiled, {"_XlaMustCompile"}),
        ("plain", lambda x: {"y": tf.sin(x)}, set()),
    ):
        assert foreign_ops(save_function(tmp_path / name, function)) == expected
    assert foreign_ops(save_function(tmp_path / "gpu", on_a_gpu))


# Warm-up ---------------------------------------------------------------------------


@every_case
def test_the_server_can_replay_the_warmup_requests(case, name):
    log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    version, loaded = load_case(case[-1])
    file, seen = version / "assets.extra" / "tf_serving_warmup_requests", set()
    for record in tf.data.TFRecordDataset(str(file)):
        request = log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == name
        signature = request.model_spec.signature_name
        seen.add(signature)
        assert set(request.inputs) == INPUTS[signature]
        inputs = {n: tf.constant(tf.make_ndarray(v)) for n, v in request.inputs.items()}
        for output, values in loaded[signature](**inputs).items():
            # Not known of so few draws.
            is_unknown = output in ("pareto_k", "bias_allowance")
            assert np.all(np.isfinite(values)) or is_unknown
    assert seen == set(INPUTS)


@pytest.fixture
def quick_save(monkeypatch):
    """Saving that writes one small file, for what is about folders alone."""

    def save(module, path, signatures):
        with open(os.path.join(path, "saved_model.pb"), "w") as file:
            file.write(str(len(os.listdir(os.path.dirname(path)))))

    monkeypatch.setattr(export.tf.saved_model, "save", save)
    monkeypatch.setattr(signatures, "trace", lambda *_: {})
    monkeypatch.setattr(export.warmup, "is_available", lambda: False)


def test_without_the_extra_there_are_no_warmup_requests(
    exported, tmp_path, quick_save, monkeypatch
):
    model, name = exported[0], "iwae_tf.saved_model.warmup.is_available"
    version = export_saved_model(model, tmp_path / "name", SERVED)
    assert not (version / "assets.extra").exists()
    with pytest.raises(InvalidInputError, match=r"pip install 'iwae_tf\[serving\]'"):
        export_saved_model(model, tmp_path / "new", SERVED, warmup_requests=True)
    monkeypatch.setattr(name, lambda: True)
    with pytest.raises(InvalidInputError, match="`warmup_requests` must be one of"):
        export_saved_model(model, tmp_path / "new", SERVED, warmup_requests="yes")
    assert not (tmp_path / "new").exists()
    version = export_saved_model(model, tmp_path / "name", warmup_requests=False)
    assert not (version / "assets.extra").exists()


# Versions and failures -------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_versions_count_up_and_are_never_overwritten(exported, tmp_path, quick_save):
    model, folder = exported[0], tmp_path / "deep" / "name"
    paths = [export_saved_model(model, folder) for _ in range(3)]
    assert [path.name for path in paths] == ["1", "2", "3"]
    contents = [(path / "saved_model.pb").read_text() for path in paths]
    (folder / "2" / "mark").write_text("kept")
    (folder / "notes").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "10").mkdir()
    assert export_saved_model(model, folder).name == "11"
    assert [(path / "saved_model.pb").read_text() for path in paths] == contents
    assert (folder / "2" / "mark").read_text() == "kept"
    assert names(folder) == ["1", "10", "11", "2", "3", "config.json", "notes"]


def test_a_version_that_appears_meanwhile_is_left_alone(
    exported, tmp_path, quick_save, monkeypatch
):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mark").write_text("theirs")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "mark").write_text("theirs")
    # The listing is older than the rename: as if 2 had come in between.
    monkeypatch.setattr(export, "version_numbers", lambda folder: [1])
    assert export_saved_model(exported[0], tmp_path) == tmp_path / "3"
    assert (tmp_path / "2" / "mark").read_text() == "theirs"


def test_what_killed_exports_left_is_swept_up(exported, tmp_path, quick_save):
    dead, live = (tmp_path / f".{digit * 32}.tmp" for digit in "ab")
    for folder in (dead, live):
        (folder / "variables").mkdir(parents=True)
    with export._locked(live) as is_ours:
        assert is_ours
        export_saved_model(exported[0], tmp_path)
        assert names(tmp_path) == [live.name, "1"]
    export_saved_model(exported[0], tmp_path)
    assert names(tmp_path) == ["1", "2"]


def test_a_live_export_keeps_its_folder(exported, tmp_path, quick_save, monkeypatch):
    save = export.tf.saved_model.save

    def slow(*arguments):
        monkeypatch.setattr(export.tf.saved_model, "save", save)
        assert export_saved_model(exported[0], tmp_path).name == "1"
        save(*arguments)

    monkeypatch.setattr(export.tf.saved_model, "save", slow)
    assert export_saved_model(exported[0], tmp_path).name == "2"
    assert names(tmp_path) == ["1", "2"]


FULL = tf.errors.ResourceExhaustedError(None, None, "No space left on device")


@pytest.mark.parametrize("error", [OSError(28, "full"), FULL, KeyboardInterrupt()])
def test_nothing_is_left_after_a_failure_half_way(
    exported, tmp_path, monkeypatch, error
):
    (tmp_path / "1").mkdir()

    def half(module, path, signatures):
        os.makedirs(os.path.join(path, "variables"))
        raise error

    monkeypatch.setattr(export.tf.saved_model, "save", half)
    monkeypatch.setattr(signatures, "trace", lambda *_: {})
    expected = OSError if error is FULL else type(error)
    with pytest.raises(expected):
        export_saved_model(exported[0], tmp_path)
    assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, None, "5", 2**31])
def test_a_bad_number_of_draws_writes_nothing(exported, tmp_path, num_samples):
    with pytest.raises(InvalidInputError, match="`num_samples` must be a"):
        export_saved_model(exported[0], tmp_path / "new", num_samples)
    assert names(tmp_path) == []


def test_an_unbuilt_model_is_refused(tmp_path):
    model = IWAE(MLP([3], (4,)), MLP([3], EVENT))
    with pytest.raises(InvalidInputError, match="`model` must be built"):
        export_saved_model(model, tmp_path / "new")
    assert names(tmp_path) == []


# Loading what is not an intact export ----------------------------------------------


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("missing", "empty", "file"):
        with pytest.raises(InvalidInputError, match="must be a folder NAME or NAME/1"):
            load_saved_model(tmp_path / name)
    with pytest.raises(InvalidInputError, match=r"must be a path without \[, which"):
        load_saved_model(tmp_path / "a[1]")


WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, None], ids=str)
@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", WEIGHTS]
)
def test_a_damaged_export_is_said_in_one_line(exported, tmp_path, file, share):
    """A file cut off, or gone."""
    version = shutil.copytree(exported[1], tmp_path / "name" / "1")
    data = (version / file).read_bytes()
    (version / file).unlink()
    if share is not None:
        (version / file).write_bytes(data[: int(len(data) * share)])
    rule = "intact export" if (version / "saved_model.pb").exists() else "folder NAME"
    with pytest.raises(InvalidInputError, match=f"must be an? {rule}"):
        load_saved_model(version)


def test_an_older_export_without_a_signature_is_said_in_one_line(tmp_path):
    given = {"log_likelihood": len, "loaded": object()}
    assert signature_of(given, "log_likelihood") is len
    message = "with the signature refined_impute: export the model again. Received: one"
    with pytest.raises(InvalidInputError, match=f"{message} with log_likelihood$"):
        signature_of(given, "refined_impute")


def test_another_saved_model_is_refused(tmp_path):
    save_function(tmp_path / "1", lambda x: {"y": 2 * x})
    with pytest.raises(InvalidInputError, match="must be an intact export"):
        load_saved_model(tmp_path)
