"""Residual convolutional IWAE on Fashion-MNIST's 256 grey levels."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "fashion_mnist"
    config.binarization = "none"
    config.likelihood = "discretized_logistic"
    config.network = "conv"
    config.hidden_dims = [[200]]
    config.num_samples = 5
    config.gradient_estimator = "dreg"
    config.batch_size = 100
    config.epochs = 50
    config.lr_schedule = "cosine"
    config.eval_split = "test"
    return config
