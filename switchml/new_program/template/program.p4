// A switch in one file: frames go to the port that a table has for their destination, and are counted by the port they go to.
// README.md says how to compile, try and change it.

#include <core.p4>
#include <v1model.p4>

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

struct headers_t {
    ethernet_t ethernet;
}

struct metadata_t { }

parser SwitchParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    state start {
        packet.extract(hdr.ethernet);
        transition accept;
    }
}

control VerifyChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control SwitchIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    counter(512, CounterType.packets_and_bytes) sent;

    action drop() {
        mark_to_drop(standard);
    }

    action send_to(bit<9> port) {
        standard.egress_spec = port;
        sent.count((bit<32>) port);
    }

    table forward {
        key = { hdr.ethernet.dst_addr: exact; }
        actions = { send_to; drop; }
        default_action = drop();
        size = 1024;
    }

    apply {
        if (hdr.ethernet.isValid()) {
            forward.apply();
        } else {
            drop();
        }
    }
}

control SwitchEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    apply { }
}

control UpdateChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply { }
}

control SwitchDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
    }
}

V1Switch(SwitchParser(), VerifyChecksums(), SwitchIngress(), SwitchEgress(), UpdateChecksums(), SwitchDeparser()) main;
