"""Embedding engines, ours among them: texts in, unit vectors out, tokenising included; knows no timing."""

import asyncio
import os
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.protocol import Job, Outcome, run_engine, serve

BATCH = 32
# Texts in, vectors out.
Encode = Callable[[Sequence[str]], Any]


def num_threads() -> int:
    """How many an engine may use."""
    return int(os.environ["OMP_NUM_THREADS"])  # set by what started us; torch reads it itself


def _ours(folder: Path, form: str) -> Encode:
    encoder = import_module("services.embed_worker.encoder").load_encoder(
        folder, import_module("modelkit.precision").Precision(form)
    )
    request = import_module("services.embed_worker.request")

    def encode(texts: Sequence[str]) -> Any:  # noqa: ANN401
        asked = request.EmbedRequest(tuple(texts), False, None, None, request.Truncate.ERROR, None)
        return encoder.encode([row.token_ids for row in encoder.prepare(asked)])

    return encode


def _sentence_transformers(folder: Path, _form: str) -> Encode:
    torch = import_module("torch")
    model = import_module("sentence_transformers").SentenceTransformer(str(folder), device="cpu")

    def encode(texts: Sequence[str]) -> Any:  # noqa: ANN401
        with torch.inference_mode():
            return model(model.preprocess(list(texts)))["sentence_embedding"].numpy()

    return encode


def start_infinity(folder: Path) -> tuple[asyncio.AbstractEventLoop, Any]:
    """Its engine on a folder, started, and the loop that it runs in."""
    lib = import_module("infinity_emb")
    loop = asyncio.new_event_loop()
    options = lib.EngineArgs(
        model_name_or_path=str(folder), engine="torch", device="cpu", dtype="float32", batch_size=BATCH,
        bettertransformer=False, compile=False, model_warmup=False,
    )  # fmt: skip
    engine = lib.AsyncEmbeddingEngine.from_args(options)
    loop.run_until_complete(engine.astart())
    return loop, engine


def _infinity(folder: Path, _form: str) -> Encode:
    loop, engine = start_infinity(folder)
    return lambda texts: loop.run_until_complete(engine.embed(sentences=list(texts)))[0]


def tokenizer_of(folder: Path) -> Any:  # noqa: ANN401
    """Of a folder, cutting at 512 tokens and padding to the longest row."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    return tokenizer


def _padded(tokenizer: Any, texts: Sequence[str]) -> tuple[Any, Any]:  # noqa: ANN401
    encoded = tokenizer.encode_batch(list(texts))
    return np.array([each.ids for each in encoded]), np.array([each.attention_mask for each in encoded])


def _onnxruntime(folder: Path, _form: str) -> Encode:
    lib, tokenizer = import_module("onnxruntime"), tokenizer_of(folder)
    options = lib.SessionOptions()
    options.intra_op_num_threads = num_threads()
    session = lib.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda texts: session.run(None, dict(zip(names, _padded(tokenizer, texts), strict=True)))[0]


def _openvino(folder: Path, form: str) -> Encode:
    lib, tokenizer = import_module("openvino"), tokenizer_of(folder)
    # On a processor with AMX it would compute in bfloat16 without saying so.
    options = {"INFERENCE_PRECISION_HINT": form, "INFERENCE_NUM_THREADS": num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = lib.Core().compile_model(str(folder / "model.onnx"), "CPU", options)
    return lambda texts: model(list(_padded(tokenizer, texts)))[0]


def _ct2(folder: Path, form: str) -> Encode:
    lib, tokenizer = import_module("ctranslate2"), tokenizer_of(folder)
    tokenizer.no_padding()
    encoder = lib.Encoder(str(folder / "ct2"), device="cpu", compute_type=form, intra_threads=num_threads())

    def encode(texts: Sequence[str]) -> Any:  # noqa: ANN401
        rows = [each.ids for each in tokenizer.encode_batch(list(texts))]
        hidden = np.array(encoder.forward_batch(rows).last_hidden_state)
        kept = (np.arange(hidden.shape[1]) < np.array([[len(row)] for row in rows]))[..., None]
        mean = (hidden * kept).sum(1) / kept.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    return encode


ENGINES = {
    "ours": _ours, "sentence-transformers": _sentence_transformers, "infinity": _infinity,
    "onnxruntime": _onnxruntime, "openvino": _openvino, "ct2": _ct2,
}  # fmt: skip


def words_of(folder: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Texts of as many words as there are numbers; each is one token of the encoder's vocabulary in the folder."""
    plain = set(string.ascii_lowercase)
    words = [word for word in (folder / "vocab.txt").read_text("utf-8").split() if len(word) > 2 and set(word) <= plain]
    return [" ".join(words[number % len(words)] for number in prompt) for prompt in prompts]


def texts_of(folder: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Texts of exactly as many tokens as there are numbers, with the two that frame them."""
    return words_of(folder, [prompt[2:] for prompt in prompts])


def in_batches(texts: Sequence[str], engine: str, order: str) -> Iterator[Sequence[str]]:
    """As an engine gets them: all at once if it makes batches itself, else as they come, or `sorted` by length."""
    if engine in ("ours", "infinity"):
        yield texts
        return
    rows = sorted(texts, key=len) if order == "sorted" else texts
    yield from (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def main() -> None:
    """Serve a folder with an engine in a number format; `sorted` puts texts of a job in batches by length."""
    engine, folder, form, order = sys.argv[1:]
    encode, path = ENGINES[engine](Path(folder), form), Path(folder)

    def prepare(job: Job) -> Callable[[], Outcome]:
        texts = texts_of(path, job.prompts)

        def run() -> Outcome:
            return Outcome(sum(len(encode(batch)) for batch in in_batches(texts, engine, order)))

        return run

    probe = np.asarray(encode(["the sky is blue", "what color is the sky"]))
    serve(prepare, {"cosine of two texts": f"{float(probe[0] @ probe[1]):.6f}"})


if __name__ == "__main__":
    run_engine(main)
