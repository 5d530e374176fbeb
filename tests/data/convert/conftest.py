"""The server that plays the publishers."""

import threading
from functools import partial

import pytest

from tests.data.convert.server import Server


@pytest.fixture
def server():
    served = Server()
    thread = threading.Thread(target=partial(served.serve_forever, 0.01), daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
