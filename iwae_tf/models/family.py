"""VAE, IWAE, MIWAE, CIWAE and PIWAE: one Keras model, each on its own objective."""

from typing import Any

import keras

from iwae_tf import bounds
from iwae_tf.models.bound_model import ImportanceWeightedAutoencoder


@keras.saving.register_keras_serializable("iwae_tf")
class VAE(ImportanceWeightedAutoencoder):
    """Variational autoencoder, trained on the ELBO over `num_samples` draws (1).

    mean_k log w[k]

    With `free_bits=X`, X nats of each latent unit's KL cost nothing: the gradients are
    those of log p(x|z) - sum_j max(X, mean over the batch of KL(q(z_j|x) || p(z_j))).
    The logged bounds do not change. The model must have one stochastic layer.

    References:
      Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
      Kingma et al., 2016 (free bits, equation 15). https://arxiv.org/abs/1606.04934
    """

    objective_class = bounds.ELBO


@keras.saving.register_keras_serializable("iwae_tf")
class IWAE(ImportanceWeightedAutoencoder):
    """Importance-weighted autoencoder, of `num_samples` draws (50).

    log mean_k w[k]

    References:
      Burda, Grosse and Salakhutdinov, 2016. https://arxiv.org/abs/1509.00519
    """

    objective_class = bounds.ImportanceWeighted


@keras.saving.register_keras_serializable("iwae_tf")
class MIWAE(ImportanceWeightedAutoencoder):
    """Multiply importance-weighted autoencoder: M bounds of K draws (8, 8), averaged.

    mean_m log mean_k w[m, k]

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    objective_class = bounds.MultiplyImportanceWeighted


@keras.saving.register_keras_serializable("iwae_tf")
class CIWAE(ImportanceWeightedAutoencoder):
    """Combination importance-weighted autoencoder, of 64 draws and `beta` (0.5).

    beta * mean_k log w[k] + (1 - beta) * log mean_k w[k]

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    objective_class = bounds.CombinationImportanceWeighted


@keras.saving.register_keras_serializable("iwae_tf")
class PIWAE(ImportanceWeightedAutoencoder):
    """Partially importance-weighted autoencoder: IWAE for p, MIWAE for q (8, 8).

    decoder: log mean_{m,k} w[m, k]     encoder: mean_m log mean_k w[m, k]

    `bound` is the decoder's, `inference_bound` the encoder's.

    References:
      Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
    """

    objective_class = bounds.PartiallyImportanceWeighted

    def metric_names(self) -> list[str]:
        return ["bound", "inference_bound", *super().metric_names()[1:]]


MODELS: dict[str, Any] = {
    model.objective_class.name: model for model in (VAE, IWAE, MIWAE, CIWAE, PIWAE)
}
