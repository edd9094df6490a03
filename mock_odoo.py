"""A fake Odoo for testing the heartbeat of a cash register's KKT adapter.

    from mock_odoo import MockOdooServer

    with MockOdooServer(port=0) as odoo:                # a free port, a background thread
        odoo.play("503*3, reset, ok@2s")                # three refusals, a TCP reset, a slow success
        run_my_adapter(odoo.heartbeat_url)
        assert odoo.wait_for_heartbeats(1)[0]["adapter_id"] == "KKT-001"

The one rule: each heartbeat takes the next step of the script, and when the script has run out,
heartbeats succeed again. Every failure mode but an outage, which is `down()`, is a script;
`MockOdooServer.play` tells how to write one.

This file needs nothing but Python 3.7 or later. Copy it beside your tests, or run it on its own:
`python -m mock_odoo --help`. It imitates what a heartbeat client can observe of Odoo, not Odoo:
there is no database, no session and no JSON-RPC behind it. Keep it off the open network.
"""

from __future__ import annotations

import collections
import copy
import datetime
import email.utils
import _thread
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
    import io
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Any, NoReturn, Self, TypeAlias

    Script: TypeAlias = "str | Reply | dict[str, Any] | Sequence[Script]"
    Answer: TypeAlias = "Callable[[Request], Reply | tuple[Reply, Alarm]]"
    Routes: TypeAlias = "dict[str, dict[str, Answer]]"  # by path, then by method

__all__ = ["Call", "MockOdooServer", "Reply", "main"]

MAX_SECONDS = 86400  # the longest delay, outage or wait that can be asked for; `stall` and `down()` have no limit
MAX_TIMES = 10**18 - 1
FOREVER = float("inf")
HTML = "text/html; charset=utf-8"


def check_whole(name: str, value: int, low: int, high: float = FOREVER) -> int:
    """Return `value`; raise TypeError or ValueError unless it is a whole number in range."""
    allowed = f"a whole number, {low} or more" if high == FOREVER else f"a whole number from {low} to {high}"
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


def printable(text: str) -> str:
    """Take from a client's text the control characters, which could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def log_bug(message: str) -> None:
    """Log the exception that is being handled; the fake logs nothing else."""
    import logging  # 4 ms that hardly any run needs

    logging.getLogger("mock_odoo").exception(message)


def tell(name: str, listener: Callable[[Any], object], news: object) -> None:
    """Call a user's function; what it raises is logged and disturbs nobody."""
    try:
        listener(news)
    except BaseException:  # noqa: BLE001 - pytest.fail() is no Exception
        log_bug(f"{name} failed")


READABLE = getattr(select, "POLLIN", 1)
HUNG_UP = getattr(select, "POLLRDHUP", READABLE)  # Linux alone has it; elsewhere, data cannot be told from a hang-up


class Alarm:
    """Ends the waits of other threads: those of now, and all that begin later.

    Such a wait is for a socket too, so an alarm is a pair of sockets (the self-pipe trick; Windows
    can select nothing else). They exist while somebody holds the alarm: `with alarm: alarm.wait()`.
    """

    def __init__(self) -> None:
        self._has_rung = False
        self._holders = 0
        self._pair: tuple[socket.socket, ...] = ()
        self._lock = threading.RLock()  # a signal handler may call stop() within

    def __enter__(self) -> None:
        with self._lock:
            self._holders += 1
            try:
                self._pair = self._pair or socket.socketpair()
            except BaseException:
                self._holders -= 1
                raise

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                pair, self._pair = self._pair, ()
                for each in pair:
                    each.close()

    def ring(self) -> None:
        """Ring, without a lock, since this may happen in a signal handler."""
        self._has_rung = True
        for sender in self._pair[1:]:
            try:
                sender.send(b"!")  # never read, so that everybody sees it
            except OSError:  # the last holder has just left
                pass

    def wait(self, seconds: float | None = None, other: socket.socket | None = None,
             event: int = READABLE) -> bool:
        """Wait until the alarm rings or the event happens to the socket; False when the time is up."""
        if self._has_rung:  # it may have rung before there was a pair
            return True
        sockets = [self._pair[0]] if other is None else [self._pair[0], other]
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select(sockets, [], [], seconds)[0])
        poll = select.poll()
        for each, events in zip(sockets, (READABLE, event)):
            poll.register(each, events)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


# ------------------------------------------------------------------------------------------
# JSON
# ------------------------------------------------------------------------------------------

MAX_DEPTH = 200  # levels, which every Python can read, and write again
MAX_DIGITS = 4300  # of a whole number; int() takes no more from 3.11 on, and seconds for many before


def encode(body: object) -> bytes:
    """Make a body: bytes as they are, text as UTF-8, everything else as JSON."""
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body, allow_nan=False)).encode()


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def parse_float(text: str) -> float:
    value = float(text)
    if abs(value) == FOREVER:  # nobody could write that as JSON again
        raise ValueError(f"{text:.40} is too large a number")
    return value


def parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=parse_float, parse_int=parse_int)


def parse_json(body: bytes) -> Any:
    """Read JSON as RFC 8259 means it: UTF-8, no NaN, no Infinity. ValueError says what is wrong."""
    if not body.strip():
        raise ValueError("the body is empty")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8: {error}") from None
    if text.startswith("\ufeff"):
        raise ValueError("the body begins with a byte order mark, which JSON must not (RFC 8259, section 8.1)")
    if text.count("[") + text.count("{") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise ValueError(f"the body is nested deeper than {MAX_DEPTH} levels")
    try:
        return DECODER.decode(text)
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None


def depth(text: str) -> int:
    """How deep JSON is nested, without the recursion that is in doubt."""
    level = deepest = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"?|[\[{]|([\]}])', text):
        if match.group(1):
            level -= 1
        elif match.group() in ("[", "{"):
            level += 1
            deepest = max(deepest, level)
    return deepest


# ------------------------------------------------------------------------------------------
# Replies: what a heartbeat can be answered, and the script that puts the answers in order
# ------------------------------------------------------------------------------------------

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2

#: The ways to spoil a reply. A new one is a name here and a method `send_...` of the Handler.
FAULTS = ("reset", "close", "truncate", "garbage", "stall", "drip")


class Reply:
    """One answer to a heartbeat, for `MockOdooServer.play`.

    `status`   200 to 599
    `body`     text, bytes, or anything that JSON can express; None for what the service itself says:
               the success reply for 2xx, `{"error": ...}` for 4xx and 5xx, nothing for 3xx
    `headers`  beside the usual ones, or in place of them
    `delay`    seconds before the first byte
    `fault`    one of "reset", "close", "truncate", "garbage", "stall", "drip"

        Reply(429, {"error": "slow down"}, headers={"Retry-After": "5"})

    A 2xx reply that is sent whole accepts the heartbeat (RFC 9110, section 15.3), unless its body was
    given as text or bytes; every other one refuses it. Raises TypeError or ValueError for what cannot
    be sent.
    """

    problem: str | None = None  # what was wrong with the request, if that is the reason

    def __init__(self, status: int = 200, body: object = None, headers: Mapping[str, str] | None = None,
                 *, delay: float = 0.0, fault: str | None = None) -> None:
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
        self.accepts = status < 300 and fault in (None, "drip") and self.is_json
        self.word = fault or ("ok" if status == 200 and self.is_json else str(status))  # in a script, or the nearest to it

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
    if name.lower() == "transfer-encoding":  # it would stand beside a Content-Length (RFC 9112, section 6.2)
        raise ValueError("Transfer-Encoding cannot be set: a reply has a Content-Length")
    if not re.fullmatch("[\t\x20-\x7e\x80-\xff]*", value):  # RFC 9110, section 5.5
        raise ValueError(f"header {name} must be one line of Latin-1 text, not {value!r:.80}")


#: The words of a script, beside the statuses.
NAMED = {
    "ok": Reply(),
    **{fault: Reply(fault=fault) for fault in FAULTS},
    "html": Reply(200, "<!DOCTYPE html>\n<title>Welcome</title>\n<p>Please accept our terms of use.\n", {"Content-Type": HTML}),
    "login": Reply(303, b"", {"Location": "/web/login"}),
}


class Step:
    """A reply, and how many times it is still to be given."""

    def __init__(self, reply: Reply, times: float = 1) -> None:
        self.reply = reply
        self.times = times

    def __str__(self) -> str:
        return str(self.reply) + ("" if self.times == 1 else "*" if self.times == FOREVER else f"*{self.times}")


def format_delay(seconds: float) -> str:
    """Write a delay as a script has it: "@2s", "@250ms", "" for none."""
    if not seconds:
        return ""
    number, unit = (seconds, "s") if seconds.is_integer() else (seconds * 1000, "ms")
    return f"@{number:.6f}".rstrip("0").rstrip(".") + unit


def parse_script(script: Script) -> list[Step]:
    """Read a script; TypeError or ValueError says what is wrong with it."""
    if isinstance(script, Reply):
        return [Step(script)]
    if isinstance(script, dict):
        return [Step(Reply(**script))]
    if isinstance(script, str):
        return [parse_step(text.strip()) for text in script.split(",")] if script.strip() else []
    if not isinstance(script, (list, tuple)):
        raise TypeError(f"a script must be text, a Reply, the fields of one, or a list of these, not {script!r:.80}")
    return [step for part in script for step in parse_script(part)]


