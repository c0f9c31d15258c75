"""Scores images with a served model, in batches, into a file that can be resumed."""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.checks import check_count, check_integer, float_hint, is_number
from iwae_tf.datasets import readers
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood, concatenate
from iwae_tf.probability import noise
from iwae_tf.serving import score_files
from iwae_tf.serving.endpoints import open_scorer
from iwae_tf.serving.scorer import Scorer

BATCH_SIZE = 100
T = TypeVar("T")


def score(
    x: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    saved_model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    num_samples: int = 5000,
    seed: Sequence[int] = (0, 0),
    proposal: str = "encoder",
    batch_size: int = BATCH_SIZE,
    concurrency: int = 1,
    timeout: float = 120.0,
    retries: int = 5,
    output: str | os.PathLike[str] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    on_batch: Callable[[LogLikelihood], object] | None = None,
    name: str = "x",
) -> LogLikelihood:
    """Estimates log p(x) of images with a SavedModel, in this process or on a server.

    Each batch has a seed of its own, a function of `seed` and of its first row (see
    `batch_seed`). A server draws the noise of a row from the seed and the row's place
    in the batch. So rows of different batches have independent noise, and a repeated
    request or a continued job gets the same numbers. With `batch_size=1` the score of a
    row depends only on (seed, row).

    Args:
      x: float [N, *event], scored as given; an array, or one mapped from a file. Grey
        values warn once where the model's pixels are binary.
      labels: of a conditional model, integers [N]: the scores are log p(x|y).
      saved_model: folder of an export, NAME or NAME/1, to run in this process.
      endpoint: instead, http://HOST:PORT/v1/models/NAME of TensorFlow Serving, or
        grpc:// with the extra `serving`, or http://HOST:PORT/v2/models/NAME. The whole
        job, also if it is continued, uses the version that was the newest at its start.
      num_samples: K.
      seed: pair of integers.
      batch_size: images in a request.
      concurrency: requests at a time.
      timeout: seconds for one attempt.
      retries: attempts after the first one, of each request, with pauses that double.
      output: optional path of a CSV file of row, log_likelihood, standard_error,
        effective_sample_size, jackknife_error, pareto_k, bias_allowance and is_refined
        (0 or 1). It appears when it is complete; rows in OUTPUT.partial of an
        interrupted job are not scored again.
      columns: optional names and values, one a row, of columns that follow them.
      on_batch: optional function of the `LogLikelihood` of each finished batch.
      name: what messages call x; "input" has those of a script.

    Returns:
      LogLikelihood of float32 arrays [N], in the order of `x`.

    Raises:
      InvalidInputError: a bad argument, or images that the model refuses.
      OSError: the server gave no answer, or the disk is full. What was done is in
        OUTPUT.partial.
    """
    num_samples = check_count(num_samples, "num_samples")
    batch_size = check_count(batch_size, "batch_size")
    concurrency = check_count(concurrency, "concurrency")
    seed = noise.check_seed(seed)
    check_integer(retries, "retries", 0, 2**31 - 1)
    if not is_number(timeout) or not 0 < timeout < threading.TIMEOUT_MAX:
        raise InvalidInputError(
            "`timeout` must be a positive number of seconds. "
            f"Received: timeout={timeout!r}"
        )
    scorer = open_scorer(
        saved_model=saved_model,
        endpoint=score_files.endpoint_begun(endpoint, output),
        proposal=proposal,
        timeout=timeout,
        retries=retries,
    )
    x = np.asanyarray(x)
    digest = check_images(x, scorer, batch_size, name)
    labels = check_labels(labels, len(x), scorer.takes_labels)
    settings = {
        "num_rows": len(x),
        "images": digest,
        "model": scorer.identity,
        "num_samples": num_samples,
        "seed": list(seed),
        "batch_size": batch_size,
        "proposal": proposal,
    }
    if labels is not None:
        settings["labels"] = hashlib.sha256(labels.tobytes()).hexdigest()
    file = None
    if output is not None:
        file = score_files.ScoreFile(output, settings, columns)
    results = [] if file is None or file.done is None else [file.done]
    first_row = sum(len(result.estimate) for result in results)
    if on_batch and results:
        on_batch(results[0])

    def score_batch(start):
        rows = slice(start, min(start + batch_size, len(x)))
        y = None if labels is None else labels[rows]
        with naming(f"rows {start} to {rows.stop - 1}"):
            return scorer(as_float32(x[rows]), num_samples, batch_seed(seed, start), y)

    starts = range(first_row, len(x), batch_size)
    calls = (functools.partial(score_batch, start) for start in starts)
    for start, result in zip(starts, in_order(calls, concurrency)):
        if file:
            file.append(start, result)
        results.append(result)
        if on_batch:
            on_batch(result)
    if file:
        file.finish()
    return concatenate(results)


