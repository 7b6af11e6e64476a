"""The rules of the tree, checked in the sources: who may import what, and nothing is unpickled."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "rarec"
# a module imports only what is before it in this list
ORDER = [
    "paths",
    "stopping",
    "progress",
    "processes",
    "memory",
    "randomness",
    "settings",
    "artifacts",
    "data",
    "assets",
    "evaluation",
    "selection",
    "ids",
    "prompts",
    "ops",
    "backbone",
    "model",
    "encoding",
    "losses",
    "training",
    "index",
    "members",
    "run",
    "pipeline",
    "recommender",
    "study",
    "demo",
    "cli",
]
# what only these modules import
OUTSIDE = {"_rust": {"selection", "index", "evaluation"}, "kernels": {"ops"}}


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "kernels" not in path.parts]


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            # `from rarec import ops` imports rarec.ops
            names = [f"{module}.{n.name}" for n in node.names] if module == "rarec" else [module]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_is_before_it(path: Path) -> None:
    own = module_of(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{path}: expected {own} in ORDER"
    for line, name in imports(path):
        if not name.startswith("rarec."):
            continue
        other = name.split(".")[1]
        if other in OUTSIDE:
            assert own in OUTSIDE[other], f"{path}:{line}: {own} must not import {other}"
        elif other != own:
            assert ORDER.index(other) < ORDER.index(own), f"{path}:{line}: {own} imports {other}"


def test_every_module_of_the_order_is_there() -> None:
    found = {module_of(path) for path in sources()} - {"__init__"}
    assert found == set(ORDER)


def files_by_name() -> dict[str, Path]:
    """Return the files of the package by their dotted names; a package is its `__init__`."""
    paths = [*PACKAGE.rglob("*.py"), PACKAGE / "_rust.pyi"]
    # rarec/kernels is a link, which older versions of Python follow and newer ones do not
    paths += (PACKAGE / "kernels").glob("*.py")
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths}
    return {".".join(parts[path]).removesuffix(".__init__"): path for path in sorted(paths)}


def imported_files(path: Path, files: dict[str, Path]) -> set[str]:
    """Return the names of the files that a file imports, for types alone too.

    `from rarec.data import splits` imports `rarec.data.splits`; `from rarec.data import Dataset`
    imports `rarec.data`, the `__init__` of the package.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = {f"{node.module}.{name.name}" for name in node.names}
            names |= {module if module in files else node.module for module in modules}
    return names & set(files)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = files_by_name()
    graph = {name: sorted(imported_files(path, files)) for name, path in files.items()}
    circle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # each file is imported by the next one
        circle = error.args[1][::-1]
    assert not circle, "circle of imports: " + " imports ".join(circle)


def test_kernels_know_nothing_of_rarec() -> None:
    files = sorted((ROOT / "kernels").rglob("*.py"))
    assert files
    # others publish a package with the name `kernels`: ours must not be found in its place
    assert not (ROOT / "kernels" / "__init__.py").exists()
    for path in files:
        for line, name in imports(path):
            assert name.startswith("rarec.kernels.") or name.split(".")[0] in {
                "__future__",
                "torch",
                "triton",
                "typing",
                "math",
                "dataclasses",
                "collections",
                "functools",
                "os",
            }, f"{path}:{line}: {name}"


def rust_sources() -> list[Path]:
    """Return the files of the extension; the fuzz targets are another crate."""
    rust = ROOT / "rust"
    return [
        path for path in sorted(rust.rglob("*.rs")) if path.relative_to(rust).parts[0] != "fuzz"
    ]


def rust_files_with(pattern: str) -> set[str]:
    return {
        path.relative_to(ROOT / "rust").as_posix()
        for path in rust_sources()
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }


def test_only_one_part_of_rust_knows_python() -> None:
    knowing = rust_files_with(r"\b(pyo3|numpy)::")
    assert knowing
    assert all(name.startswith("python/") for name in knowing), knowing


def test_only_one_file_of_rust_has_unsafe_code() -> None:
    assert rust_files_with(r"\bunsafe\b") == {"simd/mod.rs"}


