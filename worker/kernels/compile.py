"""Compiles every kernel ahead of time, for `make kernels`.

Writes <cache>/kernels/<hash of the sources>/<op>.<file>.<target>.{cubin,ptx} and says so; does nothing where that
is complete. Refuses kernels that spill registers or have a stack frame, but for those in SPILLS.
"""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).parent
SOURCES = HERE / "src"
# What each target's binary is for: the A100 and its generation, the H100 and H200, and whatever is newer.
TARGETS = {
    "sm_80": ["-gencode=arch=compute_80,code=sm_80", "-cubin"],
    "sm_90a": ["-gencode=arch=compute_90a,code=sm_90a", "-cubin"],
    "compute_90": ["-arch=compute_90", "-ptx"],
}
# Kernels that may spill or have a stack frame, each with its reason.
SPILLS: dict[str, str] = {}


def key() -> str:
    """The hash that build.rs looks for."""
    text = hashlib.sha256()
    for path in sorted([*SOURCES.rglob("*.cu"), *SOURCES.rglob("*.cuh")]):
        text.update(path.read_bytes())
    return text.hexdigest()[:16]


def of_the_wheels() -> pathlib.Path:
    """The compiler that requirements.txt installs."""
    return pathlib.Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvcc"


def make_executable(nvcc: pathlib.Path) -> None:
    """Gives back what wheels lose."""
    toolkit = nvcc.parent.parent
    for tool in [*toolkit.glob("bin/*"), *toolkit.glob("nvvm/bin/*")]:
        if tool.is_file() and not os.access(tool, os.X_OK):
            tool.chmod(0o755)


def compile_one(nvcc: pathlib.Path, source: pathlib.Path, target: str, folder: pathlib.Path) -> str:
    """Compiles one file for one target; returns what the assembler said of its registers."""
    flags = TARGETS[target]
    kind = "ptx" if "-ptx" in flags else "cubin"
    out = folder / f"{source.parent.name}.{source.stem}.{target}.{kind}"
    command = [str(nvcc), "-std=c++17", "-O3", *flags, "-Xptxas", "-v", f"-I{SOURCES / 'cuda'}", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{source.relative_to(HERE)} for {target}:\n{done.stderr}")
    return done.stderr


def complaints(said: str) -> list[str]:
    """Kernels of an assembler's report that spill or have a stack frame."""
    report = re.findall(r"Function properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill", said)
    return [f"{name}: {frame} bytes of stack frame, {spilled} bytes spilled"
            for name, frame, spilled in report if (frame, spilled) != ("0", "0") and name not in SPILLS]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nvcc", type=pathlib.Path, default=of_the_wheels(),
                         help="the compiler (default: the one that is installed beside this Python)")
    options.add_argument("--cache", type=pathlib.Path, required=True, help="where naru keeps what it makes")
    options.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    asked = options.parse_args()
    folder = asked.cache / "kernels" / key()
    if (folder / "complete").exists():
        print(f"kernels: {folder} is complete")
        return
    make_executable(asked.nvcc)
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    made.mkdir(parents=True)
    sources = sorted((SOURCES / "ops").glob("*/kernel*.cu"))
    jobs = [(source, target) for source in sources for target in TARGETS]
    wrong: list[str] = []
    with ThreadPoolExecutor(asked.jobs) as pool:
        running = {job: pool.submit(compile_one, asked.nvcc, *job, made) for job in jobs}
        for (source, target), job in running.items():
            said = job.result()
            (made / f"{source.parent.name}.{source.stem}.{target}.txt").write_text(said)
            wrong += [f"{target}: {complaint}" for complaint in complaints(said)]
            print(f"kernels: {source.relative_to(SOURCES)} for {target}", flush=True)
    if wrong:
        shutil.rmtree(made)
        sys.exit("kernels: registers do not suffice, and SPILLS gives no reason:\n" + "\n".join(wrong))
    (made / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    print(f"kernels: made {folder}")


if __name__ == "__main__":
    main()
