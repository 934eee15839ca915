"""Patch files from several peers at once: whom to ask, what to believe, whom to serve, what to keep. Source: docs/spec/network.md 9."""
