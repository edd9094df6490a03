"""The tests of mock_odoo: first the specification's nineteen, then the rest, in the order of the module.

Every client here comes from the standard library, and a fault counts only as what such a client sees of it.
Nothing sleeps and no port is fixed.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import json
import logging
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import mock_odoo
from mock_odoo import Call, MockOdooServer, Reply

for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # urllib would ask a proxy for 127.0.0.1
for _name in ("PYTHONSAFEPATH", "PYTHONWARNDEFAULTENCODING"):  # `python -m mock_odoo` could not be found, or would warn
    os.environ.pop(_name, None)

HERE = str(pathlib.Path(mock_odoo.__file__).parent)
PATIENCE = 30.0  # seconds for what takes milliseconds, or this machine is busy

PATH = "/api/v1/kkt/heartbeat"
HEARTBEAT = {
    "timestamp": "2025-10-09T12:00:00Z",
    "adapter_id": "KKT-001",
    "buffer_status": {"total_capacity": 200, "current_queued": 5, "percent_full": 2.5},
    "circuit_breaker": {"state": "CLOSED", "failure_count": 0},
}
SUCCESS = {"status": "ok", "message": "Heartbeat received"}
FAILURE = {"error": "Odoo service unavailable"}
JSON = {"Content-Type": "application/json"}
BODY = json.dumps(HEARTBEAT).encode()


# ------------------------------------------------------------------------------------------
# Clients
# ------------------------------------------------------------------------------------------


class Response:
    """What a client got: status, headers, and the body both raw and as JSON."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body.decode())


def send(server, method, path, body=None, headers=(), timeout=PATIENCE):
    """One request on a connection of its own, by http.client; raises what that raises."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())


def post(server, payload=HEARTBEAT, timeout=PATIENCE):
    """One heartbeat."""
    return send(server, "POST", server.endpoint, json.dumps(payload), JSON, timeout)


def connect(server, timeout=PATIENCE):
    return socket.create_connection(("127.0.0.1", server.port), timeout)


def read_all(connection):
    """Whatever comes until the server closes."""
    data = b""
    while True:
        more = connection.recv(65536)
        if not more:
            return data
        data += more


def exchange(server, data):
    """Send bytes, and read until the server closes: a test that hangs here has found a connection kept open."""
    with connect(server) as connection:
        connection.sendall(data)
        return read_all(connection)


def request_bytes(body=BODY, *lines, method="POST", path=PATH, version="HTTP/1.1", close=True):
    """A heartbeat as bytes, with more header lines if given."""
    head = [f"{method} {path} {version}", "Host: odoo", "Content-Type: application/json", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    if close:
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def split(data):
    """The first response in some bytes, and what follows it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, _, lines = head.partition(b"\r\n")
    assert status_line.startswith(b"HTTP/1.1 "), data
    headers = http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
    length = int(headers.get("Content-Length", 0))
    return Response(int(status_line.split()[1]), headers, rest[:length]), rest[length:]


def only(data):
    """The one response in some bytes, with nothing behind it."""
    response, rest = split(data)
    assert rest == b""
    return response


def assert_silent(connection):
    """Nothing comes, not even the end."""
    connection.settimeout(0.05)
    with pytest.raises(socket.timeout):
        connection.recv(1)


def close_by_reset(connection):
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # as the system has the struct
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def drain(connection):
    """What comes until the connection ends, and how it ends: "FIN" or "RST"."""
    data = b""
    try:
        while True:
            more = connection.recv(65536)
            if not more:
                return data, "FIN"
            data += more
    except ConnectionResetError:
        return data, "RST"


def can_reset():
    """Does this system close with a RST when told not to linger? Asked with bare sockets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), PATIENCE) as client:
            close_by_reset(listener.accept()[0])
            return drain(client)[1] == "RST"


needs_reset = pytest.mark.skipif(
    not can_reset(), reason="SO_LINGER 0 sends a FIN, and no RST, on this system")


def post_until(ended, server):
    """Heartbeat after heartbeat, whatever becomes of them."""
    while not ended.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(server)


def in_background(function, *args):
    """Call a function in a thread; `.result()` waits for what it returned, or for the exception it raised."""
    outcome = []

    def run():
        try:
            outcome.append(function(*args))
        except Exception as error:  # noqa: BLE001 - the result is an exception as often as not
            outcome.append(error)

    def result(timeout=PATIENCE):
        thread.join(timeout)
        assert not thread.is_alive(), "the client still waits"
        return outcome[0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.result = result
    return thread


def until(condition, seconds=PATIENCE):
    """Wait for what can only be looked at from outside."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"


def refused(server):
    """Is a new connection refused?"""
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it is just being closed
        return False
    return False


@pytest.fixture(scope="session")
def wakes_senders():
    """Skip where closing a socket does not wake who sends. Asked with bare sockets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), PATIENCE):
            connection = listener.accept()[0]
            sending = in_background(connection.sendall, b"x" * 50000000)
            until(lambda: not select.select([], [connection], [], 0)[1])  # there is no more room
            connection.shutdown(socket.SHUT_RDWR)
            if os.name == "nt":  # where shutdown() does not even wake a reader
                socket.close(connection.detach())
            sending.join(5)
            woke = not sending.is_alive()
        sending.result()  # its client has closed now
        connection.close()
    if not woke:
        pytest.skip("neither shutdown() nor close() wakes a thread in send() on this system")


@pytest.fixture
def new_threads():
    """The server threads that were not there when the test began."""
    before = threading.enumerate()
    return lambda: [thread for thread in threading.enumerate() if thread.name.startswith("mock_odoo") and thread not in before]


@pytest.fixture
def fresh():
    """Make servers with arguments of the test's own; they are started, and stopped after it."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, cls=MockOdooServer, **kwargs: stack.enter_context(cls(*args, **{"port": 0, **kwargs}))


# ------------------------------------------------------------------------------------------
# The specification's nineteen
# ------------------------------------------------------------------------------------------


class TestMockOdooServerBasic:
    def test_server_creation(self):
        server = MockOdooServer(port=8069)
        assert server.port == 8069
        assert server.url == "http://127.0.0.1:8069"
        assert not server.is_running

    def test_server_startup(self):
        server = MockOdooServer(port=0)
        server.start()
        try:
            response = send(server, "GET", "/health")
            assert (response.status, response.json()) == (200, {"status": "ok"})
        finally:
            server.stop()

    def test_server_shutdown(self):
        server = MockOdooServer(port=0)
        server.start()
        assert send(server, "GET", "/health").status == 200
        server.stop()
        assert refused(server)

    def test_server_context_manager(self):
        with MockOdooServer(port=0) as server:
            assert send(server, "GET", "/health").status == 200
        assert refused(server)

    def test_server_double_start_raises(self, odoo):
        with pytest.raises(RuntimeError, match="already running"):
            odoo.start()
        assert post(odoo).status == 200


class TestHeartbeatEndpoint:
    def test_heartbeat_success_mode(self, odoo):
        odoo.set_success()
        response = post(odoo)
        assert (response.status, response.json()) == (200, SUCCESS)
        assert response.body == b'{"status": "ok", "message": "Heartbeat received"}'

    def test_heartbeat_permanent_failure(self, odoo):
        odoo.set_permanent_failure(True)
        responses = [post(odoo) for _ in range(5)]
        assert [(response.status, response.json()) for response in responses] == [(503, FAILURE)] * 5

    def test_heartbeat_temporary_failure(self, odoo):
        odoo.set_failure_count(3)
        assert [post(odoo).status for _ in range(5)] == [503, 503, 503, 200, 200]

    def test_heartbeat_stores_payload(self, odoo):
        post(odoo)
        assert odoo.get_received_heartbeats() == [HEARTBEAT]


class TestStateTracking:
    def test_call_count_increments(self, odoo):
        counts = [odoo.get_call_count()]
        for _ in range(3):
            post(odoo)
            counts.append(odoo.get_call_count())
        assert counts == [0, 1, 2, 3]

    def test_call_count_increments_on_failure(self, odoo):
        odoo.set_permanent_failure(True)
        post(odoo)
        post(odoo)
        assert odoo.get_call_count() == 2

    def test_received_heartbeats_only_on_success(self, odoo):
        odoo.set_failure_count(2)
        for number in range(3):
            post(odoo, {"number": number})
        assert odoo.get_received_heartbeats() == [{"number": 2}]

    def test_reset_clears_state(self, odoo):
        post(odoo)
        odoo.set_permanent_failure(True)
        post(odoo)
        odoo.reset()
        assert odoo.get_call_count() == 0
        assert odoo.get_received_heartbeats() == []
        assert post(odoo).status == 200


class TestFailureModes:
    def test_set_success_clears_failures(self, odoo):
        odoo.set_permanent_failure(True)
        odoo.set_success()
        assert post(odoo).status == 200
        odoo.set_failure_count(5)
        odoo.set_success()
        assert post(odoo).status == 200

    def test_permanent_failure_overrides_count(self, odoo):
        odoo.set_failure_count(1)
        odoo.set_permanent_failure(True)
        assert [post(odoo).status for _ in range(3)] == [503] * 3

    def test_disable_permanent_failure(self, odoo):
        odoo.set_permanent_failure(True)
        assert post(odoo).status == 503
        odoo.set_permanent_failure(False)
        assert post(odoo).status == 200


class TestThreadSafety:
    def test_concurrent_heartbeats(self, odoo):
        threads = [in_background(post, odoo, {"adapter_id": f"KKT-{n:03}"}) for n in range(10)]
        assert [thread.result().status for thread in threads] == [200] * 10
        assert odoo.get_call_count() == 10
        assert sorted(heartbeat["adapter_id"] for heartbeat in odoo.get_received_heartbeats()) == [
            f"KKT-{n:03}" for n in range(10)]


class TestEdgeCases:
    def test_empty_heartbeat_payload(self, odoo):
        assert post(odoo, {}).status == 200
        assert odoo.get_received_heartbeats() == [{}]

    def test_large_heartbeat_payload(self, odoo):
        payload = dict(HEARTBEAT, data="x" * 10240)
        assert post(odoo, payload).status == 200
        assert odoo.get_received_heartbeats() == [payload]


class TestSpecifiedScenarios:
    """The three integration scenarios, with a client as the specification has it: True for success."""

    @staticmethod
    def send_heartbeat(server):
        request = urllib.request.Request(server.heartbeat_url, BODY, JSON)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status == 200
        except urllib.error.HTTPError as error:  # a response too, to be closed like any other
            error.close()
            return False
        except OSError:
            return False

    def test_success(self, odoo):
        odoo.set_success()
        assert self.send_heartbeat(odoo)
        assert odoo.get_call_count() == 1
        assert odoo.get_received_heartbeats()[0]["adapter_id"] == "KKT-001"

    def test_failure_and_recovery(self, odoo):
        odoo.set_failure_count(2)
        assert [self.send_heartbeat(odoo) for _ in range(3)] == [False, False, True]
        assert odoo.get_call_count() == 3
        assert len(odoo.get_received_heartbeats()) == 1

    def test_permanent_failure(self, odoo):
        odoo.set_permanent_failure(True)
        assert not any(self.send_heartbeat(odoo) for _ in range(5))
        assert odoo.get_call_count() == 5
        assert odoo.get_received_heartbeats() == []


# ------------------------------------------------------------------------------------------
# Replies and the script
# ------------------------------------------------------------------------------------------


class TestScript:
    @pytest.mark.parametrize(("script", "statuses"), [
        ("", [200, 200]),
        ("503", [503, 200]),
        ("503*2", [503, 503, 200]),
        ("503*", [503] * 5),
        ("503*0, 500", [500, 200]),
        ("500, ok*2, 429", [500, 200, 200, 429, 200]),
        (" 503 * 2 ,\tok@0s ,500 ", [503, 503, 200, 500, 200]),
        ("201, 204, 302, 404, 599", [201, 204, 302, 404, 599, 200]),
        (Reply(418), [418, 200]),
        ([Reply(429), "503*2", ["ok", Reply(500)]], [429, 503, 503, 200, 500, 200]),
        ([], [200]),
    ], ids=str)
    def test_replies_come_in_the_order_of_the_script(self, odoo, script, statuses):
        odoo.play(script)
        assert [post(odoo).status for _ in statuses] == statuses

    def test_loop_starts_again_at_the_end(self, odoo):
        odoo.play("ok*2, 503*3", loop=True)
        assert [post(odoo).status for _ in range(12)] == ([200] * 2 + [503] * 3) * 2 + [200] * 2

    def test_loop_of_one_step_goes_on(self, odoo):
        odoo.play("503", loop=True)
        assert [post(odoo).status for _ in range(3)] == [503] * 3

    def test_what_is_left_of_a_loop_is_the_same_loop_further_on(self, odoo):
        odoo.play("ok*2, 503*2", loop=True)
        post(odoo)
        assert (odoo.script, odoo.loop) == ("ok, 503*2, ok", True)
        odoo.play(odoo.script, loop=True)
        assert [post(odoo).status for _ in range(6)] == [200, 503, 503, 200, 200, 503]

    def test_what_is_left_of_a_loop_does_not_grow(self, odoo):
        odoo.play("ok*2, 503*", loop=True)
        for _ in range(5):
            post(odoo)
        assert odoo.script == "503*, ok*2"

    @pytest.mark.parametrize("script", [
        "", "503", "503*2", "503*", "ok, reset, close, truncate, garbage, stall, drip, html, login",
        "ok@6s, 503@250ms*3, reset@1500ms*", "599*1000000000", "ok@1.5ms", "stall@86400s",
    ])
    def test_script_reads_back_as_it_was_written(self, odoo, script):
        odoo.play(script)
        assert odoo.script == script

    @pytest.mark.parametrize(("script", "normal"), [
        ("503*1", "503"), ("200", "ok"), ("ok@0.25s", "ok@250ms"), ("ok@2000ms", "ok@2s"), (" ok@ 2 s * 3 ", "ok@2s*3"),
        ([Reply(429, {"a": 1}, delay=2), "ok"], "429@2s, ok"), (Reply(fault="drip"), "drip"),
    ], ids=str)
    def test_script_reads_back_in_its_shortest_form(self, odoo, script, normal):
        odoo.play(script)
        assert odoo.script == normal
        odoo.play(odoo.script)
        assert odoo.script == normal

    def test_what_is_left_shrinks_with_every_call(self, odoo):
        odoo.set_failure_count(3)
        left = [odoo.script]
        for _ in range(3):
            post(odoo)
            left.append(odoo.script)
        assert left == ["503*3", "503*2", "503", ""]

    def test_repr_tells_the_state(self, odoo):
        odoo.play("503*2, ok", loop=True)
        post(odoo)
        assert repr(odoo) == f"<MockOdooServer {odoo.url} running, script '503, ok, 503' in a loop, 1 calls>"

    @pytest.mark.parametrize(("script", "step", "complaint"), [
        ("503,,ok", "''", "is no reply"),
        ("ok,", "''", "is no reply"),
        ("503, 600", "'600'", "200 to 599"),
        ("199", "'199'", "is no reply"),
        ("5O3", "'5O3'", "ok, reset, close, truncate, garbage, stall, drip, html, login"),
        ("٥٠٣", "'٥٠٣'", "is no reply"),
        ("rst*2", "'rst*2'", "'rst' is no reply"),
        ("ok@6", "'ok@6'", "'6' is no delay"),
        ("ok@", "'ok@'", "'' is no delay"),
        ("ok@-1s", "'ok@-1s'", "@2s or @250ms"),
        ("ok@1h", "'ok@1h'", "'1h' is no delay"),
        ("ok@86401s", "'ok@86401s'", "up to @86400s"),
        ("ok*x", "'ok*x'", "'x' is no count"),
        ("ok*-1", "'ok*-1'", "'-1' is no count"),
        ("ok*2*3", "'ok*2*3'", "'2*3' is no count"),
        ("ok*2@3s", "'ok*2@3s'", "'2@3s' is no count"),
        pytest.param("ok*" + "9" * 5000, "'ok*999", "is no count", id="a count of 5000 digits"),
    ])
    def test_bad_step_is_quoted_with_what_may_stand_there(self, odoo, script, step, complaint):
        odoo.play("503*7")
        with pytest.raises(ValueError, match="^step ") as caught:
            odoo.play(script)
        assert f"step {step}" in str(caught.value)
        assert complaint in str(caught.value)
        assert len(str(caught.value)) < 400
        assert odoo.script == "503*7"

    @pytest.mark.parametrize("script", [None, 503, b"503", ["ok", 503]], ids=repr)
    def test_what_is_no_script_is_a_type_error(self, odoo, script):
        odoo.play("503*7")
        with pytest.raises(TypeError, match="a script must be text, a Reply, the fields of one, or a list of these"):
            odoo.play(script)
        assert odoo.script == "503*7"

    def test_loop_must_be_a_flag(self, odoo):
        with pytest.raises(TypeError, match="loop must be True or False, not 'yes'"):
            odoo.play("ok", loop="yes")

    def test_a_billion_steps_cost_nothing(self, odoo):
        odoo.play("503*1000000000, ok")
        assert post(odoo).status == 503
        assert odoo.script == "503*999999999, ok"


class TestSetters:
    @pytest.mark.parametrize(("value", "error"), [
        (-1, ValueError), (10**18, ValueError), (True, TypeError), ("3", TypeError), (2.0, TypeError), (None, TypeError)])
    def test_bad_failure_count_names_the_value_and_changes_nothing(self, odoo, value, error):
        odoo.set_failure_count(2)
        with pytest.raises(error, match="n must be a whole number from 0 to 999999999999999999, not " + re.escape(repr(value))):
            odoo.set_failure_count(value)
        assert odoo.script == "503*2"

    def test_failure_count_of_none_at_all_is_success(self, odoo):
        odoo.set_permanent_failure(True)
        odoo.set_failure_count(0)
        assert post(odoo).status == 200

    @pytest.mark.parametrize("value", [1, None, "no"])
    def test_permanent_failure_takes_a_flag_only(self, odoo, value):
        with pytest.raises(TypeError, match="enabled must be True or False"):
            odoo.set_permanent_failure(value)
        assert odoo.script == ""

    @pytest.mark.parametrize("script", ["503*2", "reset*", "ok, 503*", "500*"])
    def test_ending_a_permanent_failure_leaves_others_alone(self, odoo, script):
        odoo.play(script)
        odoo.set_permanent_failure(False)
        assert odoo.script == script

    def test_permanent_failure_is_the_default(self, odoo):
        odoo.set_permanent_failure()
        assert odoo.script == "503*"

    @pytest.mark.parametrize("end", [MockOdooServer.reset, MockOdooServer.set_success, lambda odoo: odoo.set_permanent_failure(False)],
                             ids=["reset", "set_success", "set_permanent_failure"])
    def test_an_ended_script_loops_no_more(self, odoo, end):
        odoo.play("503*", loop=True)
        end(odoo)
        assert (odoo.script, odoo.loop) == ("", False)

    def test_last_call_wins(self, odoo):
        odoo.set_permanent_failure(True)
        odoo.set_failure_count(1)
        assert [post(odoo).status for _ in range(2)] == [503, 200]


