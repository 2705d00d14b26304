"""The pages tell the truth: commands, links, twins, tables of code, numbers.

Every check takes a page's text and returns what is wrong with it, so that a mutation can show that
it sees.
"""

import argparse
import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import facezoo
import pytest
from facezoo.cli.docs import PAGES
from facezoo.cli.main import VERBS, build_parser, main
from facezoo.deploy.recipes import lay_out

PACKAGE = Path(facezoo.__file__).parent
REPOSITORY = PACKAGE.parent.parent
TEXTS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for pattern in PAGES
    for path in sorted(REPOSITORY.glob(pattern))
}
CONTRIBUTING_LINES = 140
READMES = {name: text for name, text in TEXTS.items() if "README" in name}
RECIPES = [
    name.rpartition("/")[0] for name in TEXTS if re.fullmatch(r"face_\w+/\w+/README\.md", name)
]

SEED_STEPS = (
    "Original recipe step → our command → what changed",
    "原始配方步骤 → 我们的命令 → 有何改动",
)
# Headings of a recipe's page, in their order: English, Chinese.
HEADINGS = (
    ("Facts", "基本信息"),
    ("Variants", "变体"),
    ("Steps", "步骤"),
    SEED_STEPS,
    ("Where the code is", "代码在哪里"),
    ("Expected output", "预期输出"),
    ("Accuracy", "精度"),
    ("Pre- and post-processing", "预处理与后处理"),
    ("Differences from upstream and from the vendor", "与官方及厂商的差异"),
    ("Troubleshooting", "常见问题"),
    ("Licence and citation", "许可证与引用"),
)
# What the original recipe runs; each needs its counterpart. A recipe without an original has no
# such section.
SEED_TOOLS = {
    "face_detection/scrfd": (
        "scrfd2onnx.py",
        "WIDER_val.zip",
        "vamc compile",
        "scrfd_vsx.py",
        "setup.py build_ext",
        "evaluation.py",
        "vamp -m",
        "image2npz.py",
        "--datalist",
        "npz_decode.py",
    ),
    "face_quality/sdd_fiqa": (
        "demo.py",
        "vamc compile",
        "sdd_fiqa_vsx.py",
        "vamp -m",
        "image2npz.py",
        "--datalist",
        "decode_vamp.py",
    ),
    "face_recognition/magface": (
        "docker pull",
        "lfw_cfp_agedb.tar",
        "weights from sharing pages",
        "eval.sh",
        "gen_feat.py",
        "Quality_Assessment.py",
        "eval_quality.sh",
        "face_align.py",
        "`.list`",
        "run.sh",
        "--pytorch2onnx",
        "TensorRT",
    ),
    "face_alignment/pipnet": (
        "demo.py",
        "preprocess.py WFLW",
        "vamc compile",
        "vsx_infer.py",
        "vamp -m",
        "image2npz.py",
        "--datalist",
        "npz_decode.py",
    ),
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^<!-- facezoo:begin .*?^<!-- facezoo:end -->$", re.MULTILINE | re.DOTALL)
# The one command from one package of ONNX Runtime to the other, which own the same files.
SWAP = "uninstall -y onnxruntime '&&' pip install onnxruntime-gpu"
LANGUAGES = {"bash", "python", "text", "json", "yaml"}


# Taking a page apart ------------------------------------------------------------------------------


def commands(text):
    """Return the commands of a page's bash fences, each as its words."""
    lines = []
    for language, body in FENCE.findall(BLOCK.sub("", text)):
        if language == "bash":
            lines += body.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def prose(text):
    """Return a page without code, rendered blocks, addresses and comments."""
    for pattern in (BLOCK, FENCE, r"`[^`]*`", r"<[^>]*>", r"\]\([^)]*\)", r"https?://\S+"):
        text = re.sub(pattern, "", text)
    return text


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(text, level=2):
    return re.findall(rf"^{'#' * level} (.+)$", FENCE.sub("", text), re.MULTILINE)


def section(text, heading):
    """Return what stands below a heading, up to the next of its level or above."""
    level = len(re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)[1])
    rest = text.split(f"\n{'#' * level} {heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table_rows(text):
    rows = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows]


# Checks -------------------------------------------------------------------------------------------


def check_links(name, text):
    targets = re.findall(r"\]\(([^)\s]*)\)", FENCE.sub("", text))
    targets += re.findall(r'src="([^"]+)"', text)
    return [
        f"{name}: {target or 'an empty link'} leads nowhere"
        for target in targets
        if not leads(name, target)
    ]


