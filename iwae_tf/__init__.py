"""Importance-weighted autoencoders on TensorFlow, Keras 3 and TFP."""

import os

# Before TensorFlow is imported: its C++ side reports every start on stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# isort: split

from iwae_tf import bounds
from iwae_tf.config import build_model, default_config
from iwae_tf.datasets import load_dataset
from iwae_tf.evaluation import active_units, log_likelihood
from iwae_tf.models import CIWAE, IWAE, MIWAE, PIWAE, VAE
from iwae_tf.saved_model import export_saved_model
from iwae_tf.workdir import load

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "VAE",
    "active_units",
    "bounds",
    "build_model",
    "default_config",
    "export_saved_model",
    "load",
    "load_dataset",
    "log_likelihood",
]
