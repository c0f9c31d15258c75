"""One training run: data, model, schedule, checkpoints, resume."""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.bounds import OBJECTIVES
from iwae_tf.config import build_model, build_optimizer, set_draws, stages
from iwae_tf.config.data import examples_in_words
from iwae_tf.datasets import image_folder
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import save_arrays
from iwae_tf.runs.callbacks import (
    Progress,
    Record,
    ResumeInEpoch,
    Sitting,
)
from iwae_tf.runs.checkpoints import (
    COLUMNS,
    DATA,
    CheckpointStore,
    Restored,
    copy_variables,
    pack,
    unpack,
)
from iwae_tf.runs.devices import Distribution
from iwae_tf.runs.splits import (
    load_eval_split,
    load_examples,
    training_data,
    unseen_classes,
    what_is_few,
)
from iwae_tf.runs.tensorboard import NUM_IMAGES, TensorBoard
from iwae_tf.runs.workdir import Workdir, deciding_settings

# What a step costs beside its draws, in draws: benchmarks/results.md has 0.85 ms at
# K = 1 and 6.68 ms at K = 50.
OTHER_COSTS = 6
PICTURE_SEED = 2  # beside `eval_seed`; 0 and 1 are those of results


class Trained(NamedTuple):
    """A model at the end of its training."""

    model: keras.Model
    history: list  # of dicts, one for each epoch
    seconds: float  # of training, over all sittings


def train(
    config: ConfigDict,
    workdir: Workdir,
    *,
    stop_request: threading.Event,
    distribution: Distribution,
    report: Callable[[str], object] = print,
) -> Trained:
    """Trains the model of a config, from its last checkpoint if there is one.

    Args:
      config: valid ConfigDict.
      workdir: Workdir, new or of the same config.
      stop_request: threading.Event; when it is set, training ends after that step.
      distribution: devices.Distribution, where the job runs.
      report: function of one line.

    Returns:
      Trained; of several devices, with a model that knows nothing of them.

    Raises:
      InvalidInputError: bad data, no intact checkpoint, a workdir that is in use or of
        another config.
      FloatingPointError: the bound or a weight is not finite.
      Stopped: `stop_request` was set; the last checkpoint is on the disk.
      WorkerLostError: another worker of the job is gone.
    """
    examples, validation = (load_examples(config, s) for s in ("train", "validation"))
    steps = datasets.num_batches(len(examples.images), config.batch_size)
    settings = {**deciding_settings(config), DATA: training_data(config)}
    first = None  # the model whose weights are the first
    if config.start_from:
        path = os.path.expanduser(config.start_from)
        first = Workdir(path).load_model("start_from")
    with distribution.watch():
        with distribution.strategy.scope():
            model = compiled_model(config, examples.images, steps, distribution)
            if first is not None:
                copy_weights(first, model)
        if distribution.is_chief:
            workdir.claim(config)
        settings[COLUMNS] = _meaning(model)  # `schema` may be a file, and change
        checkpoints = CheckpointStore(workdir.checkpoints, settings)
        start = _restore(checkpoints, model, distribution, report)
        if start[:2] > (config.epochs, 0):
            raise InvalidInputError(
                "`epochs` must be those that were trained before the run was stopped, "
                f"or more. Received: epochs={config.epochs}, but a checkpoint after "
                f"epoch {start.epoch} and {start.step} steps in {workdir.checkpoints}"
            )
        if distribution.is_chief:
            workdir.begin(config, settings[DATA])
            where = distribution.describe()
            if config.dataset == "images":
                read = config.data_dir, config.image_size, config.color
                report(image_folder.describe(*read))
            if model.schema is not None:
                report(model.schema.describe())
            report(describe(config, len(examples.images), steps, start, where))
            names = (settings[DATA] or {}).get("classes", ())
            for line in (
                *what_is_few(config, len(examples.images)),
                *unseen_classes(examples.labels, model.num_classes, names),
            ):
                report(line)
        sitting = Sitting(
            workdir,
            checkpoints,
            distribution,
            steps,
            stop_request,
            history=start.state.get("history", []),
            seconds=start.state.get("seconds", 0.0),
            patience=config.early_stopping_epochs,
            num_ignored=config.kl_warmup_epochs,
        )
        if start.epoch < config.epochs and not sitting.early_stop():
            with contextlib.ExitStack() as stack:
                run = model, config, sitting, start, examples
                callbacks = _callbacks(*run, report, stack)
                _fit(*run, validation, callbacks)
        else:  # `fit` would have put averaged weights in place, where there are any
            model.optimizer.finalize_variable_values(model.trainable_variables)
        reason = sitting.early_stop()
        if reason and distribution.is_chief and len(sitting.history) < config.epochs:
            report(reason)
    if distribution.num_replicas > 1:
        trained, model = model, compiled_model(config, examples.images, steps)
        copy_variables(trained, model)
    set_draws(model, config)
    return Trained(model, sitting.history, sitting.seconds)


