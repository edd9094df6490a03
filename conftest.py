"""The fixtures to copy beside mock_odoo.py: one fake for the session, reset before every test.

Do you have a conftest.py already? Paste this into it, from `import pathlib` on. Then your tests can
say `from mock_odoo import ...`, whether their folder is a package or not, under any --import-mode.
"""

from __future__ import annotations

import pathlib
import sys
import typing

import pytest

sys.path.append(str(pathlib.Path(__file__).parent))  # in a package, pytest adds only what is above

import mock_odoo
from mock_odoo import MockOdooServer

if __package__:  # the same module by either name, or a Reply of one were none of the other
    sys.modules.setdefault(__package__ + ".mock_odoo", mock_odoo)


@pytest.fixture(scope="session")
def odoo_server() -> typing.Iterator[MockOdooServer]:
    """A running server on a free port, shared by the session."""
    with MockOdooServer(port=0) as server:
        yield server


@pytest.fixture
def odoo(odoo_server: MockOdooServer) -> MockOdooServer:
    """The shared server with nothing received, no script and no outage."""
    if not odoo_server.is_running:  # a test stopped it
        odoo_server.start()
    odoo_server.reset()
    return odoo_server
