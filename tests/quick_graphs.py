"""Runs graphs as they were traced: imported by whatever tests many small ones once.

To rewrite a graph takes longer than to run it a few times.
"""

import tensorflow as tf

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
