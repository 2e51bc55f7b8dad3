"""Every place where something from outside comes in, with what to put into it.

A door's `open` is called with what its strategy gave, inside `guard.watched`. It returns, or
raises an error in the project's own words; anything else is a defect.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from safetensors.numpy import save

from grok.architectures import families
from grok.checkpoints.grok1 import open_checkpoint, router_path, tensor_paths, write_checkpoint
from grok.checkpoints.safetensors import read_header
from grok.checkpoints.safetensors_folder import SafetensorsFolder
from grok.checkpoints.tensor_file import QuantizedWeight8bit, read_tensor, write_tensor
from grok.checkpoints.tensor_offsets import locate_tensor
from grok.checkpoints.tokenizer import open_tokenizer
from grok.config import BUNDLED_MODEL, GrokConfig
from grok.dictionaries.exchange.__main__ import forms
from grok.dictionaries.exchange.graph_reading import read_graph
from grok.dictionaries.indexing.tables import write_manifest, write_table
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32, param_shapes
from grok.dictionaries.kinds.files import TENSORS as TENSORS_FILE
from grok.dictionaries.kinds.files import TEXT as TEXT_FILE
from grok.dictionaries.kinds.files import load_dictionary, nested, save_dictionary
from grok.experiments.collection import load_collection
from grok.runner.saved_values import load_saved
from grok.serving.remote.bodies import Limits, Told
from grok.serving.remote.calls import CALLS
from grok.serving.remote.wire import packed, unpacked
from grok.streaming.resume import Kept
from lens.errors import LensError
from lens.extract.gguf import extract_gguf
from lens.extract.grok1 import extract_routers
from lens.extract.safetensors import extract_safetensors
from lens.features import FeatureQuery, FeatureStore
from lens.features.explaining.excerpts import all_excerpts
from lens.many_prompts.expert_cards import load_cards
from lens.many_prompts.prompt_lists import FORMS, columns_of, read_prompts
from lens.many_prompts.run_events import check_files
from lens.many_prompts.run_record import read_run
from lens.many_prompts.run_statistics import run_traces
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import SharedTexts
from lens.many_prompts.trace_folder import read_labels
from lens.routers.router_set import RouterSet, kind_of_npz, load_routers
from lens.storage.disk_cache import DiskCache, content_key
from lens.storage.expert_notes import ExpertNote, NoteBook
from lens.traces.trace import load_trace
from tests.fuzz.material import archives, changed_bytes, changed_json, words
from tests.grok.dictionaries.exchange.foreign import made as small_dictionary
from tests.lens.many_prompts.run_making import finished, random_routing
from tests.small_models import CONFIG, model

OWNER = "0" * 64
SMALL = GrokConfig(
    vocab_size=16,
    d_model=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    d_head=4,
    widening=2,
    n_experts=4,
    top_k=2,
    context_length=8,
    embedding_multiplier=1.0,
    output_multiplier=1.0,
    attention_multiplier=0.5,
)


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        given: what comes.
        open: takes it, with a folder to put it into.
        good: something that the door takes, given before anything is watched.
        examples: tried in a round of the continuous check.
    """

    given: st.SearchStrategy[Any]
    open: Callable[[Any, Path], object]
    good: Any
    examples: int = 150


