"""One training run: data, model, schedule, checkpoints, resume."""

import contextlib
import functools
from typing import NamedTuple

import keras

from iwae_tf import datasets
from iwae_tf.callbacks import (
    Progress,
    Record,
    ResumeInEpoch,
    RunStages,
    StopOnNonFinite,
    StopOnRequest,
)
from iwae_tf.checkpoints import CheckpointStore, Restored
from iwae_tf.config import build_model, build_optimizer, stages
from iwae_tf.errors import InvalidInputError
from iwae_tf.workdir import load


class Trained(NamedTuple):
    """A model at the end of its training."""

    model: keras.Model
    history: list  # of dicts, one an epoch
    seconds: float  # of training, over all sittings


def train(config, workdir, *, stop_request, report=print):
    """Trains the model of a config, from its last checkpoint if there is one.

    Args:
      config: valid ConfigDict.
      workdir: Workdir, new or of the same config.
      stop_request: threading.Event; when it is set, training ends after that step.
      report: function of one line.

    Returns:
      Trained.

    Raises:
      InvalidInputError: bad data, no intact checkpoint, a workdir that is in use or of
        another config.
      FloatingPointError: the bound or a weight is not finite.
      StopTraining: `stop_request` was set; the last checkpoint is on the disk.
    """
    images = load_images(config, "train")
    validation = load_images(config, "validation")
    steps = datasets.num_batches(len(images), config.batch_size)
    model = build_model(config, mean_image=images.mean(axis=0))
    optimizer = build_optimizer(config, steps_per_epoch=steps)
    model.compile(optimizer, jit_compile=config.jit_compile)
    model.stops_at_nonfinite = True
    if config.start_from:
        copy_weights(load(config.start_from), model)
    workdir.claim(config)
    checkpoints = CheckpointStore(workdir.checkpoints)
    start = checkpoints.restore_latest(model, report) or Restored(0, 0, {})
    report(describe(config, len(images), steps, start))
    record = Record(
        workdir.metrics,
        checkpoints,
        start.state.get("history", []),
        start.state.get("seconds", 0.0),
        steps_per_epoch=steps,
    )
    if start.epoch < config.epochs:
        progress = Progress(
            epochs=config.epochs,
            steps_per_epoch=steps,
            first_step=start.epoch * steps + start.step,
        )
        callbacks = [
            RunStages(stages(config)),
            ResumeInEpoch(start.step, start.state.get("metrics", [])),
            StopOnNonFinite(
                workdir.bad_batch,
                functools.partial(_batch_at, config, images),
                checkpoints,
                steps_per_epoch=steps,
            ),
            record,
            keras.callbacks.TensorBoard(workdir.tensorboard, write_graph=False),
            progress,
            StopOnRequest(stop_request, record),
        ]
        with contextlib.closing(progress):
            _fit(model, config, images, validation, start, callbacks)
    else:  # `fit` would have put the averaged weights in place, where there are any
        optimizer.finalize_variable_values(model.trainable_variables)
    model.num_samples = config.num_samples
    return Trained(model, record.rows, record.seconds)


def _fit(model, config, images, validation, start, callbacks):
    """`fit` from the epoch and step on at which the run is."""
    model.fit(
        _batches(config, images, start.epoch, start.step),
        initial_epoch=start.epoch,
        epochs=config.epochs,
        steps_per_epoch=datasets.num_batches(len(images), config.batch_size),
        validation_data=datasets.batches(
            validation,
            batch_size=config.batch_size,
            seed=config.seed,
            epochs=1,
            shuffle=False,
        ),
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def _batches(config, images, first_epoch, first_batch):
    """The training batches from one of them on."""
    return datasets.batches(
        images,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=config.epochs,
        first_epoch=first_epoch,
        first_batch=first_batch,
        shuffle=config.shuffle,
    )


def _batch_at(config, images, epoch, batch):
    """The images of one training step: float32 [batch, *event]."""
    return next(iter(_batches(config, images, epoch, batch))).numpy()


def copy_weights(source, target):
    """Gives a model the trained weights of another of the same networks.

    Args:
      source: a built model of this package.
      target: a built model of this package.

    Raises:
      InvalidInputError: their networks differ.
    """
    ours, theirs = target.trainable_variables, source.trainable_variables
    shapes = [[tuple(v.shape) for v in variables] for variables in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise InvalidInputError(
            "`start_from` must be a run of the same networks. Received: weights of "
            f"shapes {shapes[1]}, not {shapes[0]}"
        )
    for variable, value in zip(ours, theirs):
        variable.assign(value)


def load_images(config, split):
    """Images of a split as training sees them: dynamic binarization stays grey."""
    drawn = "none" if config.binarization == "dynamic" else config.binarization
    return datasets.load_arrays(
        config.dataset,
        split=split,
        data_dir=config.data_dir,
        binarization=drawn,
        seed=config.seed,
    ).images


def describe(config, num_images, steps, start):
    """One line that says what is about to be trained."""
    draws = f"K={config.num_samples}"
    if config.num_groups > 1:
        draws = f"M={config.num_groups}, {draws}"
    layers = "-".join(map(str, config.latent_dims))
    resumed = f", resumed after epoch {start.epoch}" if any(start[:2]) else ""
    resumed += f" and {start.step} steps" if start.step else ""
    return (
        f"{config.model} ({draws}, latent {layers}, {config.gradient_estimator}) on "
        f"{config.dataset}: {num_images} images, {config.epochs} epochs of {steps} "
        f"steps{resumed}"
    )
