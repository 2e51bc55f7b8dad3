import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.router_set import kind_of_npz
from lens.traces.trace import Trace, load_trace
from lens.traces.trace_arrays import MAX_PIECE

DATA = Path(__file__).parents[2] / "data"
L, T, E, K, C = 3, 6, 8, 2, 4


def trace_arrays(seed=0, n_layers=L, n_tokens=T, n_experts=E, top_k=K):
    """Arrays of a trace file that contradict each other nowhere."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_layers, n_tokens, n_experts)).astype(np.float32)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1, kind="stable")[..., :top_k].astype(np.int32)
    next_probs = np.sort(rng.dirichlet(np.ones(20), n_tokens), axis=1)[:, ::-1][:, :C]
    return {
        "tokens": np.arange(1, n_tokens + 1, dtype=np.int32),
        "pieces": np.array([f"▁piece{i}" for i in range(n_tokens)]),
        "prompt_length": np.int32(n_tokens - 2),
        "router_logits": logits,
        "router_probs": probs.astype(np.float32),
        "experts": experts,
        "gates": np.take_along_axis(probs, experts, -1).astype(np.float32),
        "candidates": rng.integers(0, 500, (n_tokens, C)).astype(np.int32),
        "candidate_probs": next_probs.astype(np.float32),
        "candidate_pieces": np.array([["a", "ß", "日本", "<0xE2>"]] * n_tokens),
        "model_sha256": np.str_("0123456789abcdef" * 4),
        "settings": np.str_(json.dumps({"dtype": "bfloat16", "temperature": 0.0})),
        "format_version": np.int32(1),
    }


def saved(arrays, **changes):
    """A trace file in memory; a change to None leaves the array out."""
    file = io.BytesIO()
    arrays = {**arrays, **changes}
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    file.seek(0)
    return file


def test_a_saved_trace_is_read_back_exactly(tmp_path):
    arrays = trace_arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    trace = load_trace(tmp_path / "a.npz")
    for name in ("tokens", "router_logits", "router_probs", "experts", "gates"):
        np.testing.assert_array_equal(getattr(trace, name), arrays[name])
    np.testing.assert_array_equal(trace.candidates, arrays["candidates"])
    np.testing.assert_array_equal(trace.candidate_probs, arrays["candidate_probs"])
    assert trace.pieces.tolist() == arrays["pieces"].tolist()
    assert trace.candidate_pieces is not None
    assert trace.candidate_pieces.tolist() == arrays["candidate_pieces"].tolist()
    assert trace.prompt_length == T - 2
    assert trace.model_sha256 == "0123456789abcdef" * 4
    assert trace.settings == {"dtype": "bfloat16", "temperature": 0.0}
    assert (trace.n_layers, trace.n_tokens, trace.n_experts, trace.top_k) == (L, T, E, K)


def test_a_trace_is_told_from_a_router_set():
    assert kind_of_npz(saved(trace_arrays())) == "trace"


def test_candidate_pieces_settings_and_version_may_be_absent():
    trace = load_trace(
        saved(trace_arrays(), candidate_pieces=None, settings=None, format_version=None)
    )
    assert trace.candidate_pieces is None
    assert trace.settings == {}


def test_a_trace_without_candidates_has_none_for_every_token():
    trace = load_trace(
        saved(
            trace_arrays(),
            candidates=np.zeros((T, 0), np.int32),
            candidate_probs=np.zeros((T, 0), np.float32),
            candidate_pieces=None,
        )
    )
    assert trace.candidates.shape == (T, 0)


def test_other_widths_and_byte_orders_of_the_same_numbers_are_read():
    arrays = trace_arrays()
    trace = load_trace(
        saved(
            arrays,
            router_logits=arrays["router_logits"].astype(">f8"),
            experts=np.asfortranarray(arrays["experts"].astype(np.uint8)),
            tokens=arrays["tokens"].astype(">i8"),
            pieces=arrays["pieces"].astype(arrays["pieces"].dtype.newbyteorder(">")),
        )
    )
    np.testing.assert_array_equal(trace.router_logits, arrays["router_logits"])
    np.testing.assert_array_equal(trace.experts, arrays["experts"])
    assert trace.tokens.dtype == np.int32
    assert trace.pieces.tolist() == arrays["pieces"].tolist()


def test_the_arrays_of_a_trace_cannot_be_written():
    trace = load_trace(saved(trace_arrays()))
    for name in ("tokens", "pieces", "router_logits", "experts", "gates", "candidate_probs"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(trace, name)[0] = 0


@pytest.mark.parametrize("name", ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"])
@pytest.mark.parametrize("mode", ["f32", "bf16n"])
def test_routing_of_the_official_code_is_accepted(name, mode):
    with np.load(DATA / f"{name}.golden.{mode}.npz") as golden:
        case = {
            key.removeprefix(f"len33.{mode}."): golden[key][:, 0]
            for key in golden.files
            if key.startswith(f"len33.{mode}.router") or key.startswith(f"len33.{mode}.top2")
        }
        tokens = golden["len33.tokens"]
    trace = Trace(
        tokens=tokens,
        pieces=tokens.astype(str),
        prompt_length=33,
        router_logits=case["router_logits"],
        router_probs=case["router_probs"],
        experts=case["top2_index"],
        gates=case["top2_gate"],
        candidates=np.zeros((33, 0), np.int32),
        candidate_probs=np.zeros((33, 0), np.float32),
        model_sha256="0" * 64,
    )
    assert trace.n_tokens == 33


REQUIRED = [
    "tokens",
    "pieces",
    "prompt_length",
    "router_logits",
    "router_probs",
    "experts",
    "gates",
    "candidates",
    "candidate_probs",
    "model_sha256",
]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_array_is_named(name):
    with pytest.raises(LensError, match=f"no array '{name}'"):
        load_trace(saved(trace_arrays(), **{name: None}))


@pytest.mark.parametrize("name", sorted(set(REQUIRED) | {"candidate_pieces", "settings"}))
def test_pickled_objects_are_refused_and_never_opened(name, tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    value = np.empty(T, dtype=object)
    value[:] = [Evil() for _ in range(T)]
    with pytest.raises(LensError, match=name):
        load_trace(saved(trace_arrays(), **{name: value}))
    assert not marker.exists()


def _shorter(name, axis):
    def change(arrays):
        return np.delete(arrays[name], -1, axis=axis)

    return change


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("tokens", 0),
        ("pieces", 0),
        ("router_probs", 0),
        ("router_probs", 1),
        ("router_probs", 2),
        ("experts", 0),
        ("experts", 1),
        ("gates", 0),
        ("gates", 2),
        ("candidates", 0),
        ("candidate_probs", 1),
        ("candidate_pieces", 0),
        ("candidate_pieces", 1),
    ],
)
def test_shapes_that_disagree_are_refused(name, axis):
    arrays = trace_arrays()
    with pytest.raises(LensError, match=r"the shape is .*; the other arrays need"):
        load_trace(saved(arrays, **{name: _shorter(name, axis)(arrays)}))


@pytest.mark.parametrize(
    ("name", "rank"), [("router_logits", 2), ("experts", 2), ("tokens", 2), ("candidates", 1)]
)
def test_a_wrong_rank_is_refused(name, rank):
    arrays = trace_arrays()
    value = arrays[name]
    value = value[None] if rank > value.ndim else value[0]
    with pytest.raises(LensError, match=f"{name}: found shape"):
        load_trace(saved(arrays, **{name: value}))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("router_logits", np.int32),
        ("router_probs", np.complex64),
        ("experts", np.float32),
        ("gates", np.bool_),
        ("tokens", np.float64),
        ("pieces", "S10"),
        ("candidates", "U4"),
        ("prompt_length", np.float32),
        ("model_sha256", "S64"),
        ("settings", "S64"),
    ],
)
def test_a_wrong_dtype_is_refused(name, dtype):
    arrays = trace_arrays()
    value = np.zeros(np.shape(arrays[name]), dtype)
    with pytest.raises(LensError, match=name):
        load_trace(saved(arrays, **{name: value}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["router_logits", "router_probs", "gates", "candidate_probs"])
def test_values_that_are_not_finite_are_refused_with_their_place(name, bad):
    arrays = trace_arrays()
    value = arrays[name].copy()
    value[-1, 2] = bad
    place = str((*[n - 1 if i == 0 else 2 for i, n in enumerate(value.shape[:2])],))[:-1]
    with pytest.raises(LensError, match="not finite") as error:
        load_trace(saved(arrays, **{name: value}))
    assert name in str(error.value)
    assert place in str(error.value)


def test_float64_values_beyond_float32_are_refused():
    arrays = trace_arrays()
    value = arrays["router_logits"].astype(np.float64)
    value[0, 0, 0] = 1e300
    with pytest.raises(LensError, match="router_logits: 1 of .* not finite"):
        load_trace(saved(arrays, router_logits=value))


@pytest.mark.parametrize("bad", [-1, E, 2**31 - 1])
def test_expert_numbers_out_of_range_are_refused(bad):
    arrays = trace_arrays()
    arrays["experts"][1, 2, 0] = bad
    with pytest.raises(LensError, match=rf"experts: found {bad} at index \(1, 2, 0\)"):
        load_trace(saved(arrays))


@pytest.mark.parametrize("name", ["tokens", "candidates"])
@pytest.mark.parametrize("bad", [-1, 2**31, 2**63])
def test_token_ids_out_of_range_are_refused(name, bad):
    arrays = trace_arrays()
    value = arrays[name].astype(np.uint64 if bad > 0 else np.int64)
    value[(2,) * value.ndim] = bad
    with pytest.raises(LensError, match=f"{name}: found {bad}"):
        load_trace(saved(arrays, **{name: value}))


def test_the_same_expert_twice_is_refused():
    arrays = trace_arrays()
    arrays["experts"][2, 1, 1] = arrays["experts"][2, 1, 0]
    with pytest.raises(LensError, match="experts: layer row 2, token 1.*different experts"):
        load_trace(saved(arrays))


def test_gates_in_rising_order_are_refused():
    arrays = trace_arrays()
    arrays["experts"] = arrays["experts"][..., ::-1]
    arrays["gates"] = arrays["gates"][..., ::-1]
    with pytest.raises(LensError, match="gates: layer row 0, token 0.*largest first"):
        load_trace(saved(arrays))


def test_renormalised_gates_are_refused():
    arrays = trace_arrays()
    arrays["gates"] = arrays["gates"] / arrays["gates"].sum(-1, keepdims=True)
    with pytest.raises(LensError, match="gates: .*differ from the probabilities"):
        load_trace(saved(arrays))


def test_experts_that_are_not_the_likeliest_are_refused():
    arrays = trace_arrays()
    arrays["experts"] = np.argsort(-arrays["router_probs"], axis=-1)[..., [0, 7]]
    arrays["gates"] = np.take_along_axis(arrays["router_probs"], arrays["experts"], -1)
    with pytest.raises(LensError, match="not the likeliest"):
        load_trace(saved(arrays))


def test_a_tie_between_experts_may_be_chosen_either_way():
    arrays = trace_arrays()
    arrays["router_logits"][:] = 0
    arrays["router_probs"][:] = 1 / E
    arrays["experts"][:] = [6, 3]
    arrays["gates"][:] = 1 / E
    assert load_trace(saved(arrays)).experts[0, 0].tolist() == [6, 3]


def test_probabilities_that_do_not_sum_to_one_are_refused():
    arrays = trace_arrays()
    arrays["router_probs"] = arrays["router_probs"] * np.float32(0.9)
    with pytest.raises(LensError, match="layer row 0, token 0: they sum to 0.9; expected 1"):
        load_trace(saved(arrays))


def test_negative_probabilities_are_refused():
    arrays = trace_arrays()
    arrays["router_probs"][1, 1, 0] = -0.5
    with pytest.raises(LensError, match=r"router_probs: found -0.5 at index \(1, 1, 0\)"):
        load_trace(saved(arrays))


def test_probabilities_of_other_logits_are_refused():
    arrays = trace_arrays()
    arrays["router_logits"] = arrays["router_logits"][:, ::-1]
    with pytest.raises(LensError, match="not the softmax of router_logits"):
        load_trace(saved(arrays))


def test_a_number_added_to_all_logits_of_a_token_is_no_contradiction():
    arrays = trace_arrays()
    assert load_trace(saved(arrays, router_logits=arrays["router_logits"] + 50)).n_layers == L


@pytest.mark.parametrize("length", [0, -1, T + 1])
def test_a_prompt_length_that_cannot_be_is_refused(length):
    with pytest.raises(LensError, match=f"prompt_length: found {length} with {T} tokens"):
        load_trace(saved(trace_arrays(), prompt_length=np.int64(length)))


@pytest.mark.parametrize("change", ["rising", "negative", "above one"])
def test_candidate_probabilities_that_cannot_be_are_refused(change):
    arrays = trace_arrays()
    probs = arrays["candidate_probs"]
    if change == "rising":
        probs[3] = probs[3, ::-1]
    elif change == "negative":
        probs[3, -1] = -0.1
    else:
        probs[3] = 0.4
    with pytest.raises(LensError, match="candidate_probs: token 3"):
        load_trace(saved(arrays))


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[1, 2]", '"text"', '{"a": NaN}', "[" * 20000, '{"a": "\\ud800"}', "9" * 6000],
)
def test_settings_that_are_no_json_object_are_refused(text):
    with pytest.raises(LensError, match="settings: "):
        load_trace(saved(trace_arrays(), settings=np.array(text, dtype=f"U{len(text) or 1}")))


def test_texts_from_a_file_cannot_act_as_markup_in_a_message():
    for change in ({"settings": np.str_("<b>[x](y)")}, {"model_sha256": np.str_("<b>[x](y)")}):
        with pytest.raises(LensError, match="'.b..x..y.'") as error:
            load_trace(saved(trace_arrays(), **change))
        assert not set("<[(") & set(str(error.value).split(";")[0].replace("JSON (", ""))


def test_very_long_settings_are_refused():
    with pytest.raises(LensError, match="settings: 100,011 characters"):
        load_trace(saved(trace_arrays(), settings=np.str_(json.dumps({"note": "x" * 99_999}))))


@pytest.mark.parametrize("sha", ["", "0" * 63, "g" * 64, "0" * 65])
def test_a_model_identity_that_is_no_sha256_is_refused(sha):
    with pytest.raises(LensError, match="model_sha256: found .* 64 hexadecimal digits"):
        load_trace(saved(trace_arrays(), model_sha256=np.str_(sha)))


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
@pytest.mark.parametrize("name", ["pieces", "candidate_pieces", "settings", "model_sha256"])
def test_code_points_that_are_no_characters_are_refused(name, code):
    arrays = trace_arrays()
    value = np.array(arrays[name], ndmin=1)
    codes = value.reshape(-1).view(np.uint32)
    codes[codes == ord("e")] = code
    if name == "candidate_pieces":
        codes[0] = code
    with pytest.raises(LensError, match=name):
        load_trace(saved(arrays, **{name: value.reshape(np.shape(arrays[name]))}))


def test_very_long_pieces_are_refused():
    pieces = trace_arrays()["pieces"].astype(f"U{MAX_PIECE + 1}")
    with pytest.raises(LensError, match=f"at most {MAX_PIECE} are read"):
        load_trace(saved(trace_arrays(), pieces=pieces))


@pytest.mark.parametrize("piece", ["", "😀", "\u202eabc", "</script>", "\x00b", "e\u0301" * 9])
def test_unusual_pieces_are_kept_as_they_are(piece):
    arrays = trace_arrays()
    pieces = np.array([piece, *arrays["pieces"][1:]])
    assert load_trace(saved(arrays, pieces=pieces)).pieces[0] == piece


def test_a_newer_format_is_refused_by_its_number():
    with pytest.raises(LensError, match="format_version: found 2; this version reads 1"):
        load_trace(saved(trace_arrays(), format_version=np.int32(2)))


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([], np.int32), np.array("1")])
def test_a_prompt_length_that_is_not_one_number_is_refused(value):
    with pytest.raises(LensError, match="prompt_length: found .* expected one whole number"):
        load_trace(saved(trace_arrays(), prompt_length=value))


def test_every_cut_of_a_trace_file_is_refused_with_a_message():
    data = saved(trace_arrays()).getvalue()
    for cut in range(0, len(data), 97):
        with pytest.raises(LensError):
            load_trace(io.BytesIO(data[:cut]))


def test_altered_bytes_give_a_trace_or_a_message_and_nothing_else():
    data = bytearray(saved(trace_arrays()).getvalue())
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        try:
            load_trace(io.BytesIO(damaged))
        except LensError:
            refused += 1
    assert refused > 250


def test_a_member_that_declares_more_than_it_holds_is_refused():
    source = saved(trace_arrays())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (64, 10**9, 8)}
    )
    file = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, header.getvalue() if name == "router_logits.npy" else data)
    file.seek(0)
    with pytest.raises(LensError, match="router_logits.*only .* bytes are stored"):
        load_trace(file)


def test_messages_name_the_file_without_its_folders(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    arrays = trace_arrays()
    arrays["router_probs"][:] = 0
    np.savez(folder / "mine.npz", **arrays)
    with pytest.raises(LensError, match=r"^mine\.npz: router_probs") as error:
        load_trace(folder / "mine.npz")
    assert "private" not in str(error.value)


def test_a_trace_saved_by_the_runner_opens_unchanged(tmp_path):
    from grok.trace import RoutingTrace

    arrays = trace_arrays()
    del arrays["format_version"]
    made = RoutingTrace(
        **{
            **arrays,
            "prompt_length": int(arrays["prompt_length"]),
            "model_sha256": str(arrays["model_sha256"]),
            "settings": {"dtype": "float32", "note": "ünïcode"},
        }
    )
    made.save(tmp_path / "trace.npz")
    trace = load_trace(tmp_path / "trace.npz")
    for name in set(arrays) - {"settings"}:
        np.testing.assert_array_equal(getattr(trace, name), getattr(made, name), err_msg=name)
    assert trace.settings == made.settings


# --- traces with interventions ----------------------------------------------------


def edited(**changes):
    """A valid trace in which expert 0 was banned everywhere, as an intervention makes it."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((2, 4, 4)).astype(np.float32)
    logits[..., 0] = -np.inf
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    experts = np.argsort(-probs, axis=-1)[..., :2].astype(np.int32)
    values = {
        "tokens": np.arange(4, dtype=np.int32),
        "pieces": np.array(list("abcd")),
        "prompt_length": 4,
        "router_logits": logits,
        "router_probs": probs.astype(np.float32),
        "experts": experts,
        "gates": np.take_along_axis(probs, experts, axis=-1).astype(np.float32),
        "candidates": np.zeros((4, 1), np.int32),
        "candidate_probs": np.full((4, 1), 0.5, np.float32),
        "model_sha256": "0" * 64,
        "settings": {"interventions": ["layers[:].router.logits: ban([0])"]},
    }
    return Trace(**{**values, **changes})


