"""An encoder that returns the mean and the width of q(z|x) apart."""

from typing import Any, Self

import keras
import tensorflow as tf

from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError

SECOND = ("log_scale", "log_variance")


@keras.saving.register_keras_serializable("iwae_tf")
class TwoHeads(keras.Layer):
    """Turns a network with two outputs into one that returns loc and log_scale.

    Many VAEs return (mean, log-variance), or (mean, log-variance, z). A log-variance
    and a log-scale have the same shape, so `second` has to say which one it is.

    Args:
      network: Keras layer or model that returns a list: loc and `second`, each
        float [rows, latent_dim]. Other outputs, such as a draw of z, are left out.
      second: "log_variance", of which log_scale is the half, or "log_scale".

    Input: what `network` takes.
    Output: float [rows, 2 * latent_dim], loc and log_scale.

    Raises:
      InvalidInputError: another `second`, or a network that returns one tensor.
    """

    def __init__(self, network: keras.Layer, second: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice(second, "second", SECOND)
        self.network, self.second = network, second

    def build(self, input_shape: Any) -> None:
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        takes_training = self.network._call_has_training_arg
        keywords = {"training": training} if takes_training else {}
        outputs = self.network(inputs, **keywords)
        if not isinstance(outputs, (list, tuple)) or len(outputs) < 2:
            raise InvalidInputError(
                f"`network` must return a list, loc and {self.second}. "
                f"Received: a {type(outputs).__name__}"
            )
        loc, second = outputs[:2]
        factor = 0.5 if self.second == "log_variance" else 1.0
        return keras.ops.concatenate([loc, factor * second], axis=-1)

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "second": self.second}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        deserialize = keras.saving.deserialize_keras_object
        network = deserialize(config["network"], custom_objects)
        return cls(**{**config, "network": network})
