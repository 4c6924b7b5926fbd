"""Keys go stale honestly: when code that numbers depend on changes, somebody has to decide whether its VERSION does.

`tests/versions.json` holds, for each source, its VERSION and a hash of its code without comments, docstrings and layout.
After a change: bump the VERSION that the message names if stored numbers would come out differently, and in any case run

    python tests/test_versions.py --record
"""

import ast
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "versions.json"

# Sources whose VERSION is another file's. A tuple names the functions that matter, where the rest of the file does not.
SCORING = ("sweeper/keys.py", "SCORING_VERSION")
TRAINING = ("sweeper/config.py", "TRAINING_VERSION")
PROBES = ("sweeper/keys.py", "PROBES_VERSION")
SHARED: dict[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "sweeper/scoring.py": (SCORING, ()),
    "sweeper/materials.py": (SCORING, ()),
    "sweeper/distances.py": (SCORING, ()),
    "models/_folding.py": (SCORING, ()),
    "sweeper/datasets/_splits.py": (SCORING, ("stratified_indices", "choose")),
    "sweeper/training.py": (TRAINING, ()),
    "sweeper/networks.py": (TRAINING, ()),
    "sweeper/probing.py": (PROBES, ()),
    **{f"sweeper/probes/{name}.py": (PROBES, ()) for name in ("_subject", "all", "gradients", "integrity", "strength", "variants")},
    "attacks/_torchattacks.py": (("attacks/_torchattacks.py", "WRAPPER_VERSION"), ()),
}


def sources() -> list[str]:
    """Return the files that keys depend on, relative to the root."""
    found = [path for folder in ("models", "attacks", "sweeper/datasets") for path in sorted((ROOT / folder).glob("*.py"))]
    chosen = [str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py"]
    own = [name for name in chosen if not name.startswith("sweeper/datasets/_")]
    return sorted({*own, *SHARED})


def version_place(source: str) -> tuple[str, str]:
    return SHARED[source][0] if source in SHARED else (source, "VERSION")


def version_in(code: str, name: str) -> int | None:
    """Return the whole number assigned to a name at the top of a module, or None."""
    for node in ast.parse(code).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value  # pyright: ignore[reportAttributeAccessIssue]
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, int) else None
    return None


def code_hash(code: str, functions: tuple[str, ...] = ()) -> str:
    """Return a hash of what code does: its syntax tree without docstrings and version numbers, of some functions or of all."""
    tree = ast.parse(code)
    body = tree.body if ast.get_docstring(tree) is None else tree.body[1:]
    if functions:
        body = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in functions]
        missing = set(functions) - {node.name for node in body}  # pyright: ignore[reportAttributeAccessIssue]
        assert not missing, f"no functions {sorted(missing)}: change SHARED in tests/test_versions.py"
    return hashlib.sha256(repr([_plain(node) for node in body if not _is_version(node)]).encode()).hexdigest()[:16]


def _is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id.endswith("VERSION") for target in node.targets)


def _plain(node: Any) -> Any:
    """Return a tree as tuples, without what differs between Python versions: empty fields, contexts, kinds."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment") and value not in (None, [])}
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return (type(node).__name__, [(name, _plain(value)) for name, value in sorted(fields.items())])


def now(source: str) -> dict[str, object]:
    place, name = version_place(source)
    functions = SHARED[source][1] if source in SHARED else ()
    return {"version": version_in((ROOT / place).read_text(), name), "code": code_hash((ROOT / source).read_text(), functions)}


def complaint(source: str, before: dict[str, object] | None, after: dict[str, object]) -> str | None:
    """Return what to do about a source, or None if all is decided."""
    place, name = version_place(source)
    record = "run `python tests/test_versions.py --record`"
    if before is None:
        return f"{source} is new: {record}"
    if before["code"] == after["code"]:
        return None
    if before["version"] != after["version"]:
        return f"{source} changed and {name} in {place} was bumped: {record}"
    return (
        f"{source} changed, and {name} in {place} is still {after['version']}. Would a stored result come out differently? "
        f"If so, make it {int(str(after['version'])) + 1}. In any case, {record}"
    )


@pytest.mark.parametrize("source", sources())
def test_changed_code_has_a_decided_version(source: str) -> None:
    record = json.loads(RECORD.read_text())
    if problem := complaint(source, record.get(source), now(source)):
        pytest.fail(problem, pytrace=False)


@pytest.mark.parametrize("source", sources())
def test_every_source_that_keys_depend_on_has_a_version(source: str) -> None:
    place, name = version_place(source)
    assert isinstance(version_in((ROOT / place).read_text(), name), int), f"{place} needs a line `{name} = 1`"


def test_the_record_holds_no_source_that_is_gone() -> None:
    gone = sorted(set(json.loads(RECORD.read_text())) - set(sources()))
    assert not gone, f"{gone} are recorded and gone: run `python tests/test_versions.py --record`"


def test_comments_docstrings_layout_and_versions_do_not_count_as_code() -> None:
    code = 'VERSION = 1\n\n\ndef f(x):\n    """Return x."""\n    return x + 1  # one\n'
    same = 'VERSION = 2\ndef f(\n    x,\n):\n    """Say it otherwise."""\n    # no comment\n    return x + 1\n'
    assert code_hash(code) == code_hash(same)
    assert code_hash(code) != code_hash(code.replace("+ 1", "+ 2"))
    assert code_hash(code, ("f",)) == code_hash(code + "def g():\n    return 3\n", ("f",)) != code_hash(code + "def g():\n    return 3\n")


def test_a_change_nobody_decided_about_says_what_to_do() -> None:
    before = {"version": 1, "code": "a"}
    assert complaint("models/unet.py", before, before) is None
    undecided = complaint("models/unet.py", before, {"version": 1, "code": "b"})
    assert undecided is not None
    assert "VERSION in models/unet.py is still 1" in undecided
    assert "make it 2. In any case, run `python tests/test_versions.py --record`" in undecided
    assert "SCORING_VERSION in sweeper/keys.py" in str(complaint("sweeper/scoring.py", before, {"version": 1, "code": "b"}))
    assert "was bumped: run" in str(complaint("models/unet.py", before, {"version": 2, "code": "b"}))
    assert "is new" in str(complaint("models/unet.py", None, before))


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    RECORD.write_text(json.dumps({source: now(source) for source in sources()}, indent=1) + "\n")
    print(f"recorded {len(sources())} sources in {RECORD.relative_to(ROOT)}")
