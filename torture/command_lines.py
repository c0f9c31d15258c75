"""Bad command lines of every script: each ends with 2 and one line, none writes.

A script has a command that works and, for each of its flags, a kind of bad values;
every config key has bad values of its own. Two hundred and more come of it.
"""

import os
import shutil
import subprocess
import sys

import numpy as np

from iwae_tf.config.keys import KEYS
from torture.scripts import images, is_one_line, run_captured, write_tiny

LIMIT = 60  # seconds after which a command hangs
SEPARATE = 12  # commands that are run as processes of their own

NUMBER = ("0", "-1", "2147483648", "9" * 30, "1.5", "many", "", "nan", "1_000x")
PAIR = ("1", "1,2,3", "a,b", "99999999999,0", "", "1;2", "0.5,1")
CHOICE = ("nonsense", "", "None")
NEW = ("", "{file}/x", "/proc/x", "/dev/null/x", "{file}")
OLD = ("", "nowhere", "{here}/no/where", "/dev/null/x", "\0")
RUN = (*OLD, "{here}", "{file}", "{begun}")
EXPORT = (*OLD, "{here}", "{file}", "{run}")
ROWS = (*OLD, "{file}", "{empty}", "{objects}", "{wide}", "{high}", "{holes}")
LABELS = ("", "nowhere", "{file}", "{labels}")
ENDPOINT = (
    "",
    "host",
    "ftp://h/v1/models/m",
    "http://h/v2/m",
    "http://h:x/v1/models/m",
)
SECONDS = ("0", "-1", "nan", "inf", "1e300", "soon", "")
GRID = ("", "seed", "seed=", "seed=1,1", "nokey=1", "model=vae,vaeX", "seed=many,1")
GRID += (
    "num_samples=1,0",
    "num_groups=1,2",
    "data_dir=nowhere,elsewhere",
    "=1",
    "a=b=c",
)
GRID += ("latent_dims=[2],[0]", "latent_dims=[2],[2,2]", "start_from=nowhere,x")
GRID += ("learning_rate=1,-1", "hidden_dims=[[8]],[8]", "epochs=1,-1", "beta=0.5,2.0")
CONFIG = ("", "nonsense", "nowhere.py", "{file}", "{list}", "{nothing}", "{stops}")

COMMANDS = {  # script: (one that works, {flag: bad values})
    "train": (
        "{tiny} --workdir={here}/new",
        {
            "workdir": NEW,
            "config": CONFIG,
            "distribute": CHOICE,
            "num_devices": NUMBER,
        },
    ),
    "evaluate": (
        "--workdir={run} --output={here}/new.json",
        {
            "workdir": RUN,
            "split": CHOICE,
            "num_samples": NUMBER,
            "proposal": CHOICE,
            "limit": NUMBER,
            "output": (*NEW[:4], "{here}"),
            "dataset": CHOICE,
            "data_dir": OLD,
            "binarization": CHOICE,
            "distribute": CHOICE,
            "num_devices": NUMBER,
        },
    ),
    "export": (
        "--workdir={run} --output={here}/new",
        {"workdir": RUN, "output": NEW},
    ),
    "sweep": (
        "{tiny} --grid=seed=0,1 --folder={here}/new",
        {
            "grid": GRID,
            "folder": NEW,
            "processes": NUMBER,
            "task": ("2", "-1", "many", "", "1.5"),
            "engine": CHOICE,
            "trials": ("2", *NUMBER),
            "range": ("seed=0,1", "nokey=1,2", "", "seed"),
        },
    ),
    "diagnose": (
        "--saved_model={run}/saved_model --quick --parts=proposal --output={here}/new",
        {
            "saved_model": EXPORT,
            "output": NEW,
            "parts": CHOICE,
            "split": CHOICE,
            "num_images": NUMBER,
            "num_samples": NUMBER,
            "dataset": CHOICE,
            "data_dir": OLD,
        },
    ),
    "score": (
        "--saved_model={run}/saved_model --input={x} --output={here}/new.csv",
        {
            "saved_model": EXPORT,
            "input": ROWS,
            "output": (*NEW[:4], "{here}"),
            "labels": LABELS,
            "num_samples": NUMBER,
            "seed": PAIR,
            "proposal": CHOICE,
            "batch_size": NUMBER,
            "concurrency": NUMBER,
            "timeout": SECONDS,
            "retries": NUMBER[1:],
            "color": CHOICE,
            "endpoint": ENDPOINT,
            "imputed": NEW[1:4],
        },
    ),
    "score_beam": (
        "--saved_model={run}/saved_model --input={x} --output={here}/new.csv",
        {
            "saved_model": EXPORT,
            "input": ("", "nowhere*.npy", "{file}", "{high}", "{wide}"),
            "output": ("", "{file}/x.csv", "/proc/x.csv", "{here}/new.txt"),
            "num_samples": NUMBER,
            "seed": PAIR,
            "proposal": CHOICE,
            "runner": CHOICE[:1],
            "engine": CHOICE,
            "option": ("direct_num_workers=abc", "nonsense=1"),
        },
    ),
    "reproduce": (
        "--study=burda_table1 --budget=smoke --workdir={here}/new",
        {
            "study": CHOICE,
            "budget": CHOICE,
            "workdir": NEW,
            "dataset": CHOICE,
            "seed": ("-1", "many", "", "4294967296"),
            "cells": ("nonsense",),
            "processes": NUMBER,
            "reuse": OLD,
        },
    ),
    "explore": (
        "--workdir={run} --port=0",
        {
            "workdir": RUN,
            "split": CHOICE,
            "num_images": NUMBER,
            "port": ("-1", "65536", "many", ""),
            "dataset": CHOICE,
            "data_dir": OLD,
        },
    ),
}
UNTOLD = ("--nosuchflag=1", "leftover", "--config.nokey=1", "--=", "---", "--seed")
BAD_FILES = {
    "file": "mine",
    "list.json": "[]",
    "nothing.py": "def get_config():\n    pass\n",
    "stops.py": "def get_config():\n    raise RuntimeError('no')\n",
    "empty.npy": "",
    "begun/config.json": "{}",
}


