"""Folders of picture files as arrays: which are read, and what they become."""

import collections
import functools
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from iwae_tf.checks import absence, check_choice, check_memory
from iwae_tf.errors import InvalidInputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
GRAY, RGB = "gray", "rgb"
COLORS = ("auto", GRAY, RGB)
MODES = {GRAY: "L", RGB: "RGB"}  # Pillow's
KINDS = {"1": GRAY, "L": GRAY, "LA": GRAY, "RGB": RGB, "RGBA": RGB}
IN_WORDS = {GRAY: "grey", RGB: "in colour"}
SIZE = re.compile(r"\s*([1-9]\d{0,4})\s*,\s*([1-9]\d{0,4})\s*")
ORIENTATION, TURNED = 0x0112, range(5, 9)  # EXIF's tag, and values by a quarter
SHOWN = 3  # names of each kind in a message
# Damage that Pillow finds in a file is of many types.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class ImageFiles(NamedTuple):
    """Files in the order of their names, their classes, and what was left out."""

    paths: list[pathlib.Path]
    labels: np.ndarray | None  # int64 [N], the place of its folder among them
    left_out: collections.Counter  # of ".heic", "hidden" and so on

    @property
    def classes(self) -> list[str]:
        """Names of the folders in the order of their labels; none without labels."""
        names = dict.fromkeys(path.parent.name for path in self.paths)
        return [] if self.labels is None else [*names]

    @property
    def without(self) -> str:
        """The end of a line about them: what was left out."""
        return f"; left out: {_counted(self.left_out)}" if self.left_out else ""


class ImageFormat(NamedTuple):
    """What all images of a folder are, or become."""

    height: int
    width: int
    color: str  # "gray" or "rgb"

    @property
    def shape(self) -> tuple[int, ...]:
        size = (self.height, self.width)
        return size if self.color == GRAY else (*size, 3)


class Header(NamedTuple):
    """What a file says of its image; with a problem it cannot be read."""

    size: tuple[int, int] = (0, 0)  # height and width, turned as EXIF says
    color: str = GRAY
    problem: str | None = None


def list_images(
    folder: str | os.PathLike[str] | None, *, name: str = "data_dir"
) -> ImageFiles:
    """The image files of a folder, or of its sub-folders, one for each class.

    Args:
      folder: path. With images in it sub-folders are left out of account.
      name: of the argument, for the message.

    Returns:
      ImageFiles: ordered by class, then by name. Hidden files and folders and those of
      other types are left out, and counted.

    Raises:
      InvalidInputError: no such folder, or no image in it.
    """
    left_out: collections.Counter = collections.Counter()
    if folder is not None and pathlib.Path(folder).is_dir():
        path = pathlib.Path(folder)
        own, below = _images_in(path, left_out), _folders_in(path)
        if own:
            left_out += _deeper(below)
            return ImageFiles(own, None, left_out)
        found = [images for entry in below if (images := _images_in(entry, left_out))]
        left_out += _deeper(entry for folder in below for entry in _folders_in(folder))
        if found:
            labels = np.repeat(np.arange(len(found)), [len(images) for images in found])
            paths = [path for images in found for path in images]
            return ImageFiles(paths, labels, left_out)
    others = f", which has {_counted(left_out)}" if left_out else absence(folder)
    raise InvalidInputError(
        f"`{name}` must be a folder of {', '.join(SUFFIXES)} files, or of folders of "
        f"them, one for each class. Received: {name}={folder}{others}"
    )


def parse_size(image_size: str | Sequence[int]) -> tuple[int, int] | None:
    """(height, width) of "H,W" or of two integers; None of "auto".

    Raises:
      InvalidInputError: anything else.
    """
    if image_size == "auto":
        return None
    text = image_size if isinstance(image_size, str) else ",".join(map(str, image_size))
    found = SIZE.fullmatch(text.strip("()[]"))
    if not found:
        raise InvalidInputError(
            "`image_size` must be auto, or height,width in pixels. "
            f"Received: image_size={image_size}"
        )
    return int(found[1]), int(found[2])


