"""The project as a whole: what it imports, what it says of itself, and that it starts fast."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import resource
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import surplus

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = [
    module.name
    for module in pkgutil.walk_packages(surplus.__path__, "surplus.")
    if not module.name.endswith("__main__")
]
# Written with classes of one character, so that this file does not match itself.
FOREIGN = re.compile(
    r"(?<![\w.-])[/](?:work|farm|home|root)[/]"
    r"|pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|debian[.]org|npmjs[.](?:org|com)"
)
HELP = "import sys; sys.argv = ['surplus', '--help']; from surplus.cli import main; main()"


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.split("\0")[:-1]
    files = [ROOT / name for name in names] if listed.returncode == 0 else (ROOT / "src").rglob("*.*")
    return [path for path in files if path.is_file() and not path.is_symlink()]


def extension(name: str):
    """One of the documentation's own Sphinx extensions, as a module."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    assert importlib.import_module(name).__doc__


def test_a_room_imports_only_from_rooms_below_it():
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    answer = subprocess.run([sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_room_has_its_place_in_the_order():
    layers = [layer.strip("()") for layer in PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]]
    rooms = {module.name for module in pkgutil.iter_modules(surplus.__path__)} - {"__main__"}
    assert rooms <= set(layers)


def test_help_imports_neither_torch_nor_anything_else_that_is_slow():
    script = f"import sys\ntry:\n    {HELP}\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "audit" in answer.stdout
    loaded = set(answer.stderr.split())
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "pyarrow", "lightning", "matplotlib", "altair"}


def test_help_takes_under_half_a_second_of_cpu():
    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", HELP], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.5


def test_the_command_is_the_function_that_help_was_asked_of():
    assert PROJECT["project"]["scripts"] == {"surplus": "surplus.cli:main"}


def test_importing_surplus_does_not_import_torch():
    script = (
        "import sys, surplus; assert 'torch' not in sys.modules; surplus.WeightSpace; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_loads_from_its_room():
    for name in surplus.__all__:
        assert getattr(surplus, name) is not None
    assert set(surplus.__all__) <= set(dir(surplus))
    assert surplus.stats.Estimate is surplus.Estimate
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = surplus.prune


@pytest.mark.parametrize("page", ["README.md", "docs/adding-a-method.md", "docs/pruning.md"])
def test_the_python_on_a_page_runs(page):
    scripts = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert scripts
    for script in scripts:
        subprocess.run([sys.executable, "-c", script], check=True)


def test_no_file_names_a_folder_of_one_machine_or_the_host_of_a_registry():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a picture, say
            continue
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in FOREIGN.finditer(text)]
    assert not found


def test_what_counts_as_a_foreign_path():
    slash = "/"
    assert FOREIGN.search(f"open('{slash}home{slash}ann/data')")
    assert FOREIGN.search("https://pypi" + ".org/simple")
    assert not FOREIGN.search("docs/work/home/page.md and ../shared/data")


def test_the_changelog_tells_of_this_version():
    assert re.search(rf"^## \[?{re.escape(surplus.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def requirements(*extras: str) -> list[Requirement]:
    """What the package needs, with what these extras add."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [PROJECT["project"]["dependencies"], *(optional[extra] for extra in extras)]
    return [Requirement(line) for line in chain(*lines) if not line.startswith("surplus[")]


def test_the_metadata_has_lower_bounds_only():
    for need in requirements(*PROJECT["project"]["optional-dependencies"]):
        assert [clause.operator for clause in need.specifier] == [">="], need


def test_the_constraints_pin_what_the_commands_install():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(need.name): str(need.specifier) for need in map(Requirement, lines)}
    assert pins["torch"] == "==2.13.0"
    for need in requirements("report", "structured", "test", "docs", "dev"):
        assert need.specifier.contains(pins[canonicalize_name(need.name)].removeprefix("==")), need


def test_a_skip_for_a_missing_install_fails_in_ci(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n"
        "def test_needs_a_library(): pytest.importorskip('no_such_library')\n"
        "def test_needs_a_gpu(): pytest.skip('this machine has no GPU')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    for ci, closing in (("", "2 skipped"), ("true", "1 failed, 1 skipped")):
        answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CI": ci})
        assert closing in answer.stdout


def test_a_stored_verdict_becomes_a_page():
    claim = {
        "statement": "Half of the data | is enough",
        "source": "Somebody 2020, figure 1",
        "criterion": "accuracy within 1 point",
        "verdict": "holds",
        "measured": {"accuracy": {"mean": 0.93123, "stderr": 0.002, "repeats": 5}},
    }
    page = extension("results").study_page("half", {"slug": "half", "scale": "laptop", "claims": [claim]}, module=None)
    assert "Half of the data \\| is enough" in page
    assert "**holds**" in page
    assert "accuracy: 0.9312 ± 0.002 (n = 5)" in page


def test_plain_docstrings_survive_the_way_to_html():
    to_rst = extension("docstrings").to_rst
    lines = ["The length |theta| of `theta`s, 2 * x_.", "    f(x) = |x|*", "Then:", "- one", "  more"]
    assert to_rst(lines) == [
        r"The length \|theta\| of ``theta``\ s, 2 \* x\_.",
        "",
        "::",
        "",
        "    f(x) = |x|*",
        "",
        "Then:",
        "",
        "- one",
        "  more",
    ]
    assert to_rst(["Args:", "    x: a |b|"]) == ["Args:", r"    x: a \|b\|"]
