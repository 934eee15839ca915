"""HTTP: a process of its own between the world and the core's Unix socket. It holds no keys and no state."""
