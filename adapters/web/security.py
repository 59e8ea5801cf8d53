"""Who may see the pages: a token in the URL that was printed, then in a cookie; answers only from our own pages; nothing from outside may be loaded or may frame us."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlencode, urlsplit

from aiohttp import web

CSRF_HEADER = "X-CSRF-Token"
COOKIE_AGE = 30 * 24 * 3600
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def new_token() -> str:
    """A token that cannot be guessed: 192 random bits."""
    return secrets.token_urlsafe(24)


class Guard:
    """Lets in who has the token. ``public``: paths that are served without one and without our headers, as before there were pages."""

    def __init__(self, token: str, public: Collection[str] = ()) -> None:
        if not token:
            raise ValueError("pages without a token would be open to everybody")
        self._token, self._public = token.encode(), frozenset(public)
        # Cookies do not know ports: two servers on one machine must not overwrite each other's.
        self._cookie = f"doujie_{hashlib.sha256(self._token).hexdigest()[:8]}"
        self.csrf = hmac.new(self._token, b"csrf", hashlib.sha256).hexdigest()

    def install(self, app: web.Application) -> None:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._check(request, handler)

        app.middlewares.append(check)
        app.on_response_prepare.append(self._add_headers)

    def is_public(self, request: web.Request) -> bool:
        return request.path in self._public

    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.is_public(request):
            return await handler(request)
        if "token" in request.query:
            return self._let_in(request)
        if not self._is_token(request.cookies.get(self._cookie, "")):
            raise web.HTTPForbidden(text="The token is missing or wrong: open the address that the program printed when it started, with its ?token=...\n")
        if request.method not in _SAFE_METHODS and not self._is_own(request):
            raise web.HTTPForbidden(text="This request does not come from a page of this server: reload the page and try again\n")
        return await handler(request)

    def _let_in(self, request: web.Request) -> web.Response:
        """From the token in the URL to the same URL without it, so that it stays in no history and no screenshot."""
        if request.method not in _SAFE_METHODS or not self._is_token(request.query["token"]):
            raise web.HTTPForbidden(text="The token is wrong: open the address that the program printed when it started last\n")
        rest = urlencode([(name, value) for name, value in request.query.items() if name != "token"])
        response = web.Response(status=303, headers={"Location": f"/{request.rel_url.raw_path.lstrip('/')}" + (f"?{rest}" if rest else "")})
        response.set_cookie(self._cookie, self._token.decode(), max_age=COOKIE_AGE, httponly=True, samesite="Strict", secure=request.secure, path="/")
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _is_own(self, request: web.Request) -> bool:
        """True for a request that a page of ours made: another site can neither read the CSRF token nor set the header."""
        if not hmac.compare_digest(request.headers.get(CSRF_HEADER, "").encode(), self.csrf.encode()):
            return False
        if (site := request.headers.get("Sec-Fetch-Site")) is not None:
            return site == "same-origin"
        origin = request.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == request.host

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self.is_public(request):
            response.headers.update(_HEADERS)
            response.headers.setdefault("Cache-Control", "no-store")
