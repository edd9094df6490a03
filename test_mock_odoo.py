"""The tests of mock_odoo: its second document.

The specification's nineteen tests stand first. The parts of the module follow, in its order.

Every client here comes from the standard library. A fault counts only as such a client sees it.
Nothing sleeps, and no port is fixed.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import gc
import http.client
import importlib.util
import inspect
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
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import pytest

import mock_odoo
from mock_odoo import Call, MockOdooServer, Reply

for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # urllib would ask a proxy for 127.0.0.1
os.environ["NO_PROXY"] = "*"  # the same for a proxy in the settings of Windows or macOS
for _name in ("PYTHONSAFEPATH", "PYTHONWARNDEFAULTENCODING"):
    os.environ.pop(_name, None)  # `python -m mock_odoo` could not be found, or would warn

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
# What the tests know of the inside. Everything else uses the public face.
# ------------------------------------------------------------------------------------------

SOCKET = "Socket"  # the class of all the server's sockets, so that a test can make them fail
START_THREAD = "start_new_thread"  # what starts all the server's threads
STOP_PATIENCE = "PATIENCE"  # the module's 5 s for stop(); tests of a hanging thread would wait them
REST = "REST"  # the module's 50 ms without descriptors, in which nobody is accepted
DRIP_INTERVAL = "DRIP_INTERVAL"  # the module's 0.1 s; a whole reply would take more than 20 s
THREADS = "mock_odoo"  # the names of all the server's threads begin with this
WORKER = "mock_odoo worker"  # the name of a thread that serves a connection
MAX_IDLE_WORKERS = 32  # so many threads may wait for the next connection


# ------------------------------------------------------------------------------------------
# Clients: the ways to post, to send raw bytes, and to read what comes
# ------------------------------------------------------------------------------------------

FAILED = (OSError, http.client.HTTPException)  # what http.client raises where no response comes


class Response:
    """What a client got: status, headers, and the body both raw and as JSON."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body.decode())


def send(
    server, method, path, body=None, headers=(), timeout=PATIENCE, *, host="127.0.0.1", context=None
):
    """Send one request by http.client, on a connection of its own. What that raises is raised."""
    if context is None:
        connection = http.client.HTTPConnection(host, server.port, timeout=timeout)
    else:
        connection = http.client.HTTPSConnection(
            host, server.port, timeout=timeout, context=context
        )
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())


def post(server, payload=HEARTBEAT, timeout=PATIENCE, context=None):
    """Send one heartbeat."""
    body = json.dumps(payload)
    return send(server, "POST", server.endpoint, body, JSON, timeout, context=context)


def try_post(server, payload=HEARTBEAT):
    """Send one heartbeat, whatever becomes of it."""
    with contextlib.suppress(*FAILED):
        post(server, payload)


def post_until(ended, server):
    """Send heartbeat after heartbeat, whatever becomes of them."""
    while not ended.is_set():
        try_post(server)


def control(server, method, path, body=None, **headers):
    """Send one request to the control API, and return status and JSON."""
    given = {} if method == "GET" else dict(JSON)
    given.update((name.replace("_", "-"), value) for name, value in headers.items())
    content = None if body is None else json.dumps(body)
    response = send(server, method, "/_mock/" + path, content, given)
    return response.status, response.json()


def open_url(url, data=None, **kwargs):
    """Get a URL by urllib, or post data there."""
    request = urllib.request.Request(url, data, {} if data is None else JSON)
    return urllib.request.urlopen(request, timeout=PATIENCE, **kwargs)


# -- Raw bytes


def connect(server, data=b"", timeout=PATIENCE):
    """Open a connection, and send the data on it."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout)
    try:
        if data:  # to send nothing might raise for a connection that is closed already
            connection.sendall(data)
    except OSError:
        connection.close()
        raise
    return connection


def pieces(connection):
    """What comes, piece by piece, until the other side closes."""
    return iter(lambda: connection.recv(65536), b"")


def read_all(connection):
    """What comes until the other side closes, as it should."""
    return b"".join(pieces(connection))


def drain(connection):
    """What comes until the connection ends, and how it ends: "FIN" or "RST"."""
    data = b""
    try:
        for piece in pieces(connection):
            data += piece
    except ConnectionResetError:
        return data, "RST"
    return data, "FIN"


def exchange(server, data):
    """Send bytes, and read until the server closes. A connection that is kept open fails here."""
    with connect(server, data) as connection:
        return read_all(connection)


def ask(server, data):
    """Send bytes, and return the one response that comes before the server closes."""
    return only(exchange(server, data))


def beat(client, data=None):
    """Send a heartbeat by a bare socket, and return the first piece of the answer."""
    client.sendall(KEPT if data is None else data)
    return client.recv(65536)


def bare_client(server):
    """A connection by the class beneath socket.socket, whose methods nobody patches."""
    client = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    try:
        client.connect(("127.0.0.1", server.port))
    except OSError:
        client.close()
        raise
    return client


def assert_silent(connection):
    """Nothing comes, not even the end."""
    before = connection.gettimeout()
    connection.settimeout(0.05)
    with pytest.raises(socket.timeout):
        connection.recv(1)
    connection.settimeout(before)


def request_bytes(body=BODY, *lines, method="POST", path=PATH, version="HTTP/1.1", close=True):
    """A heartbeat as bytes, with more header lines if given."""
    head = [f"{method} {path} {version}", "Host: odoo", "Content-Type: application/json", *lines]
    if not any(re.match("(?i)content-length|transfer-encoding", line) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    if close:
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


KEPT = request_bytes(close=False)  # a heartbeat on a connection that is kept


def chunked_bytes(chunks, close=True):
    """A request with a chunked body, given as it goes over the wire."""
    return request_bytes(chunks, "Transfer-Encoding: chunked", close=close)


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


# ------------------------------------------------------------------------------------------
# Helpers: what many tests need, and what this system can do
# ------------------------------------------------------------------------------------------


def named(cases):
    """The cases of a table, each with its name as the test's id."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name)
        for name, case in cases.items()
    ]


stop_and_down = pytest.mark.parametrize("end", named({
    "stop": MockOdooServer.stop,
    "down": MockOdooServer.down,
}))


def in_background(function, *args):
    """Call a function in a thread. `.result()` waits, and returns its result or its exception."""
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


new_lock, start_thread = _thread.allocate_lock, _thread.start_new_thread


def in_time(function, seconds=PATIENCE):
    """Call a function, with nothing that tests patch; its result, or what it raises."""
    outcome, ended = [], new_lock()
    ended.acquire()

    def run():
        try:
            outcome.append(function())
        except Exception as error:  # noqa: BLE001 - the result is an exception as often as not
            outcome.append(error)
        finally:
            ended.release()

    start_thread(run, ())
    assert ended.acquire(timeout=seconds), "it hangs"
    return outcome[0]


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


@pytest.fixture
def new_threads():
    """The server's threads that were not there when the test began."""
    before = threading.enumerate()

    def new_threads(name=THREADS):
        return [
            thread
            for thread in threading.enumerate()
            if thread.name.startswith(name) and thread not in before
        ]

    return new_threads


@pytest.fixture
def fresh():
    """Make servers with arguments of the test's own; they are started, and stopped after it."""
    with contextlib.ExitStack() as stack:

        def fresh(cls=MockOdooServer, **kwargs):
            return stack.enter_context(cls(**{"port": 0, **kwargs}))

        yield fresh


@pytest.fixture
def often_switching():
    """Threads take turns as often as they can, which finds what is not safe between them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def steered(fresh):
    """A server with the control API."""
    return fresh(control=True)


def name_and_module(path):
    """Import what a dotted path leads to; the object, and the name that it should have there."""
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(module), name
    except ImportError:  # it is a class
        owner, _, cls = module.rpartition(".")
        return getattr(importlib.import_module(owner), cls), name


def import_again(name):
    """Import the module once more, under another name."""
    spec = importlib.util.spec_from_file_location(name, mock_odoo.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variant(**members):
    """A subclass of the server, as a user would write it."""
    return type("Variant", (MockOdooServer,), members)


# -- Sockets and threads that fail on purpose


def close_by_reset(connection):
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # as the system has the struct
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


@contextlib.contextmanager
def bare_pair():
    """Both ends of a connection, with nothing of ours between them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), PATIENCE) as client:
            yield client, listener.accept()[0]


@contextlib.contextmanager
def failing_sockets(method, port, error, times=float("inf")):
    """A block in which a method of the sockets at a port fails, so many times."""
    real, failures = getattr(socket.SocketType, method), []

    def fail(self, *args):
        address = args[0] if method == "bind" else self.getsockname()
        if address[1] == port and len(failures) < times:
            failures.append(error)
            raise error
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSocket, method, fail, raising=False)
        yield failures


class FakeSocket(socket.SocketType):
    """The class of the server's sockets in all tests. It does nothing else, until one patches it."""


setattr(mock_odoo, SOCKET, FakeSocket)


@contextlib.contextmanager
def out_of_threads():
    """A block in which no thread can be started."""

    def start(*args):
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock_odoo, START_THREAD, start)
        yield


EXCLUSIVE = -5  # SO_EXCLUSIVEADDRUSE of Windows; no other system has an option of that number


@pytest.fixture
def socket_options(monkeypatch):
    """The options that are set on sockets from now on, as (level, option, value)."""
    seen, real = [], socket.SocketType.setsockopt

    def setsockopt(self, level, option, value):
        seen.append((level, option, value))
        if option != EXCLUSIVE:
            real(self, level, option, value)

    monkeypatch.setattr(FakeSocket, "setsockopt", setsockopt, raising=False)
    return seen


# -- What this system can do


def can_reset():
    """Does this system close with a RST when told not to linger? Asked with bare sockets."""
    with bare_pair() as (client, accepted):
        close_by_reset(accepted)
        return drain(client)[1] == "RST"


def has_ipv6():
    """Has this machine an IPv6 address, at least for itself?"""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def own_address():
    """An IPv4 address of this machine that is not loopback, or None. Nothing is sent for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:  # there is no network
            return None
        address = probe.getsockname()[0]
    return None if address.startswith(("127.", "0.")) else address


@pytest.fixture(scope="session")
def wakes_senders():
    """Skip where closing a socket does not wake who sends. Asked with bare sockets."""
    with bare_pair() as (_, accepted):
        sending = in_background(accepted.sendall, b"x" * 50000000)
        until(lambda: not select.select([], [accepted], [], 0)[1])  # there is no more room
        accepted.shutdown(socket.SHUT_RDWR)
        if os.name == "nt":  # where shutdown() does not even wake a reader
            socket.close(accepted.detach())
        sending.join(5)
        woke = not sending.is_alive()
    sending.result()  # its client has closed now
    accepted.close()
    if not woke:
        pytest.skip("neither shutdown() nor close() wakes a thread in send() on this system")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def server_threads_in_memory():
    """How many threads of servers are still known to anybody, ended or not."""
    gc.collect()
    return sum(type(each).__name__ == "Task" for each in gc.get_objects())


def needs_descriptors(n):
    """Skip a test where a process may not open as many files."""
    if hasattr(os, "sysconf") and 0 <= os.sysconf("SC_OPEN_MAX") < n:
        pytest.skip(f"needs {n} descriptors")


def reset_param(*values):
    """A case that needs a real RST."""
    return pytest.param(*values, marks=needs_reset)


needs_reset = pytest.mark.skipif(
    not can_reset(), reason="SO_LINGER 0 sends a FIN, and no RST, on this system"
)
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="no /proc/self/fd to count descriptors in"
)
full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk to be had")
needs_terminal = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminal to be had")
needs_pipe = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
needs_limits = pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")


# -- Processes

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


def run_python(*args, **kwargs):
    """Run Python to its end, which must come soon; outputs as text."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE, **kwargs}
    return subprocess.run([sys.executable, *args], text=True, check=False, cwd=HERE, **given)


def run_main(*args):
    """Run the command line where it must end at once; exit code and both outputs."""
    done = run_python("-m", "mock_odoo", *args)
    return done.returncode, done.stdout, done.stderr


def press(process, *keys):
    """Press keys in the console of a process; 0 stands for a console that nobody else has."""
    numbers = [str(int(getattr(signal, key))) for key in keys]
    run_python("-c", PRESS, str(process), *numbers, **OWN_CONSOLE).check_returncode()


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

    def __init__(
        self, *args, command=("-m", "mock_odoo"), stdout=subprocess.PIPE, **environ
    ):
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", "0", *args],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, **environ),
            cwd=HERE,
            **OWN_CONSOLE,
        )
        self.endpoint = PATH
        self.first, self.port = "", None
        if stdout == subprocess.PIPE:
            self.find_port(self.line())

    def bytes_line(self):
        return in_background(self.process.stdout.buffer.readline).result()

    def find_port(self, line):
        self.first = line
        self.port = int(re.search(r":([0-9]+)", line).group(1))

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

    def wait(self):
        """Wait until it ends; exit code, and what else it printed."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def end(self, *how):
        """Stop it; exit code, and what else it printed."""
        self.ask_to_end(*how)
        return self.wait()


@pytest.fixture
def launch():
    """Run `python -m mock_odoo` until the test ends."""
    processes = []

    def launch(*args, **kwargs):
        processes.append(Process(*args, **kwargs))
        return processes[-1]

    yield launch
    for process in processes:
        process.process.kill()
        process.process.communicate()


#: Runs the command line within a program that has its own standard output, and prints the port.
OWN_OUTPUT = """
import io, os, sys, mock_odoo

def start(self, real=mock_odoo.MockOdooServer.start):
    real(self)
    os.write(1, f":{self.port}\\n".encode())

mock_odoo.MockOdooServer.start = start
sys.stdout = screen = %s
mock_odoo.main(sys.argv[1:])
if screen is not None:
    os.write(1, screen.getvalue().encode())
"""


# ------------------------------------------------------------------------------------------
# The specification: its nineteen tests, and its three integration scenarios
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
        for _ in range(5):
            response = post(odoo)
            assert (response.status, response.json()) == (503, FAILURE)

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
        names = [f"KKT-{n:03}" for n in range(10)]
        threads = [in_background(post, odoo, {"adapter_id": name}) for name in names]
        assert [thread.result().status for thread in threads] == [200] * 10
        assert odoo.get_call_count() == 10
        received = odoo.get_received_heartbeats()
        assert sorted(heartbeat["adapter_id"] for heartbeat in received) == names


class TestEdgeCases:
    def test_empty_heartbeat_payload(self, odoo):
        assert post(odoo, {}).status == 200
        assert odoo.get_received_heartbeats() == [{}]

    def test_large_heartbeat_payload(self, odoo):
        payload = dict(HEARTBEAT, data="x" * 10240)
        assert post(odoo, payload).status == 200
        assert odoo.get_received_heartbeats() == [payload]


class TestSpecifiedScenarios:
    """The client is the specification's: True for success."""

    @staticmethod
    def send_heartbeat(server):
        try:
            with open_url(server.heartbeat_url, BODY) as response:
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
# Ground floor: what is read as JSON, and what is not
# ------------------------------------------------------------------------------------------


class TestJson:
    @pytest.mark.parametrize(("body", "complaint"), named({
        "nothing": (b"", "the body is empty"),
        "blanks": (b" \r\n", "the body is empty"),
        "half": (b"{", "the body is not JSON"),
        "two objects": (b"{} {}", "Extra data"),
        "single quotes": (b"{'a': 1}", "the body is not JSON"),
        "not UTF-8": (b"\xff{}", "the body is not UTF-8"),
        "UTF-16": (json.dumps(HEARTBEAT).encode("utf-16"), "the body is not UTF-8"),
        "UTF-32": (json.dumps(HEARTBEAT).encode("utf-32-le"), "the body is not JSON"),
        "byte order mark": (b"\xef\xbb\xbf{}", "the body begins with a byte order mark"),
        "NaN": (b'{"a": NaN}', "NaN is not valid JSON"),
        "-Infinity": (b'{"a": -Infinity}', "-Infinity is not valid JSON"),
        "1e999": (b'{"a": 1e999}', "1e999 is too large a number"),
        "4301 digits": (b'{"a": ' + b"9" * 4301 + b"}", "a number has more than 4300 digits"),
        "200000 brackets": (b"[" * 200000, "nested deeper than 200 levels"),
        "100000 objects": (
            b'{"a":' * 100000 + b"1" + b"}" * 100000, "nested deeper than 200 levels"),
        "list": (b"[1, 2]", "must be a JSON object, not [1, 2]"),
        "null": (b"null", "must be a JSON object, not None"),
        "text": (b'"text"', "must be a JSON object, not 'text'"),
    }))
    def test_a_body_that_is_no_json_object_is_400_and_says_why(self, odoo, body, complaint):
        response = send(odoo, "POST", PATH, body, JSON)
        assert response.status == 400
        assert complaint in response.json()["error"]
        assert (odoo.get_call_count(), odoo.get_received_heartbeats()) == (1, [])


class TestNesting:
    @pytest.mark.parametrize("levels", [100, 200])
    def test_an_accepted_body_can_be_read_and_written_by_every_python(self, odoo, levels):
        body = b'{"a":' * levels + b'"[{[{"' + b"}" * levels
        assert send(odoo, "POST", PATH, body, JSON).status == 200
        assert json.dumps(odoo.get_received_heartbeats()[0]).count("{") == levels + 2

    def test_brackets_in_text_do_not_count_as_levels(self, odoo):
        assert post(odoo, {"a": "[" * 1000 + '\\"{', "b": ["{" * 1000]}).status == 200

    def test_a_long_list_is_not_deep(self, odoo):
        assert post(odoo, {"a": [[]] * 1000}).status == 200

    def test_a_text_without_end_takes_no_time(self, odoo):
        assert send(odoo, "POST", PATH, b"[" * 201 + b'"' + b'\\"' * 500000, JSON).status == 400


# ------------------------------------------------------------------------------------------
# Replies: what a heartbeat can be answered, and the script that puts the answers in order
# ------------------------------------------------------------------------------------------


class TestScript:
    @pytest.mark.parametrize(("script", "statuses"), named({
        "nothing": ("", [200, 200]),
        "one": ("503", [503, 200]),
        "a count": ("503*2", [503, 503, 200]),
        "for ever": ("503*", [503] * 5),
        "several": ("500, ok*2, 429", [500, 200, 200, 429, 200]),
        "blanks": (" 503 * 2 ,\tok@0s ,500 ", [503, 503, 200, 500, 200]),
        "any status": ("201, 204, 302, 404, 599", [201, 204, 302, 404, 599, 200]),
        "a Reply": (Reply(418), [418, 200]),
        "a list": ([Reply(429), "503*2", ["ok", Reply(500)]], [429, 503, 503, 200, 500, 200]),
        "an empty list": ([], [200]),
    }))
    def test_replies_come_in_the_order_of_the_script(self, odoo, script, statuses):
        odoo.play(script)
        assert [post(odoo).status for _ in statuses] == statuses

    def test_a_loop_starts_again_at_the_end(self, odoo):
        odoo.play("ok*2, 503*3", loop=True)
        assert [post(odoo).status for _ in range(12)] == ([200] * 2 + [503] * 3) * 2 + [200] * 2

    def test_a_loop_of_one_step_goes_on(self, odoo):
        odoo.play("503", loop=True)
        assert [post(odoo).status for _ in range(3)] == [503] * 3

    def test_the_rest_of_a_loop_is_the_same_loop_further_on(self, odoo):
        odoo.play("ok*2, 503*2", loop=True)
        post(odoo)
        assert (odoo.script, odoo.loop) == ("ok, 503*2, ok", True)
        odoo.play(odoo.script, loop=True)
        assert [post(odoo).status for _ in range(6)] == [200, 503, 503, 200, 200, 503]

    def test_the_rest_of_a_loop_does_not_grow(self, odoo):
        odoo.play("ok*2, 503*", loop=True)
        for _ in range(5):
            post(odoo)
        assert odoo.script == "503*, ok*2"

    @pytest.mark.parametrize("script", named({
        "nothing": "",
        "one": "503",
        "a count": "503*2",
        "for ever": "503*",
        "every word": "ok, html, login, expired, reset, close, truncate, garbage, stall, drip",
        "delays and counts": "ok@6s, 503@250ms*3, reset@1500ms*",
        "a billion": "599*1000000000",
        "half a millisecond": "ok@1.5ms",
        "a day": "stall@86400s",
    }))
    def test_a_script_reads_back_as_it_was_written(self, odoo, script):
        odoo.play(script)
        assert odoo.script == script

    @pytest.mark.parametrize(("script", "normal"), named({
        "once": ("503*1", "503"),
        "200": ("200", "ok"),
        "a part of a second": ("ok@0.25s", "ok@250ms"),
        "whole seconds": ("ok@2000ms", "ok@2s"),
        "blanks": (" ok@ 2 s * 3 ", "ok@2s*3"),
        "a reply with a body": ([Reply(429, {"a": 1}, delay=2), "ok"], "429@2s, ok"),
        "a fault": (Reply(fault="drip"), "drip"),
    }))
    def test_a_script_reads_back_in_its_shortest_form(self, odoo, script, normal):
        odoo.play(script)
        assert odoo.script == normal
        odoo.play(odoo.script)
        assert odoo.script == normal

    def test_the_rest_shrinks_with_every_call(self, odoo):
        odoo.set_failure_count(3)
        left = [odoo.script]
        for _ in range(3):
            post(odoo)
            left.append(odoo.script)
        assert left == ["503*3", "503*2", "503", ""]

    def test_repr_tells_the_state(self, odoo):
        odoo.play("503*2, ok", loop=True)
        post(odoo)
        script = "script '503, ok, 503' in a loop"
        assert repr(odoo) == f"<MockOdooServer {odoo.url} running, {script}, 1 calls>"

    @pytest.mark.parametrize(("script", "step", "complaint"), named({
        "nothing between commas": ("503,,ok", "''", "is no reply"),
        "nothing at the end": ("ok,", "''", "is no reply"),
        "600": ("503, 600", "'600'", "200 to 599"),
        "199": ("199", "'199'", "is no reply"),
        "letter O": (
            "5O3",
            "'5O3'",
            "ok, html, login, expired, reset, close, truncate, garbage, stall, drip",
        ),
        "Arabic digits": ("٥٠٣", "'٥٠٣'", "is no reply"),
        "unknown word": ("rst*2", "'rst*2'", "'rst' is no reply"),
        "delay without unit": ("ok@6", "'ok@6'", "'6' is no delay"),
        "empty delay": ("ok@", "'ok@'", "'' is no delay"),
        "negative delay": ("ok@-1s", "'ok@-1s'", "@2s or @250ms"),
        "hours": ("ok@1h", "'ok@1h'", "'1h' is no delay"),
        "more than a day": ("ok@86401s", "'ok@86401s'", "up to @86400s"),
        "count of x": ("ok*x", "'ok*x'", "'x' is no count"),
        "negative count": ("ok*-1", "'ok*-1'", "'-1' is no count"),
        "count of none": ("503*0", "'503*0'", "it can never come: its count is 0"),
        "behind one for ever": ("stall*, 500", "'500'", "'stall*' before it lasts for ever"),
        "two counts": ("ok*2*3", "'ok*2*3'", "'2*3' is no count"),
        "delay behind count": ("ok*2@3s", "'ok*2@3s'", "'2@3s' is no count"),
        "count of 5000 digits": ("ok*" + "9" * 5000, "'ok*999", "is no count"),
    }))
    def test_a_bad_step_is_quoted_with_what_may_stand_there(self, odoo, script, step, complaint):
        odoo.play("503*7")
        with pytest.raises(ValueError, match="^step ") as caught:
            odoo.play(script)
        assert f"step {step}" in str(caught.value)
        assert complaint in str(caught.value)
        assert len(str(caught.value)) < 400
        assert odoo.script == "503*7"

    @pytest.mark.parametrize("script", [None, 503, b"503", ["ok", 503]], ids=repr)
    def test_anything_else_as_a_script_is_a_type_error(self, odoo, script):
        odoo.play("503*7")
        allowed = "text, a Reply, the fields of one, or a list of these"
        with pytest.raises(TypeError, match=f"a script must be {allowed}"):
            odoo.play(script)
        assert odoo.script == "503*7"

    def test_loop_must_be_true_or_false(self, odoo):
        with pytest.raises(TypeError, match="loop must be True or False, not 'yes'"):
            odoo.play("ok", loop="yes")

    def test_a_billion_steps_cost_nothing(self, odoo):
        odoo.play("503*1000000000, ok")
        assert post(odoo).status == 503
        assert odoo.script == "503*999999999, ok"


    @pytest.mark.parametrize(("word", "hint"), named({
        "an outage": ("down", "call down()"),
        "its end": ("up", "call up() to end it"),
        "a time-out": ("timeout*", "write stall"),
        "a slow reply": ("slow", "write ok@6s"),
        "capitals": ("OK", "did you mean 'ok'?"),
        "a slip": ("resett", "did you mean 'reset'?"),
    }))
    def test_a_word_that_people_try_is_told_what_it_may_mean(self, odoo, word, hint):
        with pytest.raises(ValueError, match=re.escape(hint)):
            odoo.play(word)

    def test_the_docstring_of_play_tells_every_reply(self):
        faults = mock_odoo.FAULTS
        for word in ("ok", "503 ...", *faults, "html", "login", "expired"):
            assert f"`{word}`" in MockOdooServer.play.__doc__


