"""Folders of PNG and JPEG files as arrays."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from iwae_tf.datasets.readers import readable
from iwae_tf.errors import InvalidInputError

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}  # Pillow's, and what they become


class ImageFiles(NamedTuple):
    """Files in the order of their names, and their classes."""

    paths: list  # of pathlib.Path
    labels: np.ndarray | None  # int64 [N], the place of its folder among them


def list_images(
    folder: str | os.PathLike[str] | None, *, name: str = "data_dir"
) -> ImageFiles:
    """The image files of a folder, or of its sub-folders, one a class.

    Args:
      folder: path. With images in it sub-folders are left out of account.
      name: of the argument, for the message.

    Returns:
      ImageFiles: ordered by class, then by name; other files are left out.

    Raises:
      InvalidInputError: no such folder, or no image in it.
    """
    if folder is not None and pathlib.Path(folder).is_dir():
        path = pathlib.Path(folder)
        own = _images_in(path)
        if own:
            return ImageFiles(own, None)
        classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
        found = [images for images in map(_images_in, classes) if images]
        if found:
            labels = np.repeat(np.arange(len(found)), [len(images) for images in found])
            return ImageFiles([path for images in found for path in images], labels)
    raise InvalidInputError(
        f"`{name}` must be a folder of {', '.join(SUFFIXES)} files, or of folders of "
        f"them, one a class. Received: {name}={folder}"
    )


def read_images(
    paths: Sequence[str | os.PathLike[str]], *, name: str = "data_dir"
) -> np.ndarray:
    """Reads image files of one size.

    Args:
      paths: list of paths, one at least.
      name: of the argument, for the message.

    Returns:
      images: uint8 [N, H, W] where all are grey, otherwise [N, H, W, 3].

    Raises:
      InvalidInputError: a file that is damaged, transparent, or of another size or
        kind than the first one.
    """
    first = _read(paths[0], name)
    images = np.empty((len(paths), *first.shape), np.uint8)
    for image, path in zip(images, paths):
        found = _read(path, name)
        if found.shape != first.shape:
            raise InvalidInputError(
                f"`{name}` must hold images of one size, all grey or all in colour. "
                f"Received: {paths[0]}, {_describe(first)}, and {path}, "
                f"{_describe(found)}"
            )
        image[...] = found
    return images


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def _read(path: str | os.PathLike[str], name: str) -> np.ndarray:
    with (
        readable(path, f"`{name}` must hold readable PNG or JPEG files"),
        Image.open(path) as image,
    ):
        mode = MODES.get(image.mode)
        if mode is None or "transparency" in image.info:
            raise InvalidInputError(
                f"`{name}` must hold grey or RGB images of 8 bits without "
                f"transparency. Received: {path}, of mode {image.mode}"
            )
        return np.asarray(image.convert(mode))


def _describe(image: np.ndarray) -> str:
    height, width, *channels = image.shape
    return f"{width} x {height} {'in colour' if channels else 'grey'}"
