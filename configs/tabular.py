"""IWAE on a table of one's own, `--config.data_dir=TABLE.csv`: mixed columns, holes."""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "table"
    config.binarization = "none"
    config.likelihood = "mixed"
    config.missing = "marginalize_with_mask"
    config.latent_dims = [10]
    config.hidden_dims = [[64, 64]]
    config.num_samples = 20
    config.gradient_estimator = "dreg"
    config.batch_size = 50
    config.epochs = 200
    config.lr_schedule = "cosine"
    config.eval_split = "test"
    return config
