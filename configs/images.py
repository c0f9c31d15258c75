"""IWAE on a folder of one's own 8-bit images, `--config.data_dir=FOLDER`."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "images"
    config.binarization = "none"
    config.likelihood = "discretized_logistic"
    config.num_samples = 5
    config.gradient_estimator = "dreg"
    config.optimizer = "muon"
    config.batch_size = 100
    config.epochs = 0  # 40, or more of a small folder
    config.lr_schedule = "cosine"
    config.learning_rate = 1.5e-3
    config.eval_split = "test"
    return config
