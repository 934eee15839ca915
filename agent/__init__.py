"""The attestation agent that decides, applies and records patches on a target host."""
