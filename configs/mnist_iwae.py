"""Burda et al.'s IWAE, one stochastic layer, k = 50, on MNIST."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.eval_split = "test"
    return config
