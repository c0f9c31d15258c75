"""Where runs, exports and rows lie: told before TensorFlow has to start."""

import os
import pathlib
import re
from importlib import resources

from iwae_tf.checks import absence
from iwae_tf.errors import InvalidInputError

TABLES = (".csv", ".parquet")
SCHEMA = "schema.json"  # of a model of a table, whole, beside it
TRAINING_DATA = "training_data.json"  # `splits.training_data`, beside the config
CARD = "MODEL_CARD.md"  # beside the versions of an export
# What a run writes about itself in JSON, and reads again.
OF_RUN = ("config.json", "results.json", SCHEMA, TRAINING_DATA)
EXTRA = "assets.extra"  # in a version: what TensorFlow does not read
BEGINNINGS = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # of files of arrays


def model_file(workdir: str | os.PathLike[str], name: str = "workdir") -> pathlib.Path:
    """The Keras model of a finished run, whose folder a message calls `name`.

    Raises:
      InvalidInputError: there is none.
    """
    path = pathlib.Path(workdir) / "model.keras"
    if not path.is_file():
        raise InvalidInputError(
            f"`{name}` must hold a finished run with a model.keras. "
            f"Received: {name}={workdir}{absence(workdir)}"
        )
    return path


def check_for_versions(path: str | os.PathLike[str], name: str = "output") -> None:
    """Refuses the folder of a run or of something else for an export.

    What lies in the folder of versions is of the newest one, and would be replaced. A
    message calls the folder `name`.
    """
    folder, names = pathlib.Path(path), (*OF_RUN, CARD, "checkpoints", "model.keras")
    theirs = [name for name in names if (folder / name).exists()]
    if theirs and not version_numbers(folder):
        raise InvalidInputError(
            f"`{name}` must be a new folder or one of an export, such as "
            f"saved_models/a. Received: {path}, which has another's {theirs[0]}"
        )


def check_no_pattern(path: str | os.PathLike[str], name: str = "saved_model") -> None:
    """Refuses a folder, `name`, that TensorFlow cannot read an export from."""
    whole = os.path.abspath(path)
    if found := re.findall(r"[*?\[\\]", whole):
        raise InvalidInputError(
            f"`{name}` must be a path without {found[0]}, which TensorFlow takes for a "
            f"pattern where it reads an export. Received: {whole}"
        )


def version_numbers(folder: pathlib.Path) -> list[int]:
    """Numbers of the versions in the folder of an export."""
    names = (entry.name for entry in folder.glob("*"))
    return [int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)]


def find_version(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of one version of an export: `path` itself, or the newest in it.

    Raises:
      InvalidInputError: there is none.
    """
    folder = pathlib.Path(path).resolve()
    check_no_pattern(path)
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = version_numbers(folder)
    if not versions:
        own = folder / "saved_model"  # of a run
        hint = f". Did you mean {pathlib.Path(path) / own.name}?" * own.is_dir()
        raise InvalidInputError(
            "`saved_model` must be a folder NAME or NAME/1 of an export. "
            f"Received: {path}{absence(path)}{hint}"
        )
    return folder / str(max(versions))


def about_version(version: pathlib.Path) -> pathlib.Path:
    """The folder with the config, schema and training data of a version of an export.

    Those of the last one that `workdir.export` wrote lie beside all versions, so that
    an edit of them counts. The others have their own, unless none has: earlier versions
    of this package wrote no other.
    """
    folder, own = version.parent, f"{EXTRA}/config.json"
    have_own = [n for n in version_numbers(folder) if (folder / f"{n}/{own}").is_file()]
    is_beside = not have_own or version.name == str(max(have_own))
    return folder if is_beside else version / EXTRA


def beside_export(path: str | os.PathLike[str], name: str) -> pathlib.Path | None:
    """A file of `about_version` of an export, or None where there is none."""
    found = about_version(find_version(path)) / name
    return found if found.is_file() else None


def shipped(name: str) -> pathlib.Path:
    """A folder that ships: in the installed package, or beside it in a checkout."""
    try:
        return pathlib.Path(str(resources.files(f"iwae_tf.{name}")))
    except ModuleNotFoundError:
        return pathlib.Path(__file__).parents[2] / name


def check_rows(path: str | os.PathLike[str]) -> None:
    """Refuses a file that rows cannot be read from, by its name and first bytes.

    A folder may be one of images.

    Raises:
      InvalidInputError: no such file, or another format.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return
    if not path.is_file() or path.suffix not in (*TABLES, *BEGINNINGS):
        raise InvalidInputError(
            "`input` must be a file NAME.npy of images [N, *event], NAME.npz, a "
            f"table.csv or .parquet, or a folder of images. Received: {path}"
        )
    beginning = BEGINNINGS.get(path.suffix, b"")
    with open(path, "rb") as file:
        if file.read(len(beginning)) != beginning:
            raise InvalidInputError(
                f"`input` must be a readable {path.suffix} file. Received: {path}, "
                "which begins like a file of another format"
            )
