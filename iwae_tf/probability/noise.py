"""Counter-based random numbers that are the same in every mode.

Keras' and TFP's samplers give other numbers under XLA than under stock kernels,
and numbers that depend on the shape of the batch. Here a *record* of `size`
numbers is a pure function of (key, record index): raw bits of the Philox 4x32-10
generator at a fixed counter, turned into uniforms or normals. Eager, graph, XLA
and SavedModel agree to rounding, and so does any way of cutting the records into
batches, chunks or replicas.

References:
  Salmon et al., 2011. Parallel random numbers: as easy as 1, 2, 3.
    https://doi.org/10.1145/2063384.2063405
  Box and Muller, 1958. https://doi.org/10.1214/aoms/1177706645
"""

import math
from collections.abc import Iterable, Sequence

import tensorflow as tf

from iwae_tf.errors import InvalidInputError

PHILOX = 1  # `alg` of TensorFlow's stateless random ops
LARGEST_BELOW_ONE = 1.0 - 2.0**-24  # in float32
WORDS_PER_COUNT = 4  # 32-bit words that one step of the Philox counter yields
# Taylor coefficients in the square of an angle, the constant last; the rest is below
# 3e-8 up to pi / 4.
SINE = [1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0]
COSINE = [1 / 40320, -1 / 720, 1 / 24, -1 / 2, 1.0]


def make_key(seed: Sequence[int] | tf.Tensor) -> tf.Tensor:
    """Turns a seed into a generator key.

    Args:
      seed: pair of integers, or an integer tensor [2]; each modulo 2^32.

    Returns:
      key: uint64 [1].

    Raises:
      InvalidInputError: `seed` is not a pair of integers.
    """
    return _pack(tf.bitcast(seed_tensor(seed), tf.uint32))


def seed_tensor(seed: Sequence[int] | tf.Tensor) -> tf.Tensor:
    """`seed`, a pair of integers or a tensor, as int32 [2]."""
    if not tf.is_tensor(seed):
        return tf.cast(check_seed(seed), tf.int32)
    tensor = tf.convert_to_tensor(seed)
    if not tensor.dtype.is_integer or not tensor.shape.is_compatible_with([2]):
        raise InvalidInputError(
            "`seed` must be a pair of integers. Received: a tensor of "
            f"shape={tuple(tensor.shape)}, dtype={tensor.dtype.name}"
        )
    return tf.cast(tensor, tf.int32)


def check_seed(seed: Iterable[int]) -> tuple[int, int]:
    """Returns `seed` as two signed 32-bit ints, or says what is wrong with it."""
    try:
        words = list(seed)
        pair = [int(word) for word in words if int(word) == word]
    except (TypeError, ValueError, OverflowError):
        words, pair = [], []
    if len(pair) != 2 or len(words) != 2:
        raise InvalidInputError(
            f"`seed` must be a pair of integers. Received: seed={seed!r}"
        )
    first, second = ((word + 2**31) % 2**32 - 2**31 for word in pair)
    return first, second


def fold_in(key: tf.Tensor, value: int | tf.Tensor) -> tf.Tensor:
    """Derives an independent key, one for each value.

    Args:
      key: uint64 [1].
      value: integer scalar, such as a training step or the number of a stream.

    Returns:
      key: uint64 [1].
    """
    counter = tf.stack([tf.cast(value, tf.uint64), tf.constant(2**63, tf.uint64)])
    return _pack(_bits(key, counter, [2]))


def uniform(
    key: tf.Tensor, first: int | tf.Tensor, count: int | tf.Tensor, size: int
) -> tf.Tensor:
    """Records of uniform numbers in (0, 1).

    Args:
      key: uint64 [1].
      first: integer scalar, index of the first record.
      count: integer scalar, number of records.
      size: Python int, numbers in a record.

    Returns:
      uniforms: float32 [count, size].
    """
    words = _record_bits(key, first, count, _padded(size))[:, :size]
    return tf.minimum(_to_unit_interval(words), LARGEST_BELOW_ONE)


def normal(
    key: tf.Tensor, first: int | tf.Tensor, count: int | tf.Tensor, size: int
) -> tf.Tensor:
    """Records of standard normal numbers, by the Box-Muller transform.

    Each pair of words makes a radius and a direction: two independent normals. The
    direction is an angle within an eighth of a turn of the diagonal, and a sign for
    each coordinate, so that short polynomials in plain arithmetic are its sine and
    cosine: XLA has no fast ones. Both coordinates are one expression over a broadcast
    axis, which XLA fuses; a concatenation of the two would be three times as slow.

    Args:
      key: uint64 [1].
      first: integer scalar, index of the first record.
      count: integer scalar, number of records.
      size: Python int, numbers in a record.

    Returns:
      normals: float32 [count, size].
    """
    width = _padded(size)
    words = tf.reshape(_record_bits(key, first, count, width), [-1, 2, width // 2])
    radius = tf.sqrt(-tf.math.log(_to_unit_interval(words[:, :1])))
    turns = tf.bitcast(words[:, 1:], tf.int32)
    angle = tf.cast(turns, tf.float32) * (0.5 * math.pi * 2.0**-32)
    square = angle * angle
    sine = angle * tf.math.polyval(SINE, square)
    cosine = tf.math.polyval(COSINE, square)
    # cos and sin of the angle turned onto the diagonal are (cos -+ sin) / sqrt(2), and
    # the missing sqrt(2) of the radius cancels that one.
    coordinate = tf.constant([[[0], [1]]], tf.int32)
    sign = 1 - 2 * (tf.bitwise.right_shift(turns, coordinate) & 1)
    side = tf.cast(2 * coordinate - 1, tf.float32)
    normals = radius * tf.cast(sign, tf.float32) * (cosine + side * sine)
    return tf.reshape(normals, [-1, width])[:, :size]


def _padded(size: int) -> int:
    """Record width: whole counts of the generator, so that records never share one."""
    return -(-size // WORDS_PER_COUNT) * WORDS_PER_COUNT


def _to_unit_interval(words: tf.Tensor) -> tf.Tensor:
    """uint32 to (its upper 31 bits + 1/2) / 2^31, which float32 rounds into (0, 1].

    A signed integer of 31 bits: processors convert those faster than unsigned ones.
    """
    upper = tf.bitcast(
        tf.bitwise.right_shift(words, tf.constant(1, tf.uint32)), tf.int32
    )
    return (tf.cast(upper, tf.float32) + 0.5) * 2.0**-31


def _record_bits(
    key: tf.Tensor, first: int | tf.Tensor, count: int | tf.Tensor, width: int
) -> tf.Tensor:
    """Raw words of consecutive records: uint32 [count, width]."""
    start = tf.cast(first, tf.int64) * (width // WORDS_PER_COUNT)
    counter = tf.stack([tf.cast(start, tf.uint64), tf.constant(0, tf.uint64)])
    return _bits(key, counter, [count, width])


def _bits(
    key: tf.Tensor, counter: tf.Tensor, shape: Sequence[int | tf.Tensor]
) -> tf.Tensor:
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=PHILOX, dtype=tf.uint32
    )


def _pack(words: tf.Tensor) -> tf.Tensor:
    """Two uint32 words as one uint64 key, low word first."""
    low, high = tf.unstack(tf.cast(words, tf.uint64))
    return tf.reshape(low + high * tf.constant(2**32, tf.uint64), [1])
