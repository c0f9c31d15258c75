"""What the scripts share: flags, help, one-line errors, exit codes.

  entry    from the command line to the exit code
  options  flags that several scripts have, checked as they are read
  usage    `--help`

May import `runs` and what that imports, but only where a script has begun: `--help`
and a wrong flag must not wait for TensorFlow.
"""

from iwae_tf.cli.entry import (
    FAILED,
    raise_at_sigterm,
    run,
    script,
    stop_at_sigterm,
)
from iwae_tf.cli.options import (
    ModelFlags,
    config_flag,
    config_path,
    count_flag,
    data_flags,
    device_flags,
    engine_flags,
    export_flag,
    model_facts,
    new_path_flag,
    path_flag,
    proposal_flag,
    require,
    run_flag,
    seed_flag,
    values_of,
)
