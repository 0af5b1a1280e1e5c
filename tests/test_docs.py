"""What the README and the docs show is true: every snippet runs, every command exists, what is generated is fresh.

Rule 1: a Python snippet is one of four. A *program* runs its own event loop and is started as a process of its own. A
*test file* has tests, or what tests need; those of a page lie in one folder and are run by pytest. Any other is a
*fragment*, which runs to its end, in a folder with the files that its page shows. What is marked ``<!-- endless -->``
is ended after its first line of output: a program by a signal, a fragment by cancellation. Fragments have these names,
open and joined with each other: ``peer`` (alice) and ``other`` (bob).

Rule 2: only ports and hosts are replaced, since those of the snippets may be in use or do not exist: see `_rehosted`.

Rule 3: programs look for local sockets in the folder of the fragment.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, chdir, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import anyio
import pytest
from attrs import frozen

import bench.__main__
from zdisco import Peer, Proxy, ProxySighting

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(
    r"(?P<endless><!-- endless -->\n)?^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<source>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@frozen
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    source: str
    is_endless: bool

    @property
    def is_test_file(self) -> bool:
        return self.title.startswith(("test_", "conftest"))

    @property
    def is_program(self) -> bool:
        return "anyio.run(" in self.source and not self.is_test_file

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def _snippets(page: Path) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("source"))
        yield Snippet(
            page, line, found["language"], found["title"] or "", found["source"], found["endless"] is not None
        )


SNIPPETS = [snippet for page in PAGES for snippet in _snippets(page)]
PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]
TUTORIAL = {snippet.title: snippet for snippet in PYTHON if snippet.page.name == "tutorial.md"}
TEST_FILES = [snippet for snippet in PYTHON if snippet.is_test_file]
ALONE = [snippet for snippet in PYTHON if snippet.is_program and snippet not in TUTORIAL.values()]
PROGRAMS = [snippet for snippet in ALONE if not snippet.is_endless]
SERVICES = [snippet for snippet in ALONE if snippet.is_endless]
FRAGMENTS = [snippet for snippet in PYTHON if not snippet.is_program and not snippet.is_test_file]
FILES = [snippet for snippet in SNIPPETS if snippet.title and snippet.language == "text"]
COMMANDS = [
    pytest.param(line, snippet.page, id=f"{snippet}+{number}")
    for snippet in SNIPPETS
    if snippet.language == "sh"
    for number, line in enumerate(snippet.source.splitlines())
]


def test_the_pages_have_snippets_of_each_kind() -> None:
    assert all([TUTORIAL, TEST_FILES, PROGRAMS, SERVICES, FRAGMENTS, FILES, COMMANDS])
    assert any(snippet.is_endless for snippet in FRAGMENTS)


def test_every_fence_says_what_it_holds() -> None:
    # A fence that the pattern misses, or one of another language, would not be tested.
    fences = sum(len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(SNIPPETS)
    assert {snippet.language for snippet in SNIPPETS} <= {"ini", "python", "sh", "text"}


# Ports and hosts


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _rehosted(source: str, proxy: str, second: str) -> str:
    """The snippet, with ports and hosts that can be used here."""
    # What a proxy binds: any free port.
    source = re.sub(r'Proxy\("tcp://127\.0\.0\.1:5555"', 'Proxy("tcp://127.0.0.1:*"', source)
    # The well-known endpoints that are left are those of proxies that run.
    source = source.replace("tcp://proxy-b.example.org:5555", second)
    source = re.sub(r"tcp://[\w.-]+:5555", proxy, source)
    # The data port of a peer.
    return re.sub(r"port=6000\b", lambda _: f"port={_free_port()}", source)


# Fragments


class _Output:
    """Stands in for ``print``."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.came = anyio.Event()

    def __call__(self, *values: object, flush: bool = False) -> None:
        self.lines.append(" ".join(map(str, values)))
        self.came.set()


