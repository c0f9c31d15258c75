"""Keras' `fit`, `evaluate` and `predict` with many steps as one compiled program.

`OneProgramModel` knows nothing of autoencoders. It overrides what is private to Keras:
which train function runs, how a model is built before it, what was chosen at `compile`.
`private` has what else has no public name, `arguments` what the methods are called
with, `programs` the program.
"""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import private, programs
from iwae_tf.models.arguments import PARTS, by_name, check, check_end, hold_out
from iwae_tf.models.private import holds_arrays


class OneProgramModel(keras.Model):
    """A keras.Model whose `fit` and `evaluate` run many steps as one program.

    A subclass has `train_step` and `test_step` of a `programs.PaddedBatch`, logs its
    loss as a metric of its own, and has a `gate` that checks data, as `inputs.Gate`.
    """

    gate: Any
    takes_labels: Callable[[Any], bool]  # of a step: y may be strings where it is false
    counts_nothing: Callable[[Any], bool]  # of a pass's logs: all weights were zero
    train_function: Any  # Keras', None until it is made
    test_function: Any
    steps_per_execution: int  # Keras'
    # Whether of many training steps in one program none follows a loss that is NaN or
    # infinite; to be set before the first `fit`.
    stops_at_nonfinite = False
    steps_in_pass = None  # of an epoch, or of an `evaluate`; None: until the data end
    steps_done = 0  # of them
    name_of_data = "x"  # in a message about a pass
    _trained: Any = None  # whether each layer is, in the steps that are compiled
    are_checked = False  # the values of the data that `fit` and `evaluate` are given

    @property
    def supports_xla(self) -> bool:
        """Whether XLA can compile every layer of the networks, to advantage."""
        # tf.debugging adds operations that XLA does not know.
        return not private.op_callbacks() and all(
            layer.supports_jit
            and not getattr(layer, "is_slow_under_xla", False)
            # An LSTM of 28 steps took 67 ms a step with XLA, and 8 ms without.
            and not isinstance(layer, keras.layers.RNN)
            for layer in self._flatten_layers()
        )

    @property
    def rows_per_example(self) -> int:
        """Rows of an example in the network that costs most."""
        return 1

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """As in Keras, without losses and metrics: the loss is minus the bound.

        Args:
          optimizer: keras.optimizers.Optimizer or its name.
          steps_per_execution: steps that `fit` and `evaluate` run in one call of
            TensorFlow. "auto": about 20,000 rows of the decoder, at most 64 steps;
            one step if a callback watches batches.
          jit_compile: whether XLA compiles those steps, as one program. "auto": yes,
            but for `run_eagerly`, a tf.distribute strategy and layers that do without.
          **kwargs: of keras.Model.compile.

        Raises:
          InvalidInputError: a loss or metric, or a bad `steps_per_execution`.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            value = kwargs.pop(name, None)
            if value is not None:
                raise InvalidInputError(
                    f"`{name}` must not be given: the model trains on its bound and "
                    f"logs its parts. Received: {name}={value!r}"
                )
        if optimizer is None:  # of which Keras says nothing until the first step
            raise InvalidInputError(
                "`optimizer` must be a Keras optimizer or its name, such as adam. "
                "Received: optimizer=None"
            )
        steps, by_xla = steps_per_execution, jit_compile
        if steps != "auto":
            steps = check_count(steps, "steps_per_execution")
        if by_xla == "auto":
            is_graph = not kwargs.get("run_eagerly", False) and not self._has_strategy
            by_xla = is_graph and self.supports_xla
        super().compile(
            optimizer=optimizer,
            steps_per_execution=1 if steps == "auto" else steps,
            jit_compile=by_xla,
            **kwargs,
        )
        self._chosen = {"steps_per_execution": steps, "jit_compile": jit_compile}
        self._loss_tracker = None  # Keras' own: the loss is among the model's metrics

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return {}
        return {**self._compile_config.serialize(), **self._chosen}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def retrace(self) -> None:
        """Makes the steps that `fit` and `evaluate` have compiled anew."""
        if self.train_function is not None:
            self.make_train_function(force=True)
        self.test_function = None

    # Ways in ------------------------------------------------------------------------

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As in Keras; data are checked before a step sees them."""
        arguments = by_name(keras.Model.fit, x, args, kwargs)
        check(self.gate, x, arguments)
        check_end(x, arguments, "steps_per_epoch")
        check_end(arguments.get("validation_data"), arguments, "validation_steps")
        if holds_arrays(x):
            hold_out(arguments)  # Keras would do it once the steps are counted
        x, data = arguments["x"], arguments.get("validation_data")
        are_checked = holds_arrays(x) and (data is None or holds_arrays(data))
        if data is not None and not holds_arrays(data):
            arguments["validation_data"] = self._checking(data, {})
        elif data is not None:  # x, (x,), (x, y) or (x, y, sample_weight)
            names = ("validation_data", "y")
            if isinstance(data, (tuple, list)):
                names = ("validation_data[0]", "validation_data[1]")
            parts = dict(zip(PARTS, keras.utils.unpack_x_y_sample_weight(data)))
            check(self.gate, parts["x"], parts, names)
            arguments["validation_data"] = tuple(parts.values())
        steps = arguments.get("steps_per_epoch")
        with self._pass_of(arguments, steps, are_checked), self.gate.told():
            if steps is not None and isinstance(x, tf.data.Dataset):
                # Keras counts whole calls: it would find the data at an end too soon,
                # or too late, with an epoch of no steps.
                arguments["x"] = x.repeat()
            shuffle = arguments.get("shuffle", True)
            arguments["x"] = self._checking(arguments["x"], arguments, shuffle=shuffle)
            return super().fit(**arguments)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; data are checked before a step sees them."""
        if kwargs.get("_use_cached_eval_dataset"):  # `fit` has done the rest
            steps, name = kwargs.get("steps"), "validation_data"
            passes = self._eval_epoch_iterator
            if isinstance(passes.data_adapter, private.GeneratorDataAdapter):
                passes.reset = lambda: None  # keeps what has been fetched ahead
            with self._set(steps_in_pass=steps, name_of_data=name):
                return super().evaluate(x, *args, **kwargs)
        arguments = by_name(keras.Model.evaluate, x, args, kwargs)
        check(self.gate, x, arguments)
        check_end(x, arguments, "steps")
        steps = arguments.get("steps")
        with self._pass_of(arguments, steps, holds_arrays(x)), self.gate.told():
            arguments["x"] = self._checking(x, arguments)
            return super().evaluate(**arguments)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; data are checked first."""
        arguments = by_name(keras.Model.predict, x, args, kwargs)
        check_end(x, arguments, "steps")
        if holds_arrays(x):
            self.gate.call(x)
        arguments["x"] = self._checking(x, arguments, in_program=False)
        with self.gate.told():
            return super().predict(**arguments)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; the batch is checked first."""
        x = self.gate.arrays(x, y)
        with self._set(steps_in_pass=None, are_checked=True):
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; the batch is checked first."""
        x = self.gate.arrays(x, y)
        with self._set(steps_in_pass=None, are_checked=True):
            return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """As in Keras; the batch is checked first."""
        self.gate.call(x)
        return super().predict_on_batch(x)

    def _checking(self, x, arguments, *, in_program=True, shuffle=False):
        """Arrays as they are, and Keras' adapter of what yields batches, to be checked.

        By `_prepare`, many at once, where steps are one program and shapes are known;
        otherwise by the pipeline, one by one.
        """
        if holds_arrays(x):
            return x
        shuffle &= isinstance(x, keras.utils.PyDataset)
        is_generator = isinstance(x, types.GeneratorType)
        if is_generator:  # of which Keras takes only tuples
            x = (tuple(p) if isinstance(p, (tuple, list)) else (p,) for p in x)
        try:
            adapter = private.data_adapter(
                x, class_weight=arguments.get("class_weight"), shuffle=shuffle
            )
        except ValueError as error:
            raise InvalidInputError(
                "`x` must be an array [batch, *event], or yield such batches. "
                f"Received: a {type(x).__name__}"
            ) from error
        if is_generator:  # Keras would begin its first batches anew, and go on with it
            batches = adapter.generator()
            adapter.generator = lambda: batches
        if programs.has_known_shapes(x):
            if in_program and self._makes_programs:
                return adapter
        elif not self.built:  # and so knows no shape either
            for batch in x.take(1):
                self.build(tf.nest.flatten(batch)[0].shape)
        unchecked = adapter.get_tf_dataset

        def checked():
            batches = unchecked()
            is_local = isinstance(batches, tf.data.Dataset)
            return batches.map(self.gate.asserted_batch) if is_local else batches

        adapter.get_tf_dataset = checked
        return adapter

    # The program --------------------------------------------------------------------

    @contextlib.contextmanager
    def _set(self, **values: Any) -> Iterator[None]:
        """Within it these attributes have other values; a `fit` may be around it."""
        with attributes(self, steps_done=self.steps_done, **values):
            yield

    @contextlib.contextmanager
    def _pass_of(self, arguments, num_steps, are_checked):
        """Within it a pass has so many steps, None where the data end it, in calls of
        as many as "auto" stands for, or as divide an epoch where they have to."""
        values = {"steps_in_pass": num_steps, "are_checked": are_checked}
        if self.compiled:
            steps = self.steps_per_execution
            is_dataset = isinstance(arguments.get("x"), tf.data.Dataset)
            if self._chosen["steps_per_execution"] == "auto":
                steps = self._automatic_steps(arguments, num_steps)
            if num_steps and self._makes_programs and not is_dataset:
                # Keras counts whole calls to tell when it has to begin with x anew.
                steps = programs.dividing_steps(steps, num_steps)
            values["steps_per_execution"] = steps
        with self._set(**values):
            yield

    def _automatic_steps(self, arguments, num_steps):
        """What "auto" stands for in a call of Keras."""
        callbacks = arguments.get("callbacks") or ()
        if not isinstance(callbacks, (list, tuple)):
            callbacks = [callbacks]
        if not self._makes_programs or any(map(programs.watches_batches, callbacks)):
            return 1
        x = arguments.get("x")
        batch_size = arguments.get("batch_size") or programs.batch_size_of(x)
        return programs.steps_per_call(
            batch_size * self.rows_per_example,
            num_steps or programs.num_batches(x, batch_size),
        )

    @property
    def _has_strategy(self):
        """Whether it was made, or is, in a tf.distribute strategy's scope."""
        return self._distribute_strategy is not None or tf.distribute.has_strategy()

    @property
    def _makes_programs(self):
        """Whether steps run as one program: each on its own, Keras' way, otherwise."""
        return (
            not self.run_eagerly
            and not self._has_strategy
            and programs.keeps_rows_apart(self._flatten_layers())
        )

    def make_train_function(self, force: bool = False) -> None:
        continues = _is_finite if self.stops_at_nonfinite else None
        trained = [layer.trainable for layer in self._flatten_layers()]
        force |= trained != self._trained  # of what has been frozen since
        self._trained = trained
        if self.train_function is None or force:
            self.train_function = self._program_of(self.train_step, continues)
            if self.train_function is None:
                super().make_train_function(force)
                self.train_function = programs.counting(self, self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = self._program_of(self.test_step)
            if self.test_function is None:
                super().make_test_function(force)
                self.test_function = programs.counting(self, self.test_function)

    def _program_of(self, step, continues=None):
        """What takes batches through `step`; None where Keras' own does."""
        if self._makes_programs:
            return programs.make_function(
                self,
                step,
                self._prepare,
                continues=continues,
                takes_labels=self.takes_labels(step),
            )
        multi_worker = tf.distribute.MultiWorkerMirroredStrategy
        if isinstance(self.distribute_strategy, multi_worker):
            return programs.make_worker_function(self, step)
        return None

    def _prepare(self, x, y, weights):
        """Checks a call's batches; creates variables of the model and its optimiser."""
        self.gate.batches(x, y, weights, self.are_checked)
        programs.create_variables(self, x.shape)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras' adds up the parts of a batch, which may be of different sizes."""
        if not self.built:
            self.gate.check_unbuilt(self.distribute_strategy.num_replicas_in_sync)
        if not self.built or not self.compiled:
            adapter = getattr(iterator, "data_adapter", None)
            if first := getattr(adapter, "_first_batches", None):
                iterator, data_batch = None, first[0]  # of a generator, not to be lost
            super()._maybe_symbolic_build(iterator, data_batch)
        elif not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _get_metrics_result_or_logs(self, logs):
        """As in Keras, of a pass that has come to its end."""
        if not self.steps_done:
            raise InvalidInputError(
                f"`{self.name_of_data}` must yield a batch in each pass: a generator "
                "that has ended does not begin anew, as a tf.data.Dataset or a "
                "PyDataset does. Received: no batch"
            )
        logs = super()._get_metrics_result_or_logs(logs)
        if self.counts_nothing(logs):
            raise InvalidInputError(
                f"`sample_weight` of `{self.name_of_data}` must be above 0 for some "
                "examples of each pass. Received: zeros"
            )
        return logs

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self.steps_done = 0


@contextlib.contextmanager
def attributes(target: Any, **values: Any) -> Iterator[None]:
    """Within it an object's attributes have these values, and their own ones after."""
    own = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in own.items():
            setattr(target, name, value)


def _is_finite(logs):
    return tf.math.is_finite(logs["loss"])
