"""Images and labels: from files to arrays and batches.

  loading       a split as arrays: found, checked, binarised
  facts         shape, size, classes and digest of a data set
  streams       batches of it, epoch after epoch
  sources       one reader a data set
  readers       files that may be missing or damaged
  image_folder  a folder of pictures
  tables        columns of numbers and names, and their schema
  table_files   such columns from files and data frames
  columns       one of them: what it is, and its values

May import `schema`, `errors` and `checks`.
"""

from iwae_tf.datasets.facts import (
    DATASETS,
    event_shape,
    num_classes,
    num_training_examples,
    table_schema,
    training_digest,
)
from iwae_tf.datasets.loading import (
    BINARIZATIONS,
    SPLITS,
    Split,
    binarize,
    load_arrays,
    load_npz,
    validate_images,
)
from iwae_tf.datasets.sources import UNLABELLED
from iwae_tf.datasets.streams import batches, load_dataset, num_batches
