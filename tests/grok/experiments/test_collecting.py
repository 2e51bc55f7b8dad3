"""Many prompts on disk: what is kept, how it goes on after a stop, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from grok.errors import GrokError
from grok.experiments.collecting import batches_of, collect, parts_of
from grok.experiments.collection import load_collection
from grok.interventions.edits import ban, edit
from lens.traces import routing

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 256, n).astype(np.int32) for n in (5, 20, 3, 40, 17, 16, 1, 9)]
LABELS = ["a", "b"] * 4


def table_of(collection):
    found = [parquet.read_table(file) for file in collection.routing_files]
    names = found[0].column_names
    return {n: np.concatenate([t[n].to_numpy() for t in found]) for n in names}


def test_events_are_what_tracing_each_prompt_gives(tiny3, tmp_path):
    done = collect(tiny3, PROMPTS, tmp_path / "c", labels=LABELS, batch_tokens=64)
    assert done.finished
    events = table_of(done)
    for i, prompt in enumerate(PROMPTS):
        trace = tiny3.trace_routing(prompt)
        own = {name: column[events["prompt"] == i] for name, column in events.items()}
        shape = (len(prompt), 3, 2)
        np.testing.assert_array_equal(
            own["expert"].reshape(shape), trace.experts.transpose(1, 0, 2)
        )
        np.testing.assert_allclose(
            own["gate"].reshape(shape), trace.gates.transpose(1, 0, 2), atol=1e-5
        )
        margin = own["margin"].reshape(shape)[..., 0].T
        np.testing.assert_allclose(margin, routing.margin(trace), atol=3e-5)
        assert own["position"].reshape(shape)[:, 0, 0].tolist() == list(range(len(prompt)))
        assert own["slot"].reshape(shape)[0, 0].tolist() == [0, 1]
        assert (own["token"].reshape(shape)[:, 0, 0] == prompt).all()
    prompts = parquet.read_table(tmp_path / "c" / "prompts.parquet").to_pydict()
    assert prompts["label"] == LABELS
    assert prompts["n_tokens"] == [len(prompt) for prompt in PROMPTS]
    tokens = parquet.read_table(tmp_path / "c" / "tokens.parquet")
    assert tokens["token"].to_numpy().tolist() == np.concatenate(PROMPTS).tolist()


def test_activations_are_mapped_from_disk_in_the_order_of_the_tokens(tiny3, tmp_path):
    sites = ["layers[1].resid_post", "layers[0].router.experts", "norm.output"]
    done = collect(tiny3, PROMPTS, tmp_path / "c", sites=sites, routing=False, batch_tokens=64)
    assert not done.routing_files or not done.routing_files[0].exists()
    first = 0
    for prompt in PROMPTS:
        with tiny3.trace(prompt) as t:
            saved = [t.layers[1].resid_post.save(), t.layers[0].router.experts.save()]
            saved.append(t.norm.output.save())
        for site, value in zip(sites, saved, strict=True):
            kept = done.activations(site)
            assert isinstance(kept, np.memmap)
            np.testing.assert_allclose(
                kept[first : first + len(prompt)], value.value, rtol=1e-4, atol=1e-5
            )
        first += len(prompt)
    assert done.activations(sites[0]).shape == (first, tiny3.config.d_model)
    with pytest.raises(GrokError, match="was not collected"):
        done.activations("layers[2].resid_post")


def test_interventions_are_in_force_and_on_record(tiny3, tmp_path):
    edits = edit("router.logits", ban(2), positions=-1)
    done = collect(tiny3, PROMPTS, tmp_path / "c", edits=edits)
    events = table_of(done)
    last = np.array([len(PROMPTS[p]) - 1 for p in events["prompt"]]) == events["position"]
    assert not (events["expert"][last] == 2).any() and (events["expert"][~last] == 2).any()
    assert done.manifest["settings"]["interventions"] == edits.texts()


def test_a_stopped_collection_goes_on_where_it_was(tiny3, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total):
        if done > 60:
            raise Killed

    sites = ["layers[2].resid_pre"]
    whole = collect(tiny3, PROMPTS, tmp_path / "whole", sites=sites, part_tokens=30)
    with pytest.raises(Killed):
        collect(tiny3, PROMPTS, tmp_path / "c", sites=sites, part_tokens=30, progress=kill)
    stopped = load_collection(tmp_path / "c")
    assert 0 < stopped.manifest["parts_done"] < stopped.manifest["parts"]
    kept = [file.stat().st_mtime_ns for file in stopped.routing_files]
    told = []
    done = collect(
        tiny3, PROMPTS, tmp_path / "c", sites=sites, part_tokens=30,
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert told[0][0] > 0 and told[-1] == (111, 111)
    assert [f.stat().st_mtime_ns for f in done.routing_files[: len(kept)]] == kept
    for name, column in table_of(whole).items():
        np.testing.assert_array_equal(column, table_of(done)[name])
    np.testing.assert_array_equal(whole.activations(sites[0]), done.activations(sites[0]))
    assert json.dumps(whole.manifest, sort_keys=True) == json.dumps(done.manifest, sort_keys=True)
    assert not list((tmp_path / "c").glob(".*"))


@pytest.mark.parametrize("lost", ["routing-00001.parquet", "tokens.parquet"])
def test_a_file_that_is_gone_is_made_again_and_the_others_stay(tiny3, tmp_path, lost):
    whole = collect(tiny3, PROMPTS, tmp_path / "c", part_tokens=30)
    before = {f.name: f.read_bytes() for f in whole.folder.iterdir()}
    times = {name: (whole.folder / name).stat().st_mtime_ns for name in before}
    (whole.folder / lost).unlink()
    told = []
    collect(tiny3, PROMPTS, tmp_path / "c", part_tokens=30, progress=lambda *at: told.append(at))
    assert {f.name: f.read_bytes() for f in whole.folder.iterdir()} == before
    changed = [n for n in before if (whole.folder / n).stat().st_mtime_ns != times[n]]
    others = [n for n in changed if n.startswith("routing")]
    assert others == ([lost] if lost.startswith("routing") else [])
    assert told[-1] == (111, 111) and (told[0][0] < 111) == lost.startswith("routing")


def test_a_damaged_manifest_is_set_aside_and_the_parts_that_are_whole_are_kept(tiny3, tmp_path):
    whole = collect(tiny3, PROMPTS, tmp_path / "c", part_tokens=30)
    (whole.folder / "manifest.json").write_bytes(b"[" * 100_000)
    content = bytearray(whole.routing_files[2].read_bytes())
    content[len(content) // 3] ^= 0xFF
    whole.routing_files[2].write_bytes(content)
    times = [file.stat().st_mtime_ns for file in whole.routing_files]
    with pytest.raises(GrokError, match="no collection"):
        load_collection(whole.folder)
    again = collect(tiny3, PROMPTS, tmp_path / "c", part_tokens=30)
    assert again.manifest == whole.manifest
    same = [f.stat().st_mtime_ns == t for f, t in zip(again.routing_files, times, strict=True)]
    assert same[:3] == [True, True, False]
    assert len(list(whole.folder.glob("damaged-*-manifest.json"))) == 1


def test_damaged_activations_are_an_error_in_words(tiny3, tmp_path):
    done = collect(tiny3, PROMPTS[:1], tmp_path / "c", sites="layers[0].resid_pre", routing=False)
    file = done.folder / "activations" / "layers[0].resid_pre.npy"
    file.write_bytes(file.read_bytes()[:70])
    with pytest.raises(GrokError, match="activations cannot be read"):
        done.activations("layers[0].resid_pre")


def test_a_folder_of_something_else_is_left_alone(tiny3, tmp_path):
    collect(tiny3, PROMPTS, tmp_path / "c")
    before = {file: file.read_bytes() for file in (tmp_path / "c").iterdir() if file.is_file()}
    for change in ({"labels": LABELS}, {"sites": ["embed"]}, {"edits": edit("embed", abs)}):
        with pytest.raises(GrokError, match="holds a collection with another"):
            collect(tiny3, PROMPTS, tmp_path / "c", **change)
    with pytest.raises(GrokError, match="another.*prompts"):
        collect(tiny3, PROMPTS[:-1], tmp_path / "c")
    assert before == {f: f.read_bytes() for f in (tmp_path / "c").iterdir() if f.is_file()}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("kept")
    with pytest.raises(GrokError, match="holds other files"):
        collect(tiny3, PROMPTS, tmp_path / "mine")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "no prompts"),
        ("one text", {}, "one text"),
        ([[1, 2], []], {}, "Prompt 1: .*empty"),
        ([[1, 2], [10**6]], {}, "Prompt 1: .*outside the vocabulary"),
        ([[1, 2]], {"labels": ["a", "b"]}, "2 labels for 1 prompts"),
        ([[1, 2]], {"sites": ["layers[9].resid_pre"]}, "layers 0 to 2"),
        ([[1, 2]], {"sites": ["layers[0].mlp"]}, "no site"),
        ([[1, 2]], {"stored": "int4"}, "float32 or float16"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_collected_is_refused_before_anything_is_written(
    tiny3, tmp_path, prompts, options, message
):
    with pytest.raises(GrokError, match=message):
        collect(tiny3, prompts, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_no_collection_says_so(tmp_path):
    with pytest.raises(GrokError, match="no collection"):
        load_collection(tmp_path)
    for count in ("null", "Infinity", "0.5", "-1", "999999999"):
        counts = ", ".join(f'"{name}": {count}' for name in ("parts", "parts_done", "n_tokens"))
        said = f'{{"format_version": 1, {counts}, "n_prompts": 2, "sites": {{}}}}'
        (tmp_path / "manifest.json").write_text(said)
        with pytest.raises(GrokError, match="no collection"):
            load_collection(tmp_path)


def test_parts_and_batches_hold_every_prompt_once():
    lengths = [int(n) for n in RNG.integers(1, 90, 50)]
    assert sum(parts_of(lengths, 100), []) == list(range(50))
    assert all(sum(lengths[i] for i in part) <= 100 for part in parts_of(lengths, 100))
    batches = list(batches_of(lengths, 256))
    assert sorted({i for batch in batches for i in batch}) == list(range(50))
    assert len({i for b in batches for i in b}) == sum(len(set(b)) for b in batches)


MEMORY = """
import resource, sys
import numpy as np
from grok import load
from grok.experiments import collect
model = load(sys.argv[1], mesh=(1, 1))
rng = np.random.default_rng(0)
prompts = [rng.integers(3, 256, 60).astype(np.int32) for _ in range(int(sys.argv[3]))]
collect(model, prompts[:40], sys.argv[2] + "first", sites=["layers[1].resid_post"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
collect(model, prompts, sys.argv[2], sites=["layers[1].resid_post"], part_tokens=5000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_tokens(tmp_path):
    """20,000 tokens more take less memory than their activations and events alone would."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(ROOT / "tests" / "data" / "tiny3"),
         str(tmp_path / "c"), "400"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


def test_one_site_may_be_given_as_its_name(tiny3, tmp_path):
    one = collect(tiny3, PROMPTS[:2], tmp_path / "one", sites="norm.output", routing=False)
    several = collect(tiny3, PROMPTS[:2], tmp_path / "two", sites=["norm.output"], routing=False)
    assert one.manifest == several.manifest
    a, b = (each.activations("norm.output") for each in (one, several))
    np.testing.assert_array_equal(a, b)
