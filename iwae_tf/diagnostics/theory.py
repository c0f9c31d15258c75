"""Two pictures of the theory: the bias of log mean exp, and what outlying draws weigh.

References:
  Burda et al., 2016. https://arxiv.org/abs/1509.00519
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special, stats

TWO_POINTS = (1.0, 100.0)
RARE = 0.05  # probability of the larger one
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def log_mean_bias(
    *,
    points: tuple[float, float] = TWO_POINTS,
    probability: float = RARE,
    counts: Sequence[int] = COUNTS,
) -> dict[str, Any]:
    """E log of the mean of k draws of a two-point variable X, exactly.

    X is points[1] with `probability` and points[0] otherwise. Of k draws the number
    of the larger is binomial, so that the expectation is a sum of k + 1 terms.

    Args:
      points: the two values, positive.
      probability: of the second one.
      counts: numbers of draws k.

    Returns:
      dict: `counts`, `expected` (E log mean_k X, a list) and `limit` (log E X).
    """
    low, high = points
    expected = []
    for count in counts:
        hits = np.arange(count + 1)
        values = np.log(low + (high - low) * hits / count)
        chances = stats.binom.pmf(hits, count, probability)
        expected.append(float(chances @ values))
    limit = float(np.log((1 - probability) * low + probability * high))
    return {"counts": list(counts), "expected": expected, "limit": limit}


def draw_contributions(
    *, loc: float = 1.0, scale: float = 2.0, num_draws: int = 20
) -> dict[str, Any]:
    """What each draw of a poor q adds to the ELBO and to the IWAE bound.

    The posterior is N(0, 1) and p(x) = 1, q is N(loc, scale^2). The ELBO is the mean
    of log w: a draw where the posterior is small costs without limit. In the IWAE
    bound a draw counts by its weight, and one of weight zero costs its place alone.
    The draws are the quantiles (k - 1/2) / K of q: typical ones, and the same always.

    Args:
      loc: mean of q.
      scale: standard deviation of q.
      num_draws: K.

    Returns:
      dict: `draws`, `log_weights`, `elbo_terms` (log w_k / K), `iwae_weights` (w~_k,
      what the draw weighs in the gradient; 1 / K in the ELBO's), lists over draws in
      increasing order; `elbo` and `iwae`, the bounds; `loc` and `scale`.
    """
    levels = (np.arange(num_draws) + 0.5) / num_draws
    draws = stats.norm.ppf(levels, loc, scale)
    log_weights = stats.norm.logpdf(draws) - stats.norm.logpdf(draws, loc, scale)
    return {
        "loc": loc,
        "scale": scale,
        "draws": draws.tolist(),
        "log_weights": log_weights.tolist(),
        "elbo_terms": (log_weights / num_draws).tolist(),
        "iwae_weights": special.softmax(log_weights).tolist(),
        "elbo": float(log_weights.mean()),
        "iwae": float(special.logsumexp(log_weights) - np.log(num_draws)),
    }
