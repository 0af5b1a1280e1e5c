"""ZPL: what CZMQ reads, laws for any text and any tree, files that are whole at any moment, and CZMQ itself."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zdisco
from zdisco import zpl
from zdisco.zpl import Section, ZPLError, dump, dumps, load, loads

DATA = json.loads((Path(__file__).parent / "data" / "zpl.json").read_text("utf-8"))
LOADED: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in DATA["load"]}
PUT: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in DATA["puts"]}

# Where CZMQ's two readers differ from each other, and both lose text: refused here.
REFUSED_HERE = {"NUL in the middle": "line 1, column 6: a NUL cannot stand in a text"}

# Comments and blank lines stay where they are; a section that has only children is written without a value, as it is
# in CZMQ until it is stored; a value with a double quote is written so that it can be read.
WRITTEN_OTHERWISE = {
    "only comment": "# hello\n",
    "nested 4": 'a\n    b = "1"\n    c = "2"\n        d = "3"\ne = "4"\n',
    "comment lines": '# one\na = "1"\n    # indented comment\n    b = "2"\n#two\n',
    "trailing comment unquoted": 'a = "1" # c\n',
    "trailing comment after name": 'a = "" # c\n',
    "hash without space unquoted": 'a = "x" #y\n',
    "comment after quoted": 'a = "x" # c\n',
    "hash right after = no space": 'a = "" #c\n',
    "single quotes": "a = 'it \"is\"'\n",
    "quote in the middle unquoted": "a = 'x\"y\"z'\n",
    "duplicate sections": 'a\n    b = "1"\na\n    b = "2"\n',
    "deep 6 levels": "".join(f"{'    ' * depth}{name}\n" for depth, name in enumerate("abcde"))
    + f'{"    " * 5}f = "deep"\n',
    "sibling after deep": 'a\n    b\n        c = "1"\nd = "2"\n    e = "3"\n',
    "blank lines": 'a = "1"\n\n    b = "2"\n',
    "blank line with 3 spaces": 'a = "1"\n\n    b = "2"\n',
    "blank line with 4 spaces": 'a = "1"\n\nb = "2"\n',
    "comment indented 4 at top": '# c\na = "1"\n',
    "section with root name": 'root\n    a = "1"\n',
    "comment no space": '#comment\na = "1"\n',
}


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def plain(section: Section, text: Callable[[str], str]) -> list[Any]:
    """Names, values and children of a tree that is not deep."""
    return [text(section.name), text(section.value), [plain(child, text) for child in section]]


def recorded(section: Section) -> list[Any]:
    """As it stands in the vectors, where no root has a value."""
    _, _, children = plain(section, lambda text: encoded(text).decode("utf-8", "backslashreplace"))
    return ["root", None, children]


def read(text: str | bytes) -> Section | ZPLError:
    try:
        return loads(text)
    except ZPLError as error:
        return error


def shape(*lines: str) -> Section:
    return loads("\n".join(lines))


# -- CZMQ's vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, vector in LOADED.items() if vector["accepted"]))
def test_what_czmq_reads_is_read_alike(name: str) -> None:
    data = bytes.fromhex(LOADED[name]["input_hex"])
    if name in REFUSED_HERE:
        with pytest.raises(ZPLError, match=REFUSED_HERE[name]):
            loads(data)
    else:
        assert recorded(loads(data)) == LOADED[name]["tree"]


@pytest.mark.parametrize("name", sorted(name for name, vector in LOADED.items() if not vector["accepted"]))
def test_what_czmq_refuses_is_refused(name: str) -> None:
    with pytest.raises(ZPLError):
        loads(bytes.fromhex(LOADED[name]["input_hex"]))


@pytest.mark.parametrize("name", sorted(name for name, vector in LOADED.items() if vector["accepted"]))
def test_what_was_read_is_written_as_czmq_does_or_as_the_docs_say(name: str) -> None:
    if name in REFUSED_HERE:
        return
    section = loads(bytes.fromhex(LOADED[name]["input_hex"]))
    written = dumps(section)
    if name in WRITTEN_OTHERWISE:
        assert written == WRITTEN_OTHERWISE[name]
    else:
        assert encoded(written).hex() == LOADED[name]["output_hex"]
    assert loads(written) == section


def test_every_deviation_from_the_vectors_is_one() -> None:
    assert REFUSED_HERE.keys() | WRITTEN_OTHERWISE.keys() <= LOADED.keys()
    assert [name for name, text in WRITTEN_OTHERWISE.items() if text == LOADED[name]["output"]] == []


@pytest.mark.parametrize(
    "name",
    ["put flat", "put deep", "put leading slash", "put twice", "put empty value", "put hash in value", "put percent"],
)
def test_what_is_put_is_found_and_written_as_in_czmq(name: str) -> None:
    root = Section()
    for path, value in PUT[name]["puts"]:
        root.put(path, value)
    # CZMQ has no value where only children were put, and an empty one when it reads that again.
    expected = {path: "" if value is None else value for path, value in PUT[name]["gets"].items()}
    assert {path: root.get(path, "<default>") for path in expected} == expected
    assert dumps(root) == PUT[name]["output"]


def test_get_and_put_take_the_first_of_several_as_in_czmq() -> None:
    vector = PUT["get/put on duplicate sections"]
    root = shape("a", "    b = 1", "a", "    b = 2", "    c = 3")
    assert {path: root.get(path, "<default>") for path in vector["gets"]} == vector["gets"]
    root.put("a/b", "9")
    assert loads(vector["output"]) == root


def test_a_put_value_with_double_quotes_is_written_so_that_it_can_be_read() -> None:
    ((path, value),) = PUT["put quote in value"]["puts"]
    root = Section()
    root.put(path, value)
    assert root.get(path) == value
    assert dumps(root) == "a = 'say \"hi\"'\n"
    with pytest.raises(ZPLError):
        loads(PUT["put quote in value"]["output"])


@pytest.mark.parametrize("name", ["put newline in value", "put trailing slash", "put empty path"])
def test_what_czmq_puts_and_cannot_read_any_more_is_refused(name: str) -> None:
    root = Section()
    ((path, value),) = PUT[name]["puts"]
    with pytest.raises(ValueError, match=r"cannot be a name|cannot hold the value"):
        root.put(path, value)
    assert root == Section()


def test_every_vector_of_put_has_a_test() -> None:
    tested = {"get/put on duplicate sections", "put quote in value"}
    tested |= {"put newline in value", "put trailing slash", "put empty path"}
    tested |= {"put flat", "put deep", "put leading slash", "put twice", "put empty value"}
    assert tested | {"put hash in value", "put percent"} == PUT.keys()


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("a\n  b = 1", 2, 3, "indented by 2 spaces, which is no multiple of 4"),
        ("a\n     # c", 2, 6, "indented by 5 spaces, which is no multiple of 4"),
        ("    a = 1", 1, 5, "indented by 4 spaces where 0 are the most"),
        ("a\n\n        b = 1", 3, 9, "indented by 8 spaces where 4 are the most"),
        ("a\nb\n    c\nd\n        e", 5, 9, "indented by 8 spaces where 4 are the most"),
        ("a\n\tb = 1", 2, 1, "indented by '\\t', only spaces can do that"),
        ("a\n    \tb = 1", 2, 5, "indented by '\\t', only spaces can do that"),
        ("/a = 1", 1, 1, "the name '/a' begins or ends with a slash"),
        ("a\n    bc/ = 1", 2, 7, "the name 'bc/' begins or ends with a slash"),
        ("/", 1, 1, "the name '/' begins or ends with a slash"),
        ("= 1", 1, 1, "expected a name, not '='"),
        ("a = 1\n    é = 1", 2, 5, "expected a name, not 'é'"),
        (b"\xff = 1", 1, 1, "expected a name, not the byte 0xff"),
        ("\ufeffa = 1", 1, 1, "a byte order mark; the text must be stored without"),
        ("a b = 1", 1, 3, "expected '=' or a comment after the name, not 'b'"),
        ("a:b = 1", 1, 2, "expected '=' or a comment after the name, not ':'"),
        ("aé = 1", 1, 2, "expected '=' or a comment after the name, not 'é'"),
        (b"a = \xff'\xc3\xa9'\nb \x80", 2, 3, "expected '=' or a comment after the name, not the byte 0x80"),
        ("a = \"x # c\nb = 'y'", 1, 5, "the quote is not closed"),
        ("a = 'é' x", 1, 9, "expected a comment after the closing quote, not 'x'"),
        ("a = 1\nb = x\0y", 2, 6, "a NUL cannot stand in a text"),
        ("# \0", 1, 3, "a NUL cannot stand in a text"),
        ("a = é\nb = \ud800", 2, 5, "'\\ud800' is no character"),
    ],
)
def test_an_error_says_where_and_why(text: str | bytes, line: int, column: int, reason: str) -> None:
    with pytest.raises(ZPLError) as caught:
        loads(text)
    error = caught.value
    assert (error.path, error.line, error.column, error.reason) == (None, line, column, reason)
    assert str(error) == f"line {line}, column {column}: {reason}"
    assert isinstance(error, zdisco.ZdiscoError)
    assert isinstance(error, ValueError)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.zpl"
    path.write_text("a = 1\n  b\n")
    with pytest.raises(ZPLError) as caught:
        load(path)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}:2:3: indented by 2 spaces, which is no multiple of 4"


def test_the_error_is_public_at_both_places() -> None:
    assert zdisco.ZPLError is zpl.ZPLError
    assert sorted(zpl.__all__) == ["Section", "ZPLError", "dump", "dumps", "load", "loads"]


# -- the tree -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "a/", "a//b", "//a", "/a//b", "a/b/", "b", "a/b/c", "c/d"])
def test_a_path_that_leads_nowhere_finds_nothing(path: str) -> None:
    root = shape("a", "    b = 1", "c/d = 2")
    assert root.locate(path) is None
    assert root.get(path) is None
    assert root.get(path, 5) == 5


def test_a_path_finds_what_stands_there() -> None:
    root = shape("a = 1", "    b = 2", "c")
    assert [root.get(path) for path in ("a", "/a", "a/b", "/a/b", "c")] == ["1", "1", "2", "2", ""]
    inner = root.locate("a")
    assert inner is not None
    assert inner.get("b") == "2"
    assert [child.name for child in root] == ["a", "c"]


def test_a_walk_meets_every_section_in_the_order_of_the_file() -> None:
    root = shape("a", "    b", "        c", "    d", "e")
    assert [(depth, section.name) for depth, section in root.walk()] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
        (1, "d"),
        (0, "e"),
    ]


def test_what_is_put_below_a_value_leaves_the_value() -> None:
    root = shape("a = 1")
    root.put("a/b", "2")
    assert root == shape("a = 1", "    b = 2")


@pytest.mark.parametrize("path", ["", "/", "a/", "a//b", "//a", "a b", "a/é", "a/b=1", "a/#"])
def test_a_path_that_no_file_can_have_is_refused_and_changes_nothing(path: str) -> None:
    root = shape("z = 1")
    with pytest.raises(ValueError, match="cannot be a name"):
        root.put(path, "1")
    assert root == shape("z = 1")


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\"'#", "'\"", " \"'", "\"'\t", "\ud800", "\udcc3\udca9"], ids=ascii)
def test_a_value_that_no_file_can_have_is_refused_wherever_it_is_given(value: str) -> None:
    root = shape("a = 1")
    with pytest.raises(ValueError, match="ZPL cannot hold the value"):
        root.put("a/b/c", value)
    with pytest.raises(ValueError, match="ZPL cannot hold the value"):
        root.children[0].value = value
    with pytest.raises(ValueError, match="ZPL cannot hold the value"):
        Section("a", value)
    assert root == shape("a = 1")


@pytest.mark.parametrize("name", ["", "/a", "a/", "a b", "é", "a\n", "=", "#", "a:b", "*"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        Section(name)


def test_what_is_no_text_is_refused() -> None:
    root = Section()
    for wrong in (1, None, b"1", True):
        with pytest.raises(TypeError, match=r"a value must be a text, not "):
            root.put("a", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"a name must be a text, not "):
            Section(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"a comment must be a text, not "):
            Section(beside=wrong)  # type: ignore[arg-type]
    assert not root.children


def test_trees_are_compared_by_what_they_say() -> None:
    root = shape("a = 1", "    b = 2")
    assert root == shape("# c", "a = '1' # d", "", "    b = 2")
    assert root != shape("a = 1", "    c = 2")
    assert root != shape("a = 1", "    b = 3")
    assert root != shape("a = 1", "b = 2")
    assert root != shape("a = 1", "    b = 2", "    b = 2")
    assert root != "a = 1"
    with pytest.raises(TypeError, match="unhashable"):
        hash(root)


def test_a_tree_can_be_copied_and_sent_to_another_process() -> None:
    root = shape("# head", "", "a = 1 # c", "    b = 2")
    for copied in (copy.deepcopy(root), pickle.loads(pickle.dumps(root))):
        assert copied == root
        assert dumps(copied) == dumps(root)
    copied.put("a/b", "3")
    assert root.get("a/b") == "2"


def test_a_tree_of_many_sections_has_a_short_repr() -> None:
    assert repr(shape("a = 1", "    b", "    c").children[0]) == "Section(name='a', value='1', children=<2>)"


@pytest.mark.parametrize(
    "section", [Section("server"), Section(value="1"), Section(beside="# c"), shape("a = 1").children[0]]
)
def test_only_a_root_is_written_since_more_would_be_lost(section: Section) -> None:
    with pytest.raises(ValueError, match="only a root can be written"):
        dumps(section)


def test_no_depth_is_too_deep() -> None:
    depth = 1500
    root = Section()
    root.put("/".join("a" * depth), "bottom")
    written = dumps(root)
    again = loads(written)
    assert again == root
    assert dumps(again) == written
    assert max(level for level, _ in again.walk()) == depth - 1
    assert again.get("/".join("a" * depth)) == "bottom"
    assert repr(again)


# -- comments -----------------------------------------------------------------------------------

COMMENTED = """\
# Of the file
#
# all of it

