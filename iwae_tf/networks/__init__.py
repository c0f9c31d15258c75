"""Keras layers that return the parameters of distributions as plain tensors.

  mlp        the papers' fully connected encoder and decoder
  conv       residual convolutional ones
  two_heads  an encoder whose loc and log-variance are two outputs

May import `errors` and `checks`.
"""

from iwae_tf.networks.conv import ConvDecoder, ConvEncoder
from iwae_tf.networks.mlp import MLP, WithLabels, with_labels
from iwae_tf.networks.two_heads import TwoHeads

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "TwoHeads",
    "WithLabels",
    "with_labels",
]
