// What is emitted after ingress, and egress: every copy of an answer is addressed to its worker. Nothing else comes through egress.

control SwitchIngressDeparser(
    packet_out packet, inout headers_t hdr, in meta_t meta,
    in ingress_intrinsic_metadata_for_deparser_t ig_dprsr_md, in ingress_intrinsic_metadata_t ig_intr_md
) {
    Digest<sender_digest_t>() sender_digest;
    Digest<station_digest_t>() station_digest;

    apply {
        if (ig_dprsr_md.digest_type == TO_SENDER_DIGEST) {
            sender_digest.pack({
                meta.job_number, meta.worker, hdr.ethernet.src_addr, hdr.ipv4.src_addr, hdr.udp.src_port,
                ig_intr_md.ingress_port
            });
        }
        if (ig_dprsr_md.digest_type == TO_STATION_DIGEST) {
            station_digest.pack({ hdr.ethernet.src_addr, ig_intr_md.ingress_port });
        }
        packet.emit(hdr.pass);
        packet.emit(hdr.answer);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.icmp);
        packet.emit(hdr.udp);
        packet.emit(hdr.switchml);
        packet.emit(hdr.low);
        packet.emit(hdr.high);
    }
}

struct answer_headers_t {         // the elements are not looked at any more
    answer_t answer;
    ethernet_t ethernet;
    ipv4_t ipv4;
    udp_t udp;
}

parser SwitchEgressParser(
    packet_in packet, out answer_headers_t hdr, out egress_meta_t meta, out egress_intrinsic_metadata_t eg_intr_md
) {
    state start {
        packet.extract(eg_intr_md);
        packet.extract(hdr.answer);
        packet.extract(hdr.ethernet);
        packet.extract(hdr.ipv4);
        packet.extract(hdr.udp);
        transition accept;
    }
}

control SwitchEgress(
    inout answer_headers_t hdr, inout egress_meta_t meta, in egress_intrinsic_metadata_t eg_intr_md,
    in egress_intrinsic_metadata_from_parser_t eg_prsr_md, inout egress_intrinsic_metadata_for_deparser_t eg_dprsr_md,
    inout egress_intrinsic_metadata_for_output_port_t eg_oport_md
) {
    Counter<bit<64>, bit<9>>(COUNTER_ROWS, CounterType_t.PACKETS_AND_BYTES) packets_sent;

    action to_worker(mac_t mac, addr_t addr, bit<16> udp_port) {
        hdr.ethernet.src_addr = hdr.ethernet.dst_addr;
        hdr.ethernet.dst_addr = mac;
        hdr.ipv4.src_addr = hdr.ipv4.dst_addr;
        hdr.ipv4.dst_addr = addr;
        hdr.ipv4.ttl = OUR_TTL;
        hdr.udp.src_port = hdr.udp.dst_port;
        hdr.udp.dst_port = udp_port;
        hdr.udp.checksum = 0;
    }

    action drop() {
        eg_dprsr_md.drop_ctl = 1;
    }

    table worker_rewrite {
        key = {
            hdr.answer.job_number: exact;
            meta.instance: exact;
        }
        actions = { to_worker; drop; }
        default_action = drop();
        size = 4096;
    }

    apply {
        // The copies of a multicast are numbered from 1 on; a single answer has 0 and is for the sender.
        if (eg_intr_md.egress_rid != 0) {
            meta.instance = eg_intr_md.egress_rid;
        } else {
            meta.instance = hdr.answer.instance;
        }
        if (worker_rewrite.apply().hit) {
            packets_sent.count((bit<9>)hdr.answer.job_number);
        }
        hdr.answer.setInvalid();
    }
}

control SwitchEgressDeparser(
    packet_out packet, inout answer_headers_t hdr, in egress_meta_t meta,
    in egress_intrinsic_metadata_for_deparser_t eg_dprsr_md
) {
    Checksum() ipv4_checksum;

    apply {
        hdr.ipv4.checksum = ipv4_checksum.update({
            hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.dscp_ecn, hdr.ipv4.total_len, hdr.ipv4.identification,
            hdr.ipv4.reserved, hdr.ipv4.dont_fragment, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset,
            hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr
        });
        packet.emit(hdr.ethernet);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.udp);
    }
}
