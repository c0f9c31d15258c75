"""Keras callbacks of the training script."""

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from iwae_tf.config.optimizers import last_learning_rate
from iwae_tf.errors import Stopped
from iwae_tf.io import terminal
from iwae_tf.runs.checkpoints import CheckpointStore
from iwae_tf.runs.devices import Distribution
from iwae_tf.runs.workdir import Workdir

CHECKPOINT_SECONDS = 60.0  # between two checkpoints within an epoch
AGREE_STEPS = 16  # of several workers, between two agreements, for which all wait
EXPECT_SECONDS = 2.0  # of steps, after which the time of the rest is estimated


class ResumeInEpoch(keras.callbacks.Callback):
    """Continues the first epoch after the steps that were taken before the resume.

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


@dataclasses.dataclass
class Sitting:
    """One process' part of a run: what its callbacks share.

    Args:
      workdir: Workdir.
      checkpoints: CheckpointStore.
      distribution: devices.Distribution; its chief writes.
      steps_per_epoch: int.
      stop_request: threading.Event; once set, the run ends after the step.
      history: list of dicts, the epochs that are done; grows.
      seconds: float, what the run took so far.
      patience: epochs without a better validation bound that end the run; 0: none do.
      num_ignored: first epochs whose validation bounds do not count.
    """

    workdir: Workdir
    checkpoints: CheckpointStore
    distribution: Distribution
    steps_per_epoch: int
    stop_request: threading.Event
    history: list[dict[str, Any]]
    seconds: float
    patience: int = 0
    num_ignored: int = 0

    def early_stop(self) -> str | None:
        """Why the run ends before its last epoch, or None where it goes on.

        A function of the history alone, which is in the checkpoint. Bounds of other
        numbers of draws do not compare, so that a stage begins anew.
        """
        rows = self.history[self.num_ignored :]
        if not self.patience or not rows:
            return None
        stages = itertools.groupby(rows, lambda r: (r["num_groups"], r["num_samples"]))
        *_, rows = (list(stage) for _, stage in stages)
        best = max(rows, key=lambda row: np.nan_to_num(row["val_bound"], nan=-np.inf))
        if rows[-1]["epoch"] - best["epoch"] < self.patience:
            return None
        return (
            f"stopped early, after epoch {rows[-1]['epoch']}, and kept its weights: "
            f"for {self.patience} epochs the validation bound was not above that of "
            f"epoch {best['epoch']}, {best['val_bound']:.2f}"
        )

    def what_to_try(self) -> str:
        """The end of a message about numbers that are not finite."""
        newest = self.checkpoints.newest
        kept = (
            f"the last good checkpoint is {newest}" if newest else "no checkpoint yet"
        )
        advice = (
            "lower rates (learning_rate or stages), a larger adam_epsilon or precision "
            "float32"
        )
        return f"{kept}; try {advice}, in a new workdir"


class Record(keras.callbacks.Callback):
    """After each epoch the history to `metrics.csv`; checkpoints then and between.

    Once a stop is requested, a checkpoint is written after the step, and Stopped
    raised. The sitting's `early_stop` ends `fit` after an epoch. FloatingPointError is
    raised at the step whose loss is NaN or infinite. The model must have
    `stops_at_nonfinite`, so that no step follows in the same call.

    Args:
      sitting: Sitting, whose `history` and `seconds` it keeps up to date.
      keep: function of (epoch, batch) that saves the images of a step; returns where.
    """

    counts_batches = True

    def __init__(self, sitting: Sitting, keep: Callable[[int, int], object]) -> None:
        super().__init__()
        self._sitting, self._keep = sitting, keep
        self._distribution = sitting.distribution

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._counted = self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.train_steps.numpy())
        for name in ("bound", "loss"):
            if not math.isfinite(logs[name]):
                epoch, batch = divmod(step - 1, self._sitting.steps_per_epoch)
                raise FloatingPointError(
                    f"the {name} is {float(logs[name])} at step {step}, batch "
                    f"{batch + 1} of epoch {epoch + 1}; its images are in "
                    f"{self._keep(epoch, batch)}; {self._sitting.what_to_try()}"
                )
        if self._distribution.num_workers > 1 and step % AGREE_STEPS:
            return
        is_due = time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        flags = [is_due, self._sitting.stop_request.is_set()]
        is_due, is_over = self._distribution.agree(flags)
        if (is_due or is_over) and self._save_in_epoch() and is_over:
            raise Stopped

    def _save_in_epoch(self):
        """Writes a checkpoint between two steps of an epoch.

        Not before its last call: batches shorter than all that a resumed run has seen
        would be summed up in another order.

        Returns:
          whether there is one: otherwise that of the end of the epoch comes next.
        """
        steps = self._sitting.steps_per_epoch
        epoch, step = divmod(int(self.model.train_steps.numpy()), steps)
        if step == 0 or steps - step <= self.model.steps_per_execution:
            return False
        metrics = [v.numpy().tolist() for v in _metric_variables(self.model)]
        self._save(epoch, step, metrics=metrics)
        return True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._count_seconds()
        row = {
            "epoch": epoch + 1,
            "num_groups": self.model.num_groups,
            "num_samples": self.model.num_samples,
            "learning_rate": last_learning_rate(self.model.optimizer),
            "seconds": self._sitting.seconds,
        }
        row |= {name: float(value) for name, value in (logs or {}).items()}
        self._sitting.history.append(row)
        if self._distribution.is_chief:
            self._sitting.workdir.write_metrics(self._sitting.history)
        self._save(epoch + 1)
        flags = [self._sitting.stop_request.is_set(), bool(self._sitting.early_stop())]
        is_over, is_early = self._distribution.agree(flags)
        if is_over:
            raise Stopped
        self.model.stop_training |= is_early

    def _save(self, epoch, step=0, **state):
        self._count_seconds()
        state |= {"history": self._sitting.history, "seconds": self._sitting.seconds}
        try:
            if self._distribution.is_chief:
                self._sitting.checkpoints.save(epoch, self.model, state, step=step)
        except FloatingPointError as error:
            where = f"after step {int(self.model.train_steps.numpy())}"
            raise FloatingPointError(
                f"{error} {where}; {self._sitting.what_to_try()}"
            ) from error
        self._saved = time.monotonic()

    def _count_seconds(self):
        now = time.monotonic()
        self._sitting.seconds += now - self._counted
        self._counted = now


def _metric_variables(model):
    """What the metrics of an epoch are summed up in, each once."""
    return list({id(v): v for v in model.metrics_variables}.values())


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
        self._epochs, self._steps = len(costs), steps_per_epoch
        self._ends = np.cumsum([0.0, *costs]) * steps_per_epoch  # cost of whole epochs
        self._done = first_step
        self._report = report
        self._bar: Any = None
        self._is_compiled = False  # by the first call, which says nothing of the others
        self._timed = self._timed_work = 0.0  # seconds of the calls after it

    def _work(self, step):
        """What the first `step` steps cost."""
        return float(np.interp(step / self._steps, range(self._epochs + 1), self._ends))

    def on_train_begin(self, logs: Any = None) -> None:
        total, done = float(self._ends[-1]), self._work(self._done)
        self._bar = terminal.Progress(total, initial=done, label="training")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = epoch * self._steps
        self._bar.show(f"epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begun = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self._start + min(batch + 1, self._steps)
        if step <= self._done:  # counted, but taken by an earlier sitting
            return
        self._done, work = step, self._work(step) - self._bar.task.completed
        self._bar.update(work)
        if self._is_compiled:
            self._timed += time.monotonic() - self._begun
            self._timed_work += work
        self._is_compiled = True
        left = self._bar.task.total - self._bar.task.completed
        if self._report and self._timed >= EXPECT_SECONDS and left > 0:
            expected = terminal.duration(left * self._timed / self._timed_work)
            self._report(f"training is expected to take {expected} more")
            self._report = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = {name: logs[name] for name in ("bound", "val_bound") if name in logs}
        self._bar.show(values={name: float(value) for name, value in shown.items()})

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()
