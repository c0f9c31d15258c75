"""The papers' tables: cells beside published figures, run, timed and reported.

  cells        studies as lists of configs
  published    the papers' figures
  runner       many runs, side by side
  rows         what the runs found
  times        at equal time
  report       text, tables and figures

May import `runs` and what that imports.
"""
