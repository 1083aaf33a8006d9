"""``Settings``: how a server holds up, and to whom it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pellucid.base.errors import RequestError

MiB = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seconds, bytes and numbers; the defaults are for one machine and a few people.

    Raises: RequestError for what is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()  # any of them opens; (): nobody is asked for one
    cors_origins: tuple[str, ...] = ()  # web pages elsewhere that may call; "*": all
    allowed_hosts: tuple[str, ...] = ()  # names by which this machine may be called, beside its addresses
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    max_queue: int = 512  # answers that wait for a place beside those that are being written; more get 429
    max_body: int = 8 * MiB
    max_header: int = 32 * 1024
    max_connections: int = 2048
    read_timeout: float = 30.0  # for a request's head, and for each next part of its body
    write_timeout: float = 60.0  # in which a client must take what it is sent
    deadline: float | None = None  # for a whole answer, from its request on
    grace: float = 30.0  # in which running answers may finish when the server is told to end
    ping: float = 15.0  # a stream that has nothing to say says so as often
    template: str | None = None  # a chat template in place of the models' own
    template_kwargs: Mapping[str, object] = field(default_factory=dict)  # for every chat

    def __post_init__(self) -> None:
        for name in ("max_body", "max_header", "max_connections", "read_timeout", "write_timeout", "ping"):
            if getattr(self, name) <= 0:
                raise RequestError(f"{name} is out of range", expected="more than 0", received=getattr(self, name))
        for name in ("max_queue", "grace"):
            if getattr(self, name) < 0:
                raise RequestError(f"{name} is out of range", expected="0 or more", received=getattr(self, name))
        if not 0 <= self.port < 2**16:
            raise RequestError("a port is out of range", expected="0 to 65535", received=self.port)
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise RequestError("a TLS key needs its certificate", remedy="--ssl-certfile FILE")
