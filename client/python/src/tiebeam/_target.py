"""Which cluster, and as whom: the constructor's arguments, checked once, and the environment.

This module owns the passwords and tokens of a client. They leave it only as the header of a
request and never by `repr`.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import httpx

from ._results import Login

PathText = Union[str, "os.PathLike[str]"]
Certificate = Union[PathText, tuple[PathText, PathText], tuple[PathText, PathText, str]]
Authority = Union[PathText, ssl.SSLContext, None]

PORT_DEFAULT = 20003
"""The port of a URL that names none."""


class Credentials:
    """The login of one client. Safe to share between threads."""

    def __init__(self, user: str | None, password: str | None, token: str | None = None) -> None:
        self.user = user
        self._password = password
        self._lock = threading.Lock()
        self._token = token
        self._ttl_s: int | None = None
        self._from_login = False

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"

    def header(self) -> str | None:
        """The `Authorization` header; `None` if a client certificate has to do."""
        with self._lock:
            if self._token is not None:
                return f"Bearer {self._token}"
        if self.user is None or self._password is None:
            return None
        pair = f"{self.user}:{self._password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    def adopt(self, login: Login, ttl_s: int | None) -> None:
        """Sends this token from now on, in place of the password."""
        with self._lock:
            self._token, self._ttl_s, self._from_login = login.token, ttl_s, True

    def forget(self, token: str | None = None) -> None:
        """Stops sending the token: this one, or whichever it is."""
        with self._lock:
            if token is None or token == self._token:
                self._token, self._from_login = None, False

    def current(self) -> str | None:
        """The token in use."""
        with self._lock:
            return self._token

    def renewal(self) -> tuple[str, str, int | None] | None:
        """User, password and lifetime to log in again; `None` if that cannot be done."""
        with self._lock:
            if not self._from_login or self.user is None or self._password is None:
                return None
            return self.user, self._password, self._ttl_s

    def password(self) -> tuple[str, str]:
        """User and password, to ask for a token.

        Raises:
            ValueError: The client was made without them.
        """
        if self.user is None or self._password is None:
            raise ValueError("login() needs a client made with `user` and a password")
        return self.user, self._password


@dataclass(frozen=True)
class Target:
    """A cluster as one client sees it."""

    urls: tuple[str, ...]
    """`https://host:port` of each configured member, without a path."""
    credentials: Credentials
    tls: ssl.SSLContext
    timeout_s: float
    learn: bool = False
    """Whether the client asks the cluster for its other members."""


def target(
    urls: str | Iterable[str],
    *,
    ca: Authority = None,
    user: str | None = None,
    password: str | None = None,
    password_file: PathText | None = None,
    token: str | None = None,
    cert: Certificate | None = None,
    timeout: float = 30.0,
    learn: bool = True,
) -> Target:
    """Checks a client's arguments; see `Client` for their meaning.

    Raises:
        ValueError: The arguments contradict each other, or a URL is not one of a member.
        OSError: A file cannot be read.
    """
    if sum(secret is not None for secret in (password, password_file, token)) > 1:
        raise ValueError("give one of `password`, `password_file` and `token`")
    if (password is not None or password_file is not None) and user is None:
        raise ValueError("a password needs a `user`")
    if not timeout > 0:
        raise ValueError("`timeout` is a number of seconds above 0")
    if password_file is not None:
        password = Path(password_file).read_text(encoding="utf-8").rstrip("\r\n")
    members = tuple(dict.fromkeys(map(member_url, [urls] if isinstance(urls, str) else urls)))
    if not members:
        raise ValueError("give the URL of at least one member")
    credentials = Credentials(user, password, token)
    return Target(members, credentials, _tls(ca, cert), float(timeout), learn)


def arguments_from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The constructor's arguments as the `TIEBEAM_*` variables give them.

    `TIEBEAM_DEV` names the `dev.json` of a development cluster. It adds the other members of the
    cluster that `TIEBEAM_URL` belongs to, and what the other variables leave open.

    Raises:
        ValueError: Neither `TIEBEAM_URL` nor `TIEBEAM_DEV` is set.
        OSError: `dev.json` cannot be read.
    """
    urls = environ.get("TIEBEAM_URL", "").replace(",", " ").split()
    found: dict[str, Any] = {
        key: environ[name]
        for key, name in (
            ("ca", "TIEBEAM_CA"),
            ("user", "TIEBEAM_USER"),
            ("password_file", "TIEBEAM_PASSWORD_FILE"),
        )
        if environ.get(name)
    }
    if environ.get("TIEBEAM_DEV"):
        dev = json.loads(Path(environ["TIEBEAM_DEV"]).read_text(encoding="utf-8"))
        members = [member_url(node["url"]) for node in dev["nodes"]]
        # Variables that point at another cluster must not be mixed with this one's members.
        if not urls or any(member_url(url) in members for url in urls):
            urls += members
            for key in ("ca", "user", "password_file"):
                if dev.get(key):
                    found.setdefault(key, dev[key])
    if not urls:
        raise ValueError("set TIEBEAM_URL (or TIEBEAM_DEV) to say which cluster is meant")
    return {"urls": urls, **found}


def origin(url: httpx.URL) -> str:
    """`https://host:port` of a URL, in one spelling."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def member_url(text: str) -> str:
    """The URL of a member in one spelling.

    Raises:
        ValueError: The text is not one.
    """
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
    except httpx.InvalidURL:
        raise ValueError("a member's URL is https://host:port") from None
    # The text itself is not shown: it may hold a password.
    if url.userinfo:
        raise ValueError("a member's URL holds no login; give `user` and a password")
    if url.scheme != "https" or not url.host:
        raise ValueError("a member's URL is https://host:port: Tiebeam speaks TLS only")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise ValueError("a member's URL has no path")
    # httpx takes `:443` for no port at all, so the text decides whether one was given.
    if url.port is None and not text.rstrip("/").endswith(":443"):
        url = url.copy_with(port=PORT_DEFAULT)
    return origin(url)


def _tls(ca: Authority, cert: Certificate | None) -> ssl.SSLContext:
    if isinstance(ca, ssl.SSLContext):
        context = ca
    else:
        context = ssl.create_default_context(cafile=None if ca is None else os.fspath(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        if isinstance(cert, tuple):
            password = cert[2] if len(cert) == 3 else None
            context.load_cert_chain(cert[0], cert[1], password=password)
        else:
            context.load_cert_chain(os.fspath(cert))
    return context
