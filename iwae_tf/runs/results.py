"""What a trained model is worth on a split: what `results.json` holds."""

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets, evaluation
from iwae_tf.config.data import examples_in_words
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.classes import class_log_likelihoods
from iwae_tf.io import terminal
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.runs.splits import load_eval_split
from iwae_tf.versions import library_versions

SHARED = ("data_standard_error", "num_examples")  # of both proposals
DEAD_UNIT_IMAGES = 1000  # enough for a paired difference
FEW_UNRELIABLE = 0.05  # share of images whose Pareto k is above 0.7
CLASS_IMAGES, CLASS_SAMPLES = 1000, 500  # at most, of what is scored under each class


def score(
    score_all: Callable[..., object], num_images: int, num_samples: int
) -> tuple[evaluation.LogLikelihood | None, bool]:
    """Scores images batch by batch under a progress bar.

    Ctrl-C ends it early: what was done is kept.

    Args:
      score_all: function of the keyword `on_batch`, which it calls with the
        LogLikelihood of each batch.
      num_samples: draws an image, for the bar.

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
            score_all(on_batch=on_batch)
    count = sum(len(result.estimate) for result in done)
    return (evaluation.concatenate(done) if done else None), count == num_images


def evaluate(
    config: ConfigDict,
    scorer: Callable[..., object],
    *,
    split: str,
    num_samples: int,
    limit: int | None = None,
    proposal: str = "encoder",
    model: Autoencoder | None = None,
) -> tuple[dict[str, Any] | None, bool]:
    """Everything in `results.json` but the training.

    Args:
      config: ConfigDict of the model, or one that names other data.
      scorer: function of (x, num_samples, seed, *, labels, on_batch, proposal), as
        `evaluation.log_likelihood` of a model.
      split: "train", "validation" or "test".
      num_samples: draws an image.
      limit: optional int, the first images only.
      proposal: "encoder", "refined" or "both"; what refined proposals find has names
        that begin with `refined_`.
      model: optional trained model, for what scores do not tell. That needs all images.

    Returns:
      (results: dict or None where not one image was scored, whether all were).
    """
    start, seed = time.monotonic(), (config.eval_seed, 0)
    images, labels = load_eval_split(config, split, limit)
    if model is not None:
        check_shape(images, model.event_shape, config.dataset)
    labels = labels if config.conditional else None
    results, result = {"split": split, "num_samples": num_samples}, None
    for name in each_of(proposal):
        score_all = functools.partial(
            scorer, images, num_samples, seed, labels=labels, proposal=name
        )
        found, is_complete = score(score_all, len(images), num_samples)
        if found is None:
            break
        summary = evaluation.summarize(found)._asdict()
        if config.likelihood == "discretized_logistic":
            # Of the elements that the NLL is of: those that are not missing.
            observed = ~np.isnan(images[: len(found.estimate)])
            nats = summary["nll"] / (np.mean(observed) * images[0].size)
            summary["bits_per_dim"] = float(nats / math.log(2))
        if name == "encoder":
            results |= summary
            result = found
        else:
            for key in SHARED:
                results.setdefault(key, summary[key])
            results |= {f"refined_{key}": value for key, value in summary.items()}
            results["refined_failures"] = int(np.sum(found.is_refined == 0))
        if not is_complete:
            break
    if not results.keys() & {"nll", "refined_nll"}:
        return None, False
    results["data_sha256"] = hashlib.sha256(images.tobytes()).hexdigest()
    if is_complete and model is not None:
        results |= _describe(model, config, images, labels, num_samples, seed, result)
    results["evaluation_seconds"] = time.monotonic() - start
    results |= {"config": config.to_dict(), "versions": library_versions()}
    return results, is_complete


def each_of(proposal: str) -> tuple[str, ...]:
    """The proposals that `evaluate` scores with, in turn."""
    return ("encoder", "refined") if proposal == "both" else (proposal,)


def check_shape(images: np.ndarray, event_shape: Sequence[int], dataset: str) -> None:
    """Raises InvalidInputError where images are not of a model's shape."""
    if images.shape[1:] != tuple(event_shape):
        raise InvalidInputError(
            f"`dataset` must have images of the model's shape {tuple(event_shape)}. "
            f"Received: dataset={dataset}, of shape {images.shape[1:]}"
        )


