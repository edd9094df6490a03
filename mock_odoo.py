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
    MockOdooServer   what tests hold: it says what a healthy service says, starts and stops
    Contract         what a heartbeat must hold, for strict=True
    Wire             bytes to requests, replies to bytes, honest or faulty: the faults stand here
    Listener         the port, its threads and its connections
    Control          the server over HTTP, for other processes and the page
    Command line     python -m mock_odoo
    Ground floor     for every room: checks, the clock, JSON, threads
    Page             what a browser sees of it

Three questions that a reader has:

    Who may hold which lock?
        A server has one lock. Whoever changes something holds it, and is a thread of the fake,
        which no signal interrupts; nobody calls a user's function meanwhile. Heartbeats take turns:
        each holds a second lock, taken before it. Readers hold none: they copy a list, or take what
        is replaced as a whole.
    Who calls the user's functions?
        The teller's thread calls on_call and on_event, one at a time, in order. A request's own
        thread calls routes and, one heartbeat at a time, verdict, make_success and find_problems.
        `where`, `sender` and `describe_call` are called by the thread that wants to know.
    What ends a wait?
        What it waits for, its time or, in a thread of the fake, a stop. At the interpreter's end,
        stop() waits for nobody.
"""

from __future__ import annotations

import _thread
import collections
import datetime
import errno
import functools
import http.client
import json
import os
import re
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
    from typing import Any, NoReturn, Self, TypeAlias

    ScriptLike: TypeAlias = "str | Reply | dict[str, Any] | Sequence[ScriptLike]"
    Route: TypeAlias = "Callable[[Request], Reply]"
    Routes: TypeAlias = "dict[str, dict[str, Route]]"  # by path, then by method
    Event: TypeAlias = "dict[str, Any]"
    Function: TypeAlias = "Callable[..., Any]"
    Address: TypeAlias = "tuple[str, int]"
    End: TypeAlias = "tuple[float | None, bool | None]"  # what a call took, and whether it was left

__all__ = ["Call", "MockOdooServer", "Reply", "__version__", "main"]
__version__ = "1.0.0"

#: The longest time that anybody may ask for. `stall` and `down()` last until something ends them.
MAX_SECONDS = 86400
FOREVER = float("inf")
PATIENCE = 5.0  # seconds that stop() gives the threads to end


# ------------------------------------------------------------------------------------------
# Replies: what a heartbeat can be answered, and the script that puts the replies in order.
# Pure data, which knows no socket and no lock. How the Wire spoils a reply stands there.
# ------------------------------------------------------------------------------------------

TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
MAX_TIMES = 10**18 - 1
AS_PAGE = {"Content-Type": "text/html; charset=utf-8"}

#: The ways to spoil a reply, and what the client gets. `Handler.spoil` does it.
FAULTS = {
    "reset": "a TCP RST in place of the reply",
    "close": "the connection closed without a byte",
    "truncate": "half of the promised body, then closed",
    "garbage": "bytes that are not HTTP, then closed",
    "stall": "nothing, and the connection held open",
    "drip": "a correct reply, one byte every 100 ms",
}
WHOLE = (None, "drip")  # with these, the client gets the whole reply


class Reply:
    """One answer to a heartbeat, for `MockOdooServer.play`.

    `status`   200 to 599
    `body`     text, bytes, or anything that JSON can express; None for what the service itself
               says: the success reply for 2xx, nothing for 3xx, `{"error": ...}` for 503, the page
               of a proxy for 502 and 504, a page of Odoo's for other errors
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
        self,
        status: int = 200,
        body: object = None,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        *,
        delay: float = 0.0,
        fault: str | None = None,
        accepts: bool | None = None,
    ) -> None:
        self.status = check_whole("status", status, 200, 599)
        self.body = None if body is None else encode(body)
        self.is_json = not isinstance(body, (str, bytes))
        self.headers = {} if headers is None else check_headers(headers)
        self.delay = check_seconds("delay", delay)
        if fault not in (None, *FAULTS):
            raise ValueError(f"fault must be one of {', '.join(FAULTS)}, not {fault!r:.80}")
        self.fault = fault
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

    __repr__ = __str__


def outcome(accepted: bool, word: str) -> str:
    """What becomes of a call: "accepted", "refused" by a status, "spoilt" by any other word."""
    return "accepted" if accepted else "refused" if word.isdigit() else "spoilt"


