"""Images and labels: from files to arrays and batches.

  loading       splits, binarization, batches
  sources       one reader a data set
  readers       files that may be missing or damaged
  image_folder  a folder of pictures

May import `errors` and `checks`.
"""

from iwae_tf.datasets.loading import (
    BINARIZATIONS,
    DATASETS,
    SPLITS,
    UNLABELLED,
    Split,
    batches,
    event_shape,
    load_arrays,
    load_dataset,
    num_batches,
    num_classes,
    require_labels,
    validate_images,
)

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "SPLITS",
    "UNLABELLED",
    "Split",
    "batches",
    "event_shape",
    "load_arrays",
    "load_dataset",
    "num_batches",
    "num_classes",
    "require_labels",
    "validate_images",
]
