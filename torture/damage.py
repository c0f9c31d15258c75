"""Ways in which a file gets damaged."""

import functools
import pickle

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import datasets
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import IWAE
from iwae_tf.networks import MLP
from iwae_tf.runs.workdir import Workdir
from iwae_tf.saved_model import load_saved_model
from iwae_tf.serving import endpoints, score
from iwae_tf.studies.runner import DONE, Run, format_table, run_one


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


def _scores(folder):
    """The whole file of scores, from the half of it that is there."""

    output, x = folder / "s.csv", np.load(folder / "x.npy")
    settings = {"saved_model": folder / "run" / "saved_model", "num_samples": 5}
    try:
        score(x, batch_size=1, output=output, **settings)
        return output.read_bytes()
    finally:
        output.unlink(missing_ok=True)


def _begin_scores(folder):
    """Leaves scores of three rows of four."""
    rows = []

    def stop(batch):
        rows.append(batch)
        if len(rows) == 3:
            raise KeyboardInterrupt

    settings = {"saved_model": folder / "run" / "saved_model", "num_samples": 5}
    try:
        score(np.load(folder / "x.npy"), batch_size=1, output=folder / "s.csv",
              on_batch=stop, **settings)  # fmt: skip
    except KeyboardInterrupt:
        return folder / "s.csv.partial"


def _encode(folder):
    _, signatures = load_saved_model(folder / "run" / "saved_model")
    return signatures["encode"](x=tf.zeros([1, 8, 8, 1]))["loc"].numpy().tobytes()


def _weights(folder):
    weights = Workdir(folder / "run").load_model().get_weights()
    return b"".join(array.tobytes() for array in weights)


def _images(folder):
    found = datasets.load_arrays("npz", split="test", data_dir=folder / "data.npz")
    return found.images.tobytes()


def _results(folder):
    """The table of a sweep whose one run is finished."""
    run = Run("run", Workdir(folder / "run").read_config())
    outcome = run_one(run, folder, report=lambda line: None)
    if outcome.status != DONE:
        raise InvalidInputError(outcome.message)
    return format_table([outcome])


# Where the files of a kind are, and what is read from them. A graph and JSON have no
# checksum: another graph is another program, and another number another number.
CHECKED, UNCHECKED = tuple(DAMAGES), tuple(DAMAGES)[1:2] + tuple(DAMAGES)[3:]
FILES = {
    "model.keras": (lambda f: [f / "run" / "model.keras"], _weights, CHECKED),
    "weights of a SavedModel": (
        lambda f: (f / "run" / "saved_model" / "1" / "variables").iterdir(),
        _encode,
        CHECKED,
    ),
    "graph of a SavedModel": (
        lambda f: [f / "run" / "saved_model" / "1" / "saved_model.pb"],
        _encode,
        UNCHECKED,
    ),
    "half of a score file": (lambda f: [_begin_scores(f)], _scores, CHECKED),
    "data.npz": (lambda f: [f / "data.npz"], _images, CHECKED),
    "results.json": (lambda f: [f / "run" / "results.json"], _results, UNCHECKED),
}


def faults(folder, random, times):
    """Damages the files of each kind: (how many, [what was wrong with one])."""
    count, wrong = 0, []
    endpoints.InProcessScorer = functools.cache(endpoints.InProcessScorer)
    for name, (paths_of, read, damages) in FILES.items():
        paths = sorted(paths_of(folder))
        whole = {path: path.read_bytes() for path in paths}
        intact = read(folder)
        for damage in (damages * times)[:: 1 + (read is _encode)]:
            path = random.choice(paths)
            for each, data in whole.items():
                each.write_bytes(data)
            DAMAGES[damage](path, random)
            try:
                if read(folder) != intact:
                    wrong.append(f"{name} {damage}: another value")
            except InvalidInputError as error:
                if "\n" in str(error):
                    wrong.append(f"{name} {damage}: {error}")
            except Exception as error:
                wrong.append(f"{name} {damage}: {type(error).__name__}: {error}")
            count += 1
        for each, data in whole.items():
            each.write_bytes(data)
    return count, wrong
