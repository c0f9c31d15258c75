"""Charts of the diagnostics: a path and a dict of numbers in, one PNG file out.

Each function takes the path of the PNG, which ends in .png, and what it draws, and
returns the path.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from iwae_tf.plots.drawing import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    PURPLE,
    SMALL_TEXT_SIZE,
    legend,
    new_chart,
    save,
    style,
    whole_numbers,
)
from iwae_tf.plots.inputs import Path

_MARKERS = ("o", "s", "^", "D", "v", "P")
_POINTS = {"linewidth": 1.3, "markersize": 4}
_BAR = {"capsize": 2} | _POINTS
_DASHED = {"color": ORANGE, "linewidth": 1.2, "linestyle": "--"}
_DOTTED = {"color": DARK, "linewidth": 1, "linestyle": ":"}
_CURVES = {"reparameterized": (BLUE, "o"), "dreg": (ORANGE, "s"), "stl": (GREEN, "^")}
HALVES = ("encoder", "decoder")

Found = Mapping[str, Any]


def gradient_noise(path: Path, found: Found) -> Path:
    """Draws SNR against the number of draws, one panel for each half of the model.

    Args:
      found: dict of `lines`, a list of dicts with `varied` ("M" or "K"), `estimator`,
        `half`, `counts`, `snr`, `floor` (lists) and optionally the fitted `slope`.
    """
    figure, axes = new_chart(470, 1, 2)
    for ax, half in zip(axes, HALVES):
        floors: dict[int, float] = {}
        for line in (line for line in found["lines"] if line["half"] == half):
            color, marker = _CURVES[line["estimator"]]
            if line["varied"] == "M":
                color, marker = PURPLE, "D"
            label = f"{line['estimator']}, {line['varied']}"
            if line.get("slope") is not None:
                label += f": slope {line['slope']:+.2f}"
            # Dashed: of the decoder the estimators are the same, and lie on each other.
            dashes = "-" if line["estimator"] == "reparameterized" else "--"
            look = {"color": color, "marker": marker, "linestyle": dashes} | _POINTS
            ax.plot(line["counts"], line["snr"], label=label, **look)
            floors |= dict(zip(line["counts"], line["floor"]))
        counts = sorted(floors)
        floor = [floors[count] for count in counts]
        ax.plot(counts, floor, ":", color=GREY, linewidth=1.2, label="noise alone")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.tick_params(which="both", labelsize=SMALL_TEXT_SIZE)
        style(ax, title=half, xlabel="number of draws (M or K)")
        legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.24))
    style(axes[0], ylabel="SNR: mean over parameters\nof |mean| / sd")
    return save(figure, path)


def bound_sweep(path: Path, sweep: Found) -> Path:
    """Draws bounds against K with error bars, and their gap to log p(x)."""
    figure, (left, right) = new_chart(470, 1, 2)
    best = sweep["log_likelihood"]
    counts = np.asarray(sweep["counts"], float)
    for color, marker, (name, found) in zip(LINES, _MARKERS, sweep["bounds"].items()):
        names = ("value", "standard_error", "corrected")
        value, error, corrected = (np.asarray(found[n], float) for n in names)
        look = {"color": color, "marker": marker, "markersize": 4}
        dashed = {"color": color, "linewidth": 1, "linestyle": "--"}
        left.errorbar(counts, value, 2 * error, label=name, **_BAR | look)
        left.plot(counts, corrected, label=f"{name}, jackknife", **dashed)
        right.plot(counts, np.maximum(best - value, 1e-9), **look)
        right.plot(counts, np.abs(best - corrected), **dashed)
    left.axhline(best, label="log p(x), refined proposals", **_DOTTED)
    reached = best - np.asarray(sweep["bounds"]["iwae"]["value"])
    right.set_ylim(max(reached.min(), 1e-4) / 4, None)
    right.set_yscale("log")
    style(left, title="bound (bars: +- 2 errors)", ylabel="nats an example")
    style(right, title="distance from log p(x)", ylabel="nats")
    for ax in (left, right):
        ax.set_xscale("log")
        style(ax, xlabel="number of draws K")
    legend(left, loc="lower right", bbox_to_anchor=(1.0, 0.02))
    return save(figure, path)


def error_bars(path: Path, found: Found) -> Path:
    """Draws what each error bar says against the spread between seeds, and coverage."""
    names, errors = list(found["errors"]), list(found["errors"].values())
    rows = np.arange(len(names))[::-1]
    figure, (left, right) = new_chart(130 + 60 * len(names), 1, 2, sharey=True)
    for ax, key, offset, height, color, label in (
        (left, "stated", 0.18, 0.34, BLUE, "stated"),
        (left, "spread", -0.18, 0.34, ORANGE, "between seeds"),
        (right, "repeat_coverage", 0.25, 0.22, GREEN, "mean, of another seed's"),
        (right, "mean_coverage", 0.0, 0.22, PURPLE, "mean, of the reference"),
        (right, "image_coverage", -0.25, 0.22, BLUE, "one example, of the reference"),
    ):
        values = [error[key] for error in errors]
        ax.barh(rows + offset, values, height, color=color, label=label)
    left.set_yticks(rows, names)
    right.axvline(0.95, **_DOTTED)
    right.set_xlim(0, 1)
    style(left, title="error of the mean over examples", xlabel="nats")
    style(right, title="share of 95 % intervals that cover", xlabel="share")
    legend(left, bbox_to_anchor=(0.0, -0.22))
    legend(right, bbox_to_anchor=(0.0, -0.22))
    return save(figure, path)


def proposal_quality(path: Path, found: Found) -> Path:
    """Draws histograms of Pareto k and of the effective sample size."""
    figure, (left, right) = new_chart(400, 1, 2)
    num_samples, bars = found["num_samples"], {"color": BLUE, "edgecolor": "white"}
    shown = np.clip(np.asarray(found["pareto_k"], float), -0.5, 2.5)
    left.hist(shown, bins=np.linspace(-0.5, 2.5, 31), **bars)
    for value, label in ((found["threshold"], "trusted below"), (1.0, "no mean above")):
        left.axvline(value, **_DASHED)
        place = {"transform": left.get_xaxis_transform(), "va": "top"}
        place["ha"] = "right" if value < 1 else "left"
        left.text(value, 0.97, f" {label} ", **place, size=8, color=ORANGE)
    style(left, title="Pareto k of the weights", xlabel="k", ylabel="examples")
    sizes = np.clip(found["effective_sample_size"], 1, num_samples)
    right.hist(sizes, bins=np.geomspace(1, num_samples, 25), **bars)
    right.set_xscale("log")
    title = f"effective sample size of {num_samples:,} draws"
    style(right, title=title, xlabel="draws")
    for ax in (left, right):
        ax.yaxis.set_major_locator(whole_numbers())
    return save(figure, path)


def inference_gaps(path: Path, found: Found) -> Path:
    """Draws the mean ELBOs of q and of the best Gaussians, below log p(x)."""
    figure, ax = new_chart(260)
    names = {
        "encoder": "q(z|x)",
        "diagonal": "best diagonal Gaussian",
        "full": "best Gaussian",
    }
    log_p = np.asarray(found["log_likelihood"], float)
    gaps = [np.mean(log_p - np.asarray(found[name], float)) for name in names]
    bars = ax.barh([*names.values()], gaps, color=[ORANGE, BLUE, GREEN], height=0.6)
    ax.bar_label(bars, fmt=" %.2f", size=8, color=DARK)
    ax.invert_yaxis()
    style(ax, title="log p(x) less the ELBO", xlabel="nats", ylabel="")
    return save(figure, path)


def sandwich(path: Path, found: Found, *, title: str) -> Path:
    """Draws estimates of log p(x) of single images relative to the lower witness.

    Args:
      found: dict of `lower`, (estimates [N], errors [N]) of forward annealing, of
        `estimate`, the same of importance sampling, and optionally of `upper`, the same
        of reverse annealing.
      title: of the chart.
    """
    figure, ax = new_chart(420)
    base = np.asarray(found["lower"][0])
    for name, label, color, marker, offset in (
        ("lower", "annealing, forward (low)", BLUE, "^", -0.15),
        ("estimate", "importance sampling", ORANGE, "o", 0.0),
        ("upper", "annealing, reverse (high)", GREEN, "v", 0.15),
    ):
        if name in found:
            place = np.arange(len(base)) + offset
            values, errors = (np.asarray(each, float) for each in found[name])
            bars = {"fmt": marker, "color": color, "label": label} | _BAR
            ax.errorbar(place, values - base, 2 * np.nan_to_num(errors), **bars)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.xaxis.set_major_locator(whole_numbers())
    style(ax, title=title, xlabel="example", ylabel="nats above forward annealing")
    legend(ax)
    return save(figure, path)


def units(path: Path, found: Found, *, threshold: float) -> Path:
    """Draws the histogram of variances of posterior means, and the KL of each unit.

    Args:
      found: dict of `variances` and `kl`, lists over layers of values of each unit.
      threshold: the variance above which a unit is active.
    """
    num_layers = len(found["kl"])
    figure, axes = new_chart(60 + 330 * num_layers, num_layers, 2, squeeze=False)
    layers = zip(axes, found["variances"], found["kl"])
    for number, ((left, right), variance, kl) in enumerate(layers, 1):
        logs = np.log10(np.maximum(variance, 1e-8))
        low = min(math.floor(logs.min()), -3)
        left.hist(logs, bins=np.linspace(low, 1.0, 33), color=BLUE, edgecolor="white")
        left.axvline(math.log10(threshold), **_DASHED)
        style(left, title=f"layer {number}: variance of the posterior mean")
        xlabel = "log10 of the variance (dashed: active above)"
        style(left, xlabel=xlabel, ylabel="number of units")
        left.yaxis.set_major_locator(whole_numbers())
        right.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], color=GREEN)
        style(right, title=f"KL of each unit, {np.sum(kl):.1f} nats in all")
        style(right, xlabel="latent unit, sorted", ylabel="nats")
        right.xaxis.set_major_locator(whole_numbers())
    return save(figure, path)


def posterior_maps(path: Path, found: Found) -> Path:
    """Draws posteriors as maps beside each other, proposals as contour lines over them.

    Args:
      found: dict of `maps`, dicts of the arrays of a `representation.PosteriorMap`, and
        of `units`, the numbers of the two units on the axes.
    """
    maps = found["maps"]
    figure, axes = new_chart(330, 1, len(maps), squeeze=False)
    xlabel, ylabel = (f"unit {unit + 1}" for unit in found["units"])
    levels = np.exp([-4.5, -2.0, -0.5])  # 3, 2 and 1 deviations of a Gaussian
    for index, (ax, shown) in enumerate(zip(axes.flat, maps)):
        grid = shown["horizontal"], shown["vertical"]
        ax.pcolormesh(*grid, shown["posterior"], cmap="Blues", shading="gouraud")
        points = np.stack(np.meshgrid(*grid), axis=-1)
        encoder = shown["loc"], np.diag(np.square(shown["scale"]))
        refined = shown["refined_loc"], shown["refined_covariance"]
        for (loc, covariance), color in ((encoder, ORANGE), (refined, GREEN)):
            offset = points - loc
            square = np.sum(offset @ np.linalg.inv(covariance) * offset, axis=-1)
            density = np.exp(-0.5 * square)
            ax.contour(*grid, density, levels, colors=color, linewidths=1.0)
        style(ax, title=f"example {index}", xlabel=xlabel)
        ax.grid(False)
    style(axes[0, 0], ylabel=ylabel)
    return save(figure, path)


def log_mean_bias(path: Path, found: Found) -> Path:
    """Draws E log mean of k draws against k, and its limit."""
    figure, ax = new_chart(360)
    curve = {"color": BLUE, "marker": "o", "label": "E log mean of k draws"}
    ax.plot(found["counts"], found["expected"], markersize=4, **curve)
    ax.axhline(found["limit"], label="log E X", **_DASHED)
    ax.set_xscale("log")
    style(ax, title="The bias of log mean exp", xlabel="k", ylabel="nats")
    legend(ax, loc="lower right", bbox_to_anchor=(1.0, 0.05))
    return save(figure, path)


def draw_contributions(path: Path, found: Found) -> Path:
    """Draws where draws of a poor q fall and what each adds to the two bounds."""
    figure, (top, middle, bottom) = new_chart(620, 3, sharex=True)
    draws = np.asarray(found["draws"])
    grid = np.linspace(min(-3.5, draws.min() - 0.5), max(3.5, draws.max() + 0.5), 400)
    top.plot(grid, stats.norm.pdf(grid), color=BLUE, label="posterior p(z|x)")
    q = stats.norm.pdf(grid, found["loc"], found["scale"])
    top.plot(grid, q, color=ORANGE, label="q(z|x)")
    top.plot(draws, 0 * draws, "|", color=DARK, markersize=10, label="draws")
    stems = {"basefmt": GREY, "markerfmt": "o"}
    middle.stem(draws, found["elbo_terms"], linefmt=PURPLE, **stems)
    bottom.stem(draws, found["iwae_weights"], linefmt=GREEN, **stems)
    equal = {"color": PURPLE, "linestyle": "--", "linewidth": 1}
    bottom.axhline(1 / len(draws), label="1 / K, every draw's in the ELBO", **equal)
    style(top, ylabel="density")
    style(middle, ylabel="added to the ELBO\nlog w / K (nats)")
    style(bottom, ylabel="weight in the\nIWAE gradient", xlabel="z")
    for ax in (top, bottom):
        legend(ax, loc="upper right", bbox_to_anchor=(1.0, 1.0))
    return save(figure, path)
