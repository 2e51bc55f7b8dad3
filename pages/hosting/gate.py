"""The door of the app: who has to sign in does, and is let in or told why not.

Signing in is Streamlit's own: the browser goes to the provider of `.streamlit/secrets.toml` and
comes back with a cookie, signed by this server, that says who it is. What the address asked for
waits in the browser's tab meanwhile.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import streamlit as st
from streamlit.auth_util import get_secrets_auth_section, is_authlib_installed
from streamlit.errors import StreamlitAuthError
from streamlit.runtime.secrets import secrets_singleton
from streamlit.user_info import validate_auth_credentials

from lens.escaping import as_html, as_markdown
from pages.access import limits, persons, settings
from pages.access.persons import Person, Standing
from pages.access.settings import Access, AccessError
from pages.hosting import your_data
from pages.shell.session_keys import SessionKey, SessionValue

DEFAULT = "default"
SHORTEST_SECRET = 32
PROVIDER_KEYS = ("client_id", "client_secret", "server_metadata_url")
BACK = SessionValue[bool](SessionKey.SIGN_IN_BACK)
KEPT = "grok_lens_place"
# The place is the browser's own, and only ever a path of this very server.
_KEEP = """<script>(() => {
  const place = location.pathname + location.search;
  if (place.length > 1 && place.length < 4000) sessionStorage.setItem(KEPT, place);
})();</script>""".replace("KEPT", json.dumps(KEPT))
_RETURN = """<script>(() => {
  const place = sessionStorage.getItem(KEPT);
  sessionStorage.removeItem(KEPT);
  if (place && /^\\/(?![\\/\\\\])/.test(place) && place !== location.pathname + location.search)
    location.replace(location.origin + place);
})();</script>""".replace("KEPT", json.dumps(KEPT))


def check_start(address: str | None) -> Access:
    """The settings of access, once they are known to hold for a server at this address.

    Raises:
        AccessError: they do not; the text says what to do.
    """
    secrets_singleton.load_if_toml_exists()  # the variables that stand there are read from now on
    access = settings.check_start(address)
    limits.current()
    if not access.asks:
        return access
    if not is_authlib_installed():
        raise AccessError("Signing in needs Authlib: pip install -r requirements.txt")
    found = providers()
    if not found:
        raise AccessError(
            f"{settings.ACCESS} is {access.kind}, and nothing says where to sign in: "
            ".streamlit/secrets.toml has no [auth] with client_id, client_secret and "
            "server_metadata_url. See docs/hosting.md."
        )
    for name in found:
        try:
            validate_auth_credentials(name)
        except StreamlitAuthError as error:
            raise AccessError(" ".join(str(error).split())) from error
    secret = str(get_secrets_auth_section().get("cookie_secret", ""))
    if len(secret) < SHORTEST_SECRET:
        raise AccessError(
            f"cookie_secret in [auth]: found {len(secret)} characters; expected {SHORTEST_SECRET} "
            "random ones or more, else cookies can be forged. Make one: python -c 'import "
            "secrets; print(secrets.token_urlsafe(48))'"
        )
    return access


def providers() -> list[str]:
    """Names of the providers in the secrets; "default" for the one without a name."""
    section = get_secrets_auth_section()
    named = [name for name, value in section.items() if hasattr(value, "keys") and _whole(value)]
    return ([DEFAULT] if _whole(section) else []) + named


def _whole(section: Any) -> bool:
    return all(section.get(name) for name in PROVIDER_KEYS)


def standing() -> Standing:
    """Whether this session's visitor is let in, and if not, why."""
    return persons.standing(persons.current(), settings.current())


def closed(why: Standing) -> None:
    """The page of those who are not let in: where to sign in, or whom to ask."""
    access, person = settings.current(), persons.current()
    _, middle, _ = st.columns([1, 3, 1])
    with middle.container(border=True, key="gate"):
        if why == "not listed" and person is not None:
            _refused(access, person)
        else:
            _sign_in(access, ended=why == "ended")


def _sign_in(access: Access, *, ended: bool) -> None:
    st.title("Your sign-in has ended" if ended else "Sign in to go on", anchor=False)
    st.markdown(
        "Grok MoE Lens shows how Mixture-of-Experts language models send each word to a few of "
        "their experts. This server is for "
        + ("the people on its list." if access.kind == "list" else "people with an account.")
    )
    _buttons("primary")
    hours = f"{access.hours:g} hours" if access.hours != 1 else "an hour"
    st.caption(
        "You are asked who you are by your own provider, and come back here; this server sees no "
        "password. It keeps your address of mail in a cookie, and a code made from your account "
        f"beside runs, notes and texts that you keep. After {hours} you sign in again."
        + (as_markdown(f" If it does not work, ask {access.contact}.") if access.contact else "")
    )
    st.html(_KEEP, unsafe_allow_javascript=True)


def _buttons(type: Literal["primary", "secondary"]) -> None:
    """A button for each provider."""
    for name in providers():
        label = "Sign in" if name == DEFAULT else f"Sign in with {as_markdown(name.capitalize())}"
        st.button(
            label,
            key=f"sign_in_{name}",
            type=type,
            icon=":material/login:",
            on_click=st.login,
            args=() if name == DEFAULT else (name,),
        )


def _refused(access: Access, person: Person) -> None:
    st.title("You are not on the list of this server", anchor=False)
    # As HTML, so that addresses can be copied: Markdown would make links of them.
    ask = as_html(persons.ask(access))
    st.html(f"<p>You are signed in with <b>{_named(person)}</b>.{ask}</p>")
    st.button("Sign in with another account", key="sign_out", on_click=st.logout)


def _named(person: Person) -> str:
    return as_html(person.address) or "an account without an address that was checked"


def inside() -> None:
    """Who is signed in, and the way out, at the end of the sidebar; back to where one came for."""
    person = persons.signed_in()
    if person is None:
        if settings.current().kind == "open" and providers():
            with st.sidebar.container(key="may_sign_in"):
                _buttons("secondary")
        return
    if not BACK.get():
        BACK.set(True)
        st.html(_RETURN, unsafe_allow_javascript=True)
    with st.sidebar.container(key="signed_in"):
        st.html(f"<small>Signed in: {_named(person)}</small>")
        your_data.popover()
        st.button("Sign out", key="sign_out", icon=":material/logout:", on_click=st.logout)
