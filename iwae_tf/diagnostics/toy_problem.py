"""The toy problem on which the signal-to-noise of gradients is known in theory.

z ~ N(mu, I), x | z ~ N(z, I), q(z|x) = N(A x + b, 2/3 I), in D = 20 dimensions with
N = 1024 points. At the optimum mu is the mean of x, A = I / 2 and b = mu / 2; all
parameters are moved from there by N(0, 0.01^2). The encoder's SNR then grows as
sqrt(M / K) and the decoder's as sqrt(M K).

References:
  Rainforth et al., 2018, section 4. https://arxiv.org/abs/1802.04537
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.bounds import MultiplyImportanceWeighted
from iwae_tf.diagnostics.gradient_noise import gradient_snr, over_counts
from iwae_tf.models import ImportanceWeightedAutoencoder
from iwae_tf.models.latent_model import Joint, LatentModel
from iwae_tf.probability.distributions import standard_normal

LATENT_DIM, NUM_POINTS = 20, 1024
PERTURBATION = 0.01
PROPOSAL_VARIANCE = 2 / 3
COUNTS = (1, 4, 16, 64, 256, 1024)
NUM_DRAWS, WORK = 10_000, 40_000  # most gradients at a point, and draws a data point
LEAST_DRAWS = 100
ABOVE_FLOOR = 4.0  # points that are fitted: `snr` at least so many times its floor


class Line(NamedTuple):
    """One line of the figure: what is varied, and what theory says of its slope."""

    varied: str  # "M" at K = 1, or "K" at M = 1
    estimator: str
    half: str
    theory: float | None  # slope of log SNR; None: it is known to grow
    fitted_from: int  # the first count of the fit: theory is of large K


# Beside the optimum the ELBO's gradient for mu is dominated by the encoder's error,
# which K has to overcome before the decoder's SNR begins to grow.
LINES = (
    Line("M", "reparameterized", "encoder", 0.5, 1),
    Line("M", "reparameterized", "decoder", 0.5, 1),
    Line("K", "reparameterized", "encoder", -0.5, 1),
    Line("K", "reparameterized", "decoder", 0.5, 64),
    Line("K", "dreg", "encoder", None, 16),
)
SETTINGS = sorted({(line.varied, line.estimator) for line in LINES})


class _ToyEncoder(keras.layers.Layer):
    """x to loc A x + b and the log of a fixed scale."""

    def __init__(self, kernel, bias):
        super().__init__()
        self.kernel, self.bias = _weight(self, kernel), _weight(self, bias)

    def call(self, x):
        loc = keras.ops.matmul(x, self.kernel) + self.bias
        log_scale = 0.5 * math.log(PROPOSAL_VARIANCE)
        return keras.ops.concatenate([loc, log_scale + keras.ops.zeros_like(loc)], -1)


class _ToyDecoder(keras.layers.Layer):
    """z to loc z and log-scale 0; holds mu, the mean of the prior."""

    def __init__(self, prior_mean):
        super().__init__()
        self.prior_mean = _weight(self, prior_mean)

    def call(self, z):
        return keras.ops.concatenate([z, keras.ops.zeros_like(z)], -1)


class ToyLatentModel(LatentModel):
    """With the prior N(mu, I), mu being a parameter."""

    def log_joint(self, x: tf.Tensor, latents: Any, *args: Any, **kwargs: Any) -> Joint:
        joint = super().log_joint(x, latents, *args, **kwargs)
        prior = standard_normal(latents[0].shape[-1])
        shifted = latents[0] - self.decoder[0].prior_mean
        return joint._replace(log_prior=prior.log_prob(shifted))


class ToyModel(ImportanceWeightedAutoencoder):
    """The toy problem's model, on the MIWAE bound: VAE at K = 1 and IWAE at M = 1."""

    latent_class = ToyLatentModel

    def __init__(
        self, prior_mean: np.ndarray, kernel: np.ndarray, bias: np.ndarray
    ) -> None:
        super().__init__(
            _ToyEncoder(kernel, bias),
            _ToyDecoder(prior_mean),
            objective=MultiplyImportanceWeighted(),
            likelihood="normal",
        )


