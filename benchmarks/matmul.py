"""The ceiling: the rate of float32 matrix products on this machine.

The product is that of the paper's decoder at 1,000 rows, [1000, 200] x [200, 784],
in TensorFlow (stock kernels and XLA), NumPy and PyTorch.

    python -m benchmarks.matmul
"""

import numpy as np

from benchmarks import common
from benchmarks.common import NO_TORCH, Contender, Row

SHAPE = (1000, 200, 784)  # rows, inputs, outputs
SMALL_SHAPE = (10, 8, 16)
REPEATS = 40  # products in one timed program, so that its start does not count
TINY = 1e-30  # of one product is added to the factor of the next


def operands(shape):
    """float32 [rows, inputs] and [inputs, outputs]."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    left = rng.normal(size=(rows, inputs)).astype(np.float32)
    return left, rng.normal(size=(inputs, outputs)).astype(np.float32)


def product_flops(shape):
    """Arithmetic of one product; a multiply-add counts as two."""
    return 2 * int(np.prod(shape))


def tensorflow_contenders(shape=SHAPE, repeats=REPEATS):
    """Chained products in a TensorFlow program, whose unit of work is one operation.

    Each product is an output of the loop and depends on the one before, so that none
    can be left out or moved. The addition that links them costs some percent of a
    product at most.

    Returns:
      contenders: dict of Contender, "graph" and "XLA", warmed up.
    """
    import tensorflow as tf

    left, right = map(tf.constant, operands(shape))

    def chain(left, right):
        def product(index, right, last):
            last = tf.matmul(left, right)
            return index + 1, right + TINY * last[0, 0], last

        start = [0, right, tf.zeros([shape[0], shape[2]])]
        return tf.while_loop(
            lambda index, *_: index < repeats, product, start, parallel_iterations=1
        )[2]

    contenders = {}
    for name, jit_compile in (("graph", False), ("XLA", True)):
        function = tf.function(chain, autograph=False, jit_compile=jit_compile)
        contenders[name] = Contender(
            lambda function=function: function(left, right).numpy(),
            repeats * product_flops(shape),
        )
        contenders[name].run()
    return contenders


def numpy_contender(shape=SHAPE, repeats=REPEATS):
    """The same products in NumPy."""
    left, right = operands(shape)
    product = np.empty((shape[0], shape[2]), np.float32)

    def run():
        for _ in range(repeats):
            np.matmul(left, right, out=product)

    return Contender(run, repeats * product_flops(shape))


def torch_contender(shape=SHAPE, repeats=REPEATS):
    """The same products in PyTorch; None where that is not installed."""
    if common.torch_peers() is None:
        return None
    import torch

    left, right = map(torch.from_numpy, operands(shape))
    product = torch.empty(shape[0], shape[2])

    def run():
        for _ in range(repeats):
            torch.mm(left, right, out=product)

    return Contender(run, repeats * product_flops(shape))


def better(seconds):
    """Name of TensorFlow's faster program, by the medians of "graph" and "XLA"."""
    return min(("graph", "XLA"), key=lambda name: np.median(seconds[name]))


def describe(seconds):
    """TensorFlow's two rates in words, from seconds an operation."""
    rates = {
        name: common.formatted(1e-9 / np.median(seconds[name]), "GFLOP/s")
        for name in ("graph", "XLA")
    }
    return f"matrix products: graph {rates['graph']}, XLA {rates['XLA']}"


def measure(options):
    """Rates in GFLOP/s of each library."""
    size = (SMALL_SHAPE, 3) if options.quick else (SHAPE, REPEATS)
    contenders = tensorflow_contenders(*size)
    contenders["NumPy"] = numpy_contender(*size)
    torch = torch_contender(*size)
    if torch:
        contenders["PyTorch"] = torch
    for contender in contenders.values():
        contender.run()
    seconds = common.interleave(contenders, 2 * options.rounds)
    names = {"graph": "TensorFlow graph", "XLA": "TensorFlow XLA"}
    shown = "[1000, 200] x [200, 784]"
    rows = [
        Row(
            f"float32 product {shown}, {names.get(name, name)}",
            common.spread(1e-9 / values),
            "GFLOP/s",
            reference="the ceiling" if name == better(seconds) else "",
        )
        for name, values in seconds.items()
    ]
    if torch is None:
        rows.append(Row(f"float32 product {shown}, PyTorch", None, note=NO_TORCH))
    return rows


if __name__ == "__main__":
    common.run_script(__doc__, measure)
