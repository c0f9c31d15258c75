"""The papers' tables: cells beside published figures, run, timed and reported.

  cells        studies as lists of configs
  recipes      how they are trained, by budget
  published    the papers' figures
  runner       many runs, side by side
  on_ray       on the machines of a cluster
  times        of steps, and the estimators at equal time
  rows         what the runs found
  markdown     what a report says
  report       its text, tables and figures

May import `runs` and what that imports.
"""
