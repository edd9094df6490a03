"""The tests of mock_odoo: its second document.

The specification's nineteen tests stand first. The parts of the module follow, in its order. TESTS
tells where the promises of README are tested.

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
JSON_TYPE, PAGE_TYPE = "application/json; charset=utf-8", "text/html; charset=utf-8"  # of answers
BODY = json.dumps(HEARTBEAT).encode()


README = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
RECIPES = [code for language, code in BLOCKS if language == "python"]


def block(text):
    """The one block of README that has this text in it."""
    (found,) = (code for _, code in BLOCKS if text in code)
    return found


#: Where the promises of README are tested, by its headings. TestReadme runs its recipes.
TESTS = {
    "Install": "TestConftest TestUnmatched",
    "A small adapter": "TestReadme",
    "Recipes that everybody needs": "TestReadme",
    "Three failures, then recovery": "TestSpecifiedScenarios TestSetters TestScript",
    "Time-outs and outages": "TestEndOfACall TestLettingGo TestOutage",
    "Lies: 200, and yet no success": "TestReply TestFaults",
    "What a real Odoo says": "TestReply TestFaults TestEndpoints",
    "What is sent, and how often": "TestWaiting TestWaitingForTheOneThatFits TestRepeats TestContract",
    "Trouble of other kinds": "TestOnCall TestBugs TestOutage",
    "What a healthy Odoo says": "TestVerdict TestBugs TestEndpoints TestAnotherService",
    "Test tools": "TestWaitingInVain TestClock TestPatchedWorld TestTools",
    "HTTPS": "TestTLS TestMutualTLS",
    "From a shell or another language": "TestControl TestControlMisuse TestControlAccess TestReadme",
    "On a POS terminal without internet": "TestReporter TestPage TestJournal TestReadJournal",
    "Scripts": "TestScript TestReply",
    "What clients see": "TestFaults TestReply",
    "Traps in other clients": "TestRepeats",
    "Calls": "TestCalls TestEndOfACall TestRepeats TestEvents TestUnmatched",
}


# ------------------------------------------------------------------------------------------
# What the tests know of the inside. Everything else uses the public face.
# ------------------------------------------------------------------------------------------

SOCKET = "Socket"  # the class of all the server's sockets, so that a test can make them fail
START_THREAD = "start_new_thread"  # what starts all the server's threads
STOP_PATIENCE = "PATIENCE"  # the module's 5 s for stop(); tests of a hanging thread would wait them
REST = "REST"  # the module's 50 ms without descriptors, in which nobody is accepted
LINGER = "LINGER"  # the module's 2 s to wait for more of a request that is not read to its end
DRIP_INTERVAL = "DRIP_INTERVAL"  # the module's 0.1 s; a whole reply would take more than 20 s
THREADS = "mock_odoo"  # the names of all the server's threads begin with this
WORKER = "mock_odoo worker"  # the name of a thread that serves a connection
MAX_IDLE_WORKERS = 32  # so many threads may wait for the next connection


# ------------------------------------------------------------------------------------------
# Clients. post() sends a heartbeat, send() any request, control() one to the control API, all by
# http.client; open_url() follows redirects. exchange() sends bytes and reads to the end, ask()
# expects one response there, connect() and talk() leave the rest to the test.
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


def talk(client):
    """Send a heartbeat by a bare socket, and return the first piece of the answer."""
    client.sendall(KEPT)
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


def request_bytes(
    body=BODY, *lines, method="POST", path=PATH, version="HTTP/1.1", host="odoo", close=True
):
    """A heartbeat as bytes, with more header lines if given."""
    head = [f"{method} {path} {version}", f"Host: {host}", "Content-Type: application/json", *lines]
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


#: Every method, as a test calls it where the server runs.
CALLS = {
    **{name: getattr(MockOdooServer, name) for name in (
        "start", "stop", "down", "up", "set_success", "set_permanent_failure", "reset", "forget",
        "get_calls",
    )},
    "down for no time": lambda server: server.down(0),
    "down for a while": lambda server: server.down(0.001),
    "play": lambda server: server.play("503"),
    "set_failure_count": lambda server: server.set_failure_count(3),
    "wait_for_calls": lambda server: server.wait_for_calls(0),
    "repr": repr,
}
stop_and_down = pytest.mark.parametrize("end", [MockOdooServer.stop, MockOdooServer.down])


new_lock, start_thread = _thread.allocate_lock, _thread.start_new_thread  # which tests patch


class in_background:
    """Call a function in a thread. `.result()` waits, and returns its result or its exception."""

    def __init__(self, function, *args):
        self.outcome, self.ended = [], new_lock()
        self.ended.acquire()
        start_thread(self.run, (function, *args))

    def run(self, function, *args):
        try:
            self.outcome.append(function(*args))
        except Exception as error:  # noqa: BLE001 - the result is an exception as often as not
            self.outcome.append(error)
        finally:
            self.ended.release()

    def is_alive(self):
        return self.ended.locked()

    def join(self, seconds):
        if self.ended.acquire(timeout=seconds):
            self.ended.release()

    def result(self, seconds=PATIENCE):
        self.join(seconds)
        assert not self.is_alive(), "it hangs"
        return self.outcome[0]


class Held:
    """A function that waits within until a test lets it go."""

    def __init__(self):
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, *args):
        self.entered.set()
        self.leave.wait(PATIENCE)

    def wait(self):
        assert self.entered.wait(PATIENCE), "nobody has called it"

    def let_go(self):
        self.leave.set()


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


@contextlib.contextmanager
def failing(error, match, cls=MockOdooServer, **kwargs):
    """A server in whose block a function of the user's fails, which the end of the block raises."""
    with pytest.raises(error, match=match), cls(port=0, **kwargs) as server:
        yield server


@pytest.fixture
def build(fresh):
    """Make a server of a class that README defines."""

    def build(name, **kwargs):
        namespace = {"__name__": "readme"}
        exec(compile(block(f"class {name}("), "README.md", "exec"), namespace)  # noqa: S102
        return fresh(cls=namespace[name], **kwargs)

    return build


@pytest.fixture
def held():
    """A function of the user's that hangs, until `.let_go()` or the end of the test."""
    held = Held()
    yield held
    held.let_go()


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
    """The class of the server's sockets in all tests, so that a test can patch it."""


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

    def __init__(self, *args, command=("-m", "mock_odoo"), stdout=subprocess.PIPE, **environ):
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
        "310 digits": (b'{"a": -' + b"9" * 310 + b"}", "99999 is too large a number"),
        "200000 brackets": (b"[" * 200000, "nested deeper than 200 levels"),
        "100000 objects": (
            b'{"a":' * 100000 + b"1" + b"}" * 100000, "nested deeper than 200 levels"),
        "list": (b"[1, 2]", "must be a JSON object, not [1, 2]"),
        "null": (b"null", "must be a JSON object, not null"),
        "a flag": (b"true", "must be a JSON object, not true"),
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

    def test_neither_brackets_in_text_nor_a_long_list_are_deep(self, odoo):
        odd = {"a": "[" * 1000 + '\\"{', "b": ["{" * 1000], "c": [[]] * 1000}
        assert post(odoo, odd).status == 200

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

    @pytest.mark.parametrize(("script", "loop", "statuses", "rests"), named({
        "a count": ("503*3", False, [503, 503, 503, 200], ["503*2", "503", "", ""]),
        "a billion": ("503*1000000000, ok", False, [503], ["503*999999999, ok"]),
        "a loop": ("ok*2, 503*2", True, [200, 200, 503, 503, 200], [
            "ok, 503*2, ok", "503*2, ok*2", "503, ok*2, 503", "ok*2, 503*2", "ok, 503*2, ok"]),
        "a loop of one": ("503", True, [503] * 3, ["503"] * 3),
        "a loop that never ends": ("ok, 503*", True, [200, 503, 503], ["503*, ok"] * 3),
    }))
    def test_what_is_left_is_a_script_too(self, odoo, script, loop, statuses, rests):
        odoo.play(script, loop)
        for status, rest in zip(statuses, rests):
            assert (post(odoo).status, odoo.script, odoo.loop) == (status, rest, loop)
        odoo.play(odoo.script, loop)
        assert odoo.script == rest

    @pytest.mark.parametrize("script", [
        "", "503", "503*2", "503*", "ok@6s, 503@250ms*3, reset@1500ms*", "599*1000000000",
        "ok@1.5ms", "stall@86400s",
        "ok, html, login, expired, reset, close, truncate, garbage, stall, drip",
    ])
    def test_a_script_reads_back_as_it_was_written(self, odoo, script):
        odoo.play(script)
        assert odoo.script == script

    @pytest.mark.parametrize(("script", "normal"), [
        ("503*1", "503"), ("200", "ok"), ("ok@0.25s", "ok@250ms"), ("ok@2000ms", "ok@2s"),
        (" ok@ 2 s * 3 ", "ok@2s*3"), ([Reply(429, {"a": 1}, delay=2), "ok"], "429@2s, ok"),
        (Reply(fault="drip"), "drip"),
    ])
    def test_a_script_reads_back_in_its_shortest_form(self, odoo, script, normal):
        for each in (script, normal):
            odoo.play(each)
            assert odoo.script == normal

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

    def test_a_list_that_holds_itself_is_a_value_error(self, odoo):
        script = ["503"]
        script.append(script)
        with pytest.raises(ValueError, match="the script holds itself"):
            odoo.play(script)

    def test_loop_must_be_true_or_false(self, odoo):
        with pytest.raises(TypeError, match="loop must be True or False, not 'yes'"):
            odoo.play("ok", loop="yes")

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
        for word in mock_odoo.REPLIES:
            assert f"`{word}`" in MockOdooServer.play.__doc__


class TestSetters:
    @pytest.mark.parametrize(("count", "statuses"), [(0, [200]), (1, [503, 200])])
    def test_the_last_setter_wins_and_has_its_specified_name(self, odoo, count, statuses):
        odoo.set_permanent_failure()
        assert odoo.script == "503*"
        odoo.set_failure_count(count=count)
        assert [post(odoo).status for _ in statuses] == statuses

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

    @pytest.mark.parametrize("end", named({
        "reset": MockOdooServer.reset,
        "set_success": MockOdooServer.set_success,
        "set_permanent_failure": lambda odoo: odoo.set_permanent_failure(False),
    }))
    def test_an_ended_script_loops_no_more(self, odoo, end):
        odoo.play("503*", loop=True)
        end(odoo)
        assert (odoo.script, odoo.loop) == ("", False)


