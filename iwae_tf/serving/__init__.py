"""Scores from a served model: clients, score files, pipelines.

May import `saved_model`, `evaluation`, `config`, `models`, `datasets`, `probability`,
`io`, `errors` and `checks`.
"""

from iwae_tf.serving.client import batch_seed, in_order, score

__all__ = ["batch_seed", "in_order", "score"]
