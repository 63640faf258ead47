"""Joins the parts of one chat worker; the only place that knows all of them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from modelkit.chat_template import load_chat_template
from modelkit.config import DecoderConfig, read_config
from modelkit.devices import best_device, fitting_block_len, free_bytes
from modelkit.paged import PagedModel, Segment, Step
from modelkit.precision import load_weights
from modelkit.shapes import kv_bytes_per_token
from modelkit.tokenizer import Tokenizer, load_tokenizer
from services.chat_worker.defaults import GenerationDefaults
from services.chat_worker.detok import Detokenizer
from services.chat_worker.engine.blocks import BlockPool
from services.chat_worker.engine.engine import Engine
from services.chat_worker.engine.generation import Generation, Piece, Sink
from services.chat_worker.engine.loop import EngineLoop
from services.chat_worker.engine.runner import ModelRunner
from services.chat_worker.engine.sampler import Sampled
from services.chat_worker.engine.scheduler import Scheduler
from services.chat_worker.engine.sequence import RequestId, Sequence, answer_seed
from services.chat_worker.engine.speculate import Speculation
from services.chat_worker.prompt import Prepared, PromptBuilder
from services.chat_worker.settings import ChatSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChatWorker:
    """A loaded model with its engine; loop.start() begins the work."""

    tokenizer: Tokenizer
    prompts: PromptBuilder
    loop: EngineLoop
    num_blocks: int
    block_len: int

    def submit(self, request_id: RequestId, prepared: Prepared, *, age_s: float = 0.0) -> None:
        """Queue a prepared request under an id of the caller's; age_s: see EngineLoop.submit."""
        answers = [self._answer(request_id, index, prepared) for index in range(prepared.n)]
        answers[0].sequence.forks += [answer.sequence for answer in answers[1:]]
        self.loop.submit(answers, prepared.timeout_s, age_s=age_s)

    def told(self, prepared: Prepared) -> Iterator[Piece]:
        """The pieces that the caller of a request has already."""
        detok = Detokenizer(self.tokenizer, prepared.stop.texts, prepared.sampling.min_tokens)
        for token_id in prepared.generated_token_ids:
            yield Piece(detok.push(token_id), (Sampled(token_id),))

    def _answer(self, request_id: RequestId, index: int, prepared: Prepared) -> Generation:
        sampling = replace(prepared.sampling, seed=answer_seed(prepared.sampling.seed, index))
        tells_prompt = index == 0 and not prepared.generated_token_ids
        sequence = Sequence(
            request_id,
            [*prepared.token_ids, *prepared.generated_token_ids],
            len(prepared.token_ids),
            sampling if tells_prompt else replace(sampling, prompt_logprobs=None),
            prepared.stop,
            index=index,
            priority=prepared.priority,
            tenant=prepared.tenant,
        )
        grammar = None if prepared.start_grammar is None else prepared.start_grammar()
        speculation = Speculation() if prepared.speculate else None
        detok = Detokenizer(self.tokenizer, prepared.stop.texts, sampling.min_tokens)
        generation = Generation(sequence, detok, grammar, speculation)
        generation.go_on()
        return generation


def build_worker(settings: ChatSettings, sink: Sink) -> ChatWorker:
    """Load the checkpoint and join tokenizer, template and engine.

    Raises ValueError (CheckpointError, TokenizerError, TemplateError) with a message for the operator when a file is
    missing or broken, or when the window does not fit the model or the memory.
    """
    folder, device = settings.model_path, best_device()
    config = read_config(folder)
    max_model_len = _window(settings.max_model_len, config, folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{folder / 'config.json'}: vocab_size is {config.vocab_size}, but the tokenizer beside it has "
            f"{tokenizer.vocab_size} ids"
        )
    defaults = GenerationDefaults.read(folder, tokenizer)
    template = load_chat_template(folder, tokenizer)
    block_len = fitting_block_len(settings.block_len, device)
    weights = load_weights(folder, settings.dtype, device, block_len)
    block_bytes = kv_bytes_per_token(config, weights.kv_dtype.itemsize) * block_len
    affordable_bytes = int(free_bytes(device) * settings.kv_memory_share)
    num_blocks = _num_blocks(settings.kv_windows, -(-max_model_len // block_len), block_bytes, affordable_bytes)
    model = weights.with_cache(
        num_blocks=num_blocks,
        block_len=block_len,
        max_batch=settings.max_running,
        max_context=max_model_len,
    )
    _warm_up(model, min(settings.max_step_tokens, max_model_len), block_len)
    blocks = BlockPool(num_blocks, block_len, prefix_cache=settings.prefix_cache)
    scheduler = Scheduler(
        blocks,
        max_step_tokens=settings.max_step_tokens,
        max_running=settings.max_running,
        max_waiting_tokens=settings.max_waiting_tokens,
    )
    prompts = PromptBuilder(
        tokenizer,
        template,
        defaults,
        model_id=settings.model_id,
        max_model_len=max_model_len,
        speculate=settings.speculate,
    )
    log.info(
        "%s loaded from %s in %s, computed by %s: window %d tokens, KV cache %d blocks of %d tokens",
        *(settings.model_id, folder.name, weights.precision, weights.computed_by, max_model_len, num_blocks, block_len),
    )
    engine = Engine(scheduler, blocks, ModelRunner(model), sink, vocab_size=tokenizer.vocab_size)
    return ChatWorker(tokenizer, prompts, EngineLoop(engine), num_blocks, block_len)


def _warm_up(model: PagedModel, num_tokens: int, block_len: int) -> None:
    """Compute one step of a prompt for nobody: the first of a process takes long, and the pace would learn from it."""
    block_ids = list(range(-(-num_tokens // block_len)))
    model.forward(Step.build([Segment([0] * num_tokens, 0, block_ids, num_logits=1)]))


def _window(asked: int | None, config: DecoderConfig, folder: Path) -> int:
    longest = config.max_position_embeddings
    if asked is not None and asked > longest:
        raise ValueError(f"max_model_len is {asked}, but {folder.name} was trained for a window of {longest}")
    return asked or longest


def _num_blocks(kv_windows: int, window_blocks: int, block_bytes: int, affordable_bytes: int) -> int:
    """As many windows as asked for, but no more than the memory allows; at least one, or ValueError."""
    if window_blocks * block_bytes > affordable_bytes:
        raise ValueError(
            f"the KV cache of one window of {window_blocks} blocks takes {window_blocks * block_bytes} bytes, "
            f"but only {affordable_bytes} are to spare: choose a smaller max_model_len"
        )
    return min(kv_windows * window_blocks, affordable_bytes // block_bytes)
