// Ethernet, then ARP, ICMP or UDP. What is not understood stays payload, and is forwarded as it is.

const bit<16> TYPE_IPV4 = 0x0800;
const bit<16> TYPE_ARP = 0x0806;
const bit<8> PROTOCOL_ICMP = 1;
const bit<8> PROTOCOL_UDP = 17;

parser PARSER {
    FIRST_STATES

    state ETHERNET {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            TYPE_ARP: parse_arp;
            TYPE_IPV4: parse_ipv4;
            default: accept;
        }
    }

    state parse_arp {
        packet.extract(hdr.arp); SEEN_ARP
        transition accept;
    }

    state parse_ipv4 {
        packet.extract(hdr.ipv4); SEEN_IPV4
        // No options, no fragments: then the next header is where we look for it.
        transition select(hdr.ipv4.ihl, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (5, 0, 0, PROTOCOL_ICMP): parse_icmp;
            (5, 0, 0, PROTOCOL_UDP): parse_udp;
            default: accept;
        }
    }

    state parse_icmp {
        packet.extract(hdr.icmp);
        transition accept;
    }

    state parse_udp {
        packet.extract(hdr.udp);
        transition select(hdr.udp.dst_port) {
            FIRST_PORT &&& FIRST_PORT_MASK: check_length;
            default: accept;
        }
    }

    // A datagram of less than a header has none, whatever padding follows it: lengths 0-15, 16, 17.
    state check_length {
        transition select(hdr.udp.length) {
            0 &&& 0xFFF0: accept;
            16 &&& 0xFFFE: accept;
            default: parse_switchml;
        }
    }

    // Elements are taken only where they are ours in kind and number; ingress tells what is wrong with the others.
    state parse_switchml {
        SEE_SWITCHML packet.extract(hdr.switchml);
        transition select(hdr.switchml.msg_type, hdr.udp.length) {
            (MSG_SUM, UDP_BYTES + SWITCHML_BYTES + PAYLOAD_BYTES): parse_elements;
#ifdef NARROW_LANES
            (MSG_SUM16, UDP_BYTES + SWITCHML_BYTES + PAYLOAD_BYTES): parse_lanes;
            (MSG_SUM8, UDP_BYTES + SWITCHML_BYTES + PAYLOAD_BYTES): parse_lanes;
#endif
            default: accept;
        }
    }

    state parse_elements {
        EXTRACT_ELEMENTS
        transition accept;
    }

#ifdef NARROW_LANES
    state parse_lanes {
        packet.extract(hdr.lanes);
        transition accept;
    }
#endif
}
#ifndef __TARGET_TOFINO__
control SwitchDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.icmp);
        packet.emit(hdr.udp);
        packet.emit(hdr.switchml);
        packet.emit(hdr.elements);
#ifdef NARROW_LANES
        packet.emit(hdr.lanes);
#endif
    }
}
#endif
