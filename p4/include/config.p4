// Sizes and numbers. The control plane knows those that are marked (*).

#ifndef ELEMENTS
#define ELEMENTS 64
#endif
#if ELEMENTS != 64 && ELEMENTS != 256
#error "ELEMENTS is 64 or 256"
#endif

#define POOL_SLOTS 1024                   // (*) shared by all jobs; a job has a range of them
#define COPIES 2048                       // two a slot: register index = 2 * slot + version
#define JOBS 256
#define COUNTER_ROWS 257                  // a row a job, and one more:
#define NO_JOB 256                        // (*) packets of no known sender

// BMv2's P4Runtime server takes groups below 0x8000 only.
const bit<16> FLOOD_GROUP = 0x7FF0;       // (*) multicast group of all ports; a job's group is its number + 1
const bit<8> OUR_TTL = 64;

const bit<16> IPV4_BYTES = 20;            // without options
const bit<16> UDP_BYTES = 8;
const bit<16> PAYLOAD_BYTES = 4 * ELEMENTS;
#if ELEMENTS == 64 && !defined(__TARGET_TOFINO__)
#define NARROW_LANES                      // (*) as one number: p4c takes none of more than 2048 bits
#define PAYLOAD_BITS 2048
#endif
