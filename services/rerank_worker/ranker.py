"""Decides which kind of reranker a checkpoint folder holds; states what each kind is to the worker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from modelkit.checkpoint import Checkpoint
from modelkit.config import CROSS_ENCODER, CheckpointError, read_json
from modelkit.devices import best_device
from modelkit.encoder_checkpoint import EncoderCheckpoint
from modelkit.encoder_tokenizer import EncoderTokenizer
from modelkit.precision import Precision, read_weights
from modelkit.row_encoder import load_row_encoder
from modelkit.scoring_head import HEAD_TENSORS, has_scoring_head, read_scoring_head
from modelkit.tokenizer import load_tokenizer
from services.rerank_worker.calibration import read_calibration
from services.rerank_worker.cross_encoder import Classifier, CrossEncoder
from services.rerank_worker.likelihood_ranker import LikelihoodRanker
from services.rerank_worker.request import Pair, RerankRequest
from services.rerank_worker.steps import BLOCK_LEN, Limits, PairSteps
from services.rerank_worker.zhinao_ranker import ZhinaoRanker

DEFAULT_MAX_TOKENS: Final = 1024  # what the published reranker was trained with; its backbone takes 4,096
_MIN_TOKENS: Final = 128  # below there is no room for texts beside what stands around them
_STEP_TOKENS: Final = 512
_STEP_OUTPUTS: Final = 256  # of a vocabulary's width: 162 MB for Zhinao's


class Ranker(Protocol):
    """Scores documents against a query. Several threads may prepare at a time, one may score.

    threshold: relevance from which a document is worth keeping; None where nobody measured it. description: for people.
    """

    threshold: float | None
    description: str

    def prepare(self, request: RerankRequest) -> list[Pair]:
        """Tokenise and cut, one pair per document, in order. Raises MeshError."""
        ...

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Raw scores of pairs of any requests, in order: a logit, or a mean log-likelihood."""
        ...

    def relevance(self, raw: float) -> float:
        """A raw score on the scale from 0 to 1."""
        ...


def load_ranker(folder: Path, precision: Precision, *, max_tokens: int = DEFAULT_MAX_TOKENS) -> Ranker:
    """Read a checkpoint: a BERT with a classifier, a Zhinao reranker (a causal model with a scoring head), or any other
    causal model, which then ranks by the likelihood of the query. max_tokens: of a pair; never more than the model has
    positions. Raises CheckpointError.
    """
    if read_json(folder / "config.json").get("architectures") == [CROSS_ENCODER]:
        return _load_cross_encoder(folder, precision, max_tokens)
    return _load_causal(folder, precision, max_tokens)


def _load_cross_encoder(folder: Path, precision: Precision, max_tokens: int) -> CrossEncoder:
    checkpoint, tokenizer = EncoderCheckpoint.open(folder), EncoderTokenizer.read(folder)
    if tokenizer.second_type >= (num_types := checkpoint.config.type_vocab_size):
        message = f"type_vocab_size is {num_types}, a pair's second text has type {tokenizer.second_type}"
        raise CheckpointError(f"{folder / 'config.json'}: {message}")
    return CrossEncoder(
        tokenizer,
        load_row_encoder(checkpoint, precision),
        Classifier.read(checkpoint),
        read_calibration(folder),
        min(max_tokens, checkpoint.config.max_position_embeddings),
    )


def _load_causal(folder: Path, precision: Precision, max_tokens: int) -> ZhinaoRanker | LikelihoodRanker:
    calibration, tokenizer = read_calibration(folder), load_tokenizer(folder)
    checkpoint = Checkpoint.open(folder, extras=HEAD_TENSORS)
    head = read_scoring_head(checkpoint) if has_scoring_head(folder) else None
    max_tokens = min(max_tokens, checkpoint.config.max_position_embeddings)
    if max_tokens < _MIN_TOKENS:
        raise CheckpointError(f"{folder}: {max_tokens} tokens for a pair, must be at least {_MIN_TOKENS}")
    checkpoint = checkpoint.with_head(head.weight) if head else checkpoint
    weights = read_weights(checkpoint, precision, best_device(), BLOCK_LEN)
    steps = PairSteps(weights, Limits(_STEP_TOKENS, _STEP_OUTPUTS, max_tokens))
    if head:
        return ZhinaoRanker(tokenizer, steps, head, calibration, max_tokens)
    return LikelihoodRanker(tokenizer, steps, calibration, max_tokens)
