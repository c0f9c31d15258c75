"""What TensorBoard shows of a run: curves, histograms, pictures, hyperparameters.

Draws for pictures have a seed of their own and steps are never looked at one by one, so
training gives the same numbers with and without.
"""

import contextlib
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import special
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.summary.writer.record_writer import RecordWriter

from iwae_tf import evaluation
from iwae_tf.checks import check_count
from iwae_tf.config.optimizers import last_learning_rate
from iwae_tf.diagnostics.representation import kl_per_unit
from iwae_tf.io.files import write_atomically
from iwae_tf.plots.drawing import GAP, PAIR_GAP, mosaic, most_in_grid, split_rows
from iwae_tf.plots.inputs import as_images, in_range, makes_images

TRAIN, VALIDATION = "train", "validation"  # folders, which TensorBoard calls runs
EVENTS = "events.out.tfevents.*"
TAGS = {  # of the metrics that `fit` logs; others are under "other"
    **{name: f"bounds/{name}" for name in ("bound", "inference_bound", "elbo", "iwae")},
    "log_likelihood": "elbo parts/log_likelihood",
    "kl": "elbo parts/kl",
    "ess": "draws/effective_sample_size",
    "loss": "optimizer/loss",
}
METRICS = {  # of a finished run and its `eval_split`: columns of the table of runs
    "nll": "NLL",
    "bound": "bound",
    "active_units": "active units",
}
MOST_SETS = 20  # of pictures and histograms in a run, beside the first and last
NUM_IMAGES = 500  # for what is averaged over images
NUM_SAMPLES, NUM_PAIRS, NUM_COLUMNS = 64, 20, 10
NUM_SCORED, NUM_DRAWS = 100, 50  # images and draws of the log-weights
LAYER_DRAWS = 10  # of the layers below, for what is told of an upper layer
LEAST_LOG_WEIGHT = -50.0  # relative to the mean weight: those below count as that
RECORD_FRAME = 16  # bytes that a record of an event file has beside its data
PIXELS = 600  # width of a picture, about


