"""What a trained model is worth: log-likelihoods and active units.

  streaming            log p(x) from thousands of draws, in a graph
  refinement           proposals fitted to each image
  posteriors           the same as distributions
  compiling            programs that do not keep a model alive, over batches of one size
  importance_sampling  the same of data sets, with error bars
  latent_units         active units
  classes              log p(x|y) under each class, and Bayes' rule
  imputation           missing values filled in
  traversals           means of p(x|z) on a line and over a plane
  pareto               whether weights can be trusted

May import `models`, `probability`, `errors` and `checks`.
"""

from iwae_tf.evaluation.importance_sampling import (
    SCORES_PER_CALL,
    concatenate,
    log_likelihood,
    summarize,
)
from iwae_tf.evaluation.latent_units import (
    ACTIVE_VARIANCE,
    LAYER_DRAWS,
    LayerStatistics,
    active_masks,
    active_units,
    count_active,
    layer_statistics,
)
from iwae_tf.evaluation.posteriors import refine_proposal
from iwae_tf.evaluation.streaming import (
    CHUNK_SIZE,
    LogLikelihood,
    estimate_in_graph,
    stream_draws,
)