def header_lines(headers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A name and a value for each line. A list as the value makes several lines."""
    for name, value in headers.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            yield name, each


def check_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what cannot be sent, or would break out of its line (response splitting)."""
    if not hasattr(headers, "items"):
        raise TypeError(f"headers must map text to text, not {headers!r:.80}")
    for name, value in header_lines(headers):
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must map text to text, not {name!r:.80} to {value!r:.80}")
        if not re.fullmatch(TOKEN, name):
            raise ValueError(f"{name!r:.80} is no header name")
        if name.lower() == "transfer-encoding":  # RFC 9112, section 6.2
            raise ValueError("Transfer-Encoding cannot be set: a reply has a Content-Length")
        if not re.fullmatch("[\t\x20-\x7e\x80-\xff]*", value):  # RFC 9110, section 5.5
            raise ValueError(f"header {name} must be one line of Latin-1 text, not {value!r:.80}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in headers.items()}


def merge(usual: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Headers, where own ones replace usual ones of the same name, whatever its case."""
    names = {name.lower() for name in own}
    return {**{name: usual[name] for name in usual if name.lower() not in names}, **own}


def format_delay(seconds: float) -> str:
    """Write a delay as a script has it: "@2s", "@250ms", "" for none."""
    number, unit = (seconds, "s") if seconds.is_integer() else (seconds * 1000, "ms")
    return f"@{number:.6f}".rstrip("0").rstrip(".") + unit if seconds else ""


PORTAL = "<!DOCTYPE html>\n<title>Welcome</title>\n<p>Please accept our terms of use.\n"
SESSION_EXPIRED = {  # as Odoo's JSON dispatcher makes it (odoo/http.py, handle_error)
    "jsonrpc": "2.0", "id": None, "error": {
        "code": 100, "message": "Odoo Session Expired", "data": {
            "name": "odoo.http.SessionExpiredException", "debug": "",
            "message": "Session expired", "arguments": ["Session expired"], "context": {},
        },
    },
}

#: The words for whole replies: what the client gets, and the fields of the Reply.
WORDS: dict[str, Any] = {
    "ok": ("the success reply", {}),
    "html": ("200 with a web page, as from a captive portal",
             {"body": PORTAL, "headers": AS_PAGE}),
    "login": ("303 to /web/login, as from an HTTP route without a session", {"status": 303}),
    "expired": ("200 with JSON-RPC error 100, as from a JSON route without one",
                {"body": SESSION_EXPIRED, "accepts": False}),
}

#: What people try, and what they may mean.
HINTS = {
    "down": "an outage is no reply: call down()",
    "up": "an outage is no reply: call up() to end it",
    "timeout": "for a client's time-out, write stall",
    "slow": "for a slow reply, write ok@6s",
}


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Such as " (did you mean 'reset'?)", or "" where nothing is near."""
    import difflib  # only mistakes need it

    near = difflib.get_close_matches(word[:80].lower(), list(words), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


#: Every kind of reply that a script can name, and what the client gets.
REPLIES = {
    "ok": "the success reply",
    "503": "that status, with a JSON error",
    "502, 504": "that status, with a proxy's page of HTML",
    "404 ...": "any status from 200 to 599; from 400 on, with a page of HTML",
    **FAULTS,
    **{word: meaning for word, (meaning, _) in WORDS.items() if word != "ok"},
}


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
        for step, after in zip(self._steps, self._steps[1:]):
            if step.times == FOREVER and not loop:  # which may have become "503*, ok" by turning
                raise ValueError(
                    f"step '{after}' can never come: '{step}' before it lasts for ever"
                )

    def next(self) -> tuple[Reply | None, Script]:
        """The next reply, None when the script has run out; and the script that is left."""
        if not self._steps:
            return None, self
        step, *rest = self._steps
        if step.times > 1:
            rest.insert(0, Step(step.reply, step.times - 1))
        if self.loop and step.times != FOREVER:
            again = rest.pop().times if rest and rest[-1].reply is step.reply else 0
            rest.append(Step(step.reply, again + 1))
        left = Script(loop=self.loop)
        left._steps = rest
        return step.reply, left

    def every(self) -> str | None:
        """What becomes of every heartbeat from now on, where that is the same for all."""
        if not self._steps:
            return "accepted"
        step, *rest = self._steps
        lasts = step.times == FOREVER or (self.loop and not rest)
        return outcome(step.reply.accepts, step.reply.word) if lasts else None

    def __str__(self) -> str:
        return ", ".join(map(str, self._steps))


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
            raise TypeError(
                f"{name!r:.80} is no field of a Reply{did_you_mean(str(name), REPLY_FIELDS)}; "
                f"it has {', '.join(REPLY_FIELDS)}"
            )
    return Reply(**fields)


def read_step(text: str) -> Step:
    """Read one step: reply ["@" delay] ["*" [n]]."""
    rest, star, count = (part.strip() for part in text.partition("*"))
    word, at, delay = (part.strip() for part in rest.partition("@"))
    try:
        reply = read_reply(word)
        reply.delay = read_delay(delay) if at else 0.0
        return Step(reply, read_count(count) if count else FOREVER if star else 1)
    except ValueError as error:
        raise ValueError(f"step {text!r:.80}: {error}") from None


def read_reply(word: str) -> Reply:
    if word in WORDS:
        return Reply(**WORDS[word][1]).but(word=word)
    if word in FAULTS:
        return Reply(fault=word)
    if re.fullmatch("[2-5][0-9][0-9]", word):
        return Reply(int(word))
    known = HINTS.get(word.lower())
    words = [*WORDS, *FAULTS]
    hint = f" ({known})" if known else did_you_mean(word, words)
    raise ValueError(
        f"{word!r:.80} is no reply{hint}; expected one of {', '.join(words)} or a status from 200 "
        "to 599, then maybe a delay (@2s, @250ms) and a count (*3, or * for ever)"
    )


def read_delay(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(m?s)", text)
    seconds = FOREVER
    if match:
        seconds = float(match.group(1)) / (1000 if match.group(2) == "ms" else 1)
    if seconds > MAX_SECONDS:
        raise ValueError(
            f"{text!r:.80} is no delay; it is written like @2s or @250ms, up to @{MAX_SECONDS}s"
        )
    return seconds


def read_count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):  # up to MAX_TIMES
        raise ValueError(
            f"{text!r:.80} is no count; it is written like *3, or * for ever, behind any delay"
        )
    if not int(text):
        raise ValueError("it can never come: its count is 0; leave the step out")
    return int(text)


def settle(scripted: Reply | None, verdict: Reply) -> Reply:
    """What is sent where the script lets the service be asked: what that says, or the script.

    A scripted reply without a body of its own says what the service says.
    """
    if scripted is None or not verdict.accepts:
        return verdict
    if scripted.body is not None or scripted.status >= 300:
        return scripted
    reply = verdict.but(
        delay=scripted.delay or verdict.delay, headers=merge(verdict.headers, scripted.headers)
    )
    if scripted.status != 200:
        reply.status = scripted.status
    if scripted.word != "ok":  # an ok leaves all else to the service
        reply.word, reply.fault, reply.accepts = scripted.word, scripted.fault, scripted.accepts
    return reply


# ------------------------------------------------------------------------------------------
# Memory: the script that plays, the calls that came, who waits for them, and who hears of them.
# It knows replies and requests, and no socket.
# ------------------------------------------------------------------------------------------

MAX_EVENTS = 100
MAX_LATEST = 100  # calls whose body may come again
SECRET = ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key")


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
    `received_at`  when it had been read: seconds since the epoch, a float
    `reply`        the script's word for it ("ok", "503", "reset"). Where the service decided
                   instead, the status as text ("400", "409")
    `delay`        seconds that the reply was to wait
    `problem`      what was wrong with the request, where that is why it was refused; else None
    `accepted`     True where the reply is a full success, whether or not the client stays for it
    `repeats`      the number of the last call with the same body, if its client may not have the
                   answer: a fault spoilt it, a status refused, the client left, or we cut it; else
                   None. HTTP clients may send such a request again by themselves
    `client`       (host, port)
    `query`        what stood behind "?" in the path; "" for nothing
    `took`         seconds from `received_at` to the end of the answer, or until the client left;
                   None before that
    `left`         True where the client hung up, or closed its sending half, before the answer went
                   out, False where it did not or we cut it; None until then
    `body`         the bytes that came; b"" where the request was refused unread
    `payload`      the body as JSON
    `headers`      a mapping that ignores case
    """

    #: What is known from the start, in the order of the journal.
    FIELDS = (
        "number", "received_at", "reply", "delay", "problem", "accepted", "repeats", "client",
        "query",
    )
    __slots__ = (*FIELDS, "body", "_arrived", "_end", "_head", "_request", "_was_spoilt")

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
        self.body = request.body
        self._head = request.head.raw
        self._arrived = request.arrived  # for intervals: somebody may set the wall clock
        self._end: End = (None, None)
        self._was_spoilt = not (reply.accepts and reply.status < 300 and reply.fault in WHOLE)
        self._request: Request | None = request  # until its answer is over

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
        """Seconds from the arrival to the end of the answer, or until the client left."""
        return self._look()[0]

    @property
    def left(self) -> bool | None:
        """Did the client leave before its answer went out? None until then.

        It is true at once, also before the thread that answers has noticed.
        """
        return self._look()[1]

    def _look(self) -> End:
        request = self._request
        if self._end[0] is None and request is not None:
            if CAN_PEEK:
                request.has_left()  # which notes when
            left_at = request.left_at
            if left_at is not None and self._end[0] is None:  # else what we saw was our own end
                return left_at - self._arrived, True
        return self._end

    def end(self, request: Request, has_left: bool, is_over: bool) -> bool:
        """Note that its answer goes out, and later that it is over. True where its client left."""
        is_news = has_left and not self._end[1]
        if is_news or self._end[0] is None:
            ended_at = (has_left and request.left_at) or Clock.now()
            self._end = ended_at - self._arrived, has_left
        if is_over:
            self._was_spoilt = self.is_spoilt()
            self._request = None
        return is_news

    def is_spoilt(self) -> bool:
        """Might a client send it again?"""
        request = self._request
        is_cut = request is not None and request.handler.is_cut()
        return self._was_spoilt or is_cut or bool(self.left)

    def to_json(self) -> str:
        """The call as one line of JSON. A body that is no JSON stands there as text.

        The values of headers that hold secrets, such as Authorization, are masked.
        """
        return json_line(self._to_record())

    def _to_record(self) -> dict[str, Any]:
        headers = self.headers
        payload = self.payload
        record: dict[str, Any] = {}
        for name in self.FIELDS:
            record[name] = getattr(self, name)
        record["took"], record["left"] = self._look()
        record["time"] = iso_time(self.received_at)
        record["label"] = self.reply + format_delay(self.delay)  # as a script has it
        record["outcome"] = outcome(self.accepted, self.reply)
        record["payload"] = payload
        record["headers"] = {
            name: "***" if name.lower() in SECRET else ", ".join(headers.get_all(name, []))
            for name in headers
        }
        if payload is None:
            record["body"] = self.body.decode("utf-8", "replace")
        return record

    def __repr__(self) -> str:
        return f"<Call {self.number}: {self.reply} {self.body!r:.200}>"


def intervals(times: Iterable[float]) -> list[float]:
    """From each time to the next. Calls that come at once may be recorded in another order."""
    ordered = sorted(times)
    return [later - earlier for earlier, later in zip(ordered, ordered[1:])]  # noqa: RUF007


class Memory:
    """What came since the last reset, which begins a new one.

    Whoever adds to it holds the lock. Readers need none: they take a number, a tuple that is
    replaced as a whole, or a copy of the list (a deque cannot be copied while it grows).
    """

    def __init__(self, max_calls: int | None, events: tuple[Event, ...] = ()) -> None:
        self._max_calls = max_calls
        self._calls: list[Call] = []
        self._latest: dict[bytes, Call] = {}  # the last call with each body
        self.call_count = 0  # also those that max_calls dropped
        self.heartbeat_count = 0
        self.unmatched: tuple[str, ...] = ()
        self.events = events

    def add(self, reply: Reply, request: Request) -> Call:
        earlier = self._latest.pop(request.body, None)
        repeats = earlier.number if earlier is not None and earlier.is_spoilt() else None
        call = Call(self.call_count + 1, reply, request, repeats)
        if call.body:
            self._latest[call.body] = call
            if len(self._latest) > MAX_LATEST:
                del self._latest[next(iter(self._latest))]
        self._calls.append(call)
        if self._max_calls is not None and len(self._calls) > self._max_calls * 9 // 8:
            del self._calls[: -self._max_calls]  # many at once: each time, all others move
        self.heartbeat_count += call.accepted
        self.call_count += 1
        return call

    def calls_after(self, number: int) -> list[Call]:
        calls = self._calls.copy()  # one step, also without the GIL
        if self._max_calls is not None:
            del calls[: -self._max_calls]
        first = calls[0].number if calls else 0
        return calls[max(0, number + 1 - first):]


class Teller:
    """Calls the user's functions, and keeps the first error that one of them raises.

    on_call and on_event are called in a thread of its own, one at a time, in order: not in the
    middle of a change, nor with a lock held, ours or the caller's. It lives while there is news.
    """

    def __init__(self, scenario: Scenario, functions: dict[str, Any]) -> None:
        self._scenario = scenario
        self.functions = functions
        self.queue: collections.deque[Any] = collections.deque()
        self._is_telling = False
        self.task: Task | None = None  # the thread that tells; it may have ended
        self.worker: Task | None = None  # the thread whose client waits for what is being told
        self.newest = Signal()  # given when all has been told that was added so far
        self.newest.give()
        self.told_count = 0

    def ask(self, name: str, function: Function, *args: object) -> Any:
        """Call a function of the user's, in a thread of ours. None where it fails."""
        task = current_task()
        assert task is not None
        before, task.doing = task.doing, name
        try:
            return function(*args)
        except BaseException as error:  # noqa: BLE001 - pytest.fail() is no Exception
            self.fail(name, error)
            return None
        finally:
            task.doing = before

    def fail(self, name: str, error: BaseException) -> None:
        """Log an error that is being handled, and keep it for the end of the `with` block."""
        log_bug(f"{name} failed")
        vars(self).setdefault("failure", error)  # in one step: several threads ask

    def add(self, name: str, news: object) -> Signal | None:
        """Queue some news. Call this under the lock: the order is made here.

        Returns what is given when it has been told; None where nobody wants to hear it, or nobody
        can tell it now.
        """
        if self.functions[name] is None:
            return None
        told = Signal()
        worker = None if name == "on_event" else current_task()
        self.queue.append((name, news, worker, told))
        if not self._is_telling:
            if sys.is_finalizing():  # a new thread would never run, or crash the interpreter
                return None
            try:
                self.task = Task("mock_odoo teller", self._tell, self._scenario.crew)
            except RuntimeError:  # out of threads: whoever comes next may have one
                return None
            self._is_telling = True
        self.newest = told
        return told

    def _tell(self) -> None:
        while True:
            with self._scenario.lock:
                self._is_telling = bool(self.queue)
                if not self.queue:
                    self.worker = None
                    return
                name, news, self.worker, told = self.queue.popleft()
            self.ask(name, self.functions[name], news)
            self.told_count += 1
            told.give()


class Scenario:
    """The script and the memory under one lock, so that call N got reply N."""

    def __init__(self, max_calls: int | None, functions: dict[str, Any]) -> None:
        self._max_calls = max_calls
        self.script = Script()
        self.memory = Memory(max_calls)
        self._make_locks(functions)

    def _make_locks(self, functions: dict[str, Any]) -> None:
        self.lock: Any = RLock()
        self._turn = Lock()  # held by the thread whose heartbeat the service is asked about
        self.crew: set[Task] = set()  # every thread of the server that lives
        self.teller = Teller(self, functions)
        self.news = Signal()  # given, and replaced, when a waiter may find what it waits for
        self.delays = Signal()  # given, and replaced, when delayed replies are let go

    def after_fork(self) -> None:
        """In a forked child, other threads are gone: with their locks, and with what they told."""
        self._make_locks(self.teller.functions)

    # -- Changes: whoever calls these holds the lock

    def play(self, script: Script) -> None:
        self.script = script
        self.note("script", script=str(script), loop=script.loop)

    def end_script(self, text: str) -> None:
        """End the script, if that is what is left of it."""
        if str(self.script) == text:
            self.play(Script())

    def forget(self) -> None:
        """Begin a new memory, which takes over what was done to the fake."""
        self.memory = Memory(self._max_calls, self.memory.events)
        self.note("forget")
        self.ring()

    def reset(self) -> None:
        self.script = Script()
        self.memory = Memory(self._max_calls)
        self.note("reset")
        self.let_go()

    def let_go(self) -> None:
        """End every delay, and have all who wait look again."""
        delays, self.delays = self.delays, Signal()
        delays.give()
        self.ring()

    def ring(self) -> None:
        """Have all who wait look again."""
        news, self.news = self.news, Signal()
        news.give()

    def note(self, name: str, **fields: object) -> None:
        """Remember what was done to the fake, and tell of it."""
        event = make_event(name, fields)
        self.memory.events = (*self.memory.events, event)[-MAX_EVENTS:]
        self.teller.add("on_event", dict(event))

    # -- What came: the threads of clients call these, without the lock

    def take(self, request: Request, ask_service: Callable[[], Reply]) -> Reply:
        """Record a call, and return the reply to it: the script's, or the service's.

        One at a time: the calls have the order in which the service was asked. Nothing is recorded
        after an outage or a stop has cut the connection.
        """
        while not self._turn.acquire(timeout=GLANCE):
            request.has_left()  # which notes when
        try:
            with self.lock:
                request.handler.check_open()
                step, self.script = self.script.next()
                memory = self.memory
                request.let_go = self.delays
            reply = step
            if reply is None or reply.accepts:
                reply = settle(step, ask_service())
            with self.lock:
                request.handler.check_open()
                request.call = memory.add(reply, request)
                told = self.teller.add("on_call", request.call)
                self.ring()
        finally:
            self._turn.release()
        while told is not None and not told.wait(GLANCE):
            request.has_left()
        return reply

    def note_unmatched(self, what: str, is_cut: Function) -> None:
        """Remember what came that is no call, unless we have cut its connection."""
        line = clip(what, 200)
        with self.lock:
            if not is_cut():
                self.memory.unmatched = (*self.memory.unmatched, line)[-20:]
                self.tell_of("unmatched", unmatched=line)

    def tell_of(self, name: str, **fields: object) -> None:
        """Tell of an event that is not remembered: it was not done to the fake."""
        with self.lock:
            self.teller.add("on_event", make_event(name, fields))

    # -- Waiting, without the lock

    def wait(
        self, what: str, n: int, timeout: float, fits: Function | None,
        given_up: Function,
    ) -> list[Call]:
        """Block until there are `n` calls or heartbeats, or `n` that fit; return those calls.

        Raises TimeoutError that tells what there was instead.
        """
        deadline = Clock.now() + check_seconds("timeout", timeout)
        check_whole("n", n, 0)
        memory: Memory | None = None
        while True:
            news = self.news  # taken before we look: what comes meanwhile gives it
            if self.memory is not memory:  # after a reset, everything begins again
                memory = self.memory
                seen = 0
                fitting: list[Call] = []
            if fits is None:
                found = memory.call_count if what == "calls" else memory.heartbeat_count
            else:  # the user's function: once for each call
                new = memory.calls_after(seen)
                fitting += [call for call in new if fits(call)]
                seen = new[-1].number if new else seen
                found = len(fitting)
            if found >= n:
                return memory.calls_after(0) if fits is None else fitting
            left = time_left(deadline)
            if not left or given_up():
                fit = "" if fits is None else " that fit"
                raise TimeoutError(
                    f"{found} of {n} {what}{fit} in {float(timeout)} s; {story(memory)}"
                )
            news.wait(left)


def make_event(name: str, fields: Event) -> Event:
    now = Clock.wall()
    return {"event": name, "at": now, "time": iso_time(now), **fields}


def story(memory: Memory) -> str:
    """What came, for a person who waited for something else."""
    calls = memory.calls_after(0)
    timeline = ["..."] * (len(calls) > 20) + [call.reply for call in calls[-20:]]
    parts = [f"calls: {', '.join(timeline)}" if calls else "no calls"]
    parts += [f"last problem: {call.problem}" for call in calls if call.problem][-1:]
    parts += [f"unmatched: {list(memory.unmatched[-3:])}"] if memory.unmatched else []
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------
# MockOdooServer: what tests hold. It says what a healthy service says, asks the script for the
# rest, and holds the current listener.
# ------------------------------------------------------------------------------------------

REMEDIES = {
    errno.EADDRINUSE: "; stop what listens there, or take port 0, a free one",
    errno.EACCES: "; take a port above 1023 that nobody has, or port 0, a free one",
    errno.EADDRNOTAVAIL: "; host must be an address of this machine",
    socket.EAI_NONAME: "; host must be an address of this machine",
}
SUCCESS = {"status": "ok", "message": "Heartbeat received"}
#: What nginx makes of an Odoo that is dead or too slow (ngx_http_special_response.c).
PROXY_TITLES = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}
PROXY_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
PROXY_HEADERS = {"Server": "nginx", "Content-Type": "text/html"}


def make_page(title: str) -> bytes:
    return f"<!DOCTYPE html>\n<title>{title}</title>\n<h1>{title}</h1>\n".encode()


def shown(payload: Any, *path: str) -> str:
    """A value in a heartbeat, fit for a terminal: short, and without control characters."""
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    if isinstance(payload, float):
        return clip(f"{payload:.1f}", 32)
    return clip(str(payload) if isinstance(payload, (str, int)) else "?", 32)


def check_methods(path: str, methods: object) -> None:
    """Raise TypeError unless `methods` maps methods to functions, as `routes` needs it."""
    is_right = isinstance(methods, dict) and methods and all(
        re.fullmatch("[A-Z-]+", str(name)) and callable(each) for name, each in methods.items()
    )
    if not is_right:
        raise TypeError(
            f"a route is set like odoo.routes[{path!r:.80}] = "
            f"{{'GET': lambda request: Reply(200)}}, not to {methods!r:.80}"
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
    `on_call`      is called with every `Call`, when it has been recorded and before it is answered
    `on_event`     is called with every event, a dict like those of `get_events()`, and with three
                   kinds that are not remembered there:
                   {"event": "unmatched", "unmatched": ...} for every line of `get_unmatched()`,
                   {"event": "left", "number": 5, "after": 2.003, "sender": "KKT-001"} for a client
                   that hung up, {"event": "request", "request": "200 POST /sign"} for a route

    A thread of the fake calls these two, one at a time, in the order of what happened. They may use
    the server, but not send it heartbeats. Methods such as `play` and `down` do not wait for them,
    only `stop` does. An answer waits for the on_call of its own call.

    Errors surface. What on_call, on_event, a method that a subclass overrides, or a route raises is
    logged ("mock_odoo"), and is a 500 where a client waits for what it should have returned. The
    first such error is raised again at the end of the `with` block, unless the block raises one of
    its own.

    Nothing is bound before `start()`, or a `with` block, which starts and stops. Another service is
    a subclass with its own `endpoint`, `default_port`, `service`, `noun` and `make_success`. Raises
    TypeError or ValueError for what cannot be served.

    GET /health, /api/v1/health and /web/health succeed, whatever the script says. Add a route by
    `odoo.routes["/ping"] = {"GET": lambda request: Reply(200, "pong")}`. The function takes a
    request (see `verdict`), and returns a `Reply`.

    What is wrong with a request is told by a JSON error: 400, 404, 405, 413 (beyond 1 MiB), 415,
    422 (`strict`), 431 (headers), 501 or 505.
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
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.port = check_whole("port", self.default_port if port is None else port, 0, 65535)
        self.host = check_host(host)
        self.strict = check_flag("strict", strict)
        if ssl_context is not None and not hasattr(ssl_context, "wrap_socket"):
            raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r:.80}")
        self.ssl_context = ssl_context
        if max_calls is not None:
            check_whole("max_calls", max_calls, 1)
        functions: dict[str, Any] = {"on_call": on_call, "on_event": on_event}
        for name, function in functions.items():
            check_callable(name, function)
        self._ok = Reply(200, SUCCESS)
        self._scenario = Scenario(max_calls, functions)
        self._changes: collections.deque[Function] = collections.deque()  # to be made
        self._stopped = Signal()  # given by stop(), replaced by start()
        self._released = -FOREVER  # when a port was ours for the last time
        self._listener: Listener | None = None  # each start and each outage makes a new one
        self._listeners: list[Listener] = []  # also closed ones that may still serve somebody
        self._own: set[Route] = set()  # routes that are not the user's
        self.routes: Routes = {}
        self._offer({check_endpoint(self.endpoint): {"POST": self._answer_heartbeat}})
        self._offer(self._pages())
        if check_flag("control", control):
            self._offer(Control(self).routes)
        SERVERS.add(self)

    def _pages(self) -> Routes:
        def serve(*args: Any) -> dict[str, Route]:
            return {"GET": lambda request: Reply(*args)}

        return {
            "/health": serve(200, {"status": "ok"}),
            "/api/v1/health": serve(200, {"status": "ok"}),  # what some compose files ask
            "/web/health": serve(200, {"status": "pass"}),  # Odoo's own probe
            "/web/login": serve(200, make_page("Log in"), AS_PAGE),
        }

    def _offer(self, routes: Routes) -> None:
        """Add routes of the fake itself. A path may take several methods; an existing one wins."""
        for path, methods in routes.items():
            for method, route in methods.items():
                self._own.add(route)
                self.routes.setdefault(path, {}).setdefault(method, route)

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
        """What `strict` finds wrong, a line each.

        A heartbeat must hold `timestamp` (ISO 8601 with a zone), `adapter_id`, `buffer_status` with
        `total_capacity`, `current_queued` and `percent_full`, and `circuit_breaker` with `state`
        (CLOSED, OPEN or HALF_OPEN) and `failure_count`.
        """
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
        if success is SUCCESS:
            return self._ok
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
        name = shown(payload, "adapter_id")
        state = shown(payload, "circuit_breaker", "state")
        queued, capacity, percent = (
            shown(payload, "buffer_status", each)
            for each in ("current_queued", "total_capacity", "percent_full")
        )
        buffer = f"buffer {queued}/{capacity} ({percent}%)"
        return f"{name:<10}  {buffer:<22}  breaker {state:<9}"

    def _describe(self, name: str, call: Call) -> str:
        """What `sender` or `describe_call` says of a call; "?" where it fails."""
        said = self._scenario.teller.ask(name, getattr(self, name), call)
        return "?" if said is None else str(said)

    def _record(self, call: Call) -> Event:
        """A call as the journal and the control API tell it."""
        sender = self._describe("sender", call)
        text = self._describe("describe_call", call)
        return {**call._to_record(), "sender": sender, "text": text}

    # -- What the wire asks

    def _find_route(self, head: Head) -> tuple[Route | None, Refusal | None]:
        """Who answers a request, and what is wrong with it whatever its body says."""
        try:
            route = self._look_up(head)
        except Refusal as refusal:
            return None, refusal
        except Exception as error:  # noqa: BLE001 - whatever stands there
            self._scenario.teller.fail("routes", error)
            return None, Refusal(500, str(error))
        coding = head.fields.get("content-encoding", "identity")
        if coding.lower() != "identity":
            return route, Refusal(
                415, f"Content-Encoding {coding!r:.80} is not understood; send the body as it is"
            )
        if route == self._answer_heartbeat and not head.is_json:
            kind = head.fields.get("content-type", "missing")
            return route, Refusal(415, f"Content-Type must be application/json; it is {kind:.80}")
        return route, None

    def _look_up(self, head: Head) -> Route:
        methods = self.routes.get(head.path)
        if methods is None and head.path == self.endpoint + "/":  # Odoo's strict_slashes=False
            methods = self.routes.get(self.endpoint)
        if methods is None:
            raise Refusal(404, f"there is no {head.path:.200} here; there are {self._known()}")
        route = methods.get(head.method) if isinstance(methods, dict) else None
        if not callable(route):
            check_methods(head.path, methods)
            route = methods.get("GET") if head.method == "HEAD" else None
        if route is None:
            allowed = ", ".join(methods) + (", HEAD" if "GET" in methods else "")
            raise Refusal(
                405, f"{head.path} takes {allowed}, not {head.method:.40}", {"Allow": allowed}
            )
        return route

    def _known(self) -> str:
        """Six of the routes, the endpoint first."""
        known: list[str] = []
        for path, methods in list(self.routes.items()):
            check_methods(path, methods)
            known += [f"{method} {path}" for method in methods]
        more = len(known) - 6
        return ", ".join(known[:6]) + (f" and {more} more" if more > 0 else "")

    def _answer(self, request: Request) -> Reply:
        """The reply to a request."""
        if request.route == self._answer_heartbeat:
            return self._answer_heartbeat(request)
        request.handler.check_open()
        line = f"{request.method} {request.path}"
        if request.route is None:
            assert request.refusal is not None
            self._scenario.note_unmatched(
                f"{request.refusal.reply.status} {line}", request.handler.is_cut
            )
            return request.refusal.reply
        request.let_go = self._scenario.delays
        reply = self._ask(request.route, line, request)
        if request.route not in self._own:
            self._scenario.tell_of("request", request=clip(f"{reply.status} {line}", 200))
        return reply

    def _answer_heartbeat(self, request: Request) -> Reply:
        def ask_service() -> Reply:
            return self._ask(self.verdict, "verdict, make_success or find_problems", request)

        return self._word(self._scenario.take(request, ask_service), request)

    def _ask(self, function: Route, name: str, request: Request) -> Reply:
        """Ask a function of the user's for a reply. Where it fails, the reply says so.

        It is not asked about a request that is wrong already, whose body may not have been read.
        """
        if request.refusal is not None:
            return request.refusal.reply

        def ask() -> Reply:
            reply = function(request)
            if not isinstance(reply, Reply):
                what = name.partition(",")[0]
                raise TypeError(f"{what} must return a Reply, not {reply!r:.80}")
            return self._word(reply, request)

        reply: Reply | None = self._scenario.teller.ask(name, ask)
        return reply or Refusal(500, f"{name} failed; the log of the fake tells more").reply

    def _word(self, reply: Reply, request: Request) -> Reply:
        """Have a reply without a body say what the service itself says, or the proxy before it."""
        if reply.body is not None:
            return reply
        if reply.status < 300:
            return reply.but(body=self._ok.body)
        body, headers = b"", {}
        title = f"{reply.status} {phrase(reply.status)}"
        if reply.word == "login":
            back = urllib.parse.quote(f"{request.path}?{request.query}", safe="")
            body, headers = make_page(title), {**AS_PAGE, "Location": f"/web/login?redirect={back}"}
        elif reply.status in PROXY_TITLES:
            body, headers = PROXY_PAGE.format(PROXY_TITLES[reply.status]).encode(), PROXY_HEADERS
        elif reply.status == 503:
            body = encode({"error": f"{self.service} service unavailable"})
        elif reply.status >= 400:
            body, headers = make_page(title), AS_PAGE
        return reply.but(body=body, headers=merge(headers, reply.headers))

    def _answer_ended(self, request: Request, has_left: bool, is_over: bool) -> None:
        """The answer to a request goes out, or it is over, perhaps as its client has left."""
        call = request.call
        if call is not None and call.end(request, has_left, is_over):
            after = round(call.took or 0.0, 3)
            sender = self._describe("sender", call)
            self._scenario.tell_of("left", number=call.number, after=after, sender=sender)

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
            has_started = self._change(self._start)
        except BaseException:  # also what a signal handler raises when it has been done
            self.stop()
            raise
        if has_started is False:
            raise RuntimeError(f"already running at {self._address()}; call stop() first")

    def _start(self) -> bool:
        if self._listener is not None:
            return False
        self._stopped = Signal()
        self._open(self._take_port(), "start")
        return True

    def stop(self) -> None:
        """Refuse new connections, cut the others, let go what is delayed, end every thread.

        All that is done when this returns (in a function of yours that the fake calls, its own
        connection and the threads end afterwards). Harmless when not running. The memory and the
        script stay: `start()` goes on with them, on the same port. A signal handler may call this.
        When an exception has interrupted this, call it again.

        Raises RuntimeError where not all has ended in 5 s: a function of yours hangs, such as
        on_call, or has more news to be told of than it can take in.
        """
        teller = self._scenario.teller
        deadline = Clock.now() + PATIENCE
        told_count = teller.told_count
        tasks = self._change(self._stop)
        if tasks is None or sys.is_finalizing() or self._is_inside():
            return  # it would wait for the caller, or for nobody
        have_ended = [task.ended.wait(time_left(deadline)) for task in tasks]
        # Only for the news so far: others may go on, so that there is always more to be told.
        if all(have_ended) and teller.newest.wait(time_left(deadline)):
            if teller.task is not None:
                teller.task.ended.wait(0.1)
            return
        suspects = [*tasks, teller.task] if teller.told_count == told_count else tasks
        hanging = [task.doing for task in suspects if task is not None and task.doing]
        complaint = f"{hanging[0] if hanging else 'a thread'} has not ended in {PATIENCE:.0f} s"
        if hanging:
            complaint += ": a function of yours hangs, or waits for this thread"
        if teller.queue:
            complaint += f"; {len(teller.queue)} news wait to be told"
        raise RuntimeError(complaint)

    def _stop(self) -> set[Task]:
        self._stopped.give()
        self._close()
        return self._scenario.crew - {self._scenario.teller.task}

    def _change(self, function: Function, *args: object) -> Any:
        """Change the server by a function: under the lock, and in a thread of the fake.

        A signal handler can interrupt the main thread anywhere, raise there, or make a change
        itself. It never interrupts ours, so no change is left half done, and no lock taken. Changes
        are made in the order in which they were asked for.

        A `__del__` can ask for one in the middle of another. It is made after that: here is None.
        """
        if sys.is_finalizing():  # no other thread runs any more, and one may have the lock for ever
            return function(*args)
        is_ours = current_task() is not None
        lock = self._scenario.lock
        if is_ours and not lock._is_owned():
            with lock:
                return function(*args)
        returned: Any = None
        raised: BaseException | None = None

        def make() -> None:
            nonlocal returned, raised
            try:
                returned = function(*args)
            except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
                raised = error

        self._changes.append(make)
        try:
            maker = Task("", self._make_changes, set())
        except BaseException as error:  # no thread is left, or a signal handler raises
            self._make_changes()
            if not isinstance(error, RuntimeError):
                raise
        else:
            if is_ours:
                return None
            maker.ended.wait()
        if raised is not None:
            raise raised
        return returned

    def _make_changes(self) -> None:
        with self._scenario.lock:
            while self._changes:
                self._changes.popleft()()

    def __enter__(self) -> Self:
        vars(self._scenario.teller).pop("failure", None)  # of an earlier life
        self.start()
        return self

    def __exit__(self, error_type: object, *exc_info: object) -> None:
        self.stop()
        failure = vars(self._scenario.teller).pop("failure", None)
        if failure is not None and error_type is None:
            raise failure

    def down(self, seconds: float | None = None) -> None:
        """An outage: refuse new connections and cut the others.

        It lasts for `seconds`, or until `up()` or `reset()`. The port stays reserved meanwhile.
        Raises RuntimeError where the server does not run, and OSError where somebody snatched the
        port in the instant between listening and reserving; the server is stopped then.
        """
        self._change(self._down, None if seconds is None else check_seconds("seconds", seconds))

    def _down(self, seconds: float | None) -> None:
        self._needs_running()
        self._released = Clock.now()
        self._listener = listener = self._take_port()
        self._scenario.note("down", seconds=seconds)
        if seconds == 0:
            self._open(listener, "up")
        elif seconds is not None:
            listener.open_after(seconds)

    def up(self) -> None:
        """End an outage; harmless when there is none.

        Raises RuntimeError where the server does not run, and OSError where somebody has taken the
        port; the server is stopped then.
        """
        self._change(self._up)

    def _up(self) -> None:
        self._open(self._needs_running(), "up")

    def _end_outage(self, listener: Listener) -> None:
        """The outage of this listener has lasted as long as it should."""
        if listener is self._listener:
            self._open(listener, "up")

    def _needs_running(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("not running; call start() first")
        return self._listener

    def _take_port(self) -> Listener:
        """Bind a listener in place of the present one, whose connections are cut."""
        self._cut_all()
        listener = Listener(self.host, self.port, self)
        self._listeners = [*[each for each in self._listeners if each.workers], listener]
        self._or_stop(listener.server_bind)
        self.port = listener.server_port
        return listener

    def _open(self, listener: Listener, event: str) -> None:
        """Let clients connect, unless they can."""
        if not listener.is_open:
            self._or_stop(listener.open)
            self._listener = listener
            fields = {"url": self.url} if event == "start" else {}
            self._scenario.note(event, **fields)

    def _or_stop(self, step: Function, *args: object) -> None:
        """Take a step towards listening. Where it fails, the server is stopped.

        A port that was ours is asked for again for a second, as Windows may not have freed it yet.
        """
        while True:
            try:
                step(*args)
                return
            except BaseException as error:
                is_taken = getattr(error, "errno", None) == errno.EADDRINUSE
                if not is_taken or Clock.now() > self._released + 1.0:
                    self._close()
                    if not isinstance(error, OSError):
                        raise
                    raise OSError(
                        error.errno,
                        f"cannot listen on {self.host}, port {self.port}: {error.strerror}"
                        f"{REMEDIES.get(error.errno or 0, '')}",
                    ) from None
            Clock.sleep(0.001)

    def _close(self) -> None:
        if self._listener is not None:
            self._scenario.note("stop")
            self._released = Clock.now()
        self._listener = None
        self._cut_all()

    def _cut_all(self) -> None:
        """Cut all connections. In a user's function, the call that it is told of is spared."""
        task = current_task()
        teller = self._scenario.teller
        spared = task if task is not None and task.doing else None
        if task is teller.task:
            spared = teller.worker
        for listener in self._listeners:
            listener.close(spared)
        self._scenario.let_go()

    def _is_inside(self) -> bool:
        """Is the caller in a function of the user's, which one of our threads has called?"""
        return current_task() in self._scenario.crew

    def _after_fork(self) -> None:
        """A forked child has copies of the sockets, but no thread: the server is the parent's."""
        for listener in self._listeners:
            listener.after_fork()
        self._listener = None
        self._listeners = []
        self._scenario.after_fork()
        self._changes.clear()

    # -- The script

    def play(self, script: ScriptLike, loop: bool = False) -> None:
        """Answer heartbeats by this script from now on; the last call of `play` or a setter wins.

            script := step ("," step)*              "503*2, reset, ok@6s, stall*"
            step   := reply ["@" delay] ["*" [n]]   *n: n times.  *: for ever.  @2s, @250ms: wait
            reply  := ok | status | fault

        `ok`        the success reply
        `503`       that status, with a JSON error
        `502, 504`  that status, with a proxy's page of HTML, as nginx answers for a dead Odoo
        `404 ...`   any status from 200 to 599; from 400 on, with a page of HTML, as Odoo has it
        `reset`     a TCP RST in place of the reply
        `close`     the connection closed without a byte
        `truncate`  half of the promised body, then closed
        `garbage`   bytes that are not HTTP, then closed
        `stall`     nothing, and the connection held open
        `drip`      a correct reply, one byte every 100 ms
        `html`      200 with a web page, as from a captive portal
        `login`     303 to /web/login, as from an HTTP route without a session
        `expired`   200 with JSON-RPC error 100, as from a JSON route without one

        In place of text, a `Reply`, a dict of its fields, or a list that mixes these will do. When
        the script has run out, heartbeats succeed; with `loop`, it starts again instead. Raises
        ValueError that quotes the step that cannot be read; the old script plays on.
        """
        self._change(self._scenario.play, Script(script, loop))

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
            self._change(self._scenario.end_script, "503*")

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
        return self._scenario.memory.call_count

    def get_heartbeat_count(self) -> int:
        """How many of the calls since the last reset were accepted."""
        return self._scenario.memory.heartbeat_count

    def get_calls(self) -> list[Call]:
        """The calls since the last reset that are kept, oldest first."""
        return self._scenario.memory.calls_after(0)

    def get_unmatched(self) -> list[str]:
        """What came lately that is no call, oldest first, such as "404 POST /api/v2/heartbeat".

        These are other paths and methods, what is no HTTP, requests that end too early, and TLS
        handshakes that failed. WireMock calls them unmatched requests.
        """
        return list(self._scenario.memory.unmatched)

    def get_events(self) -> list[Event]:
        """What was done to the fake since the last reset: the newest 100 events, oldest first.

        Each is a dict with `event`, `at` (seconds since the epoch) and `time` (the same in
        ISO 8601). `start` has a `url`, `script` has `script` and `loop`, `down` has `seconds` (None
        for an outage without an end); `up`, `forget`, `reset` and `stop` have no more.
        """
        return [dict(event) for event in self._scenario.memory.events]

    def get_intervals(self) -> list[float]:
        """The seconds from each call to the next, whatever was done to the wall clock."""
        return intervals(call._arrived for call in self.get_calls())

    def forget(self) -> None:
        """Forget the calls, and what was unmatched; the script goes on, and so does an outage."""
        self._change(self._scenario.forget)

    def reset(self) -> None:
        """Forget the calls, end the script and any outage, and release every delayed reply.

        Raises OSError where an outage cannot end, as `up()` does.
        """
        self._change(self._reset)

    def _reset(self) -> None:
        self._scenario.reset()
        if self._listener is not None:
            self._open(self._listener, "up")

    def wait_for_heartbeats(
        self,
        n: int,
        timeout: float = 5.0,
        where: Callable[[Any], object] | None = None,
    ) -> list[Any]:
        """Block until `n` heartbeats have been accepted since the last reset.

        Returns all that are kept. With `where`, a function of the payload, it waits for `n` that
        fit, and returns those that fit. The function is called once for each, and what it raises
        reaches the caller. Raises TimeoutError after `timeout` seconds, which tells what came.
        """
        check_callable("where", where)
        fits = where and (lambda call: call.accepted and where(call.payload))
        calls = self._wait("heartbeats", n, timeout, fits)
        return [call.payload for call in calls if call.accepted]

    def wait_for_calls(
        self,
        n: int,
        timeout: float = 5.0,
        where: Callable[[Call], object] | None = None,
    ) -> list[Call]:
        """Block until `n` calls have come since the last reset.

        Otherwise like `wait_for_heartbeats`; here `where` is a function of the `Call`.
        """
        check_callable("where", where)
        return self._wait("calls", n, timeout, where)

    def _wait(self, what: str, n: int, timeout: float, fits: Function | None) -> list[Call]:
        # stop() waits for our threads, so it ends their waits.
        stopped = self._stopped
        is_inside = self._is_inside()

        def given_up() -> bool:
            return is_inside and stopped.is_given

        try:
            return self._scenario.wait(what, n, timeout, fits, given_up)
        except TimeoutError as error:
            cause = ""
            if given_up():
                cause = "the server was stopped; "
            elif not self.is_running:
                cause = "the server is not running: call start(); "
            elif in_event_loop():
                cause = "this thread runs an event loop, which cannot send while it waits: "
                cause += "use await asyncio.to_thread(...); "
            raise TimeoutError(f"{cause}{error}") from None

    def __repr__(self) -> str:
        listener = self._listener
        state = "stopped" if listener is None else "running" if listener.is_open else "down"
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

ISO_8601 = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})([.,][0-9]+)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"
)
STATES = ("CLOSED", "OPEN", "HALF_OPEN")


def is_time(value: object) -> bool:
    """Is it ISO 8601 with a zone? Before 3.11, fromisoformat() knows no Z, nor all fractions."""
    match = re.fullmatch(ISO_8601, value) if isinstance(value, str) else None
    try:
        return bool(match and Clock.datetime.fromisoformat(match.group(1)))
    except ValueError:  # the 30th of February
        return False


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # True and False are no numbers here


def is_object(value: object) -> bool:
    return isinstance(value, dict)


#: Each field, what may stand there, and how that is told. Unknown fields are welcome.
CONTRACT: tuple[tuple[str, Function, str], ...] = (
    ("timestamp", is_time, "an ISO 8601 time with a zone, like 2025-10-09T12:00:00Z"),
    ("adapter_id", lambda value: type(value) is str and value != "", "a non-empty string"),
    ("buffer_status", is_object, "an object"),
    ("buffer_status.total_capacity", is_count, "a whole number, 0 or more"),
    ("buffer_status.current_queued", is_count, "a whole number, 0 or more"),
    ("buffer_status.percent_full", lambda value: type(value) in (int, float), "a number"),
    ("circuit_breaker", is_object, "an object"),
    ("circuit_breaker.state", lambda value: value in STATES, "CLOSED, OPEN or HALF_OPEN"),
    ("circuit_breaker.failure_count", is_count, "a whole number, 0 or more"),
)


def contract_problems(payload: dict[str, Any]) -> list[str]:
    """Every breach of the contract, with its path and value."""
    problems = []
    for path, fits, expected in CONTRACT:
        parent, _, name = path.rpartition(".")
        fields = payload.get(parent) if parent else payload
        if not isinstance(fields, dict):
            continue  # the parent's own row reports that
        if name not in fields:
            problems.append(f"{path}: missing")
        elif not fits(fields[name]):
            problems.append(f"{path}: expected {expected}, got {quote(fields[name])}")
    return problems


# ------------------------------------------------------------------------------------------
# Wire: bytes to requests, replies to bytes, honest or faulty. It knows no route and no text of the
# service: for these it asks the server, here called `app`. A new fault is a word of FAULTS, and a
# case of `spoil`.
# ------------------------------------------------------------------------------------------

REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])\r?")
HEADER_LINE = re.compile(rf"({TOKEN}):([^\0\r\n]*)\r?")
CHUNK_LINE = re.compile(r"([0-9A-Fa-f]+)[ \t]*(;[^\r\n]*)?\r\n")
LINE_BREAKS = re.compile(b"(\r?\n)+")
END_OF_HEAD = re.compile(b"\n\r?\n")
START = re.compile(b"[A-Z]+ [^ ?\r\n]+")  # such as "POST /api/v1/kkt/heartbeat"
JSON_TYPES = ("application/json", "application/json-rpc")
PIECE = 65536  # bytes to receive at once
MAX_HEAD = 65536  # bytes of request line and headers
MAX_HEADERS = 100
MAX_BODY = 1 << 20  # bytes
BODILESS = (204, 304)  # statuses without a body to tell of (RFC 9110, section 8.6)
LINGER = 2.0  # seconds to wait for more of a request that is not read to its end
SMALL = 16384  # bytes that are sent at once; the client cannot have the answer before these
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


