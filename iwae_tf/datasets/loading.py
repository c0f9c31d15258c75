"""Data sets: splits, checks, binarisation and batching, as arrays or as `tf.data`."""

import functools
import numbers
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice
from iwae_tf.datasets import readers as data_files
from iwae_tf.datasets import sources as data_sources
from iwae_tf.errors import InvalidInputError

Path = str | os.PathLike[str]
DATASETS = tuple(data_sources.READERS)
UNLABELLED = tuple(
    name for name, count in data_sources.NUM_CLASSES.items() if count is None
)
SPLITS = ("train", "validation", "test")
MAX_CLASSES = 10_000  # a one-hot label has so many elements
BINARIZATIONS = ("none", "threshold", "fixed", "dynamic")
# Keep the streams of one seed apart: two uses must not see the same random bits.
_BINARIZE_STREAM, _ORDER_STREAM = 0x62696E, 0x6F7264
_PHILOX = 1


class Split(NamedTuple):
    """One split: `images` float32 [N, *event] in [0, 1], `labels` int64 [N] or None."""

    images: np.ndarray
    labels: np.ndarray | None


def validate_images(images: ArrayLike, *, name: str = "x") -> None:
    """Refuse what no model here can score.

    Args:
      images: float [N, *event], in [0, 1], with N >= 1.
      name: what the message calls them.

    Raises:
      InvalidInputError: names the rule that is broken and the value that breaks it.
    """
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise InvalidInputError(
            f"`{name}` must be float. Received: dtype={images.dtype}"
        )
    if images.ndim < 2:
        raise InvalidInputError(
            f"`{name}` must have rank >= 2, [N, *event]. Received: shape={images.shape}"
        )
    if images.size == 0:
        raise InvalidInputError(
            f"`{name}` must hold at least one example. Received: shape={images.shape}"
        )
    lowest, highest = images.min(), images.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = np.argwhere(~np.isfinite(images))
        raise InvalidInputError(
            f"`{name}` must be finite. Received: {len(bad)} NaN or infinite values, "
            f"first at index {tuple(bad[0].tolist())}"
        )
    if lowest < 0 or highest > 1:
        raise InvalidInputError(
            f"`{name}` must be in [0, 1]. Received: {lowest:g} to {highest:g}"
        )


def event_shape(name: str, *, data_dir: Path | None = None) -> tuple[int, ...]:
    """Shape of one example, read from no more than a header.

    Args:
      name: one of `DATASETS`.
      data_dir: where it lies, as for `load_arrays`; only "idx", "npz" and "images" are
        opened.

    Returns:
      event_shape: a tuple of integers; (28, 28, 1) for a named set, (32, 32, 3) where
        it is in colour.

    Raises:
      InvalidInputError: unknown name; missing or damaged file.
    """
    check_choice(name, "name", DATASETS)
    shape = data_sources.stored_shape(name, data_dir=_expand(data_dir))
    if shape is None:
        return data_sources.IMAGE_SHAPE
    return (*shape, 1) if len(shape) == 2 else tuple(shape)


