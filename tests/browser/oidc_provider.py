"""A provider of OpenID Connect on this machine: discovery, signed tokens, keys, sign-out.

It asks nobody for a password: whoever comes chooses who to be. For tests and for trying:

    python -m tests.browser.oidc_provider --port 8600
"""

from __future__ import annotations

import argparse
import base64
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT, SECRET = "lens", "secret-of-the-client"
HOUR = 3600


@dataclass
class Provider:
    """The provider, once it answers."""

    address: str
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def claims(self, who: str) -> dict[str, Any]:
        """Of somebody: most are honest, two come with tokens that must not count."""
        now = int(time.time())
        since = now - 13 * HOUR if who.startswith("late") else now
        return {
            "iss": self.address,
            "sub": f"id-of-{who}",
            "aud": "somebody-else" if who.startswith("misled") else CLIENT,
            "email": who,
            "email_verified": not who.startswith("unchecked"),
            "iat": since,
            "exp": now + HOUR,
        }

    async def discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.address,
                "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": f"{self.address}/token",
                "jwks_uri": f"{self.address}/jwks",
                "end_session_endpoint": f"{self.address}/end",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def jwks(self, _request: Request) -> Response:
        return JSONResponse(KeySet([self.key]).as_dict(private=False))

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        who = asked.pop("who", None)
        if who is None:
            return HTMLResponse(
                "<!DOCTYPE html><title>Provider</title><h1>Who are you?</h1><form><input name=who>"
                + "".join(f"<input type=hidden name={k} value='{v}'>" for k, v in asked.items())
                + "<button>Go on</button></form>"
            )
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**self.claims(who), "nonce": asked["nonce"]}
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 302)

    async def token(self, request: Request) -> Response:
        known = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        form = {k: v[0] for k, v in parse_qs((await request.body()).decode()).items()}
        claims = self.codes.pop(form.get("code", ""), None)
        if request.headers.get("authorization") != f"Basic {known}" or claims is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return JSONResponse(
            {"access_token": "none", "token_type": "Bearer", "expires_in": HOUR, "id_token": token}
        )

    async def end(self, request: Request) -> Response:
        back = request.query_params["post_logout_redirect_uri"]
        self.ended.append(back)
        return RedirectResponse(back, 302)


@contextmanager
def providing(port: int = 0) -> Iterator[Provider]:
    """A provider in a thread of this process, on a free port where none is given."""
    place = socket.socket()
    place.bind(("127.0.0.1", port))
    provider = Provider(f"http://127.0.0.1:{place.getsockname()[1]}")
    app = Starlette(
        routes=[
            Route("/.well-known/openid-configuration", provider.discovery),
            Route("/jwks", provider.jwks),
            Route("/authorize", provider.authorize),
            Route("/token", provider.token, methods=["POST"]),
            Route("/end", provider.end),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(60)
        place.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8600)
    with providing(parser.parse_args().port) as found:
        print(f"Provider: {found.address}, client {CLIENT}, secret {SECRET}", flush=True)
        signal.pause()