class TestReply:
    def test_any_status_body_and_header_can_be_sent(self, odoo):
        odoo.play(Reply(429, {"error": "slow down"}, headers={"Retry-After": "5"}))
        response = post(odoo)
        assert (response.status, response.json()) == (429, {"error": "slow down"})
        assert response.headers["Retry-After"] == "5"
        assert response.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize(("body", "sent", "kind"), [
        ("grüß", "grüß".encode(), "text/plain; charset=utf-8"),
        (b"\x00\xff", b"\x00\xff", "text/plain; charset=utf-8"),
        ([1, None], b"[1, null]", "application/json"),
        ("", b"", "text/plain; charset=utf-8"),
    ])
    def test_bodies_go_as_they_are_or_as_json(self, odoo, body, sent, kind):
        odoo.play(Reply(500, body))
        response = post(odoo)
        assert (response.body, response.headers["Content-Type"]) == (sent, kind)

    def test_headers_replace_the_usual_ones_whatever_their_case(self, odoo):
        odoo.play(Reply(200, "<html>", {"content-type": "text/html", "SERVER": "nginx"}))
        headers = post(odoo).headers
        assert (headers.get_all("Content-Type"), headers.get_all("Server")) == (["text/html"], ["nginx"])

    def test_a_connection_header_is_kept_as_promised(self, odoo):
        odoo.play(Reply(503, headers={"connection": "close"}))
        with connect(odoo) as connection:
            connection.sendall(request_bytes(close=False))
            assert only(read_all(connection)).headers.get_all("Connection") == ["close"]

    @pytest.mark.parametrize(("status", "accepted"), [(200, True), (201, True), (204, True), (302, False), (404, False)])
    def test_2xx_accepts_the_heartbeat(self, odoo, status, accepted):
        odoo.play(str(status))
        assert post(odoo).status == status
        assert odoo.get_calls()[0].accepted is accepted
        assert odoo.get_received_heartbeats() == ([HEARTBEAT] if accepted else [])

    @pytest.mark.parametrize(("status", "body"), [
        (200, SUCCESS), (201, SUCCESS), (302, None), (500, {"error": "Internal Server Error"}), (503, FAILURE),
        (429, {"error": "Too Many Requests"}), (599, {"error": "Status 599"})])
    def test_bare_status_says_what_the_service_says(self, odoo, status, body):
        odoo.play(str(status))
        response = post(odoo)
        assert response.body == (b"" if body is None else json.dumps(body).encode())

    @pytest.mark.parametrize("status", [204, 304])
    def test_bodiless_status_leaves_the_connection_in_step(self, odoo, status):
        odoo.play(Reply(status, {"never": "sent"}))
        first, rest = split(exchange(odoo, request_bytes(close=False) + request_bytes()))
        assert first.status == status
        assert "Content-Length" not in first.headers
        assert only(rest).status == 200

    @pytest.mark.parametrize(("args", "kwargs", "error", "complaint"), [
        ((199,), {}, ValueError, "status must be a whole number from 200 to 599, not 199"),
        ((600,), {}, ValueError, "not 600"),
        (("503",), {}, TypeError, "not '503'"),
        ((True,), {}, TypeError, "not True"),
        ((200, {1, 2}), {}, TypeError, "not JSON serializable"),
        ((200, [float("nan")]), {}, ValueError, "JSON compliant"),
        ((), {"headers": {"X": "a\r\nSet-Cookie: b"}}, ValueError, "header X must be one line"),
        ((), {"headers": {"X": "a\nb"}}, ValueError, "one line"),
        ((), {"headers": {"X": "€"}}, ValueError, "Latin-1"),
        ((), {"headers": {"X\r\nY": "a"}}, ValueError, "is no header name"),
        ((), {"headers": {"": "a"}}, ValueError, "is no header name"),
        ((), {"headers": {"X": 5}}, TypeError, "text to text"),
        ((), {"headers": {"Transfer-encoding": "chunked"}}, ValueError, "Transfer-Encoding cannot be set"),
        ((), {"headers": "X: 5"}, TypeError, "text to text, not 'X: 5'"),
        ((), {"delay": -1}, ValueError, "delay must be from 0 to 86400 seconds, not -1"),
        ((), {"delay": float("nan")}, ValueError, "not nan"),
        ((), {"delay": "2s"}, TypeError, "number of seconds, not '2s'"),
        ((), {"fault": "rst"}, ValueError, "fault must be one of reset, close, truncate, garbage, stall, drip, not 'rst'"),
    ])
    def test_what_cannot_be_sent_is_refused_at_once(self, args, kwargs, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            Reply(*args, **kwargs)

    def test_its_fields_will_do(self, odoo):
        odoo.play([{"status": 429, "headers": {"Retry-After": "5"}}, {"fault": "close"}])
        assert odoo.script == "429, close"
        assert post(odoo).headers["Retry-After"] == "5"
        with pytest.raises(TypeError, match="unexpected keyword argument 'stats'"):
            odoo.play({"stats": 200})

    def test_a_fault_may_spoil_any_reply(self, odoo):
        odoo.play(Reply(503, {"error": "x" * 100}, fault="truncate"))
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(odoo)
        assert caught.value.partial == json.dumps({"error": "x" * 100}).encode()[:56]
        assert not odoo.get_calls()[0].accepted

    @pytest.mark.parametrize("status", [200, 204, 303, 503])
    @pytest.mark.parametrize(("fault", "error"), [
        ("garbage", http.client.BadStatusLine), ("truncate", http.client.HTTPException), ("close", http.client.RemoteDisconnected),
        ("reset", ConnectionResetError)])
    def test_a_fault_is_the_same_whatever_it_spoils(self, odoo, status, fault, error):
        odoo.play(Reply(status, fault=fault))
        with pytest.raises(error):
            post(odoo)

    def test_truncate_of_a_malformed_heartbeat_is_a_truncated_success(self, odoo):
        odoo.play("truncate")
        with pytest.raises(http.client.IncompleteRead):
            send(odoo, "POST", PATH, "no JSON", JSON)

    def test_repr_shows_word_status_and_body(self):
        assert repr(Reply(429, {"a": 1}, delay=2)) == "<Reply 429@2s 429 b'{\"a\": 1}'>"


# ------------------------------------------------------------------------------------------
# Memory, waiting, on_call
# ------------------------------------------------------------------------------------------


class TestMemory:
    def test_call_tells_everything_about_a_heartbeat(self, odoo):
        before = time.time()
        with connect(odoo) as connection:
            connection.sendall(request_bytes(BODY, "X-Shop: 7", "x-shop: 8"))
            address = connection.getsockname()
            read_all(connection)
        (call,) = odoo.get_calls()
        assert isinstance(call, Call)
        assert (call.number, call.reply, call.accepted, call.client) == (1, "ok", True, address)
        assert (call.payload, call.body) == (HEARTBEAT, BODY)
        assert before <= call.received_at <= time.time()
        assert call.headers["CONTENT-TYPE"] == "application/json"
        assert call.headers.get_all("X-Shop") == ["7", "8"]
        assert "Nothing" not in call.headers
        assert repr(call).startswith("<Call 1: ok b'{")

    @pytest.mark.parametrize(("script", "word"), [
        ("", "ok"), ("ok@1ms", "ok"), ("503@1ms*2", "503"), ("429", "429"), ("html", "html"), ("login", "login"),
        ("close", "close"), (Reply(418, "teapot"), "418"), (Reply(200, "<html>"), "200"), (Reply(200, {"a": 1}), "ok"), (Reply(503, fault="truncate"), "truncate")], ids=str)
    def test_call_keeps_the_word_of_its_reply(self, odoo, script, word):
        odoo.play(script)
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(odoo)
        assert odoo.get_calls()[0].reply == word

    def test_headers_of_a_call_may_be_a_hundred(self, odoo):
        exchange(odoo, request_bytes(BODY, *[f"X-{n}: {n}" for n in range(96)]))
        (call,) = odoo.get_calls()
        assert len(call.headers) == 100
        assert call.headers["x-95"] == "95"

    @pytest.mark.parametrize("kind", [
        "multipart/form-data; boundary*=undefined''x", "multipart/x; boundary*=idna''%ff",
        "multipart/x; boundary*" + "9" * 5000 + "*=x", "message/rfc822",
        "text/plain; charset*=punycode''%ff"],
        ids=["unknown charset", "idna", "part of 5000 digits", "message", "punycode"])
    def test_no_header_can_spoil_the_memory(self, fresh, kind):
        server = fresh(control=True)
        send(server, "POST", PATH, BODY, {"Content-Type": kind})
        assert server.get_calls()[0].headers["Content-Type"] == kind
        assert control(server, "GET", "calls")[1]["calls"][0]["headers"]["Content-Type"] == kind

    def test_nobody_can_spoil_the_copy_of_another(self, odoo):
        post(odoo)
        odoo.get_received_heartbeats()[0]["buffer_status"]["current_queued"] = 999
        odoo.get_calls()[0].payload.clear()
        odoo.get_calls().clear()
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_script_speaks_before_the_body_is_looked_at(self, odoo):
        odoo.play("503, reset, ok")
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 503
        with pytest.raises(ConnectionResetError):
            send(odoo, "POST", PATH, "no JSON", {"Content-Type": "text/plain"})
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 400
        assert [call.reply for call in odoo.get_calls()] == ["503", "reset", "400"]
        assert odoo.script == ""

    def test_script_speaks_before_a_body_that_is_too_long(self, odoo):
        odoo.play("503")
        assert only(exchange(odoo, request_bytes(b"", "Content-Length: 9999999"))).status == 503

    def test_refused_heartbeat_is_counted_but_not_received(self, odoo):
        assert send(odoo, "POST", PATH, "[1]", JSON).status == 400
        assert odoo.get_call_count() == 1
        assert odoo.get_received_heartbeats() == []
        (call,) = odoo.get_calls()
        assert (call.reply, call.accepted, call.payload, call.body) == ("400", False, [1], b"[1]")

    def test_payload_of_a_body_that_is_no_json_is_none(self, odoo):
        send(odoo, "POST", PATH, "{", JSON)
        assert (odoo.get_calls()[0].payload, odoo.get_calls()[0].body) == (None, b"{")

    def test_half_a_heartbeat_is_no_call(self, odoo):
        with connect(odoo) as connection:
            connection.sendall(request_bytes()[:-10])
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""
        assert odoo.get_call_count() == 0

    def test_call_is_recorded_before_its_delay(self, odoo):
        odoo.play("ok@60s")
        client = in_background(post, odoo)
        assert odoo.wait_for_heartbeats(1) == [HEARTBEAT]
        assert client.is_alive()
        odoo.reset()
        assert client.result().status == 200

    def test_memory_and_script_outlive_stop(self, fresh):
        server = fresh()
        server.play("503*3")
        post(server)
        server.stop()
        assert (server.get_call_count(), server.script) == (1, "503*2")
        server.start()
        assert post(server).status == 503
        assert server.get_call_count() == 2

    def test_max_calls_keeps_the_newest_and_counts_all(self, fresh):
        server = fresh(max_calls=3)
        for number in range(5):
            post(server, {"number": number})
        assert [call.number for call in server.get_calls()] == [3, 4, 5]
        assert server.get_received_heartbeats() == [{"number": 2}, {"number": 3}, {"number": 4}]
        assert server.get_call_count() == 5
        assert len(server.wait_for_heartbeats(5, timeout=0)) == 3

    def test_intervals_are_the_seconds_between_arrivals(self, odoo, monkeypatch):
        class Clock:
            now = iter([100.0, 130.0, 159.5])
            time, monotonic = staticmethod(time.time), staticmethod(time.monotonic)

            def perf_counter(self):
                return next(self.now)

        monkeypatch.setattr(mock_odoo, "time", Clock())
        assert odoo.get_intervals() == []
        for _ in range(3):
            post(odoo)
        assert odoo.get_intervals() == [30.0, 29.5]

    def test_intervals_ignore_the_wall_clock(self, odoo, monkeypatch):
        post(odoo)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        post(odoo)
        assert 0 <= odoo.get_intervals()[0] < 60


class TestWaiting:
    def test_wait_returns_all_there_are(self, odoo):
        post(odoo, {"n": 1})
        post(odoo, {"n": 2})
        assert odoo.wait_for_heartbeats(1) == [{"n": 1}, {"n": 2}]
        assert [call.number for call in odoo.wait_for_calls(2)] == [1, 2]
        assert odoo.wait_for_heartbeats(0) == [{"n": 1}, {"n": 2}]

    def test_wait_wakes_when_the_heartbeat_comes(self, odoo):
        waiting = in_background(odoo.wait_for_heartbeats, 1, 60)
        post(odoo)
        assert waiting.result() == [HEARTBEAT]

    def test_wait_for_heartbeats_waits_for_accepted_ones(self, odoo):
        odoo.play("503, ok")
        waiting = in_background(odoo.wait_for_heartbeats, 1, 60)
        post(odoo)
        assert len(odoo.wait_for_calls(1)) == 1
        assert waiting.is_alive()
        post(odoo)
        assert len(waiting.result()) == 1

    def test_time_out_tells_the_timeline(self, odoo):
        odoo.play("503, ok, ok")
        for _ in range(3):
            post(odoo)
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_heartbeats(3, timeout=0.001)
        assert str(caught.value) == "2 of 3 heartbeats in 0.001 s; calls: 503, ok, ok"

    def test_time_out_tells_that_nothing_came(self, odoo):
        with pytest.raises(TimeoutError, match="^0 of 1 calls in 0.0 s; no calls$"):
            odoo.wait_for_calls(1, timeout=0)

    def test_time_out_tells_what_missed_the_endpoint(self, odoo):
        send(odoo, "POST", PATH + "s?a=1", BODY, JSON)
        send(odoo, "GET", PATH)
        exchange(odoo, b"\x16\x03\x01\x02\x00")
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_calls(1, timeout=0)
        assert str(caught.value) == (
            f"0 of 1 calls in 0.0 s; no calls; unmatched: ['404 POST {PATH}s', '405 GET {PATH}', '400 this is TLS, and the port speaks plain HTTP']")

    def test_time_out_tells_the_end_of_a_long_timeline(self, odoo):
        odoo.play("503*25, ok")
        for _ in range(26):
            post(odoo)
        with pytest.raises(TimeoutError, match=r"calls: \.\.\., (503, ){19}ok$"):
            odoo.wait_for_calls(27, timeout=0)

    def test_wait_goes_on_over_a_restart(self, fresh):
        server = fresh()
        waiting = in_background(server.wait_for_heartbeats, 1, 60)
        server.stop()
        server.start()
        post(server)
        assert waiting.result() == [HEARTBEAT]

    @pytest.mark.parametrize(("n", "timeout", "error", "complaint"), [
        (-1, 1, ValueError, "n must be"), ("2", 1, TypeError, "n must be"), (True, 1, TypeError, "n must be"),
        (1, -1, ValueError, "timeout must be"), (1, None, TypeError, "timeout must be"),
        (1, float("nan"), ValueError, "timeout must be"), (1, 1e30, ValueError, "timeout must be from 0 to 86400")])
    def test_bad_arguments_are_named(self, odoo, n, timeout, error, complaint):
        with pytest.raises(error, match=complaint):
            odoo.wait_for_heartbeats(n, timeout)


class TestUnmatched:
    """What came that is no call."""

    def test_it_is_told_and_no_call(self, odoo):
        send(odoo, "PUT", PATH)
        send(odoo, "GET", "/")
        send(odoo, "GET", "/health")
        exchange(odoo, b"HELLO\x07\r\n\r\n")
        assert odoo.get_unmatched() == [f"405 PUT {PATH}", "404 GET /", r"400 malformed request line 'HELLO\x07'; it should be like 'GET /health HTTP/1.1'"]
        assert odoo.get_call_count() == 0

    def test_the_newest_are_kept_until_reset(self, odoo):
        for n in range(25):
            send(odoo, "GET", f"/{n}")
        assert odoo.get_unmatched() == [f"404 GET /{n}" for n in range(5, 25)]
        odoo.reset()
        assert odoo.get_unmatched() == []

    def test_it_is_short_and_steers_no_terminal(self, odoo):
        exchange(odoo, request_bytes(path="/\x9b31m" + "x" * 1000))
        assert odoo.get_unmatched() == ["404 POST /?31m" + "x" * 186]

    def test_on_unmatched_sees_it_before_the_answer(self, fresh, caplog):
        seen = []
        server = fresh(on_unmatched=seen.append)
        send(server, "GET", "/nowhere")
        assert seen == ["404 GET /nowhere"]
        assert caplog.records == []

    def test_what_on_unmatched_raises_is_logged_and_fails_no_reply(self, fresh, caplog):
        server = fresh(on_unmatched=lambda what: pytest.fail("on purpose"))
        assert send(server, "GET", "/nowhere").status == 404
        assert [record.getMessage() for record in caplog.records] == ["on_unmatched failed"]

    def test_on_unmatched_must_be_callable(self):
        with pytest.raises(TypeError, match="on_unmatched must be callable, not 'print'"):
            MockOdooServer(on_unmatched="print")


class TestOnCall:
    def test_it_sees_every_call_in_order_before_the_answer(self, fresh):
        seen = []
        server = fresh(on_call=lambda call: seen.append((call.number, call.reply)))
        server.play("503, ok")
        for number in range(1, 4):
            post(server)
            assert len(seen) == number
        assert seen == [(1, "503"), (2, "ok"), (3, "ok")]

    def test_order_holds_among_many_clients(self, fresh):
        seen = []
        server = fresh(on_call=lambda call: seen.append(call.number))
        for thread in [in_background(post, server) for _ in range(30)]:
            assert thread.result().status == 200
        assert seen == list(range(1, 31))

    def test_what_it_raises_is_logged_and_fails_no_reply(self, fresh, caplog):
        def on_call(call):
            raise KeyError("shelf")

        server = fresh(on_call=on_call)
        assert [post(server).status for _ in range(2)] == [200, 200]
        assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
            ("mock_odoo", logging.ERROR, "on_call failed")] * 2
        assert "shelf" in caplog.text

    def test_a_failing_test_in_a_subclass_is_answered_and_holds_up_nothing(self, fresh, new_threads, caplog):
        class Failing(MockOdooServer):
            def make_success(self, payload):
                pytest.fail("on purpose")

        server = fresh(cls=Failing)
        assert [post(server).status for _ in range(3)] == [500] * 3
        server.stop()
        assert new_threads() == []

    def test_even_a_failing_test_in_it_fails_no_reply(self, fresh, caplog):
        server = fresh(on_call=lambda call: pytest.fail("on purpose"))
        assert post(server).status == 200
        assert "on purpose" in caplog.text

    def test_a_reset_in_it_lets_go_the_reply_on_its_way(self, fresh):
        server = fresh(on_call=lambda call: server.reset())
        server.play("ok@60s, stall")
        assert post(server).status == 200

    def test_who_ends_the_server_in_it_is_still_answered(self, fresh):
        server = fresh(on_call=lambda call: server.stop())
        assert post(server).status == 200
        assert refused(server)

    @pytest.mark.parametrize("end", [MockOdooServer.stop, MockOdooServer.down], ids=["stop", "down"])
    def test_among_many_clients_the_one_whose_call_ends_the_server_is_answered(self, fresh, end):
        for _ in range(10):
            server = fresh(on_call=lambda call: call.payload.get("last") and end(server))
            barrier = threading.Barrier(4)

            def client(last):
                barrier.wait(PATIENCE)
                return post(server, {"last": last})

            others = [in_background(client, False) for _ in range(3)]
            assert in_background(client, True).result().status == 200
            for other in others:
                other.result()

    def test_its_thread_is_waited_for_after_an_outage_of_its_own_making(self, fresh, new_threads):
        entered, leave = threading.Event(), threading.Event()

        def on_call(call):
            server.down(0)
            entered.set()
            leave.wait(5)

        server = fresh(on_call=on_call)
        client = in_background(post, server)
        entered.wait(5)
        stopping = in_background(server.stop)
        until(lambda: refused(server))
        assert stopping.is_alive()
        leave.set()
        stopping.result()
        assert new_threads() == []
        client.result()

    def test_it_may_steer_the_server(self, fresh):
        def on_call(call):
            if call.number == 2:
                server.play("503*")

        server = fresh(on_call=on_call)
        assert [post(server).status for _ in range(4)] == [200, 200, 503, 503]

    @pytest.mark.parametrize("end", [MockOdooServer.stop, MockOdooServer.down], ids=["stop", "down"])
    def test_it_may_end_the_server_under_load(self, fresh, new_threads, end):
        server = fresh(on_call=lambda call: call.number == 5 and end(server))
        clients = [in_background(post, server) for _ in range(10)]
        for client in clients:
            client.result()
        assert refused(server)
        server.stop()
        assert new_threads() == []

    def test_a_wait_in_it_ends_with_the_server(self, fresh, new_threads, caplog):
        server = fresh(on_call=lambda call: server.wait_for_calls(99, timeout=60))
        client = in_background(post, server)
        server.wait_for_calls(1)
        server.stop()
        client.result()
        assert new_threads() == []
        assert "the server was stopped; 1 of 99 calls" in caplog.text

    @pytest.mark.parametrize("bad", [5, "print"])
    def test_it_must_be_callable(self, bad):
        with pytest.raises(TypeError, match="on_call must be callable"):
            MockOdooServer(on_call=bad)


