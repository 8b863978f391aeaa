// Counters, a row a job; names and meanings in docs/protocol.md. Inside SwitchIngress.

// COUNTER declares one in the architecture's way.

COUNTER(packets_received)
COUNTER(chunks_completed)
COUNTER(results_retransmitted)
COUNTER(probes_answered)
COUNTER(asks_answered)
COUNTER(dropped_unknown_sender)
COUNTER(dropped_truncated)
COUNTER(dropped_bad_header)
COUNTER(dropped_wrong_job)
COUNTER(dropped_wrong_size)
COUNTER(dropped_wrong_slot)
COUNTER(dropped_wrong_version)
COUNTER(dropped_duplicate)
COUNTER(dropped_stale)
COUNTER(dropped_ahead)
COUNTER(dropped_unreachable)      // no address of the worker yet: the controller is told, and the worker will ask again
COUNTER(dropped_bad_checksum)     // of the IPv4 header
COUNTER(dropped_not_served)       // to the switch's own address, but nothing it does
COUNTER(fault_lost)
#ifndef __TARGET_TOFINO__
// Not a number of packets, hence no counter.
register<bit<64>>(COUNTER_ROWS) elements_added;
#endif
