"""Reads an encoder's tokenizer, from `tokenizer.json` or WordPiece's `vocab.txt`; knows no network and no limits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self, cast

from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors

from modelkit.config import CheckpointError, read_json

_PART_CHARACTERS: Final = 65_536  # of texts that become tokens together: the library takes 400 bytes for each token


class EncoderTokenizer:
    """Turns texts into ids. What frames a text is apart from it: begin, text, end; begin, text, between, text, end.

    vocab_size: ids in use are below it. second_type: the token type of a pair's second text and of what follows it.
    Immutable and safe to share by threads.
    """

    def __init__(self, backend: Tokenizer) -> None:
        """backend becomes this object's own and is adjusted."""
        backend.no_truncation()
        backend.no_padding()
        pair = backend.encode("a", "a", add_special_tokens=True)
        runs = [
            (special, list(run)) for special, run in groupby(range(len(pair)), pair.special_tokens_mask.__getitem__)
        ]
        if [special for special, _ in runs] != [1, 0, 1, 0, 1]:
            raise CheckpointError("the tokenizer does not frame a pair as begin, text, between, text, end")
        self.begin, self.between, self.end = (_ids(pair, run) for special, run in runs if special)
        self.second_type = pair.type_ids[-1]
        backend.encode_special_tokens = True  # control strings in text are text
        self._backend = backend
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def read(cls, folder: Path, *, lowercase: bool = False) -> Self:
        """Read a checkpoint folder's tokenizer. lowercase: texts are lowered first, whatever the files say.

        What tokenizer_config.json says of case, accents and Chinese characters goes before tokenizer.json, as
        transformers has it. Raises CheckpointError naming the file.
        """
        settings_file, file = folder / "tokenizer_config.json", folder / "tokenizer.json"
        settings = read_json(settings_file) if settings_file.exists() else {}
        if not file.exists():
            file = folder / "vocab.txt"
        try:
            backend = Tokenizer.from_file(str(file)) if file.suffix == ".json" else _word_piece(file.read_text("utf-8"))
            if isinstance(backend.normalizer, normalizers.BertNormalizer):
                backend.normalizer = _bert_normalizer(settings, backend.normalizer)
            if lowercase:
                steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
                backend.normalizer = normalizers.Sequence(steps)
            return cls(backend)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{file}: {error}") from error

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each text without its frame. Never yields a special token but for what is not in the vocabulary.

        Texts are taken as their ids are asked for, several at a time, which are shared out among threads.
        """
        for part in _parts(texts):
            for encoding in self._backend.encode_batch_fast(part, add_special_tokens=False):
                yield encoding.ids


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts of so many characters together; one that is longer goes alone."""
    part: list[str] = []
    num_characters = 0
    for text in texts:
        if part and num_characters + len(text) > _PART_CHARACTERS:
            yield part
            part, num_characters = [], 0
        part.append(text)
        num_characters += len(text)
    if part:
        yield part


def _ids(encoding: Encoding, indices: Sequence[int]) -> tuple[int, ...]:
    return tuple(encoding.ids[index] for index in indices)


def _word_piece(vocabulary: str) -> Tokenizer:
    """BERT's tokenizer, from a file with a token on each line. Source: BertTokenizer of transformers."""
    ids = {token: index for index, token in enumerate(vocabulary.split("\n")) if token}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in ids]
    if missing:
        raise ValueError(f"the vocabulary of {len(ids)} tokens lacks {' '.join(missing)}")
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))  # noqa: S106  (a word of the vocabulary)
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    special = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token in ids]
    cast(Any, backend).add_special_tokens(special)  # its stub is bare
    return backend


def _bert_normalizer(settings: Mapping[str, Any], found: Any) -> normalizers.BertNormalizer:  # noqa: ANN401  (the library's stubs lack its fields)
    return normalizers.BertNormalizer(
        clean_text=found.clean_text,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", found.handle_chinese_chars),
        strip_accents=settings.get("strip_accents", found.strip_accents),
        lowercase=settings.get("do_lower_case", found.lowercase),
    )
