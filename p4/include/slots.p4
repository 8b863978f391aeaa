// The slots' registers, a cell a copy, and what is done to them. Inside SwitchIngress.

register<bit<32>>(COPIES) stamp;          // tsi of the chunk the copy works on
register<bit<8>>(COPIES) used;            // epoch of the job that used it last; 0 = never
register<bit<64>>(COPIES) seen;           // a bit for each worker in the sum
register<bit<8>>(COPIES) seen_count;      // their number; for `paper` modulo the job's workers
register<bit<4>>(COPIES) kind;            // msg_type of the chunk's packets; ABSENT until elements have come
register<bit<8>>(COPIES) e0;
register<bit<8>>(COPIES) e1;

#define SUM_REGISTER(n) register<bit<32>>(COPIES) sum_##n;
EACH_ELEMENT(SUM_REGISTER)

// Exponents are int8, kept as bit<8>: BMv2 reads an int<8> of a register without its sign. With the sign bit turned over, signed
// numbers are in the order of unsigned ones.
#define ABOVE(a, b) (((a) ^ 0x80) > ((b) ^ 0x80))

#define READ_OLD(n) sum_##n.read(meta.sums.v_##n, meta.index);
#define ADD_OLD(n) hdr.elements.v_##n = hdr.elements.v_##n + meta.sums.v_##n;
#define READ(n) sum_##n.read(hdr.elements.v_##n, meta.index);
#define WRITE(n) sum_##n.write(meta.index, hdr.elements.v_##n);

// After each of these the packet's elements are the copy's sums.
action start_sums() {
    EACH_ELEMENT(WRITE)
}

action add_to_sums() {
    EACH_ELEMENT(READ_OLD)
    EACH_ELEMENT(ADD_OLD)
    EACH_ELEMENT(WRITE)
}

action recall_sums() {
    EACH_ELEMENT(READ)
}

action read_copy() {
    meta.index = 2 * ((bit<32>)meta.pool_base + (bit<32>)hdr.switchml.slot) + (bit<32>)hdr.switchml.version;
    stamp.read(meta.copy.stamp, meta.index);
    used.read(meta.copy.used, meta.index);
    seen.read(meta.copy.seen, meta.index);
    seen_count.read(meta.copy.seen_count, meta.index);
    kind.read(meta.copy.kind, meta.index);
    e0.read(meta.copy.e0, meta.index);
    e1.read(meta.copy.e1, meta.index);
}

action read_other_copy() {
    stamp.read(meta.other.stamp, meta.index ^ 1);
    used.read(meta.other.used, meta.index ^ 1);
    seen.read(meta.other.seen, meta.index ^ 1);
}

action forget_workers() {
    meta.copy.seen = 0;
    meta.copy.seen_count = 0;
}

action take_kind() {
    meta.copy.kind = hdr.switchml.msg_type;
    kind.write(meta.index, hdr.switchml.msg_type);
}

action start_copy() {
    take_kind();
    meta.copy.e0 = hdr.switchml.e0;
    meta.copy.e1 = hdr.switchml.e1;
    stamp.write(meta.index, hdr.switchml.tsi);
    used.write(meta.index, meta.epoch);
}

action enter_worker() {
    meta.copy.seen = meta.copy.seen | meta.bit_of_worker;
    meta.copy.seen_count = meta.copy.seen_count + 1;
}

action write_copy() {
    seen.write(meta.index, meta.copy.seen);
    seen_count.write(meta.index, meta.copy.seen_count);
    e0.write(meta.index, meta.copy.e0);
    e1.write(meta.index, meta.copy.e1);
}

action count_elements(bit<64> elements) {
    bit<64> added;
    elements_added.read(added, (bit<32>)meta.job_number);
    elements_added.write((bit<32>)meta.job_number, added + elements);
}
