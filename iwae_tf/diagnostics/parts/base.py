"""What the parts of a diagnosis have in common."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

Grade = Literal["good", "warning", "bad", "plain"]
Results = dict[str, Any]
Progress = Callable[[int, int], object]  # (work in all, what of it was just done)
Figures = Iterator[tuple[Any, str]]  # (PNG, caption)
Sentences = Iterator[tuple[Grade, str]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is diagnosed, and how hard to look."""

    model: Any  # a built model of this package; None for the parts about theory
    images: Any  # float array [N, *event], scored as given; None likewise
    num_samples: int = 5000  # draws an image of the estimate that is judged
    seed: tuple = (0, 0)
    quick: bool = False  # about a tenth of the work

    def effort(self, full: int, least: int = 2) -> int:
        """`full`, or with `quick` a tenth of it but `least`."""
        return max(least, full // 10) if self.quick else full


class Part:
    """One question of a diagnosis: how it is measured, drawn and judged."""

    name: str
    title: str
    version = 1  # to be raised when `measure` changes: kept results are of one version
    needs_model = True
    chart: Callable[[pathlib.Path, Results], Any]  # draws the one figure, NAME.png
    caption: str  # of that figure; a format of the results

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        """Plain numbers, which are kept as JSON."""
        raise NotImplementedError

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        """Writes PNGs into a folder, and yields each with its caption."""
        path = self.chart(folder / f"{self.name}.png", results)
        yield path, self.caption.format(**results)

    def judge(self, results: Results) -> Sentences:
        """What the results mean, each sentence with its grade."""
        raise NotImplementedError


def grade(value: float, good: float, warning: float) -> Grade:
    """The grade of a value of which less is better: the limits are the most allowed."""
    return "good" if value <= good else "warning" if value <= warning else "bad"


def floats(values: Sequence[float | None]) -> np.ndarray:
    """A list as a float array; null is NaN."""
    return np.asarray(values, float)


def capitalized(text: str) -> str:
    """Text with a capital; the rest stays, unlike with `str.capitalize`."""
    return text[0].upper() + text[1:]
