"""The Keras model that climbs a bound: one training step, with its two tapes in view.

`family` has the models, which only name their objective.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from iwae_tf import bounds
from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import gradients, kept_draws, one_pass, programs
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.latent_model import LogWeightParts
from iwae_tf.models.metrics import JointMeans
from iwae_tf.models.replicas import keep_equal, place_in_global_batch
from iwae_tf.probability import noise
from iwae_tf.probability.log_weights import DRAW_AXES, effective_sample_size

BINARIZATIONS = ("none", "dynamic")
SETTINGS = (
    *("objective", "num_groups", "num_samples", "gradient_estimator"),
    *("backward_samples", "kl_warmup_steps", "binarization", "seed"),
)
TRAIN_STREAM, TEST_STREAM, PIXEL_STREAM = range(3)


class Batch(NamedTuple):
    """What one step works on."""

    x: tf.Tensor  # [B, *event]
    y: tf.Tensor | None  # labels [B] of a conditional model
    draws: tf.Tensor  # standard normal [M, K, B, sum of latent dims]
    example_weights: tf.Tensor  # [B], in the sum of the bound over examples
    penalty_weight: float | tf.Tensor = 1.0  # of what regularizers add to the loss
    kl_weight: tf.Tensor | None = None  # [], see `gradients`; None is 1
    positions: tf.Tensor | None = None  # [M, R, B], see `kept_draws`; None: keep all


class LossGradients(NamedTuple):
    """Gradients of the loss, minus the bound, and what it was computed from."""

    gradients: list[tf.Tensor | None]  # one for each of the model's trainable variables
    parts: LogWeightParts  # each [M, K, B]
    bound: bounds.Bound  # that of the model, whatever weight the KL term has
    penalty: tf.Tensor  # [], what the networks' regularizers add to the loss


class ImportanceWeightedAutoencoder(Autoencoder):
    """Base class: an autoencoder that `fit` trains on an importance-weighted bound.

    Args:
      encoder: one Keras network or a sequence, see `Autoencoder`.
      decoder: one Keras network or a sequence, see `Autoencoder`.
      objective: bounds.Objective, what is maximised; the class's own unless given.
      num_groups: draws outside the log, M.
      num_samples: draws inside the log, K.
      gradient_estimator: "reparameterized"; "stl" (Roeder et al. 2017; biased for
        more than one draw inside the log, Tucker et al. 2019); or "dreg". They only
        change the encoder's gradient.
      backward_samples: R, the draws of a group with a backward pass. With R = 8 of
        K = 50 a step takes half of the time and has a few per cent more variance
        (`kept_draws`). None, or K and more: all draws. If layers mix rows or draw
        noise, all draws are used and a warning says so.
      kl_warmup_steps: training steps over which the weight of the KL term grows from 0
        to 1 (Sonderby et al. 2016): log w = log p(x|z) + b (log p(z) - log q(z|x)) in
        the gradients. The bounds that are logged have b = 1.
      binarization: "none" uses x as it is; "dynamic" draws binary pixels with
        probability x, again at each training step.
      seed: pair of integers for training and `evaluate`.
      **kwargs: parameters of the objective, as `beta`, `free_bits`; `likelihood`,
        `num_classes`, `prior`, `missing` and `schema` of `Autoencoder`; `name` and
        `dtype` of keras.Model.

    `fit` takes x, (x,), (x, y) or (x, y, sample_weight). A conditional model needs the
    integer labels y [batch]; otherwise y is ignored. All arguments from `objective` to
    `seed` can be assigned to later: the compiled steps are then traced anew.

    Raises:
      InvalidInputError: an argument out of its range, networks that do not fit.
    """

    objective_class: type[bounds.Objective] = bounds.Objective
    num_groups: int = 1
    backward_samples: int | None = None
    _num_kept: int | None = None  # also where the networks do not allow it

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        objective: bounds.Objective | None = None,
        num_groups: int | None = None,
        num_samples: int | None = None,
        gradient_estimator: str = "reparameterized",
        backward_samples: int | None = None,
        kl_warmup_steps: int = 0,
        binarization: str = "none",
        seed: Sequence[int] = (0, 0),
        **kwargs: Any,
    ) -> None:
        draws = (1, 1)
        if objective is None:
            fields = dataclasses.fields(self.objective_class)
            own = {f.name: kwargs.pop(f.name) for f in fields if f.name in kwargs}
            objective, draws = self.objective_class(**own), self.objective_class.draws
        super().__init__(encoder, decoder, **kwargs)
        self.objective = objective
        self.num_groups = draws[0] if num_groups is None else num_groups
        self.num_samples = draws[1] if num_samples is None else num_samples
        self.gradient_estimator = gradient_estimator
        self.backward_samples = backward_samples
        self.kl_warmup_steps = kl_warmup_steps
        self.binarization = binarization
        self.seed = seed
        self._means = JointMeans(["loss", *self.metric_names()])
        self._trackers = self._means.trackers  # Keras logs metrics that are attributes

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

    # One step -----------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step up the bound."""
        x, y, example_weights = self._batch(data)
        first_row, num_rows = place_in_global_batch(x, data)
        key = noise.fold_in(self._key(TRAIN_STREAM), self.train_steps.value)
        # Of a mean over the batch of all replicas, whose gradients are then added up.
        scale = self.optimizer.scale_loss(tf.ones([]))
        x, draws = self._drawn(x, key, first_row)
        weights = scale * example_weights / tf.cast(num_rows, tf.float32)
        penalty_weight = scale / self.distribute_strategy.num_replicas_in_sync
        place = first_row, tf.shape(x)[0], self.num_groups, self.num_samples
        b = gradients.kl_weight(self.train_steps.value, self.kl_warmup_steps)
        kept = self.positions(key, *place)
        step = self.loss_gradients(Batch(x, y, draws, weights, penalty_weight, b, kept))
        with tf.control_dependencies([x]):  # no step where the data have ended
            self.optimizer.apply(step.gradients, self.trainable_variables)
            keep_equal([*self.trainable_variables, *self.optimizer.variables])
            self.train_steps.assign_add(1)
        return self._update_metrics(
            step.parts, step.bound, step.penalty, example_weights
        )

    def loss_gradients(self, batch: Batch) -> LossGradients:
        """Gradients of penalty_weight * penalty - sum_b example_weights[b] * bound[b].

        One tape for the encoder, one for the decoder; see `gradients`.
        """
        latent, estimator, b = self.latent, self.gradient_estimator, batch.kl_weight
        penalty_weight = tf.convert_to_tensor(batch.penalty_weight, tf.float32)
        records = one_pass.records_for(latent)
        draws, all_go_backward = batch.draws, batch.positions is None
        if not all_go_backward:
            parts = kept_draws.forward(latent, batch.x, draws, batch.y)
            log_weights = gradients.warmed_up(parts, b)
            weights = self._weigh(batch, log_weights)
            draws, weights = kept_draws.keep(weights, draws, batch.positions)
        with tf.GradientTape(persistent=True) as q_tape:  # encoder: x -> z, log q(z|x)
            q = latent.infer(batch.x, draws, batch.y, training=True)
            given = batch.y, batch.example_weights
            paid = gradients.units_that_cost(self.objective, latent, q, *given)
            log_q = q.log_prob if paid is None else latent.log_proposal(*q[:2], paid)
            q_penalty = gradients.penalty(latent.encoder)
        with tf.GradientTape(persistent=True) as p_tape:  # decoder: z -> log p(x, z)
            p_tape.watch(q.latents)
            p = latent.log_joint(
                batch.x, q.latents, batch.y, training=True, records=records
            )
            log_p = p.log_prior
            if paid is not None:
                log_p = latent.top_prior(batch.y, paid[0].active, True).log_prob(*q[0])
            log_joint = p.log_likelihood + gradients.scaled(b, log_p)
            p_penalty = gradients.penalty(latent.generative_networks, latent.encoder)
        if all_go_backward:
            parts = LogWeightParts(*p, log_proposal=q.log_prob)  # each [M, K, B]
            weights = self._weigh(batch, gradients.warmed_up(parts, b))

        def pull_back(draw_weights, sources):
            return p_tape.gradient(
                [log_joint, p_penalty],
                sources,
                output_gradients=[-draw_weights, penalty_weight],
            )

        p_variables = gradients.trainable(latent.generative_networks)
        if not one_pass.serves(latent, weights, records):
            p_gradients = pull_back(weights.generative, p_variables)  # PIWAE: as IWAE
            pull = pull_back(weights.inference, q.latents)  # PIWAE: as MIWAE
        else:  # the same from one backward pass
            p_gradients, pull = one_pass.gradients_and_pull(
                latent, pull_back, q.latents, weights, records
            )
        q_gradients = gradients.encoder_gradients(
            latent, estimator, q_tape, q._replace(log_prob=log_q), pull,
            weights.inference, (q_penalty, penalty_weight), b, paid,
        )  # fmt: skip
        q_variables = gradients.trainable(latent.encoder)
        found = gradients.by_source(
            [*zip(q_variables, q_gradients), *zip(p_variables, p_gradients)]
        )
        in_order = [found.get(id(v.value)) for v in self.trainable_variables]
        bound = weights.bound
        if b is not None:
            bound = gradients.bound_of(self.objective, parts.log_weights)
        return LossGradients(in_order, parts, bound, q_penalty + p_penalty)

    def _weigh(self, batch, log_weights):
        """What each draw weighs in the gradients."""
        settings = self.objective, self.gradient_estimator
        return gradients.draw_weights(
            *settings, log_weights, batch.example_weights, batch.kl_weight
        )

    def positions(self, key: tf.Tensor, *place: Any) -> tf.Tensor | None:
        """`Batch.positions` of a step; see `kept_draws.positions` for the place."""
        return kept_draws.positions(self._num_kept, key, *place)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The bound and its parts; noise and binarization repeat at each evaluation."""
        x, y, example_weights = self._batch(data)
        first_row, num_rows = place_in_global_batch(x, data)
        first_row += self._evaluated
        x, draws = self._drawn(x, self._key(TEST_STREAM), first_row)
        parts = self.latent.log_weights(x, draws, y)
        self._evaluated.assign_add(num_rows)
        penalty = gradients.penalty(self.encoder)
        penalty += gradients.penalty(self.latent.generative_networks, self.encoder)
        bound = gradients.bound_of(self.objective, parts.log_weights)
        return self._update_metrics(parts, bound, penalty, example_weights)

    def _batch(self, data):
        """x [B, *event], labels, a weight an example, of what `fit` hands."""
        x, y, example_weights = self.gate.batch(data)
        if not self.built:  # step by step, without a program
            programs.create_variables(self, x.shape)
        return x, y, example_weights

    def _drawn(self, x, key, first_row):
        """x, binarized if it has to be, and the noise of its latents."""
        num_rows = tf.shape(x)[0]
        if self.binarization == "dynamic":  # one draw a row of the global batch
            pixel_key = noise.fold_in(key, PIXEL_STREAM)
            size = x.shape[1:].num_elements()
            uniforms = noise.uniform(pixel_key, first_row, num_rows, size)
            pixels = tf.cast(tf.reshape(uniforms, tf.shape(x)) < x, tf.float32)
            x = tf.where(tf.math.is_nan(x), x, pixels)
        draws = self.latent.draw_noise(
            key, first_row, num_rows, self.num_groups, self.num_samples
        )
        return x, draws

    def _key(self, stream):
        return noise.fold_in(noise.make_key(self.seed), stream)

    def _update_metrics(self, parts, bound, penalty, example_weights):
        log_weights = parts.log_weights
        values = {
            "bound": bound.generative,
            "inference_bound": bound.inference,
            "log_likelihood": tf.reduce_mean(parts.log_likelihood, axis=DRAW_AXES),
            "kl": tf.reduce_mean(parts.log_proposal - parts.log_prior, axis=DRAW_AXES),
            "ess": effective_sample_size(log_weights),
        }
        for name, function in (("elbo", bounds.elbo), ("iwae", bounds.iwae)):
            known = bound.generative if self.objective.reported == name else None
            values[name] = function(log_weights) if known is None else known
        names = self.metric_names()
        loss = penalty - bound.generative
        self._means.update_state([loss, *(values[n] for n in names)], example_weights)
        return {tracker.name: tracker.result() for tracker in self.metrics}

    def counts_nothing(self, logs: dict[str, Any]) -> bool:
        """Whether no example of a pass had a weight, unless a step has its own logs."""
        return logs.keys() >= self._trackers.keys() and not self._means.total_weight

    def metric_names(self) -> list[str]:
        """Names of the logged metrics: the bound that is trained, and its parts."""
        return ["bound", "elbo", "iwae", "log_likelihood", "kl", "ess"]

    def reset_metrics(self) -> None:
        super().reset_metrics()
        if self.built:
            self._evaluated.assign(0)

    # Settings -----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        """Checks a setting and has the steps traced anew; see `Autoencoder` too."""
        objective = vars(self).get("objective")
        parameters = getattr(objective, "__dataclass_fields__", ())
        if name in parameters and value != getattr(objective, name):
            raise InvalidInputError(
                f"`{name}` must be assigned with its objective: model.objective = "
                f"{type(objective).__name__}({name}=...). Received: {name}={value!r}"
            )
        if name not in SETTINGS:
            return super().__setattr__(name, value)
        super().__setattr__(name, self._checked(name, value))
        self.retrace()

    def _checked(self, name, value):
        """A setting as it is kept, or what is wrong with it."""
        match name:
            case "num_groups":
                value = check_count(value, name)
                self._check_groups(value, self.objective)
            case "num_samples":
                value = check_count(value, name)
            case "kl_warmup_steps":
                value = check_count(value, name, 0)
            case "gradient_estimator":
                check_choice(value, name, gradients.GRADIENT_ESTIMATORS)
            case "binarization":
                check_choice(value, name, BINARIZATIONS)
                takes_bits = not isinstance(self.likelihood, str)
                takes_bits |= self.likelihood in ("bernoulli", "normal")
                if value != "none" and not takes_bits:
                    raise InvalidInputError(
                        f"`binarization` must be none for {self.likelihood}, which "
                        f"takes values as they are. Received: binarization={value!r}"
                    )
            case "seed":
                value = noise.check_seed(value)
            case "backward_samples":
                if value is not None:
                    value = check_count(value, name)
                self._num_kept = kept_draws.possible(value, self.latent)
            case "objective":
                gradients.check_objective(value)
                gradients.check_free_bits(value, self.latent)
                self._check_groups(self.num_groups, value)
        return value

    def _check_groups(self, num_groups, objective):
        if num_groups != 1 and not objective.has_groups:
            raise InvalidInputError(
                f"`num_groups` must be 1 for {type(self).__name__}, which has no "
                f"groups: use `num_samples`. Received: num_groups={num_groups}"
            )

    @property
    def rows_per_example(self) -> int:
        """Rows of the decoder in a step, for each example."""
        return self.num_groups * self.num_samples

    def takes_labels(self, step: Any) -> bool:
        """Whether a step may look at y: those here of other models do not."""
        base = ImportanceWeightedAutoencoder
        own = (base.train_step, base.test_step)
        return self.is_conditional or step.__func__ not in own

    def get_config(self) -> dict[str, Any]:
        if type(self.objective) is not self.objective_class:
            raise InvalidInputError(
                "`objective` must be that of the model's class for the model to be "
                "saved: make a subclass that names it as its objective_class. "
                f"Received: {self.objective} in a {type(self).__name__}"
            )
        config = {
            **super().get_config(),
            "num_samples": self.num_samples,
            "gradient_estimator": self.gradient_estimator,
            "backward_samples": self.backward_samples,
            "kl_warmup_steps": self.kl_warmup_steps,
            "binarization": self.binarization,
            "seed": list(self.seed),
            **dataclasses.asdict(self.objective),
        }
        if self.objective.has_groups:
            config["num_groups"] = self.num_groups
        return config
