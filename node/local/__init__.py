"""The core's local door: framed JSON on a Unix socket that only the node's own user can open."""
