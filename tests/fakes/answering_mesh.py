"""A gateway in front of a fake Triton that has an answer to whatever it is asked, as a process that prints its URL."""

import asyncio
import sys

from tests.contract.gateway.conftest import running_mesh
from tests.fakes.answers import fitting
from tests.fakes.triton import Compute


async def _serve() -> None:
    async with running_mesh() as mesh:
        mesh.triton.script = [Compute(fitting)]
        sys.stdout.write(f"{mesh.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
