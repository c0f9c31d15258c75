"""File formats, MNIST's IDX and NumPy's npz, and checks of what files hold."""

import gzip
import math
import os
import pathlib
import struct
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.checks import absence, readable
from iwae_tf.errors import InvalidInputError


def existing_file(
    data_dir: str | os.PathLike[str] | None, *names: str, what: str
) -> pathlib.Path:
    """First of `names` in the folder `data_dir`, or one line on what to put there."""
    if data_dir is not None:
        for name in names:
            path = pathlib.Path(data_dir, name)
            if path.is_file():
                return path
    raise InvalidInputError(
        f"`data_dir` must be {what}. Received: data_dir={data_dir}{absence(data_dir)}"
    )


def read_idx_file(path: pathlib.Path, *, rank: int, header_only: bool = False) -> Any:
    """Bytes of an IDX file as uint8 of `rank` axes, or only their shape."""
    opener = gzip.open if path.suffix == ".gz" else open
    size = 4 * (1 + rank)
    with readable(path), opener(path, "rb") as file:
        header = file.read(size)
        if len(header) < size or header[:4] != bytes((0, 0, 8, rank)):
            raise ValueError(f"not an IDX header of {rank} axes of unsigned bytes")
        shape = struct.unpack(f">{rank}I", header[4:])
        if 0 in shape[1:]:  # any number of empty images fits into no bytes
            raise ValueError(f"images of shape {shape[1:]}")
        if header_only:
            return shape
        data = file.read()
        if len(data) != math.prod(shape):
            raise ValueError(
                f"{len(data)} bytes where the header says {math.prod(shape)}"
            )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz_member(
    archive: zipfile.ZipFile, name: str, *, header_only: bool = False
) -> Any:
    """One array of an open archive, or only its shape without unpacking the rest."""
    if f"{name}.npy" not in archive.namelist():
        raise InvalidInputError(
            f"`{name}` must be in {archive.filename}. Received: {archive.namelist()}"
        )
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = read_npy_header(file)
        if header_only:
            return shape
        size = file.tell() + math.prod(shape) * dtype.itemsize
        found = archive.getinfo(f"{name}.npy").file_size
        if size != found and not dtype.hasobject:  # before memory is taken for it
            raise ValueError(f"{found} bytes where the header says {size}")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of an .npy file, up to its data."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def to_float(images: np.ndarray, name: str) -> np.ndarray:
    """uint8 grey levels become value / 255; floats are taken as they are."""
    if images.dtype == np.uint8:
        if images.size and images.max() == 1:
            raise InvalidInputError(
                f"`{name}` must use 0..255 as uint8; store 0/1 images as float. "
                "Received: maximum 1"
            )
        return np.divide(images, 255, dtype=np.float32)
    if not np.issubdtype(images.dtype, np.floating):
        raise InvalidInputError(
            f"`{name}` must be uint8 or float. Received: dtype={images.dtype}"
        )
    with np.errstate(over="ignore"):
        return images.astype(np.float32)


def checked_labels(labels: ArrayLike, num_examples: int) -> np.ndarray:
    """`labels` as int64 [N]."""
    labels = np.asarray(labels)
    if labels.shape != (num_examples,) or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInputError(
            f"`labels` must be {num_examples} integers, one for each image. "
            f"Received: shape={labels.shape}, dtype={labels.dtype}"
        )
    return labels.astype(np.int64)
