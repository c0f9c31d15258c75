"""Importance-weighted autoencoders on TensorFlow, Keras 3 and TensorFlow Probability."""

from iwae_tf import bounds
from iwae_tf.models import CIWAE, IWAE, MIWAE, PIWAE, VAE
