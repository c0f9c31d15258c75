"""The client against a real server on loopback, its faults, and files cut off."""

import concurrent.futures
import contextlib
import csv
import gzip
import hashlib
import itertools
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
import warnings

import numpy as np
import pytest
import tensorflow as tf
from builders import DIGITS as EVENT
from builders import DRAWS, build, export_digits, save_function
from running import assert_one_line, refusal, run_script

import iwae_tf
from examples.loopback_server import LoopbackServer
from iwae_tf import serving
from iwae_tf.config import default_config
from iwae_tf.config.files import read_config
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import files
from iwae_tf.networks import MLP
from iwae_tf.serving import (
    answers,
    batch_seed,
    client,
    endpoints,
    score,
    score_files,
    shards,
)
from iwae_tf.serving.rows import read_rows

FIELDS = ("estimate", "standard_error", "effective_sample_size", "jackknife_error")


@pytest.fixture(scope="module")
def model(digits):
    return digits[0]


@pytest.fixture(scope="module")
def folder(digits):
    return digits[1]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The export of another model of such images."""
    return export_digits(tmp_path_factory.mktemp("other") / "digits", seed=7)[1]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).integers(0, 2, [23, *EVENT]).astype("float32")


@pytest.fixture(scope="module")
def expected(folder, x):
    """What a job without any trouble finds, in batches of four."""
    return score(x, saved_model=folder, num_samples=DRAWS, seed=(3, 4), batch_size=4)


@pytest.fixture(scope="module", autouse=True)
def no_waiting(loaded_once):
    """No pause before another attempt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "FIRST_DELAY", 0.0)
        yield


servers = {}


@contextlib.contextmanager
def shared(folder, fault=lambda number: None):
    """The one server of these tests, as if it had just been started."""
    if folder not in servers:
        servers[folder] = LoopbackServer(folder).__enter__()
    servers[folder].fault, servers[folder].num_predictions = fault, 0
    yield servers[folder]


def ask(server, x, protocol="v1", **arguments):
    arguments = {"num_samples": DRAWS, "seed": (3, 4), "batch_size": 4} | arguments
    endpoint = server.endpoint.replace("/v1/", f"/{protocol}/")
    return score(x, endpoint=endpoint, **arguments)


def assert_same(ours, theirs, atol=1e-5):
    for name in FIELDS:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=atol
        )


# Seeds and numbers -----------------------------------------------------------------


def test_the_seed_of_a_batch():
    assert batch_seed((3, 4), 0) == (3, 4)
    words = [(-1).to_bytes(4, "little", signed=True), (4).to_bytes(4, "little")]
    digest = hashlib.sha256(b"".join(words) + (100).to_bytes(8, "little")).digest()
    pair = [int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4)]
    assert batch_seed((2**32 - 1, 4), 100) == tuple(pair)
    pairs = itertools.product([(0, 0), (0, 1), (1, 0)], range(0, 5000, 5))
    assert len({batch_seed(*pair) for pair in pairs}) == 3000


def test_one_batch_is_the_librarys_log_likelihood(model, folder, x):
    ours = score(x, saved_model=folder, num_samples=DRAWS, seed=(3, 4))
    assert_same(ours, iwae_tf.log_likelihood(model, x, DRAWS, (3, 4)), 1e-4)


def test_each_batch_is_one_of_its_own_seed(model, expected, x):
    for start in range(0, len(x), 4):
        rows = slice(start, start + 4)
        seed = batch_seed((3, 4), start)
        theirs = iwae_tf.log_likelihood(model, x[rows], DRAWS, seed)
        assert_same(type(theirs)(*(part[rows] for part in expected)), theirs, 1e-4)


def test_rows_have_independent_noise(folder, x):
    same = np.repeat(x[:1], 12, axis=0)
    found = score(same, saved_model=folder, num_samples=DRAWS, batch_size=4)
    assert len(set(found.estimate)) == 12


def test_one_row_a_request_makes_a_score_a_function_of_the_row(folder, x):
    arguments = {"saved_model": folder, "num_samples": DRAWS, "batch_size": 1}
    whole = score(x, **arguments)
    assert_same(score(x[:7], **arguments), type(whole)(*(p[:7] for p in whole)))


