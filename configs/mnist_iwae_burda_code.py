"""Burda et al.'s one-layer IWAE with the settings of their code.

They differ from the text: Adam on gradients summed over the batch, beta_1 0.99,
second moments that start at one, rounded rates, and the same order each epoch.
"""

from iwae_tf.config import default_config


def get_config(num_samples="50"):
    config = default_config()
    config.num_samples = int(num_samples)
    config.optimizer = "burda_adam"
    config.lr_schedule = "burda_code"
    config.shuffle = False
    config.eval_split = "test"
    return config
