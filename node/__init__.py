"""The processes of a node: core, gateway and command line."""
