"""The console's web application: `python -m witness console --folder …`, on loopback unless told otherwise.

Each page has three forms: HTML, `.json`, and for lists `.csv`. Answers GET and HEAD only, sets one cookie
(the language), loads nothing from elsewhere, and runs without JavaScript; htmx, which lies beside, refreshes
the figures where it may run. Refuses requests under another host name than its own, so that no page of
another site can read it through a browser. It has no log-in: whoever reaches the address sees what the
witness sees.
"""

import csv
import io
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from witness.background import Background
from witness.console.health import Standing
from witness.console.index import Index
from witness.console.pages import Asked, NotFound, Page, Pages, WrongRequest, plain, table
from witness.console.words import LANGUAGES, preferred, words
from witness.database import Database
from witness.encoding import system_clock
from witness.evidence_words import learned
from witness.server import WitnessConfig, database_url

_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_PAUSE = 1.0  # seconds between two looks for new entries
_COOKIE = "language"
_FAILURE = "failure.html"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language, Cookie",
    "X-Content-Type-Options": "nosniff",
}
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})\.\d{3}Z")
_LISTS = ("records", "exchanges", "contracts", "parties")
_SINGLE = {"records": "record", "exchanges": "exchange", "contracts": "contract", "parties": "party"}


class Console:
    """One witness's console: a reading handle, an index that follows the log, and the templates."""

    def __init__(self, config: WitnessConfig, clock: Callable[[], int]) -> None:
        self._database = Database(database_url(config), read_only=True)
        self.index = Index(self._database)
        self.pages = Pages(self.index, Standing(config, self._database, clock), self._database)
        self._thread = Background("console-index", self._follow, "the log cannot be read now", _PAUSE)
        self._templates = _templates(clock)

    def start(self) -> None:
        """Begins to read the log, and to follow it."""
        self._thread.start()

    def close(self) -> None:
        """Ends the reading, and forgets what was read."""
        self._thread.close()
        self.index.close()
        self._database.close()

    def _follow(self) -> float:
        return 0.0 if self.index.refresh() else _PAUSE

    def html(self, template: str, request: Request, data: dict[str, Any], status: int = 200) -> Response:
        """A page for people, in their language."""
        language = _language(request)
        chosen = request.query_params.get("lang") in LANGUAGES
        text = self._templates.get_template(template).render(
            data,
            frame=self.pages.frame(),
            w=words(language),
            lang=language,
            # A path that is no page's may begin like another host's address: no link is made of it.
            path="/" if template == _FAILURE else request.url.path,
            arguments={k: v for k, v in request.query_params.items() if k != "lang"},
        )
        response = Response(text, status, _HEADERS, "text/html")
        if chosen:
            response.set_cookie(_COOKIE, language, max_age=365 * 86400, samesite="strict", httponly=True)
        return response


def application(console: Console, hosts: Sequence[str]) -> Starlette:
    """The routes: every page with its twins, two files of a record, and the static files."""
    routes = [Route("/", _shown(console, console.pages.overview, "overview"))]
    for name in ("overview", "log", "alarms", *_LISTS):
        view = getattr(console.pages, name)
        routes += _three(console, f"/{name}", view, name)
    for name, single in _SINGLE.items():
        routes += _three(console, f"/{name}/{{name}}", getattr(console.pages, single), single)
    routes.insert(0, Route("/records/{index:int}/tlog-proof", _proof(console)))
    routes.insert(0, Route("/records/{index:int}/envelope", _envelope(console)))
    static = Mount("/static", StaticFiles(directory=_HERE / "static"))
    return Starlette(
        routes=[static, *routes],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={404: _missing(console), 405: _missing(console)},
        lifespan=_lifespan(console),
    )


def _lifespan(console: Console) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        console.start()
        yield
        console.close()

    return life


def _three(console: Console, path: str, view: Callable[[Asked], Page], name: str) -> list[Route]:
    """The JSON twin and the CSV file stand before the page, whose path would match theirs too."""
    return [
        Route(f"{path}.json", _guarded(console, lambda r: _json(view(_asked(r))))),
        Route(f"{path}.csv", _guarded(console, lambda r: _csv(view(_asked(r, everything=True)), name))),
        Route(path, _shown(console, view, name)),
    ]


def _shown(console: Console, view: Callable[[Asked], Page], name: str) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        page = view(_asked(request))
        return console.html(page.template, request, {**page.data, "here": name, "rows": page.rows})

    return _guarded(console, show)


