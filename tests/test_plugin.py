"""The plugin for pytest: its fixture is found whoever runs the tests, and nobody pays for it who does not ask."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

STRANGER = """
import sys

def test_nothing_of_ours_is_loaded(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("pytest_zdisco")
    assert not {"zdisco", "zmq", "anyio", "attrs", "asyncio"} & sys.modules.keys()
"""

USER = """
import asyncio
import pytest

{mark}
async def test_two_peers_talk(memory_network):
    assert memory_network.__class__.__module__ == "zdisco.testing"
    async with memory_network.peers("seller", "buyer") as (seller, buyer), buyer.subscribe("prices.") as prices:
        await seller.publish("prices.eur", b"1.08")
        assert (await anext(prices)).payload == b"1.08"

def test_each_test_has_a_network_of_its_own(memory_network, request):
    assert memory_network._servers == {{}}
"""

# One process for all, since it starts slower than it tests. Each line: plugins, options, file.
RUNS = """
import sys, pytest

LOOP = "--override-ini=asyncio_default_fixture_loop_scope=function"
for plugins, *arguments in [
    ([], "test_stranger.py"),
    (["pytest_asyncio.plugin"], "--asyncio-mode=strict", LOOP, "test_strict.py"),
    (["pytest_asyncio.plugin"], "--asyncio-mode=auto", LOOP, "test_auto.py"),
    (["anyio.pytest_plugin"], "test_anyio.py"),
]:
    names = [part for name in [*plugins, "pytest_zdisco"] for part in ("-p", name)]
    code = pytest.main(["-q", "-rA", "-p", "no:cacheprovider", *names, *arguments])
    if code:
        sys.exit(int(code))
"""


def test_the_fixture_works_with_each_plugin_and_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    files = {
        "stranger": STRANGER,
        "strict": USER.format(mark="@pytest.mark.asyncio"),
        "auto": USER.format(mark=""),
        "anyio": USER.format(mark="@pytest.mark.anyio"),
    }
    for name, source in files.items():
        (tmp_path / f"test_{name}.py").write_text(source, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\n  ignore:Module already imported\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", RUNS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {line for line in done.stdout.splitlines() if line.startswith("PASSED")}
    talks = {"strict": [""], "auto": [""], "anyio": ["[asyncio]", "[trio]"]}
    assert passed == {
        "PASSED test_stranger.py::test_nothing_of_ours_is_loaded",
        *(f"PASSED test_{name}.py::test_two_peers_talk{id}" for name, ids in talks.items() for id in ids),
        *(f"PASSED test_{name}.py::test_each_test_has_a_network_of_its_own" for name in talks),
    }


def test_pytest_finds_the_plugin_by_an_entry_point_and_the_wheel_has_it() -> None:
    assert PROJECT["project"]["entry-points"]["pytest11"] == {"zdisco": "pytest_zdisco"}
    assert "src/pytest_zdisco.py" in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert "`pytest_zdisco`" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "src").iterdir() if not path.name.startswith("_")} == {
        "pytest_zdisco.py",
        "zdisco",
    }
