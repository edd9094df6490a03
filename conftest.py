"""The fixture to copy beside mock_odoo.py: one fake for the session, reset before every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mock_odoo import MockOdooServer


@pytest.fixture(scope="session")
def odoo_server() -> Iterator[MockOdooServer]:
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
