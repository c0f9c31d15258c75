"""Whether a bound, a gradient, a proposal and a log-likelihood can be trusted.

  diagnosis    a whole diagnosis, part by part, and its report
  parts        what each part measures, draws and judges
  bounds_by_k  bounds against the number of draws
  annealing    log p(x) by annealed importance sampling
  coverage     whether error bars cover
  gaps         what the encoder loses, beside fitted Gaussians

May import `evaluation`, `models`, `plots`, `bounds`, `probability`, `io`, `errors` and
`checks`.
"""

from iwae_tf.diagnostics.annealing import annealed_log_likelihood
from iwae_tf.diagnostics.bounds_by_k import bound_sweep
from iwae_tf.diagnostics.coverage import error_coverage
from iwae_tf.diagnostics.draws import draw_log_weights
from iwae_tf.diagnostics.gaps import inference_gaps
from iwae_tf.diagnostics.gradient_noise import gradient_snr
from iwae_tf.diagnostics.representation import collapse, kl_per_unit, posterior_map
from iwae_tf.diagnostics.resampling import jackknife, leave_one_out
from iwae_tf.evaluation.pareto import pareto_k, trusted_k

__all__ = [
    "annealed_log_likelihood",
    "bound_sweep",
    "collapse",
    "draw_log_weights",
    "error_coverage",
    "gradient_snr",
    "inference_gaps",
    "jackknife",
    "kl_per_unit",
    "leave_one_out",
    "pareto_k",
    "posterior_map",
    "trusted_k",
]
