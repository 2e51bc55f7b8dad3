"""Router sets: what they accept, what they refuse and in which words, and their files."""

import hashlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.router_set import (
    RouterSet,
    content_sha256,
    kind_of_npz,
    load_routers,
    save_routers,
)
from lens.storage.npz import MAX_BYTES

L, D, E = 3, 10, 4


def weights(seed: int = 0, shape: tuple[int, ...] = (L, D, E)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def full_set() -> RouterSet:
    return RouterSet(
        weights(),
        norm_scales=np.abs(weights(1, (L, D))) + 0.1,
        layer_ids=np.array([2, 5, 11]),
        top_k=2,
        score="sigmoid",
        biases=weights(2, (L, E)),
        source="a model",
    )


def npz(**arrays: object) -> io.BytesIO:
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return file


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    file.seek(0)
    return file


def npy_claiming(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def test_a_saved_set_opens_as_it_was(tmp_path):
    path = tmp_path / "routers.npz"
    routers = full_set()
    save_routers(routers, path)
    found = load_routers(path)
    for name in ("routers", "norm_scales", "layer_ids", "biases"):
        np.testing.assert_array_equal(getattr(found, name), getattr(routers, name))
    assert (found.top_k, found.score, found.source) == (2, "sigmoid", "a model")
    assert (found.sha256, found.key) == (routers.sha256, routers.key)
    with path.open("rb") as file:
        assert load_routers(file).key == routers.key
    assert kind_of_npz(path) == "routers"


def test_a_file_with_routers_alone_opens_with_norm_scales_unknown():
    found = load_routers(npz(routers=weights().astype(np.float64)))
    assert found.routers.dtype == np.float32
    assert found.norm_scales is None and found.biases is None
    assert (found.top_k, found.score) == (2, "softmax")
    np.testing.assert_array_equal(found.layer_ids, [0, 1, 2])
    np.testing.assert_array_equal(found.routers, weights())


def test_a_fortran_ordered_and_big_endian_array_reads_as_the_same_numbers():
    swapped = np.asfortranarray(weights()).astype(">f4")
    np.testing.assert_array_equal(load_routers(npz(routers=swapped)).routers, weights())


def test_the_sha256_follows_its_written_rule():
    routers, scales = weights(), weights(1, (L, D))
    expected = hashlib.sha256()
    expected.update(b"routers|3,10,4|float32|")
    expected.update(routers.astype("<f4").tobytes())
    assert content_sha256(routers, None) == expected.hexdigest()
    expected.update(b"norm_scales|3,10|float32|")
    expected.update(scales.astype("<f4").tobytes())
    assert content_sha256(routers, scales) == expected.hexdigest()


def test_one_changed_weight_changes_sha256_and_key():
    routers = RouterSet(weights())
    edited = weights()
    edited[1, 2, 3] = np.nextafter(edited[1, 2, 3], np.float32(9))
    assert RouterSet(edited).sha256 != routers.sha256
    assert RouterSet(edited).key != routers.key


@pytest.mark.parametrize(
    "setting",
    [
        {"top_k": 1},
        {"score": "sigmoid"},
        {"layer_ids": np.array([0, 1, 3])},
        {"biases": np.zeros((L, E), np.float32)},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_that_can_change_a_result_changes_the_key_and_not_the_sha256(setting):
    plain, changed = RouterSet(weights()), RouterSet(weights(), **setting)
    assert changed.key != plain.key
    assert changed.sha256 == plain.sha256


def test_the_source_changes_nothing():
    assert RouterSet(weights(), source="x").key == RouterSet(weights(), source="y").key


def test_labels_show_the_models_own_layer_numbers():
    assert full_set().label(2) == "L11"
    assert full_set().label(2, 3) == "L11·E3"


def test_the_canonical_view_folds_in_the_norm_and_removes_the_shared_column():
    routers = full_set()
    centring = np.eye(E) - 1 / E
    expected = np.einsum("ld,lde,ef->ldf", routers.norm_scales, routers.routers, centring)
    np.testing.assert_allclose(routers.columns("canonical"), expected, atol=1e-6)
    np.testing.assert_array_equal(routers.columns("raw"), routers.routers)
    with pytest.raises(LensError, match="expected one of canonical, raw"):
        routers.columns("folded")


def test_arrays_of_a_set_cannot_be_written_and_the_callers_array_still_can():
    mine = weights()
    routers = RouterSet(mine)
    with pytest.raises(ValueError, match="read-only"):
        routers.routers[0, 0, 0] = 1
    mine[0, 0, 0] = 1


def with_value(value: float) -> np.ndarray:
    routers = weights()
    routers[1, 2, 3] = value
    return routers


def with_zero_column() -> np.ndarray:
    routers = weights()
    routers[2, :, 1] = 0
    return routers


def with_copy() -> np.ndarray:
    routers = weights()
    routers[2] = routers[0]
    return routers


REFUSED = {
    "rank": ({"routers": weights(0, (L, D))}, r"shape is \(3, 10\); expected \[layer, d_model"),
    "one expert": ({"routers": weights(0, (L, D, 1))}, "2 to 1024 experts"),
    "no layers": ({"routers": weights(0, (0, D, E))}, "1 to 512 layers"),
    "whole numbers": ({"routers": np.ones((L, D, E), int)}, "dtype is int64; expected float32"),
    "complex": ({"routers": weights() + 1j}, "dtype is complex"),
    "nan": ({"routers": with_value(np.nan)}, r"1 of 120 values are not finite.*\(1, 2, 3\)"),
    "infinite": ({"routers": with_value(np.inf)}, "not finite"),
    "too large": ({"routers": with_value(1.0).astype(float) * 1e39}, "not finite in float32"),
    "zero column": (
        {"routers": with_zero_column()},
        "Layer 2, expert 1: the router column has zero norm.*Extract the routers again",
    ),
    "copied layer": ({"routers": with_copy()}, "Layers 0 and 2: their routers are the same"),
    "norm scales": (
        {"routers": weights(), "norm_scales": weights(0, (L, D + 1))},
        r"norm_scales: the shape is \(3, 11\); the routers need \(3, 10\)",
    ),
    "biases": ({"routers": weights(), "biases": weights(0, (L, E, 1))}, "biases: the shape"),
    "layer ids twice": ({"routers": weights(), "layer_ids": [1, 1, 2]}, "3 different numbers"),
    "layer ids short": ({"routers": weights(), "layer_ids": [1, 2]}, "3 whole numbers"),
    "layer ids real": ({"routers": weights(), "layer_ids": [0.0, 1.0, 2.0]}, "3 whole"),
    "layer ids below 0": ({"routers": weights(), "layer_ids": [-1, 1, 2]}, "from 0 up"),
    "top_k": ({"routers": weights(), "top_k": 5}, "top_k: found 5; expected 1 to 4"),
    "top_k 0": ({"routers": weights(), "top_k": 0}, "top_k: found 0"),
    "top_k text": ({"routers": weights(), "top_k": "2"}, "top_k: found shape .* one whole number"),
    "score": ({"routers": weights(), "score": "relu"}, "'softmax' or 'sigmoid'"),
    "score number": ({"routers": weights(), "score": 1}, "expected one short text"),
    "version": ({"routers": weights(), "format_version": 2}, "found 2; this version reads 1"),
    "sha256": ({"routers": weights(), "sha256": "0" * 64}, "altered or damaged"),
    "source too long": ({"routers": weights(), "source": "x" * 300_000}, "expected one short text"),
    "no routers": ({"weights": weights()}, r"no array 'routers' \(found: weights\)"),
}


@pytest.mark.parametrize("arrays, message", REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_right_is_refused_with_a_reason(arrays, message):
    with pytest.raises(LensError, match=message) as error:
        load_routers(npz(**arrays))
    assert str(error.value).startswith("the uploaded file")


def test_a_missing_file_and_one_that_is_not_a_zip_are_refused(tmp_path):
    with pytest.raises(LensError, match="nowhere.npz: there is no such file"):
        load_routers(tmp_path / "nowhere.npz")
    path = tmp_path / "text.npz"
    path.write_text("not a zip")
    with pytest.raises(LensError, match="text.npz: this is not a complete .npz"):
        load_routers(path)
    with pytest.raises(LensError, match="could not be opened"):
        load_routers(tmp_path)
    with pytest.raises(LensError, match="not a complete .npz"):
        kind_of_npz(io.BytesIO(b""))


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(keep):
    content = npz(routers=weights()).getvalue()
    with pytest.raises(LensError, match="not a complete .npz"):
        load_routers(io.BytesIO(content[: int(len(content) * keep)]))


def test_a_flipped_byte_is_noticed():
    content = bytearray(npz(routers=weights()).getvalue())
    content[300] ^= 1
    with pytest.raises(LensError, match="damaged or incomplete"):
        load_routers(io.BytesIO(bytes(content)))


class Bomb:
    """Unpickling it makes a folder: nothing may ever do so."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["routers", "source", "top_k"])
def test_pickled_objects_are_refused_and_not_executed(tmp_path, name):
    trap = tmp_path / "executed"
    arrays: dict[str, object] = {"routers": weights()}
    arrays[name] = np.array([Bomb(trap)], dtype=object)
    with pytest.raises(LensError, match=f"array '{name}': it holds pickled Python objects"):
        load_routers(npz(**arrays))
    with pytest.raises(LensError, match="damaged or incomplete"):
        load_routers(zipped({"routers.npy": pickle.dumps(Bomb(trap))}))
    assert not trap.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("routers.npy", bytes(2**20))
        archive.infolist()[0].file_size = MAX_BYTES + 1
    with pytest.raises(LensError, match="declare .* bytes when unpacked; at most 805,306,368"):
        load_routers(file)


def test_a_header_that_claims_more_than_is_stored_is_refused_before_allocating():
    claims = npy_claiming((512, 2**40, 1024))
    with pytest.raises(LensError, match=r"declares shape .*, but only 128 bytes are stored"):
        load_routers(zipped({"routers.npy": claims}))
    behind = npy(weights()) + b"more"
    with pytest.raises(LensError, match="bytes left after an array"):
        load_routers(zipped({"routers.npy": behind}))


@pytest.mark.parametrize(
    "header",
    [
        npy_claiming((-3, 10, 4)),
        npy_claiming(("3", 10, 4)),
        npy_claiming((L, D, E), "|O8"),
        npy_claiming((L, D, E), "__import__"),
        b"\x93NUMPY\x09\x00" + bytes(200),
        b"",
    ],
)
def test_a_nonsense_header_is_refused(header):
    with pytest.raises(LensError, match="array 'routers'"):
        load_routers(zipped({"routers.npy": header}))


def test_members_that_are_too_many_or_twice_there_are_refused():
    many = {f"a{i}.npy": b"" for i in range(100)}
    with pytest.raises(LensError, match="100 members found, at most 64"):
        load_routers(zipped(many))
    with pytest.raises(LensError, match="two members are called 'routers'"):
        load_routers(zipped({"routers.npy": npy(weights()), "routers": npy(weights())}))


def test_names_from_a_file_cannot_act_as_markup_in_a_message():
    file = npz(**{"![](https://example.org/x)<b>": weights()})
    with pytest.raises(LensError) as error:
        load_routers(file)
    assert "????https???example.org?x??b?" in str(error.value)
    assert not set("[]<>:/!") & set(str(error.value).partition("found: ")[2].partition(")")[0])


def test_records_whose_description_holds_words_are_refused_without_them():
    records = np.zeros((2, 6, 4), [("[Sign in](https://evil.example)", "<f4")])
    for name in ("routers", "source"):
        with pytest.raises(LensError, match="it holds records, not numbers") as refused:
            load_routers(npz(**{"routers": weights(), name: records}))
        assert "Sign in" not in str(refused.value)


def test_saving_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "routers.npz"
    path.write_text("as it was")

    def no_room(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", no_room)
    with pytest.raises(LensError, match="No space left"):
        save_routers(full_set(), path)
    assert path.read_text() == "as it was"
    assert os.listdir(tmp_path) == ["routers.npz"]
    with pytest.raises(LensError, match="could not be written"):
        save_routers(full_set(), tmp_path / "missing" / "routers.npz")


def test_kinds_of_files_are_told_apart():
    assert kind_of_npz(npz(routers=weights())) == "routers"
    assert kind_of_npz(npz(tokens=np.arange(3), router_logits=weights())) == "trace"
    with pytest.raises(LensError, match="found other; expected an array 'routers'"):
        kind_of_npz(npz(other=weights()))