def compiled_model(
    config: ConfigDict,
    images: np.ndarray,
    steps: int,
    distribution: Distribution | None = None,
) -> keras.Model:
    """The model of a config with its optimiser, ready to be trained.

    Args:
      images: float [N, *event_shape], whose mean the output bias starts from.
      steps: of an epoch.
      distribution: None: of this process alone.
    """
    model = build_model(config, mean_image=_mean_of_observed(images))
    model.kl_warmup_steps = config.kl_warmup_epochs * steps
    optimizer = build_optimizer(config, steps_per_epoch=steps)
    one_replica = distribution is None or distribution.num_replicas == 1
    # "auto": not those layers that are faster without.
    jit_compile = "auto" if config.jit_compile and one_replica else False
    model.compile(optimizer, jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    model.stops_at_nonfinite = True
    return model


def _mean_of_observed(images):
    """The mean of each element over the images that have it; 0 where none has."""
    mean = images.mean(axis=0)
    if np.isnan(mean).any():
        mean = np.ma.masked_invalid(images).mean(axis=0).filled(0)
    return mean.astype(images.dtype)


def _restore(checkpoints, model, distribution, report):
    """Where the run is; of several workers the chief's variables go to all."""
    start = Restored(0, 0, {})
    if distribution.is_chief:
        start = checkpoints.restore_latest(model, report) or start
    if distribution.num_workers == 1:
        return start
    file = io.BytesIO()
    np.savez(file, **pack(model, start._asdict()))
    return Restored(
        **unpack(model, io.BytesIO(distribution.broadcast(file.getvalue())))
    )


def _callbacks(model, config, sitting, start, examples, report, stack):
    """What is done beside the steps; `stack` closes what shows it."""
    workdir, steps = sitting.workdir, sitting.steps_per_epoch
    is_chief = sitting.distribution.is_chief
    stage_of = [stage for stage in stages(config) for _ in range(stage.epochs)]

    def keep(epoch, batch):
        (first,) = batches(config, examples, epoch, batch).take(1).as_numpy_iterator()
        x, y, _ = keras.utils.unpack_x_y_sample_weight(first)
        arrays = {"x": x} if y is None else {"x": x, "y": y}
        if is_chief:
            save_arrays(workdir.bad_batch, **arrays, epoch=epoch + 1, batch=batch + 1)
        return workdir.bad_batch

    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: set_draws(model, stage_of[epoch])
        ),
        ResumeInEpoch(start.step, start.state.get("metrics", [])),
    ]
    if is_chief:
        costs = [OTHER_COSTS + _draws_forward_and_back(config, s) for s in stage_of]
        images, labels = load_eval_split(config, "validation", NUM_IMAGES)
        board = TensorBoard(
            workdir.tensorboard,
            images=images,
            labels=labels if config.conditional else None,
            seed=(config.eval_seed, PICTURE_SEED),
        )
        progress = Progress(
            costs[: config.epochs],
            steps_per_epoch=steps,
            first_step=start.epoch * steps + start.step,
            report=report,
        )
        displays = (board, progress)
        callbacks += [stack.enter_context(contextlib.closing(c)) for c in displays]
    return [*callbacks, Record(sitting, keep)]  # the last one: it may end the run


