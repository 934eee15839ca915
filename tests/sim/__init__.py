"""The whole-cluster simulator: production validators on simulated machines, from one seed.

::

    plan ──► world ──┬── nodes       node.validator, node.replica, node.submission, node.storage.block_store, consensus, ledger
                     ├── network     loss, repetition, reordering, delay, cuts
                     ├── disks       unsynced and torn writes, flipped bits, no space, failing syncs
                     ├── clients     submit with retries through any node, read back
                     └── oracle      what must hold after every single event

``python -m tests.sim --seed N`` plays one seed, ``make sim`` many. Everything that could be chance comes from the seed: a seed is a run.
"""
