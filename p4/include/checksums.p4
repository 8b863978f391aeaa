// IPv4 alone has a checksum here: our UDP answers carry 0, "none" (RFC 768), and ICMP's changes with one word of its message.

#define IPV4_FIELDS { \
    hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.dscp_ecn, hdr.ipv4.total_len, hdr.ipv4.identification, \
    hdr.ipv4.reserved, hdr.ipv4.dont_fragment, hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, \
    hdr.ipv4.ttl, hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr }

control VerifyChecksums(inout headers_t hdr, inout meta_t meta) {
    apply {
        verify_checksum(
            hdr.ipv4.isValid() && hdr.ipv4.ihl == 5, IPV4_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16
        );
    }
}

// Only in our own answers: the others' packets leave as they came, faults included.
control UpdateChecksums(inout headers_t hdr, inout meta_t meta) {
    apply {
        update_checksum(meta.ip_changed == 1, IPV4_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
    }
}
