"""What tests of refused requests share: a request that is good, and the one shape of a refusal."""

import httpx

USER = {"role": "user", "content": "hi"}
CHAT = "/v1/chat/completions"


def chat(**fields: object) -> dict[str, object]:
    return {"messages": [USER], **fields}


def check(answer: httpx.Response, status: int, param: str | None, code: str) -> str:
    """Assert the one error shape, and return the sentence."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error["message"]
    assert answer.headers["x-request-id"]
    return error["message"]
