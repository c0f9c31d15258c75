"""Files that are whole or not there, and what a terminal shows.

  files      atomic writes, folders with one owner
  terminal   progress, aligned fields, durations

Imports nothing of the package but `errors`.
"""
