"""Real processes, disks and sockets, and what happens when they are killed, paused or cut off."""
