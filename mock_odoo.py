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

A map of the file. For the story, read the first three rooms.

    Replies          what a heartbeat can be answered, and the script of it
    Memory           the script that plays, the calls that came, who waits and who hears of them
    MockOdooServer   the public face: it answers requests, and is what tests hold
    Contract         what a heartbeat must hold, for strict=True
    Wire             bytes to requests, replies to bytes, honest or faulty: the faults stand here
    Listener         the port, its threads and its connections
    Control          the server over HTTP, for other processes and the page
    Command line     python -m mock_odoo
    Ground floor     for every room: checks, the clock, JSON, threads
    Page             what a browser sees of it

Three questions that a reader has:

    Who may hold which lock?
        A server has one lock, and whoever changes something holds it. Nobody calls a user's
        function meanwhile. A second lock lets one heartbeat at a time ask the service; it is taken
        first. Readers hold none: they copy a list, or take what is replaced as a whole.
    Who calls the user's functions?
        The teller's thread calls on_call, on_event and on_unmatched, one at a time, in order.
        A heartbeat's own thread calls verdict, make_success and find_problems, also one at a time,
        and the functions of routes. Who waits or asks calls where, sender and describe_call.
    What ends a wait?
        What it waits for, its time or, in a thread of the fake, the end of its listener. At the
        interpreter's end, nothing waits.
"""

from __future__ import annotations

import _thread
import collections
import datetime
import errno
import functools
import http.client
import io
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
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPE_CHECKING = False  # typing's own would cost its import, 3 ms
if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import IO, Any, NoReturn, Self, TypeAlias, TypeVar

    Method = TypeVar("Method", bound=Callable[..., Any])
    ScriptLike: TypeAlias = "str | Reply | dict[str, Any] | Sequence[ScriptLike]"
    Route: TypeAlias = "Callable[[Request], Reply]"
    Routes: TypeAlias = "dict[str, dict[str, Route]]"  # by path, then by method
    Event: TypeAlias = "dict[str, Any]"

__all__ = ["Call", "MockOdooServer", "Reply", "__version__", "main"]
__version__ = "1.0.0"

#: The longest time that anybody may ask for. `stall` and `down()` last until something ends them.
MAX_SECONDS = 86400
FOREVER = float("inf")
PATIENCE = 5.0  # seconds that stop() gives the threads to end


# ------------------------------------------------------------------------------------------
# Replies: what a heartbeat can be answered, and the script that puts the replies in order.
# Pure data, which knows no socket and no lock. The faults are in the Wire, each with its word.
# ------------------------------------------------------------------------------------------

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
MAX_TIMES = 10**18 - 1
HTML = "text/html; charset=utf-8"


class Reply:
    """One answer to a heartbeat, for `MockOdooServer.play`.

    `status`   200 to 599
    `body`     text, bytes, or anything that JSON can express; None for what the service itself
               says: the success reply for 2xx, `{"error": ...}` for 4xx and 5xx, the page of a
               proxy for 502 and 504, nothing for 3xx
    `headers`  beside the usual ones, or in place of them; a list as the value makes a line of each
    `delay`    seconds before the first byte
    `fault`    a way to spoil it: "reset", "stall" or another word of `FAULTS`
    `accepts`  True where this reply means that the heartbeat was received, False where not.
               None follows the rule: a 2xx reply that is sent whole accepts (RFC 9110,
               section 15.3), unless its body was given as text or bytes

        Reply(429, {"error": "slow down"}, headers={"Retry-After": "5"})

    Raises TypeError or ValueError for what cannot be sent.
    """

    problem: str | None = None  # what was wrong with the request, where that is the reason

    def __init__(
        self, status: int = 200, body: object = None,
        headers: Mapping[str, str | Sequence[str]] | None = None, *,
        delay: float = 0.0, fault: str | None = None, accepts: bool | None = None,
    ) -> None:
        self.status = check_whole("status", status, 200, 599)
        try:
            self.body = None if body is None else encode(body)
        except UnicodeEncodeError:
            raise ValueError(f"body has a letter that UTF-8 cannot express: {body!r:.80}") from None
        if headers is not None and not hasattr(headers, "items"):
            raise TypeError(f"headers must map text to text, not {headers!r:.80}")
        self.headers = dict(headers or {})
        for name, value in header_lines(self.headers):
            check_header(name, value)
        self.delay = check_seconds("delay", delay)
        if fault is not None and (not isinstance(fault, str) or fault not in FAULTS):
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


def header_lines(headers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A name and a value for each line. A list as the value makes several lines."""
    for name, value in headers.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            yield name, each


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

#: The words for whole replies: what the client gets, and the fields of the Reply.
WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ok": ("the success reply", {}),
    "html": (
        "200 with a web page, as from a captive portal",
        {"body": PORTAL, "headers": {"Content-Type": HTML}},
    ),
    "login": (
        "303 to /web/login, as from an HTML route without a session",
        {"status": 303, "body": b"", "headers": {"Location": "/web/login"}},
    ),
    "expired": (
        "200 with JSON-RPC error 100, as from a JSON route without one",
        {"body": SESSION_EXPIRED, "accepts": False},
    ),
}

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
    words = {word: meaning for word, (meaning, _) in WORDS.items()}
    ok = words.pop("ok")
    status = "that status (200 to 599), with a JSON error for 4xx and 5xx"
    proxy = "the HTML page of a proxy (nginx) whose service does not answer"
    return {"ok": ok, "503 ...": status, "502, 504": proxy, **FAULTS, **words}


class Step:
    """A reply, and how many times it is still to be given."""

    def __init__(self, reply: Reply, times: float = 1) -> None:
        self.reply = reply
        self.times = times

    def __str__(self) -> str:
        times = "" if self.times == 1 else "*" if self.times == FOREVER else f"*{self.times}"
        return f"{self.reply}{times}"


