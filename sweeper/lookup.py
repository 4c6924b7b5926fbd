"""Find a model, attack, data set or search space: a file's name is its name, nothing is registered.

A name can also be a path to the user's own Python file. Such a file is loaded under a module name made from its content, and is from then on
called `file:STEM@SHA`: that canonical name enters the keys, so a changed file is a different model, and its source can be sent to other
processes (`sources`, `register_sources`), which need not have the file.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "attacks", "search_spaces")
FOLDERS = {
    "models": ROOT / "models",
    "attacks": ROOT / "attacks",
    "search_spaces": ROOT / "search_spaces",
    "datasets": ROOT / "sweeper" / "datasets",
}
_NOUNS = {"models": "model", "attacks": "attack", "search_spaces": "search space", "datasets": "data set"}
_sources: dict[str, str] = {}


def claim_packages() -> None:
    """Make `import models`, `import attacks` and `import search_spaces` mean the packages installed beside `sweeper`.

    Raises:
        ImportError: If a foreign package of that name was already imported in this process.
    """
    for name in PACKAGES:
        init = ROOT / name / "__init__.py"
        loaded = sys.modules.get(name)
        if loaded is not None:
            place = getattr(loaded, "__file__", None)
            if place is None or Path(place).resolve() != init:
                raise ImportError(
                    f"a foreign package {name!r} ({place or 'a folder without __init__.py'}) was imported before sweeper, which needs {init}; "
                    "import sweeper first, or rename the other package"
                )
            continue
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
        if spec is None or spec.loader is None or not init.exists():
            raise ImportError(f"the installation is damaged: {init} is missing; install the package again")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known word closest to word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def canonical(name: str) -> str:
    """Return the form rows store: dashes and underscores are the same on the command line."""
    return name if name.startswith("file:") or name.endswith(".py") else name.replace("-", "_")


def available(kind: str) -> list[str]:
    """Return the names that `find(kind, name)` knows, sorted."""
    return sorted(path.stem for path in FOLDERS[kind].glob("*.py") if not path.stem.startswith("_"))


def find(kind: str, name: str) -> ModuleType:
    """Return the module of that kind and name; kind is one of models, attacks, search_spaces, datasets.

    Raises:
        ValueError: If no such module exists (the message lists those there are), or a user's file cannot be read or run.
    """
    if name.startswith("file:"):
        return _load_source(name)
    if name.endswith(".py"):
        return _load_source(adopt(name))
    return _find_ours(kind, canonical(name), name)


@cache  # a plan asks thousands of times
def _find_ours(kind: str, word: str, name: str) -> ModuleType:
    if word not in available(kind):
        raise ValueError(
            f"no {_NOUNS[kind]} named {name!r}{nearest(word, available(kind))}; available: {', '.join(available(kind))}"
            f"; or give the path of your own file, ending in .py"
        )
    package = "sweeper.datasets" if kind == "datasets" else kind
    return importlib.import_module(f"{package}.{word}")


def adopt(path: str) -> str:
    """Read a user's own file and return its canonical name, `file:STEM@SHA`."""
    place = Path(path).expanduser()
    try:
        source = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {place}: {getattr(error, 'strerror', None) or error}") from error
    name = f"file:{place.stem}@{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    _sources[name] = source
    _origin[name] = str(place.resolve())
    _given[path] = source
    return name


_origin: dict[str, str] = {}
_given: dict[str, str] = {}


def own_files() -> dict[str, str]:
    """Return the sources of the user's files that this process has read so far, by their paths as they were given."""
    return dict(_given)


def sources() -> dict[str, str]:
    """Return the sources of the user's files adopted so far, by canonical name."""
    return dict(_sources)


def register_sources(sources: Mapping[str, str]) -> None:
    """Make the user's files of another process known in this one."""
    _sources.update(sources)


@cache
def _load_source(name: str) -> ModuleType:
    if name not in _sources:
        raise ValueError(f"the source of {name!r} is not at hand; give the path of the file itself")
    source, origin = _sources[name], _origin.get(name, f"<{name}>")
    module_name = "sweeper_" + "".join(letter if letter.isalnum() else "_" for letter in name)
    try:
        code = compile(source, origin, "exec")
    except SyntaxError as error:
        raise ValueError(f"{origin}, line {error.lineno}: syntax error: {error.msg}: {(error.text or '').strip()}") from error
    module = ModuleType(module_name)
    module.__file__ = origin
    sys.modules[module_name] = module  # dataclasses and pickle look their module up by name
    try:
        exec(code, module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        trace, line = error.__traceback__, None
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == origin else line
            trace = trace.tb_next
        raise ValueError(f"{origin}, line {line}: {type(error).__name__}: {error}") from error
    return module


def version(module: ModuleType) -> str:
    """Return the VERSION of a module and of the shared `_parts` of its package that it uses, as one word for keys.

    A user's own file has its SHA-256 in its name, and needs no VERSION of its own.
    """
    words = [f"{module.__name__.rpartition('.')[2]}={getattr(module, 'VERSION', 1)}"] if "." in module.__name__ else []
    words += [f"{part.__name__.rpartition('.')[2]}={getattr(part, 'VERSION', 1)}" for part in _parts(module)]
    return ",".join(sorted(words))


@cache
def _parts(module: ModuleType) -> list[ModuleType]:
    """Return the underscore modules that a module takes names from, and those that they take names from."""
    found: dict[str, ModuleType] = {}
    queue = [module]
    while queue:
        for value in list(vars(queue.pop()).values()):
            home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            package, _, leaf = (home or "").rpartition(".")
            if package in PACKAGES and leaf.startswith("_") and home not in found:
                found[str(home)] = sys.modules[str(home)]
                queue.append(sys.modules[str(home)])
    return list(found.values())
