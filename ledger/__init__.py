"""Identities, transactions, blocks, state, certificates and proofs; pure."""
