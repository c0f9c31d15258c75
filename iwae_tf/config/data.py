"""How the rows of a config's data are read."""

from typing import Any

from ml_collections import ConfigDict


def data_options(config: ConfigDict) -> dict[str, Any]:
    """Where the data of a config lie and how they are read, for all of `datasets`."""
    names = ("data_dir", "schema", "image_size", "color")
    return {name: config[name] for name in names}


def examples_in_words(dataset: str) -> str:
    """What messages call the examples of a data set."""
    return "rows" if dataset == "table" else "images"


def scored_as(config: ConfigDict) -> dict[str, Any]:
    """More arguments of `datasets.load_arrays`, for rows that the model scores.

    Dynamic binarization is drawn once, from `config.eval_seed`.
    """
    is_dynamic = config.binarization == "dynamic"
    return {
        "binarization": "fixed" if is_dynamic else config.binarization,
        "seed": config.eval_seed,
        "in_unit_interval": config.likelihood in ("bernoulli", "discretized_logistic"),
        "takes_missing": config.missing != "refuse",
    }


def trained_on(config: ConfigDict) -> dict[str, Any]:
    """The same for rows that it is trained on: dynamic binarization stays grey."""
    is_dynamic = config.binarization == "dynamic"
    drawn = {"binarization": "none" if is_dynamic else config.binarization}
    return scored_as(config) | drawn | {"seed": config.seed}
