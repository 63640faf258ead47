"""Joins an encoder with Triton: a request's texts become rows, and vectors of rows its response."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshkit.wire import Operation
from modelkit.threads import use_threads
from services.embed_worker.codec import decode_request, encode_response
from services.embed_worker.encoder import Row, TextEncoder, load_encoder
from services.embed_worker.request import Embedding
from services.embed_worker.settings import EmbedSettings
from workerkit.prepared import Prepared
from workerkit.triton import load
from workerkit.unary import UnaryAdapter

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]


class EmbedModel:
    """See UnaryModel."""

    def __init__(self, encoder: TextEncoder, settings: EmbedSettings) -> None:
        self._encoder = encoder
        self._settings = settings

    def prepare(self, data: bytes) -> Prepared[Row, Vector]:
        """See UnaryModel."""
        request = decode_request(data, model_id=self._settings.model_id, max_inputs=self._settings.max_inputs)
        rows = self._encoder.prepare(request)
        dimensions = request.dimensions or self._encoder.dimensions

        def encode(vectors: Sequence[Vector]) -> bytes:
            return encode_response(
                [
                    Embedding(self._encoder.cut(v, dimensions), row.truncated_tokens)
                    for v, row in zip(vectors, rows, strict=True)
                ],
                num_tokens=sum(len(row.token_ids) for row in rows),
                model=self._settings.model_id,
                space=self._encoder.space(dimensions),
            )

        return Prepared(rows, encode)

    def run(self, items: Sequence[Row]) -> Sequence[Vector]:
        """See UnaryModel."""
        return list(self._encoder.encode([row.token_ids for row in items]))

    def use_threads(self, count: int) -> None:
        """See UnaryModel."""
        use_threads(count)


def open_adapter() -> UnaryAdapter[Row, Vector]:
    """Load the model that the environment names and start its threads; a failure becomes Triton's load error."""

    def build() -> UnaryAdapter[Row, Vector]:
        settings = EmbedSettings()  # pyright: ignore[reportCallIssue]  (the environment fills it)
        encoder = load_encoder(settings.model_path, settings.dtype)
        log.info("%s loaded from %s: %s", settings.model_id, settings.model_path.name, encoder.description)
        model = EmbedModel(encoder, settings)
        adapter = UnaryAdapter(model, Operation.EMBED, settings)
        adapter.start()
        return adapter

    return load("embed_worker", build)
