"""Requests that TensorFlow Serving replays when it loads a version.

The first call of a graph is slow: TensorFlow places its ops and makes its kernels then.
A server that finds `assets.extra/tf_serving_warmup_requests` does it before it answers
anybody. The records are `PredictionLog`s, each with a `PredictRequest`, of the package
`tensorflow-serving-api`, the extra `serving`.
"""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import EXTRA

FILE = f"{EXTRA}/tf_serving_warmup_requests"
MODULE = "tensorflow_serving"


def is_available() -> bool:
    """Whether the messages of TensorFlow Serving are installed."""
    return importlib.util.find_spec(MODULE) is not None


def check_available(what: str) -> None:
    """Raises InvalidInputError where the extra is missing that `what` needs."""
    if not is_available():
        raise InvalidInputError(
            f"{what} needs tensorflow-serving-api: pip install 'iwae_tf[serving]'. "
            "Received: it is not installed"
        )


def write(
    version: pathlib.Path, name: str, requests: Mapping[str, Mapping[str, tf.Tensor]]
) -> None:
    """Writes the file into the folder of a version.

    Args:
      version: the folder.
      name: what the server calls the model.
      requests: signature name to input name to tensor.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = version / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, inputs in requests.items():
            request = predict_request(name, signature, inputs)
            record = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            file.write(record.SerializeToString())


def predict_request(
    name: str, signature: str, inputs: Mapping[str, Any], version: int | None = None
) -> Any:
    """A `tensorflow.serving.PredictRequest`.

    Args:
      name: what the server calls the model.
      signature: its name.
      inputs: name to tensor or array.
      version: None is the server's newest.
    """
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request
