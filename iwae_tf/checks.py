"""What arguments have to be, told in one line where they are not."""

import contextlib
import difflib
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard

from iwae_tf.errors import InvalidInputError


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number of any type; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_count(value: Any, name: str, least: int = 1, most: int = 2**30) -> int:
    """`value`, an integer of any type in [least, most], least >= 0, as an int.

    Sums of two counts have to fit into 32 bits.

    Raises:
      InvalidInputError: it is anything else.
    """
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if not least <= count <= most:
        rule = f"at least {least}" if count < least else f"at most {most}"
        if count < 1:
            rule = "a positive integer" if least else "an integer >= 0"
        raise InvalidInputError(f"`{name}` must be {rule}. Received: {name}={value!r}")
    return count


def check_integer(value: Any, name: str, lowest: int, highest: int = 2**63 - 1) -> None:
    """Raises InvalidInputError unless `value` is an integer within these bounds."""
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or not lowest <= value <= highest:
        limit = f" and <= {highest}" if highest < 2**63 - 1 else ""
        raise InvalidInputError(
            f"`{name}` must be an integer >= {lowest}{limit}. "
            f"Received: {name}={value!r}"
        )


def check_choice(value: object, name: str, choices: Iterable[object]) -> None:
    """Raises InvalidInputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InvalidInputError(
            f"`{name}` must be one of {', '.join(map(str, choices))}. "
            f"Received: {name}={value!r}{did_you_mean(value, choices)}"
        )


def check_memory(num_bytes: float, name: str, what: str, flag: str) -> None:
    """Refuses what the system would end this process for without a word.

    Args:
      num_bytes: at least so many are needed.
      name: of the argument.
      what: was received.
      flag: that has images resized.

    Raises:
      InvalidInputError: the machine has less.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise InvalidInputError(
            f"`{name}` must fit into the memory of this machine, "
            f"{memory / 2**30:.0f} GiB: images of a folder are resized by "
            f"{flag}=64,64. Received: {what}, which need {num_bytes / 2**30:,.0f} GiB"
        )


def float_hint(dtype: str) -> str:
    """What to do with values of another type than float, by the name of the type."""
    return "divide by 255" if dtype == "uint8" else "use astype('float32')"


def absence(path: str | os.PathLike[str] | None) -> str:
    """The end of a message about a path that does not exist."""
    exists = path is None or os.path.exists(path)
    return "" if exists else ", which does not exist"


@contextlib.contextmanager
def needing(libraries: str, extra: str) -> Iterator[None]:
    """Says in one line which extra has what the block fails to import."""
    try:
        yield
    except ImportError as error:
        raise InvalidInputError(
            f"this needs {libraries}: pip install 'iwae_tf[{extra}]'. Received: {error}"
        ) from error


@contextlib.contextmanager
def readable(
    path: str | os.PathLike[str], rule: str = "`data_dir` must hold readable files"
) -> Iterator[None]:
    """Tell in one line whatever a parser raises on a damaged file."""
    try:
        yield
    except (InvalidInputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"{rule}. Received: {path} ({type(error).__name__}: {reason})"
        ) from error


def did_you_mean(
    word: object, known: Iterable[object], shown: Callable[[str], Any] = str
) -> str:
    """The end of a message about an unknown word: the nearest one, as it is shown."""
    nearest = difflib.get_close_matches(str(word), map(str, known), 1)
    return f". Did you mean {shown(nearest[0])}?" if nearest else ""
