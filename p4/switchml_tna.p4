// SwitchML for Tofino (TNA): the wire format, parser and counters of switchml.p4, in the layout that this hardware demands (README.md).
//
// A packet's way, as often as it has parts, and as its result has:
//     SwitchIngressParser    what goes round brings a `pass_t` in front; then as in switchml.p4, 64 elements at a time
//     SwitchIngress          stage by stage: who, which copy, what is to be done, sums; once more round, to a worker, or to all
//     SwitchEgress           every copy of an answer gets the address of its worker
//
// Compile with -D ELEMENTS=64 or -D ELEMENTS=256: int32 elements a packet.

#include <core.p4>
#if __TARGET_TOFINO__ == 2
#include <t2na.p4>
#else
#include <tna.p4>
#endif

// What the shared files leave to the architecture.
#define PARSER \
    SwitchIngressParser( \
        packet_in packet, out headers_t hdr, out meta_t meta, out ingress_intrinsic_metadata_t ig_intr_md \
    )
#define FIRST_STATES TNA_FIRST_STATES
#define ETHERNET parse_ethernet
#define SEEN_ARP meta.target_addr = hdr.arp.target_addr;
#define SEEN_IPV4 \
    ipv4_checksum.add(hdr.ipv4); \
    meta.checksum_error = ipv4_checksum.verify(); \
    meta.target_addr = hdr.ipv4.dst_addr;
#define SEE_SWITCHML \
    meta.order = packet.lookahead<bit<48>>()[15:0]; \
    meta.place = packet.lookahead<bit<64>>()[15:0];
#define EXTRACT_ELEMENTS packet.extract(hdr.low); packet.extract(hdr.high);

#include "include/config.p4"
#include "include/elements.p4"
#include "include/headers.p4"
#include "tofino/passes.p4"
#include "include/parser.p4"
#include "tofino/pipeline.p4"
#include "tofino/addressing.p4"

Pipeline(
    SwitchIngressParser(), SwitchIngress(), SwitchIngressDeparser(),
    SwitchEgressParser(), SwitchEgress(), SwitchEgressDeparser()
) pipe;

Switch(pipe) main;
