// Every copy of an answer is addressed to its worker: a multicast of the switch, unicast on the wire.

control SwitchEgress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t standard_metadata) {
    counter(COUNTER_ROWS, CounterType.packets_and_bytes) packets_sent;
    counter(COUNTER_ROWS, CounterType.packets_and_bytes) fault_lost;

    // From what the packet was addressed to, back to where the worker is.
    action to_worker(mac_t mac, addr_t addr, bit<16> udp_port) {
        hdr.ethernet.src_addr = meta.own_mac;
        hdr.ethernet.dst_addr = mac;
        hdr.ipv4.src_addr = hdr.ipv4.dst_addr;
        hdr.ipv4.dst_addr = addr;
        hdr.ipv4.ttl = OUR_TTL;
        meta.ip_changed = 1;
        hdr.udp.src_port = hdr.udp.dst_port;
        hdr.udp.dst_port = udp_port;
        hdr.udp.checksum = 0;
    }

    // To a worker that does not want the elements: the header, by which it goes on.
    action permit() {
        hdr.elements.setInvalid();
#ifdef NARROW_LANES
        hdr.lanes.setInvalid();
#endif
        hdr.switchml.e1 = meta.highest_e1;
        hdr.switchml.msg_type = MSG_ABSENT;
        hdr.udp.length = UDP_BYTES + SWITCHML_BYTES;
        hdr.ipv4.total_len = IPV4_BYTES + UDP_BYTES + SWITCHML_BYTES;
    }

    action drop() {
        mark_to_drop(standard_metadata);
    }

    table worker_rewrite {
        key = {
            meta.job_number: exact;
            meta.worker: exact;
        }
        actions = { to_worker; drop; }
        default_action = drop();
        size = 4096;
    }

    action lose_egress(bit<32> probability) {
        meta.loss = probability;
    }

    table egress_loss {
        actions = { lose_egress; }
        default_action = lose_egress(0);
    }

    apply {
        if (meta.flooded == 1 && standard_metadata.egress_port == standard_metadata.ingress_port) {
            drop();
        }
        if (meta.answer == 1) {
            // The copies of a multicast are numbered from 1 on; a single answer has 0 and is for the sender.
            if (standard_metadata.egress_rid != 0) {
                meta.worker = (bit<8>)(standard_metadata.egress_rid - 1);
            }
            if ((meta.to_one == 1 && meta.worker != meta.named) || (meta.but_one == 1 && meta.worker == meta.named)) {
                permit();
            }
            egress_loss.apply();
            random(meta.dice, 0, 0xFFFFFFFF);
            if (meta.dice < meta.loss && hdr.switchml.msg_type != MSG_PROBE) {
                fault_lost.count((bit<32>)meta.job_number);
                drop();
            } else if (worker_rewrite.apply().hit) {
                packets_sent.count((bit<32>)meta.job_number);
            }
        }
    }
}
