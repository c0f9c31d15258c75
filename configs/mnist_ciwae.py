"""Rainforth et al.'s CIWAE with beta = 0.5 and 64 draws on MNIST."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.model = "ciwae"
    config.num_samples = 64
    config.beta = 0.5
    config.eval_split = "test"
    return config
