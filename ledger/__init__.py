"""Floor 2: identities, transactions, blocks, state, certificates and proofs; pure.

Bytes come in through `keyspace.Reader` and leave as `keyspace.WriteSet`; nothing here knows a disk, a clock or a socket. The import order,
each module using only those before it::

    errors  limits  keyspace  ->  record  configuration  records  roles  actions  ->  block  bodies  transaction
                              ->  certificate  configuration_history  state  state_tree  executed  ->  genesis_document  genesis
                              ->  membership  rules_*  rules  signers  ->  execution  ->  transition
                              ->  settlement  proofs  archive  audit  snapshot  snapshot_install  pruning        mempool

Start reading at `transition`: what a block must be. The format stands in docs/spec/ledger.md.
"""
