"""What comes back from a model: waited for, bounded, read, and believed or not."""

import concurrent.futures
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.saved_model.signatures import OPTIONAL, SCORES

T = TypeVar("T")
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0  # seconds between two attempts
MAX_ANSWER = 2**24  # bytes, without those of its rows
MAX_REASON = 300  # characters of what a server says is wrong
# What an answer raises that was cut off, or comes from something in between.
UNUSABLE = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


class TransientError(Exception):
    """A failure that may be gone at the next attempt.

    Args:
      reason: str.
      delay: optional float, seconds that the server asks to wait.
    """

    def __init__(self, reason: object, delay: float | None = None) -> None:
        super().__init__(shortened(reason))
        self.delay = delay


def with_retries(
    attempt: Callable[[], T],
    what: str,
    retries: int,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Calls `attempt` until it works, with pauses that double.

    Args:
      attempt: function without arguments; raises TransientError, or one of `UNUSABLE`,
        for another try.
      what: what the message calls it.
      retries: attempts after the first one.
      sleep: function of seconds.

    Returns:
      what `attempt` returned.

    Raises:
      ConnectionError: all attempts failed.
    """
    for number in range(retries + 1):
        try:
            return attempt()
        except InvalidInputError:
            raise
        except TransientError as error:
            found = error
        except UNUSABLE as error:
            kind = type(error).__name__
            found = TransientError(f"an answer that cannot be used, {kind}: {error}")
        if number < retries:
            # Clients that failed together must not come back together.
            delay = FIRST_DELAY * 2.0 ** min(number, 9) * random.uniform(0.5, 1.0)
            sleep(min(max(delay, found.delay or 0.0), LONGEST_DELAY))
    raise ConnectionError(
        f"{what} gave no usable answer in {retries + 1} attempts. "
        f"The last error: {found}"
    ) from found


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns, or TransientError after so many seconds.

    Its thread is left to itself then: nothing else bounds a server that sends a byte
    of a header now and then.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        raise TransientError(f"no whole answer within {seconds:g} s") from error


def read_body(answer: Any, limit: int, deadline: float) -> bytes:
    """The body of an answer, of `limit` bytes at most."""
    body = b""
    while part := answer.read1(2**20):
        body += part
        if len(body) > limit:
            raise TransientError(f"an answer of more than {limit:,} bytes")
        if time.monotonic() > deadline:
            raise TransientError("an answer that did not end")
    return body


def checked_scores(
    outputs: Mapping[str, Any], num_rows: int, num_samples: int
) -> LogLikelihood:
    """Named scores as a `LogLikelihood`, float32 [N].

    Args:
      outputs: mapping of each of `SCORES` to an array, or to a list out of JSON.
        Those of `OPTIONAL` may be missing.
      num_rows: N.
      num_samples: K; the errors of one draw are NaN.

    Raises:
      ValueError: they are not one finite number a row, or an error is negative.
    """
    arrays = []
    for name in SCORES:
        if name in OPTIONAL and name not in outputs:
            arrays.append(np.full([num_rows], OPTIONAL[name], np.float32))
            continue
        array = outputs[name]
        if isinstance(array, list):  # NumPy would take true and null for numbers
            if not {type(value) for value in array} <= {int, float}:
                raise ValueError(f"`{name}` is not a list of numbers")
            array = np.asarray(array, np.float64)
        if np.shape(array) != (num_rows,) or not np.issubdtype(
            array.dtype, np.floating
        ):
            raise ValueError(f"`{name}` is not {num_rows} numbers, one for each image")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        is_good = np.isfinite(array) | math.isnan(OPTIONAL.get(name, 0.0))
        if name.endswith("_error"):
            is_good &= array >= 0
            is_good |= np.isnan(array) & (num_samples == 1)
        if not is_good.all():
            row = np.flatnonzero(~is_good)[0]
            far = ", as of values far beyond those of the training"
            far *= bool(np.isneginf(array[row]))
            place = f" of row {row} of these" * (array.size > 1)
            raise ValueError(f"`{name}`{place} is {array[row]}{far}")
        arrays.append(array)
    return LogLikelihood(*arrays)


def shortened(reason: object) -> str:
    """One line of a length that a terminal shows, whatever a server says."""
    return " ".join(str(reason)[: 10 * MAX_REASON].split())[:MAX_REASON]
