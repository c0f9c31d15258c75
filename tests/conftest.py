"""The order in which files of tests are handed to the processes."""

# Of few tests, but minutes together: last, one process would be left alone with them.
FIRST = (
    "test_readme.py",
    "test_docs.py",
    "test_fuzz.py",
    "test_notebooks.py",
    "test_terminal.py",
    "test_studies.py",
    "test_diagnose.py",
    "test_scripts.py",
    "test_execution.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in FIRST)  # otherwise as they were
