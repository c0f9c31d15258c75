"""The keys of a config: one table, a row a key.

Defaults, checks, `--help`, the table in docs/howto/command_line.md and the values that
flags and files may put in come from it. Needs no TensorFlow: `--help` must not wait.
"""

import copy
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from iwae_tf.checks import did_you_mean, is_number
from iwae_tf.config.stages import LR_SCHEDULES, USUAL_EPOCHS, is_free_of_stages, stages
from iwae_tf.errors import InvalidInputError

BOUNDS = pathlib.Path(__file__).parents[1] / "bounds.py"


class Rule(NamedTuple):
    """What a value has to be: a test, and the words for it."""

    test: Callable[[Any], bool]
    text: str
    choices: tuple[str, ...] = ()


class Key(NamedTuple):
    """One key of configs."""

    name: str
    default: Any  # or, of one that is None by default, the type of its values
    rule: Rule
    help: str
    group: str


def _one_of(*choices: str) -> Rule:
    return Rule(choices.__contains__, f"must be one of {', '.join(choices)}", choices)


def _bounds() -> Rule:
    """One of `bounds.OBJECTIVES`, read in the source, which needs TensorFlow to run."""
    names = re.findall(r'^    name = "(\w+)"$', BOUNDS.read_text(), re.MULTILINE)
    return _one_of(*names)


def _is_integer(value: Any, lowest: int) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and lowest <= value < 2**31


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _are_sizes(values: Any) -> bool:
    return _is_list(values) and bool(values) and all(_is_integer(v, 1) for v in values)


def _is_rate(value: Any) -> bool:
    return is_number(value) and 0 < value < float("inf")


def _is_stage(stage: Any) -> bool:
    return (
        _is_list(stage)
        and len(stage) in (4, 5)
        and _are_sizes([*stage[:2], *stage[4:]])
        and all(map(_is_rate, stage[2:4]))
    )


ANYTHING = Rule(lambda value: True, "")
SWITCH = Rule(lambda value: isinstance(value, bool), "must be true or false")
COUNT = Rule(lambda value: _is_integer(value, 1), "must be a positive integer")
MAYBE_COUNT = Rule(
    lambda value: value is None or COUNT.test(value), f"{COUNT.text} or left out"
)
NATURAL = Rule(lambda value: _is_integer(value, 0), "must be an integer >= 0")
RATE = Rule(_is_rate, "must be a positive number")
SHARE = Rule(lambda value: is_number(value) and 0 <= value < 1, "must be in [0, 1)")
SIZES = Rule(_are_sizes, "must be a list of positive integers, such as [50]")
IMAGE_SIZE = Rule(
    lambda value: re.fullmatch(r"auto|[1-9]\d*,[1-9]\d*", str(value)) is not None,
    "must be auto, or HEIGHT,WIDTH",
)
STAGES = Rule(
    lambda value: _is_list(value) and all(map(_is_stage, value)),
    "must be a list of (num_samples, epochs, first rate, last rate), each optionally "
    "with num_groups",
)
LAYERS = "hidden layers of each stochastic layer"
FREE = "nats of KL that cost nothing, for each latent unit (vae)"
KEPT = "R, draws of each group that go backward; default: all"
WARMUP = "epochs in which the weight of the KL term grows from 0 to 1; 0: none"
PATIENCE = (
    "stop after this many epochs without a better validation bound, keeping the last "
    "weights; epochs of a warm-up do not count; 0: never"
)
AVERAGE = "momentum of the averaged weights that training ends with, or 0"
CONDITIONAL = "give the class label to the networks"
FIRST_RUN = "finished run whose weights training starts from"
DURATION = "at most those of the schedule; 0: 40, or more if 2,000 steps need more"
REFINED = "both: also proposals fitted to each image"
RESIZED = "HEIGHT,WIDTH to which the images of a folder are resized"
SCHEMA = "kinds of the columns of a table: column=kind,... or a JSON file"
STAGE = "[(num_samples, epochs, first rate, last rate[, num_groups]), ...]"
ESTIMATORS = _one_of("reparameterized", "stl", "dreg")
NETWORKS = _one_of("mlp", "conv")
LIKELIHOODS = _one_of(
    *("bernoulli", "normal", "discretized_logistic", "poisson", "negative_binomial"),
    "mixed",
)
MISSING = _one_of("refuse", "marginalize", "marginalize_with_mask")
GREY = "mnist", "fashion_mnist", "kmnist", "binarized_mnist"
DOWNLOADED = *GREY, "cifar10", "svhn_cropped"
OWN = "idx", "npz", "images", "table"
DATASETS = _one_of(*DOWNLOADED, "omniglot", "mnist5k", *OWN)
COLORS = _one_of("auto", "gray", "rgb")
BINARIZATIONS = _one_of("none", "threshold", "fixed", "dynamic")
SCHEDULES = _one_of(*LR_SCHEDULES)
OPTIMIZERS = _one_of("adam", "muon", "burda_adam")
PROPOSALS = _one_of("encoder", "both")
PRECISIONS = _one_of("float32", "mixed_bfloat16", "mixed_float16")
SPLITS = _one_of("validation", "test")