@pytest.mark.parametrize(
    ("protocol", "batch_size", "concurrency"),
    [("v1", 4, 1), ("v1", 4, 3), ("v1", 23, 1), ("v2", 4, 3)],
)
def test_a_server_says_what_the_process_says(
    folder, x, protocol, batch_size, concurrency
):
    arguments = {"num_samples": DRAWS, "seed": (3, 4), "batch_size": batch_size}
    with shared(folder) as server:
        served = ask(server, x, protocol, **arguments, concurrency=concurrency)
        assert server.num_predictions == -(-len(x) // batch_size)
    assert_same(served, score(x, saved_model=folder, **arguments))


@pytest.mark.slow
def test_refined_scores_are_the_librarys_here_and_from_a_server(model, folder, x):
    x, arguments = x[:3], {"num_samples": 30, "seed": (3, 4), "proposal": "refined"}
    expected = iwae_tf.log_likelihood(model, x, 30, (3, 4), proposal="refined")
    with shared(folder) as server:
        for found in (
            score(x, saved_model=folder, **arguments),
            ask(server, x, **arguments),
        ):
            np.testing.assert_allclose(found.estimate, expected.estimate, atol=1e-3)
            np.testing.assert_allclose(found.pareto_k, expected.pareto_k, atol=0.02)
            np.testing.assert_array_equal(found.is_refined, expected.is_refined)


def test_results_come_in_order_whatever_finishes_first():
    delays = np.random.default_rng(0).uniform(0, 0.02, 40)

    def call(number):
        time.sleep(delays[number])
        return number

    calls = (lambda number=number: call(number) for number in range(40))
    assert list(serving.in_order(calls, 7)) == list(range(40))


def test_no_more_requests_at_a_time_than_asked_for():
    running, most, lock = [], [], threading.Lock()

    def call():
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.pop()

    list(serving.in_order([call] * 12, 3))
    assert max(most) == 3


# A server in trouble ---------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("fault", [503, 429, 500, "drop", "garbage", "short"])
def test_every_other_answer_is_a_fault(folder, x, expected, fault, protocol):
    with shared(folder, fault=lambda n: None if n % 2 else fault) as server:
        served = ask(server, x, protocol)
        assert server.num_predictions == 12  # six batches, each asked for twice
    assert_same(served, expected)


def test_a_slow_answer_is_asked_for_again(folder, x, expected):
    with shared(folder, fault=lambda n: 4.0 if n == 1 else None) as server:
        start = time.monotonic()
        assert_same(ask(server, x, timeout=1.5), expected)
        assert server.num_predictions >= 7
    assert time.monotonic() - start > 1.5


def test_faults_among_several_requests_mix_no_rows(folder, x, expected):
    faults = np.random.default_rng(1).choice([503, "drop", "short", ""], 1000)

    def fault(number):
        name = faults[number]
        return int(name) if name.isdecimal() else name or None

    with shared(folder, fault=fault) as server:
        served = ask(server, x, batch_size=4, concurrency=4, retries=30)
    assert_same(served, expected)


def test_it_gives_up_after_the_retries_and_says_why(folder, x):
    with shared(folder, fault=lambda n: 503) as server:
        with pytest.raises(
            ConnectionError, match="3 attempts. The last error: HTTP 503, as a"
        ):
            ask(server, x, retries=2)
        assert server.num_predictions == 3


def test_no_server_is_said(x):
    with pytest.raises(ConnectionError, match="gave no usable answer in 2 attempts"):
        score(x, endpoint="http://127.0.0.1:9/v1/models/digits", retries=np.int64(1))


def test_pauses_double_and_heed_the_server():
    pauses, errors = [], [answers.TransientError("no", delay) for delay in [None] * 4]
    errors += [answers.TransientError("no", 9.0), answers.TransientError("no", 1e9)]

    def attempt():
        raise errors[len(pauses)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "FIRST_DELAY", 1.0)
        with pytest.raises(ConnectionError):
            answers.with_retries(
                lambda: attempt() if len(pauses) < 6 else errors[0].missing,
                "it", 5, pauses.append,
            )  # fmt: skip
    assert len(pauses) == 5
    for number, pause in enumerate(pauses[:4]):
        assert 0.5 * 2**number <= pause <= 2**number
    assert 9.0 <= pauses[4] <= 16.0


def test_a_version_that_comes_up_meanwhile_is_left_alone(
    folder, other, x, expected, tmp_path
):
    served = shutil.copytree(folder, tmp_path / "digits")
    shutil.copytree(other, tmp_path / "other")

    def fault(number):
        if number == 2:  # moved into place at once, as an export is
            (tmp_path / "other" / "1").rename(served / "2")

    with LoopbackServer(served, fault=fault) as server:
        assert_same(ask(server, x), expected)
        assert server.model.versions() == [1, 2]
        newest = ask(server, x)
        one = score(x, endpoint=f"{server.endpoint}/versions/1", num_samples=DRAWS,
                    seed=(3, 4), batch_size=4)  # fmt: skip
    assert not np.allclose(newest.estimate, expected.estimate, atol=0.1)
    assert_same(one, expected)


def test_a_job_goes_on_with_the_version_that_it_has_begun_with(
    folder, other, x, expected, tmp_path
):
    served, output = shutil.copytree(folder, tmp_path / "digits"), tmp_path / "s.csv"
    with LoopbackServer(served) as server:
        with pytest.raises(ZeroDivisionError):
            ask(server, x, output=output, on_batch=lambda result: 1 / 0)
        shutil.copytree(other / "1", served / "2")
        begun = output.with_name("s.csv.partial").read_bytes()
        with pytest.raises(
            InvalidInputError, match="whose model is .*/versions/1'.* or"
        ):
            score(x, endpoint=f"{server.endpoint}/versions/2", num_samples=DRAWS,
                  seed=(3, 4), batch_size=4, output=output)  # fmt: skip
        assert output.with_name("s.csv.partial").read_bytes() == begun
        assert_same(ask(server, x, output=output), expected)
    found = np.genfromtxt(output, delimiter=",", names=True)["log_likelihood"]
    np.testing.assert_allclose(found, expected.estimate, rtol=1e-5)


# What grey pixels are told ---------------------------------------------------------

GREY = "`x` has values between 0 and 1, which a Bernoulli likelihood"


@pytest.mark.parametrize(
    "shape, hint",
    [
        ((2, 6, 9, 1), "; of a folder, --image_size={0},{1} gives that shape"),
        ((2, 6, 9, 3), "; of a folder, --image_size={0},{1} --color=gray gives that"),
        ((2, 54), ""),
    ],
)
def test_a_script_says_what_to_type_for_images_of_another_size(digits, shape, hint):
    scorer, x = endpoints.InProcessScorer(digits[1]), np.zeros(shape, np.float32)
    words = refusal(client.check_images, x, scorer, 4, "input")
    assert words.startswith("`input` must have the shape")
    start = f"Received: shape={shape}" + hint.format(*scorer.event_shape)
    assert start in words and ("folder" in words) == bool(hint)
    assert "folder" not in refusal(client.check_images, x, scorer, 4)


@pytest.mark.parametrize("binarization", ["threshold", "dynamic"])
@pytest.mark.filterwarnings("ignore:grey values are binarized")
def test_grey_rows_of_shards_are_binarized_as_those_of_a_file(
    digits, tmp_path, binarization
):
    folder = shutil.copytree(digits[1], tmp_path / "export")
    config = default_config()
    config.binarization, config.eval_seed = binarization, 3
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    grey = np.random.default_rng(0).uniform(size=(5, *EVENT)).astype(np.float32)
    grey[1] = grey[1].round()
    np.save(tmp_path / "x.npy", grey)
    x = read_rows(tmp_path / "x.npy", config=read_config(folder / "config.json")).x
    scorer = shards.RowScorer(folder, num_samples=DRAWS, seed=(3, 4))
    expected = score(
        x, saved_model=folder, num_samples=DRAWS, seed=(3, 4), batch_size=1
    )
    for order in (range(5), (3, 1, 4)):
        found = [*scorer((row, grey[row]) for row in order)]
        estimates = [expected.estimate[row] for row in order]
        np.testing.assert_array_equal([row[1] for row in found], estimates)
    words = refusal(lambda: [*scorer([(0, 2 * grey[0])])])
    assert words.startswith("row id 0: `x` must be in [0, 1]")


def warned(function, *arguments, **options):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments, **options)
    return [str(warning.message) for warning in caught]