def toy_problem(
    *, seed: int = 0, num_points: int = NUM_POINTS, latent_dim: int = LATENT_DIM
) -> tuple[ToyModel, np.ndarray]:
    """The model beside its optimum, and its data.

    Args:
      seed: integer, of the data and of the perturbation.
      num_points: N.
      latent_dim: D.

    Returns:
      model: ToyModel, built.
      x: float32 [N, D].
    """
    rng = np.random.default_rng(seed)
    true_mean = rng.normal(size=latent_dim)
    x = true_mean + math.sqrt(2.0) * rng.normal(size=(num_points, latent_dim))
    optimum = [x.mean(axis=0), np.eye(latent_dim) / 2, x.mean(axis=0) / 2]
    model = ToyModel(
        *(v + PERTURBATION * rng.normal(size=np.shape(v)) for v in optimum)
    )
    model.build((None, latent_dim))
    return model, x.astype(np.float32)


def toy_slopes(
    *,
    counts: Sequence[int] = COUNTS,
    work: int = WORK,
    num_points: int = NUM_POINTS,
    seed: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """SNR of the toy problem's gradients against M and against K, with fitted slopes.

    Args:
      counts: numbers of draws, M at K = 1 and K at M = 1.
      work: at each point 10,000 gradients are made, or as many as need this number of
        draws a data point, and 100 at least: the SNR at large counts needs fewer.
      num_points: N.
      seed: integer.
      on_progress: optional function of the number of gradients just finished.

    Returns:
      dict with `lines`, a list of dicts: the fields of `Line`, lists over `counts` of
      `num_draws`, `snr`, `median`, `rms`, `dsnr` and `floor`, and the fitted `slope`.
    """
    model, x = toy_problem(seed=seed, num_points=num_points)

    def measure(varied, estimator, count):
        return gradient_snr(
            model,
            x,
            num_draws=_draws_at(count, work),
            seed=(seed, count),
            num_groups=count if varied == "M" else 1,
            num_samples=count if varied == "K" else 1,
            gradient_estimator=estimator,
            on_progress=on_progress,
        )

    measured = {s: [measure(*s, count) for count in counts] for s in SETTINGS}
    lines = [_line_results(line, counts, measured[line[:2]]) for line in LINES]
    sizes = {"num_points": num_points, "latent_dim": LATENT_DIM, "seed": seed}
    return sizes | {"lines": lines}


def num_gradients(work: int = WORK) -> int:
    """How many gradients `toy_slopes` takes in all, at its own counts."""
    return len(SETTINGS) * sum(2 * _draws_at(count, work) for count in COUNTS)


def _draws_at(count: int, work: int) -> int:
    return min(NUM_DRAWS, max(LEAST_DRAWS, work // count))


def _line_results(line, counts, found):
    """A `Line` with its measured points and slope, as a dict."""
    results = line._asdict() | over_counts(counts, found, line.half)
    results["num_draws"] = [each.num_draws for each in found]
    kept = [count >= line.fitted_from for count in counts]
    points = [np.asarray(v)[kept] for v in (counts, results["snr"], results["floor"])]
    return results | {"slope": fitted_slope(*points)}


def fitted_slope(counts: ArrayLike, snr: ArrayLike, floor: ArrayLike) -> float | None:
    """Slope of log SNR in log count, from the points at four floors and above.

    Args:
      counts: numbers of draws.
      snr: SNR at each.
      floor: SNR of noise alone, a number or one for each point.

    Returns:
      slope: float, or None with fewer than 3 points.
    """
    counts, snr = np.asarray(counts, float), np.asarray(snr, float)
    kept = snr > ABOVE_FLOOR * np.asarray(floor)
    if np.count_nonzero(kept) < 3:
        return None
    return float(np.polyfit(np.log(counts[kept]), np.log(snr[kept]), 1)[0])


def _weight(layer, value):
    start = keras.initializers.Constant(value)
    return layer.add_weight(shape=value.shape, initializer=start)