class TestSetters:
    def test_the_failure_count_has_its_specified_name(self, odoo):
        odoo.set_failure_count(count=1)
        assert [post(odoo).status for _ in range(2)] == [503, 200]

    @pytest.mark.parametrize(("value", "error"), named({
        "negative": (-1, ValueError),
        "too many": (10**18, ValueError),
        "a flag": (True, TypeError),
        "text": ("3", TypeError),
        "a float": (2.0, TypeError),
        "None": (None, TypeError),
    }))
    def test_a_bad_failure_count_is_named_and_changes_nothing(self, odoo, value, error):
        odoo.set_failure_count(2)
        complaint = f"count must be a whole number from 0 to 999999999999999999, not {value!r}"
        with pytest.raises(error, match=re.escape(complaint)):
            odoo.set_failure_count(value)
        assert odoo.script == "503*2"

    def test_a_failure_count_of_0_means_success(self, odoo):
        odoo.set_permanent_failure(True)
        odoo.set_failure_count(0)
        assert post(odoo).status == 200

    @pytest.mark.parametrize("value", [1, None, "no"])
    def test_permanent_failure_must_be_true_or_false(self, odoo, value):
        with pytest.raises(TypeError, match="enabled must be True or False"):
            odoo.set_permanent_failure(value)
        assert odoo.script == ""

    @pytest.mark.parametrize("script", ["503*2", "reset*", "ok, 503*", "500*"])
    def test_the_end_of_a_permanent_failure_leaves_other_scripts_alone(self, odoo, script):
        odoo.play(script)
        odoo.set_permanent_failure(False)
        assert odoo.script == script

    def test_permanent_failure_is_on_by_default(self, odoo):
        odoo.set_permanent_failure()
        assert odoo.script == "503*"

    @pytest.mark.parametrize("end", named({
        "reset": MockOdooServer.reset,
        "set_success": MockOdooServer.set_success,
        "set_permanent_failure": lambda odoo: odoo.set_permanent_failure(False),
    }))
    def test_an_ended_script_loops_no_more(self, odoo, end):
        odoo.play("503*", loop=True)
        end(odoo)
        assert (odoo.script, odoo.loop) == ("", False)

    def test_the_last_call_wins(self, odoo):
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

    @pytest.mark.parametrize(("body", "sent", "kind"), named({
        "text": ("grüß", "grüß".encode(), "text/plain; charset=utf-8"),
        "bytes": (b"\x00\xff", b"\x00\xff", "text/plain; charset=utf-8"),
        "a list": ([1, None], b"[1, null]", "application/json"),
        "empty text": ("", b"", "text/plain; charset=utf-8"),
    }))
    def test_text_and_bytes_are_sent_as_they_are_and_the_rest_as_json(
        self, odoo, body, sent, kind
    ):
        odoo.play(Reply(500, body))
        response = post(odoo)
        assert (response.body, response.headers["Content-Type"]) == (sent, kind)

    def test_headers_replace_the_usual_ones_whatever_their_case(self, odoo):
        odoo.play(Reply(200, "<html>", {"content-type": "text/html", "SERVER": "nginx"}))
        headers = post(odoo).headers
        assert headers.get_all("Content-Type") == ["text/html"]
        assert headers.get_all("Server") == ["nginx"]

    def test_a_connection_header_of_a_reply_is_kept_as_promised(self, odoo):
        odoo.play(Reply(503, headers={"connection": "close"}))
        response = ask(odoo, KEPT)
        assert response.headers.get_all("Connection") == ["close"]

    @pytest.mark.parametrize(("status", "accepted"), [
        (200, True),
        (201, True),
        (204, True),
        (299, True),
        (300, False),
        (302, False),
        (404, False),
    ])
    def test_2xx_accepts_the_heartbeat(self, odoo, status, accepted):
        odoo.play(str(status))
        assert post(odoo).status == status
        assert odoo.get_calls()[0].accepted is accepted
        assert odoo.get_received_heartbeats() == ([HEARTBEAT] if accepted else [])

    @pytest.mark.parametrize(("status", "body"), named({
        "200": (200, SUCCESS),
        "201": (201, SUCCESS),
        "300": (300, None),
        "302": (302, None),
        "399": (399, None),
        "400": (400, {"error": "Bad Request"}),
        "500": (500, {"error": "Internal Server Error"}),
        "503": (503, FAILURE),
        "429": (429, {"error": "Too Many Requests"}),
        "599": (599, {"error": "Status 599"}),
    }))
    def test_a_bare_status_says_what_the_service_says(self, odoo, status, body):
        odoo.play(str(status))
        response = post(odoo)
        assert response.body == (b"" if body is None else json.dumps(body).encode())

    @pytest.mark.parametrize(("status", "title"), [
        (502, "502 Bad Gateway"), (504, "504 Gateway Time-out")
    ])
    def test_a_status_of_the_proxy_is_a_page_of_nginx(self, odoo, status, title):
        odoo.play(str(status))
        response = post(odoo)
        kind, server = response.headers["Content-Type"], response.headers["Server"]
        assert (response.status, kind, server) == (status, "text/html", "nginx")
        assert f"<center><h1>{title}</h1></center>\r\n" in response.body.decode()

    def test_a_status_of_the_proxy_may_have_a_body_of_its_own(self, odoo):
        odoo.play(Reply(502, {"error": "from Odoo"}, {"Server": "werkzeug"}))
        response = post(odoo)
        assert response.json() == {"error": "from Odoo"}
        assert response.headers["Server"] == "werkzeug"

    @pytest.mark.parametrize("values", [["a=1", "b=2"], ("a=1", "b=2")], ids=["list", "tuple"])
    def test_a_list_of_values_makes_a_line_of_each(self, odoo, values):
        odoo.play(Reply(200, {}, {"Set-Cookie": values, "X-Shop": "7"}))
        headers = post(odoo).headers
        assert headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert headers.get_all("X-Shop") == ["7"]

    def test_each_value_of_a_list_must_be_one_line(self):
        with pytest.raises(ValueError, match="header X must be one line"):
            Reply(200, {}, {"X": ["fine", "not\r\nfine"]})

    def test_a_list_of_connection_headers_is_kept_as_promised(self, odoo):
        odoo.play(Reply(503, headers={"Connection": ["TE", "close"]}))
        assert ask(odoo, KEPT).headers.get_all("Connection") == ["TE", "close"]

    def test_a_reply_of_another_copy_of_the_module_is_told_apart(self, odoo):
        other = import_again("tests.mock_odoo")
        with pytest.raises(TypeError, match=r"another copy of the module: tests\.mock_odoo, not"):
            odoo.play(["503", other.Reply(429)])

    @pytest.mark.parametrize("status", [204, 304])
    def test_a_status_without_body_leaves_the_connection_in_step(self, odoo, status):
        odoo.play(Reply(status, {"never": "sent"}))
        first, rest = split(exchange(odoo, KEPT + request_bytes()))
        assert first.status == status
        assert "Content-Length" not in first.headers
        assert only(rest).status == 200

    @pytest.mark.parametrize(("fields", "error", "complaint"), named({
        "status 199": (
            {"status": 199}, ValueError, "status must be a whole number from 200 to 599, not 199"),
        "status 600": ({"status": 600}, ValueError, "not 600"),
        "status as text": ({"status": "503"}, TypeError, "not '503'"),
        "status as flag": ({"status": True}, TypeError, "not True"),
        "a set": ({"body": {1, 2}}, TypeError, "not JSON serializable"),
        "NaN": ({"body": [float("nan")]}, ValueError, "JSON compliant"),
        "line break": (
            {"headers": {"X": "a\r\nSet-Cookie: b"}}, ValueError, "header X must be one line"),
        "line feed": ({"headers": {"X": "a\nb"}}, ValueError, "one line"),
        "not Latin-1": ({"headers": {"X": "€"}}, ValueError, "Latin-1"),
        "line break in name": ({"headers": {"X\r\nY": "a"}}, ValueError, "is no header name"),
        "empty name": ({"headers": {"": "a"}}, ValueError, "is no header name"),
        "number in header": ({"headers": {"X": 5}}, TypeError, "text to text"),
        "Transfer-Encoding": (
            {"headers": {"Transfer-encoding": "chunked"}},
            ValueError,
            "Transfer-Encoding cannot be set",
        ),
        "headers as text": ({"headers": "X: 5"}, TypeError, "text to text, not 'X: 5'"),
        "negative delay": (
            {"delay": -1}, ValueError, "delay must be from 0 to 86400 seconds, not -1"),
        "NaN as delay": ({"delay": float("nan")}, ValueError, "not nan"),
        "delay as text": ({"delay": "2s"}, TypeError, "number of seconds, not '2s'"),
        "unknown fault": (
            {"fault": "rst"},
            ValueError,
            f"fault must be one of {', '.join(mock_odoo.FAULTS)}, not 'rst'",
        ),
    }))
    def test_a_reply_that_cannot_be_sent_is_refused_at_once(self, fields, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            Reply(**fields)

    def test_status_and_body_may_come_without_their_names(self):
        assert repr(Reply(503, "x")) == "<Reply 503 503 b'x'>"
        with pytest.raises(ValueError, match="not 199"):
            Reply(199)

    def test_a_dict_of_its_fields_serves_as_well(self, odoo):
        odoo.play([{"status": 429, "headers": {"Retry-After": "5"}}, {"fault": "close"}])
        assert odoo.script == "429, close"
        assert post(odoo).headers["Retry-After"] == "5"
        with pytest.raises(TypeError, match="'stats' is no field .* .did you mean 'status'"):
            odoo.play({"stats": 200})

    def test_a_fault_may_spoil_any_reply(self, odoo):
        odoo.play(Reply(503, {"error": "x" * 100}, fault="truncate"))
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(odoo)
        assert caught.value.partial == json.dumps({"error": "x" * 100}).encode()[:56]
        assert not odoo.get_calls()[0].accepted

    @pytest.mark.parametrize("status", [200, 204, 303, 503])
    @pytest.mark.parametrize(("fault", "error"), named({
        "garbage": ("garbage", http.client.BadStatusLine),
        "truncate": ("truncate", http.client.HTTPException),
        "close": ("close", http.client.RemoteDisconnected),
        "reset": ("reset", ConnectionResetError),
    }))
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

    @pytest.mark.parametrize(("reply", "accepted"), named({
        "a success that refuses": (Reply(200, {"status": "error"}, accepts=False), False),
        "text that accepts": (Reply(200, "fine", accepts=True), True),
        "by the rule": (Reply(200, {"status": "error"}), True),
    }))
    def test_a_reply_may_say_itself_whether_it_accepts(self, odoo, reply, accepted):
        odoo.play(reply)
        assert post(odoo).status == 200
        assert odoo.get_calls()[0].accepted is accepted
        assert len(odoo.get_received_heartbeats()) == accepted

    def test_a_redirect_that_accepts_is_sent_as_it_is(self, odoo):
        odoo.play(Reply(300, accepts=True))
        response = post(odoo)
        assert (response.status, response.body) == (300, b"")
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_what_it_says_of_accepting_must_be_a_flag(self):
        with pytest.raises(TypeError, match="accepts must be True or False, not 1"):
            Reply(accepts=1)


# ------------------------------------------------------------------------------------------
# Memory: the calls that came, who waits for them, and who is told of them
# ------------------------------------------------------------------------------------------


class TestCalls:
    def test_a_call_tells_everything_about_a_heartbeat(self, odoo):
        before = time.time()
        with connect(odoo, request_bytes(BODY, "X-Shop: 7", "x-shop: 8")) as connection:
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

    @pytest.mark.parametrize(("script", "word"), named({
        "nothing": ("", "ok"),
        "a delay": ("ok@1ms", "ok"),
        "a count": ("503@1ms*2", "503"),
        "a status": ("429", "429"),
        "html": ("html", "html"),
        "login": ("login", "login"),
        "close": ("close", "close"),
        "a Reply": (Reply(418, "teapot"), "418"),
        "200 with text": (Reply(200, "<html>"), "200"),
        "200 with JSON": (Reply(200, {"a": 1}), "ok"),
        "a spoilt Reply": (Reply(503, fault="truncate"), "truncate"),
    }))
    def test_a_call_keeps_the_word_of_its_reply(self, odoo, script, word):
        odoo.play(script)
        try_post(odoo)
        assert odoo.get_calls()[0].reply == word

    def test_a_call_may_have_a_hundred_headers(self, odoo):
        exchange(odoo, request_bytes(BODY, *[f"X-{n}: {n}" for n in range(96)]))
        (call,) = odoo.get_calls()
        assert len(call.headers) == 100
        assert call.headers["x-95"] == "95"

    @pytest.mark.parametrize("kind", named({
        "unknown charset": "multipart/form-data; boundary*=undefined''x",
        "idna": "multipart/x; boundary*=idna''%ff",
        "part of 5000 digits": "multipart/x; boundary*" + "9" * 5000 + "*=x",
        "message": "message/rfc822",
        "punycode": "text/plain; charset*=punycode''%ff",
    }))
    def test_no_header_can_spoil_the_memory(self, steered, kind):
        send(steered, "POST", PATH, BODY, {"Content-Type": kind})
        assert steered.get_calls()[0].headers["Content-Type"] == kind
        (call,) = control(steered, "GET", "calls")[1]["calls"]
        assert call["headers"]["Content-Type"] == kind

    def test_a_reader_cannot_spoil_the_copy_of_another(self, odoo):
        post(odoo)
        odoo.get_received_heartbeats()[0]["buffer_status"]["current_queued"] = 999
        odoo.get_calls()[0].payload.clear()
        odoo.get_calls().clear()
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_the_script_decides_before_the_body_is_looked_at(self, odoo):
        odoo.play("503, reset, ok")
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 503
        with pytest.raises(ConnectionResetError):
            send(odoo, "POST", PATH, "no JSON", {"Content-Type": "text/plain"})
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 400
        assert [call.reply for call in odoo.get_calls()] == ["503", "reset", "400"]
        assert odoo.script == ""

    def test_the_script_decides_before_a_body_is_too_long(self, odoo):
        odoo.play("503")
        response = ask(odoo, request_bytes(b"", "Content-Length: 9999999"))
        assert response.status == 503

    def test_a_refused_heartbeat_is_counted_but_not_received(self, odoo):
        assert send(odoo, "POST", PATH, "[1]", JSON).status == 400
        assert odoo.get_call_count() == 1
        assert odoo.get_received_heartbeats() == []
        (call,) = odoo.get_calls()
        assert (call.reply, call.accepted) == ("400", False)
        assert (call.payload, call.body) == ([1], b"[1]")

    def test_the_payload_of_a_body_that_is_no_json_is_none(self, odoo):
        send(odoo, "POST", PATH, "{", JSON)
        assert (odoo.get_calls()[0].payload, odoo.get_calls()[0].body) == (None, b"{")

    def test_half_a_heartbeat_is_no_call(self, odoo):
        with connect(odoo, request_bytes()[:-10]) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""
        assert odoo.get_call_count() == 0

    def test_a_call_is_recorded_before_its_delay(self, odoo):
        odoo.play("ok@60s")
        client = in_background(post, odoo)
        assert odoo.wait_for_heartbeats(1) == [HEARTBEAT]
        assert client.is_alive()
        odoo.reset()
        assert client.result().status == 200

    def test_memory_and_script_outlive_a_stop(self, fresh):
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

    def test_intervals_are_the_seconds_between_arrivals(self, odoo):
        assert odoo.get_intervals() == []
        odoo.play("ok, ok@50ms, ok")
        times = []
        for _ in range(3):
            began = time.perf_counter()
            post(odoo)
            times.append((began, time.perf_counter()))
        intervals = odoo.get_intervals()
        assert len(intervals) == 2
        for interval, earlier, later in zip(intervals, times, times[1:]):
            assert later[0] - earlier[1] <= interval <= later[1] - earlier[0]
        assert intervals[1] >= 0.03  # the delay; the clock of Windows ticks every 16 ms

    def test_forget_begins_a_new_record_and_leaves_the_script(self, odoo):
        odoo.play("503*3")
        post(odoo)
        send(odoo, "GET", "/nowhere")
        odoo.forget()
        counts = (odoo.get_call_count(), odoo.get_heartbeat_count())
        assert (counts, odoo.get_calls(), odoo.get_unmatched()) == ((0, 0), [], [])
        assert post(odoo).status == 503
        assert (odoo.get_calls()[0].number, odoo.script) == (1, "503")

    def test_forget_leaves_delays_outages_and_events_alone(self, fresh):
        server = fresh()
        server.play("ok@60s")
        with connect(server, request_bytes()) as connection:
            server.wait_for_calls(1)
            server.forget()
            assert_silent(connection)
        server.down()
        server.forget()
        assert refused(server)
        assert [event["event"] for event in server.get_events()] == ["start", "script", "down"]

    def test_a_call_tells_its_query(self, odoo):
        send(odoo, "POST", PATH + "?shop=7&till=2", BODY, JSON)
        post(odoo)
        assert [call.query for call in odoo.get_calls()] == ["shop=7&till=2", ""]

    def test_intervals_ignore_the_wall_clock(self, odoo, monkeypatch):
        post(odoo)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        post(odoo)
        assert 0 <= odoo.get_intervals()[0] < 60


#: What a test that stops the clock replaces, as freezegun does: the functions of `time`.
CLOCKS = [
    name for name in (
        "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
        "localtime", "gmtime", "strftime", "sleep",
    ) if hasattr(time, name)
]


@contextlib.contextmanager
def frozen():
    """A block in which time stands still, also in a module's own copies of the functions."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CLOCKS:
            real = getattr(time, name)
            moment = None if name == "sleep" else "never" if name == "strftime" else real()
            for module in (time, mock_odoo):
                for key in [key for key, value in vars(module).items() if value is real]:
                    patch.setattr(module, key, lambda *args, moment=moment: moment)
        yield


class TestClock:
    """The fake's clock is its own: what a test does to `time` changes nothing."""

    @pytest.mark.parametrize("name", CLOCKS)
    def test_no_reading_of_a_patched_clock_is_used_up(self, fresh, name):
        server = fresh()
        server.play("ok@1ms")
        patched = mock.patch.object(time, name, side_effect=[1.0, 2.0])
        with contextlib.closing(bare_client(server)) as client, patched as clock:
            answer = beat(client)
            outcomes = [in_time(function) for function in (
                lambda: server.wait_for_calls(2, timeout=0.01), lambda: server.down(0.001),
                server.get_intervals, server.reset, server.stop, server.start,
            )]
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert [type(outcome) for outcome in outcomes] == [
            TimeoutError, type(None), list, *[type(None)] * 3]
        assert not clock.called

    def test_a_wait_ends_while_time_stands_still(self, odoo):
        with frozen():
            error = in_time(lambda: odoo.wait_for_calls(1, timeout=0.05))
        assert str(error) == "0 of 1 calls in 0.05 s; no calls"

    def test_a_wait_over_http_ends_while_time_stands_still(self, steered):
        request = request_bytes(
            b"", "Host: localhost", method="GET", path="/_mock/wait?timeout=0.05")
        with contextlib.closing(bare_client(steered)) as client, frozen():
            assert beat(client, request.replace(b"Host: odoo\r\n", b"")).split()[1] == b"408"

    @pytest.mark.parametrize("script", ["ok@20ms", "drip", "ok"])
    def test_an_answer_ends_while_time_stands_still(self, odoo, monkeypatch, script):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0.0001)
        odoo.play(script)
        with contextlib.closing(bare_client(odoo)) as client, frozen():
            data = beat(client)
            while not data.endswith(b"}"):
                data += client.recv(65536)
        assert only(data).json() == SUCCESS

    def test_an_outage_ends_while_time_stands_still(self, fresh):
        ended = threading.Event()
        server = fresh(on_event=lambda event: event["event"] == "up" and ended.set())
        with frozen():
            server.down(0.01)
            assert ended.wait(PATIENCE)
        assert post(server).status == 200

    def test_times_and_intervals_go_on_while_time_stands_still(self, odoo):
        odoo.play("ok@50ms")
        before = time.time()
        with contextlib.closing(bare_client(odoo)) as client, frozen():
            for _ in range(2):
                beat(client)
        first, second = odoo.get_calls()
        assert before <= first.received_at < second.received_at <= time.time()
        assert odoo.get_intervals()[0] >= 0.03  # the clock of Windows ticks every 16 ms
        assert first.took >= 0.03


class TestEndOfACall:
    """When its answer has ended, a call knows how long that took, and whether its client stayed."""

    @staticmethod
    def ended(server):
        """Wait until the answer to the first call has ended, and return that call."""
        (call,) = server.wait_for_calls(1)
        until(lambda: call.took is not None)
        return call

    def test_it_knows_neither_before(self, odoo):
        odoo.play("ok@60s")
        with connect(odoo, request_bytes()):
            (call,) = odoo.wait_for_calls(1)
            assert (call.took, call.left) == (None, None)

    @pytest.mark.parametrize(("script", "least"), [
        ("ok", 0), ("ok@50ms", 0.03), ("503@50ms", 0.03)  # the clock of Windows ticks every 16 ms
    ])
    def test_took_counts_the_delay(self, odoo, script, least):
        odoo.play(script)
        began = time.perf_counter()
        post(odoo)
        call = self.ended(odoo)
        assert least <= call.took <= time.perf_counter() - began

    def test_took_counts_what_the_service_needs(self, fresh):
        def make_success(self, payload):
            until(lambda: time.perf_counter() - began[0] > 0.05)
            return {}

        server, began = fresh(variant(make_success=make_success)), [time.perf_counter()]
        post(server)
        assert self.ended(server).took > 0.01

    def test_took_is_how_long_a_client_waits(self, odoo):
        odoo.play("stall")
        began = time.perf_counter()
        with pytest.raises(socket.timeout):
            post(odoo, timeout=0.1)
        assert 0.08 <= self.ended(odoo).took <= time.perf_counter() - began

    @pytest.mark.parametrize("script", ["ok@60s", "503@60s", "stall", "drip", "reset@60s"])
    def test_a_client_that_hangs_up_has_left(self, fresh, script):
        seen = []
        server = fresh(on_event=lambda event: event["event"] == "left" and seen.append(event))
        server.play(script)
        with connect(server, request_bytes()):
            server.wait_for_calls(1)
        until(lambda: seen)
        server.stop()
        (call,) = server.get_calls()
        assert call.left is True
        assert [(left["number"], left["after"]) for left in seen] == [(1, round(call.took, 3))]
        assert "left" not in [event["event"] for event in server.get_events()]

    def test_a_success_whose_client_has_left_is_accepted_all_the_same(self, odoo):
        odoo.play("ok@60s")
        with connect(odoo, request_bytes()):
            odoo.wait_for_calls(1)
        call = self.ended(odoo)
        assert (call.accepted, call.left, odoo.get_heartbeat_count()) == (True, True, 1)

    @pytest.mark.parametrize("script", [
        "ok", "503", "ok@1ms", *mock_odoo.WORDS, *(set(mock_odoo.FAULTS) - {"stall"})
    ])
    def test_a_client_that_stays_to_the_end_has_not_left(self, fresh, monkeypatch, script):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0)
        seen = []
        server = fresh(on_event=lambda event: seen.append(event["event"]))
        server.play(script)
        try_post(server)
        assert self.ended(server).left is False
        server.stop()
        assert "left" not in seen

    @pytest.mark.parametrize("script", ["ok@60s", "stall", "drip"])
    @pytest.mark.parametrize("end", named({
        "reset": MockOdooServer.reset,
        "stop": MockOdooServer.stop,
        "down": MockOdooServer.down,
    }))
    def test_a_client_that_we_cut_has_not_left(self, fresh, monkeypatch, script, end):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        server = fresh()
        server.play(script)
        with connect(server, request_bytes()) as connection:
            (call,) = server.wait_for_calls(1)
            end(server)
            drain(connection)
            until(lambda: call.took is not None)
        assert call.left is False

    @pytest.mark.skipif(
        not hasattr(select, "POLLRDHUP"), reason="no POLLRDHUP here: it is seen a little later"
    )
    @pytest.mark.parametrize("end", named({
        "reset": MockOdooServer.reset,
        "stop": MockOdooServer.stop,
        "down": MockOdooServer.down,
    }))
    def test_a_client_that_has_left_does_not_come_back_when_we_cut_it(self, fresh, end):
        server = fresh()
        for _ in range(10):
            server.play("stall")
            with connect(server, request_bytes()):
                (call,) = server.wait_for_calls(1)
            before = call.left
            end(server)
            server.stop()
            assert (before, call.left) == (True, True)
            server.start()
            server.reset()

    def test_the_journal_has_both(self, odoo):
        post(odoo)
        call = self.ended(odoo)
        told = json.loads(call.to_json())
        assert (told["took"], told["left"]) == (call.took, False)


class TestWaiting:
    def test_a_wait_returns_all_there_are(self, odoo):
        post(odoo, {"n": 1})
        post(odoo, {"n": 2})
        assert odoo.wait_for_heartbeats(1) == [{"n": 1}, {"n": 2}]
        assert [call.number for call in odoo.wait_for_calls(2)] == [1, 2]
        assert odoo.wait_for_heartbeats(0) == [{"n": 1}, {"n": 2}]

    def test_a_wait_ends_when_the_heartbeat_comes(self, odoo):
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

    def test_a_time_out_tells_the_timeline(self, odoo):
        odoo.play("503, ok, ok")
        for _ in range(3):
            post(odoo)
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_heartbeats(3, timeout=0.001)
        assert str(caught.value) == "2 of 3 heartbeats in 0.001 s; calls: 503, ok, ok"

    def test_a_time_out_tells_that_nothing_came(self, odoo):
        with pytest.raises(TimeoutError, match="^0 of 1 calls in 0.0 s; no calls$"):
            odoo.wait_for_calls(1, timeout=0)

    def test_a_time_out_tells_what_missed_the_endpoint(self, odoo):
        send(odoo, "POST", PATH + "s?a=1", BODY, JSON)
        send(odoo, "GET", PATH)
        exchange(odoo, b"\x16\x03\x01\x02\x00")
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_calls(1, timeout=0)
        unmatched = [
            f"404 POST {PATH}s",
            f"405 GET {PATH}",
            "400 this is TLS, and the port speaks plain HTTP",
        ]
        told = f"0 of 1 calls in 0.0 s; no calls; unmatched: {unmatched}"
        assert str(caught.value) == told

    def test_a_time_out_tells_the_end_of_a_long_timeline(self, odoo):
        odoo.play("503*25, ok")
        for _ in range(26):
            post(odoo)
        with pytest.raises(TimeoutError, match=r"calls: \.\.\., (503, ){19}ok$"):
            odoo.wait_for_calls(27, timeout=0)

    def test_a_wait_has_all_the_time_it_was_given(self, odoo):
        began = time.perf_counter()
        with pytest.raises(TimeoutError):
            odoo.wait_for_calls(1, timeout=0.3)
        assert time.perf_counter() - began >= 0.28  # where a clock is coarse

    @pytest.mark.parametrize("name", ["wait_for_calls", "wait_for_heartbeats"])
    def test_a_wait_has_five_seconds_unless_told(self, name):
        signature = inspect.signature(getattr(MockOdooServer, name))
        assert signature.parameters["timeout"].default == 5.0

    def test_a_wait_over_http_is_for_one_call_and_five_seconds_unless_told(self, fresh):
        def wait_for_calls(self, n, timeout):
            asked.append((n, timeout))
            return MockOdooServer.wait_for_calls(self, n, 0)

        asked = []
        server = fresh(variant(wait_for_calls=wait_for_calls), control=True)
        assert send(server, "GET", "/_mock/wait").status == 408
        post(server)
        assert send(server, "GET", "/_mock/wait").status == 200
        assert asked == [(1, 5)] * 2

    def test_a_thousand_waits_leave_nothing_in_memory(self, odoo):
        tracemalloc = pytest.importorskip("tracemalloc")

        def wait(times):
            for _ in range(times):
                with contextlib.suppress(TimeoutError):
                    odoo.wait_for_calls(1, timeout=0.00005)

        wait(50)
        tracemalloc.start()
        try:
            wait(50)
            size = -tracemalloc.get_traced_memory()[0]
            wait(1000)
            gc.collect()
            size += tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert size < 20000  # bytes; a lock has more than 20

    def test_a_wait_goes_on_over_a_restart(self, fresh):
        server = fresh()
        waiting = in_background(server.wait_for_heartbeats, 1, 60)
        server.stop()
        server.start()
        post(server)
        assert waiting.result() == [HEARTBEAT]

    @pytest.mark.parametrize(("n", "timeout", "error", "complaint"), named({
        "n is negative": (-1, 1, ValueError, "n must be"),
        "n is text": ("2", 1, TypeError, "n must be"),
        "n is a flag": (True, 1, TypeError, "n must be"),
        "timeout is negative": (1, -1, ValueError, "timeout must be"),
        "timeout is None": (1, None, TypeError, "timeout must be"),
        "timeout is NaN": (1, float("nan"), ValueError, "timeout must be"),
        "timeout is huge": (1, 1e30, ValueError, "timeout must be from 0 to 86400"),
    }))
    def test_bad_arguments_are_named(self, odoo, n, timeout, error, complaint):
        with pytest.raises(error, match=complaint):
            odoo.wait_for_heartbeats(n, timeout)


class TestWaitingForTheOneThatFits:
    def test_heartbeats_that_fit_are_waited_for_and_returned(self, odoo):
        odoo.play("503, ok*")
        waiting = in_background(
            odoo.wait_for_heartbeats, 2, PATIENCE, lambda payload: payload["n"] % 2)
        for n in (1, 2, 3, 4):  # the first is refused
            post(odoo, {"n": n})
        assert waiting.is_alive()
        post(odoo, {"n": 5})
        assert waiting.result() == [{"n": 3}, {"n": 5}]

    def test_calls_that_fit_are_waited_for_and_returned(self, odoo):
        odoo.play("ok, 503, ok, 429")
        for _ in range(4):
            post(odoo)
        calls = odoo.wait_for_calls(2, where=lambda call: not call.accepted)
        assert [call.reply for call in calls] == ["503", "429"]

    def test_each_is_looked_at_once(self, odoo):
        seen = []

        def where(call):
            seen.append(call.number)
            return True

        waiting = in_background(odoo.wait_for_calls, 5, PATIENCE, where)
        for _ in range(5):
            post(odoo)
        assert len(waiting.result()) == 5
        assert seen == [1, 2, 3, 4, 5]

    def test_the_function_may_use_the_server(self, odoo):
        post(odoo)
        assert odoo.wait_for_calls(1, where=lambda call: odoo.get_call_count() == 1)

    def test_what_it_raises_reaches_the_caller(self, odoo):
        post(odoo)
        with pytest.raises(KeyError, match="shelf"):
            odoo.wait_for_heartbeats(1, where=lambda payload: payload["shelf"])

    def test_a_reset_starts_it_again(self, odoo):
        seen = []
        waiting = in_background(
            odoo.wait_for_heartbeats, 2, PATIENCE, lambda payload: seen.append(payload) or True)
        post(odoo, {"n": 1})
        until(lambda: seen)
        odoo.reset()
        post(odoo, {"n": 2})
        assert waiting.is_alive()
        post(odoo, {"n": 3})
        assert waiting.result() == [{"n": 2}, {"n": 3}]

    def test_a_time_out_tells_how_many_fitted_and_what_else_came(self, odoo):
        odoo.play("503, ok")
        post(odoo)
        post(odoo)
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_calls(2, timeout=0, where=lambda call: call.reply == "503")
        assert str(caught.value) == "1 of 2 calls that fit in 0.0 s; calls: 503, ok"

    def test_it_ends_in_time_however_many_come(self, fresh):
        server = fresh()
        ended = threading.Event()
        clients = [in_background(post_until, ended, server) for _ in range(2)]
        with pytest.raises(TimeoutError, match="^0 of 1 calls that fit"):
            server.wait_for_calls(1, timeout=0.2, where=lambda call: False)
        ended.set()
        for client in clients:
            client.result()

    @pytest.mark.parametrize("name", ["wait_for_calls", "wait_for_heartbeats"])
    def test_it_must_be_callable(self, odoo, name):
        with pytest.raises(TypeError, match="where must be callable, not 'KKT-001'"):
            getattr(odoo, name)(1, where="KKT-001")


class TestWaitingAfterAnOutage:
    """The system gives the ident of a thread that has ended to the next one. They are no worker."""

    @pytest.fixture
    def after_outage(self, fresh):
        """A server whose eight workers have just ended."""
        server = fresh(control=True)
        server.play("stall*")
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(connect(server, request_bytes()))
            server.wait_for_calls(8)
            server.down(0)
        server.reset()
        return server

    def test_no_wait_in_a_new_thread_gives_up(self, after_outage):
        waiting = [in_background(after_outage.wait_for_calls, 1) for _ in range(20)]
        post(after_outage)
        assert [len(thread.result()) for thread in waiting] == [1] * 20

    def test_no_wait_over_http_gives_up(self, after_outage):
        path = "/_mock/wait?timeout=30"
        waiting = [in_background(send, after_outage, "GET", path) for _ in range(8)]
        until(lambda: all(thread.is_alive() for thread in waiting))
        post(after_outage)
        assert [thread.result().status for thread in waiting] == [200] * 8

    def test_a_stop_in_a_new_thread_spares_no_client(self, after_outage):
        after_outage.play("stall*")
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(connect(after_outage, request_bytes())) for _ in range(8)]
            after_outage.wait_for_calls(8)
            stops = [in_background(after_outage.stop) for _ in range(8)]
            assert [stop.result() for stop in stops] == [None] * 8
            assert [drain(client)[0] for client in clients] == [b""] * 8


class TestWaitingInVain:
    def test_a_server_that_does_not_run_is_named_as_the_cause(self):
        complaint = r"^the server is not running: call start\(\); 0 of 1"
        with pytest.raises(TimeoutError, match=complaint):
            MockOdooServer(port=0).wait_for_calls(1, timeout=0)

    def test_an_event_loop_in_this_thread_is_named_as_the_cause(self, odoo):
        import asyncio

        async def wait():
            odoo.wait_for_calls(1, timeout=0)

        with pytest.raises(TimeoutError, match=r"runs an event loop.*await asyncio\.to_thread"):
            asyncio.run(wait())

    def test_in_a_thread_of_its_own_it_lets_the_loop_send(self, odoo):
        import asyncio

        async def wait():
            loop = asyncio.get_running_loop()
            waiting = loop.run_in_executor(None, odoo.wait_for_calls, 1, PATIENCE)
            reader, writer = await asyncio.open_connection("127.0.0.1", odoo.port)
            writer.write(request_bytes())
            await reader.read()
            writer.close()
            return await waiting

        assert len(asyncio.run(wait())) == 1


class TestRepeats:
    """An HTTP client may send a request again by itself, where the answer was spoilt."""

    SLOW = ("stall", "drip", "ok@60s", "503@60s")  # the client leaves, with a time-out

    @pytest.mark.parametrize("fault", [
        *mock_odoo.FAULTS, *(word for word in mock_odoo.WORDS if word != "ok"),
        "503", "502", "302", "ok@60s", "503@60s",
        pytest.param(Reply(503, headers={"Retry-After": "1"}), id="503 with a Retry-After"),
        pytest.param(Reply(200, {}, accepts=False), id="200 that refuses"),
        pytest.param(Reply(fault="reset", accepts=True), id="a lost answer"),
    ])
    def test_the_same_body_after_a_spoilt_answer_is_a_repeat(self, odoo, fault):
        odoo.play(["ok", fault])
        post(odoo, {"n": 1})
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(odoo, {"n": 2}, timeout=0.05 if fault in self.SLOW else PATIENCE)
        odoo.wait_for_calls(2)
        post(odoo, {"n": 2})
        post(odoo, {"n": 2})
        assert [call.repeats for call in odoo.get_calls()] == [None, None, 2, None]

    @pytest.mark.parametrize("reply", ["ok", "ok@1ms", "drip@1ms"])
    def test_the_same_body_after_a_whole_answer_is_none(self, odoo, monkeypatch, reply):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0)
        odoo.play(reply)
        post(odoo)
        post(odoo)
        assert [call.repeats for call in odoo.get_calls()] == [None, None]

    def test_the_same_body_after_a_client_that_did_not_wait_for_the_service_is_a_repeat(
        self, fresh
    ):
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(PATIENCE)))
        with connect(server, request_bytes()):
            entered.wait(PATIENCE)
        again = in_background(post, server)
        server.wait_for_calls(2)
        leave.set()
        again.result()
        assert [call.repeats for call in server.get_calls()] == [None, 1]

    def test_each_spoilt_answer_has_one_repeat(self, odoo):
        odoo.play("503*2")
        for _ in range(4):
            post(odoo)
        assert [call.repeats for call in odoo.get_calls()] == [None, 1, 2, None]

    def test_another_body_after_a_spoilt_answer_is_none(self, odoo):
        odoo.play("reset")
        with contextlib.suppress(OSError):
            post(odoo, {"n": 1})
        post(odoo, {"n": 2})
        assert odoo.get_calls()[1].repeats is None


class TestEvents:
    """What was done to the fake."""

    @staticmethod
    def names(server):
        return [event["event"] for event in server.get_events()]

    def test_each_is_told_with_its_time(self, odoo):
        before = time.time()
        odoo.play("503*, ok", loop=True)
        reset, script = odoo.get_events()
        assert (reset["event"], script["event"]) == ("reset", "script")
        assert (script["script"], script["loop"]) == ("503*, ok", True)
        assert before <= script["at"] <= time.time()
        assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}\.[0-9]{3}[+-][0-9:]{5}", script["time"])

    def test_the_life_of_a_server_is_told_in_order(self, fresh):
        server = fresh()
        url = server.url
        server.down(60)
        server.up()
        server.set_failure_count(2)
        server.stop()
        server.start()
        events = server.get_events()
        assert [event["event"] for event in events] == [
            "start", "down", "up", "script", "stop", "start"]
        assert (events[0]["url"], events[1]["seconds"]) == (url, 60.0)

    @pytest.mark.parametrize(("seconds", "end"), named({
        "up()": (None, MockOdooServer.up),
        "the time": (0.01, lambda server: until(lambda: len(server.get_events()) > 2)),
        "no time at all": (0, lambda server: None),
    }))
    def test_the_end_of_an_outage_is_told_whatever_ends_it(self, fresh, seconds, end):
        server = fresh()
        server.down(seconds)
        end(server)
        assert self.names(server) == ["start", "down", "up"]

    def test_a_reset_that_ends_an_outage_is_followed_by_its_end(self, fresh):
        server = fresh()
        server.down()
        server.reset()
        assert self.names(server) == ["reset", "up"]

    def test_what_changes_nothing_is_no_event(self, fresh):
        server = fresh()
        server.up()
        server.set_permanent_failure(False)
        server.stop()
        server.stop()
        assert self.names(server) == ["start", "stop"]

    def test_they_are_no_calls(self, fresh):
        server = fresh()
        server.play("503")
        assert (server.get_call_count(), server.get_calls(), server.get_unmatched()) == (0, [], [])

    def test_the_newest_hundred_are_kept(self, odoo):
        for n in range(1, 121):
            odoo.set_failure_count(n)
        assert [event["script"] for event in odoo.get_events()[::99]] == ["503*21", "503*120"]

    def test_they_are_told_over_http(self, steered):
        steered.play("503*2")
        steered.down(0)
        status, told = control(steered, "GET", "events")
        assert (status, told) == (200, {"events": steered.get_events()})
        assert [event["event"] for event in told["events"]] == ["start", "script", "down", "up"]

    def test_a_reader_cannot_spoil_the_memory(self, odoo):
        odoo.get_events()[0].clear()
        assert odoo.get_events()[0]["event"] == "reset"

    def test_on_event_sees_them_between_the_calls(self, fresh):
        seen = []
        server = fresh(
            on_call=lambda call: seen.append(call.reply),
            on_event=lambda event: seen.append(event["event"]))
        until(lambda: seen == ["start"])
        server.play("503")
        post(server)
        send(server, "GET", "/nowhere")
        server.reset()
        post(server)
        server.stop()
        assert seen == ["start", "script", "503", "unmatched", "reset", "ok", "stop"]

    def test_on_event_is_told_what_an_added_route_was_asked(self, fresh):
        seen = []
        server = fresh(on_event=seen.append)
        server.routes["/sign"] = {"POST": lambda request: Reply(201, {})}
        assert send(server, "POST", "/sign?till=2", b"{}").status == 201
        assert send(server, "POST", "/sign", b"x" * 2000000).status == 413
        server.stop()
        told = [event["request"] for event in seen if event["event"] == "request"]
        assert told == ["201 POST /sign", "413 POST /sign"]
        assert [event["event"] for event in server.get_events()] == ["start", "stop"]

    def test_on_event_is_not_told_of_own_routes(self, fresh):
        seen = []
        server = fresh(on_event=seen.append, control=True)
        for path in ("/health", "/web/login", "/_mock/state", "/_mock/nonsense"):
            send(server, "GET", path)
        server.stop()
        assert [event["event"] for event in seen] == ["start", "stop"]

    def test_on_event_is_told_what_was_unmatched(self, fresh):
        seen = []
        server = fresh(on_event=seen.append)
        send(server, "GET", "/nowhere")
        server.stop()
        del seen[-1]
        assert (seen[-1]["event"], seen[-1]["unmatched"]) == ("unmatched", "404 GET /nowhere")

    def test_steering_in_on_call_is_told_after_that_call(self, fresh):
        seen = []

        def on_call(call):
            server.play("503")
            seen.append(call.number)

        server = fresh(on_call=on_call, on_event=lambda event: seen.append(event["event"]))
        assert [post(server).status for _ in range(2)] == [200, 503]
        server.stop()
        assert seen == ["start", 1, "script", 2, "script", "stop"]

    def test_no_method_waits_for_an_on_call_that_hangs(self, fresh):
        entered, leave, seen = threading.Event(), threading.Event(), []
        server = fresh(
            on_call=lambda call: (entered.set(), leave.wait(PATIENCE)),
            on_event=lambda event: seen.append(event["event"]))
        client = in_background(post, server)
        entered.wait(PATIENCE)
        server.play("503")
        server.reset()
        assert seen == ["start"]
        leave.set()
        client.result()
        until(lambda: seen == ["start", "script", "reset"])

    def test_on_event_may_stop_the_server_when_an_outage_ends(self, fresh, new_threads):
        server = fresh(on_event=lambda event: event["event"] == "up" and server.stop())
        server.down(0.01)
        until(lambda: not server.is_running)
        until(lambda: new_threads() == [])

    @pytest.mark.parametrize("call", named({
        "up": MockOdooServer.up,
        "reset": MockOdooServer.reset,
        "stop": MockOdooServer.stop,
        "down": MockOdooServer.down,
        "down for no time": lambda server: server.down(0),
        "down for a while": lambda server: server.down(0.001),
        "play": lambda server: server.play("503"),
        "forget": MockOdooServer.forget,
        "start": MockOdooServer.start,
        "get_calls": MockOdooServer.get_calls,
        "wait_for_calls": lambda server: server.wait_for_calls(0),
    }))
    @pytest.mark.parametrize("name", ["start", "down", "up", "script", "reset", "stop"])
    def test_on_event_may_steer_at_every_event(self, name, call):
        def on_event(event):
            if event["event"] == name and not steered:
                steered.append(True)
                with contextlib.suppress(RuntimeError):  # it does not run now, or runs already
                    call(server)

        def use():
            for method in (
                MockOdooServer.start, MockOdooServer.down, MockOdooServer.up,
                MockOdooServer.set_success, MockOdooServer.reset,
            ):
                with contextlib.suppress(RuntimeError):  # on_event has stopped it
                    method(server)
            server.stop()

        steered = []
        server = MockOdooServer(port=0, on_event=on_event)
        assert in_time(use) is None
        assert in_time(server.stop) is None  # on_event may have started it again
        assert (steered, refused(server)) == ([True], True)

    def test_on_event_may_steer_while_threads_steer(self, fresh):
        def on_event(event):
            if event["event"] == "up":
                server.play("503")

        def steer():
            for _ in range(20):
                server.down(0)
                server.reset()

        server = fresh(on_event=on_event)
        threads = [in_background(steer) for _ in range(3)]
        assert [thread.result() for thread in threads] == [None] * 3
        server.stop()
        assert refused(server)

    def test_they_come_in_order_when_threads_steer_at_once(self, fresh, often_switching):
        def steer(number):
            for n in range(8):
                server.set_failure_count(number * 100 + n)
                server.down(0)

        seen = []
        server = fresh(on_event=seen.append)
        for thread in [in_background(steer, number) for number in range(1, 5)]:
            assert thread.result() is None
        server.stop()
        assert seen == server.get_events()
        assert len(seen) == 1 + 4 * 8 * 3 + 1
        scripts = [event["script"] for event in seen if event["event"] == "script"]
        assert scripts[-1] == server.script

    @pytest.mark.parametrize("error", named({
        "full disk": OSError(errno.ENOSPC, "on purpose"),
        "failing test": pytest.fail.Exception("on purpose"),
    }))
    def test_a_log_that_fails_holds_up_nothing(self, fresh, error):
        class Failing(logging.Handler):
            def emit(self, record):
                raise error

        handler, log = Failing(), logging.getLogger("mock_odoo")
        log.addHandler(handler)
        try:
            server = fresh(on_event=lambda event: 1 / 0, on_call=lambda call: 1 / 0)
            for method in (server.down, server.up, server.reset, server.set_success):
                assert in_time(method) is None
            assert post(server, timeout=5).status == 200
            assert in_time(server.stop) is None
        finally:
            log.removeHandler(handler)

    def test_logging_in_it_leaves_no_thread_in_the_list(self, fresh, caplog):
        def log(news):
            logging.getLogger("test").warning("news")

        before = set(threading.enumerate())
        server = fresh(on_event=log, on_call=log, on_unmatched=log)
        server.routes["/log"] = {"GET": lambda request: log(request) or Reply()}
        post(server)
        send(server, "GET", "/nowhere")
        assert send(server, "GET", "/log").status == 200
        server.down(0.001)
        until(lambda: server.get_events()[-1]["event"] == "up")
        server.stop()
        assert set(threading.enumerate()) <= before
        assert len(caplog.records) > 5

    def test_what_it_raises_is_logged_and_fails_nothing(self, fresh, caplog):
        server = fresh(on_event=lambda event: pytest.fail("on purpose"))
        server.play("503")
        assert post(server).status == 503
        server.stop()
        assert {record.getMessage() for record in caplog.records} == {"on_event failed"}

    def test_it_must_be_callable(self):
        with pytest.raises(TypeError, match="on_event must be callable"):
            MockOdooServer(on_event="print")