class TensorBoard(keras.callbacks.Callback):
    """Writes the metrics of each epoch, and pictures and histograms at some.

    The step is the number of finished epochs. A run that continues first removes what
    was written after the epoch from which it continues.

    Args:
      log_dir: folder; `train` and `validation` in it are runs of TensorBoard.
      images: optional float [N, *event], validation images as they are scored, for
        reconstructions, latents and log-weights. None: those are left out.
      labels: integers [N], for a conditional model alone.
      every: epochs between two sets of pictures and histograms; the first and the last
        planned epoch have one as well. None: for about twenty in all.
      seed: pair of integers, of the pictures' draws.

    Raises:
      InvalidInputError: a bad `every`.
      OSError: the folder could not be written.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        images: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        every: int | None = None,
        seed: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        if every is not None:
            every = check_count(every, "every")
        self._folder = pathlib.Path(log_dir)
        self._images: Any = None if images is None else np.asarray(images)[:NUM_IMAGES]
        self._labels = None if labels is None else np.asarray(labels)[:NUM_IMAGES]
        self._every = every
        self._seed = seed
        self._writers: dict[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self._writers:
            remove_later_events(self._folder, epoch)
            with _told_as_os_error(self._folder):
                for run in (TRAIN, VALIDATION):
                    path = str(self._folder / run)
                    self._writers[run] = tf.summary.create_file_writer(path)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        step, epochs = epoch + 1, self.params["epochs"]
        every = self._every or max(1, epochs // MOST_SETS)
        is_drawn = step in (1, epochs) or step % every == 0
        with _told_as_os_error(self._folder):
            with self._writers[TRAIN].as_default(step):
                self._write_training(logs or {}, is_drawn)
            with self._writers[VALIDATION].as_default(step):
                self._write_validation(logs or {}, is_drawn)
            for writer in self._writers.values():
                writer.flush()

    def _write_training(self, logs, is_drawn):
        _write_metrics({k: v for k, v in logs.items() if not k.startswith("val_")})
        _scalar("optimizer/learning_rate", last_learning_rate(self.model.optimizer))
        for name in ("num_groups", "num_samples"):
            _scalar(f"draws/{name}", getattr(self.model, name))
        for variable in self.model.trainable_variables if is_drawn else ():
            # Not the model's name, which no other run needs to share.
            name = variable.path.partition("/")[2] or variable.path
            tf.summary.histogram(f"weights/{name}", variable.value)

    def _write_validation(self, logs, is_drawn):
        _write_metrics({k[4:]: v for k, v in logs.items() if k.startswith("val_")})
        if is_drawn and self._images is not None:
            if len(self._images) > 1:  # a unit is active by its variance
                self._write_latents()
            tf.summary.histogram("draws/log_weights", self._log_weights())
        if is_drawn and makes_images(self.model):
            try:
                pictures = list(self._pictures())
            except Exception as error:  # which is no reason to end a run
                warnings.warn(f"pictures could not be drawn: {error}", stacklevel=2)
                return
            for tag, canvas in pictures:
                tf.summary.image(tag, canvas[np.newaxis])

    def _write_latents(self):
        images = (self.model, self._images, self._seed)
        settings: dict[str, Any]
        settings = {"labels": self._labels, "num_draws": LAYER_DRAWS}
        statistics = evaluation.layer_statistics(*images, **settings)
        kls = kl_per_unit(*images, **settings)
        counts = evaluation.count_active(statistics)
        for layer, (found, kl, count) in enumerate(zip(statistics, kls, counts), 1):
            tf.summary.histogram(f"latents/posterior_means_z{layer}", found.means)
            tf.summary.histogram(f"latents/kl_of_each_unit_z{layer}", kl)
            _scalar(f"latents/active_units_z{layer}", count)
            _scalar(f"latents/kl_z{layer}", kl.sum())

    def _log_weights(self):
        """log w of some draws of some images, relative to the mean w of each image."""
        x, labels = self._images[:NUM_SCORED], self._first_labels(NUM_SCORED)
        (log_weights,) = self.model.log_weights(
            x, 1, NUM_DRAWS, self._seed, labels=labels
        ).numpy()
        mean = special.logsumexp(log_weights, axis=0) - math.log(NUM_DRAWS)
        return np.maximum(log_weights - mean, LEAST_LOG_WEIGHT)

    def _first_labels(self, count):
        return None if self._labels is None else self._labels[:count]

    def _pictures(self):
        """Yields (tag, canvas)."""
        model, seed = self.model, self._seed
        most_rows, most_columns = most_in_grid(model.event_shape)
        columns, classes = min(math.isqrt(NUM_SAMPLES), most_columns), None
        if model.is_conditional:  # one after the other
            classes = np.arange(NUM_SAMPLES) % model.num_classes
        samples = model.sample(NUM_SAMPLES, seed, labels=classes, mean=True)
        rows = self._rows(samples, columns)[: min(math.isqrt(NUM_SAMPLES), most_rows)]
        yield "pictures/samples", _canvas(rows, [GAP] * len(rows))
        if self._images is None:
            return
        columns = min(NUM_COLUMNS, most_columns)
        pairs = min(NUM_PAIRS // NUM_COLUMNS, max(most_rows // 2, 1))
        originals = self._images[: columns * pairs]
        labels = self._first_labels(len(originals))
        copies = model.reconstruct(originals, seed, labels=labels)
        above_below = zip(self._rows(originals, columns), self._rows(copies, columns))
        rows = [row for pair in above_below for row in pair]
        gaps = [PAIR_GAP, GAP] * (len(rows) // 2)
        yield "pictures/originals_above_reconstructions", _canvas(rows, gaps)

    def _rows(self, images, num_columns):
        """Images or means as rows of pictures."""
        shown = in_range(images, () if self._images is None else self._images)
        return split_rows(as_images(shown, "images"), num_columns)

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the files; also for a `fit` that was broken off."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def write_hyperparameters(
    log_dir: str | os.PathLike[str],
    name: object,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
) -> None:
    """Writes a run's line in TensorBoard's table of hyperparameters, or replaces it.

    Args:
      log_dir: folder of `TensorBoard`.
      name: str, of the run; those of one name share a line.
      config: dict of settings; None is left out, lists are text.
      results: dict with `nll`, `bound` and `active_units`, those of a finished run.

    Raises:
      OSError: the folder could not be written.
    """
    folder = pathlib.Path(log_dir)
    for path in folder.glob(EVENTS):
        path.unlink()
    settings = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in sorted(config.items())
        if value is not None
    }
    known = [key for key in METRICS if key in results]
    metrics = [
        hparams_api.Metric(f"result/{k}", display_name=METRICS[k]) for k in known
    ]
    with _told_as_os_error(folder):
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            hparams_api.hparams_config(list(map(hparams_api.HParam, settings)), metrics)
            hparams_api.hparams(settings, trial_id=str(name))
            for key in known:
                _scalar(f"result/{key}", np.sum(results[key]))
        writer.close()


def remove_later_events(folder: str | os.PathLike[str], step: int) -> None:
    """Takes the events after a step out of all event files below a folder."""
    for path in sorted(pathlib.Path(folder).rglob(EVENTS)):
        records = list(RawEventFileLoader(str(path)).Load())
        kept = [data for data in records if Event.FromString(data).step <= step]
        size = sum(len(data) + RECORD_FRAME for data in kept)
        if size == path.stat().st_size:  # nothing to take out, no half of a record
            continue
        if any(Event.FromString(data).HasField("summary") for data in kept):
            write_atomically(path, functools.partial(_write_records, records=kept))
        else:
            path.unlink()


def _write_records(file, records):
    writer = RecordWriter(file)
    for data in records:
        writer.write(data)


def _write_metrics(logs):
    for name, value in logs.items():
        _scalar(TAGS.get(name, f"other/{name}"), value)


def _scalar(tag, value):
    tf.summary.scalar(tag, float(value))


def _canvas(rows, gaps):
    """Rows of images [H, W, 3] as one picture, without empty places in the last row."""
    rows = [row for row in rows if len(row) == len(rows[0])] or rows
    canvas, _ = mosaic(rows, gaps=gaps[: len(rows)], width=PIXELS)
    return canvas


@contextlib.contextmanager
def _told_as_os_error(folder):
    """Within it, TensorFlow's errors of files are OSErrors, as Python's are."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{folder} could not be written: {error.message}") from error
