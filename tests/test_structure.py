"""The shape of the source tree: who may import whom, what is public, what the docs say about it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "zdisco"

# A module may import only what stands above it. Inside `_cli` the order is free.
ORDER = [
    "_core/model",
    "_core/errors",
    "_core/config",
    "_core/timers",
    "_core/endpoints",
    "_core/names",
    "_core/events",
    "_core/wire",
    "_core/envelope",
    "_core/prefixes",
    "_core/interests",
    "_core/publications",
    "_core/counts",
    "_core/actions",
    "_core/link",
    "_core/links",
    "_core/detector",
    "_core/roster",
    "_core/relay",
    "_core/discovery",
    "_core/gossip/frames",
    "_core/gossip/model",
    "_core/gossip/talk",
    "_core/gossip/store",
    "_core/gossip/classics",
    "_core/gossip/node",
    "zpl",
    "_loops",
    "_jumping",
    "_probe",
    "_ipc",
    "_turns",
    "_zmq/sockets",
    "_zmq/keys",
    "_zmq/options",
    "_zmq/replies",
    "_zmq/accepted",
    "_zmq/monitor",
    "_channels",
    "_zmq/channels",
    "_zmq/network",
    "_zmq/remotes",
    "_zmq/clients",
    "_zmq/gossip",
    "_arguments",
    "_home",
    "_hosts",
    "_background",
    "_streams",
    "_messages",
    "_driver",
    "_names",
    "_publisher",
    "_requests",
    "_reachability",
    "_services",
    "_proxy",
    "_embedded",
    "_deliveries",
    "_gossip_settings",
    "_gossip_driver",
    "_gossip",
    "_gossip_relay",
    "_peer",
    "_responder",
    "testing",
    "__init__",
    "_cli/*",
    "__main__",
]

# These only hold a docstring, so that importing a module below them imports nothing else.
EMPTY = {"_core/__init__", "_core/gossip/__init__", "_zmq/__init__"}

# What gives the same answer each time it is asked, and talks to nobody.
CORE_IMPORTS = {
    "__future__",
    "abc",
    "attr",
    "attrs",
    "bisect",
    "collections",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "uuid",
    "zlib",
}

# The impure part of what is allowed above, and of the builtins.
CORE_FORBIDDEN_NAMES = {"uuid1", "uuid4", "getnode", "print", "open", "input", "exec", "eval", "__import__"}


@frozen
class Import:
    """One import statement: who, in which line, and the dotted module that it names."""

    importer: str
    line: int
    target: str

    @property
    def top(self) -> str:
        """The top-level package that is imported."""
        return self.target.partition(".")[0]

    @property
    def is_ours(self) -> bool:
        return self.top == "zdisco"

    def __str__(self) -> str:
        return f"{self.importer}.py:{self.line} imports {self.target}"


def _modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def _row(module: str) -> int | None:
    name = "_cli/*" if module.startswith("_cli/") else module
    return ORDER.index(name) if name in ORDER else None


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The dotted name that the statement imports from; one dot is the package that holds the module."""
    if not node.level:
        return node.module or ""
    package = ["zdisco", *module.split("/")[:-1]]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _file(dotted: str) -> str | None:
    """The module of ours with that dotted name, as it is written in ``ORDER``."""
    top, *below = dotted.split(".")
    path = "/".join(below)
    for candidate in (path, f"{path}/__init__".lstrip("/")):
        if top == "zdisco" and (PACKAGE / f"{candidate}.py").is_file():
            return candidate
    return None


def _imports(module: str) -> Iterator[Import]:
    """Every import in the module: at its top, inside functions, for the type checker only."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:
                # `from ._zmq import sockets` imports a module, `from .model import Cause` a name of one.
                submodule = f"{base}.{alias.name}"
                yield Import(module, node.lineno, submodule if _file(submodule) else base)


def _points_up(found: Import) -> bool:
    """Whether an import of ours names a module that does not stand above the importer."""
    target = _file(found.target)
    if target in EMPTY:
        return False
    here, there = _row(found.importer), _row(target) if target else None
    if here is None or there is None:
        return True
    return there > here or (there == here and ORDER[here] != "_cli/*")


MODULES = _modules()
CORE = [module for module in MODULES if module.startswith("_core/")]


def test_every_module_has_a_row_in_the_order() -> None:
    assert [module for module in MODULES if module not in EMPTY and _row(module) is None] == []


def test_every_row_of_the_order_is_a_module() -> None:
    assert [name for name in ORDER if not list(PACKAGE.glob(f"{name}.py"))] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    assert [str(found) for found in _imports(module) if found.is_ours and _points_up(found)] == []


@pytest.mark.parametrize("module", sorted(EMPTY))
def test_inner_packages_import_nothing(module: str) -> None:
    assert [str(found) for found in _imports(module)] == []


@pytest.mark.parametrize(
    ("importer", "target", "up"),
    [
        ("_core/roster", "zdisco._core.actions", False),
        ("_core/actions", "zdisco._core.roster", True),
        ("_core/link", "zdisco._core.link", True),
        ("_core/link", "zdisco", True),
        ("_peer", "zdisco._core.model", False),
        ("_core/model", "zdisco._peer", True),
        ("_core/model", "zdisco.no_such_module", True),
    ],
)
def test_an_import_that_points_up_is_told_from_one_that_points_down(importer: str, target: str, up: bool) -> None:
    assert _points_up(Import(importer, 1, target)) is up


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_only_what_is_pure(module: str) -> None:
    foreign = [found for found in _imports(module) if not found.is_ours]
    assert [str(found) for found in foreign if found.top not in CORE_IMPORTS] == []


@pytest.mark.parametrize("module", CORE)
def test_the_core_reads_no_clock_draws_no_random_number_and_prints_nothing(module: str) -> None:
    used = [
        f"{module}.py:{node.lineno} uses {name}"
        for node in ast.walk(_tree(module))
        for name in _names(node)
        if name in CORE_FORBIDDEN_NAMES and isinstance(node, ast.Name | ast.Attribute | ast.ImportFrom)
    ]
    assert used == []


def _names(node: ast.AST) -> list[str]:
    """The names that a node uses: plain, of a module of ours or the standard library, or imported."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=ast.Name(id="uuid"), attr=name):
            return [name]
        case ast.ImportFrom(names=aliases):
            return [alias.name for alias in aliases]
    return []


