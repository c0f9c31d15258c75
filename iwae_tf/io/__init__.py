"""Files that are whole or not there, pages, and what a terminal shows.

  files      atomic writes, folders with one owner
  layout     where runs, exports and rows lie
  html       Markdown as a page
  processes  children that end with their parent, stderr in a file
  terminal   progress, aligned fields, durations

Imports nothing of the package but `errors`.
"""