@asynccontextmanager
async def _company() -> AsyncIterator[tuple[dict[str, Any], str, str]]:
    """The names of a fragment, and the endpoints of two proxies."""
    async with (
        Proxy("tcp://127.0.0.1:*") as proxy,
        Proxy("tcp://127.0.0.1:*") as second,
        Peer(proxy.endpoint, name="alice") as peer,
        Peer(proxy.endpoint, name="bob") as other,
    ):
        await peer.wait_for(1, timeout=10)
        await other.wait_for(1, timeout=10)
        yield {"peer": peer, "other": other}, proxy.endpoint, second.endpoint


@contextmanager
def _folder(page: Path, folder: Path) -> Iterator[None]:
    """Stay in a folder that has the files of the page."""
    for file in FILES:
        if file.page == page:
            (folder / file.title).write_text(file.source, encoding="utf-8")
    with chdir(folder):
        yield


@pytest.fixture
def restored_logging() -> Iterator[None]:
    logger, root = logging.getLogger("zdisco"), logging.getLogger()
    level, handlers = logger.level, list(root.handlers)
    yield
    logger.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


async def _execute(source: str, name: str, names: dict[str, Any]) -> None:
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # executes it, which may give a coroutine
    if inspect.iscoroutine(result):
        await result


def _names(snippet: Snippet) -> set[str]:
    """The names of rule 1 that a fragment takes for granted."""
    names = [node for node in ast.walk(ast.parse(snippet.source)) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} & {"peer", "other"} - made


