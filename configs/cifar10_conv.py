"""Residual convolutional IWAE on CIFAR-10, 32 x 32 in colour, 8 bits."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "cifar10"
    config.binarization = "none"
    config.likelihood = "discretized_logistic"
    config.network = "conv"
    config.hidden_dims = [[200]]
    config.latent_dims = [128]
    config.conv_channels = [32, 64]
    config.num_samples = 5
    config.gradient_estimator = "dreg"
    config.batch_size = 100
    config.epochs = 50
    config.lr_schedule = "cosine"
    config.eval_split = "test"
    return config
