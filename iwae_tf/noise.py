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

import tensorflow as tf

from iwae_tf.errors import InvalidInputError

PHILOX = 1  # `alg` of TensorFlow's stateless random ops
LARGEST_BELOW_ONE = 1.0 - 2.0**-24  # in float32
WORDS_PER_COUNT = 4  # 32-bit words that one step of the Philox counter yields


def make_key(seed):
    """Turns a seed into a generator key.

    Args:
      seed: pair of integers, or an integer tensor [2]; each modulo 2^32.

    Returns:
      key: uint64 [1].

    Raises:
      InvalidInputError: `seed` is not a pair of integers.
    """
    return _pack(tf.bitcast(seed_tensor(seed), tf.uint32))


def seed_tensor(seed):
    """`seed`, a pair of integers or a tensor, as int32 [2]."""
    if not tf.is_tensor(seed):
        seed = check_seed(seed)
    elif not seed.dtype.is_integer or not seed.shape.is_compatible_with([2]):
        raise InvalidInputError(
            "`seed` must be a pair of integers. Received: a tensor of "
            f"shape={tuple(seed.shape)}, dtype={seed.dtype.name}"
        )
    return tf.cast(seed, tf.int32)


def check_seed(seed):
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
    return tuple((word + 2**31) % 2**32 - 2**31 for word in pair)


def fold_in(key, value):
    """Derives an independent key, one for each value.

    Args:
      key: uint64 [1].
      value: integer scalar, such as a training step or the number of a stream.

    Returns:
      key: uint64 [1].
    """
    counter = tf.stack([tf.cast(value, tf.uint64), tf.constant(2**63, tf.uint64)])
    return _pack(_bits(key, counter, [2]))


def uniform(key, first, count, size):
    """Records of uniform numbers in (0, 1).

    Args:
      key: uint64 [1].
      first: integer scalar, index of the first record.
      count: integer scalar, number of records.
      size: Python int, numbers in a record.

    Returns:
      uniforms: float32 [count, size].
    """
    uniforms = _uniforms(key, first, count, _padded(size))[:, :size]
    return tf.minimum(uniforms, LARGEST_BELOW_ONE)


def normal(key, first, count, size):
    """Records of standard normal numbers, by the Box-Muller transform.

    Args:
      key: uint64 [1].
      first: integer scalar, index of the first record.
      count: integer scalar, number of records.
      size: Python int, numbers in a record.

    Returns:
      normals: float32 [count, size].
    """
    width = _padded(size)
    uniforms = _uniforms(key, first, count, width)
    radius = tf.sqrt(-2.0 * tf.math.log(uniforms[:, : width // 2]))
    angle = (2.0 * math.pi) * uniforms[:, width // 2 :]
    pairs = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)
    return pairs[:, :size]


def _padded(size):
    """Record width: whole counts of the generator, so that records never share one."""
    return -(-size // WORDS_PER_COUNT) * WORDS_PER_COUNT


def _uniforms(key, first, count, width):
    """Bits to (bits + 1/2) / 2^32, which float32 rounds into (0, 1]."""
    start = tf.cast(first, tf.int64) * (width // WORDS_PER_COUNT)
    counter = tf.stack([tf.cast(start, tf.uint64), tf.constant(0, tf.uint64)])
    bits = _bits(key, counter, [count, width])
    return (tf.cast(bits, tf.float32) + 0.5) * 2.0**-32


def _bits(key, counter, shape):
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=PHILOX, dtype=tf.uint32
    )


def _pack(words):
    """Two uint32 words as one uint64 key, low word first."""
    low, high = tf.unstack(tf.cast(words, tf.uint64))
    return tf.reshape(low + high * tf.constant(2**32, tf.uint64), [1])
