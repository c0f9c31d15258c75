"""Exceptions whose cause is not in the program."""


class InvalidInputError(ValueError):
    """A user's mistake, as a one-line message: the argument, the rule, the value.

    Library functions raise it for bad arguments, configs, data and files; the
    scripts print its message and exit with code 2.
    """


class WorkerLostError(RuntimeError):
    """Another worker of the job is gone: all of them have to be started again."""


class Stopped(BaseException):
    """The script was asked to stop, as by SIGTERM, and what is done is kept.

    A signal raises it anywhere in what follows, where a handler of Exception, as around
    a reader of files, would take it for an error.
    """
