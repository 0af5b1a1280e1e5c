"""How much the tests do where one more repetition only makes a rare fault likelier to be seen."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("ZDISCO_TESTS") != "quick"
"""Every backend gets the full number of repetitions, and every latency the full number of peers.

``ZDISCO_TESTS=quick`` is for who changes the code and runs the tests often.
"""
LONG = os.environ.get("ZDISCO_TESTS") == "long"
"""What takes minutes is done at its full length.

``ZDISCO_TESTS=long`` is for who changes how links end and come back.
"""