def leads(name, target):
    if target.startswith("https://"):
        return True
    path, _, anchor = target.partition("#")
    if not target:
        return False
    file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
    if not file.exists():
        return False
    return not anchor or anchor in map(
        slug, re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
    )


def check_fences(name, text):
    return [
        f"{name}: a fence is of {language or 'no language'!r}; expected one of {sorted(LANGUAGES)}"
        for language, _ in FENCE.findall(text)
        if language not in LANGUAGES
    ]


def check_commands(name, text):
    problems = []
    where = REPOSITORY
    for words in commands(text):
        if words[0] == "cd":
            where = where / words[1]
            reason = None if where.is_dir() else "there is no such folder"
        else:
            reason = why_not(words, where) or missing_file(words, where)
        problems += [f"{name}: {shlex.join(words)}: {reason}"] * (reason is not None)
    return problems


def why_not(words, where):
    """Say why a command would not start, or None."""
    tool, *arguments = words
    if tool in ("vamc", "vamp"):
        tool, arguments = "facezoo", words
    if tool == "facezoo":
        return refused(facezoo_parser(arguments[0]), arguments)
    if tool == "python" and arguments[0].endswith(".py"):
        script = where / arguments[0]
        return refused(script_parser(script), arguments[1:]) if script.is_file() else "no such file"
    if tool == "torchrun":
        number = next((n for n, word in enumerate(arguments) if word.endswith(".py")), 0)
        return why_not(["python", *arguments[number:]], where)
    if tool == "docker":
        return why_not_docker(arguments, where)
    if tool == "make":
        return why_not_made(arguments, where)
    if tool == "pip":
        return why_not_installed(arguments, (REPOSITORY / "pyproject.toml").read_text("utf-8"))
    if words in (["python3", "-m", "venv", ".venv"], [".", ".venv/bin/activate"]):
        return None
    return "not a command that this check knows"


def missing_file(words, where):
    """Name an argument that says where a file of the repository is, but is wrong."""
    wrong = [word for word in words if word.startswith("../") and not (where / word).exists()]
    return f"there is no {wrong[0]}" if wrong else None


@lru_cache(maxsize=None)
def facezoo_parser(verb):
    return build_parser(verb)


@lru_cache(maxsize=None)
def script_parser(script):
    spec = importlib.util.spec_from_file_location(f"script_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_parser()


def refused(parser, arguments):
    said = []

    def fail(self, message):
        said.append(message)
        raise SystemExit(2)

    original, argparse.ArgumentParser.error = argparse.ArgumentParser.error, fail
    try:
        old = parser.parse_args(arguments).old_spellings
    except SystemExit as end:
        return None if end.code in (0, None) else said[-1]
    finally:
        argparse.ArgumentParser.error = original
    return old[0] if old else None


def why_not_made(arguments, where):
    if arguments[:1] == ["-C"]:
        where, arguments = where / arguments[1], arguments[2:]
    if not (where / "Makefile").is_file():
        return "there is no Makefile"
    targets = make_targets((where / "Makefile").read_text("utf-8"))
    unknown = [word for word in arguments if "=" not in word and word not in targets]
    return f"no target {unknown[0]}" if unknown else None


def make_targets(makefile):
    return re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)


def why_not_docker(arguments, where):
    if arguments[0] == "build":
        file = where / arguments[arguments.index("-f") + 1]
        return None if file.is_file() else "there is no such Dockerfile"
    return None if arguments[0] == "run" else "expected docker build or run"


def why_not_installed(arguments, pyproject):
    if shlex.join(arguments) == SWAP:
        return None
    match = re.fullmatch(r"install (?:-e \.|facezoo)(?:\[([\w,]+)\])?", " ".join(arguments))
    if not match:
        return f'expected install facezoo, install -e ".[…]" or {SWAP}'
    table = pyproject.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(filter(None, (match[1] or "").split(",")))
    unknown = extras - set(re.findall(r"^(\w+) = ", table, re.MULTILINE))
    return f"no extra {', '.join(sorted(unknown))}" if unknown else None


def check_inline(name, text):
    """Verbs and targets that are named within a sentence exist too."""
    targets = make_targets((REPOSITORY / "Makefile").read_text("utf-8"))
    problems = []
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        words = code.split()
        if words[0] == "facezoo" and len(words) > 1 and words[1].lstrip("-") == words[1]:
            problems += [f"{name}: `{code}`: no such verb"] * (words[1] not in VERBS)
        if words[0] == "make" and len(words) == 2:
            problems += [f"{name}: `{code}`: no such target"] * (words[1] not in targets)
    return problems


