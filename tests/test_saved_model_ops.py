"""What a stock TensorFlow Serving binary on a CPU has to have: nothing special."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import kernels
from test_saved_model import CASES, build

from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.saved_model import export_saved_model

ROOT = pathlib.Path(__file__).parents[1]
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


QUICK = ("vae", "two_layers", "eight_bits")
every_case = pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n not in QUICK),
    ],
)


@every_case
def test_every_op_has_a_kernel_of_the_cpu(name, tmp_path):
    version = export_saved_model(build(*CASES[name]), tmp_path / name)
    assert foreign_ops(version) == set()
    ops = {node.op for node in graph_of(version)[0]}
    assert {"While", "StatelessRandomUniformFullIntV2", "Assert", "MatMul"} <= ops


def test_mixed_precision_and_a_compiled_model_export_the_same_ops(tmp_path):
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    model = build("iwae")
    model.compile(jit_compile=True)
    assert foreign_ops(export_saved_model(model, tmp_path / "jit")) == set()
    model = IWAE(
        MLP([6], (8,), dtype=policy), MLP([6], (3, 2, 1), dtype=policy), dtype=policy
    )
    model.build((None, 3, 2, 1))
    assert foreign_ops(export_saved_model(model, tmp_path / "bfloat16")) == set()


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "saved_models").glob("*/[0-9]*")),
    ids=lambda p: p.parent.name,
)
def test_committed_exports_too(path):
    assert foreign_ops(path) == set()


def save(tmp_path, function):
    module = tf.Module()
    module.f = tf.function(function).get_concrete_function(
        tf.TensorSpec([None], tf.float32, "x")
    )
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.f})
    return tmp_path


def test_the_list_finds_what_it_looks_for(tmp_path):
    def python(x):
        return {"y": tf.numpy_function(np.sin, [x], tf.float32)}

    def compiled(x):
        return {"y": tf.function(tf.sin, jit_compile=True)(x)}

    def on_a_gpu(x):
        with tf.device("GPU:0"):
            return {"y": tf.sin(x)}

    assert foreign_ops(save(tmp_path / "python", python)) == {"PyFunc"}
    assert foreign_ops(save(tmp_path / "xla", compiled)) == {"_XlaMustCompile"}
    assert foreign_ops(save(tmp_path / "gpu", on_a_gpu))
    assert foreign_ops(save(tmp_path / "plain", lambda x: {"y": tf.sin(x)})) == set()
