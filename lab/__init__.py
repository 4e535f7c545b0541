"""The lab: two real Swarm hosts, kvm4 and kvm2, on one machine. `python -m lab --help` lists its verbs."""
