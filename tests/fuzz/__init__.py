"""Everything that reads bytes from outside, fed with bytes that nobody foresaw; `python -m tests.fuzz --help` says how.

=================  =======================================================================================
module             holds
=================  =======================================================================================
``target``         what a target is, what counts as a finding, the limits on time and memory
``targets``        all of them; ``of_wire``, ``of_provenance``, ``of_ledger``, ``of_node`` make them
``mutate``         damage by a seed, for the short form that runs with the ordinary tests
``worker``         one target under atheris, in a process of its own
``__main__``       shares the minutes out over the targets and writes the table
=================  =======================================================================================
"""
