// An ordinary switch: forwarding by MAC address, ARP and ping for its own addresses. Inside SwitchIngress.

action is_ours(mac_t mac) {
    meta.own_mac = mac;
}

table own_address {
    key = { meta.target_addr: exact; }
    actions = { is_ours; NoAction; }
    default_action = NoAction();
    size = 16;
}

action known_station() {}

// Filled by the controller from station_digest_t.
table station {
    key = {
        hdr.ethernet.src_addr: exact;
        standard_metadata.ingress_port: exact;
    }
    actions = { known_station; NoAction; }
    default_action = NoAction();
    size = 1024;
}

action send_to(bit<9> port) {
    standard_metadata.egress_spec = port;
}

action flood() {
    standard_metadata.mcast_grp = FLOOD_GROUP;
    meta.flooded = 1;             // egress leaves out the port it came from
}

action drop() {
    mark_to_drop(standard_metadata);
}

table forward {
    key = { hdr.ethernet.dst_addr: exact; }
    actions = { send_to; flood; drop; }
    default_action = flood();
    size = 1024;
}

action turn_back() {
    standard_metadata.egress_spec = standard_metadata.ingress_port;
    hdr.ethernet.dst_addr = hdr.ethernet.src_addr;
    hdr.ethernet.src_addr = meta.own_mac;
}

action answer_arp() {
    turn_back();
    hdr.arp.operation = 2;
    hdr.arp.target_mac = hdr.arp.sender_mac;
    hdr.arp.target_addr = hdr.arp.sender_addr;
    hdr.arp.sender_mac = meta.own_mac;
    hdr.arp.sender_addr = meta.target_addr;
}

action answer_ping() {
    turn_back();
    hdr.ipv4.dst_addr = hdr.ipv4.src_addr;
    hdr.ipv4.src_addr = meta.target_addr;
    hdr.ipv4.ttl = OUR_TTL;
    meta.ip_changed = 1;
    hdr.icmp.icmp_type = 0;
    // The type was 8, so the message's sum falls by 0x0800 and its complement, the checksum, rises by it, carry around.
    bit<17> checksum = (bit<17>)hdr.icmp.checksum + 0x0800;
    hdr.icmp.checksum = checksum[15:0] + (bit<16>)checksum[16:16];
}
