"""Anything at all as input: one clear line, or a correct result.

`make test` tries some 2,000 cases, the same ones each time; `make fuzz` 20,000 new ones
(FUZZ_CASES of them).
"""

import gzip
import io
import json
import math
import os
import pathlib
import pickle
import shutil
import struct
import types

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from running import Exploit

from iwae_tf import bounds, datasets
from iwae_tf.config import build_model, default_config, stages, validate
from iwae_tf.config.files import read_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.inputs import Gate
from iwae_tf.models.values import check_values
from iwae_tf.probability import noise
from iwae_tf.runs.checkpoints import CheckpointStore, variables_of
from iwae_tf.runs.devices import read_cluster
from iwae_tf.runs.workdir import Workdir
from iwae_tf.saved_model import load_saved_model
from iwae_tf.studies.runner import expand_grid
from torture.damage import DAMAGES, make_model

CASES = int(os.environ.get("FUZZ_CASES", 2000))
SAVED_MODELS = pathlib.Path(__file__).parents[1] / "saved_models"


def cases(share):
    """Settings of a test that has a share of all cases."""
    return hypothesis.settings(
        max_examples=max(1, math.ceil(CASES * share)),
        deadline=None,
        derandomize="FUZZ_CASES" not in os.environ,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


REFUSED = object()


def answer_of(function, *arguments, **options):
    """What a function returns, or REFUSED once a line has said what was received."""
    try:
        return function(*arguments, **options)
    except InvalidInputError as error:
        text = str(error)
        assert "Received" in text and len(text) < 2000, text
        return REFUSED


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["iwae", "piwae", "ciwae", "normal", "muon", "burda", "npz"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(default_config())) | st.text(max_size=8)


# Configs ---------------------------------------------------------------------------


@cases(0.1)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_config_is_valid_or_refused(values):
    config = default_config()
    for key, value in values.items():
        try:
            config[key] = value
        except (TypeError, ValueError, AttributeError):  # ml_collections' own checks
            hypothesis.reject()
    if answer_of(validate, config) is REFUSED:
        return
    assert sum(stage.epochs for stage in stages(config)) >= config.epochs
    assert all(0 < stage.first_rate < math.inf for stage in stages(config))


@cases(0.1)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.binary(max_size=6), st.integers(0))
def test_any_config_file_is_read_or_refused(tmp_path_factory, values, junk, place):
    """A config.json with other values, and maybe with bytes put into it."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    data = json.dumps(default_config().to_dict() | values).encode()
    place %= len(data)
    path.write_bytes(data[:place] + junk + data[place:])
    config = answer_of(read_config, path)
    if config is REFUSED:
        return
    validate(config)
    Workdir(path.parent).check(config)


@cases(0.02)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.sampled_from(["vae", "iwae", "miwae", "ciwae", "piwae"]),
    st.sampled_from(["bernoulli", "normal"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 3),
)
def test_small_models_of_any_shape(data_of, dims, name, likelihood, event, num_samples):
    """Log-weights of every shape of latents and images are finite, and [M, K, B]."""
    config = default_config()
    config.model, config.likelihood, config.num_samples = name, likelihood, num_samples
    config.beta = 0.5 if name == "ciwae" else None
    config.latent_dims, config.hidden_dims = dims, [[3]] * len(dims)
    config.dataset, config.data_dir = "npz", data_of(event)
    config.lr_schedule, config.epochs = "constant", 1
    model = build_model(config)
    x = np.ones([2, *model.event_shape], np.float32)
    log_weights = model.log_weights(x, num_groups=2, num_samples=num_samples)
    assert log_weights.shape == (2, num_samples, 2)
    assert np.isfinite(log_weights).all()


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """Path of an npz file whose examples have a shape."""
    folder = tmp_path_factory.mktemp("shapes")

    def path_of(event):
        path = folder / f"{'x'.join(map(str, event))}.npz"
        if not path.exists():
            np.savez(path, x_train=np.zeros([2, *event]), x_test=np.zeros([1, *event]))
        return str(path)

    return path_of


# Arrays ----------------------------------------------------------------------------

ARRAYS = arrays.arrays(
    st.sampled_from(
        [np.float32, np.float64, np.float16, np.int32, np.uint8, bool, "U3"]
    ),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@cases(0.15)
@given(ARRAYS | st.lists(VALUES, max_size=3))
def test_any_array_is_scored_or_refused(x):
    array = np.asarray(x, dtype=object) if isinstance(x, list) else x
    if array.dtype.kind == "f":  # TensorFlow takes what is below them for zero
        tiny = np.finfo(np.float32).tiny
        x = array = np.where(np.abs(array) < tiny, np.zeros_like(array), array)
    is_good = (
        isinstance(x, np.ndarray)
        and array.dtype.kind == "f"
        and array.size > 0
        and bool(np.isfinite(array).all() and (array >= 0).all() and (array <= 1).all())
    )

    gate = Gate(types.SimpleNamespace(likelihood=None, missing="refuse"))

    def check(x):
        check_values(gate.floats(x), in_unit_interval=True)

    is_taken = answer_of(check, x) is not REFUSED
    assert is_taken == is_good or (is_taken and isinstance(x, list))
    if isinstance(x, np.ndarray) and array.dtype.kind != "U":
        is_taken = answer_of(datasets.validate_images, x) is not REFUSED
        assert is_taken == (is_good and array.ndim >= 2)


@cases(0.1)
@given(VALUES)
def test_any_seed_is_a_pair_or_refused(seed):
    pair = answer_of(noise.check_seed, seed)
    if pair is REFUSED:
        return
    words = list(seed)
    assert len(words) == 2
    assert [(p - int(w)) % 2**32 for p, w in zip(pair, words)] == [0, 0]


@cases(0.05)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.floats(-1e4, 1e4, width=32) | st.just(-np.inf),
    ),
    st.floats(0, 1),
)
def test_bounds_of_any_log_weights(log_weights, beta):
    """Against float64 sums written out, -inf included, where one draw is finite."""
    log_weights[0, 0] = np.where(np.isinf(log_weights[0, 0]), 0.0, log_weights[0, 0])
    exact = log_weights.astype(np.float64)

    def log_mean(values, axis):
        peak = values.max(axis=axis, keepdims=True)
        peak = np.where(np.isinf(peak), 0.0, peak)
        with np.errstate(divide="ignore"):
            logs = np.log(np.exp(values - peak).mean(axis=axis, keepdims=True)) + peak
        return logs.squeeze(axis)

    elbo, iwae = exact.mean(axis=(0, 1)), log_mean(exact, (0, 1))
    miwae = log_mean(exact, 1).mean(axis=0)
    for found, expected in (
        (bounds.elbo(log_weights), elbo),
        (bounds.iwae(log_weights), iwae),
        (bounds.miwae(log_weights), miwae),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    if np.isfinite(elbo).all():
        ciwae = beta * elbo + (1 - beta) * iwae
        found = bounds.ciwae(log_weights, beta)
        np.testing.assert_allclose(found, ciwae, rtol=1e-5, atol=1e-3)


# Files of data ---------------------------------------------------------------------


def damaged(data, draw):
    """Bytes with bits flipped, cut off, overwritten, or something else altogether."""
    kind = draw(st.sampled_from(["flip", "cut", "overwrite", "insert", "other"]))
    place = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "flip":
        flipped = data[place] ^ (1 << draw(st.integers(0, 7)))
        return data[:place] + bytes([flipped]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "other":
        return draw(st.binary(max_size=64) | st.just(pickle.dumps(Exploit())))
    junk = draw(st.binary(min_size=1, max_size=16))
    rest = data[place:] if kind == "insert" else data[place + len(junk) :]
    return data[:place] + junk + rest


@st.composite
def npz_files(draw):
    """(bytes, the images in it before the damage)."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    images = rng.uniform(size=(4, 2, 3)).astype(np.float32)
    members = {"x_train": images, "x_test": images[:2]}
    if draw(st.booleans()):
        members["y_train"] = np.array([Exploit()] * 4, dtype=object)
    file = io.BytesIO()
    save = np.savez_compressed if draw(st.booleans()) else np.savez
    save(file, **members)
    return damaged(file.getvalue(), draw), images


