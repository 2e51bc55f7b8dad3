"""Folders of dictionaries: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grok.dictionaries.kinds import files
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32, param_shapes
from grok.dictionaries.kinds.files import (
    load_dictionary,
    nested,
    save_dictionary,
    tensors_sha256,
)
from grok.errors import GrokError

DESIGN = Design("clt", (0, 2), ("router.input",), ("moe.normed",), 6, 4)
RULE = Activation("jumprelu", 2)


def made(scale: float = 1.0) -> Dictionary:
    rng = np.random.default_rng(0)
    shapes = param_shapes(DESIGN, RULE)
    arrays = {name: scale * rng.standard_normal(shape) for name, shape in shapes.items()}
    facts = {"model": "one", "model_sha256": "a" * 64, "text_sha256": "b" * 64, "seed": 3}
    return Dictionary(DESIGN, RULE, as_float32(nested(arrays)), facts)


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_a_dictionary_comes_back_as_it_was(stored, tmp_path):
    own = made()
    again = load_dictionary(save_dictionary(tmp_path / "d", own, stored))
    assert again.design == own.design and again.facts == own.facts
    assert again.activation.function == "jumprelu" and again.activation.k == 2
    for name, value in own.params.items():
        found = again.params[name]
        for a, b in zip(value, found, strict=True):
            np.testing.assert_array_equal(a.astype(stored).astype(np.float32), b)
    if stored == "float32":
        size = (tmp_path / "d" / "dictionary.safetensors").stat().st_size
        save_dictionary(tmp_path / "e", own, "float16")
        assert (tmp_path / "e" / "dictionary.safetensors").stat().st_size < 0.8 * size


def test_float16_is_refused_where_it_cannot_hold_the_values(tmp_path):
    with pytest.raises(GrokError, match="float16 cannot hold"):
        save_dictionary(tmp_path, made(1e6), "float16")
    assert not list(tmp_path.iterdir())


def rewritten(folder: Path, change) -> None:
    """The tensors changed, and the hash with them."""
    file = folder / "dictionary.safetensors"
    arrays = {name: value.copy() for name, value in load_file(file).items()}
    save_file(change(arrays), file)
    text = json.loads((folder / "dictionary.json").read_text())
    text["tensors_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "dictionary.json").write_text(json.dumps(text))


def without(arrays):
    del arrays["threshold"]
    return arrays


def reshaped(arrays):
    return arrays | {"encoder_bias": np.zeros((2, 7), np.float32)}


def infinite(arrays):
    arrays["decoder.1"][0, 0, 0] = np.inf
    return arrays


def told(**values):
    def change(folder: Path) -> None:
        file = folder / "dictionary.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def as_bytes(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    file = folder / "dictionary.safetensors"
    os.truncate(file, file.stat().st_size - 8)


def swapped(folder: Path) -> None:
    save_dictionary(folder / "other", made(2.0))
    (folder / "other" / "dictionary.safetensors").replace(folder / "dictionary.safetensors")


PLAIN = {"kind": "clt", "reads": ["router.input"], "writes": ["moe.normed"], "features": 6,
         "d_model": 4}  # fmt: skip
BROKEN = {
    "no dictionary": lambda folder: (folder / "dictionary.json").unlink(),
    "JSON cannot be read": as_bytes("dictionary.json", b'{"a":' * 90_000),
    "expected an object": as_bytes("dictionary.json", b"[1]"),
    "larger than": as_bytes("dictionary.json", b" " * (17 * 2**20)),
    "format 9": told(format_version=9),
    "design is str": told(design="x"),
    "unknown key 'code'": told(design={"kind": "clt", "code": "import os"}),
    "layers is 'all'": told(design={"kind": "clt", "layers": "all"}),
    "layers from -1 to 0": told(design=dict(PLAIN, layers=[-1, 0])),
    "layers from 0 to 99999": told(design=dict(PLAIN, layers=list(range(100_000)))),
    "depends on a batch": told(activation={"function": "batch_topk"}),
    "facts is list": told(facts=[]),
    "the header is said": as_bytes("dictionary.safetensors", b"\xff" * 64),
    "a range within": cut,
    "not the file that": swapped,
    "'threshold' is missing": lambda folder: rewritten(folder, without),
    "encoder_bias has shape": lambda folder: rewritten(folder, reshaped),
    "decoder.1 is not finite": lambda folder: rewritten(folder, infinite),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_folder_that_is_no_dictionary_is_refused(said, tmp_path):
    folder = save_dictionary(tmp_path / "d", made())
    BROKEN[said](folder)
    with pytest.raises(GrokError, match=said):
        load_dictionary(folder)


def test_a_disk_that_fills_up_leaves_an_older_dictionary_whole(tmp_path, monkeypatch):
    folder, whole = save_dictionary(tmp_path / "d", made()), files.write_whole

    def full(path, content):
        if path.name == "dictionary.json":
            raise OSError(28, "No space left on device")
        whole(path, content)

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(GrokError, match="was not saved .No space left"):
        save_dictionary(folder, made(2.0))
    np.testing.assert_array_equal(
        load_dictionary(folder).params["encoder"][0], made().params["encoder"][0]
    )
    assert len(list(folder.iterdir())) == 2


def test_another_model_is_refused_with_both_named():
    own = made()
    own.check_model("a" * 64, 4, 3, "same")
    with pytest.raises(GrokError, match=r"trained on one \(aaaaaaaaaaaa…\); two is another model"):
        own.check_model("c" * 64, 4, 3, "two")
    with pytest.raises(GrokError, match="for width 4 and layers up to 2; two has width 8 and 3"):
        own.check_model("a" * 64, 8, 3, "two")
    with pytest.raises(GrokError, match="two has width 4 and 2 layers"):
        own.check_model("a" * 64, 4, 2, "two")


def test_a_folder_is_named_by_the_hash_of_its_arrays(tmp_path):
    folder = save_dictionary(tmp_path / "d", made())
    content = (folder / "dictionary.safetensors").read_bytes()
    assert tensors_sha256(folder) == hashlib.sha256(content).hexdigest()
    (folder / "dictionary.json").write_text('{"tensors_sha256": 3}')
    with pytest.raises(GrokError, match="has no tensors_sha256"):
        tensors_sha256(folder)
    with pytest.raises(GrokError, match="no dictionary"):
        tensors_sha256(tmp_path)


def test_windows_and_left_out_positions_are_those_of_training():
    facts = {"first_position": {"skipped": 1}, "settings": {"text": {"context": 16}}}
    assert (made().skipped, made().context) == (0, 128)
    own = Dictionary(DESIGN, RULE, made().params, facts)
    assert (own.skipped, own.context) == (1, 16)
