// The sums, from stage 4 on: two to a cell, elements n and n + 32 of a part. Four registers a stage are what a stage has.
// Inside SwitchIngress.

// A register puts out one number a pass: of an addition the high sum, which the result has last.
#define SUM(n) \
    Register<pair_t, bit<16>>(CELLS) sum_##n; \
    RegisterAction<pair_t, bit<16>, bit<32>>(sum_##n) sum_##n##_start = { \
        void apply(inout pair_t cell, out bit<32> sum) { \
            cell.low = hdr.low.v_##n; \
            cell.high = hdr.high.v_##n; \
            sum = cell.high; \
        } \
    }; \
    RegisterAction<pair_t, bit<16>, bit<32>>(sum_##n) sum_##n##_add = { \
        void apply(inout pair_t cell, out bit<32> sum) { \
            cell.low = cell.low + hdr.low.v_##n; \
            cell.high = cell.high + hdr.high.v_##n; \
            sum = cell.high; \
        } \
    }; \
    RegisterAction<pair_t, bit<16>, bit<32>>(sum_##n) sum_##n##_low = { \
        void apply(inout pair_t cell, out bit<32> sum) { sum = cell.low; } \
    }; \
    RegisterAction<pair_t, bit<16>, bit<32>>(sum_##n) sum_##n##_high = { \
        void apply(inout pair_t cell, out bit<32> sum) { sum = cell.high; } \
    }; \
    action start_##n() { hdr.high.v_##n = sum_##n##_start.execute(meta.index); } \
    action add_##n() { hdr.high.v_##n = sum_##n##_add.execute(meta.index); } \
    action fetch_##n() { hdr.high.v_##n = sum_##n##_high.execute(meta.index); } \
    action gather_low_##n() { hdr.low.v_##n = sum_##n##_low.execute(meta.index); } \
    action gather_high_##n() { hdr.low.v_##n = sum_##n##_high.execute(meta.index); } \
    table sum_table_##n { \
        key = { \
            meta.step: ternary; \
            meta.chunk_kind: ternary; \
        } \
        actions = { start_##n; add_##n; fetch_##n; gather_low_##n; gather_high_##n; NoAction; } \
        default_action = NoAction(); \
        const entries = { \
            (START, _): start_##n(); \
            (JOIN, 2 &&& 2): add_##n(); \
            (JOIN, _): start_##n(); \
            (FETCH, _): fetch_##n(); \
            (GATHER_LOW, _): gather_low_##n(); \
            (GATHER_HIGH, _): gather_high_##n(); \
        } \
        size = 8; \
    }

EACH_PAIR(SUM)
