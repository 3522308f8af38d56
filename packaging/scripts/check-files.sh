#!/usr/bin/env bash
# Checks the files that no compiler reads: documents, shell scripts, Python scripts, launchd
# property lists, systemd units. Run from the repository's root. A kind of file is skipped, with a
# message, where its checker is not installed; Python is there, because the build needs it.
set -euo pipefail

scripts=(setup test .ci/run fuzz/run tests/clients/run packaging/scripts/*.sh)
for script in "${scripts[@]}"; do
    bash -n "$script"
done
if command -v shellcheck >/dev/null; then
    shellcheck -x "${scripts[@]}"
else
    echo "skipped: shellcheck is not installed"
fi

# `find` also sees what is not committed yet.
find packaging tests examples -name '*.py' -print0 | while IFS= read -r -d '' file; do
    python3 - "$file" <<'END'
import ast, pathlib, sys
ast.parse(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[1])
END
done

find packaging -name '*.plist' -print0 | while IFS= read -r -d '' file; do
    python3 - "$file" <<'END'
import plistlib, sys
with open(sys.argv[1], "rb") as file:
    if not plistlib.load(file).get("Label"):
        sys.exit(f"{sys.argv[1]}: no Label")
END
done

find packaging \( -name '*.service' -o -name '*.socket' \) -print0 | while IFS= read -r -d '' file; do
    if ! command -v systemd-analyze >/dev/null; then
        echo "skipped: $file: systemd-analyze is not installed"
        continue
    fi
    # It exits with 0 on a key it does not know; only its complaints tell.
    complaints=$(systemd-analyze verify --user "$file" 2>&1) || true
    if [ -n "$complaints" ]; then
        printf '%s\n' "$complaints"
        exit 1
    fi
done

python3 packaging/scripts/check-docs.py

echo "documents, scripts and packaging files are sound"