def parse_step(text: str) -> Step:
    """Read one step: reply ["@" delay] ["*" [n]]."""
    rest, star, count = (part.strip() for part in text.partition("*"))
    word, at, delay = (part.strip() for part in rest.partition("@"))
    if word in NAMED:
        reply = copy.copy(NAMED[word])
        reply.word = word
    elif re.fullmatch("[2-5][0-9][0-9]", word):
        reply = Reply(int(word))
    else:
        raise ValueError(f"step {text!r:.80}: {word!r:.80} is no reply; expected one of {', '.join(NAMED)} or a status from 200 to "
                         "599, then maybe a delay (@2s, @250ms) and a count (*3, or * for ever)")
    if at:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(m?s)", delay)
        if match:
            reply.delay = float(match.group(1)) / (1000 if match.group(2) == "ms" else 1)
        if not match or reply.delay > MAX_SECONDS:
            raise ValueError(f"step {text!r:.80}: {delay!r:.80} is no delay; it is written like @2s or @250ms, up to @{MAX_SECONDS}s")
    if count and not re.fullmatch(f"[0-9]{{1,{len(str(MAX_TIMES))}}}", count):
        raise ValueError(f"step {text!r:.80}: {count!r:.80} is no count; it is written like *3, or * for ever, behind any delay")
    return Step(reply, int(count) if count else FOREVER if star else 1)


# ------------------------------------------------------------------------------------------
# Memory: the script that is playing, the calls that came, and those who wait for them
# ------------------------------------------------------------------------------------------


class Call:
    """One POST to the heartbeat path, as it came and as it was answered.

    `number`       1 for the first call since the last reset
    `received_at`  seconds since the epoch, a float
    `reply`        the script's word for it ("ok", "503", "reset"), or the status as text where the
                   request itself was refused ("400")
    `delay`        seconds that the reply was to wait
    `problem`      what was wrong with the request, where that is why it was refused; else None
    `accepted`     True where the reply is a full success, whether or not the client stays to hear it
    `client`       (host, port)
    `body`         the bytes that came; b"" where the request was refused unread
    """

    __slots__ = ("_arrived", "_head", "accepted", "body", "client", "delay", "number", "problem", "received_at",
                 "reply")

    def __init__(self, number: int, reply: Reply, client: tuple[str, int], head: bytes, body: bytes) -> None:
        self.number = number
        self.received_at = time.time()
        self._arrived = time.perf_counter()  # for intervals, which must not suffer when the wall clock is set
        self.reply = reply.word
        self.delay = reply.delay
        self.problem = reply.problem
        self.accepted = reply.accepts
        self.client = client
        self.body = body
        self._head = head

    @property
    def payload(self) -> Any:
        """The body as JSON, parsed afresh for every reader; None where it is not JSON."""
        try:
            return parse_json(self.body)
        except ValueError:
            return None

    @property
    def headers(self) -> http.client.HTTPMessage:
        """The headers as they came: a mapping that ignores case, whose `get_all` gives repeated ones."""
        message = http.client.HTTPMessage()  # by hand, since the e-mail parser trips over a strange Content-Type
        for line in self._head.decode("latin-1").split("\n")[1:-2]:
            name, _, value = line.partition(":")
            message[name] = value.strip(" \t\r")
        return message

    def __repr__(self) -> str:
        return f"<Call {self.number}: {self.reply} {self.body!r:.200}>"


MAX_UNMATCHED = 20  # requests that were no calls and are remembered


class Scenario:
    """The script and the memory under one lock, so that call N got reply N.

    `on_call` and `on_unmatched` are called outside the lock, so that they may use the server.
    """

    def __init__(self, max_calls: int | None, on_call: Callable[[Call], object] | None,
                 on_unmatched: Callable[[str], object] | None) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._released = Alarm()  # rings for the replies that wait now, and is replaced then
        self._set()
        self._calls: collections.deque[Call] = collections.deque(maxlen=max_calls)
        self._counts = {"calls": 0, "heartbeats": 0}  # since the last reset, also those that max_calls dropped
        self._unmatched: collections.deque[str] = collections.deque(maxlen=MAX_UNMATCHED)
        self._on_call = on_call
        self._on_unmatched = on_unmatched
        self._reporting = threading.Lock()
        self._unreported: collections.deque[tuple[Call, threading.Thread]] = collections.deque()
        #: The thread that is in on_call, and the one whose call that is.
        self.reporting: tuple[threading.Thread, threading.Thread] | None = None

    def play(self, steps: list[Step], loop: bool) -> None:
        with self._lock:
            self._set(steps, loop)

    def _set(self, steps: Sequence[Step] = (), loop: bool = False) -> None:
        self._steps = collections.deque(step for step in steps if step.times)
        self._loop = loop

    def end(self, script: str) -> None:
        """End the script that is playing if that is what is left of it."""
        with self._lock:
            if self._text() == script:
                self._set()

    def script(self) -> tuple[str, bool]:
        """What is left of the script, and whether it loops."""
        with self._lock:
            return self._text(), self._loop

    def _text(self) -> str:
        return ", ".join(map(str, self._steps))

    def _next(self) -> Reply:
        if not self._steps:
            return NAMED["ok"]
        step = self._steps[0]
        step.times -= 1
        if not step.times:
            self._steps.popleft()
        if self._loop and step.times != FOREVER:  # a loop puts back at the end what it takes from the front
            if self._steps and self._steps[-1].reply is step.reply:
                self._steps[-1].times += 1
            else:
                self._steps.append(Step(step.reply))
        return step.reply

    def take(self, client: tuple[str, int], head: bytes, body: bytes, refusal: Reply | None) -> tuple[Reply, Alarm]:
        """Record a call, with its reply: the next of the script, or in place of a success the `refusal`, if there is one.

        Returns the reply, and the alarm that ends its delay.
        """
        with self._lock:
            reply = self._next()
            if reply.accepts and refusal is not None:
                reply = refusal
            self._counts["calls"] += 1
            self._counts["heartbeats"] += reply.accepts
            call = Call(self._counts["calls"], reply, client, head, body)
            self._calls.append(call)
            if self._on_call is not None:
                self._unreported.append((call, threading.current_thread()))
            released = self._released
            self._changed.notify_all()
        if self._on_call is not None:
            self._report(self._on_call)
        return reply, released

    def _report(self, on_call: Callable[[Call], object]) -> None:
        with self._reporting:  # who comes first reports for the others, who wait here: order, before any reply
            while self._unreported:
                call, thread = self._unreported.popleft()
                self.reporting = threading.current_thread(), thread
                tell("on_call", on_call, call)
            self.reporting = None

    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def add_unmatched(self, what: str) -> None:
        with self._lock:
            self._unmatched.append(what)
        if self._on_unmatched is not None:
            tell("on_unmatched", self._on_unmatched, what)

    def unmatched(self) -> list[str]:
        with self._lock:
            return list(self._unmatched)

    def count(self, what: str) -> int:
        with self._lock:
            return self._counts[what]

    def reset(self) -> None:
        with self._lock:
            self._set()
            self._calls.clear()
            self._unmatched.clear()
            self._counts = dict.fromkeys(self._counts, 0)
            self._release()

    def release(self) -> None:
        """Let go the replies that are delayed, and make waiters check again whether to give up."""
        with self._lock:
            self._release()
            self._changed.notify_all()

    def released(self) -> Alarm:
        with self._lock:
            return self._released

    def _release(self) -> None:
        self._released.ring()
        self._released = Alarm()

    def wait(self, what: str, n: int, timeout: float, given_up: Callable[[], bool]) -> None:
        """Block until there are `n` calls or heartbeats; TimeoutError tells what there was instead."""
        check_whole("n", n, 0)
        timeout = check_seconds("timeout", timeout)
        with self._lock:
            self._changed.wait_for(lambda: self._counts[what] >= n or given_up(), timeout)
            count, calls, unmatched = self._counts[what], list(self._calls), list(self._unmatched)
        if count < n:
            cause = "the server was stopped; " if given_up() else ""
            timeline = ", ".join(["..."] * (len(calls) > 20) + [call.reply for call in calls[-20:]])
            story = [f"{cause}{count} of {n} {what} in {timeout} s", f"calls: {timeline}" if calls else "no calls"]
            story += [f"last problem: {call.problem}" for call in calls if call.problem][-1:]
            story += [f"unmatched: {unmatched[-3:]}"] if unmatched else []
            raise TimeoutError("; ".join(story))


# ------------------------------------------------------------------------------------------
# Contract: what the specification says of a heartbeat, for strict=True
# ------------------------------------------------------------------------------------------


def is_time(value: object) -> bool:
    """Is it ISO 8601 with a zone? Before Python 3.11, fromisoformat() knows neither Z nor all fractions."""
    match = isinstance(value, str) and re.fullmatch(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})([.,][0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])", value)
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


CONTRACT = (
    ("timestamp", is_time, "an ISO 8601 time with a zone, like 2025-10-09T12:00:00Z"),
    ("adapter_id", lambda value: isinstance(value, str) and value != "", "a non-empty string"),
    ("buffer_status", is_object, "an object"),
    ("buffer_status.total_capacity", is_count, "a whole number, 0 or more"),
    ("buffer_status.current_queued", is_count, "a whole number, 0 or more"),
    ("buffer_status.percent_full", is_number, "a number"),
    ("circuit_breaker", is_object, "an object"),
    ("circuit_breaker.state", lambda value: value in ("CLOSED", "OPEN", "HALF_OPEN"), "CLOSED, OPEN or HALF_OPEN"),
    ("circuit_breaker.failure_count", is_count, "a whole number, 0 or more"),
)


def contract_problems(payload: dict[str, Any]) -> list[str]:
    """Every breach of the contract, with its path and value. Unknown fields are welcome."""
    problems = []
    for path, fits, expected in CONTRACT:
        parent, _, name = path.rpartition(".")
        fields = payload.get(parent) if parent else payload
        if not isinstance(fields, dict):
            continue  # that the parent is missing or malformed is told already
        if name not in fields:
            problems.append(f"{path}: missing")
        elif not fits(fields[name]):
            problems.append(f"{path}: expected {expected}, got {reprlib.repr(fields[name])}")
    return problems


# ------------------------------------------------------------------------------------------
# Wire: reads a whole request, asks for the reply, sends it, honest or faulty
# ------------------------------------------------------------------------------------------

REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
HEADER_LINE = re.compile(rf"({TOKEN}):([^\0\r\n]*)")
BLANK = (b"\r\n", b"\n")
MAX_HEAD = 65536  # bytes of request line and headers
MAX_HEADERS = 100
MAX_BODY = 1 << 20  # bytes
TOO_LONG = f"the body is longer than {MAX_BODY} bytes"
LINGER = 2.0  # seconds for which a client is heard out whose request was not read to its end
DRIP_INTERVAL = 0.1  # seconds between two bytes: short for a time-out per read, long for the whole reply
GARBAGE = b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n"


class ProtocolError(Exception):
    """Bytes that are no request; nobody can tell where the next one would begin."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A request line and headers, read strictly: what two servers could understand in two ways is a ProtocolError (RFC 9112)."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        lines = re.split("\r?\n", raw.decode("latin-1"))
        match = REQUEST_LINE.fullmatch(lines[0])
        if not match:
            raise ProtocolError(400, f"malformed request line {lines[0]!r:.80}; it should be like 'GET /health HTTP/1.1'")
        self.method, target, major, minor = match.groups()
        if major != "1":
            raise ProtocolError(505, f"HTTP/{major}.{minor} is not spoken here; HTTP/1.1 is")
        self.path, _, self.query = re.sub("^(?i:https?)://[^/?]*", "", target).partition("?")
        self.fields: dict[str, str] = {}  # by lower-case name; repeated ones joined by commas
        for line in lines[1:-2]:
            match = HEADER_LINE.fullmatch(line)
            if not match:
                raise ProtocolError(400, f"malformed header line {line!r:.80}; it should be like 'Name: value'")
            name, value = match.group(1).lower(), match.group(2).strip(" \t")
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        self.is_http_1_0 = minor == "0"
        options = [option.strip().lower() for option in self.fields.get("connection", "").split(",")]
        self.keep_alive = "close" not in options and (not self.is_http_1_0 or "keep-alive" in options)
        self.is_chunked = self._is_chunked()
        self.length = self._content_length()
        self.expects_continue = (self.fields.get("expect", "").lower() == "100-continue"
                                 and not self.is_http_1_0 and (self.is_chunked or self.length > 0))

    def _is_chunked(self) -> bool:
        coding = self.fields.get("transfer-encoding")
        if coding is None:
            return False
        if self.is_http_1_0 or "content-length" in self.fields:
            raise ProtocolError(400, f"Transfer-Encoding does not go with {'HTTP/1.0' if self.is_http_1_0 else 'Content-Length'}")
        if coding.lower() != "chunked":
            raise ProtocolError(501, f"Transfer-Encoding {coding!r:.80} is not understood; 'chunked' is")
        return True

    def _content_length(self) -> int:
        first, *others = (length.strip(" \t") for length in self.fields.get("content-length", "0").split(","))
        if not re.fullmatch("[0-9]+", first):
            raise ProtocolError(400, f"Content-Length must be plain digits, not {first!r:.80}")
        if any(length != first for length in others):
            raise ProtocolError(400, f"Content-Lengths that differ: {self.fields['content-length']:.80}")
        digits = first.lstrip("0") or "0"  # int() takes 4,300 at the most, zeros included
        return int(digits) if len(digits) < 19 else sys.maxsize


parse_head = functools.lru_cache(maxsize=32)(Head)  # a client sends the same head again and again


class Request:
    """What came, who is to answer it, and what is wrong with it, if anything."""

    __slots__ = ("answer", "body", "client", "head", "payload", "refusal", "success")

    def __init__(self, head: Head, client: tuple[str, int]) -> None:
        self.head = head
        self.client = client
        self.body = b""
        self.payload: dict[str, Any] = {}
        self.success = b"{}"  # what the service says when it accepts
        self.refusal: Reply | None = None  # what a service that works would say in place of a success
        self.answer: Answer | None = None

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None, problems: Sequence[str] = ()) -> None:
        """Note what is wrong, unless something else has been noted."""
        if self.refusal is None:
            body = {"error": message, "problems": problems} if problems else {"error": message}
            refusal = Reply(status, body, headers)
            refusal.problem = "; ".join(problems) or message
            self.refusal = refusal

    def parse(self) -> None:
        """Set `payload` to the JSON object in the body, or note what is wrong with it."""
        if self.refusal is not None:
            return
        try:
            payload = parse_json(self.body)
        except ValueError as error:
            self.refuse(400, str(error))
        else:
            if isinstance(payload, dict):
                self.payload = payload
            else:
                self.refuse(400, f"the body must be a JSON object, not {reprlib.repr(payload)}")


def add_route(routes: Routes, method: str, path: str, answer: Answer) -> None:
    """Have a path take a method, beside those that it takes already."""
    routes.setdefault(path, {})[method] = answer


def phrase(status: int) -> str:
    return http.client.responses.get(status, f"Status {status}")


@functools.lru_cache(maxsize=1)  # it changes once a second
def http_date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


class Handler(BaseHTTPRequestHandler):
    """One connection: requests in, replies out, until a side has had enough.

    Whoever stops in the middle of a request raises an OSError here, which ends the connection in silence.
    """

    disable_nagle_algorithm = True  # or the second small reply would wait 40 ms for an ACK
    server: Listener
    rfile: io.BufferedReader
    must_linger = False  # may the client go on sending what nobody reads?
    released: Alarm  # which ends the delay of a reply

    def handle(self) -> None:
        if self.rfile.peek(1)[:1] == b"\x16":  # a TLS hello need not hold the line break that readline() awaits
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
        except ProtocolError as error:
            self.send_error(error.status, str(error))
            return
        self.check_open()
        try:
            reply, self.released = self.server.app.answer(request)
            self.close_connection = self.close_connection or self.server.is_closing
            head, body = self.compose(reply, request)
        except BaseException:  # noqa: BLE001 - whatever it is, the client gets an answer
            log_bug(f"{request.head.method} {request.head.path} failed")
            reply, self.released = Reply(500, {"error": "a bug in the fake; its log tells more"}), Alarm()
            head, body = self.compose(reply, request)
        if reply.delay:
            self.pause(reply.delay)
        getattr(self, f"send_{reply.fault or 'whole'}")(head, body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer, in JSON, what is no request, and close. (The name is http.server's, should it ever call it.)"""
        self.server.app._note_unmatched(f"{code} {message}")
        self.close_after_this()
        self.send_whole(*self.compose(Reply(code, {"error": message})))

    # -- Reading

    def read_request(self) -> Request:
        """Read a whole request, and note what is wrong with it as far as HTTP goes."""
        head = parse_head(self.read_head())
        request = Request(head, self.client_address)
        self.route(request)
        if head.length > MAX_BODY:
            request.refuse(413, TOO_LONG)
        if head.length > MAX_BODY or (head.expects_continue and request.refusal is not None):
            self.close_after_this()  # the body is not worth reading, or may never come
            return request
        if head.expects_continue:
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.close_connection = not head.keep_alive
        if head.is_chunked:
            self.read_chunks(request)
        else:
            request.body = self.read_bytes(head.length)
        return request

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
                raise ProtocolError(431, f"more than {MAX_HEADERS} headers, or {MAX_HEAD} bytes of them")
            line = self.read_line()
            lines.append(line)
            size += len(line)
        return b"".join(lines)

    def check_open(self) -> None:
        """Stop here after close(): what came before could still be read, but must not be answered."""
        if self.server.is_closing:
            raise ConnectionAbortedError("we left")

    def read_bytes(self, size: int) -> bytes:
        self.check_open()
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client left")
        return data

    def read_chunks(self, request: Request) -> None:
        """Read a chunked body (RFC 9112, section 7.1); extensions and trailers mean nothing here."""
        body, size = bytearray(), -1
        while size:
            line = self.read_line()
            match = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n", line)
            if not match:
                raise ProtocolError(400, f"malformed chunk size {line.decode('latin-1')!r:.80}; it should be like '1f'")
            size = int(match.group(1), 16)
            if len(body) + size > MAX_BODY:
                request.refuse(413, TOO_LONG)
                self.close_after_this()
                return
            body += self.read_bytes(size)
            if size and self.read_line(2) != b"\r\n":
                raise ProtocolError(400, f"a chunk does not end after the {size} bytes that it announced")
        self.read_lines(self.read_line())
        request.body = bytes(body)

    def route(self, request: Request) -> None:
        """Find who answers, and refuse what can be refused without the body."""
        head, routes = request.head, self.server.app.routes
        methods = routes.get(head.path)
        if methods is None:
            known = ", ".join(f"{method} {path}" for path in routes for method in routes[path])
            request.refuse(404, f"there is no {head.path:.200} here; there are {known}")
            return
        answer = methods.get("GET" if head.method == "HEAD" else head.method)
        if answer is None:
            allowed = ", ".join(methods) + (", HEAD" if "GET" in methods else "")
            request.refuse(405, f"{head.path} takes {allowed}, not {head.method:.40}", {"Allow": allowed})
            return
        request.answer = answer
        coding = head.fields.get("content-encoding", "identity")
        if coding.lower() != "identity":
            request.refuse(415, f"Content-Encoding {coding!r:.80} is not understood; send the body as it is")
        kind = head.fields.get("content-type", "missing")
        if head.method in ("POST", "PUT") and kind.partition(";")[0].strip().lower() != "application/json":
            request.refuse(415, f"Content-Type must be application/json; it is {kind:.80}")

    # -- Sending

    def compose(self, reply: Reply, request: Request | None = None) -> tuple[bytes, bytes]:
        """Make the head and the body of a reply, as they are before any fault spoils them."""
        body = self.default_body(reply.status, request) if reply.body is None else reply.body
        given = {name.lower(): value for name, value in reply.headers.items()}
        if given.get("connection", "").lower() == "close":
            self.close_connection = True
        headers = {"Server": "mock_odoo", "Date": http_date(int(time.time()))}
        if reply.status not in (204, 304):  # those have no body to tell of (RFC 9110, section 8.6)
            headers["Content-Type"] = "application/json" if reply.is_json else "text/plain; charset=utf-8"
            headers["Content-Length"] = str(len(body))
        if self.close_connection:
            headers["Connection"] = "close"
        elif request is not None and request.head.is_http_1_0:
            headers["Connection"] = "keep-alive"
        if given:
            headers = {name: value for name, value in headers.items() if name.lower() not in given}
            headers.update(reply.headers)
        if reply.status in (204, 304) or (request is not None and request.head.method == "HEAD"):
            body = b""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return f"HTTP/1.1 {reply.status} {phrase(reply.status)}\r\n{lines}\r\n".encode("latin-1"), body

    def default_body(self, status: int, request: Request | None) -> bytes:
        """What the service itself says with this status."""
        if status < 300:
            return request.success if request is not None else b""
        if status < 400:
            return b""
        return encode({"error": f"{self.server.app.service} service unavailable" if status == 503 else phrase(status)})

    def close_after_this(self) -> None:
        """Make this the last request, although the client may go on sending."""
        self.close_connection = self.must_linger = True

    def lingering_close(self) -> None:
        """Close our half and hear the client out, for a while.

        To close at once, with bytes unread, would reset the connection and lose the reply on its way.
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
        """Wait: True when the time is up, False as soon as the client leaves or the reply is let go."""
        with self.released:
            if self.server.state >= CLOSED:
                return False
            try:
                return not self.released.wait(seconds, self.connection, HUNG_UP)
            except ValueError:  # the connection was closed on our side
                return False

    def send_whole(self, head: bytes, body: bytes) -> None:
        self.connection.sendall(head + body)

    def send_drip(self, head: bytes, body: bytes) -> None:
        rest = head + body
        while rest:
            self.connection.sendall(rest[:1])
            rest = rest[1:]
            if not self.pause(DRIP_INTERVAL):
                break
        self.connection.sendall(rest)

    def send_truncate(self, head: bytes, body: bytes) -> None:
        whole = head + body
        self.connection.sendall(whole[: len(head) + len(body) // 2] if body else whole[:10])  # then, within the status
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
# Listener: owns every socket and every thread
# ------------------------------------------------------------------------------------------

EXCLUSIVE: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)  # Windows alone has it
LINGER_OPTION = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # struct linger: on, 0 s
PATIENCE = 5.0  # seconds that stop() gives the threads to end
MAX_IDLE_WORKERS = 32
NEW, RESERVED, OPEN, CLOSED, ENDED = range(5)  # the life of a listener, which only goes forward


def cut(connection: socket.socket) -> None:
    """End a connection both ways, which wakes whoever reads it; closing it would not."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's own would drop its state
    except OSError:  # the client was faster
        pass


