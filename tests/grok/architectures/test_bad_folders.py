"""Folders whose config lies, or whose files are missing, foreign or damaged: each is refused where
it is opened, by a message that says where, what was found, what was expected and what to do."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import grok
from grok.architectures.families import open_checkpoint
from grok.errors import CheckpointError, ConfigError, GrokError
from lens.errors import LensError
from lens.extract.folder import folder_routers

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
# One file of floats, an expert in three tensors; two files and an index, experts in 4 bits as one
# tensor; 8 bits in blocks, experts in groups, a layer that is none.
FAMILIES = ("qwen3_moe", "gpt_oss_mxfp4", "deepseek_v3_fp8")
INDEX = "model.safetensors.index.json"
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
BYTES = {"F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1}
NAN = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f", "F8_E4M3": b"\x7f", "U8": b"\xff"}

Tensor = tuple[str, list[int], bytes]
Change = Callable[[Path], object]


def read(file: Path) -> dict[str, Tensor]:
    raw = file.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: (one["dtype"], one["shape"], raw[slice(*(start + n for n in one["data_offsets"]))])
        for name, one in header.items()
    }


def write(file: Path, tensors: dict[str, Tensor]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(values)]}
        at += len(values)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def config(**values: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def n_experts(of: Callable[[int], object]) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        config(**{key: of(found[key]) for key in EXPERTS if key in found})(folder)

    return change


def router(name: str) -> bool:
    return name in ("model.layers.1.mlp.gate.weight", "model.layers.1.mlp.router.weight")


def n_layers(more: int) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
        config(num_hidden_layers=found + more, layer_types=None)(folder)

    return change


def expert(name: str) -> bool:
    ends = ("experts.3.down_proj.weight", "experts.down_proj_blocks")
    return name.startswith("model.layers.1.mlp.") and name.endswith(ends)


def tensor(which: Callable[[str], bool], to: Callable[..., Tensor | None]) -> Change:
    def change(folder: Path) -> None:
        (file,) = [one for one in folder.glob("*.safetensors") if any(map(which, read(one)))]
        tensors = read(file)
        (name,) = filter(which, tensors)
        new = to(*tensors.pop(name))
        write(file, tensors if new is None else tensors | {name: new})

    return change


def one_less(dtype: str, shape: list[int], values: bytes) -> Tensor:
    n = shape[0]
    return dtype, [n - 1, *shape[1:]], values[: len(values) // n * (n - 1)]


def turned(dtype: str, shape: list[int], values: bytes) -> Tensor:
    return dtype, shape[::-1], values


def whole_numbers(dtype: str, shape: list[int], values: bytes) -> Tensor:
    return {1: "I8", 2: "I16", 4: "I32"}[BYTES[dtype]], shape, values


def not_finite(dtype: str, shape: list[int], values: bytes) -> Tensor:
    return dtype, shape, NAN[dtype] + values[BYTES[dtype] :]


def gone(*_: object) -> None:
    return None


def index(to: Callable[[dict[str, str]], object]) -> Change:
    def change(folder: Path) -> None:
        file = folder / INDEX
        if file.exists():
            names = json.loads(file.read_text())["weight_map"]
        else:
            names = dict.fromkeys(read(folder / "model.safetensors"), "model.safetensors")
        to(names)
        file.write_text(json.dumps({"weight_map": names}))

    return change


def last_file_gone(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def cut(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-64])


def put(folder: Path, which: Callable[[str], bool], file: str) -> None:
    (folder / "other.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    index(lambda names: names.update({next(filter(which, names)): file}))(folder)


class Marks:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def a_pickle(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(folder.parent / "ran")))


def own_code(folder: Path) -> None:
    (folder / "modeling_own.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')")
    own = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    config(model_type="own_moe", auto_map=own)(folder)


# What is done to a folder, and what the message names: place, found, expected and what to do.
CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "more experts": (n_experts(lambda n: 2 * n), ("shape [", "expected [", "Check that config")),
    "half of the experts": (n_experts(lambda n: n // 2), ("shape [", "expected [", "Check that c")),
    "no experts": (n_experts(lambda n: 0), ("found 0", "expected a whole number from 1", "Get ")),
    "a word": (n_experts(lambda n: "all"), ("found 'all'", "expected a whole number", "Get the")),
    "a billion": (n_experts(lambda n: 2**30), ("1,073,741,824 experts", "at most 262,144", "Get ")),
    "too many a token": (config(num_experts_per_tok=99), ("99 experts a token of", "Get the mod")),
    "none a token": (config(num_experts_per_tok=0), ("found 0", "from 1 to", "Get the model's")),
    "a layer less": (n_layers(-1), ("_layers: found ", "expected ", "hold model.l", "Get")),
    "other widths": (
        config(moe_intermediate_size=40, intermediate_size=40),
        ("shape [", "expected [", "Check that config.json"),
    ),
    "unknown type": (config(model_type="own_moe"), ("'own_moe'", "expected one of deepsee", "ext")),
    "code of its own": (own_code, ("found 'own_moe'", "expected one of", "lens.extract")),
    "a missing file": (last_file_gone, ("are in no file", "expected the file model", "Complete")),
    "an index to nowhere": (
        index(lambda names: names.update({next(filter(expert, names)): "gone.safetensors"})),
        ("1 of", "expected the file gone.safetensors", "Complete the download"),
    ),
    "an index that lacks": (
        index(lambda names: names.pop(next(filter(router, names)))),
        ("1 of", "expected a file in the index", "Complete the download"),
    ),
    "an index to another file": (
        lambda folder: put(folder, expert, "other.safetensors"),
        ("other.safetensors: holds no tensor", "expected it there", "Download the file again"),
    ),
    "an index that leads out": (
        lambda folder: put(folder, router, "../model/other.safetensors"),
        (INDEX, "is said to be in", "expected the name of a file in the same", "Check where"),
    ),
    "an empty index": (
        lambda folder: (folder / INDEX).write_text("{}"),
        (INDEX, "no weight_map", "expected names", "Download"),
    ),
    "a cut file": (cut, (".safetensors: ", "bytes", "expected a range within", "again")),
    "a pickle": (a_pickle, ("are in no file", "expected", "Complete the download")),
    "a router less": (tensor(router, one_less), ("shape [", "expected [", "Check that config.js")),
    "a turned router": (tensor(router, turned), ("shape [", "expected [", "Check that config.jso")),
    "a router of integers": (tensor(router, whole_numbers), ("dtype I", "expected one of", "Get")),
    "a router with NaN": (tensor(router, not_finite), ("1 values are not", "expected numb", "get")),
    "no router": (tensor(router, gone), ("holds no tensor", "expected it there", "Download")),
    "an expert less": (tensor(expert, one_less), ("down_proj", "[", "expected", "Check that con")),
    "an expert of integers": (tensor(expert, whole_numbers), ("dtype I", "expected one of", "Get")),
    "no expert": (tensor(expert, gone), ("holds no tensor", "expected it there", "Download")),
}


@pytest.fixture
def folder(tmp_path, request):
    shutil.copytree(DATA / request.param, tmp_path / "model")
    return tmp_path / "model"


def opened(folder: Path, mode: str) -> grok.runner.model.Model:
    return grok.load(folder, mode=mode, dtype="float32", mesh=(1, 1), memory_budget=2_500_000_000)


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_a_bad_folder_is_refused_where_it_is_opened(folder, case):
    change, parts = CASES[case]
    change(folder)
    for mode in ("resident", "streamed"):
        with pytest.raises((ConfigError, CheckpointError)) as refused:
            opened(folder, mode)
        text = str(refused.value)
        assert text.startswith(str(folder))
        assert [part for part in parts if part not in text] == [], text
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("folder", ["deepseek_v3_fp8"], indirect=True)
def test_a_head_that_predicts_further_tokens_is_no_layer(folder):
    n_layers(1)(folder)
    says = r"config.json: num_hidden_layers: found 5; expected 4, for model\.layers\.4\..* Get the"
    for mode in ("resident", "streamed"):
        with pytest.raises(CheckpointError, match=says):
            opened(folder, mode)
    with pytest.raises(LensError, match=says):
        folder_routers(folder)


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
@pytest.mark.parametrize(
    "case",
    [
        "a layer less",
        "half of the experts",
        "an index that lacks",
        "no router",
        "a router with NaN",
        "unknown type",
    ],
)
def test_the_explorer_refuses_its_routers(folder, case):
    CASES[case][0](folder)
    with pytest.raises((LensError, GrokError), match=r"expected|Download .* again"):
        folder_routers(folder)


def test_scales_of_experts_that_are_no_numbers_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DATA / "gpt_oss_mxfp4", folder)
    blocks, scales = (f"model.layers.1.mlp.experts.down_proj_{one}" for one in ("blocks", "scales"))
    tensor(scales.__eq__, not_finite)(folder)

    def stored(name: str) -> Tensor:
        return next(found[name] for f in folder.glob("*.safetensors") if name in (found := read(f)))

    with pytest.raises(CheckpointError, match=r"down_proj_scales\): 1 scales are not finite"):
        opened(folder, "resident")
    parts = [np.frombuffer(t[2], np.uint8).reshape(t[1]) for t in map(stored, (blocks, scales))]
    with pytest.raises(CheckpointError, match=r"down_proj_scales\): 1 scales are not finite"):
        open_checkpoint(folder).whole(blocks.removesuffix("_blocks"), parts)  # as streaming reads
