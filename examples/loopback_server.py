"""A server on this machine: TensorFlow Serving's REST protocol, and Open Inference.

For tests and demonstrations, where there is no TensorFlow Serving: it executes the
SavedModels of a folder of versions. One model, no batching, no security.

    GET  /v1/models/NAME[/versions/N]            state of the versions
    GET  /v1/models/NAME[/versions/N]/metadata   signatures
    POST /v1/models/NAME[/versions/N]:predict    `inputs`, or `instances` by row

    GET  /v2/models/NAME[/versions/N]            inputs and outputs of one signature
    POST /v2/models/NAME[/versions/N]/infer
"""

import contextlib
import http.server
import json
import pathlib
import re
import threading
import time

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

ROUTE = re.compile(
    r"/(?P<protocol>v1|v2)/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?"
    r"(?P<action>/metadata|:predict|/infer)?"
)
DATATYPES = {"float32": "FP32", "int32": "INT32"}  # of the Open Inference Protocol
METADATA_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class Refusal(Exception):
    """An answer other than 200: the HTTP status and what the error says."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class ServedModel:
    """The versions of one model: the newest is loaded at once, others when asked for.

    Args:
      folder: folder of the versions.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._loaded = {}
        self._lock = threading.Lock()
        self.signatures(self.choose(None))

    def versions(self):
        """Numbers of the versions in the folder, the newest last."""
        names = [p.name for p in self.folder.iterdir() if p.name.isdecimal()]
        return sorted(map(int, names))

    def choose(self, version):
        """The number of the version that a request means."""
        versions = self.versions()
        if not versions or (version is not None and int(version) not in versions):
            raise Refusal(404, f"Servable not found for request: version {version}")
        return versions[-1] if version is None else int(version)

    def signatures(self, version):
        """Signature functions of a version."""
        with self._lock:
            if version not in self._loaded:
                path = str(self.folder / str(version))
                self._loaded[version] = tf.saved_model.load(path)
            return self._loaded[version].signatures

    def metadata(self, version):
        """The signatures as the server describes them."""
        parsed = saved_model_pb2.SavedModel()
        file = self.folder / str(version) / "saved_model.pb"
        parsed.ParseFromString(file.read_bytes())
        described = {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in parsed.meta_graphs[0].signature_def.items()
        }
        return {"signature_def": {"@type": METADATA_TYPE, "signature_def": described}}


