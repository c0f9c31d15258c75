"""Burda et al.'s VAE with k draws, two stochastic layers, on MNIST.

`--config=mnist_vae_2l` is k = 50, `--config=mnist_vae_2l:5` another k.
"""

from iwae_tf.config import default_config


def get_config(num_samples="50"):
    config = default_config()
    config.model = "vae"
    config.num_samples = int(num_samples)
    config.latent_dims = [100, 50]
    config.hidden_dims = [[200, 200], [100, 100]]
    config.eval_split = "test"
    return config
