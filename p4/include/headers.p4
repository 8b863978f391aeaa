// Headers on the wire, and what the pipeline notes about a packet.

typedef bit<48> mac_t;
typedef bit<32> addr_t;

header ethernet_t {
    mac_t dst_addr;
    mac_t src_addr;
    bit<16> ether_type;
}

header arp_t {                    // for IPv4 over Ethernet
    bit<16> hardware;
    bit<16> protocol;
    bit<8> hardware_bytes;
    bit<8> protocol_bytes;
    bit<16> operation;
    mac_t sender_mac;
    addr_t sender_addr;
    mac_t target_mac;
    addr_t target_addr;
}

header ipv4_t {
    bit<4> version;
    bit<4> ihl;
    bit<8> dscp_ecn;
    bit<16> total_len;
    bit<16> identification;
    bit<1> reserved;
    bit<1> dont_fragment;
    bit<1> more_fragments;
    bit<13> fragment_offset;
    bit<8> ttl;
    bit<8> protocol;
    bit<16> checksum;
    addr_t src_addr;
    addr_t dst_addr;
}

header icmp_t {
    bit<8> icmp_type;
    bit<8> code;
    bit<16> checksum;
}

header udp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<16> length;
    bit<16> checksum;
}

#include "switchml_header.p4"
#ifndef __TARGET_TOFINO__
#define FIELD(n) bit<32> v_##n;

header elements_t {
    EACH_ELEMENT(FIELD)
}

struct sums_t {
    EACH_ELEMENT(FIELD)
}

#ifdef NARROW_LANES
typedef bit<PAYLOAD_BITS> payload_t;

header lanes_t {                  // narrow lanes in the place of elements
    payload_t all;
}
#endif

struct headers_t {
    ethernet_t ethernet;
    arp_t arp;
    ipv4_t ipv4;
    icmp_t icmp;
    udp_t udp;
    switchml_t switchml;
    elements_t elements;
#ifdef NARROW_LANES
    lanes_t lanes;
#endif
}

enum bit<8> Verdict {             // on a packet of a chunk, as in switch_emulator/slot_machine.py
    NONE = 0,
    FRESH = 1,
    ADDED = 2,
    RETRANSMIT = 3,
    DUPLICATE = 4,
    STALE = 5,
    MISFIT = 6,
    AHEAD = 7,
    FIRST = 8,
    UNSEEN = 9,
    WAITING = 10
}

struct copy_t {                   // a slot's copy, as its registers hold it
    bit<32> stamp;
    bit<8> used;
    bit<64> seen;
    bit<8> seen_count;
    bit<4> kind;
    bit<8> e0;
    bit<8> e1;
}

struct other_copy_t {             // of the slot's other copy, what tells whether a chunk has its turn
    bit<32> stamp;
    bit<8> used;
    bit<64> seen;
}

struct meta_t {
    // Switching
    addr_t target_addr;           // whom the packet is for, by ARP or IPv4
    mac_t own_mac;                // the switch's own, where target_addr is its own
    bit<1> flooded;
    bit<1> ip_changed;            // an answer: the IPv4 checksum is to be made anew
    // Who sent it
    bit<8> job_number;
    bit<8> worker;
    bit<64> bit_of_worker;        // 1 << worker
    bit<8> workers;
    bit<64> everyone;             // a bit for each of the job's workers
    bit<16> pool_base;
    bit<16> window;
    bit<1> paper;
    bit<8> epoch;
    bit<16> multicast_group;
    bit<64> secret;               // of the worker's join, where its address is not proven
    bit<64> challenge;
    // Aggregation
    bit<1> answer;                // leaves for a worker, or for all
    bit<32> index;                // of the copy in the registers
    Verdict verdict;
    bit<1> complete;
    bit<1> to_one;                // the answer's elements are for the worker `named` alone
    bit<1> but_one;               // they are for all others
    bit<8> named;
    bit<8> highest_e1;            // over the chunk's workers, also where the answer's own says something else
    copy_t copy;
    other_copy_t other;
    sums_t sums;
#ifdef NARROW_LANES
    payload_t even;               // sums of narrow lanes, of every second one
    payload_t odd;
    payload_t fields;
    bit<8> longer;                // bits of the sums beyond a lane's
    payload_t half;               // half of the unit that a result is rounded to, rounded down; 1 where that is no single unit
    payload_t uneven;
#endif
    // Fault injection
    bit<32> loss;                 // probability * 2^32
    bit<32> dice;
}
#endif
struct sender_digest_t {          // a worker of a job that cannot be reached yet, and where its packet came from
    bit<8> job_number;
    bit<8> worker;
    mac_t mac;
    addr_t addr;
    bit<16> udp_port;
    bit<9> ingress_port;
}

struct station_digest_t {         // a source address seen on a port for the first time
    mac_t mac;
    bit<9> port;
}
