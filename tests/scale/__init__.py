"""A fleet of thousands of hosts in one process: real agents, real ledger, no consensus (`python -m tests.scale --hosts 10000`)."""
