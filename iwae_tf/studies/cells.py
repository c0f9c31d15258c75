"""The papers' tables as lists of training runs, each beside the published figure.

A study is a function from a `Protocol` to cells; a cell is a config with a place in a
table. All cells of a study have the same optimiser, estimator, stages and seeds;
`recipes` has these by budget.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iwae_tf.checks import check_choice
from iwae_tf.config import check_paths, default_config, plainest, stages, validate
from iwae_tf.errors import InvalidInputError
from iwae_tf.studies import recipes
from iwae_tf.studies.published import (
    BEST_PUBLISHED,
    BURDA,
    CONDITIONAL_NLL,
    RAINFORTH,
    SWAPPED,
    Published,
)
from iwae_tf.studies.recipes import DRAWS

DATASETS = ("mnist", "mnist_fixed", "omniglot")


class Cell(NamedTuple):
    """One run of a study."""

    name: str  # of its workdir, without the seed
    label: str  # in the table
    config: ConfigDict
    published: Published | None = None
    after: str = ""  # name of the cell whose weights it starts from


class Study(NamedTuple):
    """A table to be reproduced."""

    title: str
    source: str
    make_cells: Callable = lambda protocol: []  # from a Protocol to Cells
    pictures: tuple = ()  # figures of a run that the report sets side by side
    part: str = ""  # of a diagnosis, which is all of the study: no cells
    timed: bool = False  # whether its cells are compared at equal time as well


class Protocol(NamedTuple):
    """How the cells of a study are trained.

    Args:
      budget: a key of `recipes.BY_BUDGET`.
      dataset: "mnist" (binarized anew at each presentation), "mnist_fixed" (once) or
        "omniglot".
      data_dir: where the data set lies; None: its default.
    """

    budget: str
    dataset: str = "mnist"
    data_dir: str | None = None

    def config(
        self,
        model: str,
        *,
        num_samples: int,
        num_groups: int = 1,
        num_layers: int = 1,
        **overrides: Any,
    ) -> ConfigDict:
        """The config of a cell, by this budget."""
        config = default_config()
        config.model, config.dataset = model, self.dataset.partition("_")[0]
        config.num_groups, config.num_samples = num_groups, num_samples
        config.binarization = "fixed" if self.dataset == "mnist_fixed" else "dynamic"
        config.data_dir = self.data_dir
        config.eval_split = "test"
        if num_layers == 2:
            config.latent_dims = [100, 50]
            config.hidden_dims = [[200, 200], [100, 100]]
        recipes.BY_BUDGET[self.budget](config)
        config.update(overrides)
        return config


def cells_of(
    study: str,
    protocol: Protocol,
    seeds: Sequence[int] = (0,),
    folder: str | os.PathLike[str] = ".",
) -> list[Cell]:
    """The runs of a study.

    Args:
      study: its name, a key of `STUDIES`.
      protocol: Protocol.
      seeds: non-negative ints, each cell is run with each.
      folder: of the runs, where one finds another that it starts from.

    Returns:
      list of Cell; the names have the seed appended.

    Raises:
      InvalidInputError: an unknown study, budget or data set, or one that the study's
        source does not report, or a bad seed.
    """
    check_study(study, protocol)
    made = []
    for cell in STUDIES[study].make_cells(protocol):
        for seed in dict.fromkeys(seeds):
            config = cell.config.copy_and_resolve_references()
            config.seed = seed
            validate(config)
            check_paths(config)
            name = f"{cell.name}_seed{seed}"
            after = cell.after and f"{cell.after}_seed{seed}"
            if after:
                config.start_from = str(pathlib.Path(folder) / after)
            # Nothing was published for the smoke budget's networks and data.
            published = None if protocol.budget == "smoke" else cell.published
            made.append(Cell(name, cell.label, config, published, after))
    return made


def check_study(study: str, protocol: Protocol) -> None:
    """Raises InvalidInputError as `cells_of`; needs no TensorFlow."""
    check_choice(study, "study", STUDIES)
    check_choice(protocol.budget, "budget", recipes.BY_BUDGET)
    check_choice(protocol.dataset, "dataset", DATASETS)
    if protocol.dataset != "mnist" and study != "burda_table1":
        raise InvalidInputError(
            f"`dataset` must be mnist for {study}. Received: dataset={protocol.dataset}"
        )


def in_turn(made: Iterable[Cell]) -> list[list[Cell]]:
    """Cells by when they can be run.

    Args:
      made: iterable of Cell.

    Returns:
      [those to train, those that have the objective of one of them under another name,
      those that start from the weights of others], each a list of Cell.
    """
    turns: list[list[Cell]] = [[], [], []]
    for cell in made:
        same = any(plainest(cell.config) == plainest(c.config) for c in turns[0])
        turns[2 if cell.after else int(same)].append(cell)
    return turns


def _burda_table1(protocol: Protocol) -> Iterator[Cell]:
    for (layers, k), published in BURDA[protocol.dataset].items():
        for model, figures in zip(("vae", "iwae"), published):
            yield Cell(
                f"{model}_k{k}_{layers}l",
                f"{layers}-layer {model.upper()}, k = {k}",
                protocol.config(model, num_samples=k, num_layers=layers),
                Published(*figures),
            )


def _burda_swap(protocol: Protocol) -> Iterator[Cell]:
    """A trained VAE trained on as an IWAE, and the other way round.

    For as long as the last stage, at its rates.
    """
    for which, (model, k) in enumerate((("vae", 1), ("iwae", 50))):
        config = protocol.config(model, num_samples=k)
        published = Published(*BURDA["mnist"][1, k][which])
        yield Cell(model, f"{model.upper()}, k = {k}", config, published)
    for (model, k, after), figure in SWAPPED.items():
        config = protocol.config(model, num_samples=k)
        recipes.train_further(config, stages(config)[-1][1:4])
        label = f"{after.upper()}, then {model.upper()}, k = {k}"
        yield Cell(f"{after}_then_{model}", label, config, Published(*figure), after)


def _rainforth_table1(protocol: Protocol) -> Iterator[Cell]:
    for (model, setting), (nll, iwae) in RAINFORTH.items():
        groups = setting if model in ("miwae", "piwae") else 1
        arguments: dict[str, Any] = {
            "num_groups": groups,
            "num_samples": DRAWS // groups,
        }
        name, label = model, model.upper()
        if model == "ciwae":
            arguments["beta"] = setting
            name, label = f"ciwae_{setting:g}", f"CIWAE, beta = {setting:g}"
        elif groups > 1:
            name = f"{model}_{groups}_{DRAWS // groups}"
            label = f"{label}({groups}, {DRAWS // groups})"
        config = protocol.config(model, **arguments)
        if protocol.budget == "medium":
            recipes.train_by_few(config, recipes.MEDIUM_TABLE)
        yield Cell(name, label, config, Published(nll, iwae=iwae))


def _rainforth_grid(protocol: Protocol) -> Iterator[Cell]:
    """MIWAE and PIWAE for every (M, K) with M * K = 64."""
    for model in ("miwae", "piwae"):
        for power in range(DRAWS.bit_length()):
            groups, draws = 2**power, DRAWS // 2**power
            config = protocol.config(model, num_groups=groups, num_samples=draws)
            plain = plainest(config)  # (1, 64) is the paper's IWAE, (64, 1) its VAE
            nll, iwae = RAINFORTH.get((plain.model, plain.num_groups), (None, None))
            published = None if nll is None else Published(nll, iwae=iwae)
            label = f"{model.upper()}({groups}, {draws})"
            yield Cell(f"{model}_{groups}_{draws}", label, config, published)


def _estimators(protocol: Protocol) -> Iterator[Cell]:
    """Each estimator of each bound, 64 draws, at equal steps."""
    settings: dict[str, dict[str, Any]] = {
        "iwae": {"num_samples": DRAWS},
        "miwae": {"num_groups": 8, "num_samples": 8},
        "ciwae": {"num_samples": DRAWS, "beta": 0.5},
        "piwae": {"num_groups": 8, "num_samples": 8},
        "vae": {"num_samples": DRAWS},
    }
    for model, arguments in settings.items():
        # For the VAE DReG is STL.
        for estimator in ("reparameterized", "stl", "dreg")[: 2 + (model != "vae")]:
            config = protocol.config(model, **arguments)
            config.gradient_estimator = estimator
            yield Cell(f"{model}_{estimator}", f"{model.upper()}, {estimator}", config)


def _samples(protocol: Protocol) -> Iterator[Cell]:
    """A VAE and an IWAE of as many draws, for their pictures."""
    chosen = ("vae_k50_1l", "iwae_k50_1l")
    return (cell for cell in _burda_table1(protocol) if cell.name in chosen)


def _headline(protocol: Protocol) -> Iterator[Cell]:
    """The two models that everybody quotes, with some hours each.

    The short budget then trains both in an hour and for longer, a model of images given
    their class, and the first one-layer model on.
    """
    is_short = protocol.budget == "short"
    made = []
    for layers, nll in BEST_PUBLISHED.items():
        config = protocol.config("iwae", num_samples=50, num_layers=layers)
        if is_short:
            recipes.train_by(config, recipes.LONG[layers])
        name, label = f"iwae_k50_{layers}l", f"{layers}-layer IWAE, k = 50"
        made.append(Cell(name, label, config, Published(nll)))
        for words, recipe in recipes.BEST[layers].items() if is_short else ():
            config = protocol.config("iwae", num_samples=50, num_layers=layers)
            recipes.train_by_few(config, recipe)
            more = f"{name}_{words.split()[-1]}", f"{label}, {words}"
            made.append(Cell(*more, config, Published(nll)))
    yield from made
    if is_short:
        config = protocol.config("iwae", num_samples=50, num_layers=2, conditional=True)
        recipes.train_by_few(config, recipes.CONDITIONAL)
        label = "2-layer IWAE, k = 50, log p(x given its class)"
        yield Cell("iwae_k50_2l_conditional", label, config, Published(CONDITIONAL_NLL))
    if protocol.budget != "full":
        first = made[0]
        config = first.config.copy_and_resolve_references()
        last = stages(config)[-1][1:4]
        recipes.train_further(config, recipes.FURTHER_STAGE if is_short else last)
        name, label = f"{first.name}_further", f"{first.label}, trained further"
        yield Cell(name, label, config, first.published, first.name)


STUDIES = {
    "headline": Study(
        "The best NLL in a few hours: IWAE, k = 50, on MNIST",
        "the best reproductions seen: yoonholee/pytorch-vae, nbip/IWAE",
        _headline,
        pictures=("samples", "reconstructions", "latent", "latent_z1", "latent_z2"),
    ),
    "burda_table1": Study(
        "VAE and IWAE by k and stochastic layers",
        "Burda et al., 2016, tables 1 to 3, https://arxiv.org/abs/1509.00519",
        _burda_table1,
    ),
    "burda_swap": Study(
        "Objectives swapped after training",
        "Burda et al., 2016, https://arxiv.org/abs/1509.00519",
        _burda_swap,
    ),
    "rainforth_table1": Study(
        "Bounds with 64 draws",
        "Rainforth et al., 2018, table 1, https://arxiv.org/abs/1802.04537",
        _rainforth_table1,
    ),
    "rainforth_grid": Study(
        "MIWAE and PIWAE for every (M, K) with M * K = 64",
        "Rainforth et al., 2018, https://arxiv.org/abs/1802.04537",
        _rainforth_grid,
    ),
    "rainforth_snr": Study(
        "Signal-to-noise ratio of gradients against M and K",
        "Rainforth et al., 2018, theorem 1 and the toy problem, "
        "https://arxiv.org/abs/1802.04537",
        part="toy",
    ),
    "samples": Study(
        "What a VAE and an IWAE of 50 draws have learned",
        "Burda et al., 2016, table 1, https://arxiv.org/abs/1509.00519",
        _samples,
        pictures=("samples", "reconstructions", "latent", "active_units"),
    ),
    "estimators": Study(
        "Gradient estimators of each bound, at equal steps and at equal time",
        "none for PIWAE and CIWAE",
        _estimators,
        timed=True,
    ),
}
