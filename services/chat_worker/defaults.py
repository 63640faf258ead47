"""What a checkpoint's generation_config.json says where a request is silent; knows nothing of requests."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from modelkit.tokenizer import Tokenizer

# eod, im_start and im_end end an answer in every Zhinao deployment (spec section 4.1): without them it never ends
_ZHINAO_ENDS = ("<eod>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling values in force where a request names none, and the ids that end an answer."""

    temperature: float
    top_p: float
    top_k: int
    end_token_ids: frozenset[int]

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> "GenerationDefaults":
        """Read generation_config.json, and config.json for the end tokens; what neither says is OpenAI's default.

        do_sample false there means greedy. Raises ValueError naming the file and field if one is not as expected.
        """
        generation = _GenerationConfig.read(folder / "generation_config.json")
        end_ids = generation.end_ids or _GenerationConfig.read(folder / "config.json").end_ids
        if "<eod>" in tokenizer.control_ids:
            end_ids |= {tokenizer.control_ids[text] for text in _ZHINAO_ENDS}
        return cls(
            temperature=0.0 if generation.do_sample is False else generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            end_token_ids=frozenset(end_ids),
        )


class _GenerationConfig(BaseModel):
    """The keys that matter here, with OpenAI's defaults; others are ignored."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    do_sample: bool | None = None
    eos_token_id: int | list[int] | None = None

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
