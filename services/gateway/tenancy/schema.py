"""Decides how keys and usage lie in the database; `migrations` says how older databases come to this form."""

from datetime import date, datetime
from typing import Final

from sqlalchemy import JSON, BigInteger, Date, DateTime, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAME_LENGTH: Final = 128  # of a key or a tenant, in characters; SQLite takes longer ones, PostgreSQL does not


class Base(DeclarativeBase):
    """Both tables."""

    type_annotation_map = {int: BigInteger, datetime: DateTime(timezone=True), date: Date}  # noqa: RUF012 - SQLAlchemy's form


class KeyRow(Base):
    """One API key. Only the hash of its secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    tenant: Mapped[str] = mapped_column(String(NAME_LENGTH))
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    models: Mapped[list[str]] = mapped_column(JSON)
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    max_concurrent: Mapped[int | None]
    tokens_per_month: Mapped[int | None]
    strict: Mapped[bool]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class UsageRow(Base):
    """What one key used of one model on one day (UTC)."""

    __tablename__ = "usage"

    key_id: Mapped[str] = mapped_column(String(16), ForeignKey("api_keys.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    requests: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
