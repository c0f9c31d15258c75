"""Conditional configs: data with labels, runs, exports and scores of them."""

import json

import numpy as np
import pytest
import tensorflow as tf
from running import assert_one_line, read_json, run_script
from test_datasets import write_idx
from test_saved_model import foreign_ops
from test_serving import serving_grpc

import iwae_tf
from examples.loopback_server import LoopbackServer
from iwae_tf import datasets, evaluation
from iwae_tf.config import build_model, default_config, validate
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import programs
from iwae_tf.networks import MLP, WithLabels
from iwae_tf.runs import splits, training
from iwae_tf.runs.workdir import Workdir, load_exported
from iwae_tf.serving import batch_seed, score

pytestmark = pytest.mark.usefixtures("loaded_once")
CLASSES = 3


def bars(count, seed):
    """Binary 6x6 images of a bar: its row is the label, its column is not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    grey = np.full([count, 6, 6], 0.03)
    grey[np.arange(count), 2 * labels] = 0.97
    grey[np.arange(count), :, rng.integers(0, 6, count)] = 0.97
    return (rng.uniform(size=grey.shape) < grey).astype("float32"), labels


def write_npz(path, **changes):
    x, y = bars(120, 0)
    x_test, y_test = bars(40, 1)
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def make_config(path, **changes):
    config = default_config()
    settings = {
        **{"dataset": "npz", "data_dir": str(path), "binarization": "none"},
        **{"conditional": True, "latent_dims": [2], "hidden_dims": [[16]]},
        **{"num_samples": 3, "batch_size": 20, "epochs": 12, "eval_split": "test"},
        **{"lr_schedule": "cosine", "learning_rate": 2e-2, "jit_compile": False},
        **{"eval_num_samples": 50},
    }
    config.update(settings | changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    config = make_config(write_npz(folder / "data.npz"))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    flags = [f"--config={folder / 'config.json'}", f"--workdir={folder / 'run'}"]
    assert run_script("train", *flags) == 0
    return folder


# Data and configs ------------------------------------------------------------------


def test_labels_stay_with_their_images():
    """Through the order of an epoch, ragged batches and shards."""
    images = np.arange(11, dtype="float32")[:, np.newaxis] / 11
    labels = np.arange(11)
    for shards, num_shards in [(range(1), 1), (range(1, 3), 3)]:
        settings = {"batch_size": 4, "seed": 3, "epochs": 2}
        settings |= {"shards": shards, "num_shards": num_shards}
        pairs = datasets.batches(images, labels, **settings)
        alone = datasets.batches(images, **settings)
        seen = []
        for (x, y), expected in zip(pairs, alone, strict=True):
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(np.rint(x[:, 0] * 11), y)
            seen += y.numpy().tolist()
        if num_shards == 1:
            assert sorted(seen) == sorted([*range(11)] * 2)


def test_the_number_of_classes(tmp_path):
    assert datasets.num_classes("mnist5k") == 10
    path = write_npz(tmp_path / "data.npz")
    assert datasets.num_classes("npz", data_dir=path) == CLASSES
    images, labels = np.zeros([5, 2, 2], "uint8"), np.array([0, 4, 1, 1, 0], "uint8")
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    assert datasets.num_classes("idx", data_dir=tmp_path) == 5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_train": None}, "`dataset` must have labels for a conditional model"),
        ({"y_train": np.arange(120) - 1}, r"`labels` must be in \[0, 10000\)"),
        ({"y_train": np.arange(120) * 1000}, r"`labels` must be in \[0, 10000\)"),
        ({"y_train": np.zeros([120])}, "`labels` must be 120 integers"),
        ({"y_train": np.array(3)}, "`labels` must be 0 integers"),
        ({"y_test": None}, "must have labels in every split .*no labels of split test"),
    ],
)
def test_labels_that_are_no_classes_are_one_line(changes, message, tmp_path):
    config = make_config(write_npz(tmp_path / "data.npz", **changes))
    with pytest.raises(InvalidInputError, match=message) as error:
        build_model(config)
        splits.load_eval_split(config, "test")
    assert "\n" not in str(error.value)


def test_a_data_set_without_labels_is_refused_before_anything_is_read():
    with pytest.raises(InvalidInputError, match="`dataset` must have labels"):
        validate(make_config("nowhere", dataset="binarized_mnist"))
    with pytest.raises(InvalidInputError, match="`conditional` must be true or false"):
        config = make_config("nowhere")
        with config.ignore_type():
            config.conditional = 2
        validate(config)


def test_the_model_of_a_config(tmp_path):
    """One table of p(z_L|y); networks that are no MLP would be given labels."""
    path = write_npz(tmp_path / "data.npz")
    settings = {"latent_dims": [3, 2], "hidden_dims": [[8], [6]]}
    model = build_model(make_config(path, **settings))
    assert model.num_classes == CLASSES and isinstance(model.prior, MLP)
    assert [v.shape for v in model.prior.variables] == [(CLASSES, 4), (4,)]
    again = build_model(make_config(path, **settings))
    np.testing.assert_equal(model.get_weights(), again.get_weights())
    plain = build_model(make_config(path, conditional=False, **settings))
    assert plain.num_classes is None and plain.prior is None
    assert not isinstance(model.encoder[0], WithLabels)


# Runs ------------------------------------------------------------------------------


def test_the_results_are_those_of_the_model(folder):
    found = read_json(folder / "run" / "results.json")
    model = iwae_tf.load(folder / "run")
    x, y = bars(40, 1)
    x = x[..., np.newaxis]
    exact = evaluation.log_likelihood(model, x, 50, (1, 0), labels=y)
    assert found["nll"] == pytest.approx(-exact.estimate.mean(), abs=1e-4)
    by_class = iwae_tf.class_log_likelihoods(model, x, 50, (1, 0))
    np.testing.assert_allclose(
        by_class.estimate[np.arange(40), y], exact.estimate, atol=1e-4
    )
    guessed = by_class.estimate.argmax(axis=1)
    assert found["classes"] == {
        "nll": pytest.approx(-by_class.log_marginal().mean(), abs=1e-4),
        "accuracy": pytest.approx(np.mean(guessed == y)),
        "num_samples": 50,
        "num_examples": 40,
    }
    assert found["classes"]["accuracy"] > 0.9
    # log p(x) >= log p(x|y) - log 3, and the label tells nearly all of log 3 here.
    difference = found["classes"]["nll"] - found["nll"]
    assert 0.5 < difference <= np.log(CLASSES) + 1e-6
    for name in ("samples", "interpolations"):
        assert (folder / "run" / "figures" / f"{name}.png").is_file()
    card = (folder / "run" / "saved_model" / "MODEL_CARD.md").read_text()
    assert "log p(x|y)" in card and "`y` int32 [batch]" in card


def test_samples_by_class_have_the_bar_of_their_class(folder):
    """What `figures/samples.png` shows, a row a class."""
    model = iwae_tf.load(folder / "run")
    labels = np.repeat(np.arange(CLASSES), 10)
    images = model.sample(30, (1, 1), labels=labels, mean=True).numpy()
    assert np.mean(images.sum(axis=(2, 3)).argmax(axis=1) == 2 * labels) > 0.9


def test_evaluate_takes_the_run_and_its_export(folder, tmp_path, capsys):
    outputs = []
    for flag in (
        f"--workdir={folder / 'run'}",
        f"--saved_model={folder}/run/saved_model",
    ):
        output = tmp_path / f"{len(outputs)}.json"
        assert run_script("evaluate", flag, f"--output={output}") == 0
        outputs.append(read_json(output))
    assert "right by Bayes' rule" in capsys.readouterr().out
    assert outputs[1]["nll"] == pytest.approx(outputs[0]["nll"], abs=1e-3)
    model, config = load_exported(folder / "run" / "saved_model")
    assert config.conditional
    again = iwae_tf.load(folder / "run")
    np.testing.assert_equal(model.get_weights(), again.get_weights())


@pytest.mark.parametrize(
    "command, words",
    [
        ("evaluate --workdir={run} --data_dir={other}", "in [0, 3)"),
        ("evaluate --saved_model={run}/saved_model --data_dir={other}", "in [0, 3)"),
        ("diagnose --workdir={run}", "must not be conditional"),
    ],
)
def test_what_scripts_refuse_of_it(folder, tmp_path, capsys, command, words):
    other = write_npz(tmp_path / "other.npz", y_test=np.full(40, 7))
    name, *flags = command.format(run=folder / "run", other=other).split()
    assert_one_line(run_script(name, *flags), capsys, words)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_bit_for_bit_the_same(
    folder, tmp_path, monkeypatch
):
    from test_resume import assert_same, state_of, train

    monkeypatch.setattr(programs, "MOST_STEPS", 2)
    config = make_config(folder / "data.npz", epochs=2)
    whole = state_of(train(config, tmp_path / "whole"))
    assert train(config, tmp_path / "cut", stop_at=3) is None
    assert_same(state_of(train(config, tmp_path / "cut")), whole)


def test_a_run_from_before_there_was_the_key_goes_on(folder, tmp_path):
    config = make_config(folder / "data.npz", conditional=False)
    older = config.to_dict()
    del older["conditional"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    Workdir(tmp_path).check(config)
    config.conditional = True
    with pytest.raises(InvalidInputError, match="whose conditional is .*, not True"):
        Workdir(tmp_path).check(config)


def test_the_batch_of_a_bad_step_is_kept_with_its_labels(folder, tmp_path, monkeypatch):
    from test_resume import train

    config = make_config(folder / "data.npz", epochs=1)
    build = training.build_model

    def broken(config, **kwargs):
        model = build(config, **kwargs)
        model.prior.set_weights([w + np.nan for w in model.prior.get_weights()])
        return model

    monkeypatch.setattr(training, "build_model", broken)
    with pytest.raises(FloatingPointError, match="the bound is nan at step 1"):
        train(config, tmp_path)
    examples = splits.load_examples(config, "train")
    x, y = next(iter(training.batches(config, examples, 0, 0)))
    with np.load(tmp_path / "nonfinite_batch.npz") as batch:
        np.testing.assert_array_equal(batch["x"], x)
        np.testing.assert_array_equal(batch["y"], y)


@pytest.mark.slow
def test_two_replicas_train_and_score_as_one(folder, tmp_path):
    """Labels are cut into the same parts as images; see `test_distribution`."""
    from test_distribution import script

    config = make_config(folder / "data.npz", epochs=1)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    devices = ["--distribute=mirrored", "--num_devices=2"]
    found = []
    for name, flags in (("one", []), ("two", devices)):
        flags = [f"--config={tmp_path / 'config.json'}", *flags]
        script("train", *flags, f"--workdir={tmp_path / name}")
        found.append(read_json(tmp_path / name / "results.json"))
    for key in ("nll", "bound"):
        assert found[1][key] == pytest.approx(found[0][key], abs=1e-3), key
    assert found[1]["classes"]["nll"] == pytest.approx(
        found[0]["classes"]["nll"], abs=1e-3
    )


# Serving ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(folder):
    return folder / "run" / "saved_model"


def test_every_op_has_a_kernel_of_the_cpu(served):
    assert not foreign_ops(served / "1")


def test_scores_are_the_librarys_wherever_they_come_from(folder, served):
    model = iwae_tf.load(folder / "run")
    x, y = bars(7, 2)
    x, arguments = x[..., np.newaxis], {"num_samples": 20, "seed": (3, 4)}
    arguments |= {"labels": y, "batch_size": 4}
    local = score(x, saved_model=served, **arguments)
    for rows in (slice(0, 4), slice(4, 7)):
        seed = batch_seed((3, 4), rows.start)
        expected = iwae_tf.log_likelihood(model, x[rows], 20, seed, labels=y[rows])
        for ours, theirs in zip(local, expected):
            np.testing.assert_allclose(ours[rows], theirs, rtol=1e-3, atol=1e-4)
    others = score(x, saved_model=served, **(arguments | {"labels": (y + 1) % 3}))
    assert np.min(np.abs(others.estimate - local.estimate)) > 1e-3
    with LoopbackServer(served) as server:
        remote = score(x, endpoint=server.endpoint, **arguments)
        with pytest.raises(InvalidInputError, match=r"y: must be in \[0, 3\)"):
            score(x, endpoint=server.endpoint, **(arguments | {"labels": y + 3}))
    np.testing.assert_allclose(remote.estimate, local.estimate, atol=1e-4)


def test_grpc_takes_labels(served):
    pytest.importorskip("tensorflow_serving.apis")
    x, y = bars(5, 2)
    x, arguments = x[..., np.newaxis], {"num_samples": 20, "labels": y}
    with serving_grpc(served) as server:
        endpoint = f"grpc://127.0.0.1:{server.port}/v1/models/digits"
        remote = score(x, endpoint=endpoint, **arguments)
    local = score(x, saved_model=served, **arguments)
    np.testing.assert_allclose(remote.estimate, local.estimate, atol=1e-4)


def test_the_script_takes_a_file_of_labels(served, tmp_path, capsys):
    x, y = bars(9, 2)
    np.save(tmp_path / "x.npy", x[..., np.newaxis])
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "short.npy", y[:4])
    np.save(tmp_path / "floats.npy", y.astype("float32"))
    np.save(tmp_path / "high.npy", y + 2**40)
    output = tmp_path / "scores.csv"
    flags = [f"--saved_model={served}", f"--input={tmp_path / 'x.npy'}"]
    flags += ["--num_samples=20", f"--output={output}"]
    for labels, message in {
        "": "`labels` must be given: the model is conditional",
        "missing.npy": "`--labels` must be a path that exists",
        "short.npy": "`labels` must be 9 integers, one for each image",
        "floats.npy": "`labels` must be 9 integers, one for each image",
        "high.npy": "y: must be in [0, 3)",
    }.items():
        extra = [f"--labels={tmp_path / labels}"] if labels else []
        assert run_script("score", *flags, *extra) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "scores.csv.partial").unlink(missing_ok=True)
    assert run_script("score", *flags, f"--labels={tmp_path / 'y.npy'}") == 0
    assert "mean log p(x|y)" in capsys.readouterr().out
    expected = score(x[..., np.newaxis], saved_model=served, num_samples=20, labels=y)
    rows = np.genfromtxt(output, delimiter=",", names=True)
    np.testing.assert_allclose(rows["log_likelihood"], expected.estimate, rtol=1e-5)


@pytest.mark.slow
def test_a_job_with_other_labels_is_another_job(served, tmp_path):
    x, y = bars(6, 2)
    arguments = {"saved_model": served, "num_samples": 5, "batch_size": 2}
    output = tmp_path / "scores.csv"

    def stop(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(x[..., None], labels=y, output=output, on_batch=stop, **arguments)
    with pytest.raises(InvalidInputError, match="whose labels is"):
        score(x[..., None], labels=(y + 1) % 3, output=output, **arguments)
    resumed = score(x[..., None], labels=y, output=output, **arguments)
    whole = score(x[..., None], labels=y, **arguments)
    np.testing.assert_allclose(resumed.estimate, whole.estimate, rtol=1e-6)


def test_beam_refuses_it(served):
    pytest.importorskip("apache_beam")
    from iwae_tf.serving.pipelines import SavedModelHandler

    handler = SavedModelHandler(served, num_samples=5, seed=(0, 0))
    with pytest.raises(InvalidInputError, match="must not be conditional"):
        handler.load_model()


def test_warmup_requests_have_a_label(served):
    """The inputs of each request are those of its signature."""
    pytest.importorskip("tensorflow_serving.apis")
    from tensorflow_serving.apis import prediction_log_pb2

    signatures = tf.saved_model.load(str(served / "1")).signatures
    path = served / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert len(records) == len({*signatures} - {"about"})
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        inputs = {n: tf.make_ndarray(v) for n, v in request.inputs.items()}
        function = signatures[request.model_spec.signature_name]
        expected = function.structured_input_signature[1]
        assert "y" in inputs and inputs.keys() == expected.keys()
        for name, spec in expected.items():
            assert spec.is_compatible_with(tf.constant(inputs[name]))
        if "serving_default" in request.model_spec.signature_name:
            function(**{n: tf.constant(value) for n, value in inputs.items()})