def _guarded(console: Console, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Ours leave as they are; everything else as a reference, never in a library's words."""

    def guarded(request: Request) -> Response:
        try:
            return answer(request)
        except NotFound:
            return _failure(console, request, 404, "not_found")
        except WrongRequest:
            return _failure(console, request, 400, "wrong_request")
        except Exception:  # noqa: BLE001  a page must not quote what it could not read
            reference = secrets.token_hex(8)
            _log.exception("internal error %s", reference)
            return PlainTextResponse(f"internal error {reference}\n", 500, _HEADERS)

    return guarded


def _failure(console: Console, request: Request, status: int, word: str) -> Response:
    if request.url.path.endswith((".json", ".csv")):
        return Response(json.dumps({"error": word}) + "\n", status, _HEADERS, "application/json")
    return console.html(_FAILURE, request, {"word": word, "here": ""}, status)


def _missing(console: Console) -> Callable[[Request, Exception], Response]:
    def missing(request: Request, error: Exception) -> Response:
        if getattr(error, "status_code", 404) == 405:
            return PlainTextResponse("this console only reads\n", 405, {**_HEADERS, "Allow": "GET, HEAD"})
        return _guarded(console, lambda r: _failure(console, r, 404, "not_found"))(request)

    return missing


def _json(page: Page) -> Response:
    text = json.dumps(plain(page.data), ensure_ascii=False, indent=1)
    return Response(text + "\n", 200, _HEADERS, "application/json")


def _csv(page: Page, name: str) -> Response:
    if page.rows is None:
        raise NotFound
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(table(page.data[page.rows]))
    # The mark at the beginning makes spreadsheets read Chinese as what it is.
    headers = {**_HEADERS, "Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(("\ufeff" + text.getvalue()).encode(), 200, headers, "text/csv")


def _proof(console: Console) -> Callable[[Request], Response]:
    def proof(request: Request) -> Response:
        index = int(request.path_params["index"])
        headers = {**_HEADERS, "Content-Disposition": f'attachment; filename="{index}.tlog-proof"'}
        return Response(console.pages.proof_text(index), 200, headers, "text/plain")

    return _guarded(console, proof)


def _envelope(console: Console) -> Callable[[Request], Response]:
    def envelope(request: Request) -> Response:
        index = int(request.path_params["index"])
        headers = {**_HEADERS, "Content-Disposition": f'attachment; filename="{index}.dsse.json"'}
        return Response(console.pages.envelope(index), 200, headers, "application/json")

    return _guarded(console, envelope)


def _asked(request: Request, *, everything: bool = False) -> Asked:
    return Asked(request.path_params.get("name", ""), dict(request.query_params), everything)


def _language(request: Request) -> str:
    """By the switch, then by the cookie that it set, then by what the browser prefers."""
    for wish in (request.query_params.get("lang"), request.cookies.get(_COOKIE)):
        if wish in LANGUAGES:
            return wish
    return preferred(request.headers.get("accept-language", ""))


def _templates(clock: Callable[[], int]) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["moment"] = lambda text: _TIME.sub(r"\1 \2", text) if text else ""
    made.filters["clock"] = lambda text: _TIME.sub(r"\2", text) if text else ""
    made.filters["short"] = lambda text, n=8: f"{text[:n]}…" if text and len(text) > n + 1 else text or ""
    made.filters["grouped"] = lambda number: f"{number:,}".replace(",", "\u202f")
    made.filters["learned"] = learned
    made.filters["said"] = lambda code, w: w.get(f"said_{code}", code)
    made.globals["ago"] = lambda text, w: _ago(text, w, clock())
    made.globals["link"] = _link
    return made


def _link(path: str, arguments: dict[str, str], **changes: Any) -> str:
    merged = {k: str(v) for k, v in {**arguments, **changes}.items() if v not in (None, "")}
    return f"{path}?{urlencode(merged)}" if merged else path


def _ago(text: str | None, w: dict[str, str], now: int) -> str:
    if not text:
        return ""
    at = datetime.fromisoformat(text).astimezone(UTC).timestamp()
    seconds = max(0, int(now / 1000 - at))
    for word, width, most in (("ago_s", 1, 120), ("ago_m", 60, 120 * 60), ("ago_h", 3600, 72 * 3600)):
        if seconds < most:
            return w[word].format(n=seconds // width)
    return w["ago_d"].format(n=seconds // 86400)


def hosts_of(listen: str, more: Sequence[str]) -> list[str]:
    """The host names under which the console may be asked for: its own address, and those that are named."""
    host = listen.rpartition(":")[0].strip("[]")
    own = {host, "localhost", "127.0.0.1", "[::1]"} if _loopback(host) else {host}
    return sorted({*own, *more} - {""})


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(config: WitnessConfig, listen: str, hosts: Sequence[str], ready: Callable[[str], None]) -> None:
    """Serves the console until it is interrupted. Raises SchemaOther, OSError, ValueError."""
    host, _, port = listen.rpartition(":")
    console = Console(config, system_clock)
    app = application(console, hosts_of(listen, hosts))
    settings = uvicorn.Config(
        app, host.strip("[]"), int(port), log_level="warning", access_log=False, server_header=False
    )
    server = _Server(settings, ready)
    server.run()


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(settings)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            host, port = server.sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
