// The wire format (docs/protocol.md). Made by `make docs` from the tables in switchml/protocol: do not edit.

#if ELEMENTS == 32
#define SIZE_CODE 0
#elif ELEMENTS == 64
#define SIZE_CODE 1
#elif ELEMENTS == 128
#define SIZE_CODE 2
#elif ELEMENTS == 256
#define SIZE_CODE 3
#endif

const bit<16> FIRST_PORT_MASK = 0xFFF0;   // UDP ports 0xBEE0-0xBEEF
const bit<16> FIRST_PORT = 0xBEE0;
const bit<16> SWITCHML_BYTES = 10;

typedef bit<4> msg_type_t;
const msg_type_t MSG_SUM = 1;
const msg_type_t MSG_EXPONENTS = 2;
const msg_type_t MSG_PROBE = 3;
const msg_type_t MSG_ABSENT = 4;
const msg_type_t MSG_ASK = 5;
const msg_type_t MSG_SUM16 = 6;
const msg_type_t MSG_SUM8 = 7;
const bit<3> ASKED = 7;   // bits of `size` that are turned in a result that answers an ASK

header switchml_t {
    msg_type_t msg_type;          // message type
    bit<1> to_one;                // 1: only the worker whose rank `e1` is wants the elements, all others the header alone
    bit<3> size;                  // payload size of the job
    bit<8> job_number;            // job on this switch
    bit<32> tsi;                  // sequence number of the chunk in its stream
    bit<1> version;               // which of the slot's two copies
    bit<1> but_one;               // 1: the worker whose rank `e1` is wants no more than the header, all others the elements
    bit<14> slot;                 // slot, counted from the start of the job's range
    bit<8> e0;                    // int8: exponent; the switch answers with the maximum over the workers
    bit<8> e1;                    // int8: second exponent, treated like the first; with `to_one` or `but_one` a rank, as uint8; in a result of narrow lanes: bits they are shifted by
}
