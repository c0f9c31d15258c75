"""From a command line to an exit code."""

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from absl import app, flags
from absl import logging as absl_logging

from iwae_tf.checks import did_you_mean
from iwae_tf.cli import usage
from iwae_tf.cli.options import config_path
from iwae_tf.config import check_key
from iwae_tf.config.keys import NAMES
from iwae_tf.errors import InvalidInputError, Stopped, WorkerLostError
from iwae_tf.io import terminal
from iwae_tf.io.processes import follow_parent
from iwae_tf.versions import NAME, package_version

INVALID_INPUT, INTERRUPTED, FAILED = 2, 130, 1
HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort"}
FULL_HELP = {"-helpfull", "--helpfull"}
VERSION = {"-version", "--version"}


def run(main: Callable[[], int]) -> None:
    """Runs a script: 0 done, 2 the user's mistake, 130 Ctrl-C, 1 anything else.

    Args:
      main: function that does what the flags say and returns the exit code.
    """

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("tensorflow").setLevel(logging.WARNING)
        logging.getLogger("grpc").setLevel(logging.CRITICAL)  # of what is raised too
        if len(argv) > 1:
            return _fail(f"arguments must be flags, --name=value. Received: {argv[1]}")
        try:
            from iwae_tf import startup  # noqa: F401, before anything imports TensorFlow

            follow_parent()
            with _plain_warnings():
                return main()
        except BrokenPipeError:
            raise
        except (InvalidInputError, OSError) as error:
            return _fail(error)
        except (FloatingPointError, WorkerLostError) as error:
            return _fail(error, code=FAILED)
        except MemoryError as error:
            return _fail(f"out of memory. {error}", code=FAILED)
        except KeyboardInterrupt:
            return _fail("interrupted", code=INTERRUPTED)

    parser = functools.partial(_parse_flags, module=main.__module__)
    try:
        try:
            app.run(guarded, flags_parser=parser)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `head`, which reads stdout, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def script(main: Callable[[], int]) -> Callable[[], None]:
    """Makes of a script's function what `python -m` and its console command call."""
    return functools.wraps(main)(functools.partial(run, main))


@contextlib.contextmanager
def stop_at_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, until the end of the block."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_at_sigterm() -> Callable[..., None]:
    """From now on the first SIGTERM raises Stopped, wherever the script is.

    Those after it do nothing: one would be raised out of the handler of the first. A
    scheduler sends one to a script, and so does what has started it.

    Returns:
      what the signal calls.
    """

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    return stop


@contextlib.contextmanager
def _plain_warnings():
    """Prints a warning of what the user gave as one line, others as Python does."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message, category, *place):
            if not issubclass(category, UserWarning):
                return show(message, category, *place)
            line = terminal.wrap(f"warning: {message}", sys.stderr, indent=2)
            print(line, file=sys.stderr, flush=True)

        warnings.showwarning = show_plainly
        yield


def _parse_flags(argv, module):
    """absl's parser, with one line and exit code 2 for a mistake, and 0 for help."""
    if VERSION.intersection(argv[1:]):
        print(NAME, package_version())
        sys.exit(0)
    wanted = {argument for argument in argv[1:] if argument in HELP | FULL_HELP}
    argv = [argument for argument in argv if argument not in wanted]
    flags.FLAGS.unparse_flags()
    logging.disable(logging.WARNING)  # of what the checks below say in one line
    try:
        rest = flags.FLAGS(_resolve_config(argv))
    except (flags.Error, InvalidInputError) as error:
        # Help is not for those alone who have given every flag.
        if not (wanted and flags.FLAGS.is_parsed()):
            # Of a config file that raised, absl's message holds the whole traceback.
            head, traceback, tail = str(error).partition("Traceback")
            line = head + tail.strip().splitlines()[-1] if traceback else head
            if isinstance(error, flags.UnrecognizedFlagError):
                line = f"Unknown flag --{error.flagname}{_nearest_flag(error.flagname)}"
            sys.exit(_fail(line))
    except Exception as error:  # of the user's config file
        kind = type(error).__name__
        sys.exit(_fail(f"`--config` must name a config that loads. {kind}: {error}"))
    finally:
        logging.disable(logging.NOTSET)
    if not wanted:
        return rest
    print(usage.full_text(module) if wanted & FULL_HELP else usage.text(module))
    sys.exit(0)


def _nearest_flag(name):
    """The end of a message about an unknown flag, which may be a config key's."""
    known = {flag: f"--{flag}" for flag in flags.FLAGS}
    if "config" in flags.FLAGS:
        known |= {key: f"--config.{key}" for key in NAMES}
    return did_you_mean(name, known, known.get)


def _resolve_config(argv):
    """`argv` with the config's name replaced by its path, override keys checked."""
    argv, configs, overrides = list(argv), [], []
    for index, argument in enumerate(argv):
        name, has_value, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        if name == "config" and has_value:
            configs.append(value)
            argv[index] = f"--config={config_path(value)}"
        elif name == "config" and index + 1 < len(argv):
            configs.append(argv[index + 1])
            argv[index + 1] = config_path(argv[index + 1])
        elif name.startswith(("config.", "noconfig.")):
            overrides.append(argument)
            check_key(name.partition(".")[2])
    if overrides and not configs and "config" in flags.FLAGS:
        raise InvalidInputError(f"`--config` must be given. Received: {overrides[0]}")
    if len(configs) > 1:
        given = ", ".join(configs)
        raise InvalidInputError(f"`--config` must be given once. Received: {given}")
    return argv


def _fail(message, code=INVALID_INPUT):
    """Prints one line on stderr and returns the exit code."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code
