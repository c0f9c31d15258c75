"""Code blocks, commands and links of Markdown pages, for the tests that try them."""

import pathlib
import re
import shlex
import shutil
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# absl takes the last of two flags: what is appended wins.
REDUCED = {
    "iwae_tf.train": [
        "--config.epochs=1",
        "--config.eval_num_samples=20",
        "--config.jit_compile=false",
    ],
    "iwae_tf.evaluate": ["--num_samples=20", "--limit=50"],
    "iwae_tf.export": [],
    "iwae_tf.diagnose": [
        "--quick",
        "--num_images=5",
        "--num_samples=50",
        "--parts=proposal,representation",
    ],
    "iwae_tf.score": ["--num_samples=20"],
    "iwae_tf.score_beam": ["--num_samples=20"],
    "iwae_tf.sweep": ["--list"],
    "iwae_tf.reproduce": ["--report_only"],  # test_studies.py has the training
}
_FENCE = re.compile(
    r'^```(\w*)(?: title="([^"\n]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of code; `title` names the file that it is the text of, if any."""

    language: str
    title: str | None
    code: str


def blocks(text, *languages):
    """The blocks in these languages, in the order of the page."""
    found = [Block(*match.groups()) for match in _FENCE.finditer(text)]
    return [block for block in found if block.language in languages]


def commands(code):
    """The commands of a `bash` block, each as a list of words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def links(text):
    """Targets of the links that stay in the repository, (path, anchor) each."""
    found = re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", _FENCE.sub("", text))
    return [(path, anchor) for path, anchor in found if path or anchor]


def make_checkout(folder):
    """Puts into a folder what the pages take from a checkout; returns the folder."""
    shutil.copytree(ROOT / "saved_models", folder / "saved_models")
    return folder