def tokens(value: str) -> list[str]:
    """What a header such as Connection lists, in small letters."""
    return [each.strip().lower() for each in value.split(",")]


def read_request_line(line: str) -> tuple[str, str, str, bool]:
    """Return the method, the path, the query, and whether it is HTTP/1.0."""
    if line[:1] == "\x16":
        raise Refusal(400, "this is TLS, and the port speaks plain HTTP")
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refusal(
            400, f"malformed request line {line.rstrip()!r:.80}; "
            "it should be like 'GET /health HTTP/1.1'"
        )
    method, target, major, minor = match.groups()
    if major != "1":
        raise Refusal(505, f"HTTP/{major}.{minor} is not spoken here; HTTP/1.1 is")
    path, _, query = re.sub("^(?i:https?)://[^/?]*", "", target).partition("?")
    return method, path or "/", query, minor == "0"


def read_header_line(line: str) -> tuple[str, str]:
    """Return the name, in small letters, and the value."""
    match = HEADER_LINE.fullmatch(line)
    if not match:
        start = re.match(f"({TOKEN})?", line)  # what stands behind it may be a secret
        raise Refusal(
            400, f"malformed header line that begins with {start and start.group()!r:.80}; "
            "it should be like 'Name: value'"
        )
    return match.group(1).lower(), match.group(2).strip(" \t")


