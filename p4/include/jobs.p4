// Who is who. All tables are the controller's. Inside SwitchIngress.

action known_sender(bit<8> job) {
    meta.job_number = job;
}

// Tells a stranger from a worker that names a wrong job.
table sender_table {
    key = {
        hdr.ipv4.src_addr: exact;
        hdr.udp.src_port: exact;
    }
    actions = { known_sender; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// window: slots, a power of two, from slot `pool_base` on. epoch: not 0, and another one for every job that gets a
// range of slots, so that what the job before left in the registers counts as never used.
action set_worker(
    bit<8> worker, bit<64> bit_of_worker, bit<8> workers, bit<64> everyone, bit<16> pool_base, bit<16> window,
    bit<1> paper, bit<8> epoch, bit<16> multicast_group
) {
    meta.worker = worker;
    meta.bit_of_worker = bit_of_worker;
    meta.workers = workers;
    meta.everyone = everyone;
    meta.pool_base = pool_base;
    meta.window = window;
    meta.paper = paper;
    meta.epoch = epoch;
    meta.multicast_group = multicast_group;
}

// Packets of each worker. By it the control plane knows when a worker was last heard.
direct_counter(CounterType.packets) job_packets;

// meta.job_number stays the sender's: reference clients number tensors, not jobs, so one worker may have an entry for each of the
// 256 numbers a packet can carry.
table job_table {
    key = {
        hdr.ipv4.src_addr: exact;
        hdr.udp.src_port: exact;
        hdr.switchml.job_number: exact;
    }
    actions = { set_worker; NoAction; }
    default_action = NoAction();
    counters = job_packets;
    size = 16384;
}

action reachable() {}

// A worker is entered here when its address is in SwitchEgress.worker_rewrite and its port in the multicast group.
table worker_port {
    key = {
        meta.job_number: exact;
        meta.worker: exact;
    }
    actions = { reachable; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// Bytes 2 to 9 of a probe's header, in which its number is.
action ask(bit<64> secret, bit<64> challenge) {
    meta.secret = secret;
    meta.challenge = challenge;
}

// Workers that have to prove their address (docs/protocol.md): only then does the control plane hear where they are.
table claim {
    key = {
        meta.job_number: exact;
        meta.worker: exact;
    }
    actions = { ask; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// To where the packet came from, since the worker's address does not count yet.
action send_challenge() {
    turn_back();
    hdr.ipv4.dst_addr = hdr.ipv4.src_addr;
    hdr.ipv4.src_addr = meta.target_addr;
    hdr.ipv4.ttl = OUR_TTL;
    meta.ip_changed = 1;
    bit<16> worker_port_number = hdr.udp.src_port;
    hdr.udp.src_port = hdr.udp.dst_port;
    hdr.udp.dst_port = worker_port_number;
    hdr.udp.checksum = 0;
    hdr.switchml.size = 1;
    hdr.switchml.tsi = meta.challenge[63:32];
    hdr.switchml.version = meta.challenge[31:31];
    hdr.switchml.slot = meta.challenge[29:16];
    hdr.switchml.e0 = meta.challenge[15:8];
    hdr.switchml.e1 = meta.challenge[7:0];
}

// A loss is the default action of a table without key: unlike a register, every control plane can set it.
action lose_ingress(bit<32> probability) {
    meta.loss = probability;
}

table ingress_loss {
    actions = { lose_ingress; }
    default_action = lose_ingress(0);
}