class TestReply:
    def test_any_status_body_and_header_can_be_sent(self, odoo):
        odoo.play(Reply(429, {"error": "slow down"}, headers={"Retry-After": "5"}))
        response = post(odoo)
        assert (response.status, response.json()) == (429, {"error": "slow down"})
        assert response.headers["Retry-After"] == "5"
        assert response.headers["Content-Type"] == JSON_TYPE

    @pytest.mark.parametrize(("body", "sent", "kind"), named({
        "text": ("grüß", "grüß".encode(), "text/plain; charset=utf-8"),
        "bytes": (b"\x00\xff", b"\x00\xff", "text/plain; charset=utf-8"),
        "a list": ([1, None], b"[1, null]", JSON_TYPE),
        "empty text": ("", b"", "text/plain; charset=utf-8"),
    }))
    def test_text_and_bytes_are_sent_as_they_are_and_the_rest_as_json(self, odoo, body, sent, kind):
        odoo.play(Reply(500, body))
        response = post(odoo)
        assert (response.body, response.headers["Content-Type"]) == (sent, kind)

    @pytest.mark.parametrize("body", ["<html>", None], ids=["of its own", "of the service"])
    @pytest.mark.parametrize("status", [200, 404, 502])
    def test_headers_replace_the_usual_ones_whatever_their_case(self, odoo, status, body):
        odoo.play(Reply(status, body, {"content-type": "text/odd", "SERVER": "other"}))
        headers = post(odoo).headers
        assert headers.get_all("Content-Type") == ["text/odd"]
        assert headers.get_all("Server") == ["other"]

    @pytest.mark.parametrize(
        "header", ["close", "TE, Close", ["TE", "close"], ("TE", "close")], ids=repr)
    def test_a_connection_header_is_a_promise_and_a_list_makes_several_lines(self, odoo, header):
        odoo.play(Reply(503, headers={"connection": header, "X-Shop": "7"}))
        headers = ask(odoo, KEPT).headers
        lines = [header] if isinstance(header, str) else list(header)
        assert (headers.get_all("Connection"), headers.get_all("X-Shop")) == (lines, ["7"])

    @pytest.mark.parametrize(("status", "body"), [
        *[(status, SUCCESS) for status in (200, 201, 299)],
        *[(status, None) for status in (204, 300, 302, 399)],
        (503, FAILURE),
    ])
    def test_a_bare_status_says_what_the_service_says_and_2xx_accepts(self, odoo, status, body):
        odoo.play(str(status))
        response = post(odoo)
        assert response.status == status
        assert response.body == (b"" if body is None else json.dumps(body).encode())
        assert odoo.get_calls()[0].accepted is (status < 300)
        assert odoo.get_received_heartbeats() == ([HEARTBEAT] if status < 300 else [])

    @pytest.mark.parametrize(("status", "title"), [
        (400, "400 Bad Request"), (404, "404 Not Found"), (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"), (599, "599 Status 599"),
    ])
    def test_an_error_is_a_page_as_odoo_sends_it(self, odoo, status, title):
        odoo.play([str(status), Reply(status)])
        for response in (post(odoo), post(odoo)):
            assert (response.status, response.headers["Content-Type"]) == (status, PAGE_TYPE)
            page = response.body.decode()
            assert page == f"<!DOCTYPE html>\n<title>{title}</title>\n<h1>{title}</h1>\n"
        assert odoo.get_received_heartbeats() == []

    @pytest.mark.parametrize(("status", "title"), [
        (502, "502 Bad Gateway"), (504, "504 Gateway Time-out")
    ])
    def test_a_status_of_the_proxy_is_a_page_of_nginx(self, odoo, status, title):
        odoo.play(str(status))
        response = post(odoo)
        kind, server = response.headers["Content-Type"], response.headers["Server"]
        assert (response.status, kind, server) == (status, "text/html", "nginx")
        assert f"<center><h1>{title}</h1></center>\r\n" in response.body.decode()

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
        "in a list": ({"headers": {"X": ["a", "b\nc"]}}, ValueError, "header X must be one line"),
        "not Latin-1": ({"headers": {"X": "€"}}, ValueError, "Latin-1"),
        "line break in name": ({"headers": {"X\r\nY": "a"}}, ValueError, "is no header name"),
        "empty name": ({"headers": {"": "a"}}, ValueError, "is no header name"),
        "number in header": ({"headers": {"X": 5}}, TypeError, "text to text"),
        "Transfer-Encoding": (
            {"headers": {"Transfer-encoding": "chunked"}}, ValueError, "cannot be set"),
        "headers as text": ({"headers": "X: 5"}, TypeError, "text to text, not 'X: 5'"),
        "negative delay": (
            {"delay": -1}, ValueError, "delay must be from 0 to 86400 seconds, not -1"),
        "NaN as delay": ({"delay": float("nan")}, ValueError, "not nan"),
        "delay as text": ({"delay": "2s"}, TypeError, "number of seconds, not '2s'"),
        "unknown fault": (
            {"fault": "rst"}, ValueError,
            f"fault must be one of {', '.join(mock_odoo.FAULTS)}, not 'rst'"),
    }))
    def test_a_reply_that_cannot_be_sent_is_refused_at_once(self, fields, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            Reply(**fields)

    def test_a_dict_of_its_fields_serves_as_well(self, odoo):
        odoo.play([{"status": 429, "headers": {"Retry-After": "5"}}, {"fault": "close"}])
        assert odoo.script == "429, close"
        assert post(odoo).headers["Retry-After"] == "5"
        with pytest.raises(TypeError, match="'stats' is no field .* .did you mean 'status'"):
            odoo.play({"stats": 200})

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

    def test_repr_shows_the_word(self):
        assert repr([Reply(429, {"a": 1}, delay=2), Reply(503)]) == "[429@2s, 503]"

    @pytest.mark.parametrize(("reply", "accepted"), named({
        "a success that refuses": (Reply(200, {"status": "error"}, accepts=False), False),
        "text that accepts": (Reply(200, "fine", accepts=True), True),
        "by the rule": (Reply(200, {"status": "error"}), True),
        "a redirect that accepts": (Reply(300, accepts=True), True),
    }))
    def test_a_reply_may_say_itself_whether_it_accepts(self, odoo, reply, accepted):
        odoo.play(reply)
        response = post(odoo)
        assert (response.status, response.body) == (reply.status, reply.body or b"")
        assert odoo.get_calls()[0].accepted is accepted
        assert odoo.get_received_heartbeats() == [HEARTBEAT] * accepted

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

    @pytest.mark.parametrize(("script", "word"), [
        ("", "ok"), ("ok@1ms", "ok"), ("503@1ms*2", "503"), ("429", "429"), ("html", "html"),
        ("login", "login"), ("close", "close"), (Reply(418, "teapot"), "418"),
        (Reply(200, "<html>"), "200"), (Reply(200, {"a": 1}), "ok"),
        (Reply(503, fault="truncate"), "truncate"),
    ], ids=str)
    def test_a_call_keeps_the_word_of_its_reply(self, odoo, script, word):
        odoo.play(script)
        try_post(odoo)
        assert odoo.get_calls()[0].reply == word

    def test_a_call_may_have_a_hundred_headers(self, odoo):
        exchange(odoo, request_bytes(BODY, *[f"X-{n}: {n}" for n in range(96)]))
        (call,) = odoo.get_calls()
        assert len(call.headers) == 100
        assert call.headers["x-95"] == "95"

    @pytest.mark.parametrize("kind", [
        "multipart/form-data; boundary*=undefined''x", "multipart/x; boundary*=idna''%ff",
        "multipart/x; boundary*" + "9" * 5000 + "*=x", "message/rfc822",
        "text/plain; charset*=punycode''%ff",
    ], ids=lambda kind: kind[:40])
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
        odoo.play("503*2, reset, truncate, ok")
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 503
        assert ask(odoo, request_bytes(b"", "Content-Length: 9999999")).status == 503
        with pytest.raises(ConnectionResetError):
            send(odoo, "POST", PATH, "no JSON", {"Content-Type": "text/plain"})
        with pytest.raises(http.client.IncompleteRead):
            send(odoo, "POST", PATH, "no JSON", JSON)
        assert send(odoo, "POST", PATH, "no JSON", JSON).status == 400
        words = ["503", "503", "reset", "truncate", "400"]
        assert ([call.reply for call in odoo.get_calls()], odoo.script) == (words, "")

    def test_a_call_is_recorded_before_its_delay(self, odoo):
        odoo.play("ok@60s")
        client = in_background(post, odoo)
        assert odoo.wait_for_heartbeats(1) == [HEARTBEAT]
        assert client.is_alive()
        odoo.reset()
        assert client.result().status == 200

    def test_memory_and_script_outlive_a_stop(self, odoo):
        odoo.play("503*3")
        post(odoo)
        odoo.stop()
        assert (odoo.get_call_count(), odoo.script) == (1, "503*2")
        odoo.start()
        assert post(odoo).status == 503
        assert odoo.get_call_count() == 2

    def test_max_calls_keeps_the_newest_and_counts_all(self, fresh):
        server, kept, asked = fresh(max_calls=16), list(range(2, 18)), []
        for number in range(1, 18):
            post(server, {"number": number})
        assert [call.number for call in server.get_calls()] == kept
        assert server.get_received_heartbeats() == [{"number": number} for number in kept]
        assert server.get_call_count() == 17
        assert len(server.wait_for_heartbeats(17, timeout=0)) == 16
        waiting = in_background(
            server.wait_for_calls, 1, 5, lambda call: call.number == 18 or asked.append(call.number))
        until(lambda: asked == kept)
        post(server)
        assert ([call.number for call in waiting.result()], asked) == ([18], kept)

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

    def test_forget_leaves_delays_outages_and_events_alone(self, odoo):
        odoo.play("ok@60s")
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(1)
            odoo.forget()
            assert_silent(connection)
        odoo.down()
        odoo.forget()
        assert refused(odoo)
        assert [event["event"] for event in odoo.get_events()] == [
            "start", "script", "forget", "down", "forget"]

    def test_a_call_tells_its_query(self, odoo):
        send(odoo, "POST", PATH + "?shop=7&till=2", BODY, JSON)
        post(odoo)
        assert [call.query for call in odoo.get_calls()] == ["shop=7&till=2", ""]

    def test_secrets_are_masked_wherever_a_call_is_written_and_nowhere_else(self, steered):
        names = ("Authorization", "proxy-authorization", "COOKIE", "Set-Cookie", "X-Api-Key")
        send(steered, "POST", PATH, BODY, {**JSON, **{name: "sesam" for name in names}})
        (call,) = steered.get_calls()
        assert [call.headers[name] for name in names] == ["sesam"] * 5
        for told in (json.loads(call.to_json()), *control(steered, "GET", "calls")[1]["calls"]):
            assert [told["headers"][name] for name in names] == ["***"] * 5
            assert told["headers"]["Content-Type"] == "application/json"

    def test_intervals_ignore_the_wall_clock(self, odoo):
        for _ in range(2):
            post(odoo)
        odoo.get_calls()[0].received_at -= 3600  # as if the clock had been set meanwhile
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
    def test_no_reading_of_a_patched_clock_is_used_up(self, odoo, name):
        odoo.play("ok@1ms")
        patched = mock.patch.object(time, name, side_effect=[1.0, 2.0])
        with contextlib.closing(bare_client(odoo)) as client, patched as clock:
            answer = talk(client)
            outcomes = [in_background(function).result() for function in (
                lambda: odoo.wait_for_calls(2, timeout=0.01), lambda: odoo.down(0.001),
                odoo.get_intervals, odoo.reset, odoo.stop, odoo.start,
            )]
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert [type(outcome) for outcome in outcomes] == [
            TimeoutError, type(None), list, *[type(None)] * 3]
        assert not clock.called

    def test_a_wait_ends_while_time_stands_still(self, odoo):
        with frozen():
            error = in_background(lambda: odoo.wait_for_calls(1, timeout=0.05)).result()
        assert str(error) == "0 of 1 calls in 0.05 s; no calls"

    @pytest.mark.parametrize("script", ["ok@20ms", "drip", "ok"])
    def test_an_answer_ends_while_time_stands_still(self, odoo, monkeypatch, script):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0.0001)
        odoo.play(script)
        with contextlib.closing(bare_client(odoo)) as client, frozen():
            data = talk(client)
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
                talk(client)
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
            began = time.perf_counter()
            until(lambda: time.perf_counter() - began > 0.05)
            return {}

        server = fresh(variant(make_success=make_success))
        post(server)
        assert self.ended(server).took > 0.03

    @pytest.mark.parametrize("script", [
        "ok", "503", "ok@1ms", *mock_odoo.WORDS, *(f for f in mock_odoo.FAULTS if f != "stall")
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

    @pytest.mark.skipif(
        not hasattr(select, "POLLRDHUP"), reason="no POLLRDHUP here: it is seen a little later")
    @stop_and_down
    def test_a_client_that_has_left_does_not_come_back_when_we_cut_it(self, odoo, end):
        for _ in range(10):
            odoo.play("stall")
            with connect(odoo, request_bytes()):
                (call,) = odoo.wait_for_calls(1)
            before = call.left
            end(odoo)
            odoo.stop()
            assert (before, call.left) == (True, True)
            odoo.start()
            odoo.reset()

    @pytest.fixture
    def looks(self, monkeypatch):
        """What was seen so far when somebody looked whether a client had left."""
        real, looks = mock_odoo.has_left, []

        def has_left(*args):
            looks.append(real(*args))
            return looks[-1]

        monkeypatch.setattr(mock_odoo, "has_left", has_left)
        return looks

    def test_it_counts_from_the_arrival_and_not_from_its_turn(self, fresh, held, looks):
        server = fresh(variant(make_success=lambda self, payload: held() or {}))
        began = time.perf_counter()
        first = in_background(post, server)
        held.wait()
        with connect(server, request_bytes()):
            until(lambda: looks)  # it waits for its turn
            came_within = time.perf_counter() - began
        until(lambda: True in looks)
        left_within = time.perf_counter() - began
        until(lambda: time.perf_counter() - began > 2 * left_within)
        held.let_go()
        first.result()
        call = server.wait_for_calls(2)[1]
        assert (call.left, 0 <= call.took <= left_within) == (True, True)
        assert 0 <= server.get_intervals()[0] <= came_within

    @pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
    @pytest.mark.parametrize("is_cut", [False, True], ids=["answered", "cut"])
    def test_who_leaves_while_on_call_runs_has_left(self, fresh, held, looks, half, is_cut):
        server = fresh(on_call=held)
        server.play("ok@60s")
        with connect(server, request_bytes()) as client:
            held.wait()
            if half:
                client.shutdown(socket.SHUT_WR)
                until(lambda: True in looks)
        until(lambda: True in looks)
        if is_cut:
            server.down()
        held.let_go()
        server.stop()  # and its thread has ended
        assert server.get_calls()[0].left is True

    @pytest.mark.parametrize("size", [0, 20000, 1000000])
    def test_a_client_that_stays_has_left_at_no_moment(self, fresh, often_switching, size):
        """Also where its connection ends with the answer."""

        def look():
            while not ended.is_set():
                assert True not in [call.left for call in server.get_calls()]

        server, ended = fresh(max_calls=3), threading.Event()
        server.play(Reply(200, {"padding": "x" * size}), loop=True)
        lookers = [in_background(look) for _ in range(2)]
        for _ in range(60):
            assert ask(server, request_bytes()).status == 200
        ended.set()
        assert [looker.result() for looker in lookers] == [None, None]

    @pytest.mark.skipif(not mock_odoo.HUNG_UP, reason="bytes that wait hide it elsewhere")
    def test_bytes_that_wait_to_be_read_hide_no_client_that_leaves(self, odoo):
        odoo.play("stall")
        with connect(odoo, KEPT) as client:
            (call,) = odoo.wait_for_calls(1)
            client.sendall(KEPT)
        until(lambda: call.left)

    def test_who_closes_its_half_in_the_middle_of_a_long_answer_has_left(self, fresh):
        seen = []
        server = fresh(on_event=seen.append)
        server.play(Reply(200, {"padding": "x" * 30000000}))
        with connect(server, request_bytes()) as client:
            assert client.recv(100)
            client.shutdown(socket.SHUT_WR)
            (call,) = server.get_calls()
            until(lambda: call.left or not mock_odoo.CAN_PEEK)
            took = call.took
            drain(client)
        self.ended(server)
        assert (call.left, took in (None, call.took)) == (True, True)
        post(server)
        assert server.get_calls()[1].repeats == 1
        server.stop()
        assert [event["number"] for event in seen if event["event"] == "left"] == [1]

    @pytest.mark.skipif(not mock_odoo.HUNG_UP, reason="only Linux tells it later")
    @pytest.mark.parametrize("half", [False, True], ids=["closed", "half closed"])
    def test_it_counts_until_the_client_left_also_while_the_service_is_slow(self, fresh, held, half):
        server = fresh(variant(make_success=lambda self, payload: held() or {}))
        with connect(server, request_bytes()) as client:
            held.wait()
            if half:
                client.shutdown(socket.SHUT_WR)
            else:
                client.close()
            left = time.perf_counter()
            until(lambda: time.perf_counter() > left + 0.2)
            held.let_go()
            call = self.ended(server)
            assert (call.left, call._arrived + call.took < left + 0.1) == (True, True)

    @pytest.mark.parametrize("number", range(20))
    def test_it_has_left_with_its_time_and_does_not_come_back(self, odoo, number):
        odoo.play("stall*")
        with connect(odoo, request_bytes()):
            (call,) = odoo.wait_for_calls(1)
        told = []
        until(lambda: told.append(json.loads(call.to_json())) or told[-1]["left"])
        took = call.took
        until(lambda: call._request is None)  # its thread has ended the answer, too
        told.append(json.loads(call.to_json()))
        states = {(each["took"] is None, each["left"]) for each in told}
        assert states <= {(True, None), (False, True)}
        assert (call.left, call.took) == (True, took)

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

    def test_wait_for_heartbeats_waits_for_accepted_ones(self, odoo):
        odoo.play("503, ok")
        waiting = in_background(odoo.wait_for_heartbeats, 1, 60)
        post(odoo)
        assert len(odoo.wait_for_calls(1)) == 1
        assert waiting.is_alive()
        post(odoo)
        assert len(waiting.result()) == 1

    @pytest.mark.parametrize(("script", "n", "where", "told"), named({
        "nothing": ("", 0, None, "0 of 27 calls in 0.0 s; no calls"),
        "calls": ("503, ok, ok", 3, None, "3 of 27 calls in 0.0 s; calls: 503, ok, ok"),
        "many": (
            "503*25, ok", 26, None,
            "26 of 27 calls in 0.0 s; calls: ..., " + "503, " * 19 + "ok"),
        "which fit": (
            "503, ok", 2, lambda call: call.reply == "503",
            "1 of 27 calls that fit in 0.0 s; calls: 503, ok"),
    }))
    def test_a_time_out_tells_what_came(self, odoo, script, n, where, told):
        odoo.play(script)
        for _ in range(n):
            post(odoo)
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_calls(27, timeout=0, where=where)
        assert str(caught.value) == told

    def test_a_time_out_tells_what_missed_the_endpoint(self, odoo):
        send(odoo, "POST", PATH + "s?a=1", BODY, JSON)
        send(odoo, "GET", PATH)
        exchange(odoo, b"\x16\x03\x01\x02\x00")
        tls = "400 this is TLS, and the port speaks plain HTTP"
        unmatched = [f"404 POST {PATH}s", f"405 GET {PATH}", tls]
        with pytest.raises(TimeoutError) as caught:
            odoo.wait_for_heartbeats(1, timeout=0.001)
        told = f"0 of 1 heartbeats in 0.001 s; no calls; unmatched: {unmatched}"
        assert str(caught.value) == told

    def test_a_wait_has_all_the_time_it_was_given(self, odoo):
        began = time.perf_counter()
        with pytest.raises(TimeoutError):
            odoo.wait_for_calls(1, timeout=0.3)
        assert time.perf_counter() - began >= 0.28  # where a clock is coarse

    @pytest.mark.parametrize("name", ["wait_for_calls", "wait_for_heartbeats"])
    def test_a_wait_has_five_seconds_unless_told(self, name):
        signature = inspect.signature(getattr(MockOdooServer, name))
        assert signature.parameters["timeout"].default == 5.0

    def test_a_wait_over_http_is_for_one_call_and_five_seconds_unless_told(self, steered):
        with connect(steered, request_bytes(
            b"", method="GET", path="/_mock/wait", host="localhost")) as connection:
            assert_silent(connection)
            steered.stop()
        steered.start()
        post(steered)
        assert control(steered, "GET", "wait")[0] == 200
        default = inspect.signature(mock_odoo.Control.wait).parameters["timeout"].default
        assert default == 5

    def test_a_wait_goes_on_over_a_restart(self, odoo):
        waiting = in_background(odoo.wait_for_heartbeats, 1, 60)
        odoo.stop()
        odoo.start()
        post(odoo)
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

    def test_each_is_looked_at_once_and_the_function_may_use_the_server(self, odoo):
        def look(call):
            seen.append(call.number)
            post(odoo)  # one more comes meanwhile
            return True

        seen = []
        post(odoo)
        assert len(odoo.wait_for_calls(5, PATIENCE, look)) == 5
        assert seen == [1, 2, 3, 4, 5]

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

    def test_it_ends_in_time_however_many_come(self, odoo):
        ended = threading.Event()
        client = in_background(post_until, ended, odoo)
        with pytest.raises(TimeoutError, match="^0 of 1 calls that fit"):
            odoo.wait_for_calls(1, timeout=0.2, where=lambda call: False)
        ended.set()
        client.result()

    @pytest.mark.parametrize("name", ["wait_for_calls", "wait_for_heartbeats"])
    def test_it_must_be_callable(self, odoo, name):
        with pytest.raises(TypeError, match="where must be callable, not 'KKT-001'"):
            getattr(odoo, name)(1, where="KKT-001")


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
        pytest.param(Reply(504, accepts=True), id="a proxy that lost patience"),
    ])
    def test_the_same_body_after_a_spoilt_answer_is_a_repeat(self, odoo, fault):
        odoo.play(["ok", fault])
        post(odoo, {"n": 1})
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(odoo, {"n": 2}, timeout=0.05 if fault in self.SLOW else PATIENCE)
        until(lambda: odoo.wait_for_calls(2)[1].left or fault not in self.SLOW)
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

    def test_so_it_is_after_a_client_that_did_not_wait_for_the_service(self, fresh, held):
        server = fresh(on_call=held)
        with connect(server, request_bytes()):
            held.wait()
        until(lambda: server.get_calls()[0].left)
        again = in_background(post, server)
        server.wait_for_calls(2)
        held.let_go()
        again.result()
        assert [call.repeats for call in server.get_calls()] == [None, 1]

    def test_the_same_body_after_an_answer_that_we_cut_is_a_repeat(self, odoo):
        odoo.play("ok@60s")
        client = in_background(try_post, odoo)
        odoo.wait_for_calls(1)
        odoo.down(0)
        client.result()
        post(odoo)
        assert [call.repeats for call in odoo.get_calls()] == [None, 1]

    def test_whoever_gets_no_answer_because_of_an_outage_repeats(self, odoo):
        for number in range(30):
            odoo.forget()
            bodies = [{"n": 2 * number + n} for n in range(2)]
            clients = [in_background(post, odoo, body) for body in bodies]
            odoo.wait_for_heartbeats(2)
            odoo.down(0)
            lost = [isinstance(client.result(), FAILED) for client in clients]
            for body in bodies:
                post(odoo, body)
            numbers = {call.payload["n"]: call.repeats for call in odoo.get_calls()}
            for body, is_lost in zip(bodies, lost):
                assert numbers[body["n"]] or not is_lost

    def test_so_does_who_leaves_in_the_middle_of_a_long_answer(self, odoo):
        odoo.play([Reply(200, b"x" * 30000000, accepts=True)])
        with connect(odoo, request_bytes()) as client:
            assert client.recv(100)
        until(lambda: odoo.get_calls()[0].left)
        post(odoo)
        assert [call.repeats for call in odoo.get_calls()] == [None, 1]

    def test_each_spoilt_answer_has_one_repeat_with_the_same_body(self, odoo):
        odoo.play("503*3")
        for n in (1, 1, 1, 1, 2):
            post(odoo, {"n": n})
        assert [call.repeats for call in odoo.get_calls()] == [None, 1, 2, 3, None]

    def test_the_latest_hundred_bodies_are_remembered(self, odoo):
        odoo.play("503*")
        for n in (0, *range(1, 60), 0, *range(60, 130), 0):
            post(odoo, {"n": n})
        assert odoo.get_calls()[-1].repeats == 61


class TestEvents:
    """What was done to the fake."""

    def test_each_is_told_with_its_time_and_is_no_call(self, odoo):
        before = time.time()
        odoo.play("503*, ok", loop=True)
        start, script = odoo.get_events()
        assert (start["event"], script["event"]) == ("start", "script")
        assert (script["script"], script["loop"]) == ("503*, ok", True)
        assert before <= script["at"] <= time.time()
        assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}\.[0-9]{3}[+-][0-9:]{5}", script["time"])
        assert (odoo.get_call_count(), odoo.get_calls(), odoo.get_unmatched()) == (0, [], [])

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="no zone can be set here")
    @pytest.mark.parametrize(("zone", "offset"), [("EAST-3:30", "+03:30"), ("WEST+5", "-05:00")])
    def test_their_time_is_that_of_the_place(self, odoo, monkeypatch, zone, offset):
        with monkeypatch.context() as patch:
            patch.setenv("TZ", zone)
            time.tzset()
            odoo.play("503")
        time.tzset()
        assert odoo.get_events()[-1]["time"].endswith(offset)

    def test_the_life_of_a_server_is_told_in_order(self, odoo):
        url = odoo.url
        odoo.up()  # what changes nothing is no event
        odoo.set_permanent_failure(False)
        odoo.down(60)
        odoo.up()
        odoo.set_failure_count(2)
        odoo.stop()
        odoo.stop()
        odoo.start()
        events = odoo.get_events()
        assert [event["event"] for event in events] == [
            "start", "down", "up", "script", "stop", "start"]
        assert (events[0]["url"], events[1]["seconds"]) == (url, 60.0)

    def test_the_newest_hundred_are_kept_and_no_reader_spoils_them(self, odoo):
        for n in range(1, 121):
            odoo.set_failure_count(n)
        odoo.get_events()[0].clear()
        assert [event["script"] for event in odoo.get_events()[::99]] == ["503*21", "503*120"]

    def test_they_are_told_over_http(self, steered):
        steered.play("503*2")
        steered.down(0)
        status, told = control(steered, "GET", "events")
        assert (status, told) == (200, {"events": steered.get_events()})
        assert [event["event"] for event in told["events"]] == ["start", "script", "down", "up"]

    def test_on_event_sees_all_that_happens_between_the_calls(self, fresh):
        seen = []
        server = fresh(
            on_call=lambda call: seen.append(call.reply), control=True,
            on_event=lambda event: seen.append(
                event.get("unmatched") or event.get("request") or event["event"]))
        server.routes["/sign"] = {"POST": lambda request: Reply(201, {})}
        until(lambda: seen == ["start"])
        server.play("503")
        post(server)
        for path in ("/nowhere", "/health", "/web/login", "/_mock/state", "/_mock/nonsense"):
            send(server, "GET", path)
        assert send(server, "POST", "/sign?till=2", b"{}").status == 201
        assert send(server, "POST", "/sign", b"x" * 2000000).status == 413
        kept = [event["event"] for event in server.get_events()]
        server.reset()
        post(server)
        server.stop()
        assert kept == ["start", "script"]
        assert seen == [
            "start", "script", "503", "404 GET /nowhere", "404 GET /_mock/nonsense",
            "201 POST /sign", "413 POST /sign", "reset", "ok", "stop",
        ]

    def test_steering_in_on_call_is_told_after_that_call(self, fresh):
        seen = []

        def on_call(call):
            server.play("503")
            seen.append(call.number)

        server = fresh(on_call=on_call, on_event=lambda event: seen.append(event["event"]))
        assert [post(server).status for _ in range(2)] == [200, 503]
        server.stop()
        assert seen == ["start", 1, "script", 2, "script", "stop"]

    def test_no_method_waits_for_an_on_call_that_hangs(self, fresh, held):
        seen = []
        server = fresh(on_call=held, on_event=lambda event: seen.append(event["event"]))
        in_background(post, server)
        held.wait()
        server.play("503")
        server.reset()
        assert seen == ["start"]
        held.let_go()
        until(lambda: seen == ["start", "script", "reset"])

    @pytest.mark.parametrize("call", named(CALLS))
    @pytest.mark.parametrize("name", ["start", "down", "up", "script", "reset", "stop"])
    def test_on_event_may_steer_at_every_event(self, name, call):
        def on_event(event):
            if event["event"] == name and not done:
                done.append(True)
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

        done = []
        server = MockOdooServer(port=0, on_event=on_event)
        assert in_background(use).result() is None
        assert in_background(server.stop).result() is None  # on_event may have started it again
        assert (done, refused(server)) == ([True], True)

    def test_they_come_in_order_when_threads_and_on_event_steer_at_once(
        self, fresh, often_switching
    ):
        def on_event(event):
            seen.append(event)
            if event["event"] == "up":
                server.play("429")

        def steer(number):
            for n in range(8):
                server.set_failure_count(number * 100 + n)
                server.down(0)

        seen = []
        server = fresh(on_event=on_event)
        for thread in [in_background(steer, number) for number in range(1, 5)]:
            assert thread.result() is None
        until(lambda: len(seen) == 1 + 4 * 8 * 4)
        server.stop()
        assert seen[-100:] == server.get_events()
        scripts = [event["script"] for event in seen if event["event"] == "script"]
        assert scripts[-1] == server.script
        assert refused(server)

    def test_logging_in_it_leaves_no_thread_in_the_list(self, fresh, caplog):
        def log(news):
            logging.getLogger("test").warning("news")

        before = set(threading.enumerate())
        server = fresh(on_event=log, on_call=log)
        server.routes["/log"] = {"GET": lambda request: log(request) or Reply()}
        post(server)
        send(server, "GET", "/nowhere")
        assert send(server, "GET", "/log").status == 200
        server.down(0.001)
        until(lambda: server.get_events()[-1]["event"] == "up")
        server.stop()
        assert set(threading.enumerate()) <= before
        assert len(caplog.records) > 5


