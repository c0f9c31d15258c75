"""A trained model in the browser, on this machine alone: `python -m iwae_tf.explore`.

  session  what the page asks of a model: JSON in, JSON out
  server   the page over HTTP, from the standard library
  page     page.html, written by hand, with nothing loaded from elsewhere

May import `evaluation`, `plots`, `models`, `probability`, `bounds`, `errors` and
`checks`.
"""
