"""The data of a run: a split as training sees it, and as it is scored."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.config.data import data_options, scored_as, trained_on
from iwae_tf.config.stages import (
    LEAST_STEPS,
    is_free_of_stages,
    stages,
    with_epochs,
)
from iwae_tf.datasets import image_folder
from iwae_tf.errors import InvalidInputError

FEW_EXAMPLES = 1000


def decide_epochs(config: ConfigDict) -> ConfigDict:
    """`config.stages.with_epochs`, by the size of the training split.

    Returns:
      config: itself, or a copy.

    Raises:
      InvalidInputError: no such data.
    """
    if config.epochs:
        return config
    count = datasets.num_training_examples(config.dataset, **data_options(config))
    return with_epochs(config, datasets.num_batches(count, config.batch_size))


def training_data(config: ConfigDict) -> dict[str, Any] | None:
    """What a model of a config is trained on, to be told from what it was trained on.

    Returns:
      dict for `training_data.json`: the data set, the digest of its training split, of
      a conditional model the names of classes that are folders; None of a data set
      whose name says it all.

    Raises:
      InvalidInputError: no such data.
    """
    digest = datasets.training_digest(
        config.dataset, with_labels=config.conditional, **data_options(config)
    )
    if digest is None:
        return None
    found: dict[str, Any] = {"dataset": config.dataset, "sha256": digest}
    if config.conditional and config.dataset == "images":
        folder = os.path.expanduser(config.data_dir)
        found["classes"] = image_folder.list_images(folder).classes
    return found


def kinds_of_columns(config: ConfigDict) -> list[tuple[str, str]]:
    """Name and kind of each column of a config's table; none of other data."""
    if config.dataset != "table":
        return []
    schema = datasets.table_schema(config.data_dir, config.schema)
    return [(column.name, column.kind) for column in schema.columns]


def what_is_few(config: ConfigDict, num_examples: int) -> list[str]:
    """Lines on data or steps that are too few for a model to be good."""
    steps = datasets.num_batches(num_examples, config.batch_size)
    lines = []
    if num_examples < FEW_EXAMPLES:
        lines.append(
            f"note: {num_examples:,} training examples are few; a model that also fits "
            "new data needs thousands"
        )
    if steps * config.epochs < LEAST_STEPS // 2:
        epochs, hint = -(-LEAST_STEPS // steps), ", and the schedule has no more epochs"
        most = sum(stage.epochs for stage in stages(config))
        if is_free_of_stages(config) or epochs <= most:
            hint = f"; --config.epochs={epochs} gives {LEAST_STEPS:,}"
        lines.append(f"note: {steps * config.epochs:,} steps are few{hint}")
    return lines


def unseen_classes(
    labels: np.ndarray | None, num_classes: int, names: Sequence[str] = ()
) -> list[str]:
    """A line on classes of a conditional model that no training example has, if any."""
    if labels is None:
        return []
    absent = np.setdiff1d(np.arange(num_classes), labels)
    if not len(absent):
        return []
    shown = ", ".join(names[y] if names else str(y) for y in absent[:10])
    return [
        f"note: {len(absent)} of {num_classes} classes have no training example: "
        f"scores and draws given {shown}{', ...' * (len(absent) > 10)} mean nothing"
    ]


def load_examples(config: ConfigDict, split: str) -> datasets.Split:
    """A split as training sees it: dynamic binarization stays grey.

    Returns:
      datasets.Split; its labels are None but for a conditional model.

    Raises:
      InvalidInputError: no such data, or no labels for a conditional model.
    """
    loaded = _load(config, split, trained_on(config))
    return loaded if config.conditional else loaded._replace(labels=None)


def load_eval_split(
    config: ConfigDict, split: str, limit: int | None = None
) -> datasets.Split:
    """Images and labels of a split, or of its first images, as they are scored.

    Dynamic binarization is drawn once, from `config.eval_seed`.

    Raises:
      InvalidInputError: no such data, or no labels for a conditional model.
    """
    images, labels = _load(config, split, scored_as(config))
    return datasets.Split(images[:limit], None if labels is None else labels[:limit])


def _load(config, split, values):
    loaded = datasets.load_arrays(
        config.dataset, split=split, **values, **data_options(config)
    )
    if config.conditional and loaded.labels is None:
        raise InvalidInputError(
            "`dataset` must have labels in every split for a conditional model. "
            f"Received: no labels of split {split}"
        )
    return loaded