class TestLocksOfTheCaller:
    """No method but stop() waits for a function of the user's, so a caller may hold its locks."""

    @pytest.mark.parametrize("make", [threading.Lock, threading.RLock, threading.Condition])
    @pytest.mark.parametrize("call", named({
        "start": MockOdooServer.start,
        "down": MockOdooServer.down,
        "down for a while": lambda server: server.down(0.001),
        "up": MockOdooServer.up,
        "play": lambda server: server.play("503"),
        "set_success": MockOdooServer.set_success,
        "set_failure_count": lambda server: server.set_failure_count(3),
        "set_permanent_failure": MockOdooServer.set_permanent_failure,
        "reset": MockOdooServer.reset,
        "forget": MockOdooServer.forget,
        "get_calls": MockOdooServer.get_calls,
        "wait_for_calls": lambda server: server.wait_for_calls(1),
        "repr": repr,
    }))
    def test_a_method_returns_while_the_main_thread_holds_a_lock(self, fresh, call, make):
        def on_news(news):
            got.append(lock.acquire(timeout=5))
            lock.release()

        lock, got = make(), []
        if make is threading.Condition:
            lock.acquire = lock._lock.acquire  # where Condition's takes no time-out
        server = fresh(on_event=on_news, on_call=on_news)
        post(server)
        if call is MockOdooServer.start:
            server.stop()
        with lock:
            call(server)
        server.stop()
        assert set(got) == {True}

    def test_an_event_can_be_waited_for_on_a_condition(self, fresh):
        def on_event(event):
            with condition:
                events.append(event["event"])
                condition.notify_all()

        condition, events = threading.Condition(), []
        server = fresh(on_event=on_event)
        with condition:
            server.down(0.01)
            assert condition.wait_for(lambda: "up" in events, PATIENCE)
            server.reset()
            assert condition.wait_for(lambda: "reset" in events, PATIENCE)


@pytest.fixture
def changing(fresh, monkeypatch):
    """A server in the middle of a change, and the function that ends it."""
    entered, leave = threading.Event(), threading.Event()
    real = socket.SocketType.listen

    def listen(self, *args):
        entered.set()
        leave.wait(PATIENCE)
        return real(self, *args)

    server = fresh()
    server.play("429")
    server.down()
    with monkeypatch.context() as patch:
        patch.setattr(FakeSocket, "listen", listen, raising=False)
        opening = in_background(server.up)
        entered.wait(PATIENCE)
        yield server, leave.set
        leave.set()
        assert opening.result() is None


class TestReaders:
    """Who reads needs no lock and no thread, and sees no half-made change."""

    READERS = (
        MockOdooServer.get_call_count, MockOdooServer.get_heartbeat_count, MockOdooServer.get_calls,
        MockOdooServer.get_received_heartbeats, MockOdooServer.get_intervals,
        MockOdooServer.get_unmatched, MockOdooServer.get_events, repr,
        lambda server: (server.script, server.loop, server.is_running, server.url),
        lambda server: server.wait_for_calls(0), lambda server: server.wait_for_heartbeats(0),
    )

    def test_they_wait_for_no_change(self, changing):
        server, _ = changing
        for read in self.READERS:
            in_time(lambda read=read: read(server), 5)

    @pytest.mark.parametrize("call", named({
        "play": lambda server: server.play("503"),
        "reset": MockOdooServer.reset,
        "forget": MockOdooServer.forget,
        "down": MockOdooServer.down,
        "up": MockOdooServer.up,
        "stop": MockOdooServer.stop,
    }))
    def test_a_change_waits_for_another(self, changing, call):
        server, end = changing
        thread = in_background(call, server)
        thread.join(0.05)
        assert thread.is_alive()
        assert (server.script, server.is_running) == ("429", True)
        end()
        assert thread.result() is None

    def test_they_start_no_thread(self, fresh):
        server = fresh()
        post(server)
        with out_of_threads():
            for read in self.READERS:
                read(server)

    def test_they_never_fail_during_changes(self, fresh, often_switching):
        def steer():
            while not ended.is_set():
                server.play("503, ok", loop=True)
                server.forget()
                server.reset()

        def read():
            while not ended.is_set():
                for read in self.READERS:
                    read(server)

        server, ended = fresh(max_calls=3, on_event=lambda event: None), threading.Event()
        threads = [in_background(each) for each in (steer, steer, read, read)]
        threads.append(in_background(post_until, ended, server))
        ended.wait(0.4)
        ended.set()
        assert [thread.result() for thread in threads] == [None] * 5

    def test_the_calls_that_are_kept_have_no_gap(self, fresh, often_switching):
        def read():
            while not ended.is_set():
                numbers = [call.number for call in server.get_calls()]
                assert len(numbers) <= 5
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

        server, ended = fresh(max_calls=5), threading.Event()
        post(server)
        readers = [in_background(read) for _ in range(2)]
        with contextlib.closing(bare_client(server)) as client:
            for _ in range(200):
                beat(client)
        ended.set()
        assert [reader.result() for reader in readers] == [None] * 2


class TestOnCall:
    def test_it_sees_every_call_in_order_before_the_answer(self, fresh):
        seen = []
        server = fresh(on_call=lambda call: seen.append((call.number, call.reply)))
        server.play("503, ok")
        for number in range(1, 4):
            post(server)
            assert len(seen) == number
        assert seen == [(1, "503"), (2, "ok"), (3, "ok")]

    def test_the_order_holds_among_many_clients(self, fresh):
        seen = []
        server = fresh(on_call=lambda call: seen.append(call.number))
        for thread in [in_background(post, server) for _ in range(30)]:
            assert thread.result().status == 200
        assert seen == list(range(1, 31))

    def test_an_answer_waits_for_no_later_call(self, fresh):
        def on_call(call):
            if call.number == 1:
                until(lambda: server.get_call_count() == 3)
            else:
                leave.wait(PATIENCE)

        leave = threading.Event()
        server = fresh(on_call=on_call)
        first = in_background(post, server)
        server.wait_for_calls(1)
        others = [in_background(post, server) for _ in range(2)]
        assert first.result().status == 200
        assert all(other.is_alive() for other in others)
        leave.set()
        for other in others:
            other.result()

    @pytest.mark.parametrize("end", named({
        "stop": MockOdooServer.stop,
        "down": MockOdooServer.down,
        "down for no time": lambda server: server.down(0),
    }))
    def test_only_the_client_of_the_call_that_ends_the_server_is_answered(self, fresh, end):
        server = fresh(on_call=lambda call: call.number == 2 and end(server))
        server.play("stall, ok@60s*")
        with connect(server, request_bytes()) as bystander:
            server.wait_for_calls(1)
            assert post(server).status == 200
            assert drain(bystander)[0] == b""

    def test_its_exception_is_logged_and_fails_no_reply(self, fresh, caplog):
        def on_call(call):
            raise KeyError("shelf")

        server = fresh(on_call=on_call)
        assert [post(server).status for _ in range(2)] == [200, 200]
        records = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
        assert records == [("mock_odoo", logging.ERROR, "on_call failed")] * 2
        assert "shelf" in caplog.text

    def test_a_failing_test_in_a_subclass_is_answered_and_holds_up_nothing(
        self, fresh, new_threads, caplog
    ):
        server = fresh(variant(make_success=lambda self, payload: pytest.fail("on purpose")))
        assert [post(server).status for _ in range(3)] == [500] * 3
        server.stop()
        assert new_threads() == []

    def test_a_failing_test_in_it_fails_no_reply(self, fresh, caplog):
        server = fresh(on_call=lambda call: pytest.fail("on purpose"))
        assert post(server).status == 200
        assert "on purpose" in caplog.text

    def test_a_reset_in_it_lets_go_the_reply_on_its_way(self, fresh):
        server = fresh(on_call=lambda call: server.reset())
        server.play("ok@60s, stall")
        assert post(server).status == 200

    def test_the_client_of_a_call_that_stops_the_server_is_answered(self, fresh):
        server = fresh(on_call=lambda call: server.stop())
        assert post(server).status == 200
        assert refused(server)

    @stop_and_down
    def test_the_client_of_a_call_that_ends_the_server_is_answered_among_many(self, fresh, end):
        def race():
            server = fresh(on_call=lambda call: call.payload.get("last") and end(server))
            barrier = threading.Barrier(4)

            def client(last):
                barrier.wait(PATIENCE)
                return post(server, {"last": last})

            others = [in_background(client, False) for _ in range(3)]
            assert in_background(client, True).result().status == 200
            for other in others:
                other.result()

        for _ in range(10):
            race()

    def test_a_stop_waits_for_it_after_an_outage_of_its_own_making(self, fresh, new_threads):
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

    @stop_and_down
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


class TestUnmatched:
    """What came and is no call."""

    def test_it_is_told_and_is_no_call(self, odoo):
        send(odoo, "PUT", PATH)
        send(odoo, "GET", "/")
        send(odoo, "GET", "/health")
        exchange(odoo, b"HELLO\x07\r\n\r\n")
        malformed = r"malformed request line 'HELLO\x07'"
        assert odoo.get_unmatched() == [
            f"405 PUT {PATH}",
            "404 GET /",
            f"400 {malformed}; it should be like 'GET /health HTTP/1.1'",
        ]
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("line", [b"PING\r\n", b"HELO there\r\n", b"\x00\x01\n"])
    def test_a_line_of_another_protocol_is_told_at_once(self, odoo, line):
        with connect(odoo, line) as connection:
            assert split(connection.recv(65536))[0].status == 400
            (told,) = odoo.get_unmatched()
        assert told.startswith("400 malformed request line ")

    def test_the_newest_are_kept_until_a_reset(self, odoo):
        for n in range(25):
            send(odoo, "GET", f"/{n}")
        assert odoo.get_unmatched() == [f"404 GET /{n}" for n in range(5, 25)]
        odoo.reset()
        assert odoo.get_unmatched() == []

    def test_it_is_short_and_cannot_drive_a_terminal(self, odoo):
        exchange(odoo, request_bytes(path="/\x9b31m" + "x" * 1000))
        assert odoo.get_unmatched() == ["404 POST /?31m" + "x" * 186]

    def test_on_unmatched_sees_it_before_the_answer(self, fresh, caplog):
        seen = []
        server = fresh(on_unmatched=seen.append)
        send(server, "GET", "/nowhere")
        assert seen == ["404 GET /nowhere"]
        assert caplog.records == []

    def test_an_exception_of_on_unmatched_is_logged_and_fails_no_reply(self, fresh, caplog):
        server = fresh(on_unmatched=lambda what: pytest.fail("on purpose"))
        assert send(server, "GET", "/nowhere").status == 404
        assert [record.getMessage() for record in caplog.records] == ["on_unmatched failed"]

    def test_on_unmatched_must_be_callable(self):
        with pytest.raises(TypeError, match="on_unmatched must be callable, not 'print'"):
            MockOdooServer(on_unmatched="print")


# ------------------------------------------------------------------------------------------
# Contract: what strict=True asks of a heartbeat
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
    @pytest.mark.parametrize(("path", "value"), named({
        "microseconds": ("timestamp", "2025-10-09T12:00:00.123456+03:00"),
        "zone without colon": ("timestamp", "2025-10-09T12:00:00.1-0330"),
        "leap day and comma": ("timestamp", "2024-02-29T23:59:59,5Z"),
        "whole percent": ("buffer_status.percent_full", 3),
        "no capacity": ("buffer_status.total_capacity", 0),
        "half open": ("circuit_breaker.state", "HALF_OPEN"),
        "open": ("circuit_breaker.state", "OPEN"),
        "another field": ("version", {"any": "thing"}),
        "another field within": ("buffer_status.oldest", None),
    }))
    def test_a_heartbeat_that_keeps_it_is_accepted(self, strict, path, value):
        assert post(strict, changed(path, value)).status == 200

    @pytest.mark.parametrize(("path", "value", "problem"), named({
        "no timestamp": ("timestamp", ..., "missing"),
        "no zone": ("timestamp", "2025-10-09T12:00:00", "expected an ISO 8601 time with a zone"),
        "30 February": ("timestamp", "2025-02-30T12:00:00Z", "expected"),
        "zone too far": ("timestamp", "2025-10-09T12:00:00+25:00", "expected"),
        "blank for T": ("timestamp", "2025-10-09 12:00:00Z", "expected"),
        "wide digit": ("timestamp", "２025-10-09T12:00:00Z", "expected"),
        "seconds": ("timestamp", 1760011200, ", got 1760011200"),
        "empty id": ("adapter_id", "", "expected a non-empty string, got ''"),
        "no id": ("adapter_id", None, "expected a non-empty string, got None"),
        "no buffer": ("buffer_status", ..., "missing"),
        "buffer as list": ("buffer_status", [], "expected an object, got []"),
        "half a place": (
            "buffer_status.total_capacity", 2.5, "expected a whole number, 0 or more, got 2.5"),
        "capacity as flag": ("buffer_status.total_capacity", True, ", got True"),
        "negative queue": (
            "buffer_status.current_queued", -1, "expected a whole number, 0 or more, got -1"),
        "percent as text": (
            "buffer_status.percent_full", "high", "expected a number, got 'high'"),
        "percent as flag": ("buffer_status.percent_full", False, ", got False"),
        "no breaker": ("circuit_breaker", ..., "missing"),
        "state in small letters": (
            "circuit_breaker.state", "closed", "expected CLOSED, OPEN or HALF_OPEN, got 'closed'"),
        "state as list": ("circuit_breaker.state", ["OPEN"], ", got ['OPEN']"),
        "failures as text": ("circuit_breaker.failure_count", "0", "expected a whole number"),
    }))
    def test_each_breach_is_told_by_path_and_value(self, strict, path, value, problem):
        response = post(strict, changed(path, value))
        assert response.status == 422
        (told,) = response.json()["problems"]
        assert told.startswith(f"{path}: ")
        assert problem in told

    def test_all_breaches_are_told_at_once(self, strict):
        strict.reset()
        broken = {"buffer_status": {"percent_full": "high"}, "circuit_breaker": 5}
        response = post(strict, broken)
        assert response.status == 422
        assert response.json() == {
            "error": "the heartbeat breaks the contract",
            "problems": [
                "timestamp: missing",
                "adapter_id: missing",
                "buffer_status.total_capacity: missing",
                "buffer_status.current_queued: missing",
                "buffer_status.percent_full: expected a number, got 'high'",
                "circuit_breaker: expected an object, got 5",
            ],
        }
        (call,) = strict.get_calls()
        assert (call.reply, call.accepted, call.payload) == ("422", False, broken)

    def test_a_huge_value_is_told_briefly(self, strict):
        response = post(strict, changed("adapter_id", ["x" * 1000] * 1000))
        assert len(response.body) < 500

    def test_the_memory_tells_the_breaches_too(self, strict):
        strict.reset()
        post(strict, {**HEARTBEAT, "adapter_id": "", "timestamp": 5})
        problem = (
            "timestamp: expected an ISO 8601 time with a zone, like 2025-10-09T12:00:00Z, got 5; "
            "adapter_id: expected a non-empty string, got ''"
        )
        assert [(call.reply, call.problem) for call in strict.get_calls()] == [("422", problem)]
        with pytest.raises(TimeoutError) as caught:
            strict.wait_for_heartbeats(1, timeout=0)
        told = f"0 of 1 heartbeats in 0.0 s; calls: 422; last problem: {problem}"
        assert str(caught.value) == told
        post(strict)
        assert strict.get_calls()[1].problem is None

    def test_make_success_is_not_asked_about_a_breach(self, fresh, caplog):
        class Picky(MockOdooServer):
            def find_problems(self, payload):
                return [] if "receipt_id" in payload else ["receipt_id: missing"]

            def make_success(self, payload):
                return {"receipt_id": payload["receipt_id"]}

        server = fresh(cls=Picky, strict=True)
        assert post(server, {}).status == 422
        assert post(server, {"receipt_id": 7}).json() == {"receipt_id": 7}
        assert caplog.records == []

    def test_the_script_decides_first(self, strict):
        strict.play("503")
        assert [post(strict, {}).status for _ in range(2)] == [503, 422]

    def test_without_strict_any_object_is_accepted(self, odoo):
        assert post(odoo, {"timestamp": 5}).status == 200


# ------------------------------------------------------------------------------------------
# Wire: reads a whole request, asks for the reply, sends it, honest or spoilt
# ------------------------------------------------------------------------------------------


class TestEndpoints:
    @pytest.mark.parametrize("script", ["", "503*", "reset*", "stall*"])
    @pytest.mark.parametrize(("path", "body"), named({
        "health": ("/health", {"status": "ok"}),
        "web health": ("/web/health", {"status": "pass"}),
    }))
    def test_health_tells_in_every_mode_that_the_fake_runs(self, odoo, path, body, script):
        odoo.play(script)
        response = send(odoo, "GET", path)
        assert (response.status, response.json()) == (200, body)
        assert odoo.get_call_count() == 0

    def test_the_health_check_of_the_compose_files_is_answered(self, odoo):
        assert send(odoo, "GET", "/api/v1/health").json() == {"status": "ok"}

    def test_a_route_can_be_added(self, fresh):
        server = fresh()
        server.routes["/hw_proxy/hello"] = {"GET": lambda request: Reply(200, f"{request.query}?")}
        assert send(server, "GET", "/hw_proxy/hello?ping").body == b"ping?"
        assert send(server, "POST", "/hw_proxy/hello").headers["Allow"] == "GET, HEAD"
        assert "GET /hw_proxy/hello" in send(server, "GET", "/nowhere").json()["error"]

    @pytest.mark.parametrize("reply", [Reply(503), Reply(200), Reply(303)], ids=str)
    def test_a_route_may_leave_the_body_to_the_service(self, fresh, reply):
        server = fresh()
        server.routes["/extra"] = {"GET": lambda request: reply}
        expected = {503: json.dumps(FAILURE).encode(), 200: b"{}", 303: b""}
        assert send(server, "GET", "/extra").body == expected[reply.status]

    def test_a_route_that_returns_no_reply_is_named_in_the_log(self, fresh, caplog):
        server = fresh()
        server.routes["/extra"] = {"GET": lambda request: "pong"}
        assert send(server, "GET", "/extra").status == 500
        assert "GET /extra must return a Reply, not 'pong'" in caplog.text

    @pytest.fixture
    def echo(self, fresh):
        """A server with a route that answers with the body."""
        server = fresh()
        server.routes["/echo"] = {"POST": lambda request: Reply(200, request.body)}
        return server

    @pytest.mark.parametrize("request_", named({
        "a length": request_bytes(b"x" * 2000000, path="/echo"),
        "a length without its body": request_bytes(b"", "Content-Length: 2000000", path="/echo"),
        "chunks": request_bytes(
            b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n7fffffff\r\n", "Transfer-Encoding: chunked",
            path="/echo"),
        "an Expect": request_bytes(
            b"", "Content-Length: 2000000", "Expect: 100-continue", path="/echo"),
    }))
    def test_a_route_never_takes_a_body_that_is_too_long_for_an_empty_one(self, echo, request_):
        response = ask(echo, request_)
        assert (response.status, response.headers["Connection"]) == (413, "close")
        assert echo.get_unmatched() == []

    @pytest.mark.parametrize("kind", ["text/xml", "application/json", ""])
    def test_a_route_gets_a_body_of_any_kind_also_after_an_expect(self, echo, kind):
        head = request_bytes(
            b"", "Content-Length: 4", "Expect: 100-continue", path="/echo"
        ).replace(b"application/json", kind.encode())
        with connect(echo, head) as connection:
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b"<x/>")
            response = only(read_all(connection))
        assert (response.status, response.body) == (200, b"<x/>")

    def test_a_route_gets_no_body_that_is_coded(self, echo):
        assert ask(echo, request_bytes(b"x", "Content-Encoding: gzip", path="/echo")).status == 415

    def test_a_trailing_slash_does_not_matter(self, odoo):
        assert send(odoo, "POST", PATH + "/", BODY, JSON).json() == SUCCESS
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_a_method_that_a_trailing_slash_does_not_take_is_405(self, odoo):
        response = send(odoo, "GET", PATH + "/")
        assert (response.status, response.headers["Allow"]) == (405, "POST")

    def test_a_slow_route_is_let_go_by_a_reset(self, fresh):
        server = fresh()
        entered = threading.Event()
        server.routes["/slow"] = {"GET": lambda request: entered.set() or Reply(200, {}, delay=60)}
        client = in_background(send, server, "GET", "/slow")
        entered.wait(PATIENCE)
        while client.is_alive():  # the route has ended, but its delay may not have begun
            server.reset()
        assert client.result().status == 200

    @pytest.mark.parametrize("path", ["/health", "/web/health"])
    def test_head_has_the_length_but_not_the_body(self, odoo, path):
        full = ask(odoo, request_bytes(b"", method="GET", path=path))
        head = exchange(odoo, request_bytes(b"", method="HEAD", path=path))
        assert head.endswith(b"\r\n\r\n")
        assert split(head)[0].headers["Content-Length"] == str(len(full.body))

    @pytest.mark.parametrize(("method", "path", "allow"), [
        ("GET", PATH, "POST"),
        ("HEAD", PATH, "POST"),
        ("PUT", PATH, "POST"),
        ("OPTIONS", PATH, "POST"),
        ("post", PATH, "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/web/health", "GET, HEAD"),
    ])
    def test_another_method_is_405_with_allow(self, odoo, method, path, allow):
        response = send(odoo, method, path)
        assert (response.status, response.headers["Allow"]) == (405, allow)
        if method != "HEAD":
            assert response.json() == {"error": f"{path} takes {allow}, not {method}"}
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("path", [
        "/",
        "/api/v1/kkt/heartbeat//",
        "/api/v1/kkt",
        "/_mock/",
        "/_mock/state",
        "//health",
        "*",
        "/%",
    ])
    def test_another_path_is_404_and_names_the_paths(self, odoo, path):
        response = send(odoo, "GET", path)
        assert response.status == 404
        for known in ("POST /api/v1/kkt/heartbeat", "GET /health", "GET /web/health"):
            assert known in response.json()["error"]

    @pytest.mark.parametrize("target", named({
        "query": PATH + "?shop=7",
        "empty query": PATH + "?",
        "absolute": "http://odoo.example:8069" + PATH,
        "absolute with query": "HTTP://odoo" + PATH + "?a=b",
    }))
    def test_query_and_absolute_form_do_not_matter(self, odoo, target):
        assert ask(odoo, request_bytes(path=target)).status == 200

    def test_login_leads_to_a_page_in_html(self, odoo):
        odoo.play("login")
        with open_url(odoo.heartbeat_url, BODY) as response:
            assert response.url == odoo.url + "/web/login"
            assert response.headers.get_content_type() == "text/html"


class TestBodies:
    @pytest.mark.parametrize("kind", [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json ;x",
    ])
    def test_a_json_content_type_is_accepted(self, odoo, kind):
        assert send(odoo, "POST", PATH, BODY, {"Content-Type": kind}).status == 200

    @pytest.mark.parametrize("kind", named({
        "text": "text/plain",
        "JSONP": "application/jsonp",
        "form": "application/x-www-form-urlencoded",
        "empty": "",
        "missing": None,
    }))
    def test_another_content_type_is_415(self, odoo, kind):
        response = send(odoo, "POST", PATH, BODY, {} if kind is None else {"Content-Type": kind})
        assert response.status == 415
        told = "missing" if kind is None else kind
        error = f"Content-Type must be application/json; it is {told}"
        assert response.json()["error"] == error
        assert odoo.get_calls()[0].payload == HEARTBEAT

    def test_a_content_coding_is_415(self, odoo):
        response = ask(odoo, request_bytes(BODY, "Content-Encoding: gzip"))
        assert response.status == 415
        assert "'gzip' is not understood" in response.json()["error"]
        assert ask(odoo, request_bytes(BODY, "Content-Encoding: identity")).status == 200

    def test_a_mebibyte_is_accepted_and_not_a_byte_more(self, odoo):
        whole = BODY + b" " * (1048576 - len(BODY))
        assert send(odoo, "POST", PATH, whole, JSON).status == 200
        response = send(odoo, "POST", PATH, whole + b" ", JSON)
        assert (response.status, response.headers["Connection"]) == (413, "close")
        assert response.json() == {"error": "the body is longer than 1048576 bytes"}
        assert [call.reply for call in odoo.get_calls()] == ["ok", "413"]

    def test_413_reaches_a_client_that_goes_on_sending(self, odoo):
        assert ask(odoo, request_bytes(b"x" * 4000000)).status == 413

    @pytest.mark.parametrize("path", [PATH, "/health", "/nowhere"])
    def test_a_rejected_body_never_runs_as_the_next_request(self, odoo, path):
        smuggled = request_bytes(b'{"smuggled": true}')
        request = request_bytes(smuggled, "Content-Type: text/plain", path=path, close=False)
        request = request.replace(b"Content-Type: application/json\r\n", b"", 1)
        first, rest = split(exchange(odoo, request + request_bytes()))
        assert first.status in (404, 405, 415)
        assert only(rest).status == 200
        assert odoo.get_received_heartbeats() == [HEARTBEAT]


