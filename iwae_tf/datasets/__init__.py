"""Images and labels: from files to arrays and batches.

  loading       a split as arrays: found, checked, binarised
  streams       batches of it, epoch after epoch
  sources       one reader a data set
  readers       files that may be missing or damaged
  image_folder  a folder of pictures
  tables        columns of numbers and names
  columns       one of them: what it is, and its values

May import `schema`, `errors` and `checks`.
"""

from iwae_tf.datasets.loading import (
    BINARIZATIONS,
    DATASETS,
    SPLITS,
    UNLABELLED,
    Split,
    binarize,
    event_shape,
    load_arrays,
    load_npz,
    num_classes,
    num_training_examples,
    require_labels,
    table_schema,
    training_digest,
    validate_images,
)
from iwae_tf.datasets.streams import batches, load_dataset, num_batches