class Worker(threading.Thread):
    """Serves one connection after the other: starting a thread takes longer than serving one."""

    connection: socket.socket | None = None  # None: nothing to do
    address = ("", 0)

    def __init__(self, listener: Listener) -> None:
        super().__init__(name="mock_odoo worker", daemon=True)
        self.listener = listener
        self._has_work = threading.Lock()  # held until it has
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

    def __init__(self, host: str, port: int, app: MockOdooServer, delay: float | None,
                 earlier: Sequence[Listener]) -> None:
        """Open after `delay` seconds, or for None when asked to; the earlier ones had the port."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler, bind_and_activate=False)
        self.server_port = port
        self.app = app
        self.delay = delay
        self.earlier = earlier
        self.state = NEW
        self.error: Exception | None = None  # why it could not be opened
        self.is_closing = False
        self._has_begun = False
        self._spared: threading.Thread | None = None
        self._alarm = Alarm()  # wakes the acceptor, which is to open or to close
        self._news = Alarm()  # wakes those who wait for the next state
        self._process = os.getpid()
        self._lock = threading.RLock()  # guards what follows; a signal handler may call stop() within
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._ended: collections.deque[Worker] = collections.deque()  # or about to end
        self._acceptor = threading.Thread(target=self.run, name="mock_odoo acceptor", daemon=True)

    # -- What other threads ask for

    def begin(self) -> None:
        """Bind, and listen if that is due. Raises OSError where the port cannot be had."""
        self._has_begun = True
        # A signal in the middle of Thread.start() can leave a thread that never runs, so a thread
        # that gets no signals starts the acceptor.
        _thread.start_new_thread(self._start_acceptor, ())
        self._wait_for(OPEN if self.delay == 0 else RESERVED)
        if self.error is not None:
            raise self.error

    def open(self) -> None:
        """Listen, if that is not done yet. Clients can connect when this returns."""
        if self.state < OPEN:
            self._alarm.ring()
            self._wait_for(OPEN)
            if self.error is not None:
                raise self.error

    def close(self, spared: threading.Thread | None = None) -> None:
        """Have the port freed and every connection cut, but that of the `spared` worker.

        May be called again, and must be where another thread was spared before.
        """
        self.is_closing = True
        self._spared = spared
        if not self._has_begun or self._process != os.getpid():  # in a forked child, the rest is our parent's
            self.socket.close()
            self.state = ENDED
            return
        self._alarm.ring()
        if self.state >= CLOSED:
            _thread.start_new_thread(self._cut_connections, ())

    def wait_closed(self) -> None:
        """Wait until connections are refused."""
        self._wait_for(CLOSED)

    def join(self, timeout: float) -> bool:
        """Wait until every thread has ended; False where one has not."""
        self._wait_for(RESERVED, min(timeout, 0.5))
        if self.state == NEW:  # a signal kept begin() from making the thread
            self.socket.close()
            self.state = ENDED
        self._wait_for(ENDED, timeout)
        if self.state == ENDED and self._acceptor.ident is not None:
            self._acceptor.join()  # where a signal could interrupt it for longer, it would do harm
        return self.state == ENDED

    def _wait_for(self, state: int, timeout: float = FOREVER) -> None:
        """Wait for a state or a later one. A Condition would not do: a signal can break its lock."""
        deadline = time.monotonic() + timeout
        while self.state < state and self._has_begun:
            news = self._news
            with news:
                left = deadline - time.monotonic()
                if self.state < state and (left <= 0 or not news.wait(None if left == FOREVER else left)):
                    return

    def _enter(self, state: int) -> None:
        self.state = state
        news, self._news = self._news, Alarm()
        news.ring()

    # -- The thread

    def _start_acceptor(self) -> None:
        try:
            self._acceptor.start()
        except RuntimeError as error:  # out of threads
            self.error = error
            self.socket.close()
            self._enter(ENDED)

    def run(self) -> None:
        """Live: take the port over, keep it reserved until it is time, accept, close."""
        try:
            for listener in self.earlier:
                listener.wait_closed()
            with self._alarm:  # before the bind, which should not happen where descriptors lack
                if not self.is_closing:
                    self.server_bind()
                if self.delay == 0:
                    self._accept()
                else:
                    self._enter(RESERVED)
                    self._alarm.wait(self.delay)
            if self.state == RESERVED:
                self._alarm = Alarm()  # an alarm rings once, and this one is for close()
                with self._alarm:
                    self._accept()
        except OSError as error:
            self.error = error
            if self.state == RESERVED:  # maybe nobody waits for it
                log_bug(f"cannot listen on port {self.server_port} again")
        finally:
            self.server_close()
            self._enter(CLOSED)
            self._cut_connections()  # again, as close() may have been called again
            self.app.release()  # only now, or a reply might still get out
            for worker in [*self._workers, *self._ended]:
                worker.join()
            self._enter(ENDED)

    def _accept(self) -> None:
        if not self.is_closing:
            self.server_activate()
            self._enter(OPEN)
            self.serve_forever()

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer's, without asking DNS for our name, which can take 10 s."""
        if EXCLUSIVE is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, EXCLUSIVE, 1)
        self._set_reuse(1)  # past connections in TIME_WAIT do not matter
        self.socket.bind(self.server_address)
        self._set_reuse(0)  # or anybody could have the port until we listen
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

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
            self._alarm.wait(other=self.socket)
            try:
                self.process_request(*self.get_request())
            except BlockingIOError:  # the alarm rang, or the client has left again
                pass
            except OSError:  # out of descriptors: the client waits, and so do we
                self._alarm.wait(0.05)

    def server_close(self) -> None:
        """Free the port, cut the connections, and end the workers that are idle."""
        cut(self.socket)  # or a forked child would go on listening,
        try:
            self._set_reuse(1)  # or at least keep the port
        except OSError:  # it has not begun, and is closed
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
            if self.is_closing:  # the plain socket may have been cut, which is an empty shell by now
                cut(tls)
            tls.do_handshake()
        except OSError as error:
            if not self.is_closing:  # else it was us
                self.app._note_unmatched(f"TLS handshake failed: {error.strerror or error}")
            raise
        return tls

    def abort(self, connection: socket.socket) -> None:
        """Close with a RST, at once: shutdown_request() would send a FIN first."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OPTION)
        with self._lock:
            socket.SocketType.close(connection)

    def _cut_connections(self) -> None:
        with self._lock:
            for worker in self._workers:
                if worker.connection is not None and worker is not self._spared:
                    cut(worker.connection)
                    if EXCLUSIVE is not None:  # on Windows, that wakes no reader (CPython 91913)
                        socket.SocketType.close(worker.connection)


# ------------------------------------------------------------------------------------------
# MockOdooServer: the public face
# ------------------------------------------------------------------------------------------


REMEDIES = {
    errno.EADDRINUSE: "; stop what listens there, or take port=0, a free one",
    errno.EACCES: "; take a port above 1023 that nobody has, or port=0, a free one",
    errno.EADDRNOTAVAIL: "; host must be an address of this machine",
}


LOGIN_PAGE = "<!DOCTYPE html>\n<title>Odoo</title>\n<h1>Log in</h1>\n"


class MockOdooServer:
    """A fake Odoo that answers heartbeats as it is told, and remembers them.

    `port`         `default_port` unless given; 0 takes a free one, and after `start()` `port` tells which
    `host`         the address to listen on, IPv4 or IPv6
    `strict`       answer 422 to a heartbeat that breaks the contract of the specification
    `ssl_context`  an `ssl.SSLContext` with a certificate, to serve HTTPS
    `max_calls`    keep so many calls, the newest; the counts go on counting
    `control`      offer the control API and its page under /_mock/
    `on_call`      is called with every `Call`, in order, after it is recorded and before it is answered;
                   what it raises is logged. It may use the server, but not send it heartbeats.
    `on_unmatched` is called with every line of `get_unmatched()` before the client is answered, maybe by several
                   threads at once; what it raises is logged
    `routes`       who answers: by path, then by method, a function that makes a Reply of a Request,
                   and decides whether to give its `refusal`, for what HTTP found wrong, instead

    Nothing is bound before `start()`, or a `with` block, which starts and stops. Another service is a
    subclass with its own `endpoint`, `default_port`, `service` and `make_success`. Raises TypeError or
    ValueError for what cannot be served.
    """

    endpoint = "/api/v1/kkt/heartbeat"
    default_port = 8069
    service = "Odoo"

    def __init__(self, port: int | None = None, host: str = "127.0.0.1", *, strict: bool = False,
                 ssl_context: ssl.SSLContext | None = None, max_calls: int | None = None,
                 control: bool = False, on_call: Callable[[Call], object] | None = None,
                 on_unmatched: Callable[[str], object] | None = None) -> None:
        self.port = check_whole("port", self.default_port if port is None else port, 0, 65535)
        if not isinstance(host, str):
            raise TypeError(f"host must be text such as '127.0.0.1', not {host!r:.80}")
        if not host:
            raise ValueError("host must not be empty; '0.0.0.0' listens on every address")
        self.host = host
        self.strict = check_flag("strict", strict)
        if ssl_context is not None and not hasattr(ssl_context, "wrap_socket"):
            raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r:.80}")
        if getattr(ssl_context, "check_hostname", False):
            raise ValueError("ssl_context must be a server's, like ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)")
        self.ssl_context = ssl_context
        if max_calls is not None:
            max_calls = min(check_whole("max_calls", max_calls, 1), sys.maxsize)  # more than a deque can be told
        for name, listener in (("on_call", on_call), ("on_unmatched", on_unmatched)):
            if listener is not None and not callable(listener):
                raise TypeError(f"{name} must be callable, not {listener!r:.80}")
        self._scenario = Scenario(max_calls, on_call, on_unmatched)
        self._lifecycle = threading.RLock()  # guards what follows; a signal handler may call stop() within
        self._listener: Listener | None = None  # each start and each outage makes a new one
        self._listeners: list[Listener] = []  # those before too, whose threads may still be ending
        if not isinstance(self.endpoint, str) or not re.fullmatch('/[!"$->@-~]*', self.endpoint):
            raise ValueError(f"endpoint must be a path like /api/v2/receipt, not {self.endpoint!r:.80}")
        self.routes: Routes = {}
        add_route(self.routes, "POST", self.endpoint, self._take)
        add_route(self.routes, "GET", "/health", lambda request: Reply(200, {"status": "ok"}))
        add_route(self.routes, "GET", "/web/health", lambda request: Reply(200, {"status": "pass"}))
        add_route(self.routes, "GET", "/web/login", lambda request: Reply(200, LOGIN_PAGE, {"Content-Type": HTML}))
        if check_flag("control", control):
            Control(self)

    def make_success(self, payload: dict[str, Any]) -> object:
        """The body of the success reply: anything that JSON can express, or JSON ready-made as text or bytes.

        Called for every well-formed heartbeat before the script is asked, and by several threads at once.
        """
        return {"status": "ok", "message": "Heartbeat received"}

    def find_problems(self, payload: dict[str, Any]) -> list[str]:
        """What `strict` finds wrong, a line each."""
        return contract_problems(payload)

    def answer(self, request: Request) -> tuple[Reply, Alarm]:
        """The reply to a request, and the alarm that ends its delay."""
        if request.answer is None:
            assert request.refusal is not None
            self._note_unmatched(f"{request.refusal.status} {request.head.method} {request.head.path}")
            return request.refusal, self._scenario.released()
        answer = request.answer(request)
        return answer if isinstance(answer, tuple) else (answer, self._scenario.released())

    def release(self) -> None:
        """Let go every reply that is delayed."""
        self._scenario.release()

    def _take(self, request: Request) -> tuple[Reply, Alarm]:
        request.parse()
        if request.refusal is None:
            self._consider(request)
        return self._scenario.take(request.client, request.head.raw, request.body, request.refusal)

    def _note_unmatched(self, what: str) -> None:
        self._scenario.add_unmatched(printable(what[:200]))

    def _consider(self, request: Request) -> None:
        """Make up what a service that works would say, before the call is recorded: nothing can go wrong after that."""
        try:
            problems = self.find_problems(request.payload) if self.strict else []
            if isinstance(problems, str):
                raise TypeError("find_problems must return a list of lines")
            if problems:
                request.refuse(422, "the heartbeat breaks the contract", problems=problems)
            else:
                request.success = encode(self.make_success(request.payload))
        except BaseException:  # noqa: BLE001 - it is the user's code, where pytest.fail() is no Exception
            log_bug("make_success or find_problems failed")
            request.refuse(500, "make_success or find_problems failed; the log of the fake tells more")

    # -- Lifecycle

    @property
    def is_running(self) -> bool:
        """True from `start()` to `stop()`, also during an outage."""
        return self._listener is not None

    @property
    def url(self) -> str:
        """Where clients reach it, like http://127.0.0.1:8069."""
        # Windows connects to no wildcard, and takes 2 s to find that localhost is not ::1.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(self.host, self.host)
        return f"http{'s' if self.ssl_context else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def heartbeat_url(self) -> str:
        """Where to POST heartbeats."""
        return self.url + self.endpoint

    def start(self) -> None:
        """Listen. Clients can connect when this returns.

        Raises OSError where the address cannot be had, RuntimeError where the server runs already.
        """
        with self._lifecycle:
            if self._listener is not None:
                raise RuntimeError(f"already running at {self.url}; call stop() first")
            listener = self._new_listener(0.0)
        self._begin(listener)

    def stop(self) -> None:
        """Refuse new connections, cut the others, let go what is delayed, end every thread.

        All that is done when this returns (in on_call, its own connection and the threads end
        afterwards). Harmless when not running. The memory and the script stay: `start()` goes on
        with them, on the same port. Interrupted by an exception, it can be called again.

        Raises RuntimeError where a thread has not ended in 5 s. Either a function of yours hangs,
        such as on_call, or a signal handler has called this in the middle of another method, which
        cannot go on before the handler returns. A handler should raise an exception, or start a
        thread that stops.
        """
        with self._lifecycle:
            self._listener = None
            closing = list(self._listeners)
        self._close(closing)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def down(self, seconds: float | None = None) -> None:
        """An outage: refuse new connections and cut the others, for `seconds`, or until `up()` or `reset()`.

        The port stays reserved meanwhile. Raises RuntimeError where the server does not run, and OSError
        where somebody snatched the port in the instant between listening and reserving; the server is stopped then.
        """
        seconds = None if seconds is None else check_seconds("seconds", seconds)
        with self._lifecycle:
            self._needs_running()
            listener = self._new_listener(seconds)
        self._begin(listener)

    def up(self) -> None:
        """End an outage; harmless when there is none. Raises RuntimeError where the server does not run."""
        self._needs_running().open()

    def _needs_running(self) -> Listener:
        listener = self._listener
        if listener is None:
            raise RuntimeError("not running; call start() first")
        return listener

    def _new_listener(self, delay: float | None) -> Listener:
        """Make the listener that takes the port over from those before."""
        earlier = [listener for listener in self._listeners if listener.state < ENDED]
        listener = Listener(self.host, self.port, self, delay, earlier)
        self._listeners = [*earlier, listener]
        self._listener = listener
        return listener

    def _begin(self, listener: Listener) -> None:
        try:
            for earlier in listener.earlier:
                earlier.close(self._spared())
            listener.begin()
        except BaseException as error:
            with self._lifecycle:
                if self._listener is listener:
                    self._listener = None
            listener.close()
            if not isinstance(error, OSError):
                raise
            cause = errno.EADDRNOTAVAIL if isinstance(error, socket.gaierror) else error.errno
            remedy = REMEDIES.get(cause or 0, "")
            raise OSError(error.errno, f"cannot listen on {self.host}, port {self.port}: {error.strerror}{remedy}") from None
        self.port = listener.server_port
        self._close(listener.earlier)

    def _close(self, listeners: Sequence[Listener]) -> None:
        """Close listeners, and wait until their threads have ended; in one of these, until the port is free."""
        spared = self._spared()
        deadline = time.monotonic() + PATIENCE
        for listener in listeners:
            listener.close(spared)
        for listener in listeners:
            if self._serving() is not None:
                listener.wait_closed()
            elif not listener.join(max(0.0, deadline - time.monotonic())):
                raise RuntimeError(
                    f"a thread has not ended in {PATIENCE:.0f} s: a function of yours hangs, such as on_call, or a signal "
                    "handler has called this within another method; let the handler raise an exception instead")

    def _serving(self) -> Listener | None:
        """The listener in whose thread the caller is, as on_call is; None elsewhere."""
        thread = threading.current_thread()
        return thread.listener if isinstance(thread, Worker) and thread.listener.app is self else None

    def _spared(self) -> threading.Thread | None:
        """The thread whose client is to be answered although the server ends: the call of on_call, or our own."""
        thread = threading.current_thread()
        reporting = self._scenario.reporting
        return reporting[1] if reporting is not None and reporting[0] is thread else thread

    # -- The script

    def play(self, script: Script, loop: bool = False) -> None:
        """Answer heartbeats by this script from now on; the last call of `play` or a setter wins.

            script := step ("," step)*              "503*2, reset, ok@6s, stall*"
            step   := reply ["@" delay] ["*" [n]]   *n: n times.  *: for ever.  @2s, @250ms: wait first
            reply  := ok | status | fault

        `ok`        the success reply
        `503` ...   that status, 200 to 599, with a JSON error for 4xx and 5xx
        `reset`     a TCP RST in place of the reply (WireMock CONNECTION_RESET_BY_PEER, toxiproxy reset_peer)
        `close`     the connection closed without a byte (WireMock EMPTY_RESPONSE)
        `truncate`  half of the promised body, then closed (toxiproxy limit_data)
        `garbage`   bytes that are not HTTP, then closed (WireMock RANDOM_DATA_THEN_CLOSE)
        `stall`     nothing at all, the connection held open (toxiproxy timeout)
        `drip`      a correct reply, one byte every 100 ms (WireMock chunkedDribbleDelay, toxiproxy slicer)
        `html`      200 with an HTML page, as from a captive portal
        `login`     303 to /web/login, as from an Odoo whose session has run out

        In place of text, a `Reply`, a dict of its fields, or a list that mixes these will do. When the script has run out,
        heartbeats succeed; with `loop`, it starts again instead. Raises ValueError that quotes the step
        that cannot be read; the old script plays on.
        """
        self._scenario.play(parse_script(script), check_flag("loop", loop))

    def set_success(self) -> None:
        """Accept every heartbeat."""
        self.play("")

    def set_failure_count(self, n: int) -> None:
        """Refuse `n` heartbeats with 503, then accept them again."""
        self.play(f"503*{check_whole('n', n, 0, MAX_TIMES)}")

    def set_permanent_failure(self, enabled: bool = True) -> None:
        """Refuse every heartbeat with 503; with False, end that and nothing else."""
        if check_flag("enabled", enabled):
            self.play("503*")
        else:
            self._scenario.end("503*")

    @property
    def script(self) -> str:
        """What is left of the script, as text for `play`; a `Reply` that no text can express shows as the nearest word."""
        return self._scenario.script()[0]

    @property
    def loop(self) -> bool:
        """Does the script start again at its end?"""
        return self._scenario.script()[1]

    # -- The memory

    def get_received_heartbeats(self) -> list[Any]:
        """The payloads of the accepted calls that are kept, oldest first; each reader gets copies of their own."""
        return [call.payload for call in self._scenario.calls() if call.accepted]

    def get_call_count(self) -> int:
        """How many calls came since the last reset, accepted or not."""
        return self._scenario.count("calls")

    def get_heartbeat_count(self) -> int:
        """How many of them were accepted."""
        return self._scenario.count("heartbeats")

    def get_calls(self) -> list[Call]:
        """The calls since the last reset that are kept, oldest first."""
        return self._scenario.calls()

    def get_unmatched(self) -> list[str]:
        """What came lately that is no call, oldest first, such as "404 POST /api/v2/heartbeat" (WireMock's unmatched requests).

        These are other paths and methods, what is no HTTP, and TLS handshakes that failed.
        """
        return self._scenario.unmatched()

    def get_intervals(self) -> list[float]:
        """The seconds from each call to the next, whatever was done to the wall clock."""
        arrivals = [call._arrived for call in self._scenario.calls()]
        return [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]  # noqa: RUF007 - pairwise() came with 3.10

    def reset(self) -> None:
        """Forget the calls, end the script and any outage, and release every delayed reply."""
        self._scenario.reset()
        listener = self._listener
        if listener is not None:
            listener.open()

    def wait_for_heartbeats(self, n: int, timeout: float = 5.0) -> list[Any]:
        """Block until `n` heartbeats have been accepted since the last reset, and return all that are kept.

        Raises TimeoutError after `timeout` seconds, which tells what came instead.
        """
        self._wait("heartbeats", n, timeout)
        return self.get_received_heartbeats()

    def wait_for_calls(self, n: int, timeout: float = 5.0) -> list[Call]:
        """Block until `n` calls have come since the last reset; otherwise like `wait_for_heartbeats`."""
        self._wait("calls", n, timeout)
        return self.get_calls()

    def _wait(self, what: str, n: int, timeout: float) -> None:
        serving = self._serving()  # if one is, stop() waits for us, and we must not wait for more
        self._scenario.wait(what, n, timeout, lambda: serving is not None and serving.is_closing)

    def __repr__(self) -> str:
        listener = self._listener
        state = "stopped" if listener is None else "running" if listener.state == OPEN else "down"
        script, loop = self._scenario.script()
        looping = " in a loop" if loop else ""
        return f"<{type(self).__name__} {self.url} {state}, script '{script}'{looping}, {self.get_call_count()} calls>"


