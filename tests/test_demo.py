"""The demo: it shows what it promises, it fails when something did not happen, and it leaves no process behind."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

from programs import TIMEOUT, Program, zdisco

pytest.importorskip("click")
pytest.importorskip("rich")

from zdisco._cli.children import Child, Line, Missing, nursery


def processes_below(pid: int) -> list[int]:
    """The children of a process that live now."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        # The field after the name in parentheses is the state; a zombie has ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_that_the_demo_promises_is_seen() -> None:
    with zdisco("demo") as demo:
        assert demo.exit_code() == 0, demo.lines
        assert demo.errors == ""
    assert not demo.seen("✗")
    assert [match[1] for match in demo.seen(r"^(\d)\. ")] == list("12345678")
    assert demo.seen("^all of it was seen, in ")


def test_a_step_that_is_not_seen_fails_the_demo_and_hides_no_other() -> None:
    code = "from zdisco._cli import demo, main; demo.RETRIES = 1000; main()"
    with Program("-c", code, "demo") as demo:
        assert demo.exit_code() == 1
    assert len(demo.seen("✗")) == 1
    assert demo.seen(r"✗ dave printed \d+ of 1000 lines like .*CONNECT_RETRIED")
    assert len(demo.seen(r"^\d\. ")) == 8
    assert demo.seen("^1 thing went wrong, in ")


def test_without_a_proxy_the_demo_ends_at_once() -> None:
    code = (
        "from zdisco._cli import demo, main; start = demo.Demo._start_proxy\n"
        "demo.Demo._start_proxy = lambda self: start(self, 'nonsense')\n"
        "main()"
    )
    with Program("-c", code, "demo") as demo:
        assert demo.exit_code() == 1
    assert demo.seen("✗ the proxy printed 0 of 1 lines like 'endpoint ' before it ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_an_interrupted_demo_leaves_no_process_behind(number: int) -> None:
    with zdisco("demo") as demo:
        demo.wait_for(r"^3\. ")
        children = processes_below(demo.process.pid)
        assert len(children) == 5
        assert demo.leave(number) == 128 + number
        assert demo.errors == ""
        assert demo.lines[-1] == "interrupted"
    assert not [child for child in children if is_running(child)]


# The processes


@pytest.mark.anyio
async def test_a_line_that_does_not_come_says_what_came_instead() -> None:
    with anyio.fail_after(TIMEOUT):
        async with nursery() as processes:
            child = await processes.start("it", "proxy", "--bind", "tcp://127.0.0.1:*")
            await child.wait_for("relay ")
            with pytest.raises(
                Missing, match=r"^it printed 0 of 1 lines like 'welcome' in 0\.01 s; its last .*: relay "
            ):
                await child.wait_for("welcome", timeout=0.01)
            with pytest.raises(Missing, match=r"^it did not end within 0\.01 s$"):
                await child.ended(timeout=0.01)
            child.ask_to_leave()
            assert await child.ended() == 0


@pytest.mark.anyio
async def test_no_process_outlives_an_error_in_the_block() -> None:
    children: list[Child] = []

    async def fail() -> None:
        async with nursery() as processes:
            children.append(await processes.start("it", "proxy", "--bind", "tcp://127.0.0.1:*"))
            raise LookupError

    with anyio.fail_after(TIMEOUT):
        with pytest.raises(BaseExceptionGroup):
            await fail()
    assert children[0].process.returncode == -signal.SIGKILL


def test_a_line_is_read_with_its_time() -> None:
    now = datetime.now()
    line = Line.parse(f"{now:%H:%M:%S.%f}\tGot W")
    assert (line.text, line.at) == ("Got W", now)


def test_a_line_from_before_midnight_is_of_yesterday() -> None:
    soon = datetime.now() + timedelta(hours=13)
    line = Line.parse(f"{soon:%H:%M:%S.%f}\tGot W")
    assert line.at < datetime.now()


def test_a_line_without_a_time_has_that_of_its_arrival() -> None:
    before = datetime.now()
    line = Line.parse("endpoint tcp://127.0.0.1:1")
    assert line.text == "endpoint tcp://127.0.0.1:1"
    assert before <= line.at <= datetime.now()
