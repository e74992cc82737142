"""zpush.d.ts and zpush.js name the same things. Of what type they are, only TypeScript could say."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT

JS, TS = ((ROOT / "zpush/web" / name).read_text() for name in ("zpush.js", "zpush.d.ts"))
NAMES_OF_ERROR = {"name"}  # declared by TypeScript's own Error


def within(text: str, opening: str) -> str:
    """From this line to the next brace at its beginning."""
    found = re.search(rf"^{opening}.*?^\}}", text, re.DOTALL | re.MULTILINE)
    assert found is not None, opening
    return found[0]


def names(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


def listed(pattern: str, text: str) -> set[str]:
    """The names of destructured objects, `a, b: c`."""
    return {name for inside in names(pattern, text) for name in names(r"(?:^|, )(\w+)", inside)}


def test_exports() -> None:
    pattern = r"^export (?:class|const|function) (\w+)"
    assert names(pattern, JS) == names(pattern, TS) >= {"Client", "Message", "Stopped", "CLOSE_CODES"}


@pytest.mark.parametrize("name", ["Client", "Message", "Stopped"])
def test_members(name: str) -> None:
    written = within(JS, f"export class {name} ")
    members = names(r"^  (?:async |get )?([a-z]\w*)(?:\(| =)", written) | names(r"^    this\.(\w+) =", written)
    declared = names(r"^  (?:readonly )?(\w+)[(:]", within(TS, f"export class {name} ")) | {"constructor"}
    assert members - NAMES_OF_ERROR == declared


def test_options() -> None:
    used = (
        names(r"#options\.(\w+)", JS)
        | names(r"^  (\w+):", within(JS, "const DEFAULTS = "))
        | listed(r"\{ ([^{}]+) \} = this\.#options;", JS)
        | listed(r"^(?:  constructor|function \w+)\(.*\{ ([\w, ]+) \}\) \{$", JS)
    )
    assert used == names(r"^  (\w+)\?:", within(TS, "export interface Options "))


def test_states_and_what_is_told_of_them() -> None:
    told = r"#tell(?:IfApart)?\("
    [states] = names(r"^export type State = (.*);", TS)
    assert names(told + r'"(\w+)"', JS) == names(r'"(\w+)"', states)
    keys = listed(told + r'"\w+", \{ ([^{}]*)', JS)
    assert keys == names(r"^  (\w+)\??:", within(TS, "export interface StateInfo "))


def test_what_follows_a_close_code() -> None:
    [following] = names(r"^export type Next = (.*);", TS)
    assert names(r': "(\w+)"', within(JS, "export const CLOSE_CODES = ")) == names(r'"(\w+)"', following)
