"""What is to be scored: the rows of a file or folder, and where each comes from."""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.checks import readable
from iwae_tf.datasets import image_folder, sources, tables
from iwae_tf.datasets.readers import to_float
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import TABLES, check_rows


class Rows(NamedTuple):
    """Rows to be scored, and more columns of the file of scores, one value a row."""

    x: np.ndarray  # float [N, *event]
    columns: dict[str, list[str]]  # "file" of a folder; "split" where it is known
    labels: np.ndarray | None = None  # of a conditional model of a table, int32 [N]


def read_rows(
    path: str | os.PathLike[str],
    *,
    schema: str | os.PathLike[str] | None = None,
    image_size: str | None = None,
    color: str | None = None,
    config: ConfigDict | None = None,
) -> Rows:
    """The rows of a file or folder.

    An .npy file is one array, left on the disk until it is used. Of a folder the rows
    are its images in the order of their names, those of sub-folders where it has none.
    A .csv or .parquet file is a table, whose categories become codes. An .npz file has
    the rows of its three splits, one after the other.

    Args:
      path: of the file or folder.
      schema: path of the JSON file of a table's columns.
      image_size: of the images of a folder; the config's unless given.
      color: of the images of a folder; the config's unless given.
      config: of the run that trained the model. Where its data are at `path`, the
        column `split` says which of them it was trained on.

    Raises:
      InvalidInputError: no such file, or another format; a table that has not the
        columns and categories of the schema; images that differ.
    """
    path = pathlib.Path(path)
    check_rows(path)
    if path.suffix in TABLES:
        if schema is None:
            raise InvalidInputError(
                "`schema` must be given for a table, the schema.json beside an "
                f"export. Received: schema=None, input={path}"
            )
        table = tables.read_table(path, "input")
        of_schema = tables.read_schema(str(schema), table, slice(None))
        x, columns = tables.encode(table, of_schema), _splits(path, len(table), config)
        is_conditional = config is not None and config.conditional
        labels = tables.encode_labels(table, of_schema) if is_conditional else None
        return Rows(x, columns, labels)
    if path.is_dir():
        files = image_folder.list_images(path, name="input").paths
        image_size = image_size or (config.image_size if config else "auto")
        color = color or (config.color if config else "auto")
        wanted = image_folder.image_format(files, image_size, color, name="input")
        images = image_folder.read_images(files, wanted, name="input")
        names = [file.relative_to(path).as_posix() for file in files]
        columns = {"file": names, **_splits(path, len(files), config)}
        x = to_float(images, "input")
        return Rows(x[..., np.newaxis] if x.ndim == 3 else x, columns)
    if path.suffix == ".npz":
        parts = {
            split: datasets.load_arrays(
                "npz",
                split=split,
                data_dir=path,
                in_unit_interval=False,
                takes_missing=True,
            ).images
            for split in datasets.SPLITS
        }
        splits = [split for split, images in parts.items() for _ in images]
        return Rows(np.concatenate([*parts.values()]), {"split": splits})
    return Rows(_read_npy(path, "input"), {})


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


def _splits(path, count, config):
    """The column of the splits, where a run has drawn its own from these rows."""
    if config is None or config.dataset not in ("images", "table"):
        return {}
    if not is_data_of(path, config) or count < 10:
        return {}
    return {"split": sources.splits_of_rows(count).tolist()}


def is_data_of(path: str | os.PathLike[str], config: ConfigDict) -> bool:
    """Whether a file or folder is where the data of a config lie."""
    theirs = pathlib.Path(os.path.expanduser(config.data_dir or ""))
    return bool(config.data_dir) and theirs.exists() and theirs.samefile(path)


def _read_npy(path: pathlib.Path, name: str) -> np.ndarray:
    with readable(path, f"`{name}` must be a readable .npy file"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim == 0:
            raise ValueError("one number, not an array")
        return array