def check_python(name, text):
    problems = []
    for language, body in FENCE.findall(BLOCK.sub("", text)):
        for node in ast.walk(ast.parse(body)) if language == "python" else ():
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                problems += [
                    f"{name}: {node.module} has no {alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name)
                ]
    return problems


def check_twin(english, chinese):
    """The same code in the same order, and sections one for one."""

    def codes(text):
        return [entry for entry in FENCE.findall(BLOCK.sub("", text)) if entry[0] != "text"]

    def blocks(text):
        return [b.partition(" -->")[0].replace(" zh", "") for b in BLOCK.findall(text)]

    problems = []
    if codes(english) != codes(chinese):
        problems.append("the commands differ")
    if blocks(english) != blocks(chinese):
        problems.append("the rendered blocks differ")
    if any(
        not b.partition(" -->")[0].endswith(" zh")
        for b in BLOCK.findall(chinese)
        if "begin file" not in b
    ):
        problems.append("a rendered block of the Chinese page is not zh")
    for level in (2, 3, 4):
        if len(headings(english, level)) != len(headings(chinese, level)):
            problems.append("the sections differ")
    if len(table_rows(BLOCK.sub("", english))) != len(table_rows(BLOCK.sub("", chinese))):
        problems.append("the tables differ")
    return problems


def check_numbers(name, text):
    """Measured numbers come from files; in prose they would go stale."""
    # Not the version of Python, of a licence or of a file's schema.
    found = re.findall(
        r"(?<!Python )(?<![\w.-])(?:\d+\.\d+|\d+ ?%|\d{1,3},\d{3})(?![\w.])", prose(text)
    )
    return [f"{name}: {number} is typed by hand; render it" for number in found]


def check_machine(name, text):
    paths = re.findall(r"(?<![\w.~/])/(?:home|root|tmp|work|mnt|data|Users)/\S*", text)
    return [f"{name}: {path} is a path of one machine" for path in paths]


def check_length(name, text):
    lines = len(text.splitlines())
    return [f"{name}: {lines} lines"] if lines > CONTRIBUTING_LINES else []


def check_headings(name, text, language, seed=True):
    expected = [pair[language] for pair in HEADINGS if seed or pair != SEED_STEPS]
    return [] if headings(text) == expected else [f"{name}: headings {headings(text)}"]


def check_top(name, text):
    """A recipe says before its facts what works without files by hand."""
    says = "**无需手动下载文件：**" if name.endswith(".zh-CN.md") else "**Without files by hand:**"
    top = text.partition("\n## ")[0]
    return [f"{name}: does not say at its top what works without files by hand"] * (says not in top)


def check_code_table(name, text):
    """Each row names a file that is there and a name defined at its top."""
    rows = [row for row in table_rows(text) if len(row) == 3 and row[1].startswith("[")]
    problems = [f"{name}: the table of code is empty"] * (len(rows) < 5)
    for _, link, function in rows:
        path = (REPOSITORY / name).parent / re.fullmatch(r"\[.+\]\((.+)\)", link)[1]
        body = ast.parse(path.read_text("utf-8")).body if path.is_file() else []
        names = {getattr(node, "name", None) for node in body}
        names |= {node.target.id for node in body if isinstance(node, ast.AnnAssign)}
        names |= {
            t.id
            for n in body
            if isinstance(n, ast.Assign)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        problems += [f"{name}: {link} has no {function}"] * (function.strip("`") not in names)
    return problems


def check_map(text, modules):
    """common/README.md lists every part of the package, and nothing else."""
    listed = set(re.findall(r"^\| `facezoo/([\w.]+)/?` \|", text, re.MULTILINE))
    return sorted(listed.symmetric_difference(modules))


def check_makefile(readme, commands_of):
    """Each step's target runs the commands between the step's heading and the next heading."""
    problems = []
    for number, target in re.findall(r"^### ([1-9]) (\w+)", readme, re.MULTILINE):
        below = readme.split(f"\n### {number} {target}", 1)[1]
        shown = commands(re.split(r"^#", below, maxsplit=1, flags=re.MULTILINE)[0])
        if not shown or shown != commands_of(target):
            problems.append(f"make {target} does not run what step {number} shows")
    return problems


def made(folder, **variables):
    """Give the commands of a target; as pages show them, with files where they lie by default."""
    environment = {k: v for k, v in os.environ.items() if k != "FACEZOO_HOME"}

    def commands_of(target):
        done = subprocess.run(
            ["make", "--no-print-directory", "-n", "-C", str(folder), target],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, **variables},
        )
        lines = done.stdout.replace("\\\n", " ").splitlines()
        return [shlex.split(line.replace("cd workspace && ", "", 1)) for line in lines]

    return commands_of


