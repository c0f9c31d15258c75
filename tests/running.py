"""The scripts, run in this process or in one of their own, and what they leave."""

import contextlib
import csv
import importlib
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
from absl import flags

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "evaluate", "export", "sweep", "diagnose", "score", "score_beam")
SCRIPTS += ("reproduce", "explore")
TINY = """
from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "npz"
    config.binarization = "none"
    config.latent_dims = [2]
    config.hidden_dims = [[8]]
    config.num_samples = 3
    config.batch_size = 20
    config.epochs = 2
    config.lr_schedule = "cosine"
    config.learning_rate = 1e-2
    config.jit_compile = False
    config.eval_split = "test"
    config.eval_num_samples = 40
    return config
"""


def images(count, seed):
    """Binary 8x8 images with structure: a bar at one of eight places, and noise."""
    rng = np.random.default_rng(seed)
    grey = np.full([count, 8, 8], 0.1)
    grey[np.arange(count), :, rng.integers(0, 8, count)] = 0.9
    return (rng.uniform(size=grey.shape) < grey).astype("float32")


def write_tiny(folder):
    """The flags of a small run, once its files are in the folder."""
    (folder / "tiny.py").write_text(TINY)
    np.savez(folder / "data.npz", x_train=images(60, 0), x_test=images(20, 1))
    data = f"--config.data_dir={folder / 'data.npz'}"
    return f"--config={folder / 'tiny.py'}", data


def import_script(name, package="iwae_tf"):
    """The module of a script, imported anew: its flags have no value yet."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in (
            list(defined) if module.startswith(("iwae_tf.", "examples.")) else ()
        ):
            delattr(flags.FLAGS, flag.name)
    for flag in [flag for flag in flags.FLAGS if flag.startswith("config")]:
        delattr(flags.FLAGS, flag)
    for module in (f"{package}.{name}", "config_config"):  # that of the last config
        sys.modules.pop(module, None)
    return importlib.import_module(f"{package}.{name}")


def run_script(name, *arguments, package="iwae_tf"):
    """Runs a script in this process, with fresh flags; its exit code."""
    script = import_script(name, package)
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [f"iwae-{name}", *map(str, arguments)]
    try:
        script.run()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("the script did not exit")


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


def assert_one_line(code, capsys, *words, expected=2):
    """Exit code 2 and one line on stderr, which has these words."""
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert code == expected, output.err
    assert len(lines) == 1 and lines[0].startswith("error: "), output.err
    for word in words:
        assert word in lines[0]