class TestLocksOfTheCaller:
    """No method but stop() waits for a function of the user's, so a caller may hold its locks."""

    @pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
    @pytest.mark.parametrize("name", [name for name in CALLS if name != "stop"])
    def test_a_method_returns_while_the_main_thread_holds_a_lock(self, fresh, name, make):
        def on_news(news):
            got.append(lock.acquire(timeout=5))
            lock.release()

        lock, got = make(), []
        server = fresh(on_event=on_news, on_call=on_news)
        post(server)
        if name == "start":
            server.stop()
        with lock:
            CALLS[name](server)
        server.stop()
        assert set(got) == {True}


@pytest.fixture
def changing(odoo, held, monkeypatch):
    """A server in the middle of a change, and the function that ends it."""
    real = socket.SocketType.listen
    odoo.play("429")
    odoo.down()
    with monkeypatch.context() as patch:
        patch.setattr(
            FakeSocket, "listen", lambda self, *args: held() or real(self, *args), raising=False)
        opening = in_background(odoo.up)
        held.wait()
        yield odoo, held.let_go
        held.let_go()
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

    def test_they_wait_for_no_change_and_start_no_thread(self, changing):
        server, _ = changing
        for read in self.READERS:
            in_background(read, server).result(5)
        with out_of_threads():
            for read in self.READERS:
                read(server)

    @pytest.mark.parametrize("name", ["play", "reset", "forget", "down", "up", "stop"])
    def test_a_change_waits_for_another(self, changing, name):
        server, end = changing
        thread = in_background(CALLS[name], server)
        thread.join(0.05)
        assert thread.is_alive()
        assert (server.script, server.is_running) == ("429", True)
        end()
        assert thread.result() is None

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
                talk(client)
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
        for thread in [in_background(post, server) for _ in range(30)]:
            assert thread.result().status == 200
        assert [number for number, _ in seen] == list(range(1, 34))

    def test_an_answer_waits_for_its_own_call_and_for_no_later_one(self, fresh):
        """Also where the thread of another call tells on_call of it."""

        def on_call(call):
            if call.number == 1:
                until(lambda: server.get_call_count() == 3)
            else:
                seen.set()
                leave.wait(PATIENCE)

        for _ in range(10):
            seen, leave = threading.Event(), threading.Event()
            server = fresh(on_call=on_call)
            first = in_background(post, server)
            server.wait_for_calls(1)
            others = [in_background(post, server) for _ in range(2)]
            assert first.result().status == 200
            seen.wait(PATIENCE)
            others[0].join(0.01)
            assert all(other.is_alive() for other in others)
            leave.set()
            assert [other.result().status for other in others] == [200] * 2
            server.stop()

    def test_a_reset_in_it_lets_go_the_reply_on_its_way(self, fresh):
        server = fresh(on_call=lambda call: server.reset())
        server.play("ok@60s, stall")
        assert post(server).status == 200

    def test_the_client_of_a_call_that_ends_the_server_is_answered_though_another_ends_it_too(
        self, fresh
    ):
        def on_call(call):
            if call.number == 1:
                until(lambda: server.get_call_count() == 2)
            server.down()

        for _ in range(10):
            server = fresh(on_call=on_call)
            with connect(server, KEPT) as one, connect(server, KEPT) as other:
                first = server.wait_for_calls(2)[0].client[1]
                chosen = one if one.getsockname()[1] == first else other
                assert chosen.recv(100).startswith(b"HTTP/1.1 200")
            until(lambda: len(server.get_events()) == 3)  # noqa: B023 - both have said down()

    def test_a_stop_waits_for_it_after_an_outage_of_its_own_making(self, fresh, new_threads, held):
        server = fresh(on_call=lambda call: server.down(0) or held())
        client = in_background(post, server)
        held.wait()
        stopping = in_background(server.stop)
        until(lambda: refused(server))
        assert stopping.is_alive()
        held.let_go()
        stopping.result()
        assert new_threads() == []
        client.result()

    def test_a_wait_in_it_ends_with_the_server(self, new_threads):
        def on_call(call):
            server.wait_for_calls(99, timeout=60)

        told = "^the server was stopped; 1 of 99 calls"
        with failing(TimeoutError, told, on_call=on_call) as server:
            client = in_background(post, server)
            server.wait_for_calls(1)
            server.stop()
            client.result()
            assert new_threads() == []


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
        assert re.match("400 .*malformed request line ", told)

    @pytest.mark.parametrize("path", ["/", "/_mock/nonsense", "/_mock/reset/"])
    def test_a_post_that_is_no_heartbeat_is_told_beside_the_control_api_too(self, steered, path):
        status = send(steered, "POST", path, BODY, JSON).status
        assert steered.get_unmatched() == [f"{status} POST {path}"]

    @pytest.mark.parametrize(("data", "told"), named({
        "in the first line": (b"POST /api", "POST /api: the request ends in the middle of its f"),
        "in the headers": (
            request_bytes()[:70], f"POST {PATH}: the request ends in the middle of its headers"),
        "before the blank line": (
            request_bytes(b"").rstrip() + b"\r\n",
            f"POST {PATH}: the request ends in the middle of its headers"),
        "before the body": (
            request_bytes(b"", "Content-Length: 9"), f"POST {PATH}: the body ends after 0 of 9"),
        "in the body": (
            request_bytes(b"{}", "Content-Length: 9"), f"POST {PATH}: the body ends after 2 of 9"),
        "in a body for a route": (
            request_bytes(b"{}", "Content-Length: 9", path="/echo"), "POST /echo: the body ends "),
        "before a chunk": (chunked_bytes(b""), f"POST {PATH}: the chunked body has no end"),
        "in a size": (chunked_bytes(b"5"), f"POST {PATH}: the chunked body has no end"),
        "in a chunk": (chunked_bytes(b"5\r\n{"), f"POST {PATH}: the body ends after 1 of 5 bytes"),
        "behind a chunk": (chunked_bytes(b"2\r\n{}"), f"POST {PATH}: the body ends after 0 of 2"),
        "before a trailer": (
            chunked_bytes(b"2\r\n{}\r\n0\r\n"), f"POST {PATH}: the chunked body has no end"),
    }))
    @pytest.mark.parametrize("end", [
        lambda client: client.shutdown(socket.SHUT_WR), socket.socket.close,
        pytest.param(close_by_reset, marks=pytest.mark.skipif(
            os.name == "nt", reason="a RST takes with it what has not been read")),
    ], ids=["half", "closed", "reset"])
    def test_a_request_that_its_client_cuts_is_told_and_is_no_call(self, fresh, data, told, end):
        events = []
        server = fresh(on_event=events.append)
        with connect(server, data) as client:
            end(client)
            if client.fileno() >= 0:
                response = only(read_all(client))
                assert (response.status, response.headers["Connection"]) == (400, "close")
                assert response.json()["error"] in f"400 {server.get_unmatched()}"
        until(server.get_unmatched)
        server.stop()
        (line,) = server.get_unmatched()
        assert line.startswith("400 " + told)
        assert [each["unmatched"] for each in events if each["event"] == "unmatched"] == [line]
        assert server.get_call_count() == 0

    @pytest.mark.parametrize("data", named({
        "silent": b"", "a line break": b"\r\n", "kept": KEPT, "kept, line breaks": KEPT + b"\n\n",
    }))
    @pytest.mark.parametrize("end", named({
        "its client": lambda server, client: client.close(),
        "its client's reset": lambda server, client: close_by_reset(client),
        "a stop": lambda server, client: server.stop(),
        "an outage": lambda server, client: server.down(),
    }))
    def test_an_idle_connection_that_ends_is_no_news(self, odoo, data, end):
        with connect(odoo, data) as client:
            if KEPT in data:
                client.recv(65536)
            assert post(odoo, {}).status == 200  # so it has been accepted
            end(odoo, client)
        odoo.stop()
        assert odoo.get_unmatched() == []

    @stop_and_down
    @pytest.mark.parametrize("size", [50, len(KEPT) - 1], ids=["headers", "body"])
    def test_a_request_that_we_cut_is_no_news(self, odoo, end, size):
        with connect(odoo, KEPT[:size]):
            assert post(odoo).status == 200  # so the half one has been read, or soon will be
            end(odoo)
        odoo.stop()
        assert odoo.get_unmatched() == []

    def test_the_newest_are_kept_until_a_reset(self, odoo):
        for n in range(25):
            send(odoo, "GET", f"/{n}")
        assert odoo.get_unmatched() == [f"404 GET /{n}" for n in range(5, 25)]
        odoo.reset()
        assert odoo.get_unmatched() == []

    def test_it_is_short_and_cannot_drive_a_terminal(self, odoo):
        exchange(odoo, request_bytes(path="/\x9b31m" + "x" * 1000))
        assert odoo.get_unmatched() == ["404 POST /?31m" + "x" * 183 + "..."]


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
        "no id": ("adapter_id", None, "expected a non-empty string, got null"),
        "no buffer": ("buffer_status", ..., "missing"),
        "buffer as list": ("buffer_status", [], "expected an object, got []"),
        "half a place": (
            "buffer_status.total_capacity", 2.5, "expected a whole number, 0 or more, got 2.5"),
        "capacity as flag": ("buffer_status.total_capacity", True, ", got true"),
        "negative queue": (
            "buffer_status.current_queued", -1, "expected a whole number, 0 or more, got -1"),
        "percent as text": ("buffer_status.percent_full", "high", "expected a number, got 'high'"),
        "percent as flag": ("buffer_status.percent_full", False, ", got false"),
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


# ------------------------------------------------------------------------------------------
# Wire: reads a whole request, asks for the reply, sends it, honest or spoilt
# ------------------------------------------------------------------------------------------


