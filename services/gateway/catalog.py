"""Decides which served model a request means; knows nothing of how a model is reached."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from meshkit.errors import MeshError, Reason

Kind = Literal["chat", "embed", "rerank"]


class ServedModel(BaseModel):
    """One model that clients may name. id travels in HTTP and gRPC headers, so it is printable ASCII."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[!-~]{1,256}$")
    kind: Kind  # also the name of its model inside Triton


class Catalog:
    """All served models, in the operator's order."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = tuple(models)

    def find(self, model_id: str) -> ServedModel:
        """The model of that id, of whatever kind; MODEL_NOT_FOUND otherwise."""
        for model in self.models:
            if model.id == model_id:
                return model
        raise _not_found(f"the model {model_id!r:.80} does not exist; GET /v1/models lists those that do")

    def find_kind(
        self, kind: Kind, model_id: str | None, may_use: Callable[[str], bool] = lambda _: True
    ) -> ServedModel:
        """The model of that kind that a request names; MODEL_NOT_FOUND otherwise.

        When it names none, the first that its caller may use by its id; when there is none either, the first of all.
        """
        if not model_id:
            models = [model for model in self.models if model.kind == kind]
            if not models:
                raise _not_found(f"no {kind} model is served here")
            return next((model for model in models if may_use(model.id)), models[0])
        model = self.find(model_id)
        if model.kind != kind:
            raise _not_found(f"the model {model_id!r} is of kind {model.kind}, not {kind}")
        return model


def _not_found(message: str) -> MeshError:
    return MeshError(Reason.MODEL_NOT_FOUND, message, param="model")