def test_grey_pixels_are_told_once_wherever_the_model_is(folder, x):
    grey = 0.25 + 0.5 * x
    arguments = {"num_samples": 2, "batch_size": 4}

    def here(x):
        score_here = endpoints.InProcessScorer.__wrapped__(folder)
        client.check_images(x, score_here, 4)

    def by_rows(x):
        scorer = shards.RowScorer(folder, num_samples=2, seed=(0, 0))
        shards._load.cache_clear()
        assert len([*scorer(enumerate(x))]) == len(x)

    def by_rest(x):
        score(x, endpoint=server.endpoint, **arguments)

    with LoopbackServer(folder) as server:
        for way in (here, by_rows, by_rest):
            (message,) = warned(way, grey)
            assert message.startswith(GREY)
            assert not warned(way, x)


def test_grpc_tells_of_grey_pixels(grpc_server, x):
    endpoint = f"grpc://127.0.0.1:{grpc_server.port}/v1/models/digits"
    (message,) = warned(score, 0.5 * x, endpoint=endpoint, num_samples=2)
    assert message.startswith(GREY)


@pytest.mark.parametrize(
    ("likelihood", "messages"),
    [
        ("normal", {0.3: None}),  # and of an export that does not say which it has
        (
            "discretized_logistic",
            {51 / 255: None, 51.4 / 255: "`x` has values between the 256 levels"},
        ),
    ],
)
def test_of_which_likelihoods_grey_pixels_are_told(likelihood, messages, tmp_path):
    model = build(event=EVENT, likelihood=likelihood)
    iwae_tf.export_saved_model(model, tmp_path, 2, refined=False)
    for value, message in messages.items():
        x = np.full([2, *EVENT], value, "float32")
        found = warned(score, x, saved_model=tmp_path, num_samples=2)
        told = [text[: len(message or "")] for text in found]
        assert told == [message] * bool(message)


# A server that lies ----------------------------------------------------------------

ONES = dict.fromkeys(score_files.COLUMNS[1:], [1, 1.0])


