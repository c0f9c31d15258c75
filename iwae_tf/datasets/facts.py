"""What a data set is, from its headers, its names or its labels, without its images."""

import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from iwae_tf.checks import check_choice, readable
from iwae_tf.datasets import image_folder, readers, sources
from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import Schema

Path = str | os.PathLike[str]
DATASETS = tuple(sources.READERS)
LABEL_COLUMN = ": name a column, schema='COLUMN=label'"
MAX_CLASSES = 10_000  # a one-hot label has so many elements


def event_shape(
    name: str,
    *,
    data_dir: Path | None = None,
    schema: str | None = None,
    image_size: str = "auto",
    color: str = "auto",
) -> tuple[int, ...]:
    """Shape of one example, read from no more than headers.

    Args:
      name: one of `DATASETS`.
      data_dir: where it lies, as for `load_arrays`; only "idx", "npz" and "images" are
        opened, and a table is read.
      schema: of a table, as for `load_arrays`.
      image_size: of "images", as for `load_arrays`.
      color: of "images", as for `load_arrays`.

    Returns:
      event_shape: a tuple of integers; (28, 28, 1) for a named set, (32, 32, 3) where
        it is in colour.

    Raises:
      InvalidInputError: unknown name; missing or damaged file.
    """
    check_choice(name, "name", DATASETS)
    if name == "table":
        return (len(table_schema(data_dir, schema).columns),)
    shape = sources.stored_shape(name, expand(data_dir), image_size, color)
    return (*shape, 1) if len(shape) == 2 else tuple(shape)


def num_training_examples(
    name: str, data_dir: Path | None = None, **others: Any
) -> int:
    """How many examples the training split has; of a folder no image is read.

    The arguments are those of `event_shape`, of which some do not matter here.
    """
    del others
    path = expand(data_dir)
    if name == "images":
        return len(_training_files(path))
    read = sources.stored_table if name == "table" else sources.READERS[name]
    source = read(split="train", data_dir=path)
    return len(np.arange(len(source.images))[source.rows])


def training_digest(
    name: str,
    *,
    data_dir: Path | None = None,
    with_labels: bool = False,
    **others: Any,
) -> str | None:
    """What tells whether a model was trained on these data, from no more than needed.

    The arguments are those of `event_shape`, of which some do not matter here, and
    whether the labels were part of the training.

    Returns:
      SHA-256 in hexadecimal. Of "images": of the names of the training images, of which
      none is read; of a table: of its file, since categories are those of all rows; of
      "npz" and "idx": of the training rows. None of the others, which a name tells.

    Raises:
      InvalidInputError: missing or damaged file.
    """
    del others
    if name not in ("images", "table", "npz", "idx"):
        return None
    path, digest = pathlib.Path(expand(data_dir) or ""), hashlib.sha256()
    if name == "images":
        for file in _training_files(path):
            line = f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with readable(path):
        if name == "table" and path.suffix != ".npz":
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        read = sources.read_idx if name == "idx" else sources.read_npz
        source = read(split="train", data_dir=path)
        for array in (source.images, source.labels if with_labels else None):
            if array is not None:
                rows = np.ascontiguousarray(array[source.rows])
                digest.update(f"{rows.dtype.str} {rows.shape}".encode())
                digest.update(rows.data)
    return digest.hexdigest()


def _training_files(folder):
    """The files of a folder that are its training images, in the order of the split."""
    files = image_folder.list_images(folder)
    what = f"images in {folder}{files.without}"
    splits = sources.splits_of_rows(len(files.paths), what)
    return [files.paths[row] for row in np.flatnonzero(splits == "train")]


def table_schema(data_dir: Path | None, schema: str | None = None) -> Schema:
    """What the columns of a stored table are, the statistics of its training split.

    Args:
      data_dir: a .csv, .parquet or .npy file, or .npz with x_train and x_test.
      schema: as for `load_arrays`.

    Raises:
      InvalidInputError: as `tables.infer_schema`.
    """
    return sources.table_schema(expand(data_dir), schema)


def num_classes(
    name: str,
    *,
    data_dir: Path | None = None,
    schema: str | None = None,
    **others: Any,
) -> int:
    """How many classes the labels of a data set are of: the largest one and one more.

    Only "omniglot", "idx" and "npz" are opened, and no more of the last two than the
    labels of the training images; a table is read. The arguments are those of
    `event_shape`, of which some do not matter here.

    Raises:
      InvalidInputError: a set without labels, or labels that are no classes.
    """
    del others
    check_choice(name, "name", DATASETS)
    known = sources.NUM_CLASSES.get(name)
    if known is not None:
        return known
    labels = None
    if name == "table":
        label = table_schema(data_dir, schema).label
        labels = None if label is None else np.arange(len(label.categories))
    elif name not in sources.UNLABELLED:
        labels = sources.stored_labels(name, data_dir=expand(data_dir))
    if labels is None:
        raise InvalidInputError(
            f"`dataset` must have labels for a conditional model. Received: {name}, "
            f"which has none{LABEL_COLUMN if name == 'table' else ''}"
        )
    count = len(labels) if labels.ndim else 0
    labels = readers.checked_labels(labels, count)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= MAX_CLASSES:
        found = f"{labels.min()} to {labels.max()}" if labels.size else "none"
        raise InvalidInputError(
            f"`labels` must be in [0, {MAX_CLASSES}) for a conditional model. "
            f"Received: {found}"
        )
    return int(labels.max()) + 1


def expand(data_dir: Path | None) -> str | None:
    """The path with ~ resolved."""
    return None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
