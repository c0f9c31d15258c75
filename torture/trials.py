"""The trials: each kills or damages something and returns what was lost, in a row."""

import pathlib
import random
import shutil
import signal
import time
from typing import NamedTuple

import numpy as np

from torture import processes
from torture.job import PLAIN, write_data

FAULTS = ("half", "before", "after", "time")
EPOCHS, FEWER_EPOCHS = 12, 6  # of plain runs and of other kinds
ROUNDING = 5e-3  # of weights after all steps, in another order of summation


class Row(NamedTuple):
    """A line of the table."""

    trial: str
    times: int
    found: str
    good: bool


def tried(name, found, count, wrong):
    """The row of trials of which some went wrong, after a line for each of those."""
    for line in wrong:
        print(f"{name}: {line}", flush=True)
    return [Row(name, count, found, not wrong)]


class Trials:
    """Trials in one folder, with one uninterrupted run to compare with.

    Args:
      folder: empty folder.
      kills: how many times a process is killed.
      seed: int, of the random moments.
      kind: of runs, one of `job.KINDS`.
    """

    def __init__(self, folder, *, kills, seed, kind=PLAIN):
        self._folder, self._kind = pathlib.Path(folder), kind
        self._epochs = EPOCHS if kind == PLAIN else FEWER_EPOCHS
        self._kills = kills
        self._random = random.Random(seed)
        self._data = self._folder / "data.npz"
        write_data(self._data)
        whole = self._folder / "whole"
        codes = processes.finish([self._start(whole)])
        if codes != [0]:
            raise RuntimeError(pathlib.Path(f"{whole}.0.log").read_text())
        self._whole = processes.result(whole)

    def _start(self, workdir, *fault):
        return processes.start(
            workdir, self._data, self._epochs, *fault, kind=self._kind
        )

    def kill(self):
        """SIGKILL at random moments and within writes, until enough were killed."""
        counts, same, runs = dict.fromkeys(FAULTS, 0), 0, 0
        while sum(counts.values()) < self._kills:
            workdir = self._folder / f"killed{runs}"
            runs += 1
            while True:
                is_last = sum(counts.values()) >= self._kills
                fault = "none" if is_last else self._random.choice(FAULTS)
                if self._one_life(workdir, fault) == 0:
                    break
                counts[fault] += 1
            same += processes.is_same(processes.result(workdir), self._whole)
        what = {
            "half": "SIGKILL with half of a checkpoint written",
            "before": "SIGKILL before a file is moved into place",
            "after": "SIGKILL right after a file is moved into place",
            "time": "SIGKILL at a random moment of training",
        }
        found = f"{same} of {runs} runs end bit-identical to the uninterrupted one"
        if self._kind != PLAIN:
            return [Row(f"SIGKILL, {self._kind}", self._kills, found, same == runs)]
        rows = [(what[f], n) for f, n in counts.items() if n]
        return [Row(name, n, found, same == runs) for name, n in rows]

    def _one_life(self, workdir, fault):
        """One sitting of a run; its exit code."""
        if fault != "time":
            number = self._random.randint(1, 8)
            job = self._start(workdir, fault, number)
            return processes.finish([job])[0]
        before = processes.checkpoints(workdir)
        job = self._start(workdir)
        # From the first new checkpoint on: before it there is nothing to lose.
        if processes.wait_for(lambda: processes.checkpoints(workdir) - before, job):
            time.sleep(self._random.uniform(0.0, 0.5))
            job.kill()
        return processes.finish([job])[0]

    def stop(self):
        """SIGTERM in the middle of an epoch, then the same command again."""
        workdir = self._folder / "stopped"
        job = self._start(workdir)
        processes.wait_for(lambda: processes.checkpoints(workdir), job)
        job.send_signal(signal.SIGTERM)
        code = processes.finish([job])[0]
        is_early = not pathlib.Path(f"{workdir}.0.npz").exists()
        again = processes.finish([self._start(workdir)])[0]
        good = (code, again) == (0, 0) and processes.is_same(
            processes.result(workdir), self._whole
        )
        found = "exit code 0, then bit-identical" if is_early else "was over before"
        return [Row("SIGTERM within an epoch", 1, found, good)]

    def damage(self, times):
        """A damaged newest checkpoint, by what it is like: restored or passed over."""
        from iwae_tf.errors import InvalidInputError
        from iwae_tf.runs.checkpoints import CheckpointStore, variables_of
        from torture.damage import DAMAGES, make_model

        rows, model = [], make_model()
        for name, damage in DAMAGES.items():
            folder = self._folder / "damage"
            older, harmless, lost = 0, 0, 0
            for index in range(times):
                shutil.rmtree(folder, ignore_errors=True)
                store, saved = CheckpointStore(folder), {}
                for epoch in (1, 2):
                    for variable in model.trainable_variables:
                        variable.assign(np.full(variable.shape, epoch + 0.1 * index))
                    store.save(epoch, model, {"epoch": epoch})
                    arrays = variables_of(model).items()
                    saved[epoch] = {n: v.numpy() for n, v in arrays}
                damage(store.newest, self._random)
                try:
                    restored = store.restore_latest(model, lambda line: None)
                    ours = {n: v.numpy() for n, v in variables_of(model).items()}
                    good = processes.is_same(ours, saved[restored.epoch])
                    good &= restored.state == {"epoch": restored.epoch}
                    older += good and restored.epoch == 1
                    harmless += good and restored.epoch == 2
                    lost += not good
                except InvalidInputError:
                    lost += 1
            found = f"{older} passed over for the one before, {harmless} harmless"
            rows.append(Row(f"newest checkpoint {name}", times, found, lost == 0))
        return rows

    def workers(self, count, *, kill=False):
        """Several workers against one; or one of them killed and all restarted."""
        workdir = self._folder / f"workers{count}{'_killed' * kill}"
        jobs = processes.start_workers(workdir, self._data, EPOCHS, count)
        if kill:
            processes.wait_for(lambda: len(processes.checkpoints(workdir)) > 1, jobs[0])
            victim = self._random.randrange(count)
            jobs[victim].kill()
            codes = processes.finish(jobs)
            left = [code for index, code in enumerate(codes) if index != victim]
            name, ended = (
                f"worker {victim} of {count} killed",
                all(c == 1 for c in left),
            )
            jobs = processes.start_workers(workdir, self._data, EPOCHS, count)
        else:
            name, ended = f"{count} workers against one process", True
        codes = processes.finish(jobs)
        good = ended and set(codes) == {0}
        if not good:
            return [Row(name, 1, f"exit codes {codes}", False)]
        results = [processes.result(workdir, worker) for worker in range(count)]
        variables = [{**r, "history": None} for r in results]
        for result in variables:
            result.pop("history")
        same = all(processes.is_same(variables[0], other) for other in variables)
        difference = processes.largest_difference(results[0], self._whole)
        found = (
            f"{'equal' if same else 'DIFFERENT'} weights on all, "
            f"{difference:.1e} from one process"
        )
        return [Row(name, 1, found, same and difference < ROUNDING)]
