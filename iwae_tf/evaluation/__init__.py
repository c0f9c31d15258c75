"""What a trained model is worth: log-likelihoods and active units.

  importance_sampling  log p(x) by streamed draws, active units
  classes              log p(x|y) under each class, and Bayes' rule

May import `models`, `probability`, `errors` and `checks`.
"""

from iwae_tf.evaluation.importance_sampling import (
    ACTIVE_VARIANCE,
    CHUNK_SIZE,
    LAYER_DRAWS,
    SCORES_PER_CALL,
    LayerStatistics,
    LogLikelihood,
    active_masks,
    active_units,
    concatenate,
    count_active,
    estimate_in_graph,
    layer_statistics,
    log_likelihood,
    stream_draws,
    summarize,
)

__all__ = [
    "ACTIVE_VARIANCE",
    "CHUNK_SIZE",
    "LAYER_DRAWS",
    "SCORES_PER_CALL",
    "LayerStatistics",
    "LogLikelihood",
    "active_masks",
    "active_units",
    "concatenate",
    "count_active",
    "estimate_in_graph",
    "layer_statistics",
    "log_likelihood",
    "stream_draws",
    "summarize",
]
