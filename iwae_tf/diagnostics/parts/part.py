"""What the parts of a diagnosis have in common."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

GOOD, WARNING, BAD, PLAIN = "good", "warning", "bad", "plain"  # grades of a sentence


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is diagnosed, and how hard to look."""

    model: Any  # a built model of this package; None for the parts about theory
    images: np.ndarray | None  # [N, *event], scored as given
    num_samples: int = 5000  # draws an image of the estimate that is judged
    seed: tuple = (0, 0)
    quick: bool = False  # about a tenth of the work

    def effort(self, full: int, least: int = 2) -> int:
        """`full`, or with `quick` a tenth of it but `least`."""
        return max(least, full // 10) if self.quick else full


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a diagnosis.

    `measure` turns a subject into a dict of plain numbers, which is kept as JSON,
    `draw` turns that into PNGs with captions, and `judge` into graded sentences.
    """

    name: str
    title: str
    measure: Callable  # (subject, on_progress(done, total)) -> results
    draw: Callable  # (subject, results, folder) -> list of (file name, caption)
    judge: Callable  # results -> list of (grade, sentence)
    needs_model: bool = True


def floats(values: Iterable[float | None]) -> np.ndarray:
    """A list as a float array; null is NaN."""
    return np.asarray([math.nan if v is None else v for v in values], float)


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[0].upper() + text[1:] + "."
