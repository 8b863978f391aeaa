// What a packet takes with it: from one pass to the next, from ingress to egress, and through the stages of a pass.

#define PARTS (ELEMENTS / 64)     // a pass adds 64 elements; what a part needs has its own cells of every register
#define LAST_PART (PARTS - 1)
#define CELLS (COPIES * PARTS)

#ifndef RECIRCULATION_PORT
#define RECIRCULATION_PORT 68     // of a Tofino's pipe 0
#endif
const PortId_t RECIRCULATION = RECIRCULATION_PORT;

const DigestType_t TO_SENDER_DIGEST = 1;
const DigestType_t TO_STATION_DIGEST = 2;

// In front of a packet that goes round. First its parts are added (the elements that have been added are cut off), then the result
// grows from its end: each pass puts 32 elements in front.
header pass_t {
    bit<1> harvest;               // 0: elements are added; 1: a result is gathered
    bit<1> high;                  // of a result: elements 32-63 of the part are next, else 0-31
    bit<1> everyone;              // the result is for all workers, else for the one who sent the packet
    bit<1> asked;                 // it answers a question
    bit<2> part;
    bit<1> unused;
    PortId_t port;                // where the packet came in first
}

header answer_t {                 // from ingress to egress
    bit<8> job_number;
    bit<8> unused;
    bit<16> instance;             // worker + 1
}

#define EACH_PAIR(DO) TEN(DO, ) TEN(DO, 1) TEN(DO, 2) DO(30) DO(31)
#define HALF_FIELD(n) bit<32> v_##n;

header half_t {                   // 32 elements
    EACH_PAIR(HALF_FIELD)
}

struct headers_t {
    pass_t pass;
    answer_t answer;
    ethernet_t ethernet;
    arp_t arp;
    ipv4_t ipv4;
    icmp_t icmp;
    udp_t udp;
    switchml_t switchml;
    half_t low;
    half_t high;
}

// Cells of registers.
struct copy_state_t {
    bit<32> stamp;
    bit<32> seen;                 // bit 0 is always set, worker w has bit w + 1, bits of nobody are set by the first
}

struct pair_t {
    bit<32> low;
    bit<32> high;
}

// What is done with a part's sums.
typedef bit<3> step_t;
const step_t NOTHING = 0;
const step_t START = 1;           // the packet's elements are the first
const step_t JOIN = 2;            // they are added, or are the first after workers that were absent
const step_t FETCH = 3;           // the packet brings none that count, and the result is wanted
const step_t GATHER_LOW = 4;
const step_t GATHER_HIGH = 5;

// As in switch_emulator/slot_machine.py.
typedef bit<3> verdict_t;
const verdict_t REFUSED = 0;      // stale or ahead: the copy does not work on this chunk
const verdict_t FRESH = 1;
const verdict_t ADDED = 2;
const verdict_t KNOWN = 3;
const verdict_t COMPLETE = 4;
const verdict_t REPEATED = 5;
const verdict_t UNSEEN = 6;       // a question: the packet has not come

// Kinds of a chunk as bits, so that the kinds of its packets can be put together by OR.
const bit<8> KIND_ABSENT = 1;
const bit<8> KIND_ELEMENTS = 3;   // goes with ABSENT
const bit<8> KIND_EXPONENTS = 4;  // with nothing else: 5 and 7 never have a result

// Why a packet ends, for the counters.
typedef bit<5> outcome_t;
const outcome_t GOES_ON = 0;
const outcome_t UNKNOWN_SENDER = 1;
const outcome_t TRUNCATED = 2;
const outcome_t BAD_HEADER = 3;
const outcome_t WRONG_JOB = 4;
const outcome_t WRONG_SIZE = 5;
const outcome_t WRONG_SLOT = 6;
const outcome_t WRONG_VERSION = 7;
const outcome_t DUPLICATE = 8;
const outcome_t STALE = 9;
const outcome_t UNREACHABLE = 10;
const outcome_t COMPLETED = 11;
const outcome_t RETRANSMITTED = 12;
const outcome_t PROBED = 13;
const outcome_t ASKED_ABOUT = 14;
const outcome_t BAD_CHECKSUM = 15;
const outcome_t NOT_SERVED = 16;

struct meta_t {
    addr_t target_addr;           // whom the packet is for, by ARP or IPv4
    mac_t own_mac;
    bool checksum_error;
    bit<1> first_pass;
    // Stage 0: who, and what
    bit<1> sender_known;
    bit<1> member;                // of the job it names
    bit<1> reachable;
    bit<1> alone;                 // the job has no other worker
    bit<1> asks;
    bit<1> probes;
    bit<1> brings;                // elements
    bit<9> row;                   // of the counters
    bit<8> job_number;
    bit<8> worker;
    bit<16> multicast_group;
    bit<16> instance;             // worker + 1, as in the job's multicast group
    bit<16> order;                // the lower half of `tsi`, as a number of its own
    bit<16> place;                // so are `version`, `but_one` and `slot`
    bit<16> outside;              // bits of the slot's number beyond the job's range
    bit<16> expected_slot;
    bit<16> turn;                 // the bit of the sequence number that is the version
    bit<16> misplaced;
    outcome_t header_fault;
    bit<8> kind;
    // Stage 1: where
    bit<1> last;                  // the packet's last part
    bit<1> last_half;             // the result's first half of its first part, which comes last
    bit<16> index;                // of the part's cells
    bit<16> copy_index;           // of the cell of `copy` that this pass touches
    bit<32> window;
    bit<32> key;                  // the stamp that is looked for
    bit<32> value;                // and what is to be entered
    // Stage 2, 3: what is to be done
    bit<1> admitted;
    bit<32> seen;                 // who was in the sum before, as in `copy`; 0 where the copy works on another chunk
    step_t step;
    verdict_t verdict;
    bit<8> chunk_kind;            // before this packet; once a result is gathered, that of the chunk
    outcome_t outcome;
}

struct egress_meta_t {
    bit<16> instance;
}

#define TNA_FIRST_STATES \
    Checksum() ipv4_checksum; \
    state start { \
        packet.extract(ig_intr_md); \
        packet.advance(PORT_METADATA_SIZE); \
        meta.row = NO_JOB; \
        meta.first_pass = 0; \
        transition select(ig_intr_md.ingress_port) { \
            RECIRCULATION: parse_pass; \
            default: parse_first; \
        } \
    } \
    state parse_pass { \
        packet.extract(hdr.pass); \
        transition parse_ethernet; \
    } \
    state parse_first { \
        hdr.pass.setValid(); \
        hdr.pass.harvest = 0; \
        hdr.pass.high = 0; \
        hdr.pass.everyone = 0; \
        hdr.pass.asked = 0; \
        hdr.pass.part = 0; \
        hdr.pass.unused = 0; \
        meta.first_pass = 1; \
        transition parse_ethernet; \
    }
