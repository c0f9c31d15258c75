"""Area under the ROC curve, with its standard error."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Auroc(NamedTuple):
    """P(score of a normal image > score of an anomaly), ties counting one half."""

    value: float
    standard_error: float


def auroc(normal, anomalies):
    """Estimates the AUROC of a score that is high for normal images.

    Var = var(P(s > a), over normal s) / N + var(P(s > a), over anomalies a) / M

    Args:
      normal: scores [N], N >= 2.
      anomalies: scores [M], M >= 2.

    Returns:
      Auroc.

    References:
      DeLong, DeLong and Clarke-Pearson, 1988. Comparing the areas under two or more
        correlated receiver operating characteristic curves: a nonparametric approach.
    """
    ranks = stats.rankdata(np.concatenate([normal, anomalies]))
    num_normal, num_anomalies = len(normal), len(anomalies)
    # Rank among all minus rank among one's own: how many of the others are below.
    above = ranks[:num_normal] - stats.rankdata(normal)
    below = ranks[num_normal:] - stats.rankdata(anomalies)
    of_normal, of_anomalies = above / num_anomalies, 1.0 - below / num_normal
    variance = (
        of_normal.var(ddof=1) / num_normal + of_anomalies.var(ddof=1) / num_anomalies
    )
    return Auroc(float(of_normal.mean()), float(np.sqrt(variance)))
