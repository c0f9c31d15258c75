"""One split of a data set as arrays: found, checked, and binarised once."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice, check_integer, readable
from iwae_tf.datasets import image_folder, readers, sources
from iwae_tf.errors import InvalidInputError
from iwae_tf.schema import Schema

Path = str | os.PathLike[str]
DATASETS = tuple(sources.READERS)
UNLABELLED = sources.UNLABELLED
LABEL_COLUMN = ": name a column, schema='COLUMN=label'"
SPLITS = ("train", "validation", "test")
MAX_CLASSES = 10_000  # a one-hot label has so many elements
BINARIZATIONS = ("none", "threshold", "fixed", "dynamic")
BINARIZE_STREAM = 0x62696E  # two uses of one seed must not see the same random bits


class Split(NamedTuple):
    """One split: `images` float32 [N, *event] in [0, 1], `labels` int64 [N] or None."""

    images: np.ndarray
    labels: np.ndarray | None


def validate_images(
    images: ArrayLike,
    *,
    name: str = "x",
    in_unit_interval: bool = True,
    takes_missing: bool = False,
) -> None:
    """Refuse what no model here can score.

    Args:
      images: float [N, *event], with N >= 1.
      name: what the message calls them.
      in_unit_interval: whether they have to lie in [0, 1].
      takes_missing: whether NaN is a missing value.

    Raises:
      InvalidInputError: names the rule that is broken and the value that breaks it.
    """
    images = np.asarray(images)
    if takes_missing and np.issubdtype(images.dtype, np.floating):
        images = np.where(np.isnan(images), 0, images)
    problem = _problem_of(images, in_unit_interval)
    if problem:
        rule, received = problem
        raise InvalidInputError(f"`{name}` must {rule}. Received: {received}")


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
    shape = sources.stored_shape(name, _expand(data_dir), image_size, color)
    return (*shape, 1) if len(shape) == 2 else tuple(shape)


def num_training_examples(
    name: str, data_dir: Path | None = None, **others: Any
) -> int:
    """How many examples the training split has.

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`; of a folder no image is read.
      **others: options of `event_shape`, which do not matter here.
    """
    del others
    path = _expand(data_dir)
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

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`.
      with_labels: whether the labels were part of the training.
      **others: options of `event_shape`, which do not matter here.

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
    path, digest = pathlib.Path(_expand(data_dir) or ""), hashlib.sha256()
    if name == "images":
        names = [file.relative_to(path).as_posix() for file in _training_files(path)]
        digest.update("\0".join(names).encode("utf-8", "surrogateescape"))
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
    files = image_folder.list_images(folder).paths
    splits = sources.splits_of_rows(len(files), f"images in {folder}")
    return [files[row] for row in np.flatnonzero(splits == "train")]


def table_schema(data_dir: Path | None, schema: str | None = None) -> Schema:
    """What the columns of a stored table are, the statistics of its training split.

    Args:
      data_dir: a .csv, .parquet or .npy file, or .npz with x_train and x_test.
      schema: as for `load_arrays`.

    Raises:
      InvalidInputError: as `tables.infer_schema`.
    """
    return sources.table_schema(_expand(data_dir), schema)