def image_format(
    paths: Sequence[str | os.PathLike[str]],
    image_size: str | Sequence[int] = "auto",
    color: str = "auto",
    *,
    name: str = "data_dir",
) -> ImageFormat:
    """What the images of a folder have in common, from the headers of all.

    Args:
      paths: list of paths, one at least.
      image_size: "H,W", to which all are resized; "auto": the size that most have.
      color: "gray" or "rgb", to which all are converted; "auto": what most are.
      name: of the argument, for the message.

    Raises:
      InvalidInputError: a bad `image_size` or `color`; files that cannot be read, or
        differ from most where it is "auto": all of them, with counts, and what to type.
    """
    check_choice(color, "color", COLORS)
    size = parse_size(image_size)
    headers = [_header_of(path) for path in paths]
    sound = [header for header in headers if header.problem is None]
    most_size = size or _most([header.size for header in sound], (0, 0))
    most_color = color
    if color == "auto":
        most_color = _most([header.color for header in sound], GRAY)
    offenders: dict[str, list[str]] = collections.defaultdict(list)
    for path, header in zip(paths, headers):
        shown = pathlib.Path(path).name
        if header.problem is not None:
            kind, _, detail = header.problem.partition(": ")
            offenders[kind].append(f"{shown}: {detail}" if detail else shown)
            continue
        if size is None and header.size != most_size:
            offenders["of another size"].append(f"{shown} {_by(header.size)}")
        if color == "auto" and header.color != most_color:
            offenders[IN_WORDS[header.color]].append(shown)
    if offenders:
        most = f"most of {len(paths)} images are {_by(most_size)} (height x width) "
        most += IN_WORDS[most_color]
        raise _refusal(name, most if sound else f"of {len(paths)} images", offenders)
    return ImageFormat(most_size[0], most_size[1], most_color)


def read_images(
    paths: Sequence[str | os.PathLike[str]],
    wanted: ImageFormat | None = None,
    *,
    name: str = "data_dir",
) -> np.ndarray:
    """Reads image files, turned as EXIF says, and resized where they have to be.

    Args:
      paths: list of paths, one at least.
      wanted: ImageFormat of all; None: that of these files.
      name: of the argument, for the message.

    Returns:
      images: uint8 [N, H, W] of gray ones, otherwise [N, H, W, 3].

    Raises:
      InvalidInputError: as `image_format`, and for damaged files.
    """
    wanted = wanted or image_format(paths, name=name)
    what = f"{len(paths):,} images, {_by(wanted[:2])} (height x width)"
    num_bytes = len(paths) * math.prod(wanted.shape) * 5  # as bytes and as float32
    check_memory(num_bytes, name, what, f"{_prefix(name)}image_size")
    images = np.empty((len(paths), *wanted.shape), np.uint8)
    damaged = []
    for image, path in zip(images, paths):
        try:
            image[...] = _read(path, wanted)
        except DAMAGE as error:
            damaged.append(f"{pathlib.Path(path).name}: {_reason(error)}")
    if damaged:
        raise _refusal(name, f"of {len(paths)} images", {"damaged": damaged})
    return images


def describe(
    folder: str | os.PathLike[str],
    image_size: str | Sequence[int] = "auto",
    color: str = "auto",
) -> str:
    """One line: how many images of which kind, how many are resized or left out."""
    files = list_images(os.path.expanduser(folder))
    wanted = image_format(files.paths, image_size, color)
    headers = [_header_of(path) for path in files.paths]
    changed = {
        "resized": sum(header.size != wanted[:2] for header in headers),
        "converted": sum(header.color != wanted.color for header in headers),
    }
    size = f"{_by(wanted[:2])} (height x width)"
    text = f"{len(headers):,} images, {size} {IN_WORDS[wanted.color]}"
    text += "".join(f", {n:,} of them {how}" for how, n in changed.items() if n)
    return text + files.without


