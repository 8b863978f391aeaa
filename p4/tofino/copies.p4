// A slot's copies, and the verdict on a packet. Inside SwitchIngress.
//
// A register can be touched once a pass, by one of four programs of two comparisons each, which puts out one number. So stamp and
// workers are one cell, and a copy is opened for its next chunk (stamp two windows later, nobody in the sum) when the result of the
// other copy's is gathered: then a packet is of the chunk's turn if its sequence number is the stamp, and no other copy is asked.

// A job begins with stamp = slot and seen = 1 in version 0 of its slots, stamp = slot - window and seen = 0 in version 1, in all parts.
Register<copy_state_t, bit<16>>(CELLS) copy;

RegisterAction<copy_state_t, bit<16>, bit<32>>(copy) enter = {
    void apply(inout copy_state_t cell, out bit<32> before) {
        before = 0;
        if (cell.stamp == meta.key) {
            before = cell.seen;
            cell.seen = cell.seen | meta.value;
        }
    }
};

RegisterAction<copy_state_t, bit<16>, bit<32>>(copy) look = {
    void apply(inout copy_state_t cell, out bit<32> before) {
        before = 0;
        if (cell.stamp == meta.key) {
            before = cell.seen;
        }
    }
};

RegisterAction<copy_state_t, bit<16>, bit<32>>(copy) open = {
    void apply(inout copy_state_t cell) {
        if (cell.stamp == meta.key) {
            cell.stamp = meta.value;
            cell.seen = 1;
        }
    }
};

action enter_worker() {
    meta.seen = enter.execute(meta.copy_index);
    meta.admitted = 1;
}

action look_at_copy() {
    meta.seen = look.execute(meta.copy_index);
    meta.admitted = 1;
}

action open_next() { open.execute(meta.copy_index); }

// Stage 2: nobody comes to a copy who is not admitted.
table copy_table {
    key = {
        hdr.pass.harvest: ternary;
        meta.asks: ternary;
        meta.probes: ternary;
        meta.member: ternary;
        meta.reachable: ternary;
        meta.header_fault: ternary;
        meta.outside: ternary;
    }
    actions = { enter_worker; look_at_copy; open_next; NoAction; }
    default_action = NoAction();
    const entries = {
        (1, _, _, 1, _, _, 0): open_next();
        (0, 0, 0, 1, 1, 0, 0): enter_worker();
        (0, 1, 0, 1, 1, 0, 0): look_at_copy();
    }
    size = 4;
}

// Stage 3: exponents and kinds, of the chunk that the packet is of; and the verdict. A packet that is in the sum changes nothing.
#define BIT(worker) (32w2 << worker)
#define EVERYONE 0xFFFFFFFF
#define EACH_WORKER(DO) TEN(DO, ) TEN(DO, 1) TEN(DO, 2) DO(30)

#define LEAVE(w) (0, 0, w, BIT(w) &&& BIT(w)): NoAction();
#define LARGEST(name) \
    Register<int<8>, bit<16>>(CELLS) name; \
    RegisterAction<int<8>, bit<16>, bit<8>>(name) name##_start = { \
        void apply(inout int<8> cell) { cell = (int<8>)hdr.switchml.name; } \
    }; \
    RegisterAction<int<8>, bit<16>, bit<8>>(name) name##_join = { \
        void apply(inout int<8> cell) { cell = max(cell, (int<8>)hdr.switchml.name); } \
    }; \
    RegisterAction<int<8>, bit<16>, bit<8>>(name) name##_read = { \
        void apply(inout int<8> cell, out bit<8> largest) { largest = (bit<8>)cell; } \
    }; \
    action start_##name() { name##_start.execute(meta.index); } \
    action join_##name() { name##_join.execute(meta.index); } \
    action read_##name() { hdr.switchml.name = name##_read.execute(meta.index); } \
    table name##_table { \
        key = { \
            meta.last_half: ternary; \
            meta.asks: ternary; \
            meta.worker: ternary; \
            meta.seen: ternary; \
        } \
        actions = { start_##name; join_##name; read_##name; NoAction; } \
        default_action = NoAction(); \
        const entries = { \
            (1, _, _, _): read_##name(); \
            (0, 0, _, 0): NoAction(); \
            (0, 0, _, 1): start_##name(); \
            EACH_WORKER(LEAVE) \
            (0, 0, _, _): join_##name(); \
        } \
        size = 64; \
    }