# ------------------------------------------------------------------------------------------
# The contract
# ------------------------------------------------------------------------------------------


def changed(path, value):
    """The specification's heartbeat with one value changed, or with `...` left out."""
    payload = json.loads(BODY.decode())
    *parents, name = path.split(".")
    target = payload
    for parent in parents:
        target = target[parent]
    target[name] = value
    if value is ...:
        del target[name]
    return payload


@pytest.fixture(scope="module")
def strict():
    with MockOdooServer(port=0, strict=True) as server:
        yield server


class TestContract:
    @pytest.mark.parametrize(("path", "value"), [
        ("timestamp", "2025-10-09T12:00:00.123456+03:00"), ("timestamp", "2025-10-09T12:00:00.1-0330"),
        ("timestamp", "2024-02-29T23:59:59,5Z"), ("buffer_status.percent_full", 3), ("buffer_status.total_capacity", 0),
        ("circuit_breaker.state", "HALF_OPEN"), ("circuit_breaker.state", "OPEN"), ("version", {"any": "thing"}),
        ("buffer_status.oldest", None)])
    def test_what_keeps_it_is_accepted(self, strict, path, value):
        assert post(strict, changed(path, value)).status == 200

    @pytest.mark.parametrize(("path", "value", "problem"), [
        ("timestamp", ..., "timestamp: missing"),
        ("timestamp", "2025-10-09T12:00:00", "timestamp: expected an ISO 8601 time with a zone"),
        ("timestamp", "2025-02-30T12:00:00Z", "timestamp: expected"),
        ("timestamp", "2025-10-09T12:00:00+25:00", "timestamp: expected"),
        ("timestamp", "2025-10-09 12:00:00Z", "timestamp: expected"),
        ("timestamp", "２025-10-09T12:00:00Z", "timestamp: expected"),
        ("timestamp", 1760011200, "got 1760011200"),
        ("adapter_id", "", "adapter_id: expected a non-empty string, got ''"),
        ("adapter_id", None, "adapter_id: expected a non-empty string, got None"),
        ("buffer_status", ..., "buffer_status: missing"),
        ("buffer_status", [], "buffer_status: expected an object, got []"),
        ("buffer_status.total_capacity", 2.5, "buffer_status.total_capacity: expected a whole number, 0 or more, got 2.5"),
        ("buffer_status.total_capacity", True, "got True"),
        ("buffer_status.current_queued", -1, "buffer_status.current_queued: expected a whole number, 0 or more, got -1"),
        ("buffer_status.percent_full", "high", "buffer_status.percent_full: expected a number, got 'high'"),
        ("buffer_status.percent_full", False, "got False"),
        ("circuit_breaker", ..., "circuit_breaker: missing"),
        ("circuit_breaker.state", "closed", "circuit_breaker.state: expected CLOSED, OPEN or HALF_OPEN, got 'closed'"),
        ("circuit_breaker.state", ["OPEN"], "got ['OPEN']"),
        ("circuit_breaker.failure_count", "0", "circuit_breaker.failure_count: expected a whole number"),
    ])
    def test_each_breach_is_told_by_path_and_value(self, strict, path, value, problem):
        response = post(strict, changed(path, value))
        assert response.status == 422
        (told,) = response.json()["problems"]
        assert problem in told

    def test_all_breaches_are_told_at_once(self, strict):
        strict.reset()
        response = post(strict, {"buffer_status": {"percent_full": "high"}, "circuit_breaker": 5})
        assert response.status == 422
        assert response.json() == {"error": "the heartbeat breaks the contract", "problems": [
            "timestamp: missing", "adapter_id: missing", "buffer_status.total_capacity: missing",
            "buffer_status.current_queued: missing", "buffer_status.percent_full: expected a number, got 'high'",
            "circuit_breaker: expected an object, got 5"]}
        assert [(call.reply, call.accepted, call.payload["circuit_breaker"]) for call in strict.get_calls()] == [("422", False, 5)]

    def test_a_huge_value_is_told_briefly(self, strict):
        response = post(strict, changed("adapter_id", ["x" * 1000] * 1000))
        assert len(response.body) < 500

    def test_the_memory_tells_the_breaches_too(self, strict):
        strict.reset()
        post(strict, {**HEARTBEAT, "adapter_id": "", "timestamp": 5})
        problem = "timestamp: expected an ISO 8601 time with a zone, like 2025-10-09T12:00:00Z, got 5; adapter_id: expected a non-empty string, got ''"
        assert [(call.reply, call.problem) for call in strict.get_calls()] == [("422", problem)]
        with pytest.raises(TimeoutError) as caught:
            strict.wait_for_heartbeats(1, timeout=0)
        assert str(caught.value) == f"0 of 1 heartbeats in 0.0 s; calls: 422; last problem: {problem}"
        post(strict)
        assert strict.get_calls()[1].problem is None

    def test_success_is_not_made_of_what_breaks_it(self, fresh, caplog):
        class Picky(MockOdooServer):
            def find_problems(self, payload):
                return [] if "receipt_id" in payload else ["receipt_id: missing"]

            def make_success(self, payload):
                return {"receipt_id": payload["receipt_id"]}

        server = fresh(cls=Picky, strict=True)
        assert (post(server, {}).status, post(server, {"receipt_id": 7}).json()) == (422, {"receipt_id": 7})
        assert caplog.records == []

    def test_script_speaks_first(self, strict):
        strict.play("503")
        assert [post(strict, {}).status for _ in range(2)] == [503, 422]

    def test_without_strict_any_object_will_do(self, odoo):
        assert post(odoo, {"timestamp": 5}).status == 200


# ------------------------------------------------------------------------------------------
# The wire
# ------------------------------------------------------------------------------------------


class TestEndpoints:
    @pytest.mark.parametrize(("path", "body"), [("/health", {"status": "ok"}), ("/web/health", {"status": "pass"})])
    @pytest.mark.parametrize("script", ["", "503*", "reset*", "stall*"])
    def test_health_tells_that_the_fake_runs_in_every_mode(self, odoo, path, body, script):
        odoo.play(script)
        response = send(odoo, "GET", path)
        assert (response.status, response.json()) == (200, body)
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("path", ["/health", "/web/health"])
    def test_head_has_the_length_but_not_the_body(self, odoo, path):
        full = only(exchange(odoo, request_bytes(b"", method="GET", path=path)))
        with connect(odoo) as connection:
            connection.sendall(request_bytes(b"", method="HEAD", path=path))
            head = read_all(connection)
        assert head.endswith(b"\r\n\r\n")
        assert split(head)[0].headers["Content-Length"] == str(len(full.body))

    @pytest.mark.parametrize(("method", "path", "allow"), [
        ("GET", PATH, "POST"), ("HEAD", PATH, "POST"), ("PUT", PATH, "POST"), ("OPTIONS", PATH, "POST"), ("post", PATH, "POST"),
        ("POST", "/health", "GET, HEAD"), ("DELETE", "/web/health", "GET, HEAD")])
    def test_another_method_is_405_with_allow(self, odoo, method, path, allow):
        response = send(odoo, method, path)
        assert (response.status, response.headers["Allow"]) == (405, allow)
        if method != "HEAD":
            assert response.json() == {"error": f"{path} takes {allow}, not {method}"}
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("path", ["/", "/api/v1/kkt/heartbeat/", "/api/v1/kkt", "/_mock/", "/_mock/state", "//health", "*", "/%"])
    def test_another_path_is_404_with_the_paths_there_are(self, odoo, path):
        response = send(odoo, "GET", path)
        assert response.status == 404
        for known in ("POST /api/v1/kkt/heartbeat", "GET /health", "GET /web/health"):
            assert known in response.json()["error"]

    @pytest.mark.parametrize("target", [PATH + "?shop=7", PATH + "?", "http://odoo.example:8069" + PATH, "HTTP://odoo" + PATH + "?a=b"])
    def test_query_and_absolute_form_do_not_matter(self, odoo, target):
        assert only(exchange(odoo, request_bytes(path=target))).status == 200

    def test_login_leads_to_a_page_in_html(self, odoo):
        odoo.play("login")
        with urllib.request.urlopen(urllib.request.Request(odoo.heartbeat_url, BODY, JSON), timeout=PATIENCE) as response:
            assert response.url == odoo.url + "/web/login"
            assert response.headers.get_content_type() == "text/html"


class TestBodies:
    @pytest.mark.parametrize(("body", "complaint"), [
        (b"", "the body is empty"),
        (b" \r\n", "the body is empty"),
        (b"{", "the body is not JSON"),
        (b"{} {}", "Extra data"),
        (b"{'a': 1}", "the body is not JSON"),
        (b"\xff{}", "the body is not UTF-8"),
        (json.dumps(HEARTBEAT).encode("utf-16"), "the body is not UTF-8"),
        (json.dumps(HEARTBEAT).encode("utf-32-le"), "the body is not JSON"),
        (b"\xef\xbb\xbf{}", "the body begins with a byte order mark"),
        (b'{"a": NaN}', "NaN is not valid JSON"),
        (b'{"a": -Infinity}', "-Infinity is not valid JSON"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": ' + b"9" * 4301 + b"}", "a number has more than 4300 digits"),
        (b"[" * 200000, "nested deeper than 200 levels"),
        (b'{"a":' * 100000 + b"1" + b"}" * 100000, "nested deeper than 200 levels"),
        (b"[1, 2]", "must be a JSON object, not [1, 2]"),
        (b"null", "must be a JSON object, not None"),
        (b'"text"', "must be a JSON object, not 'text'"),
    ], ids=lambda value: repr(value[:20]))
    def test_what_is_no_json_object_is_400_and_says_why(self, odoo, body, complaint):
        response = send(odoo, "POST", PATH, body, JSON)
        assert response.status == 400
        assert complaint in response.json()["error"]
        assert (odoo.get_call_count(), odoo.get_received_heartbeats()) == (1, [])

    @pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;x"])
    def test_json_content_type_is_taken(self, odoo, kind):
        assert send(odoo, "POST", PATH, BODY, {"Content-Type": kind}).status == 200

    @pytest.mark.parametrize("kind", ["text/plain", "application/jsonp", "application/x-www-form-urlencoded", "", None])
    def test_another_content_type_is_415(self, odoo, kind):
        response = send(odoo, "POST", PATH, BODY, {} if kind is None else {"Content-Type": kind})
        assert response.status == 415
        assert response.json()["error"] == f"Content-Type must be application/json; it is {'missing' if kind is None else kind}"
        assert odoo.get_calls()[0].payload == HEARTBEAT

    def test_a_content_coding_is_415(self, odoo):
        response = only(exchange(odoo, request_bytes(BODY, "Content-Encoding: gzip")))
        assert (response.status, "'gzip' is not understood" in response.json()["error"]) == (415, True)
        assert only(exchange(odoo, request_bytes(BODY, "Content-Encoding: identity"))).status == 200

    def test_a_mebibyte_is_taken_and_not_a_byte_more(self, odoo):
        padding = b" " * (mock_odoo.MAX_BODY - len(BODY))
        assert send(odoo, "POST", PATH, BODY + padding, JSON).status == 200
        response = send(odoo, "POST", PATH, BODY + padding + b" ", JSON)
        assert (response.status, response.headers["Connection"]) == (413, "close")
        assert response.json() == {"error": "the body is longer than 1048576 bytes"}
        assert [call.reply for call in odoo.get_calls()] == ["ok", "413"]

    def test_413_reaches_a_client_that_goes_on_sending(self, odoo):
        with connect(odoo) as connection:
            connection.sendall(request_bytes(b"x" * 4000000))
            assert only(read_all(connection)).status == 413

    @pytest.mark.parametrize("path", [PATH, "/health", "/nowhere"])
    def test_a_rejected_body_never_runs_as_the_next_request(self, odoo, path):
        smuggled = request_bytes(b'{"smuggled": true}')
        answers = exchange(odoo, request_bytes(smuggled, "Content-Type: text/plain", path=path, close=False)
                           .replace(b"Content-Type: application/json\r\n", b"", 1) + request_bytes())
        first, rest = split(answers)
        assert first.status in (404, 405, 415)
        assert only(rest).status == 200
        assert odoo.get_received_heartbeats() == [HEARTBEAT]


class TestNesting:
    @pytest.mark.parametrize("levels", [100, 200])
    def test_what_is_taken_can_be_read_and_written_everywhere(self, odoo, levels):
        body = b'{"a":' * levels + b'"[{[{"' + b"}" * levels
        assert send(odoo, "POST", PATH, body, JSON).status == 200
        assert json.dumps(odoo.get_received_heartbeats()[0]).count("{") == levels + 2

    def test_brackets_in_text_are_no_levels(self, odoo):
        assert post(odoo, {"a": "[" * 1000 + '\\"{', "b": ["{" * 1000]}).status == 200

    def test_width_is_no_depth(self, odoo):
        assert post(odoo, {"a": [[]] * 1000}).status == 200

    def test_an_unending_text_takes_no_time_to_see_through(self, odoo):
        assert send(odoo, "POST", PATH, b"[" * 201 + b'"' + b'\\"' * 500000, JSON).status == 400


class TestChunks:
    @pytest.mark.parametrize("chunked", [
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        b"%X;name=value\r\n%s\r\n000\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY),
    ], ids=["one", "many", "extension and trailer"])
    def test_chunked_body_is_decoded(self, odoo, chunked):
        request = request_bytes(chunked, "Transfer-Encoding: chunked", close=False)
        first, rest = split(exchange(odoo, request + request_bytes()))
        assert (first.status, only(rest).status) == (200, 200)
        assert odoo.get_received_heartbeats() == [HEARTBEAT] * 2

    def test_http_client_sends_chunks_too(self, odoo):
        assert send(odoo, "POST", PATH, iter([BODY[:50], BODY[50:]]), JSON).status == 200
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    @pytest.mark.parametrize("chunked", [
        pytest.param(b"-1\r\n", id="negative"),
        pytest.param(b"0x2\r\n{}\r\n0\r\n\r\n", id="0x in front"),
        pytest.param(b"2\r\n{}}\r\n0\r\n\r\n", id="a byte too many"),
        pytest.param(b"g\r\n", id="no digit"),
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b"1_0\r\n", id="underscore"),
        pytest.param(b"+2\r\n{}\r\n0\r\n\r\n", id="plus"),
        pytest.param(b"FFFFFFFFF\r\n", id="nine digits"),
        pytest.param(b"2\n{}\r\n0\r\n\r\n", id="bare line feed after the size"),
        pytest.param(b"3\r\n{}\r\n0\r\n\r\n", id="a byte too few"),
        pytest.param(b"2\r\n{}\n0\r\n\r\n", id="bare line feed after the chunk"),
        pytest.param(b"2 2\r\n{}\r\n0\r\n\r\n", id="two sizes"),
        pytest.param(b"5" * 70000, id="70000 digits")])
    def test_malformed_chunks_are_400_and_the_end(self, odoo, chunked):
        response = only(exchange(odoo, request_bytes(chunked + request_bytes(), "Transfer-Encoding: chunked", close=False)))
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert "chunk" in response.json()["error"]
        assert odoo.get_received_heartbeats() == []

    @pytest.mark.parametrize("chunked", [b"", b"5", b"5\r\n{", b'5\r\n{"a":', b"2\r\n{}\r\n0\r\n"])
    def test_a_client_that_leaves_within_them_is_told_nothing(self, odoo, chunked):
        with connect(odoo) as connection:
            connection.sendall(request_bytes(chunked, "Transfer-Encoding: chunked"))
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""
        assert (odoo.get_call_count(), odoo.get_unmatched()) == (0, [])

    def test_chunks_past_a_mebibyte_are_413(self, odoo):
        chunked = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
        response = only(exchange(odoo, request_bytes(chunked * 40, "Transfer-Encoding: chunked", close=False)))
        assert response.status == 413
        assert [call.reply for call in odoo.get_calls()] == ["413"]

    def test_a_single_huge_chunk_is_413_before_it_comes(self, odoo):
        assert only(exchange(odoo, request_bytes(b"7fffffff\r\n", "Transfer-Encoding: chunked"))).status == 413

    def test_endless_trailers_are_431(self, odoo):
        chunked = b"2\r\n{}\r\n0\r\n" + b"X: 1\r\n" * 200 + b"\r\n"
        assert only(exchange(odoo, request_bytes(chunked, "Transfer-Encoding: chunked"))).status == 431