class Script:
    """The replies still to be given, in order.

    It never changes: what is left after a reply is another script. `503*1000000000` costs nothing,
    since steps are counted, not expanded. A loop puts back at its end what it takes from its front.
    """

    def __init__(self, script: ScriptLike = (), loop: bool = False) -> None:
        """Read a script; TypeError or ValueError says what is wrong with it."""
        self.loop = check_flag("loop", loop)
        try:
            self._steps = read_steps(script)
        except RecursionError:
            raise ValueError("the script holds itself, or lists in lists without end") from None
        check_order(self._steps, loop)

    def next(self) -> tuple[Reply | None, Script]:
        """The next reply, None when the script has run out; and the script that is left."""
        if not self._steps:
            return None, self
        step, rest = self._steps[0], self._steps[1:]
        if step.times > 1:
            rest.insert(0, Step(step.reply, step.times - 1))
        if self.loop and step.times != FOREVER:
            again = rest.pop().times if rest and rest[-1].reply is step.reply else 0
            rest.append(Step(step.reply, again + 1))
        left = Script(loop=self.loop)
        left._steps = rest
        return step.reply, left

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
    if isinstance(script, (list, tuple)):
        return [step for part in script for step in read_steps(part)]
    if type(script).__name__ == "Reply":
        raise TypeError(
            f"this Reply comes from another copy of the module: {type(script).__module__}, not "
            f"{__name__}; import it under one name everywhere"
        )
    raise TypeError(
        f"a script must be text, a Reply, the fields of one, or a list of these, not {script!r:.80}"
    )


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
    if word in WORDS:
        return Reply(**WORDS[word][1]).but(word=word)
    if word in FAULTS:
        return Reply(fault=word)
    if re.fullmatch("[2-5][0-9][0-9]", word):
        return Reply(int(word))
    known = HINTS.get(word.lower())
    hint = f" ({known})" if known else did_you_mean(word, [*WORDS, *FAULTS])
    raise ValueError(
        f"{word!r:.80} is no reply{hint}; expected one of {', '.join([*WORDS, *FAULTS])} or a "
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


def settle(scripted: Reply | None, verdict: Reply | None) -> Reply | None:
    """What is sent: the script's reply or, where that accepts, what a healthy service says.

    A scripted reply without a body of its own says what the service says. The verdict is None
    where the script did not let the service be asked; the result is None only if both are.
    """
    if scripted is None or verdict is None:
        return scripted or verdict
    if not verdict.accepts:
        return verdict
    if scripted.body is not None or scripted.status >= 300:
        return scripted
    kept: dict[str, Any] = {"delay": scripted.delay or verdict.delay}
    if scripted.word != "ok":  # an ok leaves all but the delay and the headers to the service
        kept.update(word=scripted.word, fault=scripted.fault, accepts=scripted.accepts)
    if scripted.status != 200:
        kept["status"] = scripted.status
    if scripted.headers:
        kept["headers"] = {**verdict.headers, **scripted.headers}
    return verdict.but(**kept)


# ------------------------------------------------------------------------------------------
# Memory: the script that plays, the calls that came, who waits for them, and who hears of them.
# It knows replies; of a request it reads the client, the head and the body, and asks it whether
# its client has left.
# ------------------------------------------------------------------------------------------

MAX_UNMATCHED = 20  # requests that were no calls
MAX_EVENTS = 100
MAX_SPOILT = 20  # calls whose body may come again


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
    `repeats`      the number of an earlier call with the same body, whose answer was spoilt by a
                   fault, by a status that refuses, or because its client left; else None. HTTP
                   clients may send such a request again by themselves
    `client`       (host, port)
    `query`        what stood behind "?" in the path; "" for nothing
    `took`         seconds from the arrival to the end of the answer; None until then
    `left`         True where the client hung up before that end, False where it did not or we
                   cut it; None until then
    `body`         the bytes that came; b"" where the request was refused unread
    `payload`      the body as JSON
    `headers`      a mapping that ignores case
    """

    __slots__ = (  # noqa: RUF023 - the public ones in the order of the journal
        "number", "received_at", "reply", "delay", "problem", "accepted", "repeats", "client",
        "query", "body", "_took", "_left", "_head", "_arrived", "_was_spoilt", "has_left_now",
    )
    FIELDS = (*__slots__[:9], "took", "left")

    def __init__(self, number: int, reply: Reply, request: Request, repeats: int | None) -> None:
        self.number = number
        self.received_at = request.received_at
        self.reply = reply.word
        self.delay = reply.delay
        self.problem = reply.problem
        self.accepted = reply.accepts
        self.repeats = repeats
        self.client = request.client
        self.query = request.query
        self._took: float | None = None
        self._left: bool | None = None
        self.body = request.body
        self._head = request.head.raw
        self._arrived = request.arrived  # for intervals: somebody may set the wall clock
        self._was_spoilt = not (reply.accepts and reply.fault in WHOLE)
        self.has_left_now: Callable[[], bool] | None = request.has_left  # None near the end

    @property
    def payload(self) -> Any:
        """The body as JSON, parsed afresh for every reader; None where it is not JSON."""
        return parse_or_none(self.body)

    @property
    def headers(self) -> http.client.HTTPMessage:
        """The headers: a mapping that ignores case, whose `get_all` gives repeated ones."""
        return read_headers(self._head)

    @property
    def took(self) -> float | None:
        """Seconds from the arrival to the end of the answer; None until then."""
        return Clock.now() - self._arrived if self._took is None and self.left else self._took

    @property
    def left(self) -> bool | None:
        """Did the client hang up before the end of its answer? None until that end.

        It is true at once, also before the thread that answers has noticed.
        """
        ask = self.has_left_now
        return True if ask is not None and ask() else self._left

    @property
    def has_ended(self) -> bool:
        """Has the thread that answers it come to the end?"""
        return self._took is not None

    def end(self, has_left: bool) -> None:
        """The answer has ended, perhaps because its client has left."""
        self._took = Clock.now() - self._arrived
        self._left = has_left
        self.has_left_now = None

    def is_spoilt(self) -> bool:
        """Might a client send it again?"""
        return self._was_spoilt or bool(self.left)

    def to_json(self, **more: object) -> str:
        """One line of JSON, with `more` fields. A body that is no JSON stands there as text."""
        headers = self.headers
        fields = {name: getattr(self, name) for name in self.FIELDS}
        fields["time"] = iso_time(self.received_at)
        fields["payload"] = self.payload
        fields["headers"] = {name: ", ".join(headers.get_all(name, [])) for name in headers}
        if fields["payload"] is None:
            fields["body"] = self.body.decode("utf-8", "replace")
        return json_line({**fields, **more})

    def __repr__(self) -> str:
        return f"<Call {self.number}: {self.reply} {self.body!r:.200}>"


class Record:
    """What came since the last reset, which begins a new record.

    Whoever adds to it holds the lock. Readers need none: they take a number, a tuple that is
    replaced as a whole, or a copy of the list (a deque cannot be copied while it grows).
    """

    def __init__(self, max_calls: int | None) -> None:
        self._max_calls = max_calls
        self._calls: list[Call] = []
        self.call_count = 0  # also those that max_calls dropped
        self.heartbeat_count = 0
        self.unmatched: tuple[str, ...] = ()
        self.events: tuple[Event, ...] = ()
        self.spoilt: collections.deque[Call] = collections.deque(maxlen=MAX_SPOILT)
        self.open: dict[int, Call] = {}  # the calls whose answers have not ended

    def add(self, reply: Reply, request: Request) -> Call:
        call = Call(self.call_count + 1, reply, request, self._find_spoilt(request.body))
        if call._was_spoilt:
            self.spoilt.append(call)
        self.open[call.number] = call
        self._calls.append(call)
        if len(self._calls) - 1 == self._max_calls:
            del self._calls[0]
        self.heartbeat_count += call.accepted
        self.call_count += 1
        return call

    def _find_spoilt(self, body: bytes) -> int | None:
        if not self.spoilt and not self.open:
            return None
        for call in [*self.spoilt, *self.open.copy().values()]:
            if body and call.body == body and call.is_spoilt():
                self.open.pop(call.number, None)  # one repeat for each spoilt answer
                if call in self.spoilt:
                    self.spoilt.remove(call)
                return call.number
        return None

    def end(self, call: Call, has_left: bool) -> None:
        """The answer to a call has ended, perhaps because its client has left."""
        call.end(has_left)
        if self.open.pop(call.number, None) is not None and has_left and not call._was_spoilt:
            self.spoilt.append(call)

    def calls_after(self, number: int) -> list[Call]:
        calls = self._calls.copy()  # one step, also without the GIL
        if len(calls) - 1 == self._max_calls:  # the oldest is just being dropped
            del calls[0]
        first = calls[0].number if calls else 0
        return calls[max(0, number + 1 - first):]


class Teller:
    """Calls the user's functions: in a thread of its own, one at a time, in order.

    So no user's function is called in the middle of a change, or with a lock held, ours or the
    caller's. The thread lives while there is news.
    """

    def __init__(self, lock: Any, functions: dict[str, Callable[[Any], object] | None]) -> None:
        self._lock = lock
        self._functions = functions
        self._queue: collections.deque[tuple[str, Any, Task | None, Signal]] = collections.deque()
        self.task: Task | None = None  # the thread that tells
        self.origin: Task | None = None  # the worker whose call is being told

    def add(self, name: str, news: object) -> Signal | None:
        """Queue some news. Call this under the lock: the order is made here.

        Returns what is given when it has been told; None where nobody wants to hear it, or nobody
        can tell it now.
        """
        if self._functions.get(name) is None:
            return None
        told = Signal()
        origin = None if name == "on_event" else current_task()  # whose thread does not wait
        self._queue.append((name, news, origin, told))
        return told if self._has_thread() else None

    def mark(self) -> tuple[Signal, Task] | None:
        """What is given when all has been told that was added so far, and the thread that tells."""
        if not self._queue and self.task is None or not self._has_thread():
            return None
        told = Signal()
        self._queue.append(("", None, None, told))
        assert self.task is not None
        return told, self.task

    def _has_thread(self) -> bool:
        """Start the thread, unless there is one. False where there can be none."""
        if self.task is None or not self.task.is_alive():
            if sys.is_finalizing():  # it would never run, or crash the interpreter
                return False
            self.task = Task("mock_odoo teller", self._tell)
            try:
                self.task.start()
            except RuntimeError:  # out of threads: whoever comes next may have one
                self.task = None
                return False
        return True

    def _tell(self) -> None:
        while True:
            with self._lock:
                if self.task is not current_task():  # an interruption had another one started
                    return
                if not self._queue:
                    self.task = self.origin = None
                    return
                name, news, self.origin, told = self._queue.popleft()
            function = self._functions.get(name)
            try:
                if function is not None:  # else it is a mark
                    call_user(name, function, news)
            finally:
                told.give()


class Scenario:
    """The script and the memory under one lock, so that call N got reply N."""

    def __init__(
        self, lock: Any, max_calls: int | None, functions: dict[str, Callable[[Any], object] | None]
    ) -> None:
        self._lock = lock
        self._max_calls = max_calls
        self.script = Script()
        self.record = Record(max_calls)
        self.generation = 0  # a delay ends when this has changed
        self.teller = Teller(lock, functions)
        self.bell = Bell()  # rung when a waiter may find what it waits for
        self._turn = Lock()  # held by the thread whose heartbeat the service is asked about

    # -- Changes: whoever calls these holds the lock

    def play(self, script: Script) -> None:
        self.script = script
        self.note("script", script=str(script), loop=script.loop)

    def forget(self) -> None:
        """Begin a new record, which takes over what was done to the fake."""
        events = self.record.events
        self.record = Record(self._max_calls)
        self.record.events = events
        self.bell.ring()

    def reset(self) -> None:
        self.script = Script()
        self.record = Record(self._max_calls)
        self.note("reset")
        self.let_go()

    def let_go(self) -> None:
        """End every delay, and wake all who wait, to check again."""
        self.generation += 1
        self.bell.ring()

    def note(self, name: str, **fields: object) -> None:
        """Remember what was done to the fake, and tell of it."""
        event = make_event(name, **fields)
        self.record.events = (*self.record.events, event)[-MAX_EVENTS:]
        self.teller.add("on_event", dict(event))

    # -- What came: the threads of clients call these, without the lock

    def take(self, request: Request, ask_service: Callable[[Request], Reply]) -> Reply:
        """Record a call, and return the reply to it: the script's, or the service's.

        One at a time: the calls have the order in which the service was asked.
        """
        with self._turn:
            with self._lock:
                request.handler.check_open()  # it may have waited while we were cutting it
                step, self.script = self.script.next()
                record, request.generation = self.record, self.generation
                request.arrived, request.received_at = Clock.now(), Clock.wall()
            verdict = ask_service(request) if step is None or step.accepts else None
            reply = settle(step, verdict)
            assert reply is not None
            with self._lock:
                request.record, request.call = record, record.add(reply, request)
                told = self.teller.add("on_call", request.call)
        self.bell.ring()
        if told is not None:
            told.wait()
        return reply

    def answer_ended(self, request: Request, has_left: bool) -> None:
        """The answer to a call has ended. It may end twice: when it is sent, and after that."""
        call = request.call
        if call is not None and request.record is not None and not call._left:
            with self._lock:
                request.record.end(call, has_left)
            if has_left:
                self.tell_of("left", number=call.number, after=round(call.took or 0.0, 3))

    def note_unmatched(self, what: str) -> None:
        """Remember what came that is no call."""
        with self._lock:
            self.record.unmatched = (*self.record.unmatched, what)[-MAX_UNMATCHED:]
            self.teller.add("on_event", make_event("unmatched", unmatched=what))
            told = self.teller.add("on_unmatched", what)
        if told is not None:
            told.wait()

    def tell_of(self, name: str, **fields: object) -> None:
        """Tell of an event that is not remembered: it was not done to the fake."""
        with self._lock:
            self.teller.add("on_event", make_event(name, **fields))

    # -- Waiting

    def wait(
        self, what: str, n: int, timeout: float, fits: Callable[[Call], object] | None,
        given_up: Callable[[], bool],
    ) -> list[Call]:
        """Block until there are `n` calls or heartbeats, or `n` that fit; return those calls.

        Raises TimeoutError that tells what there was instead.
        """
        deadline = Clock.now() + check_seconds("timeout", timeout)
        check_whole("n", n, 0)
        record: Record | None = None
        while True:
            if self.record is not record:  # after a reset, everything begins again
                record, seen = self.record, 0
                fitting: list[Call] = []
            count = record.call_count
            if fits is None:
                found = count if what == "calls" else record.heartbeat_count
            else:  # the user's function: once for each call
                new = record.calls_after(seen)
                fitting += [call for call in new if fits(call)]
                seen = new[-1].number if new else seen
                found = len(fitting)
            if found >= n:
                return record.calls_after(0) if fits is None else fitting
            left = deadline - Clock.now()
            if left <= 0 or given_up():
                fit = "" if fits is None else " that fit"
                raise TimeoutError(
                    f"{found} of {n} {what}{fit} in {float(timeout)} s; {story(record)}"
                )
            self.bell.wait(functools.partial(self._has_news, record, count, given_up), left)

    def _has_news(self, record: Record, count: int, given_up: Callable[[], bool]) -> bool:
        return self.record is not record or record.call_count > count or given_up()

    def after_fork(self) -> None:
        """In a forked child, other threads are gone: with their locks, and with what they told."""
        self._lock = self.teller._lock = RLock()
        self._turn = Lock()
        self.bell = Bell()
        self.teller._queue.clear()
        self.teller.task = None


def make_event(name: str, **fields: object) -> Event:
    now = Clock.wall()
    return {"event": name, "at": now, "time": iso_time(now), **fields}


def story(record: Record) -> str:
    """What came, for a person who waited for something else."""
    calls, unmatched = record.calls_after(0), list(record.unmatched)
    timeline = ["..."] * (len(calls) > 20) + [call.reply for call in calls[-20:]]
    story = [f"calls: {', '.join(timeline)}" if calls else "no calls"]
    story += [f"last problem: {call.problem}" for call in calls if call.problem][-1:]
    story += [f"unmatched: {unmatched[-3:]}"] if unmatched else []
    return "; ".join(story)


# ------------------------------------------------------------------------------------------
# MockOdooServer: the public face. It says what a healthy service would say, asks the script for
# the rest, and holds the current listener.
# ------------------------------------------------------------------------------------------

RELEASE = 1.0  # seconds for an acceptor to let go of its port, which takes microseconds
REMEDIES = {
    errno.EADDRINUSE: "; stop what listens there, or take port=0, a free one",
    errno.EACCES: "; take a port above 1023 that nobody has, or port=0, a free one",
    errno.EADDRNOTAVAIL: "; host must be an address of this machine",
}
SUCCESS = {"status": "ok", "message": "Heartbeat received"}
LOGIN_PAGE = "<!DOCTYPE html>\n<title>Odoo</title>\n<h1>Log in</h1>\n"
#: What nginx makes of an Odoo that is dead or too slow (ngx_http_special_response.c).
PROXY_PAGES = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}
PROXY_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
PROXY_HEADERS = {"Server": "nginx", "Content-Type": "text/html"}


def changing(method: Method) -> Method:
    """Do a public method under the lock of its server.

    A signal handler that raises can interrupt the main thread anywhere: also where it has just
    taken the lock, or is about to give it back. So the lock is given back twice: if the first time
    is interrupted, the second does it. A signal handler, or a `__del__`, can also call a method in
    the middle of a change; that is done at the end of the change, and returns None.
    """

    @functools.wraps(method)
    def call(self: MockOdooServer, *args: Any, **kwargs: Any) -> Any:
        lock = self._lock
        is_changing = getattr(OWN, "is_changing", False) or current_task() is not None
        if lock._is_owned() and is_changing:
            self._put_off.append(functools.partial(method, self, *args, **kwargs))
            return None
        before = getattr(OWN, "is_changing", False)
        try:
            try:
                OWN.is_changing = True
                lock.acquire(not sys.is_finalizing())  # the holder may be gone for ever
                return method(self, *args, **kwargs)
            finally:
                self._do_put_off()
                OWN.is_changing = before
                self._do_put_off()  # what has come since
                give_back(lock)
        finally:
            OWN.is_changing = before
            give_back(lock)

    return call  # type: ignore[return-value]


def give_back(lock: Any) -> None:
    """Release a lock as often as this thread has taken it."""
    try:
        while True:
            lock.release()
    except RuntimeError:  # it is free, or another thread's
        pass


class StoppedUnlessDone:
    """What fails in this block, or is interrupted, leaves the server stopped."""

    def __init__(self, server: MockOdooServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._server._stop_now()


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
    `on_event`     is called with every event, a dict like those of `get_events()`, and with three
                   that are not remembered there:
                   {"event": "unmatched", "unmatched": ...} for every line of `get_unmatched()`,
                   {"event": "left", "number": 5, "after": 2.003} for a client that hung up,
                   {"event": "request", "request": "200 POST /sign"} for an added route

    A thread of the fake calls the three functions, one at a time, in the order of what happened.
    What they raise is logged. They may use the server, but not send it heartbeats. Methods such as
    `play` and `down` do not wait for them, only `stop` does.

    Nothing is bound before `start()`, or a `with` block, which starts and stops. Another service is
    a subclass with its own `endpoint`, `default_port`, `service`, `noun` and `make_success`. Raises
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
        self, port: int | None = None, host: str = "127.0.0.1", *, strict: bool = False,
        ssl_context: ssl.SSLContext | None = None, max_calls: int | None = None,
        control: bool = False, on_call: Callable[[Call], object] | None = None,
        on_unmatched: Callable[[str], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.port = check_whole("port", self.default_port if port is None else port, 0, 65535)
        self.host = check_host(host)
        self.strict = check_flag("strict", strict)
        self.ssl_context = check_context(ssl_context)
        if max_calls is not None:
            check_whole("max_calls", max_calls, 1)
        functions: dict[str, Callable[[Any], object] | None] = {
            "on_call": on_call, "on_event": on_event, "on_unmatched": on_unmatched
        }
        for name, function in functions.items():
            check_callable(name, function)
        self._ok = Reply()
        self._lock: Any = RLock()
        self._scenario = Scenario(self._lock, max_calls, functions)
        self._put_off: collections.deque[Callable[[], object]] = collections.deque()
        self._stops = 0
        self._listener: Listener | None = None  # each start and each outage makes a new one
        self._listeners: list[Listener] = []  # also closed ones whose threads may not have ended
        self.routes = self._make_routes()
        self._own_paths = frozenset(self.routes)
        if check_flag("control", control):
            add_routes(self.routes, Control(self).routes)
        SERVERS.add(self)

    def _make_routes(self) -> Routes:
        def serve(*args: Any) -> dict[str, Route]:
            return {"GET": lambda request: Reply(*args)}

        routes: Routes = {check_endpoint(self.endpoint): {"POST": self._answer_heartbeat}}
        add_routes(routes, {
            "/health": serve(200, {"status": "ok"}),
            "/api/v1/health": serve(200, {"status": "ok"}),  # what some compose files ask
            "/web/health": serve(200, {"status": "pass"}),  # Odoo's own probe
            "/web/login": serve(200, LOGIN_PAGE, {"Content-Type": HTML}),
        })
        return routes

    # -- What a healthy service says: for subclasses to override

    def make_success(self, payload: dict[str, Any]) -> object:
        """What the service says to a good heartbeat.

        The body of the success reply: anything that JSON can express, or JSON ready-made as text or
        bytes. Or a `Reply` of any kind, such as a 409 for a duplicate. Called for every well-formed
        heartbeat that the script lets through, one at a time, in the order of the calls, and before
        the call is recorded.
        """
        return SUCCESS

    def find_problems(self, payload: dict[str, Any]) -> list[str]:
        """What `strict` finds wrong, a line each."""
        return contract_problems(payload)

    def verdict(self, request: Request) -> Reply:
        """What a healthy service says to a heartbeat, well-formed or not.

        It is asked where the script would accept, one heartbeat at a time, and its reply is sent.
        The request has `method`, `path`, `query`, `headers` (a mapping that ignores case), `body`,
        `client` and `payload`; so a subclass can ask for a bearer token, or have one adapter down
        and the others up:

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
        return success if isinstance(success, Reply) else self._ok.but(body=encode(success))

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
            return clip(call.body[:200].decode("utf-8", "replace"), 60)
        if not isinstance(payload, dict) or not any(name in payload for name in known):
            return clip(json.dumps(payload, ensure_ascii=False), 60)
        name, queued, capacity, percent, state = (
            shown(payload, *path.split("."))
            for path in (
                "adapter_id", "buffer_status.current_queued", "buffer_status.total_capacity",
                "buffer_status.percent_full", "circuit_breaker.state",
            )
        )
        buffer = f"buffer {queued}/{capacity} ({percent}%)"
        return f"{name:<10}  {buffer:<22}  breaker {state:<9}"

    # -- What the wire asks

    def check_head(self, head: Head) -> Refusal | None:
        """What is wrong with a request whatever its body says."""
        methods = self._find_methods(head.path)
        if not methods:
            known = ", ".join(
                f"{method} {path}" for path in self.routes for method in self.routes[path]
            )
            return Refusal(404, f"there is no {head.path:.200} here; there are {known}")
        route = self._find_route(head)
        if route is None:
            allowed = ", ".join(methods) + (", HEAD" if "GET" in methods else "")
            complaint = f"{head.path} takes {allowed}, not {head.method:.40}"
            return Refusal(405, complaint, {"Allow": allowed})
        coding = head.fields.get("content-encoding", "identity")
        if coding.lower() != "identity":
            return Refusal(
                415, f"Content-Encoding {coding!r:.80} is not understood; send the body as it is"
            )
        if route == self._answer_heartbeat and not head.is_json:
            kind = head.fields.get("content-type", "missing")
            return Refusal(415, f"Content-Type must be application/json; it is {kind:.80}")
        return None

    def answer(self, request: Request) -> Reply:
        """The reply to a request."""
        head, route = request.head, self._find_route(request.head)
        if route == self._answer_heartbeat:
            return self._answer_heartbeat(request)
        is_control = head.path == "/" and "/_mock/" in self.routes  # which leads there
        is_control = is_control or re.match("/_mock(/|$)", head.path) is not None
        if route is None:
            refusal = request.refusal or Refusal(404, "the route has just been removed")
            if not is_control:
                self.note_unmatched(f"{refusal.reply.status} {head.method} {head.path}")
            return refusal.reply
        request.generation = self._scenario.generation
        reply = self._ask_user(route, f"{head.method} {head.path}", request)
        if not is_control and head.path not in self._own_paths:
            line = f"{reply.status} {head.method} {head.path}"
            self._scenario.tell_of("request", request=printable(line[:200]))
        return reply

    def _judge(self, request: Request) -> Reply:
        return self._ask_user(self.verdict, "verdict, make_success or find_problems", request)

    def _answer_heartbeat(self, request: Request) -> Reply:
        reply = self._scenario.take(request, self._judge)
        if reply.body is None and reply.status < 300:  # the service was not asked
            return reply.but(body=encode(SUCCESS))
        return self._word(reply) if reply.body is None else reply

    def _ask_user(self, function: Route, name: str, request: Request) -> Reply:
        """Ask a function of the user's for a reply. Where it fails, the reply says so.

        It is not asked about a request that is wrong already, whose body may not have been read.
        """
        if request.refusal is not None:
            return request.refusal.reply
        task = current_task()
        assert task is not None
        task.doing = name
        try:
            reply = function(request)
            if not isinstance(reply, Reply):
                what = name.partition(",")[0]
                raise TypeError(f"{what} must return a Reply, not {reply!r:.80}")
        except BaseException:  # noqa: BLE001 - pytest.fail() is no Exception
            log_bug(f"{name} failed")
            return Refusal(500, f"{name} failed; the log of the fake tells more").reply
        finally:
            task.doing = None
        return self._word(reply) if reply.body is None else reply

    def _find_methods(self, path: str) -> dict[str, Route]:
        methods = self.routes.get(path)
        if methods is None and path == self.endpoint + "/":  # Odoo's strict_slashes=False
            methods = self.routes.get(self.endpoint)
        return methods or {}

    def _find_route(self, head: Head) -> Route | None:
        methods = self._find_methods(head.path)
        route = methods.get(head.method)
        return methods.get("GET") if route is None and head.method == "HEAD" else route

    def _word(self, reply: Reply) -> Reply:
        """Say what the service itself says with a status, or the proxy before it."""
        if reply.status < 400:
            return reply.but(body=b"{}" if reply.status < 300 else b"")
        if reply.status in PROXY_PAGES:
            page = PROXY_PAGE.format(PROXY_PAGES[reply.status])
            return reply.but(body=encode(page), headers={**PROXY_HEADERS, **reply.headers})
        unavailable = f"{self.service} service unavailable"
        error = unavailable if reply.status == 503 else phrase(reply.status)
        return reply.but(body=encode({"error": error}))

    def answer_ended(self, request: Request, has_left: bool) -> None:
        """The answer to a request has ended, perhaps because its client has left."""
        self._scenario.answer_ended(request, has_left)

    def note_unmatched(self, what: str) -> None:
        """Remember what came that is no call."""
        self._scenario.note_unmatched(printable(what[:200]))

    def is_let_go(self, request: Request) -> bool:
        """Has a reset, a stop or an outage ended the delay of a reply?"""
        return request.generation != self._scenario.generation

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
            has_started = self._start()
        except BaseException:  # also what a signal handler raises when it has been done
            self.stop()
            raise
        if has_started is False:
            raise RuntimeError(f"already running at {self._address()}; call stop() first")

    @changing
    def _start(self) -> bool:
        if self._listener is not None:
            return False
        with StoppedUnlessDone(self):
            self._open(self._take_port(), "start")
        return True

    def stop(self) -> None:
        """Refuse new connections, cut the others, let go what is delayed, end every thread.

        All that is done when this returns (in a function of yours that the fake calls, its own
        connection and the threads end afterwards). Harmless when not running. The memory and the
        script stay: `start()` goes on with them, on the same port. A signal handler may call this;
        a method that it has interrupted is done first, and nobody waits for the threads then. When
        an exception has interrupted this, call it again.

        Raises RuntimeError where a thread has not ended in 5 s, because a function of yours hangs,
        such as on_call.
        """
        tasks = self._stop()
        if tasks is None or sys.is_finalizing() or self._is_inside():
            return  # it would wait for the caller, or for nobody
        deadline = Clock.now() + PATIENCE
        teller = self._scenario.teller.task
        if all(task.join(max(0.0, deadline - Clock.now())) for task in tasks):
            mark = self._mark()
            if mark is None:
                return
            told, teller = mark
            if told.wait(max(0.0, deadline - Clock.now())):
                teller.join(0.1)  # others may go on steering, and it go on telling
                return
        doing = [task.doing for task in [*tasks, teller] if task is not None and task.doing]
        raise RuntimeError(
            f"{doing[0] if doing else 'a thread'} has not ended in {PATIENCE:.0f} s: a function of "
            "yours hangs, or waits for this thread"
        )

    @changing
    def _stop(self) -> list[Task] | None:
        return self._stop_now()

    def _stop_now(self) -> list[Task]:
        """Stop, under the lock; return the threads that end now."""
        if self._listener is not None:
            self._scenario.note("stop")
        self._listener = None
        self._stops += 1
        self._close_all()
        return [task for listener in self._listeners for task in listener.tasks()]

    @changing
    def _mark(self) -> tuple[Signal, Task] | None:
        return self._scenario.teller.mark()

    def _do_put_off(self) -> None:
        """Do what was called in the middle of a change."""
        while self._put_off:
            try:
                self._put_off.popleft()()
            except Exception:  # noqa: BLE001 - whoever called it has gone on
                log_bug("a method that was called in the middle of another failed")

    def catch_up(self) -> None:
        """Do what a `__del__` has called while one of our threads held the lock."""
        if self._put_off:
            self._mark()  # any change does that at its end

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @changing
    def down(self, seconds: float | None = None) -> None:
        """An outage: refuse new connections and cut the others.

        It lasts for `seconds`, or until `up()` or `reset()`. The port stays reserved meanwhile.
        Raises RuntimeError where the server does not run, and OSError where somebody snatched the
        port in the instant between listening and reserving; the server is stopped then, as it is
        when an exception interrupts this.
        """
        seconds = None if seconds is None else check_seconds("seconds", seconds)
        self._needs_running()
        with StoppedUnlessDone(self):
            listener = self._take_port()
            self._listener = listener
            self._scenario.note("down", seconds=seconds)
            if seconds == 0:
                self._open(listener, "up")
            elif seconds is not None:
                listener.start_timer(seconds, self._time_is_up)

    @changing
    def up(self) -> None:
        """End an outage; harmless when there is none.

        Raises RuntimeError where the server does not run, and OSError where somebody has taken the
        port; the server is stopped then.
        """
        self._end_outage(self._needs_running())

    def _time_is_up(self, listener: Listener) -> None:
        try:
            self._end_timed_outage(listener)
        except (OSError, RuntimeError):  # nobody waits for that
            log_bug(f"cannot listen on port {self.port} again")

    @changing
    def _end_timed_outage(self, listener: Listener) -> None:
        if listener is self._listener:
            self._end_outage(listener)

    def _end_outage(self, listener: Listener) -> None:
        if not listener.is_open:
            with StoppedUnlessDone(self):
                self._open(listener, "up")

    def _needs_running(self) -> Listener:
        listener = self._listener
        if listener is None:
            raise RuntimeError("not running; call start() first")
        return listener

    def _take_port(self) -> Listener:
        """Bind a listener in place of the present one, whose connections are cut."""
        self._close_all()
        listener = Listener(self.host, self.port, self)
        earlier = [each for each in self._listeners if each.is_alive()]
        self._listeners = [*earlier, listener]
        deadline = Clock.now() + RELEASE
        while not listener.is_bound:
            try:
                listener.server_bind()
            except OSError as error:
                is_ours = any(each.is_accepting() for each in earlier)
                if error.errno != errno.EADDRINUSE or not is_ours or Clock.now() > deadline:
                    raise self._explain(error) from None
                Clock.sleep(0.001)  # Windows has nobody bind it while an acceptor looks at it
        self.port = listener.server_port
        return listener

    def _open(self, listener: Listener, event: str) -> None:
        try:
            listener.open()
        except OSError as error:
            raise self._explain(error) from None
        self._listener = listener
        self._scenario.note(event, **({"url": self.url} if event == "start" else {}))

    def _close_all(self) -> None:
        spared = self._spared()
        for listener in self._listeners:
            listener.close(spared)
        self._scenario.let_go()

    def _spared(self) -> Task | None:
        """The worker whose client is still answered: the caller, or the one whose call is told."""
        task, teller = current_task(), self._scenario.teller
        return teller.origin if task is not None and task is teller.task else task

    def _is_inside(self) -> bool:
        """Is the caller in a function of the user's, which one of our threads has called?"""
        task = current_task()
        return task is not None and (
            task is self._scenario.teller.task
            or any(task in listener.tasks() for listener in self._listeners)
        )

    def _explain(self, error: OSError) -> OSError:
        if error.errno is None:  # a signal handler's TimeoutError, say
            return error
        cause = errno.EADDRNOTAVAIL if isinstance(error, socket.gaierror) else error.errno
        remedy = REMEDIES.get(cause or 0, "")
        complaint = f"cannot listen on {self.host}, port {self.port}: {error.strerror}{remedy}"
        return OSError(error.errno, complaint)

    def _after_fork(self) -> None:
        """A forked child has copies of the sockets, but no thread: the server is the parent's."""
        for listener in self._listeners:
            listener.after_fork()
        self._listener, self._listeners = None, []
        self._scenario.after_fork()
        self._lock = self._scenario._lock

    # -- The script

    def play(self, script: ScriptLike, loop: bool = False) -> None:
        """Answer heartbeats by this script from now on; the last call of `play` or a setter wins.

            script := step ("," step)*              "503*2, reset, ok@6s, stall*"
            step   := reply ["@" delay] ["*" [n]]   *n: n times.  *: for ever.  @2s, @250ms: wait
            reply  := ok | status | fault

        `ok`        the success reply
        `503 ...`   that status (200 to 599), with a JSON error for 4xx and 5xx
        `502, 504`  a proxy's HTML page, as nginx sends it when Odoo does not answer
        `reset`     a TCP RST in place of the reply
        `close`     the connection closed without a byte
        `truncate`  half of the promised body, then closed
        `garbage`   bytes that are not HTTP, then closed
        `stall`     nothing, and the connection held open
        `drip`      a correct reply, one byte every 100 ms
        `html`      200 with a web page, as from a captive portal
        `login`     303 to /web/login, as from an HTML route without a session
        `expired`   200 with JSON-RPC error 100, as from a JSON route without one

        In place of text, a `Reply`, a dict of its fields, or a list that mixes these will do. When
        the script has run out, heartbeats succeed; with `loop`, it starts again instead. Raises
        ValueError that quotes the step that cannot be read; the old script plays on.
        """
        self._play(Script(script, loop))

    @changing
    def _play(self, script: Script) -> None:
        self._scenario.play(script)

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
            self._end_script("503*")

    @changing
    def _end_script(self, text: str) -> None:
        if self.script == text:
            self._scenario.play(Script())

    @property
    def script(self) -> str:
        """What is left of the script, as text for `play`.

        A `Reply` that no text can express shows as the nearest word.
        """
        return str(self._scenario.script)

    @property
    def loop(self) -> bool:
        """Does the script start again at its end?"""
        return self._scenario.script.loop

    # -- The memory

    def get_received_heartbeats(self) -> list[Any]:
        """The payloads of the accepted calls that are kept, oldest first.

        Each reader gets copies of their own.
        """
        return [call.payload for call in self.get_calls() if call.accepted]

    def get_call_count(self) -> int:
        """How many calls came since the last reset, accepted or not."""
        return self._scenario.record.call_count

    def get_heartbeat_count(self) -> int:
        """How many of the calls since the last reset were accepted."""
        return self._scenario.record.heartbeat_count

    def get_calls(self) -> list[Call]:
        """The calls since the last reset that are kept, oldest first."""
        return self._scenario.record.calls_after(0)

    def get_unmatched(self) -> list[str]:
        """What came lately that is no call, oldest first, such as "404 POST /api/v2/heartbeat".

        These are other paths and methods, what is no HTTP, and TLS handshakes that failed. WireMock
        calls them unmatched requests.
        """
        return list(self._scenario.record.unmatched)

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
        return [dict(event) for event in self._scenario.record.events]

    def get_intervals(self) -> list[float]:
        """The seconds from each call to the next, whatever was done to the wall clock."""
        arrivals = [call._arrived for call in self.get_calls()]
        return [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]  # noqa: RUF007

    @changing
    def forget(self) -> None:
        """Forget the calls, and what was unmatched; the script goes on, and so does an outage."""
        self._scenario.forget()

    @changing
    def reset(self) -> None:
        """Forget the calls, end the script and any outage, and release every delayed reply.

        Raises OSError where an outage cannot end, as `up()` does.
        """
        self._scenario.reset()
        if self._listener is not None:
            self._listener.wake_delayed()
            self._end_outage(self._listener)

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
        # stop() waits for our threads. So the wait of a worker ends with its listener, and that of
        # the teller, who has none, with a stop.
        task, stops = current_task(), self._stops
        is_teller = task is not None and task is self._scenario.teller.task
        listener = next((each for each in self._listeners if task in each.tasks()), None)

        def given_up() -> bool:
            if listener is not None:
                return listener.is_closing
            return is_teller and (self._listener is None or self._stops != stops)

        try:
            return self._scenario.wait(what, n, timeout, fits, given_up)
        except TimeoutError as error:
            causes = []
            if given_up():
                end = "has an outage" if self.is_running else "was stopped"
                causes.append(f"the server {end}; ")
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
        state = "running" if listener is not None and listener.is_open else "down"
        state = "stopped" if listener is None else state
        script = self._scenario.script
        looping = " in a loop" if script.loop else ""
        return (
            f"<{type(self).__name__} {self._address()} {state}, "
            f"script '{script}'{looping}, {self.get_call_count()} calls>"
        )


#: Every server that lives, for the children that the process may fork.
SERVERS: weakref.WeakSet[MockOdooServer] = weakref.WeakSet()


def after_fork() -> None:
    for server in list(SERVERS):
        server._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


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
        return bool(match and Clock.datetime.fromisoformat(match.group(1)))
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
# service: for these it asks the app, by `check_head`, `answer`, `answer_ended`, `is_let_go` and
# `note_unmatched`. A new fault is a `send_...` method of the Handler, under its word.
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
        self, status: int, message: str, headers: Mapping[str, str] | None = None,
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
        kind = self.fields.get("content-type", "").partition(";")[0]
        self.is_json = kind.strip().lower() == "application/json"
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
                400, f"malformed request line {line!r:.80}; "
                "it should be like 'GET /health HTTP/1.1'"
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

    __slots__ = (
        "arrived", "body", "call", "client", "generation", "handler", "head", "received_at",
        "record", "refusal",
    )

    def __init__(self, head: Head, body: bytes, refusal: Refusal | None, handler: Handler) -> None:
        self.head = head
        self.body = body
        self.refusal = refusal  # set where the head alone is wrong (404, 405, 413, 415)
        self.client: tuple[str, int] = handler.client_address
        self.handler = handler
        self.generation = -1  # of the server's delays, when the script was asked
        self.arrived = self.received_at = 0.0
        self.record: Record | None = None  # where it was recorded
        self.call: Call | None = None  # as what

    def has_left(self) -> bool:
        """Has the client closed its half of the connection, before we cut it?"""
        return has_left(self.handler.connection) and not self.handler.was_cut()

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
    """Write a time as HTTP does (RFC 9110, section 5.6.7): "Wed, 25 Nov 2026 12:00:30 GMT"."""
    year, month, day, hour, minute, second, weekday = Clock.gmtime(second)[:7]
    names = BaseHTTPRequestHandler.weekdayname[weekday], BaseHTTPRequestHandler.monthname[month]
    return f"{names[0]}, {day:02} {names[1]} {year} {hour:02}:{minute:02}:{second:02} GMT"


class Incoming(io.RawIOBase):
    """What a connection brings, as a file. A socket's makefile() uses classes that tests patch."""

    def __init__(self, connection: Any) -> None:
        self._read_into = connection.recv_into

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._read_into(buffer)  # type: ignore[no-any-return]


#: The ways to spoil a reply, and what the client gets.
FAULTS: dict[str, str] = {}
WHOLE = (None, "drip")  # with these, the client gets the whole reply
LASTING = ("stall", "drip")  # these take time: the client may leave meanwhile
SMALL = 16384  # bytes of a body that the system takes at once, whether or not the client reads
NOTICEABLE = 0.01  # seconds; no client gives up before that


def fault(meaning: str) -> Callable[[Method], Method]:
    """Make a method of the Handler a fault: `send_reset` is "reset" in a script."""

    def register(method: Method) -> Method:
        FAULTS[method.__name__[len("send_"):].replace("_", "-")] = meaning
        return method

    return register


class Handler(BaseHTTPRequestHandler):
    """One connection: requests in, replies out, until one side closes.

    A client that leaves in the middle of a request raises an OSError here, which ends the
    connection in silence.
    """

    server: Listener
    connection: Any
    rfile: io.BufferedReader
    must_linger = False  # True where the client may send bytes that we do not read
    client_left = False  # True where the client left before the end of its answer

    def setup(self) -> None:
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a reply
        self.rfile = Buffer(Incoming(self.connection))

    def finish(self) -> None:
        self.rfile.close()

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
        reply = self.server.app.answer(request)
        self.server.app.catch_up()
        if request.call is not None and Clock.now() - request.arrived > NOTICEABLE:
            self.client_left = request.has_left()  # while functions of the user's ran
        try:
            self.send_reply(reply, request)
        except OSError:  # if we did not cut it, the client has
            self.client_left = not self.was_cut()
            raise
        finally:
            if request.call is not None and (self.client_left or not request.call.has_ended):
                self.server.app.answer_ended(request, self.client_left)

    def send_reply(self, reply: Reply, request: Request) -> None:
        if reply.delay and not self.client_left:
            self.pause(reply.delay, request)
        self.close_connection = self.close_connection or self.server.is_closing
        try:
            head, body = self.compose(reply, request)
        except Exception:  # noqa: BLE001 - somebody has changed the Reply since it was checked
            log_bug(f"{reply!r} cannot be sent")
            reply = Reply(500, {"error": "the reply cannot be sent; the log of the fake tells why"})
            head, body = self.compose(reply, request)
        if reply.fault not in LASTING:
            self.send_last(request, len(body) <= SMALL)
        name = (reply.fault or "whole").replace("-", "_")
        getattr(self, f"send_{name}")(head, body, request)

    def send_last(self, request: Request, ends: bool = True) -> None:
        """From here on, a client that closes may have its whole answer.

        What the system takes at once ends before it is sent, so that a client finds it ended.
        """
        if request.call is not None:
            if not self.client_left:
                request.call.has_left_now = None
            if ends:
                self.server.app.answer_ended(request, self.client_left)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request in JSON, then close. (The name is http.server's.)"""
        self.server.app.note_unmatched(f"{code} {message}")
        self.close_after_this()
        self.connection.sendall(b"".join(self.compose(Reply(code, {"error": message}))))

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
            return Request(head, body, refusal, self)
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
        return Request(head, body, refusal, self)

    def read_head(self) -> bytes:
        line = self.read_line()
        if line in BLANK:  # RFC 9112, section 2.2: some clients end a body with a line break
            line = self.read_line()
        if line.endswith(b"\n") and not line.endswith(b" HTTP/1.1\r\n"):
            parse_head(line + b"\r\n")  # now, since a client of another protocol may send no more
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
                raise Refusal(
                    431, f"more than {MAX_HEADERS} headers, or more than {MAX_HEAD} bytes of them "
                    "and of the request line"
                )
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
                size_line = line.decode("latin-1")
                raise Refusal(
                    400, f"malformed chunk size {size_line!r:.80}; it should be like '1f'"
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
        body = reply.body or b""
        if reply.headers:
            headers = self.merge_headers(reply, body, request)
        else:  # as nearly always
            headers = self.usual_headers(reply, body, request)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        if reply.status in (204, 304) or (request is not None and request.method == "HEAD"):
            body = b""
        head = f"HTTP/1.1 {reply.status} {phrase(reply.status)}\r\n{lines}\r\n"
        return head.encode("latin-1"), body

    def merge_headers(
        self, reply: Reply, body: bytes, request: Request | None
    ) -> list[tuple[str, object]]:
        """The usual headers, and those of the reply beside or in place of them."""
        given = list(header_lines(reply.headers))
        if ("connection", "close") in [(name.lower(), value.lower()) for name, value in given]:
            self.close_connection = True
        names = {name.lower() for name in reply.headers}
        usual = self.usual_headers(reply, body, request)
        return [line for line in usual if line[0].lower() not in names] + given

    def usual_headers(
        self, reply: Reply, body: bytes, request: Request | None
    ) -> list[tuple[str, object]]:
        headers: list[tuple[str, object]] = [
            ("Server", f"mock_odoo/{__version__}"), ("Date", http_date(int(Clock.wall())))
        ]
        if reply.status not in (204, 304):  # these have no body to tell of (RFC 9110, section 8.6)
            kind = "application/json" if reply.is_json else "text/plain; charset=utf-8"
            headers += [("Content-Type", kind), ("Content-Length", len(body))]
        if self.close_connection:
            headers.append(("Connection", "close"))
        elif request is not None and request.head.is_http_1_0:
            headers.append(("Connection", "keep-alive"))
        return headers

    def close_after_this(self) -> None:
        """Make this the last request, although the client may go on sending."""
        self.close_connection = self.must_linger = True

    def lingering_close(self) -> None:
        """Close our half, and read on for a while.

        To close at once, with bytes unread, would reset the connection: the reply would be lost.
        """
        Socket.shutdown(self.connection, socket.SHUT_WR)
        deadline, seconds, left = Clock.now() + LINGER, LINGER, 64 * MAX_BODY
        while seconds > 0 and left > 0:
            self.connection.settimeout(seconds)
            data = self.connection.recv(65536)
            if not data:
                return
            left -= len(data)
            seconds = deadline - Clock.now()

    def was_cut(self) -> bool:
        """Have we cut the connection, before its client left?"""
        return self.server.is_closing and self.connection not in self.server.left

    def must_hurry(self, request: Request) -> bool:
        """Must the delay end now: has a reset, a stop or an outage come since?"""
        return self.server.is_closing or self.server.app.is_let_go(request)

    def pause(self, seconds: float, request: Request) -> bool:
        """Wait so many seconds. False where the client leaves or is let go before that."""
        deadline = Clock.now() + seconds
        waker = self.server.make_waker()
        try:
            while True:
                must_hurry = self.must_hurry(request)
                left = 0.0 if must_hurry else max(0.0, deadline - Clock.now())
                if has_left(self.connection, left, waker):
                    self.client_left = not self.was_cut()
                    break
                if must_hurry:
                    break
                if not left:
                    return True
        finally:
            self.server.drop_waker(waker)
        if self.server.is_closing and current_task() is not self.server.spared:
            raise ConnectionAbortedError("we left")  # or the rest might be sent before the cut
        return False

    def send_whole(self, head: bytes, body: bytes, request: Request) -> None:
        self.connection.sendall(head + body)

    @fault(
        "a TCP RST in place of the reply (WireMock CONNECTION_RESET_BY_PEER, toxiproxy reset_peer)"
    )
    def send_reset(self, head: bytes, body: bytes, request: Request) -> None:
        self.close_connection = True
        self.server.abort(self.connection)

    @fault("the connection closed without a byte (WireMock EMPTY_RESPONSE)")
    def send_close(self, head: bytes, body: bytes, request: Request) -> None:
        self.close_after_this()

    @fault("half of the promised body, then closed (toxiproxy limit_data)")
    def send_truncate(self, head: bytes, body: bytes, request: Request) -> None:
        whole = head + body
        half = len(head) + len(body) // 2 if body else 10  # without a body, within the status line
        self.connection.sendall(whole[:half])
        self.close_after_this()

    @fault("bytes that are not HTTP, then closed (WireMock RANDOM_DATA_THEN_CLOSE)")
    def send_garbage(self, head: bytes, body: bytes, request: Request) -> None:
        self.connection.sendall(GARBAGE)
        self.close_after_this()

    @fault("nothing, and the connection held open (toxiproxy timeout)")
    def send_stall(self, head: bytes, body: bytes, request: Request) -> None:
        self.pause(FOREVER, request)
        self.close_after_this()

    @fault(
        "a correct reply, one byte every 100 ms (WireMock chunkedDribbleDelay, toxiproxy slicer)"
    )
    def send_drip(self, head: bytes, body: bytes, request: Request) -> None:
        rest = head + body
        while len(rest) > 1:
            self.connection.sendall(rest[:1])
            rest = rest[1:]
            if not self.pause(DRIP_INTERVAL, request):
                break
        self.send_last(request)
        self.connection.sendall(rest)


# ------------------------------------------------------------------------------------------
# Listener: owns every socket, and the threads that serve them. It hands the connections to the
# Wire, and knows nothing of HTTP itself.
# ------------------------------------------------------------------------------------------

EXCLUSIVE: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)  # Windows alone has it
#: Close with a RST. The layout of struct linger differs by system.
NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
MAX_IDLE_WORKERS = 32
REST = 0.05  # seconds, when there are no descriptors left to accept a client


def cut(connection: Any, how: int = socket.SHUT_RDWR) -> None:
    """Close a connection both ways, which wakes whoever reads it; closing it would not."""
    try:
        Socket.shutdown(connection, how)  # an SSLSocket's own would drop its state
    except OSError:  # the client was faster
        pass


class Worker:
    """Serves one connection after the other: starting a thread takes longer than serving one."""

    def __init__(self, listener: Listener, connection: Any, address: tuple[str, int]) -> None:
        self.listener = listener
        self.connection: Any = connection  # None: nothing to do
        self.address = address
        self.has_work = Signal()
        self.task = Task("mock_odoo worker", self.run)

    def run(self) -> None:
        while self.connection is not None:
            self.listener.serve(self)
            if not self.listener.rest(self):
                return
            self.has_work.wait()


class Listener(ThreadingHTTPServer):
    """A port and its connections. Each start has a listener of its own, and so has each outage.

    First it is bound, which reserves the port; then it may be opened; in the end it is closed. The
    server does all that under its lock, here called `lock`. When close() returns, the port is free
    and every connection is cut; the threads end soon after. The acceptor only accepts. Of the
    classes above, only finish_request() is used, which makes a Handler.
    """

    request_queue_size = 1024  # with socketserver's 5, a burst of clients takes seconds to connect

    def __init__(self, host: str, port: int, app: MockOdooServer) -> None:
        # The constructors of the classes above make a socket and an Event, which tests patch.
        self.server_address, self.RequestHandlerClass = (host, port), Handler
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.server_port = port
        self.app = app
        self.lock = app._lock
        self.is_bound = self.is_open = self.is_closing = False
        self.socket: Any = None
        self.spared: Task | None = None  # whose connection close() has not cut
        self.left: set[Any] = set()  # connections whose clients had left before close() cut them
        self._waker: Any = None
        self._acceptor = Task("mock_odoo acceptor", self.serve_forever)
        self._timer: Task | None = None
        self._called_off = Signal()  # to the timer
        self._workers: list[Worker] = []  # some may have ended
        self._idle: list[Worker] = []
        self._wakers: set[Any] = set()  # of the delayed replies

    # -- What the server asks for, under the lock

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer's, without asking DNS for our name, which can take 10 s."""
        if self.socket is not None:
            self.socket.close()  # it could not be bound
        self.socket = Socket(self.address_family, socket.SOCK_STREAM)
        if EXCLUSIVE is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, EXCLUSIVE, 1)
        self._set_reuse(1)  # past connections in TIME_WAIT do not matter
        self.socket.bind(self.server_address)
        self._set_reuse(0)  # or anybody could have the port until we listen
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.is_bound = True

    def _set_reuse(self, on: int) -> None:
        if EXCLUSIVE is None:  # on Windows, it would let a second server have the port
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, on)

    def start_timer(self, seconds: float, end_outage: Callable[[Listener], None]) -> None:
        """Call that function after so many seconds, unless it is opened or closed before."""

        def run() -> None:
            if not self._called_off.wait(seconds):
                end_outage(self)

        self._timer = Task("mock_odoo timer", run)
        self._timer.start()

    def open(self) -> None:
        """Listen. Clients can connect when this returns."""
        self._set_reuse(1)
        self.socket.listen(self.request_queue_size)
        self.socket.setblocking(False)
        self._waker = Waker()
        self._acceptor.start()
        self.is_open = True
        self._called_off.give()

    def close(self, spared: Task | None = None) -> None:
        """Free the port, and cut every connection but that of the `spared` thread.

        Call it again to cut that one too. Whatever was interrupted is done then.
        """
        connections = [each.connection for each in self._workers if each.connection is not None]
        if not self.is_closing:
            self.left.update(each for each in connections if has_left(each))
        self.spared = spared
        self.is_closing = True
        self.is_open = False
        self._called_off.give()
        self._wake()
        if self.socket is not None:
            cut(self.socket)  # or the acceptor, which still looks at it, would keep the port
            try:
                self._set_reuse(1)  # the same
            except OSError:  # it is closed already
                pass
            self.socket.close()
        for worker in self._workers:
            if worker.connection is not None and worker.task is not spared:
                cut(worker.connection)
                if EXCLUSIVE is not None:  # on Windows, that wakes no reader (CPython 91913)
                    Socket.close(worker.connection)
        while self._idle:
            self._idle.pop().has_work.give()  # without a connection, they end

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()
            if not self._acceptor.is_alive():
                self._waker.close()

    def wake_delayed(self) -> None:
        """Have the delayed replies check whether they go on."""
        for waker in self._wakers:
            waker.wake()

    def tasks(self) -> list[Task]:
        """Its threads; some may have ended, or not begun."""
        timer = [self._timer] if self._timer is not None else []
        return [*timer, self._acceptor, *[worker.task for worker in self._workers]]

    def is_accepting(self) -> bool:
        """Does its acceptor still look at the port? On Windows, nobody else can bind it then."""
        return self._acceptor.is_alive()

    def is_alive(self) -> bool:
        return any(task.is_alive() for task in self.tasks())

    def after_fork(self) -> None:
        """In a forked child, let go the copies: the port and the connections are the parent's."""
        self.is_closing = True
        connections = [worker.connection for worker in self._workers]
        for each in [self.socket, self._waker, *connections, *self._wakers]:
            if each is not None:
                each.close()

    # -- The acceptor

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept until close(), without polling. Nothing else ends it."""
        try:
            while not self.is_closing:
                try:
                    if wait_readable([self.socket, self._waker]) and not self.is_closing:
                        self.process_request(*self.get_request())
                except (BlockingIOError, ConnectionError):  # this client has left again
                    pass
                except (OSError, ValueError):  # out of descriptors: the client waits, and so do we
                    if not self.is_closing:
                        wait_readable([self._waker], REST)
                except Exception:  # noqa: BLE001 - the next client is none the worse
                    log_bug("a connection could not be accepted")
        finally:
            self._waker.close()

    def get_request(self) -> tuple[Any, tuple[str, int]]:
        # A socket's own accept() makes an object of whatever class tests have put in its place.
        descriptor, address = self.socket._accept()
        connection = Socket(self.address_family, socket.SOCK_STREAM, 0, descriptor)
        connection.setblocking(True)  # our socket or setdefaulttimeout() may have left it otherwise
        return connection, (address or ("", 0))[:2]  # macOS gives none where the client has left

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a worker serve a connection."""
        while not self.is_closing:
            if self.lock.acquire(timeout=REST):  # close() may be waited for, by whoever holds it
                try:
                    if self._hand_over(request, client_address):
                        return
                finally:
                    self.lock.release()
                wait_readable([self._waker], REST)  # out of threads: the client waits, and so do we
        request.close()

    def _hand_over(self, connection: Any, address: tuple[str, int]) -> bool:
        if self.is_closing:
            return False
        if self._idle:
            worker = self._idle.pop()
            worker.connection, worker.address = connection, address
            worker.has_work.give()
            return True
        worker = Worker(self, connection, address)
        try:
            worker.task.start()
        except RuntimeError:
            return False
        self._workers = [each for each in self._workers if each.task.is_alive()]
        self._workers.append(worker)
        return True

    # -- The workers

    def serve(self, worker: Worker) -> None:
        """Serve the connection of a worker to its end, and close it."""
        try:
            if self.app.ssl_context is not None:
                self.secure(worker, self.app.ssl_context)
            self.finish_request(worker.connection, worker.address)
        except OSError:  # the client hung up, or we did
            pass
        except BaseException:  # noqa: BLE001 - the worker has other connections to serve
            log_bug("a connection failed")
        with self.lock:
            connection, worker.connection = worker.connection, None
        self.shutdown_request(connection)

    def rest(self, worker: Worker) -> bool:
        """Make a worker wait for another connection; False: it is to end."""
        with self.lock:
            may_rest = not self.is_closing and len(self._idle) < MAX_IDLE_WORKERS
            if may_rest:
                self._idle.append(worker)
        return may_rest

    def shutdown_request(self, request: Any) -> None:
        cut(request, socket.SHUT_WR)
        Socket.close(request)

    def secure(self, worker: Worker, context: ssl.SSLContext) -> None:
        """Shake hands, in the connection's thread: a silent client keeps nobody else waiting."""
        # Until 3.12, wrap_socket() leaks the socket where the client leaves before its hello.
        if not worker.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError("the client left")
        try:
            tls = context.wrap_socket(
                worker.connection, server_side=True, do_handshake_on_connect=False
            )
            with self.lock:
                worker.connection = tls
            if self.is_closing:  # maybe only the plain socket was cut, which TLS has replaced
                cut(tls)
            tls.do_handshake()
        except OSError as error:
            if not self.is_closing:  # else it was us
                self.app.note_unmatched(f"TLS handshake failed: {error.strerror or error}")
            raise

    def make_waker(self) -> Waker | None:
        """What wakes a delayed reply; None where it must look by itself."""
        if not HUNG_UP:
            return None
        try:
            waker = Waker()
        except OSError:  # out of descriptors
            return None
        with self.lock:
            self._wakers.add(waker)
        return waker

    def drop_waker(self, waker: Waker | None) -> None:
        if waker is not None:
            with self.lock:
                self._wakers.discard(waker)
            waker.close()

    def abort(self, connection: Any) -> None:
        """Close with a RST, at once: shutdown_request() would send a FIN first."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        with self.lock:
            Socket.close(connection)


# ------------------------------------------------------------------------------------------
# Control: the server over HTTP, for other processes and languages, and for the page. It uses the
# public face of the server that it is handed, and offers routes.
# ------------------------------------------------------------------------------------------

LONGEST_POLL = 60  # seconds that one GET /_mock/wait may take
#: On a connection that was kept, Chromium would ask again after a 408.
UNCACHED = {"Cache-Control": "no-store", "Connection": "close"}
PAGE_PATH = "/_mock/"
COUNTED = ("calls", "heartbeats")  # what one can wait for
LOOPBACK = r"(::ffff:)?127(\.[0-9]{1,3}){3}|::1"


def median(numbers: Sequence[float]) -> float | None:
    """The middle one, or the mean of both; None for none. The module statistics costs 10 ms."""
    ordered, middle = sorted(numbers), len(numbers) // 2
    return (ordered[middle] + ordered[~middle]) / 2 if ordered else None


def ask_user(function: Callable[[Call], str], call: Call) -> str:
    """What a subclass says of a call; "?" where that fails."""
    try:
        return str(function(call))
    except BaseException:  # noqa: BLE001 - the user's code; pytest.fail() is no Exception
        log_bug(f"{function.__name__} failed")
        return "?"


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
    that is never granted. Where there is a token, the page is for everybody: it holds no data, and
    asks for the token.
    """

    def __init__(self, server: MockOdooServer, token: str | None = None) -> None:
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("the token must be printable ASCII without blanks, and not empty")
        self.server = server
        self.token = token
        self._names: dict[Call, str] = {}  # senders that are known, or each state would ask again

    @property
    def routes(self) -> Routes:
        rows: tuple[tuple[str, str, Callable[[dict[str, Any]], Reply], Sequence[str]], ...] = (
            ("GET", PAGE_PATH, self.page, ()),
            ("GET", "/_mock/state", self.state, ()),
            ("GET", "/_mock/calls", self.calls, ("since",)),
            ("DELETE", "/_mock/calls", self.forget, ()),
            ("GET", "/_mock/events", self.events, ()),
            ("GET", "/_mock/wait", self.wait, (*COUNTED, "timeout", "sender", "more")),
            ("PUT", "/_mock/script", self.script, ("script", "loop")),
            ("POST", "/_mock/reset", self.reset, ()),
            ("POST", "/_mock/down", self.down, ("seconds",)),
        )
        to_page = Reply(302, b"", {"Location": PAGE_PATH})
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
        if request.method in ("POST", "PUT", "DELETE") and not request.head.is_json:
            kind = request.head.fields.get("content-type", "missing")
            raise Refusal(
                415, "a change must have Content-Type: application/json, also without a body, so "
                f"that no foreign web page can make one; it is {kind:.80}"
            )
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
        if self.token and request.path == PAGE_PATH:
            return True
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
        calls = server.get_calls()
        count = server.get_call_count()
        accepted = (call.payload for call in reversed(calls) if call.accepted)
        state = {
            "service": server.service,
            "noun": server.noun,
            "version": __version__,
            "heartbeat_url": server.heartbeat_url,
            "script": server.script,
            "loop": server.loop,
            "call_count": count,
            "heartbeat_count": min(count, server.get_heartbeat_count()),  # more may have come since
            "last_heartbeat": next(accepted, None),
            "senders": self.senders(calls),
            "unmatched": server.get_unmatched(),
        }
        return Reply(status, {**state, **more}, UNCACHED)

    def senders(self, calls: Sequence[Call]) -> list[dict[str, object]]:
        """Who sent the calls that are kept, and when: in the order of their first calls."""
        now = Clock.wall()
        known = self._names
        names = {call: known.get(call) or ask_user(self.server.sender, call) for call in calls}
        self._names = names
        senders: dict[str, list[Call]] = {}
        for call, name in names.items():
            senders.setdefault(name, []).append(call)
        return [self.describe_sender(name, own, now) for name, own in senders.items()]

    def describe_sender(self, name: str, calls: Sequence[Call], now: float) -> dict[str, object]:
        times = [call.received_at for call in calls]
        return {
            "sender": name,
            "calls": len(calls),
            "accepted": sum(call.accepted for call in calls),
            "last_at": times[-1],
            "seconds_since": now - times[-1],
            "interval": median([later - at for at, later in zip(times, times[1:])]),  # noqa: RUF007
        }

    def state(self, values: dict[str, Any]) -> Reply:
        return self.state_reply()

    def calls(self, values: dict[str, Any]) -> Reply:
        since = self.read_number(values, "since", "0")
        calls = [self.describe(call) for call in self.server.get_calls() if call.number > since]
        body = f'{{"calls": [{", ".join(calls)}]}}'
        return Reply(200, body, {"Content-Type": "application/json", **UNCACHED})

    def describe(self, call: Call) -> str:
        """The JSON of a call, with what the server says of it."""
        return call.to_json(
            sender=ask_user(self.server.sender, call),
            text=ask_user(self.server.describe_call, call),
        )

    def forget(self, values: dict[str, Any]) -> Reply:
        self.server.forget()
        return self.state_reply()

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
        is_counted = self.make_filter(what, values)
        try:
            if is_counted is not None:
                self.server.wait_for_calls(n, timeout, is_counted)
            elif what == "calls":
                self.server.wait_for_calls(n, timeout)
            else:
                self.server.wait_for_heartbeats(n, timeout)
        except TimeoutError as error:
            return self.state_reply(408, error=str(error))
        return self.state_reply()

    def make_filter(self, what: str, values: dict[str, Any]) -> Callable[[Call], bool] | None:
        """Which calls a wait counts; None where the server's own count will do."""
        sender, more = values.get("sender"), str(values.get("more", 0))
        if more not in ("0", "1"):
            raise ValueError(f"more must be 0 or 1, not {more!r:.80}")
        if sender is None and more == "0":
            return None
        earlier = set(self.server.get_calls() if more == "1" else ())

        def is_counted(call: Call) -> bool:
            return (
                call not in earlier
                and (what == "calls" or call.accepted)
                and sender in (None, ask_user(self.server.sender, call))
            )

        return is_counted

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


