"""Where log-likelihoods come from: a SavedModel in this process, REST or gRPC.

A `Scorer` has rows go in and scores come out, wherever the model is. Scores of a server
are checked as those of this process are: see `checked_scores`.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import tensorflow as tf

from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.saved_model import (
    call_signature,
    inputs_of,
    load_saved_model,
    refusal,
    signature_of,
    warmup,
)
from iwae_tf.saved_model.signatures import SCORES
from iwae_tf.serving.answers import (
    MAX_ANSWER,
    UNUSABLE,
    TransientError,
    checked_scores,
    read_body,
    shortened,
    with_retries,
    within,
)

T = TypeVar("T")
SIGNATURES = {"encoder": "error_bars", "refined": "refined_log_likelihood"}
INPUTS, STEPS, LABELS = ("x", "num_samples", "seed"), "num_steps", "y"
BYTES_A_ROW = 384  # of six numbers in JSON, with spaces
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
TRANSIENT_CODES = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"),
    *("INTERNAL", "UNKNOWN", "CANCELLED"),
)
RULE = (
    "`endpoint` must be http://HOST:PORT/v1/models/NAME or grpc://HOST:PORT/v1/models/"
    "NAME, with /versions/N at the end for a version of your choice"
)


def open_scorer(
    *,
    saved_model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    proposal: str = "encoder",
    timeout: float = 120.0,
    retries: int = 5,
) -> "Scorer":
    """The scorer that the arguments name.

    Args:
      saved_model: folder of an export, NAME or NAME/1.
      endpoint: URL of a served model instead; see `RestScorer` and `GrpcScorer`.
      proposal: "encoder", or "refined" for proposals fitted to each image.
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
    check_choice(proposal, "proposal", tuple(SIGNATURES))
    if saved_model is not None:
        return InProcessScorer(saved_model, proposal)
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
    settings: dict[str, Any] = {
        "proposal": proposal, "timeout": timeout, "retries": retries
    }  # fmt: skip
    if url.scheme == "grpc":
        return GrpcScorer(url.netloc, name, version, **settings)
    model = f"{url.scheme}://{url.netloc}{path[1]}"
    return RestScorer(model, version, **settings)


class Scorer:
    """Rows in, scores out: a signature of one version of a model.

    A server that moves on to a new version in the middle of a job must not mix its
    numbers into it: a scorer keeps to the version that it found at the start.

    Args:
      proposal: "encoder" or "refined", which decides the signature.
      identity: str, which tells two models apart.
      inputs: names of the inputs.
      shape: of `x`, [batch, *event].
      signatures: names of the model's; of one that takes missing values `impute` too.
    """

    def __init__(
        self,
        proposal: str,
        identity: str,
        inputs: Iterable[str],
        shape: Sequence[int],
        signatures: Iterable[str],
    ) -> None:
        if set(inputs) - {LABELS, STEPS} != set(INPUTS):
            raise _foreign(identity, SIGNATURES[proposal])
        self._inputs = set(inputs)
        self.identity, self.event_shape = identity, tuple(shape)[1:]
        self.takes_labels, self.takes_missing = LABELS in inputs, "impute" in signatures

    def __call__(
        self,
        x: np.ndarray,
        num_samples: int,
        seed: Sequence[int],
        labels: np.ndarray | None = None,
    ) -> LogLikelihood:
        """Scores of images [N, *event], with labels int32 [N] where it takes them.

        Raises:
          InvalidInputError: the model refuses an image, or its scores are none.
          ConnectionError: the server gave no answer that can be used.
        """
        return self._ask(
            inputs_of(self._inputs, x, num_samples, seed, labels),
            lambda outputs: checked_scores(outputs, len(x), num_samples),
        )

    def _ask(self, inputs: dict[str, np.ndarray], read: Callable[[Any], T]) -> T:
        """What `read` makes of the mapping of each output's name to its values."""
        raise NotImplementedError


class InProcessScorer(Scorer):
    """A SavedModel, run here.

    Args:
      saved_model: folder of an export, NAME or NAME/1.
      proposal: "encoder" or "refined".
    """

    def __init__(
        self, saved_model: str | os.PathLike[str], proposal: str = "encoder"
    ) -> None:
        version, self._signatures = load_saved_model(saved_model)
        self._score = signature_of(self._signatures, SIGNATURES[proposal])
        digest = hashlib.sha256()
        for file in ("saved_model.pb", "variables/variables.index"):
            digest.update((version / file).read_bytes())
        specs = self._score.structured_input_signature[1]
        identity = f"{version.parent.name}/{version.name} {digest.hexdigest()}"
        super().__init__(proposal, identity, specs, specs["x"].shape, self._signatures)

    def _ask(self, inputs: dict[str, np.ndarray], read: Callable[[Any], T]) -> T:
        outputs = call_signature(self._score, inputs)
        try:
            return read(outputs)
        except ValueError as error:
            raise InvalidInputError(
                f"`saved_model` must give scores. Received: {error}"
            ) from error