# The pages as they are ----------------------------------------------------------------------------

CHECKS = (check_links, check_fences, check_commands, check_inline, check_python, check_machine)


@pytest.mark.parametrize("check", CHECKS)
def test_pages(check):
    assert [problem for item in TEXTS.items() for problem in check(*item)] == []


def test_no_number_is_typed_by_hand():
    assert [problem for item in READMES.items() for problem in check_numbers(*item)] == []


def test_contributing_is_short():
    name = "CONTRIBUTING.md"
    assert check_length(name, TEXTS[name]) == []


def test_chinese_pages_are_twins():
    chinese = [name for name in TEXTS if name.endswith(".zh-CN.md")]
    assert {"README.zh-CN.md", *(f"{recipe}/README.zh-CN.md" for recipe in RECIPES)} <= set(chinese)
    for name in chinese:
        assert check_twin(TEXTS[name.replace(".zh-CN", "")], TEXTS[name]) == [], name


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_their_sections(recipe):
    for language, page in enumerate(("README.md", "README.zh-CN.md")):
        text = TEXTS[f"{recipe}/{page}"]
        assert check_headings(page, text, language, recipe in SEED_TOOLS) == []
        assert check_top(page, text) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_say_where_the_code_is(recipe):
    for language, page in enumerate(("README.md", "README.zh-CN.md")):
        name = f"{recipe}/{page}"
        assert check_code_table(name, section(TEXTS[name], HEADINGS[4][language])) == []


@pytest.mark.parametrize("recipe", SEED_TOOLS)
def test_every_seed_step_has_its_counterpart(recipe):
    seed_steps = " ".join(
        row[0] for row in table_rows(section(TEXTS[f"{recipe}/README.md"], SEED_STEPS[0]))
    )
    assert [tool for tool in SEED_TOOLS[recipe] if tool not in seed_steps] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    "recipe", [one for one in RECIPES if (REPOSITORY / one / "Makefile").exists()]
)
def test_makefiles_run_the_steps(recipe):
    assert check_makefile(TEXTS[f"{recipe}/README.md"], made(REPOSITORY / recipe)) == []


def test_the_map_of_the_package_is_whole():
    parts = {path.name for path in PACKAGE.iterdir() if re.match(r"[a-z]|__main__", path.name)}
    assert check_map(TEXTS["common/README.md"], parts - {"py.typed"}) == []


def quick_commands():
    found = {shlex.join(words): words for text in TEXTS.values() for words in commands(text)}
    quick = ("facezoo list", "facezoo --help", "make help")
    return [pytest.param(words, id=name) for name, words in found.items() if name in quick]


@pytest.mark.parametrize("words", quick_commands())
def test_quick_commands_run(words, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    if words[0] != "facezoo":
        assert subprocess.run(words, capture_output=True, check=True).stdout
        return
    try:
        code = main(words[1:])
    except SystemExit as end:
        code = end.code
    assert code == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_its_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert "usage: facezoo" in capsys.readouterr().out


# What the checks must notice ----------------------------------------------------------------------

SCRFD = TEXTS["face_detection/scrfd/README.md"]
SCRFD_ZH = TEXTS["face_detection/scrfd/README.zh-CN.md"]


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_commands, "--file_path", "--file_paht"),
        (check_commands, "facezoo vamc compile", "facezoo vamc compil"),
        (check_commands, "facezoo download", "facezoo downlaod"),
        (check_commands, "--profile eval", "--profile evla"),
        (check_commands, "python ../build_in/vsx", "python ./build_in/vsx"),
        (check_commands, "cd face_detection/scrfd/workspace", "cd face_detection/workspace"),
        (check_commands, ".[plot]", ".[plots]"),
        (check_commands, "facezoo download", "wget"),
        (
            check_commands,
            " ../build_in/vdsp_params/insightface",
            " ../build_in/vdsp_params/official",
        ),
        (check_links, "(source_code/UPSTREAM.md)", "(source_code/UPSTREAM.txt)"),
        (check_links, "(source_code/UPSTREAM.md)", "()"),
        (check_links, "images/face_detection/scrfd/network.svg", "images/network.svg"),
        (check_fences, "```bash", "```"),
        (check_inline, "`facezoo info", "`facezoo inform"),
        (check_python, "import read_image_rgb", "import read_image_bgr"),
        (check_machine, "~/.cache/facezoo/", "/home/me/"),
        (check_numbers, "# SCRFD\n", "# SCRFD\n\nIt reaches 90.97 on the easy faces.\n"),
        (check_numbers, "# SCRFD\n", "# SCRFD\n\nIt finds 91 % of them.\n"),
    ],
)
def test_mutations_are_noticed(check, old, new):
    name = "face_detection/scrfd/README.md"
    assert check(name, SCRFD) == []
    assert check(name, replaced(SCRFD, old, new)) != []


