// Narrow lanes: two (SUM16) or four (SUM8) to the place of an int32 element. Inside SwitchIngress, after slots.p4.
//
// One number of thousands of bits holds every second lane of a packet, each in a field twice as wide: an addition adds them all. A
// field holds its sum plus HIGH, half of the field's range, so that it is never negative and nothing is borrowed from the next. With
// 64 workers sums are longer than a lane by 6 bits at most, which leaves room in a field of 16.

register<payload_t>(COPIES) lanes_even;   // each field's lane of the lower bits, which comes later in the packet
register<payload_t>(COPIES) lanes_odd;

#define ALL_ONES ((1 << PAYLOAD_BITS) - 1)
const payload_t ONES_8 = ALL_ONES / 0xFFFF;           // 1 in every field of 16 bits, for lanes of 8
const payload_t ONES_16 = ALL_ONES / 0xFFFFFFFF;      // 1 in every field of 32 bits, for lanes of 16
const payload_t LANES_8 = ALL_ONES / 0xFFFF * 0xFF;
const payload_t LANES_16 = ALL_ONES / 0xFFFFFFFF * 0xFFFF;
const payload_t SIGNS_8 = ALL_ONES / 0xFFFF * 0x80;
const payload_t SIGNS_16 = ALL_ONES / 0xFFFFFFFF * 0x8000;
const payload_t HIGH_8 = ALL_ONES / 0xFFFF * 0x8000;
const payload_t HIGH_16 = ALL_ONES / 0xFFFFFFFF * 0x80000000;

// What turns a lane's sign bit over adds half of the lane's range to its value.
#define SPLIT(bits) \
    meta.even = (hdr.lanes.all & LANES_##bits) ^ SIGNS_##bits; \
    meta.odd = ((hdr.lanes.all >> bits) & LANES_##bits) ^ SIGNS_##bits;

action split_lanes_8() { SPLIT(8) }

action split_lanes_16() { SPLIT(16) }

// After each of these `meta` has the copy's sums.
action start_lanes_8() {
    meta.even = meta.even + (HIGH_8 - SIGNS_8);
    meta.odd = meta.odd + (HIGH_8 - SIGNS_8);
}

action start_lanes_16() {
    meta.even = meta.even + (HIGH_16 - SIGNS_16);
    meta.odd = meta.odd + (HIGH_16 - SIGNS_16);
}

#define ADD_OLD_LANES(bits) \
    lanes_even.read(meta.fields, meta.index); \
    meta.even = meta.even + meta.fields - SIGNS_##bits; \
    lanes_odd.read(meta.fields, meta.index); \
    meta.odd = meta.odd + meta.fields - SIGNS_##bits;

action add_to_lanes_8() { ADD_OLD_LANES(8) }

action add_to_lanes_16() { ADD_OLD_LANES(16) }

action recall_lanes() {
    lanes_even.read(meta.even, meta.index);
    lanes_odd.read(meta.odd, meta.index);
}

action write_lanes() {
    lanes_even.write(meta.index, meta.even);
    lanes_odd.write(meta.index, meta.odd);
}

// In a field, the bits that differ from the sum's sign: those below HIGH, turned over where HIGH is not set, as the sum is negative.
#define NEGATIVE(x, bits) (((x) >> (2 * bits - 1)) & ONES_##bits ^ ONES_##bits)
#define DIFFERS(x, bits) (((x) & ~HIGH_##bits) ^ ((NEGATIVE(x, bits) << (2 * bits - 1)) - NEGATIVE(x, bits)))
#define FOLD(n) meta.fields = meta.fields | (payload_t)meta.fields[PAYLOAD_BITS - 1:n];

// One after the other in actions of their own, or the compiler makes a single expression of them all.
action differ_8() { meta.fields = DIFFERS(meta.even, 8) | DIFFERS(meta.odd, 8); }

action differ_16() { meta.fields = DIFFERS(meta.even, 16) | DIFFERS(meta.odd, 16); }

action fold_1024() { FOLD(1024) }

action fold_512() { FOLD(512) }

action fold_256() { FOLD(256) }

action fold_128() { FOLD(128) }

action fold_64() { FOLD(64) }

action fold_32() { FOLD(32) }

action fold_16() { FOLD(16) }

// What a longest sum has beyond a lane, and the shift that follows from it.
action longer_8() { meta.longer = (bit<8>)(meta.fields >> 7); }

action longer_16() { meta.longer = (bit<8>)(meta.fields >> 15); }

action shift_by(bit<8> bits, bit<8> half, bit<8> odd) {
    meta.copy.e1 = bits;                      // for this result alone: the register is written
    meta.half = (payload_t)half;
    meta.uneven = (payload_t)odd;
}

// To nearest, ties to even. HIGH, shifted, is a multiple of twice the lane's range, so the lowest bits of a field are the result.
#define ROUND(x, bits) x = ((x) + meta.half * ONES_##bits + (((x) >> meta.copy.e1) & (meta.uneven * ONES_##bits))) >> meta.copy.e1;
// The largest is rounded up beyond the lane: held to it.
#define HELD(x, bits) (((x) - (((x) >> (bits - 1)) & ~((x) >> bits) & ONES_##bits)) & LANES_##bits)

action round_lanes_8() { ROUND(meta.even, 8) ROUND(meta.odd, 8) }

action round_lanes_16() { ROUND(meta.even, 16) ROUND(meta.odd, 16) }

action emit_lanes_8() { hdr.lanes.all = HELD(meta.odd, 8) << 8 | HELD(meta.even, 8); }

action emit_lanes_16() { hdr.lanes.all = HELD(meta.odd, 16) << 16 | HELD(meta.even, 16); }