class TestExpect:
    def test_100_is_sent_before_the_body(self, odoo):
        head, _, body = request_bytes(BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
        with connect(odoo) as connection:
            connection.sendall(head + b"\r\n\r\n")
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert only(read_all(connection)).status == 200

    @pytest.mark.parametrize(("lines", "path", "status"), [
        (("Content-Length: 9999999",), PATH, 413), (("Content-Length: 10",), "/nowhere", 404), (("Content-Length: 10",), "/health", 405)])
    def test_what_needs_no_body_is_checked_first(self, odoo, lines, path, status):
        response = only(exchange(odoo, request_bytes(b"", "Expect: 100-Continue", *lines, path=path, close=False)))
        assert (response.status, response.headers["Connection"]) == (status, "close")

    @pytest.mark.parametrize("request_", [
        request_bytes(b"", "Expect: 100-continue", method="GET", path="/health"),
        request_bytes(BODY, "Expect: 100-continue", version="HTTP/1.0"),
        request_bytes(BODY, "Expect: something-else")],
        ids=["no body", "HTTP/1.0", "another expectation"])
    def test_no_100_where_none_is_due(self, odoo, request_):
        assert only(exchange(odoo, request_)).status == 200


class TestFraming:
    def test_requests_share_a_connection(self, odoo):
        connection = http.client.HTTPConnection("127.0.0.1", odoo.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.connect()
            address = connection.sock.getsockname()
            for _ in range(3):
                connection.request("POST", PATH, BODY, JSON)
                assert connection.getresponse().read() == json.dumps(SUCCESS).encode()
        assert {call.client for call in odoo.get_calls()} == {address}

    def test_pipelined_requests_are_answered_in_order(self, odoo):
        odoo.play("200, 500, 429")
        data = exchange(odoo, request_bytes(close=False) * 2 + request_bytes())
        statuses = []
        while data:
            response, data = split(data)
            statuses.append(response.status)
        assert statuses == [200, 500, 429]

    @pytest.mark.parametrize(("version", "lines", "kept"), [
        ("HTTP/1.1", (), True), ("HTTP/1.1", ("Connection: close",), False), ("HTTP/1.1", ("Connection: TE, Close",), False),
        ("HTTP/1.1", ("Connection: TE", "Connection: close"), False), ("HTTP/1.1", ("Connection: closed",), True),
        ("HTTP/1.0", (), False), ("HTTP/1.0", ("Connection: Keep-Alive",), True), ("HTTP/1.2", (), True)])
    def test_connection_is_kept_as_http_has_it(self, odoo, version, lines, kept):
        first, rest = split(exchange(odoo, request_bytes(BODY, *lines, version=version, close=False) + request_bytes()))
        assert first.status == 200
        assert bool(rest) is kept
        assert first.headers["Connection"] == ("close" if not kept else "keep-alive" if version == "HTTP/1.0" else None)

    @pytest.mark.parametrize("lines", [
        ("Content-Length: +2",), ("Content-Length: 1_0",), ("Content-Length: -1",), ("Content-Length: \xb2",), ("Content-Length: 0x2",),
        ("Content-Length:",), ("Content-Length: 2 2",), ("Content-Length: 2", "Content-Length: 3"), ("Content-Length: 2, 3",),
        ("Content-Length: 2", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 2"),
        ("Content-Length: 2", "No colon"), ("Content-Length: 2", "Space : before"), ("Content-Length: 2", " folded"),
        ("Content-Length: 2", "Nul: \0"), ("Content-Length: 2", "Cr: a\rb"), ("Content-Length: 2", ": nameless")],
        ids=lambda lines: "; ".join(lines))
    def test_malformed_headers_are_400_and_the_end(self, odoo, lines):
        response = only(exchange(odoo, request_bytes(b"{}" + request_bytes(), *lines, close=False)))
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert response.json()["error"]
        assert odoo.get_call_count() == 0

    def test_content_length_may_have_zeros_in_front(self, odoo):
        assert only(exchange(odoo, request_bytes(b"{}", f"Content-Length: {2:030}"))).status == 200

    @pytest.mark.parametrize("zeros", [5000, 60000])
    def test_zeros_in_front_may_be_thousands(self, odoo, zeros):
        request = request_bytes(b"{}", "Content-Length: " + "0" * zeros + "2")
        assert only(exchange(odoo, request)).status == 200

    def test_many_blanks_in_a_header_take_no_time(self, odoo):
        began = time.monotonic()
        assert only(exchange(odoo, b"GET /health HTTP/1.1\r\nA:" + b" " * 64000 + b"\0\r\n\r\n")).status == 400
        assert time.monotonic() - began < 2  # a careless expression takes 14 s, and holds up the whole process

    def test_content_length_may_be_repeated(self, odoo):
        assert only(exchange(odoo, request_bytes(b"{}", "Content-Length: 2", "Content-Length: 2"))).status == 200

    @pytest.mark.parametrize("length", ["9" * 13, "9" * 5000], ids=["13 digits", "5000 digits"])
    def test_an_astronomic_content_length_is_413(self, odoo, length):
        assert only(exchange(odoo, request_bytes(b"", "Content-Length: " + length))).status == 413

    @pytest.mark.parametrize(("data", "status"), [
        (b"GET /health\r\n\r\n", 400), (b"GET  /health HTTP/1.1\r\n\r\n", 400), (b"GET /health HTTP/1.1 \r\n\r\n", 400),
        (b"GET /health http/1.1\r\n\r\n", 400), (b"GET /he alth HTTP/1.1\r\n\r\n", 400), (b"\0\0\0\0\r\n\r\n", 400), (b"hello\n\n", 400),
        (b"GET /health HTTP/11\r\n\r\n", 400), (b"G@T /health HTTP/1.1\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505), (b"GET /health HTTP/3.0\r\n\r\n", 505),
        (b"GET /health HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431), (b"GET /health HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 431), (b"x" * 70000, 431),
        (request_bytes(BODY, "Transfer-Encoding: gzip, chunked"), 501), (request_bytes(BODY, "Transfer-Encoding: chunked", version="HTTP/1.0"), 400),
    ], ids=lambda value: repr(value[:25]) if isinstance(value, bytes) else None)
    def test_what_is_no_request_gets_a_status_line_and_json(self, odoo, data, status):
        response = only(exchange(odoo, data))
        assert (response.status, response.headers["Connection"]) == (status, "close")
        assert response.headers["Content-Type"] == "application/json"
        assert list(response.json()) == ["error"]
        assert odoo.get_call_count() == 0

    def test_a_hundred_headers_are_fine(self, odoo):
        assert only(exchange(odoo, b"GET /health HTTP/1.1\r\nConnection: close\r\n" + b"X: 1\r\n" * 99 + b"\r\n")).status == 200

    def test_bare_line_feeds_and_a_leading_blank_line_are_fine(self, odoo):
        assert only(exchange(odoo, b"\r\n" + request_bytes(b"").replace(b"\r\n", b"\n").replace(b"0\n", b"2\n", 1) + b"{}")).status == 200

    def test_a_request_may_come_byte_by_byte(self, odoo):
        with connect(odoo) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request_bytes():
                connection.sendall(bytes([byte]))
            assert only(read_all(connection)).status == 200

    def test_every_reply_has_a_date_and_is_written_at_once(self, odoo):
        response = post(odoo)
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response.headers["Date"])
        assert mock_odoo.Handler.disable_nagle_algorithm

    def test_a_bug_answers_500_and_is_logged(self, fresh, caplog):
        class Buggy(MockOdooServer):
            def make_success(self, payload):
                return payload["missing"]

        server = fresh(cls=Buggy)
        response = post(server)
        assert (response.status, list(response.json())) == (500, ["error"])
        assert "KeyError: 'missing'" in caplog.text
        assert caplog.records[0].name == "mock_odoo"
        assert [(call.reply, call.accepted) for call in server.get_calls()] == [("500", False)]
        assert server.get_received_heartbeats() == []

    def test_a_bug_in_the_contract_is_a_call_too_and_the_script_speaks_first(self, fresh, caplog):
        class Buggy(MockOdooServer):
            def find_problems(self, payload):
                raise KeyError("shelf")

        server = fresh(cls=Buggy, strict=True)
        server.play("503")
        assert [post(server).status for _ in range(2)] == [503, 500]
        assert [call.reply for call in server.get_calls()] == ["503", "500"]
        assert "shelf" in caplog.text

    @pytest.mark.parametrize("found", [[7], 7, "shelf", b"shelf", ({} for _ in "a")], ids=repr)
    def test_a_contract_that_tells_no_text_is_a_call_too(self, fresh, caplog, found):
        server = fresh(cls=type("Buggy", (MockOdooServer,), {"find_problems": lambda self, payload: found}), strict=True)
        assert (post(server).status, server.get_call_count()) == (500, 1)
        assert "make_success or find_problems failed" in caplog.text

    def test_a_bug_in_a_route_answers_500_and_is_logged(self, fresh, caplog):
        server = fresh()
        server.routes["/broken"] = {"GET": lambda request: 1 / 0}
        assert send(server, "GET", "/broken").status == 500
        assert "ZeroDivisionError" in caplog.text

    def test_rude_clients_leave_no_trace_in_the_log(self, fresh, caplog, capfd):
        server = fresh()
        for data in (b"", b"\x00", b"POST", request_bytes()[:-5], request_bytes(), b"\x16\x03"):
            connection = connect(server)
            connection.sendall(data)
            close_by_reset(connection)
        server.stop()
        assert caplog.records == []
        assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------
# Faults, as clients see them
# ------------------------------------------------------------------------------------------


class TestFaults:
    @pytest.mark.parametrize(("fault", "error"), [
        pytest.param("reset", ConnectionResetError, marks=needs_reset),
        ("close", http.client.RemoteDisconnected), ("truncate", http.client.IncompleteRead),
        ("garbage", http.client.BadStatusLine)])
    def test_http_client_raises_what_the_real_fault_would(self, odoo, fault, error):
        odoo.play(fault)
        with pytest.raises(error) as caught:
            post(odoo)
        assert type(caught.value) is error
        assert post(odoo).status == 200
        assert [(call.reply, call.accepted, call.payload) for call in odoo.get_calls()] == [
            (fault, False, HEARTBEAT), ("ok", True, HEARTBEAT)]

    @pytest.mark.parametrize("fault", [
        pytest.param("reset", marks=needs_reset), "close", "truncate", "garbage"])
    def test_the_end_is_the_same_every_time(self, odoo, fault):
        odoo.play(f"{fault}*40")
        ends = set()
        for number in range(40):
            with connect(odoo) as connection:
                # Every other time, more bytes wait to be read, which turns a careless close into a reset.
                connection.sendall(request_bytes(close=False) * (1 + number % 2))
                ends.add(drain(connection)[1])
        assert ends == {"RST" if fault == "reset" else "FIN"}

    def test_close_and_reset_send_not_one_byte(self, odoo):
        odoo.play("close, reset")
        for _ in range(2):
            with connect(odoo) as connection:
                connection.sendall(request_bytes())
                assert drain(connection)[0] == b""

    def test_truncate_sends_the_headers_and_half_of_the_body(self, odoo):
        odoo.play("truncate")
        with connect(odoo) as connection:
            connection.sendall(request_bytes(close=False))
            data, end = drain(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 49" in head
        assert (body, end) == (b'{"status": "ok", "messag', "FIN")

    def test_stall_times_out_and_holds_the_connection_open(self, odoo):
        odoo.play("stall")
        with connect(odoo) as connection:
            connection.sendall(request_bytes())
            odoo.wait_for_calls(1)
            assert_silent(connection)
        assert post(odoo).status == 200
        assert [call.reply for call in odoo.get_calls()] == ["stall", "ok"]

    def test_drip_passes_a_time_out_per_read_and_takes_its_time(self, odoo, monkeypatch):
        pauses = []

        monkeypatch.setattr(mock_odoo.Handler, "pause", lambda self, seconds: pauses.append(seconds) or True)
        odoo.play("drip")
        with connect(odoo) as connection:
            connection.sendall(request_bytes())
            data = read_all(connection)
        assert only(data).json() == SUCCESS
        assert pauses == [0.1] * len(data)
        assert sum(pauses) > 5
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_drip_comes_byte_by_byte(self, odoo, monkeypatch):
        go, more = threading.Semaphore(0), iter([True, True, False])
        monkeypatch.setattr(mock_odoo.Handler, "pause", lambda self, seconds: go.acquire(timeout=PATIENCE) and next(more))
        odoo.play("drip")
        with connect(odoo) as connection:
            connection.sendall(request_bytes())
            for byte in (b"H", b"T", b"T"):
                assert connection.recv(65536) == byte
                go.release()
            assert only(b"HTT" + read_all(connection)).json() == SUCCESS

    def test_html_is_200_with_a_page(self, odoo):
        odoo.play("html")
        response = post(odoo)
        assert (response.status, response.headers.get_content_type()) == (200, "text/html")
        assert response.body.startswith(b"<!DOCTYPE html>")
        with pytest.raises(ValueError, match="Expecting value"):
            response.json()
        assert odoo.get_received_heartbeats() == []

    def test_login_is_303_to_the_login_page(self, odoo):
        odoo.play("login")
        response = post(odoo)
        assert (response.status, response.headers["Location"], response.body) == (303, "/web/login", b"")

    @pytest.mark.parametrize("fault", [
        pytest.param("reset", marks=needs_reset), "close", "truncate", "garbage", "stall"])
    def test_a_fault_can_be_late(self, odoo, fault):
        odoo.play(f"{fault}@20ms")
        with pytest.raises((OSError, http.client.HTTPException)):
            post(odoo, timeout=0.01)
        odoo.wait_for_calls(1)
        with connect(odoo) as connection:
            odoo.play(f"{fault}@60s")
            connection.sendall(request_bytes())
            odoo.wait_for_calls(2)
            odoo.reset()
            assert drain(connection)[1] == ("RST" if fault == "reset" else "FIN")

    def test_delay_holds_the_reply_back(self, odoo):
        odoo.play("ok@50ms")
        began = time.monotonic()
        assert post(odoo).status == 200
        assert time.monotonic() - began >= 0.03  # the clock of Windows ticks every 16 ms

    def test_delay_of_one_holds_up_nobody_else(self, odoo):
        odoo.play("ok@60s")
        slow = in_background(post, odoo)
        odoo.wait_for_calls(1)
        assert post(odoo).status == 200
        assert slow.is_alive()


class TestLettingGo:
    """A reply that is delayed, stalled or dripping ends at once on reset, stop, down, and when its client leaves."""

    SLOW = ("ok@60s", "503@60s", "stall", "stall@60s", "drip", "reset@60s")

    @pytest.mark.parametrize("script", SLOW)
    @pytest.mark.parametrize("end", [MockOdooServer.stop, MockOdooServer.down], ids=["stop", "down"])
    def test_stop_and_down_cut_it(self, fresh, new_threads, script, end):
        server = fresh()
        server.play(f"{script}*3")
        clients = [in_background(post, server, HEARTBEAT, 60) for _ in range(3)]
        server.wait_for_calls(3)
        end(server)
        for client in clients:
            assert isinstance(client.result(), (OSError, http.client.HTTPException))
        server.stop()
        assert new_threads() == []

    def test_reset_while_a_call_is_judged_spares_the_delay_of_the_next_script(self, fresh):
        class Slow(MockOdooServer):
            def make_success(self, payload):
                judging.set()
                go_on.wait(PATIENCE)
                return payload

        judging, go_on = threading.Event(), threading.Event()
        server = fresh(cls=Slow)
        with connect(server) as connection:
            connection.sendall(request_bytes())
            judging.wait(PATIENCE)
            server.reset()
            server.play("ok@60s")
            go_on.set()
            server.wait_for_calls(1)
            assert_silent(connection)

    @pytest.mark.parametrize(("script", "outcome"), [
        ("ok@60s", 200), ("503@60s", 503), ("drip", 200), ("html@60s", 200),
        ("stall", http.client.RemoteDisconnected), ("stall@60s", http.client.RemoteDisconnected),
        pytest.param("reset@60s", ConnectionResetError, marks=needs_reset)])
    def test_reset_sends_what_is_left_at_once(self, odoo, script, outcome):
        odoo.play(script)
        client = in_background(post, odoo, HEARTBEAT, 60)
        odoo.wait_for_calls(1)
        odoo.reset()
        result = client.result()
        assert (result.status if isinstance(outcome, int) else type(result)) == outcome
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("script", SLOW)
    def test_a_client_that_leaves_ends_it(self, fresh, script):
        server = fresh()
        server.play(f"{script}*")
        with connect(server) as connection:
            connection.sendall(request_bytes(close=False))
            server.wait_for_calls(1)
            assert server._listener._idle == []
        until(lambda: len(server._listener._idle) == 1)

    @pytest.mark.skipif(not hasattr(mock_odoo.select, "POLLRDHUP"),
                        reason="no POLLRDHUP here: bytes look like leaving")
    def test_a_client_that_sends_more_has_not_left(self, fresh):
        server = fresh()
        server.play("ok@60s")
        with connect(server) as connection:
            connection.sendall(request_bytes(close=False))
            server.wait_for_calls(1)
            connection.sendall(request_bytes())
            assert_silent(connection)

    def test_a_new_reply_is_not_let_go_by_an_old_reset(self, odoo):
        odoo.play("stall")
        first = in_background(post, odoo)
        odoo.wait_for_calls(1)
        odoo.reset()
        odoo.play("stall")
        with connect(odoo) as connection:
            connection.sendall(request_bytes())
            odoo.wait_for_calls(1)
            assert_silent(connection)
        assert isinstance(first.result(), http.client.RemoteDisconnected)

    def test_without_poll_it_works_by_select(self, fresh, monkeypatch):
        monkeypatch.delattr(mock_odoo.select, "poll", raising=False)
        server = fresh()
        server.play("ok@20ms, stall, stall")
        assert post(server).status == 200
        client = in_background(post, server)
        server.wait_for_calls(2)
        server.reset()
        assert isinstance(client.result(), http.client.RemoteDisconnected)


# ------------------------------------------------------------------------------------------
# Lifecycle, outages, TLS, load
# ------------------------------------------------------------------------------------------


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def needs_descriptors(n):
    """Skip a test where a process may not open as many files."""
    if hasattr(os, "sysconf") and 0 <= os.sysconf("SC_OPEN_MAX") < n:
        pytest.skip(f"needs {n} descriptors")


def has_ipv6():
    """Has this machine an IPv6 address, at least for itself?"""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="no /proc/self/fd to count descriptors in")


class TestLifecycle:
    def test_constructing_binds_nothing(self):
        assert MockOdooServer(port=0).port == 0
        with MockOdooServer(port=0) as server:
            MockOdooServer(port=server.port)

    def test_free_port_is_told_and_kept_over_a_restart(self, fresh):
        server = fresh()
        port = server.port
        assert port > 0
        assert server.heartbeat_url == f"http://127.0.0.1:{port}{PATH}"
        server.stop()
        server.start()
        assert server.port == port
        assert post(server).status == 200

    def test_busy_port_is_an_oserror_with_a_way_out(self, odoo):
        other = MockOdooServer(port=odoo.port)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1, port {odoo.port}: .*; .*port=0") as caught:
            other.start()
        assert caught.value.errno == errno.EADDRINUSE
        assert not other.is_running
        other.stop()
        assert post(odoo).status == 200

    def test_a_foreign_address_is_an_oserror_with_a_way_out(self):
        with pytest.raises(OSError, match="cannot listen on 192.0.2.1, port 0: .*; host must be an address of this machine"):
            MockOdooServer(port=0, host="192.0.2.1").start()

    @pytest.mark.parametrize(("cause", "remedy"), [
        (OSError(errno.EACCES, "no"), "no; take a port above 1023"), (OSError(errno.EMFILE, "full"), "full$"),
        (socket.gaierror(socket.EAI_NONAME, "who"), "who; host must be an address of this machine")], ids=str)
    def test_the_way_out_fits_the_error(self, monkeypatch, cause, remedy):
        def fail(self):
            raise cause

        monkeypatch.setattr(mock_odoo.Listener, "server_bind", fail)
        server = MockOdooServer(port=80)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1, port 80: {remedy}"):
            server.start()
        assert not server.is_running

    def test_a_port_can_be_had_after_it_was_busy(self, fresh):
        first = fresh()
        second = MockOdooServer(port=first.port)
        with pytest.raises(OSError, match="cannot listen"):
            second.start()
        first.stop()
        with second:
            assert post(second).status == 200

    @on_linux
    def test_a_start_that_fails_half_way_leaves_nothing(self, monkeypatch, new_threads):
        def no_more(self):
            raise RuntimeError("can't start new thread")

        before = descriptors()
        server = MockOdooServer(port=0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                server.start()
        assert not server.is_running
        assert descriptors() <= before
        assert new_threads() == []
        with server:
            assert post(server).status == 200

    def test_second_start_names_the_address_and_the_way_out(self, odoo):
        with pytest.raises(RuntimeError, match=f"already running at {re.escape(odoo.url)}; call stop\\(\\) first"):
            odoo.start()

    def test_stop_is_harmless_when_not_running(self):
        server = MockOdooServer(port=0)
        server.stop()
        server.start()
        server.stop()
        server.stop()
        assert not server.is_running

    def test_is_running_tells(self, fresh):
        server = fresh()
        states = [server.is_running]
        server.down()
        states.append(server.is_running)
        server.stop()
        states.append(server.is_running)
        assert states == [True, True, False]
        assert " stopped, " in repr(server)

    def test_with_block_stops_after_an_exception(self):
        with pytest.raises(KeyError), MockOdooServer(port=0) as server:
            raise KeyError
        assert refused(server)

    @pytest.mark.parametrize(("host", "advertised"), [
        ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")])
    def test_url_leads_there_whatever_the_host(self, fresh, host, advertised):
        if ":" in host and not has_ipv6():
            pytest.skip("no IPv6 here")
        server = fresh(host=host)
        assert server.url == f"http://{advertised}:{server.port}"
        with urllib.request.urlopen(server.url + "/health", timeout=PATIENCE) as response:
            assert json.load(response) == {"status": "ok"}

    @pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
    def test_client_address_has_two_parts_in_ipv6_too(self, fresh):
        server = fresh(host="::1")
        with urllib.request.urlopen(urllib.request.Request(server.heartbeat_url, BODY, JSON), timeout=PATIENCE):
            assert [len(call.client) for call in server.get_calls()] == [2]

    @pytest.mark.parametrize(("kwargs", "error", "complaint"), [
        ({"port": -1}, ValueError, "port must be a whole number from 0 to 65535, not -1"), ({"port": 65536}, ValueError, "not 65536"),
        ({"port": "8069"}, TypeError, "not '8069'"), ({"port": True}, TypeError, "not True"), ({"host": None}, TypeError, "host must be text"),
        ({"host": ""}, ValueError, "host must not be empty; '0.0.0.0' listens on every address"),
        ({"max_calls": 0}, ValueError, "max_calls must be a whole number, 1 or more, not 0"), ({"max_calls": "9"}, TypeError, "max_calls"),
        ({"strict": 1}, TypeError, "strict must be True or False"), ({"ssl_context": "cert.pem"}, TypeError, "ssl_context must be an ssl"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "ssl_context must be a server's"),
        ({"control": "yes"}, TypeError, "control must be True or False")])
    def test_bad_arguments_are_named(self, kwargs, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            MockOdooServer(**kwargs)

    @pytest.mark.parametrize("path", ["", "api/receipt", "/a b", "/a?b", "/a#b", "/чек", b"/a", None])
    def test_an_endpoint_that_nobody_could_reach_is_refused(self, path):
        with pytest.raises(ValueError, match=re.escape(f"endpoint must be a path like /api/v2/receipt, not {path!r}")):
            type("Lost", (MockOdooServer,), {"endpoint": path})()

    @pytest.mark.parametrize("path", ["/", "/health", "/web/login", "/_mock"])
    def test_an_endpoint_may_be_where_something_else_can_be_got(self, fresh, path):
        server = fresh(cls=type("Close", (MockOdooServer,), {"endpoint": path}), control=True)
        assert post(server).json() == SUCCESS
        assert send(server, "GET", path).status in (200, 302)

    def test_max_calls_may_be_astronomic(self, fresh):
        server = fresh(max_calls=10**30)
        post(server)
        assert len(server.get_calls()) == 1

    def test_start_asks_no_dns(self, fresh, monkeypatch):
        def slow(*args):
            raise AssertionError("DNS was asked")

        for name in ("getfqdn", "gethostbyaddr", "gethostname", "getnameinfo"):
            monkeypatch.setattr(socket, name, slow)
        assert post(fresh()).status == 200

    def test_a_default_time_out_of_sockets_does_not_matter(self, fresh):
        socket.setdefaulttimeout(0.02)
        try:
            server = fresh()
            server.play("ok@50ms")
            with connect(server) as connection:
                connection.sendall(request_bytes())
                assert only(read_all(connection)).status == 200
        finally:
            socket.setdefaulttimeout(None)

    def test_stop_cuts_idle_and_half_sent_requests(self, fresh, new_threads):
        server = fresh()
        with contextlib.ExitStack() as stack:
            idle, half, silent = (stack.enter_context(connect(server)) for _ in range(3))
            idle.sendall(request_bytes(close=False))
            assert idle.recv(65536)
            half.sendall(request_bytes()[:-10])
            server.stop()
            assert new_threads() == []
            for connection in (idle, half, silent):
                assert drain(connection)[0] == b""
        assert refused(server)

    def test_stop_cuts_a_client_that_does_not_read(self, fresh, new_threads, wakes_senders):
        server = fresh()
        server.play(Reply(200, b"x" * 50000000))
        with connect(server) as connection:
            connection.sendall(request_bytes())
            server.wait_for_calls(1)
            server.stop()
            assert new_threads() == []

    def test_stop_ends_hundreds_of_slow_clients(self, fresh, new_threads):
        needs_descriptors(900)
        server = fresh()
        server.play("stall*200, ok@60s*")
        with contextlib.ExitStack() as stack:
            for number in range(400):
                connection = stack.enter_context(connect(server))
                connection.sendall(request_bytes() if number % 4 else request_bytes()[:-1])
            server.wait_for_calls(300, timeout=120)
            server.stop()
            assert new_threads() == []
        assert refused(server)

    def test_stop_in_many_threads_is_true_in_each(self, fresh, new_threads):
        server = fresh()
        server.play("stall*")
        clients = [in_background(post, server) for _ in range(20)]
        server.wait_for_calls(20)

        def stop():
            server.stop()
            return new_threads()

        assert [thread.result() for thread in [in_background(stop) for _ in range(5)]] == [[]] * 5
        for client in clients:
            client.result()

    @on_linux
    def test_nothing_is_left_over_hundreds_of_cycles(self, new_threads):
        server = MockOdooServer(port=0)
        for cycle in range(300):
            server.start()
            if cycle == 10:
                before = descriptors()
            connection = connect(server)
            connection.sendall(request_bytes()[:cycle])
            if cycle % 3 == 0:
                server.down()
            server.stop()
            connection.close()
        assert descriptors() <= before + 1
        assert new_threads() == []

    @on_linux
    def test_finished_connections_leave_no_descriptor_and_few_threads(self, fresh, new_threads):
        server = fresh()
        before = descriptors()
        for _ in range(5):
            for thread in [in_background(post, server) for _ in range(60)]:
                assert thread.result().status == 200
        until(lambda: descriptors() <= before and len(new_threads()) <= 1 + mock_odoo.MAX_IDLE_WORKERS)
        listener = server._listener
        server.stop()
        assert new_threads() == []
        assert len(listener._ended) < 60

    def test_an_abandoned_server_lets_its_process_end(self):
        code = "import mock_odoo; server = mock_odoo.MockOdooServer(port=0); server.start(); print(server.port)"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=True,
                              cwd=HERE)
        assert int(done.stdout) > 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_does_not_hold_the_port(self, fresh):
        server = fresh()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
        os.close(reading)
        server.stop()
        try:
            assert refused(server)
            server.start()
            assert post(server).status == 200
        finally:
            os.close(writing)
            os.waitpid(child, 0)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_that_stops_its_copy_does_not_stop_ours(self, fresh):
        server = fresh()
        child = os.fork()
        if not child:
            server.stop()
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert post(server).status == 200

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_child_forked_during_an_outage_does_not_hold_the_port(self, fresh):
        server = fresh()
        server.down()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        try:
            server.up()
            assert post(server).status == 200
            server.down()
            server.stop()
            server.start()
            assert post(server).status == 200
        finally:
            os.close(writing)
            os.waitpid(child, 0)

    def test_what_has_come_before_stop_is_not_answered_after_it(self, fresh):
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(5)))
        with connect(server) as connection:
            connection.sendall(request_bytes(close=False) * 5)
            entered.wait(5)
            stopping = in_background(server.stop)
            until(lambda: refused(server))
            leave.set()
            stopping.result()
        assert server.get_call_count() == 1

    def test_out_of_descriptors_it_waits_and_goes_on(self, fresh, monkeypatch):
        server = fresh()
        accept, failures = mock_odoo.Listener.get_request, []

        def starved(self):
            if len(failures) < 2:
                failures.append(1)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return accept(self)

        monkeypatch.setattr(mock_odoo.Listener, "get_request", starved)
        assert post(server).status == 200
        assert len(failures) == 2

    def test_out_of_threads_it_drops_the_connection_and_goes_on(self, fresh, monkeypatch):
        server = fresh()

        def no_more(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            with connect(server) as connection:
                assert drain(connection)[0] == b""
        assert post(server).status == 200


#: Interrupts one method of the server at a random moment, often; prints how often it hit and what was left.
INTERRUPT = """
import os, random, signal, socket, sys, threading, time
from mock_odoo import MockOdooServer

class Interruption(BaseException):
    pass

def interrupt(*args):
    global armed
    if armed:
        armed = False
        raise Interruption

def servers_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mock_odoo")]

name, hits, left, armed = sys.argv[1], 0, [], False
signal.signal(signal.SIGALRM, interrupt)
for _ in range(200):
    server, clients = MockOdooServer(port=0), []
    if name != "start":
        server.start()
        server.play("stall, ok@60s")
        for _ in range(2):
            clients.append(socket.create_connection(("127.0.0.1", server.port)))
            clients[-1].sendall(b"POST /api/v1/kkt/heartbeat HTTP/1.1\\r\\nContent-Length: 0\\r\\n\\r\\n")
        server.wait_for_calls(2)
    if name in ("up", "reset"):
        server.down()
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.001))
        getattr(server, name)()
        armed = False
    except Interruption:
        hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    began = time.monotonic()
    server.stop()
    if time.monotonic() - began > 2:
        left.append("a slow stop")
    while servers_threads() and time.monotonic() - began < 2:  # one may be about to leave
        pass
    left += servers_threads()
    for client in clients:
        client.close()
    try:
        socket.create_connection(("127.0.0.1", server.port or 1), 1).close()
        left.append("an open port")
    except OSError:
        pass
print(hits, left)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that interrupts")
class TestInterrupted:
    """A signal handler that raises may interrupt the main thread anywhere."""

    @pytest.mark.parametrize("name", ["start", "stop", "down", "up", "reset"])
    def test_after_a_second_stop_nothing_is_left(self, name):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", INTERRUPT, name], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=120, check=True, cwd=HERE, text=True)
        hits, left = done.stdout.split(" ", 1)
        assert (int(hits) > 0, left) == (True, "[]\n")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of sockets just made
    @pytest.mark.parametrize("name", ["get_calls", "get_call_count", "reset", "down", "up"])
    def test_stop_in_a_signal_handler_ends_or_tells_the_safe_way(self, new_threads, monkeypatch, name):
        monkeypatch.setattr(mock_odoo, "PATIENCE", 0.2)
        complaints, done = [], []

        def stop(*args):
            try:
                server.stop()
            except RuntimeError as error:
                complaints.append(str(error))
            done.append(True)

        before = signal.signal(signal.SIGALRM, stop)
        try:
            for _ in range(10):
                server = MockOdooServer(port=0)
                server.start()
                done.clear()
                signal.setitimer(signal.ITIMER_REAL, 0.003)
                while not done:
                    with contextlib.suppress(RuntimeError):  # not running any more
                        getattr(server, name)()
                server.stop()
                assert refused(server)
                until(lambda: new_threads() == [])
        finally:
            signal.signal(signal.SIGALRM, before)
        assert all("let the handler raise an exception instead" in text for text in complaints)

    def test_stop_in_a_signal_handler_may_interrupt_a_wait(self, fresh):
        server = fresh()
        before = signal.signal(signal.SIGALRM, lambda *args: server.stop())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(TimeoutError):
                server.wait_for_calls(1, timeout=0.1)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert refused(server)


class TestStop:
    """What stop() promises, whatever the rest of the program does."""

    def test_a_function_that_hangs_is_told(self, fresh, monkeypatch):
        monkeypatch.setattr(mock_odoo, "PATIENCE", 0.05)
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(PATIENCE)))
        client = in_background(post, server)
        entered.wait(PATIENCE)
        with pytest.raises(RuntimeError, match="a thread has not ended in 0 s: a function of yours hangs"):
            server.stop()
        assert refused(server)
        leave.set()
        client.result()
        monkeypatch.undo()
        server.stop()

    def test_who_was_spared_once_is_cut_by_the_next_stop(self, fresh, new_threads):
        server = fresh(control=True)
        post(server, {"padding": "x" * 1000000})
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = request_bytes(b'{"seconds": 60}', path="/_mock/down")
            connection.sendall(request.replace(b"Host: odoo", b"Host: localhost"))
            until(lambda: refused(server))  # and its reply, which holds the last heartbeat, is not read
            server.stop()
            assert new_threads() == []


class TestOutage:
    def test_down_refuses_and_cuts_and_up_ends_it(self, fresh):
        server = fresh()
        with connect(server) as idle:
            idle.sendall(request_bytes(close=False))
            assert idle.recv(65536)
            server.down()
            assert drain(idle)[0] == b""
        assert refused(server)
        assert " down, " in repr(server)
        server.up()
        assert post(server).status == 200
        assert server.get_call_count() == 2

    def test_the_port_stays_ours(self, fresh):
        server = fresh()
        server.down()
        for reuse in (0, 1):
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                with pytest.raises(OSError):  # which one is the system's business
                    thief.bind(("127.0.0.1", server.port))
        with pytest.raises(OSError, match="cannot listen"):
            MockOdooServer(port=server.port).start()
        server.up()
        assert post(server).status == 200

    def test_down_and_up_are_idempotent(self, fresh):
        server = fresh()
        server.up()
        server.down()
        server.down()
        assert refused(server)
        server.up()
        server.up()
        assert post(server).status == 200

    def test_it_comes_back_by_itself(self, fresh):
        server = fresh()
        server.down(seconds=60)
        assert refused(server)
        server.down(seconds=0.05)
        until(lambda: not refused(server))
        assert post(server).status == 200

    def test_the_last_word_on_its_length_counts(self, fresh):
        server = fresh()
        server.down(seconds=60)
        server.down()
        server.down(seconds=60)
        server.up()
        assert post(server).status == 200
        server.down(seconds=60)
        server.down(seconds=0)
        assert post(server).status == 200

    @pytest.mark.parametrize("seconds", [None, 60])
    def test_stop_works_from_there(self, fresh, new_threads, seconds):
        server = fresh()
        server.down(seconds)
        server.stop()
        assert new_threads() == []
        assert not server.is_running
        server.start()
        assert post(server).status == 200

    def test_start_during_it_is_refused(self, fresh):
        server = fresh()
        server.down()
        with pytest.raises(RuntimeError, match="already running"):
            server.start()

    def test_reset_ends_it(self, fresh):
        server = fresh()
        server.down()
        server.reset()
        assert post(server).status == 200

    def test_script_goes_on_after_it(self, fresh):
        server = fresh()
        server.play("503*2, 429")
        assert post(server).status == 503
        server.down()
        server.up()
        assert [post(server).status for _ in range(3)] == [503, 429, 200]

    @pytest.mark.parametrize("call", [MockOdooServer.down, MockOdooServer.up], ids=["down", "up"])
    def test_a_stopped_server_has_none(self, call):
        with pytest.raises(RuntimeError, match="not running; call start\\(\\) first"):
            call(MockOdooServer(port=0))

    @pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), ("5", TypeError), (float("inf"), ValueError)])
    def test_bad_time_is_named_and_changes_nothing(self, odoo, seconds, error):
        with pytest.raises(error, match="seconds must be"):
            odoo.down(seconds)
        assert post(odoo).status == 200

    def test_a_port_that_is_lost_meanwhile_is_logged(self, fresh, monkeypatch, caplog):
        server = fresh()

        def taken(self):
            raise OSError(errno.EADDRINUSE, "taken")

        monkeypatch.setattr(mock_odoo.Listener, "server_activate", taken)
        server.down(seconds=0.001)
        server._listener._acceptor.join(5)
        assert f"cannot listen on port {server.port} again" in caplog.text
        server.stop()


class TestWindows:
    """What Windows does otherwise, as far as that can be tried elsewhere."""

    @pytest.fixture
    def options(self, monkeypatch):
        """The options that are set on listening sockets, by a system that knows exclusive addresses."""
        seen = []
        real = socket.socket.setsockopt

        def setsockopt(self, level, option, value):
            seen.append((option, value))
            if option != -5:
                real(self, level, option, value)

        monkeypatch.setattr(mock_odoo, "EXCLUSIVE", -5)
        monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
        return seen

    def test_port_is_exclusive_and_never_reused(self, fresh, options):
        server = fresh()
        server.down()
        server.up()
        assert options == [(-5, 1)] * 2

    def test_a_reader_that_shutdown_does_not_wake_loses_its_socket(self, fresh, options, new_threads):
        server = fresh()
        server.play("stall*")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(4)]
            for number, client in enumerate(clients):
                client.sendall(request_bytes()[:10 if number % 2 else None])
            server.wait_for_calls(2)
            server.stop()
            assert new_threads() == []
            for client in clients:
                drain(client)


CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgotswL7M4u9K+mUwC
RZhc6u5Dg6pXSZwnu2UBJoc1wJmhRANCAATpqgJjBEzixKOleYzkP/NgQbcBtLyI
9x/TAjhth/5kpVZwWPOV5zK8qcGGUuEyl73luU/kkiFo/5uG9/xm3NCO
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUDKcCP2UFqtJ4f7jg1r348rzHg4swCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTAwMDEwMTAwMDAwMFoYDzIxMDAwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATpqgJjBEzixKOleYzkP/NgQbcBtLyI9x/TAjhth/5kpVZwWPOV5zK8
qcGGUuEyl73luU/kkiFo/5uG9/xm3NCOo28wbTAdBgNVHQ4EFgQUvQo6NEHYzRQv
Ftd3aqC3TOKrKakwHwYDVR0jBBgwFoAUvQo6NEHYzRQvFtd3aqC3TOKrKakwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgfxfCBgqkKXGTdUuC1e/uUtCKpSd4hUi7bSUPzfeoAZYCIGF+
0y/jAfq+nckTBdnXW9R9vnMngcsc0dNeu5DL6t7F
-----END CERTIFICATE-----
"""  # for localhost and 127.0.0.1, signed by itself, worth nothing


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_text(CERTIFICATE)
    return str(path)


class TestTLS:
    @pytest.fixture
    def secure(self, fresh, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return fresh(ssl_context=context)

    @pytest.fixture
    def trusting(self, certificate):
        return ssl.create_default_context(cafile=certificate)

    def post(self, server, context, timeout=PATIENCE):
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=timeout, context=context)
        with contextlib.closing(connection):
            connection.request("POST", PATH, BODY, JSON)
            response = connection.getresponse()
            return response.status, json.loads(response.read().decode())

    def test_heartbeats_go_over_tls(self, secure, trusting):
        assert secure.url == f"https://127.0.0.1:{secure.port}"
        assert self.post(secure, trusting) == (200, SUCCESS)
        assert secure.get_received_heartbeats() == [HEARTBEAT]

    def test_a_silent_client_keeps_nobody_waiting(self, secure, trusting, new_threads):
        with connect(secure):
            assert self.post(secure, trusting) == (200, SUCCESS)
            secure.stop()
            assert new_threads() == []

    def test_a_client_that_resets_leaves_nothing_open(self, secure, trusting):
        for _ in range(50):
            connection = connect(secure)
            close_by_reset(connection)
        assert self.post(secure, trusting) == (200, SUCCESS)

    @pytest.mark.parametrize("end", ["stop", "down"])
    def test_a_handshake_that_we_end_is_not_held_against_the_client(self, secure, end):
        with connect(secure) as connection:
            connection.sendall(b"\x16\x03\x01")
            until(lambda: any(isinstance(worker.connection, ssl.SSLSocket) for worker in list(secure._listener._workers)))
            getattr(secure, end)()
        assert secure.get_unmatched() == []

    def test_a_handshake_that_the_client_ends_is_told(self, secure):
        with connect(secure) as connection:
            connection.sendall(b"\x16\x03\x01")
            connection.shutdown(socket.SHUT_WR)
            drain(connection)
        until(secure.get_unmatched)
        assert [what.split(":")[0] for what in secure.get_unmatched()] == ["TLS handshake failed"]

    def test_a_client_without_tls_is_turned_away(self, secure, trusting, caplog):
        with connect(secure) as connection:
            connection.sendall(request_bytes())
            assert b"HTTP" not in drain(connection)[0]
        assert self.post(secure, trusting) == (200, SUCCESS)
        assert caplog.records == []

    def test_an_untrusting_client_leaves_no_trace(self, secure, trusting, caplog):
        with pytest.raises(ssl.SSLError):
            self.post(secure, ssl.create_default_context())
        until(secure.get_unmatched)
        assert [what for what in secure.get_unmatched() if not re.match("TLS handshake failed: .*unknown ca", what)] == []
        assert self.post(secure, trusting) == (200, SUCCESS)
        assert caplog.records == []

    @needs_reset
    def test_reset_is_real_beneath_tls(self, secure, trusting):
        secure.play("reset*20")
        for _ in range(20):
            with trusting.wrap_socket(connect(secure), server_hostname="localhost") as connection:
                connection.sendall(request_bytes())
                with pytest.raises(ConnectionResetError):
                    while socket.socket.recv(connection, 65536):
                        pass

    @pytest.mark.parametrize(("fault", "errors"), [
        ("reset", (ConnectionResetError, http.client.RemoteDisconnected, ssl.SSLError)), ("close", (http.client.RemoteDisconnected, ssl.SSLError)),
        ("truncate", (http.client.IncompleteRead, ssl.SSLError)), ("garbage", http.client.BadStatusLine)])
    def test_faults_are_as_real(self, secure, trusting, fault, errors):
        secure.play(fault)
        with pytest.raises(errors):
            self.post(secure, trusting)
        assert self.post(secure, trusting) == (200, SUCCESS)

    def test_stall_says_nothing(self, secure, trusting):
        secure.play("stall")
        with trusting.wrap_socket(connect(secure), server_hostname="localhost") as connection:
            connection.sendall(request_bytes())
            secure.wait_for_calls(1)
            assert_silent(connection)

    @pytest.mark.parametrize("script", ["ok@60s", "stall", "drip"])
    def test_slow_replies_are_let_go(self, secure, trusting, new_threads, script):
        for end in (secure.reset, secure.down, secure.stop):
            secure.reset()
            secure.play(f"{script}*")
            client = in_background(self.post, secure, trusting, 60)
            secure.wait_for_calls(1)
            end()
            client.result()
        assert new_threads() == []

    def test_outage_and_return(self, secure, trusting):
        secure.down()
        assert refused(secure)
        secure.up()
        assert self.post(secure, trusting) == (200, SUCCESS)


class TestLoad:
    def test_exactly_so_many_fail_among_fifty_at_once(self, odoo):
        odoo.set_failure_count(25)
        barrier = threading.Barrier(50)

        def client(number):
            barrier.wait(PATIENCE)
            return post(odoo, {"number": number}).status

        statuses = [thread.result() for thread in [in_background(client, number) for number in range(50)]]
        assert (statuses.count(503), statuses.count(200)) == (25, 25)
        accepted = {number for number, status in enumerate(statuses) if status == 200}
        assert {heartbeat["number"] for heartbeat in odoo.get_received_heartbeats()} == accepted

    def test_call_n_got_reply_n(self, odoo):
        odoo.play("200, 429, 500, 503", loop=True)
        answers = [thread.result() for thread in [in_background(lambda n: (n, post(odoo, {"n": n}).status), n) for n in range(40)]]
        by_call = {call.payload["n"]: (call.number, call.reply) for call in odoo.get_calls()}
        for n, status in answers:
            number, reply = by_call[n]
            assert reply == ["503", "ok", "429", "500"][number % 4]
            assert status == {"ok": 200}.get(reply) or status == int(reply)

    def test_a_thousand_clients_in_the_same_instant(self, fresh):
        needs_descriptors(2100)
        server = fresh()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(1000):
                client = stack.enter_context(contextlib.closing(socket.socket()))
                client.settimeout(30)
                clients.append(client)
            for client in clients:
                client.connect(("127.0.0.1", server.port))
            for client in clients:
                client.sendall(request_bytes())
            assert [only(read_all(client)).status for client in clients] == [200] * 1000
        assert server.get_call_count() == len(server.get_received_heartbeats()) == 1000

    def test_everything_may_be_called_at_any_time(self, fresh, caplog):
        server = fresh(max_calls=50)
        ended = threading.Event()
        clients = [in_background(post_until, ended, server) for _ in range(6)]
        for number in range(40):
            server.play("503*2, reset, ok@1ms, close, stall", loop=True)
            server.wait_for_calls(1)
            server.set_failure_count(number)
            server.set_permanent_failure(number % 2 == 0)
            repr(server), server.get_received_heartbeats(), server.get_intervals(), server.script
            server.set_success()
            server.reset()
            if number % 8 == 0:
                server.down()
                server.up()
            if number % 10 == 0:
                server.stop()
                server.start()
        ended.set()
        server.stop()
        for thread in clients:
            thread.result()
        assert caplog.records == []

    def test_a_hundred_thousand_heartbeats_fit_into_memory(self):
        tracemalloc = pytest.importorskip("tracemalloc")
        scenario = mock_odoo.Scenario(None, None, None)
        head = mock_odoo.Head(request_bytes(b""))
        tracemalloc.start()
        try:
            size = -tracemalloc.get_traced_memory()[0]  # not nothing where PYTHONTRACEMALLOC is set
            for _ in range(10000):
                scenario.take(("127.0.0.1", 50000), head.raw, bytes(bytearray(BODY)), None)
            size += tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert size / 10000 < 1500  # bytes for each, so 150 MB for a hundred thousand


# ------------------------------------------------------------------------------------------
# The control API
# ------------------------------------------------------------------------------------------


def control(server, method, path, body=None, **headers):
    """One request to the control API: status and JSON."""
    given = {} if method == "GET" else {"Content-Type": "application/json"}
    given.update((name.replace("_", "-"), value) for name, value in headers.items())
    response = send(server, method, "/_mock/" + path, None if body is None else json.dumps(body), given)
    return response.status, response.json()


class TestControl:
    @pytest.fixture
    def steered(self, fresh):
        return fresh(control=True)

    def test_state_tells_all_there_is_to_know(self, steered):
        steered.play("503, ok, 429*2", loop=True)
        post(steered, {"n": 1})
        post(steered, {"n": 2})
        send(steered, "GET", "/_mock/nowhere")
        assert control(steered, "GET", "state") == (200, {
            "service": "Odoo", "heartbeat_url": steered.heartbeat_url, "script": "429*2, 503, ok", "loop": True,
            "call_count": 2, "heartbeat_count": 1, "last_heartbeat": {"n": 2}, "unmatched": ["404 GET /_mock/nowhere"]})

    def test_state_before_anything_came(self, steered):
        status, state = control(steered, "GET", "state")
        assert (status, state["call_count"], state["last_heartbeat"]) == (200, 0, None)

    def test_calls_come_with_all_their_fields(self, steered):
        post(steered)
        send(steered, "POST", PATH, "{", JSON)
        status, answer = control(steered, "GET", "calls")
        first, second = answer["calls"]
        assert status == 200
        assert (first["number"], first["reply"], first["accepted"], first["payload"]) == (1, "ok", True, HEARTBEAT)
        assert (first["client"][0], first["headers"]["Content-Type"]) == ("127.0.0.1", "application/json")
        assert (first["delay"], first["problem"]) == (0.0, None)
        assert first["received_at"] == steered.get_calls()[0].received_at
        assert (second["reply"], second["payload"], second["body"]) == ("400", None, "{")
        assert second["problem"].startswith("the body is not JSON: ")

    def test_repeated_headers_are_joined(self, steered):
        exchange(steered, request_bytes(BODY, "X-Part: 1", "x-part: 2"))
        assert control(steered, "GET", "calls")[1]["calls"][0]["headers"]["X-Part"] == "1, 2"

    def test_calls_since(self, steered):
        for n in range(3):
            post(steered, {"n": n})
        assert [call["number"] for call in control(steered, "GET", "calls?since=1")[1]["calls"]] == [2, 3]
        assert control(steered, "GET", "calls?since=3") == (200, {"calls": []})

    def test_script_is_played(self, steered):
        status, state = control(steered, "PUT", "script", {"script": "503*3", "loop": False})
        assert (status, state["script"], state["loop"]) == (200, "503*3", False)
        assert [post(steered).status for _ in range(4)] == [503, 503, 503, 200]
        assert control(steered, "PUT", "script", {"script": ["ok", "503*2"], "loop": True})[1]["script"] == "ok, 503*2"

    @pytest.mark.parametrize(("path", "body", "call"), [
        ("script", {"script": "50x"}, lambda server: server.play("50x")),
        ("script", {"script": 503}, lambda server: server.play(503)),
        ("script", {"script": None}, lambda server: server.play(None)),
        ("script", {"script": "ok", "loop": "yes"}, lambda server: server.play("ok", "yes")),
        ("down", {"seconds": -1}, lambda server: server.down(-1)),
        ("down", {"seconds": "5"}, lambda server: server.down("5")),
    ])
    def test_what_cannot_be_used_is_400_with_the_words_of_python(self, steered, path, body, call):
        steered.play("503*7")
        with pytest.raises((TypeError, ValueError)) as caught:
            call(steered)
        assert control(steered, "PUT" if path == "script" else "POST", path, body) == (400, {"error": str(caught.value)})
        assert (steered.script, steered.is_running) == ("503*7", True)

    def test_down_must_have_an_end(self, steered):
        assert control(steered, "POST", "down", {}) == (
            400, {"error": '"seconds" is missing; nobody could end the outage through a port that refuses connections'})

    def test_script_must_be_there(self, steered):
        assert control(steered, "PUT", "script", {}) == (
            400, {"error": '"script" is missing; send {"script": "503*3"}, for example'})

    @pytest.mark.parametrize(("method", "path", "body", "known"), [
        ("PUT", "script", {"script": "503", "Loop": True}, "'Loop' means nothing here; /_mock/script takes script, loop"),
        ("POST", "down", {"second": 5}, "'second' means nothing here; /_mock/down takes seconds"),
        ("POST", "reset", {"calls": 1}, "'calls' means nothing here; /_mock/reset takes nothing"),
        ("POST", "reset?calls=1", None, "'calls' means nothing here; /_mock/reset takes nothing"),
        ("PUT", "script?loop=true", {"script": "503"}, "loop must be True or False, not 'true'")])
    def test_a_misspelt_field_is_named_and_changes_nothing(self, steered, method, path, body, known):
        steered.play("ok, 503*7")
        post(steered)
        assert control(steered, method, path, body) == (400, {"error": known})
        assert (steered.script, steered.get_call_count(), refused(steered)) == ("503*7", 1, False)

    def test_a_script_may_hold_the_fields_of_a_reply(self, steered):
        control(steered, "PUT", "script", {"script": ["503", {"status": 429, "body": {"error": "slow"}, "headers": {"Retry-After": "5"}}]})
        assert post(steered).status == 503
        response = post(steered)
        assert (response.status, response.headers["Retry-After"], response.json()) == (429, "5", {"error": "slow"})

    def test_body_must_be_json(self, steered):
        response = send(steered, "PUT", "/_mock/script", "{", JSON)
        assert (response.status, "not JSON" in response.json()["error"]) == (400, True)

    def test_reset_forgets_everything(self, steered):
        steered.play("503*")
        post(steered)
        status, state = control(steered, "POST", "reset")
        assert (status, state["call_count"], state["script"]) == (200, 0, "")

    def test_many_outages_leave_nothing_behind(self, steered, new_threads):
        for _ in range(20):
            assert control(steered, "POST", "down", {"seconds": 0})[0] == 200
        until(lambda: len(new_threads()) <= 2)  # the acceptor, and maybe a worker
        steered.stop()
        assert new_threads() == []

    def test_down_refuses_at_once_after_its_answer_and_comes_back(self, steered):
        with connect(steered) as idle:
            status, state = control(steered, "POST", "down", {"seconds": 60})
            assert (status, state["call_count"]) == (200, 0)
            assert refused(steered)
            assert drain(idle)[0] == b""
        steered.up()
        assert control(steered, "POST", "down", {"seconds": 0.01})[0] == 200
        until(lambda: not refused(steered))
        assert post(steered).status == 200

    def test_wait_answers_when_the_calls_are_there(self, steered):
        waiting = in_background(control, steered, "GET", "wait?calls=2&timeout=60")
        post(steered)
        assert waiting.is_alive()
        post(steered)
        status, state = waiting.result()
        assert (status, state["call_count"]) == (200, 2)

    def test_wait_may_be_for_heartbeats(self, steered):
        steered.play("503")
        waiting = in_background(control, steered, "GET", "wait?heartbeats=1&timeout=60")
        post(steered)
        assert waiting.is_alive()
        post(steered)
        status, state = waiting.result()
        assert (status, state["call_count"], state["heartbeat_count"]) == (200, 2, 1)

    def test_wait_gives_up_with_what_there_was(self, steered):
        post(steered)
        status, state = control(steered, "GET", "wait?calls=2&timeout=0.01")
        assert (status, state["call_count"], state["error"]) == (408, 1, "1 of 2 calls in 0.01 s; calls: ok")

    def test_wait_does_not_hold_up_stop(self, steered, new_threads):
        waiting = in_background(control, steered, "GET", "wait?calls=2&timeout=60")
        until(lambda: any(thread.name == "mock_odoo worker" for thread in new_threads()))
        steered.stop()
        assert new_threads() == []
        result = waiting.result()  # cut, or told in time that there is nothing to wait for
        assert isinstance(result, (OSError, http.client.HTTPException)) or result[0] == 408

    @pytest.mark.parametrize(("query", "complaint"), [
        ("wait?calls=two", "calls must be a number like 5 or 0.5, not 'two'"), ("wait?calls=-1", "calls must be a number like 5 or 0.5, not '-1'"),
        ("wait?calls=1.5", "calls must be a whole number, 0 or more, not 1.5"), ("wait?timeout=61", "timeout must be from 0 to 60 seconds, not 61"),
        ("wait?cals=1", "'cals' means nothing here; /_mock/wait takes calls, heartbeats, timeout"), ("state?calls=1", "/_mock/state takes nothing"),
        ("wait?calls=1&heartbeats=1", "wait for calls or for heartbeats, not for both"), ("wait?timeout=nan", "timeout must be a number like 5 or 0.5, not 'nan'"), ("calls?since=", "since must be a number like 5 or 0.5, not ''"),
        pytest.param("calls?since=" + "9" * 5000, "since must be a number like 5 or 0.5, not '999",
                     id="since 5000 digits")])
    def test_bad_query_is_named(self, steered, query, complaint):
        status, answer = control(steered, "GET", query)
        assert (status, complaint in answer["error"]) == (400, True)

    def test_it_is_never_counted_delayed_or_failed(self, steered):
        steered.play("reset*")
        for _ in range(3):
            assert control(steered, "GET", "state")[0] == 200
        assert (steered.get_call_count(), steered.script) == (0, "reset*")

    def test_root_leads_to_the_page(self, steered):
        with urllib.request.urlopen(steered.url + "/", timeout=PATIENCE) as response:
            assert response.url == steered.url + "/_mock/"
            assert response.read().startswith(b"<!DOCTYPE html>")
        assert send(steered, "GET", "/_mock").headers["Location"] == "/_mock/"

    def test_it_is_off_in_the_library(self, odoo):
        for path in ("/", "/_mock/", "/_mock/state", "/_mock/reset"):
            assert send(odoo, "GET", path).status == 404

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8069", "127.1.2.3", "[::1]:8069"])
    def test_a_loopback_host_may(self, steered, host):
        assert control(steered, "GET", "state", Host=host)[0] == 200

    @pytest.mark.parametrize("host", [
        "evil.example", "evil.example:8069", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost", "192.168.0.1", "",
        "localhost:8069@evil.example", "0.0.0.0"])
    @pytest.mark.parametrize("path", ["", "state", "calls", "wait"])
    def test_another_host_may_not(self, steered, host, path):
        status, answer = control(steered, "GET", path, Host=host)
        assert status == 403
        assert f"Host {host}" in answer["error"]

    @pytest.mark.parametrize(("method", "path"), [("PUT", "script"), ("POST", "reset"), ("POST", "down")])
    def test_another_host_changes_nothing(self, steered, method, path):
        steered.play("503*7")
        assert control(steered, method, path, {"script": "", "seconds": 60}, Host="evil.example")[0] == 403
        assert steered.script == "503*7"
        assert not refused(steered)

    @pytest.mark.parametrize(("method", "path"), [("PUT", "script"), ("POST", "reset"), ("POST", "down")])
    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
    def test_what_a_foreign_page_can_send_changes_nothing(self, steered, method, path, kind):
        steered.play("503*7")
        assert control(steered, method, path, {"script": "", "seconds": 60}, Content_Type=kind)[0] == 415
        assert steered.script == "503*7"

    def test_no_preflight_is_granted(self, steered):
        response = send(steered, "OPTIONS", "/_mock/script", None, {
            "Origin": "http://evil.example", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"})
        assert response.status == 405
        assert not [name for name in response.headers if name.lower().startswith("access-control")]

    def test_the_token_opens_it_to_others(self, fresh, monkeypatch):
        server = fresh()
        mock_odoo.Control(server, "sesam")
        assert control(server, "GET", "state", Host="pos.example", Authorization="Bearer sesam")[0] == 200
        assert control(server, "GET", "state", Host="pos.example", Authorization="bearer  sesam ")[0] == 200
        assert control(server, "GET", "state")[0] == 200
        for given in ("Bearer", "Bearer ", "Bearer sesa", "Bearer sesam!", "Basic sesam", "sesam", "Bearer \xfc"):
            status, answer = control(server, "GET", "state", Host="pos.example", Authorization=given)
            assert (status, "right token" in answer["error"]) == (403, True)

    def test_without_a_token_none_will_do(self, steered):
        for given in ("Bearer ", "Bearer None"):
            status, answer = control(steered, "GET", "state", Host="pos.example", Authorization=given)
            assert (status, "--token" in answer["error"]) == (403, True)

    @pytest.mark.parametrize("token", ["", " ", "a b", "п", "\udcff", "a\n"])
    def test_a_token_that_could_never_match_is_refused(self, token):
        with pytest.raises(ValueError, match="the token must be printable ASCII"):
            mock_odoo.Control(MockOdooServer(), token)

    def test_a_client_elsewhere_may_not(self, steered):
        request = mock_odoo.Request(mock_odoo.Head(b"GET /_mock/state HTTP/1.1\r\nHost: localhost\r\n\r\n"), ("192.0.2.7", 5))
        guarded = steered.routes["/_mock/state"]["GET"]
        assert guarded(request).status == 403
        for loopback in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            request.client = (loopback, 5)
            assert guarded(request).status == 200

    def test_down_of_what_has_just_been_stopped_is_409(self):
        server = MockOdooServer(control=True)
        request = mock_odoo.Request(mock_odoo.Head(b"POST /_mock/down HTTP/1.1\r\nHost: localhost\r\n\r\n"), ("127.0.0.1", 5))
        request.body = b'{"seconds": 5}'
        reply = server.routes["/_mock/down"]["POST"](request)
        assert (reply.status, json.loads(reply.body.decode())) == (409, {"error": "not running; call start() first"})

    def test_another_service_has_it_too(self, fresh):
        server = fresh(cls=MockOfdServer, control=True)
        assert control(server, "GET", "state")[1]["service"] == "OFD"


# ------------------------------------------------------------------------------------------
# The command line
# ------------------------------------------------------------------------------------------


if os.name == "nt":
    import ctypes

    # Windows has no signal for another process, but keys for all the processes of a console. So
    # each fake here has a console of its own, without a window. A process that joins it ends it.
    ENDS = ("CTRL_C_EVENT", "CTRL_BREAK_EVENT")
    OWN_CONSOLE = {"creationflags": subprocess.CREATE_NO_WINDOW}
    ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)  # or children may inherit a deaf ear
else:
    ENDS = ("SIGTERM", "SIGINT")
    OWN_CONSOLE = {}

PRESS = """
import ctypes, signal, sys
process, *keys = map(int, sys.argv[1:])
for number in (signal.SIGINT, signal.SIGBREAK):  # it reaches us, too
    signal.signal(number, lambda *args: None)
kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
if process:
    kernel32.FreeConsole()
    if not kernel32.AttachConsole(process):
        raise ctypes.WinError(ctypes.get_last_error())
for key in keys:
    if not kernel32.GenerateConsoleCtrlEvent(key, 0):
        raise ctypes.WinError(ctypes.get_last_error())
"""


def press(process, *keys):
    """Press keys in the console of a process; 0 stands for a console that nobody else has."""
    numbers = [str(int(getattr(signal, key))) for key in keys]
    subprocess.run([sys.executable, "-c", PRESS, str(process), *numbers],
                   stderr=subprocess.PIPE, timeout=PATIENCE, check=True, **OWN_CONSOLE)


def needs_end(how):
    """Skip where an end that this system has by name cannot be had."""
    if how == "CTRL_BREAK_EVENT":
        try:
            press(0, how)
        except subprocess.CalledProcessError:
            pytest.skip("GenerateConsoleCtrlEvent sends no Ctrl+Break on this system")


def raise_signal(number):
    """Send a signal to ourselves; Python has that from 3.8 on."""
    if hasattr(signal, "raise_signal"):
        signal.raise_signal(number)
    elif os.name == "nt":  # where os.kill() would terminate us
        ctypes.CDLL("ucrtbase")["raise"](number)
    else:
        os.kill(os.getpid(), number)


class Process:
    """`python -m mock_odoo` on a free port, once its first line stands."""

    def __init__(self, *args, command=("-m", "mock_odoo"), stdout=subprocess.PIPE, **environ):
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", "0", *args], stdout=stdout, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, **environ), cwd=HERE, **OWN_CONSOLE)
        self.endpoint = PATH
        self.first = self.line() if stdout == subprocess.PIPE else ""
        self.port = int(re.search(r":([0-9]+)", self.first).group(1)) if self.first else None

    def line(self):
        return in_background(self.process.stdout.readline).result()

    def ask_to_end(self, *how):
        """Send what ends a program on this system, one or several by their names in `signal`."""
        how = how or ENDS[:1]
        if os.name == "nt":
            press(self.process.pid, *how)
        else:
            for name in how:
                self.process.send_signal(getattr(signal, name))

    def end(self, *how):
        """Stop it; exit code, and what else it printed."""
        self.ask_to_end(*how)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def launch():
    processes = []

    def launch(*args, **kwargs):
        processes.append(Process(*args, **kwargs))
        return processes[-1]

    yield launch
    for process in processes:
        process.process.kill()
        process.process.communicate()


def run_main(*args):
    """Run the command line where it is bound to end at once; exit code and both outputs."""
    done = subprocess.run([sys.executable, "-m", "mock_odoo", *args], capture_output=True, timeout=30, check=False, text=True,
                          cwd=HERE)
    return done.returncode, done.stdout, done.stderr


def a_call(number):
    head = mock_odoo.Head(request_bytes(b""))
    return Call(number, Reply(), ("127.0.0.1", 50000), head.raw, b"{}")


class TestCommandLine:
    def test_first_line_stands_when_clients_can_connect(self, launch):
        process = launch()
        assert process.first == f"Mock Odoo on http://127.0.0.1:{process.port} - POST {PATH} - Ctrl+C stops\n"
        assert send(process, "GET", "/health").status == 200

    @pytest.mark.parametrize("how", ENDS)
    def test_signal_ends_it_with_a_summary(self, launch, how):
        needs_end(how)
        process = launch("--script", "503*3")
        for _ in range(5):
            post(process)
        code, out, err = process.end(how)
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "2 heartbeats received, 3 of 5 calls refused"

    @pytest.mark.skipif(not hasattr(signal, "SIGBREAK"), reason="no SIGBREAK here")
    def test_what_ctrl_break_comes_down_to_ends_it_with_a_summary(self, launch):
        """Where the key is pressed, the C library raises SIGBREAK in a thread of its own."""
        code = ("import ctypes, signal, sys, mock_odoo\n"
                "def press(self, payload):\n"
                "    ctypes.CDLL('ucrtbase')['raise'](signal.SIGBREAK)\n"
                "    return {}\n"
                "mock_odoo.MockOdooServer.make_success = press\n"
                "sys.exit(mock_odoo.main(sys.argv[1:]))")
        process = launch(command=["-c", code])
        with contextlib.suppress(OSError, http.client.HTTPException):  # the end may be faster
            post(process)
        out, err = process.process.communicate(timeout=PATIENCE)
        assert (process.process.returncode, err) == (0, "")
        assert out.splitlines()[-1].endswith(" calls refused")

    def test_line_for_each_call(self, launch):
        process = launch("--script", "503*2, reset, ok, ok@1ms")
        post(process)
        post(process, {"adapter_id": "KKT-\x1b[31m\n7", "buffer_status": []})
        with contextlib.suppress(OSError):
            post(process)
        send(process, "POST", PATH, "nonsense", JSON)
        post(process)
        exchange(process, request_bytes(b"", method="GET", path="/nowhere\x9b"))
        exchange(process, b"nonsense\r\n\r\n")
        lines = [process.line() for _ in range(7)]
        assert [re.sub("^[0-9:]{8}", "12:00:30", line).rstrip("\n") for line in lines] == [
            "12:00:30  503       KKT-001     buffer 5/200 (2.5%)     breaker CLOSED     script: 503, reset, ok, ok@1ms",
            "12:00:30  503       KKT-?[31m?7  buffer ?/? (?%)         breaker ?          script: reset, ok, ok@1ms",
            "12:00:30  reset     KKT-001     buffer 5/200 (2.5%)     breaker CLOSED     script: ok, ok@1ms",
            f"12:00:30  400       {b'nonsense'!r:<54}  the body is not JSON: Expecting value: line 1 column 1 (char 0)  script: ok@1ms",
            "12:00:30  ok@1ms    KKT-001     buffer 5/200 (2.5%)     breaker CLOSED",
            "12:00:30  404       GET /nowhere?",
            "12:00:30  400       malformed request line 'nonsense'; it should be like 'GET /health HTTP/1.1'"]

    def test_quiet_prints_the_first_line_alone(self, launch):
        process = launch("--quiet")
        post(process)
        assert process.end() == (0, "", "")

    def test_json_lines(self, launch):
        process = launch("--json", "--script", "503")
        assert json.loads(process.first) == {"listening": f"http://127.0.0.1:{process.port}"}
        post(process)
        call = json.loads(process.line())
        assert (call["number"], call["reply"], call["accepted"], call["payload"]) == (1, "503", False, HEARTBEAT)
        assert json.loads(process.end()[1]) == {"heartbeat_count": 0, "call_count": 1}

    def test_flags_reach_the_server(self, launch):
        process = launch("--script", "503", "--loop", "--strict", "--max-calls", "2", "--token", "sesam", "--host", "127.0.0.1")
        assert [post(process).status for _ in range(3)] == [503] * 3
        assert len(control(process, "GET", "calls")[1]["calls"]) == 2
        control(process, "PUT", "script", {"script": ""})
        assert post(process, {}).status == 422
        assert control(process, "GET", "state", Host="elsewhere", Authorization="Bearer sesam")[0] == 200

    def test_https(self, launch, certificate):
        process = launch("--certfile", certificate)
        context = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"https://127.0.0.1:{process.port}/health", timeout=PATIENCE, context=context) as response:
            assert response.status == 200

    @pytest.mark.parametrize(("args", "complaint"), [
        (["--port", "70000"], "port must be a whole number from 0 to 65535, not 70000"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--port", "0", "--host", "192.0.2.1"], "host must be an address of this machine"),
        (["--script", "50x"], "step '50x': '50x' is no reply"),
        (["--script", "a\nb"], "step 'a\\nb': 'a\\nb' is no reply"),
        (["--max-calls", "0"], "max_calls must be a whole number, 1 or more, not 0"),
        (["--journal", "/no/such/folder/journal"], "cannot write the journal /no/such/folder/journal: No such file or directory"),
        (["--certfile", "/no/such/file"], "cannot use the certificate /no/such/file: No such file or directory"),
        (["--certfile", "setup.cfg"], "PEM is needed, with the key in the same file or in --keyfile"),
        (["--certfile", "setup.cfg", "--keyfile", "/no/such/key"], "cannot use the certificate setup.cfg and /no/such/key"),
        (["--host", ""], "host must not be empty"),
        (["--keyfile", "setup.cfg"], "--keyfile goes with --certfile"),
        (["--token", ""], "the token must be printable ASCII without blanks, and not empty"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ])
    def test_misuse_is_one_line_and_exit_2(self, args, complaint):
        code, out, err = run_main(*args)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("mock_odoo: ")
        assert complaint in err

    def test_a_taken_port_is_one_line_and_exit_2(self, odoo):
        code, out, err = run_main("--port", str(odoo.port))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"cannot listen on 127.0.0.1, port {odoo.port}: " in err

    def test_help_tells_the_flags_the_grammar_and_examples(self):
        code, out, err = run_main("--help")
        assert (code, err) == (0, "")
        for word in ("--host", "--port", "--script", "--loop", "--strict", "--journal", "--json", "--token", "--certfile", "--keyfile",
                     "--max-calls", "--quiet", "examples:", "503*3, reset, ok@6s", *mock_odoo.FAULTS, "html", "login", "/_mock/"):
            assert word in out
        assert max(map(len, mock_odoo.EPILOG.splitlines())) <= 80

    @pytest.mark.parametrize("how", ENDS)
    def test_signal_ends_it_under_load_every_time(self, launch, how):
        needs_end(how)
        for _ in range(4):
            process = launch("--quiet", "--script", "ok*50, stall*3, 503", "--loop")
            ended = threading.Event()
            clients = [in_background(post_until, ended, process) for _ in range(6)]
            assert send(process, "GET", "/health").status == 200
            code, out, err = process.end(how)
            ended.set()
            assert (code, out, err) == (0, "", "")
            for thread in clients:
                thread.result()

    def test_a_reader_that_has_had_enough_stops_nothing(self, launch):
        process = launch()
        process.process.stdout.close()
        assert [post(process).status for _ in range(3)] == [200] * 3
        process.process.stdout = None
        process.ask_to_end()
        assert process.process.wait(10) == 0
        assert process.process.stderr.read() == ""

    @pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminal to be had")
    @pytest.mark.parametrize(("environ", "coloured"), [({"NO_COLOR": "", "TERM": "xterm"}, True), ({"NO_COLOR": "1", "TERM": "xterm"}, False)])
    def test_colours_are_for_terminals(self, launch, environ, coloured):
        terminal, end = os.openpty()
        with open(terminal, closefd=True) as screen:
            process = launch("--script", "503, reset", stdout=end, **environ)
            os.close(end)
            process.port = int(re.search(r":([0-9]+)", screen.readline()).group(1))
            for _ in range(3):
                with contextlib.suppress(OSError):
                    post(process)
            lines = [screen.readline() for _ in range(3)]
        assert [("\x1b[33m503" in lines[0]), ("\x1b[31mreset" in lines[1]), ("\x1b[32mok" in lines[2])] == [coloured] * 3
        assert any("\x1b" in line for line in lines) is coloured

    def test_it_can_do_without_standard_output(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)  # as for a service of Windows
        reporter = mock_odoo.Reporter(as_json=False)
        reporter.say("anything")
        reporter.add(a_call(1), MockOdooServer())
        reporter.close()

    def test_it_can_do_without_a_descriptor_beneath_standard_output(self, monkeypatch):
        screen = io.StringIO()
        monkeypatch.setattr(sys, "stdout", screen)  # as in IDLE
        reporter = mock_odoo.Reporter(as_json=True)
        reporter.say("anything", listening="here")
        reporter.close()
        assert json.loads(screen.getvalue()) == {"listening": "here"}

    def test_main_runs_outside_the_main_thread_too(self, launch):
        code = ("import sys, threading, mock_odoo\n"
                "thread = threading.Thread(target=mock_odoo.main, args=(sys.argv[1:],))\n"
                "thread.start()\nthread.join()")
        process = launch(command=["-c", code])
        assert post(process).status == 200
        assert process.line().split()[1] == "ok"
        process.process.kill()
        assert process.process.communicate(timeout=PATIENCE) == ("", "")

    def test_a_slow_reader_gets_every_line(self, launch):
        process = launch("--json", "--max-calls", "1")
        for _ in range(400):
            assert post(process).status == 200
        reading = in_background(process.process.stdout.read)
        process.ask_to_end()
        lines = reading.result().splitlines()
        assert [json.loads(line).get("number") for line in lines] == [*range(1, 401), None]
        assert process.process.wait(PATIENCE) == 0

    @pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
    def test_another_signal_ends_nothing(self):
        seen = []
        before = signal.signal(signal.SIGUSR1, lambda *args: seen.append(args))
        try:
            with mock_odoo.StopSignal() as stop_signal:
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGTERM)
                stop_signal.wait()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert len(seen) == 1

    def test_a_start_that_fails_leaves_no_thread(self, odoo, new_threads, capsys):
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main(["--port", str(odoo.port)])
        assert (caught.value.code, new_threads()) == (2, [])
        assert "cannot listen" in capsys.readouterr().err

    def test_a_pipe_that_nobody_reads_holds_up_nothing(self, launch):
        process = launch("--json", "--max-calls", "1")
        for _ in range(3):
            assert post(process, dict(HEARTBEAT, padding="x" * 100000)).status == 200
        process.ask_to_end()
        assert process.process.wait(PATIENCE) == 0

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk to be had")
    def test_a_full_disk_for_standard_output_stops_nothing(self, monkeypatch):
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        with open("/dev/full", "wb") as full:
            process = subprocess.Popen([sys.executable, "-m", "mock_odoo", "--port", "99999"], stdout=full, stderr=subprocess.PIPE,
                                       cwd=HERE)
            assert process.communicate(timeout=PATIENCE)[1].startswith(b"mock_odoo: port must be")
            assert process.returncode == 2

    def test_more_signals_change_nothing(self, launch):
        how = ("CTRL_C_EVENT",) * 20 if os.name == "nt" else ("SIGINT", "SIGTERM") * 10
        for _ in range(5):
            process = launch()
            code, out, err = process.end(*how)
            assert (code, err) == (0, "")
            assert "0 heartbeats received" in out

    @pytest.mark.parametrize("raising", [
        "os.kill(0, signal.CTRL_C_EVENT)",
        "ctypes.CDLL('ucrtbase')['raise'](signal.SIGBREAK)"  # what Ctrl+Break comes down to
    ] if os.name == "nt" else [
        "os.kill(os.getpid(), signal.SIGTERM)", "os.kill(os.getpid(), signal.SIGINT)"],
        ids=ENDS)
    def test_a_signal_during_the_start_ends_it_without_a_word(self, raising):
        code = ("import ctypes, os, runpy, signal, socket, sys; real = socket.socketpair\n"
                "def early(*args):\n"
                f"    {raising}\n"
                "    while os.name == 'nt': pass  # where it comes in a thread of its own\n"
                "    return real(*args)\n"
                "socket.socketpair = early; sys.argv[1:] = ['--port', '0']\n"
                "runpy.run_module('mock_odoo', run_name='__main__', alter_sys=True)")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE,
                              check=False, cwd=HERE, **OWN_CONSOLE)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def test_a_storm_of_signals_is_no_complaint(self, capsys):
        with mock_odoo.StopSignal() as stop_signal:
            for _ in range(5000):
                raise_signal(signal.SIGINT)
            stop_signal.wait()
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("which", [
        name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)])
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["in the main thread", "in another"])
    def test_the_right_signals_are_restored(self, which, elsewhere):
        """Windows has them in another thread: there, its C library calls the handler."""
        number = getattr(signal, which)
        before = signal.getsignal(number)
        with mock_odoo.StopSignal() as stop_signal:
            assert signal.getsignal(number) != before
            if elsewhere:
                in_background(raise_signal, number).result()
            else:
                raise_signal(number)
            stop_signal.wait()
        assert signal.getsignal(number) == before

    def test_importing_it_imports_nothing_that_only_the_command_line_needs(self):
        code = ("import http.server, json, threading, sys; before = set(sys.modules); import mock_odoo; "
                "print(sorted(set(sys.modules) - before))")
        done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {HERE!r}); {code}"],
                              stdout=subprocess.PIPE, text=True, timeout=30, check=True)
        for module in ("argparse", "logging", "typing", "signal", "hashlib", "hmac", "contextlib", "dataclasses", "asyncio"):
            assert f"'{module}'" not in done.stdout


class TestJournal:
    def test_every_answered_heartbeat_survives_a_kill(self, launch, tmp_path):
        path = tmp_path / "journal.jsonl"
        process = launch("--journal", str(path), "--script", "503, close", "--quiet", "--max-calls", "1")
        for n in range(5):
            with contextlib.suppress(http.client.RemoteDisconnected):
                post(process, {"n": n})
        process.process.kill()
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(record["number"], record["reply"], record["payload"]["n"]) for record in records] == [
            (1, "503", 0), (2, "close", 1), (3, "ok", 2), (4, "ok", 3), (5, "ok", 4)]

    def test_a_line_torn_by_a_kill_does_not_swallow_the_next_run(self, launch, tmp_path):
        path = tmp_path / "journal.jsonl"
        path.write_text('{"number": 1}\n{"number": 2, "ha')
        process = launch("--journal", str(path))
        post(process)
        process.end()
        assert json.loads(path.read_text().splitlines()[-1])["payload"] == HEARTBEAT

    def test_it_is_appended_to(self, launch, tmp_path):
        path = tmp_path / "journal.jsonl"
        path.write_text("before\n")
        process = launch("--journal", str(path))
        post(process)
        process.end()
        assert len(path.read_text().splitlines()) == 2
        assert path.read_text().startswith("before\n{")

    @pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors to be set")
    def test_lack_of_descriptors_costs_no_line(self, tmp_path):
        import resource

        path = tmp_path / "journal"
        journal = mock_odoo.Journal(str(path))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                open(os.devnull)
            journal.add(a_call(1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            journal.close()
        assert json.loads(path.read_text())["number"] == 1

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk to be had")
    def test_a_full_disk_stops_neither_server_nor_replies(self, launch):
        process = launch("--journal", "/dev/full")
        assert [post(process).status for _ in range(3)] == [200] * 3
        code, out, err = process.end()
        assert (code, out.splitlines()[-1]) == (0, "3 heartbeats received, 0 of 3 calls refused")
        assert err == "mock_odoo: journal /dev/full: No space left on device; the server goes on\n"

    def test_a_torn_line_spoils_no_other(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "journal"
        journal = mock_odoo.Journal(str(path))
        file = journal.file

        class Full:
            """The same file on a disk that is nearly full."""

            def write(self, data):
                return file.write(data[:3])

        monkeypatch.setattr(journal, "file", Full())
        journal.add(a_call(1))
        monkeypatch.undo()
        journal.add(a_call(2))
        journal.close()
        torn, whole = path.read_text().splitlines()
        assert (torn, json.loads(whole)["number"]) == ('{"n', 2)
        assert "could not be written as a whole" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------
# The page, in a real browser
# ------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """Headless Chromium, steered over a pair of pipes by its DevTools protocol."""

    def __init__(self, folder):
        import fcntl  # which Windows does not have

        low = [*os.pipe(), *os.pipe()]
        theirs, self.commands, self.events, ours = (fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in low)
        for number in low:
            os.close(number)

        def place():  # from where they cannot be 3 or 4 already, which dup2() would leave to be closed
            os.dup2(theirs, 3)
            os.dup2(ours, 4)

        with open(os.path.join(folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={folder}",
                 "--remote-debugging-pipe", "about:blank"], stdout=log, stderr=log, close_fds=False, preexec_fn=place)  # noqa: PLW1509 - it only places two descriptors
        os.close(theirs)
        os.close(ours)
        self.buffer, self.last, self.session, self.target, self.complaints = b"", 0, None, None, []

    def ask(self, method, **params):
        self.last += 1
        message = dict({"id": self.last, "method": method, "params": params}, **({"sessionId": self.session} if self.session else {}))
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                assert select.select([self.events], [], [], 2 * PATIENCE)[0], "the browser says nothing"
                more = os.read(self.events, 1 << 20)
                if not more:
                    raise BrokenPipeError("the browser has gone")
                self.buffer += more
            text, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(text.decode())
            if (answer.get("sessionId") == self.session and answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
                    and b"status of 408" not in text):  # with which a long poll may end
                self.complaints.append(answer["params"])
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url, width=360, dark=False):
        self.session = None
        if self.target is not None:
            self.ask("Target.closeTarget", targetId=self.target)
        self.target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        self.complaints = []
        for domain in ("Page", "Runtime", "Log"):
            self.ask(domain + ".enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.ask("Page.navigate", url=url)
        self.until("document.querySelector('#state') !== null && document.readyState === 'complete'")

    def evaluate(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition):
        """Have the page itself look, in every frame, until the condition holds."""
        assert self.evaluate("new Promise(done => { const end = Date.now() + 15000; const look = () => { "
                             f"if ({condition}) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 10); }}; look(); }})"
                             ), condition + "\n" + str(self.evaluate("document.body.innerText"))

    def click(self, selector):
        x, y = self.evaluate(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView(); "
                             "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def close(self):
        os.close(self.commands)
        os.close(self.events)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if BROWSER is None or os.name == "nt":
        pytest.skip("no Chromium here")
    browser = Browser(str(tmp_path_factory.mktemp("browser")))
    try:
        browser.ask("Browser.getVersion")
    except BrokenPipeError:  # Ubuntu's package, for example, is only a hint at another
        browser.close()
        pytest.skip("the Chromium that is here does not run")
    yield browser
    browser.close()


class TestPage:
    @pytest.fixture
    def steered(self, fresh):
        return fresh(control=True)

    def test_it_stands_alone_under_a_strict_policy(self, steered):
        response = send(steered, "GET", "/_mock/")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        text = response.body.decode()
        assert not re.search(r"(src|href)=\"(?!data:,)|https?://|@import|innerHTML|document\.write|eval\(", text)

    def test_it_shows_state_and_timeline_and_follows_them(self, browser, steered):
        steered.play("503, reset, ok")
        browser.open(steered.url)
        browser.until("at('state').textContent === 'Odoo plays 503, reset, ok'")
        post(steered)
        with pytest.raises(ConnectionResetError):
            post(steered)
        post(steered)
        browser.until("at('calls').children.length === 3 && at('state').textContent === 'Odoo is up'")
        rows = browser.evaluate("[...at('calls').children].map(row => [row.className, row.innerText])")
        assert [kind for kind, _ in rows] == ["accepted", "faulted", "refused"]
        assert [text[0] for _, text in rows] == ["\u25cf", "\u2716", "\u25b2"]
        for word in ("ok", "KKT-001", "buffer 5/200 (2.5%)", "breaker CLOSED"):
            assert word in rows[0][1]
        assert browser.evaluate("at('counts').textContent") == f"1 of 3 heartbeats accepted at {steered.heartbeat_url}"
        assert browser.complaints == []

    def test_it_shows_delays_and_what_missed_the_endpoint(self, browser, steered):
        send(steered, "GET", "/<b>nowhere")
        steered.play("ok@20ms")
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').innerText.includes('ok@0.02s')")
        assert browser.evaluate("at('unmatched').textContent") == "Missed the endpoint: 404 GET /<b>nowhere"
        steered.reset()
        for _ in range(2):  # the page waits for the second
            post(steered)
        browser.until("at('unmatched').textContent === ''")

    @pytest.mark.parametrize(("button", "script", "loop"), [
        ("all well", "", False), ("failing 3 times", "503*3", False), ("failing for ever", "503*", False), ("flapping", "ok*2, 503*3", True),
        ("slow", "ok@6s*", False), ("stalling", "stall*", False), ("resetting", "reset*", False)])
    def test_a_click_plays_its_script(self, browser, steered, button, script, loop):
        steered.play("429*7")
        browser.open(steered.url)
        browser.until("at('state').className === 'scripted'")
        browser.evaluate(f"[...document.querySelectorAll('button')].find(b => b.textContent === {json.dumps(button)}).id = 'wanted'")
        browser.click("#wanted")
        browser.until("!at('state').textContent.includes('429')")
        assert (steered.script, steered.loop) == (script, loop)

    def test_forget_and_outage(self, browser, steered):
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 1")
        browser.click("#forget")
        browser.until("at('calls').children.length === 0")
        assert steered.get_call_count() == 0
        browser.click("#down")
        browser.until("at('state').className === 'gone'")
        assert refused(steered)
        steered.up()
        browser.until("at('state').textContent === 'Odoo is up'")

    def test_the_field_plays_a_script_by_keyboard_and_shows_its_error(self, browser, steered):
        browser.open(steered.url)
        browser.evaluate("at('script').focus()")
        browser.ask("Input.insertText", text="50x")
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
        browser.until("at('error').textContent.includes(\"step '50x': '50x' is no reply\")")
        browser.evaluate("at('script').value = '503*2, reset', at('loop').checked = true")
        browser.click("#play button")
        browser.until("at('state').textContent === 'Odoo plays 503*2, reset in a loop' && at('error').textContent === ''")
        assert (steered.script, steered.loop) == ("503*2, reset", True)

    def test_it_shows_when_the_fake_is_gone(self, browser, steered):
        browser.open(steered.url)
        browser.until("at('state').className === 'up'")
        steered.stop()
        browser.until("at('state').className === 'gone'")

    def test_odd_values_are_shown_and_stop_nothing(self, browser, steered):
        for odd in ({"toString": 1}, [], None, 1e308, True, "", {"__proto__": None}):
            post(steered, {"adapter_id": odd, "buffer_status": odd, "circuit_breaker": {"state": odd}})
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 8 && at('state').className === 'up'")
        assert browser.complaints == []

    def test_a_reset_elsewhere_clears_it_even_after_as_many_calls(self, browser, steered):
        for _ in range(3):
            post(steered, dict(HEARTBEAT, adapter_id="OLD"))
        browser.open(steered.url)
        browser.until("at('calls').children.length === 3")
        steered.reset()
        for _ in range(3):
            post(steered, dict(HEARTBEAT, adapter_id="NEW"))
        steered.play("503*7")
        post(steered, dict(HEARTBEAT, adapter_id="NEW"))
        browser.until("at('calls').children.length === 4 && !at('calls').innerText.includes('OLD')")

    def test_what_clients_send_is_text_never_markup(self, browser, steered):
        evil = "<img src=x onerror=document.title='owned'>"
        payload = {"adapter_id": evil, "buffer_status": {"current_queued": evil, "total_capacity": {"a": 1}}, "circuit_breaker": {"state": [evil]}}
        post(steered, payload)
        send(steered, "POST", PATH, json.dumps([evil]), JSON)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 2")
        assert evil in browser.evaluate("at('calls').innerText")
        assert browser.evaluate("document.querySelectorAll('#calls img').length") == 0
        assert browser.evaluate("document.title") == "Odoo (fake)"
        assert browser.complaints == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_it_fits_a_narrow_screen_and_the_night(self, browser, steered, dark):
        post(steered, dict(HEARTBEAT, adapter_id="K" * 200))
        steered.play("ok@6s*3, 503*2, reset, close, truncate, garbage, stall, drip, html, login")
        browser.open(steered.url, width=360, dark=dark)
        browser.until("at('calls').children.length === 1")
        assert browser.evaluate("document.documentElement.scrollWidth <= 360")
        assert browser.evaluate("getComputedStyle(document.body).color") == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")

    def test_every_control_is_reached_by_the_keyboard_and_has_a_name(self, browser, steered):
        browser.open(steered.url)
        names = browser.evaluate("[...document.querySelectorAll('button, input')].map(e => "
                                 "e.tabIndex >= 0 && (e.textContent || e.labels[0].textContent).trim())")
        assert len(names) == 12
        assert all(names)


# ------------------------------------------------------------------------------------------
# What users build with it
# ------------------------------------------------------------------------------------------


class MockOfdServer(MockOdooServer):
    """POST /api/v2/receipt on port 8080: the fake of the fiscal data operator."""

    endpoint = "/api/v2/receipt"
    default_port = 8080
    service = "OFD"

    def make_success(self, payload):
        return {"receipt_id": payload.get("receipt_id", "none")}


class TestAnotherService:
    @pytest.fixture
    def ofd(self, fresh):
        return fresh(cls=MockOfdServer)

    def test_it_has_its_own_port_endpoint_and_replies(self, ofd):
        assert MockOfdServer().port == 8080
        assert ofd.heartbeat_url == ofd.url + "/api/v2/receipt"
        response = post(ofd, {"receipt_id": "R-1"})
        assert (response.status, response.json()) == (200, {"receipt_id": "R-1"})
        assert send(ofd, "POST", PATH, BODY, JSON).status == 404

    def test_it_fails_in_its_own_name(self, ofd):
        ofd.set_failure_count(1)
        response = post(ofd)
        assert (response.status, response.json()) == (503, {"error": "OFD service unavailable"})
        assert repr(ofd).startswith("<MockOfdServer ")

    def test_faults_memory_and_outage_come_with_it(self, ofd):
        ofd.play("truncate, reset, ok@1ms")
        with pytest.raises(http.client.IncompleteRead):
            post(ofd)
        with pytest.raises(ConnectionResetError):
            post(ofd)
        assert post(ofd, {"receipt_id": "R-3"}).json() == {"receipt_id": "R-3"}
        assert ofd.wait_for_heartbeats(1) == [{"receipt_id": "R-3"}]
        ofd.down()
        assert refused(ofd)


class HeartbeatClient:
    """A consumer in the manner of the specification: 3 failures in a row make it OFFLINE, 2 successes ONLINE."""

    def __init__(self, url, timeout):
        self.url, self.timeout = url, timeout
        self.state, self.failures, self.successes = "ONLINE", 0, 0

    def beat(self):
        try:
            request = urllib.request.Request(self.url, BODY, JSON)
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                success = json.loads(response.read().decode())["status"] == "ok"
        except urllib.error.HTTPError as error:  # a response too, to be closed like any other
            error.close()
            success = False
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):  # any error is a failure
            success = False
        self.failures, self.successes = (0, self.successes + 1) if success else (self.failures + 1, 0)
        if self.failures >= 3:
            self.state = "OFFLINE"
        if self.successes >= 2:
            self.state = "ONLINE"
        return self.state

    def beats(self, n):
        return [self.beat() for _ in range(n)]


class TestHysteresis:
    """The whole thing, end to end."""

    OFF, ON = "OFFLINE", "ONLINE"

    @pytest.mark.parametrize("fault", [
        "503", "500", "429", "404", "reset", "close", "truncate", "garbage", "stall", "html", "login", "ok@60s", "302",
        Reply(200, {"status": "error"}), Reply(200, []), Reply(200, b"\xff")], ids=str)
    def test_three_of_any_fault_are_offline_and_two_successes_online(self, odoo, fault):
        client = HeartbeatClient(odoo.heartbeat_url, timeout=PATIENCE)
        script, states = ["ok", fault, fault, "ok", fault, fault, fault], []
        odoo.play(script)
        for n, step in enumerate(script):
            client.timeout = 0.02 if step in ("stall", "ok@60s") else PATIENCE
            states.append(client.beat())
            odoo.wait_for_calls(n + 1)  # what the client has given up may still be on its way
        assert states == [self.ON] * 6 + [self.OFF]
        client.timeout = PATIENCE
        assert client.beats(2) == [self.OFF, self.ON]
        assert [call.payload for call in odoo.get_calls()] == [HEARTBEAT] * 9

    def test_flapping_takes_two_successes_to_get_it_back_online(self, odoo):
        client = HeartbeatClient(odoo.heartbeat_url, timeout=PATIENCE)
        odoo.play("503*3, ok", loop=True)
        assert client.beats(12) == [self.ON] * 2 + [self.OFF] * 10
        odoo.play("ok*2, 503*3", loop=True)
        assert client.beats(10) == [self.ON] * 4 + [self.OFF] * 2 + [self.ON] * 3 + [self.OFF]

    def test_an_outage_takes_it_offline(self, odoo):
        client = HeartbeatClient(odoo.heartbeat_url, timeout=PATIENCE)
        odoo.down()
        assert client.beats(3) == [self.ON, self.ON, self.OFF]
        odoo.up()
        assert client.beats(2) == [self.OFF, self.ON]
        assert odoo.get_call_count() == 2

    def test_a_slow_success_is_a_success(self, odoo):
        client = HeartbeatClient(odoo.heartbeat_url, timeout=PATIENCE)
        odoo.play("503*3, ok@5ms, ok@5ms")
        assert client.beats(5)[-2:] == [self.OFF, self.ON]


class TestReadme:
    """Its Python runs, and prints what stands below it."""

    TEXT = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    EXAMPLES = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)

    @pytest.mark.parametrize(("code", "output"), [
        pytest.param(code, output, id=f"example {number}",
                     marks=needs_reset if "ConnectionResetError" in output else ())
        for number, (code, output) in enumerate(EXAMPLES, 1)])
    def test_example_does_what_it_says(self, code, output, capsys):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - it is our own
        assert capsys.readouterr().out == output

    def test_first_example_stands_at_the_top(self):
        assert self.TEXT.splitlines().index("with MockOdooServer(port=0) as odoo:") < 15

    @pytest.mark.parametrize("name", [name for name in dir(MockOdooServer) if not name.startswith("_")])
    def test_it_names_every_public_member(self, name):
        assert re.search(rf"[` (,]{name}\b", self.TEXT)


# ------------------------------------------------------------------------------------------
# Figures
# ------------------------------------------------------------------------------------------


class PlainHandler(BaseHTTPRequestHandler):
    """http.server as its documentation shows it."""

    def do_POST(self):
        json.loads(self.rfile.read(int(self.headers["Content-Length"])).decode())
        body = json.dumps(SUCCESS).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class PlainServer:
    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), PlainHandler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.mark.benchmark
class TestBenchmark:
    def test_start_and_stop(self):
        for name, make, times in (("MockOdooServer", lambda: MockOdooServer(port=0), 200), ("http.server", PlainServer, 5)):
            began = time.perf_counter()
            for _ in range(times):
                with make():
                    pass
            print(f"\n{name:15} start + stop {(time.perf_counter() - began) / times * 1000:8.2f} ms", end="")

    @pytest.mark.parametrize("kept", [True, False], ids=["kept-alive", "new"])
    def test_throughput(self, kept):
        request = request_bytes(close=not kept)
        for name, server in (("MockOdooServer", MockOdooServer(port=0)), ("http.server", PlainServer())):
            with server:
                count, began = 0, time.perf_counter()
                connection = connect(server)
                while time.perf_counter() - began < 1:
                    connection.sendall(request)
                    data = b""
                    while not data.endswith(b"}"):
                        data += connection.recv(65536)
                    count += 1
                    if not kept or b"HTTP/1.0" in data:
                        connection.close()
                        connection = connect(server)
                connection.close()
            print(f"\n{name:15} {'kept-alive' if kept else 'new connection':15} {count:6} heartbeats a second, one client", end="")
