"""Scripts that are killed at a random moment, and run again with the same flags."""

import csv
import hashlib
import json
import re
import shutil
import time

import tensorflow as tf

from torture import processes

MEASURED = re.compile("second|time|date|path|workdir")  # keys of what may differ
NOT_COMPARED = ("tensorboard", "checkpoints", "figures", "log.txt", "starts")
LEFTOVER = re.compile(r"\.(.+\.)?[0-9a-f]{32}.*|.*\.(partial|tmp)")

COMMANDS = {
    "evaluate": "--workdir={run} --output={out}/e.json --num_samples=20000",
    "export": "--workdir={run} --output={out}/m",
    "score": "--saved_model={run}/saved_model --input={x} --output={out}/s.csv "
    "--batch_size=1 --num_samples=20000",
    "diagnose": "--workdir={run} --output={out}/d --quick --num_images=4 "
    "--num_samples=50 --parts=proposal,sweep,errors",
    "sweep": "{tiny} --grid=seed=0,1 --folder={out}/s --processes=2",
    "reproduce": "--study=rainforth_grid --cells=miwae_8_8 --budget=smoke "
    "--workdir={out}/r",
}


def _plain(value):
    """JSON without what was measured or where it lies."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not MEASURED.search(k)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _contents(path):
    """What two runs of a command have to agree on in a file, or None."""
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return _plain(list(csv.DictReader(file)))
    if path.name == "model.keras":
        import keras

        weights = keras.models.load_model(path, compile=False).get_weights()
        return [hashlib.sha256(array.tobytes()).hexdigest() for array in weights]
    if path.name == "variables.index":
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        names = reader.get_variable_to_shape_map()
        return {n: str(reader.get_tensor(n)) for n in names if "OBJECT" not in n}
    return None


def _tree(folder):
    """{file: what is in it}, and names of what no command should leave."""
    found, left = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if LEFTOVER.fullmatch(path.name):
            left.append(str(name))
        elif path.is_file() and not {*name.parts} & {*NOT_COMPARED}:
            found[str(name)] = _contents(path)
    return found, left


def _finish(script, flags, out):
    """Runs a command to its end, and returns what it left and how long it took."""
    begin = time.monotonic()
    log = out.with_suffix(".log")
    child = processes.Child(f"iwae_tf.{script}", flags.split(), log)
    (code,) = processes.finish([child])
    if code:
        raise RuntimeError(f"{script}: {code}, {log.read_text()[-600:]}")
    return _tree(out), time.monotonic() - begin


def killed(folder, places, script, kills, random):
    """Kills a script so often: (how many ended the same, [what was wrong])."""

    def start_over(name):
        out = folder / f"{script}_{name}"
        out.mkdir()
        return out, COMMANDS[script].format(out=out, **places)

    out, flags = start_over("whole")
    (expected, _), seconds = _finish(script, flags, out)
    wrong, count = [], 0
    while count < kills:
        out, flags = start_over(count)
        child = processes.Child(f"iwae_tf.{script}", flags.split(), f"{out}.log")
        time.sleep(random.uniform(0.1, 0.9) * seconds)
        if child.poll() is not None:
            shutil.rmtree(out)
            seconds *= 0.8
            continue
        child.kill()
        child.wait()
        count += 1
        end = time.monotonic() + 60  # for trainings, which are told
        while time.monotonic() < end and any(out.rglob(".lock")):
            time.sleep(0.1)
        try:
            (found, left), _ = _finish(script, flags, out)
        except RuntimeError as error:
            wrong.append(str(error))
            continue
        different = [n for n in {*expected, *found} if found.get(n) != expected.get(n)]
        if different or left:
            wrong.append(f"{script}: {different} differ, {left} left")
    return kills - len(wrong), wrong
