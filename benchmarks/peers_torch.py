"""The same models as one writes them with PyTorch: torch.distributions and Adam."""

import math

import torch
from torch import distributions, nn


class PlainIWAE(nn.Module):
    """Autoencoder with one stochastic layer and a Bernoulli likelihood.

    Args:
      event_shape: tuple, the shape of x.
      hidden_dims: units of the encoder's hidden layers, mirrored in the decoder.
      latent_dim: size of z.
    """

    def __init__(self, event_shape, hidden_dims, latent_dim):
        super().__init__()
        size = math.prod(event_shape)
        self.encoder = mlp([size, *hidden_dims, 2 * latent_dim])
        self.decoder = mlp([latent_dim, *hidden_dims[::-1], size])
        self.prior = distributions.Independent(
            distributions.Normal(torch.zeros(latent_dim), torch.ones(latent_dim)), 1
        )

    def log_weights(self, x, *draws):
        """log p(x, z) - log q(z|x) of new draws: [*draws, B]."""
        x = x.flatten(1)
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        normal = distributions.Normal(loc, log_scale.exp())
        proposal = distributions.Independent(normal, 1)
        z = proposal.rsample(draws)
        bernoulli = distributions.Bernoulli(logits=self.decoder(z))
        likelihood = distributions.Independent(bernoulli, 1)
        return likelihood.log_prob(x) + self.prior.log_prob(z) - proposal.log_prob(z)


def mlp(sizes):
    """Linear layers of these sizes with tanh in between."""
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def log_mean_exp(log_weights, dim):
    """log of the mean over the axis `dim`."""
    count = log_weights.shape[dim]
    return torch.logsumexp(log_weights, dim) - math.log(count)


def train_iwae(model, optimizer, x, batch_size, num_samples):
    """One epoch on the IWAE bound of K draws, in a new order.

    Args:
      model: PlainIWAE.
      optimizer: of its parameters.
      x: float32 [N, *event].
      batch_size: examples a step.
      num_samples: K; the ELBO with one.
    """
    for rows in torch.randperm(len(x)).split(batch_size):
        optimizer.zero_grad()
        log_weights = model.log_weights(x[rows], num_samples)
        loss = -log_mean_exp(log_weights, 0).mean()
        loss.backward()
        optimizer.step()


def train_piwae(model, optimizer, x, batch_size, num_groups, num_samples):
    """One epoch of PIWAE: the decoder on all M * K draws, the encoder on M groups.

    Args:
      model: PlainIWAE.
      optimizer: of its parameters.
      x: float32 [N, *event].
      batch_size: examples a step.
      num_groups: M.
      num_samples: K.
    """
    encoder = list(model.encoder.parameters())
    decoder = list(model.decoder.parameters())
    for rows in torch.randperm(len(x)).split(batch_size):
        log_weights = model.log_weights(x[rows], num_groups, num_samples)
        miwae = log_mean_exp(log_weights, 1).mean()
        iwae = log_mean_exp(log_weights.flatten(0, 1), 0).mean()
        of_encoder = torch.autograd.grad(-miwae, encoder, retain_graph=True)
        of_decoder = torch.autograd.grad(-iwae, decoder)
        gradients = of_encoder + of_decoder
        for parameter, gradient in zip(encoder + decoder, gradients):
            parameter.grad = gradient
        optimizer.step()


def log_likelihood(model, x, num_samples, chunk_size):
    """Estimates of log p(x), [B], from K draws in chunks of `chunk_size` an image."""
    with torch.no_grad():
        chunks = [
            torch.logsumexp(model.log_weights(x, chunk_size), 0)
            for _ in range(num_samples // chunk_size)
        ]
        return torch.logsumexp(torch.stack(chunks), 0) - math.log(num_samples)
