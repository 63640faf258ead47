"""Decides what an API key is: how its secret looks and is hashed, and what it allows; knows no database."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from meshkit.errors import MeshError, Reason

_PREFIX: Final = "sk-zhinao-"  # so that people and secret scanners know one when they see it
_SECRET: Final = re.compile(_PREFIX + r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; None is no limit. models: ids, empty allows all. tokens: prompt and answer together.

    max_concurrent: requests in progress. tokens_per_month: per calendar month, UTC.
    strict: whether parameters that would have no effect are refused.
    """

    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    tokens_per_month: int | None = None
    strict: bool = False

    def allow(self, model: str) -> bool:
        """Whether that model may be asked."""
        return not self.models or model in self.models

    def check_model(self, model: str) -> None:
        """Raise FORBIDDEN for a model that may not be asked."""
        if not self.allow(model):
            raise MeshError(Reason.FORBIDDEN, f"this key may not use the model {model!r}", param="model")


@dataclass(frozen=True, slots=True)
class Key:
    """One API key, without its secret. tenant: whose it is; keys of one tenant share its prefix cache."""

    id: str
    name: str
    tenant: str
    limits: Limits
    created_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A key that works. month_tokens: what the usage table held of this month when the key was read."""

    key: Key
    month_tokens: int


def new_secret() -> str:
    """A secret of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def is_secret(text: str) -> bool:
    """Whether it has the form of a secret; what has not needs no look into the database."""
    return _SECRET.fullmatch(text) is not None


def hash_secret(secret: str) -> str:
    """What is kept of a secret: its SHA-256, in hex.

    A slow hash such as bcrypt guards what people choose; 256 random bits cannot be guessed, and each request hashes.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