# ------------------------------------------------------------------------------------------
# Standalone: control API, journal, command line and page, by the public face and its routes
# ------------------------------------------------------------------------------------------

LONGEST_POLL = 60  # seconds that one GET /_mock/wait may take
#: For whatever tells of the state; on a connection that was kept, Chromium would ask again after a 408.
UNCACHED = {"Cache-Control": "no-store", "Connection": "close"}
MAX_LINES = 10000  # that wait to be printed
GREEN, YELLOW, RED = 32, 33, 31  # for accepted, refused, spoilt


def call_as_json(call: Call) -> str:
    """The fields of a call as one line of JSON; a body that is no JSON stands there as text."""
    headers = call.headers
    fields = {"number": call.number, "received_at": call.received_at, "reply": call.reply, "delay": call.delay, "problem": call.problem,
              "accepted": call.accepted, "payload": call.payload, "client": list(call.client),
              "headers": {name: ", ".join(headers.get_all(name, [])) for name in headers}}
    if fields["payload"] is None:
        fields["body"] = call.body.decode("utf-8", "replace")
    return json.dumps(fields)


class Control:
    """The control API: steers a server from another process or language, and from the page.

    Loopback clients may use it if their Host is a loopback name, which no foreign web page can bring about by
    DNS rebinding; so may everybody who sends the token, if there is one. Changes must be application/json,
    which a foreign page cannot send without a preflight, and that is never granted.
    """

    def __init__(self, server: MockOdooServer, token: str | None = None) -> None:
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("the token must be printable ASCII without blanks, and not empty")
        self.server = server
        self.token = token
        for path in ("/", "/_mock"):
            add_route(server.routes, "GET", path, lambda request: Reply(302, b"", {"Location": "/_mock/"}))
        for path, method, answer, names in (
                ("/_mock/", "GET", self.page, ()),
                ("/_mock/state", "GET", self.state, ()),
                ("/_mock/calls", "GET", self.calls, ("since",)),
                ("/_mock/wait", "GET", self.wait, ("calls", "heartbeats", "timeout")),
                ("/_mock/script", "PUT", self.script, ("script", "loop")),
                ("/_mock/reset", "POST", self.reset, ()),
                ("/_mock/down", "POST", self.down, ("seconds",))):
            add_route(server.routes, method, path, functools.partial(self.guard, answer, names))

    def guard(self, answer: Callable[[dict[str, Any]], Reply], names: Sequence[str], request: Request) -> Reply:
        """Answer whoever may ask; what Python refuses with an error becomes a 400 with the same text."""
        if not self.is_allowed(request):
            host = request.head.fields.get("host", "none")
            remedy = "with the right token" if self.token else "with a token, if one is set by --token"
            return Reply(403, {"error": "control is for clients on this machine that address it as localhost or 127.0.0.1 (yours is "
                                        f"{request.client[0]}, Host {host:.80}), or that send Authorization: Bearer {remedy}"})
        if request.body:
            request.parse()
        if request.refusal is not None:
            return request.refusal
        values = {**dict(urllib.parse.parse_qsl(request.head.query, keep_blank_values=True)), **request.payload}
        try:
            for name in values:
                if name not in names:
                    raise ValueError(f"{name!r:.80} means nothing here; {request.head.path} takes {', '.join(names) or 'nothing'}")
            return answer(values)
        except (TypeError, ValueError) as error:
            return Reply(400, {"error": str(error)})

    def is_allowed(self, request: Request) -> bool:
        scheme, _, given = request.head.fields.get("authorization", "").partition(" ")
        if self.token and scheme.lower() == "bearer":
            import hmac

            if hmac.compare_digest(given.strip().encode(), self.token.encode()):
                return True
        host = re.sub(":[0-9]*$", "", request.head.fields.get("host", "")).lower()
        loopback = r"(::ffff:)?127(\.[0-9]{1,3}){3}|::1"
        return bool(re.fullmatch(loopback, request.client[0]) and re.fullmatch(rf"localhost|{loopback}|\[::1\]", host))

    def describe(self, status: int = 200, **more: object) -> Reply:
        """The state of the server, as every change is answered with."""
        server = self.server
        last = next((call.payload for call in reversed(server.get_calls()) if call.accepted), None)
        count = server.get_call_count()
        return Reply(status, {
            "service": server.service, "heartbeat_url": server.heartbeat_url, "script": server.script, "loop": server.loop,
            "call_count": count, "heartbeat_count": min(count, server.get_heartbeat_count()),  # more may have come meanwhile
            "last_heartbeat": last, "unmatched": server.get_unmatched(), **more}, UNCACHED)

    def number(self, values: dict[str, Any], name: str, default: str) -> float:
        text = str(values.get(name, default))
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError(f"{name} must be a number like 5 or 0.5, not {text!r:.80}")
        return float(text) if "." in text else int(text)

    def page(self, values: dict[str, Any]) -> Reply:
        return Reply(200, PAGE, {"Content-Type": HTML, "Content-Security-Policy": page_policy(),
                                 "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", **UNCACHED})

    def state(self, values: dict[str, Any]) -> Reply:
        return self.describe()

    def calls(self, values: dict[str, Any]) -> Reply:
        since = self.number(values, "since", "0")
        calls = ", ".join(call_as_json(call) for call in self.server.get_calls() if call.number > since)
        return Reply(200, f'{{"calls": [{calls}]}}', {"Content-Type": "application/json", **UNCACHED})

    def wait(self, values: dict[str, Any]) -> Reply:
        if "calls" in values and "heartbeats" in values:
            raise ValueError("wait for calls or for heartbeats, not for both")
        what, wait = ("heartbeats", self.server.wait_for_heartbeats) if "heartbeats" in values else ("calls", self.server.wait_for_calls)
        n = check_whole(what, self.number(values, what, "1"), 0)  # type: ignore[arg-type]
        timeout = self.number(values, "timeout", "5")
        if timeout > LONGEST_POLL:
            raise ValueError(f"timeout must be from 0 to {LONGEST_POLL} seconds, not {timeout}")
        try:
            wait(n, timeout)
        except TimeoutError as error:
            return self.describe(408, error=str(error))
        return self.describe()

    def script(self, values: dict[str, Any]) -> Reply:
        if "script" not in values:
            raise ValueError('"script" is missing; send {"script": "503*3"}, for example')
        self.server.play(values["script"], values.get("loop", False))
        return self.describe()

    def reset(self, values: dict[str, Any]) -> Reply:
        self.server.reset()
        return self.describe()

    def down(self, values: dict[str, Any]) -> Reply:
        if values.get("seconds") is None:
            raise ValueError('"seconds" is missing; nobody could end the outage through a port that refuses connections')
        try:
            self.server.down(values["seconds"])
        except RuntimeError as error:  # somebody has just stopped it
            return Reply(409, {"error": str(error)})
        return self.describe()