def lie(monkeypatch, server, write):
    """Has `write` answer each request for scores on the socket's file."""

    def do_POST(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        with contextlib.suppress(OSError):  # the client has gone
            write(handler.wfile)
        handler.close_connection = True

    monkeypatch.setattr(server._server.RequestHandlerClass, "do_POST", do_POST,
                        raising=False)  # fmt: skip


def http(body, status=b"200 OK", *headers):
    return b"\r\n".join([b"HTTP/1.0 " + status, *headers, b"", body])


def drip(wfile, start, byte):
    """A byte now and then, up to an end that nobody should wait for."""
    wfile.write(start)
    for _ in range(60):
        time.sleep(0.1)
        wfile.write(byte)


@pytest.mark.parametrize("name", ["log_likelihood", "jackknife_error"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "` is not a list of numbers"),
        (True, "` is not a list of numbers"),
        ("1.0", "` is not a list of numbers"),
        ([1.0], "` is not a list of numbers"),
        (float("nan"), "` of row 1 of these is nan"),
        (float("inf"), "` of row 1 of these is inf"),
        (float("-inf"), "` of row 1 of these is -inf, as of values far"),
        (1e300, "` of row 1 of these is inf"),
        (10**400, "OverflowError"),
        ("5000 digits", "ValueError: Exceeds the limit"),
        (..., "` is not 2 numbers, one for each image"),
    ],
)
def test_what_is_no_number_is_no_score(
    folder, x, tmp_path, monkeypatch, name, value, message
):
    outputs = ONES | {name: [1.0] if value is ... else [1.0, value]}
    body = json.dumps({"outputs": outputs}).replace('"5000 digits"', "9" * 5000)
    with shared(folder) as server:
        lie(monkeypatch, server, lambda wfile: wfile.write(http(body.encode())))
        with pytest.raises(ConnectionError) as caught:
            ask(server, x[:2], retries=1, output=tmp_path / "s.csv")
    assert message in str(caught.value) and "2 attempts" in str(caught.value)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("name", "value", "draws", "message"),
    [
        ("standard_error", -0.5, 2, "`standard_error` of row 1 of these is -0.5"),
        ("standard_error", np.nan, 2, "`standard_error` of row 1 of these is nan"),
        ("standard_error", np.inf, 1, "`standard_error` of row 1 of these is inf"),
        ("effective_sample_size", np.nan, 1, "of row 1 of these is nan"),
        ("standard_error", np.nan, 1, None),
        ("standard_error", 0, 2, None),
        ("log_likelihood", -7, 2, None),
    ],
)
def test_what_a_score_may_be(name, value, draws, message):
    for kind in (list, np.float32):
        outputs = {n: kind([1.0, 1.0]) for n in ONES} | {name: kind([1.0, value])}
        if message:
            with pytest.raises(ValueError, match=message):
                answers.checked_scores(outputs, 2, draws)
        else:
            found = answers.checked_scores(outputs, 2, draws)
            place = score_files.COLUMNS.index(name) - 1
            np.testing.assert_array_equal(found[place], np.float32([1.0, value]))
            assert all(part.dtype == np.float32 for part in found)


@pytest.mark.parametrize("kind", [np.int32, np.bool_, np.str_, object])
def test_a_tensor_of_another_type_is_no_score(kind):
    outputs = {name: np.ones(2, np.float32) for name in ONES}
    with pytest.raises(ValueError, match="`standard_error` is not 2 numbers"):
        outputs["standard_error"] = np.ones(2).astype(kind)
        answers.checked_scores(outputs, 2, 2)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: f.write(http(b"[" * 100_000)), "RecursionError"),
        (lambda f: f.write(http(b"null")), "TypeError"),
        (lambda f: f.write(http(gzip.compress(b" " * 2**26))), "UnicodeDecodeError"),
        (lambda f: f.write(http(b" " * 2**25)), "more than 16,777,"),
        (lambda f: f.write(http(b"x" * 10**6, b"503 " + b"no" * 9000)), "HTTP 503, no"),
        (lambda f: f.write(http(json.dumps({"error": "no" * 9000}).encode(), b"503 X")),
         "HTTP 503, no"),
        (lambda f: drip(f, http(b""), b" "), "no whole answer within 0.5 s"),
        (lambda f: drip(f, b"HTTP/1.0 200 OK\r\nX: ", b"x"), "no whole answer within"),
        (lambda f: drip(f, http(b"", b"503 X"), b" "), "no whole answer within 0.5 s"),
    ],
)  # fmt: skip
def test_an_answer_is_bounded_and_told_in_one_line(
    folder, x, monkeypatch, write, message
):
    with shared(folder) as server:
        lie(monkeypatch, server, write)
        start = time.monotonic()
        timeout = 0.5 if "within" in message else 30
        with pytest.raises(ConnectionError) as caught:
            ask(server, x[:2], timeout=timeout, retries=0)
        assert time.monotonic() - start < timeout + 2
    text = str(caught.value)
    assert message in text and len(text) < 500 and "\n" not in text


def test_a_refusal_of_any_length_is_one_line(folder, x, monkeypatch):
    with shared(folder) as server:
        body = json.dumps({"error": "no\n" * 9000}).encode()
        lie(monkeypatch, server, lambda f: f.write(http(body, b"400 Bad")))
        with pytest.raises(
            InvalidInputError, match="refused: HTTP 400, no no"
        ) as found:
            ask(server, x[:2], retries=0)
    assert len(str(found.value)) < 500


def test_this_process_is_believed_no_more_than_a_server(folder, x, monkeypatch):
    row_scorer = shards.RowScorer(folder, num_samples=DRAWS, seed=(3, 4))
    scorer = row_scorer.load()
    outputs = {name: tf.constant([np.nan]) for name in ONES}
    monkeypatch.setattr(scorer, "_score", lambda **inputs: outputs)
    with pytest.raises(InvalidInputError, match="row id 7: .*`log_likelihood` is nan"):
        list(row_scorer([(7, x[0])]))


# Files -----------------------------------------------------------------------------


