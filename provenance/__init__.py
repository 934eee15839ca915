"""The patch file: its format, statements, exact diff and verification; pure."""
