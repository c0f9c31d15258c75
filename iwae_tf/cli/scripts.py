"""What the scripts share: flags, one-line errors, exit codes."""

import contextlib
import functools
import logging
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from iwae_tf.cli import usage
from iwae_tf.errors import InvalidInputError, WorkerLostError

if TYPE_CHECKING:
    from iwae_tf.runs.devices import Distribution

T = TypeVar("T")

INVALID_INPUT, INTERRUPTED, FAILED = 2, 130, 1
HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort"}
FULL_HELP = {"-helpfull", "--helpfull"}


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a script: 0 done, 2 the user's mistake, 130 Ctrl-C, 1 anything else.

    Args:
      main: function of the command line's leftover arguments.
    """

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("tensorflow").setLevel(logging.WARNING)
        if len(argv) > 1:
            return _fail(f"arguments must be flags, --name=value. Received: {argv[1]}")
        from iwae_tf import startup  # noqa: F401, before anything imports TensorFlow

        try:
            return main(argv)
        except (InvalidInputError, OSError) as error:
            return _fail(error)
        except (FloatingPointError, WorkerLostError) as error:
            return _fail(error, code=FAILED)
        except KeyboardInterrupt:
            return _fail("interrupted", code=INTERRUPTED)

    parser = functools.partial(_parse_flags, module=main.__module__)
    app.run(guarded, flags_parser=parser)


class _PathParser(flags.ArgumentParser[str]):
    """A path in which ~ is the home folder, as in one that the shell has expanded."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "string"


def path_flag(name: str, meaning: str) -> flags.FlagHolder[str | None]:
    """Defines a flag for a path; shells leave the ~ of `--name=~/runs` as it is."""
    return flags.DEFINE(_PathParser(), name, None, meaning)


class DeviceFlags:
    """The flags `--distribute` and `--num_devices`, of scripts that take them."""

    def __init__(self) -> None:
        self._kind = flags.DEFINE_string(
            "distribute", "none", "none, mirrored (devices) or multi_worker (machines)."
        )
        self._num_devices = flags.DEFINE_integer(
            "num_devices", None, "Devices of this machine; without GPUs logical CPUs."
        )

    def distribution(self) -> "Distribution":
        """The Distribution that the flags name."""
        from iwae_tf.runs.devices import make_distribution

        check_positive("num_devices", self._num_devices.value)
        return make_distribution(self._kind.value, self._num_devices.value)


@contextlib.contextmanager
def stop_at_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, until the end of the block."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def require(name: str, value: T | None) -> T:
    """`value` of the flag `name`, or one line that says that it is missing."""
    if value is None:
        raise InvalidInputError(f"`--{name}` must be given. Received: none")
    return value


def check_positive(name: str, value: int | None) -> None:
    """Raises InvalidInputError where a flag was given no positive int32."""
    if value is not None and not 1 <= value < 2**31:
        rule = "must be a positive integer" + " below 2**31" * (value > 0)
        raise InvalidInputError(f"`--{name}` {rule}. Received: --{name}={value}")


def pair(name: str, words: Sequence[str]) -> tuple[int, int]:
    """The two integers of a flag, `--name=0,0`, or one line that says what it is."""
    try:
        first, second = map(int, words)
    except ValueError as error:
        raise InvalidInputError(
            f"`--{name}` must be a pair of integers. "
            f"Received: --{name}={','.join(words)}"
        ) from error
    return first, second


def config_path(value: str) -> str:
    """The file that `--config` means: a path, or the name of one that ships.

    A JSON file, such as the `config.json` of a run, is read by a config that ships.

    Args:
      value: what the user gave, with an optional `:argument` of the config.

    Returns:
      path: str, with the argument.

    Raises:
      InvalidInputError: neither a file nor a shipped config.
    """
    value = os.path.expanduser(value)
    path, colon, argument = value.partition(":")
    shipped = _shipped_configs()
    if value.endswith(".json"):
        return f"{shipped / '_json.py'}:{value}"
    if pathlib.Path(path).is_file():
        return value
    names = sorted(
        entry.name[:-3]
        for entry in shipped.iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    )
    if path in names:
        return str(shipped / f"{path}.py") + colon + argument
    raise InvalidInputError(
        f"`--config` must be a config file or one of {', '.join(names)}. "
        f"Received: --config={value}"
    )


def _shipped_configs():
    """The folder of configs: in the installed package, or beside it in a checkout."""
    try:
        return resources.files("iwae_tf.configs")
    except ModuleNotFoundError:
        return pathlib.Path(__file__).parents[2] / "configs"


def _parse_flags(argv, module):
    """absl's parser, with one line and exit code 2 for a mistake, and 0 for help."""
    wanted = [argument for argument in argv[1:] if argument in (*HELP, *FULL_HELP)]
    argv = [argument for argument in argv if argument not in wanted]
    try:
        rest = flags.FLAGS(_resolve_config(argv))
        if not wanted:
            return rest
    except (flags.Error, InvalidInputError) as error:
        # Of a config file that raised, absl's message holds the whole traceback.
        head, traceback, tail = str(error).partition("Traceback")
        sys.exit(_fail(head + tail.strip().splitlines()[-1] if traceback else head))
    except Exception as error:  # of the user's config file
        kind = type(error).__name__
        sys.exit(_fail(f"`--config` must name a config that loads. {kind}: {error}"))
    is_short = not HELP.isdisjoint(wanted)
    print(_short_help(module) if is_short else usage.full_text(module))
    sys.exit(0)


def _short_help(module):
    """Help with the keys of the config that the flags name, or of the default one."""
    if "config" not in flags.FLAGS:
        return usage.text(module)
    from iwae_tf.config import CHOICES, default_config

    return usage.text(module, flags.FLAGS.config or default_config(), CHOICES)


def _resolve_config(argv):
    """`argv` with the config's name replaced by its path, override keys checked."""
    from iwae_tf.config import check_key

    argv = list(argv)
    for index, argument in enumerate(argv):
        name, has_value, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        if name == "config" and has_value:
            argv[index] = f"--config={config_path(value)}"
        elif name == "config" and index + 1 < len(argv):
            argv[index + 1] = config_path(argv[index + 1])
        elif name.startswith(("config.", "noconfig.")):
            check_key(name.partition(".")[2])
    return argv


def _fail(message, code=INVALID_INPUT):
    """Prints one line on stderr and returns the exit code."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code
