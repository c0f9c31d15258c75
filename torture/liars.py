"""Servers that lie: whatever one answers, `score` ends with one line and no score.

A behaviour is what is sent as the answer: bytes, or an iterable of bytes, after the
last of which the connection closes. Each is tried as the answer to a request for
scores, and what is no JSON of scores also as the description of the model.
"""

import concurrent.futures
import contextlib
import gzip
import json
import math
import socket
import threading
import time

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from iwae_tf.serving import answers
from torture.scripts import is_one_line, run_captured

SHAPE = (8, 8, 1)
SCORES = ("log_likelihood", "standard_error", "effective_sample_size")
SCORES += ("jackknife_error",)
TIMEOUT, LIMIT = 1.0, 20.0  # seconds of an attempt, and of a command of two
ROWS = 2


def http(body, *headers, status="200 OK"):
    """An answer that ends when the connection does."""
    head = "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""])
    return head.encode("latin-1") + body


def as_json(value, **keywords):
    return http(json.dumps(value).encode(), **keywords)


def scores(**changed):
    outputs = {name: [1.0] * ROWS for name in SCORES} | changed
    return as_json({"outputs": outputs})


def endless(start, part, pause=0.0):
    """`part` again and again, at most as long as a command may take."""
    yield start
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        yield part
        time.sleep(pause)


