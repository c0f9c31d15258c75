"""Charts of studies: what was measured beside what was published.

Each function takes the file's path first, which ends in .png, and returns it.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from iwae_tf.plots.drawing import BLUE, LINES, ORANGE, legend, new_chart, save, style
from iwae_tf.plots.inputs import Path


def nll_by_cell(
    path: Path,
    labels: Sequence[str],
    nlls: Sequence[float],
    published: Sequence[float | None],
) -> Path:
    """Draws the NLL of each cell of a table, a dot, and what was published, a ring.

    Args:
      labels: list of str, the cells from the top down.
      nlls: list of floats, in nats.
      published: list of floats or None, in nats.
    """
    figure, ax = new_chart(110 + 32 * len(labels))
    lines = np.arange(len(labels))
    ax.plot(nlls, lines, "o", color=BLUE, markersize=5, label="measured")
    values = np.asarray(published, float)  # None is NaN, which is not drawn
    if np.isfinite(values).any():
        ring = {"markersize": 7, "mfc": "none", "markeredgewidth": 1.2}
        ax.plot(values, lines, "o", color=ORANGE, label="published", **ring)
    ax.set_yticks(lines, labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    legend(ax)
    style(ax, xlabel="test NLL (nats), lower is better")
    return save(figure, path)


def bounds_by_groups(
    path: Path,
    measured: Mapping[str, Iterable[Sequence[float]]],
    published: Mapping[str, Iterable[Sequence[float]]],
) -> Path:
    """Draws log p(x), the IWAE bound and their difference against M, M * K fixed.

    Args:
      measured: dict of model to list of (M, log p(x), IWAE bound of all M * K draws),
        in nats, in any order.
      published: the same, of what was published; rings.
    """
    figure, panels = new_chart(900, 3, sharex=True)
    names = ("log p(x)\n(nats)", "IWAE bound\n(nats)", "-KL(Q||P)\n(nats)")
    ring = {"mfc": "none", "markersize": 8, "linestyle": "none"}
    for suffix, look, source in (("", {}, measured), (", published", ring, published)):
        for color, (model, points) in zip(LINES, source.items()):
            if not points:
                continue
            groups, log_p, bound = np.asarray(sorted(points, key=list), float).T
            options = {"marker": "o", "color": color, "label": model + suffix} | look
            for ax, values in zip(panels, (log_p, bound, bound - log_p)):
                ax.plot(groups, values, **options)
    for ax, name in zip(panels, names):
        ax.set_xscale("log", base=2)
        style(ax, ylabel=name)
    style(panels[-1], xlabel="M, draws outside the log (K = 64 / M inside)")
    legend(panels[0])
    return save(figure, path)


def bounds_by_time(
    path: Path, histories: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
) -> Path:
    """Draws validation bounds against epochs, and against seconds.

    Args:
      histories: dict of bound to dict of estimator to (epochs, seconds, bounds), lists
        of one length; bounds in nats.
    """
    count = len(histories)
    figure, panels = new_chart(80 + 260 * count, count, 2, sharey="row", squeeze=False)
    estimators = list(dict.fromkeys(name for h in histories.values() for name in h))
    colors = dict(zip(estimators, LINES))
    for row, (bound, curves) in zip(panels, histories.items()):
        ends = [bounds[-1] for _, _, bounds in curves.values()]
        for name, (epochs, seconds, bounds) in curves.items():
            for ax, x in zip(row, (epochs, np.asarray(seconds) / 60)):
                ax.plot(x, bounds, color=colors[name], label=name, linewidth=1.2)
        row[0].set_ylim(max(ends) - 8, max(ends) + 1)
        style(row[0], title=bound, ylabel="validation bound\n(nats)")
        style(row[1])
    style(panels[-1, 0], xlabel="epoch")
    style(panels[-1, 1], xlabel="minutes of training")
    legend(panels[0, 1])
    return save(figure, path)
