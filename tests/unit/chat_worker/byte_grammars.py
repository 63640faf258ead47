"""What tests of forms share: a compiler over bytes, and whether it admits a text."""

from services.chat_worker.structured import GrammarCompiler, TokenGrammar
from tests.fakes.engine import ByteTokenizer

TOKENIZER = ByteTokenizer("<eod>", "<|im_start|>", "<|im_end|>")
END, OTHER_END = TOKENIZER.control_ids["<|im_end|>"], TOKENIZER.control_ids["<eod>"]
COMPILER = GrammarCompiler(TOKENIZER, {END, OTHER_END})


def allowed(grammar: TokenGrammar) -> set[int]:
    mask = grammar.mask()
    return {token_id for token_id in range(TOKENIZER.vocab_size) if mask[token_id // 32] >> token_id % 32 & 1}


def walk(source: str | None, text: str) -> TokenGrammar | None:
    """The grammar after the text, None if it refuses some of it."""
    assert source is not None
    grammar = COMPILER.start(source)
    for token_id in TOKENIZER.encode(text):
        grammar.prepare()
        if token_id not in allowed(grammar):
            return None
        grammar.accept(token_id)
    return grammar


def admits(source: str | None, text: str) -> bool:
    """Whether the text is one of the answers in this form."""
    grammar = walk(source, text)
    return grammar is not None and END in allowed(grammar)
