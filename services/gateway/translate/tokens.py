"""Translates tokenise and detokenise requests between vLLM's JSON and protobuf."""

from services.gateway.openai.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from services.gateway.translate.chat import to_chat_prompt, to_template_values
from zhinao.tokenize.v1 import tokenize_pb2


def to_tokenize_request(body: TokenizeRequest) -> tokenize_pb2.TokenizeRequest:
    """vLLM's request as ours."""
    chat = None
    if body.messages is not None:
        chat = to_chat_prompt(body.messages, body.tools or ())
        chat.template_values = to_template_values(body.chat_template_kwargs)
    return tokenize_pb2.TokenizeRequest(
        model=body.model or "",
        text=body.prompt or "",
        chat=chat,
        omit_special_tokens=body.add_special_tokens is False,
    )


def to_tokenize_answer(response: tokenize_pb2.TokenizeResponse, body: TokenizeRequest) -> TokenizeAnswer:
    """The answer as vLLM's."""
    answer: TokenizeAnswer = {
        "count": len(response.ids),
        "max_model_len": response.max_model_len,
        "tokens": list(response.ids),
    }
    if body.return_token_strs:
        answer["token_strs"] = [piece.decode("utf-8", errors="replace") for piece in response.pieces]
    return answer


def to_detokenize_request(body: DetokenizeRequest) -> tokenize_pb2.DetokenizeRequest:
    """vLLM's request as ours."""
    return tokenize_pb2.DetokenizeRequest(model=body.model or "", ids=body.tokens)


def to_detokenize_answer(response: tokenize_pb2.DetokenizeResponse) -> DetokenizeAnswer:
    """The answer as vLLM's."""
    return {"prompt": response.text}