class TestChunks:
    @pytest.mark.parametrize("chunked", named({
        "one": b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
        "many": b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        "extension and trailer": (
            b"%X;name=value\r\n%s\r\n000\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY)),
    }))
    def test_a_chunked_body_is_decoded(self, odoo, chunked):
        first, rest = split(exchange(odoo, chunked_bytes(chunked, close=False) + request_bytes()))
        assert (first.status, only(rest).status) == (200, 200)
        assert odoo.get_received_heartbeats() == [HEARTBEAT] * 2

    def test_the_chunks_of_http_client_are_decoded(self, odoo):
        assert send(odoo, "POST", PATH, iter([BODY[:50], BODY[50:]]), JSON).status == 200
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    @pytest.mark.parametrize("chunked", named({
        "negative": b"-1\r\n",
        "0x in front": b"0x2\r\n{}\r\n0\r\n\r\n",
        "a byte too many": b"2\r\n{}}\r\n0\r\n\r\n",
        "no digit": b"g\r\n",
        "no size": b"\r\n",
        "underscore": b"1_0\r\n",
        "plus": b"+2\r\n{}\r\n0\r\n\r\n",
        "nine digits": b"FFFFFFFFF\r\n",
        "bare line feed after the size": b"2\n{}\r\n0\r\n\r\n",
        "a byte too few": b"3\r\n{}\r\n0\r\n\r\n",
        "bare line feed after the chunk": b"2\r\n{}\n0\r\n\r\n",
        "two sizes": b"2 2\r\n{}\r\n0\r\n\r\n",
        "70000 digits": b"5" * 70000,
    }))
    def test_malformed_chunks_are_400_and_the_end(self, odoo, chunked):
        response = ask(odoo, chunked_bytes(chunked + request_bytes(), close=False))
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert "chunk" in response.json()["error"]
        assert odoo.get_received_heartbeats() == []

    @pytest.mark.parametrize("chunked", named({
        "before the size": b"",
        "within the size": b"5",
        "at the first byte": b"5\r\n{",
        "behind the last byte": b'5\r\n{"a":',
        "before the last line": b"2\r\n{}\r\n0\r\n",
    }))
    def test_a_client_that_leaves_within_them_is_told_nothing(self, odoo, chunked):
        with connect(odoo, chunked_bytes(chunked)) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""
        assert (odoo.get_call_count(), odoo.get_unmatched()) == (0, [])

    def test_chunks_past_a_mebibyte_are_413(self, odoo):
        chunk = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
        assert ask(odoo, chunked_bytes(chunk * 40, close=False)).status == 413
        assert [call.reply for call in odoo.get_calls()] == ["413"]

    def test_a_single_huge_chunk_is_413_before_it_comes(self, odoo):
        assert ask(odoo, chunked_bytes(b"7fffffff\r\n")).status == 413

    def test_endless_trailers_are_431(self, odoo):
        chunked = b"2\r\n{}\r\n0\r\n" + b"X: 1\r\n" * 200 + b"\r\n"
        assert ask(odoo, chunked_bytes(chunked)).status == 431


class TestExpect:
    """A client may ask for 100 Continue before it sends the body."""

    def test_100_is_sent_before_the_body(self, odoo):
        request = request_bytes(BODY, "Expect: 100-continue")
        head, blank, body = request.partition(b"\r\n\r\n")
        with connect(odoo, head + blank) as connection:
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert only(read_all(connection)).status == 200

    @pytest.mark.parametrize(("length", "path", "status"), named({
        "too long": (9999999, PATH, 413),
        "wrong path": (10, "/nowhere", 404),
        "wrong method": (10, "/health", 405),
    }))
    def test_a_request_may_be_refused_before_its_body(self, odoo, length, path, status):
        lines = ("Expect: 100-Continue", f"Content-Length: {length}")
        response = ask(odoo, request_bytes(b"", *lines, path=path, close=False))
        assert (response.status, response.headers["Connection"]) == (status, "close")

    @pytest.mark.parametrize("request_", named({
        "no body": request_bytes(b"", "Expect: 100-continue", method="GET", path="/health"),
        "HTTP/1.0": request_bytes(BODY, "Expect: 100-continue", version="HTTP/1.0"),
        "another expectation": request_bytes(BODY, "Expect: something-else"),
    }))
    def test_no_100_comes_where_none_is_due(self, odoo, request_):
        assert ask(odoo, request_).status == 200


class TestConnections:
    def test_requests_may_share_a_connection(self, odoo):
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
        data = exchange(odoo, KEPT * 2 + request_bytes())
        statuses = []
        while data:
            response, data = split(data)
            statuses.append(response.status)
        assert statuses == [200, 500, 429]

    @pytest.mark.parametrize(("version", "lines", "connection"), named({
        "1.1": ("HTTP/1.1", (), None),
        "1.1 close": ("HTTP/1.1", ("Connection: close",), "close"),
        "1.1 close in a list": ("HTTP/1.1", ("Connection: TE, Close",), "close"),
        "1.1 close in a second line": (
            "HTTP/1.1", ("Connection: TE", "Connection: close"), "close"),
        "1.1 closed": ("HTTP/1.1", ("Connection: closed",), None),
        "1.0": ("HTTP/1.0", (), "close"),
        "1.0 keep-alive": ("HTTP/1.0", ("Connection: Keep-Alive",), "keep-alive"),
        "1.2": ("HTTP/1.2", (), None),
    }))
    def test_a_connection_is_kept_as_http_says(self, odoo, version, lines, connection):
        request = request_bytes(BODY, *lines, version=version, close=False)
        first, rest = split(exchange(odoo, request + request_bytes()))
        assert first.status == 200
        assert bool(rest) is (connection != "close")
        assert first.headers["Connection"] == connection

    def test_a_request_may_come_byte_by_byte(self, odoo):
        with connect(odoo) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request_bytes():
                connection.sendall(bytes([byte]))
            assert only(read_all(connection)).status == 200

    def test_every_reply_has_a_date(self, odoo):
        date = post(odoo).headers["Date"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)

    def test_every_reply_is_written_at_once(self, odoo, socket_options):
        # Or a second small reply might wait 40 ms for the acknowledgement of the first.
        assert ask(odoo, request_bytes()).status == 200
        assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in socket_options

    def test_rude_clients_leave_no_trace_in_the_log(self, fresh, caplog, capfd):
        server = fresh()
        for data in (b"", b"\x00", b"POST", request_bytes()[:-5], request_bytes(), b"\x16\x03"):
            close_by_reset(connect(server, data))
        server.stop()
        assert caplog.records == []
        assert capfd.readouterr() == ("", "")


class TestMalformedInput:
    @pytest.mark.parametrize("lines", named({
        "plus": "Content-Length: +2",
        "underscore": "Content-Length: 1_0",
        "negative": "Content-Length: -1",
        "superscript": "Content-Length: \xb2",
        "hexadecimal": "Content-Length: 0x2",
        "no length": "Content-Length:",
        "two numbers": "Content-Length: 2 2",
        "two lengths": "Content-Length: 2\nContent-Length: 3",
        "list of lengths": "Content-Length: 2, 3",
        "length and chunks": "Content-Length: 2\nTransfer-Encoding: chunked",
        "chunks and length": "Transfer-Encoding: chunked\nContent-Length: 2",
        "no colon": "Content-Length: 2\nNo colon",
        "blank before colon": "Content-Length: 2\nSpace : before",
        "folded": "Content-Length: 2\n folded",
        "NUL": "Content-Length: 2\nNul: \0",
        "carriage return": "Content-Length: 2\nCr: a\rb",
        "no name": "Content-Length: 2\n: nameless",
    }))
    def test_malformed_headers_are_400_and_the_end(self, odoo, lines):
        data = b"{}" + request_bytes()
        response = ask(odoo, request_bytes(data, *lines.split("\n"), close=False))
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert response.json()["error"]
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("zeros", [29, 5000, 60000])
    def test_content_length_may_begin_with_many_zeros(self, odoo, zeros):
        length = "0" * zeros + "2"
        assert ask(odoo, request_bytes(b"{}", f"Content-Length: {length}")).status == 200

    def test_many_blanks_in_a_header_take_no_time(self, odoo):
        began = time.monotonic()
        header = b"A:" + b" " * 64000 + b"\0"
        assert ask(odoo, b"GET /health HTTP/1.1\r\n" + header + b"\r\n\r\n").status == 400
        # A careless expression takes 14 s, and holds up the whole process.
        assert time.monotonic() - began < 2

    def test_content_length_may_be_repeated(self, odoo):
        lines = ("Content-Length: 2", "Content-Length: 2")
        assert ask(odoo, request_bytes(b"{}", *lines)).status == 200

    @pytest.mark.parametrize("digits", [13, 5000])
    def test_an_astronomic_content_length_is_413(self, odoo, digits):
        length = "9" * digits
        assert ask(odoo, request_bytes(b"", f"Content-Length: {length}")).status == 413

    @pytest.mark.parametrize(("data", "status"), named({
        "no version": (b"GET /health\r\n\r\n", 400),
        "two blanks": (b"GET  /health HTTP/1.1\r\n\r\n", 400),
        "blank at the end": (b"GET /health HTTP/1.1 \r\n\r\n", 400),
        "small letters": (b"GET /health http/1.1\r\n\r\n", 400),
        "blank in the path": (b"GET /he alth HTTP/1.1\r\n\r\n", 400),
        "NUL": (b"\0\0\0\0\r\n\r\n", 400),
        "hello": (b"hello\n\n", 400),
        "version without dot": (b"GET /health HTTP/11\r\n\r\n", 400),
        "at sign in the method": (b"G@T /health HTTP/1.1\r\n\r\n", 400),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        "HTTP/3": (b"GET /health HTTP/3.0\r\n\r\n", 505),
        "101 headers": (b"GET /health HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431),
        "long header": (b"GET /health HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
        "long path": (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 431),
        "no line break": (b"x" * 70000, 431),
        "gzip": (request_bytes(BODY, "Transfer-Encoding: gzip, chunked"), 501),
        "chunks in HTTP/1.0": (
            request_bytes(BODY, "Transfer-Encoding: chunked", version="HTTP/1.0"), 400),
    }))
    def test_a_malformed_request_is_answered_with_a_status_line_and_json(
        self, odoo, data, status
    ):
        response = ask(odoo, data)
        assert (response.status, response.headers["Connection"]) == (status, "close")
        assert response.headers["Content-Type"] == "application/json"
        assert list(response.json()) == ["error"]
        assert odoo.get_call_count() == 0

    def test_a_hundred_headers_are_fine(self, odoo):
        headers = b"Connection: close\r\n" + b"X: 1\r\n" * 99
        assert ask(odoo, b"GET /health HTTP/1.1\r\n" + headers + b"\r\n").status == 200

    def test_bare_line_feeds_and_a_leading_blank_line_are_fine(self, odoo):
        head = request_bytes(b"", "Content-Length: 2").replace(b"\r\n", b"\n")
        assert ask(odoo, b"\r\n" + head + b"{}").status == 200


class TestBugs:
    """A bug in a user's code is answered and logged, and it ends nothing."""

    def test_a_bug_answers_500_and_is_logged(self, fresh, caplog):
        server = fresh(variant(make_success=lambda self, payload: payload["missing"]))
        response = post(server)
        assert (response.status, list(response.json())) == (500, ["error"])
        assert "KeyError: 'missing'" in caplog.text
        assert caplog.records[0].name == "mock_odoo"
        assert [(call.reply, call.accepted) for call in server.get_calls()] == [("500", False)]
        assert server.get_received_heartbeats() == []

    def test_a_bug_in_the_contract_is_a_call_too_and_the_script_decides_first(
        self, fresh, caplog
    ):
        server = fresh(variant(find_problems=lambda self, payload: {}["shelf"]), strict=True)
        server.play("503")
        assert [post(server).status for _ in range(2)] == [503, 500]
        assert [call.reply for call in server.get_calls()] == ["503", "500"]
        assert "shelf" in caplog.text

    @pytest.mark.parametrize("found", named({
        "numbers": [7],
        "a number": 7,
        "text": "shelf",
        "bytes": b"shelf",
        "a generator of dicts": ({} for _ in "a"),
    }))
    def test_a_contract_that_returns_no_lines_is_a_call_too(self, fresh, caplog, found):
        server = fresh(variant(find_problems=lambda self, payload: found), strict=True)
        assert (post(server).status, server.get_call_count()) == (500, 1)
        assert "make_success or find_problems failed" in caplog.text

    def test_a_bug_outside_the_heartbeat_answers_500_and_is_logged(self, fresh, caplog):
        server = fresh(variant(get_unmatched=lambda self: 1 / 0), control=True)
        assert send(server, "GET", "/_mock/state").status == 500
        assert "ZeroDivisionError" in caplog.text


class TestFaults:
    """A fault counts as what a client sees of it."""

    @pytest.mark.parametrize(("fault", "error"), [
        reset_param("reset", ConnectionResetError),
        ("close", http.client.RemoteDisconnected),
        ("truncate", http.client.IncompleteRead),
        ("garbage", http.client.BadStatusLine),
    ])
    def test_http_client_raises_what_the_real_fault_would(self, odoo, fault, error):
        odoo.play(fault)
        with pytest.raises(error) as caught:
            post(odoo)
        assert type(caught.value) is error
        assert post(odoo).status == 200
        calls = [(call.reply, call.accepted, call.payload) for call in odoo.get_calls()]
        assert calls == [(fault, False, HEARTBEAT), ("ok", True, HEARTBEAT)]

    @pytest.mark.parametrize("fault", [reset_param("reset"), "close", "truncate", "garbage"])
    def test_the_end_is_the_same_every_time(self, odoo, fault):
        odoo.play(f"{fault}*40")
        ends = set()
        for number in range(40):
            # Every other time, more bytes wait to be read. A careless close becomes a reset then.
            with connect(odoo, KEPT * (1 + number % 2)) as connection:
                ends.add(drain(connection)[1])
        assert ends == {"RST" if fault == "reset" else "FIN"}

    def test_close_and_reset_send_not_one_byte(self, odoo):
        odoo.play("close, reset")
        for _ in range(2):
            with connect(odoo, request_bytes()) as connection:
                assert drain(connection)[0] == b""

    def test_truncate_sends_the_headers_and_half_of_the_body(self, odoo):
        odoo.play("truncate")
        with connect(odoo, KEPT) as connection:
            data, end = drain(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 49" in head
        assert (body, end) == (b'{"status": "ok", "messag', "FIN")

    def test_stall_holds_the_connection_open_and_says_nothing(self, odoo):
        odoo.play("stall")
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(1)
            assert_silent(connection)
        assert post(odoo).status == 200
        assert [call.reply for call in odoo.get_calls()] == ["stall", "ok"]

    def test_drip_waits_before_every_byte_and_takes_its_time(self, odoo, monkeypatch):
        assert getattr(mock_odoo, DRIP_INTERVAL) == 0.1
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0.002)
        odoo.play("drip")
        data, began = b"", time.perf_counter()
        with connect(odoo, request_bytes()) as connection:
            for piece in pieces(connection):
                data += piece
                seconds = time.perf_counter() - began
                assert (len(data) - 1) * 0.002 * 0.8 <= seconds  # where a clock is coarse
        assert only(data).json() == SUCCESS
        assert len(data) * 0.1 > 5  # longer than the time-out of many a client
        assert odoo.get_received_heartbeats() == [HEARTBEAT]

    def test_drip_sends_a_single_byte_and_waits(self, odoo, monkeypatch):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        odoo.play("drip")
        with connect(odoo, request_bytes()) as connection:
            assert connection.recv(65536) == b"H"
            assert_silent(connection)
            odoo.reset()
            assert only(b"H" + read_all(connection)).json() == SUCCESS

    def test_html_is_200_with_a_page(self, odoo):
        odoo.play("html")
        response = post(odoo)
        assert (response.status, response.headers.get_content_type()) == (200, "text/html")
        assert response.body.startswith(b"<!DOCTYPE html>")
        with pytest.raises(ValueError, match="Expecting value|Unexpected"):
            response.json()
        assert odoo.get_received_heartbeats() == []

    def test_login_is_303_to_the_login_page(self, odoo):
        odoo.play("login")
        response = post(odoo)
        assert (response.status, response.headers["Location"]) == (303, "/web/login")
        assert response.body == b""

    @pytest.mark.parametrize("fault", [
        reset_param("reset"),
        "close",
        "truncate",
        "garbage",
        "stall",
    ])
    def test_a_fault_can_be_late(self, odoo, fault):
        odoo.play(f"{fault}@20ms")
        with pytest.raises(FAILED):
            post(odoo, timeout=0.01)
        odoo.wait_for_calls(1)
        odoo.play(f"{fault}@60s")
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(2)
            odoo.reset()
            assert drain(connection)[1] == ("RST" if fault == "reset" else "FIN")

    def test_a_delay_holds_the_reply_back(self, odoo):
        odoo.play("ok@50ms")
        began = time.monotonic()
        assert post(odoo).status == 200
        assert time.monotonic() - began >= 0.03  # the clock of Windows ticks every 16 ms

    def test_the_delay_of_one_client_holds_up_no_other(self, odoo):
        odoo.play("ok@60s")
        slow = in_background(post, odoo)
        odoo.wait_for_calls(1)
        assert post(odoo).status == 200
        assert slow.is_alive()

    def test_expired_is_200_with_the_error_of_a_json_route(self, odoo):
        odoo.play("expired")
        response = post(odoo)
        answer = response.json()
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", None)
        assert answer["error"]["code"] == 100
        assert answer["error"]["message"] == "Odoo Session Expired"
        assert answer["error"]["data"]["name"] == "odoo.http.SessionExpiredException"
        assert [(call.reply, call.accepted) for call in odoo.get_calls()] == [("expired", False)]
        assert odoo.get_received_heartbeats() == []


class TestLettingGo:
    """A slow reply ends at once on reset, stop and down, and when its client leaves."""

    SLOW = ("ok@60s", "503@60s", "stall", "stall@60s", "drip", "reset@60s")

    @pytest.mark.parametrize("script", SLOW)
    @stop_and_down
    def test_stop_and_down_cut_it(self, fresh, new_threads, script, end):
        server = fresh()
        server.play(f"{script}*3")
        clients = [in_background(post, server, HEARTBEAT, 60) for _ in range(3)]
        server.wait_for_calls(3)
        end(server)
        for client in clients:
            assert isinstance(client.result(), FAILED)
        server.stop()
        assert new_threads() == []

    def test_a_call_that_a_reset_overtakes_is_forgotten_and_spares_the_next_script(self, fresh):
        def make_success(self, payload):
            judging.set()
            go_on.wait(PATIENCE)
            return payload

        judging, go_on = threading.Event(), threading.Event()
        server = fresh(variant(make_success=make_success))
        with connect(server, request_bytes()) as connection:
            judging.wait(PATIENCE)
            server.reset()
            server.play("503")
            go_on.set()
            assert only(read_all(connection)).status == 200
        assert (server.get_call_count(), server.script) == (0, "503")

    @pytest.mark.parametrize(("script", "outcome"), [
        ("ok@60s", 200),
        ("503@60s", 503),
        ("drip", 200),
        ("html@60s", 200),
        ("stall", http.client.RemoteDisconnected),
        ("stall@60s", http.client.RemoteDisconnected),
        reset_param("reset@60s", ConnectionResetError),
    ])
    def test_a_reset_sends_the_rest_at_once(self, odoo, script, outcome):
        odoo.play(script)
        client = in_background(post, odoo, HEARTBEAT, 60)
        odoo.wait_for_calls(1)
        odoo.reset()
        result = client.result()
        assert (result.status if isinstance(outcome, int) else type(result)) == outcome
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("script", SLOW)
    def test_a_client_that_closes_its_half_ends_it(self, odoo, monkeypatch, script):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        odoo.play(script)
        with connect(odoo, KEPT) as connection:
            odoo.wait_for_calls(1)
            connection.shutdown(socket.SHUT_WR)
            drain(connection)  # which would time out

    @on_linux
    @pytest.mark.parametrize("script", SLOW)
    def test_a_client_that_leaves_ends_it(self, fresh, monkeypatch, script):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        server = fresh()
        server.play(script)
        before = descriptors()
        with connect(server, KEPT):
            server.wait_for_calls(1)
            assert descriptors() >= before + 2  # the client's and the server's
        until(lambda: descriptors() <= before)

    @pytest.mark.skipif(
        not hasattr(select, "POLLRDHUP"), reason="no POLLRDHUP here: bytes look like leaving"
    )
    def test_a_client_that_sends_more_has_not_left(self, fresh):
        server = fresh()
        server.play("ok@60s")
        with connect(server, KEPT) as connection:
            server.wait_for_calls(1)
            connection.sendall(request_bytes())
            assert_silent(connection)

    @pytest.mark.parametrize("steer", named({
        "play": lambda server: server.play("503"),
        "set_success": MockOdooServer.set_success,
        "set_failure_count": lambda server: server.set_failure_count(1),
        "set_permanent_failure": MockOdooServer.set_permanent_failure,
        "forget": MockOdooServer.forget,
    }))
    @pytest.mark.parametrize("script", ["ok@60s", "stall"])
    def test_a_new_script_does_not_end_it(self, odoo, monkeypatch, script, steer):
        monkeypatch.setattr(mock_odoo, "HUNG_UP", 0)  # so that it looks all the time
        monkeypatch.setattr(mock_odoo, "GLANCE", 0.001)
        odoo.play(script)
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(1)
            steer(odoo)
            assert_silent(connection)

    def test_a_client_that_closes_its_half_gets_the_rest_at_once(self, odoo, monkeypatch):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        odoo.play("ok@60s, drip")
        for _ in range(2):
            with connect(odoo, request_bytes()) as connection:
                odoo.wait_for_calls(1)
                connection.shutdown(socket.SHUT_WR)
                assert only(read_all(connection)).json() == SUCCESS

    def test_a_new_reply_is_not_let_go_by_an_old_reset(self, odoo):
        odoo.play("stall")
        first = in_background(post, odoo)
        odoo.wait_for_calls(1)
        odoo.reset()
        odoo.play("stall")
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(1)
            assert_silent(connection)
        assert isinstance(first.result(), http.client.RemoteDisconnected)

    def test_without_poll_it_works_by_select(self, fresh, monkeypatch):
        monkeypatch.setattr(mock_odoo, "make_poll", None)
        monkeypatch.setattr(mock_odoo, "HUNG_UP", 0)
        server = fresh()
        server.play("ok@20ms, stall, stall")
        assert post(server).status == 200
        client = in_background(post, server)
        server.wait_for_calls(2)
        server.reset()
        assert isinstance(client.result(), http.client.RemoteDisconnected)


# ------------------------------------------------------------------------------------------
# Listener: every socket and every thread, from start to stop
# ------------------------------------------------------------------------------------------


class TestLifecycle:
    def test_a_new_server_binds_nothing(self):
        assert MockOdooServer(port=0).port == 0
        with MockOdooServer(port=0) as server:
            MockOdooServer(port=server.port)

    def test_a_free_port_is_told_and_kept_over_a_restart(self, fresh):
        server = fresh()
        port = server.port
        assert port > 0
        assert server.heartbeat_url == f"http://127.0.0.1:{port}{PATH}"
        server.stop()
        server.start()
        assert server.port == port
        assert post(server).status == 200

    @pytest.mark.parametrize("name", ["url", "heartbeat_url"])
    def test_a_free_port_has_no_address_before_it_is_taken(self, name):
        server = MockOdooServer(port=0)
        with pytest.raises(RuntimeError, match="call start\\(\\) before you ask"):
            getattr(server, name)
        assert " stopped, " in repr(server)

    def test_a_busy_port_is_an_oserror_with_a_way_out(self, odoo):
        other = MockOdooServer(port=odoo.port)
        complaint = f"cannot listen on 127.0.0.1, port {odoo.port}: .*; .*port=0"
        with pytest.raises(OSError, match=complaint) as caught:
            other.start()
        assert caught.value.errno == errno.EADDRINUSE
        assert not other.is_running
        other.stop()
        assert post(odoo).status == 200

    def test_a_foreign_address_is_an_oserror_with_a_way_out(self):
        remedy = "host must be an address of this machine"
        complaint = f"cannot listen on 192.0.2.1, port 0: .*; {remedy}"
        with pytest.raises(OSError, match=complaint):
            MockOdooServer(port=0, host="192.0.2.1").start()

    @pytest.mark.parametrize(("cause", "remedy"), named({
        "access": (OSError(errno.EACCES, "no"), "no; take a port above 1023"),
        "descriptors": (OSError(errno.EMFILE, "full"), "full$"),
        "name": (
            socket.gaierror(socket.EAI_NONAME, "who"),
            "who; host must be an address of this machine",
        ),
    }))
    def test_the_way_out_fits_the_error(self, cause, remedy):
        server = MockOdooServer(port=80)
        complaint = f"cannot listen on 127.0.0.1, port 80: {remedy}"
        with failing_sockets("bind", 80, cause), pytest.raises(OSError, match=complaint):
            server.start()
        assert not server.is_running

    def test_a_port_is_free_after_it_was_busy(self, fresh):
        first = fresh()
        second = MockOdooServer(port=first.port)
        with pytest.raises(OSError, match="cannot listen"):
            second.start()
        first.stop()
        with second:
            assert post(second).status == 200

    @on_linux
    def test_a_start_that_fails_half_way_leaves_nothing(self, new_threads):
        before = descriptors()
        server = MockOdooServer(port=0)
        with out_of_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
        assert not server.is_running
        assert descriptors() <= before
        assert new_threads() == []
        with server:
            assert post(server).status == 200

    def test_a_second_start_names_the_address_and_the_way_out(self, odoo):
        complaint = f"already running at {odoo.url}; call stop() first"
        with pytest.raises(RuntimeError, match=re.escape(complaint)):
            odoo.start()

    def test_a_stop_without_a_start_is_harmless(self):
        server = MockOdooServer(port=0)
        server.stop()
        server.start()
        server.stop()
        server.stop()
        assert not server.is_running

    def test_is_running_is_true_from_start_to_stop(self, fresh):
        server = fresh()
        states = [server.is_running]
        server.down()
        states.append(server.is_running)
        server.stop()
        states.append(server.is_running)
        assert states == [True, True, False]
        assert " stopped, " in repr(server)

    def test_a_with_block_stops_after_an_exception(self):
        with pytest.raises(KeyError), MockOdooServer(port=0) as server:
            raise KeyError
        assert refused(server)

    @pytest.mark.parametrize(("host", "advertised"), [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        pytest.param("::1", "[::1]", marks=needs_ipv6),
        pytest.param("::", "[::1]", marks=needs_ipv6),
    ])
    def test_the_url_leads_there_whatever_the_host(self, fresh, host, advertised):
        server = fresh(host=host)
        assert server.url == f"http://{advertised}:{server.port}"
        with open_url(server.url + "/health") as response:
            assert json.load(response) == {"status": "ok"}

    @needs_ipv6
    def test_a_client_address_has_two_parts_in_ipv6_too(self, fresh):
        server = fresh(host="::1")
        with open_url(server.heartbeat_url, BODY):
            assert [len(call.client) for call in server.get_calls()] == [2]

    @pytest.mark.parametrize(("kwargs", "error", "complaint"), named({
        "port -1": (
            {"port": -1}, ValueError, "port must be a whole number from 0 to 65535, not -1"),
        "port 65536": ({"port": 65536}, ValueError, "not 65536"),
        "port as text": ({"port": "8069"}, TypeError, "not '8069'"),
        "port as flag": ({"port": True}, TypeError, "not True"),
        "host None": ({"host": None}, TypeError, "host must be text"),
        "host empty": (
            {"host": ""},
            ValueError,
            "host must not be empty; '0.0.0.0' listens on every address",
        ),
        "max_calls 0": (
            {"max_calls": 0}, ValueError, "max_calls must be a whole number, 1 or more, not 0"),
        "max_calls as text": ({"max_calls": "9"}, TypeError, "max_calls"),
        "strict 1": ({"strict": 1}, TypeError, "strict must be True or False"),
        "ssl_context as text": (
            {"ssl_context": "cert.pem"}, TypeError, "ssl_context must be an ssl"),
        "ssl_context of a client": (
            {"ssl_context": ssl.create_default_context()},
            ValueError,
            "ssl_context must be a server's",
        ),
        "control as text": ({"control": "yes"}, TypeError, "control must be True or False"),
    }))
    def test_bad_arguments_are_named(self, kwargs, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            MockOdooServer(**kwargs)

    @pytest.mark.parametrize("path", [
        "", "api/receipt", "/a b", "/a?b", "/a#b", "/чек", b"/a", None
    ])
    def test_an_endpoint_that_nobody_could_reach_is_refused(self, path):
        complaint = f"endpoint must be a path like /api/v2/receipt, not {path!r}"
        with pytest.raises(ValueError, match=re.escape(complaint)):
            variant(endpoint=path)()

    @pytest.mark.parametrize(("path", "remedy"), named({
        "Flask": ("/api/devices/<id>/heartbeat", "/api/devices/7/heartbeat"),
        "Flask with a type": ("/api/<int:id>", "/api/7"),
        "FastAPI": ("/api/{id}/heartbeat", "/api/7/heartbeat"),
        "a star": ("/api/*", "/api/7"),
    }))
    def test_an_endpoint_with_a_placeholder_is_refused_with_a_way_out(self, path, remedy):
        with pytest.raises(ValueError, match=re.escape(f"{path!r} could be {remedy!r}")):
            variant(endpoint=path)()

    @pytest.mark.parametrize("path", ["/", "/health", "/web/login", "/_mock"])
    def test_an_endpoint_may_share_the_path_of_a_page(self, fresh, path):
        server = fresh(variant(endpoint=path), control=True)
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
            assert ask(server, request_bytes()).status == 200
        finally:
            socket.setdefaulttimeout(None)

    def test_the_fixture_starts_a_server_that_a_test_has_stopped(self, odoo_server, request):
        odoo_server.stop()
        assert post(request.getfixturevalue("odoo")).status == 200

    def test_the_fixture_ends_an_outage_and_a_script(self, odoo_server, request):
        odoo_server.play("503*")
        odoo_server.down()
        assert post(request.getfixturevalue("odoo")).status == 200


#: Every method, in the order of a life. Each is told by a mark before it is called.
LIFE = """
import atexit, mock_odoo, os, sys

EVENTS = []

def use(server, write=os.write, errors=(RuntimeError, OSError)):
    for method, *args in [
        ("get_call_count",), ("get_calls",), ("get_events",), ("__repr__",),
        ("set_success",), ("play", "503"), ("forget",), ("reset",), ("wait_for_calls", 0),
        ("down", 0), ("down",), ("up",), ("down", 60), ("reset",), ("stop",), ("start",),
        ("down",), ("stop",), ("stop",),
    ]:
        write(1, method.encode() + b" ")
        try:
            getattr(server, method)(*args)
        except errors as error:
            # a new thread cannot be had any longer, and so neither can a server
            allowed = ("thread", "not running", "already running", "interpreter")
            assert any(words in str(error) for words in allowed), error
    write(1, b"end\\n")

def new_server():
    return mock_odoo.MockOdooServer(
        port=0, on_call=EVENTS.append, on_event=EVENTS.append, control=True)
"""

AT_THE_END = {
    "abandoned": """
server = new_server()
server.start()
os.write(1, b"end\\n")
""",
    "a generator fixture": """
def fixture(use=use):
    try:
        with new_server() as server:
            yield server
    finally:
        use(server)

generator = fixture()
server = next(generator)
""",
    "a generator fixture within another": """
def outer(use=use):
    try:
        with new_server() as server:
            yield server
    finally:
        use(server)

def inner():
    yield from outer()

generator = inner()
next(generator).down(60)
""",
    "__del__ of a running server": """
class Environment:
    def __init__(self):
        self.server = new_server()
        self.server.start()

    def __del__(self, use=use):
        use(self.server)

environment = Environment()
""",
    "__del__ of a stopped server": """
class Environment:
    def __init__(self):
        self.server = new_server()
        self.server.start()
        self.server.stop()

    def __del__(self, use=use):
        use(self.server)

environment = Environment()
""",
    "__del__ with a delayed reply": """
import socket

class Environment:
    def __init__(self):
        self.server = new_server()
        self.server.start()
        self.server.play("stall*")
        self.client = socket.create_connection(("127.0.0.1", self.server.port))
        self.client.sendall(b"POST /api/v1/kkt/heartbeat HTTP/1.1\\r\\n\\r\\n")
        self.server.wait_for_calls(1)

    def __del__(self, use=use):
        use(self.server)
        self.client.close()

environment = Environment()
""",
    "atexit": """
server = new_server()
server.start()
atexit.register(use, server)
""",
    "an outage that is about to end": """
server = new_server()
server.start()
server.down(0.0001)
os.write(1, b"end\\n")
""",
}


class TestEndOfTheInterpreter:
    """The process always ends, at once, whatever is called at its end."""

    @pytest.mark.parametrize("code", named(AT_THE_END))
    def test_it_ends(self, code):
        done = run_python("-W", "ignore", "-c", LIFE + code)
        assert done.returncode == 0
        if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
            # PyPy calls nothing then; without the GIL, the module has lost its names by then
            assert done.stdout[-4:] == "end\n"
            if sys.version_info[:2] != (3, 7):  # it may complain of any thread that still lives
                assert done.stderr == ""


class TestThreadsAndDescriptors:
    @on_linux
    def test_hundreds_of_cycles_leave_nothing(self, new_threads):
        server = MockOdooServer(port=0)
        for cycle in range(300):
            server.start()
            if cycle == 10:
                before = descriptors()
            connection = connect(server, request_bytes()[:cycle])
            if cycle % 3 == 0:
                server.down()
            server.stop()
            connection.close()
        assert descriptors() <= before + 1
        assert new_threads() == []

    @on_linux
    def test_finished_connections_leave_no_descriptor_and_few_threads(self, fresh, new_threads):
        server = fresh()
        before, kept = descriptors(), server_threads_in_memory()
        for _ in range(5):
            server.play("ok@60s*")
            clients = [in_background(post, server) for _ in range(60)]
            server.wait_for_calls(60)
            server.reset()
            assert [client.result().status for client in clients] == [200] * 60
        until(lambda: descriptors() <= before and len(new_threads(WORKER)) <= MAX_IDLE_WORKERS)
        server.stop()
        assert new_threads() == []
        assert server_threads_in_memory() - kept <= MAX_IDLE_WORKERS + 60  # of 172 that there were

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.ECONNRESET])
    def test_a_client_that_has_left_again_holds_up_no_other(self, fresh, monkeypatch, number):
        monkeypatch.setattr(mock_odoo, REST, 60.0)
        server = fresh()
        error = OSError(number, os.strerror(number))
        with failing_sockets("_accept", server.port, error, times=20) as failures:
            assert post(server).status == 200
        assert len(failures) == 20

    def test_a_client_without_an_address_is_served(self, fresh, monkeypatch):
        """macOS gives none for a client that has reset."""
        real = socket.SocketType._accept
        monkeypatch.setattr(
            FakeSocket, "_accept", lambda self: (real(self)[0], None), raising=False)
        server = fresh()
        assert [post(server).status for _ in range(2)] == [200, 200]
        assert [call.client for call in server.get_calls()] == [("", 0)] * 2

    def test_nothing_but_close_ends_the_acceptor(self, fresh, caplog):
        server = fresh()
        with failing_sockets("_accept", server.port, TypeError("on purpose"), times=3):
            assert post(server).status == 200
        assert [record.getMessage() for record in caplog.records] == [
            "a connection could not be accepted"] * 3

    def test_out_of_descriptors_it_can_be_stopped_at_once(self, fresh, monkeypatch):
        monkeypatch.setattr(mock_odoo, REST, 60.0)
        server = fresh()
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with failing_sockets("_accept", server.port, error) as failures, connect(server) as client:
            until(lambda: failures)
            server.stop()  # which would tell of a thread that has not ended
            assert drain(client)[0] == b""

    def test_out_of_descriptors_it_waits_and_goes_on(self, fresh):
        server = fresh()
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with failing_sockets("_accept", server.port, error, times=2) as failures:
            assert post(server).status == 200
        assert len(failures) == 2

    def test_out_of_threads_it_waits_and_goes_on(self, fresh):
        server = fresh()
        with contextlib.ExitStack() as stack:
            with out_of_threads():
                connection = stack.enter_context(connect(server, request_bytes()))
                assert_silent(connection)
            assert only(read_all(connection)).status == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestForked:
    """A forked child inherits the sockets, but not the threads."""

    @pytest.fixture
    def fork(self):
        """Fork children that live until the test ends."""
        children = []

        def fork():
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                os.close(writing)
                os.read(reading, 1)  # until the parent is done
                os._exit(0)
            os.close(reading)
            children.append((child, writing))

        yield fork
        for child, writing in children:
            os.close(writing)
            os.waitpid(child, 0)

    def test_a_child_does_not_hold_the_port(self, fresh, fork):
        server = fresh()
        fork()
        server.stop()
        assert refused(server)
        server.start()
        assert post(server).status == 200

    def test_a_child_that_stops_its_copy_does_not_stop_ours(self, fresh):
        server = fresh()
        child = os.fork()
        if not child:
            server.stop()
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert post(server).status == 200

    @pytest.mark.parametrize("method", ["stop", "reset", "down", "start", "get_calls", "play"])
    def test_a_child_forked_while_on_call_runs_waits_for_nothing(self, fresh, method):
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(PATIENCE)))
        client = in_background(post, server)
        entered.wait(PATIENCE)
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            began = time.perf_counter()
            with contextlib.suppress(RuntimeError, OSError):  # not running; the port is taken
                getattr(server, method)(*(["503"] if method == "play" else []))
                server.stop()
            os._exit(time.perf_counter() - began > 2)
        assert os.waitpid(child, 0) == (child, 0)
        leave.set()
        assert client.result().status == 200

    def test_a_child_forked_in_the_middle_of_a_change_waits_for_nothing(self, changing):
        server, _ = changing
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            server.play("503")
            server.stop()
            os._exit(server.is_running)
        assert os.waitpid(child, 0) == (child, 0)

    def test_a_child_forked_during_an_outage_does_not_hold_the_port(self, fresh, fork):
        server = fresh()
        server.down()
        fork()
        server.up()
        assert post(server).status == 200
        server.down()
        server.stop()
        server.start()
        assert post(server).status == 200


#: What both scripts below begin with: the timer raises this, once for each time it is armed.
INTERRUPTION = """
import signal

class Interruption(BaseException):
    pass

def interrupt(*args):
    global armed
    if armed:
        armed = False
        raise Interruption
"""


#: Interrupts one method of the server at a random moment, often.
#: Prints how often it hit, and what was left.
INTERRUPT = INTERRUPTION + """
import os, random, socket, sys, threading, time
from mock_odoo import MockOdooServer

REQUEST = b"POST /api/v1/kkt/heartbeat HTTP/1.1\\r\\nContent-Length: 0\\r\\n\\r\\n"

def servers_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mock_odoo")]

name, hits, left, armed = sys.argv[1], 0, [], False
signal.signal(signal.SIGALRM, interrupt)
for _ in range(120):
    server, clients = MockOdooServer(port=0), []
    if name != "start":
        server.start()
        server.play("stall, ok@60s")
        for _ in range(2):
            clients.append(socket.create_connection(("127.0.0.1", server.port)))
            clients[-1].sendall(REQUEST)
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


#: Interrupts one method again and again; then a client must still be answered.
INTERRUPT_OFTEN = INTERRUPTION + """
import urllib.request
from mock_odoo import MockOdooServer

def call_until_interrupted():
    global armed
    armed = True
    signal.setitimer(signal.ITIMER_REAL, 0.0007)
    while armed:
        server.%s

signal.signal(signal.SIGALRM, interrupt)
armed = False
with MockOdooServer(port=0) as server:
    for _ in range(200):
        try:
            call_until_interrupted()
        except Interruption:
            pass
    server.set_success()
    beat = urllib.request.Request(server.heartbeat_url, b"{}")
    beat.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(beat, timeout=30) as response:
        response.read()
print("alive")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that interrupts")
class TestInterrupted:
    """A signal handler that raises may interrupt the main thread anywhere."""

    @pytest.fixture
    def on_alarm(self):
        """Have a function called when the timer rings."""
        before = signal.getsignal(signal.SIGALRM)
        yield lambda handler: signal.signal(signal.SIGALRM, handler)
        signal.signal(signal.SIGALRM, before)

    @pytest.mark.parametrize("name", ["start", "stop", "down", "up", "reset"])
    def test_nothing_is_left_after_a_second_stop(self, name):
        done = run_python(
            "-W", "ignore", "-c", INTERRUPT, name, stderr=subprocess.DEVNULL, timeout=120
        )
        done.check_returncode()
        hits, left = done.stdout.split(" ", 1)
        assert (int(hits) > 0, left) == (True, "[]\n")

    def test_the_server_goes_on_after_any_interrupted_method(self):
        reading = ("get_call_count()", "get_calls()", "script", "wait_for_calls(0)")
        for call in (*reading, "play('503')", "reset()"):
            done = run_python("-W", "ignore", "-c", INTERRUPT_OFTEN % call, timeout=120)
            assert (call, done.stdout, done.returncode) == (call, "alive\n", 0)

    def test_a_stop_in_a_signal_handler_ends_whatever_it_interrupts(self, new_threads, on_alarm):
        done = []

        def stop(*args):
            server.stop()
            done.append(True)

        on_alarm(stop)
        for name in ("get_calls", "get_call_count", "reset", "down", "up") * 10:
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

    def test_a_stop_in_a_signal_handler_may_interrupt_a_wait(self, fresh, on_alarm):
        server = fresh()
        on_alarm(lambda *args: server.stop())
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(TimeoutError):
            server.wait_for_calls(1, timeout=0.1)
        assert refused(server)


