"""What a failed connection or a foreign response means: the layer at fault, and a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from ptn_api.errors import error_text

__all__ = [
    "failure_text",
    "foreign_text",
    "proxy_note",
    "redirect_text",
    "shown_url",
    "tls_text",
    "unanswered_text",
]

_PROXIED_AS = {"http": ("http", "all"), "https": ("https", "all")}
_PROXIED_AS |= {"ws": ("ws", "socks", "https", "http"), "wss": ("wss", "socks", "https", "http")}  # type: ignore[dict-item]
"""By an address's scheme: the settings that may name its proxy, by precedence."""
_CERTIFICATES = {
    "mismatch": "use the name that the certificate is for",
    "expired": "the server has to renew it, or this machine's clock is wrong",
    "not yet valid": "is this machine's clock right?",
    "certificate verify failed": "if its authority is a private one, set SSL_CERT_FILE to the authority's "
    "certificate (PEM)",
}
"""Part of an error of TLS -> the remedy; the first match holds."""
_LAYERS = {
    401: "a proxy before it asks for a login",
    403: "a proxy or firewall before it refuses the request",
    407: "the proxy asks for a login: put it into the proxy's address",
    502: "a proxy before it cannot reach it",
    504: "a proxy before it had no answer in time",
}


def failure_text(error: BaseException) -> str:
    """Returns what went wrong, and the remedy if the server's certificate is the reason."""
    message = error_text(error)
    for sign, remedy in _CERTIFICATES.items():
        if "certificate" in message.lower() and sign in message.lower():
            return f"{message}; {remedy}"
    return message


_TLS_EXPECTED = "server disconnected", "valid http response"
_TLS_UNEXPECTED = "wrong version number", "wrong_version_number", "opening handshake"
_OTHER_SCHEMES = {
    "http": ("https", _TLS_EXPECTED),
    "ws": ("wss", _TLS_EXPECTED),
    "https": ("http", _TLS_UNEXPECTED),
    "wss": ("ws", _TLS_UNEXPECTED),
}
"""By scheme: the scheme to suggest when an error contains one of these signs."""


def unanswered_text(error: BaseException, url: str) -> str:
    """Returns that the server does not answer and why; also the other scheme where only one side uses TLS."""
    message = re.sub(r"\[(Errno|SSL)[^\]]*\] | \(_ssl\.c:\d+\)|\.$", "", failure_text(error))
    scheme, _, rest = shown_url(url).partition(":")
    other, signs = _OTHER_SCHEMES.get(scheme, ("", ()))
    hint = f"; is it {other}:{rest}?" if any(sign in message.lower() for sign in signs) else ""
    return f"{scheme}:{rest} does not answer: {message}{hint}"


def shown_url(url: str) -> str:
    """Returns an address without a login and query, which may be secret."""
    return re.sub(r"^(\w+://)?[^/@]*@", r"\1", url).partition("?")[0]


def proxy_note(url: str, proxy: str | None = None) -> str:
    """Returns words that name the proxy on the way to this address, else an empty string.

    `proxy` is the one that was given to the client; otherwise the environment decides. Never with its login.
    """
    parts, setting = urlsplit(url), ""
    if proxy is None and not proxy_bypass(parts.hostname or ""):
        proxies = getproxies()
        setting = next((name for name in _PROXIED_AS.get(parts.scheme, ()) if proxies.get(name)), "")
        proxy = proxies.get(setting)
    if not proxy:
        return ""
    shown = shown_url(proxy)
    if not setting:
        return f" (through the proxy {shown})"
    variable = f"{setting.upper()}_PROXY"
    return f" (through the proxy {shown} of {variable}; NO_PROXY={parts.hostname} avoids it)"


def redirect_text(url: str, path: str, location: str) -> str:
    """Returns which address to use instead of `url`, from a redirect of the request for `path`."""
    try:
        target = urlsplit(urljoin(f"{url.rstrip('/')}{path}", location))
    except ValueError:
        return "it redirects to a malformed address"
    shown = f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}".removesuffix(path)
    return f"it redirects to {shown}; use that address"


def tls_text(url: str, answer: str) -> str:
    """Returns the remedy if the answer, such as that of deploy/nginx, demands TLS; else an empty string."""
    scheme, _, rest = shown_url(url).partition(":")
    if scheme not in ("http", "ws") or "https only" not in answer.lower():
        return ""
    return f"it accepts only TLS; use {scheme}s:{rest}"


def foreign_text(status: int, headers: Mapping[str, str]) -> str:
    """Returns what an error without the API's message means: it is not the API's."""
    layer = _LAYERS.get(status, "is that the address of the API?")
    sender = headers.get("server", "")
    named = f" from {sender}" if sender.isprintable() and 0 < len(sender) <= 40 else ""
    return f"status {status}{named}, which is not a response of the API: {layer}"
