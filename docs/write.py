"""Write the pages of docs/ that are generated from the code.

python docs/write.py            # write the pages
python docs/write.py --check    # fail if a page is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

import api_page
import errors_page
import objectives_page
import policies_page

HERE = Path(__file__).parent
PAGES = {
    "api.md": api_page.page,
    "errors.md": errors_page.page,
    "objectives.md": objectives_page.page,
    "policies.md": policies_page.page,
}


def main() -> None:
    for name, page in PAGES.items():
        path, after = HERE / name, page()
        if "--check" not in sys.argv[1:]:
            path.write_text(after, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != after:
            sys.exit(f"docs/{name} differs from the code: run make pages")


if __name__ == "__main__":
    main()