def test_a_wrong_target_is_noticed():
    assert check_commands("README.md", replaced(TEXTS["README.md"], "make demo", "make demos"))
    assert check_inline("x", "`make dems`")
    assert check_links("README.md", "[x](face_detection/scrfd/README.md#expected-outputs)")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--dtype fp32", "--dtype fp16"),
        ("facezoo:begin accuracy scrfd zh", "facezoo:begin accuracy scrfd"),
        ("facezoo:begin accuracy scrfd zh", "facezoo:begin weights scrfd zh"),
        ("### 5 vamp\n", ""),
        ("| `eval` |", "`eval`"),
    ],
)
def test_a_differing_twin_is_noticed(old, new):
    assert check_twin(SCRFD, SCRFD_ZH) == []
    assert check_twin(SCRFD, replaced(SCRFD_ZH, old, new)) != []


def test_other_mutations_are_noticed():
    name = "face_detection/scrfd/README.md"
    assert check_headings(name, replaced(SCRFD, "## Accuracy", "## Precision"), 0) != []
    assert check_top(name, replaced(SCRFD, "**Without files by hand:**", "All steps")) != []
    assert check_top(name, SCRFD_ZH) != []
    table = section(SCRFD, "Where the code is")
    assert check_code_table(name, table) == []
    assert check_code_table(name, replaced(table, "`decode`", "`decoding`")) != []
    assert check_code_table(name, replaced(table, "scrfd/decode.py", "scrfd/decoder.py")) != []
    assert check_code_table(name, "") != []
    assert check_length(name, "x\n" * CONTRIBUTING_LINES) == []
    assert check_length(name, "x\n" * (CONTRIBUTING_LINES + 1)) != []
    assert check_map(TEXTS["common/README.md"], {"errors.py"}) != []
    assert check_map("| `facezoo/errors.py` | x |", {"errors.py", "new.py"}) == ["new.py"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_differing_makefile_is_noticed():
    commands_of = made(REPOSITORY / "face_detection/scrfd")
    assert check_makefile(SCRFD, commands_of) == []
    assert check_makefile(replaced(SCRFD, "-b 22", "-b 2"), commands_of) != []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("recipe", RECIPES)
def test_pages_that_are_laid_out_link_only_to_what_is(recipe, tmp_path):
    lay_out(recipe.rpartition("/")[2], tmp_path / "x" / ".." / "work")
    pages = list((tmp_path / "work").rglob("*.md"))
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", FENCE.sub("", text))
        assert [one for one in targets if not (page.parent / one).exists()] == []
        assert any("/build_in/" in f"/{one}" for one in targets) or "UPSTREAM" in page.name
        assert "`facezoo/models/" in text


@pytest.mark.parametrize(("recipe", "target"), [("scrfd", "example"), ("pipnet", "fit")])
def test_makefiles_take_files_from_where_they_are(recipe, target):
    folder = next(REPOSITORY.glob(f"face_*/{recipe}"))
    words = [word for line in made(folder, FACEZOO_HOME="/elsewhere")(target) for word in line]
    assert any(word.startswith("/elsewhere") for word in words)
    assert not any(".cache" in word for word in words)


def test_other_tools_are_checked_too():
    where = REPOSITORY / "face_recognition/magface/workspace"
    words = ["torchrun", "--nproc_per_node", "8", "../source_code/train.py", "--train_list", "x"]
    assert why_not(words, where) is None
    assert why_not([*words, "--epoch", "1"], where)
    assert why_not(["torchrun", "--nproc_per_node", "8"], where)
    build = ["docker", "build", "-f", "face_recognition/magface/Dockerfile", "."]
    assert why_not(build, REPOSITORY) is None
    assert why_not(build, where)
    assert why_not(["docker", "push", "x"], where)