def described(**changed):
    """What TensorFlow Serving says of an export, or nearly so."""
    shape = {"dim": [{"size": str(size)} for size in (-1, *SHAPE)]}
    found = {"version": "1", "shape": shape, "inputs": {}, **changed}
    inputs = {"x": {"tensor_shape": found["shape"]}, "num_samples": {}, "seed": {}}
    signatures = {"error_bars": {"inputs": found["inputs"] or inputs}}
    return as_json(
        {
            "model_spec": {"version": found["version"]},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


VALUES = {
    "null": None,
    "true": True,
    "a string": "1.0",
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
    "1e300": 1e300,
    "10**400": 10**400,
    "a list": [1.0],
    "an object": {},
}
LISTS = {
    "too few": [1.0],
    "too many": [1.0] * 3,
    "none": [],
    "null": None,
    "one number": 1.0,
    "a string": "11",
    "an object": {"0": 1.0, "1": 1.0},
    "nested": [[1.0], [1.0]],
}
NO_SCORES = {
    **{
        f"{name} of an image is {word}": scores(**{name: [1.0, value]})
        for name in ("log_likelihood", "jackknife_error")
        for word, value in VALUES.items()
    },
    **{f"scores are {word}": scores(log_likelihood=v) for word, v in LISTS.items()},
    "an error is negative": scores(standard_error=[1.0, -1.0]),
    "no errors": as_json({"outputs": {"log_likelihood": [1.0] * ROWS}}),
    "an error in place of outputs": as_json({"error": "no\n" * 9000}),
    "predictions by row": as_json({"predictions": [dict.fromkeys(SCORES, 1.0)] * ROWS}),
    **{
        f"outputs are {v!r}": as_json({"outputs": v})
        for v in (None, 1, [1.0, 2.0], "x")
    },
}
NO_MODELS = {
    "version is a word": described(version="one"),
    "version is null": described(version=None),
    "version is Infinity": described(version=math.inf),
    "inputs are a list": described(inputs=[1]),
    "shape is null": described(shape=None),
    "sizes are words": described(shape={"dim": [{"size": "many"}]}),
    "another shape": described(shape={"dim": [{"size": "-1"}, {"size": "7"}]}),
    "no shape": described(shape={"dim": []}),
}
NO_ANSWERS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "random bytes": bytes(range(256)) * 40,
    "an empty body": http(b""),
    "HTML": http(b"<html><body>Sign in to this network</body></html>"),
    "half of the JSON": http(b'{"outputs": {"log_like'),
    "JSON and more": http(b'{"outputs": {}} {}'),
    "no UTF-8": http(b'{"outputs": "\xff\xfe\xfd"}'),
    "UTF-16": http('{"outputs": {}}'.encode("utf-16")),
    "null": http(b"null"),
    "a list": http(b"[1, 2]"),
    "'[' * 100,000": http(b"[" * 100_000),
    "'{\"a\":' * 50,000": http(b'{"a":' * 50_000),
    "10,000 digits": http(b"9" * 10_000),
    "a gzip bomb": http(gzip.compress(bytes(2**27), 9), "Content-Encoding: gzip"),
    "a shorter length": http(b'{"outputs": {}}', "Content-Length: 4"),
    "a longer length": http(b'{"outputs": {}}', "Content-Length: 1000"),
    "a length of 10**18": http(b"{}", f"Content-Length: {10**18}"),
    "a negative length": http(b"{}", "Content-Length: -5"),
    "a length that is a word": http(b"{}", "Content-Length: long"),
    "chunks of no size": http(b"zz\r\n{}\r\n", "Transfer-Encoding: chunked"),
    "half a chunk": http(b"ff\r\n{}", "Transfer-Encoding: chunked"),
    "a header of 100 kB": http(b"{}", "X: " + "x" * 100_000),
    "1,000 headers": http(b"{}", *["X: x"] * 1000),
    "a status that is a word": b"HTTP/1.1 abc OK\r\n\r\n{}",
    "a status of 999": http(b"{}", status="999 What"),
    "no content": http(b"", status="204 No Content"),
    "not modified": http(b"", status="304 Not Modified"),
    "a login": http(b"", 'WWW-Authenticate: Basic realm="x"', status="401 No"),
    "gone": http(b"gone", status="410 Gone"),
    "a refusal of 1 MB": http(b"no" * 2**19, status="400 " + "no" * 9000),
    "busy": as_json({"error": "busy"}, status="503 Busy"),
    "busy for ever": http(b"", "Retry-After: 99999999999", status="503 Busy"),
    "busy until when": http(b"", "Retry-After: -1", status="429 Busy"),
    "a redirect to itself": http(b"", "Location: {url}", status="302 Found"),
    "a redirect to a file": http(b"", "Location: file:///etc/passwd", status="301 X"),
    "a redirect to nowhere": http(b"", "Location: http://127.0.0.1:9/", status="302 X"),
    "a redirect of no URL": http(b"", "Location: http://[::1", status="302 X"),
    "a redirect without a place": http(b"", status="307 Elsewhere"),
}
NO_ENDS = {
    "no answer": lambda: endless(b"", b"", 0.1),
    "a byte of a header now and then": lambda: endless(
        b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.1
    ),
    "a byte of a body now and then": lambda: endless(http(b""), b" ", 0.1),
    "a byte of a refusal now and then": lambda: endless(
        http(b"", status="503 Busy"), b" ", 0.1
    ),
    "spaces without end": lambda: endless(http(b""), b" " * 2**16),
    "headers without end": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X: x\r\n" * 99),
    "chunks without end": lambda: endless(
        http(b"", "Transfer-Encoding: chunked"), b"1000\r\n" + b" " * 4096 + b"\r\n"
    ),
    "'continue' without end": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a gzip stream without end": lambda: endless(
        http(b"", "Content-Encoding: gzip"), gzip.compress(bytes(2**20))
    ),
}
ANSWERS = {**NO_ANSWERS, **NO_ENDS}
BEHAVIOURS = [
    *(("scores", name, lie) for name, lie in {**NO_SCORES, **ANSWERS}.items()),
    *(("model", name, lie) for name, lie in {**NO_MODELS, **ANSWERS}.items()),
]


