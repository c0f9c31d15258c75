"""Pictures of data and models: NumPy arrays in, one PNG file out.

Every function takes the file's path first, which ends in .png, and returns it. The file
appears whole or not at all, and its folder is created where it is missing; an OSError
says that it cannot be written. Figures share no state, so several threads may draw at
once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.plots.drawing import (
    GAP,
    PAIR_GAP,
    PANELS,
    SERIES,
    WIDTH,
    draw_curves,
    draw_scatter,
    draw_strip,
    draw_variances,
    mosaic,
    new_chart,
    picture_figure,
    save,
    split_rows,
    style,
    whole_numbers,
)
from iwae_tf.plots.inputs import Path, as_curves, as_images, as_labels

ACTIVE = 0.01  # a unit is active where its variance is larger
_MAX_POINTS = 3000


def image_grid(
    path: Path,
    images: ArrayLike,
    *,
    num_columns: int | None = None,
    title: str | None = None,
) -> Path:
    """Draws images as one grid, row by row, each pixel a whole number of dots.

    Args:
      images: [N, H, W, 1], [N, H, W, 3], [N, H, W] or flat square [N, H * H], in
        [0, 1]; 0 is black. Means of a Normal likelihood may have to be clipped first.
      num_columns: images in a row; None makes the grid about square.
      title: a line of text above the grid, or None.

    Raises:
      InvalidInputError: the images cannot be drawn, or another argument is wrong.
    """
    images = as_images(images, "images")
    if num_columns is None:
        num_columns = math.ceil(math.sqrt(len(images)))
    num_columns = check_count(num_columns, "num_columns")
    rows = split_rows(images, num_columns)
    canvas, _ = mosaic(rows, gaps=[GAP] * len(rows), width=WIDTH)
    return save(picture_figure(canvas, title=title), path)


def reconstructions(
    path: Path,
    originals: ArrayLike,
    reconstructions: ArrayLike,
    *,
    num_columns: int = 10,
) -> Path:
    """Draws each image above its reconstruction, in labelled pairs of rows.

    Args:
      originals: images as in `image_grid`, [N, *event].
      reconstructions: their reconstructions, [N, *event].
      num_columns: pairs beside each other.

    Raises:
      InvalidInputError: the images cannot be drawn, or their shapes differ.
    """
    num_columns = check_count(num_columns, "num_columns")
    above = as_images(originals, "originals")
    below = as_images(reconstructions, "reconstructions")
    if above.shape[:3] != below.shape[:3]:
        raise InvalidInputError(
            "`reconstructions` must have the shape of `originals`. Received: "
            f"{np.shape(reconstructions)} and {np.shape(originals)}"
        )
    pairs = zip(split_rows(above, num_columns), split_rows(below, num_columns))
    rows = [row for pair in pairs for row in pair]
    gaps = [GAP if index % 2 else PAIR_GAP for index in range(len(rows))]
    margin = 136
    canvas, centres = mosaic(rows, gaps=[GAP, *gaps[1:]], width=WIDTH - margin)
    names = ("original", "reconstruction")
    labels = [(centre, names[index % 2]) for index, centre in enumerate(centres)]
    return save(picture_figure(canvas, labels=labels, margin=margin), path)


def training_curves(path: Path, history: Mapping[str, ArrayLike]) -> Path:
    """Draws bounds, KL and effective sample size against the epoch.

    Draws `bound`, `inference_bound`, `iwae`, `elbo`, `kl`, `ess` and their `val_`
    twins, whichever are there; other names are left out. Values that are not finite
    are skipped. Early epochs that would squash the rest run off the axis, with a note.

    Args:
      history: dict of name to list of numbers, one for each epoch: bounds and KL in
        nats, `ess` in draws. Without `epoch` the epochs count from 1.
    """
    curves = as_curves(history, SERIES)
    panels = []
    for label, names in PANELS:
        drawn = [n for base in names for n in (base, f"val_{base}") if n in curves]
        if drawn:
            panels.append((label, drawn))
    heights = [1.7 if label.startswith("bound") else 1.0 for label, _ in panels]
    layout: Any = {"sharex": True, "squeeze": False, "height_ratios": heights}
    figure, axes = new_chart(90 + 200 * sum(heights), len(panels), **layout)
    for ax, (label, drawn) in zip(axes.flat, panels):
        draw_curves(ax, {name: curves[name] for name in drawn})
        style(ax, ylabel=label)
    style(axes[-1, 0], xlabel="epoch")
    axes[-1, 0].xaxis.set_major_locator(whole_numbers())
    return save(figure, path)


def latent(path: Path, means: ArrayLike, labels: ArrayLike | None = None) -> Path:
    """Draws posterior means in the plane, coloured by label.

    Two dimensions are drawn as they are, one as a histogram (a strip for each label
    where there are labels), more by their first two principal components. Of very many
    points a random subset is drawn, and the title says so.

    Args:
      means: [N, D], the mean of q(z|x) for each image.
      labels: integers [N], or None; a legend names up to 60 of them.

    Raises:
      InvalidInputError: `labels` are not N integers.
    """
    means = np.asarray(means, np.float64)
    labels = as_labels(labels, len(means))
    size, dims = means.shape
    points, names, title = _in_the_plane(means)
    if size > _MAX_POINTS and (dims > 1 or labels is not None):
        kept = np.random.default_rng(0).choice(size, _MAX_POINTS, replace=False)
        points, labels = points[kept], labels if labels is None else labels[kept]
        title += f" ({_MAX_POINTS:,} of {size:,} images)"
    figure, ax = new_chart(750 if dims > 1 else 500)
    style(ax, title=title, xlabel=names[0], ylabel=names[-1])
    if dims == 1:
        draw_strip(ax, points[:, 0], labels)
    else:
        draw_scatter(ax, points, labels)
    return save(figure, path)


def principal_components(means: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Projects points on their first two principal components.

    means - mean(means) = U S V^T;  projected = U S;  shares = S^2 / sum(S^2)

    Each component's sign makes its largest loading positive.

    Args:
      means: [N, D] with D >= 2.

    Returns:
      projected: float64 [N, 2].
      shares: float64 [2], each component's share of the variance; 0 where all points
        are equal.
    """
    means = np.asarray(means, np.float64)
    centred = means - means.mean(axis=0)
    _, scales, components = np.linalg.svd(centred, full_matrices=False)
    scales = scales / (scales[0] or 1.0)
    projected, shares = np.zeros((len(means), 2)), np.zeros(2)
    for k, component in enumerate(components[:2]):
        sign = 1.0 if component[np.argmax(np.abs(component))] > 0 else -1.0
        projected[:, k] = centred @ component * sign
        shares[k] = scales[k] ** 2 / (np.sum(scales**2) or 1.0)
    return projected, shares


