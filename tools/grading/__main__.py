"""``python -m grading course DIR | release DIR | wall``: what the Makefile and lecturers call."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from . import course, questions, sandbox


def release(folder: Path) -> list[Path]:
    """Student versions of all assignments, one directory and one archive each."""
    archives = []
    for name in questions.names():
        course.write_student_version(questions.load(name), folder / name)
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((folder / name).iterdir()):
                # A fixed date: the same sources give the same archive.
                entry = zipfile.ZipInfo(f"{name}/{file.name}", (2026, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
        archives.append(path)
    return archives


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="grading", description=__doc__)
    parser.add_argument("command", choices=["course", "release", "wall"])
    parser.add_argument("folder", nargs="?", type=Path)
    asked = parser.parse_args()
    if asked.command == "wall":
        print(sandbox.level())
    elif asked.folder is None:
        parser.error(f"{asked.command} needs a directory")
    elif asked.command == "course":
        print(course.make_course(asked.folder))
    else:
        for path in release(asked.folder):
            print(path)


if __name__ == "__main__":
    main()
