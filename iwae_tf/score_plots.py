"""Pictures of scores: histograms of log-likelihoods, and ROC curves."""

import numpy as np

from iwae_tf.drawing import CATEGORIES, legend, new_figure, save, style
from iwae_tf.errors import InvalidInputError
from iwae_tf.plot_inputs import as_array, check_path

NUM_BINS = 60


def histogram(path, scores, *, title=None):
    """Draws the scores of several sets over one axis, each as a density.

    Args:
      path: where to write; ends in .png.
      scores: dict of name to log-likelihoods [N], in nats.
      title: a line of text above the chart, or None.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: no set, an empty one, or scores that are not finite.
    """
    check_path(path)
    arrays = {name: _as_scores(values, name) for name, values in scores.items()}
    if not 1 <= len(arrays) <= len(CATEGORIES):
        raise InvalidInputError(
            f"`scores` must hold 1 to {len(CATEGORIES)} sets. Received: {len(arrays)}"
        )
    everything = np.concatenate(list(arrays.values()))
    bins = np.histogram_bin_edges(everything, NUM_BINS)
    figure = new_figure(height=500)
    ax = figure.subplots()
    for color, (name, values) in zip(CATEGORIES, arrays.items()):
        options = {"bins": bins, "density": True, "color": color}
        ax.hist(values, histtype="stepfilled", alpha=0.25, **options)
        ax.hist(values, histtype="step", linewidth=1.4, label=name, **options)
    style(ax, title=title, xlabel="log p(x) (nats)", ylabel="density of images")
    if len(arrays) > 1:
        legend(ax)
    return save(figure, path)


def roc(path, curves, *, title=None):
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
    check_path(path)
    if not 1 <= len(curves) <= len(CATEGORIES):
        raise InvalidInputError(
            f"`curves` must hold 1 to {len(CATEGORIES)} curves. Received: {len(curves)}"
        )
    figure = new_figure(height=600)
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
    ax.set_aspect("equal")
    style(ax, title=title, xlabel="digits rejected", ylabel="anomalies rejected")
    legend(ax)
    return save(figure, path)


def _as_scores(values, name):
    """Scores as float64 [N], N >= 1."""
    array = as_array(values, "scores", "lists of numbers")
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInputError(
            f"`scores` must hold non-empty lists. Received: shape {array.shape} as "
            f"{name!r}"
        )
    return array
