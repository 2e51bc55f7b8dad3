"""People sign in at a real provider, with a real browser: who gets in, where to, and who not."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.app_server import serving
from tests.browser.oidc_provider import CLIENT, SECRET, Provider, providing

COOKIE = "_streamlit_user"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with providing() as found:
        yield found


@pytest.fixture(scope="module")
def closed_server(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a list, which sends people to that provider."""
    folder: Path = tmp_path_factory.mktemp("closed")
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    (folder / "secrets.toml").write_text(
        f"""
        GROK_LENS_ACCESS = "list"
        GROK_LENS_ACCESS_LIST = "@example.org, misled@elsewhere.io"
        GROK_LENS_CONTACT = "Ann (ann@example.org)"
        [auth]
        redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
        cookie_secret = "{"a-long-enough-secret-" * 3}"
        client_id = "{CLIENT}"
        client_secret = "{SECRET}"
        server_metadata_url = "{provider.address}/.well-known/openid-configuration"
        """
    )
    settings = {"STREAMLIT_SECRETS_FILES": str(folder / "secrets.toml")}
    with serving(folder, settings, port=port, quiet=False) as address:
        yield address


@pytest.fixture
def somebody(browser: Browser, closed_server: str) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=closed_server)
    context.set_default_timeout(180_000)
    yield context
    context.close()


def sign_in(page: Page, who: str, at: str = "/") -> None:
    page.goto(at)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.locator("[name=who]").fill(who)
    page.get_by_role("button", name="Go on").click()


def title(page: Page) -> object:
    return page.get_by_role("heading", level=1)


def test_who_signs_in_comes_to_the_place_that_was_asked_for_and_out_again(
    somebody, closed_server, provider
):
    page = somebody.new_page()
    missed: list[str] = []
    page.on("response", lambda answer: missed.append(answer.url) if answer.status >= 400 else None)
    page.goto("/layers?metric=cosine")
    expect(title(page)).to_have_text("Sign in to go on")
    assert page.get_by_test_id("stSidebarNav").count() == 0
    page.wait_for_load_state("networkidle")
    assert missed == []
    sign_in(page, "ann@example.org", "/layers?metric=cosine")
    expect(title(page)).to_have_text("Layers")
    assert "metric=cosine" in page.url
    expect(page.get_by_text("Signed in: ann@example.org")).to_be_attached()
    # A copied cookie is as good as its owner's until the hours are over: it is the key.
    (cookie,) = [one for one in somebody.cookies() if one["name"] == COOKIE]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    # The page is closed before the browser has been at the provider and come back from there.
    with page.expect_response(lambda answer: answer.url.startswith(f"{provider.address}/end")):
        page.get_by_role("button", name="Sign out").click()
    expect(title(page)).to_have_text("Sign in to go on")
    assert provider.ended and not [one for one in somebody.cookies() if one["name"] == COOKIE]


def test_a_changed_cookie_opens_nothing_and_a_copied_one_is_its_owners(
    somebody, browser, closed_server
):
    page = somebody.new_page()
    sign_in(page, "ann@example.org")
    expect(title(page)).to_have_text("Overview")
    (cookie,) = [one for one in somebody.cookies() if one["name"] == COOKIE]
    value = cookie["value"]
    middle = len(value) // 3
    other = "A" if value[middle] != "A" else "B"
    for changed, shown in (
        (value[:middle] + other + value[middle + 1 :], "Sign in to go on"),
        (value, "Overview"),
    ):
        thief = browser.new_context(base_url=closed_server)
        thief.set_default_timeout(180_000)
        thief.add_cookies([{**cookie, "value": changed}])
        stolen = thief.new_page()
        stolen.goto("/")
        expect(title(stolen)).to_have_text(shown)
        thief.close()


def test_who_is_not_on_the_list_reads_which_account_and_whom_to_ask(somebody):
    page = somebody.new_page()
    sign_in(page, "eve@elsewhere.io")
    expect(title(page)).to_have_text("You are not on the list of this server")
    expect(page.get_by_text("You are signed in with eve@elsewhere.io.")).to_be_visible()
    expect(page.get_by_text("Ask Ann")).to_be_visible()
    page.get_by_role("button", name="Sign in with another account").click()
    expect(title(page)).to_have_text("Sign in to go on")


@pytest.mark.parametrize(
    ("who", "shown"),
    [
        ("late@example.org", "Your sign-in has ended"),
        ("misled@elsewhere.io", "Sign in to go on"),
        ("unchecked@example.org", "You are not on the list of this server"),
    ],
    ids=["of long ago", "for another server", "an address that nobody checked"],
)
def test_a_token_that_must_not_count_opens_nothing(somebody, who, shown):
    page = somebody.new_page()
    sign_in(page, who)
    expect(title(page)).to_have_text(shown)


def test_files_for_download_are_for_those_who_are_signed_in(closed_server):
    for path in ("/media/0123456789abcdef.csv", "/_stcore/upload_file/a/b"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(closed_server + path, timeout=60)
        with refused.value:
            assert refused.value.code == 403
