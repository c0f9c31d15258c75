"""IWAE, one layer, k = 50, on MNIST in under an hour of two cores.

Muon and DReG at five draws, then a short stage at fifty.
"""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.num_samples = 50
    config.gradient_estimator = "dreg"
    config.optimizer = "muon"
    config.batch_size = 200
    config.epochs = 68
    config.stages = ((5, 60, 1.5e-3, 2e-4), (50, 8, 3e-4, 1e-5))
    config.eval_split = "test"
    return config