# of the server
server # too
    # of the timeout
    timeout = "10000"

    # of the silence
    silence = "5000" #unit: ms
        # below the silence
    # below the server
    #   once more

# of the root
security
    # of nobody
# the end
"""


def test_every_comment_and_the_blank_lines_stay_where_they_are() -> None:
    root = loads(COMMENTED)
    assert dumps(root) == COMMENTED
    server, security = root
    timeout, silence = server
    assert root.above == ["# Of the file", "#", "# all of it"]
    assert (server.above, server.beside) == (["# of the server"], "# too")
    assert server.below == ["# below the server", "#   once more"]
    assert timeout.above == ["# of the timeout"]
    assert silence.above == ["", "# of the silence"]
    assert silence.beside == "#unit: ms"
    assert silence.below == ["# below the silence"]
    assert security.above == ["", "# of the root"]
    assert security.below == ["# of nobody"]
    assert root.below == ["# the end"]


def test_comments_go_with_what_they_belong_to() -> None:
    root = loads(COMMENTED)
    root.children.pop(0)
    root.put("security/mechanism", "null")
    assert dumps(root) == (
        '# Of the file\n#\n# all of it\n\n# of the root\nsecurity\n    mechanism = "null"\n    # of nobody\n# the end\n'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\n\n# c\n\n\n\na\n\n\n", '# c\n\na = ""\n'),
        ("# c\na", '# c\na = ""\n'),
        ("a\n        # far\n    # near\n            # far again\nb", "a\n    # far\n    # near\n    # far again\n"),
        ("a\n    b\n# c\n        # d\ne", 'a\n    b = ""\n# c\n# d\n'),
        ("a\n    \t# tab\nb", "a\n    # tab\n"),
        ("# a  \r\n\r\nb\r\n", '# a\n\nb = ""\n'),
        ('b\na = # it\'s "x"', 'b = ""\na = # it\'s "x"\n'),
        ('a = it\'s "x" # c', 'a = it\'s "x" # c\n'),
    ],
)
def test_comments_and_blank_lines_come_into_one_form(text: str, written: str) -> None:
    first = dumps(loads(text))
    assert first.startswith(written)
    assert dumps(loads(first)) == first


def test_a_comment_beside_a_value_that_would_swallow_it_goes_above() -> None:
    root = Section(children=[Section("a", children=[Section("b", '# it\'s "x"', beside="# c")])])
    assert dumps(root) == 'a\n    # c\n    b = # it\'s "x"\n'


@pytest.mark.parametrize("comment", ["c", " # c", "# c\nd", "# \0", "# \ud800"])
def test_a_comment_that_is_none_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="cannot be a comment"):
        Section(beside=comment)
    for root in (
        Section(above=[comment]),
        Section(below=[comment]),
        Section(children=[Section("a", above=[comment])]),
        Section(children=[Section("a", below=[comment])]),
    ):
        with pytest.raises(ValueError, match="cannot be a comment"):
            dumps(root)


# -- laws ---------------------------------------------------------------------------------------

# Where every character means something, or nearly does.
DENSE = " \t\r\v\f#='\"/ab.é\x85\xa0\u2028"


def holds(value: str) -> bool:
    try:
        Section("a", value)
    except ValueError:
        return False
    return True


any_value = (
    st.text(DENSE, max_size=8)
    | st.text(max_size=8)
    | st.binary(max_size=6).map(lambda b: b.decode("utf-8", "surrogateescape"))
)
values = any_value.filter(holds)
names = st.sampled_from(["a", "b", "a/b", "$-_@.&+", "0", "root"])
comments = st.text(DENSE, max_size=4).map(lambda text: f"#{text}")
lines_above = st.lists(comments | st.just(""), max_size=3)


def holding(children: st.SearchStrategy[list[Section]]) -> st.SearchStrategy[Section]:
    return st.builds(
        Section,
        names,
        values,
        children,
        above=lines_above,
        beside=comments | st.just(""),
        below=lines_above,
    )


sections = st.recursive(holding(st.builds(list)), lambda inner: holding(st.lists(inner, max_size=3)), max_leaves=8)
trees = st.builds(Section, children=st.lists(sections, max_size=3), above=lines_above, below=lines_above)

# Lines that are often ZPL.
indents = st.sampled_from(["", "", "    ", "    ", "        ", "  ", "\t", "            "])
parts = st.sampled_from(
    ["a", "b", "=", " = ", " ", "#", "# c", "'", '"', "'x'", '"y"', "/", "é", "\t", "\r", "\\", ":"]
)
texts = (
    st.lists(st.tuples(indents, st.lists(parts, max_size=6).map("".join)).map("".join), max_size=8).map("\n".join)
    | st.text(DENSE + "\n", max_size=30)
).map(str.encode) | st.binary(max_size=30)


@given(trees)
def test_reading_undoes_writing(tree: Section) -> None:
    written = dumps(tree)
    assert loads(written) == tree
    assert loads(encoded(written)) == tree


@given(trees)
def test_what_was_written_and_read_is_written_alike_with_all_comments(tree: Section) -> None:
    written = dumps(tree)
    assert dumps(loads(written)) == written
    kept = [*tree.above, *tree.below]
    for _, section in tree.walk():
        kept += [*section.above, section.beside, *section.below]
    assert all(comment.rstrip(" \t\r\v\f") in written for comment in kept)


@given(texts)
def test_any_bytes_end_in_a_tree_that_can_be_written_or_in_the_one_error(data: bytes) -> None:
    outcome = read(data)
    if isinstance(outcome, ZPLError):
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        assert 1 <= outcome.column <= len(lines[outcome.line - 1])
    else:
        written = dumps(outcome)
        assert loads(written) == outcome
        assert dumps(loads(written)) == written


@given(st.text(max_size=30) | st.text(DENSE + "\n", max_size=30))
def test_a_text_is_read_as_its_bytes_are(text: str) -> None:
    one, other = read(text), read(text.encode())
    assert str(one) == str(other) if isinstance(one, ZPLError) else one == other


def test_escaped_bytes_that_are_utf_8_together_are_read_as_such() -> None:
    assert loads("a = \udcc3\udca9").get("a") == "é"


@given(any_value | st.text("'\"# a\t\n", max_size=5))
def test_a_value_is_refused_only_if_no_spelling_of_it_is_read_as_it(value: str) -> None:
    outcomes = [read(f"a = {spelling}") for spelling in (value, f'"{value}"', f"'{value}'")]
    can_be_read = [outcome for outcome in outcomes if isinstance(outcome, Section) and outcome.get("a") == value]
    assert holds(value) == bool(can_be_read)


# -- files --------------------------------------------------------------------------------------

OLD = shape("a = old")
NEW = shape("a = new", "    b = é")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds the old tree."""
    path = tmp_path / "one.zpl"
    dump(OLD, path)
    return path