def rust_modules() -> dict[str, str]:
    """Return the text of each Rust module by its path, without comments and tests.

    A module that stands inside a file is a module like the others: `simd::registers` is inside
    `simd`, so that one file has all unsafe code.
    """
    modules: dict[str, str] = {}
    tests: set[str] = set()
    for path in rust_sources():
        parts = path.relative_to(ROOT / "rust").with_suffix("").parts
        name = "::".join(part for part in parts if part not in {"mod", "lib"})
        text = re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        inside = r"^((?:#\[.*\]\n)*)(?:pub )?mod (\w+) \{\n(.*?)^\}"
        for attributes, module, body in re.findall(inside, text, re.MULTILINE | re.DOTALL):
            if "cfg(test)" not in attributes:
                key = f"{name}::{module}".removeprefix("::")
                modules[key] = modules.get(key, "") + body
        tests |= {f"{name}::{module}" for module in re.findall(r"cfg\(test\)\]\nmod (\w+);", text)}
        modules[name] = re.sub(inside, "", text, flags=re.MULTILINE | re.DOTALL)
    return {name: text for name, text in modules.items() if name not in tests}


def used_modules(name: str, modules: dict[str, str]) -> set[str]:
    """Return the Rust modules that a module uses."""
    text = modules[name]
    # `super::{a::B, c}` is `super::a::B` and `super::c`
    for path, group in re.findall(r"((?:crate|super)(?:::\w+)*)::\{([^{}]*)\}", text):
        text += "".join(f"\n{path}::{part.strip()}" for part in group.split(","))
    paths = re.findall(r"\bcrate((?:::\w+)+)", text)
    parent = name.rpartition("::")[0]
    paths += [f"::{parent}{path}" for path in re.findall(r"\bsuper((?:::\w+)+)", text)]
    paths += [f"::{name}::{child}" for child in re.findall(r"(?<![\w:])(\w+)::", text)]
    used: set[str] = set()
    for path in paths:
        parts = path.strip(":").split("::")
        # the longest path that is a module; the rest names what is in it
        starts = ("::".join(parts[:length]) for length in range(len(parts), 0, -1))
        used.add(next((start for start in starts if start in modules), ""))
    return used - {name, ""}


def test_no_rust_files_use_each_other_in_a_circle() -> None:
    modules = rust_modules()
    graph = {name: sorted(used_modules(name, modules)) for name in modules}
    assert graph["scoring::top_k"], "expected a module that uses others"
    circle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # each module is used by the next one
        circle = error.args[1][::-1]
    assert not circle, "circle of Rust modules: " + " uses ".join(circle)


def test_the_parts_of_rust_do_not_use_each_other() -> None:
    """Sampling, scoring and denoising share what stands beside them; only python knows all."""
    modules = rust_modules()
    parts = {"sampling", "scoring", "denoising", "python"}
    for name in modules:
        part = name.split("::")[0]
        others = {used.split("::")[0] for used in used_modules(name, modules)} & parts
        assert part == "python" or others <= {part} & parts, f"{name} uses {others}"


def test_nothing_is_unpickled() -> None:
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, name in imports(path):
            assert name.split(".")[0] not in {"pickle", "joblib", "dill"}, f"{path}:{line}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                assert "load" not in {name.name for name in node.names}, path
            if isinstance(node, ast.Attribute) and node.attr == "load":
                assert not (isinstance(node.value, ast.Name) and node.value.id == "torch"), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant)
                assert node.value.value is False, path


def test_files_have_one_subject() -> None:
    """About 400 lines is where a file becomes a folder."""
    paths = [*sources(), *(ROOT / "kernels").rglob("*.py"), *rust_sources()]
    long = {str(p): n for p in paths if (n := len(p.read_text().splitlines())) > 420}
    assert not long


def test_the_top_level_is_what_was_agreed() -> None:
    for name in ("python", "rust", "kernels", "benches", "tests", "docs"):
        assert (ROOT / name).is_dir(), name
    for name in ("Cargo.toml", "pyproject.toml", "README.md", "LICENSE", "Makefile", ".ci/run"):
        assert (ROOT / name).is_file(), name
    assert (PACKAGE / "kernels" / "prefix_attention.py").is_file()


def test_no_source_refers_to_a_document_that_is_not_here() -> None:
    """The documents that the sources refer to are in `docs/`."""
    files = [
        path
        for folder in ("python", "kernels", "rust", "benches")
        for suffix in ("py", "pyi", "rs", "md")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    assert files
    found = [
        str(path.relative_to(ROOT)) for path in files if "DESIGN.md" in path.read_text("utf-8")
    ]
    assert not found
