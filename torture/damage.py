"""Ways in which a file gets damaged."""

import pickle

import keras

from iwae_tf.models import IWAE
from iwae_tf.networks import MLP


def _flip(path, random):
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def _truncate(path, random):
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data))])


def _overwrite(path, random):
    data = bytearray(path.read_bytes())
    first = random.randrange(len(data))
    data[first : first + 64] = random.randbytes(len(data[first : first + 64]))
    path.write_bytes(data)


def _empty(path, random):
    path.write_bytes(b"")


def _pickle(path, random):
    path.write_bytes(pickle.dumps({"weights": [random.random()]}))


DAMAGES = {
    "with one bit flipped": _flip,
    "cut off": _truncate,
    "with 64 bytes overwritten": _overwrite,
    "empty": _empty,
    "replaced by a pickle": _pickle,
}


def make_model():
    """A small compiled model."""
    model = IWAE(MLP([5], (4,), seed=0), MLP([5], (6,), seed=1), num_samples=2)
    model.build((None, 6))
    model.compile(keras.optimizers.Adam(), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model