def shorten(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return "" if room < MIN_COLUMNS else text[: room - 3].rstrip() + "..."


def join(parts: dict[str, str]) -> str:
    return "  ".join(filter(None, parts.values())).rstrip()


def can_colour(stream: IO[str] | None) -> bool:
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM") != "dumb" and (os.name != "nt" or "WT_SESSION" in os.environ)


class Screen:
    """How a line looks on a stream: its letters, its colour and, at a terminal, its width."""

    def __init__(self, stream: IO[str] | None) -> None:
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
            if name in parts and len(join(parts)) > width:
                parts[name] = re.sub("  +", "  ", parts[name]).rstrip()  # columns go before words
                room = len(parts[name]) - max(0, len(join(parts)) - int(width))
                parts[name] = shorten(parts[name], max(least, room))
        if colour is not None and self._has_colour:
            parts["word"] = f"\x1b[{colour}m{parts['word']}\x1b[0m"
        return join(parts)

    def fold(self, text: str, mark: str) -> str:
        """Break a line that must not be cut, at its marks, where the terminal is too narrow."""
        text = self.spell(text)
        return text if len(text) <= self.width() else text.replace(mark, "\n    ")

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
        deadline = Clock.now() + (0.0 if self._is_slow else PIPE_PATIENCE)
        while written < len(data) and self._has_room(deadline - Clock.now()):
            written += self._file.write(data[written:]) or 0
        self._is_slow = written < len(data)
        return written

    def _has_room(self, seconds: float) -> bool:
        poll = make_poll()
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
SAMPLE = 1000  # intervals that are kept of each sender, the latest

#: What a call's line may do without.
DEFAULTS: dict[str, Any] = {
    "delay": 0, "problem": None, "repeats": None, "client": ("?", 0), "query": "", "took": None,
    "left": None, "headers": {}, "payload": None,
}


class WrittenCall(Call):
    """A call as a journal has it, so that a server can describe it."""

    payload: Any = None
    headers: Any = None
    took = left = None  # its line was written before the end

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
    """What a journal tells of one sender. The usual interval is the median of the latest 1,000."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._last: tuple[float, str] | None = None  # when it called last in this run
        self._silence, self._since = 0.0, ""
        self._intervals: collections.deque[float] = collections.deque(maxlen=SAMPLE)

    def add(self, call: Call, time: str) -> None:
        self.tally.add(call)
        interval = self.end_silence(call.received_at)
        if interval is not None:
            self._intervals.append(interval)
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
    together, only the newest 100 outages are listed, and the usual interval of a sender is that of
    its latest 1,000 calls.
    """

    def __init__(self) -> None:
        self._senders: dict[str, Sender] = {}
        self._latest: dict[int, tuple[int, Sender]] = {}  # the latest calls: who sent each
        self._outages: collections.deque[str] = collections.deque(maxlen=MAX_OUTAGES)
        self._down: tuple[float, str] | None = None  # since when
        self._script = Script()
        self.has_lines = False
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
        self._script = self._script.next()[1]
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
        wide = max(map(len, names), default=0)
        lines = [
            f"{name:<{wide}}  {sender.describe()}"
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
    account.has_lines = True
    if record["event"]:
        shown = screen.show_event(record)
        account.add_event(record)
        return shown
    call, sender = WrittenCall(record), record.get("sender")
    name = sender if isinstance(sender, str) else ask_user(server.sender, call)
    script = account.add_call(name, call, record["time"])
    return screen.show_call(call, record["time"], ask_user(server.describe_call, call), script)


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
        if not account.has_lines:
            raise ValueError(f"{path} holds no call and no event")
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
    add("--token", help="let clients elsewhere use the control API if they send it, and the page")
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
        for path in filter(None, (args.certfile, args.keyfile)):
            open(path, "rb").close()  # what ssl says of a missing file differs by system
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
        deadline = Clock.now() + QUIET
        try:
            while Clock.now() < deadline:
                if self._receiver.recv(1)[0] in numbers:
                    deadline = Clock.now() + QUIET
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
        self.server: MockOdooServer | None = None
        self._is_running = False  # until then, events are only written down
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
        line = call.to_json(sender=ask_user(server.sender, call)) if self.journal or as_json else ""
        if self.journal is not None:
            self.journal.add(line)
        if self.is_quiet:
            return
        if not as_json:
            text, time = ask_user(server.describe_call, call), iso_time(call.received_at)
            line = self.reporter.screen.show_call(call, time, text, server.script)
        self.reporter.print(line)

    def on_event(self, event: Event) -> None:
        if event["event"] == "reset":  # the server begins to count anew
            self.tally = Tally()
        self.tally.left += event["event"] == "left"
        line = json_line(event)
        if self.journal is not None:
            self.journal.add(line)
        if event["event"] == "start" and self.server is not None:  # which comes before any call
            self._is_running = True
            self.reporter.say(first_line(self.server), listening=self.server.url)
        elif self._is_running and event["event"] != "stop" and not self.is_quiet:
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
# Ground floor: helpers for every room. They know nothing of heartbeats.
# ------------------------------------------------------------------------------------------


class Clock:
    """The fake's own clock, as it stands for another machine.

    freezegun and its like replace the functions of `time`, and every module's copies of them. They
    look into no class.
    """

    now = staticmethod(time.perf_counter)  # seconds, for what passes
    wall = staticmethod(time.time)  # seconds since the epoch
    localtime = staticmethod(time.localtime)
    gmtime = staticmethod(time.gmtime)
    sleep = staticmethod(time.sleep)
    datetime = datetime.datetime


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


def check_endpoint(endpoint: str) -> str:
    if not isinstance(endpoint, str) or not re.fullmatch('/[!"$->@-~]*', endpoint):
        raise ValueError(f"endpoint must be a path like /api/v2/receipt, not {endpoint!r:.80}")
    if re.search("[<>{}*]", endpoint):
        raise ValueError(
            f"endpoint must be one path, without placeholders; {endpoint!r:.80} could be "
            f"{re.sub('<[^>]*>|{[^}]*}|[*]', '7', endpoint)!r:.80}, a fake for each device"
        )
    return endpoint


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


def clip(text: str, length: int) -> str:
    """Shorten a text, and replace its control characters."""
    return printable(text if len(text) <= length else text[: length - 3] + "...")


def shown(payload: Any, *path: str) -> str:
    """A value in a heartbeat, fit for a terminal: short, and without control characters."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    if isinstance(payload, float):
        return clip(f"{payload:.1f}", 32)
    return clip(str(payload) if isinstance(payload, (str, int)) else "?", 32)


def in_event_loop() -> bool:
    """Does an event loop of asyncio run in this thread?"""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def iso_time(seconds: float) -> str:
    """Write seconds since the epoch as local time, such as 2026-11-25T12:00:30.123+03:00."""
    whole, millis = divmod(int(seconds * 1000), 1000)
    now = Clock.localtime(whole)  # datetime's astimezone() fails at the interpreter's end
    sign, offset = "-" if now.tm_gmtoff < 0 else "+", abs(now.tm_gmtoff) // 60
    day = f"{now.tm_year}-{now.tm_mon:02}-{now.tm_mday:02}"
    clock = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}.{millis:03}"
    return f"{day}T{clock}{sign}{offset // 60:02}:{offset % 60:02}"


def log_bug(message: str) -> None:
    """Log the exception that is being handled; the fake logs nothing else."""
    try:
        import logging  # 4 ms that hardly any run needs

        logging.getLogger("mock_odoo").exception(message)
    except BaseException:  # noqa: BLE001, S110 - a handler of the user's, or out of descriptors
        pass


def call_user(name: str, function: Callable[[Any], object], news: object) -> None:
    """Call a function of the user's; what it raises is logged, and goes no further."""
    task = current_task()
    assert task is not None
    task.doing = name
    try:
        function(news)
    except BaseException:  # noqa: BLE001 - pytest.fail() is no Exception
        log_bug(f"{name} failed")
    finally:
        task.doing = None


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


# -- Threads, and waiting. Tests patch classes and functions of threading, socket and select. So
# what is needed of these is taken here, when the module is imported.

Lock = threading.Lock
RLock = threading.RLock
Socket = socket.SocketType  # the class beneath socket.socket, whose methods nobody patches
Buffer = io.BufferedReader
start_new_thread = _thread.start_new_thread
select_now = select.select
make_poll: Any = getattr(select, "poll", None)  # Windows has none
READABLE = getattr(select, "POLLIN", 1)
HUNG_UP: int = getattr(select, "POLLRDHUP", 0)  # Linux alone has it
if type(make_poll) is not type(len):  # gevent's, which does not know it
    HUNG_UP = 0
GLANCE = 0.05  # seconds between looks whether a client has left, on other systems
OWN = threading.local()


def current_task() -> Task | None:
    """The thread of a fake that the caller is in; None for any other thread."""
    return getattr(OWN, "task", None)


class Signal:
    """Given once, it ends one wait. (The methods of threading.Event are what tests patch.)"""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def give(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it is given already
            pass

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is given; False when the time is up."""
        return self._lock.acquire(timeout=timeout)


class Task:
    """A thread of a fake. It never keeps the process from ending.

    It is no threading.Thread, as such a thread's start() waits on an Event, whose methods tests
    patch, and hangs at the interpreter's end. But threading knows it, by its name, while it lives.
    """

    doing: str | None = None  # the user's function that it is in

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.name = name
        self._function = function
        self._has_begun = self._has_ended = False
        self._end = Signal()

    def start(self) -> None:
        """Begin; RuntimeError where the system has no thread left."""
        start_new_thread(self._run, ())
        self._has_begun = True

    def is_alive(self) -> bool:
        return self._has_begun and not self._has_ended

    def _run(self) -> None:
        try:
            self._has_begun = True  # start() may have been interrupted
            OWN.task = self
            self._introduce()
            self._function()
        except BaseException:  # noqa: BLE001 - what it calls handles its own
            log_bug(f"{self.name} failed")
        finally:
            getattr(threading, "_active", {}).pop(_thread.get_ident(), None)
            self._has_ended = True
            self._end.give()

    def _introduce(self) -> None:
        """Tell threading our name, and let coverage and debuggers see the user's functions."""
        try:
            threading.current_thread().name = self.name
            for hook, name in ((sys.settrace, "_trace_hook"), (sys.setprofile, "_profile_hook")):
                if getattr(threading, name, None) is not None:
                    hook(getattr(threading, name))
        except Exception:  # noqa: BLE001, S110 - it is patched
            pass

    def join(self, timeout: float) -> bool:
        """Wait for its end; False when the time is up."""
        if self.is_alive() and self._end.wait(timeout):
            self._end.give()  # to others who wait
        return not self.is_alive()


class Bell:
    """Wakes those who wait for a change. Each waits for a signal of their own."""

    def __init__(self) -> None:
        self._waiting: list[Signal] = []

    def ring(self) -> None:
        """Make all who wait look again."""
        try:
            for _ in range(len(self._waiting)):  # and not those who wait again
                self._waiting.pop().give()
        except IndexError:  # another thread rings, too
            pass

    def wait(self, has_come: Callable[[], bool], timeout: float) -> None:
        """Wait until the change has come, until somebody rings, or until the time is up."""
        mine = Signal()
        self._waiting.append(mine)
        try:
            if not has_come():  # it may have come before we were on the list
                mine.wait(min(timeout, MAX_SECONDS))
        finally:
            try:
                self._waiting.remove(mine)
            except ValueError:  # taken off the list, to be released
                pass


def wait_readable(sockets: Sequence[Any], seconds: float | None = None) -> bool:
    """Wait until one of the sockets can be read; False when the time is up."""
    if make_poll is None:
        return bool(select_now(sockets, [], [], seconds)[0])
    poll = make_poll()
    for each in sockets:
        poll.register(each, READABLE)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


class Waker:
    """A socket that is connected to itself: what is sent there wakes whoever looks at it."""

    def __init__(self) -> None:
        self._socket = Socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(("127.0.0.1", 0))
            self._socket.connect(self._socket.getsockname())
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def wake(self) -> None:
        """Wake it for good: what is sent is never read."""
        try:
            self._socket.send(b"!")
        except OSError:  # it is closed, or awake
            pass

    def close(self) -> None:
        self._socket.close()


def has_left(connection: Any, seconds: float = 0.0, waker: Waker | None = None) -> bool:
    """Wait up to `seconds` for the client to close its half, perhaps less. True if it has.

    Elsewhere than on Linux, bytes that wait to be read hide that.
    """
    if waker is None:
        seconds = min(seconds, GLANCE)
    try:
        if HUNG_UP:
            poll = make_poll()
            poll.register(connection, HUNG_UP)
            if waker is not None:
                poll.register(waker, READABLE)
            ready = poll.poll(min(seconds, MAX_SECONDS) * 1000)
            return any(event & ~READABLE for _, event in ready)
        if not wait_readable([connection], seconds):
            return False
        if not Socket.recv(connection, 1, socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)):
            return True
    except BlockingIOError:  # its own thread was faster
        return False
    except (OSError, ValueError):  # a RST, or the connection was closed on our side
        return True
    Clock.sleep(seconds)  # the bytes stay, so there is nothing to wait for
    return False


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
  color-scheme: light dark; --paper: #fff; --ink: #000; --line: rgba(136, 136, 136, .3);
  --shade: rgba(179, 38, 30, .18); --good: #176f2c; --poor: #8a5a00; --bad: #b3261e;
  --level: #2b62b8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121212; --ink: #fff; --shade: rgba(255, 138, 128, .22); --good: #6fd08c;
    --poor: #f0b849; --bad: #ff8a80; --level: #8ab4f8;
  }
}
.up, .accepted { --kind: var(--good); } .scripted, .down, .refused { --kind: var(--poor); }
.gone, .spoilt, .late, #error { --kind: var(--bad); } .level { --kind: var(--level); }
h1 span, i, .late, .label, .problem, #error { color: var(--kind); }
[hidden], li span:empty { display: none !important; }
body {
  font: 1rem/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  word-wrap: break-word; max-width: 64rem; margin: 0 auto; padding: .5rem 1rem;
}
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: .3rem 0; }
small { display: block; opacity: .75; }
.row, .box, figcaption, li { display: flex; flex-wrap: wrap; align-items: center; }
.row { margin: 0 -.2rem; } .row > * { margin: .2rem; } .row h2 { flex: 1; }
button, input, .box { font: inherit; color: inherit; min-height: 2.5rem; box-sizing: border-box; }
button, input {
  background: rgba(136, 136, 136, .13); border: 1px solid var(--line); border-radius: .4rem;
  padding: 0 .6rem;
}
#modes button { flex: auto; }
button[aria-pressed=true] { box-shadow: inset 0 0 0 3px var(--level); }
#forget { min-width: 9.5rem; } #sure { flex: 1 1 100%; }
input { flex: 1 1 6rem; min-width: 0; font-family: monospace; }
input::placeholder { color: inherit; opacity: .75; }
.box input { flex: none; width: 1.5rem; margin: 0 .4rem 0 0; }
figure { margin: .4rem 0; } figcaption { font-size: .85rem; } i { font-style: normal; }
figcaption span { margin-right: 1rem; }
.outage { background: var(--shade); padding: 0 .3rem; }
svg { display: block; width: 100%; font-size: 11px; }
svg text { fill: currentColor; opacity: .75; text-anchor: middle; }
svg .name { text-anchor: start; } svg line { stroke: var(--line); }
svg rect { fill: var(--shade); } svg path { fill: var(--kind); }
svg .level { stroke: var(--kind); stroke-width: 1.5; fill-opacity: .2; }
#senders { min-height: 1.4rem; }
ul, ol { list-style: none; margin: .2rem 0; padding: 0; font-variant-numeric: tabular-nums; }
li span { margin-right: .7rem; min-width: 0; unicode-bidi: isolate; }
#calls li { padding: .2rem 0; border-top: 1px solid var(--line); }
.sender { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
.sender, .late, .label { font-weight: bold; }
#left, .sender, .label { white-space: nowrap; }
.label { min-width: 5.5rem; } .number { min-width: 2.2rem; opacity: .75; }
.problem { flex-basis: 100%; }
@media (min-width: 44rem) {
  #columns { display: grid; grid-template-columns: 17.5rem minmax(0, 1fr); grid-gap: 0 1.5rem; }
  #steer { position: sticky; top: 0; align-self: start; }
  #senders { max-height: 9rem; overflow-y: auto; }
}
</style>
</head>
<body>
<h1><span id="state" role="status">This page needs a newer browser</span>
<span id="left" role="timer"></span></h1>
<form class="row" id="login" hidden>
<label for="token">Token</label>
<input type="password" id="token" autocomplete="current-password" aria-describedby="error">
<button>Open</button>
</form>
<div id="error" role="alert"></div>
<main id="main">
<small id="counts"></small><small id="unmatched"></small>
<ul id="senders"></ul>
<figure id="timeline"><svg id="strip" role="img"></svg><figcaption>
<span class="accepted"><i>&#9679;</i> accepted</span>
<span class="refused"><i>&#9650;</i> refused</span>
<span class="spoilt"><i>&#10006;</i> spoilt</span>
<span class="outage">outage</span>
<span class="level" id="level"><i>&#9473;</i> buffer, 0 to 100%</span>
</figcaption></figure>
<div id="columns">
<section id="steer">
<h2 id="service">The fake is</h2>
<div class="row" id="modes">
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
<label class="box"><input type="checkbox" id="loop"> loop</label>
<button>Play</button>
</form>
</section>
<section>
<div class="row" id="memory">
<h2 id="noun">Calls, the newest first</h2>
<button id="forget">Forget everything</button>
<button id="sure" hidden>Forget all calls, and the script</button>
</div>
<ol id="calls"></ol>
</section></div>
<small id="version"></small>
</main>

<script>
"use strict";  // and nothing that is newer than Chromium 60 and Firefox 60
const NO_ANSWER = "No answer: an outage, or the fake was stopped";
const KEPT = 100;  // calls
let calls = [], events = [];  // the newest, oldest first
let state = {service: "The fake", noun: "call", script: "", senders: []};  // as last heard
let heard = 0, clockThen = 0;  // when that was, by the page's stopwatch and by the fake's clock
let lost = false;  // is the fake out of reach?
let outageStart = 0, outageEnd = 0;  // of the outage that was asked for here, in milliseconds
let token = remember("");

const at = id => document.getElementById(id);
const newest = () => calls[calls.length - 1] || {number: 0};
const now = () => clockThen + (performance.now() - heard) / 1000;
const isOutage = () => lost && outageEnd > Date.now() - 3000;  // it may end a little late

// Words

const MARKS = {accepted: "\u25cf", refused: "\u25b2", spoilt: "\u2716"};
const HIDDEN = /[\0-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const safe = words => String(words).replace(HIDDEN, "\ufffd");  // it could turn round what follows
const many = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const clock = seconds => new Date(Math.round(seconds * 1000)).toTimeString().slice(0, 8);
const kindOf = call =>
  call.accepted ? "accepted" : /^[0-9]+$/.test(call.reply) ? "refused" : "spoilt";

function label(call) {  // as a script has it: ok@250ms
  if (!call.delay) return call.reply;
  const whole = Number.isInteger(call.delay), number = whole ? call.delay : call.delay * 1000;
  return `${call.reply}@${number.toFixed(6).replace(/[.]?0+$/, "")}${whole ? "s" : "ms"}`;
}

function duration(seconds) {
  const [size, unit] = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]]
    .find(([size]) => seconds >= 2 * size) || [1, "s"];
  const number = seconds / size;
  return `${number < 10 ? Number(number.toPrecision(2)) : Math.round(number)} ${unit}`;
}

