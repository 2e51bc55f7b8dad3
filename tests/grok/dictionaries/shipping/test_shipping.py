"""What ships beside the bundled model, and the card that is written from measurements alone."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import grok
from grok.config import BUNDLED_DICTIONARIES, BUNDLED_MODEL
from grok.dictionaries import ship
from grok.dictionaries.evaluation.sums import Reconstruction
from grok.dictionaries.evaluation.tokens import parts, spread
from grok.dictionaries.kinds.bundled import (
    bundled_dictionary,
    bundled_kinds,
)
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.shipping.card import card_text, write_card
from grok.dictionaries.shipping.rounding import rounding
from grok.dictionaries.training.windows import cut
from grok.errors import GrokError

MOST_BYTES = 40 * 10**6
TEXTS = 24


@pytest.fixture(scope="module")
def bundled():
    return grok.load(dtype="float32", mesh=(1, 1))


@pytest.fixture(scope="module")
def windows(bundled):
    """Some of the short texts that ship with the model, from what it was not trained on."""
    lines = (BUNDLED_MODEL / "example_texts.jsonl").read_text("utf-8").splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines[:: len(lines) // TEXTS]]
    return cut({str(i): bundled.encode(text) for i, text in enumerate(prompts)}, 128)


@pytest.mark.parametrize("kind", bundled_kinds())
def test_a_bundled_dictionary_is_as_good_as_its_card_says(bundled, windows, kind):
    own = bundled_dictionary(kind)
    config = bundled.config
    own.check_model(bundled.sha256, config.d_model, config.n_layers, bundled.name)
    assert own.design.kind == kind and own.design.layers == tuple(range(config.n_layers))
    places = spread(windows, 10**6, own.skipped)
    (part,) = parts(bundled, own.design, windows, places, len(places.window))
    y = np.asarray(part.batch.y, np.float64)
    sums = Reconstruction(y.mean(1))
    found = apply(own, part.batch.x)
    sums.add(y, np.asarray(found.written))
    fvu = sums.numbers()["fvu"]
    l0 = [np.count_nonzero(np.asarray(one)) / len(places.window) for one in found.features]
    assert np.mean(l0) == pytest.approx(own.activation.k, rel=0.15)
    # Principal axes are at an advantage here: fitted on the very tokens.
    left, whole = [], []
    for values, k in zip(y, l0, strict=True):
        off = values - values.mean(0)
        energy = np.square(off @ np.linalg.eigh(off.T @ off)[1])
        left.append(np.sort(energy, axis=1)[:, : energy.shape[1] - round(k)].sum())
        whole.append(energy.sum())
    assert fvu[-1] < sum(left) / sum(whole)
    if kind != "clt":  # across layers a layer may have few of its own
        assert all(one < a / b for one, a, b in zip(fvu, left, whole, strict=False))


def test_all_that_ships_fits_and_is_named():
    kinds = bundled_kinds()
    assert kinds
    sizes = [f.stat().st_size for kind in kinds for f in (BUNDLED_DICTIONARIES / kind).iterdir()]
    assert sum(sizes) < MOST_BYTES
    with pytest.raises(GrokError, match="no bundled dictionary 'molt'; there are .*sae"):
        bundled_dictionary("molt")


def test_the_card_is_what_the_evaluations_say(tmp_path):
    records = json.loads((BUNDLED_DICTIONARIES / "card.json").read_text())
    assert (BUNDLED_DICTIONARIES / "README.md").read_text() == card_text(records)
    changed = copy.deepcopy(records)
    changed["sae"]["evaluation"]["controls"]["pca_best"][3] = 0.98765
    assert card_text(changed).count("0.988") == card_text(records).count("0.988") + 1
    # Within domains and given the token come before all else.
    own = card_text(records).split("## sae")[1]
    assert own.index("within domains") < own.index("Error by layer")
    with pytest.raises(GrokError, match="no dictionary; expected folders"):
        write_card(tmp_path)
    (tmp_path / "sae").mkdir()
    for name in ("dictionary.json", "dictionary.safetensors"):
        (tmp_path / "sae" / name).write_bytes((BUNDLED_DICTIONARIES / "sae" / name).read_bytes())
    with pytest.raises(GrokError, match="Measure the dictionary with"):
        write_card(tmp_path)


def test_rounding_tells_what_changed(bundled, windows):
    own = bundled_dictionary("sae")
    same = rounding(bundled, own, own, windows, 200)
    assert same["same_active"] == 1 and same["fvu_before"] == same["fvu_after"]
    off = {**own.params, "threshold": own.params["threshold"] * 1.2}
    other = rounding(bundled, own, Dictionary(own.design, own.activation, off, {}), windows, 200)
    assert 0.3 < other["same_active"] < 1 and other["fvu_after"][-1] > other["fvu_before"][-1]


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert ship.main(["--output", str(tmp_path)]) == 2
    assert "DIR is missing" in capsys.readouterr().err
    assert ship.main([str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
    assert "no dictionary" in capsys.readouterr().err
