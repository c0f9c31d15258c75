"""Draws the figures of docs/concepts, and the README's digits into docs/assets.

python docs/figures.py [FOLDER]
"""

import pathlib
import sys

import numpy as np

from iwae_tf import bounds, from_pretrained, plots
from iwae_tf.diagnostics import figures, theory
from iwae_tf.plots.drawing import (
    BLUE,
    DARK,
    GREEN,
    ORANGE,
    legend,
    new_figure,
    save,
    style,
)

CONCEPTS = pathlib.Path(__file__).parent / "concepts"
DIGITS = pathlib.Path(__file__).parent / "assets" / "digits.png"
NUM_DRAWS = 64
DEVIATION = 2.0  # of log w, about that of images under a model that trains
REPEATS = 100_000


def bounds_of_equal_cost(num_draws=NUM_DRAWS, deviation=DEVIATION, repeats=REPEATS):
    """Expected bounds of M * K draws of log-normal weights with log p(x) = 0.

    log w ~ N(-deviation^2 / 2, deviation^2), so that E w = 1. The batch axis holds
    independent repetitions.

    Returns:
      dict: `samples` (the K, a list), `miwae` (one value a K), `elbo`, `iwae` and
      `ciwae` (beta = 0.5), in nats.
    """
    rng = np.random.default_rng(0)
    shape = (num_draws, 1, repeats)
    log_weights = rng.normal(-(deviation**2) / 2, deviation, shape).astype("float32")
    samples = [2**i for i in range(num_draws.bit_length())]
    grouped = [log_weights.reshape(num_draws // k, k, repeats) for k in samples]
    return {
        "samples": samples,
        "miwae": [float(np.mean(bounds.miwae(g))) for g in grouped],
        "elbo": float(np.mean(bounds.elbo(log_weights))),
        "iwae": float(np.mean(bounds.iwae(log_weights))),
        "ciwae": float(np.mean(bounds.ciwae(log_weights, 0.5))),
    }


def draw_bounds(path, found):
    """Draws what `bounds_of_equal_cost` found; returns the path."""
    figure = new_figure(height=420)
    ax = figure.subplots()
    ax.axhline(0, color=DARK, linewidth=1, linestyle=":", label="log p(x)")
    ax.axhline(found["iwae"], color=BLUE, linewidth=1.4, label="IWAE, all 64 draws")
    ax.plot(found["samples"], found["miwae"], "o-", color=ORANGE, markersize=5)
    ax.lines[-1].set_label("MIWAE, 64 / K groups of K")
    ax.axhline(found["ciwae"], color=GREEN, linewidth=1.4, label="CIWAE, beta = 0.5")
    ax.axhline(found["elbo"], color=DARK, linewidth=1.4, label="ELBO (VAE)")
    ax.set_xscale("log", base=2)
    style(ax, title="Bounds of 64 draws", xlabel="K, draws inside the log")
    style(ax, ylabel="nats")
    legend(ax)
    return save(figure, path)


def draw_digits(path):
    """Draws the first samples of the two-layer model; returns the path."""
    model = from_pretrained("mnist-iwae-k50-2l")
    digits = model.sample(51, (0, 0), mean=True)
    return plots.image_grid(path, digits, num_columns=17)


def draw_all(folder):
    """Writes the figures into a folder; returns their paths."""
    folder = pathlib.Path(folder)
    return [
        figures.log_mean_bias(folder / "two_points.png", theory.log_mean_bias()),
        figures.draw_contributions(
            folder / "outlying_draws.png", theory.draw_contributions()
        ),
        draw_bounds(folder / "bounds.png", bounds_of_equal_cost()),
    ]


if __name__ == "__main__":
    for written in draw_all(sys.argv[1] if len(sys.argv) > 1 else CONCEPTS):
        print(written)
    print(draw_digits(DIGITS))
