// SwitchML for v1model: in-network gradient aggregation (NSDI 2021), with a stamp in every slot (docs/protocol.md).
//
// A packet's way:
//     SwitchParser      Ethernet, then ARP, ICMP or UDP; the SwitchML header; the elements, if there are as many as we take
//     SwitchIngress     what is for the switch itself is answered or summed, all else is forwarded by its MAC address
//     SwitchEgress      every copy of an answer gets the address of its worker
//
// Compile with -D ELEMENTS=64 or -D ELEMENTS=256: int32 elements a packet.

#include <core.p4>
#include <v1model.p4>

// What the files below leave to the architecture.
#define PARSER \
    SwitchParser(packet_in packet, out headers_t hdr, inout meta_t meta, inout standard_metadata_t standard_metadata)
#define FIRST_STATES
#define ETHERNET start
#define SEEN_ARP
#define SEEN_IPV4
#define SEE_SWITCHML
#define EXTRACT_ELEMENTS packet.extract(hdr.elements);
#define COUNTER(name) counter(COUNTER_ROWS, CounterType.packets_and_bytes) name;

#include "include/config.p4"
#include "include/elements.p4"
#include "include/headers.p4"
#include "include/parser.p4"
#include "include/checksums.p4"
#include "include/ingress.p4"
#include "include/egress.p4"

V1Switch(SwitchParser(), VerifyChecksums(), SwitchIngress(), SwitchEgress(), UpdateChecksums(), SwitchDeparser()) main;
