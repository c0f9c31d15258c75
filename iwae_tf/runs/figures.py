"""The pictures of a finished run."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import evaluation, plots
from iwae_tf.evaluation.traversals import interpolate, manifold
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.runs.splits import load_eval_split

NUM_ROWS, NUM_COLUMNS, MOST_CLASSES = 10, 10, 20  # of a grid of images; rows of classes
NUM_LATENT = 5000  # points in a latent plot
PLANE_ROWS = 15  # of the grid over a latent space of two units


def draw_figures(
    model: Autoencoder,
    config: ConfigDict,
    history: Sequence[dict[str, Any]],
    folder: pathlib.Path,
) -> None:
    """Draws a run into `folder`.

    Samples, reconstructions, lines between images, curves, latents, units, and of one
    layer of two units what each place of the plane decodes to. `history` has a dict for
    each epoch.
    """
    seed = (config.eval_seed, 1)
    images, labels = load_eval_split(config, config.eval_split, NUM_LATENT)
    given = labels if config.conditional else None
    names = list(dict.fromkeys(name for row in history for name in row))
    curves = {name: [row.get(name, np.nan) for row in history] for name in names}
    plots.training_curves(folder / "training_curves.png", curves)
    if len(images) > 1:  # a unit is active by its variance
        layers = evaluation.layer_statistics(model, images, seed, labels=given)
        variances = [layer.variances for layer in layers]
        plots.active_units(folder / "active_units.png", variances)
        for number, layer in enumerate(layers, 1):
            suffix = f"_z{number}" if len(layers) > 1 else ""
            plots.latent(folder / f"latent{suffix}.png", layer.means, labels)
    if plots.makes_images(model):
        _draw_images(model, images, given, seed, folder)


def _draw_images(model, images, labels, seed, folder):
    """The pictures that only image data has."""
    most_rows, most_columns = plots.most_in_grid(images.shape[1:])
    columns = min(NUM_COLUMNS, most_columns)
    rows, classes = min(NUM_ROWS, most_rows), None

    def grid(name, means, title, num_columns=columns):
        path, means = folder / f"{name}.png", plots.in_range(means, images)
        plots.image_grid(path, means, title=title, num_columns=num_columns)

    originals = images[: columns * min(NUM_ROWS // 2, max(most_rows // 2, 1))]
    title, given = "Draws from the prior: mean of p(x|z)", None
    if model.is_conditional:
        rows = min(model.num_classes, MOST_CLASSES, most_rows)
        classes = np.repeat(np.arange(rows), columns)
        title = "Draws from p(z|y), a row a class: mean of p(x|z, y)"
        given = labels[: len(originals)]
    samples = model.sample(rows * columns, seed, labels=classes, mean=True)
    copies = model.reconstruct(originals, seed, labels=given)
    path = folder / "reconstructions.png"
    shown = plots.in_range(originals, images), plots.in_range(copies, images)
    plots.reconstructions(path, *shown, num_columns=columns)
    grid("samples", samples, title)
    first, second = _pairs(len(images), labels, min(NUM_ROWS, most_rows))
    if len(first) and columns > 1:
        ends = images[first], images[second]
        given = None if labels is None else labels[first]
        lines = interpolate(model, *ends, columns, labels=given)
        lines = lines.reshape(-1, *images.shape[1:])
        title = "Between two images in each row: mean of p(x|z)"
        grid("interpolations", lines, title)
    if list(model.latent_dims) == [2]:
        num_rows = min(PLANE_ROWS, most_rows, most_columns)
        title = "The latent plane, equal steps of p(z): mean of p(x|z)"
        if model.is_conditional:
            title += ", class 0"
        plane = manifold(model, num_rows, labels=0 if model.is_conditional else None)
        grid("manifold", plane, title, num_rows)


def _pairs(num_images, labels, most):
    """Numbers of images that lines start from and end at; both of one class."""
    order = np.arange(num_images)
    if labels is not None:
        order = np.argsort(labels, kind="stable")
    first, second = order[: num_images // 2 * 2].reshape(-1, 2).T
    if labels is not None:
        is_same = labels[first] == labels[second]
        first, second = first[is_same], second[is_same]
    chosen = np.linspace(0, len(first) - 1, min(most, len(first))).astype(int)
    return first[chosen], second[chosen]
