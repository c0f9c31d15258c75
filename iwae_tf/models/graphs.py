"""Traced graphs that are let go with the program that they are of.

TensorFlow registers every `tf.custom_gradient` that it meets in a graph under a name of
its own, for good, and what it registers holds the graph. Keras' optimisers meet one in
each step, the Bernoulli likelihood in each density: a process that trains or scores
many models would grow by some ten megabytes with each.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from iwae_tf.models.private import gradient_registry

PREFIX = "CustomGradient-"


@contextlib.contextmanager
def no_graph_is_kept() -> Iterator[None]:
    """A context, or the decorator of a function for `tf.function`.

    The custom gradients of what is traced in it belong to their graphs, and are
    registered as long as these live.
    """
    registry = gradient_registry()
    before = set(registry)
    yield
    for name in registry.keys() - before:
        entry = registry.get(name)  # None: its graph has come to its end meanwhile
        if entry is None or not name.startswith(PREFIX):
            continue
        function = entry["type"]
        graph = _graph_of(function)
        if graph is not None:
            graph.custom_gradients = [*getattr(graph, "custom_gradients", ()), function]
            entry["type"] = _weak(function)
            end = weakref.finalize(function, registry.pop, name, None)
            end.atexit = False


def program_of(function: Callable[..., Any], jit_compile: bool) -> Any:
    """A `tf.function` of one model's function, whose graph ends with it.

    TensorFlow counts tracings by a function's code, and would warn where many models
    are traced once each: a partial has no code of its own.
    """
    function = no_graph_is_kept()(functools.partial(function))
    return tf.function(function, autograph=False, jit_compile=jit_compile)


def _weak(function):
    """The same function, which does not keep it alive."""
    reference = weakref.ref(function)

    def gradient(op, *upstream):
        held = reference()
        assert held is not None  # its graph, which is differentiated, holds it
        return held(op, *upstream)

    return gradient


def _graph_of(function):
    """The graph of the tensors that a registered gradient has hold of, or None."""
    for inner in _held(function):
        for held in _held(inner):
            for leaf in tf.nest.flatten(held):
                if tf.is_symbolic_tensor(leaf):
                    return leaf.graph
    return None


def _held(function):
    cells = getattr(function, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells]
