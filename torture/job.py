"""A training process that can be told to kill itself at the worst moment.

  python -m torture.job WORKDIR DATA.npz EPOCHS [FAULT N]

FAULT is the place in the N-th write of a file at which the process kills itself:
"half" of a checkpoint is written, "before" or "after" it is moved into place. At its
end the job writes every variable, and the history, to `WORKDIR.WORKER.npz`. Where
TORTURE_DEVICES is set it trains on two devices.
"""

import json
import os
import signal
import sys
import threading

import numpy as np

from iwae_tf.config import default_config
from iwae_tf.errors import WorkerLostError
from iwae_tf.io import files as package_files
from iwae_tf.models import programs
from iwae_tf.runs import callbacks, training
from iwae_tf.runs.checkpoints import variables_of
from iwae_tf.runs.devices import make_distribution
from iwae_tf.runs.workdir import Workdir

STEPS_PER_CALL = 7  # several calls an epoch, that do not divide its steps
SECONDS = 0.05  # between checkpoints


def tiny_config(data, epochs):
    """A run of milliseconds a step, with every state that a run can have."""
    config = default_config()
    config.dataset, config.data_dir, config.binarization = "npz", data, "dynamic"
    config.latent_dims, config.hidden_dims = [2], [[8]]
    config.num_samples, config.batch_size = 3, 20
    config.optimizer, config.weight_average = "muon", 0.9
    config.lr_schedule, config.learning_rate = "cosine", 1e-2
    config.epochs = epochs
    return config


def write_data(path):
    """410 grey images of eight pixels: 369 to train on, 19 steps, the last one of 9."""
    x = np.random.default_rng(0).uniform(size=(430, 8)).astype(np.float32)
    np.savez(path, x_train=x[:410], x_test=x[410:])


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
    devices = os.environ.get("TORTURE_DEVICES")
    kind = "multi_worker" if "TF_CONFIG" in os.environ else "none"
    distribution = make_distribution("mirrored" if devices else kind, devices and 2)
    programs.MOST_STEPS = STEPS_PER_CALL
    callbacks.CHECKPOINT_SECONDS = SECONDS
    set_fault(fault, int(number))
    workdir, stop = Workdir(path), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        trained = training.train(
            tiny_config(data, int(epochs)),
            workdir,
            stop_request=stop,
            distribution=distribution,
        )
    except callbacks.StopTraining:
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
