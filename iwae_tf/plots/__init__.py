"""Arrays in, PNG files out: the one package that imports matplotlib.

  figures      of a run: samples, reconstructions, curves, latents, units
  separation   histograms and ROC curves of log-likelihoods
  comparisons  of runs with published figures
  drawing      palette, axes and files
  inputs       what may be drawn

May import `io`, `errors` and `checks`.
"""

from iwae_tf.plots.drawing import most_in_grid
from iwae_tf.plots.figures import (
    active_units,
    image_grid,
    latent,
    principal_components,
    reconstructions,
    training_curves,
)
from iwae_tf.plots.inputs import in_range, makes_images