class RestScorer(Scorer):
    """TensorFlow Serving's REST interface, `:predict` with columnar `inputs`.

    Args:
      model: URL up to the model's name.
      version: int, or None for the newest at this moment.
      proposal: "encoder" or "refined".
      timeout: seconds that one attempt may take.
      retries: attempts after the first one, of each request.
    """

    def __init__(
        self,
        model: str,
        version: int | None,
        *,
        proposal: str = "encoder",
        timeout: float,
        retries: int,
    ) -> None:
        self._timeout, self._retries = timeout, retries
        self._signature = SIGNATURES[proposal]
        chosen = model if version is None else f"{model}/versions/{version}"
        described = self._request(f"{chosen}/metadata", read=lambda answer: answer)
        try:
            found = int(described["model_spec"]["version"])
            signatures = described["metadata"]["signature_def"]["signature_def"]
            inputs = signatures[self._signature]["inputs"]
            shape = [int(dim["size"]) for dim in inputs["x"]["tensor_shape"]["dim"]]
        except UNUSABLE as error:
            raise _foreign(chosen, self._signature) from error
        identity = f"{model}/versions/{found}"
        super().__init__(proposal, identity, inputs, shape, signatures)

    def _ask(self, inputs: dict[str, np.ndarray], read: Callable[[Any], T]) -> T:
        columns = {name: values.tolist() for name, values in inputs.items()}
        request = {"signature_name": self._signature, "inputs": columns}
        body = json.dumps(request).encode()
        return self._request(
            f"{self.identity}:predict",
            lambda answer: read(answer["outputs"]),
            body,
            MAX_ANSWER + BYTES_A_ROW * len(inputs["x"]),
        )

    def _request(
        self,
        url: str,
        read: Callable[[Any], T],
        body: bytes | None = None,
        limit: int = MAX_ANSWER,
    ) -> T:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)

        def fetch():
            deadline = time.monotonic() + self._timeout
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return read_body(answer, limit, deadline)
            except urllib.error.HTTPError as error:
                _raise_of_status(error, url, deadline)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise TransientError(reason or type(error).__name__) from error

        def attempt():
            return read(json.loads(within(self._timeout, fetch)))

        return with_retries(attempt, url, self._retries)


class GrpcScorer(Scorer):
    """TensorFlow Serving's gRPC interface; needs the extra `serving`.

    Args:
      address: "HOST:PORT".
      name: the model's.
      version: int, or None for the newest at this moment.
      proposal: "encoder" or "refined".
      timeout: seconds that one attempt may take.
      retries: attempts after the first one, of each request.
    """

    def __init__(
        self,
        address: str,
        name: str,
        version: int | None,
        *,
        proposal: str = "encoder",
        timeout: float,
        retries: int,
    ) -> None:
        self._signature = SIGNATURES[proposal]
        warmup.check_available("an `endpoint` of gRPC")
        import grpc
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            prediction_service_pb2_grpc,
        )

        self._error, self._timeout, self._retries = grpc.RpcError, timeout, retries
        limits = {"send": -1, "receive": MAX_ANSWER}
        options = [(f"grpc.max_{n}_message_length", size) for n, size in limits.items()]
        channel = grpc.insecure_channel(address, options=options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._name, self._url = name, f"grpc://{address}/v1/models/{name}"
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        answer = self._request(self._stub.GetModelMetadata, request, lambda a: a)
        described = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(described)
        self._version = answer.model_spec.version.value
        signatures = described.signature_def
        inputs = signatures[self._signature].inputs
        shape = _shape(inputs["x"]) if "x" in inputs else []
        identity = f"{self._url}/versions/{self._version}"
        super().__init__(proposal, identity, inputs, shape, signatures)

    def _ask(self, inputs: dict[str, np.ndarray], read: Callable[[Any], T]) -> T:
        request = warmup.predict_request(
            self._name, self._signature, inputs, self._version
        )

        def read_tensors(answer):
            tensors = {n: answer.outputs[n] for n in SCORES if n in answer.outputs}
            shapes = [_shape(tensor) for tensor in tensors.values()]
            if any(shape != [len(inputs["x"])] for shape in shapes):  # or made up
                raise ValueError(f"shapes {shapes} for {len(inputs['x'])} images")
            return read({name: tf.make_ndarray(t) for name, t in tensors.items()})

        return self._request(self._stub.Predict, request, read_tensors)

    def _request(
        self, method: Callable[..., Any], request: Any, read: Callable[[Any], T]
    ) -> T:
        def attempt():
            try:
                answer = method(request, timeout=self._timeout)
            except self._error as error:
                reason = f"{error.code().name}, {refusal(error.details())}"
                if error.code().name in TRANSIENT_CODES:
                    raise TransientError(reason) from error
                raise _refused(self._url, reason) from error
            return read(answer)

        return with_retries(attempt, self._url, self._retries)


def _raise_of_status(
    error: urllib.error.HTTPError, url: str, deadline: float
) -> NoReturn:
    """Turns an HTTP error into one worth another attempt, or a final one."""
    try:
        reason = refusal(json.loads(read_body(error, 2**16, deadline))["error"])
    except (OSError, http.client.HTTPException, TransientError, *UNUSABLE):
        reason = error.reason
    if error.code not in TRANSIENT_STATUS:
        raise _refused(url, f"HTTP {error.code}, {reason}")
    after = error.headers.get("Retry-After", "")
    delay = float(after) if after.isdecimal() else None
    raise TransientError(f"HTTP {error.code}, {reason}", delay)


def _shape(described: Any) -> list[int]:
    """The shape in a TensorProto or TensorInfo."""
    return [dim.size for dim in described.tensor_shape.dim]


def _refused(url: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{url} refused: {shortened(reason)}")


def _foreign(url: str, signature: str) -> InvalidInputError:
    return InvalidInputError(
        f"`endpoint` must serve an export of this package, with the signature "
        f"`{signature}` of {', '.join(INPUTS)}. Received: {url}, which has none"
    )