def too_many_headers() -> Refusal:
    return Refusal(
        431, f"more than {MAX_HEADERS} headers, or more than {MAX_HEAD} bytes of them and of the "
        "request line"
    )


class Head:
    """A request line and headers, read strictly. It never changes: many requests may share it.

    A request that two servers could read differently is refused (RFC 9112).
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw.decode("latin-1").split("\n")[:-2]
        if len(raw) > MAX_HEAD or len(lines) > MAX_HEADERS:
            raise too_many_headers()
        self.method, self.path, self.query, self.is_http_1_0 = read_request_line(first)
        self.fields: dict[str, str] = {}  # by lower-case name; repeated ones joined by commas
        for name, value in map(read_header_line, lines):
            self.fields[name] = f"{self.fields[name]}, {value}" if name in self.fields else value
        self._check_host()
        self._read_length()
        options = tokens(self.fields.get("connection", ""))
        is_kept = not self.is_http_1_0 or "keep-alive" in options
        self.keep_alive = is_kept and "close" not in options
        kind = self.fields.get("content-type", "").partition(";")[0]
        self.is_json = kind.strip().lower() in JSON_TYPES
        expects = self.fields.get("expect", "").lower() == "100-continue" and not self.is_http_1_0
        self.expects_continue = expects and (self.is_chunked or self.length > 0)

    def _check_host(self) -> None:
        """Refuse none, or several (RFC 9112, section 3.2)."""
        host = self.fields.get("host", "" if self.is_http_1_0 else None)
        if host is None:
            raise Refusal(400, "HTTP/1.1 needs a header Host, like 'Host: 127.0.0.1'")
        if "," in host:
            raise Refusal(400, f"there must be one Host, not {host!r:.80}")

    def _read_length(self) -> None:
        """Find where the body ends (RFC 9112, section 6)."""
        coding = self.fields.get("transfer-encoding")
        given = self.fields.get("content-length")
        if coding is not None and (self.is_http_1_0 or given is not None):
            other = "HTTP/1.0" if self.is_http_1_0 else "Content-Length"
            raise Refusal(400, f"Transfer-Encoding does not go with {other}")
        if coding is not None and coding.lower() != "chunked":
            raise Refusal(501, f"Transfer-Encoding {coding!r:.80} is not understood; 'chunked' is")
        length, *others = set(tokens("0" if given is None else given))
        if others or not re.fullmatch("[0-9]+", length):
            raise Refusal(400, f"Content-Length must be plain digits, and one, not {given!r:.80}")
        self.is_chunked = coding is not None
        self.length = int("0" + length.lstrip("0")[:18])  # int() takes no more than 4,300


parse_head = functools.lru_cache(maxsize=32)(Head)  # a client sends the same head again and again


class Request:
    """A request as it came. `MockOdooServer.verdict` tells what a user may read of it."""

    left_at: float | None = None  # when the first who looked saw that its client had left

    def __init__(
        self,
        head: Head,
        body: bytes,
        route: Route | None,
        refusal: Refusal | None,
        handler: Handler,
    ) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.body = body  # b"" where it was refused unread
        self.route = route  # who answers it; None for 404 and 405
        self.refusal = refusal  # set where the head alone is wrong (404, 405, 413, 415)
        self.client = handler.client_address
        self.handler = handler
        self.let_go: Signal | None = None  # given when its answer is to wait no longer
        self.arrived = Clock.now()
        self.received_at = Clock.wall()
        self.call: Call | None = None  # as what it was recorded

    @property
    def headers(self) -> http.client.HTTPMessage:
        return read_headers(self.head.raw)

    @property
    def payload(self) -> Any:
        return parse_or_none(self.body)  # None where it is not JSON

    def parse(self) -> dict[str, Any]:
        """Return the JSON object in the body; a Refusal says why there is none."""
        if not self.head.is_chunked and "content-length" not in self.head.fields:
            raise Refusal(400, "the body is empty: there is no Content-Length")
        try:
            payload = parse_json(self.body)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        if not isinstance(payload, dict):
            raise Refusal(400, f"the body must be a JSON object, not {quote(payload)}")
        return payload

    def has_left(self, seconds: float = 0.0) -> bool:
        """Wait up to so many seconds for the client to leave, before we cut it. True if it has."""
        connection, cut = self.handler.connection, self.handler.server.cut
        if self.left_at is None and has_left(connection, seconds) and cut.get(connection, True):
            left_at = max(self.arrived, Clock.now() - seconds_gone(connection))
            vars(self).setdefault("left_at", left_at)  # in one step: others look, too
        return self.left_at is not None


def phrase(status: int) -> str:
    return http.client.responses.get(status, f"Status {status}")


def http_date(second: int) -> str:
    """Write a time as HTTP does (RFC 9110, section 5.6.7): "Wed, 25 Nov 2026 12:00:30 GMT"."""
    weekday, month, day, clock, year = Clock.datetime(*Clock.gmtime(second)[:6]).ctime().split()
    return f"{weekday}, {day:0>2} {month} {year} {clock} GMT"


@functools.lru_cache(maxsize=32)  # most replies of a second have the same
def make_head(status: int, kind: str, length: int, own: tuple[Any, ...], second: int) -> bytes:
    """Make a status line and headers. A reply's own headers replace the usual ones."""
    usual = {"Server": f"mock_odoo/{__version__}", "Date": http_date(second)}
    if status not in BODILESS:
        usual["Content-Type"] = f"{kind}; charset=utf-8"
        usual["Content-Length"] = str(length)
    lines = [f"{name}: {value}\r\n" for name, value in header_lines(merge(usual, dict(own)))]
    return f"HTTP/1.1 {status} {phrase(status)}\r\n{''.join(lines)}\r\n".encode("latin-1")