def lines(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_file_holds_each_row_once(folder, x, expected, tmp_path):
    output = tmp_path / "scores.csv"
    score(x, saved_model=folder, num_samples=DRAWS, seed=(3, 4), batch_size=4,
          output=output)  # fmt: skip
    rows = lines(output)
    assert [int(row["row"]) for row in rows] == list(range(len(x)))
    for column, values in zip(score_files.COLUMNS[1:], expected):
        found = np.array([row[column] for row in rows], np.float32)
        np.testing.assert_array_equal(found, values)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_more_columns_of_a_file_are_those_of_the_rows(folder, x, tmp_path):
    """Also of a job that goes on; names may hold what a CSV file is made of."""
    names = [f'a "{row}",b\n\udcff.png' for row in range(len(x))]
    columns = {"file": names, "split": ["train"] * len(x), 'town,\n"street"': names}
    whole, output = tmp_path / "whole.csv", tmp_path / "scores.csv"
    settings = {"num_samples": DRAWS, "seed": (3, 4), "batch_size": 4}
    score(x, saved_model=folder, output=whole, columns=columns, **settings)
    assert [row["file"] for row in lines(whole)] == [
        f'a "{row}",b \\udcff.png' for row in range(len(x))
    ]
    expected = [*score_files.COLUMNS, "file", "split", 'town, "street"']
    assert [*lines(whole)[0]] == expected

    def stop(batch):
        raise KeyboardInterrupt

    arguments = {"saved_model": folder, "output": output, **settings}
    with pytest.raises(KeyboardInterrupt):
        score(x, columns=columns, on_batch=stop, **arguments)
    with pytest.raises(InvalidInputError, match="whose columns is .'file', 'split'"):
        score(x, **arguments)
    score(x, columns=columns, **arguments)
    assert output.read_bytes() == whole.read_bytes()


def test_a_job_that_was_cut_off_goes_on(folder, x, tmp_path):
    whole, output = tmp_path / "whole.csv", tmp_path / "scores.csv"
    with shared(folder) as server:
        ask(server, x, output=whole)
        server.fault = lambda n: None if n < 6 + 3 else 503
        with pytest.raises(ConnectionError):
            ask(server, x, output=output, retries=1)
        assert not output.exists()
        server.fault, asked, batches = lambda n: None, server.num_predictions, []
        result = ask(server, x, output=output, on_batch=batches.append)
        assert server.num_predictions - asked == 3  # of six
    assert [len(batch.estimate) for batch in batches] == [12, 4, 4, 3]
    assert output.read_bytes() == whole.read_bytes()
    np.testing.assert_array_equal(
        result.estimate, np.concatenate([batch.estimate for batch in batches])
    )


def test_any_beginning_of_a_file_is_gone_on_with(folder, x, tmp_path):
    whole, output = tmp_path / "whole.csv", tmp_path / "scores.csv"
    partial, texts = tmp_path / "scores.csv.partial", []
    with shared(folder) as server:
        with pytest.raises(ZeroDivisionError):  # leaves a file of one batch
            ask(server, x, output=output, on_batch=lambda result: 1 / 0)
        partial.unlink()
        ask(server, x, output=whole)
        ask(server, x, output=output, on_batch=lambda result: texts.append(
            partial.read_bytes()))  # fmt: skip
        output.unlink()
        first, head, rest = texts[-1].split(b"\n", 2)
        for share in (0.0, 0.2, 0.5, 0.77, 0.999, 1.0, "damaged"):
            if share == "damaged":  # a digit of the second row of the first batch
                place = rest.index(b"\n") + 5
                end = rest[:place] + bytes([rest[place] ^ 1]) + rest[place + 1 :]
            else:
                end = rest[: int(share * len(rest))]
            partial.write_bytes(b"\n".join([first, head, end]))
            ask(server, x, output=output)
            assert output.read_bytes() == whole.read_bytes(), share
            assert not partial.exists()
            output.unlink()


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("num_samples", {"num_samples": DRAWS + 1}),
        ("seed", {"seed": (0, 1)}),
        ("batch_size", {"batch_size": 5}),
        ("images", {"x": None}),
        ("model", {"saved_model": None}),
    ],
)
def test_another_jobs_beginning_is_refused(folder, other, x, tmp_path, key, change):
    output = tmp_path / "scores.csv"
    arguments = {"x": x, "saved_model": folder, "num_samples": DRAWS, "batch_size": 4}
    with pytest.raises(ZeroDivisionError):
        score(**arguments, output=output, on_batch=lambda result: 1 / 0)
    before = (tmp_path / "scores.csv.partial").read_bytes()
    if key == "images":
        change = {"x": 1.0 - x}
    if key == "model":
        change = {"saved_model": other}
    with pytest.raises(InvalidInputError, match=f"whose {key} is"):
        score(**arguments | change, output=output)
    assert (tmp_path / "scores.csv.partial").read_bytes() == before


def test_what_is_not_ours_is_left_alone(folder, x, tmp_path):
    output, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    for text in ("", "# [1]\n", "notes\n", "\xff\n"):
        partial.write_text(text, encoding="latin-1")
        with pytest.raises(InvalidInputError, match="which is something else"):
            score(x, saved_model=folder, num_samples=DRAWS, output=output)
        assert partial.read_text(encoding="latin-1") == text
    output.write_text("mine")
    with pytest.raises(InvalidInputError, match="`output` must be a new file"):
        score(x, saved_model=folder, num_samples=DRAWS, output=output)
    assert output.read_text() == "mine"


def test_two_processes_on_one_file_are_noticed(folder, x, tmp_path):
    output = tmp_path / "scores.csv"

    def meddle(result):
        with open(tmp_path / "scores.csv.partial", "ab") as file:
            file.write(b"4,-1,0,1\n")

    with pytest.raises(InvalidInputError, match="one process at a time"):
        score(x, saved_model=folder, num_samples=DRAWS, batch_size=4, output=output,
              on_batch=meddle)  # fmt: skip
    assert not output.exists()