class TestEndpoints:
    @pytest.mark.parametrize("script", ["", "503*", "reset*", "stall*"])
    @pytest.mark.parametrize(("path", "body"), named({
        "health": ("/health", {"status": "ok"}),
        "of the compose files": ("/api/v1/health", {"status": "ok"}),
        "web health": ("/web/health", {"status": "pass"}),
    }))
    def test_health_tells_in_every_mode_that_the_fake_runs(self, odoo, path, body, script):
        odoo.play(script)
        response = send(odoo, "GET", path)
        assert (response.status, response.json()) == (200, body)
        assert odoo.get_call_count() == 0

    def test_a_route_can_be_added(self, odoo):
        odoo.routes["/hw_proxy/hello"] = {"GET": lambda request: Reply(200, f"{request.query}?")}
        assert send(odoo, "GET", "/hw_proxy/hello?ping").body == b"ping?"
        assert send(odoo, "POST", "/hw_proxy/hello").headers["Allow"] == "GET, HEAD"
        error = send(odoo, "GET", "/nowhere").json()["error"]
        assert error.startswith(f"there is no /nowhere here; there are POST {PATH}, GET /health")
        assert error.endswith(", GET /hw_proxy/hello")

    def test_a_404_names_the_endpoint_and_a_few_of_many_routes(self, odoo):
        for n in range(500):
            odoo.routes[f"/{n}"] = {"GET": lambda request: Reply(200)}
        error = send(odoo, "GET", "/nowhere").json()["error"]
        assert f"there are POST {PATH}, GET /health" in error
        assert error.endswith(", GET /0 and 499 more")

    @pytest.mark.parametrize("reply", [Reply(503), Reply(200), Reply(303)], ids=str)
    def test_a_route_may_leave_the_body_to_the_service(self, odoo, reply):
        odoo.routes["/extra"] = {"GET": lambda request: reply}
        expected = {503: json.dumps(FAILURE).encode(), 200: json.dumps(SUCCESS).encode(), 303: b""}
        assert send(odoo, "GET", "/extra").body == expected[reply.status]

    def test_a_route_that_returns_no_reply_is_named(self, caplog):
        told = "^GET /extra must return a Reply, not 'pong'"
        with failing(TypeError, told) as server:
            server.routes["/extra"] = {"GET": lambda request: "pong"}
            assert send(server, "GET", "/extra").status == 500
        assert "GET /extra failed" in caplog.text

    @pytest.mark.parametrize("methods", named({
        "a function": lambda request: Reply(200), "a Reply": Reply(200), "none": None,
        "a Reply by method": {"GET": Reply(200)}, "text by method": {"GET": "pong"},
        "small letters": {"get": lambda request: Reply(200)}, "no text": {1: print},
        "a list": ["GET"], "nothing": {}, "two methods in one": {"GET, POST": print},
    }))
    @pytest.mark.parametrize("path", ["/extra", "/nowhere"])
    def test_a_route_of_the_wrong_shape_is_a_type_error_that_shows_the_right_one(
        self, methods, path
    ):
        told = r"^a route is set like odoo\.routes\['/extra'\] = {'GET': lambda request: Reply\(200\)}"
        with failing(TypeError, told) as server:
            server.routes["/extra"] = methods
            response = send(server, "GET", path)
            assert (response.status, response.headers["Content-Type"]) == (500, JSON_TYPE)
            assert re.match(told, response.json()["error"])
            assert post(server).status == 200

    @pytest.fixture
    def echo(self, odoo):
        """A odoo with a route that answers with the body."""
        odoo.routes["/echo"] = {"POST": lambda request: Reply(200, request.body)}
        return odoo

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

    def test_a_trailing_slash_does_not_matter(self, odoo):
        assert send(odoo, "POST", PATH + "/", BODY, JSON).json() == SUCCESS
        assert odoo.get_received_heartbeats() == [HEARTBEAT]
        response = send(odoo, "GET", PATH + "/")
        assert (response.status, response.headers["Allow"]) == (405, "POST")

    def test_a_slow_route_is_let_go_by_a_reset(self, odoo):
        entered = threading.Event()
        odoo.routes["/slow"] = {"GET": lambda request: entered.set() or Reply(200, {}, delay=60)}
        client = in_background(send, odoo, "GET", "/slow")
        entered.wait(PATIENCE)
        while client.is_alive():  # the route has ended, but its delay may not have begun
            odoo.reset()
        assert client.result().status == 200

    @pytest.mark.parametrize("path", ["/health", "/web/health"])
    def test_head_has_the_length_but_not_the_body(self, odoo, path):
        full = ask(odoo, request_bytes(b"", method="GET", path=path))
        head = exchange(odoo, request_bytes(b"", method="HEAD", path=path))
        assert head.endswith(b"\r\n\r\n")
        assert split(head)[0].headers["Content-Length"] == str(len(full.body))

    @pytest.mark.parametrize(("method", "path", "allow"), [
        ("GET", PATH, "POST"), ("HEAD", PATH, "POST"), ("PUT", PATH, "POST"),
        ("OPTIONS", PATH, "POST"), ("post", PATH, "POST"), ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/web/health", "GET, HEAD"),
    ])
    def test_another_method_is_405_with_allow(self, odoo, method, path, allow):
        response = send(odoo, method, path)
        assert (response.status, response.headers["Allow"]) == (405, allow)
        if method != "HEAD":
            assert response.json() == {"error": f"{path} takes {allow}, not {method}"}
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("path", [
        "/", "/api/v1/kkt/heartbeat//", "/api/v1/kkt", "/_mock/", "/_mock/state", "//health", "*",
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

    @pytest.mark.parametrize(("query", "back"), [("", "%3F"), ("?a=1&b", "%3Fa%3D1%26b")])
    def test_login_leads_to_a_page_in_html_and_says_where_to_return(self, odoo, query, back):
        odoo.play("login*2")
        way = f"/web/login?redirect=%2Fapi%2Fv1%2Fkkt%2Fheartbeat{back}"
        response = send(odoo, "POST", PATH + query, BODY, JSON)
        headers = response.headers
        assert (response.status, headers["Location"]) == (303, way)
        assert (headers["Content-Type"], response.body[:9]) == (PAGE_TYPE, b"<!DOCTYPE")
        with open_url(odoo.heartbeat_url + query, BODY) as response:
            assert response.url == odoo.url + way
            assert response.headers.get_content_type() == "text/html"


class TestBodies:
    @pytest.mark.parametrize("kind", [
        "application/json", "Application/JSON", "application/json; charset=utf-8",
        "application/json ;x", "application/json-rpc",
    ])
    def test_a_json_content_type_is_accepted(self, odoo, kind):
        assert send(odoo, "POST", PATH, BODY, {"Content-Type": kind}).status == 200

    @pytest.mark.parametrize("kind", [
        "text/plain", "application/jsonp", "application/x-www-form-urlencoded", "", None,
    ])
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

    @pytest.mark.parametrize(("data", "status"), [
        (request_bytes(b"x" * 4000000), 413), (b"hello\r\n\r\n" + b"x" * 4000000, 400),
    ], ids=["too long", "no HTTP"])
    def test_a_refusal_reaches_a_client_that_goes_on_sending(self, odoo, data, status):
        assert ask(odoo, data).status == status

    def test_a_refusal_reaches_a_client_that_goes_on_sending_for_long(self, odoo, monkeypatch):
        monkeypatch.setattr(mock_odoo, LINGER, 0.2)

        began = time.perf_counter()
        with connect(odoo, chunked_bytes(b"")) as client:
            while time.perf_counter() - began < 1:
                client.sendall(b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n")
            assert only(read_all(client)).status == 413

    @pytest.mark.parametrize("lines", [(), ("Content-Length: 0",)], ids=["without", "of none"])
    def test_an_empty_body_says_whether_a_length_was_given(self, odoo, lines):
        request = request_bytes(b"", *lines)
        if not lines:
            request = request.replace(b"Content-Length: 0\r\n", b"")
        told = "the body is empty" + ("" if lines else ": there is no Content-Length")
        assert ask(odoo, request).json() == {"error": told}

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
        "leading zeros, extension and trailer": (
            b"000000000%X;name=value\r\n%s\r\n000\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY)),
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
        "bare line feed after the size": b"2\n{}\r\n0\r\n\r\n",
        "a byte too few": b"3\r\n{}\r\n0\r\n\r\n",
        "bare line feed after the chunk": b"2\r\n{}\n0\r\n\r\n",
        "a trailer without colon": b"2\r\n{}\r\n0\r\nchunky\r\n\r\n",
        "a folded trailer": b"2\r\n{}\r\n0\r\nchunk: 1\r\n 2\r\n\r\n",
        "two sizes": b"2 2\r\n{}\r\n0\r\n\r\n",
        "70000 digits": b"5" * 70000,
    }))
    def test_malformed_chunks_are_400_and_the_end(self, odoo, chunked):
        response = ask(odoo, chunked_bytes(chunked + request_bytes(), close=False))
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert re.search("chunk|header line", response.json()["error"])
        assert odoo.get_received_heartbeats() == []

    @pytest.mark.parametrize(("chunked", "status"), named({
        "past a mebibyte": ((b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n") * 40, 413),
        "a single one, which has not come": (b"7fffffff\r\n", 413),
        "nine digits": (b"FFFFFFFFF\r\n", 413), "60000 digits": (b"5" * 60000 + b"\r\n", 413),
        "endless trailers": (b"2\r\n{}\r\n0\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
    }))
    def test_too_much_is_refused(self, odoo, chunked, status):
        assert ask(odoo, chunked_bytes(chunked, close=False)).status == status
        assert [call.reply for call in odoo.get_calls()] == [str(status)][: status == 413]


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

    def test_rude_clients_leave_no_trace_in_the_log(self, odoo, caplog, capfd):
        for data in (b"", b"\x00", b"POST", request_bytes()[:-5], request_bytes(), b"\x16\x03"):
            close_by_reset(connect(odoo, data))
        odoo.stop()
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

    @pytest.mark.parametrize(("lengths", "status"), named({
        "29 zeros": (["0" * 29 + "2"], 200), "60000 zeros": (["0" * 60000 + "2"], 200),
        "twice": (["2", "2"], 200),
        "13 digits": (["9" * 13], 413), "5000 digits": (["9" * 5000], 413),
    }))
    def test_a_content_length_may_be_odd(self, odoo, lengths, status):
        lines = [f"Content-Length: {length}" for length in lengths]
        assert ask(odoo, request_bytes(b"{}", *lines)).status == status

    @pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
    def test_a_head_may_have_64_kib_and_not_a_byte_more(self, odoo, more, status):
        start = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: "
        data = start + b"x" * (65536 + more - len(start) - 4) + b"\r\n\r\n"
        assert ask(odoo, data).status == status

    def test_many_blanks_in_a_header_take_no_time(self, odoo):
        began = time.monotonic()
        header = b"A:" + b" " * 64000 + b"\0"
        assert ask(odoo, b"GET /health HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n").status == 400
        # A careless expression takes 14 s, and holds up the whole process.
        assert time.monotonic() - began < 2

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
        "101 headers": (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100 + b"\r\n", 431),
        "long header": (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
        "long path": (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 431),
        "no line break": (b"x" * 70000, 431),
        "gzip": (request_bytes(BODY, "Transfer-Encoding: gzip, chunked"), 501),
        "chunks in HTTP/1.0": (
            request_bytes(BODY, "Transfer-Encoding: chunked", version="HTTP/1.0"), 400),
    }))
    def test_a_malformed_request_is_answered_with_a_status_line_and_json(self, odoo, data, status):
        response = ask(odoo, data)
        assert (response.status, response.headers["Connection"]) == (status, "close")
        assert response.headers["Content-Type"] == JSON_TYPE
        assert list(response.json()) == ["error"]
        assert odoo.get_call_count() == 0

    @pytest.mark.parametrize("blank", [
        b"", b"\r\n", b"\n", b"\r\n" * 999, b"\r\n\n" * 40000], ids=len)
    def test_bare_line_feeds_and_leading_blank_lines_are_fine(self, odoo, blank):
        first, rest = split(exchange(odoo, KEPT + blank + request_bytes().replace(b"\r\n", b"\n")))
        assert (first.status, only(rest).status) == (200, 200)

    @pytest.mark.parametrize(("version", "hosts", "status"), [
        ("HTTP/1.1", [], 400), ("HTTP/1.0", [], 200), ("HTTP/1.1", [""], 200),
        ("HTTP/1.1", ["a", "a"], 400), ("HTTP/1.0", ["a", "b"], 400), ("HTTP/1.1", ["a, b"], 400),
    ])
    def test_there_must_be_one_host(self, odoo, version, hosts, status):
        lines = "".join(f"Host: {host}\r\n" for host in hosts).encode()
        request = request_bytes(version=version).replace(b"Host: odoo\r\n", lines)
        response = ask(odoo, request)
        assert response.status == status
        assert status == 200 or "Host" in response.json()["error"]

    @pytest.mark.parametrize("line", [
        "Authorization : Bearer sesam", "Cookie: session=sesam\0", "X-Api-Key: 1\n sesam",
        "Authorization Bearer sesam",
    ])
    def test_a_malformed_header_line_tells_no_secret(self, odoo, line):
        data = exchange(odoo, request_bytes(BODY, line))
        assert only(data).status == 400
        assert b"sesam" not in data
        assert "malformed header line" in odoo.get_unmatched()[0]
        assert "sesam" not in odoo.get_unmatched()[0]


class TestBugs:
    """A bug in a user's code is answered and logged, and it ends nothing."""

    @pytest.mark.parametrize("error", [KeyError("shelf"), pytest.fail.Exception("shelf")])
    @pytest.mark.parametrize("name", ["on_call", "on_event"])
    def test_what_a_function_of_the_test_raises_fails_no_reply(self, caplog, name, error):
        def fail(news):
            raise error

        with failing(type(error), "shelf", **{name: fail}) as server:
            server.play("503")
            assert [post(server).status for _ in range(2)] == [503, 200]
            assert send(server, "GET", "/nowhere").status == 404
            server.stop()
        records = {(record.name, record.levelno, record.getMessage()) for record in caplog.records}
        assert records == {("mock_odoo", logging.ERROR, name + " failed")}
        assert "shelf" in caplog.text

    @pytest.mark.parametrize("error", [KeyError("shelf"), pytest.fail.Exception("shelf")])
    @pytest.mark.parametrize("name", ["verdict", "make_success", "find_problems"])
    def test_what_a_method_of_a_subclass_raises_is_a_500_and_a_call(
        self, new_threads, caplog, name, error
    ):
        def fail(self, *args):
            raise error

        with failing(type(error), "shelf", variant(**{name: fail}), strict=True) as server:
            server.play("503")
            response = post(server)
            assert (response.status, response.json()) == (503, FAILURE)
            for _ in range(2):
                response = post(server)
                assert (response.status, list(response.json())) == (500, ["error"])
            assert [call.reply for call in server.get_calls()] == ["503", "500", "500"]
            assert server.get_received_heartbeats() == []
            server.stop()
            assert new_threads() == []
        assert "verdict, make_success or find_problems failed" in caplog.text

    def test_the_first_of_several_surfaces_with_its_own_traceback(self):
        def on_call(call):
            assert call.payload["n"] == 0, "not the first"

        with pytest.raises(AssertionError, match="not the first") as caught, MockOdooServer(
            port=0, on_call=on_call
        ) as server:
            for n in (0, 1, 2):
                post(server, {"n": n})
        assert caught.traceback[-1].name == "on_call"
        assert "'n': 1" in repr(caught.traceback[-1].locals["call"].payload)

    def test_it_takes_no_place_of_an_error_of_the_block(self, caplog):
        with failing(ZeroDivisionError, None, on_call=lambda call: {}["shelf"]) as server:
            post(server)
            raise ZeroDivisionError
        assert "KeyError: 'shelf'" in caplog.text

    def test_neither_a_stop_nor_another_block_raises_it(self, caplog):
        server = MockOdooServer(port=0, on_event=lambda event: event["event"] == "start" and 1 / 0)
        server.start()
        server.stop()
        with pytest.raises(ZeroDivisionError), server:
            pass
        server.start()
        server.stop()
        assert len(caplog.records) == 3

    @pytest.mark.parametrize("found", [[7], 7, "shelf", b"shelf", ({} for _ in "a")])
    def test_a_contract_that_returns_no_lines_is_a_call_too(self, caplog, found):
        cls = variant(find_problems=lambda self, payload: found)
        with failing(TypeError, None, cls, strict=True) as server:
            assert (post(server).status, server.get_call_count()) == (500, 1)

    def test_a_bug_outside_the_heartbeat_answers_500_and_surfaces(self):
        cls = variant(get_events=lambda self: 1 / 0)
        with failing(ZeroDivisionError, None, cls, control=True) as server:
            assert send(server, "GET", "/_mock/events").status == 500


class TestFaults:
    """A fault counts as what a client sees of it."""

    @pytest.mark.parametrize(("fault", "error"), [
        reset_param("reset", ConnectionResetError), ("close", http.client.RemoteDisconnected),
        ("truncate", http.client.IncompleteRead), ("garbage", http.client.BadStatusLine),
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
        ends, data = set(), {}
        for number in range(40):
            # Every other time, more bytes wait to be read. A careless close becomes a reset then.
            with connect(odoo, KEPT * (1 + number % 2)) as connection:
                data, end = drain(connection)
                ends.add((end, bool(data)))
        assert ends == {("RST" if fault == "reset" else "FIN", fault in ("truncate", "garbage"))}

    @pytest.mark.parametrize("fault", mock_odoo.FAULTS)
    def test_every_fault_spoils_the_answer_but_those_that_send_it_whole(
        self, odoo, monkeypatch, fault
    ):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 0)
        odoo.play(["ok", fault])
        whole = exchange(odoo, request_bytes())
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(2)
            if fault not in mock_odoo.WHOLE:
                odoo.reset()  # or it may hold the connection open
            data, end = drain(connection)
        is_whole = (len(data), end) == (len(whole), "FIN")
        assert is_whole is (fault in mock_odoo.WHOLE)

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

    def test_html_is_200_with_a_page(self, odoo):
        odoo.play("html")
        response = post(odoo)
        assert (response.status, response.headers.get_content_type()) == (200, "text/html")
        assert response.body.startswith(b"<!DOCTYPE html>")
        with pytest.raises(ValueError, match="Expecting value|Unexpected"):
            response.json()
        assert odoo.get_received_heartbeats() == []

    @pytest.mark.parametrize("fault", [
        reset_param("reset"), "close", "truncate", "garbage", "stall",
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

    def test_expired_is_200_with_the_error_of_a_json_route(self, odoo):
        odoo.play("expired")
        response = post(odoo)
        answer = response.json()
        assert (response.status, response.headers["Content-Type"]) == (200, JSON_TYPE)
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", None)
        assert answer["error"]["code"] == 100
        assert answer["error"]["message"] == "Odoo Session Expired"
        assert answer["error"]["data"]["name"] == "odoo.http.SessionExpiredException"
        assert [(call.reply, call.accepted) for call in odoo.get_calls()] == [("expired", False)]
        assert odoo.get_received_heartbeats() == []


class TestLettingGo:
    """A slow reply ends at once on reset, stop and down, and when its client leaves."""

    @pytest.mark.parametrize(("script", "rest"), [
        ("ok@60s", 200), ("503@60s", 503), ("html@60s", 200), ("drip", 200),
        ("stall", "FIN"), ("stall@60s", "FIN"), reset_param("reset@60s", "RST"),
    ])
    @pytest.mark.parametrize(("end", "gets_the_rest", "left"), named({
        "reset": (lambda server, client: server.reset(), True, False),
        "stop": (lambda server, client: server.stop(), False, False),
        "down": (lambda server, client: server.down(), False, False),
        "its client leaves": (lambda server, client: client.close(), False, True),
        "its client closes its half": (
            lambda server, client: client.shutdown(socket.SHUT_WR), True, True),
    }))
    def test_it_ends_at_once(
        self, fresh, new_threads, monkeypatch, script, rest, end, gets_the_rest, left
    ):
        monkeypatch.setattr(mock_odoo, DRIP_INTERVAL, 60.0)
        events = []
        server = fresh(on_event=events.append)
        server.play(script)
        with connect(server, request_bytes()) as client:
            (call,) = server.wait_for_calls(1)
            assert (call.took, call.left) == (None, None)
            end(server, client)
            if client.fileno() >= 0:
                data, how = drain(client)  # which would time out
                assert not gets_the_rest or rest == (only(data).status if data else how)
        until(lambda: call.took is not None)
        server.stop()
        assert (call.left, call.accepted) == (left, script in ("ok@60s", "drip"))
        told = [(each["number"], each["after"], each["sender"])
                for each in events if each["event"] == "left"]
        assert told == ([(1, round(call.took, 3), "KKT-001")] if left else [])
        assert new_threads() == []

    def test_a_call_that_a_reset_overtakes_is_forgotten_and_takes_no_step(self, fresh, held):
        server = fresh(variant(make_success=lambda self, payload: held() or payload))
        with connect(server, request_bytes()) as connection:
            held.wait()
            server.reset()
            server.play("503")
            held.let_go()
            assert only(read_all(connection)).status == 200
        assert (server.get_call_count(), server.script) == (0, "503")

    @pytest.mark.skipif(
        not hasattr(select, "POLLRDHUP"), reason="no POLLRDHUP here: bytes look like leaving"
    )
    def test_a_client_that_sends_more_has_not_left(self, odoo):
        odoo.play("ok@60s")
        with connect(odoo, KEPT) as connection:
            odoo.wait_for_calls(1)
            connection.sendall(request_bytes())
            assert_silent(connection)

    @pytest.mark.parametrize("name", [
        "play", "set_success", "set_failure_count", "set_permanent_failure", "forget",
    ])
    @pytest.mark.parametrize("script", ["ok@60s", "stall"])
    def test_a_new_script_does_not_end_it(self, odoo, monkeypatch, script, name):
        monkeypatch.setattr(mock_odoo, "HUNG_UP", 0)  # so that it looks all the time
        monkeypatch.setattr(mock_odoo, "GLANCE", 0.001)
        odoo.play(script)
        with connect(odoo, request_bytes()) as connection:
            odoo.wait_for_calls(1)
            CALLS[name](odoo)
            assert_silent(connection)

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

    def test_without_poll_it_works_by_select(self, odoo, monkeypatch):
        monkeypatch.setattr(mock_odoo, "make_poll", None)
        monkeypatch.setattr(mock_odoo, "HUNG_UP", 0)
        odoo.play("ok@20ms, stall, stall")
        assert post(odoo).status == 200
        client = in_background(post, odoo)
        odoo.wait_for_calls(2)
        odoo.reset()
        assert isinstance(client.result(), http.client.RemoteDisconnected)


# ------------------------------------------------------------------------------------------
# Listener: every socket and every thread, from start to stop
# ------------------------------------------------------------------------------------------


class TestLifecycle:
    def test_a_new_server_binds_nothing(self):
        assert MockOdooServer(port=0).port == 0
        with MockOdooServer(port=0) as server:
            MockOdooServer(port=server.port)

    def test_a_free_port_is_told_and_kept_over_a_restart(self, odoo):
        port = odoo.port
        assert port > 0
        assert odoo.heartbeat_url == f"http://127.0.0.1:{port}{PATH}"
        odoo.stop()
        odoo.start()
        assert odoo.port == port
        assert post(odoo).status == 200

    @pytest.mark.parametrize("name", ["url", "heartbeat_url"])
    def test_a_free_port_has_no_address_before_it_is_taken(self, name):
        server = MockOdooServer(port=0)
        with pytest.raises(RuntimeError, match="call start\\(\\) before you ask"):
            getattr(server, name)
        assert " stopped, " in repr(server)

    def test_a_busy_port_is_an_oserror_with_a_way_out(self, odoo):
        other = MockOdooServer(port=odoo.port)
        complaint = f"cannot listen on 127.0.0.1, port {odoo.port}: .*; .*port 0"
        with pytest.raises(OSError, match=complaint) as caught:
            other.start()
        assert (caught.value.errno, other.is_running) == (errno.EADDRINUSE, False)
        assert post(odoo).status == 200
        odoo.stop()
        with other:
            assert post(other).status == 200

    @pytest.mark.parametrize(("cause", "remedy"), named({
        "access": (OSError(errno.EACCES, "no"), "no; take a port above 1023"),
        "descriptors": (OSError(errno.EMFILE, "full"), "full$"),
        "a foreign address": (
            OSError(errno.EADDRNOTAVAIL, "no"), "no; host must be an address of this machine"),
        "name": (
            socket.gaierror(socket.EAI_NONAME, "who"), "who; host must be an address of this "),
    }))
    def test_the_way_out_fits_the_error(self, cause, remedy):
        server = MockOdooServer(port=80)
        complaint = f"cannot listen on 127.0.0.1, port 80: {remedy}"
        with failing_sockets("bind", 80, cause), pytest.raises(OSError, match=complaint):
            server.start()
        assert not server.is_running

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

    def test_is_running_is_true_from_start_to_stop(self):
        server = MockOdooServer(port=0)
        states = []
        for method in (
            MockOdooServer.stop, MockOdooServer.start, MockOdooServer.down, MockOdooServer.stop,
            MockOdooServer.stop,
        ):
            method(server)
            states.append(server.is_running)
        assert states == [False, True, True, False, False]
        with pytest.raises(KeyError), server:
            raise KeyError
        assert refused(server)
        assert " stopped, " in repr(server)

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
            {"host": ""}, ValueError, "host must not be empty; '0.0.0.0' listens on every address"),
        "max_calls 0": (
            {"max_calls": 0}, ValueError, "max_calls must be a whole number, 1 or more, not 0"),
        "max_calls as text": ({"max_calls": "9"}, TypeError, "max_calls"),
        "strict 1": ({"strict": 1}, TypeError, "strict must be True or False"),
        "ssl_context as text": (
            {"ssl_context": "cert.pem"}, TypeError, "ssl_context must be an ssl"),
        "control as text": ({"control": "yes"}, TypeError, "control must be True or False"),
        "on_call": ({"on_call": 5}, TypeError, "on_call must be callable, not 5"),
        "on_event": ({"on_event": "print"}, TypeError, "on_event must be callable, not 'print'"),
    }))
    def test_bad_arguments_are_named(self, kwargs, error, complaint):
        with pytest.raises(error, match=re.escape(complaint)):
            MockOdooServer(**kwargs)

    @pytest.mark.parametrize("path", [
        "", "api/receipt", "/a b", "/a?b", "/a#b", "/чек", b"/a", None,
        "/api/devices/<id>/heartbeat", "/api/{id}/heartbeat", "/api/*",
    ])
    def test_an_endpoint_that_nobody_could_reach_is_refused(self, path):
        like = "a path like /api/v2/receipt, without placeholders"
        with pytest.raises(ValueError, match=re.escape(f"endpoint must be {like}, not {path!r}")):
            variant(endpoint=path)()

    @pytest.mark.parametrize("path", ["/", "/health", "/web/login", "/_mock"])
    def test_an_endpoint_may_share_the_path_of_a_page(self, fresh, path):
        server = fresh(variant(endpoint=path), control=True)
        assert post(server).json() == SUCCESS
        assert send(server, "GET", path).status in (200, 302)

    def test_a_default_time_out_of_sockets_does_not_matter(self, fresh):
        socket.setdefaulttimeout(0.02)
        try:
            server = fresh()
            server.play("ok@50ms")
            assert ask(server, request_bytes()).status == 200
        finally:
            socket.setdefaulttimeout(None)


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
    "__del__ with a delayed reply": """
import socket

class Environment:
    def __init__(self):
        self.server = new_server()
        self.server.start()
        self.server.play("stall*")
        self.client = socket.create_connection(("127.0.0.1", self.server.port))
        self.client.sendall(b"POST /api/v1/kkt/heartbeat HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        self.server.wait_for_calls(1)

    def __del__(self, use=use):
        use(self.server)
        self.client.close()

environment = Environment()
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
    def test_finished_connections_leave_no_descriptor_and_few_threads(self, odoo, new_threads):
        before, kept = descriptors(), server_threads_in_memory()
        for _ in range(5):
            odoo.play("ok@60s*")
            clients = [in_background(post, odoo) for _ in range(60)]
            odoo.wait_for_calls(60)
            odoo.reset()
            assert [client.result().status for client in clients] == [200] * 60
        until(lambda: descriptors() <= before and len(new_threads(WORKER)) <= MAX_IDLE_WORKERS)
        odoo.stop()
        assert new_threads() == []
        assert server_threads_in_memory() - kept <= MAX_IDLE_WORKERS + 60  # of 172 that there were

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.ECONNRESET])
    def test_a_client_that_has_left_again_holds_up_no_other(self, odoo, monkeypatch, number):
        monkeypatch.setattr(mock_odoo, REST, 60.0)
        error = OSError(number, os.strerror(number))
        with failing_sockets("_accept", odoo.port, error, times=20) as failures:
            assert post(odoo).status == 200
        assert len(failures) == 20

    def test_a_client_without_an_address_is_served(self, odoo, monkeypatch):
        """macOS gives none for a client that has reset."""
        real = socket.SocketType._accept
        monkeypatch.setattr(
            FakeSocket, "_accept", lambda self: (real(self)[0], None), raising=False)
        assert [post(odoo).status for _ in range(2)] == [200, 200]
        assert [call.client for call in odoo.get_calls()] == [("", 0)] * 2

    def test_nothing_but_close_ends_the_acceptor(self, odoo, caplog):
        with failing_sockets("_accept", odoo.port, TypeError("on purpose"), times=3):
            assert post(odoo).status == 200
        assert [record.getMessage() for record in caplog.records] == [
            "a connection could not be accepted"] * 3

    def test_out_of_descriptors_it_can_be_stopped_at_once(self, odoo, monkeypatch):
        monkeypatch.setattr(mock_odoo, REST, 60.0)
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with failing_sockets("_accept", odoo.port, error) as failures, connect(odoo) as client:
            until(lambda: failures)
            odoo.stop()  # which would tell of a thread that has not ended
            assert drain(client)[0] == b""

    def test_out_of_descriptors_it_waits_and_goes_on(self, odoo):
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with failing_sockets("_accept", odoo.port, error, times=2) as failures:
            assert post(odoo).status == 200
        assert len(failures) == 2

    def test_out_of_threads_it_waits_and_goes_on_and_can_be_steered(self, odoo):
        with contextlib.ExitStack() as stack:
            with out_of_threads():
                connection = stack.enter_context(connect(odoo, request_bytes()))
                assert_silent(connection)
                odoo.play("503")
            assert only(read_all(connection)).status == 503


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
        for child, writing in reversed(children):  # a later one holds the pipes of the earlier
            os.close(writing)
            os.waitpid(child, 0)

    def test_a_child_does_not_hold_the_port(self, odoo, fork):
        fork()
        odoo.down()
        fork()
        odoo.up()
        assert post(odoo).status == 200
        odoo.stop()
        assert refused(odoo)
        odoo.start()
        assert post(odoo).status == 200

    @pytest.mark.parametrize("method", ["stop", "reset", "down", "start", "get_calls", "play"])
    def test_a_child_forked_while_on_call_runs_waits_for_nothing(self, fresh, held, method):
        server = fresh(on_call=held)
        client = in_background(post, server)
        held.wait()
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            began = time.perf_counter()
            with contextlib.suppress(RuntimeError, OSError):  # not running; the port is taken
                getattr(server, method)(*(["503"] if method == "play" else []))
                server.stop()
            os._exit(time.perf_counter() - began > 2)
        assert os.waitpid(child, 0) == (child, 0)
        held.let_go()
        assert client.result().status == 200

    def test_a_child_is_not_told_what_its_parent_has_to_tell(self, fresh, held):
        told = []
        server = fresh(on_event=lambda event: held() or told.append(event["event"]))
        held.wait()
        server.play("503")
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            held.let_go()
            server.reset()
            server.stop()
            os._exit(told != ["reset"])
        assert os.waitpid(child, 0) == (child, 0)

    def test_a_child_forked_in_the_middle_of_a_change_waits_for_nothing(self, changing):
        server, _ = changing
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            server.play("503")
            server.stop()
            os._exit(server.is_running)
        assert os.waitpid(child, 0) == (child, 0)


#: Interrupts one method of the server at a random moment, often.
#: Prints how often it hit, and what was left.
INTERRUPT = """
import random, signal, socket, sys, threading, time
from mock_odoo import MockOdooServer

class Interruption(BaseException):
    pass

def interrupt(*args):
    global armed
    if armed:
        armed = False
        raise Interruption

REQUEST = b"POST /api/v1/kkt/heartbeat HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 0\\r\\n\\r\\n"

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

    def test_a_stop_in_a_signal_handler_ends_whatever_it_interrupts(self, new_threads, on_alarm):
        done = []

        def stop(*args):
            done.append("begun")
            server.stop()
            done.append("ended")

        on_alarm(stop)
        for name in ("get_calls", "get_call_count", "reset", "down", "up") * 10:
            server = MockOdooServer(port=0)
            server.start()
            done.clear()
            signal.setitimer(signal.ITIMER_REAL, 0.003)
            while not done:
                with contextlib.suppress(RuntimeError):  # not running any more
                    getattr(server, name)()
            assert done == ["begun", "ended"]
            server.stop()
            assert refused(server)
            until(lambda: new_threads() == [])

    def test_a_signal_handler_may_interrupt_the_start_of_a_thread(self):
        """It would find this lock taken, and so would whatever thread it waits for."""
        code = """if True:
            import mock_odoo, threading
            with mock_odoo.MockOdooServer(port=0) as odoo, threading._active_limbo_lock:
                odoo.play("503")
                odoo.stop()
        """
        run_python("-c", code).check_returncode()

    def test_a_stop_in_a_signal_handler_may_interrupt_a_wait(self, odoo, on_alarm):
        on_alarm(lambda *args: odoo.stop())
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(TimeoutError):
            odoo.wait_for_calls(1, timeout=0.1)
        assert refused(odoo)


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
if "PYTEST_XDIST_WORKER" in os.environ:
    PATCHED.remove("threading.Event.set")  # the thread that hands tests to this process needs it
PATCHED = [name for name in PATCHED if hasattr(*name_and_module(name))]
LOGGED = ("logging.", "time.", "threading.", "io.", "os.", "sys.", "builtins.")  # what a log needs


class TestPatchedWorld:
    """Tests replace parts of the standard library while the fake runs. It took its own before."""

    @staticmethod
    def use(server, patched):
        """Use a server whose world is patched; what its methods returned, and its answers."""
        old, outcomes = bare_client(server), []
        with contextlib.closing(old), contextlib.ExitStack() as stack, patched:
            outcomes.append(in_background(talk, old).result())
            for call in (
                server.down, server.up, lambda: server.down(0.001), server.reset,
                lambda: server.play("503, ok"), lambda: server.wait_for_calls(0),
                server.stop, server.start,
            ):
                outcomes.append(in_background(call).result(8))
            new = stack.enter_context(contextlib.closing(bare_client(server)))
            outcomes += [in_background(talk, new).result() for _ in range(2)]
            outcomes.append(in_background(server.stop).result(8))
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
            assert in_background(talk, client).result().startswith(b"HTTP/1.1 200")
            assert in_background(fails.stop).result(8) is None
        with pytest.raises(ZeroDivisionError):
            fails.__exit__(None)

    @pytest.mark.parametrize("script", [word for word in mock_odoo.FAULTS if word not in mock_odoo.WHOLE])
    @pytest.mark.parametrize("part", ["socket.socket", "threading.Event", "threading.Thread"])
    def test_a_fault_is_as_real_as_ever(self, odoo, part, script):
        odoo.play(script)
        with contextlib.closing(bare_client(odoo)) as client, mock.patch(part):
            client.sendall(KEPT)
            odoo.wait_for_calls(1)
            odoo.down()
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536):
                    pass


