"""Renew the tables of README.md and docs/ from the results of the benchmarks, each by the command in front of it.

python tools/readme.py            # rewrite the pages whose tables changed
python tools/readme.py --check    # exit with 1 if one would change
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- table: python (\S+) (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def renew(text: str) -> str:
    """The text with the output of each command between its marker and the next ``<!-- end -->``."""

    def table(match: re.Match[str]) -> str:
        command = [sys.executable, str(ROOT / match[2]), *match[3].split()]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        return f"{match[1]}{output}\n{match[4]}"

    return BLOCK.sub(table, text)


def main() -> int:
    """Renew or check the pages."""
    stale = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = renew(old)
        if new != old:
            stale.append(page)
            if "--check" not in sys.argv[1:]:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv[1:] and stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        print(f"{names}: tables are not those of benchmarks/results; run python tools/readme.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
