"""Pictures of scores: histograms of log-likelihoods, and ROC curves.

Each function takes the file's path first, which ends in .png, and returns it.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError
from iwae_tf.plots.drawing import CATEGORIES, legend, new_chart, save, style
from iwae_tf.plots.inputs import Path

NUM_BINS = 60


def histogram(
    path: Path, scores: Mapping[str, ArrayLike], *, title: str | None = None
) -> Path:
    """Draws the scores of several sets over one axis, each as shares of its images.

    The first set gives the scale: what lies further below it than it is wide is left
    out, and counted in the legend; what is more than twice as tall is cut off.

    Args:
      scores: dict of name to log-likelihoods [N], in nats.
      title: a line of text above the chart, or None.

    Raises:
      InvalidInputError: more sets than colours.
    """
    arrays = _as_arrays(scores, "scores")
    first = next(iter(arrays.values()))
    low = max(min(map(np.min, arrays.values())), first.min() - np.ptp(first))
    bins = np.linspace(low, max(map(np.max, arrays.values())), NUM_BINS)
    figure, ax = new_chart(500)
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
    path: Path, curves: Mapping[str, ArrayLike], *, title: str | None = None
) -> Path:
    """Draws ROC curves on one square, the diagonal of guessing among them.

    Args:
      curves: dict of name to (false positive rates [T], true positive rates [T]).
      title: a line of text above the chart, or None.

    Raises:
      InvalidInputError: more curves than colours.
    """
    arrays = _as_arrays(curves, "curves")
    figure, ax = new_chart(600, width=1100)
    ax.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1.0, linestyle="--")
    for color, (name, rates) in zip(CATEGORIES, arrays.items()):
        ax.plot(*rates, color=color, linewidth=1.6, label=name)
    ax.set_box_aspect(1)
    style(ax, title=title, xlabel="normal images rejected", ylabel="anomalies rejected")
    legend(ax, title="AUROC")
    return save(figure, path)


def _as_arrays(values: Mapping[str, ArrayLike], name: str) -> dict[str, np.ndarray]:
    """Some sets, as many as there are colours at most, as float64 arrays."""
    if not 1 <= len(values) <= len(CATEGORIES):
        raise InvalidInputError(
            f"`{name}` must hold 1 to {len(CATEGORIES)} sets. Received: {len(values)}"
        )
    return {key: np.asarray(value, np.float64) for key, value in values.items()}