@pytest.mark.parametrize("page", sorted({one.page for one in FRAGMENTS}), ids=lambda page: page.stem)
def test_a_page_says_what_its_fragments_take_for_granted(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    fragments = [snippet for snippet in FRAGMENTS if snippet.page == page]
    taken = set[str]().union(*map(_names, fragments))
    if any("async " in snippet.source for snippet in fragments):
        assert "Code with `async with` belongs in an `async def`, or in `python -m asyncio`." in text
    if taken == {"peer"}:
        assert "In the snippets, `peer` is a `Peer` whose block has been entered." in text
    elif taken:
        assert "In the snippets, `peer` and `other` are two `Peer`s whose blocks have been entered." in text


@pytest.mark.anyio
@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("snippet", [one for one in FRAGMENTS if not one.is_endless], ids=str)
async def test_a_fragment_runs_to_its_end(snippet: Snippet, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    async with _company() as (names, proxy, second):
        with anyio.fail_after(20), _folder(snippet.page, short_path):
            await _execute(_rehosted(snippet.source, proxy, second), str(snippet), names | {"print": _Output()})


@pytest.mark.anyio
@pytest.mark.parametrize("snippet", [one for one in FRAGMENTS if one.is_endless], ids=str)
async def test_an_endless_fragment_prints_what_happens(snippet: Snippet) -> None:
    async with _company() as (names, proxy, second):
        output = _Output()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                source = _rehosted(snippet.source, proxy, second)
                tasks.start_soon(_execute, source, str(snippet), names | {"print": output})
                async with Peer(proxy, name="carol"):
                    await output.came.wait()
                tasks.cancel_scope.cancel()
        assert output.lines


# Programs


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@cache
def _outcome(source: str) -> subprocess.CompletedProcess[str]:
    # What its peers host themselves is not one of the proxies that run.
    own = f"tcp://127.0.0.1:{_free_port()}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _rehosted(source, own, "") if "embed=True" in source else source],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=_environment(),
    )


@pytest.mark.parametrize("snippet", PROGRAMS, ids=str)
def test_a_program_runs(snippet: Snippet) -> None:
    done = _outcome(snippet.source)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_says_what_its_program_prints() -> None:
    (program,) = [snippet for snippet in PROGRAMS if snippet.page.name == "README.md"]
    printed = _outcome(program.source).stdout.strip()
    assert printed
    assert f"It prints `{printed}`." in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.timeout(120)  # a whole session of pytest, with each event loop
@pytest.mark.parametrize("page", sorted({one.page for one in TEST_FILES}), ids=lambda page: page.stem)
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    files = [one for one in SNIPPETS if one.page == page and (one in TEST_FILES or one.language == "ini")]
    for file in files:
        (tmp_path / file.title).write_text(file.source, encoding="utf-8")
    # Named one by one: what is installed here may be another zdisco, or have other plugins beside it.
    plugins = ("pytest_asyncio.plugin", "anyio.pytest_plugin", "pytest_zdisco")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-rA", *(part for name in plugins for part in ("-p", name))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [file.title for file in files if file.title.startswith("test_")]
    assert [title for title in tests if f"PASSED {title}::" not in done.stdout] == []
    assert "SKIPPED" not in done.stdout


# The tutorial, step by step


class _Terminal:
    """A program of the tutorial, running."""

    def __init__(self, source: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def line(self) -> str:
        """The next line that it prints; the time limit of the test bounds the wait."""
        return self._output.readline().rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait(20)

    def end(self) -> list[str]:
        """Wait until it ends; the lines that were not read yet."""
        output, errors = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, errors
        assert errors == ""
        return output.splitlines()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=20)


@contextmanager
def _terminals() -> Iterator[Callable[[str], _Terminal]]:
    opened: list[_Terminal] = []

    def start(source: str) -> _Terminal:
        opened.append(_Terminal(source))
        return opened[-1]

    try:
        yield start
    finally:
        for terminal in opened:
            terminal.close()


def _shown_in_tutorial(*lines: str) -> bool:
    return "\n".join(lines) + "\n" in [s.source for s in SNIPPETS if s.page.name == "tutorial.md"]


def test_the_tutorial_goes_as_it_says() -> None:
    with _terminals() as start:
        proxy = start(_rehosted(TUTORIAL["proxy.py"].source, "", ""))
        endpoint = proxy.line().removeprefix("proxy at ")

        def program(title: str) -> _Terminal:
            return start(_rehosted(TUTORIAL[title].source, endpoint, endpoint))

        hello = program("hello.py").end()
        assert hello[0].startswith("I am alice at tcp://127.0.0.1:")
        assert hello[1] == "with me: 0"

        bob = program("listen.py")
        program("speak.py").end()
        assert _shown_in_tutorial(*(bob.line() for _ in range(3)))

        watcher = program("watch.py")
        joined = watcher.line()
        assert joined == "joined bob"
        assert _shown_in_tutorial(joined)
        bob.signal(signal.SIGINT)
        assert bob.end() == []
        assert _shown_in_tutorial(watcher.line())  # gone bob FAREWELL
        bob = program("listen.py")
        assert watcher.line() == joined
        bob.signal(signal.SIGKILL)
        gone = watcher.line()
        assert gone == "gone bob REFUSED"
        assert _shown_in_tutorial(gone)

        bob = program("listen.py")
        assert watcher.line() == joined
        proxy.signal(signal.SIGINT)
        assert proxy.end() == []
        assert _shown_in_tutorial(watcher.line().replace(endpoint, "tcp://127.0.0.1:5555"))  # ProxyLost
        again = TUTORIAL["proxy.py"].source.replace("tcp://127.0.0.1:5555", endpoint)
        assert start(again).line() == f"proxy at {endpoint}"
        assert _shown_in_tutorial(watcher.line().replace(endpoint, "tcp://127.0.0.1:5555"))  # ProxyFound
        # Had bob joined twice, that would stand before his farewell.
        bob.signal(signal.SIGINT)
        assert watcher.line() == "gone bob FAREWELL"
        watcher.signal(signal.SIGINT)
        assert watcher.end() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("snippet", SERVICES, ids=str)
def test_a_program_that_handles_signals_says_farewell(snippet: Snippet, number: signal.Signals) -> None:
    with _terminals() as start:
        endpoint = start(_rehosted(TUTORIAL["proxy.py"].source, "", "")).line().removeprefix("proxy at ")
        watcher = start(_rehosted(TUTORIAL["watch.py"].source, endpoint, endpoint))
        service = start(_rehosted(snippet.source, endpoint, endpoint))
        assert watcher.line() == "joined service"
        assert service.line()
        service.signal(number)
        assert service.end() == []
        assert watcher.line() == "gone service FAREWELL"


# Commands


@pytest.mark.parametrize(("line", "page"), COMMANDS)
def test_a_command_exists(line: str, page: Path, tmp_path: Path) -> None:
    program, *arguments = shlex.split(line)
    match program:
        case "zdisco":
            with _folder(page, tmp_path):
                _check_zdisco(arguments)
        case "make":
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(arguments) <= set(targets)
        case "pip":
            extras = re.findall(r"\[(\w+)\]", line)
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert set(extras) <= project["optional-dependencies"].keys()
        case ".venv/bin/python":
            assert arguments[:2] == ["-m", "bench"]
            bench.__main__.read(arguments[2:])
        case "python":
            assert arguments[0] in TUTORIAL
        case _:
            assert program == "kill"


def _check_zdisco(arguments: list[str]) -> None:
    """The command and its options exist; nothing is started."""
    click = pytest.importorskip("click")
    from zdisco._cli.commands import zdisco

    command, name, rest = zdisco, "zdisco", arguments
    try:
        while isinstance(command, click.Group):
            # What is left when its options are taken.
            with command.make_context(name, list(rest)) as context:
                # click 8.1 has it under the name that later versions warn of.
                parted = "_protected_args" if hasattr(context, "_protected_args") else "protected_args"
                rest = [*getattr(context, parted), *context.args]
            if not rest:
                return
            name, *rest = rest
            command = command.commands[name]
        command.make_context(name, list(rest))
    except click.ClickException as error:
        pytest.fail(f"zdisco {shlex.join(arguments)}: {error.format_message()}")


def _inline_options() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for option in re.findall(r"`(?:zdisco \w+ )?(--[a-z-]+)", page.read_text(encoding="utf-8")):
            yield page.name, option


def test_the_options_that_the_text_names_exist() -> None:
    click = pytest.importorskip("click")
    from zdisco._cli.commands import zdisco

    groups = [zdisco, *(command for command in zdisco.commands.values() if isinstance(command, click.Group))]
    commands = [command for group in groups for command in group.commands.values()]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert [(page, option) for page, option in _inline_options() if option not in known] == []


# What is generated, and what is linked


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date() -> None:
    stale = [path.relative_to(ROOT).as_posix() for path in _generator().out_of_date()]
    assert stale == [], "run: python docs/_generate.py"


def test_every_generated_part_stands_on_a_page() -> None:
    used = {
        name for page in PAGES for name in re.findall(r"<!-- generated: ([\w-]+) -->", page.read_text(encoding="utf-8"))
    }
    assert used == set(_generator().PARTS)


def test_the_pages_can_be_built_and_show_nothing_that_is_not_public(tmp_path: Path) -> None:
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(needed, reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=_environment() | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"MessageStream|_HasEndpoint|\bMonitor\b|<p>::</p>", reference) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize(
    "seen",
    [
        ProxySighting("…", refused=3),
        ProxySighting("…"),
        ProxySighting("…", connected=True),
        ProxySighting("…", connected=True, relay="…"),
        ProxySighting("…", connected=True, relay="…", subscribed=True, announced=7),
    ],
    ids=str,
)
def test_what_was_seen_of_a_proxy_is_explained(seen: ProxySighting) -> None:
    text = re.sub(r"\(no connection: .*\)", "(no connection: …)", str(seen)).replace("7 announces", "N announces")
    assert f"| {text} |" in (DOCS / "howto" / "debug.md").read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """A page without names of modules, and without the generated tables of gossip nodes."""
    text = re.sub(r"`_[\w/]+`", "", page.read_text(encoding="utf-8"))
    return re.sub(r"<!-- generated: gossip-.*?<!-- end -->", "", text, flags=re.DOTALL)


def test_the_pages_use_no_word_that_the_glossary_replaces() -> None:
    # Words of other projects stand in the glossary and in comparisons only, "node" also where it is one of gossip.
    about_gossip = ("gossip.md", "gossip-protocol.md", "proxyless.md", "benchmarks.md")
    pages = [page for page in PAGES if page.name not in ("glossary.md", "README.md", "reference.md")]
    found = [
        (page.name, word)
        for page in pages
        for word in re.findall(r"(?<![Gg]ossip )\b(?:nodes?|EVASIVE|peer table|name server)\b", _prose(page))
        if not (page.name in about_gossip and word in ("node", "nodes"))
    ]
    assert found == []
