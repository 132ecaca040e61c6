"""Importing this ends a program whose packages are too old or too new: recipes do so before they import those."""

from align.run.checks.versions import stop_unless_supported

stop_unless_supported()