def test_one_draw_has_no_error_and_the_file_says_so(folder, x, tmp_path):
    output = tmp_path / "scores.csv"
    score(x[:2], saved_model=folder, num_samples=1, output=output)
    assert [row["standard_error"] for row in lines(output)] == ["nan", "nan"]
    with shared(folder) as server:
        assert np.isnan(ask(server, x[:2], num_samples=1).standard_error).all()


# What is refused at the edge -------------------------------------------------------


def spoiled(x, value):
    x = x.copy()
    x[5, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: spoiled(x, np.nan), "`x` must be finite.* NaN or infinity in row 5"),
        (lambda x: spoiled(x, -np.inf), "NaN or infinity in row 5"),
        (lambda x: np.where(x > 0, 1e300, 0.0), "NaN or infinity in row"),
        (lambda x: x[..., 0], r"event \(3, 2, 1\).*shape=\(23, 3, 2\)"),
        (lambda x: x[0], "shape"),
        (lambda x: x[:0], "at least one row"),
        (lambda x: np.float32(0.5), r"shape=\(\)"),
        (lambda x: (255 * x).astype("uint8"), "dtype=uint8"),
        (lambda x: x.astype(str), "dtype=<U"),
        (lambda x: 2 * x, r"rows 0 to 3: .*x: must be in \[0, 1\]"),
        (lambda x: spoiled(x, -0.1), r"rows 4 to 7: .*x: must be in \[0, 1\]"),
    ],
)
def test_bad_images_are_refused_here_and_by_the_server(folder, x, change, message):
    with pytest.raises(InvalidInputError, match=message):
        score(change(x), saved_model=folder, num_samples=DRAWS, batch_size=4)
    with shared(folder) as server:
        with pytest.raises(InvalidInputError, match=message):
            ask(server, change(x))
        assert server.num_predictions <= 2  # none is tried again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be a positive integer"),
        ({"batch_size": -1}, "`batch_size` must be a positive integer"),
        ({"concurrency": 0}, "`concurrency` must be a positive integer"),
        ({"seed": (1,)}, "`seed` must be a pair"),
        ({"timeout": 0}, "`timeout` must be a positive number"),
        ({"timeout": float("nan")}, "`timeout` must be a positive number"),
        ({"retries": -1}, "`retries` must be an integer >= 0"),
        ({"endpoint": "http://h/v1/models/m"}, "one of `saved_model` and `endpoint`"),
        ({"saved_model": None}, "one of `saved_model` and `endpoint`"),
        ({"saved_model": "missing"}, "`saved_model` must be a folder"),
        ({"labels": [0] * 23}, "`labels` must be left out"),
    ],
)
def test_bad_arguments_are_refused(folder, x, tmp_path, arguments, message):
    arguments = {"saved_model": folder, "output": tmp_path / "s.csv"} | arguments
    with pytest.raises(InvalidInputError, match=message):
        score(x, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:8501", "ftp://h/v1/models/m", "http://h/v1/models/", "http://h/v2/m",
     "http://h/v1/models/m:predict", "http://h/v1/models/m/versions/x", "http:///v1/m",
     "http://[::1:8501/v1/models/m", "http://h:port/v1/models/m",
     "http://:8501/v1/models/m", "grpc://h:70000/v1/models/m", "grpc://h/v2/models/m",
     "http://h/v3/models/m"],
)  # fmt: skip
def test_bad_endpoints_are_refused(x, endpoint):
    with pytest.raises(InvalidInputError, match="`endpoint` must be http://HOST"):
        score(x, endpoint=endpoint)


def test_an_endpoint_may_be_an_ipv6_address(monkeypatch):
    for name in ("RestScorer", "GrpcScorer"):
        monkeypatch.setattr(endpoints, name, lambda *args, **kwargs: args)
    path = "v1/models/m"
    found = endpoints.open_scorer(endpoint=f"http://[::1]:8501/{path}")
    assert found == (f"http://[::1]:8501/{path}", None)
    found = endpoints.open_scorer(endpoint=f"grpc://[::1]:8500/{path}/versions/2")
    assert found == ("[::1]:8500", "m", 2)


def test_what_the_server_has_not_is_said(folder, x, tmp_path):
    with shared(folder) as server:
        for protocol, end in [
            ("v1", "s"),
            ("v1", "/versions/9"),
            ("v2", "/versions/9"),
        ]:
            url = server.endpoint.replace("v1", protocol) + end
            with pytest.raises(InvalidInputError, match="HTTP 404, Servable not found"):
                score(x, endpoint=url)
    save_function(tmp_path / "1", lambda x: {"y": x})
    with (
        LoopbackServer(tmp_path) as server,
        pytest.raises(InvalidInputError, match="must serve an export of this package"),
    ):
        score(x, endpoint=server.endpoint)


@pytest.mark.parametrize(
    ("signature", "proposal"),
    [("encode", "encoder"), ("error_bars", "refined"),
     ("refined_log_likelihood", "encoder")],
)  # fmt: skip
def test_a_model_of_one_function_must_be_the_one_that_is_asked(
    folder, x, signature, proposal
):
    with shared(folder) as server:
        server.signature = signature
        try:
            with pytest.raises(InvalidInputError, match="must serve an export of this"):
                ask(server, x, "v2", proposal=proposal)
        finally:
            server.signature = "error_bars"