class TestStop:
    """What stop() promises, whatever the rest of the program does."""

    def test_it_cuts_idle_and_half_sent_requests(self, odoo, new_threads):
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(connect(odoo, data))
                for data in (KEPT, request_bytes()[:-10], b"")
            ]
            assert connections[0].recv(65536)
            odoo.stop()
            assert new_threads() == []
            for connection in connections:
                assert drain(connection)[0] == b""
        assert refused(odoo)

    def test_it_cuts_a_client_that_does_not_read(self, odoo, new_threads, wakes_senders):
        odoo.play(Reply(200, b"x" * 50000000))
        with connect(odoo, request_bytes()):
            odoo.wait_for_calls(1)
            odoo.stop()
            assert new_threads() == []

    def test_it_ends_hundreds_of_slow_clients_for_many_threads(self, odoo, new_threads):
        needs_descriptors(900)
        odoo.play("stall*200, ok@60s*")
        with contextlib.ExitStack() as stack:
            for number in range(400):
                data = request_bytes() if number % 4 else request_bytes()[:-1]
                stack.enter_context(connect(odoo, data))
            odoo.wait_for_calls(300, timeout=120)
            stopping = [in_background(odoo.stop) for _ in range(5)]
            assert [thread.result() for thread in stopping] == [None] * 5
            assert new_threads() == []
        assert refused(odoo)

    def test_requests_that_came_before_it_are_not_answered_after_it(self, fresh, held):
        server = fresh(on_call=held)
        with connect(server, KEPT * 5) as client:
            held.wait()
            stopping = in_background(server.stop)
            assert drain(client)[0] == b""  # it is cut while on_call still runs
            held.let_go()
            stopping.result()
        assert server.get_call_count() == 1

    @stop_and_down
    def test_calls_that_are_being_asked_about_are_not_recorded_after_it(self, fresh, held, end):
        server = fresh(variant(make_success=lambda self, payload: held() or payload))
        clients = [in_background(try_post, server) for _ in range(5)]
        held.wait()
        ending = in_background(end, server)
        until(lambda: refused(server))
        held.let_go()
        for each in [ending, *clients]:
            each.result()
        server.stop()  # and all threads have ended
        assert server.get_call_count() == 0

    @pytest.mark.parametrize("name", ["on_call", "make_success", "GET /slow", "on_event"])
    def test_it_names_a_function_that_hangs(self, fresh, monkeypatch, held, name):
        assert getattr(mock_odoo, STOP_PATIENCE) == 5.0
        monkeypatch.setattr(mock_odoo, STOP_PATIENCE, 0.1)
        functions = {name: held} if name.startswith("on_") else {}
        members = {"make_success": held} if name == "make_success" else {}
        server = fresh(variant(**members), **functions)
        server.routes["/slow"] = {"GET": lambda request: held() or Reply()}
        path = {"GET /slow": ("GET", "/slow"), "on_event": ("GET", "/health")}
        client = in_background(send, server, *path.get(name, ("POST", PATH)), BODY, JSON)
        held.wait()
        with pytest.raises(RuntimeError, match=f"{name}.* has not ended in 0 s: a function of you"):
            server.stop()
        assert refused(server)
        held.let_go()
        monkeypatch.undo()
        server.stop()
        client.result()

    def test_it_says_how_much_news_waits_where_nothing_hangs(self, monkeypatch):
        def on_event(event):
            threading.Event().wait(0.03)  # slow, but it gets on

        server = MockOdooServer(port=0, on_event=on_event)
        server.start()
        for _ in range(30):
            server.set_success()
        monkeypatch.setattr(mock_odoo, STOP_PATIENCE, 0.2)
        with pytest.raises(RuntimeError, match=r"^a thread has not ended in 0 s; \d\d news wait"):
            server.stop()
        monkeypatch.undo()
        server.stop()

    @pytest.mark.parametrize("end", named({
        name: CALLS[name] for name in ("stop", "down", "down for no time")}))
    @pytest.mark.parametrize(("where", "method", "path", "status"), named({
        "on_call": ("on_call", "POST", PATH, 200),
        "make_success": ("make_success", "POST", PATH, 200),
        "a route": ("route", "GET", "/route", 200),
    }))
    def test_in_a_function_it_spares_the_client_of_that_function_alone(
        self, fresh, end, where, method, path, status
    ):
        def function(news, *more):
            if getattr(news, "number", 2) == 2:  # no call, or not the bystander's
                end(server)
            return Reply(200, {})

        functions = {where: function} if where.startswith("on_") else {}
        members = {"make_success": function} if where == "make_success" else {}
        server = fresh(variant(**members), **functions)
        server.routes["/route"] = {"GET": function}
        server.play("stall, ok@60s*" if where == "on_call" else "stall")
        with connect(server, request_bytes()) as bystander:
            server.wait_for_calls(1)
            response = send(server, method, path, BODY, JSON)
            assert (response.status, response.headers["Connection"]) == (status, "close")
            assert drain(bystander)[0] == b""

    @pytest.mark.parametrize("name", ["script", "request"])
    def test_in_on_event_it_spares_nobody(self, fresh, name):
        server = fresh(on_event=lambda event: event["event"] == name and server.stop())
        server.routes["/x"] = {"GET": lambda request: Reply(200)}
        with connect(server, request_bytes(b"", method="GET", path="/x", close=False)) as client:
            if name == "script":
                client.recv(65536)
                server.play("ok")
            drain(client)  # to its end, which would not come

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


class TestOutage:
    def test_down_refuses_and_cuts_and_up_ends_it(self, odoo):
        with connect(odoo, KEPT) as idle:
            assert idle.recv(65536)
            odoo.down()
            assert drain(idle)[0] == b""
        assert refused(odoo)
        assert " down, " in repr(odoo)
        odoo.up()
        assert post(odoo).status == 200
        assert odoo.get_call_count() == 2

    def test_the_port_stays_reserved(self, odoo):
        odoo.down()
        for reuse in (0, 1):
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                with pytest.raises(OSError):  # which one is the system's business
                    thief.bind(("127.0.0.1", odoo.port))
        with pytest.raises(OSError, match="cannot listen"):
            MockOdooServer(port=odoo.port).start()
        odoo.up()
        assert post(odoo).status == 200

    @pytest.mark.parametrize(("begin", "end", "told"), named({
        "up()": ([None], MockOdooServer.up, ["start", "down", "up"]),
        "up(), once more": ([60, None], lambda server: server.up() or server.up(), [
            "start", "down", "down", "up"]),
        "the time": ([60, 0.05], lambda server: None, ["start", "down", "down", "up"]),
        "no time at all": ([60, 0], lambda server: None, ["start", "down", "down", "up"]),
        "reset()": ([None], MockOdooServer.reset, ["reset", "up"]),
    }))
    def test_the_last_down_decides_and_the_end_is_told_whatever_it_is(self, odoo, begin, end, told):
        for seconds in begin:
            odoo.down(seconds)
        assert seconds in (0, 0.05) or refused(odoo)
        end(odoo)
        until(lambda: not refused(odoo))
        assert post(odoo).status == 200
        assert [event["event"] for event in odoo.get_events()] == told

    @pytest.mark.parametrize("seconds", [None, 60])
    def test_a_start_during_it_is_refused_and_stop_works(self, odoo, new_threads, seconds):
        odoo.down(seconds)
        complaint = f"already running at {odoo.url}; call stop() first"
        with pytest.raises(RuntimeError, match=re.escape(complaint)):
            odoo.start()
        odoo.stop()
        assert (new_threads(), odoo.is_running) == ([], False)
        odoo.start()
        assert post(odoo).status == 200

    def test_the_script_goes_on_after_it(self, odoo):
        odoo.play("503*2, 429")
        assert post(odoo).status == 503
        odoo.down()
        odoo.up()
        assert [post(odoo).status for _ in range(3)] == [503, 429, 200]

    @pytest.mark.parametrize("call", [MockOdooServer.down, MockOdooServer.up])
    def test_a_stopped_server_has_none(self, call):
        with pytest.raises(RuntimeError, match=r"not running; call start\(\) first"):
            call(MockOdooServer(port=0))

    @pytest.mark.parametrize(("seconds", "error"), [
        (-1, ValueError), ("5", TypeError), (float("inf"), ValueError),
    ])
    def test_a_bad_time_is_named_and_changes_nothing(self, odoo, seconds, error):
        with pytest.raises(error, match="seconds must be"):
            odoo.down(seconds)
        assert post(odoo).status == 200

    def test_a_port_that_the_system_frees_slowly_is_waited_for(self, fresh):
        server = fresh()
        for again in (server.down, server.up, lambda: (server.stop(), server.start())):
            taken = OSError(errno.EADDRINUSE, "taken")
            method = "listen" if again == server.up else "bind"
            with failing_sockets(method, server.port, taken, times=3) as failures:
                again()
            assert failures == [taken] * 3
        assert post(server).status == 200

    def test_a_port_that_is_lost_meanwhile_is_logged(self, fresh, caplog):
        server = fresh()
        taken = OSError(errno.EADDRINUSE, "taken")
        with failing_sockets("listen", server.port, taken) as failures:
            server.down(seconds=0.05)
            until(lambda: f"cannot listen on port {server.port} again" in caplog.text)
        assert set(failures) == {taken}
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
        assert set(socket_options) == {(socket.SOL_SOCKET, EXCLUSIVE, 1)}

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

    def test_a_client_that_does_not_trust_it_is_told_and_not_logged(self, secure, accepts, caplog):
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
        "reset": ("reset", (ConnectionResetError, http.client.RemoteDisconnected, ssl.SSLError)),
        "close": ("close", (http.client.RemoteDisconnected, ssl.SSLError)),
        "truncate": ("truncate", (http.client.IncompleteRead, ssl.SSLError)),
        "garbage": ("garbage", http.client.BadStatusLine),
    }))
    def test_a_fault_is_as_real_as_without_tls(self, secure, trusting, accepts, fault, errors):
        secure.play(fault)
        with pytest.raises(errors):
            post(secure, context=trusting)
        assert accepts()

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


class TestLoad:
    def test_call_n_got_reply_n(self, odoo):
        odoo.play("200, 429, 500, 503", loop=True)
        clients = [in_background(post, odoo, {"n": n}) for n in range(40)]
        statuses = [thread.result().status for thread in clients]
        calls = {call.payload["n"]: call for call in odoo.get_calls()}
        for n, status in enumerate(statuses):
            reply = ["503", "ok", "429", "500"][calls[n].number % 4]
            assert calls[n].reply == reply
            assert status == (200 if reply == "ok" else int(reply))

    def test_a_thousand_clients_come_in_the_same_instant(self, odoo):
        needs_descriptors(2100)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(1000)]
            for client in clients:
                client.settimeout(PATIENCE)
            for client in clients:
                client.connect(("127.0.0.1", odoo.port))
            for client in clients:
                client.sendall(request_bytes())
            assert [only(read_all(client)).status for client in clients] == [200] * 1000
        assert odoo.get_call_count() == len(odoo.get_received_heartbeats()) == 1000

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

    @pytest.mark.parametrize(("max_calls", "limit"), [(None, 1500), (10, 25)])
    def test_a_hundred_thousand_calls_fit_into_memory(self, fresh, monkeypatch, max_calls, limit):
        tracemalloc = pytest.importorskip("tracemalloc")
        monkeypatch.setattr(mock_odoo, "PIECE", 1000)  # what waits in recv() may count, or not
        server = fresh(max_calls=max_calls, control=True)

        def post_many(times):
            for n in range(times):
                if n % 10 == 0 and max_calls:  # the page asks, too
                    control(server, "GET", "state")
                connection.sendall(request_bytes(b'{"n": %d}' % (n % 2 * n), close=False))
                while not connection.recv(65536).endswith(b"}"):
                    pass
            gc.collect()

        with connect(server) as connection:
            tracemalloc.start()
            try:
                post_many(200)
                size = -tracemalloc.get_traced_memory()[0]
                post_many(1000)
                size += tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
        assert size / 1000 < limit  # bytes for each: 150 MB, or next to nothing with max_calls


# ------------------------------------------------------------------------------------------
# Control: steers the fake from another process or language
# ------------------------------------------------------------------------------------------

#: The routes that change it, with a body that each of them takes.
CHANGES = [
    ("PUT", "script", {"script": ""}), ("POST", "down", {"seconds": 60}),
    ("POST", "reset", None), ("DELETE", "calls", None),
]
changes = pytest.mark.parametrize(
    ("method", "path", "body"), CHANGES, ids=[path for _, path, _ in CHANGES])
ELSEWHERE = {"Host": "pos.example"}


