"""What a run is: keys with their defaults and rules, and the objects they name.

May import `models`, `datasets`, `networks`, `probability`, `bounds`, `errors` and
`checks`.
"""

from iwae_tf import startup  # noqa: F401, before anything imports TensorFlow

# isort: split

from iwae_tf.config.keys import (
    CHOICES,
    Stage,
    build_model,
    build_optimizer,
    check_key,
    default_config,
    override,
    plainest,
    set_draws,
    stages,
    validate,
)

__all__ = [
    "CHOICES",
    "Stage",
    "build_model",
    "build_optimizer",
    "check_key",
    "default_config",
    "override",
    "plainest",
    "set_draws",
    "stages",
    "validate",
]
