"""Pictures of data and models: NumPy arrays in, one PNG file out.

Every function takes the file's path first and returns it. The file appears whole or
not at all, and its folder is created where it is missing.
"""

import math
import os
import pathlib
import uuid

import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iwae_tf.errors import InvalidInputError

__all__ = [
    "active_units",
    "image_grid",
    "latent",
    "principal_components",
    "reconstructions",
    "training_curves",
]

_DPI = 150
_WIDTH = 1000  # Pixels.
_MAX_SIDE = 20_000  # Pixels; the renderer refuses 2**16.
_MAX_SCALE = 8
_GAP = 2
_PAIR_GAP = 12
_GAP_GREY = 160
_TEXT_SIZE = 9
_SMALL_TEXT_SIZE = 8
_FONT = "DejaVu Sans"  # Ships with Matplotlib.
_DARK = "#333333"
_GREY = "#8a8a8a"
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4499"

# Ten colours that stay apart under the common colour-vision deficiencies (Petroff,
# 2021, https://arxiv.org/abs/2107.02270); markers tell every further ten apart.
_CATEGORIES = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
_MARKERS = ("o", "^", "s", "D", "v", "P")

_PANELS = (
    ("bound (nats)", ("bound", "inference_bound", "iwae", "elbo")),
    ("KL (nats)", ("kl",)),
    ("effective sample\nsize (draws)", ("ess",)),
)
_SERIES = {
    "bound": ("bound", _BLUE),
    "inference_bound": ("inference bound", _PURPLE),
    "iwae": ("IWAE", _GREEN),
    "elbo": ("ELBO", _ORANGE),
    "kl": ("KL", _BLUE),
    "ess": ("ESS", _BLUE),
}


def image_grid(path, images, *, num_columns=None, title=None):
    """Draws images as one grid, row by row, each pixel a whole number of dots.

    Args:
      path: where to write; ends in .png.
      images: [N, H, W, 1], [N, H, W, 3], [N, H, W] or flat square [N, H * H], in
        [0, 1]; 0 is black. Means of a Normal likelihood may have to be clipped first.
      num_columns: images in a row; None makes the grid about square.
      title: a line of text above the grid, or None.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: the images cannot be drawn, or another argument is wrong.
      OSError: the file cannot be written.
    """
    _check_path(path)
    images = _as_images(images, "images")
    if num_columns is None:
        num_columns = math.ceil(math.sqrt(len(images)))
    _check_columns(num_columns)
    rows = _split_rows(images, num_columns)
    canvas, _ = _mosaic(rows, gaps=[_GAP] * len(rows), width=_WIDTH)
    canvas = np.pad(canvas, ((0, _GAP), (0, 0), (0, 0)), constant_values=_GAP_GREY)
    return _save(_picture_figure(canvas, title=title), path)


def reconstructions(path, originals, reconstructions, *, num_columns=10):
    """Draws each image above its reconstruction, in labelled pairs of rows.

    Args:
      path: where to write; ends in .png.
      originals: images as in `image_grid`, [N, *event].
      reconstructions: their reconstructions, [N, *event].
      num_columns: pairs beside each other.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: the images cannot be drawn, or their shapes differ.
      OSError: the file cannot be written.
    """
    _check_path(path)
    _check_columns(num_columns)
    above = _as_images(originals, "originals")
    below = _as_images(reconstructions, "reconstructions")
    if above.shape[:3] != below.shape[:3]:
        raise InvalidInputError(
            "`reconstructions` must have the shape of `originals`. Received: "
            f"{np.shape(reconstructions)} and {np.shape(originals)}"
        )
    pairs = zip(_split_rows(above, num_columns), _split_rows(below, num_columns))
    rows = [row for pair in pairs for row in pair]
    gaps = [_GAP if index % 2 else _PAIR_GAP for index in range(len(rows))]
    margin = 145
    canvas, centres = _mosaic(rows, gaps=[0, *gaps[1:]], width=_WIDTH - margin)
    names = ("original", "reconstruction")
    labels = [(centre, names[index % 2]) for index, centre in enumerate(centres)]
    return _save(_picture_figure(canvas, labels=labels, margin=margin), path)


