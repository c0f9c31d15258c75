"""Variational autoencoders trained on importance-weighted bounds.

`VAE`, `IWAE`, `MIWAE`, `CIWAE` and `PIWAE` are Keras models over one base class that
owns `train_step` and `test_step`. Each subclass only names its objective.
"""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import bounds
from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import keras_loop as execution
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.gradients import GRADIENT_ESTIMATORS, loss_gradients
from iwae_tf.models.inputs import check_float, check_values
from iwae_tf.models.metrics import JointMeans
from iwae_tf.models.replicas import keep_equal
from iwae_tf.probability import noise
from iwae_tf.probability.log_weights import DRAW_AXES, effective_sample_size

BINARIZATIONS = ("none", "dynamic")
TRAIN_STREAM, TEST_STREAM, PIXEL_STREAM = range(3)
ARRAYS = (np.ndarray, tf.Tensor)


class ImportanceWeightedAutoencoder(Autoencoder):
    """Base class: an autoencoder that `fit` trains on an importance-weighted bound.

    Args:
      encoder: one Keras network or a sequence, see `Autoencoder`.
      decoder: one Keras network or a sequence, see `Autoencoder`.
      objective: bounds.Objective, what is maximised.
      num_groups: draws outside the log, M.
      num_samples: draws inside the log, K.
      gradient_estimator: "reparameterized"; "stl" (Roeder et al. 2017; biased for
        more than one draw inside the log, Tucker et al. 2019); or "dreg". They only
        change the encoder's gradient.
      binarization: "none" takes x as it comes; "dynamic" draws binary pixels with
        probability x, anew at each training step.
      seed: pair of integers for training and `evaluate`.
      **kwargs: `likelihood`, `num_classes` and `prior` of `Autoencoder`; `name` and
        `dtype` of keras.Model.

    `fit` takes x, (x,), (x, y) or (x, y, sample_weight). A conditional model needs the
    integer labels y [batch]; otherwise y is ignored.

    Raises:
      InvalidInputError: an argument out of its range, networks that do not fit.
    """

    train_function: Any  # Keras', None until it is made
    steps_per_execution: int  # Keras'
    has_groups = False  # whether draws outside the log make a difference
    # Whether of many training steps in one program none follows a loss that is NaN or
    # infinite; to be set before the first `fit`.
    stops_at_nonfinite = False
    steps_of_pass = None  # of an epoch, or of an `evaluate`; None: until the data end
    steps_done = 0  # of them

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        objective: Any,
        num_groups: int = 1,
        num_samples: int = 1,
        gradient_estimator: str = "reparameterized",
        binarization: str = "none",
        seed: Sequence[int] = (0, 0),
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, **kwargs)
        check_choice(binarization, "binarization", BINARIZATIONS)
        self.objective = objective
        self.num_groups = num_groups
        self.num_samples = num_samples
        self.gradient_estimator = gradient_estimator
        self.binarization = binarization
        self.seed = noise.check_seed(seed)
        self._means = JointMeans(["loss", *self.metric_names()])
        self._trackers = self._means.trackers  # Keras logs metrics that are attributes

    def metric_names(self) -> list[str]:
        """Names of the logged metrics: the bound that is trained, and its parts."""
        return ["bound", "elbo", "iwae", "log_likelihood", "kl", "ess"]

    @property
    def num_groups(self) -> int:
        """Draws outside the log, M. Assigning to it retraces the steps."""
        return self._num_groups

    @num_groups.setter
    def num_groups(self, value: int) -> None:
        value = check_count(value, "num_groups")
        if value != 1 and not self.has_groups:
            raise InvalidInputError(
                f"`num_groups` must be 1 for {type(self).__name__}, whose draws are "
                f"all `num_samples`. Received: num_groups={value}"
            )
        self._num_groups = value
        self._retrace()

    @property
    def num_samples(self) -> int:
        """Draws inside the log, K. Assigning to it retraces the steps."""
        return self._num_samples

    @num_samples.setter
    def num_samples(self, value: int) -> None:
        self._num_samples = check_count(value, "num_samples")
        self._retrace()

    @property
    def gradient_estimator(self) -> str:
        """Estimator of the encoder's gradient. Assigning to it retraces the steps."""
        return self._gradient_estimator

    @gradient_estimator.setter
    def gradient_estimator(self, value: str) -> None:
        check_choice(value, "gradient_estimator", GRADIENT_ESTIMATORS)
        self._gradient_estimator = value
        self._retrace()

    def _retrace(self):
        """Makes the steps that `fit` and `evaluate` have compiled anew."""
        if self.train_function is not None:
            self.make_train_function(force=True)
        self.test_function = None

    def build(self, input_shape: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(input_shape)
        self.train_steps = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="train_steps",
        )
        self._evaluated = tf.Variable(0, dtype=tf.int64, trainable=False)

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
          steps_per_execution: steps that `fit` and `evaluate` hand to TensorFlow at
            once. "auto": as many as take about 20,000 rows of the decoder, at most
            64; one where a callback watches batches.
          jit_compile: whether XLA compiles those steps, as one program. "auto": yes,
            but for `run_eagerly`, several replicas and layers that do without.
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
        if steps_per_execution != "auto":
            steps_per_execution = check_count(
                steps_per_execution, "steps_per_execution"
            )
        chosen = {
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
        }
        if jit_compile == "auto":
            jit_compile = (
                self.supports_xla
                and not kwargs.get("run_eagerly", False)
                and self.distribute_strategy.num_replicas_in_sync == 1
            )
        super().compile(
            optimizer=optimizer,
            steps_per_execution=(
                1 if steps_per_execution == "auto" else steps_per_execution
            ),
            jit_compile=jit_compile,
            **kwargs,
        )
        self._chosen = chosen
        self._loss_tracker = None  # Keras' own: the loss is among the joint means

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return {}
        return {**self._compile_config.serialize(), **self._chosen}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_samples": self.num_samples,
            "gradient_estimator": self.gradient_estimator,
            "binarization": self.binarization,
            "seed": list(self.seed),
        }

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As in Keras; values of arrays are checked before the first step."""
        arguments = _arguments(keras.Model.fit, x, args, kwargs)
        self._check_arrays(x, arguments.get("y"))
        validation_data = arguments.get("validation_data")
        if isinstance(validation_data, ARRAYS):
            self._check_arrays(validation_data, names=("validation_data", "y"))
        elif isinstance(validation_data, (tuple, list)):
            theirs, labels, _ = keras.utils.unpack_x_y_sample_weight(validation_data)
            names = "validation_data[0]", "validation_data[1]"
            self._check_arrays(theirs, labels, names=names)
        steps = arguments.get("steps_per_epoch")
        with self._steps_per_execution_for(arguments, steps), self._pass_of(steps):
            if steps is not None and isinstance(x, tf.data.Dataset):
                # Keras counts whole calls, and would find the data at an end too soon.
                batches = x
                x = tf.data.Dataset.range(1).flat_map(lambda _: batches)
            return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; values of arrays are checked first."""
        arguments = _arguments(keras.Model.evaluate, x, args, kwargs)
        steps = arguments.get("steps")
        with self._pass_of(steps):
            if kwargs.get("_use_cached_eval_dataset"):  # `fit` has done the rest
                return super().evaluate(x, *args, **kwargs)
            self._check_arrays(x, arguments.get("y"))
            with self._steps_per_execution_for(arguments, steps):
                return super().evaluate(x, *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; values of x are checked first."""
        x = self._checked(x, y)
        with self._pass_of(None):
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; values of x are checked first."""
        x = self._checked(x, y)
        with self._pass_of(None):
            return super().test_on_batch(x, y, *args, **kwargs)

    @contextlib.contextmanager
    def _pass_of(self, num_steps):
        """Within it a pass has so many steps; outside, as many are done as before."""
        outer = self.steps_of_pass, self.steps_done
        self.steps_of_pass = num_steps
        try:
            yield
        finally:
            self.steps_of_pass, self.steps_done = outer

    @contextlib.contextmanager
    def _steps_per_execution_for(self, arguments, num_steps):
        """Sets those of a call of Keras: what "auto" stands for, and where they have to
        divide an epoch's."""
        if not self.compiled:
            yield
            return
        outer = self.steps_per_execution  # of a `fit` that this is a part of
        x = arguments.get("x")
        if self._chosen["steps_per_execution"] == "auto":
            self.steps_per_execution = self._automatic_steps(arguments, num_steps)
        if num_steps and self._makes_programs and not isinstance(x, tf.data.Dataset):
            # Keras counts whole calls to tell when it has to begin with x anew.
            self.steps_per_execution = execution.dividing_steps(
                self.steps_per_execution, num_steps
            )
        try:
            yield
        finally:
            self.steps_per_execution = outer

    def _automatic_steps(self, arguments, num_steps):
        """What "auto" stands for in a call of Keras."""
        callbacks = arguments.get("callbacks") or ()
        if not isinstance(callbacks, (list, tuple)):
            callbacks = [callbacks]
        if not self._makes_programs or any(map(execution.watches_batches, callbacks)):
            return 1
        x = arguments.get("x")
        batch_size = arguments.get("batch_size") or execution.batch_size_of(x)
        return execution.steps_per_call(
            batch_size * self.num_groups * self.num_samples,
            num_steps or execution.num_batches(x, batch_size),
        )

    @property
    def _makes_programs(self):
        """Whether steps run as one program: each on its own, Keras' way, otherwise."""
        return (
            not self.run_eagerly
            and self.distribute_strategy.num_replicas_in_sync == 1
            and execution.keeps_rows_apart(self._flatten_layers())
        )

    @property
    def _has_workers(self):
        """Whether steps are taken together with other machines."""
        return isinstance(
            self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
        )

    def make_train_function(self, force: bool = False) -> None:
        if not self._makes_programs:
            if not self._has_workers:
                super().make_train_function(force)
            elif self.train_function is None or force:
                self.train_function = execution.make_worker_function(
                    self, self.train_step
                )
        elif self.train_function is None or force:
            self.train_function = execution.make_function(
                self,
                self.train_step,
                self._prepare,
                goes_on=_is_finite if self.stops_at_nonfinite else None,
                takes_labels=self._takes_labels(self.train_step),
            )

    def make_test_function(self, force: bool = False) -> None:
        if not self._makes_programs:
            if not self._has_workers:
                super().make_test_function(force)
            elif self.test_function is None or force:
                self.test_function = execution.make_worker_function(
                    self, self.test_step
                )
        elif self.test_function is None or force:
            self.test_function = execution.make_function(
                self,
                self.test_step,
                self._prepare,
                takes_labels=self._takes_labels(self.test_step),
            )

    def _takes_labels(self, step):
        """Whether a step may look at y: those here of other models do not."""
        own = (
            ImportanceWeightedAutoencoder.train_step,
            ImportanceWeightedAutoencoder.test_step,
        )
        return self.is_conditional or step.__func__ not in own

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras' adds up the parts of a batch, which may be of different sizes."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.is_conditional and not self.built and replicas > 1:
            raise InvalidInputError(
                "a conditional model must be built before replicas train it, by "
                "`build((None, *event))`. Received: a model without variables"
            )
        if not self.built or not self.compiled:
            super()._maybe_symbolic_build(iterator, data_batch)
        elif not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def _prepare(self, x, y):
        """Checks a call's batches; creates variables of the model and its optimiser."""
        self.check_x(x, has_values=False)
        self._check_y(x, y)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _check_arrays(self, x, y=None, names=("x", "y")):
        if isinstance(x, ARRAYS):
            self._checked(x, y, names)

    def _checked(self, x, y, names=("x", "y")):
        """`x` as a tensor, its values and the labels checked."""
        x = check_float(x, names[0])
        check_values(x, in_unit_interval=self.in_unit_interval, name=names[0])
        self._check_y(x, y, names[1])
        return x

    def _check_y(self, x, y, name="y"):
        """The labels of a conditional model; None for others, which ignore y."""
        if self.is_conditional:
            return self.check_labels(y, tf.shape(x)[0], name=name)
        return None

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step up the bound; see `gradients`."""
        x, labels, example_weights = self._unpack(data)
        first_row, num_rows = _place_in_global_batch(x, data)
        key = noise.fold_in(self._key(TRAIN_STREAM), self.train_steps.value)
        x = self._binarize(x, key, first_row)
        draws = self.draw_noise(
            key, first_row, tf.shape(x)[0], self.num_groups, self.num_samples
        )
        # Of a mean over the batch of all replicas, whose gradients are then added up.
        scale = self.optimizer.scale_loss(tf.ones([]))
        with self.given(labels):
            result = loss_gradients(
                self,
                x,
                draws,
                example_weights=scale * example_weights / tf.cast(num_rows, tf.float32),
                penalty_weight=scale / self.distribute_strategy.num_replicas_in_sync,
            )
        self.optimizer.apply(result.gradients, self.trainable_variables)
        keep_equal([*self.trainable_variables, *self.optimizer.variables])
        self.train_steps.assign_add(1)
        return self._update_metrics(
            result.parts, result.bound, result.penalty, example_weights
        )

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The bound and its parts; noise and binarization repeat at each evaluation."""
        x, labels, example_weights = self._unpack(data)
        first_row, num_rows = _place_in_global_batch(x, data)
        first_row += self._evaluated
        key = self._key(TEST_STREAM)
        x = self._binarize(x, key, first_row)
        draws = self.draw_noise(
            key, first_row, tf.shape(x)[0], self.num_groups, self.num_samples
        )
        with self.given(labels):
            parts = self.log_weight_parts(x, self.proposal_parameters(x), draws)
        self._evaluated.assign_add(num_rows)
        bound = self.objective(parts.log_weights)
        penalty = self.penalty(self.encoder)
        penalty += self.penalty(self.generative_networks, besides=self.encoder)
        return self._update_metrics(parts, bound, penalty, example_weights)

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self.steps_done = 0
        if self.built:
            self._evaluated.assign(0)

    def _unpack(self, data):
        """x [B, *event], labels, a weight an example, from what `fit` hands."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.check_x(x, has_values=False)
        labels = self._check_y(x, y)
        if sample_weight is None:
            return x, labels, tf.ones(tf.shape(x)[:1])
        sample_weight = tf.cast(sample_weight, tf.float32)
        if sample_weight.shape.rank != 1:
            raise InvalidInputError(
                "`sample_weight` must have one value an example, shape [batch]. "
                f"Received: shape={tuple(sample_weight.shape)}"
            )
        return x, labels, sample_weight

    def _key(self, stream):
        return noise.fold_in(noise.make_key(self.seed), stream)

    def _binarize(self, x, key, first_row):
        """Binary pixels with probability x, one draw a row of the global batch."""
        if self.binarization == "none":
            return x
        pixels = tf.reshape(x, [-1, x.shape[1:].num_elements()])
        uniforms = noise.uniform(
            noise.fold_in(key, PIXEL_STREAM), first_row, tf.shape(x)[0], pixels.shape[1]
        )
        return tf.reshape(tf.cast(uniforms < pixels, tf.float32), tf.shape(x))

    def _update_metrics(self, parts, bound, penalty, example_weights):
        log_weights = parts.log_weights
        values = {
            "bound": bound.generative,
            "inference_bound": bound.inference,
            "elbo": bounds.elbo(log_weights),
            "iwae": bounds.iwae(log_weights),
            "log_likelihood": tf.reduce_mean(parts.log_likelihood, axis=DRAW_AXES),
            "kl": tf.reduce_mean(parts.log_proposal - parts.log_prior, axis=DRAW_AXES),
            "ess": effective_sample_size(log_weights),
        }
        loss = penalty - bound.generative
        names = self.metric_names()
        self._means.update_state([loss, *(values[n] for n in names)], example_weights)
        return {tracker.name: tracker.result() for tracker in self.metrics}


def _arguments(method, x, args, kwargs):
    """Of a call of a method of Keras, by name; without its private ones."""
    keywords = {k: v for k, v in kwargs.items() if not k.startswith("_")}
    return inspect.signature(method).bind(None, x, *args, **keywords).arguments


@keras.saving.register_keras_serializable("iwae_tf")
class VAE(ImportanceWeightedAutoencoder):
    """Variational autoencoder, trained on the ELBO over `num_samples` draws.

    mean_k log w[k]

    References:
      Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        num_samples: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder, decoder, objective=bounds.ELBO(), num_samples=num_samples, **kwargs
        )