class Journal:
    """A file with a line of JSON for each call.

    Each line is written at once, past any buffer, so that it outlives the process. The file stays
    open, so that a line can be written when descriptors have run out. What goes wrong is told once,
    on standard error; the server goes on.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.has_complained = False
        try:
            self.is_torn = os.path.isfile(path) and not ends_well(path)  # is the last line a part of one?
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - close() closes it
        except OSError as error:
            raise OSError(error.errno, f"cannot write the journal {path}: {error.strerror}") from None

    def add(self, call: Call) -> None:
        """Write the line of a call. One process may write while another reads."""
        data = (b"\n" if self.is_torn else b"") + call_as_json(call).encode() + b"\n"
        try:
            written = self.file.write(data)
        except OSError as error:
            self.complain(f"{error.strerror}")
            return
        self.is_torn = written < len(data)
        if self.is_torn:
            self.complain("a line could not be written as a whole")

    def complain(self, what: str) -> None:
        if not self.has_complained:
            self.has_complained = True
            complain(f"mock_odoo: journal {self.path}: {what}; the server goes on")

    def close(self) -> None:
        self.file.close()


def ends_well(path: str) -> bool:
    """Is a file empty, or is its last line whole?"""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in (b"", b"\n")


def complain(line: str) -> None:
    """Print a line on standard error, if there is one and it takes it."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass


class Reporter:
    """Tells of each call on standard output: a line to read, or with `as_json` a line of JSON.

    It writes in a thread of its own, and past the buffer of `sys.stdout`, so that a pipe that nobody reads
    holds up neither a reply nor the end of the process.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._lines: collections.deque[str] = collections.deque()
        self._waiting = threading.Semaphore(0)  # counts the lines; the queue module would be one more import at the start
        self._writer = threading.Thread(target=self._write, name="mock_odoo reporter", daemon=True)
        stream = sys.stdout  # None where there is none, as for a service of Windows
        self.has_colour = (stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
                           and (os.name != "nt" or "WT_SESSION" in os.environ))
        if stream is not None:
            try:
                self._file: IO[Any] = open(os.dup(stream.fileno()), "wb", buffering=0)  # noqa: SIM115 - the writer closes it
                self._encode: Callable[[str], object] = functools.partial(str.encode, encoding=stream.encoding, errors="backslashreplace")
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
            except OSError:  # `| head` has had enough, or the disk is full
                pass
        if self._file is not sys.stdout:
            self._file.close()

    def say(self, text: str, **fields: object) -> None:
        """Print the text, or the fields as JSON."""
        self._print(json.dumps(fields) if self.as_json else text)

    def add(self, call: Call, server: MockOdooServer) -> None:
        """Tell of a call, and in text of what it left of the script."""
        self._print(call_as_json(call) if self.as_json else self.describe(call, server.script))

    def add_unmatched(self, what: str) -> None:
        """Tell of what came that is no call."""
        word, _, rest = what.partition(" ")
        self.say(f"{time.strftime('%H:%M:%S')}  {word:<8}  {rest}", unmatched=what)

    def _print(self, line: str) -> None:
        if self._writer.is_alive() and len(self._lines) < MAX_LINES:  # else nobody reads
            self._lines.append(line)
            self._waiting.release()

    def close(self) -> None:
        """Have the lines written, for as long as somebody reads them."""
        self._print("")
        left = -1
        while self._writer.is_alive() and left != len(self._lines):
            left = len(self._lines)
            self._writer.join(0.1)

    def describe(self, call: Call, script: str) -> str:
        """Such as "12:00:30  503  KKT-001  buffer 6/200 (3.0%)  breaker CLOSED  script: 503"."""
        payload = call.payload
        reply = f"{call.reply + format_delay(call.delay):<8}"
        if self.has_colour:
            colour = GREEN if call.accepted else YELLOW if call.reply.isdigit() else RED
            reply = f"\x1b[{colour}m{reply}\x1b[0m"
        if isinstance(payload, dict):
            queued, capacity, percent = (field(payload, "buffer_status", name)
                                         for name in ("current_queued", "total_capacity", "percent_full"))
            buffer = f"buffer {queued}/{capacity} ({percent}%)"
            heartbeat = f"{field(payload, 'adapter_id'):<10}  {buffer:<22}  breaker {field(payload, 'circuit_breaker', 'state'):<9}"
        else:
            heartbeat = f"{call.body[:48]!r:<54}"
        clock = time.strftime("%H:%M:%S", time.localtime(call.received_at))
        rest = [text for text in (printable(call.problem or ""), script and f"script: {script}") if text]
        return "  ".join([clock, reply, heartbeat, *rest]).rstrip()


def field(payload: Any, *path: str) -> str:
    """A value in a heartbeat, fit for a terminal: short, and without the control characters that could steer it."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    if isinstance(payload, float):
        return f"{payload:.1f}"[:32]
    text = str(payload) if isinstance(payload, (str, int)) else "?"
    return printable(text[:32])


