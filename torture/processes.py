"""Starts torture's jobs and reads what they leave."""

import json
import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import sys
import time

import numpy as np

from torture.job import PLAIN

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
LIMIT = 900  # seconds that a job may take on a busy machine
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["iwae_tf", "iwae_tf.runs.training"])


class Child:
    """`python -m MODULE ARGUMENTS` in a process that need not import TensorFlow first.

    It is forked from one that has imported it and not used it, and has no memory of
    this one.

    Args:
      module: str.
      arguments: of its command line.
      log: path that its output is appended to.
      **environment: variables of its own.
    """

    def __init__(self, module, arguments, log, **environment):
        settings = (module, [*map(str, arguments)], str(log), environment)
        self._process = FORKSERVER.Process(target=_run, args=settings, daemon=True)
        self._process.start()

    def poll(self):
        """Exit code, or None."""
        return self._process.exitcode

    def wait(self):
        """Exit code, once it has ended."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _run(module, arguments, log, environment):
    """What a child does."""
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # which may have come with this one
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start(workdir, data, epochs, *fault, cluster=None, kind=PLAIN):
    """Starts one job; its output goes to `WORKDIR.WORKER.log`."""
    environment, worker = {"TORTURE_KIND": kind}, 0
    if cluster:
        environment["TF_CONFIG"] = json.dumps(cluster)
        worker = cluster["task"]["index"]
    arguments = (workdir, data, epochs, *fault)
    return Child("torture.job", arguments, f"{workdir}.{worker}.log", **environment)


def clusters(count):
    """What TF_CONFIG holds for each of several workers on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        for index in range(count)
    ]


def start_workers(workdir, data, epochs, count):
    """Starts a job of several workers on loopback."""
    jobs = clusters(count)
    return [start(workdir, data, epochs, cluster=cluster) for cluster in jobs]


def finish(processes):
    """Exit codes; a job that hangs is killed and found out by its code."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and any(p.poll() is None for p in processes):
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            process.kill()
    return [process.wait() for process in processes]


def wait_for(condition, process):
    """Waits until a condition holds or the process has ended; whether it held."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return False


def checkpoints(workdir):
    """Names of the checkpoints in place."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return {path.name for path in folder.glob("*.npz")} if folder.is_dir() else set()


def result(workdir, worker=0):
    """All variables and the history that a job left at its end."""
    with np.load(f"{workdir}.{worker}.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def is_same(ours, theirs):
    """Whether two results are the same bit for bit."""
    return ours.keys() == theirs.keys() and all(
        a.dtype == theirs[name].dtype and a.tobytes() == theirs[name].tobytes()
        for name, a in ours.items()
    )


def largest_difference(ours, theirs):
    """Of the model's variables and of the bounds in the history."""
    variables = max(
        float(np.max(np.abs(ours[name] - theirs[name])))
        for name in ours
        if name.startswith("model:")
    )
    bounds = max(
        abs(one["bound"] - other["bound"])
        for one, other in zip(*(json.loads(str(r["history"])) for r in (ours, theirs)))
    )
    return max(variables, bounds)