def test_a_banned_expert_has_no_logit_and_the_statistics_that_need_one_say_so():
    from lens.traces.logit_moments import logit_moments
    from lens.traces.routing import entropy, margin

    trace = edited()
    assert np.isneginf(trace.router_logits[..., 0]).all()
    assert np.isfinite(margin(trace)).all() and np.isfinite(entropy(trace)).all()
    with pytest.raises(LensError, match="banned"):
        logit_moments(trace.router_logits)


def test_only_a_trace_that_names_interventions_may_hold_infinite_logits():
    with pytest.raises(LensError, match="not finite"):
        edited(settings={})
    with pytest.raises(LensError, match="not finite"):
        edited(router_logits=np.full((2, 4, 4), np.nan, np.float32))


def test_forced_experts_need_not_be_the_likeliest_where_the_trace_says_that_they_were_forced():
    forced = np.tile(np.array([3, 1], np.int32), (2, 4, 1))
    probs = np.full((2, 4, 4), 0.25, np.float32)
    probs[..., 0], probs[..., 1] = 0.4, 0.1
    values = {
        "router_logits": np.log(probs),
        "router_probs": probs,
        "experts": forced,
        "gates": np.take_along_axis(probs, forced, axis=-1),
    }
    assert edited(**values).experts[0, 0].tolist() == [3, 1]
    with pytest.raises(LensError, match="not the likeliest"):
        edited(**values, settings={})
    with pytest.raises(LensError, match="different experts"):
        edited(**{**values, "experts": np.ones_like(forced)})
