"""What is to be scored: the rows of a file or folder, and where each comes from."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.checks import readable
from iwae_tf.config.data import data_options, scored_as
from iwae_tf.datasets import image_folder, sources, table_files, tables
from iwae_tf.datasets.readers import to_float
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import TABLES, check_rows


class Rows(NamedTuple):
    """Rows to be scored, and more columns of the file of scores, one value a row."""

    x: np.ndarray  # float [N, *event]
    stored: np.ndarray  # the same before it was binarized
    columns: dict[str, list[str]]  # "file" of a folder; "split" where it is known
    labels: np.ndarray | None = None  # integers [N], where a conditional model's are
    notes: tuple[str, ...] = ()  # what was done to x, a line each


def read_rows(
    path: str | os.PathLike[str],
    *,
    schema: str | os.PathLike[str] | None = None,
    image_size: str | None = None,
    color: str | None = None,
    config: ConfigDict | None = None,
    labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> Rows:
    """The rows of a file or folder in its order, as the config's model scores them.

    An .npy file is one array, left on the disk until it is used. Of a folder the rows
    are its images in the order of their names, those of sub-folders where it has none.
    A .csv or .parquet file is a table, whose categories become codes. An .npz file has
    the rows of x_train, of x_validation if it is there, and of x_test. An array has
    codes already, unless the schema is of an array too (`tables.is_of_array`).

    Grey values are binarized as an evaluation does it. Those of the run's own data get
    the bits that they have there, and those of other data the bits of a test split.

    Args:
      path: of the file or folder.
      schema: path of the JSON file of a table's columns, whole.
      image_size: of the images of a folder; the config's unless given.
      color: of the images of a folder; the config's unless given.
      config: of the run that trained the model, if it is known. Where its data are at
        `path`, the column `split` says which of them it was trained on.
      labels: integers [N], in place of those of the rows.
      classes: names of the folders of images that a conditional model was trained on:
        if a folder has these, they are the labels.

    Raises:
      InvalidInputError: no such file, or another format; a table that has not the
        columns and categories of the schema; images that differ.
    """
    path = pathlib.Path(path)
    check_rows(path)
    for name, value in {"image_size": image_size, "color": color}.items():
        if value is not None and not path.is_dir():
            raise InvalidInputError(
                f"`{name}` must be left out unless `input` is a folder of images. "
                f"Received: {name}={value}, input={path}"
            )
    options = {} if config is None else data_options(config) | scored_as(config)
    is_conditional = config is not None and config.conditional
    columns: dict[str, list[str]] = {}
    own: dict[str, np.ndarray] = {}
    found = None  # labels of the rows
    known = None if schema is None else tables.load_schema(schema)
    if path.suffix in TABLES:
        if known is None:
            raise InvalidInputError(
                "`schema` must be given for a table, the schema.json beside an "
                f"export. Received: schema=None, input={path}"
            )
        x = table_files.read_table(path, "input", tables.text_columns(known))
    elif path.is_dir():
        files, found, _ = listed = image_folder.list_images(path, name="input")
        found = found if listed.classes == [*classes] else None
        image_size = image_size or options.get("image_size", "auto")
        color = color or options.get("color", "auto")
        wanted = image_folder.image_format(files, image_size, color, name="input")
        x = to_float(image_folder.read_images(files, wanted, name="input"), "input")
        x = x[..., np.newaxis] if x.ndim == 3 else x
        columns["file"] = [file.relative_to(path).as_posix() for file in files]
    elif path.suffix == ".npz":
        (x, found), own = datasets.load_npz(path, is_table=known is not None)
    else:
        x = _read_npy(path, "input")
    if len(x) == 0:
        raise InvalidInputError(
            f"`input` must have at least one row. Received: {path}, which has none"
        )
    if known is not None and not path.is_dir():
        wants_labels = is_conditional and labels is None
        x, found = _encoded(x, found, known, wants_labels)
    if is_conditional and labels is None:
        labels = found
    rows = _splits(path, len(x), own, config)
    if rows:
        splits = np.empty(len(x), sources.SPLITS_OF_TENTHS.dtype)
        for split, chosen in rows.items():
            splits[chosen] = split
        columns["split"] = splits.tolist()
    binary, notes = _binarized(x, rows, options, config)
    return Rows(binary, x, columns, labels, notes)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """The integers [N] in an .npy file.

    Raises:
      InvalidInputError: no such file, or another format.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npy" or not path.is_file():
        raise InvalidInputError(
            f"`labels` must be a file NAME.npy of integers [N]. Received: {path}"
        )
    return _read_npy(path, "labels")


def _encoded(x, labels, schema, wants_labels):
    """x and labels of a table, or of an array like the one of the schema."""
    if isinstance(x, np.ndarray) and not tables.is_of_array(schema):
        return x, labels
    if wants_labels:
        labels = tables.encode_labels(x, schema)
    return tables.encode(x, schema), labels


def _splits(path, count, own, config):
    """The rows of each split where these are a run's data, in its order; or none."""
    if config is None or config.dataset not in ("images", "table", "npz"):
        return {}
    theirs = pathlib.Path(os.path.expanduser(config.data_dir or ""))
    if not theirs.exists() or not theirs.samefile(path):
        return {}
    if own or count < 10:
        return own
    splits = sources.splits_of_rows(count)
    return {split: np.flatnonzero(splits == split) for split in datasets.SPLITS}


def _binarized(x, rows, options, config):
    """`x` as an evaluation scores it, and what there is to be said of that."""
    if not options:
        return x, ()
    binarization, seed = options["binarization"], options["seed"]
    binary = datasets.binarize(
        x,
        binarization,
        seed,
        rows,
        name="input",
        takes_missing=options["takes_missing"],
    )
    if binary is x:
        return x, ()
    drawn = f", drawn once from eval_seed={seed}" if binarization == "fixed" else ""
    how = f"by binarization={config.binarization} of the model's config{drawn}"
    return binary, (f"note: grey values are binarized {how}, as in its evaluation",)


def _read_npy(path: pathlib.Path, name: str) -> np.ndarray:
    with readable(path, f"`{name}` must be a readable .npy file"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim == 0:
            raise ValueError("one number, not an array")
        return array
