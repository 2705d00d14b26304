"""The code keeps its promises: who imports whom, public names, sizes, old Python, sources.

Every check takes text and returns what is wrong with it, so that a mutation can show that it sees.
"""

import ast
import fnmatch
import re
import statistics
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import facezoo
import pytest
from facezoo.backends import HOSTS
from facezoo.cli.main import MAINTAINERS, VERBS, build_parser
from facezoo.vacc.toolchain import TOOLS

PACKAGE = Path(facezoo.__file__).parent
REPOSITORY = PACKAGE.parent.parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
SCRIPTS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("face_*/**/*.py", "common/utils/*.py", "common/eval/*.py")
    for path in sorted(REPOSITORY.glob(pattern))
}

# A module may import those of its own line and of the lines above.
LAYERS = (
    ("__init__", "system", "errors", "results", "card", "fields", "written"),
    ("files", "arrays", "contents", "machine", "workers"),
    ("contract", "artifact"),
    ("image.*", "metrics.*"),
    ("profiles.*", "runs"),
    ("vacc.*", "datasets.*"),
    ("backends.*",),
    ("graphs.*",),
    ("models.*",),
    ("sources", "weights", "testing", "deploy.*"),
    ("pipeline.*",),
    ("evaluation.*",),
    ("compiler.*", "reports.*"),
    ("doctor.*",),
    ("scale.*",),
    ("people.*",),
    ("cli.*", "__main__"),
)
TORCH_PARTS = (
    "models.*.network",
    "models.*.train",
    "models.resumable",
    "models.magface.loss",
    "models.magface.distributed",
    "graphs.export",
)
# Runtimes, and the only modules that may import them.
HOMES = {
    **{host.package: (f"backends.{engine}",) for engine, host in HOSTS.items()},
    "onnxruntime": ("backends.ort", "compiler.*"),
    "vaststreamx": ("backends.vsx",),
    "torch": TORCH_PARTS,
    "torchvision": TORCH_PARTS,
    "matplotlib": ("reports.plots",),
    "pyarrow": ("scale.*", "people.*"),
    "faiss": ("people.*",),
    "ray": ("scale.*",),
}
NEEDS_TORCH = HOMES["torch"]
# Names that Windows or macOS lack.
ONE_SYSTEM = re.compile(
    r"\b(fcntl|msvcrt|prctl|sched_\w+affinity|killpg|setsid|start_new_session|signal\.SIG(KILL|PIPE|HUP)"
    r"|O_(NONBLOCK|CLOEXEC|BINARY|DIRECTORY|NOFOLLOW)|os\.(name|fork|uname|getuid|geteuid)"
    r"|sys\.platform|/proc/self/status)\b"
)
SCRIPT_LINES = 90
MEDIAN_SCRIPT_LINES = 65
# Python 3.8 cannot list its own modules; these are the ones that decoders use.
OLD_STDLIB = ("dataclasses", "functools", "importlib", "math", "pathlib", "typing")
# Limits of our own, which decide no result.
OWN = {
    "models.scrfd.decode.MOST_PAIRS",
    "models.pipnet.decode.LONGEST_MEANFACE",
    "models.pipnet.decode.LEAST_CORRELATION",
}


@lru_cache(maxsize=None)
def parsed(source):
    return ast.parse(source)


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@lru_cache(maxsize=None)
def imported(name, source):
    """Return (own module or foreign package, names, line) for every import, however deep."""
    return tuple(find_imports(name, source))


def find_imports(name, source):
    parts = name.split(".")[:-1]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], (), node.lineno
        elif isinstance(node, ast.Call) and called(node) == "import_module":
            # By its name, written out.
            target = getattr(node.args[0], "value", "") if node.args else ""
            if str(target).startswith("facezoo."):
                yield target.split(".", 1)[1], (), node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0], (), node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            for alias in node.names:
                for module in ([*base, alias.name], base, [*base, "__init__"]):
                    if ".".join(module) in SOURCES:
                        yield ".".join(module), (alias.name,), node.lineno
                        break