function text(value) {
  const words = typeof value === "string" ? value : JSON.stringify(value);
  return words === undefined ? "?" : words.slice(0, 60);
}

function fill(item, kind, parts) {  // only what has changed, or a selection would be lost
  if (item.className !== kind) item.className = item.title = kind;
  parts.forEach(([name, given], index) => {
    const words = safe(given || "");
    const part = item.children[index] || item.appendChild(document.createElement("span"));
    part.className = name;
    if (part.textContent !== words) part.textContent = part.title = words;
  });
}

// What is said above the strip

function plays({noun, script, loop}) {
  const isOne = loop ? !script.includes(",") : /^[^,*]*[*]$/.test(script);
  const every = !isOne ? "" : /^[345]/.test(script) ? `refuses every ${noun}`
    : /^(ok|drip)/.test(script) ? `answers every ${noun} late`
    : /^[a-z]/.test(script) ? "spoils every answer" : "";
  return (every ? `${every} (${script})` : `plays ${script}`) + (loop ? " in a loop" : "");
}

function tell(kind, words, left = "") {
  at("state").className = at("left").className = kind;
  at("left").textContent = left;  // apart, or a screen reader would count along
  if (at("state").textContent !== words) at("state").textContent = words;
}

function tick() {
  const {service, script} = state, left = Math.ceil((outageEnd - Date.now()) / 1000);
  if (isOutage()) tell("down", `${service} is down`, `for ${Math.max(1, left)} s more`);
  else if (lost) tell("gone", NO_ANSWER);
  else if (/^(ok[*])?$/.test(script)) tell("up", `${service} is up`);
  else tell("scripted", safe(`${service} ${plays(state)}`));
  for (const button of document.querySelectorAll("#modes button")) {
    button.setAttribute("aria-pressed", String(isOn(button)));
  }
  showSenders();
  if (!at("strip").matches(":hover")) draw();  // or the marks' titles would never be seen
}

