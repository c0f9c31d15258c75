"""Where log-likelihoods come from: a SavedModel in this process, REST or gRPC.

A scorer is a function of (x, num_samples, seed, labels) to a `LogLikelihood`. It knows
the `event_shape` of the model's images, whether the model is conditional and
`takes_labels` (int32 [batch], None otherwise), and an `identity` that tells two models
apart: a
server that moves on to a new version in the middle of a job must not mix its numbers
into it, so that a scorer keeps to the version that it found at the start.
"""

import hashlib
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.saved_model import load_saved_model, refusal, warmup

T = TypeVar("T")
SIGNATURE = "error_bars"
INPUTS, LABELS = ("x", "num_samples", "seed"), "y"
OUTPUTS = (  # in the order of LogLikelihood's fields
    *("log_likelihood", "standard_error", "effective_sample_size"),
    "jackknife_error",
)
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0  # seconds between two attempts
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
TRANSIENT_CODES = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"),
    *("INTERNAL", "UNKNOWN", "CANCELLED"),
)
RULE = (
    "`endpoint` must be http://HOST:PORT/v1/models/NAME or grpc://HOST:PORT/v1/models/"
    "NAME, with /versions/N at the end for a version of your choice"
)


class TransientError(Exception):
    """A failure that may be gone at the next attempt.

    Args:
      reason: str.
      delay: optional float, seconds that the server asks to wait.
    """

    def __init__(self, reason: object, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


def open_scorer(
    *,
    saved_model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    timeout: float = 120.0,
    retries: int = 5,
) -> "Scorer":
    """The scorer that the arguments name.

    Args:
      saved_model: folder of an export, NAME or NAME/1.
      endpoint: URL of a served model instead; see `RestScorer` and `GrpcScorer`.
      timeout: seconds that one attempt may take.
      retries: attempts after the first one, of each request.

    Returns:
      scorer: see the module.

    Raises:
      InvalidInputError: a bad argument, or not a model of this package.
      OSError: the server cannot be reached.
    """
    if (saved_model is None) == (endpoint is None):
        raise InvalidInputError(
            "one of `saved_model` and `endpoint` must be given. Received: "
            f"saved_model={saved_model}, endpoint={endpoint}"
        )
    if saved_model is not None:
        return InProcessScorer(saved_model)
    try:
        url = urllib.parse.urlsplit(str(endpoint))
        has_host = bool(url.hostname) and url.port != 0  # a bad port is a ValueError
    except ValueError as error:
        raise InvalidInputError(f"{RULE}. Received: {endpoint}, {error}") from error
    path = re.fullmatch(r"(/v1/models/([^/:]+))(?:/versions/([0-9]+))?/?", url.path)
    if url.scheme not in ("http", "https", "grpc") or not has_host or not path:
        raise InvalidInputError(f"{RULE}. Received: {endpoint}")
    _, name, version = path.groups()
    version = None if version is None else int(version)
    if url.scheme == "grpc":
        return GrpcScorer(url.netloc, name, version, timeout=timeout, retries=retries)
    model = f"{url.scheme}://{url.netloc}{path[1]}"
    return RestScorer(model, version, timeout=timeout, retries=retries)


class InProcessScorer:
    """The `error_bars` signature of a SavedModel, run here.

    Args:
      saved_model: folder of an export, NAME or NAME/1.
    """

    def __init__(self, saved_model: str | os.PathLike[str]) -> None:
        version, self._signatures = load_saved_model(saved_model)
        if SIGNATURE not in self._signatures:
            raise InvalidInputError(
                f"`saved_model` must be an export with the signature `{SIGNATURE}`. "
                f"Received: {version}, which has none: export it again"
            )
        self._function = self._signatures[SIGNATURE]
        inputs = self._function.structured_input_signature[1]
        self.event_shape = tuple(inputs["x"].shape[1:])
        self.takes_labels = LABELS in inputs
        digest = hashlib.sha256()
        for file in ("saved_model.pb", "variables/variables.index"):
            digest.update((version / file).read_bytes())
        self.identity = f"{version.parent.name}/{version.name} {digest.hexdigest()}"

    def __call__(
        self,
        x: np.ndarray,
        num_samples: int,
        seed: Sequence[int],
        labels: np.ndarray | None = None,
    ) -> LogLikelihood:
        inputs = {} if labels is None else {LABELS: tf.constant(labels, tf.int32)}
        try:
            outputs = self._function(
                x=tf.constant(x, tf.float32),
                num_samples=tf.constant(num_samples, tf.int32),
                seed=tf.constant(seed, tf.int32),
                **inputs,
            )
        except tf.errors.InvalidArgumentError as error:
            raise InvalidInputError(refusal(error.message)) from error
        return _as_result({name: outputs[name].numpy() for name in OUTPUTS}, len(x))


class RestScorer:
    """TensorFlow Serving's REST interface, `:predict` with columnar `inputs`.

    Args:
      model: URL up to the model's name.
      version: int, or None for the newest at this moment.
      timeout: seconds that the server may be silent in one attempt.
      retries: attempts after the first one, of each request.
    """

    def __init__(
        self, model: str, version: int | None, *, timeout: float, retries: int
    ) -> None:
        self._timeout, self._retries = timeout, retries
        chosen = model if version is None else f"{model}/versions/{version}"
        described = self._request(f"{chosen}/metadata")
        try:
            found = int(described["model_spec"]["version"])
            signature = described["metadata"]["signature_def"]["signature_def"]
            inputs = signature[SIGNATURE]["inputs"]
            sizes = [int(dim["size"]) for dim in inputs["x"]["tensor_shape"]["dim"]]
        except (LookupError, TypeError, ValueError) as error:
            raise _foreign(chosen) from error
        if set(inputs) - {LABELS} != set(INPUTS):
            raise _foreign(chosen)
        self.takes_labels = LABELS in inputs
        self.event_shape = tuple(sizes[1:])
        self.identity = f"{model}/versions/{found}"

    def __call__(
        self,
        x: np.ndarray,
        num_samples: int,
        seed: Sequence[int],
        labels: np.ndarray | None = None,
    ) -> LogLikelihood:
        inputs = {
            "x": np.asarray(x, np.float32).tolist(),
            "num_samples": int(num_samples),
            "seed": [int(word) for word in seed],
        }
        if labels is not None:
            inputs[LABELS] = np.asarray(labels, np.int32).tolist()
        body = json.dumps({"signature_name": SIGNATURE, "inputs": inputs}).encode()

        def read(answer):
            return _as_result(answer["outputs"], len(x))

        return self._request(f"{self.identity}:predict", body, read)

    def _request(
        self,
        url: str,
        body: bytes | None = None,
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)

        def attempt():
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return read(json.loads(answer.read()))
            except urllib.error.HTTPError as error:
                _raise_of_status(error, url)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise TransientError(reason or type(error).__name__) from error
            except (LookupError, TypeError, ValueError) as error:
                raise _not_an_answer(error) from error

        return with_retries(attempt, url, self._retries)


class GrpcScorer:
    """TensorFlow Serving's gRPC interface; needs the extra `serving`.

    Args:
      address: "HOST:PORT".
      name: the model's.
      version: int, or None for the newest at this moment.
      timeout: seconds that one attempt may take.
      retries: attempts after the first one, of each request.
    """

    def __init__(
        self,
        address: str,
        name: str,
        version: int | None,
        *,
        timeout: float,
        retries: int,
    ) -> None:
        warmup.check_available("an `endpoint` of gRPC")
        import grpc
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            prediction_service_pb2_grpc,
        )

        self._error, self._timeout, self._retries = grpc.RpcError, timeout, retries
        unlimited = [
            (f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")
        ]
        channel = grpc.insecure_channel(address, options=unlimited)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._url = f"grpc://{address}/v1/models/{name}"
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        answer = self._request(self._stub.GetModelMetadata, request)
        described = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(described)
        inputs = described.signature_def[SIGNATURE].inputs
        if set(inputs) - {LABELS} != set(INPUTS):
            raise _foreign(self._url)
        self.takes_labels = LABELS in inputs
        dims = inputs["x"].tensor_shape.dim
        self.event_shape = tuple(int(dim.size) for dim in dims)[1:]
        self._name, self._version = name, answer.model_spec.version.value
        self.identity = f"{self._url}/versions/{self._version}"

    def __call__(
        self,
        x: np.ndarray,
        num_samples: int,
        seed: Sequence[int],
        labels: np.ndarray | None = None,
    ) -> LogLikelihood:
        inputs = {
            "x": np.asarray(x, np.float32),
            "num_samples": np.int32(num_samples),
            "seed": np.asarray(seed, np.int32),
        }
        if labels is not None:
            inputs[LABELS] = np.asarray(labels, np.int32)
        request = warmup.predict_request(self._name, SIGNATURE, inputs, self._version)

        def read(answer):
            arrays = {n: tf.make_ndarray(answer.outputs[n]) for n in answer.outputs}
            return _as_result(arrays, len(x))

        return self._request(self._stub.Predict, request, read)

    def _request(
        self,
        method: Callable[..., Any],
        request: Any,
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        def attempt():
            try:
                return read(method(request, timeout=self._timeout))
            except (LookupError, TypeError, ValueError) as error:
                raise _not_an_answer(error) from error
            except self._error as error:
                reason = f"{error.code().name}, {refusal(error.details())}"
                if error.code().name in TRANSIENT_CODES:
                    raise TransientError(reason) from error
                raise InvalidInputError(f"{self._url} refused: {reason}") from error

        return with_retries(attempt, self._url, self._retries)


Scorer = InProcessScorer | RestScorer | GrpcScorer


def with_retries(
    attempt: Callable[[], T],
    what: str,
    retries: int,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Calls `attempt` until it works, with pauses that double.

    Args:
      attempt: function without arguments; raises TransientError for another try.
      what: what the message calls it.
      retries: attempts after the first one.
      sleep: function of seconds.

    Returns:
      what `attempt` returned.

    Raises:
      ConnectionError: all attempts failed.
    """
    number = 0
    while True:
        try:
            return attempt()
        except TransientError as error:
            if number == retries:
                raise ConnectionError(
                    f"{what} gave no answer in {retries + 1} attempts, at last: {error}"
                ) from error
            # Clients that failed together must not come back together.
            delay = FIRST_DELAY * 2**number * random.uniform(0.5, 1.0)
            sleep(min(max(delay, error.delay or 0.0), LONGEST_DELAY))
            number += 1


def _raise_of_status(error: urllib.error.HTTPError, url: str) -> NoReturn:
    """Turns an HTTP error into one worth another attempt, or a final one."""
    try:
        reason = refusal(json.loads(error.read())["error"])
    except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError):
        reason = error.reason
    if error.code not in TRANSIENT_STATUS:
        raise InvalidInputError(f"{url} refused: HTTP {error.code}, {reason}")
    after = error.headers.get("Retry-After", "")
    delay = float(after) if after.isdecimal() else None
    raise TransientError(f"HTTP {error.code}, {reason}", delay)


def _as_result(outputs: Mapping[str, Any], num_rows: int) -> LogLikelihood:
    """Named lists as a `LogLikelihood`, once there is one number for each row."""
    arrays = [np.asarray(outputs[name], np.float32) for name in OUTPUTS]
    if any(array.shape != (num_rows,) for array in arrays):
        shapes = [array.shape for array in arrays]
        raise ValueError(f"shapes {shapes} for {num_rows} images")
    return LogLikelihood(*arrays)


def _not_an_answer(error: Exception) -> TransientError:
    """What came back cannot be read: cut off, or from something in between."""
    reason = f"an answer that cannot be used, {type(error).__name__}: {error}"
    return TransientError(reason)


def _foreign(url: str) -> InvalidInputError:
    return InvalidInputError(
        f"`endpoint` must serve an export of this package, with the signature "
        f"`{SIGNATURE}` of {', '.join(INPUTS)}. Received: {url}, which has none"
    )
