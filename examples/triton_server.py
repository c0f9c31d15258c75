"""Serves an export with NVIDIA's Triton, by the Open Inference Protocol.

    pip install nvidia-pytriton 'numpy<2'
    python -m examples.triton_server --saved_model=saved_models/mnist5k_iwae
    python -m iwae_tf.score --endpoint=http://localhost:8000/v2/models/mnist5k_iwae ...

PyTriton starts a Triton server on this machine, which hands requests to the function
below. A model of Triton is one function: log-likelihoods from draws of the encoder, or,
with --proposal=refined, from proposals fitted to each image.
"""

import numpy as np
import tensorflow as tf
from absl import app, flags
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from iwae_tf.saved_model import load_saved_model, signature_of
from iwae_tf.saved_model.signatures import SIGNATURES

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Folder of the versions.")
_PROPOSAL = flags.DEFINE_enum("proposal", "encoder", list(SIGNATURES), "See above.")
_PORT = flags.DEFINE_integer("port", 8000, "Of HTTP; gRPC and metrics have the next.")


def main(argv):
    del argv
    version, signatures = load_saved_model(_SAVED_MODEL.value)
    function = signature_of(signatures, SIGNATURES[_PROPOSAL.value])
    specs = function.structured_input_signature[1]

    def infer(requests):
        return [_call(function, specs, request) for request in requests]

    port = _PORT.value
    config = TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=version.resolve().parent.name,
            model_version=int(version.name),
            infer_func=infer,
            inputs=[_tensor(*item) for item in specs.items()],
            outputs=[_tensor(*item) for item in function.structured_outputs.items()],
            config=ModelConfig(batching=False),  # `num_samples` is of all rows
        )
        triton.serve()


def _call(function, specs, request):
    inputs = {
        name: tf.constant(request[name] if spec.shape.rank else request[name][0])
        for name, spec in specs.items()
    }
    return {name: values.numpy() for name, values in function(**inputs).items()}


def _tensor(name, spec):
    """Triton has no scalars: they have one element."""
    shape = tuple(-1 if size is None else size for size in spec.shape) or (1,)
    return Tensor(name=name, dtype=np.dtype(spec.dtype.as_numpy_dtype), shape=shape)


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