def names_beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize("kind", [str, Path])
def test_what_was_stored_is_loaded(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    path = kind(tmp_path / "new.zpl")
    tree = loads(b"a = \xff\xc3\xa9\r\n# c")
    dump(tree, path)
    assert Path(path).read_bytes() == b'a = "\xff\xc3\xa9"\n# c\n'
    assert load(path) == tree
    assert names_beside(Path(path)) == ["new.zpl"]


def test_a_changed_file_is_read_anew(path: Path) -> None:
    assert load(path) == OLD
    dump(NEW, path)
    assert load(path) == NEW


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        dump(NEW, tmp_path / "new.zpl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.zpl").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o640])
def test_a_file_keeps_its_mode(path: Path, mode: int) -> None:
    path.chmod(mode)
    dump(NEW, path)
    assert load(path) == NEW
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_keeps_its_owner(path: Path) -> None:
    os.chown(path, 4711, 4712)
    dump(NEW, path)
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


def test_a_symbolic_link_stays_and_its_target_is_written(path: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.zpl"
    link.symlink_to("../one.zpl")
    dump(NEW, link)
    assert link.is_symlink()
    assert not path.is_symlink()
    assert load(path) == NEW
    assert names_beside(path) == ["links", "one.zpl"]
    assert names_beside(link) == ["link.zpl"]


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    link = tmp_path / "link.zpl"
    link.symlink_to("target.zpl")
    dump(NEW, link)
    assert link.is_symlink()
    assert load(tmp_path / "target.zpl") == NEW


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        dump(NEW, path)
        assert loads(os.read(reader, 1000)) == NEW
    finally:
        os.close(reader)
    assert path.is_fifo()
    assert names_beside(path) == ["pipe"]


@pytest.mark.parametrize("step", ["fchmod", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)) as caught:
        dump(NEW, path)
    assert caught.value is error
    monkeypatch.undo()
    assert load(path) == OLD
    assert names_beside(path) == ["one.zpl"]


def test_the_text_is_on_disk_before_it_takes_the_place_of_the_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("sync")
        assert os.fstat(descriptor).st_size == len(encoded(dumps(NEW)))
        sync(descriptor)

    def replaced(source: str, target: str) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    dump(NEW, path)
    assert steps == ["sync", "replace"]


def test_a_tree_that_cannot_be_written_leaves_the_old_file(path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be a comment"):
        dump(Section(above=["no comment"]), path)
    assert load(path) == OLD
    assert names_beside(path) == ["one.zpl"]


def test_whoever_reads_while_others_write_finds_a_whole_file(path: Path) -> None:
    trees = [Section(children=[Section("a", str(number))] * 2000) for number in range(2)]
    dump(trees[0], path)

    def write() -> None:
        for number in range(40):
            dump(trees[number % 2], path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            assert load(path) in trees
    finally:
        writer.join()
    assert names_beside(path) == ["one.zpl"]


def test_a_name_as_long_as_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    dump(NEW, path)
    dump(NEW, path)
    assert load(path) == NEW


def test_what_is_not_there_raises_as_open_does(tmp_path: Path) -> None:
    missing = tmp_path / "missing.zpl"
    with pytest.raises(FileNotFoundError) as caught:
        load(missing)
    assert caught.value.filename == str(missing)
    with pytest.raises(FileNotFoundError) as caught:
        dump(NEW, missing / "below.zpl")
    assert caught.value.filename == str(missing / "below.zpl")
    for function in (load, lambda path: dump(NEW, path)):
        with pytest.raises(IsADirectoryError):
            function(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_a_file_that_may_not_be_written_stays_as_it_is(path: Path) -> None:
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        dump(NEW, path)
    assert load(path) == OLD


# -- CZMQ itself --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def czmq() -> Iterator[Callable[[bytes], Any]]:
    """Asks CZMQ for a tree of hex texts, and the text that it writes of it."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "zconfig.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="ascii",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        questions, answers = process.stdin, process.stdout
        if answers.readline() != "ready\n":
            reason = process.stderr.read()
            assert "cannot be loaded" in reason
            pytest.skip(reason)

        def ask(text: bytes) -> Any:
            questions.write(f"{text.hex()}\n")
            questions.flush()
            return json.loads(answers.readline())

        yield ask


def in_hex(tree: Section) -> list[Any]:
    return plain(tree, lambda text: encoded(text).hex())


@settings(deadline=None, max_examples=500)
@given(data=texts.filter(lambda text: b"\0" not in text))
def test_czmq_reads_any_text_alike(czmq: Callable[[bytes], Any], data: bytes) -> None:
    ours, theirs = read(data), czmq(data)
    if isinstance(ours, ZPLError):
        assert theirs is None
    else:
        assert theirs is not None
        assert theirs[0] == in_hex(ours)


@settings(deadline=None)
@given(tree=trees)
def test_czmq_reads_what_we_write_and_we_read_what_it_writes(czmq: Callable[[bytes], Any], tree: Section) -> None:
    theirs, written = czmq(encoded(dumps(tree)))
    assert theirs == in_hex(tree)
    # It writes values with double quotes so that nobody can read them.
    if all('"' not in section.value for _, section in tree.walk()):
        assert loads(bytes.fromhex(written)) == tree


def test_a_section_within_itself_cannot_be_written() -> None:
    root = zpl.loads("a = 1\n    b = 2\n        c = 3\n    d = 4\n")
    (a,) = root.children
    a.children[0].children[0].children.append(a)
    with pytest.raises(ValueError, match="the section 'a' stands within itself"):
        zpl.dumps(root)
    root.children.append(root)
    a.children[0].children[0].children.clear()
    with pytest.raises(ValueError, match="the section 'root' stands within itself"):
        zpl.dumps(root)


def test_a_section_may_stand_at_two_places() -> None:
    root = zpl.loads("a\n    b = 1\nc = 2\n")
    root.locate("c").children.append(root.locate("a"))  # type: ignore[union-attr, arg-type]
    assert zpl.loads(zpl.dumps(root)) == root


@pytest.mark.parametrize("wrong", [None, 1, ["a"]])
def test_what_is_no_text_is_named(wrong: Any) -> None:
    root = zpl.loads("a = 1\n")
    for call in (zpl.loads, root.locate, root.get, lambda path: root.put(path, "x")):
        with pytest.raises(TypeError, match=re.escape(repr(wrong))):
            call(wrong)
