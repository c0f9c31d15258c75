"""Splits as streams of batches, `tf.data.Dataset`s that repeat from their seed."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from iwae_tf.checks import check_integer
from iwae_tf.datasets.facts import Path
from iwae_tf.datasets.loading import BINARIZE_STREAM, load_arrays, validate_images

# Two uses of one seed must not see the same random bits; see `BINARIZE_STREAM`.
ORDER_STREAM = 0x6F7264
PHILOX = 1


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    split: str = "train",
    binarization: str = "none",
    batch_size: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    **options: Any,
) -> tf.data.Dataset:
    """Load one split as a `tf.data.Dataset` of (x, label), or of x without labels.

    Args:
      name: one of `DATASETS`.
      data_dir: as for `load_arrays`.
      split: "train", "validation" or "test".
      binarization: as for `load_arrays`, or "dynamic": drawn again in each epoch.
      batch_size: examples in a batch; the last one may be smaller. None: no batches.
      shuffle: whether each iteration has a new order.
      seed: integer >= 0; two data sets of one seed (and one TensorFlow global
        seed) repeat each other's iterations.
      **options: `image_size`, `color`, `schema`, `in_unit_interval` and
        `takes_missing` of `load_arrays`.

    Returns:
      dataset: x float32 [*event] or [batch, *event], label int64 [] or [batch].

    Raises:
      InvalidInputError: as `load_arrays`, and for `batch_size` < 1.
    """
    if batch_size is not None:
        check_integer(batch_size, "batch_size", 1)
    dynamic = binarization == "dynamic"
    drawn = "none" if dynamic else binarization
    arrays = load_arrays(
        name, split=split, data_dir=data_dir, binarization=drawn, seed=seed, **options
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
      images: float [N, *event].
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
    # What its values may be is the model's to say.
    validate_images(images, name="images", in_unit_interval=False, takes_missing=True)
    check_integer(seed, "seed", 0)
    check_integer(epochs, "epochs", 0)
    check_integer(first_epoch, "first_epoch", 0, epochs)
    per_epoch = num_batches(len(images), batch_size)
    check_integer(first_batch, "first_batch", 0, per_epoch)
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
    check_integer(num_examples, "num_examples", 0)
    check_integer(batch_size, "batch_size", 1)
    return -(-num_examples // batch_size)


def _gather(tensors, rows, draw=None):
    """The elements at `rows`, binarised with the random number `draw` if given."""
    x, *label = (tf.gather(tensor, rows) for tensor in tensors)
    if draw is not None:
        key = tf.stack([draw, tf.constant(BINARIZE_STREAM, tf.int64)])
        uniform = tf.random.stateless_uniform(tf.shape(x), key, alg="philox")
        x = tf.cast(uniform < x, x.dtype)
    return (x, *label) if label else x


def _epoch_order(num_examples, seed, epoch):
    """Permutation int32 [N] by sorting random bits, which no TF version changes."""
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[num_examples],
        key=tf.constant([seed ^ ORDER_STREAM], tf.uint64),
        counter=tf.stack([tf.constant(0, tf.uint64), tf.cast(epoch, tf.uint64)]),
        alg=PHILOX,
        dtype=tf.int64,
    )
    return tf.argsort(bits, stable=True)


def _on_host(arrays):
    """Tensors that `map` captures, so that no graph holds the images as constants."""
    with tf.device("CPU:0"):
        return [tf.convert_to_tensor(array) for array in arrays if array is not None]
