#!/bin/sh
# Run a server with the CPU demand of the real one beside it.
# DEMAND_WORKERS threads at DEMAND_LOAD per cent each, and one more at DEMAND_REST per cent.
set -eu
if [ "${DEMAND_WORKERS:-0}" -gt 0 ] && [ "${DEMAND_LOAD:-0}" -gt 0 ]; then
    stress-ng --quiet --cpu "$DEMAND_WORKERS" --cpu-load "$DEMAND_LOAD" --cpu-method int64 &
fi
if [ "${DEMAND_REST:-0}" -gt 0 ]; then
    stress-ng --quiet --cpu 1 --cpu-load "$DEMAND_REST" --cpu-method int64 &
fi
exec "$@"
