"""One training run: data, model, schedule, checkpoints, resume."""

import contextlib
from typing import NamedTuple

import keras

from iwae_tf import datasets
from iwae_tf.callbacks import (
    Progress,
    Record,
    RunStages,
    StopOnRequest,
    StopTraining,
)
from iwae_tf.checkpoints import CheckpointStore
from iwae_tf.config import build_model, build_optimizer, stages


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
      InvalidInputError: bad data, no intact checkpoint, a workdir of another config.
      FloatingPointError: the bound is not finite.
      StopTraining: `stop_request` was set; the last checkpoint is on the disk.
    """
    images = load_images(config, "train")
    validation = load_images(config, "validation")
    steps = datasets.num_batches(len(images), config.batch_size)
    model = build_model(config, mean_image=images.mean(axis=0))
    optimizer = build_optimizer(config, steps_per_epoch=steps)
    model.compile(optimizer, jit_compile=config.jit_compile)
    workdir.claim(config)
    checkpoints = CheckpointStore(workdir.checkpoints)
    epoch, state = checkpoints.restore_latest(model, report) or (0, {})
    history, seconds = state.get("history", []), state.get("seconds", 0.0)
    report(describe(config, len(images), steps, epoch))
    if epoch < config.epochs:
        record = Record(workdir.metrics, checkpoints, history, seconds)
        progress = Progress(
            epochs=config.epochs, steps_per_epoch=steps, first_epoch=epoch
        )
        callbacks = [
            RunStages(stages(config)),
            record,
            keras.callbacks.TensorBoard(workdir.tensorboard, write_graph=False),
            progress,
            StopOnRequest(stop_request),
        ]
        with contextlib.closing(progress):
            _fit(model, config, images, validation, epoch, callbacks)
        if stop_request.is_set():  # in the last validation
            raise StopTraining
        seconds = record.seconds
    else:  # `fit` would have put the averaged weights in place, where there are any
        optimizer.finalize_variable_values(model.trainable_variables)
    model.num_samples = config.num_samples
    return Trained(model, history, seconds)


def _fit(model, config, images, validation, first_epoch, callbacks):
    """`fit` from the start of an epoch on."""
    settings = {"batch_size": config.batch_size, "seed": config.seed}
    model.fit(
        datasets.batches(
            images,
            epochs=config.epochs,
            first_epoch=first_epoch,
            shuffle=config.shuffle,
            **settings,
        ),
        initial_epoch=first_epoch,
        epochs=config.epochs,
        steps_per_epoch=datasets.num_batches(len(images), config.batch_size),
        validation_data=datasets.batches(
            validation, epochs=1, shuffle=False, **settings
        ),
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


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


def describe(config, num_images, steps, epoch):
    """One line that says what is about to be trained."""
    draws = f"K={config.num_samples}"
    if config.num_groups > 1:
        draws = f"M={config.num_groups}, {draws}"
    layers = "-".join(map(str, config.latent_dims))
    resumed = f", resumed after epoch {epoch}" if epoch else ""
    return (
        f"{config.model} ({draws}, latent {layers}, {config.gradient_estimator}) on "
        f"{config.dataset}: {num_images} images, {config.epochs} epochs of {steps} "
        f"steps{resumed}"
    )
