"""Models that are asked through gRPC."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from iwae_tf.evaluation import LogLikelihood
from iwae_tf.saved_model import refusal, warmup
from iwae_tf.saved_model.signatures import ABOUT, SCORES, SIGNATURES
from iwae_tf.serving.answers import MAX_ANSWER, TransientError, with_retries
from iwae_tf.serving.scorer import Scorer, refused, scores_of

T = TypeVar("T")
TRANSIENT_CODES = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"),
    *("INTERNAL", "UNKNOWN", "CANCELLED"),
)


class GrpcScorer(Scorer):
    """TensorFlow Serving's gRPC interface; needs the extra `serving`.

    Args:
      address: "HOST:PORT".
      name: the model's.
      version: int, or None for the newest at this moment.
      proposal, timeout, retries: as of `open_scorer`.
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
        facts = {*signatures, *signatures[ABOUT].outputs}
        super().__init__(proposal, identity, inputs, shape, facts)

    def _ask(self, inputs: dict[str, np.ndarray]) -> LogLikelihood:
        request = warmup.predict_request(
            self._name, self._signature, inputs, self._version
        )

        def read_tensors(answer):
            tensors = {n: answer.outputs[n] for n in SCORES if n in answer.outputs}
            shapes = [_shape(tensor) for tensor in tensors.values()]
            if any(shape != [len(inputs["x"])] for shape in shapes):  # or made up
                raise ValueError(f"shapes {shapes} for {len(inputs['x'])} images")
            outputs = {name: tf.make_ndarray(t) for name, t in tensors.items()}
            return scores_of(outputs, inputs)

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
                raise refused(self._url, reason) from error
            return read(answer)

        return with_retries(attempt, self._url, self._retries)


def _shape(described: Any) -> list[int]:
    """The shape in a TensorProto or TensorInfo."""
    return [dim.size for dim in described.tensor_shape.dim]