class TestControl:
    def test_the_state_tells_all_there_is_to_know(self, steered):
        status, state = control(steered, "GET", "state")
        assert (status, state["last_heartbeat"], state["senders"]) == (200, None, [])
        steered.play("503, ok, 429*2", loop=True)
        post(steered, {"n": 1})
        post(steered, {"n": 2})
        send(steered, "GET", "/nowhere")
        state = control(steered, "GET", "state")[1]
        (sender,) = state.pop("senders")
        assert 0 <= time.time() - state.pop("at") < PATIENCE
        assert (sender["sender"], sender["calls"], sender["accepted"]) == ("127.0.0.1", 2, 1)
        assert state == {
            "service": "Odoo",
            "noun": "heartbeat",
            "version": mock_odoo.__version__,
            "heartbeat_url": steered.heartbeat_url,
            "script": "429*2, 503, ok",
            "loop": True,
            "every": None,
            "call_count": 2,
            "heartbeat_count": 1,
            "last_heartbeat": {"n": 2},
            "unmatched": ["404 GET /nowhere"],
        }

    def test_calls_come_with_all_their_fields_and_what_the_server_says_of_them(self, steered):
        steered.play("ok@1ms")
        exchange(steered, request_bytes(BODY, "X-Part: 1", "x-part: 2"))
        send(steered, "POST", PATH, "{", JSON)
        first, second = control(steered, "GET", "calls")[1]["calls"]
        call = steered.get_calls()[0]
        told = {"label": "ok@1ms", "sender": "KKT-001", "text": steered.describe_call(call)}
        assert first == {**json.loads(call.to_json()), **told}
        assert (first["number"], first["reply"], first["payload"]) == (1, "ok", HEARTBEAT)
        assert (first["received_at"], first["client"]) == (call.received_at, list(call.client))
        assert (first["delay"], first["problem"], first["accepted"]) == (0.001, None, True)
        assert first["headers"]["X-Part"] == "1, 2"
        assert (second["reply"], second["payload"], second["body"]) == ("400", None, "{")
        assert second["problem"].startswith("the body is not JSON: ")
        assert second["sender"] == "127.0.0.1"

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
        fields = {"status": 429, "body": {"error": "slow"}, "headers": {"Retry-After": "5"}}
        body = {"script": [fields, "503*2"], "loop": True}
        assert control(steered, "PUT", "script", body)[1]["script"] == "429, 503*2"
        response = post(steered)
        assert (response.status, response.headers["Retry-After"]) == (429, "5")
        assert response.json() == {"error": "slow"}

    @pytest.mark.parametrize(("method", "path", "script"), [
        ("POST", "reset", ""), ("DELETE", "calls", "503*2"),
    ])
    def test_everything_can_be_forgotten_or_the_calls_alone(self, steered, method, path, script):
        steered.play("503*3")
        post(steered)
        status, state = control(steered, method, path)
        assert (status, state["call_count"], state["senders"]) == (200, 0, [])
        assert (state["script"], steered.get_calls()) == (script, [])

    def test_an_outage_begins_when_it_was_answered_and_ends_in_time(self, steered, new_threads):
        with connect(steered) as idle:
            status, state = control(steered, "POST", "down", {"seconds": 60})
            assert (status, state["call_count"]) == (200, 0)
            assert refused(steered)
            assert drain(idle)[0] == b""
        steered.up()
        for _ in range(20):
            assert control(steered, "POST", "down", {"seconds": 0.001})[0] == 200
            until(lambda: not refused(steered))
        assert post(steered).status == 200
        steered.stop()
        assert new_threads() == []

    def test_an_outage_of_a_server_that_was_just_stopped_is_409(self, fresh):
        down = lambda server, seconds: server.stop() or MockOdooServer.down(server, seconds)
        server = fresh(variant(down=down), control=True)
        status, answer = control(server, "POST", "down", {"seconds": 5})
        assert (status, answer) == (409, {"error": "not running; call start() first"})

    @pytest.mark.parametrize(("query", "enough"), named({
        "calls": ("calls=2", 2),
        "heartbeats": ("heartbeats=1", 2),
        "the calls of one sender": ("calls=2&sender=KKT-001", 3),
        "its heartbeats": ("heartbeats=2&sender=KKT-001", 4),
    }))
    def test_a_wait_ends_when_there_are_so_many(self, steered, query, enough):
        steered.play("503")
        waiting = in_background(control, steered, "GET", f"wait?{query}&timeout=60")
        for name in ("KKT-001", "KKT-002", "KKT-001", "KKT-001")[:enough]:
            assert waiting.is_alive()
            post(steered, dict(HEARTBEAT, adapter_id=name))
        status, state = waiting.result()
        assert (status, state["call_count"]) == (200, enough)

    @pytest.mark.parametrize("what", ["calls", "heartbeats"])
    def test_a_wait_for_more_counts_what_comes_after_it_also_after_a_reset(self, fresh, what):
        known = threading.Event()

        def get_calls(self):
            try:
                return MockOdooServer.get_calls(self)
            finally:
                known.set()

        server = fresh(variant(get_calls=get_calls), control=True)
        post(server)
        assert control(server, "GET", f"wait?{what}=1&more=1&timeout=0.01")[0] == 408
        for change in (lambda: None, server.reset):
            known.clear()
            waiting = in_background(control, server, "GET", f"wait?{what}=1&more=1&timeout=60")
            assert known.wait(PATIENCE)
            change()
            assert waiting.is_alive()
            post(server)
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


class TestControlSenders:
    """The state tells who sends, and how often."""

    def test_they_stand_in_the_order_of_their_first_calls(self, fresh):
        asked = []
        sender = lambda server, call: asked.append(call.number) or call.payload["adapter_id"]
        server = fresh(variant(sender=sender), control=True)
        for name in ("KKT-002", "KKT-001", "KKT-002"):
            post(server, dict(HEARTBEAT, adapter_id=name))
            senders = control(server, "GET", "state")[1]["senders"]
        assert [(each["sender"], each["calls"]) for each in senders] == [
            ("KKT-002", 2), ("KKT-001", 1)]
        assert asked == [1, 2, 3]  # each once

    @pytest.mark.parametrize(("times", "interval"), named({
        "one call": ([0], None),
        "two calls": ([0, 30], 30),
        "a missed beat": ([0, 30, 60, 120], 30),
        "an even number of gaps": ([0, 10, 40], 20),
    }))
    def test_the_interval_is_the_median_gap(self, steered, times, interval):
        start = time.time() - 1000
        for seconds in times:
            post(steered)
            steered.get_calls()[-1].received_at = start + seconds
        (sender,) = control(steered, "GET", "state")[1]["senders"]
        assert sender["interval"] == (interval and pytest.approx(interval))
        assert sender["last_at"] == start + times[-1]

    def test_a_subclass_whose_words_fail_breaks_nothing(self):
        def fail(server, call):
            pytest.fail("a bug")

        cls = variant(sender=fail, describe_call=fail)
        with failing(pytest.fail.Exception, "a bug", cls, control=True) as server:
            self.use_words(server)

    @staticmethod
    def use_words(server):
        post(server)
        (sender,) = control(server, "GET", "state")[1]["senders"]
        (call,) = control(server, "GET", "calls")[1]["calls"]
        assert (sender["sender"], sender["calls"]) == ("?", 1)
        assert (call["sender"], call["text"], call["payload"]) == ("?", "?", HEARTBEAT)
        assert control(server, "GET", "wait?sender=KKT-001&timeout=0.01")[0] == 408


class TestControlMisuse:
    @pytest.mark.parametrize(("request_", "body", "error"), named({
        "bad step": ("PUT script", {"script": "50x"}, "step '50x': '50x' is no reply"),
        "script as number": ("PUT script", {"script": 503}, "a script must be text, a Reply"),
        "script as null": ("PUT script", {"script": None}, '"script" is missing; send {"script":'),
        "no script": (
            "PUT script", {}, '"script" is missing; send {"script": "503*3"}, for example'),
        "half a script": ("PUT script", "{", "the body is not JSON: "),
        "loop as text": ("PUT script", {"script": "ok", "loop": "yes"}, "loop must be True or "),
        "loop in the query": (
            "PUT script?loop=true", {"script": "503"}, "loop must be True or False, not 'true'"),
        "Loop": (
            "PUT script", {"script": "503", "Loop": True},
            "'Loop' means nothing here; /_mock/script takes script, loop"),
        "negative time": ("POST down", {"seconds": -1}, "seconds must be from 0 to 86400 seconds"),
        "time as text": ("POST down", {"seconds": "5"}, "seconds must be a number of seconds, "),
        "no end": ("POST down", {}, '"seconds" is missing; send {"seconds": 5}, for example'),
        "null as the end": ("POST down", {"seconds": None}, '"seconds" is missing; send {"secon'),
        "second": (
            "POST down", {"second": 5}, "'second' means nothing here; /_mock/down takes seconds"),
        "reset": (
            "POST reset", {"calls": 1}, "'calls' means nothing here; /_mock/reset takes nothing"),
        "reset in the query": (
            "POST reset?calls=1", None, "'calls' means nothing here; /_mock/reset takes nothing"),
        "calls in letters": ("GET wait?calls=two", None, "calls must be a whole number like 5, "),
        "negative calls": ("GET wait?calls=-1", None, "calls must be a whole number like 5, not"),
        "half a call": ("GET wait?calls=0.5", None, "calls must be a whole number like 5, not"),
        "since half": ("GET calls?since=1.5", None, "since must be a whole number like 5, not"),
        "long timeout": (
            "GET wait?timeout=61", None, "timeout must be from 0 to 60 seconds, not 61"),
        "misspelt calls": (
            "GET wait?cals=1", None,
            "'cals' means nothing here; /_mock/wait takes calls, heartbeats, timeout"),
        "state of calls": ("GET state?calls=1", None, "'calls' means nothing here; /_mock/state "),
        "both": ("GET wait?calls=1&heartbeats=1", None, "wait for calls or for heartbeats, not "),
        "more in words": ("GET wait?more=yes", None, "more must be 0 or 1, not 'yes'"),
        "NaN": ("GET wait?timeout=nan", None, "timeout must be seconds like 5 or 0.5, not 'nan'"),
        "since nothing": ("GET calls?since=", None, "since must be a whole number like 5, not ''"),
        "since 5000 digits": ("GET calls?since=" + "9" * 5000, None, "since must be a whole "),
    }))
    def test_what_cannot_be_used_is_400_and_changes_nothing(self, steered, request_, body, error):
        steered.play("ok, 503*7")
        post(steered)
        method, path = request_.split()
        content = body if isinstance(body, str) else None if body is None else json.dumps(body)
        headers = {} if method == "GET" else JSON
        response = send(steered, method, "/_mock/" + path, content, headers)
        assert response.status == 400
        assert error in response.json()["error"]
        assert len(response.body) < 300
        assert (steered.script, steered.get_call_count()) == ("503*7", 1)
        assert not refused(steered)


@pytest.fixture(scope="class")
def guarded():
    """A fake with a token."""
    process = Process("--token", "sesam")
    yield process
    process.process.kill()
    process.process.communicate()


class TestControlAccess:
    """It is for clients on this machine, and for those that send the token."""

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8069", "127.1.2.3", "[::1]:8069"]
    )
    def test_a_client_may_address_it_by_a_loopback_name(self, steered, host):
        assert control(steered, "GET", "state", Host=host)[0] == 200

    @pytest.mark.parametrize("path", ["", "state", "calls", "wait"])
    @pytest.mark.parametrize("host", [
        "evil.example", "evil.example:8069", "localhost.evil.example", "127.0.0.1.evil.example",
        "evil-localhost", "192.168.0.1", "", "localhost:8069@evil.example", "0.0.0.0",
    ])
    def test_a_client_may_not_address_it_by_another_name(self, steered, host, path):
        status, answer = control(steered, "GET", path, Host=host)
        assert status == 403
        assert f"Host {host}" in answer["error"]

    @changes
    @pytest.mark.parametrize(("headers", "status"), named({
        "another name": ({"Host": "evil.example"}, 403),
        "text": ({"Content-Type": "text/plain"}, 415),
        "form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        "multipart": ({"Content-Type": "multipart/form-data"}, 415),
    }))
    def test_what_a_foreign_page_can_send_changes_nothing(
        self, steered, method, path, body, headers, status
    ):
        steered.play("ok, 503*7")
        post(steered)
        assert control(steered, method, path, body, **headers)[0] == status
        assert (steered.script, steered.get_call_count()) == ("503*7", 1)
        assert not refused(steered)

    @changes
    def test_a_bare_change_is_told_why_it_needs_a_content_type(self, steered, method, path, body):
        response = send(steered, method, "/_mock/" + path)
        assert (response.status, response.json()) == (415, {
            "error": "a change must have Content-Type: application/json, also without a body, "
            "so that no foreign web page can make one; it is missing"
        })

    def test_no_preflight_is_granted(self, steered):
        response = send(steered, "OPTIONS", "/_mock/script", None, {
            "Origin": "http://evil.example",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        })
        assert response.status == 405
        assert not re.search("(?im)^access-control", str(response.headers))

    @pytest.mark.parametrize(("given", "status"), [
        ("Bearer sesam", 200), ("bearer  sesam ", 200), ("Bearer", 403), ("Bearer ", 403),
        ("Bearer sesa", 403), ("Bearer sesam!", 403), ("Basic sesam", 403), ("sesam", 403),
        ("Bearer \xfc", 403),
    ])
    def test_the_token_opens_it_to_others(self, guarded, given, status):
        answer = control(guarded, "GET", "state", **ELSEWHERE, Authorization=given)
        assert answer[0] == status
        assert status == 200 or "right token" in answer[1]["error"]
        assert control(guarded, "GET", "state")[0] == 200

    def test_where_there_is_a_token_the_page_is_for_everybody_and_its_data_are_not(self, guarded):
        page = send(guarded, "GET", "/_mock/", None, ELSEWHERE)
        assert (page.status, page.body[:15]) == (200, b"<!DOCTYPE html>")
        assert b"sesam" not in page.body
        for path in ("/", "/_mock"):
            assert send(guarded, "GET", path, None, ELSEWHERE).headers["Location"] == "/_mock/"
        for path in ("state", "calls", "events", "wait"):
            assert control(guarded, "GET", path, **ELSEWHERE)[0] == 403
        for method, path, _ in CHANGES:
            assert control(guarded, method, path, **ELSEWHERE)[0] == 403

    @pytest.mark.parametrize("given", ["Bearer ", "Bearer None"])
    def test_no_token_opens_it_where_none_is_set(self, steered, given):
        status, answer = control(steered, "GET", "state", **ELSEWHERE, Authorization=given)
        assert status == 403
        assert "--token" in answer["error"]

    @pytest.mark.parametrize("token", named({
        "empty": "", "a blank": " ", "a blank within": "a b", "Cyrillic": "п",
        "not UTF-8": "\udcff", "a line break": "a\n",
    }))
    def test_a_token_that_could_never_match_is_refused(self, token, capsys):
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main(["--port", "0", "--token", token])
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (2, "")
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


RECEIPTS = block("class MockOfdServer(")  # the command line of another service


