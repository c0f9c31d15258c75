"""The figures that the papers report, to be set beside ours.

Test negative log-likelihood in nats, of 5,000 samples.

References:
  Burda et al., 2016. https://arxiv.org/abs/1509.00519
  Rainforth et al., 2018. https://arxiv.org/abs/1802.04537
"""

from typing import NamedTuple


class Published(NamedTuple):
    """What the source of a table reports for one of its cells."""

    nll: float
    active_units: str = ""
    iwae: float | None = None  # the bound of all M * K draws


# Burda et al., tables 1 to 3: test NLL and active units, by data set, stochastic
# layers and k; the VAE's, then the IWAE's.
BURDA = {
    "mnist": {
        (1, 1): ((86.76, "19"), (86.76, "19")),
        (1, 5): ((86.47, "20"), (85.54, "22")),
        (1, 50): ((86.35, "20"), (84.78, "25")),
        (2, 1): ((85.33, "16+5"), (85.33, "16+5")),
        (2, 5): ((85.01, "17+5"), (83.89, "21+5")),
        (2, 50): ((84.78, "17+5"), (82.90, "26+7")),
    },
    "omniglot": {
        (1, 1): ((108.11, "28"), (108.11, "28")),
        (1, 5): ((107.62, "28"), (106.12, "34")),
        (1, 50): ((107.80, "28"), (104.67, "41")),
        (2, 1): ((107.58, "28+4"), (107.56, "30+5")),
        (2, 5): ((106.31, "30+5"), (104.79, "38+6")),
        (2, 50): ((106.30, "30+5"), (103.38, "44+7")),
    },
    "mnist_fixed": {
        (1, 1): ((88.71, "19"), (88.71, "19")),
        (1, 5): ((88.83, "19"), (87.63, "22")),
        (1, 50): ((89.05, "20"), (87.10, "24")),
        (2, 1): ((88.08, "16+5"), (88.08, "16+5")),
        (2, 5): ((87.63, "17+5"), (86.17, "21+5")),
        (2, 50): ((87.86, "17+6"), (85.32, "24+7")),
    },
}
# Burda et al.: NLL and active units after training on with the other objective.
# By that objective, its k, and what it starts from.
SWAPPED = {
    ("iwae", 50, "vae"): (84.88, "22"),
    ("vae", 1, "iwae"): (86.02, "23"),
}
# Rainforth et al., table 1: minus log p(x), and IWAE-64.
RAINFORTH = {
    ("iwae", 1): (84.52, -86.11),
    ("piwae", 8): (84.46, -85.74),
    ("miwae", 4): (84.56, -85.60),
    ("miwae", 8): (84.97, -85.69),
    ("ciwae", 0.05): (84.57, None),
    ("ciwae", 0.5): (85.24, -86.08),
    ("vae", 1): (86.21, -86.69),
}
EPOCHS = 3280  # of the runs of both papers
BEST_PUBLISHED = {1: 84.37, 2: 82.82}  # by stochastic layers, IWAE k = 50 on MNIST
CONDITIONAL_NLL = 80.78  # of images given their class: two layers, k = 50, nbip/IWAE
