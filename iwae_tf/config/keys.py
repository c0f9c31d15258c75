"""Configs: what a run is, checked by name, and the objects that it names.

Only this module and `config_networks` read a ConfigDict; all else takes arguments.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from iwae_tf import datasets
from iwae_tf.config.networks import NETWORKS, build_networks, build_prior
from iwae_tf.config.optimizers import COSINE_FLOOR, BurdaAdam, Muon, PiecewiseCosine
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import MODELS
from iwae_tf.models.gradients import GRADIENT_ESTIMATORS
from iwae_tf.probability.distributions import LIKELIHOODS

GROUPED_MODELS = ("miwae", "piwae")
OPTIMIZERS = ("adam", "muon", "burda_adam")
LR_SCHEDULES = ("constant", "cosine", "burda", "burda_code")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
BURDA_STAGES = 8  # stage i = 0..7 runs 3^i epochs
BURDA_CODE_RATES = (1.0, 0.72, 0.52, 0.37, 0.27, 0.19, 0.14, 0.1)

CHOICES = {
    "model": tuple(MODELS),
    "gradient_estimator": GRADIENT_ESTIMATORS,
    "network": NETWORKS,
    "likelihood": tuple(LIKELIHOODS),
    "dataset": datasets.DATASETS,
    "binarization": datasets.BINARIZATIONS,
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "precision": PRECISIONS,
    "eval_split": ("validation", "test"),
}
POSITIVE_INTEGERS = (
    "num_groups",
    "num_samples",
    "batch_size",
    "epochs",
    "eval_num_samples",
)
SEEDS = ("seed", "eval_seed")


class Stage(NamedTuple):
    """Epochs of training with one number of draws, and the rates at its ends."""

    num_samples: int
    epochs: int
    first_rate: float
    last_rate: float
    num_groups: int = 1


def default_config() -> ConfigDict:
    """The keys that every config has: Burda et al.'s one-layer IWAE on MNIST.

    Returns:
      config: ml_collections.ConfigDict; a config file overrides a few of its values.
    """
    config = ConfigDict()
    config.model = "iwae"  # vae, iwae, miwae, ciwae, piwae
    config.num_groups = 1  # M, draws outside the log: miwae and piwae
    config.num_samples = 50  # K, draws inside the log
    config.beta = placeholder(float)  # ciwae only: weight of the ELBO
    config.gradient_estimator = "reparameterized"  # or stl, dreg
    config.latent_dims = _list([50])  # one a stochastic layer, z1 first
    config.hidden_dims = _list([[200, 200]])  # a list a stochastic layer
    config.network = "mlp"  # or conv, for q(z1|x) and p(x|z1); the rest are MLPs
    config.conv_channels = _list([16, 32])  # conv only: one a resolution, x first
    config.likelihood = "bernoulli"  # or normal, discretized_logistic
    config.conditional = False  # whether q, p(z) and p(x|z) are given the class label
    config.dataset = "mnist"
    config.data_dir = placeholder(str)  # where the data set lies; None: its default
    config.binarization = "dynamic"  # or fixed, threshold, none
    config.batch_size = 20
    config.shuffle = True  # a new order each epoch
    config.epochs = 3280  # at most those of `stages` or of the burda schedule
    config.optimizer = "adam"  # or muon, burda_adam
    config.learning_rate = 1e-3
    config.adam_epsilon = 1e-4
    config.lr_schedule = "burda"  # or constant, cosine, burda_code
    # (num_samples, epochs, first rate, last rate), ...; a fifth entry is num_groups.
    config.stages = _list([])
    config.weight_average = 0.0  # momentum of the averaged weights; 0: none
    config.start_from = placeholder(str)  # finished run whose weights are the first
    config.precision = "float32"  # or mixed_bfloat16, mixed_float16
    config.jit_compile = True  # compile the training step with XLA, but for conv
    config.seed = 0
    config.eval_split = "validation"  # or test
    config.eval_seed = 1  # of the test binarization and of the evaluation's draws
    config.eval_num_samples = 5000
    return config


def validate(config: ConfigDict) -> None:
    """Checks every key of a config.

    Args:
      config: ConfigDict.

    Raises:
      InvalidInputError: an unknown or missing key, or a value that breaks a rule.
    """
    known = set(default_config())
    for key in config:
        check_key(key)
    for key in sorted(known - set(config)):
        raise InvalidInputError(f"`{key}` must be in the config. Received: no such key")
    for key, choices in CHOICES.items():
        _require(
            config[key] in choices, key, f"must be one of {', '.join(choices)}", config
        )
    for key in POSITIVE_INTEGERS:
        _require(_is_integer(config[key], 1), key, "must be a positive integer", config)
    for key in SEEDS:
        _require(
            _is_integer(config[key], 0), key, "must be a non-negative integer", config
        )
    for key in ("learning_rate", "adam_epsilon"):
        good = _is_number(config[key]) and config[key] > 0
        _require(good, key, "must be a positive number", config)
    average = config.weight_average
    good = _is_number(average) and 0 <= average < 1
    _require(good, "weight_average", "must be in [0, 1)", config)
    for key in ("shuffle", "jit_compile", "conditional"):
        good = isinstance(config[key], bool)
        _require(good, key, "must be true or false", config)
    _require(
        not config.conditional or config.dataset not in datasets.UNLABELLED,
        "dataset",
        "must have labels for a conditional model",
        config,
    )
    _validate_model(config)
    _validate_layers(config)
    _validate_stages(config)


def override(config: ConfigDict, **values: Any) -> ConfigDict:
    """Puts values other than None into a config, which has to be valid with them.

    Raises:
      InvalidInputError: a bad value.
    """
    for key, value in values.items():
        if value is not None:
            config[key] = value
    validate(config)
    return config


def check_key(key: str) -> None:
    """Raises InvalidInputError unless `key` is one that configs have."""
    known = sorted(default_config())
    if key.split(".")[0] not in known:
        raise InvalidInputError(
            f"`{key}` must be a config key, one of {', '.join(known)}. Received: {key}"
        )


def stages(config: ConfigDict) -> list[Stage]:
    """The training stages of a config.

    Returns:
      list of Stage, as long as the schedule; training stops after `config.epochs`.
    """
    rate, groups = config.learning_rate, config.num_groups
    if config.stages:
        return [Stage(*stage[:4], *(stage[4:] or [groups])) for stage in config.stages]
    if config.lr_schedule == "burda":
        shares = [10 ** (-i / (BURDA_STAGES - 1)) for i in range(BURDA_STAGES)]
    elif config.lr_schedule == "burda_code":
        shares = list(BURDA_CODE_RATES)
    else:
        last = rate * (COSINE_FLOOR if config.lr_schedule == "cosine" else 1.0)
        return [Stage(config.num_samples, config.epochs, rate, last, groups)]
    return [
        Stage(config.num_samples, 3**i, rate * share, rate * share, groups)
        for i, share in enumerate(shares)
    ]


def plainest(config: ConfigDict) -> ConfigDict:
    """The same training run, by the plainest name of its objective.

    Of one group, M = 1, MIWAE and PIWAE are IWAE; of one draw inside the log, K = 1,
    MIWAE is the VAE of M draws, and IWAE the VAE of one; CIWAE of beta 0 is IWAE, of 1
    the VAE. DReG of the VAE is STL. Two runs whose plainest configs are equal train the
    same weights, up to rounding.

    Args:
      config: ConfigDict, valid.

    Returns:
      config: ConfigDict, a copy.

    References:
      Rainforth et al., 2018: each of the three includes IWAE as a special case.
        https://arxiv.org/abs/1802.04537
    """
    plain = config.copy_and_resolve_references()
    all_stages = stages(config)
    if config.model == "ciwae" and config.beta in (0, 1):
        plain.model, plain.beta = "vae" if config.beta else "iwae", None
    if all(stage.num_groups == 1 for stage in all_stages):
        plain.model = "iwae" if config.model in GROUPED_MODELS else plain.model
    if all(stage.num_samples == 1 for stage in all_stages):
        plain.model = "vae" if plain.model in ("iwae", "miwae") else plain.model
    if plain.model not in GROUPED_MODELS:
        plain.num_samples, plain.num_groups = config.num_groups * config.num_samples, 1
        plain.stages = [
            (stage.num_groups * stage.num_samples, *stage[1:4])
            for stage in (all_stages if config.stages else [])
        ]
    if plain.model == "vae" and config.gradient_estimator == "dreg":
        plain.gradient_estimator = "stl"
    return plain


def set_draws(model: Any, draws: Stage | ConfigDict) -> None:
    """Gives a model the numbers of draws M and K, where they are not what it has.

    Args:
      model: one of `iwae_tf.models`.
      draws: Stage, or ConfigDict, with `num_groups` and `num_samples`.
    """
    for name in ("num_groups", "num_samples"):
        if getattr(model, name) != getattr(draws, name):
            setattr(model, name, getattr(draws, name))


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
    event_shape = datasets.event_shape(config.dataset, data_dir=config.data_dir)
    policy = keras.dtype_policies.DTypePolicy(config.precision)
    encoder, decoder = build_networks(config, event_shape, mean_image, policy)
    first = stages(config)[0]
    arguments = {
        "num_samples": first.num_samples,
        "likelihood": config.likelihood,
        "gradient_estimator": config.gradient_estimator,
        "binarization": "dynamic" if config.binarization == "dynamic" else "none",
        "seed": (config.seed, 0),
        "dtype": policy,
        "name": config.model,
        **_label_arguments(config, policy),
    }
    if config.model in GROUPED_MODELS:
        arguments["num_groups"] = first.num_groups
    if config.model == "ciwae":
        arguments["beta"] = config.beta
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
            for stage in stages(config)
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


def _label_arguments(config, policy):
    """Of a conditional model: the classes, and p(z_L|y)."""
    if not config.conditional:
        return {}
    return {
        "num_classes": datasets.num_classes(config.dataset, data_dir=config.data_dir),
        "prior": build_prior(config, policy),
    }


def _validate_model(config):
    grouped = config.model in GROUPED_MODELS
    _require(
        grouped or config.num_groups == 1,
        "num_groups",
        f"must be 1 for {config.model}, whose draws are all `num_samples`",
        config,
    )
    if config.model == "ciwae":
        good = _is_number(config.beta) and 0 <= config.beta <= 1
        _require(good, "beta", "must be in [0, 1]", config)
    else:
        _require(config.beta is None, "beta", "must be left out but for ciwae", config)
    _require(
        config.likelihood != "discretized_logistic" or config.binarization == "none",
        "binarization",
        "must be none for discretized_logistic, which is of grey levels",
        config,
    )


def _validate_layers(config):
    dims, hidden = config.latent_dims, config.hidden_dims
    _require(
        _are_sizes(dims), "latent_dims", "must be a list of positive integers", config
    )
    good = (
        _is_list(hidden) and all(map(_are_sizes, hidden)) and len(hidden) == len(dims)
    )
    rule = f"must be {len(dims)} lists of positive integers, one a stochastic layer"
    _require(good, "hidden_dims", rule, config)
    good, rule = _are_sizes(config.conv_channels), "must be a list of positive integers"
    _require(good, "conv_channels", rule, config)


def _validate_stages(config):
    rule = (
        "must be a list of (num_samples, epochs, first rate, last rate), each "
        "optionally with num_groups"
    )
    good = _is_list(config.stages) and all(map(_is_stage, config.stages))
    _require(good, "stages", rule, config)
    last = stages(config)[-1]
    for key in ("num_samples", "num_groups"):
        value = getattr(last, key)
        rule = f"must be that of the last stage, {value}"
        _require(config[key] == value, key, rule, config)
    grouped = config.model in GROUPED_MODELS
    good = grouped or all(stage.num_groups == 1 for stage in stages(config))
    rule = f"must have a num_groups of 1 for {config.model}"
    _require(good, "stages", rule, config)
    total = sum(stage.epochs for stage in stages(config))
    _require(
        config.epochs <= total,
        "epochs",
        f"must be at most the schedule's {total}",
        config,
    )


def _is_stage(stage):
    return (
        _is_list(stage)
        and len(stage) in (4, 5)
        and _are_sizes([*stage[:2], *stage[4:]])
        and all(_is_number(rate) and rate > 0 for rate in stage[2:4])
    )


def _is_list(value):
    return isinstance(value, (list, tuple))


def _are_sizes(values):
    return (
        _is_list(values) and len(values) > 0 and all(_is_integer(v, 1) for v in values)
    )


def _is_number(value):
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) < math.inf


def _is_integer(value, lowest):
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and lowest <= value < 2**31
    )


def _require(good, key, rule, config):
    if not good:
        raise InvalidInputError(f"`{key}` {rule}. Received: {key}={config[key]!r}")


def _list(value):
    """A list field that a command-line flag can override, `--config.x='[1, 2]'`."""
    return FieldReference(value, field_type=object)
