"""README, chapters and the examples' READMEs: commands, code, links and pictures are those of the project."""

import importlib
import importlib.util
import json
import os
import re
import shlex

import pytest
from conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
CHAPTERS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *CHAPTERS, *EXAMPLES]
STEPS = [path for path in CHAPTERS if path.name[0].isdigit()]

# Programs that are not the project's. zsh has no comments in interactive use, so no command may be followed by one.
PROGRAMS = {
    *("apt-get", "cd", "curl", "docker", "echo", "export", "git", "grep", "gunicorn", "kill", "kubectl", "openssl"),
    *("printf", "ray", "saved_model_cli", "serve", "sed", "source", "sudo", "waitress-serve"),
}


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page):
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Return the words of each command in the bash blocks and, if it is the project's, in the text."""
    lines = "".join(blocks(page, "bash")).splitlines()
    lines += [
        line for line in re.findall(r"`([^`\n]+)`", prose(page)) if re.match(r"(python|(\./)?scripts/\S+) ", line)
    ]
    parsers = [shlex.shlex(line, posix=True, punctuation_chars="|&") for line in lines]
    for parser in parsers:
        parser.whitespace_split, parser.commenters = True, ""
    return [command for parser in parsers for command in split_at_operators(list(parser))]


def split_at_operators(words):
    found = [[]]
    for word in words:
        if set(word) <= {"|", "&"}:
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


PAGES_AND_COMMANDS = sorted({(name_of(page), shlex.join(words)) for page in PAGES for words in commands(page)})


@pytest.mark.parametrize(("page", "command"), PAGES_AND_COMMANDS)
def test_a_command_is_understood_by_its_program(page, command, monkeypatch, capsys):
    program, *arguments = shlex.split(command)
    assert "#" not in arguments
    if program == "python" and arguments[0] == "-c":
        compile(arguments[1], page, "exec")
    elif program == "python" and arguments[0] == "-m":
        parse_as_module(arguments[1], arguments[2:])
    elif program == "python":
        parse_as_module(arguments[0].removesuffix(".py").replace("/", "."), arguments[1:])
    elif "/" in program:
        assert os.access(ROOT / program, os.X_OK), program
        if program.endswith("run.sh"):
            parse_as_module("scripts.run_pipeline", arguments)
    else:
        assert program in PROGRAMS


def parse_as_module(name, arguments):
    """Parse the arguments of a program of the project, or of pytest, as it does itself."""
    if name == "benchmarks.NAME":
        return
    package = importlib.util.find_spec(name)
    assert package, name
    if name == "pytest":
        assert all((ROOT / path).exists() for path in arguments if path.startswith("tests/"))
        return
    module = importlib.import_module(f"{name}.__main__" if package.submodule_search_locations else name)
    if name == "rnn_serving.model_server":
        module.flags.parse(arguments)
    elif hasattr(module, "parse_arguments"):
        module.parse_arguments([replace_placeholder(argument) for argument in arguments])
    else:
        assert len(arguments) == 1, f"{name} takes a directory"


def replace_placeholder(argument):
    return "127.0.0.1:1" if argument.startswith("HOST:") else argument


@pytest.mark.parametrize("page", [*CHAPTERS], ids=name_of)
def test_a_chapter_shows_code_as_it_is(page):
    """A block of Python follows a link to the file that has its lines, in this order."""
    shown = re.findall(r"\]\(\.\./([\w/]+\.py)\)[^`]*```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(shown) == len(blocks(page, "python")) >= 1
    for file, block in shown:
        lines = iter([line.strip() for line in (ROOT / file).read_text().splitlines()])
        for line in block.splitlines():
            assert line.strip() in lines, f"{file} has no line {line.strip()!r}, or not in this order"


@pytest.mark.parametrize("page", [*CHAPTERS], ids=name_of)
def test_a_chapter_opens_with_code_and_ends_with_a_link_to_the_next(page):
    text = page.read_text()
    assert text.index("```python") < text.index("\n## ") if "\n## " in text else True
    assert re.search(r"\n(Next: \[.+\]\(\w+\.md\)|Back to the \[README\]\(\.\./README\.md\))\n\Z", text)


def test_every_chapter_is_in_the_readme_and_is_reached_by_the_links_to_the_next():
    readme = (ROOT / "README.md").read_text()
    assert all(f"](docs/{page.name})" in readme for page in CHAPTERS)
    page, reached = ROOT / "docs" / "1_data.md", []
    while page not in reached and page.parent.name == "docs":
        reached.append(page)
        page = page.parent / re.findall(r"\]\(([\w./]+)\)", page.read_text())[-1]
    assert sorted(reached) == CHAPTERS


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_anchor_and_picture_exists(page):
    targets = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", prose(page))
    for target in filter(None, (part for pair in targets for part in pair)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_no_placeholder_of_a_figure_and_no_path_of_a_machine(page):
    text = page.read_text()
    assert not re.search(r"@@|MISSING|TODO|/(?:work|root|tmp)/", text)


def test_the_readme_is_one_page_and_shows_the_result():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    table = re.search(r"<!-- results: begin -->\n(.*?)<!-- results: end -->", text, re.DOTALL)[1]
    lines = table.strip().splitlines()
    assert [line.strip("|").count("|") for line in lines] == [4] * 7


@pytest.mark.parametrize("name", ["cpp_server.json", "cpp_server_batching.json"])
def test_a_report_that_the_results_quote_is_kept_whole(name):
    report = json.loads((ROOT / "docs" / "results" / name).read_text())
    assert report["is_whole"]
    assert report["machine"]
    assert not [row for row in report["rows"] if row["errors"]]


def test_every_example_has_a_readme():
    folders = {path.parent for path in (ROOT / "examples").glob("*/__init__.py")}
    assert {readme.parent for readme in EXAMPLES} == folders