MODEL, DATA, TRAIN, EVALUATION = "Model", "Data", "Training", "Evaluation"
# The default is Burda et al.'s one-layer IWAE on MNIST.
KEYS = (
    Key("model", "iwae", _bounds(), "", MODEL),
    Key("num_groups", 1, COUNT, "M, groups outside the log (miwae, piwae)", MODEL),
    Key("num_samples", 50, COUNT, "K, draws inside the log", MODEL),
    Key("beta", float, ANYTHING, "weight of the ELBO (ciwae)", MODEL),
    Key("free_bits", float, ANYTHING, FREE, MODEL),
    Key("gradient_estimator", "reparameterized", ESTIMATORS, "", MODEL),
    Key("backward_samples", int, MAYBE_COUNT, KEPT, MODEL),
    Key("latent_dims", [50], SIZES, "latent units of each layer, z1 first", MODEL),
    Key("hidden_dims", [[200, 200]], ANYTHING, LAYERS, MODEL),
    Key("network", "mlp", NETWORKS, "", MODEL),
    Key("conv_channels", [16, 32], SIZES, "channels of each resolution (conv)", MODEL),
    Key("likelihood", "bernoulli", LIKELIHOODS, "", MODEL),
    Key("missing", "refuse", MISSING, "what NaN in the data means", MODEL),
    Key("conditional", False, SWITCH, CONDITIONAL, MODEL),
    Key("dataset", "mnist", DATASETS, "", DATA),
    Key("data_dir", str, ANYTHING, "folder or file of the data set", DATA),
    Key("schema", str, ANYTHING, SCHEMA, DATA),
    Key("image_size", "auto", IMAGE_SIZE, RESIZED, DATA),
    Key("color", "auto", COLORS, "what the images of a folder become", DATA),
    Key("binarization", "dynamic", BINARIZATIONS, "", DATA),
    Key("batch_size", 20, COUNT, "images in a step", DATA),
    Key("shuffle", True, SWITCH, "new order of the images in each epoch", DATA),
    Key("epochs", 3280, NATURAL, DURATION, TRAIN),
    Key("optimizer", "adam", OPTIMIZERS, "", TRAIN),
    Key("learning_rate", 1e-3, RATE, "learning rate at the start", TRAIN),
    Key("lr_schedule", "burda", SCHEDULES, "", TRAIN),
    Key("stages", [], STAGES, STAGE, TRAIN),
    Key("adam_epsilon", 1e-4, RATE, "epsilon of adam and muon", TRAIN),
    Key("kl_warmup_epochs", 0, NATURAL, WARMUP, TRAIN),
    Key("early_stopping_epochs", 0, NATURAL, PATIENCE, TRAIN),
    Key("weight_average", 0.0, SHARE, AVERAGE, TRAIN),
    Key("start_from", str, ANYTHING, FIRST_RUN, TRAIN),
    Key("precision", "float32", PRECISIONS, "", TRAIN),
    Key("jit_compile", True, SWITCH, "compile the steps with XLA", TRAIN),
    Key("seed", 0, NATURAL, "seed of the weights, the order and the noise", TRAIN),
    Key("eval_split", "validation", SPLITS, "", EVALUATION),
    Key("eval_seed", 1, NATURAL, "seed of test binarization and draws", EVALUATION),
    Key("eval_num_samples", 5000, COUNT, "draws for each image", EVALUATION),
    Key("eval_proposal", "encoder", PROPOSALS, REFINED, EVALUATION),
)
NAMES = tuple(key.name for key in KEYS)


