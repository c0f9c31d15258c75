"""Seconds until training runs: import, first step, and a second `fit`.

Each config is measured in a fresh process: its model and optimiser are built, `fit`
runs twice on the same random images, and the first step is what the first `fit` took
longer than the second, plus one step of the second. So it is the time from the call of
`fit` to the end of the first step, with all that is traced and compiled on the way,
and does not depend on how many steps one program holds. The second `fit` finds the
compiled programs of the first.

    python -m benchmarks.start_up
"""

import importlib
import time

from benchmarks import common
from benchmarks.common import Row, Target, spread

CONFIGS = ("mnist_iwae", "mnist_iwae_2l", "mnist_piwae", "mnist5k_iwae")
CONFIGS_QUICK = ("mnist_vae",)
STEPS, STEPS_QUICK = 24, 2
FIRST_STEP_LIMIT = 8.0  # seconds


def time_config(name, steps):
    """Times one shipped config in this process, which has to be fresh.

    Args:
      name: of a module in `configs`.
      steps: of each of the two `fit`s.

    Returns:
      seconds: dict of "import", "first step" and "second fit".
    """
    start = time.perf_counter()
    from iwae_tf import build_model

    imported = time.perf_counter() - start
    from benchmarks.models import binary_images
    from iwae_tf.config import build_optimizer

    config = importlib.import_module(f"configs.{name}").get_config()
    model = build_model(config)
    optimizer = build_optimizer(config, steps_per_epoch=steps)
    model.compile(optimizer=optimizer)
    x = binary_images(steps * config.batch_size, model.event_shape)
    fits = []
    for _ in range(2):
        start = time.perf_counter()
        model.fit(x, batch_size=config.batch_size, verbose=0)
        fits.append(time.perf_counter() - start)
    first, second = fits
    return {
        "import": imported,
        "first step": first - second + second / steps,
        "second fit": second,
    }


def measure(options):
    """All rows of this table."""
    steps = STEPS_QUICK if options.quick else STEPS
    rows, imports = [], []
    for name in CONFIGS_QUICK if options.quick else CONFIGS:
        seconds = common.call_in_subprocess(
            "benchmarks.start_up", "time_config", name, steps
        )
        imports.append(seconds["import"])
        rows.append(
            Row(
                f"first step of {name}, from the call of fit",
                spread([seconds["first step"]]),
                "s",
                Target("<", FIRST_STEP_LIMIT),
                f"second fit, all {steps} steps: "
                f"{common.formatted(seconds['second fit'], 's')}",
            )
        )
    return [*rows, Row("import iwae_tf", spread(imports), "s")]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