def _draws_forward_and_back(config, stage):
    """M * K, or what few draws backward cost in their place: a third is forward."""
    kept = min(config.backward_samples or stage.num_samples, stage.num_samples)
    if kept == stage.num_samples:
        return stage.num_groups * stage.num_samples
    return stage.num_groups * (stage.num_samples / 3 + kept)


def _fit(model, config, sitting, start, examples, validation, callbacks):
    """`fit` from the epoch and step on at which the run is."""
    distribution, size = sitting.distribution, config.batch_size
    of_training = functools.partial(batches, config, examples, start.epoch, start.step)
    of_validation = functools.partial(
        datasets.batches,
        *validation,
        batch_size=size,
        seed=config.seed,
        epochs=1,
        shuffle=False,
    )
    validation_steps = datasets.num_batches(len(validation.images), size)
    model.fit(
        distribution.dataset(of_training),
        initial_epoch=start.epoch,
        epochs=config.epochs,
        steps_per_epoch=sitting.steps_per_epoch,
        validation_data=distribution.dataset(of_validation),
        validation_steps=validation_steps if distribution.num_replicas > 1 else None,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


def batches(
    config: ConfigDict,
    examples: datasets.Split,
    first_epoch: int,
    first_batch: int,
    **shards: Any,
) -> tf.data.Dataset:
    """The training batches of a run from one of them on; see `datasets.batches`."""
    return datasets.batches(
        *examples,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=config.epochs,
        first_epoch=first_epoch,
        first_batch=first_batch,
        shuffle=config.shuffle,
        **shards,
    )


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Gives a built model the trained weights of another of the same networks.

    Raises:
      InvalidInputError: their networks differ, or what goes in and out of them.
    """
    ours, theirs = target.trainable_variables, source.trainable_variables
    shapes = [[tuple(v.shape) for v in variables] for variables in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise InvalidInputError(
            "`start_from` must be a run of the same networks. Received: weights of "
            f"shapes {shapes[1]}, not {shapes[0]}"
        )
    for mine, other in itertools.zip_longest(_meaning(target), _meaning(source)):
        if mine != other:
            raise InvalidInputError(
                "`start_from` must be a run of the same likelihood and, of a table, of "
                f"the same columns. Received: {other}, not {mine}"
            )
    for variable, value in zip(ours, theirs):
        variable.assign(value)


def _meaning(model):
    """What stands for what in the networks: lines of the likelihood and the columns.

    Place and scale of a column may differ: more rows of the same table change them.
    """
    schema, columns = model.schema, []
    if schema is not None:
        columns = [*schema.columns, *([schema.label] if model.num_classes else [])]
    return [
        f"likelihood {model.likelihood}",
        *(" ".join([f"column {c.name}:", c.kind, *c.categories]) for c in columns),
    ]


def describe(
    config: ConfigDict, num_images: int, steps: int, start: Restored, where: str
) -> str:
    """One line that says what is about to be trained: model, data, bound, devices."""
    groups, draws = (
        " then ".join(map(str, dict.fromkeys(getattr(s, key) for s in stages(config))))
        for key in ("num_groups", "num_samples")
    )
    objective = OBJECTIVES[config.model]
    fields = {field.name: config[field.name] for field in dataclasses.fields(objective)}
    bound = objective(**fields).describe(groups, draws)
    layers = "-".join(map(str, config.latent_dims))
    data = f"{config.dataset}, {num_images:,} {examples_in_words(config.dataset)}"
    few = config.backward_samples
    kept = f", {few} draws a group backward" if few else ""
    resumed = f", resumed after epoch {start.epoch}" if any(start[:2]) else ""
    resumed += f" and {start.step} steps" if start.step else ""
    length = f"{config.epochs} epoch{'s' * (config.epochs != 1)}"
    length += f" of {steps} step{'s' * (steps != 1)}"
    return (
        f"{'conditional ' if config.conditional else ''}{config.model.upper()} "
        f"(latent {layers}, {config.gradient_estimator}{kept}) on "
        f"{data}: maximises {bound}, for {length} on {where}{resumed}"
    )