def num_classes(name: str, *, data_dir: Path | None = None) -> int:
    """How many classes the labels of a data set are of: the largest one and one more.

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`; only "omniglot", "idx" and "npz" are opened, and
        no more of the last two than the labels of the training images.

    Returns:
      num_classes: int.

    Raises:
      InvalidInputError: a set without labels, or labels that are no classes.
    """
    check_choice(name, "name", DATASETS)
    known = data_sources.NUM_CLASSES.get(name)
    if known is not None:
        return known
    labels = None
    if name not in UNLABELLED:
        labels = data_sources.stored_labels(name, data_dir=_expand(data_dir))
    if labels is None:
        raise InvalidInputError(
            f"`dataset` must have labels for a conditional model. Received: {name}, "
            f"which has none"
        )
    count = len(labels) if labels.ndim else 0
    labels = np.asarray(data_files.checked_labels(labels, count))
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
) -> Split:
    """Load one split, and open no other, into memory.

    The validation split is the end of one fixed permutation of the training images
    (400 of MNIST's 60,000, 1,345 of Omniglot's 24,345, a tenth of CIFAR-10, SVHN and
    an npz file's)
    where the set does not bring its own. A folder of images is split 80 : 10 : 10, by
    a permutation of the names that does not change.

    Args:
      name: one of `DATASETS`.
      split: "train", "validation" or "test".
      data_dir: the folder of TensorFlow Datasets (None is its default), of
        `chardata.mat`, of the IDX files or of the images; the file itself for "npz".
      binarization: "none"; "threshold" (x >= 0.5); "fixed", one Bernoulli draw a
        pixel, a function of `seed` and the split alone.
      seed: integer >= 0, of the fixed draw.

    Returns:
      split: `Split`; [N, H, W] images gain a channel axis, [N, D] stay flat.

    Raises:
      InvalidInputError: bad argument; missing, damaged or out-of-range data.
    """
    check_choice(name, "name", DATASETS)
    check_choice(split, "split", SPLITS)
    check_choice(binarization, "binarization", BINARIZATIONS)
    _check_integer("seed", seed, 0)
    if binarization == "dynamic":
        raise InvalidInputError(
            "`binarization` must be none, threshold or fixed here: dynamic is drawn at "
            "each presentation, by load_dataset or model(binarization='dynamic'). "
            "Received: binarization='dynamic'"
        )
    images, labels, rows = _load_stored(name, split, _expand(data_dir))
    images = _binarize(images[rows], binarization, seed, SPLITS.index(split))
    return Split(images, None if labels is None else labels[rows])


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


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    split: str = "train",
    binarization: str = "none",
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Load one split as a `tf.data.Dataset` of (x, label), or of x without labels.

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`.
      split: "train", "validation" or "test".
      binarization: as for `load_arrays`, or "dynamic": drawn anew at each presentation.
      batch_size: examples a batch, the last one ragged; None for single examples.
      shuffle: whether each iteration has a new order.
      seed: integer >= 0; two data sets of one seed (and one TensorFlow global
        seed) repeat each other's iterations.

    Returns:
      dataset: x float32 [*event] or [batch, *event], label int64 [] or [batch].

    Raises:
      InvalidInputError: as `load_arrays`, and for `batch_size` < 1.
    """
    if batch_size is not None:
        _check_integer("batch_size", batch_size, 1)
    dynamic = binarization == "dynamic"
    drawn = "none" if dynamic else binarization
    arrays = load_arrays(
        name, split=split, data_dir=data_dir, binarization=drawn, seed=seed
    )
    dataset = tf.data.Dataset.range(len(arrays.images))
    if shuffle:
        dataset = dataset.shuffle(len(arrays.images), seed=seed)
    if batch_size is not None:
        dataset = dataset.batch(batch_size)
    if dynamic:
        draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        dataset = tf.data.Dataset.zip((dataset, draws))
    gather = functools.partial(_gather, _on_host(arrays))
    return dataset.map(gather, num_parallel_calls=2).prefetch(2)


def batches(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    first_batch: int = 0,
    shuffle: bool = True,
    shards: range = range(1),
    num_shards: int = 1,
) -> tf.data.Dataset:
    """The stream of training batches, epoch after epoch, that can start anywhere.

    The order of an epoch is a function of (seed, epoch) alone, so what a resumed
    run sees is the rest of what the uninterrupted one would have seen.

    Args:
      images: float [N, *event] in [0, 1].
      labels: optional integers [N].
      batch_size: examples a batch; the last one of an epoch may be smaller.
      seed: integer >= 0.
      epochs: where the stream ends; its last epoch is `epochs` - 1.
      first_epoch: epoch to start in.
      first_batch: batch of that epoch to start at.
      shuffle: whether each epoch is permuted.
      shards: which parts of each batch to yield, one after the other.
      num_shards: parts that each batch is cut into, of consecutive rows: one or none
        more in one part than in another, and none at all in some of a small batch.

    Returns:
      dataset: `tf.data.Dataset` of x float32 [batch, *event], or (x, label [batch])
        where there are labels, of known cardinality.

    Raises:
      InvalidInputError: for images or numbers that break these rules.
    """
    validate_images(images, name="images")
    _check_integer("seed", seed, 0)
    _check_integer("epochs", epochs, 0)
    _check_integer("first_epoch", first_epoch, 0, epochs)
    per_epoch = num_batches(len(images), batch_size)
    _check_integer("first_batch", first_batch, 0, per_epoch)
    tensors = _on_host([np.asarray(images, np.float32), labels])

    def epoch_rows(epoch):
        rows = tf.range(len(images))
        if shuffle:
            rows = _epoch_order(len(images), seed, epoch)
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)

    total = max(0, (epochs - first_epoch) * per_epoch - first_batch)
    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_rows)
    dataset = dataset.skip(first_batch)
    if num_shards > 1:
        total *= len(shards)
        dataset = dataset.flat_map(
            lambda rows: tf.data.Dataset.range(shards.start, shards.stop).map(
                lambda shard: _shard(rows, shard, num_shards)
            )
        )
    dataset = dataset.map(lambda rows: _gather(tensors, rows))
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(2)


def _shard(rows, shard, num_shards):
    """One of `num_shards` parts of consecutive rows."""
    size = tf.size(rows, tf.int64)
    return rows[size * shard // num_shards : size * (shard + 1) // num_shards]


def num_batches(num_examples: int, batch_size: int) -> int:
    """Batches an epoch, the ragged last one included."""
    _check_integer("num_examples", num_examples, 0)
    _check_integer("batch_size", batch_size, 1)
    return -(-num_examples // batch_size)


def _load_stored(name, split, data_dir):
    """Checked images and labels of the array that holds a split, and its rows there."""
    source = data_sources.READERS[name](split=split, data_dir=data_dir)
    images = data_files.to_float(source.images, source.name)
    validate_images(images, name=source.name)
    images = images[..., np.newaxis] if images.ndim == 3 else images
    expected = event_shape(name, data_dir=data_dir)
    if images.shape[1:] != expected:
        raise InvalidInputError(
            f"`{source.name}` must have the training images' event shape {expected}. "
            f"Received: {images.shape[1:]}"
        )
    labels = data_files.checked_labels(source.labels, len(images))
    return images, labels, source.rows


def _gather(tensors, rows, draw=None):
    """The elements at `rows`, binarised with the random number `draw` if given."""
    x, *label = (tf.gather(tensor, rows) for tensor in tensors)
    if draw is not None:
        key = tf.stack([draw, tf.constant(_BINARIZE_STREAM, tf.int64)])
        uniform = tf.random.stateless_uniform(tf.shape(x), key, alg="philox")
        x = tf.cast(uniform < x, x.dtype)
    return (x, *label) if label else x


def _epoch_order(num_examples, seed, epoch):
    """Permutation int32 [N] by sorting random bits, which no TF version changes."""
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[num_examples],
        key=tf.constant([seed ^ _ORDER_STREAM], tf.uint64),
        counter=tf.stack([tf.constant(0, tf.uint64), tf.cast(epoch, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.int64,
    )
    return tf.argsort(bits, stable=True)


def _binarize(images, binarization, seed, stream):
    """Threshold, or draw once: image n of a split takes the same bits always."""
    if binarization == "threshold":
        return (images >= 0.5).astype(np.float32)
    if binarization == "none":
        return images
    key = np.random.SeedSequence([_BINARIZE_STREAM, stream, seed])
    generator = np.random.Philox(key)
    drawn = np.empty_like(images)
    for source, target in zip(images, drawn, strict=True):
        bits = generator.random_raw(source.size).reshape(source.shape)
        target[...] = (bits >> 40) * 2.0**-24 < source
    return drawn


def _on_host(arrays):
    """Tensors that `map` captures, so that no graph holds the images as constants."""
    with tf.device("CPU:0"):
        return [tf.convert_to_tensor(array) for array in arrays if array is not None]


def _expand(data_dir):
    """The path with ~ resolved."""
    return None if data_dir is None else os.path.expanduser(os.fspath(data_dir))


def _check_integer(argument, value, lowest, highest=2**63 - 1):
    """An integer within bounds."""
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or not lowest <= value <= highest:
        limit = f" and <= {highest}" if highest < 2**63 - 1 else ""
        raise InvalidInputError(
            f"`{argument}` must be an integer >= {lowest}{limit}. "
            f"Received: {argument}={value!r}"
        )
