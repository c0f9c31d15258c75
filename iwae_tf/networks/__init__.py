"""Keras layers that return the parameters of distributions as plain tensors.

  mlp       the papers' fully connected encoder and decoder
  conv      residual convolutional ones
  wrappers  around a network: for labels, and for loc and log-variance as two outputs

May import `errors` and `checks`.
"""

from iwae_tf.networks.conv import ConvDecoder, ConvEncoder
from iwae_tf.networks.mlp import MLP
from iwae_tf.networks.wrappers import TwoHeads, WithLabels, with_labels

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "TwoHeads",
    "WithLabels",
    "with_labels",
]
