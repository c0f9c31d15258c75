"""Keras callbacks of the training script."""

import csv
import io
import math
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from iwae_tf.config import Stage, set_draws
from iwae_tf.io import terminal
from iwae_tf.io.files import write_atomically
from iwae_tf.runs.checkpoints import CheckpointStore

CHECKPOINT_SECONDS = 60.0  # between two checkpoints within an epoch
EXPECT_SECONDS = 2.0  # of steps, from which the time of all is foretold


class RunStages(keras.callbacks.Callback):
    """Sets the draws, M and K, of the stage that each epoch belongs to.

    Args:
      stages: list of config.Stage.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        super().__init__()
        self._stages = [stage for stage in stages for _ in range(stage.epochs)]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        set_draws(self.model, self._stages[epoch])


class ResumeInEpoch(keras.callbacks.Callback):
    """Has the first epoch go on after the steps that an earlier sitting took of it.

    Keras counts those steps, but the model does not take them again. Comes after
    callbacks that have the steps compiled anew.

    Args:
      step: int, steps that were taken.
      metrics: list of what the model's metric variables held then.
    """

    counts_batches = True

    def __init__(self, step: int, metrics: Sequence[Any]) -> None:
        super().__init__()
        self._step = step
        self._metrics = metrics

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self._step:
            return
        for variable, value in zip(_metric_variables(self.model), self._metrics):
            variable.assign(value)
        self.model.steps_done = self._step
        take_steps = self.model.train_function
        calls, self._step = self._step // self.model.steps_per_execution, 0

        def skip_steps(iterator):
            nonlocal calls
            calls -= 1
            if calls <= 0:
                self.model.train_function = take_steps
            return self.model.get_metrics_result()

        if calls:
            self.model.train_function = skip_steps


class Record(keras.callbacks.Callback):
    """After each epoch the history to `metrics.csv`; checkpoints then and between.

    Once `stop_request` is set a checkpoint is written after the step, and StopTraining
    raised.

    Args:
      path: of the CSV file, rewritten whole.
      checkpoints: CheckpointStore.
      rows: list of dicts, the epochs that are done; grows.
      seconds: float, what the run took so far.
      steps_per_epoch: int.
      stop_request: threading.Event.
      distribution: distribution.Distribution; its chief writes.
      interval: seconds between two checkpoints of one epoch.
    """

    counts_batches = True

    def __init__(
        self,
        path: pathlib.Path,
        checkpoints: CheckpointStore,
        rows: list[dict[str, Any]],
        seconds: float,
        *,
        steps_per_epoch: int,
        stop_request: threading.Event,
        distribution: Any,
        interval: float | None = None,
    ) -> None:
        super().__init__()
        self.rows = rows
        self.seconds = seconds
        self._path = path
        self._checkpoints = checkpoints
        self.steps_per_epoch = steps_per_epoch
        self.writes = distribution.is_chief
        self._stop_request = stop_request
        self._distribution = distribution
        self._interval = CHECKPOINT_SECONDS if interval is None else interval

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._counted = self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if int(self.model.train_steps.numpy()) % self._distribution.agree_steps:
            return
        is_due = time.monotonic() - self._saved >= self._interval
        is_due, is_over = self._distribution.agree(
            [is_due, self._stop_request.is_set()]
        )
        if (is_due or is_over) and self._save_in_epoch() and is_over:
            raise StopTraining

    def _save_in_epoch(self):
        """Writes a checkpoint between two steps of an epoch.

        Not before its last call: batches shorter than all that a resumed run has seen
        would be summed up in another order.

        Returns:
          whether there is one: otherwise that of the end of the epoch comes next.
        """
        epoch, step = divmod(int(self.model.train_steps.numpy()), self.steps_per_epoch)
        left = self.steps_per_epoch - step
        if step == 0 or left <= self.model.steps_per_execution:
            return False
        metrics = [v.numpy().tolist() for v in _metric_variables(self.model)]
        self._save(epoch, {"metrics": metrics}, step)
        return True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._count_seconds()
        row = {
            "epoch": epoch + 1,
            "num_groups": self.model.num_groups,
            "num_samples": self.model.num_samples,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": self.seconds,
        }
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append(row | logs)
        if self.writes:
            write_atomically(self._path, self._write)
        self._save(epoch + 1, {})
        if self._distribution.agree([self._stop_request.is_set()])[0]:
            raise StopTraining

    def _save(self, epoch, state, step=0):
        self._count_seconds()
        state = {"history": self.rows, "seconds": self.seconds, **state}
        try:
            if self.writes:
                self._checkpoints.save(epoch, self.model, state, step=step)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} after step {int(self.model.train_steps.numpy())}; "
                f"{_what_to_try(self._checkpoints)}"
            ) from error
        self._saved = time.monotonic()

    def _count_seconds(self):
        now = time.monotonic()
        self.seconds += now - self._counted
        self._counted = now

    def _write(self, file):
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        file.write(text.getvalue().encode())


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the step whose loss is NaN or infinite, and keeps its batch.

    The model must have `stops_at_nonfinite`, so that no step follows in the same call.

    Args:
      keep: function of (epoch, batch) that saves the images of a step; returns where.
      checkpoints: CheckpointStore.
      steps_per_epoch: int.
    """

    counts_batches = True

    def __init__(
        self,
        keep: Callable[[int, int], object],
        checkpoints: CheckpointStore,
        *,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self._keep = keep
        self._checkpoints = checkpoints
        self._steps_per_epoch = steps_per_epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        values = {name: float(logs[name]) for name in ("bound", "loss")}
        name = next((n for n, v in values.items() if not math.isfinite(v)), None)
        if name is None:
            return
        step = int(self.model.train_steps.numpy())
        epoch, batch = divmod(step - 1, self._steps_per_epoch)
        raise FloatingPointError(
            f"the {name} is {values[name]} at step {step}, batch {batch + 1} of epoch "
            f"{epoch + 1}; its images are in {self._keep(epoch, batch)}; "
            f"{_what_to_try(self._checkpoints)}"
        )


def _metric_variables(model):
    """What the metrics of an epoch are summed up in, each once."""
    return list({id(v): v for v in model.metrics_variables}.values())


def _what_to_try(checkpoints):
    """The end of a message about numbers that are not finite."""
    newest = checkpoints.newest
    kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint yet"
    return (
        f"{kept}; try a lower learning_rate, a larger adam_epsilon or precision "
        "float32, in a new workdir"
    )


class Progress(keras.callbacks.Callback):
    """How far the whole run is, with the bound, and how long it is expected to take.

    Args:
      costs: sequence of float, of a step in each epoch of the run, in any unit.
      steps_per_epoch: int.
      first_step: steps that are done.
      report: function of one line, told once how long the training takes.
    """

    counts_batches = True

    def __init__(
        self,
        costs: Sequence[float],
        *,
        steps_per_epoch: int,
        first_step: int,
        report: Callable[[str], object] | None = print,
    ) -> None:
        super().__init__()
        self._costs = costs
        self._steps = steps_per_epoch
        self._done = first_step
        self._report = report
        self._bar: Any = None
        self._is_compiled = False  # by the first call, which says nothing of the others
        self._timed = 0.0  # seconds of the calls after it
        self._timed_work = 0.0

    def _work(self, step):
        """What the first `step` steps cost."""
        epochs, steps = divmod(step, self._steps)
        whole = sum(self._costs[:epochs]) * self._steps
        return whole + (steps * self._costs[epochs] if steps else 0)

    def on_train_begin(self, logs: Any = None) -> None:
        self._bar = terminal.progress(
            self._work(len(self._costs) * self._steps),
            initial=self._work(self._done),
            label="training",
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = epoch * self._steps
        self._bar.show(f"epoch {epoch + 1}/{len(self._costs)}")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begun = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self._start + min(batch + 1, self._steps)
        if step <= self._done:  # counted, but taken by an earlier sitting
            return
        self._done, work = step, self._work(step) - self._bar.n
        self._bar.update(work)
        if self._is_compiled:
            self._timed += time.monotonic() - self._begun
            self._timed_work += work
        self._is_compiled = True
        if self._timed >= EXPECT_SECONDS and self._bar.n < self._bar.total:
            self._expect()

    def _expect(self):
        """Tells once what the steps so far promise."""
        if self._report is None:
            return
        work = self._bar.total - self._bar.n
        left = terminal.duration(work * self._timed / self._timed_work)
        with self._bar.above():
            self._report(f"training is expected to take {left} more")
        self._report = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = {name: logs[name] for name in ("bound", "val_bound") if name in logs}
        self._bar.show(values={name: float(value) for name, value in shown.items()})

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar's line; also for a `fit` that was broken off."""
        if self._bar is not None:
            self._bar.close()


class StopTraining(Exception):
    """Raised out of `fit` when the run was asked to stop."""
