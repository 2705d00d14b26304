"""Every message of an error of ours is named by a test, by words that no other message has."""

import ast
import re
from pathlib import Path

from facezoo import errors

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "common" / "facezoo"
CLASSES = {name for name in errors.__all__ if name != "UNREADABLE"}
LONGEST = 6  # words that are compared


def fixed_parts(node):
    """Return the parts of a message that stand in the code; values lie between them."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [""]
        for one in node.values:
            if isinstance(one, ast.Constant):
                parts[-1] += one.value
            else:
                parts.append("")
        return parts
    if isinstance(node, ast.BinOp):
        return fixed_parts(node.left) + fixed_parts(node.right)
    if isinstance(node, ast.IfExp):
        return fixed_parts(node.body) + fixed_parts(node.orelse)
    return []


def phrases(parts):
    """Return all runs of two or more words."""
    found = set()
    for part in parts:
        # A number behind a word, as in input_0, may be a value.
        words = [re.sub(r"(?<=\D)\d+$", "", word) for word in re.findall(r"\w[\w-]*", part)]
        for count in range(2, LONGEST + 1):
            found |= {tuple(words[i : i + count]) for i in range(len(words) - count + 1)}
    return found


def messages(text):
    """Return line and phrases of every error that is made."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    for call in calls:
        name = getattr(call.func, "id", "")
        if name in CLASSES and call.args:
            yield call.lineno, phrases(fixed_parts(call.args[0]))


def named_in(texts):
    """Return the phrases of all texts in tests, without what escapes them in patterns."""
    found = set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= phrases(re.split(r"\.\*|\|", node.value.replace("\\", "")))
    return found


def unnamed(sources, named):
    """Return the messages that no test names; those that only have words of others are left out."""
    found = {(path, line): said for path, text in sources for line, said in messages(text)}
    counts = {}
    for said in found.values():
        for phrase in said:
            counts[phrase] = counts.get(phrase, 0) + 1
    own = {place: {one for one in said if counts[one] == 1} for place, said in found.items()}
    return [f"{path}:{line}" for (path, line), said in own.items() if said and not said & named]


def test_every_message_is_named_by_a_test():
    sources = [
        (path.relative_to(REPOSITORY).as_posix(), path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
    tests = [path.read_text("utf-8") for path in sorted((REPOSITORY / "tests").rglob("*.py"))]
    assert unnamed(sources, named_in(tests)) == []


def test_a_message_without_a_test_is_noticed():
    code = "InputError(f'{path!r} is a {kind} of nobody; expected one of {kinds}: give it')"
    other = "GateError('another message; expected one of these')"
    sources = [("a.py", code), ("b.py", other)]
    assert unnamed(sources, named_in(["'another message'"])) == ["a.py:1"]
    assert unnamed(sources, named_in([r"r'another message.*of nobody\; expected'"])) == []
    # Words that are also in another message name none.
    assert unnamed(sources, named_in(["'expected one of'"])) == ["a.py:1", "b.py:1"]
