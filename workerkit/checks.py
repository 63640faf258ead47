"""Refuses what no worker could compute, whatever its kind; knows no protobuf and no model."""

from meshkit.errors import MeshError, Reason


def check_model(asked: str, served: str) -> None:
    """Raise MeshError MODEL_NOT_FOUND if a request names a model, and another one than is served."""
    if asked not in ("", served):
        message = f"this worker serves {served!r}, not {asked!r}"
        raise MeshError(Reason.MODEL_NOT_FOUND, message, param="model")


def check_num_texts(count: int, most: int, param: str) -> None:
    """Raise MeshError INVALID_REQUEST unless the field param holds 1 to `most` texts."""
    if not 1 <= count <= most:
        message = f"{param} holds {count} texts; it must hold 1 to {most}"
        raise MeshError(Reason.INVALID_REQUEST, message, param=param)
