"""model.trace: sites, saved values, edits, and everything that can be asked for wrongly."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from grok.engine.engine import Engine
from grok.errors import GrokError, InterventionError, SiteError
from grok.interventions.edits import ban, edit, scale, zero_out
from grok.interventions.sites import FLOAT32
from grok.runner.saved_values import load_saved
from lens.traces.trace import load_trace

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]


def test_traced_equals_untraced(tiny3):
    plain = tiny3.trace_routing(TOKENS)
    with tiny3.trace(TOKENS) as t:
        logits = t.logits.save()
    for name in ("router_logits", "router_probs", "experts", "gates", "candidate_probs"):
        np.testing.assert_array_equal(getattr(t.routing, name), getattr(plain, name))
    forward = tiny3.forward(np.array([TOKENS], np.int32))
    np.testing.assert_allclose(logits.value, forward.logits[0], atol=2e-5)


def test_saving_every_site_leaves_the_choice_as_it_is(tiny3):
    plain = tiny3.trace_routing(TOKENS)
    names = [site.name for site in tiny3.sites()]
    with tiny3.trace(TOKENS) as t:
        saved = {name: at(t, name).save() for name in names}
    np.testing.assert_array_equal(t.routing.experts, plain.experts)
    np.testing.assert_allclose(t.routing.router_logits, plain.router_logits, atol=1e-5)
    for site in tiny3.sites(len(TOKENS)):
        value = saved[site.name].value
        assert (value.shape, str(value.dtype)) == (site.shape, site.dtype), site.name


def at(t, name):
    site = t
    for part in name.replace("[", ".[").split("."):
        site = site[int(part[1:-1])] if part.startswith("[") else getattr(site, part)
    return site


def test_saved_values_fit_together(tiny3):
    """The stream is the sum of what is added to it, and the mixture of its contributions."""
    with tiny3.trace(TOKENS) as t:
        embed = t.embed.save()
        pre = t.layers[:].resid_pre.save()
        post = t.layers[:].resid_post.save()
        parts = t.layers[1].moe.contribution.save()
        moe = t.layers[1].moe.output.save()
        logits = t.layers[1].router.logits.save()
        gates = t.layers[1].router.gates.save()
    np.testing.assert_array_equal(embed.value, pre[0].value)
    for before, after in zip(post[:-1], pre[1:], strict=True):
        np.testing.assert_array_equal(before.value, after.value)
    np.testing.assert_allclose(parts.value.sum(axis=1), moe.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits.value, t.routing.router_logits[1], atol=1e-6)
    np.testing.assert_array_equal(gates.value, t.routing.gates[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_stream_grows_by_what_is_normed(model, dtype):
    with model("tiny3", dtype).trace(TOKENS) as t:
        layer = t.layers[1]
        pre, mid, post = layer.resid_pre.save(), layer.resid_mid.save(), layer.resid_post.save()
        attention, experts = layer.attn.normed.save(), layer.moe.normed.save()
    for before, added, after in ((pre, attention, mid), (mid, experts, post)):
        rounded = before.value.astype(jnp.dtype(dtype)).astype(np.float32)
        grown = rounded + added.value
        if dtype == "bfloat16":  # every rounding is written down
            np.testing.assert_array_equal(grown, after.value)
        # A compiler may norm and add in one step, which leaves out one rounding of what is added.
        one = np.finfo(np.float32).eps * (np.abs(added.value) + np.abs(grown))
        assert (np.abs(grown - after.value) <= one).all()


def test_later_sites_and_saves_see_an_edit_whenever_it_was_asked_for(tiny3):
    with tiny3.trace(TOKENS) as t:
        early = t.layers[1].moe.output.save()
        t.layers[1].moe.output.edit(zero_out())
        post, mid = t.layers[1].resid_post.save(), t.layers[1].resid_mid.save()
    assert not early.value.any()
    np.testing.assert_allclose(post.value, mid.value, atol=1e-6)


def test_assignment_takes_arrays_saved_values_and_earlier_places(tiny3):
    with tiny3.trace(TOKENS[::-1]) as other:
        taken = other.layers[2].resid_post.save()
        logits = other.logits.save()
    with tiny3.trace(TOKENS) as t:
        t.layers[2].resid_post = taken
        first = t.logits.save()
    np.testing.assert_allclose(first.value, logits.value, atol=1e-5)
    with tiny3.trace(TOKENS) as t:
        t.layers[0].router.logits = np.arange(8.0)
        t.layers[2].router.logits = t.layers[0].router.logits
        t.layers[1].moe.output = t.layers[1].attn.output  # within a layer
        moe, attn = t.layers[1].moe.output.save(), t.layers[1].attn.output.save()
        t.logits = 0.0
    assert (t.routing.router_logits[[0, 2]] == np.arange(8.0)).all()
    np.testing.assert_array_equal(moe.value, attn.value)
    np.testing.assert_allclose(t.routing.candidate_probs, 1 / tiny3.config.vocab_size, rtol=1e-5)


def test_an_edit_may_read_earlier_places(tiny3):
    with tiny3.trace(TOKENS) as t:
        t.layers[2].resid_pre.edit(lambda x, a, b: x + a - b, t.embed, t.layers[0].resid_pre)
    plain = tiny3.trace_routing(TOKENS)
    np.testing.assert_array_equal(t.routing.experts, plain.experts)
    np.testing.assert_allclose(t.routing.router_logits, plain.router_logits, atol=1e-5)


def test_positions_can_be_saved_and_changed_alone(tiny3):
    with tiny3.trace(TOKENS) as t:
        last = t.layers[1].resid_post.save(positions=-1)
        some = t.layers[1].resid_post.save(positions=[0, 3])
        tail = t.layers[1].resid_post.save(positions=slice(-2, None))
        whole = t.layers[1].resid_post.save()
    np.testing.assert_array_equal(last.value, whole.value[-1:])
    np.testing.assert_array_equal(some.value, whole.value[[0, 3]])
    np.testing.assert_array_equal(tail.value, whole.value[-2:])


def test_values_go_on_through_generation(tiny3):
    with tiny3.trace(TOKENS[:4], max_new_tokens=5) as t:
        stream = t.layers[2].resid_post.save()
        t.layers[0].router.logits.edit(ban(1))
    read = len(t.routing.tokens)
    assert len(t.generation.new_tokens) >= 1 and stream.value.shape[0] == read
    with tiny3.trace(t.routing.tokens) as again:
        again.layers[0].router.logits.edit(ban(1))
        whole = again.layers[2].resid_post.save()
    np.testing.assert_allclose(stream.value, whole.value, rtol=1e-4, atol=1e-4)


# --- wrong use ------------------------------------------------------------------------


EARLY = [
    lambda site: np.asarray(site),
    lambda site: site[0],
    lambda site: site + 1,
    lambda site: 2 * site,
    lambda site: bool(site),
    lambda site: float(site),
    lambda site: list(site),
    lambda site: len(site),
    lambda site: site > 0,
]


@pytest.mark.parametrize("use", EARLY)
def test_a_place_has_no_value_inside_the_block(tiny3, use):
    with pytest.raises(SiteError, match="has no value inside the block"):
        with tiny3.trace(TOKENS) as t:
            use(t.layers[1].resid_post)


def test_a_saved_value_is_not_there_before_the_end(tiny3):
    with pytest.raises(SiteError, match="has no value inside"):
        with tiny3.trace(TOKENS) as t:
            saved = t.logits.save()
            saved.value  # noqa: B018
    with pytest.raises(SiteError):  # the block ended with an error, so nothing ran
        saved.value  # noqa: B018
    with pytest.raises(SiteError, match="after the block"):
        with tiny3.trace(TOKENS) as t:
            t.routing  # noqa: B018


def test_an_error_in_the_block_is_the_callers_and_nothing_runs(tiny3, monkeypatch):
    monkeypatch.setattr(type(tiny3), "run_one", lambda *a, **k: pytest.fail("the model ran"))
    with pytest.raises(ZeroDivisionError):
        with tiny3.trace(TOKENS):
            1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.layers[3].resid_post, "layers 0 to 2"),
        (lambda t: t.layers[-4].resid_post, "layers 0 to 2"),
        (lambda t: t.layers["one"].resid_post, "layers 0 to 2"),
        (lambda t: t.layers[0].resid_pst, "Did you mean 'resid_post'"),
        (lambda t: t.layers[0].router.logit, "Did you mean 'router.logits'"),
        (lambda t: t.layers[0].mlp.output, "no site"),
        (lambda t: t.logit, "Did you mean 'logits'"),
        (lambda t: t.resid_post.save(), "no site 'resid_post'"),
        (lambda t: setattr(t.layers[0], "resid_pst", 0), "no site"),
        (lambda t: setattr(t, "logitz", 0), "no site"),
        (lambda t: setattr(t.layers[0], "router", 0), "not a site"),
        (lambda t: t.layers[0].router.logits.edit(scale), "cannot be applied|missing|finite"),
        (lambda t: t.layers[1].resid_pre.set(t.layers[1].resid_post), "computed there or later"),
        (lambda t: t.layers[1].resid_pre.set(t.layers[1].resid_pre), "computed there or later"),
        (lambda t: t.embed.set(t.logits), "computed there or later"),
        (lambda t: t.layers[2].resid_pre.set(t.layers[:2].resid_pre), "name one layer"),
        (lambda t: t.layers[1].resid_pre.edit(lambda a, b: a, np.ones(3)), "must be a site"),
        (lambda t: t.layers[0].resid_post.save(positions=99), "positions .99. of 9 tokens"),
    ],
    ids=lambda value: "",
)
def test_what_there_is_not_is_an_error_and_never_silence(tiny3, ask, message):
    with pytest.raises((SiteError, InterventionError), match=message):
        with tiny3.trace(TOKENS) as t:
            ask(t)


def test_a_trace_is_used_once_and_in_a_block(tiny3):
    t = tiny3.trace(TOKENS)
    with pytest.raises(SiteError, match="in a block"):
        t.logits.save()
    with t:
        pass
    with pytest.raises(SiteError, match="would never happen"):
        t.logits.save()
    with pytest.raises(SiteError, match="would never happen"):
        t.layers[0].resid_post = 0.0
    with pytest.raises(SiteError, match="entered before"):
        with t:
            pass


def test_places_of_two_traces_do_not_mix(tiny3):
    with tiny3.trace(TOKENS) as other:
        foreign = other.layers[0].resid_pre
    with pytest.raises(InterventionError, match="of the same block"):
        with tiny3.trace(TOKENS) as t:
            t.layers[1].resid_pre = foreign


def test_sites_are_listed_without_running(tiny3, monkeypatch):
    monkeypatch.setattr(Engine, "run", lambda *a: pytest.fail("the model ran"))
    sites = {site.name: site for site in tiny3.sites(7)}
    assert len(sites) == 3 * 12 + 3
    one = sites["layers[2].moe.contribution"]
    assert one.axes == ("token", "top_k", "d_model")
    assert one.shape == (7, 2, tiny3.config.d_model) and one.dtype == "float32"
    assert sites["logits"].shape == (7, tiny3.config.vocab_size)
    assert "resid_post" in FLOAT32


# --- files ----------------------------------------------------------------------------


def test_saved_traces_carry_model_tokens_and_settings(tiny3, tmp_path):
    with tiny3.trace(TOKENS) as t:
        t.layers[1].router.logits.edit(ban(3), positions=[2, -1])
        saved = t.layers[0].resid_post.save()
        experts = t.layers[0].router.experts.save()
    t.routing.save(tmp_path / "routing.npz")
    t.save(tmp_path / "values.npz")
    routing, values = load_trace(tmp_path / "routing.npz"), load_saved(tmp_path / "values.npz")
    for found in (routing, values):
        assert found.model_sha256 == tiny3.sha256
        assert found.tokens.tolist() == TOKENS
        assert found.settings["dtype"] == "float32"
        assert found.settings["interventions"] == ["layers[1].router.logits: ban([3]) at 2, -1"]
    np.testing.assert_array_equal(values.values["layers[0].resid_post"], saved.value)
    np.testing.assert_array_equal(values.values["layers[0].router.experts"], experts.value)


def test_files_that_are_no_saved_values_say_so(tiny3, tmp_path):
    with tiny3.trace(TOKENS) as t:
        pass
    with pytest.raises(GrokError, match="Nothing was saved"):
        t.save(tmp_path / "values.npz")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", format_version=np.array([object()], dtype=object))
    np.savez_compressed(tmp_path / "flipped.npz", format_version=np.int32(1), tokens=np.arange(99))
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[120] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    (tmp_path / "method.npz").write_bytes(content.replace(b"PK\1\2", b"PK\1\3", 1))
    for name in ("bad", "other", "pickled", "missing", "flipped", "method"):
        with pytest.raises(GrokError, match="not a file of saved values"):
            load_saved(tmp_path / f"{name}.npz")


def test_edits_of_a_block_can_be_used_again(tiny3):
    with tiny3.trace(TOKENS) as t:
        t.layers[1].router.logits.edit(ban(3))
    again = tiny3.trace_routing(TOKENS, edits=t.edits)
    np.testing.assert_array_equal(again.experts, t.routing.experts)
    assert t.edits.texts() == edit("router.logits", ban(3), layers=1).texts()
