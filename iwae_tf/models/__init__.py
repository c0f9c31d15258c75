"""The models: networks in, a Keras model that trains on a bound out.

  family        VAE, IWAE, MIWAE, CIWAE and PIWAE, which name their objectives
  bound_model   the Keras model: settings, one training step, metrics
  latent_model  q(z|x), p(x, z) and their draws, as a plain object
  gradients     what each draw weighs, and the encoder's gradient
  kept_draws    which draws go backward, where not all do
  one_pass      one backward pass through the decoder instead of two
  autoencoder   what a model is made of, and what it can be asked
  saving        what Keras writes down of a model, and reads back
  inputs        the one gate for data
  values        which values x may have, by likelihood
  keras_loop    `fit` and `evaluate` as one program
  arguments     what these are called with
  programs      the program: many steps, one after the other
  private       what Keras and TensorFlow have no public name for
  building      how networks are built and called
  metrics       means over an epoch
  replicas      copies on several devices, kept equal
  graphs        traced graphs, let go with their program

May import `bounds`, `probability`, `networks`, `errors` and `checks`.
"""

from iwae_tf.models.bound_model import ImportanceWeightedAutoencoder
from iwae_tf.models.family import CIWAE, IWAE, MIWAE, MODELS, PIWAE, VAE

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "MODELS",
    "PIWAE",
    "VAE",
    "ImportanceWeightedAutoencoder",
]