class Handler(BaseHTTPRequestHandler):
    """One connection: requests in, replies out, until one side closes.

    A client that leaves while it is answered raises an OSError here, which ends the connection in
    silence.
    """

    server: Listener
    connection: Any
    is_last = False  # True where the connection ends behind this request
    must_linger = False  # True where the client may send what we do not read

    def setup(self) -> None:
        self.connection = self.request
        self.app = self.server.app
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a reply
        self.data = bytearray()  # what has been received, and not been read yet
        self.head: Head | None = None  # of the request that is being read

    def finish(self) -> None:
        pass

    def handle(self) -> None:
        while not self.is_last:
            self.is_last = True
            try:
                request = self.read_request()
            except Refusal as refusal:  # nobody could tell where the next request begins
                self.refuse(refusal)
            else:
                if request is not None:
                    self.answer(request)
        if self.must_linger:
            self.linger()

    def refuse(self, refusal: Refusal) -> None:
        start = START.match(self.head.raw if self.head else self.data)
        name = start.group().decode("latin-1") + ": " if start else ""
        self.app._scenario.note_unmatched(f"{refusal.reply.status} {name}{refusal}", self.is_cut)
        self.connection.sendall(b"".join(self.compose(refusal.reply)))
        self.must_linger = True

    def answer(self, request: Request) -> None:
        reply = self.app._answer(request)
        has_left = False
        try:
            if reply.delay:
                self.pause(reply.delay, request)
            rest = self.spoil(reply.fault, *self.compose(reply, request), request)
            if rest and len(rest) > SMALL:
                self.connection.sendall(rest[:-SMALL])
                rest = rest[-SMALL:]
            has_left = request.has_left()  # before the last bytes: only then does it stay for sure
            self.app._answer_ended(request, has_left, is_over=False)
            if reply.fault not in WHOLE:
                self.is_last = True
                self.must_linger = rest is not None
            if rest is None:
                self.server.abort(self.connection)
            elif rest:
                self.connection.sendall(rest)
        except OSError:
            has_left = request.has_left() or not self.is_cut()
            raise
        finally:
            self.app._answer_ended(request, has_left, is_over=True)

    def is_cut(self) -> bool:
        """Has close() cut the connection?"""
        return self.connection in self.server.cut

    def check_open(self) -> None:
        """After that, nothing is recorded, and nothing that has been received is answered."""
        if self.is_cut():
            raise ConnectionAbortedError("the fake has cut it")

    def linger(self) -> None:
        """Close our half, and read on while more comes.

        To close at once, with bytes unread, would reset the connection: the reply would be lost.
        """
        Socket.shutdown(self.connection, socket.SHUT_WR)
        self.connection.settimeout(LINGER)
        while self.connection.recv(PIECE):
            pass

    # -- Reading

    def read_request(self) -> Request | None:
        """Read a whole request; None where the client closes before it.

        Raises Refusal where nobody could tell where the next begins.
        """
        self.head = None
        head = self.head = self.read_head()
        if head is None:
            return None
        route, refusal = self.app._find_route(head)
        body = None  # where it is too long, or the client may not send it
        if head.length <= MAX_BODY and not (refusal and head.expects_continue):
            if head.expects_continue:
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = self.read_chunks() if head.is_chunked else self.read_bytes(head.length)
        if body is None and refusal is None:
            refusal = Refusal(413, f"the body is longer than {MAX_BODY} bytes")
        self.must_linger = body is None
        self.is_last = self.must_linger or not head.keep_alive
        return Request(head, body or b"", route, refusal, self)

    def read_head(self) -> Head | None:
        """Read a request line and headers; None where the client closes before them."""
        end = None
        while end is None:
            breaks = LINE_BREAKS.match(self.data)  # RFC 9112, section 2.2
            if breaks:
                del self.data[: breaks.end()]
            end = END_OF_HEAD.search(self.data)
            if end is None:
                self.check_start()
                if not self.receive():
                    if not self.data:
                        return None
                    place = "headers" if b"\n" in self.data else "first line"
                    raise Refusal(400, f"the request ends in the middle of its {place}")
        head = parse_head(bytes(self.data[: end.end()]))
        del self.data[: end.end()]
        return head

    def check_start(self) -> None:
        """Refuse at once what cannot become a request: its client may send no more."""
        line, line_break, _ = self.data.partition(b"\n")
        if line_break or line[:1] == b"\x16":  # a hello of TLS need not hold a line break
            read_request_line(line.decode("latin-1"))
        if len(self.data) > MAX_HEAD:
            raise too_many_headers()

    def receive(self) -> bool:
        """Wait for more. False where the client sends no more."""
        try:
            piece = self.connection.recv(PIECE)
        except OSError:  # it has reset the connection
            piece = b""
        if not piece:
            self.check_open()  # or it was us
        self.data += piece
        return bool(piece)

    def read_bytes(self, size: int) -> bytes:
        while len(self.data) < size and self.receive():
            pass
        if len(self.data) < size:
            raise Refusal(400, f"the body ends after {len(self.data)} of {size} bytes")
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    def read_line(self) -> str:
        """Read a line of a chunked body."""
        while b"\n" not in self.data:
            if len(self.data) > MAX_HEAD:
                raise Refusal(400, f"a line of the chunked body is longer than {MAX_HEAD} bytes")
            if not self.receive():
                raise Refusal(400, "the chunked body has no end")
        return self.read_bytes(self.data.find(b"\n") + 1).decode("latin-1")

    def read_chunks(self) -> bytes | None:
        """Read a chunked body (RFC 9112, section 7.1); None where it is too long.

        Extensions and trailers mean nothing here.
        """
        body, size = bytearray(), -1
        while size:
            line = self.read_line()
            match = CHUNK_LINE.fullmatch(line)
            if not match:
                raise Refusal(400, f"malformed chunk size {line!r:.80}; it should be like '1f'")
            size = int(match.group(1), 16)
            if len(body) + size > MAX_BODY:
                return None
            body += self.read_bytes(size)
            if size and self.read_bytes(2) != b"\r\n":
                raise Refusal(400, f"a chunk does not end after the {size} bytes that it announced")
        for number, line in enumerate(iter(self.read_line, "\r\n")):
            read_header_line(line[:-1])
            if number == MAX_HEADERS:
                raise too_many_headers()
        return bytes(body)

    # -- Sending

    def spoil(self, fault: str | None, head: bytes, body: bytes, request: Request) -> bytes | None:
        """Do what a fault does, and return what is still to be sent; None ends with a RST."""
        if fault == "reset":  # WireMock: CONNECTION_RESET_BY_PEER. toxiproxy: reset_peer
            return None
        if fault == "close":  # WireMock: EMPTY_RESPONSE
            return b""
        if fault == "truncate":  # toxiproxy: limit_data. Without a body, it cuts the status line
            return (head + body)[: len(head) + len(body) // 2 if body else 10]
        if fault == "garbage":  # WireMock: RANDOM_DATA_THEN_CLOSE
            return GARBAGE
        if fault == "stall":  # toxiproxy: timeout
            self.pause(FOREVER, request)
            return b""
        data = head + body
        is_patient = fault == "drip"
        while is_patient and len(data) > 1:  # WireMock: chunkedDribbleDelay. toxiproxy: slicer
            self.connection.sendall(data[:1])
            data = data[1:]
            is_patient = self.pause(DRIP_INTERVAL, request)
        return data

    def compose(self, reply: Reply, request: Request | None = None) -> tuple[bytes, bytes]:
        """Make the head and the body of a reply, as they are before any fault spoils them."""
        body = reply.body or b""
        own = reply.headers
        self.is_last = self.is_last or self.server.is_closing
        if self.is_last:
            own = merge({"Connection": "close"}, own)
        elif request is not None and request.head.is_http_1_0:
            own = merge({"Connection": "keep-alive"}, own)
        for name, value in header_lines(own):
            if name.lower() == "connection" and "close" in tokens(value):
                self.is_last = True
        kind = "application/json" if reply.is_json else "text/plain"
        second = int(Clock.wall())
        head = make_head(reply.status, kind, len(body), tuple(own.items()), second)
        is_bare = reply.status in BODILESS or (request is not None and request.method == "HEAD")
        return head, b"" if is_bare else body

    def pause(self, seconds: float, request: Request) -> bool:
        """Wait. False where the client leaves or a reset comes before; raises where we cut it."""
        deadline = Clock.now() + seconds
        while True:
            self.check_open()
            is_let_go = request.let_go is not None and request.let_go.is_given
            left = 0.0 if is_let_go else time_left(deadline)
            if request.has_left(left) or not left:
                return request.left_at is None and not is_let_go


# ------------------------------------------------------------------------------------------
# Listener: owns every socket, and the threads that serve them. It hands the connections to the
# Wire, and knows nothing of HTTP itself.
# ------------------------------------------------------------------------------------------

EXCLUSIVE: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)  # Windows alone has it
#: Close with a RST. The layout of struct linger differs by system.
NO_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
MAX_IDLE_WORKERS = 32
REST = 0.05  # seconds, when there are no descriptors left to accept a client, or no threads


def cut(connection: Any, how: int = socket.SHUT_RDWR) -> None:
    """Close a connection both ways, which wakes whoever reads it; closing it would not."""
    try:
        Socket.shutdown(connection, how)  # an SSLSocket's own would drop its state
    except OSError:  # the client was faster
        pass


class Worker:
    """A thread that serves one client after the other: to start one takes longer than to serve."""

    def __init__(self, listener: Listener, connection: Any, address: Address) -> None:
        self.connection, self.address = connection, address  # None when it serves nobody
        self.has_work: Signal  # made whenever it has none
        self.task = Task("mock_odoo worker", lambda: listener.work(self), listener.crew)


class Listener(ThreadingHTTPServer):
    """A port and its connections. Each start has a listener of its own, and so has each outage.

    First it is bound, which reserves the port; then it may be opened; in the end it is closed. The
    server does all that under its lock, here called `lock`. When close() returns, nobody can
    connect and every connection is cut; the threads end soon after.

    The acceptor's thread only accepts, and has workers serve. Of the classes above, only
    finish_request() is used, which makes a Handler.
    """

    request_queue_size = 1024  # with socketserver's 5, a burst of clients takes seconds to connect

    def __init__(self, host: str, port: int, app: MockOdooServer) -> None:
        # The constructors of the classes above make a socket and an Event, which tests patch.
        self.server_address = (host, port)
        self.RequestHandlerClass = Handler
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.app = app
        self.lock = app._scenario.lock
        self.crew = app._scenario.crew
        self.is_open = False
        self.socket: Any = None
        self.cut: dict[Any, bool] = {}  # what close() has cut, and had its client left before?
        self.workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._spared: set[Task] = set()  # whose connections it has not cut
        self._waker: Any = None
        self._closing = Signal()
        self._opened = Signal()

    @property
    def is_closing(self) -> bool:
        return self._closing.is_given

    # -- What the server asks for, under the lock

    def server_bind(self) -> None:
        """Bind; unlike HTTPServer's, without asking DNS for our name, which can take 10 s."""
        if self.socket is None:
            self.socket = Socket(self.address_family, socket.SOCK_STREAM)
        if EXCLUSIVE is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, EXCLUSIVE, 1)
        self._set_reuse(1)  # past connections in TIME_WAIT do not matter
        self.socket.bind(self.server_address)
        self._set_reuse(0)  # or anybody could have the port until we listen
        self.server_port = self.socket.getsockname()[1]

    def _set_reuse(self, on: int) -> None:
        if EXCLUSIVE is None:  # on Windows, it would let a second server have the port
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, on)

    def open(self) -> None:
        """Listen. Clients can connect when this returns."""
        self._set_reuse(1)
        self.socket.listen(self.request_queue_size)
        self.socket.setblocking(False)
        waker = make_waker()
        try:
            Task("mock_odoo acceptor", lambda: self._accept(waker), self.crew)
        except RuntimeError:
            waker.close()
            raise
        self._waker = waker
        self.is_open = True
        self._opened.give()

    def open_after(self, seconds: float) -> None:
        """Have the server end its outage after so many seconds."""
        Task("mock_odoo timer", lambda: self._end_outage(seconds), self.crew)

    def close(self, spared: Task | None = None) -> None:
        """Free the port, and cut every connection but that of the `spared` thread.

        Call it again for another thread, which is spared too, or for none, to cut all.
        """
        self._spared = {*self._spared, spared} if spared is not None else set()
        busy = [each for each in self.workers if each.connection and each.task not in self._spared]
        for worker in busy:
            self.cut.setdefault(worker.connection, CAN_PEEK and has_left(worker.connection))
        if not self.is_closing:
            if self.is_open:
                self._waker.send(b"!")  # first: when it sees that we close, the acceptor closes it
            self._closing.give()
            self._opened.give()
            if self.socket is not None:
                # The acceptor may still look at it, and keep the port but for these two.
                cut(self.socket)
                self._set_reuse(1)
                self.socket.close()
        self.is_open = False
        for worker in busy:
            cut(worker.connection)
            if EXCLUSIVE is not None:  # on Windows, that wakes no reader (CPython 91913)
                Socket.close(worker.connection)
        for worker in self._idle:
            worker.has_work.give()  # without a connection, it ends

    def after_fork(self) -> None:
        """In a forked child, let go the copies: the port and the connections are the parent's."""
        self._closing.give()
        for each in [self.socket, self._waker, *[worker.connection for worker in self.workers]]:
            if each is not None:
                each.close()

    # -- The acceptor and the timer

    def _end_outage(self, seconds: float) -> None:
        if not self._opened.wait(seconds):
            try:
                self.app._change(self.app._end_outage, self)
            except (OSError, RuntimeError):  # nobody waits for that
                log_bug(f"cannot listen on port {self.server_port} again")

    def _accept(self, waker: Any) -> None:
        """Accept until close(). Nothing else ends it."""
        while not self.is_closing:
            try:
                wait_readable([self.socket, waker])
                self._hand_over(*self._next_connection())
            except (BlockingIOError, ConnectionError):  # this client has left again
                pass
            except (OSError, ValueError):  # out of descriptors: the client waits, and so do we
                self._closing.wait(REST)
            except Exception:  # noqa: BLE001 - the next client is none the worse
                log_bug("a connection could not be accepted")
        waker.close()

    def _next_connection(self) -> tuple[Any, Address]:
        # A socket's own accept() makes an object of whatever class tests have put in its place.
        with self.lock:
            if self.is_closing:  # else the number of our socket may soon be that of another
                raise ConnectionAbortedError
            descriptor, address = self.socket._accept()
        connection = Socket(self.address_family, socket.SOCK_STREAM, 0, descriptor)
        connection.setblocking(True)  # our socket or setdefaulttimeout() may have left it otherwise
        return connection, (address or ("", 0))[:2]  # macOS gives none where the client has left

    def _hand_over(self, connection: Any, address: Address) -> None:
        """Have a worker serve a connection."""
        while True:
            try:
                with self.lock:
                    if self.is_closing:
                        break
                    if self._idle:
                        worker = self._idle.pop()
                        worker.connection = connection
                        worker.address = address
                        worker.has_work.give()
                    else:
                        self.workers.add(Worker(self, connection, address))
                    return
            except RuntimeError:  # out of threads: the client waits, and so do we
                self._closing.wait(REST)
        connection.close()

    # -- The workers

    def work(self, worker: Worker) -> None:
        """What a worker does."""
        while worker.connection is not None:
            self._serve(worker)
            with self.lock:
                if self.is_closing or len(self._idle) == MAX_IDLE_WORKERS:
                    break
                worker.has_work = Signal()
                self._idle.append(worker)
            worker.has_work.wait()
        with self.lock:
            self.workers.discard(worker)

    def _serve(self, worker: Worker) -> None:
        """Serve the connection of a worker to its end, and close it."""
        try:
            if self.app.ssl_context is not None:
                self._secure(worker, self.app.ssl_context)
            self.finish_request(worker.connection, worker.address)
        except OSError:  # the client hung up, or we did
            pass
        except BaseException:  # noqa: BLE001 - the worker has other connections to serve
            log_bug("a connection failed")
        with self.lock:
            connection, worker.connection = worker.connection, None
        cut(connection, socket.SHUT_WR)
        Socket.close(connection)

    def _secure(self, worker: Worker, context: ssl.SSLContext) -> None:
        """Shake hands, in the connection's thread: a silent client keeps nobody else waiting."""
        # Until 3.12, wrap_socket() leaks the socket where the client leaves before its hello.
        if not worker.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError("the client left")
        try:
            with self.lock:  # or it might be closed meanwhile
                tls = context.wrap_socket(
                    worker.connection, server_side=True, do_handshake_on_connect=False
                )
                worker.connection = tls
            tls.do_handshake()
        except OSError as error:
            self.app._scenario.note_unmatched(
                f"TLS handshake failed: {error.strerror or error}", lambda: self.is_closing
            )
            raise

    def abort(self, connection: Any) -> None:
        """Close with a RST, at once: else there would be a FIN first."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        with self.lock:
            Socket.close(connection)


# ------------------------------------------------------------------------------------------
# Control: the server over HTTP, for other processes and languages, and for the page. It uses the
# server that it is handed, and offers routes.
# ------------------------------------------------------------------------------------------

LONGEST_POLL = 60  # seconds that one GET /_mock/wait may take
#: On a connection that was kept, Chromium would ask again after a 408.
UNCACHED = {"Cache-Control": "no-store", "Connection": "close"}
PAGE_PATH = "/_mock/"
LOOPBACK = r"(::ffff:)?127(\.[0-9]{1,3}){3}|::1"


def median(numbers: Sequence[float]) -> float | None:
    """The middle one, which a missed beat does not change; None for none."""
    import statistics  # 10 ms that hardly any run needs

    return statistics.median(numbers) if numbers else None


def read_whole(name: str, given: object) -> int:
    if not re.fullmatch("[0-9]{1,9}", str(given)):
        raise ValueError(f"{name} must be a whole number like 5, not {str(given)!r:.80}")
    return int(str(given))


def read_seconds(name: str, given: object) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", str(given)):
        raise ValueError(f"{name} must be seconds like 5 or 0.5, not {str(given)!r:.80}")
    return float(str(given))


class Control:
    """The control API: steers a server from another process or language, and from the page.

    Clients on this machine may use it if their Host is a loopback name, which no foreign web page
    can bring about by DNS rebinding; so may everybody who sends the token, if there is one.
    Changes must be application/json, which a foreign page cannot send without a preflight, and that
    is never granted. With a token, the page is for everybody: it holds no data, and asks for it.
    """

    def __init__(self, server: MockOdooServer, token: str | None = None) -> None:
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("the token must be printable ASCII without blanks, and not empty")
        self.server = server
        self.token = token
        self._names: dict[Call, str] = {}  # senders that are known, or each state would ask again

    @property
    def routes(self) -> Routes:
        def route(answer: Function, *names: str, **needed: object) -> Route:
            return functools.partial(self.serve, answer, {**needed, **dict.fromkeys(names)})

        counts, to_page = ("calls", "heartbeats"), Reply(302, b"", {"Location": PAGE_PATH})
        return {
            **{path: {"GET": lambda request: to_page} for path in ("/", "/_mock")},
            PAGE_PATH: {"GET": route(self.page)},
            "/_mock/state": {"GET": route(self.state)},
            "/_mock/calls": {
                "GET": route(self.calls, "since"), "DELETE": route(self.server.forget)
            },
            "/_mock/events": {"GET": route(self.events)},
            "/_mock/wait": {"GET": route(self.wait, *counts, "timeout", "sender", "more")},
            "/_mock/script": {"PUT": route(self.server.play, "loop", script="503*3")},
            "/_mock/reset": {"POST": route(self.server.reset)},
            "/_mock/down": {"POST": route(self.server.down, seconds=5)},
        }

    def serve(self, answer: Function, names: dict[str, Any], request: Request) -> Reply:
        """Answer whoever may ask: with the state, where there is no other answer.

        What Python refuses becomes an error with the same text.
        """
        try:
            self.check_access(request)
            reply: Reply | None = answer(**self.read_values(request, names))
            return reply or self.state()
        except Refusal as refusal:
            return refusal.reply
        except TimeoutError as error:
            return self.state(408, error=str(error))
        except RuntimeError as error:  # somebody has just stopped it
            return Reply(409, {"error": str(error)})
        except (TypeError, ValueError) as error:
            return Reply(400, {"error": str(error)})

    def check_access(self, request: Request) -> None:
        fields = request.head.fields
        client = request.client[0]
        if self.token:
            import hmac

            scheme, _, given = fields.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if request.path == PAGE_PATH or (scheme.lower() == "bearer" and is_right):
                return
        host = fields.get("host", "none")
        name = re.sub(":[0-9]*$", "", host).lower()
        if re.fullmatch(rf"localhost|{LOOPBACK}|\[::1\]", name) and re.fullmatch(LOOPBACK, client):
            return
        remedy = "with the right token" if self.token else "with a token, if one is set by --token"
        raise Refusal(
            403, "control is for clients on this machine that address it as localhost or "
            f"127.0.0.1 (yours is {client}, Host {host:.80}), or that send "
            f"Authorization: Bearer {remedy}"
        )

    def read_values(self, request: Request, names: dict[str, Any]) -> dict[str, Any]:
        """What the query and the body say, by name. A name that is needed has an example."""
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
                takes = ", ".join(names) or "nothing"
                raise ValueError(f"{name!r:.80} means nothing here; {request.path} takes {takes}")
        for name, example in names.items():
            if example is not None and values.get(name) is None:
                like = json.dumps({name: example})
                raise ValueError(f'"{name}" is missing; send {like}, for example')
        return values

    # -- The routes

    def page(self) -> Reply:
        return Reply(200, PAGE, {
            **AS_PAGE, **UNCACHED, "Content-Security-Policy": page_policy(),
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
        })

    def state(self, status: int = 200, **more: object) -> Reply:
        server, script = self.server, self.server._scenario.script
        memory = self.server._scenario.memory
        calls = memory.calls_after(0)
        state = {
            "service": server.service,
            "noun": server.noun,
            "version": __version__,
            "at": Clock.wall(),
            "heartbeat_url": server.heartbeat_url,
            "script": str(script),
            "loop": script.loop,
            "every": script.every(),
            "heartbeat_count": memory.heartbeat_count,
            "call_count": memory.call_count,
            "last_heartbeat": next((call.payload for call in calls[::-1] if call.accepted), None),
            "senders": self.senders(calls),
            "unmatched": list(memory.unmatched),
        }
        return Reply(status, {**state, **more}, UNCACHED)

    def senders(self, calls: Sequence[Call]) -> list[dict[str, object]]:
        """Who sent the calls that are kept, and when: in the order of their first calls."""
        known = self._names  # by other requests, too
        names = {call: known.get(call) or self.server._describe("sender", call) for call in calls}
        self._names = names
        senders: dict[str, list[Call]] = {}
        for call, name in names.items():
            senders.setdefault(name, []).append(call)
        return [
            {
                "sender": name,
                "calls": len(own),
                "accepted": sum(call.accepted for call in own),
                "last_at": own[-1].received_at,
                "interval": median(intervals(call.received_at for call in own)),
            }
            for name, own in senders.items()
        ]

    def calls(self, since: object = 0) -> Reply:
        new = self.server._scenario.memory.calls_after(read_whole("since", since))
        return Reply(200, {"calls": [self.server._record(call) for call in new]}, UNCACHED)

    def events(self) -> Reply:
        return Reply(200, {"events": self.server.get_events()}, UNCACHED)

    def wait(
        self, calls: object = None, heartbeats: object = None, timeout: object = 5,
        sender: str | None = None, more: object = 0,
    ) -> None:
        if calls is not None and heartbeats is not None:
            raise ValueError("wait for calls or for heartbeats, not for both")
        what, given = ("calls", calls) if heartbeats is None else ("heartbeats", heartbeats)
        n = read_whole(what, 1 if given is None else given)
        seconds = read_seconds("timeout", timeout)
        if seconds > LONGEST_POLL:
            raise ValueError(f"timeout must be from 0 to {LONGEST_POLL} seconds, not {timeout}")
        if str(more) not in ("0", "1"):
            raise ValueError(f"more must be 0 or 1, not {str(more)!r:.80}")
        earlier = set(self.server.get_calls() if str(more) == "1" else ())

        def is_counted(call: Call) -> bool:
            return (
                call not in earlier
                and (what == "calls" or call.accepted)
                and sender in (None, self.server._describe("sender", call))
            )

        # The server's own counts know also what max_calls has dropped.
        is_plain = sender is None and str(more) == "0"
        self.server._wait(what, n, seconds, None if is_plain else is_counted)


# ------------------------------------------------------------------------------------------
# Command line: the terminal, the journal, its reader, and main(). It uses the server and Control.
# It deals in records: what a line of the journal holds, a call or an event. The terminal shows the
# records as they come, --read those of a file.
# ------------------------------------------------------------------------------------------

#: The outcomes of a call, and their colours at the terminal: green, yellow, red.
OUTCOMES = {"accepted": 32, "refused": 33, "spoilt": 31}


def print_error(program: str, message: str) -> None:
    print(f"{program}: {message}", file=sys.stderr, flush=True)


def print_line(line: str, encoding: str | None = None) -> None:
    """Print past the buffer of `sys.stdout`: at Python's end, that would wait, or complain."""
    stream: Any = sys.stdout  # None where there is none, as for a service of Windows
    buffer = getattr(stream, "buffer", None)
    if buffer is not None:
        stream.flush()
        data = (line + os.linesep).encode(encoding or stream.encoding, "backslashreplace")
        write = getattr(buffer, "raw", buffer).write
        while data:  # a console of Windows takes a part of a long line
            data = data[write(data) or len(data):]
    elif stream is not None:  # in IDLE and the like, it is made of text
        stream.write(line + "\n")


