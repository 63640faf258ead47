"""The chat worker's tokenizer, asked through Triton."""

from pathlib import Path

from meshkit.errors import MeshError, Reason
from meshkit.wire import Operation, decode_error
from modelkit.tokenizer import load_tokenizer
from tests.adapter.chat_calls import USER, answer, chat, failure, greedy, zhinao_ids
from tests.adapter.conftest import MakeAdapter
from tests.fakes import pb_utils
from zhinao.chat.v1.chat_pb2 import ChatPrompt, Message
from zhinao.tokenize.v1.tokenize_pb2 import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse


def ask(adapter: object, operation: Operation, request: TokenizeRequest | DetokenizeRequest) -> bytes | MeshError:
    call = pb_utils.InferenceRequest(request.SerializeToString(), operation=operation)
    adapter.execute([call])  # type: ignore[attr-defined]
    data, error = call.sender.collect()
    if error is not None:
        found = decode_error(error.message)
        assert found is not None
        return found
    (answer,) = data
    return answer


def tokens(adapter: object, request: TokenizeRequest) -> TokenizeResponse:
    answer = ask(adapter, Operation.TOKENIZE, request)
    assert isinstance(answer, bytes), answer
    return TokenizeResponse.FromString(answer)


def test_a_text_and_its_tokens_are_one(make_adapter: MakeAdapter, tiny_zhinao: Path) -> None:
    adapter, text = make_adapter(), "你好 2024年 <|im_end|> 😀"

    there = tokens(adapter, TokenizeRequest(text=text))
    back = ask(adapter, Operation.DETOKENIZE, DetokenizeRequest(ids=there.ids))

    assert list(there.ids) == load_tokenizer(tiny_zhinao).encode(text)
    assert b"".join(there.pieces).decode() == text
    assert (there.model, there.max_model_len > 0) == ("tiny", True)
    assert isinstance(back, bytes) and DetokenizeResponse.FromString(back).text == text


def test_a_conversation_is_laid_out_by_the_template(make_adapter: MakeAdapter, tiny_zhinao: Path) -> None:
    adapter = make_adapter()

    answer = tokens(adapter, TokenizeRequest(chat=ChatPrompt(messages=[Message(role=USER, content="hi")])))

    system = ("system", "You are a helpful assistant.")
    assert list(answer.ids) == zhinao_ids(tiny_zhinao, system, ("user", "hi"))


def test_what_is_wrong_is_told_and_places_are_given_back(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()

    for _ in range(300):
        unknown = ask(adapter, Operation.DETOKENIZE, DetokenizeRequest(ids=[2**31]))
        assert isinstance(unknown, MeshError) and (unknown.reason, unknown.param) == (Reason.INVALID_REQUEST, "tokens")
    other = ask(adapter, Operation.TOKENIZE, TokenizeRequest(model="other", text="a"))
    assert isinstance(other, MeshError) and (other.reason, other.param) == (Reason.MODEL_NOT_FOUND, "model")


def test_variables_that_the_template_does_not_ask_for_are_told_once(make_adapter: MakeAdapter) -> None:
    adapter, request = make_adapter(), chat((USER, "hi"), **greedy(8), n=2)
    request.chat.template_values = '{"enable_thinking": false}'

    first, *rest = answer(adapter, request)
    counted = tokens(adapter, TokenizeRequest(chat=request.chat))

    assert list(first.unused_template_values) == list(counted.unused_template_values) == ["enable_thinking"]
    assert not any(piece.unused_template_values for piece in rest)


def test_variables_of_the_template_must_be_an_object(make_adapter: MakeAdapter) -> None:
    request = chat((USER, "hi"), **greedy(8))
    request.chat.template_values = "[]"

    error = failure(make_adapter(), request)

    assert (error.reason, error.param) == (Reason.INVALID_REQUEST, "chat_template_kwargs")