def bad_values(key):
    """Values that a config key must not take, as they are given on a command line."""
    kind = key.default if isinstance(key.default, type) else type(key.default)
    if key.rule.choices:
        return "nonsense", "''"
    return {
        int: ("-1", "many", "1.5", "2147483648"),
        float: ("-1.0", "many", "nan", "inf"),
        bool: ("maybe",),
        list: ("[0]", "[-1]", "many", "7"),
        str: ("nowhere",),
    }[kind]


def command_lines(places):
    """Lists of words, the script first."""
    found = []
    for script, (good, by_flag) in COMMANDS.items():
        good = good.format(**places).split()
        for flag, values in by_flag.items():
            kept = good.copy()
            if not any(word.startswith(f"--{flag}=") for word in good):
                kept.append(f"--{flag}=")
            for value in values:
                given = f"--{flag}={value.format(**places)}"
                found.append(
                    [
                        script,
                        *(given if w.startswith(f"--{flag}=") else w for w in kept),
                    ]
                )
        untold = UNTOLD if script == "train" else UNTOLD[:2]
        found += [[script, *good, word] for word in untold]
        found.append([script])
    train = COMMANDS["train"][0].format(**places).split()
    sweep = COMMANDS["sweep"][0].format(**places).split()
    sweep = [word for word in sweep if not word.startswith("--grid=")]
    for key in KEYS:
        for value in bad_values(key):
            found.append(["train", *train, f"--config.{key.name}={value}"])
        if value != "nowhere" or key.name == "data_dir":
            for listed in ((), ("--list",)):
                grid = f"--grid={key.name}={value}"
                found.append(["sweep", *sweep, grid, *listed])
    return found


def make_places(folder):
    """A finished run, data and bad files in a folder; names and paths of them."""
    tiny = write_tiny(folder)
    run = folder / "run"
    code, output = run_captured(600, "train", *tiny, f"--workdir={run}")
    if code:
        raise RuntimeError(output)
    for name, content in BAD_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    x = images(4, 2)[..., np.newaxis]
    arrays = {"x": x, "wide": np.repeat(x, 2, axis=1), "high": 2 * x}
    arrays |= {"holes": x * np.nan, "labels": np.arange(4)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    (folder / "here").mkdir()
    paths = {path.name.partition(".")[0]: str(path) for path in folder.iterdir()}
    return paths | {"tiny": " ".join(tiny), "run": str(run)}


def _tree(folder):
    """What is in a folder, with what would change with a write."""
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    } | {path: None for path in folder.rglob("*") if path.is_dir()}


def _in_its_own(words):
    """(exit code, output) of a process."""
    command = [sys.executable, "-m", f"iwae_tf.{words[0]}", *words[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "TimeoutError", ""
    return done.returncode, done.stdout + done.stderr


def faults(folder, places, random):
    """Tries command lines: (how many, [what was wrong with one])."""
    lines = command_lines(places)
    separate = [n for n in range(len(lines)) if "\0" not in "".join(lines[n])]
    separate = set(random.sample(separate, min(SEPARATE, len(separate))))
    before, wrong, here = _tree(folder), [], os.getcwd()
    os.chdir(folder / "here")
    try:
        for number, words in enumerate(lines):
            if number in separate:
                code, output = _in_its_own(words)
            else:
                code, output = run_captured(LIMIT, *words)
            after = _tree(folder)
            if code != 2 or not is_one_line(output) or after != before:
                changed = sorted({str(p) for p, _ in after.items() ^ before.items()})
                wrong.append(f"{' '.join(words)}: {code}, {output[-600:]!r}, {changed}")
                shutil.rmtree(folder / "here")  # what a later one would find
                (folder / "here").mkdir()
                os.chdir(folder / "here")
                before = _tree(folder)
    finally:
        os.chdir(here)
    return len(lines), wrong
