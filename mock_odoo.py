"""A fake Odoo for testing the heartbeat of a cash register's KKT adapter.

    from mock_odoo import MockOdooServer

    with MockOdooServer(port=0) as odoo:                # a free port, a background thread
        odoo.play("503*3, reset, ok@2s")                # 3 refusals, a TCP reset, a slow success
        run_my_adapter(odoo.heartbeat_url)
        assert odoo.wait_for_heartbeats(1)[0]["adapter_id"] == "KKT-001"

The one rule: each heartbeat takes the next step of the script, and when the script has run out,
heartbeats succeed again. Every failure mode but an outage, which is `down()`, is a script;
`MockOdooServer.play` tells how to write one.

This file needs nothing but Python 3.7 or later. Copy it beside your tests, or run it on its own:
`python -m mock_odoo --help`. It imitates what a heartbeat client can observe of Odoo, not Odoo:
there is no database, no session and no JSON-RPC behind it. Keep it off the open network.

A map of the file. A part uses only the parts above it, or the server that it is handed. (The
page is long, so it stands last.)

    Ground floor     checks, logging, JSON, and how threads wait for each other
    Replies          what a heartbeat can be answered, and the script of it
    Memory           the script that plays, the calls that came, and who waits for them
    Contract         what a heartbeat must hold, for strict=True
    Wire             bytes to requests, replies to bytes, honest or faulty
    Listener         the port, its threads and its connections
    Control          the server over HTTP, for other processes and the page
    MockOdooServer   the public face: it answers requests, and is what tests hold
    Command line     python -m mock_odoo
    Page             what a browser sees of it

For the story, read Replies, Memory and MockOdooServer.
"""

from __future__ import annotations

import _thread
import collections
import datetime
import email.utils
import errno
import functools
import http.client
import json
import os
import re
import reprlib
import select
import socket
import struct
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPE_CHECKING = False  # typing's own would cost its import, 3 ms
if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from io import BufferedReader
    from typing import IO, Any, NoReturn, Self, TypeAlias, TypeVar

    Method = TypeVar("Method", bound=Callable[..., Any])
    ScriptLike: TypeAlias = "str | Reply | dict[str, Any] | Sequence[ScriptLike]"
    Route: TypeAlias = "Callable[[Request], Reply]"
    Routes: TypeAlias = "dict[str, dict[str, Route]]"  # by path, then by method
    Event: TypeAlias = "dict[str, Any]"

__all__ = ["Call", "MockOdooServer", "Reply", "__version__", "main"]
__version__ = "1.0.0"


# ------------------------------------------------------------------------------------------
# Ground floor: helpers for every part. They know nothing of heartbeats.
# ------------------------------------------------------------------------------------------

#: The longest time that anybody may ask for. `stall` and `down()` last until something ends them.
MAX_SECONDS = 86400
FOREVER = float("inf")
PATIENCE = 5.0  # seconds that stop() gives the threads to end


def check_whole(name: str, value: int, low: int, high: float = FOREVER) -> int:
    """Return `value`; raise TypeError or ValueError unless it is a whole number in range."""
    limits = f"{low} or more" if high == FOREVER else f"from {low} to {high}"
    allowed = f"a whole number{',' if high == FOREVER else ''} {limits}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {allowed}, not {value!r:.80}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {allowed}, not {value!r:.80}")
    return value


def check_seconds(name: str, value: float) -> float:
    """Return `value` as a float; raise TypeError or ValueError unless it is a time in range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r:.80}")
    if not 0 <= value <= MAX_SECONDS:  # written so that NaN fails too
        raise ValueError(f"{name} must be from 0 to {MAX_SECONDS} seconds, not {value!r:.80}")
    return float(value)


def check_flag(name: str, value: bool) -> bool:
    """Return `value`; raise TypeError unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r:.80}")
    return value


def check_callable(name: str, value: object) -> None:
    """Raise TypeError unless `value` is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r:.80}")


def check_host(host: str) -> str:
    if not isinstance(host, str):
        raise TypeError(f"host must be text such as '127.0.0.1', not {host!r:.80}")
    if not host:
        raise ValueError("host must not be empty; '0.0.0.0' listens on every address")
    return host


def check_context(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Refuse a context that could serve nobody."""
    if context is None:
        return None
    if not hasattr(context, "wrap_bio"):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {context!r:.80}")
    if context.check_hostname:
        raise ValueError(
            "ssl_context must be a server's, like ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)"
        )
    if not can_serve(context):
        raise ValueError("ssl_context has no certificate; call its load_cert_chain() first")
    return context


def can_serve(context: ssl.SSLContext) -> bool:
    """True if it has a certificate. Only a handshake tells, here one in memory."""
    import ssl

    hello, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    client = anyone.wrap_bio(answer, hello)
    server = context.wrap_bio(hello, answer, server_side=True)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:  # as ever: it waits for the answer
        pass
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        return True
    except ssl.SSLError as error:
        return error.reason != "NO_SHARED_CIPHER"
    return True


def printable(text: str) -> str:
    """Replace control characters: they could drive a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shown(payload: Any, *path: str) -> str:
    """A value in a heartbeat, fit for a terminal: short, and without control characters."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    if isinstance(payload, float):
        return f"{payload:.1f}"[:32]
    text = str(payload) if isinstance(payload, (str, int)) else "?"
    return printable(text[:32])


def in_event_loop() -> bool:
    """Does an event loop of asyncio run in this thread?"""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def iso_time(seconds: float) -> str:
    """Write seconds since the epoch as local time, such as 2026-11-25T12:00:30.123+03:00."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def log_bug(message: str) -> None:
    """Log the exception that is being handled; the fake logs nothing else."""
    try:
        import logging  # 4 ms that hardly any run needs
    except (ImportError, OSError):  # out of descriptors
        return
    logging.getLogger("mock_odoo").exception(message)


def call_user(name: str, function: Callable[[Any], object], news: object) -> None:
    """Call a function of the user's; what it raises is logged, and goes no further."""
    try:
        function(news)
    except BaseException:  # noqa: BLE001 - pytest.fail() is no Exception
        log_bug(f"{name} failed")


# -- JSON

MAX_DEPTH = 200  # levels; deeper JSON exhausts the recursion of some Pythons
MAX_DIGITS = 4300  # of a whole number: int() takes no more from 3.11 on, and is slow before


ENCODER = json.JSONEncoder(allow_nan=False)


def encode(body: object) -> bytes:
    """Make a body: bytes as they are, text as UTF-8, everything else as JSON."""
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else ENCODER.encode(body)).encode()


def json_line(fields: object) -> str:
    """Write JSON in one line, for people too: only what is no letter, digit or sign is escaped.

    So half a surrogate pair, which UTF-8 cannot express, does no harm.
    """
    text = json.dumps(fields, ensure_ascii=False)
    if text.isprintable():
        return text
    strange = [char for char in set(text) if not char.isprintable()]
    return text.translate({ord(char): json.dumps(char)[1:-1] for char in strange})


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def parse_float(text: str) -> float:
    value = float(text)
    if abs(value) == FOREVER:  # it could not be written as JSON again
        raise ValueError(f"{text:.40} is too large a number")
    return value


def parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=parse_float)
CAREFUL_DECODER = json.JSONDecoder(
    parse_constant=refuse_constant, parse_float=parse_float, parse_int=parse_int
)


def parse_json(body: bytes) -> Any:
    """Read JSON as RFC 8259 means it: UTF-8, no NaN, no Infinity. ValueError says what is wrong."""
    if not body.strip():
        raise ValueError("the body is empty")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8: {error}") from None
    if text.startswith("\ufeff"):
        raise ValueError(
            "the body begins with a byte order mark, which JSON must not (RFC 8259, section 8.1)"
        )
    if text.count("[") + text.count("{") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise ValueError(f"the body is nested deeper than {MAX_DEPTH} levels")
    is_long = len(text) > MAX_DIGITS  # then the slow decoder must count the digits
    try:
        return (CAREFUL_DECODER if is_long else DECODER).decode(text)
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None