@cases(0.12)
@given(npz_files())
def test_any_npz_file_is_read_or_refused(tmp_path_factory, file):
    """CRCs cover every array: what is read has the values that were written."""
    data, images = file
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    path.write_bytes(data)
    found = answer_of(datasets.load_arrays, "npz", split="test", data_dir=path)
    if found is REFUSED:
        return
    read = found.images
    np.testing.assert_array_equal(read[..., 0], images[:2])


@st.composite
def idx_files(draw):
    """(bytes, whether gzip'ed) of an IDX file of 20 images, damaged or not."""
    count, height, width = 20, draw(st.integers(0, 3)), draw(st.integers(0, 3))
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", count, height, width)
    pixels = np.random.default_rng(0).integers(0, 255, count * height * width, np.uint8)
    data, zipped = header + pixels.tobytes(), draw(st.booleans())
    data = gzip.compress(data) if zipped else data
    return damaged(data, draw), zipped


@cases(0.08)
@given(idx_files())
def test_any_idx_file_is_read_or_refused(tmp_path_factory, file):
    """Plain IDX has no checksum: what is read at least has a shape and a range."""
    data, zipped = file
    folder = tmp_path_factory.mktemp("idx")
    suffix = ".gz" if zipped else ""
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(data)
    found = answer_of(datasets.load_arrays, "idx", split="train", data_dir=folder)
    if found is REFUSED:
        return
    read = found.images
    assert read.ndim == 4 and read.size and 0 <= read.min() <= read.max() <= 1


