"""Decides which tokens of a text reach the network and what its vector is; knows no batches of requests."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meshkit.errors import MeshError, Reason
from meshkit.texts import check_text
from modelkit.config import CheckpointError
from modelkit.encoder_checkpoint import EncoderCheckpoint
from modelkit.encoder_tokenizer import EncoderTokenizer
from modelkit.precision import Precision
from modelkit.row_encoder import RowEncoder, load_row_encoder
from modelkit.sentence import SentenceConfig, max_row_tokens, read_sentence_config
from services.embed_worker.request import EmbedRequest, Truncate

_TOKENIZER_FILES: Final = (
    "config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_INSTRUCTION_CHARACTERS: Final = 4_096  # it becomes tokens once more for each input: of 2,048, what a body may hold


@dataclass(frozen=True, slots=True)
class Row:
    """One input as the network gets it. truncated_tokens: how many were dropped to make it fit."""

    token_ids: tuple[int, ...]
    truncated_tokens: int


class TextEncoder:
    """One embedding model. max_tokens: of an input with its frame. dimensions: of a whole vector.

    Several threads may prepare at a time, one may encode.
    """

    def __init__(
        self, network: RowEncoder, tokenizer: EncoderTokenizer, sentence: SentenceConfig, files: bytes
    ) -> None:
        """files: a digest of what network and tokenizer were read from."""
        self._network, self._tokenizer, self._sentence, self._files = network, tokenizer, sentence, files
        self.dimensions = network.config.hidden_size
        self.max_tokens = max_row_tokens(sentence, network.config)
        self.description = f"{network.precision} by {network.computed_by}"

    def prepare(self, request: EmbedRequest) -> list[Row]:
        """Tokenise, put the instruction in front, and cut what is too long if that is asked for. Raises MeshError."""
        self._check(request)
        instruction = self._instruction(request)
        head = self.head(instruction)
        spelled = self._tokenizer.encode(instruction + each for each in request.inputs if isinstance(each, str))
        return [
            self._row(index, self._with_frame(next(spelled)), head, request.truncate)
            if isinstance(each, str)
            else self._row(index, each, self._tokenizer.begin, request.truncate)
            for index, each in enumerate(request.inputs)
        ]

    def head(self, instruction: str) -> tuple[int, ...]:
        """The tokens that stay when a text loses its start. Raises MeshError if they leave no room for any of it."""
        (ids,) = self._tokenizer.encode([instruction])
        head = (*self._tokenizer.begin, *ids)
        if (num_tokens := len(head) + len(self._tokenizer.end)) >= self.max_tokens:
            message = f"instruction leaves no room: {num_tokens} tokens with its frame, the limit is {self.max_tokens}"
            raise _invalid(message, "instruction")
        return head

    def encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The vectors of rows of 1 to max_tokens ids, (rows, dimensions). A row's does not depend on the others."""
        vectors: NDArray[np.float32] = np.asarray(self._network.pool(rows, self._sentence.pooling), np.float32)
        return to_unit_length(vectors) if self._sentence.normalize else vectors

    def cut(self, vector: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        """The first components of a vector, made as long again as the model's are.

        Source: Matryoshka representations (Kusupati et al., 2022); a model not trained for it loses more by it.
        """
        if dimensions == self.dimensions:
            return vector
        return to_unit_length(vector[:dimensions]) if self._sentence.normalize else vector[:dimensions]

    def space(self, dimensions: int) -> str:
        """Names what vectors of that many dimensions may be compared with, in 16 letters.

        It changes with weights, tokenizer, pooling, normalisation and dimensions. Not with the number format, for
        documents embedded in fp32 are meant to be searched by a query in int8; nor with the instruction, for queries
        and passages share a space.
        """
        digest = hashlib.sha256(self._files)
        digest.update(f"{self._sentence.pooling.name} {self._sentence.normalize} {dimensions}".encode())
        return digest.hexdigest()[:16]

    def _check(self, request: EmbedRequest) -> None:
        dimensions = self.dimensions if request.dimensions is None else request.dimensions
        if not 1 <= dimensions <= self.dimensions:
            raise _invalid(f"dimensions is {dimensions}, must be 1 to {self.dimensions}", "dimensions")
        if request.space is not None and request.space != self.space(dimensions):
            message = (
                f"space is {request.space!r}, this model's at {dimensions} dimensions is {self.space(dimensions)!r}"
            )
            raise MeshError(Reason.SPACE_MISMATCH, message, param="space")
        check_text(request.instruction or "", "instruction", _INSTRUCTION_CHARACTERS)
        if request.instruction and not all(isinstance(each, str) for each in request.inputs):
            raise _invalid("instruction goes in front of text, and an input is token ids", "instruction")
        for index, each in enumerate(request.inputs):
            if not each:
                raise _invalid(f"input[{index}] is empty", "input")
            if isinstance(each, str):
                check_text(each, f"input[{index}]")
            elif not 0 <= min(each) <= max(each) < self._network.config.vocab_size:
                outside = next(i for i in each if not 0 <= i < self._network.config.vocab_size)
                raise _invalid(
                    f"input[{index}] holds token id {outside}, must be below {self._network.config.vocab_size}", "input"
                )

    def _instruction(self, request: EmbedRequest) -> str:
        if request.instruction is not None:
            return request.instruction
        return self._sentence.query_instruction if request.is_query else self._sentence.passage_instruction

    def _with_frame(self, ids: list[int]) -> tuple[int, ...]:
        return (*self._tokenizer.begin, *ids, *self._tokenizer.end)

    def _row(self, index: int, ids: tuple[int, ...], head: tuple[int, ...], truncate: Truncate) -> Row:
        """Cut between what frames a text: its start and instruction before, its end behind."""
        excess = len(ids) - self.max_tokens
        if excess <= 0:
            return Row(ids, 0)
        if truncate is Truncate.ERROR:
            message = f"input[{index}] is {len(ids)} tokens, the limit is {self.max_tokens}; truncate may cut it"
            raise MeshError(Reason.PROMPT_TOO_LONG, message, param="input")
        end = self._tokenizer.end
        # The instruction's last word may have grown by the text's first letters, and is part of the text then.
        kept_before = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(head, ids, strict=False)))
        kept_behind = len(end) if ids[-len(end) :] == end else 0
        if truncate is Truncate.END:
            last = self.max_tokens - kept_behind
            return Row(ids[:last] + ids[len(ids) - kept_behind :], excess)
        return Row(ids[:kept_before] + ids[kept_before + excess :], excess)


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each vector of (..., dimensions) by its length; one of zeros stays."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def load_encoder(folder: Path, precision: Precision) -> TextEncoder:
    """Read an embedding checkpoint: a sentence-transformers folder or a plain BERT. Raises CheckpointError."""
    sentence = read_sentence_config(folder)
    checkpoint = EncoderCheckpoint.open(sentence.weights_folder)
    tokenizer = EncoderTokenizer.read(sentence.weights_folder, lowercase=sentence.lowercase)
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        known, wanted = checkpoint.config.vocab_size, tokenizer.vocab_size
        raise CheckpointError(f"{folder}: the tokenizer has {wanted} ids, the network knows {known}")
    encoder = TextEncoder(load_row_encoder(checkpoint, precision), tokenizer, sentence, _digest(checkpoint, sentence))
    try:
        for instruction in (sentence.query_instruction, sentence.passage_instruction):
            encoder.head(instruction)
    except MeshError as error:
        raise CheckpointError(f"{folder}: {error.message}") from error
    return encoder


def _digest(checkpoint: EncoderCheckpoint, sentence: SentenceConfig) -> bytes:
    """Of every byte of the files that weights and tokenizer are read from: 90 MB take 60 ms."""
    files = {stored.file for stored in checkpoint.tensors.values()}
    files |= {path for name in _TOKENIZER_FILES if (path := sentence.weights_folder / name).exists()}
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.digest()


def _invalid(message: str, param: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param)