def called(node):
    """Return the last part of a called function's name; "" if it has none."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def layer(name):
    for number, patterns in enumerate(LAYERS):
        if matches(name, patterns):
            return number
    return None


def check_directions(name, source):
    if name == "__init__":
        return []  # It hands out load() from the top, and only when asked.
    rank = layer(name)
    if rank is None:
        return [f"{name}: belongs to no layer; add it to LAYERS and to common/README.md"]
    own = [entry for entry in imported(name, source) if entry[0] in SOURCES]
    problems = [
        f"{name}:{line} imports {target}, which is a layer above"
        for target, _, line in own
        if layer(target) is not None and layer(target) > rank
    ]
    room = re.match(r"models\.(\w+)\.", name)
    problems += [
        f"{name}:{line} imports {target}, another model's"
        for target, _, line in own
        if room and re.match(r"models\.\w+\.", target) and not target.startswith(room[0])
    ]
    return problems


def check_runtimes(name, source):
    return [
        f"{name}:{line} imports {target}; only {', '.join(HOMES[target])} may"
        for target, _, line in imported(name, source)
        if target in HOMES and not matches(name, HOMES[target])
    ]


def check_systems(name, source):
    """What only some operating systems have is used in one module."""
    if name == "system":
        return []
    return [
        f"{name}:{number} uses {found[0]}; system.py is where systems differ"
        for number, line in enumerate(source.splitlines(), 1)
        for found in [ONE_SYSTEM.search(line)]
        if found
    ]


def check_decoder(name, source):
    standard = getattr(sys, "stdlib_module_names", OLD_STDLIB)
    allowed = {"numpy", "results", "errors", "__future__", *standard}
    return [
        f"{name}:{line} imports {target}; a decoder takes NumPy, results and errors only"
        for target, _, line in imported(name, source)
        if target not in allowed
    ]


def check_python38(name, source):
    try:
        ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [f"{name}:{error.lineno} is not Python 3.8: {error.msg}"]
    return []


@lru_cache(maxsize=None)
def public_names(source):
    """Return (``__all__`` or None, names bound at the top, functions and classes)."""
    tree = parsed(source)
    declared, bound, defined = None, set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node in tree.body:
            defined.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in (part for one in targets for part in ast.walk(one)):
            if isinstance(target, ast.Name):
                bound.add(target.id)
                if target.id == "__all__":
                    declared = ast.literal_eval(node.value)
    # A module's __getattr__ answers for names that it compares with.
    lazy = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return declared, bound | defined | (lazy if "__getattr__" in defined else set()), defined


def check_all(name, source):
    declared, bound, _ = public_names(source)
    if not parsed(source).body:
        return []
    if declared is None:
        return [f"{name} has no __all__"]
    if name.endswith("__init__"):
        # A folder may hand out what its modules define.
        nodes = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.ImportFrom)]
        bound = bound | {alias.name for node in nodes if node.level for alias in node.names}
    problems = [
        f"{name}: __all__ names {one}, which is not there" for one in declared if one not in bound
    ]
    problems += [f"{name}: __all__ names the private {one}" for one in declared if is_private(one)]
    if declared != sorted(declared, key=constants_first):
        problems.append(f"{name}: __all__ is not sorted")
    return problems


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def constants_first(name):
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def check_uses(name, source):
    """A function or class used from another part of the package is public there."""
    problems = []
    for target, names, line in imported(name, source):
        folder = target.rpartition(".")[0]
        if target not in SOURCES or (folder and folder == name.rpartition(".")[0]):
            continue
        declared, _, defined = public_names(SOURCES[target])
        problems += [
            f"{name}:{line} takes {one} out of {target}, whose __all__ does not name it"
            for one in names
            if is_private(one) or (one in defined and one not in (declared or ()))
        ]
    return problems


def check_class_names(name, source):
    """One name, one meaning; the networks and settings of two models may be called alike."""
    room = re.match(r"models\.\w+\.", name)
    return [
        f"{name} has a class {one}, as {other} has; name the one or the other for what it is"
        for one in classes(source)
        for other in CLASSES.get(one, ())
        if other != name and not (room and re.match(r"models\.\w+\.", other))
    ]


def classes(source):
    return [node.name for node in parsed(source).body if isinstance(node, ast.ClassDef)]


CLASSES = {}
for module, text in SOURCES.items():
    for one in classes(text):
        CLASSES.setdefault(one, []).append(module)


def check_script_uses(name, source):
    """Scripts take public names only, from wherever in the package."""
    relative = re.sub(r"^(\s*from )facezoo\.", r"\1.", source, flags=re.MULTILINE)
    return [f"{name}{problem}" for problem in check_uses("", relative)]


def check_manners(name, source):
    tree = parsed(source)
    problems = [
        f"{name}:{node.lineno} asserts; raise one of facezoo.errors"
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    return problems + check_path_edits(name, source)


def check_path_edits(name, source):
    return [
        f"{name}:{node.lineno} edits sys.path; facezoo is installed"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "path"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    ]


def check_script(name, source):
    tree = parsed(source)
    lines = len(source.splitlines())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    problems = [f"{name} has {lines} lines; {SCRIPT_LINES} at most"] * (lines > SCRIPT_LINES)
    problems += [
        f"{name} has no {one}()" for one in ("build_parser", "main") if one not in functions
    ]
    problems += [f"{name} has no docstring"] * (ast.get_docstring(tree) is None)
    problems += [
        f"{name}:{node.lineno} does something when it is imported"
        for node in tree.body
        if isinstance(node, (ast.Expr, ast.For, ast.While, ast.With, ast.Try))
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    return problems + check_path_edits(name, source)


def check_median(scripts):
    """A script reads as the pipeline it is; most of it belongs into the package."""
    median = statistics.median(len(source.splitlines()) for source in scripts.values())
    if median <= MEDIAN_SCRIPT_LINES:
        return []
    return [f"half of the scripts have {median:g} lines or more; {MEDIAN_SCRIPT_LINES} at most"]


def check_sources(name, source):
    """Upper-case constants that hold facts from elsewhere say from where."""
    lines = source.splitlines()
    problems = []
    for node in parsed(source).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(target, ast.Name) or not target.id.isupper():
            continue
        if f"{name}.{target.id}" in OWN or not holds_fact(node.value):
            continue
        first = node.lineno - 1
        while first and lines[first - 1].startswith("#"):
            first -= 1
        if not re.search(r"#.*\bsource: ", "\n".join(lines[first : node.end_lineno])):
            problems.append(f"{name}:{node.lineno} {target.id} names no source: # source: …")
    return problems


def holds_fact(node):
    """Numbers are facts; names, texts and what is made of other constants are not."""
    return any(
        isinstance(part, ast.Constant)
        and isinstance(part.value, (int, float))
        and not isinstance(part.value, bool)
        and part.value not in (0, 1)
        for part in ast.walk(node)
    )


def check_verbs(verbs, modules):
    return sorted(set(verbs).symmetric_difference(modules))


# A verb is a module of the folder, or a folder in it.
CLI_MODULES = {name.split(".")[1] for name in SOURCES if name.startswith("cli.")}
NO_VERBS = {"__init__", "flags", "inputs", "main", "options", "outputs", "thresholds"}
FACTS = [name for name in SOURCES if re.fullmatch(r"models\.\w+\.(card|decode)", name)]


@pytest.mark.parametrize(
    "check",
    [
        check_directions,
        check_runtimes,
        check_systems,
        check_all,
        check_uses,
        check_class_names,
        check_manners,
    ],
)
def test_package(check):
    assert [problem for item in SOURCES.items() for problem in check(*item)] == []


def test_scripts_are_short_and_plain():
    assert [problem for item in SCRIPTS.items() for problem in check_script(*item)] == []


def test_scripts_take_public_names_only():
    assert [problem for item in SCRIPTS.items() for problem in check_script_uses(*item)] == []


def test_decoders_need_numpy_only():
    names = [name for name in SOURCES if matches(name, ("models.*.decode",))]
    assert len(names) >= 3
    assert [p for name in names for p in check_decoder(name, SOURCES[name])] == []


def test_all_but_torch_parts_is_python38():
    old = {n: s for n, s in {**SOURCES, **SCRIPTS}.items() if not matches(n, NEEDS_TORCH)}
    assert [problem for item in old.items() for problem in check_python38(*item)] == []


def test_facts_name_their_source():
    assert [problem for name in FACTS for problem in check_sources(name, SOURCES[name])] == []


def test_verbs_are_the_modules_of_the_command():
    assert check_verbs(VERBS, CLI_MODULES - NO_VERBS) == []


def check_example(verb, doc):
    """A verb says what it does in a sentence, and shows itself at work."""
    problems = [] if doc and doc.splitlines()[0].endswith(".") else [f"{verb} says nothing"]
    shown = [line.strip() for line in (doc or "").splitlines()]
    own = verb if verb in TOOLS else f"facezoo {verb}"
    shows = any(line.startswith((own, f'eval "$({own}', f"facezoo {verb}")) for line in shown)
    return problems + [f"{verb} shows no example"] * (not shows)


def source_of_verb(verb):
    return SOURCES.get(f"cli.{verb}") or SOURCES[f"cli.{verb}.__init__"]


def test_every_verb_has_help_and_an_example():
    docs = {verb: ast.get_docstring(parsed(source_of_verb(verb))) for verb in VERBS}
    assert [problem for item in docs.items() for problem in check_example(*item)] == []
    assert check_example("list", "List the models.") == ["list shows no example"]
    assert check_example("list", "List the models\n\n  facezoo list") == ["list says nothing"]


def test_the_help_fits_a_screen():
    lines = build_parser().format_help().splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    for verb in VERBS:
        shown = any(f" {verb} " in line for line in lines)
        assert shown == (verb not in MAINTAINERS), verb


# What a command may not wait for before it has parsed a word, and what its help may not.
SLOW = (*HOMES, "PIL", "cv2", "onnx", "scipy", "simplejpeg", "tqdm")
BEFORE_A_VERB = (*SLOW, "numpy", "urllib.request", "importlib.metadata", "yaml")
STARTS = """
import sys
from facezoo.cli.main import build_parser
build_parser({verb!r}).format_help()
print([name for name in {slow!r} if name in sys.modules])
"""


def imported_by(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


LIGHT_HELP = "list evaluate calibrate demo export decode match predict score".split()


@pytest.mark.parametrize("verb", ["", *LIGHT_HELP])
def test_the_help_and_the_list_import_nothing_slow(verb):
    assert imported_by(STARTS.format(verb=verb, slow=BEFORE_A_VERB)) == []


def test_the_help_of_a_verb_imports_no_runtime():
    # None stands for all verbs at once.
    assert imported_by(STARTS.format(verb=None, slow=SLOW)) == []
    assert "yaml" in imported_by(STARTS.format(verb="compile", slow=("yaml",)))


# What the checks must notice ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (check_directions, "image.boxes", "from ..pipeline.load import load"),
        (check_directions, "vacc.vdsp", "def later():\n    from ..models.scrfd import graph"),
        (check_directions, "files", "import_module('facezoo.image.show')"),
        (check_directions, "models.scrfd.graph", "from ..pipnet.decode import decode"),
        (check_directions, "pipeline.load", "from ..cli.options import make_parser"),
        (check_directions, "helpers", ""),
        (check_runtimes, "pipeline.load", "import onnxruntime"),
        (check_runtimes, "models.scrfd.decode", "from torch import nn"),
        (check_runtimes, "reports.readme", "import matplotlib.pyplot as plt"),
        (check_systems, "runs", "import fcntl"),
        (check_systems, "cli.options", "if sys.platform == 'win32': ..."),
        (check_decoder, "models.scrfd.decode", "import cv2"),
        (check_decoder, "models.scrfd.decode", "from ...card import ModelCard"),
        (check_python38, "x", "match a:\n    case 1:\n        pass"),
        (check_python38, "x", "with (open(a) as b, open(c) as d):\n    pass"),
        (check_all, "x", "def f(): ...\n"),
        (check_all, "x", "__all__ = ['f', 'g']\ndef f(): ...\n"),
        (check_all, "x", "__all__ = ['g', 'f']\ndef f(): ...\ndef g(): ...\n"),
        (check_all, "x", "__all__ = ['_f']\ndef _f(): ...\n"),
        (check_uses, "pipeline.load", "from ..runs import _entry_of"),
        (check_uses, "pipeline.load", "from ..compiler.build import _missing_thing"),
        (check_class_names, "pipeline.acceptance", "class Gate: ..."),
        (check_script_uses, "x.py", "from facezoo.runs import _entry_of"),
        (check_script_uses, "x.py", "def f():\n    from facezoo.compiler.build import _missing"),
        (check_manners, "x", "assert x"),
        (check_manners, "x", "import sys\nsys.path.insert(0, 'common')"),
        (check_script, "x.py", SCRIPTS["common/eval/evaluation.py"] + "\n" * SCRIPT_LINES),
        (check_script, "x.py", SCRIPTS["common/eval/evaluation.py"].replace("def main", "def run")),
        (check_script, "x.py", SCRIPTS["common/eval/evaluation.py"] + "print('imported')\n"),
        (check_script, "x.py", SCRIPTS["common/eval/evaluation.py"].partition('"""\n\n')[2]),
        (check_sources, "x", "STRIDES = (8, 16, 32)"),
        (check_sources, "x", "# as everybody knows\nMEAN: float = 127.5"),
        (check_sources, "models.scrfd.card", SOURCES["models.scrfd.card"].replace("source:", "s:")),
    ],
)
def test_mutations_are_noticed(check, name, source):
    assert check(name, source) != []


def test_scripts_are_short():
    assert check_median(SCRIPTS) == []
    longer = {name: source + "\n" * MEDIAN_SCRIPT_LINES for name, source in SCRIPTS.items()}
    assert check_median(longer) != []


def test_a_forgotten_verb_is_noticed():
    assert "predicted" in check_verbs({**VERBS, "predicted": ""}, CLI_MODULES - NO_VERBS)
    assert "left_over" in check_verbs(VERBS, CLI_MODULES - NO_VERBS | {"left_over"})
