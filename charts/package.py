"""Packs the charts as they are released, CHART-VERSION.tgz: the same files give the same bytes.

    package.py --out charts/released

docs/testing.md says when: what is in charts/released is what an upgrade is tested from.
"""

import argparse
import gzip
import io
import re
import tarfile
from pathlib import Path

CHARTS = Path(__file__).resolve().parent
NAMES = ("naru-crds", "naru")
VERSION = re.compile(r"^version: (\S+)$", re.MULTILINE)


def package(chart, out):
    """Writes the package of the chart in the folder `chart` into the folder `out`, and returns its path."""
    version = VERSION.search((chart / "Chart.yaml").read_text())[1]
    path = out / f"{chart.name}-{version}.tgz"
    out.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as compressed,
        tarfile.open(mode="w", fileobj=compressed, format=tarfile.USTAR_FORMAT) as tar,
    ):
        # Chart.yaml first, as in Helm's own packages.
        for source in sorted(chart.rglob("*"), key=lambda found: (found.name != "Chart.yaml", found)):
            if source.is_file():
                content = source.read_bytes()
                entry = tarfile.TarInfo(f"{chart.name}/{source.relative_to(chart)}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the packages")
    out = parser.parse_args().out
    for name in NAMES:
        path = package(CHARTS / name, out)
        print(f"{path}  {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
