"""The public names, `iwae_tf.IWAE` and so on. Importing them imports TensorFlow."""

from iwae_tf import startup  # noqa: F401, before anything imports TensorFlow

# isort: split

from iwae_tf import bounds, serving
from iwae_tf.config import build_model, default_config
from iwae_tf.datasets import load_dataset
from iwae_tf.evaluation import active_units, log_likelihood, refine_proposal
from iwae_tf.evaluation.classes import class_log_likelihoods
from iwae_tf.evaluation.imputation import impute
from iwae_tf.models import CIWAE, IWAE, MIWAE, PIWAE, VAE
from iwae_tf.runs.pretrained import from_pretrained, pretrained_models
from iwae_tf.runs.workdir import load
from iwae_tf.saved_model import export_saved_model

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "VAE",
    "active_units",
    "bounds",
    "build_model",
    "class_log_likelihoods",
    "default_config",
    "export_saved_model",
    "from_pretrained",
    "impute",
    "load",
    "load_dataset",
    "log_likelihood",
    "pretrained_models",
    "refine_proposal",
    "serving",
]
