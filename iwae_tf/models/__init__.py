"""The models: networks in, a Keras model that trains on a bound out.

May import `bounds`, `probability`, `networks`, `errors` and `checks`.
"""

from iwae_tf.models.bound_model import (
    CIWAE,
    IWAE,
    MIWAE,
    MODELS,
    PIWAE,
    VAE,
    ImportanceWeightedAutoencoder,
)

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "MODELS",
    "PIWAE",
    "VAE",
    "ImportanceWeightedAutoencoder",
]
