"""What carries packets: system calls from compiled code, trains of datagrams, rings in shared memory."""
