"""How a failure crosses Triton as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError, Reason
from meshkit.wire import decode_error, encode_error

ERRORS = st.builds(
    MeshError,
    st.sampled_from(Reason),
    st.text(),
    param=st.none() | st.from_regex(r"[A-Za-z_][\w.\[\]]{0,30}", fullmatch=True),
)


@given(ERRORS, st.sampled_from(["", "in ensemble 'chat', ", "Failed to process the request(s):\n", "错误: "]))
def test_failure_survives_the_wire_whatever_triton_puts_in_front(error: MeshError, prefix: str) -> None:
    decoded = decode_error(prefix + encode_error(error))

    assert decoded is not None
    assert (decoded.reason, decoded.message, decoded.param) == (error.reason, error.message, error.param)


@pytest.mark.parametrize("message", ["", "two\nlines\r\n", "[mesh INTERNAL] again", "] param=x] y", "提示太长"])
@pytest.mark.parametrize("param", [None, "stop", "messages[0].content"])
def test_awkward_message_is_not_taken_apart(message: str, param: str | None) -> None:
    decoded = decode_error(encode_error(MeshError(Reason.INVALID_REQUEST, message, param=param)))

    assert decoded is not None
    assert (decoded.message, decoded.param) == (message, param)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model 'chat' is not ready",
        "[mesh]",
        "[mesh NO_SUCH_REASON] text",
        "[mesh internal] text",
        "mesh INTERNAL x",
    ],
)
def test_text_that_is_not_ours_is_no_failure_of_ours(text: str) -> None:
    assert decode_error(text) is None