def terminal_width() -> int:
    """The columns of the terminal as it is now; no limit elsewhere."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, OSError, ValueError):
        columns = 0
    return columns - 1 if columns > 1 else sys.maxsize  # some break a line that is full


def has_colour() -> bool:
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM") != "dumb" and (os.name != "nt" or "WT_SESSION" in os.environ)


def some(n: int, noun: str) -> str:
    """Such as "1 call" or "2 calls"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def describe_event(event: Event) -> tuple[str, str]:
    """The word and the details of an event, such as "down" and "for 5.0 s"."""
    word = event["event"]
    details = event.get("url") or event.get("request") or ""
    if word == "unmatched":
        word, _, details = event["unmatched"].partition(" ")
    elif word == "script":
        details = (event["script"] or "ok*") + (" in a loop" if event["loop"] else "")
    elif word == "down":
        details = "until up" if event["seconds"] is None else f"for {event['seconds']} s"
    elif word == "left":
        details = f"call {event['number']} of {event['sender']}, after {event['after']:.3f} s"
    return word, details


def show(record: Event) -> str:
    """Such as "12:00:30  503  KKT-001  buffer 6/200 (3.0%)  breaker CLOSED  script: 503"."""
    script, problem, colour, width = "", "", 0, terminal_width()
    if "event" in record:
        word, text = describe_event(record)
    else:
        word, text, colour = record["label"], record["text"], OUTCOMES[record["outcome"]]
        text += f"  repeats {record['repeats']}" if record["repeats"] else ""
        script = f"  script: {record['script']}" if record["script"] else ""
        problem = f"  {record['problem']}" if record["problem"] else ""
    # In a narrow terminal, the script gives way first, then the text, the problem last.
    line = f"{record['time'][11:19]}  {word:<8}  {text}"
    room = width - len(line + problem)
    if room > 20:
        line += clip(script, room)
    line = clip(clip(line.rstrip(), max(32, width - len(problem))) + problem, width)
    if colour and has_colour():
        line = line.replace(word, f"\x1b[{colour}m{word}\x1b[0m", 1)
    return line


class Journal:
    """A file with a line of JSON for each call and each event.

    The file stays open, so that descriptors cannot run out. What goes wrong is told once.
    """

    def __init__(self, path: str, program: str) -> None:
        self._path = path
        self._program = program
        self._is_torn = self._has_complained = False
        self.file: Any = open(path, "a+b", buffering=0)  # noqa: SIM115
        if not self.file.seekable():  # a named pipe, say
            self.file.close()
            raise ValueError(f"{path} is no file; a journal must be one")
        if self.file.seek(0, os.SEEK_END):
            self.file.seek(-1, os.SEEK_END)
            self._is_torn = self.file.read() != b"\n"  # by a kill, say

    def add(self, line: str) -> None:
        data = ("\n" * self._is_torn + line + "\n").encode()
        try:
            self._is_torn = self.file.write(data) < len(data)
            trouble = "a line could not be written as a whole" if self._is_torn else None
        except OSError as error:
            trouble = error.strerror
        if trouble and not self._has_complained:
            self._has_complained = True
            print_error(self._program, f"journal {self._path}: {trouble}; the server goes on")


class Standalone:
    """A server that tells what comes: it writes the journal, prints, and counts.

    A thread prints: a pipe that nobody reads, or a console with selected text, holds up nothing.
    """

    def __init__(
        self, args: argparse.Namespace, server_class: type[MockOdooServer], program: str
    ) -> None:
        import queue

        self._args = args
        self._has_begun = False  # until then, events are only written down
        self._counts: collections.Counter[str] = collections.Counter()
        self._server = server_class(
            args.port, args.host, strict=args.strict, max_calls=args.max_calls,
            ssl_context=make_context(args),
            on_call=None if args.quiet and not args.journal else self._on_call,
            on_event=self._tell,
        )
        self._server._offer(Control(self._server, args.token).routes)
        self._journal = Journal(args.journal, program) if args.journal is not None else None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._printer = threading.Thread(target=self._print_lines, daemon=True)
        self._printer.start()

    def run(self) -> None:
        """Serve until a signal comes, and say how it was."""
        with StopSignal() as stop_signal:
            try:
                if self._args.script:
                    self._server.play(self._args.script, self._args.loop)
                self._server.start()  # no `with`: what a subclass raises has been logged
                stop_signal.wait()
                self._server.stop()
                if not self._args.quiet:
                    self._print_summary()
            finally:
                self._lines.put(None)
                self._printer.join(1.0)  # longer, and nobody reads
                if self._journal is not None:
                    self._journal.file.close()
            if __name__ == "__main__":  # at once: a signal can disturb Python's own end
                os._exit(0)
            Clock.sleep(0.2)  # several signals in a row are one wish to end

    def _on_call(self, call: Call) -> None:
        self._tell({**self._server._record(call), "script": clip(self._server.script, 200)})

    def _tell(self, record: Event) -> None:
        if self._journal is not None:
            self._journal.add(json_line(record))
        word = record.get("event") or record["outcome"]
        if word == "start":
            self._has_begun = True
            self._print(first_line(self._server), {"listening": record["url"]})
        elif self._has_begun and word != "stop" and not self._args.quiet:
            self._counts[word] += 1
            if word == "reset":
                self._counts.clear()
            self._print(show(record), record)

    def _print_summary(self) -> None:
        """Such as "12 heartbeats received, 3 of 15 calls refused, 1 client left"."""
        accepted, refused, spoilt, left = (self._counts[word] for word in (*OUTCOMES, "left"))
        calls = accepted + refused + spoilt
        text = f"{some(accepted, self._server.noun)} received, {refused} of {calls} calls refused"
        text += f", {spoilt} spoilt" if spoilt else ""
        text += f", {some(left, 'client')} left" if left else ""
        counts = {"heartbeat_count": accepted, "call_count": calls, "refused_count": refused}
        self._print(text, {**counts, "spoilt_count": spoilt, "left_count": left})

    def _print(self, text: str, record: Event) -> None:
        if self._lines.qsize() < 10000:  # else nobody reads
            self._lines.put(json_line(record) if self._args.json else text)

    def _print_lines(self) -> None:
        for line in iter(self._lines.get, None):
            try:
                print_line(line, "utf-8" if self._args.json else None)
            except (OSError, ValueError):  # `| head` has ended, or the disk is full
                pass


def first_line(server: MockOdooServer) -> str:
    is_near = server.host == "localhost" or re.fullmatch(LOOPBACK, server.host)
    network = "" if is_near else " - reachable from the network"
    where = f"{server.url} - POST {server.endpoint} - page at {PAGE_PATH}{network}"
    return f"Mock {server.service} on {where} - Ctrl+C stops"


class Account:
    """What a journal comes to: the calls and silences of each sender, outages, and misses.

    A silence ends with the sender's next call, an outage with `up`. A run's end cuts off both.
    """

    def __init__(self) -> None:
        self._counts: Any = collections.defaultdict(collections.Counter)  # by sender
        self._since: dict[str, tuple[float, str]] = {}  # what lasts: by sender, "" for an outage
        #: What has lasted: how many seconds, since when, and whether it was cut off.
        self._spans: Any = collections.defaultdict(list)
        self._missed: list[str] = []  # requests that were no calls
        self._at = 0.0  # of the last record

    def add(self, record: Event) -> None:
        word, time = record.get("event"), record["time"][:19].replace("T", " ")
        at = Clock.datetime.fromisoformat(record["time"]).timestamp()
        if word in (None, "left"):
            name = clip(record["sender"], 40) or "?"
            self._counts[name][word or record["outcome"]] += 1
        if word is None:
            self._end(name, at)
            self._since[name] = at, time
        elif word == "unmatched":
            self._missed.append(f"{clip(record['unmatched'], 200)}, at {time}")
        elif word == "down":
            self._since.setdefault("", (at, time))
        elif word == "up":
            self._end("", at)
        elif word == "start":
            self._end_run()
        if word != "script":  # which stands before the start of its run
            self._at = at

    def _end(self, name: str, at: float, is_cut: bool = False) -> None:
        since, time = self._since.pop(name, (FOREVER, ""))
        if at >= since:  # else there was none, or somebody has set the clock back
            self._spans[name].append((at - since, time, is_cut))

    def _end_run(self) -> None:
        for name in list(self._since):
            self._end(name, self._at, is_cut=True)

    def lines(self) -> Iterator[str]:
        """A line for each sender, then for each outage, then one for what missed the endpoint."""
        self._end_run()
        wide = max(map(len, self._counts), default=0)
        for name, counts in self._counts.items():
            calls = some(sum(counts[each] for each in OUTCOMES), "call")
            calls += "".join(f", {counts[each]} {each}" for each in OUTCOMES)
            left = some(counts["left"], "client")
            yield f"{name:<{wide}}  {calls}, {left} left{self._describe_silences(name)}"
        if not self._counts:
            yield "no calls"
        for lasted, since, is_cut in self._spans[""]:
            yield f"outage for {'at least ' if is_cut else ''}{in_seconds(lasted)}, from {since}"
        if self._missed:
            missed = some(len(self._missed), "request")
            yield f"{missed} missed the endpoint; the last was {self._missed[-1]}"

    def _describe_silences(self, name: str) -> str:
        spans = self._spans[name]
        longest, since, _ = max(spans, default=(0.0, "", False))
        usual = median([lasted for lasted, _, is_cut in spans if not is_cut])
        text = f"; longest silence {in_seconds(longest)}, from {since}" if longest else ""
        return text + (f"; usually every {in_seconds(usual)}" if usual is not None else "")


def in_seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value:.3f} s"


def read_journal(path: str, program: str, is_quiet: bool) -> None:
    """Print what the terminal showed, each day before its lines; and what it comes to."""
    account = Account()
    day = ""
    with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                text = show(record)
                account.add(record)
            except Exception:  # noqa: BLE001 - whatever it holds
                if line.strip():
                    print_error(program, f"line {number} is torn, or no call and no event")
                continue
            before, day = day, record["time"][:10]
            if not is_quiet:
                print_line(text if day == before else f"{day}{os.linesep}{text}")
    if not day:
        raise ValueError(f"{path} holds no call and no event")
    for text in account.lines() if is_quiet else ["", *account.lines()]:
        print_line(text)


