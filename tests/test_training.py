import numpy as np
import pytest

import iwae_tf
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP
from iwae_tf.runs.training import copy_weights


def small_model(latent_dim=2, seed=0):
    networks = MLP([4], (2 * latent_dim,), seed=seed), MLP([4], (3,), seed=seed)
    model = iwae_tf.IWAE(*networks, num_samples=2)
    model.build((None, 3))
    return model


def test_a_run_starts_from_the_weights_of_another_and_counts_its_own_steps():
    source, target = small_model(seed=1), small_model(seed=2)
    x = np.eye(3, dtype=np.float32)
    source.compile("adam", jit_compile=False)
    source.fit(x, epochs=2, verbose=0)
    copy_weights(source, target)
    for ours, theirs in zip(target.trainable_variables, source.trainable_variables):
        np.testing.assert_array_equal(ours, theirs)
    scores = [model.log_weights(x, 1, 4) for model in (source, target)]
    np.testing.assert_array_equal(*scores)
    assert int(source.train_steps) == 2 and int(target.train_steps) == 0


def test_other_networks_are_refused():
    with pytest.raises(InvalidInputError, match="`start_from` must be a run of the"):
        copy_weights(small_model(3), small_model(2))