def make_parser() -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            complain(f"mock_odoo: {message}")
            raise SystemExit(2)

    parser = Parser(prog="python -m mock_odoo", formatter_class=argparse.RawDescriptionHelpFormatter,
                    description="A fake Odoo that answers the heartbeats of a KKT adapter as it is told.", epilog=EPILOG)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=MockOdooServer.default_port, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--script", default="", help="how to answer, see below; when it has run out, heartbeats succeed")
    parser.add_argument("--loop", action="store_true", help="start the script again when it has run out")
    parser.add_argument("--strict", action="store_true", help="answer 422 to a heartbeat that breaks the contract")
    parser.add_argument("--journal", metavar="FILE", help="append every call to FILE as a line of JSON, before it is answered")
    parser.add_argument("--json", action="store_true", help="print lines of JSON in place of text")
    parser.add_argument("--token", help="let clients elsewhere use the control API if they send it")
    parser.add_argument("--certfile", metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    parser.add_argument("--keyfile", metavar="FILE", help="its private key, if that is not in the same file")
    parser.add_argument("--max-calls", type=int, default=10000, metavar="N",
                        help="calls to keep in memory (default: %(default)s); the journal keeps all")
    parser.add_argument("--quiet", action="store_true", help="print only the first line")
    return parser


EPILOG = """\
examples:
  python -m mock_odoo
      accept every heartbeat, and show it
  python -m mock_odoo --script "503*3, reset, ok@6s"
      three refusals, a TCP reset, a slow success, and then all is well
  python -m mock_odoo --script "ok*2, 503*3" --loop --journal beats.jsonl
      flap for ever, and write down what comes

script:
  Each heartbeat takes the next step; between steps stands a comma. A step is a
  reply, which may have a delay and a count behind it:
    503*3  three times      stall*  for ever      ok@6s, 503@250ms*2  wait first
  The replies are
    ok          the success reply
    503         or any other status from 200 to 599
    reset       a TCP RST
    close       the connection closed without a byte
    truncate    half of the promised body, then closed
    garbage     bytes that are not HTTP
    stall       nothing, and the connection held open
    drip        a correct reply, one byte every 100 ms
    html        200 with a web page
    login       303 to the login page

While it runs, /_mock/ in a browser shows the heartbeats, and has buttons for
the commonest failures and a field for any script.
"""


def make_server(args: argparse.Namespace, on_call: Callable[[Call], object] | None,
                on_unmatched: Callable[[str], object] | None) -> MockOdooServer:
    """Make what the command line asks for; OSError or ValueError where that cannot be had."""
    context = None
    if args.certfile is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(args.certfile, args.keyfile, password="")  # else it would ask at the terminal
        except OSError as error:
            files = " and ".join(filter(None, (args.certfile, args.keyfile)))
            raise ValueError(f"cannot use the certificate {files}: {error.strerror or error}; PEM is needed, with the key in the "
                             "same file or in --keyfile") from None
    elif args.keyfile is not None:
        raise ValueError("--keyfile goes with --certfile")
    server = MockOdooServer(args.port, args.host, strict=args.strict, ssl_context=context, max_calls=args.max_calls, on_call=on_call,
                            on_unmatched=on_unmatched)
    server.play(args.script, args.loop)
    Control(server, args.token)
    return server


#: What ends a standalone fake. Windows alone has SIGBREAK: Ctrl+Break, or its console was closed.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")


class StopSignal:
    """From `with` on, SIGINT and SIGTERM do nothing but end `wait()`; outside the main thread, there are none.

    It reads a socket. An Event would not do: under load another thread may take the signal, and on Windows
    Ctrl+C does not end its wait.
    """

    def __enter__(self) -> Self:
        import signal

        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(True)
        self._sender.setblocking(False)
        self._handlers: list[tuple[int, Any]] = []
        if threading.current_thread() is threading.main_thread():
            # First, or a signal might get lost. Where there is no room, there are signals enough.
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
            self._handlers = [(number, signal.signal(number, lambda *args: None)) for number in numbers]
        return self

    def wait(self) -> None:
        numbers = [number for number, _ in self._handlers]
        while self._receiver.recv(1)[0] not in numbers:  # another signal, of whoever called us
            pass

    def __exit__(self, *exc_info: object) -> None:
        import signal

        if self._handlers:
            for number, handler in self._handlers:
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
        self._receiver.close()
        self._sender.close()


def main(argv: list[str] | None = None) -> int:
    """Run a fake until SIGINT or SIGTERM, and return 0; where it cannot run, one line and SystemExit(2)."""
    with StopSignal() as stop_signal:
        parser = make_parser()
        args = parser.parse_args(argv)
        reporter = Reporter(args.json)
        journal = None
        try:
            journal = None if args.journal is None else Journal(args.journal)

            def on_call(call: Call) -> None:
                if journal is not None:
                    journal.add(call)
                if not args.quiet:
                    reporter.add(call, server)

            server = make_server(args, None if args.quiet and journal is None else on_call,
                                 None if args.quiet else reporter.add_unmatched)
            server.start()
        except (OSError, ValueError) as error:
            reporter.close()
            if journal is not None:
                journal.close()
            parser.error(getattr(error, "strerror", None) or str(error))
        try:
            reporter.say(f"Mock {server.service} on {server.url} - POST {server.endpoint} - Ctrl+C stops", listening=server.url)
            stop_signal.wait()
        finally:
            server.stop()
        calls, received = server.get_call_count(), server.get_heartbeat_count()
        if not args.quiet:
            reporter.say(f"{received} heartbeat{'' if received == 1 else 's'} received, {calls - received} of {calls} calls refused",
                         heartbeat_count=received, call_count=calls)
        reporter.close()
        if journal is not None:
            journal.close()
        if __name__ == "__main__":  # else the process is not ours to end
            leave()
    return 0


def leave() -> NoReturn:
    """End the process with success, at once, while signals still do nothing.

    The interpreter's own end is no place for them: it may crash, or tell of a closed socket.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            pass
    os._exit(0)


# ------------------------------------------------------------------------------------------
# The page at /_mock/: no outside resource; what came from clients is only ever set as text
# ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def page_policy() -> str:
    """A Content-Security-Policy that lets the page's own style and script run, by their hashes, and nothing else."""
    import base64
    import hashlib

    def source(tag: str) -> str:
        text = PAGE[PAGE.index(f"<{tag}>") + len(tag) + 2:PAGE.index(f"</{tag}>")]
        return f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (f"default-src 'none'; {source('style')}; {source('script')}; connect-src 'self'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>mock_odoo</title>
<style>
:root { color-scheme: light dark; --good: #176f2c; --poor: #8a5a00; --bad: #b3261e; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --good: #6fd08c; --poor: #f0b849; --bad: #ff8a80; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
#state { font-weight: 600; }
.up, .accepted b { color: var(--good); }
.scripted, .refused b { color: var(--poor); }
.gone, .faulted b, #error { color: var(--bad); }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
button, input[type=text] { font: inherit; min-height: 2.5rem; padding: 0 .8rem; border: 1px solid var(--line); border-radius: .4rem; }
input[type=text] { flex: 1 1 12rem; min-width: 0; font-family: monospace; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .3rem 0; border-top: 1px solid var(--line); }
li b { flex: 0 0 6.5rem; }
small { opacity: .75; }
</style>
</head>
<body>
<h1>mock_odoo</h1>
<div id="state" role="status">Connecting</div>
<small id="counts"></small>
<div><small id="unmatched"></small></div>

<h2>Odoo is</h2>
<div class="row">
<button data-script="">all well</button>
<button data-script="503*3">failing 3 times</button>
<button data-script="503*">failing for ever</button>
<button data-script="ok*2, 503*3" data-loop>flapping</button>
<button data-script="ok@6s*">slow</button>
<button data-script="stall*">stalling</button>
<button data-script="reset*">resetting</button>
<button id="down">out for 10 s</button>
</div>

<h2><label for="script">Script</label></h2>
<form class="row" id="play">
<input type="text" id="script" placeholder="503*2, reset, ok@6s" autocomplete="off" autocapitalize="off" spellcheck="false" aria-describedby="error">
<label><input type="checkbox" id="loop"> loop</label>
<button>Play</button>
</form>
<div id="error" role="alert"></div>

<h2>Heartbeats, the newest first</h2>
<div class="row"><button id="forget">Forget everything</button>
<small><span aria-hidden="true">&#9679;</span> accepted <span aria-hidden="true">&#9650;</span> refused <span aria-hidden="true">&#10006;</span> faulted</small></div>
<ol id="calls"></ol>

<script>
"use strict";
const at = id => document.getElementById(id);
const MARKS = {accepted: "\\u25cf", refused: "\\u25b2", faulted: "\\u2716"};
let seen = 0, seenAt = 0;

async function ask(method, path, body) {
  const options = method === "GET" ? {} : {method, body: JSON.stringify(body), headers: {"Content-Type": "application/json"}};
  const response = await fetch("/_mock/" + path, options);
  const data = await response.json();
  if (!response.ok && response.status !== 408) throw new Error(data.error);
  return data;
}

function tell(kind, text) {
  at("state").className = kind;
  if (at("state").textContent !== text) at("state").textContent = text;
}

function text(value) {
  return (typeof value === "string" ? value : value === undefined ? "?" : JSON.stringify(value)).slice(0, 60);
}

function row(call) {
  const kind = call.accepted ? "accepted" : /^[0-9]+$/.test(call.reply) ? "refused" : "faulted";
  const beat = call.payload || {}, buffer = beat.buffer_status || {}, breaker = beat.circuit_breaker || {};
  const item = document.createElement("li");
  item.className = kind;
  item.title = kind;
  const parts = [["b", MARKS[kind] + " " + call.reply + (call.delay ? "@" + call.delay + "s" : "")], ["time", new Date(call.received_at * 1000).toLocaleTimeString()],
    ["span", text(beat.adapter_id)],
    ["span", `buffer ${text(buffer.current_queued)}/${text(buffer.total_capacity)} (${text(buffer.percent_full)}%)`],
    ["span", `breaker ${text(breaker.state)}`]];
  for (const [tag, content] of parts) item.appendChild(document.createElement(tag)).textContent = content;
  return item;
}

async function show(state) {
  document.title = state.service + " (fake)";
  if (state.script) tell("scripted", `${state.service} plays ${state.script}${state.loop ? " in a loop" : ""}`);
  else tell("up", `${state.service} is up`);
  at("counts").textContent = `${state.heartbeat_count} of ${state.call_count} heartbeats accepted at ${state.heartbeat_url}`;
  at("unmatched").textContent = state.unmatched.length ? "Missed the endpoint: " + state.unmatched.slice(-3).join(", ") : "";
  const callsAfter = async number => (await ask("GET", `calls?since=${Math.max(0, number)}`)).calls;
  let calls = await callsAfter(seen - 1);
  if (seen && (!calls.length || calls[0].number !== seen || calls[0].received_at !== seenAt)) {  // they were forgotten
    seen = 0;
    at("calls").replaceChildren();
    calls = await callsAfter(state.call_count - 100);
  }
  for (const call of calls) if (call.number > seen) {
    [seen, seenAt] = [call.number, call.received_at];
    at("calls").prepend(row(call));
  }
  while (at("calls").children.length > 100) at("calls").lastChild.remove();
}

async function change(method, path, body) {
  at("error").textContent = "";
  try { await show(await ask(method, path, body)); }
  catch (error) { at("error").textContent = error.message; }
}

async function watch() {
  for (let path = "state"; ; ) {
    try {
      const state = await ask("GET", path);
      await show(state);
      path = seen > state.call_count ? "state" : `wait?calls=${seen + 1}&timeout=5`;
    } catch (error) {
      path = "state";
      tell("gone", "No answer: an outage, or the fake was stopped");
      await new Promise(resolve => setTimeout(resolve, 500));
    }
  }
}

for (const button of document.querySelectorAll("[data-script]"))
  button.onclick = () => change("PUT", "script", {script: button.dataset.script, loop: "loop" in button.dataset});
at("down").onclick = () => change("POST", "down", {seconds: 10});
at("forget").onclick = () => change("POST", "reset", {});
at("play").onsubmit = event => {
  event.preventDefault();
  change("PUT", "script", {script: at("script").value, loop: at("loop").checked});
};
watch();
</script>
</body>
</html>
"""


if __name__ == "__main__":
    import signal

    # main() takes these signals. Before it, there is nothing to end in order.
    for _name in STOP_SIGNALS:
        if hasattr(signal, _name):
            signal.signal(getattr(signal, _name), lambda *args: os._exit(0))
    raise SystemExit(main())
