"""Floor 0: bytes and the mathematics on them, for every other package to stand on.

Here live the canonical encoding, hashes and their domains, Merkle trees, keys, signature envelopes, certificates, framing, the limits
that several packages share, and the error families. Nothing here reads a disk, a clock, a socket or chance.

The import order, each module using only those before it::

    errors  limits  ->  hashing  ->  codec  fields  base58  canonical_json  framing
                                 ->  keys  ->  envelope  certificate  x509
                                 ->  merkle
"""
