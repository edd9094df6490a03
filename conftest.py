"""The fixture to copy beside mock_odoo.py: for each test, a fake of its own.

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


@pytest.fixture
def odoo() -> typing.Iterator[MockOdooServer]:
    """A fake on a free port; it runs until the test ends."""
    with MockOdooServer(port=0) as server:
        yield server
