"""Reranking engines, ours among them: a query and documents in, scores out, tokenising included; knows no timing."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.encoders import in_batches, num_threads, start_infinity, tokenizer_of, words_of
from bench.peers.protocol import Job, Outcome, run_engine, serve

QUERY = "Which of these tells how to install the system from another disk?"
# Documents in, one score each out.
Score = Callable[[Sequence[str]], Any]


def _ours(folder: Path, form: str) -> Score:
    ranker = import_module("services.rerank_worker.ranker").load_ranker(
        folder, import_module("modelkit.precision").Precision(form)
    )
    request = import_module("services.rerank_worker.request").RerankRequest
    return lambda documents: ranker.score(ranker.prepare(request(QUERY, tuple(documents))))


def _transformers(folder: Path, _form: str) -> Score:
    """The original's layout, padded to the longest row."""
    torch, lib = import_module("torch"), import_module("transformers")
    tokenizer = lib.AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = lib.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    head = import_module("safetensors.torch").load_file(folder / "model.safetensors")["linear.weight"][0]

    def score(documents: Sequence[str]) -> Any:  # noqa: ANN401
        texts = [
            f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{QUERY}\n\n{document}<|im_end|>\n<|im_start|>assistant\n"
            for document in documents
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
            return (states[torch.arange(len(texts)), batch["attention_mask"].sum(1) - 1] @ head).numpy()

    return score


def _sentence_transformers(folder: Path, _form: str) -> Score:
    torch = import_module("torch")
    model = import_module("sentence_transformers").CrossEncoder(
        str(folder), max_length=512, device="cpu", activation_fn=torch.nn.Identity()
    )
    return lambda documents: model.predict([(QUERY, each) for each in documents], show_progress_bar=False)


def _infinity(folder: Path, _form: str) -> Score:
    loop, engine = start_infinity(folder)

    def score(documents: Sequence[str]) -> list[float]:
        ranked, _ = loop.run_until_complete(engine.rerank(query=QUERY, docs=list(documents), raw_scores=True))
        return [each.relevance_score for each in sorted(ranked, key=attrgetter("index"))]

    return score


def _pairs(folder: Path) -> Callable[[Sequence[str]], list[Any]]:
    tokenizer = tokenizer_of(folder)
    return lambda documents: tokenizer.encode_batch([(QUERY, each) for each in documents])


def _arrays(rows: Sequence[Any]) -> list[Any]:
    return [np.array([getattr(each, name) for each in rows]) for name in ("ids", "attention_mask", "type_ids")]


def _onnxruntime(folder: Path, _form: str) -> Score:
    lib, pairs = import_module("onnxruntime"), _pairs(folder)
    options = lib.SessionOptions()
    options.intra_op_num_threads = num_threads()
    session = lib.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda documents: session.run(None, dict(zip(names, _arrays(pairs(documents)), strict=True)))[0][:, 0]


def _openvino(folder: Path, form: str) -> Score:
    lib, pairs = import_module("openvino"), _pairs(folder)
    # On a processor with AMX it would compute in bfloat16 without saying so.
    options = {"INFERENCE_PRECISION_HINT": form, "INFERENCE_NUM_THREADS": num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = lib.Core().compile_model(str(folder / "model.onnx"), "CPU", options)
    return lambda documents: model(_arrays(pairs(documents)))[0][:, 0]


def _ct2(folder: Path, form: str) -> Score:
    lib, tokenizer = import_module("ctranslate2"), tokenizer_of(folder)
    tokenizer.no_padding()
    encoder = lib.Encoder(str(folder / "ct2"), device="cpu", compute_type=form, intra_threads=num_threads())
    head = np.load(folder / "classifier.npy")

    def score(documents: Sequence[str]) -> Any:  # noqa: ANN401
        rows = tokenizer.encode_batch([(QUERY, each) for each in documents])
        found = encoder.forward_batch([each.ids for each in rows], token_type_ids=[each.type_ids for each in rows])
        return np.array(found.pooler_output) @ head

    return score


ENGINES = {
    "ours": _ours, "transformers": _transformers, "sentence-transformers": _sentence_transformers,
    "infinity": _infinity, "onnxruntime": _onnxruntime, "openvino": _openvino, "ct2": _ct2,
}  # fmt: skip


def main() -> None:
    """Serve a folder with an engine in a number format; `sorted` puts documents of a job in batches by length."""
    engine, folder, form, order = sys.argv[1:]
    score, path = ENGINES[engine](Path(folder), form), Path(folder)

    def prepare(job: Job) -> Callable[[], Outcome]:
        documents = words_of(path, job.prompts)

        def run() -> Outcome:
            return Outcome(sum(len(score(batch)) for batch in in_batches(documents, engine, order)))

        return run

    serve(
        prepare, {"score of a document": f"{float(score(['Write the image to the other disk, then boot it.'])[0]):.5f}"}
    )


if __name__ == "__main__":
    run_engine(main)