# The server of the tests itself ----------------------------------------------------


def post(server, suffix, request):
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(server.endpoint + suffix, body) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_loopback_server_speaks_the_protocol(folder, x):
    with shared(folder) as server:
        with urllib.request.urlopen(server.endpoint) as answer:
            (status,) = json.loads(answer.read())["model_version_status"]
        assert (status["version"], status["state"]) == ("1", "AVAILABLE")
        rows = x[:3].tolist()
        _, by_row = post(server, ":predict", {"instances": rows})
        _, by_name = post(server, ":predict", {"instances": [{"x": r} for r in rows]})
        _, by_column = post(server, "/versions/1:predict", {"inputs": rows})
        assert by_row == by_name
        found = [row["log_likelihood"] for row in by_row["predictions"]]
        assert found == by_column["outputs"]["log_likelihood"]
        one = {"signature_name": "decode", "inputs": {"z": [[0.0] * 4]}}
        assert np.shape(post(server, ":predict", one)[1]["outputs"]) == (1, *EVENT)
        for bad in (
            b"{",
            b"[]",
            {"inputs": {"y": rows}},
            {"inputs": {"x": [["a"]]}},
            {"inputs": {"x": [1.0]}},
            {"signature_name": "none", "inputs": rows},
        ):
            status, answer = post(server, ":predict", bad)
            assert status == 400 and answer["error"]


# gRPC ------------------------------------------------------------------------------


@contextlib.contextmanager
def serving_grpc(folder):
    """TensorFlow Serving's prediction service over the SavedModel."""
    grpc = pytest.importorskip("grpc")
    apis = pytest.importorskip("tensorflow_serving.apis")
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc as service

    assert apis
    signatures = tf.saved_model.load(str(folder / "1")).signatures

    class Service(service.PredictionServiceServicer):
        requests, fault = [], staticmethod(lambda number: None)
        lies = None

        def Predict(self, request, context):
            self.requests.append(request)
            code = self.fault(len(self.requests) - 1)
            if code:
                context.abort(grpc.StatusCode[code], "as asked for")
            assert request.model_spec.version.value == 1
            inputs = {n: tf.make_ndarray(v) for n, v in request.inputs.items()}
            try:
                outputs = signatures[request.model_spec.signature_name](
                    **{name: tf.constant(value) for name, value in inputs.items()}
                )
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            outputs = dict(outputs) | (self.lies or {})
            answer = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return answer

        def GetModelMetadata(self, request, context):
            if request.model_spec.name != "digits":
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
            saved = saved_model_pb2.SavedModel()
            saved.ParseFromString((folder / "1" / "saved_model.pb").read_bytes())
            described = metadata_pb2.SignatureDefMap()
            for name, value in saved.meta_graphs[0].signature_def.items():
                described.signature_def[name].CopyFrom(value)
            answer = metadata_pb2.GetModelMetadataResponse()
            answer.model_spec.name = "digits"
            answer.model_spec.version.value = 1
            answer.metadata["signature_def"].Pack(described)
            return answer

    servicer = Service()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    service.add_PredictionServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None)


@pytest.fixture
def grpc_server(folder):
    with serving_grpc(folder) as servicer:
        yield servicer


