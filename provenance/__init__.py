"""Floor 1: the patch file, its format, statements, exact diff and verification; pure.

The import order, each line using only those above it::

    errors  limits  timestamp  members
    diff_model  diff_paths  diff_…  imports        what a diff means, and how foreign ones are brought in
    identity  components  component_listing  build_environment  test_suite  ->  metadata  ->  preamble  ->  layout
    intoto  ->  statement  ->  trailer             what author and attestors say
    verify                                         bytes become a VerifiedPatch, in three steps
    attestation  patchfile  schema                 what is made of it: attestations, files, the extracted document
    tree_digest                                    the digest of a whole tree, as git computes it
"""
