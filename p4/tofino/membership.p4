// Who is who, and where. The tables with a `size` are the controller's, and named as in the v1model program. Inside SwitchIngress.

// Forwarding by MAC address; the switch's own addresses.
action is_ours(mac_t mac) {
    meta.own_mac = mac;
}

table own_address {
    key = { meta.target_addr: exact; }
    actions = { is_ours; NoAction; }
    default_action = NoAction();
    size = 16;
}

action known_station() {}

action tell_station() {
    ig_dprsr_md.digest_type = TO_STATION_DIGEST;
}

table station {
    key = {
        hdr.ethernet.src_addr: exact;
        ig_intr_md.ingress_port: exact;
    }
    actions = { known_station; tell_station; }
    default_action = tell_station();
    size = 1024;
}

action send_to(PortId_t port) {
    ig_tm_md.ucast_egress_port = port;
}

action flood() {
    ig_tm_md.mcast_grp_a = FLOOD_GROUP;
    ig_tm_md.level2_exclusion_id = ig_intr_md.ingress_port;   // each port is in the exclusion group of its own number
}

action drop() {
    ig_dprsr_md.drop_ctl = 1;
}

table forward {
    key = { hdr.ethernet.dst_addr: exact; }
    actions = { send_to; flood; drop; }
    default_action = flood();
    size = 1024;
}

action answer_arp() {
    ig_tm_md.ucast_egress_port = ig_intr_md.ingress_port;
    hdr.ethernet.dst_addr = hdr.ethernet.src_addr;
    hdr.ethernet.src_addr = meta.own_mac;
    hdr.arp.operation = 2;
    hdr.arp.target_mac = hdr.arp.sender_mac;
    hdr.arp.target_addr = hdr.arp.sender_addr;
    hdr.arp.sender_mac = meta.own_mac;
    hdr.arp.sender_addr = meta.target_addr;
}

// Stage 0
action known_sender(bit<8> job, bit<9> row) {
    meta.sender_known = 1;
    meta.job_number = job;
    meta.row = row;               // `job`, in the counters' width
}

