"""The one error of the local mesh: something the person at the terminal can act on."""


class MeshFailure(Exception):
    """The mesh cannot do what was asked; the message says why and what to do."""
