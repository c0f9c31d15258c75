"""Exceptions that mean that the program is not what is wrong."""


class InvalidInputError(ValueError):
    """A user's mistake, told in one line: the argument, the rule, the value.

    Library functions raise it for bad arguments, configs, data and files; the
    scripts print its message and exit with code 2.
    """


class WorkerLostError(RuntimeError):
    """Another worker of the job is gone: all of them have to be started again."""
