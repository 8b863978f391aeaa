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

// A loss is the default action of a table without key: unlike a register, every control plane can set it.
action lose_ingress(bit<32> probability) {
    meta.loss = probability;
}

table ingress_loss {
    actions = { lose_ingress; }
    default_action = lose_ingress(0);
}
