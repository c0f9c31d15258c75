"""Pictures of scores: histograms of log-likelihoods, and ROC curves."""

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError
from iwae_tf.plots.drawing import CATEGORIES, legend, new_figure, save, style
from iwae_tf.plots.inputs import as_array

NUM_BINS = 60


def histogram(
    path: str | os.PathLike[str],
    scores: Mapping[str, ArrayLike],
    *,
    title: str | None = None,
) -> str | os.PathLike[str]:
    """Draws the scores of several sets over one axis, each as shares of its images.

    The first set gives the scale: what lies further below it than it is wide is left
    out, and counted in the legend; what is more than twice as tall is cut off.

    Args:
      path: where to write; ends in .png.
      scores: dict of name to log-likelihoods [N], in nats.
      title: a line of text above the chart, or None.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: no set, an empty one, or scores that are not finite.
    """
    arrays = {name: _as_scores(values, name) for name, values in scores.items()}
    if not 1 <= len(arrays) <= len(CATEGORIES):
        raise InvalidInputError(
            f"`scores` must hold 1 to {len(CATEGORIES)} sets. Received: {len(arrays)}"
        )
    first = next(iter(arrays.values()))
    low = max(min(map(np.min, arrays.values())), first.min() - np.ptp(first))
    bins = np.linspace(low, max(map(np.max, arrays.values())), NUM_BINS)
    figure = new_figure(height=500)
    ax = figure.subplots()
    for color, (name, values) in zip(CATEGORIES, arrays.items()):
        below = np.mean(values < low)
        label = f"{name}\n({below:.0%} below the axis)" if below > 0.005 else name
        options = {"bins": bins, "color": color, "label": label}
        options["weights"] = np.full(len(values), 1 / len(values))
        ax.hist(values, histtype="stepfilled", alpha=0.25, **options | {"label": None})
        ax.hist(values, histtype="step", linewidth=1.4, **options)
    tallest = np.histogram(first, bins)[0].max() / len(first)
    ax.set_ylim(0, min(ax.get_ylim()[1], 2 * tallest))
    style(ax, title=title, xlabel="log p(x) (nats)", ylabel="share of the images")
    if len(arrays) > 1:
        legend(ax)
    return save(figure, path)


def roc(
    path: str | os.PathLike[str],
    curves: Mapping[str, ArrayLike],
    *,
    title: str | None = None,
) -> str | os.PathLike[str]:
    """Draws ROC curves on one square, the diagonal of guessing among them.

    Args:
      path: where to write; ends in .png.
      curves: dict of name to (false positive rates [T], true positive rates [T]).
      title: a line of text above the chart, or None.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: no curve, or rates that are not two lists of one length in
        [0, 1].
    """
    if not 1 <= len(curves) <= len(CATEGORIES):
        raise InvalidInputError(
            f"`curves` must hold 1 to {len(CATEGORIES)} curves. Received: {len(curves)}"
        )
    figure = new_figure(height=600, width=1100)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1.0, linestyle="--")
    for color, (name, rates) in zip(CATEGORIES, curves.items()):
        rates = as_array(rates, "curves", "pairs of lists of one length")
        if rates.ndim != 2 or len(rates) != 2 or rates.min() < 0 or rates.max() > 1:
            raise InvalidInputError(
                "`curves` must hold two lists of rates in [0, 1] each. "
                f"Received: shape {rates.shape} as {name!r}"
            )
        ax.plot(*rates, color=color, linewidth=1.6, label=name)
    ax.set_box_aspect(1)
    style(ax, title=title, xlabel="normal images rejected", ylabel="anomalies rejected")
    legend(ax, title="AUROC")
    return save(figure, path)


def _as_scores(values: ArrayLike, name: str) -> np.ndarray:
    """Scores as float64 [N], N >= 1."""
    array = as_array(values, "scores", "lists of numbers")
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInputError(
            f"`scores` must hold non-empty lists. Received: shape {array.shape} as "
            f"{name!r}"
        )
    return array
