"""Where the runs of a sweep go: processes of this machine, or a cluster of Ray.

On Ray a run is a task that does what `runner.run_one` does, on a machine with enough
cores and GPUs free. All machines need the package and must see the folder of the runs.
"""

import concurrent.futures
import contextlib
import functools
import logging
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from iwae_tf.checks import needing, readable
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.files import FolderLock
from iwae_tf.studies import runner

MOST_AT_A_TIME = 256  # runs that wait for a machine, a thread each
RETRIES = 3  # of a run whose worker died; it goes on from its last checkpoint
SECONDS_TO_END = 120.0  # for a training whose worker died


@contextlib.contextmanager
def engine(
    engine: str = "processes",
    *,
    processes: int | None = None,
    address: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[dict[str, Any]]:
    """What `runner.run_all` is to be given for runs to be done by an engine.

    Args:
      engine: "processes" of this machine, or "ray".
      processes: how many runs at a time; 1 unless given, on Ray as many as fit.
      address: HOST:PORT of a Ray cluster, or "auto"; this machine unless given.
      cpus: cores of a run on Ray.
      gpus: GPUs of a run on Ray.

    Raises:
      InvalidInputError: Ray is not installed, there is no such cluster, or no machine
        in it is large enough.
    """
    if engine != "ray":
        of_ray = {"address": (address, None), "cpus": (cpus, 1), "gpus": (gpus, 0)}
        for name, (value, default) in of_ray.items():
            if value != default:
                raise InvalidInputError(
                    f"`{name}` must be left out, or --engine=ray given. "
                    f"Received: {name}={value}"
                )
        yield {"num_processes": processes or 1}
        return
    with needing("ray", "ray"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    place, level = address or "local", logging.ERROR
    with readable(place, "`address` must be that of a Ray cluster that answers"):
        ray.init(place, log_to_driver=False, logging_level=level)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(
            m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines
        ):
            raise InvalidInputError(
                "`cpus` and `gpus` must be at most those of one machine of the "
                f"cluster. Received: cpus={cpus}, gpus={gpus}"
            )
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_task)
        do = functools.partial(_do, ray, functools.partial(task.remote, threads=cpus))
        yield {"num_processes": processes or MOST_AT_A_TIME, "do": do}
    finally:
        ray.shutdown()


def _do(ray, submit, run, folder, *, stop, report, **_):
    """`runner.run_one`, by a task."""
    stopped = runner.Outcome(run.name, runner.STOPPED, str(folder / run.name))
    if stop.is_set():
        return stopped
    found = submit(run, folder.absolute())
    report(f"{run.name}: handed to Ray")
    asked = False
    while not ray.wait([found], timeout=runner.POLL_SECONDS)[0]:
        if stop.is_set() and not asked:
            ray.cancel(found)
            asked = True
    try:
        outcome = ray.get(found)
    except ray.exceptions.TaskCancelledError:  # before it began
        outcome = stopped
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
        outcome = stopped._replace(status=runner.FAILED, message=reason)
    report(f"{run.name}: {outcome.status} {outcome.message}".rstrip())
    return outcome


def _task(run: runner.Run, folder: pathlib.Path, *, threads: int) -> runner.Outcome:
    """`runner.run_one` in a worker; `ray.cancel` asks it to stop."""
    if (folder / run.name).is_dir():
        # By the training of a worker that died, which writes a checkpoint and ends.
        FolderLock(folder / run.name, "workdir", SECONDS_TO_END).release()
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            run_one = functools.partial(runner.run_one, stop=stop, threads=threads)
            outcome = pool.submit(run_one, run, folder, report=lambda line: None)
            while not outcome.done():
                time.sleep(runner.POLL_SECONDS)
        except KeyboardInterrupt:
            stop.set()
        return outcome.result()
