// What is done with a packet. A packet of a chunk is admitted in the steps of switch_emulator/slot_machine.py.
//
// BMv2 runs ingress in one thread, so registers that are read and written in several steps need no lock.

#define REFUSE(name) { name.count((bit<32>)meta.job_number); exit; }

control SwitchIngress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t standard_metadata) {
#include "counters.p4"
#include "forwarding.p4"
#include "jobs.p4"
#include "slots.p4"
#ifdef NARROW_LANES
#include "lanes.p4"
#endif

    action answer_worker() {
        meta.answer = 1;
        standard_metadata.egress_spec = standard_metadata.ingress_port;
    }

    action answer_everyone() {
        standard_metadata.mcast_grp = meta.multicast_group;
    }

    // The copy's exponents and kind, and the sums where elements have come. Each worker's copy of the answer is cut in egress.
    action load_answer() {
        hdr.switchml.e0 = meta.copy.e0;
        hdr.switchml.e1 = meta.copy.e1;
        hdr.switchml.msg_type = meta.copy.kind;
    }

    action with_elements() {
        hdr.udp.length = UDP_BYTES + SWITCHML_BYTES + PAYLOAD_BYTES;
        hdr.ipv4.total_len = IPV4_BYTES + UDP_BYTES + SWITCHML_BYTES + PAYLOAD_BYTES;
    }

    action without_elements() {
        hdr.elements.setInvalid();
#ifdef NARROW_LANES
        hdr.lanes.setInvalid();
#endif
        hdr.udp.length = UDP_BYTES + SWITCHML_BYTES;
        hdr.ipv4.total_len = IPV4_BYTES + UDP_BYTES + SWITCHML_BYTES;
    }

    apply {
        // From here on a packet is dropped, unless something below says where it goes.
        mark_to_drop(standard_metadata);
        if (!hdr.ethernet.isValid()) {
            exit;
        }
        if (!station.apply().hit) {
            digest<station_digest_t>(1, { hdr.ethernet.src_addr, standard_metadata.ingress_port });
        }

        // For others: forward. For the switch itself: ARP, ping, SwitchML.
        if (hdr.arp.isValid()) {
            meta.target_addr = hdr.arp.target_addr;
        } else if (hdr.ipv4.isValid()) {
            meta.target_addr = hdr.ipv4.dst_addr;
        }
        if (!own_address.apply().hit) {
            forward.apply();
            exit;
        }
        if (hdr.arp.isValid()) {
            if (hdr.arp.operation == 1 && hdr.arp.hardware == 1 && hdr.arp.protocol == TYPE_IPV4) {
                answer_arp();
            }
            exit;
        }
        if (standard_metadata.checksum_error == 1) {
            dropped_bad_checksum.count(NO_JOB);
            exit;
        }
        if (hdr.icmp.isValid() && hdr.icmp.icmp_type == 8 && hdr.icmp.code == 0) {
            answer_ping();
            exit;
        }
        if (!hdr.udp.isValid() || (hdr.udp.dst_port & FIRST_PORT_MASK) != FIRST_PORT) {
            dropped_not_served.count(NO_JOB);
            exit;
        }

        // Who sends?
        if (!sender_table.apply().hit) {
            packets_received.count(NO_JOB);
            dropped_unknown_sender.count(NO_JOB);
            exit;
        }
        ingress_loss.apply();
        random(meta.dice, 0, 0xFFFFFFFF);
        if (meta.dice < meta.loss) REFUSE(fault_lost)
        packets_received.count((bit<32>)meta.job_number);

        // Is it a packet of this protocol, of this worker's job, of the right size, for a slot of the job?
        if (!hdr.switchml.isValid()
            || standard_metadata.packet_length < 14 + (bit<32>)hdr.ipv4.total_len
            || (bit<32>)hdr.ipv4.total_len < 20 + (bit<32>)hdr.udp.length) REFUSE(dropped_truncated)
        if ((hdr.switchml.msg_type != MSG_SUM && hdr.switchml.msg_type != MSG_EXPONENTS
             && hdr.switchml.msg_type != MSG_PROBE && hdr.switchml.msg_type != MSG_ABSENT
             && hdr.switchml.msg_type != MSG_ASK
#ifdef NARROW_LANES
             && hdr.switchml.msg_type != MSG_SUM16 && hdr.switchml.msg_type != MSG_SUM8
#endif
             )
            || (hdr.switchml.to_one == 1 && hdr.switchml.but_one == 1)
            || ((hdr.switchml.to_one == 1 || hdr.switchml.but_one == 1)
                && (hdr.switchml.msg_type == MSG_EXPONENTS || hdr.switchml.msg_type == MSG_PROBE)))
            REFUSE(dropped_bad_header)
        if (!job_table.apply().hit) REFUSE(dropped_wrong_job)
        bool asks = hdr.switchml.msg_type == MSG_ASK;
        if (asks && meta.paper == 1) REFUSE(dropped_bad_header)
        if (!worker_port.apply().hit) {
            if (claim.apply().hit) {
                bit<64> shown = hdr.switchml.tsi ++ hdr.switchml.version ++ hdr.switchml.but_one ++ hdr.switchml.slot
                    ++ hdr.switchml.e0 ++ hdr.switchml.e1;
                if (hdr.switchml.msg_type != MSG_PROBE || hdr.udp.length != UDP_BYTES + SWITCHML_BYTES
                    || (shown != meta.secret && shown != meta.challenge)) REFUSE(dropped_unreachable)
                if (shown == meta.secret) {
                    probes_answered.count((bit<32>)meta.job_number);
                    send_challenge();
                    exit;
                }
            }
            digest<sender_digest_t>(2, {
                meta.job_number, meta.worker, hdr.ethernet.src_addr, hdr.ipv4.src_addr, hdr.udp.src_port,
                standard_metadata.ingress_port
            });
            REFUSE(dropped_unreachable)
        }
        if (hdr.switchml.msg_type == MSG_PROBE) {
            probes_answered.count((bit<32>)meta.job_number);
            answer_worker();
            exit;
        }
        bit<16> payload = hdr.udp.length - UDP_BYTES - SWITCHML_BYTES;
        bit<16> wanted = 0;
        if (hdr.switchml.msg_type != MSG_EXPONENTS && hdr.switchml.msg_type != MSG_ABSENT && !asks) {
            wanted = PAYLOAD_BYTES;
        }
        if (hdr.switchml.size != SIZE_CODE || payload > wanted) REFUSE(dropped_wrong_size)
        if (payload < wanted) REFUSE(dropped_truncated)
        if ((bit<16>)hdr.switchml.slot >= meta.window) REFUSE(dropped_wrong_slot)
        // slot = tsi mod window, version = (tsi div window) mod 2, and the window is a power of two.
        if (meta.paper == 0) {
            bit<32> window = (bit<32>)meta.window;
            bit<1> version = 0;
            if ((hdr.switchml.tsi & window) != 0) {
                version = 1;
            }
            if ((hdr.switchml.tsi & (window - 1)) != (bit<32>)hdr.switchml.slot || version != hdr.switchml.version)
                REFUSE(dropped_wrong_version)
        }

        // What is to be done with it?
        read_copy();
        if (meta.copy.used != meta.epoch) {
            forget_workers();
        }
        bool known = (meta.copy.seen & meta.bit_of_worker) != 0;
        // A chunk is of one kind. ABSENT goes with elements, which may come later.
        bool fits = meta.copy.kind == hdr.switchml.msg_type;
        if (meta.copy.kind == MSG_ABSENT || hdr.switchml.msg_type == MSG_ABSENT) {
            fits = meta.copy.kind != MSG_EXPONENTS && hdr.switchml.msg_type != MSG_EXPONENTS;
        }
        meta.to_one = hdr.switchml.to_one;
        meta.but_one = hdr.switchml.but_one;
        meta.named = hdr.switchml.e1;
        if (meta.paper == 0) {
            int<32> distance = (int<32>)(hdr.switchml.tsi - meta.copy.stamp);
            if (asks && (meta.copy.used != meta.epoch || distance > 0)) {
                meta.verdict = Verdict.UNSEEN;
            } else if (meta.copy.used != meta.epoch || distance > 0) {
                // A chunk has its turn when the slot's other copy has completed the one a window before.
                read_other_copy();
                bool turn = hdr.switchml.tsi < (bit<32>)meta.window;
                if (meta.other.used == meta.epoch) {
                    turn = meta.other.seen == meta.everyone
                        && hdr.switchml.tsi - meta.other.stamp == (bit<32>)meta.window;
                }
                if (turn) {
                    forget_workers();
                    meta.verdict = Verdict.FRESH;
                } else {
                    meta.verdict = Verdict.AHEAD;
                }
            } else if (distance < 0) {
                meta.verdict = Verdict.STALE;
            } else if (known && meta.copy.seen == meta.everyone) {
                meta.verdict = Verdict.RETRANSMIT;
            } else if (asks && known) {
                meta.verdict = Verdict.WAITING;
            } else if (asks) {
                meta.verdict = Verdict.UNSEEN;
            } else if (known) {
                meta.verdict = Verdict.DUPLICATE;
            } else if (!fits) {
                meta.verdict = Verdict.MISFIT;
            } else {
                meta.verdict = Verdict.ADDED;
            }
        } else {
            // The published algorithm: no stamp, a count that is 0 before the first worker and after the last.
            if (known && meta.copy.seen_count == 0) {
                meta.verdict = Verdict.RETRANSMIT;
            } else if (known) {
                meta.verdict = Verdict.DUPLICATE;
            } else if (meta.copy.seen_count == 0) {
                meta.verdict = Verdict.FRESH;
            } else if (!fits) {
                meta.verdict = Verdict.MISFIT;
            } else {
                meta.verdict = Verdict.ADDED;
            }
        }
        if (meta.verdict == Verdict.DUPLICATE) REFUSE(dropped_duplicate)
        if (meta.verdict == Verdict.STALE) REFUSE(dropped_stale)
        if (meta.verdict == Verdict.AHEAD) REFUSE(dropped_ahead)
        if (meta.verdict == Verdict.MISFIT) REFUSE(dropped_wrong_size)
        if (meta.verdict == Verdict.UNSEEN || meta.verdict == Verdict.WAITING) {
            // The question itself, whoever wants the chunk's elements.
            asks_answered.count((bit<32>)meta.job_number);
            hdr.switchml.e0 = (bit<8>)(bit<1>)(meta.verdict == Verdict.WAITING);
            meta.to_one = 0;
            meta.but_one = 0;
            answer_worker();
            exit;
        }

        // Do it: the copy first, then its sums.
        if (meta.verdict == Verdict.FRESH) {
            start_copy();
        } else if (meta.verdict == Verdict.ADDED) {
            if (ABOVE(hdr.switchml.e0, meta.copy.e0)) {
                meta.copy.e0 = hdr.switchml.e0;
            }
            if (ABOVE(hdr.switchml.e1, meta.copy.e1)) {
                meta.copy.e1 = hdr.switchml.e1;
            }
        }
        if (meta.verdict == Verdict.ADDED && meta.copy.kind == MSG_ABSENT && hdr.switchml.msg_type != MSG_ABSENT) {
            meta.verdict = Verdict.FIRST;
            take_kind();
        }
        if (meta.verdict != Verdict.RETRANSMIT) {
            enter_worker();
            if (meta.paper == 0) {
                if (meta.copy.seen == meta.everyone) {
                    meta.complete = 1;
                }
            } else {
                if (meta.copy.seen_count == meta.workers) {
                    meta.complete = 1;
                    meta.copy.seen_count = 0;
                }
                // The worker has gone on, so it needs no more of the slot's other copy.
                bit<64> others;
                seen.read(others, meta.index ^ 1);
                seen.write(meta.index ^ 1, others & ~meta.bit_of_worker);
            }
            write_copy();
        }
        bool brings = hdr.elements.isValid() && meta.verdict != Verdict.RETRANSMIT;
        if (brings) {
            if (meta.verdict == Verdict.ADDED) {
                add_to_sums();
            } else {
                start_sums();
            }
            count_elements(ELEMENTS);
        }
        meta.highest_e1 = meta.copy.e1;
#ifdef NARROW_LANES
        if (hdr.lanes.isValid() && meta.verdict != Verdict.RETRANSMIT) {
            if (hdr.switchml.msg_type == MSG_SUM8) {
                split_lanes_8();
                if (meta.verdict == Verdict.ADDED) {
                    add_to_lanes_8();
                } else {
                    start_lanes_8();
                }
                count_elements(4 * ELEMENTS);
            } else {
                split_lanes_16();
                if (meta.verdict == Verdict.ADDED) {
                    add_to_lanes_16();
                } else {
                    start_lanes_16();
                }
                count_elements(2 * ELEMENTS);
            }
            write_lanes();
        }
        bool of_8 = meta.copy.kind == MSG_SUM8;
        if ((meta.verdict == Verdict.RETRANSMIT || meta.complete == 1) && (of_8 || meta.copy.kind == MSG_SUM16)) {
            if (meta.verdict == Verdict.RETRANSMIT || !hdr.lanes.isValid()) {
                hdr.lanes.setValid();
                recall_lanes();
            }
            if (of_8) {
                differ_8();
            } else {
                differ_16();
            }
            fold_1024();
            fold_512();
            fold_256();
            fold_128();
            fold_64();
            fold_32();
            if (of_8) {
                fold_16();
                longer_8();
            } else {
                longer_16();
            }
            if (meta.longer == 0) {
                shift_by(0, 0, 0);
            } else if (meta.longer < 2) {
                shift_by(1, 0, 1);
            } else if (meta.longer < 4) {
                shift_by(2, 1, 1);
            } else if (meta.longer < 8) {
                shift_by(3, 3, 1);
            } else if (meta.longer < 16) {
                shift_by(4, 7, 1);
            } else if (meta.longer < 32) {
                shift_by(5, 15, 1);
            } else {
                shift_by(6, 31, 1);
            }
            if (of_8) {
                round_lanes_8();
                emit_lanes_8();
            } else {
                round_lanes_16();
                emit_lanes_16();
            }
        }
#endif

        // Who hears of it?
        if (meta.verdict == Verdict.RETRANSMIT || meta.complete == 1) {
            load_answer();
            if (asks) {
                hdr.switchml.size = hdr.switchml.size ^ ASKED;
            }
            if (meta.copy.kind == MSG_EXPONENTS || meta.copy.kind == MSG_ABSENT) {
                without_elements();
                hdr.switchml.to_one = 0;
                hdr.switchml.but_one = 0;
                meta.to_one = 0;
                meta.but_one = 0;
            } else if (meta.copy.kind == MSG_SUM) {
                if (!brings) {
                    without_elements();
                    hdr.elements.setValid();
                    recall_sums();
                }
                with_elements();
#ifdef NARROW_LANES
            } else {
                hdr.elements.setInvalid();
                with_elements();
#endif
            }
        }
        if (meta.verdict == Verdict.RETRANSMIT) {
            results_retransmitted.count((bit<32>)meta.job_number);
            answer_worker();
        } else if (meta.complete == 1) {
            chunks_completed.count((bit<32>)meta.job_number);
            answer_worker();
            answer_everyone();    // a job without a group has this worker alone
        }
    }
}
