"""Trained models that come with the package, by name.

They lie in the folder `saved_models` of a checkout, which an installed package holds as
`iwae_tf.saved_models`. Its `index.json` maps a name to the folder of an export.
"""

import pathlib
from typing import NamedTuple

import keras

from iwae_tf.bounds import OBJECTIVES
from iwae_tf.checks import check_choice
from iwae_tf.config import build_optimizer, stages
from iwae_tf.config.files import read_config, read_json
from iwae_tf.io.layout import shipped
from iwae_tf.runs.model_card import DATA
from iwae_tf.runs.workdir import load_exported

FOLDER = "saved_models"
INDEX = "index.json"


class PretrainedModel(NamedTuple):
    """What is known of a model that ships. NLLs are in nats an image."""

    name: str
    model: str  # vae, iwae, miwae, ciwae or piwae
    num_samples: int  # K of the bound at the end of its training
    latent_dims: list  # z1 first
    data: str  # what it was trained on, with the licence
    nll: float  # of the test split
    jackknife_error: float  # of the NLL, from the finite number of draws
    nll_num_samples: int  # draws an image of the NLL
    citation: str  # of the bound
    path: pathlib.Path  # of the export: config.json, evaluation.json, versions


def pretrained_models() -> dict[str, PretrainedModel]:
    """The models that `from_pretrained` knows.

    Returns:
      dict of name to PretrainedModel.
    """
    folder = shipped(FOLDER)
    return {
        name: _describe(name, folder / export)
        for name, export in sorted(read_json(folder / INDEX).items())
    }


def from_pretrained(name: str) -> keras.Model:
    """Loads a trained model that comes with the package.

    Args:
      name: a key of `pretrained_models()`, such as "mnist-iwae-k50".

    Returns:
      model: the Keras model, ready to score or to train on. It is compiled with the
        optimiser of its run, at the last learning rate of the run.

    Raises:
      InvalidInputError: there is no model of that name.
    """
    folder = shipped(FOLDER)
    names = read_json(folder / INDEX)
    check_choice(name, "name", sorted(names))
    model, config = load_exported(folder / names[name])
    config.learning_rate = stages(config)[-1].last_rate
    config.lr_schedule, config.stages = "constant", []
    model.compile(
        build_optimizer(config, steps_per_epoch=1), jit_compile=config.jit_compile
    )
    return model


def _describe(name: str, path: pathlib.Path) -> PretrainedModel:
    config = read_config(path / "config.json")
    evaluation = read_json(path / "evaluation.json")
    return PretrainedModel(
        name=name,
        model=config.model,
        num_samples=config.num_samples,
        latent_dims=list(config.latent_dims),
        data=DATA.get(config.dataset, config.dataset),
        nll=evaluation["nll"],
        jackknife_error=evaluation["jackknife_error"],
        nll_num_samples=evaluation["num_samples"],
        citation=OBJECTIVES[config.model].source,
        path=path,
    )