def archive(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# --- uploads and traces ------------------------------------------------------------------------

_rng = np.random.default_rng(3)
_routers = _rng.standard_normal((2, 6, 4)).astype(np.float32)
ROUTERS: dict[str, Any] = {
    "routers": _routers,
    "norm_scales": np.ones((2, 6), np.float32),
    "layer_ids": np.arange(2, dtype=np.int32),
    "top_k": np.int32(2),
    "score": np.str_("softmax"),
    "biases": np.zeros((2, 4), np.float32),
    "source": np.str_("somewhere"),
    "format_version": np.int32(1),
    "sha256": np.str_(RouterSet(_routers, np.ones((2, 6), np.float32)).sha256),
}


def _trace() -> dict[str, Any]:
    logits = _rng.standard_normal((2, 3, 4)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :2].astype(np.int32)
    return {
        "tokens": np.arange(1, 4, dtype=np.int32),
        "pieces": np.array(["▁one", "two", "<0xE2>"]),
        "prompt_length": np.int32(2),
        "router_logits": logits,
        "router_probs": probs.astype(np.float32),
        "experts": experts,
        "gates": np.take_along_axis(probs, experts, -1).astype(np.float32),
        "candidates": np.arange(6, dtype=np.int32).reshape(3, 2),
        "candidate_probs": np.full((3, 2), 0.25, np.float32),
        "candidate_pieces": np.array([["a", "b"]] * 3),
        "model_sha256": np.str_("0123456789abcdef" * 4),
        "settings": np.str_(json.dumps({"dtype": "bfloat16", "interventions": []})),
        "format_version": np.int32(1),
    }


TRACE = _trace()


def _upload(content: bytes, _: Path) -> None:
    """As the sidebar takes a file."""
    file = io.BytesIO(content)
    if kind_of_npz(file) == "routers":
        found = load_routers(file)
        found.columns("canonical")
        assert found.key and found.label(0, 0)
    else:
        assert load_trace(file).n_tokens >= 1


def _trace_with_settings(settings: bytes) -> bytes:
    text = settings.decode("utf-8", "replace").replace("\0", " ")
    return archive(TRACE | {"settings": np.str_(text)})


def _cache_entry(content: bytes, folder: Path) -> None:
    cache, key = DiskCache(folder), content_key("fuzz")
    (folder / f"some-{key}.npz").write_bytes(content)
    cache.get("some", key)


def _saved(content: bytes, folder: Path) -> None:
    (folder / "saved.npz").write_bytes(content)
    load_saved(folder / "saved.npz")


def _cards(content: bytes, folder: Path) -> None:
    (folder / "cards.npz").write_bytes(content)
    cards = load_cards(folder / "cards.npz")
    cards.main.tolist()
    for layer, expert in np.ndindex(*cards.share.shape[1:]):
        cards.said(layer, expert)
        cards.contexts(layer, expert)


def _few_cards() -> dict[str, Any]:
    cell = (2, 2, 4)
    numbers = {n: np.full(cell, 0.2, np.float32) for n in ("share", "elsewhere", "label_q")}
    by_word = (2, 4, 1)
    contexts = (2, 4, 1)
    return numbers | {
        "format_version": np.array(1),
        "model_sha256": np.array("0" * 64),
        "labels": np.array(["a", "b"]),
        "n_prompts": np.array([2, 2]),
        "n_tokens": np.array([9, 9]),
        "draws": np.array(99),
        "seed": np.array(0),
        "pieces": np.array(["▁the"]),
        "occurrences": np.array([5]),
        "taken": np.full(by_word, 3),
        **{n: np.full(by_word, 0.01, np.float32) for n in ("expected", "word_q", "inside_q")},
        "gate": np.full(contexts, 0.5, np.float32),
        "context_label": np.zeros(contexts, np.uint8),
        **{n: np.full(contexts, "text") for n in ("before", "piece", "after")},
    }


CARDS = _few_cards()
SAVED = {
    "format_version": np.array(1, np.int32),
    "tokens": np.arange(3, dtype=np.int32),
    "pieces": np.array(["a", "b", "c"]),
    "prompt_length": np.array(3, np.int32),
    "model_sha256": np.array("0" * 64),
    "settings": np.array("{}"),
    "site:layers[0].resid_post": np.zeros((3, 4), np.float32),
}
ENTRY = {"cache_key": np.str_(f"some:{content_key('fuzz')}"), "values": np.zeros(3)}


# --- checkpoints -------------------------------------------------------------------------------


def _tensor_bytes(tensor: Any, name: str = "t") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_tensor(Path(folder) / name, tensor)
        return (Path(folder) / name).read_bytes()


PLAIN = _tensor_bytes(np.arange(8, dtype=np.float32).reshape(2, 4))
QUANTIZED = _tensor_bytes(
    QuantizedWeight8bit(
        np.arange(32, dtype=np.int8).reshape(8, 4), np.ones((4, 4), ml_dtypes.bfloat16)
    )
)


class _Foreign:
    """Pickles as a call that leaves a mark where it is run."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch executed",)


FOREIGN = [pickle.dumps(_Foreign(), protocol=protocol) for protocol in range(5)]
OPCODES = st.sampled_from([bytes([n]) for n in range(256)])
ARGUMENTS = st.sampled_from(
    [b"", b"\0", b"\x08", b"\xff" * 4, b"\xff" * 8, struct.pack("<Q", 2**40), b"os\nsystem\n"]
    + [
        b"\x02os",
        b"\x06system",
        b"\x05numpy",
        b"\x07ndarray",
        b"\x00\x10\x00\x00",
        b"C\x01b",
        b"5\n",
    ]
)
PICKLES = st.lists(st.tuples(OPCODES, ARGUMENTS), max_size=40).map(
    lambda steps: b"\x80\x04" + b"".join(code + argument for code, argument in steps) + b"."
)
TENSORS = st.one_of(
    changed_bytes(PLAIN), changed_bytes(QUANTIZED), PICKLES, st.sampled_from(FOREIGN)
)


def _tensor(content: bytes, folder: Path) -> None:
    file = folder / "tensor00000_000"
    file.write_bytes(content)
    try:
        locate_tensor(file)
    finally:
        found = read_tensor(file, max_bytes=2**20)
        assert found.nbytes <= len(content)
    assert not (folder / "executed").exists() and not Path("executed").exists()


def _checkpoint_files() -> dict[str, bytes]:
    """Router, norm and config of a small checkpoint, by their names."""

    def values(path: str) -> np.ndarray:
        from grok.checkpoints.grok1 import expected_shape

        return _rng.standard_normal(expected_shape(SMALL, path)).astype(np.float32)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "small"
        write_checkpoint(folder, SMALL, {path: values(path) for path in tensor_paths(2)})
        checkpoint = open_checkpoint(folder)
        paths = [name(layer) for layer in range(2) for name in (router_path, _norm)]
        files = {
            f"ckpt-0/{checkpoint.file(p).name}": checkpoint.file(p).read_bytes() for p in paths
        }
        return files | {"config.json": (folder / "config.json").read_bytes()}


def _norm(layer: int) -> str:
    from grok.checkpoints.grok1 import moe_norm_path

    return moe_norm_path(layer)


CHECKPOINT = _checkpoint_files()
TENSOR_NAMES = sorted(name for name in CHECKPOINT if name.startswith("ckpt-0"))


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _checkpoint(changed: Mapping[str, bytes], folder: Path) -> None:
    extract_routers(_written(folder, CHECKPOINT | changed))


CHECKPOINTS = st.fixed_dictionaries(
    {},
    optional={
        "config.json": changed_json(json.loads(CHECKPOINT["config.json"])),
        TENSOR_NAMES[0]: changed_bytes(CHECKPOINT[TENSOR_NAMES[0]]),
        TENSOR_NAMES[-1]: TENSORS,
    },
)

# --- safetensors -------------------------------------------------------------------------------

SAFETENSORS = save(model("mixtral", [0, 1]))
_length = int.from_bytes(SAFETENSORS[:8], "little")
HEADER = json.loads(SAFETENSORS[8 : 8 + _length])
BODY = SAFETENSORS[8 + _length :]
INDEX = {"metadata": {"total_size": 1}, "weight_map": {n: "model.safetensors" for n in HEADER}}
FULL_CONFIG = CONFIG | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "vocab_size": 50,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "scoring_func": "softmax",
}


def _with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + BODY


SAFE_FILES = changed_json(HEADER).map(_with_header) | changed_bytes(SAFETENSORS)


def _safetensors(changed: Mapping[str, bytes], folder: Path) -> None:
    files = {"model.safetensors": SAFETENSORS, "config.json": json.dumps(FULL_CONFIG).encode()}
    extract_safetensors(_written(folder, files | changed))


def _model(changed: Mapping[str, bytes], folder: Path) -> None:
    """As a model that is to be run: where its tensors lie, and one of them."""
    opened = SafetensorsFolder(
        _written(folder, {"model.safetensors": SAFETENSORS} | changed), SMALL, HEADER
    )
    opened.check_complete()
    for name in opened.paths:
        opened.locate(name)
    opened.read(opened.paths[0])


def _gguf_bytes() -> bytes:
    from tests.lens.extract.test_gguf import write

    with tempfile.TemporaryDirectory() as folder:
        found = RouterSet(_rng.standard_normal((2, 6, 4)), np.ones((2, 6)))
        return Path(write(Path(folder) / "model.gguf", found)).read_bytes()


GGUF = _gguf_bytes()


def _gguf(content: bytes, folder: Path) -> None:
    (folder / "model.gguf").write_bytes(content)
    extract_gguf(folder / "model.gguf")


def _family(changed: Mapping[str, bytes], folder: Path) -> None:
    """As a model of a family that the folder's own config names."""
    files = {"model.safetensors": SAFETENSORS, "config.json": json.dumps(FULL_CONFIG).encode()}
    opened = families.open_checkpoint(_written(folder, files | changed))
    for name in opened.missing()[:3]:
        assert isinstance(name, str)
    opened.check_complete()


def _header(content: bytes, _: Path) -> None:
    from tests.small_models import Bytes

    read_header(Bytes(content))


def _dictionary_files() -> dict[str, bytes]:
    design, rule = Design("clt", (0, 2), ("router.input",), ("moe.normed",), 6, 4), RULE
    shapes = param_shapes(design, rule)
    arrays = {name: _rng.standard_normal(shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        made = Dictionary(design, rule, as_float32(nested(arrays)), {"model": "one", "seed": 3})
        save_dictionary(folder, made)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


RULE = Activation("jumprelu", 2)
DICTIONARY = _dictionary_files()


def _dictionary(changed: Mapping[str, bytes], folder: Path) -> None:
    """The hash is made to fit, so that what lies behind it is read."""
    files = DICTIONARY | changed
    digest = hashlib.sha256(files[TENSORS_FILE]).hexdigest().encode()
    before = hashlib.sha256(DICTIONARY[TENSORS_FILE]).hexdigest().encode()
    text = files[TEXT_FILE].replace(before, digest)
    load_dictionary(_written(folder, files | {TEXT_FILE: text}))


def _foreign_files() -> dict[str, dict[str, bytes]]:
    """Small dictionaries, and a graph, as other tools write them."""
    found = {}
    for tool, form in TOOLS.items():
        function = "topk" if tool == "sparsify" else "jumprelu"
        kind = "clt" if tool == "circuit-tracer" else "transcoder"
        with tempfile.TemporaryDirectory() as folder:
            form.write(Path(folder), small_dictionary(kind, function, (0, 1)))
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            found[tool] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    node = {"node_id": "0_3_1", "feature": 9, "layer": "0", "ctx_idx": 1, "clerp": "",
            "feature_type": "cross layer transcoder", "jsNodeId": "0_3-0"}  # fmt: skip
    link = {"source": "0_3_1", "target": "0_3_1", "weight": 1.5}
    graph = {"metadata": {"prompt_tokens": ["a", "b"]}, "nodes": [node], "links": [link]}
    return found | {"graph": {"graph.json": json.dumps(graph).encode()}}


TOOLS = forms()
FOREIGN = _foreign_files()


def _foreign(given: tuple[str, Mapping[str, bytes]], folder: Path) -> None:
    tool, changed = given
    _written(folder, FOREIGN[tool] | changed)
    if tool == "graph":
        read_graph(folder / "graph.json")
    else:
        options = {"source": folder, "reads": None, "writes": None, "scale": None}
        TOOLS[tool].read(argparse.Namespace(**options))


# --- tokenizers, lists of prompts, ids, stores ----------------------------------------------------

TOKENIZER = (BUNDLED_MODEL / "tokenizer.model").read_bytes()


def _tokenizer(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    found = open_tokenizer(folder / name, 2**17)
    tokens = found.encode("A text, with ünïcode 日本 and\nlines.")
    found.pieces(tokens)
    found.decode(tokens)


def _json_tokenizer() -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {piece: i for i, piece in enumerate(["<s>", "a", "b", "c", "ab", "abc", "Ġ"])}
    made = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")], unk_token="<s>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("x", "y")])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    found: dict[str, Any] = json.loads(made.to_str())
    return found


JSON_TOKENIZER = _json_tokenizer()

LISTS = (
    "first prompt\nsecond prompt\n",
    "a\tfirst\nb\tsecond\n",
    'label,prompt\na,"one, two"\nb,"line\nbreak"\n',
    '{"label": "a", "prompt": "one"}\n{"label": 3, "text": "two"}\n',
    "prompt;label\nx;y\n",
)
_lists = st.one_of(
    st.sampled_from(LISTS).flatmap(lambda text: changed_bytes(text.encode())),
    st.sampled_from(LISTS).flatmap(lambda text: changed_bytes(text.encode("utf-16"))),
    st.lists(words, max_size=6).map(lambda parts: "\n".join(parts).encode("utf-8", "replace")),
    st.lists(words, max_size=6).map("\t".join),
    changed_json({"label": "a", "prompt": "one", "n": 1}),
)
_columns = st.none() | words


def _prompts(given: tuple[Any, ...], _: Path) -> None:
    source, form, prompt_column, label_column, where = given
    columns = columns_of(source, form=form)
    assert all(isinstance(name, str) for name in columns)
    found = read_prompts(
        source, form=form, prompt_column=prompt_column, label_column=label_column, where=where
    )
    assert len(found.texts) == len(found.labels) > 0
    assert read_prompts(found.jsonl(), form="jsonl").texts == found.texts


def _text_id(text_id: str, folder: Path) -> None:
    SharedTexts(folder, keep_days=0).get(text_id)


def _run_id(run_id: str, folder: Path) -> None:
    RunStore(folder, keep_days=0).get(run_id)


ID = "A" * 22
SHARED = {
    "format_version": 1,
    "id": ID,
    "owner": OWNER,
    "created": 1e9,
    "row": "inspect",
    "texts": {"prompt": "Hello"},
}
RUN = {
    "format_version": 1,
    "id": ID,
    "owner": OWNER,
    "created": 1e9,
    "changed": 1e9,
    "model_name": "Small",
    "dtype": "float32",
    "n_experts": 4,
    "n_prompts": 2,
    "by_label": {"a": 1, "b": 1},
    "model_sha256": "0" * 64,
    "n_tokens": 10,
    "tokens_done": 10,
    "status": "finished",
    "problem": "",
}
MANIFEST = {
    "format_version": 1,
    "model": "Small",
    "parts": 2,
    "parts_done": 1,
    "n_tokens": 10,
    "n_prompts": 2,
    "part_tokens": 5,
    "sites": {"layers[0].resid_post": {"axes": ["token"], "stored": "float32"}},
    "settings": {},
    "prompts_sha256": "0" * 64,
}


def _shared(content: bytes, folder: Path) -> None:
    (folder / f"{ID}.json").write_bytes(content)
    store = SharedTexts(folder, keep_days=0)
    store.of(OWNER)
    found = store.get(ID)
    assert all(isinstance(text, str) for text in found.texts.values())


def _record(content: bytes, folder: Path) -> None:
    (folder / ID).mkdir(exist_ok=True)
    (folder / ID / "run.json").write_bytes(content)
    read_run(folder / ID)
    store = RunStore(folder, keep_days=0)
    for run in store.runs_of(OWNER):
        assert f"{run.n_prompts:,} {run.tokens_done:,} {run.n_tokens:,} {', '.join(run.by_label)}"
        time.gmtime(run.created)
    store.get(ID)


@cache
def _some_run() -> dict[str, bytes]:
    """The files of a finished run, by their names in its folder; made where the door is tried."""
    with tempfile.TemporaryDirectory() as place:
        store = RunStore(Path(place))
        routing = random_routing(np.random.default_rng(0), [4, 3])
        run = finished(store, *routing, ["a", "b"])
        return {
            str(path.relative_to(run.folder)): path.read_bytes()
            for path in run.folder.rglob("*")
            if path.is_file()
        }


def _events(changed: Mapping[str, bytes], folder: Path) -> None:
    files = _some_run()
    run_id = json.loads(files["run.json"])["id"]
    (folder / run_id).mkdir(exist_ok=True)
    _written(folder / run_id, files | changed)
    run = RunStore(folder, keep_days=0).get(run_id)
    check_files(run)
    run_traces(run)


def _notes(content: bytes, folder: Path) -> None:
    book = NoteBook(folder)
    book.file.write_bytes(content)
    book.of(OWNER)
    book.keep(OWNER, ExpertNote("0" * 64, 2, 5, "L2·E5", name="endings"))
    assert "endings" in [note.name for note in book.of(OWNER)]


def _notes_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        book = NoteBook(folder)
        book.keep(OWNER, ExpertNote("0" * 64, 1, 5, "L1·E5", name="words", note="some"))
        return book.file.read_bytes()


NOTES = _notes_file()


def _manifest(content: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(content)
    found = load_collection(folder)
    assert found.finished in (True, False) and len(found.routing_files) < 100_000


def _state(content: bytes, folder: Path) -> None:
    kept = Kept(folder, "0" * 32)
    kept.place.mkdir(exist_ok=True)
    (kept.place / "stream.state").write_bytes(content)
    kept.load()


def _good_state() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(Path(folder), "0" * 32)
        kept.save(0, [np.zeros(2, np.float32)], [np.zeros((2, 2), np.float32)])
        return (kept.place / "stream.state").read_bytes()


def _resealed(content: bytes) -> bytes:
    """The state with a hash that fits, so that what lies behind it is read."""
    return hashlib.sha256(content[32:]).digest() + content[32:]


STATE = _good_state()

# --- databases of features ------------------------------------------------------------------------


@cache
def _features_files() -> dict[str, bytes]:
    """A database of one group of two features, the second never active; made as a run is."""
    keys = {"group": pa.array([0, 0], pa.int16()), "feature": pa.array([0, 1], pa.int32())}
    numbers = {
        name: pa.array([0.5, 0.0], pa.float32())
        for name in ("rate", "mean", "max", "by_domain", "by_token", "by_pair", "push", "excess",
                     "flips", "x", "y")
    }  # fmt: skip
    whole = {
        name: pa.array([1, 0], pa.int16())
        for name in ("layer", "n", "bin_first", "push_layer", "push_expert", "associations",
                     "flips_layer")
    }  # fmt: skip
    lists = {
        name: pa.array([[1], []], pa.list_(kind))
        for name, kind in {
            "bins": pa.int32(), "label_rates": pa.float16(), "near": pa.int32(),
            "near_cosine": pa.float16(), "with": pa.int32(), "with_pmi": pa.float16(),
            "with_jaccard": pa.float16(), "words": pa.int32(), "word_shares": pa.float16(),
        }.items()
    }  # fmt: skip
    one = {"group": pa.array([0], pa.int16()), "feature": pa.array([0], pa.int32())}
    context = {
        name: pa.array([1], pa.int32()) for name in ("kind", "rank", "window", "position", "start")
    } | {
        "value": pa.array([0.5], pa.float32()),
        "values": pa.array([[0.5]], pa.list_(pa.float16())),
    }
    route = {name: pa.array([0], pa.int16()) for name in ("layer", "expert")} | {
        name: pa.array([-0.5], pa.float16())
        for name in ("static", "push", "share", "excess", "log10_p", "log10_q", "flips")
    }
    facts = {
        "kind": "sae", "reads": ["a"], "writes": ["a"], "groups": 1, "features": 2, "layers": [0],
        "experts": 2, "labels": ["a"], "tokens_by_label": [9], "held_out_tokens": 9,
        "sampled_tokens": 9, "chosen": [[0.5, 0.5]], "kinds": ["top", "quarter 1"],
        "bins": {"lowest": 1e-4, "highest": 1e3}, "model": "m", "model_sha256": "0",
        "dictionary_sha256": "0",
    }  # fmt: skip
    tables = {
        "features": {**keys, **numbers, **whole, **lists},
        "examples": {**one, **context},
        "judged": {**one, **context},
        "routes": {**one, **route},
        "logits": {"token": pa.array([1]), **one, "value": pa.array([0.5], pa.float16())},
        "windows": {
            "window": pa.array([1]), "label": pa.array([0]), "held_out": pa.array([True]),
            "tokens": pa.array([[1, 2]], pa.list_(pa.int32())),
        },
        "pieces": {"piece": ["a", "b", "c"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table, columns in tables.items():
            write_table(folder, table, columns)
        write_manifest(folder, facts, list(tables))
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


QUERIES = (
    FeatureQuery(), FeatureQuery(text="a", dead=True), FeatureQuery(expert=(0, 0), by="excess"),
    FeatureQuery(like=(0, 0)), FeatureQuery(raises=1), FeatureQuery(token=1, sort="flips"),
)  # fmt: skip


def _features(changed: Mapping[str, bytes], folder: Path) -> None:
    """Whatever is in the tables has a hash that fits."""
    files = _features_files() | changed
    try:
        text = json.loads(files["features.json"])
        for name, content in changed.items():
            if name.endswith(".parquet"):
                own = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                text["files"][name.removesuffix(".parquet")] = own
        files["features.json"] = json.dumps(text).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # a manifest that is none stays so
    place = folder / "features"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    store = FeatureStore.open(_written(place, files))
    for step in (
        *(partial(store.find, query) for query in QUERIES),
        *(partial(store.card, 0, feature) for feature in (0, 1)),
        partial(store.judged, 0, 0),
        store.map,
        lambda: list(all_excerpts(store)),
    ):
        try:
            step()
        except LensError:
            pass


# --- the model's server ---------------------------------------------------------------------------

_CHANGE = {"site": "router.logits", "kind": "ban", "arguments": [1], "layers": [1]}
_CHANGES = [_CHANGE, {"site": "moe.output", "kind": "scale", "arguments": [0.5], "positions": [0]}]
BODIES: dict[str, Any] = {
    "encode": {"prompt": [5, 17]},
    "pieces": {"tokens": [5, 17]},
    "trace": {"prompt": [5, 17, 3], "candidates": 3, "edits": _CHANGES},
    "trace_all": {"prompts": [[5, 17, 3], [4]], "candidates": 3},
    "what_ifs": {"prompt": [5, 17, 3], "edits": [_CHANGES, [_CHANGE]], "candidates": 2},
    "logit_lens": {"prompt": [5, 17, 3], "candidates": 2},
    "stream": {"prompt": [5, 17], "max_new_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1},
    "forward": {"rows": [[5, 17], [3]]},
}
_bodies = st.sampled_from(sorted(BODIES)).flatmap(
    lambda name: st.tuples(st.just(name), changed_json(BODIES[name], most=2))
)


@cache
def _served() -> Any:
    import grok
    from grok.serving.shared_model import SharedModel

    data = Path(__file__).resolve().parents[1] / "data"
    model = SharedModel(grok.load(data / "tiny3", dtype="float32", mesh=(1, 1)))
    for name, body in BODIES.items():  # compiles what these bodies run
        CALLS[name].work(model, body, TOLD, LIMITS)
    return model


TOLD, LIMITS = Told(*[lambda *_: None] * 4), Limits(prompt_tokens=64)


def _body(given: tuple[str, bytes], _: Path) -> None:
    """As the server takes a call, from the bytes of its body to the end of its work."""
    name, content = given
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return  # which the server says
    checked = CALLS[name].check(body)
    if checked.get("max_new_tokens", 0) < 9:
        CALLS[name].work(_served(), checked, TOLD, LIMITS)


def _result(content: bytes, _: Path) -> None:
    unpacked(content)


RESULT = packed({"tokens": np.arange(3), "text": "some", "parts": [1.5, None, (2, "b")]})

DOORS: dict[str, Door] = {
    "uploaded routers": Door(archives(ROUTERS), _upload, archive(ROUTERS)),
    "uploaded trace": Door(archives(TRACE), _upload, archive(TRACE)),
    "settings of a trace": Door(
        changed_json({"dtype": "float32", "interventions": ["ban"]}).map(_trace_with_settings),
        _upload,
        archive(TRACE),
        examples=60,
    ),
    "saved values": Door(archives(SAVED), _saved, archive(SAVED)),
    "expert cards": Door(archives(CARDS), _cards, archive(CARDS)),
    "entry of the cache": Door(archives(ENTRY), _cache_entry, archive(ENTRY)),
    "tensor file": Door(TENSORS, _tensor, PLAIN, examples=400),
    "checkpoint folder": Door(CHECKPOINTS, _checkpoint, {}),
    "safetensors header": Door(SAFE_FILES, _header, SAFETENSORS, examples=250),
    "safetensors folder": Door(
        st.fixed_dictionaries(
            {},
            optional={
                "model.safetensors": SAFE_FILES,
                "config.json": changed_json(FULL_CONFIG),
                "model.safetensors.index.json": changed_json(INDEX),
            },
        ),
        _safetensors,
        {},
    ),
    "safetensors folder of a model": Door(
        st.fixed_dictionaries(
            {},
            optional={
                "model.safetensors": SAFE_FILES,
                "model.safetensors.index.json": changed_json(INDEX),
            },
        ),
        _model,
        {},
    ),
    "config of a model": Door(
        st.fixed_dictionaries({"config.json": changed_json(FULL_CONFIG)}), _family, {}
    ),
    "dictionary of features": Door(
        st.fixed_dictionaries(
            {},
            optional={
                TEXT_FILE: changed_json(json.loads(DICTIONARY[TEXT_FILE])),
                TENSORS_FILE: changed_bytes(DICTIONARY[TENSORS_FILE]),
            },
        ),
        _dictionary,
        {},
        examples=100,
    ),
    "files of another tool": Door(
        st.sampled_from(sorted(FOREIGN)).flatmap(
            lambda tool: st.tuples(
                st.just(tool),
                st.fixed_dictionaries(
                    {},
                    optional={
                        name: changed_json(json.loads(content))
                        if name.endswith(".json")
                        else changed_bytes(content)
                        for name, content in FOREIGN[tool].items()
                    },
                ),
            )
        ),
        _foreign,
        ("graph", {}),
        examples=40,
    ),
    "database of features": Door(
        st.deferred(
            lambda: st.dictionaries(
                st.sampled_from(sorted(_features_files())), st.none(), max_size=2
            ).flatmap(
                lambda some: st.fixed_dictionaries(
                    {
                        name: changed_json(json.loads(_features_files()[name]))
                        if name.endswith(".json")
                        else changed_bytes(_features_files()[name])
                        for name in some
                    }
                )
            )
        ),
        _features,
        {},
        examples=25,
    ),
    "body of a call": Door(_bodies, _body, ("trace", json.dumps(BODIES["trace"]).encode()), 80),
    "result of a call": Door(changed_bytes(RESULT), _result, RESULT),
    "GGUF file": Door(changed_bytes(GGUF), _gguf, GGUF, examples=100),
    "tokenizer.model": Door(
        changed_bytes(TOKENIZER), partial(_tokenizer, "tokenizer.model"), TOKENIZER, examples=60
    ),
    "tokenizer.json": Door(
        changed_json(JSON_TOKENIZER, most=2),
        partial(_tokenizer, "tokenizer.json"),
        json.dumps(JSON_TOKENIZER).encode(),
        examples=200,
    ),
    "list of prompts": Door(
        st.tuples(_lists, st.sampled_from([None, *FORMS]), _columns, _columns, words),
        _prompts,
        (LISTS[2], None, None, None, "a.csv"),
        examples=300,
    ),
    "file of labels": Door(
        st.sampled_from(["file,label\na.npz,x\n", '{"file": "a.npz", "label": "x"}\n']).flatmap(
            lambda text: changed_bytes(text.encode())
        ),
        lambda content, _: read_labels(content),
        b"file,label\na.npz,x\n",
    ),
    "id of a shared text": Door(words, _text_id, ID, examples=50),
    "id of a run": Door(words, _run_id, ID, examples=50),
    "file of a shared text": Door(changed_json(SHARED), _shared, json.dumps(SHARED).encode()),
    "record of a run": Door(changed_json(RUN), _record, json.dumps(RUN).encode()),
    "Parquet files of a run": Door(
        st.deferred(
            lambda: st.fixed_dictionaries(
                {},
                optional={
                    name: changed_bytes(content)
                    for name, content in _some_run().items()
                    if name.endswith(".parquet")
                },
            )
        ),
        _events,
        {},
        examples=30,
    ),
    "file of notes": Door(changed_bytes(NOTES), _notes, NOTES, examples=60),
    "manifest of a collection": Door(
        changed_json(MANIFEST), _manifest, json.dumps(MANIFEST).encode()
    ),
    "state of a pass": Door(
        changed_bytes(STATE).map(_resealed) | changed_bytes(STATE), _state, STATE
    ),
}
