"""Code lines by package, without blanks, comments and docstrings: `python tests/support/size.py src tests bench`."""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING,
}  # fmt: skip


def count_lines(path: Path) -> int:
    tree = ast.parse(path.read_bytes())
    strings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - strings)


def main(roots: list[str]) -> None:
    for root in map(Path, roots):
        counts: Counter[str] = Counter()
        base = root / "vitrail" if root.name == "src" else root
        for path in sorted(base.rglob("*.py")):
            parts = path.relative_to(base).parts
            counts[parts[0] if len(parts) > 1 else "(top)"] += count_lines(path)
        print(f"{root}: {counts.total():,} code lines")
        for package, count in counts.most_common():
            print(f"  {package:<14} {count:>6,}")


if __name__ == "__main__":
    main(sys.argv[1:])
