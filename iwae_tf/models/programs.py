"""Many steps of `fit` and `evaluate` as one compiled program.

Keras calls a train function once for `steps_per_execution` batches, and compiles one
step. Here the batches of one call are laid end to end in an array and a loop over them
is compiled whole. A batch is a window of that array as long as the longest batch so
far: a shorter one is filled up with copies of its first example, of weight zero, so
that the shapes, and with them the compiled program, stay the same.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.models.graphs import program_of

MOST_STEPS = 64  # in one call
DEFAULT_BATCH_SIZE = 32  # Keras' own
BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)
ROWS_PER_CALL = 20_000  # of the decoder: a fraction of a second for small networks
Step = Callable[[Any], dict[str, tf.Tensor]]  # of a batch to its logs
_SCALAR = tf.TensorSpec([], tf.int32)


class PaddedBatch(tuple):
    """(x, y, sample_weight) whose first `num_rows` examples are real."""

    num_rows: tf.Tensor

    def __new__(cls, parts: tuple[Any, ...], num_rows: tf.Tensor) -> "PaddedBatch":
        batch = super().__new__(cls, parts)
        batch.num_rows = num_rows
        return batch


def steps_per_call(rows_per_step: int, num_steps: int | None = None) -> int:
    """Steps in one call, so that progress shows and a stop does not wait for long.

    Args:
      rows_per_step: rows of the decoder in one step.
      num_steps: steps in an epoch where that is known: calls share them evenly.
    """
    most = max(1, min(MOST_STEPS, ROWS_PER_CALL // rows_per_step))
    if not num_steps:
        return most
    num_calls = -(-num_steps // most)
    return -(-num_steps // num_calls)


def dividing_steps(most: int, num_steps: int) -> int:
    """The most steps in one call, up to `most`, of which whole calls make an epoch."""
    return max(n for n in range(1, min(most, num_steps) + 1) if num_steps % n == 0)


def batch_size_of(x: Any) -> int:
    """Rows of a batch of `x` where its type tells, and Keras' default otherwise."""
    if isinstance(x, tf.data.Dataset):
        leading = {
            spec.shape[:1].num_elements() for spec in tf.nest.flatten(x.element_spec)
        }
        return max((size for size in leading if size), default=DEFAULT_BATCH_SIZE)
    return DEFAULT_BATCH_SIZE


