"""IWAE, one layer, k = 50, on MNIST: a schedule of sixty minutes of two cores.

Eight draws first, then fifty, of which eight go backward. It counts on 15 s an epoch at
k = 8, as in the long run of results/headline, and on half of that run's 45 s at k = 50.
The schedule itself has not been run.
"""

from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.num_samples = 50
    config.gradient_estimator = "dreg"
    config.backward_samples = 8
    config.optimizer = "muon"
    config.batch_size = 200
    config.epochs = 190
    config.stages = ((8, 110, 1.5e-3, 3e-4), (50, 80, 6e-4, 5e-6))
    config.eval_split = "test"
    return config
