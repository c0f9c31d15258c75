"""What the scripts share: flags, help, one-line errors, exit codes.

May import `runs` and what that imports, but only where a script has begun: `--help`
and a wrong flag must not wait for TensorFlow.
"""
