"""One split of a data set as arrays: found, checked, and binarised once."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice, check_integer
from iwae_tf.datasets import readers, sources, table_files
from iwae_tf.datasets.facts import DATASETS, Path, event_shape, expand
from iwae_tf.errors import InvalidInputError

SPLITS = ("train", "validation", "test")
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
        expand(data_dir),
        _options(name, schema, image_size, color),
        in_unit_interval=binarization != "none"
        or (in_unit_interval and name != "table"),
        takes_missing=takes_missing,
    )
    images = _binarize(images[rows], binarization, seed, SPLITS.index(split))
    return Split(images, None if labels is None else labels[rows])


def load_npz(
    path: Path, *, is_table: bool = False
) -> tuple[Split, dict[str, np.ndarray]]:
    """All rows of an npz file, in the order of the file: train, validation, test.

    Args:
      path: of the file.
      is_table: whether they are rows of a table, whose numbers stay as they are.

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
        if is_table:
            _, x, y, chosen = sources.read_npz(split=split, data_dir=expand(path))
            table_files.as_table(x)  # which refuses what is none
            if images and x.shape[1:] != images[0].shape[1:]:
                raise InvalidInputError(
                    f"`x_{split}` must have as many columns as x_train. "
                    f"Received: {x.shape[1]}, not {images[0].shape[1]}"
                )
        else:
            rules = {"in_unit_interval": False, "takes_missing": True}
            x, y, chosen = _load_stored("npz", split, expand(path), {}, **rules)
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
    first_row: int = 0,
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
      first_row: place of the first one among all rows, where their splits are not
        known.
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
        drawn = _binarize(binary[chosen], binarization, seed, stream, first_row)
        binary[chosen] = drawn
    return binary


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
        hint = ". With missing=marginalize a model takes NaN" * bool(np.isnan(lowest))
        return "be finite", f"{found}{tuple(bad[0].tolist())}{hint}"
    if in_unit_interval and (lowest < 0 or highest > 1):
        return "be in [0, 1]", f"{lowest:g} to {highest:g}"
    return None


def _binarize(images, binarization, seed, stream, first=0):
    """Threshold, or draw once: image n of a split takes the same bits always.

    The images are those from number `first` on.
    """
    if binarization == "threshold":
        return np.where(np.isnan(images), images, images >= 0.5).astype(np.float32)
    if binarization == "none":
        return images
    key = np.random.SeedSequence([BINARIZE_STREAM, stream, seed])
    generator = np.random.Philox(key)
    if first:  # it counts in fours
        skipped = first * images[0].size
        generator.advance(skipped // 4)
        generator.random_raw(skipped % 4)
    drawn = np.empty_like(images)
    for source, target in zip(images, drawn, strict=True):
        bits = generator.random_raw(source.size).reshape(source.shape)
        target[...] = (bits >> 40) * 2.0**-24 < source
    return np.where(np.isnan(images), images, drawn)
