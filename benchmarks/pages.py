"""A plugin of asv (asv.conf.json): the pages of `asv publish` load nothing from other hosts, and no missing file.

asv's pages load JavaScript and style sheets from three hosts, and stay blank if one of them cannot be reached. This
plugin gets the same versions from npm's registry, once, and publishes them with the pages.

The pages also load a graph of every benchmark, measured or not. The plugin leaves out benchmarks without results.
"""

import re
import shutil
import subprocess
from pathlib import Path

#: the end of asv's address, npm's package, and the file in it; npm has no older package of stupidtable
LIBRARIES = (
    ("jquery-3.3.1.min.js", "jquery@3.3.1", "dist/jquery.min.js"),
    ("flot/0.8.3/jquery.flot.min.js", "flot@0.8.3", "jquery.flot.js"),
    ("flot/0.8.3/jquery.flot.time.min.js", "flot@0.8.3", "jquery.flot.time.js"),
    ("flot/0.8.3/jquery.flot.selection.min.js", "flot@0.8.3", "jquery.flot.selection.js"),
    ("flot/0.8.3/jquery.flot.categories.min.js", "flot@0.8.3", "jquery.flot.categories.js"),
    ("flot-orderbars@1.0.0/js/jquery.flot.orderBars.js", "flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    ("stupidtable/1.0.1/stupidtable.min.js", "stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    ("blueimp-md5/2.19.0/js/md5.min.js", "blueimp-md5@2.19.0", "js/md5.min.js"),
    ("bootstrap@3.1.1/dist/js/bootstrap.min.js", "bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    ("bootstrap@3.1.1/dist/css/bootstrap.min.css", "bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
)

FOLDER = "libraries"


def setup():
    """Define the publisher; asv calls this after loading the plugin, and uses every subclass of OutputPublisher."""
    # asv also imports every module of the benchmarks in environments for measurements, where asv is not installed
    from asv.console import log
    from asv.publishing import OutputPublisher

    class Pages(OutputPublisher):
        name = FOLDER
        order = -1  # before the publishers that use the list of benchmarks

        @classmethod
        def publish(cls, conf, repo, benchmarks, graphs, revisions):
            for benchmark in set(benchmarks):
                if not graphs.get_graph_group(benchmark):
                    del benchmarks[benchmark]
            html = Path(conf.html_dir)
            try:
                add_libraries(html, installed(html.with_name(FOLDER)))
            except (OSError, subprocess.CalledProcessError) as error:
                log.warning(f"the pages will load their libraries from other hosts: npm: {error}")

    global publisher  # asv keeps only a weak reference to it
    publisher = Pages


def installed(folder):
    """Install the libraries into a folder with npm, unless they are there; return the folder of the packages."""
    packages = folder / "node_modules"
    if not all((packages / name_of(package) / file).exists() for _, package, file in LIBRARIES):
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--prefix", folder, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
        required = sorted({package for _, package, _ in LIBRARIES})
        subprocess.run([*npm, *required], check=True, stdout=subprocess.DEVNULL)
    return packages


def add_libraries(html, packages):
    """Copy the libraries and their licences into a folder of pages, and change its index to load the copies."""
    index = html / "index.html"
    text = index.read_text()
    for address, package, file in LIBRARIES:
        source = packages / name_of(package)
        target = html / FOLDER / name_of(package)
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, target / file)
        for licence in source.glob("LICEN[CS]E*"):
            shutil.copy(licence, target)
        # the attributes for files of other hosts, such as a hash, are removed with the address
        loaded = re.compile(rf'="https://[^"]*/{re.escape(address)}"( (integrity|crossorigin|referrerpolicy)="[^"]*")*')
        text = loaded.sub(f'="{(Path(FOLDER) / name_of(package) / file).as_posix()}"', text)
    index.write_text(text)


def name_of(package):
    """Return a package's name without the version."""
    return package.partition("@")[0]
