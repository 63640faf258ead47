"""Greedy decoding of the whole engine against transformers' generate, in fp32 on the demo weights."""

import itertools
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from meshkit.errors import MeshError
from modelkit.conversation import Message
from modelkit.precision import Precision
from services.chat_worker.engine.generation import Load, Piece
from services.chat_worker.engine.sequence import RequestId
from services.chat_worker.request import ChatPrompt, GenerationRequest
from services.chat_worker.settings import ChatSettings
from services.chat_worker.worker import ChatWorker, build_worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NEW_TOKENS = 64
PROMPTS = [
    "Who are you?",
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Write a short poem about the sea.",
    "Explain gravity to a child.",
    "Count from one to twenty.",
    "What is 12 times 8?",
    "Give me a recipe for pancakes.",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "List the planets of the solar system.",
    "Tell me a joke.",
    "How do I boil an egg?",
    "What does HTTP stand for?",
    "Write a Python function that adds two numbers.",
    "Who wrote Hamlet?",
    "你好，介绍一下你自己。",
    "春天有哪些节气？",
    "Summarise: the quick brown fox jumps over the lazy dog.",
    "What are the primary colours?",
    "Describe a sunset   in\n\n\tone sentence.",
    "Is 17 a prime number?",
    "Finish the sentence: once upon a time",
    "Give two synonyms of happy.",
    "Wie geht es dir heute?",
    "What is the boiling point of water?",
    "Write an email that asks for a day off.",
    "How many legs does a spider have?",
    "🙂🙃 What do these mean?",
    "Name a famous painter and one of his works.",
]


class Answers:
    """A sink that hands finished token lists to the test."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[RequestId, Piece | MeshError]] = queue.SimpleQueue()

    def emit(self, request_id: RequestId, piece: Piece) -> None:
        self._events.put((request_id, piece))

    def fail(self, request_id: RequestId, error: MeshError) -> None:
        self._events.put((request_id, error))

    def observe(self, load: Load) -> None:
        pass

    def collect(self, count: int) -> dict[RequestId, list[int]]:
        tokens: dict[RequestId, list[int]] = {}
        while count:
            request_id, event = self._events.get(timeout=120)
            if isinstance(event, MeshError):
                raise event
            tokens.setdefault(request_id, []).extend(token.token_id for token in event.tokens)
            count -= event.finish is not None
        return tokens


Engine = tuple[ChatWorker, Answers]
Expected = Future[list[list[int]]]


@pytest.fixture(scope="module")
def engine(demo_chat_model: Path) -> Iterator[Engine]:
    answers = Answers()
    worker = build_worker(ChatSettings(model_path=demo_chat_model, max_model_len=1024, dtype=Precision.FP32), answers)
    worker.loop.start()
    yield worker, answers
    worker.loop.close()


@pytest.fixture(scope="module")
def expected(demo_chat_model: Path) -> Iterator[Expected]:
    """What transformers generates, without the end token; a process of its own works on it while the engine runs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool.submit(transformers_answers, demo_chat_model)


@torch.inference_mode()
def transformers_answers(folder: Path) -> list[list[int]]:
    torch.set_num_threads(1)  # the engine has the other core; at one token a step a second thread gains nothing
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers: list[list[int]] = []
    for text in PROMPTS:
        turns = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt").input_ids
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
        new = tokens[0, ids.shape[1] :].tolist()
        answers.append(new[:-1] if new[-1] == model.generation_config.eos_token_id else new)
    return answers


def run(engine: Engine, numbers: range) -> list[list[int]]:
    """The engine's greedy answers to some of the prompts, submitted all at once."""
    worker, answers = engine
    for number in numbers:
        prompt = ChatPrompt((Message("user", PROMPTS[number]),))
        request = GenerationRequest(str(number), "", prompt, temperature=0.0, max_tokens=NEW_TOKENS)
        worker.submit(RequestId(number), worker.prompts.prepare(request, fallback_seed=0))
    tokens = answers.collect(len(numbers))
    return [tokens[RequestId(number)] for number in numbers]


def test_each_prompt_alone_equals_transformers(engine: Engine, expected: Expected) -> None:
    answers = [run(engine, range(number, number + 1))[0] for number in range(len(PROMPTS))]
    assert answers == expected.result()


def test_eight_at_a_time_equal_transformers(engine: Engine, expected: Expected) -> None:
    groups = [range(start, min(start + 8, len(PROMPTS))) for start in range(0, len(PROMPTS), 8)]
    answers = list(itertools.chain.from_iterable(run(engine, group) for group in groups))
    assert answers == expected.result()
