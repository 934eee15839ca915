"""Readable golden runs of consensus: a command, then everything that can be seen of what it did.

A transcript is a text file of comments (``#``) and commands; below each command stands ``----`` and what the run printed. Nodes are
numbered from 1. Nothing moves but by commands, so a transcript shows every message, every write and every decision in its place::

    nodes 3 [voters=1,2,3] [learners=4] [election_ticks=10]   make them; all start, with founding voters 1,2,3
    tick 1 [10]                  let time pass for one node
    campaign 1                   tick one node until it polls
    lead 1                       let a node be elected and commit a block, and show what all know then
    propose 1 [text]             let a leader propose a block
    change 1 voters=1,2 [incoming=1,2,3] [learners=4]         … one that changes the configuration
    transfer 1 [to=2]            let a leader hand over
    read 1 id=7                  ask for a linearizable read
    write 1 [count]              finish the node's oldest writes (all of them)
    deliver [1->2] [count]       deliver the oldest messages (all; of one link)
    drop [1->2]                  lose them
    settle [1 2 3]               write and deliver among some nodes (all) until nothing moves; messages to others stay
    crash 1 / start 1            lose what is not on disk / start again
    prune 1 first=4              let a node have its blocks from a height on only
    install 2 from=1 height=3    give a node a snapshot
    status 1 / log 1             show what a node knows of itself / its blocks

``python -m tests.testkit.raft_transcript --rewrite`` writes anew what the transcripts say; read the difference before you commit it.
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

from consensus.config import Config, Role, Status
from consensus.core import Replica
from consensus.effects import (
    Effects,
    Event,
    InstalledSnapshot,
    Persist,
    Propose,
    ReadIndex,
    Received,
    Tick,
    TransferLeadership,
)
from consensus.errors import ProposalRefusedError, TransferRefusedError
from consensus.membership import Configuration
from consensus.messages import (
    Append,
    AppendReply,
    Entry,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    SnapshotOffer,
    TimeoutNow,
    Vote,
)
from tests.testkit.raft_sim import CHAIN_ID, GENESIS, SimDisk, configuration_of, make_entry, persisted, sim_keys
from wire.certificate import decode_commit_certificate_untrusted
from wire.hashing import Digest

FOLDER = Path(__file__).resolve().parent.parent / "transcripts"
STEPS_MAX = 2000


class Node:
    """One replica, its disk, and its unfinished writes."""

    def __init__(self, number: int, disk: SimDisk) -> None:
        self.number = number
        self.disk = disk
        self.replica: Replica | None = None
        self.writes: deque[tuple[Persist, list[tuple[int, Message]]]] = deque()


class Run:
    """Some nodes, the messages between them, and what was printed."""

    def __init__(self) -> None:
        self.keys = sim_keys(9)
        self.numbers: dict[bytes, int] = {key.public_key.key_id: i for i, key in enumerate(self.keys, 1)}
        self.nodes: dict[int, Node] = {}
        self.options: dict[str, int] = {}
        self.letters: list[tuple[int, int, Message]] = []
        self.names: dict[bytes, str] = {GENESIS: "genesis"}
        self.lines: list[str] = []

    def execute(self, line: str) -> str:
        """Run one command and return what it printed."""
        self.lines = []
        name, *arguments = line.split()
        named = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        plain = [argument for argument in arguments if "=" not in argument]
        getattr(self, "do_" + name)(plain, named)
        return "".join(f"{line}\n" for line in self.lines) or "(nothing)\n"

    # Commands

    def do_nodes(self, plain: list[str], named: dict[str, str]) -> None:
        count = int(plain[0])
        voters = named.pop("voters", ",".join(str(i) for i in range(1, count + 1)))
        founders = self._configuration(voters, None, named.pop("learners", ""))
        self.options = {key: int(value) for key, value in named.items()}
        for number in range(1, count + 1):
            node = self.nodes[number] = Node(number, SimDisk())
            node.disk.founders = founders
            self.do_start([str(number)], {})

    def do_start(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        key = self.keys[node.number - 1]
        config = Config(CHAIN_ID, key.public_key.key_id, key, **self.options)
        node.replica = Replica(config, node.disk.stored(), node.disk, lambda n: 0)
        self._say(node, self._describe_status(node.replica.status))

    def do_crash(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        if node.writes:
            self._say(node, f"loses {len(node.writes)} unfinished writes")
        node.replica = None
        node.writes.clear()

    def do_tick(self, plain: list[str], named: dict[str, str]) -> None:
        for _ in range(int(plain[1]) if len(plain) > 1 else 1):
            self._step(self.nodes[int(plain[0])], Tick())

    def do_campaign(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        while self._status(node).role is Role.FOLLOWER:
            self._step(node, Tick())

    def do_lead(self, plain: list[str], named: dict[str, str]) -> None:
        number = int(plain[0])
        self.do_campaign(plain, {})
        self.do_settle([], {})
        self._propose(self.nodes[number], b"", None)
        self.do_settle([], {})
        self.do_tick([plain[0], "2"], {})
        self.do_settle([], {})
        self.lines = []
        for node in self.nodes.values():
            if node.replica is not None:
                self._say(node, self._describe_status(node.replica.status))

    def do_propose(self, plain: list[str], named: dict[str, str]) -> None:
        self._propose(self.nodes[int(plain[0])], " ".join(plain[1:]).encode(), None)

    def do_change(self, plain: list[str], named: dict[str, str]) -> None:
        configuration = self._configuration(named["voters"], named.get("incoming"), named.get("learners", ""))
        self._propose(self.nodes[int(plain[0])], b"", configuration)

    def do_transfer(self, plain: list[str], named: dict[str, str]) -> None:
        to = self.keys[int(named["to"]) - 1].public_key.key_id if "to" in named else None
        self._step(self.nodes[int(plain[0])], TransferLeadership(to))

    def do_read(self, plain: list[str], named: dict[str, str]) -> None:
        self._step(self.nodes[int(plain[0])], ReadIndex(int(named["id"])))

    def do_write(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        for _ in range(int(plain[1]) if len(plain) > 1 else len(node.writes)):
            self._write(node)

    def do_deliver(self, plain: list[str], named: dict[str, str]) -> None:
        link = next((word for word in plain if "->" in word), None)
        counts = [int(word) for word in plain if "->" not in word]
        chosen = [letter for letter in self.letters if link is None or link == f"{letter[0]}->{letter[1]}"]
        for letter in chosen[: counts[0] if counts else None]:
            self._deliver(letter)

    def do_drop(self, plain: list[str], named: dict[str, str]) -> None:
        for letter in list(self.letters):
            if not plain or f"{letter[0]}->{letter[1]}" in plain:
                self.letters.remove(letter)
                self.lines.append(f"lost {letter[0]}->{letter[1]} {self._describe(letter[2])}")

    def do_settle(self, plain: list[str], named: dict[str, str]) -> None:
        among = {int(word) for word in plain} or set(self.nodes)
        for _ in range(STEPS_MAX):
            writing = next((self.nodes[number] for number in sorted(among) if self.nodes[number].writes), None)
            letter = next((letter for letter in self.letters if {letter[0], letter[1]} <= among), None)
            if writing is not None:
                self._write(writing)
            elif letter is not None:
                self._deliver(letter)
            else:
                return
        raise AssertionError("the nodes never come to rest")

    def do_prune(self, plain: list[str], named: dict[str, str]) -> None:
        self.nodes[int(plain[0])].disk.first_height = int(named["first"])

    def do_install(self, plain: list[str], named: dict[str, str]) -> None:
        node, donor, height = self.nodes[int(plain[0])], self.nodes[int(named["from"])].disk, int(named["height"])
        entry = donor.log[height - 1]
        assert node.replica is not None
        if node.writes or not node.replica.needs_snapshot(height, entry.term, entry.block_hash):
            self._say(node, "does not want it")
            return
        node.disk.install(donor, height)
        configuration = node.disk.configuration_at(height)
        certificate = donor.certificates[height]
        self._step(node, InstalledSnapshot(height, entry.term, entry.block_hash, configuration, certificate))

    def do_status(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        status = self._status(node)
        self._say(node, self._describe_status(status))
        for peer, progress in status.progress.items():
            heard = "heard" if progress.is_heard else "silent"
            place = f"match={progress.match_height} commit={progress.commit_height}"
            self.lines.append(f"   {self.numbers[peer]}: {progress.state} {place} {heard}")

    def do_log(self, plain: list[str], named: dict[str, str]) -> None:
        node = self.nodes[int(plain[0])]
        self._say(node, " ".join(self._name(entry.block_hash) for entry in node.disk.log) or "(empty)")

    # What happens

    def _propose(self, node: Node, payload: bytes, configuration: Configuration | None) -> None:
        status = self._status(node)
        entry = make_entry(status.term, status.last_height + 1, status.last_hash, payload, configuration)
        is_new = self._name_entry(entry)
        if not self._step(node, Propose(entry, configuration)) and is_new:
            del self.names[entry.block_hash]

    def _deliver(self, letter: tuple[int, int, Message]) -> None:
        sender, to, message = letter
        self.letters.remove(letter)
        self.lines.append(f"{sender}->{to} {self._describe(message)}")
        if self.nodes[to].replica is not None:
            self._step(self.nodes[to], Received(message, self.keys[sender - 1].public_key.key_id))

    def _write(self, node: Node) -> None:
        persist, after = node.writes.popleft()
        node.disk.write(persist)
        self._say(node, "has written " + self._describe_persist(persist))
        self._post(node, after)
        self._step(node, persisted(node.disk, persist))

    def _status(self, node: Node) -> Status:
        assert node.replica is not None, f"{node.number} is down"
        return node.replica.status

    def _step(self, node: Node, event: Event) -> bool:
        before = self._status(node)
        assert node.replica is not None
        try:
            effects = node.replica.step(event)
        except (ProposalRefusedError, TransferRefusedError) as error:
            self._say(node, f"refuses: {error.code}")
            return False
        self._show_change(node, before, self._status(node))
        self._carry_out(node, effects)
        return True

    def _show_change(self, node: Node, before: Status, after: Status) -> None:
        if (before.role, before.term) != (after.role, after.term):
            self._say(node, f"becomes {after.role} in term {after.term}")
        if before.leader != after.leader and after.leader is not None and after.role is Role.FOLLOWER:
            self._say(node, f"follows {self.numbers[after.leader]}")
        if before.configuration != after.configuration:
            self._say(node, f"is ruled by {self._describe_configuration(after.configuration)}")
        if before.transfer_to != after.transfer_to and after.role is Role.LEADER:
            to = after.transfer_to
            self._say(node, "gives up the hand-over" if to is None else f"hands over to {self.numbers[to]}")

    def _carry_out(self, node: Node, effects: Effects) -> None:
        for alarm in effects.alarms:
            self._say(node, f"ALARM {alarm.split(':')[0]}")
        self._post(node, [(self.numbers[outgoing.to], outgoing.message) for outgoing in effects.send])
        if effects.persist is not None:
            after = [(self.numbers[outgoing.to], outgoing.message) for outgoing in effects.send_after_persist]
            node.writes.append((effects.persist, after))
            self._say(node, "writes " + self._describe_persist(effects.persist))
        if effects.certificate is not None:
            signers = ",".join(str(self.numbers[signer]) for signer, _ in effects.certificate.signatures)
            blocks = " ".join(self._name(entry.block_hash) for entry in effects.apply)
            self._say(node, f"commits {blocks} (certified by {signers})")
            node.disk.certificates[effects.certificate.height] = effects.certificate
            node.disk.commit_height = effects.certificate.height
        if effects.elected is not None:
            signers = ",".join(str(self.numbers[signer]) for signer, _ in effects.elected.signatures)
            self._say(node, f"is elected by {signers}")
        if effects.stepped_down:
            self._say(node, "leads no more")
        if effects.removed:
            self._say(node, "is no member any more")
        for request_id, height in effects.reads_ready:
            self._say(node, f"may answer read {request_id} at height {height}")
        for request_id in effects.reads_refused:
            self._say(node, f"refuses read {request_id}")
        if effects.need_snapshot is not None:
            self._say(node, f"needs a snapshot of height {effects.need_snapshot.height_min} or above")

    def _post(self, node: Node, messages: list[tuple[int, Message]]) -> None:
        receivers: dict[str, list[str]] = {}
        for to, message in messages:
            self.letters.append((node.number, to, message))
            receivers.setdefault(type(message).__name__, []).append(str(to))
        for kind, numbers in receivers.items():
            self._say(node, f"sends {kind} to {' '.join(numbers)}")

    # Words

    def _say(self, node: Node, text: str) -> None:
        self.lines.append(f"{node.number} {text}")

    def _configuration(self, voters: str, incoming: str | None, learners: str) -> Configuration:
        def group(text: str):  # type: ignore[no-untyped-def]
            return tuple(self.keys[int(word) - 1].public_key for word in text.split(",") if word)

        return Configuration(group(voters), None if incoming is None else group(incoming), group(learners))

    def _name_entry(self, entry: Entry) -> bool:
        """Give a block a name, term and height; return whether it had none."""
        if entry.block_hash in self.names:
            return False
        name = f"{entry.term}.{entry.height}"
        while name in self.names.values():
            name += "'"
        self.names[entry.block_hash] = name
        return True

    def _name(self, block_hash: Digest) -> str:
        return self.names[block_hash]

    def _group(self, ids: tuple[NodeId, ...] | frozenset[NodeId]) -> str:
        return " ".join(str(number) for number in sorted(self.numbers[node_id] for node_id in ids))

    def _describe_configuration(self, configuration: Configuration) -> str:
        text = " and ".join(f"({self._group(group)})" for group in configuration.groups)
        if configuration.learner_ids:
            text += f", learning: {self._group(configuration.learner_ids)}"
        return text

    def _describe_status(self, status: Status) -> str:
        rule = self._describe_configuration(status.configuration)
        place = f"last={self._name(status.last_hash)} durable={status.durable_height} commit={status.commit_height}"
        return f"is {status.role} in term {status.term}, {place}, ruled by {rule}"

    def _describe_persist(self, persist: Persist) -> str:
        parts = []
        if persist.hard_state is not None:
            voted_for = persist.hard_state.voted_for
            vote = "" if voted_for is None else f" vote={self.numbers[voted_for]}"
            parts.append(f"term={persist.hard_state.term}{vote}")
        if persist.truncate_from is not None:
            parts.append(f"truncate from {persist.truncate_from}")
        parts += [self._describe_entry(entry) for entry in persist.entries]
        return " ".join(parts)

    def _describe_entry(self, entry: Entry) -> str:
        made = configuration_of(entry)
        return self._name(entry.block_hash) + ("" if made is None else f"[{self._describe_configuration(made)}]")

    def _describe(self, message: Message) -> str:
        kind = type(message).__name__
        head = f"{kind} term={message.term}"
        match message:
            case PreVote() | RequestVote():
                transfer = " transfer" if isinstance(message, RequestVote) and message.transfer else ""
                return f"{head} last={self._name(message.last_hash)}{transfer}"
            case PreVoteReply() | Vote():
                return f"{head} {'granted' if message.granted else 'refused'}"
            case Append():
                blocks = " ".join(self._name(entry.block_hash) for entry in message.entries)
                proof = ""
                if message.commit_certificate is not None:
                    certificate = decode_commit_certificate_untrusted(message.commit_certificate)
                    proof = f" certificate={self._name(certificate.block_hash)}"
                place = f"after={self._name(message.prev_hash)} [{blocks}] commit={message.commit_height}"
                return f"{head} round={message.round_id} {place}{proof}"
            case AppendReply(ok=True):
                signed = ",".join(self._name(each.block_hash) for each in message.acknowledgements)
                place = (
                    f"match={message.match_height} received={message.received_height} commit={message.commit_height}"
                )
                return f"{head} round={message.round_id} {place} signed=[{signed}]"
            case AppendReply():
                hint = f"hint={message.hint_term}.{message.hint_height}"
                return f"{head} round={message.round_id} REFUSED after={message.reject_height} {hint}"
            case SnapshotOffer():
                return f"{head} round={message.round_id} first={message.first_height} commit={message.commit_height}"
            case TimeoutNow():
                return head
            case ReadIndexRequest():
                return f"{head} number={message.number}"
            case ReadIndexReply():
                return f"{head} number={message.number} height={message.height}"


def replay(text: str) -> str:
    """Return the transcript with what its commands print when they are run now."""
    run = Run()
    kept: list[str] = []
    skipping = False
    for line in text.splitlines():
        if line == "----":
            skipping = True
        elif skipping and line:
            continue
        elif not line or line.startswith("#"):
            skipping = False
            kept.append(line + "\n")
        else:
            kept.append(f"{line}\n----\n{run.execute(line)}")
    return "".join(kept)


def main(arguments: list[str]) -> None:
    """Compare all transcripts, or write them anew with ``--rewrite``."""
    for path in sorted(FOLDER.glob("*.txt")):
        text = path.read_text()
        played = replay(text)
        if "--rewrite" in arguments:
            path.write_text(played)
        print(f"{path.name}: {'the same' if played == text else 'different'}")


if __name__ == "__main__":
    main(sys.argv[1:])