class TestCommandLine:
    @pytest.mark.parametrize(("host", "told"), [
        ("127.0.0.1", ""), ("0.0.0.0", " - reachable from the network"),
    ])
    def test_the_first_line_stands_when_clients_can_connect(self, launch, host, told):
        process = launch("--host", host)
        url = f"http://127.0.0.1:{process.port}"
        where = f"{url} - POST {PATH} - page at /_mock/{told}"
        assert process.first == f"Mock Odoo on {where} - Ctrl+C stops\n"
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

    @pytest.mark.parametrize(("args", "complaint"), named({
        "port 70000": (
            ["--port", "70000"], ": port must be a whole number from 0 to 65535, not 70000"),
        "port in letters": (["--port", "http"], "argument --port: invalid int value: 'http'"),
        "foreign host": (
            ["--port", "0", "--host", "192.0.2.1"], "; host must be an address of this machine"),
        "bad step": (["--script", "50x"], "step '50x': '50x' is no reply"),
        "line break": (["--script", "a\nb"], "step 'a\\nb': 'a\\nb' is no reply"),
        "no calls": (
            ["--max-calls", "0"], ": max_calls must be a whole number, 1 or more, not 0"),
        "no folder": (["--journal", "/no/such/folder/x"], "cannot open /no/such/folder/x: "),
        "no journal": (["--journal", ""], "cannot open : No such file or directory"),
        "no certificate": (["--certfile", "/no/such/file"], "cannot open /no/such/file: No such "),
        "not a certificate": (
            ["--certfile", "setup.cfg"],
            "PEM is needed, with the key in the same file or in --keyfile"),
        "no key": (
            ["--certfile", "setup.cfg", "--keyfile", "/no/such/key"],
            "cannot open /no/such/key: No such file or directory"),
        "no client certificates": (
            ["--certfile", "CERTIFICATE", "--cafile", "/no/such/file"],
            "cannot open /no/such/file: No such file or directory"),
        "client certificates alone": (["--cafile", "CERTIFICATE"], "--cafile goes with --certfile"),
        "loop": (["--loop"], "--loop goes with --script"),
        "loop and blanks": (["--loop", "--script", " "], "--loop goes with --script"),
        "empty host": (["--host", ""], ": host must not be empty"),
        "key alone": (["--keyfile", "setup.cfg"], "--keyfile goes with --certfile"),
        "empty token": (
            ["--token", ""], "the token must be printable ASCII without blanks, and not empty"),
        "unknown flag": (["--xyz"], "unrecognized arguments: --xyz\n"),
        "slip in a flag": (["--prot", "1"], "unrecognized arguments: --prot 1"),
        "bare port": (["8069"], "unrecognized arguments: 8069\n"),
        "bare word": (["nonsense"], "unrecognized arguments: nonsense\n"),
        "capitals": (["--script", "OK"], "'OK' is no reply (did you mean 'ok'?)"),
        "step that never comes": (["--script", "stall*, ok"], "step 'ok' can never come"),
        "outage": (["--script", "down"], "an outage is no reply"),
        "journal nowhere": (["--journal", "-"], "for JSON on standard output, use --json"),
        "nothing to read": (["--read", "/no/such/file"], "cannot open /no/such/file: No such "),
    }))
    def test_misuse_is_one_line_and_exit_2(self, args, complaint, certificate, capsys, monkeypatch):
        monkeypatch.chdir(HERE)
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main([certificate if arg == "CERTIFICATE" else arg for arg in args])
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("mock_odoo: ")
        assert complaint in err

    def test_it_can_demand_certificates_and_a_key_may_have_a_file_of_its_own(
        self, launch, certificate, tmp_path
    ):
        key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
        text, end, rest = CERTIFICATE.partition("-----END PRIVATE KEY-----\n")
        key.write_text(text + end)
        chain.write_text(rest)
        flags = ("--certfile", str(chain), "--keyfile", str(key), "--cafile", certificate)
        process = launch(*flags)
        context = ssl.create_default_context(cafile=certificate)
        with pytest.raises(FAILED):
            post(process, context=context)
        assert "TLS       handshake failed" in process.line()
        context.load_cert_chain(certificate)
        assert post(process, context=context).status == 200

    def test_a_taken_port_is_one_line_and_exit_2_and_leaves_no_thread(
        self, odoo, new_threads, capsys
    ):
        with pytest.raises(SystemExit) as caught:
            mock_odoo.main(["--port", str(odoo.port)])
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
        assert f"cannot listen on 127.0.0.1, port {odoo.port}: " in err
        assert err.endswith("; stop what listens there, or take port 0, a free one\n")
        odoo.stop()
        until(lambda: new_threads() == [])  # one may be about to end

    def test_it_tells_its_version(self):
        assert run_main("--version") == (0, f"mock_odoo {mock_odoo.__version__}\n", "")

    @pytest.mark.parametrize("flags", [[], ["-I"]], ids=["plain", "isolated"])
    def test_it_runs_as_a_file_too(self, launch, flags):
        assert post(launch(command=[*flags, "mock_odoo.py"])).status == 200

    def test_help_tells_the_flags_the_grammar_and_examples(self):
        code, out, err = run_main("--help")
        assert (code, err) == (0, "")
        flags = (
            "host", "port", "script", "loop", "strict", "journal", "json", "token", "certfile",
            "keyfile", "cafile", "max-calls", "quiet", "read", "version",
        )
        for word in (
            *[f"--{flag}" for flag in flags], *mock_odoo.FAULTS, *mock_odoo.WORDS, "examples:",
            "503*3, reset, ok@6s", "/_mock/",
        ):
            assert word in out
        epilog = out[out.index("examples:"):]
        assert max(map(len, epilog.splitlines())) <= 80

    def test_another_service_speaks_of_itself_alone(self):
        done = run_python("-c", RECEIPTS, "--help")
        assert "A fake OFD that answers receipts as you tell it." in done.stdout
        assert not re.search("odoo|beat", done.stdout, re.IGNORECASE)
        done = run_python("-c", RECEIPTS, "--port", "x")
        assert done.stderr == "mock_ofd: argument --port: invalid int value: 'x'\n"

    def test_ten_thousand_calls_are_kept_unless_told(self):
        parser = mock_odoo.make_parser(MockOdooServer)
        assert parser.parse_args([]).max_calls == 10000


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

    def test_each_may_be_a_line_of_json_in_utf_8_and_the_counts_begin_anew_at_a_reset(self, launch):
        process = launch("--json", "--script", "503", PYTHONIOENCODING="ascii")
        assert json.loads(process.first) == {"listening": f"http://127.0.0.1:{process.port}"}
        post(process, {"adapter_id": "Касса"})
        send(process, "GET", "/nowhere")
        control(process, "POST", "reset")
        post(process)
        reading = process.process.stdout.buffer
        text, *more = [in_background(reading.readline).result().decode("utf-8") for _ in range(4)]
        assert '"adapter_id": "Касса"' in text
        call, unmatched, reset, again = map(json.loads, [text, *more])
        assert (call["number"], call["reply"], call["accepted"]) == (1, "503", False)
        assert (unmatched["event"], unmatched["unmatched"]) == ("unmatched", "404 GET /nowhere")
        assert (reset["event"], sorted(reset)) == ("reset", ["at", "event", "time"])
        assert (again["number"], again["payload"]) == (1, HEARTBEAT)
        assert json.loads(process.end()[1]) == {
            "heartbeat_count": 1, "call_count": 1, "refused_count": 0, "spoilt_count": 0,
            "left_count": 0,
        }

    def test_the_summary_tells_refused_spoilt_and_left_apart(self, launch):
        process = launch("--script", "503*2, reset, html, stall, ok")
        for _ in range(4):
            try_post(process)
        connect(process, KEPT).close()
        until(lambda: "left" in process.line())
        post(process)
        summary = "1 heartbeat received, 2 of 6 calls refused, 3 spoilt, 1 client left"
        assert process.end()[1].splitlines()[-1] == summary

    @needs_terminal
    @pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
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
        "then the text": (
            80, "503*2, reset", dict(HEARTBEAT, adapter_id="KKT-001, by the window"),
            "503       KKT-001, by the window  buffer 5/200 (2.5%)     breaker ..."),
        "the reason last": (
            80, "ok, 503", [1] * 30,
            "400       [1, 1, 1,...  the body must be a JSON object, not [1, 1,..."),
    }))
    def test_a_line_fits_its_terminal(self, columns, script, payload, line):
        with terminal(columns, "--script", script) as (process, screen):
            post(process, payload)
            assert screen.readline()[10:] == line + "\n"

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def read_journal(path, after=0):
    """The lines of a journal, but for the first so many."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()[after:]]


class TestJournal:
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

    def test_a_call_stands_there_with_its_sender_and_its_letters(self, launch, path):
        code = """if True:
            import sys, mock_odoo
            mock_odoo.MockOdooServer.sender = lambda self, call: call.payload["who"]
            mock_odoo.main(sys.argv[1:])
        """
        process = launch("--journal", str(path), "--quiet", command=["-c", code])
        post(process, {"who": "Анна", "note": "\ud800 \x9b \u2028"})
        post(process, {})  # whose sender cannot be told
        assert '"note": "\\ud800 \\u009b \\u2028"' in path.read_text("utf-8")
        assert '"who": "Анна"' in path.read_text("utf-8")
        told = [(line.get("sender"), line.get("payload")) for line in read_journal(path)[1:]]
        assert told == [("Анна", {"who": "Анна", "note": "\ud800 \x9b \u2028"}), ("?", {})]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_it_must_be_a_file(self, path, capsys):
        os.mkfifo(str(path))
        with pytest.raises(SystemExit):
            mock_odoo.main(["--port", "0", "--journal", str(path)])
        assert capsys.readouterr().err == f"mock_odoo: {path} is no file; a journal must be one\n"

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
    outcome = "accepted" if reply == "ok" else "refused" if reply.isdigit() else "spoilt"
    return {
        "number": number, "reply": reply, "label": reply, "outcome": outcome, "problem": None,
        "repeats": None, "time": written(at), "sender": name, "text": "", "script": "", **more,
    }


def event_at(at, name, **more):
    return {"event": name, "at": at, "time": written(at), **more}


def written(at):
    """A second of a day, as that of an end in Moscow."""
    return f"2026-11-25T{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.000+03:00"


START = {"url": "http://127.0.0.1:8069"}


class TestReadJournal:
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

    @pytest.mark.parametrize(("event", "fields", "line"), named({
        "script": ("script", {"script": "503*2", "loop": False}, "script    503*2"),
        "loop": ("script", {"script": "503*2", "loop": True}, "script    503*2 in a loop"),
        "no script": ("script", {"script": "", "loop": False}, "script    ok*"),
        "outage": ("down", {"seconds": 5.0}, "down      for 5.0 s"),
        "up": ("up", {}, "up"),
        "reset": ("reset", {}, "reset"),
        "left": (
            "left", {"number": 5, "after": 2.0031, "sender": "A"},
            "left      call 5 of A, after 2.003 s"),
        "route": ("request", {"request": "200 POST /sign"}, "request   200 POST /sign"),
        "unmatched": ("unmatched", {"unmatched": "404 GET /x"}, "404       GET /x"),
        "one of tomorrow": ("novelty", {}, "novelty"),
    }))
    def test_each_event_is_a_line_of_its_own(self, read, event, fields, line):
        assert read(event_at(7, event, **fields))[1] == "00:00:07  " + line

    def test_each_sender_has_a_line_with_what_became_of_its_calls(self, read):
        lines = read(
            call_at(0, "A", number=1), call_at(0, "KKT-2", "503", number=2),
            call_at(0, "A", "reset"), call_at(0, "A", "400"), call_at(0, "A", "html"),
            call_at(0, "A", "201", outcome="accepted"),
            event_at(1, "left", number=2, after=1.0, sender="KKT-2"), flags=["--quiet"],
        )
        assert [line.partition(";")[0] for line in lines] == [
            "A      5 calls, 2 accepted, 1 refused, 2 spoilt, 0 clients left",
            "KKT-2  1 call, 0 accepted, 1 refused, 0 spoilt, 1 client left",
        ]

    @pytest.mark.parametrize(("times", "silence", "interval"), named({
        "a gap": ((0, 30, 59, 90, 151, 180), "61.0 s, from 2026-11-25 00:01:30", "30.0 s"),
        "an even number of gaps": ((0, 1, 4), "3.0 s, from 2026-11-25 00:00:01", "2.0 s"),
        "a clock set back": ((1000, 1002, 10, 14), "4.0 s, from 2026-11-25 00:00:10", "3.0 s"),
    }))
    def test_the_longest_silence_and_the_usual_interval_are_told(
        self, read, times, silence, interval
    ):
        (line,) = read(*map(call_at, times), flags=["--quiet"])
        assert line.split("; ")[1:] == [f"longest silence {silence}", f"usually every {interval}"]

    @pytest.mark.parametrize("end", [
        event_at(100, "stop"), call_at(100, "another"), event_at(100, "reset"),
    ], ids=["until the stop", "until the last call", "until the last event"])
    def test_a_sender_that_is_not_heard_again_is_silent_to_the_end(self, read, end):
        line = read(call_at(7), call_at(17), end, flags=["--quiet"])[0]
        assert "; longest silence 83.0 s, from 2026-11-25 00:00:17; usually every 10.0 s" in line

    @pytest.mark.parametrize("end", [[event_at(12, "stop")], []], ids=["stopped", "killed"])
    def test_what_lies_between_two_runs_is_no_silence(self, read, end):
        script = event_at(3000, "script", script="503", loop=False)
        lines = read(
            event_at(0, "start", **START), call_at(0), call_at(10), *end,
            script, event_at(3000, "start", **START), call_at(3001), call_at(3004),
        )
        assert "; longest silence 10.0 s, from" in lines[-1]
        assert lines[-1].endswith("; usually every 6.5 s")

    def test_outages_stand_at_the_end(self, read):
        lines = read(
            event_at(0, "start", **START), event_at(1, "down", seconds=5.0), event_at(6, "up"),
            event_at(10, "down", seconds=None), event_at(12, "down", seconds=1), event_at(13, "up"),
            event_at(20, "down", seconds=None), event_at(24, "stop"),
            event_at(30, "start", **START), event_at(40, "down", seconds=9), event_at(42, "reset"),
            flags=["--quiet"],
        )
        assert lines == [
            "no calls",
            "outage for 5.0 s, from 2026-11-25 00:00:01",
            "outage for 3.0 s, from 2026-11-25 00:00:10",
            "outage for at least 4.0 s, from 2026-11-25 00:00:20",
            "outage for at least 2.0 s, from 2026-11-25 00:00:40",
        ]

    def test_what_missed_the_endpoint_is_counted_and_the_last_is_named(self, read):
        told = ["404 POST /0", "404 POST /1", "404 POST /\x1b[2J"]
        lines = read(
            *(event_at(n, "unmatched", unmatched=each) for n, each in enumerate(told)),
            event_at(9, "forget"), flags=["--quiet"],
        )
        last = "404 POST /?[2J, at 2026-11-25 00:00:02"
        assert lines == ["no calls", f"3 requests missed the endpoint; the last was {last}"]

    @pytest.mark.parametrize("line", named({
        "torn": '{"number": 2, "rece',
        "not JSON": "GET / HTTP/1.1",
        "not UTF-8": "\udcff",
        "no object": "[1, 2]",
        "an object of another kind": '{"level": "info"}',
        "a call without a time": '{"number": 1, "reply": "ok", "accepted": true}',
        "a call of no time": json.dumps(dict(call_at(0), time="2026-02-30T00:00:00.000+03:00")),
        "an outage without its seconds": '{"event": "down", "at": 0}',
        "an event that is a list": '{"event": [], "at": 0}',
        "deep": "[" * 100000,
        "an outcome that is a number": json.dumps(dict(call_at(0), outcome=7, sender=[])),
    }))
    def test_a_torn_or_foreign_line_is_named_and_the_rest_is_read(self, path, line, capsys):
        text = "\n".join([json.dumps(call_at(0)), "", line, json.dumps(call_at(1))])
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert mock_odoo.main(["--read", str(path), "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("KKT-001  2 calls, ")
        assert err == "mock_odoo: line 3 is torn, or no call and no event\n"

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

    def test_any_copy_reads_the_journal_of_another_service(self, launch, path, read):
        code = RECEIPTS.replace("    def make_success", """
    def describe_call(self, call):
        return f"receipt {call.payload['id']} of {len(call.body)} bytes"

    def make_success""")
        process = launch("--journal", str(path), command=["-c", code])
        process.endpoint = "/api/v2/receipt"
        for payload in ({"id": 7}, {}):  # describe_call fails at the second
            post(process, payload)
        lines = [process.line()[10:] for _ in range(2)]
        assert lines == ["ok        receipt 7 of 9 bytes\n", "ok        ?\n"]
        assert [line[10:] + "\n" for line in read(*read_journal(path)[1:])[1:3]] == lines


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
                    and answer["params"].get("entry", {}).get("level") != "verbose"):
                self.complaints.append(answer["params"])
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, server, width=360, height=800, dark=False):
        """Open the page of a server, and wait until it shows all that came."""
        self.open_url(server.url, width, height, dark)
        calls = min(100, server.get_call_count())
        self.until(f"at('state').className && at('calls').children.length === {calls}")

    def open_url(self, url, width=360, height=800, dark=False):
        if self.session is None:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            session = self.ask("Target.attachToTarget", targetId=target, flatten=True)
            self.session = session["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.ask(domain + ".enable")
            faster = "const later = setTimeout; setTimeout = (call, ms) => later(call, ms / 20)"
            self.ask("Page.addScriptToEvaluateOnNewDocument", source=faster)  # no page waits 1 s
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
        self.evaluate("look()")

    def text(self, name):
        """What stands in the element of that id."""
        return self.evaluate(f"at('{name}').textContent")

    def all(self, selector, expression):
        """The value of an expression for each `e` that the selector finds."""
        found = f"document.querySelectorAll({json.dumps(selector)})"
        return self.evaluate(f"[...{found}].map(e => {expression})")

    def until(self, condition):
        """Have the page itself look, at every frame, until the condition holds."""
        assert self.evaluate(
            "new Promise(done => {"
            "  const end = Date.now() + 15000;"
            "  const look = () => {"
            f"   if ({condition}) done(true);"
            "    else if (Date.now() > end) done(false);"
            "    else requestAnimationFrame(look);"
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


def is_wanted(request, fixture):
    """Will a test of this session use a fixture?"""
    return any(fixture in item.fixturenames for item in request.session.items)


@pytest.fixture(scope="session", autouse=True)
def starting_browser(request, tmp_path_factory):
    """Chromium takes a second to start; the first tests do not wait for it."""
    if BROWSER is None or os.name == "nt" or not is_wanted(request, "browser"):
        yield None
    else:
        browser = Browser(str(tmp_path_factory.mktemp("browser")))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def browser(starting_browser):
    if starting_browser is None:
        pytest.skip("no Chromium here")
    try:
        starting_browser.ask("Browser.getVersion")
    except BrokenPipeError:  # Ubuntu's package, for example, is only a hint at another
        pytest.skip("the Chromium that is here does not run")
    return starting_browser


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
        steered.play("503, reset, ok@20ms")
        send(steered, "GET", "/<b>nowhere")
        browser.open(steered)
        browser.until("at('state').textContent === 'Odoo plays 503, reset, ok@20ms'")
        assert browser.text("unmatched") == "Missed the endpoint: 404 GET /<b>nowhere"
        for _ in range(3):
            try_post(steered)
        browser.until("at('calls').children.length === 3"
                      " && at('state').textContent === 'Odoo is up'")
        rows = browser.all("#calls li", "[e.className, e.innerText]")
        assert [kind for kind, _ in rows] == ["accepted", "spoilt", "refused"]
        assert [text[0] for _, text in rows] == ["\u25cf", "\u2716", "\u25b2"]
        for words in ("ok@20ms", *steered.describe_call(steered.get_calls()[2]).split()):
            assert words in rows[0][1]
        assert browser.text("counts") == f"1 of 3 heartbeats accepted at {steered.heartbeat_url}"
        assert browser.complaints == []

    def test_a_row_says_why_a_request_was_refused_and_what_it_repeats(self, browser, fresh):
        strict = fresh(control=True, strict=True)
        for body in (b'{"adapter_id": ""}', b"<b>", b"<b>", BODY):
            send(strict, "POST", PATH, body, JSON)
        browser.open(strict)
        rows = browser.all("#calls li", "[e.querySelector('.problem').textContent, e.innerText]")
        problems = [call.problem or "" for call in reversed(strict.get_calls())]
        assert [problem for problem, _ in rows] == problems
        assert "adapter_id: expected a non-empty string" in problems[3]
        assert ["repeats #2" in text for _, text in rows] == [False, True, False, False]

    def test_a_click_plays_its_script(self, browser, steered):
        browser.open(steered)
        for button, script, loop in (
            ("all well", "", False), ("failing 3 times", "503*3", False),
            ("failing for ever", "503*", False), ("flapping", "ok*2, 503*3", True),
            ("slow", "ok@6s*", False), ("stalling", "stall*", False),
            ("resetting", "reset*", False), ("session expired", "expired*", False),
        ):
            steered.play("429*7")
            post(steered)
            browser.until("at('state').textContent.includes('429')")
            browser.all("#modes button", f"e.id = e.firstChild.data === '{button}' ? 'wanted' : e.id")
            browser.click("#wanted")
            browser.until("!at('state').textContent.includes('429')")
            browser.evaluate("at('wanted').id = ''")
            assert (button, steered.script, steered.loop) == (button, script, loop)

    @pytest.mark.parametrize("width", [360, 1024])
    def test_to_forget_everything_takes_a_second_click_elsewhere(self, browser, steered, width):
        steered.play("503*7")
        post(steered)
        browser.open(steered, width)
        place = browser.middle("#forget summary")
        for is_open in (True, False):  # a double click does nothing
            browser.press(*place)
            assert browser.evaluate("at('forget').open") == is_open
        assert (steered.get_call_count(), steered.script) == (1, "503*6")
        browser.click("#forget summary")
        browser.click("#sure")
        browser.until("at('calls').children.length === 0 && !at('forget').open")
        assert (steered.get_call_count(), steered.script) == (0, "")

    def test_an_outage_that_was_asked_for_is_no_error(self, browser, steered):
        post(steered)
        browser.open(steered)
        browser.evaluate(
            "at('down').dataset.seconds = 1; const line = document.querySelector('h1'), told = [];"
            "new MutationObserver(() => told.push(line.textContent + at('error').textContent))"
            ".observe(document.body, {childList: true, subtree: true}); 0")
        browser.click("#down")
        browser.until("at('state').className === 'down' && document.querySelector('#strip rect')")
        assert refused(steered)
        assert browser.all("[aria-pressed=true]", "e.id") == ["down"]
        browser.until("at('state').textContent === 'Odoo is up'")
        told = {line.replace("\n", " ").strip() for line in browser.evaluate("told")}
        (line,) = told - {"Odoo is up"}
        assert re.fullmatch(r"Odoo is down until \d\d:\d\d:\d\d", line)
        post(steered)
        browser.until("at('calls').children.length === 2")

    def test_during_an_outage_nothing_can_be_clicked(self, browser, steered):
        browser.open(steered)
        browser.click("#down")
        browser.until("at('state').className === 'down'")
        enabled = browser.all("main button, main input", "!e.matches(':disabled')")
        assert enabled == [False] * 13
        browser.click("#modes button:nth-of-type(3)")
        steered.up()
        browser.until("at('state').className === 'up'")
        assert (steered.script, browser.text("error")) == ("", "")

    def test_the_field_plays_a_script_by_keyboard_and_shows_its_error(self, browser, steered):
        browser.open(steered)
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
        browser.open(steered)
        steered.stop()
        browser.until("at('state').className === 'gone'")
        assert browser.text("state") == "No answer: an outage, or the fake was stopped"

    def test_a_fault_of_its_own_is_not_taken_for_a_missing_answer(self, browser, steered):
        browser.open(steered)
        browser.evaluate("draw = () => { throw new Error('broken'); }; 0")
        post(steered)
        browser.until("at('error').textContent === 'The page failed: broken'")
        assert browser.text("state") == "Odoo is up"

    def test_what_clients_send_is_text_never_markup_and_stops_nothing(self, browser, steered):
        evil = "<img src=x onerror=document.title='owned'>"
        odd = ({"toString": 1}, [], None, 1e308, True, "", {"__proto__": None}, evil, [evil])
        for each in odd:
            breaker = {"state": each}
            post(steered, {"adapter_id": each, "buffer_status": each, "circuit_breaker": breaker})
        send(steered, "POST", PATH, json.dumps([evil]), JSON)
        browser.open(steered)
        browser.until("at('state').className === 'up'")
        assert evil in browser.evaluate("at('calls').innerText")
        assert browser.evaluate("document.querySelectorAll('#calls img').length") == 0
        assert browser.evaluate("document.title") == "Odoo (fake)"
        assert browser.complaints == []

    def test_headline_and_buttons_say_what_happens(self, browser, steered):
        browser.open(steered)
        for script, loop, calls, words, pressed in (
            ("", False, 0, "is up", ["all well"]),
            ("ok*", False, 0, "accepts every heartbeat (ok*)", []),
            ("503*", False, 1, "refuses every heartbeat (503*)", ["failing for ever"]),
            ("503*3", False, 0, "plays 503*3", ["failing 3 times"]),
            ("503*3", False, 2, "plays 503", ["failing 3 times"]),
            ("503*3", False, 3, "is up", ["all well"]),
            ("503*4", False, 0, "plays 503*4", []),
            ("503*3", True, 0, "refuses every heartbeat (503*3) in a loop", []),
            ("stall*", False, 0, "spoils the answer to every heartbeat (stall*)", ["stalling"]),
            ("ok@6s*", False, 0, "accepts every heartbeat (ok@6s*)", ["slow"]),
            ("ok@6s", False, 0, "plays ok@6s", []),
            ("ok*2, 503*3", False, 0, "plays ok*2, 503*3", []),
            ("ok*2, 503*3", True, 3, "plays 503*2, ok*2, 503 in a loop", ["flapping"]),
            ("503*, ok", True, 0, "refuses every heartbeat (503*, ok) in a loop", []),
        ):
            steered.play(script, loop)
            for _ in range(calls):
                post(steered)
            browser.refresh()
            assert browser.text("state") == "Odoo " + words
            assert browser.all("[aria-pressed=true]", "e.firstChild.data") == pressed, script

    def test_each_sender_has_a_line_and_who_is_late_stands_first(self, browser, steered):
        for sender, since in (("KKT-001", 75), ("KKT-002", 70), ("KKT-001", 45), ("KKT-002", 49)):
            post(steered, dict(HEARTBEAT, adapter_id=sender))
            steered.get_calls()[-1].received_at -= since
        browser.open(steered)
        lines = browser.all("#senders li", "e.innerText.split(/\\s*\\n/).join('  ')")
        assert [re.sub(r"last \d+ s", "last N s", line) for line in lines] == [
            "KKT-002  last N s ago (usually every 21 s)  LATE  buffer 5/200 (2.5%) breaker CLOSED",
            "KKT-001  last N s ago (usually every 30 s)  buffer 5/200 (2.5%) breaker CLOSED",
        ]
        for call in steered.get_calls():
            call.received_at -= 30
        browser.until("/last 7[0-9] s ago/.test(at('senders').innerText)")

    def test_it_tells_when_a_client_has_left(self, browser, steered):
        steered.play("ok, stall")
        post(steered)
        with connect(steered, request_bytes()):
            steered.wait_for_calls(2)
            browser.open(steered)
            assert browser.all("#calls .left", "e.textContent") == ["", ""]
        browser.until("/client left after \\d\\.\\d s/.test(at('calls').firstChild.innerText)")

    def test_its_words_are_those_of_the_service(self, browser, fresh):
        ofd = fresh(
            variant(endpoint="/api/v2/receipt", service="OFD", noun="receipt"), control=True)
        browser.open(ofd)
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

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize(("width", "height"), [(360, 800), (800, 600), (1024, 768)])
    def test_it_fits_the_screen_of_a_register(self, browser, steered, width, height, dark):
        for number in range(30):
            post(steered, dict(HEARTBEAT, adapter_id=("KKT-001", "KKT-002", "K" * 200)[number % 3]))
        steered.play("ok@6s*3, 503*2, reset, close, truncate, garbage, stall, drip, html, login"
                     if width == 360 else "503")
        browser.open(steered, width, height, dark)
        assert browser.evaluate(f"document.documentElement.scrollWidth <= {width}")
        ink = browser.evaluate("getComputedStyle(document.body).color")
        assert ink == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
        if width > 360:
            for selector in ("#state", "#senders", "#calls li:nth-child(3)", "#down"):
                (bottom,) = browser.all(selector, "e.getBoundingClientRect().bottom")
                assert 0 < bottom < height, selector

    def test_every_control_has_a_name_and_can_be_reached_by_finger_and_keyboard(
        self, browser, steered
    ):
        browser.open(steered)
        names = browser.all(
            "button, input",
            "e.tabIndex >= 0 && (e.textContent || e.labels[0].textContent).trim()")
        assert len(names) == 15
        assert all(names)
        sizes = browser.all(
            "button:not(#sure), summary, input:not([type=checkbox]), label:not([for])",
            "e.offsetParent && [e.textContent, e.offsetWidth, e.offsetHeight]")
        seen = [size for size in sizes if size]
        assert len(seen) == 13  # with the summary
        assert [size for size in seen if min(size[1:]) < 40] == []

    def test_what_would_turn_round_the_text_is_shown_as_a_box(self, browser, steered):
        for sender in ("KKT\u202e001", "KKT\u2067001", "KKT\u200b001", "KKT\x1b[31m"):
            post(steered, dict(HEARTBEAT, adapter_id=sender, total=sender))
        browser.open(steered)
        assert browser.all(".sender", "e.textContent") == [*["KKT\ufffd001"] * 3, "KKT\ufffd[31m"]
        words = browser.evaluate("document.documentElement.textContent")
        assert not re.search("[\u202e\u2067\u200b\x1b]", words.partition("<script>")[0])

    def test_elsewhere_it_asks_for_the_token_once(self, browser, launch):
        process = launch("--token", "sesam")
        url = f"http://pos.example:{process.port}/"
        browser.open_url(url)
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
        assert "This page needs a newer browser</h1>" in text
        assert re.findall(newer, text.replace("grid-gap", "").replace("minmax(0", "")) == []


class TestStrip:
    """The picture above the list: what came when."""

    MARKS = "#strip .mark"

    def post(self, server, percent=2.5, sender="KKT-001"):
        buffer = dict(HEARTBEAT["buffer_status"], percent_full=percent)
        try_post(server, dict(HEARTBEAT, adapter_id=sender, buffer_status=buffer))

    def post_at(self, server, *times):
        """Send a heartbeat for each time. These are in seconds, and the last of them is now."""
        now = time.time()
        for seconds in times:
            self.post(server)
            server.get_calls()[-1].received_at = now + seconds - max(times)

    def look(self, browser, selector):
        """Where the elements are, as (x, y), from the top left of the strip."""
        return browser.all(
            selector,
            "{ const strip = at('strip').getBoundingClientRect(), box = e.getBoundingClientRect();"
            " return [box.x + box.width / 2 - strip.x, box.y + box.height / 2 - strip.y]; }")

    def open(self, browser, server, width=1000):
        browser.open(server, width)
        count = min(100, server.get_call_count())
        browser.until(f"document.querySelectorAll('{self.MARKS}').length === {count}")
        assert browser.complaints == []

    def test_it_has_a_mark_for_each_call_by_its_kind(self, browser, steered):
        steered.play("503, reset, ok, 429")
        for _ in range(5):
            self.post(steered)
        self.open(browser, steered)
        kinds = browser.all(self.MARKS, "e.getAttribute('class').split(' ')[1]")
        assert kinds == ["refused", "spoilt", "accepted", "refused", "accepted"]
        shapes = browser.all(self.MARKS, "e.firstChild.textContent")
        assert len(set(shapes)) == 3
        assert shapes[0] == shapes[3]
        words = browser.evaluate("at(at('strip').getAttribute('aria-labelledby')).textContent")
        assert words.startswith("2 of 5 heartbeats accepted")

    @pytest.mark.parametrize("width", [360, 1000])
    def test_a_missed_beat_is_a_gap_and_a_storm_a_pile(self, browser, steered, width):
        numbers = [*range(40), *range(41, 60), *[60] * 20, *range(61, 80)]
        self.post_at(steered, *(30 * number for number in numbers))
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
                " [...document.querySelectorAll('#strip text:not(.mark)')].map(e => {"
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
        self.post_at(steered, 0, 10)
        for call in steered.get_calls():
            call.received_at -= 190
        self.open(browser, steered)
        (first, _), (last, _) = self.look(browser, self.MARKS)
        assert last - first == pytest.approx(10 / 200 * (1000 - 2 * 16 - 2 * 8), rel=0.1)

    @pytest.mark.parametrize(("calls", "down", "up", "starts", "lasts"), named({
        "between calls": ([0, 30, 120], 75, 15, 45 / 120, 60 / 120),
        "before the first call": ([0], 100, 50, 0, 50 / 100),
        "without a call": ([], 100, 50, 0, 50 / 100),
    }))
    def test_an_outage_is_a_shaded_span(self, browser, fresh, calls, down, up, starts, lasts):
        events = [("down", time.time() - down), ("up", time.time() - up)]
        told = [{"event": name, "at": at} for name, at in events]
        server = fresh(variant(get_events=lambda server: told), control=True)
        self.post_at(server, *calls)
        self.open(browser, server)
        browser.until("document.querySelector('#strip rect')")
        (left, width), = browser.all("#strip rect", "[e.x.baseVal.value, e.width.baseVal.value]")
        whole = 1000 - 2 * 16 - 2 * 8
        assert left - 8 == pytest.approx(whole * starts, rel=0.1)
        assert width == pytest.approx(whole * lasts, rel=0.1)

    def test_it_shows_how_full_the_buffer_is(self, browser, steered):
        height = "document.querySelector('#strip .level').getBBox().height"
        self.post(steered, 25)
        self.open(browser, steered)
        quarter = browser.evaluate(height)
        for percent in (50, -7, "full", None, 1e300):
            self.post(steered, percent)
        browser.until(f"{height} > {quarter}")
        self.open(browser, steered)
        assert browser.evaluate(height) == pytest.approx(4 * quarter)

    def test_each_sender_has_a_buffer_of_its_own(self, browser, steered):
        percents = {"KKT-001": 90, "KKT-002": 10, "KKT-003": 50}
        for _ in range(3):
            for sender, percent in percents.items():
                self.post(steered, percent, sender)
        self.open(browser, steered)
        boxes = browser.all("#strip .level", "[e.getBBox().y, e.getBBox().height]")
        tops, heights = zip(*boxes)
        expected = [heights[0] * each / 90 for each in percents.values()]
        assert heights == pytest.approx(expected, rel=0.001)
        assert list(tops) == sorted(tops)
        assert browser.all("#strip .name", "e.textContent") == list(percents)

    def test_it_holds_the_newest_hundred(self, browser, steered):
        self.post(steered)
        self.open(browser, steered)
        steered.play("503*105")
        for _ in range(105):
            self.post(steered)
        browser.until("document.querySelector('#strip title').textContent.startsWith('#7 503 ')"
                      " && at('calls').children.length === 100")
        assert len(self.look(browser, self.MARKS)) == 100

    def test_without_calls_it_says_so_and_nothing_below_it_moves(self, browser, steered):
        browser.open(steered, width=1024)
        browser.until("at('strip').textContent === 'No heartbeat yet'")
        place = browser.evaluate("at('down').getBoundingClientRect().y")
        self.post(steered)
        browser.until("at('strip').querySelector('.mark')")
        assert browser.evaluate("at('down').getBoundingClientRect().y") == place


# ------------------------------------------------------------------------------------------
# What users build with it: another service, and a client that the fake drives
# ------------------------------------------------------------------------------------------


class TestAnotherService:
    """The fake of a fiscal data operator that README makes in eight lines."""

    @pytest.fixture
    def ofd(self, build):
        return build("MockOfdServer", control=True)

    def test_it_has_its_own_port_endpoint_and_words(self, ofd):
        assert type(ofd)().port == 8080
        assert ofd.heartbeat_url == ofd.url + "/api/v2/receipt"
        ofd.set_failure_count(1)
        failure, success = post(ofd), post(ofd, {"receipt_id": "R-1"})
        assert (failure.status, failure.json()) == (503, {"error": "OFD service unavailable"})
        assert (success.status, success.json()) == (200, {"receipt_id": "R-1"})
        assert send(ofd, "POST", PATH, BODY, JSON).status == 404
        assert repr(ofd).startswith("<MockOfdServer ")
        assert control(ofd, "GET", "state")[1]["service"] == "OFD"

    def test_faults_memory_and_outage_come_with_it(self, ofd):
        ofd.play("truncate, reset, ok@1ms")
        for error in (http.client.IncompleteRead, ConnectionResetError):
            with pytest.raises(error):
                post(ofd)
        assert post(ofd, {"receipt_id": "R-3"}).json() == {"receipt_id": "R-3"}
        assert ofd.wait_for_heartbeats(1) == [{"receipt_id": "R-3"}]
        ofd.down()
        assert refused(ofd)

    def test_the_command_line_comes_with_it(self, launch):
        process = launch(command=["-c", RECEIPTS])
        assert process.first.startswith("Mock OFD on ")
        process.endpoint = "/api/v2/receipt"
        post(process, {"receipt_id": "R-1"})
        assert process.line()[10:] == 'ok        {"receipt_id": "R-1"}\n'
        assert run_python("-c", RECEIPTS, "--help").stdout.count("default: 8080") == 1


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

    def test_a_success_may_be_a_reply_of_any_kind_and_is_recorded(self, picky):
        answers = [post(picky, {"n": n}) for n in (1, 1, 2)]
        told = [{"n": 1}, {"error": "a duplicate"}, {"n": 2}]
        assert [answer.json() for answer in answers] == told
        assert answers[1].headers["X-Seen"] == "yes"
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
        **{word: (word, 0) for word in mock_odoo.FAULTS if word not in mock_odoo.WHOLE},
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

    def test_its_reply_keeps_its_delay_beneath_the_headers_and_the_delay_of_a_script(self, fresh):
        slow = Reply(200, {"slow": 1}, {"X-Own": "1"}, delay=0.05)
        server = fresh(variant(make_success=lambda self, payload: slow))
        server.play([Reply(200, headers={"X-Script": "2"}), "ok@1ms"])
        began = time.perf_counter()
        response = post(server)
        assert time.perf_counter() - began >= 0.03  # the clock of Windows ticks every 16 ms
        assert (response.headers["X-Own"], response.headers["X-Script"]) == ("1", "2")
        assert post(server).json() == response.json() == {"slow": 1}
        assert [call.delay for call in server.get_calls()] == [0.05, 0.001]

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

    def test_what_is_no_reply_is_a_bug(self):
        cls = variant(verdict=lambda self, request: {"status": "ok"})
        with failing(TypeError, "verdict must return a Reply, not {'status': 'ok'}", cls) as server:
            assert post(server).status == 500

    def test_the_same_reply_may_be_returned_to_all(self, fresh):
        busy = Reply(429, {"error": "busy"})
        server = fresh(cls=variant(make_success=lambda self, payload: busy))
        threads = [in_background(post, server) for _ in range(10)]
        assert {thread.result().status for thread in threads} == {429}


# ------------------------------------------------------------------------------------------
# What users copy: conftest.py and the recipes of README. pytest runs them in a folder of theirs.
# ------------------------------------------------------------------------------------------


def start_pytest(folder, *args):
    """Run pytest in a user's folder, with our warnings, in a process of its own."""
    environ = dict(os.environ, PYTEST_ADDOPTS="", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    flags = ("-X", "dev", "-W", "error", "-m", "pytest", "-p", "no:cacheprovider")
    return subprocess.Popen(
        [sys.executable, *flags, *args], cwd=str(folder), env=environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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
        "two workers": (["-p", "xdist", "-n", "2"], {"test_a": USES_FIXTURES}),
    }))
    def test_its_fixture_works_in(self, tmp_path, args, files):
        if "xdist" in args:
            pytest.importorskip("xdist")
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