def _describe(model, config, images, labels, num_samples, seed, result):
    """What the model itself tells of the images."""
    size = config.batch_size
    batches = datasets.batches(
        images, labels, batch_size=size, seed=0, epochs=1, shuffle=False
    )
    logs = model.evaluate(batches, verbose=0, return_dict=True)
    names = ("bound", "iwae", "elbo")
    found: dict[str, Any] = {name: float(logs[name]) for name in names}
    if len(images) > 1:  # a unit is active by its variance
        statistics = evaluation.layer_statistics(model, images, seed, labels=labels)
        found["active_units"] = evaluation.count_active(statistics)
        found["latent_dims"] = list(config.latent_dims)
        if result is not None:
            found["without_dead_units"] = _without_dead_units(
                model, images, labels, result, statistics, num_samples, seed
            )
    if config.conditional:
        found["classes"] = _by_class(model, images, labels, num_samples, seed)
    return found


def mean_in_nats(
    mean: float, found: dict[str, Any], prefix: str = "", what: str = "images"
) -> str:
    """A mean with its two errors, and a caveat where the first of them is too small.

    Args:
      mean: in nats, of any sign.
      found: fields of a `Summary` and `num_samples`.
      prefix: of the names of fields of the estimate.
      what: the mean is of, in words.
    """
    error = found[f"{prefix}jackknife_error"]
    is_small = found[f"{prefix}unreliable"] > FEW_UNRELIABLE
    of_data = found["data_standard_error"] or math.nan
    return (
        f"{mean:.2f} nats ({f'+- {error:.3f} ' * math.isfinite(error)}"
        f"of {found['num_samples']:,} samples"
        f"{', too small because k is high' * is_small}, "
        f"{f'+- {of_data:.2f} ' * math.isfinite(of_data)}"
        f"of {found['num_examples']:,} {what})"
    )


def summary_fields(results: dict[str, Any]) -> dict[str, str]:
    """Name to text of what matters in `results.json`, for `terminal.print_fields`."""
    fields, what = {}, examples_in_words(results["config"]["dataset"])
    for prefix, name in (("", "NLL"), ("refined_", "refined NLL")):
        if f"{prefix}nll" not in results:
            continue
        fields[f"{results['split']} {name}"] = mean_in_nats(
            results[f"{prefix}nll"], results, prefix, what
        )
        words = prefix.replace("_", " ")
        low, high = results[f"{prefix}interval"]
        if math.isfinite(low) and math.isfinite(high):  # not of a few draws
            fields[f"{words}95 % interval"] = (
                f"{low:.2f} to {high:.2f} nats for these {what}, bias included"
            )
        unreliable = results[f"{prefix}unreliable"]
        if math.isfinite(unreliable):
            size = results[f"{prefix}effective_sample_size_quantiles"][1]
            fields[f"{words}Pareto k"] = (
                f"above 0.7 for {unreliable:.1%} of the {what}, median effective "
                f"sample size {size:,.0f}"
            )
        if f"{prefix}bits_per_dim" in results:
            bits = results[f"{prefix}bits_per_dim"]
            fields[f"{words}bits per dimension"] = f"{bits:.3f}"
    if "bound" in results:
        fields["bound"] = f"{results['bound']:.2f} nats"
    if "active_units" in results:
        fields["active units"] = " + ".join(
            f"{active} of {dim}"
            for active, dim in zip(results["active_units"], results["latent_dims"])
        )
    if "classes" in results:
        classes = results["classes"]
        fields["by class"] = (
            f"{classes['accuracy']:.1%} right by Bayes' rule, NLL of x alone "
            f"{classes['nll']:.2f} nats ({classes['num_samples']:,} samples, "
            f"{classes['num_examples']:,} {what})"
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
    estimate = without = result.estimate[: len(images)]
    masks = evaluation.active_masks(statistics)
    if not all(np.all(mask.active) for mask in masks):
        without = evaluation.log_likelihood(
            model,
            images,
            num_samples,
            seed,
            labels=None if labels is None else labels[:DEAD_UNIT_IMAGES],
            masks=masks,
        ).estimate
    difference = estimate - without
    return {
        "nll": float(-np.mean(without)),
        "nll_all_units": float(-np.mean(estimate)),
        "difference_standard_error": float(
            np.std(difference, ddof=min(1, len(images) - 1)) / np.sqrt(len(images))
        ),
        "num_examples": len(images),
    }
