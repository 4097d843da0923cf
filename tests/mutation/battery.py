"""The tests of `policy_enforcer` run against each mutant, in one process: until the first one fails.

A mutant and the modules that import it are loaded anew; the names that the test modules took from
`policy_enforcer` are bound to what was loaded. Then their plain tests are called with every set of their
parameters. Instead of the property tests, which draw anew each time, stands a fixed corpus: policies,
requests and ledgers with the verdict of the independent evaluator of test_differential.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from io import StringIO
from itertools import product
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from policy_enforcer import yamltree

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "policy_enforcer"
TESTS = ROOT / "tests" / "policy_enforcer"
TARGETS = (
    "decide",
    "columns",
    "check",
    "privacy",
    "moments",
    "obligations",
    "known",
    "model",
    "transfer_lists",
    "load",
    "odrl",
    "yamltree",
    "references",
    "disclosure",
    "facts",
)
"""Whatever decides."""
FILES = (
    "test_decisions",
    "test_load",
    "test_values",
    "test_moments",
    "test_obligations",
    "test_masking",
    "test_describe",
    "test_known",
    "test_shared_noise",
    "test_odrl",
    "test_texts",
)
SLOW = {"test_every_rule_is_needed", "test_every_column_rule_is_needed"}
"""They take rules out themselves, one after another."""

Test = tuple[str, Callable[[], object]]


class Battery:
    """Every test, ready to be run again and again."""

    def __init__(self, corpus: int = 150) -> None:
        _remember_trees()
        self._modules = [_loaded(name) for name in (*FILES, "test_differential", "conftest")]
        common = _fixtures(self._modules[-1])
        self._tests = {
            name: list(_tests(module, common | _fixtures(module)))
            for name, module in zip(FILES, self._modules, strict=False)
        }
        self._differential = self._modules[-2]
        self._corpus = _drawn(self._differential, corpus)

    def __len__(self) -> int:
        return sum(map(len, self._tests.values())) + len(self._corpus)

    def first_failure(self, target: str) -> str | None:
        """The name of the first test that fails now; None if all pass. `target`: what to suspect first."""
        self._bind()
        for name in sorted(self._tests, key=lambda name: name != _SUSPECT[target]):
            for title, test in self._tests[name]:
                if not _passes(test):
                    # the next mutant is often found by the same test
                    self._tests[name].remove((title, test))
                    self._tests[name].insert(0, (title, test))
                    return title
        return self._corpus_failure()

    def failing(self) -> list[str]:
        """Leave out, and name, what fails already: it would kill every mutant."""
        found = []
        for name, tests in self._tests.items():
            broken = [title for title, test in tests if not _passes(test)]
            self._tests[name] = [test for test in tests if test[0] not in broken]
            found += broken
        return found + ([failure] if (failure := self._corpus_failure()) else [])

    def _corpus_failure(self) -> str | None:
        try:
            for number, (policy, request, ledger, permitted) in enumerate(self._corpus):
                if self._differential.allowed(policy, request, ledger) != permitted:
                    return f"corpus {number}"
        except Exception as error:  # noqa: BLE001  a mutant that fails in any other way is found as well
            return f"corpus: {type(error).__name__}"
        return None

    def _bind(self) -> None:
        for module in self._modules:
            for name, value in list(vars(module).items()):
                home = getattr(value, "__module__", None) or ""
                if inspect.ismodule(value) and value.__name__.startswith("policy_enforcer."):
                    setattr(module, name, sys.modules[value.__name__])
                elif home.startswith("policy_enforcer.") and hasattr(sys.modules[home], name):
                    setattr(module, name, getattr(sys.modules[home], name))


_SUSPECT = {
    "decide": "test_decisions",
    "columns": "test_decisions",
    "check": "test_load",
    "privacy": "test_load",
    "model": "test_values",
    "moments": "test_moments",
    "obligations": "test_obligations",
    "transfer_lists": "test_decisions",
    "load": "test_load",
    "odrl": "test_odrl",
    "yamltree": "test_texts",
    "references": "test_texts",
    "disclosure": "test_texts",
    "known": "test_decisions",
    "facts": "test_values",
}


@contextmanager
def installed(target: str, code: CodeType) -> Iterator[None]:
    """Inside, `policy_enforcer.<target>` is what `code` makes of it, for all that import it."""
    package, names = sys.modules["policy_enforcer"], [target, *_dependents(target)]
    before = {name: importlib.import_module(f"policy_enforcer.{name}") for name in names}
    try:
        for name in names:
            sys.modules.pop(f"policy_enforcer.{name}", None)
        module = ModuleType(f"policy_enforcer.{target}")
        module.__file__ = str(PACKAGE / f"{target}.py")
        sys.modules[module.__name__] = module
        setattr(package, target, module)
        exec(code, module.__dict__)
        for name in names[1:]:
            importlib.import_module(f"policy_enforcer.{name}")
        yield
    finally:
        for name, old in before.items():
            sys.modules[f"policy_enforcer.{name}"] = old
            setattr(package, name, old)


@lru_cache
def _dependents(target: str) -> list[str]:
    """What imports `target`, directly or not."""
    imports = {path.stem: path.read_text("utf-8") for path in PACKAGE.glob("*.py") if path.stem[0] != "_"}
    found: list[str] = []
    queue = [target]
    while queue:
        name = queue.pop()
        users = [user for user, text in imports.items() if _imports(text, name)]
        queue += [user for user in users if user not in (*found, target)]
        found += [user for user in users if user not in (*found, target)]
    return found


def _imports(text: str, name: str) -> bool:
    package = [line for line in text.splitlines() if line.startswith("from policy_enforcer import ")]
    return f"from policy_enforcer.{name} import" in text or any(
        name in line.partition(" import ")[2].replace(",", " ").split() for line in package
    )


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mutated_{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _remember_trees() -> None:
    # texts are the same for every mutant, and parsing them is most of the work
    yamltree.parse = lru_cache(maxsize=None)(yamltree.parse)
    importlib.reload(importlib.import_module("policy_enforcer.load"))


def _fixtures(module: ModuleType) -> dict[str, Any]:
    return {name: _fixture(value) for name, value in vars(module).items() if _is(value)}


def _is(value: Any) -> bool:
    return hasattr(value, "_get_wrapped_function") or hasattr(value, "__pytest_wrapped__")


def _fixture(value: Any) -> Any:
    found = value._get_wrapped_function() if hasattr(value, "_get_wrapped_function") else None
    return found or value.__pytest_wrapped__.obj


def _tests(module: ModuleType, fixtures: dict[str, Any]) -> Iterator[Test]:
    for name, function in vars(module).items():
        plain = inspect.isfunction(function) and not getattr(function, "is_hypothesis_test", False)
        if name.startswith("test_") and plain and name not in SLOW:
            for number, given in enumerate(_parameters(function)):
                yield f"{name}[{number}]", _Call(function, given, fixtures)


class _Call:
    """One test with one set of parameters."""

    def __init__(self, function: Any, given: dict[str, Any], fixtures: dict[str, Any]) -> None:
        self._function, self._given, self._fixtures = function, given, fixtures

    def __call__(self) -> object:
        return self._function(**self._made(self._function, self._given))

    def _made(self, function: Any, given: dict[str, Any]) -> dict[str, Any]:
        wanted = inspect.signature(function).parameters
        return {name: given[name] if name in given else self._fixture(name) for name in wanted}

    def _fixture(self, name: str) -> Any:
        function = self._fixtures[name]
        return function(**self._made(function, {}))


def _parameters(function: Any) -> Iterator[dict[str, Any]]:
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
    sets = [[_named(m.args[0], values) for values in m.args[1]] for m in marks]
    for chosen in product(*sets):
        yield {name: value for one in chosen for name, value in one.items()}


def _named(names: Any, values: Any) -> dict[str, Any]:
    names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    return {names[0]: values} if len(names) == 1 else dict(zip(names, values, strict=True))


def _passes(test: Callable[[], object]) -> bool:
    try:
        with redirect_stdout(StringIO()):
            test()
    except (Exception, pytest.fail.Exception):  # noqa: BLE001
        return False
    return True


def _drawn(differential: Any, size: int) -> list[tuple[Any, Any, Any, bool]]:
    """The same policies, requests and ledgers every time, judged by the independent evaluator."""
    found: list[tuple[Any, Any, Any, bool]] = []

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=size, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(
        differential.policies(), st.lists(differential.requests(), min_size=8), differential.LEDGERS
    )
    def draw(policy: Any, requests: Any, ledger: Any) -> None:
        for request in requests:
            found.append((policy, request, ledger, bool(differential.permits(policy, request, ledger))))

    draw()
    return found


def equivalents() -> dict[str, str]:
    """Mutants that differ in no decision, each with the reason."""
    text = (Path(__file__).parent / "equivalent.yaml").read_text("utf-8")
    return {entry["mutant"]: entry["because"] for entry in yaml.safe_load(text) or ()}
