"""The demo's IWAE given the digit's class: q(z|x, y), p(z|y) and p(x|z, y)."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "mnist5k"
    config.conditional = True
    config.num_samples = 5
    config.gradient_estimator = "dreg"
    config.optimizer = "muon"
    config.batch_size = 100
    config.epochs = 40
    config.lr_schedule = "cosine"
    config.learning_rate = 1.5e-3
    config.eval_split = "test"
    return config