def _is_hidden(path):
    return path.name.startswith((".", "__MACOSX"))


def _folders_in(folder):
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [entry for entry in entries if not _is_hidden(entry)]


def _deeper(folders):
    """How many images are in folders, however deep, that no image is read from."""
    paths = (path for folder in folders for path in folder.rglob("*"))
    images = (path for path in paths if path.suffix.lower() in SUFFIXES)
    count = sum(not _is_hidden(path) for path in images)
    return collections.Counter({"in folders that are not read": count})


def _images_in(folder, left_out):
    """The images right in a folder; what else is there is counted."""
    images = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        if _is_hidden(path):
            left_out["hidden"] += 1
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            left_out[path.suffix.lower() or "without suffix"] += 1
    return images


def _header_of(path):
    if not path.is_file():  # a link to nowhere, or a pipe, which would not end
        return Header(problem="damaged: no file")
    status = os.stat(path)
    return _header(os.fspath(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1_000_000)
def _header(path, *stamp):
    """Header of a file as it was at a time."""
    del stamp
    try:
        with Image.open(path) as image:
            return _header_in(image)
    except DAMAGE as error:
        return Header(problem=f"damaged: {_reason(error)}")


def _header_in(image):
    # Photos of many phones, of the format MPO, have a second picture behind the first.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return Header(problem="animated")
    rawmode = str(image.tile[0][3]) if image.tile else ""
    if image.mode.startswith(("I", "F")) or ";16" in rawmode:
        return Header(problem="of more than 8 bits")
    width, height = image.size
    if _exif_of(image).get(ORIENTATION) in TURNED:
        width, height = height, width
    # What a palette holds, and whether anything is transparent, the pixels say.
    if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if (rgba[..., 3] < 255).any():
            return Header(problem="transparent")
        if image.mode in ("P", "PA"):
            is_gray = (rgba[..., :1] == rgba[..., :3]).all()
            return Header((height, width), GRAY if is_gray else RGB)
    if image.mode not in KINDS:
        return Header(problem=f"of mode {image.mode}")
    return Header((height, width), KINDS[image.mode])


def _exif_of(image):
    """EXIF's tags; of a PNG file those before the pixels, which need not be read."""
    has_none = image.format == "PNG" and "exif" not in image.info
    return {} if has_none else image.getexif()


def _read(path, wanted):
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image) if _exif_of(image) else image
        if turned.mode in ("P", "PA"):
            turned = turned.convert("RGB")
        turned = turned.convert(MODES[wanted.color])
        if turned.size != (wanted.width, wanted.height):
            size = (wanted.width, wanted.height)
            turned = turned.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(turned)


def _most(values, default):
    """The most frequent value, the first one of several."""
    return collections.Counter(values or [default]).most_common(1)[0][0]


def _refusal(name, what, offenders):
    """All offenders in one line, and what to type for those that can be made to fit."""
    kinds = []
    for kind, names in offenders.items():
        more = ", ..." if len(names) > SHOWN else ""
        kinds.append(f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})")
    flag, remedies = _prefix(name), []
    if "of another size" in offenders:
        remedies.append(f"{flag}image_size=HEIGHT,WIDTH resizes")
    if {*offenders} & {*IN_WORDS.values()}:
        remedies.append(f"{flag}color=gray or rgb converts")
    if any(kind.startswith("of mode ") for kind in offenders):
        remedies.append("an image editor saves those of another mode as RGB")
    remedy = f"; {' and '.join(remedies)}" if remedies else ""
    return InvalidInputError(
        f"`{name}` must hold images of one size, all grey or all in colour, of 8 bits "
        f"and without transparency{remedy}. Received: {what}, {', '.join(kinds)}"
    )


def _prefix(name):
    """Of the flags of a script with an argument of this name."""
    return "--config." if name == "data_dir" else "--"


def _by(size):
    return f"{size[0]} x {size[1]}"


def _counted(counter):
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counter.items()))


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "no image"
    return " ".join(str(error).split())[:100]