def training_curves(path, history):
    """Draws bounds, KL and effective sample size against the epoch.

    Draws `bound`, `inference_bound`, `iwae`, `elbo`, `kl`, `ess` and their `val_`
    twins, whichever are there; other names are left out. Values that are not finite
    are skipped. Early epochs that would squash the rest run off the axis, which says so.

    Args:
      path: where to write; ends in .png.
      history: dict of name to list of numbers, one an epoch: bounds and KL in nats,
        `ess` in draws. Without `epoch` the epochs count from 1.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: lists of unequal length, no numbers, or nothing to draw.
      OSError: the file cannot be written.
    """
    _check_path(path)
    curves = _as_curves(history)
    panels = []
    for label, names in _PANELS:
        drawn = [n for base in names for n in (base, f"val_{base}") if n in curves]
        if drawn:
            panels.append((label, drawn))
    if not panels:
        raise InvalidInputError(
            f"`history` must hold a finite value of one of {', '.join(_SERIES)}. "
            f"Received: {', '.join(map(str, history)) or 'nothing'}"
        )
    heights = [1.7 if label.startswith("bound") else 1.0 for label, _ in panels]
    figure = _new_figure(height=90 + 200 * sum(heights))
    axes = figure.subplots(
        len(panels), sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    for ax, (label, names) in zip(axes, panels):
        _draw_curves(ax, {name: curves[name] for name in names})
        _style(ax, ylabel=label)
    _style(axes[-1], xlabel="epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    return _save(figure, path)


def latent(path, means, labels=None, *, explained_variance_note=True):
    """Draws posterior means in the plane, coloured by label.

    Two dimensions are drawn as they are, one as a histogram (a strip for each label
    where there are labels), more by their first two principal components.

    Args:
      path: where to write; ends in .png.
      means: [N, D], the mean of q(z|x) for each image.
      labels: integers [N], or None.
      explained_variance_note: whether the axes say each component's share of variance.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: `means` or `labels` has the wrong shape or values.
      OSError: the file cannot be written.
    """
    _check_path(path)
    means = _as_means(means)
    labels = _as_labels(labels, len(means))
    dims = means.shape[1]
    figure = _new_figure(height=750 if dims > 1 else 500)
    ax = figure.subplots()
    if dims == 1:
        _draw_strip(ax, means[:, 0], labels)
        _style(ax, title="Posterior means, the one latent dimension")
    elif dims == 2:
        _draw_scatter(ax, means, labels)
        _style(ax, title="Posterior means, both latent dimensions")
        _style(ax, xlabel="latent dimension 1", ylabel="latent dimension 2")
    else:
        points, shares = principal_components(means)
        _draw_scatter(ax, points, labels)
        _style(ax, title=f"Posterior means, principal components 1 and 2 of {dims}")
        notes = [f" ({s:.1%} of variance)" * explained_variance_note for s in shares]
        _style(ax, xlabel=f"principal component 1{notes[0]}")
        _style(ax, ylabel=f"principal component 2{notes[1]}")
    return _save(figure, path)


def principal_components(means):
    """Projects points on their first two principal components.

    means - mean(means) = U S V^T;  projected = U S;  shares = S^2 / sum(S^2)

    Each component's sign makes its largest loading positive.

    Args:
      means: [N, D] with D >= 2.

    Returns:
      projected: float64 [N, 2].
      shares: float64 [2], each component's share of the variance; 0 where all points
        are equal.

    Raises:
      InvalidInputError: `means` is not a finite matrix of two columns or more.
    """
    means = _as_means(means)
    if means.shape[1] < 2:
        raise InvalidInputError(
            f"`means` must have two columns or more. Received: shape {means.shape}"
        )
    centred = means - means.mean(axis=0)
    _, singular_values, components = np.linalg.svd(centred, full_matrices=False)
    total = np.sum(singular_values**2)
    shares = np.zeros(2)
    projected = np.zeros((len(means), 2))
    for k, component in enumerate(components[:2]):
        sign = 1.0 if component[np.argmax(np.abs(component))] > 0 else -1.0
        projected[:, k] = centred @ component * sign
        shares[k] = singular_values[k] ** 2 / total if total > 0 else 0.0
    return projected, shares


def active_units(path, variances, *, threshold=0.01):
    """Draws the sorted variances of the posterior means, one panel a stochastic layer.

    Args:
      path: where to write; ends in .png.
      variances: sequence of [D_l] arrays, the variance over the data of each latent
        dimension's posterior mean.
      threshold: a unit is active where its variance is larger.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: a variance is negative or not finite, or a shape is wrong.
      OSError: the file cannot be written.

    References:
      Burda et al., 2016. https://arxiv.org/abs/1509.00519
    """
    _check_path(path)
    if not (_is_number(threshold) and threshold > 0):
        raise InvalidInputError(
            f"`threshold` must be a positive number. Received: threshold={threshold}"
        )
    layers = _as_variances(variances)
    num_columns = min(len(layers), 2)
    num_rows = math.ceil(len(layers) / num_columns)
    figure = _new_figure(height=60 + 390 * num_rows)
    axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for index, (ax, layer) in enumerate(zip(axes, layers)):
        _draw_variances(ax, layer, threshold)
        active = np.count_nonzero(layer > threshold)
        _style(ax, title=f"layer {index + 1}: {active} of {len(layer)} units active")
        _style(ax, xlabel="latent dimension, sorted")
        if index % num_columns == 0:
            _style(ax, ylabel="variance of posterior mean")
    for ax in axes[len(layers) :]:
        ax.set_visible(False)
    return _save(figure, path)
