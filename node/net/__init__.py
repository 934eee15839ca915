"""The node's network: the only door to libp2p.

::

    network   who is linked to whom, dialling, requests by peer          (what the node core uses)
    sync      typed requests over it: blocks, transactions, patch files
    session   one connection: its streams, heartbeats and watchdog
    rpc       requests and responses that share one stream
    channel   frames on one stream: coalescing writer, bounded queue
    gate      which peers may enter
    host      the only module that imports libp2p
    address   PeerIds and multiaddresses, without libp2p

Importing this package, or any module but `host`, does not import libp2p (a second of start-up time). Source: docs/spec/network.md.
"""
