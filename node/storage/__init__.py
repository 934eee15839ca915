"""The node's disk: the only door to LevelDB.

`checks` is the arithmetic of one row (pure), `leveldb` the store of rows, `block_store` what consensus and the ledger keep in it.
"""
