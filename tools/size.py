"""Print the longest source files and the total number of lines."""

from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[1]
    lines = {path: len(path.read_text().splitlines()) for path in (root / "src").rglob("*.py")}
    for path, count in sorted(lines.items(), key=lambda item: -item[1])[:8]:
        print(f"{count:6d} {path.relative_to(root)}")
    print(f"{sum(lines.values()):6d} lines in {len(lines)} files under src")