LARGEST(e0)
LARGEST(e1)

Register<bit<8>, bit<16>>(CELLS) kind;

RegisterAction<bit<8>, bit<16>, bit<8>>(kind) kind_start = {
    void apply(inout bit<8> cell, out bit<8> now) {
        cell = meta.kind;
        now = meta.kind;
    }
};

RegisterAction<bit<8>, bit<16>, bit<8>>(kind) kind_join = {
    void apply(inout bit<8> cell, out bit<8> before) {
        before = cell;
        cell = cell | meta.kind;
    }
};

RegisterAction<bit<8>, bit<16>, bit<8>>(kind) kind_read = {
    void apply(inout bit<8> cell, out bit<8> now) { now = cell; }
};

action start_kind() { meta.chunk_kind = kind_start.execute(meta.index); }

action join_kind() { meta.chunk_kind = kind_join.execute(meta.index); }

action read_kind() { meta.chunk_kind = kind_read.execute(meta.index); }

#define LEAVE_KIND(w) (0, 0, w, BIT(w) &&& BIT(w)): read_kind();

table kind_table {
    key = {
        hdr.pass.harvest: ternary;
        meta.asks: ternary;
        meta.worker: ternary;
        meta.seen: ternary;
    }
    actions = { start_kind; join_kind; read_kind; NoAction; }
    default_action = NoAction();
    const entries = {
        (1, _, _, _): read_kind();
        (0, _, _, 0): NoAction();
        (0, _, _, EVERYONE): read_kind();
        (0, 1, _, _): NoAction();
        (0, 0, _, 1): start_kind();
        EACH_WORKER(LEAVE_KIND)
        (0, 0, _, _): join_kind();
    }
    size = 64;
}

action judge(step_t step, verdict_t verdict) {
    meta.step = step;
    meta.verdict = verdict;
}

#define VERDICTS(worker) \
    (0, _, _, _, _, _, worker, BIT(worker) &&& BIT(worker)): judge(NOTHING, KNOWN); \
    (0, _, _, 0, 1, _, worker, ~BIT(worker) &&& ~BIT(worker)): judge(JOIN, COMPLETE); \
    (0, _, _, 0, 0, _, worker, ~BIT(worker) &&& ~BIT(worker)): judge(FETCH, COMPLETE);

table verdict_table {
    key = {
        hdr.pass.harvest: ternary;
        hdr.pass.high: ternary;
        meta.admitted: ternary;
        meta.asks: ternary;
        meta.brings: ternary;
        meta.alone: ternary;
        meta.worker: ternary;
        meta.seen: ternary;
    }
    actions = { judge; }
    default_action = judge(NOTHING, REFUSED);
    const entries = {
        (1, 0, _, _, _, _, _, _): judge(GATHER_LOW, REPEATED);
        (1, 1, _, _, _, _, _, _): judge(GATHER_HIGH, REPEATED);
        (0, _, 1, 1, _, _, _, 0): judge(NOTHING, UNSEEN);
        (0, _, _, _, _, _, _, 0): judge(NOTHING, REFUSED);
        (0, _, _, _, _, _, _, EVERYONE): judge(FETCH, REPEATED);
        (0, _, _, 0, 1, 0, _, 1): judge(START, FRESH);
        (0, _, _, 0, 1, 1, _, 1): judge(START, COMPLETE);
        (0, _, _, 0, 0, 0, _, 1): judge(NOTHING, FRESH);
        (0, _, _, 0, 0, 1, _, 1): judge(FETCH, COMPLETE);
        EACH_WORKER(VERDICTS)
        (0, _, _, 1, _, _, _, _): judge(NOTHING, UNSEEN);
        (0, _, _, 0, 1, _, _, _): judge(JOIN, ADDED);
        (0, _, _, 0, 0, _, _, _): judge(NOTHING, ADDED);
    }
    size = 128;
}