def test_grpc_says_what_the_process_says(grpc_server, x, expected):
    endpoint = f"grpc://127.0.0.1:{grpc_server.port}/v1/models/digits"
    arguments = {"num_samples": DRAWS, "seed": (3, 4), "batch_size": 4}
    grpc_server.fault = lambda n: "UNAVAILABLE" if n == 1 else None
    assert_same(score(x, endpoint=endpoint, **arguments), expected)
    assert len(grpc_server.requests) == 7
    with pytest.raises(InvalidInputError, match=r"x: must be in \[0, 1\]"):
        score(2 * x, endpoint=endpoint, **arguments)
    with pytest.raises(InvalidInputError, match="NOT_FOUND, Servable not found"):
        score(x, endpoint=f"{endpoint}s", **arguments)
    for value, message in (
        (tf.constant([np.nan] * 4), "`standard_error` of row 0 of these is nan"),
        (tf.constant([True] * 4), "`standard_error` is not 4 numbers"),
        (tf.zeros([3]), r"shapes .*\[3\].* for 4 images"),
        (tf.zeros([answers.MAX_ANSWER // 4]), "RESOURCE_EXHAUSTED"),
    ):
        grpc_server.lies = {"standard_error": value}
        with pytest.raises(ConnectionError, match=message):
            score(x[:4], endpoint=endpoint, retries=0, **arguments)


def test_rows_with_holes_are_served_as_they_are_scored_here(x, tmp_path):
    """NaN is a missing value on its way through JSON and through protobuf."""
    nets = MLP([6], (8,), seed=1), MLP([6], EVENT, seed=2)
    model = iwae_tf.IWAE(*nets, missing="marginalize")
    model.build((None, *EVENT))
    folder = tmp_path / "digits"
    iwae_tf.export_saved_model(model, folder, DRAWS, refined=False)
    holed = np.where(np.random.default_rng(1).uniform(size=x.shape) < 0.4, np.nan, x)
    arguments = {"num_samples": DRAWS, "seed": (3, 4), "batch_size": 12}
    here = score(holed, saved_model=folder, **arguments)
    whole = score(x, saved_model=folder, **arguments)
    has_holes = np.isnan(holed).any(axis=(1, 2, 3))  # fewer pixels are more probable
    assert ((here.estimate > whole.estimate) == has_holes).all() and has_holes.any()
    with LoopbackServer(folder) as server:
        assert_same(score(holed, endpoint=server.endpoint, **arguments), here)
    with serving_grpc(folder) as servicer:
        endpoint = f"grpc://127.0.0.1:{servicer.port}/v1/models/digits"
        assert_same(score(holed, endpoint=endpoint, **arguments), here)


# The script ------------------------------------------------------------------------


def test_the_script_scores_and_goes_on(folder, x, expected, tmp_path, capsys):
    np.save(tmp_path / "images.npy", x)
    flags = [f"--input={tmp_path / 'images.npy'}", f"--num_samples={DRAWS}",
             "--seed=3,4", "--batch_size=4"]  # fmt: skip
    output = tmp_path / "deep" / "scores.csv"
    with shared(folder, fault=lambda n: 503 if n > 2 else None) as server:
        remote = [*flags, f"--endpoint={server.endpoint}", f"--output={output}"]
        assert run_script("score", *remote, "--retries=0") == 2
        assert "error: http://127.0.0.1" in capsys.readouterr().err
        server.fault = lambda number: None
        assert run_script("score", *remote) == 0
        assert server.num_predictions == 7
    assert f"{expected.estimate.mean():.2f} nats" in capsys.readouterr().out
    local = [*flags, f"--saved_model={folder}", f"--output={tmp_path / 'local.csv'}"]
    assert run_script("score", *local) == 0
    for row, value in zip(lines(output), lines(tmp_path / "local.csv"), strict=True):
        assert row["row"] == value["row"]
        assert float(row["log_likelihood"]) == pytest.approx(
            float(value["log_likelihood"]), abs=1e-4
        )
    assert run_script("score", *local) == 2
    assert "`output` must be a new file" in capsys.readouterr().err


def test_the_script_says_what_the_scores_are_worth(folder, x, tmp_path, capsys):
    parts = {"x_train": x[:-4], "x_validation": x[-4:-2], "x_test": x[-2:]}
    np.savez(tmp_path / "data.npz", **parts)
    output = tmp_path / "scores.csv"
    config = iwae_tf.default_config()
    config.dataset, config.data_dir = "npz", str(tmp_path / "data.npz")
    folder = shutil.copytree(folder, tmp_path / "beside" / "digits")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    flags = (f"--input={tmp_path / 'data.npz'}", f"--saved_model={folder}")
    flags += (f"--output={output}", "--num_samples=12")
    assert run_script("score", *flags) == 0
    told, rows = capsys.readouterr().out, lines(output)
    splits = [row["split"] for row in rows]
    assert splits == ["train"] * (len(x) - 4) + 2 * ["validation"] + 2 * ["test"]
    assert f"note: {len(x) - 4} rows are in the training split" in told
    few = sum(float(row["effective_sample_size"]) < 10 for row in rows)
    assert few > 0 and f"note: {few} of {len(x)} rows have an effective" in told


@pytest.fixture
def interruptible():
    """SIGINT as it is where nobody has changed it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_ends_it_and_nothing_is_lost(folder, x, tmp_path, capsys, interruptible):
    np.save(tmp_path / "images.npy", x)
    output = tmp_path / "scores.csv"
    flags = [f"--input={tmp_path / 'images.npy'}", f"--num_samples={DRAWS}",
             "--batch_size=4", f"--output={output}"]  # fmt: skip

    def fault(number):
        if number == 3:  # a second in which the main thread waits for an answer
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
            return 1.0
        return None

    with shared(folder, fault=fault) as server:
        assert run_script("score", *flags, f"--endpoint={server.endpoint}") == 130
        assert "run again with the same flags" in capsys.readouterr().err
        assert not output.exists()
        time.sleep(1.0)  # for the answer that nobody waits for
        server.num_predictions, server.fault = 0, lambda number: None
        assert run_script("score", *flags, f"--endpoint={server.endpoint}") == 0
        assert server.num_predictions == 3
    assert len(lines(output)) == len(x)


def test_a_file_that_is_no_array_of_images_is_told(folder, tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.float32(0.5))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    flags = f"--saved_model={folder}", f"--output={tmp_path / 'scores.csv'}"
    for name, message in (
        ("bad", "`input` must be a readable .npy file"),
        ("one", "one number, not an array"),
    ):
        code = run_script("score", *flags, f"--input={tmp_path / name}.npy")
        assert_one_line(code, capsys, message)


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    file = score_files.ScoreFile(tmp_path / "s.csv", {"num_rows": 2, "batch_size": 1})
    file.append(0, [np.zeros(1)] * len(FIELDS))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for write, name in (
        (lambda: file.append(1, [np.zeros(1)] * len(FIELDS)), "s.csv.partial"),
        (lambda: files.write_text(tmp_path / "a.json", "{}"), "a.json"),
    ):
        with pytest.raises(OSError, match="No space left on device: ") as caught:
            write()
        assert caught.value.filename == str(tmp_path / name)
