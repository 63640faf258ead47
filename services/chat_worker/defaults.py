"""What a checkpoint's generation_config.json says where a request is silent; knows nothing of requests."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel, Field, model_validator

from modelkit.tokenizer import Tokenizer

# eod, im_start and im_end end an answer in 360Zhinao's own deployments: without them it never ends
_ZHINAO_ENDS = ("<eod>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling values in force where a request names none, and the ids that end an answer."""

    temperature: float
    top_p: float
    top_k: int
    end_token_ids: frozenset[int]
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> "GenerationDefaults":
        """Read generation_config.json, and config.json for the end tokens; what neither says is OpenAI's default.

        do_sample false there means greedy. Raises ValueError naming the file and field if one is not as expected, or
        if end tokens are named but none is in the vocabulary: no answer would ever end.
        """
        file = folder / "generation_config.json"
        generation = _GenerationConfig.read(file)
        named_ids = generation.end_ids
        if not named_ids:
            file = folder / "config.json"
            named_ids = _GenerationConfig.read(file).end_ids
        control_ids, vocab_size = tokenizer.control_ids, tokenizer.vocab_size
        end_ids = {token_id for token_id in named_ids if 0 <= token_id < vocab_size}
        if "<eod>" in control_ids:
            end_ids |= {control_ids[text] for text in _ZHINAO_ENDS if text in control_ids}
        if named_ids and not end_ids:
            raise ValueError(
                f"{file}: eos_token_id is {sorted(named_ids)}, the tokenizer has ids 0 to {vocab_size - 1}"
            )
        return cls(
            temperature=0.0 if generation.do_sample is False else generation.temperature,
            top_p=generation.top_p,
            top_k=max(0, generation.top_k),  # -1 means off as 0 does
            end_token_ids=frozenset(end_ids),
            min_p=generation.min_p,
            repetition_penalty=generation.repetition_penalty,
        )


class _GenerationConfig(BaseModel):
    """The keys that matter here, with OpenAI's defaults where one is absent or null; others are ignored."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**32)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    do_sample: bool | None = None
    eos_token_id: int | list[int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: object) -> object:
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in cast(dict[str, object], raw).items() if value is not None}

    @property
    def end_ids(self) -> set[int]:
        """eos_token_id, which may be one id or a list."""
        ids = self.eos_token_id
        return {ids} if isinstance(ids, int) else set(ids or ())

    @classmethod
    def read(cls, file: Path) -> "_GenerationConfig":
        if not file.exists():
            return cls()
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
