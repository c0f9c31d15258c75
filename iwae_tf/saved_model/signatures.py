"""What an export can be asked: the functions of a SavedModel, traced.

| signature | inputs | outputs |
| --- | --- | --- |
| serving_default | x | log_likelihood, standard_error, effective_sample_size |
| log_likelihood | x, num_samples [], seed [2] | the same |
| error_bars | the same | the same, jackknife_error, pareto_k and bias_allowance |
| refined_log_likelihood | and num_steps [] | the same and is_refined |
| encode | x | loc, scale; with more layers loc_2, scale_2, ... |
| decode | z | mean |
| sample | num_samples [], seed [2] | mean, sample |
| reconstruct | x, seed [2] | mean |
| impute | x, num_samples [], seed [2] | mean, draw, effective_sample_size |
| refined_impute | and num_steps [] | the same |
| about | none | what is true of x, each 1 and told by its name alone; see `facts_of` |

The refined ones draw from proposals that are fitted to each image, in so many steps; 0
stands for the default. Of `num_samples=1` errors are NaN, and of fewer than 25
`pareto_k` and `bias_allowance`. A likelihood without a mean has no `decode`, no
`reconstruct` and no `mean` of `sample`.
Those of a conditional model take one input more, `y` int32 [batch], the class labels;
`sample` has one for each of `num_samples` images.
"""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from iwae_tf.evaluation import estimate_in_graph, refinement
from iwae_tf.evaluation.imputation import impute_in_graph
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.inputs import finite, require
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import description_of, mean_of

SCORES = (  # in the order of LogLikelihood's fields
    *("log_likelihood", "standard_error", "effective_sample_size"),
    *("jackknife_error", "pareto_k", "bias_allowance", "is_refined"),
)
# Of the scores, by the proposal that draws.
SIGNATURES = {"encoder": "error_bars", "refined": "refined_log_likelihood"}
# What stands for scores that an older export does not have.
OPTIONAL = {"pareto_k": math.nan, "bias_allowance": math.nan, "is_refined": 0.0}
ABOUT, TAKES_MISSING = "about", "takes_missing"
LEVELS = {"is_binary": 2, "has_256_levels": 256}  # that an element of x has


def facts_of(model: Autoencoder) -> list[str]:
    """What is true of x of a model: `TAKES_MISSING`, and one of `LEVELS`.

    A client reads these names in the description of the signature `about`, which a
    model without any of them does not have, nor does an older export.
    """
    num_levels = description_of(model.latent.likelihood).num_levels
    levels = [name for name, number in LEVELS.items() if number == num_levels]
    return [TAKES_MISSING] * model.latent.takes_missing + levels


