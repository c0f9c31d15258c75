"""A training process that can be told to kill itself at the worst moment.

  python -m torture.job WORKDIR DATA.npz EPOCHS [FAULT N]

FAULT is the place in the N-th write of a file at which the process kills itself:
"half" of a checkpoint is written, "before" or "after" it is moved into place. At its
end the job writes every variable, and the history, to `WORKDIR.WORKER.npz`. The
variable TORTURE_KIND names one of `KINDS`.
"""

import json
import os
import pathlib
import signal
import sys
import threading

import numpy as np

from iwae_tf.config import default_config
from iwae_tf.errors import Stopped, WorkerLostError
from iwae_tf.io import files as package_files
from iwae_tf.models import programs
from iwae_tf.runs import callbacks, training
from iwae_tf.runs.checkpoints import variables_of
from iwae_tf.runs.devices import make_distribution
from iwae_tf.runs.workdir import Workdir

STEPS_PER_CALL = 7  # several calls an epoch, that do not divide its steps
SECONDS = 0.05  # between checkpoints
PLAIN, MIRRORED = "one layer with Muon", "two devices"
KINDS = {  # of runs, and what is other than in a plain one
    PLAIN: {},
    "two layers with DReG": {
        **{"latent_dims": [3, 2], "hidden_dims": [[8], [6]]},
        "gradient_estimator": "dreg",
    },
    "PIWAE with stages": {
        **{"model": "piwae", "num_groups": 2, "lr_schedule": "constant"},
        "stages": [(2, 2, 1e-2, 1e-2, 1), (3, 4, 1e-3, 1e-4, 2)],
    },
    "a conditional model": {"conditional": True},
    "convolutional networks": {"network": "conv", "conv_channels": [3]},
    "a table with holes": {
        **{"dataset": "table", "likelihood": "mixed", "binarization": "none"},
        "missing": "marginalize",
    },
    "Adam, warm-up, few draws backward": {
        **{"optimizer": "adam", "weight_average": 0.0, "kl_warmup_epochs": 3},
        "backward_samples": 2,
    },
    MIRRORED: {},
}


def tiny_config(data, epochs, kind=PLAIN):
    """A run of milliseconds a step, with every state that a run can have."""
    config = default_config()
    config.dataset, config.data_dir, config.binarization = "npz", data, "dynamic"
    config.latent_dims, config.hidden_dims = [2], [[8]]
    config.num_samples, config.batch_size = 3, 20
    config.optimizer, config.weight_average = "muon", 0.9
    config.lr_schedule, config.learning_rate = "cosine", 1e-2
    config.epochs = epochs
    config.update(KINDS[kind])
    if config.dataset == "table":
        config.data_dir = str(pathlib.Path(data).with_suffix(".csv"))
    config.jit_compile = kind == PLAIN
    return config


def write_data(path):
    """410 grey images of eight pixels: 369 to train on, 19 steps, the last one of 9.

    The same as a table, with holes, beside it.
    """
    x = np.random.default_rng(0).uniform(size=(430, 4, 2)).astype(np.float32)
    y = np.arange(410) % 3
    np.savez(path, x_train=x[:410], x_test=x[410:], y_train=y, y_test=y[:20])
    rows = x.reshape(430, 8).round(3).astype(str)
    rows[rows < "0.2"] = ""
    lines = [",".join(row) for row in ["abcdefgh", *rows]]
    pathlib.Path(path).with_suffix(".csv").write_text("\n".join(lines))


def set_fault(fault, number):
    """Has the process kill itself in the `number`-th write from here on."""
    calls = {"savez": 0, "replace": 0}
    savez, replace = np.savez, os.replace

    def killed(name):
        calls[name] += 1
        return calls[name] == number

    def half_savez(file, **arrays):
        if fault == "half" and killed("savez"):
            file.write(b"PK\x03\x04 half of a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        savez(file, **arrays)

    def killed_replace(source, target):
        is_now = fault in ("before", "after") and killed("replace")
        if is_now and fault == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)

    np.savez, package_files.os.replace = half_savez, killed_replace


def main(path, data, epochs, fault="none", number="1"):
    """Trains to the end, or until killed."""
    kind = os.environ.get("TORTURE_KIND", PLAIN)
    if kind == MIRRORED:
        distribution = make_distribution("mirrored", 2)
    else:
        is_worker = "TF_CONFIG" in os.environ
        distribution = make_distribution("multi_worker" if is_worker else "none", None)
    programs.MOST_STEPS = STEPS_PER_CALL
    callbacks.CHECKPOINT_SECONDS = SECONDS
    set_fault(fault, int(number))
    workdir, stop = Workdir(path), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        trained = training.train(
            tiny_config(data, int(epochs), kind),
            workdir,
            stop_request=stop,
            distribution=distribution,
        )
    except Stopped:
        return 0
    except WorkerLostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    arrays = {name: v.numpy() for name, v in variables_of(trained.model).items()}
    rows = [{k: v for k, v in r.items() if k != "seconds"} for r in trained.history]
    arrays["history"] = np.array(json.dumps(rows))
    np.savez(f"{path}.{distribution.worker}.npz", **arrays)
    workdir.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
