"""Whether the copies of each variable on two devices are equal after training.

python -m torture.replicas DATA.npz prints JSON: optimiser to names of unequal ones.
"""

import functools
import json
import sys

import numpy as np

from iwae_tf.runs.checkpoints import variables_of
from iwae_tf.runs.devices import make_distribution
from iwae_tf.runs.splits import load_examples
from iwae_tf.runs.training import batches, compiled_model
from torture.job import tiny_config

STEPS = 19  # an epoch


def unequal(config, distribution):
    """Names of the variables whose copies differ after an epoch."""
    examples = load_examples(config, "train")
    with distribution.strategy.scope():
        model = compiled_model(config, examples.images, STEPS, distribution)
    data = distribution.dataset(functools.partial(batches, config, examples, 0, 0))
    model.fit(data, steps_per_epoch=STEPS, epochs=1, verbose=0)
    copies = {
        name: [
            copy.numpy()
            for copy in distribution.strategy.experimental_local_results(v.value)
        ]
        for name, v in variables_of(model).items()
    }
    return [n for n, (one, other) in copies.items() if not np.array_equal(one, other)]


def main(data):
    """Trains with each optimiser, wide enough for Muon's Gram form."""
    distribution, found = make_distribution("mirrored", 2), {}
    for optimizer in ("adam", "burda_adam", "muon"):
        config = tiny_config(data, epochs=1)
        config.optimizer, config.latent_dims, config.hidden_dims = (
            optimizer,
            [8],
            [[32]],
        )
        found[optimizer] = unequal(config, distribution)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
