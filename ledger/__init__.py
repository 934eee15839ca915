"""Floor 2: identities, transactions, blocks, state, certificates and proofs; pure.

Bytes come in through `keyspace.Reader` and leave as `keyspace.WriteSet`; nothing here knows a disk, a clock or a socket. The import order,
each module using only those before it::

    errors  limits  keyspace  ->  records  roles  actions  ->  bodies  transaction  block  ->  state  state_tree
                              ->  genesis_document  genesis  ->  rules_*  rules  ->  execution  ->  transition
                              ->  certificate  proofs  archive  audit        mempool

Start reading at `transition`: what a block must be. The format stands in docs/spec/ledger.md.
"""
