#!/usr/bin/env bash
# One node's share of a run over several: start this on every node, with the same arguments.
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 ./torchrun_node.sh train.py --epochs 3
#
# NODES         number of nodes
# NODE_RANK     this node's number, from 0
# MASTER_ADDR   address of node 0 that all nodes reach
# MASTER_PORT   a free port there (29500)
# WORKERS       workers on this node (1)
# SWITCHML_SWITCH, SWITCHML_TOKEN   a running switch (read by rank 0, which tells the others); without it each node starts one,
#               at its address towards MASTER_ADDR
set -euo pipefail

: "${NODES:?number of nodes}" "${NODE_RANK:?number of this node, from 0}" "${MASTER_ADDR:?address of node 0}"

exec "${PYTHON:-python3}" -m torch.distributed.run \
    --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "${WORKERS:-1}" \
    --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" \
    "$@"
