"""Renew the tables of the README from the results of the benchmarks: each stands behind the command that prints it.

python tools/readme.py            # rewrite README.md
python tools/readme.py --check    # exit with 1 if it would change
"""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- table: python (\S+) (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def renew(text: str) -> str:
    """The text with the output of each command between its marker and the next ``<!-- end -->``."""

    def table(match: re.Match[str]) -> str:
        command = [sys.executable, str(README.parent / match[2]), *match[3].split()]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        return f"{match[1]}{output}\n{match[4]}"

    return BLOCK.sub(table, text)


def main() -> int:
    """Renew or check the README."""
    old = README.read_text(encoding="utf-8")
    new = renew(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print("README.md: its tables are not those of benchmarks/results; run python tools/readme.py")
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