class Liar:
    """A server of one behaviour on loopback; a context manager.

    Args:
      place: "scores" or "model", which of the two requests gets the lie.
      lie: what it gets.
    """

    def __init__(self, place, lie):
        self._place, self._lie = place, lie
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._port = self._socket.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}/v1/models/digits"

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=[connection]).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            request = connection.makefile("rb")
            path, length = request.readline().split()[1], 0
            while (line := request.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            request.read(length)
            lie = self._lie
            if path.endswith(b"/metadata") and self._place == "scores":
                lie = described()
            parts = [lie] if isinstance(lie, bytes) else lie()
            for part in parts:
                url = f"http://127.0.0.1:{self._port}".encode() + path
                connection.sendall(part.replace(b"{url}", url))


def _tensor(values, kind=np.float32, **changed):
    """A TensorProto, of which some fields may be changed."""
    tensor = tf.make_tensor_proto(np.array(values, kind))
    for size in changed.pop("dims", ()):
        tensor.tensor_shape.dim[0].size = size
    for field, value in changed.items():
        setattr(tensor, field, value)
    return tensor


def grpc_lies():
    """Answers of a prediction service: {behaviour: bytes, or a status}."""

    def predicted(**changed):
        answer = predict_pb2.PredictResponse()
        for name in SCORES:
            tensor = changed.get(name, _tensor([1.0] * ROWS))
            if tensor is not None:
                answer.outputs[name].CopyFrom(tensor)
        return answer.SerializeToString()

    of_one = {
        "NaN": _tensor([1.0, np.nan]),
        "Infinity": _tensor([1.0, np.inf]),
        "too few": _tensor([1.0]),
        "nested": _tensor([[1.0], [1.0]]),
        "no list": _tensor(1.0),
        "missing": None,
        "integers": _tensor([1, 1], np.int32),
        "truth values": _tensor([True, True], bool),
        "strings": _tensor(["1", "1"], object),
        "complex": _tensor([1j, 1j], np.complex64),
        "of another type than said": _tensor([1.0, 1.0], dtype=7),
        "of an unknown type": _tensor([1.0, 1.0], dtype=99),
        "cut off": _tensor([1.0, 1.0], tensor_content=b"\0\0\0"),
        "of a made-up shape": _tensor([1.0, 1.0], dims=[2**60]),
        "of a negative shape": _tensor([1.0, 1.0], dims=[-1]),
    }
    found = {
        f"{name} {word}": predicted(**{name: tensor})
        for name in ("log_likelihood", "jackknife_error")
        for word, tensor in of_one.items()
    }
    found |= {"an empty answer": b"", "no answer of its kind": b"\xff" * 99}
    found["20 MB"] = predicted(log_likelihood=_tensor([1.0] * 5_000_000))
    return found | {
        code.name: code for code in grpc.StatusCode if code != grpc.StatusCode.OK
    }


class GrpcLiar:
    """As `Liar`, of one answer to each request for scores, over gRPC."""

    def __init__(self, lie):
        self._lie = lie
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers([self])
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"grpc://127.0.0.1:{port}/v1/models/digits"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0)

    def service(self, call):
        """gRPC's question for what handles a call."""
        is_model = call.method.endswith("/GetModelMetadata")
        return grpc.unary_unary_rpc_method_handler(
            self._describe if is_model else self._predict
        )

    def _describe(self, request, context):
        described = get_model_metadata_pb2.SignatureDefMap()
        inputs = described.signature_def["error_bars"].inputs
        for name, shape in {"x": (-1, *SHAPE), "num_samples": (), "seed": (2,)}.items():
            inputs[name].name = name
            for size in shape:
                inputs[name].tensor_shape.dim.add().size = size
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.version.value = 1
        answer.metadata["signature_def"].Pack(described)
        return answer.SerializeToString()

    def _predict(self, request, context):
        if isinstance(self._lie, grpc.StatusCode):
            context.abort(self._lie, "no\n" * 900)
        return self._lie


def faults(folder, share=1.0):
    """Tries the behaviours: (how many, [what was wrong with one])."""
    answers.FIRST_DELAY, answers.LONGEST_DELAY = 0.05, 0.5
    np.save(folder / "x.npy", np.zeros([ROWS, *SHAPE], np.float32))
    liars = [
        (f"{place}, {name}", Liar, (place, lie)) for place, name, lie in BEHAVIOURS
    ]
    liars += [(f"gRPC, {name}", GrpcLiar, (lie,)) for name, lie in grpc_lies().items()]
    wrong, chosen = [], liars[:: round(1 / share)]
    for number, (name, kind, lie) in enumerate(chosen):
        output = folder / f"{number}.csv"
        flags = [f"--input={folder / 'x.npy'}", f"--output={output}"]
        flags += [f"--timeout={TIMEOUT}", "--retries=1", "--num_samples=5"]
        begin = time.monotonic()
        with kind(*lie) as liar:
            endpoint = f"--endpoint={liar.endpoint}"
            code, text = run_captured(60, "score", *flags, endpoint)
        seconds = time.monotonic() - begin
        is_good = code in (1, 2) and is_one_line(text)
        partial = output.with_name(f"{output.name}.partial")
        has_scores = output.exists() or (
            partial.exists() and len(partial.read_text().splitlines()) > 2
        )
        if not is_good or has_scores or seconds > LIMIT:
            wrong.append(f"{name}: {code}, {text[-600:]!r}, {seconds:.0f} s")
    return len(chosen), wrong
