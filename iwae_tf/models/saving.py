"""How Keras writes a model down and reads it back: configs, `.keras` files, exports."""

import os
from typing import Any, Self

import keras

from iwae_tf.errors import InvalidInputError
from iwae_tf.models.keras_loop import OneProgramModel
from iwae_tf.models.latent_model import LatentModel
from iwae_tf.models.private import writes_hdf5
from iwae_tf.schema import Schema


class SavedByKeras(OneProgramModel):
    """The part of `Autoencoder` that Keras' `save`, `export` and loading go through."""

    latent: LatentModel
    likelihood: Any
    schema: Schema | None

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in Keras, to a `.keras` file.

        Raises:
          InvalidInputError: an HDF5 file, from which no such model can be loaded.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise _hdf5(f"filepath={filepath}")
        super().save(filepath, *args, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike[str],
        *args: Any,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras: what calling the model returns, and nothing else of it.

        `iwae_tf.export_saved_model` writes log-likelihoods, codes and samples as well.
        """
        if not self.built or self.latent.num_classes is not None:
            what = "a conditional one" if self.built else "a model without variables"
            raise InvalidInputError(
                "the model must be built and without classes for Keras' `export`: use "
                f"iwae_tf.export_saved_model(model, path). Received: {what}"
            )
        if input_signature is None:
            shape = (None, *self.latent.event_shape)
            input_signature = [keras.InputSpec(shape=shape, dtype="float32")]
        super().export(filepath, *args, input_signature=input_signature, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Of `keras.saving.save_model`, which does not call `save` for HDF5.
        if writes_hdf5():
            raise _hdf5("an HDF5 file")
        serialize = keras.saving.serialize_keras_object
        latent, likelihood = self.latent, self.likelihood
        if _share_a_layer([*latent.encoder, *latent.generative_networks]):
            raise InvalidInputError(
                "the networks must have no layer in common for the model to be saved: "
                "it could not be loaded. Received: a shared layer"
            )
        classes = {}
        if latent.num_classes is not None:
            prior = None if latent.prior is None else serialize(latent.prior)
            classes = {"num_classes": latent.num_classes, "prior": prior}
        return {
            "name": self.name,
            "dtype": serialize(self.dtype_policy),
            "encoder": [serialize(network) for network in latent.encoder],
            "decoder": [serialize(network) for network in latent.decoder],
            "likelihood": (
                _serialize_likelihood(likelihood)
                if callable(likelihood)
                else likelihood
            ),
            **classes,
            **({"missing": latent.missing} if latent.takes_missing else {}),
            **({"schema": self.schema.to_json()} if self.schema else {}),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        for name in ("encoder", "decoder"):
            config[name] = [deserialize(c, custom_objects) for c in config[name]]
        if "schema" in config:
            config["schema"] = Schema.from_json(config["schema"])
        for name, value in config.items():
            if isinstance(value, dict):  # also an array of an objective of one's own
                config[name] = deserialize(value, custom_objects)
        return cls(**config)


def _hdf5(received):
    return InvalidInputError(
        "`filepath` must end in .keras: of an HDF5 file the model could not be "
        f"loaded. Received: {received}"
    )


def _share_a_layer(networks):
    """Whether two networks have a variable in common."""
    ids = [v for network in networks for v in {id(v) for v in network.weights}]
    return len(set(ids)) < len(ids)


def _serialize_likelihood(likelihood):
    """A registered callable's config; refuses one that could not be loaded again."""
    target = likelihood if hasattr(likelihood, "__name__") else type(likelihood)
    registered = keras.saving.get_registered_name(target)
    if keras.saving.get_registered_object(registered) is not target:
        raise InvalidInputError(
            "`likelihood` must be registered with "
            "keras.saving.register_keras_serializable for the model to be saved. "
            f"Received: likelihood={target.__name__}"
        )
    return keras.saving.serialize_keras_object(likelihood)
