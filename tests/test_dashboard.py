"""The dashboards: asv measures and publishes, and a browser without a network shows the speed-ups over NumPy."""

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser import opened

import lstm_cy
from lstm_cy import config

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "forward.Forward.track_speedup_over_numpy": ("Speed-up over NumPy: whole sequences", "1x100x32x32"),
    "step.Stepping.track_speedup_over_numpy": ("Speed-up over NumPy: single steps, by a Stepper", "1x1x32x32"),
}
COMMITS = 2  # all measured with the tested library; a line needs two points
SETS = (config.instruction_set(), "base")  # each makes a machine of its own for asv; the first is the one looked at


def pages():
    """Load the plugin as asv does, not as one of the benchmarks."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "benchmarks" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command, cwd, **environment):
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Measure a new repository with the benchmarks and some commits by asv; return (folder, commits, machines)."""
    pytest.importorskip("asv")
    need("git")
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "asv.conf.json", folder)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "commit.gpgsign=false")
    run(*git, "init", "--quiet", "--initial-branch=main", cwd=folder)
    run(*git, "add", ".", cwd=folder)
    asv = (sys.executable, "-m", "asv")
    # asv writes a description of the machine into the home folder
    environment = {
        "HOME": str(folder),
        "OPENBLAS_NUM_THREADS": "1",
        "ASV_PYTHONPATH": str(Path(lstm_cy.__file__).parents[1]),
    }
    machines = [
        run(sys.executable, "benchmarks/machine.py", cwd=folder, LSTM_CY_ISA=isa, **environment).strip() for isa in SETS
    ]
    smallest = r"(Forward|Stepping)\.track_speedup_over_numpy\('(1x100|1x1)x32x32'\)"
    commits = []
    for number in range(COMMITS):
        when = f"2026-01-0{number + 1}T12:00:00Z"
        stamp = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        run(*git, "commit", "--quiet", "--allow-empty", "--message", f"number {number}", cwd=folder, **stamp)
        commits.append(run("git", "rev-parse", "HEAD", cwd=folder).strip())
        arguments = ("--python=same", "--set-commit-hash", commits[-1], "--bench", smallest)
        for machine, isa in zip(machines, SETS, strict=True):
            run(*asv, "run", "--machine", machine, *arguments, cwd=folder, LSTM_CY_ISA=isa, **environment)
    return folder, commits, machines