@keras.saving.register_keras_serializable("iwae_tf")
class IWAE(ImportanceWeightedAutoencoder):
    """Importance-weighted autoencoder.

    log mean_k w[k]

    References:
      Burda, Grosse and Salakhutdinov, 2016. https://arxiv.org/abs/1509.00519
    """

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        num_samples: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            objective=bounds.ImportanceWeighted(),
            num_samples=num_samples,
            **kwargs,
        )


class _Grouped(ImportanceWeightedAutoencoder):
    """Base of the models with draws outside the log as well."""

    has_groups = True
    objective_class: Any = None

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        num_groups: int = 8,
        num_samples: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            objective=self.objective_class(),
            num_groups=num_groups,
            num_samples=num_samples,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_groups": self.num_groups}


@keras.saving.register_keras_serializable("iwae_tf")
class MIWAE(_Grouped):
    """Multiply importance-weighted autoencoder: M bounds of K draws, averaged.

    mean_m log mean_k w[m, k]

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    objective_class = bounds.MultiplyImportanceWeighted


@keras.saving.register_keras_serializable("iwae_tf")
class CIWAE(ImportanceWeightedAutoencoder):
    """Combination importance-weighted autoencoder.

    beta * mean_k log w[k] + (1 - beta) * log mean_k w[k]

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        num_samples: int = 64,
        beta: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            objective=bounds.CombinationImportanceWeighted(beta),
            num_samples=num_samples,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.objective.beta}


