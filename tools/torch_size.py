"""Say how much pip would download for torch here, before it does.

On Linux the default package index serves the CUDA build: torch and some twenty libraries of NVIDIA, several
gigabytes. Run by the Makefile: ``python tools/torch_size.py constraints.txt``. Says so, and goes on, when
it cannot know.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def size(url: str) -> int:
    """Bytes of the file at ``url``, by the server's word or on the disk."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).stat().st_size
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20) as reply:
        return int(reply.headers["Content-Length"])


def main() -> None:
    """Resolve torch with its dependencies, without downloading them, and print the sum of their sizes."""
    print("Asking pip which build of torch it would take ...", flush=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--report",
        "-",
        "-c",
        sys.argv[1],
        "torch",
    ]
    try:
        report = json.loads(subprocess.run(pip, stdout=subprocess.PIPE, check=True).stdout)
        urls = {item["metadata"]["name"]: item["download_info"]["url"] for item in report["install"]}
        sizes = {name: size(url) for name, url in urls.items()}
    except (
        subprocess.CalledProcessError,
        urllib.error.URLError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        print(
            f"Could not find out the size of torch ({type(error).__name__}). For the CUDA build expect "
            f"about 2.5 GB to download and 5 GB on disk; the CPU build is ten times smaller:\n"
            f"    make ... TORCH_INDEX={CPU_INDEX}"
        )
        return
    if "torch" not in sizes:
        return
    cuda = sorted(name for name in sizes if name.startswith("nvidia-"))
    print(f"torch and what it needs: {len(sizes)} packages, {sum(sizes.values()) / 1e9:.2f} GB to download.")
    if cuda:
        print(
            f"That is the CUDA build, with {len(cuda)} libraries of NVIDIA; on disk it takes twice as much. "
            f"The CPU build is ten times smaller: stop this with Ctrl-C and run\n"
            f"    make ... TORCH_INDEX={CPU_INDEX}",
            flush=True,
        )


if __name__ == "__main__":
    main()
