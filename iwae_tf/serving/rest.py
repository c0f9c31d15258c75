"""Models that are asked through HTTP and JSON."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import numpy as np

from iwae_tf.evaluation import LogLikelihood
from iwae_tf.saved_model import refusal
from iwae_tf.saved_model.signatures import ABOUT, SIGNATURES
from iwae_tf.serving.answers import (
    MAX_ANSWER,
    UNUSABLE,
    TransientError,
    read_body,
    with_retries,
    within,
)
from iwae_tf.serving.scorer import STEPS, Scorer, foreign, refused, scores_of

T = TypeVar("T")
BYTES_A_ROW = 384  # of six numbers in JSON, with spaces
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
DATATYPES = {"float32": "FP32", "int32": "INT32"}  # of the Open Inference Protocol


class RestScorer(Scorer):
    """TensorFlow Serving's REST interface, `:predict` with columnar `inputs`.

    Args:
      model: URL up to the model's name.
      version: int, or None for the newest at this moment.
      proposal, timeout, retries: as of `open_scorer`.
    """

    describe, act = "/metadata", ":predict"  # at the end of URLs

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
        answer = self._request(f"{chosen}{self.describe}", read=lambda answer: answer)
        try:
            newest, inputs, shape, facts = self._described(answer)
            found = newest if version is None else version
        except UNUSABLE as error:
            raise foreign(chosen, self._signature) from error
        identity = f"{model}/versions/{found}"
        super().__init__(proposal, identity, inputs, shape, facts)

    def _described(self, answer: Any) -> tuple[int, Any, list[int], Iterable[str]]:
        """Version, names of the inputs, shape of `x` and facts about a model."""
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        inputs = signatures[self._signature]["inputs"]
        shape = [int(dim["size"]) for dim in inputs["x"]["tensor_shape"]["dim"]]
        about = signatures[ABOUT]["outputs"] if ABOUT in signatures else ()
        facts = {*signatures, *about}
        return int(answer["model_spec"]["version"]), inputs, shape, facts

    def _message(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """What is sent."""
        columns = {name: values.tolist() for name, values in inputs.items()}
        return {"signature_name": self._signature, "inputs": columns}

    def _outputs(self, answer: Any) -> Any:
        """The mapping of each output's name to its values in an answer."""
        return answer["outputs"]

    def _ask(self, inputs: dict[str, np.ndarray]) -> LogLikelihood:
        return self._request(
            f"{self.identity}{self.act}",
            lambda answer: scores_of(self._outputs(answer), inputs),
            json.dumps(self._message(inputs)).encode(),
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


class OpenInferenceScorer(RestScorer):
    """The Open Inference Protocol, as of Triton, KServe and MLServer.

    It knows no signatures: the served model is one, `error_bars` of an export or, for
    refined proposals, `refined_log_likelihood`. See examples/triton_server.py. Missing
    values cannot be sent.

    References:
      https://github.com/kserve/open-inference-protocol
    """

    describe, act = "", "/infer"

    def _described(self, answer: Any) -> tuple[int, Any, list[int], Iterable[str]]:
        shapes = {given["name"]: given["shape"] for given in answer["inputs"]}
        if (STEPS in shapes) != (self._signature == SIGNATURES["refined"]):
            raise KeyError(STEPS)
        self._ranks = {name: len(shape) for name, shape in shapes.items()}
        return max(map(int, answer["versions"])), shapes, shapes["x"], ()

    def _message(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        sent = []
        for name, values in inputs.items():
            if not values.shape:  # some servers have no scalars
                values = np.reshape(values, [1] * self._ranks[name])
            described = {"name": name, "shape": values.shape}
            described["datatype"] = DATATYPES[values.dtype.name]
            sent.append({**described, "data": values.ravel().tolist()})
        return {"inputs": sent}

    def _outputs(self, answer: Any) -> Any:
        return {given["name"]: given["data"] for given in answer["outputs"]}


def _raise_of_status(
    error: urllib.error.HTTPError, url: str, deadline: float
) -> NoReturn:
    """Turns an HTTP error into one worth another attempt, or a final one."""
    try:
        reason = refusal(json.loads(read_body(error, 2**16, deadline))["error"])
    except (OSError, http.client.HTTPException, TransientError, *UNUSABLE):
        reason = error.reason
    if error.code not in TRANSIENT_STATUS:
        raise refused(url, f"HTTP {error.code}, {reason}")
    after = error.headers.get("Retry-After", "")
    delay = float(after) if after.isdecimal() else None
    raise TransientError(f"HTTP {error.code}, {reason}", delay)
