"""What a trained model is worth on a split: what `results.json` holds."""

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from iwae_tf import datasets, evaluation
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.classes import class_log_likelihoods
from iwae_tf.io import terminal
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.runs.splits import load_eval_split
from iwae_tf.saved_model import refusal
from iwae_tf.versions import library_versions

DEAD_UNIT_IMAGES = 1000  # enough for a paired difference
CLASS_IMAGES, CLASS_SAMPLES = 1000, 500  # at most, of what is scored under each class


def score(
    score_all: Callable[[Callable], object], num_images: int, num_samples: int
) -> tuple[evaluation.LogLikelihood | None, bool]:
    """Scores images batch by batch under a progress bar.

    Ctrl-C ends it early: what was done is kept.

    Args:
      score_all: function of `on_batch` that scores all images and hands each
        finished LogLikelihood to `on_batch`.
      num_images: int.
      num_samples: int, draws an image, for the bar.

    Returns:
      (LogLikelihood of the images that were done or None, whether that is all).
    """
    done = []
    with terminal.Progress(num_images, label=f"{num_samples:,} samples") as bar:

        def on_batch(result):
            done.append(result)
            bar.update(len(result.estimate))
            nll = -np.mean(np.concatenate([r.estimate for r in done]))
            bar.show(values={"nll": nll})

        with contextlib.suppress(KeyboardInterrupt):
            score_all(on_batch)
    count = sum(len(result.estimate) for result in done)
    return (evaluation.concatenate(done) if done else None), count == num_images


def evaluate_model(
    model: Autoencoder,
    config: ConfigDict,
    *,
    split: str,
    num_samples: int,
    limit: int | None = None,
    score: Callable[..., object] | None = None,
) -> tuple[dict[str, Any] | None, bool]:
    """Everything in `results.json` but the training.

    Args:
      model: trained model.
      config: its ConfigDict.
      split: "train", "validation" or "test".
      num_samples: draws an image.
      limit: optional int, the first images only.
      score: optional function that stands for `evaluation.log_likelihood` of the model.

    Returns:
      (results: dict or None where not one image was scored, whether all were).
    """
    seed = (config.eval_seed, 0)
    score = score or functools.partial(evaluation.log_likelihood, model)

    def score_images(images, labels, on_batch):
        score(images, num_samples, seed, labels=labels, on_batch=on_batch)

    def describe(images, labels, result):
        size = config.batch_size
        batches = datasets.batches(
            images, labels, batch_size=size, seed=0, epochs=1, shuffle=False
        )
        logs = model.evaluate(batches, verbose=0, return_dict=True)
        statistics = evaluation.layer_statistics(model, images, seed, labels=labels)
        found = {
            **{name: float(logs[name]) for name in ("bound", "iwae", "elbo")},
            "active_units": evaluation.count_active(statistics),
            "latent_dims": list(config.latent_dims),
            "without_dead_units": _without_dead_units(
                model, images, labels, result, statistics, num_samples, seed
            ),
        }
        if config.conditional:
            found["classes"] = _by_class(model, images, labels, num_samples, seed)
        return found

    return _evaluate(config, split, num_samples, limit, score_images, describe)