class LoopbackServer:
    """Serves one model on a free port of 127.0.0.1; a context manager.

    Args:
      folder: folder of the versions.
      name: what the model is called; None is the folder's name.
      signature: the one that /v2/ serves, which knows of one only.
      fault: optional function of the number of a request for scores, from 0, to what
        goes wrong with it: None, an HTTP status, seconds of delay as a float, "drop"
        (the connection closes), "garbage" (an answer that is no JSON) or "short" (a
        row is missing).
    """

    def __init__(self, folder, name=None, fault=None, signature="error_bars"):
        self.signature = signature
        self.model = ServedModel(folder)
        self.name = name or self.model.folder.resolve().name
        self.fault = fault or (lambda number: None)
        self.num_predictions = 0
        self.lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = (
            f"http://127.0.0.1:{self._server.server_port}/v1/models/{self.name}"
        )

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    owner = None  # the LoopbackServer

    def do_GET(self):
        self._answer(self._describe)

    def do_POST(self):
        self._answer(self._predict)

    def log_message(self, *_):
        pass

    def _answer(self, respond):
        try:
            status, answer = 200, respond()
        except Refusal as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        if answer is None:  # as if the machine had gone
            self.close_connection = True
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        with contextlib.suppress(OSError):  # the client has given up
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _route(self):
        """(version that is meant, what is asked for, of which protocol)."""
        found = ROUTE.fullmatch(self.path)
        if not found or found["name"] != self.owner.name:
            raise Refusal(404, f"Servable not found for request: {self.path}")
        version = self.owner.model.choose(found["version"])
        return version, found["action"], found["protocol"]

    def _describe(self):
        version, action, protocol = self._route()
        model = self.owner.model
        if protocol == "v2":
            function = model.signatures(version)[self.owner.signature]
            return {
                "name": self.owner.name,
                "versions": [str(number) for number in model.versions()],
                "platform": "tensorflow_savedmodel",
                "inputs": _tensors(function.structured_input_signature[1]),
                "outputs": _tensors(function.structured_outputs),
            }
        if action == "/metadata":
            return {
                "model_spec": {
                    "name": self.owner.name,
                    "signature_name": "",
                    "version": str(version),
                },
                "metadata": model.metadata(version),
            }
        return {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for number in reversed(model.versions())
            ]
        }

    def _predict(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.owner.lock:
            number = self.owner.num_predictions
            self.owner.num_predictions += 1
        fault = self.owner.fault(number)
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            raise Refusal(fault, f"as asked for: status {fault}")
        if fault == "drop":
            return None
        if fault == "garbage":
            return b'{"outputs": {"log_like'
        version, _, protocol = self._route()
        signatures, name = self.owner.model.signatures(version), self.owner.signature
        if protocol == "v2":
            body = _as_columns(body, name, signatures[name])
        answer = predict(signatures, body)
        if fault == "short":
            answer["outputs"] = {n: v[:-1] for n, v in answer["outputs"].items()}
        if protocol == "v2":
            answer["outputs"] = [
                {"name": n, "datatype": "FP32", "shape": [len(v)], "data": v}
                for n, v in answer["outputs"].items()
            ]
        return answer


def _tensors(specs):
    """Inputs or outputs as /v2/ describes them; like Triton it has no scalars."""
    return [
        {
            "name": name,
            "datatype": DATATYPES[spec.dtype.name],
            "shape": [-1 if size is None else size for size in spec.shape] or [1],
        }
        for name, spec in specs.items()
    ]


def _as_columns(body, name, function):
    """A request for /v2/ as one for TensorFlow Serving."""
    specs, columns = function.structured_input_signature[1], {}
    try:
        for given in json.loads(body)["inputs"]:
            spec = specs[given["name"]]
            shape = given["shape"] if spec.shape.rank else []
            if given["datatype"] != DATATYPES[spec.dtype.name]:
                raise ValueError(f"datatype {given['datatype']} of {given['name']}")
            columns[given["name"]] = np.reshape(given["data"], shape).tolist()
    except (ValueError, TypeError, LookupError) as error:
        raise Refusal(400, f"{error}") from error
    return json.dumps({"signature_name": name, "inputs": columns})


def predict(signatures, body):
    """Executes one `:predict` request.

    Args:
      signatures: mapping of name to signature function.
      body: bytes, JSON.

    Returns:
      answer: dict, "outputs" for a request by column and "predictions" by row.

    Raises:
      Refusal: what is wrong with the request.
    """
    try:
        request = json.loads(body)
        name = request.get("signature_name", "serving_default")
        by_row = "instances" in request
        given = request["instances"] if by_row else request["inputs"]
    except (ValueError, LookupError, AttributeError) as error:
        raise Refusal(400, f"JSON Parse error: {error}") from error
    if name not in signatures:
        raise Refusal(400, f'Serving signature name: "{name}" not found')
    function = signatures[name]
    specs = function.structured_input_signature[1]
    try:
        if by_row and isinstance(given[0], dict):
            given = {key: [row[key] for row in given] for key in given[0]}
        if not isinstance(given, dict):
            (only,) = specs
            given = {only: given}
        if set(given) != set(specs):
            raise ValueError(f"inputs {sorted(given)}, expected {sorted(specs)}")
        tensors = {
            key: tf.constant(_as_array(value, specs[key]), specs[key].dtype)
            for key, value in given.items()
        }
        outputs = {key: v.numpy() for key, v in function(**tensors).items()}
    except (
        ValueError,
        TypeError,
        LookupError,
        tf.errors.InvalidArgumentError,
    ) as error:
        raise Refusal(400, f"{error}") from error
    if not by_row:
        outputs = {key: value.tolist() for key, value in outputs.items()}
        return {
            "outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))
        }
    rows = zip(*(value.tolist() for value in outputs.values()))
    if len(outputs) == 1:
        return {"predictions": [row[0] for row in rows]}
    return {"predictions": [dict(zip(outputs, row)) for row in rows]}


def _as_array(value, spec):
    """JSON numbers as the tensor that a signature takes."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or (
        array.dtype.kind == "f" and not spec.dtype.is_floating
    ):
        raise ValueError(f"{spec.name}: expected {spec.dtype.name}")
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(f"{spec.name}: shape {array.shape}, expected {spec.shape}")
    return array
