"""`python -m node.cli`: how the development network starts its nodes without relying on the search path."""

from __future__ import annotations

from node.cli.main import main

main()