def make_parser(server_class: type[MockOdooServer]) -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            print_error(self.prog, message)
            raise SystemExit(2)

    noun, service = server_class.noun, server_class.service
    parser = Parser(
        prog="mock_" + re.sub(r"\W+", "_", service.lower()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"A fake {service} that answers {noun}s as you tell it.",
    )
    parser.epilog = make_epilog(f"python -m {parser.prog}", noun)
    add = parser.add_argument
    add("--host", default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=int, default=server_class.default_port,
        help="port; 0 takes a free one (default: %(default)s)")
    add("--script", default="", help=f"how to answer, see below; then {noun}s succeed")
    add("--loop", action="store_true", help="start the script again when it has run out")
    add("--strict", action="store_true", help=f"answer 422 to a {noun} that breaks the contract")
    add("--journal", metavar="FILE",
        help="append every call, and what was done to the fake, to FILE as a line of JSON")
    add("--read", metavar="FILE",
        help="print what a journal tells, and what it all comes to; then end; - is standard input")
    add("--json", action="store_true", help="print lines of JSON in place of text")
    add("--token", help="let clients elsewhere use the control API if they send it, and the page")
    add("--certfile", metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    add("--keyfile", metavar="FILE", help="its private key, if that is not in the same file")
    add("--cafile", metavar="FILE",
        help="demand of every client a certificate that one of these signed (PEM)")
    add("--max-calls", type=int, default=10000, metavar="N",
        help="calls to keep in memory (default: %(default)s); the journal keeps all")
    add("--quiet", action="store_true", help="only the first line; with --read, only the last ones")
    add("--version", action="version", version=f"mock_odoo {__version__}")
    return parser


def make_epilog(command: str, noun: str) -> str:
    replies = "\n".join(f"    {word:<10}  {meaning}" for word, meaning in REPLIES.items())
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


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; refuse flags that miss another."""
    args = parser.parse_args(argv)
    for flag, other in (("loop", "script"), ("keyfile", "certfile"), ("cafile", "certfile")):
        if getattr(args, flag) and not (getattr(args, other) or "").strip():
            parser.error(f"--{flag} goes with --{other}")
    if args.journal == "-":
        parser.error("--journal takes a file; for JSON on standard output, use --json")
    return args


def make_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the TLS context that the command line asks for."""
    if args.certfile is None:
        return None
    import ssl

    files = [path for path in (args.certfile, args.keyfile, args.cafile) if path is not None]
    for path in files:
        open(path, "rb").close()  # what ssl says of a missing file differs by system
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, it would ask for one at the terminal.
        context.load_cert_chain(args.certfile, args.keyfile, password="")
        if args.cafile is not None:
            context.load_verify_locations(args.cafile)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ValueError(
            f"cannot use the certificate {' and '.join(files)}: {error.strerror or error}; "
            "PEM is needed, with the key in the same file or in --keyfile"
        ) from None
    return context


def take_signals(handler: Function) -> dict[int, Any]:
    """Handle what ends a program; return the handlers before, by the numbers of the signals."""
    import signal

    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last on Windows: Ctrl+Break, a closed console
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return {number: signal.signal(number, handler) for number in numbers}


class StopSignal:
    """In this block, signals that end a program do nothing but end `wait()`.

    Outside the main thread, none ends it. It reads a socket. An Event would not do: under load
    another thread may take the signal, and on Windows Ctrl+C does not end its wait.
    """

    def __enter__(self) -> Self:
        import signal

        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(True)
        self._sender.setblocking(False)
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # Set this first, or a signal might get lost. In a full buffer, signals wait already.
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            self._handlers = take_signals(lambda *args: None)
        return self

    def wait(self) -> None:
        while self._receiver.recv(1)[0] not in self._handlers:  # a signal of whoever called us
            pass

    def __exit__(self, *exc_info: object) -> None:
        import signal

        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None is one of C's
        if self._handlers:
            signal.set_wakeup_fd(self._wakeup)
        self._receiver.close()
        self._sender.close()


def main(argv: list[str] | None = None, server_class: type[MockOdooServer] = MockOdooServer) -> int:
    """Run a fake until SIGINT or SIGTERM, or read a journal, and return 0.

    `argv` is the command line, `sys.argv[1:]` unless given. `server_class` may be a subclass of
    yours, which then has the whole command line. Where it cannot run, one line and SystemExit(2).
    Signals that come within 0.2 s of its end are one with the first: none reaches your program.
    """
    parser = make_parser(server_class)
    args = parse(parser, argv)
    try:
        if args.read is not None:
            read_journal(args.read, parser.prog, args.quiet)
        else:
            Standalone(args, server_class, parser.prog).run()
    except (BrokenPipeError, KeyboardInterrupt):  # `--read | head` has ended, or was ended
        pass
    except OSError as error:
        if error.errno == errno.EINVAL and error.filename is None:  # BrokenPipeError, on Windows
            return 0
        place = "" if error.filename is None else f"cannot open {error.filename}: "
        parser.error(f"{place}{error.strerror or error}")
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    return 0


# ------------------------------------------------------------------------------------------
# Ground floor: helpers for every room. They know nothing of heartbeats.
# ------------------------------------------------------------------------------------------


class Clock:
    """The fake's own clock, as it stands for another machine.

    freezegun and its like replace the functions of `time` in every module, but in no class.
    """

    now = staticmethod(time.perf_counter)  # seconds, for what passes
    wall = staticmethod(time.time)  # seconds since the epoch
    localtime = staticmethod(time.localtime)
    gmtime = staticmethod(time.gmtime)
    sleep = staticmethod(time.sleep)
    datetime = datetime.datetime


def time_left(deadline: float) -> float:
    return max(0.0, deadline - Clock.now())


def check_whole(name: str, value: int, low: int, high: float = FOREVER) -> int:
    """Return `value`; raise TypeError or ValueError unless it is a whole number in range."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and low <= value <= high:
        return value
    limits = f", {low} or more" if high == FOREVER else f" from {low} to {high}"
    error = ValueError if is_whole else TypeError
    raise error(f"{name} must be a whole number{limits}, not {value!r:.80}")


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
    if not isinstance(endpoint, str) or not re.fullmatch(r"/[!\"$-)+-;=@-z|~]*", endpoint):
        raise ValueError(
            "endpoint must be a path like /api/v2/receipt, without placeholders, not "
            f"{endpoint!r:.80}"
        )
    return endpoint


def clip(text: str, length: int) -> str:
    """Shorten a text, and replace its control characters: they could drive a terminal."""
    text = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(char if char.isprintable() else "?" for char in text)


def in_event_loop() -> bool:
    """Does an event loop of asyncio run in this thread?"""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def iso_time(seconds: float) -> str:
    """Write seconds since the epoch as local time, such as 2026-11-25T12:00:30.123+03:00."""
    now = Clock.localtime(seconds)  # datetime's fromtimestamp() fails at the interpreter's end
    sign = "-" if now.tm_gmtoff < 0 else "+"
    offset = abs(now.tm_gmtoff) // 60
    day = f"{now.tm_year}-{now.tm_mon:02}-{now.tm_mday:02}"
    clock = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}.{int(seconds * 1000) % 1000:03}"
    return f"{day}T{clock}{sign}{offset // 60:02}:{offset % 60:02}"


def log_bug(message: str) -> None:
    """Log the exception that is being handled; the fake logs nothing else."""
    try:
        import logging  # 4 ms that hardly any run needs

        logging.getLogger("mock_odoo").exception(message)
    except BaseException:  # noqa: BLE001, S110 - a handler of the user's, or out of descriptors
        pass


# -- JSON

MAX_DEPTH = 200  # levels; deeper JSON exhausts the recursion of some Pythons

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
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def quote(value: object) -> str:
    """A value as JSON has it, short; in single quotes, as it will stand in JSON itself."""
    return clip(json.dumps(value, ensure_ascii=False).replace('"', "'"), 60)


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def parse_number(text: str) -> float:
    if abs(float(text)) == FOREVER:  # not every Python could read it, and write it again
        raise ValueError(f"{text:.40} is too large a number")
    return float(text) if re.search("[.eE]", text) else int(text)


DECODER = json.JSONDecoder(
    parse_constant=refuse_constant, parse_float=parse_number, parse_int=parse_number
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
    try:
        return DECODER.decode(text)
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

Dummy: Any = threading._DummyThread
Lock = threading.Lock
RLock = threading.RLock
Socket = socket.SocketType  # the class beneath socket.socket, whose methods nobody patches
start_new_thread = _thread.start_new_thread
real_select = select.select
make_poll: Any = getattr(select, "poll", None)  # Windows has none
READABLE = getattr(select, "POLLIN", 1)
HUNG_UP: int = 0  # what poll() tells where a client has hung up: on Linux alone
if sys.platform == "linux" and type(make_poll) is type(len):  # gevent's does not know it
    HUNG_UP = getattr(select, "POLLRDHUP", 0)  # nor does PyPy
PEEK = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)
CAN_PEEK = PEEK != socket.MSG_PEEK  # on Windows, it would wait where another thread is faster
ESTABLISHED = b"\1"  # what TCP_INFO says of a connection that neither side has begun to close
CLOSE_WAIT = b"\10"  # the other side has closed its half
GLANCE = 0.05  # seconds between looks whether a client has left
OWN = threading.local()


def current_task() -> Task | None:
    """The thread of a fake that the caller is in; None for any other thread."""
    return getattr(OWN, "task", None)


class Signal:
    """Given once, it ends every wait. (The methods of threading.Event are what tests patch.)"""

    def __init__(self) -> None:
        self.is_given = False
        self._lock = Lock()
        self._lock.acquire()

    def give(self) -> None:
        self.is_given = True
        try:
            self._lock.release()
        except RuntimeError:  # it is free already
            pass

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is given; False when the time is up."""
        try:
            if not self.is_given:
                self._lock.acquire(timeout=timeout)
        finally:
            if self.is_given:
                self.give()  # to others who wait
        return self.is_given


class Task:
    """A thread of a fake, which begins at once. It never keeps the process from ending.

    Until it ends, it is one of a crew, for which stop() waits. A change has a crew of its own, as a
    signal handler that stops may have interrupted its start, and no name.
    It is no threading.Thread, whose start() waits on an Event, a class that tests patch, and hangs
    at the interpreter's end. But threading knows it by its name, if it has one. Raises RuntimeError
    where no thread is left.
    """

    doing: str | None = None  # the user's function that it is in

    def __init__(self, name: str, function: Function, crew: set[Task]) -> None:
        self.name = name
        self.ended = Signal()
        self._function = function
        self._crew = crew
        try:
            crew.add(self)
            start_new_thread(self._run, ())
        except BaseException:  # no thread is left, or a signal handler raises
            crew.discard(self)
            raise

    def _run(self) -> None:
        try:
            OWN.task = self
            if self.name:
                self._introduce()
            self._function()
        except BaseException:  # noqa: BLE001 - what it calls handles its own
            log_bug(f"{self.name} failed")
        finally:
            getattr(threading, "_active", {}).pop(_thread.get_ident(), None)
            self._crew.discard(self)
            self.ended.give()

    def _introduce(self) -> None:
        """Tell threading our name, and let coverage and debuggers see the user's functions.

        Not by current_thread(): its lock may be held by what a signal handler has interrupted.
        """
        try:
            thread: Any = Dummy.__new__(Dummy)
            threading.Thread.__init__(thread, name=self.name, daemon=True)
            thread._started.set()
            thread._set_ident()
            threading._active[thread.ident] = thread  # type: ignore[attr-defined]
            for hook, name in ((sys.settrace, "_trace_hook"), (sys.setprofile, "_profile_hook")):
                if getattr(threading, name, None) is not None:
                    hook(getattr(threading, name))
        except Exception:  # noqa: BLE001, S110 - it is patched
            pass


def wait_readable(
    connections: Sequence[Any], seconds: float | None = None, event: int = READABLE
) -> bool:
    """Wait for an event, which `select` has no choice of; False when the time is up."""
    if make_poll is None:
        return bool(real_select(connections, [], [], seconds)[0])
    poll = make_poll()
    for each in connections:
        poll.register(each, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def make_waker() -> Any:
    """A socket that is connected to itself: what is sent there wakes whoever looks at it."""
    waker = Socket(socket.AF_INET, socket.SOCK_DGRAM)
    waker.bind(("127.0.0.1", 0))
    waker.connect(waker.getsockname())
    return waker


def seconds_gone(connection: Any) -> float:
    """How long ago the client closed its half, if the system tells (tcpi_last_ack_recv); or 0."""
    info = b""
    try:
        if HUNG_UP:
            info = Socket.getsockopt(connection, socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    except OSError:  # a RST
        pass
    return int.from_bytes(info[56:], sys.byteorder) / 1000 if info[:1] == CLOSE_WAIT else 0.0


def has_left(connection: Any, seconds: float = 0.0) -> bool:
    """Wait up to `seconds`, but 50 ms at most, for the client to close its half. True if it has.

    Elsewhere than on Linux, bytes that wait to be read hide that.
    """
    seconds = min(seconds, GLANCE)
    try:
        if HUNG_UP and not seconds:
            state = Socket.getsockopt(connection, socket.IPPROTO_TCP, socket.TCP_INFO, 1)
            return state != ESTABLISHED
        if not wait_readable([connection], seconds, HUNG_UP or READABLE):
            return False
        if HUNG_UP or not Socket.recv(connection, 1, PEEK):
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


def page_policy() -> str:
    """A Content-Security-Policy that admits the page's own style and script, by their hashes."""
    import base64
    import hashlib

    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'"
    for tag in ("style", "script"):
        text = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        policy += f"; {tag}-src 'sha256-{digest}'"
    return policy + "; form-action 'none'; frame-ancestors 'none'"


PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>mock_odoo</title>
<style>
:root {
  color-scheme: light dark; --paper: #fff; --ink: #000; --faint: #444; --level: #2b62b8;
  --good: #176f2c; --poor: #8a5a00; --bad: #b3261e;
  --line: rgba(136, 136, 136, .3); --shade: rgba(200, 50, 40, .2);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121212; --ink: #fff; --faint: #bbb; --level: #8ab4f8;
    --good: #6fd08c; --poor: #f0b849; --bad: #ff8a80;
  }
}
.up, .accepted { --kind: var(--good); } .scripted, .down, .refused { --kind: var(--poor); }
.gone, .spoilt, .late, #error { --kind: var(--bad); } .level { --kind: var(--level); }
h1, small span, .late, .label, .problem, #error { color: var(--kind, inherit); }
[hidden], #calls span:empty { display: none !important; }
body {
  font: 1rem/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  word-wrap: break-word; max-width: 64rem; margin: 0 auto; padding: .5rem 1rem;
}
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 0; }
small { display: block; } small, .number { color: var(--faint); }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; } fieldset[disabled] { opacity: .5; }
#modes { display: grid; grid-template-columns: repeat(5, 1fr); grid-gap: .3rem; margin: .3rem 0; }
@media (max-width: 44rem) { #modes { grid-template-columns: 1fr 1fr; } }
.row, label, #modes h2, li { display: flex; flex-wrap: wrap; align-items: center; }
.row { margin: 0 -.2rem; } .row > * { margin: .2rem; } .row > details { margin-left: auto; }
button, input, summary, label { min-height: 2.5rem; font: inherit; color: inherit; }
button, input, summary {
  background: rgba(136, 136, 136, .13); border: 1px solid var(--line); border-radius: .4rem;
  padding: 0 .6rem; box-sizing: border-box;
}
#modes button { line-height: 1.2; } code { display: block; font-size: .75rem; }
button[aria-pressed=true] { box-shadow: inset 0 0 0 3px var(--level); }
input { flex: 1 1 6rem; min-width: 0; font-family: monospace; }
input::placeholder { color: inherit; opacity: .75; }
[type=checkbox] { flex: none; width: 1.5rem; margin: 0 .4rem 0 0; }
summary { line-height: 2.4rem; cursor: pointer; } summary + button { margin-top: .4rem; }
#overview { max-height: 50vh; overflow-y: auto; }  /* else many senders hide the buttons */
#strip { display: block; width: 100%; margin-top: .4rem; font-size: 11px; }
#strip text { fill: var(--faint); text-anchor: middle; } #strip .name { text-anchor: start; }
#strip .mark { fill: var(--kind); } #strip line { stroke: var(--line); }
#strip .level { fill: var(--kind); fill-opacity: .2; stroke: var(--kind); stroke-width: 1.5; }
#strip rect { fill: var(--shade); } .outage { background: var(--shade); padding: 0 .3rem; }
ul, ol { list-style: none; margin: .2rem 0; padding: 0; font-variant-numeric: tabular-nums; }
small span { margin-right: .6rem; white-space: nowrap; }
li span { margin-right: .8rem; min-width: 0; unicode-bidi: isolate; }
#calls li { padding: .2rem 0; border-top: 1px solid var(--line); }
.sender, .late, .label { font-weight: bold; } .sender, .label { white-space: nowrap; }
.sender { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
#calls .label, #senders .sender { min-width: 5.5rem; } .number { min-width: 2.6rem; }
#senders { min-height: 1.4rem; } .last { min-width: 18.5rem; } .problem { flex-basis: 100%; }
#error { position: sticky; bottom: 0; background: var(--paper); }
</style>
</head>
<body>
<h1 id="state" role="status">This page needs a newer browser</h1>
<form id="login" class="row" hidden>
<label for="token">Token</label>
<input type="password" id="token" autocomplete="current-password" aria-describedby="error">
<button>Open</button>
</form>
<main id="main">
<small id="counts"></small> <small id="unmatched"></small>
<div id="overview"><ul id="senders"></ul>
<svg id="strip" role="img" aria-labelledby="counts"></svg></div>
<small><span class="accepted">&#9679; accepted</span> <span class="refused">&#9650; refused</span>
<span class="spoilt">&#10006; spoilt</span> <span class="outage">outage</span>
<span class="level" id="level">&#9473; buffer</span></small>
<fieldset id="steer">
<div id="modes"><h2 id="service">The fake is</h2>
<button data-script="">all well</button>
<button data-script="503*3">failing 3 times</button>
<button data-script="503*">failing for ever</button>
<button data-script="ok*2, 503*3" data-loop>flapping</button>
<button data-script="ok@6s*">slow</button>
<button data-script="stall*">stalling</button>
<button data-script="reset*">resetting</button>
<button data-script="expired*">session expired</button>
<button id="down" data-seconds="10">out for 10 s</button></div>
<form id="play" class="row">
<h2><label for="script">Script</label></h2>
<input type="text" id="script" placeholder="503*2, ok@6s" autocomplete="off"
 autocapitalize="off" spellcheck="false" aria-describedby="error">
<label><input type="checkbox" id="loop"> loop</label>
<button>Play</button>
</form>
<div class="row"><h2 id="noun"></h2>
<details id="forget"><summary>Forget everything</summary>
<button id="sure">Forget all calls, and the script</button></details></div>
</fieldset>
<ol id="calls"></ol>
</main>
<div id="error" role="alert"></div>

<script>
"use strict";  // and nothing that is newer than Chromium 60 and Firefox 60
const KEPT = 100;  // calls
let state = {service: "The fake", noun: "call", unmatched: [], senders: []};
let calls = [], events = [];  // oldest first
let heard = 0, clockThen = 0;  // when these were told: by the page's stopwatch, by the fake's clock
let lost = true, locked = false;  // does nobody answer; or only to the token?
let outageEnd = 0;  // of the outage that was asked for here, in milliseconds
let token = "";
try { token = sessionStorage.token || ""; } catch (error) { /* a browser that keeps nothing */ }

const at = id => document.getElementById(id);
const modes = Array.from(document.querySelectorAll("#modes button"));
const now = () => clockThen + (performance.now() - heard) / 1000;
const isOutage = () => lost && outageEnd > Date.now() - 3000;  // it may end a little late
const isLate = ({last_at, interval}) =>  // a burst has no usual interval
  !lost && interval >= 1 && now() - last_at > 2 * interval;

// Words

const MARKS = {accepted: "\u25cf", refused: "\u25b2", spoilt: "\u2716"};
const HIDDEN = /[\0-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const safe = words => words.replace(HIDDEN, "\ufffd");  // it could turn round what follows
const clock = seconds => new Date(Math.round(seconds * 1000)).toTimeString().slice(0, 8);
const DOES = {accepted: "accepts", refused: "refuses", spoilt: "spoils the answer to"};

function duration(seconds) {
  const [size, unit] = [[86400, "days"], [3600, "h"], [60, "min"]]
    .find(([size]) => seconds >= 2 * size) || [1, "s"];
  return `${Math.round(seconds / size * 10) / 10} ${unit}`;
}

function headline() {  // its kind, and its words
  const {service, noun, script, loop, every} = state;
  if (locked) return ["gone", "This fake asks for the token that it was started with"];
  if (isOutage()) return ["down", `${service} is down until ${clock(outageEnd / 1000)}`];
  if (lost) return ["gone", "No answer: an outage, or the fake was stopped"];
  if (!script) return ["up", `${service} is up`];
  const words = every ? `${DOES[every]} every ${noun} (${script})` : `plays ${script}`;
  const kind = every === "accepted" ? "up" : "scripted";
  return [kind, `${service} ${words}${loop ? " in a loop" : ""}`];
}

// Putting them onto the page: whatever clients send is only ever set as text

function say(element, given) {  // only what has changed, or a selection would be lost
  const words = safe(given || "");
  if (element.textContent !== words) element.textContent = words;
}

function put(parent, tag, attributes, words = "") {
  const element = document.createElementNS(parent.namespaceURI, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  say(element, words);
  return parent.appendChild(element);
}

function list(parent, rows) {  // each with its kind, and its cells by name
  while (parent.children.length > rows.length) parent.lastChild.remove();
  rows.forEach(({kind = "", ...cells}, index) => {
    const row = parent.children[index] || put(parent, "li");
    row.className = row.title = kind;
    Object.keys(cells).forEach((name, column) => {
      const cell = row.children[column] || put(row, "span", {class: name});
      say(cell, cells[name]);
      cell.title = cell.textContent;
    });
  });
}

function senderRow(one) {
  const usual = one.interval >= 1 ? ` (usually every ${duration(one.interval)})` : "";
  const ago = duration(Math.floor(Math.max(0, now() - one.last_at)));
  const [latest] = calls.filter(call => call.sender === one.sender).slice(-1);
  return {
    sender: one.sender,
    last: `last ${ago} ago${usual}`,
    late: isLate(one) && "LATE",
    text: latest && latest.text.replace(one.sender, "").trim(),
  };
}

function callRow(call) {
  return {
    kind: call.outcome, label: `${MARKS[call.outcome]} ${call.label}`,
    time: clock(call.received_at), number: `#${call.number}`, text: call.text,
    repeats: call.repeats && `repeats #${call.repeats}`,
    left: call.left && `client left after ${Number(call.took).toFixed(1)} s`,
    problem: call.problem,
  };
}

function isOn({id, dataset}) {
  if (lost || id === "down") return id === "down" && isOutage();
  const played = events.filter(({event}) => event === "script").slice(-1);
  const [{script, loop}] = state.script && played.length ? played : [{script: "", loop: false}];
  return dataset.script === script && "loop" in dataset === loop;
}

function render() {
  const {service, noun, senders, call_count: count} = state, [kind, words] = headline();
  const inTime = senders.filter(one => !isLate(one)), missed = state.unmatched.slice(-3).join(", ");
  at("login").hidden = !locked;
  at("main").hidden = locked || !heard;
  at("steer").disabled = lost;
  at("state").className = kind;
  document.title = safe(`${service} (fake)`);
  say(at("state"), words);
  say(at("service"), `${service} is`);
  say(at("noun"), `${noun.slice(0, 1).toUpperCase()}${noun.slice(1)}s, the newest first`);
  say(at("counts"), `${state.heartbeat_count} of ${count} ${noun}${count === 1 ? "" : "s"} accepted`
    + ` at ${state.heartbeat_url}`);
  say(at("unmatched"), missed && `Missed the endpoint: ${missed}`);
  for (const button of modes) button.setAttribute("aria-pressed", isOn(button));
  list(at("senders"), [...senders.filter(isLate), ...inTime].map(senderRow));
  list(at("calls"), calls.map(callRow).reverse());
  const isRead = at("strip").matches(":hover") && at("strip").count === count;
  if (!isRead) draw();  // or the marks' titles would never be seen
}

// The strip: a lane for each sender, with its buffer behind its calls

const STEPS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600];

function draw() {
  const strip = at("strip"), width = strip.parentNode.clientWidth, spans = outages();
  const senders = calls.length ? Array.from(new Set(calls.map(call => call.sender))) : [""];
  const names = senders.length > 1 ? 6 : 0;  // what a line of them needs above the marks
  const lane = Math.max(28 + names, 90 / senders.length), height = lane * senders.length;
  const times = calls.map(call => call.received_at), soonest = Math.min(...times);
  const isNear = from =>  // or it would squeeze the calls
    !calls.length || (calls[0].number === 1 && soonest - from < 3 * Math.max(60, now() - soonest));
  const first = Math.min(soonest, ...spans.map(([from]) => from).filter(isNear));
  const last = Math.max(first + 10, now(), ...times);
  const x = time => 8 + Math.max(0, (time - first) / (last - first)) * (width - 16);
  strip.textContent = "";
  strip.count = state.call_count;
  strip.setAttribute("height", height + 20);
  if (!calls.length) put(strip, "text", {x: width / 2, y: 50}, `No ${state.noun} yet`);
  for (const [from, to] of spans.filter(([, to]) => to > first)) {
    put(strip, "rect", {x: x(from), width: Math.max(3, x(to) - x(from)), y: 0, height});
  }
  drawAxis(first, last, x, width, height);
  senders.forEach((sender, index) => {
    const own = calls.filter(call => call.sender === sender), floor = lane * (index + 1);
    const name = {class: "name", x: 0, y: floor - lane + 10};
    if (names) put(strip, "text", name, sender.slice(0, 20));
    put(strip, "line", {x1: 0, x2: width, y1: floor, y2: floor});
    drawBuffer(own, floor, lane - 12, x, x(last));
    drawCalls(own, floor - 6, lane - 18 - names, x, Math.max(4, Math.min(10, width / own.length)));
  });
  at("level").hidden = !strip.querySelector(".level");
}

function outages() {  // from when to when
  const turns = events.filter(({event}) => /^(down|stop|up|start)$/.test(event));
  const spans = turns.map(({event, at}, index) => [at, (turns[index + 1] || {at: now()}).at, event])
    .filter(([, , event]) => /^(down|stop)$/.test(event));
  return lost && heard ? [...spans, [clockThen, now()]] : spans;
}

function drawAxis(first, last, x, width, height) {
  const step = STEPS.find(step => (last - first) / step < width / 70) || (last - first) / 4;
  for (let time = Math.ceil(first / step) * step; time <= last; time += step) {
    const middle = x(time), words = clock(time).slice(0, step < 60 ? 8 : 5);
    put(at("strip"), "line", {x1: middle, x2: middle, y1: 0, y2: height + 4});
    const hasRoom = middle > 24 && middle < width - 24;
    if (hasRoom) put(at("strip"), "text", {x: middle, y: height + 15}, words);
  }
}

function drawBuffer(own, floor, height, x, end) {
  const percent = call => ((call.payload || {}).buffer_status || {}).percent_full;
  const y = call => floor - Math.max(0, Math.min(100, percent(call))) / 100 * height;
  const told = own.filter(call => typeof percent(call) === "number");
  if (!told.length) return;
  const top = told.map(call => `H${x(call.received_at)}V${y(call)}`).join("");
  const d = `M${x(told[0].received_at)} ${floor}${top}H${end}V${floor}`;
  put(at("strip"), "path", {class: "level", d});
}

function drawCalls(own, floor, height, x, size) {  // what comes close together piles up
  const places = own.map(call => x(call.received_at));
  const levels = places.map((place, index) =>
    places.slice(0, index).filter(before => place - before < .7 * size).length);
  const rise = Math.min(.9 * size, height / Math.max(1, ...levels));
  own.forEach((call, index) => {
    const kind = call.outcome, y = floor - rise * levels[index];
    const place = {class: `mark ${kind}`, x: places[index], y, "font-size": 1.2 * size};
    const mark = put(at("strip"), "text", place, MARKS[kind]);
    put(mark, "title", {}, `#${call.number} ${call.label} ${clock(call.received_at)}`);
  });
}

// Asking the fake

async function ask(method, path, body) {
  const headers = {"Content-Type": "application/json", Authorization: `Bearer ${token}`};
  const request = {method, headers, body: JSON.stringify(body)};
  const response = await fetch("/_mock/" + path, request).catch(() => null);
  const data = response && await response.json().catch(() => null);
  lost = !data;
  locked = !lost && response.status === 403;
  if (lost || !response.ok) throw new Error(lost ? "nobody answers" : data.error);
  return data;
}

async function look() {  // ask for all there is, and show it
  try {
    state = await ask("GET", "state");
    const since = Math.max(0, state.call_count - KEPT);
    heard = performance.now();
    clockThen = state.at;
    calls = (await ask("GET", `calls?since=${since}`)).calls.slice(-KEPT);
    events = (await ask("GET", "events")).events;
    if (!at("login").hidden) say(at("error"), "");
    render();
  } catch (error) {
    if (locked) say(at("error"), token && "That is not the right token.");
    else if (!lost) say(at("error"), `The page failed: ${error.message}`);
    if (locked || lost) render();
  }
}

async function change(method, path, body) {
  try {
    await ask(method, path, body);
    say(at("error"), "");
  } catch (error) {
    if (!lost) say(at("error"), error.message);  // else the headline says so
  }
  look();
}

for (const button of modes) {
  const {script, seconds} = button.dataset, loop = "loop" in button.dataset ? ", \u2026" : "";
  put(button, "code", {}, seconds ? `down(${seconds})` : `${script || "ok*"}${loop}`);
}
at("login").onsubmit = event => {
  event.preventDefault();
  token = at("token").value.replace(/[^!-~]/g, "?");
  try { sessionStorage.token = token; } catch (error) { /* it is asked for again */ }
  look();
};
for (const button of modes) button.onclick = () =>
  change("PUT", "script", {script: button.dataset.script, loop: "loop" in button.dataset});
at("down").onclick = () => {
  const seconds = Number(at("down").dataset.seconds);
  outageEnd = Date.now() + seconds * 1000;  // now, or its first instant would be "No answer"
  change("POST", "down", {seconds});
};
at("play").onsubmit = event => {
  event.preventDefault();
  change("PUT", "script", {script: at("script").value, loop: at("loop").checked});
};
at("sure").onclick = () => { at("forget").open = false; change("POST", "reset", {}); };
const again = () => setTimeout(watch, 1000), watch = () => look().then(again, again);
say(at("state"), "Connecting");
watch();
</script>
</body>
</html>
"""


if __name__ == "__main__":
    take_signals(lambda *args: os._exit(0))  # until main() does, nothing needs a clean end
    raise SystemExit(main())
