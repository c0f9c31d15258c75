"""Burda et al.'s IWAE, one stochastic layer, on Omniglot.

`--config=omniglot_iwae` is k = 50, `--config=omniglot_iwae:5` another k.
"""

from iwae_tf.config import default_config


def get_config(num_samples="50"):
    config = default_config()
    config.num_samples = int(num_samples)
    config.dataset = "omniglot"
    config.eval_split = "test"
    return config
