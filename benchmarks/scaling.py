"""What a step of several workers costs, and a model of it up to a thousand of them.

    python -m benchmarks.scaling [--latency SECONDS --bandwidth BYTES_PER_SECOND]

Times a training step of one process at two batch sizes, and sums of a short and of a
long vector over two workers on loopback, by the collectives that training uses. The
best of many rounds counts. `docs/scaling.md` explains the model.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np

ROUNDS = 30
ROWS = (20, 200)  # images a step
NUM_SAMPLES = 5
SIZES = (1, 500_000)  # floats to be summed up
WORKERS = (1, 2, 4, 8, 16, 64, 256, 1000)


def best_of(function):
    """Least seconds that a call takes."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def step_seconds():
    """(fixed seconds of a step, seconds an image, bytes of the gradient)."""
    import keras
    import tensorflow as tf

    from iwae_tf.models import IWAE
    from iwae_tf.networks import MLP

    encoder = MLP([200, 200], (100,), seed=0)
    model = IWAE(encoder, MLP([200, 200], (784,), seed=1), num_samples=NUM_SAMPLES)
    model.build((None, 784))
    model.compile(keras.optimizers.Adam(), jit_compile=False)
    step = tf.function(model.train_step)
    found = []
    for rows in ROWS:
        x = tf.ones([rows, 784])
        step((x,))
        found.append(best_of(lambda x=x: step((x,))["loss"].numpy()))
    an_image = (found[1] - found[0]) / (ROWS[1] - ROWS[0])
    size = sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)
    return max(0.0, found[0] - ROWS[0] * an_image), an_image, size


def worker():
    """Prints the seconds of a sum over the workers of each of `SIZES`."""
    from iwae_tf.runs.devices import make_distribution

    distribution = make_distribution("multi_worker")
    found = []
    for size in SIZES:
        array = np.ones(size, np.float32)
        distribution.sum(array)
        found.append(best_of(lambda array=array: distribution.sum(array)))
    if distribution.is_chief:
        print("SECONDS", json.dumps(found))


def collective_seconds():
    """(latency, bytes a second) of a sum over two workers on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": hosts}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scaling", "--worker"],
                env={**os.environ, "TF_CONFIG": config},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    output = processes[0].communicate()[0] + processes[1].communicate()[0]
    line = next(ln for ln in output.splitlines() if ln.startswith("SECONDS"))
    short, long = json.loads(line.removeprefix("SECONDS"))
    # A ring of two: two messages, one after the other, and each sends the vector once.
    return short / 2, 4 * (SIZES[1] - SIZES[0]) / max(long - short, 1e-9)


def step_of(workers, batch, fixed, an_image, size, latency, bandwidth):
    """Seconds of a step of the whole batch; see `docs/scaling.md`."""
    compute = fixed + an_image * -(-batch // workers)
    if workers == 1:
        return compute
    ring = 2 * (workers - 1) * latency
    return compute + ring + 2 * (workers - 1) / workers * size / bandwidth


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--latency", type=float, help="seconds of a message")
    parser.add_argument("--bandwidth", type=float, help="bytes a second")
    options = parser.parse_args()
    if options.worker:
        return worker()
    fixed, an_image, size = step_seconds()
    latency, bandwidth = options.latency, options.bandwidth
    if latency is None or bandwidth is None:
        latency, bandwidth = collective_seconds()
    print(f"step: {1e3 * fixed:.2f} ms and {1e6 * an_image:.1f} us an image")
    print(f"sums: {1e6 * latency:.0f} us a message, {bandwidth / 1e6:.0f} MB/s")
    print(f"gradient: {size / 1e6:.2f} MB, K = {NUM_SAMPLES}\n")
    print("| workers | fixed batch of 20,000 | 200 a worker |\n| --- | --- | --- |")
    constants = (fixed, an_image, size, latency, bandwidth)
    for workers in WORKERS:
        cells = []
        for batch in (20_000, 200 * workers):
            seconds = step_of(workers, batch, *constants)
            alone = step_of(1, batch, *constants)
            cells.append(f"{1e3 * seconds:.1f} ms, {alone / seconds:.1f} times one")
        print(f"| {workers} | {cells[0]} | {cells[1]} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
