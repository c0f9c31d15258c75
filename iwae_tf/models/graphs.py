"""Traced graphs that are let go with the program that they are of.

TensorFlow registers every `tf.custom_gradient` that it meets in a graph under a name of
its own, for good, and what it registers holds the graph. Keras' optimisers meet one in
each step, the Bernoulli likelihood in each density: a process that trains or scores
many models would grow by some ten megabytes with each.
"""

import contextlib
from collections.abc import Iterator

from tensorflow.python.framework import ops  # its registry has no public name

PREFIX = "CustomGradient-"


@contextlib.contextmanager
def forgotten_gradients() -> Iterator[None]:
    """A context, or the decorator of a function for `tf.function`, that keeps no graph.

    At its end the custom gradients of what was traced in it are not registered any
    more: what differentiates these graphs does it before. Within a graph that is being
    traced they stay, for that graph may be differentiated.
    """
    outer = getattr(ops.get_default_graph(), "outer_graph", None)
    registry = ops.gradient_registry._registry
    before = set(registry)
    yield
    if not getattr(outer, "building_function", False):
        for name in registry.keys() - before:
            if name.startswith(PREFIX):
                del registry[name]
