"""Floor 3: the attestation agent that decides, applies and records patches on a target host.

It reads the ledger through `access.LedgerAccess` and changes files through `files.Files`; it imports no network and no database. The import
order, each module using only those before it::

    errors  limits  access  files  ->  state_file  record_log      maintenance  ->  target
    facts  ->  cedar_request  sample_facts  ->  policy_text (policy_child)  policy  policy_cache  ->  decision  ->  results
    decision  ->  policy_cases  gallery
    inventory  manifest  plan  ->  file_flags  set_id  host_checks  new_files  part  ->  stage  in_place  ->  switch  ->  applying
    applying  tree_cache  ->  registry
    highwater  clock_watch  statements  ->  identities  ->  rollout  validation  context  ->  pipeline
    rollback  rollout  context  policy_cache  decision  ->  decision_audit
    documents  outbox  ->  delivery      blocking  config  ->  lifecycle  ->  runtime

Start reading at `pipeline`: how a patch is judged; then `applying`: how a tree is changed. The formats stand in docs/spec/agent.md and
docs/spec/policy.md.
"""
