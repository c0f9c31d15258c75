"""Shows a trained model in the browser: latents, images, scores, weights of draws.

python -m iwae_tf.explore --workdir=runs/a
python -m iwae_tf.explore --saved_model=saved_models/mnist5k_iwae

Prints the address of a page that only this machine can open. Ctrl-C stops it.
"""

import contextlib
import socket
import threading

from absl import flags

from iwae_tf import cli
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import terminal

_MODEL = cli.ModelFlags()
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
_NUM_IMAGES = cli.count_flag("num_images", 200, "Images, from the start of the split.")
_PORT = flags.DEFINE_integer("port", 8765, "Port of the page; 0 takes any free one.")
_DATA = cli.data_flags()
_MODEL.require()


@flags.validator("port")
def _check_port(port):
    if not 0 <= port < 2**16:
        raise InvalidInputError(
            f"`--port` must be a number from 0 to 65535. Received: --port={port}"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InvalidInputError(
                "`--port` must be free; --port=0 takes any free one. "
                f"Received: --port={port} ({error.strerror})"
            ) from error
    return True


@cli.script
def run() -> int:
    """Serves the page until it is stopped."""
    from iwae_tf.explorer.server import Server

    with cli.stop_at_sigterm() as stop, Server(_session(), _PORT.value) as server:
        terminal.tell(f"open {server.url} in a browser; Ctrl-C stops")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with contextlib.suppress(KeyboardInterrupt):  # the way to stop it
            stop.wait()
        server.shutdown()
    return 0


def _session():
    """The model and images of the flags."""
    from iwae_tf.explorer.session import Session
    from iwae_tf.runs.splits import load_eval_split

    model, config = _MODEL.load(**cli.values_of(_DATA))
    images, labels = load_eval_split(config, _SPLIT.value, _NUM_IMAGES.value)
    return Session(
        model,
        images,
        labels,
        title=_MODEL.name,
        facts=cli.model_facts(config, len(images), _SPLIT.value),
        is_binary=config.binarization != "none",
        seed=(config.eval_seed, 0),
    )


if __name__ == "__main__":
    run()