def default_config() -> ConfigDict:
    """The keys that every config has: Burda et al.'s one-layer IWAE on MNIST.

    Returns:
      config: ml_collections.ConfigDict; a config file overrides a few of its values.
    """
    config = ConfigDict()
    for key in KEYS:
        value = key.default
        if isinstance(value, type):
            value = placeholder(value)
        elif isinstance(value, list):  # which `--config.x='[1, 2]'` can override
            value = FieldReference(copy.deepcopy(value), field_type=object)
        config[key.name] = value
    return config


def validate(config: ConfigDict) -> None:
    """Checks every key of a config.

    Raises:
      InvalidInputError: an unknown or missing key, or a value that breaks a rule.
    """
    check_values(config)
    for good, name, rule in _rules_together(config):
        _require(good, name, rule, config)


def check_values(config: ConfigDict) -> None:
    """Checks each key by itself, without TensorFlow; raises as `validate` does."""
    for name in config:
        check_key(name)
    for name in sorted({*NAMES} - {*config}):
        raise InvalidInputError(
            f"`{name}` must be in the config. Received: no such key"
        )
    for key in KEYS:
        value, choices = config[key.name], key.rule.choices
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        _require(key.rule.test(value), key.name, key.rule.text, config, hint)


def check_used(config: ConfigDict, given: Iterable[str]) -> None:
    """Raises InvalidInputError if a key that was given has no effect."""
    staged = bool(config.stages), "the config has stages, with rates of their own"
    is_burda, is_mlp = config.optimizer == "burda_adam", config.network == "mlp"
    unused = {
        "learning_rate": staged,
        "lr_schedule": staged,
        "adam_epsilon": (is_burda, "the optimizer is burda_adam, with one of its own"),
        "conv_channels": (is_mlp, "the network is mlp"),
        "data_dir": (
            config.dataset == "mnist5k",
            "the data set is mnist5k, which a library has: name the data set too",
        ),
    }
    for name in given:
        is_unused, where = unused.get(name, (False, ""))
        _require(not is_unused, name, f"must be left out where {where}", config)


def check_paths(config: ConfigDict) -> None:
    """Raises InvalidInputError if data or the run to start from are not there.

    A set that is downloaded makes its folder.
    """
    for name in ("data_dir", "start_from"):
        path = config[name]
        found = not path or os.path.exists(os.path.expanduser(path))
        good = found or (name == "data_dir" and config.dataset in DOWNLOADED)
        _require(good, name, "must be a path that exists", config)


