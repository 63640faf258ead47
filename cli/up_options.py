"""The options of `zhinao up`: their types, help texts and bounds; their defaults stand in its signature."""

from typing import Annotated

import typer

from cli.options import DTYPES

_SOURCE = "Folder or Hugging Face name of {}; default: the demo model."
_DTYPE = "Number format of the {} models' weights: {}."

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the edge: REST and gRPC.")]
Host = Annotated[str, typer.Option(help="Address of the edge; all other parts stay on loopback.")]
ChatModel = Annotated[str | None, typer.Option(help=_SOURCE.format("a chat model"))]
EmbedModel = Annotated[str | None, typer.Option(help=_SOURCE.format("an embedding model"))]
RerankModel = Annotated[str | None, typer.Option(help=_SOURCE.format("a reranker, or of any chat model"))]
OneMoreModel = Annotated[
    list[str] | None,
    typer.Option(help="ID=KIND:PATH, one more model; may be repeated. KIND: chat, embed or rerank."),
]
ServedModelName = Annotated[list[str] | None, typer.Option(help="KIND=ID, the id of --KIND-model; may be repeated.")]
ChatDtype = Annotated[str, typer.Option(help=_DTYPE.format("chat", ", ".join(DTYPES["chat"])))]
EmbedDtype = Annotated[str, typer.Option(help=_DTYPE.format("embedding", ", ".join(DTYPES["embed"])))]
RerankDtype = Annotated[str, typer.Option(help=_DTYPE.format("reranking", ", ".join(DTYPES["rerank"])))]
MaxModelLen = Annotated[
    int | None, typer.Option(min=1, help="Longest chat, prompt and answer, in tokens; default: the model's.")
]
Replicas = Annotated[
    str, typer.Option(help="Workers per model by kind, e.g. chat=2,embed=1,rerank=0; 0 leaves a kind out.")
]
Autoscale = Annotated[
    str, typer.Option(help="Most workers per model by kind, e.g. chat=4: as many run as the load needs.")
]
Gateways = Annotated[int, typer.Option(min=1, max=8, help="Gateway processes; with two, restarts interrupt nobody.")]
MaxBodyBytes = Annotated[int, typer.Option(min=1, envvar="GATEWAY_MAX_BODY_BYTES", help="Largest request.")]
RequestsPerSecond = Annotated[
    int | None, typer.Option(min=1, help="Requests that the edge takes in a second, of all clients; default: no limit.")
]
NoKeys = Annotated[
    bool, typer.Option("--insecure-no-keys", help="Ask for no keys, even where others can reach the edge.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Return when the mesh is ready; it goes on running.")]
