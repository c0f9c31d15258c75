"""Tiny models, the data that fits them, and models whose posterior is exact."""

import functools
import tempfile
import textwrap

import children
import keras
import numpy as np
import tensorflow as tf
from closed_form import (
    ConditionalLinearGaussian,
    LinearGaussian,
    TwoLayerConditionalLinearGaussian,
    TwoLayerLinearGaussian,
)

from iwae_tf.models import IWAE, MODELS
from iwae_tf.networks import MLP, WithLabels
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import LIKELIHOODS
from iwae_tf.saved_model import export_saved_model

EVENT, M, K, BETA, CLASSES = (4,), 3, 5, 0.3, 3
DIGITS, DRAWS = (3, 2, 1), 20  # the shape and the draws of what is served
SETTINGS = {
    "vae": {"num_samples": K},
    "iwae": {"num_samples": K},
    "miwae": {"num_groups": M, "num_samples": K},
    "ciwae": {"num_samples": K, "beta": BETA},
    "piwae": {"num_groups": M, "num_samples": K},
}
NAMES = list(SETTINGS)
ESTIMATORS = ("reparameterized", "stl", "dreg")
PROBLEMS = {
    "one layer": LinearGaussian(),
    "two layers": TwoLayerLinearGaussian(),
    "labels": ConditionalLinearGaussian(),
    "labels, no prior": ConditionalLinearGaussian(has_prior=False),
    "labels, two layers": TwoLayerConditionalLinearGaussian(),
}
CONDITIONAL = list(PROBLEMS)[2:]


def networks(num_layers=1, event=EVENT, has_prior=None, likelihood="bernoulli"):
    """Encoder, decoder, prior: latents of 2 units, and 1 above; the same each time."""
    keras.utils.set_random_seed(5)
    known = LIKELIHOODS.get(likelihood) if isinstance(likelihood, str) else None
    count = known.num_parameters if known else 1  # as two for loc and log_scale
    outputs = (*event[:-1], count * event[-1])
    encoder = [MLP([5], (4,)), MLP([6], (2,))][:num_layers]
    decoder = [MLP([5], outputs), MLP([6], (4,))][:num_layers]
    top = 4 if num_layers == 1 else 2
    return encoder, decoder, MLP([3], (top,)) if has_prior else None


def build(
    name="iwae", num_layers=1, *, event=EVENT, labels=False, has_prior=None, nets=None,
    likelihood="bernoulli", **settings
):  # fmt: skip
    """A small model, built; where `nets` are not given, away from zero biases.

    `name` is that of a model, or a class that has no settings here.
    """
    has_prior = labels if has_prior is None else has_prior
    made = nets or networks(num_layers, event, has_prior, likelihood)
    settings = {**SETTINGS.get(name, {}), "likelihood": likelihood, **settings}
    if labels:
        prior = made[2] if made[2:] else None
        settings = {"num_classes": CLASSES, "prior": prior, **settings}
    model = MODELS.get(name, name)(*made[:2], **settings)
    model.build((None, *event))
    if nets is None:
        rng = np.random.default_rng(6)
        for variable in model.trainable_variables:
            variable.assign(variable + 0.4 * rng.normal(size=variable.shape))
    return model


@functools.cache
def shared(*args, **kwargs):
    """A model of `build` to be read only: one for all tests that ask for it."""
    return build(*args, **kwargs)


def reloaded(model, folder):
    """The model again, from a file in a folder, in the safe mode of Keras."""
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def export_digits(path, seed=1):
    """A model of small images, and the folder whose next version it becomes."""
    nets = MLP([6], (8,), seed=seed), MLP([6], DIGITS, seed=seed + 1)
    model, rng = IWAE(*nets), np.random.default_rng(seed)
    model.build((None, *DIGITS))
    model.set_weights([w + rng.normal(size=w.shape) for w in model.get_weights()])
    export_saved_model(model, path, DRAWS)
    return model, path


def save_function(path, function):
    """A SavedModel of nothing but a function of a vector."""
    module = tf.Module()
    module.f = tf.function(function).get_concrete_function(
        tf.TensorSpec([None], tf.float32, "x")
    )
    tf.saved_model.save(module, str(path), {"serving_default": module.f})
    return path


def binary(rows=4, event=EVENT, seed=2):
    return np.random.default_rng(seed).integers(0, 2, (rows, *event)).astype("float32")


def classes(rows=4):
    return np.random.default_rng(3).integers(0, CLASSES, rows)


def exact_model(problem, **proposal):
    """A model of the problem; q is exact, or moved as `problem.encoder` says."""
    nets = problem.encoder(**proposal), problem.decoder()
    nets = [net if isinstance(net, list) else [net] for net in nets]
    settings = {"likelihood": "normal"}
    if has_labels(problem):
        nets = [[WithLabels(net) for net in half] for half in nets]
        settings |= {"num_classes": problem.num_classes, "prior": problem.prior()}
    model = IWAE(*nets, **settings)
    model.build((None, len(problem.noise)))
    return model


def has_labels(problem):
    return isinstance(problem, ConditionalLinearGaussian)


def draw(model, rows=4):
    """The noise of a step [M, K, rows, latents], the same each time."""
    shape = rows, model.num_groups, model.num_samples
    return model.latent.draw_noise(noise.make_key((1, 2)), 0, *shape)


def halves(model, gradients):
    """Those of the encoder and of the decoder with the prior, each net by net."""
    by_id = dict(zip(map(id, model.trainable_variables), gradients, strict=True))
    return tuple(
        [by_id[id(v)] for net in nets for v in net.trainable_variables]
        for nets in (model.encoder, model.latent.generative_networks)
    )


def assert_near(actual, expected, rtol=2e-4):
    """Equal to `rtol` of the largest element of each."""
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected):
        one, other = np.asarray(one), np.asarray(other)
        scale = np.abs(other).max()
        assert scale > 0
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * scale)


def data_of(problem, rows):
    """x and labels of a problem; None where it has none."""
    data = problem.data(rows)
    return data if has_labels(problem) else (data, None)


def log_prob_of(problem, x, labels):
    return problem.log_prob(x) if labels is None else problem.log_prob(x, labels)


def run_python(script, *args):
    """What a script prints that is the first in its process to use TensorFlow."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(textwrap.dedent(script))
        file.flush()
        done = children.run(file.name, *args)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
