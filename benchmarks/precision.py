"""What mixed precision costs in nats: the test NLL of the demo, by precision.

Trains `mnist5k_iwae` (40 epochs of 4,000 real digits) with three seeds in float32 and
in mixed_bfloat16 and scores the same 500 test images with 5,000 samples. The products
of bfloat16 are rounded in the same way whether a processor has them or not, so the
table is worth the same on each.

    python -m benchmarks.precision

Some minutes on two cores; not a part of `make bench`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import common
from benchmarks.common import Row, Target, spread

SEEDS, SEEDS_QUICK = (0, 1, 2), (0,)
QUICK = ("--config.epochs=1", "--config.eval_num_samples=20")
CONFIG = "mnist5k_iwae"


def test_nll(precision, seed, quick):
    """NLL of a run of the training script, in nats."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "iwae_tf.train",
                f"--config={CONFIG}",
                f"--workdir={folder}",
                f"--config.precision={precision}",
                f"--config.seed={seed}",
                *(QUICK if quick else ()),
            ],
            cwd=common.ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return json.loads((pathlib.Path(folder) / "results.json").read_text())["nll"]


def measure(options):
    """The NLLs of each precision; bfloat16 is not to be above those of float32."""
    seeds = SEEDS_QUICK if options.quick else SEEDS
    found = {
        precision: [test_nll(precision, seed, options.quick) for seed in seeds]
        for precision in ("float32", "mixed_bfloat16")
    }
    values = {
        precision: ", ".join(f"{value:.2f}" for value in nlls)
        for precision, nlls in found.items()
    }
    limit = Target("<=", max(found["float32"]))
    what = f"test NLL of {CONFIG}, seeds {', '.join(map(str, seeds))}"
    return [
        Row(f"{what}, {precision}", spread(nlls), "nats", target, values[precision])
        for (precision, nlls), target in zip(found.items(), (None, limit))
    ]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
