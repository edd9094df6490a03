"""The tests of mock_odoo: first the specification's nineteen, then the rest, room by room.

Every client here comes from the standard library, and a fault counts only as what such a client sees of it.
Nothing sleeps and no port is fixed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import http.client
import io
import json
import logging
import os
import pathlib
import re
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


def send(server, method, path, body=None, headers=(), timeout=5.0):
    """One request on a connection of its own, by http.client; raises what that raises."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())


def post(server, payload=HEARTBEAT, timeout=5.0):
    """One heartbeat."""
    return send(server, "POST", server.endpoint, json.dumps(payload), JSON, timeout)


def connect(server, timeout=5.0):
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


def in_background(function, *args):
    """Call a function in a thread; `.result()` waits for what it returned, or for the exception it raised."""
    outcome = []

    def run():
        try:
            outcome.append(function(*args))
        except Exception as error:  # noqa: BLE001 - the result is an exception as often as not
            outcome.append(error)

    def result(timeout=5.0):
        thread.join(timeout)
        assert not thread.is_alive(), "the client still waits"
        return outcome[0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.result = result
    return thread


def refused(server):
    """Is a new connection refused?"""
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mock_odoo")]


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
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status == 200
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
# Room 2: replies and the script
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
        ("ok@-1s", "'ok@-1s'", "250ms or 2s"),
        ("ok@1h", "'ok@1h'", "'1h' is no delay"),
        ("ok@86401s", "'ok@86401s'", "at most 86400s"),
        ("ok*x", "'ok*x'", "'x' is no count"),
        ("ok*-1", "'ok*-1'", "'-1' is no count"),
        ("ok*2*3", "'ok*2*3'", "'2*3' is no count"),
        ("ok*2@3s", "'ok*2@3s'", "'2@3s' is no count"),
        ("ok*" + "9" * 5000, "'ok*999", "is no count"),
    ])
    def test_bad_step_is_quoted_with_what_may_stand_there(self, odoo, script, step, complaint):
        odoo.play("503*7")
        with pytest.raises(ValueError, match="^step ") as caught:
            odoo.play(script)
        assert f"step {step}" in str(caught.value)
        assert complaint in str(caught.value)
        assert len(str(caught.value)) < 400
        assert odoo.script == "503*7"

    @pytest.mark.parametrize("script", [None, 503, b"503", {"503": 3}, ["ok", 503]], ids=repr)
    def test_what_is_no_script_is_a_type_error(self, odoo, script):
        odoo.play("503*7")
        with pytest.raises(TypeError, match="a script must be text, a Reply or a list of these"):
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
        (-1, ValueError), (True, TypeError), ("3", TypeError), (2.0, TypeError), (None, TypeError)])
    def test_bad_failure_count_names_the_value_and_changes_nothing(self, odoo, value, error):
        odoo.set_failure_count(2)
        with pytest.raises(error, match="n must be a whole number, 0 or more, not " + re.escape(repr(value))):
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
        ((), {"delay": -1}, ValueError, "delay must be from 0 to 86400 seconds, not -1"),
        ((), {"delay": float("nan")}, ValueError, "not nan"),
        ((), {"delay": "2s"}, TypeError, "number of seconds, not '2s'"),
        ((), {"fault": "rst"}, ValueError, "fault must be one of reset, close, truncate, garbage, stall, drip, not 'rst'"),
    ])
    def test_what_cannot_be_sent_is_refused_at_once(self, args, kwargs, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            Reply(*args, **kwargs)

    def test_a_fault_may_spoil_any_reply(self, odoo):
        odoo.play(Reply(503, {"error": "x" * 100}, fault="truncate"))
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(odoo)
        assert caught.value.partial == json.dumps({"error": "x" * 100}).encode()[:56]
        assert not odoo.get_calls()[0].accepted

    def test_repr_shows_word_status_and_body(self):
        assert repr(Reply(429, {"a": 1}, delay=2)) == "<Reply 429@2s 429 b'{\"a\": 1}'>"