#: A user's test, by the tools that README names. What they need of pytest is loaded by its name.
WITH_TOOLS = {
    "hypothesis": ([], """
from hypothesis import given, settings, strategies

@settings(deadline=None, max_examples=20)
@given(strategies.dictionaries(strategies.text(), strategies.integers()))
def test_any_heartbeat(payload):
    with MockOdooServer(port=0) as odoo:
        assert post(odoo, payload) == 200
        assert odoo.get_received_heartbeats() == [payload]
"""),
    "gevent": (["-p", "early"], """
import gevent

def test_it_runs_on_patched_sockets_and_threads(odoo):
    odoo.play("ok@10ms, stall, 503")
    greenlet = gevent.spawn(post, odoo, {})
    assert (greenlet.get(timeout=5), len(odoo.wait_for_calls(1))) == (200, 1)
    greenlet = gevent.spawn(post, odoo, {})
    odoo.wait_for_calls(2)
    odoo.down(0)
    assert isinstance(greenlet.get(timeout=5), OSError)
    assert post(odoo, {}) == 503
"""),
    "pytest_cov": (["-p", "pytest_cov", "--cov=test_it", "--cov-fail-under=100"], """
def test_functions_that_the_fake_calls_are_covered():
    def on_call(call):
        numbers = []
        numbers.append(call.number)

    with MockOdooServer(port=0, on_call=on_call) as odoo:
        assert post(odoo, {}) == 200
"""),
}
POST = """
import http.client, json
from mock_odoo import MockOdooServer

def post(odoo, payload):
    client = http.client.HTTPConnection("127.0.0.1", odoo.port, timeout=5)
    try:
        client.request("POST", odoo.endpoint, json.dumps(payload), {"Content-Type": "application/json"})
        return client.getresponse().status
    except OSError as error:  # pragma: no cover
        return error
    finally:
        client.close()
"""


class TestTools:
    @pytest.mark.parametrize("tool", WITH_TOOLS)
    def test_it_works_with(self, tmp_path, tool):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
        args, test = WITH_TOOLS[tool]
        early = "from gevent import monkey\nmonkey.patch_all()\n"
        copy_to(tmp_path, test_it=POST + test, early=early)
        code, output = finish(start_pytest(tmp_path, *args, "-W", "ignore"))
        assert code == 0, output


#: How pytest is made to run them in another order.
ORDERS = {
    "as they stand": "pass",
    "backwards": "items.reverse()",
    "shuffled": "seed = random.randrange(10**6); print('seed', seed); "
    "random.Random(seed).shuffle(items)",
}


@pytest.fixture(scope="session", autouse=True)
def running_recipes(request, tmp_path_factory):
    """All recipes in one session, in several orders at the same time; the other tests meanwhile."""
    processes = {}
    if is_wanted(request, "recipe_sessions"):
        folder = tmp_path_factory.mktemp("readme")
        adapter = block("class Adapter:")
        recipes = [code for code in RECIPES if code != adapter]
        copy_to(folder, adapter=adapter, **{f"test_{n}": code for n, code in enumerate(recipes)})
        for name in ("cert.pem", "key.pem"):
            (folder / name).write_text(CERTIFICATE)
        for number, (order, code) in enumerate(ORDERS.items()):
            plugin = f"import random\ndef pytest_collection_modifyitems(items): {code}\n"
            (folder / f"order_{number}.py").write_text(plugin)
            processes[order] = start_pytest(folder, "-v", "-s", "-p", f"order_{number}")
    yield processes
    for process in processes.values():
        finish(process)


@pytest.fixture(scope="session")
def recipe_sessions(running_recipes):
    """What became of them."""
    return {order: finish(running_recipes.pop(order)) for order in ORDERS}


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

    def test_the_careful_odoo_wants_a_token_and_no_duplicate(self, build):
        odoo, given = build("CarefulOdoo"), {**JSON, "Authorization": "Bearer secret"}
        statuses = [send(odoo, "POST", PATH, body, given).status for body in (BODY, BODY, b"{}")]
        assert statuses == [200, 409, 200]
        assert post(odoo).status == 401

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
        fake = launch("--journal", journal, "--script", "503, reset, ok@250ms")
        send(fake, "POST", PATH + "s", BODY, JSON)
        for queued in (6, 7, 8, 9):
            if queued == 9:
                control(fake, "POST", "down", {"seconds": 0.1})
                until(lambda: not refused(fake))
            buffer = {"total_capacity": 200, "current_queued": queued, "percent_full": queued / 2}
            try_post(fake, {**HEARTBEAT, "buffer_status": buffer})

        def timeless(text):
            return re.sub(r"([0-9-]{10} )?[0-9]+:[0-9:]+|[0-9.]+ s\b", "#", text).splitlines()

        shown = block("--script \"503, reset").replace("^C", "")
        assert timeless(fake.end()[1]) == timeless(shown)[2:]
        shown = block("--read beats.jsonl")
        assert timeless(run_main("--quiet", "--read", journal)[1]) == timeless(shown)[1:]

    def test_every_link_within_it_leads_somewhere(self):
        titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
        anchors = {re.sub("[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert set(re.findall(r"\]\(#([^)]*)\)", README)) - anchors == set()

    def test_all_that_it_promises_has_its_tests(self):
        titles = set(re.findall(r"^##+ (.*)$", README, re.MULTILINE))
        assert titles - {"What it is not for", "Tests"} == set(TESTS)
        assert set(" ".join(TESTS.values()).split()) - set(globals()) == set()

    @pytest.mark.parametrize(
        "name", [name for name in dir(MockOdooServer) if not name.startswith("_")]
    )
    def test_the_reference_tells_of_every_public_member(self, name):
        member = inspect.getattr_static(MockOdooServer, name)
        told = inspect.getdoc(member) if callable(member) or isinstance(member, property) else None
        assert told or f"`{name}`" in MockOdooServer.__doc__

    def test_pydoc_shows_what_is_public(self):
        shown = run_python("-m", "pydoc", "mock_odoo").stdout
        assert re.findall("^    class (\\w+)", shown, re.MULTILINE) == ["Call", "MockOdooServer", "Reply"]

    @pytest.mark.parametrize(
        "name", [*Call.FIELDS, "took", "left", "payload", "headers", "body", "to_json"])
    def test_it_names_every_field_of_a_call_and_so_does_the_reference(self, name):
        assert re.search(f"`{name}(\\(\\))?`", README.partition("## Calls")[2].partition("##")[0])
        assert f"`{name}`" in Call.__doc__ or name == "to_json"

    @pytest.mark.parametrize("word", [*mock_odoo.FAULTS, *mock_odoo.WORDS])
    def test_it_says_what_clients_see_of_every_reply(self, word):
        assert re.search(rf"^\| `{word}(@2s)?` \|", README, re.MULTILINE)


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


@contextlib.contextmanager
def plain_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), PlainHandler) as server:
        server.port = server.server_port
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.mark.benchmark
class TestBenchmark:
    def test_start_and_stop(self):
        for name, make, times in (
            ("MockOdooServer", lambda: MockOdooServer(port=0), 200),
            ("http.server", plain_server, 5),
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
        for name, make in (
            ("MockOdooServer", lambda: MockOdooServer(port=0)), ("http.server", plain_server),
        ):
            with make() as server:
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