def num_classes(
    name: str,
    *,
    data_dir: Path | None = None,
    schema: str | None = None,
    **others: Any,
) -> int:
    """How many classes the labels of a data set are of: the largest one and one more.

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`; only "omniglot", "idx" and "npz" are opened, and
        no more of the last two than the labels of the training images; a table is read.
      schema: of a table, as for `load_arrays`.
      **others: options of `event_shape`, which do not matter here.

    Returns:
      num_classes: int.

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
    elif name not in UNLABELLED:
        labels = sources.stored_labels(name, data_dir=_expand(data_dir))
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


def load_arrays(
    name: str,
    *,
    split: str,
    data_dir: Path | None = None,
    binarization: str = "none",
    seed: int = 0,
    schema: str | None = None,
    image_size: str = "auto",
    color: str = "auto",
    in_unit_interval: bool = True,
    takes_missing: bool = False,
) -> Split:
    """Load one split, and open no other, into memory.

    If a data set has no validation split, it is the end of a fixed permutation of the
    training images: 400 of MNIST's 60,000, 1,345 of Omniglot's 24,345, a tenth of
    CIFAR-10, SVHN and an npz file. A folder of images is split 80 : 10 : 10 by a fixed
    permutation of the names, and a table by one of its rows.

    Args:
      name: one of `DATASETS`.
      split: "train", "validation" or "test".
      data_dir: the folder of TensorFlow Datasets (None is its default), of
        `chardata.mat`, of the IDX files or of the images; the file itself for "npz"
        and "table".
      binarization: "none"; "threshold" (x >= 0.5); "fixed", one Bernoulli draw a
        pixel, a function of `seed` and the split alone.
      seed: integer >= 0, of the fixed draw.
      schema: for "table", the kinds of columns that should not be inferred:
        "column=kind,..." or NAME.json; see `tables.read_schema`.
      image_size: for "images", "height,width": all are resized to this size, which
        need not keep the ratio of the sides. "auto": all must have the same size.
      color: for "images", "gray" or "rgb": all are converted to it. "auto": all must
        have the same kind.
      in_unit_interval: whether values must be in [0, 1], as for Bernoulli and 8-bit
        images, and for anything that is binarized. A table is checked by its schema.
      takes_missing: whether NaN is a missing value.

    Returns:
      split: `Split`; [N, H, W] images gain a channel axis, [N, D] stay flat.

    Raises:
      InvalidInputError: bad argument; missing, damaged or out-of-range data.
    """
    check_choice(name, "name", DATASETS)
    check_choice(split, "split", SPLITS)
    check_choice(binarization, "binarization", BINARIZATIONS)
    check_integer(seed, "seed", 0)
    if binarization == "dynamic":
        raise InvalidInputError(
            "`binarization` must be none, threshold or fixed here: dynamic is drawn at "
            "each presentation, by load_dataset or model(binarization='dynamic'). "
            "Received: binarization='dynamic'"
        )
    images, labels, rows = _load_stored(
        name,
        split,
        _expand(data_dir),
        _options(name, schema, image_size, color),
        in_unit_interval=binarization != "none"
        or (in_unit_interval and name != "table"),
        takes_missing=takes_missing,
    )
    images = _binarize(images[rows], binarization, seed, SPLITS.index(split))
    return Split(images, None if labels is None else labels[rows])


def load_npz(path: Path) -> tuple[Split, dict[str, np.ndarray]]:
    """All rows of an npz file, in the order of the file: train, validation, test.

    Args:
      path: of the file.

    Returns:
      (`Split` of all, whose labels are None unless each part has some; the rows of
      each split, in the order in which `load_arrays` has them).

    Raises:
      InvalidInputError: as `load_arrays`.
    """
    images: list[np.ndarray] = []
    labels: list[np.ndarray | None] = []
    rows: dict[str, np.ndarray] = {}
    for split in SPLITS:
        rules = {"in_unit_interval": False, "takes_missing": True}
        x, y, chosen = _load_stored("npz", split, _expand(path), {}, **rules)
        if split == "validation" and not isinstance(chosen, slice):
            rows[split] = chosen  # of the training images
            continue
        first = sum(len(part) for part in images)
        rows[split] = first + np.arange(len(x))[chosen]
        images.append(x)
        labels.append(y)
    known = [y for y in labels if y is not None]
    all_labels = np.concatenate(known) if len(known) == len(labels) else None
    return Split(np.concatenate(images), all_labels), rows


def binarize(
    x: np.ndarray,
    binarization: str,
    seed: int,
    rows: Mapping[str, np.ndarray],
    *,
    name: str = "x",
    takes_missing: bool = False,
) -> np.ndarray:
    """Rows of a file, binarized as `load_arrays` does it.

    Args:
      x: float [N, *event] in [0, 1].
      binarization: "none", "threshold" or "fixed".
      seed: of the fixed draw.
      rows: the rows of each split, in its order; empty where they are not known: then
        all are drawn as those of a test split are.
      name: what a message calls x.
      takes_missing: whether NaN is a missing value.

    Returns:
      x: `x` itself where nothing is between 0 and 1, else float32.

    Raises:
      InvalidInputError: values that are not in [0, 1].
    """
    batches = (x[start : start + 1000] for start in range(0, len(x), 1000))
    is_float = np.issubdtype(x.dtype, np.floating)
    known = ((batch == 0) | (batch == 1) | np.isnan(batch) for batch in batches)
    if binarization == "none" or not is_float or all(map(np.all, known)):
        return x
    validate_images(x, name=name, takes_missing=takes_missing)
    binary = np.array(x, np.float32)
    for split, chosen in (rows or {"test": np.arange(len(x))}).items():
        stream = SPLITS.index(split)
        binary[chosen] = _binarize(binary[chosen], binarization, seed, stream)
    return binary


def require_labels(loaded: Split, split: str) -> Split:
    """`loaded`, a `Split`, which must have labels for a conditional model.

    Raises:
      InvalidInputError: it has none.
    """
    if loaded.labels is None:
        raise InvalidInputError(
            "`dataset` must have labels in every split for a conditional model. "
            f"Received: no labels of split {split}"
        )
    return loaded


def _options(name, schema, image_size, color):
    """What only some data sets are read by."""
    if name == "table":
        return {"schema": schema}
    return {"image_size": image_size, "color": color} if name == "images" else {}


def _load_stored(name, split, data_dir, options, **rules):
    """Checked images and labels of the array that holds a split, and its rows there."""
    source = sources.READERS[name](split=split, data_dir=data_dir, **options)
    images = readers.to_float(source.images, source.name)
    validate_images(images, name=source.name, **rules)
    images = images[..., np.newaxis] if images.ndim == 3 else images
    expected = event_shape(name, data_dir=data_dir, **options)
    if images.shape[1:] != expected:
        raise InvalidInputError(
            f"`{source.name}` must have the training images' event shape {expected}. "
            f"Received: {images.shape[1:]}"
        )
    labels = source.labels
    if labels is not None:
        labels = readers.checked_labels(labels, len(images))
    return images, labels, source.rows


def _problem_of(images, in_unit_interval):
    """(rule that is broken, what breaks it), or None."""
    if not np.issubdtype(images.dtype, np.floating):
        return "be float", f"dtype={images.dtype}"
    if images.ndim < 2:
        return "have rank >= 2, [N, *event]", f"shape={images.shape}"
    if images.size == 0:
        return "hold at least one example", f"shape={images.shape}"
    lowest, highest = images.min(), images.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = np.argwhere(~np.isfinite(images))
        found = f"{len(bad)} NaN or infinite values, first at index "
        return "be finite", f"{found}{tuple(bad[0].tolist())}"
    if in_unit_interval and (lowest < 0 or highest > 1):
        return "be in [0, 1]", f"{lowest:g} to {highest:g}"
    return None


def _binarize(images, binarization, seed, stream):
    """Threshold, or draw once: image n of a split takes the same bits always."""
    if binarization == "threshold":
        return np.where(np.isnan(images), images, images >= 0.5).astype(np.float32)
    if binarization == "none":
        return images
    key = np.random.SeedSequence([BINARIZE_STREAM, stream, seed])
    generator = np.random.Philox(key)
    drawn = np.empty_like(images)
    for source, target in zip(images, drawn, strict=True):
        bits = generator.random_raw(source.size).reshape(source.shape)
        target[...] = (bits >> 40) * 2.0**-24 < source
    return np.where(np.isnan(images), images, drawn)


def _expand(data_dir):
    """The path with ~ resolved."""
    return None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