@keras.saving.register_keras_serializable("iwae_tf")
class PIWAE(_Grouped):
    """Partially importance-weighted autoencoder: IWAE for p, MIWAE for q.

    decoder: log mean_{m,k} w[m, k]     encoder: mean_m log mean_k w[m, k]

    `bound` is the decoder's, `inference_bound` the encoder's.

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    objective_class = bounds.PartiallyImportanceWeighted

    def metric_names(self) -> list[str]:
        return ["bound", "inference_bound", *super().metric_names()[1:]]


MODELS: dict[str, Any] = {
    "vae": VAE,
    "iwae": IWAE,
    "miwae": MIWAE,
    "ciwae": CIWAE,
    "piwae": PIWAE,
}


def _is_finite(logs):
    return tf.math.is_finite(logs["loss"])


def _place_in_global_batch(x, data):
    """Index of the first row of `x` in the batch of all replicas, and its size."""
    if isinstance(data, execution.PaddedBatch):
        return tf.zeros([], tf.int64), data.num_rows
    rows = tf.shape(x, out_type=tf.int64)[0]
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.zeros([], tf.int64), rows
    sizes = context.all_gather(rows[tf.newaxis], axis=0)
    before = tf.range(context.num_replicas_in_sync) < context.replica_id_in_sync_group
    return tf.reduce_sum(tf.where(before, sizes, 0)), tf.reduce_sum(sizes)