def active_units(path: Path, variances: Sequence[ArrayLike]) -> Path:
    """Draws the sorted variances of the posterior means, one panel a stochastic layer.

    Args:
      variances: sequence of [D_l] arrays, the variance over the data of each latent
        dimension's posterior mean. A unit is active where it is above 0.01.

    References:
      Burda et al., 2016. https://arxiv.org/abs/1509.00519
    """
    layers = [np.asarray(layer, np.float64) for layer in variances]
    num_columns = min(len(layers), 2)
    num_rows = math.ceil(len(layers) / num_columns)
    grid = num_rows, num_columns
    height = 60 + 390 * num_rows
    figure, axes = new_chart(height, *grid, sharey=True, squeeze=False)
    for index, (ax, layer) in enumerate(zip(axes.flat, layers)):
        draw_variances(ax, layer, ACTIVE)
        active = np.count_nonzero(layer > ACTIVE)
        style(ax, title=f"layer {index + 1}: {active} of {len(layer)} units active")
        style(ax, xlabel="latent dimension, sorted")
        if index % num_columns == 0:
            style(ax, ylabel="variance of posterior mean")
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    return save(figure, path)


def _in_the_plane(means: np.ndarray) -> tuple[np.ndarray, list[str], str]:
    """Points of one or two dimensions, the names of their axes, and a title."""
    dims = means.shape[1]
    if dims <= 2:
        names = [f"latent dimension {k + 1}" for k in range(dims)]
        title = "the one latent dimension" if dims == 1 else "both latent dimensions"
        return means, names, f"Posterior means, {title}"
    points, shares = principal_components(means)
    names = [
        f"principal component {number} ({share:.1%} of variance)"
        for number, share in enumerate(shares, 1)
    ]
    return points, names, f"Posterior means, principal components 1 and 2 of {dims}"
