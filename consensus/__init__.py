"""The Raft replica as a pure state machine that orders bytes it never reads."""
