"""The agent's own limits. Sizes are bytes and counts are items unless the name says otherwise."""

from __future__ import annotations

from typing import Final

from wire.limits import KIBIBYTE, MEBIBYTE

# Policy text; its sizes are the ledger's (ledger/limits.py). Cedar's parser recurses without a limit of its own: about 660 nested
# brackets end a process with an 8 MiB stack.
POLICY_BRACKETS_MAX: Final = 400
"""Opening brackets in one text, also those in strings and comments: an upper bound on nesting that no lexical trick gets round."""
POLICY_CONDITIONALS_MAX: Final = 400
"""`if` in one text: `if … then … else if …` nests without a bracket."""
POLICY_CHILD_STACK_BYTES: Final = 1 * MEBIBYTE
"""Stack on which the child process parses. Threads of the agent have at least twice that, so what passes there cannot overflow here."""
POLICY_CHILD_MEMORY_BYTES_MAX: Final = 2048 * MEBIBYTE
"""Address space of the child process."""
POLICY_CHILD_SECONDS_MAX: Final = 10
"""Time that the child process may take."""
POLICY_SETS_CACHED_MAX: Final = 4
"""Parsed policy sets kept: the one in force and those of decisions that are replayed."""

# Decisions
COMPONENTS_DECIDED_MAX: Final = 64
"""Different component names in one patch; each is one policy evaluation."""
FACT_ITEMS_MAX: Final = 4096
"""Members of one list in the facts: paths, references, installed patches, approvals."""
FACT_TEXT_BYTES_MAX: Final = 4 * KIBIBYTE
"""One text in the facts."""
ROLLOUT_ENTRIES_MAX: Final = 512
"""Transactions of one patch that are looked at for how far it has come: some milliseconds. Every decision pays for it."""
ROLLOUT_HOSTS_MAX: Final = 256
"""Hosts that a decision names of those where a patch succeeded, and as many where it failed: every intent carries them."""

# Targets
TARGETS_MAX: Final = 64
"""Targets of one host."""
TREE_ENTRIES_MAX: Final = 500_000
"""Files, directories and links below one target."""
TREE_DEPTH_MAX: Final = 100
"""Directories inside one another below one target; each holds one file descriptor while it is read."""
SPACE_RESERVE_BYTES: Final = 4 * MEBIBYTE
"""What must be free on a target's file system besides the new files: directories, journals, the other tree's links."""
PART_ENTRIES_MIN: Final = 1_000
"""Entries from which on a tree is exchanged only in the part in which it changes."""
STANDBY_ENTRIES_MIN: Final = 1_000
"""Entries of what would be exchanged from which on a standby tree is kept instead of making a new one each time."""
TREES_ASIDE_MAX: Final = 4
"""Old trees of one target that may stay beside its root because something in them cannot be removed."""
SYNCED_SINGLY_MAX: Final = 64
"""New files of one application in place that are made durable one by one; for more, the whole file system is."""
SCAN_AGE_SECONDS_MAX: Final = 900.0
"""How long ago a target that is changed in place may have been scanned as a whole: three times the default between two looks for drift."""
MANIFEST_WHOLE_MAX: Final = 1_000
"""Entries of a tree up to which its manifest is written anew after each exchange."""
MANIFEST_CHANGES_MAX: Final = 64
"""Applications whose files are kept beside a manifest before it is written anew."""
MANIFEST_CHANGED_PATHS_MAX: Final = 500
"""Files of one application that are kept beside a manifest; with more, it is written anew."""
TREE_CACHE_BYTES_MAX: Final = 256 * MEBIBYTE
"""What is remembered of the last reading of a tree; a larger one is read anew after a restart."""
STATE_FILE_BYTES_MAX: Final = 64 * MEBIBYTE
"""One file of the agent's state."""
DRIFT_PATHS_MAX: Final = 40
"""Paths that a drift report names; the count says how many there are."""
WINDOWS_MAX: Final = 32
"""Maintenance windows of one target."""
PATTERNS_MAX: Final = 256
"""Component names or patterns of one target."""

