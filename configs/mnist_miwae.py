"""Rainforth et al.'s MIWAE(8, 8) on MNIST: M * K = 64."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.model = "miwae"
    config.num_groups = 8
    config.num_samples = 8
    config.eval_split = "test"
    return config
