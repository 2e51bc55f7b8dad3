"""A small dictionary with its database, of a model that runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok.serving.shared_model import SharedModel
from lens.features.store import FeatureStore
from pages.feature_views import source
from pages.live.session import shared_models
from pages.shell import data_source
from tests.feature_database import DATA, small_database, small_model


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    return small_database(tmp_path_factory.mktemp("small") / "transcoder")


@pytest.fixture
def at_hand(monkeypatch, small_folder) -> FeatureStore:
    """The database, beside its dictionary; prompts run on its model."""
    monkeypatch.setenv(source.FEATURES_VARIABLE, str(small_folder / "features"))
    monkeypatch.setattr(data_source, "bundled_checkpoint", lambda: DATA / "tiny3")
    monkeypatch.setattr(shared_models, "shared", lambda *_: SharedModel(small_model()))
    return FeatureStore.open(small_folder / "features")
