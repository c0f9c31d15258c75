"""Keras callbacks of the training script."""

import csv
import io
import math
import time

import keras
import tqdm

from iwae_tf.files import write_atomically


class RunStages(keras.callbacks.Callback):
    """Sets the number of draws of the stage that each epoch belongs to.

    Args:
      stages: sequence with `epochs` and `num_samples`.
    """

    def __init__(self, stages):
        super().__init__()
        self._num_samples = [s.num_samples for s in stages for _ in range(s.epochs)]

    def on_epoch_begin(self, epoch, logs=None):
        num_samples = self._num_samples[epoch]
        if self.model.num_samples != num_samples:
            self.model.num_samples = num_samples


class Record(keras.callbacks.Callback):
    """After each epoch: the history to `metrics.csv`, then a checkpoint.

    Args:
      path: of the CSV file, rewritten whole.
      checkpoints: CheckpointStore.
      rows: list of dicts, the epochs that are done; grows.
      seconds: float, what they took.
    """

    def __init__(self, path, checkpoints, rows, seconds):
        super().__init__()
        self.rows = rows
        self.seconds = seconds
        self._path = path
        self._checkpoints = checkpoints

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds += time.monotonic() - self._start
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(logs["bound"]):
            raise FloatingPointError(
                f"the bound is {logs['bound']} after epoch {epoch + 1}; the last "
                "checkpoint is kept: try a lower learning_rate"
            )
        row = {
            "epoch": epoch + 1,
            "num_samples": self.model.num_samples,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": self.seconds,
        }
        self.rows.append(row | logs)
        write_atomically(self._path, self._write)
        state = {"history": self.rows, "seconds": self.seconds}
        self._checkpoints.save(epoch + 1, self.model, state)

    def _write(self, file):
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        file.write(text.getvalue().encode())


class Progress(keras.callbacks.Callback):
    """One progress bar over the whole run, with the bound and the time left.

    Args:
      epochs: of the whole run.
      steps_per_epoch: int.
      first_epoch: epochs that are done.
    """

    counts_batches = True

    def __init__(self, *, epochs, steps_per_epoch, first_epoch):
        super().__init__()
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._done = first_epoch * steps_per_epoch
        self._bar = None

    def on_train_begin(self, logs=None):
        self._bar = tqdm.tqdm(
            total=self._epochs * self._steps,
            initial=self._done,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._start = epoch * self._steps
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_end(self, batch, logs=None):
        done = self._start + min(batch + 1, self._steps)
        self._bar.update(done - self._bar.n)

    def on_epoch_end(self, epoch, logs=None):
        shown = {name: logs[name] for name in ("bound", "val_bound") if name in logs}
        self._bar.set_postfix({n: f"{float(v):.2f}" for n, v in shown.items()})

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Ends the bar's line; also for a `fit` that was broken off."""
        if self._bar is not None:
            self._bar.close()


class StopOnRequest(keras.callbacks.Callback):
    """Stops training after the steps in which `request` was set.

    Args:
      request: threading.Event.
    """

    counts_batches = True

    def __init__(self, request):
        super().__init__()
        self._request = request

    def on_train_batch_end(self, batch, logs=None):
        if self._request.is_set():
            raise StopTraining


class StopTraining(Exception):
    """Raised out of `fit` when the run was asked to stop."""
