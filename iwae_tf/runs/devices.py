"""One training job on several devices of a machine, or on several machines.

Noise and data order are functions of (seed, step, row of the global batch), so what a
job computes does not depend on how many replicas it has, but to rounding.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import evaluation
from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError, WorkerLostError

KINDS = ("none", "mirrored", "multi_worker")
PRODUCT_SIZE, PRODUCTS = 512, 60  # of `product_gflops`
LOST = (  # what TensorFlow raises where another worker is gone
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)
CLUSTER_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def product_gflops() -> float:
    """GFLOP/s of float32 matrix products here: what a second of this machine is worth.

    The best of some products of 512 x 512 matrices, with the threads that training has:
    0.2 s on a core. One is over before other work on the core can take its turn.
    """
    matrix = tf.ones([PRODUCT_SIZE, PRODUCT_SIZE])
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        tf.matmul(matrix, matrix)[0, 0].numpy()  # which waits for it
        seconds.append(time.perf_counter() - start)
    return 2e-9 * PRODUCT_SIZE**3 / min(seconds)


@dataclasses.dataclass
class Distribution:
    """Where a job runs; see `make_distribution`."""

    strategy: tf.distribute.Strategy
    devices: list[str]  # names of the local ones
    worker: int = 0  # index of this one
    num_workers: int = 1

    @property
    def num_replicas(self) -> int:
        """Parts that a batch is cut into."""
        return self.num_workers * len(self.devices)

    def describe(self) -> str:
        """Where the job runs, in words."""
        if self.num_workers > 1:
            return f"{self.num_workers} workers, {self.num_replicas} devices"
        if len(self.devices) > 1:
            return ", ".join(self.devices)
        if tf.config.list_logical_devices("GPU"):
            return "GPU:0"
        return f"CPU ({os.cpu_count()} cores)"

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that reads and writes the workdir."""
        return self.worker == 0

    def dataset(self, make_batches: Callable[..., tf.data.Dataset]) -> Any:
        """What `fit` takes, of the batches of all replicas; of several without an end.

        Args:
          make_batches: function of the keywords `shards` and `num_shards` to the
            `tf.data.Dataset` of those shards of each batch, one after the other.
        """
        if self.num_replicas == 1:
            return make_batches(shards=range(1), num_shards=1)
        first = self.worker * len(self.devices)
        shards = range(first, first + len(self.devices))

        def without_end(context):  # for which all workers would have to ask each other
            return make_batches(shards=shards, num_shards=self.num_replicas).repeat()

        return self.strategy.distribute_datasets_from_function(without_end)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum of an array, of the same shape on each worker, over the workers."""
        if self.num_workers == 1:
            return np.asarray(array)
        with self.watch():
            return self._sum(tf.constant(array)).numpy()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Within it, what TensorFlow raises where a worker is gone is told as that."""
        try:
            yield
        except LOST as error:
            if self.num_workers == 1:
                raise
            raise WorkerLostError(
                f"a worker was lost ({type(error).__name__}); start all workers again "
                "with the same flags to continue from the last checkpoint"
            ) from error

    @functools.cached_property
    def _sum(self):
        def add_up(value):
            context = tf.distribute.get_replica_context()
            is_first = context.replica_id_in_sync_group % len(self.devices) == 0
            value = tf.where(is_first, value, tf.zeros_like(value))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

        def total(value):
            sums = self.strategy.run(add_up, args=(value,))
            return self.strategy.experimental_local_results(sums)[0]

        return tf.function(total, autograph=False)

    def agree(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each of some flags is set on any worker: a list of bools."""
        return [bool(n) for n in self.sum(np.array(flags, np.int32))]

    def broadcast(self, data: bytes) -> bytes:
        """The chief's bytes, on every worker; other workers pass what they like."""
        if self.num_workers == 1:
            return data
        data = data if self.is_chief else b""
        (length,) = self.sum(np.array([len(data)], np.int64))
        words = np.zeros(length // 4 + 1, np.int32)  # sums of integers are exact
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return self.sum(words).tobytes()[:length]

    def scorer(self, model: keras.Model) -> Callable[..., evaluation.LogLikelihood]:
        """`evaluation.log_likelihood` of a model, the images split over all devices.

        Each image has the noise of its row, so the result is that of one device.

        Args:
          model: trained model outside of any strategy, equal on all workers.

        Returns:
          function of (x, num_samples, seed, *, labels, on_batch, proposal) to the
          LogLikelihood of all of x, on each worker.
        """
        if self.num_replicas == 1:
            return functools.partial(evaluation.log_likelihood, model)
        models = [model]
        for device in self.devices[1:]:
            with tf.device(device):
                models.append(_copy(model))
        return functools.partial(self._score, models)

    def _score(self, models, x, num_samples, seed, *, labels=None, on_batch, **options):
        size = max(1, evaluation.SCORES_PER_CALL // num_samples)
        jit_compile = models[0].jit_compile if models[0].compiled else "auto"

        def score_share(start, parts, local):
            before = (self.worker * len(models) + local) * size
            rows = slice(start + before, start + before + size)
            if rows.start < len(x):
                with tf.device(self.devices[local]):
                    parts[:, before : before + size] = evaluation.log_likelihood(
                        models[local],
                        x[rows],
                        num_samples,
                        seed,
                        labels=None if labels is None else labels[rows],
                        first_row=rows.start,
                        jit_compile=jit_compile,
                        **options,
                    )

        results, at_once = [], self.num_replicas * size
        with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
            for start in range(0, len(x), at_once):
                shape = len(evaluation.LogLikelihood._fields), len(x[start:][:at_once])
                parts = np.zeros(shape, np.float32)
                share = functools.partial(score_share, start, parts)
                list(pool.map(share, range(len(models))))
                results.append(evaluation.LogLikelihood(*self.sum(parts)))
                on_batch(results[-1])
        return evaluation.concatenate(results)


def make_distribution(
    kind: str = "none", num_devices: int | None = None
) -> Distribution:
    """Sets up the devices; before anything else makes TensorFlow look for them.

    Args:
      kind: "none"; "mirrored", the GPUs of this machine, or its CPU as `num_devices`
        logical devices; "multi_worker", the machines that the environment variable
        TF_CONFIG names.
      num_devices: how many devices of this machine to use; None: all GPUs, or one CPU.

    Returns:
      Distribution.

    Raises:
      InvalidInputError: an unknown kind, too few devices, a TF_CONFIG that is missing
        or wrong.
    """
    check_choice(kind, "distribute", KINDS)
    strategy, devices, cluster = tf.distribute.get_strategy(), ["CPU:0"], (0, 1)
    taken = None  # how many devices there are without a choice
    if kind == "multi_worker":
        cluster = read_cluster(os.environ.get("TF_CONFIG"))
        taken = max(1, len(tf.config.list_physical_devices("GPU")))
    is_alone = kind == "mirrored" or (kind == "multi_worker" and cluster[1] == 1)
    if num_devices not in (None, taken) and not is_alone:
        raise InvalidInputError(
            "`num_devices` must be left out unless distribute=mirrored (multi_worker "
            "takes every GPU of a machine, or its CPU). "
            f"Received: num_devices={num_devices}, distribute={kind}"
        )
    if is_alone:
        devices = _devices(num_devices)
        if len(devices) > 1:
            strategy = tf.distribute.MirroredStrategy(devices)
    elif cluster[1] > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        devices = list(strategy.extended.worker_devices)
    return Distribution(strategy, devices, *cluster)


def read_cluster(text: str | None) -> tuple[int, int]:
    """Index of this worker and number of workers, from the text of TF_CONFIG.

    A chief, where there is one, is worker 0.

    Raises:
      InvalidInputError: it is missing, or not what TensorFlow takes.
    """
    if not text:
        raise InvalidInputError(
            f"`TF_CONFIG` must be set for multi_worker, such as {CLUSTER_EXAMPLE}. "
            "Received: none"
        )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs, workers = (cluster.get(kind, []) for kind in ("chief", "worker"))
        index = int(task["index"])
        good = (
            set(cluster) <= {"chief", "worker"}
            and len(chiefs) <= 1
            and all(isinstance(address, str) for address in [*chiefs, *workers])
            and 0 <= index < len(cluster[task["type"]])
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        good = False
    if not good:
        raise InvalidInputError(
            "`TF_CONFIG` must name the workers and which of them this is, such as "
            f"{CLUSTER_EXAMPLE}. Received: TF_CONFIG={text!r}"
        )
    before = 0 if task["type"] == "chief" else len(chiefs)
    return before + index, len(chiefs) + len(workers)


def _copy(model):
    """The same model with variables of its own, on the current device."""
    copy = type(model).from_config(model.get_config())
    copy.build((None, *model.event_shape))
    copy.set_weights(model.get_weights())
    return copy


def _devices(num_devices):
    """Names of that many local devices; logical ones of the CPU where no GPU is."""
    gpus = tf.config.list_physical_devices("GPU")
    wanted = num_devices or max(1, len(gpus))
    if gpus:
        if wanted > len(gpus):
            raise InvalidInputError(
                f"`num_devices` must be at most the machine's {len(gpus)} GPUs. "
                f"Received: num_devices={num_devices}"
            )
        return [f"GPU:{index}" for index in range(wanted)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(wanted)]
    tf.config.set_logical_device_configuration(cpu, logical)
    return [f"CPU:{index}" for index in range(wanted)]
