"""Who may ask, and what an answer lets a page do.

A server on 127.0.0.1 is reached by every page that this machine's browser has open: a page elsewhere can send requests
here, or point a name of its own at 127.0.0.1 (DNS rebinding) and read the answers. So a request must call us by a name
that is ours (``Host``), and what a page sends must come from a page of ours (``Origin``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# The page runs only the modules served beside it, reaches nothing else, and has no way to turn text into markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def local_names(port: int) -> set[str]:
    """What a browser on this machine calls a server of ours, as it writes it in ``Host``."""
    return {f"127.0.0.1:{port}", f"localhost:{port}"}


def is_ours(headers: Mapping[str, str], names: Collection[str], scheme: str = "http") -> bool:
    """Whether a request names us by one of ``names``, and comes from no page of another origin."""
    origin = headers.get("origin")
    return headers.get("host") in names and (origin is None or origin in {f"{scheme}://{name}" for name in names})
