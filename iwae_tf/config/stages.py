"""What a config trains for how long: its stages, and its objective by another name.

Needs no TensorFlow until `plainest` is called.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

BURDA_STAGES = 8  # stage i = 0..7 runs 3^i epochs
BURDA_CODE_RATES = (1.0, 0.72, 0.52, 0.37, 0.27, 0.19, 0.14, 0.1)
COSINE_FLOOR = 0.01  # where the cosine schedule ends, as a share of where it starts
USUAL_EPOCHS, LEAST_STEPS = 40, 2000  # what epochs=0 stands for
LR_SCHEDULES = ("constant", "cosine", "burda", "burda_code")


class Stage(NamedTuple):
    """Epochs of training with one number of draws, and the rates at its ends."""

    num_samples: int
    epochs: int
    first_rate: float
    last_rate: float
    num_groups: int = 1


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


def with_epochs(config: ConfigDict, steps_per_epoch: int) -> ConfigDict:
    """A config whose epochs are a number: 0 is 40, or as many as make 2,000 steps.

    Returns:
      config: itself, or a copy.
    """
    if config.epochs:
        return config
    config = config.copy_and_resolve_references()
    config.epochs = max(USUAL_EPOCHS, -(-LEAST_STEPS // steps_per_epoch))
    return config


def is_free_of_stages(config: ConfigDict) -> bool:
    """Whether the schedule is as long as `epochs` says."""
    return not config.stages and config.lr_schedule in ("constant", "cosine")


def depends_on_epochs(config: ConfigDict) -> bool:
    """Whether a longer run has other learning rates from its first step on."""
    return not config.stages and config.lr_schedule == "cosine"


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
    from iwae_tf import bounds

    plain = config.copy_and_resolve_references()
    all_stages = stages(config)
    kept = config.backward_samples
    if kept and all(stage.num_samples <= kept for stage in all_stages):
        plain.backward_samples = None
    if config.model == "ciwae" and config.beta in (0, 1):
        plain.model, plain.beta = "vae" if config.beta else "iwae", None
    has_groups = bounds.OBJECTIVES[config.model].has_groups
    if has_groups and all(stage.num_groups == 1 for stage in all_stages):
        plain.model = "iwae"
    is_bound = plain.model in ("iwae", "miwae")
    if is_bound and all(stage.num_samples == 1 for stage in all_stages):
        plain.model = "vae"
    if not bounds.OBJECTIVES[plain.model].has_groups:
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
