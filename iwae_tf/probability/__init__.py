"""Distributions, log-weights and noise: the numerics that know no Keras.

  noise                 counter-based random numbers, the same in every mode
  log_weights           sums over importance weights, in log space
  distributions         from plain parameters to TFP distributions
  discretized_logistic  a likelihood of 256 grey levels

May import `errors` and `checks`.
"""
