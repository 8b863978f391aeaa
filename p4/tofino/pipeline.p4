// Ingress, stage by stage: what is done with a packet in one pass.

#define APPLY_SUM(n) sum_table_##n.apply();

@pa_auto_init_metadata
control SwitchIngress(
    inout headers_t hdr, inout meta_t meta, in ingress_intrinsic_metadata_t ig_intr_md,
    in ingress_intrinsic_metadata_from_parser_t ig_prsr_md, inout ingress_intrinsic_metadata_for_deparser_t ig_dprsr_md,
    inout ingress_intrinsic_metadata_for_tm_t ig_tm_md
) {
    Counter<bit<64>, bit<9>>(COUNTER_ROWS, CounterType_t.PACKETS_AND_BYTES) packets_received;
    // How packets end, all in one: 512 * outcome + row. A counter of its own for each takes a stage for every four.
    Counter<bit<64>, bit<14>>(32 * 512, CounterType_t.PACKETS) outcomes;
#include "membership.p4"
#include "copies.p4"
#include "sums.p4"

    // Where the packet goes. Once more round:
    action go_round() {
        ig_tm_md.ucast_egress_port = RECIRCULATION;
    }

    action next_part(bit<2> part) {
        go_round();
        hdr.pass.part = part;
        hdr.low.setInvalid();
        hdr.high.setInvalid();
    }

    // Without elements by its lengths, so that the parser takes none of what comes after the header.
    action gather(bit<1> everyone, bit<1> asked) {
        go_round();
        hdr.pass.harvest = 1;
        hdr.pass.part = LAST_PART;
        hdr.pass.high = 0;
        hdr.pass.everyone = everyone;
        hdr.pass.asked = asked;
        hdr.udp.length = BARE;
        hdr.ipv4.total_len = IPV4_BYTES + BARE;
        hdr.low.setInvalid();
    }

    action gather_elements(bit<1> everyone, bit<1> asked) {
        gather(everyone, asked);
        hdr.high.setValid();
    }

    action gather_none(bit<1> everyone, bit<1> asked) {
        gather(everyone, asked);
        hdr.high.setInvalid();
    }

    action grow(bit<2> part, bit<1> high) {
        go_round();
        hdr.low.setValid();
        hdr.pass.part = part;
        hdr.pass.high = high;
    }

    action pass_by(bit<2> part, bit<1> high) {
        go_round();
        hdr.pass.part = part;
        hdr.pass.high = high;
    }

    // Or to its sender, or to all.
    action answer() {
        hdr.answer.setValid();
        hdr.answer.job_number = meta.job_number;
        hdr.answer.instance = meta.instance;
        hdr.pass.setInvalid();
        ig_tm_md.bypass_egress = 0;
    }

    action answer_sender() {
        answer();
        ig_tm_md.ucast_egress_port = hdr.pass.port;
    }

    action answer_everyone() {
        answer();
        ig_tm_md.mcast_grp_a = meta.multicast_group;
    }

    action answer_question(bit<8> come) {
        answer_sender();
        hdr.switchml.e0 = come;
    }

    action send_bare(msg_type_t msg_type, outcome_t outcome) {
        hdr.switchml.msg_type = msg_type;
        meta.outcome = outcome;
    }

    action refuse() {
        ig_dprsr_md.drop_ctl = 1;
        meta.outcome = WRONG_SIZE;
    }

    action turn_size() {
        hdr.switchml.size = hdr.switchml.size ^ ASKED;
    }

    action send_sums(outcome_t outcome) {
        meta.outcome = outcome;
        hdr.switchml.msg_type = MSG_SUM;
        hdr.low.setValid();
        hdr.udp.length = FULL;
        hdr.ipv4.total_len = IPV4_BYTES + FULL;
    }

    // Stage 4
    table way_table {
        key = {
            hdr.pass.harvest: ternary;
            hdr.pass.part: ternary;
            hdr.pass.high: ternary;
            meta.asks: ternary;
            meta.last: ternary;
            meta.brings: ternary;
            meta.verdict: ternary;
            meta.chunk_kind: ternary;
        }
        actions = { next_part; gather_elements; gather_none; grow; pass_by; answer_question; NoAction; drop; }
        default_action = drop();
        const entries = {
            // Elements are added.
            (0, _, _, 0, 0, _, REFUSED, _): drop();
#if ELEMENTS == 256
            (0, 0, _, 0, 0, _, _, _): next_part(1);
            (0, 1, _, 0, 0, _, _, _): next_part(2);
            (0, 2, _, 0, 0, _, _, _): next_part(3);
#endif
            (0, _, _, 0, 1, 1, COMPLETE, _): gather_elements(1, 0);
            (0, _, _, 0, 1, 0, COMPLETE, 2 &&& 2): gather_elements(1, 0);
            (0, _, _, 0, 1, 0, COMPLETE, _): gather_none(1, 0);
            (0, _, _, 0, 1, _, REPEATED, 2 &&& 2): gather_elements(0, 0);
            (0, _, _, 0, 1, _, REPEATED, _): gather_none(0, 0);
            (0, _, _, 1, _, _, REPEATED, 2 &&& 2): gather_elements(0, 1);
            (0, _, _, 1, _, _, REPEATED, _): gather_none(0, 1);
            (0, _, _, 1, _, _, KNOWN, _): answer_question(1);
            (0, _, _, 1, _, _, UNSEEN, _): answer_question(0);
            // A result is gathered, unless the chunk's packets were of kinds that do not go together.
#if ELEMENTS == 256
            (1, 3, 0, _, _, _, _, KIND_ELEMENTS): grow(2, 1);
            (1, 2, 1, _, _, _, _, KIND_ELEMENTS): grow(2, 0);
            (1, 2, 0, _, _, _, _, KIND_ELEMENTS): grow(1, 1);
            (1, 1, 1, _, _, _, _, KIND_ELEMENTS): grow(1, 0);
            (1, 1, 0, _, _, _, _, KIND_ELEMENTS): grow(0, 1);
            (1, 0, 1, _, _, _, _, KIND_ELEMENTS): grow(0, 0);
            (1, 3, 0, _, _, _, _, _): pass_by(2, 0);
            (1, 2, 0, _, _, _, _, _): pass_by(1, 0);
            (1, 1, 0, _, _, _, _, _): pass_by(0, 0);
#endif
        }
        size = 32;
    }

    // The last pass of a result. Packets of kinds that do not go together have none.
    table answer_table {
        key = {
            meta.chunk_kind: exact;
            hdr.pass.everyone: exact;
        }
        actions = { send_sums; send_bare; refuse; }
        default_action = refuse();
        const entries = {
            (KIND_ELEMENTS, 0): send_sums(RETRANSMITTED);
            (KIND_ELEMENTS, 1): send_sums(COMPLETED);
            (KIND_ABSENT, 0): send_bare(MSG_ABSENT, RETRANSMITTED);
            (KIND_ABSENT, 1): send_bare(MSG_ABSENT, COMPLETED);
            (KIND_EXPONENTS, 0): send_bare(MSG_EXPONENTS, RETRANSMITTED);
            (KIND_EXPONENTS, 1): send_bare(MSG_EXPONENTS, COMPLETED);
        }
        size = 8;
    }

    // Why it ends, for the counters.
    action ends(outcome_t outcome) {
        meta.outcome = outcome;
    }

    table outcome_table {
        key = {
            meta.sender_known: ternary;
            meta.header_fault: ternary;
            meta.member: ternary;
            meta.reachable: ternary;
            meta.probes: ternary;
            meta.verdict: ternary;
            meta.last: ternary;
            meta.asks: ternary;
            meta.outside: ternary;
            meta.misplaced: ternary;
            meta.turn: ternary;
            hdr.switchml.version: ternary;
        }
        actions = { ends; }
        default_action = ends(GOES_ON);
        const entries = {
            (0, _, _, _, _, _, _, _, _, _, _, _): ends(UNKNOWN_SENDER);
            (_, TRUNCATED, _, _, _, _, _, _, _, _, _, _): ends(TRUNCATED);
            (_, BAD_HEADER, _, _, _, _, _, _, _, _, _, _): ends(BAD_HEADER);
            (_, _, 0, _, _, _, _, _, _, _, _, _): ends(WRONG_JOB);
            (_, _, _, 0, _, _, _, _, _, _, _, _): ends(UNREACHABLE);
            (_, WRONG_SIZE, _, _, _, _, _, _, _, _, _, _): ends(WRONG_SIZE);
            (_, _, _, _, _, REFUSED, _, _, 0, 0 &&& 0x7FFF, 0, 0): ends(STALE);
            (_, _, _, _, _, REFUSED, _, _, 0, 0 &&& 0x7FFF, 0, 1): ends(WRONG_VERSION);
            (_, _, _, _, _, REFUSED, _, _, 0, 0 &&& 0x7FFF, _, 1): ends(STALE);
            (_, _, _, _, _, REFUSED, _, _, 0, _, _, _): ends(WRONG_VERSION);
            (_, _, _, _, _, REFUSED, _, _, _, _, _, _): ends(WRONG_SLOT);
            (_, _, _, _, _, KNOWN, 1, 0, _, _, _, _): ends(DUPLICATE);
            (_, _, _, _, _, KNOWN, 1, 1, _, _, _, _): ends(ASKED_ABOUT);
            (_, _, _, _, _, UNSEEN, _, _, _, _, _, _): ends(ASKED_ABOUT);
        }
        size = 16;
    }

    action check_slot() {
        meta.misplaced = meta.expected_slot ^ meta.place;
    }

    apply {
        ig_tm_md.bypass_egress = 1;                                // answers alone go through egress
        if (meta.first_pass == 1) {
            hdr.pass.port = ig_intr_md.ingress_port;
            station.apply();
        }

        // For others: forward. For the switch itself: ARP and SwitchML.
        if (!own_address.apply().hit) {
            forward.apply();
            hdr.pass.setInvalid();
        } else if (hdr.arp.isValid()) {
            if (hdr.arp.operation == 1) {
                answer_arp();
            } else {
                drop();
            }
            hdr.pass.setInvalid();
        } else if (meta.first_pass == 1 && meta.checksum_error) {  // what goes round is not summed anew
            drop();
            meta.outcome = BAD_CHECKSUM;
        } else if (!hdr.switchml.isValid()) {
            drop();
            meta.outcome = NOT_SERVED;
        } else {
            // Stages 0 to 3
            sender_table.apply();
            header_table.apply();
            job_table.apply();
            check_slot();
            place_table.apply();
            worker_port.apply();
            copy_table.apply();
            e0_table.apply();
            e1_table.apply();
            kind_table.apply();
            verdict_table.apply();

            // From stage 4 on: sums, and at the same time where the packet goes
            EACH_PAIR(APPLY_SUM)
            if (meta.member == 1 && hdr.pass.harvest == 1 && meta.last_half == 1) {
                answer_table.apply();
                if (hdr.pass.asked == 1) {
                    turn_size();
                }
                if (hdr.pass.everyone == 1 && meta.alone == 0) {
                    answer_everyone();
                } else {
                    answer_sender();
                }
            } else if (meta.probes == 1 && meta.member == 1 && meta.reachable == 1) {
                answer_sender();
                meta.outcome = PROBED;
            } else {
                way_table.apply();
                if (hdr.pass.harvest == 0) {
                    outcome_table.apply();
                }
                if (meta.member == 1 && meta.reachable == 0 && meta.header_fault == 0) {
                    ig_dprsr_md.digest_type = TO_SENDER_DIGEST;
                }
            }
        }

        if (meta.first_pass == 1 && hdr.switchml.isValid()) packets_received.count(meta.row);
        if (meta.outcome != GOES_ON) { outcomes.count(meta.outcome ++ meta.row); }
    }
}
