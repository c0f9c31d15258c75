"""Peak memory of one call of a SavedModel's `log_likelihood`, above the loaded model.

    python -m benchmarks.serving_memory --num_samples=1000000 --batch_size=100

Needs TensorFlow alone, and Linux, whose kernel counts the peak.
"""

import argparse
import json
import pathlib
import time

import tensorflow as tf

MEGABYTE = 2**20


def resident(field):
    """A line of /proc/self/status in MB: VmRSS is now, VmHWM the peak."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / MEGABYTE


def measure(saved_model, *, num_samples, batch_size):
    """Loads a version, makes one call and returns what it took.

    Args:
      saved_model: folder of one version.
      num_samples: draws an image.
      batch_size: images of the call.

    Returns:
      dict of JSON values, memory in MB.
    """
    loaded = tf.saved_model.load(str(saved_model))
    function = loaded.signatures["log_likelihood"]
    shape = function.structured_input_signature[1]["x"].shape[1:]
    x = tf.cast(
        tf.random.stateless_uniform([batch_size, *shape], [0, 1]) < 0.2, "float32"
    )
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before, start = resident("VmRSS"), time.monotonic()
    outputs = function(
        x=x, num_samples=tf.constant(num_samples), seed=tf.constant([0, 0])
    )
    estimates = outputs["log_likelihood"].numpy()
    return {
        "num_samples": num_samples,
        "batch_size": batch_size,
        "loaded_mb": round(before),
        "above_the_load_mb": round(resident("VmHWM") - before, 1),
        "all_finite": bool(tf.reduce_all(tf.math.is_finite(estimates))),
        "seconds": round(time.monotonic() - start),
        "tensorflow": tf.__version__,
    }


def main():
    """Prints the measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saved_model", default="saved_models/mnist5k_iwae/1")
    parser.add_argument("--num_samples", type=int, default=1_000_000)
    parser.add_argument("--batch_size", type=int, default=100)
    found = measure(**vars(parser.parse_args()))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