def _rules_together(config: ConfigDict) -> Iterator[tuple[bool, str, str]]:
    """(whether it is kept, key, rule) of the rules that hold between keys."""
    from iwae_tf import bounds, datasets

    yield (
        not config.conditional or config.dataset not in datasets.UNLABELLED,
        "dataset",
        "must have labels for a conditional model",
    )
    bound = bounds.OBJECTIVES[config.model]
    yield (
        bound.has_groups or config.num_groups == 1,
        "num_groups",
        f"must be 1 for {bound.name}, which has no groups: use `num_samples`",
    )
    for name in NAMES:
        owners = [b.name for b in bounds.OBJECTIVES.values() if name in fields_of(b)]
        is_free = not owners or bound.name in owners or config[name] is None
        yield is_free, name, f"must be left out except for {', '.join(owners)}"
    bound(**{name: config[name] for name in fields_of(bound)})  # checks its own
    is_table = config.dataset == "table"
    yield (
        config.likelihood in ("bernoulli", "normal") or config.binarization == "none",
        "binarization",
        f"must be none for {config.likelihood}, which takes values as they are",
    )
    yield (
        is_table == (config.likelihood == "mixed"),
        "likelihood",
        "must be mixed for the data set table, and only for it",
    )
    yield is_table or not config.schema, "schema", "must be left out except for a table"
    for name in ("image_size", "color"):
        is_free = config.dataset == "images" or config[name] == "auto"
        yield is_free, name, "must be auto unless the data set is images"
    layers, size = config.hidden_dims, len(config.latent_dims)
    yield (
        _is_list(layers) and all(map(_are_sizes, layers)) and len(layers) == size,
        "hidden_dims",
        f"must be {size} lists of positive integers, one for each stochastic layer, "
        f"such as {[[200, 200]] * size}",
    )
    all_stages = stages(config)
    for name in ("num_samples", "num_groups"):
        value = getattr(all_stages[-1], name)
        rule = f"must be that of the last stage, {value}"
        yield config[name] == value, name, rule
    most = config.epochs or USUAL_EPOCHS
    rule = f"must be at most the epochs of training, {most}"
    yield config.kl_warmup_epochs <= most, "kl_warmup_epochs", rule
    yield (
        bound.has_groups or all(stage.num_groups == 1 for stage in all_stages),
        "stages",
        f"must have a num_groups of 1 for {bound.name}",
    )
    yield (
        config.epochs > 0 or is_free_of_stages(config),
        "epochs",
        "must be positive if the schedule has epochs of its own",
    )
    total = sum(stage.epochs for stage in all_stages)
    yield config.epochs <= total, "epochs", f"must be at most the schedule's {total}"


def fields_of(bound: type[Any]) -> list[str]:
    """The keys that only some bounds take, such as `beta`: fields of their class."""
    return [field.name for field in dataclasses.fields(bound)]


def override(config: ConfigDict, **values: Any) -> ConfigDict:
    """Puts values other than None into a config, which has to be valid with them.

    Another data set is not read as the folder of images was that the config is of.

    Raises:
      InvalidInputError: a bad value, or one that has no effect.
    """
    if values.get("dataset", config.dataset) not in (None, config.dataset):
        config.image_size = config.color = "auto"
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        put(config, name, value)
    validate(config)
    check_used(config, given)
    return config


def put(config: ConfigDict, name: str, value: Any) -> None:
    """Puts a value into a config: of a float key an integer too, "true" of a switch.

    Raises:
      InvalidInputError: an unknown key, or a value of another type.
    """
    check_key(name)
    if isinstance(config[name], float) and isinstance(value, int):
        value = float(value)
    if isinstance(config[name], bool) and value in ("true", "false"):
        value = value == "true"
    try:
        config[name] = value
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"`{name}` must have the type of {config[name]!r}. "
            f"Received: {name}={value!r}"
        ) from error


def check_key(name: str) -> None:
    """Raises InvalidInputError unless `name` is one that configs have."""
    if name not in NAMES:
        known = sorted(NAMES)
        raise InvalidInputError(
            f"`{name}` must be a config key, one of {', '.join(known)}. "
            f"Received: {name}{did_you_mean(name, known)}"
        )


def _require(good, name, rule, config, hint=""):
    if not good:
        raise InvalidInputError(
            f"`{name}` {rule}. Received: {name}={config[name]!r}{hint}"
        )