def trace(model: Autoencoder, num_samples: int, refined: bool = True) -> dict[str, Any]:
    """Name of each signature to its concrete function.

    Args:
      model: a built model of this package.
      num_samples: draws of `serving_default`.
      refined: whether there are the signatures with refined proposals.
    """
    has_mean = model.has_mean

    def estimate(x, num_samples, seed, y, **options):
        y = model.gate.asserted_labels(y, tf.shape(x)[0])
        x, num_samples = model.gate.asserted(x), _at_least_one(num_samples)
        key, first_row = noise.make_key(seed), tf.constant(0, tf.int64)
        result = estimate_in_graph(
            model.latent, x, num_samples, key, first_row, y, **options
        )
        return dict(zip(SCORES, result, strict=True))

    @functools.partial(tf.function, autograph=False)  # traced once for three signatures
    def error_bars(x, num_samples, seed, y=None):
        outputs = estimate(x, num_samples, seed, y)
        return {name: outputs[name] for name in SCORES[:6]}

    def refined_log_likelihood(x, num_samples, seed, num_steps, y=None):
        return estimate(x, num_samples, seed, y, **_refined(num_steps))

    def log_likelihood(x, num_samples, seed, y=None):
        outputs = error_bars(x, num_samples, seed, y)
        return {name: outputs[name] for name in SCORES[:3]}

    def serving_default(x, y=None):
        return log_likelihood(x, tf.constant(num_samples), tf.constant([0, 0]), y)

    def encode(x, y=None):
        y = model.gate.asserted_labels(y, tf.shape(x)[0])
        proposals = model.encode_layers(model.gate.asserted(x), labels=y)
        outputs = {}
        for layer, proposal in enumerate(proposals, 1):
            suffix = f"_{layer}" if layer > 1 else ""
            outputs[f"loc{suffix}"] = proposal.mean()
            outputs[f"scale{suffix}"] = proposal.stddev()
        return outputs

    def decode(z, y=None):
        y = model.gate.asserted_labels(y, tf.shape(z)[0])
        z = require(z, finite(z, "z"))
        return {"mean": mean_of(model.decode(z, labels=y))}

    def sample(num_samples, seed, y=None):
        num_samples = _at_least_one(num_samples)
        y = model.gate.asserted_labels(y, num_samples)
        outputs = {"sample": model.sample(num_samples, seed, labels=y)}
        if has_mean:
            outputs["mean"] = model.sample(num_samples, seed, labels=y, mean=True)
        return outputs

    def reconstruct(x, seed, y=None):
        y = model.gate.asserted_labels(y, tf.shape(x)[0])
        return {"mean": model.reconstruct(model.gate.asserted(x), seed, labels=y)}

    def impute(x, num_samples, seed, y=None, **options):
        y = model.gate.asserted_labels(y, tf.shape(x)[0])
        x, num_samples = model.gate.asserted(x), _at_least_one(num_samples)
        mean, draw, size, _ = impute_in_graph(
            model.latent, x, num_samples, 1, noise.make_key(seed),
            tf.constant(0, tf.int64), y, **options,
        )  # fmt: skip
        return {"mean": mean, "draw": draw[:, 0], "effective_sample_size": size}

    def refined_impute(x, num_samples, seed, num_steps, y=None):
        return impute(x, num_samples, seed, y, **_refined(num_steps))

    def about():
        return dict.fromkeys(facts_of(model), tf.constant(1.0))

    imputes = has_mean and model.latent.takes_missing
    functions: list[Any] = [
        *[serving_default, log_likelihood, error_bars, encode, sample],
        *[impute] * imputes,
        *[refined_log_likelihood] * refined,
        *[refined_impute] * (imputes and refined),
        *[decode, reconstruct] * has_mean,
        *[about] * bool(facts_of(model)),
    ]
    specs = {
        "x": tf.TensorSpec([None, *model.event_shape], tf.float32, "x"),
        "z": tf.TensorSpec([None, model.latent_dims[0]], tf.float32, "z"),
        "num_samples": tf.TensorSpec([], tf.int32, "num_samples"),
        "num_steps": tf.TensorSpec([], tf.int32, "num_steps"),
        "seed": tf.TensorSpec([2], tf.int32, "seed"),
    }
    if model.is_conditional:
        specs["y"] = tf.TensorSpec([None], tf.int32, "y")
    return {
        function.__name__: tf.function(
            _float32(function), autograph=False
        ).get_concrete_function(*_taken(function, specs))
        for function in functions
    }


def example_inputs(
    model: Autoencoder, functions: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """One request of each signature that has inputs, with images of the model's own.

    Args:
      model: the model that was traced.
      functions: what `trace` returned.
    """
    x = model.sample(2, labels=0 if model.is_conditional else None)
    values = {
        "x": tf.cast(x, tf.float32),
        "z": tf.zeros([2, model.latent_dims[0]]),
        "num_samples": tf.constant(2),
        "num_steps": tf.constant(0),
        "seed": tf.constant([0, 0]),
        "y": tf.constant([0, 0]),
    }
    requests = {}
    for name, function in functions.items():
        specs = tf.nest.flatten(function.structured_input_signature)
        names = [spec.name for spec in specs if spec is not None]  # y, where it is None
        requests[name] = {key: values[key] for key in names}
    return {name: inputs for name, inputs in requests.items() if inputs}


def _taken(function, specs):
    """The specs of the arguments of a function, in their order."""
    names = inspect.signature(function).parameters
    return [specs[name] for name in names if name in specs]


def _float32(function):
    """`function` with every output cast to float32, under its own argument names."""

    @functools.wraps(function)
    def cast(*args):
        return {name: tf.cast(v, tf.float32) for name, v in function(*args).items()}

    return cast


def _refined(num_steps):
    """The options of refined proposals, for a `num_steps` that is zero or positive."""
    rule = "num_steps: must be a positive integer, or 0 for the default"
    num_steps = require(num_steps, (num_steps >= 0, rule, num_steps))
    num_steps = tf.where(num_steps == 0, refinement.NUM_STEPS, num_steps)
    return {"proposal": "refined", "num_steps": num_steps}


def _at_least_one(num_samples):
    """`num_samples`, once it has been found to be positive."""
    rule = "num_samples: must be a positive integer"
    return require(num_samples, (num_samples > 0, rule, num_samples))