def batch_seed(seed: Sequence[int], first_row: int) -> tuple[int, int]:
    """The seed of the request whose first row has an id.

    The first eight bytes of SHA-256 of (seed, first_row) as two little-endian int32 and
    an int64, read as two int32; the first batch of all, row 0, has `seed` itself. So
    the scores of rows r, r + 1, ... of a batch are those of
    `iwae_tf.log_likelihood(model, x[r : r + n], num_samples, batch_seed(seed, r))`, and
    a set of one batch those of `log_likelihood(model, x, num_samples, seed)`. They are
    other draws than those of `log_likelihood(..., seed, first_row=r)`, which a server
    has no input for.

    Args:
      seed: pair of integers.
      first_row: integer in [0, 2^63).

    Returns:
      seed: pair of signed 32-bit integers.
    """
    seed = noise.check_seed(seed)
    if first_row == 0:
        return seed
    digest = hashlib.sha256(struct.pack("<iiq", *seed, first_row)).digest()
    return struct.unpack("<ii", digest[:8])


def check_images(
    x: np.ndarray, scorer: Scorer, batch_size: int = BATCH_SIZE, name: str = "x"
) -> str:
    """Finds images fit to be sent, and returns a digest of them.

    Args:
      x: array.
      scorer: of the model; warns of what it would not score as images of its data.
      batch_size: images to look at together.
      name: what messages call x.

    Returns:
      digest: str.

    Raises:
      InvalidInputError: another type or shape, no image, NaN or infinity.
    """
    digest = hashlib.sha256()
    for batch in checked_batches(x, scorer, batch_size, name):
        scorer.warn_of_grey(batch)
        digest.update(batch.tobytes())
    return digest.hexdigest()


def checked_batches(
    x: np.ndarray, scorer: Scorer, batch_size: int = BATCH_SIZE, name: str = "x"
) -> Iterator[np.ndarray]:
    """Yields batches of images in float32, each once it is found fit to be sent.

    Raises:
      InvalidInputError: as `check_images` does.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise InvalidInputError(
            f"`{name}` must be float. Received: dtype={x.dtype}, "
            f"{float_hint(x.dtype.name)}"
        )
    if x.ndim == 0 or x.shape[1:] != scorer.event_shape or len(x) == 0:
        hint = _flags_to(scorer.event_shape, x.shape[1:]) if name == "input" else ""
        raise InvalidInputError(
            f"`{name}` must have the shape [batch, *event], event "
            f"{scorer.event_shape}, and at least one row. Received: shape={x.shape}"
            f"{hint}"
        )
    for start in range(0, len(x), batch_size):
        batch = as_float32(x[start : start + batch_size])
        fits = np.isfinite(batch) | (scorer.takes_missing & np.isnan(batch))
        bad = np.flatnonzero(~fits.reshape(len(batch), -1).all(axis=1))
        if len(bad):
            raise InvalidInputError(
                f"`{name}` must be finite. Received: NaN or infinity in row "
                f"{start + bad[0]}"
            )
        yield batch


def _flags_to(wanted, found):
    """The end of a message: the flags that have a folder's images read as wanted."""
    if len(wanted) != 3 or len(found) != 3:
        return ""
    size = f" --image_size={wanted[0]},{wanted[1]}" * (wanted[:2] != found[:2])
    color = f" --color={'gray' if wanted[2] == 1 else 'rgb'}"
    color *= wanted[2] != found[2] and wanted[2] in (1, 3)
    return f"; of a folder,{size}{color} gives that shape" if size or color else ""


def check_labels(
    labels: ArrayLike | None, num_rows: int, takes_labels: bool
) -> np.ndarray | None:
    """`labels` as int32 [num_rows], or None for a model that takes none.

    Raises:
      InvalidInputError: they are missing or not wanted, or of another type or shape.
    """
    if labels is None and not takes_labels:
        return None
    if labels is None or not takes_labels:
        rule = "given: the model is" if takes_labels else "left out: the model is not"
        received = "none" if labels is None else f"shape={np.shape(labels)}"
        raise InvalidInputError(
            f"`labels` must be {rule} conditional. Received: {received}"
        )
    labels = readers.checked_labels(labels, num_rows)
    return np.clip(labels, -1, np.iinfo(np.int32).max).astype(np.int32)


def as_float32(x: ArrayLike) -> np.ndarray:
    """`x` in the type that the signatures take; what does not fit is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)


def in_order(calls: Iterable[Callable[[], T]], concurrency: int) -> Iterator[T]:
    """Results of functions in their order, `concurrency` of them under way."""
    if concurrency == 1:  # in this thread, where Ctrl-C ends even a request
        yield from (call() for call in calls)
        return
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) == concurrency:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextlib.contextmanager
def naming(rows: str) -> Iterator[None]:
    """Puts the rows in front of what is wrong with them."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{rows}: {error}") from error