table sender_table {
    key = {
        hdr.ipv4.src_addr: exact;
        hdr.udp.src_port: exact;
    }
    actions = { known_sender; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// Worker w has bit w + 1. others_absent: all ones but for the bits of the job's workers, its own excepted: so a copy is complete when
// all of its bits are set, however many workers the job has.
action set_worker(
    bit<8> worker, bit<16> instance, bit<32> others_absent, bit<1> alone, bit<16> pool_base, bit<32> window, bit<16> slot_mask,
    bit<16> outside_mask, bit<16> turn_bit, bit<16> multicast_group
) {
    meta.member = 1;
    meta.worker = worker;
    meta.instance = instance;
    meta.value = others_absent;
    meta.alone = alone;
    meta.window = window;
    meta.index = pool_base + meta.place;                           // place_table takes the version out again
    meta.expected_slot = meta.order & slot_mask;                   // window - 1
    meta.outside = meta.place & outside_mask;                      // 0x3FFF - slot_mask
    meta.turn = meta.order & turn_bit;                             // window
    meta.multicast_group = multicast_group;
}

table job_table {
    key = {
        hdr.ipv4.src_addr: exact;
        hdr.udp.src_port: exact;
        hdr.switchml.job_number: exact;
    }
    actions = { set_worker; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// Message type, sizes and lengths. What goes round to gather a result has been here before.
action brings_elements() {
    meta.kind = KIND_ELEMENTS;
    meta.brings = 1;
}

action brings_none(bit<8> kind) {
    meta.kind = kind;
}

action asks() {
    meta.asks = 1;
}

action probes() {
    meta.probes = 1;
}

action refuse_header(outcome_t fault) {
    meta.header_fault = fault;
}

#define BARE (UDP_BYTES + SWITCHML_BYTES)
#define FULL (BARE + PAYLOAD_BYTES)

table header_table {
    key = {
        hdr.pass.harvest: ternary;
        hdr.switchml.msg_type: ternary;
        hdr.switchml.to_one: ternary;
        hdr.switchml.but_one: ternary;
        hdr.switchml.size: ternary;
        hdr.udp.length: range;
        hdr.ipv4.total_len: ternary;
    }
    actions = { brings_elements; brings_none; asks; probes; refuse_header; NoAction; }
    default_action = refuse_header(BAD_HEADER);
    const entries = {
        (1, _, _, _, _, _, _): NoAction();
        (_, MSG_SUM, 0, 0, SIZE_CODE, FULL .. FULL, IPV4_BYTES + FULL): brings_elements();
        (_, MSG_SUM, 0, 0, SIZE_CODE, 0 .. FULL, _): refuse_header(TRUNCATED);
        (_, MSG_SUM, 0, 0, _, _, _): refuse_header(WRONG_SIZE);
        (_, MSG_PROBE, 0, 0, _, _, _): probes();
        (_, MSG_EXPONENTS, 0, 0, SIZE_CODE, BARE .. BARE, IPV4_BYTES + BARE): brings_none(KIND_EXPONENTS);
        (_, MSG_EXPONENTS, 0, 0, _, _, _): refuse_header(WRONG_SIZE);
        (_, MSG_ABSENT, 0, 0, SIZE_CODE, BARE .. BARE, IPV4_BYTES + BARE): brings_none(KIND_ABSENT);
        (_, MSG_ABSENT, 0, 0, _, _, _): refuse_header(WRONG_SIZE);
        (_, MSG_ASK, 0, 0, SIZE_CODE, BARE .. BARE, IPV4_BYTES + BARE): asks();
        (_, MSG_ASK, 0, 0, _, _, _): refuse_header(WRONG_SIZE);
    }
    size = 16;
}

// Stage 1
action reachable() {
    meta.reachable = 1;
}

table worker_port {
    key = {
        meta.job_number: exact;
        meta.worker: exact;
    }
    actions = { reachable; NoAction; }
    default_action = NoAction();
    size = 4096;
}

// `index` so far: 0x8000 * version + slot. The cells of a part lie together, version 0 first.
action place_addition(bit<16> own, bit<1> last) {
    meta.copy_index = meta.index + own;
    meta.index = meta.index + own;
    meta.key = hdr.switchml.tsi;
    meta.last = last;
}

// A result that is gathered opens the slot's other copy for the chunk a window later.
action place_result(bit<16> own, bit<16> other, bit<1> last_half) {
    meta.copy_index = meta.index + other;
    meta.index = meta.index + own;
    meta.key = hdr.switchml.tsi - meta.window;
    meta.value = hdr.switchml.tsi + meta.window;
    meta.last_half = last_half;
}

#define CELL(part, version, of_packet) \
    ((part) * COPIES + (version) * POOL_SLOTS + 0x8000 * (of_packet))   // 16 bits: 0x8000 more is 0x8000 less
#define PLACES(part, last, first) \
    (0, 0, 0, part, _): place_addition(CELL(part, 0, 0), last); \
    (0, 0, 1, part, _): place_addition(CELL(part, 1, 1), last); \
    (1, _, 0, part, 0): place_result(CELL(part, 0, 0), CELL(part, 1, 0), first); \
    (1, _, 1, part, 0): place_result(CELL(part, 1, 1), CELL(part, 0, 1), first); \
    (1, _, 0, part, 1): place_result(CELL(part, 0, 0), CELL(part, 1, 0), 0); \
    (1, _, 1, part, 1): place_result(CELL(part, 1, 1), CELL(part, 0, 1), 0);

table place_table {
    key = {
        hdr.pass.harvest: ternary;
        meta.asks: ternary;
        hdr.switchml.version: ternary;
        hdr.pass.part: ternary;
        hdr.pass.high: ternary;
    }
    actions = { place_addition; place_result; NoAction; }
    default_action = NoAction();
    const entries = {
        (0, 1, 0, _, _): place_addition(CELL(LAST_PART, 0, 0), 1); // a question is about the last part, which comes last
        (0, 1, 1, _, _): place_addition(CELL(LAST_PART, 1, 1), 1);
#if ELEMENTS == 64
        PLACES(0, 1, 1)
#else
        PLACES(0, 0, 1)
        PLACES(1, 0, 0)
        PLACES(2, 0, 0)
        PLACES(3, 1, 0)
#endif
    }
    size = 32;
}
