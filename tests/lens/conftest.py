"""What tests of downloads share."""

from __future__ import annotations

import pytest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of its own with an empty cache; nothing else on the network is asked."""
    import huggingface_hub.constants

    from benchmarks.hub_server import serving
    from tests.hub_files import FILES

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving(dict(FILES)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server