def num_batches(x: Any, batch_size: int) -> int | None:
    """Batches in one pass over `x`, or None where its type does not tell."""
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        return cardinality if cardinality > 0 else None
    return -(-len(x) // batch_size) if hasattr(x, "__len__") else None


def has_known_shapes(x: Any) -> bool:
    """Whether batches of `x` can be laid end to end: all axes but the first are known.

    Those that Python yields get theirs from the first batch.
    """
    specs = tf.nest.flatten(x.element_spec) if isinstance(x, tf.data.Dataset) else ()
    return all(spec.shape[1:].is_fully_defined() for spec in specs)


def watches_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a Keras callback does something at each batch, and so has to see it.

    Those that only count or show progress say so by an attribute `counts_batches`.
    """
    if isinstance(callback, keras.callbacks.CallbackList):
        return any(map(watches_batches, callback.callbacks))
    if getattr(callback, "counts_batches", False):
        return False
    for name in ("update_freq", "save_freq"):  # Keras' own that may act by the batch
        if getattr(callback, name, None) == "epoch":
            return False
    return any(
        getattr(getattr(callback, hook), "__func__", None)
        is not getattr(keras.callbacks.Callback, hook)
        for hook in BATCH_HOOKS
    )


def keeps_rows_apart(layers: Iterable[keras.layers.Layer]) -> bool:
    """Whether examples of weight zero leave the others alone, as far as one can see."""
    return not any(
        isinstance(layer, keras.layers.BatchNormalization)
        or getattr(layer, "activity_regularizer", None) is not None
        for layer in layers
    )


def create_variables(model: keras.Model, shape: Sequence[Any]) -> None:
    """Those of a model and its optimiser, outside of a step: XLA compiles none there.

    Args:
      model: keras.Model, which has no optimiser before it is compiled.
      shape: of x.
    """
    with tf.init_scope():
        if not model.built:
            model.build(shape)
        if model.compiled and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def make_function(
    model: keras.Model,
    step: Step,
    prepare: Callable[..., object],
    continues: Callable[[dict[str, tf.Tensor]], tf.Tensor] | None = None,
    *,
    takes_labels: bool = True,
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """A function for Keras' `fit` or `evaluate`: an iterator of batches to the logs.

    Args:
      model: keras.Model, with `steps_per_execution`, `jit_compile`, `steps_in_pass`
        (steps in an epoch, None: until the data end) and `steps_done`.
      step: function of a `PaddedBatch` to a dict of scalars.
      prepare: function of x, y and sample_weight [rows, ...] of a call, None where
        there is none. It checks them and, before `step` is traced, creates variables:
        a trace that creates variables would be made twice.
      continues: optional function of a step's logs to a bool scalar, whether the next
        one of the same call is to be taken.
      takes_labels: whether `step` is handed y, which may be strings where it is not.

    Returns:
      function: takes up to `model.steps_per_execution` batches of a tf.data iterator
        through `step`, or the next one of any other (Keras' `train_on_batch` has
        such), and returns the last logs. Raises StopIteration where there is no batch
        left.
    """
    capacity = tf.Variable(0, trainable=False)  # rows of the longest batch so far
    parts_of = functools.partial(_parts_of, takes_labels=takes_labels)
    collect = program_of(functools.partial(_collect, parts_of), False)
    run = functools.partial(_run, step, continues)
    program = program_of(run, bool(model.jit_compile))

    def function(iterator):
        if isinstance(iterator, tf.data.Iterator):
            sizes, num_steps, batches = take(iterator)
        else:
            batches = _each(tf.convert_to_tensor, parts_of(next(iterator)))
            sizes, num_steps = tf.shape(batches[0])[:1], tf.constant(1)
        if not num_steps:
            raise StopIteration
        if not tf.reduce_all(sizes[:num_steps] > 0):
            raise InvalidInputError(
                "`x` must not be empty. Received: a batch without examples"
            )
        model.steps_done += int(num_steps)
        num_rows = tf.reduce_sum(sizes)  # what follows is padding
        prepare(*_each(lambda part: part[:num_rows], batches))
        # Traced for any number of rows, so that a new one does not trace anew.
        specs = _each(_any_rows, (sizes, batches))
        traced = program.get_concrete_function(specs[0], _SCALAR, specs[1])
        return traced(sizes, num_steps, batches)

    def take(iterator):
        limit = model.steps_per_execution
        # Keras counts whole calls: the last one of an epoch may have to be shorter,
        # and the first one where a run goes on within an epoch.
        most = limit - model.steps_done % limit
        if model.steps_in_pass is not None:
            most = min(most, model.steps_in_pass - model.steps_done)
        return collect(iterator, tf.constant(most), tf.constant(limit), capacity)

    return function


def make_worker_function(
    model: keras.Model, step: Step
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """As `make_function`, for several workers: one step a call, without XLA.

    Keras' own reduces scalar logs along an axis that they do not have. Here they are
    averaged over the replicas, so that all workers see the same.
    """

    def averaged(data):
        logs, context = step(data), tf.distribute.get_replica_context()
        values = tf.stack([tf.cast(value, tf.float32) for value in logs.values()])
        values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        return dict(zip(logs, tf.unstack(values)))

    def function(iterator):
        strategy = model.distribute_strategy
        logs = strategy.run(averaged, args=(next(iterator),))
        first = strategy.experimental_local_results
        return {name: first(value)[0] for name, value in logs.items()}

    if not model.run_eagerly:
        function = tf.function(function, autograph=False)
    return counting(model, function)


def counting(model: keras.Model, function: Any) -> Callable[[Any], Any]:
    """`function` of an iterator, each call of which is one of `model.steps_done`."""

    def counted(iterator):
        logs = function(iterator)
        model.steps_done += 1
        return logs

    return counted


def _collect(parts_of, iterator, most, limit, capacity):
    """Up to `most` batches of an iterator, end to end, filled up to `limit`.

    Returns:
      sizes: int32 [limit], rows of each batch.
      num_steps: int32 [], batches there were.
      batches: (x, y, sample_weight), each [limit * capacity, ...] or None.
    """
    structure = parts_of(iterator.element_spec)
    arrays = [
        tf.TensorArray(
            spec.dtype,
            0,
            dynamic_size=True,
            infer_shape=False,
            element_shape=spec.shape,
        )
        for spec in keras.tree.flatten(structure)
        if spec is not None
    ]
    sizes = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[])

    def is_left(step, batch, *_):
        return (step < most) & batch.has_value()

    def store(step, batch, sizes, arrays):
        leaves = keras.tree.flatten(parts_of(batch.get_value()))
        leaves = [leaf for leaf in leaves if leaf is not None]
        arrays = [array.write(step, leaf) for array, leaf in zip(arrays, leaves)]
        sizes = sizes.write(step, tf.shape(leaves[0])[0])
        # Not one more than asked for: it would be lost.
        more = tf.cond(step + 1 < most, iterator.get_next_as_optional, lambda: batch)
        return step + 1, more, sizes, arrays

    first = iterator.get_next_as_optional()
    num_steps, _, sizes, arrays = tf.while_loop(
        is_left, store, [0, first, sizes, arrays], parallel_iterations=1
    )
    sizes = tf.pad(sizes.stack(), [[0, limit - num_steps]])
    capacity.assign(tf.maximum(capacity, tf.reduce_max(sizes)))
    leaves = iter([_pad_rows(array.concat(), limit * capacity) for array in arrays])
    return sizes, num_steps, _each(lambda _: next(leaves), structure)


def _run(step, continues, sizes, num_steps, batches):
    """The logs of the last of `num_steps` steps, or of the one that ends them."""
    starts = tf.cumsum(sizes, exclusive=True)
    specs = _each(_any_rows, (starts, sizes, batches))

    def one_step(index, starts, sizes, batches):
        capacity = tf.shape(keras.tree.flatten(batches)[0])[0] // tf.shape(sizes)[0]
        is_row = tf.range(capacity) < sizes[index]
        rows = starts[index] + tf.where(is_row, tf.range(capacity), 0)
        # Not tf.slice: XLA would compile for each new value of where it begins.
        x, y, sample_weight = _each(lambda part: tf.gather(part, rows), batches)
        real = tf.cast(is_row, tf.float32)
        if sample_weight is None:
            sample_weight = real
        else:
            sample_weight = tf.where(
                is_row, sample_weight, tf.zeros_like(sample_weight)
            )
        num_rows = tf.cast(sizes[index], tf.int64)
        return step(PaddedBatch((x, y, sample_weight), num_rows))

    # Traced once, by itself: its logs are what the loop starts from.
    traced = tf.function(one_step, autograph=False).get_concrete_function(
        _SCALAR, *specs
    )
    logs = keras.tree.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), traced.structured_outputs
    )

    def is_left(index, logs):
        if continues is None:
            return index < num_steps
        return (index < num_steps) & continues(logs)

    _, logs = tf.while_loop(
        is_left,
        lambda index, _: (index + 1, traced(index, starts, sizes, batches)),
        [0, logs],
        parallel_iterations=1,
    )
    return logs


def _each(function, parts):
    """`function` of each tensor of some parts of a batch; what is None stays None."""
    return keras.tree.map_structure(
        lambda part: None if part is None else function(part), parts
    )


def _any_rows(leaf):
    """Spec of a tensor with any number of rows."""
    return tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)


def _pad_rows(leaf, num_rows):
    """`leaf` with zeros appended up to `num_rows` rows."""
    padding = [[0, num_rows - tf.shape(leaf)[0]]] + [[0, 0]] * (leaf.shape.rank - 1)
    return tf.pad(leaf, padding)


def _parts_of(data, takes_labels):
    """(x, y, sample_weight) of what Keras hands on, None where there is none.

    Its data adapters hand a missing part on as an empty Optional.
    """
    absent = (tf.experimental.Optional, tf.OptionalSpec)
    data = keras.tree.map_structure(
        lambda part: None if isinstance(part, absent) else part, data
    )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return x, y if takes_labels else None, sample_weight