function isOn(button) {
  if (button === at("down") || lost) return button === at("down") && isOutage();
  const loops = "loop" in button.dataset, all = steps(button.dataset.script);
  const left = steps(state.script);  // of a loop it may begin anywhere
  if (loops !== Boolean(state.loop)) return false;
  return loops ? left.length === all.length && (all + all).includes(left) : all.endsWith(left);
}

function steps(script) {  // ",ok,503,503" for "ok, 503*2"
  return script.split(", ").map(step => {
    const [word, times] = step.split("*");
    return times === "" ? "," + step : ("," + word).repeat(Math.min(times || 1, KEPT));
  }).join("");
}

function isLate({last_at, interval}) {
  return !lost && interval !== null && now() - last_at > Math.max(2, 2 * interval);
}

function showSenders() {  // who is late stands first
  const list = at("senders"), inTime = state.senders.filter(sender => !isLate(sender));
  const senders = state.senders.filter(isLate).concat(inTime);
  while (list.children.length > senders.length) list.lastChild.remove();
  senders.forEach((one, index) => {
    const {sender, last_at, interval} = one, silent = Math.max(0, now() - last_at);
    const usual = interval === null ? "" : ` (usually every ${duration(interval)})`;
    const [call] = calls.filter(call => call.sender === sender).slice(-1);
    const {buffer_status: buffer, circuit_breaker: breaker} = call && call.payload || {};
    const {current_queued: queued, total_capacity: capacity, percent_full: percent} = buffer || {};
    fill(list.children[index] || list.appendChild(document.createElement("li")), "", [
      ["sender", sender],
      ["last", `last ${duration(Math.floor(silent))} ago${usual}`],
      ["late", isLate(one) && "LATE"],
      ["buffer", buffer && `buffer ${text(queued)}/${text(capacity)} (${text(percent)}%)`],
      ["breaker", breaker && `breaker ${text(breaker.state)}`],
    ]);
  });
}

