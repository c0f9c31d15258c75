"""What a run is: keys with their defaults and rules, and the objects they name.

  keys        the table: name, default, rule, help, group
  files       configs in JSON
  stages      how many draws for how long
  data        how rows are read to be trained on and to be scored
  build       the model and the optimiser, of `networks` and `optimizers`

May import `models`, `datasets`, `networks`, `probability`, `bounds`, `errors` and
`checks`. What a config file calls needs no TensorFlow: a wrong flag must not wait.
"""

import importlib
from typing import TYPE_CHECKING, Any

from iwae_tf.config.keys import (
    check_key,
    check_paths,
    check_used,
    check_values,
    default_config,
    override,
    put,
    validate,
)
from iwae_tf.config.stages import Stage, plainest, set_draws, stages

if TYPE_CHECKING:
    from iwae_tf.config.build import build_model, build_optimizer


def __getattr__(name: str) -> Any:
    """`build_model` and `build_optimizer`, which import TensorFlow."""
    if name not in ("build_model", "build_optimizer"):
        raise AttributeError(f"module {__name__!r} has no {name!r}")
    return getattr(importlib.import_module("iwae_tf.config.build"), name)
