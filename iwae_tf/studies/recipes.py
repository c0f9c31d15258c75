"""How the cells of studies are trained: epochs, draws and rates, by budget.

full   the papers' protocol: Adam, batch 20, 3,280 epochs in eight stages of falling
       rates, the plain gradient estimator
short  ours: Muon on batches of 200 and DReG, a stage of at most eight draws and
       then one of as many as the cell has; ten minutes of two cores a cell
medium the same on batches of 400 with a longer first stage of one draw; of the
       last stage's draws four go backward, or one of each group if that is more;
       about twenty minutes of two cores for a cell of one layer
smoke  tiny networks on `mnist5k` for one epoch: that everything runs
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from iwae_tf.config import stages

Rates = tuple[int, float, float]  # epochs, first and last rate
# Of each stage: at most how many draws (None: all), and the rates.
Recipe = tuple[tuple[int | None, int, float, float], ...]
DRAWS = 64  # M * K in Rainforth et al.
SHORT: Recipe = ((8, 60, 1.5e-3, 2e-4), (None, 20, 5e-4, 5e-6))
# Of the studies with `DRAWS` draws, which cost more.
SHORT_64: Recipe = ((8, 60, 1.5e-3, 2e-4), (None, 10, 5e-4, 5e-6))
LONG: dict[int, Recipe] = {  # by stochastic layers: hours
    1: ((8, 300, 1.5e-3, 3e-4), (None, 80, 6e-4, 5e-6)),
    2: ((8, 220, 1.5e-3, 3e-4), (None, 48, 6e-4, 5e-6)),
}
MEDIUM: Recipe = ((1, 240, 2e-3, 8e-4), (None, 26, 8e-4, 6e-6))
# Of Rainforth et al.'s table 1: after 26 epochs two of its cells lie 0.3 nats behind.
MEDIUM_TABLE: Recipe = ((1, 240, 2e-3, 8e-4), (None, 40, 8e-4, 6e-6))
BEST: dict[int, dict[str, Recipe]] = {  # by stochastic layers, and how long in words
    1: {
        "in an hour": (
            (1, 400, 2e-3, 8e-4),
            (16, 200, 8e-4, 4e-4),
            (None, 95, 4e-4, 6e-6),
        ),
        "longer": (
            (1, 800, 2e-3, 8e-4),
            (16, 400, 8e-4, 4e-4),
            (None, 190, 4e-4, 6e-6),
        ),
    },
    2: {
        "in an hour": ((8, 240, 2e-3, 5e-4), (None, 90, 8e-4, 6e-6)),
        "longer": (
            (8, 320, 2e-3, 8e-4),
            (16, 160, 8e-4, 5e-4),
            (None, 150, 5e-4, 6e-6),
        ),
    },
}
CONDITIONAL: Recipe = ((8, 120, 2e-3, 5e-4), (None, 45, 8e-4, 6e-6))  # two layers
NUM_KEPT, LARGER_BATCH = 4, 400  # draws that go backward and batches, of these two
FURTHER_STAGE = (80, 6e-4, 5e-6)  # of the long run with one layer, once it has ended


def train_by(config: ConfigDict, recipe: Recipe) -> None:
    """Sets Muon on batches of 200, DReG, and the stages of a recipe."""
    config.gradient_estimator = "dreg"
    config.optimizer = "muon"
    config.batch_size = 200
    made = []
    for most, *rates in recipe:
        most = most or config.num_groups * config.num_samples
        groups = min(config.num_groups, most)
        draws = min(config.num_samples, most // groups)
        fewer_groups = (groups,) if groups < config.num_groups else ()
        made.append((draws, *rates, *fewer_groups))
    config.stages = tuple(made)
    config.epochs = sum(stage.epochs for stage in stages(config))


def train_by_few(config: ConfigDict, recipe: Recipe) -> None:
    """As `train_by` on larger batches, with few of the draws going backward."""
    train_by(config, recipe)
    config.batch_size = LARGER_BATCH
    config.backward_samples = max(1, NUM_KEPT // config.num_groups)


def train_further(config: ConfigDict, rates: Rates) -> None:
    """Sets one stage of all draws, for a model that is trained already."""
    config.lr_schedule = "constant"
    config.stages = ((config.num_samples, *rates),)
    config.epochs = rates[0]


def full(config: ConfigDict) -> None:
    """Leaves the protocol of Burda et al., which is the default."""


def medium(config: ConfigDict) -> None:
    train_by_few(config, MEDIUM)


def short(config: ConfigDict) -> None:
    all_draws = config.num_groups * config.num_samples
    train_by(config, SHORT_64 if all_draws == DRAWS else SHORT)


def smoke(config: ConfigDict) -> None:
    short(config)
    config.dataset, config.data_dir = "mnist5k", None
    config.num_samples = min(config.num_samples, 4)
    _, _, *rates = config.stages[0]  # and the number of groups, where there is one
    config.stages = ((1, 1, *rates), (config.num_samples, 1, 1e-3, 1e-3))
    config.epochs = 2
    config.latent_dims = [4, 2][: len(config.latent_dims)]
    config.hidden_dims = [[8], [6]][: len(config.latent_dims)]
    config.eval_num_samples = 10
    config.jit_compile = False


BY_BUDGET: dict[str, Callable[[ConfigDict], None]] = {
    "full": full,
    "medium": medium,
    "short": short,
    "smoke": smoke,
}
