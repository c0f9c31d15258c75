"""Keras layers that return the parameters of distributions as plain tensors.

  mlp    the papers' fully connected encoder and decoder
  conv   residual convolutional ones

May import `errors` and `checks`.
"""

from iwae_tf.networks.conv import ConvDecoder, ConvEncoder
from iwae_tf.networks.mlp import MLP, WithLabels, with_labels

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "WithLabels", "with_labels"]