// The strip: calls that come close together pile up; each sender's buffer has a band below

const SHAPES = {  // one pixel wide, around 0, 0
  accepted: "M-.42 0a.42.42 0 1 0 .84 0a.42.42 0 1 0-.84 0",
  refused: "M0-.5L.55.45H-.55Z",
  spoilt: "M-.5-.3L-.3-.5 0-.2 .3-.5 .5-.3 .2 0 .5.3 .3.5 0 .2-.3.5-.5.3-.2 0Z",
};
const STEPS = [.1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600];
const MARGIN = 8, HEIGHT = 124;  // pixels; the height is that with one buffer or none

function draw() {
  const width = at("timeline").clientWidth, {noun} = state, bands = findBands();
  const height = bands.length < 2 ? 32 : Math.min(18, 72 / bands.length);  // of one band
  const base = bands.length ? HEIGHT - 40 : HEIGHT;
  const floor = bands.length ? base + 8 + height * bands.length : base;
  const times = calls.map(call => call.received_at), isAll = !calls.length || calls[0].number === 1;
  const spans = outages(), begins = isAll ? spans.map(([from]) => from) : [];
  const first = Math.min(...times, ...begins), last = Math.max(first + 2, now(), ...times);
  const x = time => MARGIN + (time - first) / (last - first) * (width - 2 * MARGIN);
  const seen = spans.filter(([, to]) => to > first);
  at("strip").textContent = "";
  at("strip").setAttribute("height", floor + 22);
  at("strip").setAttribute("aria-label", describe(Math.max(...times) - first, seen.length));
  at("level").hidden = calls.length > 0 && !bands.length;
  if (!calls.length) put("text", {x: width / 2, y: base - 8}, `No ${noun} yet`);
  if (first === Infinity) return;
  for (const [from, to] of seen) {
    const left = x(Math.max(from, first)), width = Math.max(3, x(to) - left);
    put("rect", {x: left, width, y: 0, height: floor});
  }
  drawTicks(first, last, width, floor, x);
  put("line", {x1: 0, x2: width, y1: base, y2: base});
  bands.forEach((own, index) => {
    drawBuffer(own, base + 8 + height * (index + 1), height - 2, x, x(last));
    const name = safe(own[0].sender.replace(/^(.{20}).{3,}/, "$1\u2026"));
    const place = {class: "name", x: 0, y: base + 17 + height * index};
    if (bands.length > 1 && height >= 12) put("text", place, name);
  });
  const gaps = times.slice(1).map((time, index) => time - times[index]).sort((a, b) => a - b);
  const beside = x(first + (gaps[gaps.length >> 1] || 0)) - x(first);  // the usual gap
  drawCalls(x, base, Math.max(3.5, Math.min(10, beside > 3 ? beside : width / calls.length)));
}

