"""Checks that streamed text is whole characters and adds up to the text decoded at once."""

from hypothesis import given
from hypothesis import strategies as st

from modelkit.text_stream import TextStream

CHARACTERS = st.sampled_from("中文𠀀👩‍👩‍👧é\ud7ff\ue000\ufffd a").map(str.encode)
BROKEN = st.sampled_from([b"\xed\xa0\x80", b"\xe4\xbd", b"\xf0\x9f\x91", b"\xc0", b"\xff", b"\xf4\x90"])
CHUNKS = st.lists(st.binary(max_size=5) | CHARACTERS | BROKEN)


@given(chunks=CHUNKS)
def test_the_pieces_add_up_to_the_text_decoded_at_once(chunks: list[bytes]) -> None:
    stream = TextStream()

    text = "".join(map(stream.push, chunks)) + stream.finish()

    assert text == b"".join(chunks).decode("utf-8", errors="replace")


@given(text=st.text())
def test_bytes_one_by_one_give_whole_characters_and_nothing_is_left(text: str) -> None:
    stream = TextStream()

    pieces = [stream.push(bytes([byte])) for byte in text.encode()]

    assert [piece for piece in pieces if piece] == list(text)
    assert stream.finish() == ""