#: What well-known test tools and test suites replace, as a whole or in part.
PATCHED = [
    "threading.Event", "threading.Event.wait", "threading.Event.set", "threading.Thread",
    "threading.Thread.start", "threading.Thread.join", "threading.Lock", "threading.RLock",
    "threading.Condition", "threading.Condition.wait", "threading.Timer", "threading.local",
    "threading.current_thread", "threading.get_ident", "_thread.start_new_thread",
    "_thread.allocate_lock", "socket.socket", "socket.socket.accept", "socket.socket.recv",
    "socket.socket.recv_into", "socket.socket.send", "socket.socket.sendall",
    "socket.socket.connect", "socket.socket.bind", "socket.socket.listen", "socket.socket.close",
    "socket.socket.shutdown", "socket.socket.makefile", "socket.socket.settimeout",
    "socket.socket.setsockopt", "socket.create_connection", "socket.socketpair",
    "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostname", "socket.getfqdn",
    "socketserver.StreamRequestHandler.setup", "socketserver.TCPServer.server_bind",
    "select.select", "select.poll", "selectors.DefaultSelector", "logging.getLogger",
    "logging.Logger.exception", "logging.Logger.handle", "logging.LogRecord", "json.dumps",
    "json.loads", "json.JSONEncoder", "json.JSONDecoder", "datetime.datetime", "datetime.date",
    "http.client", "http.client.HTTPConnection", "http.client.HTTPResponse",
    "http.client.HTTPMessage", "http.client.responses", "http.server.BaseHTTPRequestHandler",
    "urllib.request.urlopen", "urllib.parse.parse_qsl", "builtins.open", "builtins.print",
    "io.open", "os.environ", "os.getpid", "os.urandom", "random.random", "uuid.uuid4",
    "weakref.ref", "queue.Queue", "sys.stdout", "sys.stderr",
    *(f"time.{name}" for name in CLOCKS),
]
PATCHED = [name for name in PATCHED if hasattr(*name_and_module(name))]
LOGGED = ("logging.", "time.", "threading.", "io.", "os.", "sys.", "builtins.")  # what a log needs


class TestPatchedWorld:
    """Tests replace parts of the standard library while the fake runs. It took its own before."""

    @staticmethod
    def use(server, patched):
        """Use a server whose world is patched; what its methods returned, and its answers."""
        old, outcomes = bare_client(server), []
        with contextlib.closing(old), contextlib.ExitStack() as stack, patched:
            outcomes.append(in_time(lambda: beat(old)))
            for call in (
                server.down, server.up, lambda: server.down(0.001), server.reset,
                lambda: server.play("503, ok"), lambda: server.wait_for_calls(0),
                server.stop, server.start,
            ):
                outcomes.append(in_time(call, 8))
            new = stack.enter_context(contextlib.closing(bare_client(server)))
            outcomes += [in_time(lambda: beat(new)), in_time(lambda: beat(new))]
            outcomes.append(in_time(server.stop, 8))
        return outcomes

    @pytest.mark.parametrize("target", PATCHED)
    @pytest.mark.parametrize("side_effect", named({
        "a mock": None,
        "a mock that raises": AssertionError("a part of the world that must not be used"),
    }))
    def test_it_answers_and_every_method_returns(self, fresh, target, side_effect):
        server = fresh(on_event=lambda event: None, on_call=lambda call: None)
        outcomes = self.use(server, mock.patch(target, side_effect=side_effect))
        answers = [each[:12] for each in outcomes if isinstance(each, bytes)]
        assert answers == [b"HTTP/1.1 200", b"HTTP/1.1 503", b"HTTP/1.1 200"]
        assert [each for each in outcomes if not isinstance(each, bytes)] == [
            None, None, None, None, None, [], None, None, None]

    @pytest.mark.parametrize("target", [name for name in PATCHED if name.startswith(LOGGED)])
    def test_a_function_that_fails_costs_no_answer(self, fresh, target):
        fails = fresh(on_event=lambda event: 1 / 0, on_call=lambda call: 1 / 0)
        with mock.patch(target), contextlib.closing(bare_client(fails)) as client:
            assert in_time(lambda: beat(client)).startswith(b"HTTP/1.1 200")
            assert in_time(fails.stop, 8) is None

    @pytest.mark.parametrize("script", [word for word in mock_odoo.FAULTS if word != "drip"])
    @pytest.mark.parametrize("part", ["socket.socket", "threading.Event", "threading.Thread"])
    def test_a_fault_is_as_real_as_ever(self, fresh, part, script):
        server = fresh()
        server.play(script)
        with contextlib.closing(bare_client(server)) as client, mock.patch(part):
            client.sendall(KEPT)
            server.wait_for_calls(1)
            server.down()
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536):
                    pass


class TestStop:
    """What stop() promises, whatever the rest of the program does."""

    def test_it_cuts_idle_and_half_sent_requests(self, fresh, new_threads):
        server = fresh()
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(connect(server, data))
                for data in (KEPT, request_bytes()[:-10], b"")
            ]
            assert connections[0].recv(65536)
            server.stop()
            assert new_threads() == []
            for connection in connections:
                assert drain(connection)[0] == b""
        assert refused(server)

    def test_it_cuts_a_client_that_does_not_read(self, fresh, new_threads, wakes_senders):
        server = fresh()
        server.play(Reply(200, b"x" * 50000000))
        with connect(server, request_bytes()):
            server.wait_for_calls(1)
            server.stop()
            assert new_threads() == []

    def test_it_ends_hundreds_of_slow_clients(self, fresh, new_threads):
        needs_descriptors(900)
        server = fresh()
        server.play("stall*200, ok@60s*")
        with contextlib.ExitStack() as stack:
            for number in range(400):
                data = request_bytes() if number % 4 else request_bytes()[:-1]
                stack.enter_context(connect(server, data))
            server.wait_for_calls(300, timeout=120)
            server.stop()
            assert new_threads() == []
        assert refused(server)

    def test_it_may_be_called_by_many_threads_at_once(self, fresh, new_threads):
        server = fresh()
        server.play("stall*")
        clients = [in_background(post, server) for _ in range(20)]
        server.wait_for_calls(20)

        def stop():
            server.stop()
            return new_threads()

        stopping = [in_background(stop) for _ in range(5)]
        assert [thread.result() for thread in stopping] == [[]] * 5
        for client in clients:
            client.result()

    def test_requests_that_came_before_it_are_not_answered_after_it(self, fresh):
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(5)))
        with connect(server, KEPT * 5):
            entered.wait(5)
            stopping = in_background(server.stop)
            until(lambda: refused(server))
            leave.set()
            stopping.result()
        assert server.get_call_count() == 1

    @stop_and_down
    def test_calls_that_wait_for_their_turn_are_not_recorded_after_it(self, fresh, end):
        def make_success(self, payload):
            entered.set()
            leave.wait(PATIENCE)
            return payload

        entered, leave = threading.Event(), threading.Event()
        server = fresh(variant(make_success=make_success))
        clients = [in_background(try_post, server) for _ in range(5)]
        entered.wait(PATIENCE)
        ending = in_background(end, server)
        until(lambda: refused(server))
        leave.set()
        for each in [ending, *clients]:
            each.result()
        server.stop()  # and all threads have ended
        assert server.get_call_count() == 1

    def test_it_ends_a_wait_in_a_route_that_has_begun_an_outage(self, fresh):
        def route(request):
            server.down()
            waiting.set()
            with contextlib.suppress(TimeoutError):
                server.wait_for_calls(1, timeout=PATIENCE)
            return Reply(200)

        waiting, server = threading.Event(), fresh()
        server.routes["/x"] = {"GET": route}
        client = in_background(send, server, "GET", "/x")
        waiting.wait(PATIENCE)
        server.stop()
        client.result()

    def test_in_on_event_it_cuts_the_client_whose_request_is_told(self, fresh):
        server = fresh(on_event=lambda event: event["event"] == "request" and server.stop())
        server.routes["/x"] = {"GET": lambda request: Reply(200)}
        with connect(server, request_bytes(b"", method="GET", path="/x", close=False)) as connection:
            drain(connection)  # to its end, which would not come

    def test_it_tells_of_a_function_that_hangs(self, fresh, monkeypatch):
        monkeypatch.setattr(mock_odoo, STOP_PATIENCE, 0.4)
        entered, leave = threading.Event(), threading.Event()
        server = fresh(on_call=lambda call: (entered.set(), leave.wait(PATIENCE)))
        client = in_background(post, server)
        entered.wait(PATIENCE)
        complaint = "on_call has not ended in 0 s: a function of yours hangs"
        with pytest.raises(RuntimeError, match=complaint):
            server.stop()
        assert refused(server)
        leave.set()
        client.result()
        monkeypatch.undo()
        server.stop()

    def test_it_gives_a_function_five_seconds(self):
        assert getattr(mock_odoo, STOP_PATIENCE) == 5.0

    @pytest.mark.parametrize("name", ["make_success", "GET /slow", "on_event"])
    def test_it_names_the_function_that_hangs(self, monkeypatch, name):
        def hang(*args):
            entered.set()
            leave.wait(PATIENCE)
            return Reply()

        monkeypatch.setattr(mock_odoo, STOP_PATIENCE, 0.1)
        entered, leave = threading.Event(), threading.Event()
        on_event = hang if name == "on_event" else None
        server = variant(make_success=hang)(port=0, on_event=on_event)
        server.routes["/slow"] = {"GET": hang}
        server.start()
        if name != "on_event":
            method, path = ("GET", "/slow") if name == "GET /slow" else ("POST", PATH)
            client = in_background(send, server, method, path, b"{}", JSON)
        entered.wait(PATIENCE)
        with pytest.raises(RuntimeError, match=f"{name}.* has not ended in 0 s: a function of you"):
            server.stop()
        leave.set()
        monkeypatch.undo()
        server.stop()
        if name != "on_event":
            assert isinstance(client.result(), FAILED)

    def test_in_a_route_it_spares_the_client_of_that_route_alone(self, fresh):
        server = fresh()
        server.routes["/stop"] = {"GET": lambda request: server.stop() or Reply(200, "bye")}
        server.play("stall")
        with connect(server, request_bytes()) as bystander:
            server.wait_for_calls(1)
            assert send(server, "GET", "/stop").body == b"bye"
            assert drain(bystander)[0] == b""
        assert refused(server)

    def test_in_make_success_it_spares_the_client_of_that_heartbeat_alone(self, fresh):
        server = fresh(variant(make_success=lambda self, payload: self.stop() or {"bye": 1}))
        server.play("stall, ok")
        with connect(server, request_bytes()) as bystander:
            server.wait_for_calls(1)
            assert post(server).json() == {"bye": 1}
            assert drain(bystander)[0] == b""

    def test_in_on_unmatched_it_spares_the_client_that_missed_alone(self, fresh):
        server = fresh(on_unmatched=lambda what: server.stop())
        server.play("stall")
        with connect(server, request_bytes()) as bystander:
            server.wait_for_calls(1)
            assert send(server, "GET", "/nowhere").status == 404
            assert drain(bystander)[0] == b""

    def test_in_on_event_it_spares_nobody(self, fresh):
        server = fresh(on_event=lambda event: event["event"] == "script" and server.stop())
        server.play("ok")
        until(lambda: refused(server))
        server.start()
        with connect(server) as client:
            server.play("ok")
            assert drain(client)[0] == b""

    def test_a_start_meanwhile_is_not_waited_for(self, fresh):
        started = []
        server = fresh(
            on_event=lambda event: event["event"] == "stop" and not started and (
                started.append(True), server.start()))
        server.stop()
        assert server.is_running
        assert post(server).status == 200

    def test_it_cuts_a_client_whose_own_request_made_an_outage(self, steered, new_threads):
        post(steered, {"padding": "x" * 1000000})
        with connect(steered) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = request_bytes(b'{"seconds": 60}', path="/_mock/down")
            connection.sendall(request.replace(b"Host: odoo", b"Host: localhost"))
            # The reply holds the last heartbeat. It is on its way, and nobody reads it.
            until(lambda: refused(steered))
            steered.stop()
            assert new_threads() == []


class TestAtTheSameTime:
    """Methods that several threads call at once, or that the user's functions call."""

    def test_a_stop_in_on_event_wins_over_the_outage_it_is_told_of(self, fresh, new_threads):
        server = fresh(
            on_event=lambda event: event["event"] == "down" and server.stop())
        server.down()
        until(lambda: not server.is_running)
        until(lambda: new_threads() == [])
        server.start()
        assert post(server).status == 200

    def test_an_up_in_the_middle_of_a_start_leaves_it_idle(self, monkeypatch):
        """Each of its threads sleeps, so that the process uses next to no time."""
        listen, servers = socket.SocketType.listen, []

        def slow(self, *args):
            ups = [threading.Thread(target=servers[-1].up) for _ in range(3)]
            for thread in ups:
                thread.start()
            return listen(self, *args)

        monkeypatch.setattr(FakeSocket, "listen", slow, raising=False)
        for _ in range(10):
            servers.append(MockOdooServer(port=0))
            with servers[-1] as server, connect(server) as connection:
                began = time.process_time()
                assert_silent(connection)
                assert time.process_time() - began < 0.04

    def test_no_call_is_answered_before_on_call_has_seen_it(self, fresh):
        """Not even where the thread of another call tells on_call of it."""

        def on_call(call):
            if call.number == 1:
                until(lambda: server.get_call_count() == 2)
            else:
                seen.set()
                leave.wait(PATIENCE)

        for _ in range(10):
            seen, leave = threading.Event(), threading.Event()
            server = fresh(on_call=on_call)
            clients = [in_background(post, server)]
            server.wait_for_calls(1)
            clients.append(in_background(post, server))
            seen.wait(PATIENCE)
            clients[1].join(0.01)
            assert clients[1].is_alive()
            leave.set()
            for client in clients:
                assert client.result().status == 200
            server.stop()

    def test_on_event_may_stop_the_server_while_a_call_waits_for_it(self, fresh, caplog):
        clients = []

        def on_event(event):
            if event["event"] == "script":
                clients.append(in_background(post, server))
                until(lambda: server.get_call_count() == 1)
                server.stop()

        server = fresh(on_event=on_event)
        server.play("503")
        until(lambda: clients and not server.is_running)
        clients[0].result()
        until(lambda: refused(server))
        assert caplog.records == []

    def test_outages_leave_no_listener_behind(self, fresh):
        server = fresh()
        for _ in range(20):
            server.down(0)
        server.stop()  # so that all their threads have ended
        server.start()
        server.down(0)
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, ThreadingHTTPServer)]
        assert len([each for each in left if getattr(each, "app", None) is server]) < 5


class TestOutage:
    def test_down_refuses_and_cuts_and_up_ends_it(self, fresh):
        server = fresh()
        with connect(server, KEPT) as idle:
            assert idle.recv(65536)
            server.down()
            assert drain(idle)[0] == b""
        assert refused(server)
        assert " down, " in repr(server)
        server.up()
        assert post(server).status == 200
        assert server.get_call_count() == 2

    def test_the_port_stays_reserved(self, fresh):
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

    def test_down_and_up_may_be_repeated(self, fresh):
        server = fresh()
        server.up()
        server.down()
        server.down()
        assert refused(server)
        server.up()
        server.up()
        assert post(server).status == 200

    def test_it_ends_by_itself(self, fresh):
        server = fresh()
        server.down(seconds=60)
        assert refused(server)
        server.down(seconds=0.05)
        until(lambda: not refused(server))
        assert post(server).status == 200

    def test_the_last_call_decides_its_length(self, fresh):
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
    def test_stop_works_during_it(self, fresh, new_threads, seconds):
        server = fresh()
        server.down(seconds)
        server.stop()
        assert new_threads() == []
        assert not server.is_running
        server.start()
        assert post(server).status == 200

    def test_a_start_during_it_is_refused(self, fresh):
        server = fresh()
        server.down()
        with pytest.raises(RuntimeError, match="already running"):
            server.start()

    def test_a_reset_ends_it(self, fresh):
        server = fresh()
        server.down()
        server.reset()
        assert post(server).status == 200

    def test_the_script_goes_on_after_it(self, fresh):
        server = fresh()
        server.play("503*2, 429")
        assert post(server).status == 503
        server.down()
        server.up()
        assert [post(server).status for _ in range(3)] == [503, 429, 200]

    @pytest.mark.parametrize("call", named({
        "down": MockOdooServer.down,
        "up": MockOdooServer.up,
    }))
    def test_a_stopped_server_has_none(self, call):
        with pytest.raises(RuntimeError, match=r"not running; call start\(\) first"):
            call(MockOdooServer(port=0))

    @pytest.mark.parametrize(("seconds", "error"), named({
        "negative": (-1, ValueError),
        "text": ("5", TypeError),
        "infinite": (float("inf"), ValueError),
    }))
    def test_a_bad_time_is_named_and_changes_nothing(self, odoo, seconds, error):
        with pytest.raises(error, match="seconds must be"):
            odoo.down(seconds)
        assert post(odoo).status == 200

    def test_a_port_that_is_lost_meanwhile_is_logged(self, fresh, caplog):
        server = fresh()
        taken = OSError(errno.EADDRINUSE, "taken")
        with failing_sockets("listen", server.port, taken) as failures:
            server.down(seconds=0.05)
            until(lambda: f"cannot listen on port {server.port} again" in caplog.text)
        assert failures == [taken]
        assert refused(server)
        server.stop()


