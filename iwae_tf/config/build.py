"""The objects that a config names: its model and its optimiser."""

import keras
import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.bounds import OBJECTIVES
from iwae_tf.config.data import data_options
from iwae_tf.config.keys import fields_of, validate
from iwae_tf.config.networks import build_networks, build_prior
from iwae_tf.config.optimizers import BurdaAdam, Muon, PiecewiseCosine
from iwae_tf.config.stages import stages, with_epochs
from iwae_tf.models import MODELS
from iwae_tf.probability.distributions import LIKELIHOODS


def build_model(
    config: ConfigDict, *, mean_image: np.ndarray | None = None
) -> keras.Model:
    """The model that a config names, built for its data set's event shape.

    Args:
      config: ConfigDict.
      mean_image: optional float array, the mean training image in [0, 1]: the output
        bias starts at its logit (Bernoulli) or at itself (the others).

    Returns:
      model: one of VAE, IWAE, MIWAE, CIWAE, PIWAE, with variables but not compiled.

    Raises:
      InvalidInputError: a value that breaks a rule.
    """
    validate(config)
    schema = None
    if config.likelihood == "mixed":
        schema = datasets.table_schema(config.data_dir, config.schema)
        event_shape: tuple[int, ...] = (len(schema.columns),)
        output_shape: tuple[int, ...] = (schema.num_parameters,)
        mean_image = None  # the likelihood starts from the schema's statistics
    else:
        event_shape = datasets.event_shape(config.dataset, **data_options(config))
        last = LIKELIHOODS[config.likelihood].num_parameters
        output_shape = (*event_shape[:-1], last * event_shape[-1])
    policy = keras.dtype_policies.DTypePolicy(config.precision)
    encoder, decoder = build_networks(config, output_shape, mean_image, policy)
    first, bound = stages(config)[0], OBJECTIVES[config.model]
    arguments = {
        "num_samples": first.num_samples,
        "likelihood": config.likelihood,
        "missing": config.missing,
        "schema": schema,
        "gradient_estimator": config.gradient_estimator,
        "backward_samples": config.backward_samples,
        "binarization": "dynamic" if config.binarization == "dynamic" else "none",
        "seed": (config.seed, 0),
        "dtype": policy,
        "name": config.model,
        **{name: config[name] for name in fields_of(bound)},
    }
    if bound.has_groups:
        arguments["num_groups"] = first.num_groups
    if config.conditional:
        arguments["num_classes"] = datasets.num_classes(
            config.dataset, **data_options(config)
        )
        arguments["prior"] = build_prior(config, policy)
    model = MODELS[config.model](encoder, decoder, **arguments)
    model.build((None, *event_shape))
    return model


def build_optimizer(
    config: ConfigDict, *, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """The optimiser of a config, with its learning-rate schedule.

    Args:
      config: ConfigDict.
      steps_per_epoch: int, turns the epochs of the stages into steps.

    Returns:
      optimizer: keras.optimizers.Optimizer.
    """
    schedule = PiecewiseCosine(
        [
            (stage.epochs * steps_per_epoch, stage.first_rate, stage.last_rate)
            for stage in stages(with_epochs(config, steps_per_epoch))
        ]
    )
    average = {}
    if config.weight_average:
        average = {"use_ema": True, "ema_momentum": config.weight_average}
    if config.optimizer == "muon":
        return Muon(schedule, epsilon=config.adam_epsilon, **average)
    if config.optimizer == "burda_adam":
        return BurdaAdam(schedule, batch_size=config.batch_size, **average)
    return keras.optimizers.Adam(schedule, epsilon=config.adam_epsilon, **average)
