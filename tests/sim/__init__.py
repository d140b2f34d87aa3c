"""The whole system in one process, on simulated time, network, clocks and disks; see tests/README.md."""
