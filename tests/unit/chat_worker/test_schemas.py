"""Checks 200 schemas of rising nastiness with a model that knows nothing: what ends validates, what is finite ends."""

import json
import random

import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from bench.schemas import LEVELS, Case, cases
from modelkit.conversation import CallForm
from modelkit.tokenizer import Tokenizer, load_tokenizer
from services.chat_worker.forms import grammar_of
from services.chat_worker.request import FormatKind, OutputFormat, ToolUse
from services.chat_worker.structured import GrammarCompiler, TokenGrammar
from tests.fixtures.zhinao_vocab import write_zhinao_vocabulary

LONGEST = 768  # tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("zhinao")
    write_zhinao_vocabulary(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, {tokenizer.control_ids["<|im_end|>"]})


def babble(grammar: TokenGrammar, tokenizer: Tokenizer, rng: random.Random) -> str | None:
    """An answer of tokens that are chosen at random among the allowed ones; None if it does not end."""
    closing = {tokenizer.encode(letter)[0] for letter in '"}]'}
    answer: list[int] = []
    while not grammar.is_finished:
        bits = np.unpackbits(grammar.mask().numpy().view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: tokenizer.vocab_size]).tolist()
        if len(answer) == LONGEST:
            return None
        closers = [token_id for token_id in allowed if token_id in closing]
        token_id = rng.choice(closers if closers and rng.random() < 0.3 else allowed)
        grammar.accept(token_id)
        answer.append(token_id)
        grammar.prepare()
    return tokenizer.decode(answer)


def test_there_are_200_sound_schemas_of_rising_size() -> None:
    for case in cases():
        Draft202012Validator.check_schema(case.schema)

    sizes = [sum(len(json.dumps(case.schema)) for case in cases() if case.name.endswith(f"-{n}")) for n in (1, LEVELS)]
    assert (len(cases()), len({case.name for case in cases()})) == (200, 200)
    assert sizes[0] * 2 < sizes[1]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_random_answer_validates_if_it_ends_and_ends_if_the_form_is_finite(
    case: Case, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    output = OutputFormat(FormatKind.JSON_SCHEMA, (json.dumps(case.schema),))
    source = grammar_of(output, ToolUse(), CallForm.TAGGED, compiler)
    assert source is not None

    answer = babble(compiler.start(source), tokenizer, random.Random(case.name))

    assert answer is not None or not case.bounded
    if answer is not None:
        Draft202012Validator(case.schema, format_checker=FormatChecker()).validate(json.loads(answer))