def parse_or_none(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return None


def depth(text: str) -> int:
    """How deep JSON is nested. Counted without recursion, which deep input would exhaust."""
    level = deepest = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"?|[\[{]|([\]}])', text):
        if match.group(1):
            level -= 1
        elif match.group() in ("[", "{"):
            level += 1
            deepest = max(deepest, level)
    return deepest


# -- Threads, and signals that interrupt the main thread


def shielded(method: Method) -> Method:
    """Let a method hold its locks where no signal can interrupt it.

    A signal handler that raises interrupts the main thread anywhere, even between taking a lock and
    the `with` block that would give it back. So another thread does what the main thread asks for.
    The main thread only waits, and holds nothing.
    """

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != threading.main_thread().ident:
            return method(*args, **kwargs)
        outcome: list[tuple[Any, BaseException | None]] = []
        is_running = threading.Lock()
        is_running.acquire()

        def run() -> None:
            try:
                outcome.append((method(*args, **kwargs), None))
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                outcome.append((None, error))
            finally:
                is_running.release()

        try:
            try:
                _thread.start_new_thread(run, ())
            except RuntimeError:  # out of threads
                return method(*args, **kwargs)
            is_running.acquire()
        except BaseException:  # from a signal handler: the other thread goes on, so wait for it
            if not outcome:
                is_running.acquire(timeout=0.5)
            raise
        result, error = outcome.pop()
        if error is not None:
            raise error
        return result

    return call  # type: ignore[return-value]


class News:
    """Lets threads wait for a change. It has no lock: a signal would break that of a Condition."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []  # a lock for each thread that waits

    def tell(self) -> None:
        """Make all who wait look again."""
        while self._waiting:
            self._waiting.pop().release()

    def wait(self, has_come: Callable[[], bool], timeout: float = FOREVER) -> bool:
        """Wait until the change has come; False when the time is up."""
        deadline = time.monotonic() + timeout
        while not has_come():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
            if not has_come():  # it may have come before we were on the list
                mine.acquire(timeout=min(left, MAX_SECONDS))
        return True


READABLE = getattr(select, "POLLIN", 1)
#: Linux alone has it. Elsewhere, data cannot be told from a hang-up.
HUNG_UP = getattr(select, "POLLRDHUP", READABLE)


class Alarm:
    """Once rung, it ends every wait of other threads, present and future.

    These threads wait for a socket too, so an alarm is a pair of sockets (the self-pipe trick;
    Windows can select nothing else). The pair exists while a thread holds the alarm:
    `with alarm: alarm.wait()`.
    """

    def __init__(self) -> None:
        self._has_rung = False
        self._process = os.getpid()
        self._holders = 0
        self._pair: tuple[socket.socket, ...] = ()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._pair = self._pair or socket.socketpair()
            self._holders += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                pair, self._pair = self._pair, ()
                for each in pair:
                    each.close()

    def ring(self) -> None:
        """Ring. This takes no lock, since the main thread does it."""
        self._has_rung = True
        if self._process != os.getpid():  # in a forked child, the sockets lead to our parent
            return
        for sender in self._pair[1:]:
            try:
                sender.send(b"!")  # never read, so that everybody sees it
            except OSError:  # the last holder has just left
                pass

    def wait(
        self,
        seconds: float | None = None,
        other: socket.socket | None = None,
        event: int = READABLE,
    ) -> bool:
        """Wait for the alarm, or for an event of the other socket; False when the time is up."""
        if self._has_rung:  # perhaps before there was a pair
            return True
        sockets = [self._pair[0]] if other is None else [self._pair[0], other]
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select(sockets, [], [], seconds)[0])
        poll = select.poll()
        for each, events in zip(sockets, (READABLE, event)):
            poll.register(each, events)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


# ------------------------------------------------------------------------------------------
# Replies: what a heartbeat can be answered, and the script that puts the replies in order.
# Pure data, which knows no socket and no lock.
# ------------------------------------------------------------------------------------------

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
MAX_TIMES = 10**18 - 1
HTML = "text/html; charset=utf-8"

#: The ways to spoil a reply, and what the client gets. A new one is a row here and, where it
#: treats the socket in a new way, a method `send_...` of the Handler.
FAULTS = {
    "reset": "a TCP RST in place of the reply"
    " (WireMock CONNECTION_RESET_BY_PEER, toxiproxy reset_peer)",
    "close": "the connection closed without a byte (WireMock EMPTY_RESPONSE)",
    "truncate": "half of the promised body, then closed (toxiproxy limit_data)",
    "garbage": "bytes that are not HTTP, then closed (WireMock RANDOM_DATA_THEN_CLOSE)",
    "stall": "nothing, and the connection held open (toxiproxy timeout)",
    "drip": "a correct reply, one byte every 100 ms"
    " (WireMock chunkedDribbleDelay, toxiproxy slicer)",
}


WHOLE = (None, "drip")  # with these, the client gets the whole reply


class Reply:
    """One answer to a heartbeat, for `MockOdooServer.play`.

    `status`   200 to 599
    `body`     text, bytes, or anything that JSON can express; None for what the service itself
               says: the success reply for 2xx, `{"error": ...}` for 4xx and 5xx, nothing for 3xx
    `headers`  beside the usual ones, or in place of them
    `delay`    seconds before the first byte
    `fault`    a way to spoil it: "reset", "stall" or another word of `FAULTS`
    `accepts`  True where this reply means that the heartbeat was received, False where not.
               None follows the rule: a 2xx reply that is sent whole accepts (RFC 9110,
               section 15.3), unless its body was given as text or bytes

        Reply(429, {"error": "slow down"}, headers={"Retry-After": "5"})

    Raises TypeError or ValueError for what cannot be sent.
    """

    problem: str | None = None  # what was wrong with the request, where that is the reason
    alarm: Alarm | None = None  # ends the delay of this one reply

    def __init__(
        self,
        status: int = 200,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        delay: float = 0.0,
        fault: str | None = None,
        accepts: bool | None = None,
    ) -> None:
        self.status = check_whole("status", status, 200, 599)
        self.body = None if body is None else encode(body)
        if headers is not None and not hasattr(headers, "items"):
            raise TypeError(f"headers must map text to text, not {headers!r:.80}")
        self.headers = dict(headers or {})
        for name, value in self.headers.items():
            check_header(name, value)
        self.delay = check_seconds("delay", delay)
        if fault is not None and fault not in FAULTS:
            raise ValueError(f"fault must be one of {', '.join(FAULTS)}, not {fault!r:.80}")
        self.fault = fault
        self.is_json = not isinstance(body, (str, bytes))
        by_rule = status < 300 and fault in WHOLE and self.is_json
        self.accepts = by_rule if accepts is None else check_flag("accepts", accepts)
        #: The word for this reply in a script, or the nearest word.
        self.word = fault or ("ok" if status == 200 and self.accepts else str(status))

    def but(self, **changes: object) -> Reply:
        """A copy with other attributes."""
        reply = Reply.__new__(Reply)
        reply.__dict__.update(self.__dict__, **changes)
        return reply

    def __str__(self) -> str:
        return self.word + format_delay(self.delay)

    def __repr__(self) -> str:
        return f"<Reply {self} {self.status} {self.body!r:.60}>"


def check_header(name: str, value: str) -> None:
    """Refuse what cannot be sent, or would break out of its line (response splitting)."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"headers must map text to text, not {name!r:.80} to {value!r:.80}")
    if not re.fullmatch(TOKEN, name):
        raise ValueError(f"{name!r:.80} is no header name")
    if name.lower() == "transfer-encoding":  # RFC 9112, section 6.2
        raise ValueError("Transfer-Encoding cannot be set: a reply has a Content-Length")
    if not re.fullmatch("[\t\x20-\x7e\x80-\xff]*", value):  # RFC 9110, section 5.5
        raise ValueError(f"header {name} must be one line of Latin-1 text, not {value!r:.80}")


def format_delay(seconds: float) -> str:
    """Write a delay as a script has it: "@2s", "@250ms", "" for none."""
    if not seconds:
        return ""
    number, unit = (seconds, "s") if seconds.is_integer() else (seconds * 1000, "ms")
    return f"@{number:.6f}".rstrip("0").rstrip(".") + unit


OK = Reply()
PORTAL = "<!DOCTYPE html>\n<title>Welcome</title>\n<p>Please accept our terms of use.\n"
SESSION_EXPIRED = {  # as Odoo's JSON dispatcher makes it (odoo/http.py, handle_error)
    "jsonrpc": "2.0",
    "id": None,
    "error": {
        "code": 100,
        "message": "Odoo Session Expired",
        "data": {
            "name": "odoo.http.SessionExpiredException",
            "debug": "",
            "message": "Session expired",
            "arguments": ["Session expired"],
            "context": {},
        },
    },
}

#: The words for whole replies, and what the client gets.
WORDS = {
    "ok": (OK, "the success reply"),
    "html": (
        Reply(200, PORTAL, {"Content-Type": HTML}),
        "200 with a web page, as from a captive portal",
    ),
    "login": (
        Reply(303, b"", {"Location": "/web/login"}),
        "303 to /web/login, as from an HTML route without a session",
    ),
    "expired": (
        Reply(200, SESSION_EXPIRED, accepts=False),
        "200 with JSON-RPC error 100, as from a JSON route without one",
    ),
}
NAMED = {word: reply for word, (reply, _) in WORDS.items()}
NAMED.update((fault, Reply(fault=fault)) for fault in FAULTS)

#: What people try, and what they may mean.
HINTS = {
    "down": "an outage is no reply: call down()",
    "up": "an outage is no reply: call up() to end it",
    "timeout": "for a client's time-out, write stall",
    "delay": "for a slow reply, write ok@6s",
    "slow": "for a slow reply, write ok@6s",
    "error": "write the status, such as 500",
    "success": "write ok",
}


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Such as " (did you mean 'reset'?)", or "" where nothing is near."""
    import difflib  # only mistakes need it

    near = difflib.get_close_matches(word[:80].lower(), list(words), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def describe_replies() -> dict[str, str]:
    """Every kind of reply that a script can name, and what the client gets."""
    replies = {word: meaning for word, (_, meaning) in WORDS.items()}
    ok = replies.pop("ok")
    status = "that status (200 to 599), with a JSON error for 4xx and 5xx"
    return {"ok": ok, "503 ...": status, **FAULTS, **replies}


class Step:
    """A reply, and how many times it is still to be given."""

    def __init__(self, reply: Reply, times: float = 1) -> None:
        self.reply = reply
        self.times = times

    def __str__(self) -> str:
        times = "" if self.times == 1 else "*" if self.times == FOREVER else f"*{self.times}"
        return f"{self.reply}{times}"


class Script:
    """The replies still to be given, in order. When they have run out, the reply is a success.

    Steps are kept as (reply, times left) and never expanded: `503*1000000000` costs nothing.
    A loop puts back at the end what it takes from the front, so what is left is the same loop.
    """

    def __init__(self, script: ScriptLike = (), loop: bool = False) -> None:
        """Read a script; TypeError or ValueError says what is wrong with it."""
        self.loop = check_flag("loop", loop)
        try:
            steps = read_steps(script)
        except RecursionError:
            raise ValueError("the script holds itself, or lists in lists without end") from None
        check_order(steps, loop)
        self._steps = collections.deque(steps)

    def next_reply(self) -> Reply:
        if not self._steps:
            return OK
        step = self._steps[0]
        step.times -= 1
        if not step.times:
            self._steps.popleft()
        if self.loop and step.times != FOREVER:
            self._put_back(step.reply)
        return step.reply

    def _put_back(self, reply: Reply) -> None:
        if self._steps and self._steps[-1].reply is reply:
            self._steps[-1].times += 1
        else:
            self._steps.append(Step(reply))

    def __str__(self) -> str:
        return ", ".join(map(str, self._steps))


def check_order(steps: Sequence[Step], loop: bool) -> None:
    """Refuse a step behind one that lasts for ever. (A loop may have it: its rest is a script.)"""
    for step, after in zip(steps, () if loop else steps[1:]):
        if step.times == FOREVER:
            raise ValueError(f"step '{after}' can never come: '{step}' before it lasts for ever")


def read_steps(script: ScriptLike) -> list[Step]:
    if isinstance(script, Reply):
        return [Step(script)]
    if isinstance(script, dict):
        return [Step(read_fields(script))]
    if isinstance(script, str):
        texts = script.split(",") if script.strip() else []
        return [read_step(text.strip()) for text in texts]
    if not isinstance(script, (list, tuple)):
        raise TypeError(
            "a script must be text, a Reply, the fields of one, or a list of these, "
            f"not {script!r:.80}"
        )
    return [step for part in script for step in read_steps(part)]


REPLY_FIELDS = ("status", "body", "headers", "delay", "fault", "accepts")


def read_fields(fields: dict[str, Any]) -> Reply:
    """Make a Reply from a dict, as JSON has it."""
    for name in fields:
        if name not in REPLY_FIELDS:
            hint = did_you_mean(str(name), REPLY_FIELDS)
            raise TypeError(
                f"{name!r:.80} is no field of a Reply{hint}; it has {', '.join(REPLY_FIELDS)}"
            )
    return Reply(**fields)


def read_step(text: str) -> Step:
    """Read one step: reply ["@" delay] ["*" [n]]."""
    rest, star, count = (part.strip() for part in text.partition("*"))
    word, at, delay = (part.strip() for part in rest.partition("@"))
    try:
        reply = read_reply(word)
        if at:
            reply.delay = read_delay(delay)
        times = read_count(count) if count else FOREVER if star else 1
    except ValueError as error:
        raise ValueError(f"step {text!r:.80}: {error}") from None
    return Step(reply, times)


def read_reply(word: str) -> Reply:
    if word in NAMED:
        return NAMED[word].but(word=word)
    if re.fullmatch("[2-5][0-9][0-9]", word):
        return Reply(int(word))
    known = HINTS.get(word.lower())
    hint = f" ({known})" if known else did_you_mean(word, NAMED)
    raise ValueError(
        f"{word!r:.80} is no reply{hint}; expected one of {', '.join(NAMED)} or a "
        "status from 200 to 599, then maybe a delay (@2s, @250ms) and a count (*3, "
        "or * for ever)"
    )


def read_delay(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(m?s)", text)
    seconds = float(match.group(1)) / (1000 if match.group(2) == "ms" else 1) if match else FOREVER
    if seconds > MAX_SECONDS:
        raise ValueError(
            f"{text!r:.80} is no delay; it is written like @2s or @250ms, up to @{MAX_SECONDS}s"
        )
    return seconds


def read_count(text: str) -> int:
    if not re.fullmatch(f"[0-9]{{1,{len(str(MAX_TIMES))}}}", text):
        raise ValueError(
            f"{text!r:.80} is no count; it is written like *3, or * for ever, behind any delay"
        )
    if not int(text):
        raise ValueError("it can never come: its count is 0; leave the step out")
    return int(text)


def settle(scripted: Reply, verdict: Reply) -> Reply:
    """What is sent: the script's reply or, where that accepts, what a healthy service says.

    A scripted reply without a body of its own says what the service says.
    """
    if scripted.accepts and not verdict.accepts:
        return verdict
    if scripted.body is not None or scripted.status >= 300:
        return scripted
    if scripted is OK:  # as nearly always: the script has run out
        return verdict
    said = verdict if verdict.accepts else OK.but(body=b"{}")
    kept: dict[str, Any] = {"delay": scripted.delay or said.delay}
    if scripted.word != "ok":  # an ok leaves all but the delay and the headers to the service
        kept.update(word=scripted.word, fault=scripted.fault, accepts=scripted.accepts)
    if scripted.status != 200:
        kept["status"] = scripted.status
    if scripted.headers:
        kept["headers"] = {**said.headers, **scripted.headers}
    return said.but(**kept)


# ------------------------------------------------------------------------------------------
# Memory: the script that plays, the calls that came, and those who wait for them.
# It knows replies; of a request it reads the client, the head and the body. It knows no socket.
# ------------------------------------------------------------------------------------------


def read_headers(head: bytes) -> http.client.HTTPMessage:
    """Read the headers behind a request line."""
    message = http.client.HTTPMessage()  # its own parser trips over a strange Content-Type
    for line in head.decode("latin-1").split("\n")[1:-2]:
        name, _, value = line.partition(":")
        message[name] = value.strip(" \t\r")
    return message


class Call:
    """One POST to the heartbeat path, as it came and as it was answered.

    `number`       1 for the first call since the last reset
    `received_at`  seconds since the epoch, a float
    `reply`        the script's word for it ("ok", "503", "reset"). Where the service decided
                   instead, the status as text ("400", "409")
    `delay`        seconds that the reply was to wait
    `problem`      what was wrong with the request, where that is why it was refused; else None
    `accepted`     True where the reply is a full success, whether or not the client stays for it
    `repeats`      the number of an earlier call with the same body, whose answer was spoilt: HTTP
                   clients may send such a request again by themselves; else None
    `client`       (host, port)
    `body`         the bytes that came; b"" where the request was refused unread
    `payload`      the body as JSON
    `headers`      a mapping that ignores case
    """

    __slots__ = (  # noqa: RUF023 - the public ones in the order of the journal
        "number",
        "received_at",
        "reply",
        "delay",
        "problem",
        "accepted",
        "repeats",
        "client",
        "query",
        "took",
        "left",
        "body",
        "_head",
        "_arrived",
    )

    def __init__(self, number: int, reply: Reply, request: Request, repeats: int | None) -> None:
        self.number = number
        self.received_at = time.time()
        self.reply = reply.word
        self.delay = reply.delay
        self.problem = reply.problem
        self.accepted = reply.accepts
        self.repeats = repeats
        self.client = request.client
        self.query = request.query
        self.took: float | None = None
        self.left: bool | None = None
        self.body = request.body
        self._head = request.head.raw
        self._arrived = time.perf_counter()  # for intervals: somebody may set the wall clock

    @property
    def payload(self) -> Any:
        """The body as JSON, parsed afresh for every reader; None where it is not JSON."""
        return parse_or_none(self.body)

    @property
    def headers(self) -> http.client.HTTPMessage:
        """The headers: a mapping that ignores case, whose `get_all` gives repeated ones."""
        return read_headers(self._head)

    def to_json(self, **more: object) -> str:
        """One line of JSON, with `more` fields. A body that is no JSON stands there as text."""
        headers = self.headers
        fields = {name: getattr(self, name) for name in self.__slots__ if name[0] != "_"}
        fields["time"] = iso_time(self.received_at)
        fields["payload"] = self.payload
        fields["headers"] = {name: ", ".join(headers.get_all(name, [])) for name in headers}
        body = fields.pop("body")
        if fields["payload"] is None:
            fields["body"] = body.decode("utf-8", "replace")
        return json_line({**fields, **more})

    def __repr__(self) -> str:
        return f"<Call {self.number}: {self.reply} {self.body!r:.200}>"


MAX_UNMATCHED = 20  # requests that were no calls
MAX_EVENTS = 100
MAX_SPOILT = 20  # calls whose body may come again


def make_event(name: str, **fields: object) -> Event:
    now = time.time()
    return {"event": name, "at": now, "time": iso_time(now), **fields}


class Scenario:
    """The script and the memory under one lock, so that call N got reply N.

    The user's functions are called outside the lock, so that they may use the server, and one at a
    time, in the order of what happened.
    """

    def __init__(
        self,
        max_calls: int | None,
        on_call: Callable[[Call], object] | None,
        on_event: Callable[[Event], object] | None,
        on_unmatched: Callable[[str], object] | None,
    ) -> None:
        self._lock = threading.Lock()
        self._news = News()  # a call has come, or a waiter may have to give up
        self._script = Script()
        self._alarm = Alarm()  # ends the delays of now; a reset replaces it
        self._resets = 0
        self._calls: collections.deque[Call] = collections.deque(maxlen=max_calls)
        self._counts = {"calls": 0, "heartbeats": 0}  # also those that max_calls dropped
        self._spoilt: collections.deque[Call] = collections.deque(maxlen=MAX_SPOILT)
        self._unmatched: collections.deque[str] = collections.deque(maxlen=MAX_UNMATCHED)
        self._events: collections.deque[Event] = collections.deque(maxlen=MAX_EVENTS)
        self._on_call = on_call
        self._on_event = on_event
        self._on_unmatched = on_unmatched
        self._has_listeners = any((on_call, on_event, on_unmatched))
        self._unreported: collections.deque[tuple[str, Any, Any, int]]
        self._unreported = collections.deque()
        self._reporting = threading.Lock()
        #: The thread that is inside a user's function, and the thread whose news that is told.
        self._teller: tuple[int, int] | None = None

    # -- The script

    @shielded
    def play(self, script: Script) -> None:
        with self._lock:
            self._play(script)
        self._report()

    @shielded
    def end(self, text: str) -> None:
        """End the script that plays if this is what is left of it."""
        with self._lock:
            if str(self._script) == text:
                self._play(Script())
        self._report()

    def _play(self, script: Script) -> None:
        self._script = script
        self._note("script", script=str(script), loop=script.loop)

    @shielded
    def script_state(self) -> tuple[str, bool]:
        """What is left of the script, and whether it loops."""
        with self._lock:
            return str(self._script), self._script.loop

    def take(self, request: Request, verdict: Reply) -> Reply:
        """Record a call, and return the reply to it. The script decides, or the verdict."""
        with self._lock:
            reply = settle(self._script.next_reply(), verdict).but(alarm=self._alarm)
            self._record(reply, request)
            self._news.tell()
        self._report(FOREVER)
        return reply

    # -- The calls

    def _record(self, reply: Reply, request: Request) -> None:
        self._counts["calls"] += 1
        self._counts["heartbeats"] += reply.accepts
        call = Call(self._counts["calls"], reply, request, self._find_spoilt(request.body))
        self._calls.append(call)
        if reply.fault not in WHOLE:
            self._spoilt.append(call)
        self._queue("on_call", self._on_call, call)

    def _find_spoilt(self, body: bytes) -> int | None:
        for call in self._spoilt:
            if call.body == body:
                self._spoilt.remove(call)  # one repeat for each spoilt answer
                return call.number
        return None

    @shielded
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    @shielded
    def count(self, what: str) -> int:
        with self._lock:
            return self._counts[what]

    @shielded
    def reset(self) -> None:
        with self._lock:
            self._release()
            self._resets += 1
            self._script = Script()
            self._calls.clear()
            self._counts = dict.fromkeys(self._counts, 0)
            self._spoilt.clear()
            self._unmatched.clear()
            self._events.clear()
            self._note("reset")
        self._report()

    # -- What else happened

    @shielded
    def note(self, name: str, apart: bool = False, **fields: object) -> None:
        """Remember what was done to the fake.

        With `apart`, another thread calls the user's function. It could block the caller's.
        """
        with self._lock:
            self._note(name, **fields)
        if not apart:
            self._report()
        elif self._unreported:
            try:
                _thread.start_new_thread(self._report, ())
            except RuntimeError:  # out of threads: whoever reports next does it
                pass

    def finish_reports(self) -> None:
        """Wait for the user's functions, for 5 s at the most, and not at all inside one of them."""
        if self._has_listeners and not self.is_reporting():
            self._finish_reports()

    @shielded
    def _finish_reports(self) -> None:
        self._report(PATIENCE)

    def is_reporting(self) -> bool:
        """Is the caller inside one of the user's functions?"""
        return self._teller is not None and self._teller[0] == threading.get_ident()

    def origin(self) -> int:
        """The thread whose news a user's function is told; outside of these, the caller."""
        teller = self._teller
        if teller is not None and teller[0] == threading.get_ident():
            return teller[1]
        return threading.get_ident()

    def _note(self, name: str, **fields: object) -> None:
        event = make_event(name, **fields)
        self._events.append(event)
        self._queue("on_event", self._on_event, dict(event))

    def note_unmatched(self, what: str) -> None:
        """Remember what came that is no call."""
        with self._lock:
            self._unmatched.append(what)
            self._queue("on_event", self._on_event, make_event("unmatched", unmatched=what))
            self._queue("on_unmatched", self._on_unmatched, what)
        self._report(FOREVER)

    @shielded
    def events(self) -> list[Event]:
        with self._lock:
            return [dict(event) for event in self._events]

    @shielded
    def unmatched(self) -> list[str]:
        with self._lock:
            return list(self._unmatched)

    def _queue(self, name: str, function: Callable[[Any], object] | None, news: object) -> None:
        if function is not None:
            self._unreported.append((name, function, news, threading.get_ident()))

    def _report(self, patience: float = 0.0) -> None:
        """Call the user's functions. One thread calls them for all.

        The others wait up to `patience` seconds. Only workers wait without limit, since their
        clients must not be answered first; and only they call on_call, so that no other method
        hangs where that hangs.
        """
        is_worker = patience == FOREVER
        must_wait = patience > 0 and self._has_listeners  # another thread may be at our news
        while (must_wait or self._is_ours(is_worker)) and self._reporting.acquire(
            timeout=min(patience, MAX_SECONDS)
        ):
            must_wait = False
            try:
                while self._is_ours(is_worker):
                    name, function, news, thread = self._unreported.popleft()
                    self._teller = threading.get_ident(), thread
                    call_user(name, function, news)
            finally:
                self._teller = None
                self._reporting.release()

    def _is_ours(self, is_worker: bool) -> bool:
        """Is there news that the caller may tell?"""
        return bool(self._unreported) and (is_worker or self._unreported[0][0] != "on_call")

    # -- Waiting

    def release(self) -> None:
        """Let go the replies that are delayed, and make waiters check again whether to give up."""
        with self._lock:
            self._release()
            self._news.tell()

    def _release(self) -> None:
        self._alarm.ring()
        self._alarm = Alarm()

    def alarm(self) -> Alarm:
        with self._lock:
            return self._alarm

    def wait(
        self,
        what: str,
        n: int,
        timeout: float,
        fits: Callable[[Call], object] | None,
        given_up: Callable[[], bool],
    ) -> list[Call]:
        """Block until there are `n` calls or heartbeats, or `n` that fit; return those calls.

        Raises TimeoutError that tells what there was instead.
        """
        deadline = time.monotonic() + check_seconds("timeout", timeout)
        check_whole("n", n, 0)
        at = (0, 0)  # so many resets, and calls since the last
        fitting: list[Call] = []
        while True:
            before = at
            at, new, found, kept = self._look(before, what, n)
            if fits is not None:  # the user's function: outside the lock, once for each call
                fitting = fitting if at[0] == before[0] else []
                fitting += [call for call in new if fits(call)]
                found, kept = len(fitting), fitting
            if found >= n:
                return kept
            left = deadline - time.monotonic()
            if left <= 0 or given_up():
                fit = "" if fits is None else " that fit"
                raise TimeoutError(
                    f"{found} of {n} {what}{fit} in {float(timeout)} s; {self._story()}"
                )
            self._news.wait(functools.partial(self._has_changed, at, given_up), left)

    @shielded
    def _look(
        self, before: tuple[int, int], what: str, n: int
    ) -> tuple[tuple[int, int], list[Call], int, list[Call]]:
        """Where we are, the calls that are new since `before`, how many there are, and these."""
        with self._lock:
            new = self._calls_after(before[1] if before[0] == self._resets else 0)
            found = self._counts[what]
            kept = list(self._calls) if found >= n else []
            return (self._resets, self._counts["calls"]), new, found, kept

    def _has_changed(self, at: tuple[int, int], given_up: Callable[[], bool]) -> bool:
        return at != (self._resets, self._counts["calls"]) or given_up()

    def _calls_after(self, number: int) -> list[Call]:
        new = []
        for call in reversed(self._calls):
            if call.number <= number:
                break
            new.append(call)
        return new[::-1]

    def _story(self) -> str:
        """What came, for a person who waited for something else."""
        calls, unmatched = self.calls(), self.unmatched()
        timeline = ["..."] * (len(calls) > 20) + [call.reply for call in calls[-20:]]
        story = [f"calls: {', '.join(timeline)}" if calls else "no calls"]
        story += [f"last problem: {call.problem}" for call in calls if call.problem][-1:]
        story += [f"unmatched: {unmatched[-3:]}"] if unmatched else []
        return "; ".join(story)


# ------------------------------------------------------------------------------------------
# Contract: what the specification says of a heartbeat, for strict=True. Pure functions.
# ------------------------------------------------------------------------------------------

ISO_8601 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})([.,][0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"
)


def is_time(value: object) -> bool:
    """Is it ISO 8601 with a zone? Before 3.11, fromisoformat() knows no Z, nor all fractions."""
    match = ISO_8601.fullmatch(value) if isinstance(value, str) else None
    try:
        return bool(match and datetime.datetime.fromisoformat(match.group(1)))
    except ValueError:  # the 30th of February
        return False


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_object(value: object) -> bool:
    return isinstance(value, dict)


def is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def is_state(value: object) -> bool:
    return value in ("CLOSED", "OPEN", "HALF_OPEN")


CONTRACT = (
    ("timestamp", is_time, "an ISO 8601 time with a zone, like 2025-10-09T12:00:00Z"),
    ("adapter_id", is_name, "a non-empty string"),
    ("buffer_status", is_object, "an object"),
    ("buffer_status.total_capacity", is_count, "a whole number, 0 or more"),
    ("buffer_status.current_queued", is_count, "a whole number, 0 or more"),
    ("buffer_status.percent_full", is_number, "a number"),
    ("circuit_breaker", is_object, "an object"),
    ("circuit_breaker.state", is_state, "CLOSED, OPEN or HALF_OPEN"),
    ("circuit_breaker.failure_count", is_count, "a whole number, 0 or more"),
)


def contract_problems(payload: dict[str, Any]) -> list[str]:
    """Every breach of the contract, with its path and value. Unknown fields are welcome."""
    problems = []
    for path, fits, expected in CONTRACT:
        parent, _, name = path.rpartition(".")
        fields = payload.get(parent) if parent else payload
        if not isinstance(fields, dict):
            continue  # the parent's own row reports that
        if name not in fields:
            problems.append(f"{path}: missing")
        elif not fits(fields[name]):
            problems.append(f"{path}: expected {expected}, got {reprlib.repr(fields[name])}")
    return problems


# ------------------------------------------------------------------------------------------
# Wire: bytes to requests, replies to bytes, honest or faulty. It knows no route and no text of the
# service: for these it asks the app, by `check_head`, `answer` and `note_unmatched`.
# ------------------------------------------------------------------------------------------

REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
HEADER_LINE = re.compile(rf"({TOKEN}):([^\0\r\n]*)")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n")
BLANK = (b"\r\n", b"\n")
MAX_HEAD = 65536  # bytes of request line and headers
MAX_HEADERS = 100
MAX_BODY = 1 << 20  # bytes
LINGER = 2.0  # seconds to read on from a client whose request was not read to its end
DRIP_INTERVAL = 0.1  # seconds between bytes: no single read times out, but the reply takes long
GARBAGE = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"


class Refusal(Exception):
    """What is wrong with a request, and the Reply that says so."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        body = {"error": message, "problems": problems} if problems else {"error": message}
        self.reply = Reply(status, body, headers)
        self.reply.problem = "; ".join(problems) or message


TOO_LONG = f"the body is longer than {MAX_BODY} bytes"


class Head:
    """A request line and headers, read strictly.

    A request that two servers could read differently is refused (RFC 9112).
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = re.split("\r?\n", raw.decode("latin-1"))
        self._read_request_line(first)
        self.fields: dict[str, str] = {}  # by lower-case name; repeated ones joined by commas
        for line in lines[:-2]:
            self._read_header_line(line)
        options = [each.strip().lower() for each in self.fields.get("connection", "").split(",")]
        self.keep_alive = "close" not in options and (
            not self.is_http_1_0 or "keep-alive" in options
        )
        self.is_chunked = self._is_chunked()
        self.length = self._content_length()
        has_body = self.is_chunked or self.length > 0
        self.expects_continue = (
            has_body
            and not self.is_http_1_0
            and self.fields.get("expect", "").lower() == "100-continue"
        )

    def _read_request_line(self, line: str) -> None:
        match = REQUEST_LINE.fullmatch(line)
        if not match:
            raise Refusal(
                400,
                f"malformed request line {line!r:.80}; it should be like 'GET /health HTTP/1.1'",
            )
        self.method, target, major, minor = match.groups()
        if major != "1":
            raise Refusal(505, f"HTTP/{major}.{minor} is not spoken here; HTTP/1.1 is")
        self.is_http_1_0 = minor == "0"
        self.path, _, self.query = re.sub("^(?i:https?)://[^/?]*", "", target).partition("?")
        self.path = self.path or "/"

    def _read_header_line(self, line: str) -> None:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise Refusal(
                400, f"malformed header line {line!r:.80}; it should be like 'Name: value'"
            )
        name, value = match.group(1).lower(), match.group(2).strip(" \t")
        self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value

    def _is_chunked(self) -> bool:
        coding = self.fields.get("transfer-encoding")
        if coding is None:
            return False
        if self.is_http_1_0 or "content-length" in self.fields:
            other = "HTTP/1.0" if self.is_http_1_0 else "Content-Length"
            raise Refusal(400, f"Transfer-Encoding does not go with {other}")
        if coding.lower() != "chunked":
            raise Refusal(501, f"Transfer-Encoding {coding!r:.80} is not understood; 'chunked' is")
        return True

    def _content_length(self) -> int:
        given = self.fields.get("content-length", "0")
        first, *others = (length.strip(" \t") for length in given.split(","))
        if not re.fullmatch("[0-9]+", first):
            raise Refusal(400, f"Content-Length must be plain digits, not {first!r:.80}")
        if any(length != first for length in others):
            raise Refusal(400, f"Content-Lengths that differ: {given:.80}")
        digits = first.lstrip("0") or "0"  # int() counts zeros in front, and takes 4,300 digits
        return int(digits) if len(digits) < 19 else sys.maxsize


parse_head = functools.lru_cache(maxsize=32)(Head)  # a client sends the same head again and again


class Request:
    """A request as it came.

    `method`, `path`, `query`  from its first line
    `headers`                  a mapping that ignores case
    `body`                     bytes; b"" where it was refused unread
    `payload`                  the body as JSON; None where it is not JSON
    `client`                   (host, port)
    """

    __slots__ = ("body", "client", "head", "refusal")

    def __init__(
        self, head: Head, client: tuple[str, int], body: bytes, refusal: Refusal | None
    ) -> None:
        self.head = head
        self.client = client
        self.body = body
        self.refusal = refusal  # set where the head alone is wrong (404, 405, 413, 415)

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def query(self) -> str:
        return self.head.query

    @property
    def headers(self) -> http.client.HTTPMessage:
        return read_headers(self.head.raw)

    @property
    def payload(self) -> Any:
        return parse_or_none(self.body)

    def parse(self) -> dict[str, Any]:
        """Return the JSON object in the body; a Refusal says why there is none."""
        try:
            payload = parse_json(self.body)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if not isinstance(payload, dict):
            raise Refusal(400, f"the body must be a JSON object, not {reprlib.repr(payload)}")
        return payload


def phrase(status: int) -> str:
    return http.client.responses.get(status, f"Status {status}")


@functools.lru_cache(maxsize=1)  # it changes once a second
def http_date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


class Handler(BaseHTTPRequestHandler):
    """One connection: requests in, replies out, until one side closes.

    A client that leaves in the middle of a request raises an OSError here, which ends the
    connection in silence.
    """

    disable_nagle_algorithm = True  # or the second small reply would wait 40 ms for an ACK
    server: Listener
    rfile: BufferedReader
    must_linger = False  # True where the client may send bytes that we do not read
    alarm: Alarm  # ends the delay of the reply

    def handle(self) -> None:
        # A TLS hello need not hold the line break that readline() waits for.
        if self.rfile.peek(1)[:1] == b"\x16":
            self.send_error(400, "this is TLS, and the port speaks plain HTTP")
        else:
            super().handle()
        if self.must_linger:
            self.lingering_close()

    def handle_one_request(self) -> None:
        """Read a request and answer it; `close_connection` tells whether it was the last."""
        self.close_connection = True
        try:
            request = self.read_request()
        except Refusal as refusal:
            self.send_error(refusal.reply.status, str(refusal))
            return
        self.check_open()
        try:
            reply = self.server.app.answer(request)
            self.close_connection = self.close_connection or self.server.is_closing
            head, body = self.compose(reply, request)
        except BaseException:  # noqa: BLE001 - whatever it is, the client gets an answer
            log_bug(f"{request.method} {request.path} failed")
            reply = Reply(500, {"error": "a bug in the fake; its log tells more"})
            head, body = self.compose(reply, request)
        self.alarm = reply.alarm or Alarm()
        if reply.delay:
            self.pause(reply.delay)
        name = (reply.fault or "whole").replace("-", "_")
        getattr(self, f"send_{name}")(head, body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request in JSON, then close. (The name is http.server's.)"""
        self.server.app.note_unmatched(f"{code} {message}")
        self.close_after_this()
        self.send_whole(*self.compose(Reply(code, {"error": message})))

    # -- Reading

    def read_request(self) -> Request:
        """Read a whole request; raise Refusal where nobody could tell where the next begins."""
        head = parse_head(self.read_head())
        refusal = self.server.app.check_head(head)
        if head.length > MAX_BODY:
            refusal = refusal or Refusal(413, TOO_LONG)
        body = b""
        if head.length > MAX_BODY or (head.expects_continue and refusal is not None):
            self.close_after_this()  # the body is too long, or the client may not send it
            return Request(head, self.client_address, body, refusal)
        if head.expects_continue:
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.close_connection = not head.keep_alive
        if not head.is_chunked:
            body = self.read_bytes(head.length)
        else:
            chunks = self.read_chunks()
            if chunks is None:
                refusal = refusal or Refusal(413, TOO_LONG)
            body = chunks or b""
        return Request(head, self.client_address, body, refusal)

    def read_head(self) -> bytes:
        line = self.read_line()
        if line in BLANK:  # RFC 9112, section 2.2: some clients end a body with a line break
            line = self.read_line()
        return self.read_lines(line)

    def read_line(self, limit: int = MAX_HEAD) -> bytes:
        line = self.rfile.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise ConnectionAbortedError("the client left")
        return line

    def read_lines(self, line: bytes) -> bytes:
        """Read on from `line` to the blank line."""
        lines, size = [line], len(line)
        while line not in BLANK:
            if size >= MAX_HEAD or len(lines) > MAX_HEADERS + 1:
                raise Refusal(431, f"more than {MAX_HEADERS} headers, or {MAX_HEAD} bytes of them")
            line = self.read_line()
            lines.append(line)
            size += len(line)
        return b"".join(lines)

    def check_open(self) -> None:
        """After close(), requests that have been buffered must get no answer."""
        if self.server.is_closing:
            raise ConnectionAbortedError("we left")

    def read_bytes(self, size: int) -> bytes:
        self.check_open()
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client left")
        return data

    def read_chunks(self) -> bytes | None:
        """Read a chunked body (RFC 9112, section 7.1); None where it is too long.

        Extensions and trailers mean nothing here.
        """
        body, size = bytearray(), -1
        while size:
            line = self.read_line()
            match = CHUNK_LINE.fullmatch(line)
            if not match:
                raise Refusal(
                    400,
                    f"malformed chunk size {line.decode('latin-1')!r:.80}; it should be like '1f'",
                )
            size = int(match.group(1), 16)
            if len(body) + size > MAX_BODY:
                self.close_after_this()
                return None
            body += self.read_bytes(size)
            if size and self.read_line(2) != b"\r\n":
                raise Refusal(400, f"a chunk does not end after the {size} bytes that it announced")
        self.read_lines(self.read_line())
        return bytes(body)

    # -- Sending

    def compose(self, reply: Reply, request: Request | None = None) -> tuple[bytes, bytes]:
        """Make the head and the body of a reply, as they are before any fault spoils them."""
        given = {name.lower(): value.lower() for name, value in reply.headers.items()}
        if given.get("connection") == "close":
            self.close_connection = True
        body = reply.body or b""
        headers = self.usual_headers(reply, body, request)
        if given:
            headers = {name: value for name, value in headers.items() if name.lower() not in given}
            headers.update(reply.headers)
        if reply.status in (204, 304) or (request is not None and request.method == "HEAD"):
            body = b""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"HTTP/1.1 {reply.status} {phrase(reply.status)}\r\n{lines}\r\n"
        return head.encode("latin-1"), body

    def usual_headers(self, reply: Reply, body: bytes, request: Request | None) -> dict[str, str]:
        headers = {"Server": "mock_odoo", "Date": http_date(int(time.time()))}
        if reply.status not in (204, 304):  # these have no body to tell of (RFC 9110, section 8.6)
            kind = "application/json" if reply.is_json else "text/plain; charset=utf-8"
            headers["Content-Type"] = kind
            headers["Content-Length"] = str(len(body))
        if self.close_connection:
            headers["Connection"] = "close"
        elif request is not None and request.head.is_http_1_0:
            headers["Connection"] = "keep-alive"
        return headers

    def close_after_this(self) -> None:
        """Make this the last request, although the client may go on sending."""
        self.close_connection = self.must_linger = True

    def lingering_close(self) -> None:
        """Close our half, and read on for a while.

        To close at once, with bytes unread, would reset the connection: the reply would be lost.
        """
        socket.socket.shutdown(self.connection, socket.SHUT_WR)
        deadline, seconds, left = time.monotonic() + LINGER, LINGER, 64 * MAX_BODY
        while seconds > 0 and left > 0:
            self.connection.settimeout(seconds)
            data = self.connection.recv(65536)
            if not data:
                return
            left -= len(data)
            seconds = deadline - time.monotonic()

    def pause(self, seconds: float | None) -> bool:
        """Wait so many seconds, or without end.

        True when the time is up, False when the client leaves or the reply is let go.
        """
        with self.alarm:
            if self.server.has_closed():
                return False
            try:
                return not self.alarm.wait(seconds, self.connection, HUNG_UP)
            except ValueError:  # the connection was closed on our side
                return False

    def send_whole(self, head: bytes, body: bytes) -> None:
        self.connection.sendall(head + body)

    def send_drip(self, head: bytes, body: bytes) -> None:
        rest = head + body
        with self.alarm:  # held over all the pauses
            while rest:
                self.connection.sendall(rest[:1])
                rest = rest[1:]
                if not self.pause(DRIP_INTERVAL):
                    break
        self.connection.sendall(rest)

    def send_truncate(self, head: bytes, body: bytes) -> None:
        whole = head + body
        half = len(head) + len(body) // 2 if body else 10  # without a body, within the status line
        self.connection.sendall(whole[:half])
        self.close_after_this()

    def send_garbage(self, head: bytes, body: bytes) -> None:
        self.connection.sendall(GARBAGE)
        self.close_after_this()

    def send_close(self, head: bytes, body: bytes) -> None:
        self.close_after_this()

    def send_stall(self, head: bytes, body: bytes) -> None:
        self.pause(None)
        self.close_after_this()

    def send_reset(self, head: bytes, body: bytes) -> None:
        self.close_connection = True
        self.server.abort(self.connection)


# ------------------------------------------------------------------------------------------
# Listener: owns every socket and every thread. It hands the app's connections to the Wire, and
# knows nothing of HTTP itself.
# ------------------------------------------------------------------------------------------

EXCLUSIVE: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)  # Windows alone has it
#: Close with a RST. The layout of struct linger differs by system.
NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
MAX_IDLE_WORKERS = 32
NEW, RESERVED, OPEN, CLOSED, ENDED = range(5)  # the life of a listener, which only goes forward


def cut(connection: socket.socket) -> None:
    """End a connection both ways, which wakes whoever reads it; closing it would not."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's would drop its state
    except OSError:  # the client was faster
        pass


class Worker(threading.Thread):
    """Serves one connection after the other: starting a thread takes longer than serving one."""

    connection: socket.socket | None = None  # None: nothing to do
    address = ("", 0)

    def __init__(self, listener: Listener) -> None:
        super().__init__(name="mock_odoo worker", daemon=True)
        self.listener = listener
        self._has_work = threading.Lock()  # held while there is no work
        self._has_work.acquire()

    def run(self) -> None:
        while self.connection is not None:
            self.listener.process_request_thread(self.connection, self.address)
            if not self.listener.finish_connection(self):
                return
            self._has_work.acquire()

    def resume(self) -> None:
        """Serve `connection`, or end if there is none."""
        if self.ident is None:
            self.start()
        else:
            self._has_work.release()


class Listener(ThreadingHTTPServer):
    """A port, and the thread that owns it from the bind to the last connection.

    A signal interrupts the main thread anywhere, but no other. So that nothing is ever left half
    done, this thread does all the work, and the other threads only ask: `open()`, `close()`.
    After CLOSED the port is free and every connection cut; after ENDED the workers have ended.
    """

    request_queue_size = 1024  # with socketserver's 5, a burst of clients takes seconds to connect

    def __init__(
        self,
        host: str,
        port: int,
        app: MockOdooServer,
        opens_after: float | None,
        earlier: Sequence[Listener],
        opened: Callable[[Listener], object],
        closed: Callable[[Listener], object],
    ) -> None:
        """Open after so many seconds: 0 opens at once, None waits for open().

        `earlier` listeners had the port; it is taken over when they have closed.
        The thread calls `opened` before it accepts, and `closed` after it has cut everybody.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler, bind_and_activate=False)
        self.server_port = port
        self.app = app
        self.opens_after = opens_after
        self.earlier = earlier
        self._opened = opened
        self._closed = closed
        self.state = NEW
        self.error: Exception | None = None  # why it could not be opened
        self.is_closing = False
        self._spared = 0  # the thread whose connection is not cut
        self._due = Alarm()  # ends the reservation: open() or close() was called
        self._alarm = Alarm()  # ends everything: close() was called
        self._news = News()  # the next state has come
        self._process = os.getpid()
        self._lock = threading.Lock()  # guards what follows
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._ended: collections.deque[Worker] = collections.deque()  # or about to end
        self._acceptor = threading.Thread(target=self.run, name="mock_odoo acceptor", daemon=True)

    # -- What other threads ask for

    def begin(self) -> None:
        """Make the thread, which binds. Call this where no signal interrupts it."""
        try:
            if not self.is_closing:  # else another thread was faster
                self._acceptor.start()
                return
        except RuntimeError as error:  # out of threads
            self.error = error
        self.socket.close()
        self._enter(ENDED)

    def settle(self) -> None:
        """Wait for what begin() began: the port is bound, and open if that is due.

        Raises OSError where the port cannot be had.
        """
        self._await(OPEN if self.opens_after == 0 else RESERVED)
        if self.error is not None:
            raise self.error

    def open(self) -> None:
        """Listen, if that is not done yet. Clients can connect when this returns."""
        if self.state < OPEN and self._process == os.getpid():  # in a child, the port is not ours
            self._due.ring()
            self._await(OPEN)
            if self.error is not None:
                raise self.error

    def close(self, spared: int = 0) -> None:
        """Ask to free the port and to cut every connection but that of the `spared` thread.

        Call it again to cut that one too.
        """
        self.is_closing = True
        self._spared = spared
        if self._process != os.getpid():  # in a forked child, the rest is our parent's
            self.socket.close()
            self.state = ENDED
            return
        self._due.ring()
        self._alarm.ring()
        if CLOSED <= self.state < ENDED:
            self._cut_connections()

    def serves(self, thread: int) -> bool:
        """Is it one of the workers?"""
        return any(worker.ident == thread for worker in list(self._workers))

    def has_closed(self) -> bool:
        return self.state >= CLOSED

    def wait_closed(self) -> None:
        """Wait until connections are refused."""
        self._await(CLOSED)

    def join(self, timeout: float) -> bool:
        """Wait until every thread has ended; False where one has not."""
        if not self._await(ENDED, timeout):
            return False
        if self._acceptor.ident is not None:
            # It is about to end. Until 3.12, a signal in a long join() could spoil the thread.
            self._acceptor.join(1.0)
        return True

    def _await(self, state: int, timeout: float = FOREVER) -> bool:
        return self._news.wait(lambda: self.state >= state, timeout)

    # -- The thread

    def run(self) -> None:
        """Live: take the port over, keep it reserved until it is time, accept, close."""
        try:
            for listener in self.earlier:
                listener.wait_closed()
            with self._alarm:  # before the bind: there may be no descriptors left
                if not self.is_closing:
                    self.server_bind()
                if self.opens_after != 0:
                    self._enter(RESERVED)
                    with self._due:
                        self._due.wait(self.opens_after)
                self._accept()
        except Exception as error:  # noqa: BLE001 - settle() or open() raises it
            self.error = error
            if self.state == RESERVED:  # maybe nobody waits for it
                log_bug(f"cannot listen on port {self.server_port} again")
        finally:
            self.server_close()
            self._closed(self)  # lets go the delayed replies, which are cut
            self._enter(CLOSED)
            self._cut_connections()  # again, as close() may have been called again
            for worker in [*self._workers, *self._ended]:
                worker.join()
            self._enter(ENDED)

    def _accept(self) -> None:
        if not self.is_closing:
            self.server_activate()
            self._opened(self)
            self._enter(OPEN)
            self.serve_forever()

    def _enter(self, state: int) -> None:
        self.state = state
        self._news.tell()

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer's, without asking DNS for our name, which can take 10 s."""
        if EXCLUSIVE is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, EXCLUSIVE, 1)
        self._set_reuse(1)  # past connections in TIME_WAIT do not matter
        self.socket.bind(self.server_address)
        self._set_reuse(0)  # or anybody could have the port until we listen
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def _set_reuse(self, on: int) -> None:
        if EXCLUSIVE is None:  # on Windows, it would let a second server have the port
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, on)

    def server_activate(self) -> None:
        self._set_reuse(1)
        super().server_activate()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept until close(), without polling."""
        self.socket.setblocking(False)
        while not self.is_closing:
            try:
                self._alarm.wait(other=self.socket)
                self.process_request(*self.get_request())
            except BlockingIOError:  # the alarm rang, or the client has left again
                pass
            except OSError:  # out of descriptors: the client waits, and so do we
                self._await(CLOSED, 0.05)

    def server_close(self) -> None:
        """Free the port, cut the connections, and end the workers that are idle."""
        cut(self.socket)  # a forked child would go on listening with its copy
        try:
            self._set_reuse(1)  # its copy would keep the port
        except OSError:  # closed before it began
            pass
        self.socket.close()
        self._cut_connections()
        with self._lock:
            while self._idle:
                self._idle.pop().resume()

    # -- The connections

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = self.socket.accept()
        connection.setblocking(True)  # whatever it has from our socket, or from setdefaulttimeout()
        return connection, address[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a worker serve a connection."""
        with self._lock:
            while self._ended and not self._ended[0].is_alive():
                self._ended.popleft()
            worker = self._idle.pop() if self._idle else Worker(self)
            worker.connection, worker.address = request, client_address
            self._workers.add(worker)
        try:
            worker.resume()
        except RuntimeError:  # out of threads
            with self._lock:
                self._workers.discard(worker)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in a worker."""
        try:
            if self.app.ssl_context is not None:
                request = self.secure(request, self.app.ssl_context)
            self.finish_request(request, client_address)
        except OSError:  # the client hung up, or we did
            pass
        except BaseException:  # noqa: BLE001 - the worker has other connections to serve
            log_bug("a connection failed")

    def finish_connection(self, worker: Worker) -> bool:
        """Close the connection that a worker has served; is the worker to wait for another?"""
        with self._lock:
            connection, worker.connection = worker.connection, None
        if connection is not None:
            self.shutdown_request(connection)
        with self._lock:
            kept = not self.is_closing and len(self._idle) < MAX_IDLE_WORKERS
            if kept:
                self._idle.append(worker)
            else:
                self._workers.discard(worker)
                self._ended.append(worker)
        return kept

    def secure(self, connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
        """Shake hands, in the connection's thread: a silent client keeps nobody else waiting."""
        # Until 3.12, wrap_socket() leaks the socket where the client leaves before its hello.
        if not connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError("the client left")
        worker = threading.current_thread()
        assert isinstance(worker, Worker)
        try:
            tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                worker.connection = tls
            if self.is_closing:  # maybe only the plain socket was cut, which TLS has replaced
                cut(tls)
            tls.do_handshake()
        except OSError as error:
            if not self.is_closing:  # else it was us
                self.app.note_unmatched(f"TLS handshake failed: {error.strerror or error}")
            raise
        return tls

    def abort(self, connection: socket.socket) -> None:
        """Close with a RST, at once: shutdown_request() would send a FIN first."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        with self._lock:
            socket.SocketType.close(connection)

    def _cut_connections(self) -> None:
        with self._lock:
            for worker in self._workers:
                if worker.connection is not None and worker.ident != self._spared:
                    cut(worker.connection)
                    if EXCLUSIVE is not None:  # on Windows, that wakes no reader (CPython 91913)
                        socket.SocketType.close(worker.connection)


# ------------------------------------------------------------------------------------------
# Control: the server over HTTP, for other processes and languages, and for the page. It uses the
# public face of the server that it is handed, and offers routes.
# ------------------------------------------------------------------------------------------

LONGEST_POLL = 60  # seconds that one GET /_mock/wait may take
#: On a connection that was kept, Chromium would ask again after a 408.
UNCACHED = {"Cache-Control": "no-store", "Connection": "close"}
LOOPBACK = r"(::ffff:)?127(\.[0-9]{1,3}){3}|::1"


def add_routes(routes: Routes, more: Routes) -> None:
    """Add routes to others. A path may take several methods. An existing route wins."""
    for path, methods in more.items():
        for method, route in methods.items():
            routes.setdefault(path, {}).setdefault(method, route)


class Control:
    """The control API: steers a server from another process or language, and from the page.

    Clients on this machine may use it if their Host is a loopback name, which no foreign web page
    can bring about by DNS rebinding; so may everybody who sends the token, if there is one.
    Changes must be application/json, which a foreign page cannot send without a preflight, and
    that is never granted.
    """

    def __init__(self, server: MockOdooServer, token: str | None = None) -> None:
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("the token must be printable ASCII without blanks, and not empty")
        self.server = server
        self.token = token

    @property
    def routes(self) -> Routes:
        rows: tuple[tuple[str, str, Callable[[dict[str, Any]], Reply], Sequence[str]], ...] = (
            ("GET", "/_mock/", self.page, ()),
            ("GET", "/_mock/state", self.state, ()),
            ("GET", "/_mock/calls", self.calls, ("since",)),
            ("GET", "/_mock/events", self.events, ()),
            ("GET", "/_mock/wait", self.wait, ("calls", "heartbeats", "timeout")),
            ("PUT", "/_mock/script", self.script, ("script", "loop")),
            ("POST", "/_mock/reset", self.reset, ()),
            ("POST", "/_mock/down", self.down, ("seconds",)),
        )
        to_page = Reply(302, b"", {"Location": "/_mock/"})
        routes: Routes = {path: {"GET": lambda request: to_page} for path in ("/", "/_mock")}
        for method, path, answer, names in rows:
            add_routes(routes, {path: {method: functools.partial(self.guard, answer, names)}})
        return routes

    def guard(
        self, answer: Callable[[dict[str, Any]], Reply], names: Sequence[str], request: Request
    ) -> Reply:
        """Answer whoever may ask; what Python refuses becomes a 400 with the same text."""
        if not self.is_allowed(request):
            return self.forbid(request)
        try:
            return answer(self.read_values(request, names))
        except Refusal as refusal:
            return refusal.reply
        except (TypeError, ValueError) as error:
            return Reply(400, {"error": str(error)})

    def read_values(self, request: Request, names: Sequence[str]) -> dict[str, Any]:
        """What the query and the body say, by name."""
        if request.refusal is not None:
            raise request.refusal
        values: dict[str, Any] = dict(urllib.parse.parse_qsl(request.query, keep_blank_values=True))
        if request.body:
            values.update(request.parse())
        for name in values:
            if name not in names:
                raise ValueError(
                    f"{name!r:.80} means nothing here; {request.path} takes "
                    f"{', '.join(names) or 'nothing'}"
                )
        return values

    def is_allowed(self, request: Request) -> bool:
        fields = request.head.fields
        scheme, _, given = fields.get("authorization", "").partition(" ")
        if self.token and scheme.lower() == "bearer":
            import hmac

            if hmac.compare_digest(given.strip().encode(), self.token.encode()):
                return True
        host = re.sub(":[0-9]*$", "", fields.get("host", "")).lower()
        return bool(
            re.fullmatch(LOOPBACK, request.client[0])
            and re.fullmatch(rf"localhost|{LOOPBACK}|\[::1\]", host)
        )

    def forbid(self, request: Request) -> Reply:
        host = request.head.fields.get("host", "none")
        remedy = "with the right token" if self.token else "with a token, if one is set by --token"
        return Reply(
            403,
            {
                "error": "control is for clients on this machine that address it as localhost or "
                f"127.0.0.1 (yours is {request.client[0]}, Host {host:.80}), or that send "
                f"Authorization: Bearer {remedy}"
            },
        )

    def read_number(self, values: dict[str, Any], name: str, default: str) -> float:
        text = str(values.get(name, default))
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError(f"{name} must be a number like 5 or 0.5, not {text!r:.80}")
        return float(text) if "." in text else int(text)

    # -- The routes

    def page(self, values: dict[str, Any]) -> Reply:
        return Reply(
            200,
            PAGE,
            {
                "Content-Type": HTML,
                "Content-Security-Policy": page_policy(),
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                **UNCACHED,
            },
        )

    def state_reply(self, status: int = 200, **more: object) -> Reply:
        """The state of the server, with which every change is answered, too."""
        server = self.server
        calls = reversed(server.get_calls())
        count = server.get_call_count()
        return Reply(
            status,
            {
                "service": server.service,
                "heartbeat_url": server.heartbeat_url,
                "script": server.script,
                "loop": server.loop,
                "call_count": count,
                "heartbeat_count": min(
                    count, server.get_heartbeat_count()
                ),  # more may have come since
                "last_heartbeat": next((call.payload for call in calls if call.accepted), None),
                "unmatched": server.get_unmatched(),
                **more,
            },
            UNCACHED,
        )

    def state(self, values: dict[str, Any]) -> Reply:
        return self.state_reply()

    def calls(self, values: dict[str, Any]) -> Reply:
        since = self.read_number(values, "since", "0")
        calls = [call.to_json() for call in self.server.get_calls() if call.number > since]
        body = f'{{"calls": [{", ".join(calls)}]}}'
        return Reply(200, body, {"Content-Type": "application/json", **UNCACHED})

    def events(self, values: dict[str, Any]) -> Reply:
        return Reply(200, {"events": self.server.get_events()}, UNCACHED)

    def wait(self, values: dict[str, Any]) -> Reply:
        if "calls" in values and "heartbeats" in values:
            raise ValueError("wait for calls or for heartbeats, not for both")
        what = "heartbeats" if "heartbeats" in values else "calls"
        n = check_whole(what, self.read_number(values, what, "1"), 0)  # type: ignore[arg-type]
        timeout = self.read_number(values, "timeout", "5")
        if timeout > LONGEST_POLL:
            raise ValueError(f"timeout must be from 0 to {LONGEST_POLL} seconds, not {timeout}")
        try:
            if what == "calls":
                self.server.wait_for_calls(n, timeout)
            else:
                self.server.wait_for_heartbeats(n, timeout)
        except TimeoutError as error:
            return self.state_reply(408, error=str(error))
        return self.state_reply()

    def script(self, values: dict[str, Any]) -> Reply:
        if "script" not in values:
            raise ValueError('"script" is missing; send {"script": "503*3"}, for example')
        self.server.play(values["script"], values.get("loop", False))
        return self.state_reply()

    def reset(self, values: dict[str, Any]) -> Reply:
        self.server.reset()
        return self.state_reply()

    def down(self, values: dict[str, Any]) -> Reply:
        if values.get("seconds") is None:
            raise ValueError(
                '"seconds" is missing; nobody could end the outage through a port '
                "that refuses connections"
            )
        try:
            self.server.down(values["seconds"])
        except RuntimeError as error:  # somebody has just stopped it
            return Reply(409, {"error": str(error)})
        return self.state_reply()


# ------------------------------------------------------------------------------------------
# MockOdooServer: the public face. It says what a healthy service would say, asks the script for
# the rest, and holds the current listener.
# ------------------------------------------------------------------------------------------

REMEDIES = {
    errno.EADDRINUSE: "; stop what listens there, or take port=0, a free one",
    errno.EACCES: "; take a port above 1023 that nobody has, or port=0, a free one",
    errno.EADDRNOTAVAIL: "; host must be an address of this machine",
}
HEALTHY = Reply(200, {"status": "ok"})
PASSING = Reply(200, {"status": "pass"})
LOGIN_PAGE = Reply(
    200, "<!DOCTYPE html>\n<title>Odoo</title>\n<h1>Log in</h1>\n", {"Content-Type": HTML}
)


class MockOdooServer:
    """A fake Odoo that answers heartbeats as a test tells it to, and remembers them.

    `port`         `default_port` unless given; 0 takes a free one, and after `start()` `port`
                   tells which
    `host`         the address to listen on, IPv4 or IPv6
    `strict`       answer 422 to a heartbeat that breaks the contract of the specification
    `ssl_context`  an `ssl.SSLContext` with a certificate, to serve HTTPS
    `max_calls`    keep so many calls, the newest; the counts go on counting
    `control`      offer the control API and its page under /_mock/
    `on_call`      is called with every `Call`, before it is answered
    `on_unmatched` is called with every line of `get_unmatched()`, before the client is answered
    `on_event`     is called with every event, a dict like those of `get_events()`, and with
                   {"event": "unmatched", ...} for every line of `get_unmatched()`

    The three functions are called one at a time, in the order of what happened. What they raise is
    logged. They may use the server, but not send it heartbeats.

    Nothing is bound before `start()`, or a `with` block, which starts and stops. Another service is
    a subclass with its own `endpoint`, `default_port`, `service` and `make_success`. Raises
    TypeError or ValueError for what cannot be served.

    `routes` may be changed. It maps a path, then a method, to a function that takes a request (see
    `verdict`) and returns a `Reply`.
    """

    endpoint = "/api/v1/kkt/heartbeat"
    default_port = 8069
    service = "Odoo"
    noun = "heartbeat"  # what is sent to the endpoint, for people to read

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Another endpoint is sent something else than heartbeats."""
        super().__init_subclass__(**kwargs)
        if "endpoint" in vars(cls) and "noun" not in vars(cls):
            cls.noun = "call"

    def __init__(
        self,
        port: int | None = None,
        host: str = "127.0.0.1",
        *,
        strict: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        max_calls: int | None = None,
        control: bool = False,
        on_call: Callable[[Call], object] | None = None,
        on_unmatched: Callable[[str], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.port = check_whole("port", self.default_port if port is None else port, 0, 65535)
        self.host = check_host(host)
        self.strict = check_flag("strict", strict)
        self.ssl_context = check_context(ssl_context)
        if max_calls is not None:  # a deque takes no more than sys.maxsize
            max_calls = min(check_whole("max_calls", max_calls, 1), sys.maxsize)
        check_callable("on_call", on_call)
        check_callable("on_event", on_event)
        check_callable("on_unmatched", on_unmatched)
        self._scenario = Scenario(max_calls, on_call, on_event, on_unmatched)
        self._lifecycle = threading.Lock()  # guards what follows
        self._listener: Listener | None = None  # each start and each outage makes a new one
        self._listeners: list[Listener] = []  # also earlier ones whose threads may not have ended
        self.routes = self._make_routes()
        if check_flag("control", control):
            add_routes(self.routes, Control(self).routes)

    def _make_routes(self) -> Routes:
        if not isinstance(self.endpoint, str) or not re.fullmatch('/[!"$->@-~]*', self.endpoint):
            raise ValueError(
                f"endpoint must be a path like /api/v2/receipt, not {self.endpoint!r:.80}"
            )
        routes: Routes = {self.endpoint: {"POST": self._answer_heartbeat}}
        add_routes(
            routes,
            {
                "/health": {"GET": lambda request: HEALTHY},
                "/api/v1/health": {"GET": lambda request: HEALTHY},  # what some compose files ask
                "/web/health": {"GET": lambda request: PASSING},  # Odoo's own probe
                "/web/login": {"GET": lambda request: LOGIN_PAGE},
            },
        )
        return routes

    # -- What a healthy service says: for subclasses to override

    def make_success(self, payload: dict[str, Any]) -> object:
        """What the service says to a good heartbeat.

        The body of the success reply: anything that JSON can express, or JSON ready-made as text or
        bytes. Or a `Reply` of any kind, such as a 409 for a duplicate. Called for every well-formed
        heartbeat before the script is asked, and by several threads at once.
        """
        return {"status": "ok", "message": "Heartbeat received"}

    def find_problems(self, payload: dict[str, Any]) -> list[str]:
        """What `strict` finds wrong, a line each."""
        return contract_problems(payload)

    def verdict(self, request: Request) -> Reply:
        """What a healthy service says to a heartbeat, well-formed or not.

        It is sent where the script would accept. The request has `method`, `path`, `query`,
        `headers` (a mapping that ignores case), `body`, `client` and `payload`; so a subclass can
        ask for a bearer token, or have one adapter down and the others up:

            def verdict(self, request):
                if request.headers["Authorization"] != "Bearer secret":
                    return Reply(401, {"error": "no valid token"})
                return super().verdict(request)
        """
        try:
            payload = request.parse()
            problems = self.find_problems(payload) if self.strict else []
            if isinstance(problems, str):
                raise TypeError("find_problems must return a list of lines")
            if problems:
                raise Refusal(422, "the heartbeat breaks the contract", problems=problems)
        except Refusal as refusal:
            return refusal.reply
        success = self.make_success(payload)
        return success if isinstance(success, Reply) else OK.but(body=encode(success))

    def sender(self, call: Call) -> str:
        """Who sent a call: the heartbeat's `adapter_id`, else the client's address."""
        payload = call.payload
        name = payload.get("adapter_id") if isinstance(payload, dict) else None
        return name if isinstance(name, str) and name else call.client[0]

    def describe_call(self, call: Call) -> str:
        """What a call holds, in a line: at the terminal, on the page, in what --read prints.

        Known fields of a heartbeat as words; any other JSON as it is, shortened.
        """
        payload = call.payload
        known = ("adapter_id", "buffer_status", "circuit_breaker")
        if payload is None:
            return printable(call.body[:60].decode("utf-8", "replace"))
        if not isinstance(payload, dict) or not any(name in payload for name in known):
            return printable(json.dumps(payload, ensure_ascii=False)[:60])
        name, queued, capacity, percent, state = (
            shown(call.payload, *path.split("."))
            for path in (
                "adapter_id",
                "buffer_status.current_queued",
                "buffer_status.total_capacity",
                "buffer_status.percent_full",
                "circuit_breaker.state",
            )
        )
        buffer = f"buffer {queued}/{capacity} ({percent}%)"
        return f"{name:<10}  {buffer:<22}  breaker {state:<9}"

    # -- What the wire and the listener ask

    def check_head(self, head: Head) -> Refusal | None:
        """What is wrong with a request whatever its body says."""
        methods = self.routes.get(head.path)
        if methods is None:
            known = ", ".join(
                f"{method} {path}" for path in self.routes for method in self.routes[path]
            )
            return Refusal(404, f"there is no {head.path:.200} here; there are {known}")
        if self._find_route(head) is None:
            allowed = ", ".join(methods) + (", HEAD" if "GET" in methods else "")
            complaint = f"{head.path} takes {allowed}, not {head.method:.40}"
            return Refusal(405, complaint, {"Allow": allowed})
        coding = head.fields.get("content-encoding", "identity")
        if coding.lower() != "identity":
            return Refusal(
                415, f"Content-Encoding {coding!r:.80} is not understood; send the body as it is"
            )
        kind = head.fields.get("content-type", "missing")
        is_json = kind.partition(";")[0].strip().lower() == "application/json"
        if head.method in ("POST", "PUT") and not is_json:
            return Refusal(415, f"Content-Type must be application/json; it is {kind:.80}")
        return None

    def answer(self, request: Request) -> Reply:
        """The reply to a request."""
        route = self._find_route(request.head)
        if route is None:
            refusal = request.refusal or Refusal(404, "the route has just been removed")
            self.note_unmatched(f"{refusal.reply.status} {request.method} {request.path}")
            return refusal.reply
        reply = route(request)
        if not isinstance(reply, Reply):
            raise TypeError(f"a route must return a Reply, not {reply!r:.80}")
        if reply.body is None:
            reply = self._word(reply)
        if reply.alarm is None and (reply.delay or reply.fault):
            reply = reply.but(alarm=self._scenario.alarm())
        return reply

    def _find_route(self, head: Head) -> Route | None:
        methods = self.routes.get(head.path, {})
        route = methods.get(head.method)
        return methods.get("GET") if route is None and head.method == "HEAD" else route

    def note_unmatched(self, what: str) -> None:
        """Remember what came that is no call."""
        self._scenario.note_unmatched(printable(what[:200]))

    def _answer_heartbeat(self, request: Request) -> Reply:
        return self._scenario.take(request, self._judge(request))

    def _judge(self, request: Request) -> Reply:
        """The verdict. The user's code runs before the call is recorded, which thus cannot fail."""
        if request.refusal is not None:
            return request.refusal.reply
        try:
            verdict = self.verdict(request)
            if not isinstance(verdict, Reply):
                raise TypeError(f"verdict must return a Reply, not {verdict!r:.80}")
        except BaseException:  # noqa: BLE001 - the user's code; pytest.fail() is no Exception
            what = "verdict, make_success or find_problems failed"
            log_bug(what)
            return Refusal(500, f"{what}; the log of the fake tells more").reply
        return self._word(verdict) if verdict.body is None else verdict

    def _word(self, reply: Reply) -> Reply:
        """Say what the service itself says with a status."""
        if reply.status < 400:
            return reply.but(body=b"{}" if reply.status < 300 else b"")
        unavailable = f"{self.service} service unavailable"
        error = unavailable if reply.status == 503 else phrase(reply.status)
        return reply.but(body=encode({"error": error}))

    # -- Lifecycle

    @property
    def is_running(self) -> bool:
        """True from `start()` to `stop()`, also during an outage."""
        return self._listener is not None

    @property
    def url(self) -> str:
        """Where clients reach it, like http://127.0.0.1:8069.

        Raises RuntimeError where port 0 has not become a free port yet.
        """
        if not self.port:
            raise RuntimeError(
                "port=0 takes a free port when the server starts; "
                "call start() before you ask for its address"
            )
        return self._address()

    def _address(self) -> str:
        # Windows connects to no wildcard, and takes 2 s to find that localhost is not ::1.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}
        host = reachable.get(self.host, self.host)
        scheme = "https" if self.ssl_context else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def heartbeat_url(self) -> str:
        """Where to POST heartbeats."""
        return self.url + self.endpoint

    def start(self) -> None:
        """Listen. Clients can connect when this returns.

        Raises OSError where the address cannot be had, RuntimeError where the server runs already.
        """
        try:
            self._settle(self._install("start", 0.0))
            self._scenario.finish_reports()
        except RuntimeError:  # it runs already, or there are no more threads
            raise
        except BaseException:  # also what a signal handler raises
            self._uninstall()
            raise

    def stop(self) -> None:
        """Refuse new connections, cut the others, let go what is delayed, end every thread.

        All that is done when this returns (in on_call, its own connection and the threads end
        afterwards). Harmless when not running. The memory and the script stay: `start()` goes on
        with them, on the same port. A signal handler may call this. When an exception has
        interrupted this, call it again.

        Raises RuntimeError where a thread has not ended in 5 s, because a function of yours hangs,
        such as on_call.
        """
        self._wait_for_threads(self._uninstall())
        self._scenario.finish_reports()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def down(self, seconds: float | None = None) -> None:
        """An outage: refuse new connections and cut the others.

        It lasts for `seconds`, or until `up()` or `reset()`. The port stays reserved meanwhile.
        Raises RuntimeError where the server does not run, and OSError where somebody snatched the
        port in the instant between listening and reserving; the server is stopped then.
        """
        seconds = None if seconds is None else check_seconds("seconds", seconds)
        listener = self._install("up", seconds)
        self._settle(listener)

    def up(self) -> None:
        """End an outage; harmless when there is none.

        Raises RuntimeError where the server does not run.
        """
        self._needs_running().open()

    def _needs_running(self) -> Listener:
        listener = self._listener
        if listener is None:
            raise RuntimeError("not running; call start() first")
        return listener

    @shielded
    def _install(self, event: str, opens_after: float | None) -> Listener:
        """Make the listener that takes the port over from those before.

        `event` is what its opening is: "start", or "up" after an outage.
        """
        with self._lifecycle:
            if event == "up":
                self._needs_running()
            elif self._listener is not None:
                raise RuntimeError(f"already running at {self._address()}; call stop() first")
            earlier = [listener for listener in self._listeners if listener.state < ENDED]
            opened = functools.partial(self._opened, event)
            listener = Listener(
                self.host, self.port, self, opens_after, earlier, opened, self._closed
            )
            self._listeners = [*earlier, listener]
            self._listener = listener
        if event == "up":
            self._scenario.note("down", seconds=opens_after)
        for each in earlier:
            each.close(self._spared())
        listener.begin()
        return listener

    @shielded
    def _uninstall(self, listener: Listener | None = None) -> Sequence[Listener]:
        """Close the current listener, whichever that is or only this one; return all that end."""
        with self._lifecycle:
            if listener in (None, self._listener):
                self._listener = None
            listeners = self._listeners if listener is None else [listener]
        for each in listeners:
            each.close(self._spared())
        return listeners

    def _opened(self, event: str, listener: Listener) -> None:
        self.port = listener.server_port
        fields = {"url": self.url} if event == "start" else {}
        self._scenario.note(event, apart=True, **fields)

    def _closed(self, listener: Listener) -> None:
        self._scenario.release()
        if self._listener is None and listener.state > NEW:
            self._scenario.note("stop", apart=True)

    def _settle(self, listener: Listener) -> None:
        """Wait until a new listener has the port, and the earlier ones have ended."""
        try:
            listener.settle()
        except Exception as error:
            self._uninstall(listener)
            if isinstance(error, OSError):
                raise self._explain(error) from None
            raise
        self._wait_for_threads(listener.earlier)
        listener.earlier = ()  # or each would keep all before it

    def _explain(self, error: OSError) -> OSError:
        cause = errno.EADDRNOTAVAIL if isinstance(error, socket.gaierror) else error.errno
        remedy = REMEDIES.get(cause or 0, "")
        complaint = f"cannot listen on {self.host}, port {self.port}: {error.strerror}{remedy}"
        return OSError(error.errno, complaint)

    def _wait_for_threads(self, listeners: Sequence[Listener]) -> None:
        """Wait for the threads of closed listeners. Inside a worker, wait for the port only."""
        deadline = time.monotonic() + PATIENCE
        # Workers wait until their calls are reported, so a user's function cannot wait for them.
        is_inside = self._serving() is not None or self._scenario.is_reporting()
        for listener in listeners:
            if is_inside:
                listener.wait_closed()
            elif not listener.join(max(0.0, deadline - time.monotonic())):
                raise RuntimeError(
                    f"a thread has not ended in {PATIENCE:.0f} s: a function of yours hangs, "
                    "such as on_call"
                )

    def _serving(self, thread: int | None = None) -> Listener | None:
        """The listener in whose thread the caller is, as on_call is; None elsewhere."""
        thread = threading.get_ident() if thread is None else thread
        return next((each for each in self._listeners if each.serves(thread)), None)

    def _spared(self) -> int:
        """The worker whose client is answered although the server ends; 0 for none."""
        thread = self._scenario.origin()
        return 0 if self._serving(thread) is None else thread

    # -- The script

    def play(self, script: ScriptLike, loop: bool = False) -> None:
        """Answer heartbeats by this script from now on; the last call of `play` or a setter wins.

            script := step ("," step)*              "503*2, reset, ok@6s, stall*"
            step   := reply ["@" delay] ["*" [n]]   *n: n times.  *: for ever.  @2s, @250ms: wait
            reply  := ok | status | fault

        {replies}

        In place of text, a `Reply`, a dict of its fields, or a list that mixes these will do. When
        the script has run out, heartbeats succeed; with `loop`, it starts again instead. Raises
        ValueError that quotes the step that cannot be read; the old script plays on.
        """
        self._scenario.play(Script(script, loop))

    if play.__doc__:  # not under python -OO
        play.__doc__ = play.__doc__.replace(
            "{replies}",
            "\n        ".join(
                f"`{word}`".ljust(11) + " " + meaning
                for word, meaning in describe_replies().items()
            ),
        )

    def set_success(self) -> None:
        """Accept every heartbeat."""
        self.play("")

    def set_failure_count(self, count: int) -> None:
        """Refuse `count` heartbeats with 503, then accept them again."""
        count = check_whole("count", count, 0, MAX_TIMES)
        self.play(f"503*{count}" if count else "")

    def set_permanent_failure(self, enabled: bool = True) -> None:
        """Refuse every heartbeat with 503; with False, end that and nothing else."""
        if check_flag("enabled", enabled):
            self.play("503*")
        else:
            self._scenario.end("503*")

    @property
    def script(self) -> str:
        """What is left of the script, as text for `play`.

        A `Reply` that no text can express shows as the nearest word.
        """
        return self._scenario.script_state()[0]

    @property
    def loop(self) -> bool:
        """Does the script start again at its end?"""
        return self._scenario.script_state()[1]

    # -- The memory

    def get_received_heartbeats(self) -> list[Any]:
        """The payloads of the accepted calls that are kept, oldest first.

        Each reader gets copies of their own.
        """
        return [call.payload for call in self._scenario.calls() if call.accepted]

    def get_call_count(self) -> int:
        """How many calls came since the last reset, accepted or not."""
        return self._scenario.count("calls")

    def get_heartbeat_count(self) -> int:
        """How many of the calls since the last reset were accepted."""
        return self._scenario.count("heartbeats")

    def get_calls(self) -> list[Call]:
        """The calls since the last reset that are kept, oldest first."""
        return self._scenario.calls()

    def get_unmatched(self) -> list[str]:
        """What came lately that is no call, oldest first, such as "404 POST /api/v2/heartbeat".

        These are other paths and methods, what is no HTTP, and TLS handshakes that failed. WireMock
        calls them unmatched requests.
        """
        return self._scenario.unmatched()

    def get_events(self) -> list[Event]:
        """What was done to the fake since the last reset: the newest 100 events, oldest first.

        Each is a dict with `event`, `at` (seconds since the epoch) and `time` (the same in
        ISO 8601):

            script  with `script` and `loop`: `play` or a setter was called
            down    with `seconds`, None for an outage without an end
            up      an outage has ended, by `up()`, by `reset()` or by itself
            start   with `url`
            stop, reset
        """
        return self._scenario.events()

    def get_intervals(self) -> list[float]:
        """The seconds from each call to the next, whatever was done to the wall clock."""
        arrivals = [call._arrived for call in self._scenario.calls()]
        return [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]  # noqa: RUF007

    def reset(self) -> None:
        """Forget the calls, end the script and any outage, and release every delayed reply."""
        self._scenario.reset()
        listener = self._listener
        if listener is not None:
            listener.open()

    def wait_for_heartbeats(
        self, n: int, timeout: float = 5.0, where: Callable[[Any], object] | None = None
    ) -> list[Any]:
        """Block until `n` heartbeats have been accepted since the last reset.

        Returns all that are kept. With `where`, a function of the payload, it waits for `n` that
        fit, and returns those that fit. The function is called once for each, and what it raises
        reaches the caller. Raises TimeoutError after `timeout` seconds, which tells what came.
        """
        check_callable("where", where)

        def fits(call: Call) -> object:
            return call.accepted and where is not None and where(call.payload)

        calls = self._wait("heartbeats", n, timeout, None if where is None else fits)
        return [call.payload for call in calls if call.accepted]

    def wait_for_calls(
        self, n: int, timeout: float = 5.0, where: Callable[[Call], object] | None = None
    ) -> list[Call]:
        """Block until `n` calls have come since the last reset.

        Otherwise like `wait_for_heartbeats`; here `where` is a function of the `Call`.
        """
        check_callable("where", where)
        return self._wait("calls", n, timeout, where)

    def _wait(
        self, what: str, n: int, timeout: float, fits: Callable[[Call], object] | None
    ) -> list[Call]:
        serving = self._serving()  # stop() waits for this thread, so it must give up
        try:
            return self._scenario.wait(
                what, n, timeout, fits, lambda: serving is not None and serving.is_closing
            )
        except TimeoutError as error:
            causes = []
            if serving is not None and serving.is_closing:
                causes.append("the server was stopped; ")
            elif not self.is_running:
                causes.append("the server is not running: call start(); ")
            if in_event_loop():
                causes.append(
                    "this thread runs an event loop, which cannot send while it waits: "
                    "use await asyncio.to_thread(...); "
                )
            raise TimeoutError("".join(causes) + str(error)) from None

    def __repr__(self) -> str:
        listener = self._listener
        state = "running" if listener and listener.state == OPEN else "down"
        state = "stopped" if listener is None else state
        script, loop = self._scenario.script_state()
        looping = " in a loop" if loop else ""
        return (
            f"<{type(self).__name__} {self._address()} {state}, "
            f"script '{script}'{looping}, {self.get_call_count()} calls>"
        )


# ------------------------------------------------------------------------------------------
# Command line: what stands at the terminal, the journal and its reader, the signals, and main().
# It uses the public face, and Control.
# ------------------------------------------------------------------------------------------

MAX_LINES = 10000  # that wait to be printed
#: What becomes of a call, and its colour at the terminal: green, yellow, red.
OUTCOMES = {"accepted": 32, "refused": 33, "spoilt": 31}


def print_error(line: str) -> None:
    """Print a line on standard error, if there is one and it takes it."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass


def ask(function: Callable[[Call], object], call: Call) -> str:
    """What the server says of a call; "?" where a subclass's own method fails."""
    try:
        return str(function(call))
    except Exception:  # noqa: BLE001 - the user's code
        log_bug(f"{function.__name__} failed")
        return "?"


def outcome(call: Call) -> str:
    """Accepted, or refused by a status, or spoilt by a fault."""
    return "accepted" if call.accepted else "refused" if call.reply.isdigit() else "spoilt"


def some(n: int, noun: str) -> str:
    """Such as "1 call" or "2 calls"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


class Tally:
    """How many calls there were, and what became of them."""

    def __init__(self) -> None:
        self.calls = self.left = 0
        self.outcomes = dict.fromkeys(OUTCOMES, 0)

    def add(self, call: Call) -> None:
        self.calls += 1
        self.outcomes[outcome(call)] += 1

    def summary(self, noun: str) -> str:
        """Such as "12 heartbeats received, 3 of 15 calls refused, 1 client left"."""
        accepted, refused, spoilt = self.outcomes.values()
        spoilt_too = f", {spoilt} spoilt" if spoilt else ""
        left_too = f", {some(self.left, 'client')} left" if self.left else ""
        received = f"{some(accepted, noun)} received"
        return f"{received}, {refused} of {self.calls} calls refused{spoilt_too}{left_too}"


# -- A line at the terminal

#: What gives way, in this order, where a line is too long; and the columns that it keeps.
GIVES_WAY = (("script", 0), ("text", 12), ("problem", 0))
MIN_COLUMNS = 12  # of a part that is cut; a shorter piece says nothing


def columns(text: str) -> int:
    """How wide a terminal shows it: many signs of Asia and pictures take two columns."""
    if text.isascii():
        return len(text)
    import unicodedata

    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def shorten(text: str, room: int) -> str:
    if columns(text) <= room:
        return text
    if room < MIN_COLUMNS:
        return ""
    text = text[: room - 3]
    while columns(text) > room - 3:
        text = text[:-1]
    return text.rstrip() + "..."


def join(parts: dict[str, str]) -> str:
    return "  ".join(filter(None, parts.values())).rstrip()


def can_colour(stream: IO[str] | None) -> bool:
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM") != "dumb" and (os.name != "nt" or "WT_SESSION" in os.environ)


class Screen:
    """How a line looks on a stream: its letters, its colour and, at a terminal, its width."""

    def __init__(self, stream: IO[str] | None) -> None:
        import unicodedata  # noqa: F401 - for columns(), when descriptors may have run out

        self._has_colour = can_colour(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._terminal = stream if stream is not None and stream.isatty() else None

    def width(self) -> float:
        """The columns of the terminal as it is now; no limit elsewhere."""
        try:
            size = 0 if self._terminal is None else os.get_terminal_size(self._terminal.fileno())[0]
        except (OSError, ValueError):
            size = 0
        return size - 1 if size > 1 else FOREVER  # some begin a new line in the last column

    def spell(self, text: str) -> str:
        """Write it with the letters that the stream has, and none that could drive a terminal."""
        if text.isascii() and text.isprintable():
            return text
        return printable(text).encode(self._encoding, "backslashreplace").decode(self._encoding)

    def fit(self, parts: dict[str, str], colour: int | None = None) -> str:
        """Put the parts of a line side by side, cut as they must be."""
        parts = {name: self.spell(part) for name, part in parts.items()}
        width = self.width()
        for name, least in GIVES_WAY:
            if name in parts and columns(join(parts)) > width:
                parts[name] = parts[name].rstrip()
                room = columns(parts[name]) - max(0, columns(join(parts)) - int(width))
                parts[name] = shorten(parts[name], max(least, room))
        if colour is not None and self._has_colour:
            parts["word"] = f"\x1b[{colour}m{parts['word']}\x1b[0m"
        return join(parts)

    def fold(self, text: str, mark: str) -> str:
        """Break a line that must not be cut, at its marks, where the terminal is too narrow."""
        text = self.spell(text)
        return text if columns(text) <= self.width() else text.replace(mark, "\n    ")

    def show_call(self, call: Call, time: str, text: str, script: str) -> str:
        """Such as "12:00:30  503  KKT-001  buffer 6/200 (3.0%)  breaker CLOSED  script: 503"."""
        parts = {
            "clock": time[11:19],
            "word": f"{call.reply + format_delay(call.delay):<8}",
            "text": text,
            "repeats": f"repeats {call.repeats}" if call.repeats else "",
            "script": f"script: {script}" if script else "",
            "problem": call.problem or "",
        }
        return self.fit(parts, OUTCOMES[outcome(call)])

    def show_event(self, event: Event) -> str:
        """Such as "12:00:30  down      for 5.0 s"."""
        word, details = event["event"], ""
        if word == "unmatched":
            word, _, details = event["unmatched"].partition(" ")
        elif word == "script":
            details = (event["script"] or "ok*") + (" in a loop" if event["loop"] else "")
        elif word == "down":
            details = "until up" if event["seconds"] is None else f"for {event['seconds']} s"
        elif word == "left":
            details = f"call {event['number']}, after {event['after']:.3f} s"
        elif word in ("start", "request"):
            details = event["url" if word == "start" else word]
        return self.fit({"clock": event["time"][11:19], "word": f"{word:<8}", "text": details})


class Reporter:
    """Prints lines on standard output: to read, or with `as_json` of JSON, which is UTF-8.

    It writes in a thread of its own, and past the buffer of `sys.stdout`, so that a pipe that
    nobody reads holds up neither a reply nor the end of the process.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._lines: collections.deque[str] = collections.deque()
        self._waiting = threading.Semaphore(0)  # counts the lines; importing queue would take time
        self._writer = threading.Thread(target=self._write, name="mock_odoo reporter", daemon=True)
        stream = sys.stdout  # None where there is none, as for a service of Windows
        self.screen = Screen(stream)
        if stream is not None:
            try:
                descriptor = os.dup(stream.fileno())
                self._file: IO[Any] = open(descriptor, "wb", buffering=0)  # noqa: SIM115
                encoding = "utf-8" if as_json else stream.encoding
                self._encode: Callable[[str], object] = functools.partial(
                    str.encode, encoding=encoding, errors="backslashreplace"
                )
            except (OSError, ValueError):  # in IDLE and the like, there is no descriptor beneath
                self._file, self._encode = stream, str
            self._writer.start()

    def _write(self) -> None:
        while self._waiting.acquire():
            line = self._lines.popleft()
            if not line:
                break
            try:
                self._file.write(self._encode(line + os.linesep))
            except OSError:  # `| head` has ended, or the disk is full
                pass
        if self._file is not sys.stdout:
            self._file.close()

    def say(self, text: str, **fields: object) -> None:
        """Print the text, or the fields as JSON."""
        self.print(json_line(fields) if self.as_json else self.screen.fold(text, " - "))

    def print(self, line: str) -> None:
        if self._writer.is_alive() and len(self._lines) < MAX_LINES:  # else nobody reads
            self._lines.append(line)
            self._waiting.release()

    def close(self) -> None:
        """Write the rest; give up when nobody reads for 0.1 s."""
        self.print("")
        left = -1
        while self._writer.is_alive() and left != len(self._lines):
            left = len(self._lines)
            self._writer.join(0.1)


# -- The journal

PIPE_PATIENCE = 1.0  # seconds that the reader of a pipe has to make room for a line


class Journal:
    """A file with a line of JSON for each call and each event.

    Each line is written at once, past any buffer, so that it outlives the process. The file stays
    open, so that a line can be written when descriptors have run out. It may be a named pipe, whose
    reader must be there; where that reader is slow, lines are dropped. What goes wrong is told
    once, on standard error; the server goes on.
    """

    def __init__(self, path: str, program: str) -> None:
        self.path = path
        self._program = program
        self._has_complained = False
        self._is_slow = False  # the last line met a full pipe
        self._is_pipe = False
        try:
            self._is_pipe = is_pipe(path)
            self._is_torn = os.path.isfile(path) and not ends_well(path)  # by a kill, say
            self._file = open(path, "ab", buffering=0, opener=self._open)  # noqa: SIM115
        except OSError as error:
            nobody = self._is_pipe and error.errno == errno.ENXIO
            reason = "nobody reads this pipe" if nobody else error.strerror
            raise OSError(error.errno, f"cannot write the journal {path}: {reason}") from None

    def _open(self, path: str, flags: int) -> int:
        """Open the file; a pipe so that neither this nor a write waits for its reader."""
        return os.open(path, flags | (os.O_NONBLOCK if self._is_pipe else 0), 0o666)

    def add(self, line: str) -> None:
        data = (b"\n" if self._is_torn else b"") + line.encode() + b"\n"
        try:
            written = self._write(data)
        except OSError as error:
            self._complain(f"{error.strerror}")
            return
        if written < len(data):
            self._complain(
                "its reader is slow, and lines are lost"
                if self._is_pipe
                else "a line could not be written as a whole"
            )
        self._is_torn = written < len(data) and (written > 0 or self._is_torn)

    def _write(self, data: bytes) -> int:
        """Write what the file takes, and say how much that was."""
        written = self._file.write(data) or 0  # None for a full pipe
        if not self._is_pipe:
            return written
        deadline = time.monotonic() + (0.0 if self._is_slow else PIPE_PATIENCE)
        while written < len(data) and self._has_room(deadline - time.monotonic()):
            written += self._file.write(data[written:]) or 0
        self._is_slow = written < len(data)
        return written

    def _has_room(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        return seconds > 0 and bool(poll.poll(seconds * 1000))

    def _complain(self, what: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            print_error(f"{self._program}: journal {self.path}: {what}; the server goes on")

    def close(self) -> None:
        self._file.close()


def is_pipe(path: str) -> bool:
    import stat

    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def ends_well(path: str) -> bool:
    """Is a file empty, or is its last line whole?"""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in (b"", b"\n")


# -- Reading a journal: a file of any size in little memory, so nothing here keeps the calls

MAX_LINE = 1 << 24  # bytes of a line; a call's has less
MAX_SENDERS = 1000  # that are told apart
LATEST = 1000  # calls, whose clients may still leave
MAX_OUTAGES = 100  # that are listed, the newest
SAMPLE = 1000  # intervals that are kept of each sender

#: What a call's line may do without.
DEFAULTS: dict[str, Any] = {
    "delay": 0, "problem": None, "repeats": None, "client": ("?", 0), "query": "", "took": None,
    "left": None, "headers": {}, "payload": None,
}


class WrittenCall(Call):
    """A call as a journal has it, so that a server can describe it."""

    payload: Any = None
    headers: Any = None

    def __init__(self, record: dict[str, Any]) -> None:
        record = {**DEFAULTS, **record}
        for name in ("number", "received_at", "reply", "accepted", *DEFAULTS):
            setattr(self, name, record[name])
        self.number, self.reply, self.delay = int(self.number), str(self.reply), float(self.delay)
        self.problem = str(self.problem or "")
        host, port = self.client
        self.client = str(host), port
        body = record.get("body", json.dumps(self.payload))  # what is no JSON stands there as text
        self.body = body.encode("utf-8", "replace")
        written, self.headers = self.headers, http.client.HTTPMessage()
        for name in written:
            self.headers[name] = str(written[name])


def read_record(line: bytes) -> dict[str, Any]:
    """Read a line of a journal; a call is given an `event`, which is "", and `at`."""
    record = dict(json.loads(line))
    if "event" not in record:
        record.update(event="", at=record["received_at"])
    if not 0 <= record["at"] < 1 << 40:
        raise ValueError("no time")
    if not re.match("[0-9-]{10}T[0-9:]{8}", record.get("time", "")):
        record["time"] = iso_time(record["at"])
    return record


class Sender:
    """What a journal tells of one sender. The usual interval is the median of a random sample."""

    def __init__(self) -> None:
        import random

        self.tally = Tally()
        self._last: tuple[float, str] | None = None  # when it called last in this run
        self._silence, self._since = 0.0, ""
        self._intervals: list[float] = []
        self._seen = 0  # intervals
        self._random = random.Random(0)  # the same journal gives the same figures

    def add(self, call: Call, time: str) -> None:
        self.tally.add(call)
        interval = self.end_silence(call.received_at)
        if interval is not None:
            self._sample(interval)
        self._last = call.received_at, time

    def end_silence(self, at: float) -> float | None:
        """It calls again, or the fake ends: what follows that is no silence of the sender."""
        last, self._last = self._last, None
        if last is None or at < last[0]:  # somebody has set the clock back
            return None
        silence = at - last[0]
        if silence > self._silence:
            self._silence, self._since = silence, date_and_clock(last[1])
        return silence

    def _sample(self, interval: float) -> None:
        self._seen += 1
        place = self._random.randrange(self._seen)  # each has the same chance to stay
        if len(self._intervals) < SAMPLE:
            self._intervals.append(interval)
        elif place < SAMPLE:
            self._intervals[place] = interval

    def describe(self) -> str:
        counts = [some(self.tally.calls, "call")]
        counts += [f"{n} {what}" for what, n in self.tally.outcomes.items()]
        story = [", ".join([*counts, f"{some(self.tally.left, 'client')} left"])]
        if self._since:
            story.append(f"longest silence {seconds(self._silence)}, from {self._since}")
        if self._intervals:
            ordered, n = sorted(self._intervals), len(self._intervals)
            median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
            story.append(f"usually every {seconds(median)}")
        return "; ".join(story)


def date_and_clock(time: str) -> str:
    return time[:19].replace("T", " ")


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value:.3f} s"


class Account:
    """What a journal comes to: its senders, and its outages.

    Its memory has a limit: it counts, and keeps no calls. Senders past the first 1,000 are counted
    together, only the newest 100 outages are listed, and the usual interval of a sender comes from
    a random sample of 1,000.
    """

    def __init__(self) -> None:
        self._senders: dict[str, Sender] = {}
        self._latest: dict[int, tuple[int, Sender]] = {}  # the latest calls: who sent each
        self._outages: collections.deque[str] = collections.deque(maxlen=MAX_OUTAGES)
        self._down: tuple[float, str] | None = None  # since when
        self._script = Script()
        self._at = 0.0  # of the last line
        self._heard = 0.0  # of the last line that is no script, which may begin a run

    def add_call(self, name: str, call: Call, time: str) -> str:
        """Count a call, and return what it left of the script."""
        if name not in self._senders and len(self._senders) >= MAX_SENDERS:
            name = "all others"
        if name not in self._senders:
            self._senders[name] = Sender()
        sender = self._senders[name]
        sender.add(call, time)
        self._latest[call.number % LATEST] = call.number, sender
        self._at = self._heard = call.received_at
        self._script.next_reply()
        return str(self._script)

    def add_event(self, event: Event) -> None:
        word, at = event["event"], event["at"]
        if word == "start":  # the run before may have been killed
            is_scripted = self._at > self._heard
            self._end_run(self._heard, "at least ")
            self._script = self._script if is_scripted else Script()
        elif word == "script":
            self._script = read_or_empty(event)
        elif word == "reset":
            self._script = Script()
        elif word == "down":
            self._down = self._down or (at, event["time"])
        elif word == "up":
            self._end_outage(at)
        elif word == "stop":
            self._end_run(at)
        elif word == "left":
            number, sender = self._latest.get(event["number"] % LATEST, (0, Sender()))
            sender.tally.left += number == event["number"]
        self._at, self._heard = at, self._heard if word == "script" else at

    def _end_run(self, at: float, at_least: str = "") -> None:
        for sender in self._senders.values():
            sender.end_silence(at)
        self._end_outage(at, at_least)
        self._latest.clear()

    def _end_outage(self, at: float, at_least: str = "") -> None:
        if self._down is not None:
            since, time = self._down
            lasted = at_least + seconds(max(0.0, at - since))
            self._outages.append(f"outage for {lasted}, from {date_and_clock(time)}")
        self._down = None

    def close(self) -> list[str]:
        """The lines at the end: a sender each, then the outages."""
        self._end_run(self._at, "at least ")
        names = [shorten(name, 40) for name in self._senders]
        wide = max(map(columns, names), default=0)
        lines = [
            f"{name}{' ' * (wide - columns(name))}  {sender.describe()}"
            for name, sender in zip(names, self._senders.values())
        ]
        return [*lines, *self._outages]


def read_or_empty(event: Event) -> Script:
    try:
        return Script(event["script"], event["loop"])
    except ValueError:  # from another version
        return Script()


def open_journal(path: str) -> IO[bytes]:
    """Open a journal to read it, "-" for standard input."""
    if path == "-":
        if sys.stdin is None:
            raise ValueError("cannot read -: there is no standard input")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def journal_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines; of one that is too long for a call, only its beginning."""
    is_whole = True
    for piece in iter(functools.partial(file.readline, MAX_LINE), b""):
        if is_whole:
            yield piece
        is_whole = piece.endswith(b"\n")


def tell_journal(
    file: IO[bytes], account: Account, server: MockOdooServer, screen: Screen, program: str
) -> Iterator[str]:
    """What the terminal showed, a line each, and each day before its lines."""
    day = ""
    for number, line in enumerate(journal_lines(file), 1):
        try:
            record = read_record(line)
            shown = tell_record(record, account, server, screen)
        except Exception:  # noqa: BLE001 - whatever it holds
            if line.strip():
                print_error(f"{program}: line {number} is torn, or no call and no event")
            continue
        if record["time"][:10] != day:
            day = record["time"][:10]
            yield day
        yield shown


def tell_record(
    record: dict[str, Any], account: Account, server: MockOdooServer, screen: Screen
) -> str:
    if record["event"]:
        shown = screen.show_event(record)
        account.add_event(record)
        return shown
    call, sender = WrittenCall(record), record.get("sender")
    name = sender if isinstance(sender, str) else ask(server.sender, call)
    script = account.add_call(name, call, record["time"])
    return screen.show_call(call, record["time"], ask(server.describe_call, call), script)


def read_journal(path: str, server: MockOdooServer, program: str, is_quiet: bool) -> None:
    """Print what a journal tells. Ends quietly where its reader, such as `head`, has ended."""
    screen, account = Screen(sys.stdout), Account()
    try:
        with open_journal(path) as file:
            for line in tell_journal(file, account, server, screen, program):
                if not is_quiet:
                    print(line, flush=path == "-")
        if not is_quiet:
            print()
        for line in account.close():
            print(screen.fold(line, "; "))
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        # Python would try to write the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # Windows has EINVAL for a closed pipe
            raise


# -- The command line


def program_name(server_class: type[MockOdooServer]) -> str:
    """Such as "mock_odoo"."""
    return "mock_" + re.sub(r"\W+", "_", server_class.service.lower())


def make_parser(server_class: type[MockOdooServer]) -> argparse.ArgumentParser:
    import argparse

    program = program_name(server_class)

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            print_error(f"{program}: {own_words(message)}")
            raise SystemExit(2)

        def parse_args(self, *args: Any, **kwargs: Any) -> Any:
            known, unknown = self.parse_known_args(*args, **kwargs)
            if unknown:
                hint = guess_flag(unknown[0], re.findall("--[a-z-]+", self.format_usage()))
                self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
            return known

    is_odoo, noun = server_class is MockOdooServer, server_class.noun
    command = "python -m mock_odoo" if is_odoo else f"python {program}.py"
    parser = Parser(
        prog=command,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"A fake {server_class.service} that answers {noun}s as you tell it.",
        epilog=make_epilog(command, noun),
    )
    add_flags(parser, server_class)
    return parser


def add_flags(parser: argparse.ArgumentParser, server_class: type[MockOdooServer]) -> None:
    add, noun, port = parser.add_argument, server_class.noun, server_class.default_port
    near = "address to listen on (default: %(default)s, this machine only)"
    add("--host", default="127.0.0.1", help=near)
    add("--port", type=int, default=port, help="port; 0 takes a free one (default: %(default)s)")
    add("--script", default="", help=f"how to answer, see below; then {noun}s succeed")
    add("--loop", action="store_true", help="start the script again when it has run out")
    add("--strict", action="store_true", help=f"answer 422 to a {noun} that breaks the contract")
    story = "every call, and what was done to the fake"
    add("--journal", metavar="FILE", help=f"append {story}, to FILE as a line of JSON")
    told = "print what a journal tells, and what it all comes to"
    add("--read", metavar="FILE", help=f"{told}; then end; - is standard input")
    add("--json", action="store_true", help="print lines of JSON in place of text")
    add("--token", help="let clients elsewhere use the control API if they send it")
    add("--certfile", metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    add("--keyfile", metavar="FILE", help="its private key, if that is not in the same file")
    signed = "a certificate that one of these signed (PEM)"
    add("--cafile", metavar="FILE", help=f"demand of every client {signed}")
    kept = "calls to keep in memory (default: %(default)s); the journal keeps all"
    add("--max-calls", type=int, default=10000, metavar="N", help=kept)
    add("--quiet", action="store_true", help="only the first line; with --read, only the last ones")
    add("--version", action="version", version=f"mock_odoo {__version__}")


def guess_flag(word: str, flags: Sequence[str]) -> str:
    """What somebody may have meant who wrote a word that means nothing."""
    if word.startswith("-"):
        return did_you_mean(word.partition("=")[0], flags)
    if re.fullmatch("[0-9]{4,5}", word):
        return f" (did you mean --port {word}?)"
    try:
        Script(word)
    except ValueError:
        return ""
    return f' (did you mean --script "{word}"?)'


#: What the library calls otherwise than the command line.
OWN_WORDS = (
    (r"\bport=0\b", "--port 0"),
    (r"\bmax_calls\b", "--max-calls"),
    (r"(^|; )(host|port) must\b", r"\1--\2 must"),
    (r"call down\(\)", "use the page, or POST /_mock/down"),
    (r"call up\(\) to end it", "it ends when its time is up"),
)


def own_words(message: str) -> str:
    for library, ours in OWN_WORDS:
        message = re.sub(library, ours, message)
    return message


def make_epilog(command: str, noun: str) -> str:
    replies = "\n".join(
        f"    {word:<10}  {meaning.partition(' (')[0]}"
        for word, meaning in describe_replies().items()
    )
    return f"""\
examples:
  {command}
      accept every {noun}, and show it
  {command} --script "503*3, reset, ok@6s"
      three refusals, a TCP reset, a slow success, and then all is well
  {command} --script "ok*2, 503*3" --loop --journal calls.jsonl
      flap for ever, and write down what comes
  {command} --read calls.jsonl
      show what came, and what became of it

script:
  Each {noun} takes the next step. Steps are separated by commas. A step is a
  reply, which may have a delay and a count behind it:
    503*3  three times      stall*  for ever      ok@6s, 503@250ms*2  wait first
  The replies are
{replies}

While it runs, /_mock/ in a browser shows the {noun}s, and has buttons for
the commonest failures and a field for any script.
"""


def make_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the TLS context that the command line asks for; ValueError where it cannot be had."""
    if args.certfile is None:
        for name in ("keyfile", "cafile"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} goes with --certfile")
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, it would ask for one at the terminal.
        context.load_cert_chain(args.certfile, args.keyfile, password="")
    except OSError as error:
        files = " and ".join(filter(None, (args.certfile, args.keyfile)))
        raise ValueError(
            f"cannot use the certificate {files}: {error.strerror or error}; PEM is needed, "
            "with the key in the same file or in --keyfile"
        ) from None
    if args.cafile is not None:
        try:
            context.load_verify_locations(args.cafile)
        except OSError as error:
            raise ValueError(
                f"cannot use the certificates {args.cafile}: "
                f"{error.strerror or error}; PEM is needed"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


#: What ends a standalone fake. Windows alone has SIGBREAK: Ctrl+Break, or its console was closed.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
QUIET = 0.2  # seconds without a signal, after which a burst of them is over


class StopSignal:
    """From `with` on, these signals do nothing but end `wait()`.

    Outside the main thread, no signal ends it.

    It reads a socket. An Event would not do: under load another thread may take the signal, and on
    Windows Ctrl+C does not end its wait.
    """

    def __enter__(self) -> Self:
        import signal

        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(True)
        self._sender.setblocking(False)
        self._handlers: list[tuple[int, Any]] = []
        if threading.current_thread() is threading.main_thread():
            # Set this first, or a signal might get lost. In a full buffer, signals wait already.
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
            self._handlers = [
                (number, signal.signal(number, lambda *args: None)) for number in numbers
            ]
        return self

    def wait(self) -> None:
        numbers = [number for number, _ in self._handlers]
        while self._receiver.recv(1)[0] not in numbers:  # another signal, of whoever called us
            pass

    def drain(self) -> None:
        """Wait until none has come for 0.2 s: several keys pressed in a row are one wish to end."""
        numbers = [number for number, _ in self._handlers]
        self._receiver.settimeout(QUIET)
        deadline = time.monotonic() + QUIET
        try:
            while time.monotonic() < deadline:
                if self._receiver.recv(1)[0] in numbers:
                    deadline = time.monotonic() + QUIET
        except OSError:  # time is up
            pass

    def __exit__(self, *exc_info: object) -> None:
        import signal

        if self._handlers:
            for number, handler in self._handlers:
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
        self._receiver.close()
        self._sender.close()


class Output:
    """What listens to a standalone server: the journal and the reporter, where they are wanted."""

    def __init__(self, args: argparse.Namespace, program: str) -> None:
        self.reporter = Reporter(args.json)
        self.tally = Tally()
        self.is_quiet: bool = args.quiet
        self.journal: Journal | None = None
        self.server: MockOdooServer | None = None  # until it runs, events are only written down
        if args.journal is not None:
            try:
                self.journal = Journal(args.journal, program)
            except OSError:
                self.close()
                raise

    def on_call(self, call: Call) -> None:
        self.tally.add(call)
        server = self.server
        if server is None:  # no call comes before the start
            return
        as_json = self.reporter.as_json
        line = call.to_json(sender=ask(server.sender, call)) if self.journal or as_json else ""
        if self.journal is not None:
            self.journal.add(line)
        if self.is_quiet:
            return
        if not as_json:
            text, time = ask(server.describe_call, call), iso_time(call.received_at)
            line = self.reporter.screen.show_call(call, time, text, server.script)
        self.reporter.print(line)

    def on_event(self, event: Event) -> None:
        if event["event"] == "reset":  # the server begins to count anew
            self.tally = Tally()
        self.tally.left += event["event"] == "left"
        line = json_line(event)
        if self.journal is not None:
            self.journal.add(line)
        if self.server is None:  # it is being made
            return
        if event["event"] == "start":  # which comes before any call
            self.reporter.say(first_line(self.server), listening=self.server.url)
        elif event["event"] != "stop" and not self.is_quiet:  # the summary tells of that
            as_json = self.reporter.as_json
            self.reporter.print(line if as_json else self.reporter.screen.show_event(event))

    def say_summary(self, noun: str) -> None:
        accepted, refused, spoilt = self.tally.outcomes.values()
        fields = {"heartbeat_count": accepted, "call_count": self.tally.calls}
        fields.update(refused_count=refused, spoilt_count=spoilt, left_count=self.tally.left)
        self.reporter.say(self.tally.summary(noun), **fields)

    def close(self) -> None:
        self.reporter.close()
        if self.journal is not None:
            self.journal.close()


def main(argv: list[str] | None = None, server_class: type[MockOdooServer] = MockOdooServer) -> int:
    """Run a fake until SIGINT or SIGTERM, or read a journal, and return 0.

    `argv` is the command line, `sys.argv[1:]` unless given. `server_class` may be a subclass of
    yours, which then has the whole command line. Where it cannot run, one line and SystemExit(2).
    Signals that come within 0.2 s of each other are one, so none of them reaches your program.
    """
    with StopSignal() as stop_signal:
        parser = make_parser(server_class)
        args = parser.parse_args(argv)
        if args.read is None:
            run(args, parser, server_class, stop_signal)
            if __name__ == "__main__":  # else the process is not ours to end
                leave()
            stop_signal.drain()
    if args.read is not None:  # which any signal may end at once
        try:
            server = server_class(args.port, args.host)
            read_journal(args.read, server, program_name(server_class), args.quiet)
        except (OSError, ValueError) as error:
            parser.error(getattr(error, "strerror", None) or str(error))
    return 0


def run(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    server_class: type[MockOdooServer],
    stop_signal: StopSignal,
) -> None:
    """Run a fake until a signal comes, and say how it was."""
    output = None
    try:
        check_flags(args)
        output = Output(args, program_name(server_class))
        server = make_server(args, server_class, output)
        server.start()
    except (OSError, ValueError) as error:
        if output is not None:
            output.close()
        parser.error(getattr(error, "strerror", None) or str(error))
    try:
        stop_signal.wait()
    finally:
        try:
            server.stop()
        except RuntimeError as error:  # a function of a subclass hangs
            print_error(f"{program_name(server_class)}: {error}")
    if not args.quiet:
        output.say_summary(server.noun)
    output.close()


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together."""
    if args.loop and not args.script.strip():
        raise ValueError("--loop goes with --script")
    if args.journal == "-":
        raise ValueError("--journal takes a file; for lines of JSON on standard output, use --json")


def make_server(
    args: argparse.Namespace, server_class: type[MockOdooServer], output: Output
) -> MockOdooServer:
    is_heard = not args.quiet or output.journal is not None
    server = server_class(
        args.port,
        args.host,
        strict=args.strict,
        ssl_context=make_context(args),
        max_calls=args.max_calls,
        on_call=output.on_call if is_heard else None,
        on_event=output.on_event,
    )
    add_routes(server.routes, Control(server, args.token).routes)
    if args.script:
        server.play(args.script, args.loop)
    output.server = server
    return server


def first_line(server: MockOdooServer) -> str:
    is_near = server.host == "localhost" or re.fullmatch(LOOPBACK, server.host)
    network = "" if is_near else " - reachable from the network"
    return f"Mock {server.service} on {server.url} - POST {server.endpoint}{network} - Ctrl+C stops"


def leave() -> NoReturn:
    """End the process with success, at once, while signals still do nothing.

    A signal during Python's own end can crash it, or print a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            pass
    os._exit(0)


# ------------------------------------------------------------------------------------------
# Page: what a browser sees at /_mock/. It uses no outside resource, and what came from clients is
# only ever set as text.
# ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def page_policy() -> str:
    """A Content-Security-Policy that admits the page's own style and script, by their hashes."""
    import base64
    import hashlib

    def source(tag: str) -> str:
        text = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"{tag}-src 'sha256-{digest}'"

    return (
        f"default-src 'none'; {source('style')}; {source('script')}; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>mock_odoo</title>
<style>
:root {
  color-scheme: light dark; --line: #8884; --shade: #b3261e2e;
  --good: #176f2c; --poor: #8a5a00; --bad: #b3261e; --level: #2b62b8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --shade: #ff8a8038; --good: #6fd08c; --poor: #f0b849; --bad: #ff8a80; --level: #8ab4f8;
  }
}
.up, .accepted { --kind: var(--good); }
.scripted, .down, .refused { --kind: var(--poor); }
.gone, .faulted { --kind: var(--bad); }
.level { --kind: var(--level); }
body {
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
  max-width: 56rem; margin: 0 auto; padding: 1rem;
}
h1 { font-size: 1rem; font-weight: normal; margin: 0; opacity: .75; }
h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.row h2 { flex: 1; margin: 0; }
button, input[type=text] {
  font: inherit; color: inherit; background: #8882; min-height: 2.5rem; padding: 0 .8rem;
  border: 1px solid var(--line); border-radius: .4rem;
}
input[type=text] { flex: 1 1 10rem; min-width: 0; font-family: monospace; }
p { font-size: 1.2rem; font-weight: bold; margin: 0; }
p span { color: var(--kind); }
#left, .label { white-space: nowrap; }
#error { color: var(--bad); min-height: 1.5rem; }
small { opacity: .75; }
figure { margin: 1rem 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; }
figcaption i { font-style: normal; color: var(--kind); }
.outage { background: var(--shade); padding: 0 .3rem; }
svg { display: block; width: 100%; height: 146px; font-size: 11px; }
svg text { fill: currentColor; opacity: .75; text-anchor: middle; }
svg line { stroke: var(--line); }
svg rect { fill: var(--shade); }
svg path { fill: var(--kind); }
svg .level { stroke: var(--kind); stroke-width: 1.5; fill-opacity: .2; }
ol { list-style: none; margin: .5rem 0; padding: 0; font-variant-numeric: tabular-nums; }
li {
  display: flex; flex-wrap: wrap; gap: 0 .7rem;
  padding: .3rem 0; border-top: 1px solid var(--line);
}
.label { min-width: max(7rem, 15%); font-weight: bold; color: var(--kind); }
.number { min-width: 2.4rem; opacity: .75; }
.problem { flex-basis: 100%; color: var(--kind); }
</style>
</head>
<body>
<h1>mock_odoo</h1>
<p><span id="state" role="status">Connecting</span><span id="left" role="timer"></span></p>
<small id="counts"></small>
<div><small id="unmatched"></small></div>

<figure id="timeline">
<svg id="strip" role="img"></svg>
<figcaption>
<span class="accepted"><i>&#9679;</i> accepted</span>
<span class="refused"><i>&#9650;</i> refused</span>
<span class="faulted"><i>&#10006;</i> faulted</span>
<span class="outage">outage</span>
<span class="level"><i>&#9473;</i> buffer, 0 to 100%</span>
</figcaption>
</figure>

<h2>Odoo is</h2>
<div class="row">
<button data-script="">all well</button>
<button data-script="503*3">failing 3 times</button>
<button data-script="503*">failing for ever</button>
<button data-script="ok*2, 503*3" data-loop>flapping</button>
<button data-script="ok@6s*">slow</button>
<button data-script="stall*">stalling</button>
<button data-script="reset*">resetting</button>
<button data-script="expired*">session expired</button>
<button id="down" data-seconds="10">out for 10 s</button>
</div>

<h2><label for="script">Script</label></h2>
<form class="row" id="play">
<input type="text" id="script" placeholder="503*2, ok@6s" autocomplete="off"
 autocapitalize="off" spellcheck="false" aria-describedby="error">
<label><input type="checkbox" id="loop"> loop</label>
<button>Play</button>
</form>
<div id="error" role="alert"></div>

<div class="row"><h2>Heartbeats, the newest first</h2>
<button id="forget">Forget everything</button></div>
<ol id="calls"></ol>

<script>
"use strict";
const NO_ANSWER = "No answer: an outage, or the fake was stopped";
const KEPT = 100;  // calls
let calls = [];  // the newest, oldest first
let events = [];
let service = "Odoo";
let lost = false;  // is the fake out of reach?
let outageEnd = 0;  // of the outage that was asked for on this page, in milliseconds

const at = id => document.getElementById(id);
const newest = () => calls[calls.length - 1] || {number: 0};

// A call in words

const MARKS = {accepted: "\u25cf", refused: "\u25b2", faulted: "\u2716"};
const many = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const clock = seconds => new Date(Math.round(seconds * 1000)).toTimeString().slice(0, 8);

function kindOf(call) {
  return call.accepted ? "accepted" : /^[0-9]+$/.test(call.reply) ? "refused" : "faulted";
}

function label(call) {  // as a script has it: ok@250ms
  if (!call.delay) return call.reply;
  const whole = Number.isInteger(call.delay), number = whole ? call.delay : call.delay * 1000;
  return `${call.reply}@${number.toFixed(6).replace(/[.]?0+$/, "")}${whole ? "s" : "ms"}`;
}

function text(value) {
  const words = typeof value === "string" ? value : JSON.stringify(value);
  return words === undefined ? "?" : words.slice(0, 60);
}

function row(call) {
  const kind = kindOf(call), beat = call.payload || {};
  const buffer = beat.buffer_status || {}, breaker = beat.circuit_breaker || {};
  const queued = `${text(buffer.current_queued)}/${text(buffer.total_capacity)}`;
  const parts = [
    ["label", `${MARKS[kind]} ${label(call)}`],
    ["time", clock(call.received_at)],
    ["number", `#${call.number}`],
    ["adapter", text(beat.adapter_id)],
    ["buffer", `buffer ${queued} (${text(buffer.percent_full)}%)`],
    ["breaker", `breaker ${text(breaker.state)}`],
    ["repeats", call.repeats && `repeats #${call.repeats}`],
    ["problem", call.problem],
  ];
  const item = document.createElement("li");
  item.className = item.title = kind;
  for (const [name, words] of parts) if (words) {
    const part = item.appendChild(document.createElement("span"));
    part.className = name;
    part.textContent = words;
  }
  return item;
}

// The strip: calls that come close together pile up; the buffer's fill has its own band below

const SHAPES = {  // one pixel wide, around 0, 0
  accepted: "M-.42 0a.42.42 0 1 0 .84 0a.42.42 0 1 0-.84 0",
  refused: "M0-.5L.55.45H-.55Z",
  faulted: "M-.5-.3L-.3-.5 0-.2 .3-.5 .5-.3 .2 0 .5.3 .3.5 0 .2-.3.5-.5.3-.2 0Z",
};
const STEPS = [.1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600];
const MARGIN = 8, CALLS = 84, BUFFER = 124, BUFFER_HEIGHT = 32, WORDS = 140;  // pixels

function draw() {
  const now = Date.now() / 1000, width = at("timeline").clientWidth;
  at("strip").replaceChildren();
  at("strip").setAttribute("aria-label", "No heartbeat yet");
  if (!calls.length) return put("text", {x: width / 2, y: CALLS}, "No heartbeat yet");
  const times = calls.map(call => call.received_at), first = Math.min(...times);
  const spans = outages(now).filter(([from, to]) => to > first);
  const latest = Math.max(...times, ...spans.flat()), gap = usualGap(times);
  const silence = Math.max(10, 5 * gap);  // no more of it, or the calls would lose their room
  const last = Math.max(first + 2, latest, Math.min(now, latest + silence));
  const x = time => MARGIN + (time - first) / (last - first) * (width - 2 * MARGIN);
  at("strip").setAttribute("aria-label", describe(Math.max(...times) - first, spans.length));
  for (const [from, to] of spans) {
    const left = x(Math.max(from, first));
    put("rect", {x: left, width: Math.max(3, x(to) - left), y: 0, height: BUFFER});
  }
  drawTicks(first, last, width, x);
  drawBuffer(x, x(last));
  const beside = x(first + gap) - x(first);  // so wide, a beat has the next one at its side
  drawCalls(x, Math.max(3.5, Math.min(10, beside > 3 ? beside : width / calls.length)));
}

function usualGap(times) {  // the median
  const gaps = times.slice(1).map((time, index) => time - times[index]).sort((a, b) => a - b);
  return gaps[gaps.length >> 1] || 0;
}

function put(tag, attributes, words = "", parent = at("strip")) {
  const element = document.createElementNS(at("strip").namespaceURI, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  element.textContent = words;
  return parent.appendChild(element);
}

function outages(now) {
  const spans = [];
  let since = null;
  for (const event of events) {
    if (since === null && /^(down|stop)$/.test(event.event)) since = event.at;
    if (since !== null && /^(up|start)$/.test(event.event)) {
      spans.push([since, event.at]);
      since = null;
    }
  }
  return since === null ? spans : [...spans, [since, now]];
}

function describe(seconds, outageCount) {
  const [unit, size] = seconds < 120 ? ["second", 1] : ["minute", 60];
  const count = kind => `${calls.filter(call => kindOf(call) === kind).length} ${kind}`;
  return `${many(calls.length, "call")} within ${many(Math.ceil(seconds / size) || 1, unit)}: `
    + `${Object.keys(MARKS).map(count).join(", ")}; ${many(outageCount, "outage")}`;
}

function drawTicks(first, last, width, x) {
  const step = STEPS.find(step => (last - first) / step < width / 70) || (last - first) / 4;
  for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
    const tenth = "." + Math.floor(Math.round(time * 1000) % 1000 / 100);
    const words = clock(time).slice(0, step < 60 ? 8 : 5) + (step < 1 ? tenth : "");
    put("line", {x1: x(time), x2: x(time), y1: 0, y2: BUFFER + 4});
    const room = Math.min(x(time), width - x(time));
    if (room > 3 * words.length) put("text", {x: x(time), y: WORDS}, words);
  }
  for (const y of [CALLS, BUFFER]) put("line", {x1: 0, x2: width, y1: y, y2: y});
}

function drawBuffer(x, right) {
  let top = "", left;
  for (const call of calls) {
    const percent = ((call.payload || {}).buffer_status || {}).percent_full;
    if (typeof percent !== "number") continue;
    const y = BUFFER - Math.max(0, Math.min(100, percent)) / 100 * BUFFER_HEIGHT;
    if (!top) left = x(call.received_at);
    top += `H${x(call.received_at)}V${y}`;
  }
  if (top) put("path", {class: "level", d: `M${left} ${BUFFER}${top}H${right}V${BUFFER}`});
}

function drawCalls(x, size) {
  const ends = [];  // for each level, where it is free again
  const levels = calls.map(call => {
    const left = x(call.received_at), free = ends.findIndex(end => end <= left);
    const level = free < 0 ? ends.length : free;
    ends[level] = left + .7 * size;
    return level;
  });
  const rise = Math.min(size, (CALLS - 12) / ends.length);
  calls.forEach((call, index) => {
    const kind = kindOf(call), y = CALLS - 6 - levels[index] * rise;
    const transform = `translate(${x(call.received_at)} ${y}) scale(${size})`;
    const mark = put("path", {class: kind, d: SHAPES[kind], transform});
    put("title", {}, `#${call.number} ${label(call)} ${clock(call.received_at)}`, mark);
  });
}

// Asking the fake

async function ask(method, path, body) {
  const headers = {"Content-Type": "application/json"};
  const request = {method, headers, body: body && JSON.stringify(body)};
  const response = await fetch("/_mock/" + path, request)
    .catch(() => { throw new Error(NO_ANSWER); });
  const data = await response.json();
  if (!response.ok && response.status !== 408) throw new Error(data.error);
  return data;
}

function tell(kind, words, left = "") {
  at("state").className = at("left").className = kind;
  at("left").textContent = left;  // apart, or a screen reader would count along
  if (at("state").textContent !== words) at("state").textContent = words;
}

function tellLoss() {
  const left = Math.ceil((outageEnd - Date.now()) / 1000);
  if (left < -2) tell("gone", NO_ANSWER);
  else tell("down", `${service} is down`, ` for another ${Math.max(1, left)} s`);
  draw();
}

async function show(state) {
  service = state.service;
  document.title = `${service} (fake)`;
  if (!state.script) tell("up", `${service} is up`);
  else tell("scripted", `${service} plays ${state.script}${state.loop ? " in a loop" : ""}`);
  at("counts").textContent =
    `${state.heartbeat_count} of ${state.call_count} heartbeats accepted at ${state.heartbeat_url}`;
  at("unmatched").textContent =
    state.unmatched.length ? `Missed the endpoint: ${state.unmatched.slice(-3).join(", ")}` : "";
  await update(state.call_count);
  draw();
}

async function update(callCount) {
  const callsAfter = async n => (await ask("GET", `calls?since=${Math.max(0, n)}`)).calls;
  const {number, received_at} = newest();
  let more = await callsAfter(number ? number - 1 : callCount - KEPT);
  const isNewest = call => call && call.number === number && call.received_at === received_at;
  if (number && !isNewest(more[0])) {  // what is shown was forgotten
    calls = [];
    at("calls").replaceChildren();
    more = await callsAfter(callCount - KEPT);
  }
  ({events} = await ask("GET", "events"));
  for (const call of more) if (call.number > newest().number) {
    calls.push(call);
    at("calls").prepend(row(call));
  }
  calls = calls.slice(-KEPT);
  while (at("calls").children.length > KEPT) at("calls").lastChild.remove();
}

async function watch() {
  for (let path = "state"; ; ) {
    try {
      const state = await ask("GET", path);
      await show(state);
      if (lost) {
        lost = false;
        outageEnd = 0;
        at("error").textContent = "";
      }
      const {number} = newest();
      path = number > state.call_count ? "state" : `wait?calls=${number + 1}&timeout=5`;
    } catch (error) {
      path = "state";
      lost = true;
      tellLoss();
      await new Promise(resolve => setTimeout(resolve, 500));
    }
  }
}

async function change(method, path, body, then = show) {
  at("error").textContent = "";
  try {
    await then(await ask(method, path, body));
  } catch (error) {
    at("error").textContent = error.message;
  }
}

at("down").onclick = () => {
  const seconds = Number(at("down").dataset.seconds);
  if (!lost) {  // noted before it begins, since the poll may be cut before this is answered
    outageEnd = Date.now() + seconds * 1000;
    events.push({event: "down", at: Date.now() / 1000});
  }
  change("POST", "down", {seconds}, tellLoss);
};

for (const button of document.querySelectorAll("[data-script]")) {
  const {script, loop} = button.dataset;
  button.onclick = () => change("PUT", "script", {script, loop: loop !== undefined});
}
at("forget").onclick = () => change("POST", "reset", {});
at("play").onsubmit = event => {
  event.preventDefault();
  change("PUT", "script", {script: at("script").value, loop: at("loop").checked});
};
window.onresize = draw;
setInterval(() => lost && tellLoss(), 1000);  // Windows takes 2 s to say that it is refused
watch();
</script>
</body>
</html>
"""


if __name__ == "__main__":
    import signal

    # main() takes these signals. Until then, nothing needs a clean end.
    for _name in STOP_SIGNALS:
        if hasattr(signal, _name):
            signal.signal(getattr(signal, _name), lambda *args: os._exit(0))
    raise SystemExit(main())
