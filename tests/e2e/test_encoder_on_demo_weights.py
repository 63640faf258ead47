"""The demo encoder, in process and through the whole mesh, against sentence-transformers."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from modelkit.precision import Precision
from services.embed_worker.encoder import load_encoder
from services.embed_worker.request import EmbedRequest, Truncate
from tests.e2e.conftest import Mesh
from tests.fixtures.mixed_texts import mixed_texts

# The least cosine to fp32 that any text may have.
LEAST = {Precision.FP32: 0.99999, Precision.BF16: 0.999, Precision.INT8: 0.99}


@pytest.fixture(scope="module")
def expected(demo_embed_model: Path) -> np.ndarray:
    """Unit vectors of sentence-transformers, in fp32 and at the model's own limit."""
    return np.asarray(SentenceTransformer(str(demo_embed_model), device="cpu").encode(mixed_texts()))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", LEAST)
def test_200_mixed_texts_have_the_vectors_of_sentence_transformers(
    demo_embed_model: Path, expected: np.ndarray, precision: Precision
) -> None:
    encoder = load_encoder(demo_embed_model, precision)
    request = EmbedRequest(tuple(mixed_texts()), False, None, None, Truncate.END, None)
    rows = encoder.prepare(request)
    lengths = sorted(len(row.token_ids) + row.truncated_tokens for row in rows)
    assert (lengths[0], lengths[-1] > 1500, len(rows)) == (3, True, 200)
    together = encoder.encode([row.token_ids for row in rows])
    alone = np.concatenate([encoder.encode([row.token_ids]) for row in rows])
    np.testing.assert_array_equal(together, alone)
    cosines = (together * expected).sum(axis=1)
    assert cosines.min() > LEAST[precision], f"least {cosines.min():.7f}, mean {cosines.mean():.7f}"


@pytest.mark.timeout(300)
def test_they_have_them_through_the_whole_mesh(mesh: Mesh, expected: np.ndarray) -> None:
    with mesh.client() as client:
        found = client.embeddings.create(
            model="zhinao-embed", input=mixed_texts(), extra_body={"truncate": "end"}, encoding_format="float"
        )
    cosines = (np.array([each.embedding for each in found.data]) * expected).sum(axis=1)
    assert cosines.min() > LEAST[Precision.FP32], f"least {cosines.min():.7f}, mean {cosines.mean():.7f}"
