"""The pictures of a finished run."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import evaluation, plots
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.runs.splits import load_eval_split

NUM_ROWS, NUM_COLUMNS, MOST_CLASSES = 10, 10, 20  # of a grid of images; rows of classes
NUM_LATENT = 5000  # points in a latent plot


def draw_figures(
    model: Autoencoder,
    config: ConfigDict,
    history: Sequence[dict[str, Any]],
    folder: pathlib.Path,
) -> list[str | os.PathLike[str]]:
    """Draws a run into `folder`: samples, reconstructions, curves, latents, units.

    Args:
      model: trained model.
      config: its ConfigDict.
      history: list of dicts, one for each epoch.
      folder: pathlib.Path.

    Returns:
      list of the paths.
    """
    seed = (config.eval_seed, 1)
    images, labels = load_eval_split(config, config.eval_split, NUM_LATENT)
    given = labels if config.conditional else None
    statistics = evaluation.layer_statistics(model, images, seed, labels=given)
    names = list(dict.fromkeys(name for row in history for name in row))
    curves = {name: [row.get(name, np.nan) for row in history] for name in names}
    variances = [layer.variances for layer in statistics]
    paths = [
        plots.training_curves(folder / "training_curves.png", curves),
        plots.active_units(folder / "active_units.png", variances),
    ]
    for number, layer in enumerate(statistics, 1):
        suffix = f"_z{number}" if len(statistics) > 1 else ""
        paths.append(plots.latent(folder / f"latent{suffix}.png", layer.means, labels))
    if plots.is_image(images.shape[1:]):
        paths += _draw_images(model, images, given, seed, folder)
    return paths


def _draw_images(model, images, labels, seed, folder):
    """The pictures that only image data has."""
    most_rows, most_columns = plots.most_in_grid(images.shape[1:])
    columns = min(NUM_COLUMNS, most_columns)
    rows, classes = min(NUM_ROWS, most_rows), None
    originals = images[: columns * min(NUM_ROWS // 2, max(most_rows // 2, 1))]
    title = "Draws from the prior: mean of p(x|z)"
    if model.is_conditional:
        rows = min(model.num_classes, MOST_CLASSES, most_rows)
        classes = np.repeat(np.arange(rows), columns)
        title = "Draws from p(z|y), a row a class: mean of p(x|z, y)"
        labels = labels[: len(originals)]
    samples = model.sample(rows * columns, seed, labels=classes, mean=True)
    copies = model.reconstruct(originals, seed, labels=labels)
    samples, copies = (np.clip(means, 0.0, 1.0) for means in (samples, copies))
    path, style = folder / "samples.png", {"num_columns": columns}
    return [
        plots.image_grid(path, samples, title=title, **style),
        plots.reconstructions(
            folder / "reconstructions.png", originals, copies, **style
        ),
    ]
