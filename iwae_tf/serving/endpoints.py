"""Where log-likelihoods come from: a SavedModel in this process, or a server."""

import os
import re
import urllib.parse
from typing import Any

from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError
from iwae_tf.saved_model.signatures import SIGNATURES
from iwae_tf.serving.rest import OpenInferenceScorer, RestScorer
from iwae_tf.serving.scorer import InProcessScorer, Scorer
from iwae_tf.serving.tf_grpc import GrpcScorer

RULE = (
    "`endpoint` must be http://HOST:PORT/v1/models/NAME or grpc://HOST:PORT/v1/models/"
    "NAME of TensorFlow Serving, or http://HOST:PORT/v2/models/NAME of Triton or "
    "another server of that protocol, with /versions/N at the end for a version of "
    "your choice"
)


def open_scorer(
    *,
    saved_model: str | os.PathLike[str] | None = None,
    endpoint: str | None = None,
    proposal: str = "encoder",
    timeout: float = 120.0,
    retries: int = 5,
) -> Scorer:
    """The scorer that the arguments name.

    Args:
      saved_model: folder of an export, NAME or NAME/1.
      endpoint: URL of a served model instead, whose /v1/ or /v2/ says the protocol: see
        `RestScorer`, `GrpcScorer` and `OpenInferenceScorer`.
      proposal: "encoder", or "refined" for proposals fitted to each image.
      timeout: seconds that one attempt may take.
      retries: attempts after the first one, of each request.

    Returns:
      scorer: Scorer.

    Raises:
      InvalidInputError: a bad argument, or not a model of this package.
      OSError: the server cannot be reached.
    """
    if (saved_model is None) == (endpoint is None):
        raise InvalidInputError(
            "one of `saved_model` and `endpoint` must be given. Received: "
            f"saved_model={saved_model}, endpoint={endpoint}"
        )
    check_choice(proposal, "proposal", tuple(SIGNATURES))
    if saved_model is not None:
        return InProcessScorer(saved_model, proposal)
    try:
        url = urllib.parse.urlsplit(str(endpoint))
        has_host = bool(url.hostname) and url.port != 0  # a bad port is a ValueError
    except ValueError as error:
        raise InvalidInputError(f"{RULE}. Received: {endpoint}, {error}") from error
    form = r"(/(v[12])/models/([^/:]+))(?:/versions/([0-9]+))?/?"
    path = re.fullmatch(form, url.path)
    protocols = {"http": ("v1", "v2"), "https": ("v1", "v2"), "grpc": ("v1",)}
    if not path or not has_host or path[2] not in protocols.get(url.scheme, ()):
        raise InvalidInputError(f"{RULE}. Received: {endpoint}")
    version = None if path[4] is None else int(path[4])
    settings: dict[str, Any] = {
        "proposal": proposal, "timeout": timeout, "retries": retries
    }  # fmt: skip
    if url.scheme == "grpc":
        return GrpcScorer(url.netloc, path[3], version, **settings)
    scorer = RestScorer if path[2] == "v1" else OpenInferenceScorer
    return scorer(f"{url.scheme}://{url.netloc}{path[1]}", version, **settings)