const percentOf = call => ((call.payload || {}).buffer_status || {}).percent_full;

function findBands() {  // for each sender, the calls that tell of a buffer
  const bands = new Map();
  for (const call of calls) if (typeof percentOf(call) === "number") {
    bands.set(call.sender, (bands.get(call.sender) || []).concat(call));
  }
  return Array.from(bands.values());
}

function put(tag, attributes, words = "", parent = at("strip")) {
  const element = document.createElementNS(at("strip").namespaceURI, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  element.textContent = words;
  return parent.appendChild(element);
}

function outages() {
  const spans = [];
  let since = null;
  for (const event of events) {
    if (since === null && /^(down|stop)$/.test(event.event)) since = event.at;
    if (since !== null && /^(up|start)$/.test(event.event)) {
      spans.push([since, event.at]);
      since = null;
    }
  }
  return since === null ? spans : [...spans, [since, now()]];
}

function describe(seconds, outageCount) {
  const [unit, size] = seconds < 120 ? ["second", 1] : ["minute", 60];
  const count = kind => `${calls.filter(call => kindOf(call) === kind).length} ${kind}`;
  const when = `within ${many(Math.ceil(seconds / size) || 1, unit)}`;
  const what = calls.length ? `${many(calls.length, "call")} ${when}: `
    + Object.keys(MARKS).map(count).join(", ") : `No ${state.noun} yet`;
  return outageCount || calls.length ? `${what}; ${many(outageCount, "outage")}` : what;
}

function drawTicks(first, last, width, floor, x) {
  const step = STEPS.find(step => (last - first) / step < width / 70) || (last - first) / 4;
  for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
    const tenth = "." + Math.floor(Math.round(time * 1000) % 1000 / 100);
    const words = clock(time).slice(0, step < 60 ? 8 : 5) + (step < 1 ? tenth : "");
    put("line", {x1: x(time), x2: x(time), y1: 0, y2: floor + 4});
    const room = Math.min(x(time), width - x(time));
    if (room > 3 * words.length) put("text", {x: x(time), y: floor + 16}, words);
  }
}

