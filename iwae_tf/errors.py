"""The one exception that means "the input is wrong", not "the program is"."""


class InvalidInputError(ValueError):
    """A user's mistake, told in one line: the argument, the rule, the value.

    Library functions raise it for bad arguments, configs, data and files; the
    scripts print its message and exit with code 2.
    """