@pytest.fixture(scope="module")
def site(project):
    """Publish the results with `asv publish` and serve them on this machine; return (address, folder)."""
    need("npm")
    folder, *_ = project
    output = run(sys.executable, "-m", "asv", "publish", cwd=folder)
    html = folder / ".asv" / "html"
    if "from other hosts" in output:
        pytest.skip("npm cannot install the libraries of the pages")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    serve = functools.partial(Handler, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", html
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = opened(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


def measured(project, name, parameters):
    """Return a benchmark's values in asv's results of the first machine, one for each commit."""
    folder, commits, machines = project
    values = []
    for commit in commits:
        (path,) = (folder / ".asv" / "results" / machines[0]).glob(f"{commit[:8]}-*.json")
        report = json.loads(path.read_text())
        columns = dict(zip(report["result_columns"], report["results"][name], strict=False))
        (index,) = [i for i, value in enumerate(columns["params"][0]) if value == repr(parameters)]
        values.append(columns["result"][index])
    return values


def test_index_loads_nothing_from_other_hosts(tmp_path):
    asv = pytest.importorskip("asv")
    module = pages()
    for _, package, file in module.LIBRARIES:
        path = tmp_path / "packages" / module.name_of(package) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(package)
        (tmp_path / "packages" / module.name_of(package) / "LICENSE.txt").touch()
    html = tmp_path / "html"
    shutil.copytree(Path(asv.__file__).parent / "www", html)
    before = (html / "index.html").read_text()
    assert before.count(' src="https://') + before.count('stylesheet" href="https://') == len(module.LIBRARIES)
    module.add_libraries(html, tmp_path / "packages")
    after = (html / "index.html").read_text()
    assert ' src="https://' not in after
    assert 'stylesheet" href="https://' not in after
    assert "integrity" not in after
    for _, package, file in module.LIBRARIES:
        address = f"libraries/{module.name_of(package)}/{file}"
        assert after.count(f'="{address}"') == 1
        assert (html / address).read_text() == package
        assert (html / "libraries" / module.name_of(package) / "LICENSE.txt").exists()
    assert before.count('onerror="js_load_failure()"') == after.count('onerror="js_load_failure()"')


def test_libraries_are_installed_once(tmp_path, monkeypatch):
    module = pages()
    calls = []

    def npm(command, **_):
        calls.append(command)
        for _, package, file in module.LIBRARIES:
            path = tmp_path / "node_modules" / module.name_of(package) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    monkeypatch.setattr(module.subprocess, "run", npm)
    for _ in range(2):
        assert module.installed(tmp_path) == tmp_path / "node_modules"
    (command,) = calls
    assert command[:2] == ["npm", "install"]
    assert "jquery@3.3.1" in command


def test_pages_are_published_without_npm_too(project, tmp_path):
    folder, *_ = project
    html = tmp_path / "html"
    output = run(sys.executable, "-m", "asv", "publish", "-o", html, cwd=folder, PATH=str(only_git(tmp_path)))
    assert "from other hosts: npm: " in output
    assert 'src="https://' in (html / "index.html").read_text()


def only_git(folder):
    """Make a folder of programs that contains only git."""
    (folder / "bin").mkdir()
    (folder / "bin" / "git").symlink_to(shutil.which("git"))
    return folder / "bin"


def test_results_are_kept_by_processor(project):
    folder, commits, machines = project
    assert len(set(machines)) == len(SETS)
    for machine, isa in zip(machines, SETS, strict=True):
        assert machine.endswith(f" {isa}")
        results = folder / ".asv" / "results" / machine
        described = json.loads((results / "machine.json").read_text())
        assert described["machine"] == machine
        assert all(described[field] for field in ("arch", "cpu", "num_cpu", "os", "ram"))
        assert len(list(results.glob("*-existing*.json"))) == len(commits)


def test_the_reader_chooses_the_processor(site, browser, project):
    address, _ = site
    _, _, machines = project
    name = next(iter(TITLES))
    shown = browser.open(
        f"{address}#{name}",
        """
        const plot = $('#main-graph').data('plot');
        const panel = $('.panel').filter((_, one) => $(one).find('.panel-heading').text().trim() == 'machine');
        const names = panel.find('.btn').map((_, button) => $(button).text()).get();
        const lines = plot && plot.getData().filter(line => line.data.some(point => point[1] !== null));
        return lines && names.length ? [names, lines.length] : null;
        """,
    )
    assert sorted(shown[0]) == sorted(machines)
    assert shown[1] == len(machines)  # a line for each
    assert browser.complaints() == []


def test_list_of_benchmarks_has_the_speedups(site, browser, project):
    address, _ = site
    rows = browser.open(
        f"{address}#/summarylist?machine={quote(project[2][0])}",
        "return $('#summarylist-body tbody tr').map((_, row) => $(row).text()).get()",
    )
    for name, (title, shape) in TITLES.items():
        (row,) = [row for row in rows if row.startswith(f"{title} ('{shape}')")]
        shown = float(re.search(r"\)([\d.e+]+) x", row)[1])  # asv's estimate of the current level
        values = measured(project, name, shape)
        assert 0.99 * min(values) <= shown <= 1.01 * max(values), row
    titles = tuple(title for title, _ in TITLES.values())
    assert all(row.startswith(titles) for row in rows)  # benchmarks without results are left out
    assert browser.complaints() == []


def test_grid_has_the_speedups(site, browser):
    address, _ = site
    shown = browser.open(
        address,
        """
        const boxes = $('.benchmark-container').filter((_, box) => $(box).find('canvas').length > 0);
        const titles = boxes.map((_, box) => $(box).find('.benchmark-text').text()).get();
        return titles.length == $('.benchmark-container').length && titles;
        """,
    )
    assert set(shown) == {title for title, _ in TITLES.values()}
    assert browser.complaints() == []


@pytest.mark.parametrize("name", TITLES)
def test_graph_of_speedups_is_drawn(site, browser, project, name, tmp_path):
    address, _ = site
    _, shape = TITLES[name]
    drawn = browser.open(
        f"{address}#{name}?machine={quote(project[2][0])}",
        """
        const plot = $('#main-graph').data('plot');
        if (!plot) return null;
        const line = plot.getData().find(line => line.data.some(point => point[1] !== null));
        const ends = line.data.map(point => plot.pointOffset({x: point[0], y: point[1]}).left);
        const colour = $.color.parse(line.color);
        const canvas = plot.getCanvas();
        const {width, height, data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const columns = new Set();
        for (let at = 0; at < data.length; at += 4) {
            const off = [colour.r, colour.g, colour.b].map((expected, i) => Math.abs(data[at + i] - expected));
            if (data[at + 3] > 30 && Math.max(...off) < 30) columns.add(at / 4 % width);
        }
        return {
            title: $('#title').text(),
            values: line.data.map(point => point[1]),
            length: Math.max(...ends) - Math.min(...ends),
            columns: columns.size,
        };
        """,
    )
    assert drawn["title"] == name
    assert np.allclose(drawn["values"], measured(project, name, shape), rtol=1e-3)
    assert drawn["length"] > 500
    assert drawn["columns"] > 0.9 * drawn["length"]  # the line between the points, not only the points
    assert browser.complaints() == []
    picture = tmp_path / "graph.png"
    assert browser.driver.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000


def test_the_browser_reports_errors_and_requests_to_other_hosts(site, browser):
    """Other tests rely on an empty list of complaints."""
    address, _ = site
    browser.open(
        address,
        """
        if (window.started) return window.refused;
        window.started = true;
        setTimeout(() => { throw new Error('planted') });
        fetch('missing.json');
        fetch('http://elsewhere.invalid/library.js').catch(() => { window.refused = true });
        return null;
        """,
    )
    complaints = "\n".join(browser.complaints())
    for expected in ("planted", "missing.json", "another host: http://elsewhere.invalid/", "Fetch: net::ERR_NAME_NOT"):
        assert expected in complaints
