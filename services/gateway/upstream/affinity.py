"""Decides which requests had better meet the same worker: those of one tenant whose prompts begin alike."""

import hashlib
from typing import Final

from zhinao.chat.v1.chat_pb2 import ROLE_USER, ChatPrompt, GenerateRequest

_FIRST_CHARACTERS: Final = 1024  # of a raw text
_FIRST_TOKENS: Final = 256


def affinity_key(request: GenerateRequest) -> str:
    """A short name of the tenant and the beginning of the prompt, that a conversation keeps while it grows.

    A conversation's beginning goes as far as the first turn of its user: what an operator puts before every one would
    bring all of them to one worker.
    """
    digest = hashlib.blake2b(request.tenant.encode(), digest_size=8, person=b"mesh-affinity")
    match request.WhichOneof("prompt"):
        case "chat":
            _add_beginning(request.chat, digest)
        case "text":
            digest.update(b"\0" + request.text[:_FIRST_CHARACTERS].encode())
        case "tokens":
            digest.update(b"\1" + repr(request.tokens.ids[:_FIRST_TOKENS]).encode())
        case None:
            pass
    return digest.hexdigest()


def _add_beginning(prompt: ChatPrompt, digest: "hashlib.blake2b") -> None:
    for message in prompt.messages:
        digest.update(b"\2" + str(message.role).encode() + message.content.encode())
        if message.role == ROLE_USER:
            return
