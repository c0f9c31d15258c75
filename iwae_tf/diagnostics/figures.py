"""Charts of the diagnostics: dicts of numbers in, one PNG file out."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.plots.drawing import (
    BLUE,
    DARK,
    FONT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SMALL_TEXT_SIZE,
    legend,
    new_figure,
    save,
    style,
    whole_numbers,
)

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, DARK, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_BAR = {"capsize": 2, "linewidth": 1.3, "markersize": 4}
_CURVES = {"reparameterized": (BLUE, "o"), "dreg": (ORANGE, "s"), "stl": (GREEN, "^")}
HALVES = ("encoder", "decoder")


def gradient_noise(
    path: str | os.PathLike[str],
    lines: Sequence[Mapping[str, Any]],
    *,
    title: str | None = None,
) -> str | os.PathLike[str]:
    """Draws SNR against the number of draws, one panel for each half of the model.

    Args:
      path: where to write; ends in .png.
      lines: list of dicts with `varied` ("M" or "K"), `estimator`, `half`, `counts`,
        `snr`, `floor` (lists) and optionally the fitted `slope`.
      title: what is drawn, or None.

    Returns:
      path: as given.
    """
    figure = new_figure(height=470)
    axes = figure.subplots(1, 2, squeeze=False)[0]
    for ax, half in zip(axes, HALVES):
        floors: dict[int, float] = {}
        for line in (line for line in lines if line["half"] == half):
            color, marker = _CURVES[line["estimator"]]
            if line["varied"] == "M":
                color, marker = PURPLE, "D"
            label = f"{line['estimator']}, {line['varied']}"
            if line.get("slope") is not None:
                label += f": slope {line['slope']:+.2f}"
            ax.plot(
                line["counts"], line["snr"], color=color, marker=marker, label=label
            )
            ax.lines[-1].set(markersize=4, linewidth=1.3)
            if line["estimator"] != "reparameterized":  # the decoder's are the same
                ax.lines[-1].set_linestyle("--")
            floors |= dict(zip(line["counts"], line["floor"]))
        counts = sorted(floors)
        ax.plot(counts, [floors[c] for c in counts], ":", color=GREY, linewidth=1.2)
        ax.lines[-1].set_label("noise alone")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.tick_params(which="both", labelsize=SMALL_TEXT_SIZE)
        style(ax, title=half, xlabel="number of draws (M or K)")
        legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.24))
    style(axes[0], ylabel="SNR: mean over parameters\nof |mean| / sd")
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=9, family=FONT, color=DARK)
    return save(figure, path)


def bound_sweep(
    path: str | os.PathLike[str], sweep: Mapping[str, Any]
) -> str | os.PathLike[str]:
    """Draws bounds against K with error bars, and their gap to log p(x)."""
    figure = new_figure(height=470)
    left, right = figure.subplots(1, 2, squeeze=False)[0]
    limit = sweep["log_likelihood"] or {}
    best = limit.get("power_law") or limit.get("jackknife")
    counts = np.asarray(sweep["counts"], float)
    for index, (name, values) in enumerate(sweep["bounds"].items()):
        color, marker = _COLORS[index], _MARKERS[index]
        value, error = (np.asarray(values[n]) for n in ("value", "standard_error"))
        corrected = np.asarray(values["corrected"], float)
        left.errorbar(counts, value, 2 * error, color=color, marker=marker, **_BAR)
        left.lines[-1].set_label("")
        left.plot([], [], color=color, marker=marker, markersize=4, label=name)
        label = f"{name}, jackknife"
        left.plot(counts, corrected, "--", color=color, linewidth=1, label=label)
        if best is not None:
            gap = np.maximum(best - value, 1e-9)
            right.plot(counts, gap, color=color, marker=marker, markersize=4)
            rest = np.abs(best - corrected)
            right.plot(counts, rest, "--", color=color, linewidth=1)
    if best is not None:
        left.axhline(best, color=DARK, linewidth=1, linestyle=":")
        left.lines[-1].set_label("extrapolated log p(x)")
        reached = best - np.asarray(next(iter(sweep["bounds"].values()))["value"])
        right.set_ylim(max(reached.min(), 1e-4) / 4, None)
        right.set_yscale("log")
    for ax in (left, right):
        ax.set_xscale("log")
    style(left, title="bound (bars: +- 2 errors)", ylabel="nats an image")
    style(right, title="distance from the extrapolated log p(x)", ylabel="nats")
    for ax in (left, right):
        style(ax, xlabel="number of draws K")
    legend(left, loc="lower right", bbox_to_anchor=(1.0, 0.02))
    return save(figure, path)


def error_bars(
    path: str | os.PathLike[str], found: Mapping[str, Any]
) -> str | os.PathLike[str]:
    """Draws what each error bar says against the spread between seeds, and coverage."""
    names = list(found["errors"])
    rows = np.arange(len(names))[::-1]
    figure = new_figure(height=130 + 60 * len(names))
    left, right = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
    pick = {
        key: [found["errors"][n][key] for n in names]
        for key in found["errors"][names[0]]
    }
    left.barh(rows + 0.18, pick["stated"], 0.34, color=BLUE, label="stated")
    left.barh(rows - 0.18, pick["spread"], 0.34, color=ORANGE, label="between seeds")
    left.set_yticks(rows, names)
    style(left, title="error of the mean over images", xlabel="nats")
    for offset, key, color, label in (
        (0.25, "repeat_coverage", GREEN, "mean, of another seed's"),
        (0.0, "mean_coverage", PURPLE, "mean, of the reference"),
        (-0.25, "image_coverage", BLUE, "one image, of the reference"),
    ):
        right.barh(rows + offset, pick[key], 0.22, color=color, label=label)
    right.axvline(0.95, color=DARK, linewidth=1, linestyle=":")
    right.set_xlim(0, 1)
    style(right, title="share of 95 % intervals that cover", xlabel="share")
    for ax in (left, right):
        legend(ax, bbox_to_anchor=(0.0, -0.22))
    return save(figure, path)


def proposal_quality(
    path: str | os.PathLike[str],
    pareto_k: ArrayLike,
    sizes: ArrayLike,
    *,
    num_samples: int,
    threshold: float,
) -> str | os.PathLike[str]:
    """Draws histograms of Pareto k and of the effective sample size."""
    figure = new_figure(height=400)
    left, right = figure.subplots(1, 2, squeeze=False)[0]
    shown = np.clip(np.asarray(pareto_k, float), -0.5, 2.5)
    left.hist(shown, bins=np.linspace(-0.5, 2.5, 31), color=BLUE, edgecolor="white")
    for value, label in ((threshold, "trusted below"), (1.0, "no mean above")):
        left.axvline(value, color=ORANGE, linewidth=1.2, linestyle="--")
        place = {"xy": (value, 1), "xycoords": ("data", "axes fraction")}
        offset = {"xytext": (3, -9), "textcoords": "offset points"}
        if value < 1:
            offset = {"xytext": (-3, -9), "textcoords": "offset points", "ha": "right"}
        left.annotate(label, **place, **offset, size=SMALL_TEXT_SIZE, color=ORANGE)
    style(left, title="Pareto k of the weights", xlabel="k", ylabel="number of images")
    bins = np.geomspace(1, num_samples, 25)
    right.hist(np.clip(sizes, 1, num_samples), bins=bins, color=BLUE, edgecolor="white")
    right.set_xscale("log")
    style(right, title=f"effective sample size of {num_samples:,} draws")
    style(right, xlabel="draws")
    for ax in (left, right):
        ax.yaxis.set_major_locator(whole_numbers())
    return save(figure, path)


def sandwich(
    path: str | os.PathLike[str],
    *,
    lower: tuple[ArrayLike, ArrayLike],
    estimate: tuple[ArrayLike, ArrayLike],
    upper: tuple[ArrayLike, ArrayLike] | None = None,
    title: str,
) -> str | os.PathLike[str]:
    """Draws estimates of log p(x) of single images relative to the lower witness.

    Args:
      path: where to write; ends in .png.
      lower: (estimates [N], errors [N]) of forward annealing.
      estimate: the same of importance sampling.
      upper: the same of reverse annealing, or None.
      title: of the chart.

    Returns:
      path: as given.
    """
    figure = new_figure(height=420)
    ax = figure.subplots()
    base = np.asarray(lower[0])
    place = np.arange(len(base))
    drawn = [("annealing, forward (low)", BLUE, "^", lower, -0.15)]
    drawn.append(("importance sampling", ORANGE, "o", estimate, 0.0))
    if upper is not None:
        drawn.append(("annealing, reverse (high)", GREEN, "v", upper, 0.15))
    for label, color, marker, (values, errors), offset in drawn:
        bars = {"fmt": marker, "color": color, "label": label} | _BAR
        errors = np.nan_to_num(np.asarray(errors, float))
        ax.errorbar(place + offset, np.asarray(values) - base, 2 * errors, **bars)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.xaxis.set_major_locator(whole_numbers())
    style(ax, title=title, xlabel="image", ylabel="nats above forward annealing")
    legend(ax)
    return save(figure, path)


def units(
    path: str | os.PathLike[str],
    variances: Sequence[np.ndarray],
    kls: Sequence[np.ndarray],
    *,
    threshold: float,
) -> str | os.PathLike[str]:
    """Draws the histogram of variances of posterior means, and the KL of each unit."""
    figure = new_figure(height=60 + 330 * len(kls))
    axes = figure.subplots(len(kls), 2, squeeze=False)
    for number, (row, variance, kl) in enumerate(zip(axes, variances, kls), 1):
        left, right = row
        logs = np.log10(np.maximum(variance, 1e-8))
        low = min(math.floor(logs.min()), -3)
        left.hist(logs, bins=np.linspace(low, 1.0, 33), color=BLUE, edgecolor="white")
        left.axvline(math.log10(threshold), color=ORANGE, linewidth=1.2, linestyle="--")
        style(left, title=f"layer {number}: variance of the posterior mean")
        style(left, xlabel="log10 of the variance (dashed: active above)")
        style(left, ylabel="number of units")
        left.yaxis.set_major_locator(whole_numbers())
        right.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], color=GREEN)
        style(right, title=f"KL of each unit, {np.sum(kl):.1f} nats in all")
        style(right, xlabel="latent unit, sorted", ylabel="nats")
        right.xaxis.set_major_locator(whole_numbers())
    return save(figure, path)


def posterior_maps(
    path: str | os.PathLike[str],
    maps: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> str | os.PathLike[str]:
    """Draws posteriors as filled maps, with q(z|x) as contour lines over them.

    Args:
      path: where to write; ends in .png.
      maps: list of dicts of the arrays of a `representation.PosteriorMap`.
      names: of the two axes.

    Returns:
      path: as given.
    """
    columns = min(4, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = new_figure(height=70 + 260 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    levels = np.exp([-4.5, -2.0, -0.5])  # 3, 2 and 1 deviations of a Gaussian
    for index, (ax, found) in enumerate(zip(axes, maps)):
        grid = found["horizontal"], found["vertical"]
        ax.pcolormesh(*grid, found["posterior"], cmap="Blues", shading="gouraud")
        across, up = (
            np.exp(-0.5 * ((np.asarray(axis) - loc) / scale) ** 2)
            for axis, loc, scale in zip(grid, found["loc"], found["scale"])
        )
        contour = np.multiply.outer(up, across)
        ax.contour(*grid, contour, levels, colors=ORANGE, linewidths=1.0)
        style(ax, title=f"image {index}")
        ax.grid(False)
        if index % columns == 0:
            style(ax, ylabel=names[1])
        if index >= len(maps) - columns:
            style(ax, xlabel=names[0])
    for ax in axes[len(maps) :]:
        ax.set_visible(False)
    return save(figure, path)


def log_mean_bias(
    path: str | os.PathLike[str], found: Mapping[str, Any]
) -> str | os.PathLike[str]:
    """Draws E log mean of k draws against k, and its limit."""
    figure = new_figure(height=360)
    ax = figure.subplots()
    ax.plot(found["counts"], found["expected"], "o-", color=BLUE, markersize=4)
    ax.lines[-1].set_label("E log mean of k draws")
    ax.axhline(found["limit"], color=ORANGE, linestyle="--", linewidth=1.2)
    ax.lines[-1].set_label("log E X")
    ax.set_xscale("log")
    style(ax, title="The bias of log mean exp", xlabel="k", ylabel="nats")
    legend(ax, loc="lower right", bbox_to_anchor=(1.0, 0.05))
    return save(figure, path)


def draw_contributions(
    path: str | os.PathLike[str], found: Mapping[str, Any]
) -> str | os.PathLike[str]:
    """Draws where draws of a poor q fall and what each adds to the two bounds."""
    figure = new_figure(height=620)
    axes = figure.subplots(3, 1, sharex=True)
    draws = np.asarray(found["draws"])
    grid = np.linspace(min(-3.5, draws.min() - 0.5), max(3.5, draws.max() + 0.5), 400)

    def density(loc, scale):
        return (
            np.exp(-0.5 * ((grid - loc) / scale) ** 2) / scale / math.sqrt(2 * math.pi)
        )

    axes[0].plot(grid, density(0.0, 1.0), color=BLUE, label="posterior p(z|x)")
    axes[0].plot(grid, density(found["loc"], found["scale"]), color=ORANGE)
    axes[0].lines[-1].set_label("q(z|x)")
    axes[0].plot(draws, np.zeros_like(draws), "|", color=DARK, label="draws")
    axes[0].lines[-1].set_markersize(10)
    style(axes[0], ylabel="density")
    axes[1].stem(
        draws, found["elbo_terms"], linefmt=PURPLE, basefmt=GREY, markerfmt="o"
    )
    style(axes[1], ylabel="added to the ELBO\nlog w / K (nats)")
    axes[2].stem(
        draws, found["iwae_weights"], linefmt=GREEN, basefmt=GREY, markerfmt="o"
    )
    axes[2].axhline(1 / len(draws), color=PURPLE, linestyle="--", linewidth=1)
    axes[2].lines[-1].set_label("1 / K, every draw's in the ELBO")
    style(axes[2], ylabel="weight in the\nIWAE gradient", xlabel="z")
    for ax in (axes[0], axes[2]):
        legend(ax, loc="upper right", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)