def evaluate_signature(
    log_likelihood: tf.types.experimental.ConcreteFunction,
    config: ConfigDict,
    *,
    split: str,
    num_samples: int,
    limit: int | None = None,
) -> tuple[dict[str, Any] | None, bool]:
    """The NLL of a split by a SavedModel's `error_bars` signature.

    Each call has a seed of its own, so that all images have independent noise.

    Args:
      log_likelihood: the signature function, or that of `log_likelihood`, which has
        no jackknife error.
      config: ConfigDict that names the data.
      split: "train", "validation" or "test".
      num_samples: draws an image.
      limit: optional int, the first images only.

    Returns:
      (results: dict or None where not one image was scored, whether all were).

    Raises:
      InvalidInputError: images of another shape, labels that are no class of the model.
    """
    batch_size = max(1, evaluation.SCORES_PER_CALL // num_samples)
    event_shape = tuple(log_likelihood.structured_input_signature[1]["x"].shape[1:])

    def score_images(images, labels, on_batch):
        if images.shape[1:] != event_shape:
            raise InvalidInputError(
                f"`dataset` must have images of the model's shape {event_shape}. "
                f"Received: dataset={config.dataset}, of shape {images.shape[1:]}"
            )
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            given = {} if labels is None else {"y": tf.constant(labels[rows], tf.int32)}
            try:
                outputs = log_likelihood(
                    x=tf.constant(images[rows]),
                    num_samples=tf.constant(num_samples),
                    seed=tf.constant([config.eval_seed, first]),
                    **given,
                )
            except tf.errors.InvalidArgumentError as error:
                raise InvalidInputError(
                    "`dataset` must be one that the model takes. Received: "
                    f"dataset={config.dataset}, {refusal(error.message)}"
                ) from error
            estimate = outputs["log_likelihood"].numpy()
            outputs = {"jackknife_error": np.full_like(estimate, np.nan), **outputs}
            errors = (outputs[name] for name in evaluation.LogLikelihood._fields[1:])
            on_batch(evaluation.LogLikelihood(estimate, *map(np.asarray, errors)))

    return _evaluate(config, split, num_samples, limit, score_images)


def _evaluate(config, split, num_samples, limit, score_images, describe=None):
    """Scores a split; what `describe` adds needs all of it."""
    start = time.monotonic()
    images, labels = load_eval_split(config, split, limit)
    labels = labels if config.conditional else None
    result, is_complete = score(
        functools.partial(score_images, images, labels), len(images), num_samples
    )
    if result is None:
        return None, False
    summary = evaluation.summarize(result)
    results = {"split": split, "num_samples": num_samples, **summary._asdict()}
    if config.likelihood == "discretized_logistic":
        results["bits_per_dim"] = results["nll"] / (images[0].size * math.log(2))
    results["data_sha256"] = hashlib.sha256(images.tobytes()).hexdigest()
    if is_complete and describe:
        results |= describe(images, labels, result)
    results["evaluation_seconds"] = time.monotonic() - start
    results |= {"config": config.to_dict(), "versions": library_versions()}
    return results, is_complete


def summary_fields(results: dict[str, Any]) -> dict[str, str]:
    """Name to text of what matters in `results.json`, for `terminal.print_fields`."""
    error = results["jackknife_error"]
    if not math.isfinite(error):  # an older export
        error = results["standard_error"]
    fields = {
        f"{results['split']} NLL": f"{results['nll']:.2f} nats "
        f"(+- {error:.3f} of {results['num_samples']:,} samples, "
        f"+- {results['data_standard_error'] or float('nan'):.2f} "
        f"of {results['num_examples']:,} images)"
    }
    if "bits_per_dim" in results:
        fields["bits per dimension"] = f"{results['bits_per_dim']:.3f}"
    if "bound" in results:
        fields["bound"] = f"{results['bound']:.2f} nats"
        fields["active units"] = " + ".join(
            f"{active} of {dim}"
            for active, dim in zip(results["active_units"], results["latent_dims"])
        )
    if "classes" in results:
        classes = results["classes"]
        fields["by class"] = (
            f"{classes['accuracy']:.1%} right by Bayes' rule, NLL of x alone "
            f"{classes['nll']:.2f} nats ({classes['num_samples']:,} samples, "
            f"{classes['num_examples']:,} images)"
        )
    return fields


def _by_class(model, images, labels, num_samples, seed):
    """The classes taken as equally frequent: NLL of x alone, and Bayes' rule."""
    images, num_samples = images[:CLASS_IMAGES], min(num_samples, CLASS_SAMPLES)
    found = class_log_likelihoods(model, images, num_samples, seed)
    guessed = np.argmax(found.posterior(), axis=1)
    return {
        "nll": float(-np.mean(found.log_marginal())),
        "accuracy": float(np.mean(guessed == labels[: len(images)])),
        "num_samples": num_samples,
        "num_examples": len(images),
    }


def _without_dead_units(model, images, labels, result, statistics, num_samples, seed):
    """NLL with the dead units out of p and q, beside that of the same images."""
    images = images[:DEAD_UNIT_IMAGES]
    without = evaluation.log_likelihood(
        model,
        images,
        num_samples,
        seed,
        labels=None if labels is None else labels[:DEAD_UNIT_IMAGES],
        masks=evaluation.active_masks(statistics),
    )
    difference = result.estimate[: len(images)] - without.estimate
    return {
        "nll": float(-np.mean(without.estimate)),
        "nll_all_units": float(-np.mean(result.estimate[: len(images)])),
        "difference_standard_error": float(
            np.std(difference, ddof=min(1, len(images) - 1)) / np.sqrt(len(images))
        ),
        "num_examples": len(images),
    }