# Files of runs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """A model, and the bytes of a checkpoint of it."""
    model = make_model()
    store = CheckpointStore(tmp_path_factory.mktemp("store"))
    store.save(1, model, {"history": []})
    arrays_ = {name: v.numpy() for name, v in variables_of(model).items()}
    return model, store.newest.read_bytes(), arrays_


@cases(0.08)
@given(st.data())
def test_any_checkpoint_is_restored_or_refused(tmp_path_factory, checkpointed, data):
    model, whole, saved = checkpointed
    folder = tmp_path_factory.mktemp("store")
    (folder / "epoch-00001.npz").write_bytes(damaged(whole, data.draw))
    answer_of(CheckpointStore(folder).restore_latest, model, lambda line: None)
    for name, variable in variables_of(model).items():
        np.testing.assert_array_equal(variable.numpy(), saved[name])


@pytest.fixture(scope="module")
def intact():
    """Signatures of the export that is damaged below."""
    return load_saved_model(SAVED_MODELS / "mnist5k_iwae")[1]


@cases(0.003)
@given(st.data())
def test_any_saved_model_is_loaded_or_refused(tmp_path_factory, intact, data):
    """Files cut off, emptied or replaced, and damaged weights, which have a CRC."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    shutil.copytree(SAVED_MODELS / "mnist5k_iwae", folder)
    files = [p for p in (folder / "1").rglob("*") if p.is_file()]
    path = data.draw(st.sampled_from(sorted(files)))
    name = data.draw(st.sampled_from(sorted(DAMAGES)))
    if path.suffix == ".pb":  # a graph has no checksum: another graph is a program
        name = data.draw(st.sampled_from(["cut off", "empty", "replaced by a pickle"]))
    DAMAGES[name](path, data.draw(st.randoms(use_true_random=False)))
    x = tf.zeros([1, 28, 28, 1])
    found = answer_of(load_saved_model, folder)
    if found is REFUSED:
        return
    _, signatures = found
    found = signatures["encode"](x=x)["loc"]
    np.testing.assert_array_equal(found, intact["encode"](x=x)["loc"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and the bytes of its file."""
    path, model = tmp_path_factory.mktemp("saved") / "model.keras", make_model()
    model.save(path)
    return model, path.read_bytes()


@cases(0.003)
@given(st.data())
def test_any_model_file_is_loaded_or_refused(tmp_path_factory, saved, data):
    model, whole = saved
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.keras").write_bytes(damaged(whole, data.draw))
    loaded = answer_of(Workdir(folder).load_model)
    if loaded is REFUSED:
        return
    np.testing.assert_equal(loaded.get_weights(), model.get_weights())


# Command lines and environments ----------------------------------------------------


@cases(0.05)
@given(KEYS, st.text(max_size=12))
def test_any_grid_is_expanded_or_refused(key, text):
    runs = answer_of(expand_grid, default_config(), [f"{key}={text}"])
    if runs is REFUSED:
        return
    assert runs and all("/" not in run.name for run in runs)


@cases(0.05)
@given(st.none() | st.text(max_size=30) | VALUES.map(json.dumps) | st.data())
def test_any_cluster_is_read_or_refused(text):
    if hasattr(text, "draw"):
        task = {"type": text.draw(SCALARS), "index": text.draw(SCALARS)}
        workers = text.draw(st.lists(st.text(max_size=3) | SCALARS, max_size=3))
        text = json.dumps({"cluster": {"worker": workers}, "task": task})
    found = answer_of(read_cluster, text)
    if found is REFUSED:
        return
    worker, count = found
    assert 0 <= worker < count