def test_only_the_zmq_package_imports_zmq() -> None:
    others = [module for module in MODULES if not module.startswith("_zmq/")]
    found = [found for module in others for found in _imports(module) if found.top == "zmq"]
    assert [str(one) for one in found] == []


def test_hard_dependencies_are_pyzmq_anyio_and_attrs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[^\w-]", one)[0] for one in project["dependencies"]} == {"pyzmq", "anyio", "attrs"}
    assert len(project["dependencies"]) == 3


IMPORT_AND_LOOK = """
import logging, os, sys, threading

def descriptors():
    if not os.path.isdir("/proc/self/fd"):
        return 0
    return len(os.listdir("/proc/self/fd"))

before = descriptors()
import zdisco, zdisco.testing
assert zdisco.__file__, "zdisco is not a package"
assert descriptors() == before, "import opened a descriptor"
assert threading.active_count() == 1, threading.enumerate()
if os.path.isdir("/proc/self/task"):
    assert len(os.listdir("/proc/self/task")) == 1, "import started a thread"
loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
assert not any(logger.handlers for logger in loggers), "import added a logging handler"
loops = {"asyncio", "trio", "uvloop", "zmq.asyncio", "zmq.green", "zmq.eventloop", "tornado", "gevent"}
heavy = {"click", "rich"} | loops
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def test_importing_zdisco_has_no_effect_beyond_the_import() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_AND_LOOK], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


def _public() -> list[str]:
    import zdisco

    return list(zdisco.__all__)


def test_the_list_of_public_names_is_sorted_and_has_no_name_twice() -> None:
    assert _public() == sorted(set(_public()))


def test_every_public_name_is_there() -> None:
    import zdisco

    assert [name for name in _public() if not hasattr(zdisco, name)] == []


def test_public_names_call_themselves_by_the_name_that_users_import() -> None:
    import zdisco

    classes_and_functions = set(zdisco.__all__) - {"Event"}
    assert {getattr(zdisco, name).__module__ for name in classes_and_functions} == {"zdisco"}


def test_the_reference_documents_the_public_names_and_no_others() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: zdisco\.(\w+)$", text, re.MULTILINE)) == _public()


def _mapped() -> list[str]:
    """The first column of the table in ``docs/architecture.md``."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)


def test_the_map_names_exactly_the_modules_that_exist() -> None:
    assert sorted(_mapped()) == [module for module in MODULES if module not in EMPTY]


def test_the_map_is_in_the_order_of_import() -> None:
    rows = [_row(module) for module in _mapped()]
    assert None not in rows
    assert rows == sorted(row for row in rows if row is not None)


def _source_files() -> list[Path]:
    """What is, or would be, under version control; without git, what make does not make."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]
    made = {"site", "build", "dist", "__pycache__"}
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not any(
            part in made or (part.startswith(".") and part not in {".ci", ".gitignore"})
            for part in path.relative_to(ROOT).parts
        )
    ]


# Written so that it does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~>*-])/(?:work|root|home|Users|tmp/exp)/|-index-ur[l]\b")


@pytest.mark.parametrize("text", ["see /{}/main", "'/{}/x'", "file:///{}/x", "PATH=/{}/x"])
@pytest.mark.parametrize("place", ["work", "root", "home", "tmp/exp"])
def test_a_path_of_one_machine_is_recognised(text: str, place: str) -> None:
    assert MACHINE_PATH.search(text.format(place))


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in _source_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


def test_no_lock_file_is_kept() -> None:
    names = {path.name for path in _source_files()}
    assert {name for name in names if name.endswith(".lock") or name == "package-lock.json"} == set()