function drawBuffer(own, floor, height, x, right) {
  const y = call => floor - Math.max(0, Math.min(100, percentOf(call))) / 100 * height;
  const top = own.map(call => `H${x(call.received_at)}V${y(call)}`).join("");
  const left = x(own[0].received_at);
  put("path", {class: "level", d: `M${left} ${floor}${top}H${right}V${floor}`});
  put("line", {x1: 0, x2: right + MARGIN, y1: floor, y2: floor});
}

function drawCalls(x, base, size) {
  const ends = [];  // for each level, where it is free again
  const levels = calls.map(call => {
    const left = x(call.received_at), free = ends.findIndex(end => end <= left);
    const level = free < 0 ? ends.length : free;
    ends[level] = left + .7 * size;
    return level;
  });
  const rise = Math.min(size, (base - 12) / ends.length);
  calls.forEach((call, index) => {
    const {number, received_at, sender} = call, kind = kindOf(call);
    const place = `translate(${x(received_at)} ${base - 6 - levels[index] * rise})`;
    const mark = put("path", {class: kind, d: SHAPES[kind], transform: `${place} scale(${size})`});
    put("title", {}, safe(`#${number} ${label(call)} ${clock(received_at)} ${sender}`), mark);
  });
}

// Asking the fake

class Lost extends Error {}  // nobody answered
class Closed extends Error {}  // without the token

async function ask(method, path, body) {
  const headers = {"Content-Type": "application/json"};
  if (token) headers.Authorization = `Bearer ${token}`;
  let response, data;
  try {
    response = await fetch("/_mock/" + path, {method, headers, body: body && JSON.stringify(body)});
    data = await response.json();
  } catch (error) {
    throw new Lost(NO_ANSWER);
  }
  if (response.status === 403) throw new Closed(data.error);
  if (!response.ok && response.status !== 408) throw new Error(data.error);
  return data;
}

function remember(words) {  // until the tab is closed
  try {
    if (words) sessionStorage.setItem("token", words);
    return sessionStorage.getItem("token") || "";
  } catch (error) {  // a browser that keeps nothing
    return words;
  }
}

function unlock() {
  at("login").hidden = false;
  at("main").hidden = true;
  tell("gone", "This fake asks for the token that it was started with");
  complain(token ? "That is not the right token." : "");
  at("token").focus();
  return new Promise(done => at("login").onsubmit = event => {
    event.preventDefault();
    token = remember(at("token").value.replace(/[^!-~]/g, "?"));
    done();
  });
}

function complain(words, row = at("login")) {  // below the row that was used
  row.parentNode.insertBefore(at("error"), row.nextSibling);
  at("error").textContent = safe(words);
}

async function show(told) {
  const {service, noun, senders: [one]} = state = told;
  heard = performance.now();
  clockThen = one ? one.last_at + one.seconds_since : Date.now() / 1000;
  if (lost || !at("login").hidden) complain("");
  lost = at("main").hidden = false;
  at("login").hidden = true;
  const words = {
    service: `${service} is`,
    noun: `${noun.slice(0, 1).toUpperCase()}${noun.slice(1)}s, the newest first`,
    counts: `${told.heartbeat_count} of ${many(told.call_count, noun)} accepted`
      + ` at ${told.heartbeat_url}`,
    unmatched: told.unmatched.length
      && `Missed the endpoint: ${told.unmatched.slice(-3).join(", ")}`,
    version: `mock_odoo ${told.version}`,
  };
  for (const id in words) at(id).textContent = safe(words[id] || "");
  document.title = safe(`${service} (fake)`);
  await update(told.call_count);
  tick();
  draw();
}

async function update(callCount) {
  const callsAfter = async n => (await ask("GET", `calls?since=${Math.max(0, n)}`)).calls;
  const {number, received_at} = newest(), list = at("calls");
  const open = calls.find(call => call.took === null) || newest();  // it may have ended since
  let more = await callsAfter(number ? open.number - 1 : callCount - KEPT);
  if (number && !more.some(call => call.number === number && call.received_at === received_at)) {
    calls = [];  // what is shown was forgotten
    list.textContent = "";
    more = await callsAfter(callCount - KEPT);
  }
  ({events} = await ask("GET", "events"));
  for (const call of more) {
    const known = calls.findIndex(each => each.number === call.number);
    if (known < 0) list.insertBefore(document.createElement("li"), list.firstChild);
    const index = known < 0 ? calls.push(call) - 1 : known, kind = kindOf(call);
    calls[index] = call;
    fill(list.children[calls.length - 1 - index], kind, [
      ["label", `${MARKS[kind]} ${label(call)}`],
      ["time", clock(call.received_at)],
      ["number", `#${call.number}`],
      ["text", call.text],
      ["repeats", call.repeats && `repeats #${call.repeats}`],
      ["left", call.left && `client left after ${call.took.toFixed(1)} s`],
      ["problem", call.problem],
    ]);
  }
  calls = calls.slice(-KEPT);
  while (list.children.length > KEPT) list.lastChild.remove();
}

async function watch() {
  for (let path = "state"; ; ) {
    const asked = Date.now();
    try {
      const told = await ask("GET", path);
      if (asked > outageStart) outageEnd = 0;
      await show(told);
      const {number} = newest(), patience = calls.some(call => call.took === null) ? 1 : 5;
      path = number > told.call_count ? "state" : `wait?calls=${number + 1}&timeout=${patience}`;
    } catch (error) {
      path = "state";
      if (error instanceof Closed) {
        await unlock();
        continue;
      }
      lost = lost || error instanceof Lost;
      if (lost) tick();
      else complain(`The page failed: ${error.message}`);
      await new Promise(resolve => setTimeout(resolve, 500));
    }
  }
}

async function change(element, method, path, body, then = show) {
  const row = element.closest(".row");
  const why = isOutage() ? `${state.service} is down, and nothing can reach it until it is up` : "";
  complain(why, row);
  try {
    await then(await ask(method, path, body));
    complain("", row);
  } catch (error) {
    complain(error instanceof Lost && why || error.message, row);
  }
}

for (const button of document.querySelectorAll("[data-script]")) {
  const {script, loop} = button.dataset;
  button.onclick = () => change(button, "PUT", "script", {script, loop: loop !== undefined});
}
at("down").onclick = () => {
  const seconds = Number(at("down").dataset.seconds);
  const begin = () => {
    outageStart = Date.now();
    outageEnd = outageStart + seconds * 1000;
    events.push({event: "down", at: now()});
  };
  if (!lost) begin();  // at once, since the poll may be cut before this is answered
  change(at("down"), "POST", "down", {seconds}, () => {
    begin();
    lost = true;
    tick();
  });
};
at("play").onsubmit = event => {
  event.preventDefault();
  change(at("play"), "PUT", "script", {script: at("script").value, loop: at("loop").checked});
};
const askToForget = asks => {  // the second button stands apart, out of reach of a double click
  at("sure").hidden = !asks;
  at("forget").textContent = asks ? "Keep all" : "Forget everything";
};
at("forget").onclick = () => askToForget(at("sure").hidden);
at("sure").onclick = () => {
  askToForget(false);
  change(at("memory"), "POST", "reset", {});
};
at("state").textContent = "Connecting";
window.onresize = draw;
setInterval(() => (heard || lost) && at("login").hidden && tick(), 1000);
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