class TestWindows:
    """What Windows does otherwise, as far as that can be tried elsewhere."""

    @pytest.fixture
    def windows_server(self, fresh, monkeypatch, socket_options):
        """A server of a module that was imported where addresses can be exclusive."""
        monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", EXCLUSIVE, raising=False)
        module = import_again("mock_odoo_windows")
        setattr(module, SOCKET, FakeSocket)
        return fresh(module.MockOdooServer)

    def test_a_port_is_exclusive_and_never_reused(self, windows_server, socket_options):
        windows_server.down()
        windows_server.up()
        assert socket_options == [(socket.SOL_SOCKET, EXCLUSIVE, 1)] * 2

    def test_a_reader_that_shutdown_does_not_wake_loses_its_socket(
        self, windows_server, new_threads
    ):
        windows_server.play("stall*")
        with contextlib.ExitStack() as stack:
            clients = []
            for number in range(4):
                data = request_bytes()[: 10 if number % 2 else None]
                clients.append(stack.enter_context(connect(windows_server, data)))
            windows_server.wait_for_calls(2)
            windows_server.stop()
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

    @pytest.fixture
    def accepts(self, secure, trusting):
        """Ask that the server still accepts heartbeats."""

        def accepts():
            response = post(secure, context=trusting)
            return (response.status, response.json()) == (200, SUCCESS)

        return accepts

    def connect(self, server, context, data):
        connection = context.wrap_socket(connect(server), server_hostname="localhost")
        connection.sendall(data)
        return connection

    def test_heartbeats_go_over_tls(self, secure, accepts):
        assert secure.url == f"https://127.0.0.1:{secure.port}"
        assert accepts()
        assert secure.get_received_heartbeats() == [HEARTBEAT]

    def test_a_silent_client_holds_up_no_other(self, secure, accepts, new_threads):
        with connect(secure):
            assert accepts()
            secure.stop()
            assert new_threads() == []

    def test_a_client_that_resets_leaves_nothing_open(self, secure, accepts):
        for _ in range(50):
            close_by_reset(connect(secure))
        assert accepts()

    @pytest.mark.parametrize("end", ["stop", "down"])
    def test_a_handshake_that_the_server_ends_is_not_told(self, secure, trusting, end):
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(coming, going, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        with connect(secure, going.read()) as connection:
            assert connection.recv(1)  # so the server waits for the rest of the handshake
            getattr(secure, end)()
        assert secure.get_unmatched() == []

    def test_a_handshake_that_the_client_ends_is_told(self, secure):
        with connect(secure, b"\x16\x03\x01") as connection:
            connection.shutdown(socket.SHUT_WR)
            drain(connection)
        until(secure.get_unmatched)
        (told,) = secure.get_unmatched()
        assert told.split(":")[0] == "TLS handshake failed"

    def test_a_client_without_tls_is_turned_away(self, secure, accepts, caplog):
        with connect(secure, request_bytes()) as connection:
            assert b"HTTP" not in drain(connection)[0]
        assert accepts()
        assert caplog.records == []

    def test_a_client_that_does_not_trust_it_is_told_and_not_logged(
        self, secure, accepts, caplog
    ):
        with pytest.raises(ssl.SSLError):
            post(secure, context=ssl.create_default_context())
        until(secure.get_unmatched)
        for told in secure.get_unmatched():
            assert re.match("TLS handshake failed: .*unknown ca", told)
        assert accepts()
        assert caplog.records == []

    @needs_reset
    def test_reset_is_real_beneath_tls(self, secure, trusting):
        secure.play("reset*20")
        for _ in range(20):
            connection = self.connect(secure, trusting, request_bytes())
            with connection, pytest.raises(ConnectionResetError):
                while socket.socket.recv(connection, 65536):
                    pass

    @pytest.mark.parametrize(("fault", "errors"), named({
        "reset": (
            "reset", (ConnectionResetError, http.client.RemoteDisconnected, ssl.SSLError)),
        "close": ("close", (http.client.RemoteDisconnected, ssl.SSLError)),
        "truncate": ("truncate", (http.client.IncompleteRead, ssl.SSLError)),
        "garbage": ("garbage", http.client.BadStatusLine),
    }))
    def test_a_fault_is_as_real_as_without_tls(self, secure, trusting, accepts, fault, errors):
        secure.play(fault)
        with pytest.raises(errors):
            post(secure, context=trusting)
        assert accepts()

    def test_stall_says_nothing(self, secure, trusting):
        secure.play("stall")
        with self.connect(secure, trusting, request_bytes()) as connection:
            secure.wait_for_calls(1)
            assert_silent(connection)

    @pytest.mark.parametrize("script", ["ok@60s", "stall", "drip"])
    def test_a_slow_reply_is_let_go(self, secure, trusting, new_threads, script):
        for end in (secure.reset, secure.down, secure.stop):
            secure.reset()
            secure.play(f"{script}*")
            client = in_background(post, secure, HEARTBEAT, 60, trusting)
            secure.wait_for_calls(1)
            end()
            client.result()
        assert new_threads() == []

    def test_it_comes_back_after_an_outage(self, secure, accepts):
        secure.down()
        assert refused(secure)
        secure.up()
        assert accepts()


class TestMutualTLS:
    @pytest.fixture
    def mutual(self, fresh, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return fresh(ssl_context=context)

    def test_a_client_with_a_certificate_is_served(self, mutual, certificate):
        context = ssl.create_default_context(cafile=certificate)
        context.load_cert_chain(certificate)
        assert post(mutual, context=context).status == 200

    def test_a_client_without_one_is_unmatched(self, mutual, certificate):
        with pytest.raises((OSError, http.client.HTTPException)):
            post(mutual, context=ssl.create_default_context(cafile=certificate))
        until(mutual.get_unmatched)
        assert mutual.get_unmatched()[0].startswith("TLS handshake failed: ")
        assert "peer did not return a certificate" in mutual.get_unmatched()[0].lower()
        assert mutual.get_call_count() == 0

    def test_a_context_without_a_certificate_is_refused_at_once(self):
        with pytest.raises(ValueError, match=r"no certificate; call its load_cert_chain\(\) first"):
            MockOdooServer(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


class TestLoad:
    def test_exactly_so_many_fail_among_fifty_at_once(self, odoo):
        odoo.set_failure_count(25)
        barrier = threading.Barrier(50)

        def client(number):
            barrier.wait(PATIENCE)
            return post(odoo, {"number": number}).status

        clients = [in_background(client, number) for number in range(50)]
        statuses = [thread.result() for thread in clients]
        assert (statuses.count(503), statuses.count(200)) == (25, 25)
        accepted = {number for number, status in enumerate(statuses) if status == 200}
        assert {heartbeat["number"] for heartbeat in odoo.get_received_heartbeats()} == accepted

    def test_call_n_got_reply_n(self, odoo):
        odoo.play("200, 429, 500, 503", loop=True)
        clients = [in_background(post, odoo, {"n": n}) for n in range(40)]
        statuses = [thread.result().status for thread in clients]
        calls = {call.payload["n"]: call for call in odoo.get_calls()}
        for n, status in enumerate(statuses):
            reply = ["503", "ok", "429", "500"][calls[n].number % 4]
            assert calls[n].reply == reply
            assert status == (200 if reply == "ok" else int(reply))

    def test_a_thousand_clients_come_in_the_same_instant(self, fresh):
        needs_descriptors(2100)
        server = fresh()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(1000)]
            for client in clients:
                client.settimeout(PATIENCE)
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

    def test_a_hundred_thousand_heartbeats_fit_into_memory(self, fresh):
        tracemalloc = pytest.importorskip("tracemalloc")
        server = fresh()

        def beat(times):
            for _ in range(times):
                connection.sendall(KEPT)
                while not connection.recv(65536).endswith(b"}"):
                    pass

        with connect(server) as connection:
            beat(100)
            tracemalloc.start()
            try:
                size = -tracemalloc.get_traced_memory()[0]  # not 0 under PYTHONTRACEMALLOC
                beat(1000)
                size += tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
        assert size / 1000 < 1500  # bytes for each, so 150 MB for a hundred thousand


# ------------------------------------------------------------------------------------------
# Control: steers the fake from another process or language
# ------------------------------------------------------------------------------------------


class TestControl:
    def test_the_state_tells_all_there_is_to_know(self, steered):
        steered.play("503, ok, 429*2", loop=True)
        post(steered, {"n": 1})
        post(steered, {"n": 2})
        send(steered, "GET", "/nowhere")
        status, state = control(steered, "GET", "state")
        assert status == 200
        (sender,) = state.pop("senders")
        assert (sender["sender"], sender["calls"], sender["accepted"]) == ("127.0.0.1", 2, 1)
        assert state == {
            "service": "Odoo",
            "noun": "heartbeat",
            "version": mock_odoo.__version__,
            "heartbeat_url": steered.heartbeat_url,
            "script": "429*2, 503, ok",
            "loop": True,
            "call_count": 2,
            "heartbeat_count": 1,
            "last_heartbeat": {"n": 2},
            "unmatched": ["404 GET /nowhere"],
        }

    def test_the_state_tells_that_nothing_came(self, steered):
        status, state = control(steered, "GET", "state")
        assert (status, state["call_count"], state["last_heartbeat"]) == (200, 0, None)
        assert state["senders"] == []

    def test_calls_come_with_all_their_fields(self, steered):
        post(steered)
        send(steered, "POST", PATH, "{", JSON)
        status, answer = control(steered, "GET", "calls")
        first, second = answer["calls"]
        assert status == 200
        assert (first["number"], first["reply"], first["accepted"]) == (1, "ok", True)
        assert first["payload"] == HEARTBEAT
        assert first["client"][0] == "127.0.0.1"
        assert first["headers"]["Content-Type"] == "application/json"
        assert (first["delay"], first["problem"]) == (0.0, None)
        assert first["received_at"] == steered.get_calls()[0].received_at
        assert (second["reply"], second["payload"], second["body"]) == ("400", None, "{")
        assert second["problem"].startswith("the body is not JSON: ")

    def test_calls_come_with_what_the_server_says_of_them(self, fresh):
        server = fresh(control=True)
        post(server)
        post(server, {"total": 12.5})
        calls = control(server, "GET", "calls")[1]["calls"]
        assert [call["sender"] for call in calls] == ["KKT-001", "127.0.0.1"]
        assert [call["text"] for call in calls] == [
            server.describe_call(call) for call in server.get_calls()
        ]

    def test_repeated_headers_are_joined(self, steered):
        exchange(steered, request_bytes(BODY, "X-Part: 1", "x-part: 2"))
        (call,) = control(steered, "GET", "calls")[1]["calls"]
        assert call["headers"]["X-Part"] == "1, 2"

    def test_calls_since_a_number_can_be_asked_for(self, steered):
        for n in range(3):
            post(steered, {"n": n})
        calls = control(steered, "GET", "calls?since=1")[1]["calls"]
        assert [call["number"] for call in calls] == [2, 3]
        assert control(steered, "GET", "calls?since=3") == (200, {"calls": []})

    def test_a_script_is_played(self, steered):
        status, state = control(steered, "PUT", "script", {"script": "503*3", "loop": False})
        assert (status, state["script"], state["loop"]) == (200, "503*3", False)
        assert [post(steered).status for _ in range(4)] == [503, 503, 503, 200]
        body = {"script": ["ok", "503*2"], "loop": True}
        assert control(steered, "PUT", "script", body)[1]["script"] == "ok, 503*2"

    def test_a_script_may_hold_the_fields_of_a_reply(self, steered):
        fields = {"status": 429, "body": {"error": "slow"}, "headers": {"Retry-After": "5"}}
        control(steered, "PUT", "script", {"script": ["503", fields]})
        assert post(steered).status == 503
        response = post(steered)
        assert (response.status, response.headers["Retry-After"]) == (429, "5")
        assert response.json() == {"error": "slow"}

    def test_a_reset_forgets_everything(self, steered):
        steered.play("503*")
        post(steered)
        status, state = control(steered, "POST", "reset")
        assert (status, state["call_count"], state["script"]) == (200, 0, "")

    def test_the_calls_can_be_forgotten_without_the_script(self, steered):
        steered.play("503*3")
        post(steered)
        status, state = control(steered, "DELETE", "calls")
        assert (status, state["call_count"], state["senders"]) == (200, 0, [])
        assert (state["script"], steered.get_calls()) == ("503*2", [])

    def test_many_outages_leave_nothing_behind(self, steered, new_threads):
        for _ in range(20):
            assert control(steered, "POST", "down", {"seconds": 0})[0] == 200
        until(lambda: len(new_threads()) <= 2)  # the acceptor, and maybe a worker
        steered.stop()
        assert new_threads() == []

    def test_an_outage_begins_when_it_was_answered_and_ends_in_time(self, steered):
        with connect(steered) as idle:
            status, state = control(steered, "POST", "down", {"seconds": 60})
            assert (status, state["call_count"]) == (200, 0)
            assert refused(steered)
            assert drain(idle)[0] == b""
        steered.up()
        assert control(steered, "POST", "down", {"seconds": 0.01})[0] == 200
        until(lambda: not refused(steered))
        assert post(steered).status == 200

    def test_an_outage_of_a_server_that_was_just_stopped_is_409(self, fresh):
        class Stopped(MockOdooServer):
            def down(self, seconds=None):
                self.stop()
                super().down(seconds)

        status, answer = control(fresh(Stopped, control=True), "POST", "down", {"seconds": 5})
        assert (status, answer) == (409, {"error": "not running; call start() first"})

    def test_a_wait_is_answered_when_the_calls_are_there(self, steered):
        waiting = in_background(control, steered, "GET", "wait?calls=2&timeout=60")
        post(steered)
        assert waiting.is_alive()
        post(steered)
        status, state = waiting.result()
        assert (status, state["call_count"]) == (200, 2)

    def test_a_wait_may_be_for_heartbeats(self, steered):
        steered.play("503")
        waiting = in_background(control, steered, "GET", "wait?heartbeats=1&timeout=60")
        post(steered)
        assert waiting.is_alive()
        post(steered)
        status, state = waiting.result()
        assert (status, state["call_count"], state["heartbeat_count"]) == (200, 2, 1)

    def test_a_wait_may_be_for_one_sender(self, steered):
        waiting = in_background(
            control, steered, "GET", "wait?calls=2&sender=KKT-001&timeout=60")
        for name in ("KKT-001", "KKT-002"):
            post(steered, dict(HEARTBEAT, adapter_id=name))
        assert waiting.is_alive()
        post(steered)
        assert waiting.result()[0] == 200

    def test_a_wait_for_the_heartbeats_of_one_sender_counts_no_refused_ones(self, steered):
        steered.play("503, ok")
        for name in ("KKT-001", "KKT-002"):
            post(steered, dict(HEARTBEAT, adapter_id=name))
        query = "wait?heartbeats=1&timeout=0.01&sender="
        status, state = control(steered, "GET", query + "KKT-001")
        assert (status, state["error"].partition(" in ")[0]) == (408, "0 of 1 calls that fit")
        assert control(steered, "GET", query + "KKT-002")[0] == 200

    def wait_for_more(self, server, what):
        """Begin a wait, and return as soon as it knows what there was."""
        known = threading.Event()

        def get_calls():
            calls = MockOdooServer.get_calls(server)
            known.set()
            return calls

        server.get_calls = get_calls
        waiting = in_background(control, server, "GET", f"wait?{what}=1&more=1&timeout=60")
        assert known.wait(PATIENCE)
        return waiting

    @pytest.mark.parametrize("what", ["calls", "heartbeats"])
    def test_a_wait_for_more_counts_only_what_comes_after_it(self, steered, what):
        post(steered)
        assert control(steered, "GET", f"wait?{what}=1&more=1&timeout=0.01")[0] == 408
        waiting = self.wait_for_more(steered, what)
        assert waiting.is_alive()
        post(steered)
        assert waiting.result()[0] == 200

    def test_a_wait_for_more_goes_on_over_a_reset(self, steered):
        for _ in range(3):
            post(steered)
        waiting = self.wait_for_more(steered, "calls")
        steered.reset()
        post(steered)
        assert waiting.result()[0] == 200

    def test_a_wait_that_times_out_is_408_with_the_state(self, steered):
        post(steered)
        status, state = control(steered, "GET", "wait?calls=2&timeout=0.01")
        assert (status, state["call_count"]) == (408, 1)
        assert state["error"] == "1 of 2 calls in 0.01 s; calls: ok"

    def test_a_wait_does_not_hold_up_a_stop(self, steered, new_threads):
        waiting = in_background(control, steered, "GET", "wait?calls=2&timeout=60")
        until(lambda: new_threads(WORKER))
        steered.stop()
        assert new_threads() == []
        result = waiting.result()  # cut, or told in time that there is nothing to wait for
        assert isinstance(result, FAILED) or result[0] == 408

    def test_a_request_to_it_is_never_counted_delayed_or_failed(self, steered):
        steered.play("reset*")
        for _ in range(3):
            assert control(steered, "GET", "state")[0] == 200
        assert (steered.get_call_count(), steered.script) == (0, "reset*")

    def test_the_root_leads_to_the_page(self, steered):
        with open_url(steered.url + "/") as response:
            assert response.url == steered.url + "/_mock/"
            assert response.read().startswith(b"<!DOCTYPE html>")
        assert send(steered, "GET", "/_mock").headers["Location"] == "/_mock/"

    def test_it_is_off_by_default(self, odoo):
        for path in ("/", "/_mock/", "/_mock/state", "/_mock/reset"):
            assert send(odoo, "GET", path).status == 404


class TestControlSenders:
    """The state tells who sends, and how often."""

    def test_they_stand_in_the_order_of_their_first_calls(self, steered):
        for name in ("KKT-002", "KKT-001", "KKT-002"):
            post(steered, dict(HEARTBEAT, adapter_id=name))
        senders = control(steered, "GET", "state")[1]["senders"]
        assert [(each["sender"], each["calls"]) for each in senders] == [
            ("KKT-002", 2), ("KKT-001", 1)]

    @pytest.mark.parametrize(("times", "interval"), named({
        "one call": ([0], None),
        "two calls": ([0, 30], 30),
        "a missed beat": ([0, 30, 60, 120], 30),
        "an even number of gaps": ([0, 10, 40], 20),
    }))
    def test_the_interval_is_the_median_gap(self, steered, times, interval):
        for seconds in times:
            post(steered)
            steered.get_calls()[-1].received_at = 1.7e9 + seconds
        (sender,) = control(steered, "GET", "state")[1]["senders"]
        assert (sender["interval"], sender["last_at"]) == (interval, 1.7e9 + times[-1])

    def test_it_tells_how_long_a_sender_has_been_silent(self, steered):
        post(steered)
        steered.get_calls()[0].received_at -= 100
        (sender,) = control(steered, "GET", "state")[1]["senders"]
        assert 100 <= sender["seconds_since"] < 100 + PATIENCE

    def test_a_subclass_whose_words_fail_breaks_nothing(self, fresh):
        def fail(server, call):
            pytest.fail("a bug")

        server = fresh(variant(sender=fail, describe_call=fail), control=True)
        post(server)
        (sender,) = control(server, "GET", "state")[1]["senders"]
        (call,) = control(server, "GET", "calls")[1]["calls"]
        assert (sender["sender"], sender["calls"]) == ("?", 1)
        assert (call["sender"], call["text"], call["payload"]) == ("?", "?", HEARTBEAT)
        assert control(server, "GET", "wait?sender=KKT-001&timeout=0.01")[0] == 408

    def test_each_call_is_asked_about_once(self, fresh):
        asked = []
        sender = lambda server, call: asked.append(call.number) or "KKT-001"
        server = fresh(variant(sender=sender), control=True)
        for _ in range(3):
            post(server)
            control(server, "GET", "state")
        assert asked == [1, 2, 3]


class TestControlMisuse:
    """What cannot be used is 400, and changes nothing."""

    @pytest.mark.parametrize(("path", "body", "call"), named({
        "bad step": ("script", {"script": "50x"}, lambda server: server.play("50x")),
        "script as number": ("script", {"script": 503}, lambda server: server.play(503)),
        "no script": ("script", {"script": None}, lambda server: server.play(None)),
        "loop as text": (
            "script",
            {"script": "ok", "loop": "yes"},
            lambda server: server.play("ok", "yes"),
        ),
        "negative time": ("down", {"seconds": -1}, lambda server: server.down(-1)),
        "time as text": ("down", {"seconds": "5"}, lambda server: server.down("5")),
    }))
    def test_the_error_is_that_of_python(self, steered, path, body, call):
        steered.play("503*7")
        with pytest.raises((TypeError, ValueError)) as caught:
            call(steered)
        method = "PUT" if path == "script" else "POST"
        assert control(steered, method, path, body) == (400, {"error": str(caught.value)})
        assert (steered.script, steered.is_running) == ("503*7", True)

    def test_an_outage_must_have_an_end(self, steered):
        error = (
            '"seconds" is missing; '
            "nobody could end the outage through a port that refuses connections"
        )
        assert control(steered, "POST", "down", {}) == (400, {"error": error})

    def test_a_script_must_be_there(self, steered):
        error = '"script" is missing; send {"script": "503*3"}, for example'
        assert control(steered, "PUT", "script", {}) == (400, {"error": error})

    @pytest.mark.parametrize(("method", "path", "body", "error"), named({
        "script": (
            "PUT",
            "script",
            {"script": "503", "Loop": True},
            "'Loop' means nothing here; /_mock/script takes script, loop",
        ),
        "down": (
            "POST",
            "down",
            {"second": 5},
            "'second' means nothing here; /_mock/down takes seconds",
        ),
        "reset": (
            "POST",
            "reset",
            {"calls": 1},
            "'calls' means nothing here; /_mock/reset takes nothing",
        ),
        "reset in the query": (
            "POST",
            "reset?calls=1",
            None,
            "'calls' means nothing here; /_mock/reset takes nothing",
        ),
        "script in the query": (
            "PUT",
            "script?loop=true",
            {"script": "503"},
            "loop must be True or False, not 'true'",
        ),
    }))
    def test_a_misspelt_field_is_named_and_changes_nothing(
        self, steered, method, path, body, error
    ):
        steered.play("ok, 503*7")
        post(steered)
        assert control(steered, method, path, body) == (400, {"error": error})
        assert (steered.script, steered.get_call_count()) == ("503*7", 1)
        assert not refused(steered)

    def test_a_body_must_be_json(self, steered):
        response = send(steered, "PUT", "/_mock/script", "{", JSON)
        assert response.status == 400
        assert "not JSON" in response.json()["error"]

    @pytest.mark.parametrize(("query", "complaint"), named({
        "calls in letters": (
            "wait?calls=two", "calls must be a number like 5 or 0.5, not 'two'"),
        "negative calls": ("wait?calls=-1", "calls must be a number like 5 or 0.5, not '-1'"),
        "half a call": ("wait?calls=1.5", "calls must be a whole number, 0 or more, not 1.5"),
        "long timeout": ("wait?timeout=61", "timeout must be from 0 to 60 seconds, not 61"),
        "misspelt calls": (
            "wait?cals=1",
            "'cals' means nothing here; /_mock/wait takes calls, heartbeats, timeout",
        ),
        "state of calls": ("state?calls=1", "/_mock/state takes nothing"),
        "both": ("wait?calls=1&heartbeats=1", "wait for calls or for heartbeats, not for both"),
        "more in words": ("wait?more=yes", "more must be 0 or 1, not 'yes'"),
        "NaN": ("wait?timeout=nan", "timeout must be a number like 5 or 0.5, not 'nan'"),
        "since nothing": ("calls?since=", "since must be a number like 5 or 0.5, not ''"),
        "since 5000 digits": (
            "calls?since=" + "9" * 5000, "since must be a number like 5 or 0.5, not '999"),
    }))
    def test_a_bad_query_is_named(self, steered, query, complaint):
        status, answer = control(steered, "GET", query)
        assert status == 400
        assert complaint in answer["error"]


#: The routes that change it.
CHANGES = [("PUT", "script"), ("POST", "reset"), ("POST", "down"), ("DELETE", "calls")]


class TestControlAccess:
    """It is for clients on this machine, and for those that send the token."""

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8069", "127.1.2.3", "[::1]:8069"]
    )
    def test_a_client_may_address_it_by_a_loopback_name(self, steered, host):
        assert control(steered, "GET", "state", Host=host)[0] == 200

    @pytest.mark.parametrize("path", ["", "state", "calls", "wait"])
    @pytest.mark.parametrize("host", [
        "evil.example",
        "evil.example:8069",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "192.168.0.1",
        "",
        "localhost:8069@evil.example",
        "0.0.0.0",
    ])
    def test_a_client_may_not_address_it_by_another_name(self, steered, host, path):
        status, answer = control(steered, "GET", path, Host=host)
        assert status == 403
        assert f"Host {host}" in answer["error"]

    @pytest.mark.parametrize(("method", "path"), CHANGES)
    def test_a_request_by_another_name_changes_nothing(self, steered, method, path):
        steered.play("503*7")
        body = {"script": "", "seconds": 60}
        assert control(steered, method, path, body, Host="evil.example")[0] == 403
        assert steered.script == "503*7"
        assert not refused(steered)

    @pytest.mark.parametrize(("method", "path"), CHANGES)
    @pytest.mark.parametrize("kind", named({
        "text": "text/plain",
        "form": "application/x-www-form-urlencoded",
        "multipart": "multipart/form-data",
    }))
    def test_a_request_that_a_foreign_page_can_send_changes_nothing(
        self, steered, method, path, kind
    ):
        steered.play("503*7")
        body = {"script": "", "seconds": 60}
        assert control(steered, method, path, body, Content_Type=kind)[0] == 415
        assert steered.script == "503*7"

    @pytest.mark.parametrize(("method", "path"), CHANGES)
    def test_a_bare_change_is_told_why_it_needs_a_content_type(self, steered, method, path):
        post(steered)
        response = send(steered, method, "/_mock/" + path)
        assert (response.status, steered.get_call_count()) == (415, 1)
        assert response.json() == {
            "error": "a change must have Content-Type: application/json, also without a body, "
            "so that no foreign web page can make one; it is missing"
        }

    def test_no_preflight_is_granted(self, steered):
        response = send(steered, "OPTIONS", "/_mock/script", None, {
            "Origin": "http://evil.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        })
        assert response.status == 405
        names = [name.lower() for name in response.headers]
        assert not [name for name in names if name.startswith("access-control")]

    def test_the_token_opens_it_to_others(self, launch):
        process = launch("--token", "sesam")

        def ask_with(**headers):
            return control(process, "GET", "state", **headers)

        assert ask_with(Host="pos.example", Authorization="Bearer sesam")[0] == 200
        assert ask_with(Host="pos.example", Authorization="bearer  sesam ")[0] == 200
        assert ask_with()[0] == 200
        for given in (
            "Bearer",
            "Bearer ",
            "Bearer sesa",
            "Bearer sesam!",
            "Basic sesam",
            "sesam",
            "Bearer \xfc",
        ):
            status, answer = ask_with(Host="pos.example", Authorization=given)
            assert status == 403
            assert "right token" in answer["error"]

    def test_where_there_is_a_token_the_page_is_for_everybody_and_its_data_are_not(self, launch):
        process = launch("--token", "sesam")
        elsewhere = {"Host": "pos.example"}
        page = send(process, "GET", "/_mock/", None, elsewhere)
        assert (page.status, page.body[:15]) == (200, b"<!DOCTYPE html>")
        assert b"sesam" not in page.body
        for path in ("/", "/_mock"):
            assert send(process, "GET", path, None, elsewhere).headers["Location"] == "/_mock/"
        for path in ("state", "calls", "events", "wait"):
            assert control(process, "GET", path, **elsewhere)[0] == 403
        for method, path in CHANGES:
            assert control(process, method, path, **elsewhere)[0] == 403

    def test_no_token_opens_it_where_none_is_set(self, steered):
        for given in ("Bearer ", "Bearer None"):
            headers = {"Host": "pos.example", "Authorization": given}
            status, answer = control(steered, "GET", "state", **headers)
            assert status == 403
            assert "--token" in answer["error"]

    @pytest.mark.parametrize("token", named({
        "empty": "",
        "a blank": " ",
        "a blank within": "a b",
        "Cyrillic": "п",
        "not UTF-8": "\udcff",
        "a line break": "a\n",
    }))
    def test_a_token_that_could_never_match_is_refused(self, token):
        code, out, err = run_main("--port", "0", "--token", token)
        assert (code, out) == (2, "")
        assert "the token must be printable ASCII" in err

    def test_a_client_elsewhere_may_not_use_it(self, fresh):
        address = own_address()
        if address is None:
            pytest.skip("this machine has no address but loopback")
        server = fresh(host="0.0.0.0", control=True)
        headers = {"Host": "localhost"}
        response = send(server, "GET", "/_mock/state", None, headers, host=address)
        assert response.status == 403
        assert address in response.json()["error"]

    @pytest.mark.parametrize(("host", "target", "client"), [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        pytest.param("::1", "::1", "::1", marks=needs_ipv6),
        pytest.param("::", "127.0.0.1", "::ffff:127.0.0.1", marks=needs_ipv6),
    ])
    def test_a_client_at_any_loopback_address_may_use_it(self, fresh, host, target, client):
        server = fresh(host=host, control=True)
        headers = {"Host": "localhost"}
        try:
            response = send(server, "GET", "/_mock/state", None, headers, host=target)
        except ConnectionRefusedError:
            pytest.skip("a socket of IPv6 takes no clients of IPv4 on this system")
        assert response.status == 200
        send(server, "POST", PATH, BODY, JSON, host=target)
        assert server.get_calls()[0].client[0] == client


# ------------------------------------------------------------------------------------------
# Command line: `python -m mock_odoo`, what it prints, what it keeps, and how it ends
# ------------------------------------------------------------------------------------------


#: The command line of another service.
RECEIPTS = """
import sys, mock_odoo

class MockOfdServer(mock_odoo.MockOdooServer):
    endpoint, service, noun = "/api/v2/receipt", "OFD", "receipt"

raise SystemExit(mock_odoo.main(sys.argv[1:], server_class=MockOfdServer))
"""

#: The command line of a fake whose make_success() returns what a payload has as "tell". It first
#: tells that as an event.
TELLING = """
import sys, mock_odoo

class Telling(mock_odoo.MockOdooServer):
    def __init__(self, *args, on_event, **kwargs):
        super().__init__(*args, on_event=on_event, **kwargs)
        self.tell = on_event

    def make_success(self, payload):
        self.tell({"at": 0.0, "time": "2026-11-25T12:00:30.000+03:00", **payload["tell"]})
        return {}

mock_odoo.main(sys.argv[1:], server_class=Telling)
"""


class TestCommandLine:
    def test_the_first_line_stands_when_clients_can_connect(self, launch):
        process = launch()
        url = f"http://127.0.0.1:{process.port}"
        assert process.first == f"Mock Odoo on {url} - POST {PATH} - Ctrl+C stops\n"
        assert send(process, "GET", "/health").status == 200

    def test_flags_reach_the_server(self, launch):
        process = launch(
            "--host", "127.0.0.1", "--script", "503", "--loop", "--strict",
            "--max-calls", "2", "--token", "sesam",
        )
        assert [post(process).status for _ in range(3)] == [503] * 3
        assert len(control(process, "GET", "calls")[1]["calls"]) == 2
        control(process, "PUT", "script", {"script": ""})
        assert post(process, {}).status == 422
        headers = {"Host": "elsewhere", "Authorization": "Bearer sesam"}
        assert control(process, "GET", "state", **headers)[0] == 200

    def test_a_certificate_makes_it_https(self, launch, certificate):
        process = launch("--certfile", certificate)
        context = ssl.create_default_context(cafile=certificate)
        assert send(process, "GET", "/health", context=context).status == 200

    @pytest.mark.parametrize(("args", "complaint"), named({
        "port 70000": (
            ["--port", "70000"], ": --port must be a whole number from 0 to 65535, not 70000"),
        "port in letters": (["--port", "http"], "argument --port: invalid int value: 'http'"),
        "foreign host": (
            ["--port", "0", "--host", "192.0.2.1"], "; --host must be an address of this machine"),
        "bad step": (["--script", "50x"], "step '50x': '50x' is no reply"),
        "line break": (["--script", "a\nb"], "step 'a\\nb': 'a\\nb' is no reply"),
        "no calls": (
            ["--max-calls", "0"], ": --max-calls must be a whole number, 1 or more, not 0"),
        "no folder": (
            ["--journal", "/no/such/folder/journal"],
            "cannot write the journal /no/such/folder/journal: No such file or directory",
        ),
        "no certificate": (
            ["--certfile", "/no/such/file"],
            "cannot use the certificate /no/such/file: No such file or directory",
        ),
        "not a certificate": (
            ["--certfile", "setup.cfg"],
            "PEM is needed, with the key in the same file or in --keyfile",
        ),
        "no key": (
            ["--certfile", "setup.cfg", "--keyfile", "/no/such/key"],
            "cannot use the certificate setup.cfg and /no/such/key",
        ),
        "empty host": (["--host", ""], ": --host must not be empty"),
        "key alone": (["--keyfile", "setup.cfg"], "--keyfile goes with --certfile"),
        "empty token": (
            ["--token", ""], "the token must be printable ASCII without blanks, and not empty"),
        "unknown flag": (["--xyz"], "unrecognized arguments: --xyz\n"),
        "slip in a flag": (["--prot", "1"], "--prot 1 (did you mean '--port'?)"),
        "slip with a value": (["--jornal=x"], "--jornal=x (did you mean '--journal'?)"),
        "bare port": (["8069"], "unrecognized arguments: 8069 (did you mean --port 8069?)"),
        "bare script": (["503*3"], '503*3 (did you mean --script "503*3"?)'),
        "bare word": (["nonsense"], "unrecognized arguments: nonsense\n"),
        "capitals": (["--script", "OK"], "'OK' is no reply (did you mean 'ok'?)"),
        "step that never comes": (["--script", "stall*, ok"], "step 'ok' can never come"),
        "outage": (["--script", "down"], "no reply: use the page, or POST /_mock/down"),
        "its end": (["--script", "up"], "no reply: it ends when its time is up"),
        "journal nowhere": (["--journal", "-"], "for lines of JSON on standard output, use --json"),
        "nothing to read": (
            ["--read", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
    }))
    def test_misuse_is_one_line_and_exit_2(self, args, complaint, capsys, monkeypatch):
        monkeypatch.chdir(HERE)
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main(args)
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("mock_odoo: ")
        assert complaint in err

    def test_the_command_line_can_demand_client_certificates(self, launch, certificate):
        process = launch("--certfile", certificate, "--cafile", certificate)
        url = f"https://127.0.0.1:{process.port}/health"
        context = ssl.create_default_context(cafile=certificate)
        with pytest.raises(OSError):
            open_url(url, context=context)
        context.load_cert_chain(certificate)
        assert open_url(url, context=context).status == 200
        assert "TLS       handshake failed" in process.line()

    def test_the_first_line_says_when_the_network_can_reach_it(self, launch):
        first = launch("--host", "0.0.0.0").first
        assert " - reachable from the network - Ctrl+C stops" in first

    def test_a_taken_port_is_one_line_and_exit_2(self, odoo):
        code, out, err = run_main("--port", str(odoo.port))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"cannot listen on 127.0.0.1, port {odoo.port}: " in err
        assert err.endswith("; stop what listens there, or take --port 0, a free one\n")

    def test_it_tells_its_version(self):
        assert run_main("--version") == (0, f"mock_odoo {mock_odoo.__version__}\n", "")

    @pytest.mark.parametrize("flags", [[], ["-I"]], ids=["plain", "isolated"])
    def test_it_runs_as_a_file_too(self, launch, flags):
        assert post(launch(command=[*flags, "mock_odoo.py"])).status == 200

    def test_help_tells_the_flags_the_grammar_and_examples(self):
        code, out, err = run_main("--help")
        assert (code, err) == (0, "")
        flags = (
            "--host", "--port", "--script", "--loop", "--strict", "--journal", "--json",
            "--token", "--certfile", "--keyfile", "--cafile", "--max-calls", "--quiet", "--read",
            "--version",
        )
        faults = mock_odoo.FAULTS
        lies = ("html", "login", "expired")
        for word in (*flags, *faults, *lies, "examples:", "503*3, reset, ok@6s", "/_mock/"):
            assert word in out
        epilog = out[out.index("examples:"):]
        assert max(map(len, epilog.splitlines())) <= 80

    def test_the_help_of_another_service_speaks_of_that_alone(self):
        done = run_python("-c", RECEIPTS, "--help")
        assert "A fake OFD that answers receipts as you tell it." in done.stdout
        assert not re.search("odoo|beat", done.stdout, re.IGNORECASE)

    def test_another_service_fails_in_its_own_name(self):
        done = run_python("-c", RECEIPTS, "--port", "x")
        assert done.stderr == "mock_ofd: argument --port: invalid int value: 'x'\n"

    def test_a_start_that_fails_leaves_no_thread(self, odoo, new_threads, capsys):
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main(["--port", str(odoo.port)])
        assert caught.value.code == 2
        # One may be about to end; and the running server may just have made a worker.
        until(lambda: len(new_threads()) == len(new_threads(WORKER)))
        assert "cannot listen" in capsys.readouterr().err

    def test_main_runs_outside_the_main_thread_too(self, launch):
        code = """if True:
            import sys, threading, mock_odoo
            thread = threading.Thread(target=mock_odoo.main, args=(sys.argv[1:],))
            thread.start()
            thread.join()
        """
        process = launch(command=["-c", code])
        assert post(process).status == 200
        assert process.line().split()[1] == "ok"
        process.process.kill()
        assert process.process.communicate(timeout=PATIENCE) == ("", "")

    def test_an_import_loads_nothing_that_only_the_command_line_needs(self):
        code = f"""if True:
            import sys
            sys.path.insert(0, {HERE!r})
            import http.server, json, threading
            before = set(sys.modules)
            import mock_odoo
            print(*set(sys.modules) - before)
        """
        done = run_python("-I", "-S", "-c", code)
        done.check_returncode()
        assert not set(done.stdout.split()) & {
            "argparse", "logging", "typing", "signal", "hashlib", "hmac", "contextlib",
            "dataclasses", "asyncio",
        }


class TestFlagsAndDefaults:
    def test_ten_thousand_calls_are_kept_unless_told(self):
        parser = mock_odoo.make_parser(MockOdooServer)
        assert parser.parse_args([]).max_calls == 10000

    def test_a_key_may_have_a_file_of_its_own(self, launch, certificate, tmp_path):
        key, end, chain = CERTIFICATE.partition("-----END PRIVATE KEY-----\n")
        for name, text in (("key.pem", key + end), ("chain.pem", chain)):
            (tmp_path / name).write_text(text)
        process = launch(
            "--certfile", str(tmp_path / "chain.pem"), "--keyfile", str(tmp_path / "key.pem"))
        context = ssl.create_default_context(cafile=certificate)
        assert post(process, context=context).status == 200

    @pytest.mark.parametrize(("args", "complaint"), named({
        "loop": (["--loop"], "--loop goes with --script"),
        "loop and blanks": (["--loop", "--script", " "], "--loop goes with --script"),
        "cafile": (
            ["--certfile", "{}", "--cafile", "/no/such/file"],
            "cannot use the certificates /no/such/file: No such file or directory"),
        "cafile alone": (["--cafile", "{}"], "--cafile goes with --certfile"),
    }))
    def test_what_means_nothing_is_one_line_and_exit_2(self, certificate, args, complaint, capsys):
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main([each.format(certificate) for each in args])
        err = capsys.readouterr().err
        assert (caught.value.code, err.count("\n")) == (2, 1)
        assert complaint in err


class TestSignals:
    @pytest.fixture
    def after_start(self, monkeypatch):
        """Have a function called when main() has started its server, in the same thread."""

        def after_start(function):
            def start(server):
                real(server)
                function()

            real = MockOdooServer.start
            monkeypatch.setattr(MockOdooServer, "start", start)

        return after_start

    @pytest.mark.parametrize("how", ENDS)
    def test_a_signal_ends_it_with_a_summary(self, launch, how):
        needs_end(how)
        process = launch("--script", "503*3")
        for _ in range(5):
            post(process)
        code, out, err = process.end(how)
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "2 heartbeats received, 3 of 5 calls refused"

    @pytest.mark.skipif(not hasattr(signal, "SIGBREAK"), reason="no SIGBREAK here")
    def test_sigbreak_in_another_thread_ends_it_with_a_summary(self, launch):
        """Where Ctrl+Break is pressed, the C library raises SIGBREAK in a thread of its own."""
        code = """if True:
            import ctypes, signal, sys, mock_odoo

            def press(self, payload):
                ctypes.CDLL("ucrtbase")["raise"](signal.SIGBREAK)
                return {}

            mock_odoo.MockOdooServer.make_success = press
            sys.exit(mock_odoo.main(sys.argv[1:]))
        """
        process = launch(command=["-c", code])
        try_post(process)  # the end may be faster
        code, out, err = process.wait()
        assert (code, err) == (0, "")
        assert out.splitlines()[-1].endswith(" calls refused")

    @pytest.mark.parametrize("how", ENDS)
    def test_a_signal_ends_it_under_load_every_time(self, launch, how):
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

    def test_more_signals_change_nothing(self, launch):
        how = ("CTRL_C_EVENT",) * 20 if os.name == "nt" else ("SIGINT", "SIGTERM") * 10
        for _ in range(5):
            process = launch()
            code, out, err = process.end(*how)
            assert (code, err) == (0, "")
            assert "0 heartbeats received" in out

    @pytest.mark.skipif(os.name == "nt", reason="a key takes longer to press than it waits")
    @pytest.mark.parametrize("how", ENDS)
    def test_a_second_signal_reaches_no_program_that_called_main(self, launch, how):
        process = launch(command=["-c", RECEIPTS])
        process.endpoint = "/api/v2/receipt"
        process.ask_to_end("SIGINT")
        assert process.line() == "0 receipts received, 0 of 0 calls refused\n"
        assert process.end(how) == (0, "", "")

    def test_a_storm_of_signals_is_no_complaint(self, after_start, capsys):
        after_start(lambda: [raise_signal(signal.SIGINT) for _ in range(5000)])
        assert mock_odoo.main(["--port", "0", "--quiet"]) == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
    def test_another_signal_ends_nothing(self, launch):
        code = """if True:
            import signal, sys, mock_odoo
            seen = []
            signal.signal(signal.SIGUSR1, lambda *args: seen.append(args))
            mock_odoo.main(sys.argv[1:])
            print(len(seen), "seen")
        """
        process = launch(command=["-c", code])
        process.ask_to_end("SIGUSR1")
        assert post(process).status == 200
        code, out, err = process.end("SIGTERM")
        assert (code, err) == (0, "")
        assert out.splitlines()[-2:] == [
            "1 heartbeat received, 0 of 1 calls refused",
            "1 seen",
        ]

    @pytest.mark.parametrize("raising", [
        "os.kill(0, signal.CTRL_C_EVENT)",
        "ctypes.CDLL('ucrtbase')['raise'](signal.SIGBREAK)",  # what Ctrl+Break comes down to
    ] if os.name == "nt" else [
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
    ], ids=ENDS)
    def test_a_signal_during_the_start_ends_it_without_a_word(self, raising):
        code = f"""if True:
            import ctypes, os, runpy, signal, socket, sys

            def early(*args, real=socket.socketpair):
                {raising}
                while os.name == "nt":  # where it comes in a thread of its own
                    pass
                return real(*args)

            socket.socketpair = early
            sys.argv[1:] = ["--port", "0"]
            runpy.run_module("mock_odoo", run_name="__main__", alter_sys=True)
        """
        done = run_python("-c", code, **OWN_CONSOLE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize("which", [
        name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
    ])
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["in the main thread", "in another"])
    def test_it_takes_the_right_signals_and_gives_them_back(self, after_start, which, elsewhere):
        """Windows has them in another thread: there, its C library calls the handler."""
        number = getattr(signal, which)
        before = signal.getsignal(number)

        def end():
            assert signal.getsignal(number) != before
            if elsewhere:
                in_background(raise_signal, number).result()
            else:
                raise_signal(number)

        after_start(end)
        assert mock_odoo.main(["--port", "0", "--quiet"]) == 0
        assert signal.getsignal(number) == before


class TestReporter:
    def test_each_call_is_a_line(self, launch):
        process = launch("--script", "503*2, reset, ok, ok@1ms")
        post(process)
        post(process, {"adapter_id": "KKT-\x1b[31m\n7", "buffer_status": []})
        with contextlib.suppress(OSError):
            post(process)
        send(process, "POST", PATH, "nonsense", JSON)
        post(process)
        exchange(process, request_bytes(b"", method="GET", path="/nowhere\x9b"))
        exchange(process, b"nonsense\r\n\r\n")
        lines = [process.line().rstrip("\n") for _ in range(7)]
        assert all(re.match("[0-9]{2}:[0-9]{2}:[0-9]{2}  ", line) for line in lines)
        beat = "KKT-001     buffer 5/200 (2.5%)     breaker CLOSED"
        strange = "KKT-?[31m?7  buffer ?/? (?%)         breaker ?     "
        problem = "the body is not JSON: Expecting value: line 1 column 1 (char 0)"
        malformed = "malformed request line 'nonsense'; it should be like 'GET /health HTTP/1.1'"
        assert [line[10:] for line in lines] == [
            f"503       {beat}     script: 503, reset, ok, ok@1ms",
            f"503       {strange}     script: reset, ok, ok@1ms",
            f"reset     {beat}     repeats 1  script: ok, ok@1ms",
            f"400       nonsense  script: ok@1ms  {problem}",
            f"ok@1ms    {beat}     repeats 3",
            "404       GET /nowhere?",
            f"400       {malformed}",
        ]

    def test_quiet_prints_nothing_but_the_first_line(self, launch):
        process = launch("--quiet")
        post(process)
        assert process.end() == (0, "", "")

    def test_each_call_may_be_a_line_of_json(self, launch):
        process = launch("--json", "--script", "503")
        assert json.loads(process.first) == {"listening": f"http://127.0.0.1:{process.port}"}
        post(process)
        call = json.loads(process.line())
        assert (call["number"], call["reply"], call["accepted"]) == (1, "503", False)
        assert call["payload"] == HEARTBEAT
        assert json.loads(process.end()[1]) == {
            "heartbeat_count": 0, "call_count": 1,
            "refused_count": 1, "spoilt_count": 0, "left_count": 0,
        }

    def test_lines_of_json_are_utf_8_whatever_the_output_is_for_text(self, launch):
        process = launch("--json", PYTHONIOENCODING="ascii")
        post(process, {"adapter_id": "Касса"})
        assert json.dumps("Касса", ensure_ascii=False).encode() in process.bytes_line()

    @pytest.mark.parametrize(("event", "line"), named({
        "a client that left": (
            {"event": "left", "number": 5, "after": 2.0031}, "left      call 5, after 2.003 s"),
        "a request to a route": (
            {"event": "request", "request": "200 POST /sign"}, "request   200 POST /sign"),
        "an event of tomorrow": ({"event": "novelty"}, "novelty"),
    }))
    def test_events_are_lines_of_their_own(self, launch, event, line):
        process = launch(command=["-c", TELLING])
        post(process, {"tell": event})
        assert process.line() == f"12:00:30  {line}\n"

    def test_a_client_that_leaves_is_a_line(self, launch):
        process = launch("--script", "stall")
        connection = connect(process, KEPT)
        assert process.line()[10:15] == "stall"
        connection.close()
        assert re.fullmatch(r"left      call 1, after [0-9]\.[0-9]{3} s\n", process.line()[10:])

    def test_the_summary_tells_refused_spoilt_and_left_apart(self, launch):
        process = launch("--script", "503*2, reset, html, stall, ok")
        for _ in range(4):
            try_post(process)
        connect(process, KEPT).close()
        until(lambda: "left" in process.line())
        post(process)
        summary = "1 heartbeat received, 2 of 6 calls refused, 3 spoilt, 1 client left"
        assert process.end()[1].splitlines()[-1] == summary

    def test_the_summary_begins_anew_at_a_reset(self, launch):
        process = launch("--script", "reset")
        try_post(process)
        control(process, "POST", "reset")
        post(process)
        summary = "1 heartbeat received, 0 of 1 calls refused"
        assert process.end()[1].splitlines()[-1] == summary

    @needs_terminal
    @pytest.mark.parametrize(("no_colour", "coloured"), named({
        "colours": ("", True),
        "no colours": ("1", False),
    }))
    def test_a_terminal_gets_colours_unless_told_otherwise(self, launch, no_colour, coloured):
        terminal, end = os.openpty()
        with open(terminal, closefd=True) as screen:
            script = ("--script", "503, reset")
            process = launch(*script, stdout=end, NO_COLOR=no_colour, TERM="xterm")
            os.close(end)
            process.find_port(screen.readline())
            for _ in range(3):
                with contextlib.suppress(OSError):
                    post(process)
            lines = [screen.readline() for _ in range(3)]
        for line, word in zip(lines, ("\x1b[33m503", "\x1b[31mreset", "\x1b[32mok")):
            assert (word in line) is coloured
        assert any("\x1b" in line for line in lines) is coloured

    @needs_terminal
    @pytest.mark.parametrize(("columns", "script", "payload", "line"), named({
        "there is room": (
            120, "503*2, reset", HEARTBEAT,
            "503       KKT-001     buffer 5/200 (2.5%)     breaker CLOSED     script: 503, reset"),
        "the script gives way": (
            95, "503*2, reset, ok@2s", HEARTBEAT,
            "503       KKT-001     buffer 5/200 (2.5%)     breaker CLOSED     script: 503, res..."),
        "a stump of it says nothing": (
            80, "503*2, reset", HEARTBEAT,
            "503       KKT-001     buffer 5/200 (2.5%)     breaker CLOSED"),
        "then the blanks": (
            80, "503*2, reset", dict(HEARTBEAT, adapter_id="KKT-001, by the window"),
            "503       KKT-001, by the window  buffer 5/200 (2.5%)  breaker CLOSED"),
        "then the text": (
            80, "503*2, reset", dict(HEARTBEAT, adapter_id="KKT-001, behind the door"),
            "503       KKT-001, behind the door  buffer 5/200 (2.5%)  breaker C..."),
        "the reason last": (
            80, "ok, 503", [1] * 30,
            "400       [1, 1, 1,...  the body must be a JSON object, not [1, 1,..."),
    }))
    def test_a_line_fits_its_terminal(self, columns, script, payload, line):
        with terminal(columns, "--script", script) as (process, screen):
            post(process, payload)
            assert screen.readline()[10:] == line + "\n"

    @needs_terminal
    def test_a_first_line_that_is_too_long_is_broken_and_not_cut(self):
        with terminal(60) as (process, screen):
            assert process.first == f"Mock Odoo on http://127.0.0.1:{process.port}\n"
            rest = [screen.readline() for _ in range(2)]
            assert rest == [f"    POST {PATH}\n", "    Ctrl+C stops\n"]

    def test_what_is_done_to_it_stands_between_the_calls(self, launch):
        process = launch()
        control(process, "PUT", "script", {"script": "503*2", "loop": True})
        post(process)
        control(process, "POST", "reset")
        control(process, "POST", "down", {"seconds": 0})
        control(process, "PUT", "script", {"script": ""})
        lines = [process.line()[10:].split() for _ in range(6)]
        assert lines[0] == ["script", "503*2", "in", "a", "loop"]
        assert lines[1][:2] == ["503", "KKT-001"]
        assert lines[2:] == [["reset"], ["down", "for", "0.0", "s"], ["up"], ["script", "ok*"]]

    def test_events_may_be_lines_of_json(self, launch):
        process = launch("--json")
        send(process, "GET", "/nowhere")
        control(process, "POST", "reset")
        unmatched, reset = (json.loads(process.line()) for _ in range(2))
        assert (unmatched["event"], unmatched["unmatched"]) == ("unmatched", "404 GET /nowhere")
        assert (reset["event"], sorted(reset)) == ("reset", ["at", "event", "time"])

    def test_it_works_without_standard_output(self, launch):
        process = launch(command=["-c", OWN_OUTPUT % "None"])  # as for a service of Windows
        assert post(process).status == 200
        assert process.end() == (0, "", "")

    def test_it_works_without_a_descriptor_beneath_standard_output(self, launch):
        process = launch("--json", command=["-c", OWN_OUTPUT % "io.StringIO()"])  # as in IDLE
        assert post(process).status == 200
        code, out, err = process.end()
        assert (code, err) == (0, "")
        first, call, last = map(json.loads, out.splitlines())
        assert first == {"listening": f"http://127.0.0.1:{process.port}"}
        assert (call["number"], last["call_count"]) == (1, 1)

    def test_a_reader_that_closes_its_end_stops_nothing(self, launch):
        process = launch()
        process.process.stdout.close()
        assert [post(process).status for _ in range(3)] == [200] * 3
        process.process.stdout = None
        process.ask_to_end()
        assert process.process.wait(10) == 0
        assert process.process.stderr.read() == ""

    def test_a_slow_reader_gets_every_line(self, launch):
        process = launch("--json", "--max-calls", "1")
        for _ in range(400):
            assert post(process).status == 200
        reading = in_background(process.process.stdout.read)
        process.ask_to_end()
        lines = reading.result().splitlines()
        assert [json.loads(line).get("number") for line in lines] == [*range(1, 401), None]
        assert process.process.wait(PATIENCE) == 0

    def test_a_pipe_that_nobody_reads_holds_up_nothing(self, launch):
        process = launch("--json", "--max-calls", "1")
        for _ in range(3):
            assert post(process, dict(HEARTBEAT, padding="x" * 100000)).status == 200
        process.ask_to_end()
        assert process.process.wait(PATIENCE) == 0

    @full_disk
    def test_a_full_disk_for_standard_output_stops_nothing(self, monkeypatch):
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        with open("/dev/full", "wb") as full:
            done = run_python("-m", "mock_odoo", "--port", "99999", stdout=full)
        assert done.stderr.startswith("mock_odoo: --port must be")
        assert done.returncode == 2


@contextlib.contextmanager
def terminal(columns, *args):
    """A fake at a terminal so wide, without colours, and the lines there behind its first."""
    import fcntl
    import termios

    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(ours, encoding="utf-8") as screen:
        process = Process(*args, stdout=its, NO_COLOR="1", PYTHONIOENCODING="utf-8")
        os.close(its)
        try:
            process.find_port(in_background(screen.readline).result())
            yield process, screen
        finally:
            process.process.kill()
            process.process.communicate()


def read_journal(path, after=0):
    """The lines of a journal, but for the first so many."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()[after:]]


class TestJournal:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "journal.jsonl"

    def test_every_answered_heartbeat_survives_a_kill(self, launch, path):
        args = ("--script", "503, close", "--quiet", "--max-calls", "1")
        process = launch("--journal", str(path), *args)
        for n in range(5):
            with contextlib.suppress(http.client.RemoteDisconnected):
                post(process, {"n": n})
        process.process.kill()
        records = [record for record in read_journal(path) if "number" in record]
        assert [record["number"] for record in records] == [1, 2, 3, 4, 5]
        assert [record["reply"] for record in records] == ["503", "close", "ok", "ok", "ok"]
        assert [record["payload"]["n"] for record in records] == [0, 1, 2, 3, 4]

    def test_a_line_torn_by_a_kill_does_not_spoil_the_next_run(self, launch, path):
        path.write_text('{"number": 1}\n{"number": 2, "ha')
        process = launch("--journal", str(path))
        post(process)
        process.end()
        assert path.read_text().startswith('{"number": 1}\n{"number": 2, "ha\n{"event": "start"')
        assert read_journal(path, after=2)[1]["payload"] == HEARTBEAT

    def test_a_new_run_appends_to_it(self, launch, path):
        path.write_text("before\n")
        process = launch("--journal", str(path))
        post(process)
        process.end()
        assert len(read_journal(path, after=1)) == 3  # the start, the call and the stop
        assert path.read_text().startswith("before\n{")

    @needs_limits
    def test_a_lack_of_descriptors_costs_no_line(self, launch, path):
        code = """if True:
            import ctypes, os, resource, sys, mock_odoo

            try:  # until 3.8, the first thread that ends loads this, or aborts the process
                libgcc = ctypes.CDLL("libgcc_s.so.1")
            except OSError:  # another system
                pass

            def make_success(self, payload):
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                free = os.open(os.devnull, os.O_RDONLY)  # the lowest number, and from now on none
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                try:
                    open(os.devnull)
                except OSError as error:
                    return error.strerror

            mock_odoo.MockOdooServer.make_success = make_success
            mock_odoo.main(sys.argv[1:])
        """
        process = launch("--journal", str(path), command=["-c", code])
        assert post(process).body == b"Too many open files"
        assert read_journal(path)[-1]["number"] == 1

    def test_it_tells_the_whole_story(self, launch, path):
        process = launch("--journal", str(path), "--script", "503", "--quiet")
        post(process)
        send(process, "GET", "/nowhere")
        control(process, "POST", "down", {"seconds": 0})
        until(lambda: read_journal(path)[-1].get("event") == "up")
        post(process)
        process.end()
        story = [line.get("event") or line["reply"] for line in read_journal(path)]
        assert story == ["script", "start", "503", "unmatched", "down", "up", "ok", "stop"]
        assert all("T" in line["time"] for line in read_journal(path))

    def test_a_call_stands_there_with_its_sender(self, launch, path):
        process = launch("--journal", str(path), "--quiet")
        post(process)
        post(process, {})
        assert [line.get("sender") for line in read_journal(path)[1:]] == ["KKT-001", "127.0.0.1"]

    def test_a_sender_that_cannot_be_told_costs_no_line(self, launch, path):
        code = """if True:
            import sys, mock_odoo
            mock_odoo.MockOdooServer.sender = lambda self, call: call.payload["who"]
            mock_odoo.main(sys.argv[1:])
        """
        process = launch("--journal", str(path), "--quiet", command=["-c", code])
        post(process, {"who": "Anna"})
        post(process, {})
        assert [line.get("sender") for line in read_journal(path)[1:]] == ["Anna", "?"]

    def test_letters_stand_there_as_they_are(self, launch, path):
        process = launch("--journal", str(path), "--quiet")
        post(process, {"adapter_id": "Касса", "note": "\ud800 \x9b \u2028"})
        text = path.read_text("utf-8")
        assert '"adapter_id": "Касса", "note": "\\ud800 \\u009b \\u2028"' in text
        assert read_journal(path)[1]["payload"]["note"] == "\ud800 \x9b \u2028"

    @needs_pipe
    def test_a_pipe_that_nobody_reads_is_one_line_and_exit_2(self, path):
        os.mkfifo(path)
        code, out, err = run_main("--port", "0", "--journal", str(path))
        complaint = f"cannot write the journal {path}: nobody reads this pipe"
        assert (code, out, err) == (2, "", f"mock_odoo: {complaint}\n")

    @needs_pipe
    def test_the_reader_of_a_pipe_gets_every_line(self, launch, path):
        os.mkfifo(path)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
            process = launch("--journal", str(path))
            os.set_blocking(reader.fileno(), True)
            reading = in_background(reader.read)
            for n in range(3):
                post(process, {"n": n, "padding": "x" * 100000})
            process.end()
            lines = list(map(json.loads, reading.result().splitlines()))
        assert [line.get("event") or line["payload"]["n"] for line in lines] == [
            "start", 0, 1, 2, "stop",
        ]

    @needs_pipe
    def test_a_slow_reader_of_a_pipe_holds_up_neither_replies_nor_the_end(self, launch, path):
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            process = launch("--journal", str(path))
            statuses = [post(process, {"padding": "x" * 100000}).status for _ in range(3)]
            code, _, err = process.end()
        finally:
            os.close(reader)
        complaint = "its reader is slow, and lines are lost; the server goes on"
        assert (statuses, code) == ([200] * 3, 0)
        assert err == f"mock_odoo: journal {path}: {complaint}\n"

    @full_disk
    def test_a_full_disk_stops_neither_server_nor_replies(self, launch):
        process = launch("--journal", "/dev/full")
        assert [post(process).status for _ in range(3)] == [200] * 3
        code, out, err = process.end()
        assert (code, out.splitlines()[-1]) == (0, "3 heartbeats received, 0 of 3 calls refused")
        complaint = "journal /dev/full: No space left on device; the server goes on"
        assert err == f"mock_odoo: {complaint}\n"

    @needs_limits
    def test_a_torn_line_spoils_no_other(self, launch, path):
        code = """if True:
            import os, resource, sys, mock_odoo

            def make_success(self, payload):
                limits = resource.getrlimit(resource.RLIMIT_FSIZE)
                journal = sys.argv[sys.argv.index("--journal") + 1]
                room = os.path.getsize(journal) + payload["room"]
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
                return {}

            mock_odoo.MockOdooServer.make_success = make_success
            mock_odoo.main(sys.argv[1:])
        """
        process = launch("--journal", str(path), command=["-c", code])
        assert post(process, {"room": 3}).status == 200
        assert post(process, {"room": 1000000}).status == 200
        code, _, err = process.end()
        assert code == 0
        start, torn, *whole = path.read_text().splitlines()
        assert (json.loads(start)["event"], torn) == ("start", '{"n')
        assert [json.loads(line).get("number") for line in whole] == [2, None]
        assert "could not be written as a whole" in err


def call_at(at, name="KKT-001", reply="ok", number=1, **more):
    """A call as a journal has it, at some second of a day."""
    fields = {
        "number": number, "received_at": at, "reply": reply, "accepted": reply == "ok",
        "time": written(at), "payload": {"adapter_id": name}, **more,
    }
    return {"sender": name, **fields}


def event_at(at, name, **more):
    return {"event": name, "at": at, "time": written(at), **more}


def written(at):
    """A second of a day, as that of an end in Moscow."""
    return f"2026-11-25T{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.000+03:00"


START = {"url": "http://127.0.0.1:8069"}


class TestReadJournal:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "journal.jsonl"

    @pytest.fixture
    def read(self, path, capsys):
        """Write a journal of some records, and have it read: what is printed."""

        def read(*records, flags=()):
            path.write_text("".join(json.dumps(each) + "\n" for each in records))
            assert mock_odoo.main(["--read", str(path), *flags]) == 0
            out, err = capsys.readouterr()
            assert err == ""
            return out.splitlines()

        return read

    def test_it_prints_what_the_terminal_showed(self, launch, path):
        args = ("--script", "503*2, reset, ok@1ms", "--strict", "--journal", str(path))
        process = launch(*args, PYTHONIOENCODING="utf-8")
        for payload in (HEARTBEAT, HEARTBEAT, HEARTBEAT, HEARTBEAT, [1], {"adapter_id": "Kasse"}):
            try_post(process, payload)
        send(process, "GET", "/nowhere")
        control(process, "PUT", "script", {"script": "429, ok", "loop": True})
        try_post(process)
        control(process, "POST", "reset")
        control(process, "POST", "down", {"seconds": 0})
        try_post(process)
        *shown, _ = process.end()[1].splitlines()
        code, out, err = run_main("--read", str(path))
        assert (code, err) == (0, "")
        told = out.splitlines()
        assert told[: told.index("")][3:-1] == shown  # behind day, script and start; before stop
        assert len(shown) == 13

    def test_runs_days_and_their_clock_are_those_of_the_journal(self, read):
        lines = read(
            event_at(82800, "start", **START), call_at(86399), event_at(86399, "stop"),
            dict(call_at(0), time="2026-11-26T00:00:00.000+03:00"),
        )
        assert [line.split()[:2] for line in lines[: lines.index("")]] == [
            ["2026-11-25"], ["23:00:00", "start"], ["23:59:59", "ok"], ["23:59:59", "stop"],
            ["2026-11-26"], ["00:00:00", "ok"],
        ]
        assert lines[1] == "23:00:00  start     http://127.0.0.1:8069"

    def test_quiet_prints_only_what_it_comes_to(self, read):
        lines = read(event_at(0, "start", **START), call_at(7), flags=["--quiet"])
        assert lines == ["KKT-001  1 call, 1 accepted, 0 refused, 0 spoilt, 0 clients left"]

    def test_each_sender_has_a_line_with_what_became_of_its_calls(self, read):
        lines = read(
            call_at(0, "A"), call_at(0, "KKT-2", "503"), call_at(0, "A", "reset"),
            call_at(0, "A", "400"), call_at(0, "A", "html"), call_at(0, "A", "201", accepted=True),
            flags=["--quiet"],
        )
        assert [line.partition(";")[0] for line in lines] == [
            "A      5 calls, 2 accepted, 1 refused, 2 spoilt, 0 clients left",
            "KKT-2  1 call, 0 accepted, 1 refused, 0 spoilt, 0 clients left",
        ]

    def test_a_client_that_left_counts_for_its_sender(self, read):
        lines = read(
            call_at(0, "A", number=1), call_at(0, "B", number=2), call_at(0, "A", number=3),
            event_at(1, "left", number=2, after=1.0), event_at(1, "left", number=99, after=1.0),
        )
        assert "12" not in lines[1]
        assert [line.partition(";")[0][-15:] for line in lines[-2:]] == [
            " 0 clients left", ", 1 client left",
        ]

    @pytest.mark.parametrize(("name", "more"), named({
        "adapter_id": ("KKT-001", {"payload": {"adapter_id": "KKT-001"}}),
        "address": ("192.0.2.7", {"payload": {}, "client": ["192.0.2.7", 1]}),
    }))
    def test_a_call_of_an_earlier_version_has_a_sender_too(self, read, name, more):
        call = {"number": 1, "received_at": 0, "reply": "ok", "accepted": True, **more}
        assert read(call, flags=["--quiet"])[0].startswith(f"{name}  1 call, ")

    def test_the_longest_silence_and_the_usual_interval_are_told(self, read):
        calls = [call_at(at) for at in (0, 30, 59, 90, 151, 180)]
        line = read(*calls, call_at(240, "B"), flags=["--quiet"])[0]
        assert line.split("; ")[1:] == [
            "longest silence 61.0 s, from 2026-11-25 00:01:30", "usually every 30.0 s",
        ]

    def test_an_even_number_of_intervals_has_its_middle_between_two(self, read):
        line = read(*map(call_at, (0, 1, 4)), flags=["--quiet"])[0]
        assert line.endswith("; usually every 2.0 s")

    @pytest.mark.parametrize("end", [
        event_at(100, "stop"), call_at(100, "another"), event_at(100, "reset"),
    ], ids=["until the stop", "until the last call", "until the last event"])
    def test_a_sender_that_is_not_heard_again_is_silent_to_the_end(self, read, end):
        line = read(call_at(7), call_at(17), end, flags=["--quiet"])[0]
        assert "; longest silence 83.0 s, from 2026-11-25 00:00:17; usually every 10.0 s" in line

    @pytest.mark.parametrize("end", [
        [event_at(12, "stop")], [],
    ], ids=["stopped", "killed"])
    def test_what_lies_between_two_runs_is_no_silence(self, read, end):
        script = event_at(3000, "script", script="503", loop=False)
        lines = read(
            event_at(0, "start", **START), call_at(0), call_at(10), *end,
            script, event_at(3000, "start", **START), call_at(3001), call_at(3004),
        )
        assert "; longest silence 10.0 s, from" in lines[-1]
        assert lines[-1].endswith("; usually every 6.5 s")

    def test_the_clock_may_be_set_back(self, read):
        line = read(*map(call_at, (1000, 1002, 10, 14)), flags=["--quiet"])[0]
        assert line.endswith("longest silence 4.0 s, from 2026-11-25 00:00:10; usually every 3.0 s")

    def test_outages_stand_at_the_end(self, read):
        lines = read(
            event_at(0, "start", **START), event_at(1, "down", seconds=5.0), event_at(6, "up"),
            event_at(10, "down", seconds=None), event_at(12, "down", seconds=1), event_at(13, "up"),
            event_at(20, "down", seconds=None), event_at(24, "stop"),
            event_at(30, "start", **START), event_at(40, "down", seconds=9), event_at(42, "reset"),
            flags=["--quiet"],
        )
        assert lines == [
            "outage for 5.0 s, from 2026-11-25 00:00:01",
            "outage for 3.0 s, from 2026-11-25 00:00:10",
            "outage for 4.0 s, from 2026-11-25 00:00:20",
            "outage for at least 2.0 s, from 2026-11-25 00:00:40",
        ]

    def test_the_newest_100_outages_are_listed(self, read):
        outages = (
            event_at(10 * n + after, name, seconds=5.0)
            for n in range(102) for after, name in ((0, "down"), (5, "up"))
        )
        lines = read(*outages, flags=["--quiet"])
        assert len(lines) == 100
        assert lines[-1] == "outage for 5.0 s, from 2026-11-25 00:16:50"

    @pytest.mark.parametrize("line", named({
        "torn": '{"number": 2, "rece',
        "not JSON": "GET / HTTP/1.1",
        "not UTF-8": "\udcff",
        "no object": "[1, 2]",
        "an object of another kind": '{"level": "info"}',
        "a call without a time": '{"number": 1, "reply": "ok", "accepted": true}',
        "a call of no time": json.dumps(dict(call_at(0), received_at=float("nan"))),
        "a call long after all": json.dumps(dict(call_at(0), received_at=1e300)),
        "a call with a list for a number": json.dumps(call_at(0, number=[1])),
        "an outage without its seconds": '{"event": "down", "at": 0}',
        "an event that is a list": '{"event": [], "at": 0}',
        "deep": "[" * 100000,
        "a delay past all numbers": json.dumps(dict(call_at(0), delay=10**400)),
    }))
    def test_a_torn_or_foreign_line_is_named_and_the_rest_is_read(self, path, line, capsys):
        text = "\n".join([json.dumps(call_at(0)), "", line, json.dumps(call_at(1))])
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert mock_odoo.main(["--read", str(path), "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("KKT-001  2 calls, ")
        assert err == "mock_odoo: line 3 is torn, or no call and no event\n"

    def test_it_reads_standard_input(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "mock_odoo", "--read", "-"], cwd=HERE, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        out, err = process.communicate(json.dumps(call_at(0)), timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert out.splitlines()[-1].startswith("KKT-001  1 call, ")

    @pytest.mark.parametrize("command", [["-m", "mock_odoo"], ["-c", RECEIPTS]], ids=["-m", "-c"])
    def test_it_ends_quietly_where_its_reader_ends(self, path, command):
        path.write_text((json.dumps(call_at(0)) + "\n") * 5000)
        process = subprocess.Popen(
            [sys.executable, *command, "--read", str(path)], cwd=HERE, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert process.stdout.readline() == "2026-11-25\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(PATIENCE) == 0

    @full_disk
    def test_a_full_disk_is_one_line_and_exit_2(self, path):
        path.write_text(json.dumps(call_at(0)))
        with open("/dev/full", "wb") as full:
            done = run_python("-m", "mock_odoo", "--read", str(path), stdout=full)
        assert (done.returncode, done.stderr) == (2, "mock_odoo: No space left on device\n")

    @needs_limits
    def test_a_file_of_any_size_needs_little_memory(self, path):
        """Its first line is longer than the memory, and its senders have no end."""
        with open(path, "wb") as file:
            file.truncate(1 << 28)  # of which the disk holds nothing
            file.seek(0, os.SEEK_END)
            for n in range(3000):
                line = json.dumps(dict(call_at(n, f"sender {n}"), payload="x" * 1000))
                file.write(b"\n" + line.encode())
        code = """if True:
            import resource, sys, mock_odoo
            resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, resource.RLIM_INFINITY))
            mock_odoo.main(sys.argv[1:])
        """
        done = run_python("-c", code, "--read", str(path), "--quiet")
        assert done.stderr == "mock_odoo: line 1 is torn, or no call and no event\n"
        assert done.stdout.splitlines()[-1].startswith("all others  2000 calls, ")

    def test_another_service_describes_its_own_calls(self, path):
        code = RECEIPTS.replace("raise", """
    def describe_call(self, call):
        return f"receipt {call.payload['id']} of {len(call.body)} bytes from {call.client[0]}"

raise""")
        call = call_at(0, payload={"id": 7}, client=["192.0.2.7", 1])
        path.write_text(json.dumps(call))
        done = run_python("-c", code, "--read", str(path))
        line = "00:00:00  ok        receipt 7 of 9 bytes from 192.0.2.7"
        assert done.stdout.splitlines()[1] == line


# ------------------------------------------------------------------------------------------
# Page: what a real browser shows of the fake, and what it can do with it
# ------------------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


class Browser:
    """Headless Chromium, steered over a pair of pipes by its DevTools protocol."""

    def __init__(self, folder):
        import fcntl  # which Windows does not have

        low = [*os.pipe(), *os.pipe()]
        theirs, self.commands, self.events, ours = (
            fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in low)
        for number in low:
            os.close(number)

        def place():  # they cannot be 3 or 4 already, which dup2() would leave to be closed
            os.dup2(theirs, 3)
            os.dup2(ours, 4)

        with open(os.path.join(folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                 "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update", "--disable-dev-shm-usage",
                 "--host-resolver-rules=MAP pos.example 127.0.0.1",
                 f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"],
                stdout=log, stderr=log, close_fds=False, preexec_fn=place)  # noqa: PLW1509
        os.close(theirs)
        os.close(ours)
        self.buffer, self.last = b"", 0
        self.session, self.complaints = None, []

    def ask(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                ready, _, _ = select.select([self.events], [], [], 2 * PATIENCE)
                assert ready, "the browser says nothing"
                more = os.read(self.events, 1 << 20)
                if not more:
                    raise BrokenPipeError("the browser has gone")
                self.buffer += more
            text, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(text.decode())
            if (answer.get("sessionId") == self.session
                    and answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
                    and answer["params"].get("entry", {}).get("level") != "verbose"
                    and b"status of 408" not in text):  # with which a long poll may end
                self.complaints.append(answer["params"])
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url, width=360, height=800, dark=False):
        if self.session is None:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            session = self.ask("Target.attachToTarget", targetId=target, flatten=True)
            self.session = session["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.ask(domain + ".enable")
        self.ask("Page.navigate", url="about:blank")  # the page before has said all it will
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.complaints = []
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.visit(url)

    def visit(self, url):
        """Open a URL in the tab that is open."""
        self.ask("Page.navigate", url=url)
        self.until("document.querySelector('#state') && document.readyState === 'complete'")

    def resize(self, width, height=800):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=True)

    def evaluate(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression,
                          awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def refresh(self):
        """Have the page ask for the state now."""
        self.evaluate("ask('GET', 'state').then(show)")

    def text(self, name):
        """What stands in the element of that id."""
        return self.evaluate(f"at('{name}').textContent")

    def all(self, selector, expression):
        """The value of an expression for each `e` that the selector finds."""
        found = f"document.querySelectorAll({json.dumps(selector)})"
        return self.evaluate(f"[...{found}].map(e => {expression})")

    def until(self, condition):
        """Have the page itself look, every 10 ms, until the condition holds."""
        assert self.evaluate(
            "new Promise(done => {"
            "  const end = Date.now() + 15000;"
            "  const look = () => {"
            f"   if ({condition}) done(true);"
            "    else if (Date.now() > end) done(false);"
            "    else setTimeout(look, 10);"
            "  };"
            "  look();"
            "})"), f"{condition}\n{self.evaluate('document.body.innerText')}"

    def click(self, selector):
        self.press(*self.middle(selector))

    def middle(self, selector):
        place, = self.all(
            selector, "{ e.scrollIntoView(); const box = e.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; }")
        return place

    def press(self, x, y):
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
    def test_it_stands_alone_under_a_strict_policy(self, steered):
        response = send(steered, "GET", "/_mock/")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        text = response.body.decode()
        outside = r"(src|href)=\"(?!data:,)|https?://|@import"
        unsafe = r"innerHTML|document\.write|eval\("
        assert not re.search(f"{outside}|{unsafe}", text)

    def test_it_shows_state_and_timeline_and_follows_them(self, browser, steered):
        steered.play("503, reset, ok")
        browser.open(steered.url)
        browser.until("at('state').textContent === 'Odoo plays 503, reset, ok'")
        post(steered)
        with pytest.raises(ConnectionResetError):
            post(steered)
        post(steered)
        browser.until("at('calls').children.length === 3"
                      " && at('state').textContent === 'Odoo is up'")
        rows = browser.all("#calls li", "[e.className, e.innerText]")
        assert [kind for kind, _ in rows] == ["accepted", "spoilt", "refused"]
        assert [text[0] for _, text in rows] == ["\u25cf", "\u2716", "\u25b2"]
        for words in ("ok", *steered.describe_call(steered.get_calls()[2]).split()):
            assert words in rows[0][1]
        assert browser.text("counts") == f"1 of 3 heartbeats accepted at {steered.heartbeat_url}"
        assert browser.complaints == []

    def test_it_shows_delays_and_what_missed_the_endpoint(self, browser, steered):
        send(steered, "GET", "/<b>nowhere")
        steered.play("ok@20ms")
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').innerText.includes('ok@20ms')")
        assert browser.text("unmatched") == "Missed the endpoint: 404 GET /<b>nowhere"
        steered.reset()
        for _ in range(2):  # the page waits for the second
            post(steered)
        browser.until("at('unmatched').textContent === ''")

    def test_a_delay_reads_as_in_a_script(self, browser, steered):
        browser.open(steered.url)
        for delay in (0, 0.25, 0.5, 1, 1.5, 2.0, 10, 100, 0.001, 0.0005, 1.2345, 0.1 + 0.2, 86400):
            steered.play([Reply(503, delay=delay)])
            call = json.dumps({"reply": "503", "delay": delay})
            assert browser.evaluate(f"label({call})") == steered.script

    def test_a_label_stays_in_one_line(self, browser, steered):
        steered.play("503@20ms")
        post(steered)
        browser.open(steered.url, width=360)
        browser.until("at('calls').children.length === 1")
        label = "document.querySelector('#calls .label')"
        browser.evaluate(f"at('calls').style.width = '1px', {label}.style.minWidth = 0")
        assert browser.evaluate(f"{label}.textContent") == "\u25b2 503@20ms"
        assert browser.evaluate(f"{label}.offsetHeight") < 40

    def test_a_row_says_why_a_request_was_refused(self, browser, fresh):
        strict = fresh(control=True, strict=True)
        post(strict, {key: HEARTBEAT[key] for key in HEARTBEAT if key != "adapter_id"})
        send(strict, "POST", PATH, "<b>", JSON)
        post(strict)
        browser.open(strict.url)
        browser.until("at('calls').children.length === 3")
        problems = browser.all("#calls li", "e.querySelector('.problem').textContent")
        assert problems == [""] + [call.problem for call in reversed(strict.get_calls()[:2])]
        assert "adapter_id: missing" in problems[2]

    def test_a_row_says_which_call_it_repeats(self, browser, steered):
        steered.play("reset")
        with pytest.raises(ConnectionResetError):
            post(steered)
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 2")
        new, old = browser.all("#calls li", "e.innerText")
        assert "repeats #1" in new
        assert "repeats" not in old

    def test_a_click_plays_its_script(self, browser, steered):
        browser.open(steered.url)
        for button, script, loop in (
            ("all well", "", False),
            ("failing 3 times", "503*3", False),
            ("failing for ever", "503*", False),
            ("flapping", "ok*2, 503*3", True),
            ("slow", "ok@6s*", False),
            ("stalling", "stall*", False),
            ("resetting", "reset*", False),
            ("session expired", "expired*", False),
        ):
            steered.play("429*7")
            post(steered)
            browser.until("at('state').textContent.includes('429')")
            browser.all("button", f"e.id = e.textContent === '{button}' ? 'wanted' : e.id")
            browser.click("#wanted")
            browser.until("!at('state').textContent.includes('429')")
            browser.evaluate("at('wanted').id = ''")
            assert (button, steered.script, steered.loop) == (button, script, loop)

    def test_to_forget_everything_takes_a_second_click_elsewhere(self, browser, steered):
        steered.play("503*7")
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 1")
        browser.click("#forget")
        assert browser.text("forget") == "Keep all"
        browser.click("#sure")
        browser.until("at('calls').children.length === 0 && at('sure').hidden")
        assert (steered.get_call_count(), steered.script) == (0, "")

    @pytest.mark.parametrize("width", [360, 1024])
    def test_a_double_click_forgets_nothing(self, browser, steered, width):
        post(steered)
        browser.open(steered.url, width)
        browser.until("at('calls').children.length === 1")
        place = browser.middle("#forget")
        for words in ("Keep all", "Forget everything"):
            browser.press(*place)
            assert browser.text("forget") == words
        assert browser.evaluate("at('sure').hidden")
        assert steered.get_call_count() == 1

    def test_an_outage_that_was_asked_for_is_no_error(self, browser, steered):
        post(steered)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 1")
        browser.evaluate(
            "at('down').dataset.seconds = 2; const line = document.querySelector('h1'), told = [];"
            "new MutationObserver(() => told.push(line.textContent + at('error').textContent))"
            ".observe(document.body, {childList: true, subtree: true}); 0")
        browser.click("#down")
        browser.until("at('state').className === 'down' && document.querySelector('#strip rect')")
        assert refused(steered)
        assert browser.all("[aria-pressed=true]", "e.id") == ["down"]
        browser.until("at('state').textContent === 'Odoo is up'")
        told = {line.replace("\n", " ").strip() for line in browser.evaluate("told")}
        assert told - {"Odoo is up"} == {"Odoo is down for 2 s more", "Odoo is down for 1 s more"}
        post(steered)
        browser.until("at('calls').children.length === 2")

    def test_a_click_during_an_outage_says_below_it_why_nothing_happens(self, browser, steered):
        browser.open(steered.url)
        browser.until("at('state').className === 'up'")
        browser.click("#down")
        browser.until("at('state').className === 'down'")
        browser.click("#modes button:first-child")
        words = "Odoo is down, and nothing can reach it until it is up"
        browser.until(f"at('error').textContent === '{words}'")
        assert browser.evaluate("at('error').previousElementSibling.id") == "modes"
        assert browser.evaluate("at('state').className") == "down"
        steered.up()
        browser.until("at('state').className === 'up' && at('error').textContent === ''")

    def test_the_field_plays_a_script_by_keyboard_and_shows_its_error(self, browser, steered):
        browser.open(steered.url)
        browser.evaluate("at('script').focus()")
        browser.ask("Input.insertText", text="50x")
        for kind in ("keyDown", "keyUp"):
            browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                        windowsVirtualKeyCode=13)
        browser.until("at('error').textContent.includes(\"step '50x': '50x' is no reply\")")
        browser.evaluate("at('script').value = '503*2, reset', at('loop').checked = true")
        browser.click("#play button")
        browser.until("at('state').textContent === 'Odoo plays 503*2, reset in a loop'"
                      " && at('error').textContent === ''")
        assert (steered.script, steered.loop) == ("503*2, reset", True)

    def test_it_shows_when_the_fake_is_gone(self, browser, steered):
        browser.open(steered.url)
        browser.until("at('state').className === 'up'")
        steered.stop()
        browser.until("at('state').className === 'gone'")
        assert browser.text("state") == "No answer: an outage, or the fake was stopped"

    def test_a_fault_of_its_own_is_not_taken_for_a_missing_answer(self, browser, steered):
        browser.open(steered.url)
        browser.until("at('state').className === 'up'")
        browser.evaluate("draw = () => { throw new Error('broken'); }; 0")
        post(steered)
        browser.until("at('error').textContent === 'The page failed: broken'")
        assert browser.text("state") == "Odoo is up"

    def test_odd_values_are_shown_and_stop_nothing(self, browser, steered):
        for odd in ({"toString": 1}, [], None, 1e308, True, "", {"__proto__": None}):
            breaker = {"state": odd}
            post(steered, {"adapter_id": odd, "buffer_status": odd, "circuit_breaker": breaker})
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
        buffer = {"current_queued": evil, "total_capacity": {"a": 1}}
        breaker = {"state": [evil]}
        payload = {"adapter_id": evil, "buffer_status": buffer, "circuit_breaker": breaker}
        post(steered, payload)
        send(steered, "POST", PATH, json.dumps([evil]), JSON)
        browser.open(steered.url)
        browser.until("at('calls').children.length === 2")
        assert evil in browser.evaluate("at('calls').innerText")
        assert browser.evaluate("document.querySelectorAll('#calls img').length") == 0
        assert browser.evaluate("document.title") == "Odoo (fake)"
        assert browser.complaints == []

    def test_the_headline_says_what_happens(self, browser, steered):
        browser.open(steered.url)
        for script, loop, words in (
            ("503*", False, "Odoo refuses every heartbeat (503*)"),
            ("503*3", True, "Odoo refuses every heartbeat (503*3) in a loop"),
            ("stall*", False, "Odoo spoils every answer (stall*)"),
            ("ok@6s*", False, "Odoo answers every heartbeat late (ok@6s*)"),
            ("503*2, ok", False, "Odoo plays 503*2, ok"),
            ("ok*2, 503", True, "Odoo plays ok*2, 503 in a loop"),
            ("503*, ok", True, "Odoo plays 503*, ok in a loop"),
            ("ok*", False, "Odoo is up"),
        ):
            steered.play(script, loop)
            browser.refresh()
            assert browser.text("state") == words

    def test_the_button_of_what_is_on_is_marked(self, browser, steered):
        browser.open(steered.url)
        for script, loop, count, pressed in (
            ("", False, 0, ["all well"]),
            ("503*", False, 1, ["failing for ever"]),
            ("503*3", False, 2, ["failing 3 times"]),
            ("503*3", False, 3, ["all well"]),
            ("ok*2, 503*3", True, 3, ["flapping"]),
            ("ok*2, 503*3", False, 0, []),
            ("503*4", False, 0, []),
            ("ok@6s", False, 0, []),
        ):
            steered.play(script, loop)
            for _ in range(count):
                post(steered)
            browser.refresh()
            assert browser.all("[aria-pressed=true]", "e.textContent") == pressed, script

    def test_each_sender_has_a_line_and_who_is_late_stands_first(self, browser, steered):
        for sender, since in (("KKT-001", 75), ("KKT-002", 70), ("KKT-001", 45), ("KKT-002", 49)):
            post(steered, dict(HEARTBEAT, adapter_id=sender))
            steered.get_calls()[-1].received_at -= since
        browser.open(steered.url)
        browser.until("at('senders').children.length === 2")
        lines = browser.all("#senders li", "e.innerText.split(/\\s*\\n/).join('  ')")
        assert [re.sub(r"last \d+ s", "last N s", line) for line in lines] == [
            "KKT-002  last N s ago (usually every 21 s)  LATE  buffer 5/200 (2.5%)  breaker CLOSED",
            "KKT-001  last N s ago (usually every 30 s)  buffer 5/200 (2.5%)  breaker CLOSED",
        ]

    def test_the_line_of_a_sender_ticks(self, browser, steered):
        post(steered)
        browser.open(steered.url)
        browser.until("at('senders').innerText.includes('last 0 s ago')")
        browser.evaluate("heard -= 100000")  # as if it had been open for so long
        browser.until("/last 10[0-9] s ago/.test(at('senders').innerText)")

    def test_it_tells_when_a_client_has_left(self, browser, steered):
        steered.play("ok, stall")
        post(steered)
        with connect(steered, request_bytes()):
            steered.wait_for_calls(2)
            browser.open(steered.url)
            browser.until("at('calls').children.length === 2")
            assert browser.all("#calls .left", "e.textContent") == ["", ""]
        browser.until("at('calls').innerText.includes('client left after')")
        assert re.match(r"client left after \d\.\d s", browser.all("#calls .left", "e.textContent")[0])

    def test_its_words_are_those_of_the_service(self, browser, fresh):
        ofd = fresh(
            variant(endpoint="/api/v2/receipt", service="OFD", noun="receipt"), control=True)
        browser.open(ofd.url)
        browser.until("at('strip').textContent === 'No receipt yet'")
        post(ofd, {"total": 12.5})
        browser.until("at('calls').children.length === 1")
        words = browser.evaluate("document.documentElement.innerText")
        for there in ("OFD is up", "1 of 1 receipt accepted", "Receipts, the newest first",
                      '{"total": 12.5}'):
            assert there in words
        for foreign in ("Odoo", "eartbeat", "buffer", "breaker"):
            assert foreign not in words
        assert browser.evaluate("document.title") == "OFD (fake)"

    @pytest.mark.parametrize(("width", "height"), [(1024, 768), (800, 600)])
    def test_state_and_last_calls_need_no_scrolling(self, browser, steered, width, height):
        for number in range(30):
            post(steered, dict(HEARTBEAT, adapter_id=f"KKT-00{number % 3}"))
        browser.open(steered.url, width, height)
        browser.until("at('calls').children.length === 30")
        for selector in ("#state", "#senders", "#calls li:nth-child(3)", "#down"):
            (bottom,) = browser.all(selector, "e.getBoundingClientRect().bottom")
            assert 0 < bottom < height, selector

    def test_what_can_be_touched_is_40_pixels_high_and_wide(self, browser, steered):
        browser.open(steered.url)
        browser.until("at('state').className === 'up'")
        sizes = browser.all(
            "button:not([hidden]), input:not([type=checkbox]), .box",
            "e.offsetParent && [e.textContent, e.offsetWidth, e.offsetHeight]")
        seen = [size for size in sizes if size]
        assert len(seen) == 13
        assert [size for size in seen if min(size[1:]) < 40] == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_the_hint_in_the_field_can_be_read(self, browser, steered, dark):
        browser.open(steered.url, dark=dark)
        style = browser.evaluate(
            "{ const s = getComputedStyle(at('script'), '::placeholder');"
            " [s.color, s.opacity, getComputedStyle(document.body).backgroundColor,"
            "  getComputedStyle(at('script')).backgroundColor]; }")
        ink, paper, field = ([float(n) for n in re.findall(r"[\d.]+", style[i])] for i in (0, 2, 3))

        def mix(upper, lower, share):
            return [share * a + (1 - share) * b for a, b in zip(upper, lower)]

        def luminance(colour):
            parts = [c / 255 for c in colour]
            parts = [c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

        behind = mix(field[:3], paper, field[3])
        lights = sorted(map(luminance, (mix(ink[:3], behind, float(style[1])), behind)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5  # WCAG 2.1, 1.4.3

    def test_a_long_name_ends_in_an_ellipsis(self, browser, steered):
        post(steered, dict(HEARTBEAT, adapter_id="K" * 200))
        browser.open(steered.url)
        browser.until("at('senders').children.length === 1")
        cut, whole = browser.all(
            ".sender", "[getComputedStyle(e).textOverflow, e.title]")[0]
        assert (cut, whole) == ("ellipsis", "K" * 200)
        assert browser.evaluate("document.documentElement.scrollWidth <= 360")

    def test_what_would_turn_round_the_text_is_shown_as_a_box(self, browser, steered):
        for sender in ("KKT\u202e001", "KKT\u2067001", "KKT\u200b001", "KKT\x1b[31m"):
            post(steered, dict(HEARTBEAT, adapter_id=sender, total=sender))
        browser.open(steered.url)
        browser.until("at('senders').children.length === 4")
        assert browser.all(".sender", "e.textContent") == [
            *["KKT\ufffd001"] * 3, "KKT\ufffd[31m"]
        words = browser.evaluate("document.documentElement.textContent")
        assert not re.search("[\u202e\u2067\u200b\x1b]", words.partition("<script>")[0])

    def test_elsewhere_it_asks_for_the_token_once(self, browser, launch):
        process = launch("--token", "sesam")
        url = f"http://pos.example:{process.port}/"
        browser.open(url)
        browser.until("!at('login').hidden && at('main').hidden")
        for word in ("sesame", "\u043f", "sesam"):
            browser.evaluate(f"at('error').textContent = '', at('token').value = '{word}'")
            browser.click("#login button")
            right = "!at('main').hidden && at('state').textContent === 'Odoo is up'"
            wrong = "at('error').textContent === 'That is not the right token.'"
            browser.until(right if word == "sesam" else wrong)
        assert browser.evaluate("at('login').hidden && at('error').textContent === ''")
        browser.click("[data-script='503*']")
        browser.until("at('state').className === 'scripted'")
        browser.visit(url)
        browser.until("at('state').className === 'scripted'")
        assert browser.evaluate("at('login').hidden")

    def test_a_browser_that_cannot_read_the_script_says_so(self, steered):
        text = send(steered, "GET", "/_mock/").body.decode()
        newer = (  # than Chromium 60 and Firefox 60, and what replaced the text first
            r"replaceChildren|\.flat(?:Map)?\(|\?\.[a-zA-Z(\[]|\?\?|allSettled|catch \{|finally"
            r"|\{\.\.\.|\bgap:|[^-]gap: |(?:min|max|clamp)\([^)]*(?:rem|px|%)|(?<!&)#[0-9a-f]{4}\b"
            r"|#[0-9a-f]{8}\b|fromEntries|\.at\(-|matchAll|replaceAll|AbortController|focus-visible"
        )
        assert "This page needs a newer browser</span>" in text
        assert re.findall(newer, text.replace("grid-gap", "").replace("minmax(0", "")) == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_it_fits_a_narrow_screen_and_the_night(self, browser, steered, dark):
        post(steered, dict(HEARTBEAT, adapter_id="K" * 200))
        steered.play("ok@6s*3, 503*2, reset, close, truncate, garbage, stall, drip, html, login")
        browser.open(steered.url, width=360, dark=dark)
        browser.until("at('calls').children.length === 1")
        assert browser.evaluate("document.documentElement.scrollWidth <= 360")
        ink = browser.evaluate("getComputedStyle(document.body).color")
        assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")

    def test_every_control_is_reached_by_the_keyboard_and_has_a_name(self, browser, steered):
        browser.open(steered.url)
        names = browser.all(
            "button, input",
            "e.tabIndex >= 0 && (e.textContent || e.labels[0].textContent).trim()")
        assert len(names) == 16
        assert all(names)


class TestStrip:
    """The picture above the list: what came when."""

    MARKS = "#strip path:not(.level)"

    def beat(self, server, percent=2.5, sender="KKT-001"):
        buffer = dict(HEARTBEAT["buffer_status"], percent_full=percent)
        try_post(server, dict(HEARTBEAT, adapter_id=sender, buffer_status=buffer))

    def beat_at(self, server, *times):
        """Send a heartbeat for each time. These are in seconds, and the last of them is now."""
        now = time.time()
        for seconds in times:
            self.beat(server)
            server.get_calls()[-1].received_at = now + seconds - max(times)

    def look(self, browser, selector):
        """Where the elements are, as (x, y), from the top left of the strip."""
        return browser.all(
            selector,
            "{ const strip = at('strip').getBoundingClientRect(), box = e.getBoundingClientRect();"
            " return [box.x + box.width / 2 - strip.x, box.y + box.height / 2 - strip.y]; }")

    def open(self, browser, server, width=1000):
        browser.open(server.url, width=width)
        count = min(100, server.get_call_count())
        browser.until(f"document.querySelectorAll('{self.MARKS}').length === {count}")
        assert browser.complaints == []

    def test_it_has_a_mark_for_each_call_by_its_kind(self, browser, steered):
        steered.play("503, reset, ok, 429")
        for _ in range(5):
            self.beat(steered)
        self.open(browser, steered)
        kinds = browser.all(self.MARKS, "e.getAttribute('class')")
        assert kinds == ["refused", "spoilt", "accepted", "refused", "accepted"]
        shapes = browser.all(self.MARKS, "e.getAttribute('d')")
        assert len(set(shapes)) == 3
        assert shapes[0] == shapes[3]

    def test_it_is_told_in_words(self, browser, steered):
        steered.play("503, reset")
        self.beat_at(steered, 0, 60, 120, 180, 240)
        self.open(browser, steered)
        assert browser.evaluate("at('strip').getAttribute('role')") == "img"
        assert browser.evaluate("at('strip').getAttribute('aria-label')") == (
            "5 calls within 4 minutes: 3 accepted, 1 refused, 1 spoilt; 0 outages")

    @pytest.mark.parametrize("width", [360, 1000])
    def test_a_missed_beat_is_a_gap_and_a_storm_a_pile(self, browser, steered, width):
        numbers = [*range(40), *range(41, 60), *[60] * 20, *range(61, 80)]
        self.beat_at(steered, *(30 * number for number in numbers))
        self.open(browser, steered, width)
        marks = self.look(browser, self.MARKS)
        assert all(0 < x < width - 32 and 0 < y < 90 for x, y in marks)
        steps = [right[0] - left[0] for left, right in zip(marks, marks[1:])]  # noqa: RUF007
        assert steps[39] == pytest.approx(2 * steps[0], abs=0.1)
        assert len({y for x, y in marks[:59]}) == 1
        storm = marks[59:79]
        assert len({round(x) for x, y in storm}) == 1
        assert len({y for x, y in storm}) == 20

    @pytest.mark.parametrize("width", [360, 1000])
    def test_its_axis_can_be_read(self, browser, steered, width):
        self.open(browser, steered, width)
        for times in (
            [0],  # one call
            [0, 0.02],  # two at once
            [0, 30],  # two beats
            [n / 100 for n in range(100)],  # a hundred in a second
            [30 * n for n in range(100)],  # fifty minutes
            [0, 86400 * 400],  # more than a year
            [30, 0],  # a clock that was set back
        ):
            call = "({number: 1, reply: 'ok', received_at: 1.7e9 + at, sender: 'KKT-001'})"
            words = browser.evaluate(
                f"calls = {times}.map(at => {call});"
                f" clockThen = 1.7e9 + {max(times)}; heard = performance.now(); draw();"
                " [...document.querySelectorAll('#strip text')].map(e => {"
                "   const box = e.getBoundingClientRect();"
                "   return [box.left, box.right, e.textContent];"
                " })")
            assert 1 <= len(words) <= 14, times
            assert all(re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d)?)?", word) for _, _, word in words)
            gaps = [there[0] - here[1] for here, there in zip(words, words[1:])]  # noqa: RUF007
            assert all(gap > 4 for gap in gaps), times
            assert words[0][0] > 0
            assert words[-1][1] < width

    def test_its_axis_runs_to_now(self, browser, steered):
        self.beat_at(steered, 0, 10)
        for call in steered.get_calls():
            call.received_at -= 190
        self.open(browser, steered)
        (first, _), (last, _) = self.look(browser, self.MARKS)
        assert last - first == pytest.approx(10 / 200 * (1000 - 2 * 16 - 2 * 8), rel=0.1)

    @pytest.fixture
    def told(self, fresh):
        """A server, and the events that it tells."""
        events = []
        yield fresh(variant(get_events=lambda server: events), control=True), events

    def tell(self, events, name, seconds_ago):
        events.append({"event": name, "at": time.time() - seconds_ago})

    def test_an_outage_is_a_shaded_span_between_the_calls(self, browser, told):
        server, events = told
        self.beat_at(server, 0, 30, 120)
        self.tell(events, "down", 75)
        self.tell(events, "up", 15)
        self.open(browser, server)
        (start, _), _, (end, _) = self.look(browser, self.MARKS)
        (left, width), = browser.all("#strip rect", "[e.x.baseVal.value, e.width.baseVal.value]")
        assert left - start == pytest.approx((end - start) * 45 / 120, abs=2)
        assert width == pytest.approx((end - start) * 60 / 120, abs=2)
        assert browser.evaluate("at('strip').getAttribute('aria-label')").endswith("; 1 outage")

    @pytest.mark.parametrize("calls", [0, 1])
    def test_an_outage_before_the_first_call_is_drawn(self, browser, told, calls):
        server, events = told
        self.tell(events, "down", 100)
        self.tell(events, "up", 50)
        for _ in range(calls):
            self.beat(server)
        self.open(browser, server)
        browser.until("document.querySelector('#strip rect')")
        (left, width), = browser.all("#strip rect", "[e.x.baseVal.value, e.width.baseVal.value]")
        assert left == 8
        assert width == pytest.approx((1000 - 2 * 16 - 2 * 8) / 2, rel=0.1)

    def test_it_shows_how_full_the_buffer_is(self, browser, steered):
        height = "document.querySelector('#strip .level').getBBox().height"
        self.beat(steered, 25)
        self.open(browser, steered)
        quarter = browser.evaluate(height)
        for percent in (50, -7, "full", None, 1e300):
            self.beat(steered, percent)
        browser.until(f"{height} > {quarter}")
        self.open(browser, steered)
        assert browser.evaluate(height) == pytest.approx(4 * quarter)

    def test_each_sender_has_a_buffer_of_its_own(self, browser, steered):
        percents = {"KKT-001": 90, "KKT-002": 10, "KKT-003": 50}
        for _ in range(3):
            for sender, percent in percents.items():
                self.beat(steered, percent, sender)
        self.open(browser, steered)
        boxes = browser.all("#strip .level", "[e.getBBox().y, e.getBBox().height]")
        tops, heights = zip(*boxes)
        expected = [heights[0] * each / 90 for each in percents.values()]
        assert heights == pytest.approx(expected, rel=0.001)
        assert list(tops) == sorted(tops)
        assert browser.all("#strip .name", "e.textContent") == list(percents)

    def test_it_holds_the_newest_hundred(self, browser, steered):
        self.beat(steered)
        self.open(browser, steered)
        steered.play("503*105")
        for _ in range(105):
            self.beat(steered)
        browser.until("document.querySelector('#strip title').textContent.startsWith('#7 503 ')"
                      " && at('calls').children.length === 100")
        assert len(self.look(browser, self.MARKS)) == 100

    def test_it_fits_a_window_that_changes(self, browser, steered):
        self.beat(steered)
        self.open(browser, steered, 360)
        for width in (700, 360):
            browser.resize(width)
            browser.until("Math.abs(document.querySelector('#strip line:last-of-type')"
                          f".getBoundingClientRect().width - {width - 32}) < 2")

    def test_without_calls_it_says_so_and_nothing_below_it_moves(self, browser, steered):
        browser.open(steered.url, width=1024)
        browser.until("at('strip').textContent === 'No heartbeat yet'")
        assert browser.evaluate("at('strip').getAttribute('aria-label')") == "No heartbeat yet"
        place = browser.evaluate("at('down').getBoundingClientRect().y")
        self.beat(steered)
        browser.until("at('strip').querySelector('path')")
        assert browser.evaluate("at('down').getBoundingClientRect().y") == place


# ------------------------------------------------------------------------------------------
# What users build with it: another service, and a client that the fake drives
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

    def test_the_control_api_comes_with_it(self, fresh):
        server = fresh(cls=MockOfdServer, control=True)
        assert control(server, "GET", "state")[1]["service"] == "OFD"


    def test_the_command_line_comes_with_it(self, launch):
        code = """if True:
            import sys
            from mock_odoo import MockOdooServer, main

            class MockOfdServer(MockOdooServer):
                endpoint = "/api/v2/receipt"
                default_port = 8080
                service = "OFD"

                def describe_call(self, call):
                    return f"receipt {call.payload['receipt_id']}"

            raise SystemExit(main(sys.argv[1:], server_class=MockOfdServer))
        """
        process = launch(command=["-c", code])
        assert process.first.startswith("Mock OFD on ")
        process.endpoint = "/api/v2/receipt"
        post(process, {"receipt_id": "R-1"})
        assert process.line()[10:] == "ok        receipt R-1\n"
        post(process, {})  # where describe_call fails
        assert process.line()[10:] == "ok        ?\n"
        assert run_python("-c", code, "--help").stdout.count("default: 8080") == 1


class TestVerdict:
    """What a healthy service says may depend on the heartbeat, and on the whole request."""

    @pytest.fixture
    def picky(self, fresh):
        seen = set()

        def make_success(self, payload):
            if payload["n"] in seen:
                return Reply(409, {"error": "a duplicate"}, {"X-Seen": "yes"})
            seen.add(payload["n"])
            return Reply(201, {"n": payload["n"]}) if payload["n"] > 1 else {"n": payload["n"]}

        return fresh(cls=variant(make_success=make_success))

    def test_a_success_may_be_a_reply_of_any_kind(self, picky):
        answers = [post(picky, {"n": n}) for n in (1, 1, 2)]
        assert [answer.status for answer in answers] == [200, 409, 201]
        assert answers[1].json() == {"error": "a duplicate"}
        assert answers[1].headers["X-Seen"] == "yes"
        assert answers[2].json() == {"n": 2}

    def test_the_call_is_recorded_with_it(self, picky):
        for n in (1, 1, 2):
            post(picky, {"n": n})
        calls = [(call.reply, call.accepted) for call in picky.get_calls()]
        assert calls == [("ok", True), ("409", False), ("201", True)]
        assert picky.get_received_heartbeats() == [{"n": 1}, {"n": 2}]

    def test_the_script_decides_first(self, picky):
        picky.play("503, ok@1ms, 202, truncate")
        assert [post(picky, {"n": n}).status for n in (1, 2, 3)] == [503, 201, 202]
        with pytest.raises(http.client.IncompleteRead):
            post(picky, {"n": 4})
        assert [call.reply for call in picky.get_calls()] == ["503", "201", "202", "truncate"]
        assert picky.get_calls()[1].delay == 0.001

    @pytest.mark.parametrize(("script", "asked"), named({
        **{word: (word, 0) for word in mock_odoo.FAULTS if word != "drip"},
        **{word: (word, 0) for word in mock_odoo.WORDS if word != "ok"},
        "ok": ("ok", 1),
        "drip": ("drip", 1),
        "201": ("201", 1),
        "302": ("302", 0),
        "503": ("503", 0),
        "a text": (Reply(200, "fine"), 0),
        "a body": (Reply(200, {"fine": 1}), 1),
        "200 that refuses": (Reply(200, {}, accepts=False), 0),
        "503 that accepts": (Reply(503, accepts=True), 1),
        "an answer that is lost": (Reply(fault="reset", accepts=True), 1),
        "nothing": ("", 1),
    }))
    def test_the_service_is_asked_only_where_the_script_lets_it(
        self, fresh, monkeypatch, script, asked
    ):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0)
        seen = []
        server = fresh(variant(make_success=lambda self, payload: seen.append(payload) or {}))
        server.play(script)
        with connect(server, request_bytes()) as connection:
            server.wait_for_calls(1)
            server.reset()  # the stall ends
            drain(connection)
        assert seen == [HEARTBEAT] * asked

    def test_the_service_is_asked_one_heartbeat_at_a_time_in_their_order(
        self, fresh, often_switching
    ):
        def make_success(self, payload):
            inside.append(payload["n"])
            most.append(len(inside))
            number = self.get_call_count() + 1
            order.append(payload["n"])
            inside.remove(payload["n"])
            return {"number": number}

        def client(first):
            return [post(server, {"n": n}).json()["number"] for n in range(first, first + 10)]

        inside, most, order = [], [], []
        server = fresh(variant(make_success=make_success))
        clients = [in_background(client, 10 * number) for number in range(6)]
        numbers = [number for thread in clients for number in thread.result()]
        assert set(most) == {1}
        assert sorted(numbers) == list(range(1, 61))
        calls = server.get_calls()
        assert [call.payload["n"] for call in calls] == order
        assert [numbers[call.payload["n"]] for call in calls] == list(range(1, 61))

    def test_its_reply_keeps_its_delay_beneath_the_headers_of_a_script(self, fresh):
        slow = Reply(200, {"slow": 1}, {"X-Own": "1"}, delay=0.05)
        server = fresh(variant(make_success=lambda self, payload: slow))
        server.play(Reply(200, headers={"X-Script": "2"}))
        began = time.perf_counter()
        response = post(server)
        assert time.perf_counter() - began >= 0.03  # the clock of Windows ticks every 16 ms
        assert (response.json(), server.get_calls()[0].delay) == ({"slow": 1}, 0.05)
        assert (response.headers["X-Own"], response.headers["X-Script"]) == ("1", "2")

    def test_the_delay_of_a_script_goes_before_its_own(self, fresh):
        slow = Reply(200, {}, delay=60)
        server = fresh(variant(make_success=lambda self, payload: slow))
        server.play("ok@1ms")
        assert post(server).status == 200
        assert server.get_calls()[0].delay == 0.001

    def test_it_may_see_the_whole_request(self, fresh):
        def verdict(self, request):
            if request.headers["authorization"] != "Bearer secret":
                return Reply(401, {"error": "no valid token"})
            if request.payload["adapter_id"] == "KKT-002":
                return Reply(503)
            assert (request.method, request.path, request.query) == ("POST", PATH, "shop=7")
            assert (request.client[0], request.body) == ("127.0.0.1", BODY)
            return MockOdooServer.verdict(self, request)

        server = fresh(cls=variant(verdict=verdict))
        assert post(server).status == 401
        given = {**JSON, "Authorization": "Bearer secret"}
        assert send(server, "POST", PATH + "?shop=7", BODY, given).json() == SUCCESS
        other = json.dumps({"adapter_id": "KKT-002"})
        assert send(server, "POST", PATH, other, given).json() == FAILURE
        assert [call.reply for call in server.get_calls()] == ["401", "ok", "503"]

    def test_what_is_no_reply_is_a_bug(self, fresh, caplog):
        server = fresh(cls=variant(verdict=lambda self, request: {"status": "ok"}))
        assert post(server).status == 500
        assert "verdict must return a Reply, not {'status': 'ok'}" in caplog.text

    def test_the_same_reply_may_be_returned_to_all(self, fresh):
        busy = Reply(429, {"error": "busy"})
        server = fresh(cls=variant(make_success=lambda self, payload: busy))
        threads = [in_background(post, server) for _ in range(10)]
        assert {thread.result().status for thread in threads} == {429}


class HeartbeatClient:
    """A consumer as the specification has it.

    Three failures in a row make it OFFLINE, two successes in a row make it ONLINE.
    """

    def __init__(self, url):
        self.url, self.timeout = url, PATIENCE
        self.state, self.failures, self.successes = "ONLINE", 0, 0

    def succeeds(self):
        request = urllib.request.Request(self.url, BODY, JSON)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.loads(response.read().decode())["status"] == "ok"
        except urllib.error.HTTPError as error:  # a response too, to be closed like any other
            error.close()
            return False
        except (*FAILED, ValueError, LookupError, TypeError):  # any error is a failure
            return False

    def beat(self):
        if self.succeeds():
            self.failures, self.successes = 0, self.successes + 1
        else:
            self.failures, self.successes = self.failures + 1, 0
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

    @pytest.fixture
    def client(self, odoo):
        return HeartbeatClient(odoo.heartbeat_url)

    @pytest.mark.parametrize("fault", [
        "503",
        "500",
        "429",
        "404",
        "302",
        *(fault for fault in mock_odoo.FAULTS if fault != "drip"),
        *(word for word in mock_odoo.WORDS if word != "ok"),
        "ok@60s",
        pytest.param(Reply(200, {"status": "error"}), id="status error"),
        pytest.param(Reply(200, []), id="a list"),
        pytest.param(Reply(200, b"\xff"), id="no UTF-8"),
    ])
    def test_three_of_any_fault_are_offline_and_two_successes_online(self, odoo, client, fault):
        script, states = ["ok", fault, fault, "ok", fault, fault, fault], []
        odoo.play(script)
        for n, step in enumerate(script):
            client.timeout = 0.02 if step in ("stall", "ok@60s") else PATIENCE
            states.append(client.beat())
            odoo.wait_for_calls(n + 1)  # a request that timed out may still be on its way
        assert states == [self.ON] * 6 + [self.OFF]
        client.timeout = PATIENCE
        assert client.beats(2) == [self.OFF, self.ON]
        assert [call.payload for call in odoo.get_calls()] == [HEARTBEAT] * 9

    def test_flapping_takes_two_successes_to_get_it_back_online(self, odoo, client):
        odoo.play("503*3, ok", loop=True)
        assert client.beats(12) == [self.ON] * 2 + [self.OFF] * 10
        odoo.play("ok*2, 503*3", loop=True)
        states = [self.ON] * 4 + [self.OFF] * 2 + [self.ON] * 3 + [self.OFF]
        assert client.beats(10) == states

    def test_an_outage_takes_it_offline(self, odoo, client):
        odoo.down()
        assert client.beats(3) == [self.ON, self.ON, self.OFF]
        odoo.up()
        assert client.beats(2) == [self.OFF, self.ON]
        assert odoo.get_call_count() == 2

    def test_a_slow_success_is_a_success(self, odoo, client):
        odoo.play("503*3, ok@5ms, ok@5ms")
        assert client.beats(5)[-2:] == [self.OFF, self.ON]


# ------------------------------------------------------------------------------------------
# What users copy: conftest.py and the recipes of README. pytest runs them in a folder of theirs.
# ------------------------------------------------------------------------------------------


def start_pytest(folder, *args):
    """Run pytest in a user's folder, with our warnings, in a process of its own."""
    environ = dict(os.environ, PYTEST_ADDOPTS="", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *args],
        cwd=str(folder), env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )


def finish(process):
    """Its exit code, and what it printed."""
    with process:
        try:
            output, _ = process.communicate(timeout=4 * PATIENCE)
        finally:
            process.kill()  # where it hangs
    return process.returncode, output


def copy_to(folder, **files):
    """Copy what a user copies there, and write more files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mock_odoo.py", "conftest.py"):
        shutil.copy(os.path.join(HERE, name), str(folder))
    for name, text in files.items():
        (folder / (name + ".py")).write_text(text, encoding="utf-8")


USES_FIXTURES = """
import mock_odoo
from mock_odoo import Reply

def test_it_runs(odoo):
    odoo.play([Reply(429)])
    odoo.stop()

def test_it_runs_again_and_has_forgotten(odoo):
    assert (odoo.is_running, odoo.script) == (True, "")
    odoo.down()

def test_no_outage_lasts(odoo):
    assert " running," in repr(odoo)
"""
BY_OTHER_NAMES = """
    from . import mock_odoo as relative
    from tests.mock_odoo import Reply as absolute
    assert (relative, absolute) == (mock_odoo, Reply)
"""


class TestConftest:
    @pytest.mark.parametrize(("args", "files"), named({
        "a flat folder": ([], {"test_a": USES_FIXTURES}),
        "a package": ([], {
            "test_a": USES_FIXTURES + "\ndef test_it_is_one_module():" + BY_OTHER_NAMES,
            "__init__": "",
        }),
        "importlib": (["--import-mode=importlib"], {"test_a": USES_FIXTURES}),
    }))
    def test_its_fixtures_work_in(self, tmp_path, args, files):
        copy_to(tmp_path / "tests", **files)
        code, output = finish(start_pytest(tmp_path, *args))
        assert code == 0, output

    def test_it_can_be_pasted_into_another(self, tmp_path):
        copy_to(tmp_path, test_a=USES_FIXTURES)
        conftest = tmp_path / "conftest.py"
        _, start, rest = conftest.read_text(encoding="utf-8").partition("import pathlib\n")
        conftest.write_text('"""Ours."""\nimport os\n\n' + start + rest, encoding="utf-8")
        code, output = finish(start_pytest(tmp_path))
        assert code == 0, output


README = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
RECIPES = [code for language, code in BLOCKS if language == "python"]

#: How pytest is made to run them in another order.
ORDERS = {
    "as they stand": "pass",
    "backwards": "items.reverse()",
    "shuffled": "seed = random.randrange(10**6); print('seed', seed); "
    "random.Random(seed).shuffle(items)",
}


def block(text):
    """The one block of README that has this text in it."""
    found, = (code for _, code in BLOCKS if text in code)
    return found


@pytest.fixture(scope="module")
def recipe_sessions(tmp_path_factory):
    """All recipes in one session, which runs in several orders at the same time."""
    folder = tmp_path_factory.mktemp("readme")
    adapter = block("class Adapter:")
    recipes = [code for code in RECIPES if code != adapter]
    files = {f"test_{number}": code for number, code in enumerate(recipes)}
    copy_to(folder, adapter=adapter, **files)
    for name in ("cert.pem", "key.pem"):
        (folder / name).write_text(CERTIFICATE)
    processes = {}
    for number, (order, code) in enumerate(ORDERS.items()):
        plugin = f"import random\ndef pytest_collection_modifyitems(items): {code}\n"
        (folder / f"order_{number}.py").write_text(plugin)
        processes[order] = start_pytest(folder, "-v", "-s", "-p", f"order_{number}")
    return {order: finish(process) for order, process in processes.items()}


class TestReadme:
    @pytest.mark.parametrize("order", ORDERS)
    def test_every_recipe_passes_in_one_session(self, recipe_sessions, order):
        code, output = recipe_sessions[order]
        assert code == 0, output
        tests = re.findall(r"^ *def (test_\w+)", "".join(RECIPES), re.MULTILINE)
        assert [test for test in tests if not re.search(test + ".* PASSED", output)] == []

    def test_what_is_not_run_can_be_read(self):
        for code in [code for language, code in BLOCKS if language == "py"]:
            compile(code, "README.md", "exec")

    def test_the_first_recipe_stands_at_the_top(self):
        assert README.splitlines().index("```python") < 14
        assert "odoo.play" in RECIPES[0]

    @pytest.fixture
    def build(self, fresh):
        """Make a server of a class that README defines."""

        def build(name, **kwargs):
            namespace = {"__name__": "readme"}
            exec(compile(block(f"class {name}("), "README.md", "exec"), namespace)  # noqa: S102
            return fresh(cls=namespace[name], **kwargs)

        return build

    def test_the_careful_odoo_wants_a_token_and_no_duplicate(self, build):
        odoo, given = build("CarefulOdoo"), {**JSON, "Authorization": "Bearer secret"}
        other = json.dumps({"adapter_id": "KKT-002"})
        statuses = [send(odoo, "POST", PATH, body, given).status for body in (BODY, BODY, other)]
        assert statuses == [200, 409, 503]
        assert post(odoo).status == 401

    def test_a_json_route_answers_in_result_what_came_in_params(self, build):
        odoo = build("JsonRouteOdoo", strict=True)
        answer = post(odoo, {"jsonrpc": "2.0", "id": 7, "params": HEARTBEAT})
        assert answer.json() == {"jsonrpc": "2.0", "id": 7, "result": {"status": "ok"}}
        assert odoo.get_heartbeat_count() == 1
        assert post(odoo).status == 422

    def test_a_flat_heartbeat_is_lost_there_with_status_200(self, build):
        odoo = build("JsonRouteOdoo")
        assert post(odoo).status == 200
        assert odoo.get_received_heartbeats() == []

    def test_a_page_in_a_browser_may_send_heartbeats(self, build):
        odoo = build("BrowserOdoo")
        preflight = send(odoo, "OPTIONS", PATH)
        assert (preflight.status, preflight.body) == (204, b"")
        assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type"
        for answer in (preflight, post(odoo)):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"

    def test_the_other_service_answers_at_its_own_path(self, build):
        ofd = build("MockOfdServer")
        assert post(ofd, {"receipt_id": "R-1"}).json() == {"receipt_id": "R-1"}
        assert ofd.heartbeat_url.endswith("/api/v2/receipt")

    @pytest.mark.skipif(
        os.name == "nt" or not (shutil.which("bash") and shutil.which("curl")),
        reason="needs bash and curl",
    )
    def test_the_shell_recipe_passes_and_leaves_the_shell_open(self, tmp_path):
        copy_to(tmp_path)
        python = tmp_path / "python3"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        run = subprocess.run(
            ["bash"], check=False, input=block("out=$(mktemp)") + "echo the shell is open\n",
            env=dict(os.environ, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"),
            cwd=str(tmp_path), text=True, stdout=subprocess.PIPE, timeout=2 * PATIENCE,
        )
        assert run.stdout.endswith("passed\nthe shell is open\n")

    def test_the_terminal_and_the_journal_read_as_shown(self, launch, tmp_path):
        journal = str(tmp_path / "beats.jsonl")
        fake = launch("--journal", journal, "--script", "503*2, reset, ok@250ms")
        send(fake, "POST", PATH + "s", BODY, JSON)
        for queued in (5, 6, 7, 8, 9):
            if queued == 9:
                control(fake, "POST", "down", {"seconds": 0.1})
                until(lambda: not refused(fake))
            buffer = {"total_capacity": 200, "current_queued": queued, "percent_full": queued / 2}
            try_post(fake, {**HEARTBEAT, "buffer_status": buffer})

        def timeless(text):
            return re.sub(r"([0-9-]{10} )?[0-9]+:[0-9:]+|[0-9.]+ s\b", "#", text).splitlines()

        shown = block("--script \"503*2, reset").replace("^C", "")
        assert timeless(fake.end()[1]) == timeless(shown)[2:]
        shown = block("--read beats.jsonl")
        assert timeless(run_main("--quiet", "--read", journal)[1]) == timeless(shown)[1:]

    def test_every_link_within_it_leads_somewhere(self):
        titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
        anchors = {re.sub("[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert set(re.findall(r"\]\(#([^)]*)\)", README)) - anchors == set()

    @pytest.mark.parametrize(
        "name", [name for name in dir(MockOdooServer) if not name.startswith("_")]
    )
    def test_it_names_every_public_member(self, name):
        assert re.search(rf"[` (,]{name}\b", README)

    @pytest.mark.parametrize("name", [*Call.FIELDS, "payload", "headers", "body", "to_json()"])
    def test_it_names_every_field_of_a_call(self, name):
        assert f"`{name}`" in README.partition("## Calls")[2].partition("##")[0]

    @pytest.mark.parametrize("word", [*mock_odoo.FAULTS, *mock_odoo.WORDS])
    def test_it_says_what_clients_see_of_every_reply(self, word):
        assert re.search(rf"^\| `{word}(@2s)?` \|", README, re.MULTILINE)

    def test_it_names_every_flag(self):
        flags = set(re.findall(r"--[a-z-]+", run_python("-m", "mock_odoo", "--help").stdout))
        assert flags - set(re.findall("--[a-z-]+", README)) == set()


# ------------------------------------------------------------------------------------------
# Figures, beside http.server: they are printed, and nothing is asserted
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
        for name, make, times in (
            ("MockOdooServer", lambda: MockOdooServer(port=0), 200),
            ("http.server", PlainServer, 5),
        ):
            began = time.perf_counter()
            for _ in range(times):
                with make():
                    pass
            seconds = (time.perf_counter() - began) / times
            print(f"\n{name:15} start + stop {seconds * 1000:8.2f} ms", end="")

    @pytest.mark.parametrize("kept", [True, False], ids=["kept-alive", "new"])
    def test_throughput(self, kept):
        what = "kept-alive" if kept else "new connection"
        request = request_bytes(close=not kept)
        for name, server in (
            ("MockOdooServer", MockOdooServer(port=0)),
            ("http.server", PlainServer()),
        ):
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
            print(f"\n{name:15} {what:15} {count:6} heartbeats a second, one client", end="")
