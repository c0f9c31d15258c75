"""The scripts, run in this process or in one of their own, and what they leave."""

import contextlib
import csv
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

from iwae_tf.errors import InvalidInputError
from torture.scripts import (  # noqa: F401, for the tests
    TINY,
    images,
    import_script,
    run_script,
    write_tiny,
)

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "evaluate", "export", "sweep", "diagnose", "score", "score_beam")
SCRIPTS += ("reproduce", "explore")


class Exploit:
    """Fails the test that unpickles it, also within `except Exception`."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def run_explorer(*arguments):
    """Runs the explorer in this process until it has answered, then stops it.

    Returns:
      (exit code, port, what the page is told of the model or None).
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found, is_over = [], threading.Event()

    def visit():
        url, kind = (
            f"http://localhost:{port}/about",
            {"Content-Type": "application/json"},
        )
        request = urllib.request.Request(url, b"{}", kind)
        while not (found or is_over.wait(0.1)):
            with contextlib.suppress(urllib.error.URLError):
                found.append(json.load(urllib.request.urlopen(request)))
        if found:
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        code = run_script("explore", *arguments, f"--port={port}")
    finally:
        is_over.set()
        visitor.join()
    return code, port, next(iter(found), None)


def changed(config, **values):
    """A copy of a config with other values."""
    config = config.copy_and_resolve_references()
    config.update(values)
    return config


def run_process(*arguments, **kwargs):
    """Runs `python -m` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


def read_json(path):
    """Strict JSON: no NaN and no Infinity in it."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(pathlib.Path(path).read_text(), parse_constant=refuse)


def history(workdir):
    with open(workdir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(workdir):
    return keras.models.load_model(workdir / "model.keras", compile=False).get_weights()


def assert_same_weights(one, other):
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def refusal(function, *args, **kwargs):
    """The one line that a user's mistake gives, which says what was received."""
    with pytest.raises(InvalidInputError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and "Received: " in text, text
    return text


def assert_one_line(code, capsys, *words, expected=2):
    """Exit code 2 and one line on stderr, which has these words."""
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert code == expected, output.err
    assert len(lines) == 1 and lines[0].startswith("error: "), output.err
    for word in words:
        assert word in lines[0]