# Hooks
HOOK_WORDS_MAX: Final = 64
"""Words of one hook, with its program."""
HOOK_WORD_BYTES_MAX: Final = 4 * KIBIBYTE
"""One word."""
HOOK_SECONDS_DEFAULT: Final = 60
"""How long one run of a hook may take where the operator does not say."""
HOOK_SECONDS_MAX: Final = 3_600
"""How long all hooks of one target may take together, at worst."""
HOOK_RETRIES_MAX: Final = 1_000
"""How often a health check may fail before its first success."""
HOOK_RAW_OUTPUT_BYTES_MAX: Final = 64 * KIBIBYTE
"""The last of what a hook prints, before it is redacted and cut."""
HOOK_OUTPUT_BYTES_MAX: Final = 2 * KIBIBYTE
"""What a record keeps of it: one change has at most five, and a record's details 64 KiB."""
HOOK_LOCK_SECONDS: Final = 15.0
"""How long a hook of an agent that is gone may take to be ended."""
HOOK_GRACE_SECONDS: Final = 15.0
"""How much longer than its hook a guard may take before it is given up."""

# Outbox
OUTBOX_ENTRIES_MAX: Final = 10_000
"""Records that wait for the ledger. Beyond this nothing is applied: an outcome must always find room."""
OUTBOX_BYTES_MAX: Final = 32 * MEBIBYTE
"""Size of the outbox's log from which on it is as good as full."""
LOG_BYTES_MAX: Final = 512 * MEBIBYTE
"""One log; far above `OUTBOX_BYTES_MAX` with all that may follow it, so that what was written can always be read."""
OUTBOX_REFUSALS_MAX: Final = 5_000
"""Records that wait before refusals are kept in the local history only."""
OUTBOX_LINES_KEPT: Final = 64
"""Lines, besides four for each record that still matters, after which an outbox log is rewritten with only those."""
RECORD_BYTES_MAX: Final = 4 * MEBIBYTE
"""One line of an append-only log: a transaction in base64 beside its body."""
HISTORY_LINES_MAX: Final = 2_000
"""Endings kept in a target's local history; older ones stand on the ledger."""

SPLIT_VIEWS_SETTLED_MAX: Final = 1_000
"""Split views that the operators of one host may settle in its life."""
SPLIT_VIEW_REASON_BYTES_MAX: Final = 500
"""Why one was settled, one line."""

# Time
CLOCK_JUMP_MS_MAX: Final = 60_000
"""By how much the host's clock may be set, either way, before it is not believed any more."""
REPLICA_AGE_MS_MAX: Final = 60_000
"""Default of the oldest replica on which the agent decides."""
DECISION_AGE_MS_MAX: Final = 600_000
"""How much later than its decision the block of an intent may be when the host waited for it: deciding on the largest patch, the wait, and
block times that run ahead. An older decision is not acted on, and an audit finds one that was."""
INTENT_WAIT_SECONDS_MAX: Final = 15.0
"""Default of how long an application waits for its intent to be committed."""
OUTCOME_WAIT_SECONDS_MAX: Final = 5.0
"""Default of how long a caller waits for the outcome to be committed; it is safe in the outbox all the while."""
DELIVERY_SECONDS_MAX: Final = 30.0
"""How long one record may take on its way before the delivery pauses."""
DELIVERY_PAUSE_SECONDS: Final = 1.0
"""Pause after a failed delivery, doubled up to `DELIVERY_PAUSE_SECONDS_MAX`."""
DELIVERY_PAUSE_SECONDS_MAX: Final = 60.0
SETTLED_ENTRIES_KEPT: Final = 256
"""Delivered records whose last form is remembered for whoever waits for them."""
DRIFT_FULL_INTERVAL_SECONDS: Final = 86_400.0
"""Default of how often every file of every target is read for that, whatever its status says."""
DRIFT_INTERVAL_SECONDS: Final = 300.0
"""Default of how often every target is compared with its record."""
INBOX_INTERVAL_SECONDS: Final = 5.0
"""How often a host looks into its inbox."""
INBOX_FILES_MAX: Final = 256
"""Files of the inbox that one look takes; what waits to be tried again is none of them."""
INBOX_NAMES_MAX: Final = 16_384
"""Names in the inbox's directory; where there are more, none of them is looked at."""
FILE_NAME_BYTES_MAX: Final = 255
"""Bytes of a file's name, wherever the file system does not say less."""
INBOX_RESULTS_KEPT_MAX: Final = 1_000
"""Files with their results that each of its folders keeps."""
INBOX_RETRY_SECONDS: Final = 10
"""How long a file waits that could not be decided on; doubled each time up to `INBOX_RETRY_SECONDS_MAX`."""
INBOX_RETRY_SECONDS_MAX: Final = 3_600
TURNS_INTERVAL_SECONDS: Final = 10.0
"""Default of how often a host looks whether a rollout has come to it."""
TURN_RETRY_SECONDS: Final = 60
"""How long a patch that a rollout brings waits after it was refused; doubled each time up to `TURN_RETRY_SECONDS_MAX`."""
TURN_RETRY_SECONDS_MAX: Final = 3_600
